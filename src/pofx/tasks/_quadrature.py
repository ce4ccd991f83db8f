"""∫ f(z) dz over a box of one or two dimensions, as exactly as asked: cells, split where the integral needs it.

    K = Σ_i w_i f(z_i), Kronrod's 15 nodes a side; Gauss's 7 are among them and give G            (Kronrod 1965)
    error of a cell: r · min(1, (200 |K − G| / r)^1.5), r = ∫ |f − mean f|                        (QUADPACK, Piessens et al. 1983)

The cells with the largest errors are split until the sum of errors is below the tolerance; where that takes too many evaluations, an error
is raised instead of a number. What no rule can see is a peak between its nodes. So peaks are searched for first (`peaks`), and the first
cells (`mesh`) are as narrow as the peak in them and grow with the distance from it. The search follows log f uphill, from a lattice: a
needle of which log f shows nothing a lattice spacing away (one hidden under a broader peak's flank) is found by no method, and not by this.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pofx.errors import RunError

NODES = (0.991455371120812639, 0.949107912342758525, 0.864864423359769073, 0.741531185599394440, 0.586087235467691130, 0.405845151377397167,
         0.207784955007898468, 0.0)  # fmt: skip
KRONROD = (0.022935322010529225, 0.063092092629978553, 0.104790010322250184, 0.140653259715525919, 0.169004726639267903,
           0.190350578064785410, 0.204432940075298892, 0.209482141084727828)  # fmt: skip
GAUSS = (0.0, 0.129484966168869693, 0.0, 0.279705391489276668, 0.0, 0.381830050505118945, 0.0, 0.417959183673469388)
# Four nodes of Gauss, to look whether a cell holds anything at all before it is paid for.
LOOK = (-0.861136311594052575, -0.339981043584856265, 0.339981043584856265, 0.861136311594052575)

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Integral:
    """
    Attributes:
        value: `(m,)` float64, of each of m integrands.
        error: `(m,)`, estimated.
        evaluations: points at which they were computed.
        centre, half: `(k, d)`, the cells at the end.
    """

    value: Tensor
    error: Tensor
    evaluations: int
    centre: Tensor
    half: Tensor


def _both_sides(values: tuple[float, ...], sign: float) -> list[float]:
    return [sign * v for v in values] + list(values[-2::-1])


def _rule(d: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Nodes `(p, d)` on [−1, 1]^d, the weights of Kronrod and of Gauss `(p,)`, and the nodes of the first look."""
    node, kronrod, gauss = (torch.tensor(_both_sides(v, s), dtype=torch.double) for v, s in ((NODES, -1), (KRONROD, 1), (GAUSS, 1)))
    look = torch.tensor(LOOK, dtype=torch.double)

    def product(values: Tensor) -> Tensor:
        return torch.cartesian_prod(*[values] * d).reshape(-1, d)

    return product(node), product(kronrod).prod(1), product(gauss).prod(1), product(look)


