"""Which games find every mode? Grids and rings of Gaussians that are known, learned by an MLP GAN; by seed, with the collapse of plain minimax beside.

    python benchmarks/modes.py [--out results/modes.json] [--steps 10000] [--seeds 3] [--quick]

The images are points of two pixels (`pofx.data.points`). `near` is the share of 10,000 samples (whole numbers, as the model gives them) within 3 SD of a
mode, `found` the modes with at least a quarter of their fair share; of the set's own points 98.9 % would be near but for rounding, which is in "real".
Steps are the generator's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _record import machine, tell, write

import pofx
from pofx import catalog
from pofx.data.points import NAMES, SD, centres
from pofx.metrics.mode_coverage import ModeCoverage, mode_coverage
from pofx.models import GAN
from pofx.models.adversarial.losses import Loss, Minimax, Relativistic, WassersteinGP

SAMPLES, BATCH = 10_000, 256
NET: dict[str, Any] = {"network": "mlp", "latents": 2, "hidden": 256, "layers": 3, "lr": 1e-3}
GAMES: dict[str, Loss] = {
    "minimax": Minimax(),
    "wasserstein-gp": WassersteinGP(penalty=1.0),
    "relativistic": Relativistic(r1=0.003, r2=0.003),
}


def coverage(name: str, x: torch.Tensor) -> dict[str, Any]:
    found: ModeCoverage = mode_coverage(x[:, 0, 0].double(), centres(name), SD)
    return {"near": round(found.near, 4), "found": found.found, "modes": found.modes, "kl": round(found.kl, 4)}


def play(name: str, loss: Loss, steps: int, seed: int, threads: int) -> dict[str, Any]:
    data = pofx.load_data(name)
    torch.manual_seed(seed)
    model = GAN(data.space, loss=loss, **NET)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = pofx.train(
            model,
            data,
            out=Path(folder) / "run",
            steps=steps * loss.steps,
            batch_size=BATCH,
            seed=seed,
            threads=threads,
            precision="32",
            quiet=True,
        )
    found = coverage(name, run.model.sample(SAMPLES))  # type: ignore[attr-defined]
    return found | {"seed": seed, "minutes": round((time.perf_counter() - begun) / 60, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Which games find every mode?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sets", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the steps, one seed")
    options = parser.parse_args()
    steps, seeds = (options.steps // 50, 1) if options.quick else (options.steps, options.seeds)
    rows = []
    for name in options.sets:
        rows.append({"data": name, "loss": "real"} | coverage(name, pofx.load_data(name).train.x))
        for game, loss in GAMES.items():
            for seed in range(seeds):
                rows.append({"data": name, "loss": game} | play(name, loss, steps, seed, options.threads))
                tell(rows[-1])
    facts = {
        "pofx": pofx.__version__,
        **machine(options.threads),
        "precision": "float32",
        "steps_of_the_generator": steps,
        "batch": BATCH,
        "net": NET,
        "games": {game: catalog.arguments_to_json(loss) for game, loss in GAMES.items()},
    }
    write(options.out, facts | {"rows": rows})


if __name__ == "__main__":
    main()
