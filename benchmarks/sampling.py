"""Sampling against scoring: time(sample n) ÷ time(log_prob of n), float32, one run, nothing else on the machine.

    python benchmarks/sampling.py [--out results/sampling.json] [--threads 2] [--quick]

The scoring pass is timed in its fastest layout and against a bare script of the same convolutions, so that a slow scoring pass cannot
flatter the ratio. "full passes" is what sampling would cost with one full pass per sub-pixel: the time of scoring, times their number.
"""

from __future__ import annotations

import argparse
import os
import unittest.mock
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _record import machine, seconds, tell, write
from torch.utils.flop_counter import FlopCounterMode

import pofx
from pofx.model import Autoregressive, ImageModel
from pofx.space import ImageSpace
from pofx.testing import random_images


def fastest_layout(model: ImageModel, x: torch.Tensor, repeats: int) -> tuple[str, float]:
    """Score in NCHW and channels-last; keep the faster."""
    found = {}
    for name, layout in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
        model.to(memory_format=layout)  # type: ignore[call-overload]
        found[name] = seconds(lambda: model.log_prob(x), repeats)  # type: ignore[operator]
    best = min(found, key=lambda name: found[name])
    model.to(memory_format=torch.channels_last if best == "channels_last" else torch.contiguous_format)  # type: ignore[call-overload]
    return best, found[best]


def bare(model: Autoregressive, x: torch.Tensor, repeats: int) -> tuple[float, float] | None:
    """The very convolutions of a scoring pass and nothing else: seconds, and GFLOP of the pass; None for a net of something else."""
    if not isinstance(model, pofx.models.GatedPixelCNN | pofx.models.PixelCNN):
        return None
    jobs: list[tuple[tuple, dict]] = []
    conv2d = F.conv2d

    def noted(*args: Any, **kwargs: Any) -> torch.Tensor:
        jobs.append((args, kwargs))
        return conv2d(*args, **kwargs)

    with unittest.mock.patch.object(F, "conv2d", noted), FlopCounterMode(display=False) as counter:
        model.log_prob(x)
    return seconds(lambda: [conv2d(*args, **kwargs) for args, kwargs in jobs], repeats), counter.get_total_flops() / 1e9


def measure(name: str, model: Autoregressive, sizes: list[int], repeats: int) -> list[dict]:
    rows = []
    for n in sizes:
        x = random_images(n, model.space)
        layout, score = fastest_layout(model, x, repeats)
        raw = bare(model, x, repeats)
        sample = seconds(lambda n=n: model.sample(n), repeats if n == 1 else 1)
        rows.append(
            {
                "model": name,
                "n": n,
                "layout": layout,
                "score_s": score,
                "sample_s": sample,
                "sample_over_score": sample / score,
                "full_passes_over_sample": score * model.space.dims / sample,
                "score_against_bare_convolutions": None if raw is None else raw[0] / score,
                "score_gflop_per_s": None if raw is None else raw[1] / score,
                "load": os.getloadavg()[0],
            }
        )
        tell(rows[-1])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Sampling against scoring.")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true", help="one size, one repeat")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    space, colour = ImageSpace(1, 28, 28, levels=2), ImageSpace(3, 32, 32)
    all_, middle = [1, 64, 256], [64]
    models: dict[str, tuple[Autoregressive, list[int]]] = {
        "gated-pixelcnn, 15 layers × 64 channels, 28×28": (pofx.models.GatedPixelCNN(space, layers=15, channels=64), all_),
        "pixelcnn, 8 blocks × 32 channels, 28×28": (pofx.models.PixelCNN(space), all_),
        "pixelrnn, row, 7 layers × 16, 28×28": (pofx.models.PixelRNN(space, kind="row", layers=7, channels=16), middle),
        "pixelrnn, diagonal, 7 layers × 16, 28×28": (pofx.models.PixelRNN(space, kind="diagonal", layers=7, channels=16), middle),
        "pixelcnn-pp, 96 channels, 32×32 RGB": (pofx.models.PixelCNNpp(colour, channels=96), middle),
        "pixelcnn-pp, 32 channels, 32×32 RGB": (pofx.models.PixelCNNpp(colour, channels=32), middle),
        "multiscale, 32×32 RGB": (pofx.models.Multiscale(colour), middle),
        "made, 2 × 500 units, 28×28": (pofx.models.MADE(space), all_),
    }
    repeats = 1 if options.quick else 3
    with torch.inference_mode():
        rows = [row for name, (m, sizes) in models.items() for row in measure(name, m.eval(), middle if options.quick else sizes, repeats)]
    result = {**machine(options.threads), "precision": "float32", "rows": rows}
    write(options.out, result)


if __name__ == "__main__":
    main()
