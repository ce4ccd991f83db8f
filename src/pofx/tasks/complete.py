"""Fill the hole of an image: draws of p(hole | kept), with the kept pixels bit for bit, and a word on how exact they are.

Exact is what needs no weights:

    a view          the model was trained as p(x | view), and the view says just what is kept: its samples
    a suffix        no kept sub-pixel follows the hole in an order of an autoregressive model: copy what is kept, draw the rest,
                    p(hole | kept) = ∏_{i in hole} p(x_i | x_<i)

All else is approximate, and says so:

    autoregressive  sequential Monte Carlo (`_particles.py`), with the effective sample size at each stage; sweeps of Metropolis within Gibbs if asked
    z and q(z|x)    importance weighting of codes that chains of encoding and decoding have found (`_particles.py`), with the effective sample size
    a GAN           codes whose images are near the kept pixels, by descent from several starts (`invert.py`), and the kept pixels pasted.
                    Nothing is weighted: these are images that fit, not draws of a distribution
    an autoencoder  encode and decode, putting the kept pixels back each time (Vincent et al. 2008; Bengio et al. 2013): likewise

Of what the image itself holds in the hole, −log p(hole | kept): exact where the completion is, else log p(x) − log p̂(kept), an estimate. Colorization
(`Gray`) and super-resolution (`Half`) are completions whose view is side information: all pixels are the hole.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pofx import pictures
from pofx.errors import CapabilityError, InputError, RunError
from pofx.model import (
    SAMPLE_CHUNK,
    Autoregressive,
    Decoder,
    Encoder,
    ExactLikelihood,
    ImageModel,
    LatentVariable,
    LowerBound,
    Progress,
    Sampler,
    Score,
    capabilities,
    evaluating,
)
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.tasks._decoding import has_prior, means
from pofx.tasks._files import check_out, writing
from pofx.tasks._particles import Drawn, gibbs, importance, met_later, smc, suffix, view_known
from pofx.tasks.invert import POOL, TOGETHER, descend
from pofx.views import Masked, PartialLabel, Top

PARTICLES, STEPS, ROUNDS, DRAWS = 128, 200, 30, 64  # draws of z for a bound
FEW = 4  # an effective sample size that carries no estimate
SUFFIXES = (".png", ".npz")
DAMAGED = "is not finite. The weights may be damaged, or the run diverged: train again with a lower --lr."
SIDES = ("top", "bottom", "left", "right")
ACROSS = 10  # images in a row of a sheet
HOLE = np.array([[(150, 185, 222), (190, 213, 236)], [(190, 213, 236), (150, 185, 222)]], np.uint8)  # a chequer in no ink's colour


@dataclass(frozen=True, eq=False)
class Completion:
    """Completed images, and how far they are draws of p(hole | kept).

    Attributes:
        images: uint8 `(n, C, H, W)`; kept sub-pixels are those of the original, bit for bit.
        kind: "exact": draws of the model's p(hole | kept); "approximate": not quite, see `method` and `ess`.
        method: how they were made.
        known: bool `(C, H, W)`, the sub-pixels that were kept.
        original: uint8 `(C, H, W)`, or None where only the view's value was given.
        shown: uint8 `(C, H, W)`, what the model was told: kept pixels, 0 in the hole; or the view's value at full size.
        ess: effective sample size of the weights, 1 … particles, the least of all stages; None where nothing was weighted.
        particles: how many there were, or None.
        stages: the effective sample size at each stage of sequential Monte Carlo, before particles were drawn again.
        truth: −log p(what the image holds in the hole | kept), `(1,)` nats, with its kind; None where it cannot be said.
        note: what to know about them; "" for nothing.
        path: the file that was written, or None.
    """

    images: Tensor
    kind: Literal["exact", "approximate"]
    method: str
    known: Tensor
    original: Tensor | None
    shown: Tensor
    levels: int
    seed: int
    ess: float | None = None
    particles: int | None = None
    stages: tuple[float, ...] = ()
    truth: Score | None = None
    note: str = ""
    path: Path | None = None

    def to_json(self) -> dict[str, Any]:
        truth = self.truth
        return {
            "n": len(self.images),
            "kind": self.kind,
            "method": self.method,
            "kept": int(self.known.sum()),
            "hole": int((~self.known).sum()),
            "ess": self.ess,
            "particles": self.particles,
            "stages": list(self.stages),
            "truth": None
            if truth is None
            else {"nats": float(truth.nats), "bits_per_dim": float(truth.bits_per_dim), "kind": truth.kind, "dims": truth.dims},
            "note": self.note,
            "seed": self.seed,
            "out": None if self.path is None else str(self.path),
        }

    @property
    def summary(self) -> str:
        """One line: kind, method, effective sample size."""
        size = "" if self.ess is None else f", effective sample size {self.ess:.1f} of {self.particles}"
        return f"{self.kind}: {self.method}{size}"

    @property
    def told(self) -> tuple[str, NDArray[np.uint8]]:
        """What the model was told, as pictures `(1, H, W, 3)`, and its name: "kept" pixels with a chequer in the hole, or the "given" view."""
        kept = pictures.rgb(self.shown[None], self.levels)
        return ("given", kept) if bool(self.shown[~self.known].any()) else ("kept", _without(kept, self.known))

    def in_words(self, heading: str, said: str) -> list[str]:
        """What was completed, how exact it is, and what the image itself holds there. `said`: what was kept, in words."""
        kept, hole, truth = int(self.known.sum()), int((~self.known).sum()), self.truth
        lines = [f"{heading}: {kept} of {kept + hole} sub-pixels kept ({said}), {hole} to complete, {len(self.images)} times", self.summary]
        if len(self.stages) > 1:
            lines.append(f"effective sample size at {len(self.stages)} stages: {' '.join(f'{s:.0f}' for s in self.stages)}")
        if truth is not None:
            cost = f"{truth.sign} {float(truth.nats):.3f} nats, {float(truth.bits_per_dim):.4f} bits/dim"
            lines.append(f"what the image holds there, given what was kept: {cost} ({truth.kind})")
        lines += [self.note] if self.note else []
        return lines

    def sheet(self) -> Image.Image:
        """The original (where there is one), what was kept, and the completions, with a line that says how they were made."""
        images, names = pictures.rgb(self.images, self.levels), [str(i + 1) for i in range(len(self.images))]
        name, told = self.told
        images, names = np.concatenate([told, images]), [name, *names]
        if self.original is not None:
            images, names = np.concatenate([pictures.rgb(self.original[None], self.levels), images]), ["original", *names]
        if self.images.shape[2] == 1:  # series, one below another
            return pictures.sheet(images, 1, rows=names, captions=[self.summary])
        columns = min(len(images), ACROSS)
        return pictures.sheet(
            images, columns, heads=names if len(images) <= ACROSS else names[:2] + [""] * (columns - 2), captions=[self.summary]
        )


def _without(shown: NDArray[np.uint8], known: Tensor) -> NDArray[np.uint8]:
    """Pictures `(1, H, W', 3)` with a chequer in the hole."""
    hole = (~known.cpu().numpy()).any(0)
    hole = np.tile(hole, (1, shown.shape[2] // known.shape[2]))
    h, w = shown.shape[1:3]
    pattern = np.tile(HOLE, (-(-h // 2), -(-w // 2), 1))[:h, :w]
    return np.where(hole[..., None], pattern, shown[0])[None]


# What is kept ---------------------------------------------------------------------------------------------------------------------------------


def kept_region(text: str, height: int, width: int) -> Tensor:
    """A mask in words: `top:14`, `bottom:8`, `left:3`, `right:10`, or several with commas; bool `(H, W)`, true where pixels are kept.
    On images one row high (series) top is their beginning and bottom their end, as of `Top`.

    Raises:
        InputError: another form, nothing kept, or all of it.

    >>> kept_region("top:1,left:1", 2, 3).int().tolist()
    [[1, 1, 1], [1, 0, 0]]
    """
    kept = torch.zeros(height, width, dtype=torch.bool)
    for part in text.split(","):
        side, mark, number = part.strip().partition(":")
        if side not in SIDES or not mark or not number.isdecimal():
            raise InputError(
                f"--keep {text}: it takes a side and a number of pixels, e.g. --keep top:{max(1, height // 2)} (or bottom, left, right)"
            )
        side = {"top": "left", "bottom": "right"}.get(side, side) if height == 1 else side
        length, k = (height if side in ("top", "bottom") else width), int(number)
        if not 1 <= k <= length:
            what = (
                "keeps nothing: plain samples are pofx sample RUN"
                if k == 0
                else f"the image has {length} {'rows' if length == height and side in ('top', 'bottom') else 'columns'}"
            )
            raise InputError(f"--keep {text}: {part.strip()} {what}; use 1 … {length}, e.g. --keep {side}:{max(1, length // 2)}")
        rows = {"top": slice(0, k), "bottom": slice(height - k, None)}.get(side, slice(None))
        columns = {"left": slice(0, k), "right": slice(width - k, None)}.get(side, slice(None))
        kept[rows, columns] = True
    return kept


def read_mask(path: str | Path, height: int, width: int) -> Tensor:
    """A mask from an image file: **white is the hole**, black is kept (as in most inpainting tools); bool `(H, W)`, true where pixels are kept.

    Raises:
        InputError: no image, another size, or grey or transparent where it must be black or white.
    """
    try:
        with Image.open(path) as file:
            clear = file.has_transparency_data and np.asarray(file.convert("RGBA"))[..., 3].min() < 255
            mask = np.asarray(file.convert("L"))
    except OSError as error:
        raise InputError(
            f"--mask {path}: {error.strerror or 'not an image that can be read'}. Give a PNG: white is the hole, black is kept."
        ) from error
    if mask.shape != (height, width):
        raise InputError(
            f"--mask {path} is {mask.shape[0]}×{mask.shape[1]} and the images of the run are {height}×{width} (height×width); make it that size."
        )
    if clear:
        raise InputError(
            f"--mask {path} is transparent in places, which says nothing. Save it without transparency: white is the hole, black is kept."
        )
    grey = (mask > 50) & (mask < 205)
    if grey.any():
        raise InputError(
            f"--mask {path}: {int(grey.sum())} pixels are grey. A mask is black and white: white is the hole, black is kept; save it without smoothing."
        )
    return torch.from_numpy(mask < 128)


# The task -------------------------------------------------------------------------------------------------------------------------------------


def complete(
    model: ImageModel,
    image: Tensor | None,
    known: Tensor | None = None,
    given: Any = None,
    *,
    n: int = 8,
    particles: int = PARTICLES,
    sweeps: int = 0,
    steps: int = STEPS,
    seed: int = 0,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Completion:
    """Draw n completions of one image.

    Args:
        image: uint8 `(C, H, W)` or `(1, C, H, W)`; what stands in the hole is read for `truth` alone. None where `given` says all that is known.
        known: bool `(H, W)` or `(C, H, W)`, true where pixels are kept; None keeps what the model's view keeps.
        given: of a conditional model, the view's value (a label, a grey or a half-size image); by default that of the image.
        particles: of weighted methods, at least n of them are used; more come nearer to p(hole | kept).
        sweeps: of an autoregressive model, where it is not exact: so many times over the hole by Metropolis within Gibbs; each costs a pass a sub-pixel.
        steps: of the descent, for a model that only decodes.
        seed: the same seed gives the same completions.
        out: `.png` the contact sheet, `.npz` (`x` uint8 `(n, C, H, W)`, `original`, `known`).
        progress: called with (done, total).

    Raises:
        CapabilityError: the model has no way to complete this.
        InputError: nothing to complete, nothing kept, a mask of another shape, an image of another space, no value of the view.
        RunError: what comes out is not finite.

    >>> from pofx.models.autoregressive.pixelcnn import PixelCNN
    >>> from pofx.space import ImageSpace
    >>> model = PixelCNN.small(ImageSpace(1, 4, 4, levels=2))
    >>> found = complete(model, torch.ones(1, 4, 4, dtype=torch.uint8), kept_region("top:2", 4, 4), n=3)
    >>> found.kind, bool((found.images[:, :, :2] == 1).all()), found.truth.kind, found.truth.dims
    ('exact', True, 'exact', 8)
    >>> complete(model, torch.ones(1, 4, 4, dtype=torch.uint8), kept_region("left:2", 4, 4), n=3).kind
    'approximate'
    """
    path = None if out is None else check_out(out, SUFFIXES)
    if sweeps < 0:
        raise InputError(f"sweeps={sweeps} must be at least 0, e.g. --sweeps 2")
    if n < 1 or particles < 1 or steps < 1:
        raise InputError(
            f"n={n}, particles={particles} and steps={steps} must be at least 1, e.g. -n 8 --particles {PARTICLES} --steps {STEPS}"
        )
    if not isinstance(model, Sampler | Decoder):
        has = ", ".join(capabilities(model)) or "nothing"
        raise CapabilityError(
            f"{type(model).__name__} cannot complete images: it draws and decodes none (it has {has}). Train p(x): pofx train gated-pixelcnn DATA --out RUN"
        )
    x = None if image is None else model.space.check(image if image.ndim == 4 else image[None]).to(model.device)
    if x is not None and len(x) != 1:
        raise InputError(f"{len(x)} images were given; complete one at a time, e.g. image=x[:1].")
    kept, value = _kept(model, x, known, given)
    original = x
    if x is None:
        assert value is not None and model.given is not None
        x = model.given.fill(value, model.space).to(model.device)
    with torch.inference_mode(), evaluating(model):
        made = _made(model, x, kept, value, n, particles, sweeps, steps, seed, progress)
        truth = None if original is None or made.cost is None else made.cost()
    drawn, note = made.drawn, made.note
    if not all(math.isfinite(number) for number in ((drawn.ess,) if drawn else ()) + ((float(truth.nats),) if truth else ())):
        raise RunError(f"What the model says of these pixels {DAMAGED}")
    images = torch.where(kept, x.cpu(), made.x.cpu()).clone()
    told = x[0].cpu() * kept
    if (
        value is not None and not bool(kept.any()) and value.ndim == 4 and model.known(value) is None
    ):  # side information, as large as the image
        told = (
            F.interpolate(value.cpu().float(), model.space.shape[1:], mode="nearest").to(torch.uint8)[0].expand(model.space.shape).clone()
        )
    if drawn is not None and drawn.ess < FEW:
        note = f"With an effective sample size of {drawn.ess:.1f} these completions are a guess or two, and estimates say little. {note}"
    result = Completion(
        images,
        made.kind,
        made.method,
        kept,
        None if original is None else original[0].cpu(),
        told,
        model.space.levels,
        seed,
        None if drawn is None else drawn.ess,
        None if drawn is None else max(particles, n),
        () if drawn is None else drawn.stages,
        truth,
        note,
        path,
    )
    if path is not None:
        with writing(path) as temporary, temporary.open("wb") as file:
            if path.suffix.lower() == ".png":
                result.sheet().save(file, "PNG")
            else:
                arrays = {"x": images.numpy(), "known": kept.numpy(), "kind": np.array(made.kind)}
                np.savez_compressed(
                    file, allow_pickle=False, **arrays | ({} if original is None else {"original": original[0].cpu().numpy()})
                )
    return result


def _kept(model: ImageModel, x: Tensor | None, known: Tensor | None, given: Any) -> tuple[Tensor, Tensor | None]:
    """What is kept, bool `(C, H, W)` on the CPU, and the view's value `(1, …)`, checked against each other."""
    space, view = model.space, model.given
    planes = view is not None and len(view.feature_shape(space)) == 3
    if known is not None:
        known = torch.as_tensor(known).cpu()
        if known.dtype != torch.bool or tuple(known.shape) not in (space.shape, space.shape[1:]):
            raise InputError(
                f"A mask of {space} is bool {space.shape[1:]} or {space.shape}, true where pixels are kept; found {known.dtype} {tuple(known.shape)}."
            )
        known = known.expand(space.shape)
        if x is None:
            raise InputError("The pixels to keep are those of an image: give it, with its hole filled by anything.")
        if bool(known.all()):
            raise InputError(f"All pixels are kept: there is nothing to complete. Keep fewer, e.g. {_example(space)}")
        if not bool(known.any()) and not planes:
            raise InputError("No pixel is kept: that is plain sampling, pofx sample RUN")
    if isinstance(view, Masked) and given is None and known is not None and x is not None:
        if not bool((known.all(0) == known.any(0)).all()):
            raise InputError("This run is p(x | masked), whose masks hold whole pixels: keep all channels of a pixel, or none.")
        given = view.cut(x, known[0])
    elif isinstance(view, Masked) and given is None:
        raise InputError(f"This run is p(x | masked), for any hole: say which, e.g. {_example(space)} or --mask mask.png")
    elif view is not None and given is None and x is not None and (planes or isinstance(view, PartialLabel)):  # the image says it
        given = view.value(x, None)
    value = model.check_given(given, 1)
    if view is not None and x is not None and value is not None:
        _, value = model.check_pair(x, value) if not isinstance(view, Masked) else (x, value)
    told = view_known(model, value)
    if known is None:
        if view is None:
            raise InputError(f"Which pixels are kept? Say so, e.g. {_example(space)}, or --mask mask.png (white is the hole)")
        if value is not None and value.ndim == 1 and not bool(told.any()):
            raise InputError(f"This run is p(x | {view.name}), which keeps no pixel: say which are kept, e.g. {_example(space)}")
        return told, value
    if bool((told & ~known).any()):
        raise InputError(
            f"This run is p(x | {view}): {int(told.sum())} sub-pixels are always told, some of them in the hole. Leave out --keep and --mask."
        )
    return known, value


