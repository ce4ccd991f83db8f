"""The part of a model that its features read, to start another model from or to be shared alone.

Which parameters features depend on is asked of autograd: those without any path to them are not read, whatever their values. They stay in the
module, untrained, and out of its state: a file of it holds the encoder and not the decoder.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from pofx.errors import InputError
from pofx.model import Features, ImageModel, Objective, evaluating, require
from pofx.space import ImageSpace
from pofx.views import View


def unread(model: Features, layer: str | None) -> list[str]:
    """Names of the parameters that `model.features(x, layer)` does not depend on."""
    named = dict(model.named_parameters())
    wanted = {name: p.requires_grad for name, p in named.items()}
    for p in named.values():
        p.requires_grad_(True)
    with torch.inference_mode(False), torch.enable_grad(), evaluating(model):
        out = model.features(torch.zeros(1, *model.space.shape, dtype=torch.uint8, device=model.device), layer)
        paths = torch.autograd.grad(out.sum(), list(named.values()), allow_unused=True)
    for name, p in named.items():
        p.requires_grad_(wanted[name])
    return [name for name, path in zip(named, paths, strict=True) if path is None]


class Extract(Features):
    """Features of one layer of a model, and nothing else of it.

    It is always evaluated as the model is: BatchNorm by its stored statistics and without dropout, so that an image's features do not depend
    on its batch, in training too.

    Args:
        space: what images may be.
        given: must be None.
        part: a model with features; it is copied.
        layer: which; by default the model's own.

    Raises:
        InputError: images of another space; a conditional model; there is no such layer.
        CapabilityError: the model has no features.
    """

    family: ClassVar = ("composed",)
    paper: ClassVar = "none"

    def __init__(self, space: ImageSpace, given: View | None = None, *, part: ImageModel, layer: str | None = None) -> None:
        super().__init__(space, given)
        body = require(part, Features, to="give features")
        if body.space != space:
            raise InputError(
                f"The {type(body).__name__} is a model of {body.space}, and the images are {space}. Both must be of the same size."
            )
        body.layer_index(layer)
        self.part, self.layer = copy.deepcopy(body), layer
        self._unread = unread(self.part, layer)
        for name in self._unread:
            self.part.get_parameter(name).requires_grad_(False)
        self._register_state_dict_hook(_leave_out)

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        from pofx import catalog

        return cls(space, given, part=catalog.get("classifier").small(space))

    def objectives(self) -> Sequence[Objective]:
        """None: it was learned before."""
        return []

    @final
    @property
    def read(self) -> list[Tensor]:
        """The parameters that features depend on."""
        return [p for name, p in self.part.named_parameters() if name not in self._unread]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in self._unread:
            state_dict.setdefault(f"{prefix}part.{name}", self.part.get_parameter(name).detach())
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @property
    def feature_layers(self) -> Sequence[str]:
        return [self.layer or "default"]

    def features(self, x: Tensor, layer: str | None = None) -> Tensor:
        """`(n, d)`, differentiable in the parameters."""
        self.layer_index(layer)
        with evaluating(self.part):
            return self.part.features(x, self.layer)


def _leave_out(module: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name in module._unread:
        state.pop(f"{prefix}part.{name}", None)
