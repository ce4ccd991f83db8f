"""The chain rule on one image: what each pixel costs given those before it, and the file that all of it becomes.

    −log2 p(x) = Σ_i −log2 p(x_i | x_<i)

One pixel's whole distribution is read as a decoder reads it, from the steps of the model; the costs come from one full pass in float64. The file
is what `compress` writes for this image alone. Its size differs from −log2 p(x) by three parts that are added up here and leave nothing over:

    tables   the integer form's −log2 p less the model's own: networks and tables in whole numbers, a share of at least one for every level
    end      what the range coder writes beyond that: whole bytes, and its last state
    frame    signature, header, lengths, checksums, index
"""

from __future__ import annotations

import copy
import math
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pofx.errors import CapabilityError, InputError
from pofx.model import Autoregressive, ImageModel, Progress, evaluating, one_thread, require
from pofx.tasks._container import Block, read
from pofx.tasks._integer_form import IntegerForm
from pofx.tasks.compress import SUFFIX, compress


@dataclass(frozen=True)
class File:
    """What `compress` wrote for one image, in bits. The model lies beside it and is not counted.

    Attributes:
        bits: of the whole file; `stream` those of the entropy coder, `ideal` −log2 p of the integer form.
        tables, end, frame: bits = −log2 p(x) + tables + end + frame.
    """

    bits: int
    stream: int
    ideal: float
    tables: float

    @property
    def size(self) -> int:
        """Bytes."""
        return self.bits // 8

    @property
    def end(self) -> float:
        return self.stream - self.ideal

    @property
    def frame(self) -> int:
        return self.bits - self.stream

    def to_json(self) -> dict[str, Any]:
        return {"bytes": self.size, "end": self.end, "frame": self.frame} | asdict(self)


@dataclass(frozen=True, eq=False)
class Chain:
    """One image, sub-pixel by sub-pixel.

    Attributes:
        x: uint8 `(C, H, W)`; `levels` of it.
        order: int64 `(dims,)`, flat sub-pixels into (C, H, W) as they come.
        bits: `(dims,)` float64, −log2 p(x_i | x_<i) in that order; 0 where a view knows the sub-pixel.
        row, column, channel: the one that was asked for; `place` where it comes in the order, from 0.
        distribution: `(levels,)` float64, p(· | x_<i) of it.
        file: None where there is none; `why` says why.
    """

    x: Tensor
    levels: int
    order: Tensor
    bits: Tensor
    row: int
    column: int
    channel: int
    place: int
    distribution: Tensor
    file: File | None
    why: str = ""

    @property
    def running(self) -> Tensor:
        """−log2 p of the first sub-pixels, `(dims,)`: the last is −log2 p(x)."""
        return self.bits.cumsum(0)

    @property
    def total(self) -> float:
        """−log2 p(x)."""
        return float(self.bits.sum())

    @property
    def value(self) -> int:
        """Of the sub-pixel that was asked for."""
        return int(self.x[self.channel, self.row, self.column])

    @property
    def entropy(self) -> float:
        """Of its distribution, in bits: what it was expected to cost."""
        return float(torch.special.entr(self.distribution).sum()) / math.log(2)

    def to_json(self) -> dict[str, Any]:
        return {
            "bits": self.total,
            "bits_per_dim": self.total / len(self.order),
            "dims": len(self.order),
            "pixel": {
                "row": self.row,
                "column": self.column,
                "channel": self.channel,
                "place": self.place,
                "value": self.value,
                "p": float(self.distribution[self.value]),
                "bits": float(self.bits[self.place]),
                "bits_before": float(self.running[self.place] - self.bits[self.place]),
                "entropy_bits": self.entropy,
                "distribution": self.distribution.tolist(),
                "sum": float(self.distribution.sum()),
            },
            "running_bits": self.running.tolist(),
            "file": None if self.file is None else self.file.to_json(),
            "no_file": self.why or None,
        }


