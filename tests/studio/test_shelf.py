"""Runs on the shelf are read without torch, and what a page cannot do is a sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pofx.errors import InputError
from pofx.studio.board import Board
from pofx.studio.shelf import Shelf, Wanted, read_card

pytest.importorskip("gradio", reason="the extra `studio` is not installed: pip install 'pofx[studio]'")


def card(folder: Path, **more: object) -> Path:
    folder.mkdir(parents=True)
    told = {"model": "vae", "data": {"heading": "digits"}, "metrics": {"valid_bits_per_dim": 1.5, "valid_kind": "lower bound"}} | more
    (folder / "model.json").write_text(json.dumps(told))
    return folder


def test_runs_and_folders_of_runs_are_found_once(tmp_path: Path) -> None:
    card(tmp_path / "runs" / "a")
    card(tmp_path / "runs" / "b", model="gan", metrics={})
    (tmp_path / "runs" / "c").mkdir()
    shelf = Shelf([tmp_path / "runs", tmp_path / "runs" / "a"])
    assert [c.name for c in shelf.cards()] == ["a", "b"]
    assert shelf.cards()[0].cost == "≤ 1.5 bits/dim" and shelf.cards()[1].cost == ""
    assert "digits" in shelf.cards()[0].text


def test_a_place_that_is_not_there_is_an_error_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder.*pofx train"):
        Shelf([tmp_path / "nothing"])
    assert Shelf().cards() == [] or Path("runs").is_dir()


def test_a_damaged_run_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{")
    assert read_card(tmp_path) is None
    (tmp_path / "model.json").write_text("[1]")
    assert read_card(tmp_path) is None


def test_what_a_run_lacks_is_known_from_its_class(tmp_path: Path) -> None:
    card(tmp_path / "a")
    card(tmp_path / "b", model="nothing-we-know")
    cards = Shelf([tmp_path]).cards()
    assert [Wanted(("Decoder",), "decode").fits(c) for c in cards] == [True, False]
    assert [Wanted(("Autoregressive",), "be watched").fits(c) for c in cards] == [False, False]


def test_the_pages_need_no_torch() -> None:
    code = (
        "import sys; from pofx.studio.app import make; from pofx.studio.shelf import Shelf; make(Shelf()); "
        "sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


def test_a_board_takes_anything_that_a_browser_may_send() -> None:
    for value in (None, 3, {"cell": "x", "points": [[1], [0.5, "a"], [0.25, 0.5]], "mask": "2", "rows": None}):
        board = Board.of(value)  # type: ignore[arg-type]
        assert board.cell is None and board.mask == "" and len(board.points) <= 1
    assert Board.of({"rows": 1, "cols": 2, "mask": "01", "cell": [0, 1]}) == Board(rows=1, cols=2, mask="01", cell=(0, 1))
