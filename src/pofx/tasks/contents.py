"""What a file of `compress` holds, read from its frame: nothing is decoded, and no model is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pofx.errors import InputError
from pofx.tasks._container import Block, read
from pofx.tasks.compress import model_name


@dataclass(frozen=True)
class Line:
    """A block, an image that is stored, or a run of images that are lost: which, and how many bytes they take."""

    first: int
    images: int
    kind: str
    bytes: int
    name: str


@dataclass(frozen=True)
class Contents:
    """Attributes: `where` the model is, `troubles` what is damaged beside images."""

    images: int
    shape: tuple[int, int, int]
    levels: int
    bytes: int
    model: str
    where: str
    pofx: str
    blocks: list[Line]
    troubles: list[str]

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"blocks": [vars(block) for block in self.blocks]}


def contents(path: str | Path) -> Contents:
    """
    Raises:
        InputError: no such file, or none of ours, or so damaged that nothing can be read.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        found = read(data)
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from error
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error
    header = found.header
    lines = [
        Line(p.first, p.count, "coded" if isinstance(p, Block) else "stored", len(p.to_bytes()) + 9, _names(found.names, p.first, p.count))
        for p in found.parts
    ]
    lines += [Line(first, count, "damaged", 0, _names(found.names, first, count)) for first, count in found.lost]
    beside = path.with_name(model_name(header.model))
    where = "inside" if found.model is not None else f"beside, {beside.name}" if beside.exists() else f"not here ({beside.name})"
    return Contents(
        header.count,
        header.shape,
        header.levels,
        len(data),
        header.model,
        where,
        header.pofx,
        sorted(lines, key=lambda b: b.first),
        found.troubles,
    )


def _names(names: list[str] | None, first: int, count: int) -> str:
    if names is None:
        return ""
    return names[first] if count == 1 else f"{names[first]} … {names[first + count - 1]}"
