"""Forecasts: exact futures of a model that is known, honest baselines, seasons that are there, and what is refused."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch

from pofx.data.series import Scale
from pofx.errors import InputError
from pofx.metrics.crps import crps_discrete
from pofx.model import Autoregressive
from pofx.models.autoregressive.pixelrnn import PixelRNN
from pofx.models.variational.vae import VAE
from pofx.space import ImageSpace
from pofx.tasks.complete import complete, kept_region
from pofx.tasks.forecast import baselines, find_season, forecast, seasonal_naive
from pofx.testing import random_images
from pofx.views import Masked, Top

SPACE = ImageSpace(1, 1, 8, levels=4)


@pytest.fixture
def model() -> PixelRNN:
    return PixelRNN.small(SPACE)


def test_the_fair_crps_of_futures_is_the_exact_one_of_the_next_value(model: PixelRNN) -> None:
    """2,000 futures of one value against the model's own p(x_8 | x_1 … x_7)."""
    x = random_images(3, SPACE)
    found = forecast(model, x, 7, n=2000)
    steps = model.begin(3)
    for k in range(7):
        steps.fix(x[:, 0, 0, k : k + 1].long())
    exact = crps_discrete(steps.distribution()[:, 0].detach(), x[:, 0, 0, 7].long())
    assert found.kind == "exact"
    assert found.crps is not None and found.crps.mean == pytest.approx(float(exact.mean()), abs=0.05)
    assert found.nats is not None and found.nats_kind == "exact"
    terms = model.conditional_log_prob(x, None).detach()[..., 7:].sum((1, 2, 3))
    assert found.nats.mean == pytest.approx(-float(terms.mean()), rel=1e-5)


def test_completion_is_forecasting(model: PixelRNN) -> None:
    x = random_images(1, SPACE)
    found = forecast(model, x, 5, n=7, seed=3)
    same = complete(model, x, kept_region("top:5", 1, 8), n=7, seed=3)
    assert torch.equal(found.futures[0].draws, same.images[:, 0, 0, 5:].double())
    assert torch.equal(kept_region("top:5", 1, 8), kept_region("left:5", 1, 8))
    assert torch.equal(found.futures[0].past, x[0, 0, 0, :5].double())


@pytest.mark.parametrize("view", [Top(5), Masked()])
def test_views_that_tell_the_past_are_exact_too(view: Top | Masked) -> None:
    found = forecast(PixelRNN.small(SPACE, view), random_images(2, SPACE), None if isinstance(view, Top) else 5, n=4)
    assert (found.keep, found.horizon, found.kind) == (5, 3, "exact")


def test_a_vae_forecasts_approximately() -> None:
    found = forecast(VAE.small(SPACE), random_images(1, SPACE), 5, n=4)
    assert found.kind == "approximate" and found.crps is not None


def test_numbers_are_in_units_of_the_series(model: PixelRNN) -> None:
    x, scale = random_images(4, SPACE), Scale(100.0, 180.0, 4)
    plain, scaled = forecast(model, x, 5, train=x, n=9), forecast(model, x, 5, train=x, scale=scale, n=9)
    assert plain.crps is not None and scaled.crps is not None
    assert scaled.crps.mean == pytest.approx(20 * plain.crps.mean)
    assert plain.units == "levels"
    assert set(scaled.futures[0].draws.unique().tolist()) <= {110.0, 130.0, 150.0, 170.0}
    for name in ("seasonal-naive", "seasonal-naive-residuals", "climatology"):
        assert scaled.baselines[name].mean == pytest.approx(20 * plain.baselines[name].mean)
        gain = scaled.better_by[name].mean
        assert gain == pytest.approx(scaled.baselines[name].mean - scaled.crps.mean)


def test_pasts_alone_are_not_scored(model: PixelRNN) -> None:
    x = random_images(2, SPACE)
    found, whole = forecast(model, x[..., :5], 5, n=6), forecast(model, x, 5, n=6)
    assert found.crps is None and found.nats is None and found.futures[0].truth is None
    assert torch.equal(found.futures[1].draws, whole.futures[1].draws)


# Baselines -----------------------------------------------------------------------------------------------------------


def test_seasonal_naive_repeats_the_last_season() -> None:
    past = torch.tensor([[9.0, 1.0, 2.0, 3.0]])
    assert seasonal_naive(past, 7, 3).tolist() == [[1, 2, 3, 1, 2, 3, 1]]
    assert seasonal_naive(past, 2, 1).tolist() == [[3, 3]]


def test_baselines_learn_from_train_alone() -> None:
    train = torch.tensor([[0.0, 1.0, 5.0], [0.0, 2.0, 4.0]])
    found = baselines(torch.tensor([[7.0, 8.0]]), 1, 1, train)
    assert found["climatology"].tolist() == [[[5.0], [4.0]]]
    assert found["seasonal-naive-residuals"].tolist() == [[[12.0], [10.0]]]  # 8 + (5 − 1), 8 + (4 − 2)


@pytest.mark.parametrize("period", [5, 12, 24])
def test_a_season_is_found_in_noise(period: int) -> None:
    t = torch.arange(96.0)
    phase = torch.rand(20, 1, generator=torch.Generator().manual_seed(0)) * period
    noise = torch.randn(20, 96, generator=torch.Generator().manual_seed(1))
    assert find_season(torch.sin(2 * math.pi * (t + phase) / period) + 0.5 * noise, 60) == period


def test_noise_trends_and_constants_have_no_season() -> None:
    noise = torch.randn(20, 60, generator=torch.Generator().manual_seed(0))
    assert find_season(noise, 30) == find_season(noise.cumsum(1), 30) == find_season(torch.zeros(3, 60), 30) == 1
    assert find_season(torch.arange(60.0).expand(3, -1), 30) == 1


# Files and refusals --------------------------------------------------------------------------------------------------


def test_quantiles_and_pictures_are_written(model: PixelRNN, tmp_path: Path) -> None:
    x = random_images(3, SPACE)
    found = forecast(model, x, 5, n=20, out=tmp_path / "a.csv")
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9 and list(rows[0]) == ["id", "step", "mean", "q0.05", "q0.25", "q0.5", "q0.75", "q0.95", "truth"]
    assert all(float(r["q0.05"]) <= float(r["q0.25"]) <= float(r["q0.5"]) <= float(r["q0.75"]) <= float(r["q0.95"]) for r in rows)
    assert [float(r["truth"]) for r in rows[:3]] == x[0, 0, 0, 5:].tolist()
    assert len(found.to_json()["quantiles"]["0.5"]) == 3
    forecast(model, x, 5, n=5, out=tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": 8}, "keep 1 … 7"),
        ({"keep": 0}, "keep 1 … 7"),
        ({"keep": 4, "season": 5}, "the past has 4 values"),
        ({"n": 0}, "at least 1"),
        ({"out": "a.gif"}, "Cannot write"),
    ],
)
def test_refusals(model: Autoregressive, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        forecast(model, random_images(2, SPACE), **{"keep": 5, **changes})


def test_images_are_no_series() -> None:
    space = ImageSpace(1, 4, 4, levels=4)
    with pytest.raises(InputError, match="Forecasts are of series"):
        forecast(PixelRNN.small(space), random_images(2, space))
