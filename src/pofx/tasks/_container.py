"""The file that `pofx compress` writes: docs/reference/format.md describes it for those who write another reader.

    file    = magic header [model] block* [names] index tail
    chunk   = kind (1 byte) · length of the payload (u32) · payload · CRC-32 of all before (u32)          numbers are little-endian
    tail    = where the index chunk begins (u64) · CRC-32 of these 8 bytes (u32)

Each chunk stands alone: damage costs what is in it. What tells where chunks lie is there twice, as their own lengths and in the index, and
so is the header, of which the index holds a copy. A file that was cut off is read from its front.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pofx.errors import InputError

MAGIC = b"\x89pofx\r\n\x1a"
FORMAT = 1
HEADER, MODEL, BLOCK, STORED, NAMES, INDEX = KINDS = b"H", b"M", b"B", b"S", b"N", b"I"
CHECKS = ("block", "image")
MOST_IMAGES, MOST_DIMS, MOST_AT_ONCE = 2**16, 2**24, 2**28  # of a block, of an image, and of both: what a reader will make room for
MOST_COUNT, MOST_NAMES = 2**40, 2**26  # images of a file, and bytes that their names may be


class Damaged(InputError):
    """What was read is not what was written."""


# Numbers ---------------------------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first, the top bit set on all but the last.

    >>> varint(300).hex()
    'ac02'
    """
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A number, and where the next thing begins."""
    value = shift = 0
    while at < len(data) and shift < 63:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise Damaged("a number that does not end")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def chunk(kind: bytes, payload: bytes) -> bytes:
    """A payload with what frames it: 9 bytes more."""
    framed = kind + u32(len(payload)) + payload
    return framed + u32(zlib.crc32(framed))


# What a file holds -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Header:
    """What is said of the whole file.

    Attributes:
        model: id of the integer form that wrote it.
        shape: (channels, height, width) of images in blocks.
        levels: of these.
        count: images in all.
        block: most images in one block.
        check: whether a block has a checksum for each "image", or one for the "block".
        pofx: version that wrote it.
    """

    model: str
    shape: tuple[int, int, int]
    levels: int
    count: int
    block: int
    check: str
    pofx: str

    def to_bytes(self) -> bytes:
        """Format (1 byte), id (32 bytes), shape, levels, count, block, check (0 block, 1 image), then the version as text."""
        numbers = (*self.shape, self.levels, self.count, self.block, CHECKS.index(self.check))
        return bytes([FORMAT]) + bytes.fromhex(self.model) + b"".join(map(varint, numbers)) + self.pofx.encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Header:
        """Checked, number by number.

        Raises:
            Damaged: it is none.
            InputError: a newer format.
        """
        if data[:1] == b"\0":
            raise Damaged("the header has no format")
        if data and data[0] > FORMAT:
            raise InputError(f"It has format {data[0]}, and this pofx knows format {FORMAT}. Update it: pip install --upgrade pofx")
        numbers, at = [], 33
        for _ in range(7):
            number, at = read_varint(data, at)
            numbers.append(number)
        c, h, w, levels, count, block, check = numbers
        if not (
            min(c, h, w) >= 1
            and c * h * w <= MOST_DIMS
            and 2 <= levels <= 256
            and 1 <= block <= MOST_IMAGES
            and count <= MOST_COUNT
            and check < 2
        ):
            raise Damaged("the header holds values that no file has")
        return cls(data[1:33].hex(), (c, h, w), levels, count, block, CHECKS[check], data[at:].decode(errors="replace"))

    @property
    def dims(self) -> int:
        c, h, w = self.shape
        return c * h * w


@dataclass(frozen=True)
class Block:
    """Images that were coded together.

    Attributes:
        first, count: which images.
        checks: CRC-32 of the pixels, of each image or of all.
        stream: of the entropy coder.
    """

    first: int
    count: int
    checks: tuple[int, ...]
    stream: bytes

    def to_bytes(self) -> bytes:
        return varint(self.first) + varint(self.count) + b"".join(map(u32, self.checks)) + self.stream

    @classmethod
    def from_bytes(cls, data: bytes, header: Header) -> Block:
        first, at = read_varint(data, 0)
        count, at = read_varint(data, at)
        checks = count if header.check == "image" else 1
        if (
            not 1 <= count <= header.block
            or first + count > header.count
            or count * header.dims > MOST_AT_ONCE
            or at + 4 * checks > len(data)
        ):
            raise Damaged("a block of images that the file has not")
        sums = tuple(int.from_bytes(data[at + 4 * k : at + 4 * k + 4], "little") for k in range(checks))
        return cls(first, count, sums, data[at + 4 * checks :])


@dataclass(frozen=True)
class Stored:
    """An image that the model cannot hold, as the bytes of its file."""

    first: int
    data: bytes
    count: int = 1

    def to_bytes(self) -> bytes:
        return varint(self.first) + self.data

    @classmethod
    def from_bytes(cls, data: bytes, header: Header) -> Stored:
        first, at = read_varint(data, 0)
        if first >= header.count:
            raise Damaged("an image that the file has not")
        return cls(first, data[at:])


def names_json(names: Sequence[str]) -> bytes:
    """A list of texts; other letters than those of ASCII as \\u and a number, since the name of a file may hold what is no text."""
    return json.dumps(list(names), separators=(",", ":")).encode()


def packed_model(model: bytes) -> bytes:
    """An integer form as it lies inside a file: of a small model most are tables, which zlib makes a quarter."""
    return zlib.compress(model, 9)


def _model(payload: bytes) -> bytes | None:
    """The same again; None of a stream that is none, or would grow without end."""
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(payload, 2**20 + 100 * len(payload))
    except zlib.error:
        return None
    return found if stream.eof else None


def write(header: Header, parts: Iterable[Block | Stored], names: Sequence[str] | None, model: bytes | None) -> Iterator[bytes]:
    """The file, piece by piece; parts may come from elsewhere one by one. The index holds the header, and how long each chunk before it is."""
    yield MAGIC
    head, at, entries = header.to_bytes(), len(MAGIC), []

    def chunks() -> Iterator[tuple[bytes, bytes]]:
        yield HEADER, head
        if model is not None:
            yield MODEL, packed_model(model)
        for part in parts:
            yield (BLOCK if isinstance(part, Block) else STORED), part.to_bytes()
        if names is not None:
            yield NAMES, zlib.compress(names_json(names), 9)

    for kind, payload in chunks():
        piece = chunk(kind, payload)
        yield piece
        at += len(piece)
        entries.append(varint(len(piece)))
    yield chunk(INDEX, varint(len(head)) + head + varint(len(entries)) + b"".join(entries))
    where = at.to_bytes(8, "little")
    yield where + u32(zlib.crc32(where))


@dataclass(frozen=True)
class Piece:
    """A chunk as it lies in a file; `payload` is None where it is damaged."""

    kind: bytes
    payload: bytes | None
    size: int


@dataclass
class Container:
    """A file that was read as far as it is whole.

    Attributes:
        header: as its chunk or the index has it.
        parts: blocks and stored images that are whole, by their first image.
        lost: images of blocks that are damaged or missing, as (first, count).
        troubles: what else is damaged, in words.
        names: of the images, where they have any.
        model: bytes of the integer form that is inside, and how long their chunk is.
    """

    header: Header
    parts: list[Block | Stored] = field(default_factory=list)
    lost: list[tuple[int, int]] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    names: list[str] | None = None
    model: bytes | None = None
    model_size: int = 0

    def name(self, i: int) -> str:
        """What image i is called."""
        return self.names[i] if self.names is not None else f"{i:06d}"

    def settle(self) -> None:
        """Put parts in order, and see which images none of them has."""
        parts, self.parts, at = sorted(self.parts, key=lambda part: part.first), [], 0
        for part in parts:
            if part.first < at:  # a second one for the same images
                continue
            if part.first > at:
                self.lost.append((at, part.first - at))
            self.parts.append(part)
            at = part.first + part.count
        if at < self.header.count:
            self.lost.append((at, self.header.count - at))


def _piece(data: bytes, start: int, stop: int) -> Piece:
    whole = stop - start >= 9 and zlib.crc32(data[start : stop - 4]) == int.from_bytes(data[stop - 4 : stop], "little")
    return Piece(data[start : start + 1], data[start + 5 : stop - 4] if whole else None, stop - start)


def _walk(data: bytes, at: int) -> Iterator[Piece]:
    """Chunks one after the other, as long as they have a kind and fit."""
    while at + 9 <= len(data):
        stop = at + 9 + int.from_bytes(data[at + 1 : at + 5], "little")
        if data[at : at + 1] not in KINDS or stop > len(data):
            return
        yield _piece(data, at, stop)
        at = stop


def _index(data: bytes) -> tuple[Header, list[Piece]] | None:
    """The header and all chunks, by the index at the end; None where the tail or the index are damaged."""
    if len(data) < 12 or zlib.crc32(data[-12:-4]) != int.from_bytes(data[-4:], "little"):
        return None
    found = next(_walk(data, int.from_bytes(data[-12:-4], "little")), None)
    if found is None or found.kind != INDEX or found.payload is None:
        return None
    payload = found.payload
    length, at = read_varint(payload, 0)
    header = Header.from_bytes(payload[at : at + length])
    number, at = read_varint(payload, at + length)
    start, pieces = len(MAGIC), []
    for _ in range(min(number, len(payload))):
        size, at = read_varint(payload, at)
        pieces.append(_piece(data, start, start + size))
        start += size
    return header, pieces


def read(data: bytes) -> Container:
    """All of a file that is whole.

    Raises:
        InputError: it is no such file, or of a newer format.
        Damaged: the header and its copy are.
    """
    if data[: len(MAGIC)] != MAGIC and data[len(MAGIC) : len(MAGIC) + 1] != HEADER:
        raise InputError("It is no file of pofx compress.")
    try:
        index = _index(data)
    except Damaged:
        index = None
    walked = list(_walk(data, len(MAGIC)))
    head = walked[0].payload if walked and walked[0].kind == HEADER else None
    if head is None and index is None:
        raise Damaged("Its header and the copy at its end are damaged: nothing can be read.")
    header = Header.from_bytes(head) if head is not None else index[0]  # type: ignore[index]
    damaged = {
        "its first bytes": data[: len(MAGIC)] != MAGIC,
        "the header (its copy is whole)": head is None,
        "the index, or its end is missing": index is None,
    }
    container = Container(header, troubles=[what for what, so in damaged.items() if so])
    damaged_kinds: set[bytes] = set()
    for k, piece in enumerate(walked if index is None else index[1]):
        if piece.kind in (BLOCK, STORED) and piece.payload is not None:
            try:
                part = (Block if piece.kind == BLOCK else Stored).from_bytes(piece.payload, header)
            except Damaged:
                continue
            container.parts.append(part)
        elif piece.payload is None:
            if k > 0:  # the header is known by its place
                damaged_kinds.add(piece.kind)
        elif piece.kind == MODEL:
            container.model, container.model_size = _model(piece.payload), piece.size
            if container.model is None:
                damaged_kinds.add(MODEL)
        elif piece.kind == NAMES:
            container.names = _names(piece.payload, header.count)
            if container.names is None:
                damaged_kinds.add(NAMES)
    container.settle()
    known = {MODEL: "the model inside", NAMES: "the names of the images, which are numbered instead"}
    container.troubles += [what for kind, what in known.items() if kind in damaged_kinds]
    if damaged_kinds - known.keys() and not container.lost:  # what the byte said that says what a chunk is
        container.troubles.append("a part that holds no images: their names, or the model")
    return container


def _names(payload: bytes | None, count: int) -> list[str] | None:
    """Names that are whole, one for each image; a stream that would grow without end is none."""
    if payload is None:
        return None
    try:
        stream = zlib.decompressobj()
        text = stream.decompress(payload, min(2**12 * max(count, 1), MOST_NAMES))
        names = json.loads(text)
    except (zlib.error, ValueError, RecursionError):
        return None
    return names if isinstance(names, list) and len(names) == count and all(isinstance(n, str) for n in names) else None
