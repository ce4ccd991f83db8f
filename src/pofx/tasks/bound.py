"""What the bound of a variational model loses on one image, and why a bound is needed at all. Every number by quadrature, or with its error.

    log p(x) = L(x) + KL(q(z|x) ‖ p(z|x)),   L(x) = E_q[log p(x, z) − log q(z|x)] = E_q[log p(x|z)] − KL(q(z|x) ‖ N(0, I))
    L ≤ E[L_1] ≤ E[L_k] ≤ log p(x),   L_k = log 1/k Σ_i p(x, z_i) / q(z_i|x),  z_i ~ q(z|x)             (Burda et al. 2016, eq. 8)
    ∇L = E_q[∇log q(z|x) · (log p(x, z) − log q(z|x))]                 exact here; the score function, REINFORCE (Williams 1992), samples it
       = E_ε[∇ (log p(x, μ + σ ⊙ ε) − log q(μ + σ ⊙ ε|x))]             the same by reparameterization (Kingma and Welling 2014, §2.4)

With one or two latents these integrals can be computed (`_quadrature.py`). Three grids are used: one lies where p(z|x) has its mass and
gives log p(x); one lies where q has its own and gives L; the third covers both, is cut in other places, normalises p(z|x) by itself and
gives KL(q ‖ p(z|x)). That the first number is the sum of the other two is then a check of all three; where it fails by more than 10⁻⁶ nats
(the errors of cells are estimates), all are refined a hundredfold, and in the end an error is raised.

What is cut off is bounded, not hoped: p(x|z) ≤ 1 for whole-numbered pixels, so that the part of the integral outside of |z_j| ≤ R
is at most P(any |z_j| > R), and R grows until that is nothing beside p(x).

With more latents no grid is fine enough. `growth` shows what happens to plain Monte Carlo then, on a model whose log p(x) is known in closed
form: probabilistic PCA (Tipping and Bishop 1999).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pofx.errors import InputError, RunError
from pofx.metrics.mean import Mean
from pofx.model import LOG_2PI, Gaussian, ImageModel, LatentVariable, Progress, evaluating, require
from pofx.noise import Noise, hash_images
from pofx.tasks._parts import Parts, taken_apart
from pofx.tasks._quadrature import integrate, mesh, peaks
from pofx.tasks.bulk import FEWEST, Images, as_images, batch_size, per_image

POINTS = 2_000_000  # evaluations of the decoder in one integral
TOLERANCES = (1e-7, 1e-9, 1e-11)  # nats, of each integral; the next where the grids of one do not agree
RESIDUAL = 1e-6  # nats, by which log p(x) may differ from L + KL
TAIL = 25.0  # nats below p(x): what may be left outside of the grid
DRAWS = 20_000  # of z, shared by the estimates for all k
GRADIENT_DRAWS = 4_000
KS = (1, 10, 100, 1000)
SIDE = {1: 401, 2: 81}  # points of the picture's grid to a side

LogLikelihood = Callable[[Tensor], Tensor]


# What is integrated -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Inference:
    """One image under one model: all that the integrals need.

    Attributes:
        log_likelihood: z `(n, d)` float64 → log p(x|z) `(n,)` nats, differentiable.
        q: q(z|x), `(1, d)` float64.
        ceiling: nats that log p(x|z) never exceeds: 0 where x are whole numbers.
        noise: keyed by the image.
    """

    log_likelihood: LogLikelihood
    q: Gaussian
    ceiling: float = 0.0
    noise: Noise = field(default_factory=lambda: Noise(0, torch.zeros(1, dtype=torch.long)))

    @property
    def d(self) -> int:
        return self.q.mean.shape[1]

    @property
    def sigma(self) -> Tensor:
        return torch.exp(0.5 * self.q.log_variance)

    def log_joint(self, z: Tensor) -> Tensor:
        """log p(x, z) of z `(n, d)`: `(n,)` nats."""
        return self.log_likelihood(z) + log_prior(z)

    def epsilon(self, n: int) -> Tensor:
        """n standard normal draws `(n, d)`: the first of them are the same for any n."""
        return Noise(self.noise.seed, int(self.noise.images[0]) + torch.arange(n)).normal("bound", self.d)


def log_prior(z: Tensor) -> Tensor:
    """log N(z; 0, I) of z `(…, d)`: `(…,)` nats."""
    return -0.5 * (z**2 + LOG_2PI).sum(-1)


def inference(model: ImageModel, x: Tensor, given: Any = None, *, seed: int = 0) -> Inference:
    """`Inference` of one image, in float64.

    Args:
        x: uint8 `(1, C, H, W)`.
        given: the view's value, where the model is conditional.

    Raises:
        CapabilityError: the model has no Gaussian q(z|x) over latents.
        InputError: not one image, or of another space.
    """
    twin = copy.deepcopy(require(model, LatentVariable, to="show what its bound loses"))
    if len(x) != 1:
        raise InputError(f"One image is taken apart at a time, found {len(x)}. Give e.g. x[:1], or DATA#0 on the command line.")
    twin = (twin.cpu() if twin.device.type == "mps" else twin).double().requires_grad_(False)  # Apple's GPUs know no float64
    image, value = twin.check_pair(x, given)
    size = batch_size(twin.space)
    with evaluating(twin), torch.no_grad():
        q = twin.posterior(image, value)

    def log_likelihood(z: Tensor) -> Tensor:
        parts, rows = [], max(FEWEST, size // 4) if z.requires_grad else size
        with evaluating(twin):
            for part in z.split(rows):
                n = len(part)
                view = None if value is None else value.expand(n, *value.shape[1:])
                p = twin.decode(part.to(twin.device), view)
                parts.append(twin.unknown_sum(p.log_prob(image.expand(n, *image.shape[1:])), view).cpu())
        return torch.cat(parts)

    return Inference(log_likelihood, Gaussian(q.mean.cpu(), q.log_variance.cpu()), noise=Noise(seed, hash_images(x)))


# log p(x) = L + KL ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Decomposition:
    """log p(x) = L + KL(q ‖ p(z|x)), each by a grid of its own. All in nats.

    Attributes:
        log_prob: log ∫ p(x|z) N(z; 0, I) dz.
        elbo: L = ∫ q (log p(x, z) − log q) dz.
        kl_posterior: ∫ q (log q − log p(z|x)) dz, with p(z|x) normalised on the same grid.
        log_likelihood: E_q[log p(x|z)].
        kl_prior: ∫ q (log q − log N(z; 0, I)) dz.
        kl_prior_closed: the same by its formula.
        error: the largest error that the quadrature says of any of these.
        outside: the share of p(x) that can lie beyond the grid, at most.
        mean, covariance: of p(z|x), `(d,)` and `(d, d)`.
        peaks: of p(z|x), `(j, d)`, best first: those within 40 nats of the best.
        evaluations: of the decoder.
    """

    log_prob: float
    elbo: float
    kl_posterior: float
    log_likelihood: float
    kl_prior: float
    kl_prior_closed: float
    error: float
    outside: float
    mean: Tensor
    covariance: Tensor
    peaks: Tensor
    evaluations: int

    @property
    def residual(self) -> float:
        """log p(x) − (L + KL): 0 but for what the grids leave."""
        return self.log_prob - (self.elbo + self.kl_posterior)

    def to_json(self) -> dict[str, Any]:
        shown = {k: v.tolist() if isinstance(v, Tensor) else v for k, v in asdict(self).items()}
        return shown | {"residual": self.residual}


def decompose(problem: Inference, *, points: int = POINTS, progress: Progress | None = None) -> Decomposition:
    """Compute log p(x), L, and both KLs separately by quadrature, for one or two latents.

    Args:
        points: evaluations of the decoder that one integral may take.
        progress: called with (done, 4).

    Raises:
        InputError: more than two latents.
        RunError: an integral has not converged within `points`, or the numbers contradict each other by more than 10⁻⁶ nats.

    >>> x = LinearGaussian.random(1, dims=3).inference()
    >>> abs(decompose(x).residual) < 1e-6
    True
    """
    _few_latents(problem.d)
    tell = progress or (lambda done, total: None)
    with torch.no_grad():
        located = _locate(problem)
    evaluations, off = 0, math.inf
    for tolerance in TOLERANCES:
        found = _decompose(problem, located, tolerance, points, tell)
        evaluations += found.evaluations
        off = max(abs(found.residual), abs(found.kl_prior - found.kl_prior_closed))
        if off <= RESIDUAL:
            return replace(found, evaluations=evaluations)
    raise RunError(
        f"The grids contradict each other: log p(x) − (L + KL) = {off:.1e} nats, where {RESIDUAL:g} is allowed. "
        "p(z|x) has a peak that one of them missed. Please report this run and image."
    )


def _decompose(
    problem: Inference,
    located: tuple[float, Tensor, Tensor, Tensor],
    tolerance: float,
    points: int,
    tell: Progress,
) -> Decomposition:
    d, q = problem.d, problem.q
    with torch.no_grad():
        reach, tops, widths, top = located
        tell(1, 4)

        def relative(total: Tensor) -> Tensor:
            return tolerance * total[:1].abs().expand_as(total)

        def mass(z: Tensor) -> Tensor:
            """p(x, z) over its largest value, and with it the moments of p(z|x)."""
            w = torch.exp(problem.log_joint(z) - top)[:, None]
            away = z - tops[0]
            second = (away[:, :, None] * away[:, None]).flatten(1)
            return torch.cat([w, w * away, w * second], 1)

        while True:  # until nothing that counts can lie outside
            box = torch.full((d,), reach, dtype=torch.double)
            focus, width = torch.cat([torch.zeros(1, d, dtype=torch.double), tops]), torch.cat([torch.ones(1, dtype=torch.double), widths])
            a = integrate(mass, *mesh(-box, box, focus, width), tolerance=relative, most=points)
            log_prob = float(a.value[0].log() + top)
            outside = _log_outside(reach, d) + problem.ceiling - log_prob
            if outside < -TAIL + 2:
                break
            reach *= 1.25
        first = a.value[1 : d + 1] / a.value[0]
        covariance = (a.value[d + 1 :] / a.value[0]).reshape(d, d) - torch.outer(first, first)
        tell(2, 4)

        # q in its own coordinates u = (z − μ) / σ. Beyond |u| = 10 lies 10⁻²³ of it.
        log_scale = 0.5 * q.log_variance.sum()

        def under_q(u: Tensor) -> Tensor:
            z = q.mean + problem.sigma * u
            density, log_q, log_likelihood = log_prior(u).exp(), log_prior(u) - log_scale, problem.log_likelihood(z)
            terms = (log_likelihood + log_prior(z) - log_q, log_likelihood, log_q - log_prior(z))
            return torch.stack(terms, 1) * density[:, None]

        ten, zero = torch.full((d,), 10.0, dtype=torch.double), torch.zeros(1, d, dtype=torch.double)

        def absolute(total: Tensor) -> Tensor:
            return torch.full_like(total, tolerance)

        b = integrate(under_q, *mesh(-ten, ten, zero, torch.ones(1, dtype=torch.double)), tolerance=absolute, most=points)
        elbo, log_likelihood, kl_prior = b.value.tolist()
        tell(3, 4)

        def both(z: Tensor) -> Tensor:
            joint, log_q = problem.log_joint(z), q.log_prob(z)
            return torch.stack([torch.exp(joint - top), torch.where(log_q > -700, log_q.exp() * (log_q - joint), 0)], 1)

        def mixed(total: Tensor) -> Tensor:
            return torch.stack([tolerance * total[0].abs(), torch.full_like(total[1], tolerance)])

        # Other limits, so that no cell's edge lies where one of the first grid does.
        low = torch.minimum(-1.07 * box, q.mean[0] - 10 * problem.sigma[0])
        high = torch.maximum(1.19 * box, q.mean[0] + 10 * problem.sigma[0])
        near = torch.cat([focus, q.mean]), torch.cat([width, problem.sigma.amin(1)])
        c = integrate(both, *mesh(low, high, *near), tolerance=mixed, most=points)
        kl_posterior = float(c.value[1] + c.value[0].log() + top)
        tell(4, 4)
    return Decomposition(
        log_prob=log_prob,
        elbo=elbo,
        kl_posterior=kl_posterior,
        log_likelihood=log_likelihood,
        kl_prior=kl_prior,
        kl_prior_closed=float(q.kl().sum()),
        error=max(float(a.error[0] / a.value[0]), float(b.error.max()), float(c.error[1] + c.error[0] / c.value[0])),
        outside=math.exp(outside),
        mean=first + tops[0],
        covariance=covariance,
        peaks=tops,
        evaluations=a.evaluations + b.evaluations + c.evaluations,
    )


def _few_latents(d: int) -> None:
    if d > 2:
        raise InputError(
            f"p(z | x) is drawn and integrated for 1 or 2 latents; this model has {d}, and a grid over them has no end.\n"
            "Train one with two: pofx train vae DATA --latents 2 --out runs/two. Its bound alone: pofx evaluate RUN."
        )


def _log_outside(reach: float, d: int) -> float:
    """log P(any |z_j| > reach) under the prior, at most: d · erfc(reach/√2), by its bound φ(r) · 2/r."""
    return math.log(2 * d / reach) - 0.5 * reach**2 - 0.5 * LOG_2PI


def _locate(problem: Inference) -> tuple[float, Tensor, Tensor, Tensor]:
    """How far the grid must reach, and the peaks of p(z|x): places `(j, d)`, widths `(j,)`, log p(x, z) of the best."""
    d, reach = problem.d, 8.0
    while True:
        tops, widths, best = peaks(problem.log_joint, reach, problem.q.mean)
        least = float(best[0]) + d * math.log(float(widths[0]))  # about log p(x), from the best peak alone
        needed = math.sqrt(2 * max(1.0, TAIL + problem.ceiling - least + math.log(2 * d)))
        if needed <= reach:
            return reach, tops, widths, best[0]
        reach = 1.05 * needed


@dataclass(frozen=True, eq=False)
class Picture:
    """The true posterior, to draw; q needs no grid.

    Attributes:
        axes: d tensors `(side,)`, the places along each latent.
        log_posterior: log p(z|x), `(side,)` or `(side, side)` with the first latent first, nats.
    """

    axes: tuple[Tensor, ...]
    log_posterior: Tensor


def picture(problem: Inference, parts: Decomposition) -> Picture:
    """p(z|x) on an even grid that holds its mass."""
    d = problem.d
    sigma = parts.covariance.diagonal().clamp(min=1e-24).sqrt()
    low, high = (parts.mean + side * 4.5 * sigma for side in (-1, 1))
    axes = tuple(torch.linspace(float(a), float(b), SIDE[d], dtype=torch.double) for a, b in zip(low, high, strict=True))
    with torch.no_grad():
        log_posterior = problem.log_joint(torch.cartesian_prod(*axes).reshape(-1, d)) - parts.log_prob
    return Picture(axes, log_posterior.reshape([SIDE[d]] * d))


# The importance-weighted estimate -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """L_k: mean over n repeats of `k` draws each, its standard error, and the standard deviation of one repeat; nats."""

    k: int
    mean: float
    se: float
    sd: float
    n: int

    @classmethod
    def of(cls, values: Tensor, k: int) -> Estimate:
        """From `(n,)` repeats."""
        sd = float(values.std()) if len(values) > 1 else math.nan
        return cls(k, float(values.mean()), sd / math.sqrt(len(values)), sd, len(values))


def weighted(problem: Inference, *, ks: Sequence[int] = KS, draws: int = DRAWS) -> tuple[Estimate, ...]:
    """L_k for each k, from the same `draws` of z: draws // k repeats, none of which share a draw.

    Raises:
        InputError: fewer than two repeats of the largest k.
    """
    if min(ks) < 1 or draws < 2 * max(ks):
        raise InputError(f"draws={draws} do not give two repeats of k={max(ks)}. Use at least --draws {2 * max(ks)}.")
    e = problem.epsilon(draws)
    with torch.no_grad():
        z = problem.q.sample(e)
        log_w = problem.log_joint(z) - problem.q.log_prob(z)
    return tuple(Estimate.of(torch.logsumexp(log_w[: draws // k * k].reshape(-1, k), 1) - math.log(k), k) for k in ks)


# Gradients ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Estimator:
    """A Monte Carlo gradient: `(2d,)` each, by q's mean, then by its log-variance.

    Attributes:
        mean: over n draws; se: its standard error.
        variance: of one draw.
    """

    name: str
    mean: Tensor
    se: Tensor
    variance: Tensor
    n: int

    @classmethod
    def of(cls, name: str, draws: Tensor) -> Estimator:
        """From `(n, 2d)` draws."""
        variance = draws.var(0)
        return cls(name, draws.mean(0), (variance / len(draws)).sqrt(), variance, len(draws))

    def to_json(self) -> dict[str, Any]:
        return {"mean": self.mean.tolist(), "se": self.se.tolist(), "variance": self.variance.tolist(), "n": self.n}


@dataclass(frozen=True, eq=False)
class Gradients:
    """∇L by q's mean and log-variance, exactly and by three estimators.

    Attributes:
        names: of the 2d components.
        exact: `(2d,)` nats per unit, by quadrature.
        reparameterized, score, baseline: of E_q[log p(x|z)]; −∇KL(q ‖ N(0, I)) is added in closed form to each. `baseline` is the score
            function with E_q[log p(x|z)] taken off first.
    """

    names: tuple[str, ...]
    exact: Tensor
    reparameterized: Estimator
    score: Estimator
    baseline: Estimator

    @property
    def estimators(self) -> tuple[Estimator, ...]:
        return self.reparameterized, self.score, self.baseline

    def ratio(self, estimator: Estimator) -> Tensor:
        """Its variance over that of the reparameterized one, `(2d,)`: so many times more draws for the same error."""
        return estimator.variance / self.reparameterized.variance

    def to_json(self) -> dict[str, Any]:
        return {"names": list(self.names), "exact": self.exact.tolist()} | {
            e.name: e.to_json() | {"variance_ratio": self.ratio(e).tolist()} for e in self.estimators
        }


def gradients(problem: Inference, parts: Decomposition, *, draws: int = GRADIENT_DRAWS, points: int = POINTS) -> Gradients:
    """The gradient of L by q's mean and log-variance at one image: by quadrature, and as training could estimate it.

    Args:
        parts: of the same problem; gives the baseline.
        draws: of z, the same for all estimators.
        points: evaluations of the decoder that the integral may take.

    Raises:
        InputError: more than two latents, or fewer than two draws.
        RunError: the integral has not converged.
    """
    d, q, sigma = problem.d, problem.q, problem.sigma
    _few_latents(d)
    if draws < 2:
        raise InputError(f"draws={draws}: a variance needs at least two, e.g. --gradient-draws 1000.")

    def slope(u: Tensor) -> Tensor:
        """∇log q at z = μ + σu by (μ, log σ²): `(n, 2d)`."""
        return torch.cat([u / sigma, 0.5 * (u**2 - 1)], 1)

    def integrand(u: Tensor) -> Tensor:
        z = q.mean + sigma * u
        gap = problem.log_joint(z) - q.log_prob(z) - parts.elbo  # less a constant, which changes nothing: E_q[∇log q] = 0
        return slope(u) * (gap * log_prior(u).exp())[:, None]

    ten, zero = torch.full((d,), 10.0, dtype=torch.double), torch.zeros(1, d, dtype=torch.double)
    with torch.no_grad():
        cells = mesh(-ten, ten, zero, torch.ones(1, dtype=torch.double))
        exact = integrate(integrand, *cells, tolerance=lambda v: TOLERANCES[0] * (1 + v.abs()), most=points).value
    e = problem.epsilon(draws)
    z = q.sample(e).requires_grad_()
    with torch.enable_grad():
        log_likelihood = problem.log_likelihood(z)
        by_z = torch.autograd.grad(log_likelihood.sum(), z)[0]
    log_likelihood = log_likelihood.detach()[:, None]
    kl = torch.cat([q.mean, 0.5 * (q.log_variance.exp() - 1)], 1)  # ∇KL(q ‖ N(0, I))
    path = torch.cat([by_z, 0.5 * by_z * e * sigma], 1)
    return Gradients(
        tuple(f"{what}{j + 1}" for what in ("mean ", "log-variance ") for j in range(d)),
        exact,
        Estimator.of("reparameterized", path - kl),
        Estimator.of("score", log_likelihood * slope(e) - kl),
        Estimator.of("baseline", (log_likelihood - parts.log_likelihood) * slope(e) - kl),
    )


# All of it for one image ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class BoundOfImage:
    """What one image's bound loses, and what its estimators do.

    Attributes:
        q: q(z|x), `(1, d)`.
        parts: log p(x) = L + KL.
        picture: p(z|x) and q(z|x) to draw.
        weighted: L_k for k = 1, 10, 100, 1000.
        gradients: of L by q's parameters.
    """

    q: Gaussian
    parts: Decomposition
    picture: Picture
    weighted: tuple[Estimate, ...]
    gradients: Gradients

    def to_json(self) -> dict[str, Any]:
        return self.parts.to_json() | {
            "q": {"mean": self.q.mean[0].tolist(), "log_variance": self.q.log_variance[0].tolist()},
            "importance_weighted": [asdict(e) for e in self.weighted],
            "gradients": self.gradients.to_json(),
        }


def bound(
    model: ImageModel,
    x: Tensor,
    given: Any = None,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    gradient_draws: int = GRADIENT_DRAWS,
    points: int = POINTS,
    progress: Progress | None = None,
) -> BoundOfImage:
    """Take the bound of one image apart: log p(x) = L + KL(q ‖ p(z|x)) by quadrature, L_k, and the gradients of L.

    Args:
        x: uint8 `(1, C, H, W)`.
        given: the view's value, where the model is conditional.
        seed: of the draws.
        draws: of z for L_k; gradient_draws: for the gradients' estimators.
        points: evaluations of the decoder that one integral may take.
        progress: called with (done, 7).

    Raises:
        CapabilityError: the model has no Gaussian q(z|x) over latents.
        InputError: more than two latents, not one image, too few draws.
        RunError: an integral has not converged within `points`.

    >>> from pofx.models.variational.vae import VAE
    >>> from pofx.space import ImageSpace
    >>> model = VAE(ImageSpace(1, 3, 3, levels=2), latents=1, network="mlp", hidden=4)
    >>> found = bound(model, model.sample(1), draws=2000, gradient_draws=10)
    >>> abs(found.parts.log_prob - found.parts.elbo - found.parts.kl_posterior) < 1e-6
    True
    """
    tell = progress or (lambda done, total: None)
    _few_latents(require(model, LatentVariable, to="show what its bound loses").latent_dims)
    problem = inference(model, x, given, seed=seed)
    parts = decompose(problem, points=points, progress=lambda done, total: tell(done, 7))
    drawn = picture(problem, parts)
    tell(5, 7)
    estimates = weighted(problem, draws=draws)
    tell(6, 7)
    slopes = gradients(problem, parts, draws=gradient_draws, points=points)
    tell(7, 7)
    return BoundOfImage(problem.q, parts, drawn, estimates, slopes)


# Why the integral is intractable ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LinearGaussian:
    """Probabilistic PCA: z ~ N(0, I), x = Wz + s·noise, so that log p(x) = log N(x; 0, WWᵀ + s²I) (Tipping and Bishop 1999, eq. 3).

    Attributes:
        weight: W, `(dims, d)` float64.
        scale: s.
        x: `(dims,)`, one observation.
    """

    weight: Tensor
    scale: float
    x: Tensor

    @classmethod
    def random(cls, d: int, *, dims: int = 64, signal: float = 5.0, seed: int = 0) -> LinearGaussian:
        """Random directions, each `signal` times as strong as the noise, and an x drawn from it.

        >>> LinearGaussian.random(2).weight.shape
        torch.Size([64, 2])
        """
        noise = Noise(seed, torch.tensor([d]))
        weight = noise.normal("weight", dims, d)[0]
        weight = signal * weight / weight.norm(dim=0)
        return cls(weight, 1.0, weight @ noise.normal("z", d)[0] + noise.normal("x", dims)[0])

    def log_likelihood(self, z: Tensor) -> Tensor:
        """log N(x; Wz, s²I) of z `(n, d)`: `(n,)` nats."""
        away = self.x - z @ self.weight.T
        return -0.5 * (away**2).sum(-1) / self.scale**2 - len(self.x) * (math.log(self.scale) + 0.5 * LOG_2PI)

    @property
    def precision(self) -> Tensor:
        """Of p(z|x), `(d, d)`: I + WᵀW/s²."""
        return torch.eye(self.weight.shape[1], dtype=torch.double) + self.weight.T @ self.weight / self.scale**2

    @property
    def log_prob(self) -> float:
        """log p(x), nats, through the d×d precision."""
        half = torch.linalg.cholesky(self.precision)
        projected = torch.linalg.solve_triangular(half, (self.weight.T @ self.x)[:, None], upper=False)[:, 0] / self.scale**2
        square = (self.x**2).sum() / self.scale**2 - (projected**2).sum()
        return float(-0.5 * (square + len(self.x) * (LOG_2PI + 2 * math.log(self.scale))) - half.diagonal().log().sum())

    @property
    def q(self) -> Gaussian:
        """The best q with a diagonal covariance: the posterior's mean, and one over the diagonal of its precision."""
        mean = torch.linalg.solve(self.precision, self.weight.T @ self.x / self.scale**2)
        return Gaussian(mean[None], -self.precision.diagonal().log()[None])

    @property
    def kl_posterior(self) -> float:
        """KL(q ‖ p(z|x)) of that q: ½(Σ log A_jj − log det A), A the precision."""
        return float(0.5 * (self.precision.diagonal().log().sum() - torch.logdet(self.precision)))

    def inference(self, seed: int = 0) -> Inference:
        ceiling = -len(self.x) * (math.log(self.scale) + 0.5 * LOG_2PI)
        return Inference(self.log_likelihood, self.q, ceiling, Noise(seed, torch.zeros(1, dtype=torch.long)))


