"""The bound of one image: against closed forms, against itself on other grids, and where a grid could go wrong."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from pofx.errors import CapabilityError, InputError, RunError
from pofx.model import Gaussian
from pofx.models.autoregressive.pixelcnn import PixelCNN
from pofx.models.variational.vae import VAE
from pofx.space import ImageSpace
from pofx.tasks import bound as module
from pofx.tasks._quadrature import GAUSS, KRONROD, NODES, integrate, mesh, peaks
from pofx.tasks.bound import Inference, LinearGaussian, aggregate, bound, compare, decompose, gradients, growth, inference, weighted
from pofx.testing import fit, quadrature_log_prob, random_batch, random_images
from pofx.views import Label

SPACE = ImageSpace(1, 4, 4, levels=3)


@pytest.fixture(scope="module")
def vae() -> VAE:
    """Two latents, float32, fitted so that both are used."""
    torch.manual_seed(0)
    model = VAE(SPACE, latents=2, network="mlp", hidden=16, kl_warmup=0.0)
    x = torch.cat([torch.zeros(12, 1, 4, 4), torch.ones(12, 1, 4, 4), 2 * torch.ones(12, 1, 4, 4)]).to(torch.uint8)
    x[::2, :, :2] = 0
    fit(model, model.batch(x), 150, lr=1e-2)
    return model


@pytest.fixture(scope="module")
def image() -> Tensor:
    x = torch.full((1, 1, 4, 4), 2, dtype=torch.uint8)
    x[:, :, :2] = 0
    return x


def mixture(means: list[list[float]], scales: list[float], q: Gaussian, floor: float = -5.0) -> tuple[Inference, float]:
    """A likelihood of Gaussian bumps of height e^floor, and its log p(x) = log Σ_i ∫ bump_i N(z; 0, I) dz in closed form."""
    at, scale = torch.tensor(means, dtype=torch.double), torch.tensor(scales, dtype=torch.double)
    d = at.shape[1]

    def log_likelihood(z: Tensor) -> Tensor:
        return torch.logsumexp(-0.5 * ((z[:, None] - at) ** 2).sum(2) / scale**2, 1) + floor

    spread = 1 + scale**2
    terms = d * scale.log() - 0.5 * d * spread.log() - 0.5 * (at**2).sum(1) / spread
    return Inference(log_likelihood, q, ceiling=floor + math.log(len(means))), float(torch.logsumexp(terms, 0) + floor)


def gaussian(mean: list[float], sigma: list[float]) -> Gaussian:
    return Gaussian(torch.tensor([mean], dtype=torch.double), 2 * torch.tensor([sigma], dtype=torch.double).log())


# Quadrature --------------------------------------------------------------------------------------------------------------------------------


def test_the_rule_is_exact_for_polynomials() -> None:
    """Kronrod's 15 nodes for degree 22 at least, Gauss's 7 for degree 13."""
    x = torch.tensor([-v for v in NODES] + list(NODES[-2::-1]), dtype=torch.double)
    for weights, degree in ((KRONROD, 22), (GAUSS, 13)):
        w = torch.tensor(list(weights) + list(weights[-2::-1]), dtype=torch.double)
        for k in range(degree + 1):
            assert float((w * x**k).sum()) == pytest.approx(2 / (k + 1) if k % 2 == 0 else 0.0, abs=1e-14)
        assert abs(float((w * x ** (degree + 2 - degree % 2)).sum()) - 2 / (degree + 3 - degree % 2)) > 1e-15


def test_cells_are_split_until_a_kink_is_found() -> None:
    """∫ |x − 0.3| |y + 0.2| over [−1, 1]²: no polynomial, and the error that is said holds."""
    one = torch.ones(2, dtype=torch.double)
    cells = mesh(-one, one, torch.zeros(1, 2, dtype=torch.double), torch.ones(1, dtype=torch.double))
    found = integrate(
        lambda z: ((z[:, 0] - 0.3).abs() * (z[:, 1] + 0.2).abs())[:, None], *cells, tolerance=lambda v: 1e-6 + 0 * v, most=3_000_000
    )
    exact = (1.3**2 + 0.7**2) / 2 * (1.2**2 + 0.8**2) / 2
    assert abs(float(found.value) - exact) <= float(found.error) <= 1e-6
    assert len(found.centre) > 50
    assert float((2 * found.half).prod(1).sum()) == pytest.approx(4)


def test_an_integral_that_does_not_converge_is_an_error() -> None:
    problem, _ = mixture([[0.3, 0.1]], [0.2], gaussian([0.3, 0.1], [0.3, 0.3]))
    with pytest.raises(RunError, match="--points"):
        decompose(problem, points=3000)


def test_a_decoder_that_is_not_finite_is_an_error() -> None:
    problem, _ = mixture([[0.3]], [0.2], gaussian([0.3], [0.3]))
    broken = replace(problem, log_likelihood=lambda z: torch.where(z[:, 0] > 1, math.nan, problem.log_likelihood(z)))
    with pytest.raises(RunError, match="not finite"):
        decompose(broken)


def test_every_peak_is_found() -> None:
    """Three narrow ones, none near a start."""
    problem, _ = mixture([[2.13, -1.71], [-1.9, 0.37], [0.21, 3.3]], [0.01, 0.03, 0.2], gaussian([0, 0], [1, 1]))
    found, width, _ = peaks(problem.log_joint, 8.0, torch.zeros(1, 2, dtype=torch.double))
    for at, scale in zip([[2.13, -1.71], [-1.9, 0.37], [0.21, 3.3]], [0.01, 0.03, 0.2], strict=True):
        away = (found - torch.tensor(at)).norm(dim=1)
        near = int(away.argmin())
        assert float(away[near]) < 2 * scale
        assert 0.2 < float(width[near]) / scale < 3


# log p(x) = L + KL -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("signal", [0.1, 5.0, 2000.0])
def test_linear_gaussian_is_the_closed_form(d: int, signal: float) -> None:
    """Probabilistic PCA, from a posterior like the prior to one 2000 times narrower."""
    model = LinearGaussian.random(d, signal=signal)
    found = decompose(model.inference())
    covariance = model.weight @ model.weight.T + model.scale**2 * torch.eye(64, dtype=torch.double)
    direct = torch.distributions.MultivariateNormal(torch.zeros(64, dtype=torch.double), covariance).log_prob(model.x)
    assert model.log_prob == pytest.approx(float(direct), abs=1e-6)
    assert found.log_prob == pytest.approx(model.log_prob, abs=1e-6)
    assert found.kl_posterior == pytest.approx(model.kl_posterior, abs=1e-6)
    assert found.elbo == pytest.approx(model.log_prob - model.kl_posterior, abs=1e-6)
    assert torch.allclose(found.covariance, torch.linalg.inv(model.precision), rtol=1e-5)
    assert torch.allclose(found.mean, model.q.mean[0], atol=1e-6)


@pytest.mark.parametrize(
    ("means", "scales", "q"),
    [
        ([[0.7], [-1.3]], [0.1, 0.02], gaussian([0.7], [0.15])),  # two peaks, q on one of them
        ([[1.234]], [0.0003], gaussian([1.0], [0.5])),  # a peak 1000 times narrower than q
        ([[2.13, -1.71], [-1.9, 0.37]], [0.03, 0.3], gaussian([-1.9, 0.4], [0.3, 0.2])),
        ([[0.5, 0.5], [0.55, 0.5]], [0.01, 0.01], gaussian([0.5, 0.5], [0.02, 0.01])),
        ([[4.5, -4.0]], [0.05], gaussian([4.4, -4.0], [0.05, 0.001])),  # far out; q flat in one direction
    ],
)
def test_many_and_narrow_peaks(means: list[list[float]], scales: list[float], q: Gaussian) -> None:
    problem, log_prob = mixture(means, scales, q)
    found = decompose(problem)
    assert found.log_prob == pytest.approx(log_prob, abs=1e-6)
    assert abs(found.residual) < 1e-6
    assert found.kl_prior == pytest.approx(found.kl_prior_closed, abs=1e-6)
    assert found.kl_posterior > 0 and found.outside < 1e-9 and found.error < 1e-6


def test_an_unexplained_image_needs_a_wider_grid() -> None:
    """The likelihood rises outwards for long: all mass lies beyond |z| = 8."""
    q = gaussian([12.0], [0.2])
    problem, log_prob = mixture([[12.5]], [0.1], q, floor=-60.0)
    assert decompose(problem).log_prob == pytest.approx(log_prob, abs=1e-6)


def test_a_vae_is_taken_apart(vae: VAE, image: Tensor) -> None:
    """On the real modules: against the grid of `pofx.testing`, and against draws of the model's own bound."""
    found = decompose(inference(vae, image))
    double = VAE(**vae.config()).double()
    double.load_state_dict(vae.state_dict())
    with torch.no_grad():
        assert float(quadrature_log_prob(double, image, points=301)[0]) == pytest.approx(found.log_prob, abs=1e-6)
        draws = torch.stack([double.elbo(image, samples=100, seed=s)[0] for s in range(20)])
    assert abs(float(draws.mean()) - found.elbo) < 4 * float(draws.std()) / 20**0.5
    assert found.elbo == pytest.approx(found.log_likelihood - found.kl_prior_closed, abs=1e-6)
    assert abs(found.residual) < 1e-6


