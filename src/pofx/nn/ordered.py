"""Fully connected layers that respect an order (Germain et al. 2015, §3): a stack of them is autoregressive.

Sub-pixels have degrees 1 … D in order, hidden units degrees 1 … D−1. A hidden unit of degree m sees inputs and units of degree ≤ m,
the output for sub-pixel i those of degree < i. Units are kept sorted by degree, so that what is complete after i sub-pixels is a prefix:
a step computes the units of one degree, each once, and a whole image costs the multiply-adds of one full pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pofx.likelihoods import Likelihood, normalised
from pofx.model import Autoregressive, Steps
from pofx.nn import conditioning
from pofx.nn.masked import raster
from pofx.space import ImageSpace


def hidden_degrees(units: int, dims: int) -> Tensor:
    """Sorted degrees, spread evenly over 1 … dims−1: int64 `(units,)`.

    >>> hidden_degrees(6, 4).tolist()
    [1, 1, 2, 2, 3, 3]
    """
    return torch.arange(units) * max(dims - 1, 1) // units + 1


class OrderedLinear(nn.Module):
    """y = (W ⊙ M) x + b with M fixed by degrees: `(n, in)` → `(n, out)`. Masked weights get no gradient and stay zero."""

    mask: Tensor

    def __init__(self, inputs: Tensor, outputs: Tensor, *, strict: bool) -> None:
        super().__init__()
        self.inputs, self.outputs, self.strict = inputs, outputs, strict
        mask = inputs[None] < outputs[:, None] if strict else inputs[None] <= outputs[:, None]
        self.register_buffer("mask", mask.to(torch.get_default_dtype()), persistent=False)
        scale = mask.sum(1, keepdim=True).clamp(min=1).rsqrt()
        self.weight = nn.Parameter(torch.randn(mask.shape) * scale * mask)
        self.bias = nn.Parameter(torch.zeros(len(outputs)))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)

    def part(self, x: Tensor, degree: int) -> Tensor:
        """The outputs of one degree, from a prefix of inputs that is complete: `(n, k)`."""
        first, last = torch.searchsorted(self.outputs, torch.tensor([degree, degree + 1])).tolist()
        seen = int(torch.searchsorted(self.inputs, degree + (0 if self.strict else 1)))
        return F.linear(x[:, :seen], self.weight[first:last, :seen], self.bias[first:last])


class OrderedNet(nn.Module):
    """ReLU layers of the given widths over sub-pixels in order, then `outputs` numbers per sub-pixel."""

    def __init__(self, space: ImageSpace, hidden: Sequence[int], outputs: int, context: conditioning.Context) -> None:
        super().__init__()
        degrees = [torch.arange(space.dims) + 1, *(hidden_degrees(units, space.dims) for units in hidden)]
        self.layers = nn.ModuleList(OrderedLinear(a, b, strict=False) for a, b in pairwise(degrees))
        self.given = nn.ModuleList(conditioning.Dense(context, units) for units in hidden)
        self.out = OrderedLinear(degrees[-1], (torch.arange(space.dims) + 1).repeat_interleave(outputs), strict=True)
        self.out_given = conditioning.Dense(context, space.dims * outputs)
        self.outputs = outputs

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        """`(n, D)` in order → `(n, outputs, D)`."""
        h = x
        for layer, given in zip(self.layers, self.given, strict=True):
            h = F.relu(layer(h) + given(context))
        y = self.out(h) + self.out_given(context)
        return y.reshape(len(x), -1, self.outputs).transpose(1, 2)


class OrderedModel(Autoregressive):
    """What models of this kind share: the order, the full pass and its steps. A subclass sets `net` and `head`."""

    net: OrderedNet
    head: Likelihood  # of one sub-pixel
    context: conditioning.Context

    def conditional_log_prob(self, x: Tensor, given: Tensor | None) -> Tensor:
        c, h, w = self.space.shape
        ordered = x.permute(0, 2, 3, 1).flatten(1)
        parameters = self.net(normalised(ordered, self.space.levels, self.dtype), self.context(given))
        log_prob = self.head(parameters).log_prob(ordered[:, None])[:, 0]
        return log_prob.reshape(len(x), h, w, c).permute(0, 3, 1, 2)

    def order(self) -> list[Tensor]:
        return raster(self.space)

    def begin(self, n: int, given=None) -> Steps:
        return OrderedSteps(self, n, self.check_given(given, n))


class OrderedSteps(Steps):
    """After i sub-pixels, the hidden units of degree i are computed, and no other."""

    def __init__(self, model: OrderedModel, n: int, given: Tensor | None) -> None:
        self.model, self.net = model, model.net
        context = model.context(given)
        like = {"dtype": model.dtype, "device": model.device}
        self.x = torch.zeros(n, model.space.dims, **like)
        self.hidden = [torch.zeros(n, len(layer.outputs), **like) for layer in self.net.layers]
        self.added = [given(context) for given in self.net.given]
        self.out_added = self.net.out_given(context)
        self.position = 0

    def distribution(self) -> Tensor:
        k, i = self.net.outputs, self.position
        y = self.net.out.part(self.hidden[-1] if self.hidden else self.x, i + 1)
        if not isinstance(self.out_added, float):
            y = y + self.out_added[:, i * k : (i + 1) * k]
        return self.model.head(y).table(0, y[:, :0])[:, None]

    def fix(self, values: Tensor) -> None:
        self.x[:, self.position] = normalised(values[:, 0], self.model.space.levels, self.model.dtype)
        self.position += 1
        h = self.x
        for layer, added, stored in zip(self.net.layers, self.added, self.hidden, strict=True):
            first, last = torch.searchsorted(layer.outputs, torch.tensor([self.position, self.position + 1])).tolist()
            a = layer.part(h, self.position)
            stored[:, first:last] = F.relu(a if isinstance(added, float) else a + added[:, first:last])
            h = stored