@dataclass(frozen=True)
class Growth:
    """Two estimates of log p(x) with the same number of draws, less the truth.

    Attributes:
        d: latents.
        log_prob: the truth, nats; `se` its standard error, 0 where it is exact.
        kl: KL(q ‖ N(0, I)), nats. Draws from the prior suffice where there are many more than e^KL (Chatterjee and Diaconis 2018).
        draws: of z in each estimate.
        prior: log mean p(x|z), z ~ N(0, I): mean error and its standard error, and standard deviation of one estimate, nats.
        proposal: the same with z ~ q and importance weights.
    """

    d: int
    log_prob: float
    se: float
    kl: float
    draws: int
    prior: Estimate
    proposal: Estimate


def compare(problem: Inference, log_prob: float, se: float = 0.0, *, draws: int = 1000, repeats: int = 40) -> Growth:
    """Both estimates for one image, `repeats` times, against log p(x)."""
    e = problem.epsilon(draws * repeats)
    with torch.no_grad():
        z = problem.q.sample(e)
        weights = problem.log_likelihood(e), problem.log_joint(z) - problem.q.log_prob(z)
    prior, proposal = (Estimate.of(torch.logsumexp(w.reshape(repeats, draws), 1) - math.log(draws) - log_prob, draws) for w in weights)
    return Growth(problem.d, log_prob, se, float(problem.q.kl().sum()), draws, prior, proposal)


