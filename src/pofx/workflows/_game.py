"""The game of a GAN on known densities, played with the real losses and looked at as it goes.

    critic     f: R^d → R, a small MLP;   D = σ(f) for the losses that are logistic
    generator  G(z) = q's own mean + q's own deviation · z + MLP(z),  z ~ N(0, I_d): it starts as q exactly, its last layer being 0

Densities are looked at in cells of x. The lattice of z, with the probability of each of its points, is pushed through G: in one dimension the
probability between two neighbours is spread evenly between their images, in two each lattice point gives its own to the four nearest cells. With P_i, Q_i
the probabilities of cell i and D_i the critic at its middle,

    V = Σ P_i log D_i + Q_i log(1 − D_i)  ≤  V* = Σ P_i log D*_i + Q_i log(1 − D*_i),   D*_i = P_i / (P_i + Q_i)

so that the gap V* − V is never below 0, whatever the cells. In one dimension they are fine enough for 1e-4 nats; in two V* is that of the cells,
which is below the true one's by what cells blur, and above by what a lattice leaves empty.

A critic that is no logit has no D: least squares have D = f (Mao et al. 2017, §3), a relative loss knows f up to a constant, which is chosen
so that V is largest; the others have none, and for those that measure transport the bound (E_p f − E_q f) / max |f'| ≤ W1 is kept in its place
(Arjovsky et al. 2017, eq. 2).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pofx.errors import InputError, RunError
from pofx.model import Progress
from pofx.models.adversarial.losses import LeastSquares, Logistic, Loss, Relativistic, Transport, squared_slopes
from pofx.noise import Noise
from pofx.tasks._densities import Density
from pofx.tasks.equilibrium import LOG_4
from pofx.training.optimizers import make_optimizer

BATCH = 512
STEPS = 2000
WIDTH = 64
LR = 4e-3
CRITIC_STEPS = 3  # or what the loss states, where that is more: the theory's critic is optimal
MEMORY = 0.99  # the largest β2 of Adam: a game here has some thousand steps
SLOWER = 0.2  # the generator's learning rate, as a share of the critic's (two time scales, Heusel et al. 2017)
CELLS = {1: 1200, 2: 96}  # to a side, of the densities
LATTICE = {1: 6001, 2: 401}  # points of z to a side
SHOWN = {1: 200, 2: 48}  # of the cells to a side that frames keep
ARRIVED = 0.05  # nats of V* above −log 4: nearer, the generator has found p
PRESENT = 0.01  # of its peak: where p is not negligible
Z = 6.5  # of the lattice's ends


class Generator(nn.Module):
    """z `(n, d)` → x `(n, d)`."""

    mean: Tensor
    sd: Tensor

    def __init__(self, q: Density, width: int = WIDTH) -> None:
        super().__init__()
        d = q.d
        self.register_buffer("mean", q.mean[0].float())
        self.register_buffer("sd", q.sd[0].float())
        self.net = nn.Sequential(nn.Linear(d, width), nn.Softplus(), nn.Linear(width, width), nn.Softplus(), nn.Linear(width, d))
        last = self.net[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, z: Tensor) -> Tensor:
        return self.mean + self.sd * z + self.net(z)


class CriticNet(nn.Module):
    """x `(n, d)` → f `(n,)`; x is first brought to the scale of the data."""

    centre: Tensor

    def __init__(self, centre: Tensor, scale: float, width: int = WIDTH) -> None:
        super().__init__()
        self.register_buffer("centre", centre.float())
        self.scale = scale
        self.net = nn.Sequential(nn.Linear(len(centre), width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - self.centre) / self.scale)[:, 0]


# What is looked at ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Cells:
    """A box cut into equal cells: edges `(side + 1,)` of each axis, and the probability of p in them, `(side,)` or `(side, side)`."""

    edges: tuple[Tensor, ...]
    p: Tensor

    @property
    def middle(self) -> tuple[Tensor, ...]:
        return tuple((e[1:] + e[:-1]) / 2 for e in self.edges)

    @property
    def volume(self) -> float:
        return math.prod(float(e[1] - e[0]) for e in self.edges)

    @property
    def places(self) -> Tensor:
        """`(cells, d)`."""
        return torch.cartesian_prod(*self.middle).reshape(-1, len(self.edges))


def cells(p: Density, q: Density, side: int | None = None) -> Cells:
    """Cells around what p and the generator's start have, with a margin; both reach 5 deviations."""
    d = p.d
    low = torch.stack([_reach(density, -5) for density in (p, q)]).amin(0)
    high = torch.stack([_reach(density, 5) for density in (p, q)]).amax(0)
    if d == 2:  # square, so that pictures are
        centre, half = (low + high) / 2, float((high - low).max()) / 2
        low, high = centre - half, centre + half
    side = side or CELLS[d]
    edges = tuple(torch.linspace(float(a), float(b), side + 1, dtype=torch.double) for a, b in zip(low, high, strict=True))
    if d == 1:
        return Cells(edges, p.cdf(edges[0]).diff())
    # A round normal is a product: its probability of a cell too
    parts = [torch.special.ndtr((e[:, None] - p.mean[:, i]) / p.sd).diff(dim=0) for i, e in enumerate(edges)]
    return Cells(edges, torch.einsum("k,ik,jk->ij", p.weight, *parts))


