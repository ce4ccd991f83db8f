"""What takes long to work out about files and does not change: kept in `$POFX_CACHE`, else ~/.cache/pofx (`POFX_CACHE=` keeps nothing).

An entry is a folder of .npy files named after a hash of (what, file names, sizes, modification times); it is written beside and
renamed. Losing it costs time only, so trouble with the folder is never an error.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray]


def stamp(paths: Iterable[Path]) -> str:
    """Names, sizes and modification times of files, hashed."""
    digest = sha256()
    for path in paths:
        try:
            found = path.stat()
        except OSError:
            continue
        digest.update(f"{path.resolve()}\0{found.st_size}\0{found.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def remember(key: str, make: Callable[[], Arrays]) -> Arrays:
    """`make()`, or what it returned last time for this key."""
    folder = _folder()
    if folder is None:
        return make()
    entry = folder / sha256(key.encode(errors="surrogateescape")).hexdigest()[:32]
    try:
        if entry.is_dir():
            return {f.stem: np.load(f, allow_pickle=False) for f in sorted(entry.glob("*.npy"))}
    except (OSError, ValueError, EOFError):
        shutil.rmtree(entry, ignore_errors=True)
    arrays = make()
    beside = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
        for name, array in arrays.items():
            np.save(beside / f"{name}.npy", array, allow_pickle=False)
        beside.rename(entry)
    except OSError:  # a full or read-only disk, or another process was first
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)
    return arrays


def cache_root(beside: str = "~/.cache") -> Path:
    """What is kept between runs is in folders of this one: `$POFX_CACHE`, else `pofx` in `beside`."""
    return Path(os.environ.get("POFX_CACHE") or f"{beside}/pofx").expanduser()


def _folder() -> Path | None:
    return None if os.environ.get("POFX_CACHE") == "" else cache_root(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
