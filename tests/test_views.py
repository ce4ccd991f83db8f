"""Views: what they know, what they refuse."""

from __future__ import annotations

import pytest
import torch

from pofx.errors import InputError
from pofx.space import ImageSpace
from pofx.testing import fitting_views, random_images, random_notes
from pofx.views import Gray, Half, Label, Subsample, Top

SPACES = [ImageSpace(1, 5, 7), ImageSpace(3, 4, 4, levels=6), ImageSpace(1, 1, 9, levels=3), ImageSpace(3, 6, 3)]


@pytest.mark.parametrize("space", SPACES)
def test_values_check_features_and_known(space: ImageSpace) -> None:
    x, y = random_images(4, space), torch.tensor([0, 1, 2, 0])
    for view in fitting_views(space):
        written = random_notes(view, 4)
        value = view.value(x, y if written is None else written)
        assert torch.equal(view.check(value, 4, space), value)
        assert view.features(value, space).shape == (4, *view.feature_shape(space))
        known, filled = view.known(space, value), view.fill(value, space)
        if known is None:
            assert view.dims(space) == space.dims and not filled.any()
            continue
        known = known.expand(4, *space.shape)
        assert torch.equal(filled, x * known)
        assert (torch.as_tensor(view.dims_of(space, value)) == space.dims - known.flatten(1).sum(1)).all()
        assert view.dims(space) == (space.dims if view.varies else space.dims - int(known[0].sum()))


def test_gray_is_luma_and_half_the_area_mean() -> None:
    x = torch.tensor([255, 0, 0], dtype=torch.uint8).reshape(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert int(Gray().value(x, None)[0, 0, 0, 0]) == 76
    x = torch.tensor([[0, 1, 9], [2, 3, 9], [4, 6, 8]], dtype=torch.uint8).reshape(1, 1, 3, 3)
    assert Half().value(x, None).flatten().tolist() == [2, 9, 5, 8]


@pytest.mark.parametrize(
    ("view", "space"),
    [
        (Gray(), ImageSpace(1, 4, 4)),
        (Top(4), ImageSpace(1, 4, 4)),
        (Top(0), ImageSpace(1, 4, 4)),
        (Subsample(1), ImageSpace(1, 4, 4)),
        (Subsample(2), ImageSpace(1, 1, 1)),
        (Label(0), ImageSpace(1, 4, 4)),
    ],
)
def test_views_that_make_no_sense_are_refused(view, space) -> None:
    with pytest.raises(InputError):
        view.check_space(space)


@pytest.mark.parametrize("value", [10, -1, [0, 1, 2], 1.5, True])
def test_wrong_labels_are_refused(value) -> None:
    with pytest.raises(InputError):
        Label(10).check(value, 2, ImageSpace(1, 4, 4))


def test_data_without_labels_is_refused() -> None:
    with pytest.raises(InputError, match="no labels"):
        Label(10).value(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), None)


def test_values_of_another_shape_or_level_are_refused() -> None:
    space = ImageSpace(1, 4, 4, levels=4)
    for bad in (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, 1, 2, 2), torch.full((2, 1, 2, 2), 9, dtype=torch.uint8)):
        with pytest.raises(InputError):
            Subsample(2).check(bad, 2, space)
