"""Where the pixels of a part are: in one tensor, or on disk and decoded when asked for. Both answer the same `read(index)`.

Memory    uint8 (n, C, H, W); a batch is one gather
Mapped    a .npy file larger than the limit, memory-mapped
OnDisk    image files, or the bytes in a memory-mapped Arrow column, decoded by a few threads
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pofx.data.cache import stamp
from pofx.data.decode import Encoded, Refused, decode, in_parallel
from pofx.data.transforms import Conversion
from pofx.errors import InputError, RunError

LIMIT = 2 << 30
"""Bytes of decoded pixels above which a set stays on disk; `memory_limit=` or $POFX_MEMORY_LIMIT changes it."""


class Pixels(ABC):
    """n images of one shape."""

    in_memory: bool

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """`(C, H, W)`."""

    @abstractmethod
    def read(self, index: Tensor) -> Tensor:
        """Rows `index` int64 `(n,)` as uint8 `(n, C, H, W)`."""

    @abstractmethod
    def select(self, rows: NDArray[np.int64]) -> Pixels:
        """Only these rows."""


@dataclass(frozen=True, eq=False)
class Memory(Pixels):
    """One uint8 tensor `(n, C, H, W)`."""

    x: Tensor
    in_memory = True

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, int, int]:
        _, c, h, w = self.x.shape
        return c, h, w

    def read(self, index: Tensor) -> Tensor:
        return self.x[index]

    def select(self, rows: NDArray[np.int64]) -> Pixels:
        if len(rows) == len(self.x) and bool((rows == np.arange(len(rows))).all()):
            return self
        return Memory(self.x[torch.from_numpy(rows)])


@dataclass(frozen=True, eq=False)
class Mapped(Pixels):
    """Rows of a memory-mapped array `(N, C, h, w)`, converted when read."""

    array: NDArray[np.uint8]
    rows: NDArray[np.int64]
    convert: Conversion
    form: tuple[int, int, int]
    in_memory = False

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.form

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: Tensor) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.convert(np.asarray(self.array[self.rows[index.numpy()]]))))

    def select(self, rows: NDArray[np.int64]) -> Pixels:
        return Mapped(self.array, self.rows[rows], self.convert, self.form)


class Items(Protocol):
    """Encoded images, by number."""

    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> Encoded: ...
    @property
    def stamp(self) -> str: ...


class FileItems:
    """Image files. A path is kept as its bytes, in one block with all others: some tens of bytes, where a `Path` has some hundreds."""

    def __init__(self, paths: Sequence[Path]) -> None:
        names = [os.fsencode(path) for path in paths]
        self._ends = np.cumsum([len(name) for name in names], dtype=np.int64)
        self._names = b"".join(names)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, i: int) -> Encoded:
        i = range(len(self))[i]
        return Path(os.fsdecode(self._names[self._ends[i - 1] if i else 0 : self._ends[i]]))

    @property
    def stamp(self) -> str:
        return stamp(Path(self[i]) for i in range(len(self)))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class ArrowItems:
    """A pyarrow column of bytes, or of {bytes, path} as `datasets` stores images."""

    column: Any
    stamp: str
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, i: int) -> Encoded:
        value = self.column[i].as_py()
        if isinstance(value, dict):
            if value.get("bytes") is None and value.get("path"):
                return (self.folder or Path()) / value["path"]
            value = value.get("bytes")
        if not isinstance(value, bytes):
            raise Refused("the row holds no image")
        return value


@dataclass(frozen=True, eq=False)
class OnDisk(Pixels):
    """Encoded images, decoded when read."""

    items: Items
    rows: NDArray[np.int64]
    names: Sequence[str] = field(repr=False)
    convert: Conversion
    form: tuple[int, int, int]
    in_memory = False

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.form

    def __len__(self) -> int:
        return len(self.rows)

    def one(self, row: int) -> NDArray[np.uint8]:
        """Image `row` of `items`, converted: uint8 `(1, C, H, W)`; raises Refused."""
        x = self.convert(decode(self.items[row], self.shape[0])[None])
        if x.shape[1:] != self.shape:
            raise Refused(f"its size is {x.shape[2]}x{x.shape[3]} and its header said {self.shape[1]}x{self.shape[2]}")
        return x

    def read(self, index: Tensor) -> Tensor:
        rows = self.rows[index.numpy()]
        out = np.empty((len(rows), *self.shape), np.uint8)

        def put(at: tuple[int, int]) -> None:
            try:
                out[at[0]] = self.one(at[1])[0]
            except Refused as error:
                raise RunError(f"{self.names[at[1]]} could be read when the data was loaded and cannot be read now: {error}.") from error

        for _ in in_parallel(put, list(enumerate(rows.tolist()))):
            pass
        return torch.from_numpy(out)

    def select(self, rows: NDArray[np.int64]) -> Pixels:
        return OnDisk(self.items, self.rows[rows], self.names, self.convert, self.form)


@dataclass(frozen=True, eq=False)
class Chain(Pixels):
    """Parts end to end, in memory or not."""

    pieces: list[Pixels]
    in_memory = False

    def __len__(self) -> int:
        return sum(map(len, self.pieces))

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.pieces[0].shape

    def flat(self) -> Pixels:
        tensors = [p.x for p in self.pieces if isinstance(p, Memory)]
        return Memory(torch.cat(tensors)) if len(tensors) == len(self.pieces) else self

    def read(self, index: Tensor) -> Tensor:
        out = torch.empty(len(index), *self.shape, dtype=torch.uint8)
        begin = 0
        for piece in self.pieces:
            here = (index >= begin) & (index < begin + len(piece))
            if here.any():
                out[here] = piece.read(index[here] - begin)
            begin += len(piece)
        return out

    def select(self, rows: NDArray[np.int64]) -> Pixels:
        return Chosen(self, rows)


@dataclass(frozen=True, eq=False)
class Chosen(Pixels):
    """Some rows of other pixels."""

    base: Pixels
    rows: NDArray[np.int64]
    in_memory = False

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.base.shape

    def read(self, index: Tensor) -> Tensor:
        return self.base.read(torch.from_numpy(self.rows[index.numpy()]))

    def select(self, rows: NDArray[np.int64]) -> Pixels:
        return Chosen(self.base, self.rows[rows])


def memory_limit(given: int | str | None) -> int:
    """Bytes, from an argument, $POFX_MEMORY_LIMIT, or the default; `"500M"` and `"2G"` are understood (1024-based).

    >>> memory_limit("2G") == memory_limit(2 << 30)
    True
    """
    value = given if given is not None else os.environ.get("POFX_MEMORY_LIMIT") or LIMIT
    text = str(value).strip().upper().removesuffix("IB").removesuffix("B")
    unit = {"K": 10, "M": 20, "G": 30, "T": 40}.get(text[-1:], 0)
    try:
        limit = int(float(text[:-1] if unit else text) * (1 << unit))
    except (ValueError, OverflowError):
        limit = -1
    if limit < 0:
        raise InputError(f"The memory limit {value!r} is no number of bytes. Try POFX_MEMORY_LIMIT=2G.")
    return limit
