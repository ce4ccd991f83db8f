"""Which latent carries which factor of `shapes`, with the mutual information gap over seeds, and p(x|z) with z observed beside the VAEs.

    python benchmarks/shapes_mig.py --out results/shapes-mig.json [--steps 1000] [--seeds 3] [--threads 1] [--folder runs/latents/shapes]

VAEs of two weights of the KL term, and one decoder that is told the factors; each trains for the same steps of 64 images. Re-running goes on where
it stopped.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch
from _record import machine, write

import pofx
from pofx.workflows.factors import STEPS, study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--folder", type=Path, default=Path("runs/latents/shapes"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    began, data = time.perf_counter(), pofx.load_data("shapes")
    found = study(options.folder, seeds=range(options.seeds), steps=options.steps, data=data).to_json()
    for beta, mig in found["mig"].items():
        print(f"beta {beta}: MIG {mig['mean']:.3f}, {mig['least']:.3f} … {mig['most']:.3f} over {options.seeds} seeds", flush=True)
    where = {**machine(options.threads), "load": os.getloadavg()[0]}
    found |= {"fingerprint": data.fingerprint, "seconds": round(time.perf_counter() - began, 1)} | where
    write(options.out, found)


if __name__ == "__main__":
    main()
