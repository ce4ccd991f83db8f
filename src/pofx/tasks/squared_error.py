"""Why a squared error is a likelihood: of a Gaussian around x̂ whose variance is held fixed.

    −log N(x; x̂, σ²I) = ‖x − x̂‖² / 2σ² + D/2 · log 2πσ²

With σ² = ½ the first part is ‖x − x̂‖² itself, and the second a constant of D/2 · log π nats, which no x̂ changes: both have the same gradient and
the same best x̂. What the squared error leaves out is σ; the best one is the mean squared error itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pofx.errors import InputError


@dataclass(frozen=True, eq=False)
class SquaredError:
    """
    Attributes:
        squared: `(n,)` float64, ‖x − x̂‖².
        nats: `(n,)`, −log N(x; x̂, σ²I) by `torch.distributions`, summed pixel by pixel.
        variance: σ².
        constant: D/2 · log 2πσ².
        best_variance: the σ² that makes the mean of `nats` smallest: mean ‖x − x̂‖² / D.
    """

    squared: Tensor
    nats: Tensor
    variance: float
    constant: float
    best_variance: float

    @property
    def off(self) -> float:
        """The largest |nats − (‖x − x̂‖²/2σ² + constant)|: 0 but for rounding."""
        return float((self.nats - self.squared / (2 * self.variance) - self.constant).abs().max())

    def to_json(self) -> dict[str, Any]:
        return {
            "squared_error": float(self.squared.mean()),
            "nats": float(self.nats.mean()),
            "constant": self.constant,
            "difference": float((self.nats - self.squared / (2 * self.variance)).mean()),
            "off": self.off,
            "best_variance": self.best_variance,
        }


def squared_error(x: Tensor, x_hat: Tensor, variance: float = 0.5) -> SquaredError:
    """Both sides of the equation, for images and what was decoded.

    Args:
        x, x_hat: numbers `(n, …)` on one scale, e.g. [0, 1].
        variance: σ², above 0.

    Raises:
        InputError: shapes that differ, or no variance.

    >>> found = squared_error(torch.ones(2, 1, 3, 3), torch.zeros(2, 1, 3, 3))
    >>> found.squared.tolist(), round(found.constant, 4), found.off < 1e-12
    ([9.0, 9.0], 5.1513, True)
    """
    if x.shape != x_hat.shape or not len(x):
        raise InputError(f"x and x̂ must be of one shape (n, …), found {tuple(x.shape)} and {tuple(x_hat.shape)}.")
    if not 0 < variance < math.inf:
        raise InputError(f"variance={variance}: it must be above 0, e.g. 0.5.")
    a, b = x.detach().double().flatten(1), x_hat.detach().double().flatten(1)
    dims = a.shape[1]
    squared = ((a - b) ** 2).sum(1)
    nats = -torch.distributions.Normal(b, math.sqrt(variance)).log_prob(a).sum(1)
    return SquaredError(squared, nats, variance, dims / 2 * math.log(2 * math.pi * variance), float(squared.mean()) / dims)
