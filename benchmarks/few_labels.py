"""Few labels on MNIST: what features learned without labels save, over the number of labels, and over the number of unlabelled images.

    python benchmarks/few_labels.py probe RUN [RUN …] --data mnist --out results/few-labels.json
    python benchmarks/few_labels.py unlabelled --data mnist --steps 2000 --out results/few-labels-unlabelled.json
    python benchmarks/few_labels.py runs RUN [RUN …] --out results/few-labels-runs.json
    python benchmarks/few_labels.py picture results/few-labels.json --out docs/pictures/few-labels.png

`probe`: curves of `workflows/few_labels.py` with the features of each run (RUN@LAYER for another layer). A run of other images than DATA holds, such as
binarized ones, is probed on what it was trained on, and its row says so. What is done is written after each run, and the same command goes on from
there; training from scratch, the dear part, comes last. `picture`: the curves of `probe`, as a report draws them. `runs`: test accuracy of finished
classifiers, with the command that trained them read from their folders.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _record import machine, write

from pofx.data import Data, load_data
from pofx.tasks.evaluate import evaluate
from pofx.training import load_model, read_run
from pofx.workflows.few_labels import Efficiency, Point, few_labels, unlabelled
from pofx.workflows.few_labels import write as draw


def say(text: str) -> None:
    print(text, flush=True)


def probes(a: argparse.Namespace, data: Data, found: list[Any], keep: Callable[[], None]) -> None:
    """A row for each run that has none yet; then, in the first row, training from scratch, size by size."""
    for name in a.runs:
        if name in [row["asked"] for row in found]:
            continue
        run, _, layer = name.partition("@")
        model, since = load_model(run), time.perf_counter()
        methods = ("features",) if found else ("features", "pixels")  # pixels do not depend on the run
        images = data if data.space == model.space else load_data(**read_run(run).data["spec"])
        made = few_labels(
            model, images, sizes=a.sizes, draws=a.draws, layer=(layer and f"@{layer}") or None, methods=methods, cluster=True, say=say
        )
        took = round((time.perf_counter() - since) / 60, 2)
        found.append({"asked": name, "run": Path(run).name, "minutes": took, **made.to_json(), "steps": a.steps})
        keep()
    model = load_model(found[0]["asked"].partition("@")[0])
    curve = found[0]["curves"].setdefault("scratch", [])
    sizes = [point["at"] for point in found[0]["curves"]["pixels"]] if a.scratch_sizes is None else a.scratch_sizes
    for at in sizes if a.steps else ():
        if at not in [point["at"] for point in curve]:
            made = few_labels(model, data, sizes=[at], draws=a.scratch_draws or a.draws, methods=("scratch",), steps=a.steps, say=say)
            curve += made.to_json()["curves"]["scratch"]
            keep()


def curves(rows: list[Any]) -> Efficiency:
    """All curves of rows on one plane."""
    first, found = rows[0], {}
    for row in rows:
        more = "" if row["data"] == first["data"] else f", on {row['data']}"
        for name, points in row["curves"].items():
            named = f"{name} of {row['run']}{more}" if name == "features" else name
            found[named] = tuple(Point.from_json(point) for point in points)
    return Efficiency(found, "labels", first["data"], first["model"], first["layer"], first["dims"], first["test"], first["steps"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("probe", "unlabelled", "runs", "picture"))
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--sizes", type=int, nargs="*")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200, help="of a classifier from scratch (0: none), or of each encoder")
    parser.add_argument("--scratch-sizes", type=int, nargs="*", help="of --sizes, those that a classifier is trained from scratch for; all")
    parser.add_argument("--scratch-draws", type=int, help="fewer draws of those; as many")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    if a.what == "picture":
        draw(curves(json.loads(Path(a.runs[0]).read_text(encoding="utf-8"))["rows"]), a.out)
        return
    found: list[Any] = []
    asked = {"data": a.data, "sizes": a.sizes, "draws": a.draws, "steps": a.steps}
    if a.what == "probe" and a.out.exists():
        before = json.loads(a.out.read_text(encoding="utf-8"))
        found += before["rows"] if before.get("asked") == asked else []

    def keep() -> None:
        write(a.out, {"what": a.what, "asked": asked, **machine(a.threads), "load": os.getloadavg()[0], "rows": found})

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
            probes(a, data, found, keep)
        else:
            with tempfile.TemporaryDirectory() as folder:
                made = unlabelled("gan", data, folder, sizes=a.sizes, draws=a.draws, steps=a.steps, say=say)
            found.append(made.to_json())
    keep()
    say(str(a.out))


if __name__ == "__main__":
    main()
