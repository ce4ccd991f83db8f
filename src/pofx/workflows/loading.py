"""Images and data as a run takes them: of its space, told to its view, converted as its own were; with messages that say what to do.

What the shells share (the command line, the studio, the service): each says in its own way what `say` is told.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pofx.errors import InputError, nearest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from pofx.data import Data, Split, Unread
    from pofx.model import ImageModel
    from pofx.space import ImageSpace
    from pofx.tasks.bulk import Images
    from pofx.views import View

Say = Callable[[str], None]


def nobody(_: str) -> None:
    """A remark that nobody reads."""


@dataclass(frozen=True)
class Conversions:
    """How images are converted when they are read, as `load_data` and `load_images` take it.

    Attributes:
        size: "HEIGHTxWIDTH", or one number for a square.
        levels: 2 to 256 values.
        gray: colour images are made grey.
        keep_labels, drop_labels: classes, with commas between them.
        strict: one unreadable file is an error.
    """

    size: str | None = None
    levels: int | None = None
    gray: bool = False
    keep_labels: str | None = None
    drop_labels: str | None = None
    strict: bool = False

    @classmethod
    def into(cls, space: ImageSpace) -> Conversions:
        """All that can make other images into those of a space."""
        return cls(f"{space.height}x{space.width}", None if space.levels == 256 else space.levels, space.channels == 1)

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `load_data` and `load_images`."""
        return {
            "size": self.size,
            "levels": self.levels,
            "gray": self.gray,
            "keep_labels": listed(self.keep_labels),
            "drop_labels": listed(self.drop_labels),
            "strict": self.strict,
        }


def listed(text: str | None) -> tuple[str, ...]:
    """What was typed as names with commas between them."""
    return () if not text else tuple(part.strip() for part in text.split(",") if part.strip())


def tell_skipped(files: Sequence[str], say: Say) -> None:
    if files:
        shown = "; ".join(files[:3]) + (f"; and {len(files) - 3} more" if len(files) > 3 else "")
        say(f"skipped {len(files)} unreadable file{'s' * (len(files) > 1)}: {shown} (--strict makes this an error)")


@dataclass(frozen=True)
class Loaded:
    """Images that a verb was given: `heading` names them with their part and transforms; `part` is one of the set's, or "all".

    `images`: the same images, or their tiles where they are larger than the model and tiles were asked for. `rows`, int64
    `(n,)`, says which they are of all that were opened."""

    split: Split
    heading: str
    part: str
    images: Images
    rows: NDArray[np.int64]

    @property
    def transforms(self) -> tuple[str, ...]:
        """Their conversions, as the heading names them."""
        return named_in(self.split.heading)


def named_in(heading: str) -> tuple[str, ...]:
    """The conversions that a heading names.

    >>> named_in("mnist test [size 8x8, gray]"), named_in("digits")
    (('size 8x8', 'gray'), ())
    """
    inside = heading.partition(" [")[2].partition("]")[0]
    return tuple(inside.split(", ")) if inside else ()


def load_images(
    spec: str,
    space: ImageSpace,
    flags: Conversions = Conversions(),
    run: RunData | None = None,
    *,
    say: Say = nobody,
    told: bool = True,
    tiled: bool = False,
    stride: int | None = None,
) -> Loaded:
    """Images to score or condition on, which must be of a run's space; `run` says how its own data was converted, and what of them is `told`
    to its view. DATA#3 is one of them, DATA#-1 the last. With a `stride` they may be larger, and `Loaded.images` are their tiles; where the verb
    knows --tile (`tiled`), larger ones are told of it.

    Raises:
        InputError: they are not; the flags that convert them are in the message. There is no image of that number.
    """
    from pofx.data import load_images

    return _images(load_images, spec, space, flags, run, say, told, tiled, stride).slice()


def open_images(
    spec: str,
    space: ImageSpace,
    flags: Conversions = Conversions(),
    run: RunData | None = None,
    *,
    say: Say = nobody,
    tiled: bool = False,
    stride: int | None = None,
) -> Opened:
    """`load_images` for work that goes over them once: many files are read when their slice is (`pofx.data.open_images`)."""
    from pofx.data import open_images

    return _images(open_images, spec, space, flags, run, say, True, tiled, stride)


