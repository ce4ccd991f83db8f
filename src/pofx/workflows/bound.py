"""What a bound loses on one image, on one page: the true posterior and q, log p(x) = L + KL, why there is a bound, and how it is trained.

The numbers are those of `pofx.tasks.bound`; here are the pictures, the words, and the small models that are trained where there is no run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pofx.model import ImageModel, LatentVariable, Progress, require
from pofx.tasks._files import check_out
from pofx.tasks.bound import (
    DRAWS,
    GRADIENT_DRAWS,
    POINTS,
    Aggregate,
    BoundOfImage,
    Estimate,
    Gradients,
    Growth,
    aggregate,
    compare,
    decompose,
    growth,
    inference,
    weighted,
)
from pofx.tasks.bound import bound as dissect
from pofx.tasks.bulk import Images, subset
from pofx.workflows import _page as html
from pofx.workflows import rate_distortion
from pofx.workflows.rate_distortion import Point, TrainingPath

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".html", ".png")
LATENTS = (1, 2, 4, 8, 16, 32)
STEPS = 800  # of the tiny models
TINY: dict[str, Any] = {"network": "mlp", "hidden": 64, "lr": 5e-3}
LIMIT = 1000  # images in the aggregate posterior
SHARES = (0.5, 0.9, 0.99)  # of the mass within each contour
TRUE, APPROXIMATE, ESTIMATED, OTHER = html.COLORS[0], html.COLORS[1], html.COLORS[2], html.COLORS[3]


@dataclass(frozen=True, eq=False)
class BoundPage:
    """All that the page says.

    Attributes:
        name: of the run; image: which one, "digits:test#3".
        x: uint8 `(1, C, H, W)`.
        found: its bound, taken apart.
        linear: naive and importance-weighted estimates as the latent grows, on probabilistic PCA; `decoders` on trained ones.
        aggregate: all posteriors of the run's test images, or None where its data is not there.
        points, paths: of this run and others in the plane of rate and distortion.
    """

    name: str
    image: str
    model: ImageModel
    x: Tensor
    found: BoundOfImage
    linear: tuple[Growth, ...]
    decoders: tuple[Growth, ...]
    aggregate: Aggregate | None
    points: tuple[Point, ...]
    paths: dict[str, TrainingPath]

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.name,
            "image": self.image,
            **self.found.to_json(),
            "growth": {"linear_gaussian": list(self.linear), "decoders": list(self.decoders)},
            "aggregate": self.aggregate,
            "rate_distortion": [{"run": p.name, "kl": p.kl, "reconstruction": p.distortion, "elbo": p.elbo} for p in self.points],
        }


# Figures: made within `html.inked` --------------------------------------------------------------------------------------------------------


def posterior_figure(found: BoundOfImage) -> Figure:
    """p(z|x) and q(z|x), and beside them log p(x) with all that stays below it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.4, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    (_map if len(found.picture.axes) == 2 else _curves)(left, found)
    _bars(right, found)
    return figure


def contours(log_density: Tensor, shares: Sequence[float] = SHARES) -> list[float]:
    """The log densities above which these shares of the mass lie, on an even grid, lowest first; equal ones once.

    >>> [round(v, 2) for v in contours(torch.tensor([0.1, 0.6, 0.3]).log(), (0.5, 0.8))]
    [-1.2, -0.51]
    """
    ordered = log_density.flatten().sort(descending=True).values
    mass = torch.exp(ordered - ordered[0]).cumsum(0)
    return sorted({float(ordered[int((mass < share * mass[-1]).sum())]) for share in shares})


