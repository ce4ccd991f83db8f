"""Where a generator is pulled, exactly: slopes of three losses as it moves, and the normal that each divergence likes best.

With l(x) = log p(x) − log q(x), D* = σ(l), q_θ = N(θ, sd²): x = θ + sd·z moves with θ, and D*, as in the game, does not:

    d/dθ E_q log(1 − D*) = −E_q[D* l′],    d/dθ (−E_q log D*) = −E_q[(1 − D*) l′],    dW1/dθ = ∫ sign(F_p − F_q) q dx

The first is also dV*/dθ, since V is flat in D at D*. Far from p it dies, the second does not, and the third is ±1 (Arjovsky and Bottou 2017, theorem 2.4;
Arjovsky et al. 2017, example 1). A normal fitted by KL(p ‖ q) covers all of p: it takes p's mean and variance. By KL(q ‖ p) it seeks one mode, since
mass where p has none is what costs (Minka 2005, §3; Goodfellow 2016, §2.5). JSD, which the game plays, lies between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pofx.errors import InputError
from pofx.tasks._densities import Density, normal
from pofx.tasks.equilibrium import LOG_4, as_density, crossings, expect, kl, optimal_logit, wasserstein

Divergence = Literal["forward", "reverse", "jsd"]
NODES = 801  # of the sums that a fit descends; its result is then computed by quadrature


@dataclass(frozen=True, eq=False)
class Slopes:
    """How losses of q_θ = N(θ, sd²) change with θ, the critic being optimal and, as in the game, held still: `(m,)` float64 each.

    Attributes:
        theta: in units of x.
        value: V* of p and q_θ, nats.
        minimax: d/dθ E_q log(1 − D*), nats per unit of x; it is dV*/dθ.
        saturation: d/dθ of −E_q log D*, nats per unit of x: the non-saturating loss.
        w1, transport: W1(p, q_θ) in units of x, and dW1/dθ, unitless.
    """

    theta: Tensor
    value: Tensor
    minimax: Tensor
    saturation: Tensor
    w1: Tensor
    transport: Tensor


def slopes(p: Density | str, theta: Sequence[float] | Tensor, sd: float = 1.0) -> Slopes:
    """What pulls a normal at θ towards p: nearly nothing under the minimax loss where the two do not meet (Arjovsky and Bottou 2017, theorem 2.4).

    Args:
        p: a density of one number; `theta`: means of q.

    Raises:
        InputError: p is not of one dimension or has edges, where l has no slope.

    >>> found = slopes("normal(0, 1)", [2.0, 10.0])
    >>> [round(float(v), 4) for v in (*found.minimax, *found.saturation, *found.transport)]
    [0.4496, 0.0, 1.5504, 10.0, 1.0, 1.0]
    """
    p = as_density(p)
    if p.d != 1 or p.uniforms:
        raise InputError(f"p = {p.text!r}: slopes need a density of one number without edges, e.g. 'normal(0, 1)'")
    rows = []
    for at in torch.as_tensor(theta, dtype=torch.double).tolist():
        q = normal(at, sd)

        def integrand(x: Tensor, q: Density = q) -> Tensor:
            with torch.enable_grad():
                y = x.detach().requires_grad_(True)
                logit = optimal_logit(p, q, y)
                (slope,) = torch.autograd.grad(logit.sum(), y)
            weight, logit = q.log_prob(x).exp(), logit.detach()
            return -weight[:, None] * slope * torch.stack([torch.sigmoid(logit), torch.sigmoid(-logit)], 1)

        (minimax, saturation), _ = expect(integrand, p, q)
        x = crossings(p, q)
        between = (x[1:] + x[:-1]) / 2
        side = (p.area(x) - q.area(x)).diff().sign() if len(between) else x
        transport = float((side * q.cdf(x).diff()).sum())
        rows.append([at, best(p, q), float(minimax), float(saturation), float(wasserstein(p, q)[0] or 0), transport])
    return Slopes(*torch.tensor(rows, dtype=torch.double).reshape(-1, 6).T)


# The best normal ----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """The normal N(mean, sd²) that a divergence likes best.

    Attributes:
        by: "forward" is KL(p ‖ q), "reverse" KL(q ‖ p).
        mean, sd: in units of x.
        divergence: nats, the one that was minimised.
        others: further minima that descent ends in, as good or worse: (mean, sd, divergence).
    """

    by: Divergence
    mean: float
    sd: float
    divergence: float
    others: tuple[tuple[float, float, float], ...] = ()


def jsd(p: Density, q: Density) -> float:
    """JSD(p, q), nats, by quadrature."""

    def integrand(x: Tensor) -> Tensor:
        a, b = p.log_prob(x), q.log_prob(x)
        m = torch.logaddexp(a, b) - math.log(2)
        return 0.5 * (torch.where(a > -math.inf, a.exp() * (a - m), 0.0) + torch.where(b > -math.inf, b.exp() * (b - m), 0.0))[:, None]

    return min(max(float(expect(integrand, p, q)[0]), 0.0), math.log(2))


def best(p: Density, q: Density) -> float:
    """V* = −log 4 + 2 JSD."""
    return -LOG_4 + 2 * jsd(p, q)


def fit(p: Density | str, by: Divergence) -> Fit:
    """The normal that is nearest to p, from many starts.

    The divergence is summed over fixed nodes of p and moving nodes μ + σz of q (the trapezoidal rule, which is exact to rounding for such
    integrands), and descended with its gradients by L-BFGS; "forward" has the closed form μ = E_p x, σ² = Var_p x. The divergence is then computed anew by
    adaptive quadrature.

    Args:
        p: a mixture of normals of one number.

    Raises:
        InputError: p is not of one dimension, or has edges.

    >>> found = fit("0.5*normal(-2, 0.5) + 0.5*normal(2, 0.5)", "forward")
    >>> round(found.mean, 6), round(found.sd**2, 6)
    (0.0, 4.25)
    """
    p = as_density(p)
    if p.d != 1 or p.uniforms:
        raise InputError(f"p = {p.text!r}: fits need a density of one number without edges, e.g. 'normal(0, 1)'")
    centre, spread = p.moments()
    if by == "forward":
        q = normal(float(centre), spread)
        return Fit(by, float(centre), spread, kl(p, q))
    starts = {
        (round(m, 9), round(s, 9)) for m, s in [*zip(p.mean[:, 0].tolist(), p.sd.tolist(), strict=True), (float(centre), spread)][:12]
    }
    ends: list[tuple[float, float, float]] = []
    for start in sorted(starts):
        mean, sd = _descend(p, by, *start)
        q = normal(mean, sd)
        ends.append((kl(q, p) if by == "reverse" else jsd(p, q), mean, sd))
    ends.sort()
    apart = [e for i, e in enumerate(ends) if all(abs(e[1] - f[1]) > 1e-3 * spread for f in ends[:i])]
    divergence, mean, sd = apart[0]
    return Fit(by, mean, sd, divergence, tuple((m, s, v) for v, m, s in apart[1:]))


def _descend(p: Density, by: Divergence, mean: float, sd: float) -> tuple[float, float]:
    """Downhill from one start."""
    z = torch.linspace(-9, 9, NODES, dtype=torch.double)
    phi = torch.exp(-0.5 * z**2)
    phi = phi / phi.sum()
    # Nodes of p: those of each of its normals
    x_p = (p.mean + p.sd[:, None] * z).flatten()[:, None]
    w_p = (p.weight[:, None] * phi).flatten()
    log_p = p.log_prob(x_p)
    at = torch.tensor([mean, math.log(sd)], dtype=torch.double, requires_grad=True)
    descent = torch.optim.LBFGS([at], lr=1, max_iter=300, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe")

    def log_q(x: Tensor) -> Tensor:
        return -0.5 * ((x[:, 0] - at[0]) / at[1].exp()) ** 2 - at[1] - 0.5 * math.log(2 * math.pi)

    def loss() -> Tensor:
        x = (at[0] + at[1].exp() * z)[:, None]
        a, b = p.log_prob(x), log_q(x)
        if by == "reverse":
            return (phi * (b - a)).sum()
        at_p = log_q(x_p)
        real = (w_p * (log_p - torch.logaddexp(log_p, at_p))).sum()
        return 0.5 * (real + (phi * (b - torch.logaddexp(a, b))).sum()) + math.log(2)

    def closure() -> float:
        descent.zero_grad()
        found = loss()
        found.backward()
        return float(found.detach())

    descent.step(closure)
    return float(at[0].detach()), float(at[1].detach().exp())
