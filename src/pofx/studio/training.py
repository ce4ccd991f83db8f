"""Trainings that were started on the page: `pofx train …` as child processes, each with a log beside its run folder.

A child is in a process group of its own, so that Ctrl+C in the studio's terminal is the studio's. A guard ends it when the studio ends, however
that happens: it reads from a pipe that only the studio holds.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from pofx.errors import InputError
from pofx.signatures import flags, is_flag, settings_of

TRAIN = ("pofx", "train")
GUARD = 'read line; kill -s TERM -- "-$0"'  # `read` ends when the pipe does
TAIL = 4096  # bytes of a log that are read for its last lines
MARK = "$ "  # before the command in a log


@dataclass(frozen=True)
class Setting:
    """One setting of a model as a form shows it.

    Attributes:
        flag: as in `signatures.flags`, "given.classes"; hint: its type; default: as a person would type it; help: one line.
    """

    flag: str
    hint: Any
    default: str | None
    help: str

    @property
    def option(self) -> str:
        """The flag on the command line."""
        return "--" + self.flag.replace("_", "-")

    def words(self, value: Any) -> list[str]:
        """What is typed for a value of the form; nothing for the default, or for an empty box.

        >>> Setting("layers", int, "8", "").words(4), Setting("layers", int, "8", "").words(8)
        (['--layers', '4'], [])
        """
        if isinstance(value, bool):
            if str(value) == (self.default or "False"):
                return []
            return [self.option] if value else ["--no-" + self.option[2:]]
        text = "" if value is None else f"{value:g}" if isinstance(value, float) else str(value).strip()
        return [] if not text or _same(text, self.default) else [self.option, *shlex.split(text)]


def _same(text: str, default: str | None) -> bool:
    """Whether a text says the default: 0.10 is 0.1."""
    if default is None:
        return text == "none"
    try:
        return float(text) == float(default)
    except ValueError:
        return text == default


def settings(model: str) -> list[Setting]:
    """The settings of a model, read from its source without torch.

    >>> [setting.flag for setting in settings("pixelcnn")][-4:]
    ['dilations', 'likelihood', 'dropout', 'lr']
    """
    return [Setting(*found) for found in flags(settings_of(model))]


def switch(setting: Setting) -> bool:
    """Whether a setting is on or off."""
    return is_flag(setting.hint)


def words(model: str, data: str, out: str, minutes: float | None, chosen: Mapping[str, Any] = {}, more: str = "") -> tuple[str, ...]:
    """The command that a form stands for.

    Args:
        chosen: flag → value of the form; more: further flags, as they would be typed.

    Raises:
        InputError: what cannot be taken apart, or no folder.

    >>> " ".join(words("pixelcnn", "digits", "runs/a", 1, {"layers": 4, "channels": 32}, "--seed 1"))
    'pofx train pixelcnn digits --out runs/a --minutes 1 --layers 4 --seed 1'
    """
    if not out.strip():
        raise InputError("Name a run folder, e.g. runs/first.")
    try:
        own = [word for setting in settings(model) for word in setting.words(chosen.get(setting.flag))]
        typed = shlex.split(more)
    except ValueError as error:
        raise InputError(f"The settings cannot be taken apart ({error}): a quotation mark is missing.") from None
    budget = [] if not minutes else ["--minutes", f"{minutes:g}"]
    return (*TRAIN, model, data.strip() or "digits", "--out", out.strip(), *budget, *own, *typed)


def folder(command: Sequence[str]) -> Path:
    """The run folder that a command names.

    Raises:
        InputError: it is no `pofx train … --out RUN`.
    """
    names = [command[i + 1] for i, word in enumerate(command[:-1]) if word in ("--out", "-o")]
    if tuple(command[:2]) != TRAIN or not names:
        raise InputError("Only this can be started here: pofx train MODEL DATA --out RUN --minutes 1")
    return Path(names[-1]).expanduser()


def log_of(out: str | Path) -> Path:
    """Where a training into `out` writes what it says: beside the folder, which must be empty when training begins."""
    out = Path(out)
    return out.with_name(out.name + ".log")


def logged(out: str | Path) -> tuple[str, ...] | None:
    """The command with which a run was last trained on this page; None where it was not."""
    try:
        lines = log_of(out).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    typed = [line.removeprefix(MARK) for line in lines if line.startswith(MARK + "pofx train ")]
    return tuple(shlex.split(typed[-1])) if typed else None


@dataclass
class Training:
    """One child.

    Attributes:
        command: as it would be typed; out: its run folder.
        process, guard: the child, and what ends it with the studio.
        start: byte of the log from which on it speaks.
        began, asked: by the clock `time.monotonic`; how often it was asked to stop.
    """

    command: tuple[str, ...]
    out: Path
    process: subprocess.Popen[bytes]
    guard: subprocess.Popen[bytes]
    start: int
    began: float = field(default_factory=time.monotonic)
    asked: int = 0

    @property
    def running(self) -> bool:
        if self.process.poll() is None:
            return True
        if self.guard.poll() is None:  # its group may be somebody else's from now on
            self.guard.kill()
            self.guard.wait()
            assert self.guard.stdin is not None
            self.guard.stdin.close()
        return False

    @property
    def state(self) -> str:
        """running, stopping, done, stopped or failed."""
        if self.running:
            return "stopping" if self.asked else "running"
        code = self.process.returncode
        return "done" if code == 0 else "stopped" if self.asked or code in (130, 143) else "failed"

    @property
    def lines(self) -> list[str]:
        """The last lines of its log."""
        try:
            with open(log_of(self.out), "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self.start, size - TAIL))
                text = file.read().decode(errors="replace")
        except OSError:
            return []
        return [line for line in text.splitlines() if line.strip() not in ("", str(self.out)) and not line.startswith(MARK)]

    @property
    def said(self) -> str:
        """What it said last; of one that failed its error, one to three lines."""
        lines = [line for line in self.lines if line != "pofx train: interrupted."]
        if self.state != "failed":
            return lines[-1] if lines else "Starting: torch loads, and the data is read."
        first = [i for i, line in enumerate(lines) if line.startswith("pofx")]
        return "\n".join(lines[first[-1] :] if first else lines[-3:]) or f"It ended with code {self.process.returncode} and said nothing."

    def stop(self) -> None:
        """Ask it to end: it writes a checkpoint first. Asked again, it ends at once."""
        if self.running:
            self.process.send_signal(signal.SIGTERM if self.asked else signal.SIGINT)
            self.asked += 1


class Trainings:
    """Those that were started, newest last."""

    def __init__(self) -> None:
        self._all: dict[str, Training] = {}
        self._lock = threading.Lock()

    def start(self, command: Sequence[str]) -> Training:
        """Run a command, or go on with it where its run folder is there.

        Raises:
            InputError: it is no training; one into the same folder runs; the place cannot be written to.
        """
        out = folder(command)
        with self._lock:
            before = self._all.pop(str(out), None)
            if before is not None and before.running:
                self._all[str(out)] = before
                raise InputError(f"A training into {out} is running. Stop it first, or name another folder.")
            try:
                out.parent.mkdir(parents=True, exist_ok=True)
                log = open(log_of(out), "ab")  # noqa: SIM115  closed below, once the child has it
            except OSError as error:
                raise InputError(f"{log_of(out)} cannot be written: {error.strerror}. Name another folder.") from None
            with log:
                made = self._run(tuple(command), out, log)
            self._all[str(out)] = made
            return made

    def _run(self, command: tuple[str, ...], out: Path, log: IO[bytes]) -> Training:
        log.write(f"{MARK}{shlex.join(command)}\n".encode())
        log.flush()
        start = log.tell()  # before there is a child, whose words move the place that both have in the file
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        guard = subprocess.Popen(
            ["/bin/sh", "-c", GUARD, str(process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return Training(command, out, process, guard, start)

    def of(self, out: str | Path) -> Training | None:
        return self._all.get(str(out))

    @property
    def names(self) -> list[str]:
        """Their run folders, newest first."""
        return list(reversed(self._all))

    @property
    def newest(self) -> Training | None:
        return next(reversed(self._all.values()), None)

    @property
    def running(self) -> bool:
        return any(training.running for training in self._all.values())


# The same in Python ---------------------------------------------------------------------------------------------------------------


def python(model: str, data: str, out: str, minutes: float | None, chosen: Mapping[str, Any] = {}, more: str = "") -> str:
    """The program that a form stands for.

    >>> print(python("pixelcnn", "digits", "runs/a", 1, {"layers": 4, "given": "label"}).split("model = ")[1].splitlines()[0])
    pofx.models.PixelCNN(data.space, given=Label(classes=data.classes), layers=4)
    """
    from pofx import catalog
    from pofx.signatures import frozen_dataclasses

    imports, arguments = [], []
    for setting in settings_of(model):
        inner = {name.partition(".")[2]: value for name, value in chosen.items() if name.startswith(setting.name + ".")}
        value = chosen.get(setting.name)
        own = Setting(setting.name, setting.hint, setting.default, setting.help)
        if not own.words(value) and not any(value not in (None, "") for value in inner.values()):
            continue
        choice = setting.choices.get(str(value if value not in (None, "") else setting.default))
        if choice is None:
            arguments.append(f"{setting.name}={_literal(value)}")
            continue
        name, fields = choice
        known = {f.name: f for f in fields}
        typed = {
            key: _literal(item)
            for key, item in inner.items()
            if key in known and Setting(key, known[key].hint, known[key].default, "").words(item)
        }
        if name in ("Label", "PartialLabel"):
            typed = {"classes": "data.classes"} | typed
        if name == "Top":
            typed = {"rows": "data.space.height // 2"} | typed
        imports.append(f"from {frozen_dataclasses()[name].source.module} import {name}")
        arguments.append(f"{setting.name}={name}({', '.join(f'{key}={text}' for key, text in typed.items())})")
    if any(setting.name == "classes" for setting in settings_of(model)) and not any(a.startswith("classes=") for a in arguments):
        arguments.insert(0, "classes=data.classes")
    lines = ["import torch", "", "import pofx", *imports, "", f"data = pofx.load_data({data.strip()!r})"]
    lines += [
        "torch.manual_seed(0)  # of the first weights",
        f"model = pofx.models.{catalog.entries()[model].class_name}({', '.join(['data.space', *arguments])})",
    ]
    lines += [f"# further flags, to be given as arguments: {more.strip()}"] if more.strip() else []
    return "\n".join([*lines, f"pofx.train(model, data, out={out.strip()!r}" + (f", minutes={minutes:g})" if minutes else ")")])


def _literal(value: Any) -> str:
    """What was typed, as Python: numbers, several of them, a run, or a name."""
    text = str(value).strip()
    if isinstance(value, bool | int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    parts = text.replace(",", " ").split()
    if parts and all(_is_number(part) for part in parts):
        return parts[0] if len(parts) == 1 else f"({', '.join(parts)})"
    if text == "none":
        return "None"
    return f"pofx.load({text!r})" if (Path(text) / "model.json").is_file() else repr(text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
