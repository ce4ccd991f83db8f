"""A character model: a text is an image of height 1, its letters are levels, and p(x_i | x_<i) is what a language model says.

    python examples/character_model.py [FILE] [OUT]

Without a file it learns the documentation of Python that comes with Python.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import torch

import pofx
from pofx.data.text import decode
from pofx.tasks.evaluate import evaluate


def main(source: str = "", out: str = "runs/characters", *, minutes: float = 5.0, channels: int = 128) -> float:
    with tempfile.TemporaryDirectory() as folder:
        if not source:
            source = str(Path(folder) / "python.txt")
            Path(source).write_text("\n".join(topics.values()), encoding="utf-8")
        data = pofx.load_data(f"text:{source}", size="1x64")
    assert data.alphabet is not None
    torch.manual_seed(0)
    # On images of height 1 the diagonals are the pixels themselves: an LSTM language model
    model = pofx.models.PixelRNN(data.space, kind="diagonal", layers=1, channels=channels, lr=5e-3)
    pofx.train(model, data, out=out, minutes=minutes, batch_size=32)
    bits = evaluate(model, data.test, draw=0, limit=200).main.bits_per_dim
    assert bits is not None
    print(f"{bits.mean:.2f} ± {bits.se:.2f} bits a character on test windows, {len(data.alphabet)} characters")
    for text in decode(model.sample(4, seed=1), data.alphabet):
        print(f"--- {text}")
    return bits.mean


if __name__ == "__main__":
    main(*sys.argv[1:])
