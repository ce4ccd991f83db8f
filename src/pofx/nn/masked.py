"""Masked convolutions, and the two ways to run a network of them: over whole images, or one sub-pixel at a time.

Sub-pixels are ordered row by row, pixel by pixel, and R, G, B within a pixel (van den Oord et al. 2016, §3.4). Every layer
assigns each of its features to one colour. At the centre of the kernel mask A lets colour c see colours < c (first layer),
mask B colours ≤ c (all others); above and to the left everything is seen, below and to the right nothing.

A network is written once against a `Pass`: `FullPass` computes all positions, `StepPass` the features of one colour of one
pixel from what it stored of earlier ones. Both read the same weights, so their numbers agree.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pofx.errors import InputError
from pofx.nn import conditioning
from pofx.nn.activations import glu, relu, sigmoid, tanh, tanh_
from pofx.nn.linear import conv2d
from pofx.nn.raster import Place
from pofx.noise import Noise
from pofx.space import ImageSpace


def colours(features: int, channels: int) -> Tensor:
    """The colour of each feature: contiguous groups, as even as they come, int64 `(features,)`.

    >>> colours(7, 3).tolist()
    [0, 0, 0, 1, 1, 2, 2]
    """
    return torch.arange(features) * channels // features


def check_sizes(
    name: str, space: ImageSpace, *, layers: int, channels: int, kernels: Sequence[int], dropout: float, even: bool, dilations: int = 1
) -> None:
    """Raise InputError for settings that no such network can have; `even`: each colour needs equally many features."""
    if not 1 <= dilations <= 8:
        raise InputError(f"{name}: dilations={dilations} must be 1 … 8, e.g. --dilations 3 for 1, 2, 4, 1, 2, 4, …")
    if layers < 1 or any(kernel < 1 or kernel % 2 == 0 for kernel in kernels):
        raise InputError(
            f"{name}: layers={layers} must be ≥ 1, and the kernels {', '.join(map(str, kernels))} odd, e.g. --layers 8 --kernel 3."
        )
    if channels < space.channels or (even and channels % space.channels):
        wanted = "a multiple of" if even else "at least"
        raise InputError(
            f"{name}: channels={channels} must be {wanted} the image's {space.channels}, e.g. --channels {16 * space.channels}."
        )
    if not 0 <= dropout < 1:
        raise InputError(f"{name}: dropout={dropout} must be in [0, 1), e.g. --dropout 0.1.")


class MaskedConv2d(nn.Module):
    """A causal convolution. Only the rows up to the current one are stored: `(out, in, rows + 1, kernel)`.

    Masked weights are zero and stay so: the mask is inside the product, so they get no gradient, and decay keeps zero at zero.

    Args:
        inputs, outputs: features.
        kernel: odd size.
        mask: "A" strict, "B" with the current colour.
        channels: colours of the image; both feature counts must be at least this.
        rows: rows above the current one, kernel//2 unless told; 0 makes it horizontal.
        dilation: between the pixels that it sees, in both directions.
    """

    mask: Tensor

    def __init__(
        self, inputs: int, outputs: int, kernel: int, mask: Literal["A", "B"], channels: int, rows: int | None = None, dilation: int = 1
    ) -> None:
        super().__init__()
        if min(inputs, outputs) < channels:
            raise InputError(
                f"A masked layer of {min(inputs, outputs)} features cannot serve {channels} image channels; "
                f"use at least {channels}, e.g. --channels {32 * channels}."
            )
        self.reach, self.dilation = kernel // 2, dilation
        self.rows = self.reach if rows is None else rows
        self.in_colour, self.out_colour = colours(inputs, channels), colours(outputs, channels)
        before = self.in_colour[None] < self.out_colour[:, None] if mask == "A" else self.in_colour[None] <= self.out_colour[:, None]
        allowed = torch.ones(outputs, inputs, self.rows + 1, kernel)
        allowed[:, :, -1, self.reach + 1 :] = 0
        allowed[:, :, -1, self.reach] = before
        self.register_buffer("mask", allowed, persistent=False)
        seen = allowed.sum((1, 2, 3)).clamp(min=1)[:, None, None, None]
        self.weight = nn.Parameter(torch.randn(outputs, inputs, self.rows + 1, kernel) * seen.rsqrt() * allowed)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def kernel(self) -> Tensor:
        return self.weight * self.mask


class Pass(ABC):
    """The closed set of operations that causal networks are written in."""

    @abstractmethod
    def conv(self, layer: MaskedConv2d, h: Tensor | None) -> Tensor:
        """The masked convolution of `h`; None where a step reads a layer whose input was written before (the image)."""

    @abstractmethod
    def linked(self, layer: MaskedConv2d, h: Tensor | None, link: Tensor | None) -> Tensor:
        """The masked convolution of `h`, plus what a vertical stack says to this layer; None where a step was told before."""

    @abstractmethod
    def sum(self, layers: Sequence[MaskedConv2d], inputs: Sequence[Tensor]) -> Tensor:
        """Σ of 1×1 convolutions, as one product over all inputs."""

    @abstractmethod
    def context(self, c: Tensor | float) -> Tensor | float:
        """The part of a context projection `(n, F, 1 or H, 1 or W)` that belongs where this pass stands; 0 where there is none."""

    def projected(self, layer: nn.Module, context: Tensor | None, size: tuple[int, int] | None) -> Tensor | float:
        """The projection of the context by a layer, everywhere."""
        return conditioning.project(layer, context, size)

    def add_context(self, h: Tensor, layer: nn.Module, context: Tensor | None, size: tuple[int, int] | None = None) -> Tensor:
        """`h` and what a layer adds for the context where this pass stands; planes are pooled to `size`, if told."""
        part = self.projected(layer, context, size)
        return h + self.context(part) if isinstance(part, Tensor) else h

    @abstractmethod
    def keep(self, site: str, h: Tensor, p: float) -> Tensor:
        """Dropout in training; elsewhere `h`."""

    @abstractmethod
    def residual(self, layer: MaskedConv2d, h: Tensor, a: Tensor) -> Tensor:
        """`h` plus a 1×1 convolution of `a`, for linked layers."""

    @abstractmethod
    def gate(self, h: Tensor) -> Tensor:
        """tanh(a) ⊙ σ(b): each colour's features hold a, then b; half as many come out."""

    def relu(self, h: Tensor) -> Tensor:
        return relu(h)


