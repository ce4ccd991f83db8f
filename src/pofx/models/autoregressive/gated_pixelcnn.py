"""Gated PixelCNN (van den Oord et al. 2016b, "Conditional Image Generation with PixelCNN Decoders", figure 2, eq. 2 and 4).

Two stacks see the whole past, without a blind spot: the vertical stack all rows above, the horizontal stack the current row to the left.

    y = tanh(W_f ∗ x + V_f h) ⊙ σ(W_g ∗ x + V_g h)

The vertical feature map enters the horizontal stack before its gate, through a 1×1 convolution. The vertical stack excludes the current row
in its *first* layer only. The horizontal stack is residual but for its first layer; skip connections go to the output. Above the current row no
colour is masked; within the row masks A and B order R, G, B.

Differences from the paper: Bernoulli for 2 levels; skip connections are summed; optional dropout and dilations; the condition h is any view.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import ClassVar, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pofx.errors import InputError
from pofx.likelihoods import Likelihood
from pofx.model import Features, RangeCoded, all_threads
from pofx.nn import conditioning
from pofx.nn.masked import AllRows, FullPass, MaskedConv2d, OneRow, Pass, Rows, StepPass, VerticalConv2d, check_sizes
from pofx.nn.raster import Place, RasterModel, StepNet, by_row, places
from pofx.nn.tape import Tape
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.views import View


class Shape(NamedTuple):
    """What the halves of a layer have in common."""

    inputs: int
    width: int
    kernel: int
    dilation: int
    first: bool
    last: bool


class VerticalLayer(nn.Module):
    """The left half of figure 2: a gated convolution of the rows above, and its link to the right."""

    def __init__(self, shape: Shape, context: conditioning.Context) -> None:
        super().__init__()
        width, last = shape.width, shape.last
        self.conv = VerticalConv2d(shape.inputs, 2 * width, shape.kernel, strict=shape.first, dilation=shape.dilation)
        self.link = nn.Conv2d(2 * width, 2 * width, 1)
        self.last = last  # nothing reads the gated output of the last layer
        self.given = nn.Identity() if last else context.into(2 * width)

    def forward(self, rows: Rows, v: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        v = rows.conv(self.conv, v)
        link = rows.link(self.link, v)
        return link, v if self.last else rows.gate(rows.add_context(v, self.given, context))


class HorizontalLayer(nn.Module):
    """The right half of figure 2."""

    def __init__(self, shape: Shape, channels: int, context: conditioning.Context) -> None:
        super().__init__()
        self.first, width = shape.first, shape.width
        mask = "A" if shape.first else "B"
        self.conv = MaskedConv2d(shape.inputs, 2 * width, shape.kernel, mask, channels, rows=0, dilation=shape.dilation)
        self.given = context.into(2 * width)  # added to the link
        self.skip = MaskedConv2d(width, width, 1, "B", channels)
        self.out = None if shape.last else MaskedConv2d(width, width, 1, "B", channels)

    def forward(self, ops: Pass, h: Tensor | None, link: Tensor | None, site: str, dropout: float) -> tuple[Tensor | None, Tensor]:
        """The residual stream, and the gated units that the skip connection takes to the output."""
        a = ops.keep(site, ops.gate(ops.linked(self.conv, h, link)), dropout)
        if self.out is None:
            return None, a
        return (ops.conv(self.out, a) if self.first or h is None else ops.residual(self.out, h, a)), a


class GatedPixelCNN(RasterModel, RangeCoded, Features):
    """Gated PixelCNN of van den Oord et al. 2016b.

    Args:
        space: what images may be.
        given: a view for p(x | given).
        layers: gated layers, the first one included.
        channels: p; a multiple of the image's channels.
        kernel, first_kernel: odd widths of the convolutions.
        dilations: layer 2 + i sees pixels 2^(i mod dilations) apart: with 3, a far past at the price of the near one (Yu and Koltun 2016).
        likelihood: "auto" is Bernoulli for 2 levels, otherwise a softmax over all levels.
        dropout: share of gated activations dropped in training.
        lr: learning rate of Muon.

    Raises:
        InputError: channels no multiple of the image's, an even kernel, no layers.

    >>> model = GatedPixelCNN.small(ImageSpace(1, 3, 3, levels=2))
    >>> model.sample(2, seed=0).shape
    torch.Size([2, 1, 3, 3])
    """

    family: ClassVar = ("explicit", "tractable", "autoregressive")
    paper: ClassVar = "van den Oord et al. 2016, Conditional Image Generation with PixelCNN Decoders, arXiv:1606.05328"
    spatial: ClassVar = True

    def __init__(
        self,
        space: ImageSpace,
        given: View | None = None,
        *,
        layers: int = 10,
        channels: int = 48,
        kernel: int = 3,
        first_kernel: int = 7,
        dilations: int = 1,
        likelihood: Literal["auto", "bernoulli", "categorical"] = "auto",
        dropout: float = 0.0,
        lr: float = 3e-3,
    ) -> None:
        super().__init__(space, given)
        kernels = kernel, first_kernel
        check_sizes(
            "GatedPixelCNN", space, layers=layers, channels=channels, kernels=kernels, dilations=dilations, dropout=dropout, even=True
        )
        if likelihood not in ("auto", "bernoulli", "categorical"):
            raise InputError(f"GatedPixelCNN: likelihood={likelihood!r}; use auto, bernoulli or categorical.")
        self.layers, self.channels, self.kernel, self.first_kernel, self.dilations = layers, channels, kernel, first_kernel, dilations
        self.likelihood, self.dropout, self.lr = likelihood, dropout, lr
        self.head = Likelihood(likelihood, space)
        c = space.channels
        self.context = conditioning.Context(self, channels)
        self.vertical = nn.ModuleList()
        self.horizontal = nn.ModuleList()
        for i in range(layers):
            last = i == layers - 1
            later = Shape(channels, channels, kernel, 2 ** ((i - 1) % dilations), first=False, last=last)
            shape = later if i else Shape(c, channels, first_kernel, 1, first=True, last=last)
            self.vertical.append(VerticalLayer(shape, self.context))
            self.horizontal.append(HorizontalLayer(shape, c, self.context))
        self.out1 = MaskedConv2d(channels, channels, 1, "B", c)
        self.out2 = MaskedConv2d(channels, self.head.size, 1, "B", c)

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        return cls(space, given, layers=3, channels=4 * space.channels)

    # The network, written once for full passes and steps ------------------------------------------------------------

    def links(self, rows: Rows, x: Tensor, context: Tensor | None) -> list[Tensor]:
        """What the vertical stack and the view tell each horizontal layer: 2p features of all positions, or of one row."""
        out, v = [], x
        for left, right in zip(self.vertical, self.horizontal, strict=True):
            assert isinstance(right, HorizontalLayer)
            link, v = left(rows, v, context)
            out.append(rows.add_context(link, right.given, context))
        return out

    def trunk(self, ops: Pass, x: Tensor | None, links: Sequence[Tensor | None], depth: int | None = None) -> Tensor:
        """The summed skip connections, `(n, p, H, W)`, of all layers or the first few."""
        h, units, skips = x, [], []
        for i, layer in enumerate(self.horizontal[:depth]):
            assert isinstance(layer, HorizontalLayer)
            h, a = layer(ops, h, links[i], f"layer{i}", self.dropout)
            units.append(a)
            skips.append(layer.skip)
        return ops.sum(skips, units)

    def logits(self, ops: Pass, x: Tensor | None, links: Sequence[Tensor | None]) -> Tensor:
        """Parameters of the head: `(n, head.size, H, W)`, or of one colour `(n, head.size / C)` in a step."""
        h = ops.relu(self.trunk(ops, x, links))
        return ops.conv(self.out2, ops.relu(ops.conv(self.out1, h)))

    def full(self, x: Tensor, context: Tensor | None, noise: Noise | None = None) -> Tensor:
        return self.logits(FullPass(self.space.channels, noise), x, self.links(AllRows(), x, context))

    def stepper(self, n: int, context: Tensor | None) -> StepNet:
        return GatedSteps(self, n, context)

    def places(self) -> list[Place]:
        return places(self.space)

    # Features --------------------------------------------------------------------------------------------------------

    @property
    def feature_layers(self) -> Sequence[str]:
        return [f"layer{i + 1}" for i in range(self.layers)]

    def features(self, x: Tensor, layer: str | None = None) -> Tensor:
        """Skip connections summed up to a layer (the middle one by default), averaged over the image: `(n, p)`."""
        depth = self.layer_index(layer, (self.layers - 1) // 2) + 1
        x = self.seen(self.space.check(x).to(self.device))
        return self.pooled(F.relu(self.trunk(FullPass(self.space.channels), x, self.links(AllRows(), x, None), depth)), layer)


class GatedSteps(StepNet):
    """Once a row the vertical stack, once a sub-pixel the horizontal one."""

    write_alike: ClassVar = True

    @torch.no_grad()
    def __init__(self, model: GatedPixelCNN, n: int, context: Tensor | None) -> None:
        space = model.space
        self.model, self.context = model, context
        left = [layer for layer in model.vertical if isinstance(layer, VerticalLayer)]
        right = [layer for layer in model.horizontal if isinstance(layer, HorizontalLayer)]
        self.convs = [layer.conv for layer in right]
        residual: list[Tensor | None] = [None, None]  # the first layer sees the image, the second no residual yet
        for layer in right[1:-1]:
            assert layer.out is not None
            residual.append(layer.out.bias if residual[-1] is None else residual[-1] + layer.out.bias)
        readers = [conv for layer in right for conv in (layer.skip, layer.out) if conv is not None]
        size = space.height, space.width
        self.ops = StepPass(n, size, space.channels, model.device, self.convs, residual[: len(right)], readers)
        biases = {v.link: self.ops.biases[h.conv] for v, h in zip(left, right, strict=True)}
        self.rows = OneRow(biases, space.channels, [layer.given for layer in right])
        self.image = self.ops.row(self.convs[0])  # the row before the current one, when that begins
        self.begun = 0  # rows
        self.tape: Tape | None = None  # of a row

    def enter(self, place: Place) -> None:
        self.ops.at(place)
        if place.column == place.colour == 0:
            self.rows.row = place.row
            with all_threads():
                self._row()
            self.begun += 1
        self.ops.look()

    def _row(self) -> None:
        if self.tape is not None:
            self.tape.play()
        elif self.begun == 0 or by_row(self.context):  # the first row makes what later ones write into
            self._tell()
        else:
            self.tape, _ = Tape.record(self._tell)

    def _tell(self) -> Tensor:
        links = self.model.links(self.rows, self.image, self.context)
        for conv, link in zip(self.convs, links, strict=True):
            self.ops.tell(conv, link)
        return self.image

    def parameters(self, place: Place) -> Tensor:
        return self.model.logits(self.ops, None, [None] * len(self.convs))

    def key(self, place: Place) -> Hashable:
        return place.colour

    def write(self, place: Place, value: Tensor) -> None:
        self.ops.write(self.convs[0], value)

    def fill(self, x: Tensor, rows: int) -> None:
        context = self.context if self.context is None else self.context[:, :, :rows]
        self.model.links(AllRows(into=self.rows), x[:, :, :rows], context)  # the horizontal stack begins anew in each row
        self.image.copy_(x[:, :, rows - 1].transpose(1, 2))