@pytest.mark.parametrize("latents", [1, 2])
def test_a_sharp_decoder(latents: int) -> None:
    """Codes count 40 times as much: p(z|x) is narrow, far from q, and has several peaks or a ridge."""
    torch.manual_seed(0)
    model = VAE(ImageSpace(1, 4, 4, levels=2), latents=latents, network="mlp", hidden=16)
    x = random_images(1, model.space)
    plain = decompose(inference(model, x))
    with torch.no_grad():
        next(iter(model.decoder.parameters())).mul_(40)
    sharp = decompose(inference(model, x))
    for found in (plain, sharp):
        assert abs(found.residual) < 1e-6 and found.error < 1e-6 and found.outside < 1e-9
    assert sharp.kl_posterior > 5 * plain.kl_posterior
    with torch.no_grad():  # a plain grid that is fine enough gives the same
        brute = quadrature_log_prob(model.double(), x, points=200_001 if latents == 1 else 1201)
    assert sharp.log_prob == pytest.approx(float(brute[0]), abs=1e-6 if latents == 1 else 1e-4)


@pytest.mark.parametrize("until", [1, 10])
def test_grids_that_contradict_each_other_are_refined(monkeypatch: pytest.MonkeyPatch, until: int) -> None:
    """Were the first grid wrong by a few millionths, all are computed again, finer; were it so each time, it would be said."""
    problem = LinearGaussian.random(1).inference()
    calls: list[float] = []

    def wrong(f, *args, tolerance, **kwargs):
        found = integrate(f, *args, tolerance=tolerance, **kwargs)
        if found.value.shape == (3,) and "mass" in f.__qualname__:
            calls.append(float(tolerance(torch.ones(1))))
            return replace(found, value=found.value * (1 + 3e-6)) if len(calls) <= until else found
        return found

    monkeypatch.setattr(module, "integrate", wrong)
    if until == 1:
        assert abs(decompose(problem).residual) < 1e-6
        assert calls == pytest.approx([1e-7, 1e-9])
    else:
        with pytest.raises(RunError, match="contradict"):
            decompose(problem)
        assert len(calls) == 3


