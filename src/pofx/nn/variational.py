"""What latent-variable models share: the bound, its importance-weighted form, and training by the reparameterized gradient.

    L(x)   = E_q[log p(x|z)] − KL(q(z|x) ‖ N(0, I)),   z = μ + σ ⊙ ε              Kingma and Welling 2014, eq. 3 and 10
    L_k(x) = E[log 1/k Σ_i w_i],   w_i = p(x|z_i) p(z_i) / q(z_i|x),  z_i ~ q       Burda et al. 2016, eq. 8; L ≤ L_k ≤ L_{k+1} ≤ log p(x)

A model says three things: what its nets read from x (`read`, once for any number of draws), which z and which pixels follow from draws
of q (`infer`), and which pixels follow from z (`generate`).

Training: kl_warmup raises the weight of the KL term from 0 to `beta` (Bowman et al. 2016); free_bits lets each latent dimension cost so
many nats, on average over the batch, without being pushed down (Kingma et al. 2016, eq. 15); importance_samples = k > 1 trains on L_k.
Every number that leaves the model is at β = 1 without free bits.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from pofx.errors import InputError
from pofx.likelihoods import Likelihood, PixelDistribution, normalised
from pofx.model import (
    Batch,
    BitsBack,
    Bound,
    Context,
    Features,
    Gaussian,
    Objective,
    OptimizerName,
    OptimizerSpec,
    Progress,
    Sampler,
)
from pofx.nn import conditioning
from pofx.nn.activations import settled
from pofx.noise import Noise, hash_images
from pofx.space import ImageSpace
from pofx.views import View

LikelihoodName = Literal["auto", "bernoulli", "categorical", "gaussian", "logistic", "logistic-mixture"]
Scale = Literal["pixel", "shared", "optimal"]

FURTHEST = 8  # a z larger than any that is coded
SETTLE = 10  # batches of training images (of 100 each) that the optimal scale rests on
BLOCK = 64  # draws of z whose noise is made at once
NUMBERS = 2**19  # that the decoder says at once, where it is asked for many z of one image


@dataclass(frozen=True)
class Explanation:
    """One z for each image, and what follows from it.

    Attributes:
        q: q(z | x), which in a hierarchical model depends on the draws above.
        z: `(n, d)`.
        parameters: decodes z when it is called: the parameters of p(x | z), `(n, P, H, W)`. Who wants the code alone does not call it.
    """

    q: Gaussian
    z: Tensor
    parameters: Callable[[], Tensor]


Draw = Callable[[Gaussian], Tensor]  # z of a layer, `(n, d)`, from its q


class Variational(BitsBack, Sampler, Features):
    """A latent-variable model by `read`, `infer` and `generate`.

    Args:
        likelihood, components, scale: the decoder's head, `likelihoods.Likelihood`.
        beta, free_bits, kl_warmup, importance_samples: see above.
    """

    draw_batch: ClassVar = 64
    optimizer: OptimizerName = "Muon"

    def __init__(
        self,
        space: ImageSpace,
        given: View | None,
        *,
        context: int,
        likelihood: LikelihoodName,
        components: int,
        scale: Scale,
        dropout: float,
        beta: float,
        free_bits: float,
        kl_warmup: float,
        importance_samples: int,
        lr: float,
    ) -> None:
        super().__init__(space, given)
        name = type(self).__name__
        if not 0 <= dropout < 1 or not 0 <= kl_warmup <= 1:
            raise InputError(f"{name}: dropout={dropout} must be in [0, 1) and kl_warmup={kl_warmup} in [0, 1].")
        if not beta >= 0 or not free_bits >= 0 or importance_samples < 1:
            raise InputError(
                f"{name}: beta={beta} and free_bits={free_bits} must be at least 0, importance_samples={importance_samples} at least 1."
            )
        if importance_samples > 1 and free_bits:
            raise InputError(
                f"{name}: free_bits={free_bits} bounds a KL term, and importance_samples={importance_samples} has none: leave one out."
            )
        self.likelihood, self.components, self.scale, self.dropout = likelihood, components, scale, dropout
        self.beta, self.free_bits, self.kl_warmup, self.importance_samples, self.lr = beta, free_bits, kl_warmup, importance_samples, lr
        self.head = Likelihood(likelihood, space, default="logistic", components=components, scale=scale)
        self.context = conditioning.Context(self, context)
        if scale == "shared":
            self.log_scale = nn.Parameter(torch.full((space.channels,), -1.0))
        elif scale == "optimal":
            self.register_buffer("log_scale", torch.full((space.channels,), -1.0))

    log_scale: Tensor

    # What a model says -----------------------------------------------------------------------------------------------

    @abstractmethod
    def read(self, x: Tensor, context: Tensor | None, noise: Noise | None) -> tuple[Tensor, ...]:
        """What the nets take from `x` uint8 `(n, C, H, W)`: tensors `(n, …)`."""

    @abstractmethod
    def infer(self, read: tuple[Tensor, ...], draw: Draw, context: Tensor | None, noise: Noise | None) -> Explanation:
        """q, what `draw` makes of the q of each layer in turn, and the way to the parameters of p(x|z)."""

    @abstractmethod
    def generate(self, z: Tensor, context: Tensor | None) -> Tensor:
        """The parameters of p(x|z), `(n, P, H, W)`, for `z` `(n, d)`."""

    @final
    def explain(self, read: tuple[Tensor, ...], epsilon: Tensor, context: Tensor | None, noise: Noise | None) -> Explanation:
        """The same for z = μ + σ ⊙ ε, `epsilon` `(n, d)`."""

        def draw(q: Gaussian) -> Tensor:
            nonlocal epsilon
            part, epsilon = epsilon.tensor_split([q.mean.shape[1]], 1)
            return q.sample(part)

        return self.infer(read, draw, context, noise)

    # BitsBack --------------------------------------------------------------------------------------------------------

    @final
    def infer_by(self, x: Tensor, draw: Draw) -> Tensor:
        return self.infer(self.read(x, None, None), lambda q: settled(draw(q)), None, None).z

    @final
    def proof(self) -> None:
        x = torch.zeros(1, *self.space.shape, dtype=torch.uint8)
        e = self.infer(self.read(x, None, None), lambda q: settled(FURTHEST * torch.ones_like(q.mean)), None, None)
        e.parameters()

    # The bound -------------------------------------------------------------------------------------------------------

    def _pixels(self, parameters: Tensor) -> PixelDistribution:
        return self.head(parameters, None if self.scale == "pixel" else self.log_scale)

    def _log_likelihood(self, x: Tensor, parameters: Tensor, given: Tensor | None) -> Tensor:
        """log p(x | z, given) over unknown sub-pixels, `(n,)` nats."""
        return self.unknown_sum(self._pixels(parameters).log_prob(x), given)

    def _blocks(self, noise: Noise, samples: int) -> Iterator[Tensor]:
        """ε for `samples` draws of each image, `(at most BLOCK, n, d)` at a time; draw i is the same whatever follows it in later blocks."""
        for start in range(0, samples, BLOCK):
            block = noise.normal("z" if start == 0 else f"z{start}", min(BLOCK, samples - start), self.latent_dims)
            yield block.transpose(0, 1).to(self.device, self.dtype)

    def _one(self, noise: Noise) -> Tensor:
        """ε of one draw, `(n, d)`."""
        return next(self._blocks(noise, 1))[0]

    @final
    def posterior(self, x: Tensor, given: Any = None) -> Gaussian:
        x, value = self.check_pair(x, given)
        context = self.context(value)
        return self.explain(self.read(x, context, None), self._zeros(x.shape[0]), context, None).q

    def _zeros(self, n: int) -> Tensor:
        return torch.zeros(n, self.latent_dims, dtype=self.dtype, device=self.device)

    def _start(
        self, x: Tensor, given: Any, samples: int, seed: int
    ) -> tuple[Tensor, Tensor | None, Tensor | None, tuple[Tensor, ...], Noise]:
        """Images, the view's value, its context, what the nets read, and noise keyed by the images."""
        if samples < 1:
            raise InputError(f"samples={samples}: at least one draw of z is needed, e.g. samples=1.")
        x, value = self.check_pair(x, given)
        context = self.context(value)
        return x, value, context, self.read(x, context, None), Noise(seed, hash_images(x))

    @final
    def bound(self, x: Tensor, given: Any = None, *, samples: int = 1, seed: int = 0) -> Bound:
        x, value, context, read, noise = self._start(x, given, samples, seed)
        return self._bound(x, value, context, read, (epsilon for block in self._blocks(noise, samples) for epsilon in block))

    @final
    def bound_at(self, x: Tensor, epsilon: Tensor, given: Any = None) -> Bound:
        x, value = self.check_pair(x, given)
        context = self.context(value)
        return self._bound(x, value, context, self.read(x, context, None), epsilon)

    def _bound(self, x: Tensor, value: Tensor | None, context: Tensor | None, read: tuple[Tensor, ...], draws: Iterable[Tensor]) -> Bound:
        """Means over draws ε, each `(n, d)`."""
        log_likelihood, kl, samples = torch.zeros(x.shape[0], dtype=self.dtype, device=self.device), self._zeros(x.shape[0]), 0
        for epsilon in draws:
            e = self.explain(read, epsilon, context, None)
            log_likelihood, kl = log_likelihood + self._log_likelihood(x, e.parameters(), value), kl + e.q.kl()
            samples += 1
        return Bound(log_likelihood / samples, kl / samples)

    @final
    def log_prob_estimate(self, x: Tensor, given: Any = None, *, samples: int, seed: int = 0) -> Tensor:
        x, value, context, read, noise = self._start(x, given, samples, seed)
        n, log_weights = len(x), []
        at_once = max(1, min(samples, BLOCK, NUMBERS // (n * self.head.size * self.space.height * self.space.width)))
        xs, reads, contexts = _repeated(x, at_once), tuple(_repeated(t, at_once) for t in read), _repeated(context, at_once)
        values = _repeated(value, at_once)
        for block in self._blocks(noise, samples):
            for epsilon in block.split(at_once):
                rows = len(epsilon) * n
                context = None if contexts is None else contexts[:rows]
                e = self.explain(tuple(t[:rows] for t in reads), epsilon.flatten(0, 1), context, None)
                value = None if values is None else values[:rows]
                log_weight = self._log_likelihood(xs[:rows], e.parameters(), value) + _log_ratio(e, epsilon.flatten(0, 1))
                log_weights.append(log_weight.reshape(-1, n))
        return torch.logsumexp(torch.cat(log_weights), 0) - math.log(samples)

    # Training --------------------------------------------------------------------------------------------------------

    def objectives(self) -> Sequence[Objective]:
        return [Objective("elbo", self, self._loss, optimizer=OptimizerSpec(self.optimizer, lr=self.lr, betas=(0.9, 0.99)))]

    def _weight(self, step: Context) -> float:
        """β of this step."""
        return self.beta * (1.0 if step.extended or not self.kl_warmup else min(1.0, step.progress / self.kl_warmup))

    def _loss(self, batch: Batch, step: Context) -> tuple[Tensor, dict[str, Tensor]]:
        beta, k, n = self._weight(step), self.importance_samples, len(batch.x)
        context = self.context(batch.given)
        read = self.read(batch.x, context, step.noise)
        epsilon = torch.cat(list(self._blocks(step.noise, k))).flatten(0, 1)
        x, value, noise = batch.x, batch.given, step.noise
        if k > 1:
            value = _repeated(value, k)
            x, read, context = _repeated(x, k), tuple(_repeated(t, k) for t in read), _repeated(context, k)
            noise = Noise(noise.seed, noise.images.repeat(k)) if self.dropout else noise
        e = self.explain(read, epsilon, context, noise)
        parameters = e.parameters()
        if self.scale == "optimal":
            self._follow(x, parameters, value, step)
        reconstruction = -self._log_likelihood(x, parameters, value).reshape(k, n)
        kl = e.q.kl()
        distortion = reconstruction.mean()
        with torch.no_grad():
            nats = kl.sum(1).mean()
            bits = self.dims_of(batch.given) * math.log(2)  # an image
            cost = ((reconstruction.mean(0) + kl.reshape(k, n, -1).sum(2).mean(0)) / bits).mean()
            logs = {"bits_per_dim": cost, "kl": nats, "reconstruction": distortion.detach()}
        if k == 1:
            rate = step.mean(kl).clamp(min=self.free_bits) if self.free_bits else kl.mean(0)
            loss = distortion + beta * rate.sum()
        else:
            log_ratio = _log_ratio(e, epsilon).reshape(k, n)
            loss = (math.log(k) - torch.logsumexp(beta * log_ratio - reconstruction, 0)).mean()
            tight = (math.log(k) - torch.logsumexp(log_ratio - reconstruction, 0)).detach()
            logs["bits_per_dim"] = (tight / bits).mean()
        return loss / self.dims, logs

    @torch.no_grad()
    def _follow(self, x: Tensor, parameters: Tensor, given: Tensor | None, step: Context) -> None:
        """While training, the scale is the optimum of the batch (Rybkin et al. 2021, eq. 7): σ² is the mean squared error."""
        self.log_scale.copy_(self._moment(step.mean(self._errors(x, parameters, given)[None] / len(x))))

    def _errors(self, x: Tensor, parameters: Tensor, given: Tensor | None) -> Tensor:
        """(x − μ)² on [−1, 1], mean over the unknown sub-pixels of a channel, sum over images: `(C,)`.

        The bins at both ends are open, so μ may lie far outside; an error is that of the nearest value that pixels can have.
        """
        mean = parameters if parameters.dtype == torch.float64 else parameters.float()
        squared = (normalised(x, self.space.levels, mean.dtype) - mean.clamp(-1, 1)) ** 2
        unknown = torch.ones_like(squared[0]) if (known := self.known(given)) is None else (~known).to(squared)
        return ((squared * unknown).sum((2, 3)) / unknown.sum((-2, -1)).clamp(min=1)).sum(0)

    def _moment(self, variance: Tensor) -> Tensor:
        """The log-scale that has this variance per channel; a logistic distribution of scale s has variance s²π²/3."""
        log_sd = 0.5 * variance.clamp(min=1e-8).log()
        return log_sd if self.head.name == "gaussian" else log_sd + 0.5 * math.log(3) - math.log(math.pi)

    @torch.no_grad()
    def settle(self, batches: Iterator[Batch]) -> None:
        """The optimal scale: the one, per channel, at which E_q[log p(x|z)] of training images is largest, by one draw of z for each of
        the first SETTLE batches. It starts at the mean squared error and searches around it, since bins have a width."""
        if self.scale != "optimal":
            return
        seen = [(batch.x, self._drawn(batch), batch.given) for batch in islice(batches, SETTLE)]
        log_scale = self._moment(sum((self._errors(*part) for part in seen), self._nothing()) / sum(len(x) for x, *_ in seen))
        for width, part in ((0.4, seen[:1]), (0.1, seen[:1]), (0.05, seen), (0.0125, seen)):
            grid = log_scale + width * torch.arange(-2, 3, dtype=log_scale.dtype, device=log_scale.device)[:, None]
            totals = torch.stack([sum((self._per_channel(*images, s) for images in part), self._nothing()) for s in grid])
            log_scale = grid.gather(0, totals.argmax(0)[None])[0]
        self.log_scale.copy_(log_scale)

    def _nothing(self) -> Tensor:
        return torch.zeros(self.space.channels, dtype=self.dtype, device=self.device)

    def _drawn(self, batch: Batch) -> Tensor:
        context = self.context(batch.given)
        return self.explain(self.read(batch.x, context, None), self._one(Noise(0, hash_images(batch.x))), context, None).parameters()

    def _per_channel(self, x: Tensor, parameters: Tensor, given: Tensor | None, log_scale: Tensor) -> Tensor:
        """log p(x|z) of unknown sub-pixels, summed over images and places: `(C,)` nats."""
        log_prob, known = self.head(parameters, log_scale).log_prob(x), self.known(given)
        return (log_prob if known is None else log_prob.masked_fill(known, 0)).sum((0, 2, 3))

    # Sampler, Encoder, Decoder, Features -----------------------------------------------------------------------------

    @final
    def draw(self, given: Tensor | None, noise: Noise, progress: Progress | None) -> Tensor:
        u = noise.uniform("x", *self.space.shape).to(self.device)
        x = self._pixels(self.generate(self._one(noise), self.context(given))).sample(u).to(torch.uint8)
        if progress is not None:
            progress(1, 1)
        return self.copy_known(x, given)

    @final
    def encode(self, x: Tensor, given: Any = None, *, sample: bool = False, seed: int = 0) -> Tensor:
        x, _, context, read, noise = self._start(x, given, 1, seed)
        epsilon = self._one(noise) if sample else self._zeros(len(x))
        return self.explain(read, epsilon, context, None).z

    @final
    def decode(self, z: Tensor, given: Any = None) -> PixelDistribution:
        if z.ndim != 2 or z.shape[1] != self.latent_dims:
            raise InputError(f"Codes of this {type(self).__name__} are (n, {self.latent_dims}), found {tuple(z.shape)}.")
        return self._pixels(self.generate(settled(z.to(self.device, self.dtype)), self.context(self.check_given(given, len(z)))))

    @property
    def feature_layers(self) -> Sequence[str]:
        return ["mean"]

    def features(self, x: Tensor, layer: str | None = None) -> Tensor:
        """The posterior mean, `(n, latent_dims)`."""
        self.layer_index(layer)
        if self.given is not None:
            raise InputError(f"A conditional {type(self).__name__} encodes x with its given; use encode(x, given).")
        return self.encode(x)


def _log_ratio(e: Explanation, epsilon: Tensor) -> Tensor:
    """log p(z) − log q(z|x), `(n,)` nats: (z − μ)/σ is ε itself, and 2π cancels."""
    return 0.5 * (epsilon**2 + e.q.log_variance - e.z**2).sum(1)


def _repeated(t: Any, k: int) -> Any:
    """`(n, …)` → `(k·n, …)`, draw by draw; None stays None."""
    return t if t is None or k == 1 else t.repeat(k, *[1] * (t.ndim - 1))
