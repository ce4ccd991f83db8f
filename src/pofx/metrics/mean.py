"""A mean over images with its standard error, and how a mean cost is given in JSON.

    mean = Σ x_i / n,   se = sd / √n   (n−1 in sd)

One number alone has no standard error: NaN, and null in JSON.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Mean:
    """A mean with its standard error; printed with four digits, whatever its unit.

    >>> import torch
    >>> Mean.of(torch.tensor([1.0, 3.0])), str(Mean(1234.56, 7.89)), str(Mean(0.5, math.nan))
    (Mean(mean=2.0, se=1.0), '1235 ± 7.9', '0.5')
    """

    mean: float
    se: float

    @classmethod
    def of(cls, values: Tensor) -> Mean:
        """Of `(n,)`; one value alone has no standard error (NaN)."""
        values = values.double()
        se = float(values.std(correction=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return cls(float(values.mean()), se)

    def __str__(self) -> str:
        return f"{self.mean:.4g}" + ("" if math.isnan(self.se) else f" ± {self.se:.2g}")

    def scaled(self, by: float) -> Mean:
        return Mean(self.mean * by, self.se * by)

    def minus(self, other: Mean) -> Mean:
        """Of two independent means."""
        return Mean(self.mean - other.mean, math.hypot(self.se, other.se))

    def to_json(self) -> dict[str, float | None]:
        return {"mean": self.mean, "se": None if math.isnan(self.se) else self.se}


@dataclass
class Moments:
    """What the mean of numbers that come in pieces is made of (Chan, Golub and LeVeque 1983); equal for equal pieces.

    >>> import torch
    >>> found = Moments()
    >>> for piece in torch.tensor([1.0, 2.0, 3.0, 7.0]).split(3):
    ...     found.add(piece)
    >>> found.mean, Mean.of(torch.tensor([1.0, 2.0, 3.0, 7.0]))
    (Mean(mean=3.25, se=1.3149778198382918), Mean(mean=3.25, se=1.3149778198382918))
    """

    n: int = 0
    middle: float = 0.0
    squares: float = 0.0

    def add(self, values: Tensor) -> None:
        """Numbers `(n,)` more."""
        if not len(values):
            return
        values = values.double()
        n, middle = len(values), float(values.mean())
        apart, total = middle - self.middle, self.n + n
        self.squares += float((values - middle).square().sum()) + apart * apart * self.n * n / total
        self.middle += apart * n / total
        self.n = total

    @property
    def mean(self) -> Mean:
        return Mean(self.middle, math.sqrt(self.squares / (self.n - 1) / self.n) if self.n > 1 else math.nan)


def cost_json(nats: Mean | None, bits_per_dim: Mean | None) -> dict[str, Any]:
    """A mean cost as every verb that measures one gives it: both None where there is no likelihood.

    >>> cost_json(Mean(3.0, 0.5), Mean(2.0, math.nan))
    {'nats': {'mean': 3.0, 'se': 0.5}, 'bits_per_dim': 2.0, 'bits_per_dim_se': None}
    """
    bits = {"mean": None, "se": None} if bits_per_dim is None else bits_per_dim.to_json()
    return {"nats": None if nats is None else nats.to_json(), "bits_per_dim": bits["mean"], "bits_per_dim_se": bits["se"]}
