"""What is left of an image that went through its code? x beside p(x|z), z = E q(z|x): a draw, the mean, or the standard deviation.

A model that only decodes (a GAN) has codes of images by inversion, which are approximate: what is left is then at most what inversion found.

    ‖x − E[x|z]‖²      the squared error, pixels on [0, 1], summed over the sub-pixels of an image, mean over images
    RMSE               √ of its mean over images and sub-pixels, in levels

The default picture draws x from p(x|z), since that is what the model says of pixels; the mean is smoother than any image that the model
believes in. Errors are always those of the mean. Sub-pixels that a view makes known are copied and not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pofx import pictures
from pofx.errors import InputError
from pofx.likelihoods import PixelDistribution
from pofx.metrics.mean import Mean
from pofx.model import Decoder, Encoder, ImageModel, LatentVariable, Progress, require
from pofx.noise import Noise, hash_images
from pofx.tasks._decoding import known_again, mean_dims, means
from pofx.tasks._files import check_out, writing
from pofx.tasks.bulk import Images, TensorImages, as_images, per_image, subset
from pofx.tasks.encode import encode, inverts
from pofx.tasks.invert import Inversion

Show = Literal["sample", "mean", "sd"]

SUFFIXES = (".png", ".npz")
PICTURE = 32  # images in a picture
INVERTED = 100  # images whose codes are found by inversion, unless more are asked for
WHAT = {"sample": "a draw from p(x|z)", "mean": "the mean of p(x|z)", "sd": "the standard deviation of p(x|z)"}
SHOWS = tuple(WHAT)


def check_show(show: str) -> None:
    if show not in SHOWS:
        raise InputError(f"--show {show}: it can be {', '.join(SHOWS)}.")


def pixels(decoded: Any, show: str, noise: Noise) -> Tensor:
    """A draw (as floats), the mean or the standard deviation of what a model decoded, `(n, C, H, W)` in levels.

    Raises:
        TypeError: a draw or a standard deviation of a point.
    """
    if show == "mean":
        return decoded.mean
    if not isinstance(decoded, PixelDistribution):
        raise TypeError(f"{type(decoded).__name__} is no distribution over pixels")
    if show == "sd":
        return decoded.sd
    mean = decoded.parameters
    return decoded.sample(noise.uniform("x", *decoded.space.shape).to(mean.device)).to(mean.dtype)


def gray(x: Tensor) -> Tensor:
    """A quantity of colour images, as one grey plane: its root mean square over the channels."""
    return x if x.shape[1] in (1, *range(5, 99)) else x.square().mean(1, keepdim=True).sqrt()


def squared_errors(model: ImageModel, images: Images | Tensor, *, progress: Progress | None = None) -> Tensor:
    """‖x − E[x|z]‖² at z = E q(z|x), pixels on [0, 1], over sub-pixels of each image that are not known: `(n,)` float64.

    Raises:
        CapabilityError: the model does not encode, or not decode. Errors of codes by inversion are those of `invert`.
    """
    encoder, decoder = require(model, Encoder, to="reconstruct images"), require(model, Decoder, to="reconstruct images")

    def error(x: Tensor, y: Tensor | None) -> Tensor:
        batch = model.batch(x, y)
        mean = decoder.decode(encoder.encode(batch.x, batch.given), batch.given).mean
        return model.unknown_sum(((mean.double() - batch.x) / (model.space.levels - 1)).square(), batch.given)

    return per_image(model, error, images, progress=progress)


@dataclass(frozen=True)
class Reconstructions:
    """What became of images.

    Attributes:
        show: "sample", "mean" or "sd": what `shown` holds; `what` says it in words.
        shown: `(k, C, H, W)` floats in levels, of the first images (all, for `.npz`).
        squared_error: `(n,)` of each image, ‖x − E[x|z]‖² on [0, 1], over sub-pixels that were not known.
        rmse_levels: √ of the mean squared error of a sub-pixel, in levels.
        dims: sub-pixels of an image that count; their mean where the view knows other pixels of each.
        inversion: of a model that only decodes, how good the codes are; else None.
    """

    show: Show
    what: str
    shown: Tensor
    squared_error: Tensor
    rmse_levels: float
    dims: int | float
    path: Path | None = None
    inversion: Inversion | None = None

    def to_json(self) -> dict[str, Any]:
        error = self.squared_error
        return {
            "n": len(error),
            "show": self.show,
            "squared_error_of_mean": Mean.of(error).to_json(),
            "rmse_of_mean_levels": self.rmse_levels,
            "dims": self.dims,
            "inversion": None if self.inversion is None else self.inversion.to_json(),
            "out": None if self.path is None else str(self.path),
        }


def reconstruct(
    model: ImageModel,
    images: Images | Tensor,
    *,
    show: Show | None = None,
    n: int = PICTURE,
    limit: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Reconstructions:
    """Encode images and decode them again.

    Args:
        images: a `Split`, or uint8 `(n, C, H, W)`; errors are means over all of them, or over `limit`.
        limit: so many of the images, chosen at random but always the same; by default all, or 100 where codes are found by inversion.
        show: a draw from p(x|z), its mean or its standard deviation; by default a draw, and the mean where a model decodes to a point.
        n: how many of the first images a picture shows.
        seed: of the draws, which are keyed by the image, or of the starts of an inversion.
        out: `.png` each original beside what `show` says; `.npz` uint8 `x` and float32 `reconstruction`, all images.

    Raises:
        CapabilityError: the model has no codes of images, or does not decode; a draw or a standard deviation of a model that decodes to a point.
        InputError: images of another space, no images, a limit below 1, another ending.

    >>> from pofx.models.variational.vae import VAE
    >>> from pofx.space import ImageSpace
    >>> found = reconstruct(VAE.small(ImageSpace(1, 4, 4, levels=2)), torch.zeros(3, 1, 4, 4, dtype=torch.uint8), show="sd")
    >>> found.shown.shape, found.squared_error.shape
    (torch.Size([3, 1, 4, 4]), torch.Size([3]))
    """
    decoder = require(model, Decoder, to="reconstruct images")
    wanted: Show = show or ("sample" if isinstance(model, LatentVariable) else "mean")
    check_show(wanted)
    if wanted != "mean":
        require(model, LatentVariable, to=f"show {WHAT[wanted]} (it decodes to a point; use --show mean)")
    if n < 1:
        raise InputError(f"n={n}: show at least one image, e.g. -n 16.")
    if limit is not None and limit < 1:
        raise InputError(f"limit={limit}: measure over at least one image, e.g. --limit 100.")
    path = None if out is None else check_out(out, SUFFIXES)
    space, inverted = model.space, inverts(model)
    images = subset(as_images(images), INVERTED if inverted and limit is None else limit)

    def decoded(x: Tensor, y: Tensor | None, what: str) -> Tensor:
        batch = model.batch(x, y)
        encoder = require(model, Encoder, to="reconstruct images")
        p = decoder.decode(encoder.encode(batch.x, batch.given), batch.given)
        return known_again(model, pixels(p, what, Noise(seed, hash_images(batch.x))), batch.given, what)

    found = encode(model, images, seed=seed, progress=progress).inversion if inverted else None
    errors = squared_errors(model, images, progress=progress) if found is None else found.squared_error
    count = len(images) if path is not None and path.suffix.lower() == ".npz" else min(n, len(images))
    x, y = images.take(torch.arange(count))
    if found is None:
        shown = per_image(model, lambda x, y: decoded(x, y, wanted), TensorImages(x, y))
    else:
        shown = means(decoder, found.z[:count], model.batch(x, y).given)
    dims = mean_dims(model, images) if found is None else found.dims
    rmse = (space.levels - 1) * math.sqrt(float(errors.mean()) / dims)
    what = WHAT[wanted] if isinstance(model, LatentVariable) else "what the code z decodes to"
    what += "" if found is None else ", by inversion (approximate)"
    result = Reconstructions(wanted, what, shown, errors, rmse, dims, path, found)
    if path is not None and path.suffix.lower() == ".npz":
        with writing(path) as temporary, temporary.open("wb") as file:
            arrays = {"x": x.numpy(), "reconstruction": shown.float().numpy(), "show": np.array(wanted)}
            np.savez_compressed(file, allow_pickle=False, **arrays, squared_error=errors.numpy(), id=np.array(list(images.ids)))
    elif path is not None:
        with writing(path) as temporary:
            _picture(x, shown, wanted, result.what, space.levels).save(temporary, format="PNG")
    return result


def _picture(x: Tensor, shown: Tensor, show: str, what: str, levels: int) -> Any:
    caption = f"right: {what}, z = the code of the image at the left"
    if show == "sd":
        spread = gray(shown)
        caption += f"; white = {float(spread.max()):.3g} levels"
        second = pictures.rgb(pictures.shades(spread, float(spread.max())), 256)
    elif show == "sample":
        second = pictures.rgb(shown.to(torch.uint8), levels)
    else:
        second = pictures.rgb(pictures.shades(shown, levels - 1), 256)
    both = np.stack([pictures.rgb(x, levels), second], 1).reshape(-1, *second.shape[1:])
    series = x.shape[2] == 1
    pairs = 1 if series else max(1, min(len(x), round(math.sqrt(len(x) / 2)), 1024 // (2 * max(64, x.shape[3]))))
    heads = ("original", {"sample": "draw", "mean": "mean", "sd": "sd"}[show])
    return pictures.sheet(both, 2 * pairs, heads=heads, captions=[caption], group=2)
