"""`pofx train MODEL DATA --out RUN`: the flags of training, and those of the model that is named.

The model's flags come from its source (`signatures`), so that help and mistakes answer before torch is imported.
"""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from cyclopts import Group, Parameter

from pofx import catalog
from pofx.cli.common import Answer, Common, DataFlags, Flag, load_model
from pofx.errors import InputError, nearest
from pofx.signatures import UNSET, Setting, Unchecked, flags, gather, is_flag, settings_of
from pofx.workflows.loading import listed

if TYPE_CHECKING:
    from pofx.data import Data
    from pofx.model import ImageModel


def train(
    model: str,
    data: str,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    epochs: float | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    optimizer: Literal["Muon", "AdamW", "Adam", "RMSprop", "SGD"] | None = None,
    seed: int = 0,
    average: float | None = None,
    precision: Literal["auto", "32", "bf16", "64"] = "auto",
    threads: int | None = None,
    augment: str | None = None,
    labels: int | None = None,
    label_seed: int = 0,
    init_from: str | None = None,
    logger: str | None = None,
    extend: Flag = False,
    dry_run: Flag = False,
    checkpoint_seconds: float | None = None,
    devices: int | None = None,
    nodes: int | None = None,
    strategy: Literal["auto", "ddp"] = "auto",
    data_flags: DataFlags = DataFlags(),
    common: Common = Common(),
) -> Answer:
    """Learn p(x) from images; the same command resumes.

    A run that was stopped or killed goes on, a finished one says "done" (--extend adds to it). It needs --out and one budget.
    Every model has settings of its own: pofx train MODEL --help shows them.

    Args:
        model: its name, see pofx models.
        data: name[:transform], a folder of images, .npz, .npy, IDX, Parquet, hf:owner/name, text:FILE, or series:FILE.csv.
        out: the run folder; needed.
        epochs: budget: passes over the training images.
        steps: budget: optimizer steps.
        minutes: budget: the rate is measured first, then the number of steps is fixed.
        batch_size: images per step, of all processes together; 64, or what suits the model and the size of DATA (--dry-run says).
        lr: learning rate.
        optimizer: in the place of the model's own; a learning rate fits one optimizer.
        seed: of initial weights, order and noise.
        average: half-life of the averaged weights in images, 10000 by default; 0 keeps the last weights.
        precision: of the body; auto is bf16 where the processor or GPU is fast at it. Likelihoods are float32 or better.
        threads: of the processor; by default the faster of one and all.
        augment: of training images only, e.g. flip,shift; mutate makes a background for pofx outliers.
        labels: keep the labels of so many training images, as many of each class; the other images are left out, or learned from without
            label where the model can.
        label_seed: which of them.
        init_from: start from the weights of this run; a model with a body (classifier) starts from the features of a run of any other model.
        logger: also log to mlflow or wandb.
        extend: add the budget to a finished run.
        dry_run: show the plan and stop.
        checkpoint_seconds: between checkpoints, 30 by default.
        devices: processes on this machine, one per GPU; 1 by default, or what torchrun or srun has started.
        nodes: machines; more than one need torchrun or srun.
        strategy: of several processes: ddp.
    """
    return run(model, data, {}, out=out, epochs=epochs, steps=steps, minutes=minutes, batch_size=batch_size, lr=lr, optimizer=optimizer, seed=seed,
               average=average, precision=precision, threads=threads, augment=augment, labels=labels, label_seed=label_seed, init_from=init_from,
               logger=logger, extend=extend, dry_run=dry_run, checkpoint_seconds=checkpoint_seconds, devices=devices, nodes=nodes, strategy=strategy,
               data_flags=data_flags, common=common)  # fmt: skip


