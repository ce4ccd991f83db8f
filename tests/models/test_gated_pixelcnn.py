"""What is particular to the gated PixelCNN: no blind spot, and stacks that exclude the current row once."""

from __future__ import annotations

import pytest
import torch

from pofx.errors import InputError
from pofx.model import Autoregressive
from pofx.models.autoregressive.gated_pixelcnn import GatedPixelCNN
from pofx.nn.raster import RasterSteps
from pofx.space import ImageSpace
from pofx.testing import densify, jacobian, random_images
from pofx.views import Label, Top, View


def past(model: Autoregressive) -> torch.Tensor:
    rank = torch.empty(model.space.dims, dtype=torch.long)
    rank[torch.cat(model.order())] = torch.arange(model.space.dims)
    return rank[None] < rank[:, None]


@pytest.mark.parametrize(
    "space", [ImageSpace(1, 12, 12, levels=4), ImageSpace(3, 4, 5, levels=3), ImageSpace(1, 1, 12), ImageSpace(1, 12, 1)]
)
def test_every_past_sub_pixel_is_seen_and_no_other(space: ImageSpace) -> None:
    """All 144 past pixels of the last one at 12×12, where a second shift would leave 129."""
    model = GatedPixelCNN(space, layers=10, channels=8 * space.channels).double()
    seen = torch.zeros(space.dims, space.dims, dtype=torch.bool)
    for seed in range(3):  # a dead ReLU may hide a path for one draw of weights
        seen |= jacobian(densify(model, seed), random_images(1, space, seed)) != 0  # type: ignore[arg-type]
    seen.fill_diagonal_(False)
    assert torch.equal(seen, past(model))


def test_only_the_first_vertical_layer_excludes_the_current_row() -> None:
    model = GatedPixelCNN(ImageSpace(1, 8, 8, levels=2), layers=4, channels=4)
    assert [layer.conv.shift for layer in model.vertical] == [1, 0, 0, 0]  # type: ignore[union-attr]


def test_gate_halves_of_a_colour_lie_together() -> None:
    """tanh and σ halves of each colour come from the same colour: a step gates what the full pass gates."""
    from pofx.nn.masked import FullPass, gated

    h = torch.randn(2, 12, 3, 3)
    full = FullPass(channels=3).gate(h)
    for c in range(3):
        assert torch.equal(full[:, 2 * c : 2 * c + 2], gated(h[:, 4 * c : 4 * c + 4]))


@pytest.mark.parametrize("space", [ImageSpace(1, 5, 7, levels=2), ImageSpace(1, 1, 9, levels=4), ImageSpace(3, 9, 1, levels=3)])
@pytest.mark.parametrize(
    "settings",
    [
        {"layers": 1},
        {"layers": 2},
        {"layers": 5, "dilations": 3},
        {"layers": 3, "kernel": 5, "dilations": 2},
        {"layers": 3, "kernel": 1, "first_kernel": 1},
    ],
)
@pytest.mark.parametrize("view", [None, Label(3), Top(2)])
def test_steps_of_any_shape_equal_the_full_pass(space: ImageSpace, settings: dict, view: View | None) -> None:
    """From the first row, and from filled ones; `Top` is a context of its own in each row."""
    if isinstance(view, Top) and space.height <= 2:
        pytest.skip("nothing is left below")
    model = densify(GatedPixelCNN(space, view, channels=2 * space.channels, **settings).double(), 1)
    assert isinstance(model, GatedPixelCNN)
    x = random_images(2, space)
    given = model.batch(x, torch.arange(2)).given
    pixels = space.height * space.width
    with torch.inference_mode():
        expected = model.conditional_log_prob(x, given).flatten(1)
        for rows in {0, space.height - 1}:
            steps = model.begin(2, given)
            steps.fill(x, rows)
            for group in model.order():
                values = x.flatten(1)[:, group].long()
                if int(group[0]) % pixels >= rows * space.width:
                    read = steps.distribution().gather(2, values[:, :, None])[:, :, 0]
                    assert torch.allclose(read, expected[:, group], rtol=0, atol=1e-10)
                steps.fix(values)


def test_all_pixels_are_steps_of_one_tape() -> None:
    model = GatedPixelCNN.small(ImageSpace(1, 4, 5, levels=2))
    steps = model.begin(2)
    assert isinstance(steps, RasterSteps)
    with torch.inference_mode():
        for _ in model.order():
            steps.fix(steps.draw(torch.full((2, 1), 0.5, dtype=torch.double)))
    assert set(steps.tapes) == {(0, "parameters"), (0, "draw"), (0, "write")}


@pytest.mark.parametrize("wrong", [{"kernel": 4}, {"layers": 0}, {"likelihood": "logistic"}, {"channels": 7}])
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError):
        GatedPixelCNN(ImageSpace(3, 8, 8), **wrong)
