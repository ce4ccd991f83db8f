"""The value of the game between known densities: against closed forms, against sums on plain grids, and what always holds."""

from __future__ import annotations

import math

import pytest
import torch

from pofx.errors import InputError
from pofx.noise import Noise
from pofx.tasks._densities import Density, kernel, normal, parse
from pofx.tasks._descent import fit, jsd, slopes
from pofx.tasks.equilibrium import LOG_4, crossings, equilibrium, kl, optimal_logit, value, wasserstein

TWO = "0.5*normal(-2, 0.5) + 0.5*normal(2, 0.5)"
PAIRS = [
    ("normal(0, 1)", "normal(1.5, 0.7)"),
    (TWO, "normal(0, 1)"),
    ("uniform(0, 1)", "uniform(0.5, 2)"),
    ("0.3*uniform(-1, 1) + 0.7*normal(0, 2)", "normal(1, 1)"),
    ("ring(4, 1, 0.5)", "normal2(0, 0, 1)"),
]


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("normal(0, 1)", -1.386294),
        ("normal(.5, 1)", -1.325672),
        ("normal(1, 1)", -1.163451),
        ("normal(2, 1)", -0.712633),
        ("normal(4, 1)", -0.120854),
        ("normal(0, 2)", -1.200828),
    ],
)
def test_the_table_of_the_field(q: str, expected: float) -> None:
    found = equilibrium("normal(0,1)", q)
    assert found.value == pytest.approx(expected, abs=1e-6)
    assert found.value == pytest.approx(-LOG_4 + 2 * found.jsd, abs=1e-15)
    assert found.error < 1e-9


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_what_always_holds(p: str, q: str) -> None:
    a, b = equilibrium(p, q), equilibrium(q, p)
    assert 0 < a.jsd < math.log(2)
    assert a.jsd == pytest.approx(b.jsd, abs=1e-8)
    assert a.kl_pq == pytest.approx(b.kl_qp, rel=1e-6)
    # JSD ≤ ½ · ½(KL + KL), and V of any critic is at most V*
    assert a.jsd <= (a.kl_pq + a.kl_qp) / 4 + 1e-12
    first, second = parse(p), parse(q)
    best = value(first, second, lambda x: optimal_logit(first, second, x).nan_to_num(0.0), tolerance=1e-8)
    assert best == pytest.approx(a.value, abs=1e-7)
    for logit in (
        lambda x: torch.zeros(len(x)),
        lambda x: 0.3 * x[:, 0],
        lambda x: optimal_logit(first, second, x).nan_to_num(0.0).clamp(-1, 1),
    ):
        assert value(p, q, logit, tolerance=1e-7) <= a.value + 1e-7


@pytest.mark.parametrize(("p", "q"), PAIRS[:4])
def test_against_a_sum_on_a_plain_grid(p: str, q: str) -> None:
    x = torch.linspace(-20, 20, 4_000_001, dtype=torch.double)
    a, b = parse(p).log_prob(x[:, None]).exp(), parse(q).log_prob(x[:, None]).exp()
    h = float(x[1] - x[0])
    m = (a + b) / 2
    plain = 0.5 * h * float((torch.special.xlogy(a, a / m) + torch.special.xlogy(b, b / m)).nan_to_num(0.0).sum())
    found = equilibrium(p, q)
    assert found.jsd == pytest.approx(plain, abs=2e-5)  # a sum sees edges to one step
    w1 = h * float((parse(p).cdf(x) - parse(q).cdf(x)).abs().sum())
    assert found.w1 == pytest.approx(w1, abs=2e-5)


@pytest.mark.parametrize("p", ["normal(0.3, 2)", TWO, "uniform(-1, 3)", "grid(3, 1, 0.2)"])
def test_equal_densities(p: str) -> None:
    found = equilibrium(p, p)
    assert found.value == pytest.approx(-LOG_4, abs=1e-9)
    assert (found.kl_pq, found.kl_qp, found.w1) == pytest.approx((0, 0, 0), abs=1e-9)
    x = parse(p).draw(Noise(0, torch.arange(50)))
    assert torch.equal(optimal_logit(parse(p), parse(p), x), torch.zeros(50, dtype=torch.double))


