"""Scans of convolutional LSTMs: against a loop over pixels, by finite differences, and where a plan reads and writes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pofx.nn.recurrent import GATES, Plan, columns, diagonal_plan, image, row_plan, scan

PLANS: dict[str, Callable[[int, int, torch.device], Plan]] = {"row": row_plan, "diagonal": diagonal_plan}
SIZES = [(1, 1), (1, 6), (6, 1), (3, 5), (5, 3), (4, 4)]
CPU = torch.device("cpu")


def by_pixel(x: Tensor, weight: Tensor, h0: Tensor, c0: Tensor, kind: str) -> Tensor:
    """The paper's equations, one pixel at a time: `(n, F, H, W)` → `(n, h, H, W)`."""
    n, _, height, width = x.shape
    zero, total = x.new_zeros(n, h0.shape[1]), torch.zeros(())
    for d in range(len(weight)):
        seen = x.flip(3) if d else x
        h: dict[tuple[int, int], Tensor] = {}
        c: dict[tuple[int, int], Tensor] = {}
        for i in range(height):
            for j in range(width):
                here, one = seen[:, :, i, j], x.new_ones(n, 1)
                if kind == "row":
                    left = seen[:, :, i, j - 1] if j else torch.zeros_like(here)
                    above = [h.get((i - 1, k), h0[d].expand_as(zero)) if 0 <= k < width else zero for k in (j - 1, j, j + 1)]
                    operand, before = [left, here, one, *above], c.get((i - 1, j))
                else:
                    operand = [here, one, h.get((i - 1, j), zero), h.get((i, j - 1), h0[d].expand_as(zero))]
                    before = c.get((i, j - 1))
                o, a, f, g = (torch.cat(operand, 1) @ weight[d].t()).chunk(GATES, 1)
                c[i, j] = f.sigmoid() * (c0[d] if before is None else before) + a.sigmoid() * g.tanh()
                h[i, j] = o.sigmoid() * c[i, j].tanh()
        told = torch.stack([torch.stack([h[i, j] for j in range(width)], -1) for i in range(height)], -2)
        if d:
            told = torch.cat([torch.zeros_like(told[:, :, :1]), told.flip(3)[:, :, :-1]], 2)
        total = total + told
    return total


