"""Models whose probabilities are known, for the tests of tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pofx.model import Autoregressive, ImageModel, Objective, Steps
from pofx.space import ImageSpace
from pofx.views import View

SPACE = ImageSpace(1, 2, 2, levels=2)


class Toy(ImageModel):
    """Nothing but a shape, and the probability p of a one."""

    family: ClassVar = ("toy",)
    paper: ClassVar = "none"

    def __init__(self, space: ImageSpace = SPACE, given: View | None = None, p: float = 0.25) -> None:
        super().__init__(space, given)
        self.p = p
        self.weight = nn.Parameter(torch.tensor(p, dtype=torch.double))

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None):
        return cls(space, given)

    def objectives(self) -> Sequence[Objective]:
        return []

    def bernoulli(self, x: Tensor) -> Tensor:
        """Independent sub-pixels, P(1) = p: log p(x), `(n,)`."""
        ones = x.flatten(1).double().sum(1)
        return ones * math.log(self.p) + (self.space.dims - ones) * math.log1p(-self.p)


class Coins(Toy, Autoregressive):
    """Independent coins: all is in closed form, and nothing but `begin` says so (the default `predictive` is used)."""

    def conditional_log_prob(self, x: Tensor, given: Tensor | None) -> Tensor:
        return torch.tensor([math.log1p(-self.p), math.log(self.p)], dtype=torch.double)[x.long()]

    def order(self) -> list[Tensor]:
        return list(torch.arange(self.space.dims).reshape(-1, 1))

    def begin(self, n: int, given: Any = None) -> Steps:
        return CoinSteps(self, n)


class CoinSteps(Steps):
    def __init__(self, model: Coins, n: int) -> None:
        self.table = torch.tensor([1 - model.p, model.p], dtype=torch.double).log().expand(n, 1, 2)

    def distribution(self) -> Tensor:
        return self.table

    def fix(self, values: Tensor) -> None:
        pass
