"""Images made pixel by pixel: the order, and the one stepper that all convolutional and recurrent models share.

    raster       row by row, pixel by pixel, R, G, B within a pixel
    wavefront    where a pixel sees at most `reach` columns to its right in the row above (and no more in further rows, row for row):
                 all pixels with the same column + (reach + 1)·row are independent given those before, and are one group

A model says how its network runs at a `Place` (`StepNet`); `RasterSteps` turns that into `Steps`. Where the channels of a pixel are
independent given the network's numbers, each colour is a place of its own; a mixture head asks the network once a pixel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from pofx.likelihoods import Likelihood, PixelDistribution, normalised
from pofx.model import Autoregressive, Batch, Context, CountingSteps, Objective, OptimizerSpec, Predictive, all_threads
from pofx.nn import conditioning
from pofx.nn.tape import Scratch, Tape
from pofx.noise import Noise
from pofx.space import ImageSpace

MANY = 2048  # pixels drawn at once that are worth waking all threads for


@dataclass(frozen=True)
class Place:
    """P pixels, and the colour that is asked there. Of most orders P is 1.

    Attributes:
        pixels: `(row, column)` of each, sorted by row.
        colour: 0 … C−1.
    """

    pixels: tuple[tuple[int, int], ...]
    colour: int

    @property
    def row(self) -> int:
        return self.pixels[0][0]

    @property
    def column(self) -> int:
        return self.pixels[0][1]


def places(space: ImageSpace, reach: int | None = None) -> list[Place]:
    """The order of a model, as places: raster, or the wavefront of a `reach`.

    >>> [len(place.pixels) for place in places(ImageSpace(1, 3, 4), reach=1)]
    [1, 1, 2, 2, 2, 2, 1, 1]
    """
    c, height, width = space.shape
    every = [(i, j) for i in range(height) for j in range(width)]
    if reach is None:
        return [Place((pixel,), colour) for pixel in every for colour in range(c)]
    fronts: dict[int, list[tuple[int, int]]] = {}
    for i, j in every:
        fronts.setdefault(j + (reach + 1) * i, []).append((i, j))
    return [Place(tuple(fronts[t]), colour) for t in sorted(fronts) for colour in range(c)]


def groups(space: ImageSpace, where: Sequence[Place]) -> list[Tensor]:
    """Places as `Autoregressive.order` gives them: flat indices into (C, H, W)."""
    _, height, width = space.shape
    flat = torch.tensor([(p.colour * height + i) * width + j for p in where for i, j in p.pixels])
    return list(flat.split([len(p.pixels) for p in where]))


def raster(space: ImageSpace) -> list[Tensor]:
    """Row by row, pixel by pixel, colour by colour, one sub-pixel a group."""
    return groups(space, places(space))


def by_row(context: Tensor | None) -> bool:
    """Whether a context says something else in each row, so that no row's steps are those of another."""
    return context is not None and context.shape[2] > 1


class StepNet(ABC):
    """A causal network run at one place at a time, for n images. Tensors of a place are `(n · P, …)`, image by image."""

    write_alike: ClassVar[bool] = False  # whether `write` makes the same calls, too, at places of one key

    @abstractmethod
    def enter(self, place: Place) -> None:
        """Stand at a place: told once, before `parameters`. What is made once a row is made here."""

    @abstractmethod
    def parameters(self, place: Place) -> Tensor:
        """The head's parameters there: of the place's colour, `(n · P, size of one colour)`, or of a whole pixel (mixtures; colour is 0)."""

    def key(self, place: Place) -> Hashable:
        """Places of one key make the same calls in `parameters`, on tensors that stay where they are once one of them, or the first
        row, was made, so that a `Tape` may play them; None for a place that is like no other, or of several pixels. A hook."""
        return None

    @abstractmethod
    def write(self, place: Place, value: Tensor) -> None:
        """Take the values just fixed, `(n · P, 1)` as networks see them; `parameters` of this place, or of its pixel, were asked before."""

    @abstractmethod
    def fill(self, x: Tensor, rows: int) -> None:
        """Stand as if the first `rows` rows of `x` `(n, C, H, W)`, as networks see them, had been stepped through, by one full pass."""


