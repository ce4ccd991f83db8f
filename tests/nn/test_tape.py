"""A tape makes again what was recorded, on new values, whatever it left out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pofx.likelihoods import Likelihood
from pofx.nn.tape import Scratch, Tape
from pofx.space import ImageSpace

W = torch.randn(4, 4, dtype=torch.double)
TWELVE = torch.ones(12, 2, dtype=torch.double)
BUFFER = torch.zeros(3, 2, 4, dtype=torch.double)
PARTS = BUFFER.view(2, 3, 4)


def into_a_buffer(x: Tensor) -> Tensor:
    """What is copied away is also read afterwards, by its own name."""
    h = x @ W + 1
    BUFFER[:, 1] = h
    return (h * 2).sum(1) + BUFFER.flatten(1).sum(1)


def copied_and_changed(x: Tensor) -> Tensor:
    """The copy must keep the value of before."""
    h = x * 3
    BUFFER[:, 0] = h
    h.tanh_()
    return h + BUFFER[:, 0]


def overwritten(x: Tensor) -> Tensor:
    """The place it is copied to is used for something else later, while it is read."""
    h = x * 3
    BUFFER[:, 0] = h
    BUFFER[:, 0] = x
    return h + BUFFER[:, 0]


def copied_and_changed_elsewhere(x: Tensor) -> Tensor:
    """By a function that is no method, and by out=."""
    h, g = x * 3, x * 4
    BUFFER[:, 0], BUFFER[:, 1] = h, g
    F.elu_(h)
    torch.exp(x, out=g)
    return h + g + BUFFER.sum(1)


def into_parts_of_one_buffer(x: Tensor) -> Tensor:
    """Each part is read when the next is made; the last is read through all of the buffer, too."""
    h = x
    for k in range(2):
        h = h.tanh() + 1
        PARTS[k] = h
    return h * 2 + PARTS.sum(0)


def into_parts_that_meet(x: Tensor) -> Tensor:
    """The second part is read through the first before it is written."""
    h, g = x * 3, x * 4
    PARTS.view(-1)[2:14].view(3, 4).copy_(h)
    before = PARTS[1] + 1
    PARTS[1] = g
    return before + h + g


def read_before(x: Tensor) -> Tensor:
    """The place it is copied to is read between."""
    h = x * 3
    before = BUFFER[:, 0].exp()
    BUFFER[:, 0] = h
    return h + before


def joined(x: Tensor) -> Tensor:
    a, b = x.tanh(), x.exp() * 2
    return torch.cat([a, b, a + b], 1).flatten(1) @ TWELVE + b.sum()


def joined_twice(x: Tensor) -> Tensor:
    a = x.tanh()
    return torch.cat([a, a], 1) * 2


def through_views(x: Tensor) -> Tensor:
    h = x @ W
    h[:, :2].tanh_()
    return F.glu(h, 1) + h.t().reshape(2, -1).sum()


def a_mixture(x: Tensor) -> Tensor:
    """What `draw` of a step computes."""
    head = Likelihood("logistic-mixture", ImageSpace(3, 1, 1), components=2)
    parameters = (x.repeat(1, 6)[:, : head.size] + 0.1).repeat(1, head.size)[:, : head.size]
    return head(parameters).quantile(1, (x[:, :1] * 9).long().clamp(0, 255), x[:, 1].sigmoid()).double()


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize(
    "run",
    [
        into_a_buffer,
        into_parts_of_one_buffer,
        into_parts_that_meet,
        copied_and_changed,
        copied_and_changed_elsewhere,
        overwritten,
        read_before,
        joined,
        joined_twice,
        through_views,
        a_mixture,
    ],
)
def test_a_tape_gives_what_the_function_gives(run: Callable[[Tensor], Tensor], inference: bool) -> None:
    x = torch.zeros(3, 4, dtype=torch.double)
    scratch = Scratch()
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode() if inference else nullcontext():
        BUFFER.zero_()
        x.copy_(torch.randn(3, 4, generator=generator))
        tape, out = Tape.record(lambda: run(x), scratch)
        BUFFER.zero_()
        assert torch.allclose(out, run(x.clone()), rtol=1e-13, atol=0), "recording changes the result"
        for k in range(4):
            x.copy_(torch.randn(3, 4, generator=generator))
            BUFFER.fill_(k)
            expected = run(x.clone())
            left = BUFFER.clone()
            BUFFER.fill_(k)
            tape.play()
            assert torch.allclose(out, expected, rtol=1e-13, atol=0)  # a sum over what lies elsewhere now may round otherwise
            assert torch.equal(BUFFER, left)


def test_copies_are_left_out() -> None:
    x = torch.randn(3, 4, dtype=torch.double)
    tape, _ = Tape.record(lambda: into_a_buffer(x))
    assert torch.Tensor.copy_ not in [call.function for call in tape.calls]
    tape, _ = Tape.record(lambda: joined(x))
    assert torch.cat not in [call.function for call in tape.calls]
    tape, _ = Tape.record(lambda: overwritten(x))
    assert torch.Tensor.copy_ in [call.function for call in tape.calls]


def test_copies_into_parts_of_one_buffer_are_left_out() -> None:
    x = torch.randn(3, 4, dtype=torch.double)
    tape, _ = Tape.record(lambda: into_parts_of_one_buffer(x))
    assert torch.Tensor.copy_ not in [call.function for call in tape.calls]


def test_tapes_of_a_scratch_share_memory() -> None:
    x = torch.randn(64, 64)

    def deep() -> Tensor:
        h = x
        for _ in range(20):
            h = (h @ x).tanh()
        return h

    scratch = Scratch()
    first, out = Tape.record(deep, scratch)
    assert len(scratch.slots) <= 3
    for _ in range(5):
        Tape.record(deep, scratch)
    assert len(scratch.slots) <= 3
    first.play()
    assert torch.equal(out, deep())


def test_buffers_are_not_made_in_a_tape() -> None:
    for make in (lambda x: x.new_zeros(3), lambda x: x.new_full((3,), 2.0), torch.empty_like):
        x = torch.ones(2)
        with pytest.raises(AssertionError, match="make buffers before"):
            Tape.record(lambda make=make, x=x: make(x))


def test_a_step_does_not_ask_for_values() -> None:
    x = torch.ones(2)
    with pytest.raises(AssertionError, match="must not ask for a value"):
        Tape.record(lambda: x * float(x[0]))
