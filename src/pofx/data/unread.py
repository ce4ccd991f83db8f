"""`Unread`: a set of image files that is read a slice at a time, as work goes over it; nothing is decoded, hashed or split before.

`load_images` reads every file once before it returns: to know that all can be read, and to tell duplicates. Of a million files that takes as long as
the work itself. Here the first few say what the images are; of a file that is found later and cannot be read, or is of another kind, the slice says so.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from itertools import accumulate
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pofx.data.arrays import Rows
from pofx.data.decode import Encoded, Refused, decode, header, in_parallel
from pofx.data.part import Split, check_rows
from pofx.data.pixels import Items, Memory
from pofx.data.split import Keys, pixel_keys
from pofx.data.transforms import Conversion
from pofx.errors import RunError
from pofx.space import ImageSpace
from pofx.views import View


@dataclass(frozen=True, eq=False)
class Joined(Sequence[Any]):
    """Sequences end to end, none of them copied.

    >>> list(Joined((["a", "b"], ["c"]))), Joined((["a", "b"], ["c"]))[-1]
    (['a', 'b', 'c'], 'c')
    """

    pieces: tuple[Any, ...]

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(map(len, self.pieces)))

    def __len__(self) -> int:
        return self._ends[-1] if self.pieces else 0

    @overload
    def __getitem__(self, i: int) -> Any: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Any]: ...
    def __getitem__(self, i: int | slice) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        i = i + len(self) if i < 0 else i
        if not 0 <= i < len(self):
            raise IndexError(f"{i} of {len(self)}")
        k = bisect_right(self._ends, i)
        return self.pieces[k][i - (self._ends[k - 1] if k else 0)]


@dataclass(frozen=True, eq=False)
class Unread:
    """Encoded images that are not read yet.

    Attributes:
        items, ids: of all.
        space: what an image is, after conversions.
        gray, size: whether these conversions were asked for; without them a file that needs one is refused.
        drawn: for `:dynamic`, the number of levels that pixels are drawn from; else None.
        y: int64 `(n,)`, or None.
        written: column → a text for each.
        title, transforms: what a heading is made of; `transforms` are those of the first images.
        view: the one that `y` of a slice is read for (`Split.told`); None where it is the label.
        skipped: nothing, since nothing has been read.
    """

    items: Items
    ids: Sequence[str]
    space: ImageSpace
    gray: bool
    size: bool
    drawn: int | None
    y: Tensor | None
    written: dict[str, NDArray[np.object_]]
    title: str
    transforms: tuple[str, ...]
    view: View | None = None
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    @property
    def heading(self) -> str:
        return heading(self.title, self.transforms)

    @cached_property
    def fingerprint(self) -> str:
        """Of the names, sizes and times of the files, and of what is made of them."""
        made = (self.items.stamp, self.space, self.gray, self.size, self.drawn, self.title, len(self))
        return sha256(repr(made).encode(errors="surrogateescape")).hexdigest()[:32]

    def slice(self, start: int, stop: int) -> tuple[Split, NDArray[np.int64]]:
        """Images start … stop−1, read now, and their rows: those that cannot be are left out, and `skipped` says why."""
        rows = list(range(start, min(stop, len(self))))
        x = np.empty((len(rows), *self.space.shape), np.uint8)
        keys = np.zeros(len(rows), np.uint64)
        good, skipped, notes = np.ones(len(rows), bool), [], set(self.transforms)

        def one(at: int) -> tuple[Keys, tuple[str, ...]] | Refused:
            try:
                image, told = self._one(self.items[rows[at]])
            except Refused as error:
                return error
            x[at] = image[0]
            return pixel_keys(image), told

        for at, found in enumerate(in_parallel(one, list(range(len(rows))))):
            if isinstance(found, Refused):
                good[at] = False
                skipped.append(f"{self.ids[rows[at]]}: {found}")
            else:
                keys[at] = found[0][0]
                notes.update(found[1])
        kept = np.array(rows, np.int64)[good]
        y = None if self.y is None else self.y[torch.from_numpy(kept)]
        written = {name: column[kept] for name, column in self.written.items()}
        transforms = (*self.transforms, *sorted(notes - set(self.transforms)))
        ids = [self.ids[int(i)] for i in kept]
        pixels = Memory(torch.from_numpy(x if good.all() else x[good]))
        split = Split(pixels, ids, keys[good], y, self.drawn, heading(self.title, transforms), tuple(skipped), written)
        return split.told(self.view), kept

    def _one(self, encoded: Encoded) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
        channels, *shape = self.space.shape
        head = header(encoded)
        notes = list(head.notes)
        if head.channels != channels:
            if channels == 1 and not self.gray:
                raise Refused("it has colours, the others are grey; --gray makes it grey")
            notes.append("grey to rgb" if channels == 3 else "gray")
        if [head.height, head.width] != shape:
            if not self.size:
                raise Refused(
                    f"it is {head.height}x{head.width}, the others {shape[0]}x{shape[1]}; --size {shape[0]}x{shape[1]} resizes it"
                )
            notes.append(f"size {shape[0]}x{shape[1]}")
        image = self._conversion(decode(encoded, channels)[None])
        if image.shape[1:] != self.space.shape:
            raise Refused(f"its size is {image.shape[2]}x{image.shape[3]} and its header said {head.height}x{head.width}")
        return image, tuple(notes)

    @cached_property
    def _conversion(self) -> Conversion:
        _, height, width = self.space.shape
        return Conversion(False, (height, width), 256, self.drawn or self.space.levels)

    def told(self, view: View | None) -> Unread:
        """`Split.told`, of each slice when it is read."""
        return replace(self, view=view)

    def take(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Rows `index` int64 `(n,)`, as of a `Split`; raises RunError where one of them cannot be read."""
        found = [self.slice(i, i + 1)[0] for i in check_rows(index, len(self)).tolist()]
        for part in found:
            if part.skipped:
                raise RunError(f"{part.skipped[0]}.")
        x, y = zip(*(part.take(torch.tensor([0])) for part in found), strict=True)
        return torch.cat(x), None if any(v is None for v in y) else torch.cat(y)


def heading(name: str, transforms: Sequence[str]) -> str:
    """A set with its conversions.

    >>> heading("mnist", ["size 8x8", "gray"])
    'mnist [size 8x8, gray]'
    """
    return f"{name} [{', '.join(transforms)}]" if transforms else name


@dataclass(frozen=True, eq=False)
class JoinedItems(Joined):
    """Encoded images of several parts end to end."""

    @property
    def stamp(self) -> str:
        return " ".join(piece.stamp for piece in self.pieces)


@dataclass(frozen=True, eq=False)
class First:
    """The first `n` of encoded images."""

    items: Items
    n: int

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Encoded:
        return self.items[i]

    @property
    def stamp(self) -> str:
        return f"{self.n} of {self.items.stamp}"


def joined(parts: Sequence[Rows], y: Sequence[NDArray[np.int64] | None]) -> tuple[JoinedItems, Sequence[str], Tensor | None, dict]:
    """Parts of image files end to end: items, names, labels, and what is written beside them."""
    labels = None if any(some is None for some in y) else torch.from_numpy(np.concatenate([some for some in y if some is not None]))
    names = [name for name in parts[0].written if all(name in rows.written for rows in parts)]
    written = {name: np.concatenate([rows.written[name] for rows in parts]) for name in names}
    ids = parts[0].ids if len(parts) == 1 else Joined(tuple(rows.ids for rows in parts))
    return JoinedItems(tuple(rows.images for rows in parts)), ids, labels, written
