"""Long work in parts on disk: each is written beside and renamed, so that the same command, after whatever ended it, goes on where it stopped.

    OUT.parts/job.json              what the work is: run, data, arguments
    OUT.parts/part-00012.parquet    what came of images 12·step … 13·step − 1, with what could not be read of them

The folder goes when OUT is there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx.errors import InputError, RunError
from pofx.tasks._files import write_text, writing

ROWS = 1 << 15  # of a piece of the table that is made of parts


@dataclass(frozen=True)
class Part:
    """What came of some images that follow one another.

    Attributes:
        columns: a row for each image: a list, or a tensor `(n,)` or `(n, k)`.
        skipped: images that are not there because they could not be read, "name: reason".
        transforms: conversions that these images needed.
    """

    columns: dict[str, Any]
    skipped: tuple[str, ...] = ()
    transforms: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """As Parquet; what is not a column is in its metadata. Names need not be text, so that they go as bytes."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        told = {"skipped": self.skipped, "transforms": self.transforms}
        table = pa.table({name: _column(values) for name, values in self.columns.items()})
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata({name: json.dumps(value) for name, value in told.items()}), sink)
        return sink.getvalue().to_pybytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Part:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pq.read_table(pa.BufferReader(data))
        return cls({name: _values(table.column(name)) for name in table.column_names}, *_told(table.schema.metadata))

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


def _told(metadata: Mapping[bytes, bytes] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    skipped, transforms = (tuple(json.loads((metadata or {}).get(name, b"[]"))) for name in (b"skipped", b"transforms"))
    return skipped, transforms


def _column(values: Any) -> Any:
    import pyarrow as pa

    if isinstance(values, Tensor):
        flat = pa.array(values.detach().contiguous().numpy().reshape(-1))
        return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values[0].numel() if len(values) else 1)
    if values and isinstance(values[0], str):
        return pa.array([value.encode(errors="surrogateescape") for value in values], pa.large_binary())
    return pa.array(values, pa.binary()) if not values or isinstance(values[0], bytes) else pa.array(values)


def _values(column: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_large_binary(column.type):
        return [value.decode(errors="surrogateescape") for value in column.to_pylist()]
    if pa.types.is_binary(column.type):
        return column.to_pylist()
    chunk = column.combine_chunks()
    if pa.types.is_fixed_size_list(column.type):
        return torch.from_numpy(np.array(chunk.flatten())).reshape(len(column), -1)
    return torch.from_numpy(np.array(chunk))


@dataclass(frozen=True)
class Parts:
    """The parts of one piece of work, in a folder that only it has.

    Attributes:
        folder: where they are.
        job: what the work is, as JSON; parts of other work are not taken for its own.
        number: how many it takes.
    """

    folder: Path
    job: Mapping[str, Any]
    number: int

    def open(self) -> set[int]:
        """Parts that are there already.

        Raises:
            InputError: the folder holds parts of other work, or something else.
        """
        there = self.folder / "job.json"
        done = {int(found[1]) for path in self.folder.glob("part-*.parquet") if (found := re.fullmatch(r"part-(\d+)\.parquet", path.name))}
        if not there.is_file():
            if self.folder.exists() and any(path for path in self.folder.iterdir() if not path.name.startswith(".")):
                raise InputError(
                    f"{self.folder} is there and holds no parts of such work, and they would go there. Move it, or choose another -o."
                )
            return set()
        try:
            before = json.loads(there.read_text(encoding="utf-8"))
        except ValueError:
            before = {}
        now = json.loads(json.dumps(self.job))
        if before != now:
            apart = [key for key in (*now, *(before.keys() - now.keys())) if before.get(key) != now.get(key)]
            told = "; ".join(f"{key} was {_short(before.get(key))}, is {_short(now.get(key))}" for key in apart[:3])
            raise InputError(
                f"{self.folder} holds {len(done)} parts of other work: {told}.\n"
                f"Give the command of then to end it, choose another -o, or begin anew: rm -r {self.folder}"
            )
        return done

    def write(self, index: int, part: Part) -> None:
        """Keep a part; the first one also says what the work is.

        Raises:
            RunError: the disk is full.
        """
        there = self.folder / "job.json"
        if not there.is_file():
            write_text(there, json.dumps(self.job, indent=1) + "\n")
        with writing(self._path(index)) as temporary:
            temporary.write_bytes(part.to_bytes())

    def _path(self, index: int) -> Path:
        return self.folder / f"part-{index:05d}.parquet"

    def __iter__(self) -> Iterator[Part]:
        """All of them, in order, one at a time in memory."""
        for index in range(self.number):
            try:
                yield Part.from_bytes(self._path(index).read_bytes())
            except (OSError, ValueError) as error:
                raise RunError(f"{self._path(index)} cannot be read: {error}. Remove it, and give the same command again.") from error

    def told(self) -> Iterator[tuple[int, tuple[str, ...], tuple[str, ...]]]:
        """Of each, in order: rows, `skipped` and `transforms`; the rows themselves are not read."""
        import pyarrow.parquet as pq

        for index in range(self.number):
            with pq.ParquetFile(self._path(index)) as file:
                yield file.metadata.num_rows, *_told(file.schema_arrow.metadata)

    def pieces(self, table: Callable[[Part], Mapping[str, Sequence[Any]]]) -> Iterator[dict[str, list[Any]]]:
        """A table of all parts, some ten thousand rows at a time."""
        gathered: dict[str, list[Any]] = {}
        for part in self:
            if len(part):
                for name, values in table(part).items():
                    gathered.setdefault(name, []).extend(values)
            if gathered and len(next(iter(gathered.values()))) >= ROWS:
                yield gathered
                gathered = {}
        if gathered:
            yield gathered

    def clear(self) -> None:
        """Remove them, and what processes that were killed have left beside; of a folder that holds more, only those."""
        for pattern in ("part-*.parquet", ".part-*.part", "job.json", ".job.json.*.part"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
