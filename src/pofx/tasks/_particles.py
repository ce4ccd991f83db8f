"""Completion by weighted draws: sequential Monte Carlo through an autoregressive model, importance weighting through a decoder.

Autoregressive. With the hole u and the kept sub-pixels k, each in the model's order, the target is p(u | k) ∝ p(u, k). Particles draw u_i ~ p(u_i | x_<i)
and pay at each kept sub-pixel that they meet afterwards (Gordon et al. 1993; Doucet and Johansen 2009, §3):

    w ← w · p(k_j | x_<j),      Ẑ = ∏_stages mean w,      E[Ẑ] = p(k after the first unknown | k before it)

Where the effective sample size (Σw)² / Σw² falls below half of the particles, they are drawn again, systematically, and continue: the steps start anew with
the rows so far filled in one pass. Sweeps of Metropolis within Gibbs (Tierney 1994) may follow: each u_i in order is proposed from p(u_i | x_<i) and accepted
by the ratio of all that comes after, ∏_{j>i} p(x′_j | x′_<j) / p(x_j | x_<j); they leave p(u | k) as it is, and bring draws nearer to it.

Latent variables. Chains of z ~ q(z|x), u ~ p(u|z) with the kept sub-pixels put back each time (Rezende et al. 2014, appendix F) find where p(z | k)
is; their q(z|x), and a share of the prior, make a mixture q̄, which importance weights correct, whatever it is:

    w = p(k|z) p(z) / q̄(z),     E[mean w] = p(k)

Draws chosen by w then take a few steps of Metropolis within Gibbs (Mattei and Frellsen 2018, §3.4), which leave p(z, u | k) as it is.
Self-normalised weights are right only as particles grow without end: what comes out is approximate, and the effective sample size says how rough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pofx.model import Autoregressive, ImageModel, LatentVariable, Progress, Steps, inverse_cdf, one_thread
from pofx.noise import Noise

CHAINS, ROUNDS, MOVES = 32, 40, 10  # chains that look for z, their rounds, and steps of Metropolis within Gibbs after the choice
PRIOR = 0.1  # share of the prior in the mixture
AT_ONCE = 64  # codes decoded together


@dataclass(frozen=True)
class Drawn:
    """Weighted draws, and what they are worth.

    Attributes:
        x: uint8 `(n, C, H, W)`.
        ess: effective sample size, 1 … particles: the least of all stages.
        stages: the same at each stage, before particles were drawn again.
        log_evidence: log Ẑ, nats.
        distinct: roots (of a population) or codes that the n images come from.
        acceptance: share of moves that were accepted, where there were any.
    """

    x: Tensor
    ess: float
    stages: tuple[float, ...]
    log_evidence: float
    distinct: int
    acceptance: float | None = None


def ess(log_w: Tensor) -> float:
    """(Σw)² / Σw² of log-weights `(m,)`.

    >>> ess(torch.zeros(8)), ess(torch.tensor([0.0, -torch.inf]))
    (8.0, 1.0)
    """
    w = log_w.softmax(0)
    return float(1 / w.square().sum())


def systematic(log_w: Tensor, n: int, u: float) -> Tensor:
    """n indices, each number of copies within one of n·w (Doucet and Johansen 2009, §3.4): int64 `(n,)`, sorted; one uniform u in (0, 1).

    >>> systematic(torch.tensor([0.5, 0.25, 0.25]).log(), 4, 0.5).tolist()
    [0, 0, 1, 2]
    """
    edges = log_w.double().softmax(0).cumsum(0)
    points = (torch.arange(n, dtype=torch.double, device=log_w.device) + u) / n * edges[-1]
    return torch.searchsorted(edges, points, right=True).clamp_(max=len(log_w) - 1)


def view_known(model: ImageModel, given: Tensor | None) -> Tensor:
    """What the view's value `(1, …)` makes known: bool `(C, H, W)` on the CPU."""
    known = None if model.given is None or given is None else model.given.known(model.space, given)
    if known is None:
        return torch.zeros(model.space.shape, dtype=torch.bool)
    return (known[0] if known.ndim == 4 else known).cpu()


# Autoregressive -------------------------------------------------------------------------------------------------------------------------------


def suffix(model: Autoregressive, kept: Tensor, hole: Tensor) -> bool:
    """Whether no sub-pixel of `kept` follows one of `hole` (both bool `(C, H, W)`) in one of the model's orders."""
    kept, hole = kept.flatten(), hole.flatten()
    for order in model.orders():
        first = next((k for k, group in enumerate(order) if bool(hole[group].any())), len(order))
        if not any(bool(kept[group].any()) for group in order[first + 1 :]):
            return True
    return False


