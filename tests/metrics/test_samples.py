"""Kernel distance, sharpness and shares against cases where the answer is known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pofx.errors import InputError
from pofx.metrics.kid import kernel_distance, squared_mmd
from pofx.metrics.label_coverage import label_coverage
from pofx.metrics.precision_recall import precision_recall
from pofx.metrics.sharpness import laplacian_variance, sharpness


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


# Kernel distance ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m", "d"), [(2, 2, 1), (5, 3, 4), (3, 7, 2)])
def test_mmd_is_the_sum_over_pairs(n: int, m: int, d: int):
    x, y = normal(n, d), normal(m, d, seed=1) + 0.5

    def k(a: torch.Tensor, b: torch.Tensor) -> float:
        return (sum(float(a[i]) * float(b[i]) for i in range(d)) / d + 1) ** 3

    same = [sum(k(s[i], s[j]) for i, j in itertools.permutations(range(len(s)), 2)) / (len(s) * (len(s) - 1)) for s in (x, y)]
    across = sum(k(a, b) for a, b in itertools.product(x, y)) / (n * m)
    assert squared_mmd(x, y) == pytest.approx(sum(same) - 2 * across, rel=1e-12, abs=1e-12)


@given(
    st.lists(st.floats(0.05, 1), min_size=2, max_size=3),
    st.lists(st.floats(0.05, 1), min_size=2, max_size=3),
    st.integers(2, 3),
    st.integers(2, 3),
)
@settings(max_examples=20, deadline=None)
def test_mmd_is_unbiased_and_its_mean_is_the_gap_of_three_moments(p: list[float], q: list[float], n: int, m: int):
    """All outcomes of n draws from p and m from q on the line, weighted: MMD² = (Δm₃)² + 3(Δm₂)² + 3(Δm₁)²."""
    where = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.double)

    def draws(w: list[float], k: int) -> list[tuple[float, torch.Tensor]]:
        total = sum(w)
        return [(math.prod(w[i] / total for i in c), where[list(c), None]) for c in itertools.product(range(len(w)), repeat=k)]

    mean = sum(a * b * squared_mmd(x, y) for (a, x), (b, y) in itertools.product(draws(p, n), draws(q, m)))
    moments = [[sum(w * float(where[i]) ** j for i, w in enumerate(ws)) / sum(ws) for j in (1, 2, 3)] for ws in (p, q)]
    gap = [a - b for a, b in zip(*moments, strict=True)]
    assert mean == pytest.approx(gap[2] ** 2 + 3 * gap[1] ** 2 + 3 * gap[0] ** 2, abs=1e-9)


def test_kernel_distance_of_one_distribution_is_zero_within_its_error_and_grows_with_a_shift():
    within = 0
    for seed in range(40):
        found = kernel_distance(normal(200, 8, seed=seed), normal(300, 8, seed=seed + 1000))
        within += abs(found.distance) <= 2.3 * found.se  # 95 % of Student's t with 9 degrees of freedom
    assert within >= 34
    shifted = [kernel_distance(normal(400, 8) + shift, normal(400, 8, seed=1)).distance for shift in (0.1, 0.3, 1.0)]
    assert shifted == sorted(shifted) and shifted[2] > 1
    assert found.blocks == 10 and (found.n, found.n_reference, found.dims) == (200, 300, 8)


def test_blocks_hold_every_image_once_and_few_images_make_fewer_blocks():
    x = normal(5, 2)
    found = kernel_distance(x, normal(40, 2, seed=1))
    assert found.blocks == 2 and math.isfinite(found.se)
    one = kernel_distance(x, x + 1, blocks=1)
    assert one.distance == pytest.approx(squared_mmd(x, x + 1)) and math.isnan(one.se)
    assert kernel_distance(x, x + 1, seed=3) == kernel_distance(x, x + 1, seed=3)
    for wrong in ((x, normal(5, 3)), (x[:1], x), (x[0], x)):
        with pytest.raises(InputError):
            kernel_distance(*wrong)


# Sharpness ------------------------------------------------------------------------------------------------------------


def test_flat_and_slanted_images_have_no_sharpness_and_a_checkerboard_has_the_most():
    ramp = (3 * torch.arange(8)[:, None] + 2 * torch.arange(8)).to(torch.uint8)[None, None]
    assert laplacian_variance(ramp, 256).item() == pytest.approx(0, abs=1e-25)
    assert laplacian_variance(torch.full((1, 3, 5, 5), 7, dtype=torch.uint8), 256).item() == 0
    board = ((torch.arange(6)[:, None] + torch.arange(6)) % 2).to(torch.uint8)[None, None]
    assert laplacian_variance(board, 2).item() == 16  # 4·(±1)
    assert laplacian_variance(255 * board, 256).item() == pytest.approx(16)  # in units of the pixel range


def test_noise_has_twenty_times_its_variance():
    x = torch.randint(0, 256, (400, 2, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    variance = (256**2 - 1) / 12 / 255**2
    assert float(laplacian_variance(x, 256).mean()) == pytest.approx(20 * variance, rel=0.02)


def test_a_blur_lowers_the_share_and_its_error_is_of_two_means():
    x = torch.randint(0, 256, (300, 1, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    soft = torch.nn.functional.avg_pool2d(x.float(), 3, 1, 1).round().to(torch.uint8)
    found = sharpness(soft, x, 256)
    assert found.share < 0.3 and found.share_se < 0.02
    assert found.share_se == pytest.approx(found.share * math.hypot(found.samples_se / found.samples, found.real_se / found.real))
    assert sharpness(x, x, 256).share == 1
    assert math.isnan(sharpness(x, torch.zeros_like(x), 256).share)
    parts = laplacian_variance(torch.cat([x, soft]), 256)
    assert torch.equal(parts[:300], laplacian_variance(x, 256))
    with pytest.raises(InputError, match="3×3"):
        sharpness(x[:, :, :2], x, 256)
    with pytest.raises(InputError, match="on each side"):
        sharpness(x[:0], x, 256)


# Shares ---------------------------------------------------------------------------------------------------------------


def test_shares_are_of_what_real_images_get():
    real, other, fake = normal(100, 3), normal(100, 3, seed=1), 3 * normal(100, 3, seed=2)
    own, best = precision_recall(fake, real), precision_recall(other, real)
    shares = own.shares(best)
    assert shares["precision"] == own.precision / best.precision < 1
    assert shares["density"] == own.density / best.density < 1
    assert best.shares(best) == dict.fromkeys(("precision", "recall", "density", "coverage"), 1.0)
    none = precision_recall(real + 1e6, real)
    assert math.isnan(own.shares(none)["precision"])


def test_the_rarest_class_is_told():
    assert label_coverage(torch.eye(4)[[0] * 6 + [1] * 3 + [2]].log()).least == 0
    assert label_coverage(torch.eye(2)[[0, 0, 0, 1]].log()).least == 0.25
