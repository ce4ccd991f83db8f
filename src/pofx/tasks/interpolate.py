"""From one image to another through the latent space: the mean of p(x|z) along a path between two codes.

    slerp   sin((1−t)Ω)/sin Ω · a + sin(tΩ)/sin Ω · b,   Ω the angle between a and b       Shoemake 1985; White 2016, arXiv:1609.04468
    lerp    (1−t) a + t b

In many dimensions N(0, I) has its mass near a sphere. A straight line cuts through the inside, where the decoder never was; slerp between ends of
one norm keeps that norm. Where there is no prior there is no sphere, and the path is straight.

The ends are the codes of two images (of a GAN by inversion, approximate), or, exactly, those of two of the model's own samples.
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
from pofx.model import Decoder, ImageModel, Progress, require
from pofx.tasks._decoding import decodes_to, draws, has_prior, means
from pofx.tasks._files import check_out, writing
from pofx.tasks.bulk import Images, as_images, everything
from pofx.tasks.encode import Codes, encode
from pofx.tasks.invert import Inversion

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
        inversion: of images of a model that only decodes, how good the codes at the ends are; else None.
    """

    x: Tensor
    z: Tensor
    t: Tensor
    way: str
    shows: str
    given: Tensor | None = None
    path: Path | None = None
    inversion: Inversion | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "steps": len(self.t),
            "path": self.way,
            "norms": [float(self.z[0].norm()), float(self.z[-1].norm())],
            "shows": self.shows,
            "inversion": None if self.inversion is None else self.inversion.to_json(),
            "out": None if self.path is None else str(self.path),
        }


def interpolate(
    model: ImageModel,
    ends: Images | Tensor | None = None,
    *,
    seeds: tuple[int, int] | None = None,
    samples: tuple[int, int] | None = None,
    seed: int = 0,
    given: Any = None,
    steps: int | None = None,
    path: PathName = "auto",
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Interpolation:
    """Decode the path between the codes of two images, or between two samples of the model.

    Args:
        ends: two images, a `Split` or uint8 `(2, C, H, W)`; the ends of the path are their codes.
        seeds: or two seeds: the first sample of each.
        samples: or the numbers of two samples of `seed`, from 0, as `sample` draws them.
        seed: of those samples, or of the starts of an inversion.
        given: of a conditional model, the view's value for both ends (one, or two); by default that of the images. Each step takes the value of the
            nearer end.
        steps: with both ends; by default 9 in a picture and 31 in an animation.
        path: "slerp" or "lerp"; auto is slerp where the model has a prior N(0, I).
        out: `.png` a strip with the two images at its ends, `.gif` an animation that goes there and back.

    Raises:
        CapabilityError: the model does not decode, or has no codes of images; samples or slerp where there is no prior.
        InputError: not two ends, another space, fewer than two steps, another ending.

    >>> from pofx.models.variational.vae import VAE
    >>> from pofx.space import ImageSpace
    >>> found = interpolate(VAE.small(ImageSpace(1, 4, 4, levels=2)), seeds=(3, 7), steps=5)
    >>> found.x.shape, found.way
    (torch.Size([5, 1, 4, 4]), 'slerp')
    """
    decoder = require(model, Decoder, to="interpolate")
    if sum(way is not None for way in (ends, seeds, samples)) != 1:
        raise InputError(
            "Interpolation goes between two images, two samples or two seeds: give one of them, e.g. digits:test#3 digits:test#8, or --samples 3,8"
        )
    file = None if out is None else check_out(out, SUFFIXES)
    steps = STEPS.get(".png" if file is None else file.suffix.lower(), 9) if steps is None else steps
    if not 2 <= steps <= MOST:
        raise InputError(f"steps={steps}: an interpolation has 2 … {MOST} steps, both ends among them, e.g. --steps 9.")
    originals, found = None, None
    if ends is not None:
        found, originals, values = _images(model, as_images(ends), given, seed, progress)
        z = found.z
    else:
        pairs = [(s, 0) for s in seeds or ()] + [(seed, number) for number in samples or ()]
        z, values = _draws(decoder, pairs), model.check_given(given, 2)
    t = torch.linspace(0, 1, steps, dtype=torch.double)
    way = _way(model, path, z)
    along = (slerp if way == "slerp" else lerp)(z[0], z[1], t)
    each = None if values is None else values[(t >= 0.5).long().to(values.device)]
    x = means(decoder, along, each, progress=progress)
    result = Interpolation(x, along, t, way, decodes_to(model), each, file, None if found is None else found.inversion)
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


def _draws(model: Decoder, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """z of two samples, each a (seed, number)."""
    if len(pairs) != 2:
        raise InputError(f"{len(pairs)} ends were given; an interpolation has two, e.g. --samples 3,7 or --seeds 3,7")
    if pairs[0] == pairs[1]:
        raise InputError("Both ends are the same sample: there is nothing between them. Give two, e.g. --samples 3,7")
    return torch.cat([draws(model, [number], seed) for seed, number in pairs])


def _images(model: ImageModel, ends: Images, given: Any, seed: int, progress: Progress | None) -> tuple[Codes, Tensor, Tensor | None]:
    if len(ends) != 2:
        raise InputError(
            f"{len(ends)} images were given; an interpolation has two ends. Name one image each, e.g. digits:test#3 digits:test#8"
        )
    x, y = everything(ends)
    value = model.batch(x, y).given if given is None else model.check_given(given, 2)
    return encode(model, ends, given=value, seed=seed, progress=progress), x, value


def _write(path: Path, found: Interpolation, originals: Tensor | None, levels: int) -> None:
    frames = pictures.rgb(pictures.shades(found.x, levels - 1), 256)
    ends = None if originals is None else pictures.rgb(originals, levels)
    caption = f"{found.shows} along a {'great circle' if found.way == 'slerp' else 'straight line'} ({found.way})"
    caption += "" if found.inversion is None else "; codes of the ends by inversion (approximate)"
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
