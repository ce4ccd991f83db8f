"""Masked convolutions, and the two ways to run a network of them: over whole images, or one sub-pixel at a time.

Sub-pixels are ordered row by row, pixel by pixel, and R, G, B within a pixel (van den Oord et al. 2016, §3.4). Every layer
assigns each of its features to one colour. At the centre of the kernel mask A lets colour c see colours < c (first layer),
mask B colours ≤ c (all others); above and to the left everything is seen, below and to the right nothing.

A network is written once against a `Pass`: `FullPass` computes all positions, `StepPass` the features of one colour of one
pixel from what it stored of earlier ones. Both read the same weights, so their numbers agree.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pofx.errors import InputError
from pofx.noise import Noise
from pofx.space import ImageSpace


def colours(features: int, channels: int) -> Tensor:
    """The colour of each feature: contiguous groups, as even as they come, int64 `(features,)`.

    >>> colours(7, 3).tolist()
    [0, 0, 0, 1, 1, 2, 2]
    """
    return torch.arange(features) * channels // features


def raster(space: ImageSpace) -> list[Tensor]:
    """The order of `Autoregressive.order`: row by row, pixel by pixel, colour by colour, one sub-pixel a group."""
    c, h, w = space.shape
    return list(torch.arange(c * h * w).reshape(c, h * w).t().reshape(-1, 1))


class MaskedConv2d(nn.Module):
    """A causal convolution. Only the rows up to the current one are stored: `(out, in, rows + 1, kernel)`.

    Masked weights are zero and stay so: the mask is inside the product, so they get no gradient, and decay keeps zero at zero.

    Args:
        inputs, outputs: features.
        kernel: odd size.
        mask: "A" strict, "B" with the current colour.
        channels: colours of the image; both feature counts must be at least this.
        rows: rows above the current one, kernel//2 unless told; 0 makes it horizontal.
    """

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int, mask: Literal["A", "B"], channels: int, rows: int | None = None) -> None:
        super().__init__()
        if min(inputs, outputs) < channels:
            raise InputError(
                f"A masked layer of {min(inputs, outputs)} features cannot serve {channels} image channels; "
                f"use at least {channels}, e.g. --channels {32 * channels}."
            )
        self.reach = kernel // 2
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
    def context(self, c: Tensor | float) -> Tensor | float:
        """The part of a context projection `(n, F, 1 or H, 1 or W)` that belongs where this pass stands; 0 where there is none."""

    def add_context(self, h: Tensor, c: Tensor | float) -> Tensor:
        """`h` and the context's part of it."""
        return h + self.context(c) if isinstance(c, Tensor) else h

    @abstractmethod
    def keep(self, site: str, h: Tensor, p: float) -> Tensor:
        """Dropout in training; elsewhere `h`."""

    @abstractmethod
    def gate(self, h: Tensor) -> Tensor:
        """tanh(a) ⊙ σ(b): each colour's features hold a, then b; half as many come out."""

    @abstractmethod
    def link(self, v: Tensor) -> Tensor:
        """The part of what the vertical stack says that belongs where this pass stands: of a map, or of a row `(W, n, F)`."""

    def relu(self, h: Tensor) -> Tensor:
        return F.relu(h)


