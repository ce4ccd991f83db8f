"""Views: what is known of an image before p(x | given) is asked. One notion for every conditional job.

A view is chosen when a model is made (`given=Label(10)`); a call takes the view's *value*. A view has no network in it: it
computes its value from (x, y), checks one that a person typed, offers it to a network as planes `(n, K, H, W)` or as a
vector `(n, K)`, and says which sub-pixels it makes *known*. Known sub-pixels cost 0 nats, leave `dims`, and samples copy
them bit for bit. `nn/conditioning.py` embeds views, once for all models.

Adding a view is one class here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from pofx.errors import InputError, nearest
from pofx.names import kebab
from pofx.noise import Noise, hash_images
from pofx.space import ImageSpace

# What is written beside images: column → a text for each image, "" for an empty cell, None for an image that is not named
Notes = Mapping[str, Sequence[str | None]]


def _cells(notes: Notes, column: str, ids: Sequence[str]) -> list[str]:
    """A column, without the spaces around its cells; InputError where an image is not named."""
    cells = []
    for image, cell in zip(ids, notes[column], strict=True):
        if cell is None:
            raise InputError(
                f"{image} is not named in the file that has the column {column!r}. Add a row for it, with an empty cell if nobody knows."
            )
        cells.append(cell.strip())
    return cells


@dataclass(frozen=True)
class View(ABC):
    """Base of all views."""

    varies: ClassVar[bool] = False  # whether which sub-pixels are known depends on the value, and so `dims` on the image
    text: ClassVar[bool] = False  # whether `features` are bytes of a text, 0 behind its end, that a network reads one by one

    @final
    @property
    def name(self) -> str:
        """As `--given` takes it.

        >>> PartialLabel(10).name
        'partial-label'
        """
        return kebab(type(self).__name__)

    @abstractmethod
    def check_space(self, space: ImageSpace) -> None:
        """Raise InputError where this view of such images makes no sense."""

    @abstractmethod
    def value(self, x: Tensor, y: Tensor | None, noise: Noise | None = None) -> Tensor:
        """The view of images `x` uint8 `(n, C, H, W)` with labels `y` int64 `(n,)`, or what else `read` returns.

        A view that is drawn at random takes its `noise` in training, one entry an image; without any it is a fixed draw, keyed by the
        image's own pixels, so that scores and samples do not depend on the batch. Most views ignore it."""

    def read(self, notes: Notes, ids: Sequence[str]) -> Tensor | None:
        """What `value` takes as `y`, `(n, …)`, from what is written beside the images `ids`; None where that is their label. InputError
        where something is missing."""
        return None

    @abstractmethod
    def check(self, value: Any, n: int, space: ImageSpace) -> Tensor:
        """Turn what a person gave into a value for `n` images (one value is repeated), or raise InputError."""

    @abstractmethod
    def features(self, value: Tensor, space: ImageSpace) -> Tensor:
        """What a network sees, float64: planes `(n, K, H, W)` or a vector `(n, K)`."""

    @abstractmethod
    def feature_shape(self, space: ImageSpace) -> tuple[int, ...]:
        """The shape of `features` without n: `(K, H, W)` for planes, `(K,)` for a vector."""

    def known(self, space: ImageSpace, value: Tensor | None = None) -> Tensor | None:
        """Sub-pixels that the value fixes: bool `(C, H, W)`, or None where it fixes none (side information). Where the view `varies`, they
        are those of each value, `(n, C, H, W)`: it must be given."""
        return None

    def fill(self, value: Tensor, space: ImageSpace) -> Tensor:
        """uint8 `(n, C, H, W)` holding the known sub-pixels at their places, 0 elsewhere."""
        return torch.zeros(len(value), *space.shape, dtype=torch.uint8, device=value.device)

    @final
    def dims(self, space: ImageSpace) -> int:
        """Sub-pixels that remain unknown; of a view that `varies`, the most that may."""
        known = None if self.varies else self.known(space)
        return space.dims - (0 if known is None else int(known.sum()))

    @final
    def dims_of(self, space: ImageSpace, value: Tensor | None) -> int | Tensor:
        """Sub-pixels that remain unknown: one number for all images, or int64 `(n,)` where the view `varies`."""
        known = self.known(space, value) if self.varies else None
        return self.dims(space) if known is None else (~known).flatten(1).sum(1)


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

    unknown: ClassVar[bool] = False  # whether −1 says: not known

    def check_space(self, space: ImageSpace) -> None:
        if self.classes < 1:
            raise InputError(f"Label(classes={self.classes}): at least one class is needed, e.g. Label(10).")

    def value(self, x: Tensor, y: Tensor | None, noise: Noise | None = None) -> Tensor:
        if y is None and self.unknown:
            return torch.full((len(x),), -1)
        if y is None:
            raise InputError(
                "This model is p(x | label), but the data has no labels. Give a folder with one subfolder per class, or a set with labels."
            )
        return self.check(y, len(x), ImageSpace(1, 1, 1))

    def check(self, value: Any, n: int, space: ImageSpace) -> Tensor:
        label = torch.as_tensor(value)
        least = -1 if self.unknown else 0
        if label.is_floating_point() or label.dtype == torch.bool:
            raise InputError(f"A label is a whole number in {least} … {self.classes - 1}, found {label.dtype}.")
        label = label.long().reshape(-1)
        if torch.compiler.is_exporting():  # there are no values to check yet
            return label.expand(n)
        if len(label) not in (1, n):
            raise InputError(f"{len(label)} labels were given for {n} images; give one, or {n}.")
        bad = label[(label < least) | (label >= self.classes)]
        if len(bad):
            raise InputError(f"Label {int(bad[0])} is outside {least} … {self.classes - 1} of this model ({self}).")
        return label.expand(n)

    def features(self, value: Tensor, space: ImageSpace) -> Tensor:
        return F.one_hot(value % self.feature_shape(space)[0], self.feature_shape(space)[0]).double()  # −1 has the last place

    def feature_shape(self, space: ImageSpace) -> tuple[int, ...]:
        return (self.classes + self.unknown,)