def test_densities_that_do_not_meet() -> None:
    found = equilibrium("uniform(0, 1)", "uniform(2, 3)")
    assert found.value == pytest.approx(0, abs=1e-12) and found.jsd == pytest.approx(math.log(2), abs=1e-12)
    assert found.kl_pq == found.kl_qp == math.inf
    assert found.w1 == pytest.approx(2, abs=1e-12)
    assert kl("uniform(0, 1)", "normal(0, 1)") < math.inf and kl("normal(0, 1)", "uniform(0, 1)") == math.inf


@pytest.mark.parametrize(("m", "s", "n", "t"), [(0, 1, 1, 1), (0, 1, 0, 2), (-1, 0.3, 2, 1.5), (3, 2, 0, 0.5)])
def test_kl_of_normals_is_the_closed_form(m: float, s: float, n: float, t: float) -> None:
    closed = math.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5
    assert kl(normal(m, s), normal(n, t)) == pytest.approx(closed, abs=1e-8)
    two = kl(f"normal2({m}, 0, {s})", f"normal2({n}, 0, {t})")
    assert two == pytest.approx(2 * math.log(t / s) + (2 * s**2 + (m - n) ** 2) / (2 * t**2) - 1, abs=1e-6)


def test_wasserstein() -> None:
    for a, b in ((0, 3), (-1.5, 0.25)):
        assert wasserstein(normal(a, 1), normal(b, 1))[0] == pytest.approx(abs(a - b), abs=1e-10)
    # E|z| (t − s) where only the deviation differs
    assert wasserstein(normal(1, 1), normal(1, 3))[0] == pytest.approx(2 * math.sqrt(2 / math.pi), abs=1e-9)
    assert wasserstein("uniform(0, 1)", "uniform(0, 2)")[0] == pytest.approx(0.5, abs=1e-12)
    # By quantiles: E|F_p⁻¹(u) − F_q⁻¹(u)|, on sorted draws of equal u
    p, q = parse(TWO), normal(0, 1)
    u = (torch.arange(20_000, dtype=torch.double) + 0.5) / 20_000
    x = torch.linspace(-8, 8, 400_001, dtype=torch.double)
    quantiles = [x[torch.searchsorted(d.cdf(x), u).clamp(max=len(x) - 1)] for d in (p, q)]
    assert wasserstein(p, q)[0] == pytest.approx(float((quantiles[0] - quantiles[1]).abs().mean()), abs=1e-3)
    assert len(crossings(p, q)) == 5
    assert wasserstein("normal2(0, 0, 1)", "normal2(3, 4, 1)")[0] == pytest.approx(5)
    assert wasserstein("ring(8, 1, 0.1)", "ring(8, 1, 0.1)")[0] == 0
    none, why = wasserstein("ring(8, 1, 0.1)", "normal2(0, 0, 1)")
    assert none is None and "two dimensions" in why


# Label smoothing ------------------------------------------------------------------------------------------------------------------------


def test_smoothing_moves_the_best_critic() -> None:
    p, q = parse("normal(0, 1)"), parse("normal(1, 1)")
    x = torch.linspace(-3, 4, 50, dtype=torch.double)[:, None]
    a, b = p.log_prob(x).exp(), q.log_prob(x).exp()
    d = torch.sigmoid(optimal_logit(p, q, x, 0.1))
    assert torch.allclose(d, 0.9 * a / (a + b), atol=1e-12)
    assert torch.allclose(torch.sigmoid(optimal_logit(p, p, x, 0.1)), torch.tensor(0.45, dtype=torch.double))

    # It is the maximum of the smoothed value, and loses of the true one what is said
    def best(at: torch.Tensor) -> torch.Tensor:
        return optimal_logit(p, q, at, 0.1)

    top = value(p, q, best, smoothing=0.1)
    for shift in (-0.1, 0.1):
        assert value(p, q, lambda at, shift=shift: best(at) + shift, smoothing=0.1) < top
    found = equilibrium(p, q, smoothing=0.1)
    assert found.smoothed_value == pytest.approx(value(p, q, best), abs=1e-8)
    assert found.smoothed_value < found.value == equilibrium(p, q).value
    with pytest.raises(InputError, match=r"--smoothing 0\.1"):
        equilibrium(p, q, smoothing=1.0)


