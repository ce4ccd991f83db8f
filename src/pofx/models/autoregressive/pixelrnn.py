"""PixelRNN (van den Oord, Kalchbrenner, Kavukcuoglu 2016, "Pixel Recurrent Neural Networks", §3.1–3.4, table 1): Row LSTM and Diagonal BiLSTM.

    p(x) = ∏_i p(x_i | x_<i),   i over rows, columns, then colours

A 7×7 convolution with mask A makes a map of 2h features. Each layer adds to the map a 1×1 convolution (h → 2h) of an LSTM that runs over it:

    Row LSTM          step = row;       K_is 1×3, mask B; K_ss 1×3 on the row above, not masked: a triangle above, and the row to the left
    Diagonal BiLSTM   step = diagonal;  K_is 1×1, mask B; K_ss 2×1 on the diagonal before, not masked: the states above and to the left.
                      A second one runs right to left and is shifted down one row, then both are added: every past pixel is seen

Then ReLU, 1×1, ReLU, 1×1 with mask B to the logits. Initial states are learned: of the row above the image, or of the column beside it.
Mask B orders colours in K_is, in every gate, and in the 1×1 convolutions; K_ss reads past pixels only, of which all colours are known.

Differences from the paper: in the first layer the right-to-left LSTM also reads the pixel itself, which is past once it is told a row below
(after mask A alone, the last pixel of the row above would be hidden from most of a row); Bernoulli for 2 levels; optional dropout of what
the LSTMs say; a view is added to the map before each layer; forget gates start open (bias 1). The scans, and how they are fast, are in `nn/recurrent.py`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Sequence
from itertools import pairwise
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pofx.errors import InputError
from pofx.likelihoods import Likelihood
from pofx.model import Features, RangeCoded, all_threads
from pofx.nn import conditioning
from pofx.nn.activations import relu, relu_, settled, settled_, sigmoid_, tanh, tanh_
from pofx.nn.masked import FullPass, MaskedConv2d, colours
from pofx.nn.raster import Place, RasterModel, StepNet, by_row, places
from pofx.nn.recurrent import FORGET, GATES, Plan, alone, columns, diagonal_plan, image, row_plan, scan
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.views import View


class Layer(nn.Module):
    """A residual LSTM of width h over a map of 2h features, in one direction (row) or two (diagonal)."""

    mask: Tensor

    def __init__(self, row: bool, first: bool, width: int, channels: int, context: conditioning.Context) -> None:
        super().__init__()
        directions, below, states = (1, 1, 3) if row else (2, 0, 2)  # taps of K_is on earlier pixels, and of K_ss
        self.own = channels if first and not row else 0
        before = (colours(2 * width, channels)[None] <= colours(width, channels)[:, None]).float()
        mask = torch.cat([torch.ones(width, 2 * width * below), before], 1).repeat(directions, GATES, 1)
        mask = torch.cat([mask, torch.arange(directions)[:, None, None].expand(-1, GATES * width, self.own)], 2)  # right to left only
        self.register_buffer("mask", mask, persistent=False)
        self.inputs = nn.Parameter(torch.randn(mask.shape) * mask.sum(2, keepdim=True).rsqrt() * mask)
        self.bias = nn.Parameter(torch.zeros(directions, GATES, width).index_fill(1, torch.tensor(FORGET), 1.0).flatten(1))
        self.states = nn.Parameter(torch.randn(directions, GATES * width, states * width) * (states * width) ** -0.5)
        self.h0 = nn.Parameter(torch.zeros(directions, width))
        self.c0 = nn.Parameter(torch.zeros(directions, width))
        self.given = context.into(2 * width)
        self.out = MaskedConv2d(width, 2 * width, 1, "B", channels)

    def weight(self) -> Tensor:
        """K_is by tap, the bias, and K_ss by tap, `(D, 4h, K)`, as `scan` takes them."""
        return torch.cat([self.inputs * self.mask, self.bias[..., None], self.states], 2)

    def forward(self, x: Tensor, pixels: Tensor, plan: Plan, keep: Tensor | None, states: list[tuple[Tensor, Tensor]] | None) -> Tensor:
        """The map `(B, 2h, P, n)` after the layer, of the map and the image `(B, C, P, n)`; the padded h and c of the scan go to `states`."""
        told = scan(torch.cat([x, pixels], 1) if self.own else x, self.weight(), self.h0, self.c0, plan, states)
        if keep is not None:
            told = told * keep
        kernel, bias = self.out.kernel(), self.out.bias
        if x.dtype == torch.float64:  # image by image, or exact
            return settled(x + F.conv2d(told, kernel, bias))
        out = (x + bias[:, None, None]).flatten(2)
        return torch.baddbmm(out, kernel[None, :, :, 0, 0], told.flatten(2)).view(x.shape)


class PixelRNN(RasterModel, RangeCoded, Features):
    """Row LSTM and Diagonal BiLSTM of van den Oord et al. 2016.

    Args:
        space: what images may be.
        given: a view for p(x | given).
        kind: "row" runs once a row and sees a triangle above; "diagonal" runs both ways along diagonals and sees every past pixel.
        layers: LSTM layers.
        channels: h, the features of each LSTM; the map is 2h wide.
        first_kernel: odd size of the first convolution.
        likelihood: "auto" is Bernoulli for 2 levels, otherwise a softmax over all levels.
        dropout: share of what the LSTMs say that is dropped in training; never within the recurrence.
        lr: learning rate of Muon.

    Raises:
        InputError: an unknown kind, fewer features than image channels, an even kernel, no layers.

    >>> model = PixelRNN.small(ImageSpace(1, 3, 3, levels=2))
    >>> model.sample(2, seed=0).shape
    torch.Size([2, 1, 3, 3])
    """

    family: ClassVar = ("explicit", "tractable", "autoregressive")
    at_once: ClassVar = None  # a scan is quicker over many images
    paper: ClassVar = "van den Oord et al. 2016, Pixel Recurrent Neural Networks, arXiv:1601.06759"
    spatial: ClassVar = True

    def __init__(
        self,
        space: ImageSpace,
        given: View | None = None,
        *,
        kind: Literal["row", "diagonal"] = "diagonal",
        layers: int = 7,
        channels: int = 16,
        first_kernel: int = 7,
        likelihood: Literal["auto", "bernoulli", "categorical"] = "auto",
        dropout: float = 0.0,
        lr: float = 5e-3,
    ) -> None:
        super().__init__(space, given)
        if kind not in ("row", "diagonal"):
            raise InputError(f"PixelRNN: kind={kind!r}; use row or diagonal.")
        if layers < 1 or first_kernel < 1 or first_kernel % 2 == 0:
            raise InputError(f"PixelRNN: layers={layers} must be ≥ 1, and first_kernel={first_kernel} odd, e.g. --first-kernel 7.")
        if likelihood not in ("auto", "bernoulli", "categorical"):
            raise InputError(f"PixelRNN: likelihood={likelihood!r}; use auto, bernoulli or categorical.")
        if not 0 <= dropout < 1:
            raise InputError(f"PixelRNN: dropout={dropout} must be in [0, 1), e.g. --dropout 0.1.")
        c = space.channels
        if channels < c:
            raise InputError(f"PixelRNN: channels={channels} cannot serve {c} image channels; use at least {c}, e.g. --channels {16 * c}.")
        self.kind, self.layers, self.channels, self.first_kernel = kind, layers, channels, first_kernel
        self.likelihood, self.dropout, self.lr = likelihood, dropout, lr
        self.head = Likelihood(likelihood, space)
        self.context = conditioning.Context(self, channels)
        self.first = MaskedConv2d(c, 2 * channels, first_kernel, "A", c)
        self.lstms = nn.ModuleList(Layer(kind == "row", i == 0, channels, c, self.context) for i in range(layers))
        self.out1 = MaskedConv2d(2 * channels, 2 * channels, 1, "B", c)
        self.out2 = MaskedConv2d(2 * channels, self.head.size, 1, "B", c)

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        return cls(space, given, layers=2, channels=4 * space.channels)

    def plan(self, height: int, width: int, device: torch.device) -> Plan:
        return (row_plan if self.kind == "row" else diagonal_plan)(height, width, device)

    # Full pass -------------------------------------------------------------------------------------------------------

    def trunk(
        self,
        x: Tensor,
        context: Tensor | None,
        noise: Noise | None = None,
        depth: int | None = None,
        states: list[tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:
        """The map `(n, 2h, H, W)` after `depth` layers; the padded h and c of each scan go to `states`."""
        n, _, height, width = x.shape
        plan = self.plan(height, width, x.device)
        pixels = columns(x, plan)
        x = columns(settled(FullPass(self.space.channels).conv(self.first, x).to(self.dtype)), plan)
        with torch.autocast(x.device.type, enabled=False):  # a recurrence adds up its rounding
            for i, layer in enumerate(self.lstms[:depth]):
                assert isinstance(layer, Layer)
                if (c := conditioned(layer, context, self.dtype)) is not None:
                    x = x + columns(c[:, :, :height], plan)
                keep = None
                if noise is not None and self.dropout:
                    keep = columns(noise.keep(f"layer{i}", x.new_empty(n, self.channels, height, width), self.dropout), plan)
                x = layer(x, pixels, plan, keep, states)
        return image(x, plan, height, width)

    def full(self, x: Tensor, context: Tensor | None, noise: Noise | None = None) -> Tensor:
        ops, h = FullPass(self.space.channels), relu(self.trunk(x, context, noise))
        return ops.conv(self.out2, relu(ops.conv(self.out1, h)))

    # Steps -----------------------------------------------------------------------------------------------------------

    def places(self) -> list[Place]:
        return places(self.space)

    def stepper(self, n: int, context: Tensor | None) -> StepNet:
        with torch.no_grad():
            return (RowSteps if self.kind == "row" else DiagonalSteps)(self, n, context)

    # Features --------------------------------------------------------------------------------------------------------

    @property
    def feature_layers(self) -> Sequence[str]:
        return [f"layer{i + 1}" for i in range(self.layers)]

    def features(self, x: Tensor, layer: str | None = None) -> Tensor:
        """The map after a layer (the middle one by default), averaged over the image: `(n, 2h)`."""
        depth = self.layer_index(layer, (self.layers - 1) // 2) + 1
        seen = self.seen(self.space.check(x).to(self.device))
        return self.pooled(F.relu(self.trunk(seen, None, depth=depth)), layer)


def conditioned(layer: Layer, context: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """What a layer's input is told of the view, `(n, 2h, 1 or H, 1 or W)`."""
    return None if context is None else layer.given(context.to(dtype))


