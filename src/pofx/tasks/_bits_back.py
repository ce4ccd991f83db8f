"""Bits-back coding with ANS, chained inside a block (Townsend, Bird and Barber 2019; Townsend et al. 2020, HiLLoC).

To send x, a code z is drawn from q(z|x) by popping it from a stack of bits that are there already; then x is pushed given z, and z under the
prior. Who reads pops z, pops x given z, and pushes z under q(z|x): so the bits that chose it are back, and belong to the image before.

    cost of x = −log2 p(x|z) − log2 p(z) + log2 q(z|x), on average −L(x)                                          Townsend et al. 2019, eq. 3

The first image has no bits before it: the stack starts with some that mean nothing, which are counted.

    buckets     z of a dimension lies in one of 2^BITS intervals of equal mass under N(0, 1), and is the middle of its own
    prior       so all are alike
    posterior   the mass of a bucket under N(μ, σ²), by the table of Φ and integers; bucket numbers are coded digit by digit, the first ones
                first, each by shares of the mass that the digits before it left: DIGITS tables of BASE symbols and not one of 2^BITS
    edges       where the table of Φ, read between its entries, reaches k / 2^BITS

Images go in groups, so that networks run in batches. All z of a group are popped before anything is pushed: groups grow with what is there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx.integers import GRIDS, Integers, integers, rounded
from pofx.model import BitsBack, Gaussian
from pofx.noise import Noise
from pofx.tasks._entropy import COARSE, WHOLE, Alphabet, Stack, bits

DIGITS, DIGIT_BITS = 6, 2
BITS = DIGITS * DIGIT_BITS  # of a bucket's number
BASE = 2**DIGIT_BITS
FIRST = 2  # digits of the first image
EDGE_BITS = 16  # edges, middles and means of q are multiples of 2^−EDGE_BITS
BEYOND = 2.0**20  # the outer edges: Φ has ended there, whatever μ and σ
FINE_BITS = 18  # of masses, below those of the table
MOST = 64  # images of a group
AT_ONCE = 2**22  # and numbers: shares of the pixels of a channel, or of a digit of the code


@dataclass(frozen=True)
class Chain:
    """A stream, the bits that its images have, and those that it starts with."""

    stream: bytes
    bits: float
    initial: int


@dataclass(frozen=True)
class Group:
    """Images that are coded together, and the digits of the numbers of their buckets."""

    size: int
    digits: int

    @property
    def bits(self) -> int:
        return self.digits * DIGIT_BITS


def groups(n: int, pixels: int, latents: int) -> list[Group]:
    """Of n images of `pixels` = H·W and `latents` numbers of a code: an eighth of those before, at least one. The first ones have coarser
    buckets: their codes are drawn by bits that mean nothing.

    >>> [(group.size, group.digits) for group in groups(20, 784, 50)]
    [(1, 2), (1, 3), (1, 4), (1, 5), (1, 6), (1, 6), (1, 6), (1, 6), (1, 6), (1, 6), (1, 6), (1, 6), (1, 6), (1, 6), (1, 6), (1, 6), (2, 6), (2, 6)]
    """
    most = max(1, min(MOST, AT_ONCE // max(COARSE * pixels, BASE * latents)))
    found, done = [], 0
    while done < n:
        found.append(Group(min(max(1, done // 8), most, n - done), min(FIRST + done, DIGITS)))
        done += found[-1].size
    return found


class Buckets:
    """N(0, 1) in buckets, by the tables in use."""

    def __init__(self, tables: Integers) -> None:
        self._table = tables.values["normal"] * 2.0 ** GRIDS["normal"].out
        inner, end = self._inverse(torch.arange(1, 2 ** (BITS + 1))), torch.tensor([BEYOND])
        self._points = torch.cat([-end, inner, end])  # edges and middles of the finest buckets in turn

    def middles(self, k: Tensor, group: Group) -> Tensor:
        """z of the numbers of buckets."""
        return self._points[(2 * k + 1) << (BITS - group.bits)]

    def _inverse(self, k: Tensor) -> Tensor:
        """Where Φ reaches k / 2^(BITS + 1)."""
        grid = GRIDS["normal"]
        table, level = self._table.long(), k << (grid.out - BITS - 1)
        above = torch.searchsorted(table, level)
        low, high = table[above - 1], table[above]
        between = torch.div((level - low) << (EDGE_BITS - grid.index), high - low, rounding_mode="floor")
        return (((above - 1 + grid.ends[0]) << (EDGE_BITS - grid.index)) + between).double() * 2.0**-EDGE_BITS

    def _below(self, q: Posterior, k: Tensor) -> Tensor:
        """Mass below edges of the finest buckets, int64 `(n, d, m)` each, out of 2^(out + FINE_BITS)."""
        grid = GRIDS["normal"]
        at = (self._points[2 * k] - q.mean[..., None]) * q.inverse[..., None] * 2.0**grid.index - grid.ends[0]
        at = at.clamp_(0, grid.ends[1] - grid.ends[0])
        entry = at.long().clamp_(max=len(self._table) - 2)
        low = self._table[entry]
        # 20 bits of the table and 23 of the place between its entries: exact.
        return ((low + (at - entry) * (self._table[entry + 1] - low)) * 2.0**FINE_BITS).long()

    def digit(self, q: Posterior, before: Tensor, place: int) -> Tensor:
        """How much lies below each value of a digit, given those before it as a number `(n, d)`: int64 `(m, BASE + 1)` out of `WHOLE`."""
        v = torch.arange(BASE + 1)
        below = self._below(q, (before[..., None] * BASE + v) << (BITS - (place + 1) * DIGIT_BITS))
        below = below - below[..., :1] + v  # one more for each: there always is some mass
        return (torch.div(below * (WHOLE - BASE), below[..., -1:], rounding_mode="floor") + v).flatten(0, 1)


class Posterior:
    """q(z | x) of a layer as integers: μ and 1/σ, `(n, d)`."""

    def __init__(self, q: Gaussian) -> None:
        tables = integers()
        self.mean = rounded(q.mean.clamp(-8, 8), EDGE_BITS)
        self.inverse = tables.function("power", -0.5 * q.log_variance)


def _draw(stack: Stack, buckets: Buckets, q: Posterior, digits: int) -> tuple[Tensor, float]:
    """Numbers of buckets, int64 `(n, d)`, and the bits that they took."""
    k, taken = torch.zeros(q.mean.shape, dtype=torch.long), 0.0
    for place in range(digits):
        counts = buckets.digit(q, k, place)
        digit = stack.draw(counts)
        taken += bits(counts.gather(1, digit[:, None] + torch.arange(2)))
        k = k * BASE + digit.reshape(k.shape)
    return k, taken


def _give_back(stack: Stack, buckets: Buckets, q: Posterior, digits: int, k: Tensor) -> None:
    """The same again."""
    for place in reversed(range(digits)):
        number = k // BASE ** (digits - 1 - place)
        stack.give_back((number % BASE).flatten(), buckets.digit(q, number // BASE, place))


def encode_chain(model: BitsBack, x: Tensor) -> Chain:
    """The stream of images uint8 `(n, C, H, W)`. Asked under `Integers`."""
    stack, buckets, plan = Stack(fresh=_fresh), Buckets(integers()), _groups(model, len(x))
    parts = x.split([group.size for group in plan])
    cost = sum(_encode_group(stack, buckets, model, group, part) for group, part in zip(plan, parts, strict=True))
    return Chain(stack.to_bytes(), cost, stack.initial)


def decode_chain(model: BitsBack, stream: bytes, n: int) -> Tensor:
    """The n images of a stream, uint8 `(n, C, H, W)`. Asked under `Integers`."""
    stack, buckets = Stack(stream), Buckets(integers())
    return torch.cat([_decode_group(stack, buckets, model, group) for group in reversed(_groups(model, n))][::-1])


def _groups(model: BitsBack, n: int) -> list[Group]:
    return groups(n, model.space.height * model.space.width, model.latent_dims)


def _encode_group(stack: Stack, buckets: Buckets, model: BitsBack, group: Group, x: Tensor) -> float:
    """The bits that it cost."""
    numbers: list[Tensor] = []
    taken = 0.0

    def draw(q: Gaussian) -> Tensor:
        nonlocal taken
        k, cost = _draw(stack, buckets, Posterior(q), group.digits)
        taken += cost
        numbers.append(k)
        return buckets.middles(k, group)

    pixels, values, alphabet = model.decode(model.infer_by(x, draw)), x.long(), Alphabet(model.space.levels)
    told = []
    for c in range(x.shape[1]):
        below = pixels.cumulative(c, values[:, :c], alphabet.ends(values[:, c]))
        told.append(alphabet.intervals(below.flatten(0, 2), values[:, c].flatten()))
    intervals, z = torch.cat(told), torch.cat(numbers, 1).flatten()
    stack.push(intervals)
    stack.push_alike(z, group.bits)
    return bits(intervals) + group.bits * len(z) - taken


def _decode_group(stack: Stack, buckets: Buckets, model: BitsBack, group: Group) -> Tensor:
    """The other way round, from the last to the first."""
    space, shape = model.space, (group.size, model.space.height, model.space.width)
    k = stack.pop_alike(group.size * model.latent_dims, group.bits).reshape(group.size, -1)
    pixels = model.decode(buckets.middles(k, group))
    x, alphabet = torch.zeros(group.size, *space.shape, dtype=torch.long), Alphabet(space.levels)
    for c in range(space.channels):

        def cumulative(v: Tensor, c: int = c, earlier: Tensor = x[:, :c]) -> Tensor:
            return pixels.cumulative(c, earlier, v.reshape(*shape, -1)).flatten(0, 2)

        x[:, c] = alphabet.read(stack.pop, cumulative, math.prod(shape)).reshape(shape)
    layers: list[tuple[Posterior, Tensor]] = []

    def draw(q: Gaussian) -> Tensor:
        at = sum(part.shape[1] for _, part in layers)
        layers.append((Posterior(q), k[:, at : at + q.mean.shape[1]]))
        return buckets.middles(layers[-1][1], group)

    model.infer_by(x.to(torch.uint8), draw)
    for q, part in reversed(layers):
        _give_back(stack, buckets, q, group.digits, part)
    return x.to(torch.uint8)


def _fresh(words: int) -> Any:
    """Words that mean nothing, none of them zero."""
    found = Noise(0, torch.zeros(1, dtype=torch.long)).bits("initial", words)[0].numpy() & 0xFFFFFFFF
    return np.maximum(found, 1)
