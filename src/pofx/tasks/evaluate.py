"""How good is the model, honestly? Mean cost with its standard error on train, valid and test, and the gap between them.

    mean = Σ cost / n,   se = sd / √n (n−1 in sd),   gap = mean(test) − mean(train),   se(gap)² = se(test)² + se(train)²

Every number carries its kind. Samplers are compared with real images in the features of another model (`tasks/_samples.py`), and checked for
copies of the training images. A sampler without a likelihood gets no nats: `kind` is then "none".
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pofx.catalog import name_of
from pofx.errors import InputError
from pofx.metrics.active_units import active_units
from pofx.metrics.calibration import Calibration, calibration, tempered
from pofx.metrics.mean import Mean, cost_json
from pofx.metrics.memorization import Evidence, Memorization, copies, membership
from pofx.model import (
    Decoder,
    Encoder,
    ExactLikelihood,
    Features,
    ImageModel,
    Labeler,
    LatentVariable,
    LowerBound,
    Progress,
    Sampler,
    Score,
)
from pofx.numbers import SIGNS
from pofx.tasks._parts import Parts, taken_apart
from pofx.tasks._samples import NEIGHBOURS, SampleQuality, draws, labels_in_turn, viewed, yardstick
from pofx.tasks.bulk import Images, as_images, everything, per_image, subset
from pofx.tasks.reconstruct import squared_errors
from pofx.tasks.score import costs

if TYPE_CHECKING:
    from pofx.data import Data

TRAIN_LIMIT = 2000  # training images whose cost is measured
DRAWS = 2000  # samples drawn for distances, at most
COPY_DRAWS = 200  # samples drawn where only copies are looked for
REFERENCE_LIMIT = 10_000  # real images they are compared with, at most
NEIGHBOUR_BYTES = 256 * 2**20  # pixels of training images searched for copies, at most: all of MNIST or CIFAR-10


@dataclass(frozen=True)
class Latents:
    """The bound in its parts, at β = 1: cost = reconstruction + kl.

    Attributes:
        reconstruction: −E_q[log p(x | z)], nats per image.
        kl: KL(q(z|x) ‖ p(z)), nats per image.
        kl_per_dimension: its mean over images for each latent dimension, nats.
        active: dimensions that say something of the image (`metrics/active_units.py`).
    """

    reconstruction: Mean
    kl: Mean
    kl_per_dimension: tuple[float, ...]
    active: int

    def to_json(self) -> dict[str, Any]:
        return {
            "reconstruction": self.reconstruction.to_json(),
            "kl": self.kl.to_json(),
            "kl_per_dimension": list(self.kl_per_dimension),
            "active_units": self.active,
            "latents": len(self.kl_per_dimension),
        }


@dataclass(frozen=True)
class Calibrated:
    """Whether probabilities of labels mean what they say.

    Attributes:
        after, before: expected calibration error with and without the fitted temperature (`metrics/calibration.py`).
        temperature: what logits are divided by; fitted on validation images, so that part flatters it a little.
    """

    after: Calibration
    before: Calibration
    temperature: float

    def to_json(self) -> dict[str, Any]:
        return {
            "ece": self.after.ece,
            "ece_before": self.before.ece,
            "temperature": self.temperature,
            "bins": self.after.bins,
            "binning": self.after.binning,
        }


@dataclass(frozen=True)
class SplitResult:
    """What was measured on one split.

    Attributes:
        n: images measured, of `of` that there are.
        kind: "exact", "lower bound", "estimate", or "none".
        nats, bits_per_dim: mean cost, or None without a likelihood.
        accuracy, cross_entropy: of a Labeler against the labels; cross-entropy −log p(y | x) in nats.
        calibration: of a Labeler, expected calibration error before and after its temperature.
        estimate: the importance-weighted numbers of a model with a bound, over `k` draws.
        latents: the parts of the bound of a latent-variable model.
        squared_error: ‖x − x̂‖² of reconstructions, pixels on [0, 1], summed over an image; of what encodes and decodes.
    """

    split: str
    n: int
    of: int
    kind: str = "none"
    nats: Mean | None = None
    bits_per_dim: Mean | None = None
    accuracy: Mean | None = None
    cross_entropy: Mean | None = None
    calibration: Calibrated | None = None
    estimate: SplitResult | None = None
    k: int | None = None
    latents: Latents | None = None
    squared_error: Mean | None = None

    @property
    def sign(self) -> str:
        """=, ≤ or ≈: how the printed cost relates to the true one."""
        return SIGNS[self.kind]

    def to_json(self) -> dict[str, Any]:
        result: dict[str, Any] = {
            "split": self.split,
            "n": self.n,
            "of": self.of,
            "kind": self.kind,
            **cost_json(self.nats, self.bits_per_dim),
        }
        if self.k is not None:
            result["k"] = self.k
        if self.accuracy is not None and self.cross_entropy is not None:
            result |= {"accuracy": self.accuracy.to_json(), "cross_entropy": self.cross_entropy.to_json()}
        if self.calibration is not None:
            result["calibration"] = self.calibration.to_json()
        if self.estimate is not None:
            result["estimate"] = self.estimate.to_json()
        if self.latents is not None:
            result["latents"] = self.latents.to_json()
        if self.squared_error is not None:
            result["squared_error"] = self.squared_error.to_json()
        return result


@dataclass(frozen=True)
class Evaluation:
    """Numbers of a model on data; the top level describes `split` (test).

    Attributes:
        model: its name; data: the heading, transforms included.
        splits: by name, in the order train, valid, test.
        gap: cost(test) − cost(train) in nats and in bits/dim, or None.
        memorization: the flag and its evidence.
        quality: samples against real images, where a features model was given.
        notes: what a reader must know.
        measured: for each split, the images that were scored and their scores; not in the JSON.
        parts: of `split`, the bound in its parts, image by image, of a latent-variable model; not in the JSON.
        drawn: the samples; the JSON holds their number.
    """

    model: str
    data: str
    split: str
    given: str | None
    splits: dict[str, SplitResult]
    gap: tuple[Mean, Mean] | None = None
    memorization: Memorization | None = None
    quality: SampleQuality | None = None
    notes: tuple[str, ...] = ()
    measured: dict[str, tuple[Images, Score]] = field(default_factory=dict, repr=False)
    drawn: Tensor | None = field(default=None, repr=False)
    parts: Parts | None = field(default=None, repr=False)

    @property
    def main(self) -> SplitResult:
        return self.splits[self.split]

    def to_json(self) -> dict[str, Any]:
        result = {"model": self.model, "data": self.data, "given": self.given} | self.main.to_json()
        result["splits"] = {name: part.to_json() for name, part in self.splits.items()}
        result["gap"] = None if self.gap is None else {"nats": self.gap[0].to_json(), "bits_per_dim": self.gap[1].to_json()}
        result["memorization"] = None if self.memorization is None else self.memorization.to_json()
        result["drawn"] = 0 if self.drawn is None else len(self.drawn)
        result["samples"] = None if self.quality is None else self.quality.to_json()
        result["notes"] = list(self.notes)
        return result


def _measure(
    model: ImageModel, name: str, images: Images, of: int, *, samples: int, estimate: int, seed: int, progress: Progress | None
) -> tuple[SplitResult, Score | None, Parts | None]:
    result, score = SplitResult(name, len(images), of), None
    parts = taken_apart(model, images, samples=samples, seed=seed, progress=progress) if isinstance(model, LatentVariable) else None
    if isinstance(model, ExactLikelihood | LowerBound):
        score = costs(model, images, samples=samples, seed=seed, progress=progress) if parts is None else parts.score
        result = replace(result, kind=score.kind, nats=Mean.of(score.nats), bits_per_dim=Mean.of(score.bits_per_dim))
        if estimate and isinstance(model, LowerBound):
            better = costs(model, images, estimate=estimate, seed=seed, progress=progress)
            tighter = SplitResult(name, len(images), of, better.kind, Mean.of(better.nats), Mean.of(better.bits_per_dim), k=estimate)
            result = replace(result, estimate=tighter)
    if parts is not None:
        result = replace(result, latents=_latents(parts))
    if isinstance(model, Encoder) and isinstance(model, Decoder):
        result = replace(result, squared_error=Mean.of(squared_errors(model, images, progress=progress)))
    if isinstance(model, Labeler) and images.take(torch.tensor([0]))[1] is not None:
        labeler = model

        def judge(x: Tensor, y: Tensor | None) -> Tensor:
            assert y is not None
            log_prob = labeler.label(labeler.space.check(x).to(labeler.device)).log_prob.double().cpu()
            inside = (y >= -1) & (y < log_prob.shape[1])  # −1: nobody knows
            if not bool(inside.all()):
                raise InputError(f"Label {int(y[~inside][0])} is outside 0 … {log_prob.shape[1] - 1} of this model.")
            sure, found = log_prob.max(1)
            before = tempered(log_prob, labeler.fitted_temperature()).max(1).values
            nats = -log_prob.gather(1, y.clamp(min=0)[:, None])[:, 0]
            return torch.stack([(found == y).double(), nats, sure.exp(), before.exp(), (y >= 0).double()], 1)

        judged = per_image(model, judge, images, progress=progress)
        right, nats, sure, before, _ = judged[judged[:, -1] > 0].unbind(1)
        ece = Calibrated(calibration(sure, right), calibration(before, right), labeler.fitted_temperature())
        result = replace(result, accuracy=Mean.of(right), cross_entropy=Mean.of(nats), calibration=ece)
    return result, score, parts


def _latents(parts: Parts) -> Latents:
    kl = parts.kl
    return Latents(Mean.of(-parts.log_likelihood), Mean.of(kl.sum(1)), tuple(kl.mean(0).tolist()), active_units(parts.mean))


def train_images(data: Data, *, seed: int = 0) -> Tensor:
    """Training images to search for copies in: all, or a fixed random choice that fits into NEIGHBOUR_BYTES."""
    return everything(subset(data.train, max(1000, NEIGHBOUR_BYTES // data.space.dims), seed=seed))[0]


def memorization(
    model: ImageModel, data: Data, *, samples: Tensor | None = None, scores: dict[str, Score] | None = None, seed: int = 0
) -> Memorization:
    """The memorization flag (`metrics/memorization.py`): copies among samples, and cheap training images. Held out: valid and test."""
    near: Evidence | None = None
    member: Evidence | None = None
    if samples is None and isinstance(model, Sampler):
        samples = draws(model, COPY_DRAWS, viewed(model, data.test, data, seed=seed)[0], seed=seed)
    if samples is not None and len(data.train) > 1 and len(data.test):
        train = train_images(data, seed=seed)
        heldout = torch.cat([everything(subset(part, 500, seed=seed))[0] for part in (data.valid, data.test) if len(part)])
        near = copies(samples[:1000], train, heldout)
    if scores is None and isinstance(model, ExactLikelihood | LowerBound):
        scores = {
            name: costs(model, subset(getattr(data, name), 1000, seed=seed)) for name in ("train", "test") if len(getattr(data, name))
        }
    if scores and "train" in scores and "test" in scores:
        heldout_nats = torch.cat([scores[name].nats for name in ("valid", "test") if name in scores])
        member = membership(scores["train"].nats, heldout_nats)
    return Memorization(near, member)


def evaluate(
    model: ImageModel,
    data: Data | Images | Tensor,
    *,
    heading: str = "",
    split: str = "test",
    features: Features | None = None,
    features_name: str = "",
    resizing: str = "none",
    published: bool = False,
    samples: int = 1,
    estimate: int = 64,
    draw: int | None = None,
    train_limit: int = TRAIN_LIMIT,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a model on train, valid and test of `data`, or on one set of images.

    Args:
        data: `Data`; or a `Split` or uint8 `(n, C, H, W)`, then only that is measured, under the name `split`.
        heading: data's name and transforms where `data` is not `Data`.
        features: a model in whose features samples are judged; its name, how it resizes images, and whether it is a published network
            (see `yardstick`), are kept with the numbers.
        samples: draws per image for a bound.
        estimate: k of the importance-weighted estimate beside a bound; 0 for none.
        draw: samples drawn for a Sampler; by default as many as there are test images, 1,000 … 2,000; COPY_DRAWS without `features`. 0 for none.
        train_limit: training images measured (a fixed random subset; their number is `n`).
        limit: the same for every other split, and of the images that samples are compared with; None for all of it.

    Raises:
        CapabilityError: the model can neither score, sample nor label.
        InputError: images of another space, an empty set.
        RunError: a score that is not finite.

    >>> from pofx.models.autoregressive.pixelcnn import PixelCNN
    >>> from pofx.space import ImageSpace
    >>> result = evaluate(PixelCNN.small(ImageSpace(1, 3, 3, levels=2)), torch.zeros(4, 1, 3, 3, dtype=torch.uint8))
    >>> result.main.kind, result.main.n
    ('exact', 4)
    """
    from pofx.data import Data

    parts: dict[str, Images]
    whole = None
    if not isinstance(data, Data):
        parts = {split: as_images(data)}
    else:
        whole = data.told(model.given)
        if whole.space != model.space:
            raise InputError(
                f"{whole.heading} has images of {whole.space}; the run was trained on {model.space}. Convert them with --size, --gray or --levels."
            )
        heading, split = heading or whole.heading, "test"
        parts = {name: getattr(whole, name) for name in ("train", "valid", "test") if len(getattr(whole, name))}
    if split not in parts or not len(parts[split]):
        raise InputError(f"{heading or 'The data'} has no images in its {split} part to evaluate on. Name others: pofx evaluate RUN DATA")

    results: dict[str, SplitResult] = {}
    scores: dict[str, Score] = {}
    measured: dict[str, tuple[Images, Score]] = {}
    parts_of_split: Parts | None = None
    for name, images in parts.items():
        chosen = subset(images, train_limit if name == "train" else limit, seed=seed)
        # The tighter estimate costs k times as much: only the split that the top level describes gets it
        k = estimate if name == split else 0
        results[name], score, apart = _measure(model, name, chosen, len(images), samples=samples, estimate=k, seed=seed, progress=progress)
        if name == split:
            parts_of_split = apart
        if score is not None:
            scores[name], measured[name] = score, (chosen, score)

    gap, flag, quality, notes = None, None, None, []
    if "train" in scores and split in scores:
        a, b = results["train"], results[split]
        assert a.nats and b.nats and a.bits_per_dim and b.bits_per_dim
        gap = (b.nats.minus(a.nats), b.bits_per_dim.minus(a.bits_per_dim))
    drawn = None
    if isinstance(model, Sampler):
        reference = subset(parts[split], min(limit or REFERENCE_LIMIT, REFERENCE_LIMIT), seed=seed)
        too_few = features is not None and min(len(reference), draw or len(reference)) <= NEIGHBOURS
        if too_few:
            notes.append(f"Samples are not judged in features: that takes more than {NEIGHBOURS} real images, and as many samples.")
            features = None
        if draw is None:
            draw = min(DRAWS, max(1000, len(reference))) if features is not None else COPY_DRAWS if whole is not None else 0
        if draw:
            like, reference, note = viewed(model, reference, whole, seed=seed)
            drawn = draws(model, draw, like, seed=seed, progress=progress)
            notes += [note] if note else []
            if features is not None:
                judge = yardstick(
                    features,
                    reference,
                    parts.get("train"),
                    len(drawn),
                    name=features_name,
                    data=heading,
                    split=split,
                    resizing=resizing,
                    published=published,
                )
                quality = judge.measure(drawn, labels_in_turn(model, len(drawn), like))
                if not quality.frechet.reliable:
                    f = quality.frechet
                    notes.append(
                        f"Fréchet distance from {f.n} samples and {f.n_reference} images in {f.dims} features: too few images, the number is too large."
                    )
            elif not scores and not too_few:
                notes.append("For Fréchet distance, precision and recall give a features run: pofx evaluate RUN --features RUN")
    if whole is not None and (drawn is not None or scores):
        flag = memorization(model, whole, samples=drawn, scores=scores or {}, seed=seed)
    if not scores:
        notes.append(f"{type(model).__name__} has no likelihood: there are no nats and no bits/dim.")
    given = None if model.given is None else repr(model.given)
    return Evaluation(name_of(model), heading, split, given, results, gap, flag, quality, tuple(notes), measured, drawn, parts_of_split)
