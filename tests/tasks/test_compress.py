"""Lossless files: every image comes back, the file has as many bits as the model says, and damage is named and never a wrong picture."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pofx import catalog
from pofx.errors import CapabilityError, InputError, PofxError
from pofx.integers import TOTAL
from pofx.model import RangeCoded
from pofx.models.autoregressive.pixelcnn import PixelCNN
from pofx.models.autoregressive.pixelcnn_pp import PixelCNNpp
from pofx.space import ImageSpace
from pofx.tasks import _container
from pofx.tasks._blocks import decode_block
from pofx.tasks._container import (
    BLOCK,
    HEADER,
    INDEX,
    MAGIC,
    MODEL,
    NAMES,
    STORED,
    Block,
    Header,
    chunk,
    packed_model,
    read,
    read_varint,
    u32,
    varint,
)
from pofx.tasks._entropy import Decoder, encode
from pofx.tasks._integer_form import IntegerForm
from pofx.tasks.compress import compress, encode_block, model_name
from pofx.tasks.contents import contents
from pofx.tasks.decompress import Decompressed, decompress
from pofx.testing import densify, random_images

CODABLE = {name: cls for name, cls in catalog.models().items() if issubclass(cls, RangeCoded)}
module = sys.modules["pofx.tasks.decompress"]
quick = settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@cache
def form_of(name: str, space: ImageSpace) -> IntegerForm:
    return IntegerForm.of(densify(CODABLE[name].small(space)))


def images(n: int, space: ImageSpace, content: str, seed: int = 0) -> Tensor:
    x = torch.zeros(n, *space.shape, dtype=torch.uint8)
    if content == "max":
        x += space.levels - 1
    elif content == "noise":
        x = random_images(n, space, seed)
    elif content == "one pixel":
        x.view(-1)[seed % max(x.numel(), 1) : seed % max(x.numel(), 1) + 1] = space.levels - 1
    return x


# There and back ---------------------------------------------------------------------------------------------------------


@quick
@given(
    name=st.sampled_from(sorted(CODABLE)),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    levels=st.one_of(st.integers(2, 256), st.sampled_from([2, 256])),
    content=st.sampled_from(["zeros", "max", "noise", "one pixel"]),
    n=st.integers(0, 6),
    stored=st.sets(st.integers(0, 8), max_size=3),
    block=st.integers(1, 6),
    check=st.sampled_from(["block", "image"]),
    embed=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_every_image_comes_back(
    name: str,
    shape: tuple[int, int, int],
    levels: int,
    content: str,
    n: int,
    stored: set[int],
    block: int,
    check: str,
    embed: bool,
    seed: int,
) -> None:
    space = ImageSpace(*shape, levels)
    form, x = form_of(name, space), images(n, space, content, seed)
    total = n + len(stored)
    others = {at: bytes([at]) * at for at in sorted(at % max(total, 1) for at in stored)}  # also an empty file
    total = n + len(others)
    others = {at: data for at, data in others.items() if at < total}
    total = n + len(others)
    if others and max(others) >= total:
        return
    names = [f"ü/{k}.png" for k in range(total)]
    with tempfile.TemporaryDirectory() as folder:
        found = compress(form, x, f"{folder}/a.pofx", stored=others, names=names, block=block, check=check, embed_model=embed)
        back = decompress(found.path)
        assert back.complaint() is None and back.names == names
        assert torch.equal(back.x, x) and back.stored == others
        assert sorted([*back.places.tolist(), *back.stored]) == list(range(total))
        assert (found.images, found.stored, found.dims) == (total, len(others), x.numel())
        assert found.size == found.path.stat().st_size
        for k in {0, total // 2, total - 1} & set(range(total)):  # and one by one
            one = decompress(found.path, form, only=[k])
            if k in others:
                assert one.stored == {k: others[k]} and not len(one.x)
            else:
                assert one.places.tolist() == [k] and torch.equal(one.x, x[back.places == k])


@pytest.mark.parametrize("name", CODABLE)
def test_images_that_follow_the_model_come_back_from_few_bits(name: str, tmp_path: Path) -> None:
    """Draws of the model itself, in blocks of any size: the same images; 1 costs more."""
    space = ImageSpace(1, 3, 4, levels=6)
    form = form_of(name, space)
    assert isinstance(form.model, RangeCoded)
    x = form.model.sample(8, seed=3)
    sizes = []
    for block in (1, 3, 8):
        found = compress(form, x, tmp_path / f"{block}.pofx", block=block)
        assert torch.equal(decompress(found.path).x, x)
        sizes.append(found.size)
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]


def test_a_file_has_as_many_bits_as_the_model_says(tmp_path: Path) -> None:
    for name in CODABLE:
        space = ImageSpace(1, 6, 6, levels=16)
        model = densify(CODABLE[name].small(space)).double()
        form, x = IntegerForm.of(model), random_images(60, space)
        found = compress(form, x, tmp_path / "a.pofx")
        with torch.no_grad():
            bits = -float(model.log_prob(x).sum()) / math.log(2)  # type: ignore[operator]
        assert found.ideal == pytest.approx(bits, rel=5e-3)
        data = found.path.read_bytes()
        stream = read(data).parts[0].stream  # type: ignore[union-attr]
        assert -32 < 8 * len(stream) - found.ideal < 64  # whole words
        assert 8 * (len(data) - len(stream)) < 8 * 160  # all that frames it
        assert found.bits_per_dim == 8 * len(data) / x.numel() and found.model_size == 0


def test_a_model_inside_or_beside(tmp_path: Path) -> None:
    space = ImageSpace(1, 2, 3, levels=4)
    form, x = form_of("pixelcnn", space), random_images(3, space)
    inside = compress(form, x, tmp_path / "in.pofx", embed_model=True)
    beside = compress(form, x, tmp_path / "by.pofx")
    assert inside.beside is None and beside.beside == tmp_path / model_name(form.id)
    assert inside.size - inside.model_size == pytest.approx(beside.size, abs=4)
    assert inside.bits_per_dim == pytest.approx(beside.bits_per_dim, rel=0.1)
    path = beside.beside
    assert path is not None
    path.write_bytes(path.read_bytes()[:-4] + b"oops")  # an older one that was damaged is made again
    compress(form, x, tmp_path / "by.pofx")
    assert torch.equal(decompress(tmp_path / "by.pofx").x, x)
    path.unlink()
    with pytest.raises(InputError, match="--model"):
        decompress(tmp_path / "by.pofx")
    assert torch.equal(decompress(tmp_path / "by.pofx", form).x, x)
    assert contents(tmp_path / "by.pofx").where == f"not here ({path.name})" and contents(tmp_path / "in.pofx").where == "inside"


def test_another_or_altered_model_is_refused(tmp_path: Path) -> None:
    space = ImageSpace(1, 2, 3, levels=4)
    model = densify(PixelCNN.small(space))
    form, x = IntegerForm.of(model), random_images(3, space)
    found = compress(form, x, tmp_path / "a.pofx")
    others: list[Any] = [
        densify(PixelCNN.small(space), seed=1),
        PixelCNNpp.small(space),
        form_of("pixelcnn", ImageSpace(1, 3, 2, levels=4)),
    ]
    for kind in ("weights", "tables"):
        name, t = next(iter(getattr(form, kind).items()))
        altered = t.clone()
        altered.view(-1)[0] += 1
        others.append(replace(form, **{kind: {**getattr(form, kind), name: altered}}))
    for other in others:
        with pytest.raises(InputError, match=form.id[:12]):
            decompress(found.path, other)
    assert torch.equal(decompress(found.path, model).x, x)  # the float model that it was made of
    path = found.beside
    assert path is not None
    data = path.read_bytes()
    for at in (len(data) - 1, len(data) // 2, 40):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(InputError, match=path.name):
            decompress(found.path)


def test_wrong_arguments(tmp_path: Path) -> None:
    space = ImageSpace(1, 2, 3, levels=4)
    form, x, out = form_of("pixelcnn", space), random_images(3, space), tmp_path / "a.pofx"
    wrongs: list[tuple[str, dict[str, Any]]] = [
        ("block=0", {"block": 0}),
        ("block=65537", {"block": 65537}),
        ("check", {"check": "all"}),
        ("2 names for 3", {"names": ["a", "b"]}),
        ("places 0 … 3", {"stored": {4: b""}}),
        ("places 0 … 3", {"stored": {-1: b""}}),
        ("67,108,864 bytes", {"names": ["a" * 2**25, "b" * 2**25, "c"]}),
    ]
    for words, wrong in wrongs:
        with pytest.raises(InputError, match=words):
            compress(form, x, out, **wrong)
    with pytest.raises(InputError, match="pofx"):
        compress(form, x, tmp_path / "a.zip")
    with pytest.raises(InputError, match="levels"):
        compress(form, x + 4, out)
    with pytest.raises(CapabilityError):
        compress(catalog.get("gan").small(ImageSpace(1, 4, 4, levels=2)), random_images(1, ImageSpace(1, 4, 4, levels=2)), out)
    assert not list(tmp_path.iterdir())
    compress(form, x, out)
    for wrong_places in ([3], [-1], [0, 99]):
        with pytest.raises(InputError, match="images 0 … 2"):
            decompress(out, only=wrong_places)
    with pytest.raises(InputError, match="Cannot read"):
        decompress(tmp_path / "none.pofx")
    out.write_bytes(b"PK\3\4 something else")
    for task in (decompress, contents):
        with pytest.raises(InputError, match="no file of pofx compress"):
            task(out)


def test_what_does_not_come_back_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pofx.tasks.compress  # noqa: F401

    space = ImageSpace(1, 2, 3, levels=4)
    monkeypatch.setattr(sys.modules["pofx.tasks.compress"], "decode_block", lambda form, block: decode_block(form, block).clamp(max=2))
    with pytest.raises(PofxError, match="nothing was written"):
        compress(form_of("pixelcnn", space), images(3, space, "max"), tmp_path / "a.pofx")
    assert not list(tmp_path.iterdir())


# The entropy coder -------------------------------------------------------------------------------------------------------


@quick
@given(st.lists(st.tuples(st.integers(0, TOTAL - 1), st.integers(1, TOTAL), st.booleans()), max_size=60))
def test_a_stream_is_as_long_as_its_symbols_say(found: list[tuple[int, int, bool]]) -> None:
    """Any intervals, also of the smallest share and of nearly all, at the ends and between."""
    levels = 3
    rows, symbols = [], []
    for start, size, small in found:
        stop = min(start + (1 if small else size), TOTAL)
        edges = sorted({0, start, stop, TOTAL})
        while len(edges) < levels + 1:  # as many levels for all
            wide = max(range(len(edges) - 1), key=lambda k: edges[k + 1] - edges[k] if edges[k] != start else 0)
            edges.insert(wide + 1, edges[wide + 1] - 1)
            edges = sorted(set(edges))
        if start not in edges[:-1] or len(edges) != levels + 1:
            continue
        rows.append(edges)
        symbols.append(edges.index(start))
    counts, at = torch.tensor(rows).reshape(-1, levels + 1), torch.tensor(symbols).long()
    intervals = counts.gather(1, torch.stack([at, at + 1], 1)) if len(at) else counts[:, :2]
    stream = encode(intervals)
    ideal = -float((intervals.diff(dim=1).double() / 2**24).log2().sum())
    assert -32 <= 8 * len(stream) - ideal <= 64
    decoder = Decoder(stream)
    assert torch.cat([decoder.decode(part) for part in counts.split(7)] or [at]).tolist() == symbols


@pytest.mark.parametrize("level", [0, 1, 255])
@pytest.mark.parametrize("share", ["smallest", "all but what others must have"])
def test_symbols_at_the_ends_of_what_a_share_can_be(level: int, share: str) -> None:
    size = 1 if share == "smallest" else TOTAL - 255
    rest = torch.ones(256, dtype=torch.long)
    rest[level] = size
    rest[(level + 1) % 256] += TOTAL - int(rest.sum())
    counts = torch.cat([torch.zeros(1, dtype=torch.long), rest.cumsum(0)])
    assert int(counts[-1]) == TOTAL and bool((counts.diff() > 0).all())
    n = 3000
    stream = encode(counts[level : level + 2].expand(n, 2))
    assert abs(8 * len(stream) - n * -math.log2(size / 2**24)) <= 64
    assert bool((Decoder(stream).decode(counts.expand(n, -1)) == level).all())


def test_constriction_takes_whole_weights_of_the_right_sum_exactly() -> None:
    """What `_entropy.py` relies on, seen in the coder's own state: after one symbol its range is ⌊2^64 / 2^24⌋ times the share, and its lower
    end as many times what lies below."""
    from importlib import import_module

    stream = import_module("constriction").stream
    generator = torch.Generator().manual_seed(0)
    family = stream.model.Categorical(perfect=False)
    starts = torch.randint(0, TOTAL - 1, (400,), generator=generator)
    sizes = (torch.rand(400, generator=generator, dtype=torch.double) * (TOTAL - starts).double().log2()).exp2().long().clamp(min=1)
    cases = [*zip(starts.tolist(), (starts + sizes).tolist(), strict=True), (0, 1), (0, TOTAL), (TOTAL - 1, TOTAL), (2**23, 2**23 + 1)]
    for start, stop in cases:
        coder = stream.queue.RangeEncoder()
        before = coder.pos()[1][1]
        weights = np.array([[start, stop - start - 1, TOTAL - stop]], dtype=np.float32)
        assert weights.astype(np.int64).tolist() == [[start, stop - start - 1, TOTAL - stop]]
        coder.encode(np.ones(1, dtype=np.int32), family, weights)
        words, (lower, width) = coder.pos()
        unit = before >> 24
        if not words and width >= 2**32:  # nothing was written yet, and nothing shifted
            assert (lower, width) == (unit * (start + 1), unit * (stop - start)), (start, stop)
    for levels in (2, 3, 256):
        shares = torch.ones(levels, dtype=torch.long) + torch.multinomial(
            torch.rand(levels, generator=generator), 10**5, replacement=True, generator=generator
        ).bincount(minlength=levels)
        shares[0] += TOTAL - int(shares.sum())
        counts = torch.nn.functional.pad(shares.cumsum(0), (1, 0))
        for level in range(0, levels, max(1, levels // 16)):  # the reader's table says of a level what the writer's three symbols say
            probes = encode(torch.stack([counts[level : level + 2]] * 5))
            assert Decoder(probes).decode(counts.expand(5, -1)).tolist() == [level] * 5
            for edge in (int(counts[level]), int(counts[level + 1]) - 1):  # the first and the last of its share
                assert Decoder(encode(torch.tensor([[edge, edge + 1]] * 3))).decode(counts.expand(3, -1)).tolist()[0] == level


# Damage ------------------------------------------------------------------------------------------------------------------

SPACE = ImageSpace(1, 2, 3, levels=4)
X = random_images(7, SPACE, seed=5)
OTHERS = {3: b"a stored file", 8: b"another"}
PLACES = [0, 1, 2, 4, 5, 6, 7]
NAMED = [f"{k}.png" for k in range(9)]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Seven images in blocks of two, and two stored ones between and after."""
    path = tmp_path_factory.mktemp("small") / "a.pofx"
    compress(form_of("pixelcnn", SPACE), X, path, stored=OTHERS, names=NAMED, block=2)
    return path.read_bytes()


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that were decoded before are not decoded again: a file is read ten thousand times here."""
    known: dict[tuple[str, bytes], Tensor] = {}

    def once(form: IntegerForm, block: Block) -> Tensor:
        key = form.id, block.to_bytes()
        if key not in known:
            known[key] = decode_block(form, block)
        return known[key]

    monkeypatch.setattr(module, "decode_block", once)


def right(back: Decompressed) -> int:
    """Every image that came back is the one that was given, and every other is said to be lost: how many are whole."""
    for place, image in zip(back.places.tolist(), back.x, strict=True):
        assert torch.equal(image, X[PLACES.index(place)]), f"a wrong picture: {place}"
    for place, data in back.stored.items():
        assert OTHERS[place] == data, f"a wrong file: {place}"
    assert back.names in (NAMED, None)
    lost = {first + k for first, count in back.lost for k in range(count)}
    there = {*back.places.tolist(), *back.stored}
    assert not lost & there and lost | there == set(range(9))
    if lost:
        complaint = back.complaint()
        assert complaint is not None and all(str(first) in complaint for first, _ in back.lost)
    return len(there)


@pytest.mark.usefixtures("remembered")
def test_every_byte_that_is_altered_is_noticed_and_costs_one_block(small: bytes, tmp_path: Path) -> None:
    form, path = form_of("pixelcnn", SPACE), tmp_path / "a.pofx"
    path.write_bytes(small)
    assert right(decompress(path, form)) == 9 and decompress(path, form).complaint() is None
    for at in range(len(small)):
        for value in {*(small[at] ^ 1 << bit for bit in (0, 1, 4, 7)), 0, 255, *(b"HMBSNI" if small[at] in b"HBSNI" else b"")} - {
            small[at]
        }:
            path.write_bytes(small[:at] + bytes([value]) + small[at + 1 :])
            back = decompress(path, form)
            assert back.complaint(), f"byte {at}: {small[at]} → {value} was not noticed"
            assert right(back) >= 7
            listed = contents(path)
            assert listed.troubles or any(line.kind == "damaged" for line in listed.blocks)


@pytest.mark.usefixtures("remembered")
def test_a_file_that_was_cut_off_gives_what_is_whole(small: bytes, tmp_path: Path) -> None:
    form, path = form_of("pixelcnn", SPACE), tmp_path / "a.pofx"
    ends, at = [], len(MAGIC)
    while at < len(small) - 12:
        at += 9 + int.from_bytes(small[at + 1 : at + 5], "little")
        ends.append(at)
    images_of = [0, 2, 1, 1, 2, 2, 1, 0, 0]  # header, blocks and stored ones, names, index
    for size in range(len(small)):
        path.write_bytes(small[:size])
        whole = sum(n for end, n in zip(ends, images_of, strict=True) if end <= size)
        if size < ends[0]:
            with pytest.raises(InputError, match=r"a\.pofx"):
                decompress(path, form)
            continue
        back = decompress(path, form)
        assert "its end is missing" in (back.complaint() or "")
        assert right(back) == whole
    path.write_bytes(small + b"\0")
    assert "end" in (decompress(path, form).complaint() or "") and right(decompress(path, form)) == 9


@pytest.mark.usefixtures("remembered")
def test_longer_damage_and_what_is_missing_in_the_middle(small: bytes, tmp_path: Path) -> None:
    form, path, generator = form_of("pixelcnn", SPACE), tmp_path / "a.pofx", np.random.default_rng(0)
    for _ in range(500):
        start, stop = sorted(generator.integers(0, len(small), 2).tolist())
        stop = min(stop, start + 40)
        by = [b"", generator.bytes(stop - start), bytes(stop - start), small[stop : 2 * stop - start], generator.bytes(3)][
            generator.integers(5)
        ]
        altered = small[:start] + by + small[stop:]
        path.write_bytes(altered)
        try:
            back = decompress(path, form)
        except InputError as error:
            assert "a.pofx" in str(error)
            continue
        right(back)
        assert altered == small or back.complaint()


def test_a_damaged_model_inside_is_named(tmp_path: Path) -> None:
    path, form = tmp_path / "a.pofx", form_of("pixelcnn", SPACE)
    compress(form, X, path, embed_model=True, block=2)
    data = path.read_bytes()
    start = len(MAGIC) + 9 + int.from_bytes(data[len(MAGIC) + 1 : len(MAGIC) + 5], "little")
    for at in np.linspace(start, start + 25_000, 25).astype(int).tolist():
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        with pytest.raises(InputError, match="model"):
            decompress(path)
        assert any("model" in trouble for trouble in contents(path).troubles)
        if at % 2:
            back = decompress(path, form)  # who has it still reads all
            assert torch.equal(back.x, X) and "model" in (back.complaint() or "")


@pytest.mark.parametrize("check", ["block", "image"])
def test_a_stream_of_other_images_is_no_picture(check: str) -> None:
    """Where the frame says that all is well: the checksum of pixels is the last guard, and names the image where each has one."""
    form = form_of("pixelcnn", SPACE)
    block, *_ = encode_block(form, X, first=20, check=check)
    assert torch.equal(decode_block(form, block), X)
    words = "image 2[0-6]$|images 20 … 26" if check == "image" else "images 20 … 26"
    for at in range(len(block.stream)):
        altered = block.stream[:at] + bytes([block.stream[at] ^ 16]) + block.stream[at + 1 :]
        try:
            found = decode_block(form, replace(block, stream=altered))
        except _container.Damaged as error:
            assert re.search(words, str(error))
        else:  # the last bytes of a stream may hold nothing
            assert torch.equal(found, X) and at >= len(block.stream) - 8
    for stream in (b"", b"\0", b"\xff" * 400, bytes(400)):
        with pytest.raises(_container.Damaged):
            decode_block(form, replace(block, stream=stream))
    wrong = tuple(c ^ 1 for c in block.checks)
    with pytest.raises(_container.Damaged):
        decode_block(form, replace(block, checks=wrong))


# What is made to do harm: the frame is right, and what it holds is not ---------------------------------------------------------


def framed(chunks: Sequence[tuple[bytes, bytes]], head: bytes | None = None, index: bytes | None = None) -> bytes:
    """Any payloads in chunks whose checksums are right, with an index of them."""
    pieces = [chunk(kind, payload) for kind, payload in chunks]
    body = MAGIC + b"".join(pieces)
    head = chunks[0][1] if head is None else head
    if index is None:
        index = varint(len(head)) + head + varint(len(pieces)) + b"".join(varint(len(p)) for p in pieces)
    where = len(body).to_bytes(8, "little")
    return body + chunk(INDEX, index) + where + u32(zlib.crc32(where))


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    at, found = len(MAGIC), []
    while data[at : at + 1] != INDEX:
        size = int.from_bytes(data[at + 1 : at + 5], "little")
        found.append((data[at : at + 1], data[at + 5 : at + 5 + size]))
        at += 9 + size
    return found


def attempt(data: bytes, path: Path, *forms: IntegerForm | None) -> None:
    """Read it in every way: an answer, or an error that is ours."""
    path.write_bytes(data)
    for task in (contents, *(lambda p, f=form: decompress(p, f) for form in forms), lambda p: decompress(p, forms[0], only=[0, 3])):
        try:
            found = task(path)
        except PofxError as error:
            assert str(error)
        else:
            if isinstance(found, Decompressed):
                found.complaint()
            else:
                json.dumps(found.to_json())


edit = st.tuples(st.floats(0, 1), st.sampled_from(["set", "insert", "delete", "copy"]), st.integers(0, 255), st.integers(1, 9))
edits = st.lists(edit, min_size=1, max_size=4)


def edited(data: bytes, changes: list[tuple[float, str, int, int]]) -> bytes:
    for place, what, value, size in changes:
        at = int(place * len(data))
        if what == "set":
            data = data[:at] + bytes([value]) + data[at + 1 :]
        elif what == "insert":
            data = data[:at] + bytes([value]) * size + data[at:]
        elif what == "delete":
            data = data[:at] + data[at + size :]
        else:
            data = data[:at] + data[:size] + data[at:]
    return data


@settings(quick, max_examples=100)
@given(which=st.integers(0, 8), changes=edits, follow=st.booleans())
def test_altered_payloads_in_a_right_frame(small: bytes, which: int, changes: list[tuple[float, str, int, int]], follow: bool) -> None:
    chunks = chunks_of(small)
    kind, payload = chunks[which % len(chunks)]
    original = chunks[0][1]
    if kind == NAMES:
        payload = zlib.compress(edited(zlib.decompress(payload), changes)) if follow else edited(payload, changes)
    else:
        payload = edited(payload, changes)
    chunks[which % len(chunks)] = kind, payload
    with tempfile.TemporaryDirectory() as folder:
        attempt(framed(chunks, None if follow else original), Path(folder) / "a.pofx", form_of("pixelcnn", SPACE))


number = st.one_of(st.integers(0, 300), st.sampled_from([2**16, 2**24, 2**28, 2**31, 2**32, 2**40, 2**52, 2**62, 2**63 - 1]))


@settings(quick, max_examples=100)
@given(
    numbers=st.tuples(number, number, number, number, number, number, st.integers(0, 3)),
    keep=st.sets(st.integers(0, 6)),
    parts=st.lists(st.tuples(st.sampled_from([BLOCK, STORED, NAMES, MODEL, b"X"]), number, number, st.binary(max_size=40)), max_size=4),
)
def test_any_numbers_in_a_right_frame(numbers: tuple[int, ...], keep: set[int], parts: list[tuple[bytes, int, int, bytes]]) -> None:
    """Sizes are checked before there is room made for them."""
    form = form_of("pixelcnn", SPACE)
    true = (*SPACE.shape, SPACE.levels, 9, 2, 0)
    head = bytes([1]) + bytes.fromhex(form.id) + b"".join(varint(true[k] if k in keep else n) for k, n in enumerate(numbers)) + b"0"
    chunks = [(HEADER, head), *((kind, varint(a) + varint(b) + rest) for kind, a, b, rest in parts)]
    with tempfile.TemporaryDirectory() as folder:
        attempt(framed(chunks), Path(folder) / "a.pofx", form)
        attempt(framed(chunks, index=varint(len(head)) + head + b"".join(varint(n) for n in numbers)), Path(folder) / "a.pofx", form)


@settings(quick, max_examples=80)
@given(st.binary(max_size=200), st.sampled_from([MAGIC, b"", MAGIC + HEADER, MAGIC[:-1] + b"?" + HEADER]))
def test_any_bytes(data: bytes, before: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        attempt(before + data, Path(folder) / "a.pofx", form_of("pixelcnn", SPACE))


json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-5, 10**12),
        st.floats(),
        st.text(max_size=5),
        st.sampled_from(["pixelcnn", "vae", "Label", "part"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["part", "type", "arguments", "space", "layers", "kernel", "channels", "x"]), inner, max_size=3),
    ),
    max_leaves=6,
)


@settings(quick, max_examples=100)
@given(
    name=st.sampled_from(sorted(CODABLE)),
    field=st.sampled_from(
        ["space", "given", "layers", "channels", "kernel", "dilations", "likelihood", "dropout", "lr", "blocks", "stages", "new"]
    ),
    value=json_values,
    within=st.sampled_from([None, "channels", "height", "levels", "type"]),
    whole=st.booleans(),
)
def test_any_description_of_a_model(name: str, field: str, value: Any, within: str | None, whole: bool) -> None:
    form = form_of(name, SPACE)
    description = json.loads(json.dumps(form.description))
    if whole:
        description = value
    elif within is not None:
        description["arguments"]["space"][within] = value
    else:
        description["arguments"][field] = value
    data = replace(form, description=description).to_bytes()
    try:
        found = IntegerForm.from_bytes(data)
        assert len(found.id) == 64 and found.space
    except PofxError as error:
        assert str(error)


@settings(quick, max_examples=60)
@given(changes=edits, inside=st.booleans())
def test_any_bytes_of_a_model(changes: list[tuple[float, str, int, int]], inside: bool) -> None:
    data = form_of("pixelcnn", SPACE).to_bytes()
    size = 8 + int.from_bytes(data[:8], "little")
    head = edited(data[8:size], changes)
    data = len(head).to_bytes(8, "little") + head + data[size:] if inside else edited(data[:size], changes) + data[size:]
    try:
        found = IntegerForm.from_bytes(data)
        assert len(found.id) == 64 and found.space
    except PofxError as error:
        assert str(error)


HOSTILE = """
import resource, sys, time, zlib
from pathlib import Path
from pofx.errors import PofxError
from pofx.tasks.contents import contents
from pofx.tasks.decompress import decompress
import constriction
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 700 * 2**20,) * 2)
for path in sys.argv[1:]:
    for task in (contents, decompress):
        start = time.process_time()
        try:
            task(path)
        except PofxError:
            pass
        assert time.process_time() - start < 5, path
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS and /proc")
def test_sizes_that_are_only_said_take_no_memory(tmp_path: Path) -> None:
    """In a process that may have 700 MB more: what a hundred bytes say may be larger than any memory."""
    form = form_of("pixelcnn", SPACE)

    def head(shape: Sequence[int], count: int, block: int) -> bytes:
        return bytes([1]) + bytes.fromhex(form.id) + b"".join(map(varint, (*shape, 4, count, block, 0)))

    usual = head(SPACE.shape, 9, 2)
    bomb = zlib.compressobj(9)
    first, again = (bomb.compress(b" " * 2**20) + bomb.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    spaces = first + again * 2999  # 3 GB in 3 MB
    large = replace(form, description={**form.description, "arguments": {**form.description["arguments"], "channels": 10**4}}).to_bytes()
    cases = {
        "names": framed([(HEADER, head(SPACE.shape, 2**39, 2)), (NAMES, spaces)]),
        "count": framed([(HEADER, head(SPACE.shape, 2**62, 2))]),
        "pixels": framed([(HEADER, head((1, 2**12, 2**12), 2**16, 2**16)), (BLOCK, varint(0) + varint(2**16) + bytes(8))]),
        "dims": framed([(HEADER, head((2**20, 2**20, 2**20), 2, 2)), (BLOCK, varint(0) + varint(1) + bytes(8))]),
        "chunk": MAGIC + chunk(HEADER, usual) + BLOCK + b"\xff\xff\xff\xff" + bytes(20),
        "index": framed([(HEADER, usual)], index=varint(len(usual)) + usual + varint(2**62) + varint(2**62) * 3),
        "tail": MAGIC + chunk(HEADER, usual) + b"\xff" * 8 + u32(zlib.crc32(b"\xff" * 8)),
        "length": framed([(HEADER, usual), (MODEL, packed_model((2**63).to_bytes(8, "little") + b"{}"))]),
        "bomb": framed([(HEADER, usual), (MODEL, spaces), (BLOCK, varint(0) + varint(1) + bytes(8))]),
        "model": framed([(HEADER, usual), (MODEL, packed_model(large)), (BLOCK, varint(0) + varint(1) + bytes(8))]),
    }
    for name, data in cases.items():
        (tmp_path / f"{name}.pofx").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE, *(str(tmp_path / f"{name}.pofx") for name in cases)], capture_output=True, text=True
    )
    assert done.stdout == "done\n", done.stderr[-2000:]


def test_numbers_of_the_frame() -> None:
    for value in (0, 1, 127, 128, 300, 2**32, 2**62):
        assert read_varint(varint(value) + b"x", 0) == (value, len(varint(value)))
    for data in (b"", b"\x80", b"\xff" * 20):
        with pytest.raises(_container.Damaged):
            read_varint(data, 0)
    header = Header("ab" * 32, (3, 4, 5), 256, 1000, 256, "image", "0.1.0")
    assert Header.from_bytes(header.to_bytes()) == header
    with pytest.raises(InputError, match="Update it"):
        Header.from_bytes(b"\2" + header.to_bytes()[1:])
    block = Block(5, 2, (1, 2**32 - 1), b"stream")
    assert Block.from_bytes(block.to_bytes(), header) == block
