"""The still pictures of `pofx course`. Made within `_page.inked`; every number comes from tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pofx import pictures
from pofx.tasks.mixture import Mixture, mixture
from pofx.tasks.reparameterization import FUNCTIONS, Reparameterization, reparameterization
from pofx.workflows import _course_checks as checks
from pofx.workflows import _page as html
from pofx.workflows.bayes_tables import BayesTables, bayes_tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from pofx.tasks.influence import Influence

FIRST, SECOND, THIRD, FOURTH = html.COLORS[:4]


def _figure(columns: int, height: float = 2.7) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.4, height), layout="constrained")
    axes: Any = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.grid(color=html.GREY, alpha=0.2, linewidth=0.6)
    return figure, list(axes)


def directions_figure() -> Figure:
    """Share of the variance in the first directions: digits, and their pixels shuffled."""
    from pofx.data import load_data

    figure, (axis,) = _figure(1)
    x = load_data("digits").train.x
    for images, color, name in ((x, FIRST, "digits"), (checks.shuffled(x), SECOND, "the same pixels, shuffled")):
        share = checks.directions(images)
        axis.plot(range(1, len(share) + 1), share.numpy(), color=color, linewidth=1.4, label=name)
    axis.axhline(checks.SHARE, color=html.GREY, linewidth=0.9, linestyle=":", label=f"{checks.SHARE:.0%}")
    axis.set_xlabel("principal directions")
    axis.set_ylabel("share of the variance")
    axis.legend(fontsize=8)
    return figure


def squares_figure() -> Figure:
    """‖x − x̂‖² and −log N of one pixel by x̂, x = 0.3: the same curve, moved by a constant."""
    from pofx.tasks.squared_error import squared_error

    figure, (axis,) = _figure(1)
    guess = torch.linspace(-1, 1.6, 101, dtype=torch.double)[:, None]
    found = squared_error(torch.full_like(guess, 0.3), guess)
    axis.plot(guess[:, 0].numpy(), found.squared.numpy(), color=FIRST, linewidth=1.6, label="(x − x̂)²")
    axis.plot(guess[:, 0].numpy(), found.nats.numpy(), color=SECOND, linewidth=1.6, label="−log N(x; x̂, ½)")
    axis.annotate(f"½ log π = {found.constant:.4f}", (0.33, found.constant / 2), fontsize=8)
    axis.annotate("", (0.3, 0), (0.3, found.constant), arrowprops={"arrowstyle": "<->", "color": html.GREY})
    axis.set_xlabel("x̂, where x = 0.3")
    axis.set_ylabel("nats")
    axis.legend(fontsize=8)
    return figure


def mixture_figure(found: Mixture | None = None) -> Figure:
    """Bins, and the density that was cut."""
    found = found or mixture([5.0, 11.0], [0.6, 2.2], [0.4, 0.6], levels=16)
    figure, (axis,) = _figure(1)
    levels, low = len(found.p), torch.zeros_like(found.p)
    width = 0.9 if levels <= 64 else 1.0
    for k, (part, color) in enumerate(zip(found.components, html.COLORS * 4, strict=False)):
        axis.bar(range(levels), part.numpy(), width, bottom=low.numpy(), color=color, alpha=0.75, label=f"component {k + 1}")
        low = low + part
    axis.plot(found.at.numpy(), found.density.numpy(), color=FOURTH, linewidth=1.2, label="density")
    axis.set_xlim(-0.7, levels - 0.3)
    axis.locator_params(axis="x", integer=True)
    axis.set_xlabel("level")
    axis.set_ylabel("mass")
    axis.set_title(f"sum of the {levels} bins: {found.total:.12f}")
    axis.legend(fontsize=8)
    return figure


def jacobian_figure(x: Tensor | None = None, found: Influence | None = None, levels: int = 2) -> Figure:
    """An image uint8 `(1, C, H, W)`, the past of a pixel, and the Jacobian of its conditional; by default of the course's own 3×3 image."""
    from matplotlib.patches import Rectangle

    if x is None or found is None:
        x, found = checks.jacobian_of_a_line()
    figure, axes = _figure(3, 2.6)
    jacobian = found.jacobian.sum(0)
    top = float(jacobian.abs().max()) or 1.0
    axes[0].imshow(pictures.rgb(x, levels)[0], interpolation="nearest")
    axes[1].imshow(found.past.any(0).numpy(), cmap="Greys_r", vmin=0, vmax=1, interpolation="nearest")
    drawn = axes[2].imshow(jacobian.numpy(), cmap="PuOr", vmin=-top, vmax=top, interpolation="nearest")
    figure.colorbar(drawn, ax=axes[2], shrink=0.75, label="nats a level")
    for axis, name in zip(axes, ("x", "the past of the pixel", "∂ log p(x$_i$ | x$_{<i}$) / ∂x"), strict=True):
        axis.set_title(name)
        axis.grid(False)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.add_patch(Rectangle((found.column - 0.5, found.row - 0.5), 1, 1, fill=False, edgecolor=SECOND, linewidth=2))
    return figure


