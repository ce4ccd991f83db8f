"""What is particular to FVBN and MADE: their weights are the paper's, and what they see is exactly the past."""

from __future__ import annotations

import pytest
import torch

from pofx.errors import InputError
from pofx.models.autoregressive.fvbn import FVBN
from pofx.models.autoregressive.made import MADE
from pofx.nn.ordered import OrderedLinear
from pofx.space import ImageSpace
from pofx.testing import densify, jacobian, random_images


@pytest.mark.parametrize("cls", [FVBN, MADE])
@pytest.mark.parametrize("space", [ImageSpace(1, 4, 5, levels=4), ImageSpace(3, 2, 2, levels=3)])
def test_every_past_sub_pixel_is_seen_and_no_other(cls, space: ImageSpace) -> None:
    seen = torch.zeros(space.dims, space.dims, dtype=torch.bool)
    for seed in range(4):
        model = cls(space).double()
        densify(model, seed)
        seen |= jacobian(model, random_images(1, space, seed)) != 0
    seen.fill_diagonal_(False)
    rank = torch.empty(space.dims, dtype=torch.long)
    rank[torch.cat(model.order())] = torch.arange(space.dims)
    assert torch.equal(seen, rank[None] < rank[:, None])


def test_fvbn_is_one_logistic_regression_per_pixel() -> None:
    """Against scikit-learn's: the optimum of the last pixel's weights is that of a regression on the others."""
    from sklearn.linear_model import LogisticRegression

    space = ImageSpace(1, 2, 2, levels=2)
    x = (random_images(4000, space) + random_images(4000, space, 1) > 0).to(torch.uint8)
    x[:, :, 1, 1] ^= x[:, :, 0, 0] & x[:, :, 0, 1]
    model = FVBN(space).double()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, tolerance_grad=1e-10, tolerance_change=1e-14)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = -model.log_prob(x).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    inputs = x.flatten(1)[:, :3].double() * 2 - 1
    fit = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000).fit(inputs.numpy(), x.flatten(1)[:, 3].numpy())
    assert torch.allclose(model.net.out.weight[3, :3], torch.tensor(fit.coef_[0]), atol=1e-3)


def test_masked_weights_stay_zero() -> None:
    model = MADE(ImageSpace(1, 3, 3, levels=3), hidden=20)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        (-model.log_prob(random_images(8, model.space)).mean()).backward()
        optimizer.step()
    for layer in model.modules():
        if isinstance(layer, OrderedLinear):
            assert not bool(layer.weight[layer.mask == 0].any())


@pytest.mark.parametrize("cls", [FVBN, MADE])
def test_images_too_large_are_refused_with_the_fix(cls) -> None:
    with pytest.raises(InputError, match="--size"):
        cls(ImageSpace(3, 64, 64))
