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
    start = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, rate="")

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, rate=f"{done / max(time.monotonic() - start, 1e-9):.3g}/s")

        yield report


def _lines(what: str) -> Iterator[Callable[[int, int], None]]:
    start = last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < EVERY or not done:
            return
        last = now
        rate = done / (now - start)
        print(
            f"{what}: {done}/{total} ({100 * done / max(total, 1):.0f} %), {rate:.3g}/s, {duration((total - done) / rate)} left",
            file=sys.stderr,
            flush=True,
        )

    yield report
