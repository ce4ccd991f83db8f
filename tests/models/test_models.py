"""check_model × catalog: every model that the package finds keeps the contract, unasked."""

from __future__ import annotations

import pytest

from pofx import catalog, testing
from pofx.model import ImageModel
from pofx.space import ImageSpace

CASES = [
    pytest.param(cls, check, id=f"{name}-{check.__name__}") for name, cls in catalog.models().items() for check, _ in testing.checks(cls)
]


@pytest.mark.parametrize(("cls", "check"), CASES)
def test_contract(cls: type[ImageModel], check) -> None:
    check(cls)


@pytest.mark.slow
@pytest.mark.parametrize("cls", [c for c in catalog.models().values() if issubclass(c, testing.ExactLikelihood)])
@pytest.mark.parametrize("space", [ImageSpace(1, 4, 3, levels=2), ImageSpace(3, 2, 2, levels=3), ImageSpace(2, 2, 2, levels=3)])
def test_samples_follow_the_model_on_larger_spaces(cls: type[ImageModel], space: ImageSpace) -> None:
    testing.samples_follow_the_model(cls, (space,))


@pytest.mark.parametrize("cls", catalog.models().values())
def test_defaults_fit_any_size_or_say_the_smallest(cls: type[ImageModel]) -> None:
    for size in ((3, 3), (3, 64), (64, 64), (1, 64), (17, 5)):
        for channels in (1, 3, 4):
            try:
                cls(ImageSpace(channels, *size))
            except ValueError as error:
                assert f"{cls.smallest[0]}×{cls.smallest[1]}" in str(error) or "at most" in str(error)


@pytest.mark.parametrize("cls", catalog.models().values())
def test_refused_views_carry_their_reason(cls: type[ImageModel]) -> None:
    for view, reason in cls.refuses.items():
        assert issubclass(view, testing.View) and len(reason) > 10


def test_check_model_names_what_is_broken() -> None:
    """The contract can fail: a model that looks ahead, and one that does not sum to one, are caught by name."""
    import torch

    from pofx.models.autoregressive.pixelcnn import PixelCNN

    class Peeking(PixelCNN):
        def conditional_log_prob(self, x, given):
            return super().conditional_log_prob(x, given) + 1e-12 * x.flip(-1).to(self.dtype)

    class Heavy(PixelCNN):
        def conditional_log_prob(self, x, given):
            return super().conditional_log_prob(x, given) + 1e-6

    torch.manual_seed(0)
    with pytest.raises(AssertionError, match="does not come before"):
        testing.is_causal(Peeking)
    with pytest.raises(AssertionError, match="sums to"):
        testing.sums_to_one(Heavy)
    with pytest.raises(AssertionError, match="differs from the full pass"):
        testing.steps_equal_the_full_pass(Heavy)
