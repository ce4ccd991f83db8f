"""What the upper half of an image says about the lower half: −log p(lower | upper) against −log p(lower), the same net and as many images of each.

    python benchmarks/completion.py --steps 1500 --out results/completion-fashion-mnist.json [--threads 1] [--folder runs/completion]

The first is a run with `given=Top(14)`: known rows cost nothing, and bits/dim are of the other 392 pixels. The second is the same net on the
lower halves alone. Both numbers are exact, of the whole test split; their difference is what the upper half tells. Re-running goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _record import machine, write

import pofx
from pofx.metrics.mean import Mean
from pofx.model import ExactLikelihood
from pofx.tasks.score import score

DATA, ROWS = "fashion-mnist", 14
SETTINGS: dict[str, Any] = {"layers": 8, "channels": 32, "dilations": 4, "dropout": 0.0, "lr": 0.003}
TRAINING: dict[str, Any] = {"batch_size": 16, "precision": "32"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500, help="of 16 images, of each")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--images", type=int, default=10_000, help="of the test split that are scored")
    parser.add_argument("--folder", type=Path, default=Path("runs/completion"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    whole = pofx.load_data(DATA)
    lower = lower_halves(whole, options.folder / f"{DATA}-rows-{ROWS}-on.npz")
    test = torch.arange(min(options.images, len(whole.test)))
    rows, bits = {}, {}
    for name, data, given in (("lower given upper", whole, pofx.Top(ROWS)), ("lower", lower, None)):
        torch.manual_seed(0)
        model = pofx.models.GatedPixelCNN(data.space, given=given, **SETTINGS)
        folder = options.folder / name.replace(" ", "-")
        run = pofx.train(model, data, out=folder, steps=options.steps, threads=options.threads, quiet=True, **TRAINING)
        assert isinstance(run.model, ExactLikelihood)
        found = score(run.model, data.test.take(test)[0]).score
        bits[name] = found.bits_per_dim
        rows[name] = {
            "parameters": sum(p.numel() for p in run.model.parameters()),
            "n": len(test),
            "kind": found.kind,
            "dims": found.dims,
            "nats": Mean.of(found.nats).to_json(),
            "bits_per_dim": Mean.of(found.bits_per_dim).to_json(),
        }
        print(f"{name}: {rows[name]['bits_per_dim']['mean']:.4f} bits/dim", flush=True)
    out = {
        "data": DATA,
        "fingerprint": whole.fingerprint,
        "rows_known": ROWS,
        "model": "GatedPixelCNN",
        "settings": SETTINGS | TRAINING,
        "steps": options.steps,
        **rows,
        "upper_tells_bits_per_dim": Mean.of(bits["lower"] - bits["lower given upper"]).to_json(),  # image by image
        **machine(options.threads),
        "load": os.getloadavg()[0],
    }
    write(options.out, out)


def lower_halves(data: pofx.Data, path: Path) -> pofx.Data:
    """The rows from ROWS on, as a set of its own with the same test images in the same order."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        train = torch.cat([data.train.x, data.valid.x, data.calib.x])
        np.savez(path, x_train=train[:, :, ROWS:].numpy(), x_test=data.test.x[:, :, ROWS:].numpy())
    return pofx.load_data(path)


if __name__ == "__main__":
    main()
