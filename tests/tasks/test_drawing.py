"""A drawing that is watched is the image that `sample` draws, and what is kept stays."""

from __future__ import annotations

import math

import pytest
import torch

from pofx.errors import InputError
from pofx.models import FVBN, GatedPixelCNN, PixelCNN
from pofx.space import ImageSpace
from pofx.tasks._drawing import Drawing
from pofx.tasks.trace import trace
from pofx.views import Label, Top

SPACE = ImageSpace(2, 4, 3, levels=4)


@pytest.mark.parametrize("model", [PixelCNN, FVBN])
def test_it_is_what_sample_draws_however_it_is_advanced(model: type) -> None:
    made = model.small(SPACE).double()
    want = made.sample(3, seed=5)[2]
    for pieces in ([100], [1] * 30, [5, 3, 100]):
        drawing = Drawing(made, seed=5, number=2)
        for count in pieces:
            drawing.advance(count)
        assert torch.equal(drawing.x, want)
        assert bool(drawing.fixed.all()) and drawing.step == drawing.steps


def test_entropies_are_those_of_trace() -> None:
    made = PixelCNN.small(SPACE).double()
    drawing = Drawing(made, seed=1)
    drawing.advance(1000)
    assert torch.allclose(drawing.entropy, trace(made, 1, seed=1).entropy[0])


def test_half_way_the_rest_is_empty() -> None:
    drawing = Drawing(PixelCNN.small(SPACE))
    assert drawing.advance(7) == 7
    assert int(drawing.fixed.sum()) == 7
    assert torch.equal(drawing.entropy.isnan(), ~drawing.fixed)
    assert int(drawing.x[~drawing.fixed].sum()) == 0


def test_what_is_kept_stays_and_the_rest_is_drawn_given_it() -> None:
    made = PixelCNN.small(SPACE).double()
    order = torch.cat(made.order())
    kept, x = torch.zeros(SPACE.dims, dtype=torch.bool), torch.zeros(SPACE.dims, dtype=torch.uint8)
    kept[order[:8]] = True
    x[order[:8]] = torch.tensor([3, 0, 1, 2, 3, 3, 0, 1], dtype=torch.uint8)
    kept, x = kept.reshape(SPACE.shape), x.reshape(SPACE.shape)
    drawing = Drawing(made, seed=3, kept=(kept, x))
    assert drawing.steps == SPACE.dims - 8
    drawing.advance(1000)
    from pofx.noise import Noise

    want = made.continue_(None, Noise(3, torch.tensor([0])), fixed=(kept, x[None]))[0]
    assert torch.equal(drawing.x, want)
    assert torch.equal(drawing.x[kept], x[kept])


def test_a_kept_pixel_after_an_open_one_is_refused() -> None:
    made = PixelCNN.small(SPACE)
    kept = torch.zeros(SPACE.shape, dtype=torch.bool)
    kept[:, -1, -1] = True
    with pytest.raises(InputError, match="must come before what is drawn"):
        Drawing(made, kept=(kept, torch.zeros(SPACE.shape, dtype=torch.uint8)))


def test_views_are_known_from_the_start() -> None:
    made = GatedPixelCNN.small(SPACE, given=Top(2)).double()
    value = made.batch(made.space.check(torch.ones(1, *SPACE.shape, dtype=torch.uint8))).given
    drawing = Drawing(made, value)
    assert bool(drawing.fixed[:, :2].all()) and bool((drawing.x[:, :2] == 1).all())
    drawing.advance(1000)
    assert torch.equal(drawing.x, made.sample(1, value)[0])
    assert bool(drawing.entropy[:, :2].isnan().all()) and float(drawing.entropy[:, 2:].max()) <= math.log(4) + 1e-5


def test_a_label_is_given() -> None:
    made = PixelCNN.small(SPACE, given=Label(3)).double()
    drawing = Drawing(made, torch.tensor([2]))
    drawing.advance(1000)
    assert torch.equal(drawing.x, made.sample(1, torch.tensor([2]))[0])
