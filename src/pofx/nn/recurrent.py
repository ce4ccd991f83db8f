"""Scans of convolutional LSTMs over images: the Row LSTM and the Diagonal BiLSTM (van den Oord et al. 2016, §3.1–3.2, eq. 3).

    [o, i, f, g] = [σ, σ, σ, tanh](K_ss ∗ h_{t−1} + K_is ∗ x_t)
    c_t = f ⊙ c_{t−1} + i ⊙ g
    h_t = o ⊙ tanh(c_t)

A step t is a row (Row LSTM, H steps) or a diagonal i + j = t (Diagonal BiLSTM, H+W−1 steps: the columns of the skewed map). What differs
is only *where* a step reads and writes; a `Plan` says so, and one scan runs them all. Skewing is a gather: only the pixels of a diagonal
are stored and computed, none of the padding of a skewed map, and both directions of the BiLSTM run in one scan.

How it is fast. Features come first and images last, so that a gate is a block of memory. A step gathers its operand
[x; 1; h_{t−1} by tap] once and makes one matrix product of it, bias included. σ(a) = ½ + ½ tanh(a/2), with the half in the weights:
one tanh for all gates. The backward pass is written out: it keeps the gates, h and c, makes the operand again while it is in cache, and
needs one product for all gradients by the operand, and one that adds to the weights'.

In float64 each image is a matrix of its own: its numbers do not depend on the batch. In integers (`integers.py`) sums are exact in any order;
states are settled, c after each step and o ⊙ tanh(c), and so is what a scan reads: one step proves them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pofx.integers import LARGEST, Bounds, active
from pofx.nn.activations import settled, settled_, sigmoid, tanh, tanh_

GATES, FORGET = 4, 2  # o, i, f, g: those with σ together


CHUNK = 4096  # images scored at once in float64: bounds the memory of the scan


@dataclass(frozen=True)
class Step:
    """One step of a scan, in positions: where `width` consecutive cells start.

    Attributes:
        inputs: of the padded input, one start per tap of K_is.
        states: of the padded states of the step before, one start per tap of K_ss.
        cell: of the padded c of the step before.
        write: of the padded states, what this step makes.
    """

    width: int
    inputs: tuple[int, ...]
    states: tuple[int, ...]
    cell: int
    write: int


class Take:
    """`x[:, :, index]`, zero where the index is −1, and its transpose: no place is taken twice.

    >>> take = Take(torch.tensor([2, -1, 0]), size=3, device=torch.device("cpu"))
    >>> take(torch.tensor([[[[5], [6], [7]]]])).flatten().tolist(), take.back(torch.tensor([[[[1], [2], [3]]]])).flatten().tolist()
    ([7, 0, 5], [3, 0, 1])
    """

    def __init__(self, index: Tensor, size: int, device: torch.device) -> None:
        self.shape = len(index), size
        inverse = torch.full((size + 1,), -1)
        inverse[index] = torch.arange(len(index))  # −1 goes to a place beyond the last
        self.index, self.inverse = (
            (i.clamp(min=0).to(device), (i < 0).nonzero()[:, 0].to(device) if bool((i < 0).any()) else None) for i in (index, inverse[:-1])
        )
        self.same = len(index) == size and bool((index == torch.arange(size)).all())

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        return self._take(x, *self.index, out)

    def back(self, grad: Tensor, out: Tensor | None = None) -> Tensor:
        return self._take(grad, *self.inverse, out)

    def _take(self, x: Tensor, index: Tensor, nowhere: Tensor | None, out: Tensor | None) -> Tensor:
        if self.same:
            return x.clone() if out is None else out.copy_(x)
        out = torch.index_select(x, 2, index) if out is None else torch.index_select(x, 2, index, out=out)
        return out if nowhere is None else out.index_fill_(2, nowhere, 0)


@dataclass(frozen=True, eq=False)
class Plan:
    """A scan over an image of P = H·W pixels, in one direction or two.

    Attributes:
        order: the pixels in the order of the first direction's steps, from raster order: so is the map kept.
        gather: for each direction the padded input from the pixels.
        read: for each direction what each pixel is told, from the padded states.
        border: int64, places of the learned initial state.
        zero: int64, places that stay zero.
        last: int64, places whose c no step reads.
        size: of the padded states.
    """

    steps: tuple[Step, ...]
    order: Take
    gather: list[Take]
    read: list[Take]
    border: Tensor
    zero: Tensor
    last: Tensor
    size: int


@lru_cache(maxsize=64)
def row_plan(height: int, width: int, device: torch.device) -> Plan:
    """Row LSTM: from (i, j−1) and (i, j) of the input, and (i−1, j−1), (i−1, j), (i−1, j+1) of the states.

    >>> len(row_plan(5, 7, torch.device("cpu")).steps)
    5
    """
    padded = width + 2  # a zero on either side; the first row is the initial state
    steps = tuple(
        Step(width, (i * (width + 1), i * (width + 1) + 1), tuple(i * padded + k for k in range(3)), i * padded + 1, (i + 1) * padded + 1)
        for i in range(height)
    )
    pixels = torch.arange(height * width).reshape(height, width)
    places = torch.arange((height + 1) * padded).reshape(height + 1, padded)
    gather = torch.cat([torch.full((height, 1), -1), pixels], 1)
    return _plan(steps, pixels, [gather], [places[1:, 1:-1]], places[0, 1:-1], places[-1, 1:-1], places.numel(), device)


@lru_cache(maxsize=64)
def diagonal_plan(height: int, width: int, device: torch.device) -> Plan:
    """Diagonal BiLSTM: from (i, j) of the input, and (i−1, j) and (i, j−1) of the states: rows i−1 and i of the diagonal before.

    The second direction is the same on the image flipped left to right, and pixel (i, j) is told its state of row i−1.

    >>> len(diagonal_plan(5, 7, torch.device("cpu")).steps)  # H + W − 1
    11
    """
    last = height + width - 2
    rows = [(max(0, t - width + 1), min(height - 1, t)) for t in range(last + 1)]
    # Stored of diagonal t: its pixels, and what diagonal t+1 reads beyond them: row −1 (zero), and column −1 (the initial state).
    place: dict[tuple[int, int], int] = {}  # (row, diagonal)
    for t in range(-1, last + 1):
        low, high = rows[t] if t >= 0 else (0, -1)
        if t < last:
            low, high = min(low, rows[t + 1][0] - 1), max(high, rows[t + 1][1])
        for i in range(low, high + 1):
            place[i, t] = len(place)
    steps, start = [], 0
    for t, (low, high) in enumerate(rows):
        left = place[low, t - 1]
        steps.append(Step(high - low + 1, (start,), (place[low - 1, t - 1], left), left, place[low, t]))
        start += high - low + 1
    i, j = torch.tensor([[i, t - i] for t, (low, high) in enumerate(rows) for i in range(low, high + 1)]).t()
    order = i * width + j
    packed = torch.empty_like(order)
    packed[order] = torch.arange(len(order))
    states = torch.tensor([[place[i, i + j] for j in range(width)] for i in range(height)])
    shifted = torch.cat([torch.full((1, width), -1), states[:-1]]).flip(1)  # down one row, zeros on top
    border = torch.tensor([place[i, i - 1] for i in range(height)])
    read = [part.flatten()[order] for part in (states, shifted)]
    return _plan(
        tuple(steps), order, [torch.arange(len(order)), packed[order + width - 1 - 2 * j]], read, border, states[:, -1], len(place), device
    )


def _plan(
    steps: tuple[Step, ...],
    order: Tensor,
    gather: list[Tensor],
    read: list[Tensor],
    border: Tensor,
    last: Tensor,
    size: int,
    device: torch.device,
) -> Plan:
    with torch.inference_mode(False):
        pixels = order.numel()
        other = torch.ones(size, dtype=torch.bool)
        other[read[0].flatten()] = other[border] = False
        return Plan(
            steps,
            Take(order.flatten(), pixels, device),
            [Take(index.flatten(), pixels, device) for index in gather],
            [Take(index.flatten(), size, device) for index in read],
            border.clone().to(device),
            other.nonzero()[:, 0].to(device),
            last.clone().to(device),
            size,
        )


class _Order(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, take: Take, back: bool) -> Tensor:
        ctx.take, ctx.back = take, back
        return take.back(x) if back else take(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.take(grads[0]) if ctx.back else ctx.take.back(grads[0]), None, None


def alone(x: Tensor) -> bool:
    """Whether each image of `(n, …)` is computed by itself: in float64, but for integers."""
    return x.dtype == torch.float64 and active() is None


def _ordered(x: Tensor, take: Take, back: bool) -> Tensor:
    if torch.is_grad_enabled():
        return _Order.apply(x, take, back)
    return take.back(x) if back else take(x)


def columns(x: Tensor, plan: Plan) -> Tensor:
    """A map `(n, F, H, W)` as scans take it: `(1, F, P, n)` in the plan's order; in float64 `(n, F, P, 1)`, each image by itself.

    A map `(n, F, 1, 1)` becomes `(1, F, 1, n)`, or `(n, F, 1, 1)`.
    """
    x = x.flatten(2)
    x = x[..., None] if alone(x) else x.permute(1, 2, 0)[None].contiguous()
    return x if x.shape[2] == 1 or plan.order.same else _ordered(x, plan.order, False)


def image(x: Tensor, plan: Plan, height: int, width: int) -> Tensor:
    """The map `(n, F, H, W)` of columns."""
    x = x if plan.order.same else _ordered(x, plan.order, True)
    x = x[..., 0] if alone(x) else x[0].permute(2, 0, 1)
    return x.reshape(*x.shape[:2], height, width)


def scan(x: Tensor, weight: Tensor, h0: Tensor, c0: Tensor, plan: Plan, states: list[tuple[Tensor, Tensor]] | None = None) -> Tensor:
    """Run a convolutional LSTM over columns.

    Args:
        x: `(B, F, P, n)`, of `columns`.
        weight: `(D, 4h, K)`, gates o, i, f, g; K = taps of K_is × F, then 1 for the bias, then taps of K_ss × h.
        h0, c0: `(D, h)`, the initial states.
        plan: where steps read and write.
        states: where given, the padded h and c, `(D·B, h, size, n)`, are appended, without gradients.

    Returns:
        What each pixel is told, summed over directions: `(B, h, P, n)`.
    """
    if torch.compiler.is_exporting():
        raise RuntimeError("a scan works in memory of its own, which has no place in a graph")
    h0, c0 = settled(h0), settled(c0)
    if isinstance(active(), Bounds):
        return _bounded(x, weight, h0, plan)
    if len(x) > CHUNK and states is None and not torch.is_grad_enabled():
        return torch.cat([scan(part, weight, h0, c0, plan) for part in x.split(CHUNK)])
    told, *state = _Scan.apply(x, weight, h0, c0, plan, torch.is_grad_enabled())
    if states is not None:
        states.append((state[0], state[1]))
    return told


def _bounded(x: Tensor, weight: Tensor, h0: Tensor, plan: Plan) -> Tensor:
    """What `integers.Bounds` follows: one step stands for all, of the largest x of any pixel, since no state is larger than 1 or the initial one."""
    directions, step = len(weight), plan.steps[0]
    most, h = x.amax((0, 2, 3)).expand(directions, -1), tanh(h0) + h0
    operand = torch.cat([most] * len(step.inputs) + [torch.ones_like(most[:, :1])] + [h] * len(step.states), 1)
    o, i, f, g = torch.matmul(weight, operand[..., None]).chunk(GATES, 1)
    c = settled(LARGEST * sigmoid(f) + sigmoid(i) * tanh(g))
    told = settled(sigmoid(o) * tanh(c)).sum(0)
    return told[None, :, :, None].expand(len(x), -1, *x.shape[2:])


class _Work:
    """The operand of a step, in one buffer for all of them."""

    def __init__(self, u: Tensor, h: Tensor, plan: Plan, rows: int, n: int) -> None:
        self.u, self.h, self.n, self.rows = u, h, n, rows
        widest = max(step.width for step in plan.steps) * n
        self.ones = u.new_ones(u.shape[0], 1, widest)
        self.buffer = u.new_empty(u.shape[0] * rows * widest)

    def operand(self, step: Step) -> Tensor:
        n, m = self.n, self.n * step.width
        out = self.buffer[: len(self.u) * self.rows * m].view(len(self.u), self.rows, m)
        parts = [self.u.narrow(2, a * n, m) for a in step.inputs]
        parts.append(self.ones.narrow(2, 0, m))
        parts += [self.h.narrow(2, a * n, m) for a in step.states]
        return torch.cat(parts, 1, out=out)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, h0: Tensor, c0: Tensor, plan: Plan, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
        (batch, features, _, n), (directions, gates, rows) = x.shape, weight.shape
        width, many = gates // GATES, directions * batch
        u = x.new_empty(many, features, plan.gather[0].shape[0], n)
        for take, part in zip(plan.gather, u.chunk(directions), strict=True):
            take(x, part)
        h, c = x.new_empty(2, many, width, plan.size, n).unbind(0)
        for state, initial in ((h, h0), (c, c0)):
            state.unflatten(0, (directions, batch))[:, :, :, plan.border] = initial[:, None, :, None, None]
        h.index_fill_(2, plan.zero, 0)
        u, h, c = u.flatten(2), h.flatten(2), c.flatten(2)
        halved = weight.clone()
        halved[:, : 3 * width] *= 0.5
        half = x.new_tensor(0.5)
        work = _Work(u, h, plan, rows, n)
        slabs = _slabs(u, plan, gates, n, keep)
        spare = u.new_empty(many * width * max(step.width for step in plan.steps) * n)
        for step, slab in zip(plan.steps, slabs, strict=True):
            m, before, now = step.width * n, step.cell * n, step.write * n
            _product(halved, work.operand(step), slab)
            tanh_(slab)
            sigmoids = slab.narrow(1, 0, 3 * width)
            torch.add(half, sigmoids, alpha=0.5, out=sigmoids)
            o, i, f, g = slab.split(width, 1)
            cell = c.narrow(2, now, m)
            torch.mul(f, c.narrow(2, before, m), out=cell)
            settled_(cell.addcmul_(i, g))
            squashed = tanh(cell, spare[: o.numel()].view(o.shape))
            settled_(torch.mul(o, squashed, out=h.narrow(2, now, m)))
        h, c = h.view(many, width, -1, n), c.view(many, width, -1, n)
        if keep:
            ctx.save_for_backward(weight, u, h, c, *slabs)
            ctx.plan, ctx.shape = plan, x.shape
        out = _sum([take(part) for take, part in zip(plan.read, h.chunk(directions), strict=True)])
        ctx.mark_non_differentiable(h, c)
        return out, h, c

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, u, h, c, *slabs = ctx.saved_tensors
        plan, (batch, features, _, n) = ctx.plan, ctx.shape
        directions, gates, rows = weight.shape
        width, many = gates // GATES, directions * batch
        h, c = h.flatten(2), c.flatten(2)
        dh, dc, du = torch.empty_like(h), torch.empty_like(c), torch.empty_like(u)
        for take, part in zip(plan.read, dh.unflatten(2, (-1, n)).chunk(directions), strict=True):
            take.back(grads[0], part)
        dc.unflatten(2, (-1, n)).index_fill_(2, plan.last, 0)
        transposed = weight.transpose(1, 2)
        dw = weight.new_zeros(many, gates, rows)
        work = _Work(u, h, plan, rows, n)
        widest = max(step.width for step in plan.steps) * n
        spare, spare_gates, spare_rows = (u.new_empty(many * size * widest) for size in (width, gates, rows))
        for step, slab in zip(reversed(plan.steps), reversed(slabs), strict=True):
            m, before, now = step.width * n, step.cell * n, step.write * n
            o, i, f, g = slab.split(width, 1)
            dz = spare_gates[: slab.numel()].view(slab.shape)
            do, di, df, dg = dz.split(width, 1)
            dh_t, dc_t = dh.narrow(2, now, m), dc.narrow(2, now, m)
            squashed = torch.tanh(c.narrow(2, now, m), out=spare[: o.numel()].view(o.shape))
            torch.mul(dh_t, squashed, out=do)
            dc_t.addcmul_(dh_t, torch.ops.aten.tanh_backward.grad_input(o, squashed, grad_input=squashed))
            torch.mul(dc_t, g, out=di)
            torch.mul(dc_t, c.narrow(2, before, m), out=df)
            torch.mul(dc_t, i, out=dg)
            torch.mul(dc_t, f, out=dc.narrow(2, before, m))
            sigmoids = dz.narrow(1, 0, 3 * width)
            torch.ops.aten.sigmoid_backward.grad_input(sigmoids, slab.narrow(1, 0, 3 * width), grad_input=sigmoids)
            torch.ops.aten.tanh_backward.grad_input(dg, g, grad_input=dg)
            dw.baddbmm_(dz, work.operand(step).transpose(1, 2))
            back = _product(transposed, dz, spare_rows[: many * rows * m].view(many, rows, m))
            parts = back.split([features] * len(step.inputs) + [1] + [width] * len(step.states), 1)
            for start, part in zip(step.states, parts[len(step.inputs) + 1 :], strict=True):
                dh.narrow(2, start * n, m).add_(part)
            du.narrow(2, step.inputs[-1] * n, m).copy_(parts[len(step.inputs) - 1])  # the last tap is on the pixel itself
            for start, part in zip(step.inputs[:-1], parts[: len(step.inputs) - 1], strict=True):
                du.narrow(2, start * n, m).add_(part)
        du = du.view(many, features, -1, n)
        dx = _sum([take.back(part) for take, part in zip(plan.gather, du.chunk(directions), strict=True)])
        initial = [s.view(directions, batch, width, -1, n)[:, :, :, plan.border].sum((1, 3, 4)) for s in (dh, dc)]
        return dx, dw.view(directions, batch, gates, rows).sum(1), *initial, None, None


def _product(weight: Tensor, x: Tensor, out: Tensor) -> Tensor:
    """`out` = weight @ x: `(D, a, b)`, `(D·B, b, m)`, `(D·B, a, m)`. The weights of a direction serve its B images."""
    if not alone(x) or 1 < len(x) == len(weight):
        return torch.bmm(weight, x, out=out)
    for w, part, result in zip(weight, x.chunk(len(weight)), out.chunk(len(weight)), strict=True):
        if len(part) == part.shape[2] == 1:  # one column of one image would be rounded in another way than in a batch
            result.copy_(torch.bmm(w.expand(2, -1, -1), part.expand(2, -1, -1))[:1])
        else:
            torch.bmm(w.expand(len(part), -1, -1), part, out=result)
    return out


def _slabs(u: Tensor, plan: Plan, rows: int, n: int, keep: bool) -> list[Tensor]:
    """A contiguous `(D·B, rows, width · n)` for each step, all in one piece of memory; where nothing is kept, over one another."""
    sizes = [len(u) * rows * step.width * n for step in plan.steps]
    if keep:
        parts = u.new_empty(sum(sizes)).split(sizes)
    else:
        memory = u.new_empty(max(sizes))
        parts = [memory[:size] for size in sizes]
    return [part.view(len(u), rows, -1) for part in parts]


def _sum(parts: list[Tensor]) -> Tensor:
    for part in parts[1:]:
        parts[0] += part
    return parts[0]