class RasterSteps(CountingSteps):
    """`Steps` of any `StepNet`.

    Args:
        where: the order.
        whole: the network gives parameters of whole pixels, and the head conditions a colour on those before.
    """

    def __init__(self, net: StepNet, where: list[Place], head: Likelihood, n: int, *, whole: bool, like: Tensor) -> None:
        self.net, self.where, self.n, self.whole, self.like = net, where, n, whole, like
        self.space = head.space
        self.head = head if whole else Likelihood(head.name, ImageSpace(1, 1, 1, head.space.levels), components=head.components)
        self.position, self.filled = 0, 0
        self.key: Hashable = None  # of the current place
        self.asked: tuple[int, tuple[PixelDistribution, int, Tensor]] | None = None  # what `cumulative` read, and where
        self.read: Tensor | None = None  # parameters of the current place, or pixel
        self.earlier = torch.zeros(
            n, 0 if not whole else head.space.channels, dtype=torch.long, device=like.device
        )  # of the current pixels
        self.tapes: dict[Hashable, tuple[Tape, Tensor]] = {}
        self.scratch = Scratch()
        self.first_row: int | None = None
        self.seen: set[Hashable] = set()  # keys of the first row: first places are stepped plainly, and make what later ones write into
        self.kept: dict[tuple[int, ...], Tensor] = {}  # where tapes leave parameters, by shape
        self.u = torch.zeros(n, dtype=torch.double, device=like.device)
        self.values = torch.zeros(n, 1, dtype=torch.long, device=like.device)

    def _place(self) -> Place:
        """The current place without what is filled already."""
        place = self.where[self.position]
        if not self.filled or (place.pixels[-1][0] >= self.filled and place.pixels[0][0] >= self.filled):
            return place
        return Place(tuple(p for p in place.pixels if p[0] >= self.filled), place.colour)

    def _parameters(self, place: Place) -> Tensor:
        if self.read is None:
            with torch.no_grad():
                self.net.enter(place)
                key = self.key = self._key(place)
                if key is None:
                    self.read = self.net.parameters(place)
                    if tuple(self.read.shape) not in self.kept:
                        self.kept[tuple(self.read.shape)] = torch.empty_like(self.read)
                else:
                    self.read = self._played((key, "parameters"), lambda: self._keep(self.net.parameters(place)))
        return self.read

    def _key(self, place: Place) -> Hashable:
        self.first_row = place.row if self.first_row is None else self.first_row
        key = self.net.key(place)
        if place.row > self.first_row or key in self.seen:
            return key
        self.seen.add(key)
        return None

    def _played(self, key: Hashable, run: Callable[[], Tensor]) -> Tensor:
        """What `run` gives, from the tape of this key where there is one; it stays until the next call."""
        if key not in self.tapes:
            self.tapes[key] = Tape.record(run, self.scratch)
            return self.tapes[key][1]
        tape, out = self.tapes[key]
        tape.play()
        return out

    def _keep(self, parameters: Tensor) -> Tensor:
        """The same where draws look for it, whatever the place."""
        return self.kept[tuple(parameters.shape)].copy_(parameters)

    def _head(self, place: Place) -> tuple[PixelDistribution, int, Tensor]:
        """The distribution of the place, which channel of it is asked, and the values of those before: `(n · P, channel)`."""
        parameters = self._parameters(place)
        if not self.whole:
            return self.head(parameters), 0, parameters[:, :0]
        return self.head(parameters), place.colour, self.earlier[:, : place.colour]

    def _open(self) -> list[int]:
        """Which pixels of the current place are not filled."""
        return [k for k, p in enumerate(self.where[self.position].pixels) if p[0] >= self.filled]

    def distribution(self) -> Tensor:
        asked, place = self.where[self.position], self._place()
        distribution, channel, earlier = self._head(place)
        table = distribution.table(channel, earlier).reshape(self.n, len(place.pixels), self.space.levels)
        if len(place.pixels) == len(asked.pixels):
            return table
        out = table.new_full((self.n, len(asked.pixels), self.space.levels), -torch.inf)
        out[:, :, 0] = 0  # what is filled is not drawn
        out[:, self._open()] = table
        return out

    def cumulative(self, v: Tensor | None = None) -> Tensor:
        place = self._place()
        if self.asked is None or self.asked[0] != self.position:
            self.asked = self.position, self._head(place)  # a reader asks twice
        distribution, channel, earlier = self.asked[1]
        v = torch.arange(self.space.levels + 1, device=self.like.device)[None] if v is None else v.flatten(0, 1)
        return distribution.cumulative(channel, earlier, v).reshape(self.n, len(place.pixels), -1)

    def draw(self, u: Tensor) -> Tensor:
        asked, place = self.where[self.position], self._place()
        part = len(place.pixels) != len(asked.pixels)
        self._parameters(place)
        if self.key is not None:
            self.u.copy_(u[:, 0])
            return self._played((place.colour if self.whole else 0, "draw"), lambda: self._quantile(place)).clone()[:, None]
        distribution, channel, earlier = self._head(place)
        wanted = (u[:, self._open()] if part else u).reshape(-1)
        with all_threads() if len(wanted) >= MANY else nullcontext():
            drawn = distribution.quantile(channel, earlier, wanted).reshape(self.n, -1)
        if not part:
            return drawn
        out = drawn.new_zeros(u.shape)
        out[:, self._open()] = drawn
        return out

    def _quantile(self, place: Place) -> Tensor:
        distribution, channel, earlier = self._head(place)
        return distribution.quantile(channel, earlier, self.u)

    def fix(self, values: Tensor) -> None:
        asked, place = self.where[self.position], self._place()
        if place.pixels:
            if len(place.pixels) != len(asked.pixels):
                values = values[:, self._open()]
            self._parameters(place)  # also of a known sub-pixel: later ones read the features at its place
            if self.key is not None and self.net.write_alike:
                self.values.copy_(values)
                self._played((self.key, "write"), lambda: self._write(place, self.values))
            else:
                self._write(place, values.reshape(-1, 1))
            if self.whole:
                flat = values.reshape(-1)
                if len(flat) != len(self.earlier):
                    self.earlier = self.earlier.new_zeros(len(flat), self.space.channels)
                self.earlier[:, place.colour] = flat
            if not self.whole or place.colour == self.space.channels - 1:
                self.read = None
        self.position += 1

    def _write(self, place: Place, values: Tensor) -> Tensor:
        seen = normalised(values, self.space.levels, self.like.dtype)
        self.net.write(place, seen)
        return seen

    def fill(self, x: Tensor, rows: int) -> None:
        if rows == 0:
            return
        self.net.fill(normalised(x, self.space.levels, self.like.dtype), rows)
        self.filled = rows


