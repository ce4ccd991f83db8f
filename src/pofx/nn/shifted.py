"""Shifted convolutions, and the three ways to run a network of them: over whole images, row by row, pixel by pixel.

Causality comes from where a kernel is placed, not from masks (Salimans et al. 2017, §2.3). Two streams (figure 2 there):

    down        sees rows above          kernel 2×3, its bottom row at the current row, centred        once a row
    down-right  sees the row so far too  kernel 2×2, its bottom right corner at the current pixel      once a pixel

The first layers are strict: they are given the image shifted by one row or one column. A coarser level stands at the even rows and
columns of the finer one: its position I is computed with row (column) 2I and read until the next, by 2I + 1. It so sees nothing
that 2I must not see, and a step computes it only where it advances.

A network is written once against a `Pass`, the closed set of its operations. Layers are weight-normalised: w = g v/‖v‖ (Salimans and
Kingma 2016), each output channel by itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pofx.integers import active
from pofx.nn import conditioning
from pofx.nn.activations import elu, elu_, glu
from pofx.nn.linear import conv2d
from pofx.noise import Noise

Size = tuple[int, int]


class Margin(NamedTuple):
    """What a full pass pads a map by, so that every kernel of a stream fits."""

    left: int
    right: int
    above: int


DOWN, DOWN_RIGHT = Margin(1, 1, 1), Margin(1, 0, 1)
POINT = Margin(0, 0, 0)  # layers of one pixel each, beyond both streams


class ShiftedConv2d(nn.Module):
    """A weight-normalised convolution whose kernel ends at the current row (down) or pixel (down-right).

    Args:
        inputs, outputs: features.
        kernel: (rows, columns).
        stream: DOWN, DOWN_RIGHT, or POINT.
        stride: of a layer between two levels; (1, 1) elsewhere.
        strict: its input is the image, shifted down (DOWN) or right (DOWN_RIGHT).
        scale: standard deviation of its outputs after initialisation.
    """

    fixed: Tensor | None

    def __init__(
        self, inputs: int, outputs: int, kernel: Size, stream: Margin, *, stride: Size = (1, 1), strict: bool = False, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.size, self.stream, self.stride, self.strict, self.scale = kernel, stream, stride, strict, scale
        reach = (kernel[1] - 1) // 2 if stream == DOWN else kernel[1] - 1
        self.margin = Margin(reach, kernel[1] - 1 - reach, kernel[0] - 1) if strict else stream
        self.v = nn.Parameter(0.05 * torch.randn(outputs, inputs, *kernel))
        self.g = nn.Parameter(torch.full((outputs,), scale))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("fixed", None)  # of an integer form: w itself

    def kernel(self) -> Tensor:
        """w = g v/‖v‖: `(out, in, rows, columns)`."""
        if self.fixed is not None:
            return self.fixed
        return self.v * (self.g / torch.linalg.vector_norm(self.v, dim=(1, 2, 3)))[:, None, None, None]

    @torch.no_grad()
    def settle(self, out: Tensor) -> None:
        """Set g and b so that what gave `out` `(n, out, H, W)` gives mean 0 and standard deviation `scale` per channel; a channel that
        does not vary keeps its g."""
        variance, mean = torch.var_mean(out, dim=(0, 2, 3), correction=0)
        factor = torch.where(variance > 1e-6, self.scale * variance.clamp(min=1e-6).rsqrt(), torch.ones_like(variance))
        self.g.mul_(factor)
        self.bias.sub_(mean).mul_(factor)


class _ConcatELU(torch.autograd.Function):
    """[ELU(h), ELU(−h)] written straight into its padded map; ELU(0) = 0, so that the margin is that of a padded input.

    ELU(h) = max(h, t) and ELU(−h) = max(−h, t) with one t = exp(−|h|) − 1; the slope of either is 1 + min(ELU, 0).
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, margin: Margin) -> Tensor:
        n, features, height, width = h.shape
        left, right, above = margin
        layout = torch.channels_last if features > 1 and h.stride(1) == 1 else torch.contiguous_format
        shape = (n, 2 * features, height + above, width + left + right)
        out = torch.empty(shape, dtype=h.dtype, device=h.device, memory_format=layout)
        out[:, :, :above], out[..., :left], out[..., left + width :] = 0, 0, 0
        inner, minus = out[:, :, above:, left : left + width], -h
        t = torch.minimum(h, minus).exp_().sub_(1)
        torch.maximum(h, t, out=inner[:, :features])
        torch.maximum(minus, t, out=inner[:, features:])
        ctx.save_for_backward(out)
        ctx.left, ctx.above, ctx.width = left, above, width
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (out,) = ctx.saved_tensors
        part = (..., slice(ctx.above, None), slice(ctx.left, ctx.left + ctx.width))
        (g, minus_g), (e, minus_e) = grad[part].chunk(2, 1), out[part].chunk(2, 1)
        slope, minus_slope = e.clamp(max=0), minus_e.clamp(max=0)  # less one
        torch.addcmul(g, g, slope, out=slope)
        return slope.sub_(torch.addcmul(minus_g, minus_g, minus_slope, out=minus_slope)), None


