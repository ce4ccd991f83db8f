"""Precision and recall of samples (Kynkäänniemi et al. 2019, "Improved Precision and Recall Metric", eqs. 1–2).

The manifold of a set Φ is the union of balls around its points, each with the radius to its k-th nearest other point:

    f(φ, Φ) = 1 if |φ − φ'| ≤ |φ' − NN_k(φ', Φ)| for some φ' in Φ
    precision = mean over samples of f(φ_g, Φ_real)        how many samples look real
    recall    = mean over real images of f(φ_r, Φ_sample)  how much of reality is reached

Density and coverage (Naeem et al. 2020) from the same balls: density counts the balls a sample lies in, over k; coverage is the
share of real images whose ball holds a sample. Both are less moved by one far outlier with a huge ball.

None of the four is 1 for perfect samples: other real images do not fill the balls of the reference either. So each is best read as a share
of what training images get, as many, against the same reference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pofx.errors import InputError


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares in [0, 1] (density may exceed 1), with the protocol: k, and n on either side."""

    precision: float
    recall: float
    density: float
    coverage: float
    k: int
    n: int
    n_reference: int

    @property
    def measures(self) -> dict[str, float]:
        """All four by name, in the order in which they are shown."""
        return {"precision": self.precision, "recall": self.recall, "density": self.density, "coverage": self.coverage}

    def shares(self, real: PrecisionRecall) -> dict[str, float]:
        """Each measure over what real images get; NaN where they get 0.

        >>> half, whole = PrecisionRecall(0.4, 0.3, 0.5, 0.2, 3, 9, 9), PrecisionRecall(0.8, 0.6, 1.0, 0.4, 3, 9, 9)
        >>> half.shares(whole)
        {'precision': 0.5, 'recall': 0.5, 'density': 0.5, 'coverage': 0.5}
        """
        of = real.measures
        return {name: own / of[name] if of[name] > 0 else math.nan for name, own in self.measures.items()}


def radii(points: Tensor, k: int) -> Tensor:
    """Distance of each point to its k-th nearest other point: `(n, d)` → `(n,)` float64."""
    parts = [torch.cdist(points[i : i + 512], points, compute_mode="donot_use_mm_for_euclid_dist") for i in range(0, len(points), 512)]
    return torch.cat([p.kthvalue(k + 1, dim=1).values for p in parts])  # the nearest is the point itself


def precision_recall(features: Tensor, reference: Tensor, k: int = 3) -> PrecisionRecall:
    """Precision, recall, density, coverage of samples `(n, d)` against real images `(m, d)`.

    Raises:
        InputError: not more than k images on a side.

    >>> x = torch.arange(8.0)[:, None]
    >>> result = precision_recall(x[:4], x, k=1)
    >>> result.precision, result.recall
    (1.0, 0.625)
    """
    n, m = len(features), len(reference)
    if min(n, m) <= k:
        raise InputError(f"Precision and recall with k={k} need more than {k} images on each side, found {n} and {m}.")
    a, b = features.double(), reference.double()
    radius_a, radius_b = radii(a, k), radii(b, k)
    inside_b, covers_a = torch.zeros(n), torch.zeros(m, dtype=torch.bool)
    reached = torch.zeros(m, dtype=torch.bool)
    for i in range(0, n, 512):
        d = torch.cdist(a[i : i + 512], b, compute_mode="donot_use_mm_for_euclid_dist")  # (part, m)
        inside = d <= radius_b
        inside_b[i : i + 512] = inside.sum(1).float().cpu()
        reached |= inside.any(0).cpu()
        covers_a |= (d <= radius_a[i : i + 512, None]).any(0).cpu()
    return PrecisionRecall(
        precision=float((inside_b > 0).double().mean()),
        recall=float(covers_a.double().mean()),
        density=float(inside_b.double().mean() / k),
        coverage=float(reached.double().mean()),
        k=k,
        n=n,
        n_reference=m,
    )