def _images(
    read: Callable[..., tuple[Any, ImageSpace]],
    spec: str,
    space: ImageSpace,
    flags: Conversions,
    run: RunData | None,
    say: Say,
    told: bool,
    tiled: bool,
    stride: int | None,
) -> Opened:
    import numpy as np

    from pofx.data import parse
    from pofx.data.sources import is_name

    base, mark, number = spec.rpartition("#")
    chosen = int(number) if mark and number.removeprefix("-").isdecimal() and not Path(spec).expanduser().exists() else None
    spec = spec if chosen is None else base
    if chosen is not None:
        from pofx.data import load_images as read  # one of them
    # Letters are numbered by the run's alphabet, not by that of the text in hand, and values are read on its scale.
    kept: dict[str, Any] = {} if run is None else {key: run.stored.get(key) for key in ("alphabet", "scale")}
    split, found = read(spec, **flags.arguments(), **kept)
    tell_skipped(split.skipped, say)
    as_tile = replace(found, height=space.height, width=space.width)
    if (found if stride is None else as_tile) != space:
        fix = _conversion(found, space, flags, () if run is None else run.transforms)
        if tiled and as_tile == space and space.height == space.width <= min(found.height, found.width):
            fix += f" Or cut them into tiles of the model's size: --tile {space.height}"
        raise InputError(f"The run is a model of {space}; {spec} holds {found}. {fix}")
    heading = split.heading
    split = split.told(run.view) if told and run is not None else split
    if chosen is not None:
        if not -len(split) <= chosen < len(split):
            raise InputError(f"There is no image {chosen} in {spec}: it holds {len(split)}, numbered 0 … {len(split) - 1}, e.g. '{spec}#0'")
        chosen %= len(split)
        split, heading = split.select(np.array([chosen])), f"{heading} #{chosen}"
    parsed = parse(spec)
    part = parsed.part or ("test" if is_name(parsed.base) else "all")
    return Opened(split, heading, part, None if stride is None else (space, (found.height, found.width), stride))


@dataclass(frozen=True)
class Opened:
    """Images that a verb was given and goes over slice by slice; `heading` and `part` are those of `Loaded`.

    `tile`: the space, the size and the stride of `Tiles`, or None."""

    split: Split | Unread
    heading: str
    part: str
    tile: tuple[ImageSpace, tuple[int, int], int] | None

    def __len__(self) -> int:
        return len(self.split)

    @property
    def unread(self) -> bool:
        """Whether images are read when their slice is."""
        from pofx.data import Split

        return not isinstance(self.split, Split)

    @property
    def transforms(self) -> tuple[str, ...]:
        """Conversions, as far as they are known, as the heading names them."""
        return named_in(self.heading)

    def with_transforms(self, more: Collection[str]) -> str:
        """The heading, with conversions that other images needed."""
        from pofx.data.unread import heading

        return heading(self.heading.partition(" [")[0], (*self.transforms, *sorted(more))) if more else self.heading

    @property
    def each(self) -> int:
        """Tiles of an image."""
        from pofx.tasks._tiles import Tiles

        return self.images.each if isinstance(self.images, Tiles) else 1

    @property
    def images(self) -> Images:
        """All of them, or their tiles."""
        return self._tiled(self.split)

    def _tiled(self, images: Images) -> Images:
        from pofx.tasks._tiles import Tiles

        return images if self.tile is None else Tiles(images, *self.tile)

    def slice(self, start: int = 0, stop: int | None = None) -> Loaded:
        """Images start … stop−1, in memory; all of them as they are."""
        import numpy as np

        from pofx.data import Split

        stop = len(self) if stop is None else stop
        if not isinstance(self.split, Split):
            split, rows = self.split.slice(start, stop)
            return Loaded(split, split.heading, self.part, self._tiled(split), rows)
        split = self.split if (start, stop) == (0, len(self)) else self.split.select(np.arange(start, stop)).read()
        return Loaded(split, self.heading, self.part, self._tiled(split), np.arange(start, stop))

    @property
    def fingerprint(self) -> str:
        """Of the pixels and labels, or of the files where they are not read yet."""
        from hashlib import sha256

        from pofx.data import Split

        if not isinstance(self.split, Split):
            return self.split.fingerprint
        digest = sha256(self.split.keys.astype("<u8").tobytes())
        if self.split.y is not None:
            digest.update(self.split.y.numpy().tobytes())
        return digest.hexdigest()[:32]


