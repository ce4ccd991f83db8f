"""Which of several models is better on the same images? Paired: the difference is taken image by image.

    d_i = cost_A(x_i) − cost_B(x_i),   mean(d) ± sd(d)/√n

Images differ far more among each other than two models do on one image, so the paired standard error is often ten times smaller than
that of the two means. Only like is compared with like: same images, same transforms, all conditional on the same view or none. Runs that were trained on
another set or split, and so maybe on these images, are named in a note.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pofx.errors import InputError
from pofx.model import ImageModel, Progress
from pofx.tasks.bulk import Images, as_images
from pofx.tasks.evaluate import SIGNS, Mean
from pofx.tasks.score import costs


@dataclass(frozen=True)
class Row:
    """One model: its mean cost, and the paired difference to the best one (0 for itself)."""

    name: str
    kind: str
    nats: Mean
    bits_per_dim: Mean
    difference: Mean
    difference_bits_per_dim: Mean

    @property
    def sign(self) -> str:
        return SIGNS[self.kind]

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "nats": self.nats.to_json(),
            "bits_per_dim": self.bits_per_dim.mean,
            "bits_per_dim_se": self.bits_per_dim.to_json()["se"],
            "difference": self.difference.to_json(),
            "difference_bits_per_dim": self.difference_bits_per_dim.to_json(),
        }


@dataclass(frozen=True)
class Comparison:
    """Rows, lowest cost first; `best` is the first. `notes` say what the kinds allow to conclude."""

    data: str
    n: int
    given: str | None
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Row:
        return self.rows[0]

    def to_json(self) -> dict[str, Any]:
        rows = [row.to_json() for row in self.rows]
        return {"data": self.data, "n": self.n, "given": self.given, "rows": rows, "best": self.best.name, "notes": list(self.notes)}


def compare(
    models: Mapping[str, ImageModel],
    images: Images | Tensor,
    *,
    transforms: Mapping[str, Sequence[str]] | None = None,
    fingerprints: Mapping[str, str] | None = None,
    heading: str = "",
    samples: int = 1,
    estimate: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Cost of the same images under several models, with paired differences to the best.

    Args:
        models: name → model, at least two, each with a likelihood or a bound.
        images: a `Split`, or uint8 `(n, C, H, W)`.
        transforms: name → the transforms of the data that each was trained on; they must agree.
        fingerprints: name → the fingerprint of that data ("" if unknown); where they differ, a note says what that means.
        samples, estimate: as in `score`.

    Raises:
        InputError: fewer than two models; different spaces, transforms or views.
        CapabilityError: a model without likelihood or bound.

    >>> from pofx.models.autoregressive.pixelcnn import PixelCNN
    >>> from pofx.space import ImageSpace
    >>> import torch
    >>> model = PixelCNN.small(ImageSpace(1, 3, 3, levels=2))
    >>> compare({"a": model, "b": model}, torch.zeros(4, 1, 3, 3, dtype=torch.uint8)).rows[1].difference.mean
    0.0
    """
    if len(models) < 2:
        raise InputError("compare needs at least two runs with different names, e.g. pofx compare runs/a runs/b")
    names = list(models)
    first = names[0]
    for name in names[1:]:
        a, b = models[first], models[name]
        if a.space != b.space:
            raise InputError(
                f"{first} is a model of {a.space}, {name} of {b.space}: bits of different images do not compare. Train both on the same DATA."
            )
        if a.given != b.given:
            raise InputError(
                f"{first} is {_what(a)}, {name} is {_what(b)}: conditional and unconditional costs are never put in one column. "
                f"Compare runs with the same --given."
            )
        if transforms is not None and tuple(transforms[first]) != tuple(transforms[name]):
            raise InputError(
                f"{first} was trained on images [{_list(transforms[first])}], {name} on [{_list(transforms[name])}]: "
                "transforms decide the number of bits. Train both on the same DATA."
            )
    images = as_images(images)
    scores = {
        name: costs(model, images, samples=samples, estimate=estimate, seed=seed, progress=progress) for name, model in models.items()
    }
    order = sorted(names, key=lambda name: float(scores[name].nats.mean()))
    best = scores[order[0]]
    rows = tuple(
        Row(
            name,
            scores[name].kind,
            Mean.of(scores[name].nats),
            Mean.of(scores[name].bits_per_dim),
            Mean.of(scores[name].nats - best.nats),
            Mean.of(scores[name].bits_per_dim - best.bits_per_dim),
        )
        for name in order
    )
    notes = []
    if any(row.kind != "exact" for row in rows):
        notes.append(
            "≤ is a bound and ≈ an estimate: such a model's true cost may be lower than printed, so a lead over it may be smaller."
        )
    if fingerprints is not None and len({fingerprints[name] for name in names}) > 1:
        seen = ", ".join(f"{name} on {fingerprints[name][:12] or 'unknown'}" for name in names)
        notes.append(
            f"The runs were trained on different sets or splits ({seen}): one may have learned images that are scored here, and lead by that."
        )
    given = models[first].given
    return Comparison(heading, len(images), None if given is None else repr(given), rows, tuple(notes))


def _what(model: ImageModel) -> str:
    return "p(x)" if model.given is None else f"p(x | {model.given!r})"


def _list(transforms: Sequence[str]) -> str:
    return ", ".join(transforms) or "no transform"
