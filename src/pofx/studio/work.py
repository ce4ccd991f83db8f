"""Long work behind a handler that streams how far it is: in a thread, one computation at a time, and letting others in between its pieces."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

from pofx.errors import RunError
from pofx.studio.shelf import Shelf

T = TypeVar("T")
EVERY = 0.3  # seconds between reports


class Work(Generic[T]):
    """`for at in work: …`, then `work.result`.

    Args:
        task: what is to be done; it is given a `Progress` and calls it between its pieces.
        stop: set to end it at its next piece; it is set where nobody waits for the result any more.

    Raises:
        RunError: it was stopped.
    """

    def __init__(self, shelf: Shelf, task: Callable[[Callable[[int, int], None]], T], stop: threading.Event | None = None) -> None:
        self.shelf, self.task, self.stop = shelf, task, stop or threading.Event()
        self.at = (0, 0)
        self._future: Future[T] | None = None

    def _progress(self, done: int, total: int) -> None:
        self.at = (done, total)
        if self.stop.is_set():
            raise RunError(f"Stopped after {done:,} of {total:,}.")
        self.shelf.give_way()

    def _run(self) -> T:
        with self.shelf.computing():
            return self.task(self._progress)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """How far it has come, a few times a second, as (done, total): first (0, 0), where nothing is known yet."""
        pool = ThreadPoolExecutor(1, thread_name_prefix="work")
        self._future = pool.submit(self._run)
        pool.shutdown(wait=False)
        try:
            yield 0, 0
            while wait([self._future], EVERY).not_done:
                yield self.at
        finally:  # also where the page is gone, or Stop was pressed
            if not self._future.done():
                self.stop.set()
        self._future.result()

    @property
    def result(self) -> T:
        assert self._future is not None
        return self._future.result()


def how_far(what: str, at: tuple[int, int]) -> str:
    """A line for a person: "scoring 300 of 1,000"."""
    return f"{what} {at[0]:,} of {at[1]:,}" if at[1] else f"{what} …"
