"""Long work behind a handler that streams how far it is: in a thread, one computation at a time, and letting others in between its pieces."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from pofx.studio.shelf import Shelf

T = TypeVar("T")
EVERY = 0.3  # seconds between reports


class _Left(BaseException):
    """Nobody waits for the result any more."""


class Work(Generic[T]):
    """`for done, total in work: …`, then `work.result`.

    Args:
        task: what is to be done; it is given a `Progress` and calls it between its pieces.
    """

    def __init__(self, shelf: Shelf, task: Callable[[Callable[[int, int], None]], T]) -> None:
        self.shelf, self.task = shelf, task
        self.at = (0, 0)
        self._left = threading.Event()
        self._found: list[T] = []
        self._error: BaseException | None = None

    def _progress(self, done: int, total: int) -> None:
        if self._left.is_set():
            raise _Left
        self.at = (done, total)
        self.shelf.give_way()

    def _run(self) -> None:
        try:
            with self.shelf.computing():
                self._found.append(self.task(self._progress))
        except _Left:
            return
        except BaseException as error:  # noqa: BLE001  raised again in the handler's thread
            self._error = error

    def __iter__(self) -> Iterator[tuple[int, int]]:
        thread = threading.Thread(target=self._run, name="work", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                yield self.at
                thread.join(EVERY)
        finally:  # also where the page is gone, or Stop was pressed
            self._left.set()
        if self._error is not None:
            raise self._error

    @property
    def result(self) -> T:
        return self._found[0]


def how_far(what: str, at: tuple[Any, Any]) -> str:
    """A line for a person: "scoring 300 of 1,000"."""
    return f"{what} {at[0]:,} of {at[1]:,}" if at[1] else f"{what} …"
