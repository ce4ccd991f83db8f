"""What verbs share: the flags that every verb takes, those that convert data, and how an answer is shown."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from pofx.workflows import loading
from pofx.workflows.loading import Conversions, Loaded, Opened, RunData, tell_skipped
from pofx.workflows.loading import run_info as run_info  # verbs take it from here

if TYPE_CHECKING:
    from rich.console import Console

    from pofx.data import Data
    from pofx.model import ImageModel
    from pofx.space import ImageSpace
    from pofx.workflows.bulk import Engine, Remarks

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
class DataFlags(Conversions):
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

    def load(self, spec: str, common: Common, **more: Any) -> Data:
        """`load_data` with these flags; files that were skipped are listed on stderr."""
        from pofx.data import load_data

        data = load_data(spec, **self.arguments(), **more)
        tell_skipped(data.skipped, common.note)
        return data


BULK = Group("Many images", sort_key=6)


@Parameter(name="*", group=BULK)
@dataclass(frozen=True)
class BulkFlags:
    """Flags of verbs that go over any number of images. The same command goes on after whatever ended it."""

    engine: Literal["local", "ray"] = "local"
    """This process, or all nodes of a Ray cluster (pip install 'pofx[ray]'): the same file."""
    address: str | None = None
    """Of the cluster, e.g. HOST:6379; without it one is started on this machine."""

    def open(self) -> Engine:
        from pofx.workflows.bulk import engine

        return engine(self.engine, self.address)


def load_model(run: str, common: Common) -> ImageModel:
    """The model of a run, on the device asked for; a remark where its training has not ended."""
    from pofx.training import load_model, read_run

    model = load_model(run, device=common.device)
    if not read_run(run).finished:
        common.note(f"{run} is not finished: these are its weights so far. The same `pofx train … --out {run}` command goes on.")
    return model


def load_images(
    spec: str, space: ImageSpace, flags: Conversions = DataFlags(), common: Common = Common(), run: RunData | None = None, **more: Any
) -> Loaded:
    """`loading.load_images`, whose remarks go to stderr."""
    return loading.load_images(spec, space, flags, run, say=common.note, **more)


def open_images(
    spec: str, space: ImageSpace, flags: Conversions = DataFlags(), common: Common = Common(), run: RunData | None = None, **more: Any
) -> Opened:
    """`loading.open_images`, whose remarks go to stderr."""
    return loading.open_images(spec, space, flags, run, say=common.note, **more)


def tell_unread(images: Opened, remarks: Remarks, common: Common) -> None:
    """What could not be read of images that were opened and not loaded."""
    if images.unread:
        tell_skipped(remarks.skipped, common.note)


def load_side(
    spec: str, model: ImageModel, flags: Conversions = DataFlags(), common: Common = Common(), run: RunData | None = None, **more: Any
) -> tuple[Loaded, bool]:
    """`loading.load_side`, whose remarks go to stderr."""
    return loading.load_side(spec, model, flags, run, say=common.note, **more)


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
