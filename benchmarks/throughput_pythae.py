"""The side of pythae (Chadebec, Vincent and Allassonnière 2022) in `throughput_vae.py`, run by an interpreter that has it and no pofx.

It answers each line of JSON on its standard input with one on its standard output, and waits for the next without using a processor.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pythae.data.datasets import BaseDataset, DatasetOutput
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import CallbackHandler, TrainingCallback
from torch import Tensor, nn


def stack(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def gaussian(numbers: Tensor) -> ModelOutput:
    mean, log_variance = numbers.chunk(2, 1)
    return ModelOutput(embedding=mean, log_covariance=log_variance)


class DenseEncoder(BaseEncoder):
    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.net = stack(widths)

    def forward(self, x: Tensor) -> ModelOutput:
        return gaussian(self.net(x.flatten(1)))


class DenseDecoder(BaseDecoder):
    def __init__(self, widths: list[int], size: int) -> None:
        super().__init__()
        self.net, self.size = stack(widths), size

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=torch.sigmoid(self.net(z)).reshape(-1, 1, self.size, self.size))


class ConvolutionalEncoder(BaseEncoder):
    def __init__(self, channels: list[int], sizes: list[int], outputs: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, 2, padding=1) for a, b in pairwise(channels))
        self.out = nn.Linear(channels[-1] * sizes[-1] ** 2, outputs)

    def forward(self, x: Tensor) -> ModelOutput:
        h = x
        for conv in self.convs:
            h = F.silu(conv(h))
        return gaussian(self.out(h.flatten(1)))


class ConvolutionalDecoder(BaseDecoder):
    def __init__(self, channels: list[int], sizes: list[int], latents: int) -> None:
        super().__init__()
        self.sizes, self.start = sizes[::-1], nn.Linear(latents, channels[-1] * sizes[-1] ** 2)
        widths = [*channels[:0:-1], 1]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))

    def forward(self, z: Tensor) -> ModelOutput:
        h = self.start(z).reshape(len(z), -1, self.sizes[0], self.sizes[0])
        for conv, size in zip(self.convs, self.sizes[1:], strict=True):
            h = conv(F.interpolate(F.silu(h), size=(size, size), mode="nearest"))
        return ModelOutput(reconstruction=torch.sigmoid(h))


def make(weights: str, network: str, latents: int, widths: list[int], sizes: list[int]) -> VAE:
    """The same layers, with the weights of a file: those of pofx in the order of its parameters."""
    if network == "mlp":
        dims = sizes[0] ** 2
        encoder: BaseEncoder = DenseEncoder([dims, *widths, 2 * latents])
        decoder: BaseDecoder = DenseDecoder([latents, *widths, dims], sizes[0])
    else:
        encoder = ConvolutionalEncoder([1, *widths], sizes, 2 * latents)
        decoder = ConvolutionalDecoder([1, *widths], sizes, latents)
    config = VAEConfig(input_dim=(1, sizes[0], sizes[0]), latent_dim=latents, reconstruction_loss="bce")
    model = VAE(config, encoder=encoder, decoder=decoder)
    theirs = torch.load(weights, weights_only=True)
    with torch.no_grad():
        for mine, its in zip([*encoder.parameters(), *decoder.parameters()], theirs, strict=True):
            assert mine.shape == its.shape
            mine.copy_(its)
    return model


class Ready(list):
    """Batches that are there already, in the place of a DataLoader."""

    dataset: BaseDataset


class Steps:
    """`BaseTrainer.train_step` on ready batches, without its progress bar."""

    def __init__(self, data: str, batch: int, batches: int, optimizer: dict[str, Any], **net: Any) -> None:
        x = torch.from_numpy(np.load(data)[: batch * batches]).float()
        self.ready = [DatasetOutput(data=part, labels=torch.ones(batch)) for part in x.split(batch)]
        options = {name: value for name, value in optimizer.items() if name != "lr"}
        config = BaseTrainerConfig(
            output_dir=tempfile.mkdtemp(dir=os.environ["TMPDIR"]), per_device_train_batch_size=batch, learning_rate=optimizer["lr"],
            optimizer_cls="Adam", optimizer_params=options, no_cuda=True,
        )  # fmt: skip
        self.trainer = BaseTrainer(make(**net), BaseDataset(x, torch.ones(len(x))), training_config=config)
        self.trainer.prepare_training()
        self.trainer.callback_handler = CallbackHandler([], self.trainer.model)

    def first(self) -> dict[str, float]:
        """The loss of the first batch, in nats, read on [−1, 1] as pofx does; in training pythae reads the 0 and 1 that its likelihood needs."""
        model, x = self.trainer.model, self.ready[0].data
        with torch.no_grad():
            q = model.encoder(2 * x - 1)
            z, _ = model._sample_gauss(q.embedding, torch.exp(0.5 * q.log_covariance))
            _, reconstruction, kl = model.loss_function(model.decoder(z).reconstruction, x, q.embedding, q.log_covariance, z)
        return {"kl": float(kl), "reconstruction": float(reconstruction)}

    def run(self, steps: int) -> float:
        loader = Ready(self.ready[i % len(self.ready)] for i in range(steps))
        loader.dataset = self.trainer.train_dataset
        self.trainer.train_loader = loader
        begun = time.perf_counter()
        self.trainer.train_step(1)
        return time.perf_counter() - begun


class Clock(TrainingCallback):
    """When each epoch had ended, validated and its best model kept."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_epoch_end(self, training_config: BaseTrainerConfig, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())


def train(train: str, valid: str, epochs: int, **net: Any) -> float:
    """Seconds per epoch after the first, by `TrainingPipeline` with every setting but the number of epochs left alone."""
    clock = Clock()
    config = BaseTrainerConfig(output_dir=tempfile.mkdtemp(dir=os.environ["TMPDIR"]), num_epochs=epochs, no_cuda=True)
    pipeline = TrainingPipeline(model=make(**net), training_config=config)
    pipeline(train_data=np.load(train).astype(np.float32), eval_data=np.load(valid).astype(np.float32), callbacks=[clock])
    return (clock.ends[-1] - clock.ends[0]) / (epochs - 1)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what pythae prints is no answer
    torch.set_num_threads(int(sys.argv[1]))
    steps: dict[str, Steps] = {}
    found: Any
    for line in sys.stdin:
        question = json.loads(line)
        match question.pop("do"):
            case "versions":
                found = {"pythae": version("pythae"), "torch": torch.__version__, "python": platform.python_version()}
            case "make":
                net = question["net"]
                steps[net["network"]] = Steps(**{k: v for k, v in question.items() if k != "net"}, **net)
                found = steps[net["network"]].first()
            case "steps":
                found = steps[question["network"]].run(question["steps"])
            case _:
                net = question.pop("net")
                found = train(**question, **net)
        answers.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
