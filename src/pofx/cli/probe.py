"""`pofx probe RUN DATA`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from pofx.cli.common import Answer, Common, DataFlags, Flag, load_model, table
from pofx.errors import InputError


def probe(
    run: str,
    data: str,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["-o", "--out"])] = None,
    labels: str = "10,100,1000,all",
    draws: int = 5,
    layer: str | None = None,
    scratch_steps: int = 200,
    fine_tune: Flag = False,
    spread: Flag = False,
    clusters: Flag = False,
    seed: int = 0,
    data_flags: DataFlags = DataFlags(),
    common: Common = Common(),
) -> Answer:
    """What features know of labels: accuracy by few labels and many.

    A linear probe on the features of RUN, beside one on the pixels and a classifier trained from scratch, on the same labelled images; all are
    judged on test images. DATA may be another set than the run's own, of images of the same size (transfer).

    Args:
        run: a run folder or a Hub id.
        data: name[:transform], a folder with one subfolder per class, .npz, IDX or Parquet.
        out: .html or .png: the curves.
        labels: how many, as many of each class; what the data does not have is left out.
        draws: choices of the labelled images.
        layer: of the features; NAME@4 pools a map over a 4×4 grid. A wrong name lists those there are.
        scratch_steps: budget of a classifier from scratch; 0 leaves it out.
        fine_tune: also train the classifier that starts from the features, for as many steps.
        spread: also spread the labels over the other training images, along the nearest features and pixels.
        clusters: also cluster test images, and say how far clusters are the classes.
        seed: of the first draw.
    """
    from pofx.workflows.few_labels import SPREAD, caption, few_labels, rows

    model = load_model(run, common)
    found = data_flags.load(data, common)
    methods = ["features", "pixels", *(["scratch"] if scratch_steps else []), *(["fine-tuned"] if fine_tune else [])]
    methods += [*SPREAD] if spread else []
    if fine_tune and not scratch_steps:
        raise InputError("--fine-tune trains for --scratch-steps steps: give it a number above 0.")
    more: dict[str, Any] = {"sizes": _sizes(labels, found), "methods": methods, "steps": max(1, scratch_steps)}
    result = few_labels(model, found, draws=draws, layer=layer, cluster=clusters, seed=seed, out=out, say=common.note, **more)
    shown = table("labels", *result.curves, right=("labels", *result.curves))
    for row in rows(result):
        shown.add_row(*row)
    lines: list[Any] = [shown, "", caption(result)]
    if result.clusters is not None:
        c = result.clusters
        lines.append(
            f"k-means, NMI with the labels: features {c.features:.3f}, pixels {c.pixels:.3f}, {c.components} components {c.pca:.3f}"
        )
    lines.append(str(out) if out else "Add -o probe.html for the curves.")
    return Answer({"run": run, "out": None if out is None else str(out)} | result.to_json(), lines)


def _sizes(text: str, data: Any) -> list[int]:
    """Numbers of labels that the data has."""
    n, classes, found = len(data.train), max(1, data.classes), []
    for part in text.split(","):
        part = part.strip()
        if part != "all" and not (part.isdecimal() and int(part)):
            raise InputError(f"--labels {text}: numbers and all, e.g. --labels 10,100,all.")
        size = n if part == "all" else int(part)
        if classes <= size <= n:
            found.append(size)
    if not found:
        raise InputError(f"--labels {text}: {data.heading} has {n} training images of {classes} classes; use {classes} … {n}, or all.")
    return found
