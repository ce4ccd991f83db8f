"""Grids of images: stretched levels, whole-number scaling, every number of channels, series as stripes, atomic files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pofx import pictures
from pofx.errors import InputError


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
def test_levels_are_stretched_to_black_and_white(levels: int) -> None:
    x = np.array([0, levels - 1], np.uint8).reshape(1, 1, 1, 2).repeat(2, 2)
    found = np.asarray(pictures.grid(x, levels, scale=3, pad=0))
    assert found.shape == (6, 6, 3)
    assert (found[:, :3] == 0).all()
    assert (found[:, 3:] == 255).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_any_number_of_channels(channels: int) -> None:
    x = np.full((5, channels, 4, 6), 255, np.uint8)
    picture = pictures.grid(x, columns=2, scale=1, pad=1)
    assert picture.mode == "RGB"
    assert picture.size == (2 * (6 * (5 if channels == 5 else 1) + 1) + 1, 3 * 5 + 1)


def test_series_are_stripes_below_each_other() -> None:
    assert pictures.grid(np.zeros((7, 1, 1, 96), np.uint8), scale=1, pad=1).size == (98, 7 * 9 + 1)


@pytest.mark.parametrize("x", [np.zeros((0, 1, 2, 2), np.uint8), np.zeros((2, 2), np.uint8), np.zeros((1, 1, 2, 2))])
def test_what_is_no_picture(x: np.ndarray) -> None:
    with pytest.raises(InputError, match="uint8 images"):
        pictures.grid(x)


def test_saved_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "a.png"
    pictures.save(Image.new("L", (3, 3)), path)
    before = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o666 & ~pictures._umask()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        pictures.save(Image.new("L", (9, 9)), path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]
    with pytest.raises(InputError, match=".png"):
        pictures.save(Image.new("L", (3, 3)), tmp_path / "a.xyz")


@pytest.mark.parametrize("levels", [2, 3, 17, 28, 100, 255, 256])
def test_what_was_drawn_is_read_back_with_the_same_levels(levels: int) -> None:
    x = np.arange(levels).astype(np.uint8).reshape(1, 1, 1, levels).repeat(2, 2)
    drawn = np.asarray(pictures.grid(x, levels, scale=1, pad=0))[0, :, 0]
    assert (drawn.astype(int) * levels // 256).tolist() == list(range(levels))
