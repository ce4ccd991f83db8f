"""Does a model repeat its training images? Two questions, each a comparison with held-out images.

Samples. r(x) = d₁ / mean(d₂ … d_k): how much nearer the nearest training image is than the next ones (pixels, Euclidean; equal
training images count once). A held-out image has no reason to sit on one training image; a copy does. The ratio has no scale, so
smooth samples, which are near to everything, do not look like copies (plain distances, as in Meehan et al. 2020, call a blurred
VAE a copier).

Scores. The cost −log p of training images against held-out ones: "who was in the training set?" guessed by the lower cost.

Both are an AUC = P(training-like < held-out) + ½ P(equal), 0.5 where there is nothing to tell, with the z of Mann and Whitney 1947.
The flag is raised where z ≥ 4 and AUC ≥ 0.65 for samples, 0.85 for scores. Honest samples stay at 0.5 or below (noise and blur sit on
nothing), while some gap between training and held-out costs is usual in a model that still generalizes. Measured on digits, by samples: a
GAN of 3,000 steps 0.70 after training on 50 images and 0.26 on all; by scores: a PixelCNN and a VAE on 50 images 1.00 within 300 steps,
a PixelCNN on all 0.56 after 200 steps and 0.69 after 1,000, when its valid cost is at its best.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pofx.metrics.nearest import nearest

RAISED_SAMPLES = 0.65
RAISED_SCORES = 0.85
RAISED_Z = 4.0
NEIGHBOURS = 6


@dataclass(frozen=True)
class Evidence:
    """How often `low` lies below `high`: AUC in [0, 1], the z of Mann and Whitney, the two counts, and the AUC that raises the flag."""

    auc: float
    z: float
    n: int
    n_heldout: int
    limit: float = RAISED_SCORES

    @property
    def raised(self) -> bool:
        return self.auc >= self.limit and self.z >= RAISED_Z

    @property
    def text(self) -> str:
        z = f"{self.z:.1f}".replace("-", "−")
        return f"in {100 * self.auc:.0f} % of pairs (z = {z}; the flag is raised from {100 * self.limit:.0f} % with z ≥ {RAISED_Z:.0f})"


@dataclass(frozen=True)
class Memorization:
    """The flag and what it rests on; None where the model cannot tell.

    Attributes:
        samples: are samples nearer to one training image than held-out images are?
        scores: do training images cost less than held-out ones?
    """

    samples: Evidence | None = None
    scores: Evidence | None = None

    @property
    def raised(self) -> bool:
        return any(e is not None and e.raised for e in (self.samples, self.scores))

    @property
    def text(self) -> str:
        """One sentence for a report."""
        parts = []
        if self.samples is not None:
            parts.append(f"a sample sits closer on one training image than a held-out image does {self.samples.text}")
        if self.scores is not None:
            parts.append(f"a training image costs less than a held-out one {self.scores.text}")
        if not parts:
            return "Memorization could not be checked: the model neither samples nor scores."
        return f"{'The model repeats its training images' if self.raised else 'No sign of memorization'}: {'; '.join(parts)}."

    def to_json(self) -> dict:
        def part(e: Evidence | None) -> dict | None:
            return None if e is None else {"auc": e.auc, "z": e.z, "limit": e.limit, "n": e.n, "n_heldout": e.n_heldout, "raised": e.raised}

        return {"raised": self.raised, "samples": part(self.samples), "scores": part(self.scores)}


def rank_evidence(low: Tensor, high: Tensor) -> Evidence:
    """AUC and z for "`low` is smaller than `high`", ties halved and corrected for: `(n,)`, `(m,)`.

    >>> rank_evidence(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])).auc
    1.0
    """
    a, b = low.double().cpu(), high.double().cpu()
    n, m = len(a), len(b)
    _, inverse, counts = torch.cat([a, b]).unique(return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[inverse]  # mid-ranks, from 1
    below = n * m + n * (n + 1) / 2 - float(ranks[:n].sum())  # Mann–Whitney U of pairs with low < high
    ties = float((counts.double() ** 3 - counts).sum())
    total = n + m
    variance = n * m / 12 * (total + 1 - ties / (total * (total - 1)))
    z = (below - n * m / 2) / math.sqrt(variance) if variance > 0 else 0.0
    return Evidence(below / (n * m), z, n, m)


def nearness(x: Tensor, train: Tensor) -> Tensor:
    """r(x) = d₁ / mean(d₂ … d_k) in pixels: uint8 `(m, C, H, W)`, `(n, C, H, W)` → `(m,)` in [0, 1]."""
    k = min(NEIGHBOURS, len(train))
    d = nearest(x, train, k).distance
    rest = d[:, 1:].mean(1) if k > 1 else torch.ones(len(d), dtype=d.dtype)
    return torch.where(rest > 0, d[:, 0] / rest.clamp(min=1e-300), torch.ones_like(rest))


def distinct(x: Tensor) -> Tensor:
    """Images without repetitions, the first of each kept, in order: uint8 `(n, C, H, W)`.

    >>> distinct(torch.tensor([[3], [1], [3]], dtype=torch.uint8)).flatten().tolist()
    [3, 1]
    """
    seen: dict[bytes, int] = {}
    for i, row in enumerate(x.cpu().contiguous().numpy()):
        seen.setdefault(row.tobytes(), i)
    return x if len(seen) == len(x) else x[list(seen.values())]


def copies(samples: Tensor, train: Tensor, heldout: Tensor) -> Evidence:
    """Evidence that `samples` sit on single images of `train`, compared with `heldout`; all uint8 `(·, C, H, W)`."""
    train = distinct(train)
    return replace(rank_evidence(nearness(samples, train), nearness(heldout, train)), limit=RAISED_SAMPLES)


def membership(train_cost: Tensor, heldout_cost: Tensor) -> Evidence:
    """Evidence that training images cost less than held-out ones: nats `(n,)`, `(m,)`."""
    return rank_evidence(train_cost, heldout_cost)
