"""Receptive fields, and the figures made of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from pofx.errors import CapabilityError, InputError
from pofx.models.autoregressive.gated_pixelcnn import GatedPixelCNN
from pofx.models.autoregressive.multiscale import Multiscale
from pofx.models.autoregressive.pixelcnn import PixelCNN
from pofx.models.variational.vae import VAE
from pofx.space import ImageSpace
from pofx.tasks.receptive_field import receptive_field
from pofx.views import Label

SPACE = ImageSpace(1, 7, 6, levels=3)


def test_what_is_seen_is_past() -> None:
    """A PixelCNN has a blind spot, a gated one of enough layers has none, and neither sees ahead."""
    raster = torch.arange(42).reshape(1, 7, 6) < 4 * 6 + 2
    narrow = receptive_field(PixelCNN(SPACE, layers=1, channels=4, first_kernel=3), 4, 2)
    assert bool((narrow.seen <= raster).all()) and bool((raster & ~narrow.seen).any())
    full = receptive_field(GatedPixelCNN(SPACE, layers=5, channels=8), 4, 2)
    assert torch.equal(full.seen, raster) and torch.equal(full.past, raster) and not bool(full.blind.any())


def test_the_model_is_left_as_it_was() -> None:
    model = GatedPixelCNN.small(SPACE)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    receptive_field(model, 1, 1)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_group_does_not_see_itself() -> None:
    model = Multiscale.small(SPACE)
    field = receptive_field(model, 3, 3)
    assert bool((field.seen <= field.past).all())
    group = next(g for g in model.order() if 3 * 6 + 3 in g.tolist())
    assert len(group) > 1 and not bool(field.past.flatten()[group].any())


def test_wrong_questions_are_refused() -> None:
    with pytest.raises(CapabilityError):
        receptive_field(VAE.small(SPACE), 0, 0)
    with pytest.raises(InputError, match="no sub-pixel"):
        receptive_field(PixelCNN.small(SPACE), 7, 0)
    with pytest.raises(InputError, match="without given"):
        receptive_field(PixelCNN.small(SPACE, Label(3)), 0, 0)


def figures() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "docs" / "figures.py"
    spec = importlib.util.spec_from_file_location("figures", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("height", "width"), [(9, 9), (3, 5), (1, 4)])
def test_the_diagonal_order_takes_height_plus_width_minus_one_steps(height: int, width: int) -> None:
    module = figures()
    frames = list(module.diagonal_order(height, width))
    assert len(frames) == height + width - 1
    done = [int((frame[18:, : width * module.CELL] == module.ASKED).sum()) // (module.CELL - 1) ** 2 for frame in frames]
    assert sum(done) == height * width  # each pixel is made once
    assert all(np.array_equal(frame.shape, frames[0].shape) for frame in frames)