class _Population:
    """Particles on their way through the order of a model."""

    def __init__(self, model: Autoregressive, x: Tensor, settled: Tensor, paid: Tensor, given: Tensor | None) -> None:
        self.model, self.given, self.n = model, given, len(x)
        order = model.order()
        self.flat, self.sizes = torch.cat(order), [len(group) for group in order]
        self.settled, self.paid = (mask.flatten()[self.flat].split(self.sizes) for mask in (settled, paid))
        self.values = list(x.flatten(1).long()[:, self.flat].split(self.sizes, 1))
        # Rows that are complete before group k: those of which no group is at k or later
        when = torch.empty(model.space.dims, dtype=torch.long)
        when[self.flat] = torch.arange(len(order)).repeat_interleave(torch.tensor(self.sizes))
        self.complete = when.reshape(model.space.shape).amax((0, 2)).cummax(0).values
        self.hole = [k for k, s in enumerate(self.settled) if not bool(s.all())]
        self.steps: Steps = self.start(self.hole[0])

    def start(self, at: int) -> Steps:
        """Stand before group `at`, with all values so far."""
        self.steps = self.model.begin(self.n, self.given)
        rows = int((self.complete < at).sum())
        if rows:
            self.steps.fill(self.images(), rows)
        for k in range(at):
            self.steps.fix(self.values[k])
        return self.steps

    def images(self) -> Tensor:
        """uint8 `(n, C, H, W)` of all values, whatever stands in those not drawn yet."""
        x = torch.empty(self.n, self.model.space.dims, dtype=torch.uint8, device=self.values[0].device)
        x[:, self.flat] = torch.cat(self.values, 1).to(torch.uint8)
        return x.reshape(self.n, *self.model.space.shape)

    def step(self, k: int, u: Tensor) -> Tensor | None:
        """Draw what is unknown of group k; the log-probability of what is paid for there, `(n,)`, or None."""
        settled, paid, cost = self.settled[k].to(u.device), self.paid[k].to(u.device), None
        if bool(paid.any()):
            table = self.steps.distribution().double()
            cost = table.gather(2, self.values[k][..., None])[..., 0][:, paid].sum(1)
            drawn = inverse_cdf(table, u)
        elif not bool(settled.all()):
            drawn = self.steps.draw(u)
        else:
            drawn = self.values[k]
        self.values[k] = torch.where(settled, self.values[k], drawn)
        self.steps.fix(self.values[k])
        return cost

    def again(self, at: int, chosen: Tensor) -> None:
        """Go on from group `at` with the particles `chosen`."""
        self.values = [v[chosen] for v in self.values]
        self.start(at)


def smc(
    model: Autoregressive,
    x: Tensor,
    kept: Tensor,
    given: Tensor | None,
    n: int,
    particles: int,
    seed: int,
    progress: Progress | None = None,
) -> Drawn:
    """n draws that approach p(hole | kept) as particles grow. In `torch.inference_mode`.

    Args:
        x: uint8 `(1, C, H, W)`, on the model's device; what stands in the hole is not read.
        kept: bool `(C, H, W)` on the CPU; the rest is the hole.
        given: the view's value, `(1, …)`, or None; what it makes known is kept.
    """
    space, size = model.space, max(particles, n)
    view = view_known(model, given)
    settled, paid = kept | view, kept & ~view
    value = None if given is None else given.expand(size, *given.shape[1:])
    start = torch.where(settled.to(x.device), x, torch.zeros_like(x)).expand(size, *space.shape)
    with one_thread():
        population = _Population(model, start, settled, paid, value)
        hole, last = set(population.hole), population.hole[-1]
        first = population.hole[0]
        uniforms = (
            Noise(seed, torch.arange(size)).uniform("complete", space.dims)[:, population.flat].to(x.device).split(population.sizes, 1)
        )
        choices = Noise(seed, torch.zeros(1, dtype=torch.long)).uniform("complete/choice", len(population.sizes) + 1)[0].tolist()
        log_w, log_z, stages, met = torch.zeros(size, dtype=torch.double, device=x.device), 0.0, [], False
        roots = torch.arange(size, device=x.device)
        for k in range(first, last + 1):
            if met and k in hole:
                stages.append(ess(log_w))
                met = False
                if stages[-1] < size / 2:
                    chosen = systematic(log_w, size, choices[k])
                    log_z += float(torch.logsumexp(log_w, 0)) - math.log(size)
                    log_w, roots = torch.zeros_like(log_w), roots[chosen]
                    population.again(k, chosen)
            cost = population.step(k, uniforms[k])
            if cost is not None:
                log_w, met = log_w + cost, True
            if progress is not None:
                progress(k - first, last + 1 - first)
    images = population.images()
    later = torch.zeros(space.dims, dtype=torch.bool)
    for group, pays in zip(population.flat.split(population.sizes)[last + 1 :], population.paid[last + 1 :], strict=True):
        later[group[pays]] = True
    if bool(later.any()):  # all that is met after the hole, in one pass
        log_p = model.conditional_log_prob(images, value).double().flatten(1)
        log_w, met = log_w + log_p[:, later.to(x.device)].sum(1), True
    stages.append(ess(log_w))
    log_z += float(torch.logsumexp(log_w, 0)) - math.log(size)
    if progress is not None:
        progress(1, 1)
    chosen = systematic(log_w, n, choices[-1])
    return Drawn(images[chosen], min(stages), tuple(stages), log_z, len(roots[chosen].unique()))


