"""The functions of one number that networks are made of: the one place where they are reached.

In floating point their value does not depend on where an element lies. PyTorch computes some functions of a tensor in vectors and its last
few elements one by one, with another exponential; which elements are last depends on the batch. In float64, where what is said of an image
is promised to be identical in any batch, they are composed of functions that have one form (exp, expm1, tanh). Elsewhere they are PyTorch's own.

Under an integer arithmetic (`integers.py`) they are taken from its tables.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pofx.integers import active


def tanh(x: Tensor, out: Tensor | None = None) -> Tensor:
    """(e^x − e^−x) / (e^x + e^−x)."""
    arithmetic = active()
    if arithmetic is None:
        return torch.tanh(x, out=out)
    found = arithmetic.function("tanh", x)
    return found if out is None else out.copy_(found)


def tanh_(x: Tensor) -> Tensor:
    """The same in place."""
    arithmetic = active()
    return x.tanh_() if arithmetic is None else x.copy_(arithmetic.function("tanh", x))


def sigmoid(x: Tensor) -> Tensor:
    """σ(x) = 1 / (1 + e^−x)."""
    arithmetic = active()
    if arithmetic is not None:
        return arithmetic.sigmoid(x)
    return 1 / (1 + torch.exp(-x)) if x.dtype == torch.float64 else torch.sigmoid(x)


def sigmoid_(x: Tensor) -> Tensor:
    """The same in place."""
    arithmetic = active()
    return x.sigmoid_() if arithmetic is None else x.copy_(arithmetic.sigmoid(x))


def glu(x: Tensor, dim: int) -> Tensor:
    """a σ(b) of the two halves of x."""
    if active() is None:
        return F.glu(x, dim)
    a, b = x.chunk(2, dim)
    return settled(a) * sigmoid(b)


def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    arithmetic = active()
    return F.relu(x) if arithmetic is None else arithmetic.function("relu", x)


def relu_(x: Tensor) -> Tensor:
    """The same in place."""
    arithmetic = active()
    return x.relu_() if arithmetic is None else x.copy_(arithmetic.function("relu", x))


def silu(x: Tensor) -> Tensor:
    """x σ(x)."""
    arithmetic = active()
    if arithmetic is not None:
        return arithmetic.silu(x)
    return x * sigmoid(x) if x.dtype == torch.float64 else F.silu(x)


def exp(x: Tensor) -> Tensor:
    """e^x; in integers for |x| ≤ 8."""
    arithmetic = active()
    return torch.exp(x) if arithmetic is None else arithmetic.function("power", x)


def bounded(x: Tensor, most: float) -> Tensor:
    """x, kept smoothly within ±most."""
    arithmetic = active()
    return most * torch.tanh(x / most) if arithmetic is None else arithmetic.bounded(x, most)


def elu(x: Tensor) -> Tensor:
    """x where positive, e^x − 1 elsewhere."""
    arithmetic = active()
    if arithmetic is not None:
        return arithmetic.function("elu", x)
    return torch.where(x > 0, x, torch.expm1(x.clamp(max=0))) if x.dtype == torch.float64 else F.elu(x)


def elu_(x: Tensor) -> Tensor:
    """The same in place."""
    return F.elu_(x) if active() is None else elu(x)


def settled(x: Tensor) -> Tensor:
    """x itself; in integers to the grid of functions, and no larger than they get: where a number meets a layer or a gate without a function
    before it, so that grids do not become ever finer."""
    arithmetic = active()
    return x if arithmetic is None else arithmetic.function("round", x)


def settled_(x: Tensor) -> Tensor:
    """The same in place."""
    arithmetic = active()
    return x if arithmetic is None else x.copy_(arithmetic.function("round", x))
