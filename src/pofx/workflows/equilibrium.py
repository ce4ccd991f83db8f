"""The game of a GAN on densities that are known, on one page: V against V*, D against D*, and why losses differ.

Numbers of theory are those of `pofx.tasks.equilibrium`, by quadrature; the game is played in `_game.py` with the losses of `pofx.models.adversarial.losses`.
Here are the words.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pofx.errors import InputError
from pofx.model import Progress
from pofx.models.adversarial.losses import Logistic, Loss, NonSaturating
from pofx.tasks._densities import EXAMPLE, Density, kernel, normal, parse
from pofx.tasks._descent import Fit, Slopes, fit, slopes
from pofx.tasks._files import check_out, write_text, writing
from pofx.tasks.equilibrium import LOG_4, Equilibrium
from pofx.tasks.equilibrium import equilibrium as exactly
from pofx.workflows import _equilibrium_figures as figures
from pofx.workflows import _page as html
from pofx.workflows._game import CELLS, LATTICE, LR, STEPS, Game, gaps, play
from pofx.workflows._player import player

if TYPE_CHECKING:
    from PIL.Image import Image

P = "normal(0, 1)"
KS = (1, 5, 25)
SMOOTHING = 0.1  # of the panel, where none was asked for
DISTANCES = (0.0, 0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0)  # of the table, in deviations of q


@dataclass(frozen=True, eq=False)
class EquilibriumPage:
    """All that the page says.

    Attributes:
        p, q: the densities; `exact` what quadrature gives for them.
        game: None where none was played.
        kernels: p is the kernel density of points.
        theory: the panels that need no game, or None where no page was asked for.
    """

    p: Density
    q: Density
    exact: Equilibrium
    game: Game | None
    kernels: bool
    theory: Theory | None = None

    def to_json(self) -> dict[str, Any]:
        found = self.exact.to_json() | {"game": None if self.game is None else self.game.to_json(), "p_is_kernel_density": self.kernels}
        return found if self.theory is None else found | {"theory": self.theory.to_json()}


@dataclass(frozen=True, eq=False)
class Theory:
    """Panels of the page.

    Attributes:
        p, sd: the density of one number that a normal of this deviation moves away from; the given ones, where they are of one number.
        slopes: along θ = E_p x + distance · sd.
        target, fits: two modes or more, and the best normals for them.
        smoothing: s of the panel; `pair` the two densities it is shown for.
        games: by critic steps, from one start.
    """

    p: Density
    sd: float
    slopes: Slopes
    target: Density
    fits: tuple[Fit, ...]
    smoothing: float
    pair: tuple[Density, Density]
    games: dict[int, Game]

    def to_json(self) -> dict[str, Any]:
        names = ("theta", "value", "minimax", "saturation", "w1", "transport")
        return {
            "slopes": {name: getattr(self.slopes, name) for name in names},
            "fits": {f.by: {"mean": f.mean, "sd": f.sd, "divergence": f.divergence} for f in self.fits},
            "critic_steps": {k: {"gap_last": g.last.gap, "gap_mean": _mean_gap(g), "value": g.last.best} for k, g in self.games.items()},
        }


def _mean_gap(game: Game) -> float:
    """Over the frames after the first."""
    return sum(f.gap or 0.0 for f in game.frames[1:]) / max(1, len(game.frames) - 1)


def theory(p: Density, q: Density, smoothing: float, *, seed: int = 0, progress: Progress | None = None) -> Theory:
    """The panels that need no game of the reader's own; p and q themselves where they are of one number and without edges."""
    smooth = p.d == 1 and not p.uniforms
    line = p if smooth else parse("normal(0, 1)")
    sd = float(q.sd[0]) if smooth and q.is_normal else 1.0
    centre = float(line.moments()[0])
    theta = centre + sd * torch.linspace(0, 10, 41, dtype=torch.double)
    target = line if len(line.mean) > 1 else parse(EXAMPLE)
    pair = (line, q) if smooth and q.d == 1 and not q.uniforms else (line, normal(centre + 1, 1.0))
    start = normal(centre + 2 * line.moments()[1], line.moments()[1])
    fits = (fit(target, "forward"), fit(target, "reverse"), fit(target, "jsd"))
    played = gaps(line, start, NonSaturating(), KS, seed=seed, progress=progress)
    return Theory(line, sd, slopes(line, theta, sd), target, fits, smoothing or SMOOTHING, pair, played)


# The page -----------------------------------------------------------------------------------------------------------------------------------


