"""PixelCNN (van den Oord, Kalchbrenner, Kavukcuoglu 2016, "Pixel Recurrent Neural Networks", §3.3–3.4, table 1).

    p(x) = ∏_i p(x_i | x_<i),   i over rows, columns, then colours

A 7×7 convolution with mask A, then residual blocks of mask B: 2h → ReLU, 1×1 → h → ReLU, 3×3 → h → ReLU, 1×1 → 2h, then two 1×1 layers
to the logits. All positions are scored in one pass; a step of sampling costs one position (`nn/masked.py`).

Differences from the paper: Bernoulli for 2 levels, a softmax over however many levels there are otherwise; optional dropout; a
view is added to every block. The blind spot of stacked 3×3 masks is the paper's and is kept (the gated model removes it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import torch.nn.functional as F
from torch import Tensor, nn

from pofx.errors import InputError
from pofx.likelihoods import Likelihood
from pofx.model import Features, RangeCoded
from pofx.nn import conditioning
from pofx.nn.masked import FullPass, MaskedConv2d, Pass, StepPass, check_sizes
from pofx.nn.raster import Place, RasterModel, StepNet, places, raster
from pofx.nn.residual import MaskedBlock
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.views import View


class PixelCNN(RasterModel, RangeCoded, Features):
    """PixelCNN of van den Oord et al. 2016.

    Args:
        space: what images may be.
        given: a view for p(x | given).
        layers: residual blocks.
        channels: h; the trunk is 2h wide.
        kernel, first_kernel: odd sizes of the masked convolutions.
        dilations: block 1 + i sees pixels 2^(i mod dilations) apart: with 3, a far past at the price of the near one (Yu and Koltun 2016).
        likelihood: "auto" is Bernoulli for 2 levels, otherwise a softmax over all levels.
        dropout: share of block activations dropped in training.
        lr: learning rate of Muon.

    Raises:
        InputError: fewer features than image channels, an even kernel.

    >>> model = PixelCNN.small(ImageSpace(1, 3, 3, levels=2))
    >>> model.sample(2, seed=0).shape
    torch.Size([2, 1, 3, 3])
    """

    family: ClassVar = ("explicit", "tractable", "autoregressive")
    paper: ClassVar = "van den Oord et al. 2016, Pixel Recurrent Neural Networks, arXiv:1601.06759"
    spatial: ClassVar = True

    def __init__(
        self,
        space: ImageSpace,
        given: View | None = None,
        *,
        layers: int = 8,
        channels: int = 32,
        kernel: int = 3,
        first_kernel: int = 7,
        dilations: int = 1,
        likelihood: Literal["auto", "bernoulli", "categorical"] = "auto",
        dropout: float = 0.0,
        lr: float = 3e-3,
    ) -> None:
        super().__init__(space, given)
        kernels = kernel, first_kernel
        check_sizes("PixelCNN", space, layers=layers, channels=channels, kernels=kernels, dilations=dilations, dropout=dropout, even=False)
        if likelihood not in ("auto", "bernoulli", "categorical"):
            raise InputError(f"PixelCNN: likelihood={likelihood!r}; use auto, bernoulli or categorical.")
        self.layers, self.channels, self.kernel, self.first_kernel, self.dilations = layers, channels, kernel, first_kernel, dilations
        self.likelihood, self.dropout, self.lr = likelihood, dropout, lr
        self.head = Likelihood(likelihood, space)
        c = space.channels
        self.context = conditioning.Context(self, channels)
        self.first = MaskedConv2d(c, 2 * channels, first_kernel, "A", c)
        self.first_given = self.context.into(2 * channels)
        self.blocks = nn.ModuleList(MaskedBlock(channels, kernel, c, self.context, 2 ** (i % dilations)) for i in range(layers))
        self.out1 = MaskedConv2d(2 * channels, 2 * channels, 1, "B", c)
        self.out2 = MaskedConv2d(2 * channels, self.head.size, 1, "B", c)

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        return cls(space, given, layers=2, channels=4 * space.channels)

    # The network, written once for full passes and steps ------------------------------------------------------------

    def trunk(self, ops: Pass, x: Tensor | None, context: Tensor | None, blocks: int | None = None) -> Tensor:
        h = ops.add_context(ops.conv(self.first, x), self.first_given, context)
        for i, block in enumerate(self.blocks[:blocks]):
            h = block(ops, h, context, f"block{i}", self.dropout)
        return h

    def logits(self, ops: Pass, x: Tensor | None, context: Tensor | None) -> Tensor:
        """Parameters of the head: `(n, head.size, H, W)`, or of one colour `(n, head.size / C)` in a step."""
        h = ops.relu(self.trunk(ops, x, context))
        return ops.conv(self.out2, ops.relu(ops.conv(self.out1, h)))

    def full(self, x: Tensor, context: Tensor | None, noise: Noise | None = None) -> Tensor:
        return self.logits(FullPass(self.space.channels, noise), x, context)

    def stepper(self, n: int, context: Tensor | None) -> StepNet:
        return PixelCNNSteps(self, n, context)

    def places(self) -> list[Place]:
        """A wavefront: from row to row masked kernels reach right by their half width, dilated or not."""
        return places(self.space, reach=max(self.kernel, self.first_kernel) // 2)

    def orders(self) -> list[list[Tensor]]:
        """The wavefront, and the raster whose masks it keeps."""
        return [self.order(), raster(self.space)]

    # Features --------------------------------------------------------------------------------------------------------

    @property
    def feature_layers(self) -> Sequence[str]:
        return [f"block{i + 1}" for i in range(self.layers)]

    def features(self, x: Tensor, layer: str | None = None) -> Tensor:
        """Trunk activations after a block (the middle one by default), averaged over the image: `(n, 2h)`."""
        depth = self.layer_index(layer, (self.layers - 1) // 2) + 1
        x = self.seen(self.space.check(x).to(self.device))
        h = self.trunk(FullPass(self.space.channels), x, None, blocks=depth)
        return self.pooled(F.relu(h), layer)


class PixelCNNSteps(StepNet):
    """Sub-pixel after sub-pixel of a wavefront, each at the cost of its own features."""

    def __init__(self, model: PixelCNN, n: int, context: Tensor | None) -> None:
        self.model, self.context = model, context
        self.ops = StepPass(n, (model.space.height, model.space.width), model.space.channels, model.device)

    def enter(self, place: Place) -> None:
        self.ops.at(place)

    def parameters(self, place: Place) -> Tensor:
        return self.model.logits(self.ops, None, self.context)

    def write(self, place: Place, value: Tensor) -> None:
        self.ops.write(self.model.first, value)

    def fill(self, x: Tensor, rows: int) -> None:
        context = self.context if self.context is None else self.context[:, :, :rows]
        ops = FullPass(self.model.space.channels, inputs={})
        self.model.logits(ops, x[:, :, :rows], context)
        assert ops.inputs is not None
        self.ops.fill(ops.inputs, rows)