class RasterModel(Autoregressive):
    """What these models share. A subclass sets the attributes, and gives its network as a full pass and as steps."""

    head: Likelihood
    context: conditioning.Context
    lr: float
    at_once: ClassVar[int | None] = 12288  # pixels scored together on a CPU, so that maps stay in its cache; None: all

    @abstractmethod
    def full(self, x: Tensor, context: Tensor | None, noise: Noise | None = None) -> Tensor:
        """The head's parameters of all positions, `(n, head.size, H, W)`, from images `x` `(n, C, H, W)` as networks see them, and
        the embedded view. `noise` is given in training only, and turns dropout on."""

    @abstractmethod
    def stepper(self, n: int, context: Tensor | None) -> StepNet:
        """The same network in steps."""

    @abstractmethod
    def places(self) -> list[Place]:
        """The order."""

    @final
    @property
    def whole(self) -> bool:
        """Whether the network gives parameters of whole pixels."""
        return self.head.name == "logistic-mixture"

    @final
    def seen(self, x: Tensor) -> Tensor:
        """Images as networks see them: integers → [−1, 1]."""
        return normalised(x, self.space.levels, self.dtype)

    @final
    def conditional_log_prob(self, x: Tensor, given: Tensor | None) -> Tensor:
        return torch.cat([self._pixels(*part).log_prob(part[0]) for part in self._parts(x, given)])

    @final
    def predictive(self, x: Tensor, given: Tensor | None) -> Predictive:
        found = []
        for part in self._parts(x, given):
            pixels = self._pixels(*part)
            found.append((pixels.log_prob(part[0]), *pixels.surprise(part[0])))
        return Predictive(*(torch.cat(each) for each in zip(*found, strict=True))).without(self.known(given))

    @final
    def intervals(self, x: Tensor, ends: Callable[[Tensor], Tensor]) -> Tensor:
        """As `Codable` has it."""
        found = []
        for part, _ in self._parts(x, None):
            pixels, out = self._pixels(part, None), []
            for c in range(self.space.channels):
                out.append(pixels.cumulative(c, part[:, :c].long(), ends(part[:, c].long())))
            found.append(torch.stack(out, 1))
        return torch.cat(found)

    @final
    def proof(self) -> None:
        """As `Codable` has it."""
        self.full(self.seen(torch.zeros(1, *self.space.shape, dtype=torch.uint8)), None)

    @final
    def _pixels(self, x: Tensor, given: Tensor | None) -> PixelDistribution:
        return self.head(self.full(self.seen(x), self.context(given)))

    @final
    def _parts(self, x: Tensor, given: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
        """Images and values of the view, as many as are scored together."""
        n = max(1, self.at_once // (self.space.height * self.space.width)) if self.at_once else x.shape[0]
        if torch.is_grad_enabled() or self.device.type != "cpu" or x.shape[0] <= n:
            return [(x, given)]
        values = [None] * len(x) if given is None else given.split(n)
        return list(zip(x.split(n), values, strict=False))

    @final
    def objectives(self) -> Sequence[Objective]:
        return [Objective("nll", self, self._loss, optimizer=OptimizerSpec("Muon", lr=self.lr, betas=(0.9, 0.99)))]

    @final
    def _loss(self, batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        parameters = self.full(self.seen(batch.x), self.context(batch.given), context.noise)
        return self.nll(self.head(parameters).log_prob(batch.x), batch.given)

    @final
    def order(self) -> list[Tensor]:
        return groups(self.space, self.places())

    @final
    def begin(self, n: int, given: Any = None) -> RasterSteps:
        net = self.stepper(n, self.context(self.check_given(given, n)))
        return RasterSteps(net, self.places(), self.head, n, whole=self.whole, like=next(self.parameters()))