@dataclass(frozen=True)
class PartialLabel(Label):
    """The class of the image where it is known, and -1, with an indicator of its own, where it is not: for few labels among many images.
    Value: int64 `(n,)` in −1 … classes−1; images without any labels are −1 throughout.

    >>> PartialLabel(2).features(torch.tensor([0, 1, -1]), ImageSpace(1, 2, 2)).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """

    unknown: ClassVar[bool] = True


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

    def value(self, x: Tensor, y: Tensor | None, noise: Noise | None = None) -> Tensor:
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

    def known(self, space: ImageSpace, value: Tensor | None = None) -> Tensor | None:
        return self._known(space)

    def fill(self, value: Tensor, space: ImageSpace) -> Tensor:
        x = super().fill(value, space)
        x[:, :, :: self.factor, :: self.factor] = value
        return x


@dataclass(frozen=True)
class Top(View):
    """The first rows, *known*: completion; on images one row high (series), the first columns: forecasting.

    Value: uint8 `(n, C, rows, W)`, or `(n, C, 1, rows)` where H = 1.

    Args:
        rows: how many of them; of a series, how many values.
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

    def value(self, x: Tensor, y: Tensor | None, noise: Noise | None = None) -> Tensor:
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

    def known(self, space: ImageSpace, value: Tensor | None = None) -> Tensor | None:
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

    def value(self, x: Tensor, y: Tensor | None, noise: Noise | None = None) -> Tensor:
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

    def value(self, x: Tensor, y: Tensor | None, noise: Noise | None = None) -> Tensor:
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


MOST_KNOWN = 0.95  # of the pixels of a random mask


@dataclass(frozen=True)
class Masked(View):
    """Any pixels, *known*: completion of any hole. The mask is one of pixels: all channels of a pixel are known, or none.

    Value: uint8 `(n, C + 1, H, W)`: the pixels, 0 where they are unknown, and the mask as a last plane, 1 where they are known (`Masked.cut`
    makes it of images and masks). Which sub-pixels cost something, and how many, differs from image to image: `dims_of`.

    In training a mask is drawn for each image and step: with probability ⅛ nothing is known, else ⅜ one side of a random straight line
    (half of them upright or level), ¼ the inside or the outside of a random rectangle, ¼ each pixel with a probability that is itself random.
    At least one pixel is unknown. Elsewhere the mask is one such draw, keyed by the image.

    >>> x = torch.tensor([[[[5, 6], [7, 8]]]], dtype=torch.uint8)
    >>> value = Masked.cut(x, torch.tensor([[True, False], [True, True]]))
    >>> value.flatten().tolist(), int(Masked().dims_of(ImageSpace(1, 2, 2), value))
    ([5, 0, 7, 8, 1, 0, 1, 1], 1)
    """

    varies: ClassVar[bool] = True

    def check_space(self, space: ImageSpace) -> None:
        if space.height == space.width == 1:
            raise InputError("Masked() of a 1×1 image leaves nothing to learn or nothing to know; the smallest size is 1×2.")

    @staticmethod
    def cut(x: Tensor, known: Tensor) -> Tensor:
        """The value of images `x` uint8 `(n, C, H, W)` under masks bool `(H, W)` or `(n, H, W)`, true where pixels are known."""
        fits = known.shape == x.shape[2:] or known.shape == (len(x), *x.shape[2:])
        if known.dtype != torch.bool or not fits:
            raise InputError(
                f"A mask of images {x.shape[2]}×{x.shape[3]} is bool ({x.shape[2]}, {x.shape[3]}), or one for each of {len(x)}; "
                f"found {known.dtype} {tuple(known.shape)}."
            )
        plane = known.to(x.device, torch.uint8).expand(len(x), *x.shape[2:])[:, None]
        return torch.cat([x * plane, plane], 1)

    def value(self, x: Tensor, y: Tensor | None, noise: Noise | None = None) -> Tensor:
        return self.cut(x, random_masks(Noise(0, hash_images(x)) if noise is None else noise, x.shape[2], x.shape[3]))

    def check(self, value: Any, n: int, space: ImageSpace) -> Tensor:
        value = torch.as_tensor(value)
        value = _images(value, n, (space.channels + 1, space.height, space.width), max(space.levels, 2), "Masked()")
        pixels, mask = value[:, :-1], value[:, -1:]
        if int(mask.max()) > 1 or bool((pixels * (1 - mask)).any()):
            raise InputError(
                "given=Masked(): the last plane is the mask, 0 or 1, and unknown pixels are 0. Make it with Masked.cut(x, known)."
            )
        full = mask.flatten(1).all(1)
        if bool(full.any()):
            raise InputError(f"Mask {int(full.nonzero()[0])} says that every pixel is known: there is nothing to complete.")
        return value

    def features(self, value: Tensor, space: ImageSpace) -> Tensor:
        mask = value[:, -1:].double()
        return torch.cat([_scaled(value[:, :-1], space) * mask, mask], 1)

    def feature_shape(self, space: ImageSpace) -> tuple[int, ...]:
        return space.channels + 1, space.height, space.width

    def known(self, space: ImageSpace, value: Tensor | None = None) -> Tensor | None:
        if value is None:
            raise InputError(
                "Masked() knows other pixels of each image: say which, e.g. model.known(given), model.unknown_sum(nats, given)."
            )
        return value[:, -1:].bool().expand(len(value), *space.shape)

    def fill(self, value: Tensor, space: ImageSpace) -> Tensor:
        return value[:, :-1]


def random_masks(noise: Noise, height: int, width: int) -> Tensor:
    """A mask for each entry of `noise`, as `Masked` says: bool `(n, H, W)`, true where pixels are known, a function of the noise alone.

    >>> masks = random_masks(Noise(0, torch.arange(100)), 4, 4)
    >>> masks.shape, bool(masks.flatten(1).all(1).any())
    (torch.Size([100, 4, 4]), False)
    """
    u = noise.uniform("mask", 8)[:, :, None, None]
    rows, columns = torch.arange(height)[:, None] + 0.5, torch.arange(width)[None] + 0.5
    # A straight line through a random point; half of them along an edge of the image
    turn = torch.where(u[:, 1] < 0.5, (u[:, 1] * 8).floor() / 4, u[:, 1] * 2) * (2 * math.pi)
    line = (rows - u[:, 2] * height) * torch.cos(turn) + (columns - u[:, 3] * width) * torch.sin(turn) < 0
    first, last = u[:, 2:4].amin(1), u[:, 2:4].amax(1)
    left, right = u[:, 4:6].amin(1), u[:, 4:6].amax(1)
    box = (rows > first * height) & (rows < last * height) & (columns > left * width) & (columns < right * width)
    box = torch.where(u[:, 6] < 0.5, box, ~box)
    points = noise.uniform("mask/points", height, width) < u[:, 7] * MOST_KNOWN
    kind = u[:, 0]
    known = torch.where(kind < 3 / 8, line, torch.where(kind < 5 / 8, box, torch.where(kind < 7 / 8, points, torch.zeros_like(points))))
    pixel = (noise.uniform("mask/open", 1)[:, 0] * height * width).long()
    full = known.flatten(1).all(1)
    return (known.flatten(1) & ~(full[:, None] & (torch.arange(height * width) == pixel[:, None]))).reshape(-1, height, width)


UNKNOWN = 2  # an attribute that nobody noted


@dataclass(frozen=True)
class Attributes(View):
    """Yes/no properties of the image, by name. Value: int64 `(n, k)`: 0 no, 1 yes, 2 not known, which has an indicator of its own.

    They are columns of a CSV file in the folder of the images: its first column names the image, a cell is 0, 1, or empty.

    Args:
        names: the columns, e.g. smiling,hat.

    >>> Attributes(("smiling", "hat")).read({"smiling": ["1", ""], "hat": ["0", "1"]}, ["a.png", "b.png"])
    tensor([[1, 0],
            [2, 1]])
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        names = self.names.split(",") if isinstance(self.names, str) else self.names
        object.__setattr__(self, "names", tuple(part.strip() for name in names for part in name.split(",") if part.strip()))

    def check_space(self, space: ImageSpace) -> None:
        if not self.names or len(set(self.names)) < len(self.names):
            raise InputError(f"Attributes(names={self.names}): at least one name is needed, each once, e.g. --given.names smiling,hat")

    def read(self, notes: Notes, ids: Sequence[str]) -> Tensor | None:
        codes = {"0": 0, "1": 1, "": UNKNOWN}
        columns = []
        for name in self.names:
            if name not in notes:
                if not notes:
                    raise InputError(
                        f"Nothing is written beside these images; attributes ({', '.join(self.names)}) are columns of a CSV file in their folder: "
                        f"file,{','.join(self.names)}"
                    )
                raise InputError(f"No column {name!r} is written beside these images. {nearest(name, notes)}")
            cells = _cells(notes, name, ids)
            for image, cell in zip(ids, cells, strict=True):
                if cell not in codes:
                    raise InputError(f"Attribute {name!r} of {image} is {cell!r}; it must be 0 (no), 1 (yes), or empty (not known).")
            columns.append([codes[cell] for cell in cells])
        return torch.tensor(columns, dtype=torch.long).reshape(len(self.names), -1).T.contiguous()

    def value(self, x: Tensor, y: Tensor | None, noise: Noise | None = None) -> Tensor:
        if y is None or y.ndim != 2 or y.dtype != torch.long:
            raise InputError(
                f"This model is p(x | attributes {', '.join(self.names)}), and the data says none. Give it as data.told(model.given)."
            )
        return self.check(y, len(x), ImageSpace(1, 1, 1))

    def check(self, value: Any, n: int, space: ImageSpace) -> Tensor:
        names, k = ", ".join(self.names), len(self.names)
        if isinstance(value, Mapping):
            for name in value:
                if name not in self.names:
                    raise InputError(f"This model has no attribute {name!r}. {nearest(str(name), self.names)}")
            value = [UNKNOWN if value.get(name) is None else value[name] for name in self.names]
        if isinstance(value, str) or (isinstance(value, Sequence) and any(isinstance(cell, str) for cell in value)):
            raise InputError(f"given=Attributes expects 0, 1 or {UNKNOWN} for {names}, found {value!r}; e.g. {{'{self.names[0]}': 1}}.")
        value = torch.as_tensor(value)
        value = value[None] if value.ndim == 1 else value
        if value.is_floating_point() or value.ndim != 2 or value.shape[1] != k or len(value) not in (1, n):
            raise InputError(f"given=Attributes expects int64 ({n}, {k}) for {names}, found {value.dtype} {tuple(value.shape)}.")
        value = value.long()
        bad = value[(value < 0) | (value > UNKNOWN)]
        if len(bad):
            raise InputError(f"An attribute ({names}) is 0 (no), 1 (yes) or {UNKNOWN} (not known), found {int(bad[0])}.")
        return value.expand(n, k)

    def features(self, value: Tensor, space: ImageSpace) -> Tensor:
        return F.one_hot(value, 3).double().flatten(1)

    def feature_shape(self, space: ImageSpace) -> tuple[int, ...]:
        return (3 * len(self.names),)


