"""The boundary: what x may be is checked once, and every message says how to mend it."""

from __future__ import annotations

import pytest
import torch

from pofx.errors import InputError
from pofx.space import ImageSpace


@pytest.mark.parametrize("wrong", [(0, 4, 4), (1, 0, 4), (1, 4, -1), (1, 4, 4, 1), (1, 4, 4, 257), (1.5, 4, 4)])
def test_impossible_spaces(wrong) -> None:
    with pytest.raises(InputError):
        ImageSpace(*wrong)


@pytest.mark.parametrize(
    ("x", "hint"),
    [
        (torch.zeros(1, 1, 4, 4), "to(torch.uint8)"),
        (torch.zeros(1, 1, 5, 4, dtype=torch.uint8), "--size 4x4"),
        (torch.zeros(1, 4, 4, dtype=torch.uint8), "--size 4x4"),
        (torch.full((1, 1, 4, 4), 3, dtype=torch.uint8), "--levels 3"),
        ([[1]], "torch.as_tensor"),
    ],
)
def test_wrong_images_say_the_fix(x, hint: str) -> None:
    with pytest.raises(InputError) as error:
        ImageSpace(1, 4, 4, levels=3).check(x)
    assert hint in str(error.value) and str(error.value).count("\n") <= 2


def test_right_images_pass_unchanged() -> None:
    x = torch.full((2, 1, 4, 4), 2, dtype=torch.uint8)
    assert ImageSpace(1, 4, 4, levels=3).check(x) is x
    assert ImageSpace(1, 4, 4, levels=3).check(x[:0]).shape == (0, 1, 4, 4)
