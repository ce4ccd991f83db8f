"""What is particular to Multiscale: few steps, groups that are independent, and a chain whose total is exact."""

from __future__ import annotations

import pytest
import torch

from pofx.errors import InputError
from pofx.models.autoregressive.multiscale import Multiscale, scales
from pofx.space import ImageSpace
from pofx.testing import densify, every_image, jacobian, random_images
from pofx.views import Subsample


@pytest.mark.parametrize(("height", "width", "base"), [(28, 28, 8), (5, 7, 2), (1, 9, 2), (9, 1, 1), (3, 3, 1), (8, 8, 8), (17, 4, 3)])
def test_every_pixel_is_in_the_smallest_image_or_in_one_group(height: int, width: int, base: int) -> None:
    step, groups = scales(height, width, base)
    coarse = [(i, j) for i in range(0, height, step) for j in range(0, width, step)]
    made = coarse + [p for g in groups for p in g.pixels]
    assert sorted(made) == [(i, j) for i in range(height) for j in range(width)]
    assert -(-height // step) <= base and -(-width // step) <= base


def test_steps_grow_with_the_logarithm_of_the_side() -> None:
    """49 pixels, then three groups a doubling: 28 → 55 steps, 56 → 58, 112 → 61."""
    for side, expected in ((28, 55), (56, 58), (112, 61)):
        assert len(Multiscale(ImageSpace(1, side, side, levels=2), layers=1, channels=2).order()) == expected


def test_pixels_of_a_group_do_not_see_each_other_and_see_all_that_is_near_of_earlier_groups() -> None:
    space = ImageSpace(1, 8, 8, levels=3)
    model = Multiscale(space, base=2, layers=3, channels=12).double()
    seen = torch.zeros(64, 64, dtype=torch.bool)
    for seed in range(3):  # a dead unit may hide a path for one draw of weights
        seen |= jacobian(densify(model, seed), random_images(1, space, seed)) != 0  # type: ignore[arg-type]
    seen.fill_diagonal_(False)
    rank = torch.empty(64, dtype=torch.long)
    for number, group in enumerate(model.order()):
        rank[group] = number
    # Each group is computed from the known pixels of its own scale: with enough layers from all of them.
    step_of = torch.full((64,), model.step)
    for group in model.groups:
        for i, j in group.pixels:
            step_of[8 * i + j] = group.step // 2
    row, column = torch.arange(64) // 8, torch.arange(64) % 8
    on_grid = (row[None] % step_of[:, None] == 0) & (column[None] % step_of[:, None] == 0)
    assert torch.equal(seen, (rank[None] < rank[:, None]) & on_grid)


def test_the_chain_is_exact() -> None:
    """p(small) · p(large | small) = p(large): a Multiscale is its coarse model times a Multiscale given Subsample(2), weights copied."""
    space = ImageSpace(1, 3, 4, levels=2)
    whole = densify(Multiscale(space, base=2, layers=1, channels=4).double())
    assert isinstance(whole, Multiscale) and whole.step == 2
    coarse = Multiscale(ImageSpace(1, 2, 2, levels=2), base=2, layers=1, channels=4).double()
    link = Multiscale(space, Subsample(2), base=2, layers=1, channels=4).double()
    assert link.coarse is None  # what is known needs no net
    mine = whole.state_dict()
    coarse.load_state_dict({k: v for k, v in mine.items() if k.startswith("coarse")})
    state = link.state_dict()
    for name in state:  # the embedding of the view is switched off, so that both links are one function
        state[name] = mine[name] if name in mine else torch.zeros_like(state[name])
    link.load_state_dict(state)
    x = every_image(space)
    small = x[:, :, ::2, ::2].contiguous()
    with torch.no_grad():
        total = coarse.log_prob(small) + link.log_prob(x, small)
        torch.testing.assert_close(total, whole.log_prob(x), atol=1e-12, rtol=0)


def test_colours_of_a_pixel_are_not_independent() -> None:
    for likelihood in ("categorical", "logistic-mixture"):
        model = densify(Multiscale(ImageSpace(3, 2, 2, levels=4), base=1, layers=1, channels=6, likelihood=likelihood).double())
        assert isinstance(model, Multiscale)
        seen = jacobian(model, random_images(1, model.space)) != 0
        assert bool(seen[4, 0]) and bool(seen[8, 4]) and not bool(seen[0, 4]), likelihood  # green sees red of its pixel, not the reverse


@pytest.mark.parametrize("wrong", [{"base": 0}, {"layers": 0}, {"likelihood": "logistic"}, {"dropout": 1.0}, {"channels": 1}])
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError):
        Multiscale(ImageSpace(3, 8, 8), **wrong)
