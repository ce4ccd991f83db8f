"""Small binary images whose p(x) is known: patterns, each pixel flipped now and then. All images of their space can be counted.

    p*(x) = 1/K Σ_k ∏_i (1 − f)^[x_i = m_ki] f^[x_i ≠ m_ki]         K patterns m_k, flip f

Draws of p* are training images; p* itself is there to compare with.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pofx.errors import InputError
from pofx.noise import Noise
from pofx.space import ImageSpace

if TYPE_CHECKING:
    from pofx.data import Data
    from pofx.model import ImageModel

LINES = "111000000,000111000,000000111/100100100,010010010,001001001"  # three rows, label 0; three columns, label 1
HALVES = "1100,1000,0100/0011,0010,0001"  # of 2×2: ink above, ink below
PARTS = {"train": 1.0, "valid": 0.25, "calib": 0.25, "test": 0.25}  # how many images each part has, of those of train


@dataclass(frozen=True, eq=False)
class Patterns:
    """Patterns, their labels, and how often a pixel is flipped.

    Attributes:
        x: uint8 `(K, 1, side, side)`, each as probable as the others.
        y: int64 `(K,)`.
        flip: f, in [0, ½).
    """

    x: Tensor
    y: Tensor
    flip: float

    @property
    def space(self) -> ImageSpace:
        return ImageSpace(1, *self.x.shape[2:], levels=2)

    @property
    def classes(self) -> int:
        return int(self.y.max()) + 1

    def log_joint(self, images: Tensor) -> Tensor:
        """log p*(x, y) of uint8 `(n, 1, side, side)`: `(n, classes)` nats, float64; −∞ where it is 0."""
        wrong = (images[:, None] != self.x[None]).flatten(2).sum(2).double()
        right = self.space.dims - wrong
        flip = torch.tensor(self.flip, dtype=torch.double)
        each = torch.special.xlogy(right, 1 - flip) + torch.special.xlogy(wrong, flip) - math.log(len(self.x))
        return torch.stack([each[:, self.y == k].logsumexp(1) for k in range(self.classes)], 1)

    def data(self, n: int, *, seed: int = 0) -> Data:
        """Draws of p*: n training images, and a quarter as many in each other part."""
        from pofx.data import Data, Split

        parts, first = {}, 0
        for name, share in PARTS.items():
            count = max(1, round(share * n))
            noise = Noise(seed, torch.arange(first, first + count))
            which = (noise.uniform("pattern", 1)[:, 0] * len(self.x)).long()
            flipped = noise.uniform("flip", self.space.dims).reshape(-1, *self.space.shape) < self.flip
            parts[name] = Split.of(self.x[which] ^ flipped.to(torch.uint8), self.y[which])
            first += count
        told = f"{self.x.flatten().tolist()} {self.y.tolist()} {self.flip} {n} {seed}"
        return Data("patterns", self.space, **parts, fingerprint=sha256(told.encode()).hexdigest()[:32], title="patterns")


def patterns(text: str = LINES, flip: float = 0.02, *, side: int = 3) -> Patterns:
    """Patterns from text: rows of 0 and 1, commas between images, a slash between the groups that share a label.

    Raises:
        InputError: other characters, another size, the same image twice, or no share in [0, ½).

    >>> found = patterns("100010001/111111111")
    >>> found.x[0, 0].tolist(), found.y.tolist()
    ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [0, 1])
    """
    groups = [[one.strip() for one in group.split(",")] for group in text.split("/")]
    example = "e.g. 111000000,000111000/100100100,010010010"
    for one in (one for group in groups for one in group):
        if len(one) != side**2 or set(one) - {"0", "1"}:
            raise InputError(f"{one!r} is no image of {side}×{side}: write its {side**2} pixels row by row as 0 and 1, {example}")
    flat = [one for group in groups for one in group]
    if len(set(flat)) < len(flat):
        raise InputError(f"{next(one for one in flat if flat.count(one) > 1)} is named twice; each image once, {example}")
    if not 0 <= flip < 0.5:
        raise InputError(f"flip={flip:g}: the share of pixels that are flipped is at least 0 and below 0.5, e.g. --flip 0.02")
    x = torch.tensor([[int(c) for c in one] for one in flat], dtype=torch.uint8).reshape(-1, 1, side, side)
    return Patterns(x, torch.tensor([k for k, group in enumerate(groups) for _ in group]), flip)


def taught(
    name: str,
    data: Data,
    *,
    steps: int,
    seed: int = 0,
    lr: float | None = None,
    small: bool = True,
    watch: Callable[[int, ImageModel], None] | None = None,
    **arguments: Any,
) -> ImageModel:
    """A model of the catalogue after `steps` steps of `pofx.train` in float64, ready to be asked. Its run folder is not kept.

    Args:
        lr: in the place of the model's own.
        small: the tiny instance that each model has for tests; else it is made with `arguments`.
        watch: see `pofx.train`.
    """
    from pofx import catalog
    from pofx.training import train

    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(seed)
        cls = catalog.get(name)
        model = cls.small(data.space, **arguments) if small else cls(data.space, **arguments)
        run = train(model, data, out=Path(folder) / "run", steps=steps, seed=seed, lr=lr, precision="64", average=0, device="cpu", threads=1,
                    batch_size=min(256, len(data.train)), quiet=True, watch=watch)  # fmt: skip
    return run.model.eval()