# What the generator feels ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", ["normal(0, 1)", "0.3*normal(-1, 0.6) + 0.7*normal(1, 0.5)"])
def test_slopes_are_those_of_finite_differences(p: str) -> None:
    theta, h = [0.3, 1.7, 3.0], 1e-4
    found = slopes(p, theta, 0.8)
    for i, at in enumerate(theta):
        ends = [equilibrium(p, normal(at + sign * h, 0.8)) for sign in (1, -1)]
        # D* held still: the same slope as that of V* (envelope)
        assert float(found.minimax[i]) == pytest.approx((ends[0].value - ends[1].value) / (2 * h), abs=1e-6)
        assert ends[0].w1 is not None and ends[1].w1 is not None
        assert float(found.transport[i]) == pytest.approx((ends[0].w1 - ends[1].w1) / (2 * h), abs=1e-6)
        # −E log D* by moving q under a critic that stays
        data, q = parse(p), normal(at, 0.8)
        x = torch.linspace(-12, 14, 200_001, dtype=torch.double)[:, None]
        loss = torch.nn.functional.softplus(-optimal_logit(data, q, x))
        moved = [float((normal(at + sign * h, 0.8).log_prob(x).exp() * loss).sum() * 26 / 200_000) for sign in (1, -1)]
        assert float(found.saturation[i]) == pytest.approx((moved[0] - moved[1]) / (2 * h), abs=1e-5)


def test_the_minimax_slope_dies_and_the_others_do_not() -> None:
    found = slopes("normal(0, 1)", [1.0, 4.0, 8.0, 12.0])
    assert found.minimax.tolist() == sorted(found.minimax.tolist(), reverse=True)
    assert float(found.minimax[-1]) < 1e-6 < 10 < float(found.saturation[-1])
    assert torch.allclose(found.transport, torch.ones(4, dtype=torch.double), atol=1e-9)
    with pytest.raises(InputError, match="without edges"):
        slopes("uniform(0, 1)", [0.0])


def test_forward_covers_and_reverse_seeks() -> None:
    p = parse(TWO)
    forward, reverse, both = fit(p, "forward"), fit(p, "reverse"), fit(p, "jsd")
    assert (forward.mean, forward.sd**2) == pytest.approx((0, 4.25), abs=1e-12)
    assert abs(reverse.mean) == pytest.approx(2, abs=0.01) and reverse.sd == pytest.approx(0.5, abs=0.01)
    assert len(reverse.others) >= 1 and reverse.others[0][0] == pytest.approx(-reverse.mean, abs=1e-4)
    assert forward.divergence == pytest.approx(kl(p, normal(forward.mean, forward.sd)), abs=1e-10)
    # Nothing near is better
    for found, cost in ((forward, kl), (reverse, lambda a, b: kl(b, a)), (both, jsd)):
        best = cost(p, normal(found.mean, found.sd))
        assert best == pytest.approx(found.divergence, abs=1e-9)
        for mean, sd in ((0.02, 0), (-0.02, 0), (0, 0.02), (0, -0.02)):
            assert cost(p, normal(found.mean + mean, found.sd + sd)) > best
    one = fit("normal(3, 2)", "reverse")
    assert (one.mean, one.sd, one.divergence) == pytest.approx((3, 2, 0), abs=1e-6)


# Densities as text --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["normal(0, 1)", TWO, "uniform(-1, 3)", "0.3*uniform(-1, 1) + 0.7*normal(0, 2)"])
def test_a_density_of_one_number_is_one(text: str) -> None:
    p = parse(text)
    x = torch.linspace(-20, 20, 2_000_001, dtype=torch.double)
    density, h = p.log_prob(x[:, None]).exp(), float(x[1] - x[0])
    assert float(density.sum()) * h == pytest.approx(1, abs=1e-5)
    assert torch.allclose(p.cdf(x), density.cumsum(0) * h, atol=1e-4)
    assert torch.allclose(p.area(x[::1000]), (p.cdf(x).cumsum(0) * h)[::1000], atol=1e-3)
    centre, spread = p.moments()
    assert float(centre) == pytest.approx(float((x * density).sum()) * h, abs=1e-4)
    assert spread**2 == pytest.approx(float(((x - float(centre)) ** 2 * density).sum()) * h, abs=1e-3)
    drawn = p.draw(Noise(0, torch.arange(20_000)))[:, 0].sort().values
    u = (torch.arange(20_000, dtype=torch.double) + 0.5) / 20_000
    assert float((p.cdf(drawn) - u).abs().max()) < 0.015  # Kolmogorov: P < 1e-3


