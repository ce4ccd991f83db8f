"""CRPS: closed forms, the fair estimate unbiased at any number of draws, the discrete one against the integral."""

from __future__ import annotations

import pytest
import torch

from pofx.errors import InputError
from pofx.metrics.crps import crps, crps_discrete, crps_normal


@pytest.mark.parametrize(("mean", "sd", "y"), [(0.0, 1.0, 0.0), (1.0, 2.0, -3.0), (-2.0, 0.5, -1.0)])
def test_many_draws_of_a_gaussian_give_its_closed_form(mean: float, sd: float, y: float) -> None:
    draws = mean + sd * torch.randn(400, 1000, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    each = crps(draws, torch.full((400,), y))
    exact = float(crps_normal(torch.tensor(mean), torch.tensor(sd), torch.tensor(y)))
    assert abs(float(each.mean()) - exact) < 4 * float(each.std()) / 20


def test_two_draws_are_unbiased() -> None:
    """The estimate over all pairs would be too large by E|X − X′| / 4."""
    draws = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    each, exact = crps(draws, torch.zeros(len(draws))), float(crps_normal(torch.tensor(0.0), torch.tensor(1.0), torch.tensor(0.0)))
    assert abs(float(each.mean()) - exact) < 4 * float(each.std()) / len(draws) ** 0.5 < 0.01


def test_it_is_the_sum_over_pairs() -> None:
    x, y = torch.tensor([0.0, 3.0, 1.0, 7.0], dtype=torch.double), torch.tensor(2.0)
    pairs = [(a - b).abs() for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    assert float(crps(x, y)) == pytest.approx(float((x - y).abs().mean() - torch.stack(pairs).mean() / 2))


def test_one_draw_is_the_absolute_error_and_none_is_refused() -> None:
    assert crps(torch.tensor([[3.0]]), torch.tensor([5.0])).tolist() == [2.0]
    with pytest.raises(InputError, match="at least one draw"):
        crps(torch.zeros(2, 0), torch.zeros(2))


@pytest.mark.parametrize("y", [0, 2, 4])
def test_the_discrete_one_is_its_expectation(y: int) -> None:
    """E|X − y| − ½ E|X − X′| over all values and pairs."""
    p = torch.tensor([0.1, 0.4, 0.0, 0.3, 0.2], dtype=torch.double)
    v = torch.arange(5, dtype=torch.double)
    exact = (p * (v - y).abs()).sum() - 0.5 * (p[:, None] * p * (v[:, None] - v).abs()).sum()
    assert float(crps_discrete(p.log(), torch.tensor(y))) == pytest.approx(float(exact), abs=1e-12)


def test_a_fine_grid_is_the_gaussian() -> None:
    edges = torch.linspace(-8, 8, 1601, dtype=torch.double)
    p = torch.special.ndtr(edges[1:]) - torch.special.ndtr(edges[:-1])
    found = crps_discrete(p.clamp(min=1e-300).log(), torch.tensor(900)) * 0.01  # the step whose middle is 1.005
    assert float(found) == pytest.approx(float(crps_normal(torch.tensor(0.0), torch.tensor(1.0), torch.tensor(1.005))), abs=1e-4)
