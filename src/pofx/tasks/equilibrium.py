"""What the game of a GAN is worth, exactly, where both densities are known: the optimal critic, its value, and what the generator feels.

    V(D) = E_p[log D(x)] + E_q[log(1 − D(x))]                                          (Goodfellow et al. 2014, eq. 1)
    D*(x) = p(x) / (p(x) + q(x)) = σ(log p(x) − log q(x))                               (eq. 2)
    V* = max_D V(D) = −log 4 + 2 JSD(p, q),   JSD = ½ KL(p ‖ m) + ½ KL(q ‖ m),  m = ½(p + q)   (theorem 1)
    D*_s(x) = (1 − s) p(x) / (p(x) + q(x))       reals are called real with 1 − s only     (Salimans et al. 2016, §3.4)
    W1(p, q) = ∫ |F_p(x) − F_q(x)| dx             in one dimension                       (Vallender 1974)

−log 4 ≤ V* ≤ 0; the left where p = q and D* = ½, the right where p and q do not meet. Everything is in nats and by quadrature in float64
(`_quadrature.py`), and W1 in closed form between the places where F_p and F_q cross.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pofx.errors import InputError, RunError
from pofx.tasks._densities import NAMES, REACH, Density, parse
from pofx.tasks._quadrature import integrate, mesh

LOG_4 = math.log(4)
TOLERANCE = {1: 1e-11, 2: 1e-8}  # of each integral by dimension, and of that share of it where it is larger than 1
MOST = 4_000_000  # evaluations of p and q in one integral

Logit = Callable[[Tensor], Tensor]  # x (n, d) float64 → (n,)


@dataclass(frozen=True)
class Equilibrium:
    """
    Attributes:
        p, q: as they were written.
        value: V*, nats, in [−log 4, 0].
        jsd: nats, in [0, log 2].
        kl_pq, kl_qp: KL(p ‖ q) and KL(q ‖ p), nats; infinite where the second is 0 and the first is not, NaN where
            the integral does not converge.
        w1: Wasserstein-1, in units of x, or None where it cannot be had exactly; `w1_note` then says why.
        smoothing: s of one-sided label smoothing.
        smoothed_value: V(D*_s), the true value of the critic that smoothing makes best; V* where s = 0.
        error: estimated, of the worst integral, nats.
    """

    p: str
    q: str
    value: float
    jsd: float
    kl_pq: float
    kl_qp: float
    w1: float | None
    w1_note: str
    smoothing: float
    smoothed_value: float
    error: float

    def to_json(self) -> dict[str, Any]:
        """Its numbers; JSON has no infinity, so that `kl_pq_note` says whether a KL that is null is infinite or did not converge."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__} | {"unit": "nats"}
        notes = {f"{name}_note": "infinite" if math.isinf(v) else "did not converge" if math.isnan(v) else "" for name, v in
                 (("kl_pq", self.kl_pq), ("kl_qp", self.kl_qp))}  # fmt: skip
        return found | notes


def as_density(density: Density | str) -> Density:
    """A density, from its text if need be."""
    return parse(density) if isinstance(density, str) else density


def _pair(p: Density | str, q: Density | str) -> tuple[Density, Density]:
    p, q = as_density(p), as_density(q)
    if p.d != q.d:
        names = [f"{name}({', '.join(arguments)})" for name, (arguments, d, _) in NAMES.items() if d == p.d]
        raise InputError(
            f"p = {p.text!r} is a density of {_numbers(p.d)}, q = {q.text!r} of {_numbers(q.d)}. Give q as one of: {', '.join(names)}"
        )
    return p, q


def _numbers(d: int) -> str:
    return "one number" if d == 1 else "two numbers"


def cells(*densities: Density) -> tuple[Tensor, Tensor]:
    """First cells for an integral over all that these densities have: centres and half sides `(k, d)`, none across an edge."""
    low = torch.stack([d.box()[0] for d in densities]).amin(0)
    high = torch.stack([d.box()[1] for d in densities]).amax(0)
    focus = torch.cat([torch.cat([d.mean, d.sd[:, None]], 1) for d in densities]).unique(dim=0)
    edges = sorted({float(low[0]), float(high[0]), *(edge for d in densities for edge in d.edges)}) if len(low) == 1 else []
    boxes = [(torch.tensor([a], dtype=torch.double), torch.tensor([b], dtype=torch.double)) for a, b in pairwise(edges)]
    parts = [mesh(a, b, focus[:, :-1], focus[:, -1]) for a, b in boxes or [(low, high)]]
    return torch.cat([c for c, _ in parts]), torch.cat([h for _, h in parts])


