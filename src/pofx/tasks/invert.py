"""Codes of images for a model that only decodes (a GAN): z found by going downhill from several starts.

    z* = argmin_z J(z),    J(z) = D/2 · log(‖x − G(z)‖² + D/12) + ½ ‖z‖²        G(z) = E[x | z]; D sub-pixels, in levels

Zhu et al. 2016 (arXiv:1609.03552, §3) project an image onto what a generator can make by minimising a distance; Creswell and Bharath 2018
(arXiv:1802.05701) add the log-density of the prior. Here the weight between the two is no setting: J is −log p(x, z) under pixels
N(x; G(z), σ²) with σ² at its optimum for the image, and no finer than the rounding of pixels, whose variance is 1/12.

Differences from the papers: starts are half the nearest of a pool of draws from the prior and half draws keyed by the image, Adam goes
down from each with a step that shrinks to 0, and of all codes that were visited the one of least error is kept: no error is above its start's.

A code found so is approximate: the model may not be able to make the image at all. The error says how far off it is, and |z| beside √d
whether the code is one that the model would draw. Every call sees one fixed number of rows, so that a code does not depend on the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pofx.errors import CapabilityError, InputError, RunError
from pofx.heap import keep_pages
from pofx.metrics.mean import Mean
from pofx.model import Batch, Decoder, ImageModel, Progress, evaluating, require
from pofx.noise import Noise, hash_images
from pofx.numbers import with_error
from pofx.tasks._decoding import has_prior, mean_dims, means, typical_norm
from pofx.tasks.bulk import Images, as_images, batch_size

STEPS, RESTARTS = 200, 4
POOL = 500  # draws from the prior, among which the nearest are starts
TOGETHER = 4  # images that go downhill side by side
RATE = 0.1  # of Adam, in standard deviations of the prior


@dataclass(frozen=True)
class Inversion:
    """Codes that were found, and what they are worth.

    Attributes:
        z: `(n, latent_dims)`, in the model's precision.
        squared_error: `(n,)` float64, ‖x − E[x|z]‖², pixels on [0, 1], over sub-pixels of an image that are not known.
        start_error: `(n,)` the same at the best of its starts; never smaller.
        dims: sub-pixels that count.
        levels: of the images.
        steps, restarts: how hard it was looked for.
    """

    z: Tensor
    squared_error: Tensor
    start_error: Tensor
    dims: int | float
    levels: int
    steps: int
    restarts: int

    @property
    def norm(self) -> Tensor:
        """|z|, `(n,)` float64; draws from the prior have about `typical_norm`."""
        return self.z.double().norm(dim=1)

    @property
    def typical_norm(self) -> float:
        """√latent_dims."""
        return typical_norm(self.z.shape[1])

    @property
    def rmse_levels(self) -> float:
        """√ of the mean squared error of a sub-pixel, in levels."""
        return (self.levels - 1) * math.sqrt(float(self.squared_error.mean()) / self.dims)

    def to_json(self) -> dict[str, Any]:
        error, norm = self.squared_error, self.norm
        return {
            "n": len(error),
            "squared_error": Mean.of(error).to_json(),
            "start_squared_error": float(self.start_error.mean()),
            "rmse_levels": self.rmse_levels,
            "norm": {"mean": float(norm.mean()), "least": float(norm.min()), "largest": float(norm.max())},
            "typical_norm": self.typical_norm,
            "steps": self.steps,
            "restarts": self.restarts,
        }

    def __str__(self) -> str:
        mean = Mean.of(self.squared_error)
        error = with_error(mean.mean, mean.se, 3)
        return (
            f"codes by inversion, approximate: squared error {error} (at the start {float(self.start_error.mean()):.3f}; pixels on [0, 1], "
            f"summed over an image), {self.rmse_levels:.2f} levels a sub-pixel; |z| {float(self.norm.mean()):.2f}, typical {self.typical_norm:.2f}"
        )


def invert(
    model: ImageModel,
    images: Images | Tensor,
    given: Any = None,
    *,
    steps: int = STEPS,
    restarts: int = RESTARTS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Inversion:
    """Look for the code that decodes to each image.

    Args:
        images: a `Split`, or uint8 `(n, C, H, W)`; with labels where the model conditions on them.
        given: of a conditional model, the view's value for each image, or one for all; by default that of the images.
        steps: of the descent from each start.
        restarts: starts for each image; the best end is kept.
        seed: of the starts, which are keyed by the image.
        progress: called with (done, n).

    Raises:
        CapabilityError: the model does not decode, or has no prior to start from.
        InputError: images of another space, no images, steps or restarts below 1, no value of the view.
        RunError: what is decoded is not finite.

    >>> from pofx.models.adversarial.gan import GAN
    >>> from pofx.space import ImageSpace
    >>> model = GAN.small(ImageSpace(1, 4, 4))
    >>> found = invert(model, model.sample(2), steps=20, restarts=2)
    >>> found.z.shape, bool((found.squared_error <= found.start_error).all())
    (torch.Size([2, 4]), True)
    """
    decoder = require(model, Decoder, to="find codes by inversion")
    if not has_prior(model):
        raise CapabilityError(f"{type(model).__name__} has no prior N(0, I) to start from. Its own codes: pofx encode RUN DATA")
    if steps < 1 or restarts < 1:
        raise InputError(f"steps={steps} and restarts={restarts} must be at least 1, e.g. --steps {STEPS} --restarts {RESTARTS}.")
    images = as_images(images)
    n, size = len(images), batch_size(model.space)
    if not n:
        raise InputError("There are no images to work on; the set or folder is empty.")
    keep_pages()
    values = None if given is None else model.check_given(given, n)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for at in range(0, n, size):
        index = torch.arange(at, min(at + size, n))
        batch = model.batch(*images.take(index)) if values is None else Batch(*images.take(index), values[index.to(values.device)])
        x, value = model.check_pair(batch.x, batch.given)
        starts = _starts(decoder, x, value, restarts, seed)
        for first in range(0, len(x), TOGETHER):
            part = torch.arange(first, first + TOGETHER).clamp_(max=len(x) - 1).to(x.device)
            ends = descend(decoder, x[part], None if value is None else value[part], starts[part.cpu()], steps)
            found.append(tuple(t[: len(x) - first].cpu() for t in ends))  # type: ignore[arg-type]
            if progress is not None:
                progress(min(at + first + TOGETHER, n), n)
    z, error, start = (torch.cat(parts) for parts in zip(*found, strict=True))
    bad = (~error.isfinite()).nonzero().flatten()
    if len(bad):
        raise RunError(
            f"What is decoded for image {images.ids[int(bad[0])]!r} is not finite ({len(bad)} of {n} are not). "
            "The weights may be damaged, or the run diverged: train again with a lower --lr."
        )
    scale = (model.space.levels - 1) ** 2
    return Inversion(z, error / scale, start / scale, mean_dims(model, images, given), model.space.levels, steps, restarts)


def _starts(model: Decoder, x: Tensor, given: Tensor | None, restarts: int, seed: int) -> Tensor:
    """Codes to start from, `(n, restarts, d)` on the CPU: the nearest of the pool, nearest first, and draws keyed by the image."""
    near = (restarts + 1) // 2
    pool = Noise(seed, torch.arange(max(POOL, near))).normal("invert/pool", model.latent_dims).to(model.dtype)
    own = Noise(seed, hash_images(x)).normal("invert", restarts, model.latent_dims)[:, near:].to(model.dtype)
    pixels, nearest = x.flatten(1).cpu().double(), torch.empty(len(x), near, dtype=torch.long)
    # One pool for all images, decoded once for each value of the view
    alike = torch.zeros(len(x), dtype=torch.long) if given is None else given.cpu().unique(dim=0, return_inverse=True)[1]
    for value in alike.unique().tolist():
        rows = (alike == value).nonzero().flatten()
        each = None if given is None else given[rows[:1].to(given.device)].expand(len(pool), *given.shape[1:])
        known = model.known(None if each is None else each[:1])
        count = torch.ones(model.space.dims, dtype=torch.bool) if known is None else ~known.flatten().cpu()
        decoded = means(model, pool, each).flatten(1)[:, count].double()
        distance = torch.cdist(
            pixels[rows][:, count], decoded, compute_mode="donot_use_mm_for_euclid_dist"
        )  # no image's depends on another
        nearest[rows] = distance.argsort(dim=1, stable=True)[:, :near]
    return torch.cat([pool[nearest], own], 1)


def descend(
    model: Decoder, x: Tensor, given: Tensor | None, starts: Tensor, steps: int, counted: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """From `starts` `(n, restarts, d)` to the best code visited, `(n, d)`, its squared error in levels² and that of the best start, `(n,)`.

    `counted`: the sub-pixels that the error is of, bool `(C, H, W)`; by default all that the view does not make known."""
    n, restarts, d = starts.shape
    each = torch.arange(n, device=x.device).repeat_interleave(restarts)
    target, value = x[each].to(model.dtype), None if given is None else given[each]
    dims = model.dims_of(value) if counted is None else int(counted.sum())
    with torch.inference_mode(False), torch.enable_grad(), evaluating(model):
        z = starts.flatten(0, 1).to(x.device, model.dtype, copy=True).requires_grad_()
        adam = torch.optim.Adam([z], lr=RATE, betas=(0.9, 0.99))
        best, least = z.detach().clone(), torch.full((n * restarts,), torch.inf, dtype=torch.double, device=x.device)
        first = least
        for step in range(steps + 1):
            squared = (model.decode(z, value).mean - target).square()
            error = model.unknown_sum(squared, value) if counted is None else squared.masked_fill(~counted, 0).flatten(1).sum(1)
            now = error.detach().double().nan_to_num(torch.inf)
            first = now if step == 0 else first
            best, least = torch.where((now < least)[:, None], z.detach(), best), torch.minimum(now, least)
            if step == steps:
                break
            loss = dims / 2 * (error + dims / 12).log() + 0.5 * z.square().sum(1)
            (z.grad,) = torch.autograd.grad(loss.sum(), z)  # rows do not meet: each has its own loss and its own moments
            adam.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
            adam.step()
    least, first, best = least.reshape(n, restarts), first.reshape(n, restarts), best.reshape(n, restarts, d)
    chosen = least.argmin(1)
    rows = torch.arange(n, device=x.device)
    return best[rows, chosen], least[rows, chosen], first.min(1).values
