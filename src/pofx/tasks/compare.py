"""Models side by side, of all families, and which of several likelihoods is better on the same images.

Each model gets a row with what it can tell: speed, what its samples are worth, its cost with its kind, whether it has a q(z|x)
(`tasks/_side_by_side.py`). Likelihoods are compared in pairs: the difference is taken image by image.

    d_i = cost_A(x_i) − cost_B(x_i),   mean(d) ± sd(d)/√n

Images differ far more among each other than two models do on one image, so the paired standard error is often ten times smaller than
that of the two means. Only like is compared with like: same images, same transforms, all conditional on the same view or none. Runs that were trained on
another set or split, and so maybe on these images, are named in a note.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pofx.errors import InputError
from pofx.metrics.mean import Mean, cost_json
from pofx.model import ExactLikelihood, Features, ImageModel, LowerBound, Progress, Sampler, Score
from pofx.numbers import SIGNS
from pofx.tasks._samples import viewed, yardstick
from pofx.tasks._side_by_side import Claim, Entry, claims, entry, timed_draws
from pofx.tasks.bulk import Images, as_images, subset
from pofx.tasks.evaluate import COPY_DRAWS, DRAWS, REFERENCE_LIMIT
from pofx.tasks.score import costs

if TYPE_CHECKING:
    from pofx.data import Data


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
            **cost_json(self.nats, self.bits_per_dim),
            "difference": self.difference.to_json(),
            "difference_bits_per_dim": self.difference_bits_per_dim.to_json(),
        }


@dataclass(frozen=True)
class Comparison:
    """All models, and those with a likelihood in pairs.

    Attributes:
        data: the heading of the images; n: how many were scored.
        entries: a row for each model, in the order asked.
        rows: those with a likelihood or a bound, lowest cost first.
        claims: what is usually said of their families, held against the entries.
        notes: what the kinds allow to conclude, and what else a reader must know.
    """

    data: str
    n: int
    given: str | None
    entries: tuple[Entry, ...]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Row | None:
        """The lowest cost, or None where no model has one."""
        return self.rows[0] if self.rows else None

    def to_json(self) -> dict[str, Any]:
        return {
            "data": self.data,
            "n": self.n,
            "given": self.given,
            "models": [row.to_json() for row in self.entries],
            "rows": [row.to_json() for row in self.rows],
            "best": None if self.best is None else self.best.name,
            "claims": [claim.to_json() for claim in self.claims],
            "notes": list(self.notes),
        }


def compare(
    models: Mapping[str, ImageModel],
    images: Images | Tensor,
    *,
    data: Data | None = None,
    transforms: Mapping[str, Sequence[str]] | None = None,
    fingerprints: Mapping[str, str] | None = None,
    heading: str = "",
    split: str = "",
    features: Features | None = None,
    features_name: str = "",
    resizing: str = "none",
    published: bool = False,
    samples: int = 1,
    estimate: int = 0,
    draw: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Models of all families on the same images, with paired differences of cost to the best.

    Args:
        models: name → model, at least two.
        images: a `Split`, or uint8 `(n, C, H, W)`.
        data: where the images are from: its training images say what real images get, its valid images give views (see `viewed`).
        transforms: name → the transforms of the data that each was trained on; they must agree.
        fingerprints: name → the fingerprint of that data ("" if unknown); where they differ, a note says what that means.
        heading, split: what the images are of.
        features: a model in whose features samples are judged; its name, how it resizes images, and whether it is a published network
            (see `yardstick`), are kept with the numbers.
        samples, estimate: as in `score`.
        draw: samples of each Sampler; by default as many as there are images, 1,000 … 2,000; 200 without `features`. 0 for none.
        limit: images that are scored and measured against; a fixed random subset.

    Raises:
        InputError: fewer than two models; different spaces, transforms or views.

    >>> from pofx.models.autoregressive.pixelcnn import PixelCNN
    >>> from pofx.space import ImageSpace
    >>> import torch
    >>> model = PixelCNN.small(ImageSpace(1, 3, 3, levels=2))
    >>> compare({"a": model, "b": model}, torch.zeros(4, 1, 3, 3, dtype=torch.uint8), draw=0).rows[1].difference.mean
    0.0
    """
    _check_alike(models, transforms)
    images = subset(as_images(images), limit, seed=seed)
    scores = {
        name: costs(model, images, samples=samples, estimate=estimate, seed=seed, progress=progress)
        for name, model in models.items()
        if isinstance(model, ExactLikelihood | LowerBound)
    }
    reference = subset(images, REFERENCE_LIMIT, seed=seed)
    if draw is None:
        draw = COPY_DRAWS if features is None else min(DRAWS, max(1000, len(reference)))
    samplers = {name: model for name, model in models.items() if isinstance(model, Sampler)} if draw else {}
    like, judge, note = reference, None, ""
    if samplers:
        like, reference, note = viewed(next(iter(samplers.values())), reference, data, seed=seed)
        if features is not None:
            train = None if data is None else data.train
            judge = yardstick(
                features, reference, train, draw, name=features_name, data=heading, split=split, resizing=resizing, published=published
            )
    drawn = {name: timed_draws(model, draw, like, seed=seed, progress=progress) for name, model in samplers.items()}
    entries = tuple(
        entry(name, model, scores.get(name), drawn.get(name), reference, judge, like=like, seed=seed) for name, model in models.items()
    )
    given = next(iter(models.values())).given
    notes = _notes(scores, fingerprints, list(models)) + ((note,) if note else ())
    return Comparison(heading, len(images), None if given is None else repr(given), entries, paired(scores), claims(entries), notes)


def paired(scores: Mapping[str, Score]) -> tuple[Row, ...]:
    """Costs of the same images by name, lowest mean first, each with its difference to the lowest, image by image."""
    order = sorted(scores, key=lambda name: float(scores[name].nats.mean()))
    return tuple(
        Row(
            name,
            scores[name].kind,
            Mean.of(scores[name].nats),
            Mean.of(scores[name].bits_per_dim),
            Mean.of(scores[name].nats - scores[order[0]].nats),
            Mean.of(scores[name].bits_per_dim - scores[order[0]].bits_per_dim),
        )
        for name in order
    )


def _check_alike(models: Mapping[str, ImageModel], transforms: Mapping[str, Sequence[str]] | None) -> None:
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


def _notes(scores: Mapping[str, Score], fingerprints: Mapping[str, str] | None, names: Sequence[str]) -> tuple[str, ...]:
    notes = []
    if any(score.kind != "exact" for score in scores.values()):
        notes.append(
            "≤ is a bound and ≈ an estimate: such a model's true cost may be lower than printed, so a lead over it may be smaller."
        )
    if fingerprints is not None and len({fingerprints[name] for name in names}) > 1:
        seen = ", ".join(f"{name} on {fingerprints[name][:12] or 'unknown'}" for name in names)
        notes.append(
            f"The runs were trained on different sets or splits ({seen}): one may have learned images that are scored here, and lead by that."
        )
    return tuple(notes)


def _what(model: ImageModel) -> str:
    return "p(x)" if model.given is None else f"p(x | {model.given!r})"


def _list(transforms: Sequence[str]) -> str:
    return ", ".join(transforms) or "no transform"
