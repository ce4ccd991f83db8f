"""`pofx latents RUN [DATA] -o map.png`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from pofx.cli.common import Answer, Common, DataFlags, load_model, run_info
from pofx.cli.encode import inverted
from pofx.cli.interpolate import Condition, ends_given


def latents(
    run: str,
    data: str | None = None,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["-o", "--out"])] = None,
    method: Literal["auto", "z", "pca", "tsne"] = "auto",
    limit: int | None = 2000,
    grid: int = 20,
    label: str | None = None,
    like: str | None = None,
    seed: int = 0,
    data_flags: DataFlags = DataFlags(),
    common: Common = Common(),
) -> Answer:
    """A map of the latent space, coloured by label.

    Args:
        run: a run folder or a Hub id.
        data: name[:part][:transform], a folder, .npz, .npy, IDX or Parquet; by default the run's own test part. A run that only decodes (a GAN)
            needs none; where they are named, their codes are found by inversion, which takes its time (--limit 200).
        out: .png.
        method: auto shows 2 latent dimensions as they are, with what is decoded there, and more by their principal components (pca); tsne keeps
            neighbours together.
        limit: so many of the images, chosen at random but always the same.
        grid: images along each side of what is decoded.
        label: of a run with --given label: the class to decode with; by default that of the first image.
        like: of a run with another --given: DATA whose images say it.
        seed: of tsne, and of the starts of an inversion.
    """
    from pofx.model import Encoder
    from pofx.tasks.latent_map import latent_map

    model = load_model(run, common)
    info = run_info(run)
    split = None
    if isinstance(model, Encoder) or data is not None:
        split = info.load_split(data, model.space, data_flags, common.note)
    given = ends_given(model, run, 1, Condition(label, like), common, needed=split is None)
    names = info.class_names
    with common.progress("encoding") as progress:
        result = latent_map(
            model,
            split,
            method=method,
            limit=limit,
            grid=grid,
            given=given,
            seed=seed,
            class_names=names,
            out=out,
            progress=progress,
        )
    heading = None if split is None else split.heading
    head = f"{heading}: {result.caption}" if heading else result.caption
    lines = [head, *inverted(result.inversion)]
    if result.explained is not None:
        lines.append(f"The two components hold {sum(result.explained):.0%} of the variance of the codes.")
    lines.append(f"{result.path}" if result.path else "Add -o map.png to see it.")
    return Answer({"run": run, "data": heading, "label": label} | result.to_json(), lines)
