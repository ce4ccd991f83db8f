"""Which images are odd, and how sure is that? All that a model can tell, made one score on a stats split, then calibrated on images apart.

    statistics → t(x)       `_statistics.py`: all cheap ones that the model supports, or the one that is asked for
    density    → s(x)       `_oddness.py`: −log of their density over the stats split (the valid part): two-sided
    calibrate  → p(x)       `_conformal.py`: p = (1 + #{calibration images with s ≥ s(x)}) / (n + 1);   outlier: p ≤ k / (n + 1)

Why so: every single score *inverts* on some published pair; simple images (MNIST under a model of clothes) are cheaper than normal ones. The stats split,
the training images and known outliers decide on s; calibration images are looked at last and once, so that a normal image and they are exchangeable
and P(p ≤ α) ≤ α holds exactly, whatever the model and the score are worth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pofx.errors import InputError
from pofx.model import ImageModel, Progress, Score
from pofx.tasks import _oddness
from pofx.tasks._conformal import (
    Drift,
    Guarantee,
    benjamini_hochberg,
    conformal_p_values,
    drift,
    rank,
    rate95,
)
from pofx.tasks._files import TABLES, check_out, write_table
from pofx.tasks._oddness import Oddness
from pofx.tasks._statistics import STATISTICS, Known, chosen, measure, refer
from pofx.tasks._tiles import Tiles, whole
from pofx.tasks.bulk import Images, as_images

__all__ = ["Alarm", "Outliers", "calibrate", "conformal_p_values", "judge", "oddness_from", "outliers", "rate95", "verdicts"]


@dataclass(frozen=True)
class Outliers:
    """The oddness of each image.

    Attributes:
        ids: names, in order.
        score: `(n,)` float64; higher is odder.
        p_value: `(n,)` in [1/(calibration+1), 1].
        outlier: `(n,)` bool.
        statistics: name → `(n,)`, what the score was made of; of tiles, those of the oddest one.
        alpha: share of normal images that may be flagged; fdr: of the flagged images, the share that may be normal, or None.
        guarantee: what alpha is a share of: "marginal" or "calibration".
        calibration: `(m,)`, scores of calibration images, ascending.
        cut: an image is flagged where p ≤ cut (without fdr); threshold: that is, where its score is above it.
        rate95: with 95 % certainty over calibration sets, at most this share of normal images is flagged; None with fdr.
        used: groups of statistics in the score; tried: where known outliers chose them, the AUROC of each combination.
        drift: where the images are a stream, in this order.
        tiles: of each image; 1: images are of the model's size.
    """

    ids: Sequence[str]
    score: Tensor
    p_value: Tensor
    outlier: Tensor
    statistics: dict[str, Tensor]
    alpha: float
    guarantee: Guarantee
    calibration: Tensor
    cut: float
    threshold: float
    rate95: float | None
    fdr: float | None = None
    used: tuple[str, ...] = ()
    tried: dict[str, float] = field(default_factory=dict)
    drift: Drift | None = None
    tiles: int = 1
    path: Path | None = None

    @property
    def rank(self) -> Tensor:
        """`(n,)` int64: 1 is the oddest; images of equal score stand in their order."""
        order = self.oddest
        return torch.empty_like(order).scatter_(0, order, torch.arange(1, len(order) + 1))

    @property
    def oddest(self) -> Tensor:
        """Positions of the images, `(n,)` int64, oddest first."""
        return self.score.argsort(descending=True, stable=True)

    def at(self, alpha: float) -> Outliers:
        """The verdicts at another alpha, from the same scores.

        Raises:
            InputError: alpha cannot be guaranteed with so few calibration images.
        """
        found = verdicts(self.ids, self.score, self.calibration, self.statistics, alpha=alpha, guarantee=self.guarantee, fdr=self.fdr)
        return replace(found, used=self.used, tried=self.tried, drift=self.drift, tiles=self.tiles)

    @property
    def promise(self) -> str:
        """What is guaranteed, in plain words."""
        n = len(self.calibration)
        share, k = f"{100 * self.alpha:g} %", round(self.cut * (n + 1))
        what = "images like the calibration images"
        if self.fdr is not None:
            return (
                f"Of the flagged images at most {100 * self.fdr:g} % are false alarms on average (false discovery rate, Benjamini–Hochberg "
                f"over these {len(self.ids)} images), provided that normal ones are {what}. This is not a rate of false alarms among normal images."
            )
        if self.guarantee == "calibration":
            return (
                f"With 95 % confidence, these {n} calibration images flag at most {share} of all further {what}: flagged is what is odder than "
                f"all but {k - 1} of them."
            )
        assert self.rate95 is not None
        return (
            f"At most {share} of {what} are flagged, on average over sets of {n} calibration images. For this one set the share may be more: "
            f"with 95 % confidence at most {100 * self.rate95:.2g} %."
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "n": len(self.ids),
            "outliers": int(self.outlier.sum()),
            "alpha": self.alpha,
            "guarantee": self.guarantee,
            "fdr": self.fdr,
            "promise": self.promise,
            "calibration": len(self.calibration),
            "cut": self.cut,
            "threshold": self.threshold,
            "false_alarms_at_95_percent": self.rate95,
            "statistics": list(self.statistics),
            "used": list(self.used),
            "tried": self.tried or None,
            "tiles": self.tiles,
            "stream": None if self.drift is None else self.drift.to_json(),
            "oddest": [
                {"id": self.ids[i], "score": float(self.score[i]), "p_value": float(self.p_value[i]), "outlier": bool(self.outlier[i])}
                for i in self.oddest[:20].tolist()
            ],
            "out": None if self.path is None else str(self.path),
        }

    def save(self, folder: str | Path, model: str) -> Outliers:
        """Write `scores.csv` and `scores.parquet` into a folder; the answer knows where the latter is."""
        metadata = {"model": model, "alpha": str(self.alpha), "guarantee": self.guarantee, "calibration": str(len(self.calibration))}
        metadata |= {"threshold": repr(self.threshold)} | ({} if self.fdr is None else {"fdr": str(self.fdr)})
        self.write(Path(folder) / "scores.csv")
        return replace(self, path=self.write(Path(folder) / "scores.parquet", **metadata))

    def write(self, path: Path, **metadata: str) -> Path:
        """id, score, p_value, outlier, rank, and each statistic, as Parquet, CSV or JSONL."""
        columns: dict[str, Sequence[Any]] = {
            "id": self.ids,
            "score": self.score.tolist(),
            "p_value": self.p_value.tolist(),
            "outlier": self.outlier.tolist(),
            "rank": self.rank.tolist(),
        }
        write_table(path, columns | {name: values.tolist() for name, values in self.statistics.items()}, metadata)
        return path


def verdicts(
    ids: Sequence[str],
    score: Tensor,
    calibration: Tensor,
    statistics: dict[str, Tensor] | None = None,
    *,
    alpha: float,
    guarantee: Guarantee = "marginal",
    fdr: float | None = None,
    stream: bool = False,
    seed: int = 0,
) -> Outliers:
    """p-values and verdicts of scores `(n,)` against those of calibration images `(m,)`; higher is odder.

    Raises:
        InputError: alpha cannot be guaranteed with so few calibration images; fdr is not between 0 and 1; a score is NaN.

    >>> verdicts(["a", "b"], torch.tensor([0.5, 200.0]), torch.arange(99.0), alpha=0.05).outlier.tolist()
    [False, True]
    """
    n = len(calibration)
    k = rank(alpha, n, guarantee)
    for name, some in (("score", score), ("calibration score", calibration)):
        if bool(some.isnan().any()):
            raise InputError(
                f"{int(some.isnan().sum())} of {len(some)} {name}s are NaN, which is neither odd nor normal; leave those images out."
            )
    p_value = conformal_p_values(score, calibration)
    ordered = calibration.double().sort().values
    cut = k / (n + 1)
    flagged = p_value <= cut + 1e-12 if fdr is None else benjamini_hochberg(p_value, fdr)
    return Outliers(
        ids,
        score.double(),
        p_value,
        flagged,
        statistics or {},
        alpha,
        guarantee,
        ordered,
        cut,
        float(ordered[n - k]),
        rate95(k, n) if fdr is None else None,
        fdr,
        drift=drift(score, calibration, alpha=alpha, seed=seed) if stream else None,
    )


@dataclass(frozen=True)
class Weighed:
    """Images with their scores, of no verdict yet.

    Attributes: ids; score `(n,)` float64, higher is odder; statistics `(n, k)`, what it was made of; of tiles, those of the oddest one.
    """

    ids: Sequence[str]
    score: Tensor
    statistics: Tensor


@dataclass(frozen=True)
class Alarm:
    """What decides which images are odd, before any is judged: made once by `calibrate`, it judges any number of images, each alike whatever its company.

    Attributes:
        names: of the statistics; known: what they read besides the model; oddness: statistics → score.
        scores: `(m,)` of calibration images.
        tried: where known outliers chose the score, the AUROC of each combination.
        tiles: of an image; 1: images are of the model's size.
    """

    names: tuple[str, ...]
    known: Known
    oddness: Oddness
    scores: Tensor
    tiles: int = 1
    tried: dict[str, float] = field(default_factory=dict)

    def weigh(self, model: ImageModel, images: Images | Tensor, *, progress: Progress | None = None) -> Weighed:
        """Scores of images: what can be done in parts, in any order."""
        images = as_images(images)
        table = measure(model, images, self.names, self.known, progress=progress)
        score = self.oddness(table)
        at = _speaking(images, score)
        return Weighed(list(whole(images).ids), score[at], table.values[at])

    def verdict(
        self, weighed: Weighed, *, alpha: float = 0.05, guarantee: Guarantee = "marginal", fdr: float | None = None, stream: bool = False
    ) -> Outliers:
        """p-values and verdicts of all images together; arguments and errors are those of `outliers`."""
        shown = dict(zip(self.names, weighed.statistics.unbind(1), strict=True))
        found = verdicts(
            weighed.ids, weighed.score, self.scores, shown, alpha=alpha, guarantee=guarantee, fdr=fdr, stream=stream, seed=self.known.seed
        )
        used = self.oddness.names or tuple(STATISTICS[n].group for n in self.names[:1])
        return replace(found, used=used, tried=self.tried, tiles=self.tiles)

    def judge(
        self,
        model: ImageModel,
        images: Images | Tensor,
        *,
        alpha: float = 0.05,
        guarantee: Guarantee = "marginal",
        fdr: float | None = None,
        stream: bool = False,
        progress: Progress | None = None,
    ) -> Outliers:
        """Scores, p-values and verdicts; arguments and errors are those of `outliers`. Another alpha later needs no new scores: `verdicts`."""
        return self.verdict(self.weigh(model, images, progress=progress), alpha=alpha, guarantee=guarantee, fdr=fdr, stream=stream)


def calibrate(
    model: ImageModel,
    *,
    calib: Images | Tensor,
    center: Images | Tensor,
    train: Images | Tensor | None = None,
    statistics: Sequence[str] = (),
    background: ImageModel | None = None,
    known: Images | Tensor | None = None,
    samples: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Alarm:
    """All of `outliers` that does not depend on the images to be judged; arguments and errors are those of it, `progress` is over normal and
    calibration images together.

    >>> from pofx.models.autoregressive.pixelcnn import PixelCNN
    >>> from pofx.space import ImageSpace
    >>> x = torch.zeros(20, 1, 3, 3, dtype=torch.uint8)
    >>> model = PixelCNN.small(ImageSpace(1, 3, 3, levels=2))
    >>> calibrate(model, calib=x, center=x).judge(model, x[:2]).outlier.tolist()
    [False, False]
    """
    calib, center = as_images(calib), as_images(center)
    if not len(center):
        raise InputError("outliers needs images for what is normal; the valid part is empty.")
    total = len(center) + len(calib)

    def after(done: int) -> Progress | None:
        if progress is None:
            return None
        tell = progress
        return lambda k, _: tell(done + k, total)

    told = refer(model, train, Known(background=background, samples=samples, seed=seed), features=any("features_" in s for s in statistics))
    if "typicality" in statistics:
        told = replace(told, center=float(measure(model, center, ["bits_per_dim"], told).values.mean()))
    names = chosen(model, told, statistics)
    stats = measure(model, center, names, told, progress=after(0))
    oddness, tried = _oddness.fit(stats), {}
    if known is not None:
        oddness, tried = _oddness.choose(oddness, stats, measure(model, known, names, told))
    scores = oddness(measure(model, calib, names, told, progress=after(len(center))))
    return Alarm(names, told, oddness, scores[_speaking(calib, scores)], calib.each if isinstance(calib, Tiles) else 1, tried)


def outliers(
    model: ImageModel,
    images: Images | Tensor,
    *,
    calib: Images | Tensor,
    center: Images | Tensor,
    train: Images | Tensor | None = None,
    alpha: float = 0.05,
    guarantee: Guarantee = "marginal",
    fdr: float | None = None,
    statistics: Sequence[str] = (),
    background: ImageModel | None = None,
    known: Images | Tensor | None = None,
    stream: bool = False,
    out: str | Path | None = None,
    samples: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Outliers:
    """Flag the odd ones among `images`, with at most a share `alpha` of false alarms.

    Args:
        images: a `Split`, uint8 `(n, C, H, W)`, or `Tiles` of photographs; `calib` is then tiles of photographs of the same size.
        calib: normal images that neither training nor selection saw (`data.calib`).
        center: other normal images, which say what statistics are normal (`data.valid`).
        train: training images, for distances from them; without any, those statistics are left out.
        alpha: share of normal images that may be flagged.
        guarantee: "marginal", over calibration sets, or "calibration": with 95 % confidence for this one.
        fdr: flag instead so that of the flagged images at most this share is normal, on average.
        statistics: names, in the place of all cheap ones.
        background: a model of mutated images, for `over_background`.
        known: a few outliers; they choose between combinations of statistics, before calibration.
        stream: the images came in this order; say whether they drift away from the calibration images.
        out: a folder; writes `scores.parquet` and `scores.csv`.
        samples, seed: draws per image, for a model that gives a bound.

    Raises:
        CapabilityError: the model has nothing that tells odd images, or not the statistic that is asked for.
        InputError: alpha cannot be guaranteed with so few calibration images; images of another space.
        RunError: a statistic that is not finite; the message names the image.

    >>> from pofx.models.autoregressive.pixelcnn import PixelCNN
    >>> from pofx.space import ImageSpace
    >>> x = torch.zeros(20, 1, 3, 3, dtype=torch.uint8)
    >>> int(outliers(PixelCNN.small(ImageSpace(1, 3, 3, levels=2)), x, calib=x, center=x, alpha=0.1).outlier.sum())
    0
    """
    images, calib, center = as_images(images), as_images(calib), as_images(center)
    check_promise(images, calib, alpha=alpha, guarantee=guarantee, fdr=fdr)
    if out is not None:
        check_out(Path(out) / "scores.parquet", TABLES)
    alarm = calibrate(
        model,
        calib=calib,
        center=center,
        train=train,
        statistics=statistics,
        background=background,
        known=known,
        samples=samples,
        seed=seed,
    )
    found = alarm.judge(model, images, alpha=alpha, guarantee=guarantee, fdr=fdr, stream=stream, progress=progress)
    return found if out is None else found.save(out, type(model).__name__)


def check_promise(images: Images, calib: Images, *, alpha: float, guarantee: Guarantee, fdr: float | None) -> None:
    """Raise InputError where what is asked for cannot be guaranteed by these calibration images."""
    each, other = (of.each if isinstance(of, Tiles) else 1 for of in (images, calib))
    if each != other:
        raise InputError(
            f"An image has {each} tiles and a calibration image {other}: the guarantee is of images of one size. "
            "Give good photographs of the same size: --calib DATA"
        )
    rank(alpha, len(whole(calib)), guarantee)
    if fdr is not None:
        benjamini_hochberg(torch.ones(1), fdr)
        if guarantee != "marginal":
            raise InputError(f"--fdr {fdr:g} is a guarantee of its own, over the folder; leave out --guarantee {guarantee}.")


def _speaking(images: Images, score: Tensor) -> Tensor:
    """Positions of the scores that speak for each image: of tiles those of the oddest."""
    return images.oddest(score) if isinstance(images, Tiles) else torch.arange(len(score))


# Costs alone ------------------------------------------------------------------------------------------------------------


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
    """Verdicts from costs alone that are there already: of the images, of calibration images, and of those that give the median."""
    oddness, _ = oddness_from(center.bits_per_dim)
    score = oddness(cost.bits_per_dim)
    return verdicts(ids, score, oddness(calib.bits_per_dim), {"bits_per_dim": cost.bits_per_dim}, alpha=alpha)
