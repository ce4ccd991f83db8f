"""Which runs there are, and their models, each loaded once. Reading what a run is needs no torch; what it can do does."""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pofx.errors import CapabilityError, InputError
from pofx.numbers import SIGNS

if TYPE_CHECKING:
    from pofx.data import Data, Split
    from pofx.model import ImageModel
    from pofx.workflows.loading import RunData

MODEL = "model.json"
HELD = 4  # models and data sets that are kept in memory


@dataclass(frozen=True)
class Card:
    """What model.json of a run says, read without torch.

    Attributes:
        path: its folder, as a person would type it.
        json: the whole file.
    """

    path: str
    json: dict[str, Any]

    @property
    def name(self) -> str:
        return Path(self.path).name

    @property
    def model(self) -> str:
        return str(self.json.get("model", "?"))

    @property
    def heading(self) -> str:
        return str((self.json.get("data") or {}).get("heading") or "?")

    @property
    def given(self) -> str:
        """The view's name in lower case, "" of p(x)."""
        return str((self.json.get("given") or {}).get("type") or "").lower()

    @property
    def finished(self) -> bool:
        return bool(self.json.get("finished", True))

    @property
    def cost(self) -> str:
        """The last validation in bits/dim with the sign of its kind, "" of a model without likelihood."""
        metrics = self.json.get("metrics") or {}
        bits, kind = metrics.get("valid_bits_per_dim"), metrics.get("valid_kind")
        return "" if bits is None or kind not in SIGNS else f"{SIGNS[kind]} {float(bits):.4g} bits/dim"

    @property
    def text(self) -> str:
        """One line to choose by."""
        what = f"{self.model} given {self.given}" if self.given else self.model
        return " · ".join(part for part in (self.path, what, self.heading, self.cost) if part)


def read_card(path: str | Path) -> Card | None:
    """The card of a run folder; None where there is no readable one."""
    try:
        value = json.loads((Path(path) / MODEL).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return Card(str(path), value) if isinstance(value, dict) and "model" in value else None


class Shelf:
    """The runs at some places: run folders, and folders that hold runs.

    Raises:
        InputError: a place that is neither.
    """

    def __init__(self, places: Sequence[str | Path] = (), *, device: str = "auto") -> None:
        self.places = [Path(place) for place in places] or [Path("runs")]
        self.device = device
        self.named = bool(places)
        for place in self.places if self.named else ():
            if not place.is_dir():
                raise InputError(
                    f"{place}: no such folder. Give run folders, or a folder that holds runs, e.g. pofx studio runs; "
                    "or make a run: pofx train pixelcnn digits --out runs/digits --minutes 1"
                )
        self.lock = threading.RLock()
        self._models: OrderedDict[tuple[str, int], ImageModel] = OrderedDict()
        self._data: OrderedDict[str, Data] = OrderedDict()
        self._ready = threading.Event()

    def cards(self) -> list[Card]:
        """Every run that is there now, by name."""
        found: dict[str, Card] = {}
        for place in self.places:
            for folder in (place, *sorted(p.parent for p in place.glob(f"*/{MODEL}"))):
                card = read_card(folder)
                if card is not None:
                    found.setdefault(str(folder.resolve()), card)
        return list(found.values())

    def card(self, path: str) -> Card:
        """One run by its path, among those on the shelf.

        Raises:
            InputError: it is not there (any more).
        """
        for card in self.cards():
            if card.path == path:
                return card
        raise InputError(f"There is no run {path} here any more. Reload the page.")

    def new_place(self) -> Path:
        """Where runs that are started here go: the first place that is not a run itself."""
        return next((place for place in self.places if not (place / MODEL).is_file()), Path("runs"))

    # What needs torch ----------------------------------------------------------------------------------------------------

    def warm(self) -> None:
        """Load torch and what tasks need, behind the first paint."""
        from pofx import catalog

        try:
            from pofx.model import ImageModel  # noqa: F401  torch

            catalog.models()
            catalog.tasks()
        finally:  # what is missing is told where it is needed; nobody is to wait for it
            self._ready.set()

    def wait(self) -> None:
        """Until `warm` is done, where it runs."""
        self._ready.wait()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """One computation at a time: a processor is not faster at two, and number of threads is the process's."""
        self.wait()
        with self.lock:
            yield

    def give_way(self) -> None:
        """Within `computing`, between two pieces of work: let another computation in."""
        self.lock.release()
        time.sleep(0.002)  # without it this thread would be the first again
        self.lock.acquire()

    def model(self, path: str) -> ImageModel:
        """The model of a run, loaded once for as long as its file stays as it is."""
        from pofx.training import load_model

        weights = Path(path) / "model.safetensors"
        key = (path, weights.stat().st_mtime_ns if weights.is_file() else 0)
        with self.computing():
            if key not in self._models:
                self._models[key] = load_model(self.card(path).path, device=self.device)
                while len(self._models) > HELD:
                    self._models.popitem(last=False)
            self._models.move_to_end(key)
            return self._models[key]

    def info(self, path: str) -> RunData:
        """What the run says about its data."""
        from pofx.workflows.loading import RunData

        return RunData(self.card(path).json)

    def data(self, path: str) -> Data:
        """The run's own data, made again once.

        Raises:
            InputError: it is not there any more.
        """
        with self.computing():
            if path not in self._data:
                self._data[path] = self.info(path).load_data()
                while len(self._data) > HELD:
                    self._data.popitem(last=False)
            return self._data[path]

    def images(self, path: str, spec: str = "") -> Split:
        """The images that are named, or the test part of the run's own data."""
        from pofx.workflows.loading import Conversions, load_images

        if not spec.strip():
            return self.data(path).test
        with self.computing():
            return load_images(spec.strip(), self.model(path).space, Conversions(), self.info(path)).split


@dataclass(frozen=True)
class Wanted:
    """What a page needs of a run: one of these capabilities, to do that; or that `also` says yes to its card."""

    capabilities: tuple[str, ...]
    to: str
    also: Callable[[Card], bool] = lambda card: False

    def classes(self) -> tuple[type[ImageModel], ...]:
        from pofx.model import CAPABILITIES

        return tuple(CAPABILITIES[name] for name in self.capabilities)

    @cached_property
    def needs(self) -> str:
        return " or ".join(self.capabilities)

    def fits(self, card: Card) -> bool:
        """Whether the class of a run has it, without loading its weights."""
        from pofx import catalog

        try:
            return issubclass(catalog.get(card.model), self.classes()) or self.also(card)
        except InputError:
            return False

    def unable(self, shelf: Shelf, path: str) -> str:
        """Why a run on the shelf cannot, as one sentence; "" where it can."""
        from pofx.model import require

        try:
            if not self.also(shelf.card(path)):
                require(shelf.model(path), *self.classes(), to=self.to)
        except (CapabilityError, InputError) as error:
            return str(error)
        return ""