def _map(axis: Axes, found: BoundOfImage) -> None:
    p = found.picture
    a, b = (values.numpy() for values in p.axes)
    shown, levels = p.log_posterior.T.numpy(), contours(p.log_posterior)
    for level in levels:  # one above the other: darker inwards
        axis.contourf(a, b, shown, levels=[level, float(shown.max()) + 1e-9], colors=[TRUE], alpha=0.22)
    axis.contour(a, b, shown, levels=levels, colors=[TRUE], linewidths=0.9, linestyles="solid")
    # Of a Gaussian in two dimensions, `share` lies within r² = −2 log(1 − share): drawn as it is, whatever the grid.
    angle = torch.linspace(0, 2 * math.pi, 181, dtype=torch.double)
    sigma = torch.exp(0.5 * found.q.log_variance[0])
    for share in SHARES:
        r = math.sqrt(-2 * math.log(1 - share))
        line = found.q.mean[0] + r * sigma * torch.stack([angle.cos(), angle.sin()], 1)
        axis.plot(*line.T.numpy(), color=APPROXIMATE, linewidth=1.3)
    axis.plot(*found.parts.peaks.T.numpy(), "+", color=TRUE, markersize=5)
    axis.plot([], [], color=TRUE, linewidth=5, alpha=0.6, label="p(z | x)")
    axis.plot([], [], color=APPROXIMATE, linewidth=1.3, label="q(z | x)")
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.14 * (high - low))
    axis.set_xlabel("z₁")
    axis.set_ylabel("z₂")
    axis.set_title("50, 90 and 99 % of each lie within its lines")
    axis.legend(fontsize=8, loc="upper left", ncols=2)


def _curves(axis: Axes, found: BoundOfImage) -> None:
    p, sigma = found.picture, torch.exp(0.5 * found.q.log_variance[0])
    z = found.q.mean[0] + sigma * torch.linspace(-4, 4, 401, dtype=torch.double)
    for at, log_density, color, name in (
        (p.axes[0], p.log_posterior, TRUE, "p(z | x)"),
        (z, found.q.log_prob(z[:, None]), APPROXIMATE, "q(z | x)"),
    ):
        axis.plot(at.numpy(), log_density.exp().numpy(), color=color, linewidth=1.3, label=name)
        axis.fill_between(at.numpy(), log_density.exp().numpy(), color=color, alpha=0.2)
    axis.set_xlabel("z")
    axis.set_ylabel("density")
    axis.legend(fontsize=8)


def _bars(axis: Axes, found: BoundOfImage) -> None:
    parts = found.parts
    rows = [("log p(x)", parts.log_prob, 0.0, TRUE)]
    rows += [(f"E[L$_{{{e.k}}}$]", e.mean, e.se, ESTIMATED) for e in reversed(found.weighted)]
    rows += [("L + KL", parts.elbo, 0.0, APPROXIMATE)]
    lowest = min(value - 2 * se for _, value, se, _ in rows)
    gap = max(parts.log_prob - lowest, 1e-3)
    left = lowest - 0.25 * gap
    for i, (_, value, se, color) in enumerate(rows):
        axis.barh(-i, value - left, left=left, height=0.62, color=color, alpha=0.75)
        if se:
            axis.errorbar([value], [-i], xerr=[se], color=html.GREY, capsize=2.5, linewidth=1.2)
    last = -(len(rows) - 1)
    axis.barh(last, parts.kl_posterior, left=parts.elbo, height=0.62, facecolor="none", edgecolor=OTHER, hatch="////", linewidth=1)
    axis.axvline(parts.log_prob, color=TRUE, linewidth=0.9, linestyle="--")
    axis.set_yticks([-i for i in range(len(rows))], [name for name, *_ in rows])
    axis.set_xlim(left, parts.log_prob + 0.12 * gap)
    axis.set_xlabel(f"nats; hatched: KL(q ‖ p(z|x)) = {parts.kl_posterior:.4g}")
    axis.ticklabel_format(axis="x", useOffset=False)
    axis.locator_params(axis="x", nbins=5)
    axis.set_title("The bar of log p(x) is as long as L + KL")