def growth(
    latents: Sequence[int] = (1, 2, 4, 8, 16, 32), *, draws: int = 1000, repeats: int = 40, signal: float = 5.0, seed: int = 0
) -> tuple[Growth, ...]:
    """How the two estimates go wrong as the latent grows, on probabilistic PCA of 64 numbers, where log p(x) is known.

    Args:
        latents: how many, one result each.
        draws: of z in each estimate, the same for all.
        repeats: of each estimate.
        signal: how much stronger than the noise each latent is; the posterior is about so many times narrower than the prior.

    >>> few, many = growth((1, 16), draws=100, repeats=10)
    >>> abs(few.prior.mean) < 1 < 10 < -many.prior.mean, abs(many.proposal.mean) < 3
    (True, True)
    """
    out = []
    for d in latents:
        model = LinearGaussian.random(d, signal=signal, seed=seed)
        out.append(compare(model.inference(seed), model.log_prob, draws=draws, repeats=repeats))
    return tuple(out)


# The aggregate posterior ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Aggregate:
    """q(z) = 1/n Σ_i q(z|x_i) beside the prior.

    Attributes:
        mean, log_variance: of each q(z|x_i), `(n, d)`.
        z: one draw of each, `(n, d)`.
        rate: mean KL(q(z_j|x) ‖ N(0, 1)) of each latent, `(d,)` nats: how much it is used.
        centre, variance: of q(z) by its moments, `(d,)`.
        reconstruction: mean −E_q[log p(x|z)], one draw an image, nats; `se` its standard error.
    """

    mean: Tensor
    log_variance: Tensor
    z: Tensor
    rate: Tensor
    centre: Tensor
    variance: Tensor
    reconstruction: float
    se: float

    @property
    def kl(self) -> Tensor:
        """KL(N(centre_j, variance_j) ‖ N(0, 1)) of each latent, `(d,)` nats: 0 where q(z) has the prior's mean and variance."""
        return Gaussian(self.centre, self.variance.log()).kl()

    @property
    def active(self) -> Tensor:
        """Latents by their rate, most used first, int64 `(d,)`."""
        return self.rate.argsort(descending=True, stable=True)

    def to_json(self) -> dict[str, Any]:
        return {
            "n": len(self.mean),
            "kl": float(self.rate.sum()),
            "reconstruction": self.reconstruction,
            "reconstruction_se": self.se,
            "rate": self.rate.tolist(),
            "moment_matched": {"mean": self.centre.tolist(), "variance": self.variance.tolist(), "kl_to_prior": self.kl.tolist()},
        }


