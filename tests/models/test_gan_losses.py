"""The games: closed forms of their optima, slopes that are exact, and gradients that die where theory says so."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pofx.errors import InputError
from pofx.models.adversarial.losses import (
    Hinge,
    LeastSquares,
    Loss,
    Minimax,
    NonSaturating,
    Relativistic,
    Wasserstein,
    WassersteinGP,
    squared_slopes,
)

ALL: list[Loss] = [Minimax(), NonSaturating(), LeastSquares(), Hinge(), Wasserstein(), WassersteinGP(), Relativistic()]
P = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.double)
Q = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.double)


def expected(loss: Loss, f: Tensor) -> Tensor:
    """The critic's loss with outputs f on four points of which reals are P and generated ones Q: the loss of 10 real and 10 generated images."""
    real, fake = (torch.repeat_interleave(f, (10 * p).round().long()) for p in (P, Q))
    return loss.critic(real, fake)


def optimum(loss: Loss) -> Tensor:
    f = torch.zeros(4, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([f], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = expected(loss, f)
        value.backward()
        return value

    optimizer.step(closure)
    return f.detach()


@pytest.mark.parametrize("loss", [Minimax(), NonSaturating()])
def test_the_best_critic_of_a_logistic_game_is_p_over_p_plus_q(loss: Loss) -> None:
    f = optimum(loss)
    m = (P + Q) / 2
    jsd = 0.5 * (torch.xlogy(P, P / m) + torch.xlogy(Q, Q / m)).sum()
    assert torch.allclose(f.sigmoid(), P / (P + Q), atol=1e-4)
    assert -float(expected(loss, f)) == pytest.approx(-math.log(4) + 2 * float(jsd), abs=1e-5)


def test_smoothing_scales_the_best_critic() -> None:
    f = optimum(NonSaturating(smoothing=0.1))
    assert torch.allclose(f.sigmoid(), 0.9 * P / (P + Q), atol=1e-4)


def test_the_best_critic_of_least_squares_is_the_same_ratio() -> None:
    f = optimum(LeastSquares())
    assert torch.allclose(f, P / (P + Q), atol=1e-6)


def test_the_best_hinge_is_the_total_variation() -> None:
    f = torch.where(P > Q, 1.0, -1.0).double()
    assert float(expected(Hinge(), f)) == pytest.approx(2 - float((P - Q).abs().sum()), abs=1e-12)


@pytest.mark.parametrize("loss", [Wasserstein(), WassersteinGP()])
def test_a_transport_critic_estimates_a_difference_of_means(loss: Loss) -> None:
    f = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.double)
    assert -float(expected(loss, f)) == pytest.approx(float((P * f).sum() - (Q * f).sum()), abs=1e-12)


def test_a_relativistic_loss_only_looks_at_pairs() -> None:
    r, f = torch.randn(5, dtype=torch.double), torch.randn(5, dtype=torch.double)
    loss = Relativistic()
    assert torch.allclose(loss.critic(r + 3, f + 3), loss.critic(r, f)) and torch.allclose(loss.critic(r, f), loss.generator(f, r))


def slope(loss: Loss, logit: float) -> float:
    f = torch.tensor([logit], dtype=torch.double, requires_grad=True)
    loss.generator(torch.zeros(1, dtype=torch.double), f).backward()
    assert f.grad is not None
    return float(f.grad)


def test_minimax_dies_where_the_critic_is_certain_and_the_others_do_not() -> None:
    certain = -30.0
    assert slope(Minimax(), certain) == pytest.approx(-torch.tensor(certain).sigmoid().item(), rel=1e-5)
    assert abs(slope(Minimax(), certain)) < 1e-12
    for loss in (NonSaturating(), Relativistic(), Wasserstein(), WassersteinGP(), Hinge()):
        assert slope(loss, certain) == pytest.approx(-1.0, abs=1e-9)
    assert slope(LeastSquares(), certain) == pytest.approx(certain - 1)


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_every_loss_is_finite_at_any_output(loss: Loss, logit: float) -> None:
    r = torch.full((3,), -logit, requires_grad=True)
    f = torch.full((3,), logit, requires_grad=True)
    for value in (loss.critic(r, f), loss.generator(r, f)):
        assert torch.isfinite(value)
        gradients = torch.autograd.grad(value, (r, f), allow_unused=True)
        assert all(g is None or bool(torch.isfinite(g).all()) for g in gradients)


# Slopes --------------------------------------------------------------------------------------------------------------

A = torch.tensor([3.0, 4.0], dtype=torch.double)


def linear(x: Tensor) -> Tensor:
    return x @ A


def test_penalties_of_a_linear_critic_are_known() -> None:
    real, fake, u = torch.randn(6, 2).double(), torch.randn(6, 2).double(), torch.rand(6).double()
    held = WassersteinGP(penalty=10.0).smoothness(linear, real, fake, u)
    assert held is not None and held.item() == pytest.approx(10 * (5 - 1) ** 2)
    held = Relativistic(r1=1.0, r2=0.5, share=1.0).smoothness(linear, real, fake, u)
    assert held is not None and held.item() == pytest.approx(0.5 * 25 + 0.25 * 25)
    assert Relativistic(r1=0.0, r2=0.0).smoothness(linear, real, fake, u) is None
    assert NonSaturating().smoothness(linear, real, fake, u) is None


def test_a_slope_is_per_image_and_over_all_its_numbers() -> None:
    x = torch.randn(4, 3, 5, 5).double()

    def cube(x: Tensor) -> Tensor:
        return (x**3).flatten(1).sum(1) / 3

    assert torch.allclose(squared_slopes(cube, x), (x**4).flatten(1).sum(1))
    assert torch.allclose(squared_slopes(cube, x[2:3]), squared_slopes(cube, x)[2:3])


def test_where_a_critic_is_flat_the_penalty_still_has_a_gradient() -> None:
    w = torch.zeros(2, dtype=torch.double, requires_grad=True)
    held = WassersteinGP().smoothness(lambda x: x @ w, torch.ones(2, 2).double(), torch.zeros(2, 2).double(), torch.rand(2).double())
    assert held is not None
    (gradient,) = torch.autograd.grad(held, w)
    assert torch.isfinite(gradient).all()


def test_penalties_hold_reals_apart_from_generated_ones() -> None:
    def steep_at_ones(x: Tensor) -> Tensor:
        return (F.relu(x - 0.5) ** 2).sum(1)  # slope 1 in each coordinate at ones, 0 at zeros

    ones, zeros, u = torch.ones(3, 2).double(), torch.zeros(3, 2).double(), torch.rand(3).double()
    for r1, r2, value in ((2.0, 0.0, 2.0), (0.0, 2.0, 0.0)):
        held = Relativistic(r1=r1, r2=r2).smoothness(steep_at_ones, ones, zeros, u)
        assert held is not None and held.item() == pytest.approx(value)


def test_one_turn_is_the_sum_of_its_parts() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 1)).double()

    def critic(x: Tensor) -> Tensor:
        return net(x)[:, 0]

    real, fake, u = torch.randn(6, 2).double(), torch.randn(6, 2).double(), torch.rand(6).double()
    for loss in ALL:
        for apart in (False, True):
            turn = loss.against(critic, real, fake, u, apart=apart)
            assert torch.allclose(turn.real, critic(real)) and torch.allclose(turn.fake, critic(fake))
            assert torch.allclose(turn.loss, loss.critic(turn.real, turn.fake))
            held = loss.smoothness(critic, real, fake, u)
            assert torch.allclose(turn.total, turn.loss + (0 if held is None else held))


