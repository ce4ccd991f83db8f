"""The batch of the plain DCGANs that our GANs are held against: their samples beside the valid part after some minutes, by images a step.

    python benchmarks/dcgan_batch.py --runs runs/dcgan-batch --out results/dcgan-batch.json [--batches 16 32 64 128] [--minutes 4]

Nets, settings and precision are those of the recipes, the seed is another. A run that is in --runs is not trained again, and is measured anew.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _record import machine, tell, write

import pofx
from pofx.model import Sampler
from pofx.tasks._samples import yardstick
from pofx.training import load_model, read_run
from pofx.workflows.features import features_run
from pofx.workflows.reproduce import load, load_recipe

DRAW = 2000  # samples a run is judged by


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="*", default=["mnist-dcgan", "fashion-mnist-dcgan"])
    parser.add_argument("--batches", nargs="*", type=int, default=[16, 32, 64, 128])
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name in a.recipes:
        recipe = load_recipe(name).seeded(a.seed)
        data = load(recipe)
        features = features_run(data)
        judge = yardstick(features.model, data.valid, data.train, DRAW, name=features.name)
        for batch in a.batches:
            run = a.runs / f"{name}-b{batch}"
            trial = replace(recipe, train={**recipe.train, "batch_size": batch, "minutes": a.minutes})
            pofx.train(trial.make(data), data, out=run, quiet=True, **{k: v for k, v in trial.train.items() if k != "lr"})
            model, training = load_model(run), read_run(run).training
            assert isinstance(model, Sampler)
            found = judge.measure(model.sample(DRAW, seed=0))
            assert found.coverage is not None
            row = {"recipe": name, "batch": batch, "minutes": round(training["minutes"], 2), "images": training["images"]}
            row |= {"precision": training["precision"], "frechet": round(found.frechet.distance, 3)}
            rows.append(row | {"least_class_share": round(found.coverage.least, 4)})
            tell(rows[-1])
            write(a.out, machine(1) | {"seed": a.seed, "n": DRAW, "split": "valid", "rows": rows})


if __name__ == "__main__":
    main()
