"""The still pictures of the page about equilibrium. Made within `html.inked`; every number comes from `pofx.tasks` or from the losses themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pofx.models.adversarial.losses import Minimax, NonSaturating
from pofx.tasks._densities import Density, normal
from pofx.tasks._descent import Fit, Slopes
from pofx.tasks.equilibrium import LOG_4, optimal_logit
from pofx.workflows import _page as html
from pofx.workflows._game import Game

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P, Q, D, STAR, FIFTH = html.COLORS[:5]


def _figure(columns: int, height: float = 2.7) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.4, height), layout="constrained")
    axes: Any = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.grid(color=html.GREY, alpha=0.2, linewidth=0.6)
    return figure, axes


def values_figure(game: Game) -> Figure:
    """V(D) and V* over the steps of a game, and the gap between them."""
    figure, (left, right) = _figure(2)
    steps = [f.step for f in game.frames]
    left.plot(steps, [f.best for f in game.frames], color=STAR, linewidth=1.4, linestyle="--", label="V* = −log 4 + 2 JSD")
    if game.last.value is not None:
        left.plot(steps, [f.value or 0.0 for f in game.frames], color=D, linewidth=1.4, label="V(D), learned")
        right.plot(steps, [max(f.gap or 0.0, 1e-7) for f in game.frames], color=FIFTH, linewidth=1.4)
        right.set_yscale("log")
        right.set_ylabel("V* − V(D), nats")
    elif game.last.transport is not None:
        right.plot(steps, [f.transport or 0.0 for f in game.frames], color=FIFTH, linewidth=1.4)
        right.set_ylabel("(E_p f − E_q f) / max |f′| ≤ W1")
    else:
        right.set_visible(False)
    left.axhline(-LOG_4, color=html.GREY, linewidth=0.9, linestyle=":", label="−log 4: p = q")
    low = min(-LOG_4, *(f.best for f in game.frames))
    high = max(f.best for f in game.frames)
    left.set_ylim(low - 0.35 * (high - low) - 0.02, high + 0.1 * (high - low) + 0.01)
    left.set_ylabel("nats")
    left.legend(fontsize=8)
    for axis in (left, right):
        axis.set_xlabel("step of the generator")
    return figure


def slopes_figure(found: Slopes) -> Figure:
    """What pulls the generator, as it stands farther and farther away."""
    figure, (left, right) = _figure(2)
    theta = found.theta.numpy()
    for y, color, name in (
        (found.minimax, Q, "log(1 − D*): minimax"),
        (found.saturation, D, "−log D*: non-saturating"),
        (found.transport, P, "Wasserstein-1"),
    ):
        left.plot(theta, torch.where(y == 0, math.nan, y.abs()).numpy(), color=color, linewidth=1.4, label=name)
    left.set_yscale("log")
    left.set_ylim(1e-6, None)
    left.set_ylabel("|slope| by θ")
    left.legend(fontsize=8, loc="lower left")
    right.plot(theta, (found.value + LOG_4).numpy() / 2, color=Q, linewidth=1.4, label="JSD, nats")
    right.plot(theta, found.w1.numpy() / float(found.w1.max()), color=P, linewidth=1.4, label=f"W1 ÷ {float(found.w1.max()):.3g}")
    right.axhline(math.log(2), color=html.GREY, linewidth=0.9, linestyle=":", label="log 2")
    right.set_ylabel("what is minimised")
    right.legend(fontsize=8, loc="lower right")
    for axis in (left, right):
        axis.set_xlabel("θ, the mean of q")
    return figure


def losses_of_a_logit(low: float = -8, high: float = 8) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """name → (logit, loss, slope) `(161,)` each, of the loss objects by autograd."""
    found = {}
    for loss in (Minimax(), NonSaturating()):
        f = torch.linspace(low, high, 161, dtype=torch.double, requires_grad=True)
        # One logit at a time: each loss is a mean over its batch
        y = torch.stack([loss.generator(f[:0], one) for one in f.split(1)])
        (slope,) = torch.autograd.grad(y.sum(), f)
        found["log(1 − D)" if isinstance(loss, Minimax) else "−log D"] = f.detach(), y.detach(), slope
    return found


def losses_figure() -> Figure:
    """log(1 − D) against −log D, and their slopes, by the critic's logit."""
    figure, (left, right) = _figure(2)
    for (name, (f, y, slope)), color in zip(losses_of_a_logit().items(), (Q, D), strict=True):
        left.plot(f.numpy(), y.numpy(), color=color, linewidth=1.4, label=name)
        right.plot(f.numpy(), slope.numpy(), color=color, linewidth=1.4, label=name)
    left.set_ylabel("the generator's loss, nats")
    right.set_ylabel("its slope by the logit")
    left.legend(fontsize=8)
    for axis in (left, right):
        axis.axvline(0, color=html.GREY, linewidth=0.9, linestyle=":")
        axis.set_xlabel("logit of D(G(z)); 0: D = ½")
    return figure


