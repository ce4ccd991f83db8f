"""`benchmarks/throughput_vae.py`, as far as it goes without pythae."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

import pofx
from pofx.model import OptimizerSpec
from pofx.testing import random_images
from pofx.training.module import seed_torch


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "throughput_vae.py"
    spec = importlib.util.spec_from_file_location("throughput_benchmark", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("network", ["mlp", "convolutional"])
def test_the_other_side_is_told_the_shapes_of_the_net(benchmark: ModuleType, network: str) -> None:
    kernels = [tuple(p.shape[:2]) for p in benchmark.make(network).encoder.parameters() if p.ndim > 1]
    widths, sizes = benchmark.NETWORKS[network]["widths"], benchmark.NETWORKS[network]["sizes"]
    inputs = [28 * 28 if network == "mlp" else 1, *widths]
    places = 1 if network == "mlp" else sizes[-1] ** 2
    assert kernels == [*zip(widths, inputs, strict=False), (2 * benchmark.LATENTS, widths[-1] * places)]


def test_what_is_timed_is_the_step_of_a_run(benchmark: ModuleType, tmp_path: Path) -> None:
    """On the batches of a run, in its order, the same weights come out of it."""
    data = pofx.load_data(random_images(400, benchmark.SPACE))
    spec = OptimizerSpec("Adam", lr=1e-3, betas=(0.9, 0.99), schedule="constant", warmup=0.0)

    def model() -> pofx.models.VAE:
        made = benchmark.make("mlp")
        made.kl_warmup = 0.0  # so that a step does not depend on the length of the run
        objective = made.objectives()[0]
        made.objectives = lambda: [replace(objective, optimizer=spec)]
        return made

    run = pofx.train(
        model(), data, out=tmp_path / "run", steps=2, batch_size=benchmark.BATCH, average=0, precision="32", threads=1, quiet=True
    )
    ours = model().train()
    ours.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    order = pofx.data.order(len(data.train), seed=0, epoch=0)[: 2 * benchmark.BATCH]
    steps = benchmark.Steps(ours, data.train.take(order)[0], spec)
    assert steps.run(2) > 0
    for a, b in zip(run.model.parameters(), ours.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-6)


def test_seeding_one_device_is_seeding_all() -> None:
    with torch.random.fork_rng(devices=[]):
        seed_torch(5, torch.device("cpu"))
        found = torch.rand(3)
        torch.manual_seed(5)
        assert torch.equal(found, torch.rand(3))
