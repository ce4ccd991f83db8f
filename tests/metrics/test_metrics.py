"""The measures against cases where the answer is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pofx.errors import InputError
from pofx.metrics.frechet import frechet, gaussian_frechet
from pofx.metrics.label_coverage import label_coverage
from pofx.metrics.memorization import Evidence, Memorization, copies, distinct, membership, nearness, rank_evidence
from pofx.metrics.mutual_information_gap import mutual_information_gap
from pofx.metrics.nearest import nearest
from pofx.metrics.precision_recall import precision_recall, radii


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


# Fréchet distance -----------------------------------------------------------------------------------------------------


def test_frechet_of_gaussians_that_commute_has_a_closed_form():
    """Diagonal covariances: Σ (μ₁−μ₂)² + (σ₁−σ₂)²."""
    s1, s2, mean = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([3.0, 0.5, 0.0]), torch.tensor([1.0, -2.0, 0.5])
    found = gaussian_frechet(torch.zeros(3), (s1**2).diag(), mean, (s2**2).diag())
    assert found == pytest.approx(float((mean**2).sum() + ((s1 - s2) ** 2).sum()), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_frechet_agrees_with_sqrtm(seed: int):
    a, b = normal(60, 12, seed=seed), normal(70, 12, seed=seed + 100) @ normal(12, 12, seed=seed + 200)
    c1, c2 = np.cov(a.numpy(), rowvar=False), np.cov(b.numpy(), rowvar=False)
    root = scipy.linalg.sqrtm(c1 @ c2)
    gap = a.numpy().mean(0) - b.numpy().mean(0)
    reference = float(gap @ gap + np.trace(c1) + np.trace(c2) - 2 * np.trace(np.real(root)))
    assert frechet(a, b).distance == pytest.approx(reference, rel=1e-6, abs=1e-6)


def test_frechet_of_nearly_singular_covariances_is_stable():
    """Rank 2 in 20 features, 1e-9 of noise: the truth is that of the two-dimensional sets."""
    basis = torch.linalg.qr(normal(20, 20, seed=7)).Q[:2]
    a, b = normal(200, 2, seed=1), 2 * normal(200, 2, seed=2) + 1
    flat = frechet(a, b).distance
    embedded = frechet(a @ basis + 1e-9 * normal(200, 20, seed=3), b @ basis + 1e-9 * normal(200, 20, seed=4))
    assert embedded.distance == pytest.approx(flat, rel=1e-6)
    assert embedded.reliable


def test_frechet_of_a_set_with_itself_is_zero_and_symmetric():
    a, b = normal(50, 6), normal(40, 6, seed=3) + 0.3
    assert frechet(a, a).distance < 1e-9
    assert frechet(a, b).distance == pytest.approx(frechet(b, a).distance, rel=1e-9)


def test_frechet_warns_where_images_are_fewer_than_features():
    with pytest.warns(UserWarning, match="more images than features"):
        assert not frechet(normal(5, 8), normal(30, 8)).reliable
    with pytest.raises(InputError, match="at least 2"):
        frechet(normal(1, 3), normal(4, 3))
    with pytest.raises(InputError, match="needs"):
        frechet(normal(5, 3), normal(5, 4))


# Precision and recall -------------------------------------------------------------------------------------------------


def test_precision_and_recall_of_a_dropped_mode():
    """Two far clusters; samples from one only: all precise, half recalled."""
    real = torch.cat([normal(50, 2), normal(50, 2, seed=1) + 1000])
    fake = normal(50, 2, seed=2) * 0.5
    result = precision_recall(fake, real, k=3)
    assert result.precision > 0.9
    assert 0.2 < result.recall <= 0.5
    assert 0.2 < result.coverage <= 0.5


def test_precision_falls_with_samples_from_nowhere():
    real, fake = normal(50, 2), torch.cat([normal(25, 2, seed=1), normal(25, 2, seed=2) + 1000])
    assert precision_recall(fake, real).precision == pytest.approx(0.5, abs=0.08)


def test_precision_recall_by_hand():
    """On a line: real 0 1 2 10 (k = 1 radii 1 1 1 8), samples 0.5 3 30 31 (radii 2.5 2.5 1 1)."""
    real, fake = torch.tensor([[0.0], [1], [2], [10]]), torch.tensor([[0.5], [3], [30], [31]])
    assert radii(real, 1).tolist() == [1, 1, 1, 8]
    result = precision_recall(fake, real, k=1)
    assert result.precision == 0.5  # 0.5 and 3 lie in balls; 30 and 31 do not
    assert result.recall == 0.75  # 0, 1, 2 lie in the ball of 0.5; 10 in none
    assert result.density == (2 + 2) / 4  # 0.5: balls of 0 and 1; 3: of 2 (radius 1) and 10 (radius 8)
    assert result.coverage == 1.0  # all four balls hold a sample: 0 and 1 hold 0.5; 2 and 10 hold 3


def test_same_sets_have_precision_and_recall_one():
    x = normal(30, 4)
    result = precision_recall(x, x)
    assert (result.precision, result.recall, result.coverage) == (1, 1, 1)
    with pytest.raises(InputError, match="more than 3"):
        precision_recall(x[:3], x)


# Nearest --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 3, 7, 1000])
def test_nearest_equals_brute_force_in_any_blocks(block: int):
    q, b = normal(9, 5), normal(23, 5, seed=1)
    truth = torch.cdist(q, b).sort(1)
    found = nearest(q, b, 4, block=block)
    assert torch.equal(found.index, truth.indices[:, :4])
    torch.testing.assert_close(found.distance, truth.values[:, :4])
    blocks = nearest(q, iter(b.split(block)), 4)
    assert torch.equal(blocks.index, found.index)


def test_a_copy_has_distance_zero_among_large_numbers():
    base = torch.randint(0, 256, (300, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    near = base[17].clone()
    near[0, 0, 0] ^= 1
    found = nearest(torch.stack([base[250], near]), base)
    assert found.index.tolist() == [[250], [17]]
    assert found.distance.tolist() == [[0.0], [1.0]]


def test_too_few_neighbours():
    with pytest.raises(InputError, match="among 2 images"):
        nearest(torch.zeros(1, 1), torch.zeros(2, 1), 3)


# Memorization ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 5), min_size=2, max_size=6), st.lists(st.integers(0, 5), min_size=2, max_size=6))
@settings(max_examples=50, deadline=None)
def test_auc_counts_pairs_and_z_is_mann_whitney(low: list[int], high: list[int]):
    pairs = [1.0 if a < b else 0.5 if a == b else 0.0 for a, b in itertools.product(low, high)]
    found = rank_evidence(torch.tensor(low), torch.tensor(high))
    assert found.auc == pytest.approx(sum(pairs) / len(pairs))
    if len({*low, *high}) > 1:
        from scipy.stats import mannwhitneyu, norm

        p = mannwhitneyu(high, low, alternative="two-sided", method="asymptotic", use_continuity=False).pvalue
        assert 2 * norm.sf(abs(found.z)) == pytest.approx(p)
    else:
        assert found.z == 0


def test_copies_are_seen_and_fresh_images_are_not():
    generator = torch.Generator().manual_seed(0)
    train, held, fresh = (torch.randint(0, 17, (n, 1, 8, 8), dtype=torch.uint8, generator=generator) for n in (100, 80, 80))
    copied = train[:80].clone()
    copied[:, :, 0, 0] = 16  # a pixel differs
    assert copies(copied, train, held).raised
    assert not copies(fresh, train, held).raised


def test_smooth_samples_are_near_everything_and_are_no_copies():
    """The mean image is closer to any training image than a held-out one, yet sits on none of them."""
    generator = torch.Generator().manual_seed(0)
    train, held = (torch.randint(0, 17, (n, 1, 8, 8), dtype=torch.uint8, generator=generator) for n in (200, 100))
    mean = train.double().mean(0, keepdim=True)
    blurred = (0.7 * mean + 0.3 * torch.randint(0, 17, (100, 1, 8, 8), generator=generator)).round().to(torch.uint8)
    assert nearest(blurred, train).distance.max() < nearest(held, train).distance.min()
    assert not copies(blurred, train, held).raised


def test_equal_training_images_count_once():
    train = torch.zeros(10, 1, 2, 2, dtype=torch.uint8)
    train[0] = 9
    assert nearness(train[:1], distinct(train)).tolist() == [0.0]
    assert copies(train[:2], train, train[:2]).auc == 0.5


def test_cheap_training_images_raise_the_flag():
    cost = normal(200)
    assert membership(cost - 3, cost).raised
    assert not membership(cost - 0.3, cost).raised


def test_samples_raise_the_flag_earlier_than_scores():
    assert Evidence(0.7, 9.0, 1000, 400, limit=0.65).raised
    assert not Evidence(0.7, 9.0, 1000, 400).raised
    assert not Evidence(0.7, 3.0, 1000, 400, limit=0.65).raised


def test_few_images_do_not_raise_the_flag():
    """All three of three pairs agree, which is nothing."""
    assert not rank_evidence(torch.tensor([1.0]), torch.tensor([2.0, 3.0, 4.0])).raised


def test_the_flag_says_what_it_rests_on():
    flag = Memorization(samples=Evidence(0.9, 12.0, 100, 100), scores=Evidence(0.55, 2.0, 100, 100))
    assert flag.raised
    assert flag.text.startswith("The model repeats its training images: ")
    assert flag.to_json()["samples"]["raised"] is True
    assert not Memorization().raised
    assert "could not be checked" in Memorization().text


# Coverage -------------------------------------------------------------------------------------------------------------


def test_label_coverage():
    log_prob = torch.eye(4)[[0] * 97 + [1] * 2 + [2]].log()
    found = label_coverage(log_prob)
    assert found.counts == (97, 2, 1, 0)
    assert found.covered == 3
    assert not found.complete
    even = label_coverage(torch.eye(4).log())
    assert even.complete
    assert even.entropy == pytest.approx(math.log(4))


# Mutual information gap -----------------------------------------------------------------------------------------------


def grid_of_factors() -> torch.Tensor:
    """Every pair of 8 × 5 values, 50 times."""
    return torch.cartesian_prod(torch.arange(8), torch.arange(5)).repeat(50, 1)


def test_gap_is_one_where_each_latent_is_one_factor():
    v = grid_of_factors()
    codes = torch.stack([torch.zeros(len(v)), -3.0 * v[:, 1] + 1, v[:, 0] / 7], 1)  # and one that knows nothing
    found = mutual_information_gap(codes, v)
    assert found.gap == pytest.approx(1, abs=1e-12) and found.latent.tolist() == [2, 1]
    assert found.information.tolist() == [pytest.approx([0, 0], abs=1e-12)] + [
        pytest.approx(row, abs=1e-12) for row in ([0, math.log(5)], [math.log(8), 0])
    ]
    assert found.share.max() == pytest.approx(1)


def test_gap_is_zero_where_two_latents_know_the_same():
    v = grid_of_factors()[:, :1]
    codes = torch.cat([v, 7 - v], 1).double()
    assert mutual_information_gap(codes, v).gap == pytest.approx(0, abs=1e-12)
    assert mutual_information_gap(codes[:, :1], v).gap == pytest.approx(1)  # alone it has no rival


@pytest.mark.parametrize("seed", range(3))
def test_gap_falls_with_rotation_to_zero_at_45_degrees(seed: int):
    v = torch.randint(0, 8, (4000, 2), generator=torch.Generator().manual_seed(seed))
    gaps = []
    for degrees in (0, 15, 30, 45):
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        codes = (v - 3.5).double() @ torch.tensor([[c, -s], [s, c]], dtype=torch.double)
        gaps.append(mutual_information_gap(codes + 0.1 * normal(4000, 2, seed=seed), v).gap)
    assert gaps[0] > 0.9 and gaps == sorted(gaps, reverse=True) and gaps[3] < 0.02


def test_independent_codes_know_nothing_over_seeds():
    """The mean over seeds is the bias (bins − 1)(values − 1)/2n of a table, and no more."""
    n, found = 4000, []
    for seed in range(8):
        v = torch.randint(0, 8, (n, 1), generator=torch.Generator().manual_seed(seed))
        found.append(mutual_information_gap(torch.rand(n, 6, generator=torch.Generator().manual_seed(100 + seed)), v))
    bias = torch.stack([f.information for f in found]).mean()
    assert float(bias) == pytest.approx(19 * 7 / (2 * n), rel=0.15)
    assert max(f.gap for f in found) < 0.01


def test_information_of_a_noisy_copy_has_a_closed_form():
    """A bit that is turned in 1 of 10: ln 2 − H(0.1)."""
    v = torch.arange(2).repeat_interleave(500)
    codes = v.clone()
    codes[:50], codes[-50:] = 1, 0
    expected = math.log(2) + 0.1 * math.log(0.1) + 0.9 * math.log(0.9)
    assert float(mutual_information_gap(codes[:, None].double(), v[:, None]).information) == pytest.approx(expected, abs=1e-12)


def test_information_of_a_gaussian_posterior_is_the_integral():
    """q(z|v) = N(±m, 1): h(z) − h(z|v) by quadrature, reached from below as bins get finer."""
    z = torch.linspace(-12, 12, 100_001, dtype=torch.double)
    v = torch.arange(2).repeat(50)[:, None]
    for m in (0.3, 1.0, 3.0):
        q = [(-0.5 * (z - s * m) ** 2).exp() / math.sqrt(2 * math.pi) for s in (-1, 1)]
        mixed = (q[0] + q[1]) / 2
        exact = float(torch.trapezoid(-torch.xlogy(mixed, mixed), z)) - 0.5 * math.log(2 * math.pi * math.e)
        codes = (2 * v - 1) * m
        found = [float(mutual_information_gap(codes.double(), v, torch.zeros(100, 1), bins=b).information) for b in (5, 20, 400)]
        assert found == sorted(found) and found[2] <= exact + 1e-9
        assert found[2] == pytest.approx(exact, rel=0.01) and found[1] == pytest.approx(exact, rel=0.05)


def test_a_latent_that_copies_the_prior_knows_nothing_however_its_means_wobble():
    v = grid_of_factors()
    codes = 1e-3 * v.double()
    assert mutual_information_gap(codes, v).gap == pytest.approx(1, abs=1e-9)  # as points
    assert float(mutual_information_gap(codes, v, torch.zeros_like(codes)).information.max()) < 1e-4  # as q = N(μ, 1)


def test_what_has_no_gap():
    v = grid_of_factors()
    codes = v.double()
    for wrong in ((codes[:5], v), (codes, v.double()), (codes, v - 1), (codes, torch.zeros_like(v)), (codes, v, codes[:, :1])):
        with pytest.raises(InputError):
            mutual_information_gap(*wrong)
    with pytest.raises(InputError, match="bins=1"):
        mutual_information_gap(codes, v, bins=1)