def load_side(
    spec: str,
    model: ImageModel,
    flags: Conversions = Conversions(),
    run: RunData | None = None,
    *,
    say: Say = nobody,
    told: bool = True,
) -> tuple[Loaded, bool]:
    """Images to condition on, and whether they are the value of the run's view itself: of p(x | gray) grey images, of p(x | half) those of half
    the size.

    Raises:
        InputError: they are neither.
    """
    from pofx.views import Gray, Half

    view, space = model.given, model.space
    try:
        return load_images(spec, space, flags, run, say=say, told=told), False
    except InputError as error:
        if not isinstance(view, Gray | Half):
            raise
        c, h, w = view.feature_shape(space) if isinstance(view, Gray) else (space.channels, -(-space.height // 2), -(-space.width // 2))
        try:
            return load_images(spec, replace(space, channels=c, height=h, width=w), flags, run, say=say, told=told), True
        except InputError:
            what = "a grey image" if isinstance(view, Gray) else "one of half the size"
            raise InputError(f"{error}\nOr give {what}: {c}×{h}×{w}.") from error


def ways(found: ImageSpace, space: ImageSpace) -> list[str] | None:
    """The conversions that make images of the space `found` into images of `space`, by name; None where channels do not allow it."""
    gray = space.channels == 1 and found.channels in (3, 4)
    if found.channels != space.channels and not gray:
        return None
    convert = [f"size {space.height}x{space.width}"] if (found.height, found.width) != (space.height, space.width) else []
    convert += ["gray"] if gray else []
    return convert + ([f"levels {space.levels}"] if found.levels > space.levels else [])


def _conversion(found: ImageSpace, space: ImageSpace, flags: Conversions, transforms: Sequence[str]) -> str:
    """What makes images of the space `found` into images of `space`, as a sentence."""
    if found.levels < space.levels:
        if flags.levels is not None:
            return f"Leave out --levels {flags.levels}."
        return f"Levels cannot be added: give images of {space.levels} levels."
    convert = ways(found, space)
    if convert is None:
        return f"Give images of {space.channels} channel{'s' * (space.channels > 1)}."
    same = ", the same conversion that was used in training" if set(convert) <= set(transforms) else ""
    return f"Add {' '.join('--' + name for name in convert)}{same}."


@dataclass(frozen=True)
class RunData:
    """What a run says about its data."""

    meta: Mapping[str, Any]

    @property
    def stored(self) -> Mapping[str, Any]:
        """What model.json holds under "data"; empty where it says nothing."""
        return self.meta.get("data") or {}

    @property
    def class_names(self) -> tuple[str, ...] | None:
        names = self.stored.get("class_names")
        return tuple(names) if names else None

    @property
    def unlearned(self) -> tuple[int, ...]:
        """Classes that the run's model has and none of its training images is of."""
        return tuple((self.meta.get("training") or {}).get("unlearned") or ())

    @property
    def view(self) -> View | None:
        """The view that the run's model conditions on."""
        from pofx.catalog import arguments_from_json

        return arguments_from_json(self.meta.get("given"))

    @property
    def transforms(self) -> tuple[str, ...]:
        return tuple(self.stored.get("transforms") or ())

    @property
    def heading(self) -> str:
        return str(self.stored.get("heading") or "?")

    def is_own(self, data: str) -> bool:
        """Whether this is what was typed as DATA when the run was trained."""
        stored = self.stored
        return data in (stored.get("name"), (stored.get("spec") or {}).get("spec"))

    def is_own_test(self, data: str) -> bool:
        """Whether this is the test part of the run's own data, or one image of it: images that were held out."""
        from pofx.data import parse
        from pofx.data.sources import is_name

        parsed = parse(data.partition("#")[0])
        base = parsed.base if parsed.transform is None else f"{parsed.base}:{parsed.transform}"
        return self.is_own(base) and (parsed.part or ("test" if is_name(parsed.base) else "all")) == "test"

    def load_split(self, data: str | None, space: ImageSpace, flags: Conversions, say: Say = nobody) -> Split:
        """The images that were named, or the test part of the run's own data where none were."""
        return self.load_data(say).test if data is None else load_images(data, space, flags, self, say=say).split

    def unchanged(self, data: Data) -> bool:
        """Whether the run's own data, made again, is what it was when the run was trained."""
        return data.fingerprint == self.stored.get("fingerprint")

    def load_data(self, say: Say = nobody) -> Data:
        """The run's own data, made again.

        Raises:
            InputError: it was given in memory, or is not there any more.
        """
        from pofx.data import load_data

        stored = self.stored
        if not stored.get("spec"):
            raise InputError("This run does not say what it was trained on; name the images as DATA.")
        data = load_data(**stored["spec"]).told(self.view)
        if not self.unchanged(data):
            say(
                f"{data.heading} is not what it was when the run was trained: images were added, removed or changed, or split in another way."
            )
        return data


def run_info(run: str) -> RunData:
    """What model.json of a run says."""
    from pofx.training import read_run

    return RunData(read_run(run).json)


def from_words(
    run: str,
    info: RunData,
    view: View,
    n: int,
    space: ImageSpace,
    *,
    label: str | None = None,
    attributes: str | None = None,
    caption: str | None = None,
) -> Tensor:
    """The value of a run's view for n images from words: a class by number or name (several in turn with commas), attributes as
    `smiling=1,hat=0`, or a caption.

    Raises:
        InputError: words that the view does not take, or none where it needs some.
    """
    import torch

    from pofx.views import Attributes, Caption, Label

    if caption is not None:
        return view.check(caption, n, space)
    if attributes is not None:
        return view.check(_attributes(attributes), n, space)
    if isinstance(view, Caption):
        raise InputError(f'{run} is p(x | caption): say what to draw, e.g. --caption "smiling face", or --like DATA')
    if isinstance(view, Attributes):
        raise InputError(f"{run} is p(x | attributes): say which, e.g. --attributes {view.names[0]}=1, or --like DATA")
    if not isinstance(view, Label):
        raise InputError(f"{run} is p(x | {view.name}): say which images it shall condition on, e.g. --like digits:test")
    if label is None and view.unknown:
        return torch.full((n,), -1)
    if label is None:
        raise InputError(f"{run} is p(x | label): say which, e.g. --label 0 (of 0 … {view.classes - 1}), or several in turn: --label 0,1,2")
    names = info.class_names
    numbers = torch.tensor([_number(part.strip(), names, view.classes) for part in label.split(",")])
    return learned(run, info, numbers)[torch.arange(n) % len(numbers)]


def learned(run: str, info: RunData, numbers: Tensor) -> Tensor:
    """Labels, all of classes that training images were of."""
    for number in numbers.tolist():
        if number in info.unlearned:
            name = f" ({info.class_names[number]})" if info.class_names else ""
            raise InputError(
                f"Class {number}{name} had no training image in {info.heading}, so {run} knows nothing of it. "
                f"Leave it out, or train on images of it. The counts: pofx data {info.stored.get('name', info.heading)}"
            )
    return numbers


def _attributes(text: str) -> dict[str, int]:
    """smiling=1,hat=0 → {"smiling": 1, "hat": 0}"""
    found = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, value = part.partition("=")
        if value.strip() not in ("0", "1"):
            raise InputError(f"--attributes {part}: write NAME=1 or NAME=0, e.g. --attributes {name.strip() or 'smiling'}=1")
        if name.strip() in found:
            raise InputError(f"--attributes {text}: {name.strip()} is said twice; say it once.")
        found[name.strip()] = int(value)
    return found


def _number(label: str, names: tuple[str, ...] | None, classes: int) -> int:
    if names and label in names:
        return names.index(label)
    if label.isdecimal() and int(label) < classes:
        return int(label)
    hint = f" {nearest(label, names)}" if names else ""
    raise InputError(f"--label {label or repr(label)}: the run knows no such class; labels are 0 … {classes - 1}, e.g. --label 0.{hint}")
