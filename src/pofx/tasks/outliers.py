"""Which images are odd? Split-conformal p-values of the cost in bits/dim (Vovk et al. 2005; Papadopoulos et al. 2002).

    s(x) = |cost(x) − m| / d±          m: median cost of `center`; d+, d−: mean distance from m of those above, and below
    p(x) = (1 + #{calibration images with s ≥ s(x)}) / (n + 1)
    outlier: p ≤ α

Two-sided, so that too dear and too cheap are both odd, each in units of its own tail. Why: plain −log p *inverts* on published
pairs; simple images (MNIST under a model of clothes) are cheaper than the normal ones. m and d± come from other images than the
calibration ones (the valid split), so that a normal image and the n calibration images are exchangeable and P(p ≤ α) ≤ α holds
exactly, whatever the model. It is a rate over calibration sets: for one fixed set the rate is Beta(k, n+1−k) distributed,
k = ⌊α(n+1)⌋, and its 95th percentile is reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pofx.errors import InputError
from pofx.model import ImageModel, Progress, Score
from pofx.tasks._files import TABLES, check_out, write_table
from pofx.tasks.bulk import Images, as_images
from pofx.tasks.score import costs


@dataclass(frozen=True)
class Outliers:
    """The oddness of each image.

    Attributes:
        ids: names, in order.
        score: `(n,)` distance from the median cost, in mean distances on that side; higher is odder.
        p_value: `(n,)` in [1/(calibration+1), 1].
        outlier: `(n,)` bool, p ≤ alpha.
        bits_per_dim: `(n,)`, the signed cost that the score comes from.
        center: median cost, bits/dim.
        calibration: images the p-values rest on.
        rate95: with 95 % certainty over calibration sets, at most this share of normal images is flagged.
    """

    ids: Sequence[str]
    score: Tensor
    p_value: Tensor
    outlier: Tensor
    bits_per_dim: Tensor
    kind: str
    alpha: float
    center: float
    calibration: int
    rate95: float
    path: Path | None = None

    def to_json(self) -> dict[str, Any]:
        oddest = self.p_value.argsort(stable=True)[:20].tolist()
        oddest = sorted(oddest, key=lambda i: (float(self.p_value[i]), -float(self.score[i])))
        return {
            "n": len(self.ids),
            "outliers": int(self.outlier.sum()),
            "alpha": self.alpha,
            "kind": self.kind,
            "center": self.center,
            "calibration": self.calibration,
            "false_alarms_at_95_percent": self.rate95,
            "oddest": [{"id": self.ids[i], "score": float(self.score[i]), "p_value": float(self.p_value[i])} for i in oddest],
            "out": None if self.path is None else str(self.path),
        }


def conformal_p_values(scores: Tensor, calibration: Tensor) -> Tensor:
    """p = (1 + #{calibration ≥ s}) / (n + 1) for each score: `(m,)`, `(n,)` → `(m,)` float64.

    >>> conformal_p_values(torch.tensor([0.5, 9.0]), torch.tensor([1.0, 2.0, 3.0])).tolist()
    [1.0, 0.25]
    """
    ordered = calibration.double().sort().values
    below = torch.searchsorted(ordered, scores.double(), right=False)  # #{calibration < s}
    return (1 + len(ordered) - below).double() / (len(ordered) + 1)


def check_alpha(alpha: float, n: int) -> None:
    """Raise InputError where n calibration images cannot give a p-value as small as alpha."""
    if not 0 < alpha < 1:
        raise InputError(f"--alpha {alpha} must be between 0 and 1, e.g. --alpha 0.05.")
    needed = math.ceil(round(1 / alpha, 9)) - 1
    if n < needed:
        raise InputError(
            f"alpha={alpha:g} cannot be reached with {n} calibration images: the smallest p-value is {1 / (n + 1):.3g}. "
            f"It takes {needed} of them; with these, use --alpha {math.ceil(1000 / (n + 1)) / 1000:g} or more."
        )


def outliers(
    model: ImageModel,
    images: Images | Tensor,
    *,
    calib: Images | Tensor,
    center: Images | Tensor,
    alpha: float = 0.05,
    out: str | Path | None = None,
    samples: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Outliers:
    """Flag the odd ones among `images`, with at most a share `alpha` of false alarms.

    Args:
        images: a `Split`, or uint8 `(n, C, H, W)`.
        calib: normal images that neither training nor selection saw (`data.calib`).
        center: other normal images that give the median cost (`data.valid`).
        alpha: share of normal images that may be flagged.
        out: a folder; writes `scores.parquet` with id, score, p_value, outlier.

    Raises:
        CapabilityError: the model has neither likelihood nor bound.
        InputError: alpha cannot be reached with so few calibration images; images of another space.

    >>> from pofx.models.autoregressive.pixelcnn import PixelCNN
    >>> from pofx.space import ImageSpace
    >>> x = torch.zeros(20, 1, 3, 3, dtype=torch.uint8)
    >>> int(outliers(PixelCNN.small(ImageSpace(1, 3, 3, levels=2)), x, calib=x, center=x, alpha=0.1).outlier.sum())
    0
    """
    images, calib, center = as_images(images), as_images(calib), as_images(center)
    check_alpha(alpha, len(calib))
    if not len(center):
        raise InputError("outliers needs images for the median cost; the valid part is empty.")
    path = None if out is None else check_out(Path(out) / "scores.parquet", TABLES)
    middle = costs(model, center, samples=samples, seed=seed)
    normal = costs(model, calib, samples=samples, seed=seed)
    result = judge(list(images.ids), costs(model, images, samples=samples, seed=seed, progress=progress), normal, middle, alpha=alpha)
    if path is not None:
        columns = {
            "id": result.ids,
            "score": result.score.tolist(),
            "p_value": result.p_value.tolist(),
            "outlier": result.outlier.tolist(),
        }
        write_table(
            path,
            columns,
            {"model": type(model).__name__, "alpha": str(alpha), "calibration": str(len(calib)), "center": str(result.center)},
        )
    return replace(result, path=path)


def oddness_from(center: Tensor) -> tuple[Callable[[Tensor], Tensor], float]:
    """Distance from the median of costs `(n,)`, in mean distances on that side: a function of costs, and the median."""
    middle = float(center.median())
    away = center - middle
    # A side without spread (few images, all alike) takes the other's, or plain costs
    sides = [float(part.mean()) if len(part) else 0.0 for part in (away[away > 0], -away[away < 0])]
    above, below = (side or max(sides) or 1.0 for side in sides)

    def oddness(costs: Tensor) -> Tensor:
        d = costs - middle
        return torch.where(d > 0, d / above, -d / below)

    return oddness, middle


def judge(ids: Sequence[str], cost: Score, calib: Score, center: Score, *, alpha: float) -> Outliers:
    """The same from costs that are there already: of the images, of calibration images, and of those that give the median."""
    check_alpha(alpha, len(calib.nats))
    oddness, middle = oddness_from(center.bits_per_dim)
    score = oddness(cost.bits_per_dim)
    p_value = conformal_p_values(score, oddness(calib.bits_per_dim))
    n = len(calib.nats)
    return Outliers(ids, score, p_value, p_value <= alpha + 1e-12, cost.bits_per_dim, cost.kind, alpha, middle, n, rate95(alpha, n))


def rate95(alpha: float, n: int) -> float:
    """95th percentile of the share of normal images flagged, over calibration sets of n images: Beta(k, n+1−k).

    >>> round(rate95(0.01, 100), 3)
    0.03
    """
    from scipy.stats import beta

    k = math.floor(alpha * (n + 1) + 1e-9)
    return float(beta.ppf(0.95, k, n + 1 - k))
