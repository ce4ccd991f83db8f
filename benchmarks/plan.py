"""How long, and how dear, would it be? Training and scoring on paper, from arithmetic and bytes that are counted here.

    python benchmarks/plan.py [--out results/plan.json] [--peak 989e12 --share 0.1 --network 50e9 --read 2e9 --cores 64 --price 4 …]

FLOPs are counted by torch (two for a multiplication and an addition) in a scoring pass and in a step of training. What the machine on paper gives is assumed,
each number by a flag. With N images, G devices, F FLOPs and b bytes an image, P the peak of a device and u the share of it that is reached:

    scoring    N · max( F / (G P u),  b / (nodes · read),  1 / (nodes · cores · decode) )      what is slowest, since the three overlap
    a step     B F / (G P u) + launch + 2 (G − 1)/G · gradient / network + latency · log2 G
    training   N · epochs / B · a step

A node has 8 devices. Gradients go round a ring; they are counted as if nothing of that were hidden behind the backward pass.
"""

from __future__ import annotations

import argparse
import io
import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _record import machine, rate, tell, write
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from pofx.model import Context, ImageModel
from pofx.noise import Noise
from pofx.pictures import each
from pofx.tasks.bulk import batch_size
from pofx.tasks.score import costs
from pofx.training import load_model

RUNS = ("binarized-mnist-gated", "mnist-pixelcnn-pp", "cifar10-pixelcnn-pp", "fashion-mnist-vae")


def step(model: ImageModel, x: torch.Tensor) -> None:
    """One backward pass of every objective."""
    for objective in model.objectives():
        context = Context(step=1, progress=0.5, noise=Noise(0, torch.arange(len(x))))
        loss, _ = objective.loss(model.batch(x, None), context)
        loss.backward()


def _pngs(x: torch.Tensor, levels: int) -> list[bytes]:
    found = []
    for picture in each(x, levels):
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


def _decoded(picture: bytes) -> object:
    with Image.open(io.BytesIO(picture)) as image:
        return image.tobytes()


def peak(seconds: float) -> float:
    """FLOP/s of a large float32 matrix product."""
    a = torch.randn(1024, 1024)
    return rate(lambda: a @ a, 2 * 1024**3, seconds)


@dataclass(frozen=True)
class Machine:
    """A device and what is around it.

    Attributes:
        peak, share: FLOP/s, and the share of it that is reached.
        network: bytes/s, for each device. read: for each node. cores: of a node, which decode.
        launch: seconds that a step costs whatever its size. latency: that a message takes.
        price: of a device for an hour. batch: images of a step.
    """

    peak: float = 989e12  # of an H200, dense bf16
    share: float = 0.1
    network: float = 50e9
    read: float = 2e9
    cores: int = 64
    launch: float = 5e-3
    latency: float = 20e-6
    price: float = 4.0
    batch: int = 1024


def scoring(machine: Machine, row: Mapping[str, Any], images: float, devices: int) -> tuple[float, str]:
    """Seconds, and what they are spent on."""
    nodes = math.ceil(devices / 8)
    parts = {
        "arithmetic": row["flops_score"] / (devices * machine.peak * machine.share),
        "reading": row["bytes_an_image"] / (nodes * machine.read),
        "decoding": 1 / (nodes * machine.cores * row["decode_images_per_second"]),
    }
    slowest = max(parts, key=lambda name: parts[name])
    return images * parts[slowest], slowest


def training(machine: Machine, row: Mapping[str, Any], images: float, devices: int) -> tuple[float, str]:
    """Seconds for so many images seen, and what most of a step is spent on."""
    parts = {
        "arithmetic": machine.batch * row["flops_train"] / (devices * machine.peak * machine.share),
        "launching": machine.launch,
        "network": 2 * (devices - 1) / devices * 4 * row["parameters"] / machine.network + machine.latency * math.log2(max(1, devices)),
    }
    return images / machine.batch * sum(parts.values()), max(parts, key=lambda name: parts[name])


def main() -> None:
    parser = argparse.ArgumentParser(description="How long, and how dear, would it be?")
    parser.add_argument("--weights", type=Path, default=Path("results/weights"))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--out", type=Path)
    for field in fields(Machine):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    flags = parser.parse_args()
    paper = Machine(**{field.name: getattr(flags, field.name) for field in fields(Machine)})
    torch.set_num_threads(1)
    rows, top = [], peak(flags.seconds)
    for name in RUNS:
        model = load_model(flags.weights / name)
        batch = batch_size(model.space)
        x = torch.randint(0, model.space.levels, (batch, *model.space.shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        with FlopCounterMode(display=False) as forward:
            costs(model, x)
        model.train()
        with FlopCounterMode(display=False) as both:
            step(model, x)
        train = rate(partial(step, model, x), batch, flags.seconds)
        model.eval()
        score = rate(partial(costs, model, x), batch, flags.seconds)
        pictures = _pngs(x, model.space.levels)
        row = {
            "run": name,
            "parameters": sum(p.numel() for p in model.parameters()),
            "bytes_an_image": model.space.dims,
            "flops_score": forward.get_total_flops() / batch,
            "flops_train": both.get_total_flops() / batch,
            "score_images_per_second": round(score, 1),
            "train_images_per_second": round(train, 1),
            "decode_images_per_second": round(
                rate(lambda pictures=pictures: [_decoded(each) for each in pictures], batch, flags.seconds), 1
            ),
        }
        row |= {"share_score": row["flops_score"] * score / top, "share_train": row["flops_train"] * train / top}
        rows.append(row)
        tell(row)
    plans = []
    for row, (images, epochs), devices in itertools.product(rows, ((1e6, 100), (1e9, 1)), (1, 8, 64)):
        score_seconds, score_by = scoring(paper, row, images, devices)
        train_seconds, train_by = training(paper, row, images * epochs, devices)
        plans.append(
            {
                "run": row["run"],
                "images": images,
                "epochs": epochs,
                "devices": devices,
                "score_hours": score_seconds / 3600,
                "score_by": score_by,
                "score_price": score_seconds / 3600 * devices * paper.price,
                "train_hours": train_seconds / 3600,
                "train_by": train_by,
                "train_price": train_seconds / 3600 * devices * paper.price,
            }
        )
        tell(plans[-1])
    write(flags.out, {**machine(1), "peak_flops": top, "rows": rows, "paper": asdict(paper), "plans": plans})


if __name__ == "__main__":
    main()
