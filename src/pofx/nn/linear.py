"""A linear layer whose rows do not depend on how many there are.

A matrix product splits its work by the number of rows, and so rounds a row differently in a batch than alone. In float64, where
results are promised to be identical for any batch, the layer is computed as a 1×1 convolution, which PyTorch does image by image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pofx.integers import Pair, active


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x Wᵀ + b: `(n, in)`, `(out, in)`, `(out,)` → `(n, out)`; in float64 each row as it comes out alone."""
    if x.dtype != torch.float64 or weight.numel() == 0 or active() is not None:  # sums of integers are exact in any order
        return F.linear(x, weight, bias)
    return F.conv2d(x[:, :, None, None], weight[:, :, None, None], bias)[:, :, 0, 0]


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair = 1, padding: Pair = 0, dilation: Pair = 1) -> Tensor:
    """`torch.nn.functional.conv2d`, or that of the arithmetic in use."""
    arithmetic = active()
    convolve = F.conv2d if arithmetic is None else arithmetic.conv2d
    return convolve(x, weight, bias, stride, padding, dilation)


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` through `conv2d`; dilation is one number."""

    def forward(self, input: Tensor) -> Tensor:
        return conv2d(input, self.weight, self.bias, self.stride, self.padding, self.dilation[0])  # type: ignore[arg-type]


class Linear(nn.Linear):
    """`torch.nn.Linear` through `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
