"""What exists: models, their settings and tasks, found by walking the package. Nothing is registered by hand.

A model is a public class in a file under `pofx/models/` that states its `family`, its place in the taxonomy; other packages add
theirs with an entry point of group "pofx.models". Files are read, not imported (`ast`), so that names are there without torch.

Names on the command line follow from class names (`names.py`).
"""

from __future__ import annotations

import ast
import importlib
import inspect
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pofx.errors import InputError, nearest
from pofx.names import kebab

if TYPE_CHECKING:
    from collections.abc import Callable

    from pofx.model import ImageModel

PACKAGE = Path(__file__).parent
MODELS, TASKS = PACKAGE / "models", PACKAGE / "tasks"
GROUP = "pofx.models"

# Leaves of the taxonomy with their place. Those that no class takes yet are shown in grey.
PLANNED: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("explicit", "tractable", "autoregressive"), ("FVBN", "MADE", "PixelRNN", "PixelCNN", "GatedPixelCNN", "PixelCNNpp", "Multiscale")),
    (("explicit", "approximate", "variational"), ("VAE", "LadderVAE", "M2")),
    (("implicit", "adversarial"), ("GAN",)),
    (("without density", "autoencoding"), ("Autoencoder",)),
    (("discriminative",), ("Classifier",)),
    (("composed",), ("BayesClassifier", "BayesConditional")),
)


@dataclass(frozen=True)
class Entry:
    """A class that was found, before it is imported.

    Attributes:
        name: on the command line, "gated-pixelcnn".
        class_name: "GatedPixelCNN".
        module: where it is defined.
        family: its place in the taxonomy, where its file states it as literals; else empty (entry points).
        example: flags that its first training needs, where its file states them.
    """

    name: str
    class_name: str
    module: str
    family: tuple[str, ...] = ()
    example: str = ""

    def load(self) -> type[ImageModel]:
        """Import the class."""
        try:
            return getattr(importlib.import_module(self.module), self.class_name)
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"The model {self.name!r} is declared as {self.module}:{self.class_name} and cannot be imported: {error}"
            ) from error


def _module(path: Path) -> str:
    relative = path.relative_to(PACKAGE.parent).with_suffix("")
    parts = relative.parts[:-1] if relative.name == "__init__" else relative.parts
    return ".".join(parts)


_PARSING = threading.Lock()  # CPython 3.11 counts the depth of syntax trees once for all threads, and two that parse at a time fail


@cache
def parsed(path: Path) -> ast.Module:
    """A source file's statements; read once, since that is most of the time that help takes."""
    with _PARSING:
        return ast.parse(path.read_text(encoding="utf-8"), str(path))


def sources(folder: Path, word: str) -> Iterator[tuple[str, ast.Module]]:
    """The files that have a word in them, and their statements; others are not worth parsing."""
    for path in sorted(folder.rglob("*.py")):
        if word in path.read_text(encoding="utf-8"):
            yield _module(path), parsed(path)


def _stated(body: Iterable[ast.stmt], attribute: str) -> ast.expr | None:
    for statement in body:
        if isinstance(statement, ast.Assign) and any(isinstance(t, ast.Name) and t.id == attribute for t in statement.targets):
            return statement.value
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.target.id == attribute:
            return statement.value
    return None


