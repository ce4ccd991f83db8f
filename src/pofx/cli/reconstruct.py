"""`pofx reconstruct RUN DATA -o FILE.png`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from pofx.cli.common import Answer, Common, DataFlags, load_images, load_model, run_info
from pofx.cli.encode import inverted


def reconstruct(
    run: str,
    data: str,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["-o", "--out"])] = None,
    show: Literal["sample", "mean", "sd"] | None = None,
    n: Annotated[int, Parameter(name=["-n", "--n"])] = 32,
    limit: int | None = None,
    seed: int = 0,
    data_flags: DataFlags = DataFlags(),
    common: Common = Common(),
) -> Answer:
    """Images beside what their codes decode to.

    The errors that are printed are those of the mean of p(x|z), over all images, whatever the picture shows. A run that only decodes
    (a GAN) has codes by inversion, which are approximate and take their time: 100 images, unless --limit says otherwise.

    Args:
        run: a run folder or a Hub id.
        data: name[:part][:transform], a folder, .npz, .npy, IDX or Parquet.
        out: .png originals beside reconstructions, or .npz (x, reconstruction, squared_error, id) of all images.
        show: a draw from p(x|z) (sample, the default), its mean, or its standard deviation; an autoencoder has only a mean.
        n: how many images the picture shows.
        limit: so many of the images, chosen at random but always the same; by default all, or 100 where codes are found by inversion.
        seed: of the draws, or of the starts of an inversion.
    """
    from pofx.tasks.reconstruct import reconstruct as task

    model = load_model(run, common)
    images = load_images(data, model.space, data_flags, common, run_info(run))
    with common.progress("reconstructing") as progress:
        result = task(model, images.split, out=out, show=show, n=n, limit=limit, seed=seed, progress=progress)
    facts = result.to_json()
    error = facts["squared_error_of_mean"]
    se = "" if error["se"] is None else f" ± {error['se']:.4f}"
    lines = [
        f"{images.heading}: {facts['n']} images, {result.dims} sub-pixels each",
        f"squared error of the mean, pixels on [0, 1], summed over an image: {error['mean']:.4f}{se}",
        f"root mean squared error of a sub-pixel: {result.rmse_levels:.3f} levels (of 0 … {model.space.levels - 1})",
        *inverted(result.inversion),
        f"{result.path}  (each image beside {result.what})" if result.path else "Add -o FILE.png for a picture.",
    ]
    return Answer({"run": run, "data": images.heading} | facts, lines)