def growth_figure(linear: Sequence[Growth], decoders: Sequence[Growth] = ()) -> Figure:
    """Error and spread of two estimates of log p(x) with the same number of draws, against the number of latents."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.4, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    sets = [(linear, "-", "o", "linear"), (decoders, "--", "s", "trained decoders")]
    for rows, style, marker, what in sets:
        d = [g.d for g in rows]
        for name, color, read in (("z from the prior", OTHER, _prior), ("z from q", ESTIMATED, _proposal)):
            if not rows:
                continue
            label = f"{name}, {what}"
            errors = [read(g) for g in rows]
            left.errorbar(d, [e.mean for e in errors], yerr=[e.sd for e in errors], color=color, linestyle=style, marker=marker,
                          markersize=3.5, linewidth=1.2, capsize=2, label=label)  # fmt: skip
            right.plot(
                d,
                [e.sd if e.sd > 1e-9 else math.nan for e in errors],
                color=color,
                linestyle=style,
                marker=marker,
                markersize=3.5,
                linewidth=1.2,
            )
    left.set_yscale("symlog", linthresh=1)
    right.set_yscale("log")
    left.axhline(0, color=html.GREY, linewidth=0.8)
    left.set_ylabel("estimate − log p(x), nats (± one spread)")
    right.set_ylabel("spread of one estimate, nats")
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        every = sorted({g.d for rows, *_ in sets for g in rows})
        axis.set_xticks(every, [str(k) for k in every])
        axis.set_xlabel("latents")
        axis.grid(color=html.GREY, alpha=0.2, linewidth=0.6)
    left.legend(fontsize=7.5, loc="lower left")
    return figure


def _prior(g: Growth) -> Estimate:
    return g.prior


def _proposal(g: Growth) -> Estimate:
    return g.proposal


def gradients_figure(g: Gradients) -> Figure:
    """Three estimates of ∇L beside the exact one, and the variance of one draw of each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.4, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    at = np.arange(len(g.names))
    colors, names = (TRUE, OTHER, ESTIMATED), ("reparameterized", "score function", "score, baseline")
    for i, (e, color, name) in enumerate(zip(g.estimators, colors, names, strict=True)):
        away = at + 0.22 * (i - 1)
        left.errorbar(
            away, e.mean.numpy(), yerr=2 * e.se.numpy(), fmt="o", color=color, markersize=3.5, capsize=2.5, linewidth=1.2, label=name
        )
        right.bar(away, e.variance.numpy(), width=0.2, color=color, alpha=0.8)
    left.hlines(g.exact.numpy(), at - 0.4, at + 0.4, color=html.GREY, linewidth=1.6, label="quadrature", zorder=0)
    left.set_ylabel(f"∂L, mean of {g.reparameterized.n:,} draws ± 2 se")
    right.set_yscale("log")
    right.set_ylabel("variance of one draw")
    for axis in (left, right):
        axis.set_xticks(at.tolist(), [name.replace("log-variance", "log σ²").replace("mean", "μ") for name in g.names])
        axis.grid(color=html.GREY, alpha=0.2, linewidth=0.6, axis="y")
    left.legend(fontsize=7.5)
    return figure


# The page -----------------------------------------------------------------------------------------------------------------------------------


def identity_table(found: BoundOfImage) -> str:
    parts = found.parts
    rows = [
        ["log p(x)", "log ∫ p(x|z) N(z; 0, I) dz", f"{parts.log_prob:.6f}"],
        ["L, the bound (ELBO)", "∫ q(z|x) [log p(x, z) − log q(z|x)] dz", f"{parts.elbo:.6f}"],
        ["KL to the true posterior", "∫ q(z|x) [log q(z|x) − log p(z|x)] dz", f"{parts.kl_posterior:.6f}"],
        ["what is left", "log p(x) − (L + KL)", f"{parts.residual:.1e}"],
        ["reconstruction", "∫ q(z|x) log p(x|z) dz", f"{parts.log_likelihood:.6f}"],
        ["KL to the prior", "∫ q(z|x) [log q(z|x) − log N(z; 0, I)] dz", f"{parts.kl_prior:.6f}"],
        ["the same by its formula", "½ Σ (μ² + σ² − 1 − log σ²)", f"{parts.kl_prior_closed:.6f}"],
    ]
    rows += [
        [
            f"E[L_{e.k}]",
            f"log 1/{e.k} Σ p(x, z)/q(z|x), {e.n:,} repeats" if e.k > 1 else f"one draw each, {e.n:,} repeats",
            f"{e.mean:.4f} ± {e.se:.4f}",
        ]
        for e in found.weighted
    ]
    caption = (
        f"Nats. Integrals on three different grids, {parts.evaluations:,} evaluations of the decoder, each within {parts.error:.0e}; "
        f"beyond the grids lies at most {parts.outside:.0e} of p(x). L_k: ± one standard error."
    )
    return html.table(["", "formula", "nats"], rows, caption, text=(0, 1))


