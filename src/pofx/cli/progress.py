"""Progress of long work on stderr: a bar with a rate and the time left on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

EVERY = 5.0  # seconds between plain lines


def duration(seconds: float) -> str:
    """
    >>> [duration(s) for s in (4, 75, 3700)]
    ['4 s', '1 min 15 s', '1 h 1 min']
    """
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


@contextlib.contextmanager
def progress(what: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """A function of (done, total) to hand to a task; None where nothing shall be shown."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        yield from _bar(what)
    else:
        yield from _lines(what)


class _Rate:
    """Of this process alone, since it was first told: an earlier one may have begun the work."""

    def __init__(self) -> None:
        self.first: tuple[int, float] | None = None

    def __call__(self, done: int) -> float:
        """Of `done` until now, a second; 0 as long as nothing is."""
        if self.first is None:
            self.first = done, time.monotonic()
        return (done - self.first[0]) / max(time.monotonic() - self.first[1], 1e-9)


def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(show_speed=True),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    rate = _Rate()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, rate="")

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, rate=f"{rate(done):.3g}/s")

        yield report


def _lines(what: str) -> Iterator[Callable[[int, int], None]]:
    last, rate = time.monotonic(), _Rate()

    def report(done: int, total: int) -> None:
        nonlocal last
        now, speed = time.monotonic(), rate(done)
        if now - last < EVERY or not speed:
            return
        last = now
        print(
            f"{what}: {done}/{total} ({100 * done / max(total, 1):.0f} %), {speed:.3g}/s, {duration((total - done) / speed)} left",
            file=sys.stderr,
            flush=True,
        )

    yield report
