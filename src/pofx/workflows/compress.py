"""What `pofx compress` is given → images of the model's space, and the files of those that are not; and back into a folder."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pofx.data import load_images
from pofx.data.decode import SUFFIXES, Refused, decode, header
from pofx.data.files import walk
from pofx.errors import InputError, RunError
from pofx.pictures import rgb
from pofx.space import ImageSpace
from pofx.tasks._files import writing
from pofx.tasks.decompress import Decompressed


@dataclass
class Gathered:
    """Images in the order in which they were named.

    Attributes:
        fit: uint8 `(C, H, W)` each, those that the model holds.
        stored: the files of the others, by place.
        names: of all; None where none of them has one.
        raw: bytes of all pixels, of the images as they are.
        heading: what they are.
    """

    fit: list[Tensor] = field(default_factory=list)
    stored: dict[int, bytes] = field(default_factory=dict)
    names: list[str] | None = None
    headings: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.fit) + len(self.stored)

    @property
    def heading(self) -> str:
        return ", ".join(self.headings)

    def x(self, space: ImageSpace) -> Tensor:
        """Those that the model holds, uint8 `(n, C, H, W)`."""
        return torch.stack(self.fit) if self.fit else torch.zeros(0, *space.shape, dtype=torch.uint8)


def gather(specs: Sequence[str], space: ImageSpace) -> Gathered:
    """Image files, folders of them (as they are, of any size), and sets by their names or files of arrays.

    A file is held by the model where nothing of it would be lost or converted on the way there: same size and channels, no transparency, not
    turned by EXIF. Any other, also one that no reader knows, is stored as it is.

    Raises:
        InputError: nothing was named, or it is not there; files and sets were mixed.
    """
    if not specs:
        raise InputError("No images were named, e.g. pofx compress RUN photos/ -o set.pofx")
    found = Gathered()
    for spec in specs:
        path = Path(spec).expanduser()
        if path.is_dir():
            files = sorted(p for p in walk(path) if p.suffix.lower() in SUFFIXES)
            if files:
                prefix = f"{path.name}/" if len(specs) > 1 else ""
                _add_files(found, [(f, prefix + f.relative_to(path).as_posix()) for f in files], space, spec)
                continue
        elif path.suffix.lower() in SUFFIXES and path.is_file():
            _add_files(found, [(path, path.name)], space, spec)
            continue
        _add_set(found, spec, space)
    if found.names is not None and len(set(found.names)) != len(found.names):
        twice = next(name for name in found.names if found.names.count(name) > 1)
        raise InputError(f"Two images would be {twice!r} in one file. Name the folder that holds both.")
    return found


def _add_files(found: Gathered, files: Sequence[tuple[Path, str]], space: ImageSpace, spec: str) -> None:
    if found.names is None:
        if len(found):
            raise InputError("Files have names and sets have none: compress them into two files.")
        found.names = []
    for path, name in files:
        x = _held(path, space)
        if x is None:
            found.stored[len(found)] = path.read_bytes()
        else:
            found.fit.append(torch.from_numpy(x))
        found.names.append(name)
    found.headings.append(f"{spec} ({len(files)} file{'s' * (len(files) != 1)})")


def _held(path: Path, space: ImageSpace) -> NDArray[np.uint8] | None:
    """The pixels of a file, where the model holds them and they are all of it."""
    try:
        head = header(path)
        if head.notes or space.levels != 256 or (head.channels, head.height, head.width) != space.shape:
            return None
        with Image.open(path) as image:
            if image.getexif().get(0x0112, 1) != 1:
                return None
        return decode(path, space.channels)
    except Refused:
        return None


def _add_set(found: Gathered, spec: str, space: ImageSpace) -> None:
    if found.names is not None:
        raise InputError("Files have names and sets have none: compress them into two files.")
    split, its = load_images(spec)
    for x, _ in split.batches(256):
        if its == space:
            found.fit.extend(x)
            continue
        if its.channels not in (1, 3):
            raise InputError(f"{spec} holds {its}, the model {space}; images of {its.channels} channels cannot be stored as PNG.")
        for image in x:
            found.stored[len(found)] = png(image.numpy())
    found.headings.append(split.heading)


def png(x: NDArray[np.uint8]) -> bytes:
    """An image uint8 `(1 or 3, H, W)`, values as they are, as an optimized PNG."""
    out = io.BytesIO()
    Image.fromarray(x[0] if len(x) == 1 else np.ascontiguousarray(x.transpose(1, 2, 0))).save(out, "PNG", optimize=True)
    return out.getvalue()


@dataclass(frozen=True)
class Written:
    """Where images went: `path`, how many, and how many of them as the files that they were."""

    path: Path
    images: int
    stored: int


ARRAYS = (".npy",)


def scatter(found: Decompressed, out: str | Path) -> Written:
    """Images into a folder as PNG files, or into one `.npy` as an array.

    A file keeps its name, with the suffix .png where its pixels went through the model; images of a set are numbered. Of fewer than 256 levels
    they are stretched to 0 … 255 as all pictures are (`--levels` gives the same levels back); `.npy` has the levels themselves.

    Raises:
        InputError: the folder has files already, or a name would leave it; stored files, or channels that PNG has not, cannot be written so.
    """
    out = Path(out)
    if out.suffix.lower() in ARRAYS:
        if found.stored:
            raise InputError(
                f"{len(found.stored)} images are stored as files of other sizes and are none of one array. Give a folder: -o {out.with_suffix('')}"
            )
        with writing(out) as temporary, temporary.open("wb") as file:
            np.save(file, found.x.numpy())
        return Written(out, len(found.x), 0)
    channels, _, _ = found.header.shape
    if channels not in (1, 3) and len(found.x):
        raise InputError(f"Images of {channels} channels are no PNG. Write the array: -o {out.with_suffix('.npy')}")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out} is there already. Choose an empty folder, e.g. -o {out.name}-2")
    named: dict[str, bytes] = {}
    pictures = rgb(found.x, found.header.levels) if len(found.x) else []
    for place, picture in zip(found.places.tolist(), pictures, strict=True):
        name = _safe(_name(found, place))
        pixels = picture[..., :1] if channels == 1 else picture
        named[str(PurePosixPath(name).with_suffix(".png"))] = png(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    for place, data in found.stored.items():
        named[_safe(_name(found, place))] = data
    if len(named) != len(found.x) + len(found.stored):
        raise InputError("Two images would have one name, such as a.jpg and a.png. Write the array instead: -o images.npy")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, data in named.items():
            path = out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with writing(path) as temporary:
                temporary.write_bytes(data)
    except OSError as error:
        raise RunError(f"Could not write to {out}: {error.strerror or error}. Choose another place with -o.") from error
    return Written(out, len(named), len(found.stored))


def _name(found: Decompressed, place: int) -> str:
    return found.names[place] if found.names is not None else f"{place:06d}.png"


def _safe(name: str) -> str:
    """A name that stays within the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    try:
        os.fsencode(name)
    except UnicodeEncodeError as error:
        raise InputError(f"The file names an image {name!a}, which is no name of a file: it was altered.") from error
    if path.is_absolute() or Path(name).drive or ".." in path.parts or not path.name or "\0" in name:
        raise InputError(f"The file names an image {name!r}, which is outside of any folder: it was made to do harm, or altered.")
    return str(path)
