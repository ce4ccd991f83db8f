"""Fréchet distance of two Gaussians fitted to feature vectors (Dowson and Landau 1982; for images Heusel et al. 2017).

    d² = |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁^½ Σ₂ Σ₁^½)^½

The last trace is the sum of the square roots of the eigenvalues of a symmetric positive semi-definite matrix, equivalently
the nuclear norm of Σ₁^½ Σ₂^½. With centred features A₁, A₂ scaled by 1/√(n−1), Σᵢ = AᵢᵀAᵢ, that is the nuclear norm of
A₁A₂ᵀ. We take it from singular values, which never go negative: covariances that are nearly singular, where the
square root of a product returns complex numbers, need no ε on the diagonal. All in float64.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from pofx.errors import InputError


@dataclass(frozen=True)
class Frechet:
    """A Fréchet distance with its protocol: without n, features and dimension it means nothing.

    Attributes:
        distance: d² ≥ 0, in squared feature units.
        n, n_reference: how many images on either side.
        dims: length of a feature vector.
        reliable: False where n ≤ dims on a side: the covariance is then singular and the number too large.
    """

    distance: float
    n: int
    n_reference: int
    dims: int
    reliable: bool


def gaussian_frechet(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """d² of N(mean1, cov1) and N(mean2, cov2): `(d,)`, `(d, d)`, squared units.

    >>> m, c = torch.zeros(2), torch.eye(2)
    >>> round(gaussian_frechet(m, c, m + 3, 4 * c), 6)  # 2·3² + 2·(2 − 1)²
    20.0
    """
    mean1, cov1, mean2, cov2 = (t.double() for t in (mean1, cov1, mean2, cov2))
    roots = []
    for cov in (cov1, cov2):
        values, vectors = torch.linalg.eigh((cov + cov.T) / 2)
        roots.append(vectors * values.clamp(min=0).sqrt())
    # Σ₁ = R₁R₁ᵀ, Σ₂ = R₂R₂ᵀ: the cross term is the nuclear norm of R₁ᵀR₂
    cross = torch.linalg.svdvals(roots[0].T @ roots[1]).sum()
    return max(0.0, float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * cross))


def frechet(features: Tensor, reference: Tensor) -> Frechet:
    """Fréchet distance of two sets of feature vectors, `(n, d)` and `(m, d)`.

    Raises:
        InputError: different d, or fewer than two vectors on a side.

    Warns:
        UserWarning: n ≤ d on a side; the result then says `reliable=False`.

    >>> x = torch.eye(3).repeat(2, 1)
    >>> frechet(x, x + 1).distance
    3.0...
    """
    if features.ndim != 2 or reference.ndim != 2 or features.shape[1] != reference.shape[1]:
        raise InputError(f"Fréchet distance needs (n, d) and (m, d), found {tuple(features.shape)} and {tuple(reference.shape)}.")
    n, m, d = len(features), len(reference), features.shape[1]
    if min(n, m) < 2:
        raise InputError(f"Fréchet distance needs at least 2 images on each side, found {n} and {m}.")
    reliable = min(n, m) > d
    if not reliable:
        text = f"Fréchet distance of {n} against {m} images in {d} features: more images than features are needed; the number is too large."
        warnings.warn(text, UserWarning, stacklevel=2)
    a, b = features.double(), reference.double()
    distance = gaussian_frechet(a.mean(0), a.T.cov().reshape(d, d), b.mean(0), b.T.cov().reshape(d, d))
    return Frechet(distance, n, m, d, reliable)
