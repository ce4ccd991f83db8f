"""Training throughput of the VAE against pythae's (Chadebec, Vincent and Allassonnière 2022): the same layers, weights and images.

All is float32, but for our own defaults, which are bfloat16 where the processor has instructions for it.

    python benchmarks/throughput_vae.py --pythae PYTHON [--out results/throughput-vae.json] [--threads 1] [--quick]

PYTHON is the interpreter of an environment of its own that has pythae and the same torch (pip install pythae). It runs in a process
beside this one (`throughput_pythae.py`); the two take turns, one waiting while the other is timed, and the medians of all turns are compared.

"step"      one training step on ready batches, Adam with the same options on both sides. Ours is all of `Game.play` but reading the batch:
            noise, loss, backward pass, the norm of the gradient and clipping, the checks that both are finite, Adam, averaged weights, logs.
            Theirs is `BaseTrainer.train_step`: loss, backward pass, Adam, the check for NaN; not its progress bar.
"training"  each library's trainer as it comes, except for the number of epochs and the threads: shuffling, reading and assembling batches
            (of 64 on both sides; with our defaults as many as the model takes of a large set), the steps, and once an epoch validation on
            the same images and what is kept (ours: a checkpoint on the disk; theirs: a copy of the best model in memory). The rate is that
            of the epochs after the first, over the training images.

Both losses are compared on the first batch before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _record import machine, tell, write
from torch import Tensor

import pofx
from pofx.data import Data
from pofx.heap import keep_pages
from pofx.model import Batch, Context, ImageModel, OptimizerSpec
from pofx.models import VAE
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.training.logger import read_csv
from pofx.training.loop import chosen_precision
from pofx.training.module import Game
from pofx.training.plan import Budget, Plan
from pofx.training.processes import Processes

LATENTS, BATCH = 50, 100
SPACE = ImageSpace(1, 28, 28, levels=2)
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"settings": {"hidden": 200, "layers": 2}, "widths": [200, 200], "sizes": [28]},
    "convolutional": {"settings": {"channels": 32, "layers": 4}, "widths": [32, 64, 128, 128], "sizes": [28, 14, 7, 4, 2]},
}
STEPS = {"mlp": 100, "convolutional": 8}  # a turn
IMAGES = {"mlp": 40_000, "convolutional": 3_000}  # of which about 7 in 10 are trained, so that an epoch takes seconds
EPOCHS = 2
INCLUDED = {
    "step": "batches ready. pofx: noise, loss, backward, gradient norm, clipping, checks, Adam, averaged weights, logs. "
    "pythae: loss, backward, Adam, check for NaN",
    "training": "second epoch of each library's own trainer: shuffling, batches, steps, validation of the same images, and pofx's checkpoint. "
    "pythae: batches of 64; pofx: what the row says",
}


def make(network: str) -> VAE:
    torch.manual_seed(0)
    return VAE(SPACE, latents=LATENTS, network=network, **NETWORKS[network]["settings"])  # type: ignore[arg-type]


class Steps(Game):
    """The training step of pofx on ready batches, outside of a Trainer."""

    def __init__(self, model: ImageModel, x: Tensor, spec: OptimizerSpec | None, batch: int = BATCH) -> None:
        plan, lr, name = Plan(10**6).add(Budget(steps=10**6)), spec and spec.lr, spec and spec.name
        super().__init__(model, None, plan, Processes(), batch=batch, seed=0, lr=lr, optimizer=name, half_life=10_000, augmentations=())
        self.ready = [Batch(part) for part in x.split(batch)]
        self.made = self.configure_optimizers()

    def batch_of(self, step: int) -> tuple[Batch, Context]:
        noise = Noise(self.seed, step * self.batch + torch.arange(self.batch))
        return self.ready[step % len(self.ready)], Context(step, 0.5, noise)

    def optimizer_list(self) -> list[Any]:
        return self.made

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        loss.backward()

    def first(self) -> dict[str, float]:
        """The loss of the first batch, in nats."""
        _, logs = self.players[0].loss(*self.batch_of(0))
        return {name: float(logs[name]) for name in ("kl", "reconstruction")}

    def run(self, steps: int) -> float:
        begun = time.perf_counter()
        for _ in range(steps):
            self.play(self.step)
        return time.perf_counter() - begun


class Worker:
    """The process of pythae: a question a line, an answer a line."""

    def __init__(self, python: Path, threads: int, folder: Path) -> None:
        script = Path(__file__).with_name("throughput_pythae.py")
        environment = os.environ | {"TMPDIR": str(folder), "OMP_NUM_THREADS": str(threads)}
        self.errors = folder / "pythae.txt"
        with open(self.errors, "w") as told:
            self.process = subprocess.Popen(
                [str(python), str(script), str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=told,
                text=True,
                env=environment,
            )

    def ask(self, do: str, **question: Any) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **question}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"The process of pythae has ended:\n{self.errors.read_text()[-2000:]}")
        return json.loads(answer)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def turns(sides: Sequence[Callable[[], float]], repeats: int) -> list[list[float]]:
    """Seconds of each side in each turn."""
    found: list[list[float]] = [[] for _ in sides]
    for turn in range(repeats):
        for i in range(len(sides)) if turn % 2 == 0 else reversed(range(len(sides))):
            found[i].append(sides[i]())
    return found


def row(network: str, what: str, batch: int, images: int, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    pofx_rate, pythae_rate = images / statistics.median(ours), images / statistics.median(theirs)
    found = {
        "network": network,
        "what": what,
        "batch": batch,
        "pofx": round(pofx_rate, 1),
        "pythae": round(pythae_rate, 1),
        "ratio": round(pofx_rate / pythae_rate, 3),
        "ratios": [round(b / a, 3) for a, b in zip(ours, theirs, strict=True)],
        "load": os.getloadavg()[0],
    }
    tell(found)
    return found


def net_of(network: str, folder: Path) -> dict[str, Any]:
    """What the other side needs to make the same net; its weights go into a file."""
    weights = folder / f"{network}.pt"
    torch.save([p.detach() for p in make(network).parameters()], weights)
    layers = NETWORKS[network]
    return {"weights": str(weights), "network": network, "latents": LATENTS, "widths": layers["widths"], "sizes": layers["sizes"]}


def step_row(worker: Worker, network: str, net: dict[str, Any], images: np.ndarray, folder: Path, repeats: int) -> dict[str, Any]:
    spec = OptimizerSpec("Adam", lr=1e-3, betas=(0.9, 0.999))
    batches = 20
    file = folder / "batches.npy"
    np.save(file, images[: BATCH * batches])
    model = make(network).train()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ours = Steps(model, torch.from_numpy(np.load(file)), spec)
    optimizer = {"lr": spec.lr, "betas": spec.betas, "weight_decay": spec.weight_decay}
    theirs = worker.ask("make", data=str(file), batch=BATCH, batches=batches, optimizer=optimizer, net=net)
    mine = ours.first()
    same = abs(mine["kl"] - theirs["kl"]) < 1e-3 * mine["kl"] and abs(mine["reconstruction"] / theirs["reconstruction"] - 1) < 0.02
    assert same, f"{network}: pofx says {mine}, pythae {theirs}"
    steps = STEPS[network]
    ours.run(5)
    worker.ask("steps", network=network, steps=5)
    found = turns([lambda: ours.run(steps), lambda: worker.ask("steps", network=network, steps=steps)], repeats)
    return row(network, "step", BATCH, steps * BATCH, *found)


def train_ours(network: str, data: Data, folder: Path, threads: int, optimizer: str | None, precision: str, batch: int) -> float:
    """Seconds per epoch after the first, by the clock that the run itself keeps. An epoch leaves out what fills no batch; the seconds are for all."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        run = Path(out) / "run"
        options = {"threads": threads, "precision": precision, "optimizer": optimizer, "batch_size": batch}
        pofx.train(make(network), data, out=run, epochs=EPOCHS, quiet=True, **options)
        ends = [float(row["minutes"]) for row in read_csv(run / "metrics.csv") if row.get("valid_nats")]
    assert len(ends) == EPOCHS
    n = len(data.train)
    return 60 * (ends[-1] - ends[0]) / (EPOCHS - 1) * n / (n // batch * batch)


def training_rows(
    worker: Worker, network: str, net: dict[str, Any], images: np.ndarray, folder: Path, threads: int, repeats: int
) -> list[dict[str, Any]]:
    model = make(network)
    default, batch = model.objectives()[0].optimizer.name, model.batch_size
    data = pofx.load_data(images[: IMAGES[network]])
    n, files = len(data.train), {}
    for part in ("train", "valid"):
        files[part] = str(folder / f"{part}.npy")
        np.save(files[part], data.parts[part].take(torch.arange(len(data.parts[part])))[0].numpy())
    own, single, small, theirs, adam = turns(
        [
            lambda: train_ours(network, data, folder, threads, None, "auto", batch),
            lambda: train_ours(network, data, folder, threads, None, "32", batch),
            lambda: train_ours(network, data, folder, threads, None, "auto", 64),
            lambda: worker.ask("train", epochs=EPOCHS, net=net, **files),
            lambda: train_ours(network, data, folder, threads, "Adam", "32", 64),
        ],
        repeats,
    )
    precision = {"bf16": "bfloat16", "32": "float32"}[chosen_precision("auto", torch.device("cpu"))]
    return [
        row(network, f"training, our defaults: {default}, {precision}, batches of {batch}", batch, n, own, theirs),
        row(network, f"training, {default}, float32, batches of {batch}", batch, n, single, theirs),
        row(network, f"training, {default}, {precision}, batches of 64", 64, n, small, theirs),
        row(network, "training, Adam, float32, batches of 64", 64, n, adam, theirs),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Training throughput of the VAE against pythae's.")
    parser.add_argument("--pythae", type=Path, required=True, help="the Python of an environment that has pythae")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", default="binarized-mnist", help="images 1×28×28 of two levels")
    parser.add_argument("--quick", action="store_true", help="one repeat")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_pages()  # as `pofx.train` does
    begun = time.perf_counter()
    images = pofx.load_data(options.data).train.take(torch.arange(max(IMAGES.values())))[0].numpy()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        worker = Worker(options.pythae, options.threads, folder)
        theirs = worker.ask("versions")
        nets = {network: net_of(network, folder) for network in NETWORKS}
        for network, net in nets.items():
            rows.append(step_row(worker, network, net, images, folder, 1 if options.quick else 15))
        for network, net in nets.items():
            rows += training_rows(worker, network, net, images, folder, options.threads, 1 if options.quick else 3)
        worker.close()
    facts = {
        "versions": f"pofx {pofx.__version__}, pythae {theirs['pythae']} with torch {theirs['torch']}",
        **machine(options.threads),
        "data": options.data,
        "included": INCLUDED,
    }
    print(f"{time.perf_counter() - begun:.0f} s", flush=True)
    write(options.out, facts | {"rows": rows})


if __name__ == "__main__":
    main()
