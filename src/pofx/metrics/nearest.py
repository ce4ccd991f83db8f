"""The nearest of many vectors, exactly, in bounded memory.

|q − b|² = |q|² + |b|² − 2 q·b in float32 makes a shortlist block by block; the distances of the shortlist are then computed from
differences in float64. So a copy has the distance 0 and not the rounding error of a difference of large numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pofx.errors import InputError

SPARE = 4  # extra candidates: rounding in the shortlist must not lose the true nearest


@dataclass(frozen=True)
class Nearest:
    """Attributes: distance `(m, k)`, Euclidean, ascending; index `(m, k)`, rows of the base."""

    distance: Tensor
    index: Tensor


def nearest(queries: Tensor, base: Tensor | Iterable[Tensor], k: int = 1, *, block: int = 4096) -> Nearest:
    """The k nearest rows of `base` for each row of `queries`.

    Args:
        queries: `(m, …)`, any dtype; flattened.
        base: `(n, …)`, or blocks of it in order (a set on disk).
        k: neighbours, 1 … n.

    Raises:
        InputError: fewer than k rows in the base.

    >>> nearest(torch.tensor([[0.0], [9.0]]), torch.tensor([[8.0], [1.0]])).index.tolist()
    [[1], [0]]
    """
    q = queries.reshape(len(queries), -1)
    blocks = (base[i : i + block] for i in range(0, len(base), block)) if isinstance(base, Tensor) else iter(base)
    q32, q64 = q.float(), q.double()
    q_norm = q32.square().sum(1, keepdim=True)
    best, index, start = torch.empty(len(q), 0, dtype=torch.double), torch.empty(len(q), 0, dtype=torch.long), 0
    for rows in blocks:
        b = rows.reshape(len(rows), -1).to(q.device)
        b32 = b.float()
        rough = q_norm + b32.square().sum(1) - 2 * q32 @ b32.T
        candidates = rough.topk(min(k + SPARE, len(b)), largest=False).indices  # (m, c)
        # Exact distances, a part of the queries at a time: (part, c, d) float64 stays under about 64 MB
        part = max(1, int(8e6 / max(1, candidates.shape[1] * b.shape[1])))
        exact = [(b[candidates[i : i + part]].double() - q64[i : i + part, None]).square_().sum(-1).sqrt_() for i in range(0, len(q), part)]
        best = torch.cat([best, torch.cat(exact).cpu()], 1) if exact else best
        index = torch.cat([index, candidates.cpu() + start], 1)
        start += len(b)
        best, order = best.sort(dim=1, stable=True)
        best, index = best[:, :k], index.gather(1, order)[:, :k]
    if start < k:
        raise InputError(f"{k} nearest neighbours were asked for among {start} images; use k={max(1, start)} or more images.")
    return Nearest(best, index)
