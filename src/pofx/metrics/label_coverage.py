"""Which classes do samples fall into? Counts of argmax_y p(y | x) by a Labeler: a generator that lost a mode shows a zero."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LabelCoverage:
    """Counts per class among n samples.

    Attributes:
        counts: samples per class.
        covered: classes with at least `at_least` samples.
        entropy: of the counts, in nats; log(classes) when even.
    """

    counts: tuple[int, ...]
    covered: int
    at_least: int
    entropy: float

    @property
    def complete(self) -> bool:
        return self.covered == len(self.counts)

    @property
    def least(self) -> float:
        """The share of the samples that fall into the rarest class, in [0, 1/classes].

        >>> LabelCoverage((1, 3), 2, 1, 0.0).least
        0.25
        """
        return min(self.counts) / max(1, sum(self.counts))


def label_coverage(log_prob: Tensor, *, share: float = 0.01) -> LabelCoverage:
    """Coverage from log p(y | x), `(n, classes)` nats; a class counts as covered with `share` of the n samples, and at least one.

    >>> label_coverage(torch.eye(3)[[0, 0, 2]].log()).counts
    (2, 0, 1)
    """
    n, classes = log_prob.shape
    counts = torch.bincount(log_prob.argmax(1).cpu(), minlength=classes)
    at_least = max(1, int(share * n))
    p = counts.double() / max(1, n)
    return LabelCoverage(tuple(counts.tolist()), int((counts >= at_least).sum()), at_least, float(-torch.xlogy(p, p).sum()))
