"""`pofx equilibrium`: the JSON that is promised, the loss and its settings, and refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pofx.cli import main

Ask = Callable[..., dict[str, Any]]
Refuse = Callable[..., str]


def test_exact_numbers_as_json(ask: Ask) -> None:
    found = ask("equilibrium", "--p", "normal(0,1)", "--q", "normal(1,1)", "--exact")
    assert found["value"] == pytest.approx(-1.163451, abs=1e-6)
    assert found["jsd"] == pytest.approx((found["value"] + math.log(4)) / 2, abs=1e-12)
    assert (found["kl_pq"], found["w1"], found["unit"], found["game"]) == (pytest.approx(0.5), pytest.approx(1), "nats", None)
    assert ask("equilibrium", "--p", "uniform(0,1)", "--q", "uniform(2,3)", "--exact")["kl_pq"] is None  # infinite
    smoothed = ask("equilibrium", "--p", "normal(0,1)", "--q", "normal(1,1)", "--exact", "--smoothing", 0.1)
    assert smoothed["smoothed_value"] < smoothed["value"] == found["value"]


def test_a_game_with_a_loss_and_its_settings(ask: Ask, tmp_path: Path) -> None:
    found = ask("equilibrium", "--q", "normal(2,1)", "--steps", 2, "--loss", "wasserstein-gp", "--loss.penalty", 3, "--critic-steps", 2)
    game = found["game"]
    assert (game["loss"], game["settings"]["penalty"], game["critic_steps"], game["steps"]) == ("WassersteinGP", 3.0, 2, 2)
    assert game["value"] is None and game["transport"] is not None
    assert ask("equilibrium", "--steps", 1, "--loss", "wasserstein-gp")["game"]["settings"]["penalty"] == 0.1  # 10 is for images
    game = ask("equilibrium", "--steps", 2, "--smoothing", 0.1, "--animation", tmp_path / "a.gif")["game"]
    assert (game["loss"], game["settings"]) == ("NonSaturating", {"smoothing": 0.1}) and game["gap"] >= 0
    assert (tmp_path / "a.gif").exists()


def test_text_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["equilibrium", "--p", "normal(0,1)", "--q", "normal(1,1)", "--exact"]) == 0
    out = capsys.readouterr().out
    assert "-1.163451 nats" in out and "JSD" in out and "-o equilibrium.html" in out


def test_a_game_that_has_not_arrived_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["equilibrium", "--q", "normal(6,1)", "--steps", "1", "--loss", "wasserstein"]) == 0
    out = capsys.readouterr().out
    assert "has not arrived" in out and "Wasserstein-1 distance is at least" in out


def test_a_flag_that_losses_share_names_the_default_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["equilibrium", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "(wasserstein-gp: 1.0, relativistic: 0.25)" in told and "λ. (wasserstein-gp) [default: 0.1]" in told


def test_refusals(refuse: Refuse) -> None:
    assert "--exact plays none" in refuse("equilibrium", "--exact", "--loss", "hinge")
    assert "differ" in refuse("equilibrium", "--smoothing", 0.1, "--loss.smoothing", 0.2)
    assert "density" in refuse("equilibrium", "--p", "", "--exact")
    assert "Did you mean 'normal'" in refuse("equilibrium", "--p", "nromal(0,1)", "--exact")
    assert "normal2(mx, my, sd)" in refuse("equilibrium", "--p", "ring(8,2,0.1)", "--q", "normal(0,1)", "--exact")
    assert "--exact" in refuse("equilibrium", "--q", "0.5*normal(-1,1) + 0.5*normal(1,1)", "--steps", 2)
    assert "has no setting --loss.penalty" in refuse("equilibrium", "--loss", "hinge", "--loss.penalty", 1)
    assert "hinge" in refuse("equilibrium", "--loss", "hing")
    assert "--smoothing" in refuse("equilibrium", "--loss", "hinge", "--smoothing", 0.1)
