"""A text as images of height 1: `text:FILE`. Characters are levels, windows of W characters are images 1×1×W.

    alphabet    the different characters of the text, sorted; level k is its k-th character
    windows     characters 0 … W−1, W … 2W−1, …; what fills no window is left out. W is 64, or N of --size 1xN

Nothing is converted: upper and lower case, line ends and accents are the characters that the file has (a byte-order mark is none). The
alphabet is part of the data: a run keeps it, reads other texts with it and prints its samples with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pofx.data.arrays import Numbered, Rows, Source
from pofx.errors import InputError

PREFIX = "text:"
WIDTH = 64
MOST = 256
FEWEST = 4  # windows that a set needs: one for each part


def read_text(path: Path, name: str, limit: int, size: tuple[int, int] | None = None, alphabet: str | None = None) -> Source:
    """The windows of a text file, with `alphabet` or its own.

    Args:
        limit: bytes that may be read.
        size: (1, W).
        alphabet: that of a run; None: the characters of this text.

    Raises:
        InputError: no UTF-8, more than 256 different characters, one alone, or none that `alphabet` has; shorter than a window.
    """
    text = _characters(path, limit)
    height, width = size or (1, WIDTH)
    if height != 1:
        raise InputError(f"--size {height}x{width}: a text is 1 high; for windows of {width} characters write --size 1x{width}.")
    if len(text) < width:
        fix = f"Give a longer text, or shorter windows: --size 1x{max(1, len(text) // FEWEST)}" if text else "Give a text."
        raise InputError(f"{path} has {len(text)} characters, and a window has {width}. {fix}")
    if alphabet is None:
        alphabet = _alphabet(text, path)
    windows = len(text) // width
    x = encode(text[: windows * width], alphabet, str(path)).reshape(windows, 1, 1, width)
    rows = Rows(x, Numbered(name, np.arange(windows)))
    return Source({"all": rows}, len(alphabet), notes=(f"windows of {width} characters",), alphabet=alphabet)


def _characters(path: Path, limit: int) -> str:
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; a text is one file. Join them: cat {path}/*.txt > all.txt")
        size = path.stat().st_size
        if size > limit:
            raise InputError(f"{path} has {size:,} bytes; the limit is {limit:,}. Give a part of it, or raise POFX_MEMORY_LIMIT.")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is no UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}. "
            f"Convert it, e.g. iconv -f latin1 -t utf-8 {path} > utf8.txt, and give text:utf8.txt."
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}. Give a text file, e.g. text:book.txt.") from error


def _alphabet(text: str, path: Path) -> str:
    found = "".join(sorted(set(text)))
    if len(found) > MOST:
        raise InputError(
            f"{path} has {len(found)} different characters, and levels are at most {MOST}. "
            f"Map the rare ones, e.g. to plain letters: iconv -f utf-8 -t ascii//TRANSLIT {path} > ascii.txt"
        )
    if len(found) < 2:
        raise InputError(
            f"{path} is one character, {found!r}, repeated: there is nothing to learn. Give a text of two or more different ones."
        )
    return found


def encode(text: str, alphabet: str, what: str = "The text") -> NDArray[np.uint8]:
    """Characters as levels, uint8 `(len(text),)`; raises InputError where `alphabet` lacks one.

    >>> encode("abba", "ab").tolist()
    [0, 1, 1, 0]
    """
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    known = np.frombuffer(alphabet.encode("utf-32-le"), "<u4")
    if not (np.diff(known.astype(np.int64)) > 0).all() or not 2 <= len(known) <= MOST:
        raise InputError(f"An alphabet is 2 … {MOST} different characters in sorted order, found {alphabet[:40]!r}.")
    levels = np.searchsorted(known, codes).clip(max=len(known) - 1)
    if not (known[levels] == codes).all():
        strange = "".join(sorted(set(text) - set(alphabet)))
        raise InputError(
            f"{what} has {len(strange)} character{'s' * (len(strange) > 1)} that the alphabet of {len(alphabet)} does not have "
            f"({strange[:10]!r}). Remove or replace them."
        )
    return levels.astype(np.uint8)


def decode(x: Tensor, alphabet: str) -> list[str]:
    """Images uint8 `(n, 1, 1, W)` as n texts.

    >>> import torch
    >>> decode(torch.tensor([[[[1, 0, 0]]]], dtype=torch.uint8), "ab")
    ['baa']
    """
    return ["".join(alphabet[level] for level in row) for row in x.flatten(1).tolist()]


def lines(texts: Sequence[str]) -> str:
    r"""One text a line, so that what breaks a line is written `\\n`, `\\r`, `\\x0c` …, and a backslash `\\\\`; a line feed ends each.

    >>> print(lines(["a\nb", "c\\d"]), end="")
    a\nb
    c\\d
    """
    breaks = "\\\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
    table = {ord(c): c.encode("unicode_escape").decode("ascii") for c in breaks}
    return "".join(text.translate(table) + "\n" for text in texts)
