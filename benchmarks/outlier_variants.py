"""Other ways to make the default score of `pofx outliers`, beside the one that it is, on the same statistics of the same images.

    python benchmarks/outliers.py --pairs digits ir-solar fashion-mnist --epochs 20 …                # trains the models
    python benchmarks/outlier_variants.py --out results/outlier-variants.json [--pairs digits ir-solar fashion-mnist] [--runs runs/outliers]

    default          groups by themselves, and one statistic of each together (`tasks/_oddness.py`)
    groups alone, choices alone      one of its two halves

The others change one thing of the groups alone:

    alone: NAME      a statistic by itself, larger is odder
    residual only, distance only     one of the two statistics of training images
    raw distance     to the 2nd nearest training image in pixels, in the place of residual and distance after PCA; `both distances` has the two
    folded           what is odd only above (`Statistic.above`) counts as its median below it: one-sided
    logarithms       of squares and distances
    Student kernels  of 4 degrees of freedom in the place of normal ones
    one density      over all statistics: no groups
    oddest group     log Σ_g exp in the place of Σ_g
    half a voice     of the likelihood group
    training images  say what is normal of pixels, each against the others, in the place of the valid part

AUROC, the mean over kinds of outlier. `clothes-1`, `-5`, `-8` and `-9` are classes of clothes left out, as digits are; no choice was made by them.
Where `--runs` has no model of a pair yet, it is trained for `--minutes`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _record import machine, write
from outliers import Pair, folder_of, learn, left, mean, normal_images, quality
from torch import Tensor

import pofx
from pofx.metrics.nearest import nearest
from pofx.tasks._oddness import BANDWIDTHS, Density, fit
from pofx.tasks._reference import Reference
from pofx.tasks._statistics import STATISTICS, Known, Table, chosen, measure, pixel_vectors, refer
from pofx.tasks.bulk import Images, everything, subset
from pofx.training.runs import read_run

ROOT = Path(__file__).resolve().parents[1]
RAW, FREEDOM = "raw_distance", 4
PIXELS = ["pixels_residual", "pixels_distance"]
SQUARES = [*PIXELS, RAW, "squared_error", "max_squared_error", "latent_norm"]
Score = Callable[[Tensor], Tensor]
Fit = Callable[[Sequence[str], Tensor], Score]


def folded(names: Sequence[str], values: Tensor) -> Score:
    above, median = torch.tensor([name == RAW or STATISTICS[name].above for name in names]), values.median(0).values

    def fold(v: Tensor) -> Tensor:
        return torch.where(above & (v < median), median, v)

    density = Density.fit(names, fold(values))
    return lambda v: density(fold(v))


def logarithms(names: Sequence[str], values: Tensor) -> Score:
    squares = torch.tensor([name in SQUARES for name in names])

    def shrunk(v: Tensor) -> Tensor:
        return torch.where(squares, v.clamp(min=1e-9).log(), v)

    density = Density.fit(names, shrunk(values))
    return lambda v: density(shrunk(v))


def student(names: Sequence[str], values: Tensor) -> Score:
    normal = Density.fit(names, values)
    k, points = len(names), normal.points

    def log_density(apart: Tensor, h: float) -> Tensor:
        return torch.logsumexp(-(FREEDOM + k) / 2 * torch.log1p(apart.square() / (FREEDOM * h * h)), 1) - k * math.log(h)

    own = torch.cdist(points, points).fill_diagonal_(torch.inf)
    h = max(BANDWIDTHS, key=lambda h: float(log_density(own, h).mean()))
    costs = -log_density(own, h)
    center, spread = costs.mean(), costs.std()
    return lambda v: (-log_density(torch.cdist((v - normal.mean) @ normal.whiten, points), h) - center) / spread


def left_out(train: Tensor, reference: Reference) -> Tensor:
    """Residual and distance of training images `(n, 2)`: residuals by the components of the other four fifths, neighbours without the image."""
    residual, part = torch.empty(len(train), dtype=torch.double), torch.arange(len(train)) % 5
    for fold in range(5):
        other = Reference.fit(train[part != fold])
        residual[part == fold] = other.measure(train[part == fold])[:, 0] * other.rest / reference.rest
    distance = nearest(reference.codes, reference.codes, 3).distance[:, -1].square() / reference.variance.sum()
    return torch.stack([residual, distance], 1)


def variants(pair: Pair, seed: int, runs: Path, images: int, minutes: float) -> dict[str, Any]:
    data = pofx.load_data(pair.data, **pair.load)
    folder = folder_of(pair, seed, runs)
    if not folder.exists():
        learn(pair, data, folder, seed, minutes=minutes)
    model = pofx.load(folder)
    told = refer(model, data.train, Known())
    assert told.pixels is not None
    names = [*chosen(model, told), RAW]
    train = pixel_vectors(everything(subset(data.train, 5000))[0], data.space.levels)

    def table(some: Images) -> Tensor:
        raw = nearest(pixel_vectors(everything(some)[0], data.space.levels), train, 2).distance[:, -1:]
        return torch.cat([measure(model, some, names[:-1], told).values, raw.square()], 1)

    valid = table(subset(data.valid, images))
    inside = table(subset(normal_images(pair, data), images, seed=seed))
    outside = [table(subset(some, images, seed=seed)) for some in pair.outliers(data).values()]

    def told_by(v: Tensor) -> Table:
        return Table(tuple(names[:-1]), v[:, :-1], [])

    def auroc(score: Score) -> float:
        base = score(inside).numpy()
        return mean([quality(base, score(odd).numpy()) for odd in outside])["auroc"]

    def summed(
        fit: Fit = Density.fit, pixels: Sequence[str] = PIXELS, likelihood: float = 1, oddest: bool = False, normal: Tensor | None = None
    ) -> Score:
        groups: dict[str, list[str]] = {}
        for name in names[:-1]:
            if name not in PIXELS:
                groups.setdefault(STATISTICS[name].group, []).append(name)
        parts = []
        for group, of in {**groups, "pixels": list(pixels)}.items():
            at = [names.index(name) for name in of]
            parts.append(
                (likelihood if group == "likelihood" else 1.0, at, fit(of, valid[:, at] if normal is None or group != "pixels" else normal))
            )

        def score(v: Tensor) -> Tensor:
            each = torch.stack([weight * part(v[:, at]) for weight, at, part in parts])
            return each.logsumexp(0) if oddest else each.sum(0)

        return score

    whole = Density.fit(names[:-1], valid[:, :-1])
    default = fit(told_by(valid))
    found = {
        "default": lambda v: default(told_by(v)),
        "groups alone": summed(),
        "choices alone": lambda v: replace(default, groups=())(told_by(v)),
        "residual only": summed(pixels=PIXELS[:1]),
        "distance only": summed(pixels=PIXELS[1:]),
        "raw distance": summed(pixels=[RAW]),
        "both distances": summed(pixels=[PIXELS[1], RAW]),
        "folded": summed(folded),
        "logarithms": summed(logarithms),
        "Student kernels": summed(student),
        "one density": lambda v: whole(v[:, :-1]),
        "oddest group": summed(oddest=True),
        "half a voice": summed(likelihood=0.5),
        "training images": summed(normal=left_out(train, told.pixels)),
        **{f"alone: {name}": lambda v, k=k: v[:, k] for k, name in enumerate(names)},
    }
    row: dict[str, Any] = {"pair": pair.name, "seed": seed, "weights": pair.weights}
    row |= {} if pair.weights else {"steps": read_run(folder).training.get("steps")}
    return row | {"valid": len(valid), "auroc": {name: auroc(score) for name, score in found.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="*", default=["digits", "ir-solar", "fashion-mnist"], help="or the beginning of names")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--images", type=int, default=1000, help="of each part")
    parser.add_argument("--minutes", type=float, default=1.0, help="of training a model that is not there")
    parser.add_argument("--runs", type=Path, default=Path("runs/outliers"))
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "outlier-variants.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = json.loads(options.out.read_text())["rows"] if options.out.is_file() else []
    for seed, pair in left(rows, options):
        rows.append(variants(pair, seed, options.runs, options.images, options.minutes))
        print(pair.name, seed, {name: round(v, 4) for name, v in rows[-1]["auroc"].items()}, flush=True)
        write(options.out, {"rows": rows} | machine(1))


if __name__ == "__main__":
    main()
