"""The gradient of an expectation whose distribution moves, with the noise held fixed.

    z = μ + σε,  ε ~ N(0, 1):      ∂/∂μ E_q[f(z)] = E_ε[f′(μ + σε)],     ∂/∂σ E_q[f(z)] = E_ε[f′(μ + σε) ε]        (Kingma and Welling 2014, §2.4)
    without f′:                    ∂/∂θ E_q[f(z)] = E_q[f(z) ∂ log q(z)/∂θ]                                        (Williams 1992)

While ε stays what it is, z is a smooth function of μ and σ, and the gradient of each draw is an ordinary derivative. Both right sides are computed by
quadrature: they are the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pofx.errors import InputError
from pofx.noise import Noise
from pofx.tasks._quadrature import integrate, mesh
from pofx.tasks.bound import log_prior

REACH = 12.0  # of ε
POINTS = 500_000
TOLERANCE = 1e-11

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "z²": lambda z: z**2,
    "sin 2z": lambda z: torch.sin(2 * z),
    "−(z² − 2)²/4": lambda z: -((z**2 - 2) ** 2) / 4,
}


@dataclass(frozen=True, eq=False)
class Reparameterization:
    """
    Attributes:
        mean, sd: μ and σ.
        epsilon: `(n,)`, held fixed; z = μ + σε `(n,)` and f(z) `(n,)`.
        by_mean, by_sd: `(n,)`, the derivative of each f(z) by μ and by σ at its ε.
        value: E_q[f(z)], by quadrature.
        path: `(2,)`, E_ε of the derivatives by μ and σ, by quadrature.
        score: `(2,)`, E_q[f ∂ log q] by μ and σ, by quadrature.
    """

    mean: float
    sd: float
    epsilon: Tensor
    z: Tensor
    f: Tensor
    by_mean: Tensor
    by_sd: Tensor
    value: float
    path: Tensor
    score: Tensor

    @property
    def off(self) -> float:
        """The largest difference of the two: 0 but for the quadrature."""
        return float((self.path - self.score).abs().max())

    def to_json(self) -> dict[str, Any]:
        return {
            "mean": self.mean,
            "sd": self.sd,
            "value": self.value,
            "by_mean": {"draws": float(self.by_mean.mean()), "path": float(self.path[0]), "score": float(self.score[0])},
            "by_sd": {"draws": float(self.by_sd.mean()), "path": float(self.path[1]), "score": float(self.score[1])},
            "n": len(self.epsilon),
            "off": self.off,
        }


def reparameterization(
    mean: float = 0.5, sd: float = 0.8, f: Callable[[Tensor], Tensor] | str = "−(z² − 2)²/4", *, n: int = 12, seed: int = 0
) -> Reparameterization:
    """Draws of z with their derivatives, and both expectations by quadrature.

    Args:
        mean, sd: of q.
        f: of z `(m,)` float64, smooth; or a name of FUNCTIONS.
        n: draws of ε, those of `seed`: the same whatever μ and σ are.

    Raises:
        InputError: an unknown name, sd not above 0, n < 1.
        RunError: an integral that does not converge.

    >>> found = reparameterization(1.0, 0.5, "z²")
    >>> [round(v, 9) for v in found.path.tolist()], found.off < 1e-8  # ∂(μ² + σ²) = 2μ, 2σ
    ([2.0, 1.0], True)
    """
    if isinstance(f, str):
        if f not in FUNCTIONS:
            raise InputError(f"f={f!r}: use one of {', '.join(FUNCTIONS)}, or a function of z.")
        f = FUNCTIONS[f]
    if not sd > 0 or n < 1:
        raise InputError(f"sd={sd} must be above 0 and n={n} at least 1.")
    function = f

    def slope(z: Tensor) -> tuple[Tensor, Tensor]:
        at = z.detach().requires_grad_()
        with torch.enable_grad():
            y = function(at)
            (d,) = torch.autograd.grad(y.sum(), at)
        return y.detach(), d

    def integrand(u: Tensor) -> Tensor:
        e = u[:, 0]
        y, d = slope(mean + sd * e)
        # log q(z) = −½((z − μ)/σ)² − log σ + const: ∂/∂μ = ε/σ, ∂/∂σ = (ε² − 1)/σ
        return torch.stack([y, d, d * e, y * e / sd, y * (e**2 - 1) / sd], 1) * log_prior(u).exp()[:, None]

    end, zero = torch.full((1,), REACH, dtype=torch.double), torch.zeros(1, 1, dtype=torch.double)
    cells = mesh(-end, end, zero, torch.ones(1, dtype=torch.double))
    found = integrate(integrand, *cells, tolerance=lambda v: TOLERANCE * (1 + v.abs()), most=POINTS).value
    epsilon = Noise(seed, torch.arange(n)).normal("epsilon", 1)[:, 0].double()
    z = mean + sd * epsilon
    y, d = slope(z)
    return Reparameterization(mean, sd, epsilon, z, y, d, d * epsilon, float(found[0]), found[1:3], found[3:5])
