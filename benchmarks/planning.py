"""What planning with a learned simulator earns, beside random actions and the real plant: examples/plan.py, stored.

python benchmarks/planning.py --out results/planning.json [--threads 1]
"""

from __future__ import annotations

import argparse
import runpy
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _record import machine, write

from pofx.metrics.mean import Mean

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "plan.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="of training the simulator")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    since = time.perf_counter()
    plan: dict[str, Any] = runpy.run_path(str(EXAMPLE))
    with tempfile.TemporaryDirectory() as folder:
        found = plan["main"](str(Path(folder) / "run"), steps=options.steps)
    rows = {name: {"reward": Mean.of(each).to_json(), "seeds": each.tolist()} for name, each in found.items()}
    settings = {name.lower(): plan[name] for name in ("LEVELS", "ACTIONS", "HORIZON", "PLANS", "STEPS", "SEEDS")}
    facts = {"unit": "mean reward a step, minus the distance of the level from its target", "settings": settings, "trained": options.steps}
    write(options.out, {**facts, "minutes": (time.perf_counter() - since) / 60, **machine(options.threads), "rows": rows})


if __name__ == "__main__":
    main()
