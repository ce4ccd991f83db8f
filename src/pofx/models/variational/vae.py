"""Variational autoencoder (Kingma and Welling 2014; Rezende, Mohamed and Wierstra 2014).

    p(x) = ∫ p(x|z) N(z; 0, I) dz,   q(z|x) = N(z; μ(x), diag σ²(x)),   z = μ + σ ⊙ ε
    log p(x) ≥ L(x) = E_q[log p(x|z)] − KL(q(z|x) ‖ N(0, I)),   KL = ½ Σ_j (μ_j² + σ_j² − 1 − log σ_j²)

p(x|z) is a distribution over the integers themselves (`likelihoods.py`), so L bounds the probability mass of the image. The
importance-weighted estimate log 1/k Σ_i p(x, z_i)/q(z_i|x), z_i ~ q(z|x), lies between L and log p(x) in expectation (Burda et al. 2016, eq. 8).

Differences from the papers: convolutional nets with residual blocks; KL is warmed up over the first part of training (Bowman et al.
2016), but every number that leaves the model is at β = 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pofx.errors import InputError
from pofx.likelihoods import Likelihood, PixelDistribution, normalised
from pofx.model import Batch, Context, Decoder, Encoder, Features, LowerBound, Objective, OptimizerSpec, Progress, Sampler
from pofx.nn import conditioning
from pofx.nn.activations import silu
from pofx.nn.linear import Linear
from pofx.nn.residual import ResidualBlock
from pofx.nn.strided import pyramid, strides
from pofx.noise import Noise, hash_images
from pofx.space import ImageSpace
from pofx.views import View

LOG_2PI = math.log(2 * math.pi)


class EncoderNet(nn.Module):
    """x on [−1, 1] `(n, C, H, W)` → mean and log-variance of q(z|x), each `(n, latents)`."""

    def __init__(self, space: ImageSpace, sizes: list[tuple[int, int]], channels: int, latents: int, context: conditioning.Context) -> None:
        super().__init__()
        self.stem = nn.Conv2d(space.channels, channels, 3, padding=1)
        self.stem_given = context.into(channels)
        self.blocks = nn.ModuleList(ResidualBlock(channels, context) for _ in sizes)
        self.down = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride, padding=1) for stride in strides(sizes))
        height, width = sizes[-1]
        self.out = Linear(channels * height * width, 2 * latents)

    def forward(self, x: Tensor, context: Tensor | None, noise: Noise | None, dropout: float) -> tuple[Tensor, Tensor]:
        h = self.stem(x) + conditioning.project(self.stem_given, context, (x.shape[2], x.shape[3]))
        for i, block in enumerate(self.blocks):
            h = block(h, context, noise, f"encoder{i}", dropout)
            if i < len(self.down):
                h = self.down[i](h)
        mean, log_variance = self.out(silu(h).flatten(1)).chunk(2, 1)
        return mean, log_variance


class DecoderNet(nn.Module):
    """z `(n, latents)` → parameters of p(x|z) `(n, outputs, H, W)`."""

    def __init__(self, sizes: list[tuple[int, int]], channels: int, latents: int, outputs: int, context: conditioning.Context) -> None:
        super().__init__()
        self.sizes = sizes[::-1]
        height, width = self.sizes[0]
        self.start = Linear(latents, channels * height * width)
        self.blocks = nn.ModuleList(ResidualBlock(channels, context) for _ in sizes)
        self.up = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in sizes[1:])
        self.out = nn.Conv2d(channels, outputs, 3, padding=1)

    def forward(self, z: Tensor, context: Tensor | None, noise: Noise | None, dropout: float) -> Tensor:
        h = self.start(z).reshape(len(z), -1, *self.sizes[0])
        for i, block in enumerate(self.blocks):
            h = block(h, context, noise, f"decoder{i}", dropout)
            if i < len(self.up):
                h = self.up[i](F.interpolate(h, size=self.sizes[i + 1], mode="nearest"))
        return self.out(silu(h))


class VAE(LowerBound, Sampler, Encoder, Decoder, Features):
    """Convolutional VAE with a diagonal Gaussian posterior, a unit Gaussian prior and a likelihood on integers.

    Args:
        space: what images may be.
        given: a view for p(x | given).
        latents: dimensions of z.
        channels: width of the nets.
        stages: halvings of the image; they drop out below size 2.
        likelihood: "auto" is Bernoulli for 2 levels, otherwise the discretized logistic with a learned scale per pixel.
        components: of a logistic mixture.
        dropout: share of block activations dropped in training.
        kl_warmup: share of training over which the weight of the KL term rises from 0 to 1; reported bounds always have 1.
        lr: learning rate of Adam.

    Raises:
        InputError: no latents, or a likelihood that does not fit the levels.

    >>> model = VAE.small(ImageSpace(1, 4, 4, levels=2))
    >>> model.elbo(model.sample(3)).shape
    torch.Size([3])
    """

    family: ClassVar = ("explicit", "approximate", "variational")
    paper: ClassVar = "Kingma and Welling 2014, Auto-Encoding Variational Bayes, arXiv:1312.6114"
    draw_batch: ClassVar = 64

    def __init__(
        self,
        space: ImageSpace,
        given: View | None = None,
        *,
        latents: int = 32,
        channels: int = 64,
        stages: int = 3,
        likelihood: Literal["auto", "bernoulli", "categorical", "logistic", "logistic-mixture"] = "auto",
        components: int = 5,
        dropout: float = 0.0,
        kl_warmup: float = 0.1,
        lr: float = 2e-3,
    ) -> None:
        super().__init__(space, given)
        if latents < 1 or channels < 1 or stages < 0:
            raise InputError(
                f"VAE: latents={latents} and channels={channels} must be at least 1, stages={stages} at least 0, e.g. --latents 32."
            )
        if not 0 <= dropout < 1 or not 0 <= kl_warmup <= 1:
            raise InputError(f"VAE: dropout={dropout} must be in [0, 1) and kl_warmup={kl_warmup} in [0, 1].")
        self.latents, self.channels, self.stages, self.likelihood, self.components = latents, channels, stages, likelihood, components
        self.dropout, self.kl_warmup, self.lr = dropout, kl_warmup, lr
        self.latent_dims = latents
        self.head = Likelihood(likelihood, space, default="logistic", components=components)
        sizes = pyramid(space.height, space.width, stages)
        self.context = conditioning.Context(self, channels)
        self.encoder = EncoderNet(space, sizes, channels, latents, self.context)
        self.decoder = DecoderNet(sizes, channels, latents, self.head.size, self.context)

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        return cls(space, given, latents=2, channels=8, stages=1)

    # Parts of the bound ----------------------------------------------------------------------------------------------

    def posterior(self, x: Tensor, given: Tensor | None, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x, given), each `(n, latents)`."""
        mean, log_variance = self.encoder(normalised(x, self.space.levels, self.dtype), self.context(given), noise, self.dropout)
        return mean.to(self.dtype), log_variance.to(self.dtype)  # the KL in full precision where the net ran in bf16

    def _decode(self, z: Tensor, given: Tensor | None, noise: Noise | None = None) -> PixelDistribution:
        return self.head(self.decoder(z, self.context(given), noise, self.dropout))

    def _log_likelihood(self, x: Tensor, z: Tensor, given: Tensor | None, noise: Noise | None = None) -> Tensor:
        """log p(x | z, given) over unknown sub-pixels, `(n,)` nats."""
        return self.unknown_sum(self._decode(z, given, noise).log_prob(x))

    @staticmethod
    def kl(mean: Tensor, log_variance: Tensor) -> Tensor:
        """KL(N(mean, diag e^log_variance) ‖ N(0, I)) per dimension, `(n, latents)` nats (Kingma and Welling, appendix B)."""
        return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)

    def _epsilon(self, noise: Noise, samples: int) -> Tensor:
        return noise.normal("z", samples, self.latents).to(self.device, self.dtype)

    # LowerBound ------------------------------------------------------------------------------------------------------

    def elbo(self, x: Tensor, given: Any = None, *, samples: int = 1, seed: int = 0) -> Tensor:
        x, value, mean, log_variance, epsilon = self._prepare(x, given, samples, seed)
        total = torch.zeros(len(x), dtype=mean.dtype, device=mean.device)
        for i in range(samples):
            z = mean + torch.exp(0.5 * log_variance) * epsilon[:, i]
            total = total + self._log_likelihood(x, z, value)
        return total / samples - self.kl(mean, log_variance).sum(1)

    def log_prob_estimate(self, x: Tensor, given: Any = None, *, samples: int, seed: int = 0) -> Tensor:
        x, value, mean, log_variance, epsilon = self._prepare(x, given, samples, seed)
        log_weights = []
        for i in range(samples):
            e = epsilon[:, i]
            z = mean + torch.exp(0.5 * log_variance) * e
            log_prior = -0.5 * (z**2 + LOG_2PI).sum(1)
            log_q = -0.5 * (e**2 + LOG_2PI + log_variance).sum(1)
            log_weights.append(self._log_likelihood(x, z, value) + log_prior - log_q)
        return torch.logsumexp(torch.stack(log_weights), 0) - math.log(samples)

    def _prepare(self, x: Tensor, given: Any, samples: int, seed: int) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]:
        if samples < 1:
            raise InputError(f"samples={samples}: at least one draw of z is needed, e.g. samples=1.")
        x, value = self.check_pair(x, given)
        mean, log_variance = self.posterior(x, value)
        return x, value, mean, log_variance, self._epsilon(Noise(seed, hash_images(x)), samples)

    # Training --------------------------------------------------------------------------------------------------------

    def objectives(self) -> Sequence[Objective]:
        return [Objective("elbo", self, self._loss, optimizer=OptimizerSpec("Adam", lr=self.lr))]

    def _loss(self, batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        mean, log_variance = self.posterior(batch.x, batch.given, context.noise)
        z = mean + torch.exp(0.5 * log_variance) * self._epsilon(context.noise, 1)[:, 0]
        reconstruction = -self._log_likelihood(batch.x, z, batch.given, context.noise).mean()
        kl = self.kl(mean, log_variance).sum(1).mean()
        beta = min(1.0, context.progress / self.kl_warmup) if self.kl_warmup else 1.0
        cost = (reconstruction + kl).detach()
        logs = {"bits_per_dim": cost / (self.dims * math.log(2)), "kl": kl.detach(), "reconstruction": reconstruction.detach()}
        return (reconstruction + beta * kl) / self.dims, logs

    # Sampler, Encoder, Decoder, Features -------------------------------------------------------------------------------

    def draw(self, given: Tensor | None, noise: Noise, progress: Progress | None) -> Tensor:
        z = self._epsilon(noise, 1)[:, 0]
        u = noise.uniform("x", *self.space.shape).to(self.device)
        x = self._decode(z, given).sample(u).to(torch.uint8)
        if progress is not None:
            progress(1, 1)
        return self.copy_known(x, given)

    def encode(self, x: Tensor, given: Any = None, *, sample: bool = False, seed: int = 0) -> Tensor:
        x, _, mean, log_variance, epsilon = self._prepare(x, given, 1, seed)
        return mean + torch.exp(0.5 * log_variance) * epsilon[:, 0] if sample else mean

    def decode(self, z: Tensor, given: Any = None) -> PixelDistribution:
        return self._decode(z.to(self.device, self.dtype), self.check_given(given, len(z)))

    @property
    def feature_layers(self) -> Sequence[str]:
        return ["mean"]

    def features(self, x: Tensor, layer: str | None = None) -> Tensor:
        """The posterior mean, `(n, latents)`."""
        self.layer_index(layer)
        if self.given is not None:
            raise InputError("A conditional VAE encodes x with its given; use encode(x, given).")
        return self.encode(x)