def gradients_table(g: Gradients) -> str:
    def cell(mean: float, se: float) -> str:
        return f"{mean:.4g} ± {se:.2g}"

    means = [
        [name, f"{float(g.exact[i]):.6f}", *(cell(float(e.mean[i]), float(e.se[i])) for e in g.estimators)]
        for i, name in enumerate(g.names)
    ]
    variances = [
        [name, f"{float(g.reparameterized.variance[i]):.4g}", *(f"{float(g.ratio(e)[i]):,.1f} ×" for e in (g.score, g.baseline))]
        for i, name in enumerate(g.names)
    ]
    kinds = ["reparameterized", "score function", "score, baseline"]
    caption = "Variance of one draw; of the score function as a multiple of the reparameterized one's: so many times more draws for the same error."
    return html.table(
        ["∂L by", "quadrature", *kinds], means, f"Nats per unit: means of {g.reparameterized.n:,} draws ± one standard error."
    ) + html.table(["variance", *kinds], variances, caption)


def growth_table(linear: Sequence[Growth], decoders: Sequence[Growth]) -> str:
    def cell(e: Estimate) -> str:
        return f"{e.mean:+.3f} ± {e.sd:.3f}"

    head = ["model", "latents", "log p(x)", "KL(q ‖ prior)", "z from the prior", "z from q"]
    rows = [["linear", str(g.d), f"= {g.log_prob:.3f}", f"{g.kl:.1f}", cell(g.prior), cell(g.proposal)] for g in linear]
    for g in decoders:
        true = f"≈ {g.log_prob:.3f} ± {g.se:.3f}" if g.se else f"= {g.log_prob:.3f}"
        rows.append(["trained", str(g.d), true, f"{g.kl:.1f}", cell(g.prior), cell(g.proposal)])
    e = linear[0].prior
    caption = (
        f"Estimate less the truth, mean ± spread over {e.n} repeats of {e.k:,} draws each, nats. What counts is how far the posterior is from the prior: "
        f"draws from the prior suffice where there are many more than e^KL (Chatterjee and Diaconis 2018); {e.k:,} = e^{math.log(e.k):.1f}."
    )
    return html.table(head, rows, caption, text=(0,))