class FullPass(Pass):
    """All positions at once: tensors are `(n, F, H, W)`. `noise` is given in training only, and turns dropout on.

    Args:
        inputs: where given, keeps the input of each layer that reads more than one pixel, for a `StepPass` to go on from.
    """

    def __init__(self, channels: int = 1, noise: Noise | None = None, inputs: dict[MaskedConv2d, Tensor] | None = None) -> None:
        self.channels, self.noise, self.inputs = channels, noise, inputs

    def conv(self, layer: MaskedConv2d, h: Tensor | None) -> Tensor:
        assert h is not None
        if self.inputs is not None and layer.rows:
            self.inputs[layer] = h
        r, d, kernel = layer.reach, layer.dilation, layer.kernel()
        if layer.rows == 0:  # nothing to the right is seen
            return conv2d(F.pad(h, (r * d, 0)) if r else h, kernel[..., : r + 1], layer.bias, dilation=d)
        return conv2d(F.pad(h, (0, 0, layer.rows * d, 0)), kernel, layer.bias, padding=(0, r * d), dilation=d)

    def linked(self, layer: MaskedConv2d, h: Tensor | None, link: Tensor | None) -> Tensor:
        assert link is not None
        return self.conv(layer, h).add_(link)

    def sum(self, layers: Sequence[MaskedConv2d], inputs: Sequence[Tensor]) -> Tensor:
        kernel, bias = torch.cat([layer.kernel() for layer in layers], 1), torch.stack([layer.bias for layer in layers]).sum(0)
        return F.conv2d(torch.cat(list(inputs), 1), kernel, bias)

    def context(self, c: Tensor | float) -> Tensor | float:
        return c

    def keep(self, site: str, h: Tensor, p: float) -> Tensor:
        return h if self.noise is None or p == 0 else h * self.noise.keep(site, h, p)

    def residual(self, layer: MaskedConv2d, h: Tensor, a: Tensor) -> Tensor:
        return h + self.conv(layer, a)

    def gate(self, h: Tensor) -> Tensor:
        if self.channels == 1:
            return gated(h)
        n, features, height, width = h.shape
        a, b = h.reshape(n, self.channels, 2, features // (2 * self.channels), height, width).unbind(2)
        return (tanh(a) * sigmoid(b)).flatten(1, 2)


class StepPass(Pass):
    """One colour of the pixels of one `Place` at a time: tensors are `(n · P, features of that colour)`, image by image.

    Each layer keeps of its input what later pixels read; a step writes the new features and multiplies one window.
    A whole image costs the multiply-adds of one full pass.

    Linked layers are gated: σ(b) = (1 + tanh(b/2)) / 2, so that with half of b from weights that are halved already (which rounds nothing)
    tanh(a) (1 + tanh(b/2)) takes one tanh of all features; `readers` have the other half in their weights.
    The biases of residual layers are constants in what linked layers see: they are in `biases`, and never added to the stream.

    Args:
        linked: all layers that are asked by `linked`, in turn: of one pixel after the other, row by row.
        residual: for each of them the biases that `residual` leaves out of what it sees, or None.
        readers: 1×1 layers that are given what `gate` makes.
    """

    def __init__(
        self,
        n: int,
        size: tuple[int, int],
        channels: int,
        device: torch.device,
        linked: Sequence[MaskedConv2d] = (),
        residual: Sequence[Tensor | None] = (),
        readers: Sequence[MaskedConv2d] = (),
    ) -> None:
        self.n, self.size, self.channels, self.device = n, size, channels, device
        self.readers = set(readers)
        self.biases: dict[MaskedConv2d, Tensor] = {}  # what a linked layer adds to its link, before its gate
        self.before: int | None = None  # the column that is left next
        without = dict(zip(linked, residual, strict=True))
        for layer, constant in without.items():
            seen = 0.0 if constant is None else layer.kernel().sum((2, 3)) @ constant
            self.biases[layer] = layer.bias + seen
        shapes = {layer: (*layer.weight.shape, layer.dilation) for layer in linked}
        self.lines = [
            _Line({layer: without[layer] for layer in linked if shapes[layer] == shape}, n, size, channels)
            for shape in dict.fromkeys(shapes.values())
        ]
        self.line = {layer: (line, k) for line in self.lines for k, layer in enumerate(line.layers)}
        self.stores: dict[MaskedConv2d, _Store] = {}
        self.sums: dict[MaskedConv2d, list[tuple[Tensor, Tensor]]] = {}
        self.parts: dict[int, list[slice]] = {}
        self.windows: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}  # of this place, by (rows, reach, dilation)
        self.contexts: dict[nn.Module, Tensor | float] = {}

    def at(self, place: Place) -> None:
        """Leave the place before, and stand at this one."""
        if self.before is not None and place.colour == 0:
            for line in self.lines:
                line.leave(self.before)
        self.place, self.colour, self.before = place, place.colour, place.column
        self.windows.clear()

    def look(self) -> None:
        """Once the links of the row are told: what all linked layers see to the left, in one product."""
        for line in self.lines:
            line.look(self.place.column, self.colour)

    def window(self, rows: int, reach: int, dilation: int) -> tuple[Tensor, Tensor]:
        """Flat positions in a padded map: of the place's pixels `(P,)`, and of all that a kernel sees from them `(P · taps,)`."""
        found = self.windows.get((rows, reach, dilation))
        if found is None:
            width = self.size[1] + 2 * reach * dilation
            centre = torch.tensor([(i + rows * dilation) * width + j + reach * dilation for i, j in self.place.pixels])
            above = torch.arange(-rows, 0)[:, None] * width + torch.arange(-reach, reach + 1)
            offsets = torch.cat([above.flatten(), torch.arange(-reach, 1)]) * dilation
            seen = (centre[:, None] + offsets).flatten()
            found = self.windows[rows, reach, dilation] = centre.to(self.device), seen.to(self.device)
        return found

    def store(self, layer: MaskedConv2d) -> _Store:
        found = self.stores.get(layer)
        if found is None:
            make = _Map if layer.rows else _Pixel
            found = self.stores[layer] = make(layer, self.n, self.size, self.channels)
            if layer in self.readers:
                found.taps = [(0.5 * weight, bias) for weight, bias in found.taps]
        return found

    def write(self, layer: MaskedConv2d, h: Tensor) -> None:
        """Store the input features of the current colour, `(n · P, F)`, at the current pixels."""
        if layer in self.line:
            line, k = self.line[layer]
            line.now[k][:, line.inputs[self.colour]] = h
        else:
            self.store(layer).write(self, h)

    def conv(self, layer: MaskedConv2d, h: Tensor | None) -> Tensor:
        store = self.store(layer)
        if h is None:
            return store.read(self)
        if self.channels == 1 and layer.weight.shape[-1] == 1:  # nothing but h itself is seen
            weight, bias = store.taps[0]
            return torch.addmm(bias, h, weight)
        store.write(self, h)
        return store.read(self)

    def tell(self, layer: MaskedConv2d, link: Tensor) -> None:
        """Take a link of the row that begins, `(n, W, F)`, with the layer's of `biases`, and b halved, to where `look` reads it."""
        line, k = self.line[layer]
        line.links[k].copy_(link)

    def row(self, layer: MaskedConv2d) -> Tensor:
        """The input of a linked layer in the row that has ended, `(n, W, F)`, to read or to set."""
        line, _ = self.line[layer]
        assert len(line.layers) == line.dilation == 1
        return line.past[0, :, 0, line.reach :]

    def linked(self, layer: MaskedConv2d, h: Tensor | None, link: Tensor | None) -> Tensor:
        if h is not None:
            self.write(layer, h)
        line, k = self.line[layer]
        seen = line.parts[self.colour][k]  # used up: `look` makes it anew
        return torch.addmm(seen, line.now[k], line.centre[self.colour][k], out=seen)

    def sum(self, layers: Sequence[MaskedConv2d], inputs: Sequence[Tensor]) -> Tensor:
        """Colours other than the current one: their part was stored when they were current."""
        kept = [self.store(layer) for layer in layers]
        if self.channels > 1:
            for store, h in zip(kept, inputs, strict=True):
                store.write(self, h)
            inputs = [store.pixel for store in kept if isinstance(store, _Pixel)]
        if layers[0] not in self.sums:
            by_colour = [[store.taps[c] for store in kept] for c in range(self.channels)]
            self.sums[layers[0]] = [(torch.cat([w for w, _ in taps]), torch.stack([b for _, b in taps]).sum(0)) for taps in by_colour]
        weight, bias = self.sums[layers[0]][self.colour]
        return torch.addmm(bias, torch.cat(list(inputs), 1), weight)

    def fill(self, inputs: dict[MaskedConv2d, Tensor], rows: int) -> None:
        """Stand as if the first rows had been stepped through: `inputs` as a `FullPass` over them kept them."""
        for layer, h in inputs.items():
            store = self.store(layer)
            assert isinstance(store, _Map)
            store.fill(h, rows)

    def _part(self, features: int) -> slice:
        """The features of the current colour among so many."""
        if features not in self.parts:
            self.parts[features] = _slices(colours(features, self.channels), self.channels)
        return self.parts[features][self.colour]

    def projected(self, layer: nn.Module, context: Tensor | None, size: tuple[int, int] | None) -> Tensor | float:
        if layer not in self.contexts:
            self.contexts[layer] = super().projected(layer, context, size)
        return self.contexts[layer]

    def context(self, c: Tensor | float) -> Tensor | float:
        if not isinstance(c, Tensor):
            return c
        c = c[:, self._part(c.shape[1])]
        if c.shape[2:] == (1, 1):
            c = c[:, :, 0, 0]
            return c if len(self.place.pixels) == 1 else c.repeat_interleave(len(self.place.pixels), 0)
        rows, columns = zip(*self.place.pixels, strict=True)
        return c[:, :, list(rows), list(columns)].transpose(1, 2).flatten(0, 1)

    def keep(self, site: str, h: Tensor, p: float) -> Tensor:
        return h

    def residual(self, layer: MaskedConv2d, h: Tensor, a: Tensor) -> Tensor:
        store = self.store(layer)
        if isinstance(store, _Pixel) and self.channels > 1:
            store.write(self, a)
            a = store.pixel
        return torch.addmm(h, a, store.taps[self.colour][0])

    def gate(self, h: Tensor) -> Tensor:
        a, b = tanh_(h).chunk(2, 1)
        return torch.addcmul(a, a, b)


