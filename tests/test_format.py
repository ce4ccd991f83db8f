"""docs/reference/format.md is enough to read a file: a small reader of its own, in plain Python, on golden files."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from pathlib import Path

import pytest
import torch

from pofx.model import RangeCoded
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


def range_decoder(stream: bytes, tables: list[list[int]], state: dict[str, int]) -> list[int]:
    """§3: a level for each table S(0) … S(L)."""
    words = struct.unpack(f"<{len(stream) // 4}I", stream)

    def word() -> int:
        state["at"] += 1
        return words[state["at"] - 1] if state["at"] <= len(words) else 0

    if not state:
        state.update(at=0, range=2**64 - 1)
        state["d"] = word() << 32
        state["d"] |= word()
    found = []
    for s in tables:
        unit = state["range"] >> 24
        q = state["d"] // unit
        (v,) = (v for v in range(len(s) - 1) if s[v] + 1 <= q < s[v + 1] + 1)
        state["d"] -= unit * (s[v] + 1)
        state["range"] = unit * (s[v + 1] - s[v])
        if state["range"] < 2**32:
            state["range"] <<= 32
            state["d"] = state["d"] << 32 | word()
        found.append(v)
    return found


def order(model: str, arguments: dict, shape: tuple[int, int, int]) -> list[list[int]]:
    """§3: groups of flat indices."""
    c, h, w = shape
    pixels = [(i, j) for i in range(h) for j in range(w)]
    if model != "pixelcnn":
        return [[(k * h + i) * w + j] for i, j in pixels for k in range(c)]
    reach = max(arguments["kernel"], arguments["first_kernel"]) // 2 + 1
    fronts = sorted({j + reach * i for i, j in pixels})
    return [[(k * h + i) * w + j for i, j in pixels if j + reach * i == t] for t in fronts for k in range(c)]


@pytest.mark.parametrize("path", [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] * (p.stem == "gated-pixelcnn")) for p in FILES])
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
    assert at == begin and [kind for kind, _ in chunks] == [b"H", b"M", b"B", b"B", b"B"]
    header = chunks[0][1]
    assert header == copy and header[0] == 1
    (c, h, w, levels, count, most, each), at = varints(header, 33, 7)
    assert header[at:].decode() and (count, most, each) == (17, 7, 0) and 2 <= levels <= 256
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
    groups, dims = order(stated["model"]["part"], stated["model"]["arguments"], (c, h, w)), c * h * w

    # §3: the last block, by a range coder in plain Python
    hashed = hashlib.sha256()
    for k, (_, payload) in enumerate(chunks[2:]):
        (first, n), at = varints(payload, 0, 2)
        assert (first, n) == (7 * k, min(7, 17 - 7 * k))
        (crc,) = struct.unpack_from("<I", payload, at)
        stream, pixels, state = payload[at + 4 :], [[0] * dims for _ in range(n)], {}
        with form.exact() as model:
            assert isinstance(model, RangeCoded)
            steps = model.begin(n)
            for group in groups:
                shares = steps.cumulative().flatten(0, 1).tolist()
                if levels <= 32:
                    values = range_decoder(stream, shares, state)
                else:
                    first_parts = range_decoder(
                        stream, [[s[min(16 * a, levels)] for a in range(-(-levels // 16) + 1)] for s in shares], state
                    )
                    edges = [[s[min(16 * a + b, levels)] for b in range(17)] for s, a in zip(shares, first_parts, strict=True)]
                    tables = [[(e - s[0]) * (2**24 - 18) // (s[16] - s[0]) + b for b, e in enumerate(s)] for s in edges]
                    values = [16 * a + b for a, b in zip(first_parts, range_decoder(stream, tables, state), strict=True)]
                for i in range(n):
                    for j, flat in enumerate(group):
                        pixels[i][flat] = values[i * len(group) + j]
                steps.fix(torch.tensor(values).reshape(n, len(group)))
        raw = b"".join(map(bytes, pixels))
        assert crc == zlib.crc32(raw)
        hashed.update(raw)
    assert hashed.hexdigest() == json.loads((path.parent / "expected.json").read_text())[path.stem]