def render(p: BoundPage) -> str:
    """The page as HTML."""
    found, parts = p.found, p.found.parts
    closest = found.weighted[-1]
    with html.inked():
        first = html.drawing(posterior_figure(found))
        second = html.drawing(growth_figure(p.linear, p.decoders))
        third = html.drawing(gradients_figure(found.gradients))
        fourth = html.drawing(rate_distortion.plane(p.points, p.paths)) if p.points else ""
        fifth = html.drawing(rate_distortion.aggregate_figure(p.aggregate)) if p.aggregate is not None else ""
    several = (
        "" if len(parts.peaks) == 1 else f" It has {len(parts.peaks)} peaks within 40 nats of each other: one Gaussian cannot follow them."
    )
    body = [
        html.section(
            "The image, and the code that explains it",
            html.tiles(p.x, p.model.space.levels, want=96),
            html.paragraph(
                "The model draws a code z from N(0, I) and then the pixels from p(x|z). Seen from an image, each code explains it "
                "more or less well: that is the true posterior p(z|x) = p(x|z) N(z; 0, I) / p(x). The encoder answers with one "
                "Gaussian instead, q(z|x)." + several
            ),
            first,
            html.paragraph(
                f"What the Gaussian misses is exactly what the bound loses: log p(x) = L + KL(q ‖ p(z|x)), here {parts.log_prob:.4f} = "
                f"{parts.elbo:.4f} + {parts.kl_posterior:.4f} nats. With k draws, weighted by p(x, z)/q(z|x) and averaged before the "
                f"logarithm, the bound gets tighter: {closest.k:,} draws leave {parts.log_prob - closest.mean:.4f} ± {closest.se:.4f} "
                "nats."
            ),
            identity_table(found),
        ),
        html.section(
            "Why not compute log p(x) itself?",
            html.paragraph(
                "With one or two latents a grid over z does it, as above. A grid of 100 points a side has 100^d points: with 32 "
                "latents, more than the Earth has atoms. Draws from the prior, log 1/S Σ p(x|z_s), are right on average before the "
                "logarithm, but nearly all of them explain nothing: the few codes that matter are not found, and the estimate falls "
                "far below the truth. Draws from q, weighted by N(z; 0, I)/q(z|x), look where the mass is. That is what an encoder is "
                "for."
            ),
            second,
            growth_table(p.linear, p.decoders),
            html.paragraph(
                "Linear: probabilistic PCA, x = Wz + noise, 64 numbers, whose log p(x) = log N(x; 0, WWᵀ + s²I) is known; q has the "
                "posterior's mean and the best diagonal covariance."
                + (
                    " Trained: a small VAE on digits for each number of latents; the truth by quadrature up to two latents, beyond from 20,000 "
                    "weighted draws (≈). A trained VAE leaves latents that it does not need at the prior: its KL stops growing, and so does the error."
                    if p.decoders
                    else ""
                ),
                "soft",
            ),
        ),
        html.section(
            "How q learns: the gradient of the bound",
            html.paragraph(
                "L is an average over z ~ q, and q moves while it is trained. Writing z = μ + σ ⊙ ε with ε ~ N(0, I) lets the "
                "gradient pass through z: ∇L = E[∇ log p(x | μ + σ ⊙ ε)] − ∇KL. The score function needs no gradient of the decoder: "
                "E[log p(x|z) ∇ log q(z|x)] − ∇KL, and knows of the decoder only how good each draw was. Both have the right mean, "
                "which is checked here against quadrature; they differ in their variance. A baseline (the mean of log p(x|z), taken "
                "off first) makes the score function better and changes no mean."
            ),
            third,
            gradients_table(found.gradients),
        ),
        html.section(
            "Rate and distortion",
            html.paragraph(
                "Over many images: what the code costs (rate, KL to the prior) against what the pixels still cost when the code is "
                "known (distortion). Their sum is −L, so all models on one grey line have the same bound, and use z more (right, "
                "below) or less (left, above). A run's path comes from its metrics.csv."
            )
            if fourth
            else "",
            fourth,
        ),
        html.section(
            "Do all posteriors together make the prior?",
            html.paragraph(
                "Sampling draws z from N(0, I). That is right where the posteriors of all images together, q(z) = 1/n Σ q(z|x), look "
                "like it; holes between them are codes that no image has taught the decoder."
            ),
            fifth,
            aggregate_table(p.aggregate),
        )
        if p.aggregate is not None
        else "",
    ]
    lead = (
        f"{type(p.model).__name__} {p.name} on {p.image}: {p.model.space}, {len(found.q.mean[0])} latent{'s' * (len(found.q.mean[0]) > 1)}."
    )
    return html.page("What the bound loses", lead, body)


def aggregate_table(found: Aggregate) -> str:
    rows = [
        [f"z{j + 1}", *(f"{float(v[j]):.4f}" for v in (found.rate, found.centre, found.variance, found.kl))]
        for j in found.active[: rate_distortion.DIMS].tolist()
    ]
    caption = (
        f"{len(found.mean):,} images. Mean and variance of q(z), and KL(N(mean, variance) ‖ N(0, 1)) = ½ (mean² + variance − 1 − log "
        "variance), nats: 0 where q(z) has the prior's two moments, whatever its shape."
    )
    return html.table(["latent", "mean KL(q(z|x) ‖ prior)", "mean of q(z)", "variance of q(z)", "KL to N(0, 1)"], rows, caption)


# Small models that are trained for it ------------------------------------------------------------------------------------------------------------


