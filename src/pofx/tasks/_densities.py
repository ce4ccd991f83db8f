"""Densities written as text: `normal(0, 1)`, `0.5*normal(-2, 0.5) + 0.5*normal(2, 0.5)`, `uniform(0, 1)`, `ring(8, 2, 0.1)`.

    text   := term (+ term)*          weights are above 0 and sum to 1; one term alone needs none
    term   := [weight *] name(number, …)
    names  := normal(mean, sd), uniform(low, high)                                  of one number
              normal2(mx, my, sd), ring(k, radius, sd), grid(k, spacing, sd)        of two, round: k on a circle, k × k on a square

What is read is a mixture of round normals and of uniforms, p(x) = Σ w_i N(x; m_i, s_i² I) + Σ w_j 1[a_j ≤ x ≤ b_j] / (b_j − a_j); nothing is evaluated as
code. Points become such a mixture too: a kernel density, one normal on each.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pofx.errors import InputError, nearest
from pofx.model import LOG_2PI
from pofx.noise import Noise

# name → (arguments, dimensions, an example that works)
NAMES: dict[str, tuple[tuple[str, ...], int, str]] = {
    "normal": (("mean", "sd"), 1, "normal(0, 1)"),
    "uniform": (("low", "high"), 1, "uniform(-1, 1)"),
    "normal2": (("mx", "my", "sd"), 2, "normal2(0, 0, 1)"),
    "ring": (("k", "radius", "sd"), 2, "ring(8, 2, 0.1)"),
    "grid": (("k", "spacing", "sd"), 2, "grid(5, 1, 0.1)"),
}
EXAMPLE = "0.5*normal(-2, 0.5) + 0.5*normal(2, 0.5)"
MOST = 1000  # normals in a ring, a grid, or on points
REACH = 12.0  # standard deviations beyond which nothing is left: Φ(−12) = 2e-33
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
TERM = re.compile(rf"\s*(?:({NUMBER})\s*\*\s*)?([A-Za-z_]\w*)\s*\(([^()]*)\)\s*")


@dataclass(frozen=True, eq=False)
class Density:
    """A mixture of round normals and, in one dimension, of uniforms; all float64.

    Attributes:
        text: as it was written.
        weight, mean, sd: of the normals, `(k,)`, `(k, d)`, `(k,)`.
        uniforms: (weight, low, high) of the uniforms.
    """

    text: str
    weight: Tensor
    mean: Tensor
    sd: Tensor
    uniforms: tuple[tuple[float, float, float], ...] = ()

    @property
    def d(self) -> int:
        """1 or 2."""
        return self.mean.shape[1]

    @property
    def is_normal(self) -> bool:
        """One normal alone."""
        return len(self.weight) == 1 and not self.uniforms

    @property
    def everywhere(self) -> bool:
        """p(x) > 0 for all x."""
        return len(self.weight) > 0

    @property
    def edges(self) -> list[float]:
        """Where p jumps, in order."""
        return sorted({end for _, *ends in self.uniforms for end in ends})

    def box(self) -> tuple[Tensor, Tensor]:
        """`(d,)` twice: outside lies less than 1e-30."""
        reach = REACH * self.sd[:, None]
        ends = torch.tensor(self.edges, dtype=torch.double)[:, None].expand(-1, self.d)
        return torch.cat([self.mean - reach, ends]).amin(0), torch.cat([self.mean + reach, ends]).amax(0)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) of x `(n, d)`: `(n,)` nats, −∞ where p is 0. Differentiable where p is.

        >>> parse("normal(0, 1)").log_prob(torch.zeros(1, 1)).item()
        -0.918938533204672...
        """
        x = x.double()
        square = sum((x[:, i, None] - self.mean[:, i]) ** 2 for i in range(self.d))  # not cdist, which loses digits
        parts = self.weight.log() - 0.5 * square / self.sd**2 - self.d * (self.sd.log() + 0.5 * LOG_2PI)
        if self.uniforms:
            w, a, b = torch.tensor(self.uniforms, dtype=torch.double).T
            inside = (x >= a) & (x <= b)
            parts = torch.cat([parts, torch.where(inside, (w / (b - a)).log(), -math.inf)], 1)
        return torch.logsumexp(parts, 1)

    def cdf(self, x: Tensor) -> Tensor:
        """F(x) of x `(n,)`, one dimension: `(n,)`."""
        z = (x.double()[:, None] - self.mean[:, 0]) / self.sd
        found = (self.weight * torch.special.ndtr(z)).sum(1)
        for w, a, b in self.uniforms:
            found = found + w * ((x - a) / (b - a)).clamp(0, 1)
        return found

    def area(self, x: Tensor) -> Tensor:
        """∫_{−∞}^x F(t) dt of x `(n,)`, one dimension: s (z Φ(z) + φ(z)) for a normal."""
        z = (x.double()[:, None] - self.mean[:, 0]) / self.sd
        found = (self.weight * self.sd * (z * torch.special.ndtr(z) + torch.exp(-0.5 * z**2 - 0.5 * LOG_2PI))).sum(1)
        for w, a, b in self.uniforms:
            inside = (x - a).clamp(0, b - a)
            found = found + w * (inside**2 / (2 * (b - a)) + (x - b).clamp(min=0))
        return found

    def moments(self) -> tuple[Tensor, float]:
        """Mean `(d,)`, and the standard deviation of one coordinate, averaged over them."""
        w = torch.cat([self.weight, torch.tensor([u[0] for u in self.uniforms], dtype=torch.double)])
        middle = torch.cat(
            [self.mean, torch.tensor([[(a + b) / 2] * self.d for _, a, b in self.uniforms], dtype=torch.double).reshape(-1, self.d)]
        )
        spread = torch.cat([self.sd**2, torch.tensor([(b - a) ** 2 / 12 for _, a, b in self.uniforms], dtype=torch.double)])
        mean = (w[:, None] * middle).sum(0)
        variance = (w * (spread + ((middle - mean) ** 2).mean(1))).sum()
        return mean, float(variance.sqrt())

    def draw(self, noise: Noise) -> Tensor:
        """One draw for each image of `noise`: `(n, d)` float64."""
        w = torch.cat([self.weight, torch.tensor([u[0] for u in self.uniforms], dtype=torch.double)])
        which = torch.searchsorted(w.cumsum(0), noise.uniform("component") * float(w.sum())).clamp(max=len(w) - 1)
        k = len(self.weight)
        x = torch.empty(len(noise), self.d, dtype=torch.double)
        normal = which < k
        if k:
            at = which.clamp(max=k - 1)
            x = self.mean[at] + self.sd[at, None] * noise.normal("x", self.d)
        if self.uniforms:
            _, a, b = torch.tensor(self.uniforms, dtype=torch.double).T
            at = (which - k).clamp(min=0)
            x = torch.where(normal[:, None], x, (a[at] + (b - a)[at] * noise.uniform("within"))[:, None])
        return x


