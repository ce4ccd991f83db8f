"""Symbols ↔ bytes, by the coders of `constriction` and the integer counts of a model: a queue (range coding) and a stack (ANS, Duda 2009).

A coder shares 2^24 among its symbols. Ours are a level's `TOTAL` = 2^24 − 2, and one more at either end that never comes: so an interval is
always the middle one of three symbols, none of them empty, and a writer needs no table of all levels. `constriction` gives symbol i the
share 1 + ⌊w_i · s⌋ of weights w and a scale s that brings their sum to 2^24 − n; for whole w of just that sum s is 1, and shares are w_i + 1
exactly (in float32 too: all sums are below 2^24).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pofx.integers import TOTAL
from pofx.tasks._container import Damaged


def _stream() -> Any:
    """Loaded on first use; it has no types."""
    return import_module("constriction").stream


COARSE = 16
WORD = np.dtype("<u4")
WHOLE = TOTAL + 2


def bits(intervals: Tensor) -> float:
    """What intervals `(…, 2)` cost: a symbol −log2 of its share."""
    return -float(((intervals[..., 1] - intervals[..., 0]).double() / WHOLE).log2().sum())


def own(v: Tensor) -> Tensor:
    """Where levels begin and end: `(…)` → `(…, 2)`."""
    return torch.stack([v, v + 1], -1)


@dataclass(frozen=True)
class Alphabet:
    """How levels are told: at once where there are few, else as `COARSE`·a + b, a first. A reader then asks for two short tables in place of one
    long one; a writer for four numbers."""

    levels: int

    @property
    def parted(self) -> bool:
        return self.levels > 2 * COARSE

    def ends(self, v: Tensor) -> Tensor:
        """What must be known of levels `(…)`: where they begin and end, and where their coarse ones do: `(…, 2 or 4)`."""
        if not self.parted:
            return own(v)
        coarse = v - v % COARSE
        return torch.stack([v, v + 1, coarse, (coarse + COARSE).clamp(max=self.levels)], -1)

    def intervals(self, below: Tensor, v: Tensor) -> Tensor:
        """Of a group's levels `v` `(m,)` and what lies below their `ends` `(m, 2 or 4)`: what a coder is told in turn, `(m or 2m, 2)`."""
        if not self.parted:
            return below
        start, stop, first, last = below.unbind(1)
        part, total = v % COARSE, last - first
        return torch.cat([below[:, 2:], torch.stack([_share(start - first, total, part), _share(stop - first, total, part + 1)], 1)])

    def read(self, decode: Callable[[Tensor], Tensor], cumulative: Callable[[Tensor], Tensor], m: int) -> Tensor:
        """The next m levels, int64, by a coder's `decode`; `cumulative` says how much lies below levels `(m, k)`: `(m, k)`."""
        if not self.parted:
            return decode(cumulative(torch.arange(self.levels + 1).expand(m, -1)))
        edges = torch.arange(0, self.levels + COARSE, COARSE).clamp(max=self.levels)
        coarse = decode(cumulative(edges.expand(m, -1))) * COARSE
        steps = torch.arange(COARSE + 1)
        below = cumulative((coarse[:, None] + steps).clamp(max=self.levels))
        first = below[:, :1]
        fine = decode(_share(below - first, below[:, -1:] - first, steps))
        return (coarse + fine).clamp(max=self.levels - 1)


def _share(below: Tensor, total: Tensor, k: Tensor) -> Tensor:
    """Shares of `total` as shares of `TOTAL`, at least one for each of `COARSE`."""
    return torch.div(below * (TOTAL - COARSE), total, rounding_mode="floor") + k


def encode(intervals: Tensor) -> bytes:
    """The stream of sub-pixels in turn, from the interval of each: int64 `(m, 2)`, out of `TOTAL`.

    >>> len(encode(torch.tensor([[0, TOTAL // 2]] * 64)))  # a bit each, and the coder's last word
    12
    """
    coder = _stream().queue.RangeEncoder()
    coder.encode(*_middles(intervals))
    return coder.get_compressed().astype(WORD).tobytes()


def _middles(intervals: Tensor) -> tuple[Any, Any, Any]:
    """Each interval as the middle one of three symbols: these, and what they are shared by."""
    start, stop = intervals.unbind(1)
    weights = torch.stack([start, stop - start - 1, TOTAL - stop], 1).to(torch.float32)
    return np.ones(len(weights), dtype=np.int32), _stream().model.Categorical(perfect=False), weights.numpy()


def _shares(shares: Tensor) -> tuple[Any, Any]:
    """What gives symbols these shares of `WHOLE`, int64 `(m, symbols)`."""
    return _stream().model.Categorical(perfect=False), (shares - 1).to(torch.float32).numpy()


