"""Integer arithmetic for networks: the same numbers on every machine, in any order, with any number of threads.

A float network is no codec: another instruction set sums in another order, and one unit in the last place turns all that is decoded after
it into garbage. Here every number is a whole multiple of a power of two. Weights are m·2^−a, what comes out of a function m·2^−b; a sum of
products is then exact in float64, in whatever order, as long as no sum needs more than 53 bits, which `Bounds` proves for a network before
it is used. Rounding happens in one kind of place only: where a number enters a function. There it is rounded to the nearest entry of a
stored table of integers, alike everywhere.

    values       whole numbers · 2^−unit, carried in float64
    + × conv     exact, so that what is mathematically equal is equal bit for bit: a full pass, and steps that sum otherwise
    tanh, elu    T[round(x · 2^k)]; σ(x) = (1 + tanh(x/2)) / 2 by the same table
    silu         round(clamp(x) · σ(x))
    relu         round(clamp(x)): without it each layer would make the grid finer

`nn/activations.py` is the one place where networks reach these functions: under `using(arithmetic)` they are taken from there.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

MANTISSA = 53  # bits of a float64; every integer below 2^53 is one
SPARE = 2  # bits that steps may need beyond a full pass: some of their weights are halved
FUNCTION_BITS = 10  # b: functions give multiples of 2^−b
IMAGE_BITS = 12  # of pixels on [−1, 1]
Pair = int | tuple[int, int]

TOTAL = 2**24 - 2  # what all levels of a sub-pixel share: an entropy coder's 2^24, less one at either end (`tasks/_entropy.py`)
LARGEST = 64.0  # where relu, elu and what is settled stop growing


class Arithmetic(ABC):
    """What takes the place of floating point under `using`."""

    @abstractmethod
    def function(self, name: str, x: Tensor) -> Tensor:
        """A function of one number, by name: "tanh", "elu", "relu", "power" (e^x), "round"."""

    @abstractmethod
    def sigmoid(self, x: Tensor) -> Tensor:
        """(1 + tanh(x/2)) / 2, by the table of tanh."""

    @abstractmethod
    def silu(self, x: Tensor) -> Tensor:
        """x σ(x), by the table of tanh."""

    @abstractmethod
    def bounded(self, x: Tensor, most: float) -> Tensor:
        """most · tanh(x / most), by the same table."""

    @abstractmethod
    def image(self, x: Tensor, levels: int) -> Tensor:
        """Integers 0 … levels−1 → [−1, 1]."""

    def conv2d(self, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair = 1, padding: Pair = 0, dilation: Pair = 1) -> Tensor:
        """As `torch.nn.functional.conv2d`."""
        return F.conv2d(x, weight, bias, stride, padding, dilation)


_ACTIVE: ContextVar[Arithmetic | None] = ContextVar("arithmetic", default=None)


def active() -> Arithmetic | None:
    """The arithmetic in use; None: floating point."""
    return _ACTIVE.get()


@contextmanager
def using(arithmetic: Arithmetic) -> Iterator[None]:
    """Compute networks in this arithmetic."""
    token = _ACTIVE.set(arithmetic)
    try:
        yield
    finally:
        _ACTIVE.reset(token)


def integers() -> Integers:
    """The tables in use; what asks has an integer form only under `using(Integers(…))`."""
    arithmetic = active()
    assert isinstance(arithmetic, Integers), "asked outside of using(Integers(…))"
    return arithmetic


# Tables ----------------------------------------------------------------------------------------------------------------


class Grid(NamedTuple):
    """Where a table is read and what it holds: f(k · 2^−index) from `least` to `most`, as multiples of 2^−out; beyond them, as at its ends.

    Attributes:
        stored: "right", x ≥ 0, where f(−x) = −f(x) ("odd") or 1 − f(x) ("distribution") for the rest, "left", x ≤ 0, where f(x) = x for the
            rest ("elu"), or "all".
    """

    index: int
    least: float
    most: float
    out: int
    kind: str
    function: Callable[[Tensor], Tensor]

    @property
    def ends(self) -> tuple[int, int]:
        """The first and the last k."""
        return round(self.least * 2**self.index), round(self.most * 2**self.index)


GRIDS = {
    "tanh": Grid(8, -8.0, 8.0, FUNCTION_BITS, "odd", torch.tanh),
    "elu": Grid(FUNCTION_BITS, -8.0, LARGEST, FUNCTION_BITS, "elu", torch.expm1),
    "exp": Grid(8, -20.0, 0.0, 24, "all", torch.exp),  # of softmax
    "logistic": Grid(9, -15.0, 15.0, 20, "distribution", torch.sigmoid),
    "normal": Grid(9, -6.0, 6.0, 20, "distribution", torch.special.ndtr),
    "power": Grid(6, -8.0, 8.0, 16, "all", torch.exp),  # scales
}


def make_tables() -> dict[str, Tensor]:
    """The integers of all tables, as they are stored with a model: int64; of `GRIDS` what the rest follows from."""
    found = {}
    for name, grid in GRIDS.items():
        first, last = grid.ends
        if grid.kind in ("odd", "distribution"):
            first = 0
        elif grid.kind == "elu":
            last = 0
        k = torch.arange(first, last + 1, dtype=torch.double)
        found[name] = (grid.function(k * 2.0**-grid.index) * 2**grid.out).round().long()
    return found


def _whole(name: str, stored: Tensor) -> Tensor:
    """A table of every k from what is stored of it."""
    grid, mirrored = GRIDS[name], stored.flip(0)[:-1]
    if grid.kind == "odd":
        return torch.cat([-mirrored, stored])
    if grid.kind == "distribution":
        return torch.cat([2**grid.out - mirrored, stored])
    if grid.kind == "elu":
        return torch.cat([stored, torch.arange(1, grid.ends[1] + 1) << (grid.out - grid.index)])
    return stored


class Integers(Arithmetic):
    """Numbers from tables.

    Args:
        tables: as `make_tables` made them once.

    >>> with using(Integers(make_tables())):
    ...     float(active().function("tanh", torch.tensor([0.5], dtype=torch.double)) * 2**FUNCTION_BITS)
    473.0
    """

    def __init__(self, tables: Mapping[str, Tensor], device: torch.device | str = "cpu") -> None:
        self.integers = {name: _whole(name, stored).to(device) for name, stored in tables.items()}
        self.values = {name: t.double() * 2.0 ** -GRIDS[name].out for name, t in self.integers.items()}
        self.halves = {name: torch.tensor(0.5 - grid.ends[0], dtype=torch.double, device=device) for name, grid in GRIDS.items()}

    def at(self, name: str, x: Tensor) -> Tensor:
        """Places in a table: of the nearest k, int32 with the shape of x. The product is exact, and the sum rounds once, in one pass or two."""
        first, last = GRIDS[name].ends
        place = torch.add(self.halves[name], x, alpha=2.0 ** GRIDS[name].index)
        return place.clamp_(0, last - first).to(torch.int32)

    def lookup(self, name: str, x: Tensor) -> Tensor:
        """The integer that a table holds for x: int64, of its shape."""
        return _take(self.integers[name], self.at(name, x))

    @final
    def function(self, name: str, x: Tensor) -> Tensor:
        if name == "round":
            return rounded(x.clamp(-LARGEST, LARGEST), FUNCTION_BITS)
        if name == "relu":
            return rounded(x.clamp(0, LARGEST), FUNCTION_BITS)
        return self._value(name, x)

    def sigmoid(self, x: Tensor) -> Tensor:
        return (self._value("tanh", 0.5 * x) + 1) * 0.5

    def silu(self, x: Tensor) -> Tensor:
        # A single product is rounded alike everywhere; a grid that functions share keeps sums of what follows exact.
        return rounded(x.clamp(-LARGEST, LARGEST).mul_(self.sigmoid(x)), FUNCTION_BITS)

    def bounded(self, x: Tensor, most: float) -> Tensor:
        return rounded(self._value("tanh", x / most).mul_(most), FUNCTION_BITS)

    def conv2d(self, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair = 1, padding: Pair = 0, dilation: Pair = 1) -> Tensor:
        # PyTorch's convolution in float64 is the slow one. A kernel's tap is a matrix product with all pixels shifted, margins included.
        taps = weight.shape[2] * weight.shape[3]
        if taps < 4 or weight.shape[1] < 16 or bias is None or not isinstance(dilation, int) or stride not in (1, (1, 1)):
            return F.conv2d(x, weight, bias, stride, padding, dilation)
        above, left = padding if isinstance(padding, tuple) else (padding, padding)
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, left, left, above, above))
        n, height, width, features = x.shape
        shifts = [dilation * (i * width + j) for i in range(weight.shape[2]) for j in range(weight.shape[3])]
        pixels, size = x.reshape(-1, features), n * height * width - shifts[-1]
        out = x.new_empty(n * height * width, weight.shape[0])
        sums = out[:size]
        for k, (shift, tap) in enumerate(zip(shifts, weight.permute(2, 3, 1, 0).flatten(0, 1), strict=True)):
            torch.addmm(sums if k else bias, pixels[shift : shift + size], tap, out=sums)
        inner = height - dilation * (weight.shape[2] - 1), width - dilation * (weight.shape[3] - 1)
        return out.view(n, height, width, -1)[:, : inner[0], : inner[1]].permute(0, 3, 1, 2)

    def _value(self, name: str, x: Tensor) -> Tensor:
        return _take(self.values[name], self.at(name, x))

    def image(self, x: Tensor, levels: int) -> Tensor:
        # No x · 2/(levels−1) lies so near the middle between two multiples that its own rounding could tell.
        return rounded(x.double() * (2 / (levels - 1)) - 1, IMAGE_BITS)


def _take(table: Tensor, at: Tensor) -> Tensor:
    """Entries of a table, looked up in the order in which their places lie in memory."""
    if at.ndim == 4 and at.is_contiguous(memory_format=torch.channels_last):
        at = at.permute(0, 2, 3, 1)
        return table.index_select(0, at.reshape(-1)).view(at.shape).permute(0, 3, 1, 2)
    return table.index_select(0, at.flatten()).view(at.shape)


def rounded(x: Tensor, bits: int) -> Tensor:
    """To the nearest multiple of 2^−bits, halves to even."""
    return (x * 2.0**bits).round_().mul_(2.0**-bits)


# The proof -------------------------------------------------------------------------------------------------------------


@dataclass
class Worst:
    """The sum of a network that needs most bits."""

    bits: float = 0.0
    where: str = ""


class Bounds(Arithmetic, TorchFunctionMode):
    """Follows, through a pass of absolute weights, how large each number can be and how fine its grid: no sum may need more than 53 bits.

    With |w| for w and the largest |x| for x, what a network of sums and products gives is a bound on all its partial sums, whatever the
    order. Products add the units of what they multiply, sums take the finer one. A function outside of the closed set is an error.
    `mark` says what it starts from.
    """

    PRODUCTS = frozenset(("conv2d", "conv_transpose2d", "mul", "mul_", "addmm", "linear", "matmul", "__mul__", "__rmul__"))
    # fmt: off
    SUMS = frozenset((
        "add", "add_", "__add__", "__radd__", "__iadd__", "sum", "cat", "stack", "pad", "__getitem__", "reshape", "flatten", "view",
        "permute", "transpose", "t", "chunk", "split", "unbind", "contiguous", "expand", "ones_like", "unflatten", "squeeze", "unsqueeze",
        "narrow", "select", "movedim", "clone", "detach", "to", "interpolate", "amax", "index_select", "index_fill_",
    ))
    # fmt: on

    def __init__(self) -> None:
        super().__init__()
        self.worst = Worst()
        self.units: dict[int, int] = {}
        self.kept: list[Any] = []  # so that no id is given twice

    def mark(self, x: Tensor, unit: int) -> Tensor:
        """`x` is made of multiples of 2^−unit."""
        self.units[id(x)] = unit
        self.kept.append(x)
        return x

    def function(self, name: str, x: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            limit = {
                "tanh": x.new_ones(()),
                "round": x.clamp(max=LARGEST),
                "power": x.clamp(max=GRIDS["power"].most).exp(),
            }.get(name, x.new_full((), LARGEST))
            return self.mark(limit.expand_as(x).clone(), GRIDS["power"].out if name == "power" else FUNCTION_BITS)

    def sigmoid(self, x: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            return self.mark(torch.ones_like(x), FUNCTION_BITS + 1)

    def silu(self, x: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            return self.mark(x.clamp(max=LARGEST), FUNCTION_BITS)

    def bounded(self, x: Tensor, most: float) -> Tensor:
        with torch._C.DisableTorchFunction():
            return self.mark(x.clamp(max=most), FUNCTION_BITS)

    def image(self, x: Tensor, levels: int) -> Tensor:
        with torch._C.DisableTorchFunction():
            return self.mark(torch.ones(x.shape, dtype=torch.double), IMAGE_BITS)

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if name in ("neg", "__neg__"):  # as large, and as fine
            return args[0]
        out = func(*args, **kwargs)
        tensors = [t for value in (*args, *kwargs.values()) for t in (value if isinstance(value, list | tuple) else (value,))]
        known = [self._unit(t) for t in tensors if isinstance(t, Tensor) and t.is_floating_point()]
        made = [t for t in (out if isinstance(out, list | tuple) else (out,)) if isinstance(t, Tensor) and t.is_floating_point()]
        if not made or not known:
            return out
        if name in self.PRODUCTS:
            self._numbers(name, args)
            unit = sum(known[:2])
        elif name in self.SUMS and kwargs.get("mode", "nearest") in ("nearest", "constant"):  # of interpolate, of pad
            self._numbers(name, (*args, *kwargs.values()))
            unit = max(known)
        else:
            raise NotImplementedError(f"{name} is not in the closed set of operations that has an integer form (integers.py).")
        for t in made:
            self.mark(t, unit)
            if t.numel() and name in (*self.PRODUCTS, "add", "add_", "__add__", "sum"):
                bits = math.log2(max(float(t.abs().max()), 1e-30)) + unit
                if bits > self.worst.bits:
                    self.worst = Worst(bits, f"{name} {tuple(t.shape)}")
        return out

    def _unit(self, t: Tensor) -> int:
        return self.units.get(id(t), 0)

    def _numbers(self, name: str, args: tuple[Any, ...]) -> None:
        """A number that stands in the code itself is a whole one, or it would be on no grid."""
        for value in args:
            if isinstance(value, float) and not value.is_integer():
                raise NotImplementedError(f"{name} with {value} is not in the closed set of operations that has an integer form.")
