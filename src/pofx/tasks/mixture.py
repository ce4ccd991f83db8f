"""The discretized mixture of logistics, bin by bin: a continuous density cut at the edges between levels.

    P(v) = Σ_k π_k [σ((v + ½ − μ_k)/s_k) − σ((v − ½ − μ_k)/s_k)],  open at both ends        (Salimans et al. 2017, eq. 2)

The first bin reaches down to −∞ and the last up to +∞, so that the bins sum to 1 for any mean and scale, also for a mean outside of the levels.
The numbers are those of the head of PixelCNN++ (`likelihoods.LogisticMixturePixels`), of one pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pofx.errors import InputError
from pofx.likelihoods import Likelihood
from pofx.space import ImageSpace

NARROWEST = math.exp(-7) / 2  # times levels − 1: where the head stops a scale
POINTS = 8  # of the density, for each level


@dataclass(frozen=True, eq=False)
class Mixture:
    """
    Attributes:
        p: `(levels,)` float64, the mass of each level.
        components: `(K, levels)`, π_k times the mass under component k: their sum is p.
        at, density: `(m,)`, the mixture's density before it is cut, per level, at places on the scale of levels.
    """

    p: Tensor
    components: Tensor
    at: Tensor
    density: Tensor

    @property
    def total(self) -> float:
        return float(self.p.sum())

    @property
    def mean(self) -> float:
        """Σ v P(v)."""
        return float(self.p @ torch.arange(len(self.p), dtype=torch.double))

    def to_json(self) -> dict[str, Any]:
        return {"sum": self.total, "mean": self.mean, "p": self.p.tolist()}


def mixture(means: Sequence[float], scales: Sequence[float], weights: Sequence[float] = (), *, levels: int = 256) -> Mixture:
    """The bins of a mixture.

    Args:
        means, scales: of each component, on the scale of levels. Below NARROWEST · (levels − 1) a scale is taken to be that.
        weights: of each, above 0; divided by their sum. All alike by default.
        levels: 2 … 256.

    Raises:
        InputError: no component, lengths that differ, a scale or weight that is not above 0, or a number that is not finite.

    >>> found = mixture([2.0, 14.0], [0.5, 3.0], levels=16)
    >>> round(found.total, 12), round(float(found.p[2]), 4)
    (1.0, 0.234)
    """
    k, weights = len(means), list(weights) or [1.0] * len(means)
    if not k or len(scales) != k or len(weights) != k:
        raise InputError(f"A mixture has a mean, a scale and a weight for each component; found {k}, {len(scales)} and {len(weights)}.")
    if not all(math.isfinite(v) for v in (*means, *scales, *weights)) or min(*scales, *weights) <= 0:
        raise InputError("Means must be finite, scales and weights above 0, e.g. mixture([100.0], [8.0])")
    space, half = ImageSpace(1, 1, 1, levels), (levels - 1) / 2
    mean, scale, weight = (torch.tensor(v, dtype=torch.double) for v in (means, scales, weights))
    scale = scale.clamp(min=NARROWEST * (levels - 1))
    log_pi = (weight / weight.sum()).log()

    def bins(log_pi: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        head = Likelihood("logistic-mixture", space, components=len(mean))
        parameters = torch.cat([log_pi, mean / half - 1, (scale / half).log()])[None]
        return head(parameters).table(0, torch.zeros(1, 0)).exp()[0]

    each = torch.stack([bins(torch.zeros(1, dtype=torch.double), mean[i : i + 1], scale[i : i + 1]) for i in range(k)])
    at = torch.linspace(-0.5, levels - 0.5, POINTS * levels + 1, dtype=torch.double)
    z = (at[:, None] - mean) / scale
    density = (log_pi + torch.nn.functional.logsigmoid(z) + torch.nn.functional.logsigmoid(-z) - scale.log()).exp().sum(1)
    return Mixture(bins(log_pi, mean, scale), each * log_pi.exp()[:, None], at, density)
