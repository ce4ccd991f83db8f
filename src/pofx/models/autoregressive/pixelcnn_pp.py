"""PixelCNN++ (Salimans, Karpathy, Chen and Kingma 2017).

    p(x) = ∏_i p(x_i | x_<i),   i over whole pixels;   p(x_i | ·) = Σ_k π_k ∏_c P(x_ic | μ_kc(x_i,<c), s_kc)   (eq. 1–3)

A pixel is one step of the network, and no colour is masked: colours are coupled in the head (`likelihoods.py`). Two streams see the past
(`nn/shifted.py`): "down" all rows above, "down-right" the current row too, told at every block by the first. A block is

    c = conv(E(h)) + nin(E(a)),   h ← h + a′ ⊙ σ(b′),   (a′, b′) = conv(drop(E(c))),   E(h) = [ELU(h), ELU(−h)]

with a the other stream's features and, on the way up, those of the way down at the same size (short-cut connections, §2.4). Resolutions
are halved by strided convolutions and restored by transposed ones. Layers are weight-normalised, with data-dependent initialisation.

Differences from the paper: smaller by default, one dropout rate of 0; a 1×1 layer of joined features is two layers, summed; the last
nonlinearity is E; odd sizes shrink to ⌈s/2⌉ and are cropped on the way back; the condition is any view, added before the gate.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pofx.errors import InputError
from pofx.likelihoods import Likelihood
from pofx.model import Batch, Features, RangeCoded, all_threads
from pofx.nn import conditioning
from pofx.nn.activations import elu, settled
from pofx.nn.raster import Place, RasterModel, StepNet, by_row, places
from pofx.nn.shifted import DOWN, DOWN_RIGHT, POINT, FullPass, Margin, Pass, PixelPass, RowPass, ShiftedConv2d, Size
from pofx.nn.strided import pyramid, strides
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.views import View


class Block(nn.Module):
    """A gated residual layer of one stream; one of the down stream also says what the other stream is told."""

    def __init__(self, stream: Margin, width: int, shortcut: bool, context: conditioning.Context) -> None:
        super().__init__()
        self.stream, self.name = stream, "down" if stream == DOWN else "right"
        kernel = (2, 3) if stream == DOWN else (2, 2)
        self.first = ShiftedConv2d(2 * width, width, kernel, stream)
        self.shortcut = ShiftedConv2d(2 * width, width, (1, 1), stream) if shortcut else None
        self.second = ShiftedConv2d(2 * width, 2 * width, kernel, stream, scale=0.1)
        self.given = context.into(2 * width)
        self.link = ShiftedConv2d(2 * width, width, (1, 1), stream) if stream == DOWN else None

    def forward(self, ops: Pass, h: Tensor, e: Tensor, earlier: Tensor | None, site: str, dropout: float) -> tuple[Tensor, Tensor]:
        """`h` and e = E(h) → the same of the next block; `earlier` is E of the way down, where there is a short-cut."""
        c = ops.conv(self.first, e)
        if self.shortcut is not None and earlier is not None:
            c = c + ops.conv(self.shortcut, earlier)
        if self.link is None:
            c = c + ops.link(site)
        e = ops.keep(f"{self.name}/{site}", ops.elu(c, self.stream), dropout)
        h = h + ops.gate(ops.context(self.given, ops.conv(self.second, e)))
        e = ops.elu(h, self.stream)
        if self.link is not None:
            ops.tell(site, ops.conv(self.link, e))
        return h, e


class Stream(nn.Module):
    """One stream from one resolution on: blocks, the resolution below, and blocks back. `steps` are the strides still to come."""

    def __init__(
        self, stream: Margin, width: int, blocks: int, steps: list[Size], shortcuts: bool, context: conditioning.Context, level: int = 0
    ) -> None:
        super().__init__()
        self.stream, self.level = stream, level
        self.down = nn.ModuleList(Block(stream, width, False, context) for _ in range(blocks))
        self.up = nn.ModuleList(Block(stream, width, shortcuts, context) for _ in range(blocks + bool(steps)))
        self.below = Stream(stream, width, blocks, steps[1:], shortcuts, context, level + 1) if steps else None
        if steps:
            rows, columns = steps[0]
            kernel, back = ((2, 3), (rows, 3)) if stream == DOWN else ((2, 2), (rows, columns))
            self.shrink = ShiftedConv2d(width, width, kernel, stream, stride=steps[0])
            self.grow = ShiftedConv2d(width, width, back, stream, stride=steps[0])

    def forward(self, ops: Pass, h: Tensor, dropout: float, seen: dict[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """`h` → the stream's end and E of it. `seen` collects features by name."""
        e = ops.elu(h, self.stream)
        earlier = [e]
        for i, block in enumerate(self.down):
            h, e = block(ops, h, e, None, f"down{self.level}.{i}", dropout)
            earlier.append(e)
        if seen is not None:
            seen[f"down{self.level + 1}"] = h
        if self.below is None:
            earlier.pop()
        else:
            below = self.below
            h = ops.coarse(self.shrink, self.grow, settled(h), lambda d: settled(below(ops, d, dropout, seen)[0]))
            e = ops.elu(h, self.stream)
        for i, block in enumerate(self.up):
            h, e = block(ops, h, e, earlier.pop(), f"up{self.level}.{i}", dropout)
        if seen is not None:
            seen[f"up{self.level + 1}"] = h
        return h, e


