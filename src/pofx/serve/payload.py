"""Bytes of a request → images of the run, or a reason why not. Sizes that are declared are checked before memory is asked for."""

from __future__ import annotations

import io
import itertools
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pofx.data.arrays import as_images
from pofx.data.decode import Refused, TooLarge, decode, header
from pofx.data.transforms import Conversion, over_white
from pofx.errors import InputError
from pofx.space import ImageSpace
from pofx.workflows.loading import ways

PICTURES = ("image/png", "image/jpeg")
ARRAYS = ("application/x-npy", "application/octet-stream")
JSON = "application/json"


class Malformed(Exception):
    """A request that cannot be read; `status` is its HTTP code."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """What a request may hold at most: bytes, pixels of a picture, images."""

    bytes: int = 16 << 20
    pixels: int = 16_000_000
    images: int = 1000


@dataclass(frozen=True)
class Payload:
    """x uint8 `(n, C, H, W)`; labels int64 `(n,)` and hole bool `(H, W)` where JSON names them."""

    x: NDArray[np.uint8]
    labels: NDArray[np.int64] | None = None
    hole: NDArray[np.bool_] | None = None


def read(
    body: bytes, kind: str, space: ImageSpace, limits: Limits, *, convert: bool = False, classes: int | None = None, hole: bool = False
) -> Payload:
    """Images of `space` from a body of media type `kind`.

    Args:
        convert: convert images of another size, in colour or with more levels, as `--size`, `--gray` and `--levels` do.
        classes: labels may be named, 0 … classes−1; hole: a hole may be named.

    Raises:
        Malformed: it cannot be read, or is too large.
        InputError: it holds other images than those of the run.
    """
    if not body:
        raise Malformed(f"The request is empty. Send an image: {', '.join((*PICTURES, ARRAYS[0], JSON))}.")
    if kind in PICTURES:
        return Payload(_picture(body, space, limits, convert))
    if kind in ARRAYS:
        return Payload(_fitting(_npy(body, space, limits), space, convert))
    if kind == JSON:
        return _json(body, space, limits, convert, classes, hole)
    raise Malformed(f"Content-Type {kind or 'is missing; it'} is none of {', '.join((*PICTURES, *ARRAYS, JSON))}.", 415)


def _picture(body: bytes, space: ImageSpace, limits: Limits, convert: bool) -> NDArray[np.uint8]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused below, by a limit of ours
            head = header(body)
            if head.height * head.width > limits.pixels:
                raise Malformed(f"The picture is {head.height}×{head.width}; at most {limits.pixels:,} pixels are taken.", 413)
            x = decode(body, head.channels)[None]
    except Refused as error:
        raise Malformed(f"The picture cannot be read: {error}.", 413 if isinstance(error, TooLarge) else 400) from error
    return _fitting(x, space, convert, levels=256)


def _npy(body: bytes, space: ImageSpace, limits: Limits) -> NDArray[np.uint8]:
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(stream)
    except (ValueError, EOFError, OSError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise Malformed(f"The body is no .npy file: {_line(error)}. Make one with np.save(file, x).") from error
    if dtype.hasobject:
        raise Malformed("The .npy file holds pickled Python objects, which are never opened. Send whole numbers: x.astype('uint8').")
    if min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize != len(body) - stream.tell():
        raise Malformed(f"The .npy file declares {shape} of {dtype} and holds {len(body) - stream.tell()} bytes of them.")
    if shape and shape[0] > limits.images:
        raise Malformed(f"{shape[0]:,} images; at most {limits.images:,} are taken at once.", 413)
    array = np.frombuffer(body, dtype, offset=stream.tell()).reshape(shape, order="F" if fortran else "C")
    if array.shape in (space.shape, space.shape[1:]):  # one image
        array = array.reshape(1, *space.shape)
    return as_images(array, "The array")


def _json(body: bytes, space: ImageSpace, limits: Limits, convert: bool, classes: int | None, hole: bool) -> Payload:
    try:
        told = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"The body is not JSON: {_line(error)}.") from error
    names = {"images", *(("labels",) if classes is not None else ()), *(("hole",) if hole else ())}
    if not isinstance(told, Mapping) or "images" not in told:
        raise Malformed(
            'JSON is an object with "images": n × channels × height × width whole numbers, e.g. {"images": [[[[0, 1], [1, 0]]]]}.'
        )
    if unknown := set(told) - names:
        raise Malformed(f"JSON has an unknown name {sorted(unknown)[0]!r}. Known: {', '.join(sorted(names))}.")
    x = _whole(told["images"], 4, "images", 0, 255).astype(np.uint8)
    if not x.size:
        raise Malformed("There is no image in the request.")
    if len(x) > limits.images:
        raise Malformed(f"{len(x):,} images; at most {limits.images:,} are taken at once.", 413)
    x = _fitting(x, space, convert)
    labels = None
    if "labels" in told:
        labels = _whole(told["labels"], 1, "labels", 0, (classes or 1) - 1)
        if len(labels) != len(x):
            raise Malformed(f"There are {len(labels)} labels for {len(x)} images.")
    missing = None
    if "hole" in told:
        missing = _whole(told["hole"], 2, "hole", 0, 1)
        if missing.shape != space.shape[1:]:
            raise InputError(f"The hole is {missing.shape}; the images of the run are {space.shape[1:]} (height, width).")
    return Payload(x, labels, None if missing is None else missing.astype(bool))


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _whole(value: Any, depth: int, what: str, least: int, most: int) -> NDArray[np.int64]:
    """Lists of lists of whole numbers, of equal lengths."""
    shape, flat = [], [value]
    for _ in range(depth):
        if not all(isinstance(part, list) for part in flat) or len({len(part) for part in flat}) > 1:
            raise Malformed(f'"{what}" must be lists of whole numbers, {depth} deep, of equal lengths.')
        shape.append(len(flat[0]) if flat else 0)
        flat = list(itertools.chain.from_iterable(flat))
    kinds = set(map(type, flat))
    if kinds <= {int, float} and float in kinds and all(float(v).is_integer() for v in flat):  # 1.0 is a whole number of JSON
        flat, kinds = [int(v) for v in flat], {int}
    if not kinds <= {int}:
        raise Malformed(f'"{what}" must hold whole numbers {least} … {most}, {depth} deep.')
    if flat and not least <= min(flat) <= max(flat) <= most:
        raise Malformed(f'"{what}" holds {min(flat) if min(flat) < least else max(flat)}; it must be {least} … {most}.')
    return np.array(flat, np.int64).reshape(shape)


def _fitting(x: NDArray[np.uint8], space: ImageSpace, convert: bool, levels: int | None = None) -> NDArray[np.uint8]:
    """Images of the run, converted where that is asked for. `levels`: how many a pixel can have; None for an array, which does not say.

    Raises:
        InputError: they are of another space; the message says what `convert` would do."""
    found = ImageSpace(*x.shape[1:], levels=levels or (space.levels if int(x.max()) < space.levels else 256))
    if found == space:
        return x
    needed = ways(found, space)
    if needed is None:
        channels = f"{space.channels} channel{'s' * (space.channels > 1)}"
        raise InputError(f"The run is a model of {space}; these images are {found}. Send images of {channels}.")
    if not convert:
        raise InputError(
            f"The run is a model of {space}; these images are {found}. Add ?convert=true to make them so: {', '.join(needed)}."
        )
    gray = "gray" in needed
    x = over_white(x) if gray and found.channels == 4 else x
    return Conversion(gray, space.shape[1:], found.levels, space.levels)(x)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120].rstrip(".") or type(error).__name__
