"""Augmentations inside a model, on pixels on [−1, 1], through which a gradient flows.

Of what a critic sees, real and generated alike (Zhao et al. 2020, "Differentiable augmentation for data-efficient GAN training"). The generator
learns p(x), not the augmented p: it is judged by the augmented images of both.

    geometry    shift by up to an eighth of either side, zeros come in; a rectangle of half the sides is cut out
    all         also brightness, saturation and contrast

Of images whose label must stay (`distort`): turned by up to 30°, sheared, resized and moved a little, the edge repeated; and a rectangle of half
the sides is cut out. Each image gets its own draw, of the noise of its entry.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pofx.noise import Noise

Augment = Literal["none", "geometry", "all"]


def augment(x: Tensor, how: Augment, noise: Noise, site: str) -> Tensor:
    """`(n, C, H, W)` → the same shape.

    >>> x = torch.zeros(2, 1, 4, 4)
    >>> augment(x, "none", Noise(0, torch.arange(2)), "") is x
    True
    """
    if how == "none":
        return x
    u = noise.uniform(f"diffaugment/{site}", 7).to(x)
    if how == "all":
        x = _colour(x, u[:, 4:, None, None, None])
    return _cut_out(_shift(x, u[:, :2]), u[:, 2:4])


def distort(x: Tensor, noise: Noise, site: str) -> Tensor:
    """`(n, C, H, W)` → the same shape: a random affine map, and a hole.

    >>> x = torch.ones(2, 1, 8, 8)
    >>> distort(x, Noise(0, torch.arange(2)), "").round().unique().tolist()
    [0.0, 1.0]
    """
    u = 2 * noise.uniform(f"distort/{site}", 8).to(x) - 1
    angle, size, shear = math.pi / 6 * u[:, 0], torch.exp(0.2 * u[:, 1]), 0.3 * u[:, 2]
    cos, sin = torch.cos(angle) * size, torch.sin(angle) * size
    rows = torch.stack([cos, shear * cos - sin, 0.2 * u[:, 3], sin, shear * sin + cos, 0.2 * u[:, 4]], 1).reshape(-1, 2, 3)
    grid = F.affine_grid(rows, list(x.shape), align_corners=False)
    moved = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return _cut_out(moved, (u[:, 5:7] + 1) / 2)


def _colour(x: Tensor, u: Tensor) -> Tensor:
    x = x + (u[:, 0] - 0.5)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (2 * u[:, 1])
    level = x.mean((1, 2, 3), keepdim=True)
    return level + (x - level) * (u[:, 2] + 0.5)


def _places(size: int, x: Tensor) -> Tensor:
    return torch.arange(size, device=x.device)


def _shift(x: Tensor, u: Tensor) -> Tensor:
    n, _, height, width = x.shape
    by = [((2 * reach + 1) * u[:, i : i + 1]).floor().long() - reach for i, reach in enumerate(((height + 4) // 8, (width + 4) // 8))]
    rows, columns = _places(height, x) - by[0], _places(width, x) - by[1]
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None, None, :]
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    moved = x[torch.arange(n, device=x.device)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return moved * inside


def _cut_out(x: Tensor, u: Tensor) -> Tensor:
    keep: Tensor | None = None
    for i, size in enumerate(x.shape[2:]):
        half, middle = size / 4, u[:, i : i + 1] * size
        inside = (_places(size, x) + 0.5 - middle).abs() < half
        inside = inside[:, :, None] if i == 0 else inside[:, None, :]
        keep = inside if keep is None else keep & inside
    assert keep is not None
    return x * ~keep[:, None]
