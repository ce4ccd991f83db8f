"""`pofx traverse RUN [IMAGE] -o FILE.png`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pofx.cli.common import Answer, Common, DataFlags, load_model, run_info, table
from pofx.cli.encode import inverted
from pofx.cli.interpolate import Condition, ends_given, one_image


def traverse(
    run: str,
    image: str | None = None,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["-o", "--out"])] = None,
    data: str | None = None,
    rows: int = 10,
    columns: int = 11,
    reach: float = 3.0,
    label: str | None = None,
    like: str | None = None,
    limit: int = 1000,
    seed: int = 0,
    data_flags: DataFlags = DataFlags(),
    common: Common = Common(),
) -> Answer:
    """What each latent dimension does, the most used first.

    Args:
        run: a run folder or a Hub id.
        image: whose code is moved: an image file, or DATA#index, e.g. digits:test#3; by default the mean of the prior, or of a run that only decodes a draw.
        out: .png: a row for each dimension, its values from left to right.
        data: images over which use is measured; by default the run's own test part.
        rows: dimensions to show.
        columns: values of each.
        reach: the largest value, in standard deviations.
        label: of a run with --given label: the class to decode with; by default that of IMAGE.
        like: of a run with another --given: DATA whose images say it.
        limit: measure use over so many of the images.
        seed: of the codes around which a model that only decodes is moved, and of the starts of an inversion.
    """
    from pofx.model import Encoder
    from pofx.tasks.bulk import subset
    from pofx.tasks.traverse import traverse as task

    model = load_model(run, common)
    base = None if image is None else one_image(image, model, run, data_flags, common)
    given = ends_given(model, run, 1, Condition(label, like), common, needed=base is None)
    images, heading = None, None
    if isinstance(model, Encoder):
        split = run_info(run).load_split(data, model.space, data_flags, common.note)
        images, heading = subset(split, limit), split.heading
    with common.progress("measuring") as progress:
        result = task(
            model,
            images,
            base=base,
            given=given,
            rows=rows,
            columns=columns,
            reach=reach,
            seed=seed,
            out=out,
            progress=progress,
        )
    facts = result.to_json()
    shown = table("dimension", result.unit, right=("dimension", result.unit))
    for row in facts["dims"][: len(result.dims)]:
        shown.add_row(f"z{row['dim']}", f"{row['activity']:.4g}")
    used = f", over {len(images)} images of {heading}" if images is not None else ""
    head = f"The {len(result.dims)} most used of {facts['latent_dims']} latent dimensions{used}"
    tail = f"{result.path}" if result.path else "Add -o FILE.png for a picture."
    return Answer(
        {"run": run, "image": image, "data": heading, "label": label} | facts, [head, *inverted(result.inversion), "", shown, "", tail]
    )
