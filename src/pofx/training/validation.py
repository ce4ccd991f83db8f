"""How good the averaged weights are on images that training does not see: mean cost, never augmented, in float32 or better.

What is measured follows from what a model can tell: nats and bits/dim (exact or a bound), or cross entropy and accuracy.
A model without either (a GAN) has only its losses.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pofx.model import ExactLikelihood, ImageModel, Labeler, LowerBound
from pofx.training.processes import Processes

LARGEST = 2000  # images: validation is a thermometer, `evaluate` the measurement
CHUNK = 100  # images at once, the last padded: one shape, whatever the set


@torch.no_grad()
def validate(model: ImageModel, split: Any, *, limit: int = LARGEST, processes: Processes | None = None) -> dict[str, float]:
    """Means over at most `limit` images of a split, a fixed random choice, by name: valid_nats, valid_bits_per_dim; valid_cross_entropy, valid_accuracy.

    Several processes measure every so-many-th chunk each; an image costs the same whoever measures it.
    """
    from pofx.data import order

    n = min(len(split), limit)
    if n == 0 or not isinstance(model, ExactLikelihood | LowerBound | Labeler):
        return {}
    chunk = min(CHUNK, n)
    chosen = torch.arange(n) if n == len(split) else order(len(split), seed=0, epoch=0)[:n].sort().values
    rank, size = (0, 1) if processes is None else (processes.rank, processes.size)
    found: dict[str, Tensor] = {}
    for start in list(range(0, n, chunk))[rank::size] or [0]:  # one that has none finds out the names
        index = chosen[start : start + chunk]
        padded = torch.cat([index, index[:1].expand(chunk - len(index))])
        x, y = split.take(padded)
        for name, values in _measure(model, x, y).items():
            each = found.setdefault(name, torch.zeros(n, dtype=torch.float64))
            if start // chunk % size == rank:
                each[start : start + chunk] = values[: len(index)].double().cpu()
    if processes is not None:
        found = {name: processes.total(each) for name, each in found.items()}
    return {f"valid_{name}": float(each.mean()) for name, each in found.items()}


def _measure(model: ImageModel, x: Tensor, y: Tensor | None) -> dict[str, Tensor]:
    batch = model.batch(x, y)
    out: dict[str, Tensor] = {}
    nats = None
    if isinstance(model, ExactLikelihood):
        nats = -model.log_prob(batch.x, batch.given)
    elif isinstance(model, LowerBound):
        nats = -model.elbo(batch.x, batch.given)
    if nats is not None:
        out |= {"nats": nats, "bits_per_dim": nats / (model.dims_of(batch.given) * math.log(2))}
    if isinstance(model, Labeler) and batch.y is not None:
        log_prob = model.label(batch.x).log_prob
        out |= {"cross_entropy": -log_prob.gather(1, batch.y[:, None])[:, 0], "accuracy": (log_prob.argmax(1) == batch.y).float()}
    return out
