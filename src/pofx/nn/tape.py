"""A step recorded once and made again: the calls that a function makes on tensors, without the Python that chose them.

A step of a small network is dozens of calls of microseconds; deciding which, allocating and slicing cost as much again. A tape keeps the
calls as they reach PyTorch's kernels, with the very tensors that they read and wrote. Played, it computes the same into the same tensors,
by the same kernels (a sum over what lies elsewhere than before may round otherwise). What a tape reads must therefore stay in place:
buffers are written into, never replaced.

A result that is only copied elsewhere, or joined with others, is written there at once, and the copy is left out. Results that are not
needed any longer give their memory to later ones, and tapes of one `Scratch` share it, so that it stays in the cache: what must outlive
the tape is what it returned, until the next one plays, and what it wrote into buffers made elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass
class Call:
    """One call. `out` is what it writes, where that is all it writes and nothing was there before; else it writes into `targets`."""

    function: Callable[..., Any]
    args: list[Any]
    kwargs: dict[str, Any]
    out: Tensor | None = None
    targets: list[Tensor] = field(default_factory=list)

    def tensors(self) -> Iterator[Tensor]:
        """All that it reads, and writes in place."""
        for value in (*self.args, *self.kwargs.values()):
            yield from (t for t in (value if isinstance(value, list | tuple) else (value,)) if isinstance(t, Tensor))

    def written(self) -> Iterator[Tensor]:
        """All that it writes."""
        yield from self.targets
        if self.out is not None:
            yield self.out

    def read(self, new: Tensor, old: Tensor) -> None:
        """Read `new` where it read `old`."""
        for k, value in enumerate(self.args):
            if value is old:
                self.args[k] = new
            elif isinstance(value, list | tuple):
                self.args[k] = [new if v is old else v for v in value]
        for name, value in self.kwargs.items():
            if value is old:
                self.kwargs[name] = new

    def bound(self) -> Callable[[], Any]:
        options = self.kwargs if self.out is None else self.kwargs | {"out": self.out}
        return partial(self.function, *self.args, **options)


class Tape(TorchDispatchMode):
    """
    >>> x, y = torch.ones(2), torch.zeros(2)
    >>> tape, out = Tape.record(lambda: y.add_(x) * 2)
    >>> x.fill_(10)
    tensor([10., 10.])
    >>> tape.play()
    >>> out
    tensor([22., 22.])
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.made: list[Callable[[], Any]] = []

    @classmethod
    def record(cls, run: Callable[[], Tensor], scratch: Scratch | None = None) -> tuple[Tape, Tensor]:
        """What `run` returned, and how to make it again in place."""
        tape = cls()
        with tape:
            out = run()
        fresh = {_storage(call.out) for call in tape.calls if call.out is not None}
        tape.calls = _without_copies(tape.calls, out)
        (Scratch() if scratch is None else scratch).place(tape.calls, fresh, out)
        tape.made = [call.bound() for call in tape.calls]
        return tape, out

    def play(self) -> None:
        for call in self.made:
            call()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        how = _how(func)
        assert func.overloadpacket not in _MAKERS, f"{func} in a tape: make buffers before"
        if how is None:  # in inference mode a function made of others arrives whole
            with self:
                return func.decompose(*args, **kwargs)
        out = func(*args, **kwargs)
        assert out is None or isinstance(out, Tensor | tuple | list), f"{func} in a tape: a step must not ask for a value"
        if how.writes:
            by_name = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
            self.calls.append(Call(how.call, list(args), dict(kwargs), targets=[by_name[name] for name in how.written if name in by_name]))
        elif how.to_out:
            only = out[0] if isinstance(out, tuple) else out
            assert isinstance(only, Tensor)
            self.calls.append(Call(how.call, list(args), dict(kwargs), only))
        elif not how.views:
            assert isinstance(out, Tensor)
            self.calls.append(Call(partial(_into, func), list(args), dict(kwargs), out))
        return out

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Wrapping the method above for the compiler would import all of it."""
        return False


def _copied(source: Tensor, *, out: Tensor, **kwargs: Any) -> None:
    """A copy of another kind, without one in between."""
    out.copy_(source)


def _into(func: Callable[..., Tensor], *args: Any, out: Tensor, **kwargs: Any) -> None:
    """A function that has no out=, with one."""
    out.copy_(func(*args, **kwargs))


class _How(NamedTuple):
    """How a function is made again: it writes into its arguments, or takes out=, or gives a view of them (which needs no call)."""

    call: Callable[..., Any]
    writes: bool = False
    written: tuple[str, ...] = ()
    to_out: bool = False
    views: bool = False


# What is quicker to call than PyTorch's overloads, and the same.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(torch, name)
    for name in ("add", "addcmul", "addmm", "baddbmm", "bmm", "cat", "gt", "index_select", "mm", "mul", "neg", "sigmoid", "sub", "tanh")
}
_NN = getattr(torch._C, "_nn")  # noqa: B009 (pyright does not know it)
_FUNCTIONS["relu"] = partial(torch.clamp_min, min=0)
_FUNCTIONS |= {"glu": _NN.glu, "log_sigmoid_forward": _NN.log_sigmoid}  # the second gives another tensor for gradients: not needed


@cache
def _how(func: Any) -> _How | None:
    """None for a function that is made of others."""
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), torch._C.DispatchKey.CompositeImplicitAutograd):
        return None
    schema, name = func._schema, func._schema.name.removeprefix("aten::")
    written = tuple(a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write)
    if written:
        if name.endswith("_") and hasattr(Tensor, name) and name != "index_put_":  # whose method takes other indices
            return _How(getattr(Tensor, name), writes=True, written=written)
        quick = name in _FUNCTIONS and func._overloadname.endswith("out")
        return _How(_FUNCTIONS[name] if quick else func, writes=True, written=written)
    if name in ("_unsafe_view", "_reshape_alias") or any(r.alias_info is not None for r in schema.returns):
        return _How(func, views=True)
    if func._overloadname in ("default", "Tensor") and name in _FUNCTIONS:
        return _How(_FUNCTIONS[name], to_out=True)
    if name == "_to_copy":
        return _How(_copied, to_out=True)
    assert len(schema.returns) == 1, f"a tape cannot make {func} again: it returns several tensors"
    names = [a.name for a in schema.arguments]
    for overload in ("out", f"{func._overloadname}_out"):
        found: Any = getattr(func.overloadpacket, overload, None)
        if found is not None and [a.name for a in found._schema.arguments if not a.is_out] == names:
            return _How(found, to_out=True)
    return _How(func)


def _without_copies(calls: list[Call], result: Tensor) -> list[Call]:
    """The same with results written where a later call would copy or join them, if nobody can tell the difference."""
    made = {id(call.out): k for k, call in enumerate(calls) if call.out is not None}
    used: dict[int, list[int]] = {}  # storage → calls that touch it
    for k, call in enumerate(calls):
        for t in (*call.tensors(), *(() if call.out is None else (call.out,))):
            used.setdefault(_storage(t), []).append(k)

    def movable(old: Tensor, at: int, to: Tensor) -> bool:
        """Whether `old`, made by some call, may be made in `to`, where call `at` copies it: all who know `old` know it by that name and
        only read it, and nobody else touches where `to` lies from then on."""
        maker = made.get(id(old))
        if maker is None or maker >= at or old is result or (old.shape, old.dtype, old.device) != (to.shape, to.dtype, to.device):
            return False
        for k in used[_storage(old)]:
            known = all(t is old for t in calls[k].tensors() if _storage(t) == _storage(old))
            writes = any(_storage(t) == _storage(old) for t in calls[k].written())
            if k != maker and not (known and (k == at or not writes)):
                return False
        others = [calls[k] for k in used.get(_storage(to), ()) if maker <= k < at]
        later = [calls[k] for k in used.get(_storage(to), ()) if k > at]
        return not any(_overlap(t, to) for call in others for t in (*call.tensors(), *call.written())) and not any(
            _overlap(t, to) for call in later for t in call.written()
        )

    dropped = set()
    for at, call in enumerate(calls):
        if call.function is Tensor.copy_ and len(call.args) == 2:
            moves = [(call.args[1], call.args[0])]
        elif call.function is torch.cat and call.out is not None:
            parts = call.args[0]
            dim = call.args[1] if len(call.args) > 1 else 0
            moves = list(zip(parts, call.out.split([p.shape[dim] for p in parts], dim), strict=True))
        else:
            continue
        if len({id(old) for old, _ in moves}) == len(moves) and all(movable(old, at, to) for old, to in moves):
            dropped.add(at)
            for old, to in moves:
                maker = calls[made.pop(id(old))]
                maker.out = to
                for k in used[_storage(old)]:
                    calls[k].read(to, old)
                used.setdefault(_storage(to), []).extend(used[_storage(old)])
    return [call for k, call in enumerate(calls) if k not in dropped]


class Scratch:
    """Memory for results that nobody needs for long."""

    def __init__(self) -> None:
        self.slots: list[torch.UntypedStorage] = []
        self.sizes: list[int] = []  # of each slot, in bytes

    def place(self, calls: list[Call], fresh: set[int], result: Tensor) -> None:
        """Move what lies in the storages `fresh`, made by these calls, into slots: the same one again after its last use."""
        ends: dict[int, int] = {}
        tensors: dict[int, list[Tensor]] = {}
        kept = result.clone()
        for k, call in enumerate(calls):
            for t in (*call.tensors(), *(() if call.out is None else (call.out,))):
                if _storage(t) in fresh:
                    ends[_storage(t)] = k
                    tensors.setdefault(_storage(t), []).append(t)
        if _storage(result) in fresh:
            ends[_storage(result)] = len(calls)
            tensors.setdefault(_storage(result), []).append(result)
        taken: dict[int, int] = {}  # slot → last call that needs it
        for k, call in enumerate(calls):
            old = None if call.out is None else call.out.untyped_storage()
            if old is None or old.data_ptr() not in tensors:
                continue
            size = old.nbytes()
            free = (s for s, slot in enumerate(self.slots) if self.sizes[s] == size and taken.get(s, -1) < k and slot.device == old.device)
            slot = next(free, len(self.slots))
            if slot == len(self.slots):
                self.slots.append(torch.UntypedStorage(size, device=old.device))
                self.sizes.append(size)
            taken[slot] = ends[old.data_ptr()]
            for t in {id(t): t for t in tensors.pop(old.data_ptr())}.values():
                t.set_(self.slots[slot], t.storage_offset(), t.shape, t.stride())
        result.copy_(kept)


# What makes something to be written into later; it would be made anew each time.
_MAKERS = {
    getattr(torch.ops.aten, f"{prefix}{kind}{suffix}")
    for kind in ("zeros", "ones", "empty", "full")
    for prefix, suffix in (("", ""), ("new_", ""), ("", "_like"))
}


def _storage(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether the stretches of memory between their first and last elements meet."""
    if _storage(a) != _storage(b) or not a.numel() or not b.numel():
        return False
    (a0, a1), (b0, b1) = (
        (
            t.data_ptr(),
            t.data_ptr() + t.element_size() * (1 + sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))),
        )
        for t in (a, b)
    )
    return a0 < b1 and b0 < a1
