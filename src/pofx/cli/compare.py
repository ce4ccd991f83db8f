"""`pofx compare RUN RUN … --data DATA`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pofx.cli.common import Answer, Common, DataFlags, load_images, load_model, run_info, table
from pofx.errors import InputError


def compare(
    *runs: str,
    data: str | None = None,
    samples: int = 1,
    estimate: int = 0,
    seed: int = 0,
    data_flags: DataFlags = DataFlags(),
    common: Common = Common(),
) -> Answer:
    """Runs side by side, with paired differences.

    All runs score the same images; the difference to the best is taken image by image, with its standard error.

    Args:
        runs: two or more run folders or Hub ids.
        data: images to compare on; by default the test part of the first run's own data.
        samples: draws per image, for a model that gives a bound.
        estimate: importance-weighted estimate over this many draws instead of a bound.
        seed: of those draws.
    """
    from pofx.tasks.compare import compare as task

    if len(set(runs)) < 2:
        raise InputError("at least two different runs are needed, e.g. pofx compare runs/a runs/b")
    models = {run: load_model(run, common) for run in runs}
    infos = {run: run_info(run) for run in runs}
    if data is None:
        own = infos[runs[0]].load_data(common)
        images: Any = own.test
        heading = own.test.heading
    else:
        loaded = load_images(data, models[runs[0]].space, data_flags, common, infos[runs[0]])
        images, heading = loaded.split, loaded.heading
    transforms = {run: info.transforms for run, info in infos.items()}
    fingerprints = {run: str(info.meta["data"].get("fingerprint") or "") for run, info in infos.items()}
    with common.progress("scoring") as progress:
        result = task(
            models,
            images,
            transforms=transforms,
            fingerprints=fingerprints,
            heading=heading,
            samples=samples,
            estimate=estimate,
            seed=seed,
            progress=progress,
        )
    shown = table("run", "bits/dim", "± se", "to the best", "± se", right=("bits/dim", "± se", "to the best"))
    for row in result.rows:
        best = row is result.best
        difference = ("best", "") if best else (f"+{row.difference_bits_per_dim.mean:.4f}", f"{row.difference_bits_per_dim.se:.4f}")
        shown.add_row(Path(row.name).as_posix(), f"{row.sign} {row.bits_per_dim.mean:.4f}", f"{row.bits_per_dim.se:.4f}", *difference)
    given = f", given {result.given}" if result.given else ""
    return Answer(result.to_json(), [f"{result.data}: {result.n} images{given}", "", shown, *(["", *result.notes] if result.notes else [])])