class _Store(ABC):
    """What a step keeps of one layer: its input, and its weights by colour as a matrix `(taps · in, out)`."""

    def __init__(self, layer: MaskedConv2d, n: int, size: tuple[int, int], channels: int) -> None:
        self.rows, self.reach, self.dilation = layer.rows, layer.reach, layer.dilation
        self.n, self.inputs = n, _slices(layer.in_colour, channels)
        self.taps = []
        kernel = layer.kernel().permute(0, 2, 3, 1)  # out, rows, columns, in
        for part in _slices(layer.out_colour, channels):
            flat = torch.cat([kernel[part, :-1].flatten(1), kernel[part, -1, : layer.reach + 1].flatten(1)], 1)
            self.taps.append((flat.t().contiguous(), layer.bias[part]))

    @abstractmethod
    def write(self, at: StepPass, h: Tensor) -> None: ...

    @abstractmethod
    def read(self, at: StepPass) -> Tensor:
        """The layer's output of the current colour at the current pixels."""


class _Map(_Store):
    """Of a layer that sees rows above: the whole map, padded, channels last."""

    def __init__(self, layer: MaskedConv2d, n: int, size: tuple[int, int], channels: int) -> None:
        super().__init__(layer, n, size, channels)
        self.padded = size[0] + layer.rows * layer.dilation, size[1] + 2 * layer.reach * layer.dilation
        self.map = layer.weight.new_zeros(n, self.padded[0] * self.padded[1], layer.weight.shape[1])

    def write(self, at: StepPass, h: Tensor) -> None:
        centre, _ = at.window(self.rows, self.reach, self.dilation)
        self.map[:, centre, self.inputs[at.colour]] = h.reshape(self.n, len(centre), -1)

    def read(self, at: StepPass) -> Tensor:
        centre, seen = at.window(self.rows, self.reach, self.dilation)
        weight, bias = self.taps[at.colour]
        return torch.addmm(bias, self.map.index_select(1, seen).reshape(self.n * len(centre), -1), weight)

    def fill(self, h: Tensor, rows: int) -> None:
        above, left, width = self.rows * self.dilation, self.reach * self.dilation, h.shape[3]
        self.map.unflatten(1, self.padded)[:, above : above + rows, left : left + width] = h[:, :, :rows].permute(0, 2, 3, 1)


