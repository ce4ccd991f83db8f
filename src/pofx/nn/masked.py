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


def colours(features: int, channels: int) -> Tensor:
    """The colour of each feature: contiguous groups, as even as they come, int64 `(features,)`.

    >>> colours(7, 3).tolist()
    [0, 0, 0, 1, 1, 2, 2]
    """
    return torch.arange(features) * channels // features


class MaskedConv2d(nn.Module):
    """A causal convolution. Only the rows up to the current one are stored: `(out, in, kernel//2 + 1, kernel)`.

    Masked weights are zero and stay so: the mask is inside the product, so they get no gradient, and decay keeps zero at zero.

    Args:
        inputs, outputs: features.
        kernel: odd size.
        mask: "A" strict, "B" with the current colour.
        channels: colours of the image; both feature counts must be at least this.
    """

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int, mask: Literal["A", "B"], channels: int) -> None:
        super().__init__()
        if min(inputs, outputs) < channels:
            raise InputError(
                f"A masked layer of {min(inputs, outputs)} features cannot serve {channels} image channels; "
                f"use at least {channels}, e.g. --channels {32 * channels}."
            )
        self.reach = kernel // 2
        self.in_colour, self.out_colour = colours(inputs, channels), colours(outputs, channels)
        before = self.in_colour[None] < self.out_colour[:, None] if mask == "A" else self.in_colour[None] <= self.out_colour[:, None]
        allowed = torch.ones(outputs, inputs, self.reach + 1, kernel)
        allowed[:, :, -1, self.reach + 1 :] = 0
        allowed[:, :, -1, self.reach] = before
        self.register_buffer("mask", allowed, persistent=False)
        seen = allowed.sum((1, 2, 3)).clamp(min=1)[:, None, None, None]
        self.weight = nn.Parameter(torch.randn(outputs, inputs, self.reach + 1, kernel) * seen.rsqrt() * allowed)
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
        """The part of a context projection `(n, F, 1 or H, 1 or W)` that belongs where this pass stands."""

    @abstractmethod
    def keep(self, site: str, h: Tensor, p: float) -> Tensor:
        """Dropout in training; elsewhere `h`."""

    def relu(self, h: Tensor) -> Tensor:
        return F.relu(h)


class FullPass(Pass):
    """All positions at once: tensors are `(n, F, H, W)`. `noise` is given in training only, and turns dropout on."""

    def __init__(self, noise: Noise | None = None) -> None:
        self.noise = noise

    def conv(self, layer: MaskedConv2d, h: Tensor | None) -> Tensor:
        assert h is not None
        height, r = h.shape[2], layer.reach
        return F.conv2d(h, layer.kernel(), layer.bias, padding=r)[:, :, :height]

    def context(self, c: Tensor | float) -> Tensor | float:
        return c

    def keep(self, site: str, h: Tensor, p: float) -> Tensor:
        return h if self.noise is None or p == 0 else h * self.noise.keep(site, h, p)


class StepPass(Pass):
    """One colour of one pixel at a time: tensors are `(n, features of that colour)`.

    Each layer keeps its input map, padded, channels last; a step writes the new features and multiplies one window.
    A whole image costs the multiply-adds of one full pass.
    """

    def __init__(self, n: int, size: tuple[int, int], channels: int) -> None:
        self.n, self.size, self.channels = n, size, channels
        self.row = self.column = self.colour = 0
        self.maps: dict[MaskedConv2d, Tensor] = {}
        self.taps: dict[tuple[MaskedConv2d, int], tuple[Tensor, Tensor]] = {}

    def at(self, row: int, column: int, colour: int) -> None:
        self.row, self.column, self.colour = row, column, colour

    def _map(self, layer: MaskedConv2d) -> Tensor:
        if layer not in self.maps:
            r, (height, width) = layer.reach, self.size
            self.maps[layer] = layer.weight.new_zeros(self.n, height + r, width + 2 * r, layer.weight.shape[1])
        return self.maps[layer]

    def write(self, layer: MaskedConv2d, h: Tensor) -> None:
        """Store the input features of the current colour, `(n, F)`, at the current pixel."""
        r = layer.reach
        first, last = _range(layer.in_colour, self.colour)
        self._map(layer)[:, self.row + r, self.column + r, first:last] = h

    def read(self, layer: MaskedConv2d) -> Tensor:
        """The layer's output features of the current colour at the current pixel, `(n, F)`."""
        r, i, j = layer.reach, self.row, self.column
        if (layer, self.colour) not in self.taps:
            first, last = _range(layer.out_colour, self.colour)
            kernel = layer.kernel()[first:last].permute(0, 2, 3, 1)  # out, rows, columns, in
            flat = torch.cat([kernel[:, :-1].flatten(1), kernel[:, -1, : r + 1].flatten(1)], 1)
            self.taps[layer, self.colour] = flat.t().contiguous(), layer.bias[first:last]
        weight, bias = self.taps[layer, self.colour]
        stored = self._map(layer)
        window = stored[:, i + r, j : j + r + 1].flatten(1)
        if r:
            window = torch.cat([stored[:, i : i + r, j : j + 2 * r + 1].flatten(1), window], 1)
        return torch.addmm(bias, window, weight)

    def conv(self, layer: MaskedConv2d, h: Tensor | None) -> Tensor:
        if h is not None:
            self.write(layer, h)
        return self.read(layer)

    def context(self, c: Tensor | float) -> Tensor | float:
        if not isinstance(c, Tensor):
            return c
        first, last = _range(colours(c.shape[1], self.channels), self.colour)
        return c[:, first:last, min(self.row, c.shape[2] - 1), min(self.column, c.shape[3] - 1)]

    def keep(self, site: str, h: Tensor, p: float) -> Tensor:
        return h


def _range(colour: Tensor, c: int) -> tuple[int, int]:
    where = (colour == c).nonzero()
    return int(where[0]), int(where[-1]) + 1
