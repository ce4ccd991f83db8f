"""Fully connected layers that respect an order (Germain et al. 2015, §3): a stack of them is autoregressive.

Sub-pixels have degrees 1 … D in order, hidden units degrees 1 … D−1. A hidden unit of degree m sees inputs and units of degree ≤ m,
the output for sub-pixel i those of degree < i. Units are kept sorted by degree, so that what is complete after i sub-pixels is a prefix:
a step computes the units of one degree, each once, and a whole image costs the multiply-adds of one full pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from pofx.likelihoods import Likelihood, PixelDistribution, normalised
from pofx.model import Batch, Context, CountingSteps, Objective, OptimizerSpec, Predictive, RangeCoded
from pofx.nn import conditioning
from pofx.nn.activations import relu
from pofx.nn.linear import linear
from pofx.nn.raster import raster
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
        return linear(x, self.weight * self.mask, self.bias)

    def units(self, degree: int) -> slice:
        """Which outputs have this degree."""
        first, last = torch.searchsorted(self.outputs, torch.tensor([degree, degree + 1])).tolist()
        return slice(first, last)

    def part(self, x: Tensor, degree: int) -> Tensor:
        """The outputs of one degree, from a prefix of inputs that is complete: `(n, k)`."""
        units = self.units(degree)
        seen = int(torch.searchsorted(self.inputs, degree + (0 if self.strict else 1)))
        return linear(x[:, :seen], self.weight[units, :seen], self.bias[units])


class Hidden(nn.Module):
    """ReLU of an ordered layer and what the context adds."""

    def __init__(self, inputs: Tensor, outputs: Tensor, context: conditioning.Context) -> None:
        super().__init__()
        self.linear = OrderedLinear(inputs, outputs, strict=False)
        self.given = conditioning.Dense(context, len(outputs))

    def forward(self, h: Tensor, context: Tensor | None) -> Tensor:
        return relu(self.linear(h) + self.given(context))


class OrderedNet(nn.Module):
    """ReLU layers of the given widths over sub-pixels in order, then `outputs` numbers per sub-pixel."""

    def __init__(self, space: ImageSpace, hidden: Sequence[int], outputs: int, context: conditioning.Context) -> None:
        super().__init__()
        degrees = [torch.arange(space.dims) + 1, *(hidden_degrees(units, space.dims) for units in hidden)]
        self.layers = nn.ModuleList(Hidden(a, b, context) for a, b in pairwise(degrees))
        self.out = OrderedLinear(degrees[-1], (torch.arange(space.dims) + 1).repeat_interleave(outputs), strict=True)
        self.out_given = conditioning.Dense(context, space.dims * outputs)
        self.outputs = outputs

    def hidden(self, x: Tensor, context: Tensor | None, depth: int | None = None) -> Tensor:
        """`(n, D)` in order → the units of the last layer, or after `depth` layers."""
        for layer in self.layers[:depth]:
            x = layer(x, context)
        return x

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        """`(n, D)` in order → `(n, outputs, D)`."""
        y = self.out(self.hidden(x, context)) + self.out_given(context)
        return y.reshape(x.shape[0], -1, self.outputs).transpose(1, 2)


class OrderedModel(RangeCoded):
    """What models of this kind share: the objective, the order, the full pass and its steps. A subclass sets these attributes."""

    net: OrderedNet
    head: Likelihood  # of one sub-pixel
    context: conditioning.Context
    lr: float

    def objectives(self) -> Sequence[Objective]:
        return [Objective("nll", self, self._loss, optimizer=OptimizerSpec("AdamW", lr=self.lr, betas=(0.9, 0.99)))]

    def _loss(self, batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        return self.nll(self.conditional_log_prob(batch.x, batch.given), batch.given)

    def conditional_log_prob(self, x: Tensor, given: Tensor | None) -> Tensor:
        pixels, ordered = self._pixels(x, given)
        return self._places(pixels.log_prob(ordered)[:, 0])

    def predictive(self, x: Tensor, given: Tensor | None) -> Predictive:
        pixels, ordered = self._pixels(x, given)
        found = (pixels.log_prob(ordered), *pixels.surprise(ordered))
        return Predictive(*(self._places(each[:, 0]) for each in found)).without(self.known(given))

    def intervals(self, x: Tensor, ends: Callable[[Tensor], Tensor]) -> Tensor:
        pixels, ordered = self._pixels(x, None)
        return self._places(pixels.cumulative(0, ordered[:, :0], ends(ordered[:, 0].long())))

    def proof(self) -> None:
        self._pixels(torch.zeros(1, *self.space.shape, dtype=torch.uint8), None)

    def _pixels(self, x: Tensor, given: Tensor | None) -> tuple[PixelDistribution, Tensor]:
        """p(x_i | x_<i) and x itself, sub-pixels in order: `(n, 1, D)`."""
        ordered = x.permute(0, 2, 3, 1).flatten(1)
        return self.head(self.net(normalised(ordered, self.space.levels, self.dtype), self.context(given))), ordered[:, None]

    def _places(self, ordered: Tensor) -> Tensor:
        """`(n, D, …)` in order → `(n, C, H, W, …)`."""
        c, h, w = self.space.shape
        return ordered.unflatten(1, (h, w, c)).movedim(3, 1)

    def order(self) -> list[Tensor]:
        return raster(self.space)

    def begin(self, n: int, given=None) -> OrderedSteps:
        return OrderedSteps(self, n, self.check_given(given, n))


class OrderedSteps(CountingSteps):
    """After i sub-pixels, the hidden units of degree i are computed, and no other."""

    def __init__(self, model: OrderedModel, n: int, given: Tensor | None) -> None:
        self.model, self.out = model, model.net.out
        context = model.context(given)
        self.x = torch.zeros(n, model.space.dims, dtype=model.dtype, device=model.device)
        self.layers = [layer for layer in model.net.layers if isinstance(layer, Hidden)]
        self.hidden = [self.x.new_zeros(n, len(layer.linear.outputs)) for layer in self.layers]
        self.added = [layer.given(context) for layer in self.layers]
        self.out_added = model.net.out_given(context)
        self.position = 0

    def _pixels(self) -> tuple[PixelDistribution, Tensor]:
        """p(x_i | x_<i) of the next sub-pixel, and the earlier channels of it, which has none."""
        degree = self.position + 1
        y = self.out.part(self.hidden[-1] if self.hidden else self.x, degree) + _columns(self.out_added, self.out.units(degree))
        return self.model.head(y), y[:, :0]

    def distribution(self) -> Tensor:
        pixels, earlier = self._pixels()
        return pixels.table(0, earlier)[:, None]

    def cumulative(self, v: Tensor | None = None) -> Tensor:
        pixels, earlier = self._pixels()
        v = torch.arange(self.model.space.levels + 1, device=self.x.device)[None] if v is None else v[:, 0]
        return pixels.cumulative(0, earlier, v)[:, None]

    def fix(self, values: Tensor) -> None:
        self.x[:, self.position] = normalised(values[:, 0], self.model.space.levels, self.model.dtype)
        self.position += 1
        h = self.x
        for layer, added, stored in zip(self.layers, self.added, self.hidden, strict=True):
            units = layer.linear.units(self.position)
            stored[:, units] = relu(layer.linear.part(h, self.position) + _columns(added, units))
            h = stored


def _columns(added: Tensor | float, units: slice) -> Tensor | float:
    return added[:, units] if isinstance(added, Tensor) else added