def aggregate(
    model: ImageModel, images: Images | Tensor, *, seed: int = 0, parts: Parts | None = None, progress: Progress | None = None
) -> Aggregate:
    """The posteriors of many images together, against the prior they should add up to; for any number of latents.

    Its moments are those of the mixture: the variance is that of the means plus the mean of the variances (law of total variance).

    Args:
        images: a `Split`, or uint8 `(n, C, H, W)`, n ≥ 2.
        seed: of one draw per image.
        parts: what `taken_apart` found of these images with this seed, where somebody asked before.

    Raises:
        CapabilityError: the model has no Gaussian q(z|x) over latents.
        InputError: fewer than two images, or of another space.

    >>> from pofx.models.variational.vae import VAE
    >>> from pofx.space import ImageSpace
    >>> model = VAE.small(ImageSpace(1, 4, 4, levels=2))
    >>> aggregate(model, model.sample(5)).kl.shape
    torch.Size([2])
    """
    latent = require(model, LatentVariable, to="show its aggregate posterior")
    images = as_images(images)
    if len(images) < 2:
        raise InputError(f"An aggregate needs at least two images, found {len(images)}. Give a whole part, e.g. digits:test.")
    found = taken_apart(latent, images, seed=seed, progress=progress) if parts is None else parts
    if len(found.mean) != len(images):
        raise InputError(f"These are the parts of {len(found.mean)} images, and there are {len(images)}. Leave out parts.")

    def drawn(x: Tensor, y: Tensor | None) -> Tensor:
        batch = latent.batch(x, y)
        return latent.encode(batch.x, batch.given, sample=True, seed=seed).double()

    z = per_image(latent, drawn, images, progress=progress)
    cost = Mean.of(-found.log_likelihood)
    mean, log_variance = found.mean, found.log_variance
    variance = mean.var(0, correction=0) + log_variance.exp().mean(0)
    return Aggregate(mean, log_variance, z, found.kl.mean(0), mean.mean(0), variance, cost.mean, cost.se)
