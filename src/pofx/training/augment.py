"""Augmentation of training images: a random but reproducible symmetry of each one. Never used where anything is scored.

flip    mirrored left to right, with probability ½
shift   moved by −2 … 2 pixels down and right; the edge is repeated
mutate  each sub-pixel is, with probability MUTATED, any value: what is left is the background, not the meaning (Ren et al. 2019, §4). A model of such
        images is no model of the data; it is there for `pofx outliers --background`
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from pofx.errors import InputError, nearest
from pofx.noise import Noise

SHIFT = 2  # pixels
MUTATED = 0.2


def flip(x: Tensor, noise: Noise) -> Tensor:
    mirrored = noise.uniform("augment/flip", 1)[:, 0] < 0.5
    return torch.where(mirrored[:, None, None, None], x.flip(-1), x)


def shift(x: Tensor, noise: Noise) -> Tensor:
    n, _, height, width = x.shape
    by = (noise.uniform("augment/shift", 2) * (2 * SHIFT + 1)).floor().long() - SHIFT
    rows = (torch.arange(height) - by[:, :1]).clamp(0, height - 1)
    columns = (torch.arange(width) - by[:, 1:]).clamp(0, width - 1)
    return x[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def mutate(x: Tensor, noise: Noise, levels: int) -> Tensor:
    shape = x.shape[1:]
    drawn = (noise.uniform("augment/mutate/value", *shape) * levels).floor().clamp(max=levels - 1).to(x.dtype)
    return torch.where(noise.uniform("augment/mutate", *shape) < MUTATED, drawn, x)


AUGMENTATIONS = ("flip", "shift", "mutate")


def check(names: Iterable[str]) -> tuple[str, ...]:
    """The names in their fixed order, or InputError for one that does not exist.

    >>> check(["shift", "flip"])
    ('flip', 'shift')
    """
    if isinstance(names, str):
        names = [name for name in names.replace(",", " ").split() if name]
    names = list(names)
    for name in names:
        if name not in AUGMENTATIONS:
            raise InputError(f"No augmentation is called {name!r}. {nearest(name, AUGMENTATIONS)}")
    return tuple(name for name in AUGMENTATIONS if name in names)


def augment(x: Tensor, names: Iterable[str], noise: Noise, levels: int = 256) -> Tensor:
    """The augmented images: uint8 `(n, C, H, W)` of so many levels → the same shape; image i is drawn with the noise of entry i."""
    made = {"flip": flip, "shift": shift, "mutate": partial(mutate, levels=levels)}
    for name in names:
        x = made[name](x, noise)
    return x
