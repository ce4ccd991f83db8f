"""The fused scans of PixelRNN against an honest eager baseline: a training step (forward and backward) in float32, one run.

    python benchmarks/scan.py [--out results/scan.json] [--threads 2] [--quick]

Both compute the same loss from the same weights, which is checked. The baseline is what one writes with care in plain PyTorch: the
input-to-state product of the whole map before the scan, gates batched, slabs by `unbind`, one product a step, autograd for the backward
pass. Its faster layout counts: features last with one matrix product a step, or features first with one convolution a step.
Sequential depth is the number of steps that wait for one another in a scoring pass: H (row), H+W−1 (diagonal), 1 (PixelCNN).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from _record import machine, seconds, tell, write
from torch import Tensor

import pofx
from pofx.likelihoods import normalised
from pofx.models.autoregressive.pixelrnn import Layer, PixelRNN
from pofx.nn.masked import FullPass
from pofx.space import ImageSpace
from pofx.testing import random_images

Layout = Literal["last", "first"]


def skew(x: Tensor, fill: float) -> Tensor:
    """`(n, F, H, W)` → `(n, F, H, H+W−1)`: row i moves i columns to the right."""
    n, features, height, width = x.shape
    return F.pad(x, (0, height), value=fill).flatten(2)[..., :-height].view(n, features, height, width + height - 1)


def unskew(x: Tensor, width: int) -> Tensor:
    n, features, height, _ = x.shape
    return F.pad(x.flatten(2), (0, height)).view(n, features, height, width + height)[..., :width]


def eager_scan(gates: Tensor, weight: Tensor, taps: tuple[int, ...], layout: Layout) -> Tensor:
    """Scan over the first axis, from zero states.

    Args:
        gates: input-to-state with its bias, `(T, n, 4h, S)`, gates o, i, f, g.
        weight: state-to-state by tap, `(4h, taps · h)`.
        taps: where each tap reads, relative to its own place along S.
    """
    _, n, four, places = gates.shape
    width, before, after = four // 4, -taps[0], max(taps[-1], 0)
    axis = 1 if layout == "first" else 2
    kernel = weight.unflatten(1, (len(taps), width)).permute(0, 2, 1) if layout == "first" else weight.t()
    slabs = (gates if layout == "first" else gates.transpose(2, 3).contiguous()).unbind(0)
    h = c = gates.new_zeros((n, width, places) if layout == "first" else (n, places, width))
    out = []
    for slab in slabs:
        if layout == "first":
            z = slab + F.conv1d(F.pad(h, (before, after)), kernel)
        else:
            p = F.pad(h, (0, 0, before, after))
            s = torch.cat([p[:, k : k + places] for k in range(len(taps))], 2)
            z = torch.addmm(slab.flatten(0, 1), s.flatten(0, 1), kernel).view(n, places, four)
        sigmoids, g = z.split([3 * width, width], axis)
        o, i, f = torch.sigmoid(sigmoids).chunk(3, axis)
        c = f * c + i * torch.tanh(g)
        h = o * torch.tanh(c)
        out.append(h)
    told = torch.stack(out)
    return told if layout == "first" else told.transpose(2, 3)


def eager_layer(layer: Layer, x: Tensor, image: Tensor, layout: Layout) -> Tensor:
    """A residual layer, `(n, 2h, H, W)`, from zero initial states."""
    seen = torch.cat([x, image], 1) if layer.own else x
    width, total, row = x.shape[3], None, len(layer.inputs) == 1
    for d in range(len(layer.inputs)):
        k, s = (layer.inputs * layer.mask)[d], layer.states[d]
        if row:
            kernel = torch.stack(k.chunk(2, 1), 2)[:, :, None]  # columns j−1 and j
            gates = F.conv2d(F.pad(x, (1, 0)), kernel, layer.bias[d])
            told = eager_scan(gates.permute(2, 0, 1, 3), s, (-1, 0, 1), layout).permute(1, 2, 0, 3)
        else:
            gates = F.conv2d(seen.flip(3) if d else seen, k[:, :, None, None], layer.bias[d])
            gates = skew(gates, -100.0)  # closed gates: outside the image states stay zero, as the initial ones
            told = unskew(eager_scan(gates.permute(3, 0, 1, 2), s, (-1, 0), layout).permute(1, 2, 3, 0), width)
            if d:
                told = F.pad(told.flip(3), (0, 0, 1, -1))
        total = told if total is None else total + told
    assert total is not None
    return x + F.conv2d(total, layer.out.kernel(), layer.out.bias)


def eager_loss(model: PixelRNN, x: Tensor, layout: Layout) -> Tensor:
    """The loss of a PixelRNN by the baseline, nats per dim; the initial states must be zero."""
    ops = FullPass(model.space.channels)
    image = normalised(x, model.space.levels, model.dtype)
    h = ops.conv(model.first, image)
    for layer in model.lstms:
        assert isinstance(layer, Layer)
        h = eager_layer(layer, h, image, layout)
    parameters = ops.conv(model.out2, F.relu(ops.conv(model.out1, F.relu(h))))
    return -model.head(parameters).log_prob(x).sum((1, 2, 3)).mean() / model.dims


def fused_loss(model: PixelRNN, x: Tensor) -> Tensor:
    return -model.log_prob(x).mean() / model.dims


def step(model: torch.nn.Module, loss: Callable[[], Tensor]) -> float:
    """One forward and backward pass; the loss."""
    model.zero_grad()
    value = loss()
    value.backward()
    return float(value.detach())


def measure(kind: Literal["row", "diagonal"], n: int, repeats: int) -> dict:
    torch.manual_seed(0)
    space = ImageSpace(1, 28, 28, levels=2)
    model = PixelRNN(space, kind=kind)
    x = random_images(n, space)
    fused: Callable[[], Tensor] = lambda: fused_loss(model, x)  # noqa: E731
    value = step(model, fused)
    gradient = model.lstms[0].states.grad.clone()  # type: ignore[union-attr]
    eager = {}
    for layout in ("last", "first"):
        baseline: Callable[[], Tensor] = lambda layout=layout: eager_loss(model, x, layout)  # noqa: E731
        same = abs(step(model, baseline) - value) < 1e-5 and torch.allclose(gradient, model.lstms[0].states.grad, rtol=1e-3, atol=1e-6)  # type: ignore[union-attr]
        assert same, f"{kind}, features {layout}: the baseline computes something else"
        eager[layout] = seconds(lambda baseline=baseline: step(model, baseline), repeats)
    best = min(eager, key=lambda layout: eager[layout])
    time_fused = seconds(lambda: step(model, fused), repeats)
    return {
        "model": f"pixelrnn {kind}, 7 layers, h = 16, 28×28",
        "n": n,
        "parameters": sum(p.numel() for p in model.parameters()),
        "sequential_depth": 28 if kind == "row" else 28 + 28 - 1,
        "fused_s": time_fused,
        "eager_s": eager[best],
        "eager_layout": f"features {best}",
        "eager_over_fused": eager[best] / time_fused,
        "load": os.getloadavg()[0],
    }


def at_equal_parameters(n: int, repeats: int) -> list[dict]:
    """The reason for the PixelCNN: a training step of each model at about 64 thousand parameters, and how many steps wait for one another."""
    torch.manual_seed(0)
    space = ImageSpace(1, 28, 28, levels=2)
    models = {
        "row LSTM": (pofx.models.PixelRNN(space, kind="row", layers=8), 28),
        "diagonal BiLSTM": (pofx.models.PixelRNN(space, kind="diagonal", layers=7), 28 + 28 - 1),
        "PixelCNN": (pofx.models.PixelCNN(space, layers=10, channels=24), 1),
        "gated PixelCNN": (pofx.models.GatedPixelCNN(space, layers=6, channels=22), 1),
    }
    x, rows = random_images(n, space), []
    for name, (model, depth) in models.items():
        time_step = seconds(lambda m=model: step(m, lambda: -m.log_prob(x).mean() / m.dims), repeats)
        rows.append(
            {
                "model": name,
                "n": n,
                "parameters": sum(p.numel() for p in model.parameters()),
                "step_s": time_step,
                "depth_of_scoring": depth,
                "depth_of_sampling": len(model.order()),
                "load": os.getloadavg()[0],
            }
        )
        tell(rows[-1])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Fused scans against an eager baseline.")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true", help="one size, one repeat")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sizes, repeats = ([16], 1) if options.quick else ([16, 64], 5)
    rows = []
    for n in sizes:
        for kind in ("row", "diagonal"):
            rows.append(measure(kind, n, repeats))
            tell(rows[-1])
    equal = at_equal_parameters(sizes[0], repeats)
    facts = {**machine(options.threads), "precision": "float32"}
    result = facts | {"rows": rows, "at_equal_parameters": equal}
    write(options.out, result)


if __name__ == "__main__":
    main()
