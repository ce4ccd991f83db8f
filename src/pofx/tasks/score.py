"""What does each image cost under the model? −log p(x) in nats and bits/dim, with its kind: exact, a bound, or an estimate.

    bits/dim = −log p(x) / (dims · ln 2)

A lower bound on log p (ELBO) bounds the cost from above and is printed ≤. With `estimate=k` a model with a bound gives the
importance-weighted estimate over k draws instead, printed ≈.

A photograph larger than the model is scored by its tiles (`_tiles.py`): bits/dim is their mean, and nats are those of the whole at that rate. Tiles that
do not overlap are a model of the photograph, p(x) = Π p(tile), and keep their kind; of overlapping ones it is an estimate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pofx.errors import InputError, RunError
from pofx.metrics.mean import Mean, cost_json
from pofx.model import ExactLikelihood, ImageModel, Kind, LowerBound, Progress, Score, require
from pofx.tasks._files import TABLES, check_out, write_table
from pofx.tasks._tiles import Tiles, whole
from pofx.tasks.bulk import Images, as_images, per_image


@dataclass(frozen=True)
class Scores:
    """Costs of images with their names.

    Attributes:
        ids: stable names, in order.
        score: nats `(n,)` and their kind.
        path: the file that was written, or None.
    """

    ids: Sequence[str]
    score: Score
    path: Path | None = None

    @property
    def cost(self) -> tuple[Mean, Mean]:
        """Mean nats and mean bits/dim."""
        return Mean.of(self.score.nats), Mean.of(self.score.bits_per_dim)

    @property
    def columns(self) -> dict[str, list]:
        """id, nats, bits_per_dim and kind, a row for each image."""
        s = self.score
        return {"id": list(self.ids), "nats": s.nats.tolist(), "bits_per_dim": s.bits_per_dim.tolist(), "kind": [s.kind] * len(self.ids)}

    @property
    def summary(self) -> CostSummary:
        s = self.score
        return CostSummary(len(self.ids), s.kind, None if s.given is None else repr(s.given), mean_dims(s), *self.cost, self.path)

    def to_json(self) -> dict:
        return self.summary.to_json()


@dataclass(frozen=True)
class CostSummary:
    """What is said of the costs of n images together.

    Attributes:
        given: the view of a conditional model, in words.
        dims: sub-pixels of an image that were paid for, their mean where that differs.
    """

    n: int
    kind: Kind
    given: str | None
    dims: int | float
    nats: Mean
    bits_per_dim: Mean
    path: Path | str | None = None

    def to_json(self) -> dict:
        return {
            "n": self.n,
            "kind": self.kind,
            "given": self.given,
            "dims": self.dims,
            **cost_json(self.nats, self.bits_per_dim),
            "out": None if self.path is None else str(self.path),
        }


def mean_dims(score: Score) -> int | float:
    """Sub-pixels that were paid for, of an image; their mean where the view knows other pixels of each."""
    return score.dims if isinstance(score.dims, int) else float(score.dims.double().mean())


def costs(
    model: ImageModel, images: Images | Tensor, *, samples: int = 1, estimate: int = 0, seed: int = 0, progress: Progress | None = None
) -> Score:
    """−log p(x | given) of every image, float64 nats `(n,)`, in fixed batches (`tasks/bulk.py`).

    Args:
        samples: draws of z per image for the ELBO of a model with a bound.
        estimate: 0 for the bound; k > 0 for its importance-weighted estimate over k draws. Exact models take neither.

    Raises:
        CapabilityError: the model has neither a likelihood nor a bound.
        InputError: images of another space.
        RunError: a score that is not finite; the message names the image.
    """
    likelihood = require(model, ExactLikelihood, LowerBound, to="score images (no likelihood, no bound)")
    images = as_images(images)
    if samples < 1 or estimate < 0:
        raise InputError(f"samples={samples} must be at least 1 and estimate={estimate} at least 0, e.g. --samples 1 --estimate 64.")
    kind: Kind = "exact" if isinstance(likelihood, ExactLikelihood) else "estimate" if estimate else "lower bound"

    def cost(x: Tensor, y: Tensor | None) -> Tensor:
        batch = likelihood.batch(x, y)
        if isinstance(likelihood, ExactLikelihood):
            log_prob = likelihood.log_prob(batch.x, batch.given)
        elif estimate:
            log_prob = likelihood.log_prob_estimate(batch.x, batch.given, samples=estimate, seed=seed)
        else:
            log_prob = likelihood.elbo(batch.x, batch.given, samples=samples, seed=seed)
        dims = likelihood.dims_of(batch.given)
        paid = dims if isinstance(dims, Tensor) else torch.full((len(x),), dims, device=log_prob.device)
        return torch.stack([-log_prob.double(), paid.double()], 1)

    nats, paid = per_image(likelihood, cost, images, progress=progress).unbind(1)
    return scored(likelihood, images, nats, paid, kind)


def scored(model: ImageModel, images: Images, nats: Tensor, paid: Tensor, kind: Kind) -> Score:
    """A score of costs `(n,)` float64 nats, and of how many sub-pixels each image paid for.

    Raises:
        RunError: a cost that is not finite; the message names the image.
    """
    bad = (~nats.isfinite()).nonzero().flatten()
    if len(bad):
        i = int(bad[0])
        raise RunError(
            f"The score of image {images.ids[i]!r} is {float(nats[i])} ({len(bad)} of {len(nats)} are not finite). "
            "The weights may be damaged, or the run diverged: score it with an earlier checkpoint, or train again with a lower --lr."
        )
    dims = paid.long() if model.given is not None and model.given.varies else model.dims
    return Score(nats, kind, dims, model.given)


def score(
    model: ImageModel,
    images: Images | Tensor,
    *,
    out: str | Path | None = None,
    samples: int = 1,
    estimate: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Scores:
    """Cost of each image; with `out`, a table with columns id, nats, bits_per_dim, kind.

    Args:
        images: a `Split`, uint8 `(n, C, H, W)`, or `Tiles` of photographs.
        out: `.parquet`, `.csv` or `.jsonl`; written beside and renamed.
        samples, estimate: see `costs`.

    Raises:
        CapabilityError, InputError, RunError: see `costs`; InputError too for another file ending.

    >>> import torch
    >>> from pofx.models.autoregressive.pixelcnn import PixelCNN
    >>> from pofx.space import ImageSpace
    >>> model = PixelCNN.small(ImageSpace(1, 3, 3, levels=2))
    >>> score(model, torch.zeros(4, 1, 3, 3, dtype=torch.uint8)).score.kind
    'exact'
    """
    path = None if out is None else check_out(out, TABLES)
    images = as_images(images)
    result = costs(model, images, samples=samples, estimate=estimate, seed=seed, progress=progress)
    if isinstance(images, Tiles):
        result = _of_photographs(result, images)
    ids = list(whole(images).ids)
    found = Scores(ids, result, path)
    if path is not None:
        write_table(path, found.columns, {"model": type(model).__name__, "given": repr(result.given), "dims": str(mean_dims(result))})
    return found


def _of_photographs(tiles: Score, images: Tiles) -> Score:
    """Costs of photographs from those of their tiles."""
    bits = tiles.bits_per_dim.double().reshape(-1, images.each).mean(1)
    dims = images.space.channels * images.size[0] * images.size[1]
    apart = images.each * images.space.dims == dims
    return Score(bits * dims * math.log(2), tiles.kind if apart else "estimate", dims, tiles.given)
