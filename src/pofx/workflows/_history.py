"""metrics.csv of a run, for curves."""

from __future__ import annotations

import csv
import math
from pathlib import Path


def history(path: Path) -> dict[str, list[float]]:
    """metrics.csv as columns of floats, NaN where a cell is empty; empty where there is no file."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))

    def value(text: str | None) -> float:
        try:
            return float(text or "nan")
        except ValueError:
            return math.nan

    return {name: [value(row.get(name)) for row in rows] for name in (rows[0] if rows else {}) if name}
