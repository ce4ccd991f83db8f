"""`pofx interpolate RUN IMAGE_A IMAGE_B -o strip.png`; and how one image is named: a file, or DATA#index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from pofx.cli.common import Answer, Common, DataFlags, load_images, load_model, run_info
from pofx.errors import InputError

if TYPE_CHECKING:
    from pofx.data import Split
    from pofx.model import ImageModel


def interpolate(
    run: str,
    image_a: str | None = None,
    image_b: str | None = None,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["-o", "--out"])] = None,
    seeds: str | None = None,
    steps: int | None = None,
    path: Literal["auto", "slerp", "lerp"] = "auto",
    label: str | None = None,
    data_flags: DataFlags = DataFlags(),
    common: Common = Common(),
) -> Answer:
    """From one image to another through latent space.

    Args:
        run: a run folder or a Hub id.
        image_a: an image file, or DATA#index, e.g. digits:test#3 (the fourth test image).
        image_b: the other end.
        out: .png a strip, .gif an animation that goes there and back.
        seeds: two seeds of z in place of two images, e.g. 3,7; for models that only decode (a GAN).
        steps: images along the path, both ends among them; by default 9 in a picture, 31 in an animation.
        path: slerp keeps to the sphere that N(0, I) lies near, lerp is straight; auto is slerp where the model has that prior.
        label: of a run with --given label: the class to decode with, or two with a comma; by default those of the images.
    """
    from pofx.data.part import end_to_end
    from pofx.tasks.interpolate import interpolate as task

    model = load_model(run, common)
    ends, numbers = None, None
    if seeds is not None:
        if image_a is not None:
            raise InputError("Two images and --seeds both say where to begin and end; give one of them.")
        numbers = _seeds(seeds)
    else:
        if image_a is None or image_b is None:
            raise InputError("An interpolation has two ends: name two images, e.g. digits:test#3 digits:test#8, or --seeds 3,7")
        ends = end_to_end([one_image(image, model, run, data_flags, common) for image in (image_a, image_b)])
    value = ends_given(model, run, 2, label, common, needed=ends is None)
    with common.progress("decoding") as progress:
        result = task(model, ends, seeds=numbers, given=value, steps=steps, path=path, out=out, progress=progress)
    facts = {"run": run, "from": image_a, "to": image_b, "seeds": numbers, "label": label} | result.to_json()
    first, last = facts["norms"]
    text = f"{facts['steps']} {result.shows}, by {result.way}; |z| is {first:.2f} at one end and {last:.2f} at the other"
    return Answer(facts, [text, f"{result.path}" if result.path else "Add -o strip.png, or -o strip.gif, to see them."])


def _seeds(text: str) -> tuple[int, int]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2 or not all(part.isdecimal() and int(part) < 2**62 for part in parts):
        raise InputError(f"--seeds {text}: two whole numbers with a comma, e.g. --seeds 3,7")
    return int(parts[0]), int(parts[1])


def ends_given(model: ImageModel, run: str, n: int, label: str | None, common: Common, *, needed: bool) -> object:
    """The view's value from --label, or None where images shall say it (or there is no view)."""
    from pofx.cli.sample import view_value

    if label is None and not (needed and model.given is not None):
        return None
    return view_value(model, run, n, label, None, common)


def one_image(spec: str, model: ImageModel, run: str, flags: DataFlags, common: Common) -> Split:
    """One image as a part: a file, or DATA#index.

    Raises:
        InputError: there is none of that number, or several and no number.
    """
    split = load_images(spec, model.space, flags, common, run_info(run)).split
    if len(split) != 1:
        raise InputError(f"{spec} holds {len(split)} images; say which one, e.g. '{spec}#0'")
    return split