def _reach(density: Density, deviations: float) -> Tensor:
    ends = torch.tensor(density.edges, dtype=torch.double)[:, None].expand(-1, density.d)
    every = torch.cat([density.mean + deviations * density.sd[:, None], ends])
    return every.amin(0) if deviations < 0 else every.amax(0)


def lattice(d: int, side: int | None = None) -> tuple[Tensor, Tensor]:
    """Points of z in order `(side^d, d)`, and the probability between neighbours `(side − 1,)`, or of each point `(side²,)`; they sum to 1."""
    axis = torch.linspace(-Z, Z, side or LATTICE[d], dtype=torch.double)
    if d == 1:
        share = torch.special.ndtr(axis).diff()
        return axis[:, None], share / share.sum()
    weight = torch.exp(-0.5 * axis**2)
    weight = weight / weight.sum()
    return torch.cartesian_prod(axis, axis), (weight[:, None] * weight).flatten()


def pushed(x: Tensor, share: Tensor, within: Cells) -> Tensor:
    """The probability that a generator gives to each cell, `(side,)` or `(side, side)`: `share` as `lattice` has it, at x = G(z); what leaves the
    box is in the outermost cells."""
    edges, side = within.edges, len(within.edges[0]) - 1
    if len(edges) == 1:
        # Spread evenly between the images of neighbours: a cell's part is a difference of clamped ramps, summed by where they begin and end.
        a, b = (
            v.clamp(float(edges[0][0]), float(edges[0][-1]))
            for v in (torch.minimum(x[1:, 0], x[:-1, 0]), torch.maximum(x[1:, 0], x[:-1, 0]))
        )
        a = torch.minimum(a, edges[0][-1] - 1e-9)
        b = torch.maximum(b, a + 1e-9)
        slope = share / (b - a)

        def ramps(at: Tensor) -> Tensor:
            order = at.argsort()
            ends, s = at[order], slope[order]
            count = torch.searchsorted(ends, edges[0])
            zero = torch.zeros(1, dtype=torch.double)
            total, first = torch.cat([zero, s.cumsum(0)])[count], torch.cat([zero, (s * ends).cumsum(0)])[count]
            return total * edges[0] - first

        return (ramps(a) - ramps(b)).diff().clamp(min=0)
    found = torch.zeros(side * side, dtype=torch.double)
    at = torch.stack([(x[:, i] - e[0]) / (e[1] - e[0]) - 0.5 for i, e in enumerate(edges)], 1).clamp(0, side - 1 - 1e-9)
    corner, part = at.floor().long(), at - at.floor()
    for i in (0, 1):
        for j in (0, 1):
            w = (part[:, 0] if i else 1 - part[:, 0]) * (part[:, 1] if j else 1 - part[:, 1])
            found.index_add_(0, (corner[:, 0] + i).clamp(max=side - 1) * side + (corner[:, 1] + j).clamp(max=side - 1), share * w)
    return found.reshape(side, side)


def value_in_cells(p: Tensor, q: Tensor, logit: Tensor) -> float:
    """V of logits in cells of the same shape as the probabilities p and q, nats."""
    return -float((torch.where(p > 0, p * F.softplus(-logit), 0.0) + torch.where(q > 0, q * F.softplus(logit), 0.0)).sum())


def as_logit(loss: Loss, f: Tensor, p: Tensor, q: Tensor) -> Tensor | None:
    """logit D of a critic's outputs in cells, or None where the loss has no D."""
    if isinstance(loss, Logistic):
        return f
    if isinstance(loss, LeastSquares):
        return torch.logit(f.clamp(1e-6, 1 - 1e-6))
    if isinstance(loss, Relativistic):  # V is concave in the constant: E_p[1 − D] = E_q[D] where it is largest
        low, high = float(f.min()) - 30, float(f.max()) + 30
        for _ in range(60):
            c = (low + high) / 2
            more = float((p * torch.sigmoid(c - f) - q * torch.sigmoid(f - c)).sum()) < 0
            low, high = (c, high) if more else (low, c)
        return f - (low + high) / 2
    return None