class LSTMSteps(StepNet):
    """What both kinds share: one colour of one pixel at a time through all layers. Tensors are `(features, n)`, so that gates are blocks.

    What the LSTMs read of earlier rows and pixels is made for all layers in one product (`pre`); nothing is allocated in a step.
    """

    def __init__(self, model: PixelRNN, n: int, context: Tensor | None) -> None:
        self.model, self.n, self.context = model, n, context
        space, h = model.space, model.channels
        self.size, self.h, self.filled = (space.height, space.width), h, 0
        c, w, (L, W) = space.channels, 2 * h, (model.layers, space.width)
        layers = [layer for layer in model.lstms if isinstance(layer, Layer)]
        self.layers, self.zeros = layers, model.first.weight.new_zeros
        self.parts, self.wide = spans(h, c), spans(w, c)
        # Gates sorted by colour, then gate: a colour's are one block.
        rows = [torch.cat([g * h + torch.arange(h)[part] for g in range(GATES)]) for part in self.parts]
        self.order, counts = torch.cat(rows), [0, *torch.tensor([len(r) for r in rows]).cumsum(0).tolist()]
        self.blocks = [slice(counts[k], counts[k + 1]) for k in range(c)]
        inputs = [(layer.inputs * layer.mask)[0, :, : layer.inputs.shape[2] - layer.own] for layer in layers]
        self.k_is = [[k[r] for k in inputs] for r in rows]
        out = [torch.cat([layer.out.kernel()[:, :, 0, 0], layer.out.bias[:, None]], 1) for layer in layers]  # bias: the row of ones below
        self.k_out = [[k[part] for k in out] for part in self.wide]
        self.k_ss = torch.stack([layer.states[0][self.order] for layer in layers])
        self.bias = torch.stack([layer.bias[0][self.order, None] for layer in layers])
        self.h0, self.c0 = (settled(torch.stack([getattr(layer, name).detach() for layer in layers]))[..., None] for name in ("h0", "c0"))
        self.head = [
            [(conv.kernel()[part, :, 0, 0], conv.bias[part, None]) for part in spans(len(conv.bias), c)]
            for conv in (model.out1, model.out2)
        ]
        self.contexts = [None if (p := conditioned(layer, context, model.dtype)) is None else p.permute(1, 2, 3, 0) for layer in layers]
        # The first convolution: rows above once a row, the current row by pixel.
        r, kernel = model.first.reach, model.first.kernel()
        self.above_kernel = kernel[:, :, :-1]
        self.row_kernel = [kernel[part, :, -1, : r + 1].transpose(1, 2).flatten(1) for part in self.wide]
        self.above = self.zeros(W, w, n)
        self.image, self.line = self.zeros(n, c, space.height + r, W), self.zeros((W + r) * c, n)
        self.gates = [self.zeros(L, GATES * (part.stop - part.start), n) for part in self.parts]
        self.tanh, self.told = self.zeros(L, h, n), self.zeros(L, h + 1, n)
        self.told[:, h] = 1
        self.relu, self.hidden = self.zeros(w, n), self.zeros(w, n)
        self.views: dict[tuple[int, int], list[tuple[Tensor, ...]]] = {}

    @abstractmethod
    def start_row(self, row: int) -> None:
        """Make what a row reads of the rows above."""

    @abstractmethod
    def start_pixel(self, column: int) -> None:
        """Make `pre` where it depends on the pixel to the left."""

    @abstractmethod
    def end(self, column: int, colour: int) -> None:
        """Keep the states of all layers, in `gates`, `tanh` and `told`."""

    @abstractmethod
    def at(self, layer: int, column: int) -> tuple[Tensor, Tensor]:
        """The map before a layer: at the column `(2h, n)`, and all that K_is sees."""

    @abstractmethod
    def read(self, layer: int, column: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """`pre` `(4h, n)`, c `(h, n)`, and what is told besides o ⊙ tanh(c), if anything is."""

    @abstractmethod
    def resume(self, layer: int, h: Tensor, c: Tensor, plan: Plan, row: int) -> None:
        """Take the states of a full pass over the rows up to and including `row`, as they stand when that row begins."""

    def _begin_row(self, row: int) -> None:
        r, (_, W) = self.model.first.reach, self.size
        if row and row != self.filled:
            self.image[:, :, r + row - 1] = self.line[r * self.image.shape[1] :].view(W, -1, self.n).permute(2, 1, 0)
        bias = self.model.first.bias.detach()
        if r:
            above = F.conv2d(self.image[:, :, row : row + r], self.above_kernel, bias, padding=(0, r))
            self.above.copy_(above[:, :, 0].permute(2, 1, 0))
        else:
            self.above.copy_(bias[:, None].expand_as(self.above))
        self.start_row(row)

    def _views(self, column: int, colour: int) -> list[tuple[Tensor, ...]]:
        """What a step touches, looked up once: the same memory serves every row."""
        part, wide, out = self.parts[colour], self.wide[colour], []
        for k in range(len(self.layers)):
            (here, seen), (pre, c, base), gates = self.at(k, column), self.read(k, column), self.gates[colour][k]
            width = part.stop - part.start
            o, i, f, g = gates.split(width)
            state = o, i, f, g, gates[: 3 * width], c[part], self.tanh[k, part], None if base is None else base[part], self.told[k, part]
            out.append((here[wide], seen, pre[self.blocks[colour]], gates, *state, self.told[k], self.at(k + 1, column)[0][wide]))
        return out

    @torch.no_grad()
    def enter(self, place: Place) -> None:
        if place.column == place.colour == 0:
            with all_threads():
                self._begin_row(place.row)

    def key(self, place: Place) -> Hashable:
        return None if by_row(self.context) else (place.column, place.colour)

    def parameters(self, place: Place) -> Tensor:
        row, column, colour = place.row, place.column, place.colour
        if colour == 0:
            self.start_pixel(column)
        views = self.views.get((column, colour))
        if views is None:
            views = self.views[column, colour] = self._views(column, colour)
        wide, inner = self.wide[colour], self.image.shape[1]
        window = self.line[column * inner : (column + self.model.first.reach + 1) * inner]
        settled_(torch.addmm(self.above[column, wide], self.row_kernel[colour], window, out=views[0][0]))
        for view, k_is, k_out, context in zip(views, self.k_is[colour], self.k_out[colour], self.contexts, strict=True):
            here, seen, pre, gates, o, i, f, g, sigmoids, c, squashed, base, part, told, after = view
            if context is not None:
                here += context[wide, min(row, context.shape[1] - 1), min(column, context.shape[2] - 1)]
            torch.addmm(pre, k_is, seen, out=gates)
            sigmoid_(sigmoids)
            tanh_(g)
            settled_(c.mul_(f).addcmul_(i, g))
            settled_(torch.mul(o, tanh(c, squashed), out=part))
            if base is not None:
                part += base
            settled_(torch.addmm(here, k_out, told, out=after))
        self.end(column, colour)
        torch.clamp(self.at(len(self.layers), column)[0], min=0, out=self.relu)  # settled already
        (k1, b1), (k2, b2) = (head[colour] for head in self.head)
        relu_(torch.addmm(b1, k1, self.relu, out=self.hidden[wide]))
        return torch.addmm(b2, k2, self.hidden).t()

    def write(self, place: Place, value: Tensor) -> None:
        self.line[(place.column + self.model.first.reach) * self.image.shape[1] + place.colour] = value[:, 0]

    @torch.no_grad()
    def fill(self, x: Tensor, rows: int) -> None:
        if rows == self.size[0]:
            return  # no step is left
        r, states = self.model.first.reach, []
        self.image[:, :, r : r + rows] = x[:, :, :rows]
        self.model.trunk(x[:, :, : rows + 1], self.context, states=states)  # one more, so that row `rows` is told of those above
        plan = self.model.plan(rows + 1, self.size[1], x.device)
        for k, (h, c) in enumerate(states):
            self.resume(k, h, c, plan, rows)
        self.filled = rows


def still(x: Tensor) -> Tensor:
    """Columns `(B, F, P, n)` as steps take them, `(F, P, n)`."""
    return x[..., 0].permute(1, 2, 0) if alone(x) else x[0]


class RowSteps(LSTMSteps):
    """K_ss of a whole row when the row above is finished; K_is by pixel."""

    def __init__(self, model: PixelRNN, n: int, context: Tensor | None) -> None:
        super().__init__(model, n, context)
        (_, W), L, h = self.size, len(self.layers), self.h
        self.map = self.zeros(L + 1, (W + 1) * 2 * h, n)  # a zero before column 0: what K_is sees is one block
        self.states, self.c = self.zeros(L, h, W + 2, n), self.zeros(L, h, W, n)
        self.states[:, :, 1:-1] = self.h0[:, 0, :, None]
        self.c += self.c0[:, 0, :, None]
        self.pre = self.zeros(L, GATES * h, W, n)

    def start_row(self, row: int) -> None:
        W = self.size[1]
        seen = torch.cat([self.states[:, :, k : k + W] for k in range(3)], 1).flatten(2)
        torch.baddbmm(self.bias, self.k_ss, seen, out=self.pre.view(len(seen), -1, seen.shape[2]))

    def start_pixel(self, column: int) -> None:
        """A row is all there is to it."""

    def end(self, column: int, colour: int) -> None:
        part = self.parts[colour]
        self.states[:, part, column + 1] = self.told[:, part]

    def at(self, layer: int, column: int) -> tuple[Tensor, Tensor]:
        w = 2 * self.h
        return self.map[layer, (column + 1) * w : (column + 2) * w], self.map[layer, column * w : (column + 2) * w]

    def read(self, layer: int, column: int) -> tuple[Tensor, Tensor, None]:
        return self.pre[layer, :, column], self.c[layer, :, column], None

    def resume(self, layer: int, h: Tensor, c: Tensor, plan: Plan, row: int) -> None:
        shape = row + 2, self.size[1] + 2  # the padded states: row 0 is the initial one
        self.states[layer, :, 1:-1], self.c[layer] = (still(s).unflatten(1, shape)[:, row, 1:-1] for s in (h, c))


class DiagonalSteps(LSTMSteps):
    """K_ss of all layers before a pixel; the scan from right to left, of all layers at once, over each row when it is finished."""

    def __init__(self, model: PixelRNN, n: int, context: Tensor | None) -> None:
        super().__init__(model, n, context)
        (_, W), L, h = self.size, len(self.layers), self.h
        self.map = self.zeros(L + 1, 2 * h, W, n)
        # By column the states above and beside, for either direction; what a pixel leaves is read to the side, and one row below.
        self.forth, self.back = self.zeros(W + 1, L, 2 * h, n), self.zeros(W + 1, L, 2 * h, n)
        self.pre, self.c = self.zeros(L, GATES * h, n), self.zeros(L, h, n)
        self.above_told = self.zeros(L, h, W, n)  # right to left, of the row above
        inputs = [(layer.inputs * layer.mask)[1] for layer in self.layers]
        self.back_is, self.back_own = torch.stack([k[:, : 2 * h] for k in inputs]), inputs[0][:, 2 * h :]
        self.back_ss, self.back_bias = (
            torch.stack([p[1] for p in ps]) for ps in ([y.states for y in self.layers], [y.bias for y in self.layers])
        )

    def start_row(self, row: int) -> None:
        if row and row != self.filled:
            self._run_back()
        self.c.copy_(self.c0[:, 0].expand_as(self.c))
        self.forth[0, :, self.h :] = self.h0[:, 0]

    def _run_back(self) -> None:
        (_, W), h = self.size, self.h
        pre = torch.baddbmm(self.back_bias[..., None], self.back_is, self.map[:-1].flatten(2))
        pixels = self.line.unflatten(0, (-1, self.image.shape[1]))[self.model.first.reach :].transpose(0, 1).flatten(1)
        torch.addmm(pre[0], self.back_own, pixels, out=pre[0])
        pre = pre.unflatten(2, (W, -1))
        gates, c = torch.empty_like(self.pre), self.c0[:, 1].repeat(1, 1, self.n)
        squashed, (o, i, f, g) = torch.empty_like(c), gates.split(h, 1)
        self.back[W - 1, :, h:] = self.h0[:, 1]
        for column in reversed(range(W)):
            torch.baddbmm(pre[:, :, column], self.back_ss, self.back[column], out=gates)
            sigmoid_(gates[:, : 3 * h])
            tanh_(g)
            settled_(c.mul_(f).addcmul_(i, g))
            state = settled_(torch.mul(o, tanh(c, squashed), out=self.above_told[:, :, column]))
            self.back[column, :, :h] = state
            self.back[column - 1, :, h:] = state  # of column 0: into one beyond the last, which nothing reads

    def start_pixel(self, column: int) -> None:
        torch.baddbmm(self.bias, self.k_ss, self.forth[column], out=self.pre)

    def end(self, column: int, colour: int) -> None:
        part, h = self.parts[colour], self.h
        state = self.forth[column, :, part]
        settled_(torch.mul(self.gates[colour][:, : part.stop - part.start], self.tanh[:, part], out=state))
        self.forth[column + 1, :, h + part.start : h + part.stop] = state

    def at(self, layer: int, column: int) -> tuple[Tensor, Tensor]:
        return self.map[layer, :, column], self.map[layer, :, column]

    def read(self, layer: int, column: int) -> tuple[Tensor, Tensor, Tensor]:
        return self.pre[layer], self.c[layer], self.above_told[layer, :, column]

    def resume(self, layer: int, h: Tensor, c: Tensor, plan: Plan, row: int) -> None:
        forth, back = (plan.order.back(take(part)) for take, part in zip(plan.read, h.chunk(2), strict=True))
        W = self.size[1]
        self.forth[:W, layer, : self.h] = still(forth)[:, (row - 1) * W : row * W].transpose(0, 1)
        self.above_told[layer] = still(back)[:, row * W :]
        self.back[:W, layer, : self.h] = self.above_told[layer].transpose(0, 1)


def spans(features: int, channels: int) -> list[slice]:
    """The block of features of each colour."""
    ends = [0, *torch.bincount(colours(features, channels), minlength=channels).cumsum(0).tolist()]
    return [slice(a, b) for a, b in pairwise(ends)]
