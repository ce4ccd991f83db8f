"""`pofx forecast RUN DATA --keep 60 -o forecast.png`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pofx.cli.common import Answer, Common, DataFlags, RunData, load_images, load_model, run_info
from pofx.errors import InputError
from pofx.numbers import SIGNS

if TYPE_CHECKING:
    from pofx.cli.common import Loaded
    from pofx.space import ImageSpace
    from pofx.tasks.forecast import Forecast


def forecast(
    run: str,
    data: str | None = None,
    /,
    *,
    keep: int | None = None,
    n: Annotated[int, Parameter(name=["-n", "--n"])] = 100,
    out: Annotated[Path | None, Parameter(name=["-o", "--out"])] = None,
    season: int | None = None,
    limit: int = 100,
    seed: int = 0,
    size: str | None = None,
    common: Common = Common(),
) -> Answer:
    """Draw futures of series: bands, and how good they are.

    The first --keep values are known, the rest is forecast and compared with what came: CRPS in units of the series, beside forecasts that cost
    nothing. Series of just --keep values are pasts, whose future nobody knows.

    Args:
        run: a run folder or a Hub id of a run that was trained on series.
        data: series:FILE.csv, timeseries:NAME; #3 is one of them, #-1 the last. By default the test part of the run's own data.
        keep: values that are known; by default those that the run was told in training (--given top), else half.
        n: futures of each series.
        out: .png the first six with bands of 50 % and 90 %; .csv, .parquet, .jsonl quantiles of all.
        season: steps of the seasonal-naive forecast; by default found in the run's training series.
        limit: at most so many series, a fixed random choice.
        seed: the same seed gives the same futures.
        size: windows of a long column, 1xN.
    """
    from pofx.data.series import Scale
    from pofx.tasks.forecast import check_series
    from pofx.tasks.forecast import forecast as task

    model, info = load_model(run, common), run_info(run)
    check_series(model.space)
    scale = Scale.of(info.stored.get("scale"))
    if data is None:
        own = info.load_data(common.note)
        series, heading, train = own.test, own.test.heading, own.train
    else:
        loaded = _series(data, model.space, keep, DataFlags(size=size), info, common)
        again = (info.stored.get("spec") or {}).get("spec")  # a run of arrays in memory cannot say what it was trained on
        series, heading, train = loaded.split, loaded.heading, info.load_data(common.note).train if again else None
    with common.progress("forecasting") as progress:
        found = task(
            model,
            series,
            keep,
            train=train,
            scale=scale,
            n=n,
            season=season,
            limit=limit,
            seed=seed,
            out=out,
            progress=progress,
        )
    return Answer({"run": run, "data": heading, "scale": scale} | found.to_json(), _lines(found, heading))


def _series(spec: str, space: ImageSpace, keep: int | None, flags: DataFlags, info: RunData, common: Common) -> Loaded:
    """Series of the run's length, or, of just `keep` values, pasts."""
    try:
        return load_images(spec, space, flags, common, info)
    except InputError:
        if keep is None:
            raise
        try:
            return load_images(spec, replace(space, width=keep), flags, common, info)
        except InputError:
            pass
        raise


def _lines(found: Forecast, heading: str) -> list[str]:

    many = len(found.futures)
    chosen = f"{many} of {found.of} series" if many < found.of else f"{many} series"
    lines = [
        f"{heading}: {chosen}, {found.keep} values known, {found.horizon} forecast, {found.n} futures each",
        f"{found.kind}: {found.method}",
    ]
    if found.crps is None:
        lines.append("nobody knows what came: nothing is scored")
    else:
        width = max(map(len, found.baselines)) + 2
        lines += [f"CRPS, in {found.units} (lower is better)", f"  {'this run':<{width}}{found.crps}"]
        for name, value in found.baselines.items():
            steps = f"season {found.season}" if found.season > 1 else "the last value"
            about = f"  ({steps})" if name == "seasonal-naive" else ""
            lines.append(f"  {name:<{width}}{value}{about}; the run is better by {found.better_by[name]}")
        lines.append(
            "bands: " + ", ".join(f"{share:.0%} of what came is in that of {float(band):.0%}" for band, share in found.coverage.items())
        )
    if found.nats is not None and found.nats_kind is not None:
        lines.append(f"−log p(future | past) {SIGNS[found.nats_kind]} {found.nats} nats a series")
    lines += [found.note] if found.note else []
    lines.append(f"{found.path}" if found.path else "Add -o FILE.png for a picture, -o FILE.csv for the quantiles.")
    return lines
