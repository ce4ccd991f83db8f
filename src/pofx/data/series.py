"""Series as images of height 1: `series:FILE.csv` and `timeseries:NAME`. Values are quantised to levels, and the scale is kept.

    level   k = ⌊(v − low) / step⌋, step = (high − low) / levels, clipped to 0 … levels−1
    value   v = low + (k + ½) step, the middle of its interval: off by step/2 at most, where nothing was clipped

The scale is fitted to what is not test. Its ends are the least and the largest value, unless those lie far out: the range from the 0.5 % to
the 99.5 % quantile, and half as much again on either side, is the most that it spans, so that one wild value does not take all levels for itself.

A file has one series a row, or one long column, which is cut: windows of W values that do not overlap are test (the last fifth of the column)
and valid (the tenth before it); before them is train, whose windows overlap. What fills no window is left out at the old end. W is 64, or N of --size 1xN.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pofx.data.arrays import Numbered, Rows, Source
from pofx.data.split import TEST, VALID, choose, pixel_keys, share
from pofx.errors import InputError

PREFIX = "series:"
WIDTH = 64
FEWEST = 4  # series or windows that a set needs: one for each part
OVERLAP = 8  # a window of train begins every W/8 values
TAIL, ROOM = 0.005, 0.5  # see above: what may lie far out, and how far the scale may reach beyond the rest
MUCH = 0.01  # a share of clipped values that is worth a warning

Values = NDArray[np.float64]
A = TypeVar("A", Tensor, NDArray[Any])


@dataclass(frozen=True)
class Scale:
    """Which values the levels of a series stand for: `levels` equal steps from `low` to `high`.

    >>> scale = Scale(0.0, 8.0, 4)
    >>> scale.encode(np.array([-1.0, 1.9, 2.0, 8.0])).tolist(), scale.decode(np.array([0, 3])).tolist()
    ([0, 0, 1, 3], [1.0, 7.0])
    """

    low: float
    high: float
    levels: int = 256

    def __post_init__(self) -> None:
        if not (np.isfinite([self.low, self.high]).all() and self.low < self.high and 2 <= self.levels <= 256):
            raise InputError(f"A scale has low < high and 2 … 256 levels, found {self}.")

    @classmethod
    def fit(cls, values: Values, levels: int = 256) -> Self:
        """The scale of finite values, `(…)`, robust to a few far out.

        >>> round(Scale.fit(np.append(np.linspace(0, 1, 400), 1e6)).high, 2)
        1.49
        """
        low, high = float(values.min()), float(values.max())
        near = float(np.quantile(values, TAIL, method="higher")), float(np.quantile(values, 1 - TAIL, method="lower"))
        room = ROOM * (near[1] - near[0])
        if room > 0:
            low, high = max(low, near[0] - room), min(high, near[1] + room)
        return cls(low, high if high > low else low + 1, levels)

    @classmethod
    def of(cls, value: Scale | Mapping[str, Any] | None) -> Scale | None:
        """A scale, or one from JSON."""
        return value if value is None or isinstance(value, Scale) else cls(**value)

    @property
    def step(self) -> float:
        """What one level is in units of the series."""
        return (self.high - self.low) / self.levels

    @property
    def note(self) -> str:
        return f"{self.levels} steps of {self.low:.6g} … {self.high:.6g}"

    def encode(self, values: Values) -> NDArray[np.uint8]:
        """Finite values as levels."""
        return np.clip(np.floor((values - self.low) / (self.high - self.low) * self.levels), 0, self.levels - 1).astype(np.uint8)

    def decode(self, levels: A) -> A:
        """Levels as values in float64: the middles of their intervals."""
        x: Any = levels.double() if isinstance(levels, Tensor) else levels.astype(np.float64)
        return self.low + (x + 0.5) * self.step

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def cut(values: Values, width: int, stride: int) -> tuple[Values, NDArray[np.int64]]:
    """Windows `(n, width)` of a series `(L,)`, every `stride` values and up to its end, and where they begin `(n,)`.

    >>> cut(np.arange(7.0), 3, 2)[0].tolist()
    [[0.0, 1.0, 2.0], [2.0, 3.0, 4.0], [4.0, 5.0, 6.0]]
    """
    if len(values) < width:
        return np.empty((0, width)), np.empty(0, np.int64)
    starts = np.arange((len(values) - width) % stride, len(values) - width + 1, stride)
    return np.lib.stride_tricks.sliding_window_view(values, width)[starts], starts


def source(
    parts: Mapping[str, tuple[Values, NDArray[np.int64]]],
    name: str,
    levels: int | None,
    scale: Scale | None,
    labels: Mapping[str, NDArray[Any]] | None = None,
    notes: Sequence[str] = (),
) -> Source:
    """Series by part, `(n, W)` with their numbers `(n,)`, as images 1×1×W; the scale is fitted to all that is not test, unless it is given."""
    if scale is None:
        scale = Scale.fit(np.concatenate([x.ravel() for part, (x, _) in parts.items() if part != "test" or len(parts) == 1]), levels or 256)
    rows = {}
    for part, (x, numbers) in parts.items():
        beyond = float(np.mean((x < scale.low) | (x > scale.high))) if x.size else 0.0
        if beyond > MUCH:
            warnings.warn(
                f"{name}: {beyond:.0%} of its values are outside of {scale.low:.6g} … {scale.high:.6g}, the scale it is read on, and are clipped to it.",
                stacklevel=1,
            )
        prefix = name if part == "all" else f"{name}/{part}"
        rows[part] = Rows(scale.encode(x)[:, None, None], Numbered(prefix, numbers), None if labels is None else labels[part])
    return Source(rows, scale.levels, notes=(*notes, scale.note), scale=scale)


def columns(train: Values, test: Values | None, name: str, width: int, whole: bool) -> dict[str, tuple[Values, NDArray[np.int64]]]:
    """Windows of one long series by part, in the order of time; of a `whole` one all that do not overlap.

    Args:
        train: the series `(L,)`, or what comes before its test part where that is known, `(M,)`.

    Raises:
        InputError: it is too short for such windows.
    """
    if whole:
        if len(train) < width:
            raise InputError(
                f"{name} has {len(train)} values, and a window has {width}. Give more of them, or --size 1x{max(2, len(train))}"
            )
        return {"all": cut(train, width, width)}
    if test is None:
        end = len(train) - max(width, round(TEST * len(train)))
        train, test = train[: max(end, 0)], train[max(end, 0) :]
    end = len(train) - max(2 * width, round(2 * VALID * len(train)))
    if end < width or len(test) < width:
        total = len(train) + len(test)
        raise InputError(
            f"{name} has {total} values: too few for windows of {width} in train, valid, calib and test. Give at least {FEWEST * width}, "
            f"or shorter windows: --size 1x{max(2, total // (2 * FEWEST))}"
        )
    found = {"train": cut(train[:end], width, max(1, width // OVERLAP))}
    for part, values, first in (("valid", train[end:], end), ("test", test, len(train))):
        x, starts = cut(values, width, width)
        found[part] = x, starts + first
    return found


def window(size: tuple[int, int] | None) -> int:
    """W of --size 1xW."""
    height, width = size or (1, WIDTH)
    if height != 1:
        raise InputError(f"--size {height}x{width}: a series is 1 high; for windows of {width} values write --size 1x{width}.")
    return width


def read_series(
    path: Path,
    name: str,
    limit: int,
    *,
    size: tuple[int, int] | None = None,
    levels: int | None = None,
    scale: Scale | None = None,
    split_seed: int = 0,
    whole: bool = False,
) -> Source:
    """The series of a CSV file: one a row, or one long column (or row), which is cut into windows.

    A first line without numbers is a heading, and a column called label holds classes; a first column that is no number (names, dates) is left out.

    Args:
        limit: bytes that may be read.
        size: (1, W), of a long column.
        levels: of a scale that has to be fitted.
        scale: that of a run; None: fitted.
        split_seed: chooses the fifth of the rows that is test.
        whole: all of it in its order, as one part.

    Raises:
        InputError: it cannot be read, or is too short; a cell is no number; rows of different lengths.
    """
    values, labels = _table(path, limit)
    if 1 in values.shape:
        width = window(size)
        note = f"windows of {width} values"
        return source(columns(values.ravel(), None, str(path), width, whole), name, levels, scale, notes=(note,))
    if len(values) < FEWEST and not whole:
        raise InputError(f"{path} has {len(values)} series; train, valid, calib and test need {FEWEST}. Give more, or one long column.")
    rows = np.arange(len(values))
    if whole:
        parts = {"all": rows}
    else:
        test = choose(pixel_keys(values.view(np.uint8)), share(TEST, len(values)), seed=split_seed)
        parts = {"train": rows[~test], "test": rows[test]}
    y = None if labels is None else {part: labels[chosen] for part, chosen in parts.items()}
    return source({part: (values[chosen], chosen) for part, chosen in parts.items()}, name, levels, scale, y)


def _table(path: Path, limit: int) -> tuple[Values, NDArray[np.str_] | None]:
    """The numbers of a CSV file `(rows, columns)`, and its labels `(rows,)` if it has some."""
    try:
        if path.stat().st_size > limit:
            raise InputError(
                f"{path} has {path.stat().st_size:,} bytes; the limit is {limit:,}. Give a part of it, or raise POFX_MEMORY_LIMIT."
            )
        text = path.read_text(encoding="utf-8-sig")
        first = text.lstrip().partition("\n")[0]
        mark = next((m for m in "\t;" if m in first), ",")
        lines = [
            (i, [cell.strip() for cell in cells]) for i, cells in enumerate(csv.reader(text.splitlines(), delimiter=mark), 1) if any(cells)
        ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV: {error}. Give one series a row, or one value a line.") from error
    heading: list[str] = []
    if lines and _number(lines[0][1][-1], mark) is None:
        heading = [cell.lower() for cell in lines.pop(0)[1]]
    if not lines:
        raise InputError(f"{path} holds no numbers. Give one series a row, or one value a line.")
    at = heading.index("label") if "label" in heading else None
    skip = {at} if at is not None else set()
    if len(lines[0][1]) > 1 and _number(lines[0][1][0], mark) is None:
        skip.add(0)
    found = []
    for line, cells in lines:
        if len(cells) != len(lines[0][1]):
            raise InputError(f"{path}, line {line}: {len(cells)} cells, and the first row has {len(lines[0][1])}. Make them equally long.")
        kept = [cell for i, cell in enumerate(cells) if i not in skip]
        row = [_number(cell, mark) for cell in kept]
        if None in row:
            raise InputError(f"{path}, line {line}: {kept[row.index(None)]!r} is no finite number. Fill or drop it.")
        found.append(row)
    values = np.array(found, np.float64)
    if not values.size:
        raise InputError(f"{path} holds no numbers. Give one series a row, or one value a line.")
    return values, None if at is None else np.array([cells[at] for _, cells in lines])


def _number(cell: str, mark: str) -> float | None:
    """A finite number; beside other marks than a comma it may have a decimal comma."""
    try:
        value = float(cell if mark == "," else cell.replace(",", "."))
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def values_of(x: Tensor, scale: Scale | None) -> Tensor:
    """Images uint8 `(…, 1, 1, W)` as values `(…, W)`, float64; as levels where there is no scale."""
    x = x[..., 0, 0, :]
    return x.to(torch.float64) if scale is None else scale.decode(x)