def _nats(v: float, digits: int = 6) -> str:
    return "∞" if math.isinf(v) else "–" if math.isnan(v) else f"{v:.{digits}f}"


def exact_table(e: Equilibrium) -> str:
    rows = [
        ["V*, the value of the game", "−log 4 + 2 JSD", _nats(e.value)],
        ["JSD", "½ KL(p ‖ m) + ½ KL(q ‖ m), m = ½(p + q)", _nats(e.jsd)],
        ["KL(p ‖ q)", "∫ p log p/q dx", _nats(e.kl_pq)],
        ["KL(q ‖ p)", "∫ q log q/p dx", _nats(e.kl_qp)],
        ["Wasserstein-1", "∫ |F_p − F_q| dx", "–" if e.w1 is None else f"{e.w1:.6f}"],
    ]
    if e.smoothing:
        rows.append([f"V(D*) with smoothing {e.smoothing:g}", "of D* = (1 − s) p / (p + q)", _nats(e.smoothed_value)])
    note = "" if e.w1 is not None else f" {e.w1_note[0].upper()}{e.w1_note[1:]}."
    return html.table(
        ["", "formula", ""], rows, f"Nats (Wasserstein-1: units of x), by quadrature within {max(e.error, 1e-15):.0e}.{note}", text=(0, 1)
    )


def game_section(page: EquilibriumPage) -> str:
    game = page.game
    if game is None:
        return ""
    last, name = game.last, type(game.loss).__name__
    one = game.p.d == 1
    said = [
        f"A generator and a critic, two small nets each with two hidden layers, play {name} for {game.steps:,} steps; the "
        f"critic moves {game.critic_steps} "
        f"time{'s' * (game.critic_steps > 1)} for each step of the generator, which starts as q."
    ]
    if page.kernels:
        said.append(f"p is the {page.p.text}: the game draws from it, and all numbers are about it and not about the points themselves.")
    if last.value is not None:
        said.append(
            "The learned critic's value V(D) can only be below V*, that of the best critic for the generator of the "
            "moment; the gap between them says how much of "
            "the critic's work is undone. Where the generator has arrived, V* = −log 4 = −1.3863 and D = ½."
        )
        end = f"In the end V(D) = {last.value:.4f}, V* = {last.best:.4f}, gap {last.gap:.4f} nats"
        said.append(end + ("" if last.off is None else f"; D is within {last.off:.3f} of ½ wherever p is above 1 % of its peak") + ".")
    elif last.transport is not None:
        said.append(
            "This critic has no D: its output f measures transport, and (E_p f − E_q f) / max |f′| is a lower bound of "
            "the Wasserstein-1 distance "
            f"between p and the generator, in the end {last.transport:.4f}"
            + ("." if last.w1 is None else f"; the distance is {last.w1:.4f}.")
        )
    else:
        said.append("This critic draws a margin and has no D; V* of the generator's density is shown alone.")
    if game.lost:
        said.append(f"The game has not arrived: {game.lost}")
    if smoothing := getattr(game.loss, "smoothing", 0.0):
        said.append(
            f"Labels are smoothed by {smoothing:g}: the best this critic can do is (1 − s) D*, which where p = q is {(1 - smoothing) / 2:g} and "
            f"not ½, and {-math.log1p(-(smoothing**2)):.4f} nats of the gap are that."
        )
    how = (
        f"The generator's density: {LATTICE[1]:,} points of z and the probability between neighbours, pushed through it and "
        f"collected in {CELLS[1]:,} cells; V* and V(D) "
        "are those of the cells, which are fine enough for 1e-4 nats."
        if one
        else f"The generator's density: a lattice of {LATTICE[2]} × {LATTICE[2]} points of z with their probabilities, pushed through it and collected in "
        f"{CELLS[2]} × {CELLS[2]} cells. V* and V(D) are those of the cells: approximate, since cells blur, and a lattice leaves some of them empty."
    )
    with html.inked():
        drawn = html.drawing(figures.values_figure(game))
    return html.section("The game", *map(html.paragraph, said), player(game), html.paragraph(how, "soft"), drawn)