def _line(p: Density, *others: Density) -> Tensor:
    ends = [d.box() for d in (p, *others)]
    low, high = (
        float(torch.stack([end[i] for end in ends])[:, 0].min() if i == 0 else torch.stack([end[i] for end in ends])[:, 0].max())
        for i in (0, 1)
    )
    middle, half = (low + high) / 2, (high - low) / 2 * 0.42  # the boxes reach 12 deviations: 5 are enough to see
    return torch.linspace(middle - half, middle + half, 601, dtype=torch.double)


def fits_figure(p: Density, fits: Sequence[Fit]) -> Figure:
    """The best normals under three divergences."""
    figure, (axis,) = _figure(1)
    x = _line(p)
    axis.fill_between(x.numpy(), p.log_prob(x[:, None]).exp().numpy(), color=P, alpha=0.22, linewidth=0)
    axis.plot(x.numpy(), p.log_prob(x[:, None]).exp().numpy(), color=P, linewidth=1.2, label="p")
    names = {"forward": "KL(p ‖ q): covers", "reverse": "KL(q ‖ p): seeks", "jsd": "JSD: the game's own"}
    for fit, color, style in zip(fits, (Q, D, STAR), ("-", "-", "--"), strict=True):
        q = normal(fit.mean, fit.sd)
        axis.plot(x.numpy(), q.log_prob(x[:, None]).exp().numpy(), color=color, linewidth=1.6, linestyle=style, label=names[fit.by])
    axis.set_xlabel("x")
    axis.set_ylabel("density")
    axis.legend(fontsize=8)
    return figure


def smoothing_figure(p: Density, q: Density, s: float) -> Figure:
    """D*, with one-sided smoothing, and with two-sided."""
    figure, (left, right) = _figure(2)
    x = _line(p, q)
    star = torch.sigmoid(optimal_logit(p, q, x[:, None]))
    left.plot(x.numpy(), star.numpy(), color=STAR, linewidth=1.4, linestyle="--", label="D*")
    left.plot(x.numpy(), torch.sigmoid(optimal_logit(p, q, x[:, None], s)).numpy(), color=D, linewidth=1.4, label=f"reals called {1 - s:g}")
    left.plot(x.numpy(), ((1 - s) * star + s * (1 - star)).numpy(), color=FIFTH, linewidth=1.2, label=f"and generated {s:g}")
    left.set_xlabel("x")
    left.set_ylabel("D")
    left.set_ylim(-0.03, 1.03)
    left.legend(fontsize=8)
    share = torch.linspace(0, 1, 101, dtype=torch.double)
    for y, color, style in ((share, STAR, "--"), ((1 - s) * share, D, "-"), ((1 - s) * share + s * (1 - share), FIFTH, "-")):
        right.plot(share.numpy(), y.numpy(), color=color, linewidth=1.4, linestyle=style)
    right.plot([0.5], [(1 - s) / 2], "o", color=D, markersize=4)
    right.annotate(f"p = q: {(1 - s) / 2:g}", (0.5, (1 - s) / 2), xytext=(8, -10), textcoords="offset points", fontsize=8)
    right.set_xlabel("p / (p + q)")
    right.set_ylabel("best D")
    return figure


