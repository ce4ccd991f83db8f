"""How many bits a lossless codec takes for an image that knows nothing of the training images: a measure of complexity in the unit of a model.

    prediction   the median edge detector of JPEG-LS: med(a, b, a + b − c), a left, b above, c above left; 0 outside (Weinberger et al. 2000, §III.A)
    residual     x − prediction mod levels: as many values as a sub-pixel has, so that it can be undone
    code         adaptive arithmetic coding of residuals, with counters of its own for each of 5 activities |a − c| + |b − c|;
                 they start at 1/levels (Krichevsky and Trofimov 1981, with the prior of Perks)

An adaptive code of counts n_v with N = Σ n_v costs log2 Γ(N + 1) − Σ_v log2 [Γ(n_v + 1/L)/Γ(1/L)] bits, in whatever order they came: the length
is in closed form, for many images at once, with neither headers nor whole bytes, and equal on every machine. Why not PNG or WebP: a header of 30 to 70
bytes and a table of code lengths are most of the file of an 8×8 image, and the length changes with the library's version.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pofx.space import ImageSpace

CLASSES = 5  # of activity: 0, 1, up to L/64, up to L/16, above


def codec_bits(x: Tensor, space: ImageSpace) -> Tensor:
    """Bits of each image uint8 `(n, C, H, W)` by itself: `(n,)` float64.

    >>> space = ImageSpace(1, 28, 28)
    >>> flat, noise = torch.full((1, 1, 28, 28), 7, dtype=torch.uint8), torch.randint(0, 256, (1, 1, 28, 28), dtype=torch.uint8)
    >>> bool(codec_bits(flat, space) < 0.1 * space.dims), bool(codec_bits(noise, space) > 8 * space.dims)
    (True, True)
    """
    n, channels, levels = len(x), space.channels, space.levels
    v = x.long()
    around = F.pad(v, (1, 0, 1, 0))
    left, above, corner = around[..., 1:, :-1], around[..., :-1, 1:], around[..., :-1, :-1]
    low, high = torch.minimum(left, above), torch.maximum(left, above)
    prediction = torch.where(corner >= high, low, torch.where(corner <= low, high, left + above - corner))
    residual = (v - prediction) % levels
    if channels in (3, 4):  # a colour's residual is near that of the colour before
        residual = torch.cat([residual[:, :1], (residual[:, 1:3] - residual[:, :2]) % levels, residual[:, 3:]], 1)
    activity = (left - corner).abs() + (above - corner).abs()
    edges = torch.tensor([1, 2, max(2, 1 + levels // 64), max(2, 1 + levels // 16)], device=x.device)
    kind = torch.bucketize(activity, edges, right=True)
    plane = torch.arange(channels, device=x.device)[None, :, None, None]
    at = ((plane * CLASSES + kind) * levels + residual).flatten(1)
    counts = torch.zeros(n, channels * CLASSES * levels, dtype=torch.double, device=x.device)
    counts.scatter_add_(1, at, torch.ones_like(at, dtype=torch.double))
    prior = 1 / levels
    values = (torch.lgamma(counts + prior) - math.lgamma(prior)).sum(1)
    totals = torch.lgamma(counts.reshape(n, -1, levels).sum(2) + 1).sum(1)
    return (totals - values) / math.log(2)
