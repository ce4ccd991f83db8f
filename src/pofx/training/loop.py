"""`train`: from a model and data to a run folder; the same call goes on where a killed one stopped.

The folder is the state: model.json holds the arguments and the plan, checkpoints/ the rest. A call on a folder that exists is
compared with it: the same arguments resume, others are refused with their differences.

Of several processes (`processes.py`) the first alone looks into the folder, tells the others what to do, and writes.
"""

from __future__ import annotations

import copy
import inspect
import json
import logging
import os
import platform
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

import torch
from torch import Tensor, nn

from pofx import catalog
from pofx.errors import InputError, RunError
from pofx.heap import keep_pages
from pofx.model import Context, ImageModel, OptimizerName, Sampler
from pofx.noise import Noise
from pofx.numbers import SIGNS
from pofx.training import augment as augmentation
from pofx.training import checkpoint
from pofx.training.files import full_disk, locked, sweep, write_atomic
from pofx.training.learnable import Doubts, check_learnable, learned_classes
from pofx.training.plan import Budget, Plan
from pofx.training.processes import Processes, helper
from pofx.training.progress import duration, kind_of, report, say
from pofx.training.runs import (
    JSON,
    WEIGHTS,
    Run,
    RunInfo,
    describe,
    load_weights,
    read_run,
    read_weights,
    resolve_device,
    save_json,
    save_weights,
    weights_hash,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from pofx.data import Data
    from pofx.training.module import Game

STEPS = 100  # that an epoch has at least, where a model would take more than 64 images a step
HALF_LIFE = 10_000  # images: of the averaged weights
CHECKPOINT_SECONDS = 30.0
SAMPLES = 64
SAMPLING_SECONDS = 90.0  # for samples.png; then fewer are drawn
LOGGERS = {"mlflow": "mlflow", "wandb": "wandb"}  # name → package
OPTIMIZERS = {name: name for name in get_args(OptimizerName)}
PRECISIONS = {"auto": "auto", "32": "32", "float32": "32", "bf16": "bf16", "64": "64", "float64": "64"}
Watch = Callable[[int, ImageModel], None]
LIGHTNING = {"32": "32-true", "bf16": "bf16-mixed", "64": "64-true"}


@dataclass(frozen=True)
class TrainingPlan:
    """What `train(…, dry_run=True)` would do.

    Attributes:
        steps: of the whole run; None with --minutes, where the rate decides.
        batch_size: images per step; `per_process` of them for each of `processes`, on so many `nodes` (one more for some).
        memory: bytes, estimated: weights, gradients, averages, optimizer state, and what one batch keeps for the way back.
        state: "new", "resume from step k" or "done".
    """

    model: str
    parameters: int
    data: str
    images: int
    budget: str
    steps: int | None
    batch_size: int
    steps_per_epoch: int
    precision: str
    device: str
    memory: int
    out: Path
    state: str
    processes: int = 1
    nodes: int = 1
    per_process: int = 0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "out": str(self.out)}

    def __str__(self) -> str:
        steps = f"as many as fit into {self.budget}" if self.steps is None else f"{self.steps}"
        rows = {
            "model": f"{self.model}, {self.parameters:,} parameters",
            "data": f"{self.data}, {self.images:,} training images",
            "steps": f"{steps} of {self.batch_size} images ({self.steps_per_epoch} per epoch)",
            "processes": f"{self.processes} on {self.nodes} machine{'s' * (self.nodes > 1)}, {self.per_process} images each per step",
            "precision": f"{self.precision} on {self.device}",
            "memory": f"about {self.memory / 2**20:,.0f} MiB" + (" in each process" if self.processes > 1 else ""),
            "out": f"{self.out} ({self.state})",
        }
        return "\n".join(f"{name:<10} {text}" for name, text in rows.items())


