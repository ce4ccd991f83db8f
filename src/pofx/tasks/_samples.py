"""Samples against real images: drawing them fairly, and what is measured in the features of a model.

    Fréchet distance, KID     how far the samples' features lie from those of real images
    precision, density        how many samples look real;   recall, coverage: how much of reality they reach
    sharpness                 Laplacian variance, in pixels
    classes                   where the features model labels; of p(x | label), how many samples it gives the label that was asked for

Not one of them is a property of the samples alone: n on both sides, the split, the features and how images were resized for them move each
more than many models do. So all of that is in the result, beside what training images get, as many as there are samples, in the samples' place.
"""

from __future__ import annotations

import functools
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pofx.catalog import name_of
from pofx.errors import InputError
from pofx.metrics.frechet import Frechet, frechet
from pofx.metrics.kid import KernelDistance, kernel_distance
from pofx.metrics.label_coverage import LabelCoverage, label_coverage
from pofx.metrics.mean import Mean
from pofx.metrics.precision_recall import PrecisionRecall, precision_recall
from pofx.metrics.sharpness import Sharpness, sharpness
from pofx.model import Features, ImageModel, Labeler, Progress, Sampler
from pofx.space import ImageSpace
from pofx.tasks.bulk import Images, Subset, everything, per_image, subset
from pofx.views import Label

if TYPE_CHECKING:
    from pofx.data import Data

NEIGHBOURS = 3  # k of precision and recall


@dataclass(frozen=True)
class RealImages:
    """What n training images get in the place of the samples: what perfect samples would.

    Attributes:
        sharpness: theirs and that of the reference; None below 3×3 pixels.
        others: Fréchet distances of other random subsets of n training images; a distance of few images hangs on which they are.
    """

    frechet: Frechet
    kid: KernelDistance
    precision_recall: PrecisionRecall
    sharpness: Sharpness | None
    others: tuple[float, ...]

    @property
    def span(self) -> tuple[float, float]:
        """The least and the largest Fréchet distance of the subsets."""
        every = (self.frechet.distance, *self.others)
        return min(every), max(every)

    def to_json(self) -> dict[str, Any]:
        return {
            "n": self.frechet.n,
            "frechet": self.frechet.distance,
            "frechet_of_other_subsets": list(self.others),
            "kid": self.kid.distance,
            "kid_se": _finite(self.kid.se),
            **self.precision_recall.measures,
            "sharpness": None if self.sharpness is None else sharpness_json(self.sharpness),
        }


@dataclass(frozen=True)
class Agreement:
    """Samples of p(x | label) as the features model labels them, which is wrong now and then: about real images too.

    Attributes:
        samples: share that get the label they were drawn for.
        real: share of the reference that get their own label, or None where it has none.
    """

    samples: Mean
    real: Mean | None

    def to_json(self) -> dict[str, float | None]:
        real = self.real or Mean(math.nan, math.nan)
        return {"share": self.samples.mean, "se": _finite(self.samples.se), "real": _finite(real.mean), "real_se": _finite(real.se)}

    def __str__(self) -> str:
        real = "" if self.real is None else f"; of real images, {self.real.mean:.2%} ± {self.real.se:.2%} get their own"
        return f"{self.samples.mean:.2%} ± {self.samples.se:.2%} of the samples get the label they were drawn for{real}"


