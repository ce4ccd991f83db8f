"""A file of `compress` → its images, bit for bit, or an error that says which are lost; those that are whole come back all the same."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from pofx.errors import InputError
from pofx.model import ImageModel, Progress
from pofx.tasks._blocks import decode_block
from pofx.tasks._container import Block, Container, Damaged, Header, read
from pofx.tasks._integer_form import IntegerForm
from pofx.tasks.compress import model_name


@dataclass(frozen=True)
class Decompressed:
    """What a file gave back.

    Attributes:
        header: of the file.
        places: of the images in `x` among all of the file, int64 `(n,)`.
        x: uint8 `(n, C, H, W)`, those that the model holds.
        stored: the files of others, by place.
        names: of all images, or None.
        lost: images that are damaged, as (first, count).
        troubles: what else is, in words.
    """

    header: Header
    places: Tensor
    x: Tensor
    stored: dict[int, bytes]
    names: list[str] | None
    lost: list[tuple[int, int]] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    def complaint(self) -> str | None:
        """What is damaged, in a line; None where nothing is."""
        what = list(self.troubles)
        if self.lost:
            what = [", ".join(_range(self.names, first, count) for first, count in self.lost), *what]
        return "; ".join(what) if what else None


def _range(names: list[str] | None, first: int, count: int) -> str:
    last = first + count - 1
    called = "" if names is None else f" ({names[first]})" if count == 1 else f" ({names[first]} … {names[last]})"
    return (f"image {first}" if count == 1 else f"images {first} … {last}") + called


def decompress(
    path: str | Path,
    model: ImageModel | IntegerForm | None = None,
    *,
    only: Collection[int] | None = None,
    progress: Progress | None = None,
) -> Decompressed:
    """The images of a file. Blocks that hold none of `only` are not decoded.

    Args:
        model: that wrote it; by default the one inside the file, or beside it.
        only: places of images that are wanted.

    Raises:
        InputError: no such file; its model is not there, or another was given; an image that it has not.
    """
    path = Path(path)
    try:
        container = read(path.read_bytes())
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from error
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error
    header = container.header
    wanted = None if only is None else sorted(set(only))
    if wanted and not 0 <= wanted[0] <= wanted[-1] < header.count:
        raise InputError(f"{path} holds images 0 … {header.count - 1}, asked for {wanted[0] if wanted[0] < 0 else wanted[-1]}.")
    blocks = [part for part in container.parts if isinstance(part, Block) and _asked(part, wanted)]
    form = find_form(path, container, model) if blocks else None
    places, images, lost, done = [], [], [], 0
    for block in blocks:
        assert form is not None
        try:
            x = decode_block(form, block)
        except Damaged:
            lost.append((block.first, block.count))
            continue
        at = torch.arange(block.first, block.first + block.count)
        keep = torch.ones(block.count, dtype=torch.bool) if wanted is None else torch.isin(at, torch.tensor(wanted))
        places.append(at[keep])
        images.append(x[keep])
        done += block.count
        if progress is not None:
            progress(done, sum(b.count for b in blocks))
    stored = {p.first: p.data for p in container.parts if not isinstance(p, Block) and _asked(p, wanted)}
    missing = [(first, count) for first, count in container.lost if wanted is None or any(first <= w < first + count for w in wanted)]
    empty = torch.zeros(0, *header.shape, dtype=torch.uint8)
    return Decompressed(
        header,
        torch.cat(places) if places else torch.zeros(0, dtype=torch.long),
        torch.cat(images) if images else empty,
        stored,
        container.names,
        sorted(missing + lost),
        container.troubles,
    )


def _asked(part: object, wanted: list[int] | None) -> bool:
    first, count = part.first, part.count  # type: ignore[attr-defined]
    return wanted is None or any(first <= w < first + count for w in wanted)


def find_form(path: Path, container: Container, model: ImageModel | IntegerForm | None = None) -> IntegerForm:
    """The integer form that wrote a file: the one given, the one inside, or the one beside.

    Raises:
        InputError: there is none, or it is another.
    """
    header = container.header
    beside = path.with_name(model_name(header.model))
    if model is not None:
        form, where = model if isinstance(model, IntegerForm) else IntegerForm.of(model), "The model given"
    elif container.model is not None:
        form, where = IntegerForm.from_bytes(container.model), f"The model inside {path}"
    elif beside.exists():
        form, where = read_form(beside), str(beside)
    else:
        raise InputError(
            f"{path} was written with the model {header.model[:12]}, which is not inside, and there is no {beside}. "
            f"Give it: pofx decompress {path} --model {beside.name} (or the run that wrote it)"
        )
    if form.id != header.model:
        raise InputError(
            f"{where} is {form.id[:12]}, and {path} was written with {header.model[:12]}: with another model it cannot be read."
        )
    if (form.space.shape, form.space.levels) != (header.shape, header.levels):
        raise InputError(
            f"{path} says that its images are {header.shape} of {header.levels} levels, and its model is of {form.space}: it was altered."
        )
    return form


def read_form(path: str | Path) -> IntegerForm:
    """The integer form in a file of its own.

    Raises:
        InputError: it cannot be read, or is none.
    """
    try:
        return IntegerForm.from_bytes(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