def reparameterization_figure(found: Reparameterization | None = None, f: str = "−(z² − 2)²/4") -> Figure:
    """f with its draws and their slopes, and both gradients."""
    found = found or reparameterization(f=f)
    figure, (left, right) = _figure(2, 3.0)
    span = 3.2 * found.sd
    z = torch.linspace(found.mean - span, found.mean + span, 301, dtype=torch.double)
    left.plot(z.numpy(), FUNCTIONS[f](z).numpy(), color=html.GREY, linewidth=1.2)
    left.plot(found.z.numpy(), found.f.numpy(), "o", color=FIRST, markersize=4)
    step = 0.12 * span
    for at, y, slope in zip(found.z.tolist(), found.f.tolist(), found.by_mean.tolist(), strict=True):
        left.plot([at - step, at + step], [y - step * slope, y + step * slope], color=SECOND, linewidth=1.2)
    left.set_xlabel("z = μ + σε, ε held fixed")
    left.set_ylabel(f"f(z) = {f}")
    names = ("∂/∂μ", "∂/∂σ")
    for k, by in enumerate((found.by_mean, found.by_sd)):
        right.plot(torch.full_like(by, k).numpy(), by.numpy(), "o", color=FIRST, alpha=0.5, markersize=4, label="" if k else "each draw")
        right.hlines(float(found.path[k]), k - 0.3, k + 0.3, color=SECOND, linewidth=3, label="" if k else "path, quadrature")
        right.hlines(float(found.score[k]), k - 0.3, k + 0.3, color=THIRD, linewidth=1, label="" if k else "score, quadrature")
    right.set_xticks([0, 1], names)
    right.set_xlim(-0.6, 1.6)
    right.legend(fontsize=8)
    return figure


def bayes_figure(found: BayesTables | None = None) -> Figure:
    """Three tables as heat maps: images down, labels across."""
    found = found or bayes_tables((0.3, 0.7))
    figure, axes = _figure(3, 3.6)
    names = ("p(x|y)", "p(x, y)", "p(y|x)")
    for axis, table, name in zip(axes, (found.p_x_given_y, found.joint, found.p_y_given_x), names, strict=True):
        axis.imshow(table.numpy(), aspect="auto", cmap="viridis")
        axis.set_title(name)
        axis.grid(False)
        axis.set_xticks(range(table.shape[1]), [f"y = {y}" for y in range(table.shape[1])])
        axis.set_yticks(range(len(table)), ["".join(map(str, image.flatten().tolist())) for image in found.x], fontsize=7)
        middle = (float(table.max()) + float(table.min())) / 2
        for i, row in enumerate(table.tolist()):
            for j, v in enumerate(row):
                axis.text(j, i, f"{v:.4f}", ha="center", va="center", fontsize=7, color="black" if v > middle else "white")
    return figure
