"""Few labels on MNIST: what features learned without labels save, over the number of labels, and over the number of unlabelled images.

    python benchmarks/few_labels.py probe RUN [RUN …] --data mnist --out results/few-labels.json
    python benchmarks/few_labels.py unlabelled --data mnist --steps 2000 --out results/few-labels-unlabelled.json
    python benchmarks/few_labels.py runs RUN [RUN …] --out results/few-labels-runs.json
    python benchmarks/few_labels.py picture results/few-labels.json --out docs/pictures/few-labels.png

`probe`: curves of `workflows/few_labels.py` with the features of each run (RUN@LAYER for another layer), by a linear probe and by labels spread along
the nearest. A run of other images than DATA holds, such as binarized ones, is probed on what it was trained on, and its row says so. What is done is
written after each method, and the same command, with more runs, sizes or draws too, goes on from there; training from scratch, the dear part, comes
last. `picture`: the curves of `probe`, as a report draws them.
`runs`: test accuracy of finished classifiers, with the command that trained them read from their folders.
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
from pofx.workflows.few_labels import SIZES, SPREAD, Efficiency, Point, few_labels, unlabelled
from pofx.workflows.few_labels import write as draw


def say(text: str) -> None:
    print(text, flush=True)


def probes(a: argparse.Namespace, data: Data, found: list[Any], keep: Callable[[], None]) -> None:
    """A row for each run, with the sizes that a method has not yet; then, in the first row, training from scratch, size by size."""
    wanted = a.sizes or [*SIZES, len(data.train)]
    for name in a.runs:
        row = next((row for row in found if row["asked"] == name), None)
        first = not found or row is found[0]  # pixels do not depend on the run
        run, _, layer = name.partition("@")
        lacking: dict[str, list[int]] = {}
        for method in ("features", "spread", *(("pixels", "spread-pixels") if first else ())):
            there = [point["at"] for point in row["curves"].get(method, [])] if row else []
            there += [len(data.train)] if method in SPREAD else []  # all have labels: nothing to spread
            lacking[method] = [n for n in wanted if n not in there]
        if not any(lacking.values()):
            continue
        model = load_model(run)
        images = data if data.space == model.space else load_data(**read_run(run).data["spec"])
        asked = (layer and f"@{layer}") or None
        for method, sizes in lacking.items():
            if not sizes:
                continue
            since = time.perf_counter()
            made = few_labels(
                model, images, sizes=sizes, draws=a.draws, layer=asked, methods=(method,), cluster=row is None, say=say
            ).to_json()
            took = (time.perf_counter() - since) / 60
            if row is None:
                row = {"asked": name, "run": Path(run).name, "minutes": round(took, 2), **made, "steps": a.steps}
                found.append(row)
            else:
                row["minutes"] = round(row["minutes"] + took, 2)
                row["curves"][method] = by_size(row["curves"].get(method, []) + made["curves"][method])
            keep()
    model = load_model(found[0]["asked"].partition("@")[0])
    curves = found[0]["curves"]
    for at in (wanted if a.scratch_sizes is None else a.scratch_sizes) if a.steps else ():
        draws = 1 if at == len(data.train) else a.scratch_draws or a.draws
        others = [point for point in curves.get("scratch", []) if point["at"] != at or len(point["draws"]) >= draws]
        if at not in [point["at"] for point in others]:
            made = few_labels(model, data, sizes=[at], draws=draws, methods=("scratch",), steps=a.steps, say=say)
            curves["scratch"] = by_size(others + made.to_json()["curves"]["scratch"])
            keep()


def by_size(points: list[Any]) -> list[Any]:
    return sorted(points, key=lambda point: point["at"])


def curves(rows: list[Any]) -> Efficiency:
    """All curves of rows on one plane."""
    first, found = rows[0], {}
    for row in rows:
        more = "" if row["data"] == first["data"] else f", on {row['data']}"
        for name, points in row["curves"].items():
            named = f"{name} of {row['run']}{more}" if name in ("features", "spread") else name
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
    asked = {"data": a.data, "draws": a.draws, "steps": a.steps}
    if a.what == "probe" and a.out.exists():
        before = json.loads(a.out.read_text(encoding="utf-8"))
        found += before["rows"] if asked.items() <= before.get("asked", {}).items() else []

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
