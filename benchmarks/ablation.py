"""What each improvement of the PixelCNN buys at equal minutes: gate, short-cuts, logistic mixture against softmax, averaging, dropout,
dilations and Muon.

    python benchmarks/ablation.py --minutes 3 [--out results/ablation-pixelcnn.json] [--threads 2] [--folder runs/ablation]

Each variant differs from the first of its group in one thing (an optimizer comes with its learning rate, a net without gates has more
channels, so that it is about as large), sees the same data in the same order, and trains for the same minutes;
a slower one makes fewer steps. Re-running goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from _record import machine, tell, write

import pofx
from pofx.metrics.mean import Mean
from pofx.tasks.score import score

DATA = "mnist"
PP: dict[str, Any] = {"channels": 24, "blocks": 1, "stages": 2}
# name → (model, its settings, settings of `train`, what it is compared with)
VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, Any], str | None]] = {
    "pixelcnn++": ("PixelCNNpp", PP, {}, None),
    "without short-cuts": ("PixelCNNpp", PP | {"shortcuts": False}, {}, "pixelcnn++"),
    "softmax in place of the mixture": ("PixelCNNpp", PP | {"likelihood": "categorical"}, {}, "pixelcnn++"),
    "with dropout 0.5": ("PixelCNNpp", PP | {"dropout": 0.5}, {}, "pixelcnn++"),
    "without averaging": ("PixelCNNpp", PP, {"average": 0.0}, "pixelcnn++"),
    "gated, softmax": ("GatedPixelCNN", {"layers": 6, "channels": 24}, {}, None),
    "with dilations 1, 2, 4, 8": ("GatedPixelCNN", {"layers": 6, "channels": 24, "dilations": 4}, {}, "gated, softmax"),
    "AdamW at 3e-3 in place of Muon": (
        "GatedPixelCNN",
        {"layers": 6, "channels": 24, "lr": 3e-3},
        {"optimizer": "AdamW"},
        "gated, softmax",
    ),
    "not gated, softmax": ("PixelCNN", {"layers": 6, "channels": 32}, {}, "gated, softmax"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--folder", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--images", type=int, default=2000, help="of the test split that are scored")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = pofx.load_data(DATA)
    pick = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))[: options.images]
    x, _ = data.test.take(pick)
    rows, bits = [], {}
    for name, (cls, settings, training, against) in VARIANTS.items():
        torch.manual_seed(0)
        model = getattr(pofx.models, cls)(data.space, **settings)
        folder = options.folder / name.replace(" ", "-")
        pofx.train(model, data, out=folder, minutes=options.minutes, batch_size=16, threads=options.threads, quiet=True, **training)
        bits[name] = score(model, x).score.bits_per_dim
        metrics = (folder / "metrics.csv").read_text(encoding="utf-8").splitlines()
        last = dict(zip(metrics[0].split(","), metrics[-1].split(","), strict=False))
        rows.append(
            {
                "variant": name,
                "compared_with": against,
                "model": cls,
                "settings": settings | training,
                "parameters": sum(p.numel() for p in model.parameters()),
                "images_seen": int(float(last["images"])),
                "minutes": float(last["minutes"]),
                "test_bits_per_dim": Mean.of(bits[name]).to_json(),
                "worse_by": None if against is None else Mean.of(bits[name] - bits[against]).to_json(),  # image by image
                "load": os.getloadavg()[0],
            }
        )
        tell(rows[-1])
    result = {
        "data": data.heading,
        "test_images": len(x),
        "minutes_each": options.minutes,
        **machine(options.threads),
        "rows": rows,
    }
    write(options.out, result)


if __name__ == "__main__":
    main()