def _family(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> tuple[str, ...] | None:
    """The family that a class states or takes from a base in the same file; None where it states none or is abstract."""
    if any(isinstance(base, ast.Name) and base.id == "ABC" for base in node.bases):
        return None
    value = _stated(node.body, "family")
    if value is not None:
        return tuple(ast.literal_eval(value))
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in classes and (found := _family(classes[base.id], classes)):
            return found
    return None


@cache
def entries() -> dict[str, Entry]:
    """Every model that was found, by name, without importing it."""
    found: dict[str, Entry] = {}
    for module, tree in sources(MODELS, "family"):
        classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        for name, node in classes.items():
            if not name.startswith("_") and (family := _family(node, classes)):
                example = _stated(node.body, "example")
                found[kebab(name)] = Entry(kebab(name), name, module, family, "" if example is None else ast.literal_eval(example))
    for point in entry_points(group=GROUP):
        module, _, class_name = point.value.partition(":")
        found.setdefault(point.name, Entry(point.name, class_name, module))
    return dict(sorted(found.items()))


def model_names() -> list[str]:
    """Names of all models, without importing torch.

    >>> "pixelcnn" in model_names()
    True
    """
    return list(entries())


def models() -> dict[str, type[ImageModel]]:
    """Every model: name → class. Imports them.

    >>> models()["pixelcnn"].__name__
    'PixelCNN'
    """
    return {name: entry.load() for name, entry in entries().items()}


def get(name: str) -> type[ImageModel]:
    """The class of a model by its name ("gated-pixelcnn") or class name ("GatedPixelCNN").

    Raises:
        InputError: there is no such model; the nearest name is suggested.

    >>> get("vae") is get("VAE")
    True
    """
    by_class = {entry.class_name: entry for entry in entries().values()}
    entry = entries().get(name) or by_class.get(name)
    if entry is None:
        raise InputError(f"No model {name!r}. {nearest(name, model_names())} See: pofx models")
    return entry.load()


def name_of(model: ImageModel | type[ImageModel]) -> str:
    """The name of a model's class; of one that is not in the catalogue, what its name would be.

    >>> name_of(get("gan"))
    'gan'
    """
    cls = model if isinstance(model, type) else type(model)
    for name, entry in entries().items():
        if (entry.module, entry.class_name) == (cls.__module__, cls.__name__):
            return name
    return kebab(cls.__name__)


# Settings: frozen dataclasses that are arguments of models ------------------------------------------------------------


def _is_setting(value: Any, module: str) -> bool:
    return (
        isinstance(value, type)
        and value.__module__ == module
        and not value.__name__.startswith("_")
        and is_dataclass(value)
        and value.__dataclass_params__.frozen  # type: ignore[attr-defined]
        and not _is_root(value)
    )


def _is_root(cls: type) -> bool:
    """A base class that only names its kind: `class View(ABC)`."""
    return inspect.isabstract(cls) or cls.__bases__[-1].__name__ == "ABC"


@cache
def settings() -> dict[str, type]:
    """Frozen dataclasses that can be arguments of a model: class name → class. Views, and those defined beside models.

    >>> settings()["Label"](10)
    Label(classes=10)
    """
    found: dict[str, type] = {}
    names = ["pofx.views", "pofx.space", *map(_module, sorted(MODELS.rglob("*.py"))), *(entry.module for entry in entries().values())]
    for name in dict.fromkeys(names):
        found |= {key: value for key, value in vars(importlib.import_module(name)).items() if _is_setting(value, name)}
    return dict(sorted(found.items()))


def arguments_to_json(value: Any) -> Any:
    """An argument, or a mapping of them, as JSON: frozen dataclasses become `{"type": name, fields…}`, tuples lists, and a model that is
    part of another `{"part": name, "arguments": …}`. The weights of a part are among those of the whole.

    Raises:
        InputError: a value that has no such form.

    >>> from pofx.views import Label
    >>> arguments_to_json({"layers": 2, "given": Label(10)})
    {'layers': 2, 'given': {'type': 'Label', 'classes': 10}}
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [arguments_to_json(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): arguments_to_json(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type) and settings().get(type(value).__name__) is type(value):
        return {"type": type(value).__name__} | {f.name: arguments_to_json(getattr(value, f.name)) for f in fields(value) if f.init}
    if (model := _model(value)) is not None:
        name = name_of(model)
        if name not in entries() or entries()[name].class_name != type(value).__name__:
            raise InputError(f"A {type(value).__name__} cannot be stored as a part: only models of the catalogue can. See: pofx models")
        return {"part": name, "arguments": arguments_to_json(model.config())}
    raise InputError(f"An argument {value!r} ({type(value).__name__}) cannot be stored. Use JSON values or one of pofx.catalog.settings().")


def _model(value: Any) -> ImageModel | None:
    from pofx.model import ImageModel

    return value if isinstance(value, ImageModel) else None


def _part(value: Mapping[str, Any]) -> ImageModel:
    """The model that a stored part describes, with fresh weights; torch's generator is left as it was."""
    import torch

    try:
        name, arguments = value["part"], dict(value["arguments"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f'A stored part is {{"part": name, "arguments": …}}; found {dict(value)!r}.') from error
    cls = get(str(name))
    check_arguments(cls, arguments)
    with torch.random.fork_rng(devices=[]):
        return cls(**{key: arguments_from_json(item) for key, item in arguments.items()})


def arguments_from_json(value: Any) -> Any:
    """The inverse of `arguments_to_json`; lists come back as tuples, since an argument is never changed in place. Parts have fresh weights.

    Raises:
        InputError: an unknown type or field; the nearest name is suggested.

    >>> arguments_from_json({"given": {"type": "Label", "classes": 3}, "widths": [1, 2]})
    {'given': Label(classes=3), 'widths': (1, 2)}
    """
    if isinstance(value, list | tuple):
        return tuple(arguments_from_json(item) for item in value)
    if isinstance(value, Mapping):
        if "part" in value:
            return _part(value)
        inner = {key: arguments_from_json(item) for key, item in value.items() if key != "type"}
        return inner if "type" not in value else setting(value["type"], inner)
    return value


def setting(name: str, values: Mapping[str, Any]) -> Any:
    """A setting by its class name and fields, strictly.

    >>> setting("Subsample", {"factor": 2})
    Subsample(factor=2)
    """
    known = settings()
    if name not in known:
        raise InputError(f"No setting {name!r}. {nearest(str(name), known)}")
    names = {f.name: f for f in fields(known[name]) if f.init}
    for key in values:
        if key not in names:
            raise InputError(f"{name} has no setting {key!r}. {nearest(key, names) if names else 'It has none.'}")
    try:
        return known[name](**values)
    except TypeError as error:  # a required field is missing
        raise InputError(f"{name}: {error}. It takes: {', '.join(names)}.") from error


def check_arguments(cls: type[ImageModel], names: Iterable[str]) -> None:
    """Raise InputError where a model has no argument of that name."""
    known = list(inspect.signature(cls).parameters)
    for name in names:
        if name not in known:
            raise InputError(f"{cls.__name__} has no setting {name!r}. {nearest(name, known)}")


# Tasks ----------------------------------------------------------------------------------------------------------------


@cache
def _task_entries() -> dict[str, tuple[str, str]]:
    """Name → (module, function): the public function of a file that is named like the file."""
    found: dict[str, tuple[str, str]] = {}
    for module, tree in sources(TASKS, "def "):
        stem = module.rpartition(".")[2]
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if stem in functions:
            found[stem.replace("_", "-")] = (module, stem)
    return found


def task_names() -> list[str]:
    """Names of all tasks, without importing torch."""
    return list(_task_entries())


def tasks() -> dict[str, Callable[..., Any]]:
    """Every task: name → function. One file under `pofx/tasks/` is one task; its function has the file's name."""
    return {name: getattr(importlib.import_module(module), function) for name, (module, function) in _task_entries().items()}


# The taxonomy ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leaf:
    """A model in the taxonomy: its class name, its name on the command line, and whether it is built."""

    class_name: str
    name: str
    built: bool


@dataclass(frozen=True)
class Branch:
    """A node of the taxonomy: branches below it by name, and its own leaves."""

    branches: dict[str, Branch]
    leaves: tuple[Leaf, ...]

    def to_json(self) -> dict[str, Any]:
        below: dict[str, Any] = {name: branch.to_json() for name, branch in self.branches.items()}
        return below | {leaf.class_name: {"model": leaf.name, "built": leaf.built} for leaf in self.leaves}


def taxonomy() -> Branch:
    """All models at their places, from the classes' own `family`, with the leaves that are not built yet. Does not import torch.

    >>> sorted(taxonomy().branches)[:2]
    ['composed', 'discriminative']
    """
    places = {entry.class_name: (entry.family or entry.load().family, entry.name) for entry in entries().values()}
    leaves: dict[tuple[str, ...], list[Leaf]] = {}
    for place, names in PLANNED:
        leaves.setdefault(place, [])
        for name in names:
            family, command = places.pop(name, (place, None))
            leaves.setdefault(family, []).append(Leaf(name, command or kebab(name), built=command is not None))
    for class_name, (family, command) in places.items():
        leaves.setdefault(family, []).append(Leaf(class_name, command, built=True))

    def branch(prefix: tuple[str, ...]) -> Branch:
        depth = len(prefix)
        below = dict.fromkeys(place[depth] for place in leaves if place[:depth] == prefix and len(place) > depth)
        return Branch({name: branch((*prefix, name)) for name in below}, tuple(leaves.get(prefix, ())))

    return branch(())
