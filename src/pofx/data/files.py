"""Readers, one per form a set may have on disk: folder of images, .npz, .npy, IDX, Parquet, the Hub. Each returns a `Source`.

Nothing that could run code is ever read: NumPy files with pickled objects are refused unopened, and the `datasets` library runs no scripts.
Sizes that a file declares are checked before memory is asked for.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os
import struct
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pofx.data import cache, objects
from pofx.data.arrays import Numbered, Rows, Source, as_images, as_labels
from pofx.data.decode import SUFFIXES
from pofx.data.pixels import ArrowItems, FileItems, Items
from pofx.errors import InputError

PART_NAMES = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
    "testing": "test",
}
_READ = (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile, struct.error, MemoryError)


def read(path: Path, name: str, limit: int) -> Source:
    """Read whatever `path` is; raises InputError."""
    if path.is_dir():
        return read_folder(path, name, limit)
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return read_npz(path, name, limit)
    if suffix == ".npy":
        return read_npy(path, name, limit)
    if suffix in {".parquet", ".pq"}:
        return read_parquet({"all": [path]}, name, limit)
    if suffix in SUFFIXES:
        return Source({"all": Rows(FileItems([path]), [path.name])})
    if suffix in {".gz", ".idx", ""} or "ubyte" in path.name:
        return read_idx(path, name, limit)
    raise InputError(f"{path} is no form of data that is known. Give a folder of images, .npz, .npy, IDX (.gz), .parquet, or one image.")


# Folders ---------------------------------------------------------------------------------------------------------------------------------


def read_folder(root: Path, name: str, limit: int) -> Source:
    """Images in a folder; first-level subfolders are labels. `train/` beside `test/` or `valid/` are published parts."""
    files = sorted(walk(root), key=lambda p: p.relative_to(root).as_posix())
    images = [f.relative_to(root).as_posix() for f in files if f.suffix.lower() in SUFFIXES]
    if images:
        tables = [f for f in files if f.suffix.lower() == ".csv"]
        return _folder(images, lambda names: FileItems([root / image for image in names]), tables, root, name)
    idx = _idx_pair(root)
    if idx:
        return read_idx_parts(idx, name, limit)
    tables = [f for f in files if f.suffix.lower() == ".parquet"]
    if tables:
        return read_parquet(_parquet_parts(tables), name, limit)
    raise InputError(_no_image(str(root), [f.suffix.lower() for f in files]))


def read_url(url: str, name: str, limit: int) -> Source:
    """What an object store has at `url`: a folder of images, or a file of any form that is known, or a folder of Parquet or IDX."""
    found = objects.find(url)
    kinds = {k: PurePosixPath(k).suffix.lower() for k in found.files}
    images = [k for k, suffix in kinds.items() if suffix in SUFFIXES]
    if images and found.alone:
        return Source({"all": Rows(objects.items(found, images), images)})
    if images:
        tables = [k for k, suffix in kinds.items() if suffix == ".csv"]
        here = objects.fetch(found, tables)
        return _folder(images, lambda names: objects.items(found, names), [here / k for k in tables], here, name)
    if found.alone:
        return read(objects.fetch(found, list(kinds)) / next(iter(kinds)), name, limit)
    known = [k for k, suffix in kinds.items() if suffix == ".parquet" or "ubyte" in k]
    if not known:
        raise InputError(_no_image(url, list(kinds.values())))
    return read_folder(objects.fetch(found, known), name, limit)


def _no_image(where: str, suffixes: list[str]) -> str:
    kinds = ", ".join(f"{n} {suffix or 'without suffix'}" for suffix, n in Counter(suffixes).most_common(3))
    return (
        f"There is no image in {where} ({'it holds ' + kinds if suffixes else 'it is empty'}). "
        "Put .png, .jpg, … files there, one subfolder per label if there are labels."
    )


def _folder(images: list[str], make: Callable[[list[str]], Items], tables: list[Path], root: Path, name: str) -> Source:
    """Images by their paths within a folder, whose CSV files are `tables` below `root`."""
    tops = {image.partition("/")[0].lower() if "/" in image else "" for image in images}
    parts: dict[str, list[tuple[str, str]]] = {}
    if "train" in {PART_NAMES.get(top) for top in tops} and len(tops) > 1 and tops <= PART_NAMES.keys():
        for image in images:
            top, _, inside = image.partition("/")
            parts.setdefault(PART_NAMES[top.lower()], []).append((image, inside))
    else:
        parts = {"all": [(image, image) for image in images]}
    rows = {}
    for part, members in parts.items():
        ids = [image for image, _ in members]
        labels = [inside.partition("/")[0] if "/" in inside else None for _, inside in members]
        outside = [image for image, label in zip(ids, labels, strict=True) if label is None]
        if 0 < len(outside) < len(ids):
            count = f"{len(outside)} of {len(ids)} images are in no subfolder"
            warnings.warn(f"{name}: {count} (e.g. {outside[0]}): labels ignored. Move them into one to have labels.", stacklevel=1)
        rows[part] = Rows(make(ids), ids, None if outside else np.array(labels))
    if tables:
        written = _written(tables, root, [name for part in rows.values() for name in part.ids])
        rows = {
            part: replace(found, written={column: np.array([cells.get(i) for i in found.ids], object) for column, cells in written.items()})
            for part, found in rows.items()
        }
    return Source(rows)


def _written(tables: list[Path], root: Path, ids: list[str]) -> dict[str, dict[str, str]]:
    """CSV files beside images: column → image → text. The first column that names one of the images, from the folder of the file on, names
    them all; a file without such a column is not meant. What is ignored of one that is meant is told in a warning."""
    known = set(ids)
    found: dict[str, dict[str, str]] = {}
    for path in tables:
        try:
            with path.open(encoding="utf-8-sig", newline="") as stream:
                text = stream.read()
            start = text.lstrip().partition("\n")[0]
            rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=start.count))
            head, *lines = [row for row in rows if any(cell.strip() for cell in row)] or [[]]
        except (OSError, ValueError, csv.Error) as error:
            warnings.warn(f"{path} cannot be read as CSV and is ignored: {_first_line(error)}. Save it in UTF-8.", stacklevel=1)
            continue
        for at in range(len(head)):
            cells = [row[at].strip() if at < len(row) else "" for row in lines]
            names = [os.path.relpath(path.parent / cell, root).replace(os.sep, "/") if cell else "" for cell in cells]
            if not known.isdisjoint(names):
                break
        else:
            continue
        absent = sorted(set(names) - known - {""})
        if absent:
            warnings.warn(f"{path} names {len(absent)} images that are not there (e.g. {absent[0]}); they are ignored.", stacklevel=1)
        long = [name for name, row in zip(names, lines, strict=True) if name in known and any(cell.strip() for cell in row[len(head) :])]
        if long:
            warnings.warn(
                f"{path} has {len(long)} rows with more cells than its heading (e.g. of {long[0]}); they are cut. Put texts with commas into quotes.",
                stacklevel=1,
            )
        twice = []
        for name, row in zip(names, lines, strict=True):
            for k, column in enumerate(map(str.strip, head)):
                if name in known and k != at and column:
                    cell = row[k].strip() if k < len(row) else ""
                    first = found.setdefault(column, {}).setdefault(name, cell)
                    if first != cell:
                        twice.append(f"{column} of {name}: {first!r}, then {cell!r}")
        if twice:
            warnings.warn(
                f"{path} contradicts what was said before, {len(twice)} times (e.g. {twice[0]}); what is said first counts.", stacklevel=1
            )
    return found


def walk(root: Path) -> Iterator[Path]:
    """Files that are not hidden, through links, each folder once (links may be circular)."""
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__MACOSX")
        yield from (Path(folder) / f for f in files if not f.startswith("."))


# NumPy -----------------------------------------------------------------------------------------------------------------------------------

_KEYS = {
    "x": "images data arr_0",
    "y": "labels label targets",
    "x_train": "train_images images_train",
    "y_train": "train_labels labels_train",
    "x_valid": "x_val valid_images val_images",
    "y_valid": "y_val valid_labels val_labels",
    "x_test": "test_images images_test",
    "y_test": "test_labels labels_test",
}


def read_npz(path: Path, name: str, limit: int) -> Source:
    """x_train, y_train, x_test, y_test, x_valid, y_valid, or x, y; optional `levels` and `class_names`. Never unpickles."""
    found = npz_arrays(path, limit)
    aliases = {alias: key for key, others in _KEYS.items() for alias in [key, *others.split()]}
    arrays = {aliases.get(key.lower(), key.lower()): array for key, array in found.items()}
    names = {"train": "x_train", "valid": "x_valid", "test": "x_test"} if "x_train" in arrays else {"all": "x"}
    parts = {part: key for part, key in names.items() if key in arrays}
    if not parts:
        raise InputError(
            f"{path} holds {', '.join(map(repr, found)) or 'nothing'}; expected 'x' (and 'y'), or 'x_train', 'y_train', 'x_test', 'y_test'."
        )
    rows = {}
    for part, key in parts.items():
        x = as_images(arrays[key], f"{path}: {key}")
        y = as_labels(arrays.get(key.replace("x", "y", 1)), len(x), f"{path}: {key.replace('x', 'y', 1)}")
        rows[part] = Rows(x, Numbered(name if part == "all" else f"{name}/{part}", np.arange(len(x))), y)
    levels = arrays.get("levels")
    if levels is None and all(arrays[key].dtype == bool for key in parts.values()):
        levels = np.array(2)
    class_names = arrays.get("class_names")
    return Source(rows, None if levels is None else int(levels), None if class_names is None else tuple(map(str, class_names)))


def npz_arrays(path: Path, limit: int, only: Callable[[str], bool] = lambda key: True) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz, read with allow_pickle=False. LZMA takes long to read, so its arrays are cached."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if m.filename.endswith(".npy") and only(m.filename[:-4])]
            for member in members:
                with archive.open(member) as stream:
                    _check_npy(stream, f"{path}: {member.filename[:-4]}", limit)
            slow = sum(m.file_size for m in members if m.compress_type == zipfile.ZIP_LZMA) > 16 << 20

        def load() -> dict[str, NDArray[Any]]:
            with np.load(path, allow_pickle=False) as data:
                return {key: data[key] for key in data.files if only(key)}

        return cache.remember(f"npz {cache.stamp([path])}", load) if slow else load()
    except InputError:
        raise
    except _READ as error:
        raise InputError(
            f"{path} cannot be read as .npz: {_first_line(error)}. Make it again with np.savez_compressed(path, x=x, y=y)."
        ) from error


def read_npy(path: Path, name: str, limit: int) -> Source:
    """One array; larger than the limit it stays on disk, memory-mapped."""
    try:
        with path.open("rb") as stream:
            shape, dtype = _check_npy(stream, str(path), None)
        big = math.prod(shape) * dtype.itemsize > limit
        array = np.load(path, allow_pickle=False, mmap_mode="r" if big else None)
    except InputError:
        raise
    except _READ as error:
        raise InputError(f"{path} cannot be read as .npy: {_first_line(error)}. Make it again with np.save(path, x).") from error
    if big and dtype != np.uint8:
        raise InputError(
            f"{path} is {dtype} and larger than memory allows; save it as uint8 (then it stays on disk), or raise POFX_MEMORY_LIMIT."
        )
    x = as_images(array, str(path))
    return Source({"all": Rows(x, Numbered(name, np.arange(len(x))))}, 2 if array.dtype == bool else None)


def _check_npy(stream: Any, what: str, limit: int | None) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype from the header alone; refuses pickled objects and, with a limit, arrays beyond it."""
    version = np.lib.format.read_magic(stream)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = reader(stream)
    if dtype.hasobject:
        raise InputError(
            f"{what} holds pickled Python objects, which could run code; they are never opened. Save it again as whole numbers: x.astype('uint8')."
        )
    size = math.prod(shape) * dtype.itemsize
    if limit is not None and size > limit:
        raise InputError(f"{what} declares {_gib(size, limit)}. Save it as .npy, which can stay on disk, or raise POFX_MEMORY_LIMIT.")
    return shape, dtype