def test_a_conditional_model_is_taken_apart_given_its_label() -> None:
    torch.manual_seed(0)
    model = VAE(SPACE, Label(3), latents=1, network="mlp", hidden=8)
    fit(model, random_batch(model, 16), 30, lr=1e-2)
    x = random_images(1, SPACE)
    found = [decompose(inference(model, x, torch.tensor([k]))).log_prob for k in range(3)]
    assert len({round(v, 6) for v in found}) == 3
    with pytest.raises(InputError, match="given="):
        inference(model, x)


def test_what_cannot_be_done_is_said() -> None:
    x = random_images(2, SPACE)
    with pytest.raises(InputError, match="--latents 2") as error:
        bound(VAE(SPACE, latents=3, network="mlp", hidden=4), x[:1])
    assert len(str(error.value).splitlines()) <= 3
    with pytest.raises(InputError, match="One image"):
        bound(VAE(SPACE, latents=2, network="mlp", hidden=4), x)
    with pytest.raises(CapabilityError, match="LatentVariable"):
        bound(PixelCNN.small(SPACE), x[:1])


def test_the_model_is_left_as_it_was(vae: VAE, image: Tensor) -> None:
    before = {k: v.clone() for k, v in vae.state_dict().items()}
    vae.train()
    bound(vae, image, draws=2000, gradient_draws=100)
    assert vae.training and vae.dtype == torch.float32
    assert all(p.requires_grad for p in vae.parameters())
    assert all(torch.equal(before[k], v) for k, v in vae.state_dict().items())


# The importance-weighted estimate ---------------------------------------------------------------------------------------------------------


def test_weighted_estimates_lie_between_the_bound_and_log_p(vae: VAE, image: Tensor) -> None:
    problem = inference(vae, image)
    parts, found = decompose(problem), weighted(problem)
    assert abs(found[0].mean - parts.elbo) < 4 * found[0].se
    for a, b in pairwise(found):
        assert a.mean < b.mean + 4 * (a.se + b.se)
    assert all(e.mean < parts.log_prob + 4 * e.se for e in found)
    assert [(e.k, e.n) for e in found] == [(1, 20_000), (10, 2000), (100, 200), (1000, 20)]
    assert found[2].mean > parts.elbo + 4 * found[2].se
    with pytest.raises(InputError, match="--draws 2000"):
        weighted(problem, draws=1500)