@dataclass(frozen=True, eq=False)
class Frame:
    """The game at one moment; cells are merged for the picture, numbers are of the fine ones.

    Attributes:
        step: of the generator.
        q: density of G(z), `(side,)` or `(side, side)`, per unit of x.
        critic: f in the same cells; d: D = σ(f), or None; d_star: p/(p + q), NaN where neither has anything.
        value, best: V(D) and V*, nats; value is None where there is no D.
        transport: (E_p f − E_q f) / max |f'|, a lower bound of W1, for losses that measure it; else None. 0 where the critic points the wrong way.
        w1: W1 of p and the generator's density, in one dimension; else None.
        samples: of G, `(64, d)` in two dimensions, `(0, 1)` in one.
        off: the largest |D − ½| where p has more than 1 % of its peak (of a normal: 3 deviations, 99.8 % of its draws), or None.
    """

    step: int
    q: Tensor
    critic: Tensor
    d: Tensor | None
    d_star: Tensor
    value: float | None
    best: float
    transport: float | None
    w1: float | None
    samples: Tensor
    off: float | None

    @property
    def gap(self) -> float | None:
        """V* − V(D) ≥ 0."""
        return None if self.value is None else self.best - self.value

    @property
    def jsd(self) -> float:
        """JSD of p and the generator's density, V* = −log 4 + 2 JSD, nats."""
        return (self.best + LOG_4) / 2

    def to_json(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "value": self.value,
            "best": self.best,
            "gap": self.gap,
            "transport": self.transport,
            "w1": self.w1,
            "away_from_half": self.off,
        }


@dataclass(frozen=True, eq=False)
class Game:
    """What was played.

    Attributes:
        p, q: the data's density, and the generator's start.
        loss: the game; `critic_steps` for one of the generator; `steps` of the generator; `seed`.
        shown: the merged cells of the frames.
        frames: first (nothing learned) to last.
        critic, generator: as they were in the end, float64.
    """

    p: Density
    q: Density
    loss: Loss
    critic_steps: int
    steps: int
    seed: int
    shown: Cells
    frames: tuple[Frame, ...]
    critic: CriticNet
    generator: Generator

    @property
    def last(self) -> Frame:
        return self.frames[-1]

    @property
    def lost(self) -> str:
        """What to do where the generator has not come near p; "" where it has."""
        left = self.last.best + LOG_4
        if left < ARRIVED:
            return ""
        return f"V* is {left:.3f} nats above −log 4. Try more --steps, a smaller --lr, more --critic-steps or another --loss."

    def to_json(self) -> dict[str, Any]:
        settings = {field.name: getattr(self.loss, field.name) for field in fields(self.loss)}
        return {
            "loss": type(self.loss).__name__, "settings": settings, "critic_steps": self.critic_steps, "steps": self.steps, "seed": self.seed,
            **{key: value for key, value in self.last.to_json().items() if key != "step"},
            "kind": "V and V* of the generator's density in cells: " + ("near-exact" if self.p.d == 1 else "approximate"),
            "history": [frame.to_json() for frame in self.frames],
        }  # fmt: skip


