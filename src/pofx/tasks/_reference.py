"""What training images look like in a space of few numbers, so that any model, of any family, has something to say of the shape of an image.

    z = V'(v − m)          the K leading principal components of vectors v of training images: pixels, or features of the model
    residual        ‖v − m − V z‖²       what the components do not hold
    distance        squared, to the `NEAREST`-th of the training images, in z      (Ramaswamy et al. 2000)
    mahalanobis     Σ_k z_k² / λ_k       within them                               (Hotelling 1931)

All are squares, as −log of a normal density is: that is their natural unit. Plain, and hard to beat where images are aligned (modules, digits).
Components hold `SHARE` of the variance. Only training images are looked at here: others, of whatever part, are all new to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pofx.metrics.nearest import nearest

SHARE, MOST = 0.95, 100  # of the variance; components
NEAREST = 2
IMAGES = 5000  # of train that are kept as neighbours
FLOOR = 1e-12


@dataclass(frozen=True)
class Reference:
    """Attributes: mean `(d,)`, axes `(d, K)`, variance `(K,)`, codes `(n, K)` of training images, rest: mean residual. All float64."""

    mean: Tensor
    axes: Tensor
    variance: Tensor
    codes: Tensor
    rest: float

    @classmethod
    def fit(cls, vectors: Tensor) -> Reference:
        """Of training vectors `(n, d)`, n ≥ 2."""
        v = vectors.double()
        mean = v.mean(0)
        centered = v - mean
        n, d = v.shape
        # The smaller of the two Gram matrices: features can be many, images can be few
        if d <= n:
            values, axes = torch.linalg.eigh(centered.T @ centered / n)
        else:
            values, left = torch.linalg.eigh(centered @ centered.T / n)
            axes = centered.T @ left / (values.clamp(min=FLOOR) * n).sqrt()
        values, axes = values.flip(0).clamp(min=0), axes.flip(1)
        total = float(values.sum())
        kept = int((values.cumsum(0) < SHARE * total).sum()) + 1
        kept = max(1, min(kept, MOST, n - 1, len(values), int((values > 1e-9 * max(total, FLOOR)).sum())))
        axes, variance = axes[:, :kept], values[:kept].clamp(min=FLOOR)
        return cls(mean, axes, variance, centered @ axes, max(total - float(variance.sum()), FLOOR * max(total, 1.0)))

    def measure(self, vectors: Tensor) -> Tensor:
        """Residual, squared distance and Mahalanobis distance, each over its mean of training images or their variance: `(n, 3)` float64."""
        centered = vectors.double().cpu() - self.mean
        z = centered @ self.axes
        residual = (centered.square().sum(1) - z.square().sum(1)).clamp(min=0) / self.rest
        distance = nearest(z, self.codes, min(NEAREST, len(self.codes))).distance[:, -1].square() / self.variance.sum()
        mahalanobis = (z.square() / self.variance).mean(1)
        return torch.stack([residual, distance, mahalanobis], 1)
