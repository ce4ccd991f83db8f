"""Sharpness of images: the variance of the Laplacian (Pech-Pacheco et al. 2000), and what samples have of it beside real images.

    L(i, j) = x(i−1, j) + x(i+1, j) + x(i, j−1) + x(i, j+1) − 4 x(i, j),      sharpness(x) = Var_ij L

on pixels in [0, 1], inside the image alone, the mean over channels. It measures what changes from a pixel to the next, so noise counts like
edges do (noise of variance σ² has 20σ²): a share below 1 is a blur, a share above 1 may be noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pofx.errors import InputError
from pofx.metrics.mean import Mean


@dataclass(frozen=True)
class Sharpness:
    """The mean sharpness of samples and of real images, in squared units of the pixel range.

    Attributes:
        samples, real: the means; samples_se, real_se: their standard errors.
        n, n_reference: how many images on either side.
    """

    samples: float
    samples_se: float
    real: float
    real_se: float
    n: int
    n_reference: int

    @property
    def share(self) -> float:
        """samples / real: 1 is as sharp as real images, less is blurred, more is sharper or noisier. NaN where real images are flat."""
        return self.samples / self.real if self.real > 0 else math.nan

    @property
    def share_se(self) -> float:
        """Standard error of the share, to first order in both means."""
        if not (self.real > 0 and self.samples > 0):
            return math.nan
        return self.share * math.hypot(self.samples_se / self.samples, self.real_se / self.real)


def laplacian_variance(x: Tensor, levels: int) -> Tensor:
    """Variance of the Laplacian of uint8 images `(n, C, H, W)` with values 0 … levels−1: float64 `(n,)`.

    Raises:
        InputError: images below 3×3 have no inside.

    >>> board = (torch.arange(4)[:, None] + torch.arange(4)) % 2
    >>> laplacian_variance(board[None, None].to(torch.uint8), levels=2)  # ±4
    tensor([16.], dtype=torch.float64)
    """
    if x.ndim != 4 or min(x.shape[2:]) < 3:
        raise InputError(f"Sharpness needs images (n, C, H, W) of at least 3×3, found {tuple(x.shape)}.")
    parts = []
    for part in x.split(max(1, 2**22 // x[0].numel())):  # a part at a time: float64 stays under 32 MB
        p = part.double() / (levels - 1)
        inside = p[:, :, 1:-1, 1:-1]
        laplacian = p[:, :, :-2, 1:-1] + p[:, :, 2:, 1:-1] + p[:, :, 1:-1, :-2] + p[:, :, 1:-1, 2:] - 4 * inside
        parts.append(laplacian.flatten(2).var(2, correction=0).mean(1).cpu())
    return torch.cat(parts)


def sharpness(samples: Tensor, real: Tensor, levels: int) -> Sharpness:
    """Mean sharpness of samples and of real images, uint8 `(n, C, H, W)` and `(m, C, H, W)`.

    Raises:
        InputError: images below 3×3, or none on a side.

    >>> x = torch.randint(0, 17, (50, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    >>> sharpness(x, x, 17).share
    1.0
    """
    if not len(samples) or not len(real):
        raise InputError(f"Sharpness needs images on each side, found {len(samples)} and {len(real)}.")
    a, b = Mean.of(laplacian_variance(samples, levels)), Mean.of(laplacian_variance(real, levels))
    return Sharpness(a.mean, a.se, b.mean, b.se, len(samples), len(real))