def _example(space: ImageSpace) -> str:
    return f"--keep top:{space.height // 2}" if space.height > 1 else f"--keep left:{max(1, space.width // 2)}"


@dataclass(frozen=True)
class _Made:
    x: Tensor
    kind: Literal["exact", "approximate"]
    method: str
    note: str = ""
    drawn: Drawn | None = None
    cost: Callable[[], Score | None] | None = None  # of what the image holds in the hole


def _made(
    model: ImageModel,
    x: Tensor,
    kept: Tensor,
    value: Tensor | None,
    n: int,
    particles: int,
    sweeps: int,
    steps: int,
    seed: int,
    progress: Progress | None,
) -> _Made:
    """By the best way that the model has."""
    told, hole = view_known(model, value), ~kept
    view = "" if model.given is None else f" | {model.given.name}"
    if isinstance(model, Sampler) and value is not None and bool((told == kept).all()):
        drawn = model.sample(n, value, seed=seed, progress=progress)
        return _Made(
            drawn, "exact", f"samples of p(x{view}), which the run was trained for", cost=lambda: _conditional(model, x, value, seed)
        )
    if isinstance(model, Autoregressive):
        paid = kept & ~told
        if suffix(model, paid, hole):
            drawn = _continued(model, x, kept, value, n, seed, progress)
            return _Made(drawn, "exact", "continued in the model's own order", cost=lambda: _terms(model, x, value, hole, 0.0, "exact"))
        found = smc(model, x, kept, value, n, particles, seed, progress)
        images, method, moved = found.x, "sequential Monte Carlo", ""
        if sweeps:
            images, share = gibbs(model, images, kept, value, sweeps, seed, progress)
            method, moved = f"{method}, then {sweeps} sweeps of Metropolis within Gibbs", f"{share:.0%} of later changes were accepted; "
        note = f"The {n} completions come from {found.distinct} of {max(particles, n)} beginnings; {moved}{_advice(model, kept)}"
        where = hole | met_later(model, paid, hole)
        dims = int(hole.sum())
        return _Made(
            images,
            "approximate",
            method,
            note,
            found,
            lambda: _terms(model, x, value, where, found.log_evidence, "estimate", dims),
        )
    if isinstance(model, LatentVariable):
        found = importance(model, x, kept, value, n, particles, seed, progress)
        note = f"The {n} completions come from {found.distinct} codes, {found.acceptance:.0%} of later moves were accepted; {_advice(model, kept)}"

        def cost() -> Score:
            # By the same mixture, whose share of the prior bounds the weights where q(z|x) is too narrow
            whole = importance(model, x, torch.ones_like(kept), value, 1, max(particles, n), seed)
            return _score(model, found.log_evidence - whole.log_evidence, "estimate", int(hole.sum()))

        return _Made(found.x, "approximate", "importance weighting of codes", note, found, cost)
    if isinstance(model, Decoder) and has_prior(model):
        images, error = _inverted(model, x, kept, value, n, steps, seed, progress)
        note = f"Before pasting, kept pixels are met within {error:.2f} levels (root mean square); images that fit, not draws of p(hole | kept)."
        return _Made(images, "approximate", "codes by inversion of the kept pixels", note)
    if isinstance(model, Encoder) and isinstance(model, Decoder):
        images = _again(model, x, kept, value, n, seed, progress)
        return _Made(
            images, "approximate", "repeated encoding and decoding", "These are what the decoder makes of it, not draws of p(hole | kept)."
        )
    raise CapabilityError(
        f"{type(model).__name__} has neither steps nor codes to fill this hole with. Train one: pofx train gated-pixelcnn DATA --given masked --out RUN"
    )


