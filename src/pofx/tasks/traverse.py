"""What does each latent dimension do? One code, one dimension at a time moved from −3 to 3 standard deviations, E[x|z] at each.

Rows are sorted by how much a dimension is used:

    with a posterior      KL(q(z_j|x) ‖ N(0, 1)) in nats, mean over images
    without               Var_v E[x | z with z_j = v], mean over base codes and sub-pixels, in levels²

Under a prior N(0, I) the middle column is z_j = 0 and a step is its standard deviation; a model without prior (an autoencoder) moves around the
mean code of the images, in standard deviations of their codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pofx import pictures
from pofx.errors import InputError
from pofx.model import Decoder, Encoder, ImageModel, LatentVariable, Progress, require
from pofx.noise import Noise
from pofx.tasks._decoding import decodes_to, draws, has_prior, means, repeated
from pofx.tasks._files import check_out, writing
from pofx.tasks.bulk import Images, as_images, everything, per_image
from pofx.tasks.encode import Codes, codes, encode
from pofx.tasks.invert import Inversion

SUFFIXES = (".png",)
BASES = 8  # codes around which a model without posterior is moved
POINTS = 5  # values of each dimension there


@dataclass(frozen=True)
class Traversal:
    """Images, one row for each of the most used dimensions.

    Attributes:
        x: `(rows, columns, C, H, W)`, E[x|z], floats in 0 … levels−1; not samples of p.
        dims: the dimension of each row.
        values: `(columns,)`, in standard deviations.
        activity: `(latent_dims,)` how much each dimension is used, in `unit`.
        unit: "nats (mean KL)" or "levels² (variance of the mean)".
        shows, around: what `x` is, and the code that is moved, in words.
        inversion: of a base image of a model that only decodes, how good its code is; else None.
    """

    x: Tensor
    dims: tuple[int, ...]
    values: Tensor
    activity: Tensor
    unit: str
    shows: str
    around: str
    path: Path | None = None
    inversion: Inversion | None = None

    def to_json(self) -> dict[str, Any]:
        order = self.activity.argsort(descending=True, stable=True).tolist()
        return {
            "latent_dims": len(self.activity),
            "unit": self.unit,
            "dims": [{"dim": j, "activity": float(self.activity[j])} for j in order],
            "rows": list(self.dims),
            "values": self.values.tolist(),
            "shows": self.shows,
            "around": self.around,
            "inversion": None if self.inversion is None else self.inversion.to_json(),
            "out": None if self.path is None else str(self.path),
        }


def mean_kl(model: ImageModel, images: Images | Tensor, *, progress: Progress | None = None) -> Tensor:
    """KL(q(z_j | x, given) ‖ N(0, 1)) of each dimension, mean over images: `(latent_dims,)` float64 nats.

    Raises:
        CapabilityError: the model has no posterior.
    """
    latent = require(model, LatentVariable, to="measure the KL of its dimensions")

    def kl(x: Tensor, y: Tensor | None) -> Tensor:
        batch = latent.batch(x, y)
        return latent.posterior(batch.x, batch.given).kl().double()

    return per_image(latent, kl, images, progress=progress).mean(0)


def traverse(
    model: ImageModel,
    images: Images | Tensor | None = None,
    *,
    base: Images | Tensor | None = None,
    given: Any = None,
    rows: int = 10,
    columns: int = 11,
    reach: float = 3.0,
    seed: int = 0,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Traversal:
    """Move the most used latent dimensions, one at a time.

    Args:
        images: over which use is measured: a `Split`, or uint8 `(n, C, H, W)`; a model that only decodes needs none.
        base: one image, whose code (of a GAN by inversion) is moved; by default the mean of the prior, or of the codes where there is no prior; of a
            model that only decodes a draw from the prior, since its mean is far from all that such a model was trained on.
        given: of a conditional model, the view's value to decode with; by default that of `base`.
        rows, columns: dimensions, and values of each.
        reach: the values go from −reach to reach standard deviations.
        seed: of the draws of a model that only decodes, and of the starts of an inversion.
        out: `.png`.

    Raises:
        CapabilityError: the model does not decode.
        InputError: no images where they are needed, no value of the view, more than one base, sizes below 1, another ending.

    >>> from pofx.models.variational.vae import VAE
    >>> from pofx.space import ImageSpace
    >>> found = traverse(VAE.small(ImageSpace(1, 4, 4, levels=2)), torch.zeros(3, 1, 4, 4, dtype=torch.uint8), columns=7)
    >>> found.x.shape, found.unit
    (torch.Size([2, 7, 1, 4, 4]), 'nats (mean KL)')
    """
    decoder = require(model, Decoder, to="be traversed")
    if rows < 1 or columns < 2 or not 0 < reach < float("inf"):
        raise InputError(
            f"rows={rows} must be at least 1, columns={columns} at least 2, reach={reach} above 0, e.g. --rows 10 --columns 11."
        )
    path = None if out is None else check_out(out, SUFFIXES)
    encodes = isinstance(model, Encoder)
    if encodes and images is None:
        raise InputError("Which dimensions are used is measured over images: give some, e.g. digits:test")
    found, value = _base(model, None if base is None else as_images(base), given, seed)
    start, inversion = (None, None) if found is None else (found.z, found.inversion)
    center, scale = torch.zeros(decoder.latent_dims), torch.ones(decoder.latent_dims)
    if encodes and not has_prior(model):
        assert images is not None
        z = codes(model, images).double()
        center, scale = z.mean(0), z.std(0, correction=0)
    if isinstance(model, LatentVariable):
        assert images is not None
        activity, unit = mean_kl(model, images, progress=progress), "nats (mean KL)"
    else:
        bases = Noise(seed, torch.arange(BASES)).normal("z", decoder.latent_dims) * scale + center
        activity, unit = _variance(decoder, bases, center, scale, value, reach, progress), "levels² (variance of the mean)"
    exact = "an image's code" + (" by inversion (approximate)" if inversion is not None else "")
    around = exact if start is not None else "the mean of the prior" if has_prior(model) else "the mean code"
    if start is None and has_prior(model) and not encodes:
        start, around = draws(decoder, [0], seed), f"a draw from the prior (seed {seed})"
    dims = activity.argsort(descending=True, stable=True)[:rows].tolist()
    values = torch.linspace(-reach, reach, columns, dtype=torch.double)
    z = (center if start is None else start[0]).double().expand(len(dims), columns, -1).clone()
    for row, j in enumerate(dims):
        z[row, :, j] = center[j] + scale[j] * values
    flat = z.flatten(0, 1).to(model.dtype)
    x = means(decoder, flat, repeated(value, len(flat))).reshape(*z.shape[:2], *model.space.shape)
    result = Traversal(x, tuple(dims), values, activity, unit, decodes_to(model), around, path, inversion)
    if path is not None:
        _write(path, result, model.space.levels, has_prior(model))
    return result


def _base(model: ImageModel, base: Images | None, given: Any, seed: int) -> tuple[Codes | None, Tensor | None]:
    """The code that is moved, or None, and the view's value of one image or None."""
    if base is None:
        return None, model.check_given(given, 1)
    if len(base) != 1:
        raise InputError(f"{len(base)} images were given as the base of a traversal; name one, e.g. digits:test#3")
    x, y = everything(base)
    value = model.batch(x, y).given if given is None else model.check_given(given, 1)
    return encode(model, base, given=value, seed=seed), value


