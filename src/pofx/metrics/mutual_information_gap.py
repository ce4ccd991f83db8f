"""The mutual information gap (Chen et al. 2018, "Isolating Sources of Disentanglement in VAEs", eq. 6): does one latent carry one factor?

    MIG = 1/K Σ_k  [ I(z_j(k); v_k) − max_{j ≠ j(k)} I(z_j; v_k) ] / H(v_k),      j(k) = argmax_j I(z_j; v_k)

1 where each factor v_k can be read off one latent and no other latent knows of it; 0 where two latents know equally much (a rotation of the latents
by 45°) or none knows anything. It says nothing of two factors in one latent: look at the matrix of all I(z_j; v_k) too.

I is computed from a table of latent × factor. The latent is cut into `bins` of equal width between the least and the largest code, as Locatello et al.
(2019) do with posterior means. Where q(z|x) = N(μ, σ²) is given, an image is not in one bin but in all, with the mass that its Gaussian has there
(the paper draws from q; this is the integral): a latent that copies the prior then knows nothing, however its means wobble. Cutting loses information,
so I is from below; n images make it too large by about (bins − 1)(values − 1)/2n nats where there is nothing to know (Miller 1955).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pofx.errors import InputError

BINS = 20


@dataclass(frozen=True)
class MutualInformationGap:
    """The gap with what it is made of, and the protocol.

    Attributes:
        gap: MIG, in [0, 1]: the mean of `gaps`.
        gaps: `(K,)`, of each factor, in parts of its entropy.
        latent: int64 `(K,)`, which latent knows most of each factor.
        information: `(d, K)` nats, I(z_j; v_k).
        entropy: `(K,)` nats, H(v_k).
        bins, n: how the latents were cut, and of how many images.
    """

    gap: float
    gaps: Tensor
    latent: Tensor
    information: Tensor
    entropy: Tensor
    bins: int
    n: int

    @property
    def share(self) -> Tensor:
        """I(z_j; v_k) / H(v_k), `(d, K)` in [0, 1]: what the picture of the matrix shows."""
        return self.information / self.entropy


def mutual_information_gap(codes: Tensor, factors: Tensor, log_variance: Tensor | None = None, *, bins: int = BINS) -> MutualInformationGap:
    """MIG of codes against known factors.

    Args:
        codes: `(n, d)`, posterior means, or codes that are points.
        factors: int64 `(n, K)` ≥ 0, the number of each factor's value.
        log_variance: `(n, d)`, of q(z|x); None where codes are points.
        bins: of equal width a latent; at least as many as a factor has values.

    Raises:
        InputError: shapes that do not fit, factors that are no whole numbers ≥ 0 or constant, fewer than 2 bins.

    >>> v = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    >>> mutual_information_gap(v.double(), v).gap  # each latent is one factor
    1.0
    >>> round(mutual_information_gap(torch.stack([v[:, 0] + v[:, 1], v[:, 0] - v[:, 1]], 1).double(), v).gap, 6)  # turned by 45°
    0.0
    """
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors) or not len(codes) or not codes.shape[1] or not factors.shape[1]:
        raise InputError(
            f"MIG needs codes (n, d) and factors (n, K) of the same images, found {tuple(codes.shape)} and {tuple(factors.shape)}."
        )
    if log_variance is not None and log_variance.shape != codes.shape:
        raise InputError(f"MIG needs a log-variance for each code: {tuple(codes.shape)}, found {tuple(log_variance.shape)}.")
    if factors.is_floating_point() or int(factors.min()) < 0:
        raise InputError("Factors are numbers of values, whole and at least 0. Number them, e.g. factors.unique(return_inverse=True)[1].")
    if bins < 2:
        raise InputError(f"bins={bins}: at least 2 are needed, e.g. bins=20.")
    factors = factors.cpu().long()
    counts = [torch.bincount(column).double() for column in factors.T]
    entropy = torch.stack([_entropy(c / c.sum()) for c in counts])
    if not bool((entropy > 0).all()):
        constant = [k for k, h in enumerate(entropy.tolist()) if not h > 0]
        raise InputError(f"Factor {constant[0]} has the same value in all images: there is nothing to know of it. Leave its column out.")
    information = torch.empty(codes.shape[1], len(counts), dtype=torch.double)
    for j in range(codes.shape[1]):
        inside = _masses(codes[:, j], None if log_variance is None else log_variance[:, j], bins)
        for k, count in enumerate(counts):
            joint = torch.zeros(len(count), bins, dtype=torch.double).index_add_(0, factors[:, k], inside) / len(codes)
            independent = joint.sum(1, keepdim=True) * joint.sum(0)
            information[j, k] = (torch.xlogy(joint, joint) - torch.xlogy(joint, independent)).sum().clamp(min=0)
    best = information.topk(min(2, len(information)), dim=0)
    second = best.values[1] if len(information) > 1 else torch.zeros_like(best.values[0])
    gaps = (best.values[0] - second) / entropy
    return MutualInformationGap(float(gaps.mean()), gaps, best.indices[0], information, entropy, bins, len(codes))


def _masses(mean: Tensor, log_variance: Tensor | None, bins: int) -> Tensor:
    """The mass that each image has in each bin of one latent: `(n,)` → `(n, bins)`, rows sum to one."""
    mean = mean.detach().double().cpu()
    if log_variance is None:
        width = (mean.max() - mean.min()).clamp(min=1e-300) / bins
        return torch.nn.functional.one_hot(((mean - mean.min()) / width).long().clamp(max=bins - 1), bins).double()
    scale = (0.5 * log_variance.detach().double().cpu()).exp()
    low, high = float((mean - 2 * scale).min()), float((mean + 2 * scale).max())
    edges = torch.linspace(low, high, bins + 1, dtype=torch.double)[1:-1]  # the first and the last bin are open
    below = torch.special.ndtr((edges - mean[:, None]) / scale[:, None].clamp(min=1e-300))
    zero, one = torch.zeros(len(mean), 1, dtype=torch.double), torch.ones(len(mean), 1, dtype=torch.double)
    return torch.cat([below, one], 1) - torch.cat([zero, below], 1)


def _entropy(p: Tensor) -> Tensor:
    return -torch.xlogy(p, p).sum()
