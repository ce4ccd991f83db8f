"""`points-grid` and `points-ring`: the density is known, and what is said of samples follows from it."""

from __future__ import annotations

import math

import pytest
import torch

from pofx.data import load_data
from pofx.data.points import COUNT, NAMES, SD, centres, draw
from pofx.errors import InputError
from pofx.metrics.mode_coverage import mode_coverage


@pytest.mark.parametrize("name", NAMES)
def test_points_are_what_they_say(name: str) -> None:
    data = load_data(name)
    assert data.space.shape == (1, 1, 2) and data.space.levels == 256 and data.classes == len(centres(name))
    x, k = draw(name)
    assert len(x) == COUNT and torch.equal(draw(name, 100)[0], x[:100])
    away = x[:, 0, 0].double() - centres(name)[k]
    assert abs(float(away.mean())) < 0.03
    assert abs(float(away.var()) - (SD**2 + 1 / 12)) < 0.03  # rounding adds that of a uniform number


@pytest.mark.parametrize("name", NAMES)
def test_real_points_reach_the_ceiling_and_find_every_mode(name: str) -> None:
    noise = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    exact = centres(name)[torch.arange(20_000) % len(centres(name))] + SD * noise
    assert abs(mode_coverage(exact, centres(name), SD).near - (1 - math.exp(-4.5))) < 0.003
    real = mode_coverage(draw(name)[0][:, 0, 0].double(), centres(name), SD)
    assert real.found == real.modes and real.near > 0.98 and real.kl < 0.01


def test_a_collapse_is_seen() -> None:
    c = centres("points-ring")
    one = mode_coverage(c[:1].repeat(100, 1), c, SD)
    assert (one.found, one.near) == (1, 1.0) and one.kl == pytest.approx(math.log(8))
    between = mode_coverage((c[:1] + c[1:2]).repeat(5, 1) / 2, c, SD)
    assert (between.found, between.near, between.kl) == (0, 0.0, 0.0)


def test_what_has_no_modes_is_refused() -> None:
    with pytest.raises(InputError, match="points-grid and points-ring"):
        centres("digits")
    with pytest.raises(InputError, match="points"):
        mode_coverage(torch.zeros(0, 2), centres("points-ring"), SD)
