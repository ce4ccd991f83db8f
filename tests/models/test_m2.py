"""M2: its bounds are those of the paper, on spaces where all images and labels can be listed."""

from __future__ import annotations

import math

import pytest
import torch

from pofx import catalog
from pofx.errors import InputError
from pofx.model import Context
from pofx.models.variational.m2 import M2
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.testing import densify, every_image, quadrature_log_prob, random_images
from pofx.views import Label, PartialLabel, Top

SPACE = ImageSpace(1, 2, 2, levels=2)


def made(given=None) -> M2:
    torch.manual_seed(0)
    model = densify(M2.small(SPACE, given).double())
    assert isinstance(model, M2)
    return model


def test_u_is_the_mean_of_l_under_q_and_its_entropy() -> None:
    """−U = Σ_y q(y|x)(−L(x, y)) + H(q), each −L by asking for p(x | y) alone (equation 7)."""
    model, told = made(), made(Label(3))
    x = every_image(SPACE)
    with torch.no_grad():
        log_q = model.label(x).log_prob
        each = torch.stack([told.elbo(x, y) - math.log(3) for y in range(3)], 1)
        expected = (log_q.exp() * each).sum(1) - (log_q.exp() * log_q).sum(1)
        assert torch.allclose(model.elbo(x), expected, atol=1e-12)


def test_partial_labels_are_answered_image_by_image() -> None:
    free, told, partial = made(), made(Label(3)), made(PartialLabel(3))
    x, y = every_image(SPACE)[:6], torch.tensor([-1, 0, 1, 2, -1, 2])
    with torch.no_grad():
        found = partial.elbo(x, y)
        assert torch.allclose(found[y < 0], free.elbo(x)[y < 0]) and torch.allclose(found[y >= 0], told.elbo(x, y.clamp(min=0))[y >= 0])
        estimate = partial.log_prob_estimate(x, y, samples=4)
        assert torch.allclose(estimate[y < 0], free.log_prob_estimate(x, samples=4)[y < 0])


def test_the_bound_lies_below_log_p_and_p_sums_to_one() -> None:
    model, x = made(), every_image(SPACE)
    with torch.no_grad():
        exact = quadrature_log_prob(model, x)
        bound = torch.stack([model.elbo(x, samples=8, seed=s) for s in range(40)])
    assert float(exact.exp().sum()) == pytest.approx(1, abs=1e-6)
    assert bool((bound.mean(0) - 4 * bound.std(0) / 40**0.5 <= exact).all())


def test_both_kinds_of_image_move_the_classifier() -> None:
    for y in (torch.full((8,), -1), torch.arange(8) % 3):
        model = made()
        loss, _ = model.objectives()[0].loss(model.batch(random_images(8, SPACE), y), Context(3, 0.5, Noise(0, torch.arange(8))))
        loss.backward()
        assert all(p.grad is not None and bool(p.grad.any()) for p in model.answers.parameters())


def test_bad_input() -> None:
    with pytest.raises(InputError, match="classes=7"):
        M2(SPACE, Label(7), classes=3)
    with pytest.raises(InputError, match="label or partial-label"):
        M2(SPACE, Top(1))
    with pytest.raises(InputError, match="They must agree"):
        M2(SPACE, classes=3, labeler=catalog.get("classifier").small(SPACE))
    model = made()
    with pytest.raises(InputError, match="--classes 10"):
        model.objectives()[0].loss(model.batch(random_images(1, SPACE), torch.tensor([9])), Context(0, 0.0, Noise(0, torch.arange(1))))
