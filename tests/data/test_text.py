"""`text:FILE`: windows of characters as images of height 1, the alphabet on record, and texts that are refused."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pofx.data import describe, load_data, load_images, parse
from pofx.data.text import decode, encode, lines
from pofx.errors import InputError


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return f"text:{path}"


@pytest.fixture
def book(tmp_path: Path) -> str:
    return write(tmp_path / "book.txt", "".join(f"Line {i}: äß€🙂, said she.\r\n" for i in range(400)))


def test_windows_are_the_text_in_order(book: str, tmp_path: Path) -> None:
    text = (tmp_path / "book.txt").read_bytes().decode()
    part, space = load_images(book)
    alphabet = load_data(book).alphabet
    assert alphabet is not None
    assert alphabet == "".join(sorted(set(text)))
    assert {"\r", "\n", "🙂"} <= set(alphabet)
    assert (space.shape, space.levels) == ((1, 1, 64), len(alphabet))
    assert len(part) == len(text) // 64
    assert "".join(decode(part.x, alphabet)) == text[: len(part) * 64]
    assert part.ids[3] == "book.txt/3"
    assert part.heading == "book.txt [windows of 64 characters]"


def test_size_is_the_length_of_a_window(book: str) -> None:
    data = load_data(book, size="1x16")
    assert data.space.shape == (1, 1, 16)
    assert data.transforms == ("windows of 16 characters",)
    assert load_data(book, size="1x17").fingerprint != data.fingerprint
    with pytest.raises(InputError, match="--size 1x28"):
        load_data(book, size=28)


def test_it_is_split_by_hash(tmp_path: Path) -> None:
    """Equal windows are always in one part."""
    spec = write(tmp_path / "a.txt", "".join(f"{i % 50:08d}" for i in range(1000)))
    data = load_data(spec, size="1x8")
    parts = [set(decode(part.x, data.alphabet or "")) for part in data.parts.values()]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 50
    assert sum(map(len, data.parts.values())) == 1000
    assert describe(data).overlap == 0


def test_the_record_makes_it_again_with_its_alphabet(book: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = load_data("text:book.txt", size="1x32")
    stored = json.loads(json.dumps(data.to_json()))
    assert stored["alphabet"] == data.alphabet
    os.mkdir(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_data(**stored["spec"]).fingerprint == data.fingerprint
    # A change of the file does not move the levels of the letters that stay.
    (tmp_path / "book.txt").write_text("she said: ieie." * 50)
    again = load_data(**stored["spec"])
    assert again.alphabet == data.alphabet
    assert again.fingerprint != data.fingerprint
    assert decode(again.train.x, data.alphabet or "")[0][:3] in "she said: ieie." * 3


def test_the_alphabet_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    """The same levels of other letters are another set."""
    one = load_data(write(tmp_path / "a.txt", "abba" * 100), size="1x4")
    other = load_data(write(tmp_path / "b.txt", "cddc" * 100), size="1x4")
    assert torch.equal(one.train.x, other.train.x)
    assert one.fingerprint != other.fingerprint
    same = load_images(f"text:{tmp_path / 'a.txt'}", size="1x4", alphabet="abcd")
    assert same[1].levels == 4
    with pytest.raises(InputError, match="2 characters that the alphabet of 2 does not have .'cd'"):
        load_images(f"text:{tmp_path / 'b.txt'}", size="1x4", alphabet="ab")


def test_other_sets_are_recorded_as_before() -> None:
    data = load_data("digits")
    assert data.alphabet is None
    assert "alphabet" not in data.to_json()
    assert "alphabet" not in data.arguments


@given(st.text(min_size=1), st.sets(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_encode_and_decode_are_inverse(text: str, more: set[str]) -> None:
    alphabet = "".join(sorted({*text[:50], *more, "a", "b"}))
    text = text[:50]
    x = torch.from_numpy(encode(text, alphabet))[None, None, None]
    assert decode(x, alphabet) == [text]


@given(st.lists(st.text(st.sampled_from("ab\\\n\r\x0b\x0c\x1c\x85\u2028n"))))
def test_a_line_is_a_text_and_can_be_read_back(texts: list[str]) -> None:
    shown = lines(texts)
    found = shown.splitlines()
    assert len(found) == len(texts)
    # Undone from left to right, by the rules of a Python string
    assert [ast.literal_eval(f'"{line}"') for line in found] == texts


def test_lines_can_be_told_apart() -> None:
    assert lines(["a\nb", "a\\nb"]) == "a\\nb\na\\\\nb\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("".join(map(chr, range(300, 600))) * 3, "300 different characters, and levels are at most 256.*TRANSLIT"),
        ("a" * 1000, "nothing to learn"),
        ("", "0 characters"),
        ("ab" * 20, "has 40 characters, and a window has 64.*--size 1x10"),
        ("ab" * 100, "3 windows of 64 characters.*--size 1x48"),
        (b"ab" * 50 + b"\xff", r"no UTF-8 text: byte 100 is 0xff.*iconv"),
    ],
)
def test_refusals(text: str | bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        load_data(write(tmp_path / "a.txt", text))


def test_the_fix_that_is_given_works(tmp_path: Path) -> None:
    assert min(map(len, load_data(write(tmp_path / "a.txt", "the quick brown fox jumps."), size="1x6").parts.values())) == 1


def test_256_characters_are_a_byte_and_a_byte_order_mark_is_none(tmp_path: Path) -> None:
    text = "".join(map(chr, range(300, 556))) * 3
    data = load_data(write(tmp_path / "a.txt", b"\xef\xbb\xbf" + text.encode()))
    assert data.space.levels == 256
    assert (data.alphabet or "")[0] == chr(300)


@pytest.mark.parametrize(
    ("suffix", "arguments", "words"),
    [
        (":threshold", {}, ":threshold means nothing"),
        (":dynamic", {}, ":dynamic means nothing"),
        ("", {"levels": 4}, "--levels 4 means nothing"),
        ("", {"keep_labels": "1"}, "needs labels"),
        (":tset", {}, "Did you mean 'test'"),
        ("x", {}, "no text file"),
    ],
)
def test_what_means_nothing_for_a_text(book: str, suffix: str, arguments: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_data(book + suffix, **arguments)


def test_grammar(book: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse("text:a/b.txt:test").base == "text:a/b.txt"
    assert parse("text:a/b.txt:test").name == "b.txt"
    assert len(load_images(f"{book}:valid")[0]) == len(load_data(book).valid)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd:test").write_text("abc" * 200)
    assert load_data("text:odd:test").alphabet == "abc"
    for spec, words in (("text:", "no text file"), ("text:.", "is a folder"), ("text", "no set")):
        with pytest.raises(InputError, match=words):
            load_data(spec)
    with pytest.raises(InputError, match="limit"):
        load_data(book, memory_limit=100)
