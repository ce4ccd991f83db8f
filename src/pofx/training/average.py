"""Averaged weights: w̄ ← w̄ + (1 − β)(w − w̄) after every step, which are the weights that a run keeps.

β is given by a half-life in *images*, so that it means the same for any batch size: β = 2^(−batch / half-life).
Early on, β ≤ (1 + t)/(10 + t) at update t: a short run is then not held back by its first weights.
All floating-point parameters and buffers are averaged (batch statistics too); the rest is copied.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from pofx.model import ImageModel


class Average(nn.Module):
    """A second model that follows `model`.

    Args:
        model: the one that trains; must have its final device and dtype when `update` is first called.
        half_life: in images; 0 keeps the last weights instead of a mean.
    """

    def __init__(self, model: ImageModel, half_life: float) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.half_life = half_life
        self.updates = 0
        self._pairs: tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]] | None = None

    def decay(self, images: int) -> float:
        """β of the next update."""
        if self.half_life <= 0:
            return 0.0
        return min(0.5 ** (images / self.half_life), (1 + self.updates) / (10 + self.updates))

    @torch.no_grad()
    def copy_from(self, source: ImageModel) -> None:
        """Start again at the weights of `source`."""
        for mine, theirs in zip(_tensors(self.model), _tensors(source), strict=True):
            mine.copy_(theirs)
        self.updates = 0

    @torch.no_grad()
    def update(self, source: ImageModel, images: int) -> None:
        """One step of `images` images has been made."""
        if self._pairs is None:
            means, fresh, copies, originals = [], [], [], []
            for mine, theirs in zip(_tensors(self.model), _tensors(source), strict=True):
                # A mask of −∞ is constant, but ∞ − ∞ is no number.
                average = mine.is_floating_point() and bool(torch.isfinite(mine).all())
                (means if average else copies).append(mine)
                (fresh if average else originals).append(theirs.detach())
            self._pairs = means, fresh, copies, originals
        means, fresh, copies, originals = self._pairs
        if means:
            torch._foreach_lerp_(means, fresh, 1 - self.decay(images))
        for mine, theirs in zip(copies, originals, strict=True):
            mine.copy_(theirs)
        self.updates += 1


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*(p.detach() for p in model.parameters()), *model.buffers()]