def test_densities_of_two_numbers() -> None:
    assert parse("ring(8, 2, 0.1)").mean.norm(dim=1).tolist() == pytest.approx([2] * 8)
    assert sorted(parse("grid(3, 2, 0.1)").mean[:, 0].tolist()) == [-2] * 3 + [0] * 3 + [2] * 3
    p = parse("0.25*ring(4, 1, 0.2) + 0.75*normal2(1, 0, 0.5)")
    axis = torch.linspace(-5, 5, 501, dtype=torch.double)
    x = torch.cartesian_prod(axis, axis)
    assert float(p.log_prob(x).exp().sum()) * 0.02**2 == pytest.approx(1, abs=1e-6)
    assert p.draw(Noise(0, torch.arange(5000))).mean(0).tolist() == pytest.approx(p.moments()[0].tolist(), abs=0.05)


def test_a_kernel_density() -> None:
    points = torch.tensor([[-3.0], [-2.9], [3.0], [3.1]]).repeat(25, 1) + torch.linspace(-0.2, 0.2, 100)[:, None]
    p = kernel(points)
    assert p.d == 1 and float(p.sd[0]) < 0.7  # not Scott's, which would fill the hole
    assert float(p.log_prob(torch.zeros(1, 1)).exp()) < 1e-3 < float(p.log_prob(torch.full((1, 1), 3.0)).exp())
    assert len(kernel(torch.randn(3000, 2, generator=torch.Generator().manual_seed(0))).mean) == 1000
    for wrong in (torch.zeros(1, 2), torch.zeros(5, 3), torch.ones(5, 1), torch.tensor([[0.0], [math.nan]])):
        with pytest.raises(InputError):
            kernel(wrong)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nromal(0, 1)", "Did you mean 'normal'"),
        ("normal(0)", "takes 2 numbers (mean, sd), found 1"),
        ("normal(0, -1)", "'normal(0, 1)'"),
        ("normal(0, 0)", "'normal(0, 1)'"),
        ("normal(a, 1)", "mean of normal is to be a number, found 'a'"),
        ("normal(0, inf)", "found 'inf'"),
        ("normal(0, 1e999)", "1e999"),
        ("uniform(2, 1)", "uniform(1, 2)"),
        ("uniform(1, 1)", "uniform(1, 2)"),
        ("normal(0, 1) + normal(1, 1)", "'0.5*normal(0, 1) + 0.5*normal(1, 1)'"),
        ("0.5*normal(0, 1) + 0.7*normal(1, 1)", "sum to 1.2"),
        ("2*normal(0, 1)", "'normal(0, 1)'"),
        ("-1*normal(0, 1)", "above 0"),
        ("0.5*normal(0, 1) + 0.5*normal2(0, 0, 1)", "mixes"),
        ("ring(2.5, 1, 1)", "whole number"),
        ("grid(100, 1, 1)", "from 1 to 31"),
        ("normal(0, 1) normal(1, 1)", "joined by +"),
        ("normal", "'normal(0, 1)'"),
        ("__import__('os')", "there is no density '__import__'"),
        ("", "to its end"),
        ("normal(0, 1) +", "to its end"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, expected: str) -> None:
    with pytest.raises(InputError) as error:
        parse(text)
    assert expected in str(error.value)
    assert len(str(error.value).splitlines()) <= 3


def test_densities_of_different_dimension() -> None:
    with pytest.raises(InputError, match=r"normal2\(mx, my, sd\)"):
        equilibrium("normal2(0, 0, 1)", "normal(0, 1)")
    assert isinstance(parse("normal(0,1)"), Density)
