"""`pofx forecast`, and what other verbs do with series, from a CSV file to values in its units."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pofx.cli import main

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """power.csv, a year of days, and two runs on its windows: p(x) and p(x | its beginning)."""
    root = tmp_path_factory.mktemp("series")
    values = 500 + 100 * np.sin(np.arange(600) * 2 * np.pi / 6)
    (root / "power.csv").write_text("day,megawatt\n" + "\n".join(f"d{i},{v:.3f}" for i, v in enumerate(values)))
    for name, more in (("run", ""), ("top", "--given top")):
        train = f"train gated-pixelcnn series:{root}/power.csv --size 1x20 --levels 16 --layers 1 --channels 4 {more}"
        assert main(f"{train} --out {root}/{name} --steps 3 --quiet".split()) == 0
    return root


def test_forecasts_of_the_test_part(folder: Path, ask: Ask) -> None:
    found = ask("forecast", folder / "run", "--keep", 14, "-n", 6, "-o", folder / "a.png")
    assert found["kind"] == "exact" and found["draws"] == 6 and (found["keep"], found["horizon"]) == (14, 6)
    assert found["season"] == 6 and found["baselines"]["seasonal-naive"]["mean"] < 10 < found["crps"]["mean"]
    assert found["better_by"].keys() == found["baselines"].keys() == {"seasonal-naive", "seasonal-naive-residuals", "climatology"}
    assert found["units"] == "units of the series"
    assert all(400 < v < 600 for row in found["quantiles"]["0.5"] for v in row)
    assert found["scale"]["levels"] == 16 and found["scale"]["low"] == pytest.approx(413.4, abs=0.1)
    assert Path(found["out"]).is_file()


def test_given_top_of_a_series_is_half_of_its_past(folder: Path, ask: Ask) -> None:
    stored = json.loads((folder / "top" / "model.json").read_text())
    assert stored["given"] == {"type": "Top", "rows": 10}
    found = ask("forecast", folder / "top", "--limit", 2, "-n", 3)
    assert (found["keep"], found["horizon"], found["kind"], found["n"]) == (10, 10, "exact", 2)


def test_the_newest_values_of_a_column_have_a_future(folder: Path, ask: Ask) -> None:
    data = f"series:{folder}/power.csv#-1"
    found = ask("forecast", folder / "run", data, "--size", "1x14", "--keep", 14, "-n", 4, "-o", folder / "tomorrow.csv")
    assert found["n"] == 1 and found["crps"] is None and found["ids"] == ["power.csv/586"]
    with (folder / "tomorrow.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(r["step"]) for r in rows] == [1, 2, 3, 4, 5, 6] and rows[0]["truth"] == ""


def test_samples_and_completions_of_series(folder: Path, ask: Ask) -> None:
    found = ask("sample", folder / "run", "-n", 3)
    assert Path(found["out"]).name == "samples.csv"
    values = np.loadtxt(found["out"], delimiter=",")
    assert values.shape == (3, 20) and values.min() > 410 and values.max() < 590
    data = f"series:{folder}/power.csv:test#0"
    assert ask("complete", folder / "run", data, "--keep", "top:14", "-n", 2, "--size", "1x20")["kind"] == "exact"
    scores = ask("score", folder / "run", f"series:{folder}/power.csv:test", "--size", "1x20", "-o", folder / "s.csv")
    assert scores["n"] == 6


def test_refusals(folder: Path, runs: Path, refuse: Callable[..., str]) -> None:
    assert "Forecasts are of series" in refuse("forecast", runs / "pixelcnn")
    assert "keep 1 … 19" in refuse("forecast", folder / "run", "--keep", 20)
    assert "--size 1x20" in refuse("forecast", folder / "run", f"series:{folder}/power.csv", "--keep", 14)
    assert "There is no file of series" in refuse("forecast", folder / "run", "series:nowhere.csv", "--keep", 14)
    assert "There is no image -40" in refuse("forecast", folder / "run", f"series:{folder}/power.csv#-40", "--size", "1x20")
    assert "the run was not trained" in refuse("sample", folder / "run", "-o", folder / "a.txt")
