"""A model of your own in fifty lines: a histogram for every pixel, p(x) = ∏ p_i(x_i), held to the contract of every other model."""

from typing import ClassVar

import torch
from torch import Tensor, nn

import pofx
from pofx.likelihoods import nats_to_bits_per_dim
from pofx.model import Autoregressive, Objective, OptimizerSpec, Steps


class Histogram(Autoregressive):
    """Each sub-pixel has its own histogram; none depends on another."""

    family = ("explicit", "tractable", "autoregressive")
    paper = "the baseline that every model must beat"
    refuses: ClassVar = {pofx.views.View: "it looks at nothing but one pixel at a time."}

    def __init__(self, space, given=None) -> None:
        super().__init__(space, given)
        self.logits = nn.Parameter(torch.zeros(*space.shape, space.levels))

    @classmethod
    def small(cls, space, given=None):
        return cls(space, given)

    def objectives(self):
        loss = lambda batch, context: (-self.conditional_log_prob(batch.x, None).mean(), {})  # noqa: E731
        return [Objective("nll", self, loss, optimizer=OptimizerSpec("Adam", lr=0.1))]

    def conditional_log_prob(self, x: Tensor, given) -> Tensor:
        table = self.logits.log_softmax(-1).expand(len(x), -1, -1, -1, -1)
        return table.gather(-1, x.long()[..., None])[..., 0]

    def order(self):
        return [torch.arange(self.space.dims)]  # one group: all are independent

    def begin(self, n, given=None):
        return AllAtOnce(self, n)


class AllAtOnce(Steps):
    def __init__(self, model: Histogram, n: int) -> None:
        self.table = model.logits.log_softmax(-1).flatten(0, 2).expand(n, -1, -1)

    def distribution(self) -> Tensor:
        return self.table

    def fix(self, values: Tensor) -> None: ...


if __name__ == "__main__":
    data = pofx.load_data("digits")
    model = Histogram(data.space)
    pofx.testing.fit(model, model.batch(data.train.x), steps=200)
    print(f"{nats_to_bits_per_dim(-model.log_prob(data.test.x).mean().item(), data.space.dims):.2f} bits/dim on test")
    print("kept:", ", ".join(pofx.testing.check_model(model, slow=False)))
