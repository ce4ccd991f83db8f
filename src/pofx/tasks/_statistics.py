"""Statistics of an image: numbers that tell normal images from others, each a small function that says what it needs.

    bits_per_dim        −log2 p(x) / dims, or its bound
    over_codec          bits/dim less those of a lossless codec (Serrà et al. 2020, arXiv:1909.11480): what is simple for everybody is not normal
    over_background     bits/dim less those of a model of mutated images (Ren et al. 2019, arXiv:1906.02845)
    typicality          |bits/dim − mean of normal images| (Nalisnick et al. 2019, arXiv:1906.02994)
    surprise_z          Σ_i (s_i − H_i) / √Σ_i Var s_i,   s_i = −log p(x_i | x_<i): more surprising than the model itself expected
    surprise_spread     Σ_i (s_i − H_i)² / Σ_i Var s_i: surprises that are too large and too small at once
    max_surprise        largest 3×3 mean of s_i − H_i, in bits: a small defect in a large image
    reconstruction, kl  parts of the ELBO, bits/dim;  latent_norm ‖μ_z‖, latent_spread log ‖σ_z‖
    squared_error       ‖x − E[x|z]‖², and max_squared_error, its largest 3×3 mean
    regret              ELBO at the best q for this image less that at q(z|x) (Xiao, Yan and Amit 2020, arXiv:2003.02977)
    realism             what the critic says;  inversion_error  squared error of the best code that was found
    pixels_*, features_*    distance from training images (`_reference.py`), of pixels and of the model's own features

A VAE has p(x_i | z) in the place of p(x_i | x_<i). The default is all that are cheap: one pass of the model and a table of training images. Features are
not part of it: those of a likelihood model are means over the image, and where they were measured they told less than pixels.

Adding a statistic is one function here, with `@statistic(…)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pofx.errors import CapabilityError, InputError, RunError, nearest
from pofx.likelihoods import PixelDistribution
from pofx.model import (
    Autoregressive,
    Batch,
    Bound,
    Critic,
    Decoder,
    Encoder,
    ExactLikelihood,
    Features,
    Gaussian,
    ImageModel,
    LatentVariable,
    LowerBound,
    Predictive,
    Progress,
    evaluating,
    require,
)
from pofx.noise import Noise, hash_images
from pofx.tasks._codec import codec_bits
from pofx.tasks._decoding import has_prior
from pofx.tasks._reference import IMAGES, Reference
from pofx.tasks.bulk import Images, as_images, per_image, subset
from pofx.tasks.invert import invert

LN2 = math.log(2)
BOX = 3  # of max_surprise
REGRET_STEPS, REGRET_RATE = 50, 0.05


@dataclass(frozen=True)
class Known:
    """What statistics may ask for besides the model: all of it is fixed before an image is judged.

    Attributes:
        pixels, features: of training images, or None.
        background: a model of mutated images, or None.
        center: mean bits/dim of normal images, for typicality.
        samples, seed: draws for a bound.
    """

    pixels: Reference | None = None
    features: Reference | None = None
    background: ImageModel | None = None
    center: float | None = None
    samples: int = 1
    seed: int = 0


class Seen:
    """A batch under a model; what several statistics read is computed once.

    Attributes: model; x uint8 `(n, C, H, W)`; given, the view's value; known.
    """

    def __init__(self, model: ImageModel, batch: Batch, y: Tensor | None, known: Known) -> None:
        self.model, self.x, self.given, self.y, self.known = model, batch.x, batch.given, y, known

    @cached_property
    def dims(self) -> Tensor:
        dims = self.model.dims_of(self.given)
        return dims.double().cpu() if isinstance(dims, Tensor) else torch.full((len(self.x),), float(dims), dtype=torch.double)

    @cached_property
    def bound(self) -> Bound:
        model = require(self.model, LatentVariable, to="split its bound")
        return model.bound(self.x, self.given, samples=self.known.samples, seed=self.known.seed)

    @cached_property
    def bits_per_dim(self) -> Tensor:
        """`(n,)` float64."""
        if isinstance(self.model, Autoregressive):
            nats = -self.predictive.log_prob.double().flatten(1).sum(1)
        elif isinstance(self.model, LatentVariable):
            nats = -self.bound.elbo.double()
        else:
            nats = cost_of(self.model, self.x, self.given, self.known)
        return nats.cpu() / (self.dims * LN2)

    @cached_property
    def predictive(self) -> Predictive:
        """Of the sub-pixels: given the past, or given the code. Known ones are 0."""
        return predictive(self.model, self.x, self.given)

    @cached_property
    def squared_error(self) -> Tensor:
        """‖x − E[x|z]‖² at the mean code, pixels on [0, 1]: `(n, C, H, W)`, 0 where known."""
        decoder, encoder = require(self.model, Decoder, to="decode"), require(self.model, Encoder, to="encode")
        mean = decoder.decode(encoder.encode(self.x, self.given), self.given).mean
        squared = ((mean.double() - self.x) / (self.model.space.levels - 1)).square()
        known = self.model.known(self.given)
        return squared if known is None else squared.masked_fill(known, 0)

    @cached_property
    def pixels(self) -> Tensor:
        """Residual, distance and Mahalanobis distance from training images: `(n, 3)`."""
        assert self.known.pixels is not None
        return self.known.pixels.measure(pixel_vectors(self.x, self.model.space.levels))

    @cached_property
    def features(self) -> Tensor:
        """The same of the model's own features."""
        assert self.known.features is not None
        return self.known.features.measure(feature_vectors(self.model, self.x))


