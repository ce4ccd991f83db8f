"""Which class, how sure, and is it any of them? A label with a probability, and a set of labels that can be empty.

For each class y a p-value says how many calibration images of that class are at least as odd for it as x is (Vovk et al. 2005,
"Algorithmic Learning in a Random World", section 4.5, label-conditional conformal prediction):

    p_y(x) = (1 + #{i : y_i = y, s_y(x_i) ≥ s_y(x)}) / (n_y + 1),        Γ(x) = {y : p_y(x) > α}

Whatever the model is worth, P(y ∈ Γ(x) | class y) ≥ 1 − α for images like the calibration images. Γ empty: an outlier, none of these. One
label: the answer. Several: ambiguous. What scores s_y there are depends on what a model can tell:

    density   how far −log p(x | y) lies from its median over class y (`oddness_from`), or −log p(x) of another run
    label     max_y' log p(y' | x) − log p(y | x) ≥ 0: how much less probable than the best label. It never leaves Γ empty

Each gives p-values; of two, p = min(1, 2 min(p_density, p_label)) is one again (Bonferroni). A classifier alone has the second only and
takes noise for a digit: it needs a density. The smallest p-value of n calibration images is k/(n+1), with k scores: a smaller α is refused.

Calibration images are looked at here and nowhere else; medians come from other images (`center`, the valid part).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx import catalog
from pofx.errors import CapabilityError, InputError, RunError
from pofx.model import ClassLikelihood, ExactLikelihood, ImageModel, Labeler, LowerBound, Progress, require
from pofx.tasks._conformal import conformal_p_values, needed
from pofx.tasks._files import TABLES, check_out, write_table
from pofx.tasks.bulk import Images, as_images, everything, per_image, subset
from pofx.tasks.outliers import oddness_from
from pofx.tasks.score import costs
from pofx.views import Label

FEWEST = 30  # valid images of a class from which on it has a median of its own
VERDICTS = ("answer", "ambiguous", "outlier")


@dataclass(frozen=True)
class Share:
    """k of n, with the exact 95 % binomial interval (Clopper and Pearson 1934).

    >>> Share.of(9, 10)
    Share(k=9, n=10, low=0.555, high=0.9975)
    """

    k: int
    n: int
    low: float
    high: float

    @classmethod
    def of(cls, k: int, n: int) -> Share:
        from scipy.stats import binomtest

        found = binomtest(k, n).proportion_ci(0.95, "exact")
        return cls(k, n, round(float(found.low), 4), round(float(found.high), 4))

    @property
    def share(self) -> float:
        return self.k / self.n

    def to_json(self) -> dict[str, Any]:
        return {"share": self.share, "k": self.k, "n": self.n, "interval95": [self.low, self.high]}


@dataclass(frozen=True)
class Coverage:
    """What the sets are worth on held-out labelled images.

    Attributes:
        covered: the true label is in the set; at least 1 − alpha of them should be.
        rejected: the set is empty: false alarms.
        answered: the set is one label; right: of those, that it is the true one (None where none is).
        least: the class that is covered least, and its share.
        chance: the probability that no more are covered, over calibration and held-out images, where the promise is just kept.
    """

    covered: Share
    rejected: Share
    answered: Share
    right: Share | None
    least: tuple[int, Share]
    chance: float

    @property
    def holds(self) -> bool:
        """Whether what is seen is compatible with the promise, at 2.5 %."""
        return self.chance > 0.025

    def to_json(self) -> dict[str, Any]:
        return {
            "covered": self.covered.to_json(),
            "rejected": self.rejected.to_json(),
            "answered": self.answered.to_json(),
            "right": None if self.right is None else self.right.to_json(),
            "least": {"label": self.least[0]} | self.least[1].to_json(),
            "chance": self.chance,
            "holds": self.holds,
        }


@dataclass(frozen=True)
class Classified:
    """The class of each image.

    Attributes:
        ids: names, in order.
        label: int64 `(n,)`, the most probable one; probability: `(n,)`, its p(y | x).
        kind: of log p(y | x).
        p_value: `(n, classes)` float64 in (0, 1], or None without calibration images.
        alpha: share of images of each class whose label the set may miss.
        scores: the scores that p-values rest on, "density", "label".
        calibration: calibration images of each class.
        accuracy: of `label`, where images have labels.
        coverage: on held-out images, where there are any.
    """

    ids: Sequence[str]
    label: Tensor
    probability: Tensor
    kind: str
    p_value: Tensor | None = None
    alpha: float | None = None
    scores: tuple[str, ...] = ()
    calibration: tuple[int, ...] = ()
    accuracy: Share | None = None
    coverage: Coverage | None = None
    path: Path | None = None

    @property
    def sets(self) -> Tensor | None:
        """bool `(n, classes)`: labels that cannot be ruled out."""
        return None if self.p_value is None or self.alpha is None else in_set(self.p_value, self.alpha)

    @property
    def verdicts(self) -> list[str]:
        """ "answer", "ambiguous" or "outlier" for each image; without a reject all are answers."""
        if self.sets is None:
            return ["answer"] * len(self.ids)
        return verdicts_of(self.sets)

    def to_json(self) -> dict[str, Any]:
        verdicts = self.verdicts
        return {
            "n": len(self.ids),
            "kind": self.kind,
            "alpha": self.alpha,
            "scores": list(self.scores),
            "calibration": list(self.calibration),
            "verdicts": {name: verdicts.count(name) for name in VERDICTS},
            "labels": torch.bincount(self.label).tolist(),
            "accuracy": None if self.accuracy is None else self.accuracy.to_json(),
            "coverage": None if self.coverage is None else self.coverage.to_json(),
            "out": None if self.path is None else str(self.path),
        }


def verdicts_of(sets: Tensor) -> list[str]:
    """ "answer", "ambiguous" or "outlier" for each row of bool `(n, classes)`."""
    return [VERDICTS[0] if k == 1 else VERDICTS[1] if k else VERDICTS[2] for k in sets.sum(1).tolist()]


def in_set(p_value: Tensor, alpha: float) -> Tensor:
    """bool `(n, classes)`: the labels that cannot be ruled out at alpha."""
    return p_value > alpha + 1e-12


def as_labeler(model: ImageModel, *, prior: str | tuple[float, ...] = "uniform", samples: int = 16) -> Labeler:
    """A labeler: the model itself, or Bayes' rule over p(x | label).

    Raises:
        CapabilityError: it is neither.
    """
    if isinstance(model, Labeler):
        return model
    if isinstance(model, ExactLikelihood | LowerBound) and isinstance(model.given, Label):
        made = catalog.get("bayes-classifier")
        labeler = made(model.space, conditional=model, classes=model.given.classes, prior=prior, samples=samples)  # type: ignore[call-arg]
        return require(labeler.to(model.device, model.dtype).eval(), Labeler, to="classify")
    name = catalog.name_of(model)
    if isinstance(model, ExactLikelihood | LowerBound):
        raise CapabilityError(
            f"This {type(model).__name__} was trained without labels: it cannot classify. "
            f"Train p(x | label): pofx train {name} DATA --given label --out RUN, or p(y | x): pofx train classifier DATA --out RUN"
        )
    return require(model, Labeler, to="classify (no p(y | x), and no p(x | label) with a likelihood)")


def check_alpha(alpha: float, counts: Sequence[int], scores: int, pooled: bool) -> None:
    """Raise InputError where the calibration images cannot give a p-value as small as alpha.

    Args:
        counts: calibration images of each class; scores: how many p-values each rests on.
        pooled: one set of calibration images for all classes.
    """
    if not 0 < alpha < 1:
        raise InputError(f"--alpha {alpha} must be between 0 and 1, e.g. --alpha 0.05.")
    fewest = needed(alpha / scores)
    total = sum(counts)
    found, who = (total, "all classes together have") if pooled else (min(counts), f"class {list(counts).index(min(counts))} has")
    if found >= fewest:
        return
    least = math.ceil(1000 * scores / (found + 1)) / 1000
    ways = [f"--alpha {least:g} or more"] if least < 1 else []
    if not pooled and total >= fewest:
        ways.append("--pooled, which guarantees it for all classes together, not for each")
    raise InputError(
        f"alpha={alpha:g} takes {fewest} calibration images{'' if pooled else ' of each class'}; {who} {found}. "
        + (f"With these, use {'; or '.join(ways)}." if ways else "Give data with more of them, or --no-reject.")
    )


@dataclass(frozen=True)
class Told:
    """What a model tells of images: log p(y | x) `(n, classes)`, and costs −log p(x | y) `(n, classes)` or −log p(x) `(n, 1)`, or None."""

    log_prob: Tensor
    cost: Tensor | None
    y: Tensor | None


def tell(
    model: Labeler, density: ImageModel | None, images: Images, *, samples: int = 16, seed: int = 0, progress: Progress | None = None
) -> Told:
    """What a labeler, and p(x) of another run where there is one, tell of images.

    Raises:
        RunError: a number that is not finite.
    """
    n = model.classes

    def told(x: Tensor, y: Tensor | None) -> Tensor:
        label = torch.full((len(x),), -1) if y is None else y.cpu()
        if isinstance(model, ClassLikelihood):
            # log p(y | x) follows from what costs most, once
            likelihood = model.class_log_prob(x).log_prob.double().cpu()
            return torch.cat(
                [(likelihood + model.log_class_prior().double().cpu()).log_softmax(1), -likelihood, label[:, None].double()], 1
            )
        log_prob = model.label(model.space.check(x).to(model.device)).log_prob.double().cpu()
        return torch.cat([log_prob, label[:, None].double()], 1)

    found = per_image(model, told, images, progress=progress)
    bad = (~found.isfinite().all(1)).nonzero().flatten()
    if len(bad):
        raise RunError(
            f"What the model says of image {images.ids[int(bad[0])]!r} is not finite ({len(bad)} of {len(found)} images). "
            "The weights may be damaged, or the run diverged: use an earlier checkpoint, or train again with a lower --lr."
        )
    y = found[:, -1].long()
    cost = found[:, n:-1] if isinstance(model, ClassLikelihood) else None
    if cost is None and density is not None:
        cost = costs(density, images, samples=samples, seed=seed).nats[:, None]
    return Told(found[:, :n], cost, None if bool((y < 0).all()) else y)


def _labelled(told: Told, classes: int, what: str) -> Tensor:
    if told.y is None:
        raise InputError(f"The {what} images have no labels, and a reject needs them. Use --no-reject for labels and probabilities alone.")
    bad = told.y[(told.y < 0) | (told.y >= classes)]
    if len(bad):
        raise InputError(f"Label {int(bad[0])} of the {what} images is outside 0 … {classes - 1} of this model.")
    return told.y


@dataclass(frozen=True)
class Rejecter:
    """Scores of calibration images, and what makes scores of others: `p_values(told)`."""

    oddness: Any  # of costs `(n, 1 or classes)` → `(n, 1 or classes)`, or None
    calib: tuple[Tensor, ...]  # scores at the true label, `(m,)` each
    y: Tensor
    classes: int
    pooled: bool

    def scores(self, told: Told) -> list[Tensor]:
        behind = told.log_prob.amax(1, keepdim=True) - told.log_prob
        return ([] if self.oddness is None else [self.oddness(told.cost).expand(-1, self.classes)]) + [behind]

    def p_values(self, told: Told) -> Tensor:
        """`(n, classes)`, combined by Bonferroni."""
        found = []
        for score, calib in zip(self.scores(told), self.calib, strict=True):
            columns = [conformal_p_values(score[:, y].clone(), calib if self.pooled else calib[self.y == y]) for y in range(self.classes)]
            found.append(torch.stack(columns, 1))
        return (len(found) * torch.stack(found).amin(0)).clamp(max=1)


def rejecter_of(calib: Told, center: Told | None, classes: int, *, pooled: bool = False) -> Rejecter:
    """From what a model tells of calibration images, and of other images that give median costs; whether an alpha can be had says `check_alpha`.

    Raises:
        InputError: images without labels, or with one outside of the model's classes.
    """
    y = _labelled(calib, classes, "calibration")
    oddness = None
    if calib.cost is not None and center is not None and center.cost is not None:
        cost = center.cost
        if cost.shape[1] == 1:
            whole = oddness_from(cost[:, 0])[0]
            oddness = whole
        else:
            at = _labelled(center, classes, "valid")
            own = cost.gather(1, at[:, None])[:, 0]
            # A class with few valid images takes the median of all: it is then less sharp, and no less valid.
            columns = [oddness_from(own[at == k] if int((at == k).sum()) >= FEWEST else own)[0] for k in range(classes)]

            def by_class(found: Tensor) -> Tensor:
                return torch.stack([f(found[:, k]) for k, f in enumerate(columns)], 1)

            oddness = by_class
    rejecter = Rejecter(oddness, (), y, classes, pooled)
    mine = tuple(score.gather(1, y[:, None])[:, 0] for score in rejecter.scores(calib))
    return Rejecter(oddness, mine, y, classes, pooled)


def chance_of(missed: int, groups: Sequence[tuple[int, int]], alpha: float) -> float:
    """P(at least so many are missed) where sets keep their promise and no more.

    With n calibration images and l = ⌊α(n+1)⌋ the share that is missed is Beta(l, n+1−l), so that of m held-out images a beta-binomial
    number is; numbers of several classes add.

    Args:
        groups: (m, n) of each class, or of all together.

    >>> round(chance_of(1, [(1, 19)], 0.05), 6)
    0.05
    """
    from scipy.stats import betabinom

    total = np.ones(1)
    for m, n in groups:
        low = math.floor(alpha * (n + 1) + 1e-9)
        if m:
            total = np.convolve(total, betabinom.pmf(np.arange(m + 1), m, low, n + 1 - low) if low else np.eye(1, m + 1)[0])
    return float(min(1.0, total[missed:].sum()))


def coverage(p_value: Tensor, y: Tensor, alpha: float, calibration: Sequence[int], *, pooled: bool = False) -> Coverage:
    """What sets of p-values `(n, classes)` at level alpha are worth where labels int64 `(n,)` are known.

    Args:
        calibration: images of each class that the p-values rest on; pooled: on all of them together.

    >>> found = coverage(torch.tensor([[0.9, 0.01], [0.3, 0.4], [0.01, 0.02]]), torch.tensor([0, 1, 1]), 0.05, [19, 19])
    >>> found.covered.k, found.rejected.k, found.answered.k
    (2, 1, 1)
    """
    sets = in_set(p_value, alpha)
    size, hit = sets.sum(1), sets.gather(1, y[:, None])[:, 0]
    one = size == 1
    classes = [(int(k), Share.of(int(hit[y == k].sum()), int((y == k).sum()))) for k in y.unique()]
    covered = Share.of(int(hit.sum()), len(y))
    groups = [(len(y), sum(calibration))] if pooled else [(seen.n, calibration[k]) for k, seen in classes]
    right = Share.of(int(hit[one].sum()), int(one.sum())) if bool(one.any()) else None
    return Coverage(
        covered,
        Share.of(int((size == 0).sum()), len(y)),
        Share.of(int(one.sum()), len(y)),
        right,
        min(classes, key=lambda found: found[1].share),
        chance_of(covered.n - covered.k, groups, alpha),
    )


def classify(
    model: ImageModel,
    images: Images | Tensor,
    *,
    calib: Images | Tensor | None = None,
    center: Images | Tensor | None = None,
    held_out: Images | Tensor | None = None,
    density: ImageModel | None = None,
    alpha: float = 0.05,
    pooled: bool = False,
    prior: str | tuple[float, ...] = "uniform",
    names: Sequence[str] | None = None,
    out: str | Path | None = None,
    samples: int = 16,
    seed: int = 0,
    progress: Progress | None = None,
) -> Classified:
    """Label each image, with its probability; with `calib` also say where no label fits, or several do.

    Args:
        model: a Labeler, or p(x | label) with a likelihood or a bound, which Bayes' rule makes one.
        images: a `Split`, or uint8 `(n, C, H, W)`.
        calib: labelled images that neither training nor selection saw (`data.calib`).
        center: other labelled images that give median costs (`data.valid`); needed where there is a density.
        held_out: labelled images on which coverage is checked (`data.test`); by default `images`, where they have labels.
        density: p(x) of the same images, for a model without p(x | y).
        alpha: share of images of each class whose set may miss their label.
        pooled: calibrate all classes together; the guarantee is then for all together.
        prior: p(y), for p(x | label).
        names: of classes, for the table.
        out: `.parquet`, `.csv` or `.jsonl`: id, label, probability, p_value, verdict, labels (of the set), kind.
        samples: draws per image and class, for models with a bound.

    Raises:
        CapabilityError: the model cannot classify; the density has no likelihood.
        InputError: too few calibration images of a class for alpha, labels outside the range, images of another space.
        RunError: a number that is not finite.

    >>> from pofx.models.discriminative.classifier import Classifier
    >>> from pofx.space import ImageSpace
    >>> classify(Classifier.small(ImageSpace(1, 3, 3, levels=2)), torch.zeros(4, 1, 3, 3, dtype=torch.uint8)).verdicts
    ['answer', 'answer', 'answer', 'answer']
    """
    path = None if out is None else check_out(out, TABLES)
    labeler, images = as_labeler(model, prior=prior, samples=samples), as_images(images)
    check_density(labeler, density)
    if (
        calib is not None
        and (isinstance(labeler, ClassLikelihood) or density is not None)
        and (center is None or not len(as_images(center)))
    ):
        raise InputError("classify needs images for median costs; give center=data.valid, whose part must not be empty.")

    def told_of(what: Images | Tensor, progress: Progress | None = None) -> Told:
        return tell(labeler, density, as_images(what), samples=samples, seed=seed, progress=progress)

    rejecter = None
    if calib is not None:
        _enough(as_images(calib), labeler, density, alpha, pooled)
        rejecter = rejecter_of(told_of(calib), None if center is None else told_of(center), labeler.classes, pooled=pooled)
    told = told_of(images, progress)
    sure, label = told.log_prob.max(1)
    kind = labeler.label(images.take(torch.zeros(1, dtype=torch.long))[0]).kind
    accuracy = None
    if told.y is not None and bool((told.y < labeler.classes).all()) and held_out is None:
        accuracy = Share.of(int((label == told.y).sum()), len(label))
    result = Classified(list(images.ids), label, sure.exp(), kind, accuracy=accuracy)
    if rejecter is not None:
        p_value = rejecter.p_values(told)
        counts = tuple(torch.bincount(rejecter.y, minlength=labeler.classes).tolist())
        check = told if held_out is None else told_of(held_out)
        seen = None
        if check.y is not None:
            y = _labelled(check, labeler.classes, "held-out")
            seen = coverage(p_value if held_out is None else rejecter.p_values(check), y, alpha, counts, pooled=pooled)
        result = Classified(
            result.ids,
            label,
            sure.exp(),
            kind,
            p_value,
            alpha,
            (*(("density",) if rejecter.oddness is not None else ()), "label"),
            counts,
            accuracy,
            seen,
        )
    if path is not None:
        write_table(path, _columns(result, names), {"model": type(model).__name__, "alpha": str(result.alpha)})
        result = Classified(**{f: getattr(result, f) for f in result.__dataclass_fields__ if f != "path"}, path=path)
    return result


def check_density(labeler: Labeler, density: ImageModel | None) -> None:
    """Refuse a density that says nothing of these images, or that is not needed.

    Raises:
        CapabilityError: it has no likelihood and no bound.
        InputError: it is of other images, or conditional; the labeler has p(x | y) itself.
    """
    if density is None:
        return
    require(density, ExactLikelihood, LowerBound, to="say how odd an image is (no likelihood, no bound)")
    if density.space != labeler.space or density.given is not None:
        found = density.space if density.space != labeler.space else f"p(x | {density.given})"
        raise InputError(f"--density must be p(x) of the same images ({labeler.space}); it is {found}.")
    if isinstance(labeler, ClassLikelihood):
        raise InputError("--density is for a classifier without p(x | y); this run has one of its own. Leave --density out.")


def _enough(calib: Images, labeler: Labeler, density: ImageModel | None, alpha: float, pooled: bool) -> None:
    """Refuse an alpha that cannot be had before hours are spent on it."""
    if not len(calib):
        raise InputError("There are no calibration images, and a reject needs them. Use --no-reject for labels and probabilities alone.")
    y = _y(calib)
    told = Told(torch.zeros(0, 1), None, y)
    y = _labelled(told, labeler.classes, "calibration")
    scores = 2 if isinstance(labeler, ClassLikelihood) or density is not None else 1
    check_alpha(alpha, torch.bincount(y, minlength=labeler.classes).tolist(), scores, pooled)


def _y(images: Images) -> Tensor | None:
    y = getattr(images, "y", None)
    return y if isinstance(y, Tensor) else everything(subset(images, None))[1]


def _columns(result: Classified, names: Sequence[str] | None) -> dict[str, Sequence[Any]]:
    def name(y: int) -> str:
        return str(y) if names is None or y >= len(names) else str(names[y])

    columns: dict[str, Sequence[Any]] = {
        "id": result.ids,
        "label": result.label.tolist(),
        **({} if names is None else {"name": [name(y) for y in result.label.tolist()]}),
        "probability": result.probability.tolist(),
    }
    if result.p_value is not None and result.sets is not None:
        columns["p_value"] = result.p_value.amax(1).tolist()
        columns["verdict"] = result.verdicts
        columns["labels"] = [" ".join(name(int(y)) for y in row.nonzero().flatten()) for row in result.sets]
    return columns | {"kind": [result.kind] * len(result.ids)}