def test_weighted_estimate_of_linear_gaussian_is_the_closed_form() -> None:
    for d in (2, 8):
        model = LinearGaussian.random(d)
        found = weighted(model.inference(), ks=(1, 1000))
        assert abs(found[0].mean - (model.log_prob - model.kl_posterior)) < 4 * found[0].se
        assert abs(found[1].mean - model.log_prob) < 4 * found[1].se + 1e-4


# Gradients ---------------------------------------------------------------------------------------------------------------------------------


def test_gradients_agree_and_the_score_function_varies_more(vae: VAE, image: Tensor) -> None:
    problem = inference(vae, image)
    found = gradients(problem, decompose(problem), draws=4000)
    for e in found.estimators:
        assert bool(((e.mean - found.exact).abs() < 4 * e.se).all()), e.name
    assert bool((found.ratio(found.score) > 1).all())
    assert bool((found.score.variance > found.baseline.variance).all())


def test_the_exact_gradient_is_the_slope_of_the_exact_bound(image: Tensor) -> None:
    """By central differences of L over q's mean and log-variance."""
    torch.manual_seed(0)
    problem = inference(VAE(SPACE, latents=1, network="mlp", hidden=16), image)
    exact = gradients(problem, decompose(problem), draws=10).exact
    theta, h = torch.cat([problem.q.mean, problem.q.log_variance], 1), 1e-3
    for i in range(2):
        values = []
        for sign in (1, -1):
            moved = theta.clone()
            moved[0, i] += sign * h
            values.append(decompose(replace(problem, q=Gaussian(moved[:, :1], moved[:, 1:]))).elbo)
        assert float(exact[i]) == pytest.approx((values[0] - values[1]) / (2 * h), abs=2e-4)
    assert float(exact.abs().max()) > 0.01


def test_the_gradient_of_linear_gaussian_is_zero_at_its_best_q() -> None:
    problem = LinearGaussian.random(2).inference()
    assert float(gradients(problem, decompose(problem), draws=10).exact.abs().max()) < 1e-6


# As the latent grows -----------------------------------------------------------------------------------------------------------------------


def test_naive_monte_carlo_fails_as_the_latent_grows() -> None:
    found = growth((1, 4, 16), draws=500, repeats=20)
    assert abs(found[0].prior.mean) < 0.5
    assert found[0].prior.mean > found[1].prior.mean > found[2].prior.mean
    assert found[2].prior.mean < -20 and abs(found[2].proposal.mean) < 1
    assert all(g.proposal.sd < g.prior.sd for g in found)
    assert (found[0].d, found[0].draws, found[0].prior.n) == (1, 500, 20)


def test_both_estimates_are_right_before_the_logarithm() -> None:
    """With many draws of one latent both give log p(x)."""
    model = LinearGaussian.random(1, signal=2.0)
    found = compare(model.inference(), model.log_prob, draws=20_000, repeats=10)
    for e in (found.prior, found.proposal):
        assert abs(e.mean) < 4 * e.se + 1e-3


# The aggregate posterior -------------------------------------------------------------------------------------------------------------------


def test_aggregate_has_the_moments_of_the_mixture() -> None:
    torch.manual_seed(0)
    model = VAE(SPACE, latents=3, network="mlp", hidden=8)
    fit(model, random_batch(model, 16), 30, lr=1e-2)
    x = random_images(150, SPACE)  # more than one batch
    found = aggregate(model, x)
    with torch.no_grad():
        q = model.posterior(x)
        many = torch.cat([model.encode(x, sample=True, seed=s) for s in range(200)]).double()
        parts = model.bound(x)
    assert torch.allclose(found.mean, q.mean.double(), atol=1e-5)
    assert torch.allclose(found.centre, many.mean(0), atol=0.03)
    assert torch.allclose(found.variance, many.var(0), rtol=0.03)
    assert torch.allclose(found.rate, parts.kl.double().mean(0), atol=1e-4)
    assert found.reconstruction == pytest.approx(-float(parts.log_likelihood.mean()), rel=1e-5)
    for j in range(3):
        m, v = float(found.centre[j]), float(found.variance[j])
        assert float(found.kl[j]) == pytest.approx(0.5 * (m**2 + v - 1 - math.log(v)))
    assert found.active[0] == found.rate.argmax()
    assert bool((found.z != found.mean).any())
    with pytest.raises(InputError, match="at least two"):
        aggregate(model, x[:1])
