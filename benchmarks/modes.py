"""Which games find every mode? Grids and rings of Gaussians that are known, learned by an MLP GAN; by seed, with the collapse of plain minimax beside.

    python benchmarks/modes.py [--out results/modes.json] [--runs runs/modes] [--picture docs/pictures/modes.png] [--seeds 3] [--times 2] [--quick]

The images are points of two pixels (`pofx.data.points`). `near` is the share of 10,000 samples (whole numbers, as the model gives them) within 3 SD of a
mode, `found` the modes with at least a quarter of their fair share; of the set's own points 98.9 % would be near but for rounding, which is in "real".
Steps are the generator's. Runs are kept in `--runs`: a command that was stopped goes on, and the picture is drawn from them. The file is written after
every run.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import torch
from _record import machine, tell, write
from torch import Tensor

import pofx
from pofx import catalog
from pofx.data.points import NAMES, SD, centres
from pofx.metrics.mode_coverage import ModeCoverage, mode_coverage
from pofx.models import GAN
from pofx.models.adversarial.losses import Loss, Minimax, Relativistic, WassersteinGP
from pofx.training import read_run

SAMPLES, BATCH, DRAWN = 10_000, 512, 2_000
STEPS = {"points-ring": 8_000, "points-grid": 20_000}
NET: dict[str, Any] = {"network": "mlp", "latents": 2, "hidden": 64, "layers": 8}
GAMES: dict[str, tuple[Loss, dict[str, Any]]] = {
    "minimax": (Minimax(), {"lr": 1e-3}),
    "wasserstein-gp": (WassersteinGP(penalty=0.1), {"lr": 1e-3, "critic_steps": 2}),
    "relativistic": (Relativistic(r1=0.003, r2=0.003, share=1.0), {"lr": 2e-3}),
}


def coverage(name: str, x: Tensor) -> dict[str, Any]:
    found: ModeCoverage = mode_coverage(x[:, 0, 0].double(), centres(name), SD)
    return {"near": round(found.near, 4), "found": found.found, "modes": found.modes, "kl": round(found.kl, 4)}


def play(name: str, game: str, steps: int, seed: int, threads: int, out: Path) -> tuple[dict[str, Any], Tensor]:
    """A row, and samples."""
    data, (loss, settings) = pofx.load_data(name), GAMES[game]
    torch.manual_seed(seed)
    model = GAN(data.space, loss=loss, **NET, **settings)
    every = model.objectives()[1].every
    run = pofx.train(model, data, out=out, steps=steps * every, batch_size=BATCH, seed=seed, threads=threads, precision="32", quiet=True)
    x = run.model.sample(SAMPLES)  # type: ignore[attr-defined]
    return coverage(name, x) | {"seed": seed, "steps": steps, "minutes": round(read_run(out).training["minutes"], 2)}, x


def picture(drawn: dict[tuple[str, str], Tensor], path: Path) -> None:
    """Samples of seed 0, set by set, beside real points."""
    from matplotlib.figure import Figure

    sets, games = list(dict.fromkeys(name for name, _ in drawn)), list(dict.fromkeys(game for _, game in drawn))
    figure = Figure(figsize=(2.6 * len(games), 2.7 * len(sets)), layout="constrained")
    for axes, (name, game) in zip(figure.subplots(len(sets), len(games), squeeze=False).flat, itertools.product(sets, games), strict=True):
        axes.scatter(*drawn[name, game][:DRAWN, 0, 0].T, s=2, linewidths=0, alpha=0.6)
        axes.set(xlim=(-8, 263), ylim=(-8, 263), xticks=[], yticks=[], aspect="equal", title=game)
    figure.savefig(path, dpi=110, facecolor="white", metadata={"Software": ""})


def main() -> None:
    parser = argparse.ArgumentParser(description="Which games find every mode?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/modes"))
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sets", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--games", nargs="+", choices=GAMES, default=list(GAMES))
    parser.add_argument("--times", type=float, default=1.0, help="so many times the steps")
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the steps, one seed")
    options = parser.parse_args()
    seeds = range(1 if options.quick else options.seeds)
    rows = [{"data": name, "loss": "real"} | coverage(name, pofx.load_data(name).train.x) for name in options.sets]
    drawn = {(name, "real"): pofx.load_data(name).train.x for name in options.sets}
    facts = {
        "pofx": pofx.__version__,
        **machine(options.threads),
        "precision": "float32",
        "batch": BATCH,
        "net": NET,
        "games": {game: catalog.arguments_to_json(loss) | settings for game, (loss, settings) in GAMES.items() if game in options.games},
    }
    every = [(seed, name, game) for seed in seeds for name in options.sets for game in options.games]  # a table of one seed is there first
    for seed, name, game in every:
        steps = round(STEPS[name] * (0.02 if options.quick else options.times))
        row, x = play(name, game, steps, seed, options.threads, options.runs / f"{name}-{game}-{steps}-{seed}")
        rows.append({"data": name, "loss": game} | row)
        drawn.setdefault((name, game), x)
        tell(rows[-1])
        write(options.out, facts | {"rows": rows})
    if options.picture is not None:
        picture(drawn, options.picture)


if __name__ == "__main__":
    main()
