"""The game of a GAN on points of a canvas: what is drawn becomes p, and what is looked at becomes pictures. For the page Equilibrium."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from pofx.errors import InputError
from pofx.studio.parts import download

if TYPE_CHECKING:
    from torch import Tensor

    from pofx.models.adversarial.losses import Loss
    from pofx.tasks._densities import Density
    from pofx.workflows._game import Cells, Frame, Match

HALF = 3.0  # the canvas is [−3, 3] × [−3, 3]
LATTICE = (
    201  # points of z to a side: a look takes 80 ms, and V* is within 0.001 nats of that of the 401 that a page of `pofx equilibrium` has
)
SIDE = 96  # pixels of a picture
SETS = ("two moons", "spiral")
DENSITIES = ("ring(8, 2, 0.2)", "grid(3, 1.8, 0.2)", "0.5*normal2(-1.5, -1, 0.3) + 0.5*normal2(1.2, 1, 0.5)")
NOTHING = "nothing yet: draw points"
DRAWS = 300  # of a density, to show it on the canvas
Points = tuple[tuple[float, float], ...]


# The data -------------------------------------------------------------------------------------------------------------------------


def to_canvas(points: Tensor) -> Points:
    """Points `(n, 2)` as the canvas has them; those outside of it are left out."""
    x, y = (points[:, 0] + HALF) / (2 * HALF), (HALF - points[:, 1]) / (2 * HALF)
    return tuple((round(a, 4), round(b, 4)) for a, b in zip(x.tolist(), y.tolist(), strict=True) if 0 <= a < 1 and 0 <= b < 1)


def from_canvas(points: Points) -> Tensor:
    """`(n, 2)` float64."""
    import torch

    at = torch.tensor(points, dtype=torch.double).reshape(-1, 2)
    return torch.stack([at[:, 0] * 2 * HALF - HALF, HALF - at[:, 1] * 2 * HALF], 1)


def preset(name: str) -> Points:
    """What a choice puts on the canvas: a set of points, draws of a density that is written as text, or nothing.

    Raises:
        InputError: the text is no density of two numbers.
    """
    import torch

    from pofx.noise import Noise
    from pofx.tasks._densities import parse

    noise = Noise(0, torch.arange(DRAWS))
    if name == NOTHING:
        return ()
    if name in SETS:
        t, side = noise.uniform("along"), torch.arange(DRAWS) % 2
        if name == "spiral":
            angle, far = 4 * math.pi * t.sqrt(), 2.4 * t.sqrt()
            x = torch.stack([far * angle.cos(), far * angle.sin()], 1)
        else:  # two half circles, each reaching into the other
            turn = math.pi * (t + side)
            x = torch.stack([turn.cos() + side - 0.5, turn.sin() + 0.5 * side - 0.25], 1) * 1.5
        return to_canvas(x + 0.08 * noise.normal("beside", 2))
    density = parse(name)
    if density.d != 2:
        raise InputError(
            f"{name!r} is a density of one number; the canvas takes two, e.g. {DENSITIES[0]!r}. Of one: pofx equilibrium --p {name!r}"
        )
    return to_canvas(density.draw(noise))


def data(points: Points, name: str) -> Density:
    """p: the density itself where nothing was added to its draws, else the kernel density of the points.

    Raises:
        InputError: no density and fewer than two points.
    """
    from pofx.tasks._densities import kernel, parse

    if name not in (*SETS, NOTHING) and points == preset(name):
        return parse(name)
    if len(points) < 2:
        raise InputError("There is no data yet: draw at least two points on the canvas, or choose what to start from.")
    return kernel(from_canvas(points))


def link(points: Points) -> str:
    """The points as a file to download, as `pofx equilibrium --points` reads it."""
    text = "x,y\n" + "".join(f"{x!r},{y!r}\n" for x, y in from_canvas(points).tolist())
    return download("points.csv", text.encode(), f"holds the {len(points)} points of this game, for the command below.")


# The game -------------------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Playing:
    """A match of a person, what was seen of it, and how fast it is to go; pages change it in place.

    Attributes:
        steps: of the generator, over which the learning rate falls to 0; the match ends there.
        points: of the data; `name` what it started from.
        seen: (step, V or None, V*) of each look; `frame` is the last.
        turn: rises when a person takes the match in hand: who plays on sees it, and stops.
    """

    match: Match
    steps: int
    points: Points
    name: str
    per_second: float = 4.0
    per_frame: int = 5
    seen: list[tuple[int, float | None, float]] = field(default_factory=list)
    frame: Frame | None = None
    turn: int = 0

    @property
    def over(self) -> bool:
        return self.match.step >= self.steps

    def look(self) -> Frame:
        self.frame = frame = self.match.look()
        if not self.seen or self.seen[-1][0] != frame.step:
            self.seen.append((frame.step, frame.value, frame.best))
        return frame


def begin(points: Points, name: str, loss: Loss, *, steps: int, seed: int) -> Playing:
    """A match on what is on the canvas, its generator starting as one normal as wide as p."""
    from pofx.workflows._game import CELLS, Match
    from pofx.workflows.equilibrium import start_of

    points = points or preset(name)  # the page has not filled the canvas yet
    p = data(points, name)
    match = Match(p, start_of(p), loss, seed=seed, falls=steps, lattice=LATTICE, shown=CELLS[2])
    return Playing(match, steps, points, name)


# Pictures -------------------------------------------------------------------------------------------------------------------------


def on_canvas(values: Tensor, within: Cells) -> Tensor:
    """Values of cells at the pixels of a picture of the canvas, `(SIDE, SIDE)`, rows from above; NaN where there is no cell."""
    import torch

    middle = (torch.arange(SIDE, dtype=torch.double) + 0.5) / SIDE * 2 * HALF - HALF
    at = [((middle - e[0]) / (e[1] - e[0])).floor().long() for e in within.edges]
    inside = [(i >= 0) & (i < len(values)) for i in at]
    found = values[at[0].clamp(0, len(values) - 1)][:, at[1].clamp(0, len(values) - 1)]
    found = torch.where(inside[0][:, None] & inside[1], found, math.nan)
    return found.T.flip(0)


def tinted(values: Tensor, color: str, other: str | None = None) -> str:
    """Numbers in 0 … 1 as a picture that lies on any ground: as opaque as they are large; with `other`, that colour is 0, ½ is clear and 1 opaque."""
    import torch
    from PIL import Image

    from pofx.workflows._page import data_uri

    rgb = [torch.tensor([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for c in (color, other or color)]
    v = values.clamp(0, 1).nan_to_num(0.5 if other else 0.0)
    alpha = 2 * (v - 0.5).abs() if other else v
    pixels = torch.cat([torch.where((v >= 0.5 if other else v >= 0)[..., None], rgb[0], rgb[1]), (255 * alpha)[..., None]], -1)
    return data_uri(Image.fromarray(pixels.round().to(torch.uint8).numpy(), "RGBA"))


def maps(playing: Playing | None) -> str:
    """p, q, D and D* on the canvas, as HTML; empty frames of the same size before a game."""
    if playing is None or playing.frame is None:
        blank = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
        return _figures((blank, name) for name in ("p, the data", "q, the generator", "D, the critic", "D* = p / (p + q)"))
    from pofx.workflows._player import P, Q

    frame, cells = playing.frame, playing.match.shown
    p = on_canvas(cells.p, cells)
    q = on_canvas(frame.q, cells)
    if frame.d is not None:
        critic, said = on_canvas(frame.d, cells), "D, the critic"
    else:
        f = on_canvas(frame.critic, cells)
        low, high = (float(v) for v in f[~f.isnan()].aminmax())
        critic, said = (f - low) / max(high - low, 1e-12), "f, the critic, least to largest (no D in this game)"
    return _figures(
        (
            (tinted(p / p.nan_to_num(0).max().clamp(min=1e-30), P), "p, the data"),
            (tinted(q / q.nan_to_num(0).max().clamp(min=1e-30), Q), "q, the generator"),
            (tinted(critic, P, Q), said),
            (tinted(on_canvas(frame.d_star, cells), P, Q), "D* = p / (p + q), the best critic"),
        )
    )


def _figures(parts: Any) -> str:
    drawn = "".join(
        f'<figure><img src="{uri}" width="{SIDE}" height="{SIDE}" alt="{escape(name)}"><figcaption>{escape(name)}</figcaption></figure>'
        for uri, name in parts
    )
    return f'<div class="maps">{drawn}</div>'


def numbers(playing: Playing | None) -> str:
    """Step, V, V*, gap, JSD, as HTML."""
    if playing is None or playing.frame is None:
        return '<p class="numbers">No game yet.</p>'
    frame = playing.frame
    parts = [f"step <b>{frame.step:,}</b> of {playing.steps:,}"]
    if frame.value is not None and frame.gap is not None:
        parts += [f"V(D) ≈ <b>{frame.value:.4f}</b>"]
    parts += [f"V* ≈ <b>{frame.best:.4f}</b>"]
    if frame.gap is not None:
        parts += [f"V* − V(D) ≈ <b>{frame.gap:.4f}</b>"]
    parts += [f"JSD(p, q) ≈ <b>{frame.jsd:.4f}</b> nats"]
    if frame.transport is not None:
        parts += [f"W1 ≥ <b>{frame.transport:.3f}</b>, about"]
    return '<p class="numbers">' + "".join(f"<span>{part}</span>" for part in parts) + "</p>"


WIDTH, HEIGHT, LEFT, RIGHT, BELOW, ABOVE = 640, 190, 46, 46, 20, 22


def curve(playing: Playing | None) -> str:
    """V and V* over the steps, with JSD = (V* + log 4) / 2 on the right; an empty frame before a game."""
    seen = [] if playing is None else playing.seen
    last = max(1, seen[-1][0] if seen else 1)
    floor = -2 * math.log(2)
    low = min([floor, *(max(v, floor - 0.6) for _, v, _ in seen if v is not None)]) - 0.05

    def at(step: int, value: float) -> str:
        x = LEFT + (WIDTH - LEFT - RIGHT) * step / last
        return f"{x:.1f},{_high(value, low):.1f}"

    best = " ".join(at(step, v) for step, _, v in seen)
    learned = " ".join(at(step, max(v, low)) for step, v, _ in seen if v is not None)
    marks = "".join(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{_high(v, low):.1f}" y2="{_high(v, low):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{_high(v, low) + 4:.1f}" text-anchor="end">{name}</text>'
        f'<text x="{WIDTH - RIGHT + 6}" y="{_high(v, low) + 4:.1f}">{jsd}</text>'
        for v, name, jsd in ((0.0, "0", "0.69"), (floor / 2, "−0.69", "0.35"), (floor, "−1.39", "0"))
    )
    key = '<tspan class="best">V*</tspan>' + (' <tspan class="learned">V(D)</tspan>' if learned else "")
    return (
        f'<svg class="game" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="V and V* over the steps">{marks}'
        f'<text x="{LEFT}" y="12">nats: {key}</text><text x="{WIDTH - 4}" y="12" text-anchor="end">JSD of V*</text>'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">step {seen[-1][0] if seen else 0:,}</text>'
        f'<polyline class="best" points="{best}"/><polyline class="learned" points="{learned}"/></svg>'
    )


def _high(value: float, low: float) -> float:
    return ABOVE + (HEIGHT - ABOVE - BELOW) * (0.0 - value) / (0.0 - low)
