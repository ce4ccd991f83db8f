"""Tiny runs, and an app whose worker is a thread of this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from pofx.serve.front import Service, make_app
from pofx.serve.jobs import Served
from pofx.serve.payload import Limits
from pofx.serve.pool import ERRORS, Pool, Settings, offered
from pofx.serve.worker import answer
from pofx.space import ImageSpace
from pofx.workflows.loading import run_info

collect_ignore = ["hooks.py"]  # of schemathesis


@pytest.fixture(scope="session")
def run(tiny: Callable[[str], Path]) -> Callable[[str], str]:
    """The folder of a tiny run, as a person would type it."""
    return lambda name: str(tiny(name))


class Here(Pool):
    """A pool without processes: what a worker does is done in a thread."""

    def __init__(self, served: Served, settings: Settings) -> None:
        super().__init__(settings)
        self.served = served

    async def start(self) -> dict[str, Any]:
        self.alive = {self}  # type: ignore[assignment]
        self.about = offered(self.served.about(), self.settings)
        if self.settings.calibrate:
            made, self.why, self.notes = self.served.calibrate()
            self.served.take(made, self.why)
            self.calibration = "done"
        return self.about

    async def stop(self) -> None:
        pass

    async def ask(self, job: str, options: Mapping[str, Any], arrays: Any, n: int, *, together: bool, admitted: bool = False) -> Any:
        reply, rows = await asyncio.to_thread(
            answer, self.served, job, options, [n], {name: array.copy() for name, array in arrays.items()}
        )
        told = reply["answers"][0]
        if "error" in told:
            raise ERRORS[told["error"][0]](told["error"][1])
        return rows, told["facts"]


@pytest.fixture(scope="session")
def client(run: Callable[[str], str]) -> Iterator[Callable[..., TestClient]]:
    """A client of the app of a tiny run; `token`, `calibrate` and limits as they are set."""
    made: dict[str, TestClient] = {}

    def make(name: str, *, token: str | None = None, calibrate: bool = False, pooled: bool = True, limits: Limits = Limits()) -> TestClient:
        key = f"{name} {token} {calibrate} {pooled} {limits}"
        if key not in made:
            folder = run(name)
            settings = Settings(folder, calibrate=calibrate, pooled=pooled)
            pool = Here(Served.load(folder, "cpu", pooled=pooled), settings)
            info = run_info(folder)
            service = Service(folder, info, ImageSpace(**info.meta["space"]), limits, token)
            app = make_app(service, pool, offered(pool.served.about(), settings))
            made[key] = TestClient(app, base_url="http://localhost", raise_server_exceptions=False).__enter__()
        return made[key]

    yield make
    for one in made.values():
        one.__exit__(None, None, None)


@pytest.fixture(scope="session")
def folder(run: Callable[[str], str]) -> Path:
    return Path(run("pixelcnn"))