def slopes_section(t: Theory) -> str:
    with html.inked():
        drawn = html.drawing(figures.slopes_figure(t.slopes))
    rows = []
    found = t.slopes
    for distance in DISTANCES:
        i = round(distance * 4)
        cells = [
            f"{float(v[i]):.6f}" if abs(float(v[i])) >= 1e-4 or not float(v[i]) else f"{float(v[i]):.1e}"
            for v in (found.minimax, found.saturation, found.transport)
        ]
        rows.append([f"{float(found.theta[i]):g}", f"{float(found.value[i]):.6f}", *cells, f"{float(found.w1[i]):.4f}"])
    return html.section(
        "Why the minimax gradient dies",
        html.paragraph(
            f"p = {t.p.text} stands still, q = N(θ, {t.sd:g}²) moves away from it. The generator's slope is taken as in "
            "the game: D* = p/(p + q) is held still "
            "while x = θ + sd·z moves. d/dθ E_q log(1 − D*) is also the slope of V* itself, and V* cannot rise above 0: "
            "JSD saturates at log 2, and from a few "
            "deviations on there is nothing left to descend. −log D* still pulls. The Wasserstein distance grows by 1 "
            "for each unit of θ, however far away."
        ),
        drawn,
        html.table(["θ", "V*", "slope of log(1 − D*)", "of −log D*", "of W1", "W1"], rows, "Nats per unit of x, and W1 in units of x; by quadrature. "
                   "d/dθ E_q log(1 − D*) = −E_q[D* l′], d/dθ (−E_q log D*) = −E_q[(1 − D*) l′], l = log p/q."),
    )  # fmt: skip


def losses_section() -> str:
    with html.inked():
        drawn = html.drawing(figures.losses_figure())
    at = figures.losses_of_a_logit()
    rows = []
    for f in (-8, -4, -2, 0, 2, 4):
        i = (f + 8) * 10
        rows.append(
            [
                f"{f:+d}".replace("-", "−") if f else "0",
                f"{1 / (1 + math.exp(-f)):.4f}",
                *(f"{float(v[i]):.4f}" for found in at.values() for v in found[1:]),
            ]
        )
    return html.section(
        "log(1 − D) against −log D",
        html.paragraph(
            "Both fall as the critic is fooled, and have the same fixed point. They differ in where they pull: in the "
            "logit f the slope of log(1 − D) is −D, nothing "
            "where the critic is sure that an image is generated, which is where every generator begins. The slope of "
            "−log D is −(1 − D): all of 1 there."
        ),
        drawn,
        html.table(
            ["logit", "D", "log(1 − D)", "slope", "−log D", "slope"],
            rows,
            "Of the loss objects Minimax and NonSaturating themselves, slopes by autograd.",
        ),
    )


def fits_section(t: Theory) -> str:
    with html.inked():
        drawn = html.drawing(figures.fits_figure(t.target, t.fits))
    names = {"forward": "KL(p ‖ q), as maximum likelihood", "reverse": "KL(q ‖ p)", "jsd": "JSD, as the game with D*"}
    rows = [[names[f.by], f"{round(f.mean, 4) + 0.0:.4f}", f"{f.sd:.4f}", f"{f.divergence:.6f}"] for f in t.fits]
    reverse, shared = t.fits[1], t.fits[2]
    twin = next((o for o in reverse.others if abs(o[2] - reverse.divergence) < 1e-6), None)
    said = "" if twin is None else f" The other mode, N({twin[0]:.2f}, {twin[1]:.2f}²), costs as much."
    trap = min(shared.others, key=lambda o: o[2], default=None)
    said += (
        ""
        if trap is None
        else f" Under JSD, descent from another start ends in N({trap[0]:.2f}, {trap[1]:.2f}²) at {trap[2]:.4f} nats and stays: a local minimum."
    )
    return html.section(
        "Covering and seeking",
        html.paragraph(
            f"p = {t.target.text}, and one normal for all of it. KL(p ‖ q) = E_p log p/q punishes q for being small where "
            "p is not: it covers, and puts mass where there is none "
            "of p. KL(q ‖ p) = E_q log q/p punishes q for being where p is not: it seeks one mode and forgets the rest." + said
        ),
        drawn,
        html.table(
            ["least", "mean", "sd", "nats"], rows,
            "Forward: the moments of p; the others by L-BFGS from every mode and from the middle; divergences by adaptive quadrature.", text=(0,)
        ),
    )  # fmt: skip


