"""Heads: they sum to one exactly, their tables are their log_prob, and their samples follow them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pofx.errors import InputError
from pofx.likelihoods import Likelihood, log_bin_mass
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.testing import chi_square, every_image


@settings(deadline=None, max_examples=60)
@given(mean=st.floats(-3, 3), log_scale=st.floats(-12, 6), levels=st.integers(2, 256))
def test_the_discretized_logistic_sums_to_one(mean: float, log_scale: float, levels: int) -> None:
    x = torch.arange(levels, dtype=torch.double)
    mass = log_bin_mass(x, torch.tensor(mean, dtype=torch.double), torch.tensor(log_scale, dtype=torch.double), levels)
    assert abs(float(mass.exp().sum()) - 1) < 1e-12 and bool(torch.isfinite(mass).all())


def test_a_bin_is_the_difference_of_two_sigmoids() -> None:
    mean, log_scale, levels = 0.1, -1.5, 16
    x = torch.arange(levels, dtype=torch.double)
    edge = lambda v: torch.sigmoid((v / (levels - 1) * 2 - 1 - mean) / math.exp(log_scale))  # noqa: E731
    expected = edge(x + 0.5) - edge(x - 0.5)
    expected[0], expected[-1] = edge(torch.tensor(0.5)), 1 - edge(torch.tensor(levels - 1.5))
    got = log_bin_mass(x, torch.tensor(mean, dtype=torch.double), torch.tensor(log_scale, dtype=torch.double), levels).exp()
    assert torch.allclose(got, expected, atol=1e-7)


def test_far_bins_have_finite_gradients() -> None:
    mean = torch.tensor([-50.0, 50.0, 0.0], requires_grad=True)
    log_scale = torch.tensor([-20.0, -7.0, 30.0], requires_grad=True)
    log_bin_mass(torch.tensor([255.0, 0.0, 100.0]), mean, log_scale, 256).sum().backward()
    assert bool(torch.isfinite(mean.grad).all()) and bool(torch.isfinite(log_scale.grad).all())  # type: ignore[union-attr]


CASES = [("bernoulli", 2), ("categorical", 3), ("logistic", 3), ("gaussian", 3), ("gaussian", 40), ("logistic-mixture", 3)]


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize(("name", "levels"), CASES)
def test_a_pixel_sums_to_one_and_tables_equal_log_prob(name: str, levels: int, channels: int) -> None:
    space = ImageSpace(channels, 1, 1, levels=levels)
    head = Likelihood(name, space, components=3)
    parameters = torch.randn(1, head.size, dtype=torch.double) * 2
    x = every_image(space)[:, :, 0, 0].long()
    p = head(parameters.expand(len(x), -1))
    log_prob = p.log_prob(x)
    assert abs(float(log_prob.sum(1).exp().sum()) - 1) < 1e-12
    for c in range(channels):
        table = p.table(c, x[:, :c])
        assert torch.allclose(table.exp().sum(-1), torch.ones(len(x), dtype=torch.double), atol=1e-12)
        assert torch.allclose(table.gather(-1, x[:, c : c + 1])[:, 0], log_prob[:, c], atol=1e-11)


@pytest.mark.parametrize(("name", "levels"), CASES)
def test_samples_follow_the_head(name: str, levels: int) -> None:
    space = ImageSpace(2, 1, 1, levels=levels)
    head = Likelihood(name, space, components=2)
    parameters = torch.randn(1, head.size, dtype=torch.double)
    x = every_image(space)[:, :, 0, 0].long()
    probabilities = head(parameters.expand(len(x), -1)).log_prob(x).sum(1).exp()
    u = Noise(0, torch.arange(20_000)).uniform("u", 2)
    drawn = head(parameters.expand(len(u), -1)).sample(u)
    counts = torch.bincount(drawn[:, 0] * levels + drawn[:, 1], minlength=len(x))
    assert chi_square(counts, probabilities) > 1e-4


@pytest.mark.parametrize("name", ["bernoulli", "categorical", "logistic", "gaussian"])
def test_mean_is_the_expectation(name: str) -> None:
    space = ImageSpace(1, 2, 2, levels=2)
    head = Likelihood(name, space)
    p = head(torch.randn(3, head.size, 2, 2, dtype=torch.double))
    assert torch.allclose(p.mean, p.log_prob(torch.ones(3, 1, 2, 2, dtype=torch.long)).exp())


def test_half_precision_bodies_are_scored_in_float32() -> None:
    head = Likelihood("categorical", ImageSpace(1, 1, 1))
    assert head(torch.randn(2, 256, dtype=torch.bfloat16)).log_prob(torch.zeros(2, 1, dtype=torch.long)).dtype == torch.float32


def test_bernoulli_of_grey_images_is_refused() -> None:
    with pytest.raises(InputError, match="2 levels"):
        Likelihood("bernoulli", ImageSpace(1, 2, 2, levels=256))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["logistic", "gaussian", "logistic-mixture"])
@pytest.mark.parametrize("levels", [2, 3, 17, 256])
def test_bisection_finds_the_value_that_the_table_gives(name: str, levels: int, channels: int) -> None:
    from pofx.model import inverse_cdf

    space = ImageSpace(channels, 1, 1, levels=levels)
    head = Likelihood(name, space, components=3)
    parameters = torch.randn(500, head.size, dtype=torch.double)
    u = Noise(0, torch.arange(500)).uniform("u", channels)
    p = head(parameters)
    x = p.sample(u)
    for c in range(channels):
        assert torch.equal(x[:, c], inverse_cdf(p.table(c, x[:, :c]), u[:, c]))


@pytest.mark.parametrize("name", ["logistic", "gaussian", "logistic-mixture"])
def test_the_mean_is_that_of_the_table(name: str) -> None:
    space = ImageSpace(1, 2, 2, levels=17)
    head = Likelihood(name, space, components=3)
    p = head(torch.randn(5, head.size, 2, 2, dtype=torch.double))
    table = p.table(0, torch.zeros(5, 0, 2, 2)).exp()
    assert torch.allclose(p.mean[:, 0], table @ torch.arange(17, dtype=torch.double), atol=1e-9)


def test_bins_sum_to_one_in_float32_too() -> None:
    x = torch.arange(256.0)
    for log_scale in (-7.0, -6.0, -4.0, -1.0):
        for mean in torch.linspace(-1.2, 1.2, 41):
            total = log_bin_mass(x, mean, torch.tensor(log_scale), 256).double().exp().sum()
            assert abs(float(total) - 1) < 3e-6


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", Likelihood.names)
def test_the_standard_deviation_is_that_of_all_images(name: str, channels: int) -> None:
    """E[(x − E x)²]^½ by enumeration; exact where channels are not coupled."""
    levels = 2 if name == "bernoulli" else 5
    space = ImageSpace(channels, 1, 1, levels=levels)
    head = Likelihood(name, space, components=3)
    parameters = torch.randn(4, head.size, 1, 1, dtype=torch.double)
    if name == "logistic-mixture" and channels == 3:
        parameters[:, -3 * 3 :] = 0  # the coupling
    x = every_image(space).long()
    for one in parameters:
        probability = head(one.expand(len(x), -1, 1, 1)).log_prob(x).flatten(1).sum(1).exp()[:, None]
        mean = (probability * x.flatten(1)).sum(0)
        expected = (probability * (x.flatten(1) - mean) ** 2).sum(0).sqrt()
        sd = head(one[None]).sd
        assert sd.shape == (1, channels, 1, 1)
        assert torch.allclose(sd.flatten(), expected, atol=1e-9)


def test_the_standard_deviation_of_coupled_channels_is_near() -> None:
    """A narrow mixture away from the ends, where the chain of channels is linear."""
    space = ImageSpace(3, 1, 1, levels=33)
    head = Likelihood("logistic-mixture", space, components=2)
    parameters = torch.randn(1, head.size, 1, 1, dtype=torch.double) * 0.2
    parameters[:, 8:14] = -2.5  # log-scales
    parameters[:, 14:] = torch.tensor([0.8, -0.5, 0.3] * 2, dtype=torch.double)[None, :, None, None]
    p = head(parameters)
    u = Noise(0, torch.arange(40_000)).uniform("u", 3, 1, 1)
    drawn = head(parameters.expand(len(u), -1, 1, 1)).sample(u).double()
    assert torch.allclose(p.sd[0], drawn.std(0), rtol=0.02)


def test_a_standard_deviation_in_float32_does_not_cancel() -> None:
    parameters = torch.tensor([[0.9, -6.0]])[..., None, None]
    for name, size in (("logistic", 2), ("gaussian", 2), ("logistic-mixture", 3)):
        head = Likelihood(name, ImageSpace(1, 1, 1), components=1)
        values = parameters if size == 2 else torch.cat([torch.zeros(1, 1, 1, 1), parameters], 1)
        assert abs(float(head(values).sd) - float(head(values.double()).sd)) < 1e-4
