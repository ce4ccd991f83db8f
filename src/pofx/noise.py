"""Randomness as an argument: noise is a pure function of (seed, image index, site), the same on every device.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), a counter-based generator:
word = Philox(key = seed, counter = (block, site, image)). There is no state, so nothing has to be saved or synchronised,
and image k of a batch gets the noise it gets alone. All arithmetic is on integers, hence exact everywhere; floats are
made on the CPU and moved.
"""

from __future__ import annotations

import math
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_M32 = 0xFFFFFFFF
_31, _32, _LOW = np.uint64(31), np.uint64(32), np.uint64(_M32)

Words = NDArray[np.uint64]  # of 32 bits


def _philox(c0: Words, c1: Words, c2: Words, c3: Words, key: tuple[int, int]) -> tuple[Words, Words, Words, Words]:
    """The rounds on NumPy's uint64, which hold the product of two words: a third of the time that int64 tensors take. Shapes broadcast."""
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c2 = (p1 >> _32) ^ (c1 ^ np.uint64(k0)), (p0 >> _32) ^ (c3 ^ np.uint64(k1))
        p0 &= _LOW
        p1 &= _LOW
        c1, c3 = p1, p0
        k0, k1 = (k0 + 0x9E3779B9) & _M32, (k1 + 0xBB67AE85) & _M32
    return c0, c1, c2, c3


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds of Philox4x32 on 32-bit words held in int64; the published constants."""
    c0, c1, c2, c3 = (c.numpy().astype(np.uint64) for c in counter)
    a, b, c, d = (torch.from_numpy(word.view(np.int64)) for word in _philox(c0, c1, c2, c3, key))
    return a, b, c, d


def hash_images(x: Tensor) -> Tensor:
    """A 63-bit key per image, from its pixels alone: uint8 `(N, …)` → int64 `(N,)` ≥ 0.

    Σ_i (x_i + 1)·w_i mod 2^64 with fixed odd Philox words w: the same for an image whatever batch it comes in.
    """
    flat = x.reshape(len(x), -1).cpu().long()
    weights = (Noise(0, torch.zeros(1, dtype=torch.long)).bits("hash", flat.shape[1])[0] << 1) | 1
    key = ((flat + 1) * weights).sum(1)
    key = (key ^ ((key >> 29) & 0x7FFFFFFFF)) * 0x5851F42D4C957F2D
    return (key ^ (key >> 32)) & 0x7FFFFFFFFFFFFFFF


class Noise:
    """Noise for n images, each keyed by (seed, its own index, site).

    Args:
        seed: any integer.
        images: int64 `(n,)`, the index (or hash) that keys each image.

    >>> alone, batch = Noise(0, torch.tensor([5])), Noise(0, torch.arange(8))
    >>> bool((alone.normal("z", 3) == batch.normal("z", 3)[5:6]).all())
    True
    """

    def __init__(self, seed: int, images: Tensor) -> None:
        self.seed = seed
        self.images = images.detach().cpu().long()

    def __len__(self) -> int:
        return len(self.images)

    def bits(self, site: str, count: int) -> Tensor:
        """`count` 63-bit words per image: int64 `(n, count)` ≥ 0."""
        block = np.arange((count + 1) // 2, dtype=np.uint64)
        image = self.images.numpy().view(np.uint64)[:, None]
        key = (self.seed & _M32, (self.seed >> 32) & _M32)
        a, b, c, d = _philox(block, np.array([crc32(site.encode())], np.uint64), image & _LOW, image >> _32, key)
        words = np.empty((len(image), len(block), 2), np.uint64)
        words[..., 0], words[..., 1] = (a << _31) ^ b, (c << _31) ^ d
        return torch.from_numpy(words.view(np.int64)).flatten(1)[:, :count]

    def uniform(self, site: str, *shape: int) -> Tensor:
        """float64 `(n, *shape)`, uniform in the open interval (0, 1)."""
        words = self.bits(site, math.prod(shape)) >> 10
        return ((words.double() + 0.5) * 2.0**-53).reshape(-1, *shape)

    def normal(self, site: str, *shape: int) -> Tensor:
        """float64 `(n, *shape)`, standard normal (Box and Muller 1958)."""
        count = math.prod(shape)
        half = (count + 1) // 2
        u = self.uniform(site, 2, half)
        radius, angle = torch.sqrt(-2 * torch.log(u[:, 0])), 2 * math.pi * u[:, 1]
        return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], 1)[:, :count].reshape(-1, *shape)

    def keep(self, site: str, like: Tensor, p: float) -> Tensor:
        """A dropout mask for `like` `(n, …)`: 0 with probability p, else 1/(1−p), of its dtype and device.

        One Philox word per (image, site) seeds a cheap 32-bit integer hash of the element's position
        (lowbias32, Wellons 2018), since a full Philox block per activation would cost more than the convolution.
        """
        key = (self.bits(f"keep/{site}", 1)[:, 0] & 0x7FFFFFFF).to(torch.int32).to(like.device)
        inner = math.prod(like.shape[1:])
        h = torch.arange(inner, dtype=torch.int32, device=like.device) * -1640531527 ^ key[:, None]  # golden ratio, 2^32/φ
        for shift, multiplier in ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32)):
            h = (h ^ ((h >> shift) & ((1 << (32 - shift)) - 1))) * multiplier
        h = h ^ ((h >> 16) & 0xFFFF)
        threshold = int(p * 2**32) - 2**31
        return (h >= threshold).to(like.dtype).mul_(1 / (1 - p)).reshape(like.shape)
