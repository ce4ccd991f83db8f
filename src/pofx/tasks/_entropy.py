"""Levels ↔ bytes, by the range coder of `constriction` and the integer counts of a model.

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

    def read(self, decoder: Decoder, cumulative: Callable[[Tensor], Tensor], m: int) -> Tensor:
        """The next m levels, int64; `cumulative` says how much lies below levels `(m or 1, k)`: `(m, k)`."""
        if not self.parted:
            return decoder.decode(cumulative(torch.arange(self.levels + 1).expand(m, -1)))
        edges = torch.arange(0, self.levels + COARSE, COARSE).clamp(max=self.levels)
        coarse = decoder.decode(cumulative(edges.expand(m, -1))) * COARSE
        steps = torch.arange(COARSE + 1)
        below = cumulative((coarse[:, None] + steps).clamp(max=self.levels))
        first = below[:, :1]
        fine = decoder.decode(_share(below - first, below[:, -1:] - first, steps))
        return (coarse + fine).clamp(max=self.levels - 1)


def _share(below: Tensor, total: Tensor, k: Tensor) -> Tensor:
    """Shares of `total` as shares of `TOTAL`, at least one for each of `COARSE`."""
    return torch.div(below * (TOTAL - COARSE), total, rounding_mode="floor") + k


def encode(intervals: Tensor) -> bytes:
    """The stream of sub-pixels in turn, from the interval of each: int64 `(m, 2)`, out of `TOTAL`.

    >>> len(encode(torch.tensor([[0, TOTAL // 2]] * 64)))  # a bit each, and the coder's last word
    12
    """
    start, stop = intervals.unbind(1)
    weights = torch.stack([start, stop - start - 1, TOTAL - stop], 1).to(torch.float32)
    coder = _stream().queue.RangeEncoder()
    coder.encode(np.ones(len(weights), dtype=np.int32), _stream().model.Categorical(perfect=False), weights.numpy())
    return coder.get_compressed().astype(WORD).tobytes()


class Decoder:
    """Reads what `encode` wrote.

    >>> counts = torch.tensor([[0, TOTAL // 4, TOTAL]])
    >>> Decoder(encode(counts[:, 1:])).decode(counts).tolist()
    [1]
    """

    def __init__(self, data: bytes) -> None:
        whole = len(data) - len(data) % WORD.itemsize
        self._coder = _stream().queue.RangeDecoder(np.frombuffer(data[:whole], dtype=WORD).astype(np.uint32))
        self._family = _stream().model.Categorical(perfect=False)

    def decode(self, cumulative: Tensor) -> Tensor:
        """The next levels, int64 `(m,)`, from how much lies below each: int64 `(m, levels + 1)`. Of a stream that was altered they are
        levels all the same, and a checksum says so.

        Raises:
            Damaged: no writer makes such a stream.
        """
        weights = F.pad(cumulative.diff(dim=1) - 1, (1, 1)).to(torch.float32)
        try:
            found = self._coder.decode(self._family, weights.numpy())
        except AssertionError as error:  # so `constriction` says it
            raise Damaged("a stream that was not written so") from error
        return torch.from_numpy(found).long().sub_(1).clamp_(0, cumulative.shape[1] - 2)
