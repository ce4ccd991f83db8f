"""Generative adversarial networks (Goodfellow et al. 2014) with the nets of DCGAN (Radford et al. 2016).

    critic:     max_D  E_p[log D(x)] + E_z[log(1 − D(G(z)))]
    generator:  max_G  E_z[log D(G(z))]                        (non-saturating)

with D = σ(logit), so that log D = −softplus(−logit) and log(1 − D) = −softplus(logit): stable at any logit.
The density is implicit: x = round(G(z)), z ~ N(0, I). There is no log p(x), and `log_prob` does not exist.

Differences from the papers: kernels are 4×4 where an axis is halved and 3×3 where it is not (5×5 in DCGAN), with a 3×3 layer of stride 1 at
full size in both nets; strides drop out on small images and odd sizes are cropped; z is Gaussian; batches of 64 by default (128); the weights are
averaged; a view is added after BatchNorm, and its known pixels are pasted into what the critic sees; the critic sees pixels with uniform dequantization
noise of one level, so that it cannot tell reals by their being integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pofx.errors import InputError
from pofx.model import Batch, Context, Critic, Decoder, Features, Objective, OptimizerSpec, Progress, Sampler, evaluating
from pofx.nn import conditioning
from pofx.nn.linear import Linear
from pofx.nn.strided import pyramid, strides
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.views import View


class Generated:
    """A point distribution: what a generator decodes z to. `.mean` `(n, C, H, W)` is a float in 0 … levels−1."""

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean


def _dcgan_init(module: nn.Module) -> None:
    """N(0, 0.02) weights, BatchNorm gains N(1, 0.02) (Radford et al. 2016, §4)."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.normal_(module.weight, 0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1, 0.02)
        nn.init.zeros_(module.bias)


def _kernel(stride: tuple[int, int]) -> tuple[int, int]:
    return 4 if stride[0] == 2 else 3, 4 if stride[1] == 2 else 3


class GeneratorNet(nn.Module):
    """z `(n, latents)` → [−1, 1] `(n, C, H, W)`: project, then transposed convolutions with BatchNorm and ReLU, tanh."""

    def __init__(self, space: ImageSpace, sizes: list[tuple[int, int]], channels: int, latents: int, context: conditioning.Context) -> None:
        super().__init__()
        up = sizes[::-1]
        widths = [channels * 2**i for i in range(len(sizes))][::-1]
        self.sizes = up
        self.start = Linear(latents, widths[0] * up[0][0] * up[0][1])
        self.norms = nn.ModuleList(nn.BatchNorm2d(w) for w in widths)
        self.given = nn.ModuleList(context.into(w) for w in widths)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(a, b, _kernel(s), s, padding=1, bias=False)
            for a, b, s in zip(widths, widths[1:], strides(sizes)[::-1], strict=False)
        )
        self.out = nn.Conv2d(widths[-1], space.channels, 3, padding=1)

    def forward(self, z: Tensor, context: Tensor | None) -> Tensor:
        h = self.start(z).reshape(len(z), -1, *self.sizes[0])
        for i, size in enumerate(self.sizes):
            if i:
                h = self.up[i - 1](h)[:, :, : size[0], : size[1]]
            h = F.relu(self.norms[i](h) + conditioning.project(self.given[i], context, size))
        return torch.tanh(self.out(h))


class CriticNet(nn.Module):
    """Pixels on [−1, 1] `(n, C, H, W)` → logit `(n,)`: strided convolutions with BatchNorm (not on the first) and LeakyReLU."""

    def __init__(self, space: ImageSpace, sizes: list[tuple[int, int]], channels: int, context: conditioning.Context) -> None:
        super().__init__()
        widths = [channels * 2**i for i in range(len(sizes))]
        self.stem = nn.Conv2d(space.channels, widths[0], 3, padding=1)
        self.stem_given = context.into(widths[0])
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, _kernel(s), s, padding=1, bias=False) for a, b, s in zip(widths, widths[1:], strides(sizes), strict=False)
        )
        self.given = nn.ModuleList(context.into(w) for w in widths[1:])
        self.norms = nn.ModuleList(nn.BatchNorm2d(w) for w in widths[1:])
        self.sizes = sizes
        self.out = Linear(widths[-1] * sizes[-1][0] * sizes[-1][1], 1)

    def body(self, x: Tensor, context: Tensor | None) -> Tensor:
        h = F.leaky_relu(self.stem(x) + conditioning.project(self.stem_given, context, self.sizes[0]), 0.2)
        for down, given, norm, size in zip(self.down, self.given, self.norms, self.sizes[1:], strict=True):
            h = down(F.pad(h, (0, h.shape[3] % 2, 0, h.shape[2] % 2)))[:, :, : size[0], : size[1]]
            h = F.leaky_relu(norm(h) + conditioning.project(given, context, size), 0.2)
        return h

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.out(self.body(x, context).flatten(1))[:, 0].to(
            self.out.weight.dtype
        )  # losses in full precision where the net ran in bf16


class Player(nn.Module):
    """A net and its own embedding of the view: what one objective moves."""

    def __init__(self, net: Any, context: conditioning.Context) -> None:
        super().__init__()
        self.net, self.context = net, context

    def forward(self, x: Tensor, given: Tensor | None) -> Tensor:
        return self.net(x, self.context(given))