def _words(data: bytes) -> Any:
    whole = len(data) - len(data) % WORD.itemsize
    return np.frombuffer(data[:whole], dtype=WORD).astype(np.uint32)


class Decoder:
    """Reads what `encode` wrote.

    >>> counts = torch.tensor([[0, TOTAL // 4, TOTAL]])
    >>> Decoder(encode(counts[:, 1:])).decode(counts).tolist()
    [1]
    """

    def __init__(self, data: bytes) -> None:
        self._coder = _stream().queue.RangeDecoder(_words(data))

    def decode(self, cumulative: Tensor) -> Tensor:
        """The next levels, int64 `(m,)`, from how much lies below each: int64 `(m, levels + 1)`. Of a stream that was altered they are
        levels all the same, and a checksum says so.

        Raises:
            Damaged: no writer makes such a stream.
        """
        try:
            found = self._coder.decode(*_shares(F.pad(cumulative.diff(dim=1), (1, 1), value=1)))
        except AssertionError as error:  # so `constriction` says it
            raise Damaged("a stream that was not written so") from error
        return torch.from_numpy(found).long().sub_(1).clamp_(0, cumulative.shape[1] - 2)


class Stack:
    """What was pushed last is popped first. What was never pushed can be popped too: it is drawn, by bits that come back when it is returned.
    Every bit of the coder may then ask for a symbol, so that those that are drawn share all of `WHOLE`.

    Args:
        data: as `to_bytes` wrote it.
        fresh: where a stack that is about to run empty takes words from, that many, to be put at its bottom. Without it, it never ends:
            of a stream that was altered come symbols all the same.

    Attributes:
        initial: bits that were put at the bottom and used.

    >>> counts = torch.tensor([[0, WHOLE // 4, WHOLE]])
    >>> stack = Stack(fresh=lambda words: np.arange(1, words + 1))
    >>> symbol = stack.draw(counts)
    >>> stack.give_back(symbol, counts)
    >>> stack.to_bytes()[:4].hex(), stack.initial
    ('01000000', 96)
    """

    def __init__(self, data: bytes = b"", fresh: Callable[[int], Any] | None = None) -> None:
        self._coder = _stream().stack.AnsCoder(np.trim_zeros(_words(data), "b"))  # no stack ends in a word of zeros
        self._fresh, self._added, self._least = fresh, 0, 0

    def push(self, intervals: Tensor) -> None:
        """Symbols by their intervals, int64 `(m, 2)` out of `TOTAL`, so that the first is popped first."""
        self._coder.encode_reverse(*_middles(intervals))

    def pop(self, cumulative: Tensor) -> Tensor:
        """Symbols that were pushed, int64 `(m,)`, from how much lies below each: int64 `(m, symbols + 1)`."""
        found = self._coder.decode(*_shares(F.pad(cumulative.diff(dim=1), (1, 1), value=1)))
        return torch.from_numpy(found).long().sub_(1).clamp_(0, cumulative.shape[1] - 2)

    def draw(self, cumulative: Tensor) -> Tensor:
        """Symbols that were not, int64 `(m,)`, from how much of `WHOLE` lies below each: int64 `(m, symbols + 1)`."""
        self._refill(-(-24 * len(cumulative) // 32) + 2)  # no symbol takes more than 24 bits
        found = self._coder.decode(*_shares(cumulative.diff(dim=1)))
        self._least = min(self._least, self._coder.pos()[0])
        return torch.from_numpy(found).long()

    def give_back(self, symbols: Tensor, cumulative: Tensor) -> None:
        """The same again: the stack is as it was before they were drawn."""
        self._coder.encode_reverse(symbols.numpy().astype(np.int32), *_shares(cumulative.diff(dim=1)))

    def push_alike(self, symbols: Tensor, bits: int) -> None:
        """Symbols of 2^bits that are all as likely, int64 `(m,)`."""
        self._coder.encode_reverse(symbols.numpy().astype(np.int32), _stream().model.Uniform(2**bits))

    def pop_alike(self, m: int, bits: int) -> Tensor:
        """`m` of them, int64."""
        return torch.from_numpy(self._coder.decode(_stream().model.Uniform(2**bits), m)).long()

    def to_bytes(self) -> bytes:
        """All but the words at the bottom that were never reached: a reader has no need of them."""
        return self._coder.get_compressed()[self._least :].astype(WORD).tobytes()

    @property
    def initial(self) -> int:
        return 8 * WORD.itemsize * (self._added - self._least)

    def _refill(self, words: int) -> None:
        """At least so many beneath the coder's own two."""
        if self._fresh is not None and self._coder.pos()[0] < words:
            whole = np.concatenate([self._fresh(words), self._coder.get_compressed()]).astype(np.uint32)
            self._coder, self._added, self._least = _stream().stack.AnsCoder(whole), self._added + words, self._least + words
