"""Activations whose value does not depend on where an element lies.

PyTorch computes some functions of a tensor in vectors and its last few elements one by one, with another exponential; which elements
are last depends on the batch. In float64, where what is said of an image is promised to be identical in any batch, they are composed of
functions that have one form (exp, expm1, tanh). Elsewhere they are PyTorch's own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sigmoid(x: Tensor) -> Tensor:
    """σ(x) = 1 / (1 + e^−x)."""
    return 1 / (1 + torch.exp(-x)) if x.dtype == torch.float64 else torch.sigmoid(x)


def silu(x: Tensor) -> Tensor:
    """x σ(x)."""
    return x * sigmoid(x) if x.dtype == torch.float64 else F.silu(x)


def elu(x: Tensor) -> Tensor:
    """x where positive, e^x − 1 elsewhere."""
    return torch.where(x > 0, x, torch.expm1(x.clamp(max=0))) if x.dtype == torch.float64 else F.elu(x)
