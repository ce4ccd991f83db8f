"""Are sampled futures of an autoregressive model worth more than forecasts that cost nothing? CRPS on real series, in their own units.

    python benchmarks/forecast.py [--out results/forecast.json] [--steps 300] [--sets ECG200 …]

A PixelCNN++ learns p(series) of each set; the first half of each test series (or what `KEEP` says) is known, the rest is forecast by 100 draws
(`pofx.tasks.forecast`). One setting, made by hand so that a training takes minutes, serves all sets. Nothing here reads test series before they are
forecast: the scale is fitted to what is not test, the season is found in train.
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
from pofx.models import PixelCNNpp
from pofx.tasks.forecast import DRAWS, forecast

# set → window of a long one, values that are known
SETS: dict[str, tuple[str | None, int]] = {
    "ECG200": (None, 48),
    "ItalyPowerDemand": (None, 12),
    "SyntheticControl": (None, 30),
    "UCRAnomaly135_InternalBleeding16": ("1x256", 200),
}
SETTINGS: dict[str, Any] = {"channels": 24, "blocks": 1, "components": 5, "dropout": 0.2}
BATCH, AVERAGE = 16, 1000  # images over which weights are averaged: a training this short must not average its beginning


def measure(name: str, steps: int, limit: int, threads: int, folder: Path, picture: Path | None) -> dict[str, Any]:
    size, keep = SETS[name]
    data = pofx.load_data(f"timeseries:{name}", size=size)
    torch.manual_seed(0)
    begun = time.perf_counter()
    model = PixelCNNpp(data.space, **SETTINGS)
    run = pofx.train(
        model, data, out=folder / name, steps=steps, batch_size=BATCH, average=AVERAGE, threads=threads, precision="32", quiet=True
    )
    minutes = (time.perf_counter() - begun) / 60
    found = forecast(run.model, data.test, keep, train=data.train, scale=data.scale, limit=limit)
    if picture is not None:
        found.picture().save(picture)
    told = {key: value for key, value in found.to_json().items() if key not in ("quantiles", "ids", "out", "note")}
    assert data.scale is not None
    return {
        "data": data.heading,
        "fingerprint": data.fingerprint,
        "scale": data.scale.to_json(),
        "train": len(data.train),
        "minutes": round(minutes, 2),
        "valid_nats": run.metrics.get("valid_nats"),
    } | told


def main() -> None:
    parser = argparse.ArgumentParser(description="CRPS of sampled futures beside forecasts that cost nothing")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--picture", type=Path, help="of the first set")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--limit", type=int, default=100, help="test series of a set")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.sets:
            picture = options.picture if name == options.sets[0] else None
            rows.append(measure(name, options.steps, options.limit, options.threads, Path(folder), picture))
            tell(rows[-1])
            facts = {
                "pofx": pofx.__version__,
                **machine(options.threads),
                "model": {"name": "pixelcnn-pp"} | SETTINGS,
                "steps": options.steps,
                "batch_size": BATCH,
                "average": AVERAGE,
                "draws": DRAWS,
            }
            write(options.out, facts | {"rows": rows})


if __name__ == "__main__":
    main()
