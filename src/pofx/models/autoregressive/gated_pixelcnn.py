"""Gated PixelCNN (van den Oord et al. 2016b, "Conditional Image Generation with PixelCNN Decoders", figure 2, eq. 2 and 4).

Two stacks see the whole past, without a blind spot: the vertical stack all rows above, the horizontal stack the current row to the left.

    y = tanh(W_f ∗ x + V_f h) ⊙ σ(W_g ∗ x + V_g h)

The vertical feature map enters the horizontal stack before its gate, through a 1×1 convolution. The vertical stack excludes the current row
in its *first* layer only. The horizontal stack is residual but for its first layer; skip connections go to the output. Above the current row no
colour is masked; within the row masks A and B order R, G, B.

Differences from the paper: Bernoulli for 2 levels; skip connections are summed; optional dropout; the condition h is any view.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pofx.errors import InputError
from pofx.likelihoods import Likelihood, normalised
from pofx.model import Autoregressive, Batch, Context, Features, Objective, OptimizerSpec, Steps
from pofx.nn import conditioning
from pofx.nn.masked import AllRows, FullPass, MaskedConv2d, OneRow, Pass, Rows, StepPass, VerticalConv2d, gated, raster
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.views import View


class VerticalLayer(nn.Module):
    """The left half of figure 2: a gated convolution of the rows above, and its link to the right."""

    def __init__(self, inputs: int, width: int, kernel: int, first: bool, last: bool, context: conditioning.Context) -> None:
        super().__init__()
        self.conv = VerticalConv2d(inputs, 2 * width, kernel, strict=first)
        self.link = nn.Conv2d(2 * width, 2 * width, 1)
        self.last = last  # nothing reads the gated output of the last layer
        self.given = nn.Identity() if last else context.into(2 * width)

    def forward(self, rows: Rows, v: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        v = rows.conv(self.conv, v)
        link = self.link(v)
        return link, v if self.last else gated(v + rows.context(conditioning.project(self.given, context)))


class HorizontalLayer(nn.Module):
    """The right half of figure 2."""

    def __init__(self, inputs: int, width: int, kernel: int, first: bool, last: bool, channels: int, context: conditioning.Context) -> None:
        super().__init__()
        self.first = first
        self.conv = MaskedConv2d(inputs, 2 * width, kernel, "A" if first else "B", channels, rows=0)
        self.given = context.into(2 * width)
        self.skip = MaskedConv2d(width, width, 1, "B", channels)
        self.out = None if last else MaskedConv2d(width, width, 1, "B", channels)

    def forward(
        self, ops: Pass, h: Tensor | None, link: Tensor, context: Tensor | None, site: str, dropout: float
    ) -> tuple[Tensor | None, Tensor]:
        a = ops.add_context(ops.conv(self.conv, h) + ops.link(link), conditioning.project(self.given, context))
        a = ops.keep(site, ops.gate(a), dropout)
        skip = ops.conv(self.skip, a)
        if self.out is None:
            return None, skip
        out = ops.conv(self.out, a)
        return (out if self.first or h is None else h + out), skip


class GatedPixelCNN(Autoregressive, Features):
    """Gated PixelCNN of van den Oord et al. 2016b.

    Args:
        space: what images may be.
        given: a view for p(x | given).
        layers: gated layers, the first one included.
        channels: p; a multiple of the image's channels.
        kernel, first_kernel: odd widths of the convolutions.
        likelihood: "auto" is Bernoulli for 2 levels, otherwise a softmax over all levels.
        dropout: share of gated activations dropped in training.
        lr: learning rate of AdamW.

    Raises:
        InputError: channels no multiple of the image's, an even kernel, no layers.

    >>> model = GatedPixelCNN.small(ImageSpace(1, 3, 3, levels=2))
    >>> model.sample(2, seed=0).shape
    torch.Size([2, 1, 3, 3])
    """

    family: ClassVar = ("explicit", "tractable", "autoregressive")
    paper: ClassVar = "van den Oord et al. 2016, Conditional Image Generation with PixelCNN Decoders, arXiv:1606.05328"

    def __init__(
        self,
        space: ImageSpace,
        given: View | None = None,
        *,
        layers: int = 10,
        channels: int = 48,
        kernel: int = 3,
        first_kernel: int = 7,
        likelihood: Literal["auto", "bernoulli", "categorical"] = "auto",
        dropout: float = 0.0,
        lr: float = 2e-3,
    ) -> None:
        super().__init__(space, given)
        if layers < 1 or kernel % 2 == 0 or first_kernel % 2 == 0:
            raise InputError(
                f"GatedPixelCNN: layers={layers} must be ≥ 1; kernel={kernel} and first_kernel={first_kernel} must be odd, e.g. --kernel 3."
            )
        if channels < 1 or channels % space.channels:
            raise InputError(
                f"GatedPixelCNN: channels={channels} must be a multiple of the image's {space.channels}, e.g. --channels {16 * space.channels}."
            )
        if likelihood not in ("auto", "bernoulli", "categorical"):
            raise InputError(f"GatedPixelCNN: likelihood={likelihood!r}; use auto, bernoulli or categorical.")
        if not 0 <= dropout < 1:
            raise InputError(f"GatedPixelCNN: dropout={dropout} must be in [0, 1), e.g. --dropout 0.1.")
        self.layers, self.channels, self.kernel, self.first_kernel = layers, channels, kernel, first_kernel
        self.likelihood, self.dropout, self.lr = likelihood, dropout, lr
        self.head = Likelihood(likelihood, space)
        self.colour_head = Likelihood(self.head.name, ImageSpace(1, 1, 1, space.levels))
        c = space.channels
        self.context = conditioning.Context(self, channels)
        self.vertical = nn.ModuleList()
        self.horizontal = nn.ModuleList()
        for i in range(layers):
            inputs, k, first, last = (channels, kernel, False, i == layers - 1) if i else (c, first_kernel, True, layers == 1)
            self.vertical.append(VerticalLayer(inputs, channels, k, first, last, self.context))
            self.horizontal.append(HorizontalLayer(inputs, channels, k, first, last, c, self.context))
        self.out1 = MaskedConv2d(channels, channels, 1, "B", c)
        self.out2 = MaskedConv2d(channels, self.head.size, 1, "B", c)

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        return cls(space, given, layers=3, channels=4 * space.channels)

    # The network, written once for full passes and steps ------------------------------------------------------------

    def links(self, rows: Rows, x: Tensor, context: Tensor | None) -> list[Tensor]:
        """What the vertical stack tells each horizontal layer: `(n, 2p, rows, W)` each."""
        out, v = [], x
        for layer in self.vertical:
            link, v = layer(rows, v, context)
            out.append(link)
        return out

    def logits(self, ops: Pass, x: Tensor | None, links: list[Tensor], context: Tensor | None, depth: int | None = None) -> Tensor:
        """Parameters of the head, or with `depth` the summed skip connections after so many layers."""
        h, total = x, None
        for i, layer in enumerate(self.horizontal[:depth]):
            h, skip = layer(ops, h, links[i], context, f"layer{i}", self.dropout)
            total = skip if total is None else total + skip
        assert total is not None
        if depth is not None:
            return total
        return ops.conv(self.out2, ops.relu(ops.conv(self.out1, ops.relu(total))))

    def _full(self, x: Tensor, given: Tensor | None, noise: Noise | None = None, depth: int | None = None) -> Tensor:
        x, context = normalised(x, self.space.levels, self.dtype), self.context(given)
        return self.logits(FullPass(self.space.channels, noise), x, self.links(AllRows(), x, context), context, depth)

    # Likelihood ------------------------------------------------------------------------------------------------------

    def conditional_log_prob(self, x: Tensor, given: Tensor | None) -> Tensor:
        return self.head(self._full(x, given)).log_prob(x)

    def objectives(self) -> Sequence[Objective]:
        return [Objective("nll", self, self._loss, optimizer=OptimizerSpec("AdamW", lr=self.lr, betas=(0.9, 0.99)))]

    def _loss(self, batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        return self.nll(self.head(self._full(batch.x, batch.given, context.noise)).log_prob(batch.x))

    # Steps -----------------------------------------------------------------------------------------------------------

    def order(self) -> list[Tensor]:
        return raster(self.space)

    def begin(self, n: int, given: Any = None) -> Steps:
        return GatedSteps(self, n, self.check_given(given, n))

    # Features --------------------------------------------------------------------------------------------------------

    @property
    def feature_layers(self) -> Sequence[str]:
        return [f"layer{i + 1}" for i in range(self.layers)]

    def features(self, x: Tensor, layer: str | None = None) -> Tensor:
        """Skip connections summed up to a layer (the middle one by default), averaged over the image: `(n, p)`."""
        depth = self.layer_index(layer, (self.layers - 1) // 2) + 1
        x = self.space.check(x).to(self.device)
        return F.relu(self._full(x, None, depth=depth)).mean((2, 3))


class GatedSteps(Steps):
    """Once a row the vertical stack, once a sub-pixel the horizontal one."""

    def __init__(self, model: GatedPixelCNN, n: int, given: Tensor | None) -> None:
        space = model.space
        self.model, self.ops, self.rows = model, StepPass(n, (space.height, space.width), space.channels), OneRow()
        self.context = model.context(given)
        first = model.horizontal[0]
        assert isinstance(first, HorizontalLayer)
        self.first = first.conv
        self.above = torch.zeros(
            n, space.channels, 1, space.width, dtype=model.dtype, device=model.device
        )  # the row before, as networks see it
        self.current = torch.zeros_like(self.above)
        self.links: list[Tensor] = []
        self.position, self.read = 0, False

    def _parameters(self) -> Tensor:
        pixel, colour = divmod(self.position, self.model.space.channels)
        row, column = divmod(pixel, self.model.space.width)
        if column == colour == 0:
            self.rows.row = row
            links = self.model.links(self.rows, self.above, self.context)
            self.links = [link[:, :, 0].permute(2, 0, 1).contiguous() for link in links]  # by pixel
        self.ops.at(row, column, colour)
        self.read = True
        return self.model.logits(self.ops, None, self.links, self.context)

    def distribution(self) -> Tensor:
        parameters = self._parameters()
        return self.model.colour_head(parameters).table(0, parameters[:, :0])[:, None]

    def fix(self, values: Tensor) -> None:
        if not self.read:  # a known sub-pixel: later ones read the features at its place
            self._parameters()
        value = normalised(values, self.model.space.levels, self.model.dtype)
        self.ops.write(self.first, value)
        self.current[:, self.ops.colour, 0, self.ops.column] = value[:, 0]
        self.position, self.read = self.position + 1, False
        if self.position % (self.model.space.width * self.model.space.channels) == 0:
            self.above, self.current = self.current, torch.zeros_like(self.current)
