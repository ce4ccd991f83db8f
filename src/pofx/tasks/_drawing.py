"""One image while it is drawn, some steps at a time, with the entropy of what each sub-pixel was drawn from: for whoever wants to look, stop and change.

It is drawn as `sample` draws it: step k fixes the k-th group of `order()` that has an unknown sub-pixel.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pofx.errors import InputError
from pofx.model import Autoregressive, ImageModel, evaluating, inverse_cdf, known_rows, one_thread, require
from pofx.noise import Noise
from pofx.tasks.sample import adjustment


class Drawing:
    """An image that is being drawn.

    Args:
        given: the view's value, `(1, …)`, where the model is conditional.
        seed, number: image `number` of `seed`, as `sample` draws it.
        kept: bool `(C, H, W)` and uint8 `(C, H, W)`: sub-pixels that are fixed already, which must come before the others in the model's order.

    Attributes:
        x: uint8 `(C, H, W)`, 0 where nothing is yet.
        entropy: `(C, H, W)` float32 nats, NaN where nothing was read.
        fixed: bool `(C, H, W)`.
        step, steps: how many steps were made, and will be.

    Raises:
        CapabilityError: the model has no steps.
        InputError: a kept sub-pixel comes after one that is not.

    >>> from pofx.models.autoregressive.pixelcnn import PixelCNN
    >>> from pofx.space import ImageSpace
    >>> model = PixelCNN.small(ImageSpace(1, 3, 3, levels=2))
    >>> drawing = Drawing(model)
    >>> drawing.advance(4), drawing.advance(100), bool((drawing.x == model.sample(1)[0]).all())
    (4, 9, True)
    """

    def __init__(
        self,
        model: ImageModel,
        given: Any = None,
        *,
        seed: int = 0,
        number: int = 0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        kept: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.model = require(model, Autoregressive, to="be watched pixel by pixel")
        self.adjust = adjustment(temperature, top_p)
        space = self.space = model.space
        value = self.model.check_given(given, 1)
        self.groups = [group.cpu() for group in self.model.order()]
        fixed, x = torch.zeros(space.dims, dtype=torch.bool), torch.zeros(space.dims, dtype=torch.long)
        view = None if value is None or model.given is None else model.given.known(space, value)
        if view is not None and model.given is not None and value is not None:
            fixed = view.reshape(-1, space.dims)[0].cpu().clone()
            x = torch.where(fixed, model.given.fill(value, space).flatten().long().cpu(), x)
        if kept is not None:
            x = torch.where(kept[0].flatten() & ~fixed, kept[1].flatten().long(), x)
            fixed = fixed | kept[0].flatten()
        self._check(fixed, None if view is None else view.reshape(-1, space.dims)[0].cpu())
        self._fixed, self._x, self._entropy = fixed, x, torch.full((space.dims,), math.nan)
        self.uniforms = Noise(seed, torch.tensor([number])).uniform("x", space.dims)[0]
        self.step, self.steps, self._group = 0, sum(not bool(fixed[group].all()) for group in self.groups), 0
        rows = known_rows(fixed[None], space)
        with torch.inference_mode(), evaluating(self.model), one_thread():
            self._steps = self.model.begin(1, value)
            if rows:
                self._steps.fill(x.to(self.model.device).reshape(1, *space.shape), rows)

    def _check(self, fixed: Tensor, view: Tensor | None) -> None:
        own = fixed if view is None else fixed | view
        open_yet = False
        for group in self.groups:
            here = own[group] if view is None else own[group] & ~view[group]
            if open_yet and bool(here.any()):
                raise InputError("What is kept must come before what is drawn: choose a pixel that is drawn already.")
            open_yet = open_yet or not bool(own[group].all())

    @property
    def x(self) -> Tensor:
        return self._x.to(torch.uint8).reshape(self.space.shape)

    @property
    def entropy(self) -> Tensor:
        return self._entropy.reshape(self.space.shape)

    @property
    def fixed(self) -> Tensor:
        return self._fixed.reshape(self.space.shape)

    def advance(self, count: int) -> int:
        """Make up to `count` steps more; the steps that are made by now."""
        model, last = self.model, min(self.step + count, self.steps)
        with torch.inference_mode(), evaluating(model), one_thread():
            while self.step < last:
                group = self.groups[self._group]
                new = ~self._fixed[group]
                if bool(new.any()):
                    log_prob = self._steps.distribution().double()
                    u = self.uniforms[group].to(model.device)[None]
                    drawn = self._steps.draw(u) if self.adjust is None else inverse_cdf(self.adjust(log_prob), u)
                    log_prob = log_prob if self.adjust is None else self.adjust(log_prob)
                    entropy = torch.special.entr(log_prob.softmax(-1)).sum(-1).float().cpu()[0]
                    self._x[group[new]] = drawn.cpu()[0][new]
                    self._entropy[group[new]] = entropy[new]
                    self._fixed[group] = True
                    self.step += 1
                self._steps.fix(self._x[group].to(model.device)[None])
                self._group += 1
        return self.step
