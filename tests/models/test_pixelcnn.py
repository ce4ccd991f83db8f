"""What is particular to PixelCNN: its receptive field, blind spot included, exactly as the paper's masks give it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pofx.errors import InputError
from pofx.models.autoregressive.pixelcnn import PixelCNN
from pofx.nn.masked import MaskedConv2d, colours
from pofx.space import ImageSpace
from pofx.testing import densify, jacobian, random_images


def seen_by_masks(height: int, width: int, row: int, column: int, layers: int, first: int = 7) -> Tensor:
    """Pixels that reach (row, column): one step of mask A (7×7), then `layers` steps of mask B (3×3), by hand."""

    def offsets(kernel: int, centre: bool) -> list[tuple[int, int]]:
        r = kernel // 2
        out = [(-a, b) for a in range(1, r + 1) for b in range(-r, r + 1)] + [(0, -b) for b in range(1, r + 1)]
        return [*out, (0, 0)] if centre else out

    reach = {(row, column)}
    for _ in range(layers):
        reach = {(i + a, j + b) for i, j in reach for a, b in offsets(3, True)}
        reach = {(i, j) for i, j in reach if 0 <= i < height and 0 <= j < width}
    reach = {(i + a, j + b) for i, j in reach for a, b in offsets(first, False)}
    seen = torch.zeros(height, width, dtype=torch.bool)
    for i, j in reach:
        if 0 <= i < height and 0 <= j < width:
            seen[i, j] = True
    return seen


@pytest.mark.parametrize(("layers", "row", "column"), [(1, 6, 4), (2, 8, 3), (8, 11, 2)])
def test_every_pixel_that_the_masks_allow_is_seen_and_no_other(layers: int, row: int, column: int) -> None:
    space = ImageSpace(1, 12, 10, levels=4)
    seen = torch.zeros(space.dims, dtype=torch.bool)
    for seed in range(4):  # a dead ReLU may hide a path for one draw of weights
        model = densify(PixelCNN(space, layers=layers, channels=8).double(), seed)
        assert isinstance(model, PixelCNN)
        x = random_images(1, space, seed).double().requires_grad_()
        term = model.conditional_log_prob(x, None)[0, 0, row, column]
        seen |= torch.autograd.grad(term, x)[0].flatten() != 0
    assert torch.equal(seen.reshape(12, 10), seen_by_masks(12, 10, row, column, layers))


def test_the_blind_spot_is_the_papers() -> None:
    """Above and to the right of a pixel a wedge stays unseen however deep the stack (van den Oord et al. 2016b, figure 1)."""
    past = torch.zeros(12, 10, dtype=torch.bool)
    past[:11], past[11, :2] = True, True
    seen = seen_by_masks(12, 10, 11, 2, 8)
    assert not bool((seen & ~past).any())
    blind = past & ~seen
    assert blind.any() and not blind[:, :3].any() and bool(blind[10, 9])


def test_colours_see_earlier_colours_of_their_pixel_only() -> None:
    space = ImageSpace(3, 2, 3, levels=3)
    seen = torch.zeros(18, 18, dtype=torch.bool)
    for seed in range(4):
        model = densify(PixelCNN(space).double(), seed)
        assert isinstance(model, PixelCNN)
        seen |= jacobian(model, random_images(1, space, seed)) != 0
    seen.fill_diagonal_(False)
    rank = torch.empty(18, dtype=torch.long)
    rank[torch.cat(model.order())] = torch.arange(18)
    pixel = torch.arange(18) % 6
    allowed = rank[None] < rank[:, None]
    row = pixel // 3
    # at this size only the wedge right of the pixel, one row up and more than the reach of the masks away, could be blind
    near = (row[None] == row[:, None]) | ((pixel[None] % 3 - pixel[:, None] % 3).abs() <= 3)
    assert torch.equal(seen, allowed & near)


def test_feature_groups_agree_in_every_layer() -> None:
    model = PixelCNN(ImageSpace(3, 4, 4), channels=16, layers=1)
    layers = [m for m in model.modules() if isinstance(m, MaskedConv2d)]
    assert torch.equal(layers[-1].out_colour, torch.arange(3).repeat_interleave(256))
    for layer in layers:
        assert torch.equal(layer.out_colour, colours(layer.weight.shape[0], 3))


def test_masked_weights_get_no_gradient_and_stay_zero() -> None:
    model = PixelCNN.small(ImageSpace(3, 4, 4, levels=4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        (-model.log_prob(random_images(4, model.space)).sum()).backward()
        optimizer.step()
    for layer in model.modules():
        if isinstance(layer, MaskedConv2d):
            assert not bool(layer.weight[layer.mask == 0].any())


@pytest.mark.parametrize("wrong", [{"kernel": 4}, {"layers": 0}, {"likelihood": "logistic"}, {"dropout": 1.0}, {"channels": 1}])
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError):
        PixelCNN(ImageSpace(3, 8, 8), **wrong)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_first_kernel_of_one_pixel_steps_too(kernel: int) -> None:
    """Its input is kept of single pixels only, by places of all sizes."""
    space = ImageSpace(3, 3, 4, levels=3)
    model = densify(PixelCNN(space, layers=1, channels=6, kernel=kernel, first_kernel=1).double())
    assert isinstance(model, PixelCNN)
    x = model.sample(3, seed=0)
    steps, terms = model.begin(3), []
    for group in model.order():
        values = x.flatten(1)[:, group].long()
        terms.append(steps.distribution().gather(2, values[..., None])[..., 0].sum(1))
        steps.fix(values)
    assert torch.allclose(torch.stack(terms).sum(0), model.log_prob(x), atol=1e-10)
