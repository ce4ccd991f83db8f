"""metrics.csv: one row per logged step, appended; a resumed run drops what lies beyond its checkpoint and writes it again.

Lightning's own CSVLogger deletes the file on resume.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from pofx.training.files import full_disk, write_atomic


def read_csv(path: Path) -> list[dict[str, str]]:
    """The whole rows of a metrics file; a torn last line is left out."""
    if not path.exists():
        return []
    text = path.read_bytes().decode(errors="replace")
    rows = list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))
    return [row for row in rows if None not in row and None not in row.values() and row["step"].isdigit()]


class MetricsFile(Logger):
    """Appends rows to `path`, after dropping those of more than `step` steps.

    Raises:
        RunError: the disk is full.
    """

    def __init__(self, path: Path, step: int) -> None:
        super().__init__()
        self.path = path
        self.columns: list[str] = ["step"]
        old = read_csv(path)
        rows = {int(row["step"]): row for row in old if int(row["step"]) <= step}
        if old:
            self.columns = list(old[0])
        if path.exists():
            self._rewrite([rows[key] for key in sorted(rows)])

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Hyperparameters are in model.json."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {"step": str(step), **{name: f"{value:.10g}" for name, value in metrics.items()}}
        fresh = [name for name in row if name not in self.columns]
        if fresh or not self.path.exists():
            rows = read_csv(self.path)
            self.columns += fresh
            self._rewrite([*rows, row])
            return
        line = io.StringIO()
        csv.DictWriter(line, self.columns, restval="", lineterminator="\n").writerow(row)
        with full_disk(self.path), open(self.path, "a", newline="") as file:
            file.write(line.getvalue())

    def sync(self) -> None:
        """Flush to the disk: rows up to a checkpoint must not be lost when the power is."""
        if self.path.exists():
            with full_disk(self.path), open(self.path, "rb+") as file:
                os.fsync(file.fileno())

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(self.path, lambda file: file.write(text.getvalue().encode()))
