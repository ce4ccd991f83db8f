"""A bounded queue and the worker processes that empty it.

    ask → queue of spans (images start … stop−1 of a request) → batches of at most B images → a worker → answers

An idle worker takes the head of the queue, waits for company as long as some keeps coming (a batch costs the same with one image as full), and fills its
batch with spans of the same job and the same options, cutting the last one where it must. A request of many images is so spread over batches, and small
ones ride along.

Requests are pure. What a worker holds when it dies is put back to the head of the queue, and a new worker is started; a request that has seen `LIVES`
workers die is given up, and from the second on it travels alone, so that it takes no others with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import math
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pofx.errors import CapabilityError, InputError, PofxError, RunError
from pofx.serve.wire import NONE, receive, send

Array = NDArray[Any]
LIVES = 5
ERRORS: dict[str, type[PofxError]] = {"InputError": InputError, "CapabilityError": CapabilityError, "RunError": RunError}


class Busy(Exception):
    """The queue is full; `seconds` until there should be room."""

    def __init__(self, waiting: int, seconds: int) -> None:
        super().__init__(f"{waiting} images are waiting, and no more are taken. Try again in {seconds} s.")
        self.seconds = seconds


class Died(Exception):
    """A worker ended."""


@dataclass(frozen=True)
class Settings:
    """What a pool is started with.

    Attributes:
        run, device: as the command line takes them; workers, threads: of each, None for torch's own number.
        alpha, guarantee, pooled: of the alarm and the reject; calibrate: whether there are any.
        queue: images that may wait; window: seconds without company after which an idle worker waits no more; timeout: seconds that a request may take.
    """

    run: str
    device: str = "auto"
    workers: int = 1
    threads: int | None = None
    alpha: float = 0.05
    guarantee: str = "marginal"
    pooled: bool = False
    calibrate: bool = True
    queue: int = 2000
    window: float = 0.005
    timeout: float = 60.0


@dataclass(eq=False)
class Work:
    """A request: its job, its images, and what has been found of it."""

    job: str
    options: Mapping[str, Any]
    arrays: Mapping[str, Array]
    n: int
    together: bool
    done: asyncio.Future[tuple[dict[str, Array], dict[str, Any]]]
    since: float
    deaths: int = 0
    found: list[tuple[int, dict[str, Array]]] = field(default_factory=list)

    @functools.cached_property
    def key(self) -> str:
        forms = [(name, array.shape[1:], array.dtype.str) for name, array in self.arrays.items()]
        return json.dumps([self.job, self.options, forms], sort_keys=True)

    def settle(self, start: int, rows: dict[str, Array], facts: dict[str, Any]) -> None:
        if self.done.done():  # given up meanwhile
            return
        self.found.append((start, rows))
        if self.together:
            have = sum(len(next(iter(part.values()))) for _, part in self.found)
            if have < self.n:
                return
            parts = [part for _, part in sorted(self.found, key=lambda one: one[0])]
            rows = parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        self.done.set_result((rows, facts))

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


@dataclass(frozen=True)
class Span:
    """Images start … stop−1 of a request."""

    work: Work
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


class Worker:
    """One process, and our end of its socket."""

    def __init__(self, number: int, settings: Settings) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            told = {
                "run": settings.run,
                "device": settings.device,
                "number": number,
                "threads": settings.threads,
                "alpha": settings.alpha,
                "guarantee": settings.guarantee,
                "pooled": settings.pooled,
            }
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pofx.serve.worker", str(theirs.fileno()), json.dumps(told)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # stdout is for the answer of the command
                start_new_session=True,
            )
        self.connection = Connection(ours.detach())
        self.knows = False  # has been given the calibration
        self.gone = False

    def ask(self, head: Mapping[str, Any], arrays: Mapping[str, Array] = NONE) -> tuple[dict[str, Any], dict[str, Array]]:
        """Send and wait, in a thread.

        Raises:
            Died: the process ended.
            PofxError: it says so.
        """
        try:
            if head:
                send(self.connection, head, arrays)
            reply, rows = receive(self.connection)
        except (EOFError, OSError) as error:
            self.gone = True
            raise Died from error
        if "error" in reply:
            name, message = reply["error"]
            raise ERRORS[name](message)
        return reply, rows

    def tell(self, head: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        try:
            send(self.connection, head, arrays)
        except OSError as error:
            self.gone = True
            raise Died from error

    def end(self) -> None:
        """Let it go: it ends when its socket closes; one that works on is killed first. Waits for it."""
        self.connection.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Pool:
    """Workers, the queue in front of them, and what they were calibrated to.

    Attributes:
        alive: workers that answer; about: what the first of them said of its model.
        waiting: images in the queue.
        calibration: "no", "running" or "done"; notes: what it remarked.
        count: told of what happens, for metrics: `count(name, amount)`.
    """

    def __init__(self, settings: Settings, count: Callable[[str, float], None] = lambda name, amount: None) -> None:
        self.settings = settings
        self.count = count
        self.alive: set[Worker] = set()
        self.about: dict[str, Any] = {}
        self.waiting = 0
        self.calibration = "no"
        self.why: dict[str, str] = {}
        self.notes: list[str] = []
        self._made: dict[str, Array] = {}
        self._queue: deque[Span] = deque()
        self._tasks: list[asyncio.Task[None]] = []
        self._rate = 0.0  # images a second, of late
        self._seconds = 0.0  # of a batch, of late
        self._arrived = 0.0  # when the last request came

    async def start(self) -> dict[str, Any]:
        """Start the workers; returns when the first of them answers, with what it says of its model.

        Raises:
            PofxError: the run cannot be loaded.
        """
        if self._tasks:
            return self.about
        self._changed = asyncio.Event()
        self._threads = ThreadPoolExecutor(self.settings.workers + 1, thread_name_prefix="pofx-worker")
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks = [asyncio.create_task(self._drive(number)) for number in range(self.settings.workers)]
        try:
            await self._first
        except BaseException:
            await self.stop()
            raise
        if self.settings.calibrate:
            self.calibration = "running"
            self._tasks.append(asyncio.create_task(self._calibrate()))
        return self.about

    async def stop(self) -> None:
        """End the workers. What is still queued fails; whoever wants it finished waits for it first."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for span in self._queue:
            span.work.fail(RunError("The service stops."))
        self._queue.clear()
        self._threads.shutdown()

    async def ask(
        self, job: str, options: Mapping[str, Any], arrays: Mapping[str, Array], n: int, *, together: bool, admitted: bool = False
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Rows and facts of a job on n images.

        Args:
            together: whether others may be in the same batch.
            admitted: part of what was taken in already, which the bound does not turn away.

        Raises:
            Busy: the queue is full.
            TimeoutError: it took too long.
            PofxError: the job was refused, or was given up.
        """
        if not admitted and self.waiting >= self.settings.queue:
            self.count("turned_away", 1)
            raise Busy(self.waiting, self.seconds_left())
        loop = asyncio.get_running_loop()
        work = Work(job, options, arrays, n, together, loop.create_future(), time.monotonic())
        self._arrived = work.since
        self._queue.append(Span(work, 0, n))
        self.waiting += n
        self._changed.set()
        try:
            async with asyncio.timeout(self.settings.timeout):
                return await work.done
        finally:
            work.done.cancel()  # where it is done this changes nothing; else nobody waits any more

    def seconds_left(self) -> int:
        """Until what waits now should be done."""
        return max(1, min(600, math.ceil(self.waiting / self._rate))) if self._rate else 1

    # Workers ------------------------------------------------------------------------------------------------------------------

    async def _drive(self, number: int) -> None:
        """Keep worker `number` alive and busy."""
        pause = 0.5
        while True:
            worker, loaded = Worker(number, self.settings), False
            try:
                reply, _ = await self._in_thread(worker, worker.ask, {})
                loaded = True
                self.about = self.about or offered(reply["about"], self.settings)
                if not self._first.done():
                    self._first.set_result(None)
                self.alive.add(worker)
                pause = 0.5
                await self._serve(worker)
            except PofxError as error:  # it could not load the run
                if not self._first.done():
                    self._first.set_exception(error)
                    return
            except Died:
                self.count("deaths", 1)
                if not self._first.done():
                    self._first.set_exception(RunError("A worker ended before it had loaded the run; what it said stands above."))
                    return
            finally:
                self.alive.discard(worker)
                await asyncio.shield(asyncio.to_thread(worker.end))
            if not loaded:
                await asyncio.sleep(pause)
                pause = min(30.0, 2 * pause)

    async def _serve(self, worker: Worker) -> None:
        loop, descriptor = asyncio.get_running_loop(), worker.connection.fileno()

        def gone() -> None:  # it speaks only when asked: this is its end
            worker.gone = True
            loop.remove_reader(descriptor)
            self._changed.set()

        while True:
            loop.add_reader(descriptor, gone)
            try:
                spans = await self._next(worker)
            finally:
                loop.remove_reader(descriptor)
            begun = time.monotonic()
            try:
                await self._exchange(worker, spans)
            except Died:
                self._put_back(spans)
                raise
            n = sum(span.size for span in spans)
            seconds = max(time.monotonic() - begun, 1e-6)
            rate = n / seconds * max(1, len(self.alive))
            self._rate, self._seconds = _of_late(self._rate, rate), _of_late(self._seconds, seconds)
            self.count("images", n)
            self.count("batch", n)

    async def _next(self, worker: Worker) -> list[Span]:
        """The next batch, when there is one."""
        while True:
            if worker.gone:
                raise Died
            while self._queue and self._queue[0].work.done.done():
                self.waiting -= self._queue.popleft().size
            self._changed.clear()
            if not self._queue:
                await self._changed.wait()
                continue
            head = self._queue[0].work
            patience = max(self.settings.window, self._seconds / 2)  # more than that is not gained by a fuller batch
            left = min(self._arrived + self.settings.window, head.since + patience) - time.monotonic()
            if left > 0 and head.together and self.waiting < self.about["batch"]:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._changed.wait()
                continue
            return self._take(head)

    def _take(self, head: Work) -> list[Span]:
        """A batch: the head of the queue, and what may go with it."""
        most, size, taken, left = self.about["batch"], 0, [], deque[Span]()
        while self._queue and (size < most or not taken):
            span = self._queue.popleft()
            work = span.work
            if work.done.done():
                self.waiting -= span.size
            elif work is head or (head.together and work.together and not head.deaths and not work.deaths and work.key == head.key):
                if work.together and span.size > most - size:
                    self._queue.appendleft(Span(work, span.start + most - size, span.stop))
                    span = Span(work, span.start, span.start + most - size)
                taken.append(span)
                size += span.size
                if not head.together:
                    break
            else:
                left.append(span)
        self._queue.extendleft(reversed(left))
        self.waiting -= size
        if self._queue:
            self._changed.set()  # for other workers
        return taken

    def _put_back(self, spans: list[Span]) -> None:
        """To the head of the queue, in their order."""
        for work in {id(span.work): span.work for span in spans}.values():
            work.deaths += 1
            if work.deaths >= LIVES:
                work.fail(RunError(f"{LIVES} workers ended while they worked on this request; it is given up."))
        again = [span for span in spans if not span.work.done.done()]
        self.count("again", sum(span.size for span in again))
        self._queue.extendleft(reversed(again))
        self.waiting += sum(span.size for span in again)
        self._changed.set()

    async def _exchange(self, worker: Worker, spans: list[Span]) -> None:
        """Let a worker answer a batch, and hand the answers out."""
        first = spans[0].work
        head = {"do": first.job, "options": first.options, "sizes": [span.size for span in spans]}

        def ask() -> tuple[dict[str, Any], dict[str, Array]]:
            if self.calibration == "done" and not worker.knows:
                worker.tell({"do": "take", "why": self.why}, self._made)
                worker.knows = True
            if not first.together:
                return worker.ask(head, first.arrays)
            parts = {name: [span.work.arrays[name][span.start : span.stop] for span in spans] for name in first.arrays}
            return worker.ask(head, {name: np.concatenate(arrays) for name, arrays in parts.items()})

        reply, rows = await self._in_thread(worker, ask, limit=2 * self.settings.timeout)
        at = 0
        for span, answer in zip(spans, reply["answers"], strict=True):
            if "error" in answer:
                name, message = answer["error"]
                span.work.fail(ERRORS[name](message))
                continue
            part = rows if not first.together else {name: array[at : at + span.size] for name, array in rows.items()}
            span.work.settle(span.start, part, answer["facts"])
            at += span.size

    async def _in_thread(self, worker: Worker, call: Callable[..., Any], *arguments: Any, limit: float | None = None) -> Any:
        """A call that waits for a worker. One that takes longer than `limit`, when nobody waits for its answer any more, ends with the worker;
        so does one that is cancelled."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)
        try:
            done, _ = await asyncio.wait({future}, timeout=limit)
        except asyncio.CancelledError:
            worker.process.kill()
            await asyncio.wait({future})
            raise
        if not done:
            worker.process.kill()
        return await future

    async def _calibrate(self) -> None:
        """By a process of its own, so that the workers answer meanwhile; it ends when it has told what it found."""
        for _ in range(2):
            worker = Worker(0, self.settings)
            try:
                await self._in_thread(worker, worker.ask, {})
                reply, self._made = await self._in_thread(worker, worker.ask, {"do": "calibrate"})
                self.why, self.notes = reply["why"], reply["notes"]
            except PofxError as error:
                self.why = dict.fromkeys(("outliers", "classify"), str(error))
            except Died:
                self.why = dict.fromkeys(("outliers", "classify"), "The process that calibrates ended before it was done.")
                continue
            finally:
                await asyncio.shield(asyncio.to_thread(worker.end))
            break
        self.calibration = "done"
        self.count("calibrated", 1)


def offered(about: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """What a worker says of its model, less the alarm where there is no calibration."""
    if settings.calibrate:
        return about
    reason = "This service was started without calibration, and has no alarm."
    takes = {job: options for job, options in about["takes"].items() if job != "outliers"}
    return {**about, "takes": takes, "cannot": {**about["cannot"], "outliers": reason}}


def _of_late(before: float, now: float) -> float:
    """A mean that forgets; 0 is nothing yet."""
    return 0.8 * before + 0.2 * now if before else now


def default_threads(workers: int) -> int | None:
    """Threads of each worker: torch's own choice for one, an equal share of the cores for several."""
    return None if workers == 1 else max(1, len(os.sched_getaffinity(0)) // workers)
