"""PixelCNN (van den Oord, Kalchbrenner, Kavukcuoglu 2016, "Pixel Recurrent Neural Networks", §3.3–3.4, table 1).

    p(x) = ∏_i p(x_i | x_<i),   i over rows, columns, then colours

A 7×7 convolution with mask A, then residual blocks of mask B: 2h → ReLU, 1×1 → h → ReLU, 3×3 → h → ReLU, 1×1 → 2h, then two 1×1 layers
to the logits. All positions are scored in one pass; a step of sampling costs one position (`nn/masked.py`).

Differences from the paper: Bernoulli for 2 levels, a softmax over however many levels there are otherwise; optional dropout; a
view is added to every block. The blind spot of stacked 3×3 masks is the paper's and is kept (the gated model removes it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import torch.nn.functional as F
from torch import Tensor, nn

from pofx.errors import InputError
from pofx.likelihoods import Likelihood, normalised
from pofx.model import Autoregressive, Batch, Context, Features, Objective, OptimizerSpec, Steps
from pofx.nn import conditioning
from pofx.nn.masked import FullPass, MaskedConv2d, Pass, StepPass, raster
from pofx.space import ImageSpace
from pofx.views import View


class Block(nn.Module):
    """Figure 5 (left): a bottleneck of width h with a masked 3×3 in the middle, added to its input of width 2h."""

    def __init__(self, width: int, kernel: int, channels: int, context: conditioning.Context) -> None:
        super().__init__()
        self.reduce = MaskedConv2d(2 * width, width, 1, "B", channels)
        self.mix = MaskedConv2d(width, width, kernel, "B", channels)
        self.expand = MaskedConv2d(width, 2 * width, 1, "B", channels)
        self.given = context.into(width)

    def forward(self, ops: Pass, h: Tensor, context: Tensor | None, site: str, dropout: float) -> Tensor:
        a = ops.conv(self.reduce, ops.relu(h))
        a = ops.add_context(ops.conv(self.mix, ops.relu(a)), conditioning.project(self.given, context))
        a = ops.keep(site, ops.relu(a), dropout)
        return h + ops.conv(self.expand, a)


class PixelCNN(Autoregressive, Features):
    """PixelCNN of van den Oord et al. 2016.

    Args:
        space: what images may be.
        given: a view for p(x | given).
        layers: residual blocks.
        channels: h; the trunk is 2h wide.
        kernel, first_kernel: odd sizes of the masked convolutions.
        likelihood: "auto" is Bernoulli for 2 levels, otherwise a softmax over all levels.
        dropout: share of block activations dropped in training.
        lr: learning rate of AdamW.

    Raises:
        InputError: fewer features than image channels, an even kernel.

    >>> model = PixelCNN.small(ImageSpace(1, 3, 3, levels=2))
    >>> model.sample(2, seed=0).shape
    torch.Size([2, 1, 3, 3])
    """

    family: ClassVar = ("explicit", "tractable", "autoregressive")
    paper: ClassVar = "van den Oord et al. 2016, Pixel Recurrent Neural Networks, arXiv:1601.06759"

    def __init__(
        self,
        space: ImageSpace,
        given: View | None = None,
        *,
        layers: int = 8,
        channels: int = 32,
        kernel: int = 3,
        first_kernel: int = 7,
        likelihood: Literal["auto", "bernoulli", "categorical"] = "auto",
        dropout: float = 0.0,
        lr: float = 2e-3,
    ) -> None:
        super().__init__(space, given)
        if layers < 1 or kernel % 2 == 0 or first_kernel % 2 == 0:
            raise InputError(
                f"PixelCNN: layers={layers} must be ≥ 1; kernel={kernel} and first_kernel={first_kernel} must be odd, e.g. --kernel 3."
            )
        if likelihood not in ("auto", "bernoulli", "categorical"):
            raise InputError(f"PixelCNN: likelihood={likelihood!r}; use auto, bernoulli or categorical.")
        if not 0 <= dropout < 1:
            raise InputError(f"PixelCNN: dropout={dropout} must be in [0, 1), e.g. --dropout 0.1.")
        self.layers, self.channels, self.kernel, self.first_kernel = layers, channels, kernel, first_kernel
        self.likelihood, self.dropout, self.lr = likelihood, dropout, lr
        self.head = Likelihood(likelihood, space)
        self.colour_head = Likelihood(self.head.name, ImageSpace(1, 1, 1, space.levels))
        c = space.channels
        self.context = conditioning.Context(self, channels)
        self.first = MaskedConv2d(c, 2 * channels, first_kernel, "A", c)
        self.first_given = self.context.into(2 * channels)
        self.blocks = nn.ModuleList(Block(channels, kernel, c, self.context) for _ in range(layers))
        self.out1 = MaskedConv2d(2 * channels, 2 * channels, 1, "B", c)
        self.out2 = MaskedConv2d(2 * channels, self.head.size, 1, "B", c)

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        return cls(space, given, layers=2, channels=4 * space.channels)

    # The network, written once for full passes and steps ------------------------------------------------------------

    def trunk(self, ops: Pass, x: Tensor | None, context: Tensor | None, blocks: int | None = None) -> Tensor:
        h = ops.add_context(ops.conv(self.first, x), conditioning.project(self.first_given, context))
        for i, block in enumerate(self.blocks[:blocks]):
            h = block(ops, h, context, f"block{i}", self.dropout)
        return h

    def logits(self, ops: Pass, x: Tensor | None, context: Tensor | None) -> Tensor:
        """Parameters of the head: `(n, head.size, H, W)`, or of one colour `(n, head.size / C)` in a step."""
        h = ops.relu(self.trunk(ops, x, context))
        return ops.conv(self.out2, ops.relu(ops.conv(self.out1, h)))

    # Likelihood ------------------------------------------------------------------------------------------------------

    def _conditionals(self, ops: FullPass, x: Tensor, given: Tensor | None) -> Tensor:
        parameters = self.logits(ops, normalised(x, self.space.levels, self.dtype), self.context(given))
        return self.head(parameters).log_prob(x)

    def conditional_log_prob(self, x: Tensor, given: Tensor | None) -> Tensor:
        return self._conditionals(FullPass(self.space.channels), x, given)

    def objectives(self) -> Sequence[Objective]:
        return [Objective("nll", self, self._loss, optimizer=OptimizerSpec("AdamW", lr=self.lr, betas=(0.9, 0.99)))]

    def _loss(self, batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        return self.nll(self._conditionals(FullPass(self.space.channels, context.noise), batch.x, batch.given))

    # Steps -----------------------------------------------------------------------------------------------------------

    def order(self) -> list[Tensor]:
        return raster(self.space)

    def begin(self, n: int, given: Any = None) -> Steps:
        return PixelCNNSteps(self, n, self.check_given(given, n))

    # Features --------------------------------------------------------------------------------------------------------

    @property
    def feature_layers(self) -> Sequence[str]:
        return [f"block{i + 1}" for i in range(self.layers)]

    def features(self, x: Tensor, layer: str | None = None) -> Tensor:
        """Trunk activations after a block (the middle one by default), averaged over the image: `(n, 2h)`."""
        depth = self.layer_index(layer, (self.layers - 1) // 2) + 1
        x = self.space.check(x).to(self.device)
        h = self.trunk(FullPass(self.space.channels), normalised(x, self.space.levels, self.dtype), None, blocks=depth)
        return F.relu(h).mean((2, 3))


class PixelCNNSteps(Steps):
    """Sub-pixel after sub-pixel, each at the cost of its own features."""

    def __init__(self, model: PixelCNN, n: int, given: Tensor | None) -> None:
        self.model, self.ops = model, StepPass(n, (model.space.height, model.space.width), model.space.channels)
        self.context = model.context(given)
        self.position, self.read = 0, False

    def _parameters(self) -> Tensor:
        pixel, colour = divmod(self.position, self.model.space.channels)
        self.ops.at(*divmod(pixel, self.model.space.width), colour)
        self.read = True
        return self.model.logits(self.ops, None, self.context)

    def distribution(self) -> Tensor:
        parameters = self._parameters()
        head = self.model.colour_head(parameters)
        return head.table(0, parameters[:, :0])[:, None]

    def fix(self, values: Tensor) -> None:
        if not self.read:  # a known sub-pixel: later ones read the features at its place
            self._parameters()
        value = normalised(values, self.model.space.levels, self.model.dtype)
        self.ops.write(self.model.first, value)
        self.position, self.read = self.position + 1, False
