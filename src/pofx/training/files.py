"""Files that are whole or absent: written beside, flushed to the disk, renamed.

rename(2) within one folder is atomic, so a process killed at any moment leaves the old file or the new one, never half of one.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from pofx.errors import InputError, RunError

TEMPORARY = ".tmp"


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Turn "no space left" while writing `path` into a RunError that says what is safe and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise RunError(
                f"The disk is full: {path} could not be written ({error.strerror}). What was there before is intact. "
                "Free some space and run the same command: it goes on."
            ) from error
        raise


def write_atomic(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Let `write` fill a new file, then put it in the place of `path` in one step.

    Raises:
        RunError: the disk is full; an older file of that name is untouched.
    """
    path = Path(path)
    temporary = path.with_name(path.name + TEMPORARY)
    with full_disk(path):
        try:
            with open(temporary, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, lambda file: file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()))


def new_folder(path: str | Path) -> Path:
    """`path` if nothing is there, or an empty folder, else InputError."""
    path = Path(path).expanduser()
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        what = "as a file" if path.is_file() else "and is not empty"
        raise InputError(f"{path} is there already, {what}; name a folder that does not exist yet, e.g. {path}-2")
    return path


def sweep(folder: Path) -> None:
    """Remove what a killed process left unfinished."""
    for leftover in (*folder.glob(f"*{TEMPORARY}"), *folder.glob(f"checkpoints/*{TEMPORARY}")):
        leftover.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process alone. The kernel frees the lock when its holder dies, so none is ever stale.

    Raises:
        InputError: another process is training into it.
    """
    import fcntl

    path = folder / ".lock"
    with full_disk(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 32, 0).decode(errors="replace").strip() or "?"
            raise InputError(
                f"{folder} is being trained by another process (pid {holder}). Wait for it, stop it with: kill {holder}, or choose another --out."
            ) from None
        with full_disk(path):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)
