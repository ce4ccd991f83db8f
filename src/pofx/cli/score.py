"""`pofx score RUN DATA -o FILE`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from pofx.cli.common import Answer, BulkFlags, Common, DataFlags, load_model, open_images, run_info, tell_unread
from pofx.numbers import with_error


def score(
    run: str,
    data: str,
    /,
    *,
    out: Annotated[str | None, Parameter(name=["-o", "--out"])] = None,
    samples: int = 1,
    estimate: int = 0,
    tile: int | None = None,
    stride: int | None = None,
    seed: int = 0,
    bulk: BulkFlags = BulkFlags(),
    data_flags: DataFlags = DataFlags(),
    common: Common = Common(),
) -> Answer:
    """What each image costs: nats and bits/dim.

    The table has one row per image: id, nats, bits_per_dim, kind (exact, lower bound or estimate). Lower is more likely.

    Args:
        run: a run folder or a Hub id.
        data: name[:part][:transform], a folder, .npz, .npy, IDX or Parquet, also at s3://….
        out: .parquet, .csv or .jsonl, also at s3://….
        samples: draws per image, for a model that gives a bound.
        estimate: importance-weighted estimate over this many draws instead of the bound.
        tile: for photographs larger than the model: the size of its images.
        stride: pixels from one tile to the next; half a tile by default.
        seed: of those draws.
    """
    from pofx.model import SIGNS
    from pofx.tasks._tiles import check_tile
    from pofx.workflows.bulk import Scoring
    from pofx.workflows.bulk import score as work

    by = bulk.open()
    model = load_model(run, common)
    step = check_tile(tile, stride, model.space)
    images = open_images(data, model.space, data_flags, common, run_info(run), tiled=True, stride=step)
    job = Scoring(run, by.device(common.device), data, data_flags, step, samples, estimate, seed)
    with common.progress("scoring") as progress:
        found, remarks = work(job, model, images, by=by, out=out, progress=progress)
    tell_unread(images, remarks, common)
    nats, bits = (with_error(mean.mean, mean.se, digits) for mean, digits in ((found.nats, 2), (found.bits_per_dim, 4)))
    given = "" if model.given is None else f", given {model.given.name}"
    lines = [
        f"{remarks.heading}: {found.n} image{'s' * (found.n > 1)}",
        f"bits/dim {SIGNS[found.kind]} {bits}, nats {SIGNS[found.kind]} {nats} on average ({found.kind}{given})",
    ]
    lines.append(f"{found.path}" if found.path else "Add -o scores.csv for one row per image.")
    return Answer({"run": run, "data": remarks.heading} | found.to_json() | {"skipped": remarks.skipped}, "\n".join(lines))
