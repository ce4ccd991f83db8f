"""Draw docs/pictures/completions.png: one digit, completed by runs of four kinds from results/weights.

python docs/completions.py [--out docs/pictures/completions.png]     (needs MNIST and binarized MNIST in $POFX_DATA)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image

import pofx
from pofx.data import load_data
from pofx.model import ImageModel
from pofx.tasks.complete import complete, kept_region

ROOT = Path(__file__).resolve().parents[1]
WHICH = 3  # of the test images, the same digit in both sets
# run, data, what is kept
SHOWN = (
    ("binarized-mnist-gated", "binarized-mnist", "top:14"),
    ("binarized-mnist-gated", "binarized-mnist", "bottom:14"),
    ("mnist-vae", "mnist:dynamic", "left:14"),
    ("mnist-gan", "mnist", "top:14"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures" / "completions.png")
    out = parser.parse_args().out
    sheets = []
    for name, spec, keep in SHOWN:
        model = pofx.load(ROOT / "results" / "weights" / name)
        assert isinstance(model, ImageModel)
        x, _ = load_data(spec).test.take(torch.tensor([WHICH]))
        done = complete(model, x, kept_region(keep, model.space.height, model.space.width), n=8)
        sheets.append(done.sheet().convert("RGB"))
    page = Image.new("RGB", (max(s.width for s in sheets), sum(s.height for s in sheets)), "white")
    top = 0
    for sheet in sheets:
        page.paste(sheet, (0, top))
        top += sheet.height
    page.save(out)


if __name__ == "__main__":
    main()
