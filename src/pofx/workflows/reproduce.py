"""A recipe, from its file to a number beside the one that was expected: train, measure on the split it names, write `results/NAME.json`.

    recipes/NAME.toml

    title, model, data      what is trained on what
    source, hardware, minutes, get        where the number comes from, what it was planned for, how to have the data
    [expected]   metric = "nats" | "bits_per_dim", split, at_most, stretch; estimate, estimate_of_500: of a model with a bound, draws of
                 its importance-weighted estimate, on the whole split and on 500 fixed images; compare = "estimate" | "bound": the number found.
                 Or metric = "accuracy", split, at_least: of a classifier, or of p(x | label) by Bayes' rule.
                 Or metric = "shares", split, at_least, draw: of a sampler, the least of precision, recall, density and coverage of `draw`
                 samples, each over what real images get, in the features of the data's own features run
    [settings]   arguments of the model; given = { type = "Label", classes = 10 } as in model.json
    [train]      arguments of `pofx train`: minutes | steps | epochs, batch_size, lr, optimizer, average, seed, precision, threads, augment, device;
                 init_from = another recipe, from whose weights training starts: those of its run beside this one, or of results/weights/
    [convert]    arguments of `load_data`: size, levels, gray, keep_labels, drop_labels, split_seed

Training is `pofx.train`: the same call goes on where a killed one stopped. Measured are the averaged weights, on the split that is
named, and never anything that training looked at. The number is kept as it is, met or not, with the budget it really had.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pofx.errors import InputError, nearest

if TYPE_CHECKING:
    from pofx.data import Data
    from pofx.model import ImageModel, Progress
    from pofx.tasks._samples import SampleQuality
    from pofx.training import TrainingPlan

PACKAGE = Path(__file__).resolve().parents[1]
FOLDERS = (PACKAGE / "recipes", PACKAGE.parents[1] / "recipes")  # in a wheel; in a source checkout

DRAW = 5000  # samples whose shares are measured, unless a recipe says otherwise
BUDGETS = ("minutes", "steps", "epochs")
METRICS = ("nats", "bits_per_dim", "accuracy", "shares")
RISING = ("accuracy", "shares")  # they are to be large, costs small
_TEXT: dict[str, tuple[type, ...]] = dict.fromkeys(("title", "model", "data", "source", "hardware", "get"), (str,))
_NUMBER = (int, float)
_TOP: dict[str, tuple[type, ...]] = _TEXT | {"minutes": _NUMBER} | dict.fromkeys(("expected", "settings", "train", "convert"), (dict,))
_EXPECTED: dict[str, tuple[type, ...]] = {"metric": (str,), "split": (str,), "at_most": _NUMBER, "stretch": _NUMBER}
_EXPECTED |= {"estimate": (int,), "estimate_of_500": (int,), "compare": (str,), "at_least": _NUMBER, "draw": (int,)}
_TRAIN: dict[str, tuple[type, ...]] = {
    "minutes": _NUMBER,
    "steps": (int,),
    "epochs": _NUMBER,
    "batch_size": (int,),
    "lr": _NUMBER,
    "optimizer": (str,),
    "average": _NUMBER,
    "seed": (int,),
    "precision": (str,),
    "threads": (int,),
    "augment": (list,),
    "device": (str,),
    "init_from": (str,),
}
_CONVERT: dict[str, tuple[type, ...]] = {
    "size": (str, int),
    "levels": (int,),
    "gray": (bool,),
    "keep_labels": (list,),
    "drop_labels": (list,),
    "split_seed": (int,),
}
_NEEDED = ("title", "model", "data", "source", "hardware", "minutes", "expected", "train")
_KINDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "a table"}


@dataclass(frozen=True)
class Recipe:
    """One result to reproduce.

    Attributes:
        name: of its file.
        title, model, data: as in the file.
        settings: of the model, as JSON (`catalog.arguments_from_json` makes them).
        train: arguments of `train`, exactly one budget among them.
        convert: arguments of `load_data`.
        expected: metric, split, at_most (or at_least) and perhaps stretch.
        source: the paper or table that the number is compared with.
        hardware: what it was planned for; minutes: how long it takes there.
        get: how to have the data, or "".
    """

    name: str
    path: Path
    title: str
    model: str
    data: str
    source: str
    hardware: str
    minutes: float
    expected: Mapping[str, Any]
    train: Mapping[str, Any]
    settings: Mapping[str, Any]
    convert: Mapping[str, Any]
    get: str = ""

    @property
    def budget(self) -> dict[str, float]:
        """Its minutes, steps or epochs, by name."""
        return {name: self.train[name] for name in BUDGETS if name in self.train}

    def make(self, data: Data) -> ImageModel:
        """The model with fresh weights, a function of the seed.

        Raises:
            InputError: the model does not know a setting, or refuses its value.
        """
        import torch

        from pofx import catalog

        cls, settings = self.check_model()
        torch.manual_seed(self.train.get("seed", 0))
        try:
            return cls(data.space, **catalog.arguments_from_json(settings))
        except TypeError as error:
            raise InputError(
                f"{self.path}: the settings do not fit {cls.__name__}: {error}. See: pofx train {self.model} --help"
            ) from error

    def seeded(self, seed: int) -> Recipe:
        """The same with another seed, and a name that says so; itself for its own."""
        if seed == self.train.get("seed", 0):
            return self
        return replace(self, name=f"{self.name}-seed{seed}", train={**self.train, "seed": seed})

    def check_model(self) -> tuple[type[ImageModel], dict[str, Any]]:
        """The model's class and its settings, each of which it has; a learning rate is the model's where it has one, as in `pofx train`.

        Raises:
            InputError: no such model, or no such setting; the nearest name is suggested.
        """
        from pofx import catalog
        from pofx.training.runs import check_kinds

        try:
            cls = catalog.get(self.model)
            catalog.check_arguments(cls, self.settings)
            check_kinds(cls, self.settings)
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from error
        own = "lr" in inspect.signature(cls).parameters and "lr" in self.train
        return cls, dict(self.settings) | ({"lr": self.train["lr"]} if own else {})


def folder() -> Path | None:
    """Where recipes are found by name, or None."""
    return next((path for path in FOLDERS if path.is_dir()), None)


def recipe_names() -> list[str]:
    """Names of all recipes.

    >>> "binarized-mnist-gated" in recipe_names()
    True
    """
    found = folder()
    return sorted(path.stem for path in found.glob("*.toml")) if found else []


def load_recipe(recipe: str | Path) -> Recipe:
    """A recipe by its name or path, checked as far as that goes without its model and data.

    Raises:
        InputError: no such recipe, no TOML, something unknown, missing or of the wrong kind in it.

    >>> load_recipe("binarized-mnist-gated").expected["metric"]
    'nats'
    """
    path = Path(recipe).expanduser()
    home = folder()
    if path.suffix != ".toml" and not path.is_file() and home is not None and path.name == str(recipe):
        path = home / f"{recipe}.toml"
    if not path.is_file():
        known = recipe_names()
        hint = nearest(path.stem, known) if known else "There is no folder of recipes here; give the path of a .toml file."
        raise InputError(f"No recipe {str(recipe)!r}. {hint}")
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML: {error}. Mend that line.") from error
    _check(found, _TOP, path, "")
    for name in _NEEDED:
        if name not in found:
            raise InputError(f"{path}: {name!r} is missing. A recipe has {', '.join(_NEEDED)}; see {(home or FOLDERS[1]) / '*.toml'}.")
    expected, train = found["expected"], found["train"]
    _check(expected, _EXPECTED, path, "expected")
    _check(train, _TRAIN, path, "train")
    _check(found.get("convert", {}), _CONVERT, path, "convert")
    if expected.get("metric") not in METRICS:
        raise InputError(f"{path}: expected.metric is {expected.get('metric')!r}; use one of {', '.join(METRICS)}.")
    if expected.setdefault("split", "test") not in ("test", "valid"):
        raise InputError(f"{path}: expected.split is {expected['split']!r}; use test or valid.")
    if expected["metric"] == "shares" and expected["split"] != "test":
        raise InputError(f"{path}: expected.split is {expected['split']!r}; shares are measured against test.")
    if expected.get("compare", "estimate") not in ("estimate", "bound"):
        raise InputError(f"{path}: expected.compare is {expected['compare']!r}; use estimate or bound.")
    limit = "at_least" if expected["metric"] in RISING else "at_most"
    if limit not in expected:
        raise InputError(f"{path}: expected.{limit} is missing: the number to reach, in {expected['metric']}.")
    budgets = [name for name in BUDGETS if name in train]
    if len(budgets) != 1:
        raise InputError(f"{path}: [train] has {' and '.join(budgets) or 'no budget'}; give one of {', '.join(BUDGETS)}.")
    fields: dict[str, Any] = {"settings": {}, "convert": {}} | found
    return Recipe(path.stem, path, **fields)


def _check(found: Mapping[str, Any], known: Mapping[str, tuple[type, ...]], path: Path, table: str) -> None:
    for name, value in found.items():
        full = f"{table}.{name}" if table else name
        if name not in known:
            raise InputError(f"{path}: a recipe has no {full!r}. {nearest(name, known)}")
        if not isinstance(value, known[name]) or (isinstance(value, bool) and bool not in known[name]):
            kinds = " or ".join(_KINDS[kind] for kind in known[name] if kind is not int or float not in known[name])
            raise InputError(f"{path}: {full} is {value!r}; it must be {kinds}.")


@dataclass(frozen=True)
class Reproduction:
    """What came out.

    Attributes:
        recipe: what was asked.
        run: its run folder.
        path: the JSON file that was written.
        found: its content.
    """

    recipe: Recipe
    run: Path
    path: Path
    found: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return self.found | {"run": str(self.run), "out": str(self.path)}


def load(recipe: Recipe) -> Data:
    """The recipe's data; raises InputError that says how to have it."""
    from pofx.data import load_data

    try:
        return load_data(recipe.data, **recipe.convert)
    except InputError as error:
        how = f"\nHow to have it: {recipe.get}" if recipe.get else ""
        raise InputError(f"{error}{how}") from error


