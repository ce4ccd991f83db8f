"""One image file → one uint8 array, or a refusal that says why in a few words.

What a file may be, and what becomes of it:

    grey, 1-bit, RGB            taken as they are (1-bit becomes 0 and 255)
    palette                     its colours; grey when all of them are grey
    transparency                composited over white
    CMYK, YCbCr, LAB, HSV       converted to RGB
    EXIF orientation            applied
    16 or 32 bits a channel     refused: how to make 8 bits of them is a decision about the data
    more than one frame         refused
    over `PIXEL_LIMIT` pixels   refused from the header, without decoding (decompression bombs)
    corrupt, truncated          refused
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pofx.data.transforms import luma, over_white

PIXEL_LIMIT = 1 << 26
"""Largest width × height that is decoded: 64 megapixels."""

SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".bmp", ".dib", ".gif", ".webp", ".avif"}
    | {".tif", ".tiff", ".tga", ".pgm", ".ppm", ".pbm", ".pnm"}
)
"""File names that are taken for images."""

# Pillow looks at content, not at names, and knows formats that start other programs (EPS); these are the ones it may open.
_FORMATS = ("PNG", "JPEG", "JPEG2000", "BMP", "DIB", "GIF", "WEBP", "AVIF", "TIFF", "TGA", "PPM")

# Decoders raise whatever their parser trips on when bytes are wrong; these are the ones Pillow's documentation and fuzzing have shown.
_BROKEN = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, AttributeError, MemoryError, RuntimeError),
    *(struct.error, zlib.error),
)
_GREY = {"1", "L", "LA", "La"}
_KNOWN = _GREY | {"P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV"}

Encoded = Path | bytes
T = TypeVar("T")
R = TypeVar("R")


class Refused(Exception):
    """A verdict about one file, not an error of the program: it is not taken; the text says why in a few words."""


class TooLarge(Refused):
    """More pixels than are decoded."""


@dataclass(frozen=True)
class Header:
    """What the first bytes of a file tell: size after EXIF rotation, 1 or 3 channels, conversions it will need."""

    height: int
    width: int
    channels: int
    notes: tuple[str, ...] = ()


def header(source: Encoded) -> Header:
    """Read the header of one image file, decoding nothing; raises Refused."""
    image = _open(source)
    try:
        with image:
            notes = []
            if _has_alpha(image):
                notes.append("alpha over white")
            if image.mode in {"CMYK", "YCbCr", "LAB", "HSV"}:
                notes.append(f"{image.mode.lower()} to rgb")
            width, height = image.size
            if image.getexif().get(0x0112, 1) in (5, 6, 7, 8):  # the camera was held upright
                width, height = height, width
            return Header(height, width, 1 if _is_grey(image) else 3, tuple(notes))
    except _BROKEN as error:
        raise Refused(_corrupt(error)) from error


def decode(source: Encoded, channels: int) -> NDArray[np.uint8]:
    """Decode one image file to uint8 `(channels, H, W)`, values 0 … 255; channels 1 (BT.601 luma of colours) or 3; raises Refused."""
    image = _open(source)
    try:
        with image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            if _has_alpha(upright):
                x = over_white(np.asarray(upright.convert("RGBA")).transpose(2, 0, 1))
            elif upright.mode in _GREY:
                x = np.asarray(upright.convert("L"))[None]
            else:
                x = np.asarray(upright.convert("RGB")).transpose(2, 0, 1)
    except _BROKEN as error:
        raise Refused(_corrupt(error)) from error
    if channels == 1 and len(x) == 3:
        x = luma(x)
    return np.ascontiguousarray(np.broadcast_to(x, (channels, *x.shape[1:])))


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(form for form in _FORMATS if form in Image.OPEN)  # a build of Pillow may lack some


def _open(source: Encoded) -> Image.Image:
    try:
        image = Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=_formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLarge(f"more than {PIXEL_LIMIT >> 20} megapixels, not decoded") from error
    except Image.UnidentifiedImageError as error:
        raise Refused("not an image, or corrupt") from error
    except _BROKEN as error:
        raise Refused(_corrupt(error)) from error
    width, height = image.size
    if width * height > PIXEL_LIMIT:
        image.close()
        raise TooLarge(f"{width}×{height} is more than {PIXEL_LIMIT >> 20} megapixels, not decoded")
    try:
        reason = _refusal(image)
    except _BROKEN as error:
        reason = _corrupt(error)
    if reason:
        image.close()
        raise Refused(reason)
    return image


def _refusal(image: Image.Image) -> str | None:
    # A phone's .jpg may hold a second picture (MPO); the first one is the photograph.
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        return f"animated or several pages ({frames} frames); save one frame as PNG"
    raw = " ".join(str(tile[3]) for tile in getattr(image, "tile", []))
    if image.mode.startswith("I;16") or ";16" in raw:
        return "16 bits a channel; convert it to 8 bits first, e.g. `magick in.png -depth 8 out.png`"
    if image.mode in {"I", "F"}:
        return "32 bits a pixel; convert it to 8 bits first"
    if image.mode not in _KNOWN:
        return f"colour mode {image.mode} is not known; save it as an 8-bit RGB PNG"
    return None


def _corrupt(error: BaseException) -> str:
    text = " ".join(str(error).split())[:100]
    return f"corrupt or truncated ({text or type(error).__name__})"


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in {"LA", "La", "PA", "RGBA", "RGBa"} or "transparency" in image.info


def _is_grey(image: Image.Image) -> bool:
    if image.mode in {"P", "PA"}:
        colours = np.reshape(image.getpalette() or [], (-1, 3))
        return bool((colours == colours[:, :1]).all())
    return image.mode in _GREY


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="pofx-decode")


def in_parallel(function: Callable[[Any], R], items: Iterator[T] | list[T], at_once: int = 1024) -> Iterator[R]:
    """`map(function, items)` in order on a small thread pool (Pillow's decoders release the lock); `at_once` bounds what waits in memory."""
    items = iter(items)
    while group := list(islice(items, at_once)):
        yield from _pool().map(function, group)
