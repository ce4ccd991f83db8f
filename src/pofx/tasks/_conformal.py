"""Guarantees from calibration images alone, whatever the score is worth (Vovk, Gammerman and Shafer 2005).

Normal images that neither training nor the score has seen, s_1 … s_n, are exchangeable with a further normal image, s:

    p = (1 + #{i : s_i ≥ s}) / (n + 1)            P(p ≤ α) ≤ α                                  over calibration sets

    marginal        alarm where p ≤ α
    calibration     alarm where p ≤ k/(n + 1): of *this* calibration set the share of false alarms is at most Beta(k, n + 1 − k), and k is the
                    largest one whose 95th percentile is at most α (Vovk 2012, "Conditional validity"). k ≥ 1 takes n ≥ log .05 / log(1 − α)
    false discovery of m images, alarm for the j oddest, j the largest with p_(j) ≤ q j / m (Benjamini and Hochberg 1995): of the alarms a
                    share of at most q is false on average. p-values that share their calibration images keep it (Bates et al. 2023)

A stream is tested by a martingale: p-values of each image among calibration images *and those of the stream before it*, ties broken at random,
are independent and uniform while nothing changes (Vovk 2002). A bet f on them, ∫ f = 1, keeps its capital on average, so that

    P(sup_t M_t ≥ 1/α) ≤ α                                                                       (Ville 1939)

at any time, however long. The capital is spread over bets, of which a share JUMP is spread anew at each step (the simple jumper of Vovk et al. 2021).
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pofx.errors import InputError
from pofx.noise import Noise

Guarantee = Literal["marginal", "calibration"]
GUARANTEES: tuple[Guarantee, ...] = ("marginal", "calibration")
CONFIDENCE = 0.95
JUMP = 0.01


def conformal_p_values(scores: Tensor, calibration: Tensor) -> Tensor:
    """p = (1 + #{calibration ≥ s}) / (n + 1) for each score: `(m,)`, `(n,)` → `(m,)` float64.

    >>> conformal_p_values(torch.tensor([0.5, 9.0]), torch.tensor([1.0, 2.0, 3.0])).tolist()
    [1.0, 0.25]
    """
    ordered = calibration.double().sort().values
    below = torch.searchsorted(ordered, scores.double(), right=False)  # #{calibration < s}
    return (1 + len(ordered) - below).double() / (len(ordered) + 1)


def rate95(rank: int, n: int) -> float:
    """95th percentile of the share of normal images with p ≤ rank/(n + 1), over calibration sets of n images: Beta(rank, n + 1 − rank).

    >>> round(rate95(1, 100), 3), rate95(0, 100)
    (0.03, 0.0)
    """
    from scipy.stats import beta

    return float(beta.ppf(CONFIDENCE, rank, n + 1 - rank)) if rank else 0.0


def needed(alpha: float, guarantee: Guarantee = "marginal") -> int:
    """The fewest calibration images with which there can be an alarm at all.

    >>> [needed(a, g) for a in (0.05, 0.01, 0.001) for g in GUARANTEES]
    [19, 59, 99, 299, 999, 2995]
    """
    n = 1 / alpha - 1 if guarantee == "marginal" else math.log(1 - CONFIDENCE) / math.log1p(-alpha)
    return max(1, math.ceil(round(n, 9)))


def rank(alpha: float, n: int, guarantee: Guarantee = "marginal") -> int:
    """The largest k such that alarms at p ≤ k/(n + 1) keep the guarantee.

    Raises:
        InputError: there is none, with the number of images that it takes; alpha is not between 0 and 1.

    >>> rank(0.05, 100), rank(0.05, 100, "calibration")
    (5, 2)
    """
    if not 0 < alpha < 1:
        raise InputError(f"--alpha {alpha} must be between 0 and 1, e.g. --alpha 0.05.")
    if guarantee not in GUARANTEES:
        raise InputError(f"--guarantee {guarantee}: it can be {' or '.join(GUARANTEES)}.")
    fewest = needed(alpha, guarantee)
    if n < fewest:
        least = 1 / (n + 1) if guarantee == "marginal" else 1 - (1 - CONFIDENCE) ** (1 / max(n, 1))
        least = math.ceil(1000 * least) / 1000
        ways = [f"--alpha {least:g} or more"] if least < 1 else []
        if guarantee == "calibration" and n >= needed(alpha):
            ways.append("--guarantee marginal, which holds on average over calibration sets")
        what = "cannot be reached" if guarantee == "marginal" else "cannot be guaranteed for one calibration set"
        raise InputError(
            f"alpha={alpha:g} {what} with {n} calibration images. It takes {fewest} of them; "
            + (f"with these, use {', or '.join(ways)}." if ways else "train on more images.")
        )
    k = min(math.floor(alpha * (n + 1) + 1e-9), n)
    if guarantee == "calibration":
        k = bisect.bisect_right(range(1, k + 1), alpha + 1e-9, key=lambda j: rate95(j, n))
    return k


def benjamini_hochberg(p_values: Tensor, q: float) -> Tensor:
    """Which images are discoveries at false discovery rate q: bool `(m,)`.

    >>> benjamini_hochberg(torch.tensor([0.01, 0.5, 0.02, 0.03]), 0.05).tolist()
    [True, False, True, True]
    """
    if not 0 < q < 1:
        raise InputError(f"--fdr {q} must be between 0 and 1, e.g. --fdr 0.1.")
    m = len(p_values)
    ordered, index = p_values.double().sort()
    passing = (ordered <= q * torch.arange(1, m + 1, dtype=torch.double) / m + 1e-12).nonzero()
    found = torch.zeros(m, dtype=torch.bool)
    if len(passing):
        found[index[: int(passing[-1]) + 1]] = True
    return found


def online_p_values(scores: Tensor, calibration: Tensor, *, seed: int = 0) -> Tensor:
    """p-values of a stream, each among the calibration images and those of the stream before it, ties broken at random: `(m,)` in (0, 1).

    Independent and uniform as long as all are exchangeable; of a stream that is not, they are too small or too large.

    >>> bool((online_p_values(torch.arange(3.0) + 9, torch.arange(97.0) / 97) < 0.05).all())
    True
    """
    seen = sorted(calibration.double().tolist())
    ties = Noise(seed, torch.arange(len(scores))).uniform("conformal/ties", 1)[:, 0].double()
    out = torch.empty(len(scores), dtype=torch.double)
    for t, s in enumerate(scores.double().tolist()):
        low, high = bisect.bisect_left(seen, s), bisect.bisect_right(seen, s)
        out[t] = (len(seen) - high + float(ties[t]) * (high - low + 1)) / (len(seen) + 1)
        seen.insert(low, s)
    return out


def _bets(p: Tensor) -> Tensor:
    """f(p) of each bet, `(bets, m)`, ∫ f = 1: none; on small p, twice as steep as the other; on p below and above ½."""
    p = p.clamp(min=1e-30)
    return torch.stack([torch.ones_like(p), 0.5 * p**-0.5, 0.25 * p**-0.75, 1.5 - p, 0.5 + p])


@dataclass(frozen=True)
class Drift:
    """What a martingale saw of a stream.

    Attributes:
        log10_capital: `(m,)` after each image; it starts at 0.
        alarm: the first image at which the capital had reached 1/alpha, from 0; None while nothing has changed.
        alpha: the probability of any alarm, ever, of a stream of normal images is at most this.
    """

    log10_capital: Tensor
    alarm: int | None
    alpha: float

    def to_json(self) -> dict[str, object]:
        top = float(self.log10_capital.max()) if len(self.log10_capital) else 0.0
        return {"alarm": self.alarm, "alpha": self.alpha, "largest_log10_capital": top}


def drift(scores: Tensor, calibration: Tensor, *, alpha: float = 0.01, seed: int = 0) -> Drift:
    """Has a stream of images, in their order, left what the calibration images are like?

    Args:
        scores: `(m,)`, in order of arrival; calibration: `(n,)`.
        alpha: probability of a false alarm, over the whole stream.
        seed: of how ties are broken.

    >>> drift(torch.linspace(2, 3, 50), torch.linspace(0, 1, 99)).alarm
    2
    """
    if not 0 < alpha < 1:
        raise InputError(f"--alpha {alpha} must be between 0 and 1, e.g. --alpha 0.01.")
    bets = _bets(online_p_values(scores, calibration, seed=seed))
    share = torch.full((len(bets),), 1 / len(bets), dtype=torch.double)
    total, path = 0.0, []
    for f in bets.T:
        share = (1 - JUMP) * share + JUMP / len(share)
        won = share * f
        total += math.log10(float(won.sum()))
        share = won / won.sum()
        path.append(total)
    capital = torch.tensor(path, dtype=torch.double)
    over = (capital >= -math.log10(alpha)).nonzero()
    return Drift(capital, int(over[0]) if len(over) else None, alpha)
