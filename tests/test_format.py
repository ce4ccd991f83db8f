"""docs/reference/format.md is enough to read a file: a small reader of its own, in plain Python, on golden files."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pofx.model import BitsBack, Gaussian, RangeCoded
from pofx.tasks._integer_form import IntegerForm

FILES = sorted((Path(__file__).parent / "golden" / "codec").glob("*.pofx"))


def varints(data: bytes, at: int, number: int) -> tuple[list[int], int]:
    found = []
    for _ in range(number):
        value = shift = 0
        while True:
            value |= (data[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if data[at - 1] < 128:
                break
        found.append(value)
    return found, at


def chunk_at(data: bytes, at: int) -> tuple[bytes, bytes, int]:
    kind, size = struct.unpack_from("<cI", data, at)
    (crc,) = struct.unpack_from("<I", data, at + 5 + size)
    assert crc == zlib.crc32(data[at : at + 5 + size])
    return kind, data[at + 5 : at + 5 + size], at + 9 + size


Shares = list[list[int]]  # of each sub-pixel S(0) … S(L)


class RangeCoder:
    """§3, of a stream."""

    def __init__(self, stream: bytes) -> None:
        self.words = [*struct.unpack(f"<{len(stream) // 4}I", stream), 0, 0][::-1]
        self.range, self.d = 2**64 - 1, self.words.pop() << 32
        self.d |= self.words.pop()

    def read(self, shares: Shares) -> list[int]:
        found = []
        for s in shares:
            unit = self.range >> 24
            q = self.d // unit
            (v,) = (v for v in range(len(s) - 1) if s[v] + 1 <= q < s[v + 1] + 1)
            self.d -= unit * (s[v] + 1)
            self.range = unit * (s[v + 1] - s[v])
            if self.range < 2**32:
                self.range <<= 32
                self.d = self.d << 32 | (self.words.pop() if self.words else 0)
            found.append(v)
        return found


class Stack:
    """§4, of a stream."""

    def __init__(self, stream: bytes) -> None:
        self.words = list(struct.unpack(f"<{len(stream) // 4}I", stream))
        while self.words and not self.words[-1]:
            self.words.pop()
        self.state = 0
        self.fill()

    def fill(self) -> None:
        while self.state < 2**32 and self.words:
            self.state = self.state << 32 | self.words.pop()

    def pop(self, edges: list[int]) -> int:
        """A symbol, symbol v from edges[v] to edges[v + 1]."""
        q = self.state % 2**24
        (v,) = (v for v in range(len(edges) - 1) if edges[v] <= q < edges[v + 1])
        self.state = (self.state >> 24) * (edges[v + 1] - edges[v]) + q - edges[v]
        self.fill()
        return v

    def push(self, v: int, edges: list[int]) -> None:
        share = edges[v + 1] - edges[v]
        if self.state >> 40 >= share:
            self.words.append(self.state % 2**32)
            self.state >>= 32
        self.state = (self.state // share << 24) + edges[v] + self.state % share

    def read(self, shares: Shares) -> list[int]:
        return [self.pop([t + 1 for t in s]) for s in shares]


def levels_of(read: Callable[[Shares], list[int]], shares: Shares, levels: int) -> list[int]:
    """§2, two parts where there are many levels."""
    if levels <= 32:
        return read(shares)
    first = read([[s[min(16 * a, levels)] for a in range(-(-levels // 16) + 1)] for s in shares])
    edges = [[s[min(16 * a + b, levels)] for b in range(17)] for s, a in zip(shares, first, strict=True)]
    second = read([[(e - s[0]) * (2**24 - 18) // (s[16] - s[0]) + b for b, e in enumerate(s)] for s in edges])
    return [16 * a + b for a, b in zip(first, second, strict=True)]


def order(model: str, arguments: dict, shape: tuple[int, int, int]) -> list[list[int]]:
    """§3: groups of flat indices."""
    c, h, w = shape
    pixels = [(i, j) for i in range(h) for j in range(w)]
    if model != "pixelcnn":
        return [[(k * h + i) * w + j] for i, j in pixels for k in range(c)]
    reach = max(arguments["kernel"], arguments["first_kernel"]) // 2 + 1
    fronts = sorted({j + reach * i for i, j in pixels})
    return [[(k * h + i) * w + j for i, j in pixels if j + reach * i == t] for t in fronts for k in range(c)]


def range_coded(model: RangeCoded, stream: bytes, n: int, levels: int, groups: list[list[int]], dims: int) -> list[list[int]]:
    """§3: a block."""
    coder, pixels, steps = RangeCoder(stream), [[0] * dims for _ in range(n)], model.begin(n)
    for group in groups:
        values = levels_of(coder.read, steps.cumulative().flatten(0, 1).tolist(), levels)
        for i in range(n):
            for j, flat in enumerate(group):
                pixels[i][flat] = values[i * len(group) + j]
        steps.fix(torch.tensor(values).reshape(n, len(group)))
    return pixels


class Buckets:
    """§4, in units of 2⁻¹⁶."""

    def __init__(self, form: IntegerForm) -> None:
        half, self.power = form.tables["normal"].tolist(), form.tables["power"].tolist()
        self.phi = [2**20 - t for t in half[:0:-1]] + half
        self.points = [-(2**36), *map(self.point, range(1, 2**13)), 2**36]

    def point(self, i: int) -> int:
        """Where Φ reaches i / 2^13."""
        j = next(j for j, t in enumerate(self.phi) if t >= i * 2**7)
        low, high = self.phi[j - 1], self.phi[j]
        return (j - 1 - 6 * 2**9) * 2**7 + (i * 2**7 - low) * 2**7 // (high - low)

    def mass(self, i: int, mean: int, inverse: int) -> int:
        """G: below edge i of 2^12."""
        t = min(max((self.points[2 * i] - mean) * inverse + 6 * 2**32, 0), 12 * 2**32)  # 2^-32
        j = min(t >> 23, 6143)
        return ((self.phi[j] << 23) + (t - (j << 23)) * (self.phi[j + 1] - self.phi[j])) >> 5

    def edges(self, before: int, place: int, mean: int, inverse: int) -> list[int]:
        """C, of the digit at that place."""
        below = [self.mass((4 * before + v) * 4 ** (5 - place), mean, inverse) for v in range(5)]
        shares = [g - below[0] + v for v, g in enumerate(below)]
        return [g * (2**24 - 4) // shares[4] + v for v, g in enumerate(shares)]


def bits_back(model: BitsBack, stream: bytes, n: int, levels: int, shape: tuple[int, int, int], form: IntegerForm) -> list[list[int]]:
    """§4: a block."""
    (c, h, w), d, buckets, stack = shape, model.latent_dims, Buckets(form), Stack(stream)
    most, sizes = max(1, min(64, 2**22 // max(16 * h * w, 4 * d))), []
    while (done := sum(sizes)) < n:
        sizes.append(min(max(1, done // 8), most, n - done))
    found: list[list[int]] = []
    for k in reversed(range(len(sizes))):
        size, digits = sizes[k], min(6, 2 + sum(sizes[:k]))
        uniform = [v << (24 - 2 * digits) for v in range(4**digits + 1)]
        numbers = [[stack.pop(uniform) for _ in range(d)] for _ in range(size)]
        z = torch.tensor([[buckets.points[(2 * number + 1) * 4 ** (6 - digits)] for number in row] for row in numbers]).double() * 2.0**-16
        pixels = model.decode(z)
        x = torch.zeros(size, c, h, w, dtype=torch.long)
        for channel in range(c):
            shares = pixels.cumulative(channel, x[:, :channel], torch.arange(levels + 1)[None, None, None])
            x[:, channel] = torch.tensor(levels_of(stack.read, shares.flatten(0, 2).tolist(), levels)).reshape(size, h, w)
        layers: list[tuple[int, list[list[int]], list[list[int]]]] = []

        def code(q: Gaussian, layers: list = layers, z: torch.Tensor = z) -> torch.Tensor:
            start = sum(len(mean[0]) for _, mean, _ in layers)
            mean = (q.mean.clamp(-8, 8) * 2**16).round().long()
            # floor(x + 1/2) of -log(sigma^2)/2 in units of 2^-6, from -8 to 8
            at = (-0.5 * q.log_variance * 2**6 + 0.5).floor().clamp(-512, 512).long() + 512
            layers.append((start, mean.tolist(), [[buckets.power[t] for t in row] for row in at.tolist()]))
            return z[:, start : start + q.mean.shape[1]]

        model.infer_by(x.to(torch.uint8), code)
        for start, mean, inverse in reversed(layers):
            for place in reversed(range(digits)):
                for i in reversed(range(size)):
                    for j in reversed(range(len(mean[0]))):
                        number = numbers[i][start + j] >> 2 * (digits - 1 - place)
                        stack.push(number % 4, buckets.edges(number // 4, place, mean[i][j], inverse[i][j]))
        found = x.flatten(1).tolist() + found
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_golden_file_is_read_by_the_page(path: Path) -> None:
    data = path.read_bytes()
    assert data[:8] == bytes.fromhex("89706F66780D0A1A")
    begin, crc = struct.unpack("<QI", data[-12:])
    assert crc == zlib.crc32(data[-12:-4])
    kind, index, end = chunk_at(data, begin)
    assert kind == b"I" and end == len(data) - 12
    (length,), at = varints(index, 0, 1)
    copy = index[at : at + length]
    (number,), at = varints(index, at + length, 1)
    sizes, at = varints(index, at, number)
    assert at == len(index)
    chunks, at = [], 8
    for size in sizes:
        kind, payload, after = chunk_at(data, at)
        assert after - at == size
        chunks.append((kind, payload))
        at = after
    assert at == begin and [kind for kind, _ in chunks[:2]] == [b"H", b"M"] and {kind for kind, _ in chunks[2:]} == {b"B"}
    header = chunks[0][1]
    assert header == copy and header[0] == 1
    (c, h, w, levels, count, most, each), at = varints(header, 33, 7)
    assert header[at:].decode() and (count, most, each) in ((17, 7, 0), (40, 40, 0)) and 2 <= levels <= 256
    packed = zlib.decompress(chunks[1][1])

    # §2: the id, by the page; the network is left to pofx.
    size = int.from_bytes(packed[:8], "little")
    listed = json.loads(packed[8 : 8 + size])
    stated = json.loads(listed.pop("__metadata__")["pofx"])
    name = hashlib.sha256(json.dumps([stated["model"], stated["bits"]], sort_keys=True).encode())
    for kind in ("weight", "table"):
        for key in sorted(k for k in listed if k.startswith(f"{kind} ")):
            start, stop = listed[key]["data_offsets"]
            letter = {"I16": "h", "I32": "i"}[listed[key]["dtype"]]
            raw = packed[8 + size + start : 8 + size + stop]
            numbers = struct.unpack(f"<{len(raw) // struct.calcsize(letter)}{letter}", raw)
            name.update(f"{key} {listed[key]['shape']}".encode() + struct.pack(f"<{len(numbers)}q", *numbers))
    assert name.digest() == header[1:33]
    form = IntegerForm.from_bytes(packed)
    groups = order(stated["model"]["part"], stated["model"]["arguments"], (c, h, w))

    # §3 and §4: the blocks, by coders in plain Python
    hashed = hashlib.sha256()
    for k, (_, payload) in enumerate(chunks[2:]):
        (first, n), at = varints(payload, 0, 2)
        assert (first, n) == (most * k, min(most, count - most * k))
        (crc,) = struct.unpack_from("<I", payload, at)
        with form.exact() as model:
            if isinstance(model, BitsBack):
                pixels = bits_back(model, payload[at + 4 :], n, levels, (c, h, w), form)
            else:
                assert isinstance(model, RangeCoded)
                pixels = range_coded(model, payload[at + 4 :], n, levels, groups, c * h * w)
        raw = b"".join(map(bytes, pixels))
        assert crc == zlib.crc32(raw)
        hashed.update(raw)
    assert hashed.hexdigest() == json.loads((path.parent / "expected.json").read_text())[path.stem]