def merged(x: Tensor, by: int) -> Tensor:
    """Sums of `by` neighbouring cells along each axis."""
    return x.reshape(-1, by).sum(1) if x.ndim == 1 else x.reshape(len(x) // by, by, -1, by).sum((1, 3))


@torch.no_grad()
def _look(step: int, loss: Loss, generator: Generator, critic: CriticNet, fine: Cells, shown: Cells, side: int | None = None) -> Frame:
    generator, critic = copy.deepcopy(generator).double(), copy.deepcopy(critic).double()
    d = len(fine.edges)
    z, share = lattice(d, side)
    q = pushed(generator(z), share, fine)
    places = fine.places
    f = critic(places).reshape(q.shape)
    if not bool(f.isfinite().all() & q.isfinite().all()):
        raise RunError(f"The game has diverged at step {step}: the critic's outputs are not finite. Try a smaller --lr, e.g. --lr 5e-4.")
    logit = as_logit(loss, f, fine.p, q)
    star = fine.p / (fine.p + q)
    best = value_in_cells(fine.p, q, torch.logit(star.clamp(1e-300, 1 - 1e-16)).nan_to_num(0.0))
    by = len(q) // len(shown.edges[0][1:])
    few, f_shown = merged(q, by), merged(f, by) / by**d
    small = shown.p + few
    moved = fine.p / fine.p.sum() - q / q.sum()  # of equal masses, or the critic's constant would count: tails of p lie outside the box
    value = off = transport = w1 = None
    if logit is not None:
        value = value_in_cells(fine.p, q, logit)
        off = float((torch.sigmoid(logit) - 0.5).abs()[fine.p > PRESENT * fine.p.max()].max())
    if isinstance(loss, Transport):
        with torch.enable_grad():
            steepest = float(squared_slopes(critic, places).detach().max().sqrt())
        transport = max(0.0, float((moved * (f - f.mean())).sum()) / max(steepest, 1e-12))
    if d == 1:
        w1 = float(moved.cumsum(0).abs().sum()) * fine.volume
    samples = generator(Noise(7, torch.arange(256)).normal("shown", d)) if d == 2 else torch.zeros(0, 1)
    shown_d = None if logit is None else merged(torch.sigmoid(logit), by) / by**d
    return Frame(
        step, few / shown.volume, f_shown, shown_d, torch.where(small > 1e-9, shown.p / small, math.nan),
        value, best, transport, w1, samples, off,
    )  # fmt: skip


# Played ----------------------------------------------------------------------------------------------------------------------------------------


def moments_of_looking(steps: int, frames: int) -> list[int]:
    """Steps at which the game is looked at: close together in the beginning, where most happens."""
    return sorted({round(steps * (i / max(1, frames - 1)) ** 2) for i in range(frames)} | {steps})


class Match:
    """A game that is being played: `advance` it as far as is wanted, and `look` at it whenever; looking changes nothing.

    Both players have the optimizer that the loss was published with, at our learning rate, a fifth of it for the generator, and β2 ≤ 0.99.

    Args:
        p: what the data is drawn from.
        q: one normal, from which the generator starts.
        critic_steps: before each step of the generator, by default 3, or what the loss states where that is more.
        seed: of weights, data and z: the same numbers give the same game.
        batch: draws of x and z in a step.
        falls: over so many steps the learning rate falls to 0 like a cosine; None keeps it.
        lattice: points of z to a side, by default LATTICE; fewer are quicker to look at.
        shown: cells to a side that frames keep, by default SHOWN; it divides CELLS.

    Raises:
        InputError: q is not one normal, or not of p's dimension; a number below 1.

    >>> from pofx.models.adversarial.losses import NonSaturating
    >>> from pofx.tasks._densities import parse
    >>> match = Match(parse("normal(0, 1)"), parse("normal(1, 1)"), NonSaturating(), batch=8)
    >>> match.advance(2)
    >>> match.step, match.look().gap >= 0
    (2, True)
    """

    def __init__(
        self,
        p: Density,
        q: Density,
        loss: Loss,
        *,
        critic_steps: int | None = None,
        seed: int = 0,
        batch: int = BATCH,
        lr: float = LR,
        falls: int | None = None,
        lattice: int | None = None,
        shown: int | None = None,
    ) -> None:
        if not q.is_normal or p.d != q.d:
            fix = "normal(0, 1)" if p.d == 1 else "normal2(0, 0, 1)"
            raise InputError(
                f"The generator starts as one normal of p's dimension, found q = {q.text!r}. Give e.g. --q {fix!r}, or add --exact to play no game."
            )
        k = max(loss.steps, CRITIC_STEPS) if critic_steps is None else critic_steps
        examples = {"steps": STEPS, "critic-steps": 5, "batch": 512}
        for (name, example), number in zip(examples.items(), (1 if falls is None else falls, k, batch), strict=True):
            if number < 1:
                raise InputError(f"--{name} {number}: it must be at least 1, e.g. --{name} {example}")
        if not 0 < lr < math.inf:
            raise InputError(f"--lr {lr}: a learning rate is above 0, e.g. --lr {LR:g}")
        self.p, self.q, self.loss, self.critic_steps, self.seed, self.falls = p, q, loss, k, seed, falls
        self.step = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.generator, self.critic = Generator(q), CriticNet(*p.moments())
        self._draws = Draws(p, seed, batch)
        self._rates, spec = (lr, lr * SLOWER), loss.optimizer
        spec = replace(spec, betas=(spec.betas[0], min(spec.betas[1], MEMORY)))
        nets = (self.critic, self.generator)
        self._optimizers = [make_optimizer(net, replace(spec, lr=rate)) for net, rate in zip(nets, self._rates, strict=True)]
        self._lattice, self._fine = lattice, cells(p, q)
        by = len(self._fine.edges[0][1:]) // (shown or SHOWN[p.d])
        self.shown = Cells(tuple(e[::by] for e in self._fine.edges), merged(self._fine.p, by))

    def look(self) -> Frame:
        """The game at this moment.

        Raises:
            RunError: the critic's outputs are not finite.
        """
        return _look(self.step, self.loss, self.generator, self.critic, self._fine, self.shown, self._lattice)

    def advance(self, steps: int = 1) -> None:
        """So many steps of the generator, with those of the critic before each."""
        for _ in range(steps):
            self._advance()
            self.step += 1

    def _advance(self) -> None:
        loss, generator, critic, k = self.loss, self.generator, self.critic, self.critic_steps
        if self.falls is not None:
            fall = 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / self.falls)))
            for optimizer, rate in zip(self._optimizers, self._rates, strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = rate * fall
        for i in range(k):
            real, z, u = self._draws(self.step * (k + 1) + i)
            with torch.no_grad():
                fake = generator(z)
            objective = loss.critic(*critic(torch.cat([real, fake])).chunk(2))
            extra = loss.smoothness(critic, real, fake, u)
            _move(self._optimizers[0], objective if extra is None else objective + extra)
            if loss.constrains:
                loss.after(critic)
        real, z, _ = self._draws(self.step * (k + 1) + k)
        critic.requires_grad_(False)
        _move(self._optimizers[1], loss.generator(critic(real) if loss.needs_real else torch.zeros(len(z)), critic(generator(z))))
        critic.requires_grad_(True)


def play(
    p: Density,
    q: Density,
    loss: Loss,
    *,
    steps: int = STEPS,
    critic_steps: int | None = None,
    seed: int = 0,
    batch: int = BATCH,
    lr: float = LR,
    frames: int = 40,
    decay: bool = True,
    progress: Progress | None = None,
) -> Game:
    """Play a whole game: a `Match` of so many steps of the generator, looked at from time to time.

    Args:
        decay: whether the learning rate falls to 0 over the steps.

    Raises:
        InputError: q is not one normal, or not of p's dimension; a number below 1.
        RunError: the critic's outputs are not finite.
    """
    if steps < 1:
        raise InputError(f"--steps {steps}: it must be at least 1, e.g. --steps {STEPS}")
    match = Match(p, q, loss, critic_steps=critic_steps, seed=seed, batch=batch, lr=lr, falls=steps if decay else None)
    looks, looked = set(moments_of_looking(steps, frames)), []
    for step in range(steps + 1):
        if step in looks:
            looked.append(match.look())
        if step < steps:
            match.advance()
            if progress is not None:
                progress(step + 1, steps)
    shown, k = match.shown, match.critic_steps
    return Game(p, q, loss, k, steps, seed, shown, tuple(looked), match.critic.double(), match.generator.double())


class Draws:
    """Data and z `(batch, d)`, and uniform numbers `(batch,)`, float32: a function of seed and turn, made for many turns at once."""

    def __init__(self, p: Density, seed: int, batch: int, turns: int = 32) -> None:
        self.p, self.seed, self.batch, self.turns = p, seed, batch, turns
        self.block, self.held = -1, (torch.zeros(0), torch.zeros(0), torch.zeros(0))

    def __call__(self, turn: int) -> tuple[Tensor, Tensor, Tensor]:
        block, at = divmod(turn, self.turns)
        if block != self.block:
            n = self.turns * self.batch
            noise = Noise(self.seed, block * n + torch.arange(n))
            self.block, self.held = block, (self.p.draw(noise).float(), noise.normal("z", self.p.d).float(), noise.uniform("u").float())
        real, z, u = (v[at * self.batch : (at + 1) * self.batch] for v in self.held)
        return real, z, u


def _move(optimizer: torch.optim.Optimizer, objective: Tensor) -> None:
    optimizer.zero_grad()
    objective.backward()
    optimizer.step()


def gaps(
    p: Density,
    q: Density,
    loss: Loss,
    ks: Sequence[int],
    *,
    steps: int = 100,
    seed: int = 0,
    lr: float = LR,
    progress: Progress | None = None,
) -> dict[int, Game]:
    """The same game with k critic steps for one of the generator, for each k, at a constant learning rate."""
    total, done, out = sum(ks) * steps, 0, {}
    for k in ks:
        inner = None if progress is None else (lambda i, _, k=k, done=done: progress(done + k * i, total))
        out[k] = play(p, q, loss, steps=steps, critic_steps=k, seed=seed, lr=lr, frames=25, decay=False, progress=inner)
        done += k * steps
    return out