def _concat_elu(h: Tensor, margin: Margin) -> Tensor:
    if active() is not None:
        left, right, above = margin
        return F.pad(torch.cat([elu(h), elu(-h)], 1), (left, right, above, 0))
    out = _ConcatELU.apply(h, margin)
    assert isinstance(out, Tensor)
    return out


def crop(h: Tensor, size: Size, above: int = 0, left: int = 0) -> Tensor:
    """`size` of a map from (above, left) on."""
    return h if h.shape[2:] == size else h[:, :, above : above + size[0], left : left + size[1]]


class Pass(ABC):
    """The closed set of operations, and where a pass stands: its level and what the down stream told the other.

    Args:
        sizes: (height, width) of each level.
        context: what a view becomes, or None.
    """

    def __init__(self, sizes: list[Size], context: Tensor | None) -> None:
        self.sizes, self.given, self.level = sizes, context, 0
        self.links: dict[str, Tensor] = {}

    @abstractmethod
    def conv(self, layer: ShiftedConv2d, h: Tensor) -> Tensor:
        """The convolution of what `elu` gave (or of the image, by a strict layer), without stride."""

    @abstractmethod
    def elu(self, h: Tensor, stream: Margin) -> Tensor:
        """[ELU(h), ELU(−h)], twice the features, as the layers of this stream read it."""

    @abstractmethod
    def keep(self, site: str, h: Tensor, p: float) -> Tensor:
        """Elementwise dropout in training; elsewhere `h`."""

    @abstractmethod
    def context(self, layer: nn.Module, h: Tensor) -> Tensor:
        """`h` and the projection of the context that belongs where this pass stands."""

    @abstractmethod
    def coarse(self, shrink: ShiftedConv2d, grow: ShiftedConv2d, h: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        """`h` through a strided layer, `run` on the level below, and back up; the level below only where it advances."""

    @abstractmethod
    def link(self, site: str) -> Tensor:
        """What the down stream told the down-right one, where this pass stands."""

    def tell(self, site: str, h: Tensor) -> None:
        self.links[site] = h

    def gate(self, h: Tensor) -> Tensor:
        """a ⊙ σ(b) of the two halves of the features."""
        return glu(h, 1)


class FullPass(Pass):
    """All positions at once: tensors are `(n, F, H, W)`.

    Args:
        noise: given in training only, turns dropout on.
        settle: set g and b of each layer from what passes through it, then pass it through again.
        trace: remember the inputs of layers, for `resume`.
    """

    def __init__(
        self, sizes: list[Size], context: Tensor | None, noise: Noise | None = None, *, settle: bool = False, trace: bool = False
    ) -> None:
        super().__init__(sizes, context)
        self.noise, self.settle, self.trace = noise, settle, trace
        self.inputs: dict[ShiftedConv2d, tuple[int, Tensor]] = {}  # by layer: its level, and its input without margins
        self.below: dict[ShiftedConv2d, tuple[int, Tensor]] = {}  # by strided layer: what came of the level below

    def _settled(self, layer: ShiftedConv2d, run: Callable[[], Tensor]) -> Tensor:
        out = run()
        if self.settle:
            layer.settle(out)
            out = run()
        return out

    def conv(self, layer: ShiftedConv2d, h: Tensor) -> Tensor:
        size, margin = self.sizes[self.level], layer.margin
        if layer.strict:  # of the image with two rows and one column of margin
            h = h[:, :, 1 - margin.above : size[0] + 1] if layer.stream == DOWN else h[:, :, 2 - margin.above :, : size[1]]
        if self.trace and layer.size[0] > 1:
            self.inputs[layer] = (self.level, crop(h, size, margin.above, margin.left))
        above, left = margin.above - layer.size[0] + 1, margin.left if layer.size[1] == 1 else 0
        return self._settled(layer, lambda: crop(conv2d(h, layer.kernel(), layer.bias), size, above, left))

    def elu(self, h: Tensor, stream: Margin) -> Tensor:
        return _concat_elu(h, stream)

    def keep(self, site: str, h: Tensor, p: float) -> Tensor:
        return h if self.noise is None or p == 0 else h * self.noise.keep(site, h, p)

    def context(self, layer: nn.Module, h: Tensor) -> Tensor:
        return h if self.given is None else h + conditioning.project(layer, self.given, self.sizes[self.level])

    def coarse(self, shrink: ShiftedConv2d, grow: ShiftedConv2d, h: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        fine, small = self.sizes[self.level : self.level + 2]
        start = self._settled(shrink, lambda: crop(F.conv2d(h, shrink.kernel(), shrink.bias, shrink.stride, padding=1), small))
        self.level += 1
        below = run(start)
        self.level -= 1
        if self.trace:
            self.inputs[shrink], self.below[shrink] = (self.level, h), (self.level + 1, below)
        return self._settled(grow, lambda: crop(grown(grow, below, grow.kernel(), grow.bias, fine[1]), fine))

    def link(self, site: str) -> Tensor:
        return self.links.pop(site)


def grown(layer: ShiftedConv2d, h: Tensor, kernel: Tensor, bias: Tensor, width: int) -> Tensor:
    """A transposed convolution from a coarse map to at least `width` fine columns; a coarse row makes as many as the kernel has."""
    reach = int(layer.stream == DOWN)
    missing = max(0, width - (h.shape[3] - 1) * layer.stride[1] - kernel.shape[3] + 2 * reach)
    return F.conv_transpose2d(h, kernel.transpose(0, 1), bias, layer.stride, padding=(0, reach), output_padding=(0, missing))


class StepPass(Pass):
    """What passes in steps share: they stand at one place, and read weights and contexts that were made once."""

    def __init__(self, sizes: list[Size], context: Tensor | None, strides: list[Size]) -> None:
        super().__init__(sizes, context)
        self.strides = [(1, 1)]  # of each level against the image
        for rows, columns in strides:
            self.strides.append((self.strides[-1][0] * rows, self.strides[-1][1] * columns))
        self.row = self.column = 0
        self.contexts: dict[nn.Module, Tensor] = {}

    def here(self) -> Size:
        """The current position at the current level."""
        rows, columns = self.strides[self.level]
        return self.row // rows, self.column // columns

    def keep(self, site: str, h: Tensor, p: float) -> Tensor:
        return h

    def projected(self, layer: nn.Module) -> Tensor | None:
        """The context's part of a layer at this level, rows and columns first: `(1 or H, 1 or W, n, F)`."""
        if self.given is None:
            return None
        if layer not in self.contexts:
            part = conditioning.project(layer, self.given, self.sizes[self.level])
            assert isinstance(part, Tensor)
            self.contexts[layer] = part.detach().permute(2, 3, 0, 1).contiguous()
        return self.contexts[layer]


class RowPass(StepPass):
    """The down stream, a row at a time: tensors are `(n, F, 1, W)`. Each layer keeps the last row of its input."""

    def __init__(self, sizes: list[Size], context: Tensor | None, strides: list[Size]) -> None:
        super().__init__(sizes, context, strides)
        self.kept: dict[ShiftedConv2d, Tensor] = {}
        self.below: dict[ShiftedConv2d, Tensor] = {}
        self.weights: dict[ShiftedConv2d, tuple[Tensor, Tensor]] = {}

    def _weights(self, layer: ShiftedConv2d) -> tuple[Tensor, Tensor]:
        if layer not in self.weights:
            self.weights[layer] = layer.kernel().detach(), layer.bias.detach()
        return self.weights[layer]

    def _window(self, layer: ShiftedConv2d, h: Tensor) -> Tensor:
        before = self.kept.get(layer)
        return torch.cat([torch.zeros_like(h) if before is None else before, h], 2)

    def conv(self, layer: ShiftedConv2d, h: Tensor) -> Tensor:
        weight, bias = self._weights(layer)
        if layer.size[0] == 1:
            return conv2d(h, weight, bias, padding=(0, layer.size[1] // 2))
        window, self.kept[layer] = self._window(layer, h), h
        return conv2d(window, weight, bias, padding=(0, layer.size[1] // 2))

    def elu(self, h: Tensor, stream: Margin) -> Tensor:
        return _concat_elu(h, POINT)

    def context(self, layer: nn.Module, h: Tensor) -> Tensor:
        part = self.projected(layer)
        return h if part is None else h + part[min(self.here()[0], len(part) - 1)].permute(1, 2, 0)[:, :, None]

    def coarse(self, shrink: ShiftedConv2d, grow: ShiftedConv2d, h: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        phase = self.here()[0] % shrink.stride[0]
        if phase == 0:
            weight, bias = self._weights(shrink)
            start = F.conv2d(self._window(shrink, h), weight, bias, (1, shrink.stride[1]), padding=(0, 1))
            self.level += 1
            self.below[shrink] = run(start)
            self.level -= 1
        self.kept[shrink] = h
        weight, bias = self._weights(grow)
        row = grown(grow, self.below[shrink], weight[:, :, phase : phase + 1], bias, h.shape[3])
        return crop(row, (1, h.shape[3]))

    def link(self, site: str) -> Tensor:
        raise AssertionError("the down stream is told nothing")

    def resume(self, full: FullPass, rows: int) -> None:
        """Stand as if the first `rows` rows of what went through a tracing full pass had been stepped."""
        for kept, seen in ((self.kept, full.inputs), (self.below, full.below)):
            for layer, (level, h) in seen.items():
                if layer.stream == DOWN:
                    last = (rows - 1) // self.strides[level][0]
                    kept[layer] = h[:, :, last : last + 1].contiguous()


class PixelPass(StepPass):
    """The down-right stream, a pixel at a time: tensors are `(n, F)`; `links` are rows `(W, n, F)`.

    An input is multiplied with each tap of its kernel as soon as it is known: what the row above adds, for a whole row at once, what
    the current row adds, pixel by pixel, into sums that wait for the pixels to the right. No window is ever copied together.
    """

    def __init__(self, n: int, sizes: list[Size], context: Tensor | None, strides: list[Size]) -> None:
        super().__init__(sizes, context, strides)
        self.n = n
        self.stores: dict[ShiftedConv2d, _Store] = {}
        self.ups: dict[ShiftedConv2d, tuple[list[list[Tensor]], Tensor]] = {}
        self.points: dict[ShiftedConv2d, tuple[Tensor, Tensor]] = {}
        self.signs: Tensor | None = None

    def _store(self, layer: ShiftedConv2d) -> _Store:
        if layer not in self.stores:
            self.stores[layer] = _Store(layer, self.n, self.sizes[self.level][1])
        return self.stores[layer]

    def conv(self, layer: ShiftedConv2d, h: Tensor) -> Tensor:
        if layer.size == (1, 1):
            if layer not in self.points:
                self.points[layer] = layer.kernel().detach()[:, :, 0, 0].t().contiguous(), layer.bias.detach()
            weight, bias = self.points[layer]
            return torch.addmm(bias, h, weight)
        store, (_, column) = self._store(layer), self.here()
        if column == 0:
            store.begin_row()
        store.push(column, h)
        store.map[column] = h
        return store.sums[column]

    def elu(self, h: Tensor, stream: Margin) -> Tensor:
        if self.signs is None:
            self.signs = h.new_tensor([[1.0], [-1.0]])
        return elu_((h[:, None] * self.signs).flatten(1))

    def context(self, layer: nn.Module, h: Tensor) -> Tensor:
        part, (row, column) = self.projected(layer), self.here()
        return h if part is None else h + part[min(row, part.shape[0] - 1), min(column, part.shape[1] - 1)]

    def coarse(self, shrink: ShiftedConv2d, grow: ShiftedConv2d, h: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        store, (row, column), (rows, columns) = self._store(shrink), self.here(), shrink.stride
        if row % rows == 0:
            if column == 0:
                store.begin_row()
            store.push(column, h)
            if column % columns == 0:
                self.level += 1
                store.below[column // columns] = run(store.sums[column // columns])
                self.level -= 1
        if rows == 1 or row % rows:  # the row that the next coarse row has above it
            store.map[column] = h
        if grow not in self.ups:
            kernel = grow.kernel().detach()
            taps = [[kernel[:, :, i, j].t().contiguous() for j in range(kernel.shape[3])] for i in range(kernel.shape[2])]
            self.ups[grow] = taps, grow.bias.detach()
        taps, bias = self.ups[grow]
        return torch.addmm(bias, store.below[column // columns], taps[row % rows][column % columns])

    def tell(self, site: str, h: Tensor) -> None:
        """Take what the down stream tells of the row that begins, `(W, n, F)`, to where it is read."""
        if site not in self.links:
            self.links[site] = torch.empty_like(h, memory_format=torch.contiguous_format)
        self.links[site].copy_(h)

    def link(self, site: str) -> Tensor:
        return self.links[site][self.here()[1]]

    def resume(self, full: FullPass, rows: int) -> None:
        """Stand as if the first `rows` rows of what went through a tracing full pass had been stepped."""
        for layer, (level, h) in full.inputs.items():
            if layer.stream == DOWN_RIGHT:
                self.level = level
                store = self._store(layer)
                store.map.copy_(h[:, :, (rows - 1) // self.strides[level][0]].permute(2, 0, 1))
                store.started = True
                if layer in full.below:
                    level, below = full.below[layer]
                    store.below.copy_(below[:, :, (rows - 1) // self.strides[level][0]].permute(2, 0, 1))
        self.level = 0


class _Store:
    """What steps keep of one down-right layer: its input row, and sums of the outputs of the current row. Pixels come first."""

    def __init__(self, layer: ShiftedConv2d, n: int, width: int) -> None:
        kernel, self.bias = layer.kernel().detach().permute(2, 3, 1, 0), layer.bias.detach()  # rows, columns, in, out
        outputs, inputs = kernel.shape[3], kernel.shape[2]
        self.step = layer.stride[1]
        self.columns = -(-width // self.step)
        self.above = [tap.contiguous() for tap in kernel[0].flip(0)]  # the tap at the pixel itself, then the one to its left
        self.row = kernel[1].flip(0).contiguous()
        self.map = kernel.new_zeros(width, n, inputs)
        self.below = kernel.new_zeros(self.columns, n, outputs)
        self.sums = kernel.new_zeros(self.columns + 1, n, outputs)  # the last takes what falls off the right edge
        self.started = False

    def begin_row(self) -> None:
        """Start the sums of a row with the bias and what the row above adds."""
        inner, n = self.sums[: self.columns], self.map.shape[1]
        if not self.started:
            self.started = True
            inner.copy_(self.bias.expand_as(inner))
        else:
            torch.addmm(self.bias, self.map[:: self.step].flatten(0, 1), self.above[0], out=inner.flatten(0, 1))
            if len(self.above) == 2 and self.columns > 1:
                left = self.map[self.step - 1 :: self.step][: self.columns - 1]
                self.sums[1 : self.columns].view((self.columns - 1) * n, -1).addmm_(left.flatten(0, 1), self.above[1])
        self.sums[self.columns] = 0

    def push(self, column: int, h: Tensor) -> None:
        """Add what the input at `column` contributes to its own output and to the one on the right."""
        if self.step == 1 and len(self.row) == 2:
            self.sums[column : column + 2].baddbmm_(h.expand(2, -1, -1), self.row)
        else:
            at, tap = divmod(column + self.step - 1, self.step)[0], column % self.step
            self.sums[at].addmm_(h, self.row[tap])