def gibbs(
    model: Autoregressive, x: Tensor, kept: Tensor, given: Tensor | None, sweeps: int, seed: int, progress: Progress | None = None
) -> tuple[Tensor, float]:
    """Images `(n, C, H, W)` after sweeps over the hole, and the share of changes that were accepted. In `torch.inference_mode`."""
    view, n = view_known(model, given), len(x)
    value = None if given is None else given.expand(n, *given.shape[1:])
    population = _Population(model, x, kept | view, kept & ~view, value)
    flat, sizes, hole = population.flat, population.sizes, population.hole
    counted = (~view).flatten()[flat].to(x.device)
    ends = torch.tensor(sizes).cumsum(0).tolist()
    noise, changed, taken, done = Noise(seed, torch.arange(n)), 0, 0, 0

    def terms(images: Tensor, given: Tensor | None) -> Tensor:
        return model.conditional_log_prob(images, given).double().flatten(1)[:, flat] * counted

    with one_thread():
        now = terms(population.images(), value)
        for t in range(sweeps):
            uniforms = noise.uniform(f"complete/sweep{t}", model.space.dims)[:, flat].to(x.device).split(sizes, 1)
            accepts = noise.uniform(f"complete/sweep-accept{t}", len(sizes)).log().to(x.device)
            population.start(hole[0])
            for k in range(hole[0], hole[-1] + 1):
                if k in hole:
                    old, settled = population.values[k], population.settled[k].to(x.device)
                    new = torch.where(settled, old, population.steps.draw(uniforms[k]))
                    rows = (new != old).any(1).nonzero().flatten()
                    if len(rows):  # one pass over those that would change
                        population.values[k] = new
                        proposed = terms(population.images()[rows], None if value is None else value[rows])
                        ratio = (proposed[:, ends[k] :] - now[rows, ends[k] :]).sum(1)
                        yes = accepts[rows, k] < ratio
                        population.values[k] = old.clone()
                        population.values[k][rows[yes]] = new[rows[yes]]
                        now[rows[yes]] = proposed[yes]
                        changed, taken = changed + len(rows), taken + int(yes.sum())
                population.steps.fix(population.values[k])
                done += 1
                if progress is not None:
                    progress(done, sweeps * (hole[-1] + 1 - hole[0]))
    return population.images(), taken / max(1, changed)


def met_later(model: Autoregressive, kept: Tensor, hole: Tensor) -> Tensor:
    """Sub-pixels of `kept` that are met only after one of `hole`, bool `(C, H, W)`: what Ẑ is the probability of."""
    order, met = model.order(), torch.zeros(model.space.dims, dtype=torch.bool)
    first = next(k for k, group in enumerate(order) if bool(hole.flatten()[group].any()))
    for group in order[first:]:
        met[group] = True
    return met.reshape(kept.shape) & kept


# Latent variables -----------------------------------------------------------------------------------------------------------------------------