@dataclass(frozen=True)
class Caption(View):
    """A short text: the column `caption` of a CSV file in the folder of the images. Value: uint8 `(n, length)`, its bytes in UTF-8 and small
    letters, 0 behind its end; all 0 where nothing is said. Longer captions of data are cut.

    Args:
        length: bytes of a caption that are read.

    >>> Caption(4).encode(["Hat", "a long one"]).tolist()
    [[104, 97, 116, 0], [97, 32, 108, 111]]
    """

    length: int = 40

    text: ClassVar[bool] = True

    def check_space(self, space: ImageSpace) -> None:
        if self.length < 1:
            raise InputError(f"Caption(length={self.length}): at least one byte must be read, e.g. --given.length 40.")

    def encode(self, captions: Sequence[str]) -> Tensor:
        """Texts as a value, uint8 `(n, length)`."""
        rows = [caption.lower().encode()[: self.length].decode(errors="ignore").encode() for caption in captions]
        joined = b"".join(row.replace(b"\0", b" ").ljust(self.length, b"\0") for row in rows)
        return torch.tensor(list(joined), dtype=torch.uint8).reshape(len(rows), self.length)

    def read(self, notes: Notes, ids: Sequence[str]) -> Tensor | None:
        if "caption" not in notes:
            raise InputError("These images have no captions. Put a CSV file into their folder with the columns file,caption.")
        return self.encode(_cells(notes, "caption", ids))

    def value(self, x: Tensor, y: Tensor | None, noise: Noise | None = None) -> Tensor:
        if y is None or y.ndim != 2 or y.dtype != torch.uint8:
            raise InputError("This model is p(x | caption), and the data says none. Give it as data.told(model.given).")
        return self.check(y, len(x), ImageSpace(1, 1, 1))

    def check(self, value: Any, n: int, space: ImageSpace) -> Tensor:
        texts = [value] if isinstance(value, str) else value
        if isinstance(texts, bytes):
            raise InputError(f"given={self} expects texts, found bytes; give value.decode().")
        if isinstance(texts, Sequence) and texts and all(isinstance(text, str) for text in texts):
            for text in texts:
                if len(text.lower().encode()) > self.length:
                    raise InputError(f"The caption {text!r} has {len(text.lower().encode())} bytes; this model reads {self.length}.")
            value = self.encode(texts)
        value = torch.as_tensor(value)
        value = value[None] if value.ndim == 1 else value
        if value.dtype != torch.uint8 or value.shape[1:] != (self.length,) or len(value) not in (1, n):
            raise InputError(f"given={self} expects texts, or uint8 ({n}, {self.length}), found {value.dtype} {tuple(value.shape)}.")
        return value.expand(n, self.length)

    def features(self, value: Tensor, space: ImageSpace) -> Tensor:
        return value.double()

    def feature_shape(self, space: ImageSpace) -> tuple[int, ...]:
        return (self.length,)