def run(model: str, spec: str, settings: dict[str, Any], *, data_flags: DataFlags, common: Common, **arguments: Any) -> Answer:
    """Train one model; `settings` as `signatures.gather` returns them, `arguments` as `train` takes them."""
    import torch

    from pofx.training import TrainingPlan
    from pofx.training import train as train_model
    from pofx.training.processes import helper

    if helper():
        common = replace(common, quiet=True)
    cls = catalog.get(model)
    data = data_flags.load(spec, common)
    known = settings_of(catalog.name_of(cls))
    own = catalog.arguments_from_json(filled(known, settings, data))
    if any(setting.name == "body" for setting in known) and is_other(arguments["init_from"], cls):
        own, arguments["init_from"] = {"body": arguments["init_from"]} | own, None
    torch.manual_seed(arguments["seed"])  # of the initial weights: the same command makes the same model
    made = cls(data.space, **_parts(cls, own, common))
    labels, label_seed = arguments.pop("labels"), arguments.pop("label_seed")
    if labels is not None:
        data = data.few_labels(labels, seed=label_seed, unlabelled=learns_unlabelled(made))
    arguments |= {"augment": listed(arguments["augment"]), "logger": listed(arguments["logger"])}
    result = train_model(made, data, device=common.device, quiet=common.quiet, **arguments)
    if helper():
        raise SystemExit(0)  # the first process answers
    if isinstance(result, TrainingPlan):
        return Answer(result.to_json(), str(result))
    return Answer({"run": str(result.path), "model": model, "data": data.heading, "metrics": dict(result.metrics)}, str(result.path))


def is_other(run: str | None, cls: type[Any]) -> bool:
    """Whether a run is of another model than `cls`."""
    from pofx.training import read_run

    return run is not None and read_run(run).class_name != cls.__name__


def learns_unlabelled(model: ImageModel) -> bool:
    """Whether images without a label teach a model beside those that have one.

    Raises:
        InputError: labels teach it nothing.
    """
    from pofx.model import Labeler
    from pofx.views import Label

    if isinstance(model, Labeler):
        return model.semi_supervised()
    if isinstance(model.given, Label):
        return model.given.unknown
    raise InputError(f"--labels: {type(model).__name__} learns p(x) without labels. Leave it out, or add --given partial-label.")


def _parts(cls: type[Any], arguments: dict[str, Any], common: Common) -> dict[str, Any]:
    """Arguments that are models: a name stays a name, which the model makes; anything else is a run, which is loaded."""

    def part(value: Any) -> Any:
        return load_model(value, common).cpu() if isinstance(value, str) and value not in catalog.model_names() else value

    hints = {name: str(p.annotation) for name, p in inspect.signature(cls).parameters.items()}
    found = {name: value for name, value in arguments.items() if "ImageModel" in hints.get(name, "")}
    return arguments | {name: tuple(map(part, v)) if isinstance(v, tuple | list) else part(v) for name, v in found.items()}