def arguments(kind: str, size: tuple[int, int], dtype: torch.dtype = torch.float64, n: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    features, h, (d, inputs, states) = 4, 2, (1, 2, 3) if kind == "row" else (2, 1, 2)
    shapes = [(n, features, *size), (d, GATES * h, inputs * features + 1 + states * h), (d, h), (d, h)]
    x, weight, h0, c0 = (torch.randn(s, generator=generator, dtype=dtype).mul_(0.7).requires_grad_() for s in shapes)
    return x, weight, h0, c0


def run(kind: str, size: tuple[int, int]) -> Callable[..., Tensor]:
    plan = PLANS[kind](*size, CPU)
    return lambda x, weight, h0, c0: image(scan(columns(x, plan), weight, h0, c0, plan), plan, *size)


@pytest.mark.parametrize("kind", PLANS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_a_scan_and_its_gradients_equal_the_loop_over_pixels(
    kind: str, size: tuple[int, int], dtype: torch.dtype, tolerance: float
) -> None:
    leaves = x, weight, h0, c0 = arguments(kind, size, dtype)
    told, expected = run(kind, size)(*leaves), by_pixel(x, weight, h0, c0, kind)
    v = torch.randn_like(told)
    for a, b in zip(
        (told, *torch.autograd.grad(told, leaves, v)),
        (expected, *torch.autograd.grad(expected, leaves, v, materialize_grads=True, allow_unused=True)),
        strict=True,
    ):
        assert float((a - b).detach().abs().max()) < tolerance
    with torch.no_grad():  # memory is shared between steps where nothing is kept
        assert torch.equal(run(kind, size)(*leaves), told)


@pytest.mark.parametrize("kind", PLANS)
@pytest.mark.parametrize("size", [(3, 4), (4, 2), (1, 3), (3, 1)])
def test_the_backward_pass_by_finite_differences(kind: str, size: tuple[int, int]) -> None:
    assert torch.autograd.gradcheck(run(kind, size), arguments(kind, size, n=2))


@pytest.mark.parametrize("kind", PLANS)
@pytest.mark.parametrize("size", [(3, 5), (6, 1), (1, 6)])
def test_in_float64_an_image_does_not_depend_on_its_batch(kind: str, size: tuple[int, int]) -> None:
    x, *rest = arguments(kind, size, n=9)
    with torch.no_grad():
        together = run(kind, size)(x, *rest)
        assert torch.equal(together, torch.cat([run(kind, size)(x[k : k + 1], *rest) for k in range(9)]))


def test_many_images_are_scored_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, *rest = arguments("diagonal", (3, 4), n=7)
    with torch.no_grad():
        whole = run("diagonal", (3, 4))(x, *rest)
        monkeypatch.setattr("pofx.nn.recurrent.CHUNK", 3)
        assert torch.equal(run("diagonal", (3, 4))(x, *rest), whole)


@pytest.mark.parametrize("size", [(5, 7), (7, 5), (4, 4), (1, 9), (9, 1)])
def test_skewing(size: tuple[int, int]) -> None:
    """H+W−1 columns; each holds the pixels i + j = t, each pixel once; unskewing is its inverse."""
    height, width = size
    plan = diagonal_plan(height, width, CPU)
    assert len(plan.steps) == height + width - 1
    pixels = torch.arange(height * width).double().reshape(1, 1, height, width)
    skewed = columns(pixels, plan)
    at = 0
    for t, step in enumerate(plan.steps):
        assert step.inputs == (at,)
        where = skewed[0, 0, at : at + step.width, 0].long()
        assert (where // width + where % width == t).all() and (where.diff() == width - 1).all()
        at += step.width
    assert at == height * width
    assert torch.equal(image(skewed, plan, height, width), pixels)
    flipped = plan.gather[1](skewed)
    assert torch.equal(image(flipped, plan, height, width), pixels.flip(3))
    assert torch.equal(plan.gather[1].back(flipped), skewed)


def test_a_row_scan_takes_as_many_steps_as_rows() -> None:
    assert [len(row_plan(h, w, CPU).steps) for h, w in ((5, 7), (1, 9), (9, 1))] == [5, 1, 9]


def test_on_one_row_a_direction_is_torch_lstm() -> None:
    """1×N: with copied weights the left-to-right scan, h and c, is a plain LSTM, to 1e-10. (torch sorts its gates i, f, g, o.)"""
    x, weight, h0, c0 = (a.detach() for a in arguments("diagonal", (1, 11)))
    features, h = x.shape[1], h0.shape[1]
    lstm = torch.nn.LSTM(features, h, batch_first=True).double()
    o, i, f, g = weight[0].chunk(GATES)
    theirs = torch.cat([i, f, g, o])
    with torch.no_grad():
        lstm.weight_ih_l0.data = theirs[:, :features].clone()
        lstm.bias_ih_l0.data = theirs[:, features].clone()
        lstm.bias_hh_l0.data = 0 * theirs[:, features]
        lstm.weight_hh_l0.data = theirs[:, -h:].clone()  # of the state to the left; there is none above
        expected, (_, c) = lstm(
            x[:, :, 0].transpose(1, 2), (h0[:1, None].expand(1, 3, h).contiguous(), c0[:1, None].expand(1, 3, h).contiguous())
        )
        plan, states = diagonal_plan(1, 11, CPU), []
        told = image(scan(columns(x, plan), weight, h0, c0, plan, states), plan, 1, 11)
    assert float((told[:, :, 0].transpose(1, 2) - expected).abs().max()) < 1e-10  # the other direction is shifted out of the image
    assert float((states[0][1][:3, :, plan.steps[-1].write, 0] - c[0]).abs().max()) < 1e-10
