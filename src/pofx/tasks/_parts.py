"""The bound of a latent-variable model in its parts, of each image: one pass, for all that asks for a part (a cost, a KL, a posterior)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pofx.model import LatentVariable, Progress, Score
from pofx.tasks.bulk import Images, as_images, per_image
from pofx.tasks.score import scored


@dataclass(frozen=True)
class Parts:
    """Of n images, float64.

    Attributes:
        score: −L of each, by `samples` draws from `seed`; the same numbers as `costs`.
        log_likelihood: E_q[log p(x | z)], `(n,)` nats.
        kl: of each latent, `(n, d)` nats.
        mean, log_variance: of q(z|x), `(n, d)`.
    """

    score: Score
    log_likelihood: Tensor
    kl: Tensor
    mean: Tensor
    log_variance: Tensor


def taken_apart(
    model: LatentVariable, images: Images | Tensor, *, samples: int = 1, seed: int = 0, progress: Progress | None = None
) -> Parts:
    """The parts of the bound of many images.

    Raises:
        InputError: images of another space.
        RunError: a bound that is not finite; the message names the image.
    """
    images, d = as_images(images), model.latent_dims

    def parts(x: Tensor, y: Tensor | None) -> Tensor:
        batch = model.batch(x, y)
        bound = model.bound(batch.x, batch.given, samples=samples, seed=seed)
        q = model.posterior(batch.x, batch.given)
        dims = model.dims_of(batch.given)
        paid = dims if isinstance(dims, Tensor) else torch.full((len(x),), dims, device=bound.elbo.device)
        each = torch.stack([-bound.elbo.double(), paid.double(), bound.log_likelihood.double()], 1)
        return torch.cat([each, bound.kl.double(), q.mean.double(), q.log_variance.double()], 1)

    each, kl, mean, log_variance = per_image(model, parts, images, progress=progress).split([3, d, d, d], 1)
    nats, paid, log_likelihood = each.unbind(1)
    return Parts(scored(model, images, nats, paid, "lower bound"), log_likelihood, kl, mean, log_variance)
