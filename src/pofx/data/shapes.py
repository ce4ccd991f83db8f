"""`shapes`: pictures whose causes are known. One coloured shape on black, RGB 16×16, 8 bits, made on the fly without files.

    x = render(kind, x, y, size, angle, hue)

Each factor takes the values of VALUES, and the set is 6,000 of their 49,152 combinations, drawn without repetition by `pofx.noise`: factors are
independent and uniform but for that, images are equal on every machine, and the label is the kind. The idea is that of dSprites (Matthey et al.
2017), small, in colour and anti-aliased.

Every factor is a line, not a circle, and can be read off the image: the angle stays below 90° (a square turned by 90° is itself again; one turned
by 79° is close to one turned by 0°), the hue goes from red to blue and not back to red.

Factors do not travel with `Split`, which knows images and labels only; an image's name leads to them:

    data = load_data("shapes");  factors(data.test.ids)  →  int64 (n, 6)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pofx.errors import InputError
from pofx.noise import Noise

NAME = "shapes"
SIDE, COUNT = 16, 6000
KINDS = ("square", "ellipse", "heart")
FINE = 4  # each pixel is the mean of FINE × FINE points
CHUNK = 32  # images drawn at once: the fine rasters of more leave the cache

# Positions and sizes in parts of the image, angles in degrees, hues in turns of the colour circle.
# No edge of a square at 0° meets a point of the raster, so that rounding decides nothing.
VALUES: dict[str, NDArray[np.float64]] = {
    "kind": np.linspace(0.0, 2.0, 3),
    "x": np.linspace(0.3, 0.7, 8),
    "y": np.linspace(0.3, 0.7, 8),
    "size": np.linspace(0.131, 0.251, 4),
    "angle": np.linspace(0.0, 78.75, 8),
    "hue": np.linspace(0.0, 2 / 3, 8),
}
NAMES = tuple(VALUES)
SHAPE = tuple(len(values) for values in VALUES.values())


def factors(which: Sequence[str] | Tensor | NDArray[np.int64]) -> Tensor:
    """What each image is made of: int64 `(n, 6)`, columns NAMES, entries that number VALUES.

    Args:
        which: names of images, as in `data.test.ids`, or their numbers 0 … 5999.

    Raises:
        InputError: a name or number that is not of this set.

    >>> dict(zip(NAMES, factors(["shapes/0"])[0].tolist(), strict=True))["kind"] in (0, 1, 2)
    True
    """
    if not isinstance(which, Tensor | np.ndarray):
        known = [name.rpartition("/") for name in which]
        for name, (head, _, number) in zip(which, known, strict=True):
            if head != NAME or not number.isdecimal():
                raise InputError(
                    f"{name!r} is no image of {NAME}; only its images have factors. Use factors(load_data('{NAME}').test.ids)."
                )
        which = np.array([int(number) for _, _, number in known], np.int64)
    index = torch.as_tensor(which).long().reshape(-1)
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < COUNT:
        raise InputError(f"{NAME} has images 0 … {COUNT - 1}, asked for {int(index.min())} … {int(index.max())}.")
    return _all_factors()[index]


@cache
def _all_factors() -> Tensor:
    """COUNT different combinations, in random order."""
    drawn = torch.argsort(Noise(0, torch.arange(int(np.prod(SHAPE)))).bits(NAME, 1)[:, 0], stable=True)[:COUNT]
    return torch.from_numpy(np.stack(np.unravel_index(drawn.numpy(), SHAPE), 1)).long()


def render(factors: Tensor) -> Tensor:
    """The images of any combinations of values: int64 `(n, 6)` → uint8 `(n, 3, 16, 16)`.

    Raises:
        InputError: not of this shape, or no number of a value.

    >>> render(torch.tensor([[0, 4, 4, 3, 0, 0]]))[0, :, 8, 8].tolist()  # a red square covers the middle
    [255, 0, 0]
    """
    if factors.ndim != 2 or factors.shape[1] != len(NAMES):
        raise InputError(f"Factors are (n, {len(NAMES)}): {', '.join(NAMES)}; found {tuple(factors.shape)}.")
    if bool(((factors < 0) | (factors >= torch.tensor(SHAPE))).any()):
        raise InputError(f"Factors number VALUES: {', '.join(f'{k} 0 … {n - 1}' for k, n in zip(NAMES, SHAPE, strict=True))}.")
    f = factors.numpy()
    out = np.empty((len(f), 3, SIDE, SIDE), np.uint8)
    for kind in range(len(KINDS)):
        rows = np.flatnonzero(f[:, 0] == kind)
        for part in np.split(rows, range(CHUNK, len(rows), CHUNK)):
            inside = margin(kind, f[part]) > 0
            cover = inside.reshape(-1, SIDE, FINE, SIDE, FINE).mean((2, 4))  # sixteenths: exact
            colour = _rgb(VALUES["hue"][f[part, 5]])
            out[part] = np.floor(255 * cover[:, None] * colour[:, :, None, None] + 0.5)
    return torch.from_numpy(out)


def margin(kind: int, f: NDArray[np.int64]) -> NDArray[np.float64]:
    """How far inside a shape of this kind each point of the fine raster lies, unitless, positive inside: `(n, 6)` → `(n, 64, 64)`."""
    x, y, size, angle = (VALUES[name][f[:, i], None] for i, name in enumerate(NAMES[1:5], 1))
    at = (np.arange(SIDE * FINE) + 0.5) / (SIDE * FINE)
    # The upright shape in units of its size, seen from a raster that is turned back; v points up
    across, up = (at - x) / size, (y - at) / size
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    u = (cos * across)[:, None, :] + (sin * up)[:, :, None]
    v = (cos * up)[:, :, None] - (sin * across)[:, None, :]
    if kind == 0:
        return 0.85 - np.maximum(abs(u), abs(v))
    if kind == 1:
        v /= 0.55
        return 1 - (u * u + v * v)
    a, b = 1.2 * u, 1.2 * v + 0.1
    ring = a * a + b * b - 1
    return a * a * (b * b * b) - ring * ring * ring


def _rgb(hue: NDArray[np.float64]) -> NDArray[np.float64]:
    """Full colours: hue in turns `(n,)` → `(n, 3)` in [0, 1] (Smith 1978, HSV with S = V = 1)."""
    return np.clip(abs((6 * hue[:, None] + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
