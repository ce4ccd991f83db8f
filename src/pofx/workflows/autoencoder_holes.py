"""Why not sample an autoencoder: its codes lie where they like, and between them the decoder was never asked.

    line     a code of one number that learned N images by heart: between two codes there is whatever the net happens to say, and no other image
             comes back
    priors   images decoded from z ~ N(0, I), from a Gaussian fitted to the codes, and from a VAE's prior, with precision and recall
    maps     two-dimensional codes of images, and what the plane between them decodes to, beside the VAE's

A VAE pays for every code that is not like N(0, I), and decodes codes with noise on them: so a draw from N(0, I) is near what it has seen. What is
drawn from an autoencoder is not a sample of any p(x) that it learned; it is called `decoded` here.

Precision and recall are those of `metrics/precision_recall.py`, against test images, in raw pixels and in the features of a run. Both are told,
because features can be deceived: a classifier that never saw noise takes noise for one of its classes, and so for a precise image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pofx.errors import InputError
from pofx.metrics.mean import Mean
from pofx.metrics.nearest import nearest
from pofx.metrics.precision_recall import PrecisionRecall, precision_recall
from pofx.model import Decoder, ImageModel, LatentVariable, require
from pofx.noise import Noise
from pofx.tasks._samples import feature_vectors
from pofx.tasks.encode import codes
from pofx.tasks.reconstruct import means, squared_errors
from pofx.workflows._runs import trained
from pofx.workflows.bottleneck import points, squared_error

if TYPE_CHECKING:
    from pofx.data import Data
    from pofx.workflows.features import FeaturesRun

STEPS, LATENTS, HEART, DRAWS, SIDE = 3000, 16, 10, 500, 12
ARGUMENTS: Mapping[str, Any] = {"network": "mlp", "layers": 2, "lr": 2e-3}
OUTSIDE = 0.99  # a draw is in a hole where fewer than 1 % of test images have a code as far from those of training images


@dataclass(frozen=True)
class Line:
    """An autoencoder of one latent and N training images.

    Attributes:
        images, back: uint8 `(N, C, H, W)`, along the line: what it learned, and how it comes back.
        codes: `(N,)`, ascending.
        error, others, nothing: squared error, summed over pixels on [0, 1]: of `back`; of test images; of the mean training image in their place.
        walk: uint8 `(k, C, H, W)`, decoded at equal steps from the first code to the last.
    """

    images: Tensor
    back: Tensor
    codes: Tensor
    error: Mean
    others: Mean
    nothing: Mean
    walk: Tensor


@dataclass(frozen=True)
class Prior:
    """What a decoder makes of draws of z: uint8 `(n, C, H, W)`, and its measures against test images, in raw pixels and in features if there are."""

    name: str
    decoded: Tensor
    pixels: PrecisionRecall
    features: PrecisionRecall | None = None


@dataclass(frozen=True)
class Map:
    """A two-dimensional code.

    Attributes:
        codes: `(n, 2)` of training images; of a VAE draws from q(z|x). labels: int64 `(n,)` or None.
        low, high: corners of the square that `decoded` shows, row by row from the top: uint8 `(SIDE², C, H, W)`.
        holes: share of draws (of N(0, I) for a VAE, else of the Gaussian fitted to the codes) that are farther from every code than OUTSIDE of
            the codes of test images are.
        drawn: `(m, 2)`, those draws.
    """

    name: str
    codes: Tensor
    labels: Tensor | None
    low: tuple[float, float]
    high: tuple[float, float]
    decoded: Tensor
    holes: float
    drawn: Tensor


@dataclass(frozen=True)
class Holes:
    """All three, and the protocol."""

    line: Line
    priors: tuple[Prior, ...]
    maps: tuple[Map, ...]
    data: str
    features: str | None
    steps: int
    arguments: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        line = {"images": len(self.line.images), "error": self.line.error.to_json(), "test": self.line.others.to_json()}
        priors = {p.name: {"pixels": asdict(p.pixels), "features": None if p.features is None else asdict(p.features)} for p in self.priors}
        return {
            "data": self.data,
            "features": self.features,
            "steps": self.steps,
            "arguments": dict(self.arguments),
            "line": line | {"test by the mean image": self.line.nothing.to_json()},
            "priors": priors,
            "maps": {m.name: {"in holes": m.holes, "draws": len(m.drawn), "outside": round(1 - OUTSIDE, 6)} for m in self.maps},
        }


def holes(
    data: Data,
    out: str | Path,
    *,
    features: FeaturesRun | None = None,
    steps: int = STEPS,
    latents: int = LATENTS,
    arguments: Mapping[str, Any] = ARGUMENTS,
    seed: int = 0,
    quiet: bool = True,
) -> Holes:
    """Train what the three pictures need, and measure it.

    Args:
        out: folder for the runs; what is there is not trained again.
        features: run whose features precision and recall are taken in too.
        steps: of training, for each model.
        latents: of the models whose priors are compared.
        arguments: of `Autoencoder` and of `VAE`.

    Raises:
        InputError: fewer than HEART training images, or `out` holds runs with other arguments.
    """
    if len(data.train) < HEART:
        raise InputError(f"{data.heading} has {len(data.train)} training images; at least {HEART} are needed to be learned by heart.")
    out, settings = Path(out), {"steps": steps, "seed": seed, "quiet": quiet} | dict(arguments)
    net = None if features is None else features.model

    def measured(name: str, x: Tensor) -> Prior:
        pixels = precision_recall(x.flatten(1).double(), data.test.x.flatten(1).double())
        return Prior(name, x, pixels, None if net is None else precision_recall(feature_vectors(net, x), feature_vectors(net, data.test.x)))

    auto = trained("autoencoder", data, out / "autoencoder", latents=latents, **settings)
    vae = trained("vae", data, out / "vae", latents=latents, **settings)
    epsilon = Noise(seed, torch.arange(DRAWS)).normal("z", latents).float()
    priors = (
        measured("autoencoder, z ~ N(0, I)", decode(auto, epsilon)),
        measured("autoencoder, z ~ Gaussian fitted to its codes", decode(auto, fitted(codes(auto, data.train), epsilon))),
        measured("VAE, z ~ N(0, I)", decode(vae, epsilon)),
        measured("training images", data.train.x[:DRAWS]),
    )
    maps = []
    for title, name in (("autoencoder", "autoencoder"), ("VAE", "vae")):
        maps.append(_map(title, trained(name, data, out / f"{name}-2d", latents=2, **settings), data, seed))
    line = _line(data, out / "line", settings)
    return Holes(line, priors, tuple(maps), data.heading, None if features is None else features.name, steps, dict(arguments))


def decode(model: ImageModel, z: Tensor) -> Tensor:
    """The mean image of codes `(n, d)`, rounded: uint8 `(n, C, H, W)`."""
    mean = means(require(model, Decoder, to="decode"), z)
    return mean.round().clamp(0, model.space.levels - 1).to(torch.uint8)


def fitted(z: Tensor, epsilon: Tensor) -> Tensor:
    """Draws `(n, d)` of the Gaussian with the mean and covariance of codes `(m, d)`, made of standard normal ones.

    >>> z = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 0.1]) + 5
    >>> bool((fitted(z, (z - z.mean(0)) / z.std(0)).std(0) / z.std(0) - 1 < 0.1).all())
    True
    """
    values, vectors = torch.linalg.eigh(z.double().T.cov().reshape(z.shape[1], z.shape[1]))
    root = vectors * values.clamp(min=0).sqrt()  # codes may fill fewer dimensions than there are
    return (z.double().mean(0) + epsilon.double() @ root.T).to(epsilon.dtype)


def _map(title: str, model: ImageModel, data: Data, seed: int) -> Map:
    has_q = isinstance(model, LatentVariable)  # draws are what its decoder was trained on
    known, test = (codes(model, part, sample=has_q, seed=seed) for part in (data.train, data.test))
    epsilon = Noise(seed, torch.arange(DRAWS)).normal("map", 2).float()
    drawn = epsilon if title == "VAE" else fitted(known, epsilon)
    limit = nearest(test, known).distance[:, 0].quantile(OUTSIDE)
    share = float((nearest(drawn, known).distance[:, 0] > limit).double().mean())
    low, high = known.quantile(0.01, dim=0), known.quantile(0.99, dim=0)
    down, across = torch.meshgrid(torch.linspace(1, 0, SIDE), torch.linspace(0, 1, SIDE), indexing="ij")
    grid = low + (high - low) * torch.stack([across.flatten(), down.flatten()], 1)
    corners = tuple(tuple(corner.tolist()) for corner in (low, high))
    return Map(title, known, data.train.y, *corners, decode(model, grid), share, drawn)  # type: ignore[arg-type]


def _line(data: Data, out: Path, settings: Mapping[str, Any]) -> Line:
    few = replace(data, train=data.train.select(np.arange(HEART)), fingerprint=f"{data.fingerprint}, the first {HEART} of train")
    model = trained("autoencoder", few, out, latents=1, **settings)
    z = codes(model, few.train)[:, 0]
    order = z.argsort()
    images, z = few.train.x[order], z[order]
    test = points(data.test, data.space.levels)
    nothing = Mean.of(squared_error(points(data.train, data.space.levels).mean(0), test))
    walk = z[0] + (z[-1] - z[0]) * torch.linspace(0, 1, 4 * HEART)
    learned, others = (Mean.of(squared_errors(model, x)) for x in (images, data.test))
    return Line(images, decode(model, z[:, None]), z, learned, others, nothing, decode(model, walk[:, None]))