def predictive(model: ImageModel, x: Tensor, given: Tensor | None) -> Predictive:
    """What the model expected of each sub-pixel, and what came: of p(x_i | x_<i), or of p(x_i | z) at the mean of q(z|x)."""
    if isinstance(model, Autoregressive):
        return model.predictive(x, given)
    latent = require(model, LatentVariable, to="say what it expects of each pixel")
    pixels = latent.decode(latent.encode(x, given), given)
    if not isinstance(pixels, PixelDistribution):
        raise CapabilityError(f"{type(model).__name__} decodes to {type(pixels).__name__}, which is no distribution over pixels.")
    return Predictive(pixels.log_prob(x), *pixels.surprise(x)).without(model.known(given))


def cost_of(model: ImageModel, x: Tensor, given: Tensor | None, known: Known) -> Tensor:
    """−log p(x | given) or the bound of it: `(n,)` nats, float64."""
    if isinstance(model, ExactLikelihood):
        return -model.log_prob(x, given).double()
    bounded = require(model, LowerBound, to="score images (no likelihood, no bound)")
    return -bounded.elbo(x, given, samples=known.samples, seed=known.seed).double()


@dataclass(frozen=True)
class Statistic:
    """A number for each image of a batch.

    Attributes:
        group: of what kind of evidence it is: see `_oddness.py`.
        needs: the model has all of these capabilities, or one of each tuple of them.
        asks: names of `Known` that must be there.
        cheap: it takes about one pass, and is part of the default.
        above: by itself, only large values are odd; else both sides are.
    """

    name: str
    function: Callable[[Seen], Tensor]
    group: str
    needs: tuple[Any, ...]
    asks: tuple[str, ...]
    cheap: bool
    above: bool

    def fits(self, model: ImageModel, known: Known) -> bool:
        return all(isinstance(model, need) for need in self.needs) and all(getattr(known, name) is not None for name in self.asks)

    @property
    def wants(self) -> str:
        """What it needs, in words."""
        parts = [" or ".join(c.__name__ for c in (need if isinstance(need, tuple) else (need,))) for need in self.needs]
        parts += [_ASKED[name] for name in self.asks]
        return " and ".join(parts) or "nothing"


_ASKED = {
    "pixels": "training images",
    "features": "training images and features without a view",
    "background": "--background RUN",
    "center": "normal images",
}
STATISTICS: dict[str, Statistic] = {}
LIKELIHOOD = (ExactLikelihood, LowerBound)
PIXELWISE = (Autoregressive, LatentVariable)


def statistic(
    group: str, *needs: Any, asks: Sequence[str] = (), cheap: bool = True, above: bool = False
) -> Callable[[Callable[[Seen], Tensor]], Callable[[Seen], Tensor]]:
    """Enter a function of `Seen` → `(n,)` into the table, under its own name."""

    def enter(function: Callable[[Seen], Tensor]) -> Callable[[Seen], Tensor]:
        name = function.__name__
        STATISTICS[name] = Statistic(name, function, group, needs, tuple(asks), cheap, above)
        return function

    return enter


# Any likelihood ---------------------------------------------------------------------------------------------------------


@statistic("likelihood", LIKELIHOOD)
def bits_per_dim(seen: Seen) -> Tensor:
    return seen.bits_per_dim


@statistic("likelihood", LIKELIHOOD)
def over_codec(seen: Seen) -> Tensor:
    return seen.bits_per_dim - codec_bits(seen.x, seen.model.space).cpu() / seen.model.space.dims


@statistic("likelihood", LIKELIHOOD, asks=["background"])
def over_background(seen: Seen) -> Tensor:
    background = seen.known.background
    assert background is not None
    given = background.batch(seen.x, seen.y).given
    return seen.bits_per_dim - cost_of(background, seen.x, given, seen.known).cpu() / (seen.dims * LN2)


