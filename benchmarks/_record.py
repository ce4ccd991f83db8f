"""What benchmarks share: the clock, the machine, and how numbers are written."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pofx.training.loop import hardware


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Median wall time after one call to warm up."""
    call()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def rate(call: Callable[[], object], n: int, seconds: float) -> float:
    """How many a second, of a call that does n, over so many seconds after one call to warm up."""
    call()
    done, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        call()
        done += n
    return done / (time.perf_counter() - begun)


def machine(threads: int) -> dict[str, Any]:
    """What the numbers were measured on."""
    return {"hardware": hardware(torch.device("cpu")), "threads": threads}


def tell(row: Mapping[str, Any]) -> None:
    """Show a row as soon as it is there."""
    print(json.dumps(row), flush=True)


def write(path: Path | None, found: Mapping[str, Any]) -> None:
    """JSON where a file was asked for."""
    if path is not None:
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
