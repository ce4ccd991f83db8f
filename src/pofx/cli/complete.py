"""`pofx complete RUN IMAGE --keep top:14 -o sheet.png`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from pofx.cli.common import Answer, Common, DataFlags, Flag, RunData, load_images, load_model, load_side, run_info
from pofx.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from pofx.model import ImageModel
    from pofx.views import View


def complete(
    run: str,
    image: str,
    /,
    *,
    keep: str | None = None,
    mask: Path | None = None,
    gray: Flag = False,
    half: Flag = False,
    n: Annotated[int, Parameter(name=["-n", "--n"])] = 8,
    out: Annotated[Path | None, Parameter(name=["-o", "--out"])] = None,
    label: str | None = None,
    attributes: str | None = None,
    caption: str | None = None,
    particles: int = 128,
    sweeps: int = 0,
    steps: int = 200,
    seed: int = 0,
    size: str | None = None,
    levels: int | None = None,
    common: Common = Common(),
) -> Answer:
    """Fill the hole of an image; kept pixels come back bit for bit.

    Exact, where the hole is a suffix of the order of an autoregressive run (--keep top:14), or where the run was trained for it (--given top, masked,
    subsample, gray, half). Other holes are approximate, and the answer says so, with the effective sample size where draws are weighted.

    Args:
        run: a run folder or a Hub id.
        image: one image: a file, or DATA#3. With --gray also a grey one, with --half also one of half the size.
        keep: what is kept: top:14, bottom:8, left:3, right:10, or several with commas.
        mask: a black and white image of the run's size: white is the hole, black is kept.
        gray: give colours to a grey image (a run with --given gray).
        half: make an image twice as large (a run with --given half).
        n: how many completions.
        out: .png a contact sheet: original, kept, completions; .npz the completions.
        label: class of the image, by number or name, of a run with --given label; by default that of the image.
        attributes: properties of the image, e.g. smiling=1,hat=0, of a run with --given attributes; by default those of the image.
        caption: the image in words, of a run with --given caption; by default that of the image.
        particles: of weighted methods; more come nearer.
        sweeps: go over the hole again so many times (autoregressive, approximate): nearer, and slow.
        steps: of the descent, for a run that only decodes (a GAN).
        seed: the same seed gives the same completions.
        size: resize the image first, HEIGHTxWIDTH.
        levels: make its pixels coarser first.
    """
    asked = [flag for flag, on in (("--keep", keep), ("--mask", mask), ("--gray", gray), ("--half", half)) if on]
    if len(asked) > 1:
        raise InputError(f"{' and '.join(asked)} both say what is known; give one of them.")
    from pofx.tasks.complete import complete as task
    from pofx.tasks.complete import kept_region, read_mask
    from pofx.views import Gray, Half

    model, info = load_model(run, common), run_info(run)
    for wanted, view, what, name in ((gray, Gray, "give colours", "gray"), (half, Half, "make images larger", "half")):
        if wanted and not isinstance(model.given, view):
            try:
                view().check_space(model.space)
            except InputError as error:
                raise InputError(f"--{name}: the images of {run} are {model.space}. {error}") from error
            found = "p(x)" if model.given is None else f"p(x | {model.given.name})"
            raise InputError(f"{run} is {found}; to {what}, train a run for it:\n{_train(model, info, view, name)}")
    space = model.space
    known = None
    if keep is not None:
        known = kept_region(keep, space.height, space.width)
    elif mask is not None:
        known = read_mask(mask, space.height, space.width)
    said = {"label": label, "attributes": attributes, "caption": caption}
    x, value, heading = _image(model, run, image, known is None, said, DataFlags(size=size, levels=levels), info, common)
    with common.progress("completing") as progress:
        result = task(model, x, known, value, n=n, particles=particles, sweeps=sweeps, steps=steps, seed=seed, out=out, progress=progress)
    kept = keep or (f"{mask}, white is the hole" if mask is not None else "" if model.given is None else str(model.given))
    facts = {"run": run, "data": heading, "keep": keep, "mask": mask, "mask_white": "hole" if mask is not None else None}
    where = f"{result.path}" if result.path else "Add -o FILE.png for a picture."
    return Answer(facts | said | result.to_json(), [*result.in_words(heading, kept), where])


def _train(model: ImageModel, info: RunData, view: type[View], flag: str) -> str:
    """The command that trains such a run on the same data."""
    from pofx.catalog import name_of
    from pofx.model import Labeler, Sampler

    stored = info.stored.get("spec") or {}
    fits = isinstance(model, Sampler) and not isinstance(model, Labeler) and view not in model.refuses
    name = name_of(model) if fits else "gated-pixelcnn"
    return f"pofx train {name} {stored.get('spec', 'DATA')} --given {flag} --out runs/{flag}"


def _image(
    model: ImageModel, run: str, spec: str, side: bool, said: dict[str, str | None], flags: DataFlags, info: RunData, common: Common
) -> tuple[Tensor | None, Any, str]:
    """The image `(1, C, H, W)` and the value of the run's view; an image that is the value itself has none of its own.

    `side`: nothing but the view says what is known. `said`: --label, --attributes, --caption."""
    import torch

    from pofx.cli.sample import view_value
    from pofx.views import Label

    view, space = model.given, model.space
    if side:
        loaded, is_value = load_side(spec, model, flags, common, info, told=False)
    else:
        loaded, is_value = load_images(spec, space, flags, common, info, told=False), False
    x, y = _one(loaded.split, spec)
    if is_value:
        return None, x, loaded.heading
    if any(text is not None for text in said.values()):
        label = said["label"]
        if label is not None and "," in label:
            raise InputError(f"--label {label}: an image is of one class; give one, e.g. --label {label.partition(',')[0]}")
        value = view_value(model, run, 1, label, None, common, attributes=said["attributes"], caption=said["caption"])
        return x, value, loaded.heading
    if view is None or len(view.feature_shape(space)) == 3:  # planes, which the image itself says
        return x, None, loaded.heading
    if isinstance(view, Label) and y is None and not view.unknown:
        raise InputError(f"{run} is p(x | label), and {spec} says none: add --label 0 (of 0 … {view.classes - 1}).")
    try:
        y = loaded.split.told(view).take(torch.zeros(1, dtype=torch.long))[1]
    except InputError as error:
        flag = "--caption" if view.text else "--attributes"
        raise InputError(f"{error}\nOr say it with {flag}.") from error
    return x, view.value(x, y), loaded.heading


def _one(split: Any, spec: str) -> tuple[Tensor, Tensor | None]:
    import torch

    if len(split) != 1:
        raise InputError(f"{spec} holds {len(split)} images; choose one to complete, e.g. '{spec}#0'")
    return split.take(torch.arange(1))