@statistic("likelihood", LIKELIHOOD, asks=["center"], cheap=False, above=True)
def typicality(seen: Seen) -> Tensor:
    center = seen.known.center
    assert center is not None
    return (seen.bits_per_dim - center).abs()


# What was expected of each pixel ----------------------------------------------------------------------------------------


@statistic("likelihood", PIXELWISE)
def surprise_z(seen: Seen) -> Tensor:
    p = seen.predictive
    return p.excess.double().flatten(1).sum(1) / p.variance.double().flatten(1).sum(1).clamp(min=1e-9).sqrt()


@statistic("likelihood", PIXELWISE)
def surprise_spread(seen: Seen) -> Tensor:
    p = seen.predictive
    return p.excess.double().square().flatten(1).sum(1) / p.variance.double().flatten(1).sum(1).clamp(min=1e-9)


@statistic("likelihood", PIXELWISE, above=True)
def max_surprise(seen: Seen) -> Tensor:
    return smooth(seen.predictive.excess.sum(1, keepdim=True) / LN2).flatten(1).amax(1)


def smooth(x: Tensor, box: int = BOX) -> Tensor:
    """The mean over a box of pixels, at the border over as much of it as there is: `(n, C, H, W)`."""
    return F.avg_pool2d(x, box, stride=1, padding=box // 2, count_include_pad=False)


# Codes ------------------------------------------------------------------------------------------------------------------


@statistic("code", LatentVariable)
def reconstruction(seen: Seen) -> Tensor:
    return -seen.bound.log_likelihood.double().cpu() / (seen.dims * LN2)


@statistic("code", LatentVariable)
def kl(seen: Seen) -> Tensor:
    return seen.bound.kl.double().sum(1).cpu() / (seen.dims * LN2)


@statistic("code", LatentVariable)
def latent_norm(seen: Seen) -> Tensor:
    return require(seen.model, LatentVariable, to="encode").posterior(seen.x, seen.given).mean.double().norm(dim=1)


@statistic("code", LatentVariable)
def latent_spread(seen: Seen) -> Tensor:
    return 0.5 * require(seen.model, LatentVariable, to="encode").posterior(seen.x, seen.given).log_variance.double().logsumexp(1)


@statistic("code", Encoder, Decoder, above=True)
def squared_error(seen: Seen) -> Tensor:
    return seen.squared_error.flatten(1).sum(1)


@statistic("code", Encoder, Decoder, above=True)
def max_squared_error(seen: Seen) -> Tensor:
    return smooth(seen.squared_error.sum(1, keepdim=True)).flatten(1).amax(1)


@statistic("code", LatentVariable, cheap=False, above=True)
def regret(seen: Seen) -> Tensor:
    model = require(seen.model, LatentVariable, to="improve its bound")
    return likelihood_regret(model, seen.x, seen.given, seed=seen.known.seed) / (seen.dims * LN2)


def likelihood_regret(model: LatentVariable, x: Tensor, given: Tensor | None, *, seed: int = 0, steps: int = REGRET_STEPS) -> Tensor:
    """What the bound of each image gains where q = N(m, s²) is fitted to it alone, by Adam from q(z|x): `(n,)` nats ≥ 0, float64.

    One fixed draw of ε is used all the way, so that the gain is of q and not of luck (Xiao et al. 2020, eq. 6)."""
    with torch.inference_mode(False), torch.enable_grad(), evaluating(model):
        x, given = x.clone(), None if given is None else given.clone()
        q = model.posterior(x, given)
        mean, log_variance = (t.detach().clone().requires_grad_() for t in (q.mean, q.log_variance))
        epsilon = Noise(seed, hash_images(x)).normal("regret", model.latent_dims).to(mean)
        adam = torch.optim.Adam([mean, log_variance], lr=REGRET_RATE)
        first, best = None, None
        for step in range(steps + 1):
            now = Gaussian(mean, log_variance)
            bound = model.unknown_sum(model.decode(now.sample(epsilon), given).log_prob(x), given).double() - now.kl().double().sum(1)
            first = bound.detach() if first is None else first
            best = bound.detach() if best is None else torch.maximum(best, bound.detach())
            if step < steps:
                mean.grad, log_variance.grad = torch.autograd.grad(-bound.sum(), [mean, log_variance])
                adam.step()
    assert first is not None and best is not None
    return (best - first).cpu()


# Adversaries ------------------------------------------------------------------------------------------------------------


@statistic("critic", Critic)
def realism(seen: Seen) -> Tensor:
    return require(seen.model, Critic, to="judge images").realism(seen.x, seen.given)


@statistic("code", Decoder, cheap=False, above=True)
def inversion_error(seen: Seen) -> Tensor:
    if not has_prior(seen.model):
        raise CapabilityError(f"{type(seen.model).__name__} has no prior to start an inversion from; use --statistic squared_error.")
    return invert(seen.model, seen.x.cpu(), seen.given, seed=seen.known.seed).squared_error


# Training images --------------------------------------------------------------------------------------------------------


def pixel_vectors(x: Tensor, levels: int) -> Tensor:
    """`(n, d)` float64 on [0, 1]."""
    return x.flatten(1).double().cpu() / (levels - 1)


def feature_vectors(model: ImageModel, x: Tensor) -> Tensor:
    """`(n, d)` float64 on the CPU: the model's own features."""
    return require(model, Features, to="compare features").features(x).double().cpu()


def _referred(which: Literal["pixels", "features"], column: int) -> Callable[[Seen], Tensor]:
    def function(seen: Seen) -> Tensor:
        return getattr(seen, which)[:, column]

    function.__name__ = f"{which}_{('residual', 'distance', 'mahalanobis')[column]}"
    return function


for _column in range(3):
    # Of three that say nearly the same two are enough: the residual and the distance together hold what is far within the components.
    statistic("pixels", asks=["pixels"], cheap=_column < 2, above=True)(_referred("pixels", _column))
    statistic("features", Features, asks=["features"], cheap=False, above=True)(_referred("features", _column))


# All together -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """Statistics of images: `values` `(n, k)` float64, a column for each of `names`."""

    names: tuple[str, ...]
    values: Tensor
    ids: Sequence[str]

    def __len__(self) -> int:
        return len(self.values)

    def column(self, name: str) -> Tensor:
        return self.values[:, self.names.index(name)]

    def of(self, names: Sequence[str]) -> Tensor:
        return self.values[:, [self.names.index(name) for name in names]]


def chosen(model: ImageModel, known: Known, names: Sequence[str] = ()) -> tuple[str, ...]:
    """Those that were asked for, or all cheap ones that the model supports.

    Raises:
        InputError: no statistic of that name.
        CapabilityError: the model cannot give one, or none at all.
    """
    for name in names:
        if name not in STATISTICS:
            raise InputError(f"No statistic is called {name!r}. {nearest(name, STATISTICS)}")
        if not STATISTICS[name].fits(model, known):
            fitting = ", ".join(n for n, s in STATISTICS.items() if s.fits(model, known))
            raise CapabilityError(
                f"{type(model).__name__} cannot give {name}: that needs {STATISTICS[name].wants}. It can give {fitting or 'none'}."
            )
    found = tuple(names) or tuple(name for name, s in STATISTICS.items() if s.cheap and s.fits(model, known))
    if not found:
        raise CapabilityError(f"{type(model).__name__} has no likelihood, no bound, no code and no critic: nothing that tells odd images.")
    return found


def refer(model: ImageModel, train: Images | Tensor | None, known: Known, *, features: bool = False) -> Known:
    """`known` with what training images look like in pixels and, where they are asked for, in the model's features."""
    if train is None or len(as_images(train)) < 2:
        return known
    images = subset(as_images(train), IMAGES)
    levels = model.space.levels
    pixels = Reference.fit(per_image(model, lambda x, y: pixel_vectors(model.space.check(x), levels), images))
    known = replace(known, pixels=pixels)
    if features and isinstance(model, Features) and model.given is None:
        known = replace(known, features=Reference.fit(per_image(model, lambda x, y: feature_vectors(model, x), images)))
    return known


def measure(model: ImageModel, images: Images | Tensor, names: Sequence[str], known: Known, *, progress: Progress | None = None) -> Table:
    """Statistics of each image.

    Raises:
        InputError: images of another space, or none.
        RunError: one that is not finite; the message names the image.
    """
    images = as_images(images)

    def values(x: Tensor, y: Tensor | None) -> Tensor:
        seen = Seen(model, model.batch(x, y), y, known)
        return torch.stack([STATISTICS[name].function(seen).double().cpu() for name in names], 1)

    found = per_image(model, values, images, progress=progress)
    bad = (~found.isfinite()).nonzero()
    if len(bad):
        i, k = bad[0].tolist()
        raise RunError(
            f"The statistic {names[k]} of image {images.ids[i]!r} is {float(found[i, k])} ({len(bad[:, 0].unique())} of {len(found)} images). "
            "The weights may be damaged, or the run diverged: use an earlier checkpoint, or train again with a lower --lr."
        )
    return Table(tuple(names), found, list(images.ids))
