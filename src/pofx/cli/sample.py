"""`pofx sample RUN -n 64 -o FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from pofx.cli.common import Answer, Common, DataFlags, Flag, load_model, load_side, run_info
from pofx.errors import InputError
from pofx.workflows.loading import from_words, learned


def sample(
    run: str,
    /,
    *,
    n: Annotated[int | None, Parameter(name=["-n", "--n"])] = None,
    out: Annotated[Path | None, Parameter(name=["-o", "--out"])] = None,
    seed: int = 0,
    first: int = 0,
    label: str | None = None,
    attributes: str | None = None,
    caption: str | None = None,
    like: str | None = None,
    size: str | None = None,
    levels: int | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    truncation: float = 1.0,
    trace: Flag = False,
    show: Literal["sample", "mean", "sd"] = "sample",
    common: Common = Common(),
) -> Answer:
    """Draw images from a run.

    The same seed gives the same images; -n 10 --first 20 gives images 20 to 29 of it.

    Args:
        run: a run folder or a Hub id.
        n: how many; by default 64, with --trace 4.
        out: .png one picture, .npz or .npy the integers, otherwise a folder of PNG files; by default
            samples.png (mean.png, sd.png) in the run folder.
            A run of a text also writes .txt, one sample a line (its default, samples.txt); a run of series also .csv,
            one a row, in their units (its default, samples.csv).
        seed: any whole number.
        first: number of the first image.
        label: class to draw, by number or name; several in turn with commas. For runs with --given label (or partial-label, which need none).
        attributes: properties to draw, e.g. smiling=1,hat=0; those not named are open. For runs with --given attributes.
        caption: what to draw, in words. For runs with --given caption.
        like: DATA whose images give what the run conditions on (their label, small version, top rows, known pixels …). With --given gray
            also grey images, with --given half also ones of half the size.
        size: resize the images of --like first, HEIGHTxWIDTH; by default as in training.
        levels: make their pixels coarser first; by default as in training.
        temperature: below 1 sharpens; what comes out is then not samples of p.
        top_p: draw from the likeliest values holding this share; what comes out is then not samples of p.
        truncation: of a run with latents (GAN, VAE): decode this times z, from 1 down to 0: the same images, less varied; what comes out is
            then not samples of p.
        trace: show the images being drawn, pixel by pixel, beside the entropy of each: an animated .gif or .png; by default trace.gif.
        show: of a latent-variable model: sample draws x from p(x|z), mean and sd show what p(x|z) is; what comes out is then not samples of p.
    """
    from pofx.data.series import Scale
    from pofx.tasks.sample import sample as task

    model = load_model(run, common)
    n = (4 if trace else 64) if n is None else n
    stored = run_info(run).stored
    alphabet, scale = stored.get("alphabet"), Scale.of(stored.get("scale"))
    flags = DataFlags(size=size, levels=levels)
    given = view_value(model, run, n, label, like, common, attributes=attributes, caption=caption, flags=flags)
    name = (
        "trace.gif"
        if trace
        else f"{show}.png"
        if show != "sample"
        else "samples.txt"
        if alphabet
        else "samples.csv"
        if scale
        else "samples.png"
    )
    target = out if out is not None else _default_out(run, name)
    with common.progress("sampling") as progress:
        result = task(
            model,
            n,
            given,
            seed=seed,
            first=first,
            temperature=temperature,
            top_p=top_p,
            truncation=truncation,
            out=target,
            trace=trace,
            show=show,
            alphabet=alphabet,
            scale=scale,
            progress=progress,
        )
    if show != "sample":
        common.note(f"With --show {show} these images are {result.kind}.")
    elif result.kind.startswith("not"):
        cause = "--truncation" if truncation != 1 else "--temperature or --top-p"
        common.note(f"With {cause} these images are {result.kind}.")
    return Answer(
        {"run": run, "label": label, "attributes": attributes, "caption": caption, "like": like, "trace": trace} | result.to_json(),
        f"{result.path}  ({result.n} images, seed {seed}: {result.kind})",
    )


def _default_out(run: str, name: str) -> Path:
    folder = Path(run)
    return folder / name if folder.is_dir() else Path(name)


def view_value(
    model: Any,
    run: str,
    n: int,
    label: str | None,
    like: str | None,
    common: Common,
    *,
    attributes: str | None = None,
    caption: str | None = None,
    flags: DataFlags = DataFlags(),
) -> Any:
    """The view's value for n images, from --label, --attributes, --caption or --like, whose images `flags` convert; None for an unconditional
    model."""
    import torch

    from pofx.views import Attributes, Caption, Label

    view = model.given
    ways = {"label": (label, Label), "attributes": (attributes, Attributes), "caption": (caption, Caption), "like": (like, object)}
    said = [flag for flag, (value, _) in ways.items() if value is not None]
    if len(said) > 1:
        raise InputError(f"--{said[0]} and --{said[1]} both say what to condition on; give one of them.")
    if view is None:
        if said:
            raise InputError(f"{run} is p(x), without a condition: leave out --{said[0]}, or train one with --given label.")
        return None
    if said and not isinstance(view, ways[said[0]][1]):
        own = next((flag for flag, (_, kind) in ways.items() if isinstance(view, kind)), "like")
        raise InputError(f"{run} is p(x | {view.name}): it does not take --{said[0]}. Use --{own}.")
    if like is not None:
        info = run_info(run)
        own = {key: value for key, value in (info.stored.get("spec") or {}).items() if key in ("size", "levels", "gray")}
        own |= {key: value for key, value in (("size", flags.size), ("levels", flags.levels)) if value is not None}
        images, is_value = load_side(like, model, DataFlags(**own), common, info)  # converted as in training
        x, y = images.split.take(torch.arange(n) % len(images.split))
        if is_value:
            return x
        return learned(run, info, view.value(x, y)) if isinstance(view, Label) else view.value(x, y)
    return from_words(run, run_info(run), view, n, model.space, label=label, attributes=attributes, caption=caption)
