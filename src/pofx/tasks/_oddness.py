"""How odd a set of statistics is: −log of their density over normal images, by kinds of evidence (DoSE, Morningstar et al. 2021, arXiv:2006.09273).

    p_s(t) = 1/n Σ_i N(t; t_i, h² S)       of some statistics t; t_i those of the stats split, S their covariance (Ledoit and Wolf 2004),
                                           h the bandwidth at which each t_i is most probable under the others
    v_s    = (−log p_s(t) − m_s) / d_s     m_s, d_s: mean and standard deviation of −log p_s(t_i) under the others
    score  = mean_g v_g + mean_c v_c       g: all statistics of one group;  c: one statistic of each group, in every choice

A density is two-sided: what is too cheap, too simple or too near is as odd as its opposite. Groups (likelihood, code, pixels, critic) are
different witnesses, and each has one voice however many statistics it has: ten weak ones do not drown a strong one. What witnesses say alone is half;
the other half is whether they agree: an image may be as cheap as some normal image is and as far from the others as another is, and no normal image
is both. One density of all statistics would ask both and has too many dimensions. Kernels follow the cloud where the statistics are not normal; their common
shape S has few numbers, so that some 60 images are enough. Nothing here sees a calibration image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import torch
from torch import Tensor

from pofx.errors import InputError
from pofx.tasks._statistics import STATISTICS, Table

FEWEST = 5  # images of a stats split
POINTS = 1000  # of them that are kernels
BANDWIDTHS = tuple(0.1 * 2 ** (k / 2) for k in range(10))  # 0.1 … 2.3
CHOICES = 100  # of statistics, one a group; where there are more, as many of them at random
BLOCK = 256


@dataclass(frozen=True)
class Density:
    """−log p_s of some statistics, standardised. Tensors are float64.

    Attributes:
        names: the statistics, k of them.
        mean `(k,)`, whiten `(k, k)`: t → (t − mean) whiten, in which S is the identity.
        points: `(n, k)`, whitened.
        bandwidth, center, spread: h, m_s, d_s.
    """

    names: tuple[str, ...]
    mean: Tensor
    whiten: Tensor
    points: Tensor
    bandwidth: float
    center: float
    spread: float

    @classmethod
    def fit(cls, names: Sequence[str], values: Tensor) -> Density:
        """Of statistics `(n, k)` of normal images."""
        from sklearn.covariance import LedoitWolf

        values = values[_some(len(values), POINTS)].double()  # of tiles too, all places
        mean, scale = values.mean(0), values.std(0, correction=0)
        scale = torch.where(scale > 1e-9 * (1 + mean.abs()), scale, 1.0)  # one that never varies is odd by any change
        covariance = torch.from_numpy(LedoitWolf(assume_centered=True).fit(((values - mean) / scale).numpy()).covariance_)
        variance, axes = torch.linalg.eigh(covariance)
        whiten = axes / variance.clamp(min=1e-6).sqrt() / scale[:, None]
        points = (values - mean) @ whiten
        apart = _squared(points, points).fill_diagonal_(torch.inf)
        h = max(BANDWIDTHS, key=lambda h: float(_log_density(apart, h, len(names)).mean()))
        own = -_log_density(apart, h, len(names))
        center, spread = float(own.mean()), float(own.std())
        return cls(tuple(names), mean, whiten, points, h, center, spread if spread > 1e-9 * (1 + abs(center)) else 1.0)

    def __call__(self, values: Tensor) -> Tensor:
        """`(m, k)` → `(m,)`: 0 on average over normal images, larger where odder, in their standard deviations."""
        t = (values.double() - self.mean) @ self.whiten
        logs = [_log_density(_squared(part, self.points), self.bandwidth, len(self.names)) for part in t.split(BLOCK)]
        return (-torch.cat(logs) - self.center) / self.spread


def _some(n: int, most: int) -> Tensor:
    """Of 0 … n − 1 so many at random, the same ones each time, ascending."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))[:most].sort().values


def _squared(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()  # no image's depends on another


def _log_density(squared: Tensor, h: float, dims: int) -> Tensor:
    return torch.logsumexp(-squared / (2 * h * h), 1) - dims * math.log(h)


@dataclass(frozen=True)
class Oddness:
    """The score of a table of statistics: two means of densities, or a single statistic as it is.

    Attributes:
        groups: densities, each of all statistics of a group.
        choices: densities, each of one statistic of each group; none of a single group.
        alone: the one statistic of which only large values are odd, or None.
    """

    groups: tuple[Density, ...]
    choices: tuple[Density, ...] = ()
    alone: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the groups."""
        return tuple(STATISTICS[part.names[0]].group for part in self.groups)

    def __call__(self, table: Table) -> Tensor:
        """`(n,)` float64, higher is odder."""
        if self.alone is not None:
            return table.column(self.alone).double()
        halves = [torch.stack([d(table.of(d.names)) for d in half]).mean(0) for half in (self.groups, self.choices) if half]
        return torch.stack(halves).sum(0)

    def of(self, names: Sequence[str], stats: Table) -> Oddness:
        """Of some of the groups only, from the statistics that this one was fitted to."""
        return _together([d for d, name in zip(self.groups, self.names, strict=True) if name in names], stats)


def fit(stats: Table) -> Oddness:
    """From statistics of normal images that are not calibration images.

    Raises:
        InputError: there are too few.
    """
    if len(stats) < FEWEST:
        raise InputError(f"outliers needs at least {FEWEST} images of the valid part to know what is normal, found {len(stats)}.")
    if len(stats.names) == 1 and STATISTICS[stats.names[0]].above:
        return Oddness((), alone=stats.names[0])
    groups: dict[str, list[str]] = {}
    for name in stats.names:
        groups.setdefault(STATISTICS[name].group, []).append(name)
    return _together([Density.fit(names, stats.of(names)) for names in groups.values()], stats)


def _together(groups: Sequence[Density], stats: Table) -> Oddness:
    """Groups, and one statistic of each, in every choice."""
    several = list(product(*(d.names for d in groups))) if len(groups) > 1 else []
    few = [several[k] for k in _some(len(several), CHOICES).tolist()]
    return Oddness(tuple(groups), tuple(Density.fit(names, stats.of(names)) for names in few))


def choose(oddness: Oddness, stats: Table, known: Table) -> tuple[Oddness, dict[str, float]]:
    """Of all combinations of groups the one that tells known outliers best from the stats split, before calibration; and the AUROC of each.

    Among equals that of most groups: outliers of other kinds may come too."""
    from sklearn.metrics import roc_auc_score

    found: dict[str, float] = {}
    best = (oddness, -1.0)
    truth = [0] * len(stats) + [1] * len(known)
    for count in range(len(oddness.groups), 0, -1):
        for names in combinations(oddness.names, count):
            one = oddness if count == len(oddness.groups) else oddness.of(names, stats)
            auc = float(roc_auc_score(truth, torch.cat([one(stats), one(known)]).numpy()))
            found["+".join(names)] = auc
            if auc > best[1] + 0.005:
                best = (one, auc)
    return best[0], found
