"""A pre-activation residual block without normalisation, for encoders, decoders and classifiers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pofx.nn import conditioning
from pofx.noise import Noise


class ResidualBlock(nn.Module):
    """h + conv(drop(SiLU(conv(SiLU(h)) + context))), 3×3, `(n, F, H, W)` → the same shape.

    The second convolution starts at a tenth of its usual size, so that deep stacks begin near the identity; not at zero,
    so that every parameter has a gradient from the first step on.
    """

    def __init__(self, features: int, context: conditioning.Context | None = None) -> None:
        super().__init__()
        self.first = nn.Conv2d(features, features, 3, padding=1)
        self.second = nn.Conv2d(features, features, 3, padding=1)
        self.given = nn.Identity() if context is None else context.into(features)
        self.second.weight.data.mul_(0.1)

    def forward(self, h: Tensor, context: Tensor | None = None, noise: Noise | None = None, site: str = "", dropout: float = 0.0) -> Tensor:
        a = self.first(F.silu(h)) + conditioning.project(self.given, context, (h.shape[2], h.shape[3]))
        a = F.silu(a)
        if noise is not None and dropout > 0:
            a = a * noise.keep(site, a, dropout)
        return h + self.second(a)
