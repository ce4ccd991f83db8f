"""Generative adversarial networks (Goodfellow et al. 2014): a critic learns to tell real from generated, a generator to be taken for real.

    min_G max_D  V(D, G) = E_p[log D(x)] + E_z[log(1 − D(G(z)))],     D* = p / (p + q),     V(D*, G) = −log 4 + 2 JSD(p ‖ q)

The density q is implicit: x = round(G(z)), z ~ N(0, I). There is no log p(x), and `log_prob` does not exist. Which game is played is an object of
`losses.py`, which nets play it a design of `networks.py`.

Differences from the papers: z is Gaussian, so that all latents of this library mean the same; the weights are averaged and the average is what is
kept, sampled and judged by; known pixels of a view are pasted into what the critic sees; the critic sees pixels with uniform dequantization
noise of one level, reflected at the ends, so that it cannot tell reals by their being integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pofx.errors import InputError
from pofx.likelihoods import normalised
from pofx.model import Batch, Context, Critic, Decoder, Features, Objective, OptimizerSpec, Progress, Sampler, evaluating, requiring
from pofx.models.adversarial import networks
from pofx.models.adversarial.losses import Loss, Relativistic, WassersteinGP
from pofx.models.adversarial.networks import Network, Normalisation
from pofx.nn import conditioning
from pofx.nn.augment import Augment, augment
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.views import View

CERTAIN, ALIKE, FLAT, WILD = (
    10.0,
    0.05,
    1e-7,
    1e4,
)  # margin in nats, spread of images, spread and size of outputs: something is said beyond them


class Generated:
    """A point distribution: what a generator decodes z to. `.mean` `(n, C, H, W)` is a float in 0 … levels−1."""

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean


class Player(nn.Module):
    """A net and its own embedding of the view: what one objective moves."""

    def __init__(self, net: Any, context: conditioning.Context) -> None:
        super().__init__()
        self.net, self.context = net, context

    def forward(self, x: Tensor, given: Tensor | None) -> Tensor:
        return self.net(x, self.context(given))


class GAN(Sampler, Decoder, Critic, Features):
    """A generator against a critic; the averaged generator is what is saved and sampled.

    Args:
        space: what images may be.
        given: a view for x ~ p(x | given): labels by projection, planes added at every size of both nets.
        loss: the game, e.g. `WassersteinGP(penalty=10)`; it brings the critic's steps and the optimizer.
        network: "mlp" (points, tiny images), "dcgan" as published, "residual" (as for WGAN-GP) or "modern" (without any normalisation).
        normalisation: of the critic: "batch", "layer", "spectral" or "none"; by default what the network was published with, or "layer"
            where the loss forbids that.
        latents: dimensions of z.
        channels: width of convolutions at full size; doubled at each halving.
        stages: halvings of the image; they drop out below size 2.
        hidden: units of each layer of an mlp.
        layers: hidden layers of an mlp.
        diffaugment: what is done to all that the critic sees, generated images too (Zhao et al. 2020): "geometry" shifts and cuts out, "all" changes
            brightness, saturation and contrast as well. For small sets.
        critic_steps: of the critic for one of the generator; by default the loss's own.
        lr: learning rate of both players; by default the loss's own.

    Raises:
        InputError: sizes below 1; a name that none has; a normalisation that the loss forbids.

    >>> GAN.small(ImageSpace(1, 5, 5)).sample(2).shape
    torch.Size([2, 1, 5, 5])
    """

    family: ClassVar = ("implicit", "adversarial")
    paper: ClassVar = "Goodfellow et al. 2014, Generative Adversarial Nets, arXiv:1406.2661"
    draw_batch: ClassVar = 64

    def __init__(
        self,
        space: ImageSpace,
        given: View | None = None,
        *,
        loss: Loss = Relativistic(),
        network: Network = "dcgan",
        normalisation: Normalisation | None = None,
        latents: int = 64,
        channels: int = 32,
        stages: int = 3,
        hidden: int = 128,
        layers: int = 3,
        diffaugment: Augment = "none",
        critic_steps: int | None = None,
        lr: float | None = None,
    ) -> None:
        super().__init__(space, given)
        for name, value, least in (
            ("latents", latents, 1),
            ("channels", channels, 1),
            ("stages", stages, 0),
            ("hidden", hidden, 1),
            ("layers", layers, 1),
            ("critic-steps", 1 if critic_steps is None else critic_steps, 1),
        ):
            if value < least:
                raise InputError(f"GAN: {name}={value} must be at least {least}, e.g. --{name} {max(least, 1)}.")
        if not isinstance(loss, Loss):
            raise InputError(f"GAN: loss={loss!r} must be a loss, e.g. pofx.models.adversarial.losses.WassersteinGP().")
        named = {
            "network": (network, Network),
            "normalisation": (normalisation or "none", Normalisation),
            "diffaugment": (diffaugment, Augment),
        }
        for what, (value, kinds) in named.items():
            if value not in get_args(kinds):
                raise InputError(f"GAN: there is no {what} {value!r}; it is one of {', '.join(get_args(kinds))}.")
        norm = networks.PUBLISHED[network] if normalisation is None else normalisation
        if normalisation is None and norm in loss.refuses:
            norm = "layer"  # what Gulrajani et al. recommend in the place of BatchNorm
        if network == "mlp" and norm in ("batch", "layer"):
            raise InputError(f"GAN: an mlp has no {norm} normalisation here; use --normalisation spectral or none, or --network dcgan.")
        if norm in loss.refuses:
            raise InputError(
                f"GAN: {type(loss).__name__} forbids {norm} normalisation in the critic: {loss.refuses[norm]}. "
                "Use --normalisation layer, spectral or none."
            )
        if diffaugment != "none" and given is not None and len(given.feature_shape(space)) == 3:
            raise InputError(
                f"GAN: --diffaugment moves images, and {type(given).__name__} is seen beside them, unmoved: the two do not go together. "
                "Leave --diffaugment out, or condition on labels."
            )
        self.loss, self.network, self.normalisation = loss, network, normalisation
        self.latents, self.channels, self.stages, self.hidden, self.layers = latents, channels, stages, hidden, layers
        self.diffaugment: Augment = diffaugment
        self.critic_steps, self.lr = critic_steps, lr
        self.latent_dims = latents
        width = hidden if network == "mlp" else channels
        size = {"latents": latents, "channels": channels, "stages": stages, "hidden": hidden, "layers": layers}
        contexts = [conditioning.Context(self, width) for _ in range(2)]
        self.generator = Player(networks.generator(network, space, contexts[0], **size), contexts[0])
        self.critic = Player(networks.critic(network, space, contexts[1], norm, bias=not loss.only_differences, **size), contexts[1])
        self._apart = norm == "batch"

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        return cls(space, given, latents=4, channels=8, stages=1)

    # The game --------------------------------------------------------------------------------------------------------

    def objectives(self) -> Sequence[Objective]:
        spec = self.loss.optimizer
        if self.lr is not None:
            spec = OptimizerSpec(spec.name, self.lr, spec.betas, spec.weight_decay, spec.schedule, spec.warmup)
        steps = self.loss.steps if self.critic_steps is None else self.critic_steps
        after = (lambda: self.loss.after(self.critic)) if self.loss.constrains else None
        return [
            Objective("critic", self.critic, self._critic_loss, optimizer=spec, clip=None, after=after),
            Objective("generator", self.generator, self._generator_loss, every=steps, optimizer=spec, clip=None),
        ]

    def _fake(self, batch: Batch, noise: Noise, site: str) -> Tensor:
        z = noise.normal(site, self.latents).to(self.device, self.dtype)
        return self._paste(self.generator(z, batch.given), batch.given)

    def _paste(self, x: Tensor, given: Tensor | None) -> Tensor:
        """Known sub-pixels are copied into a generated image on [−1, 1]."""
        if self.given is None or given is None or (known := self.known(given)) is None:
            return x
        return torch.where(known, normalised(self.given.fill(given, self.space), self.space.levels, x.dtype), x)

    def _real(self, batch: Batch, noise: Noise) -> Tensor:
        """x + u with u ~ U(−½, ½), reflected at the ends, so that no value is the images' alone; on [−1, 1]."""
        top = self.space.levels - 1
        u = noise.uniform("dequantize", *self.space.shape).to(self.device, self.dtype) - 0.5
        return normalised(top - (top - (batch.x.to(self.dtype) + u).abs()).abs(), self.space.levels, self.dtype)

    def _seen(self, x: Tensor, noise: Noise, site: str) -> Tensor:
        """What the critic sees of images on [−1, 1]."""
        return augment(x, self.diffaugment, noise, site)

    def _judge(self, x: Tensor, given: Tensor | None, n: int) -> Tensor:
        """The critic's outputs: of the first images of a batch of n, or of all reals and then all generated ones."""
        return self.critic(x, None if given is None else torch.cat([given[: len(part)] for part in x.split(n)]))

    def _critic_loss(self, batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        noise, n = context.noise, len(batch.x)
        if n == self.space.height * self.space.width == 1 and any(isinstance(m, nn.BatchNorm2d) for m in self.modules()):
            raise InputError("BatchNorm cannot learn from one image of one pixel at a time. Use --batch-size 2 or more, or --network mlp.")
        real = self._real(batch, noise)
        both = self.objectives()[1].due(context.step)
        with requiring(self.generator) if both else torch.no_grad():
            fake = self._fake(batch, noise, "z")
        if both:  # the generator moves next, and is judged by the same images: its pass is made once
            context.shared["fake"] = fake
            fake = fake.detach()
        u = noise.uniform("between", 1)[:, 0].to(real)
        seen = self._seen(real, noise, "critic/real"), self._seen(fake, noise, "critic/fake")
        turn = self.loss.against(lambda x: self._judge(x, batch.given, n), *seen, u, apart=self._apart)
        real_out, fake_out = turn.real.detach(), turn.fake.detach()
        logs = {"accuracy": (real_out > fake_out).double().mean(), "value": -turn.loss.detach()}
        logs["margin"] = real_out.mean() - fake_out.mean()
        logs["outputs"] = _deviation(torch.stack([real_out, fake_out], 1), context, over=(0,))
        several = n > 1 or context.share < 1
        logs["spread"] = _deviation(fake, context).mean() / _deviation(real, context).mean().clamp(min=1e-3) if several else torch.ones(())
        if turn.penalty is not None:
            logs["penalty"] = turn.penalty.detach()
        return turn.total, logs

    def _generator_loss(self, batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        noise, n = context.noise, len(batch.x)
        made = context.shared.pop("fake", None)
        fake = self._seen(self._fake(batch, noise, "z") if made is None else made, noise, "generator/fake")
        out = self._judge(fake, batch.given, n)
        real = out
        if self.loss.needs_real:
            with torch.no_grad():
                real = self._judge(self._seen(self._real(batch, noise), noise, "generator/real"), batch.given, n)
        return self.loss.generator(real, out), {}

    def settle(self, batches: Iterator[Batch]) -> None:
        """Spectral normalisation divides by uᵀWv; averages of u and v belong to no weight, so those of the averaged weights are put in their place."""
        for module in self.critic.modules():
            if parametrize.is_parametrized(module, "weight"):
                spectral: Any = module.parametrizations.weight  # type: ignore[union-attr]
                left, _, right = torch.linalg.svd(spectral.original.detach().flatten(1).double(), full_matrices=False)
                spectral[0]._u.copy_(left[:, 0])
                spectral[0]._v.copy_(right[0])

    def diagnose(self, logs: Mapping[str, float]) -> dict[str, str]:
        found = {}
        spread, margin = logs.get("train_critic_spread", 1.0), logs.get("train_critic_margin", 0.0)
        outputs = logs.get("train_critic_outputs", 1.0)
        calmer = {"relativistic": Relativistic, "wasserstein-gp": WassersteinGP}
        others = " or ".join(f"--loss {name}" for name, kind in calmer.items() if not isinstance(self.loss, kind))
        if spread < ALIKE:
            found["collapse"] = (
                f"the generator makes nearly the same image each time ({spread:.0%} of the spread of real ones): it has collapsed. "
                f"Try {others}, a lower --lr, or --diffaugment geometry."
            )
        if self.loss.dies and margin > CERTAIN:
            found["certain critic"] = (
                f"the critic is certain of every image (real and generated ones lie {margin:.0f} nats apart), where the gradient of "
                f"{type(self.loss).__name__} is dead. Try --loss non-saturating or {others}, or a lower --lr."
            )
        if outputs < FLAT:
            found["flat critic"] = (
                "the critic says the same of every image: it has collapsed, and teaches nothing. Try a lower --lr, or another --loss."
            )
        if outputs > WILD:
            found["wild critic"] = (
                f"the critic's outputs have grown to {outputs:.0e}: the game diverges. Try a lower --lr, or --loss relativistic."
            )
        return found

    # Sampler, Decoder, Critic, Features ------------------------------------------------------------------------------

    def _generate(self, z: Tensor, given: Tensor | None) -> Tensor:
        with evaluating(self.generator):  # BatchNorm by its (averaged) statistics: an image does not depend on its batch
            x = self._paste(self.generator(z, given), given)
        return ((x + 1) * ((self.space.levels - 1) / 2)).clamp(0, self.space.levels - 1)

    def draw(self, given: Tensor | None, noise: Noise, progress: Progress | None) -> Tensor:
        z = noise.normal("z", self.latents).to(self.device, self.dtype)
        x = self._generate(z, given).round().to(torch.uint8)
        if progress is not None:
            progress(1, 1)
        return x

    def decode(self, z: Tensor, given: Any = None) -> Generated:
        if z.ndim != 2 or z.shape[1] != self.latents:
            raise InputError(
                f"Codes of this GAN are (n, {self.latents}), found {tuple(z.shape)}; draw some: torch.randn(n, {self.latents})."
            )
        return Generated(self._generate(z.to(self.device, self.dtype), self.check_given(given, len(z))))

    def first_layer(self, z: Tensor) -> Tensor:
        return self.generator.net.first(z.to(self.device, self.dtype))

    def activations(self, z: Tensor, given: Any = None) -> Tensor:
        context = self.generator.context(self.check_given(given, len(z)))
        with evaluating(self.generator):
            return self.generator.net.early(z.to(self.device, self.dtype), context).flatten(1)

    def realism(self, x: Tensor, given: Any = None) -> Tensor:
        x = self.space.check(x).to(self.device)
        with evaluating(self.critic):
            return self.critic(normalised(x, self.space.levels, self.dtype), self.check_given(given, len(x)))

    @property
    def feature_layers(self) -> Sequence[str]:
        return ["critic"]

    def features(self, x: Tensor, layer: str | None = None) -> Tensor:
        """The critic's last activations, `(n, d)`."""
        self.layer_index(layer)
        if self.given is not None and self.critic.net.planes:
            raise InputError("The critic of this GAN looks at x together with its given; use realism(x, given).")
        x = self.space.check(x).to(self.device)
        with evaluating(self.critic):
            return self.critic.net.body(normalised(x, self.space.levels, self.dtype), None)


@torch.no_grad()
def _deviation(x: Tensor, context: Context, over: tuple[int, ...] = ()) -> Tensor:
    """The standard deviation of `(n, …)` over all images of a step, and over further dimensions of an image."""
    middle = context.mean(x)
    middle = middle.mean(over) if over else middle
    square = context.mean((x - middle).square())
    return (square.mean(over) if over else square).sqrt()
