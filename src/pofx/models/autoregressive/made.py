"""MADE: masked autoencoder for distribution estimation (Germain, Gregor, Murray and Larochelle 2015).

    h^l(x) = ReLU((W^l ⊙ M^l) h^{l−1} + b^l),   M^l = 1[m^l ≥ m^{l−1}]  (eq. 8),   output mask 1[d > m^L]  (eq. 9)

An autoencoder whose connections are cut so that output i depends on inputs before i only: p(x) in one pass of a fully connected net.
Differences from the paper: one natural order, and degrees spread evenly in place of drawn at random (no order-agnostic ensemble); a softmax
up to 32 levels and a discretized logistic above.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from torch import Tensor

from pofx.errors import InputError
from pofx.likelihoods import Likelihood, normalised
from pofx.model import Features
from pofx.nn import conditioning
from pofx.nn.ordered import OrderedModel, OrderedNet
from pofx.space import ImageSpace
from pofx.views import View

LARGEST = 4096  # sub-pixels


class MADE(OrderedModel, Features):
    """A masked fully connected net.

    Args:
        space: what images may be, of at most 4,096 sub-pixels.
        given: a view for p(x | given).
        hidden: units of each layer.
        layers: hidden layers.
        likelihood: "auto" is Bernoulli for 2 levels, a softmax up to 32, a discretized logistic above.
        lr: learning rate of AdamW.

    Raises:
        InputError: an image of more sub-pixels; no units or layers.

    >>> MADE.small(ImageSpace(1, 3, 3, levels=2)).sample(2).shape
    torch.Size([2, 1, 3, 3])
    """

    family: ClassVar = ("explicit", "tractable", "autoregressive")
    paper: ClassVar = "Germain et al. 2015, MADE: Masked Autoencoder for Distribution Estimation, arXiv:1502.03509"

    def __init__(
        self,
        space: ImageSpace,
        given: View | None = None,
        *,
        hidden: int = 500,
        layers: int = 2,
        likelihood: Literal["auto", "bernoulli", "categorical", "logistic"] = "auto",
        lr: float = 2e-3,
    ) -> None:
        super().__init__(space, given)
        if space.dims > LARGEST:
            raise InputError(
                f"MADE connects every pair of sub-pixels; {space.dims:,} are too many (at most {LARGEST:,}). Use --size, or pixelcnn."
            )
        if hidden < 1 or layers < 1:
            raise InputError(f"MADE: hidden={hidden} and layers={layers} must be at least 1, e.g. --hidden 500 --layers 2.")
        self.hidden, self.layers, self.likelihood, self.lr = hidden, layers, likelihood, lr
        self.head = Likelihood(likelihood, ImageSpace(1, 1, 1, space.levels), default="categorical" if space.levels <= 32 else "logistic")
        self.context = conditioning.Context(self, 32)
        self.net = OrderedNet(space, [hidden] * layers, self.head.size, self.context)

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        return cls(space, given, hidden=4 * space.dims)

    @property
    def feature_layers(self) -> Sequence[str]:
        return [f"hidden{i + 1}" for i in range(self.layers)]

    def features(self, x: Tensor, layer: str | None = None) -> Tensor:
        """Hidden units of a layer (the last by default): `(n, hidden)`."""
        depth = self.layer_index(layer) + 1
        ordered = self.space.check(x).to(self.device).permute(0, 2, 3, 1).flatten(1)
        return self.net.hidden(normalised(ordered, self.space.levels, self.dtype), None, depth)
