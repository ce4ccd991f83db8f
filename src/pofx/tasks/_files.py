"""Files written beside their place and renamed: a killed process never leaves a half-written one."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pofx.errors import InputError, RunError

TABLES = (".parquet", ".csv", ".jsonl")


def check_out(path: str | Path, suffixes: Sequence[str], *, folder: bool = False) -> Path:
    """`path` if something of that form can be written there, else InputError now and not after an hour of work."""
    path = Path(path)
    kinds = ", ".join(suffixes) + (" or a folder" if folder else "")
    if path.suffix.lower() not in suffixes and not (folder and path.suffix == ""):
        raise InputError(f"Cannot write {path}: the ending says the form, and it can be {kinds}. Try -o {path.with_suffix(suffixes[0])}")
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(path)):
        raise InputError(f"Cannot write {path}: here only files on a disk can be written. Write it to one, and copy it from there.")
    if path.suffix and path.is_dir():
        raise InputError(f"{path} is a folder; give a file, e.g. -o {path / ('out' + suffixes[0])}")
    parent = path.parent if path.suffix else path
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot write to {parent}: {error.strerror or error}. Choose another place with -o.") from error
    if not os.access(parent, os.W_OK):
        raise InputError(f"Cannot write to {parent}: permission denied. Choose another place with -o.")
    return path


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it when the block ends well and removed when it does not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        fix = "Free some space, or choose" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Choose"
        raise RunError(f"Could not write {path}: {error.strerror or error}. {fix} another place with -o.") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_table(path: Path, columns: Mapping[str, Sequence[Any]], metadata: Mapping[str, str] | None = None) -> None:
    """Columns of equal length as Parquet, CSV or JSONL, chosen by the suffix; `metadata` goes into Parquet's schema."""
    write_tables(path, [columns], metadata)


def write_tables(path: Path, pieces: Iterable[Mapping[str, Sequence[Any]]], metadata: Mapping[str, str] | None = None) -> None:
    """`write_table` of a table that comes in pieces, the same columns in each; one at a time is in memory."""
    with writing(path) as temporary:
        if path.suffix.lower() == ".parquet":
            _write_parquet(temporary, pieces, metadata or {})
        elif path.suffix.lower() == ".csv":
            with temporary.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                for k, columns in enumerate(pieces):
                    if not k:
                        writer.writerow(columns)
                    writer.writerows(zip(*columns.values(), strict=True))
        else:
            with temporary.open("w", encoding="utf-8") as file:
                for columns in pieces:
                    for row in zip(*columns.values(), strict=True):
                        file.write(json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) + "\n")


def _write_parquet(path: Path, pieces: Iterable[Mapping[str, Sequence[Any]]], metadata: Mapping[str, str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    try:
        for columns in pieces:
            table = pa.table(dict(columns)).replace_schema_metadata({f"pofx.{k}": v for k, v in metadata.items()})
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
