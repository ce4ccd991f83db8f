"""Where is an image odd? A map in bits, a threshold with a guarantee, and the image as the model would rather have it.

    autoregressive  m_i = −log2 p(x_i | x_<i) − H_i            H_i = E[−log2 p(X_i | x_<i)]: surprise less what the model expected itself
    with a code     m_i = −log2 p(x_i | z)  − H_i              at the mean of q(z|x): in units of its own scale, since H_i is that of p(x_i | z)
    background      m_i = −log2 p(x_i | x_<i) + log2 p_b(x_i | x_<i)      against a model of mutated images

Raw surprise lights every edge; what was expected to be uncertain is no defect. Sub-pixels of a pixel are added. The map of an image adds
up to its cost less the expected cost: nothing is scaled. For the eye, and for the threshold, it is smoothed over 3×3 pixels.

    lit: pixels whose smoothed map is above τ,   τ the k-th largest of the maxima of n calibration images, k = ⌊α(n + 1)⌋

so that the probability that *any* pixel of a normal image lights up is at most α. The restored image has the lit pixels drawn anew by the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pofx.errors import CapabilityError
from pofx.model import Autoregressive, ImageModel, LatentVariable, Progress, evaluating, require
from pofx.noise import Noise, hash_images
from pofx.tasks._conformal import Guarantee, needed, rank
from pofx.tasks._statistics import predictive, smooth
from pofx.tasks._tiles import Tiles, whole
from pofx.tasks.bulk import Images, as_images, per_image

LN2 = math.log(2)
UNMAPPED = (
    "there is no map of where an image is odd, since this model says nothing of single pixels. An autoregressive model (made, pixelcnn) or one "
    "with a posterior (vae) does."
)


@dataclass(frozen=True)
class HeatMaps:
    """Attributes:
    bits: `(n, 1, H, W)`, surprise less what was expected, of each pixel; sums to the excess cost of the image.
    smoothed: the same, mean over 3×3 pixels.
    threshold: of `smoothed`; the probability that any pixel of a normal image is above it is at most alpha. None without calibration.
    alpha: of the threshold.
    largest: of each calibration image the largest value of `smoothed`, `(m,)`, descending.
    """

    bits: Tensor
    smoothed: Tensor
    threshold: float | None = None
    alpha: float | None = None
    largest: Tensor | None = None

    def at(self, alpha: float, guarantee: Guarantee = "marginal") -> HeatMaps:
        """The same maps with the threshold of another alpha; without one where there are too few calibration images for it."""
        if self.largest is None or len(self.largest) < needed(alpha, guarantee):
            return replace(self, threshold=None, alpha=None)
        return replace(self, threshold=float(self.largest[rank(alpha, len(self.largest), guarantee) - 1]), alpha=alpha)

    @property
    def lit(self) -> Tensor:
        """bool `(n, 1, H, W)`: pixels above the threshold."""
        return torch.zeros_like(self.smoothed, dtype=torch.bool) if self.threshold is None else self.smoothed > self.threshold


def has_map(model: ImageModel) -> bool:
    """Whether the model says anything of single pixels."""
    return isinstance(model, Autoregressive | LatentVariable)


def bit_maps(
    model: ImageModel, images: Images | Tensor, *, background: ImageModel | None = None, progress: Progress | None = None
) -> Tensor:
    """`(n, 1, H, W)` float32, bits: see above. Of `Tiles` those of the whole images.

    Raises:
        CapabilityError: the model says nothing of single pixels.
    """
    if not has_map(model):
        raise CapabilityError(f"{type(model).__name__}: {UNMAPPED} E.g. pofx train vae DATA --out RUN")
    images = as_images(images)

    def bits(x: Tensor, y: Tensor | None) -> Tensor:
        batch = model.batch(x, y)
        seen = predictive(model, batch.x, batch.given)
        if background is None:
            excess = seen.excess
        else:
            excess = predictive(background, batch.x, background.batch(x, y).given).log_prob - seen.log_prob
        return (excess.sum(1, keepdim=True) / LN2).float()

    found = per_image(model, bits, images, progress=progress)
    return images.stitch(found) if isinstance(images, Tiles) else found


def heat_maps(
    model: ImageModel,
    images: Images | Tensor,
    *,
    calib: Images | Tensor | None = None,
    alpha: float = 0.05,
    guarantee: Guarantee = "marginal",
    background: ImageModel | None = None,
    progress: Progress | None = None,
) -> HeatMaps:
    """Maps of images, and where `calib` is given the threshold above which no pixel of a normal image lights up, but for a share alpha of images.

    Args:
        images: a `Split`, uint8 `(n, C, H, W)`, or `Tiles`, whose maps are stitched.
        calib: normal images that neither training nor selection saw.
        background: a model of mutated images, in the place of the expected surprise.

    Raises:
        CapabilityError: the model says nothing of single pixels.
        InputError: too few calibration images for alpha.

    >>> from pofx.models.autoregressive.pixelcnn import PixelCNN
    >>> from pofx.space import ImageSpace
    >>> model, x = PixelCNN.small(ImageSpace(1, 4, 4, levels=2)), torch.zeros(20, 1, 4, 4, dtype=torch.uint8)
    >>> heat_maps(model, x[:2], calib=x, alpha=0.1).bits.shape
    torch.Size([2, 1, 4, 4])
    """
    if calib is not None:
        rank(alpha, len(whole(as_images(calib))), guarantee)
    bits = bit_maps(model, images, background=background, progress=progress)
    if calib is None:
        return HeatMaps(bits, smooth(bits))
    largest = smooth(bit_maps(model, calib, background=background)).flatten(1).amax(1).sort(descending=True).values
    return HeatMaps(bits, smooth(bits), largest=largest).at(alpha, guarantee)


def restored(model: ImageModel, x: Tensor, lit: Tensor, *, y: Tensor | None = None, seed: int = 0) -> Tensor:
    """Images `x` uint8 `(n, C, H, W)` with their lit pixels, bool `(n, 1, H, W)`, as the model would have them: uint8.

    An autoregressive model draws them in its order, each given all that stands before it; one with a code takes the mean of p(x | z).
    Neither looks ahead: what follows a lit pixel in the order does not pull on it."""
    require(model, Autoregressive, LatentVariable, to="restore images")
    out = x.clone()
    with torch.inference_mode(), evaluating(model):
        batch = model.batch(x, y)
        if isinstance(model, LatentVariable):
            mean = model.decode(model.encode(batch.x, batch.given), batch.given).mean.round().clamp(0, model.space.levels - 1)
            out = torch.where(lit, mean.to(torch.uint8).cpu(), out)
        elif isinstance(model, Autoregressive):
            for i in lit.flatten(1).any(1).nonzero().flatten().tolist():
                part, fixed = batch.x[i : i + 1], ~lit[i].expand(model.space.shape)
                given = None if batch.given is None else batch.given[i : i + 1]
                out[i] = model.continue_(given, Noise(seed, hash_images(part.cpu())), fixed=(fixed, part))[0].cpu()
    return out.clone()
