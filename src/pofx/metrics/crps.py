"""Continuous ranked probability score: how far a distribution of a number is from what came, in the number's own units (Gneiting and Raftery 2007).

    CRPS(F, y) = ∫ (F(v) − 1{y ≤ v})² dv = E|X − y| − ½ E|X − X′|,   X, X′ ~ F independent

Lower is better; of a single value it is the absolute error. Of m draws ½ E|X − X′| is taken over pairs of different draws, so that the estimate is
unbiased for any m ("fair": Ferro 2014, Fricker et al. 2013); over all pairs it would be too large by ½ E|X − X′| / m.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pofx.errors import InputError


def crps(draws: Tensor, truth: Tensor) -> Tensor:
    """The fair estimate from draws `(…, m)` of what came `(…)`: `(…)`, in their units, float64. With m = 1 the absolute error.

    Raises:
        InputError: no draws.

    >>> crps(torch.tensor([[0.0, 2.0]]), torch.tensor([1.0]))
    tensor([0.], dtype=torch.float64)
    """
    m = draws.shape[-1]
    if not m:
        raise InputError("A CRPS needs at least one draw.")
    x, y = draws.double(), truth.double()[..., None]
    error = (x - y).abs().mean(-1)
    if m == 1:
        return error
    # Σ_{i<j} |x_i − x_j| of sorted draws is Σ_i (2i − m + 1) x_(i)
    weight = 2 * torch.arange(m, dtype=torch.double, device=x.device) - m + 1
    return error - (x.sort(-1).values * weight).sum(-1) / (m * (m - 1))


def crps_discrete(log_prob: Tensor, truth: Tensor) -> Tensor:
    """Exactly, of a distribution on the integers 0 … levels−1: log-probabilities `(…, levels)` nats and what came, int64 `(…)` → `(…)`, in levels.

    >>> crps_discrete(torch.tensor([0.5, 0.5]).log(), torch.tensor(0))
    tensor(0.2500, dtype=torch.float64)
    """
    cdf = log_prob.double().exp().cumsum(-1)[..., :-1]
    below = truth[..., None] <= torch.arange(cdf.shape[-1], device=truth.device)
    return (cdf - below.double()).square().sum(-1)


def crps_normal(mean: Tensor, sd: Tensor, truth: Tensor) -> Tensor:
    """Exactly, of N(mean, sd²): σ (w (2Φ(w) − 1) + 2φ(w) − 1/√π), w = (y − μ)/σ (Gneiting and Raftery 2007, eq. 21).

    >>> crps_normal(torch.tensor(0.0), torch.tensor(1.0), torch.tensor(0.0)).round(decimals=4)
    tensor(0.2337, dtype=torch.float64)
    """
    mean, sd, truth = mean.double(), sd.double(), truth.double()
    w = (truth - mean) / sd
    density = torch.exp(-0.5 * w**2) / math.sqrt(2 * math.pi)
    return sd * (w * torch.erf(w / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))
