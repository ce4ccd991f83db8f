"""Why compress: how well an image comes back through a code of d numbers, from an autoencoder and from PCA, at equal d.

    error(d) = mean over test images of ‖x − x̂‖²,     x, x̂ on [0, 1], summed over pixels

PCA is the best that straight maps can do (Baldi and Hornik 1989), so what lies below its curve is what bent maps buy. Both see the training images
only, and both x̂ are cut off at 0 and 1. The curve says how many numbers an image needs, and nothing of how likely it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pofx.errors import InputError
from pofx.metrics.mean import Mean
from pofx.model import Decoder, require
from pofx.tasks.encode import codes
from pofx.tasks.reconstruct import means, squared_errors
from pofx.workflows._runs import trained

if TYPE_CHECKING:
    from pofx.data import Data, Split

LATENTS = (1, 2, 4, 8, 16, 32, 64)
STEPS = 3000


@dataclass(frozen=True)
class Bottleneck:
    """The curve.

    Attributes:
        latents: numbers in the code.
        autoencoder, pca: mean squared error of test images, summed over pixels on [0, 1], for each of `latents`.
        nothing: the same with no code at all: every x̂ is the mean training image.
        data, n: on which and how many test images.
        steps, arguments: how the autoencoders were made.
        shown: uint8 `(rows, 10, C, H, W)`: test images, then for each of `latents` their x̂ by the autoencoder.
    """

    latents: tuple[int, ...]
    autoencoder: tuple[Mean, ...]
    pca: tuple[Mean, ...]
    nothing: Mean
    data: str
    n: int
    steps: int
    arguments: Mapping[str, Any]
    shown: Tensor

    def to_json(self) -> dict[str, Any]:
        rows = [
            {"latents": d, "autoencoder": a.to_json(), "pca": p.to_json()}
            for d, a, p in zip(self.latents, self.autoencoder, self.pca, strict=True)
        ]
        more = {"data": self.data, "n": self.n, "steps": self.steps, "arguments": dict(self.arguments)}
        return more | {"unit": "squared error on [0, 1], summed over pixels", "no code": self.nothing.to_json(), "rows": rows}


def bottleneck(
    data: Data,
    out: str | Path,
    *,
    latents: Sequence[int] = LATENTS,
    steps: int = STEPS,
    arguments: Mapping[str, Any] | None = None,
    seed: int = 0,
    quiet: bool = True,
) -> Bottleneck:
    """Train an autoencoder for each number of latents, fit PCA, and measure both on the test images.

    Args:
        out: folder for the runs; what is there is not trained again.
        latents: code sizes; those above what an image or the training set has are left out.
        steps: of training, for each.
        arguments: of `Autoencoder`, e.g. {"network": "linear"}.

    Raises:
        InputError: no code size is left, or `out` holds runs with other arguments.
    """
    from sklearn.decomposition import PCA

    train, test = points(data.train, data.space.levels), points(data.test, data.space.levels)
    sizes = tuple(d for d in latents if 1 <= d <= min(train.shape))
    if not sizes:
        raise InputError(f"latents={tuple(latents)}: {data.heading} has codes of 1 … {min(train.shape)} numbers, e.g. latents=(1, 2, 4).")
    settings = dict(arguments or {})
    first, _ = data.test.take(torch.arange(min(10, len(data.test))))
    curves: dict[str, list[Mean]] = {"autoencoder": [], "pca": []}
    shown = [first]
    for d in sizes:
        model = trained("autoencoder", data, Path(out) / f"latents-{d}", steps=steps, seed=seed, quiet=quiet, latents=d, **settings)
        curves["autoencoder"].append(Mean.of(squared_errors(model, data.test)))
        shown.append(means(require(model, Decoder, to="decode"), codes(model, first)).round().to(torch.uint8))
        pca = PCA(d, svd_solver="full").fit(train.numpy())
        straight = torch.from_numpy(pca.inverse_transform(pca.transform(test.numpy()))).clamp(0, 1)
        curves["pca"].append(Mean.of(squared_error(straight, test)))
    return Bottleneck(
        latents=sizes,
        autoencoder=tuple(curves["autoencoder"]),
        pca=tuple(curves["pca"]),
        nothing=Mean.of(squared_error(train.mean(0), test)),
        data=data.heading,
        n=len(test),
        steps=steps,
        arguments=settings,
        shown=torch.stack(shown),
    )


def points(part: Split, levels: int) -> Tensor:
    """Images as vectors on [0, 1]: float64 `(n, dims)`."""
    return part.x.flatten(1).double() / (levels - 1)


def squared_error(a: Tensor, b: Tensor) -> Tensor:
    """‖a − b‖² of each row: `(n,)`."""
    return ((a - b) ** 2).sum(1)