def smoothing_section(t: Theory) -> str:
    s, (p, q) = t.smoothing, t.pair
    e = exactly(p, q, smoothing=s)
    with html.inked():
        drawn = html.drawing(figures.smoothing_figure(p, q, s))
    return html.section(
        "Label smoothing",
        html.paragraph(
            f"Reals are called real with {1 - s:g} only: max_D E_p[(1 − s) log D + s log(1 − D)] + E_q log(1 − D) is "
            f"reached by D* = (1 − s) p / (p + q), s = {s:g}. D stays below {1 - s:g}, so "
            f"its logit is bounded; at p = q it is {(1 - s) / 2:g} and not ½. Where p is 0 it is still 0. Were generated "
            "ones smoothed too, D* = ((1 − s) p + s q) / (p + q) "
            "would hold p and q apart by less still, and D rises where there is only q: generated images are taught to "
            "stay where they are (Salimans et al. 2016)."
        ),
        drawn,
        html.paragraph(
            f"p = {p.text}, q = {q.text}: V* = {e.value:.6f}; the critic that smoothing makes best has V(D*) = "
            f"{e.smoothed_value:.6f}, {e.value - e.smoothed_value:.6f} nats less.",
            "soft",
        ),
    )


def steps_section(t: Theory) -> str:
    with html.inked():
        drawn = html.drawing(figures.gaps_figure(t.games))
    rows = [[str(k), f"{_mean_gap(g):.5f}", f"{g.last.gap:.5f}", f"{g.last.best:.5f}"] for k, g in t.games.items()]
    steps = next(iter(t.games.values())).steps
    return html.section(
        "k critic steps",
        html.paragraph(
            "The theory lets the critic finish for each generator. A game gives it k steps, and plays on with the D_k "
            "that it has: V(D_k) stays below V* by the gap. The same game, "
            "non-saturating, from the same start with the same seed and a constant learning rate, for three k. More "
            "steps hold D_k nearer to D*, and cost k times as much."
        ),
        drawn,
        html.table(
            ["k", "mean gap V* − V(D_k)", "gap at the end", "V* at the end"],
            rows,
            f"Nats; p = {t.p.text}, {steps} steps of the generator, one run each.",
        ),
    )


def render(page: EquilibriumPage) -> str:
    """The page as HTML."""
    e, t = page.exact, page.theory
    assert t is not None
    body = [
        html.section(
            "What the game is worth",
            html.paragraph(
                "The critic D says how probable it is that x is real. Against the generator's density q the best it can "
                "do is D*(x) = p(x) / (p(x) + q(x)), and then the game is worth "
                f"V* = −log 4 + 2 JSD(p, q): from −log 4 = −{LOG_4:.4f}, where p = q and D* = ½ everywhere, up to 0, "
                "where the two do not meet."
            ),
            exact_table(e),
        ),
        game_section(page),
        slopes_section(t),
        losses_section(),
        steps_section(t),
        fits_section(t),
        smoothing_section(t),
    ]
    return html.page("Equilibrium", f"p = {e.p}; q = {e.q}.", body)


# Animation ------------------------------------------------------------------------------------------------------------------------------------


def frames(game: Game) -> list[Image]:
    """Each frame of a game as a picture of one size."""
    import io

    from PIL import Image

    made = []
    with html.inked("#3a3f45"):
        for at in range(len(game.frames)):
            file = io.BytesIO()
            figures.picture(game, at).savefig(file, format="png", dpi=100, facecolor="white")
            made.append(Image.open(file).convert("RGB"))
    return made


def animate(game: Game, path: Path) -> None:
    """Write a game as .gif or .png (APNG) that repeats; the last frame stays for two seconds."""
    import numpy as np

    from pofx import pictures

    made = frames(game)
    seconds = [0.15] * (len(made) - 1) + [2.0]
    with writing(path) as temporary:
        if path.suffix.lower() == ".gif":
            pictures.movie(made, temporary, seconds)
            return
        shown = np.stack([np.asarray(frame) for frame in made])
        flat = shown.reshape(-1, 3).astype(np.int64) @ np.array([65536, 256, 1])
        codes, numbers = np.unique(flat, return_inverse=True)
        palette = np.stack([codes >> 16, (codes >> 8) & 255, codes & 255], 1).astype(np.uint8)
        pictures.animate(list(numbers.reshape(shown.shape[:3])), palette, temporary, "PNG", seconds)


# Together -----------------------------------------------------------------------------------------------------------------------------------------


