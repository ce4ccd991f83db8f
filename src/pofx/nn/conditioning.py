"""How a network takes in a view: the one embedding mechanism, used by every model and every view.

A view's features, a vector `(n, K)` or planes `(n, K, H, W)`, become one context `(n, width, 1, 1)` or `(n, width, H, W)`.
Each layer that wants it adds a 1×1 projection of the context, pooled to its own size. The context is given, so it may look
everywhere: no mask applies to it. A text is read letter by letter, by two convolutions, and averaged over its letters.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pofx.model import ImageModel
from pofx.nn.activations import silu
from pofx.nn.linear import Linear


class Context(nn.Module):
    """The view's value → context `(n, width, 1, 1)` for vectors, `(n, width, H, W)` for planes."""

    def __init__(self, model: ImageModel, width: int) -> None:
        super().__init__()
        self.space, self.view = model.space, model.given
        self.width = width
        if self.view is None:
            return
        shape = self.view.feature_shape(self.space)
        if self.view.text:
            self.embed: nn.Module = Text(width)
        elif len(shape) == 1:
            self.embed = nn.Conv2d(shape[0], width, 1)
        else:
            self.embed = nn.Sequential(
                nn.Conv2d(shape[0], width, 5, padding=2),
                nn.ReLU(),
                nn.Conv2d(width, width, 5, padding=2),
                nn.ReLU(),
                nn.Conv2d(width, width, 1),
            )

    def forward(self, value: Tensor | None) -> Tensor | None:
        if self.view is None or value is None:
            return None
        weight = next(self.embed.parameters())
        features = self.view.features(value, self.space)
        if self.view.text:
            return self.embed(features.long())
        features = features.to(weight.dtype)
        return self.embed(features if features.ndim == 4 else features[:, :, None, None])

    def into(self, features: int) -> nn.Module:
        """A projection of the context into a layer of `features` channels; an empty module where there is no view."""
        return nn.Identity() if self.view is None else nn.Conv2d(self.width, features, 1)


class Text(nn.Module):
    """Bytes of short texts, int64 `(n, length)`, 0 behind their end → `(n, width, 1, 1)`: letters are embedded with what stands beside them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = min(width, 64)
        self.letters = nn.Embedding(256, inner)
        self.first = nn.Conv2d(inner, inner, (1, 5), padding=(0, 2))
        self.second = nn.Conv2d(inner, inner, (1, 5), padding=(0, 2))
        self.out = nn.Conv2d(inner, width, 1)

    def forward(self, text: Tensor) -> Tensor:
        there = (text > 0).to(self.out.weight.dtype)[:, None, None]
        h = self.letters(text).transpose(1, 2)[:, :, None] * there
        h = silu(self.first(h)) * there
        h = silu(self.second(h)) * there
        return self.out(h.sum((2, 3), keepdim=True) / there.sum(3, keepdim=True).clamp(min=1))


def project(layer: nn.Module, context: Tensor | None, size: tuple[int, int] | None = None) -> Tensor | float:
    """What a layer adds for its context: `(n, F, 1 or H, 1 or W)`, pooled to `size`; 0 where there is none."""
    if context is None:
        return 0.0
    if size is not None and context.shape[2:] != (1, 1) and tuple(context.shape[2:]) != size:
        context = F.adaptive_avg_pool2d(context, size)
    return layer(context)


def added(h: Tensor, layer: nn.Module, context: Tensor | None) -> Tensor:
    """h, `(n, F, H, W)` or `(n, F)`, with what a layer adds for its context; h itself where there is none."""
    if context is None:
        return h
    return h + (layer(context) if h.ndim == 2 else project(layer, context, (h.shape[2], h.shape[3])))


class Dense(nn.Module):
    """What a fully connected layer adds for its context: planes are pooled to at most 8×8 and flattened, `(n, features)`."""

    def __init__(self, context: Context, features: int) -> None:
        super().__init__()
        planes = context.view is not None and len(context.view.feature_shape(context.space)) == 3
        self.size = (min(8, context.space.height), min(8, context.space.width)) if planes else (1, 1)
        self.linear = nn.Identity() if context.view is None else Linear(context.width * self.size[0] * self.size[1], features, bias=False)

    def forward(self, context: Tensor | None) -> Tensor | float:
        if context is None:
            return 0.0
        return self.linear(F.adaptive_avg_pool2d(context, self.size).flatten(1))
