"""Draw images from the model: x ~ p(x | given), images first … first+n−1 of a seed, whatever the batch.

Temperature T and top-p change an autoregressive model's steps, log p(x_i | x_<i) / T and the smallest set of values holding a share
top_p of the probability. Both look nicer and are **not samples of p**: the result says so. Nor are the mean and the standard deviation of
p(x|z) at z ~ N(0, I), which a latent-variable model can show instead of the draw.

Truncation ψ decodes ψ·z in the place of z ~ N(0, I), i.e. z ~ N(0, ψ²I): the same images as with ψ = 1, drawn towards that of z = 0; less varied,
and so not samples of p either. This is the trick of Karras et al. 2019 (arXiv:1812.04948, §B: w′ = w̄ + ψ(w − w̄)) with z in the place of w,
whose mean is 0; Kingma and Dhariwal 2018 (arXiv:1807.03039, §6) call ψ a temperature. Brock et al. 2019 draw |z_i| > τ again, which gives other
images for each τ. What it does to a GAN depends on the net: all its codes in training had |z| near √d, and one without normalisation answers
shorter ones with paler images rather than with likelier ones.

A model of a text (`text:FILE`) also writes its samples as text. An autoregressive one shows itself at work with `trace`.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx.data.series import Scale, values_of
from pofx.data.text import decode, lines
from pofx.errors import CapabilityError, InputError
from pofx.likelihoods import PixelDistribution
from pofx.model import SAMPLE_CHUNK, Autoregressive, Decoder, ImageModel, LatentVariable, Progress, Sampler, evaluating, require
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.tasks._decoding import has_prior, known_again
from pofx.tasks._files import check_out, writing
from pofx.tasks.reconstruct import WHAT, Show, check_show, gray, pixels
from pofx.views import Label, View

SUFFIXES = (".png", ".npz", ".npy")
GRID_PIXELS = 60_000_000  # a larger picture is no picture

TRUE, ALTERED = "samples of p", "not samples of p"  # of a model with a view: "… p(x | label)"


@dataclass(frozen=True)
class Samples:
    """Images that were drawn.

    Attributes:
        x: uint8 `(n, C, H, W)`, or None where they went to a file as they came; means and standard deviations are floats, in levels.
        kind: "samples of p", or "not samples of p" (temperature, top-p, truncation), "not samples of p: the mean of p(x|z)"; with a view "… of p(x | label)".
        n, seed, first: they are images first … first+n−1 of `seed`.
        path: where they were written, or None.
        given: the view whose values they were drawn for, or None.
    """

    x: Tensor | None
    kind: str
    n: int
    seed: int
    first: int
    path: Path | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    given: View | None = None
    show: Show = "sample"
    truncation: float = 1.0

    def to_json(self) -> dict:
        out = None if self.path is None else str(self.path)
        return {
            "n": self.n,
            "kind": self.kind,
            "show": self.show,
            "given": None if self.given is None else repr(self.given),
            "seed": self.seed,
            "first": self.first,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "truncation": self.truncation,
            "out": out,
        }


def adjustment(temperature: float, top_p: float) -> Callable[[Tensor], Tensor] | None:
    """The map of log-probabilities `(…, levels)` for a temperature and a top-p share; None for 1 and 1.

    >>> adjustment(1.0, 0.5)(torch.tensor([0.6, 0.3, 0.1]).log()).exp()
    tensor([1., 0., 0.])
    """
    if not temperature > 0 or not 0 < top_p <= 1:
        raise InputError(f"--temperature {temperature} must be above 0 and --top-p {top_p} in (0, 1]; 1 and 1 give samples of p.")
    if temperature == 1 and top_p == 1:
        return None

    def adjust(log_prob: Tensor) -> Tensor:
        log_prob = (log_prob / temperature).log_softmax(-1)
        if top_p < 1:
            ordered, order = log_prob.sort(dim=-1, descending=True, stable=True)
            p = ordered.exp()
            outside = p.cumsum(-1) - p >= top_p  # the most probable value always stays
            log_prob = log_prob.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), -torch.inf)
        return log_prob.log_softmax(-1)

    return adjust


def _altered(
    model: Autoregressive, n: int, given: Any, seed: int, first: int, adjust: Callable[[Tensor], Tensor], progress: Progress | None
) -> Iterator[Tensor]:
    if n < 1:
        raise InputError(f"n={n}: ask for at least one sample, e.g. n=16.")
    value = model.check_given(given, n)
    for start in range(0, n, SAMPLE_CHUNK):
        stop = min(start + SAMPLE_CHUNK, n)
        with torch.inference_mode(), evaluating(model):
            part = None if value is None else value[start:stop]
            x = model.continue_(part, Noise(seed, torch.arange(first + start, first + stop)), adjust=adjust)
        yield x  # outside of the block above: a generator that waits must not hold gradients off for its caller
        if progress is not None:
            progress(stop, n)


def _truncated(
    model: ImageModel, n: int, given: Any, seed: int, first: int, truncation: float, progress: Progress | None
) -> Iterator[Tensor]:
    """Images decoded at ψz, in the batches of `Sampler.samples`, so that at 1 they are those."""
    decoder, sampler = _truncatable(model), require(model, Sampler, to="sample")
    if n < 1:
        raise InputError(f"n={n}: ask for at least one sample, e.g. n=16.")
    value, fixed = model.check_given(given, n), sampler.draw_batch
    size = fixed or SAMPLE_CHUNK
    for start in range(0, n, size):
        stop = min(start + size, n)
        numbers = torch.arange(start, stop if fixed is None else start + size)
        noise = Noise(seed, first + numbers)
        with torch.inference_mode(), evaluating(model):
            part = None if value is None else value[numbers.clamp(max=n - 1).to(value.device)]
            z = (truncation * noise.normal("z", decoder.latent_dims)).to(model.device, model.dtype)
            decoded = decoder.decode(z, part)
            shown = pixels(decoded, "sample", noise) if isinstance(decoded, PixelDistribution) else decoded.mean.round()
            x = model.copy_known(shown.to(torch.uint8), part)
        yield x[: stop - start]
        if progress is not None:
            progress(stop, n)


def _truncatable(model: ImageModel) -> Decoder:
    if isinstance(model, Decoder) and has_prior(model):
        return model
    fix = "; a temperature changes it likewise: --temperature 0.7" if isinstance(model, Autoregressive) else ""
    raise CapabilityError(
        f"{type(model).__name__} has no latents z ~ N(0, I) to truncate, as a GAN or a VAE has. Leave out --truncation{fix}"
    )


def sample(
    model: ImageModel,
    n: int = 16,
    given: Any = None,
    *,
    seed: int = 0,
    first: int = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    truncation: float = 1.0,
    out: str | Path | None = None,
    trace: bool = False,
    show: Show = "sample",
    alphabet: str | None = None,
    scale: Scale | None = None,
    progress: Progress | None = None,
) -> Samples:
    """Draw n images, and write them where `out` says.

    Args:
        given: the view's value for each image, or one for all, where the model is conditional.
        temperature, top_p: autoregressive models only; anything but 1 gives "not samples of p".
        truncation: models with latents only: decode ψz, z ~ N(0, I); below 1 gives "not samples of p", and 0 the image of z = 0.
        out: `.png` one contact sheet; `.npy` uint8 `(n, C, H, W)`; `.npz` the same as `x` with `seed`, `first`, `levels`, `kind`,
            and labels as `y` where they were given; a folder without PNG files: one per image, named by its number. All but `.png`
            are written as the images come, in bounded memory. With an alphabet also `.txt`, a line per text; with a scale also `.csv`, a row
            per series, in its units.
        trace: autoregressive models only: `out` is a `.gif` or `.png` that shows the images being drawn, pixel by pixel.
        show: latent-variable models only: "mean" or "sd" of p(x|z), z ~ N(0, I), in place of a draw from it. A picture of "mean" runs from
            0 to levels−1, one of "sd" from 0 to its largest; arrays hold float32, in levels.
        alphabet: the character of each level, of a model that was trained on a text.
        scale: the values that levels stand for, of a model that was trained on series.
        progress: called with (done, total).

    Raises:
        CapabilityError: the model cannot sample, or has no steps to change, or no p(x|z) to show, or no z to truncate.
        InputError: n < 1, a truncation outside of [0, 1], wrong `first` or `given`, another ending, more images than a picture holds, a folder
            with other images.

    >>> from pofx.models.autoregressive.pixelcnn import PixelCNN
    >>> from pofx.space import ImageSpace
    >>> model = PixelCNN.small(ImageSpace(1, 3, 3, levels=2))
    >>> sample(model, 2, temperature=0.5).kind
    'not samples of p'
    """
    sampler = require(model, Sampler, to="sample")
    adjust = adjustment(temperature, top_p)
    if not 0 <= first < first + max(n, 1) < 2**63:
        raise InputError(f"--first {first} with -n {n}: images are numbered 0 … 2⁶³ − 1, e.g. --first 0.")
    check_show(show)
    if not 0 <= truncation <= 1:
        raise InputError(f"--truncation {truncation} must be in [0, 1]: 1 gives samples of p, 0 the image of z = 0, e.g. --truncation 0.7")
    if truncation != 1:
        _truncatable(model)
        if trace or adjust is not None:
            raise InputError("--truncation is of latents, and --trace, --temperature and --top-p are of steps: give one of them.")
    if show != "sample":
        if trace or adjust is not None:
            raise InputError(f"--show {show} is of p(x|z) as it is: leave out --trace, --temperature and --top-p.")
        return _shown(model, n, given, seed, first, show, truncation, out, progress)
    if trace:
        return _traced(model, n, given, seed, first, temperature, top_p, out, progress)
    if out is not None and Path(out).suffix.lower() == ".txt" and alphabet is None:
        raise InputError(
            f"Cannot write {out}: the run was not trained on a text, and its samples are images. Try -o {Path(out).with_suffix('.png')}"
        )
    suffixes = (*SUFFIXES, *[".txt"] * (alphabet is not None), *[".csv"] * (scale is not None))
    path = None if out is None else check_out(out, suffixes, folder=True)
    space = sampler.space
    if path is not None and path.suffix.lower() == ".txt":
        _check_text(alphabet, space)
    if path is not None and path.suffix.lower() == ".png":
        _check_picture(path, n, space)
    if path is not None and path.suffix == "":
        _check_folder(path, space)
    if truncation != 1:
        chunks = _truncated(model, n, given, seed, first, truncation, progress)
    elif adjust is None:
        chunks = sampler.samples(n, given, seed=seed, first=first, progress=progress)
    else:
        latents = " (of latents there is --truncation 0.7)" if isinstance(model, Decoder) else ""
        steps = require(model, Autoregressive, to=f"sample with a temperature or top-p{latents}")
        chunks = _altered(steps, n, given, seed, first, adjust, progress)
    view = sampler.given
    kind = _kind(adjust is not None or truncation != 1, view)
    x: Tensor | None = None
    if path is None or path.suffix.lower() == ".png":
        x = torch.cat(list(chunks)).cpu().clone()
        if path is not None:
            _write_grid(path, x, space.levels)
    elif path.suffix.lower() == ".txt":
        assert alphabet is not None
        _write_text(path, chunks, alphabet)
    elif path.suffix.lower() == ".csv":
        assert scale is not None
        _write_values(path, chunks, scale)
    elif path.suffix == "":
        _write_folder(path, chunks, first, space.levels)
    else:
        facts = {"seed": seed, "first": first, "levels": space.levels, "kind": kind}
        labels = sampler.check_given(given, n) if isinstance(view, Label) else None
        if labels is not None:
            facts["y"] = labels.cpu().numpy()
        _write_arrays(path, chunks, (n, *space.shape), facts)
    return Samples(x, kind, n, seed, first, path, temperature, top_p, view, truncation=truncation)


def _check_picture(path: Path, n: int, space: ImageSpace) -> None:
    if n * max(64, space.height) * max(64, space.width) > GRID_PIXELS:
        raise InputError(
            f"{n} images do not fit into one picture; write them to {path.with_suffix('.npy')} or to a folder {path.with_suffix('')}"
        )


def _check_folder(path: Path, space: ImageSpace) -> None:
    if space.channels not in (1, 3, 4):
        raise InputError(f"Images of {space.channels} channels cannot be PNG files; write them to {path}.npy")
    _refuse_others(path)


def _kind(altered: bool, view: View | None) -> str:
    return (ALTERED if altered else TRUE) + ("" if view is None else f"(x | {view.name})")


def _traced(
    model: ImageModel,
    n: int,
    given: Any,
    seed: int,
    first: int,
    temperature: float,
    top_p: float,
    out: str | Path | None,
    progress: Progress | None,
) -> Samples:
    from pofx.tasks.trace import SUFFIXES as FORMS
    from pofx.tasks.trace import trace

    if out is None:
        raise InputError("A trace is a picture: say where it shall be, e.g. -o trace.gif")
    path = check_out(out, FORMS)
    made = trace(model, n, given, seed=seed, first=first, temperature=temperature, top_p=top_p, progress=progress)
    kind = _kind((temperature, top_p) != (1, 1), model.given)
    return Samples(made.x, kind, n, seed, first, made.write(path), temperature, top_p, model.given)


def _shown(
    model: ImageModel,
    n: int,
    given: Any,
    seed: int,
    first: int,
    show: Show,
    truncation: float,
    out: str | Path | None,
    progress: Progress | None,
) -> Samples:
    """The mean or the standard deviation of p(x|z), z ~ N(0, ψ²I)."""
    latent, sampler = require(model, LatentVariable, to=f"show {WHAT[show]}"), require(model, Sampler, to="sample")
    if n < 1:
        raise InputError(f"n={n}: ask for at least one, e.g. n=16.")
    path = None if out is None else check_out(out, SUFFIXES, folder=True)
    space, value = latent.space, latent.check_given(given, n)
    if path is not None and path.suffix.lower() == ".png":
        _check_picture(path, n, space)
    elif path is not None and path.suffix == "":
        _check_folder(path, space)
    size, chunks = sampler.draw_batch or SAMPLE_CHUNK, []
    for start in range(0, n, size):
        end = min(start + size, n)
        noise = Noise(seed, torch.arange(first + start, first + start + size))
        with torch.inference_mode(), evaluating(latent):
            part = None if value is None else value[torch.arange(start, start + size).clamp(max=n - 1).to(value.device)]
            z = (truncation * noise.normal("z", latent.latent_dims)).to(latent.device, latent.dtype)
            x = known_again(latent, pixels(latent.decode(z, part), show, noise), part, show)
            chunks.append(x[: end - start].float().cpu())
        if progress is not None:
            progress(end, n)
    x = torch.cat(chunks).clone()
    kind = f"{_kind(True, latent.given)}: {WHAT[show]}"
    if path is not None and path.suffix.lower() in (".npz", ".npy"):
        _write_arrays(path, iter([x]), tuple(x.shape), {"seed": seed, "first": first, "levels": space.levels, "kind": kind}, "<f4")
    elif path is not None:
        from pofx import pictures

        plane = gray(x) if show == "sd" else x
        top = float(plane.max()) if show == "sd" else space.levels - 1.0
        shades = pictures.shades(plane, top)
        if path.suffix == "":
            _write_folder(path, iter([torch.from_numpy(shades)]), first, 256)
        else:
            columns = 1 if x.shape[2] == 1 else min(n, math.ceil(math.sqrt(n * x.shape[2] / x.shape[3])))
            prior = "N(0, I)" if truncation == 1 else f"N(0, {truncation:g}^2 I)"
            caption = f"{WHAT[show]}, z ~ {prior}: not samples" + (f"; white = {top:.3g} levels" if show == "sd" else "")
            with writing(path) as temporary:
                pictures.sheet(pictures.rgb(shades, 256), columns, captions=[caption]).save(temporary, format="PNG")
    return Samples(x, kind, n, seed, first, path, given=latent.given, show=show, truncation=truncation)


def _check_text(alphabet: str | None, space: ImageSpace) -> None:
    if alphabet is None or len(alphabet) != space.levels or space.channels != 1 or space.height != 1:
        raise InputError(f"A model of {space} draws no text with an alphabet of {len(alphabet or '')}: it takes 1×1×W and as many levels.")


def _write_text(path: Path, chunks: Iterator[Tensor], alphabet: str) -> None:
    with writing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        for chunk in chunks:
            file.write(lines(decode(chunk.cpu(), alphabet)))


def _write_values(path: Path, chunks: Iterator[Tensor], scale: Scale) -> None:
    with writing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        for chunk in chunks:
            file.writelines(",".join(f"{value:.9g}" for value in row) + "\n" for row in values_of(chunk.cpu(), scale).tolist())


def _refuse_others(folder: Path) -> None:
    """Images of an earlier draw must not be taken for those of this one."""
    old = sorted(path.name for path in folder.glob("*.png"))
    if old:
        more = f" and {len(old) - 1} more" if len(old) > 1 else ""
        raise InputError(f"{folder} holds images already ({old[0]}{more}). Give another folder, e.g. -o {folder}-2")


def _write_grid(path: Path, x: Tensor, levels: int) -> None:
    from pofx.pictures import grid

    with writing(path) as temporary:
        grid(x, levels).save(temporary, format="PNG")


def _write_folder(path: Path, chunks: Iterator[Tensor], first: int, levels: int) -> None:
    from pofx.pictures import each

    number = first
    for chunk in chunks:
        for image in each(chunk, levels):
            with writing(path / f"{number:08d}.png") as temporary:
                image.save(temporary, format="PNG")
            number += 1


def _write_arrays(path: Path, chunks: Iterator[Tensor], shape: tuple[int, ...], facts: dict[str, Any], kind: str = "|u1") -> None:
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    with writing(path) as temporary:
        if path.suffix.lower() == ".npy":
            with temporary.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                for chunk in chunks:
                    file.write(chunk.cpu().numpy().tobytes())
            return
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            with archive.open("x.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                for chunk in chunks:
                    member.write(chunk.cpu().numpy().tobytes())
            for name, value in facts.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, np.asarray(value), allow_pickle=False)
