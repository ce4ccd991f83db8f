"""`pofx compare RUN RUN … --data DATA`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pofx.cli._quality import quality_cells, real_cells, sharpness_cell
from pofx.cli.common import Answer, Common, DataFlags, load_images, load_model, run_info, table
from pofx.errors import InputError
from pofx.numbers import with_error


def compare(
    *runs: str,
    data: str | None = None,
    features: str = "auto",
    samples: int = 1,
    estimate: int = 0,
    draw: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    data_flags: DataFlags = DataFlags(),
    common: Common = Common(),
) -> Answer:
    """Runs of any family side by side.

    One table: samples a second, Fréchet distance, KID, precision and recall, density and coverage (in brackets as a share of what real images
    get), sharpness beside real images, bits/dim (= exact, ≤ a bound, ≈ an estimate), and whether there is a q(z|x). Costs are also
    compared in pairs: the difference to the best is taken image by image, with its standard error.

    Args:
        runs: two or more run folders or Hub ids.
        data: images to compare on; by default the test part of the first run's own data.
        features: what samples are judged in: a RUN; "auto": a small model of the first run's data, trained once and kept;
            "inception" or "dinov2", where their weights are; "none".
        samples: draws per image, for a model that gives a bound.
        estimate: importance-weighted estimate over this many draws instead of a bound.
        draw: samples of each run that are timed and judged; by default 1000 to 2000, 200 without features; 0 for none.
        limit: images that are compared on; by default all.
        seed: of draws and choices.
    """
    from pofx.model import Sampler
    from pofx.tasks.compare import compare as task

    if len(set(runs)) < 2:
        raise InputError("at least two different runs are needed, e.g. pofx compare runs/a runs/b")
    models = {run: load_model(run, common) for run in runs}
    infos = {run: run_info(run) for run in runs}
    first = infos[runs[0]]
    more: dict[str, Any] = {}
    if data is None:
        own = first.load_data(common.note)
        images: Any = own.test
        more |= {"data": own, "heading": own.heading, "split": "test"}
    else:
        loaded = load_images(data, models[runs[0]].space, data_flags, common, first)
        images = loaded.split
        more |= {"heading": loaded.heading, "split": ""}
    if features != "none" and draw != 0 and any(isinstance(model, Sampler) for model in models.values()):
        from pofx.workflows.features import named_features

        judge = named_features(features, lambda: first.load_data(common.note), models[runs[0]].space, device=common.device, say=common.note)
        more |= judge.arguments
    more |= {"transforms": {run: info.transforms for run, info in infos.items()}}
    more |= {"fingerprints": {run: str(info.meta["data"].get("fingerprint") or "") for run, info in infos.items()}}
    with common.progress("comparing") as progress:
        result = task(models, images, samples=samples, estimate=estimate, draw=draw, limit=limit, seed=seed, progress=progress, **more)
    return Answer(result.to_json(), _text(result))


def _text(result: Any) -> list[Any]:
    given = f", given {result.given}" if result.given else ""
    parts: list[Any] = [f"{result.data}: {result.n} images{given}", "", _families(result.entries), ""]
    speed = next((row.speed for row in result.entries if row.speed is not None), None)
    if speed is not None:
        batches = sorted({row.speed.batch for row in result.entries if row.speed is not None})
        parts.append(
            f"samples/s: {speed.n:,} samples on {speed.device}, at most {' or '.join(map(str, batches))} at once, "
            f"{speed.threads} thread{'s' * (speed.threads > 1)}; measured now, on this machine"
            + ("" if speed.load is None else f" at a load of {speed.load:.1f}")
        )
    quality = next((row.quality for row in result.entries if row.quality is not None), None)
    if quality is not None:
        parts.append(quality.protocol)
    if len(result.rows) > 1:
        parts += ["", "costs, image by image:", _pairs(result)]
    for claim in result.claims:
        verdict = {True: "holds here", False: "does not hold here", None: "not told apart here"}[claim.holds]
        parts += [*([""] if claim is result.claims[0] else []), f"“{claim.text}”: {verdict} ({claim.found})"]
    return [*parts, *(["", *result.notes] if result.notes else [])]


def _families(entries: Any) -> Any:
    """All families in one table; "none" where a model has no likelihood, a dash where there is nothing to measure."""
    judged = [row.quality for row in entries if row.quality is not None]
    head = ("Fréchet", "KID", "precision", "recall", "density", "coverage") if judged else ()
    numbers = ("samples/s", *head, "sharpness ÷ real", "bits/dim")
    shown = table("run", "model", *numbers, "q(z|x)", right=numbers)
    for row in entries:
        speed = (
            "–" if row.speed is None else f"{row.speed.per_second:,.3g}" if row.speed.per_second < 100 else f"{row.speed.per_second:,.0f}"
        )
        cells = quality_cells(row.quality) if row.quality is not None else ["–"] * len(head)
        sharp = sharpness_cell(row.sharpness)
        bits = "none" if row.bits_per_dim is None else f"{row.sign} {with_error(row.bits_per_dim.mean, row.bits_per_dim.se, 3)}"
        shown.add_row(Path(row.name).as_posix(), row.model, speed, *cells, sharp, bits, "yes" if row.posterior else "no")
    real = next((q.real for q in judged if q.real is not None), None)
    if real is not None:
        shown.add_row("real images", "", "", *real_cells(real), "", "")
    return shown


def _pairs(result: Any) -> Any:
    shown = table("run", "bits/dim", "± se", "to the best", "± se", right=("bits/dim", "± se", "to the best"))
    for row in result.rows:
        best = row is result.best
        difference = ("best", "") if best else (f"+{row.difference_bits_per_dim.mean:.4f}", f"{row.difference_bits_per_dim.se:.4f}")
        shown.add_row(Path(row.name).as_posix(), f"{row.sign} {row.bits_per_dim.mean:.4f}", f"{row.bits_per_dim.se:.4f}", *difference)
    return shown
