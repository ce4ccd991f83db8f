"""Images and data as a run takes them: of its space, told to its view, converted as its own were; with messages that say what to do.

What the shells share (the command line, the studio, the service): each says in its own way what `say` is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pofx.errors import InputError

if TYPE_CHECKING:
    from pofx.data import Data, Split
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

    `images`: the same images, or their tiles where they are larger than the model and tiles were asked for."""

    split: Split
    heading: str
    part: str
    images: Images

    @property
    def transforms(self) -> tuple[str, ...]:
        """Their conversions, as the heading names them."""
        inside = self.split.heading.partition(" [")[2].rstrip("]")
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
    import numpy as np

    from pofx.data import load_images, parse
    from pofx.data.sources import is_name
    from pofx.tasks._tiles import Tiles

    base, mark, number = spec.rpartition("#")
    chosen = int(number) if mark and number.removeprefix("-").isdecimal() and not Path(spec).expanduser().exists() else None
    spec = spec if chosen is None else base
    # Letters are numbered by the run's alphabet, not by that of the text in hand, and values are read on its scale.
    kept: dict[str, Any] = {} if run is None else {key: run.stored.get(key) for key in ("alphabet", "scale")}
    split, found = load_images(spec, **flags.arguments(), **kept)
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
    images = split if stride is None else Tiles(split, space, (found.height, found.width), stride)
    return Loaded(split, heading, parsed.part or ("test" if is_name(parsed.base) else "all"), images)


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


def _conversion(found: ImageSpace, space: ImageSpace, flags: Conversions, transforms: Sequence[str]) -> str:
    """What makes images of the space `found` into images of `space`, as a sentence."""
    if found.levels < space.levels:
        if flags.levels is not None:
            return f"Leave out --levels {flags.levels}."
        return f"Levels cannot be added: give images of {space.levels} levels."
    gray = space.channels == 1 and found.channels in (3, 4)
    if found.channels != space.channels and not gray:
        return f"Give images of {space.channels} channel{'s' * (space.channels > 1)}."
    convert = [f"size {space.height}x{space.width}"] if (found.height, found.width) != (space.height, space.width) else []
    convert += ["gray"] if gray else []
    convert += [f"levels {space.levels}"] if found.levels != space.levels else []
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
