"""`Split`: one part of a set, as everything above the data reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pofx.data.arrays import Numbered, pick
from pofx.data.pixels import Chain, Memory, Pixels
from pofx.data.split import Keys, pixel_keys
from pofx.data.transforms import bernoulli
from pofx.errors import InputError
from pofx.noise import Noise
from pofx.views import View

CHUNK = 1024


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a set: indexable, in memory (one uint8 tensor) or on disk.

    Attributes:
        pixels: where the images are.
        ids: stable names: "mnist/test/17" (row 17 of the published part), or a file's relative path.
        keys: uint64 `(N,)`, a hash of each image's pixels; equal for duplicates.
        y: int64 `(N,)` labels, or None; or what a view reads, `(N, …)`: see `told`.
        drawn: for `:dynamic`, the number of levels that pixels are drawn from; else None.
        heading: set, part and conversions, to print above a number.
        skipped: files that could not be read, "path: reason".
        written: what is written beside the images: column → a text for each, "" for an empty cell, None for an image that is not named.

    >>> part = Split.of(torch.zeros(3, 1, 2, 2, dtype=torch.uint8))
    >>> len(part), part.take(torch.tensor([0, 2]))[0].shape
    (3, torch.Size([2, 1, 2, 2]))
    """

    pixels: Pixels
    ids: Sequence[str]
    keys: Keys
    y: Tensor | None = None
    drawn: int | None = None
    heading: str = "array"
    skipped: tuple[str, ...] = ()
    written: Mapping[str, NDArray[np.object_]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, x: Tensor, y: Tensor | None = None, ids: Sequence[str] | None = None) -> Split:
        """A part of images uint8 `(N, C, H, W)` that are in memory already."""
        return cls(Memory(x), ids if ids is not None else Numbered("array", np.arange(len(x))), pixel_keys(x.cpu().numpy()), y)

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def in_memory(self) -> bool:
        return self.pixels.in_memory

    @property
    def x(self) -> Tensor:
        """All images, uint8 `(N, C, H, W)`. Of a set on disk this decodes everything, each time: use `take` or `batches`."""
        if isinstance(self.pixels, Memory) and self.drawn is None:
            return self.pixels.x
        return self._drawn_once if self.in_memory else self._all()

    @cached_property
    def _drawn_once(self) -> Tensor:
        return self._all()

    def _all(self) -> Tensor:
        out = torch.empty(len(self), *self.pixels.shape, dtype=torch.uint8)
        at = 0
        for x, _ in self.batches(CHUNK):
            out[at : at + len(x)] = x
            at += len(x)
        return out

    def take(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Rows `index` int64 `(n,)`: images uint8 `(n, C, H, W)` and labels int64 `(n,)`. Of a `:dynamic` set, its one fixed draw."""
        index = check_rows(index, len(self))
        x = self.pixels.read(index)
        if self.drawn is not None:
            x = bernoulli(x, self.drawn, Noise(0, self._noise_keys[index]), "dynamic/fixed")
        return x, None if self.y is None else self.y[index]

    @cached_property
    def _noise_keys(self) -> Tensor:
        return torch.from_numpy((self.keys >> np.uint64(1)).astype(np.int64))

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """`take` of everything, in order, `size` rows at a time."""
        for at in range(0, len(self), size):
            yield self.take(torch.arange(at, min(at + size, len(self))))

    def select(self, rows: NDArray[np.int64]) -> Split:
        """Only these rows, as a part of its own."""
        y = None if self.y is None else self.y[torch.from_numpy(rows)]
        written = {name: column[rows] for name, column in self.written.items()}
        return Split(self.pixels.select(rows), pick(self.ids, rows), self.keys[rows], y, self.drawn, self.heading, self.skipped, written)

    def read(self) -> Split:
        """The same, in memory."""
        return self if self.in_memory else replace(self, pixels=Memory(self.pixels.read(torch.arange(len(self)))))

    def balanced(self, n: int, *, seed: int = 0) -> NDArray[np.int64]:
        """`n` rows with as many images of each class as can be, ascending: drawn by `seed` and the pixels, so the same on every machine.

        Raises:
            InputError: no labels, fewer than one a class, or more than there are.

        >>> part = Split.of(torch.arange(6, dtype=torch.uint8)[:, None, None, None], torch.tensor([0, 0, 0, 0, 1, 1]))
        >>> part.y[torch.from_numpy(part.balanced(4))].tolist()
        [0, 0, 1, 1]
        """
        if self.y is None or self.y.ndim != 1:
            raise InputError(f"{self.heading} has no labels. Give a folder with one subfolder per class, or a set with labels.")
        y = self.y.numpy()
        classes = len(np.unique(y))
        if not isinstance(n, int) or not classes <= n <= len(y):
            raise InputError(
                f"--labels {n}: {self.heading} has {len(y)} images of {classes} classes; use {classes} … {len(y)}, "
                f"e.g. --labels {min(10 * classes, len(y))}."
            )
        u = Noise(seed, self._noise_keys).uniform("labels", 1)[:, 0].numpy()
        rank = np.empty(len(y), np.int64)  # of each image within its class; so the first n by rank are balanced
        for label in np.unique(y):
            rows = np.flatnonzero(y == label)
            rank[rows[np.argsort(u[rows], kind="stable")]] = np.arange(len(rows))
        return np.sort(np.lexsort((u, rank))[:n])

    def told(self, view: View | None) -> Split:
        """This part with `y` as `view` reads it from what is written beside the images (attributes, captions); itself where `y` is the label.

        Raises:
            InputError: nothing of that name is written, an image is not named, or a cell is not what it should be.

        >>> from pofx.views import Attributes
        >>> part = Split.of(torch.zeros(2, 1, 2, 2, dtype=torch.uint8))
        >>> replace(part, written={"hat": np.array(["1", ""], object)}).told(Attributes(("hat",))).y
        tensor([[1],
                [2]])
        """
        y = None if view is None else view.read({name: column.tolist() for name, column in self.written.items()}, self.ids)
        return self if y is None else replace(self, y=y)


def check_rows(index: Tensor, n: int) -> Tensor:
    """Row numbers of a part of n as int64 `(k,)` ≥ 0; negative ones count from the end; raises IndexError."""
    index = torch.as_tensor(index)
    if index.dtype == torch.bool:
        index = torch.nonzero(index)[:, 0]
    index = index.reshape(-1).long().cpu()
    if len(index) and not (-n <= int(index.min()) and int(index.max()) < n):
        raise IndexError(f"rows {int(index.min())} … {int(index.max())} of a part that has {n}")
    return torch.where(index < 0, index + n, index)


def end_to_end(parts: list[Split]) -> Split:
    """Several parts as one, in order."""
    first, *others = parts
    if not others:
        return first
    ids = [name for s in parts for name in s.ids]
    y = None if any(s.y is None for s in parts) else torch.cat([s.y for s in parts if s.y is not None])
    written = {name: np.concatenate([s.written[name] for s in parts]) for name in first.written if all(name in s.written for s in others)}
    keys = np.concatenate([s.keys for s in parts])
    return replace(first, pixels=Chain([s.pixels for s in parts]).flat(), ids=ids, keys=keys, y=y, written=written)
