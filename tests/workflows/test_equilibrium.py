"""The game on known densities: the cells it is looked at in, that it reaches the equilibrium, and the page."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pofx import signatures
from pofx.errors import InputError
from pofx.models.adversarial.losses import Hinge, LeastSquares, Loss, Minimax, NonSaturating, Relativistic, Wasserstein, WassersteinGP
from pofx.tasks._densities import normal, parse
from pofx.tasks.equilibrium import LOG_4, optimal_logit, value
from pofx.tasks.equilibrium import equilibrium as exactly
from pofx.workflows import _game as module
from pofx.workflows import _page as html
from pofx.workflows._equilibrium_figures import losses_of_a_logit, picture
from pofx.workflows._game import as_logit, cells, lattice, merged, play, pushed, value_in_cells
from pofx.workflows._player import player
from pofx.workflows.equilibrium import equilibrium, read_points

P, Q = "normal(0, 1)", "normal(1, 1)"
TWO = "0.5*normal(-2, 0.5) + 0.5*normal(2, 0.5)"


# The cells that a game is looked at in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "q", "mean", "sd"), [(P, "normal(1, 1)", 1.0, 1.0), (TWO, "normal(0.3, 0.7)", 0.3, 0.7), (P, "normal(-2, 2)", -2.0, 2.0)]
)
def test_a_straight_generator_has_the_exact_value(p: str, q: str, mean: float, sd: float) -> None:
    fine = cells(parse(p), parse(q))
    z, share = lattice(1)
    found = pushed(mean + sd * z, share, fine)
    assert float(found.sum()) == pytest.approx(1, abs=1e-9)
    assert torch.allclose(found, parse(q).cdf(fine.edges[0]).diff(), atol=1e-5)
    best = value_in_cells(fine.p, found, torch.logit((fine.p / (fine.p + found)).clamp(1e-300, 1 - 1e-16)).nan_to_num(0.0))
    assert best == pytest.approx(exactly(p, q).value, abs=1e-4)


def test_a_folded_generator_keeps_its_probability() -> None:
    """x = z²: the density has an edge and a pole at 0, and what is pushed has the χ² distribution."""
    fine = cells(normal(1, 1), normal(1, 1), 300)
    z, share = lattice(1)
    found = pushed(z**2, share, fine).cumsum(0)
    x = fine.edges[0][1:].clamp(min=0)
    assert torch.allclose(found[:-1], torch.erf((x / 2).sqrt())[:-1], atol=1e-3)


def test_a_generator_of_two_numbers() -> None:
    p, q = parse("ring(4, 2, 0.4)"), parse("normal2(0.5, 0, 0.8)")
    fine = cells(p, q)
    z, share = lattice(2)
    found = pushed(q.mean[0] + q.sd[0] * z, share, fine)
    assert float(found.sum()) == pytest.approx(1, abs=1e-9) and float(fine.p.sum()) == pytest.approx(1, abs=1e-4)
    best = value_in_cells(fine.p, found, torch.logit((fine.p / (fine.p + found)).clamp(1e-300, 1 - 1e-16)).nan_to_num(0.0))
    assert best == pytest.approx(exactly(p, q).value, abs=0.01)
    assert torch.allclose(merged(fine.p, 2).sum(), fine.p.sum())


def test_what_d_is_for_each_loss() -> None:
    p, q = parse(P), parse(Q)
    fine = cells(p, q)
    f = optimal_logit(p, q, fine.places)
    mass = q.cdf(fine.edges[0]).diff()
    assert torch.equal(as_logit(NonSaturating(), f, fine.p, mass), f)  # pyright: ignore[reportArgumentType]
    squares = as_logit(LeastSquares(), torch.sigmoid(f), fine.p, mass)
    assert squares is not None and torch.allclose(squares, f, atol=1e-2)
    relative = as_logit(Relativistic(), f + 3.7, fine.p, mass)  # known up to a constant
    assert relative is not None and torch.allclose(relative, f, atol=1e-6)
    for loss in (Hinge(), Wasserstein(), WassersteinGP()):
        assert as_logit(loss, f, fine.p, mass) is None


# The game -----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss", [Minimax(), NonSaturating(smoothing=0.1), LeastSquares(), Hinge(), Wasserstein(), WassersteinGP(), Relativistic()]
)
def test_every_loss_can_be_played(loss: Loss) -> None:
    game = play(parse(P), parse(Q), loss, steps=6, batch=64, frames=3)
    assert game.critic_steps == max(loss.steps, 3) and [f.step for f in game.frames] == [0, 2, 6]
    exact = exactly(P, Q)
    assert game.frames[0].best == pytest.approx(exact.value, abs=1e-4)  # it starts as q
    for frame in game.frames:
        assert -LOG_4 - 1e-9 <= frame.best <= 0
        if frame.value is not None:
            assert frame.gap is not None and frame.gap >= -1e-9  # in the same cells no D is better than D*
        assert frame.w1 is not None
        if frame.transport is not None:
            assert 0 <= frame.transport <= frame.w1 + 1e-6
    assert game.frames[0].w1 == pytest.approx(exact.w1, abs=1e-3)
    assert (game.last.value is None) == isinstance(loss, Hinge | Wasserstein | WassersteinGP)
    assert (game.last.transport is not None) == isinstance(loss, Wasserstein | WassersteinGP)
    json.dumps(game.to_json(), allow_nan=False)


def test_a_flat_critic_shows_no_transport() -> None:
    """However large its constant: outside the box p has tails, and q has none."""
    match = module.Match(parse(P), parse("normal(0.001, 1)"), Wasserstein())
    with torch.no_grad():
        for parameter in match.critic.parameters():
            parameter.mul_(1e-4)
        list(match.critic.parameters())[-1].fill_(1000.0)
    frame = match.look()
    assert frame.w1 == pytest.approx(0.001, rel=0.01)
    assert frame.transport is not None and 0 <= frame.transport <= 0.0011


def test_the_penalty_game_arrives_and_a_lost_one_says_so() -> None:
    loss = WassersteinGP(**signatures.ON_DENSITIES["WassersteinGP"])
    won = play(parse(P), parse(Q), loss, steps=400, batch=256, frames=2)
    assert won.last.best == pytest.approx(-LOG_4, abs=0.03) and won.lost == ""
    lost = play(parse(P), parse("normal(6, 1)"), Minimax(), steps=2, batch=64, frames=2)
    assert "above −log 4" in lost.lost and "--steps" in lost.lost


def test_the_same_seed_gives_the_same_game() -> None:
    one, two, other = (play(parse(P), parse(Q), NonSaturating(), steps=5, batch=32, frames=2, seed=s) for s in (3, 3, 4))
    assert torch.equal(one.last.q, two.last.q) and one.last.value == two.last.value
    assert not torch.equal(one.last.critic, other.last.critic)


def test_the_value_in_cells_is_that_of_quadrature() -> None:
    """V of the learned critic in cells, and by adaptive quadrature against q, where the generator still is q."""
    game = play(parse(P), parse(Q), NonSaturating(), steps=1, critic_steps=60, batch=128, frames=2)
    at_start = play(parse(P), parse(Q), NonSaturating(), steps=1, critic_steps=1, batch=8, frames=2).frames[0]
    assert at_start.value == pytest.approx(-LOG_4, abs=0.2)
    fine = cells(parse(P), parse(Q))
    with torch.no_grad():
        inside = value_in_cells(fine.p, parse(Q).cdf(fine.edges[0]).diff(), game.critic(fine.places))
        assert inside == pytest.approx(value(P, Q, lambda x: game.critic(x)), abs=1e-4)
    assert inside <= exactly(P, Q).value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "seed"), [(NonSaturating(), 0), (NonSaturating(), 1), (NonSaturating(), 2), (Minimax(), 0), (Relativistic(), 0)]
)
def test_the_game_reaches_its_equilibrium(loss: Loss, seed: int) -> None:
    """V = −log 4 within 0.02 and D = ½ within 0.05 wherever p has 1 % of its peak."""
    game = play(parse(P), parse("normal(3, 1)"), loss, seed=seed)
    last = game.last
    assert last.value is not None and last.gap is not None and last.off is not None
    assert last.value == pytest.approx(-LOG_4, abs=0.02)
    assert last.best == pytest.approx(-LOG_4, abs=0.02)
    assert last.off < 0.05
    assert -1e-9 <= last.gap < 0.01
    assert game.frames[0].best == pytest.approx(exactly(P, "normal(3, 1)").value, abs=1e-4)


def test_bad_games_are_refused() -> None:
    refused: tuple[tuple[str, dict[str, Any], str], ...] = (
        (TWO, {}, "--exact"),
        ("normal2(0, 0, 1)", {}, "normal(0, 1)"),
        (Q, {"steps": 0}, "--steps 0"),
        (Q, {"critic_steps": 0}, "--critic-steps 5"),
        (Q, {"lr": -1.0}, "--lr"),
    )
    for q, more, expected in refused:
        with pytest.raises(InputError) as error:
            play(parse(P), parse(q), NonSaturating(), **more)
        assert expected in str(error.value)


# The page -------------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    import pofx.workflows.equilibrium as page

    monkeypatch.setattr(page, "KS", (1, 2))
    monkeypatch.setattr(module, "BATCH", 32)
    monkeypatch.setattr(page, "gaps", lambda *a, **k: module.gaps(*a, **(k | {"steps": 4})))


@pytest.mark.parametrize(("p", "q"), [(P, "normal(3, 1)"), ("ring(3, 1, 0.3)", "normal2(0, 0, 1)"), ("uniform(-1, 1)", None)])
def test_the_page_says_what_was_computed(p: str, q: str | None, few: None, tmp_path: Path) -> None:
    page = equilibrium(p, q, tmp_path / "e.html", steps=4)
    text = (tmp_path / "e.html").read_text()
    assert f"{page.exact.value:.6f}" in text and f"{page.exact.jsd:.6f}" in text
    assert text.count("<svg") >= 6
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text) and "http://www.w3.org" in text
    assert not re.findall(r"https?://(?!www\.w3\.org|purl\.org|creativecommons\.org|matplotlib\.org)", text)
    words = re.sub(r"<(svg|script|style).*?</\1>", "", text, flags=re.S)
    assert " nan" not in words and "None" not in words
    frames = json.loads(re.findall(r'<script type="application/json">(.*?)</script>', text, re.S)[0])["frames"]
    assert page.game is not None and len(frames) == len(page.game.frames)
    json.dumps(json.loads(json.dumps(page.game.to_json(), allow_nan=False)))


def test_numbers_alone_without_a_game(tmp_path: Path) -> None:
    page = equilibrium(P, Q, exact=True)
    assert page.game is None and page.theory is None and page.to_json()["value"] == exactly(P, Q).value
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"exact": True, "animation": tmp_path / "a.gif"}, "--animation"),
        ({"points": tmp_path / "none.csv", "p": P}, "leave one of them out"),
        ({"loss": Hinge(), "smoothing": 0.1}, "--loss minimax"),
        ({"out": tmp_path / "a.pdf"}, "a.html"),
    )
    for wrong, expected in refused:
        with pytest.raises(InputError, match=expected):
            equilibrium(**wrong)


def test_smoothing_is_that_of_the_loss() -> None:
    page = equilibrium(P, Q, smoothing=0.2, steps=1)
    assert page.game is not None and page.game.loss == NonSaturating(smoothing=0.2)
    assert page.exact.smoothing == equilibrium(P, Q, loss=Minimax(smoothing=0.2), steps=1).exact.smoothing == 0.2


@pytest.mark.parametrize("ending", ["gif", "png"])
def test_an_animation(ending: str, tmp_path: Path) -> None:
    from PIL import Image

    page = equilibrium(P, Q, steps=3, animation=tmp_path / f"a.{ending}")
    with Image.open(tmp_path / f"a.{ending}") as film:
        assert page.game is not None and getattr(film, "n_frames", 1) == len(page.game.frames)
        assert film.size == (640, 440)
    with html.inked():
        assert len(picture(page.game, 0).axes) == 2
    assert "<script>" in player(page.game)


def test_points_become_their_kernel_density(tmp_path: Path) -> None:
    points = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)).numpy()
    np.save(tmp_path / "a.npy", points)
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["x", "y"], *points.tolist()])
    assert torch.allclose(read_points(tmp_path / "a.csv"), read_points(tmp_path / "a.npy"), atol=1e-6)
    np.save(tmp_path / "b.npy", points[:, 0])
    page = equilibrium(points=tmp_path / "b.npy", steps=2)
    assert page.kernels and page.p.d == 1 and "kernel density of 40 points" in page.exact.p
    assert -LOG_4 < page.exact.value < 0
    (tmp_path / "c.csv").write_text("1,2\n3\n")
    (tmp_path / "d.csv").write_text("1,2\n3,x\n")
    for name, expected in (("none.csv", "no such file"), ("c.csv", "line 2"), ("d.csv", "line 2"), ("a.gz", "no such file")):
        with pytest.raises(InputError, match=expected):
            read_points(tmp_path / name)


def test_the_losses_of_a_logit_are_the_formulas() -> None:
    found = losses_of_a_logit()
    f, y, slope = found["log(1 − D)"]
    d = torch.sigmoid(f)
    assert torch.allclose(y, torch.log1p(-d), atol=1e-9) and torch.allclose(slope, -d, atol=1e-12)
    _, y, slope = found["−log D"]
    assert torch.allclose(y, -d.log(), atol=1e-9) and torch.allclose(slope, d - 1, atol=1e-12)
    assert float(y[80]) == pytest.approx(math.log(2))
