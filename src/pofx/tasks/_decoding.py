"""What tasks share that decode codes: the prior, the codes of a model's own samples, and E[x | z] in fixed batches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pofx.errors import CapabilityError, InputError
from pofx.model import Decoder, ImageModel, LatentVariable, Progress, Sampler, evaluating
from pofx.noise import Noise
from pofx.tasks.bulk import Images, batch_size, per_image


def has_prior(model: ImageModel) -> bool:
    """Whether z ~ N(0, I) is part of the model: of one with a posterior, or one that samples by decoding."""
    return isinstance(model, LatentVariable) or (isinstance(model, Decoder) and isinstance(model, Sampler))


def typical_norm(dims: int) -> float:
    """√d, near which |z| of z ~ N(0, I) lies."""
    return math.sqrt(dims)


def draws(model: Decoder, numbers: Sequence[int] | Tensor, seed: int = 0) -> Tensor:
    """The codes `(n, latent_dims)` of a model's own samples with these numbers: `sample(model, n, seed=seed)` decodes them, in its order.

    Raises:
        CapabilityError: the model has no prior.
        InputError: a number below 0, or no number at all.
    """
    if not has_prior(model):
        raise CapabilityError(f"{type(model).__name__} has no prior to draw codes from: it has no samples. Give images in their place.")
    index = torch.as_tensor(numbers, dtype=torch.long)
    if not len(index) or int(index.min()) < 0:
        raise InputError("Samples go by their numbers, from 0, as pofx sample RUN shows them: e.g. --samples 3,5,9 or --samples 0-7")
    return Noise(seed, index).normal("z", model.latent_dims).to(model.dtype)


def decodes_to(model: ImageModel) -> str:
    """What E[x|z] is called: only a latent-variable model has a p(x|z)."""
    return "means of p(x|z)" if isinstance(model, LatentVariable) else "decoded codes"


def known_again(model: ImageModel, shown: Tensor, given: Tensor | None, show: str) -> Tensor:
    """Known sub-pixels in their places; their standard deviation is 0."""
    if show == "sd" and (known := model.known(given)) is not None:
        return shown.masked_fill(known, 0)
    return model.copy_known(shown, given)


def repeated(given: Tensor | None, n: int) -> Tensor | None:
    """One value of a view, `(1, …)`, n times; n values as they are; None stays None."""
    return given if given is None or len(given) == n else given.expand(n, *given.shape[1:])


def means(model: Decoder, z: Tensor, given: Tensor | None = None, *, size: int | None = None, progress: Progress | None = None) -> Tensor:
    """E[x | z] of codes `(m, latent_dims)` in fixed batches, `(m, C, H, W)` floats in 0 … levels−1 on the CPU.

    Args:
        given: the view's value for each, or None.
        size: of a batch; by default what bulk work takes. Smaller is quicker for a code or two, and may round otherwise.

    Raises:
        InputError: codes of another length.
    """
    if z.ndim != 2 or z.shape[1] != model.latent_dims:
        raise InputError(f"Codes of this {type(model).__name__} are (n, {model.latent_dims}), found {tuple(z.shape)}.")
    size, parts = size or batch_size(model.space), []
    with torch.inference_mode(), evaluating(model):
        for start in range(0, len(z), size):
            index = torch.arange(start, start + size).clamp_(max=len(z) - 1)
            value = None if given is None else given[index.to(given.device)]
            mean = model.decode(z[index.to(z.device)], value).mean
            parts.append(known_again(model, mean, value, "mean")[: len(z) - start].cpu())
            if progress is not None:
                progress(min(start + size, len(z)), len(z))
    return torch.cat(parts).clone()


def mean_dims(model: ImageModel, images: Images, given: Tensor | None = None) -> int | float:
    """Sub-pixels of an image that are not known; their mean over `images` where the view knows other pixels of each (`given`: its values)."""
    if model.given is None or not model.given.varies:
        return model.dims

    def paid(x: Tensor, y: Tensor | None) -> Tensor:
        return torch.as_tensor(model.dims_of(model.batch(x, y).given)).double()

    return float((per_image(model, paid, images) if given is None else torch.as_tensor(model.dims_of(given)).double()).mean())
