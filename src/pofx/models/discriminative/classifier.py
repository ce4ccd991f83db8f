"""A small residual classifier: p(y | x) = softmax of a linear layer over averaged features.

The discriminative member of the family: it says nothing of p(x), and gives a label to noise as readily as to a digit. Its
features measure the samples of the others (Fréchet distance, precision and recall). Pre-activation residual blocks as in He et al. 2016,
without normalisation, so an image's label does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

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


class Classifier(Labeler, Features):
    """A residual convolutional classifier.

    Args:
        space: what images may be.
        given: must be None; a classifier conditions on x itself.
        classes: number of labels.
        channels: width at full size; doubled at each halving.
        stages: halvings of the image; they drop out below size 2.
        dropout: share of activations dropped in training.
        lr: learning rate of AdamW.

    >>> import torch
    >>> Classifier.small(ImageSpace(1, 4, 4)).label(torch.zeros(2, 1, 4, 4, dtype=torch.uint8)).log_prob.shape
    torch.Size([2, 10])
    """

    family: ClassVar = ("discriminative",)
    paper: ClassVar = "He et al. 2016, Identity Mappings in Deep Residual Networks, arXiv:1603.05027"
    refuses: ClassVar = {View: "it learns p(y | x), which conditions on the image itself."}

    def __init__(
        self,
        space: ImageSpace,
        given: View | None = None,
        *,
        classes: int = 10,
        channels: int = 32,
        stages: int = 2,
        dropout: float = 0.1,
        lr: float = 2e-3,
    ) -> None:
        super().__init__(space, given)
        if classes < 2 or channels < 1 or stages < 0:
            raise InputError(
                f"Classifier: classes={classes} must be at least 2, channels={channels} at least 1, stages={stages} at least 0."
            )
        if not 0 <= dropout < 1:
            raise InputError(f"Classifier: dropout={dropout} must be in [0, 1), e.g. --dropout 0.1.")
        self.classes, self.channels, self.stages, self.dropout, self.lr = classes, channels, stages, dropout, lr
        sizes = pyramid(space.height, space.width, stages)
        widths = [channels * 2**i for i in range(len(sizes))]
        self.stem = nn.Conv2d(space.channels, channels, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(w) for w in widths)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, s, padding=1) for a, b, s in zip(widths, widths[1:], strides(sizes), strict=False))
        self.out = Linear(widths[-1], classes)

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        return cls(space, given, channels=8, stages=1)

    def _body(self, x: Tensor, noise: Noise | None, depth: int | None = None) -> Tensor:
        h = self.stem(normalised(x, self.space.levels, self.dtype))
        for i, block in enumerate(self.blocks[:depth]):
            if i:
                h = self.down[i - 1](h)
            h = block(h, None, noise, f"block{i}", self.dropout)
        return silu(h).mean((2, 3))

    def label(self, x: Tensor) -> LabelScore:
        x = self.space.check(x).to(self.device)
        return LabelScore(self.out(self._body(x, None)).log_softmax(1), "exact")

    def objectives(self) -> Sequence[Objective]:
        return [Objective("cross-entropy", self, self._loss, optimizer=OptimizerSpec("AdamW", lr=self.lr, weight_decay=0.01))]

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
        loss = F.cross_entropy(logits, batch.y)
        return loss, {"accuracy": (logits.argmax(1) == batch.y).double().mean()}

    @property
    def feature_layers(self) -> Sequence[str]:
        return [f"block{i + 1}" for i in range(len(self.blocks))]

    def features(self, x: Tensor, layer: str | None = None) -> Tensor:
        """Activations after a block (the last by default), averaged over the image: `(n, width)`."""
        depth = self.layer_index(layer) + 1
        return self._body(self.space.check(x).to(self.device), None, depth=depth)
