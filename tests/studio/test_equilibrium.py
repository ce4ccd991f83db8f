"""The page of the game: what is drawn becomes p, and what is seen is where it was drawn."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("gradio")

import torch

from pofx.errors import InputError
from pofx.models.adversarial.losses import Hinge, NonSaturating
from pofx.studio.game import (
    DENSITIES,
    NOTHING,
    SETS,
    SIDE,
    begin,
    curve,
    data,
    from_canvas,
    link,
    maps,
    numbers,
    on_canvas,
    preset,
    to_canvas,
)
from pofx.workflows._game import cells, play
from pofx.workflows.equilibrium import start_of


def test_the_canvas_is_a_plane_from_above() -> None:
    points = torch.tensor([[0.0, 0.0], [-3.0, 2.9], [1.5, -1.5]], dtype=torch.double)
    assert to_canvas(points) == ((0.5, 0.5), (0.0, 0.0167), (0.75, 0.75))
    assert torch.allclose(from_canvas(to_canvas(points)), points, atol=1e-3)
    assert to_canvas(torch.tensor([[9.0, 0.0]])) == ()


@pytest.mark.parametrize("name", [*DENSITIES, *SETS])
def test_every_start_fills_the_canvas(name: str) -> None:
    points = preset(name)
    assert len(points) > 250 and all(0 <= v < 1 for p in points for v in p)
    p = data(points, name)
    assert p.d == 2 and (p.text == name) == (name in DENSITIES)
    more = data((*points, (0.5, 0.5)), name)  # a point was added: the draws are data now
    assert more.text.startswith(f"kernel density of {len(points) + 1} points")


def test_what_is_no_data_is_refused() -> None:
    for points, name, expected in (
        ((), NOTHING, "two points"),
        (((0.1, 0.1),), NOTHING, "two points"),
        ((), "normal(0, 1)", "canvas takes two"),
    ):
        with pytest.raises(InputError, match=expected):
            data(points, name)


def test_pictures_are_where_the_points_are() -> None:
    """p of points in the upper left corner is brightest there."""
    p = data(tuple((0.1 + 0.02 * i, 0.2) for i in range(5)), NOTHING)
    fine = cells(p, start_of(p))
    seen = on_canvas(fine.p, fine)
    row, column = divmod(int(seen.nan_to_num(-1).argmax()), SIDE)
    assert abs(row / SIDE - 0.2) < 0.03 and abs(column / SIDE - 0.14) < 0.04
    assert bool(seen[-1, -1].isnan())  # there are no cells there


def test_a_match_of_the_page_is_the_game_of_the_command() -> None:
    points = preset(DENSITIES[1])[:50]
    now = begin(points, NOTHING, NonSaturating(), steps=3, seed=1)
    assert "step <b>" not in numbers(None) and maps(None).count("<figure>") == 4
    now.look()
    now.match.advance(2)
    now.look()
    now.match.advance()
    assert now.over and [s for s, _, _ in now.seen] == [0, 2]
    frame = now.look()
    game = play(now.match.p, now.match.q, NonSaturating(), steps=3, seed=1, frames=2)
    assert frame.best == pytest.approx(game.last.best, abs=2e-3) and frame.value == pytest.approx(game.last.value, abs=2e-3)
    early = begin((), DENSITIES[0], NonSaturating(), steps=3, seed=1)  # before the canvas was filled
    assert early.match.p.text == DENSITIES[0]
    assert all(torch.equal(a.double(), b) for a, b in zip(now.match.critic.parameters(), game.critic.parameters(), strict=True))
    assert frame.jsd == pytest.approx((frame.best + math.log(4)) / 2)
    said = numbers(now)
    assert f"{frame.jsd:.4f}" in said and f"{frame.value:.4f}" in said and "≈" in said
    assert curve(now).count("<polyline") == 2 and maps(now).count("data:image/png") == 4
    assert 'download="points.csv"' in link(points)


def test_a_critic_without_d_is_said_to_have_none() -> None:
    now = begin(preset("two moons")[:40], NOTHING, Hinge(), steps=2, seed=0)
    now.look()
    assert "no D in this game" in maps(now) and "V(D)" not in numbers(now)
