"""`pofx outliers RUN DATA -o DIR`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from pofx.cli.common import Answer, BulkFlags, Common, DataFlags, Flag, RunData, load_images, load_model, open_images, run_info, table
from pofx.errors import InputError

if TYPE_CHECKING:
    from pofx.data import Split


def outliers(
    run: str,
    data: str,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["-o", "--out"])] = None,
    alpha: float = 0.05,
    guarantee: Literal["marginal", "calibration"] = "marginal",
    fdr: float | None = None,
    statistics: Annotated[tuple[str, ...], Parameter(name="--statistic", negative=(), show_default=False)] = (),
    known: Annotated[str | None, Parameter(name="--known-outliers")] = None,
    calib: str | None = None,
    background: str | None = None,
    stream: Flag = False,
    tile: int | None = None,
    stride: int | None = None,
    samples: int = 1,
    seed: int = 0,
    bulk: BulkFlags = BulkFlags(),
    data_flags: DataFlags = DataFlags(),
    common: Common = Common(),
) -> Answer:
    """Flag the images that do not fit, and show where.

    At most a share ALPHA of normal images is flagged: the threshold comes from images of the run's own data that training did not see.
    The score is made of all that the model can tell at little cost; no outlier is needed.

    Args:
        run: a run folder or a Hub id.
        data: name[:part][:transform], a folder, .npz, .npy, IDX or Parquet.
        out: a folder for scores.parquet, scores.csv (id, score, p_value, outlier, rank, statistics; higher is odder) and index.html.
        alpha: share of normal images that may be flagged.
        guarantee: marginal: on average over calibration sets; calibration: of this one, with 95 % confidence.
        fdr: flag so that of the flagged images at most this share is normal, e.g. 0.1 (Benjamini-Hochberg).
        statistics: only these, e.g. bits_per_dim, over_codec, max_surprise, regret.
        known: a few, as DATA: they choose what evidence counts.
        calib: good images that the model has not seen, as DATA, in the place of the run's own; needed with --tile.
        background: a run trained with --augment mutate: what is odd against it.
        stream: the images came in this order; is there a drift?
        tile: for photographs larger than the model: the size of its images.
        stride: pixels from one tile to the next; half a tile by default.
        samples: draws per image, for a model that gives a bound.
        seed: of those draws.
    """
    from pofx.tasks._files import TABLES, check_out
    from pofx.tasks._tiles import check_tile
    from pofx.tasks.outliers import calibrate, check_promise
    from pofx.workflows.bulk import Weighing, weighed
    from pofx.workflows.outliers import apart, calibrating, calibration_of, check_apart, copies, repeated, resizing, wall, write_page

    by = bulk.open()
    model = load_model(run, common)
    info = run_info(run)
    step = check_tile(tile, stride, model.space)
    images = open_images(data, model.space, data_flags, common, info, tiled=True, stride=step)
    own = info.load_data(common.note)
    good = None if calib is None else load_images(calib, model.space, data_flags, common, info, tiled=True, stride=step)
    calibration, notes = calibration_of(
        run, own, unchanged=info.unchanged(own), good=None if good is None else good.split, spec=calib or ""
    )
    center, normal = own.valid, calibration if good is None else good.images
    if good is not None and step is not None:
        center, normal = apart(good.images)
        calibration = good.split.select(calibrating(len(good.split)).numpy())
    some = None if known is None else load_images(known, model.space, data_flags, common, info, tiled=True, stride=step)
    if some is not None:
        check_apart(some.split, calibration, str(known))
    behind = None if background is None else load_model(background, common)
    if background is not None:
        notes += _background(background, info, calibration, common)
    resized = resizing(info.transforms, images.transforms) if step is None else None
    notes += [note for note in (resized, copies(calibration, alpha, guarantee)) if note is not None]
    for note in notes:
        common.note(f"Note: {note}")
    check_promise(images.images, normal, alpha=alpha, guarantee=guarantee, fdr=fdr)
    if out is not None:
        check_out(out / "scores.parquet", TABLES)
    alarm = calibrate(
        model,
        calib=normal,
        center=center,
        train=own.train,
        statistics=statistics,
        background=behind,
        known=None if some is None else some.images,
        samples=samples,
        seed=seed,
    )
    job, page = Weighing(run, by.device(common.device), data, data_flags, step, alarm), None
    with contextlib.ExitStack() as stack:
        with common.progress("scoring") as progress:
            found, remarks = stack.enter_context(weighed(job, model, images, by=by, out=out, progress=progress))
        more = repeated(found.keys, own, calibration, None if some is None else some.split)
        if remarks.skipped:
            more.append(f"{len(remarks.skipped)} files could not be read and were not judged, e.g. {remarks.skipped[0]}.")
        for note in more:
            common.note(f"Note: {note}")
        notes += more
        result = alarm.verdict(found, alpha=alpha, guarantee=guarantee, fdr=fdr, stream=stream)
        if out is not None:
            result = result.save(out, type(model).__name__)
            with common.progress("maps") as progress:
                shown = wall(model, found.images(images), result, calib=normal, background=behind, seed=seed, progress=progress)
            page = write_page(
                out / "index.html", run=run, heading=remarks.heading, levels=model.space.levels, found=result, shown=shown, notes=notes
            )
    facts = result.to_json()
    lines = table("oddest", "score", "p", "", right=("score", "p"))
    for row in facts["oddest"][:10]:
        lines.add_row(row["id"], f"{row['score']:.4g}", f"{row['p_value']:.4f}", "odd" if row["outlier"] else "")
    n = facts["n"]
    rule = f"false discovery rate ≤ {fdr:g}" if fdr is not None else f"p ≤ {result.cut:.4g}"
    head = f"{remarks.heading}: {facts['outliers']} of {n} image{'s' * (n != 1)} are odd ({rule})"
    text = [head, result.promise, f"evidence: {' + '.join(result.used)}", "", lines, ""]
    if result.drift is not None:
        alarm = result.drift.alarm
        text += ["no drift" if alarm is None else f"drift: the alarm is at image {alarm + 1}, {result.ids[alarm]}", ""]
    text.append(f"{result.path}\n{page}" if page else "Add -o DIR for one row per image and a page that shows where.")
    answer = {"run": run, "data": remarks.heading, "page": None if page is None else str(page)} | facts
    return Answer(answer | {"notes": notes, "skipped": remarks.skipped}, text)


def _background(background: str, info: RunData, calib: Split, common: Common) -> list[str]:
    """Refuse a background that was trained on calibration images; a remark where that cannot be told."""
    from pofx.workflows.outliers import check_new

    theirs = run_info(background)
    if theirs.stored.get("spec") == info.stored.get("spec"):  # the same parts
        return []
    try:
        data = theirs.load_data(common.note)
    except InputError:
        return [
            f"The data of {background} is not here: whether it was trained on calibration images cannot be told, and if it was, the guarantee fails."
        ]
    fix = "or a background that was trained on the run's own data"
    check_new(calib, data, f"--background {background}", run="the background", fix=fix)
    return []
