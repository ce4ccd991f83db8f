"""Views: what is known of an image before p(x | given) is asked. One notion for every conditional job.

A view is chosen when a model is made (`given=Label(10)`); a call takes the view's *value*. A view has no network in it: it
computes its value from (x, y), checks one that a person typed, offers it to a network as planes `(n, K, H, W)` or as a
vector `(n, K)`, and says which sub-pixels it makes *known*. Known sub-pixels cost 0 nats, leave `dims`, and samples copy
them bit for bit. `nn/conditioning.py` embeds views, once for all models.

Adding a view is one class here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor

from pofx.errors import InputError
from pofx.space import ImageSpace


@dataclass(frozen=True)
class View(ABC):
    """Base of all views."""

    @abstractmethod
    def check_space(self, space: ImageSpace) -> None:
        """Raise InputError where this view of such images makes no sense."""

    @abstractmethod
    def value(self, x: Tensor, y: Tensor | None) -> Tensor:
        """The view of images `x` uint8 `(n, C, H, W)` with labels `y` int64 `(n,)`."""

    @abstractmethod
    def check(self, value: Any, n: int, space: ImageSpace) -> Tensor:
        """Turn what a person gave into a value for `n` images (one value is repeated), or raise InputError."""

    @abstractmethod
    def features(self, value: Tensor, space: ImageSpace) -> Tensor:
        """What a network sees, float64: planes `(n, K, H, W)` or a vector `(n, K)`."""

    @abstractmethod
    def feature_shape(self, space: ImageSpace) -> tuple[int, ...]:
        """The shape of `features` without n: `(K, H, W)` for planes, `(K,)` for a vector."""

    def known(self, space: ImageSpace) -> Tensor | None:
        """Sub-pixels that the value fixes: bool `(C, H, W)`, or None where it fixes none (side information)."""
        return None

    def fill(self, value: Tensor, space: ImageSpace) -> Tensor:
        """uint8 `(n, C, H, W)` holding the known sub-pixels at their places, 0 elsewhere."""
        return torch.zeros(len(value), *space.shape, dtype=torch.uint8, device=value.device)

    @final
    def dims(self, space: ImageSpace) -> int:
        """Sub-pixels that remain unknown."""
        known = self.known(space)
        return space.dims - (0 if known is None else int(known.sum()))


def _images(value: Any, n: int, shape: tuple[int, ...], levels: int, name: str) -> Tensor:
    value = torch.as_tensor(value)
    if value.ndim == len(shape):
        value = value[None]
    if tuple(value.shape[1:]) != shape or len(value) not in (1, n):
        raise InputError(f"given={name} expects uint8 of shape ({n}, {', '.join(map(str, shape))}), found {tuple(value.shape)}.")
    if value.dtype != torch.uint8 or (value.numel() and int(value.max()) >= levels):
        raise InputError(f"given={name} expects uint8 values in 0 … {levels - 1}, found {value.dtype} up to {value.max()}.")
    return value.expand(n, *shape)


def _scaled(x: Tensor, space: ImageSpace) -> Tensor:
    return x.double() * (2 / (space.levels - 1)) - 1


@dataclass(frozen=True)
class Label(View):
    """The class of the image: p(x | y). Value: int64 `(n,)` in 0 … classes−1.

    >>> Label(3).value(torch.zeros(2, 1, 1, 1, dtype=torch.uint8), torch.tensor([2, 0]))
    tensor([2, 0])
    """

    classes: int = 10

    def check_space(self, space: ImageSpace) -> None:
        if self.classes < 1:
            raise InputError(f"Label(classes={self.classes}): at least one class is needed, e.g. Label(10).")

    def value(self, x: Tensor, y: Tensor | None) -> Tensor:
        if y is None:
            raise InputError(
                "This model is p(x | label), but the data has no labels. Give a folder with one subfolder per class, or a set with labels."
            )
        return self.check(y, len(x), ImageSpace(1, 1, 1))

    def check(self, value: Any, n: int, space: ImageSpace) -> Tensor:
        label = torch.as_tensor(value)
        if label.is_floating_point() or label.dtype == torch.bool:
            raise InputError(f"A label is a whole number in 0 … {self.classes - 1}, found {label.dtype}.")
        label = label.long().reshape(-1)
        if len(label) not in (1, n):
            raise InputError(f"{len(label)} labels were given for {n} images; give one, or {n}.")
        bad = label[(label < 0) | (label >= self.classes)]
        if len(bad):
            raise InputError(f"Label {int(bad[0])} is outside 0 … {self.classes - 1} of this model (Label(classes={self.classes})).")
        return label.expand(n)

    def features(self, value: Tensor, space: ImageSpace) -> Tensor:
        return F.one_hot(value, self.classes).double()

    def feature_shape(self, space: ImageSpace) -> tuple[int, ...]:
        return (self.classes,)


@dataclass(frozen=True)
class Subsample(View):
    """Every k-th pixel of every k-th row, *known*: the chain p(small)·p(large | small) is exact.

    Value: uint8 `(n, C, ⌈H/k⌉, ⌈W/k⌉)`.

    >>> int(Subsample(2).known(ImageSpace(1, 4, 4)).sum())
    4
    """

    factor: int = 2

    def check_space(self, space: ImageSpace) -> None:
        if self.factor < 2:
            raise InputError(f"Subsample(factor={self.factor}): a factor of at least 2 is needed; with 1 nothing would be left to learn.")
        if space.height == space.width == 1:
            raise InputError(f"Subsample({self.factor}) of a 1×1 image leaves nothing to learn; the smallest size is 1×2.")

    def value(self, x: Tensor, y: Tensor | None) -> Tensor:
        return x[:, :, :: self.factor, :: self.factor].contiguous()

    def check(self, value: Any, n: int, space: ImageSpace) -> Tensor:
        _, height, width = space.shape
        k = self.factor
        return _images(value, n, (space.channels, -(-height // k), -(-width // k)), space.levels, f"Subsample({k})")

    def features(self, value: Tensor, space: ImageSpace) -> Tensor:
        k = self.factor
        nearest = value.repeat_interleave(k, 2).repeat_interleave(k, 3)[:, :, : space.height, : space.width]
        known = self._known(space)[0].to(value.device).double().expand(len(value), 1, space.height, space.width)
        return torch.cat([_scaled(nearest, space), known], 1)

    def feature_shape(self, space: ImageSpace) -> tuple[int, ...]:
        return space.channels + 1, space.height, space.width

    def _known(self, space: ImageSpace) -> Tensor:
        known = torch.zeros(space.shape, dtype=torch.bool)
        known[:, :: self.factor, :: self.factor] = True
        return known

    def known(self, space: ImageSpace) -> Tensor | None:
        return self._known(space)

    def fill(self, value: Tensor, space: ImageSpace) -> Tensor:
        x = super().fill(value, space)
        x[:, :, :: self.factor, :: self.factor] = value
        return x


@dataclass(frozen=True)
class Top(View):
    """The first rows, *known*: completion; on images one row high (series), the first columns: forecasting.

    Value: uint8 `(n, C, rows, W)`, or `(n, C, 1, rows)` where H = 1.
    """

    rows: int

    def check_space(self, space: ImageSpace) -> None:
        length = space.width if space.height == 1 else space.height
        if not 1 <= self.rows < length:
            raise InputError(
                f"Top(rows={self.rows}) of images with {length} {'columns' if space.height == 1 else 'rows'}: use 1 … {length - 1}."
            )

    def _corner(self, space: ImageSpace) -> tuple[int, int]:
        return (1, self.rows) if space.height == 1 else (self.rows, space.width)

    def value(self, x: Tensor, y: Tensor | None) -> Tensor:
        h, w = (1, self.rows) if x.shape[2] == 1 else (self.rows, x.shape[3])
        return x[:, :, :h, :w].contiguous()

    def check(self, value: Any, n: int, space: ImageSpace) -> Tensor:
        return _images(value, n, (space.channels, *self._corner(space)), space.levels, f"Top({self.rows})")

    def features(self, value: Tensor, space: ImageSpace) -> Tensor:
        h, w = self._corner(space)
        planes = torch.zeros(len(value), space.channels + 1, space.height, space.width, dtype=torch.double, device=value.device)
        planes[:, :-1, :h, :w] = _scaled(value, space)
        planes[:, -1, :h, :w] = 1
        return planes

    def feature_shape(self, space: ImageSpace) -> tuple[int, ...]:
        return space.channels + 1, space.height, space.width

    def known(self, space: ImageSpace) -> Tensor | None:
        h, w = self._corner(space)
        known = torch.zeros(space.shape, dtype=torch.bool)
        known[:, :h, :w] = True
        return known

    def fill(self, value: Tensor, space: ImageSpace) -> Tensor:
        h, w = self._corner(space)
        x = super().fill(value, space)
        x[:, :, :h, :w] = value
        return x


@dataclass(frozen=True)
class Gray(View):
    """The luma of an RGB image (BT.601, rounded): side information for colorization; no pixel is known from it.

    Value: uint8 `(n, 1, H, W)`.
    """

    def check_space(self, space: ImageSpace) -> None:
        if space.channels != 3:
            raise InputError(
                f"Gray() needs images of 3 channels (RGB), found {space.channels}; for grey images use Half() or Subsample(2)."
            )

    def value(self, x: Tensor, y: Tensor | None) -> Tensor:
        r, g, b = x.long().unbind(1)
        return ((299 * r + 587 * g + 114 * b + 500) // 1000).to(torch.uint8)[:, None]

    def check(self, value: Any, n: int, space: ImageSpace) -> Tensor:
        return _images(value, n, (1, space.height, space.width), space.levels, "Gray()")

    def features(self, value: Tensor, space: ImageSpace) -> Tensor:
        return _scaled(value, space)

    def feature_shape(self, space: ImageSpace) -> tuple[int, ...]:
        return 1, space.height, space.width


@dataclass(frozen=True)
class Half(View):
    """The image at half the size (area mean, rounded): side information for super-resolution; no pixel is known from it.

    Value: uint8 `(n, C, ⌈H/2⌉, ⌈W/2⌉)`; at an odd edge the last row or column is averaged with itself.
    """

    def check_space(self, space: ImageSpace) -> None:
        if space.height == space.width == 1:
            raise InputError("Half() of a 1×1 image is the image itself; the smallest size is 1×2.")

    def value(self, x: Tensor, y: Tensor | None) -> Tensor:
        x = x.long()
        if x.shape[2] % 2:
            x = torch.cat([x, x[:, :, -1:]], 2)
        if x.shape[3] % 2:
            x = torch.cat([x, x[..., -1:]], 3)
        total = x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]
        return ((total + 2) // 4).to(torch.uint8)

    def check(self, value: Any, n: int, space: ImageSpace) -> Tensor:
        return _images(value, n, (space.channels, -(-space.height // 2), -(-space.width // 2)), space.levels, "Half()")

    def features(self, value: Tensor, space: ImageSpace) -> Tensor:
        nearest = value.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, : space.height, : space.width]
        return _scaled(nearest, space)

    def feature_shape(self, space: ImageSpace) -> tuple[int, ...]:
        return space.channels, space.height, space.width
