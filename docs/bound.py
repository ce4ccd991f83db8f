"""Make the pictures of docs/variational.md: the bound of one image taken apart, and the plane of rate and distortion with a sweep of β.

    python docs/bound.py [--runs runs/bound] [--threads 1]

Writes docs/pictures/{bound,rate_distortion}.png and results/rate-distortion-digits.json. What is in --runs is not trained again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

import pofx
from pofx.tasks.bound import aggregate
from pofx.training.loop import hardware
from pofx.workflows import _page as html
from pofx.workflows._runs import trained
from pofx.workflows.bound import bound
from pofx.workflows.rate_distortion import Point, plane, training_path

DOCS = Path(__file__).resolve().parent
BETAS = (0.25, 0.5, 1.0, 2.0, 4.0)
STEPS = 1500
INK = "#3a3f45"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=DOCS.parent / "runs" / "bound")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = pofx.load_data("digits")
    points, errors, paths = [], [], {}
    for beta in BETAS:
        name, run = f"β = {beta:g}", options.runs / f"beta{beta:g}"
        model = trained("vae", data, run, steps=STEPS, latents=16, network="mlp", beta=beta, lr=3e-3)
        found = aggregate(model, data.test)
        points.append(Point.of(name, found))
        errors.append(found.se)
        if beta == 1:
            paths[name] = training_path(run / "metrics.csv")
    with html.inked(INK):
        figure = plane(points, paths)
        figure.savefig(DOCS / "pictures" / "rate_distortion.png", dpi=110, facecolor="white", metadata={"Software": ""})
    rows = [
        {"beta": beta, "kl": p.kl, "reconstruction": p.distortion, "reconstruction_se": se, "elbo": p.elbo}
        for beta, p, se in zip(BETAS, points, errors, strict=True)
    ]
    found = {"data": data.heading, "fingerprint": data.fingerprint, "steps": STEPS, "n": len(data.test), "rows": rows}
    found |= {"threads": options.threads, "hardware": hardware(torch.device("cpu"))}
    (DOCS.parent / "results" / "rate-distortion-digits.json").write_text(
        json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    two = trained("vae", data, options.runs / "two", steps=STEPS, latents=2, network="mlp", hidden=64, lr=3e-3)
    bound(two, data.test.take(torch.tensor([3]))[0], out=DOCS / "pictures" / "bound.png")


if __name__ == "__main__":
    main()