# IDX -------------------------------------------------------------------------------------------------------------------------------------


def read_idx(path: Path, name: str, limit: int) -> Source:
    """One IDX file of images, and of labels where a file named alike (labels-idx1 for images-idx3) lies beside it."""
    x = as_images(_idx(path, limit), str(path))
    beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    y = as_labels(_idx(beside, limit), len(x), str(beside)) if beside != path and beside.exists() else None
    return Source({"all": Rows(x, Numbered(name, np.arange(len(x))), y)}, None)


def read_idx_parts(parts: dict[str, Path], name: str, limit: int, levels: int | None = None) -> Source:
    """IDX files of images by part."""
    rows = {part: read_idx(path, f"{name}/{part}", limit).parts["all"] for part, path in parts.items()}
    return Source(rows, levels)


def _idx_pair(root: Path) -> dict[str, Path]:
    """The usual four files of MNIST and its kin, as {"train": …, "test": …}; empty where there is no train file."""
    found = {}
    for part, prefix in (("train", "train"), ("test", "t10k"), ("test", "test")):
        for name in (f"{prefix}-images-idx3-ubyte", f"{prefix}-images.idx3-ubyte"):
            for path in (root / name, root / f"{name}.gz"):
                if path.is_file():
                    found.setdefault(part, path)
    return found if "train" in found else {}


