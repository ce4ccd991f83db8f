"""`pofx report RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pofx.cli.common import Answer, Common, DataFlags, Flag, run_info


def report(
    run: str,
    data: str | None = None,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["-o", "--out"])] = None,
    limit: int = 2000,
    draw: int | None = None,
    alpha: float = 0.05,
    no_features: Flag = False,
    data_flags: DataFlags = DataFlags(),
    common: Common = Common(),
) -> Answer:
    """One self-contained page about a run.

    Numbers with their standard errors, samples beside their nearest training images, best and worst, the odd ones, training curves.

    Args:
        run: a run folder or a Hub id.
        data: the data that it was trained on; by default what the run says.
        out: a .html file; by default report.html in the run folder.
        limit: images measured per part.
        draw: samples drawn for distances.
        alpha: share of normal images that may be flagged as odd.
        no_features: do not measure samples in the features of a small model (trained on first use), nor by a held-out critic.
    """
    from pofx.workflows.report import report as workflow

    own = run_info(run)
    images = None if data is None else data_flags.load(data, common)
    path = workflow(
        run, out, data=images, features=not no_features, limit=limit, draw=draw, alpha=alpha, device=common.device, say=common.note
    )
    return Answer({"run": run, "data": own.heading if images is None else images.heading, "out": str(path)}, str(path))