def parse(text: str) -> Density:
    """Read a density.

    Raises:
        InputError: an unknown name, a wrong number of arguments, a standard deviation that is not above 0, weights that do not sum to 1,
            terms of different dimensions. The message says what can be typed instead.

    >>> p = parse("0.25*normal(-2, 0.5) + 0.75*uniform(1, 3)")
    >>> p.d, p.edges, [round(float(v), 2) for v in p.moments()]
    (1, [1.0, 3.0], [1.0, 1.82])
    >>> parse("grid(5, 1, 0.1)").mean.shape
    torch.Size([25, 2])
    """
    terms, at = [], 0
    while True:
        found = TERM.match(text, at)
        if found is None:
            rest = text[at:].strip()
            fix = f"{rest.rstrip('(').strip() or 'normal'}(0, 1)" if re.fullmatch(r"normal\s*\(?", rest) else NAMES["normal"][2]
            raise InputError(
                f"{text!r} cannot be read {f'at {rest[:20]!r}' if rest else 'to its end'}: a density is written like {fix!r}, or {EXAMPLE!r}."
            )
        terms.append(found.groups())
        at = found.end()
        if at == len(text):
            break
        if text[at] != "+":
            raise InputError(f"{text!r} cannot be read at {text[at:][:20]!r}: terms are joined by +, e.g. {EXAMPLE!r}.")
        at += 1
    return _mixture(text, terms)


def _numbers(name: str, inner: str, text: str) -> list[float]:
    if name not in NAMES:
        raise InputError(
            f"{text!r}: there is no density {name!r}. {nearest(name, NAMES)} E.g. {NAMES.get(name.lower(), NAMES['normal'])[2]!r}"
        )
    wanted, _, example = NAMES[name]
    parts = [part.strip() for part in inner.split(",")] if inner.strip() else []
    if len(parts) != len(wanted):
        raise InputError(f"{text!r}: {name} takes {len(wanted)} numbers ({', '.join(wanted)}), found {len(parts)}; e.g. {example!r}")
    for part, what in zip(parts, wanted, strict=True):
        if not re.fullmatch(NUMBER, part) or not math.isfinite(float(part)):
            raise InputError(f"{text!r}: {what} of {name} is to be a number, found {part!r}; e.g. {example!r}")
    values = [float(part) for part in parts]
    if wanted[-1] == "sd" and not values[-1] > 0:
        fix = ", ".join([*parts[:-1], f"{abs(values[-1]) or 1:g}"])
        raise InputError(f"{text!r}: a standard deviation is above 0; e.g. '{name}({fix})'")
    if name == "uniform" and not values[0] < values[1]:
        fix = f"uniform({values[1]:g}, {values[0]:g})" if values[0] > values[1] else f"uniform({values[0]:g}, {values[0] + 1:g})"
        raise InputError(f"{text!r}: low is to be below high; e.g. {fix!r}")
    if wanted[0] == "k":
        most = MOST if name == "ring" else math.isqrt(MOST)
        if values[0] != int(values[0]) or not 1 <= values[0] <= most:
            raise InputError(f"{text!r}: k of {name} is a whole number from 1 to {most}, found {parts[0]}; e.g. {example!r}")
    return values


