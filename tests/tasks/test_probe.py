"""The linear probe and the clusters, on points whose answer is known."""

from __future__ import annotations

import pytest
import torch

from pofx.errors import InputError
from pofx.tasks.probe import STRENGTHS, clusters, linear


def points(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two Gaussians of unit variance, 4 apart on the first axis: the best rule errs at Φ(−2) = 2.28 %."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    z = torch.randn(n, 5, generator=g)
    z[:, 0] += 4 * y
    return z, y


def test_a_probe_comes_near_the_best_straight_rule_at_any_scale() -> None:
    z, y = points(400, 0)
    test, test_y = points(4000, 1)
    scale = torch.tensor([1e-3, 1.0, 1e3, 1.0, 1.0])
    found = linear(z * scale + 7, y, test * scale + 7, test_y)
    assert found.accuracy.mean == pytest.approx(0.9772, abs=0.012) and found.strength in STRENGTHS
    assert found.accuracy.se == pytest.approx((0.9772 * 0.0228 / 4000) ** 0.5, rel=0.3)


def test_one_label_a_class_has_nothing_to_hold_out() -> None:
    z, y = points(2, 0)
    assert linear(z, y, *points(100, 1)).strength == 1.0


def test_shuffled_labels_are_chance() -> None:
    z, y = points(400, 0)
    shuffled = y[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    assert linear(z, shuffled, *points(4000, 1)).accuracy.mean == pytest.approx(0.5, abs=0.25)


def test_one_class_is_refused() -> None:
    z, _ = points(10, 0)
    with pytest.raises(InputError, match="of one class"):
        linear(z, torch.zeros(10, dtype=torch.long), z, torch.zeros(10, dtype=torch.long))


def test_clusters_of_what_is_apart_are_the_classes() -> None:
    z, y = points(300, 0)
    apart = z.clone()
    apart[:, 0] += 40 * y
    found = clusters(apart[:, :1], torch.rand(300, 4, generator=torch.Generator().manual_seed(2)), y)
    assert found.features == 1.0 and found.pixels < 0.1 and found.pca < 0.1 and found.clusters == 2
