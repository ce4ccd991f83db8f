"""The page of the course: what is shown is what tasks compute, places on the canvas are means and scales, and what is to be copied runs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")

import torch

import pofx
from pofx.studio import course, holes
from pofx.studio.board import Board
from pofx.studio.shelf import Shelf
from pofx.tasks.chain import chain


@pytest.mark.parametrize("levels", [2, 16, 256])
def test_a_place_on_the_plane_is_a_mean_and_a_scale(levels: int) -> None:
    for mean, scale in ((0.0, 0.01 * levels), (0.7 * (levels - 1), 0.3 * levels)):
        assert course.of_plane(course.on_plane(mean, scale, levels), levels) == pytest.approx((mean, scale))
    left, right = (course.of_plane((x, 0.5), levels)[0] for x in (0.0, 0.999))
    assert left < 0 and right > levels - 1  # a mean may lie outside
    assert course.of_plane((0.5, 0.1), levels)[1] > course.of_plane((0.5, 0.9), levels)[1]  # upwards is wider


def test_a_mixture_sums_to_one_wherever_it_is_dragged() -> None:
    for point, share in (((0.0, 0.0), 0.5), ((0.99, 0.99), 1.0), ((0.5, 0.5), 0.0)):
        drawing, line, command, python = course.mixture_html(point, share, 0.75, 0.1, 16)
        assert "sum of the bins <b>1.000000000000</b>" in line and "<svg" in drawing and command.startswith("pofx course mixture")
        run(python)


def test_the_cell_that_is_clicked_is_the_one_that_is_checked() -> None:
    tables, cell, _, python = course.bayes_html(0.3, (3, 0), 1)
    assert "x = 1100, y = 1" in cell and "0.700000" in cell and tables.count("<tr>") == 18
    run(python)
    board = course.all_2x2((1, 2))
    assert (board.rows, board.cols, board.cell) == (4, 4, (1, 2)) and board.src.startswith("data:image/png")


def test_epsilon_is_held_fixed_and_both_gradients_are_shown() -> None:
    drawing, line, _, python = course.reparameterization_html(1.0, 0.5, "z²", 5, 0)
    assert line.count("<b>2.000000</b>") == 2 and line.count("<b>1.000000</b>") == 2 and "<svg" in drawing
    run(python)


def test_a_click_reads_that_pixel_and_the_command_names_it(runs: Path) -> None:
    path = str(runs / "pixelcnn")
    shelf = Shelf([runs])
    shelf.warm()
    model, picked = shelf.model(path), holes.pick(path, shelf.model(path), shelf.info(path), shelf.images(path), 3)
    board = Board(rows=8, cols=8, cell=(4, 5))
    read = course.taken_apart(model, picked, board, 0, file=True)
    assert (read.found.row, read.found.column) == (4, 5) and course.board_of(read).cell == (4, 5)
    x = pofx.load_data("digits").test.take(torch.tensor([3]))[0]
    assert read.found.total == pytest.approx(chain(model, x, file=False).total)
    text = course.chain_html(read)
    assert "integer tables" in text and "<svg" in text and "outside of the past: at most 0;" in course.jacobian_html(model, read)
    line, python = course.chain_by_hand(read)
    assert shlex.split(line) == ["pofx", "chain", path, "digits:test#3", "--pixel", "4,5", "-o", "chain.html"]
    assert run(python)["found"].running[-1] == pytest.approx(read.found.total)
    other = course.taken_apart(model, picked, Board(rows=9, cols=9, cell=(8, 8)), 0, file=False)  # of another image
    assert float(other.found.bits[other.found.place]) == float(other.found.bits.max()) and "integer tables" not in course.chain_html(other)


def test_every_question_can_be_chosen_and_one_is_answered() -> None:
    assert ("Why this bound?", "bound") in course.titles()
    text, line, python = course.answer_html("parameters")
    assert "<b>Computed:</b>" in text and "511" in text and line == "pofx course parameters"
    assert run(python)["found"].finding.holds


def test_the_command_for_a_wall() -> None:
    assert course.mass_by_hand("fvbn", "111000000/000111000", 2)[0] == (
        "pofx mass --model fvbn --images 111000000/000111000 --seed 2 -o mass.html"
    )


def run(python: str) -> dict[str, Any]:
    """What is to be copied, run."""
    names: dict[str, Any] = {}
    exec(compile(python, "copied", "exec"), names)  # noqa: S102
    return names