def importance(
    model: LatentVariable,
    x: Tensor,
    kept: Tensor,
    given: Tensor | None,
    n: int,
    particles: int,
    seed: int,
    progress: Progress | None = None,
) -> Drawn:
    """n draws that approach p(hole | kept) as particles grow. In `torch.inference_mode`; arguments as of `smc`."""
    d, size = model.latent_dims, max(particles, n)
    view = view_known(model, given)
    settled, paid, unknown = ((kept | view).to(x.device), (kept & ~view).to(x.device), (~view).to(x.device))
    total = ROUNDS + -(-size // AT_ONCE) + MOVES

    def value(m: int) -> Tensor | None:
        return None if given is None else given.expand(m, *given.shape[1:])

    def pixels(z: Tensor, u: Tensor) -> Tensor:
        drawn = model.decode(z.to(model.dtype), value(len(z))).sample(u.to(x.device)).to(torch.uint8)
        return torch.where(settled, x, drawn)

    def evidence(z: Tensor) -> Tensor:
        """log p(k, z), `(m,)` nats."""
        parts = []
        for part in z.split(AT_ONCE):
            short = AT_ONCE - len(part)  # one batch shape
            full = torch.cat([part, part[-1:].expand(short, d)]) if short else part
            log_p = model.decode(full.to(model.dtype), value(AT_ONCE)).log_prob(x.expand(AT_ONCE, *x.shape[1:]))
            parts.append((log_p.double() * paid).flatten(1).sum(1)[: len(part)])
        return torch.cat(parts) + normal(z)

    def normal(z: Tensor) -> Tensor:
        return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)

    # Chains: where the kept sub-pixels say that z is
    noise = Noise(seed, torch.arange(CHAINS))
    z = noise.normal("complete/start", d).to(x.device)
    for t in range(ROUNDS):
        now = pixels(z, noise.uniform(f"complete/x{t}", *model.space.shape))
        q = model.posterior(now, value(CHAINS))
        mean, log_variance = q.mean.double(), q.log_variance.double()
        z = mean + (0.5 * log_variance).exp() * noise.normal(f"complete/z{t}", d).to(x.device)
        if progress is not None:
            progress(t + 1, total)
    # The mixture: each particle belongs to one chain, or to the prior
    own = Noise(seed, torch.arange(size))
    epsilon = own.normal("complete/particle", d).to(x.device)
    chain = torch.arange(size, device=x.device) % CHAINS
    z = mean[chain] + (0.5 * log_variance[chain]).exp() * epsilon
    free = (own.uniform("complete/prior", 1)[:, 0] < PRIOR).to(x.device)
    z = torch.where(free[:, None], epsilon, z)
    used = chain.bincount(minlength=CHAINS).double() / size  # equal, but for the rest of a division
    parts = [
        math.log1p(-PRIOR)
        + used[j].log()
        - 0.5 * ((z - mean[j]).square() * (-log_variance[j]).exp() + log_variance[j] + math.log(2 * math.pi)).sum(1)
        for j in range(CHAINS)
    ]
    log_q = torch.logsumexp(torch.stack([*parts, math.log(PRIOR) + normal(z)]), 0)
    log_w = evidence(z) - log_q
    worth, log_z = ess(log_w), float(torch.logsumexp(log_w, 0)) - math.log(size)
    choice = float(Noise(seed, torch.zeros(1, dtype=torch.long)).uniform("complete/choice", 1))
    chosen = systematic(log_w, n, choice)
    # Moves: z′ ~ q(z|x), accepted by the ratio of p(x|z) p(z) / q(z|x), all at the same x; then u ~ p(u|z)
    z, noise, accepted = z[chosen], Noise(seed, torch.arange(n)), 0.0
    now = pixels(z, noise.uniform("complete/x", *model.space.shape))

    def joint(z: Tensor, now: Tensor) -> Tensor:
        log_p = model.decode(z.to(model.dtype), value(len(z))).log_prob(now)
        return (log_p.double() * unknown).flatten(1).sum(1) + normal(z)

    for t in range(MOVES):
        q = model.posterior(now, value(n))
        mean, log_variance = q.mean.double(), q.log_variance.double()
        new = mean + (0.5 * log_variance).exp() * noise.normal(f"complete/move{t}", d).to(x.device)

        def proposal(z: Tensor, mean: Tensor = mean, log_variance: Tensor = log_variance) -> Tensor:
            return -0.5 * ((z - mean).square() * (-log_variance).exp() + log_variance).sum(1)

        log_ratio = joint(new, now) - proposal(new) - joint(z, now) + proposal(z)
        takes = noise.uniform(f"complete/accept{t}", 1)[:, 0].to(x.device).log() < log_ratio
        z, accepted = torch.where(takes[:, None], new, z), accepted + float(takes.double().mean())
        now = pixels(z, noise.uniform(f"complete/move-x{t}", *model.space.shape))
        if progress is not None:
            progress(total - MOVES + t + 1, total)
    return Drawn(now, worth, (worth,), log_z, len(chosen.unique()), accepted / MOVES)
