"""The process that holds the model: `python -m pofx.serve.worker FD SETTINGS`, started by `pool.py` and by nobody else.

It reads a batch, answers it, and reads the next; it ends when the front does. A request that its model refuses is answered; anything else that goes
wrong ends the process, and the front starts another one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pofx.errors import PofxError
from pofx.serve.wire import receive, send

Arrays = dict[str, NDArray[Any]]


def main(descriptor: int, settings: dict[str, Any]) -> None:
    # Ctrl-C and a supervisor's SIGTERM reach the whole group: the front finishes what it took in, and then closes our socket.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    connection = Connection(descriptor)
    try:
        work(connection, settings)
    except (EOFError, OSError):
        return  # the front is gone


def work(connection: Connection, settings: dict[str, Any]) -> None:
    import torch

    from pofx.serve.jobs import Served

    threads = settings.pop("threads")
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        served = Served.load(**settings)
    except PofxError as error:
        send(connection, {"error": told(error)})
        return
    send(connection, {"about": served.about() | {"threads": torch.get_num_threads()}})
    while True:
        head, arrays = receive(connection)
        match head["do"]:
            case "calibrate":
                os.nice(5)  # the workers answer meanwhile
                try:
                    made, why, notes = served.calibrate()
                    send(connection, {"why": why, "notes": notes}, made)
                except PofxError as error:
                    send(connection, {"error": told(error)})
            case "take":
                served.take(arrays, head["why"])
            case job:
                reply, rows = answer(served, job, head["options"], head["sizes"], arrays)
                send(connection, reply, rows)


def told(error: PofxError) -> list[str]:
    return [type(error).__name__, str(error)]


def answer(served: Any, job: str, options: Mapping[str, Any], sizes: list[int], arrays: Arrays) -> tuple[dict[str, Any], Arrays]:
    """One batch: `sizes` are the images of each request in it. Where all of them together are refused, each is tried by itself.

    >>> answer(None, "score", {}, [], {})
    ({'answers': []}, {})
    """
    from pofx.serve.jobs import JOBS

    if not sizes:
        return {"answers": []}, {}
    try:
        found = JOBS[job].run(served, arrays, **options)
    except PofxError as error:
        if len(sizes) == 1:
            return {"answers": [{"error": told(error)}]}, {}
    else:
        return {"answers": [{"facts": dict(found.facts)}] * len(sizes)}, dict(found.rows)
    answers: list[Any] = []
    parts: list[Arrays] = []
    for stop, size in zip(np.cumsum(sizes).tolist(), sizes, strict=True):
        one, rows = answer(served, job, options, [size], {name: array[stop - size : stop] for name, array in arrays.items()})
        answers += one["answers"]
        parts += [rows] if rows else []
    return {"answers": answers}, {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
