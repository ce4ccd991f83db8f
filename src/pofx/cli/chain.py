"""`pofx chain RUN [IMAGE] --pixel ROW,COLUMN`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pofx.cli.common import Answer, Common, DataFlags, Flag, load_model, run_info
from pofx.errors import InputError


def chain(
    run: str,
    image: str | None = None,
    /,
    *,
    pixel: str | None = None,
    no_file: Flag = False,
    out: Annotated[Path | None, Parameter(name=["-o", "--out"])] = None,
    data_flags: DataFlags = DataFlags(),
    common: Common = Common(),
) -> Answer:
    """What each pixel of an image costs, and the file that it becomes.

    An autoregressive model gives each pixel a distribution over all its values, given the pixels before it. The sum of −log2 p over the pixels is
    the length of the file that `pofx compress` writes, but for its frame and the rounding of integer arithmetic, which are shown too.

    Args:
        run: a run folder or a Hub id, of an autoregressive model.
        image: an image file, or DATA#index, e.g. digits:test#3; by default the first test image of the run's data.
        pixel: row,column or row,column,channel, from 0; by default the one that costs most.
        no_file: do not write the file (it takes most of the time).
        out: .html a page, .png its figure.
    """
    import torch

    from pofx.cli.interpolate import one_image
    from pofx.workflows import chain as workflow

    at = None if pixel is None else _numbers(pixel)
    model = load_model(run, common)
    if image is None:
        part, image = run_info(run).load_data(common.note).test, "the first test image"
    else:
        part = one_image(image, model, run, data_flags, common)
    x, y = part.take(torch.tensor([0]))
    with common.progress("reading") as progress:
        found = workflow.chain(model, x, model.batch(x, y).given, out, pixel=at, file=not no_file, name=run, image=image, progress=progress)
    facts = {"run": run, "image": image, "out": None if out is None else str(out)} | found.to_json()
    tail = str(out) if out else "Add -o chain.html for the page."
    return Answer(facts, "\n".join([f"{run} on {image}", *workflow.in_words(found), tail]))


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (2, 3) or not all(part.isdecimal() for part in parts):
        raise InputError(f"--pixel {text}: row,column or row,column,channel, whole numbers from 0, e.g. --pixel 3,5")
    return tuple(map(int, parts))
