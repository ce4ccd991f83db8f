"""`pofx encode RUN DATA -o FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pofx.cli.common import Answer, Common, DataFlags, Flag, load_images, load_model, run_info

if TYPE_CHECKING:
    from pofx.tasks.invert import Inversion


def encode(
    run: str,
    data: str,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["-o", "--out"])] = None,
    sample: Flag = False,
    layer: str | None = None,
    seed: int = 0,
    steps: int = 200,
    restarts: int = 4,
    data_flags: DataFlags = DataFlags(),
    common: Common = Common(),
) -> Answer:
    """The latent code, or the features, of each image.

    A run without codes (an autoregressive model, a classifier) gives the features of a middle layer, averaged over the image.
    A run that only decodes (a GAN) has no encoder: its codes are looked for by inversion, going downhill from several starts. They are
    approximate: their error and their length are printed, and written beside them.

    Args:
        run: a run folder or a Hub id.
        data: name[:part][:transform], a folder, .npz, .npy, IDX or Parquet.
        out: .parquet, .csv or .jsonl with columns id, z0, z1, …; .npz (z, id, y) or .npy (z).
        layer: features of this layer in the place of codes, e.g. critic of a GAN; NAME@4 pools a map over a 4×4 grid. A wrong name lists
            those there are.
        sample: a draw from q(z|x) in place of its mean.
        seed: of that draw, or of the starts of an inversion.
        steps: of an inversion, from each start.
        restarts: starts of an inversion for each image; the best is kept.
    """
    from pofx.tasks.encode import encode as task

    model = load_model(run, common)
    images = load_images(data, model.space, data_flags, common, run_info(run))
    with common.progress("encoding") as progress:
        result = task(
            model, images.split, out=out, sample=sample, layer=layer, seed=seed, steps=steps, restarts=restarts, progress=progress
        )
    facts = result.to_json()
    unit = "numbers each" if result.kind.startswith("features") else "latent dimensions"
    text = f"{images.heading}: {facts['n']} images, {facts['latent_dims']} {unit}, z = {result.kind}"
    tail = f"{result.path}" if result.path else "Add -o FILE.parquet for one row per image."
    return Answer({"run": run, "data": images.heading} | facts, [text, *inverted(result.inversion), tail])


def inverted(found: Inversion | None) -> list[str]:
    """What is said of codes that were found by inversion: a line, or none where they were not."""
    return [] if found is None else [str(found)]
