"""A set on disk does not come into memory: ten times the images, the same peak, in fresh processes."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

MEMORY = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "memory.py"))


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_the_set() -> None:
    found = MEMORY["compare"](2000)
    assert {form: row["bytes_an_image"] <= MEMORY["LARGEST"] for form, row in found["forms"].items()} == {"folder": True, "parquet": True}
    assert all(row["ten"]["rss"] < 1.1 * row["one"]["rss"] for row in found["forms"].values())


def test_a_drawn_image_is_a_function_of_its_number() -> None:
    assert MEMORY["png"](3) == MEMORY["png"](3) != MEMORY["png"](4)
    assert len(MEMORY["png"](3)) < 3 * MEMORY["SIDE"] ** 2
