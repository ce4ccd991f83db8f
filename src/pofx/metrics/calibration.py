"""Do probabilities mean what they say? Expected calibration error of the most probable label (Guo et al. 2017, eq. 3; bins as said below).

    ECE = Σ_b n_b / n · |accuracy_b − confidence_b|

Bins: `equal mass` (the default) puts the images, sorted by confidence, into bins of equal number, so that no bin rests on a few images
(Nixon et al. 2019, "Measuring Calibration in Deep Learning": adaptive); `equal width` cuts [0, 1], as most papers do. Images of one
confidence are never parted: bins of equal mass then differ in size. The ECE of a perfectly calibrated model is above 0, by chance,
about √(bins / n) times half a deviation: compare numbers of equal n and bins only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pofx.errors import InputError

BINS = 15

Binning = Literal["equal mass", "equal width"]


@dataclass(frozen=True)
class Calibration:
    """Expected calibration error and where it comes from.

    Attributes:
        ece: in [0, 1].
        binning: "equal mass" or "equal width"; bins: how many were asked for.
        confidence, accuracy: means of each bin that holds images; count: its images.
    """

    ece: float
    binning: Binning
    bins: int
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    count: tuple[int, ...]


def calibration(confidence: Tensor, right: Tensor, *, bins: int = BINS, binning: Binning = "equal mass") -> Calibration:
    """ECE of n answers.

    Args:
        confidence: `(n,)` in [0, 1], the probability of the label that was answered.
        right: `(n,)` bool, whether it was the true one.

    Raises:
        InputError: no answers, two lengths, probabilities outside [0, 1], or fewer than one bin.

    >>> round(calibration(torch.tensor([0.8] * 10), torch.tensor([True] * 6 + [False] * 4)).ece, 6)
    0.2
    """
    p, right = confidence.detach().double().cpu().reshape(-1), right.detach().double().cpu().reshape(-1)
    if not len(p) or len(p) != len(right) or bins < 1:
        raise InputError(f"calibration needs as many answers as confidences and at least one bin; found {len(p)}, {len(right)} and {bins}.")
    if not bool(((p >= 0) & (p <= 1 + 1e-6)).all()):
        raise InputError(f"Confidences are probabilities in [0, 1]; found {float(p.min()):g} … {float(p.max()):g}.")
    if binning == "equal width":
        at = (p * bins).ceil().long().sub(1).clamp(0, bins - 1)
    else:
        ordered = p.sort().values
        # The place of an image is that of the first one of its confidence, so that equal ones stay together.
        at = torch.searchsorted(ordered, p.contiguous()) * bins // len(p)
    sums = torch.zeros(3, bins, dtype=torch.double).index_add_(1, at, torch.stack([torch.ones_like(p), p, right]))
    n, conf, hit = sums[:, sums[0] > 0]
    ece = float((hit - conf).abs().sum() / len(p))
    return Calibration(
        round(ece, 12), binning, bins, tuple((conf / n).tolist()), tuple((hit / n).tolist()), tuple(int(k) for k in n.tolist())
    )


def tempered(log_prob: Tensor, temperature: float) -> Tensor:
    """log p(y | x) with logits multiplied by `temperature`, `(n, classes)` nats: what a model said before its logits were divided by it.

    >>> z = torch.tensor([[2.0, 0.0]])
    >>> bool(torch.allclose(tempered((z / 3).log_softmax(1), 3.0), z.log_softmax(1)))
    True
    """
    return (log_prob * temperature).log_softmax(-1)
