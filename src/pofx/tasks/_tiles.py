"""Photographs larger than a model: tiles of the model's size, every `stride` pixels, the last of each row and column at the border.

Of an image of height H there are ⌈(H − tile)/stride⌉ + 1 rows of tiles. Every pixel is in at least one; where several overlap, maps are averaged.
The score of an image is that of its oddest tile. A guarantee is of images only if the same was done to calibration images of the same size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from pofx.errors import InputError
from pofx.space import ImageSpace
from pofx.tasks.bulk import Images


def starts(length: int, tile: int, stride: int) -> list[int]:
    """Where tiles begin along one side.

    >>> starts(40, 32, 16), starts(32, 32, 16), starts(70, 32, 16)
    ([0, 8], [0], [0, 16, 32, 38])
    """
    return [*range(0, length - tile, stride), length - tile]


@dataclass(frozen=True)
class Tiles:
    """The tiles of images of one size, as `Images`: those of an image side by side, row by row.

    Args:
        images: larger than the model, or as large.
        space: of the model: of one tile.
        size: of all the images, `(height, width)`.
        stride: pixels from one tile to the next.

    Raises:
        InputError: the images are smaller than a tile, or the stride leaves pixels out.

    >>> from pofx.tasks.bulk import TensorImages
    >>> tiles = Tiles(TensorImages(torch.zeros(2, 1, 6, 8, dtype=torch.uint8)), ImageSpace(1, 4, 4), (6, 8), 2)
    >>> len(tiles), tiles.each, tiles.take(torch.tensor([0, 11]))[0].shape
    (12, 6, torch.Size([2, 1, 4, 4]))
    """

    images: Images
    space: ImageSpace
    size: tuple[int, int]
    stride: int

    def __post_init__(self) -> None:
        tile = min(self.space.height, self.space.width)
        if not 1 <= self.stride <= tile:
            raise InputError(
                f"--stride {self.stride} must be 1 … {tile}, the size of a tile, or pixels are left out. Try --stride {max(1, tile // 2)}"
            )
        if self.size[0] < self.space.height or self.size[1] < self.space.width:
            raise InputError(
                f"Images of {self.size[0]}×{self.size[1]} are smaller than a tile of {self.space.height}×{self.space.width}. "
                f"Leave out --tile, and add --size {self.space.height}x{self.space.width}."
            )

    @cached_property
    def places(self) -> list[tuple[int, int]]:
        """Upper left corners of the tiles of an image."""
        rows, columns = (starts(n, t, self.stride) for n, t in zip(self.size, self.space.shape[1:], strict=True))
        return [(i, j) for i in rows for j in columns]

    @property
    def each(self) -> int:
        """Tiles of an image."""
        return len(self.places)

    def __len__(self) -> int:
        return len(self.images) * self.each

    @property
    def ids(self) -> Sequence[str]:
        return [f"{name}@{i},{j}" for name in self.images.ids for i, j in self.places]

    def take(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        owner = index // self.each
        wanted, at = owner.unique(return_inverse=True)
        x, y = self.images.take(wanted)
        _, h, w = self.space.shape
        corners = [self.places[int(k)] for k in (index % self.each).tolist()]
        tiles = torch.stack([x[a, :, i : i + h, j : j + w] for a, (i, j) in zip(at.tolist(), corners, strict=True)])
        return tiles, None if y is None else y[at]

    def of(self, images: Images) -> Tiles:
        """The tiles of other images of that size."""
        return replace(self, images=images)

    def oddest(self, scores: Tensor) -> Tensor:
        """The position of each image's tile of the largest score: `(n · each,)` → `(n,)` int64."""
        return torch.arange(0, len(scores), self.each) + scores.reshape(-1, self.each).argmax(1)

    def stitch(self, maps: Tensor) -> Tensor:
        """Maps of tiles `(n · each, C, h, w)` → of images `(n, C, H, W)`, the mean where tiles overlap."""
        _, channels, h, w = maps.shape
        maps = maps.reshape(-1, self.each, channels, h, w)
        total = maps.new_zeros(len(maps), channels, *self.size)
        count = maps.new_zeros(self.size)
        for k, (i, j) in enumerate(self.places):
            total[:, :, i : i + h, j : j + w] += maps[:, k]
            count[i : i + h, j : j + w] += 1
        return total / count


def whole(images: Images) -> Images:
    """What tiles were cut from; other images as they are."""
    return images.images if isinstance(images, Tiles) else images


def check_tile(tile: int | None, stride: int | None, space: ImageSpace) -> int | None:
    """The stride where tiles are asked for, else None.

    Raises:
        InputError: the model is not of that size; a stride without tiles.
    """
    if tile is None:
        if stride is not None:
            raise InputError(f"--stride {stride} needs --tile {space.height}: the size of the model's images.")
        return None
    if (tile, tile) != (space.height, space.width):
        fix = f"--tile {space.height}" if space.height == space.width else "images of its size, without --tile"
        raise InputError(f"--tile {tile}: the run is a model of {space.height}×{space.width}. Use {fix}.")
    return max(1, tile // 2) if stride is None else stride