def gaps_figure(games: dict[int, Game]) -> Figure:
    """The gap V* − V(D_k) over the same game with k critic steps, and how far the generator has come."""
    figure, (left, right) = _figure(2)
    for (k, game), color in zip(games.items(), (Q, D, P, FIFTH), strict=False):
        steps, name = [f.step for f in game.frames], f"k = {k}"
        left.plot(steps, [max(f.gap or 0.0, 1e-6) for f in game.frames], color=color, linewidth=1.4, label=name)
        right.plot(steps, [f.best for f in game.frames], color=color, linewidth=1.4, label=name)
    left.set_yscale("log")
    left.set_ylabel("V* − V(D$_k$), nats")
    right.axhline(-LOG_4, color=html.GREY, linewidth=0.9, linestyle=":")
    right.set_ylabel("V* of the generator, nats")
    left.legend(fontsize=8)
    for axis in (left, right):
        axis.set_xlabel("step of the generator")
    return figure


def picture(game: Game, at: int) -> Figure:
    """One frame, for an animation: densities above, critics below; in two dimensions side by side."""
    from matplotlib.figure import Figure

    frame = game.frames[at]
    said = f"step {frame.step:,}    V* = {frame.best:.4f}" + ("" if frame.value is None else f"    V(D) = {frame.value:.4f}")
    if game.p.d == 1:
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        top, below = figure.subplots(2, 1, sharex=True)
        x = game.shown.middle[0].numpy()
        p = game.shown.p / game.shown.volume
        top.fill_between(x, p.numpy(), color=P, alpha=0.25, linewidth=0)
        top.plot(x, p.numpy(), color=P, linewidth=1.2, label="p")
        top.plot(x, frame.q.numpy(), color=Q, linewidth=1.6, label="q")
        top.set_ylim(0, 1.1 * max(float(p.max()), float(game.frames[0].q.max()), float(game.last.q.max())))
        top.set_ylabel("density")
        below.plot(x, frame.d_star.numpy(), color=STAR, linewidth=1.4, linestyle="--", label="D* = p / (p + q)")
        if frame.d is not None:
            below.plot(x, frame.d.numpy(), color=D, linewidth=1.6, label="D, learned")
        below.set_ylim(-0.03, 1.03)
        below.axhline(0.5, color=html.GREY, linewidth=0.8, linestyle=":")
        below.set_xlabel("x")
        for axis in (top, below):
            axis.legend(fontsize=8, loc="upper right")
    else:
        shown = (
            [("p, and draws of the generator", None)] + ([("D, learned", frame.d)] if frame.d is not None else []) + [("D*", frame.d_star)]
        )
        figure = Figure(figsize=(2.9 * len(shown), 3.3), layout="constrained")
        box = [float(e[i]) for e in game.shown.edges for i in (0, -1)]
        from matplotlib.colors import LinearSegmentedColormap

        map_p, map_d = LinearSegmentedColormap.from_list("p", ["white", P]), LinearSegmentedColormap.from_list("d", [Q, "white", P])
        for axis, (name, values) in zip(figure.subplots(1, len(shown)), shown, strict=True):
            if values is None:
                axis.imshow(game.shown.p.T.numpy(), origin="lower", extent=box, cmap=map_p)
                axis.plot(*frame.samples.T.numpy(), ".", color=Q, markersize=3)
                axis.set_xlim(box[:2])
                axis.set_ylim(box[2:])
            else:
                axis.imshow(values.T.numpy(), origin="lower", extent=box, cmap=map_d, vmin=0, vmax=1)
            axis.set_title(name)
            axis.set_xticks([])
            axis.set_yticks([])
    figure.suptitle(said, fontsize=9)
    return figure
