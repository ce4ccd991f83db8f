"""One function over many images in one fixed batch shape, so that results do not depend on how images are grouped.

Convolutions of different batch sizes may add in different orders: float32 results then differ in the last bit. Here every call sees
exactly `batch_size(space)` images; the last batch is filled up by repeating an image and the results are cropped. Image 7 of a thousand gets, bit
for bit, the number that it gets alone.

Another device adds in another order too: scores then agree to 1e-4 nats/dim, the tolerance of an export as well. Float32 itself costs less than 1e-6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pofx.errors import InputError
from pofx.heap import keep_pages
from pofx.model import ImageModel, Progress, evaluating
from pofx.space import ImageSpace

MOST, FEWEST = 100, 4  # images in a batch
BYTES = 2**27  # of one float32 tensor over a batch: log-probabilities of all levels, or hidden layers, that count as WIDTH levels
WIDTH = 64


def batch_size(space: ImageSpace) -> int:
    """The images that every call sees: a pure function of the space, as many as keep one tensor `(n, dims, levels)` within BYTES.

    >>> batch_size(ImageSpace(1, 28, 28)), batch_size(ImageSpace(3, 64, 64)), batch_size(ImageSpace(3, 512, 512))
    (100, 10, 4)
    """
    return max(FEWEST, min(MOST, BYTES // (4 * space.dims * max(space.levels, WIDTH))))


class Images(Protocol):
    """Indexable images with stable names; `pofx.data.Split` is one."""

    def __len__(self) -> int: ...

    @property
    def ids(self) -> Sequence[str]: ...

    def take(self, index: Tensor, /) -> tuple[Tensor, Tensor | None]:
        """x uint8 `(n, C, H, W)` and y int64 `(n,)` or None, of these rows."""
        ...


@dataclass(frozen=True)
class TensorImages:
    """Images that are in memory already, as `Images`; ids are "0", "1", …"""

    x: Tensor
    y: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def ids(self) -> Sequence[str]:
        return [str(i) for i in range(len(self.x))]

    def take(self, index: Tensor, /) -> tuple[Tensor, Tensor | None]:
        return self.x[index], None if self.y is None else self.y[index]


@dataclass(frozen=True)
class Subset:
    """Some rows of other images, in the order of `index`, int64 `(n,)`."""

    images: Images
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    @property
    def ids(self) -> Sequence[str]:
        ids = self.images.ids
        return [ids[int(i)] for i in self.index.tolist()]

    def take(self, index: Tensor, /) -> tuple[Tensor, Tensor | None]:
        return self.images.take(self.index[index])


def as_images(images: Images | Tensor) -> Images:
    """Wrap a tensor; leave anything else."""
    return TensorImages(images) if isinstance(images, Tensor) else images


def subset(images: Images, limit: int | None, *, seed: int = 0) -> Images:
    """All images, or a fixed random `limit` of them (in their order), the same for equal seed and length."""
    n = len(images)
    if limit is None or n <= limit:
        return images
    chosen = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:limit]
    return Subset(images, chosen.sort().values)


def everything(images: Images) -> tuple[Tensor, Tensor | None]:
    """All of it at once: x and y. Only for what is known to be small."""
    return images.take(torch.arange(len(images)))


@contextmanager
def full_float32() -> Iterator[None]:
    """Convolutions on a GPU keep all 24 bits of float32. By default they round to 11 (TF32), and a score would be another one than on a CPU."""
    convolutions: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


def per_image(
    model: ImageModel,
    function: Callable[[Tensor, Tensor | None], Tensor],
    images: Images | Tensor,
    *,
    progress: Progress | None = None,
) -> Tensor:
    """`function(x, y)` over all images, B = `batch_size(model.space)` at a time: its results `(B, …)` joined to `(n, …)` on the CPU.

    Args:
        function: of x uint8 `(B, C, H, W)` and y int64 `(B,)` or None; row i depends on image i alone.
        progress: called with (done, n).

    Raises:
        InputError: no images.
    """
    keep_pages()
    images = as_images(images)
    n, size = len(images), batch_size(model.space)
    if n == 0:
        raise InputError("There are no images to work on; the set or folder is empty.")
    parts = []
    with torch.inference_mode(), evaluating(model), full_float32():
        for start in range(0, n, size):
            index = torch.arange(start, start + size).clamp_(max=n - 1)
            x, y = images.take(index)
            parts.append(function(x, y)[: n - start].cpu())
            if progress is not None:
                progress(min(start + size, n), n)
    # Cloned outside of inference mode, so that results are ordinary tensors to the caller
    return torch.cat(parts).clone()
