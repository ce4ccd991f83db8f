"""What `pofx compress` is given → images of the model's space, and the files of those that are not; and back into a folder."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pofx.data import Split, load_images
from pofx.data.cache import stamp
from pofx.data.decode import SUFFIXES, Refused, decode, header, in_parallel
from pofx.data.files import walk
from pofx.errors import InputError, RunError
from pofx.pictures import rgb
from pofx.space import ImageSpace
from pofx.tasks._files import writing
from pofx.tasks.decompress import Decompressed


@dataclass(frozen=True)
class Files:
    """Image files, as they are."""

    paths: list[Path]

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def stamp(self) -> str:
        return stamp(self.paths)

    def read(self, start: int, stop: int, space: ImageSpace) -> list[Tensor | bytes]:
        def one(path: Path) -> Tensor | bytes:
            x = _held(path, space)
            return path.read_bytes() if x is None else torch.from_numpy(x)

        return list(in_parallel(one, self.paths[start:stop]))


@dataclass(frozen=True)
class Set:
    """Images of a set."""

    split: Split
    space: ImageSpace

    def __len__(self) -> int:
        return len(self.split)

    @property
    def stamp(self) -> str:
        return sha256(self.split.keys.tobytes()).hexdigest()

    def read(self, start: int, stop: int, space: ImageSpace) -> list[Tensor | bytes]:
        x, _ = self.split.take(torch.arange(start, stop))
        return list(x) if self.space == space else [png(image.numpy()) for image in x]


@dataclass(frozen=True)
class Gathered:
    """Images in the order in which they were named, read when their turn comes.

    Attributes:
        space: of the model.
        pieces: files, or sets.
        names: of all; None where none of them has one.
        heading: what they are.
        skipped: rows of sets that could not be read, "name: reason".
    """

    space: ImageSpace
    pieces: tuple[Files | Set, ...]
    names: list[str] | None
    heading: str
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return sum(map(len, self.pieces))

    @property
    def fingerprint(self) -> str:
        """Of the files, or of the pixels of sets."""
        return sha256(" ".join(piece.stamp for piece in self.pieces).encode()).hexdigest()[:32]

    def slice(self, start: int, stop: int) -> tuple[Tensor, dict[int, bytes]]:
        """Images start … stop−1: those that the model holds, uint8 `(n, C, H, W)` in turn, and the files of the others by their place."""
        fit, stored, at = [], {}, 0
        for piece in self.pieces:
            first, last = max(start - at, 0), min(stop - at, len(piece))
            if first < last:
                for k, found in enumerate(piece.read(first, last, self.space), at + first):
                    if isinstance(found, bytes):
                        stored[k] = found
                    else:
                        fit.append(found)
            at += len(piece)
        return torch.stack(fit) if fit else torch.zeros(0, *self.space.shape, dtype=torch.uint8), stored


def gather(specs: Sequence[str], space: ImageSpace) -> Gathered:
    """Image files, folders of them (as they are, of any size), and sets by their names or files of arrays.

    A file is held by the model where nothing of it would be lost or converted on the way there: same size and channels, no transparency, not
    turned by EXIF. Any other, also one that no reader knows, is stored as it is.

    Raises:
        InputError: nothing was named, or it is not there; files and sets were mixed.
    """
    if not specs:
        raise InputError("No images were named, e.g. pofx compress RUN photos/ -o set.pofx")
    pieces: list[Files | Set] = []
    names: list[str] = []
    headings: list[str] = []
    skipped: list[str] = []
    for spec in specs:
        path = Path(spec).expanduser()
        found: list[tuple[Path, str]] = []
        if path.is_dir():
            prefix = f"{path.name}/" if len(specs) > 1 else ""
            found = [(p, prefix + p.relative_to(path).as_posix()) for p in sorted(walk(path)) if p.suffix.lower() in SUFFIXES]
        elif path.suffix.lower() in SUFFIXES and path.is_file():
            found = [(path, path.name)]
        if found:
            pieces.append(Files([p for p, _ in found]))
            names += [name for _, name in found]
            headings.append(f"{spec} ({len(found)} file{'s' * (len(found) != 1)})")
        else:
            some = _set(spec, space)
            pieces.append(some)
            headings.append(some.split.heading)
            skipped += some.split.skipped
        if len({type(piece) for piece in pieces}) > 1:
            raise InputError("Files have names and sets have none: compress them into two files.")
    if len(set(names)) != len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise InputError(f"Two images would be {twice!r} in one file. Name the folder that holds both.")
    return Gathered(space, tuple(pieces), names or None, ", ".join(headings), tuple(skipped))


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


def _set(spec: str, space: ImageSpace) -> Set:
    split, its = load_images(spec)
    if its != space and its.channels not in (1, 3):
        raise InputError(f"{spec} holds {its}, the model {space}; images of {its.channels} channels cannot be stored as PNG.")
    return Set(split, its)


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
