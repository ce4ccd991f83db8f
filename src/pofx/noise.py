"""Randomness as an argument: noise is a pure function of (seed, image index, site), the same on every device.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), a counter-based generator:
word = Philox(key = seed, counter = (block, site, image)). There is no state, so nothing has to be saved or synchronised,
and image k of a batch gets the noise it gets alone. All arithmetic is on integers, hence exact everywhere; floats are
made on the CPU and moved.
"""

from __future__ import annotations

import math
from zlib import crc32

import torch
from torch import Tensor

_M32 = 0xFFFFFFFF


def _mulhilo(a: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of the 64-bit product of two 32-bit words held in int64 (which wraps, keeping every bit)."""
    p = a * m
    return (p >> 32) & _M32, p & _M32


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds of Philox4x32 on 32-bit words held in int64; the published constants."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        hi0, lo0 = _mulhilo(c0, 0xD2511F53)
        hi1, lo1 = _mulhilo(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
        k0, k1 = (k0 + 0x9E3779B9) & _M32, (k1 + 0xBB67AE85) & _M32
    return c0, c1, c2, c3


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
        blocks = (count + 1) // 2
        block = torch.arange(blocks).expand(len(self.images), blocks)
        image = self.images[:, None].expand_as(block)
        counter = (block & _M32, torch.full_like(block, crc32(site.encode())), image & _M32, (image >> 32) & _M32)
        a, b, c, d = philox(counter, (self.seed & _M32, (self.seed >> 32) & _M32))
        words = torch.stack([(a << 31) ^ b, (c << 31) ^ d], -1).flatten(1)[:, :count]
        return words & 0x7FFFFFFFFFFFFFFF

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
