"""Bulk work on a Ray cluster: `ray.data` hands units to a pool of actors; each has opened the run and the images once, and answers with parts.

What travels is small: a `Job` there, and parts back. Runs and images are read where they are needed, so that every node must see them under the same
name (a shared file system, an object store, the Hub). A node that is lost is no matter: Ray gives its units to others, and a part is the same whoever made
it. This process alone writes, so that none is written twice.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pofx.errors import CapabilityError, InputError, PofxError, RunError
from pofx.workflows._parts import Part
from pofx.workflows.bulk import Bench, Coding, ImageJob, Job, one_by_one

TOGETHER = 4  # units that an actor is given at a time, so that it reads one while its model has another
ROUNDS = 4  # such portions for each actor, at least, so that none waits long for the last
PASSED_ON = ("POFX_DATA", "POFX_CACHE", "POFX_MEMORY_LIMIT", "OMP_WAIT_POLICY", "PYTHONPATH")
_ERRORS = {error.__name__: error for error in (InputError, CapabilityError, RunError)}


class Ray:
    """The actors of a cluster: a Ray that runs at `address` (`auto`, `HOST:6379`, `ray://HOST:10001`), else of one that is started here, and ends
    with this process.

    Raises:
        InputError: Ray is not installed; there is no cluster at that address.
    """

    def __init__(self, address: str | None = None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # all three are read when ray is imported
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what it will do anyway, and warns of
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise InputError("--engine ray needs Ray, which is not installed. Install it: pip install 'pofx[ray]'") from error
        self.ray: Any = ray
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        logging.getLogger("ray.data._internal.execution.resource_manager").setLevel(logging.WARNING)  # it says that no node has room
        if not ray.is_initialized():
            _knock(address or os.environ.get("RAY_ADDRESS"))
            known = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
            here: dict[str, Any] = {} if address or os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}
            try:
                ray.init(address=address, runtime_env={"env_vars": known}, log_to_driver=False, logging_level=logging.ERROR, **here)
            except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
                raise _absent(address or os.environ.get("RAY_ADDRESS"), error) from error

    def device(self, asked: str) -> str:
        """A GPU for each actor where the cluster has any, of "auto"; all nodes compute on the same kind."""
        return asked if asked != "auto" else "cuda" if self.ray.cluster_resources().get("GPU") else "cpu"

    def run(self, job: Job, bench: Bench, todo: Sequence[int], tell: Callable[[int], None]) -> Iterator[tuple[int, Part]]:
        """Units, as they come back; `tell` is not needed."""
        if not todo:
            return
        ray = self.ray
        resource = "GPU" if job.device.startswith("cuda") else "CPU"
        cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        each = max(1, min(job.threads, max(cores, default=1)))  # no node has room for more
        room = int(ray.cluster_resources().get("GPU", 1)) if resource == "GPU" else sum(n // each for n in cores)
        actors = max(1, min(room, len(todo)))
        together = max(1, min(TOGETHER, len(todo) // (actors * ROUNDS)))
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        portions = [{"units": list(todo[at : at + together])} for at in range(0, len(todo), together)]
        found = ray.data.from_items(portions, override_num_blocks=len(portions)).map_batches(
            Actor,
            fn_constructor_args=(_absolute(job), dict(bench.identity)),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
            num_cpus=each,
            num_gpus=1 if resource == "GPU" else None,
        )
        try:
            for row in found.iter_rows():
                if row["error"]:
                    kind, _, message = row["error"].partition(" ")
                    raise _ERRORS.get(kind, RunError)(message)
                yield int(row["index"]), Part.from_bytes(row["part"])
        except ray.exceptions.RayError as error:
            raise RunError(f"Ray could not finish: {_first_line(error)}. What is done is kept: the same command goes on.") from error


def _knock(address: str | None) -> None:
    """Raise InputError where nobody listens: Ray itself tries for minutes."""
    found = re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:(\d+)", address or "")
    if found is None:  # auto, local
        return
    try:
        socket.create_connection((found[1], int(found[2])), timeout=10).close()
    except OSError as error:
        raise _absent(address, error) from error


def _absent(address: str | None, error: Exception) -> InputError:
    return InputError(
        f"There is no Ray cluster at {address or 'this machine'}: {_first_line(error)}.\n"
        "Start one (ray start --head --port 6379, then --address HOST:6379), or leave out --address for one on this machine."
    )


class Actor:
    """A process of the cluster that has the job open."""

    def __init__(self, job: Job, identity: dict[str, Any]) -> None:
        torch.set_num_threads(job.threads)
        self.error = ""
        try:
            self.bench = job.open()
            apart = [name for name, value in identity.items() if self.bench.identity.get(name) != value]
            if apart:
                raise RunError(
                    f"A node of the cluster sees something else than this machine: {', '.join(apart)}. Run, images and pofx must be the same everywhere."
                )
        except PofxError as error:
            self.error = _told(error)

    def __call__(self, portion: dict[str, Any]) -> Iterator[dict[str, list[Any]]]:
        for units in portion["units"]:
            try:
                if self.error:
                    yield {"index": [-1], "part": [b""], "error": [self.error]}
                    return
                for index, part in one_by_one(self.bench, [int(k) for k in units]):
                    yield {"index": [index], "part": [part.to_bytes()], "error": [""]}
            except PofxError as error:  # as data: Ray would give it again to others, and then tell its own story of it
                yield {"index": [-1], "part": [b""], "error": [_told(error)]}


def _absolute(job: Job) -> Job:
    """The same job from another working folder."""
    from pofx.data import parse

    def place(text: str) -> str:
        file = parse(text.rpartition("#")[0] or text).file
        path = Path(file).expanduser()
        return text.replace(file, str(path.resolve()), 1) if path.exists() else text

    more: dict[str, Any] = {"data": place(job.data)} if isinstance(job, ImageJob) else {}
    if isinstance(job, Coding):
        more["images"] = tuple(map(place, job.images))
    run = Path(job.run).expanduser()
    return replace(job, run=str(run.resolve()) if run.exists() else job.run, **more)


def _told(error: PofxError) -> str:
    kind = next((name for name, cls in _ERRORS.items() if isinstance(error, cls)), "RunError")
    return f"{kind} {error}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