def expect(f: Callable[[Tensor], Tensor], *densities: Density, tolerance: float | None = None) -> tuple[Tensor, float]:
    """∫ f(x) dx over all that these densities have: `(m,)` of f `(n, d)` → `(n, m)`, and the largest estimated error.

    Raises:
        RunError: it does not converge.
    """
    allowed = TOLERANCE[densities[0].d] if tolerance is None else tolerance
    try:
        found = integrate(f, *cells(*densities), tolerance=lambda v: allowed * v.abs().clamp(min=1), most=MOST)
    except RunError as error:
        texts = " and ".join(repr(d.text) for d in densities)
        raise RunError(f"The integrals over {texts} have not converged: give standard deviations that are nearer to each other.") from error
    return found.value, float(found.error.max())


def optimal_logit(p: Density, q: Density, x: Tensor, smoothing: float = 0.0) -> Tensor:
    """logit D*_s(x) of x `(n, d)`: `(n,)`; log p(x) − log q(x) for s = 0. NaN where both densities are 0.

    >>> one = parse("normal(0, 1)")
    >>> round(optimal_logit(one, one, torch.zeros(1, 1), 0.1).sigmoid().item(), 6)
    0.45
    """
    a, b = p.log_prob(x), q.log_prob(x)
    # D/(1 − D) = (1 − s) p / (s p + q)
    return a - b if not smoothing else math.log1p(-smoothing) + a - torch.logaddexp(math.log(smoothing) + a, b)


def value(p: Density | str, q: Density | str, logit: Logit, *, smoothing: float = 0.0, tolerance: float = 1e-9) -> float:
    """V(D) = E_p[(1 − s) log D + s log(1 − D)] + E_q[log(1 − D)] of a critic D = σ(logit), in nats.

    Args:
        logit: x `(n, d)` float64 → `(n,)`.
        smoothing: s; 0 is the value of the game itself.

    Raises:
        RunError: the critic has edges that no quadrature resolves.

    >>> round(value("normal(0, 1)", "normal(1, 1)", lambda x: torch.zeros(len(x))), 6)  # D = 1/2 everywhere
    -1.386294
    """
    p, q = _pair(p, q)

    def integrand(x: Tensor) -> Tensor:
        a, b = p.log_prob(x).exp(), q.log_prob(x).exp()
        f = logit(x).double()
        real = (1 - smoothing) * F.softplus(-f) + smoothing * F.softplus(f)
        # Where a density is 0 its term is 0, though the logarithm may be infinite.
        return -(torch.where(a > 0, a * real, 0.0) + torch.where(b > 0, b * F.softplus(f), 0.0))[:, None]

    return float(expect(integrand, p, q, tolerance=tolerance)[0])


def equilibrium(p: Density | str, q: Density | str, *, smoothing: float = 0.0) -> Equilibrium:
    """The value of the game between known densities, and other distances between them, by quadrature.

    Args:
        p, q: densities of one or two numbers, as text.
        smoothing: s in [0, 1) of one-sided label smoothing.

    Raises:
        InputError: a density cannot be read, the two are not of the same dimension, or s is not in [0, 1).

    >>> found = equilibrium("normal(0, 1)", "normal(1, 1)")
    >>> round(found.value, 6), round(found.kl_pq, 6), round(found.w1, 6)
    (-1.163451, 0.5, 1.0)
    """
    p, q = _pair(p, q)
    if not 0 <= smoothing < 1:
        raise InputError(f"smoothing={smoothing}: it is the share of reals that are called generated, in [0, 1), e.g. --smoothing 0.1")

    def integrand(x: Tensor) -> Tensor:
        log_p, log_q = p.log_prob(x), q.log_prob(x)
        a, b, log_m = log_p.exp(), log_q.exp(), torch.logaddexp(log_p, log_q) - math.log(2)
        # V* − V(D*_s), pointwise: p log D*/D*_s + q log (1 − D*)/(1 − D*_s), never below 0 in sum
        logit, ideal = optimal_logit(p, q, x, smoothing), log_p - log_q
        real = a * (F.logsigmoid(ideal) - F.logsigmoid(logit))
        fake = b * (F.logsigmoid(-ideal) - F.logsigmoid(-logit))
        columns = [torch.where(a > 0, a * (log_p - log_m), 0.0) + torch.where(b > 0, b * (log_q - log_m), 0.0)]
        columns += [torch.where(a > 0, real, 0.0) + torch.where(b > 0, fake, 0.0)]
        return torch.stack(columns, 1)

    (twice, lost), error = expect(integrand, p, q)
    jsd = min(max(float(twice) / 2, 0.0), math.log(2))
    best = -LOG_4 + 2 * jsd
    return Equilibrium(p.text, q.text, best, jsd, kl(p, q), kl(q, p), *wasserstein(p, q), smoothing, best - max(float(lost), 0.0), error)


