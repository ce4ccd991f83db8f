"""Residual blocks without normalisation: a pre-activation one for all positions at once, and a masked one for causal networks."""

from __future__ import annotations

from torch import Tensor, nn

from pofx.nn import conditioning
from pofx.nn.activations import silu
from pofx.nn.linear import Conv2d
from pofx.nn.masked import MaskedConv2d, Pass
from pofx.noise import Noise


class ResidualBlock(nn.Module):
    """h + conv(drop(SiLU(conv(SiLU(h)) + context))), 3×3, `(n, F, H, W)` → the same shape.

    The second convolution starts at a tenth of its usual size, so that deep stacks begin near the identity; not at zero,
    so that every parameter has a gradient from the first step on.
    """

    def __init__(self, features: int, context: conditioning.Context | None = None) -> None:
        super().__init__()
        self.first = Conv2d(features, features, 3, padding=1)
        self.second = Conv2d(features, features, 3, padding=1)
        self.given = nn.Identity() if context is None else context.into(features)
        self.second.weight.data.mul_(0.1)

    def forward(self, h: Tensor, context: Tensor | None = None, noise: Noise | None = None, site: str = "", dropout: float = 0.0) -> Tensor:
        a = silu(conditioning.added(self.first(silu(h)), self.given, context))
        if noise is not None and dropout > 0:
            a = a * noise.keep(site, a, dropout)
        return h + self.second(a)


class MaskedBlock(nn.Module):
    """Figure 5 (left) of van den Oord et al. 2016: a bottleneck of width h with a masked k×k in the middle, added to its input of width 2h."""

    def __init__(self, width: int, kernel: int, channels: int, context: conditioning.Context, dilation: int = 1) -> None:
        super().__init__()
        self.reduce = MaskedConv2d(2 * width, width, 1, "B", channels)
        self.mix = MaskedConv2d(width, width, kernel, "B", channels, dilation=dilation)
        self.expand = MaskedConv2d(width, 2 * width, 1, "B", channels)
        self.given = context.into(width)

    def forward(
        self,
        ops: Pass,
        h: Tensor,
        context: Tensor | None,
        site: str,
        dropout: float,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """`(n, 2h, H, W)` → the same, or one place of it; a context of planes is pooled to `size`, if told."""
        a = ops.conv(self.reduce, ops.relu(h))
        a = ops.add_context(ops.conv(self.mix, ops.relu(a)), self.given, context, size)
        a = ops.keep(site, ops.relu(a), dropout)
        return h + ops.conv(self.expand, a)
