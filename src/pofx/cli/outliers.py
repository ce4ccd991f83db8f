"""`pofx outliers RUN DATA -o DIR`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pofx.cli.common import Answer, Common, DataFlags, load_images, load_model, run_info, table


def outliers(
    run: str,
    data: str,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["-o", "--out"])] = None,
    alpha: float = 0.05,
    samples: int = 1,
    seed: int = 0,
    data_flags: DataFlags = DataFlags(),
    common: Common = Common(),
) -> Answer:
    """Flag the images that do not fit.

    At most a share ALPHA of normal images is flagged. The threshold comes from images of the run's own data that training did not see.

    Args:
        run: a run folder or a Hub id.
        data: name[:part][:transform], a folder, .npz, .npy, IDX or Parquet.
        out: a folder; scores.parquet with id, score, p_value, outlier is written into it (score: higher is odder).
        alpha: share of normal images that may be flagged.
        samples: draws per image, for a model that gives a bound.
        seed: of those draws.
    """
    from pofx.tasks.outliers import outliers as task

    model = load_model(run, common)
    info = run_info(run)
    images = load_images(data, model.space, data_flags, common, info)
    own = info.load_data(common)
    with common.progress("scoring") as progress:
        result = task(
            model, images.split, calib=own.calib, center=own.valid, alpha=alpha, out=out, samples=samples, seed=seed, progress=progress
        )
    facts = result.to_json()
    shown = table("oddest", "score", "p", right=("score", "p"))
    for row in facts["oddest"][:10]:
        shown.add_row(row["id"], f"{row['score']:.4f}", f"{row['p_value']:.4f}")
    head = f"{images.heading}: {facts['outliers']} of {facts['n']} images are odd (p ≤ {alpha:g})"
    rate = f"At most {alpha:.0%} of normal images are flagged on average; with {facts['calibration']} calibration images it may be up to {result.rate95:.0%}."
    tail = f"{result.path}" if result.path else "Add -o DIR for one row per image."
    return Answer({"run": run, "data": images.heading} | facts, [head, rate, "", shown, "", tail])
