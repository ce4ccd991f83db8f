"""How do samples meet modes that are known? For points x and centres c_k of Gaussians with deviation σ in the plane:

    near = #{x : min_k ‖x − c_k‖ ≤ 3σ} / n,     found = #{k : at least a quarter of its fair share n/K of samples is near c_k}

The Gaussians themselves have 1 − e^(−9/2) = 98.9 % of their points within 3σ: no generator of p has more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pofx.errors import InputError


@dataclass(frozen=True)
class ModeCoverage:
    """What was found among n samples.

    Attributes:
        near: share of the samples within 3σ of a centre.
        found: modes with at least a quarter of their fair share, of `modes`.
        counts: samples near each centre.
        kl: Σ_k s_k log(K s_k) over the shares s of the near samples, nats: 0 when even.
    """

    near: float
    found: int
    modes: int
    counts: tuple[int, ...]
    kl: float


def mode_coverage(points: Tensor, centres: Tensor, sd: float) -> ModeCoverage:
    """Of points `(n, 2)` and centres `(modes, 2)`, in the unit of `sd`.

    Raises:
        InputError: no points, or shapes that are not these.

    >>> mode_coverage(torch.zeros(4, 2), torch.tensor([[0.0, 0.0], [9.0, 0.0]]), 1.0)
    ModeCoverage(near=1.0, found=1, modes=2, counts=(4, 0), kl=0.693...)
    """
    if points.ndim != 2 or not len(points) or points.shape[1:] != centres.shape[1:]:
        raise InputError(
            f"mode_coverage takes points (n, 2) and centres (modes, 2), found {tuple(points.shape)} and {tuple(centres.shape)}."
        )
    distance, nearest = torch.cdist(points.double(), centres.double()).min(1)
    near = distance <= 3 * sd
    modes = len(centres)
    counts = torch.bincount(nearest[near], minlength=modes)
    share = counts.double() / counts.sum().clamp(min=1)
    kl = float(torch.xlogy(share, share * modes).sum())
    found = int((counts >= max(1.0, 0.25 * len(points) / modes)).sum())
    return ModeCoverage(float(near.double().mean()), found, modes, tuple(counts.tolist()), kl)