def default_out(recipe: Recipe, minutes: float | None) -> Path:
    """`runs/NAME`; a run of another budget has a folder of its own."""
    return Path("runs") / (recipe.name if minutes is None else f"{recipe.name}-{minutes:g}min")


def plan(recipe: Recipe, *, out: str | Path | None = None, minutes: float | None = None, device: str = "auto") -> TrainingPlan:
    """What `reproduce` would train; nothing is written."""
    from pofx.training import TrainingPlan, train

    data = load(recipe)
    device = _device(recipe, device, planning=True)
    target = default_out(recipe, minutes) if out is None else Path(out)
    asked = _arguments(recipe, minutes, _begin(recipe, target))
    found = train(recipe.make(data), data, out=target, device=device, dry_run=True, quiet=True, **asked)
    assert isinstance(found, TrainingPlan)
    return found


def reproduce(
    recipe: Recipe | str | Path,
    *,
    out: str | Path | None = None,
    minutes: float | None = None,
    seed: int | None = None,
    results: str | Path = "results",
    device: str = "auto",
    quiet: bool = False,
    say: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Reproduction:
    """Train what a recipe says (or go on with it), measure it, and write `results/NAME.json`.

    Args:
        recipe: as `load_recipe` takes it.
        out: the run folder; by default runs/NAME, or runs/NAME-5min with `minutes=5`.
        minutes: another budget than the recipe's; the result says so.
        seed: another than the recipe's: the result is NAME-seed1.json, beside the recipe's own.
        results: folder of the JSON.
        device: "auto" is the recipe's own.
        quiet: no progress of the training.
        say: told remarks.
        progress: of measuring, called with (done, total).

    Raises:
        InputError: no such recipe, model or setting; the data is not there; the run folder is of other arguments.
        RunError: a loss that is not finite, a full disk.
    """
    from pofx.tasks._files import write_text
    from pofx.tasks.bulk import subset
    from pofx.tasks.classify import as_labeler
    from pofx.tasks.evaluate import evaluate
    from pofx.training import Run, load_model, read_run, train
    from pofx.training.files import write_json
    from pofx.training.runs import pofx_version
    from pofx.workflows.features import file_hash

    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    recipe = recipe if seed is None else recipe.seeded(seed)
    path = _result(recipe, Path(results), minutes)
    if path.stem != recipe.name and say is not None:
        say(f"{Path(results) / recipe.name}.json holds a result of the whole budget; this one goes to {path}.")
    load_average = _load_average()
    data = load(recipe)
    chosen = _device(recipe, device)
    if minutes is not None and say is not None:
        say(f"{recipe.name}: {minutes:g} minutes instead of {_budget_text(recipe)}; the result says so.")
    model, target = recipe.make(data), default_out(recipe, minutes) if out is None else Path(out)
    begin = _begin(recipe, target)
    run = train(model, data, out=target, device=chosen, quiet=quiet, **_arguments(recipe, minutes, begin))
    assert isinstance(run, Run)
    # A finished run keeps what it was trained beside; measuring it again says nothing about that.
    memory = run.path / "reproduce.json"
    weights = file_hash(run.path / "model.safetensors")
    old = json.loads(memory.read_text(encoding="utf-8")) if memory.is_file() else {}
    if old.get("weights") == weights:
        load_average = old["load_average"]
    else:
        write_json(memory, {"weights": weights, "load_average": load_average})
    split = recipe.expected["split"]
    begun = time.perf_counter()
    metric, more = recipe.expected["metric"], {}
    rises = metric in RISING
    weighed = load_model(run.path, device=chosen)  # as `pofx evaluate` does: the same number to the last digit
    weighed = as_labeler(weighed) if metric == "accuracy" else weighed
    test, k, fine = getattr(data, split), recipe.expected.get("estimate", 0), recipe.expected.get("estimate_of_500", 0)
    measured = evaluate(weighed, test, heading=data.heading, split=split, draw=0, estimate=k, progress=progress).main
    if metric == "shares":
        samples, shares = _samples(recipe, weighed, data, say=say, progress=progress)
        value = min(0.0 if math.isnan(share) else share for share in shares.values())
        more = {"samples": samples.to_json(), "least_share": value}
    else:
        better = None if metric == "accuracy" or recipe.expected.get("compare") == "bound" else measured.estimate
        cost = getattr(better or measured, metric)
        if cost is None:
            lacks = "labels to judge" if metric == "accuracy" else "likelihood"
            raise InputError(f"{recipe.path}: {type(model).__name__} has no {lacks}, so there are no {metric} to expect.")
        value = cost.mean
    finer = None
    if fine:
        finer = evaluate(
            weighed, subset(test, 500), heading=data.heading, split=split, draw=0, estimate=fine, progress=progress
        ).main.estimate
    info = read_run(run.path)
    training = info.training
    kept = ("hardware", "threads", "precision", "steps", "images", "minutes", "images_per_second")
    given = dict(recipe.budget) if minutes is None else {"minutes": minutes}
    found = {
        "recipe": recipe.name,
        "title": recipe.title,
        "model": info.model,
        "settings": info.arguments,
        "given": info.given,
        "parameters": sum(p.numel() for p in weighed.parameters()),
        "data": {
            "heading": data.heading,
            "fingerprint": data.fingerprint,
            "counts": {name: len(part) for name, part in data.parts.items()},
        },
        "train": {key: item for key, item in training.get("arguments", {}).items() if key in _TRAIN and key != "init_from"},
        "budget": {"asked": recipe.budget, "given": given, "shorter": _shorter(recipe, minutes)},
        **{key: training.get(key) for key in kept},
        **({} if begin is None else {"begun": _begun(begin)}),
        "planned": {"hardware": recipe.hardware, "minutes": recipe.minutes},
        "load_average": load_average,
        split: measured.to_json() | more | {"seconds": round(time.perf_counter() - begun, 1)},
        **({} if finer is None else {"estimate_of_500": finer.to_json()}),
        "expected": dict(recipe.expected) | {"source": recipe.source},
        "found": value,
        "met": _reached(value, recipe.expected["at_least" if rises else "at_most"], rises),
        "stretch_met": _reached(value, recipe.expected["stretch"], rises) if "stretch" in recipe.expected else None,
        "curve": curve(run.path / "metrics.csv"),
        "pofx": pofx_version(),
    }
    write_text(path, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return Reproduction(recipe, run.path, path, found)


def judged(part: Mapping[str, Any], expected: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of what was measured of a split, as JSON, what is held against the expectation: the estimate, unless there is none or the bound is named."""
    return part["estimate"] if "estimate" in part and expected.get("compare") != "bound" else part


def _reached(value: float, limit: float, rises: bool) -> bool:
    return value >= limit if rises else value <= limit


def _samples(
    recipe: Recipe, model: ImageModel, data: Data, *, say: Callable[[str], None] | None, progress: Progress | None
) -> tuple[SampleQuality, dict[str, float]]:
    """What `evaluate` measures of a sampler's images in the features of the data's own run, and their shares; copies are not looked for."""
    from pofx.model import Sampler
    from pofx.tasks._samples import draws, labels_in_turn, viewed, yardstick
    from pofx.tasks.bulk import subset
    from pofx.tasks.evaluate import REFERENCE_LIMIT
    from pofx.workflows.features import features_run

    if not isinstance(model, Sampler):
        raise InputError(f"{recipe.path}: {type(model).__name__} gives no samples, so there are no shares to expect.")
    features, n = features_run(data, say=say), recipe.expected.get("draw", DRAW)
    like, reference, _ = viewed(model, subset(data.test, REFERENCE_LIMIT), data)
    drawn = draws(model, n, like, progress=progress)
    judge = yardstick(features.model, reference, data.train, n, name=features.name, data=data.heading, split="test")
    found = judge.measure(drawn, labels_in_turn(model, n, like))
    if found.shares is None:
        raise InputError(
            f"{recipe.path}: {data.heading} has {len(data.train)} training images, too few for shares of what real images get."
        )
    return found, found.shares


def curve(metrics: Path) -> list[dict[str, float]]:
    """The validations of a run in order: step, minutes, valid_bits_per_dim, valid_nats and the training loss there, as far as known; of a game
    without a cost the critic's accuracy, value and penalty, and the spread of the generated images."""
    from pofx.training.logger import read_csv

    wanted = ("minutes", "valid_bits_per_dim", "valid_nats", "train_bits_per_dim", "train_kl", "train_reconstruction")
    game = ("train_critic_accuracy", "train_critic_value", "train_critic_penalty", "train_critic_spread")
    rows = read_csv(metrics)
    costs = [row for row in rows if row.get("valid_bits_per_dim")]
    if not costs:  # a game has no cost to validate: about fifty of its rows
        wanted, costs = ("minutes", *game), [row for row in rows if row.get(game[0])][:: max(1, len(rows) // 50)]
    return [{"step": int(row["step"])} | {name: float(row[name]) for name in wanted if row.get(name)} for row in costs]


def _begin(recipe: Recipe, out: Path) -> Path | None:
    """The run from whose weights a recipe starts, or None; raises InputError where that is still to be made."""
    name = recipe.train.get("init_from")
    if name is None:
        return None
    beside = out.parent / name
    for path in (beside, recipe.path.parents[1] / "results" / "weights" / name):
        if (path / "model.safetensors").is_file():
            return path
    raise InputError(
        f"{recipe.name} starts from the weights of {name}, which are not in {beside}. Make them first: pofx reproduce {name} --out {beside}"
    )


def _begun(run: Path) -> dict[str, Any]:
    from pofx.training import read_run

    training = read_run(run).training
    return {"recipe": run.name} | {key: training.get(key) for key in ("steps", "images", "minutes")}


def _arguments(recipe: Recipe, minutes: float | None, begin: Path | None) -> dict[str, Any]:
    """Arguments of `train`."""
    cls, _ = recipe.check_model()
    budget = recipe.budget if minutes is None else {"minutes": minutes}
    left_out = {*BUDGETS, "device", "init_from"} | ({"lr"} if "lr" in inspect.signature(cls).parameters else set())
    return {name: value for name, value in recipe.train.items() if name not in left_out} | budget | {"init_from": begin}


def _device(recipe: Recipe, asked: str, *, planning: bool = False) -> str:
    wanted = recipe.train.get("device", "auto")
    if asked != "auto" or wanted == "auto":
        return asked
    import torch

    if wanted != "cuda" or torch.cuda.is_available():
        return wanted
    if planning:
        return "cpu"
    raise InputError(
        f"{recipe.name} is planned for {recipe.hardware}, and there is no such device here. Take a recipe for the CPU "
        f"({', '.join(name for name in recipe_names() if not name.endswith('-gpu'))}), or wait long with --device cpu."
    )


def _result(recipe: Recipe, folder: Path, minutes: float | None) -> Path:
    """NAME.json; a shorter run does not overwrite the result of a whole one, and gets a name with its minutes."""
    from pofx.tasks._files import check_out

    path = check_out(folder / f"{recipe.name}.json", (".json",))
    if minutes is None or not _shorter(recipe, minutes) or not path.is_file():
        return path
    try:
        whole = not json.loads(path.read_text(encoding="utf-8"))["budget"]["shorter"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is there and is no result of a recipe. Name another folder with --results.") from None
    return path.with_stem(f"{recipe.name}-{minutes:g}min") if whole else path


def _shorter(recipe: Recipe, minutes: float | None) -> bool:
    """Whether the run had less than the recipe asks for; of steps or epochs, less than the minutes that they take where it was planned."""
    return minutes is not None and minutes < recipe.budget.get("minutes", recipe.minutes)


def _budget_text(recipe: Recipe) -> str:
    return ", ".join(f"{value:g} {name}" for name, value in recipe.budget.items())


def _load_average() -> list[float] | None:
    """Processes that wanted the processor in the last 1, 5 and 15 minutes."""
    try:
        return [round(value, 2) for value in os.getloadavg()]
    except OSError:
        return None