@contextmanager
def _flushing() -> Iterator[None]:
    """Denormal numbers become zero. Gradients behind saturated gates get that small, and a backward pass then takes four times as long.
    A thread has its own setting, and takes it over from the one that starts it."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@overload
def train(
    model: ImageModel, data: Data, *, out: str | Path, epochs: float | None = ..., steps: int | None = ..., minutes: float | None = ...,
    batch_size: int | None = ..., lr: float | None = ..., optimizer: str | None = ..., seed: int = ..., average: float | None = ...,
    precision: str = ..., device: str = ..., threads: int | None = ..., augment: Sequence[str] = ..., init_from: str | Path | None = ...,
    logger: Sequence[str] = ..., extend: bool = ..., dry_run: Literal[False] = ..., quiet: bool = ..., checkpoint_seconds: float | None = ...,
    watch: Watch | None = ...,
    devices: int | None = ..., nodes: int | None = ..., strategy: str = ...,
) -> Run: ...  # fmt: skip


@overload
def train(
    model: ImageModel, data: Data, *, out: str | Path, epochs: float | None = ..., steps: int | None = ..., minutes: float | None = ...,
    batch_size: int | None = ..., lr: float | None = ..., optimizer: str | None = ..., seed: int = ..., average: float | None = ...,
    precision: str = ..., device: str = ..., threads: int | None = ..., augment: Sequence[str] = ..., init_from: str | Path | None = ...,
    logger: Sequence[str] = ..., extend: bool = ..., dry_run: bool, quiet: bool = ..., checkpoint_seconds: float | None = ...,
    watch: Watch | None = ...,
    devices: int | None = ..., nodes: int | None = ..., strategy: str = ...,
) -> Run | TrainingPlan: ...  # fmt: skip


@_flushing()
def train(
    model: ImageModel,
    data: Data,
    *,
    out: str | Path,
    epochs: float | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    optimizer: str | None = None,
    seed: int = 0,
    average: float | None = None,
    precision: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    augment: Sequence[str] = (),
    init_from: str | Path | None = None,
    logger: Sequence[str] = (),
    extend: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
    checkpoint_seconds: float | None = None,
    watch: Watch | None = None,
    devices: int | None = None,
    nodes: int | None = None,
    strategy: str = "auto",
) -> Run | TrainingPlan:
    """Train `model` on `data` into the folder `out`, or go on with what is there.

    The same call resumes a killed run; on the CPU, with the same versions and threads, it ends with the weights of a run that
    was never killed, bit for bit. On a finished run it returns it. Fresh weights come from torch's generator when a model is
    made, so seed that before (`torch.manual_seed(0)`; the command line does).

    Args:
        model: what to train; gets the averaged weights at the end, in evaluation mode.
        data: what to learn; only `train` is learned, only `valid` is looked at.
        out: the run folder; made where it is missing.
        epochs, steps, minutes: the budget, exactly one; none where the model has no objective, its parts being trained already. With
            minutes the rate is measured in the first 5 % of the time, then the number of steps is fixed; starting up and drawing samples.png
            come on top.
        batch_size: images per step, of all processes together; by default the model's `batch_size`, or fewer (64 at least) where an epoch would
            not have 100 steps; at most the training set. The rest of an epoch that fills no batch is left out; each epoch leaves out others.
        lr: in the place of every objective's own learning rate.
        optimizer: "Muon", "AdamW", "Adam", "RMSprop" or "SGD", in the place of every objective's own. A learning rate fits one optimizer.
        seed: of order and noise.
        average: half-life of the averaged weights in images, default 10,000; 0 keeps the last weights.
        precision: "auto" is bf16 on CUDA and on processors with bf16 instructions, else "32"; "64" for tests.
        device: "auto" (CUDA, else CPU), "cpu", "cuda" or "mps".
        threads: of the processor, shared by the processes on it; by default the faster of 1 and all, timed and recorded. A resumed run keeps them.
        augment: "flip", "shift"; of training images only.
        init_from: a RUN whose weights are taken where names and shapes agree.
        logger: "mlflow", "wandb", where installed; metrics.csv and TensorBoard are always written.
        extend: on a finished run, train for the budget again: a new warm-up and schedule, from its weights and optimizer state.
        dry_run: return a `TrainingPlan` and write nothing.
        quiet: no progress.
        checkpoint_seconds: between checkpoints, default 30, or $POFX_CHECKPOINT_SECONDS.
        watch: called with the steps made and the averaged model, before the first step and after each; it may look, and change nothing.
        devices: processes on this machine, one for each GPU; default 1, or what torchrun or srun has started. This one starts the others by
            running the program again, and they end where this returns; those of torchrun and srun all return.
        nodes: machines; more than one need torchrun or srun.
        strategy: "ddp" (DistributedDataParallel) where there are several processes; "auto" is that.

    Returns:
        the Run; a TrainingPlan with dry_run.

    Raises:
        InputError: wrong arguments; `out` holds something else, or a run made with other arguments, or is being trained.
        RunError: a loss that is not finite; a full disk; another process of the run is gone.
        KeyboardInterrupt: Ctrl-C; a checkpoint has been written.

    >>> import pofx, tempfile
    >>> data = pofx.load_data("digits")
    >>> model = pofx.models.PixelCNN.small(data.space)
    >>> sorted(train(model, data, out=tempfile.mkdtemp(), steps=2, quiet=True).metrics)
    ['valid_bits_per_dim', 'valid_kind', 'valid_nats']
    """
    out = Path(out).expanduser()
    logger = [logger] if isinstance(logger, str) else list(logger)
    budget = Budget(epochs, steps, minutes) if model.objectives() else _nothing(model, epochs, steps, minutes, extend)
    names = augmentation.check(augment)
    data = data.told(model.given)
    batch = _batch_size(model, data, batch_size)
    identity = {
        **describe(model),
        "data": data.fingerprint,
        **{"epochs": epochs, "steps": steps, "minutes": minutes},
        "batch_size": batch,
        "lr": lr,
        "optimizer": None if optimizer is None else _known(optimizer, OPTIMIZERS, "--optimizer"),
        "seed": seed,
        "average": HALF_LIFE if average is None else average,
        "precision": _known(precision, PRECISIONS, "--precision"),
        "augment": list(names),
        "init_from": None if init_from is None else str(init_from),
    }
    origins = _origins(model, init_from)
    _check(model, data, seed, lr, identity["average"], threads, batch, logger)
    doubts = Doubts() if budget is None else check_learnable(model, data)
    if batch_size is not None and batch < batch_size:
        doubts = replace(
            doubts, lines=(*doubts.lines, f"--batch-size {batch_size}: there are {batch} training images, so a step takes {batch}.")
        )
    processes = Processes.find(devices, nodes, strategy, resolve_device(device), out)
    if batch < processes.size:
        raise InputError(
            f"--batch-size {batch} is for all {processes.size} processes together: each takes one image at least. Use fewer processes."
        )
    where = processes.on(resolve_device(device))
    quiet = quiet or helper()
    plan = Plan(len(data.train) // batch)
    chosen = chosen_precision(identity["precision"], where)
    if dry_run:
        doubts.say(quiet)
        return _dry_run(
            model, data, plan if budget is None else plan.add(budget), identity, origins, chosen, where, out, batch, extend, processes
        )
    source = None if init_from is None else _weights_of(init_from)
    session = _Session(
        model, data, out, identity, origins, plan, budget, batch, chosen, where, names, logger, quiet, source, doubts, watch, processes
    )
    return session.run(extend, threads, _seconds(checkpoint_seconds))


# Checks ---------------------------------------------------------------------------------------------------------------


def _known(value: str, known: Mapping[str, str], flag: str) -> str:
    if value not in known:
        raise InputError(f"{flag} {value}: use one of {', '.join(known)}.")
    return known[value]


def _nothing(model: ImageModel, epochs: float | None, steps: int | None, minutes: float | None, extend: bool) -> None:
    """No budget is needed where nothing is to be trained, and none is taken."""
    asked = {"epochs": epochs, "steps": steps, "minutes": minutes, "extend": extend or None}
    given = " and ".join(f"--{name}" for name, value in asked.items() if value is not None)
    if given:
        raise InputError(f"The parts of this {type(model).__name__} are trained already, and it has no others. Leave out {given}.")


def _batch_size(model: ImageModel, data: Data, asked: int | None) -> int:
    n = len(data.train)
    if n == 0:
        raise InputError(f"{data.heading} has no training images; at least one is needed. See what is there with: pofx data {data.name}")
    if asked is not None and (not isinstance(asked, int) or asked < 1):
        raise InputError(f"--batch-size {asked}: it must be a whole number of at least 1, e.g. --batch-size 64")
    if asked is None:
        asked = min(model.batch_size, max(ImageModel.batch_size, n // STEPS))
    return min(asked, n)


def _check(
    model: ImageModel, data: Data, seed: int, lr: float | None, average: float, threads: int | None, batch: int, loggers: Sequence[str]
) -> None:
    """What would fail later, before anything is written."""
    if model.space != data.space:
        raise InputError(
            f"The model was made for images of {model.space}; {data.heading} has {data.space}. Make it with: type(model)(data.space)"
        )
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InputError(f"--seed {seed}: it must be a whole number of at least 0.")
    if lr is not None and not 0 < lr < float("inf"):
        raise InputError(f"--lr {lr}: it must be above 0, e.g. --lr 0.001")
    for player in model.objectives():
        if not 0 < player.optimizer.lr < float("inf"):
            raise InputError(f"The learning rate of {player.name!r} is {player.optimizer.lr}: it must be above 0, e.g. --lr 0.001")
    if not 0 <= average < float("inf"):
        raise InputError(f"--average {average}: it is a half-life in images, e.g. --average {HALF_LIFE}, or 0 to keep the last weights.")
    if threads is not None and threads < 1:
        raise InputError(f"--threads {threads}: it must be at least 1.")
    model.batch(*data.train.take(torch.arange(min(batch, len(data.train)))))  # the view refuses what it cannot see
    _loggers_there(loggers)


def _loggers_there(names: Sequence[str]) -> None:
    from importlib.util import find_spec

    for name in names:
        package = _known(name, LOGGERS, "--logger")
        if find_spec(package) is None:
            raise InputError(f"--logger {name}: the package is not installed. Install it: pip install {package}")


def chosen_precision(asked: str, device: torch.device) -> str:
    """bf16 only where the processor has instructions for it: elsewhere it is emulated, and slower than float32."""
    if asked != "auto":
        return asked
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    fast = fast or (device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()))
    return "bf16" if fast else "32"


def _seconds(asked: float | None) -> float:
    text = os.environ.get("POFX_CHECKPOINT_SECONDS", CHECKPOINT_SECONDS) if asked is None else asked
    try:
        return float(text)
    except ValueError:
        raise InputError(f"POFX_CHECKPOINT_SECONDS={text}: it must be a number of seconds, e.g. 30") from None


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """Make the run folder, and hold it for this process alone."""
    try:
        with full_disk(out):
            out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"--out {out} is a file, or lies under one; name a folder that does not exist yet.") from None
    except OSError as error:
        raise InputError(f"--out {out} cannot be made: {error.strerror}. Name a folder that you may write to.") from None
    _refuse_foreign(out)
    with locked(out):
        sweep(out)
        _refuse_foreign(out)  # again: now nobody else writes
        yield


def _refuse_foreign(out: Path) -> None:
    """A folder with files but no run is somebody's: refuse it."""
    if (out / JSON).exists():
        return
    other = sorted(p.name for p in out.iterdir() if p.name != ".lock" and not p.name.endswith(".tmp"))
    if other:
        found = ", ".join(other[:3]) + (" …" if len(other) > 3 else "")
        raise InputError(f"--out {out} is not empty and holds no run (found {found}). Nothing was changed; name another folder.")


