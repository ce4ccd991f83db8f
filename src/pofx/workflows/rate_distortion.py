"""Rate against distortion: what a code costs, and what the image still costs when the code is known (Alemi et al. 2018, "Fixing a Broken ELBO").

    rate R = E[KL(q(z|x) ‖ N(0, I))],   distortion D = E[−log p(x|z)],   −L = R + D

All models with the same bound lie on one line of slope −1: the bound alone does not say whether z is used. β weighs R in training and
moves a model along the curve; where it lies is what to look at when z is wanted for something.

The prior is right for a model when its posteriors, all together, add up to it: q(z) = 1/n Σ_i q(z|x_i) against N(0, I).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pofx.errors import InputError
from pofx.tasks.bound import Aggregate
from pofx.workflows._history import history
from pofx.workflows._page import COLORS, GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DIMS = 6  # latents shown of a model with more than two


@dataclass(frozen=True)
class Point:
    """One model in the plane: mean KL and mean −E_q[log p(x|z)] over images, nats."""

    name: str
    kl: float
    distortion: float

    @property
    def elbo(self) -> float:
        return -(self.kl + self.distortion)

    @classmethod
    def of(cls, name: str, found: Aggregate) -> Point:
        """Where `pofx.tasks.bound.aggregate` found a model to be."""
        return cls(name, float(found.rate.sum()), found.reconstruction)


@dataclass(frozen=True)
class TrainingPath:
    """How a run came to its place: mean KL and distortion of training batches at each logged step."""

    step: tuple[int, ...]
    kl: tuple[float, ...]
    distortion: tuple[float, ...]


def training_path(metrics: str | Path) -> TrainingPath:
    """The path of a run out of its metrics.csv; empty where the file or its columns are missing (a model that is no VAE).

    >>> training_path("no/such/metrics.csv")
    TrainingPath(step=(), kl=(), distortion=())
    """
    columns = history(Path(metrics))
    names = ("step", "train_kl", "train_reconstruction")
    if any(name not in columns for name in names):
        return TrainingPath((), (), ())
    rows = [row for row in zip(*(columns[name] for name in names), strict=True) if all(map(math.isfinite, row))]
    return TrainingPath(tuple(int(r[0]) for r in rows), tuple(r[1] for r in rows), tuple(r[2] for r in rows))


def smoothed(path: TrainingPath, most: int = 80) -> TrainingPath:
    """The means of neighbouring rows, so that at most about `most` are left: a batch says little.

    >>> smoothed(TrainingPath((1, 2, 3, 4), (0.0, 2.0, 1.0, 3.0), (9.0, 7.0, 5.0, 3.0)), most=2)
    TrainingPath(step=(1, 3), kl=(1.0, 2.0), distortion=(8.0, 4.0))
    """
    size = max(1, -(-len(path.step) // most))

    def means(values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sum(part) / len(part) for i in range(0, len(values), size) if (part := values[i : i + size]))

    return TrainingPath(path.step[::size], means(path.kl), means(path.distortion))


def plane(points: Sequence[Point], paths: Mapping[str, TrainingPath] | None = None) -> Figure:
    """KL against reconstruction, in nats, with lines of constant L: several runs (a β sweep), and how they came there.

    Args:
        points: at least one, e.g. `Point.of(name, aggregate(model, data.test))`.
        paths: of some of them, by name.

    Raises:
        InputError: no points.

    >>> plane([Point("beta 1", 4.0, 90.0), Point("beta 4", 2.0, 93.0)]).axes[0].get_xlabel()
    'KL(q(z|x) ‖ N(0, I)), nats'
    """
    from matplotlib.figure import Figure

    if not points:
        raise InputError("The plane needs at least one model: plane([Point.of(name, aggregate(model, data.test))]).")
    figure = Figure(figsize=(7.4, 3.6), layout="constrained")
    axis = figure.subplots()
    colors = [COLORS[i % (len(COLORS) - 1)] for i in range(len(points))]
    xs, ys = [p.kl for p in points], [p.distortion for p in points]
    for p, color in zip(points, colors, strict=True):
        path = (paths or {}).get(p.name)
        if path is not None and path.step:
            path = smoothed(path)
            axis.plot(path.kl, path.distortion, color=color, linewidth=0.9, alpha=0.65, label=f"{p.name}: its training")
            axis.plot(path.kl[:1], path.distortion[:1], marker="x", color=color, markersize=6, clip_on=True)
            settled = sorted(path.distortion)[: max(1, round(0.9 * len(path.step)))]  # the first steps must not flatten the rest
            xs, ys = [*xs, *path.kl], [*ys, *settled]
    for i, (p, color) in enumerate(zip(points, colors, strict=True)):
        label = f"{p.name}: L = {p.elbo:.2f}"
        axis.plot([p.kl], [p.distortion], MARKERS[i % len(MARKERS)], color=color, markersize=7, label=label, zorder=3)
    ordered = sorted(points, key=lambda p: p.kl)
    if len(points) > 2:
        axis.plot([p.kl for p in ordered], [p.distortion for p in ordered], color=GREY, linewidth=0.8, linestyle=":", zorder=1)
    pad_x, pad_y = 0.08 * (max(xs) - min(xs)) or 1.0, 0.08 * (max(ys) - min(ys)) or 1.0
    axis.set_xlim(max(0.0, min(xs) - pad_x), max(xs) + pad_x)
    axis.set_ylim(min(ys) - pad_y, max(ys) + pad_y)
    _lines_of_elbo(axis)
    axis.set_xlabel("KL(q(z|x) ‖ N(0, I)), nats")
    axis.set_ylabel("reconstruction −E[log p(x|z)], nats")
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _lines_of_elbo(axis: Axes) -> None:
    """Lines R + D = −L at round values of L, labelled at the left edge."""
    (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
    first, last = left + low, right + high
    step = 10 ** math.floor(math.log10((last - first) / 4))
    step *= next(k for k in (1, 2, 5, 10) if (last - first) / (k * step) <= 8)
    for i in range(math.ceil(first / step), math.floor(last / step) + 1):
        total = i * step
        axis.plot([left, right], [total - left, total - right], color=GREY, linewidth=0.5, alpha=0.55, zorder=0, scalex=False, scaley=False)
        if low + 0.04 * (high - low) < total - left < high - 0.04 * (high - low):
            axis.annotate(f"L = {-total:g}", (left, total - left), (3, 2), textcoords="offset points", fontsize=7, color=GREY, zorder=0)


def aggregate_figure(found: Aggregate) -> Figure:
    """All q(z|x) together beside the prior: one latent or more than two as histograms (the most used ones), two as a map.

    >>> import torch
    >>> none = torch.zeros(4, 2)
    >>> found = Aggregate(none, none, none, none[0], none[0], none[0] + 1, 0.0, 0.0)
    >>> len(aggregate_figure(found).axes)
    2
    """
    from matplotlib.figure import Figure

    if found.z.shape[1] == 2:
        figure = Figure(figsize=(7.4, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2, sharex=True, sharey=True)
        reach = max(3.2, float(found.z.abs().max()) * 1.05)
        for axis, z, title in ((left, found.mean, "means of q(z|x)"), (right, found.z, "one draw of each q(z|x)")):
            axis.plot(*z.T.numpy(), ".", markersize=2.4, alpha=0.6, color=COLORS[0], rasterized=True)
            angle = torch.linspace(0, 2 * math.pi, 181)
            for share in (0.5, 0.9, 0.99):
                radius = math.sqrt(-2 * math.log(1 - share))  # of N(0, I) in two dimensions, so much lies within
                axis.plot(*(radius * torch.stack([angle.cos(), angle.sin()])).numpy(), color=COLORS[1], linewidth=1)
                axis.annotate(f"{share:.0%}", (0, radius), ha="center", va="bottom", fontsize=7, color=COLORS[1])
            axis.set_title(title)
            axis.set_aspect("equal")
            axis.set_xlim(-reach, reach)
            axis.set_ylim(-reach, reach)
            axis.set_xlabel("z₁")
        left.set_ylabel("z₂")
        return figure
    shown = found.active[:DIMS].tolist()
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(7.4, 2.0 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True)
    reach = max(4.0, float(found.z[:, shown].abs().max()))
    grid = torch.linspace(-reach, reach, 201)
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    for axis, j in zip(axes.flat, shown, strict=False):
        axis.hist(found.z[:, j].numpy(), bins=40, range=(-reach, reach), density=True, color=COLORS[0], alpha=0.6)
        axis.plot(grid.numpy(), (torch.exp(-0.5 * grid**2) / math.sqrt(2 * math.pi)).numpy(), color=COLORS[1], linewidth=1.2)
        axis.set_title(f"z{j + 1}: {float(found.rate[j]):.2f} nats of use", fontsize=8)
        axis.set_yticks([])
    return figure
