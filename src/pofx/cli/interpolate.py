"""`pofx interpolate RUN IMAGE_A IMAGE_B -o strip.png`; and how one image is named: a file, or DATA#index."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from cyclopts import Parameter

from pofx.cli.common import Answer, Common, DataFlags, load_images, load_model, run_info
from pofx.cli.encode import inverted
from pofx.errors import InputError

if TYPE_CHECKING:
    from pofx.data import Split
    from pofx.model import ImageModel


class Condition(NamedTuple):
    """What samples are of, as typed: --label or --like."""

    label: str | None
    like: str | None

    @property
    def flags(self) -> list[str]:
        """What was typed: the flag and its value, or nothing."""
        return [word for name, text in self._asdict().items() if text is not None for word in (f"--{name}", text)]

    @property
    def words(self) -> str:
        """The same for a line to paste, with a space before it."""
        return f" {shlex.join(self.flags)}" if self.flags else ""


def interpolate(
    run: str,
    image_a: str | None = None,
    image_b: str | None = None,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["-o", "--out"])] = None,
    seeds: str | None = None,
    samples: str | None = None,
    seed: int = 0,
    steps: int | None = None,
    path: Literal["auto", "slerp", "lerp"] = "auto",
    label: str | None = None,
    like: str | None = None,
    data_flags: DataFlags = DataFlags(),
    common: Common = Common(),
) -> Answer:
    """From one image to another through latent space.

    Between two samples of the run the ends are exact. Images of a run that only decodes (a GAN) have codes by inversion, which are approximate.

    Args:
        run: a run folder or a Hub id.
        image_a: an image file, or DATA#index, e.g. digits:test#3 (the fourth test image).
        image_b: the other end.
        out: .png a strip, .gif an animation that goes there and back.
        seeds: in place of two images, the first sample of each of two seeds, e.g. 3,7.
        samples: or two samples of one seed by their numbers, from 0, as `pofx sample RUN` shows them, e.g. 3,8.
        seed: of those samples, or of the starts of an inversion.
        steps: images along the path, both ends among them; by default 9 in a picture, 31 in an animation.
        path: slerp keeps to the sphere that N(0, I) lies near, lerp is straight; auto is slerp where the model has that prior.
        label: of a run with --given label: the class to decode with, or two with a comma; by default those of the images.
        like: of a run with another --given: DATA whose images say it, for the samples at the ends.
    """
    from pofx.data.part import end_to_end
    from pofx.tasks.interpolate import interpolate as task

    model = load_model(run, common)
    ends = None
    said = [what for what, on in (("two images", image_a), ("--seeds", seeds), ("--samples", samples)) if on is not None]
    if len(said) > 1:
        raise InputError(f"{' and '.join(said)} both say where to begin and end; give one of them.".capitalize())
    pair, two = (None if text is None else _pair(text, flag) for text, flag in ((seeds, "--seeds"), (samples, "--samples")))
    if pair is None and two is None:
        if image_a is None or image_b is None:
            raise InputError("An interpolation has two ends: name two images, e.g. digits:test#3 digits:test#8, or --samples 3,8")
        ends = end_to_end([one_image(image, model, run, data_flags, common) for image in (image_a, image_b)])
    value = ends_given(model, run, 2, Condition(label, like), common, needed=ends is None)
    with common.progress("decoding") as progress:
        result = task(model, ends, seeds=pair, samples=two, seed=seed, given=value, steps=steps, path=path, out=out, progress=progress)
    facts = {"run": run, "from": image_a, "to": image_b, "seeds": pair, "samples": two, "seed": seed, "label": label, "like": like}
    facts |= result.to_json()
    first, last = facts["norms"]
    text = f"{facts['steps']} {result.shows}, by {result.way}; |z| is {first:.2f} at one end and {last:.2f} at the other"
    tail = f"{result.path}" if result.path else "Add -o strip.png, or -o strip.gif, to see them."
    return Answer(facts, [text, *inverted(result.inversion), tail])


def _pair(text: str, flag: str) -> tuple[int, int]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2 or not all(part.isdecimal() and int(part) < 2**62 for part in parts):
        raise InputError(f"{flag} {text}: two whole numbers with a comma, e.g. {flag} 3,7")
    return int(parts[0]), int(parts[1])


def numbers(text: str, flag: str) -> list[int]:
    """Numbers of samples: 3,5,9 or 0-7 or both.

    >>> numbers("3,5-7", "--samples")
    [3, 5, 6, 7]
    """
    found: list[int] = []
    for part in (p.strip() for p in text.split(",")):
        first, mark, last = (p.strip() for p in part.partition("-"))
        ends = (first, last) if mark else (first, first)
        if not all(end.isdecimal() and int(end) < 2**62 for end in ends) or not 0 <= int(ends[1]) - int(ends[0]) < 10_000:
            raise InputError(f"{flag} {text}: numbers of samples, as pofx sample RUN shows them from 0, e.g. {flag} 3,5,9 or {flag} 0-7")
        found += range(int(ends[0]), int(ends[1]) + 1)
    return found


def ends_given(model: ImageModel, run: str, n: int, asked: Condition, common: Common, *, needed: bool) -> object:
    """The view's value as it was asked for, or None where images shall say it (or there is no view)."""
    from pofx.cli.sample import view_value

    if not asked.flags and not (needed and model.given is not None):
        return None
    return view_value(model, run, n, asked.label, asked.like, common)


def one_image(spec: str, model: ImageModel, run: str, flags: DataFlags, common: Common) -> Split:
    """One image as a part: a file, or DATA#index.

    Raises:
        InputError: there is none of that number, or several and no number.
    """
    split = load_images(spec, model.space, flags, common, run_info(run)).split
    if len(split) != 1:
        raise InputError(f"{spec} holds {len(split)} images; say which one, e.g. '{spec}#0'")
    return split
