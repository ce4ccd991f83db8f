"""Fully visible belief network (Neal 1992; Frey, Hinton and Dayan 1996): one regression per pixel on all earlier ones.

    p(x) = ∏_i p(x_i | x_<i),   p(x_i = 1 | x_<i) = σ(b_i + Σ_{j<i} W_ij x_j)

The first rung of the ladder: no hidden units, D(D−1)/2 weights. Differences from the papers: more than 2 levels are a softmax regression
up to 32 levels, and a discretized logistic whose mean and scale are linear in the past above; trained by gradient descent in place of
one fit per pixel.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pofx.errors import InputError
from pofx.likelihoods import Likelihood
from pofx.nn import conditioning
from pofx.nn.ordered import OrderedModel, OrderedNet
from pofx.space import ImageSpace
from pofx.views import View

LARGEST = 4096  # sub-pixels: the weights grow with their square


class FVBN(OrderedModel):
    """A logistic regression for every pixel given all earlier ones.

    Args:
        space: what images may be, of at most 4,096 sub-pixels.
        given: a view for p(x | given).
        likelihood: "auto" is Bernoulli for 2 levels, a softmax up to 32, a discretized logistic above.
        lr: learning rate of AdamW.

    Raises:
        InputError: an image of more sub-pixels.

    >>> FVBN(ImageSpace(1, 3, 3, levels=2)).sample(2).shape
    torch.Size([2, 1, 3, 3])
    """

    family: ClassVar = ("explicit", "tractable", "autoregressive")
    paper: ClassVar = "Frey, Hinton and Dayan 1996, Does the Wake-Sleep Algorithm Produce Good Density Estimators?"

    def __init__(
        self,
        space: ImageSpace,
        given: View | None = None,
        *,
        likelihood: Literal["auto", "bernoulli", "categorical", "logistic"] = "auto",
        lr: float = 1e-2,
    ) -> None:
        super().__init__(space, given)
        if space.dims > LARGEST:
            raise InputError(
                f"FVBN has a weight for every pair of sub-pixels; {space.dims:,} are too many (at most {LARGEST:,}). Use --size, or pixelcnn."
            )
        self.likelihood, self.lr = likelihood, lr
        self.head = Likelihood(likelihood, ImageSpace(1, 1, 1, space.levels), default="categorical" if space.levels <= 32 else "logistic")
        self.context = conditioning.Context(self, 8)
        self.net = OrderedNet(space, [], self.head.size, self.context)

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        return cls(space, given)