def filled(known: tuple[Setting, ...], settings: dict[str, Any], data: Data) -> dict[str, Any]:
    """Fill in what was not typed and the data says: classes from the labels, and of --given top half of the image (of series, of their past)."""
    given = settings.get("given")
    if isinstance(given, dict) and given["type"] == "Top" and "rows" not in given:
        settings = settings | {"given": given | {"rows": max(1, (data.space.height if data.space.height > 1 else data.space.width) // 2)}}
    label = isinstance(given, dict) and given["type"] in ("Label", "PartialLabel") and "classes" not in given
    classifier = any(setting.name == "classes" for setting in known) and "classes" not in settings
    if not label and not classifier:
        return settings
    classes = data.classes
    if not classes:
        what = "--given label" if label else "this model"
        raise InputError(
            f"{what} needs labels, and {data.heading} has none. Give a folder with one subfolder per class, or a set with labels."
        )
    settings = settings | ({"given": given | {"classes": classes}} if label and given else {})
    return settings | ({"classes": classes} if classifier else {})


# The command for one model --------------------------------------------------------------------------------------------


def command(tokens: Sequence[str]) -> Callable[..., Answer]:
    """`train` with the settings of the model that these arguments name; the plain function where they name none."""
    name = find_model(tokens)
    if name is None:
        return train
    by_class = {entry.class_name: entry.name for entry in catalog.entries().values()}
    name = by_class.get(name, name)
    if name not in catalog.model_names():
        raise InputError(f"No model {name!r}. {nearest(name, catalog.model_names())} See: pofx models")
    settings = settings_of(name)
    group = Group(f"Settings of {name}", sort_key=4)
    own = {}
    for flag, hint, default, text in flags(settings):
        more: dict[str, Any] = {"negative": None} if is_flag(hint) and default == "True" else {}
        if flag in ("classes", "given.classes"):
            default = "as many as the data has"
        if flag == "given.rows":
            default = "half of them"
        shown = default if default not in (None, "none") else False
        parameter = Parameter(name=f"--{flag.replace('_', '-')}", group=group, help=text or None, show_default=shown, **more)
        own[flag.replace(".", "__")] = (flag, Annotated[hint, parameter, Unchecked()])

    base = inspect.signature(train)
    hints = get_type_hints(train, include_extras=True)
    # A setting of the model that training has too (lr) is the model's: it is the one that is stored as its configuration.
    kept = {key: p for key, p in base.parameters.items() if key not in own}
    defaults = {key: p.default for key, p in kept.items() if p.default is not p.empty}

    def specific(model: str, data: str, /, **values: Any) -> Answer:
        typed = {flag: values[key] for key, (flag, _) in own.items() if values.get(key, UNSET) is not UNSET}
        values = defaults | {key: value for key, value in values.items() if key not in own}
        gathered = gather(settings, typed)  # what is wrong is said before what is missing
        complete(tokens, name, data, values, may_be_trained=any(setting.name == "tune" for setting in settings))
        return run(model, data, gathered, **values)

    parameters = [p.replace(annotation=hints[key]) for key, p in kept.items()]
    parameters += [inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=UNSET, annotation=hint) for key, (_, hint) in own.items()]
    specific.__signature__ = inspect.Signature(sorted(parameters, key=lambda p: p.kind))
    specific.__annotations__ = {p.name: p.annotation for p in parameters}
    specific.__doc__ = train.__doc__
    example = catalog.entries()[name].example
    specific.example = f"pofx train {name} digits {example + ' ' if example else ''}--out runs/{name}" + ("" if example else " --minutes 1")
    return specific


def complete(tokens: Sequence[str], name: str, data: str, values: Mapping[str, Any], *, may_be_trained: bool) -> None:
    """Refuse a command without run folder or budget, in one message with the whole command.

    Args:
        may_be_trained: the parts of this model may all be trained already, so that no budget is needed; training will say.
    """
    missing, more = [], []
    if values["out"] is None:
        missing.append("--out (the run folder)")
        more += ["--out", f"runs/{name}-{re.sub(r'[^0-9A-Za-z.]+', '-', Path(data).name).strip('-')}"]
    if not may_be_trained and all(values[key] is None for key in ("epochs", "steps", "minutes")):
        missing.append("how long to train (--minutes, --epochs or --steps)")
        more += ["--minutes", "5"]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        line = shlex.join(["pofx", "train", *tokens, *more])
        raise InputError(f"{' and '.join(missing)} {verb} missing. For example:\n{line}")


def find_model(tokens: Sequence[str]) -> str | None:
    """The first positional argument: MODEL may stand before or after flags.

    >>> find_model(["--out", "runs/a", "--dry-run", "vae", "digits"])
    'vae'
    """
    switches = {
        "--" + key.replace("_", "-") for owner in (train, DataFlags, Common) for key, hint in get_type_hints(owner).items() if hint is bool
    }
    tokens = list(tokens)
    while tokens:
        token = tokens.pop(0)
        if not token.startswith("-"):
            return token
        if token not in switches and token not in ("--help", "-h") and "=" not in token and tokens:
            tokens.pop(0)
    return None
