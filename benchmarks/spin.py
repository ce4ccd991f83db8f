"""How long should a thread that waits for others spin? Images scored a second by all threads, alone on the machine and beside a second one of its kind.

    python benchmarks/spin.py results/weights/mnist-pixelcnn-pp results/weights/mnist-vae --out results/spin.json

Threads of OpenMP (GNU's, in torch's wheels for Linux) wait for each other between the pieces of each operation. `default` spins for milliseconds, `passive`
sleeps at once, a number is GOMP_SPINCOUNT. What the command line sets is in src/pofx/cli/__init__.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from _record import machine, rate, tell, write

from pofx.tasks.bulk import batch_size
from pofx.tasks.score import costs
from pofx.training import load_model

POLICIES: dict[str, dict[str, str]] = {
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    **{count: {"GOMP_SPINCOUNT": count} for count in ("1000", "3000", "10000")},
    "default": {},
}


def one(run: str, seconds: float) -> float:
    """Images a second, of this process alone."""
    model = load_model(run)
    x = torch.randint(0, model.space.levels, (batch_size(model.space), *model.space.shape), dtype=torch.uint8)
    return rate(lambda: costs(model, x), len(x), seconds)


def rates(run: str, seconds: float, policy: dict[str, str], processes: int) -> list[float]:
    """Of so many processes at the same time."""
    env = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")} | policy
    command = [sys.executable, __file__, run, "--seconds", str(seconds), "--one"]
    begun = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return [json.loads(process.communicate()[0])["rate"] for process in begun]


def main() -> None:
    parser = argparse.ArgumentParser(description="How long should a thread that waits spin?")
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.one:
        tell({"rate": one(flags.runs[0], flags.seconds)})
        return
    rows: list[dict[str, Any]] = []
    for run in flags.runs:
        for name, policy in POLICIES.items():
            (alone,), two = rates(run, flags.seconds, policy, 1), rates(run, flags.seconds, policy, 2)
            rows.append({"run": Path(run).name, "policy": name, "alone": round(alone, 1), "of_two": [round(each, 1) for each in two]})
            tell(rows[-1])
            write(flags.out, {**machine(torch.get_num_threads()), "seconds": flags.seconds, "rows": rows})


if __name__ == "__main__":
    main()