def _idx(path: Path, limit: int) -> NDArray[np.uint8]:
    """IDX: two zero bytes, a type (8: uint8), the number of axes, each length as a big-endian 32-bit number, the values."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as stream:
            head = stream.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or not 1 <= head[3] <= 4:
                raise InputError(
                    f"{path} is no IDX file (its first bytes are {head.hex(' ')}). Give a folder of images, .npz, .npy, IDX (.gz) or .parquet."
                )
            if head[2] != 8:
                raise InputError(f"{path} is IDX of type {head[2]:#x}; only bytes (0x8) can be images. Save it as uint8.")
            shape = struct.unpack(f">{head[3]}I", stream.read(4 * head[3]))
            size = math.prod(shape)
            if size > limit:
                raise InputError(
                    f"{path} declares {_gib(size, limit)}. Save it as .npy, which can stay on disk, or raise POFX_MEMORY_LIMIT."
                )
            data = stream.read(size + 1)
    except _READ as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read as IDX: {_first_line(error)}. Download it again.") from error
    if len(data) != size:
        raise InputError(
            f"{path} declares {' × '.join(map(str, shape))} bytes and holds {'fewer' if len(data) < size else 'more'}. Download it again."
        )
    return np.frombuffer(bytearray(data), np.uint8).reshape(shape)


# Parquet and the Hub ---------------------------------------------------------------------------------------------------------------------


def _parquet_parts(paths: list[Path]) -> dict[str, list[Path]]:
    """`train-00000-of-00002.parquet` belongs to train, and so on; where one file says nothing, they are all one part."""
    parts: dict[str, list[Path]] = {}
    for path in paths:
        part = PART_NAMES.get(path.stem.split("-")[0].split(".")[0].lower())
        if part is None:
            return {"all": paths}
        parts.setdefault(part, []).append(path)
    return parts if "train" in parts else {"all": paths}


def read_parquet(parts: dict[str, list[Path]], name: str, limit: int) -> Source:
    """A column of encoded images (bytes, or {bytes, path} as `datasets` writes them), and a column of labels."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = {}
    for part, paths in parts.items():
        try:
            if sum(p.stat().st_size for p in paths) <= limit:
                tables[part] = pa.concat_tables([pq.read_table(p) for p in paths])
            else:  # an Arrow copy in the cache of `datasets`, memory-mapped
                import datasets

                tables[part] = datasets.Dataset.from_parquet([str(p) for p in paths]).data.table
        except (OSError, ValueError, pa.ArrowException) as error:
            raise InputError(f"{paths[0]} cannot be read as Parquet: {_first_line(error)}.") from error
    return _tables(tables, name, {part: cache.stamp(paths) for part, paths in parts.items()}, next(iter(parts.values()))[0].parent)


