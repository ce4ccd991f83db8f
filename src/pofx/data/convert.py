"""A source, as it was found → pixels that a model may see: gray, size, levels, threshold; every conversion that changed something is named.

Arrays are converted in memory; a memory-mapped one that is too large stays mapped. Image files take two passes: their headers (sizes, colours,
refusals), then their pixels (hashes, corrupt files); small sets keep what was decoded.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pofx.data import cache, sources
from pofx.data.arrays import Source, number_labels, pick
from pofx.data.decode import Refused, decode, header, in_parallel
from pofx.data.part import CHUNK, Split
from pofx.data.pixels import Items, Mapped, Memory, OnDisk, Pixels
from pofx.data.series import Scale
from pofx.data.split import Keys, pixel_keys
from pofx.data.transforms import Conversion, over_white
from pofx.errors import InputError
from pofx.space import ImageSpace

HEAD = np.dtype([("height", np.int32), ("width", np.int32), ("channels", np.int8), ("notes", np.int16)])
"""Of a header, what is kept of each image; no channels: it was refused."""


@dataclass(frozen=True)
class Options:
    """What was asked for besides DATA; see `load_data`."""

    size: tuple[int, int] | None
    levels: int | None
    gray: bool
    keep: tuple[str, ...]
    drop: tuple[str, ...]
    split_seed: int
    strict: bool
    limit: int


@dataclass(frozen=True, eq=False)
class Found:
    """A set after its conversions, in the parts it was published in."""

    parts: dict[str, Split]
    space: ImageSpace
    transforms: tuple[str, ...]
    skipped: tuple[str, ...]
    class_names: tuple[str, ...] | None
    alphabet: str | None = None
    scale: Scale | None = None


def convert(parsed: sources.Spec, source: Source, options: Options) -> Found:
    """Convert, number the labels, and leave out what cannot be read; raises InputError."""
    labels, class_names = number_labels(source)
    if any(isinstance(rows.images, np.ndarray) for rows in source.parts.values()):
        pixels, ids, kept, space, notes, skipped = _from_arrays(parsed, source, options)
    else:
        pixels, ids, kept, space, notes, skipped = _from_files(parsed, source, options)
    transforms = [*source.notes, *notes]
    drawn = None
    if parsed.transform:
        transforms.append(parsed.transform)
        if parsed.transform == "dynamic":
            drawn = space.levels  # the grey values stay in place and are drawn when taken
    if options.keep:
        transforms.append(f"keep-labels {','.join(options.keep)}")
    if options.drop:
        transforms.append(f"drop-labels {','.join(options.drop)}")
    parts = {}
    for part, (part_pixels, keys) in pixels.items():
        y = labels[part]
        parts[part] = Split(
            part_pixels,
            ids[part],
            keys,
            None if y is None else torch.from_numpy(y[kept[part]]),
            drawn,
            skipped=skipped,
            written={name: column[kept[part]] for name, column in source.parts[part].written.items()},
        )
    if not sum(map(len, parts.values())) or not len(next(iter(parts.values()))):
        raise InputError(f"{parsed.text} holds no images. Give at least one.")
    if drawn is not None:
        space = replace(space, levels=2)
    return Found(parts, space, tuple(transforms), skipped, class_names, source.alphabet, source.scale)


_Converted = tuple[
    dict[str, tuple[Pixels, Keys]], dict[str, Sequence[str]], dict[str, NDArray[np.int64]], ImageSpace, list[str], tuple[str, ...]
]


def _target_levels(parsed: sources.Spec, options: Options, old: int, notes: list[str]) -> int:
    """Levels after --levels and :threshold (the floor of a floor is the floor, so one step does both)."""
    new = options.levels or old
    if new > old:
        raise InputError(f"{parsed.text} has {old} levels; --levels {new} cannot add any. Leave it out, or use fewer than {old}.")
    if new != old:
        notes.append(f"levels {new}")
    return 2 if parsed.transform == "threshold" else new


def _from_arrays(parsed: sources.Spec, source: Source, options: Options) -> _Converted:
    arrays = {k: rows.images for k, rows in source.parts.items() if isinstance(rows.images, np.ndarray)}
    shapes = {a.shape[1:] for a in arrays.values()}
    if len(shapes) > 1:
        raise InputError(
            f"{parsed.text} has parts of different shapes: {', '.join(f'{k} {a.shape[1:]}' for k, a in arrays.items())}. Make them equal."
        )
    old = _array_levels(parsed, source.levels, options, arrays)
    ((channels, height, width),) = shapes
    notes: list[str] = []
    gray = options.gray and channels != 1
    if gray and channels == 4:
        notes.append("alpha over white")
        arrays = {k: over_white(a) for k, a in arrays.items()}
    elif gray and channels != 3:
        raise InputError(f"--gray needs images of 3 channels (RGB), found {channels}. Leave it out.")
    if gray:
        notes.append("gray")
    size = options.size or (height, width)
    if size != (height, width):
        notes.append(f"size {size[0]}x{size[1]}")
    new = _target_levels(parsed, options, old, notes)
    conversion = Conversion(gray, size, old, new)
    space = ImageSpace(1 if gray else channels, *size, new)
    too_large = sum(len(a) for a in arrays.values()) * space.dims > options.limit
    pixels: dict[str, tuple[Pixels, Keys]] = {}
    for part, array in arrays.items():
        chunks = (conversion(np.asarray(array[i : i + CHUNK])) for i in range(0, len(array), CHUNK))
        if too_large and isinstance(array, np.memmap):
            key = f"keys {cache.stamp([Path(str(array.filename))])} {conversion} {space}"
            stored = cache.remember(key, lambda c=chunks: {"keys": np.concatenate([pixel_keys(chunk) for chunk in c])})
            pixels[part] = Mapped(array, np.arange(len(array)), conversion, space.shape), stored["keys"]
            continue
        x = np.empty((len(array), *space.shape), np.uint8)
        for i, chunk in zip(range(0, len(array), CHUNK), chunks, strict=True):
            x[i : i + CHUNK] = chunk
        pixels[part] = Memory(torch.from_numpy(x)), pixel_keys(x)
    kept = {k: np.arange(len(a)) for k, a in arrays.items()}
    return pixels, {k: rows.ids for k, rows in source.parts.items()}, kept, space, notes, ()


def _array_levels(parsed: sources.Spec, levels: int | None, options: Options, arrays: dict[str, NDArray[np.uint8]]) -> int:
    """What the source says; else `--levels` if all values fit, 2 if they are 0 and 1, and 256."""
    if levels is not None and not 2 <= levels <= 256:
        raise InputError(f"{parsed.text} says that it has {levels} levels; 2 … 256 are possible.")
    if levels == 256:
        return 256
    top = max((int(a[i : i + CHUNK].max()) for a in arrays.values() for i in range(0, len(a), CHUNK)), default=0)
    if levels is not None:
        if top >= levels:
            raise InputError(
                f"{parsed.text} has a value {top} and says that it has {levels} levels (0 … {levels - 1}). Correct `levels`, or leave it out."
            )
        return levels
    if options.levels and top < options.levels:
        return options.levels
    return 2 if top == 1 else 256


def _from_files(parsed: sources.Spec, source: Source, options: Options) -> _Converted:
    """Headers of all files first (shape, colours, refusals), then one pass over the pixels (hashes, corrupt files)."""
    items: dict[str, Items] = {k: rows.images for k, rows in source.parts.items() if not isinstance(rows.images, np.ndarray)}
    with warnings.catch_warnings():
        # Pillow warns of large images; ours are refused by `PIXEL_LIMIT` and listed.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return _from_items(parsed, source, options, items)


def _from_items(parsed: sources.Spec, source: Source, options: Options, items: dict[str, Items]) -> _Converted:
    failed: dict[str, dict[int, str]] = {k: {} for k in items}
    heads: dict[str, NDArray[Any]] = {}
    told: list[tuple[str, ...]] = []  # what headers note, each once
    for part, group in items.items():
        heads[part] = np.zeros(len(group), HEAD)
        for i, head in enumerate(in_parallel(lambda i, g=group: _attempt(lambda: header(g[i])), iter(range(len(group))), 4096)):
            if isinstance(head, Refused):
                failed[part][i] = str(head)
                continue
            if head.notes not in told:
                told.append(head.notes)
            heads[part][i] = head.height, head.width, head.channels, told.index(head.notes)
    if options.size is None:
        _drop_corrupt_odd_sizes(items, heads, failed)
    good = np.concatenate([group[group["channels"] > 0] for group in heads.values()])
    _check_failed(parsed, source, options, failed)
    colours, sizes = set(np.unique(good["channels"]).tolist()), _sizes(good)
    notes = sorted({note for i in np.unique(good["notes"]) for note in told[i]})
    channels = 1 if options.gray or colours == {1} else 3
    if channels == 3 and 1 in colours:
        notes.append("grey to rgb")
    if channels == 1 and 3 in colours:
        notes.append("gray")
    if options.size is None and len(sizes) > 1:
        (a, _), (b, _) = sizes.most_common(2)
        names = {
            size: next(source.parts[part].ids[i] for part, group in heads.items() for i in _of_size(group, size)[:1]) for size in (a, b)
        }
        raise InputError(
            f"{parsed.text} has images of {len(sizes)} sizes (height x width): {names[a]} is {a[0]}x{a[1]}, {names[b]} is {b[0]}x{b[1]}. "
            f"Add --size {a[0]}x{a[1]}, or another --size HxW."
        )
    size = options.size or next(iter(sizes))
    if set(sizes) != {size}:
        notes.append(f"size {size[0]}x{size[1]}")
    new = _target_levels(parsed, options, 256, notes)
    space = ImageSpace(channels, *size, new)
    conversion = Conversion(False, size, 256, new)
    in_memory = len(good) * space.dims <= options.limit
    pixels: dict[str, tuple[Pixels, Keys]] = {}
    kept: dict[str, NDArray[np.int64]] = {}
    for part, group in items.items():
        rows = np.flatnonzero(heads[part]["channels"])
        disk = OnDisk(group, rows, source.parts[part].ids, conversion, space.shape)
        if in_memory:
            x, keys, bad = _decode_all(disk, keep=True)
        else:
            stored = cache.remember(f"keys {group.stamp} {conversion} {space}", lambda d=disk: _as_arrays(*_decode_all(d, keep=False)[1:]))
            x, keys, bad = None, stored["keys"], {int(i): str(reason) for i, reason in zip(stored["bad"], stored["why"], strict=True)}
        failed[part].update(bad)
        fine = ~np.isin(rows, list(bad))
        kept[part] = rows[fine]
        pixels[part] = (
            (disk.select(np.flatnonzero(fine)) if x is None else Memory(torch.from_numpy(x if fine.all() else x[fine]))),
            keys[fine],
        )
    skipped = _check_failed(parsed, source, options, failed)
    return pixels, {k: pick(source.parts[k].ids, rows) for k, rows in kept.items()}, kept, space, notes, skipped


def _sizes(heads: NDArray[Any]) -> Counter[tuple[int, int]]:
    """How many images are of each (height, width); of equal counts the first seen comes first."""
    found, first, counts = np.unique(heads[["height", "width"]], return_index=True, return_counts=True)
    return Counter({(int(found[i][0]), int(found[i][1])): int(counts[i]) for i in np.argsort(first)})


def _of_size(heads: NDArray[Any], size: tuple[int, int]) -> list[int]:
    """Which images have a size."""
    return np.flatnonzero((heads["channels"] > 0) & (heads["height"] == size[0]) & (heads["width"] == size[1])).tolist()


def _drop_corrupt_odd_sizes(items: dict[str, Items], heads: dict[str, NDArray[Any]], failed: dict[str, dict[int, str]]) -> None:
    """A file of another size than most may only have a broken header: a few are decoded before the sizes are called mixed."""
    sizes = _sizes(np.concatenate([group[group["channels"] > 0] for group in heads.values()]))
    if len(sizes) < 2:
        return
    ((usual, _),) = sizes.most_common(1)
    left = 64
    for part, group in heads.items():
        odd = (group["channels"] > 0) & ((group["height"] != usual[0]) | (group["width"] != usual[1]))
        for i in np.flatnonzero(odd)[:left].tolist():
            left -= 1
            found = _attempt(lambda p=part, i=i: decode(items[p][i], 1))
            if isinstance(found, Refused):
                failed[part][i] = str(found)
                group[i] = 0


def _attempt(function: Any) -> Any:
    try:
        return function()
    except Refused as error:
        return error


def _decode_all(disk: OnDisk, *, keep: bool) -> tuple[NDArray[np.uint8] | None, Keys, dict[int, str]]:
    """One pass: pixels (if kept), a key for each row, and the rows that failed with the reason."""
    x = np.zeros((len(disk), *disk.shape), np.uint8) if keep else None
    keys, bad = np.zeros(len(disk), np.uint64), {}

    def one(row: int) -> tuple[NDArray[np.uint8], Keys]:
        image = disk.one(row)
        return image, pixel_keys(image)

    for at, result in enumerate(in_parallel(lambda row: _attempt(lambda: one(row)), map(int, disk.rows), 256)):
        if isinstance(result, Refused):
            bad[int(disk.rows[at])] = str(result)
            continue
        if x is not None:
            x[at] = result[0][0]
        keys[at] = result[1][0]
    return x, keys, bad


def _as_arrays(keys: Keys, bad: dict[int, str]) -> dict[str, NDArray[Any]]:
    return {"keys": keys, "bad": np.array(list(bad), np.int64), "why": np.array(list(bad.values()), dtype="U256")}


def _check_failed(parsed: sources.Spec, source: Source, options: Options, failed: dict[str, dict[int, str]]) -> tuple[str, ...]:
    """What could not be read, as "path: reason". An error if it is everything, or with `strict` anything."""
    listed = [f"{source.parts[part].ids[i]}: {reason}" for part, group in failed.items() for i, reason in sorted(group.items())]
    total = sum(len(rows.ids) for rows in source.parts.values())
    first = "\n".join(listed[:2]) if len(listed) < 3 else f"{listed[0]}\n… and {len(listed) - 1} more"  # a message has three lines
    if total and len(listed) == total:
        raise InputError(f"{parsed.text}: none of its {total} image(s) can be used. Mend or replace them:\n{first}")
    if listed and options.strict:
        raise InputError(
            f"{parsed.text}: {len(listed)} of {total} images cannot be used, and --strict was given. Mend them, or leave out --strict:\n{first}"
        )
    return (*source.skipped, *listed)
