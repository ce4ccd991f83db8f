"""The queue: batches, company, deaths and bounds; on workers that are a few lines of Python."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest

from pofx.errors import InputError, RunError
from pofx.serve import pool as module
from pofx.serve.pool import LIVES, Busy, Died, Pool, Settings

BATCH = 10


class Fake:
    """A worker that doubles numbers. `batches`: what each was sent; `fatal`: it dies of this number; `hold`: it waits before it answers."""

    batches: ClassVar[list[list[int]]] = []
    fatal: ClassVar[set[int]] = set()
    mortal: int = 0  # batches after which it dies, as often as that
    hold = threading.Event()
    started = 0

    def __init__(self, number: int, settings: Settings) -> None:
        Fake.started += 1
        self.gone = self.knows = False
        self.process = self
        self.connection = self
        self.pair = __import__("socket").socketpair()

    def fileno(self) -> int:
        return self.pair[0].fileno()

    def kill(self) -> None:
        self.gone = True
        Fake.hold.set()

    def end(self) -> None:
        for end in self.pair:
            end.close()

    def ask(self, head: Any, arrays: Any = None) -> Any:
        if not head:
            return {"about": {"batch": BATCH, "takes": {}, "cannot": {}}}, {}
        values = arrays["x"][:, 0].tolist()
        Fake.batches.append(values)
        Fake.hold.wait(10)
        if self.gone or Fake.fatal & set(values):
            raise Died
        if Fake.mortal:
            Fake.mortal -= 1
            raise Died
        answers = [{"error": ["InputError", "odd"]} if head["options"].get("refuse") else {"facts": {"job": head["do"]}}] * len(
            head["sizes"]
        )
        return {"answers": answers}, {} if head["options"].get("refuse") else {"twice": 2 * arrays["x"][:, 0].astype(int)}


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Fake]]:
    Fake.batches, Fake.fatal, Fake.mortal, Fake.started = [], set(), 0, 0
    Fake.hold.set()
    monkeypatch.setattr(module, "Worker", Fake)
    yield Fake
    Fake.hold.set()


def numbers(*values: int) -> dict[str, Any]:
    return {"x": np.array(values, np.uint8)[:, None]}


def played(play: Any, **settings: Any) -> Any:
    async def whole() -> Any:
        pool = Pool(Settings("run", calibrate=False, **settings))
        pool.deaths = []  # type: ignore[attr-defined]
        pool.count = lambda name, amount: pool.deaths.append((name, amount))  # type: ignore[attr-defined]
        await pool.start()
        try:
            return await play(pool)
        finally:
            await pool.stop()

    return asyncio.run(whole())


async def score(pool: Pool, *values: int, **options: Any) -> list[int]:
    rows, _ = await pool.ask("score", options, numbers(*values), len(values), together=True)
    return rows["twice"].tolist()


def test_requests_that_come_together_are_one_batch_and_each_gets_its_own():
    async def play(pool: Pool) -> Any:
        return await asyncio.gather(*(score(pool, k, k + 1) for k in range(4)))

    assert played(play, window=0.2) == [[2 * k, 2 * k + 2] for k in range(4)]
    assert Fake.batches == [[0, 1, 1, 2, 2, 3, 3, 4]]


def test_a_large_request_is_cut_and_a_small_one_rides_along():
    async def play(pool: Pool) -> Any:
        return await asyncio.gather(score(pool, *range(25)), score(pool, 100, 101, 102))

    assert played(play, window=0.0) == [[2 * k for k in range(25)], [200, 202, 204]]
    assert [len(batch) for batch in Fake.batches] == [10, 10, 8]
    assert Fake.batches[2] == [20, 21, 22, 23, 24, 100, 101, 102]


def test_a_lone_request_waits_no_longer_than_the_window():
    async def play(pool: Pool) -> float:
        begun = time.perf_counter()
        await score(pool, 1)
        return time.perf_counter() - begun

    assert 0.05 <= played(play, window=0.05) < 2


def test_company_is_waited_for_while_it_comes():
    async def play(pool: Pool) -> None:
        Fake.hold.clear()
        slow = asyncio.create_task(score(pool, 0))
        await asyncio.sleep(2.0)  # a batch takes two seconds
        Fake.hold.set()
        await slow
        tasks = []
        for k in range(1, 30):
            tasks.append(asyncio.create_task(score(pool, k) if k > 4 else score(pool, 200 + k)))
            await asyncio.sleep(0.03 if k > 4 else 0.01)
            if k == 4:
                await asyncio.gather(*tasks)  # nobody comes any more: a window later they go
        await asyncio.gather(*tasks)

    played(play, window=0.15)
    assert Fake.batches[:3] == [[0], [201, 202, 203, 204], [*range(5, 15)]]


def test_other_options_and_other_jobs_are_other_batches():
    async def play(pool: Pool) -> Any:
        return await asyncio.gather(score(pool, 1, seed=0), score(pool, 2, seed=1), score(pool, 3, seed=0))

    assert played(play, window=0.05) == [[2], [4], [6]]
    assert sorted(Fake.batches) == [[1, 3], [2]]


def test_one_that_is_alone_by_nature_is_alone():
    async def play(pool: Pool) -> Any:
        one = pool.ask("complete", {}, numbers(1), 1, together=False)
        return await asyncio.gather(one, pool.ask("complete", {}, numbers(2), 1, together=False))

    assert [rows["twice"].tolist() for rows, _ in played(play)] == [[2], [4]]
    assert Fake.batches == [[1], [2]]


def test_a_full_queue_says_when_to_come_back_and_what_was_taken_in_is_done():
    async def play(pool: Pool) -> Any:
        Fake.hold.clear()
        taken = [asyncio.create_task(score(pool, *range(BATCH)))]
        while not Fake.batches:
            await asyncio.sleep(0.01)
        taken += [asyncio.create_task(score(pool, *range(5))) for _ in range(4)]
        await asyncio.sleep(0.05)
        with pytest.raises(Busy) as found:
            await score(pool, 1)
        assert found.value.seconds >= 1
        assert "20 images are waiting" in str(found.value)
        more = asyncio.create_task(pool.ask("score", {}, numbers(7), 1, together=True, admitted=True))  # goes on with what was taken in
        await asyncio.sleep(0)
        Fake.hold.set()
        return [len(values) for values in await asyncio.gather(*taken)], (await more)[0]["twice"].tolist()

    assert played(play, queue=20) == ([10, 5, 5, 5, 5], [14])


def test_what_a_dead_worker_held_is_answered_by_the_next():
    async def play(pool: Pool) -> Any:
        Fake.mortal = 2
        found = await asyncio.gather(*(score(pool, k) for k in range(30)))
        return found, pool.deaths, pool.waiting  # type: ignore[attr-defined]

    found, told, waiting = played(play, window=0.05)
    assert found == [[2 * k] for k in range(30)]
    assert Fake.started == 3
    assert [amount for name, amount in told if name == "deaths"] == [1, 1]
    assert waiting == 0


def test_several_workers_share_the_queue_and_one_that_dies_leaves_it_to_the_others():
    async def play(pool: Pool) -> Any:
        Fake.mortal = 1
        return await asyncio.gather(*(score(pool, *range(k, k + 8)) for k in range(20)))

    assert played(play, workers=3) == [[2 * j for j in range(k, k + 8)] for k in range(20)]
    assert Fake.started == 4


def test_a_request_that_kills_every_worker_is_given_up_and_takes_no_other_with_it():
    async def play(pool: Pool) -> Any:
        Fake.fatal = {13}
        return await asyncio.gather(*(score(pool, k) for k in (11, 12, 13, 14)), return_exceptions=True)

    found = played(play, window=0.05)
    assert [found[k] for k in (0, 1, 3)] == [[22], [24], [28]]
    assert isinstance(found[2], RunError) and f"{LIVES} workers ended" in str(found[2])
    assert Fake.started == LIVES + 1


def test_one_that_takes_too_long_is_let_go_and_its_worker_replaced():
    async def play(pool: Pool) -> Any:
        Fake.hold.clear()
        with pytest.raises(TimeoutError):
            await score(pool, 1)
        with contextlib.suppress(TimeoutError):
            await score(pool, 2)  # queued behind one whom nobody waits for; that worker is killed, and the next answers
        return await score(pool, 3)

    assert played(play, timeout=0.2) == [6]
    assert Fake.started == 2


def test_a_refusal_is_the_error_of_the_task():
    async def play(pool: Pool) -> Any:
        return await asyncio.gather(score(pool, 1, refuse=True), score(pool, 2), return_exceptions=True)

    found = played(play, window=0.05)
    assert isinstance(found[0], InputError) and str(found[0]) == "odd"
    assert found[1] == [4]


def test_who_gives_up_waiting_is_not_worked_for():
    async def play(pool: Pool) -> Any:
        Fake.hold.clear()
        first = asyncio.create_task(score(pool, 1))
        while not Fake.batches:
            await asyncio.sleep(0.01)
        second, third = asyncio.create_task(score(pool, 2, seed=1)), asyncio.create_task(score(pool, 3, seed=2))
        await asyncio.sleep(0.01)
        second.cancel()
        await asyncio.sleep(0.01)
        Fake.hold.set()
        return await first, await third, pool.waiting

    assert played(play) == ([2], [6], 0)
    assert Fake.batches == [[1], [3]]
