"""Dilated convolutions: the whole contract, and a past that is seen without gaps."""

from __future__ import annotations

from typing import Self

import pytest
import torch

from pofx import testing
from pofx.errors import InputError
from pofx.models.autoregressive.gated_pixelcnn import GatedPixelCNN
from pofx.models.autoregressive.pixelcnn import PixelCNN
from pofx.space import ImageSpace
from pofx.views import View


class DilatedGated(GatedPixelCNN):
    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        return cls(space, given, layers=4, channels=4 * space.channels, dilations=3)


class DilatedPixelCNN(PixelCNN):
    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        return cls(space, given, layers=3, channels=4 * space.channels, dilations=3)


CHECKS = (
    testing.sums_to_one,
    testing.is_causal,
    testing.steps_equal_the_full_pass,
    testing.all_steps_cost_one_pass,
    testing.filled_rows_equal_stepped_ones,
    testing.samples_are_keyed_by_image,
)


@pytest.mark.parametrize("cls", [DilatedGated, DilatedPixelCNN])
@pytest.mark.parametrize("check", CHECKS)
def test_the_contract_holds(cls: type, check) -> None:
    check(cls)


def test_every_past_pixel_is_seen_twice_as_far_as_without() -> None:
    """Seven layers reach 3 + 1 + 2 + 4 + 1 + 2 + 4 columns back and one row more; without dilations 3 + 6."""
    space = ImageSpace(1, 18, 18, levels=4)
    last = (17, 17)
    for dilations, reach in ((3, 17), (1, 9)):
        model = GatedPixelCNN(space, layers=7, channels=6, dilations=dilations).double()
        seen = torch.zeros(18, 18, dtype=torch.bool)
        for seed in range(3):
            x = testing.random_images(1, space, seed)
            seen |= (testing.jacobian(testing.densify(model, seed), x)[-1] != 0).view(18, 18)  # type: ignore[arg-type]
        seen[last] = True
        expected = torch.zeros(18, 18, dtype=torch.bool)
        expected[max(0, 17 - reach - 1) :, 17 - reach :] = True
        assert torch.equal(seen, expected)


@pytest.mark.parametrize("cls", [GatedPixelCNN, PixelCNN])
def test_wrong_dilations_are_refused(cls: type) -> None:
    with pytest.raises(InputError, match="--dilations 3"):
        cls(ImageSpace(1, 8, 8), dilations=0)