@pytest.mark.parametrize("make", [WassersteinGP, Relativistic])
def test_slopes_at_a_share_of_the_images_are_right_on_average(make: type[WassersteinGP] | type[Relativistic]) -> None:
    real, fake, u = torch.randn(8, 2).double(), torch.randn(8, 2).double(), torch.rand(8).double()

    def critic(x: Tensor) -> Tensor:
        return (x**2).sum(1)

    whole = make(share=1.0).smoothness(critic, real, fake, u)
    parts = [make(share=0.25).smoothness(critic, *(t.roll(-2 * k, 0) for t in (real, fake, u))) for k in range(4)]
    assert whole is not None and all(part is not None for part in parts)
    assert torch.allclose(torch.stack([part for part in parts if part is not None]).mean(), whole)
    turn = make(share=0.25).against(critic, real, fake, u)
    assert turn.penalty is not None and parts[0] is not None and torch.allclose(turn.penalty, parts[0])


def test_clipping_bounds_every_weight() -> None:
    net = nn.Linear(4, 4)
    Wasserstein(clip=0.02).after(net)
    assert all(float(p.detach().abs().max()) <= 0.02 for p in net.parameters())
    assert Wasserstein().constrains and not any(loss.constrains for loss in ALL if not isinstance(loss, Wasserstein))


@pytest.mark.parametrize("make", [
    lambda: Wasserstein(clip=0),
    lambda: WassersteinGP(penalty=-1),
    lambda: Relativistic(r1=-1),
    lambda: Relativistic(r2=math.nan),
    lambda: Minimax(smoothing=0.5),
    lambda: Relativistic(share=0),
    lambda: WassersteinGP(share=2),
])  # fmt: skip
def test_numbers_out_of_range_are_refused(make: object) -> None:
    with pytest.raises(InputError, match=r"--loss\."):
        make()  # type: ignore[operator]
