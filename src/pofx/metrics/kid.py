"""Kernel distance of two sets of feature vectors (Bińkowski et al. 2018, "Demystifying MMD GANs", §4): the unbiased squared MMD with a cubic kernel.

    k(x, y) = (xᵀy / d + 1)³
    MMD²    = Σ_{i≠j} k(x_i, x_j) / n(n−1) + Σ_{i≠j} k(y_i, y_j) / m(m−1) − 2 Σ_ij k(x_i, y_j) / nm

Its expectation is 0 where both sets come from one distribution, whatever n is, and it may then fall below 0; a Fréchet distance is too large for
few images. It compares the first three moments of the features, in their own unit: published numbers are of the features of Inception as
they are. Where features come from elsewhere and are large, the third moment drowns the rest, so they may be divided by a `scale`
first. The paper averages over subsets drawn with overlap; here the blocks are disjoint and hold every image once, so their estimates are independent
and sd / √blocks is the standard error. All in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pofx.errors import InputError
from pofx.metrics.mean import Mean

BLOCKS = 10


@dataclass(frozen=True)
class KernelDistance:
    """A kernel distance with its protocol.

    Attributes:
        distance: mean of MMD² over the blocks, unitless; unbiased, so it may be negative.
        se: its standard error over the blocks; NaN for one block.
        blocks: how many disjoint parts the images were dealt into.
        n, n_reference: how many images on either side.
        dims: length of a feature vector.
        scale: what features were divided by.
    """

    distance: float
    se: float
    blocks: int
    n: int
    n_reference: int
    dims: int
    scale: float = 1.0


def squared_mmd(x: Tensor, y: Tensor) -> float:
    """Unbiased MMD² of `(n, d)` and `(m, d)` under (xᵀy/d + 1)³; n, m ≥ 2.

    >>> squared_mmd(torch.zeros(2, 1), torch.ones(2, 1))  # k = 1 among zeros, 8 among ones, 1 across
    7.0
    """
    x, y = x.double(), y.double()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def others(a: Tensor) -> Tensor:
        k = kernel(a, a)
        return (k.sum() - k.diagonal().sum()) / (len(a) * (len(a) - 1))

    return float(others(x) + others(y) - 2 * kernel(x, y).mean())


def kernel_distance(features: Tensor, reference: Tensor, *, blocks: int = BLOCKS, scale: float = 1.0, seed: int = 0) -> KernelDistance:
    """KID of features `(n, d)` against `(m, d)`: the mean of MMD² over disjoint random blocks, with its standard error.

    Args:
        blocks: at most; fewer where a side has fewer than two images for each.
        scale: what features are divided by, above 0.
        seed: of the deal into blocks.

    Raises:
        InputError: different d, fewer than two vectors on a side, or no block.

    >>> x = torch.arange(8.0)[:, None]
    >>> kernel_distance(x, x, blocks=1).blocks
    1
    """
    if features.ndim != 2 or reference.ndim != 2 or features.shape[1] != reference.shape[1]:
        raise InputError(f"The kernel distance needs (n, d) and (m, d), found {tuple(features.shape)} and {tuple(reference.shape)}.")
    n, m, d = len(features), len(reference), features.shape[1]
    if min(n, m) < 2 or blocks < 1:
        raise InputError(f"The kernel distance needs at least 2 images on each side and 1 block, found {n}, {m} and {blocks}.")
    blocks = min(blocks, n // 2, m // 2)
    generator = torch.Generator().manual_seed(seed)
    deals = [torch.randperm(size, generator=generator).tensor_split(blocks) for size in (n, m)]
    x, y = features.double().cpu() / scale, reference.double().cpu() / scale
    found = [squared_mmd(x[i], y[j]) for i, j in zip(*deals, strict=True)]
    mean = Mean.of(torch.tensor(found, dtype=torch.double))
    return KernelDistance(mean.mean, mean.se, blocks, n, m, d, scale)
