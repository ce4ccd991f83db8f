"""Draw the pictures of docs/conditional.md from the runs in results/weights: holes filled, and images of a class.

    python docs/completions.py [NAME …] [--out docs/pictures]     (needs the sets named below in $POFX_DATA)

completions: one digit, completed by runs of four kinds. lower-halves: clothes and photographs, continued below what is kept. of-a-class: a row of
draws of p(x | label) for each digit.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image

import pofx
from pofx import pictures
from pofx.data import load_data
from pofx.model import ImageModel, Sampler, require
from pofx.tasks.complete import complete, kept_region

ROOT = Path(__file__).resolve().parents[1]
# run, data, which of its test images, what is kept
SHOWN = {
    "completions": (
        ("binarized-mnist-gated", "binarized-mnist", 3, "top:14"),
        ("binarized-mnist-gated", "binarized-mnist", 3, "bottom:14"),
        ("mnist-vae", "mnist:dynamic", 3, "left:14"),
        ("mnist-gan", "mnist", 3, "top:14"),
    ),
    "lower-halves": (
        ("fashion-mnist-pixelcnn-pp", "fashion-mnist", 0, "top:14"),
        ("fashion-mnist-pixelcnn-pp", "fashion-mnist", 3, "top:14"),
        ("fashion-mnist-pixelcnn-pp", "fashion-mnist", 4, "top:14"),
        ("cifar10-pixelcnn-pp", "cifar10", 1, "top:16"),
    ),
}
CLASSES = ("mnist-bayes", "of-a-class", 12)  # run, picture, draws of each


def loaded(name: str) -> ImageModel:
    model = pofx.load(ROOT / "results" / "weights" / name)
    assert isinstance(model, ImageModel)
    return model


def completed(shown: tuple[tuple[str, str, int, str], ...]) -> Image.Image:
    """Contact sheets, one below another."""
    sheets = []
    for name, spec, which, keep in shown:
        model = loaded(name)
        x, _ = load_data(spec).test.take(torch.tensor([which]))
        done = complete(model, x, kept_region(keep, model.space.height, model.space.width), n=8)
        sheets.append(done.sheet().convert("RGB"))
    page = Image.new("RGB", (max(s.width for s in sheets), sum(s.height for s in sheets)), "white")
    top = 0
    for sheet in sheets:
        page.paste(sheet, (0, top))
        top += sheet.height
    return page


def of_a_class(run: str, n: int) -> Image.Image:
    """n draws of p(x | label) in a row, for each label; of a Bayes classifier, by its part."""
    model = loaded(run)
    source = require(getattr(model, "part", model), Sampler, to="draw images of a class")
    asked = torch.arange(getattr(model, "classes", 10)).repeat_interleave(n)
    return pictures.grid(source.sample(len(asked), given=asked, seed=0), model.space.levels, columns=n)


def main() -> None:
    names = (*SHOWN, CLASSES[1])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(names)}; all")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures")
    options = parser.parse_args()
    if unknown := set(options.names) - set(names):
        parser.error(f"no picture {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    for name in options.names or names:
        page = of_a_class(CLASSES[0], CLASSES[2]) if name == CLASSES[1] else completed(SHOWN[name])
        page.save(options.out / f"{name}.png")


if __name__ == "__main__":
    main()
