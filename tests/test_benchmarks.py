"""What benchmarks do beside measuring: pairs of emoji that differ in one thing, rows that are there already."""

from __future__ import annotations

import argparse
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from pofx.data import Data, load_data
from pofx.space import ImageSpace
from pofx.workflows.few_labels import Efficiency, Point

ROOT = Path(__file__).parents[1]
EMOJI = runpy.run_path(str(ROOT / "benchmarks" / "emoji_pairs.py"))
NAMES = [
    "emoji_u1f468_1f3fb_200d_1f9b1",  # man, light skin, curly hair
    "emoji_u1f469_1f3fb_200d_1f9b1",
    "emoji_u1f469_1f3ff_200d_1f9b1",
    "emoji_u1f9d6_1f3fe_200d_2642_fe0f",  # man in steamy room
    "emoji_u1f9d6_1f3fe_200d_2640_fe0f",
    "emoji_u1f468_200d_1f680",  # a man astronaut, whose partner is missing
    "emoji_u2b50",
]


def of(edit: str) -> list[tuple[int, int]]:
    return [(p.before, p.after) for p in EMOJI["pairs"](NAMES, EMOJI["EDITS"][edit])]


def test_pairs_differ_in_the_person_or_the_tone_and_in_nothing_else() -> None:
    assert of("man to woman") == [(0, 1), (3, 4)]
    assert of("light to dark skin") == [(1, 2)]


def test_families_are_held_out_whole() -> None:
    family, points = EMOJI["family"], EMOJI["points"]
    families = [family(points(name)) for name in NAMES]
    assert families[0] == families[1] == families[2] != families[3] == families[4]
    assert len({EMOJI["held_out"](f) for f in families[:3]}) == 1
    shares = [EMOJI["held_out"]((f"{i:x}",)) for i in range(2000)]
    assert 0.15 < sum(shares) / 2000 < 0.25


class Named(str):
    """The name of a run, with the space of its images."""

    space: ImageSpace


def test_few_labels_goes_on_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are there are not measured again, scratch comes last, and all curves are drawn on one plane."""
    few = runpy.run_path(str(ROOT / "benchmarks" / "few_labels.py"))
    inside, asked, data = few["probes"].__globals__, [], load_data("digits")

    def measured(model: Named, data: Data, *, sizes: list[int], methods: tuple[str, ...], draws: int, **_: object) -> Efficiency:
        asked.append((str(model), methods, tuple(sizes), draws))
        points = tuple(Point.of(n, [0.5 + 0.001 * n] * draws, 100) for n in sizes)
        return Efficiency(dict.fromkeys(methods, points), "labels", "digits", str(model), None, 3, 100, 7)

    def named(run: str) -> Named:
        name = Named(run)
        name.space = data.space
        return name

    monkeypatch.setitem(inside, "few_labels", measured)
    monkeypatch.setitem(inside, "load_model", named)
    options = argparse.Namespace(runs=["a", "b@late"], sizes=[10, 100], draws=3, steps=7, scratch_sizes=[10], scratch_draws=2)
    found: list[Any] = []
    few["probes"](options, data, found, lambda: None)
    every = ("features", "spread", "pixels", "spread-pixels")

    def both(sizes: tuple[int, ...]) -> list[Any]:
        return [("a", (method,), sizes, 3) for method in every] + [("b", (method,), sizes, 3) for method in every[:2]]

    assert asked == [*both((10, 100)), ("a", ("scratch",), (10,), 2)]
    asked.clear()
    options.scratch_sizes = None
    few["probes"](options, data, found, lambda: None)
    assert asked == [("a", ("scratch",), (100,), 2)]
    asked.clear()
    options.sizes, options.scratch_sizes, options.scratch_draws = [1000, 10], [10], 3
    few["probes"](options, data, found, lambda: None)
    assert asked == [*both((1000,)), ("a", ("scratch",), (10,), 3)]
    drawn = few["curves"](found)
    names = ["features of a", "spread of a", "pixels", "spread-pixels", "scratch", "features of b", "spread of b"]
    assert list(drawn.curves) == names
    sizes = {name: [p.at for p in points] for name, points in drawn.curves.items()}
    assert sizes.pop("scratch") == [10, 100] and all(at == [10, 100, 1000] for at in sizes.values())
    assert [len(p.draws) for p in drawn.curves["scratch"]] == [3, 2]


def test_errors_are_of_means_over_families() -> None:
    """Three alike in one family count once."""
    pair = EMOJI["Pair"]
    chosen = [pair(0, 1, ("a",)), pair(2, 3, ("a",)), pair(4, 5, ("a",)), pair(6, 7, ("b",))]
    found = EMOJI["by_family"](torch.tensor([1.0, 1.0, 1.0, 3.0]), chosen)
    assert found == {"mean": 2.0, "se": 1.0}