def _advice(model: ImageModel, kept: Tensor) -> str:
    rows = int(kept.all(0).all(1).sum())
    if model.space.height > 1 and bool(kept[:, :rows].all()) and not bool(kept[:, rows:].any()):
        return f"exact: a run trained with --given top --given.rows {rows}" if Top not in model.refuses else "more --particles come nearer."
    more = "more --particles and --sweeps come nearer" if isinstance(model, Autoregressive) else "more --particles come nearer"
    return f"{more}; a run trained with --given masked is exact for any hole."


def _continued(
    model: Autoregressive, x: Tensor, kept: Tensor, value: Tensor | None, n: int, seed: int, progress: Progress | None
) -> Tensor:
    parts = []
    for start in range(0, n, SAMPLE_CHUNK):
        numbers = torch.arange(start, min(start + SAMPLE_CHUNK, n))
        each = None if value is None else value.expand(len(numbers), *value.shape[1:])
        parts.append(
            model.continue_(
                each, Noise(seed, numbers), progress if n <= SAMPLE_CHUNK else None, fixed=(kept, x.expand(len(numbers), *x.shape[1:]))
            )
        )
    return torch.cat(parts)


def _inverted(
    model: Decoder, x: Tensor, kept: Tensor, value: Tensor | None, n: int, steps: int, seed: int, progress: Progress | None
) -> tuple[Tensor, float]:
    """n images near the kept pixels, each from a start of its own: the nearest of a pool of draws of z. Their error there, in levels."""
    pool = Noise(seed, torch.arange(max(POOL, n))).normal("complete/pool", model.latent_dims).to(model.dtype)
    counted = kept & ~view_known(model, value)
    counted = counted if bool(counted.any()) else kept

    def each(m: int) -> Tensor | None:
        return None if value is None else value.expand(m, *value.shape[1:])

    distance = (means(model, pool, each(len(pool))).double() - x.cpu()).square().masked_fill(~counted, 0).flatten(1).sum(1)
    starts, found, errors = pool[distance.argsort(stable=True)[:n]], [], []
    for first in range(0, n, TOGETHER):
        index = torch.arange(first, first + TOGETHER).clamp_(max=n - 1)
        z, error, _ = descend(
            model, x.expand(TOGETHER, *x.shape[1:]).clone(), each(TOGETHER), starts[index][:, None], steps, counted.to(x.device)
        )
        found.append(z[: n - first])
        errors.append(error[: n - first])
        if progress is not None:
            progress(min(first + TOGETHER, n), n)
    decoded, error = means(model, torch.cat(found).detach(), each(n)), torch.cat(errors)
    if not bool(error.isfinite().all()):
        raise RunError(f"What is decoded {DAMAGED}")
    return decoded.round().clamp(0, model.space.levels - 1).to(torch.uint8), math.sqrt(float(error.mean()) / int(counted.sum()))