def read_points(path: str | Path) -> torch.Tensor:
    """Points `(n, 1)` or `(n, 2)` of a .csv (a header is left out) or .npy file.

    Raises:
        InputError: it is not there, or does not hold such rows.
    """
    import csv

    import numpy as np

    path = Path(path)
    if not path.is_file():
        raise InputError(f"--points {path}: there is no such file.")
    if path.suffix.lower() == ".npy":
        try:
            array = np.load(path, allow_pickle=False).astype(np.float64)
        except (ValueError, TypeError) as error:
            raise InputError(
                f"--points {path}: not an array of numbers ({error}). Write it with numpy.save('{path.name}', points)."
            ) from error
        return torch.from_numpy(array if array.ndim != 1 else array[:, None])
    if path.suffix.lower() != ".csv":
        raise InputError(f"--points {path}: the ending says the form, .csv or .npy.")
    rows: list[list[float]] = []
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file), 1):
            cells = [cell.strip() for cell in row if cell.strip()]
            try:
                values = [float(cell) for cell in cells]
            except ValueError as error:
                if number == 1:
                    continue  # names of columns
                raise InputError(f"--points {path}, line {number}: {error}. Each line is one point, e.g. 0.5,1.25") from error
            if values and rows and len(values) != len(rows[0]):
                raise InputError(f"--points {path}, line {number}: {len(values)} numbers, and {len(rows[0])} in the lines before.")
            if values:
                rows.append(values)
    if not rows:
        raise InputError(f"--points {path} holds no points. Each line is one point, e.g. 0.5,1.25")
    return torch.tensor(rows, dtype=torch.double).reshape(len(rows), -1)


def equilibrium(
    p: str | None = None,
    q: str | None = None,
    out: str | Path | None = None,
    *,
    points: str | Path | None = None,
    loss: Loss | None = None,
    animation: str | Path | None = None,
    exact: bool = False,
    critic_steps: int | None = None,
    smoothing: float | None = None,
    steps: int = STEPS,
    lr: float = LR,
    seed: int = 0,
    say: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> EquilibriumPage:
    """Compute the equilibrium of known densities, play the game, and write it as a page or an animation.

    Args:
        p, q: densities as text; by default a normal, and another beside it.
        out: a .html page.
        points: a file of points in the place of p, which is then their kernel density.
        loss: the game; non-saturating by default. `smoothing` sets its own, where it is logistic.
        animation: a .gif, or a .png (APNG).
        exact: play no game of p and q.
        critic_steps, steps, lr, seed: see `pofx.workflows._game.play`.

    Raises:
        InputError: what was asked for does not fit together; the message says what does.
        RunError: the game has diverged.
    """
    target = None if out is None else check_out(out, (".html",))
    film = None if animation is None else check_out(animation, (".gif", ".png"))
    if film is not None and exact:
        raise InputError("--animation shows the game, and --exact plays none: leave one of them out.")
    if points is not None and p is not None:
        raise InputError("--p and --points both say what the data is: leave one of them out.")
    data = kernel(read_points(points), str(points)) if points is not None else parse(P if p is None else p)
    start = parse(q) if q is not None else start_of(data)
    if exact and loss is not None:
        raise InputError("--loss is of the game, and --exact plays none: leave one of them out.")
    game_loss = loss or NonSaturating()
    if smoothing and not exact:
        if not isinstance(game_loss, Logistic):
            raise InputError(
                f"{type(game_loss).__name__} has no labels to smooth: leave out --smoothing, or give --loss minimax or non-saturating."
            )
        if not 0 <= smoothing < 0.5:
            raise InputError(f"--smoothing {smoothing}: a game needs it in [0, 0.5), e.g. --smoothing 0.1; with --exact up to 1.")
        if game_loss.smoothing not in (0.0, smoothing):
            raise InputError(f"--smoothing {smoothing:g} and --loss.smoothing {game_loss.smoothing:g} differ: give one of them.")
        game_loss = replace(game_loss, smoothing=smoothing)
    shift = smoothing if smoothing is not None else getattr(game_loss, "smoothing", 0.0)
    found = exactly(data, start, smoothing=shift)
    game = None
    if not exact:
        game = play(data, start, game_loss, steps=steps, critic_steps=critic_steps, seed=seed, lr=lr, progress=progress)
    panels = None
    if target is not None:
        if say is not None:
            say(f"computing the other panels: slopes, fits, and the same game with {', '.join(map(str, KS))} critic steps")
        panels = theory(data, start, shift, seed=seed, progress=progress)
    made = EquilibriumPage(data, start, found, game, points is not None, panels)
    if target is not None:
        write_text(target, render(made))
    if film is not None and game is not None:
        animate(game, film)
    return made


def start_of(p: Density) -> Density:
    """Where a generator starts unasked: a normal as wide as p is, beside it by three of its deviations in one dimension, in its middle in two."""
    centre, spread = p.moments()
    centre = centre + 3 * spread if p.d == 1 else centre
    return parse(
        f"normal({float(centre):.4g}, {spread:.4g})"
        if p.d == 1
        else f"normal2({float(centre[0]):.4g}, {float(centre[1]):.4g}, {spread:.4g})"
    )