def split(centre: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Cells `(k, d)` in 2^d parts each: `(k·2^d, d)`."""
    d = centre.shape[1]
    side = torch.cartesian_prod(*[torch.tensor([-0.5, 0.5], dtype=torch.double)] * d).reshape(-1, d)
    return (centre[:, None] + half[:, None] * side).reshape(-1, d), (half / 2).repeat_interleave(len(side), 0)


def mesh(low: Tensor, high: Tensor, focus: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """First cells of the box from `low` to `high` `(d,)`: centres and half sides `(k, d)`.

    Args:
        focus: `(j, d)` places to look closely at.
        width: `(j,)`, how closely: no cell is wider than 5 widths and its own distance from there.
    """
    centre, half = ((low + high) / 2)[None], ((high - low) / 2)[None]
    done: list[tuple[Tensor, Tensor]] = []
    while len(centre):
        gap = ((centre[:, None] - focus).abs() - half[:, None]).clamp(min=0).norm(dim=2)  # (k, j) distance of a focus from a cell
        large = (half.amax(1)[:, None] > 2.5 * width + gap / 2).any(1)
        done.append((centre[~large], half[~large]))
        centre, half = split(centre[large], half[large])
    return torch.cat([c for c, _ in done]), torch.cat([h for _, h in done])


def integrate(f: Function, centre: Tensor, half: Tensor, *, tolerance: Callable[[Tensor], Tensor], most: int) -> Integral:
    """∫ f over cells, each component as exactly as `tolerance` asks.

    Args:
        f: `(n, d)` → `(n, m)` float64.
        centre, half: `(k, d)`, the first cells.
        tolerance: the value so far `(m,)` → the largest error of each `(m,)`.
        most: evaluations.

    Raises:
        RunError: it takes more than `most`, or f is not finite.

    >>> import math
    >>> centre, half = mesh(-torch.ones(1) * 9, torch.ones(1) * 9, torch.zeros(1, 1), torch.ones(1))
    >>> found = integrate(lambda z: torch.exp(-z**2 / 2), centre.double(), half.double(), tolerance=lambda v: 1e-12 * v, most=10_000)
    >>> abs(float(found.value) - math.sqrt(2 * math.pi)) < 1e-12
    True
    """
    nodes, kronrod, gauss, look = _rule(centre.shape[1])
    spent, excess = 0, math.inf

    def at(places: Tensor, centre: Tensor, half: Tensor) -> Tensor:
        nonlocal spent
        spent += len(places) * len(centre)
        if spent > most:
            raise RunError(
                f"The integral over z has not converged after {most:,} evaluations of the decoder: its error is {excess:.3g} times what is allowed.\n"
                f"Allow more, e.g. --points {10 * most}; where that does not help, p(x|z) has edges (scales at their limit): take another run or image."
            )
        y = f((centre[:, None] + half[:, None] * places).reshape(-1, centre.shape[1])).reshape(len(centre), len(places), -1)
        if not bool(y.isfinite().all()):
            raise RunError("p(x | z) is not finite at some z: the decoder has diverged. Train it again with a smaller --lr.")
        return y

    def value_and_error(centre: Tensor, half: Tensor, total: Tensor | None) -> tuple[Tensor, Tensor]:
        volume = (2 * half).prod(1)[:, None]
        seen = at(look, centre, half)
        rough, largest = seen.mean(1) * volume, seen.abs().amax(1) * volume
        limit = tolerance(rough.sum(0) if total is None else total)
        value, error = rough, 100 * largest
        full = (largest > 1e-6 * limit).any(1)
        if bool(full.any()):
            y, part = at(nodes, centre[full], half[full]), volume[full] / 2 ** centre.shape[1]
            k, g = (torch.einsum("kpm,p->km", y, w) * part for w in (kronrod, gauss))
            spread = torch.einsum("kpm,p->km", (y - (k / volume[full])[:, None]).abs(), kronrod) * part
            ratio = (200 * (k - g).abs() / spread.clamp(min=1e-300)).clamp(max=1) ** 1.5
            value, error = value.clone(), error.clone()
            value[full], error[full] = k, spread * ratio
        return value, error

    value, error = value_and_error(centre, half, None)
    while True:
        total, limit = value.sum(0), tolerance(value.sum(0))
        if bool((error.sum(0) <= limit).all()):
            return Integral(total, error.sum(0), spent, centre, half)
        excess = float((error.sum(0) / limit).max())
        worst = (error / limit).amax(1)
        order = worst.argsort()
        keep = torch.zeros(len(order), dtype=torch.bool)
        keep[order] = worst[order].cumsum(0) <= 0.5
        new_centre, new_half = split(centre[~keep], half[~keep])
        new_value, new_error = value_and_error(new_centre, new_half, total)
        centre, half = torch.cat([centre[keep], new_centre]), torch.cat([half[keep], new_half])
        value, error = torch.cat([value[keep], new_value]), torch.cat([error[keep], new_error])


def lattice(reach: float, d: int) -> tuple[Tensor, int]:
    """Places to look for peaks, dense near 0 and wider apart outwards, `(side^d, d)`, and how many to a side."""
    side = {1: 201, 2: 41}[d]
    axis = torch.sinh(torch.linspace(-1, 1, side, dtype=torch.double) * math.asinh(reach))
    return torch.cartesian_prod(*[axis] * d).reshape(-1, d), side


def peaks(log_f: Function, reach: float, starts: Tensor, *, drop: float = 40.0) -> tuple[Tensor, Tensor, Tensor]:
    """Where log f is highest: places `(j, d)`, the widths there `(j,)`, and log f `(j,)`, best first.

    A search by steps to the best neighbour from every local maximum of a lattice and from `starts`; the step is halved until log f falls
    by less than ½ within it, which makes it the width (of a Gaussian: σ). No derivative is needed.

    Args:
        log_f: `(n, d)` → `(n,)`.
        reach: of the lattice.
        starts: `(s, d)`.
        drop: nats below the best at which a peak no longer counts.
    """
    d = starts.shape[1]
    grid, side = lattice(reach, d)
    y = log_f(grid)
    maps = y.reshape(1, 1, *[side] * d)
    pool = F.max_pool1d if d == 1 else F.max_pool2d
    tops = (pool(maps, 3, 1, 1) == maps).flatten().nonzero()[:, 0]
    tops = tops[y[tops].argsort(descending=True)][:24]
    z = torch.cat([starts.double(), grid[tops]])
    best = log_f(z)
    step = torch.full_like(best, 0.5)
    around = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0], dtype=torch.double)] * d).reshape(-1, d)
    around = around[around.abs().sum(1) > 0]
    active = torch.arange(len(z))
    for _ in range(80):
        near = (z[active, None] + step[active, None, None] * around).reshape(-1, d)
        found = log_f(near).reshape(len(active), len(around))
        top, which = found.max(1)
        better = top > best[active]
        fall = best[active] - found.amin(1)
        move = active[better]
        z[move] = near.reshape(len(active), len(around), d)[better, which[better]]
        best[move] = top[better]
        shrink = ~better & (fall > 0.5)
        step[active[shrink]] /= 2
        active = active[better | shrink]
        if not len(active):
            break
    kept: list[int] = []
    for i in best.argsort(descending=True).tolist():
        new = all(float((z[i] - z[j]).norm()) > 2 * max(float(step[i]), float(step[j])) for j in kept)
        if new and best[i] > best.max() - drop:
            kept.append(i)
    return z[kept], step[kept], best[kept]