def _again(model: ImageModel, x: Tensor, kept: Tensor, value: Tensor | None, n: int, seed: int, progress: Progress | None) -> Tensor:
    """Encode, decode, put the kept pixels back; holes start as noise, one for each completion."""
    assert isinstance(model, Encoder) and isinstance(model, Decoder)
    each, kept = None if value is None else value.expand(n, *value.shape[1:]), kept.to(x.device)
    u = Noise(seed, torch.arange(n)).uniform("complete/start", *model.space.shape).to(x.device)
    now = torch.where(kept, x, (u * model.space.levels).to(torch.uint8))
    for t in range(ROUNDS):
        mean = model.decode(model.encode(now, each), each).mean
        if not bool(mean.isfinite().all()):
            raise RunError(f"What is decoded {DAMAGED}")
        now = torch.where(kept, x, mean.round().clamp(0, model.space.levels - 1).to(torch.uint8))
        if progress is not None:
            progress(t + 1, ROUNDS)
    return now


# What the image holds in the hole -------------------------------------------------------------------------------------------------------------


def _score(model: ImageModel, nats: float, kind: Literal["exact", "lower bound", "estimate"], dims: int) -> Score:
    return Score(torch.tensor([nats], dtype=torch.double), kind, dims, model.given)


def _conditional(model: ImageModel, x: Tensor, value: Tensor, seed: int) -> Score | None:
    """Of a run that was trained for the view."""
    dims = model.space.dims - int(view_known(model, value).sum())
    if isinstance(model, ExactLikelihood):
        return _score(model, -float(model.log_prob(x, value)), "exact", dims)
    if isinstance(model, LowerBound):
        return _score(model, -float(model.elbo(x, value, samples=DRAWS, seed=seed)), "lower bound", dims)
    return None


def _terms(
    model: Autoregressive,
    x: Tensor,
    value: Tensor | None,
    where: Tensor,
    log_evidence: float,
    kind: Literal["exact", "estimate"],
    dims: int = 0,
) -> Score:
    """−Σ log p(x_i | x_<i) of the sub-pixels `where`, plus log p(kept ones among them)."""
    log_prob = model.conditional_log_prob(x, value)[0].double()
    return _score(model, log_evidence - float(log_prob[where.to(x.device)].sum()), kind, dims or int(where.sum()))
