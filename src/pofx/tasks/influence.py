"""What a model makes of its receptive field on one image: the Jacobian of one conditional, exact, in float64.

    J_j = ∂ log p(x_i | x_<i) / ∂ x_j        nats for each level of pixel j

`receptive_field` says where a model can look, whatever its weights; this says where these weights did look, at this image. Pixels that do not come
before i have a derivative of exactly 0: the mask, seen from outside.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from pofx.errors import InputError
from pofx.model import ImageModel, evaluating
from pofx.tasks.receptive_field import before


@dataclass(frozen=True, eq=False)
class Influence:
    """
    Attributes:
        jacobian: `(C, H, W)` float64, nats for each level; 0 at the asked sub-pixel itself.
        past: bool `(C, H, W)`, those that come before its group in `order()`.
        log_prob: log p(x_i | x_<i), nats.
        row, column, channel: which one was asked.
    """

    jacobian: Tensor
    past: Tensor
    log_prob: float
    row: int
    column: int
    channel: int

    @property
    def outside(self) -> float:
        """The largest |J| among sub-pixels that do not come before: exactly 0."""
        return float(self.jacobian[~self.past].abs().max()) if bool((~self.past).any()) else 0.0

    @property
    def seen(self) -> Tensor:
        """Where J is not 0, bool `(C, H, W)`."""
        return self.jacobian != 0


def influence(model: ImageModel, x: Tensor, row: int, column: int, channel: int = 0) -> Influence:
    """The Jacobian of log p(x_i | x_<i) by all sub-pixels of an image.

    Args:
        x: uint8 `(1, C, H, W)`.

    Raises:
        CapabilityError: no autoregressive model.
        InputError: not one image, there is no such sub-pixel, or the model conditions on a view.

    >>> from pofx.models.autoregressive.made import MADE
    >>> from pofx.space import ImageSpace
    >>> model = MADE.small(ImageSpace(1, 3, 3, levels=2))
    >>> found = influence(model, model.sample(1), 1, 1)
    >>> found.outside, int(found.past.sum())
    (0.0, 4)
    """
    asked, _, past = before(model, row, column, channel)
    if len(x) != 1:
        raise InputError(f"One image at a time, found {len(x)}. Give e.g. x[:1].")
    twin = copy.deepcopy(asked).double().cpu()
    at = model.space.check(x).cpu().double().requires_grad_()
    with evaluating(twin), torch.enable_grad():
        term = twin.conditional_log_prob(at, None)[0, channel, row, column]
        (jacobian,) = torch.autograd.grad(term, at)
    jacobian[0, channel, row, column] = 0
    return Influence(jacobian[0], past.reshape(model.space.shape), float(term.detach()), row, column, channel)
