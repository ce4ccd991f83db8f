"""A multi-scale autoregressive model (van den Oord et al. 2016, §3.5; parallel groups of Reed et al. 2017, "Parallel Multiscale …").

    p(x) = p(x^(L)) ∏_{s<L} p(x^(s) | x^(s+1)),       x^(s): every 2^s-th pixel of every 2^s-th row
    p(x^(s) | x^(s+1)) = ∏_{g ∈ {01, 10, 11}} ∏_{i ∈ g} p(x_i | x^(s+1), earlier groups)

The smallest image is made pixel by pixel by a masked net. Each doubling is a chain link p(large | every second pixel): three groups, right,
below and diagonal of what is known; the pixels of a group are independent given all earlier groups, so one pass of an ordinary convolutional
net on the half-size grid gives them all. Known pixels cost nothing twice: the product is p(x), exactly. A 28×28 image takes 49 + 2·3 steps, not 784.

Differences from the papers: the colours of a pixel are never independent (a mixture conditions them in its head; Bernoulli and softmax
parameters take a linear term of the pixel's earlier colours); the same kind of net at every scale, residual and without a U-net.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pofx.errors import InputError
from pofx.likelihoods import Likelihood
from pofx.model import Features, all_threads
from pofx.nn import conditioning
from pofx.nn.masked import FullPass, MaskedConv2d, Pass, StepPass, check_sizes
from pofx.nn.raster import Place, RasterModel, StepNet
from pofx.nn.residual import MaskedBlock, ResidualBlock
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.views import View

PHASES = ((0, 1), (1, 0), (1, 1))


@dataclass(frozen=True)
class Group:
    """Pixels made at once: rows `first[0]`, `first[0] + step`, … and columns alike, given those of `known`.

    Attributes:
        size: how many rows and columns of it there are.
        grid: those of the known corner: every group of a scale is computed on this grid, and cropped.
    """

    first: tuple[int, int]
    step: int
    size: tuple[int, int]
    grid: tuple[int, int]
    known: tuple[tuple[int, int], ...]

    def of(self, x: Tensor) -> Tensor:
        """Its pixels, `(n, F, *size)`, a view of `(n, F, H, W)`."""
        return x[:, :, self.first[0] :: self.step, self.first[1] :: self.step]

    def inputs(self, x: Tensor) -> Tensor:
        """What it is computed from: earlier pixels of its scale side by side, `(n, C · known, *grid)`, zeros where the grid hangs over."""
        (h, w), parts = self.grid, []
        for i, j in self.known:
            part = x[:, :, i :: self.step, j :: self.step]
            parts.append(F.pad(part, (0, w - part.shape[3], 0, h - part.shape[2])))
        return torch.cat(parts, 1)

    @property
    def pixels(self) -> tuple[tuple[int, int], ...]:
        rows, columns = ([f + self.step * k for k in range(n)] for f, n in zip(self.first, self.size, strict=True))
        return tuple((i, j) for i in rows for j in columns)


def scales(height: int, width: int, base: int) -> tuple[int, list[Group]]:
    """The step of the smallest image, and the groups in order, from coarse to fine.

    >>> step, groups = scales(28, 28, base=8)
    >>> step, [group.size for group in groups]
    (4, [(7, 7), (7, 7), (7, 7), (14, 14), (14, 14), (14, 14)])
    """
    step = 1
    while max(-(-height // step), -(-width // step)) > base:
        step *= 2
    smallest, groups = step, []
    while step > 1:
        half = step // 2
        grid, known = (-(-height // step), -(-width // step)), [(0, 0)]
        for down, right in PHASES:
            first = (down * half, right * half)
            size = (-(-(height - first[0]) // step), -(-(width - first[1]) // step))
            if min(size) > 0:
                groups.append(Group(first, step, size, grid, tuple(known)))
                known.append(first)
        step = half
    return smallest, groups


class CoarseNet(nn.Module):
    """The smallest image, pixel by pixel: a masked net that gives the parameters of whole pixels."""

    def __init__(self, channels: int, width: int, layers: int, outputs: int, context: conditioning.Context) -> None:
        super().__init__()
        self.first = MaskedConv2d(channels, 2 * width, 5, "A", 1)
        self.given = context.into(2 * width)
        self.blocks = nn.ModuleList(MaskedBlock(width, 3, 1, context) for _ in range(layers))
        self.out = MaskedConv2d(2 * width, outputs, 1, "B", 1)

    def forward(self, ops: Pass, x: Tensor | None, context: Tensor | None, size: tuple[int, int], dropout: float) -> Tensor:
        h = ops.add_context(ops.conv(self.first, x), self.given, context, size)
        for i, block in enumerate(self.blocks):
            h = block(ops, h, context, f"coarse{i}", dropout, size)
        return ops.conv(self.out, ops.relu(h))


class GroupNet(nn.Module):
    """One group from those known before: `(n, inputs, *grid)` → `(n, outputs, *grid)`."""

    def __init__(self, inputs: int, width: int, layers: int, outputs: int, context: conditioning.Context) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, padding=1)
        self.given = context.into(width)
        self.blocks = nn.ModuleList(ResidualBlock(width, context) for _ in range(layers))
        self.out = nn.Conv2d(width, outputs, 1)

    def trunk(self, x: Tensor, context: Tensor | None, noise: Noise | None, site: str, dropout: float) -> Tensor:
        h = self.first(x) + conditioning.project(self.given, context, (x.shape[2], x.shape[3]))
        for i, block in enumerate(self.blocks):
            h = block(h, context, noise, f"{site}/{i}", dropout)
        return F.relu(h)

    def forward(self, x: Tensor, context: Tensor | None, noise: Noise | None, site: str, dropout: float) -> Tensor:
        return self.out(self.trunk(x, context, noise, site, dropout))


class Multiscale(RasterModel, Features):
    """A coarse image first, then each doubling in three parallel groups.

    Args:
        space: what images may be.
        given: a view for p(x | given).
        base: the smallest image is at most so many pixels high and wide; it alone is made pixel by pixel.
        layers: residual blocks of each net.
        channels: width of each net.
        likelihood: "auto" is Bernoulli for 2 levels, otherwise a mixture of discretized logistics.
        components: of the mixture.
        dropout: share of block activations dropped in training.
        lr: learning rate of Muon.

    Raises:
        InputError: no layers, base below 1, an unknown likelihood.

    >>> model = Multiscale(ImageSpace(1, 28, 28, levels=2), layers=1, channels=4)
    >>> len(model.order())
    55
    """

    family: ClassVar = ("explicit", "tractable", "autoregressive")
    paper: ClassVar = "Reed et al. 2017, Parallel Multiscale Autoregressive Density Estimation, arXiv:1703.03664"
    spatial: ClassVar = True

    def __init__(
        self,
        space: ImageSpace,
        given: View | None = None,
        *,
        base: int = 8,
        layers: int = 4,
        channels: int = 48,
        likelihood: Literal["auto", "bernoulli", "categorical", "logistic-mixture"] = "auto",
        components: int = 10,
        dropout: float = 0.0,
        lr: float = 3e-3,
    ) -> None:
        super().__init__(space, given)
        check_sizes("Multiscale", space, layers=layers, channels=channels, kernels=(), dropout=dropout, even=False)
        if base < 1:
            raise InputError(f"Multiscale: base={base} must be at least 1, e.g. --base 8.")
        if likelihood not in ("auto", "bernoulli", "categorical", "logistic-mixture"):
            raise InputError(f"Multiscale: likelihood={likelihood!r}; use auto, bernoulli, categorical or logistic-mixture.")
        self.base, self.layers, self.channels, self.likelihood = base, layers, channels, likelihood
        self.components, self.dropout, self.lr = components, dropout, lr
        self.head = Likelihood(likelihood, space, default="logistic-mixture", components=components)
        self.context = conditioning.Context(self, channels)
        self.step, self.groups = scales(space.height, space.width, base)
        c = space.channels
        # What the view makes known needs no net: with given=Subsample(2) this is one link of the chain, p(large | small).
        known = None if given is None or given.varies else given.known(space)
        open_ = torch.ones(space.shape, dtype=torch.bool) if known is None else ~known
        coarse_open = bool(open_[:, :: self.step, :: self.step].any())
        self.coarse = CoarseNet(c, channels, layers, self.head.size, self.context) if coarse_open else None
        self.fine = nn.ModuleList(
            GroupNet(c * len(g.known), channels, layers, self.head.size, self.context) if bool(g.of(open_[None]).any()) else nn.Identity()
            for g in self.groups
        )
        # What a sub-pixel takes of earlier colours of its own pixel, where the head does not see to it.
        self.own = MaskedConv2d(c, self.head.size, 1, "A", c) if c > 1 and not self.whole else None

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        return cls(space, given, base=2, layers=1, channels=max(6, space.channels), components=2)

    @property
    def coarse_size(self) -> tuple[int, int]:
        return -(-self.space.height // self.step), -(-self.space.width // self.step)

    # The network -----------------------------------------------------------------------------------------------------

    def group(self, k: int, x: Tensor, context: Tensor | None, noise: Noise | None = None) -> Tensor:
        """Parameters of group k from the pixels before it: `(n, head.size, *size)`."""
        group, net = self.groups[k], self.fine[k]
        if not isinstance(net, GroupNet):
            return x.new_zeros(x.shape[0], self.head.size, *group.size)
        out = net(group.inputs(x), context, noise, f"group{k}", self.dropout)
        return out[:, :, : group.size[0], : group.size[1]]

    def full(self, x: Tensor, context: Tensor | None, noise: Noise | None = None) -> Tensor:
        ops = FullPass(1, noise)
        out = x.new_zeros(x.shape[0], self.head.size, self.space.height, self.space.width)
        if self.coarse is not None:
            small = x[:, :, :: self.step, :: self.step]
            out[:, :, :: self.step, :: self.step] = self.coarse(ops, small, context, self.coarse_size, self.dropout)
        for k, group in enumerate(self.groups):
            group.of(out).copy_(self.group(k, x, context, noise))
        return out if self.own is None else out + ops.conv(self.own, x)

    def stepper(self, n: int, context: Tensor | None) -> StepNet:
        return MultiscaleSteps(self, n, context)

    def places(self) -> list[Place]:
        h, w = self.coarse_size
        pixels = [((self.step * i, self.step * j),) for i in range(h) for j in range(w)] + [group.pixels for group in self.groups]
        return [Place(p, colour) for p in pixels for colour in range(self.space.channels)]

    # Features --------------------------------------------------------------------------------------------------------

    @property
    def feature_layers(self) -> Sequence[str]:
        nets = [f"group{k + 1}" for k, net in enumerate(self.fine) if isinstance(net, GroupNet)]
        return nets if self.coarse is None else ["coarse", *nets]

    def features(self, x: Tensor, layer: str | None = None) -> Tensor:
        """Activations of the net of a group (the last by default), averaged over its grid: `(n, channels)`, or of the coarse net
        `(n, head.size)`."""
        name = self.feature_layers[self.layer_index(layer)]
        x = self.seen(self.space.check(x).to(self.device))
        if name == "coarse":
            assert self.coarse is not None
            h = self.coarse(FullPass(1), x[:, :, :: self.step, :: self.step], None, self.coarse_size, 0.0)
        else:
            k = int(name.removeprefix("group")) - 1
            net = self.fine[k]
            assert isinstance(net, GroupNet)
            h = net.trunk(self.groups[k].inputs(x), None, None, "", 0.0)
        return self.pooled(h, layer)


class MultiscaleSteps(StepNet):
    """The coarse image pixel by pixel, then one pass of a net per group."""

    def __init__(self, model: Multiscale, n: int, context: Tensor | None) -> None:
        self.model, self.context = model, context
        self.ops = StepPass(n, model.coarse_size, 1, model.device)
        self.x = torch.zeros(n, *model.space.shape, dtype=model.dtype, device=model.device)
        self.by_pixel = {pixel: k for k, g in enumerate(model.groups) for pixel in g.pixels}
        self.base = self.x[:0]

    def enter(self, place: Place) -> None:
        pass

    def parameters(self, place: Place) -> Tensor:
        model, k = self.model, self.by_pixel.get(place.pixels[0])
        rows, columns = ([p[axis] for p in place.pixels] for axis in (0, 1))
        if place.colour == 0:
            if k is None and model.coarse is None:
                self.base = self.x.new_zeros(len(self.x), model.head.size)
            elif k is None:
                assert model.coarse is not None
                self.ops.at(Place(((place.row // model.step, place.column // model.step),), 0))
                self.base = model.coarse(self.ops, None, self.context, model.coarse_size, 0.0)
            else:
                group = model.groups[k]
                at = [[(v - f) // group.step for v in axis] for axis, f in zip((rows, columns), group.first, strict=True)]
                with all_threads():
                    self.base = model.group(k, self.x, self.context)[:, :, at[0], at[1]].transpose(1, 2).flatten(0, 1)
        if model.whole:
            return self.base
        size = model.head.size // model.space.channels
        part = slice(place.colour * size, (place.colour + 1) * size)
        if model.own is None:
            return self.base[:, part]
        own = self.x[:, :, rows, columns].transpose(1, 2).flatten(0, 1)[:, : place.colour]
        weight = model.own.kernel()[part, : place.colour, 0, 0]
        return self.base[:, part] + torch.addmm(model.own.bias[part], own, weight.t())

    def write(self, place: Place, value: Tensor) -> None:
        rows, columns = ([p[axis] for p in place.pixels] for axis in (0, 1))
        self.x[:, place.colour, rows, columns] = value.reshape(len(self.x), -1)
        coarse = self.model.coarse
        if coarse is not None and place.pixels[0] not in self.by_pixel and place.colour == self.model.space.channels - 1:
            self.ops.write(coarse.first, self.x[:, :, place.row, place.column])

    def fill(self, x: Tensor, rows: int) -> None:
        model = self.model
        self.x[:, :, :rows] = x[:, :, :rows]
        if model.coarse is None:
            return
        ops, small = FullPass(1, inputs={}), x[:, :, :: model.step, :: model.step]
        model.coarse(ops, small, self.context, model.coarse_size, 0.0)
        assert ops.inputs is not None
        self.ops.fill(ops.inputs, -(-rows // model.step))