class GAN(Sampler, Decoder, Critic, Features):
    """DCGAN with the non-saturating loss; the averaged generator is what is saved and sampled.

    Args:
        space: what images may be.
        given: a view for x ~ p(x | given).
        latents: dimensions of z.
        channels: width of the nets at full size; doubled at each halving.
        stages: halvings of the image; they drop out below size 4.
        lr: learning rate of Adam (β1 = 0.5) for both players.

    Raises:
        InputError: sizes below 1. Asking it for a likelihood is a CapabilityError.

    >>> GAN.small(ImageSpace(1, 5, 5)).sample(2).shape
    torch.Size([2, 1, 5, 5])
    """

    family: ClassVar = ("implicit", "adversarial")
    paper: ClassVar = "Goodfellow et al. 2014, arXiv:1406.2661; Radford et al. 2016, arXiv:1511.06434"
    draw_batch: ClassVar = 64

    def __init__(
        self,
        space: ImageSpace,
        given: View | None = None,
        *,
        latents: int = 64,
        channels: int = 32,
        stages: int = 3,
        lr: float = 2e-4,
    ) -> None:
        super().__init__(space, given)
        if latents < 1 or channels < 1 or stages < 0:
            raise InputError(
                f"GAN: latents={latents} and channels={channels} must be at least 1, stages={stages} at least 0, e.g. --latents 64."
            )
        self.latents, self.channels, self.stages, self.lr = latents, channels, stages, lr
        self.latent_dims = latents
        sizes = pyramid(space.height, space.width, stages, smallest=4)
        contexts = [conditioning.Context(self, channels) for _ in range(2)]
        self.generator = Player(GeneratorNet(space, sizes, channels, latents, contexts[0]), contexts[0])
        self.critic = Player(CriticNet(space, sizes, channels, contexts[1]), contexts[1])
        self.generator.net.apply(_dcgan_init)
        self.critic.net.apply(_dcgan_init)

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        return cls(space, given, latents=4, channels=8, stages=1)

    # The game --------------------------------------------------------------------------------------------------------

    def objectives(self) -> Sequence[Objective]:
        adam = OptimizerSpec("Adam", lr=self.lr, betas=(0.5, 0.999), schedule="constant", warmup=0.0)
        return [
            Objective("critic", self.critic, self._critic_loss, optimizer=adam, clip=None),
            Objective("generator", self.generator, self._generator_loss, optimizer=adam, clip=None),
        ]

    def _fake(self, batch: Batch, noise: Noise, site: str) -> Tensor:
        z = noise.normal(site, self.latents).to(self.device, self.dtype)
        return self._paste(self.generator(z, batch.given), batch.given)

    def _paste(self, x: Tensor, given: Tensor | None) -> Tensor:
        """Known sub-pixels are copied into a generated image on [−1, 1]."""
        known = self.known()
        if known is None or self.given is None or given is None:
            return x
        return torch.where(known, self._scale(self.given.fill(given, self.space).to(x.dtype)), x)

    def _scale(self, x: Tensor) -> Tensor:
        return x * (2 / (self.space.levels - 1)) - 1

    def _real(self, batch: Batch, noise: Noise) -> Tensor:
        u = noise.uniform("dequantize", *self.space.shape).to(self.device, self.dtype) - 0.5
        return self._scale((batch.x.to(self.dtype) + u).clamp(0, self.space.levels - 1))

    def _critic_loss(self, batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            fake = self._fake(batch, context.noise, "z/critic")
        real, fake = self.critic(self._real(batch, context.noise), batch.given), self.critic(fake, batch.given)
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        accuracy = 0.5 * ((real > 0).double().mean() + (fake < 0).double().mean())
        return loss, {"critic_accuracy": accuracy, "value": -loss.detach()}

    def _generator_loss(self, batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        loss = F.softplus(-self.critic(self._fake(batch, context.noise, "z/generator"), batch.given)).mean()
        return loss, {}

    # Sampler, Decoder, Critic, Features ------------------------------------------------------------------------------

    def _generate(self, z: Tensor, given: Tensor | None) -> Tensor:
        with evaluating(self.generator):  # BatchNorm by its (averaged) statistics: an image does not depend on its batch
            x = self._paste(self.generator(z, given), given)
        return (x + 1) * ((self.space.levels - 1) / 2)

    def draw(self, given: Tensor | None, noise: Noise, progress: Progress | None) -> Tensor:
        z = noise.normal("z", self.latents).to(self.device, self.dtype)
        x = self._generate(z, given).round().clamp(0, self.space.levels - 1).to(torch.uint8)
        if progress is not None:
            progress(1, 1)
        return x

    def decode(self, z: Tensor, given: Any = None) -> Generated:
        return Generated(self._generate(z.to(self.device, self.dtype), self.check_given(given, len(z))))

    def realism(self, x: Tensor, given: Any = None) -> Tensor:
        x = self.space.check(x).to(self.device)
        with evaluating(self.critic):
            return self.critic(self._scale(x.to(self.dtype)), self.check_given(given, len(x)))

    @property
    def feature_layers(self) -> Sequence[str]:
        return ["critic"]

    def features(self, x: Tensor, layer: str | None = None) -> Tensor:
        """The critic's last activations, `(n, d)`."""
        self.layer_index(layer)
        if self.given is not None:
            raise InputError("A conditional GAN's critic judges x with its given; use realism(x, given).")
        x = self.space.check(x).to(self.device)
        with evaluating(self.critic):
            return self.critic.net.body(self._scale(x.to(self.dtype)), None).flatten(1)