def _weights_of(path: str | Path) -> tuple[str, dict[str, Tensor]]:
    info = read_run(path)
    return f"{info.path} ({info.class_name})", read_weights(info.path)


def _origins(model: ImageModel, init_from: str | Path | None) -> dict[str, dict[str, str]]:
    """What the weights at the start were learned by: for `init_from`, and for each argument that is a model read from a run, that run and the hash
    of its weights."""
    found = {}
    for name, value in model.config().items():
        many = isinstance(value, list | tuple)
        for i, part in enumerate(value if many else [value]):
            if isinstance(part, ImageModel) and part.origin is not None:
                found[f"{name}.{i}" if many else name] = part.origin
    if init_from is not None:
        found["init_from"] = str(init_from), weights_hash(read_run(init_from).path)
    return {name: {"run": run, "weights": weights} for name, (run, weights) in found.items()}


def take_weights(model: ImageModel, tensors: Mapping[str, Tensor]) -> tuple[list[str], list[str], list[str]]:
    """Copy tensors into a model where names and shapes agree: those taken, left in the source, and left fresh in the model."""
    own = model.state_dict()
    taken = [name for name in own if name in tensors and tensors[name].shape == own[name].shape]
    model.load_state_dict({name: tensors[name] for name in taken}, strict=False)
    return taken, [name for name in tensors if name not in taken], [name for name in own if name not in taken]


