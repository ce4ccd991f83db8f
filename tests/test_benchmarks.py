"""Code points of emoji as pairs that differ in one thing."""

from __future__ import annotations

import runpy
from pathlib import Path

import torch

EMOJI = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "emoji_pairs.py"))
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


def test_errors_are_of_means_over_families() -> None:
    """Three alike in one family count once."""
    pair = EMOJI["Pair"]
    chosen = [pair(0, 1, ("a",)), pair(2, 3, ("a",)), pair(4, 5, ("a",)), pair(6, 7, ("b",))]
    found = EMOJI["by_family"](torch.tensor([1.0, 1.0, 1.0, 3.0]), chosen)
    assert found == {"mean": 2.0, "se": 1.0}
