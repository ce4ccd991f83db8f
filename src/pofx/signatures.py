"""A model's settings, read from its source: no import, so that `pofx train pixelcnn --help` answers at once.

The arguments of a model's `__init__` are its configuration, and so its flags. Their types, defaults and the `Args:` section of the
class's docstring are found with `ast`, through base classes and `from x import y` if need be. An argument that is a frozen
dataclass becomes a choice by name with its own fields below it: `--given label --given.classes 10`.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from pofx import catalog
from pofx.errors import InputError, nearest
from pofx.names import kebab

PLAIN = {"int": int, "float": float, "bool": bool, "str": str, "Path": Path, "ImageModel": str}  # of a part: a name or a run


@dataclass(frozen=True)
class Setting:
    """One argument of a model, or one field of a setting.

    Attributes:
        name: as in Python.
        hint: its type, where it can be typed; None for a choice of dataclasses.
        default: as written in the source; None where it is required.
        help: from the docstring.
        choices: for dataclasses, kebab name → (class name, fields).
    """

    name: str
    hint: Any
    default: str | None
    help: str = ""
    choices: dict[str, tuple[str, tuple[Setting, ...]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Definition:
    """A top-level statement and the module that holds it."""

    source: Source
    node: ast.stmt


class Source:
    """The text of a module, and what it defines."""

    def __init__(self, module: str) -> None:
        self.module = module
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            raise InputError(f"The source of {module} cannot be found; its settings cannot be shown.")
        self.tree = catalog.parsed(Path(spec.origin))

    @cached_property
    def statements(self) -> list[ast.stmt]:
        inner = [s for node in self.tree.body if isinstance(node, ast.If) for s in node.body]
        return [*self.tree.body, *inner]

    def find(self, name: str) -> Definition | None:
        """Where a name is defined, following imports inside pofx and beside it."""
        for node in self.statements:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return Definition(self, node)
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                return Definition(self, node)
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return source(node.module).find(alias.name) if _ours(node.module, self.module) else None
        return None

    def find_path(self, node: ast.expr) -> Definition | None:
        """The definition of `Name` or `module.Name`."""
        if isinstance(node, ast.Name):
            return self.find(node.id)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            for statement in self.statements:
                if isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
                    for alias in statement.names:
                        if (alias.asname or alias.name) == node.value.id and _ours(statement.module, self.module):
                            return source(f"{statement.module}.{alias.name}").find(node.attr)
        return None


def _ours(module: str, beside: str) -> bool:
    return module.partition(".")[0] in ("pofx", beside.partition(".")[0])


@cache
def source(module: str) -> Source:
    return Source(module)


def _bases(definition: Definition) -> Iterator[Definition]:
    """A class and its bases, nearest first, as far as they are ours."""
    assert isinstance(definition.node, ast.ClassDef)
    yield definition
    for base in definition.node.bases:
        found = definition.source.find_path(base)
        if found is not None and isinstance(found.node, ast.ClassDef):
            yield from _bases(found)


def _is_frozen(node: ast.stmt) -> bool:
    return isinstance(node, ast.ClassDef) and any(
        isinstance(d, ast.Call) and isinstance(d.func, ast.Name) and d.func.id == "dataclass" and any(k.arg == "frozen" for k in d.keywords)
        for d in node.decorator_list
    )


@cache
def frozen_dataclasses() -> dict[str, Definition]:
    """Class name → definition of every public frozen dataclass among the views and beside models, roots (ABC) included."""
    modules = [
        "pofx.views",
        *(module for module, _ in catalog.sources(catalog.MODELS, "dataclass")),
        *(e.module for e in catalog.entries().values()),
    ]
    found: dict[str, Definition] = {}
    for module in dict.fromkeys(modules):
        for node in source(module).tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and _is_frozen(node):
                found[node.name] = Definition(source(module), node)
    return found


def _below(root: Definition) -> list[Definition]:
    """The concrete settings that are `root` or derive from it."""
    found = []
    for definition in frozen_dataclasses().values():
        assert isinstance(definition.node, ast.ClassDef)
        abstract = any(isinstance(b, ast.Name) and b.id == "ABC" for b in definition.node.bases)
        if not abstract and any(base.node is root.node for base in _bases(definition)):
            found.append(definition)
    return found


def _docs(node: ast.ClassDef) -> dict[str, str]:
    import docstring_parser

    text = ast.get_docstring(node) or ""
    found = {}
    for parameter in docstring_parser.parse(text).params:
        for name in parameter.arg_name.split(","):
            found[name.strip()] = " ".join((parameter.description or "").split())
    return found


def _hint(node: ast.expr, where: Source) -> tuple[Any, list[Definition]] | None:
    """(type, dataclasses) of an annotation; None where it cannot be typed on a command line."""
    if isinstance(node, ast.Constant):
        if node.value is None:
            return type(None), []
        return _hint(ast.parse(node.value, mode="eval").body, where) if isinstance(node.value, str) else None
    if isinstance(node, ast.Name) and node.id in PLAIN:
        return PLAIN[node.id], []
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        sides = [_hint(node.left, where), _hint(node.right, where)]
        hints = [side[0] for side in sides if side and side[0] is not None]
        choices = [definition for side in sides if side for definition in side[1]]
        if None in sides:
            return None
        return (functools.reduce(operator.or_, hints) if hints and not choices else None), choices
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        if node.value.id == "Literal":
            values = ast.literal_eval(node.slice)
            return Literal[values if isinstance(values, tuple) else (values,)], []
        if node.value.id in ("tuple", "Sequence"):
            items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            inner = [_hint(item, where) for item in items if not (isinstance(item, ast.Constant) and item.value is ...)]
            if any(i is None or i[0] is None for i in inner):
                return None
            types = tuple(i[0] for i in inner if i)
            variadic = len(items) != len(types) or node.value.id == "Sequence"
            return tuple[(types[0], ...) if variadic else types], []
        return None
    found = where.find_path(node)
    if found is None:
        return None
    if isinstance(found.node, ast.Assign):
        return _hint(found.node.value, found.source)
    below = _below(found) if _is_frozen(found.node) else []
    return (None, below) if below else None


def _setting(name: str, annotation: ast.expr | None, default: ast.expr | None, where: Source, docs: dict[str, str]) -> Setting | None:
    known = None if annotation is None else _hint(annotation, where)
    if known is None or (known[0] is None and not known[1]):
        return None
    hint, classes = known
    choices = {kebab(d.node.name): (d.node.name, _fields(d)) for d in classes if isinstance(d.node, ast.ClassDef)}
    return Setting(name, hint, _shown(default), docs.get(name, ""), choices)


def _shown(default: ast.expr | None) -> str | None:
    """A default as a person would type it."""
    if default is None:
        return None
    if isinstance(default, ast.Constant):
        return "none" if default.value is None else str(default.value)
    if isinstance(default, ast.Tuple | ast.List):
        return " ".join(str(_shown(item)) for item in default.elts) or "none"
    if isinstance(default, ast.Call):
        return kebab(ast.unparse(default.func).rpartition(".")[2])
    return ast.unparse(default)


def _fields(definition: Definition) -> tuple[Setting, ...]:
    """Fields of a dataclass, those of its bases first."""
    found: dict[str, Setting] = {}
    for base in reversed(list(_bases(definition))):
        assert isinstance(base.node, ast.ClassDef)
        docs = _docs(base.node)
        for node in base.node.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and "ClassVar" not in ast.unparse(node.annotation):
                setting = _setting(node.target.id, node.annotation, node.value, base.source, docs)
                if setting is not None:
                    found[setting.name] = setting
    return tuple(found.values())


@cache
def settings_of(model: str) -> tuple[Setting, ...]:
    """The settings of a model that can be typed, without its space: read from its source.

    Raises:
        InputError: there is no such model.

    >>> [s.name for s in settings_of("pixelcnn")][:3]
    ['given', 'layers', 'channels']
    """
    entry = catalog.entries().get(model)
    if entry is None:
        raise InputError(f"No model {model!r}. {nearest(model, catalog.model_names())} See: pofx models")
    definition = source(entry.module).find(entry.class_name)
    if definition is None:
        raise InputError(f"{entry.module} has no class {entry.class_name}.")
    docs: dict[str, str] = {}
    for base in _bases(definition):
        assert isinstance(base.node, ast.ClassDef)
        docs = _docs(base.node) | docs
        init = next((n for n in base.node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        if init is None:
            continue
        a = init.args
        positional = [*a.posonlyargs, *a.args]
        defaults: list[ast.expr | None] = [None] * (len(positional) - len(a.defaults)) + list(a.defaults)
        pairs = [*zip(positional, defaults, strict=True), *zip(a.kwonlyargs, a.kw_defaults, strict=True)]
        made = [_setting(arg.arg, arg.annotation, default, base.source, docs) for arg, default in pairs if arg.arg not in ("self", "space")]
        return tuple(setting for setting in made if setting is not None)
    return ()


def gather(settings: tuple[Setting, ...], values: dict[str, Any]) -> dict[str, Any]:
    """Typed flags as the model's arguments: JSON values, dataclasses as `{"type": …}` (`catalog.arguments_from_json` makes them).

    Args:
        values: by flag without dashes, only those that were typed: {"layers": 4, "given": "label", "given.classes": 10}.

    Raises:
        InputError: a field that the chosen setting does not have, or fields without a choice.

    >>> gather(settings_of("pixelcnn"), {"given": "label", "given.classes": 3})
    {'given': {'type': 'Label', 'classes': 3}}
    """
    arguments: dict[str, Any] = {}
    for setting in settings:
        inner = {key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{setting.name}.")}
        flag = setting.name.replace("_", "-")
        if not setting.choices:
            if setting.name in values:
                arguments[setting.name] = values[setting.name]
            continue
        choice = values.get(setting.name, setting.default)
        if choice == "none" or choice is None:
            if inner:
                raise InputError(f"--{flag}.{next(iter(inner))} needs --{flag} first: one of {', '.join(setting.choices)}.")
            if setting.name in values:
                arguments[setting.name] = None
            continue
        if setting.name not in values and not inner:
            continue
        if choice not in setting.choices:
            raise InputError(f"--{flag} {choice}: {nearest(choice, setting.choices)}")
        class_name, fields = setting.choices[choice]
        known = [f.name for f in fields]
        for key in inner:
            if key not in known:
                raise InputError(f"--{flag} {choice} has no setting --{flag}.{key}. {nearest(key, known) if known else 'It has none.'}")
        arguments[setting.name] = {"type": class_name} | inner
    return arguments


def flags(settings: tuple[Setting, ...]) -> Iterator[tuple[str, Any, str | None, str]]:
    """(name, type, default as shown, help) of every flag that the settings make: `given`, `given.classes`, …"""
    for setting in settings:
        if not setting.choices:
            yield setting.name, setting.hint, setting.default, setting.help
            continue
        names = (*setting.choices, "none") if setting.default == "none" else tuple(setting.choices)
        yield setting.name, Literal[names], setting.default, setting.help
        merged: dict[str, dict[str, Setting]] = {}
        for choice, (_, fields) in setting.choices.items():
            for f in fields:
                merged.setdefault(f.name, {})[choice] = f
        for name, by in merged.items():
            hints, defaults, texts = ([getattr(f, part) for f in by.values()] for part in ("hint", "default", "help"))
            alike = len(set(defaults)) == 1
            users = by if alike else (f"{choice}: {default}" for choice, default in zip(by, defaults, strict=True))
            hint = functools.reduce(operator.or_, dict.fromkeys(hints))
            yield f"{setting.name}.{name}", hint, defaults[0] if alike else None, f"{texts[-1]} ({', '.join(users)})".strip()


class Unchecked:
    """Beside the type of a flag whose default, `UNSET`, is none of its values: where pydantic is loaded, cyclopts would have it checked."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> dict[str, str]:
        return {"type": "any"}


