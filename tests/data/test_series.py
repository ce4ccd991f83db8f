"""Series: the scale and its inverse, windows in time, files of one's own, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pofx.data import describe, load_data, load_images
from pofx.data.series import Scale, cut
from pofx.errors import InputError

needs_data = pytest.mark.skipif("POFX_DATA" not in os.environ, reason="the named sets are not there")


WAVES = np.sin(np.arange(1000) / 5)
WAVES[990] = 1.5  # in test


def write(path: Path, rows: np.ndarray, heading: str = "") -> str:
    lines = [",".join(f"{v:.6g}" for v in np.atleast_1d(row)) for row in rows]
    path.write_text("\n".join([heading] * bool(heading) + lines) + "\n")
    return f"series:{path}"


@pytest.fixture
def column(tmp_path: Path) -> str:
    return write(tmp_path / "power.csv", WAVES, "megawatt")


# The scale -----------------------------------------------------------------------------------------------------------


@given(
    low=st.floats(-1e3, 1e3),
    span=st.floats(1e-3, 1e4),
    levels=st.integers(2, 256),
    share=st.lists(st.floats(0, 1), min_size=1, max_size=20),
)
def test_there_and_back_is_half_a_step(low: float, span: float, levels: int, share: list[float]) -> None:
    scale = Scale(low, low + span, levels)
    values = low + span * np.array(share)
    assert (np.abs(scale.decode(scale.encode(values)) - values) <= scale.step * (0.5 + 1e-9) + 1e-9).all()


def test_levels_are_fixed_points_and_ends_are_clipped() -> None:
    scale = Scale(-1.0, 3.0, 16)
    levels = torch.arange(16, dtype=torch.uint8)
    assert scale.encode(scale.decode(levels).numpy()).tolist() == levels.tolist()
    assert scale.encode(np.array([-1e9, 1e9])).tolist() == [0, 15]


def test_one_wild_value_does_not_take_all_levels() -> None:
    values = np.sin(np.arange(500.0))
    assert Scale.fit(values).high == values.max()  # nothing far out: the ends are those of the data
    assert Scale.fit(np.append(values, 1e9)).high < 3
    assert Scale.fit(np.full(10, 2.0)) == Scale(2.0, 3.0)  # a constant has a scale too


def test_rare_pulses_are_not_cut_off() -> None:
    """The quantiles coincide: the range of the data is taken."""
    values = np.zeros(1000)
    values[7] = 5
    assert Scale.fit(values) == Scale(0.0, 5.0)


@pytest.mark.parametrize("wrong", [(1.0, 1.0, 8), (0.0, float("nan"), 8), (0.0, 1.0, 1), (0.0, 1.0, 257)])
def test_scales_that_are_none(wrong: tuple[float, float, int]) -> None:
    with pytest.raises(InputError, match="low < high"):
        Scale(*wrong)


# Windows -------------------------------------------------------------------------------------------------------------


def test_windows_end_at_the_newest_value() -> None:
    x, starts = cut(np.arange(10.0), 4, 4)
    assert x.tolist() == [[2, 3, 4, 5], [6, 7, 8, 9]] and starts.tolist() == [2, 6]
    assert len(cut(np.arange(3.0), 4, 1)[0]) == 0


def test_a_long_column_is_split_in_time(column: str) -> None:
    data = load_data(column, size="1x40")
    assert data.space.shape == (1, 1, 40)
    assert data.transforms[0] == "windows of 40 values"
    starts = {part: sorted(int(i.rpartition("/")[2]) for i in split.ids) for part, split in data.parts.items()}
    assert max(starts["train"]) + 40 <= min(starts["valid"] + starts["calib"])
    assert max(starts["valid"] + starts["calib"]) + 40 <= min(starts["test"])
    assert max(starts["test"]) + 40 == 1000
    assert np.diff(starts["train"]).max() == 5  # of train they overlap
    assert data.scale is not None
    assert data.scale.high == pytest.approx(1, abs=1e-4)  # fitted to what is not test
    first = starts["train"][3]
    row = [int(i.rpartition("/")[2]) for i in data.train.ids].index(first)
    assert np.abs(data.scale.decode(data.train.x[row, 0, 0]).numpy() - WAVES[first : first + 40]).max() < data.scale.step


def test_without_a_part_all_windows_come_in_order(column: str) -> None:
    scale = load_data(column, size="1x40").scale
    part, _ = load_images(column, size="1x40", scale=scale)
    assert list(part.ids) == [f"power.csv/{i}" for i in range(0, 1000, 40)]


def test_values_off_the_scale_are_told(column: str) -> None:
    with pytest.warns(UserWarning, match="outside of 0 … 1, the scale it is read on, and are clipped"):
        load_images(column, size="1x40", scale=Scale(0.0, 1.0))


def test_the_record_makes_it_again_on_its_scale(column: str, tmp_path: Path) -> None:
    data = load_data(column, size="1x40", levels=32)
    stored = json.loads(json.dumps(data.to_json()))
    assert Scale.of(stored["scale"]) == data.scale and data.space.levels == 32
    assert load_data(**stored["spec"]).fingerprint == data.fingerprint
    write(tmp_path / "power.csv", np.sin(np.arange(1000) / 5) / 2)
    again = load_data(**stored["spec"])  # the file has changed; what a level stands for has not
    assert again.scale == data.scale and again.fingerprint != data.fingerprint


# Files ---------------------------------------------------------------------------------------------------------------


def test_one_series_a_row_with_labels_and_names(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(40, 6))
    lines = ["name;label;" + ";".join(f"t{i}" for i in range(6))]
    lines += [f"n{i};{'ab'[i % 2]};" + ";".join(f"{v:.5f}".replace(".", ",") for v in row) for i, row in enumerate(values)]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    data = load_data(f"series:{tmp_path}/rows.csv")
    assert [len(s) for s in data.parts.values()] == [28, 2, 2, 8]
    assert data.class_names == ("a", "b")
    assert describe(data).overlap == 0
    part, space = load_images(f"series:{tmp_path}/rows.csv", scale=data.scale)
    assert space.shape == (1, 1, 6) and part.y is not None and part.y[:4].tolist() == [0, 1, 0, 1]
    assert data.scale is not None
    inside = np.clip(values, data.scale.low, data.scale.high)
    assert np.abs(data.scale.decode(part.x[:, 0, 0]).numpy() - inside).max() <= data.scale.step / 2 + 1e-5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no numbers"),
        ("1,2,3\n4,5\n", "line 2: 2 cells, and the first row has 3"),
        ("1,2\n3,x\n", "line 2: 'x' is no finite number"),
        ("1,2\n3,nan\n", "no finite number"),
        ("1,2\n3,\n", "line 2: '' is no finite number"),
        ("1,2\n3,4\n", "has 2 series; train, valid, calib and test need 4"),
        ("\n".join(map(str, range(100))), "too few for windows of 64.*--size 1x12"),
    ],
)
def test_bad_files(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        load_data(f"series:{tmp_path}/a.csv")


def test_refusals(column: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file of series"):
        load_data("series:nowhere.csv")
    with pytest.raises(InputError, match="coarser steps of a series are --levels 2"):
        load_data(column + ":threshold")
    with pytest.raises(InputError, match="a series is 1 high"):
        load_data(column, size="8x8")


@needs_data
def test_a_long_named_series_does_not_repeat_its_past() -> None:
    """It is published with its train part as the beginning of test."""
    data = load_data("timeseries:UCRAnomaly135_InternalBleeding16", size="1x96")
    assert data.space.shape == (1, 1, 96)
    assert min(int(i.rpartition("/")[2]) for i in data.test.ids) >= 1200
    assert describe(data).overlap == 0
