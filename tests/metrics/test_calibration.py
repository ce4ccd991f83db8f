"""Expected calibration error on answers whose calibration is known."""

from __future__ import annotations

import pytest
import torch

from pofx.errors import InputError
from pofx.metrics.calibration import calibration, tempered


def test_equal_width_by_hand() -> None:
    p = torch.tensor([0.1, 0.2, 0.9, 0.9], dtype=torch.double)
    found = calibration(p, torch.tensor([0, 1, 1, 1]), bins=2, binning="equal width")
    assert found.count == (2, 2) and found.confidence == pytest.approx((0.15, 0.9))
    assert found.ece == pytest.approx(0.5 * 0.35 + 0.5 * 0.1)


def test_equal_mass_by_hand_and_ties_stay_together() -> None:
    p = torch.tensor([0.9, 0.5, 0.6, 0.8], dtype=torch.double)
    found = calibration(p, torch.tensor([1, 0, 1, 0]), bins=2)
    assert found.count == (2, 2) and found.ece == pytest.approx(0.5 * abs(0.55 - 0.5) + 0.5 * abs(0.85 - 0.5))
    assert calibration(torch.full((50,), 0.7, dtype=torch.double), torch.arange(50) < 35).ece == pytest.approx(0)


@pytest.mark.parametrize("binning", ["equal mass", "equal width"])
def test_honest_probabilities_have_a_small_error_and_bold_ones_a_large_one(binning) -> None:
    generator = torch.Generator().manual_seed(0)
    p = 0.5 + 0.5 * torch.rand(20_000, generator=generator, dtype=torch.double)
    right = torch.rand(20_000, generator=generator, dtype=torch.double) < p
    assert calibration(p, right, binning=binning).ece < 0.015
    assert calibration((p + 0.1).clamp(max=1), right, binning=binning).ece > 0.05


def test_tempered_undoes_a_temperature() -> None:
    z = torch.randn(5, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(tempered((z / 2.5).log_softmax(1), 2.5), z.log_softmax(1), atol=1e-12)


@pytest.mark.parametrize(("p", "right", "bins"), [([], [], 15), ([0.5], [1, 0], 15), ([1.5], [1], 15), ([-0.1], [1], 15), ([0.5], [1], 0)])
def test_bad_input(p: list, right: list, bins: int) -> None:
    with pytest.raises(InputError):
        calibration(torch.tensor(p), torch.tensor(right), bins=bins)
