"""Few labels on MNIST: what features learned without labels save, over the number of labels, and over the number of unlabelled images.

    python benchmarks/few_labels.py probe RUN [RUN …] --data mnist --out results/few-labels.json
    python benchmarks/few_labels.py unlabelled --data mnist --steps 2000 --out results/few-labels-unlabelled.json
    python benchmarks/few_labels.py runs RUN [RUN …] --out results/few-labels-runs.json

`probe`: curves of `workflows/few_labels.py` with the features of each run (RUN@LAYER for another layer). `runs`: test accuracy of finished classifiers,
with the command that trained them read from their folders.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from _record import machine, write

from pofx.data import load_data
from pofx.tasks.evaluate import evaluate
from pofx.training import load_model, read_run
from pofx.workflows.few_labels import few_labels, unlabelled


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("probe", "unlabelled", "runs"))
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--sizes", type=int, nargs="*")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200, help="of a classifier from scratch (0: none), or of each encoder")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    found: list[Any] = []
    if a.what == "runs":
        for run in a.runs:
            info = read_run(run)
            data = load_data(**info.data["spec"])
            test = evaluate(load_model(run), data.test).main
            assert test.accuracy is not None
            kept = ("arguments", "steps", "minutes", "images_per_second", "precision", "threads")
            training = {key: info.training[key] for key in kept if key in info.training}
            training["arguments"] = {k: v for k, v in training["arguments"].items() if k not in ("space",)}
            found.append(
                {"run": Path(run).name, "data": data.heading, "accuracy": test.accuracy.to_json(), "n": test.n, "training": training}
            )
    else:
        data = load_data(a.data)
        if a.what == "probe":
            for i, name in enumerate(a.runs):
                run, _, layer = name.partition("@")
                others = () if i else ("pixels", "scratch") if a.steps else ("pixels",)  # those do not depend on the run
                methods = ("features", *others)
                more: dict[str, Any] = {"methods": methods, "cluster": True, "say": say}
                made = few_labels(
                    load_model(run),
                    data,
                    sizes=a.sizes,
                    draws=a.draws,
                    layer=(layer and f"@{layer}") or None,
                    steps=max(1, a.steps),
                    **more,
                )
                found.append({"run": Path(run).name, **made.to_json()})
        else:
            with tempfile.TemporaryDirectory() as folder:
                made = unlabelled("gan", data, folder, sizes=a.sizes, draws=a.draws, steps=a.steps, say=say)
            found.append(made.to_json())
    facts = {"what": a.what, **machine(a.threads), "load": os.getloadavg()[0], "rows": found}
    write(a.out, facts)
    say(str(a.out))


if __name__ == "__main__":
    main()