def tiny(latents: int = 2, *, say: Callable[[str], None] | None = None) -> tuple[Path, ImageModel]:
    """A small VAE on digits: from the cache, or trained now (some seconds). Its run folder, and the model.

    Raises:
        InputError: the cache cannot be written; set POFX_CACHE=FOLDER.
    """
    from pofx.data import load_data
    from pofx.workflows._runs import trained
    from pofx.workflows.features import alone, cache_folder

    data = load_data("digits")
    path = cache_folder().parent / "bound" / f"digits-{data.fingerprint[:8]}-{latents}"
    with alone(path, say):
        if say is not None and not (path / "model.safetensors").exists():
            say(f"training a small VAE with {latents} latent{'s' * (latents > 1)} on digits for some seconds, once; kept in {path}")
        return path, trained("vae", data, path, steps=STEPS, latents=latents, **TINY)


def decoder_growth(
    latents: Sequence[int] = LATENTS, *, draws: int = 1000, repeats: int = 40, seed: int = 0, say: Callable[[str], None] | None = None
) -> tuple[Growth, ...]:
    """`growth` on real decoders: a small VAE on digits for each number of latents, the first test image.

    log p(x) is exact for one or two latents, otherwise the mean of log 1/20,000 Σ w over 5 repeats, which is a little too low.
    """
    from pofx.data import load_data

    x, _ = load_data("digits").test.take(torch.arange(1))
    out = []
    for d in latents:
        problem = inference(tiny(d, say=say)[1], x, seed=seed)
        if d <= 2:
            true, se = decompose(problem).log_prob, 0.0
        else:
            reference = weighted(inference(tiny(d)[1], x, seed=seed + 1), ks=(20_000,), draws=100_000)[0]
            true, se = reference.mean, reference.se
        out.append(compare(problem, true, se, draws=draws, repeats=repeats))
    return tuple(out)


# Together ------------------------------------------------------------------------------------------------------------------------------------------


def bound(
    model: ImageModel,
    x: Tensor,
    given: Any = None,
    out: str | Path | None = None,
    *,
    name: str = "model",
    image: str = "image",
    images: Images | None = None,
    others: Sequence[tuple[str, ImageModel]] = (),
    paths: dict[str, TrainingPath] | None = None,
    decoders: bool = False,
    seed: int = 0,
    draws: int = DRAWS,
    gradient_draws: int = GRADIENT_DRAWS,
    points: int = POINTS,
    limit: int = LIMIT,
    say: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> BoundPage:
    """Take the bound of one image apart, and write it as a page or a picture.

    Args:
        x: uint8 `(1, C, H, W)`, with the view's value in `given` where the model is conditional.
        out: a .html file, or a .png that holds the first figure alone.
        name, image: what to call them.
        images: of the run's data, for the aggregate posterior and the plane of rate and distortion; at most `limit` are used.
        others: more runs for that plane, such as a β sweep: names and models of the same images.
        paths: how runs came there, by name (`rate_distortion.training_path`).
        decoders: also train small decoders of 1 … 32 latents and show what happens to naive Monte Carlo there.
        seed, draws, gradient_draws, points: see `pofx.tasks.bound.bound`.
        say: called with a line at each stage.

    Raises:
        CapabilityError, InputError, RunError: as `pofx.tasks.bound.bound`; another file ending.
    """
    target = None if out is None else check_out(out, SUFFIXES)
    tell = say or (lambda line: None)
    found = dissect(
        require(model, LatentVariable, to="show what its bound loses"),
        x, given, seed=seed, draws=draws, gradient_draws=gradient_draws, points=points, progress=progress,
    )  # fmt: skip
    together, places = None, []
    if images is not None and len(images) > 1:
        part = subset(images, limit)
        together = aggregate(model, part, seed=seed)
        places = [Point.of(name, together), *(Point.of(other, aggregate(m, part, seed=seed)) for other, m in others)]
    made = BoundPage(
        name, image, model, x, found, growth(LATENTS, seed=seed), decoder_growth(seed=seed, say=tell) if decoders else (), together,
        tuple(places), paths or {},
    )  # fmt: skip
    if target is not None:
        html.put(target, lambda: posterior_figure(found), lambda: render(made))
    return made
