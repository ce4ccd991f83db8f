"""The examples run as they stand, and stay short."""

from __future__ import annotations

import math
import runpy
from pathlib import Path

import pytest
import torch

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 60


def test_own_model_keeps_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES[0].parent / "own_model.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert 2.0 < float(out.split()[0]) < 2.6 and "sums_to_one" in out


def test_character_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(EXAMPLES[0].parent / "character_model.py"))["main"]
    (tmp_path / "a.txt").write_text("".join(f"{i} times {i} is {i * i}. " for i in range(3000)))
    bits = main(str(tmp_path / "a.txt"), str(tmp_path / "run"), minutes=0.1, channels=32)
    assert bits < math.log2(17)  # better than no idea
    out = capsys.readouterr().out
    assert "bits a character on test windows, 17 characters" in out
    assert out.count("--- ") == 4


def test_odd_ones(tmp_path: Path) -> None:
    main = runpy.run_path(str(EXAMPLES[0].parent / "odd_ones.py"))["main"]
    odd = main("digits", str(tmp_path / "run"), minutes=0.1)
    assert 0 < len(odd) < 100


@pytest.mark.slow
def test_plan(tmp_path: Path) -> None:
    """The learned simulator is nearly as good to plan with as the plant itself, and random actions are far off. (A minute.)"""
    played = runpy.run_path(str(EXAMPLES[0].parent / "plan.py"))["main"](str(tmp_path / "run"))
    found = {name: float(each.mean()) for name, each in played.items()}
    assert found["random"] < found["learned"] - 2
    assert abs(found["learned"] - found["true"]) < 0.5


def test_plan_with_the_plant_itself() -> None:
    plan = runpy.run_path(str(EXAMPLES[0].parent / "plan.py"))
    torch.manual_seed(0)
    assert float(plan["play"](plan["plant"]).mean()) > float(plan["play"](None).mean()) + 2
