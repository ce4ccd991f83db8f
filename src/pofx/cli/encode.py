"""`pofx encode RUN DATA -o FILE`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pofx.cli.common import Answer, BulkFlags, Common, DataFlags, Flag, load_model, open_images, run_info, tell_unread

if TYPE_CHECKING:
    from pofx.tasks.invert import Inversion


def encode(
    run: str,
    data: str,
    /,
    *,
    out: Annotated[str | None, Parameter(name=["-o", "--out"])] = None,
    sample: Flag = False,
    layer: str | None = None,
    seed: int = 0,
    steps: int = 200,
    restarts: int = 4,
    bulk: BulkFlags = BulkFlags(),
    data_flags: DataFlags = DataFlags(),
    common: Common = Common(),
) -> Answer:
    """The latent code, or the features, of each image.

    A run without codes (an autoregressive model, a classifier) gives the features of a middle layer, averaged over the image.
    A run that only decodes (a GAN) has no encoder: its codes are looked for by inversion, going downhill from several starts. They are
    approximate: their error and their length are printed, and written beside them.

    Args:
        run: a run folder or a Hub id.
        data: name[:part][:transform], a folder, .npz, .npy, IDX or Parquet, also at s3://….
        out: .parquet, .csv or .jsonl with columns id, z0, z1, …; .npz (z, id, y) or .npy (z);
            also at s3://….
        layer: features of this layer in the place of codes, e.g. critic of a GAN; NAME@4 pools a map over a 4×4 grid. A wrong name lists
            those there are.
        sample: a draw from q(z|x) in place of its mean.
        seed: of that draw, or of the starts of an inversion.
        steps: of an inversion, from each start.
        restarts: starts of an inversion for each image; the best is kept.
    """
    from pofx.workflows.bulk import Encoding, encoded

    by = bulk.open()
    model = load_model(run, common)
    images = open_images(data, model.space, data_flags, common, run_info(run))
    job = Encoding(run, by.device(common.device), data, data_flags, None, sample, layer, seed, steps, restarts)
    with common.progress("encoding") as progress:
        found, remarks = encoded(job, model, images, by=by, out=out, progress=progress)
    tell_unread(images, remarks, common)
    facts = found.to_json()
    unit = "numbers each" if found.kind.startswith("features") else "latent dimensions"
    text = f"{remarks.heading}: {found.n} images, {found.latent_dims} {unit}, z = {found.kind}"
    tail = f"{found.path}" if found.path else "Add -o FILE.parquet for one row per image."
    answer = {"run": run, "data": remarks.heading} | facts | {"skipped": remarks.skipped}
    return Answer(answer, [text, *inverted(found.inversion), tail])


def inverted(found: Inversion | None) -> list[str]:
    """What is said of codes that were found by inversion: a line, or none where they were not."""
    return [] if found is None else [str(found)]
