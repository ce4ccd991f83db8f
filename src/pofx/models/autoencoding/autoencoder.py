"""The autoencoder: an encoder f and a decoder g that meet in a code of few numbers (Rumelhart et al. 1986; Hinton and Salakhutdinov 2006).

    z = f(x),  x̂ = g(z),        min over f, g of  E ‖x − x̂‖²

with x and x̂ on [0, 1], the sum over pixels and the mean over images. ‖x − x̂‖² is −log N(x; x̂, ½I) up to a constant, so training is maximum
likelihood of a Gaussian *density given z*; it is no likelihood of integers, there is no prior over z, and there is no p(x): nothing here scores an
image, and no z is "typical". `docs/codes.md` shows what comes out where one is drawn all the same.

Denoising (Vincent et al. 2008; 2010, §3): min E ‖x − g(f(x + σε))‖², ε ~ N(0, I): the code must hold what noise does not destroy.

With network="linear" f and g are affine, and the best they can do is PCA: the span of the first principal components (Baldi and Hornik 1989).

Differences from the papers: no layer-wise pretraining, SiLU units, up-convolutions as in `nn/coding.py`; a view is added in every layer of both
nets, and what it makes known is neither paid for nor decoded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from torch import Tensor

from pofx.errors import InputError
from pofx.likelihoods import normalised
from pofx.model import Batch, Context, Decoder, Encoder, Features, Objective, OptimizerSpec
from pofx.nn import coding, conditioning
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.views import View

HIDDEN = 200  # units of a layer of the MLP


@dataclass(frozen=True)
class Decoded:
    """A point, not a distribution: what an autoencoder decodes z to. `.mean` `(n, C, H, W)` is a float in 0 … levels−1."""

    mean: Tensor


class Autoencoder(Encoder, Decoder, Features):
    """A code of few numbers and the way back, by least squares. It has no p(x): no likelihood, no bound, no samples.

    Args:
        space: what images may be.
        given: a view that both nets see.
        latents: numbers in a code; by default 32, or as many as the image has.
        channels: width of the first convolution; doubled twice on the way down.
        layers: convolutions on the way down and up-convolutions on the way back (strides drop out below size 2), or hidden layers of the MLP.
        network: "convolutional", "mlp", or "linear" (one affine map each way, whose optimum is PCA).
        denoise: standard deviation, on [0, 1], of Gaussian noise added to what the encoder sees in training; 0 for none.
        lr: learning rate of Adam.

    Raises:
        InputError: sizes below 1, more latents than the image has numbers, negative noise, or an unknown network.
            Asking it for a likelihood or for samples is a CapabilityError.

    >>> import torch
    >>> model = Autoencoder.small(ImageSpace(1, 5, 5))
    >>> z = model.encode(torch.zeros(3, 1, 5, 5, dtype=torch.uint8))
    >>> z.shape, model.decode(z).mean.shape
    (torch.Size([3, 2]), torch.Size([3, 1, 5, 5]))
    """

    family: ClassVar = ("without density", "autoencoding")
    paper: ClassVar = "Hinton and Salakhutdinov 2006, Science 313:504; denoising: Vincent et al. 2010, JMLR 11:3371"

    def __init__(
        self,
        space: ImageSpace,
        given: View | None = None,
        *,
        latents: int | None = None,
        channels: int = 32,
        layers: int = 4,
        network: Literal["convolutional", "mlp", "linear"] = "convolutional",
        denoise: float = 0.0,
        lr: float = 2e-3,
    ) -> None:
        super().__init__(space, given)
        if network not in ("convolutional", "mlp", "linear"):
            raise InputError(f"Autoencoder: network={network!r} is unknown; use convolutional, mlp or linear.")
        if not 0 <= denoise < math.inf:
            raise InputError(f"Autoencoder: denoise={denoise} is a standard deviation on [0, 1] and at least 0, e.g. --denoise 0.2.")
        if layers < 1:
            raise InputError(f"Autoencoder: layers={layers} must be at least 1, e.g. --layers 4.")
        self.latent_dims = min(32, space.dims) if latents is None else latents
        self.latents, self.channels, self.layers, self.network = latents, channels, layers, network
        self.denoise, self.lr = denoise, lr
        self.context = conditioning.Context(self, channels)
        kind, depth = ("mlp", 0) if network == "linear" else (network, layers)
        coding.check_network(
            "Autoencoder", kind, latents=self.latent_dims, hidden=HIDDEN, layers=depth, channels=channels, stages=0, dims=space.dims
        )
        sizes: dict[str, Any] = {"channels": channels, "hidden": HIDDEN, "layers": depth}
        self.encoder = coding.encoder(kind, space, self.context, outputs=self.latent_dims, **sizes)
        self.decoder = coding.decoder(kind, space, self.context, latents=self.latent_dims, outputs=space.channels, **sizes)

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        return cls(space, given, latents=2, channels=8, layers=2)

    # The two halves --------------------------------------------------------------------------------------------------

    def _code(self, x: Tensor, given: Tensor | None, noise: Noise | None = None) -> Tensor:
        """f(x): `(n, latents)`; with `noise`, of the corrupted image."""
        h = normalised(x, self.space.levels, self.dtype)
        if noise is not None and self.denoise:
            h = h + 2 * self.denoise * noise.normal("denoise", *self.space.shape).to(h)  # [−1, 1] is twice as wide as [0, 1]
        return self.encoder(h, self.context(given)).to(self.dtype)

    def _image(self, z: Tensor, given: Tensor | None) -> Tensor:
        """g(z) on [0, 1], `(n, C, H, W)`: straight, so that a linear net is linear; it may leave the interval."""
        return (self.decoder(z, self.context(given)).to(self.dtype) + 1) / 2

    # Training --------------------------------------------------------------------------------------------------------

    def objectives(self) -> Sequence[Objective]:
        return [Objective("reconstruction", self, self._loss, optimizer=OptimizerSpec("Adam", lr=self.lr), clip=None)]

    def _loss(self, batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        z = self._code(batch.x, batch.given, context.noise)
        error = self._image(z, batch.given) - batch.x.to(self.dtype) / (self.space.levels - 1)
        l2 = self.unknown_sum(error**2, batch.given).mean()
        return l2, {"l2": l2.detach()}

    # Encoder, Decoder, Features --------------------------------------------------------------------------------------

    def encode(self, x: Tensor, given: Any = None, *, sample: bool = False, seed: int = 0) -> Tensor:
        """The code of x, `(n, latents)`. It is a point: `sample` and `seed` change nothing."""
        return self._code(*self.check_pair(x, given))

    def decode(self, z: Tensor, given: Any = None) -> Decoded:
        """x̂ of codes `(n, latents)`: `.mean` `(n, C, H, W)` in 0 … levels−1, cut off there; no distribution, and so no `log_prob`."""
        value = self.check_given(given, len(z))
        top = self.space.levels - 1
        mean = (self._image(z.to(self.device, self.dtype), value) * top).clamp(0, top)
        return Decoded(self.copy_known(mean, value))

    @property
    def feature_layers(self) -> Sequence[str]:
        return ["code"]

    def features(self, x: Tensor, layer: str | None = None) -> Tensor:
        """The code, `(n, latents)`."""
        self.layer_index(layer)
        if self.given is not None:
            raise InputError("A conditional autoencoder encodes x with its given; use encode(x, given).")
        return self.encode(x)
