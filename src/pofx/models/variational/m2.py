"""M2: a latent-variable model that learns from few labels and many images without one (Kingma et al. 2014, "Semi-supervised learning with deep
generative models", section 2.2).

    p(x, y, z) = p(y) N(z; 0, I) p(x | y, z),        q(z | x, y) Gaussian,  q(y | x) a classifier

    labelled     log p(x, y) ≥ −L(x, y) = E_q(z|x,y)[log p(x | y, z)] − KL(q(z | x, y) ‖ N(0, I)) + log p(y)                       (6)
    unlabelled   log p(x)    ≥ −U(x)    = Σ_y q(y | x) (−L(x, y)) + H(q(y | x))                                                    (7)

    min  mean of L over labelled + mean of U over unlabelled + α · mean of −log q(y | x) over labelled                           (8), (9)

It is p(x | y) of the catalogue with `given=Label` and a classifier, each stored as a part; here is only how they are joined. Labels are −1 where they
are not known. `given` says what is asked, and changes no weight: None is p(x), where `elbo` is −U; Label(…) is p(x | y), where it is −L − log p(y);
PartialLabel(…) is either, image by image.

Differences from the paper: p(y) is uniform; means over a batch in the place of sums over the set, each image weighing alike, so that α does not grow
with the set; the nets are those of the parts, of which the classifier is convolutional; KL is warmed up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from pofx import catalog
from pofx.errors import InputError
from pofx.model import (
    Batch,
    Context,
    ImageModel,
    Labeler,
    LabelScore,
    LatentVariable,
    LowerBound,
    Objective,
    OptimizerSpec,
    Progress,
    Sampler,
    require,
)
from pofx.nn.variational import LikelihoodName
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.views import Label, View

_OTHERS = {
    view: "M2 is a model of images and their labels; it takes label or partial-label."
    for view in View.__subclasses__()
    if view is not Label
}


class M2(LowerBound, Sampler, Labeler):
    """Images and labels together, from few labels.

    Args:
        space: what images may be.
        given: None for p(x), Label(classes) for p(x | y), PartialLabel(classes) for p(x | y) where y is known and p(x) elsewhere.
        classes: number of labels.
        latents: dimensions of z; by default 32, or as many as the image has numbers.
        hidden: units of each hidden layer of q(z | x, y) and p(x | y, z).
        layers: hidden layers.
        likelihood: of p(x | y, z).
        labeler: q(y | x): a model, or the name of one; of a classifier the net has `channels`.
        channels: width of that classifier.
        alpha: α, weight of the classifier's own loss, in units of the image's cost in nats.
        kl_warmup: share of training over which the weight of the KL term rises from 0 to 1.
        lr: learning rate.

    Raises:
        InputError: numbers out of range; `given` of other classes; a labeler of other images or classes.

    >>> model = M2.small(ImageSpace(1, 4, 4, levels=2))
    >>> x = model.sample(2)
    >>> model.elbo(x).shape, model.label(x).kind
    (torch.Size([2]), 'estimate')
    """

    family: ClassVar = ("explicit", "approximate", "variational")
    paper: ClassVar = "Kingma et al. 2014, Semi-supervised Learning with Deep Generative Models, arXiv:1406.5298"
    refuses: ClassVar = _OTHERS
    draw_batch: ClassVar = 64

    def __init__(
        self,
        space: ImageSpace,
        given: View | None = None,
        *,
        classes: int = 10,
        latents: int | None = None,
        hidden: int = 300,
        layers: int = 2,
        likelihood: LikelihoodName = "auto",
        labeler: str | ImageModel = "classifier",
        channels: int = 16,
        alpha: float = 50.0,
        kl_warmup: float = 0.1,
        lr: float = 2e-3,
    ) -> None:
        super().__init__(space, given)
        if classes < 2 or not alpha >= 0 or not 0 <= kl_warmup <= 1:
            raise InputError(f"M2: classes={classes} must be at least 2, alpha={alpha} at least 0, kl_warmup={kl_warmup} in [0, 1].")
        if isinstance(given, Label) and given.classes != classes:
            raise InputError(f"M2: given={given} has {given.classes} classes, and the model {classes}. Give classes={given.classes}.")
        object.__setattr__(self, "labeler", labeler)
        self.classes, self.latents, self.hidden, self.layers, self.likelihood = classes, latents, hidden, layers, likelihood
        self.channels, self.alpha, self.kl_warmup, self.lr = channels, alpha, kl_warmup, lr
        sizes: dict[str, Any] = {"latents": latents, "network": "mlp", "hidden": hidden, "layers": layers, "likelihood": likelihood}
        self.images = require(catalog.get("vae")(space, Label(classes), **sizes), LatentVariable, to="be p(x | y)")
        found = labeler if isinstance(labeler, ImageModel) else catalog.get(labeler)(space, classes=classes, channels=channels, dropout=0.0)  # type: ignore[call-arg]
        self.answers = require(found, Labeler, to="be q(y | x)")
        if self.answers.space != space or self.answers.classes != classes:
            raise InputError(
                f"M2: the labeler knows {self.answers.classes} classes of {self.answers.space}, and the model {classes} of {space}. They must agree."
            )

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        return cls(space, given, classes=given.classes if isinstance(given, Label) else 3, latents=2, hidden=16, layers=1, channels=4)

    def of_label(self) -> LowerBound:
        return self.images

    # The bounds ------------------------------------------------------------------------------------------------------

    def _joint(self, x: Tensor, samples: int, seed: int, beta: float = 1.0) -> Tensor:
        """−L(x, y) of every y, `(n, classes)` nats. The noise of an image is the same for all y."""
        return self._of_each(x, lambda x, y: self._told(x, y, samples, seed, beta))

    def _of_each(self, x: Tensor, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """`function(x, y)` of every y, `(n, classes)`."""
        n, k = len(x), self.classes
        y = torch.arange(k, device=x.device).repeat_interleave(n)
        return function(x.repeat(k, 1, 1, 1), y).reshape(k, n).T

    def _told(self, x: Tensor, y: Tensor, samples: int, seed: int, beta: float = 1.0) -> Tensor:
        """−L(x, y), `(n,)` nats: equation 6."""
        bound = self.images.bound(x, y, samples=samples, seed=seed)
        return bound.log_likelihood - beta * bound.kl.sum(1) - math.log(self.classes)

    def _untold(self, joint: Tensor, log_q: Tensor) -> Tensor:
        """−U(x), `(n,)` nats, of −L of every y: equation 7."""
        return (log_q.exp() * (joint - log_q)).sum(1)

    def elbo(self, x: Tensor, given: Any = None, *, samples: int = 1, seed: int = 0) -> Tensor:
        x, value = self.check_pair(x, given)
        if value is not None and bool((value >= 0).all()):
            return self._told(x, value, samples, seed) + math.log(self.classes)
        joint = self._joint(x, samples, seed)
        return self._either(joint, self._untold(joint, self.label(x).log_prob), value)

    def log_prob_estimate(self, x: Tensor, given: Any = None, *, samples: int, seed: int = 0) -> Tensor:
        """log Σ_y p(y) p̂(x | y) over importance-weighted estimates: `(n,)` nats; given y, that of p(x | y). q(y | x) plays no part."""
        x, value = self.check_pair(x, given)
        likelihood = self._of_each(x, lambda x, y: self.images.log_prob_estimate(x, y, samples=samples, seed=seed))
        joint = likelihood - math.log(self.classes)
        return self._either(joint, joint.logsumexp(1), value)

    def _either(self, joint: Tensor, untold: Tensor, value: Tensor | None) -> Tensor:
        """log p(x | y) where y is known, log p(x) elsewhere, `(n,)`, of log p(x, y) `(n, classes)`."""
        if value is None:
            return untold
        told = joint.gather(1, value.clamp(min=0)[:, None])[:, 0] + math.log(self.classes)
        return torch.where(value >= 0, told, untold)

    def label(self, x: Tensor) -> LabelScore:
        """log q(y | x): `(n, classes)` nats, the classifier's; an approximation of p(y | x)."""
        return LabelScore(self.answers.label(x).log_prob, "estimate")

    # Training --------------------------------------------------------------------------------------------------------

    def semi_supervised(self) -> bool:
        return True

    def objectives(self) -> Sequence[Objective]:
        return [Objective("bound", self, self._loss, optimizer=OptimizerSpec("AdamW", lr=self.lr))]

    def _loss(self, batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        y = batch.given if isinstance(self.given, Label) else batch.y
        n = len(batch.x)
        y = torch.full((n,), -1, device=batch.x.device) if y is None else y
        if n and not -1 <= int(y.min()) <= int(y.max()) < self.classes:
            raise InputError(f"Labels reach {int(y.max())}; this M2 has {self.classes} classes. Use --classes {int(y.max()) + 1}.")
        told = y >= 0
        beta = 1.0 if context.extended or not self.kl_warmup else min(1.0, context.progress / self.kl_warmup)
        seed = context.noise.seed + 7919 * (context.step + 1)  # other noise for an image in each step
        log_q = self.label(batch.x).log_prob
        bound = batch.x.new_zeros(n, dtype=self.dtype)
        if bool(told.any()):
            bound[told] = self._told(batch.x[told], y[told], 1, seed, beta)
        if not bool(told.all()):
            bound[~told] = self._untold(self._joint(batch.x[~told], 1, seed, beta), log_q[~told])
        right = log_q[told].gather(1, y[told][:, None])[:, 0]
        share = context.mean_of(right, told)
        logs = {
            "bits_per_dim": -bound.detach().mean() / (self.dims * math.log(2)),
            "accuracy": context.mean_of((log_q[told].argmax(1) == y[told]).double(), told),
        }
        return -(bound.mean() + self.alpha * share) / self.dims, logs

    def settle(self, batches: Iterator[Batch]) -> None:
        self.answers.settle(batches)

    def calibrate(self, batches: Iterator[Batch]) -> None:
        self.answers.calibrate(batches)

    def fitted_temperature(self) -> float:
        return self.answers.fitted_temperature()

    # Sampler ---------------------------------------------------------------------------------------------------------

    def draw(self, given: Tensor | None, noise: Noise, progress: Progress | None) -> Tensor:
        y = (noise.uniform("y", 1)[:, 0] * self.classes).long().to(self.device)
        if given is not None:
            y = torch.where(given >= 0, given, y)
        images = self.images
        assert isinstance(images, Sampler)
        return images.draw(y, noise, progress)
