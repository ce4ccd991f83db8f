"""What a run says of the data it was trained on, that data made again, and what a person says of images as the value of the run's view: for shells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pofx.errors import InputError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from pofx.data import Data
    from pofx.space import ImageSpace
    from pofx.views import View


class Notes(Protocol):
    """Where remarks go."""

    def note(self, text: str, /) -> None: ...


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

    def unchanged(self, data: Data) -> bool:
        """Whether the run's own data, made again, is what it was when the run was trained."""
        return data.fingerprint == self.stored.get("fingerprint")

    def load_data(self, common: Notes) -> Data:
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
            common.note(
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