# The run --------------------------------------------------------------------------------------------------------------


@dataclass
class _Session:
    """One process' work on one run folder."""

    model: ImageModel
    data: Data
    out: Path
    identity: dict[str, Any]
    origins: dict[str, dict[str, str]]
    plan: Plan
    budget: Budget | None
    batch: int
    precision: str
    device: torch.device
    augmentations: tuple[str, ...]
    loggers: Sequence[str]
    quiet: bool
    source: tuple[str, dict[str, Tensor]] | None
    doubts: Doubts
    watch: Watch | None
    processes: Processes

    def run(self, extend: bool, threads: int | None, every: float) -> Run:
        well = False
        with ExitStack() as held:

            def look() -> dict[str, Any]:
                held.enter_context(_held(self.out))
                return self._look(extend, threads)

            try:
                found = self.processes.decide(look, alone=lambda found: found["alone"])
                if found is None:
                    raise SystemExit(2)  # the first one says why
                run = self._follow(found, every)
                if self.processes.joined:
                    self.processes.barrier()
                well = True
            except (RuntimeError, OSError) as error:
                if not self.processes.broke(error):
                    raise
                raise self.processes.lost(self._last()) from error
            finally:
                self.processes.close(well=well)
        if self.processes.ends_here:
            raise SystemExit(0)
        return run

    def _look(self, extend: bool, threads: int | None) -> dict[str, Any]:
        """What there is to do, as JSON."""
        self.training: dict[str, Any] = {"arguments": self.identity, "plan": None, "threads": threads, "hardware": hardware(self.device)}
        self.training |= {"origins": self.origins} if self.origins else {}
        created = not (self.out / JSON).exists()
        finished, plan, step = False, self.plan, None
        if created:
            plan = plan if self.budget is None else plan.add(self.budget)
        else:
            info = read_run(self.out)
            plan, arguments = _stored(info)
            _compare(self.out, plan, arguments, self.identity, self.model, adding=extend and info.finished)
            _compare_origins(self.out, info.training.get("origins") or {}, self.origins)
            self.training |= {k: v for k, v in info.training.items() if k != "hardware"}
            self.training["threads"] = threads or info.training.get("threads")
            self.precision = info.training.get("precision", self.precision)
            finished = info.finished and not extend
            if info.finished and extend:
                assert self.budget is not None  # `extend` needs one
                plan = plan.add(self.budget)
                self.training["arguments"] = self.identity
            if not finished and self.budget is not None:
                self.state = checkpoint.newest(self.out)
                step = None if self.state is None else int(self.state["step"])
            if step is None and len(plan.segments) > 1 and not finished:
                raise RunError(f"{self.out} has no checkpoint to extend. Fine-tune it into another folder: --init-from {self.out}")
        self.training["processes"] = self.processes.size
        alone = finished or self.budget is None or (step is not None and plan.stop is not None and step >= plan.stop)
        found = {"created": created, "finished": finished, "alone": alone, "step": step}
        return found | {"plan": plan.to_json(), "training": self.training, "precision": self.precision}

    def _follow(self, found: dict[str, Any], every: float) -> Run:
        """Do what was found to do. Where there is nothing to train, the first process does it alone."""
        self.created, self.training, self.precision = found["created"], found["training"], found["precision"]
        self.plan = Plan.from_json(found["plan"])
        if found["alone"] and not self.processes.first:
            self.processes.barrier()
            return self._done(read_run(self.out).metrics)
        if found["finished"]:
            try:
                run = self._done(read_run(self.out).metrics)
            except InputError as error:
                run = self._train(self._rescue(error), every)
        elif self.budget is None:
            run = self._compose()
        else:
            if not self.processes.first:
                self.state = self._state_of(found["step"])
            if self.state is None:
                self._initialise_from()
            run = self._train(self.state, every)
        if found["alone"] and self.processes.joined:
            self.processes.barrier()
        return run

    state: dict[str, Any] | None = None  # the checkpoint to go on from

    def _state_of(self, step: int | None) -> dict[str, Any] | None:
        """The checkpoint that the first process goes on from."""
        if step is None:
            return None
        try:
            return checkpoint.load(checkpoint.path_of(self.out, step))
        except (OSError, ValueError) as error:
            raise RunError(
                f"Process {self.processes.rank} cannot read the checkpoint of step {step} in {self.out} ({error}). "
                "All machines must see the run folder: put --out where they share files."
            ) from error

    def _last(self) -> str:
        """Where the same command would go on."""
        paths = checkpoint.found(self.out)
        return f"step {int(paths[0].stem[5:])}, the last checkpoint" if paths else "the start: there is no checkpoint yet"

    def _initialise_from(self) -> None:
        if self.source is None:
            return
        name, tensors = self.source
        taken, left, fresh = take_weights(self.model, tensors)
        if not taken:
            raise InputError(
                f"--init-from {name}: none of its {len(tensors)} tensors fits this {type(self.model).__name__} by name and shape. "
                "Give it the same settings."
            )
        count = sum(tensors[n].numel() for n in taken)
        text = f"Took {len(taken)} tensors ({count:,} numbers) from {name}."
        if left or fresh:
            text += f" Not taken: {_some(left)}. Fresh: {_some(fresh)}."
        say(text, self.quiet)
        self.training["init_from"] = {"run": name, "taken": taken, "not_taken": left, "fresh": fresh}

    def _meta(self, metrics: Mapping[str, float], finished: bool) -> dict[str, Any]:
        known_before = self.source is not None  # weights that were taken over may know a class that these images lack
        unlearned = {"unlearned": list(self.doubts.unlearned)} if self.doubts.unlearned and not known_before else {}
        known = {name: value for name, value in self.training.items() if name != "troubles" or value}
        training = known | {"plan": self.plan.to_json(), "precision": self.precision} | unlearned
        return {"data": self.data.to_json(), "training": training, "metrics": _with_kind(self.model, metrics), "finished": finished}

    def _compose(self) -> Run:
        """The run of a model in which nothing is to be trained: its weights as they are."""
        from pofx.training.validation import validate

        self.doubts.say(self.quiet)
        model = self.model.double() if self.precision == "64" else self.model
        model.eval().to(self.device)
        return self._finish(validate(model, self.data.valid), 0, 0.0)

    def _train(self, state: dict[str, Any] | None, every: float) -> Run:
        keep_pages()
        first = self.processes.first
        from pofx.training.module import Game, Keeper, NotFinite, Stopped, not_finite

        model = self.model.double() if self.precision == "64" else self.model
        model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        game = Game(
            model,
            self.data,
            self.plan,
            self.processes,
            batch=self.batch,
            seed=self.identity["seed"],
            lr=self.identity["lr"],
            optimizer=self.identity["optimizer"],
            half_life=self.identity["average"],
            augmentations=self.augmentations,
        )
        game.step = 0 if state is None else int(state["step"])
        title = f"{type(model).__name__} on {self.data.heading}"
        self.doubts.say(self.quiet)
        if game.step:
            say(f"{title}: goes on from step {game.step} of {self.plan.expected}.", self.quiet)

        def refresh(game: Game, metrics: Mapping[str, float], *, weights: bool, threads: int) -> None:
            self.plan, self.training["threads"] = game.plan, threads
            if not first:
                return
            if weights:
                save_weights(game.average.model, self.out)
            save_json(model, self.out, self._meta(metrics, finished=False))

        if self.created and first:
            save_json(model, self.out, self._meta({}, finished=False))
        if self.processes.size > 1 and self.device.type == "cpu" and batch_statistics(model):
            say(
                f"{type(model).__name__} normalises by its batch (BatchNorm): on the CPU each process by its own {self.batch // self.processes.size} "
                "images, so the result depends on the number of processes. On CUDA they are synchronised.",
                self.quiet,
            )
        shown = report(title, self.batch, quiet=self.quiet)
        keeper = Keeper(
            self.out,
            state,
            every=every,
            threads=self.training["threads"] or 0,
            report=shown,
            refresh=refresh,
            troubles=self.training.setdefault("troubles", {}),
            watch=self.watch,
        )
        before = torch.get_num_threads()
        try:
            with torch.random.fork_rng(devices=[]), _calm():
                if game.plan.stop is None or game.step < game.plan.stop:
                    self._fit(game, keeper)
                else:  # killed after its last step
                    assert state is not None
                    game.average.model.load_state_dict(state["average"])
                    torch.set_num_threads(max(1, keeper.threads // self.processes.here))
            shown.close()
            model.load_state_dict(game.average.model.state_dict())
            model.eval().to(self.device)
            if not first:
                return Run(self.out, model, _with_kind(model, keeper.metrics))
            return self._finish(keeper.metrics, game.step, keeper.seconds())
        except NotFinite as error:
            shown.close()
            if not first:
                raise SystemExit(1) from error
            not_finite(error, self.out, self.precision)
        except Stopped as stop:
            shown.close()
            step = stop.step if stop.step is not None else "the last checkpoint"
            where = f"after step {step} of {game.plan.expected}" if stop.step is not None else "at once"
            say(f"Stopped {where}. The same command goes on from {'there' if stop.step is not None else step}.", self.quiet)
            if stop.signum == signal.SIGTERM or not first:
                raise SystemExit(128 + stop.signum) from None
            raise KeyboardInterrupt from None
        finally:
            shown.close()
            torch.set_num_threads(before)

    def _fit(self, game: Game, keeper: Any) -> None:
        import lightning.pytorch as pl

        from pofx.training.module import StepNumbers

        many = self.processes.size > 1

        trainer = pl.Trainer(
            accelerator={"cpu": "cpu", "cuda": "gpu", "mps": "mps"}[self.device.type],
            devices=self.processes.here if many else 1 if self.device.index is None else [self.device.index],
            num_nodes=self.processes.size // self.processes.here,
            strategy=self._strategy(game) if many else "auto",
            sync_batchnorm=many and self.device.type == "cuda",
            precision=LIGHTNING[self.precision],  # type: ignore[arg-type]
            plugins=[self.processes.environment()],  # a single process stays one, whatever cluster variables say
            max_epochs=1,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            logger=self._make_loggers(game.step),
            callbacks=[keeper],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_autolog_hparams=False,
            use_distributed_sampler=False,
            default_root_dir=self.out,
        )
        keeper.listen()
        try:
            trainer.fit(game, train_dataloaders=StepNumbers(game))
        finally:
            keeper.unlisten()
        for logger in trainer.loggers:
            logger.finalize("success")

    def _strategy(self, game: Game) -> Any:
        """Gradients are averaged while the backward pass goes on. Where players move in turn, a loss reaches the parameters of one alone. Buffers
        are functions of weights and of sums over processes, but for batch statistics on the CPU: those of the first process are kept."""
        from lightning.pytorch.strategies import DDPStrategy

        apart = self.device.type == "cpu" and batch_statistics(game.model)
        return DDPStrategy(find_unused_parameters=len(game.players) > 1, broadcast_buffers=apart)

    def _make_loggers(self, step: int) -> list[Any]:
        from lightning.pytorch import loggers as pl_loggers

        from pofx.training.logger import MetricsFile

        if not self.processes.first:
            return []
        found: list[Any] = [
            MetricsFile(self.out / "metrics.csv", step),
            pl_loggers.TensorBoardLogger(self.out, name="tensorboard", version="", default_hp_metric=False, purge_step=step + 1),
        ]
        if "mlflow" in self.loggers:
            found.append(pl_loggers.MLFlowLogger(experiment_name="pofx", run_name=self.out.name))
        if "wandb" in self.loggers:
            found.append(pl_loggers.WandbLogger(project="pofx", name=self.out.name, save_dir=self.out, resume="allow"))
        return found

    def _finish(self, metrics: Mapping[str, float], steps: int, seconds: float) -> Run:
        save_weights(self.model, self.out)
        _draw(self.model, self.data, self.out / "samples.png", self.quiet)
        images = steps * self.batch
        rate = round(images / max(seconds, 1e-9), 1)
        self.training |= {
            "steps": steps,
            "images": images,
            "minutes": round(seconds / 60, 4),
            "seed": self.identity["seed"],
            "images_per_second": rate,
        }
        save_json(self.model, self.out, self._meta(metrics, finished=True))
        bits = metrics.get("valid_bits_per_dim")
        shown = f" valid bits/dim {SIGNS[kind_of(self.model) or 'exact']} {bits:.3f}," if bits is not None else ""
        say(f"{type(self.model).__name__} on {self.data.heading}: done,{shown} {steps} steps, {duration(seconds)}, {self.out}", self.quiet)
        return Run(self.out, self.model, _with_kind(self.model, metrics))

    def _done(self, metrics: Mapping[str, Any]) -> Run:
        if self.precision == "64":
            self.model.double()
        load_weights(self.model, self.out)
        further = " --extend trains it further." if self.budget else " Nothing in it is to be trained."
        say(f"{self.out} is done: {self.training.get('steps')} steps.{further}", self.quiet)
        return Run(self.out, self.model.to(self.device).eval(), dict(metrics))

    def _rescue(self, error: InputError) -> dict[str, Any]:
        """The newest checkpoint of a finished run whose weights cannot be read; its averages are written again."""
        try:
            state = checkpoint.newest(self.out)
        except RunError:
            state = None
        if state is None:
            file = self.out / WEIGHTS
            what = "is damaged" if file.exists() else "is missing"
            raise InputError(f"{self.out} is done, its {file.name} {what}, and no checkpoint can be read. Name another --out.") from error
        say(f"The weights of {self.out} cannot be read; they are made again from its checkpoint of step {state['step']}.", self.quiet)
        return state


def batch_statistics(model: nn.Module) -> bool:
    """Whether an image's output depends, in training, on the others of its batch."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def _with_kind(model: ImageModel, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics of a run, where there are nats with what they are; loggers get numbers only."""
    kind = kind_of(model)
    return dict(metrics) | ({"valid_kind": kind} if kind and "valid_nats" in metrics else {})


def _stored(info: RunInfo) -> tuple[Plan, dict[str, Any]]:
    """Plan and arguments of a run, from its model.json."""
    try:
        return Plan.from_json(info.training["plan"]), dict(info.training["arguments"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{info.path / JSON} does not say how its run was trained, so it cannot go on. Name another --out.") from error


def _compare(out: Path, plan: Plan, stored: dict[str, Any], asked: dict[str, Any], model: ImageModel, *, adding: bool) -> None:
    """Refuse arguments that are not those of the run, naming each difference; `adding` a budget, it may be another."""
    ours: dict[str, Any] = json.loads(json.dumps(asked))
    if stored.get("model") == ours["model"]:  # a version that did not have a setting yet had its default
        parameters = inspect.signature(type(model)).parameters
        fresh = {key: parameters[key].default for key in ours["arguments"] if key not in stored["arguments"]}
        stored = stored | {"arguments": stored["arguments"] | json.loads(json.dumps(catalog.arguments_to_json(fresh)))}
    names = ("epochs", "steps", "minutes")
    budgets = [asdict(segment.budget) for segment in plan.segments]
    if adding or any({k: ours[k] for k in names} == known for known in budgets):
        stored = stored | {k: ours[k] for k in names}
    found = list(_differences(stored, ours))
    if found:
        found = [line for line in found if line.startswith("model:")] or found  # of another model, every setting differs
        hint = "Use the arguments of the run, or name another --out."
        if all(line.split(":")[0] in names for line in found):
            had = " + ".join(str(s.budget) for s in plan.segments)
            hint = f"Its budget is {had}: finish that, then train further with --extend; or name another --out."
        raise InputError(f"{out} was made with other arguments ({'; '.join(found)}). {hint}")


def _compare_origins(out: Path, stored: Mapping[str, Mapping[str, str]], asked: Mapping[str, Mapping[str, str]]) -> None:
    """Refuse to go on from other weights than the run began with. Nothing is said of what only one of them knows: a version before this one did
    not write it, and a model that is loaded again has its parts from its own run."""
    for name in stored.keys() & asked.keys():
        had, now = stored[name], asked[name]
        if had["weights"] != now["weights"]:
            raise InputError(
                f"{out} was started from other weights ({name}: the run has {had['run']}, weights {had['weights'][:8]}, now {now['run']}, "
                f"weights {now['weights'][:8]}). Name the run that it was started from, or another --out."
            )


def _some(names: Sequence[str]) -> str:
    return (", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")) or "nothing"


def _differences(stored: Any, asked: Any, name: str = "") -> Iterator[str]:
    if isinstance(stored, dict) and isinstance(asked, dict):
        for key in dict.fromkeys((*stored, *asked)):
            yield from _differences(stored.get(key), asked.get(key), f"{name}.{key}" if name else key)
    elif stored != asked:
        yield f"{name}: the run has {_short(stored)}, now {_short(asked)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:18] + "…"


def hardware(device: torch.device) -> dict[str, Any]:
    """What a time or a rate was measured on."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        name = next((line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")), name)
    found = {
        "processor": name,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device.type,
    }
    return found | ({"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {})


@contextmanager
def _calm() -> Iterator[None]:
    """Lightning's remarks about loaders, devices and loggers are not for the people who train here; its errors are."""
    names = ("pytorch", "fabric", "pytorch.utilities.rank_zero", "fabric.utilities.rank_zero", "pytorch.accelerators.cuda")
    quiet = [logging.getLogger(f"lightning.{name}") for name in names]
    levels = [log.level for log in quiet]
    for log in quiet:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings("ignore", module=r"(tensorboard|torch\.utils\.tensorboard).*")
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")  # DDP, of weights in channels_last
            yield
    finally:
        for log, level in zip(quiet, levels, strict=True):
            log.setLevel(level)


class _TooSlow(Exception):
    """Drawing would take longer than it is worth."""


def picture_of_samples(
    model: Sampler,
    levels: int,
    given: Callable[[int], Tensor | None],
    *,
    seconds: float = SAMPLING_SECONDS,
    wait: Callable[[], Any] | None = None,
) -> Image | None:
    """64 samples of seed 0 as one picture, or as many as time allows; None where four take too long.

    Args:
        given: values of the view for n samples, or None; see `values_for`.
        seconds: for all attempts together.
        wait: called between pieces of the work.
    """
    from pofx.pictures import grid

    for n in (SAMPLES, 16, 4):
        start = time.monotonic()

        def progress(done: int, total: int, start: float = start) -> None:
            if done < total and time.monotonic() - start > seconds / 3:
                raise _TooSlow
            if wait is not None:
                wait()

        try:
            return grid(model.sample(n, given(n), seed=0, progress=progress), levels)
        except _TooSlow:
            continue
    return None


def _draw(model: ImageModel, data: Data, path: Path, quiet: bool) -> None:
    """samples.png, where the model draws and time allows."""
    if not isinstance(model, Sampler):
        return
    picture = picture_of_samples(model, data.space.levels, lambda n: values_for(model, data, n))
    if picture is not None:
        write_atomic(path, lambda file: picture.save(file, format="PNG"))
        return
    say(f"No samples.png: drawing takes too long here. Draw them with: pofx sample {path.parent} -n 16 -o samples.png", quiet)


def values_for(model: ImageModel, data: Data, n: int) -> Tensor | None:
    """Values of the view for n samples: each class that was learned in turn, or what validation images show."""
    from pofx.views import Label

    if model.given is None:
        return None
    if isinstance(model.given, Label):
        there = learned_classes(model, data)
        return there[torch.arange(n) % len(there)]
    split = data.valid if len(data.valid) else data.train
    return model.batch(*split.take(torch.arange(n) % len(split))).given


def _dry_run(
    model: ImageModel,
    data: Data,
    plan: Plan,
    identity: dict[str, Any],
    origins: dict[str, dict[str, str]],
    precision: str,
    device: torch.device,
    out: Path,
    batch: int,
    extend: bool,
    processes: Processes,
) -> TrainingPlan:
    state = "new"
    if (out / JSON).exists():
        info = read_run(out)
        old, arguments = _stored(info)
        adding = extend and info.finished
        _compare(out, old, arguments, identity, model, adding=adding)
        _compare_origins(out, info.training.get("origins") or {}, origins)
        plan = old.add(plan.now.budget) if adding else old
        found = checkpoint.found(out)
        state = f"resume from step {int(found[0].stem[5:]) if found else 0}"
        if info.finished:
            state = "extend" if extend else "done"
    elif out.exists():
        _refuse_foreign(out)
    return TrainingPlan(
        model=type(model).__name__,
        parameters=sum(p.numel() for p in model.parameters()),
        data=data.heading,
        images=len(data.train),
        budget=str(plan.now.budget) if plan.segments else "nothing to train",
        steps=plan.stop,
        batch_size=batch,
        steps_per_epoch=plan.steps_per_epoch,
        precision={"32": "float32", "64": "float64", "bf16": "bf16 (weights in float32)"}[precision],
        device=device.type,
        memory=_memory(model, data, -(-batch // processes.size), precision),
        out=out,
        state=state,
        processes=processes.size,
        nodes=processes.size // processes.here,
        per_process=batch // processes.size,
    )


def _memory(model: ImageModel, data: Data, batch: int, precision: str) -> int:
    """Bytes: five copies of the weights (and gradients, averages, two moments), and what autograd keeps for a batch, from two images."""
    each = 8 if precision == "64" else 4
    twin = copy.deepcopy(model).cpu().train()
    own = {p.data_ptr() for p in twin.parameters()} | {b.data_ptr() for b in twin.buffers()}
    n = min(2, batch)
    index = torch.arange(n)
    most = 0
    with torch.random.fork_rng(devices=[]):
        for objective in twin.objectives():
            kept: dict[int, int] = {}

            def keep(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
                if tensor.data_ptr() not in own:
                    kept[tensor.data_ptr()] = max(kept.get(tensor.data_ptr(), 0), tensor.nbytes)
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                result = objective.loss(twin.batch(*data.train.take(index)), Context(0, 0.0, Noise(0, index)))
            most = max(most, sum(kept.values()))
            del result
    weights = sum(p.numel() for p in model.parameters()) * each * 5
    return int(weights + most * batch / n * each / 4)
