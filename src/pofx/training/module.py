"""The loop: at step s, for each objective k that is due,

    θ_k ← optimizer_k(θ_k, clip(∇_{θ_k} L_k(batch_s; noise_s))),     then  w̄ ← average(w̄, w).

Batch and noise are functions of (seed, s), so the state after s steps is weights, averages, optimizer states and s itself, for any number of
processes: each takes its piece of the batch (`processes.py`), noise is keyed by an image's place in the whole one, and all make the same step.
Only the parameters of objective k require a gradient while L_k is computed. No family of models is named here.

One step is one batch index: Lightning's own `global_step` counts every optimizer's steps, and is not used. A Lightning
"epoch" is the whole run; ours are counted in `plan`.
"""

from __future__ import annotations

import copy
import hashlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from pofx.errors import RunError
from pofx.model import Batch, Context, ImageModel, OptimizerSpec
from pofx.noise import Noise
from pofx.numbers import SIGNS
from pofx.training import checkpoint
from pofx.training.augment import augment
from pofx.training.average import Average
from pofx.training.logger import MetricsFile
from pofx.training.optimizers import make_optimizer
from pofx.training.plan import MEASURED, Plan, learning_rate
from pofx.training.processes import Processes
from pofx.training.progress import Report, kind_of
from pofx.training.validation import validate

SETTLING = 100  # steps in which a training may look odd


def stream(seed: int, step: int, rank: int = 0) -> int:
    """The seed of torch's own generator at a step, for models that use its random functions: 63 bits, a function of (seed, step), and of the
    process where there are several; what a model draws from there does depend on their number."""
    key = f"pofx/{seed}/{step}" + (f"/{rank}" if rank else "")
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed the generators that a step on `device` uses. `torch.manual_seed` seeds those of devices that are not there as well, and takes a
    stack trace for each: half a millisecond."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def others(model: nn.Module, players: nn.Module) -> list[nn.Parameter]:
    """The parameters that train, but not those of `players`."""
    mine = {id(p) for p in players.parameters()}
    return [p for p in model.parameters() if p.requires_grad and id(p) not in mine]


