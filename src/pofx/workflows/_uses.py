"""What a model is for, in the report: drawn pixel by pixel, holes filled, labels and how sure they are, where odd images are odd, and as a file.

Each part is small (a few images), is there where the model's capabilities allow it, and names the verb that does it in full.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pofx import pictures
from pofx.errors import CapabilityError, InputError
from pofx.model import Autoregressive, Decoder, ImageModel, Labeler, Sampler
from pofx.tasks._statistics import smooth
from pofx.tasks.bulk import everything, per_image, subset
from pofx.tasks.complete import Completion, complete, kept_region
from pofx.tasks.compress import Compressed, compress
from pofx.tasks.heat_maps import HeatMaps, bit_maps, has_map
from pofx.tasks.score import costs
from pofx.tasks.trace import Trace, trace
from pofx.workflows import _page as html

if TYPE_CHECKING:
    from pofx.data import Data

TRACED, COMPLETED, EACH, PACKED = 6, 4, 4, 64
LARGEST = 1100  # sub-pixels of an image, above which what goes pixel by pixel takes too long for a report
PARTICLES = 32
MISTAKES = 8  # pairs of classes


@dataclass(frozen=True)
class Packed:
    """Some test images as a file: what was written, and their cost in bits/dim under the float model, with the sign of its kind."""

    file: Compressed
    n: int
    cost: float
    sign: str


@dataclass(frozen=True)
class Uses:
    """What was tried, or None where a model cannot, it would take too long, or nobody asked.

    Attributes:
        drawn: samples with the entropy of each sub-pixel.
        completed: the upper half kept (of series the first), one for each of the first test images.
        labels: `(n,)` true and most probable labels.
        packed: test images as a file.
    """

    drawn: Trace | None = None
    completed: tuple[Completion, ...] = ()
    labels: tuple[Tensor, Tensor] | None = None
    packed: Packed | None = None


def uses(model: ImageModel, data: Data, *, limit: int, seed: int = 0) -> Uses:
    """Try what the model can do, on a few test images."""
    small = model.space.dims <= LARGEST
    drawn = trace(model, TRACED, seed=seed) if isinstance(model, Autoregressive) and model.given is None and small else None
    completed = _completed(model, data, seed) if small else ()
    labels = None
    if isinstance(model, Labeler):
        images = subset(data.test, limit, seed=seed)
        y = everything(images)[1]
        if y is not None:
            labels = y, per_image(model, lambda x, _: model.label(model.space.check(x).to(model.device)).log_prob.argmax(1), images)
    return Uses(drawn, completed, labels, _packed(model, data, seed) if small else None)


def _completed(model: ImageModel, data: Data, seed: int) -> tuple[Completion, ...]:
    if (
        model.given is not None
        or isinstance(model, Labeler)
        or not isinstance(model, Sampler | Decoder)
        or model.space.height * model.space.width < 4
    ):
        return ()
    height, width = model.space.height, model.space.width
    kept = kept_region(f"top:{max(1, (height if height > 1 else width) // 2)}", height, width)
    x, _ = data.test.take(torch.arange(min(COMPLETED, len(data.test))))
    return tuple(complete(model, one[None], kept, n=EACH, particles=PARTICLES, seed=seed) for one in x)


def _packed(model: ImageModel, data: Data, seed: int) -> Packed | None:
    images = subset(data.test, PACKED, seed=seed)
    x, _ = everything(images)
    with tempfile.TemporaryDirectory() as folder:
        try:
            file = compress(model, x, Path(folder) / "test.pofx")
        except (CapabilityError, InputError):  # no integer form, or weights and activations that leave its range: `compress` says it
            return None
    cost = costs(model, images, seed=seed)
    return Packed(file, len(x), float(cost.bits_per_dim.mean()), cost.sign)


# The page -----------------------------------------------------------------------------------------------------------------


def drawn_part(u: Uses) -> str:
    """Samples above, below them how uncertain the model was of each pixel."""
    if u.drawn is None:
        return ""
    levels = u.drawn.levels
    x = pictures.rgb(u.drawn.x, levels)
    heat = np.stack([pictures.heat((e.nanmean(0) / math.log(levels)).nan_to_num(0).numpy(), 1.0) for e in u.drawn.entropy])
    if x.shape[2] != heat.shape[2]:  # channels side by side
        return ""
    sheet = pictures.sheet(np.concatenate([x, heat]), len(x), scale=html.enlarged(u.drawn.x, 56))
    bits = u.drawn.entropy.nanmean() / math.log(2)
    caption = (
        f"Draws, and below them the entropy of each pixel when it was drawn, from dark (certain) to bright ({math.log2(levels):.3g} bits: anything goes); "
        f"on average {float(bits):.3f} bits a sub-pixel, which is what such images cost. As an animation: pofx sample RUN --trace -o trace.gif"
    )
    return html.picture(sheet, caption, sharp=True)


def completed_part(u: Uses) -> str:
    """Original, what was kept, and completions, a row for each image."""
    if not u.completed:
        return ""
    first = u.completed[0]
    rows = []
    for found in u.completed:
        assert found.original is not None
        rows += [found.original, found.original * found.known, *found.images]
    across = 2 + len(first.images)
    per_row = across if first.images.shape[2] > 1 else 1
    if all(found.kind == "exact" for found in u.completed):
        how = f"exact draws: {first.method}"
    else:
        sizes = [found.ess for found in u.completed if found.ess is not None]
        how = f"approximate: {first.method}" + (
            f", effective sample size {min(sizes):.1f} … {max(sizes):.1f} of {first.particles}" if sizes else ""
        )
    caption = f"Each row: a test image, its kept half, {len(first.images)} completions. They are {how}. More: pofx complete RUN IMAGE --keep top:4"
    return html.grid(torch.stack(rows), first.levels, per_row, want=48, caption=caption, alt="completed images")


def labels_part(u: Uses, names: tuple[str, ...] | None) -> str:
    """Which classes are taken for which."""
    if u.labels is None:
        return ""
    y, found = u.labels
    wrong = y != found
    name: Any = (lambda k: str(k)) if names is None else (lambda k: names[k] if k < len(names) else str(k))
    if not bool(wrong.any()):
        return html.paragraph(f"All of {len(y):,} test images are labelled right.")
    pairs, count = torch.stack([y[wrong], found[wrong]], 1).unique(dim=0, return_counts=True)
    order = count.argsort(descending=True, stable=True)[:MISTAKES]
    rows = [
        [name(int(pairs[i, 0])), name(int(pairs[i, 1])), str(int(count[i])), f"{int(count[i]) / int((y == pairs[i, 0]).sum()):.1%}"]
        for i in order.tolist()
    ]
    caption = (
        f"{int(wrong.sum())} of {len(y):,} test images are labelled wrong; the most frequent ways. With a reject: pofx classify RUN DATA"
    )
    return html.table(["true", "taken for", "images", "of its class"], rows, caption, text=(0, 1))


def packed_part(u: Uses) -> str:
    """The file beside the number that it proves."""
    if u.packed is None:
        return ""
    p = u.packed
    rows = [
        ["the file, everything counted but the model", f"{p.file.bits_per_dim:.4f}"],
        [f"what the model says of these {p.n} images", f"{p.sign} {p.cost:.4f}"],
    ]
    if p.file.initial:
        rows.append(["of the file, bits that bits-back coding starts with", f"{p.file.initial / p.file.dims:.4f}"])
    caption = (
        f"Bits/dim of {p.n} test images in one block of {p.file.size:,} bytes, decoded and compared before it was kept. Larger blocks cost less. "
        "All of them: pofx compress RUN IMAGES -o set.pofx"
    )
    return html.table(["", "bits/dim"], rows, caption)


def maps_of(model: ImageModel, x: Tensor) -> HeatMaps | None:
    """Where images uint8 `(n, C, H, W)` are odd, or None where the model says nothing of single pixels."""
    if not has_map(model) or model.given is not None:
        return None
    bits = bit_maps(model, x)
    return HeatMaps(bits, smooth(bits))


def with_map(x: Tensor, maps: HeatMaps, levels: int, i: int, top: float) -> Image.Image:
    """Image i beside its map."""
    shown = pictures.rgb(x[i : i + 1], levels)[0]
    heat = pictures.heat(maps.smoothed[i, 0].numpy(), top)
    gap = np.full((len(shown), 1, 3), pictures.GAP, np.uint8)
    return Image.fromarray(np.concatenate([shown, gap, heat], 1))
