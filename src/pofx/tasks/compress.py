"""Images → a file from which each comes back bit for bit, of about as many bits as the model says that they have.

    −log2 p(x) = Σ_i −log2 p(x_i | x_<i)        one full pass of the integer form (`_integer_form.py`) gives every interval of the range coder
    −L(x) = E_q[log2 q(z|x) − log2 p(x,z)]      of a latent-variable model, by bits-back coding (`_bits_back.py`)

Images are coded in blocks: one stream, one checksum, so that damage costs a block and no more. Within a block sub-pixels come group by
group, in the order of the model, and within a group image by image: what a decoder asks for at once lies together. A block is decoded and
compared before it is written. What the model cannot hold is stored as the file that it was.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pofx.errors import InputError, RunError
from pofx.model import BitsBack, Codable, ImageModel, Progress, RangeCoded
from pofx.space import ImageSpace
from pofx.tasks._bits_back import Chain, encode_chain
from pofx.tasks._blocks import decode_block, flat_order
from pofx.tasks._container import MOST_AT_ONCE, MOST_IMAGES, MOST_NAMES, Block, Header, Stored, names_json, packed_model, write
from pofx.tasks._entropy import Alphabet, bits, encode
from pofx.tasks._files import check_out, writing
from pofx.tasks._integer_form import IntegerForm

SUFFIX = ".pofx"
BLOCK = 256


@dataclass(frozen=True)
class Compressed:
    """What was written.

    Attributes:
        path: the file, and of the model where it lies beside.
        images, stored: how many, and how many of them the model could not hold.
        dims: sub-pixels of those that it could.
        size: of the file in bytes; `model_size`, of it, is the model inside, and `stored_size` what was stored.
        ideal: −log2 p of the integer form, bits of all images that the model holds; of a latent-variable model what it gives back is
            taken off.
        initial: bits that the streams of bits-back coding start with: they are in the file, and not in `ideal`.
        model: id of the integer form.
    """

    path: Path
    images: int
    stored: int
    dims: int
    size: int
    model_size: int
    stored_size: int
    ideal: float
    initial: int
    model: str
    beside: Path | None

    @property
    def bits_per_dim(self) -> float:
        """Of the file, everything counted but the model and what was stored."""
        return 8 * (self.size - self.model_size - self.stored_size) / self.dims if self.dims else math.nan

    def to_json(self) -> dict[str, Any]:
        ideal = self.ideal / self.dims if self.dims else math.nan
        return vars(self) | {"bits_per_dim": self.bits_per_dim, "ideal_bits_per_dim": ideal}


def compress(
    model: ImageModel | IntegerForm,
    x: Tensor,
    out: str | Path,
    *,
    stored: Mapping[int, bytes] | None = None,
    names: Sequence[str] | None = None,
    block: int = BLOCK,
    check: str = "block",
    embed_model: bool = False,
    progress: Progress | None = None,
) -> Compressed:
    """Write images as a file that `decompress` reads. The model goes inside, or beside it into `ID.pofx-model`, once for all files of a folder.

    Args:
        x: uint8 `(n, C, H, W)`, images that the model holds, in turn.
        stored: further images by their place among all, as the bytes of their files.
        names: of all images, those in `x` and those stored.
        block: images coded together. Larger ones cost less; of smaller ones single images are read sooner.
        check: a checksum for each "block" or each "image".

    Raises:
        CapabilityError: the model has no integer form, or is conditional.
        InputError: the images are not of its space; `block` or `names` do not fit.
        RunError: what was decoded is not what was given, and nothing was written; or the disk is full.

    >>> import tempfile
    >>> from pofx.models.autoregressive.pixelcnn import PixelCNN
    >>> from pofx.space import ImageSpace
    >>> from pofx.tasks.decompress import decompress
    >>> model, x = PixelCNN.small(ImageSpace(1, 4, 4, levels=2)), torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = compress(model, x, f"{folder}/set.pofx", embed_model=True)
    ...     bool((decompress(found.path).x == x).all())
    True
    """

    path = check_out(out, (SUFFIX,))
    form = model if isinstance(model, IntegerForm) else IntegerForm.of(model)
    stored = dict(stored or {})
    n = len(form.space.check(x)) + len(stored)
    check_file(form.space, n, names, block=block, check=check)
    if not all(0 <= at < n for at in stored):
        raise InputError(f"Stored images have places 0 … {n - 1}, found {min(stored)} … {max(stored)}.")
    coded = sorted(code(form, x, stored, block=block, check=check, progress=progress), key=lambda c: c.part.first)
    return assemble(form, path, coded, n, names=names, block=block, check=check, embed_model=embed_model)


def check_file(space: ImageSpace, n: int, names: Sequence[str] | None, *, block: int, check: str) -> None:
    """Raise InputError where `n` images of a space, with these names, cannot be one file."""
    if not 1 <= block <= MOST_IMAGES or block * space.dims > MOST_AT_ONCE:
        raise InputError(f"block={block} must be 1 … {min(MOST_IMAGES, MOST_AT_ONCE // space.dims)}, e.g. --block {BLOCK}")
    if check not in ("block", "image"):
        raise InputError(f"check={check!r}; use block or image.")
    if names is not None and len(names) != n:
        raise InputError(f"{len(names)} names for {n} images.")
    if names is not None and len(names_json(names)) > MOST_NAMES:
        raise InputError(f"The names of {n} images are more than {MOST_NAMES:,} bytes. Compress them into several files.")


@dataclass(frozen=True)
class Coded:
    """A part of a file: a block with its sub-pixels, the bits that they have under the model, and those that its stream starts with; or a stored
    file, of which all three are 0."""

    part: Block | Stored
    dims: int = 0
    ideal: float = 0.0
    initial: int = 0


def code(
    form: IntegerForm,
    x: Tensor,
    stored: Mapping[int, bytes],
    *,
    first: int = 0,
    block: int = BLOCK,
    check: str = "block",
    progress: Progress | None = None,
) -> Iterator[Coded]:
    """Images whose places follow one another from `first` on: those in `stored`, and all others in turn from `x`. Each block is decoded again.

    Raises:
        InputError: a stored file of 4 GB.
        RunError: what was decoded is not what was given.
    """
    x = form.space.check(x).cpu()
    for at, data in stored.items():
        if len(data) >= 2**32 - 64:
            raise InputError("A file of 4 GB or more cannot be stored beside images.")
        yield Coded(Stored(at, data))
    done = 0
    for at, images in _blocks(x, sorted(place - first for place in stored), block):
        coded, own, start = encode_block(form, images, first + at, check)
        if not torch.equal(decode_block(form, coded), images):
            raise RunError(
                f"Images {first + at} … {first + at + len(images) - 1} do not come back as they were, and nothing was written: this machine computes "
                "wrongly, or pofx does. Please report it, with pofx info and the processor's name."
            )
        yield Coded(coded, images.numel(), own, start)
        done += len(images)
        if progress is not None:
            progress(done, len(x))


def assemble(
    form: IntegerForm,
    path: Path,
    coded: Iterable[Coded],
    n: int,
    *,
    names: Sequence[str] | None = None,
    block: int = BLOCK,
    check: str = "block",
    embed_model: bool = False,
) -> Compressed:
    """Parts in the order of their places → the file; one part at a time is in memory."""
    from pofx import __version__

    header = Header(form.id, form.space.shape, form.space.levels, n, block, check, __version__)
    inside = form.to_bytes() if embed_model else None
    beside = None if embed_model else path.with_name(model_name(form.id))
    if beside is not None and not (beside.is_file() and beside.read_bytes() == form.to_bytes()):  # one that is damaged is no use
        with writing(beside) as temporary:
            temporary.write_bytes(form.to_bytes())
    stored = kept = dims = initial = 0
    ideal = 0.0

    def parts() -> Iterator[Block | Stored]:
        nonlocal stored, kept, dims, initial, ideal
        for c in coded:
            if isinstance(c.part, Stored):
                stored, kept = stored + 1, kept + len(c.part.to_bytes()) + 9
            dims, ideal, initial = dims + c.dims, ideal + c.ideal, initial + c.initial
            yield c.part

    with writing(path) as temporary, temporary.open("wb") as file:
        for piece in write(header, parts(), names, inside):
            file.write(piece)
    model_size = 0 if inside is None else len(packed_model(inside)) + 9
    return Compressed(path, n, stored, dims, path.stat().st_size, model_size, kept, ideal, initial, form.id, beside)


def model_name(identity: str) -> str:
    """The file that holds an integer form beside what was written with it."""
    return f"{identity[:12]}.pofx-model"


def _blocks(x: Tensor, stored: Sequence[int], most: int) -> Iterator[tuple[int, Tensor]]:
    """Runs of images that follow one another, of at most so many: the place of the first among all, and they."""
    at = taken = 0
    for stop in (*stored, len(x) + len(stored)):
        for start in range(at, stop, most):
            count = min(most, stop - start)
            yield start, x[taken : taken + count]
            taken += count
        at = stop + 1


def encode_block(form: IntegerForm, x: Tensor, first: int = 0, check: str = "block") -> tuple[Block, float, int]:
    """Images of the form's space as a block, the bits that they have under it, and those that its stream starts with."""
    with form.exact() as model:
        chain = encode_chain(model, x) if isinstance(model, BitsBack) else _encode_pass(model, x)
    sums = x.numpy() if check == "image" else x.numpy()[None]
    checks = tuple(zlib.crc32(image.tobytes()) for image in sums)
    return Block(first, len(x), checks, chain.stream), chain.bits, chain.initial


def _encode_pass(model: Codable, x: Tensor) -> Chain:
    """What a full pass says of all sub-pixels, in the order of a stream."""
    assert isinstance(model, RangeCoded)
    alphabet = Alphabet(model.space.levels)
    below = model.intervals(x, alphabet.ends).flatten(1, 3)
    order, sizes = flat_order(model)
    values = x.flatten(1)[:, order].long().split(sizes, 1)
    told = [alphabet.intervals(part.flatten(0, 1), v.flatten()) for part, v in zip(below[:, order].split(sizes, 1), values, strict=True)]
    whole = torch.cat(told)
    return Chain(encode(whole), bits(whole), 0)
