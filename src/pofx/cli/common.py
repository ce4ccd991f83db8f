"""What verbs share: the flags that every verb takes, those that convert data, and how an answer is shown."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from pofx.errors import InputError
from pofx.workflows.run_data import RunData
from pofx.workflows.run_data import run_info as run_info  # verbs take it from here

if TYPE_CHECKING:
    from rich.console import Console

    from pofx.data import Data, Split
    from pofx.model import ImageModel
    from pofx.space import ImageSpace
    from pofx.tasks.bulk import Images

EVERYWHERE = Group("Every verb", sort_key=10)
DATA = Group("Convert the data (recorded, and printed with every number)", sort_key=5)

Device = Literal["auto", "cpu", "cuda", "mps"]
Flag = Annotated[bool, Parameter(show_default=False)]  # a switch: that it is off needs no saying


@Parameter(name="*", group=EVERYWHERE)
@dataclass(frozen=True)
class Common:
    """Flags of every verb."""

    json: Flag = False
    """Print one JSON object on stdout, everything else on stderr."""
    quiet: Flag = False
    """No progress and no remarks: only the answer."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU where there is one."""
    debug: Flag = False
    """Show the traceback of an error."""

    def note(self, text: str) -> None:
        """A remark on stderr."""
        if not self.quiet:
            print(text, file=sys.stderr)

    def progress(self, what: str) -> Any:
        """A progress bar as a context manager: `with common.progress("sampling") as progress: task(…, progress=progress)`."""
        from pofx.cli.progress import progress

        return progress(what, quiet=self.quiet)


@Parameter(name="*", group=DATA)
@dataclass(frozen=True)
class DataFlags:
    """Flags that convert data when it is read."""

    size: str | None = None
    """Resize to HEIGHTxWIDTH, e.g. 28x28, or one number for a square."""
    levels: int | None = None
    """Make pixels coarser: 2 to 256 values."""
    gray: Flag = False
    """Make colour images grey."""
    keep_labels: str | None = None
    """Keep only these classes, e.g. 0,1,7."""
    drop_labels: str | None = None
    """Leave these classes out."""
    strict: Flag = False
    """One unreadable file is an error, not a remark."""

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

    def load(self, spec: str, common: Common, **more: Any) -> Data:
        """`load_data` with these flags; files that were skipped are listed on stderr."""
        from pofx.data import load_data

        data = load_data(spec, **self.arguments(), **more)
        _skipped(data.skipped, common)
        return data


def _skipped(files: Sequence[str], common: Common) -> None:
    if files:
        shown = "; ".join(files[:3]) + (f"; and {len(files) - 3} more" if len(files) > 3 else "")
        common.note(f"skipped {len(files)} unreadable file{'s' * (len(files) > 1)}: {shown} (--strict makes this an error)")


def listed(text: str | None) -> tuple[str, ...]:
    """What was typed as names with commas between them."""
    return () if not text else tuple(part.strip() for part in text.split(",") if part.strip())


def load_model(run: str, common: Common) -> ImageModel:
    """The model of a run, on the device asked for; a remark where its training has not ended."""
    from pofx.training import load_model, read_run

    model = load_model(run, device=common.device)
    if not read_run(run).finished:
        common.note(f"{run} is not finished: these are its weights so far. The same `pofx train … --out {run}` command goes on.")
    return model


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
    flags: DataFlags = DataFlags(),
    common: Common = Common(),
    run: RunData | None = None,
    *,
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
    _skipped(split.skipped, common)
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
    flags: DataFlags = DataFlags(),
    common: Common = Common(),
    run: RunData | None = None,
    *,
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
        return load_images(spec, space, flags, common, run, told=told), False
    except InputError as error:
        if not isinstance(view, Gray | Half):
            raise
        c, h, w = view.feature_shape(space) if isinstance(view, Gray) else (space.channels, -(-space.height // 2), -(-space.width // 2))
        try:
            return load_images(spec, replace(space, channels=c, height=h, width=w), flags, common, run, told=told), True
        except InputError:
            what = "a grey image" if isinstance(view, Gray) else "one of half the size"
            raise InputError(f"{error}\nOr give {what}: {c}×{h}×{w}.") from error


def _conversion(found: ImageSpace, space: ImageSpace, flags: DataFlags, transforms: Sequence[str]) -> str:
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


def load_split(run: RunData, data: str | None, space: ImageSpace, flags: DataFlags, common: Common) -> Split:
    """The images that were named, or the test part of the run's own data where none were."""
    return run.load_data(common).test if data is None else load_images(data, space, flags, common, run).split


@dataclass(frozen=True)
class Answer:
    """What a verb found.

    Attributes:
        data: the JSON object.
        text: how to show it to a person: lines, a rich table, or a function that prints to a console.
    """

    data: Mapping[str, Any]
    text: Any = ""


def show(answer: Answer, common: Common) -> None:
    """Print an answer on stdout."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text; \\udcff is how JSON writes them too
    if common.json:
        sys.stdout.write(json.dumps(plain(answer.data), ensure_ascii=False, allow_nan=False) + "\n")
        sys.stdout.flush()
        return
    if isinstance(answer.text, str):
        if answer.text:
            print(answer.text)
        sys.stdout.flush()
        return
    print_rich(answer.text)
    sys.stdout.flush()


def print_rich(what: Any) -> None:
    """A rich table or a sequence of things, or a function of a console; plain and wide where stdout is no terminal."""
    console = make_console()
    if callable(what):
        what(console)
    else:
        for part in what if isinstance(what, list | tuple) else [what]:
            console.print(part)


def make_console() -> Console:
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # `main` knows what to do; rich would exit 1

    width = None if sys.stdout.isatty() else 200  # a file has no edge
    return Plain(file=sys.stdout, highlight=False, emoji=False, markup=False, width=width)


def table(*columns: str, right: Sequence[str] = ()) -> Any:
    """An empty rich table without lines, so that it reads the same in a file."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", no_wrap=False)
    return made


def plain(value: Any) -> Any:
    """JSON values of numbers, paths, arrays, dataclasses; what is not finite becomes null.

    >>> plain({"a": float("nan"), "b": (1, Path("x"))})
    {'a': None, 'b': [1, 'x']}
    """
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "to_json"):
        return plain(value.to_json())
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if hasattr(value, "tolist"):  # tensors and arrays
        return plain(value.tolist())
    return str(value)
