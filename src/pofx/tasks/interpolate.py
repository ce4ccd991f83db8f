"""From one image to another through the latent space: the mean of p(x|z) along a path between two codes.

    slerp   sin((1−t)Ω)/sin Ω · a + sin(tΩ)/sin Ω · b,   Ω the angle between a and b       Shoemake 1985; White 2016, arXiv:1609.04468
    lerp    (1−t) a + t b

In many dimensions N(0, I) has its mass near a sphere. A straight line cuts through the inside, where the decoder never was; slerp between ends of
one norm keeps that norm. Where there is no prior there is no sphere, and the path is straight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pofx import pictures
from pofx.errors import CapabilityError, InputError
from pofx.model import Decoder, Encoder, ImageModel, LatentVariable, Progress, Sampler, evaluating, require
from pofx.noise import Noise
from pofx.tasks._files import check_out, writing
from pofx.tasks.bulk import Images, as_images, everything
from pofx.tasks.encode import codes
from pofx.tasks.reconstruct import decodes_to, means

SUFFIXES = (".png", ".gif")
STEPS = {".png": 9, ".gif": 31}
MOST = 500  # steps
PathName = Literal["auto", "slerp", "lerp"]


def lerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """The straight path: `(d,)`, `(d,)` at `t` `(k,)`: `(k, d)`; a and b themselves at 0 and 1."""
    t = t.to(a)[:, None]
    return torch.where(t == 1, b, a + t * (b - a))


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """The path on the sphere: `(d,)`, `(d,)` at `t` `(k,)`: `(k, d)`; a and b themselves at 0 and 1; straight where they have one direction.

    Raises:
        InputError: a and b are opposite: every way around is as good.

    >>> slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.5, 1.0])).norm(dim=1).round(decimals=4)
    tensor([1., 1., 1.])
    """
    u, v = a.double(), b.double()
    if not float(u.norm()) or not float(v.norm()):
        return lerp(a, b, t)
    u, v = u / u.norm(), v / v.norm()
    # Kahan: exact for small angles too, where the arc cosine is not
    angle = 2 * torch.atan2((u - v).norm(), (u + v).norm())
    if float(math.pi - angle) < 1e-6:
        raise InputError("The two codes are opposite, and no way around the sphere is the shortest. Take the straight one: --path lerp")
    if float(angle) < 1e-6:
        return lerp(a, b, t)
    t = t.double().to(a.device)[:, None]
    along = (torch.sin((1 - t) * angle) * a.double() + torch.sin(t * angle) * b.double()) / torch.sin(angle)
    return torch.where(t == 0, a, torch.where(t == 1, b, along.to(a)))


def has_prior(model: ImageModel) -> bool:
    """Whether z ~ N(0, I) is part of the model: of one with a posterior, or one that samples by decoding."""
    return isinstance(model, LatentVariable) or (isinstance(model, Decoder) and isinstance(model, Sampler))


@dataclass(frozen=True)
class Interpolation:
    """Images along a path.

    Attributes:
        x: `(steps, C, H, W)`, E[x | z_t, given], floats in 0 … levels−1; not samples of p.
        z: `(steps, latent_dims)`.
        t: `(steps,)`, 0 … 1.
        way: "slerp" or "lerp".
        shows: what `x` is, in words.
        given: the view's value of each step or None: that of the nearer end.
    """

    x: Tensor
    z: Tensor
    t: Tensor
    way: str
    shows: str
    given: Tensor | None = None
    path: Path | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "steps": len(self.t),
            "path": self.way,
            "norms": [float(self.z[0].norm()), float(self.z[-1].norm())],
            "shows": self.shows,
            "out": None if self.path is None else str(self.path),
        }


def interpolate(
    model: ImageModel,
    ends: Images | Tensor | None = None,
    *,
    seeds: tuple[int, int] | None = None,
    given: Any = None,
    steps: int | None = None,
    path: PathName = "auto",
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Interpolation:
    """Decode the path between the codes of two images, or between two draws of z.

    Args:
        ends: two images, a `Split` or uint8 `(2, C, H, W)`; the ends of the path are their codes.
        seeds: or two seeds, for z ~ N(0, I): for models that only decode (a GAN).
        given: of a conditional model, the view's value for both ends (one, or two); by default that of the images. Each step takes the value of the
            nearer end.
        steps: with both ends; by default 9 in a picture and 31 in an animation.
        path: "slerp" or "lerp"; auto is slerp where the model has a prior N(0, I).
        out: `.png` a strip with the two images at its ends, `.gif` an animation that goes there and back.

    Raises:
        CapabilityError: the model does not decode, or not encode images; seeds or slerp where there is no prior.
        InputError: not two ends, another space, fewer than two steps, another ending.

    >>> from pofx.models.variational.vae import VAE
    >>> from pofx.space import ImageSpace
    >>> found = interpolate(VAE.small(ImageSpace(1, 4, 4, levels=2)), seeds=(3, 7), steps=5)
    >>> found.x.shape, found.way
    (torch.Size([5, 1, 4, 4]), 'slerp')
    """
    decoder = require(model, Decoder, to="interpolate")
    if (ends is None) == (seeds is None):
        raise InputError("Interpolation goes between two images or between two seeds: give either, e.g. digits:test#3 digits:test#8")
    file = None if out is None else check_out(out, SUFFIXES)
    steps = STEPS.get(".png" if file is None else file.suffix.lower(), 9) if steps is None else steps
    if not 2 <= steps <= MOST:
        raise InputError(f"steps={steps}: an interpolation has 2 … {MOST} steps, both ends among them, e.g. --steps 9.")
    if seeds is not None:
        z, originals, values = _draws(decoder, seeds), None, model.check_given(given, 2)
    else:
        assert ends is not None
        z, originals, values = _images(model, as_images(ends), given)
    t = torch.linspace(0, 1, steps, dtype=torch.double)
    way = _way(model, path, z)
    along = (slerp if way == "slerp" else lerp)(z[0], z[1], t)
    each = None if values is None else values[(t >= 0.5).long().to(values.device)]
    x = means(decoder, along, each, progress=progress)
    result = Interpolation(x, along, t, way, decodes_to(model), each, file)
    if file is not None:
        _write(file, result, originals, model.space.levels)
    return result


def _way(model: ImageModel, path: str, z: Tensor) -> str:
    if path not in ("auto", "slerp", "lerp"):
        raise InputError(f"--path {path}: it can be auto, slerp, lerp.")
    if path == "slerp" and not has_prior(model):
        raise CapabilityError(f"{type(model).__name__} has no prior N(0, I), and so no sphere to stay on: use --path lerp")
    # On a line there is no way around
    return ("slerp" if has_prior(model) and z.shape[1] > 1 else "lerp") if path == "auto" else path


def _draws(model: Decoder, seeds: Sequence[int]) -> Tensor:
    if not has_prior(model):
        raise CapabilityError(f"{type(model).__name__} has no prior to draw codes from: give two images, and not --seeds.")
    if len(seeds) != 2:
        raise InputError(f"{len(seeds)} seeds were given; an interpolation has two ends, e.g. --seeds 3,7")
    return torch.cat([Noise(seed, torch.zeros(1, dtype=torch.long)).normal("z", model.latent_dims) for seed in seeds]).to(model.dtype)


def _images(model: ImageModel, ends: Images, given: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    if not isinstance(model, Encoder) and has_prior(model):
        raise CapabilityError(f"{type(model).__name__} decodes but does not encode: interpolate between two draws of z with --seeds 3,7")
    encoder = require(model, Encoder, to="interpolate between images")
    if len(ends) != 2:
        raise InputError(
            f"{len(ends)} images were given; an interpolation has two ends. Name one image each, e.g. digits:test#3 digits:test#8"
        )
    x, y = everything(ends)
    if given is None:
        return codes(encoder, ends), x, model.batch(x, y).given
    value = model.check_given(given, 2)
    with torch.inference_mode(), evaluating(encoder):
        z = encoder.encode(x.to(model.device), value)
    return z.cpu().clone(), x, value


def _write(path: Path, found: Interpolation, originals: Tensor | None, levels: int) -> None:
    frames = pictures.rgb(pictures.shades(found.x, levels - 1), 256)
    ends = None if originals is None else pictures.rgb(originals, levels)
    caption = f"{found.shows} along a {'great circle' if found.way == 'slerp' else 'straight line'} ({found.way})"
    heads = [f"{float(t):.2f}" for t in found.t]
    if path.suffix.lower() == ".gif":
        shown = [
            pictures.sheet(
                frame[None] if ends is None else np.stack([ends[0], frame, ends[1]]),
                1 if ends is None else 3,
                heads=(head,) if ends is None else ("from", head, "to"),
                captions=[found.way],
            )
            for frame, head in zip(frames, heads, strict=True)
        ]
        pause = [0.8 if i in (0, len(shown) - 1) else max(0.04, 2.0 / len(shown)) for i in range(len(shown))]
        with writing(path) as temporary:
            pictures.movie(shown + shown[-2:0:-1], temporary, pause + pause[-2:0:-1])
        return
    if ends is not None:
        frames, heads = np.concatenate([ends[:1], frames, ends[1:]]), ["from", *heads, "to"]
    columns = 1 if found.x.shape[2] == 1 else min(len(frames), max(2, 1100 // max(64, frames.shape[2])))
    if columns == len(frames):
        picture = pictures.sheet(frames, columns, heads=heads, captions=[caption])
    else:  # heads belong to columns, and there are several rows of them
        picture = pictures.sheet(frames, columns, captions=[f"row by row: {caption}"])
    with writing(path) as temporary:
        picture.save(temporary, format="PNG")
