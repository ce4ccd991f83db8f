"""Which game is stable? Loss × learning rate × normalisation of the critic × seed on MNIST at 16×16, each judged by its samples.

    python benchmarks/survival.py [--out results/survival.json] [--steps 1000] [--seeds 2] [--quick]

A run *survives* when its samples cover all ten classes, at least 4 % each. Beside that stands their Fréchet distance over that of real images, in the
features of the set's own classifier: so short a run ends far above 1. Steps are the generator's; nets are DCGAN's, small. What the literature forbids is
"refused". The file is written after every run, one seed of the whole grid after another, and what is in it is not run again: a stopped command goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _record import machine, tell, write

import pofx
from pofx import catalog
from pofx.errors import InputError, RunError
from pofx.models import GAN
from pofx.models.adversarial.losses import Loss, Minimax, NonSaturating, Relativistic, Wasserstein, WassersteinGP
from pofx.tasks._samples import Yardstick, yardstick
from pofx.tasks.bulk import subset
from pofx.workflows.features import features_run

LOSSES: dict[str, Loss] = {
    "minimax": Minimax(),
    "non-saturating": NonSaturating(),
    "wasserstein": Wasserstein(),
    "wasserstein-gp": WassersteinGP(),
    "relativistic": Relativistic(),
}
RATES = (2e-4, 1e-3, 5e-3)
NORMALISATIONS = ("batch", "layer", "none")
NET: dict[str, Any] = {"network": "dcgan", "channels": 16, "stages": 2, "latents": 32}
DRAW = 2000  # samples a run is judged by
FIXED = ("pofx", "data", "features", "steps_of_the_generator", "net", "losses")  # rows of other settings are not kept
ENOUGH = 0.04  # of the rarest class


def play(data: Any, judge: Yardstick, loss: Loss, steps: int, seed: int, threads: int, **settings: Any) -> dict[str, Any]:
    torch.manual_seed(seed)
    begun = time.perf_counter()
    try:
        model = GAN(data.space, loss=loss, **NET, **settings)
    except InputError:
        return {"outcome": "refused"}
    with tempfile.TemporaryDirectory() as folder:
        try:
            pofx.train(
                model, data, out=Path(folder) / "run", steps=steps * loss.steps, seed=seed, threads=threads, precision="32", quiet=True
            )
        except RunError:
            return {"outcome": "diverged", "seconds": round(time.perf_counter() - begun, 1)}
    found = judge.measure(model.sample(DRAW))
    assert found.real is not None and found.coverage is not None
    times = found.frechet.distance / found.real.frechet.distance
    return {
        "outcome": "survived" if found.coverage.least >= ENOUGH else "failed",
        "frechet_over_real": round(times, 2),
        "least_class_share": round(found.coverage.least, 4),
        "seconds": round(time.perf_counter() - begun, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Which game is stable?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="20 steps, one seed, one rate")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    steps, seeds, rates = (20, 1, RATES[1:2]) if options.quick else (options.steps, options.seeds, RATES)
    data = pofx.load_data("mnist", size=16)
    features = features_run(data)
    judge = yardstick(features.model, subset(data.test, 5000), data.train, DRAW, name=features.name)
    facts = {
        "pofx": pofx.__version__,
        **machine(options.threads),
        "precision": "float32",
        "data": data.heading,
        "features": features.name,
        "steps_of_the_generator": steps,
        "survives": f"every class has at least {ENOUGH:.0%} of {DRAW:,} samples",
        "net": NET,
        "losses": {name: catalog.arguments_to_json(loss) for name, loss in LOSSES.items()},
    }
    rows: list[dict[str, Any]] = []
    if options.out is not None and options.out.is_file():
        before = json.loads(options.out.read_text(encoding="utf-8"))
        rows = before["rows"] if {key: before[key] for key in FIXED} == {key: facts[key] for key in FIXED} else []
    done = {tuple(row[key] for key in ("loss", "lr", "normalisation", "seed")) for row in rows}
    for seed, (name, loss), lr, normalisation in itertools.product(range(seeds), LOSSES.items(), rates, NORMALISATIONS):
        if (name, lr, normalisation, seed) not in done:
            row = {"loss": name, "lr": lr, "normalisation": normalisation, "seed": seed}
            rows.append(row | play(data, judge, loss, steps, seed, options.threads, lr=lr, normalisation=normalisation))
            tell(rows[-1])
            write(options.out, facts | {"rows": rows})


if __name__ == "__main__":
    main()
