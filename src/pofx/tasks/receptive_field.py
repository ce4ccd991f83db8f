"""What a sub-pixel can see: the exact pattern of ∂ log p(x_i | x_<i) / ∂ x, in float64, where "not seen" is a gradient of exactly 0.

The map belongs to the architecture, not to learned weights: dense random weights take the place of the model's own, and the patterns of
several draws are joined, since a ReLU that is off may hide a path in one of them.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pofx.errors import InputError
from pofx.model import Autoregressive, ImageModel, evaluating, require


@dataclass(frozen=True)
class ReceptiveField:
    """
    Attributes:
        seen: bool `(C, H, W)`, the sub-pixels that the asked one depends on, itself not counted.
        past: bool `(C, H, W)`, those that come before its group in `order()`.
        channel, row, column: which one was asked.
    """

    seen: Tensor
    past: Tensor
    channel: int
    row: int
    column: int

    @property
    def blind(self) -> Tensor:
        """Past sub-pixels that are not seen, bool `(C, H, W)`."""
        return self.past & ~self.seen


def before(model: ImageModel, row: int, column: int, channel: int) -> tuple[Autoregressive, int, Tensor]:
    """The model, the flat number of a sub-pixel into (C, H, W), and which come before its group in `order()`, bool `(dims,)`.

    Raises:
        CapabilityError: no autoregressive model.
        InputError: there is no such sub-pixel, or the model conditions on a view.
    """
    asked = require(model, Autoregressive, to="show what a pixel sees")
    c, h, w = model.space.shape
    if not (0 <= channel < c and 0 <= row < h and 0 <= column < w):
        raise InputError(f"There is no sub-pixel (channel {channel}, row {row}, column {column}) in images of {c}×{h}×{w}.")
    if model.given is not None:
        raise InputError("What a pixel sees is shown for models of p(x); make this one without given=.")
    flat = (channel * h + row) * w + column
    past = torch.zeros(model.space.dims, dtype=torch.bool)
    for group in asked.order():
        if bool((group == flat).any()):
            break
        past[group] = True
    return asked, flat, past


def receptive_field(model: ImageModel, row: int, column: int, channel: int = 0, *, draws: int = 3) -> ReceptiveField:
    """The receptive field of one sub-pixel.

    Args:
        draws: of random weights whose patterns are joined.

    Raises:
        CapabilityError: no autoregressive model.
        InputError: there is no such sub-pixel, or the model conditions on a view.

    >>> from pofx.models.autoregressive.fvbn import FVBN
    >>> from pofx.space import ImageSpace
    >>> receptive_field(FVBN(ImageSpace(1, 2, 3, levels=2)), 1, 0).seen.int().tolist()
    [[[1, 1, 1], [0, 0, 0]]]
    """
    asked, flat, past = before(model, row, column, channel)
    c, h, w = model.space.shape
    seen = torch.zeros(model.space.dims, dtype=torch.bool)
    twin = copy.deepcopy(asked).double().cpu()
    for draw in range(draws):
        generator = torch.Generator().manual_seed(draw)
        with torch.no_grad():
            for p in twin.parameters():
                scale = (2 / (math.prod(p.shape[1:]) if p.ndim > 1 else 4)) ** 0.5
                p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.double) * scale)
        x = torch.randint(0, model.space.levels, (1, c, h, w), generator=generator).double().requires_grad_()
        with evaluating(twin), torch.enable_grad():
            term = twin.conditional_log_prob(x, None)[0, channel, row, column]
            seen |= torch.autograd.grad(term, x)[0].flatten() != 0
    seen[flat] = False
    return ReceptiveField(seen.reshape(c, h, w), past.reshape(c, h, w), channel, row, column)
