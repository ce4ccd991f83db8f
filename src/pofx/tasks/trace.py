"""Watch an image being drawn: which sub-pixels are fixed at each step, and how uncertain the model was of each when it was read.

    H_i = −Σ_v p(v | x_<i) log p(v | x_<i),   0 … log levels nats

Step k fixes the k-th group of `order()` that has an unknown sub-pixel. Nothing is drawn in another way than `sample` draws it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pofx import pictures
from pofx.errors import InputError
from pofx.model import Autoregressive, ImageModel, Progress, evaluating, known_rows, one_thread, require
from pofx.noise import Noise
from pofx.tasks._files import check_out, writing
from pofx.tasks.sample import adjustment

SUFFIXES = (".gif", ".png")
MOST = 64  # images
FRAMES = 120
SECONDS, LAST = 8.0, 2.5  # of the whole animation at most, and of its last frame

_GAP, _EMPTY, _KNOWN, _PAPER, _INK = (204, 204, 204), ((250, 250, 250), (222, 228, 236)), (110, 150, 190), (255, 255, 255), (0, 0, 0)
_FIXED = np.array([_GAP, *_EMPTY, _KNOWN, _PAPER, _INK], np.uint8)
_HEAT = 48  # colours of the entropy, dark to bright
_LINE = 15  # screen pixels of a line of text


@dataclass(frozen=True, eq=False)
class Trace:
    """Images, and how they came about.

    Attributes:
        x: uint8 `(n, C, H, W)`: bit for bit what `model.sample` draws.
        entropy: `(n, C, H, W)` float32 nats, of the distribution each sub-pixel was drawn from; NaN where the view made it known.
        step: int64 `(C, H, W)`: the step that fixed it, 1 … steps; 0 where it was known of all images.
        steps: distributions that were read.
        levels: of x.
    """

    x: Tensor
    entropy: Tensor
    step: Tensor
    steps: int
    levels: int

    def frames(self) -> list[int]:
        """The steps after which a frame is shown: all of them, or about 120."""
        return np.unique(np.linspace(0, self.steps, min(self.steps + 1, FRAMES)).round().astype(int)).tolist()

    def write(self, path: str | Path) -> Path:
        """An animated `.gif` or `.png` (APNG): images (pixels that are not fixed: a chequer), and beside each the entropy of its sub-pixels.

        A GIF has 256 colours, so images of more than 200 are shown in 200; a PNG shows every colour as it is.
        """
        path = check_out(path, SUFFIXES)
        gif = path.suffix.lower() == ".gif"
        final, when, empty, palette = _sheet(self, most=200 if gif else None)
        shown = self.frames()
        each = min(0.2, SECONDS / len(shown))
        head, legend = _text(f"step {self.steps} / {self.steps}"), _legend(self.levels, len(palette), bool((self.step == 0).any()))
        width = max(final.shape[1], head.shape[1], legend.shape[1])

        def frames() -> Iterator[NDArray[np.integer]]:
            for step in shown:
                sheet = np.where(when <= step, final, empty)
                parts = [_text(f"step {step} / {self.steps}"), sheet, legend]
                yield np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=4) for part in parts])

        with writing(path) as temporary:
            seconds = [each] * (len(shown) - 1) + [LAST]
            pictures.animate(frames(), palette, temporary, "GIF" if gif else "PNG", seconds)
        return path


def trace(
    model: ImageModel,
    n: int = 4,
    given: Any = None,
    *,
    seed: int = 0,
    first: int = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    progress: Progress | None = None,
) -> Trace:
    """Draw n images step by step and keep what was read.

    Args:
        given: the view's value for each image, or one for all, where the model is conditional.
        temperature, top_p: as `sample` takes them; entropies are then those of the changed distributions.
        progress: called with (done, total).

    Raises:
        CapabilityError: the model has no steps.
        InputError: n < 1 or above 64, wrong `first` or `given`.

    >>> from pofx.models.autoregressive.pixelcnn import PixelCNN
    >>> from pofx.space import ImageSpace
    >>> model = PixelCNN.small(ImageSpace(1, 3, 3, levels=2))
    >>> found = trace(model, 2)
    >>> found.steps, bool((found.x == model.sample(2)).all()), float(found.entropy.max()) < 0.7
    (9, True, True)
    """
    steps = require(model, Autoregressive, to="be traced pixel by pixel")
    adjust = adjustment(temperature, top_p)
    if not 1 <= n <= MOST:
        raise InputError(f"n={n}: a trace shows 1 … {MOST} images, e.g. -n 4.")
    if not 0 <= first < 2**62 - n:
        raise InputError(f"first={first}: images are numbered from 0; use e.g. first=0.")
    value = steps.check_given(given, n)
    if adjust is None:
        x = steps.sample(n, value, seed=seed, first=first, progress=progress).cpu().clone()
    else:
        with torch.inference_mode(), evaluating(steps):
            x = steps.continue_(value, Noise(seed, torch.arange(first, first + n)), progress, adjust).cpu().clone()
    entropy, step, count = _read(steps, x, value, adjust)
    return Trace(x, entropy, step, count, steps.space.levels)


def _read(model: Autoregressive, x: Tensor, given: Tensor | None, adjust: Callable[[Tensor], Tensor] | None) -> tuple[Tensor, Tensor, int]:
    """Entropies and steps, read while x is fixed again: `sample` may draw in threads and without tables, which rounds in another way."""
    space, values = model.space, x.to(model.device).flatten(1).long()
    view = model.known(given)
    known = torch.zeros(1, space.dims, dtype=torch.bool) if view is None else view.reshape(-1, space.dims).cpu()
    of_all = known.all(0)
    entropy, step, count = torch.full(values.shape, math.nan), torch.zeros(space.dims, dtype=torch.long), 0
    with torch.inference_mode(), evaluating(model), one_thread():
        steps = model.begin(len(x), given)
        rows = known_rows(known, space)
        if rows:
            steps.fill(x.to(model.device), rows)
        for group in model.order():
            new = ~of_all[group.cpu()]
            if bool(new.any()):
                count += 1
                log_prob = steps.distribution().double()
                log_prob = log_prob if adjust is None else adjust(log_prob)
                found = torch.special.entr(log_prob.softmax(-1)).sum(-1).float().cpu()
                entropy[:, group.cpu()[new]] = found[:, new]
                step[group.cpu()[new]] = count
            steps.fix(values[:, group])
    return entropy.masked_fill(known, math.nan).reshape(x.shape), step.reshape(space.shape), count


# Drawing: arrays of numbers into a palette ----------------------------------------------------------------------------


def _sheet(trace: Trace, most: int | None) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.uint8]]:
    """The finished picture, the step at which each of its points is shown, what is there before, and the colours `(k, 3)`."""
    n, _, h, w = trace.x.shape
    step = trace.step.numpy()
    rgb = pictures.rgb(trace.x, trace.levels)  # (n, H, W', 3); five channels and more lie side by side
    image, colours = _indices(rgb, most)
    together = step.max(0) if rgb.shape[2] == w else np.concatenate(list(step), 1)
    entropy = trace.entropy.numpy()
    heat = np.nan_to_num(entropy / math.log(trace.levels) * (_HEAT - 1)).round().clip(0, _HEAT - 1).astype(np.int32) + len(_FIXED)
    heat = np.where(np.isnan(entropy), 3, heat)
    palette = np.concatenate([_FIXED, pictures.heat(np.linspace(0, 1, _HEAT), 1.0), colours])
    # A series is a stripe, and its entropy the stripe below it.
    series = w > 3 * h
    high = 192 if n == 1 else 96 if n <= 16 else 48
    across = min(32, max(1, (512 if series else high) // max(h, w)))
    down = max(across, 8) if h == 1 else across
    along = 0 if series else 1

    def lay(images: list[NDArray[Any]], empty: int) -> NDArray[np.int32]:
        large = [image.repeat(down, 0).repeat(across, 1).astype(np.int32) for image in images]
        widest = max(image.shape[1] for image in large)
        if series:
            large = [np.pad(image, ((0, 2), (0, widest - image.shape[1])), constant_values=empty) for image in large]
        else:
            large = [np.pad(image, ((0, 0), (0, 2)), constant_values=empty) for image in large]
        return np.pad(np.concatenate(large, along), ((4, 4), (4, 4)), constant_values=empty)

    cells = [lay([image[i] + len(_FIXED) + _HEAT, *heat[i]], 0) for i in range(n)]
    when = lay([together, *step], 0)
    height, width = when.shape
    # About a square, and few places left empty.
    columns = min(range(1, n + 1), key=lambda c: abs(math.log(width * c / (height * -(-n // c)))) + 0.4 * (-n % c))
    rows = -(-n // columns)
    final, shown = (np.zeros((rows * height, columns * width), np.int32) for _ in range(2))
    for i, cell in enumerate(cells):
        top, left = i // columns * height, i % columns * width
        final[top : top + height, left : left + width] = cell
        shown[top : top + height, left : left + width] = when
    a, b = np.indices(final.shape) // max(2, across // 2)
    return final, shown, ((a + b) % 2 + 1).astype(np.int32), palette


def _indices(rgb: NDArray[np.uint8], most: int | None) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Colours `(…, 3)` as numbers into a palette, exact where it needs no more than `most` entries."""
    colours, numbers = np.unique(rgb.reshape(-1, 3), axis=0, return_inverse=True)
    if most is not None and len(colours) > most:
        fewer, colours = pictures.quantise(colours, most)
        numbers = fewer[numbers.reshape(-1)]
    return numbers.reshape(rgb.shape[:-1]).astype(np.int32), colours


def _text(text: str) -> NDArray[np.int32]:
    """A line of text, dark on light."""
    return np.where(pictures.text(text, _LINE), 5, 4).astype(np.int32)


def _legend(levels: int, colours: int, known: bool) -> NDArray[np.int32]:
    """What the colours of the entropy mean."""
    bar = np.full((_LINE, 2 * _HEAT), 4, np.int32)
    bar[3:-3] = np.arange(_HEAT).repeat(2) + len(_FIXED)
    parts = [_text("entropy 0"), bar, _text(f"{math.log(levels):.2f} nats")]
    if known:
        square = np.full((_LINE, 9), 4, np.int32)
        square[3:-3] = 3
        parts += [_text("  known"), square]
    return np.concatenate(parts, 1)
