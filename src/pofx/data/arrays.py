"""Arrays as images: which axis is which, which values are allowed, and what labels are. Nothing is guessed silently.

The project's form is `(N, C, H, W)`. `(N, H, W)` has one channel. `(N, H, W, C)` is accepted where the last axis is 1 to 4 long and
the second is not; where both are, the array is read as `(N, C, H, W)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from pofx.data.pixels import Items
from pofx.errors import InputError

if TYPE_CHECKING:
    from pofx.data.series import Scale

CHANNELS = range(1, 5)


@dataclass(frozen=True, eq=False)
class Numbered(Sequence[str]):
    """Names `prefix/number`, made when read: sixty thousand strings are not kept.

    >>> list(Numbered("mnist/test", np.array([3, 5])))
    ['mnist/test/3', 'mnist/test/5']
    """

    prefix: str
    numbers: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[str]: ...
    def __getitem__(self, i: int | slice) -> str | Sequence[str]:
        if isinstance(i, slice):
            return Numbered(self.prefix, self.numbers[i])
        return f"{self.prefix}/{self.numbers[i]}"


def pick(ids: Sequence[str], rows: NDArray[np.int64]) -> Sequence[str]:
    """The names of these rows."""
    if isinstance(ids, Numbered):
        return Numbered(ids.prefix, ids.numbers[rows])
    return [ids[int(i)] for i in rows]


@dataclass(frozen=True, eq=False)
class Rows:
    """A published part as it was found: images, names, labels (whole numbers or strings), and what is written beside them (`Split.written`)."""

    images: NDArray[np.uint8] | Items
    ids: Sequence[str]
    y: NDArray[Any] | None = None
    written: Mapping[str, NDArray[np.object_]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Source:
    """A set as it was found.

    Attributes:
        parts: {"all"}, or {"train"[, "valid"][, "test"]}.
        levels: how many values a sub-pixel can take; None where an array does not say.
        notes: conversions that belong to the source, e.g. "alpha over white".
        skipped: what could not be read, "path: reason".
        alphabet: of a text, the character of each level.
        scale: of series, the values that levels stand for.
    """

    parts: dict[str, Rows]
    levels: int | None = 256
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    skipped: tuple[str, ...] = field(default=())
    alphabet: str | None = None
    scale: Scale | None = None


def as_images(array: Any, what: str) -> NDArray[np.uint8]:
    """An array or tensor of whole numbers 0 … 255 as uint8 `(N, C, H, W)`, copied only if it must be; raises InputError.

    >>> as_images(np.zeros((5, 28, 28, 3), np.uint8), "x").shape
    (5, 3, 28, 28)
    """
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        if array.dtype == torch.bfloat16:
            array = array.float()
        array = array.numpy()
    array = np.asanyarray(array)
    if array.dtype == bool:
        array = array.view(np.uint8)
    if array.dtype != np.uint8:
        if array.dtype.kind not in "iu":
            raise InputError(
                f"{what} holds {array.dtype}; images must be whole numbers 0 … 255 (uint8). "
                "If it is 0 … 1: (x * 255).round().astype('uint8'); if it is whole numbers already: x.astype('uint8')."
            )
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        if low < 0 or high > 255:
            raise InputError(
                f"{what} ({array.dtype}) has values {low} … {high}; images must be 0 … 255. Rescale it, e.g. (x >> 8).astype('uint8') for 16 bits."
            )
        array = array.astype(np.uint8)
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4:
        form = "x.reshape(len(x), 1, height, width), or x[:, None, None] for series" if array.ndim == 2 else "x.reshape(N, C, H, W)"
        raise InputError(f"{what} has shape {array.shape}; images are (N, C, H, W), (N, H, W) or (N, H, W, C). Try {form}.")
    if array.shape[1] not in CHANNELS:
        if array.shape[3] not in CHANNELS:
            raise InputError(
                f"{what} has shape {array.shape}: neither axis 1 (N, C, H, W) nor axis 3 (N, H, W, C) is 1 to 4 channels. "
                "If it is (N, C, H, W) with the axes moved, try np.moveaxis(x, axis, 1)."
            )
        array = np.moveaxis(array, 3, 1)
    if not all(array.shape[1:]):
        raise InputError(f"{what} has shape {array.shape}: images without pixels.")
    return array


def as_labels(y: Any, n: int, what: str) -> NDArray[Any] | None:
    """Labels of n images, `(n,)` or `(n, 1)`: whole numbers or strings; raises InputError."""
    if y is None:
        return None
    y = y.detach().cpu().numpy() if isinstance(y, torch.Tensor) else np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.shape != (n,):
        raise InputError(f"{what} has shape {y.shape} for {n} images; labels are one whole number or name an image, shape ({n},).")
    if y.dtype.kind == "f" and n and bool((y == np.floor(y)).all()):
        y = y.astype(np.int64)
    if y.dtype.kind not in "iubU":
        raise InputError(f"{what} holds {y.dtype}; labels are whole numbers or names. Try y.astype('int64').")
    return y


def number_labels(source: Source) -> tuple[dict[str, NDArray[np.int64] | None], tuple[str, ...] | None]:
    """Labels as int64 ≥ 0 for each part, and class names. Names are numbered in sorted order; so are whole numbers below 0."""
    given = [part.y for part in source.parts.values() if part.y is not None]
    names = source.class_names
    if not given:
        return dict.fromkeys(source.parts), names
    strings = {y.dtype.kind == "U" for y in given}
    if len(strings) == 2:
        raise InputError("Some labels are names and some are numbers; use one of them everywhere.")
    if strings == {True} or min((int(y.min()) for y in given if len(y)), default=0) < 0:
        known = np.unique(np.concatenate(given))
        numbered = {k: None if part.y is None else np.searchsorted(known, part.y).astype(np.int64) for k, part in source.parts.items()}
        return numbered, tuple(str(v) for v in known)
    top = max((int(y.max()) for y in given if len(y)), default=0)
    if names is not None and top >= len(names):
        raise InputError(f"There is a label {top} and there are only {len(names)} class names (0 … {len(names) - 1}).")
    return {k: None if part.y is None else part.y.astype(np.int64) for k, part in source.parts.items()}, names