UNSET = object()  # a flag that was not typed


def is_flag(hint: Any) -> bool:
    """Whether a type takes no value: `--gray`."""
    return hint is bool or bool in get_args(hint)


LOSSES = "pofx.models.adversarial.losses"
# Defaults for one or two numbers in the place of an image. With λ = 10 the critic's slope cannot pass through 0, and so not turn round once the
# generator has gone past the data; its authors took 0.1 for such toys too.
ON_DENSITIES = {"WassersteinGP": {"penalty": 0.1}}


@cache
def loss_setting() -> Setting:
    """--loss of a game on known densities, and its settings: of the one file that holds the losses, so that help need not read all models."""
    where = source(LOSSES)
    root, choices = where.find("Loss"), {}
    for node in where.tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            found = Definition(where, node)
            abstract = any(isinstance(base, ast.Name) and base.id == "ABC" for base in node.bases)
            if not abstract and root is not None and any(base.node is root.node for base in _bases(found)):
                own = ON_DENSITIES.get(node.name, {})
                choices[kebab(node.name)] = (
                    node.name,
                    tuple(replace(f, default=str(own[f.name])) if f.name in own else f for f in _fields(found)),
                )
    return Setting("loss", None, None, "the game that is played; non-saturating by default", choices)


def game_loss(values: dict[str, Any]) -> dict[str, Any]:
    """What was typed of `loss_setting`, as `gather` returns it, with its own defaults.

    >>> game_loss({"loss": "wasserstein-gp"})
    {'loss': {'type': 'WassersteinGP', 'penalty': 0.1}}
    """
    found = gather((loss_setting(),), values)
    return {name: {"type": loss["type"]} | ON_DENSITIES.get(loss["type"], {}) | loss for name, loss in found.items()}
