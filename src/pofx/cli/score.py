"""`pofx score RUN DATA -o FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pofx.cli.common import Answer, Common, DataFlags, load_images, load_model, run_info
from pofx.numbers import with_error


def score(
    run: str,
    data: str,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["-o", "--out"])] = None,
    samples: int = 1,
    estimate: int = 0,
    tile: int | None = None,
    stride: int | None = None,
    seed: int = 0,
    data_flags: DataFlags = DataFlags(),
    common: Common = Common(),
) -> Answer:
    """What each image costs: nats and bits/dim.

    The table has one row per image: id, nats, bits_per_dim, kind (exact, lower bound or estimate). Lower is more likely.

    Args:
        run: a run folder or a Hub id.
        data: name[:part][:transform], a folder, .npz, .npy, IDX or Parquet.
        out: .parquet, .csv or .jsonl.
        samples: draws per image, for a model that gives a bound.
        estimate: importance-weighted estimate over this many draws instead of the bound.
        tile: for photographs larger than the model: the size of its images.
        stride: pixels from one tile to the next; half a tile by default.
        seed: of those draws.
    """
    from pofx.tasks._tiles import check_tile
    from pofx.tasks.score import score as task

    model = load_model(run, common)
    images = load_images(data, model.space, data_flags, common, run_info(run), tiled=True, stride=check_tile(tile, stride, model.space))
    with common.progress("scoring") as progress:
        result = task(model, images.images, out=out, samples=samples, estimate=estimate, seed=seed, progress=progress)
    s = result.score
    given = "" if s.given is None else f", given {s.given.name}"
    nats, bits = (with_error(mean.mean, mean.se, digits) for mean, digits in zip(result.cost, (2, 4), strict=True))
    lines = [
        f"{images.heading}: {len(result.ids)} image{'s' * (len(result.ids) > 1)}",
        f"bits/dim {s.sign} {bits}, nats {s.sign} {nats} on average ({s.kind}{given})",
    ]
    lines.append(f"{result.path}" if result.path else "Add -o scores.csv for one row per image.")
    return Answer({"run": run, "data": images.heading} | result.to_json(), "\n".join(lines))
