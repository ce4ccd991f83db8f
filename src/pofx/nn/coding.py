"""Networks between images and codes, for autoencoders and latent-variable models.

    encoder   x on [−1, 1] `(n, C, H, W)` → `(n, outputs)`
    decoder   z `(n, latents)` → `(n, outputs, H, W)`

    "mlp"            `layers` hidden layers of `hidden` units, SiLU; with no layers the map is linear
    "convolutional"  `layers` 3×3 convolutions, each of stride 2 while the image is large enough, and as many up-convolutions (nearest
                     neighbour, then 3×3: no checkerboard, any size; Odena et al. 2016); widths c, 2c, 4c, 4c …
    "residual"       `stages` halvings with a residual block on each scale

All take what the view says (`nn/conditioning.py`) in every layer.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from pofx.errors import InputError
from pofx.nn import conditioning
from pofx.nn.activations import settled, silu
from pofx.nn.linear import Conv2d, Linear
from pofx.nn.residual import ResidualBlock
from pofx.nn.strided import pyramid, strides
from pofx.noise import Noise
from pofx.space import ImageSpace

Network = Literal["mlp", "convolutional", "residual"]


def _drop(h: Tensor, noise: Noise | None, site: str, dropout: float) -> Tensor:
    return h if noise is None or not dropout else h * noise.keep(site, h, dropout)


class MLP(nn.Module):
    """`(n, inputs)` → `(n, outputs)` by hidden layers of equal width."""

    def __init__(self, inputs: int, outputs: int, hidden: int, layers: int, context: conditioning.Context, site: str) -> None:
        super().__init__()
        self.site = site
        widths = [inputs] + [hidden] * layers
        self.layers = nn.ModuleList(Linear(a, b) for a, b in pairwise(widths))
        self.given = nn.ModuleList(conditioning.Dense(context, hidden) for _ in range(layers))
        self.out = Linear(widths[-1], outputs)
        self.out_given = conditioning.Dense(context, outputs) if not layers else nn.Identity()

    def forward(self, h: Tensor, context: Tensor | None, noise: Noise | None, dropout: float) -> Tensor:
        for i, (layer, given) in enumerate(zip(self.layers, self.given, strict=True)):
            h = _drop(silu(conditioning.added(layer(h), given, context)), noise, f"{self.site}{i}", dropout)
        out = self.out(h)
        return out if len(self.layers) else conditioning.added(out, self.out_given, context)


class DenseEncoder(nn.Module):
    """The image as one vector, through an MLP."""

    def __init__(self, space: ImageSpace, outputs: int, hidden: int, layers: int, context: conditioning.Context) -> None:
        super().__init__()
        self.net = MLP(space.dims, outputs, hidden, layers, context, "encoder")

    def forward(self, x: Tensor, context: Tensor | None, noise: Noise | None = None, dropout: float = 0.0) -> Tensor:
        return self.net(x.flatten(1), context, noise, dropout)


class DenseDecoder(nn.Module):
    """z through an MLP to all numbers of all pixels."""

    def __init__(self, space: ImageSpace, latents: int, outputs: int, hidden: int, layers: int, context: conditioning.Context) -> None:
        super().__init__()
        self.shape = (outputs, space.height, space.width)
        self.net = MLP(latents, math.prod(self.shape), hidden, layers, context, "decoder")

    def first(self, z: Tensor) -> Tensor:
        """Affine in z: `(n, h)`."""
        return (self.net.layers[0] if len(self.net.layers) else self.net.out)(z)

    def forward(self, z: Tensor, context: Tensor | None, noise: Noise | None = None, dropout: float = 0.0) -> Tensor:
        return self.net(z, context, noise, dropout).reshape(-1, *self.shape)


def _sizes(space: ImageSpace, layers: int) -> list[tuple[int, int]]:
    """Image sizes before and after each of `layers` convolutions."""
    sizes = pyramid(space.height, space.width, layers)
    return sizes + [sizes[-1]] * (layers + 1 - len(sizes))


def _widths(channels: int, layers: int) -> list[int]:
    return [channels * min(2**i, 4) for i in range(layers)]


class ConvolutionalEncoder(nn.Module):
    def __init__(self, space: ImageSpace, outputs: int, channels: int, layers: int, context: conditioning.Context) -> None:
        super().__init__()
        sizes, widths = _sizes(space, layers), _widths(channels, layers)
        inputs = [space.channels, *widths]
        self.convs = nn.ModuleList(Conv2d(a, b, 3, stride, padding=1) for a, b, stride in zip(inputs, widths, strides(sizes), strict=False))
        self.given = nn.ModuleList(context.into(width) for width in widths)
        self.out = Linear(inputs[-1] * sizes[-1][0] * sizes[-1][1], outputs)

    def forward(self, x: Tensor, context: Tensor | None, noise: Noise | None = None, dropout: float = 0.0) -> Tensor:
        h = x
        for i, (conv, given) in enumerate(zip(self.convs, self.given, strict=True)):
            h = _drop(silu(conditioning.added(conv(h), given, context)), noise, f"encoder{i}", dropout)
        return self.out(h.flatten(1))


class ConvolutionalDecoder(nn.Module):
    def __init__(self, space: ImageSpace, latents: int, outputs: int, channels: int, layers: int, context: conditioning.Context) -> None:
        super().__init__()
        self.sizes = _sizes(space, layers)[::-1]
        widths = [*_widths(channels, layers)[::-1], outputs]
        self.start = Linear(latents, widths[0] * self.sizes[0][0] * self.sizes[0][1])
        self.given = nn.ModuleList(context.into(width) for width in widths[:-1])
        self.convs = nn.ModuleList(Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))

    def first(self, z: Tensor) -> Tensor:
        """Affine in z: `(n, h)`."""
        return self.start(z)

    def forward(self, z: Tensor, context: Tensor | None, noise: Noise | None = None, dropout: float = 0.0) -> Tensor:
        h = self.start(z).reshape(z.shape[0], -1, *self.sizes[0])
        for i, (conv, given) in enumerate(zip(self.convs, self.given, strict=True)):
            h = _drop(silu(conditioning.added(h, given, context)), noise, f"decoder{i}", dropout)
            h = conv(h if self.sizes[i + 1] == self.sizes[i] else F.interpolate(h, size=self.sizes[i + 1], mode="nearest"))
        return h


class ResidualEncoder(nn.Module):
    def __init__(self, space: ImageSpace, outputs: int, channels: int, stages: int, context: conditioning.Context) -> None:
        super().__init__()
        sizes = pyramid(space.height, space.width, stages)
        self.stem = Conv2d(space.channels, channels, 3, padding=1)
        self.stem_given = context.into(channels)
        self.blocks = nn.ModuleList(ResidualBlock(channels, context) for _ in sizes)
        self.down = nn.ModuleList(Conv2d(channels, channels, 3, stride, padding=1) for stride in strides(sizes))
        height, width = sizes[-1]
        self.out = Linear(channels * height * width, outputs)

    def forward(self, x: Tensor, context: Tensor | None, noise: Noise | None = None, dropout: float = 0.0) -> Tensor:
        h = conditioning.added(self.stem(x), self.stem_given, context)
        for i, block in enumerate(self.blocks):
            h = block(h, context, noise, f"encoder{i}", dropout)
            if i < len(self.down):
                h = self.down[i](settled(h))
        return self.out(silu(h).flatten(1))


class ResidualDecoder(nn.Module):
    def __init__(self, space: ImageSpace, latents: int, outputs: int, channels: int, stages: int, context: conditioning.Context) -> None:
        super().__init__()
        self.sizes = pyramid(space.height, space.width, stages)[::-1]
        height, width = self.sizes[0]
        self.start = Linear(latents, channels * height * width)
        self.blocks = nn.ModuleList(ResidualBlock(channels, context) for _ in self.sizes)
        self.up = nn.ModuleList(Conv2d(channels, channels, 3, padding=1) for _ in self.sizes[1:])
        self.out = Conv2d(channels, outputs, 3, padding=1)

    def first(self, z: Tensor) -> Tensor:
        """Affine in z: `(n, h)`."""
        return self.start(z)

    def forward(self, z: Tensor, context: Tensor | None, noise: Noise | None = None, dropout: float = 0.0) -> Tensor:
        h = self.start(z).reshape(z.shape[0], -1, *self.sizes[0])
        for i, block in enumerate(self.blocks):
            h = block(h, context, noise, f"decoder{i}", dropout)
            if i < len(self.up):
                h = self.up[i](F.interpolate(settled(h), size=self.sizes[i + 1], mode="nearest"))
        return self.out(silu(h))


def check_network(name: str, network: str, *, latents: int, hidden: int, layers: int, channels: int, stages: int, dims: int) -> None:
    """Raise InputError where a model called `name` cannot be made of these numbers."""
    if network not in ("mlp", "convolutional", "residual"):
        raise InputError(f"{name}: network={network!r} is unknown; use mlp, convolutional or residual.")
    if not 1 <= latents <= dims:
        raise InputError(
            f"{name}: latents={latents} must lie in 1 … {dims}, the numbers of an image: a larger code need not compress anything. "
            f"Try --latents {max(1, min(32, dims // 2))}."
        )
    if hidden < 1 or layers < 0 or channels < 1 or stages < 0 or (network == "convolutional" and layers < 1):
        raise InputError(
            f"{name}: hidden={hidden} and channels={channels} must be at least 1, layers={layers} and stages={stages} at least 0 "
            "(layers at least 1 where they are convolutions), e.g. --layers 2."
        )


def encoder(
    network: Network,
    space: ImageSpace,
    context: conditioning.Context,
    *,
    outputs: int,
    channels: int = 64,
    stages: int = 3,
    hidden: int = 200,
    layers: int = 2,
) -> nn.Module:
    """A network x on [−1, 1] `(n, C, H, W)` → `(n, outputs)`, called as `net(x, context, noise=None, dropout=0.0)`."""
    if network == "mlp":
        return DenseEncoder(space, outputs, hidden, layers, context)
    if network == "convolutional":
        return ConvolutionalEncoder(space, outputs, channels, layers, context)
    return ResidualEncoder(space, outputs, channels, stages, context)


def decoder(
    network: Network,
    space: ImageSpace,
    context: conditioning.Context,
    *,
    latents: int,
    outputs: int,
    channels: int = 64,
    stages: int = 3,
    hidden: int = 200,
    layers: int = 2,
) -> DenseDecoder | ConvolutionalDecoder | ResidualDecoder:
    """A network z `(n, latents)` → `(n, outputs, H, W)`, called as `net(z, context, noise=None, dropout=0.0)`."""
    if network == "mlp":
        return DenseDecoder(space, latents, outputs, hidden, layers, context)
    if network == "convolutional":
        return ConvolutionalDecoder(space, latents, outputs, channels, layers, context)
    return ResidualDecoder(space, latents, outputs, channels, stages, context)
