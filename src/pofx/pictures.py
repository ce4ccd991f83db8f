"""Images of small integers → one picture a person can look at. Pixels stay pixels: whole-number scaling, no smoothing."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pofx.errors import InputError

GAP = 204
"""Grey of the gaps: differs from black ink and from white paper."""


def grid(x: Any, levels: int = 256, columns: int | None = None, scale: int | None = None, pad: int = 1) -> Image.Image:
    """Lay images out in rows.

    Args:
        x: uint8 `(N, C, H, W)`, tensor or array, values 0 … levels−1, stretched to 0 … 255. 1 channel is drawn grey, 2 as red and green, 3 as RGB,
            4 as RGBA over white, more side by side in grey. Series (H = 1) are drawn as stripes, one below another.
        columns: images in a row; default: about a square.
        scale: screen pixels a pixel; default: small images are enlarged.
        pad: width of the gaps, in screen pixels.

    Raises:
        InputError: no images, or not of this form.

    >>> grid(np.zeros((5, 1, 8, 8), np.uint8), 17, columns=3, scale=1).size
    (28, 19)
    """
    x = np.asarray(x.detach().cpu().numpy() if hasattr(x, "detach") else x)
    if x.ndim != 4 or x.dtype != np.uint8 or not x.size:
        raise InputError(f"A picture is made of uint8 images (N, C, H, W), found {x.dtype} {x.shape}.")
    n, _, height, width = x.shape
    x = rgb(x, levels)
    if scale is None:
        scale = max(1, 64 // max(x.shape[1:3])) if height > 1 else max(1, 512 // width)
    if height == 1:
        x = x.repeat(max(1, 8 // scale), 1)
        columns = columns or 1
    across = min(n, columns or math.ceil(math.sqrt(n * x.shape[1] / x.shape[2])))
    x = x.repeat(scale, 1).repeat(scale, 2)
    h, w = x.shape[1] + pad, x.shape[2] + pad
    rows = -(-n // across)
    sheet = np.full((rows * h + pad, across * w + pad, 3), GAP, np.uint8)
    for i, image in enumerate(x):
        top, left = i // across * h + pad, i % across * w + pad
        sheet[top : top + x.shape[1], left : left + x.shape[2]] = image
    return Image.fromarray(sheet)


def rgb(x: Any, levels: int = 256) -> NDArray[np.uint8]:
    """Images uint8 `(N, C, H, W)`, tensor or array, as `grid` shows them: `(N, H, W', 3)`, W' = C·W for more than 4 channels, else W."""
    x = np.asarray(x.detach().cpu().numpy() if hasattr(x, "detach") else x)
    # Rounded up, so that ⌊v·levels/256⌋ (`--levels`) gives back the value that was drawn.
    x = (-(x.astype(np.int32) * -255 // (levels - 1))).clip(0, 255).astype(np.uint8)
    channels = x.shape[1]
    if channels == 2:
        x = np.concatenate([x, np.zeros_like(x[:, :1])], 1)
    elif channels == 4:
        alpha = x[:, 3:].astype(np.uint32)
        x = ((x[:, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    elif channels != 3:
        x = np.concatenate(np.split(x, channels, 1), 3).repeat(3, 1)
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def each(x: Any, levels: int = 256) -> Iterator[Image.Image]:
    """Images uint8 `(N, C, H, W)`, tensor or array, C 1, 3 or 4, one picture each, a pixel a pixel: `--levels` reads the very same integers back.

    >>> [picture.getpixel((0, 0)) for picture in each(np.array([[[[0]]], [[[16]]]], np.uint8), 17)]
    [0, 255]
    """
    x = np.asarray(x.detach().cpu().numpy() if hasattr(x, "detach") else x)
    shown = (-(x.astype(np.int32) * -255 // (levels - 1))).astype(np.uint8).transpose(0, 2, 3, 1)  # rounded up, as in `rgb`
    for image in shown:
        yield Image.fromarray(image[..., 0] if image.shape[-1] == 1 else np.ascontiguousarray(image))


def shades(x: Any, top: float) -> NDArray[np.uint8]:
    """Real values `(N, C, H, W)`, tensor or array, as `rgb` takes them with 256 levels: 0 black, `top` and above white.

    >>> shades(np.full((1, 1, 1, 1), 0.5), 1.0).item()
    128
    """
    x = np.asarray(x.detach().cpu().numpy() if hasattr(x, "detach") else x, np.float64)
    return np.rint((x / (top or 1.0)).clip(0, 1) * 255).astype(np.uint8)


HEAT = np.array([(18, 18, 30), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], float)
"""Colours of heat maps, dark to bright."""


def heat(values: NDArray[Any], top: float) -> NDArray[np.uint8]:
    """Values `(…)` as colours `(…, 3)`: 0 and below dark, `top` and above bright.

    >>> heat(np.array([0.0, 2.0]), 1.0).tolist()
    [[18, 18, 30], [252, 255, 164]]
    """
    at = (values / top).clip(0, 1) * (len(HEAT) - 1)
    return np.stack([np.interp(at, range(len(HEAT)), channel) for channel in HEAT.T], -1).round().astype(np.uint8)


LINE = 15
"""Screen pixels of a line of text."""


def sheet(
    images: NDArray[np.uint8],
    columns: int,
    *,
    heads: Sequence[str] = (),
    rows: Sequence[str] = (),
    captions: Sequence[str] = (),
    group: int = 0,
    scale: int | None = None,
) -> Image.Image:
    """A contact sheet with words: rows of images with a name left of each, a head above each column, lines of text below.

    Args:
        images: uint8 `(N, H, W, 3)`, from `rgb`; row by row.
        heads: one for each column, or a few that repeat; plain letters.
        group: so many columns stand close together; 0: all.
        scale: screen pixels a pixel; default: small images are enlarged.

    >>> sheet(np.zeros((4, 8, 8, 3), np.uint8), 2, heads=("a", "b"), scale=2).size
    (35, 50)
    """
    n, height, width, _ = images.shape
    scale = scale or (max(1, 64 // max(height, width)) if height > 1 else max(1, 512 // width))
    down = scale if height > 1 else max(8, LINE if rows else 8)
    images = images.repeat(down, 1).repeat(scale, 2)
    names = [text(name) for name in rows]
    tops = [text(head) for head in heads]
    h, w = max(images.shape[1], LINE if rows else 0), max([images.shape[2], *(t.shape[1] for t in tops)])
    left, top = max((name.shape[1] for name in names), default=0), LINE if heads else 0
    lefts = [left + 1 + c * (w + 1) + (c // group * 6 if group else 0) for c in range(columns)]
    lines = [text(line) for line in captions]
    across = max([lefts[-1] + w + 1, *(line.shape[1] for line in lines)])
    count = -(-n // columns)
    under = top + 1 + count * (h + 1)
    made = np.full((under + LINE * len(lines), across, 3), GAP, np.uint8)
    made[:top], made[under:], made[:, :left] = 255, 255, 255
    for at, end in zip([left, *(x + w + 1 for x in lefts)], [*lefts, across], strict=True):
        if end - at > 1:  # between groups, and beside the last column
            made[:under, at:end] = 255

    def write(mask: NDArray[np.bool_], y: int, x: int) -> None:
        made[y : y + mask.shape[0], x : x + mask.shape[1]][mask] = 0

    for c, x in enumerate(lefts):
        if tops:
            head = tops[c % len(tops)]
            write(head, 0, x + (w - head.shape[1]) // 2)
    for r, name in enumerate(names):
        write(name, top + 1 + r * (h + 1) + (h - LINE) // 2, 0)
    for i, image in enumerate(images):
        y, x = top + 1 + i // columns * (h + 1), lefts[i % columns] + (w - images.shape[2]) // 2
        made[y : y + images.shape[1], x : x + images.shape[2]] = image
    for i, line in enumerate(lines):
        write(line, under + LINE * i, 0)
    return Image.fromarray(made)


def text(line: str, height: int = 15) -> NDArray[np.bool_]:
    """A line of plain letters as bool `(height, width)`."""
    font = ImageFont.load_default()
    _, top, right, bottom = font.getbbox(line)
    image = Image.new("L", (int(right) + 6, height))
    ImageDraw.Draw(image).text((3, round((height - top - bottom) / 2)), line, fill=255, font=font)
    return np.asarray(image) > 110


def quantise(colours: NDArray[np.uint8], most: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Colours uint8 `(k, 3)` in at most `most`: which one stands for each, `(k,)`, and those `(m, 3)`."""
    image = Image.fromarray(colours[None]).quantize(most, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    return np.asarray(image)[0].astype(np.int64), palette[:most]


def animate(
    frames: Iterable[NDArray[np.integer]], palette: NDArray[np.uint8], path: Path, form: Literal["GIF", "PNG"], seconds: Sequence[float]
) -> None:
    """Write an animation that repeats; each frame after the first stores only the points that changed, the others are transparent.

    Args:
        frames: numbers `(height, width)` into `palette` uint8 `(k, 3)`; above 255 colours only a PNG can hold them.
        seconds: that each frame is shown.
    """
    transparent = len(palette)
    indexed = transparent < 256
    opaque = np.pad(palette, ((0, 1), (0, 0)))
    alpha = np.append(np.full(transparent, 255, np.uint8), np.uint8(0))

    def image(frame: NDArray[np.integer]) -> Image.Image:
        if not indexed:
            return Image.fromarray(np.dstack([opaque[frame], alpha[frame]]))
        made = Image.fromarray(frame.astype(np.uint8))
        made.putpalette(opaque.tobytes())
        made.info["transparency"] = transparent  # Pillow compares frames, and transparent is not black
        return made

    images: list[Image.Image] = []
    before: NDArray[np.integer] | None = None
    for frame in frames:
        images.append(image(frame if before is None else np.where(frame == before, transparent, frame)))
        before = frame
    first, *others = images
    more: dict[str, Any] = {"transparency": transparent} if indexed else {}
    if form == "GIF":
        more |= {"disposal": 1, "optimize": False}
    else:
        more |= {"disposal": 0, "blend": [0] + [1] * len(others)}
    first.save(
        path, format=form, save_all=True, append_images=others, duration=[10 * max(2, round(100 * s)) for s in seconds], loop=0, **more
    )


def movie(frames: Sequence[Image.Image], path: Path, seconds: Sequence[float]) -> None:
    """Pictures of one size as a GIF that repeats; more than 255 colours are shown in 255."""
    shown = np.stack([np.asarray(frame.convert("RGB")) for frame in frames])
    codes, numbers = np.unique(shown.reshape(-1, 3).astype(np.int32) @ np.array([65536, 256, 1], np.int32), return_inverse=True)
    colours = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], 1).astype(np.uint8)
    if len(colours) > 255:
        fewer, colours = quantise(colours, 255)
        numbers = fewer[numbers.reshape(-1)]
    animate(list(numbers.reshape(shown.shape[:3])), colours, path, "GIF", seconds)


def save(picture: Image.Image, path: str | Path) -> Path:
    """Write a picture beside `path` and rename it, so that a killed process leaves no half of one. The suffix says the form (.png)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix or ".png", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            picture.save(stream, format=_format(path))
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    return path


def _format(path: Path) -> str:
    known = Image.registered_extensions() | {"": "PNG"}
    if path.suffix.lower() not in known:
        raise InputError(f"{path}: {path.suffix!r} is no form of picture that can be written. Use .png.")
    return known[path.suffix.lower()]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
