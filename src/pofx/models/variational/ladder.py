"""Ladder VAE (Sønderby, Raiko, Maaløe, Sønderby and Winther 2016), with the bidirectional inference of Kingma et al. 2016 and NVAE.

    p(z) = p(z_1) ∏_l p(z_l | z_<l),   q(z|x) = q(z_1|x) ∏_l q(z_l | z_<l, x)           z_1 is the top: coarsest, most abstract
    p(z_l | z_<l) = N(μ_l, σ_l²),      q(z_l | z_<l, x) = N(μ_l + σ_l m_l, (σ_l s_l)²)   μ_l, σ_l of the top-down state; m_l, s_l of that and of x
    KL_l = ½ Σ (m_l² + s_l² − 1 − log s_l²)                                             Vahdat and Kautz 2020, eq. 2

One top-down net serves both distributions: q only corrects what the layers above foresee. A bottom-up net reads x once, on every scale.

A code is the standardised (z_l − μ_l)/σ_l of all layers side by side, so that its prior is N(0, I) as in any other VAE: whatever moves in
latent space (interpolation, traversal, directions) works here unchanged.

Differences from the papers: no batch normalisation; layers are spread over the scales of a convolutional net, from coarse to fine, and
are maps (a few numbers at every place) unless maps=False, which is the vectors of Sønderby et al.; free bits per latent dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pofx.errors import InputError
from pofx.likelihoods import normalised
from pofx.model import Gaussian
from pofx.nn import conditioning
from pofx.nn.activations import bounded, exp, settled, silu
from pofx.nn.linear import Conv2d, Linear
from pofx.nn.residual import ResidualBlock
from pofx.nn.strided import pyramid, strides
from pofx.nn.variational import Draw, Explanation, LikelihoodName, Scale, Variational
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.views import View


class Flat(nn.Module):
    """A linear map of a whole map of features, `(n, features, *size)`, to a vector, or back (`up`)."""

    def __init__(self, features: int, size: tuple[int, int], numbers: int, *, up: bool = False) -> None:
        super().__init__()
        self.shape, self.up = (features, *size), up
        inside = math.prod(self.shape)
        self.linear = Linear(numbers, inside) if up else Linear(inside, numbers)

    def forward(self, h: Tensor) -> Tensor:
        out = self.linear(h.flatten(1))
        return out.reshape(-1, *self.shape) if self.up else out


def _bounded(log_scale: Tensor) -> Tensor:
    """Logarithms of scales, kept smoothly within ±5: layers feed each other, and an exponential of an exponential knows no measure (NVAE)."""
    return bounded(log_scale, 5)


class StochasticLayer(nn.Module):
    """p(z_l | z_<l), q(z_l | z_<l, x), and what z_l adds to the top-down state."""

    def __init__(self, size: tuple[int, int], channels: int, latents: int, maps: bool, context: conditioning.Context) -> None:
        super().__init__()
        self.shape = (latents, *size) if maps else (latents,)
        self.dims = math.prod(self.shape)
        self.meet = Conv2d(2 * channels, channels, 3, padding=1)
        if maps:
            self.prior: nn.Module = Conv2d(channels, 2 * latents, 1)
            self.posterior: nn.Module = Conv2d(channels, 2 * latents, 1)
            self.inject: nn.Module = Conv2d(latents, channels, 1)
        else:
            self.prior, self.posterior = (Flat(channels, size, 2 * latents) for _ in range(2))
            self.inject = Flat(channels, size, latents, up=True)
        self.block = ResidualBlock(channels, context)

    def correct(self, h: Tensor, d: Tensor) -> Gaussian:
        """q of the code: m_l and log s_l², `(n, dims)`, from the top-down state and what x says on this scale."""
        mean, log_variance = self.posterior(silu(self.meet(silu(torch.cat([h, d], 1))))).chunk(2, 1)
        return Gaussian(mean.flatten(1), _bounded(log_variance.flatten(1)))

    def forward(self, h: Tensor, code: Tensor, context: Tensor | None, noise: Noise | None, site: str, dropout: float) -> Tensor:
        """The state below, given the code `(n, dims)` of this layer."""
        mean, log_sd = self.prior(silu(h)).chunk(2, 1)
        z = settled(mean + exp(_bounded(log_sd)) * code.reshape(-1, *self.shape))
        return self.block(h + self.inject(z), context, noise, site, dropout)


class LadderVAE(Variational):
    """A VAE of several stochastic layers, each given those above it.

    Args:
        space: what images may be.
        given: a view for p(x | given).
        layers: stochastic layers, spread over the scales; the paper has 5.
        latents: of each layer: numbers at every place, or in all where maps is off.
        maps: whether latents have places.
        channels: width of the nets.
        stages: halvings of the image, each a scale with layers; they drop out below size 2.
        likelihood, components, scale, dropout, beta, free_bits, kl_warmup, importance_samples, lr: as of the VAE.

    Raises:
        InputError: no layers, no latents, or more latents than the image has numbers in every layer; numbers out of range.

    >>> model = LadderVAE(ImageSpace(1, 8, 8, levels=2), layers=3, latents=1, channels=8)
    >>> model.bound(model.sample(2)).kl.shape
    torch.Size([2, 24])
    """

    family: ClassVar = ("explicit", "approximate", "variational")
    paper: ClassVar = "Sønderby et al. 2016, Ladder Variational Autoencoders, arXiv:1602.02282"

    def __init__(
        self,
        space: ImageSpace,
        given: View | None = None,
        *,
        layers: int = 5,
        latents: int = 4,
        maps: bool = True,
        channels: int = 32,
        stages: int = 3,
        likelihood: LikelihoodName = "auto",
        components: int = 5,
        scale: Scale = "pixel",
        dropout: float = 0.0,
        beta: float = 1.0,
        free_bits: float = 0.0,
        kl_warmup: float = 0.1,
        importance_samples: int = 1,
        lr: float = 3e-3,
    ) -> None:
        if layers < 1 or channels < 1 or stages < 0:
            raise InputError(
                f"LadderVAE: layers={layers} and channels={channels} must be at least 1, stages={stages} at least 0, e.g. --layers 5."
            )
        if not 1 <= latents <= space.dims:
            raise InputError(f"LadderVAE: latents={latents} must lie in 1 … {space.dims}, the numbers of an image, e.g. --latents 4.")
        super().__init__(
            space,
            given,
            context=channels,
            likelihood=likelihood,
            components=components,
            scale=scale,
            dropout=dropout,
            beta=beta,
            free_bits=free_bits,
            kl_warmup=kl_warmup,
            importance_samples=importance_samples,
            lr=lr,
        )
        self.layers, self.latents, self.maps, self.channels, self.stages = layers, latents, maps, channels, stages
        sizes = pyramid(space.height, space.width, stages)
        self.sizes = sizes if len(sizes) == 1 else sizes[1:]  # scales that have layers, fine to coarse
        inputs = [space.channels] + [channels] * (len(self.sizes) - 1)
        steps = [(1, 1)] if len(sizes) == 1 else strides(sizes)
        self.down = nn.ModuleList(Conv2d(a, channels, 3, s, padding=1) for a, s in zip(inputs, steps, strict=True))
        self.reading = nn.ModuleList(ResidualBlock(channels, self.context) for _ in self.sizes)
        self.top = nn.Parameter(0.1 * torch.randn(1, channels, *self.sizes[-1]))
        # Layer l stands on scale `places[l]`: as many on each, the rest on the coarsest ones.
        self.places = [len(self.sizes) - 1 - i * len(self.sizes) // layers for i in range(layers)]
        self.stochastic = nn.ModuleList(StochasticLayer(self.sizes[p], channels, latents, maps, self.context) for p in self.places)
        self.up = nn.ModuleList(Conv2d(channels, channels, 3, padding=1) for _ in self.sizes)
        self.out = Conv2d(channels, self.head.size, 3, padding=1)
        self.layer_dims = [layer.dims for layer in self._layers()]
        self.latent_dims = sum(self.layer_dims)

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        return cls(space, given, layers=2, latents=1, maps=False, channels=6, stages=1)

    def _layers(self) -> list[StochasticLayer]:
        return [layer for layer in self.stochastic if isinstance(layer, StochasticLayer)]

    def read(self, x: Tensor, context: Tensor | None, noise: Noise | None) -> tuple[Tensor, ...]:
        h, scales = normalised(x, self.space.levels, self.dtype), []
        for i, (down, block) in enumerate(zip(self.down, self.reading, strict=True)):
            h = block(down(h if i == 0 else silu(h)), context, noise, f"encoder{i}", self.dropout)
            scales.append(h)
        return tuple(scales)

    def _descend(self, n: int, context: Tensor | None, noise: Noise | None, code: Callable[[int, Tensor], Tensor]) -> Tensor:
        """The top-down pass: `code(l, h)` says the code of layer l, `(n, dims)`, given the state. The state below the last layer."""
        h, at = self.top.expand(n, -1, -1, -1), len(self.sizes) - 1
        for i, (place, layer) in enumerate(zip(self.places, self._layers(), strict=True)):
            while at > place:
                at -= 1
                h = self._larger(h, at + 1, self.sizes[at])
            h = layer(h, code(i, h), context, noise, f"decoder{i}", self.dropout)
        return h

    def _pixels_of(self, h: Tensor) -> Tensor:
        """From there to the parameters of p(x|z)."""
        for below in range(self.places[-1], -1, -1):
            h = self._larger(h, below, self.sizes[below - 1] if below else (self.space.height, self.space.width))
        return self.out(silu(h))

    def _larger(self, h: Tensor, scale: int, size: tuple[int, int]) -> Tensor:
        return self.up[scale](silu(h) if h.shape[2:] == size else F.interpolate(silu(h), size=size, mode="nearest"))

    def infer(self, read: tuple[Tensor, ...], draw: Draw, context: Tensor | None, noise: Noise | None) -> Explanation:
        layers = self._layers()
        found: list[Gaussian] = []
        codes: list[Tensor] = []

        def code(i: int, h: Tensor) -> Tensor:
            q = layers[i].correct(h, read[self.places[i]])
            found.append(Gaussian(q.mean.to(self.dtype), q.log_variance.to(self.dtype)))
            codes.append(draw(found[-1]))
            return codes[-1]

        h = self._descend(read[0].shape[0], context, noise, code)
        q = Gaussian(torch.cat([q.mean for q in found], 1), torch.cat([q.log_variance for q in found], 1))
        return Explanation(q, torch.cat(codes, 1), lambda: self._pixels_of(h))

    def generate(self, z: Tensor, context: Tensor | None) -> Tensor:
        codes = z.split(self.layer_dims, 1)
        return self._pixels_of(self._descend(z.shape[0], context, None, lambda i, _: codes[i]))
