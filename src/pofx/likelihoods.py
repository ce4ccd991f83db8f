"""Output heads: distributions over the integers {0 … L−1} of one pixel, made from a network's numbers.

A head turns parameters `(n, P, *S)` into a distribution over pixels `(n, C, *S)`; S is `(H, W)` in a full pass and empty in
an incremental step. Every head sums to one exactly: there is no clamp and no density in disguise.

    Bernoulli        p(1) = σ(l)                                                             L = 2
    Categorical      softmax over the L levels of each sub-pixel
    Logistic         mass of the bin around x under Logistic(μ, s), open at both ends        one per sub-pixel
    Gaussian         the same under N(μ, s²)                                                 one per sub-pixel
    LogisticMixture  Σ_k π_k ∏_c P(x_c | μ_kc(x_<c), s_kc)                                   Salimans et al. 2017

On [−1, 1] neighbouring levels are 2/(L−1) apart. With a = (x + half − μ)/s, b = (x − half − μ)/s, w = a − b = 2/((L−1)s):
log(σ(a) − σ(b)) = log σ(a) + log σ(−b) + log(−expm1(−w)), where w is taken directly, never by subtraction.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from pofx.errors import InputError
from pofx.integers import GRIDS, TOTAL, active, integers, rounded
from pofx.model import inverse_cdf
from pofx.space import ImageSpace

Cdf = Callable[[Tensor], Tensor]
EDGE_BITS = 16  # of means and edges of bins, in integers
BEYOND = 2.0**20  # an edge that all mass is on one side of, whatever the scale: every table has ended there


def log_bin_mass(x: Tensor, mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """log P(x) of the discretized logistic, any broadcastable shapes, nats.

    Args:
        x: integers 0 … levels−1 as floats.
        mean: on [−1, 1]; log_scale: of the same unit, clamped below at −7.

    >>> x = torch.arange(256.0)
    >>> bool(abs(log_bin_mass(x, torch.tensor(0.3), torch.tensor(-7.0), 256).double().exp().sum() - 1) < 1e-6)
    True
    """
    log_scale = log_scale.clamp(min=-7)
    inverse = torch.exp(-log_scale)
    half = 1 / (levels - 1)
    # Edges are rounded in one way whichever of their two bins asks, so that bins also sum to one in float32.
    upper, lower = ((2 * x + 1) * half - 1 - mean) * inverse, ((2 * x - 1) * half - 1 - mean) * inverse
    log_below = F.logsigmoid(upper)  # log P(≤ x)
    log_above = F.logsigmoid(-lower)  # log P(≥ x)
    # log(1 − e^−w), by its series where w is small: a scale may grow without end, and log(0) here would be NaN in the gradient.
    width = 2 * half * inverse
    series = math.log(2 * half) - log_scale - width / 2
    inner = log_below + log_above + torch.where(width < 1e-6, series, torch.log(-torch.expm1(-width.clamp(min=1e-6))))
    return torch.where(x <= 0, log_below, torch.where(x >= levels - 1, log_above, inner))


def log_gaussian_bin_mass(x: Tensor, mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """log P(x) of the discretized Gaussian, open at both ends; arguments as of `log_bin_mass`, log_scale that of the standard deviation.

    Φ(a) − Φ(b) is taken on the side where both are small; where the bin is narrow the difference would cancel, and
    log φ(z) + log w + log(1 + w²(z² − 1)/24), z at its middle and w its width in standard deviations, is exact to O(w⁴).

    >>> x = torch.arange(256.0)
    >>> bool(abs(log_gaussian_bin_mass(x, torch.tensor(0.3), torch.tensor(-1.0), 256).double().exp().sum() - 1) < 1e-5)
    True
    """
    log_scale = log_scale.clamp(min=-7)
    inverse = torch.exp(-log_scale)
    half = 1 / (levels - 1)
    z = ((2 * x) * half - 1 - mean) * inverse
    upper, lower = ((2 * x + 1) * half - 1 - mean) * inverse, ((2 * x - 1) * half - 1 - mean) * inverse
    log_below, log_above = torch.special.log_ndtr(upper), torch.special.log_ndtr(-lower)
    width = 2 * half * inverse
    narrow = width * (1 + z.abs()) < (1e-3 if z.dtype == torch.float64 else 0.03)
    left = z < 0
    high, low = torch.where(left, log_below, log_above), torch.special.log_ndtr(torch.where(left, lower, -upper))
    difference = torch.where(narrow, -1.0, low - high).clamp(max=-1e-12)  # where it is not used, a value whose gradient is finite
    wide = high + torch.log(-torch.expm1(difference))
    near = -0.5 * z**2 - 0.5 * math.log(2 * math.pi) + math.log(2 * half) - log_scale
    series = near + torch.log1p(torch.where(narrow, width**2 * (z**2 - 1) / 24, 0.0))
    inner = torch.where(narrow, series, wide)
    return torch.where(x <= 0, log_below, torch.where(x >= levels - 1, log_above, inner))


def _below(v: Tensor | int, mean: Tensor, log_scale: Tensor, levels: int, cdf: Cdf = torch.sigmoid) -> Tensor:
    """P(x ≤ v) of the discretized distribution; 1 at the last level."""
    edge = (2 * v + 1) / (levels - 1) - 1 - mean
    below = cdf(edge * torch.exp(-log_scale.clamp(min=-7)))
    return below if isinstance(v, int) else torch.where(v >= levels - 1, 1.0, below)


def _integer_below(v: Tensor, mean: Tensor, log_scale: Tensor, levels: int, table: str) -> Tensor:
    """Mass below the integers v of discretized distributions, broadcast, as whole float64; 0 at v = 0 and all of 2^out at v = levels."""
    edge = rounded((2 * v.double() - 1) / (levels - 1) - 1, EDGE_BITS)
    edge = torch.where(v <= 0, -BEYOND, torch.where(v >= levels, BEYOND, edge))
    inverse = integers().values["power"].index_select(0, integers().at("power", -log_scale.clamp(min=-7)).flatten()).view(log_scale.shape)
    return integers().lookup(table, (edge - rounded(mean.clamp(-4, 4), EDGE_BITS)) * inverse)


class PixelDistribution(ABC):
    """A distribution over pixels `(n, C, *S)`; channels of a pixel may depend on earlier ones, pixels do not."""

    def __init__(self, space: ImageSpace, parameters: Tensor) -> None:
        self.space = space
        # Numbers that end in a likelihood are computed in float32 or better, whatever the body ran in.
        self.parameters = parameters if parameters.dtype in (torch.float32, torch.float64) else parameters.float()

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x_c | x_<c) of integers `(n, C, *S)`: the same shape, nats; their sum is log p(x)."""

    @abstractmethod
    def table(self, channel: int, earlier: Tensor) -> Tensor:
        """log p(· | earlier) of one channel given the earlier ones `(n, channel, *S)`: `(n, *S, levels)` nats."""

    @abstractmethod
    def below(self, channel: int, earlier: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The integer form: how much of the mass of one channel, given the earlier ones, lies below `v` `(n or 1, *S or 1, m)`, and all of
        it: int64 `(n, *S, m)` and `(n, *S)`, the first from 0 at v = 0 to the second at v = levels, at most 2^39. Asked under `Integers`
        only, of parameters that it made; alike on every machine."""

    @final
    def cumulative(self, channel: int, earlier: Tensor, v: Tensor) -> Tensor:
        """The same of `integers.TOTAL`, with a share of at least one for every level: int64 `(n, *S, m)`."""
        below, total = self.below(channel, earlier, v)
        levels = self.space.levels
        return torch.div(below * (TOTAL - levels), total[..., None], rounding_mode="floor") + v

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """E[x], `(n, C, *S)`, a float in 0 … levels−1, differentiable."""

    @property
    def sd(self) -> Tensor:
        """E[(x − E x)²]^½, `(n, C, *S)`, in levels; each channel given the rounded means of the earlier ones, where they are coupled."""
        channels, levels = self.space.channels, self.space.levels
        v = torch.arange(levels, dtype=self.parameters.dtype, device=self.parameters.device)
        earlier = self.mean.round() if channels > 1 else self.parameters[:, :0]
        out = []
        for c in range(channels):
            p = self.table(c, earlier[:, :c]).exp()
            out.append((p * (v - (p @ v)[..., None]) ** 2).sum(-1).sqrt())
        return torch.stack(out, 1)

    def masses(self, channel: int, earlier: Tensor) -> Tensor:
        """p(· | earlier) of one channel, `(n, *S, levels)`: what sums over all levels need, where a relative error in far tails does no harm."""
        return self.table(channel, earlier).exp()

    @final
    def surprise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of −log p(X_c | x_<c) where X_c is drawn: `(n, C, *S)` nats (the entropy) and nats².

        >>> coin = Likelihood("bernoulli", ImageSpace(1, 1, 1, 2))(torch.zeros(1, 1, 1, 1))
        >>> [round(float(t), 4) for t in coin.surprise(torch.zeros(1, 1, 1, 1))]
        [0.6931, 0.0]
        """
        mean, variance = [], []
        for c in range(self.space.channels):
            p = self.masses(c, x[:, :c])
            nats = torch.special.entr(p)  # −p log p, 0 at 0
            h = nats.sum(-1)
            mean.append(h)
            variance.append(((nats.square() / p.clamp(min=torch.finfo(p.dtype).tiny)).sum(-1) - h.square()).clamp(min=0))
        return torch.stack(mean, 1), torch.stack(variance, 1)

    def quantile(self, channel: int, earlier: Tensor, u: Tensor) -> Tensor:
        """The value of one channel whose cumulative probability first exceeds `u` `(n, *S)`: int64 `(n, *S)`."""
        return inverse_cdf(self.table(channel, earlier).double(), u)

    @final
    def sample(self, u: Tensor) -> Tensor:
        """Draw integers `(n, C, *S)` by the inverse CDF of uniforms `u` `(n, C, *S)`: int64."""
        x = torch.zeros(u.shape, dtype=torch.long, device=u.device)
        for c in range(self.space.channels):
            x[:, c] = self.quantile(c, x[:, :c], u[:, c])
        return x


def _search(mean: Tensor, log_scale: Tensor, weights: Tensor | None, u: Tensor, levels: int, cdf: Cdf = torch.sigmoid) -> Tensor:
    """The first integer v with P(x ≤ v) ≥ u, by parting {0 … levels−1} in 16 again and again: no table of all levels is made.

    Args:
        mean, log_scale: of discretized distributions `(*u.shape)`; with `weights` of their mixture, all three `(n, K, *S)` for `(n, *S)`.
    """
    inverse = torch.exp(-log_scale.clamp(min=-7))
    slope, offset = inverse * (2 / (levels - 1)), ((1 / (levels - 1) - 1) - mean) * inverse  # of what the logistic function is taken
    u = u if weights is None else u * weights.sum(1)  # which is 1 but for rounding
    low, size = 0 * u, 16
    while size < levels:
        size *= 16
    while size > 1:
        size //= 16
        tops = low[..., None] + torch.arange(size - 1, 15 * size, size, dtype=u.dtype, device=u.device)  # the last of each part but one
        if weights is None:
            below = cdf(torch.addcmul(offset[..., None], slope[..., None], tops))
        else:
            below = (weights[..., None] * cdf(torch.addcmul(offset[..., None], slope[..., None], tops[:, None]))).sum(1)
        low = low + size * (below < u[..., None]).sum(-1)
    return low.clamp(max=levels - 1).long()  # all mass beyond the last level lies on it


def _expectation(below: Callable[[int], Tensor], levels: int) -> Tensor:
    """E[x] = Σ_v P(x > v), level by level: memory does not grow with the levels. `below(v)` is P(x ≤ v)."""
    total = 1 - below(0)
    for v in range(1, levels - 1):
        total = total + (1 - below(v))
    return total


class _Independent(PixelDistribution):
    """Heads whose channels are independent given the parameters: one table of all levels."""

    @abstractmethod
    def tables(self) -> Tensor:
        """`(n, C, *S, levels)` nats."""

    def table(self, channel: int, earlier: Tensor) -> Tensor:
        return self.tables()[:, channel]

    def log_prob(self, x: Tensor) -> Tensor:
        return self.tables().gather(-1, x.long()[..., None])[..., 0]

    @property
    def mean(self) -> Tensor:
        tables = self.tables()
        return tables.exp() @ torch.arange(self.space.levels, dtype=tables.dtype, device=tables.device)


class BernoulliPixels(_Independent):
    def tables(self) -> Tensor:
        return torch.stack([F.logsigmoid(-self.parameters), F.logsigmoid(self.parameters)], -1)

    def log_prob(self, x: Tensor) -> Tensor:
        return F.logsigmoid(self.parameters * (2 * x.to(self.parameters.dtype) - 1))

    def quantile(self, channel: int, earlier: Tensor, u: Tensor) -> Tensor:
        return (u > torch.sigmoid(-self.parameters[:, channel].double())).long()

    def below(self, channel: int, earlier: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        zero = integers().lookup("logistic", -self.parameters[:, channel])
        total = torch.full_like(zero, 2 ** GRIDS["logistic"].out)
        return torch.where(v == 1, zero[..., None], torch.where(v == 0, 0, total[..., None])), total

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(self.parameters)


class CategoricalPixels(_Independent):
    def _logits(self) -> Tensor:
        n, _, *size = self.parameters.shape
        return self.parameters.reshape(n, self.space.channels, self.space.levels, *size)

    def tables(self) -> Tensor:
        return self._logits().movedim(2, -1).log_softmax(-1)

    def table(self, channel: int, earlier: Tensor) -> Tensor:
        return self._logits()[:, channel].movedim(1, -1).log_softmax(-1)

    def below(self, channel: int, earlier: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        logits = self._logits()[:, channel].movedim(1, -1)
        mass = F.pad(integers().lookup("exp", logits - logits.amax(-1, keepdim=True)).cumsum(-1), (1, 0))
        return mass.gather(-1, v.expand(*mass.shape[:-1], v.shape[-1])), mass[..., -1]


class _LocationScalePixels(_Independent):
    """A location and a log-scale per sub-pixel, on [−1, 1]: mean and diagonal covariance of x."""

    cdf: ClassVar[Cdf]
    table_name: ClassVar[str]  # of the same among the integer tables
    log_mass: ClassVar[Callable[[Tensor, Tensor, Tensor, int], Tensor]]

    def _moments(self) -> tuple[Tensor, Tensor]:
        mean, log_scale = self.parameters.chunk(2, 1)
        return mean, log_scale

    def tables(self) -> Tensor:
        mean, log_scale = self._moments()
        x = torch.arange(self.space.levels, dtype=mean.dtype, device=mean.device)
        return type(self).log_mass(x, mean[..., None], log_scale[..., None], self.space.levels)

    def table(self, channel: int, earlier: Tensor) -> Tensor:
        mean, log_scale = (m[:, channel, ..., None] for m in self._moments())
        x = torch.arange(self.space.levels, dtype=mean.dtype, device=mean.device)
        return type(self).log_mass(x, mean, log_scale, self.space.levels)

    def log_prob(self, x: Tensor) -> Tensor:
        mean, log_scale = self._moments()
        return type(self).log_mass(x.to(mean.dtype), mean, log_scale, self.space.levels)

    def below(self, channel: int, earlier: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = (m[:, channel, ..., None] for m in self._moments())
        below = _integer_below(v, mean, log_scale, self.space.levels, type(self).table_name)
        return below, torch.full(below.shape[:-1], 2 ** GRIDS[type(self).table_name].out, device=below.device)

    def quantile(self, channel: int, earlier: Tensor, u: Tensor) -> Tensor:
        mean, log_scale = (m[:, channel] for m in self._moments())
        return _search(mean, log_scale, None, u.to(mean.dtype), self.space.levels, type(self).cdf)

    @property
    def mean(self) -> Tensor:
        mean, log_scale = self._moments()
        return _expectation(lambda v: _below(v, mean, log_scale, self.space.levels, type(self).cdf), self.space.levels)


class LogisticPixels(_LocationScalePixels):
    cdf = staticmethod(torch.sigmoid)
    table_name = "logistic"
    log_mass = staticmethod(log_bin_mass)


class GaussianPixels(_LocationScalePixels):
    cdf = staticmethod(torch.special.ndtr)
    table_name = "normal"
    log_mass = staticmethod(log_gaussian_bin_mass)


class LogisticMixturePixels(PixelDistribution):
    def __init__(self, space: ImageSpace, parameters: Tensor, components: int) -> None:
        super().__init__(space, parameters)
        n, _, *size = parameters.shape
        c, k = space.channels, components
        self.logits, means, log_scales, coupling = self.parameters.split([k, c * k, c * k, c * (c - 1) // 2 * k], 1)
        self.means = means.reshape(n, c, k, *size)
        self.log_scales = log_scales.reshape(n, c, k, *size)
        self._asked: tuple[int, Tensor, Tensor] | None = None  # weights for a channel, given earlier ones: a reader asks twice
        self._coupling = coupling.reshape(n, c * (c - 1) // 2, k, *size)

    @cached_property
    def log_pi(self) -> Tensor:
        return self.logits.log_softmax(1)  # (n, K, *S)

    @cached_property
    def coupling(self) -> Tensor:
        arithmetic = active()
        return torch.tanh(self._coupling) if arithmetic is None else arithmetic.function("tanh", self._coupling)

    def _mean(self, channel: int, earlier: Tensor) -> Tensor:
        """μ_kc given the true (integer) values of earlier channels, eq. 3: `(n, K, *S)`."""
        mean = self.means[:, channel]
        first = channel * (channel - 1) // 2
        for other in range(channel):
            value = normalised(earlier[:, other], self.space.levels, mean.dtype)
            mean = mean + self.coupling[:, first + other] * value[:, None]
        return mean

    def _posterior(self, channel: int, earlier: Tensor) -> Tensor:
        """log of π_k ∏_{c' < channel} p_k(x_c'), not normalised: `(n, K, *S)`. The component is shared by all channels."""
        joint = self.log_pi
        for c in range(channel):
            x = earlier[:, c, None].to(joint.dtype)
            joint = joint + log_bin_mass(x, self._mean(c, earlier), self.log_scales[:, c], self.space.levels)
        return joint

    def log_prob(self, x: Tensor) -> Tensor:
        joint, before, out = self.log_pi, None, []
        for c in range(self.space.channels):
            mass = log_bin_mass(x[:, c, None].to(joint.dtype), self._mean(c, x), self.log_scales[:, c], self.space.levels)
            joint = joint + mass
            total = joint.logsumexp(1)
            out.append(total if before is None else total - before)
            before = total
        return torch.stack(out, 1)

    def table(self, channel: int, earlier: Tensor) -> Tensor:
        weights = self._posterior(channel, earlier).log_softmax(1)
        mean, log_scale = self._mean(channel, earlier), self.log_scales[:, channel]
        x = torch.arange(self.space.levels, dtype=mean.dtype, device=mean.device)
        mass = log_bin_mass(x, mean[..., None], log_scale[..., None], self.space.levels)
        return torch.logsumexp(weights[..., None] + mass, 1)

    def below(self, channel: int, earlier: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if self._asked is None or self._asked[0] != channel or self._asked[1] is not earlier:
            self._asked = channel, earlier, self._weights(channel, earlier)
        weights = self._asked[2]
        below = self._mass_below(channel, earlier, v[:, None]).double()
        # A sum of whole numbers below 2^53: exact in any order.
        return torch.einsum("nk...,nk...m->n...m", weights.double(), below).long(), weights.sum(1) << GRIDS["logistic"].out

    def _weights(self, channel: int, earlier: Tensor) -> Tensor:
        """Of the components, given the earlier channels: whole numbers below 2^14, `(n, K, *S)`."""
        weights = integers().lookup("exp", self.logits - self.logits.amax(1, keepdim=True)) >> 10  # 14 bits, so that sums stay below 2^39
        for c in range(channel):  # the component is shared by all channels: those before tell which it is
            part = weights * (self._mass_below(c, earlier, earlier[:, c, None, ..., None] + torch.arange(2)).diff(dim=-1)[..., 0] + 1)
            weights = torch.div(part << 14, part.amax(1, keepdim=True), rounding_mode="floor")
        return weights >> max(0, (weights.shape[1] - 1).bit_length() - 5)  # of more than 32 components, for the same reason

    def _mass_below(self, channel: int, earlier: Tensor, v: Tensor) -> Tensor:
        """Of each component, `(n, K, *S, m)`."""
        mean, log_scale = self._mean(channel, earlier)[..., None], self.log_scales[:, channel, ..., None]
        return _integer_below(v, mean, log_scale, self.space.levels, "logistic")

    def masses(self, channel: int, earlier: Tensor) -> Tensor:
        """Differences of the CDF: one logistic function per edge, a sixth of the time of `table`."""
        weights, levels = self._posterior(channel, earlier).softmax(1), self.space.levels
        edges = torch.arange(levels - 1, dtype=weights.dtype, device=weights.device)
        inverse = torch.exp(-self.log_scales[:, channel].clamp(min=-7))
        slope, offset = inverse * (2 / (levels - 1)), ((1 / (levels - 1) - 1) - self._mean(channel, earlier)) * inverse
        below = 0 * edges
        for k in range(self.log_pi.shape[1]):  # component by component, so that the memory is that of one table
            below = below + weights[:, k, ..., None] * torch.addcmul(offset[:, k, ..., None], slope[:, k, ..., None], edges).sigmoid_()
        return F.pad(F.pad(below, (0, 1), value=1.0), (1, 0)).diff(dim=-1).clamp_(min=0)

    def quantile(self, channel: int, earlier: Tensor, u: Tensor) -> Tensor:
        pi = self._posterior(channel, earlier).softmax(1)
        return _search(self._mean(channel, earlier), self.log_scales[:, channel], pi, u.to(pi.dtype), self.space.levels)

    @property
    def mean(self) -> Tensor:
        """E[x], each channel given the means of the earlier ones (an approximation only where channels are coupled)."""
        out: list[Tensor] = []
        pi = self.log_pi.exp()
        for c in range(self.space.channels):
            earlier = torch.stack(out, 1) if out else self.means[:, :0, 0]
            mean, log_scale = self._mean(c, earlier), self.log_scales[:, c]
            out.append((pi * _expectation(lambda v, m=mean, s=log_scale: _below(v, m, s, self.space.levels), self.space.levels)).sum(1))
        return torch.stack(out, 1)

    @property
    def sd(self) -> Tensor:
        """Var x = E_k[Var(x | k)] + Var_k[E(x | k)]. Within a component channels are a chain x_c = Σ_o a_co x_o + e_c, taken to be linear in
        levels: exact where channels are not coupled, near it where little mass lies on the first and the last level."""
        levels, pi = self.space.levels, self.log_pi.exp()
        means: list[Tensor] = []  # of each channel in each component, `(n, K, *S)`
        spreads: list[Tensor] = []  # variances of e_c
        chain: list[list[Tensor]] = []  # row c: how much of e_0 … e_c is in x_c
        out = []
        for c in range(self.space.channels):
            mu, log_scale, first = self.means[:, c], self.log_scales[:, c], c * (c - 1) // 2
            row = [torch.zeros_like(mu) for _ in range(c)] + [torch.ones_like(mu)]
            for other in range(c):
                a = self.coupling[:, first + other]
                mu = mu + a * (means[other] * (2 / (levels - 1)) - 1)
                for j, share in enumerate(chain[other]):
                    row[j] = row[j] + a * share
            mean = _expectation(lambda v, m=mu, s=log_scale: _below(v, m, s, levels), levels)
            spread = torch.zeros_like(mean)
            for v in range(levels):  # memory does not grow with the levels
                spread = spread + (v - mean) ** 2 * log_bin_mass(torch.full_like(mu, v), mu, log_scale, levels).exp()
            means.append(mean)
            spreads.append(spread)
            chain.append(row)
            within = sum((b**2 * s for b, s in zip(row, spreads, strict=True)), torch.zeros_like(mean))
            between = (mean - (pi * mean).sum(1, keepdim=True)) ** 2
            out.append((pi * (within + between)).sum(1).sqrt())
        return torch.stack(out, 1)


class Likelihood:
    """A head by name: how many parameters it needs per pixel, and the distribution that they make.

    Args:
        name: "auto" takes "bernoulli" for 2 levels and `default` otherwise.
        components: of the mixture.
        scale: of "logistic" and "gaussian": "pixel" is a number of its own for each sub-pixel; else it is the same for all images and
            pixels of a channel, and is passed with each call.

    Raises:
        InputError: an unknown name, "bernoulli" where there are more than 2 levels, or a common scale for a head that has none.

    >>> head = Likelihood("auto", ImageSpace(3, 4, 4), default="logistic-mixture", components=5)
    >>> head.name, head.size
    ('logistic-mixture', 50)
    """

    names = ("bernoulli", "categorical", "logistic", "gaussian", "logistic-mixture")

    def __init__(self, name: str, space: ImageSpace, *, default: str = "categorical", components: int = 10, scale: str = "pixel") -> None:
        if name == "auto":
            name = "bernoulli" if space.levels == 2 else default
        if name not in self.names:
            raise InputError(f"likelihood={name!r} is unknown; use auto, {', '.join(self.names)}.")
        if name == "bernoulli" and space.levels != 2:
            raise InputError(
                f"likelihood='bernoulli' needs 2 levels, found {space.levels}. Use --likelihood categorical, or data like mnist:threshold."
            )
        if components < 1:
            raise InputError(f"components={components}: at least 1 is needed.")
        if scale not in ("pixel", "shared", "optimal"):
            raise InputError(f"scale={scale!r} is unknown; use pixel, shared or optimal.")
        if scale != "pixel" and name not in ("logistic", "gaussian"):
            raise InputError(f"scale={scale!r} needs a likelihood that has one: --likelihood gaussian or logistic, found {name}.")
        c = space.channels
        self.name, self.space, self.components, self.scale = name, space, components, scale
        self.size = {
            "bernoulli": c,
            "categorical": c * space.levels,
            "logistic": 2 * c if scale == "pixel" else c,
            "gaussian": 2 * c if scale == "pixel" else c,
            "logistic-mixture": components * (1 + 2 * c + c * (c - 1) // 2),
        }[name]

    def __call__(self, parameters: Tensor, log_scale: Tensor | None = None) -> PixelDistribution:
        """`(n, size, *S)`, and a log-scale per channel `(C,)` where it is common → a distribution over `(n, C, *S)`."""
        if log_scale is not None:
            parameters = parameters if parameters.dtype in (torch.float32, torch.float64) else parameters.float()
            common = log_scale.to(parameters.dtype).reshape(1, -1, *[1] * (parameters.ndim - 2))
            parameters = torch.cat([parameters, common.expand_as(parameters)], 1)
        if self.name == "bernoulli":
            return BernoulliPixels(self.space, parameters)
        if self.name == "categorical":
            return CategoricalPixels(self.space, parameters)
        if self.name == "logistic":
            return LogisticPixels(self.space, parameters)
        if self.name == "gaussian":
            return GaussianPixels(self.space, parameters)
        return LogisticMixturePixels(self.space, parameters, self.components)


def normalised(x: Tensor, levels: int, dtype: torch.dtype) -> Tensor:
    """Integers 0 … levels−1 → [−1, 1], the scale that networks see."""
    arithmetic = active()
    if arithmetic is not None:
        return arithmetic.image(x, levels)
    return x.to(dtype) * (2 / (levels - 1)) - 1


def nats_to_bits_per_dim(nats: Tensor | float, dims: int) -> Tensor | float:
    """nats of a whole image → bits per sub-pixel.

    >>> nats_to_bits_per_dim(8 * math.log(2), 8)
    1.0
    """
    return nats / (dims * math.log(2))