class Colour(nn.Module):
    """The head's parameters of one colour given the earlier ones: out(E(own(e) + from(x_<c))). For heads that do not couple colours."""

    def __init__(self, width: int, colour: int, outputs: int) -> None:
        super().__init__()
        self.own = ShiftedConv2d(2 * width, width, (1, 1), DOWN_RIGHT)
        self.earlier = ShiftedConv2d(colour, width, (1, 1), POINT) if colour else None
        self.out = ShiftedConv2d(2 * width, outputs, (1, 1), POINT)

    def forward(self, ops: Pass, e: Tensor, earlier: Tensor) -> Tensor:
        h = ops.conv(self.own, e)
        if self.earlier is not None:
            h = h + ops.conv(self.earlier, earlier)
        return ops.conv(self.out, ops.elu(h, POINT))


class PixelCNNpp(RasterModel, RangeCoded, Features):
    """PixelCNN++ of Salimans et al. 2017.

    Args:
        space: what images may be.
        given: a view for p(x | given).
        channels: features of each stream (the paper has 160).
        blocks: gated residual layers of each stream at each resolution, down and up (the paper has 5).
        stages: halvings of the image; they drop out below size 2.
        likelihood: "auto" is Bernoulli for 2 levels, otherwise a mixture of discretized logistics; "categorical" is a softmax over all
            levels. The mixture couples colours in the head; the others see the earlier colours of the pixel through two 1×1 layers.
        components: of the mixture.
        shortcuts: short-cut connections from the way down to the way up; without them what is finer than the coarsest resolution is lost.
        dropout: share of block activations dropped in training (the paper has 0.5).
        lr: learning rate of Muon.

    Raises:
        InputError: no channels or blocks, a negative number of stages, a likelihood that does not fit.

    >>> model = PixelCNNpp.small(ImageSpace(3, 4, 5))
    >>> model.log_prob(model.sample(2)).shape
    torch.Size([2])
    """

    family: ClassVar = ("explicit", "tractable", "autoregressive")
    paper: ClassVar = "Salimans et al. 2017, PixelCNN++, arXiv:1701.05517"
    spatial: ClassVar = True

    def __init__(
        self,
        space: ImageSpace,
        given: View | None = None,
        *,
        channels: int = 32,
        blocks: int = 2,
        stages: int = 2,
        likelihood: Literal["auto", "logistic-mixture", "categorical", "bernoulli"] = "auto",
        components: int = 10,
        shortcuts: bool = True,
        dropout: float = 0.0,
        lr: float = 3e-3,
    ) -> None:
        super().__init__(space, given)
        if channels < 1 or blocks < 1 or stages < 0:
            raise InputError(
                f"PixelCNNpp: channels={channels} and blocks={blocks} must be at least 1, stages={stages} at least 0, e.g. --channels 32."
            )
        if likelihood not in ("auto", "logistic-mixture", "categorical", "bernoulli"):
            raise InputError(f"PixelCNNpp: likelihood={likelihood!r}; use auto, logistic-mixture, categorical or bernoulli.")
        if not 0 <= dropout < 1:
            raise InputError(f"PixelCNNpp: dropout={dropout} must be in [0, 1), e.g. --dropout 0.5.")
        self.channels, self.blocks, self.stages, self.likelihood, self.components = channels, blocks, stages, likelihood, components
        self.shortcuts, self.dropout, self.lr = shortcuts, dropout, lr
        self.head = Likelihood(likelihood, space, default="logistic-mixture", components=components)
        self.sizes = pyramid(space.height, space.width, stages)
        self.steps = strides(self.sizes)
        self.context = conditioning.Context(self, channels)
        image = space.channels + 1  # and a plane of ones, which tells the image from its margin
        self.first_down = ShiftedConv2d(image, channels, (2, 3), DOWN, strict=True)
        self.first_above = ShiftedConv2d(image, channels, (1, 3), DOWN, strict=True)
        self.first_left = ShiftedConv2d(image, channels, (2, 1), DOWN_RIGHT, strict=True)
        self.down = Stream(DOWN, channels, blocks, self.steps, shortcuts, self.context)
        self.right = Stream(DOWN_RIGHT, channels, blocks, self.steps, shortcuts, self.context)
        single = self.whole or space.channels == 1  # one layer makes all parameters of a pixel
        self.out = ShiftedConv2d(2 * channels, self.head.size, (1, 1), DOWN_RIGHT) if single else None
        colours = 0 if single else space.channels
        self.colours = nn.ModuleList(Colour(channels, c, self.head.size // space.channels) for c in range(colours))

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        return cls(space, given, channels=6, blocks=1, stages=1, components=3)

    # The network, written once for full passes and steps ------------------------------------------------------------

    def look_above(self, ops: Pass, image: Tensor) -> None:
        """The down stream; it leaves what it tells the other in `ops.links`."""
        ops.tell("first", ops.conv(self.first_above, image))
        self.down(ops, ops.conv(self.first_down, image), self.dropout)

    def look_left(self, ops: Pass, image: Tensor, seen: dict[str, Tensor] | None = None) -> Tensor:
        """The down-right stream's end."""
        return self.right(ops, ops.conv(self.first_left, image) + ops.link("first"), self.dropout, seen)[1]

    def parameters_of(self, ops: Pass, e: Tensor, earlier: Tensor, colour: int) -> Tensor:
        """Parameters of one colour given the earlier ones on [−1, 1] `(n, colour, *S)`; colour 0 gives all of the pixel where one layer does."""
        return self.colours[colour](ops, e, earlier) if self.out is None else ops.conv(self.out, e)

    def full_pass(self, ops: FullPass, x: Tensor, seen: dict[str, Tensor] | None = None) -> Tensor:
        image = F.pad(torch.cat([x, torch.ones_like(x[:, :1])], 1), (1, 1, 2, 0))
        self.look_above(ops, image)
        e = self.look_left(ops, image, seen)
        if self.out is not None:
            return self.parameters_of(ops, e, x, 0)
        return torch.cat([self.parameters_of(ops, e, x[:, :c], c) for c in range(self.space.channels)], 1)

    def full(self, x: Tensor, context: Tensor | None, noise: Noise | None = None) -> Tensor:
        return self.full_pass(FullPass(self.sizes, context, noise), x)

    @torch.no_grad()
    def initialise(self, batch: Batch) -> None:
        """Each layer's outputs start with mean 0 and the standard deviation of its scale on this batch."""
        ops = FullPass(self.sizes, self.context(batch.given), settle=True)
        self.full_pass(ops, self.seen(batch.x))

    # Steps -----------------------------------------------------------------------------------------------------------

    def places(self) -> list[Place]:
        return places(self.space)

    def stepper(self, n: int, context: Tensor | None) -> StepNet:
        return PixelCNNppSteps(self, n, context)

    # Features --------------------------------------------------------------------------------------------------------

    @property
    def feature_layers(self) -> Sequence[str]:
        depths = [i + 1 for i in range(len(self.sizes))]
        return [*(f"down{i}" for i in depths), *(f"up{i}" for i in reversed(depths))]

    def features(self, x: Tensor, layer: str | None = None) -> Tensor:
        """The down-right stream after its blocks at one resolution (down at the coarsest by default), averaged: `(n, 2 · channels)`."""
        index = self.layer_index(layer, len(self.sizes) - 1)
        seen: dict[str, Tensor] = {}
        x = self.space.check(x).to(self.device)
        self.full_pass(FullPass(self.sizes, None), self.seen(x), seen)
        h = seen[self.feature_layers[index]]
        return self.pooled(elu(torch.cat([h, -h], 1)), layer)


class PixelCNNppSteps(StepNet):
    """Once a row the down stream, once a pixel the other; a coarser resolution only where it advances."""

    def __init__(self, model: PixelCNNpp, n: int, context: Tensor | None) -> None:
        space = model.space
        self.model, self.context = model, context
        self.rows = RowPass(model.sizes, context, model.steps)
        self.pixels = PixelPass(n, model.sizes, context, model.steps)
        # A row and a column of margin: the strict layers are given the row above and the pixel before.
        self.image = torch.zeros(n, space.channels + 1, space.height + 1, space.width + 1, dtype=model.dtype, device=model.device)
        self.image[:, -1, 1:, 1:] = 1
        self.left, self.pixel = torch.zeros_like(self.image[:, :, 0, 0]), torch.zeros_like(self.image[:, :, 0, 0])
        self.end = self.image.new_zeros(n, 2 * model.channels)  # E of the stream's end at the current pixel
        self.period, self.filled = math.prod(rows for rows, _ in model.steps), 0

    def enter(self, place: Place) -> None:
        row, column = place.row, place.column
        if place.colour:
            return
        if column == 0:
            self.rows.row = row
            self.rows.links.clear()
            with all_threads():
                self.model.look_above(self.rows, self.image[:, :, row : row + 1, 1:])
            for site, link in self.rows.links.items():
                self.pixels.tell(site, link[:, :, 0].permute(2, 0, 1))
        self.pixels.row, self.pixels.column = row, column
        self.left.copy_(self.image[:, :, row + 1, column])

    def parameters(self, place: Place) -> Tensor:
        if place.colour == 0:
            self.end.copy_(self.model.look_left(self.pixels, self.left))
        return self.model.parameters_of(self.pixels, self.end, self.pixel[:, : place.colour], place.colour)

    def key(self, place: Place) -> Hashable:
        fresh = self.filled and place.row < self.filled + self.period  # a first row steps all levels; one after filled rows may not
        return None if by_row(self.context) or fresh else (place.row % self.period, place.column, place.colour)

    def write(self, place: Place, value: Tensor) -> None:
        self.image[:, place.colour, place.row + 1, place.column + 1] = self.pixel[:, place.colour] = value[:, 0]

    def fill(self, x: Tensor, rows: int) -> None:
        if rows == 0:
            return
        self.image[:, :-1, 1 : rows + 1, 1:] = x[:, :, :rows]
        full = FullPass(self.model.sizes, self.context, trace=True)
        with torch.no_grad():
            self.model.full_pass(full, self.image[:, :-1, 1:, 1:])
        self.filled = rows
        self.rows.resume(full, rows)
        self.pixels.resume(full, rows)
