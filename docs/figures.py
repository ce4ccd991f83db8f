"""Draw the figures of docs/autoregressive.md from the real modules: what each model's pixels see, and the diagonal order of the BiLSTM.

python docs/figures.py [--out docs/pictures]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import pofx
from pofx import pictures
from pofx.nn.recurrent import diagonal_plan
from pofx.space import ImageSpace
from pofx.tasks.receptive_field import receptive_field

SIDE, CELL = 15, 10
NOT_YET, SEEN, BLIND, ASKED, PAPER, INK = range(6)
PALETTE = np.array([(232, 234, 238), (74, 122, 196), (240, 178, 84), (200, 60, 60), (255, 255, 255), (40, 44, 52)], np.uint8)


def cells(kinds: NDArray[np.int64], cell: int = CELL) -> NDArray[np.int64]:
    """A map of kinds `(h, w)` as squares with a line between them."""
    out = np.full((kinds.shape[0] * cell + 1, kinds.shape[1] * cell + 1), PAPER)
    for i, j in np.ndindex(*kinds.shape):
        out[i * cell + 1 : (i + 1) * cell, j * cell + 1 : (j + 1) * cell] = kinds[i, j]
    return out


def titled(picture: NDArray[np.int64], line: str, height: int = 18) -> NDArray[np.int64]:
    words = pictures.text(line, height)
    out = np.full((picture.shape[0] + height, max(picture.shape[1], words.shape[1])), PAPER)
    out[:height, : words.shape[1]][words] = INK
    out[height:, : picture.shape[1]] = picture
    return out


def beside(parts: list[NDArray[np.int64]], gap: int = 14) -> NDArray[np.int64]:
    height = max(p.shape[0] for p in parts)
    padded = [np.pad(p, ((0, height - p.shape[0]), (0, gap)), constant_values=PAPER) for p in parts]
    return np.concatenate(padded, 1)


def receptive_fields() -> NDArray[np.int64]:
    """One map a model: the asked pixel, what it sees, and the past that it does not see."""
    space = ImageSpace(1, SIDE, SIDE, levels=2)
    m = pofx.models
    models = {
        "PixelCNN, 3 blocks": m.PixelCNN(space, layers=3, channels=4),
        "Gated PixelCNN, 4 layers": m.GatedPixelCNN(space, layers=4, channels=4),
        "Row LSTM, 2 layers": m.PixelRNN(space, kind="row", layers=2, channels=4, first_kernel=3),
        "Diagonal BiLSTM, 1 layer": m.PixelRNN(space, kind="diagonal", layers=1, channels=4, first_kernel=3),
        "PixelCNN++": m.PixelCNNpp(space, channels=4, blocks=1),
        "Multiscale, base 4": m.Multiscale(space, base=4, layers=2, channels=4),
        "MADE": m.MADE(space, hidden=2 * SIDE * SIDE),
    }
    parts = []
    raster_past = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) < 9 * SIDE + 7
    for name, model in models.items():
        field = receptive_field(model, 9, 7, draws=4)
        kinds = np.full((SIDE, SIDE), NOT_YET)
        # Row by row is the past that a pixel may have; a model whose groups come in another order has another one.
        past = field.past[0].numpy() if isinstance(model, m.Multiscale) else raster_past
        kinds[past & ~field.seen[0].numpy()] = BLIND
        kinds[field.seen[0].numpy()] = SEEN
        kinds[9, 7] = ASKED
        parts.append(titled(cells(kinds), name))
    half = -(-len(parts) // 2)
    rows = [beside(parts[:half]), beside(parts[half:])]
    width = max(r.shape[1] for r in rows)
    return np.concatenate([np.pad(r, ((8, 8), (0, width - r.shape[1])), constant_values=PAPER) for r in rows])


def diagonal_order(height: int, width: int) -> Iterator[NDArray[np.int64]]:
    """The image, and the same skewed, as the scan goes over it: one frame a step, H + W − 1 in all."""
    plan = diagonal_plan(height, width, torch.device("cpu"))
    total = len(plan.steps)
    i, j = np.mgrid[:height, :width]
    for step in range(total):
        image = np.where(i + j < step, SEEN, NOT_YET)
        image[i + j == step] = ASKED
        skewed = np.full((height, total), PAPER)
        skewed[i, i + j] = image
        yield titled(beside([cells(image), cells(skewed)]), f"step {step + 1} of {total} = {height} + {width} - 1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "pictures")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    pictures.animate([receptive_fields()], PALETTE, out / "receptive_fields.png", "PNG", [1])
    frames = list(diagonal_order(9, 9))
    pictures.animate(frames, PALETTE, out / "diagonal_order.gif", "GIF", [0.35] * (len(frames) - 1) + [2])


if __name__ == "__main__":
    main()
