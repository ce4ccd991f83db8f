"""Conversions that make pixels coarser. Each has a name, is recorded, and is printed above every number.

On integers x ∈ {0 … L−1}:

    levels K     ⌊x·K / L⌋
    threshold    ⌊x·2 / L⌋, which for 256 levels is x ≥ 128
    dynamic      a draw of Bernoulli(x / (L−1))
    gray         (299 r + 587 g + 114 b + 500) // 1000, as `pofx.views.Gray`
    size H×W     mean over the area that a new pixel covers (Pillow's "box"); enlarging repeats pixels and invents none.
                 The whole image is stretched to H×W: nothing is cropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pofx.errors import InputError
from pofx.noise import Noise

RESAMPLING = "box"
Pixels8 = NDArray[np.uint8]


def luma(x: Pixels8) -> Pixels8:
    """BT.601 luma of uint8 `(…, 3, H, W)`, rounded: `(…, 1, H, W)`.

    >>> luma(np.array([255, 0, 0], np.uint8).reshape(3, 1, 1)).item()
    76
    """
    r, g, b = (x[..., c, :, :].astype(np.uint32) for c in range(3))
    return ((299 * r + 587 * g + 114 * b + 500) // 1000).astype(np.uint8)[..., None, :, :]


def over_white(x: Pixels8) -> Pixels8:
    """Composite RGBA uint8 `(…, 4, H, W)` over white: `(…, 3, H, W)`, rounded.

    >>> over_white(np.array([0, 0, 0, 0], np.uint8).reshape(4, 1, 1)).ravel().tolist()
    [255, 255, 255]
    """
    alpha = x[..., 3:, :, :].astype(np.uint32)
    return ((x[..., :3, :, :] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def requantize(x: Pixels8, old: int, new: int) -> Pixels8:
    """⌊x·new / old⌋ for values 0 … old−1.

    >>> requantize(np.array([0, 127, 128, 255], np.uint8), 256, 2).tolist()
    [0, 0, 1, 1]
    """
    return x if new == old else (np.arange(old) * new // old).astype(np.uint8)[x]


def resize(x: Pixels8, size: tuple[int, int]) -> Pixels8:
    """One image uint8 `(C, h, w)` → `(C, *size)`, each channel by itself with the box filter."""
    if x.shape[1:] == size:
        return x
    height, width = size
    return np.stack([np.asarray(Image.fromarray(np.ascontiguousarray(c)).resize((width, height), Image.Resampling.BOX)) for c in x])


def bernoulli(x: Tensor, levels: int, noise: Noise, site: str) -> Tensor:
    """Draw each sub-pixel of uint8 `x` `(n, C, H, W)` as 1 with probability x/(levels−1); `noise` has one key per image."""
    out = torch.empty_like(x)
    for i in range(0, len(x), 512):  # a draw takes about a hundred times the memory of its pixels
        part = x[i : i + 512]
        u = Noise(noise.seed, noise.images[i : i + 512]).uniform(site, *part.shape[1:])
        out[i : i + 512] = u < part.double() / (levels - 1)
    return out


@dataclass(frozen=True)
class Conversion:
    """What is done to decoded images, in this order: gray, size, levels."""

    gray: bool = False
    size: tuple[int, int] | None = None
    old_levels: int = 256
    levels: int = 256

    def __call__(self, x: Pixels8) -> Pixels8:
        """uint8 `(n, C, h, w)` in 0 … old_levels−1 → uint8 `(n, C', H, W)` in 0 … levels−1."""
        if self.gray and x.shape[1] == 3:
            x = luma(x)
        if self.size and x.shape[2:] != self.size:
            x = np.stack([resize(image, self.size) for image in x]) if len(x) else np.empty((0, x.shape[1], *self.size), np.uint8)
        return requantize(x, self.old_levels, self.levels)


def parse_size(size: Any) -> tuple[int, int] | None:
    """`--size`: `28` is 28×28, `40x24` is height 40 and width 24; raises InputError.

    >>> parse_size("40x24"), parse_size(28), parse_size(None)
    ((40, 24), (28, 28), None)
    """
    if size is None:
        return None
    if isinstance(size, int) and not isinstance(size, bool):
        pair = [size, size]
    elif isinstance(size, (tuple, list)):
        pair = list(size)
    else:
        pair = [int(p) if p.strip().isdecimal() else 0 for p in str(size).lower().replace("×", "x").split("x")]
        pair = pair * 2 if len(pair) == 1 else pair
    if len(pair) != 2 or not all(isinstance(p, int) and 1 <= p <= 1 << 14 for p in pair):
        raise InputError(f"--size {size!r}: height and width in pixels are needed, e.g. --size 32x32.")
    return pair[0], pair[1]
