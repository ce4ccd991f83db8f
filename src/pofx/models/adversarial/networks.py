"""The two nets of a GAN, in four designs. A generator maps z `(n, d)` to pixels on [−1, 1]; a critic maps pixels to one number an image.

    mlp         fully connected layers with LeakyReLU, started as by He et al. 2015, so that they can be many: a jump between modes takes steep slopes
    dcgan       strided 5×5 (transposed) convolutions, BatchNorm, ReLU and LeakyReLU: Radford et al. 2016, figure 1
    residual    pre-activation blocks, nearest-neighbour and average resampling, BatchNorm in the generator only: Gulrajani et al. 2017, appendix
    modern      blocks without any normalisation, whose branches start near zero, LeakyReLU, bilinear resampling, a learned basis at
                either end: Huang et al. 2024 (R3GAN), §3, with plain 3×3 convolutions in the place of grouped bottlenecks,
                and one strided 5×5 convolution between full and half size, where most of the time would go

All take any image size: strides drop out on axes that are small, and the way up is resized or cropped to the very size. A view of planes is added at
every size of both nets, one of labels in the generator's layers and, in the critic, as its projection on the last features (Miyato and Koyama 2018).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from pofx.nn import conditioning
from pofx.nn.linear import Linear
from pofx.nn.strided import pyramid, strides
from pofx.space import ImageSpace

Network = Literal["mlp", "dcgan", "residual", "modern"]
Normalisation = Literal["batch", "layer", "spectral", "none"]
PUBLISHED: dict[Network, Normalisation] = {"mlp": "none", "dcgan": "batch", "residual": "none", "modern": "none"}  # in the critic
SLOPE = 0.2  # of LeakyReLU
SMALLEST = 2  # pixels of an axis that are not halved


def _norm(kind: Normalisation, features: int) -> nn.Module:
    return {"batch": nn.BatchNorm2d, "layer": lambda f: nn.GroupNorm(1, f)}.get(kind, lambda _: nn.Identity())(features)


def sizes_of(space: ImageSpace, stages: int) -> list[tuple[int, int]]:
    """Sizes from the image down; at least two, so that there is a convolution."""
    sizes = pyramid(space.height, space.width, stages, smallest=SMALLEST)
    return sizes if len(sizes) > 1 else sizes * 2


def widths_of(channels: int, sizes: int) -> list[int]:
    """Features at so many sizes, from the largest down."""
    return [channels * 2**i for i in range(sizes)]


def resized(h: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Up by `mode`, down by averages: `(n, F, ·, ·)` → `(n, F, *size)`."""
    if tuple(h.shape[2:]) == size:
        return h
    if size[0] >= h.shape[2] and size[1] >= h.shape[3]:
        return F.interpolate(h, size, mode=mode)
    return F.adaptive_avg_pool2d(h, size)


class Critic(nn.Module, ABC):
    """What the critics share: features of an image, a linear output, and the projection of a view's vector on the features."""

    def __init__(self, features: int, context: conditioning.Context, bias: bool) -> None:
        super().__init__()
        self.out = Linear(features, 1, bias=bias)
        self.planes = context.view is not None and len(context.view.feature_shape(context.space)) == 3
        self.project = nn.Identity() if context.view is None or self.planes else Linear(context.width, features, bias=False)

    @abstractmethod
    def body(self, x: Tensor, context: Tensor | None) -> Tensor:
        """`(n, C, H, W)` on [−1, 1] → `(n, features)`; `context` is one of planes."""

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        h = self.body(x, context if self.planes else None)
        out = self.out(h)[:, 0]
        if context is not None and not self.planes:
            out = out + (self.project(context[:, :, 0, 0]) * h).sum(1)
        return out.to(self.out.weight.dtype)  # losses in full precision where the net ran in bf16


# mlp -----------------------------------------------------------------------------------------------------------------


def steep(*layers: nn.Module) -> None:
    """Weights whose LeakyReLU keeps the size of activations and of slopes (He et al. 2015, eq. 15); torch's own shrink both, layer by layer."""
    for layer in layers:
        assert isinstance(layer, nn.Linear)
        nn.init.kaiming_normal_(layer.weight, a=SLOPE)


