"""Batch and optimizer of the VAE by what they bring in the same minutes: the bound on validation images after `minutes` of one thread.

    python benchmarks/vae_defaults.py --out results/vae-defaults.json [--trials mlp …]

The defaults of `models/variational/vae.py` (`BATCHES`, and AdamW for an mlp) come from here. Precision is "auto". One seed: differences of less than a
nat in a hundred are luck. A trial that is in the file is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from _record import machine, tell, write

import pofx
from pofx.errors import RunError
from pofx.models import VAE
from pofx.training.logger import read_csv

SETTINGS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": 200, "layers": 2, "latents": 50},
    "convolutional": {"latents": 50},
    "residual": {"latents": 50},
}


@dataclass(frozen=True)
class Trial:
    network: str
    data: str
    optimizer: str
    batch: int
    lr: float
    minutes: float


TRIALS = [
    *(Trial("mlp", "mnist:dynamic", "Muon", batch, 3e-3, 2.5) for batch in (64, 256, 512)),
    *(Trial("mlp", "mnist:dynamic", "AdamW", batch, 3e-3, 2.5) for batch in (64, 256)),
    Trial("mlp", "mnist:dynamic", "AdamW", 256, 1e-3, 2.5),
    *(Trial("mlp", "ir-solar", name, 128, lr, 2) for name, lr in (("Muon", 3e-3), ("AdamW", 1e-3), ("AdamW", 3e-3))),
    *(Trial("mlp", "fashion-mnist", name, 256, lr, 2) for name, lr in (("Muon", 3e-3), ("AdamW", 1e-3), ("AdamW", 3e-3))),
    Trial("mlp", "fashion-mnist", "Muon", 64, 3e-3, 2),
    *(Trial("convolutional", "fashion-mnist", "Muon", batch, 3e-3, 3) for batch in (64, 128, 256)),
    *(Trial("residual", "fashion-mnist", "Muon", batch, 3e-3, 3) for batch in (64, 128)),
]


def measured(trial: Trial) -> dict[str, Any]:
    data = pofx.load_data(trial.data)
    torch.manual_seed(0)
    model = VAE(data.space, network=trial.network, **SETTINGS[trial.network])  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        options = {"batch_size": trial.batch, "optimizer": trial.optimizer, "lr": trial.lr, "minutes": trial.minutes}
        try:
            pofx.train(model, data, out=run, threads=1, quiet=True, **options)
            outcome = "trained"
        except RunError:
            outcome = "diverged"
        last = [row for row in read_csv(run / "metrics.csv") if row.get("valid_nats")][-1]
    found = {"outcome": outcome, "steps": int(last["step"]), "valid_nats": round(float(last["valid_nats"]), 3)}
    return asdict(trial) | found | {"load": os.getloadavg()[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", nargs="*", default=list(SETTINGS), help="networks")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(options.out.read_text())["rows"] if options.out and options.out.is_file() else []
    for trial in TRIALS:
        if trial.network in options.trials and not any(asdict(trial).items() <= row.items() for row in rows):
            rows.append(measured(trial))
            tell(rows[-1])
            write(options.out, machine(1) | {"rows": rows})


if __name__ == "__main__":
    main()
