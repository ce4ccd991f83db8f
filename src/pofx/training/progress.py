"""What a person sees while training, on stderr: a bar with rate, time left and loss; a plain line every few seconds where stderr is no terminal."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from contextlib import suppress

from pofx.model import ExactLikelihood, ImageModel, LowerBound

EVERY = 5.0  # seconds between plain lines


def kind_of(model: ImageModel) -> str | None:
    """What the nats of a model are: "exact", a "lower bound" on log p, or None where it has none."""
    return "exact" if isinstance(model, ExactLikelihood) else "lower bound" if isinstance(model, LowerBound) else None


def say(text: str, quiet: bool = False) -> None:
    """One line on stderr; a closed stderr is no reason to lose a run."""
    if not quiet:
        with suppress(BrokenPipeError, ValueError):
            sys.stderr.write(text + "\n")
            sys.stderr.flush()


def duration(seconds: float) -> str:
    """A length of time.

    >>> duration(75), duration(4000)
    ('1:15', '1:06:40')
    """
    minutes, s = divmod(round(max(seconds, 0)), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


class Report(ABC):
    """Told where training stands; shows it."""

    def __init__(self, title: str, batch: int) -> None:
        self.title, self.batch = title, batch
        self._from: tuple[int, float] | None = None

    def rate(self, step: int) -> float:
        """Steps per second since this process started stepping."""
        if self._from is None:
            self._from = (step, time.monotonic())
            return 0.0
        first, start = self._from
        return (step - first) / max(time.monotonic() - start, 1e-9)

    @abstractmethod
    def update(self, step: int, total: int, loss: str, left: float | None) -> None:
        """`step` of `total` are done; `left` is the number of seconds, where the clock decides."""

    @abstractmethod
    def say(self, text: str) -> None:
        """A line that stays."""

    @abstractmethod
    def close(self) -> None: ...

    def left(self, step: int, total: int, left: float | None) -> str:
        rate = self.rate(step)
        if left is None and not rate:
            return "?"
        return duration(left if left is not None else (total - step) / rate)


class Silent(Report):
    def update(self, step: int, total: int, loss: str, left: float | None) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Lines(Report):
    def __init__(self, title: str, batch: int) -> None:
        super().__init__(title, batch)
        self._next = time.monotonic() + EVERY

    def update(self, step: int, total: int, loss: str, left: float | None) -> None:
        rate = self.rate(step)
        if time.monotonic() >= self._next or step >= total:
            self._next = time.monotonic() + EVERY
            say(f"{self.title}: step {step}/{total} · {loss} · {rate * self.batch:.0f} images/s · {self.left(step, total, left)} left")

    def say(self, text: str) -> None:
        say(text)

    def close(self) -> None:
        """Nothing."""


class Bar(Report):
    def __init__(self, title: str, batch: int) -> None:
        super().__init__(title, batch)
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}")]
        self._bar = Progress(*columns, console=Console(stderr=True), refresh_per_second=4)
        self._task = self._bar.add_task(title, total=None, note="")
        self._bar.start()

    def update(self, step: int, total: int, loss: str, left: float | None) -> None:
        note = f"{loss} · {self.rate(step) * self.batch:.0f} images/s · {self.left(step, total, left)} left"
        self._bar.update(self._task, completed=step, total=total, note=note)

    def say(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        self._bar.stop()


def report(title: str, batch: int, *, quiet: bool) -> Report:
    if quiet:
        return Silent(title, batch)
    return (Bar if sys.stderr.isatty() else Lines)(title, batch)