def kl(p: Density | str, q: Density | str) -> float:
    """KL(p ‖ q) = ∫ p log p/q, nats: infinite where q is 0 and p is not; NaN where the integral does not converge (narrow modes far apart, in two dimensions).

    >>> round(kl("normal(0, 1)", "normal(0, 2)"), 6)
    0.318147
    """
    p, q = _pair(p, q)
    if _outside(p, q):
        return math.inf

    def integrand(x: Tensor) -> Tensor:
        log_p, log_q = p.log_prob(x), q.log_prob(x)
        a = log_p.exp()
        return torch.where(a > 0, a * (log_p - log_q), 0.0)[:, None]

    try:
        return max(float(expect(integrand, p, q)[0]), 0.0)
    except RunError:
        return math.nan


def _outside(p: Density, q: Density) -> bool:
    """Whether p > 0 somewhere where q = 0."""
    if q.everywhere:
        return False
    if p.everywhere:
        return True
    edges = torch.tensor(sorted({*p.edges, *q.edges}), dtype=torch.double)
    middle = ((edges[1:] + edges[:-1]) / 2)[:, None]
    return bool((p.log_prob(middle).isfinite() & ~q.log_prob(middle).isfinite()).any())


# Wasserstein-1 ----------------------------------------------------------------------------------------------------------------------------


def crossings(p: Density, q: Density) -> Tensor:
    """Where F_p − F_q changes its sign, with the ends of all mass around: `(k,)` float64, in order. One dimension."""
    spots = [torch.tensor([float(end[0]) for d in (p, q) for end in d.box()] + p.edges + q.edges, dtype=torch.double)]
    z = torch.linspace(-REACH, REACH, 201, dtype=torch.double)
    spots += [(d.mean + d.sd[:, None] * z).flatten() for d in (p, q)]
    x = torch.cat(spots).unique()
    gap = p.cdf(x) - q.cdf(x)
    gap = torch.where(gap.abs() < 1e-15, 0.0, gap).sign()
    known = gap.nonzero()[:, 0]  # neighbours of which one is above and one below
    turn = known[:-1][gap[known[:-1]] * gap[known[1:]] < 0]
    after = known[1:][gap[known[:-1]] * gap[known[1:]] < 0]
    low, high, sign = x[turn], x[after], gap[turn]
    for _ in range(80):
        middle = (low + high) / 2
        same = (p.cdf(middle) - q.cdf(middle)) * sign > 0
        low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    return torch.cat([x[:1], (low + high) / 2, x[-1:]])


def wasserstein(p: Density | str, q: Density | str) -> tuple[float | None, str]:
    """W1(p, q), in units of x, and why it is None where it is.

    In one dimension ∫ |F_p − F_q| dx, in closed form between crossings. In two it is known where one density is the other moved: |shift|.

    >>> round(wasserstein("normal(0, 1)", "normal(3, 1)")[0], 9), wasserstein("ring(8, 1, 0.1)", "normal2(0, 0, 1)")[0]
    (3.0, None)
    """
    p, q = _pair(p, q)
    if p.d == 1:
        x = crossings(p, q)
        return float((p.area(x) - q.area(x)).diff().abs().sum()), ""
    if len(p.mean) == len(q.mean) and torch.equal(p.sd, q.sd) and torch.allclose(p.weight, q.weight, atol=1e-15):
        shift = q.mean - p.mean
        if torch.allclose(shift, shift[:1].expand_as(shift), atol=1e-12):
            return float(shift[0].norm()), ""
    return None, "in two dimensions W1 is the solution of a transport problem, and is known exactly only where q is p moved"