class MLPGenerator(nn.Module):
    def __init__(self, space: ImageSpace, context: conditioning.Context, *, latents: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.space = space
        self.start = Linear(latents, hidden)
        self.layers = nn.ModuleList(Linear(a, b) for a, b in pairwise([hidden] * layers))
        self.given = nn.ModuleList(conditioning.Dense(context, hidden) for _ in range(layers))
        self.out = Linear(hidden, space.dims)
        steep(self.start, *self.layers)

    def first(self, z: Tensor) -> Tensor:
        return self.start(z)

    def early(self, z: Tensor, context: Tensor | None) -> Tensor:
        return F.leaky_relu(conditioning.added(self.first(z), self.given[0], context), SLOPE)

    def forward(self, z: Tensor, context: Tensor | None) -> Tensor:
        h = self.early(z, context)
        for layer, given in zip(self.layers, list(self.given)[1:], strict=True):
            h = F.leaky_relu(conditioning.added(layer(h), given, context), SLOPE)
        return self.out(h).reshape(-1, *self.space.shape)


class MLPCritic(Critic):
    def __init__(self, space: ImageSpace, context: conditioning.Context, *, bias: bool, hidden: int, layers: int) -> None:
        super().__init__(hidden, context, bias)
        self.layers = nn.ModuleList(Linear(a, b) for a, b in pairwise([space.dims, *[hidden] * layers]))
        steep(*self.layers)
        self.given = nn.ModuleList(conditioning.Dense(context, hidden) if self.planes else nn.Identity() for _ in range(layers))

    def body(self, x: Tensor, context: Tensor | None) -> Tensor:
        h = x.flatten(1)
        for layer, given in zip(self.layers, self.given, strict=True):
            h = F.leaky_relu(conditioning.added(layer(h), given, context), SLOPE)
        return h


# dcgan ---------------------------------------------------------------------------------------------------------------


class DCGANGenerator(nn.Module):
    """Project and reshape, BatchNorm, ReLU; transposed convolutions; tanh."""

    def __init__(self, space: ImageSpace, context: conditioning.Context, *, latents: int, channels: int, stages: int) -> None:
        super().__init__()
        self.sizes = sizes_of(space, stages)[::-1]
        widths = widths_of(channels, len(self.sizes) - 1)[::-1]
        self.start = Linear(latents, widths[0] * self.sizes[0][0] * self.sizes[0][1])
        self.norms = nn.ModuleList(nn.BatchNorm2d(w) for w in widths)
        self.given = nn.ModuleList(context.into(w) for w in widths)
        steps = strides(self.sizes[::-1])[::-1]
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 5, s, padding=2, output_padding=_rest(small, large, s), bias=i == len(widths) - 1)
            for i, (a, b, s, small, large) in enumerate(
                zip(widths, [*widths[1:], space.channels], steps, self.sizes[:-1], self.sizes[1:], strict=True)
            )
        )

    def first(self, z: Tensor) -> Tensor:
        return self.start(z)

    def early(self, z: Tensor, context: Tensor | None) -> Tensor:
        return self._layer(0, self.first(z).reshape(len(z), -1, *self.sizes[0]), context)

    def _layer(self, i: int, h: Tensor, context: Tensor | None) -> Tensor:
        return self.up[i](F.relu(conditioning.added(self.norms[i](h), self.given[i], context)))

    def forward(self, z: Tensor, context: Tensor | None) -> Tensor:
        h = self.early(z, context)
        for i in range(1, len(self.up)):
            h = self._layer(i, h, context)
        return torch.tanh(h)


def _rest(small: tuple[int, int], large: tuple[int, int], stride: tuple[int, int]) -> tuple[int, int]:
    """What a transposed convolution adds at the ends so that its output has the larger size: 0 for 4 → 7, 1 for 7 → 14."""
    return large[0] - (small[0] - 1) * stride[0] - 1, large[1] - (small[1] - 1) * stride[1] - 1