def _variance(
    model: Decoder, bases: Tensor, center: Tensor, scale: Tensor, given: Tensor | None, reach: float, progress: Progress | None
) -> Tensor:
    """Var_v E[x | z with z_j = v], mean over bases and sub-pixels, of each dimension j: `(d,)` levels²."""
    values = torch.linspace(-reach, reach, POINTS, dtype=torch.double)
    found = []
    for j in range(bases.shape[1]):
        z = bases.double()[:, None].repeat(1, POINTS, 1)
        z[:, :, j] = center[j] + scale[j] * values
        flat = z.flatten(0, 1).to(model.dtype)
        x = means(model, flat, repeated(given, len(flat))).double()
        found.append(x.reshape(*z.shape[:2], -1).var(1, correction=0).mean())
        if progress is not None:
            progress(j + 1, bases.shape[1])
    return torch.stack(found)


def _write(path: Path, found: Traversal, levels: int, prior: bool) -> None:
    rows = [f"z{j}  {float(found.activity[j]):.3g}" for j in found.dims]
    what = "nats of KL" if found.unit.startswith("nats") else "levels^2 of variance"
    captions: Sequence[str] = (
        f"{found.shows} around {found.around}; sorted by {what}",
        f"columns: z_j in standard deviations of {'the prior' if prior else 'the codes'}",
    )
    x = pictures.rgb(pictures.shades(found.x.flatten(0, 1), levels - 1), 256)
    if found.x.shape[3] == 1:  # a series: one below another
        rows = [f"{row}  at {float(v):+.1f}" for row in rows for v in found.values]
        picture = pictures.sheet(x, 1, rows=rows, captions=captions)
    else:
        picture = pictures.sheet(x, len(found.values), heads=[f"{float(v):+.1f}" for v in found.values], rows=rows, captions=captions)
    with writing(path) as temporary:
        picture.save(temporary, format="PNG")
