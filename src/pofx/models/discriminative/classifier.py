"""A small residual classifier: p(y | x) = softmax(z / T), z a linear layer over averaged features.

The discriminative member of the family: it says nothing of p(x), and gives a label to noise as readily as to a digit. Its
features measure the samples of the others (Fréchet distance, precision and recall). Pre-activation residual blocks as in He et al. 2016,
without normalisation, so an image's label does not depend on its batch.

Networks that fit their training images are too sure of others. The temperature T > 0 is one number that makes −mean log p(y | x) of
validation images smallest (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2); it changes no label. In β = log T the
mean is smooth with one minimum, and is searched by bisection of its slope. It is fitted anew whenever averaged weights are kept.

Few labels. With `body`, a model that learned without labels gives the features, and z is a linear layer over them, standardised by the first
batch. The body learns at a tenth of the head's rate, or not at all (`freeze`); it always works as it is evaluated, so that BatchNorm keeps the
statistics of many images and not those of a few labelled ones. With `consistency`, images without a label teach too (Sohn et al. 2020, FixMatch,
eq. 4): where the most probable label q̂ of an image is surer than `threshold`, a distorted copy A(x) shall get it as well,

    loss = mean over labelled −log p(y | x)  +  λ · mean over unlabelled 1[max p(y | x) ≥ τ] · −log p(q̂ | A(x)).

Differences: A is one random affine map and a hole (`nn/augment.py`) and not a policy of many operations; the weak copy is the image of the
batch as it comes, moved by `pofx train --augment shift`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pofx.errors import InputError
from pofx.likelihoods import normalised
from pofx.model import Batch, Context, Features, ImageModel, Labeler, LabelScore, Objective, OptimizerSpec
from pofx.nn.activations import silu
from pofx.nn.augment import distort
from pofx.nn.extract import Extract
from pofx.nn.linear import Linear
from pofx.nn.residual import ResidualBlock
from pofx.nn.strided import pyramid, strides
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.views import View

SLOW = 0.1  # learning rate of a body that was learned before, of the head's (Howard and Ruder 2018: discriminative fine-tuning)
HOTTEST = 100.0  # T is looked for between 1 / HOTTEST and HOTTEST


def best_temperature(logits: Tensor, y: Tensor) -> float:
    """The T at which softmax(logits / T) gives labels the smallest mean cross-entropy: `(n, classes)`, int64 `(n,)` → T in [0.01, 100].

    With inverse temperature b = 1/T the slope of mean(logsumexp(b z) − b z_y) is mean(E_b[z] − z_y), which grows with b: bisection.

    >>> round(best_temperature(torch.tensor([[4.0, 0.0]] * 10), torch.tensor([0] * 9 + [1])), 4)  # 4 / log 9
    1.8205
    """
    z = logits.double()
    right = z.gather(1, y[:, None])[:, 0]
    low, high = 1 / HOTTEST, HOTTEST
    for _ in range(60):
        b = (low * high) ** 0.5
        slope = float((((b * z).softmax(1) * z).sum(1) - right).mean())
        low, high = (low, b) if slope > 0 else (b, high)
    return (low * high) ** -0.5


class Classifier(Labeler, Features):
    """A residual convolutional classifier with a calibrated temperature.

    Args:
        space: what images may be.
        given: must be None; a classifier conditions on x itself.
        classes: number of labels.
        channels: width at full size; doubled at each halving.
        stages: halvings of the image; they drop out below size 2.
        depth: residual blocks at each size.
        dropout: share of activations dropped in training.
        smoothing: share of each training label that is spread over all classes (Szegedy et al. 2016, section 7).
        optimizer: "AdamW" or "Muon".
        lr: its learning rate.
        body: a model with features that starts this one, in the place of the net of channels, stages and depth.
        layer: of the body's features.
        freeze: train the new head alone.
        consistency: weight λ of images without a label; 0 leaves them out.
        threshold: τ, how sure the label of such an image must be.

    Raises:
        InputError: numbers out of range; a body of other images, or conditional, or without that layer; `freeze` or `layer` without a body.

    >>> Classifier.small(ImageSpace(1, 4, 4)).label(torch.zeros(2, 1, 4, 4, dtype=torch.uint8)).log_prob.shape
    torch.Size([2, 10])
    """

    family: ClassVar = ("discriminative",)
    paper: ClassVar = "He et al. 2016, Identity Mappings in Deep Residual Networks, arXiv:1603.05027"
    refuses: ClassVar = {View: "it learns p(y | x), which conditions on the image itself."}
    younger: ClassVar = ("temperature",)

    def __init__(
        self,
        space: ImageSpace,
        given: View | None = None,
        *,
        classes: int = 10,
        channels: int = 32,
        stages: int = 2,
        depth: int = 1,
        dropout: float = 0.1,
        smoothing: float = 0.0,
        optimizer: Literal["AdamW", "Muon"] = "AdamW",
        lr: float = 2e-3,
        body: ImageModel | None = None,
        layer: str | None = None,
        freeze: bool = False,
        consistency: float = 0.0,
        threshold: float = 0.95,
    ) -> None:
        super().__init__(space, given)
        if classes < 2 or channels < 1 or stages < 0 or depth < 1:
            raise InputError(
                f"Classifier: classes={classes} must be at least 2, channels={channels} and depth={depth} at least 1, stages={stages} at least 0."
            )
        if not 0 <= dropout < 1:
            raise InputError(f"Classifier: dropout={dropout} must be in [0, 1), e.g. --dropout 0.1.")
        if not 0 <= smoothing < 1:
            raise InputError(f"Classifier: smoothing={smoothing} must be in [0, 1), e.g. --smoothing 0.1.")
        if optimizer not in ("AdamW", "Muon"):
            raise InputError(f"Classifier: optimizer={optimizer!r} must be AdamW or Muon.")
        if isinstance(body, Extract):  # an encoder that was exported alone: what is stored is the model that it is of
            body, layer = body.part, layer or body.layer
        if body is None and (freeze or layer is not None):
            raise InputError("Classifier: freeze and layer are of a body that was learned before. Name one: --init-from RUN.")
        if freeze and consistency:
            raise InputError(f"Classifier: consistency={consistency} teaches the body, and freeze keeps it as it is. Leave one out.")
        if not consistency >= 0 or not 0 < threshold <= 1:
            raise InputError(f"Classifier: consistency={consistency} must be at least 0 and threshold={threshold} in (0, 1].")
        # Not as a submodule: what its features read is stored once, below.
        object.__setattr__(self, "body", body)
        self.layer, self.freeze, self.consistency, self.threshold = layer, freeze, consistency, threshold
        self.classes, self.channels, self.stages, self.depth = classes, channels, stages, depth
        self.dropout, self.smoothing, self.lr = dropout, smoothing, lr
        self.optimizer: Literal["AdamW", "Muon"] = optimizer
        self.blocks = nn.ModuleList()
        if body is not None:
            self.start = Extract(space, part=body, layer=layer)
            with torch.no_grad():
                width = self.start.features(torch.zeros(1, *space.shape, dtype=torch.uint8, device=body.device)).shape[1]
            self.register_buffer("center", torch.zeros(width))
            self.register_buffer("spread", torch.ones(width))
        else:
            sizes = pyramid(space.height, space.width, stages)
            widths = [channels * 2**i for i in range(len(sizes))]
            self.stem = nn.Conv2d(space.channels, channels, 3, padding=1)
            self.blocks.extend(ResidualBlock(w) for w in widths for _ in range(depth))
            self.down = nn.ModuleList(nn.Conv2d(a, b, 3, s, padding=1) for a, b, s in zip(widths, widths[1:], strides(sizes), strict=False))
            width = widths[-1]
        self.out = Linear(width, classes)
        self.temperature: Tensor
        self.register_buffer("temperature", torch.ones(()))

    body: ImageModel | None
    center: Tensor
    spread: Tensor

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        return cls(space, given, channels=8, stages=1)

    def initialise(self, batch: Batch) -> None:
        """Features of a body are standardised by this batch."""
        if self.body is not None:
            h = self.start.features(batch.x)
            self.center.copy_(h.mean(0))
            self.spread.copy_(h.std(0, correction=0).clamp(min=1e-3 * float(h.std()) + 1e-12))

    def _features(self, x: Tensor, noise: Noise | None = None, depth: int | None = None) -> Tensor:
        """What the head sees, `(n, width)`."""
        if self.body is not None:
            h = (self.start.features(x) - self.center) / self.spread
            return h if noise is None or not self.dropout else h * noise.keep("features", h, self.dropout)
        return self._body(normalised(x, self.space.levels, self.dtype), noise, depth)

    def _body(self, h: Tensor, noise: Noise | None, depth: int | None = None) -> Tensor:
        h = self.stem(h)
        for i, block in enumerate(self.blocks[:depth]):
            size, place = divmod(i, self.depth)
            if size and not place:
                h = self.down[size - 1](h)
            h = block(h, None, noise, f"block{i}", self.dropout)
        return silu(h).mean((2, 3))

    def label(self, x: Tensor) -> LabelScore:
        x = self.space.check(x).to(self.device)
        return LabelScore((self.out(self._features(x)) / self.temperature).log_softmax(1), "exact")

    def semi_supervised(self) -> bool:
        return self.consistency > 0

    def calibrate(self, batches: Iterator[Batch]) -> None:
        """Fit the temperature on labelled validation images; without any it is 1."""
        seen = [(self.out(self._features(batch.x)), batch.y) for batch in batches if batch.y is not None]
        if seen:
            self.temperature.fill_(best_temperature(torch.cat([z for z, _ in seen]), torch.cat([y for _, y in seen])))

    def fitted_temperature(self) -> float:
        return float(self.temperature)

    def objectives(self) -> Sequence[Objective]:
        spec = OptimizerSpec(self.optimizer, lr=self.lr, weight_decay=0.01)
        moved = self.out if self.freeze else self
        slow = None if self.body is None or self.freeze else (self.start, SLOW)
        return [Objective("cross-entropy", moved, self._loss, optimizer=spec, slow=slow)]

    def _loss(self, batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        if batch.y is None:
            raise InputError(
                "A classifier needs labels, and the data has none. Give a folder with one subfolder per class, or a set with labels."
            )
        least = -1 if self.consistency else 0
        if len(batch.y) and not least <= int(batch.y.min()) <= int(batch.y.max()) < self.classes:
            if int(batch.y.min()) == -1:
                raise InputError("Some images have no label (−1), and this classifier learns from labels alone. Use --consistency 1.")
            raise InputError(
                f"Labels reach {int(batch.y.max())}; this classifier has {self.classes} classes. Use --classes {int(batch.y.max()) + 1}."
            )
        if self.consistency:
            return self._consistent(batch.x, batch.y, context)
        logits = self.out(self._features(batch.x, context.noise))
        loss = F.cross_entropy(logits, batch.y, label_smoothing=self.smoothing)
        return loss, {"accuracy": (logits.argmax(1) == batch.y).double().mean()}

    def _consistent(self, x: Tensor, y: Tensor, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of FixMatch, eq. 3 and 4. Images with a label are taken as images without one too."""
        told, noise = y >= 0, context.noise
        named = Noise(noise.seed, noise.images[told.cpu()])
        logits = self.out(self._features(x[told], named))
        right = logits.argmax(1) == y[told]
        supervised = context.mean_of(F.cross_entropy(logits, y[told], label_smoothing=self.smoothing, reduction="none"), told)
        with torch.no_grad():
            sure, answer = self.out(self._features(x)).softmax(1).max(1)
        mask = (sure >= self.threshold).to(self.dtype)
        strong = self.out(self._features(self._distorted(x, noise), noise))
        other = (F.cross_entropy(strong, answer, reduction="none") * mask).mean()
        logs = {"accuracy": context.mean_of(right.double(), told), "sure": mask.mean()}
        return supervised + self.consistency * other, logs

    def _distorted(self, x: Tensor, noise: Noise) -> Tensor:
        """A(x), rounded to the levels that images have."""
        moved = distort(normalised(x, self.space.levels, self.dtype), noise, "strong")
        return ((moved.float() + 1) * ((self.space.levels - 1) / 2)).round().clamp(0, self.space.levels - 1).to(torch.uint8)

    @property
    def feature_layers(self) -> Sequence[str]:
        return ["body"] if self.body is not None else [f"block{i + 1}" for i in range(len(self.blocks))]

    def features(self, x: Tensor, layer: str | None = None) -> Tensor:
        """Activations after a block (the last by default), averaged over the image: `(n, width)`; or those of the body, standardised."""
        return self._features(self.space.check(x).to(self.device), depth=self.layer_index(layer) + 1)
