"""Bayes' rule, both ways: a classifier from p(x | y), and p(x | y) from a classifier.

    BayesClassifier      p(y | x) = p(x | y) p(y) / Σ_y' p(x | y') p(y')
    BayesConditional     p(x | y) = p(y | x) p(x) / p(y),      p(y) = Σ_x p(y | x) p(x) = E_{x ~ p(x)}[p(y | x)]

Several evidences multiply (independent given x): p(x | y₁ … y_k) = p(x) Π_i p(y_i | x) / Z with Z = E_{x ~ p(x)}[Π_i p(y_i | x)].

p(y) is a sum over all images where there are few, and then exact. Elsewhere it is the mean over samples of p(x), with its standard error:
by the delta method se(log p̂) = se(p̂) / p̂. Since w(x) = Π_i p(y_i | x) ≤ 1, a sample of p(x) that is kept with probability w(x) is a true
draw of p(x | y) (von Neumann 1951); about 1/Z samples are made for each that is kept. Importance resampling (Rubin 1987) takes a fixed
number of samples instead, and says by the effective sample size (Σw)² / Σw² how many of them count.

The parts are models of their own. Their weights are stored with the whole, and training trains each of them by its own objectives; the parts of a
BayesConditional that are models already stay as they are, unless it is told to `tune` them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from pofx import catalog
from pofx.errors import CapabilityError, InputError, RunError
from pofx.model import (
    Batch,
    ClassLikelihood,
    Context,
    ExactLikelihood,
    ImageModel,
    Kind,
    Labeler,
    LabelScore,
    LowerBound,
    Objective,
    Progress,
    Sampler,
    require,
)
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.views import Label, PartialLabel, View

ENUMERABLE = 2**14  # images of a space whose evidence is a sum over all of them
COUNTED = 100  # batches whose labels are counted for the prior
CHUNK = 256
PATIENCE = 20_000  # samples of p(x) that a draw of p(x | y) waits for, on average


def made(part: str | ImageModel, space: ImageSpace, given: View | None, **settings: Any) -> ImageModel:
    """A part: the model itself, or one of the catalogue by its name; InputError where it is of other images."""
    if isinstance(part, str):
        return catalog.get(part)(space, given, **settings)
    if part.space != space:
        raise InputError(
            f"The {type(part).__name__} is a model of {part.space}, and the whole of {space}. Both must be of the same images."
        )
    return part


def objectives_of(part: ImageModel, name: str, seen: Callable[[Batch], Batch]) -> Iterator[Objective]:
    """The objectives of a part, each on what that part `seen`s of the batch; named "name: objective"."""
    for o in part.objectives():

        def loss(batch: Batch, context: Context, o: Objective = o) -> tuple[Tensor, dict[str, Tensor]]:
            return o.loss(seen(batch), context)

        yield replace(o, name=f"{name}: {o.name}", loss=loss)


def enumerated(space: ImageSpace) -> Tensor | None:
    """All images of a space, uint8 `(levels^dims, C, H, W)`; None where they are more than ENUMERABLE."""
    if space.dims * math.log(space.levels) > math.log(ENUMERABLE) + 1e-9:
        return None
    number = torch.arange(space.levels**space.dims)
    place = space.levels ** torch.arange(space.dims - 1, -1, -1)
    return (number[:, None] // place % space.levels).to(torch.uint8).reshape(-1, *space.shape)


# p(y | x) from p(x | y) -----------------------------------------------------------------------------------------------


class BayesClassifier(ClassLikelihood):
    """log p(y | x) = log p(x | y) + log p(y) − logsumexp over all labels; exact where p(x | y) is, else an estimate.

    A difference of two bounds is no bound: of a part with a bound its importance-weighted estimate is used, the same noise for all labels.

    Few of the bits of x depend on its label, and a p(x | y) that is trained for x alone learns them late. `contrast` adds −log p(y | x) to its
    objective (Lasserre, Bishop and Minka 2006, "Principled Hybrids of Generative and Discriminative Models"), over the label and some rivals
    drawn anew in each step, of a share of the images. What is trained stays a p(x | y): it sums to one.

    Args:
        space: what images may be.
        given: must be None; the part conditions on the label.
        conditional: p(x | y), a model with given=Label(classes) and a likelihood or a bound; or the name of one, which is then made
            with its defaults.
        classes: number of labels.
        prior: p(y): uniform, the counts among training images plus one, or the probability of each class.
        samples: draws of the estimate, for a part with a bound.
        contrast: weight of −log p(y | x), in nats, beside the part's own objective; 0 trains p(x | y) alone.
        rivals: other labels that an image's own is compared with.
        share: of the images of a step, that are compared.

    >>> import torch
    >>> model = BayesClassifier.small(ImageSpace(1, 3, 3, levels=2))
    >>> model.label(torch.zeros(2, 1, 3, 3, dtype=torch.uint8)).kind
    'exact'
    """

    family: ClassVar = ("composed",)
    paper: ClassVar = "Ng and Jordan 2001, On Discriminative vs. Generative Classifiers, NeurIPS 14"
    refuses: ClassVar = {View: "its part p(x | y) conditions on the label; the classifier conditions on the image."}

    def __init__(
        self,
        space: ImageSpace,
        given: View | None = None,
        *,
        conditional: str | ImageModel = "gated-pixelcnn",
        classes: int = 10,
        prior: Literal["uniform", "counts"] | tuple[float, ...] = "uniform",
        samples: int = 16,
        contrast: float = 0.0,
        rivals: int = 2,
        share: float = 0.25,
    ) -> None:
        super().__init__(space, given)
        if classes < 2 or samples < 1:
            raise InputError(f"BayesClassifier: classes={classes} must be at least 2 and samples={samples} at least 1.")
        if contrast < 0 or rivals < 1 or not 0 < share <= 1:
            raise InputError(
                f"BayesClassifier: contrast={contrast:g} must be at least 0, rivals={rivals} at least 1, share={share:g} above 0 and at most 1."
            )
        # Not as submodules: a part is stored once, under the name of its role.
        object.__setattr__(self, "conditional", conditional)
        self.classes, self.prior, self.samples = classes, prior, samples
        self.contrast, self.rivals, self.share = contrast, rivals, share
        self.part = made(conditional, space, Label(classes))
        require(self.part, ExactLikelihood, LowerBound, to="be the p(x | y) of a Bayes classifier")
        if not isinstance(self.part.given, Label):
            what = "p(x)" if self.part.given is None else f"p(x | {self.part.given.name})"
            raise InputError(
                f"A Bayes classifier needs p(x | label), and this {type(self.part).__name__} is {what}. Train one with --given label."
            )
        if self.part.given.classes != classes:
            raise InputError(
                f"The part knows {self.part.given.classes} classes, the classifier {classes}. Give classes={self.part.given.classes}."
            )
        self.log_prior: Tensor
        self.register_buffer("log_prior", _log_prior(prior, classes))

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        return cls(space, given, conditional=catalog.get("gated-pixelcnn").small(space, Label(10)))

    def class_log_prob(self, x: Tensor) -> LabelScore:
        """log p(x | y), exact or estimated: `(n, classes)` nats, float64."""
        part, x = self.part, self.space.check(x).to(self.device)
        columns = []
        for y in range(self.classes):
            given = torch.full((x.shape[0],), y, device=x.device)
            if isinstance(part, ExactLikelihood):
                columns.append(part.log_prob(x, given).double())
            else:
                assert isinstance(part, LowerBound)
                columns.append(part.log_prob_estimate(x, given, samples=self.samples).double())
        return LabelScore(torch.stack(columns, 1), "exact" if isinstance(part, ExactLikelihood) else "estimate")

    def log_class_prior(self) -> Tensor:
        return self.log_prior

    def label(self, x: Tensor) -> LabelScore:
        likelihood = self.class_log_prob(x)
        return LabelScore((likelihood.log_prob + self.log_prior.double()).log_softmax(1).to(self.dtype), likelihood.kind)

    def objectives(self) -> Sequence[Objective]:
        """Those of p(x | y), the first with the contrast of labels."""
        first, *others = objectives_of(self.part, "p(x | y)", self._seen)
        if not self.contrast:
            return [first, *others]

        def loss(batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
            own, logs = first.loss(batch, context)
            told = self._told_apart(batch, context)
            return own + self.contrast * told, logs | {"contrast": told.detach()}

        return [replace(first, loss=loss), *others]

    def _told_apart(self, batch: Batch, context: Context) -> Tensor:
        """−mean log p(y | x, y is one of these): the label against `rivals` others, over a share of the batch; nats."""
        n = math.ceil(self.share * len(batch.x))
        x, y = batch.x[:n], self._seen(Batch(batch.x[:n], None if batch.y is None else batch.y[:n])).given
        assert y is not None
        order = (
            context.noise.uniform("bayes/rivals", self.classes)[:n].to(y.device).scatter(1, y[:, None], -1.0).argsort(1)
        )  # its own label first
        labels = order[:, : 1 + self.rivals]
        part, k = self.part, labels.shape[1]
        assert isinstance(part, ExactLikelihood | LowerBound)
        x, given = x.repeat_interleave(k, 0), labels.flatten()
        found = part.log_prob(x, given) if isinstance(part, ExactLikelihood) else part.elbo(x, given, seed=context.step)
        likelihood = found.double().reshape(n, k)
        return -(likelihood + self.log_prior[labels]).log_softmax(1)[:, 0].mean().to(self.dtype)

    def _seen(self, batch: Batch) -> Batch:
        return self.part.batch(batch.x, batch.y)

    def initialise(self, batch: Batch) -> None:
        self.part.initialise(self._seen(batch))

    def settle(self, batches: Iterator[Batch]) -> None:
        first = list(islice(batches, COUNTED))
        self.part.settle(self._seen(batch) for batch in first)
        if self.prior == "counts":
            y = torch.cat([batch.y for batch in first if batch.y is not None])
            shares = torch.bincount(y, minlength=self.classes).double() + 1
            self.log_prior.copy_((shares / shares.sum()).log())

    def calibrate(self, batches: Iterator[Batch]) -> None:
        self.part.calibrate(self._seen(batch) for batch in batches)


def _log_prior(prior: str | Sequence[float], classes: int) -> Tensor:
    """log p(y) `(classes,)`, float64."""
    if isinstance(prior, str):
        if prior not in ("uniform", "counts"):
            raise InputError(f"prior={prior!r}: use uniform, counts, or one probability for each of the {classes} classes.")
        return torch.full((classes,), -math.log(classes), dtype=torch.double)
    p = torch.tensor([float(value) for value in prior], dtype=torch.double)
    if len(p) != classes:
        raise InputError(f"prior has {len(p)} probabilities for {classes} classes; give one for each.")
    if not bool((p > 0).all()):
        raise InputError(
            f"p(y) = {float(p.min()):g} for class {int(p.argmin())}: p(y | x) would not depend on x. Give each class a probability above 0, e.g. 0.001."
        )
    if abs(float(p.sum()) - 1) > 1e-6:
        raise InputError(f"prior sums to {float(p.sum()):g}, and probabilities sum to 1: divide each by that.")
    return (p / p.sum()).log()


# p(x | y) from p(x) and p(y | x) --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labels(View):
    """Several labels of one image, for several evidences. Value: int64 `(n, k)`, column i in 0 … classes[i]−1.

    >>> Labels((10, 2)).check([3, 1], 2, ImageSpace(1, 1, 1)).tolist()
    [[3, 1], [3, 1]]
    """

    classes: tuple[int, ...] = (10, 2)

    def check_space(self, space: ImageSpace) -> None:
        if not self.classes or min(self.classes) < 1:
            raise InputError(f"Labels(classes={self.classes}): at least one label with at least one class, e.g. Labels((10, 2)).")

    def value(self, x: Tensor, y: Tensor | None, noise: Noise | None = None) -> Tensor:
        if y is None or y.ndim != 2:
            raise InputError(
                f"{self} needs {len(self.classes)} labels for each image, int64 (n, {len(self.classes)}), and the data has none such."
            )
        return self.check(y, x.shape[0], ImageSpace(1, 1, 1))

    def check(self, value: Any, n: int, space: ImageSpace) -> Tensor:
        value = torch.as_tensor(value)
        if value.is_floating_point() or value.dtype == torch.bool or value.ndim not in (1, 2) or value.shape[-1] != len(self.classes):
            raise InputError(f"given={self} expects whole numbers ({n}, {len(self.classes)}), found {value.dtype} {tuple(value.shape)}.")
        value = value.long().reshape(-1, len(self.classes))
        if len(value) not in (1, n):
            raise InputError(f"{len(value)} rows of labels were given for {n} images; give one, or {n}.")
        for i, classes in enumerate(self.classes):
            bad = value[:, i][(value[:, i] < 0) | (value[:, i] >= classes)]
            if len(bad):
                raise InputError(f"Label {int(bad[0])} in column {i} is outside 0 … {classes - 1} of this model ({self}).")
        return value.expand(n, len(self.classes))

    def features(self, value: Tensor, space: ImageSpace) -> Tensor:
        columns = [torch.nn.functional.one_hot(value[:, i], classes) for i, classes in enumerate(self.classes)]
        return torch.cat(columns, 1).double()

    def feature_shape(self, space: ImageSpace) -> tuple[int, ...]:
        return (sum(self.classes),)


@dataclass(frozen=True)
class Evidence:
    """log Z = log p(y) of each value that was asked for.

    Attributes:
        log_prob: `(n,)` nats.
        se: `(n,)`, its standard error; 0 where it is a sum over all images or was stated.
        ess: `(n,)`, effective number of the samples of p(x); NaN where none were drawn.
        kind: "exact" or "estimate".
        draws: samples of p(x) that were drawn.
    """

    log_prob: Tensor
    se: Tensor
    ess: Tensor
    kind: Kind
    draws: int


@dataclass(frozen=True)
class Density:
    """log p(x | y): `(n,)` nats, with the standard error `(n,)` that comes from log p(y), and its kind."""

    log_prob: Tensor
    se: Tensor
    kind: Kind


@dataclass(frozen=True)
class Resampled:
    """Images by importance resampling: uint8 `(n, C, H, W)`, and how many of `draws` samples of p(x) they rest on."""

    images: Tensor
    ess: float
    draws: int
    kind: Kind = "estimate"


_OTHERS = {
    view: "it knows an image by its labels; p(x) of a part takes no view." for view in View.__subclasses__() if view not in (Label, Labels)
} | {PartialLabel: "an image whose label is not known is an image of p(x): leave given out."}


class BayesConditional(Sampler):
    """p(x | y) = p(y | x) p(x) / p(y): a model of images, made conditional by classifiers that were trained apart from it.

    `sample` gives true draws, by rejection. `log_density` is exact on small spaces and an estimate elsewhere, so that this class
    promises no likelihood. Without `given` it is p(x). Where its parts are runs there is nothing to train, and no budget is needed.

    Args:
        space: what images may be.
        given: None, Label(classes), or Labels((a, b, …)) for several evidences.
        density: p(x), a model that can be sampled; or the name of one.
        labelers: p(y | x), one model (or name) for each label; by default a classifier for each, to be trained.
        prior: p(y), where it is known and is not to be computed from p(x); for one label.
        draws: samples of p(x) that p(y) is estimated from.
        tune: train the parts that are models already, too. Those that are made here, by name, always are.

    >>> model = BayesConditional.small(ImageSpace(1, 2, 2, levels=2), Label(3))
    >>> model.evidence(0).kind
    'exact'
    """

    family: ClassVar = ("composed",)
    paper: ClassVar = "Rubin 1987, The Calculation of Posterior Distributions by Data Augmentation: Comment (SIR), JASA 82"
    refuses: ClassVar = _OTHERS
    example: ClassVar = "--given label --density runs/pixelcnn --labelers runs/classifier"

    density: str | ImageModel
    labelers: tuple[str | ImageModel, ...]

    def __init__(
        self,
        space: ImageSpace,
        given: View | None = None,
        *,
        density: str | ImageModel = "pixelcnn",
        labelers: tuple[str | ImageModel, ...] = (),
        prior: tuple[float, ...] = (),
        draws: int = 1000,
        tune: bool = False,
    ) -> None:
        super().__init__(space, given)
        if isinstance(given, PartialLabel) or not isinstance(given, Label | Labels | None):
            raise InputError(
                f"BayesConditional cannot take given={type(given).__name__}: it knows an image by its labels, e.g. given=Label(10)."
            )
        if draws < 2:
            raise InputError(f"BayesConditional: draws={draws} must be at least 2, for a standard error.")
        classes: tuple[int, ...] = () if given is None else given.classes if isinstance(given, Labels) else (given.classes,)
        labelers = tuple(labelers)
        if labelers and given is None:
            raise InputError(
                "BayesConditional has labelers and no label to condition on: add given=Label(classes) (--given label), or leave them out."
            )
        if labelers and len(labelers) != len(classes):
            raise InputError(f"{len(labelers)} labelers for {len(classes)} labels of {given}; give one p(y | x) for each.")
        object.__setattr__(self, "density", density)
        object.__setattr__(self, "labelers", labelers)
        self.prior, self.draws, self.tune = prior, draws, tune
        self.part = require(made(density, space, None), Sampler, to="be the p(x) of a Bayes conditional")
        if self.part.given is not None:
            raise InputError(f"The density must be p(x), and this {type(self.part).__name__} is p(x | {self.part.given}).")
        self.evidences = nn.ModuleList()
        for labeler, k in zip(labelers or ("classifier",) * len(classes), classes, strict=True):
            part = require(made(labeler, space, None, classes=k), Labeler, to="be the p(y | x) of a Bayes conditional")
            if part.classes != k:
                raise InputError(f"A labeler knows {part.classes} classes where {given} has {k}. Give given=Label({part.classes}).")
            self.evidences.append(part)
        if prior and len(classes) != 1:
            raise InputError(f"prior= is p(y) of one label; this model has {len(classes)}.")
        self.log_prior = _log_prior(prior, sum(classes)) if prior else None
        self._seen: tuple[Any, list[Tensor]] | None = None

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        classes = () if given is None else given.classes if isinstance(given, Labels) else (getattr(given, "classes", 10),)
        density = catalog.get("pixelcnn").small(space)
        labelers = tuple(catalog.get("classifier")(space, classes=k, channels=4, stages=0) for k in classes)  # type: ignore[call-arg]
        return cls(space, given, density=density, labelers=labelers, draws=200, tune=True)

    # What the evidence says --------------------------------------------------------------------------------------------

    def _columns(self, value: Tensor) -> Tensor:
        return value[:, None] if value.ndim == 1 else value

    def _label(self, x: Tensor) -> list[Tensor]:
        """log p(y_i | x) of each labeler: `(n, classes_i)` nats, float64."""
        found = [[e.label(part).log_prob.double() for part in x.split(CHUNK)] for e in self.evidences if isinstance(e, Labeler)]
        return [torch.cat(parts) for parts in found]

    def log_weight(self, x: Tensor, given: Any = None) -> Tensor:
        """log Π_i p(y_i | x) ≤ 0: `(n,)` nats."""
        x = self.space.check(x).to(self.device)
        value = self.check_given(given, x.shape[0])
        if value is None:
            return torch.zeros(x.shape[0], dtype=torch.double, device=x.device)
        labels = self._label(x)
        columns = self._columns(value)
        return torch.stack([log_p.gather(1, columns[:, i : i + 1])[:, 0] for i, log_p in enumerate(labels)]).sum(0)

    @torch.no_grad()
    def _base(self, draws: int, seed: int) -> tuple[Tensor, list[Tensor], bool]:
        """log-weights of images under p(x), log p(y_i | x) of those images, and whether they are all images: of samples, kept until weights change."""
        images = enumerated(self.space)
        exact = images is not None and isinstance(self.part, ExactLikelihood) and all(self._kinds(images[:1]))
        if exact:
            assert images is not None and isinstance(self.part, ExactLikelihood)
            log_p = torch.cat([self.part.log_prob(part).double() for part in images.to(self.device).split(CHUNK)])
            return log_p, self._label(images.to(self.device)), True
        key = (draws, seed, self.dtype, self.device, sum(t._version for t in self.state_dict(keep_vars=True).values()))
        if self._seen is None or self._seen[0] != key:
            self._seen = key, self._label(self.part.sample(draws, seed=seed).to(self.device))
        log_p = torch.full((draws,), -math.log(draws), dtype=torch.double, device=self.device)
        return log_p, self._seen[1], False

    def _kinds(self, x: Tensor) -> list[bool]:
        return [e.label(x).kind == "exact" for e in self.evidences if isinstance(e, Labeler)]

    @torch.no_grad()
    def evidence(self, given: Any, *, draws: int | None = None, seed: int = 0) -> Evidence:
        """log p(y) of values: stated as `prior`, summed over all images, or the mean over samples of p(x).

        Args:
            given: one value, or `(n,)` of them (`(n, k)` for several evidences).
            draws: samples of p(x), where it is estimated; by default what the model was made with.

        Raises:
            InputError: p(y) = 0: no image has this label, or no sample of p(x) that was drawn.
        """
        value = torch.as_tensor(given)
        value = self.check_given(given, len(value) if value.ndim == (2 if isinstance(self.given, Labels) else 1) else 1)
        assert value is not None
        columns = self._columns(value)
        nothing = torch.zeros(len(columns), dtype=torch.double, device=columns.device)
        if self.log_prior is not None:
            return Evidence(self.log_prior.to(columns.device)[columns[:, 0]], nothing, nothing + math.nan, "estimate", 0)
        base, labels, exact = self._base(draws or self.draws, seed)
        log_w = torch.stack([log_p[:, columns[:, i]] for i, log_p in enumerate(labels)]).sum(0)  # (images, n)
        log_z = torch.logsumexp(base[:, None] + log_w, 0)
        empty = (log_z.exp() == 0).nonzero()
        if len(empty):
            value = columns[int(empty[0])].tolist()
            raise InputError(
                f"p(y) = 0 for y = {value[0] if len(value) == 1 else value}: p(x | y) is not defined. "
                + (
                    "No image has this label."
                    if exact
                    else f"None of {len(base)} samples of p(x) has this label; draw more, or ask for another one."
                )
            )
        if exact:
            return Evidence(log_z, nothing, nothing + math.nan, "exact", 0)
        n = len(base)
        ratio = (log_w - log_w.amax(0)).exp()
        se = ratio.std(0) / math.sqrt(n) / ratio.mean(0)
        return Evidence(log_z, se, ratio.sum(0) ** 2 / (ratio**2).sum(0), "estimate", n)

    def log_density(self, x: Tensor, given: Any = None, *, draws: int | None = None, seed: int = 0) -> Density:
        """log p(x | y) = Σ_i log p(y_i | x) + log p(x) − log p(y): exact on enumerable spaces, else an estimate with its error.

        Raises:
            CapabilityError: p(x) has neither a likelihood nor a bound.
            InputError: p(y) = 0; a label outside the range; images of another space.
        """
        if not isinstance(self.part, ExactLikelihood | LowerBound):
            raise CapabilityError(
                f"log p(x | y) needs p(x), and a {type(self.part).__name__} has no likelihood and no bound. It can be sampled: model.sample(16, given)."
            )
        x = self.space.check(x).to(self.device)
        log_p = (self.part.log_prob(x) if isinstance(self.part, ExactLikelihood) else self.part.elbo(x, seed=seed)).double()
        value = self.check_given(given, x.shape[0])
        if value is None:
            kind = "exact" if isinstance(self.part, ExactLikelihood) else "lower bound"
            return Density(log_p, torch.zeros_like(log_p), kind)
        values, place = self._columns(value).unique(dim=0, return_inverse=True)
        found = self.evidence(values if isinstance(self.given, Labels) else values[:, 0], draws=draws, seed=seed)
        return Density(self.log_weight(x, value) + log_p - found.log_prob[place], found.se[place], found.kind)

    # Images ------------------------------------------------------------------------------------------------------------

    def _propose(self, noise: Noise) -> Tensor:
        """One image of p(x) per entry of the noise, in the batch shape that the part wants."""
        size = self.part.draw_batch
        if size is None:
            return self.part.draw(None, noise, None)
        parts = []
        for start in range(0, len(noise), size):
            index = torch.arange(start, start + size).clamp(max=len(noise) - 1)
            parts.append(self.part.draw(None, Noise(noise.seed, noise.images[index]), None)[: len(noise) - start])
        return torch.cat(parts)

    def draw(self, given: Tensor | None, noise: Noise, progress: Progress | None) -> Tensor:
        x = self._propose(noise)
        if given is None:
            return x
        waiting, tried, last = torch.arange(len(noise)), 0, 0.0
        for r in range(PATIENCE):
            # Round r of image k has noise of its own, whatever others wait.
            mine = Noise(noise.seed ^ (r << 40), noise.images[waiting])
            if r:
                x[waiting] = self._propose(mine).to(x.device)
            log_w = self.log_weight(x[waiting], given[waiting])
            kept = mine.uniform("bayes/accept", 1)[:, 0].log().to(log_w.device) < log_w
            tried, last = tried + len(waiting), max(last, float(log_w.max()))
            waiting = waiting[~kept.cpu()]
            if progress is not None:
                progress(len(noise) - len(waiting), len(noise))
            if not len(waiting):
                return x
            if tried >= PATIENCE * len(noise):
                break
        raise RunError(
            f"{len(waiting)} of {len(noise)} images were not found among {tried:,} samples of p(x): the largest p(y | x) was {math.exp(last):.2g}. "
            "Use model.resample(…), which says how few samples count, or train p(x | y) itself with --given label."
        )

    @torch.no_grad()
    def resample(self, n: int, given: Any, *, draws: int | None = None, seed: int = 0) -> Resampled:
        """n images by importance resampling of `draws` samples of p(x): approximate, with the effective sample size (Σw)² / Σw².

        Args:
            given: one value for all images.

        Raises:
            InputError: n < 1; p(y) = 0 among the samples.
        """
        if n < 1:
            raise InputError(f"n={n}: ask for at least one sample, e.g. n=16.")
        draws = draws or self.draws
        value = self.check_given(given, 1)
        if value is None:
            raise InputError("resample needs given=; without it, model.sample(n) gives true draws of p(x).")
        x = self.part.sample(draws, seed=seed).to(self.device)
        log_w = self.log_weight(x, value.expand(draws, *value.shape[1:]))
        if bool(log_w.max().isneginf()):
            raise InputError(f"p(y) = 0 for y = {value[0].tolist()} in all {draws} samples of p(x); draw more, or ask for another one.")
        w = (log_w - log_w.max()).exp()
        cdf = w.cumsum(0) / w.sum()
        u = Noise(seed, torch.arange(n)).uniform("bayes/resample", 1)[:, 0].to(cdf.device)
        chosen = torch.searchsorted(cdf, u).clamp(max=draws - 1)
        return Resampled(x[chosen], float(w.sum() ** 2 / (w**2).sum()), draws)

    # Training ----------------------------------------------------------------------------------------------------------

    def _density_sees(self, batch: Batch) -> Batch:
        return replace(batch, given=None)

    def _evidence_sees(self, i: int) -> Callable[[Batch], Batch]:
        def seen(batch: Batch) -> Batch:
            return Batch(batch.x, batch.y if batch.given is None else self._columns(batch.given)[:, i])

        return seen

    def _trained(self) -> Iterator[tuple[ImageModel, str, Callable[[Batch], Batch]]]:
        """The parts that training may change, with their names and what they see of a batch."""
        if self.tune or isinstance(self.density, str):
            yield self.part, "p(x)", self._density_sees
        for i, evidence in enumerate(self.evidences):
            assert isinstance(evidence, Labeler)
            if self.tune or not self.labelers or isinstance(self.labelers[i], str):
                yield evidence, "p(y | x)" if len(self.evidences) == 1 else f"p(y{i + 1} | x)", self._evidence_sees(i)

    def objectives(self) -> Sequence[Objective]:
        """Those of p(x) and of each p(y | x), as far as they are trained here; none where all parts are models already."""
        return [o for part, name, seen in self._trained() for o in objectives_of(part, name, seen)]

    def initialise(self, batch: Batch) -> None:
        for part, _, seen in self._trained():
            part.initialise(seen(batch))

    def settle(self, batches: Iterator[Batch]) -> None:
        first = list(islice(batches, COUNTED))
        for part, _, seen in self._trained():
            part.settle(seen(batch) for batch in first)

    def calibrate(self, batches: Iterator[Batch]) -> None:
        first = list(batches)
        for part, _, seen in self._trained():
            part.calibrate(seen(batch) for batch in first)