def read_hub(repository: str, name: str) -> Source:
    """A set on the Hub by `owner/name` or `owner/name/configuration`, through `datasets` (its cache, memory-mapped)."""
    owner, _, rest = repository.partition("/")
    short, _, configuration = rest.partition("/")
    if not owner or not short:
        raise InputError(f"hf:{repository}: a set on the Hub is hf:owner/name, e.g. hf:ylecun/mnist.")
    import datasets

    _say_at_once_that_there_is_no_network()
    try:
        found = datasets.load_dataset(f"{owner}/{short}", configuration or None)
    except (OSError, ValueError, RuntimeError, LookupError, datasets.exceptions.DatasetsError) as error:  # pyright: ignore[reportAttributeAccessIssue]
        raise InputError(
            f"hf:{repository} could not be had from the Hub: {_first_line(error)}. Check the name and the network, or give files."
        ) from error
    splits = dict(found) if isinstance(found, dict) else {"all": found}
    parts = {PART_NAMES[str(k)]: v for k, v in splits.items() if str(k) in PART_NAMES}
    if "train" not in parts:
        if len(splits) != 1:
            raise InputError(
                f"hf:{repository} has the parts {', '.join(map(str, splits))}, none of them 'train'. Download it and give a folder."
            )
        parts = {"all": next(iter(splits.values()))}
    return _tables({k: v.data.table for k, v in parts.items()}, name, {k: str(v._fingerprint) for k, v in parts.items()}, None)