def chain(
    model: ImageModel,
    x: Tensor,
    given: Any = None,
    *,
    pixel: tuple[int, ...] | None = None,
    file: bool = True,
    progress: Progress | None = None,
) -> Chain:
    """Take −log2 p(x) of one image apart into its pixels, and compare the sum with the file that `compress` writes.

    Args:
        x: uint8 `(1, C, H, W)`.
        given: the view's value, where the model is conditional.
        pixel: (row, column) or (row, column, channel), from 0; by default the one that costs most.
        file: also write the file, in a folder that is not kept; it is decoded again, as always.
        progress: called with (done, total).

    Raises:
        CapabilityError: the model is not autoregressive.
        InputError: not one image, of another space, or no such pixel.

    >>> from pofx.models.autoregressive.made import MADE
    >>> from pofx.space import ImageSpace
    >>> model = MADE.small(ImageSpace(1, 3, 3, levels=4))
    >>> found = chain(model, model.sample(1), pixel=(1, 2))
    >>> round(float(found.distribution.sum()), 9), found.place, found.file.bits % 8
    (1.0, 5, 0)
    >>> abs(found.file.bits - (found.total + found.file.tables + found.file.end + found.file.frame)) < 1e-6
    True
    """
    asked = require(model, Autoregressive, to="be read pixel by pixel")
    if len(x) != 1:
        raise InputError(f"One image is taken apart at a time, found {len(x)}. Give e.g. x[:1], or DATA#0 on the command line.")
    twin = copy.deepcopy(asked).cpu().double().requires_grad_(False)
    image, value = twin.check_pair(x, given)
    shape = twin.space.shape
    order = torch.cat(twin.order()).cpu()
    with torch.inference_mode(), evaluating(twin):
        nats = -twin.conditional_log_prob(image, value)
    known = twin.known(value)
    nats = nats if known is None else nats.masked_fill(known, 0)
    bits = nats.flatten()[order].clone() / math.log(2)
    flat = int(order[bits.argmax()]) if pixel is None else _flat(pixel, shape)
    channel, row, column = (int(v) for v in torch.unravel_index(torch.tensor(flat), shape))
    place = int((order == flat).nonzero())
    if progress is not None:
        progress(1, 3)
    distribution = _distribution(twin, image, value, flat, row)
    if progress is not None:
        progress(2, 3)
    written, why = _written(model, x, float(bits.sum())) if file else (None, "It was not asked for.")
    if progress is not None:
        progress(3, 3)
    return Chain(image[0].clone(), twin.space.levels, order, bits, row, column, channel, place, distribution, written, why)


def _flat(pixel: tuple[int, ...], shape: tuple[int, int, int]) -> int:
    c, h, w = shape
    row, column, channel = (*pixel, 0)[:3] if len(pixel) in (2, 3) else (-1, -1, -1)
    if not (0 <= channel < c and 0 <= row < h and 0 <= column < w):
        raise InputError(
            f"There is no pixel {','.join(map(str, pixel))} in images of {c}×{h}×{w}: give row,column"
            + (",channel" if c > 1 else "")
            + f" from 0, e.g. --pixel {h // 2},{w // 2}"
        )
    return (channel * h + row) * w + column


def _distribution(model: Autoregressive, x: Tensor, given: Tensor | None, flat: int, rows: int) -> Tensor:
    """p(· | x_<i) of one sub-pixel, `(levels,)`: rows above it are taken in one pass, then step by step."""
    values = x.flatten(1).long()
    with torch.inference_mode(), evaluating(model), one_thread():
        steps = model.begin(1, given)
        if rows:
            steps.fill(x, rows)
        for group in model.order():
            here = (group == flat).nonzero()
            if len(here):
                return steps.distribution()[0, int(here[0])].double().softmax(-1).clone()
            steps.fix(values[:, group])
    raise AssertionError("an order holds every sub-pixel")


def _written(model: ImageModel, x: Tensor, bits: float) -> tuple[File | None, str]:
    """The file of one image, taken apart."""
    try:
        form = IntegerForm.of(model)
    except (CapabilityError, InputError) as error:
        return None, str(error)
    with tempfile.TemporaryDirectory() as folder:
        found = compress(form, x.cpu(), Path(folder) / f"one{SUFFIX}", block=1)
        (part,) = read(found.path.read_bytes()).parts
    assert isinstance(part, Block)
    return File(8 * found.size, 8 * len(part.stream), found.ideal, found.ideal - bits), ""