class FullPass(Pass):
    """All positions at once: tensors are `(n, F, H, W)`. `noise` is given in training only, and turns dropout on."""

    def __init__(self, channels: int = 1, noise: Noise | None = None) -> None:
        self.channels, self.noise = channels, noise

    def conv(self, layer: MaskedConv2d, h: Tensor | None) -> Tensor:
        assert h is not None
        return F.conv2d(h, layer.kernel(), layer.bias, padding=(layer.rows, layer.reach))[:, :, : h.shape[2]]

    def context(self, c: Tensor | float) -> Tensor | float:
        return c

    def keep(self, site: str, h: Tensor, p: float) -> Tensor:
        return h if self.noise is None or p == 0 else h * self.noise.keep(site, h, p)

    def gate(self, h: Tensor) -> Tensor:
        if self.channels == 1:
            return gated(h)
        n, features, height, width = h.shape
        a, b = h.reshape(n, self.channels, 2, features // (2 * self.channels), height, width).unbind(2)
        return (torch.tanh(a) * torch.sigmoid(b)).flatten(1, 2)

    def link(self, v: Tensor) -> Tensor:
        return v


class StepPass(Pass):
    """One colour of one pixel at a time: tensors are `(n, features of that colour)`.

    Each layer keeps its input map, padded, channels last; a step writes the new features and multiplies one window.
    A whole image costs the multiply-adds of one full pass.
    """

    def __init__(self, n: int, size: tuple[int, int], channels: int) -> None:
        self.n, self.size, self.channels = n, size, channels
        self.row = self.column = self.colour = 0
        self.stores: dict[MaskedConv2d, _Store] = {}
        self.parts: dict[int, list[slice]] = {}

    def at(self, row: int, column: int, colour: int) -> None:
        self.row, self.column, self.colour = row, column, colour

    def _store(self, layer: MaskedConv2d) -> _Store:
        store = self.stores.get(layer)
        if store is None:
            store = self.stores[layer] = _Store(layer, self.n, self.size, self.channels)
        return store

    def write(self, layer: MaskedConv2d, h: Tensor) -> None:
        """Store the input features of the current colour, `(n, F)`, at the current pixel."""
        store = self._store(layer)
        store.map[:, self.row + store.rows if store.rows else 0, self.column + store.reach, store.inputs[self.colour]] = h

    def read(self, layer: MaskedConv2d) -> Tensor:
        """The layer's output features of the current colour at the current pixel, `(n, F)`."""
        store, i, j = self._store(layer), self.row, self.column
        rows, r = store.rows, store.reach
        if rows:
            above = store.map[:, i : i + rows, j : j + 2 * r + 1].reshape(self.n, -1)
            window = torch.cat([above, store.map[:, i + rows, j : j + r + 1].reshape(self.n, -1)], 1)
        else:
            window = store.map[:, 0, j : j + r + 1].reshape(self.n, -1)
        weight, bias = store.taps[self.colour]
        return torch.addmm(bias, window, weight)

    def conv(self, layer: MaskedConv2d, h: Tensor | None) -> Tensor:
        if h is None:
            return self.read(layer)
        if self.channels == 1 and layer.weight.shape[-1] == 1:  # nothing but h itself is seen
            weight, bias = self._store(layer).taps[0]
            return torch.addmm(bias, h, weight)
        self.write(layer, h)
        return self.read(layer)

    def _part(self, features: int) -> slice:
        """The features of the current colour among so many."""
        if features not in self.parts:
            self.parts[features] = _slices(colours(features, self.channels), self.channels)
        return self.parts[features][self.colour]

    def context(self, c: Tensor | float) -> Tensor | float:
        if not isinstance(c, Tensor):
            return c
        return c[:, self._part(c.shape[1]), min(self.row, c.shape[2] - 1), min(self.column, c.shape[3] - 1)]

    def keep(self, site: str, h: Tensor, p: float) -> Tensor:
        return h

    def gate(self, h: Tensor) -> Tensor:
        return gated(h)

    def link(self, v: Tensor) -> Tensor:
        return v[self.column, :, self._part(v.shape[2])]


class _Store:
    """What a step keeps of one layer: its input map, and its weights by colour as a matrix `(taps · in, out)`."""

    def __init__(self, layer: MaskedConv2d, n: int, size: tuple[int, int], channels: int) -> None:
        self.rows, self.reach = layer.rows, layer.reach
        height = size[0] + layer.rows if layer.rows else 1  # a horizontal layer reads no row but the current one
        self.map = layer.weight.new_zeros(n, height, size[1] + 2 * layer.reach, layer.weight.shape[1])
        self.inputs = _slices(layer.in_colour, channels)
        self.taps = []
        kernel = layer.kernel().permute(0, 2, 3, 1)  # out, rows, columns, in
        for part in _slices(layer.out_colour, channels):
            flat = torch.cat([kernel[part, :-1].flatten(1), kernel[part, -1, : layer.reach + 1].flatten(1)], 1)
            self.taps.append((flat.t().contiguous(), layer.bias[part]))


def _slices(colour: Tensor, channels: int) -> list[slice]:
    """Where each colour's features lie."""
    counts = torch.bincount(colour, minlength=channels).tolist()
    return [slice(sum(counts[:c]), sum(counts[: c + 1])) for c in range(channels)]


def gated(h: Tensor) -> Tensor:
    """tanh of the first half of the features ⊙ σ of the second (van den Oord et al. 2016b, eq. 2)."""
    a, b = h.chunk(2, 1)
    return torch.tanh(a) * torch.sigmoid(b)


class VerticalConv2d(nn.Module):
    """A convolution over the rows above (and, unless `strict`, the current one), full width: no colour is masked.

    Args:
        inputs, outputs: features.
        kernel: odd width; it covers kernel//2 rows above, and the current one.
        strict: exclude the current row by reaching one row further up: the first layer, and only that one. Every later layer reads
            features that exclude it already; to shift again would bring the blind spot back.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, strict: bool) -> None:
        super().__init__()
        self.reach, self.shift = kernel // 2, int(strict)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, self.reach + 1, kernel) * (inputs * (self.reach + 1) * kernel) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))


class Rows(ABC):
    """How a vertical stack is run: over the whole image, or one row at a time. Tensors are `(n, F, rows, W)`."""

    @abstractmethod
    def conv(self, layer: VerticalConv2d, v: Tensor) -> Tensor:
        """The vertical convolution of `v`."""

    @abstractmethod
    def context(self, c: Tensor | float) -> Tensor | float:
        """The rows of a context projection that belong where this pass stands."""


class AllRows(Rows):
    def conv(self, layer: VerticalConv2d, v: Tensor) -> Tensor:
        r, s = layer.reach, layer.shift
        v = F.conv2d(v, layer.weight, layer.bias, padding=(r + s, r))
        return v[:, :, : v.shape[2] - r - 2 * s] if r + s else v

    def context(self, c: Tensor | float) -> Tensor | float:
        return c


class OneRow(Rows):
    """Row after row; each layer keeps the last few rows of its input. A strict layer is given the row before the current one."""

    def __init__(self) -> None:
        self.row = 0
        self.kept: dict[VerticalConv2d, Tensor] = {}

    def conv(self, layer: VerticalConv2d, v: Tensor) -> Tensor:
        r = layer.reach
        before = self.kept.get(layer)
        if before is None:
            before = v.new_zeros(v.shape[0], v.shape[1], r, v.shape[3])
        window = torch.cat([before, v], 2)
        self.kept[layer] = window[:, :, 1:]
        return F.conv2d(window, layer.weight, layer.bias, padding=(0, r))

    def context(self, c: Tensor | float) -> Tensor | float:
        return c if not isinstance(c, Tensor) or c.shape[2] == 1 else c[:, :, self.row : self.row + 1]