def _say_at_once_that_there_is_no_network() -> None:
    """Where the Hub's name does not resolve, put its client offline: it then takes its cache, or fails now and not after half a minute of retries."""
    import socket
    from urllib.parse import urlsplit

    import huggingface_hub.constants as hub
    from datasets import config

    address = urlsplit(hub.ENDPOINT)
    try:
        socket.getaddrinfo(address.hostname, address.port or address.scheme)
    except OSError:
        hub.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = True


def _tables(tables: dict[str, Any], name: str, stamps: dict[str, str], folder: Path | None) -> Source:
    import pyarrow as pa

    schema = next(iter(tables.values())).schema
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})

    def is_image(field: Any) -> bool:
        kind = field.type
        return (
            pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)
        )

    images = sorted((f.name for f in schema if is_image(f)), key=lambda n: n not in {"image", "img", "images"})
    if not images:
        columns = ", ".join(f"{f.name} ({f.type})" for f in schema)
        raise InputError(f"{name} has no column of images; its columns are {columns}. Store PNG bytes in a column 'image'.")
    label = next((n for n in ("label", "labels", "y", "class", "target", "fine_label") if n in schema.names), None)
    class_names = None
    if label is not None and not (pa.types.is_integer(schema.field(label).type) or pa.types.is_string(schema.field(label).type)):
        label = None
    if label is not None:
        named = features.get(label)
        class_names = tuple(named["names"]) if isinstance(named, dict) and named.get("names") else None
    rows = {}
    for part, table in tables.items():
        y = None
        if label is not None and table.column(label).null_count == 0:
            values = table.column(label).to_numpy()
            y = values.astype(str) if values.dtype == object else values
            if y.dtype.kind in "iu" and len(y) and y.min() < 0:  # the Hub's -1 means: not told
                y = None
        items = ArrowItems(table.column(images[0]), f"{stamps[part]} {part} {images[0]}", folder)
        rows[part] = Rows(items, Numbered(name if part == "all" else f"{name}/{part}", np.arange(len(items))), y)
    return Source(rows, 256, class_names)


def _gib(size: int, limit: int) -> str:
    return f"{size:,} bytes ({size / 2**30:.1f} GiB); the limit is {limit:,}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(".")