class DCGANCritic(Critic):
    """Strided convolutions with LeakyReLU; normalised, but for the first."""

    def __init__(
        self, space: ImageSpace, context: conditioning.Context, *, bias: bool, channels: int, stages: int, norm: Normalisation
    ) -> None:
        sizes = sizes_of(space, stages)
        widths = widths_of(channels, len(sizes) - 1)
        super().__init__(widths[-1] * sizes[-1][0] * sizes[-1][1], context, bias)
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 5, s, padding=2, bias=i == 0 or norm in ("none", "spectral"))
            for i, (a, b, s) in enumerate(zip([space.channels, *widths], widths, strides(sizes), strict=False))
        )
        self.norms = nn.ModuleList(_norm(norm, w) if i else nn.Identity() for i, w in enumerate(widths))
        self.given = nn.ModuleList(context.into(w) if self.planes else nn.Identity() for w in widths)

    def body(self, x: Tensor, context: Tensor | None) -> Tensor:
        h = x
        for down, norm, given in zip(self.down, self.norms, self.given, strict=True):
            h = F.leaky_relu(conditioning.added(norm(down(h)), given, context), SLOPE)
        return h.flatten(1)


# residual and modern -------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """h + branch(h), 3×3 convolutions; with `norm`, pre-activation as published for WGAN-GP, else as in R3GAN."""

    def __init__(self, a: int, b: int, context: conditioning.Context | None, norm: Normalisation, slope: float, depth: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(a, b, 3, padding=1), nn.Conv2d(b, b, 3, padding=1)
        self.norms = nn.ModuleList([_norm(norm, a), _norm(norm, b)])
        self.short = nn.Identity() if a == b else nn.Conv2d(a, b, 1)
        self.given = nn.Identity() if context is None else context.into(b)
        self.slope = slope
        for conv in (self.first, self.second):
            nn.init.kaiming_normal_(conv.weight, a=slope)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        if norm == "none":  # Fixup (Zhang et al. 2019): a stack of `depth` blocks starts near the identity, but for a gradient everywhere
            self.first.weight.data.mul_(depth**-0.5)
            self.second.weight.data.mul_(0.1)

    def forward(self, h: Tensor, context: Tensor | None, up: tuple[int, int] | None = None, down: tuple[int, int] | None = None) -> Tensor:
        a = F.leaky_relu(self.norms[0](h), self.slope)
        if up is not None:
            a, h = resized(a, up, "nearest"), resized(h, up, "nearest")
        a = conditioning.added(self.first(a), self.given, context)
        a = self.second(F.leaky_relu(self.norms[1](a), self.slope))
        h = self.short(h) + a
        return h if down is None else resized(h, down, "nearest")


class ResidualGenerator(nn.Module):
    """One block at each size; "residual" resamples inside blocks and ends with tanh. "modern" begins at a learned basis, resamples between blocks,
    and goes from half of the full size to all of it by one transposed convolution, ending linearly."""

    def __init__(
        self,
        space: ImageSpace,
        context: conditioning.Context,
        *,
        latents: int,
        channels: int,
        stages: int,
        norm: Normalisation,
        modern: bool,
    ) -> None:
        super().__init__()
        self.modern, self.slope = modern, SLOPE if modern else 0.0
        self.full, widths, self.sizes = _plan(space, stages, channels, modern)
        self.sizes, widths = self.sizes[::-1], widths[::-1]
        self.start = Linear(latents, widths[0] if modern else widths[0] * self.sizes[0][0] * self.sizes[0][1])
        self.basis = nn.Parameter(torch.randn(widths[0], *self.sizes[0])) if modern else None
        self.blocks = nn.ModuleList(Block(a, b, context, norm, self.slope, len(widths)) for a, b in pairwise([widths[0], *widths]))
        self.norm = _norm(norm, widths[-1])
        stride = strides([self.full, self.sizes[-1]])[0]
        self.out: nn.Module = (
            nn.ConvTranspose2d(widths[-1], space.channels, 5, stride, padding=2, output_padding=(stride[0] - 1, stride[1] - 1))
            if modern
            else nn.Conv2d(widths[-1], space.channels, 3, padding=1)
        )

    def first(self, z: Tensor) -> Tensor:
        return self.start(z)

    def early(self, z: Tensor, context: Tensor | None) -> Tensor:
        h = self.first(z)
        return self._layer(
            0, h[:, :, None, None] * self.basis if self.basis is not None else h.reshape(len(z), -1, *self.sizes[0]), context
        )

    def _layer(self, i: int, h: Tensor, context: Tensor | None) -> Tensor:
        block, size = self.blocks[i], self.sizes[i]
        return block(resized(h, size, "bilinear"), context) if self.modern else block(h, context, up=size)

    def forward(self, z: Tensor, context: Tensor | None) -> Tensor:
        h = self.early(z, context)
        for i in range(1, len(self.blocks)):
            h = self._layer(i, h, context)
        h = self.out(F.leaky_relu(self.norm(h), self.slope))
        return h[:, :, : self.full[0], : self.full[1]] if self.modern else torch.tanh(h)


class ResidualCritic(Critic):
    """The generator's mirror image; "modern" ends with a learned weighting of places (a depthwise convolution), "residual" with their mean."""

    def __init__(
        self, space: ImageSpace, context: conditioning.Context, *, bias: bool, channels: int, stages: int, norm: Normalisation, modern: bool
    ) -> None:
        full, widths, sizes = _plan(space, stages, channels, modern)
        super().__init__(widths[-1], context, bias)
        self.sizes, self.slope = sizes, SLOPE if modern else 0.0
        norm = "none" if norm == "spectral" else norm
        self.stem = (
            nn.Conv2d(space.channels, widths[0], 5, strides([full, sizes[0]])[0], padding=2)
            if modern
            else nn.Conv2d(space.channels, widths[0], 3, padding=1)
        )
        self.blocks = nn.ModuleList(
            Block(a, b, context if self.planes else None, norm, self.slope, len(widths)) for a, b in pairwise([widths[0], *widths])
        )
        self.basis = nn.Conv2d(widths[-1], widths[-1], sizes[-1], groups=widths[-1], bias=False) if modern else None

    def body(self, x: Tensor, context: Tensor | None) -> Tensor:
        h = self.stem(x)
        for block, below in zip(self.blocks, [*self.sizes[1:], None], strict=True):
            h = block(h, context, down=below)
        h = F.leaky_relu(h, self.slope)
        return h.mean((2, 3)) if self.basis is None else self.basis(h)[:, :, 0, 0]


def _plan(space: ImageSpace, stages: int, channels: int, modern: bool) -> tuple[tuple[int, int], list[int], list[tuple[int, int]]]:
    """The full size; features and sizes of the blocks, large to small. The smallest images are no deeper than those above: they need no more."""
    sizes = sizes_of(space, stages)
    full, sizes = sizes[0], sizes[1:] if modern else sizes
    widths = widths_of(channels, len(sizes))
    return full, [*widths[:-1], widths[max(len(widths) - 2, 0)]], sizes


def published_start(module: nn.Module) -> None:
    """N(0, 0.02) weights, BatchNorm gains N(1, 0.02) (Radford et al. 2016, §4)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1, 0.02)
        nn.init.zeros_(module.bias)


# The designs ---------------------------------------------------------------------------------------------------------


def generator(network: Network, space: ImageSpace, context: conditioning.Context, **size: Any) -> nn.Module:
    """A generator of a design, with BatchNorm where it was published with it."""
    if network == "mlp":
        return MLPGenerator(space, context, latents=size["latents"], hidden=size["hidden"], layers=size["layers"])
    common = {name: size[name] for name in ("latents", "channels", "stages")}
    if network == "dcgan":
        return DCGANGenerator(space, context, **common).apply(published_start)
    return ResidualGenerator(space, context, norm="none" if network == "modern" else "batch", modern=network == "modern", **common)


def critic(network: Network, space: ImageSpace, context: conditioning.Context, norm: Normalisation, **size: Any) -> Critic:
    """A critic of a design; `bias` of its output is for losses to which a shift of all outputs means something."""
    common = {name: size[name] for name in ("bias", "channels", "stages")}
    if network == "mlp":
        net: Critic = MLPCritic(space, context, bias=size["bias"], hidden=size["hidden"], layers=size["layers"])
    elif network == "dcgan":
        net = DCGANCritic(space, context, norm=norm, **common).apply(published_start)
    else:
        net = ResidualCritic(space, context, norm=norm, modern=network == "modern", **common)
    if norm == "spectral":
        for module in list(net.modules()):
            if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.ndim > 1:
                spectral_norm(module)
    return net
