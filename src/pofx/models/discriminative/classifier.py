"""A small residual classifier: p(y | x) = softmax(z / T), z a linear layer over averaged features.

The discriminative member of the family: it says nothing of p(x), and gives a label to noise as readily as to a digit. Its
features measure the samples of the others (Fréchet distance, precision and recall). Pre-activation residual blocks as in He et al. 2016,
without normalisation, so an image's label does not depend on its batch.

Networks that fit their training images are too sure of others. The temperature T > 0 is one number that makes −mean log p(y | x) of
validation images smallest (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2); it changes no label. In β = log T the
mean is smooth with one minimum, and is searched by bisection of its slope. It is fitted anew whenever averaged weights are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pofx.errors import InputError
from pofx.likelihoods import normalised
from pofx.model import Batch, Context, Features, Labeler, LabelScore, Objective, OptimizerSpec
from pofx.nn.activations import silu
from pofx.nn.linear import Linear
from pofx.nn.residual import ResidualBlock
from pofx.nn.strided import pyramid, strides
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.views import View

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
        self.classes, self.channels, self.stages, self.depth = classes, channels, stages, depth
        self.dropout, self.smoothing, self.lr = dropout, smoothing, lr
        self.optimizer: Literal["AdamW", "Muon"] = optimizer
        sizes = pyramid(space.height, space.width, stages)
        widths = [channels * 2**i for i in range(len(sizes))]
        self.stem = nn.Conv2d(space.channels, channels, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(w) for w in widths for _ in range(depth))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, s, padding=1) for a, b, s in zip(widths, widths[1:], strides(sizes), strict=False))
        self.out = Linear(widths[-1], classes)
        self.temperature: Tensor
        self.register_buffer("temperature", torch.ones(()))

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        return cls(space, given, channels=8, stages=1)

    def _body(self, x: Tensor, noise: Noise | None, depth: int | None = None) -> Tensor:
        h = self.stem(normalised(x, self.space.levels, self.dtype))
        for i, block in enumerate(self.blocks[:depth]):
            size, place = divmod(i, self.depth)
            if size and not place:
                h = self.down[size - 1](h)
            h = block(h, None, noise, f"block{i}", self.dropout)
        return silu(h).mean((2, 3))

    def label(self, x: Tensor) -> LabelScore:
        x = self.space.check(x).to(self.device)
        return LabelScore((self.out(self._body(x, None)) / self.temperature).log_softmax(1), "exact")

    def calibrate(self, batches: Iterator[Batch]) -> None:
        """Fit the temperature on labelled validation images; without any it is 1."""
        seen = [(self.out(self._body(batch.x, None)), batch.y) for batch in batches if batch.y is not None]
        if seen:
            self.temperature.fill_(best_temperature(torch.cat([z for z, _ in seen]), torch.cat([y for _, y in seen])))

    def fitted_temperature(self) -> float:
        return float(self.temperature)

    def objectives(self) -> Sequence[Objective]:
        return [Objective("cross-entropy", self, self._loss, optimizer=OptimizerSpec(self.optimizer, lr=self.lr, weight_decay=0.01))]

    def _loss(self, batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        if batch.y is None:
            raise InputError(
                "A classifier needs labels, and the data has none. Give a folder with one subfolder per class, or a set with labels."
            )
        if len(batch.y) and not 0 <= int(batch.y.min()) <= int(batch.y.max()) < self.classes:
            raise InputError(
                f"Labels reach {int(batch.y.max())}; this classifier has {self.classes} classes. Use --classes {int(batch.y.max()) + 1}."
            )
        logits = self.out(self._body(batch.x, context.noise))
        loss = F.cross_entropy(logits, batch.y, label_smoothing=self.smoothing)
        return loss, {"accuracy": (logits.argmax(1) == batch.y).double().mean()}

    @property
    def feature_layers(self) -> Sequence[str]:
        return [f"block{i + 1}" for i in range(len(self.blocks))]

    def features(self, x: Tensor, layer: str | None = None) -> Tensor:
        """Activations after a block (the last by default), averaged over the image: `(n, width)`."""
        return self._body(self.space.check(x).to(self.device), None, depth=self.layer_index(layer) + 1)