class _Pixel(_Store):
    """Of a layer that sees single pixels: the colours of the current ones. What it holds of colours yet to come meets zero weights."""

    def __init__(self, layer: MaskedConv2d, n: int, size: tuple[int, int], channels: int) -> None:
        super().__init__(layer, n, size, channels)
        self.pixel = layer.weight.new_zeros(n, layer.weight.shape[1])

    def _fit(self, at: StepPass) -> None:
        """Make room for a place of another size."""
        wanted = self.n * len(at.place.pixels)
        if len(self.pixel) != wanted:
            self.pixel = self.pixel.new_zeros(wanted, self.pixel.shape[1])

    def write(self, at: StepPass, h: Tensor) -> None:
        self._fit(at)
        self.pixel[:, self.inputs[at.colour]] = h

    def read(self, at: StepPass) -> Tensor:
        self._fit(at)
        weight, bias = self.taps[at.colour]
        return torch.addmm(bias, self.pixel, weight)


class _Line:
    """Linked layers of one shape, L of them, which see the current row only.

    Their input at the current pixel lies in one place for all columns, so that every pixel's step makes the same calls. What they see to
    the left is known before the step, for all layers: it is multiplied at once. What `now` holds of colours yet to come, and `past` of the
    row above, meets zero weights or is not read.
    """

    def __init__(self, without: dict[MaskedConv2d, Tensor | None], n: int, size: tuple[int, int], channels: int) -> None:
        layers = self.layers = list(without)
        first = layers[0]
        outputs, inputs = first.weight.shape[:2]
        self.reach, self.dilation = first.reach, first.dilation
        self.inputs, outs = _slices(first.in_colour, channels), _slices(first.out_colour, channels)
        new = first.weight.new_zeros
        self.links = new(len(layers), n, size[1], outputs)
        self.now = new(len(layers), n, inputs)
        # Columns that are seen together lie together: those of one residue by the dilation, after a margin.
        self.past = new(len(layers), n, self.dilation, -(-size[1] // self.dilation) + self.reach, inputs)
        for k, constant in enumerate(without.values()):
            if constant is not None:
                self.past[k, :, :, : self.reach] = -constant  # a margin of zeros, when the constant is added
        kernels = torch.stack([halved(layer.kernel()[:, :, -1], channels) for layer in layers]).permute(0, 3, 2, 1)  # L, columns, in, out
        self.left = [kernels[:, : self.reach, :, part].flatten(1, 2).contiguous() for part in outs]
        self.centre = [list(kernels[:, self.reach, :, part].contiguous()) for part in outs]
        self.seen = [new(len(layers), n, part.stop - part.start) for part in outs]
        self.parts = [list(seen) for seen in self.seen]
        self.saves, self.views = [], []
        for column in range(size[1]):
            turn, residue = divmod(column, self.dilation)
            self.saves.append(self.past[:, :, residue, turn + self.reach])
            window = self.past[:, :, residue, turn : turn + self.reach].flatten(2)
            self.views.append([(self.links[:, :, column, part], window, self.left[c], self.seen[c]) for c, part in enumerate(outs)])

    def leave(self, column: int) -> None:
        self.saves[column].copy_(self.now)

    def look(self, column: int, colour: int) -> None:
        link, window, left, seen = self.views[column][colour]
        if self.reach:
            torch.baddbmm(link, window, left, out=seen)
        else:
            seen.copy_(link)


def _slices(colour: Tensor, channels: int) -> list[slice]:
    """Where each colour's features lie."""
    counts = torch.bincount(colour, minlength=channels).tolist()
    return [slice(sum(counts[:c]), sum(counts[: c + 1])) for c in range(channels)]


def halved(weight: Tensor, channels: int) -> Tensor:
    """Weights `(out, …)` of what is gated, with b of each colour halved."""
    out = weight.clone()
    out.view(channels, 2, -1, *weight.shape[1:])[:, 1] *= 0.5
    return out


def gated(h: Tensor) -> Tensor:
    """tanh of the first half of the features ⊙ σ of the second (van den Oord et al. 2016b, eq. 2). Outside of training h is used up."""
    a, b = h.chunk(2, 1)
    if not torch.is_grad_enabled() and h.dtype != torch.float64:
        tanh_(a)
        return glu(h, 1)
    return tanh(a) * sigmoid(b)


class VerticalConv2d(nn.Module):
    """A convolution over the rows above (and, unless `strict`, the current one), full width: no colour is masked.

    Args:
        inputs, outputs: features.
        kernel: odd width; it covers kernel//2 rows above, and the current one.
        strict: exclude the current row by reaching one row further up: the first layer, and only that one. Every later layer reads
            features that exclude it already; to shift again would bring the blind spot back.
        dilation: between the pixels that it sees, in both directions.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, strict: bool, dilation: int = 1) -> None:
        super().__init__()
        self.reach, self.shift, self.dilation = kernel // 2, int(strict), dilation
        self.weight = nn.Parameter(torch.randn(outputs, inputs, self.reach + 1, kernel) * (inputs * (self.reach + 1) * kernel) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))


class Rows(ABC):
    """How a vertical stack is run: over the whole image, or one row at a time."""

    @abstractmethod
    def conv(self, layer: VerticalConv2d, v: Tensor) -> Tensor:
        """The vertical convolution of `v`."""

    @abstractmethod
    def link(self, layer: nn.Conv2d, v: Tensor) -> Tensor:
        """A 1×1 convolution of `v`, which nothing in the stack reads."""

    @abstractmethod
    def gate(self, v: Tensor) -> Tensor:
        """tanh of the first half of the features ⊙ σ of the second."""

    @abstractmethod
    def context(self, c: Tensor | float) -> Tensor | float:
        """The rows of a context projection that belong where this pass stands; 0 where there is none."""

    def projected(self, layer: nn.Module, context: Tensor | None) -> Tensor | float:
        """The projection of the context by a layer, everywhere."""
        return conditioning.project(layer, context)

    def add_context(self, v: Tensor, layer: nn.Module, context: Tensor | None) -> Tensor:
        """`v` and what a layer adds for the context in the rows where this pass stands."""
        part = self.projected(layer, context)
        return v + self.context(part) if isinstance(part, Tensor) else v


class AllRows(Rows):
    """Tensors are `(n, F, H, W)`.

    Args:
        into: takes what it needs to go on with the row after these.
    """

    def __init__(self, into: OneRow | None = None) -> None:
        self.into = into

    def conv(self, layer: VerticalConv2d, v: Tensor) -> Tensor:
        d, s = layer.dilation, layer.shift
        r = layer.reach * d
        if r + s:
            v = F.pad(v[:, :, : v.shape[2] - s], (0, 0, r + s, 0))
        if self.into is not None:
            self.into.fill(layer, v)
        return conv2d(v, layer.weight, layer.bias, padding=(0, r), dilation=d)

    def link(self, layer: nn.Conv2d, v: Tensor) -> Tensor:
        return layer(v)

    def gate(self, v: Tensor) -> Tensor:
        return gated(v)

    def context(self, c: Tensor | float) -> Tensor | float:
        return c


class OneRow(Rows):
    """Row after row: tensors are `(n, W, F)`. A strict layer is given the row before the current one.

    Each layer keeps the last few rows of its input where they are, so that every row makes the same calls; a convolution is one product
    with the windows of the row.

    Args:
        biases: added to those of links.
        channels: links, and what `halved` layers add to them, have b halved, as `StepPass` wants it.
        halved: layers of contexts that are added to links.
    """

    def __init__(self, biases: dict[nn.Conv2d, Tensor], channels: int, halved: Sequence[nn.Module]) -> None:
        self.row = 0
        self.biases, self.channels, self.halved = biases, channels, set(halved)
        self.kept: dict[VerticalConv2d, Tensor] = {}  # rows of each layer's input, the current one last: (n, rows, margin + W + margin, F)
        self.taps: dict[nn.Module, tuple[Tensor, Tensor]] = {}  # weight (taps · in, out), and bias
        self.contexts: dict[nn.Module, Tensor | float] = {}

    def _kept(self, layer: VerticalConv2d, n: int, width: int) -> Tensor:
        if layer not in self.kept:
            r = layer.reach * layer.dilation
            self.kept[layer] = layer.weight.new_zeros(n, r + 1, width + 2 * r, layer.weight.shape[1])
            self.taps[layer] = layer.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous(), layer.bias
        return self.kept[layer]

    def fill(self, layer: VerticalConv2d, v: Tensor) -> None:
        """Stand as if the rows `(n, F, rows, W)` had been given; at least as many as the layer sees."""
        kept, r = self._kept(layer, v.shape[0], v.shape[3]), layer.reach * layer.dilation
        kept[:, :, r : r + v.shape[3]] = v[:, :, v.shape[2] - r - 1 :].permute(0, 2, 3, 1)

    def conv(self, layer: VerticalConv2d, v: Tensor) -> Tensor:
        n, width, inputs = v.shape
        kept, d = self._kept(layer, n, width), layer.dilation
        r = layer.reach * d
        for k in range(r):
            kept[:, k] = kept[:, k + 1]
        kept[:, r, r : r + width] = v
        weight, bias = self.taps[layer]
        at, above, left, _ = kept.stride()
        shape = n, width, layer.reach + 1, 2 * layer.reach + 1, inputs
        windows = kept.as_strided(shape, (at, left, d * above, d * left, 1))
        return torch.addmm(bias, windows.reshape(n * width, -1), weight).view(n, width, -1)

    def link(self, layer: nn.Conv2d, v: Tensor) -> Tensor:
        if layer not in self.taps:
            bias = layer.bias if layer.bias is not None else 0
            weight = halved(layer.weight[:, :, 0, 0], self.channels)
            self.taps[layer] = weight.t().contiguous(), halved(bias + self.biases[layer], self.channels)
        weight, bias = self.taps[layer]
        return torch.addmm(bias, v.flatten(0, 1), weight).view(*v.shape[:2], -1)

    def gate(self, v: Tensor) -> Tensor:
        tanh_(v[..., : v.shape[2] // 2])
        return glu(v, 2)

    def projected(self, layer: nn.Module, context: Tensor | None) -> Tensor | float:
        if layer not in self.contexts:
            part = super().projected(layer, context)
            if layer in self.halved and isinstance(part, Tensor):
                part = halved(part.transpose(0, 1), self.channels).transpose(0, 1)
            self.contexts[layer] = part
        return self.contexts[layer]

    def context(self, c: Tensor | float) -> Tensor | float:
        if not isinstance(c, Tensor):
            return c
        return c[:, :, 0 if c.shape[2] == 1 else self.row].transpose(1, 2)
