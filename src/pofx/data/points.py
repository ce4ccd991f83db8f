"""`points-grid`, `points-ring`: points in the plane as images of two pixels, so that every model here learns a density that a person can see.

    x = round(centre_k + SD · ε),   k uniform,   ε ~ N(0, I₂)

An image is 1×2, 256 levels: its first pixel is the horizontal, its second the vertical coordinate. The grid has 5 × 5 Gaussians that lie 40 SD apart,
the ring has 8 (Metz et al. 2017, "Unrolled GANs"; the ratios are those of Srivastava et al. 2017). The label is k. Points are drawn by `pofx.noise`:
the same on every machine. How samples meet the modes is said by `pofx.metrics.mode_coverage`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pofx.errors import InputError
from pofx.noise import Noise

COUNT, SD = 20_000, 1.275  # SD in levels: 0.05 where modes of the grid lie 2 apart
NAMES = ("points-grid", "points-ring")


def centres(name: str) -> Tensor:
    """Where the modes are, float64 `(modes, 2)` in levels.

    Raises:
        InputError: a set that is not of this kind.

    >>> centres("points-grid").shape, centres("points-ring").shape
    (torch.Size([25, 2]), torch.Size([8, 2]))
    """
    if name == "points-grid":
        at = 127.5 + 51 * torch.arange(-2, 3, dtype=torch.float64)
        return torch.cartesian_prod(at, at)
    if name == "points-ring":
        angle = torch.arange(8, dtype=torch.float64) * (2 * math.pi / 8)
        return 127.5 + 102 * torch.stack([angle.cos(), angle.sin()], 1)
    raise InputError(f"{name!r} has no modes that are known. Sets of points are {' and '.join(NAMES)}.")


def draw(name: str, n: int = COUNT) -> tuple[Tensor, Tensor]:
    """The first n points: uint8 `(n, 1, 1, 2)`, and their modes, int64 `(n,)`.

    >>> x, k = draw("points-ring", 4)
    >>> bool(((x[:, 0, 0].double() - centres("points-ring")[k]).abs() < 5 * SD).all())
    True
    """
    modes = centres(name)
    noise = Noise(0, torch.arange(n))
    k = (noise.uniform(f"{name}/mode", 1)[:, 0] * len(modes)).long()
    x = modes[k] + SD * noise.normal(f"{name}/point", 2)
    return x.round().clamp(0, 255).to(torch.uint8)[:, None, None, :], k
