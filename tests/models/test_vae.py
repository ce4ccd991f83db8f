"""What is particular to the VAE: its KL in closed form, its bound against the integral, noise keyed by the image."""

from __future__ import annotations

import math

import pytest
import torch

from pofx.errors import InputError
from pofx.models.variational.vae import VAE
from pofx.space import ImageSpace
from pofx.testing import every_image, quadrature_log_prob, random_images


def test_kl_is_the_integral() -> None:
    z = torch.linspace(-30, 30, 600_001, dtype=torch.double)
    for mean, log_variance in ((0.0, 0.0), (1.5, -2.0), (-0.3, 1.0)):
        log_q = -0.5 * ((z - mean) ** 2 / math.exp(log_variance) + log_variance + math.log(2 * math.pi))
        log_p = -0.5 * (z**2 + math.log(2 * math.pi))
        integral = torch.trapezoid(log_q.exp() * (log_q - log_p), z)
        closed = VAE.kl(torch.tensor([[mean]], dtype=torch.double), torch.tensor([[log_variance]], dtype=torch.double))
        assert abs(float(closed) - float(integral)) < 1e-8


def test_the_gap_of_the_bound_is_the_kl_to_the_true_posterior() -> None:
    """log p(x) − E[elbo] = KL(q(z|x) ‖ p(z|x)) by quadrature, one latent."""
    space = ImageSpace(1, 3, 3, levels=2)
    model = VAE(space, latents=1, channels=8, stages=1).double()
    x = random_images(1, space)
    z = torch.linspace(-8, 8, 4001, dtype=torch.double)[:, None]
    with torch.no_grad():
        mean, log_variance = model.posterior(x, None)
        log_q = -0.5 * ((z - mean) ** 2 / log_variance.exp() + log_variance + math.log(2 * math.pi))[:, 0]
        log_joint = model.unknown_sum(model.decode(z).log_prob(x.expand(len(z), -1, -1, -1))) - 0.5 * (z[:, 0] ** 2 + math.log(2 * math.pi))
        bound = torch.trapezoid(log_q.exp() * (log_joint - log_q), z[:, 0])
        gap = torch.trapezoid(log_q.exp() * (log_q - (log_joint - quadrature_log_prob(model, x, points=401))), z[:, 0])
        draws = torch.stack([model.elbo(x, samples=50, seed=s)[0] for s in range(40)])
        assert abs(float(quadrature_log_prob(model, x, points=401)[0] - bound - gap)) < 1e-8
        assert abs(float(draws.mean() - bound)) < 5 * float(draws.std()) / 40**0.5 + 1e-9


@pytest.mark.parametrize("likelihood", ["categorical", "logistic", "logistic-mixture"])
def test_every_likelihood_sums_to_one(likelihood) -> None:
    space = ImageSpace(3, 1, 2, levels=3)
    model = VAE(space, latents=1, channels=6, stages=1, likelihood=likelihood, components=2).double()
    with torch.no_grad():
        total = quadrature_log_prob(model, every_image(space)).exp().sum()
    assert abs(float(total) - 1) < 1e-6


def test_noise_belongs_to_the_image_not_to_its_place() -> None:
    model = VAE.small(ImageSpace(1, 5, 5))
    x = random_images(6, model.space)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    with torch.no_grad():
        assert torch.allclose(model.elbo(x)[order], model.elbo(x[order]), rtol=1e-6)
        assert not torch.allclose(model.elbo(x), model.elbo(x, seed=1))


def test_encode_gives_the_mean_unless_a_sample_is_asked_for() -> None:
    model = VAE.small(ImageSpace(1, 5, 5)).double()
    x = random_images(4, model.space)
    with torch.no_grad():
        assert torch.equal(model.encode(x), model.posterior(x, None)[0])
        assert not torch.equal(model.encode(x, sample=True), model.encode(x))


@pytest.mark.parametrize(
    "wrong", [{"latents": 0}, {"likelihood": "bernoulli"}, {"likelihood": "gauss"}, {"dropout": -0.1}, {"kl_warmup": 2.0}]
)
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError):
        VAE(ImageSpace(1, 8, 8), **wrong)