def _mixture(text: str, terms: Sequence[tuple[str | None, str, str]]) -> Density:
    read = [(name, _numbers(name, inner, text)) for _, name, inner in terms]
    dims = {NAMES[name][1] for name, _ in read}
    if len(dims) > 1:
        one, two = (next(name for name, _ in read if NAMES[name][1] == d) for d in (1, 2))
        raise InputError(f"{text!r} mixes {one} (of one number) and {two} (of two). Terms are all of one kind; e.g. {NAMES[two][2]!r}")
    weights = [float(w) if w is not None else None for w, _, _ in terms]
    if len(terms) == 1 and weights[0] is None:
        weights = [1.0]
    known = [w for w in weights if w is not None]
    if len(known) < len(weights) or any(not w > 0 for w in known) or abs(sum(known) - 1) > 1e-9:
        good = len(known) == len(weights) and all(w > 0 for w in known)
        even = [w / sum(known) for w in known] if good else [1 / len(terms)] * len(terms)
        fix = " + ".join(f"{w:.15g}*{name}({inner.strip()})" for w, (_, name, inner) in zip(even, terms, strict=True))
        fix = terms[0][1] + f"({terms[0][2].strip()})" if len(terms) == 1 else fix
        said = f"its weights sum to {sum(known):g}" if good else "each term needs a weight above 0"
        raise InputError(f"{text!r}: {said}, and weights are to sum to 1; e.g. '{fix}'")
    d = dims.pop()
    total = sum(known)
    means, sds, shares, uniforms = [], [], [], []
    for w, (name, v) in zip(known, read, strict=True):
        if name == "uniform":
            uniforms.append((w / total, v[0], v[1]))
            continue
        places = _places(name, v)
        means += places
        sds += [v[-1]] * len(places)
        shares += [w / total / len(places)] * len(places)
    double = torch.double
    return Density(text.strip(), torch.tensor(shares, dtype=double), torch.tensor(means, dtype=double).reshape(-1, d),
                   torch.tensor(sds, dtype=double), tuple(uniforms))  # fmt: skip


def _places(name: str, v: list[float]) -> list[list[float]]:
    """The means of the normals of a term."""
    if name == "ring":
        angles = [2 * math.pi * i / int(v[0]) for i in range(int(v[0]))]
        return [[v[1] * math.cos(a), v[1] * math.sin(a)] for a in angles]
    if name == "grid":
        axis = [(i - (int(v[0]) - 1) / 2) * v[1] for i in range(int(v[0]))]
        return [[x, y] for x in axis for y in axis]
    return [v[:-1]]


def normal(mean: float, sd: float) -> Density:
    """N(mean, sd²) of one number."""
    one = torch.ones(1, dtype=torch.double)
    return Density(f"normal({mean:g}, {sd:g})", one, one[:, None] * mean, one * sd)


def kernel(points: Tensor, name: str = "points") -> Density:
    """A kernel density: one normal on each of n points `(n, d)`, of width n^(−1/(d+4)) of the points' own (Scott 1992), which is right for one
    normal and too wide for many; so the width is taken from the distance to the nearest few instead where that is smaller.

    Above 1,000 points, every n/1,000-th is used.

    Raises:
        InputError: fewer than 2 points, not of one or two dimensions, not finite, or all equal.

    >>> kernel(torch.tensor([[0.0], [1.0], [5.0]])).d
    1
    """
    if points.ndim != 2 or points.shape[1] not in (1, 2) or len(points) < 2:
        raise InputError(f"{name} holds {tuple(points.shape)}: give at least 2 rows of 1 or 2 numbers, e.g. a CSV with lines like 0.5,1.25")
    points = points.double()
    if not bool(points.isfinite().all()):
        raise InputError(f"{name} holds numbers that are not finite; leave out such rows.")
    of = ""
    if len(points) > MOST:
        of = f" (of {len(points):,}, evenly spaced)"
        points = points[torch.linspace(0, len(points) - 1, MOST).round().long()]
    n, d = points.shape
    spread = float(points.std(0).mean())
    if not spread > 0:
        raise InputError(f"{name}: all points are equal, which no density describes; give at least two different ones.")
    scott = spread * n ** (-1 / (d + 4))
    near = torch.cdist(points, points).sort(1).values[:, min(n - 1, max(1, round(n**0.5 / 2)))].median()
    sd = min(scott, max(float(near), 0.1 * scott))
    text = f"kernel density of {n} points{of}, width {sd:.3g}"
    return Density(text, torch.full((n,), 1 / n, dtype=torch.double), points, torch.full((n,), sd, dtype=torch.double))
