"""metrics.csv of a run, for curves."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path


def history(path: Path) -> dict[str, list[float]]:
    """metrics.csv as columns of floats, NaN where a cell is empty; empty where there is no file. A last line that is being written is left out."""
    if not path.is_file():
        return {}
    text = path.read_bytes().decode(errors="replace")
    rows = list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))

    def value(text: str | None) -> float:
        try:
            return float(text or "nan")
        except ValueError:
            return math.nan

    return {name: [value(row.get(name)) for row in rows] for name in (rows[0] if rows else {}) if name}
