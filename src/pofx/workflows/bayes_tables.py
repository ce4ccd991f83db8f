"""Bayes' rule with nothing left out: all 16 binary images of 2×2 and two labels, three tables, every cell a product that can be checked.

    p(x, y) = p(x | y) p(y) = p(y | x) p(x),        p(x) = Σ_y p(x, y),   p(y) = Σ_x p(x, y)

p(x | y) is a fully visible belief network that was trained on images with ink above (label 0) or below (1); p(y | x) is what `BayesClassifier` makes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from pofx.model import ImageModel
from pofx.models.composed.bayes import BayesClassifier, enumerated
from pofx.views import Label
from pofx.workflows import _page as html
from pofx.workflows._patterns import HALVES, patterns, taught

FLIP, IMAGES, STEPS, LR = 0.1, 512, 60, 0.05


@dataclass(frozen=True, eq=False)
class BayesTables:
    """Float64 probabilities over n images and k labels.

    Attributes:
        x: uint8 `(n, 1, 2, 2)`, all images.
        p_y: `(k,)`, stated. p_x: `(n,)`, the sum of p(x, y) over labels.
        p_x_given_y: `(n, k)`, of the model; columns sum to 1.
        p_y_given_x: `(n, k)`, of the Bayes classifier; rows sum to 1.
    """

    x: Tensor
    p_y: Tensor
    p_x: Tensor
    p_x_given_y: Tensor
    p_y_given_x: Tensor

    @property
    def joint(self) -> Tensor:
        """p(x, y) = p(x|y) p(y), `(n, k)`; all cells sum to 1."""
        return self.p_x_given_y * self.p_y

    @property
    def off(self) -> float:
        """The largest |p(x|y) p(y) − p(y|x) p(x)| of all cells: 0 but for rounding."""
        return float((self.joint - self.p_y_given_x * self.p_x[:, None]).abs().max())

    def cell(self, image: int, label: int) -> str:
        """One cell, checked by hand."""
        a, b = float(self.p_x_given_y[image, label]), float(self.p_y[label])
        c, d = float(self.p_y_given_x[image, label]), float(self.p_x[image])
        name = "".join(map(str, self.x[image].flatten().tolist()))
        return (
            f"x = {name}, y = {label}: p(x|y) p(y) = {a:.6f} · {b:.6f} = {a * b:.9f};  p(y|x) p(x) = {c:.6f} · {d:.6f} = {c * d:.9f};  "
            f"difference {abs(a * b - c * d):.0e}"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "images": ["".join(map(str, image.flatten().tolist())) for image in self.x],
            "p_y": self.p_y.tolist(),
            "p_x": self.p_x.tolist(),
            "p_x_given_y": self.p_x_given_y.tolist(),
            "p_y_given_x": self.p_y_given_x.tolist(),
            "joint": self.joint.tolist(),
            "off": self.off,
        }


@cache
def learned() -> ImageModel:
    """p(x | y), trained once in a process: about a second."""
    return taught("fvbn", patterns(HALVES, FLIP, side=2).data(IMAGES), steps=STEPS, lr=LR, given=Label(2))


def bayes_tables(prior: Sequence[float] = (0.5, 0.5), conditional: ImageModel | None = None) -> BayesTables:
    """All tables of p(x, y) for one prior.

    Args:
        prior: p(y), above 0; they sum to 1.
        conditional: a model of p(x | label) of a space that can be enumerated; by default the trained one of 2×2 images.

    Raises:
        InputError: a prior that is none, or of another number of labels.

    >>> found = bayes_tables((0.3, 0.7))
    >>> found.off < 1e-12, round(float(found.joint.sum()), 12)
    (True, 1.0)
    """
    part = conditional or learned()
    model = BayesClassifier(part.space, conditional=part, classes=len(prior), prior=tuple(prior)).double()
    x = enumerated(part.space)
    assert x is not None
    with torch.no_grad():
        p_x_given_y, p_y = model.class_log_prob(x).log_prob.exp(), model.log_class_prior().exp()
        p_y_given_x = model.label(x).log_prob.exp()
    return BayesTables(x, p_y, p_x_given_y @ p_y, p_x_given_y, p_y_given_x)


def tables_html(found: BayesTables) -> str:
    """The three tables side by side in one, with all sums."""
    k = len(found.p_y)
    parts = (("p(x|y={})", found.p_x_given_y), ("p(x, y={})", found.joint), ("p(y={}|x)", found.p_y_given_x))
    head = ["x", *(name.format(y) for name, _ in parts[:2] for y in range(k)), "p(x)", *(parts[2][0].format(y) for y in range(k))]
    rows = []
    for i, image in enumerate(found.x):
        numbers = [*found.p_x_given_y[i].tolist(), *found.joint[i].tolist(), float(found.p_x[i]), *found.p_y_given_x[i].tolist()]
        rows.append(["/".join("".join(map(str, row)) for row in image[0].tolist()), *(f"{v:.5f}" for v in numbers)])
    sums = [*found.p_x_given_y.sum(0).tolist(), *found.joint.sum(0).tolist(), float(found.p_x.sum())]
    rows.append(["sum", *(f"{v:.5f}" for v in sums), *["–"] * k])
    said = ", ".join(f"p(y={y}) = {v:.3f}" for y, v in enumerate(found.p_y.tolist()))
    return html.table(
        head, rows, f"{said}. |p(x|y) p(y) − p(y|x) p(x)| is at most {found.off:.0e} over all cells; rows of p(y|x) sum to 1."
    )