@contextmanager
def without(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let all but these parameters require gradients."""
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


class Game(pl.LightningModule):
    """A model, its objectives and their optimizers, and the averaged weights.

    Args:
        lr, optimizer: in the place of every objective's own.
        half_life: of the averaged weights, in images.
        batch: images per step, of all processes together.
    """

    def __init__(
        self,
        model: ImageModel,
        data: Any,
        plan: Plan,
        processes: Processes,
        *,
        batch: int,
        seed: int,
        lr: float | None,
        optimizer: str | None,
        half_life: float,
        augmentations: Sequence[str],
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.average = Average(model, half_life)
        self.players = list(model.objectives())
        self.others = [others(model, player.parameters) for player in self.players]
        self.source = data
        self.plan = plan
        self.processes = processes
        self.batch, self.seed, self.augmentations = batch, seed, tuple(augmentations)
        self.instead = {name: value for name, value in {"lr": lr, "name": optimizer}.items() if value is not None}
        self.step = 0  # steps made
        self.sums: dict[str, list[float]] = {}  # of logs since the last row: name → [sum, count]
        self._epoch: tuple[int, Tensor] | None = None
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="pofx-read")  # starts no thread before it is asked
        self._next: tuple[tuple[int, slice], Future[tuple[Tensor, Tensor | None]]] | None = None

    # What step s sees ------------------------------------------------------------------------------------------------

    def batch_of(self, step: int, *, whole: bool = False) -> tuple[Batch, Context]:
        """What this process sees of a step (or `whole`, all of it): functions of (seed, step)."""
        piece = slice(0, self.batch) if whole else self.processes.part(self.batch)
        noise = Noise(self.seed, step * self.batch + torch.arange(piece.start, piece.stop))
        x, y = self._read(step, piece)
        context = Context(
            step,
            self.plan.progress(step),
            noise,
            extended=self.plan.extended(step),
            share=len(noise) / self.batch,
            total=self.processes.total,
        )
        return self.model.batch(augment(x, self.augmentations, noise, self.model.space.levels), y, noise), context

    def _read(self, step: int, piece: slice) -> tuple[Tensor, Tensor | None]:
        """Images `piece` of the batch of a step. Of a set on disk, those of the next step are read while this one is made."""
        found = self._next[1].result() if self._next is not None and self._next[0] == (step, piece) else self._images(step, piece)
        self._next = None
        if not self.source.train.in_memory:
            self._next = (step + 1, piece), self._reader.submit(self._images, step + 1, piece)
        return found

    def _images(self, step: int, piece: slice) -> tuple[Tensor, Tensor | None]:
        from pofx.data import order

        epoch, position = divmod(step, self.plan.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, order(len(self.source.train), seed=self.seed, epoch=epoch)
        start = position * self.batch
        return self.source.train_batch(self._epoch[1][start + piece.start : start + piece.stop], seed=self.seed, epoch=epoch)

    def some_train(self, chunk: int = 100) -> Iterator[Batch]:
        """Training images in a fixed random order, as they are in the first epoch and without augmentation."""
        from pofx.data import order

        for index in order(len(self.source.train), seed=0, epoch=0).split(chunk):
            yield self.model.batch(*self.source.train_batch(index, seed=self.seed, epoch=0))

    def some_valid(self, chunk: int = 100) -> Iterator[Batch]:
        """Validation images, in order and as they are; the last chunk may be shorter."""
        for x, y in self.source.valid.batches(chunk):
            yield self.model.batch(x, y)

    # One step --------------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        return [make_optimizer(player.parameters, self._spec(player.optimizer), player.slow) for player in self.players]

    def optimizer_list(self) -> list[Any]:
        found = self.optimizers()
        return found if isinstance(found, list) else [found]

    def training_step(self, step: int, _: int) -> None:
        self.play(step)

    def play(self, step: int) -> None:
        """Make step number `step`."""
        seed_torch(stream(self.seed, step, self.processes.rank), self.device)
        batch, context = self.batch_of(step)
        weight = context.share * self.processes.size  # gradients of processes are averaged: 1 where all have as many images
        for player, rest, optimizer in zip(self.players, self.others, self.optimizer_list(), strict=True):
            if not player.due(step):
                continue
            prefix = f"{player.name}_" if len(self.players) > 1 else ""
            optimizer.zero_grad(set_to_none=True)
            with without(rest):
                loss, logs = player.loss(batch, context)
                self.manual_backward(loss * weight)
            logs = self._means({"loss": loss} | dict(logs), context.share)
            self._finite(logs["loss"], step, f"The loss of {player.name!r}")
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            norm = nn.utils.get_total_norm(gradients)
            self._finite(float(norm), step, f"The gradient of {player.name!r}")
            if player.clip is not None and gradients:
                shrink = player.clip / (norm + 1e-6)
                if float(shrink) < 1:
                    torch._foreach_mul_(gradients, shrink)
            rate = learning_rate(self._spec(player.optimizer), context.progress)
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("scale", 1.0)
            optimizer.step()
            if player.after is not None:
                player.after()
            for name, value in (logs | {"grad_norm": float(norm)}).items():
                entry = self.sums.setdefault(f"train_{prefix}{name}", [0.0, 0])
                entry[0] += value
                entry[1] += 1
            self.sums[f"{prefix}lr"] = [rate, 1]
        self.average.update(self.model, self.batch)
        self.step = step + 1

    def _means(self, logs: dict[str, Any], share: float) -> dict[str, float]:
        """Means over the images of all processes."""
        values = [float(torch.as_tensor(value).detach()) * share for value in logs.values()]
        return dict(zip(logs, self.processes.sums(values), strict=True))

    def _spec(self, spec: OptimizerSpec) -> OptimizerSpec:
        return replace(spec, **self.instead)

    def _finite(self, value: float, step: int, what: str) -> None:
        if not math.isfinite(value):
            raise NotFinite(step, f"{what} is {value}")

    def means(self) -> dict[str, float]:
        """Means of the logs since the last call."""
        found = {name: total / count for name, (total, count) in self.sums.items()}
        self.sums = {}
        return found

    def loss_text(self) -> str:
        """The loss as a person wants it: bits/dim where there is one, = or ≤."""
        sign = SIGNS.get(kind_of(self.model) or "", "")
        shown = [name for name in self.sums if name.endswith("bits_per_dim")] or [name for name in self.sums if name.endswith("loss")]
        parts = []
        for name in shown:
            total, count = self.sums[name]
            label = name.removeprefix("train_").replace("_", " ").replace("bits per dim", "bits/dim")
            parts.append(" ".join(filter(None, (label, sign if label.endswith("bits/dim") else "", f"{total / count:.3f}"))))
        return ", ".join(parts)

    # State -----------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that a step changes, as references."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict(),
            "updates": self.average.updates,
            # The plain ones: Lightning's wrappers do not pass `load_state_dict` on.
            "optimizers": [optimizer.state_dict() for optimizer in self.trainer.optimizers],
            "sums": self.sums,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average.model.load_state_dict(state["average"])
        self.average.updates = state["updates"]
        for optimizer, saved in zip(self.trainer.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
            optimizer.zero_grad(set_to_none=True)
        self.sums = {name: list(entry) for name, entry in state["sums"].items()}

    @contextmanager
    def rolled_back(self) -> Iterator[None]:
        """Steps made in here leave no trace."""
        kept, step = copy.deepcopy(self.state()), self.step
        try:
            yield
        finally:
            self.restore(kept)
            self.step = step

    def seconds_per_step(self, threads: int, *, at_least: float = 0.6) -> float:
        """Time throwaway steps with so many threads of this machine; all processes say what the first has measured."""
        torch.set_num_threads(max(1, threads // self.processes.here))
        precision = self.trainer.precision_plugin
        with self.rolled_back():
            step = self.step
            with precision.train_step_context():
                self.play(step)  # the first one allocates
            done, start = 0, time.monotonic()
            while self.processes.agree(done < 2 or (done < 3 and time.monotonic() - start <= 4) or time.monotonic() - start < at_least):
                with precision.train_step_context():
                    self.play(step + 1 + done)
                done += 1
            return float(self.processes.tell((time.monotonic() - start) / done))


class NotFinite(Exception):
    """A loss or a gradient that is no number, at a step."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(what)
        self.step = step


class Stopped(BaseException):
    """A person or the system asked to stop; the step in hand was finished and a checkpoint written, if there was time."""

    def __init__(self, signum: int, step: int | None) -> None:
        self.signum, self.step = signum, step


class StepNumbers:
    """The loader: step numbers from where the run stands. Batches are made inside the step, by index."""

    def __init__(self, game: Game) -> None:
        self.game = game

    def __iter__(self) -> Iterator[int]:
        step = self.game.step
        while self.game.plan.stop is None or step < self.game.plan.stop:
            yield step
            step += 1


class Keeper(pl.Callback):
    """Rows, validations, checkpoints and the end of a run.

    Args:
        run: its folder.
        state: the newest checkpoint, or None for a new run.
        every: seconds between checkpoints.
        threads: 0 to find out.
        refresh: called with the metrics after each validation, and when plan or threads were found, to bring model.json up to date.
        watch: called with the steps made and the averaged model, before the first step and after each.
        troubles: what ails the training, by name: what is said of it is kept here.
    """

    def __init__(
        self,
        run: Path,
        state: dict[str, Any] | None,
        *,
        every: float,
        threads: int,
        report: Report,
        refresh: Callable[..., None],
        troubles: dict[str, str],
        watch: Callable[[int, ImageModel], None] | None = None,
    ) -> None:
        self.troubles = troubles
        self.run, self.saved, self.every = run, state, every
        self.threads, self.report, self.refresh, self.watch = threads, report, refresh, watch
        self.before = 0.0 if state is None else float(state["seconds"])  # spent by earlier processes, on the whole run
        self.segment_from = 0.0 if state is None else float(state["segment_seconds"])  # when the segment began, on that clock
        self.metrics: dict[str, float] = {} if state is None else dict(state["metrics"])
        self.started: float | None = None  # monotonic time of this process' first step
        self.validation_seconds = 0.0
        self.signum: int | None = None
        self.ailing: set[str] = set()  # by the last row
        # Taken before Lightning puts its own in their place.
        self._handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}

    # The clock -------------------------------------------------------------------------------------------------------

    def seconds(self) -> float:
        """Spent on steps, validations and checkpoints by all processes of the run together; imports and tuning do not count."""
        return self.before + (0.0 if self.started is None else time.monotonic() - self.started)

    # The start -------------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        game = _game(pl_module)
        self.listen()  # again: of several processes, Lightning's handler would send a message that the others do not wait for
        if self.saved is not None:
            game.restore(self.saved)
            if game.step == game.plan.now.start and len(game.plan.segments) > 1:
                self.segment_from = self.before
        else:
            torch.set_num_threads(1)  # so that a data-dependent start does not depend on what is found below
            torch.manual_seed(stream(game.seed, -1))
            if game.processes.first:
                with torch.no_grad():
                    game.model.initialise(game.batch_of(0, whole=True)[0])
            game.processes.share(game.model)
            game.average.copy_from(game.model)
        self.saved = None
        game.average.eval()
        self._tune(game)
        if game.step == game.plan.now.start:
            self.refresh(game, self.metrics, weights=False, threads=self.threads)
            self._checkpoint(trainer, game)
        self._last_save = self.started = time.monotonic()
        self._first = game.step
        self.report.rate(game.step)
        self._look(game)

    def _tune(self, game: Game) -> None:
        """Choose one or all threads by timing throwaway steps, and count on their rate until the real one is known. Processes of a machine
        share its threads."""
        here = game.processes.here
        unknown = game.plan.now.stop is None and game.plan.now.provisional is None
        candidates = [self.threads] if self.threads else [here, max(here, _all_threads())]
        if not self.threads and (game.device.type != "cpu" or (not unknown and game.plan.expected - game.step < 50)):
            candidates = candidates[1:]  # not worth the time
        if len(set(candidates)) > 1 or unknown:
            timed = {threads: game.seconds_per_step(threads) for threads in dict.fromkeys(candidates)}
            self.threads = min(timed, key=lambda threads: timed[threads])
            if unknown:
                game.plan = game.plan.with_provisional(timed[self.threads])
        self.threads = self.threads or candidates[0]
        torch.set_num_threads(max(1, self.threads // here))

    def listen(self) -> None:
        """The first Ctrl-C or SIGTERM ends the run after the step in hand, the second at once."""
        if threading.current_thread() is not threading.main_thread():
            return

        def stop(signum: int, frame: FrameType | None) -> None:
            if self.signum is not None:
                raise Stopped(signum, None)
            self.signum = signum

        for signum in self._handlers:
            signal.signal(signum, stop)

    def unlisten(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for signum, handler in self._handlers.items():
                signal.signal(signum, handler)

    # After each step -------------------------------------------------------------------------------------------------

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        game = _game(pl_module)
        self._look(game)
        self.report.update(game.step, game.plan.expected, game.loss_text(), self._left(game))
        due, asked = game.processes.largest(int(self._due(game)), self.signum or 0)  # all of them stop at one step
        self.signum = asked or None
        if due:
            self._fix(game)
        fixed, done = bool(due), game.step == game.plan.stop
        if game.plan.logs(game.step) or fixed:
            row = game.means()
            self._advise(game, row)
            if game.plan.validates(game.step):
                self.metrics = self.validate(game)
                row |= self.metrics
                self.refresh(game, self.metrics, weights=True, threads=self.threads)
            row |= {"epoch": game.step // game.plan.steps_per_epoch, "images": game.step * game.batch, "minutes": self.seconds() / 60}
            for logger in trainer.loggers:
                logger.log_metrics(row, game.step)
        if done or fixed or self.signum is not None or time.monotonic() - self._last_save >= self.every or game.plan.validates(game.step):
            self._checkpoint(trainer, game)
        if self.signum is not None and not done:
            game.processes.barrier()  # the first may still write
            raise Stopped(self.signum, game.step)

    def _look(self, game: Game) -> None:
        if self.watch is not None:
            with torch.no_grad():
                self.watch(game.step, game.average.model)

    def _advise(self, game: Game, row: dict[str, float]) -> None:
        """Say what ails the training: each trouble once, when two rows in a row show it and a hundred steps were made."""
        if game.step < SETTLING:
            return
        found = game.model.diagnose(row)
        for name in self.ailing & found.keys() - self.troubles.keys():
            self.troubles[name] = f"step {game.step}: {found[name]}"
            self.report.say(self.troubles[name])
        self.ailing = set(found)

    def validate(self, game: Game) -> dict[str, float]:
        start = time.monotonic()
        with torch.no_grad():
            game.average.model.settle(game.some_train())
            game.average.model.calibrate(game.some_valid())
        found = validate(game.average.model, game.source.valid, processes=game.processes)
        self.validation_seconds = time.monotonic() - start
        return found

    def _left(self, game: Game) -> float | None:
        """Seconds left by the clock, while it decides."""
        minutes = game.plan.now.budget.minutes
        return None if game.plan.stop is not None or minutes is None else minutes * 60 - (self.seconds() - self.segment_from)

    def _due(self, game: Game) -> bool:
        """Whether 5 % of a minutes budget are spent, by the clock of the first process, so that the number of steps can be fixed."""
        minutes = game.plan.now.budget.minutes
        if minutes is None or game.plan.stop is not None or not game.processes.first:
            return False
        return self.seconds() - self.segment_from >= MEASURED * minutes * 60

    def _fix(self, game: Game) -> None:
        """Fix the number of steps by the rate measured so far."""
        assert self.started is not None
        per_step = (time.monotonic() - self.started - self.validation_seconds) / max(game.step - self._first, 1)
        if not self.validation_seconds:
            self.validate(game)
        plan = game.plan.fix(game.step, self.seconds() - self.segment_from, per_step, self.validation_seconds)
        game.plan = Plan.from_json(game.processes.tell(plan.to_json()))
        self.refresh(game, self.metrics, weights=False, threads=self.threads)

    def _checkpoint(self, trainer: pl.Trainer, game: Game) -> None:
        self._last_save = time.monotonic()
        if not game.processes.first:
            return
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.sync()
        clock = {"seconds": self.seconds(), "segment_seconds": self.segment_from, "metrics": self.metrics}
        checkpoint.save(self.run, {**game.state(), **clock}, game.step)
        self._last_save = time.monotonic()


def _game(module: pl.LightningModule) -> Game:
    assert isinstance(module, Game)
    return module


def _all_threads() -> int:
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(torch.get_num_threads(), there))


def not_finite(error: NotFinite, run: Path, precision: str) -> NoReturn:
    """Turn a loss that is no number into what a person can do about it."""
    good = checkpoint.found(run)
    last = f"the last good checkpoint is {good[0]}" if good else "there is no checkpoint yet"
    advice = "a lower --lr" + ("" if precision.startswith(("32", "64")) else ", or --precision 32")
    raise RunError(
        f"{error} at step {error.step}; {last}. Try {advice}, in another --out (start it from these weights with --init-from {run})."
    ) from error