@dataclass(frozen=True)
class SampleQuality:
    """Samples against real images, in the features of one model.

    Attributes:
        features: name of the run or network the features come from.
        frechet, kid, precision_recall: samples against the reference split.
        real: training images (as many) against the same, or None where there are none.
        coverage: classes of the samples, where the features model gives most images of the reference their own label.
        agreement: its labels of samples of p(x | label) with those that were asked for.
        sharpness: Laplacian variance of samples and of the reference; None below 3×3 pixels.
        space: of the images: their size and levels.
        data, split: what the reference is of.
        resizing: how images were resized for the features; "none" where they were not.
    """

    features: str
    frechet: Frechet
    kid: KernelDistance
    precision_recall: PrecisionRecall
    real: RealImages | None
    coverage: LabelCoverage | None
    agreement: Agreement | None
    sharpness: Sharpness | None
    space: ImageSpace
    data: str = ""
    split: str = ""
    resizing: str = "none"

    @property
    def shares(self) -> dict[str, float] | None:
        """Precision, recall, density and coverage, each over what real images get."""
        return None if self.real is None else self.precision_recall.shares(self.real.precision_recall)

    @property
    def quantisation(self) -> str:
        """How samples were rounded before they were measured: as the model gave them, to integers."""
        return f"uint8, {self.space.levels} levels"

    @property
    def protocol(self) -> str:
        """All that must be equal for these numbers to compare with others, in a line."""
        f = self.frechet
        of = " ".join(word for word in (self.split, "images", f"of {self.data}" if self.data else "") if word)
        return (
            f"{f.n:,} samples against {f.n_reference:,} {of}; {f.dims} features of {self.features}; "
            f"resizing: {self.resizing} ({self.space.height}×{self.space.width}); {self.quantisation}; k = {self.precision_recall.k}; "
            f"KID over {self.kid.blocks} blocks" + ("" if self.kid.scale == 1 else f", of features ÷ {self.kid.scale:.3g}")
        )

    def to_json(self) -> dict[str, Any]:
        f, pr, shares, sharp = self.frechet, self.precision_recall, self.shares, self.sharpness
        return {
            "features": self.features,
            "frechet": f.distance,
            "frechet_of_real_images": None if self.real is None else self.real.frechet.distance,
            "n": f.n,
            "n_reference": f.n_reference,
            "feature_dims": f.dims,
            "reliable": f.reliable,
            "kid": self.kid.distance,
            "kid_se": _finite(self.kid.se),
            "kid_blocks": self.kid.blocks,
            "kid_scale": self.kid.scale,
            **pr.measures,
            "k": pr.k,
            "of_real_images": None if self.real is None else self.real.to_json(),
            "shares": None if shares is None else {name: _finite(value) for name, value in shares.items()},
            "sharpness": None if sharp is None else sharpness_json(sharp),
            "classes": None if self.coverage is None else list(self.coverage.counts),
            "classes_covered": None if self.coverage is None else self.coverage.covered,
            "least_class_share": None if self.coverage is None else self.coverage.least,
            "of_the_asked_class": None if self.agreement is None else self.agreement.to_json(),
            "data": self.data,
            "split": self.split,
            "size": [self.space.height, self.space.width],
            "resizing": self.resizing,
            "quantisation": self.quantisation,
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def sharpness_json(found: Sharpness) -> dict[str, float | None]:
    """Both means with their standard errors, and the share."""
    return {
        "samples": found.samples,
        "samples_se": _finite(found.samples_se),
        "real": found.real,
        "real_se": _finite(found.real_se),
        "share": _finite(found.share),
        "share_se": _finite(found.share_se),
    }


def draws(model: Sampler, n: int, like: Images, *, seed: int = 0, progress: Progress | None = None) -> Tensor:
    """n samples, uint8 `(n, C, H, W)`; a conditional model is given the views of `like`'s images in turn (see `viewed`)."""
    return model.sample(n, views_in_turn(model, n, like), seed=seed, progress=progress).cpu().clone()


def views_in_turn(model: ImageModel, n: int, like: Images) -> Tensor | None:
    """The views of `like`'s images in turn, n of them; None for p(x)."""
    return None if model.given is None else model.given.value(*like.take(torch.arange(n) % len(like)))


def labels_in_turn(model: ImageModel, n: int, like: Images) -> Tensor | None:
    """The labels that `draws` gives to a model of p(x | label), `(n,)`; None for any other."""
    return views_in_turn(model, n, like) if isinstance(model.given, Label) else None


def viewed(model: ImageModel, reference: Images, data: Data | None = None, *, seed: int = 0) -> tuple[Images, Images, str]:
    """Whose views the samples of a conditional model get: never those of the images that they are measured against.

    A view holds pixels, or almost: samples given the reference's own would be near it whatever the model learned. Labels hold none.

    Returns:
        the images whose views are given: the reference for labels, else `data.valid` (never calib), else half of the reference;
        the images to measure against, the other half in the last case;
        what a reader must know, "" for p(x).

    Raises:
        InputError: one image alone cannot be halved.
    """
    if model.given is None:
        return reference, reference, ""
    like, where = reference, f"the labels of the {len(reference):,} images that they are measured against"
    if not isinstance(model.given, Label):
        if data is not None and len(data.valid):
            like, where = data.valid, f"the views of the {len(data.valid):,} valid images"
        else:
            order = torch.randperm(len(reference), generator=torch.Generator().manual_seed(seed))
            half = len(order) // 2
            if not half:
                raise InputError(
                    f"Samples given {model.given!r} need the views of other images than they are measured against: give two or more."
                )
            like, reference = Subset(reference, order[:half].sort().values), Subset(reference, order[half:].sort().values)
            where = f"the views of {half:,} images, a random half; the other half is what they are measured against"
    note = (
        f"Samples of p(x | {model.given!r}) got {where}, in turn. "
        "Numbers of conditional samples do not compare with those of unconditional samples or of another view."
    )
    return like, reference, note


def feature_vectors(model: Features, images: Images | Tensor, *, layer: str | None = None, progress: Progress | None = None) -> Tensor:
    """`(n, d)` float64 features, in fixed batches."""
    return per_image(model, lambda x, _: model.features(x, layer).double(), images, progress=progress)


def sharpness_of(samples: Tensor, reference: Images, levels: int) -> Sharpness | None:
    """Sharpness of samples uint8 `(n, C, H, W)` beside real images; None where images are too small to have one."""
    return None if min(samples.shape[2:]) < 3 else sharpness(samples, everything(reference)[0], levels)


@dataclass(frozen=True)
class Yardstick:
    """Real images in the features of a model, to measure any number of sets of samples against; see `yardstick`.

    Attributes:
        model: whose features they are.
        reference: images to measure against; features: theirs, float64 `(m, d)`.
        real: what training images get.
        name, layer, data, split, resizing: kept in the results (see `SampleQuality`).
        scale: what features are divided by for KID.
    """

    model: Features
    reference: Images
    features: Tensor
    real: RealImages | None
    name: str
    layer: str | None
    data: str
    split: str
    resizing: str
    scale: float

    def measure(self, samples: Tensor, asked: Tensor | None = None) -> SampleQuality:
        """Samples uint8 `(n, C, H, W)`; of p(x | label), the labels they were drawn for, `(n,)`.

        Raises:
            InputError: images of another space; not more than 3 of them.
        """
        fake = feature_vectors(self.model, samples, layer=self.layer)
        coverage = agreement = None
        if isinstance(self.model, Labeler):
            log_prob = _labelled(self.model, samples)
            if self._right is not None and self._right.mean > 0.5:  # its classes are those of the images
                coverage = label_coverage(log_prob)
            if asked is not None and int(asked.min()) >= 0:
                agreement = Agreement(Mean.of(log_prob.argmax(1) == asked.to(log_prob.device)), self._right)
        return SampleQuality(
            self.name,
            *_distances(fake, self.features, self.scale),
            self.real,
            coverage,
            agreement,
            sharpness_of(samples, self.reference, self.model.space.levels),
            self.model.space,
            self.data,
            self.split,
            self.resizing,
        )

    @functools.cached_property
    def _right(self) -> Mean | None:
        """The share of the reference whose own label the features model gives; the same for all that is measured."""
        assert isinstance(self.model, Labeler)
        y = everything(self.reference)[1]
        return None if y is None else Mean.of(_labelled(self.model, self.reference).argmax(1) == y)


def _labelled(labeler: Labeler, images: Images | Tensor) -> Tensor:
    return per_image(labeler, lambda x, _: labeler.label(x).log_prob, images)


def yardstick(
    model: Features,
    reference: Images,
    train: Images | None,
    n: int,
    *,
    name: str = "",
    layer: str | None = None,
    data: str = "",
    split: str = "",
    resizing: str = "none",
    published: bool = False,
) -> Yardstick:
    """Real images in the features of a model.

    Args:
        train: training images, of which n (or as many as there are) are measured in the place of samples; None for no such number.
        n: how many samples will be measured.
        published: the features are of a published network, and KID takes them as they are, to compare with published numbers; else they are
            divided by the root mean square of the reference's.

    Raises:
        InputError: images of another space; not more than 3 in the reference.
    """
    vectors, real = feature_vectors(model, reference, layer=layer), None
    scale = 1.0 if published else float(vectors.square().mean().sqrt()) or 1.0
    if train is not None and len(train) > NEIGHBOURS:
        chosen = subset(train, n, seed=1)
        others = () if published or len(train) <= n else (2, 3, 4)
        real = RealImages(
            *_distances(feature_vectors(model, chosen, layer=layer), vectors, scale),
            sharpness_of(everything(chosen)[0], reference, model.space.levels),
            tuple(_frechet(feature_vectors(model, subset(train, n, seed=seed), layer=layer), vectors).distance for seed in others),
        )
    return Yardstick(model, reference, vectors, real, name or name_of(model), layer, data, split, resizing, scale)


def _distances(fake: Tensor, real: Tensor, scale: float) -> tuple[Frechet, KernelDistance, PrecisionRecall]:
    return _frechet(fake, real), kernel_distance(fake, real, scale=scale), precision_recall(fake, real, NEIGHBOURS)


def _frechet(fake: Tensor, real: Tensor) -> Frechet:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # said in the result
        return frechet(fake, real)
