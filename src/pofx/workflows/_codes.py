"""What a report says of codes: the bound in its parts, which dimensions are used, where images lie, and what moving a dimension does."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pofx import pictures
from pofx.model import ImageModel, LatentVariable
from pofx.tasks._parts import Parts
from pofx.tasks.bound import Aggregate, aggregate
from pofx.tasks.bulk import subset
from pofx.tasks.latent_map import LatentMap, latent_map
from pofx.tasks.traverse import Traversal, traverse
from pofx.workflows import _page as html
from pofx.workflows._page import number
from pofx.workflows.rate_distortion import Point, TrainingPath, aggregate_figure, plane

if TYPE_CHECKING:
    from pofx.data import Data
    from pofx.tasks.evaluate import Evaluation

BARS = 64  # dimensions whose use is drawn, at most
ROWS = 8  # of the traversal


@dataclass(frozen=True)
class Codes:
    """Of a model that encodes and decodes.

    Attributes:
        map: test images in the plane.
        traversal: the most used dimensions, moved.
        aggregate: q(z) beside the prior, or None of a model that has none.
    """

    map: LatentMap
    traversal: Traversal
    aggregate: Aggregate | None


def codes(model: ImageModel, data: Data, *, limit: int, parts: Parts | None = None, seed: int = 0) -> Codes:
    """Measure and draw on at most `limit` test images; `parts` are those of their bound, where `evaluate` found them with this limit and seed.

    Raises:
        InputError: there are too few of them, or their codes are all the same.
    """
    test = subset(data.test, limit, seed=seed)
    found = aggregate(model, test, seed=seed, parts=parts) if isinstance(model, LatentVariable) else None
    base = subset(test, 1, seed=seed) if model.given is not None else None
    return Codes(
        latent_map(model, test, class_names=data.class_names, seed=seed), traverse(model, test, base=base, rows=ROWS, seed=seed), found
    )


def parts_part(evaluation: Evaluation) -> str:
    """The bound in its parts, and the error of reconstructions, on each part of the data."""
    splits = [part for part in evaluation.splits.values() if part.squared_error is not None]
    if not splits:
        return ""
    bound = any(part.latents is not None for part in splits)
    head = ["split", *(["−E log p(x | z), nats", "KL, nats", "active latents"] if bound else []), "‖x − x̂‖²"]
    rows = []
    for part in splits:
        cells = [part.split]
        if part.latents is not None:
            cells += [number(part.latents.reconstruction, 2), number(part.latents.kl, 2)]
            cells.append(f"{part.latents.active} of {len(part.latents.kl_per_dimension)}")
        rows.append([*cells, number(part.squared_error, 3)])
    text = "‖x − x̂‖²: of the mean of p(x | z) at the code's mean, pixels on [0, 1], summed over an image, mean over images."
    if bound:
        text = (
            "The first two add up to the cost above. A latent is active where its posterior mean varies by more than 0.01 (variance). "
            + text
        )
    return html.table(head, rows, text)


def use_part(evaluation: Evaluation) -> str:
    """Mean KL of each latent, the most used first, as bars."""
    latents = evaluation.main.latents
    if latents is None:
        return ""
    from matplotlib.figure import Figure

    order = sorted(latents.kl_per_dimension, reverse=True)[:BARS]
    with html.inked():
        figure = Figure(figsize=(7.4, 1.9), layout="constrained")
        axis = figure.subplots()
        axis.bar(range(len(order)), order, color=html.COLORS[0], width=0.8)
        axis.set_xlabel("latents, most used first")
        axis.set_ylabel("mean KL, nats")
        axis.set_xlim(-0.6, max(len(order), 8) - 0.4)
        rest = len(latents.kl_per_dimension) - len(order)
        more = f" The {rest:,} others cost less than the last bar." if rest else ""
        return html.drawing(figure, f"What each latent tells of an image: KL(q(z|x) ‖ N(0, 1)), mean over {evaluation.split} images.{more}")


def space_part(found: Codes, levels: int) -> str:
    """The map, the most used dimensions moved, and q(z) beside the prior."""
    parts = [html.picture(found.map.picture(), found.map.caption + ".")]
    t = found.traversal
    rows, columns = t.x.shape[:2]
    sheet = pictures.grid(torch.from_numpy(pictures.shades(t.x.flatten(0, 1), levels - 1)), 256, columns, scale=1)
    use = ", ".join(f"{float(t.activity[j]):.2g}" for j in t.dims)
    caption = (
        f"Rows: the {rows} most used dimensions, moved from {float(t.values[0]):.0f} to {float(t.values[-1]):.0f} standard deviations around "
        f"{t.around}. {t.shows[:1].upper()}{t.shows[1:]}; no samples. Use, {t.unit}: {use}."
    )
    scale = max(1, math.floor(html.WIDTH / sheet.width)) if sheet.width < html.WIDTH else 1
    parts.append(html.picture(sheet, caption, scale=min(scale, 4), sharp=True))
    if found.aggregate is not None:
        off = found.aggregate.kl
        with html.inked():
            text = (
                f"All q(z|x) together should add up to the prior that samples are drawn from. By mean and variance they are "
                f"{float(off.sum()):.2f} nats away from it, {float(off.max()):.2f} in the worst dimension."
            )
            parts.append(html.drawing(aggregate_figure(found.aggregate), text))
    return "".join(parts)


def rate_part(name: str, found: Codes, path: TrainingPath) -> str:
    """Where the model lies between telling much with z and little, and how training brought it there."""
    if found.aggregate is None:
        return ""
    with html.inked():
        figure = plane([Point.of(name, found.aggregate)], {name: path})
        return html.drawing(figure, "KL against reconstruction. Lines have the same bound; the bound alone does not say whether z is used.")
