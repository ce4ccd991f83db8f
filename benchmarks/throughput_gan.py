"""Training throughput of the GAN against a plain script of the same nets, and what a gradient penalty costs, in one process by turns.

    python benchmarks/throughput_gan.py [--out results/throughput-gan.json] [--threads 1] [--quick]

"plain"     DCGAN as people write it: `nn.Sequential`, contiguous, `randn`, one generated batch for both players, binary cross-entropy on logits,
            detach, backward, `torch.optim.Adam`. The same layers, weights and images.
"eager"     all of `Game.play` but reading the batch, with the same Adam: keyed noise, dequantization, losses, backward,
            the norms of the gradients and the checks that they are finite, Adam, averaged weights, logs.
"float32"   the same with what `pofx.train` switches on by itself in this precision: channels-last, and Adam in one pass.
"defaults"  the same with --precision auto: bfloat16 where the processor has instructions for it (the row says which it was).
"penalty"   one critic step of WGAN-GP, and of Relativistic with R1 and R2, against the same loss without the penalty.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _record import machine, tell, write
from throughput_vae import Steps, turns
from torch import Tensor, nn

import pofx
from pofx.heap import keep_pages
from pofx.model import Batch, Context
from pofx.models import GAN
from pofx.models.adversarial.losses import Loss, NonSaturating, Relativistic, WassersteinGP
from pofx.noise import Noise
from pofx.training.loop import chosen_precision

BATCH, CHANNELS, LATENTS = 64, 32, 64


def make(loss: Loss, network: str = "dcgan", normalisation: str | None = None) -> GAN:
    torch.manual_seed(0)
    space = pofx.ImageSpace(1, 28, 28)
    return GAN(space, loss=loss, network=network, normalisation=normalisation, channels=CHANNELS, latents=LATENTS)  # type: ignore[arg-type]


class Plain:
    """DCGAN in a page."""

    def __init__(self, like: GAN, x: Tensor) -> None:
        w = [CHANNELS * 2**i for i in range(3)]
        self.g = nn.Sequential(
            nn.Linear(LATENTS, w[2] * 16), nn.Unflatten(1, (w[2], 4, 4)), nn.BatchNorm2d(w[2]), nn.ReLU(),
            nn.ConvTranspose2d(w[2], w[1], 5, 2, 2, 0, bias=False), nn.BatchNorm2d(w[1]), nn.ReLU(),
            nn.ConvTranspose2d(w[1], w[0], 5, 2, 2, 1, bias=False), nn.BatchNorm2d(w[0]), nn.ReLU(),
            nn.ConvTranspose2d(w[0], 1, 5, 2, 2, 1), nn.Tanh(),
        )  # fmt: skip
        self.d = nn.Sequential(
            nn.Conv2d(1, w[0], 5, 2, 2), nn.LeakyReLU(0.2),
            nn.Conv2d(w[0], w[1], 5, 2, 2, bias=False), nn.BatchNorm2d(w[1]), nn.LeakyReLU(0.2),
            nn.Conv2d(w[1], w[2], 5, 2, 2, bias=False), nn.BatchNorm2d(w[2]), nn.LeakyReLU(0.2),
            nn.Flatten(), nn.Linear(w[2] * 16, 1),
        )  # fmt: skip
        g, d = like.generator.net, like.critic.net
        theirs = [g.start, *(part for pair in zip(g.norms, g.up, strict=True) for part in pair)]
        theirs += [d.down[0], *(part for i in (1, 2) for part in (d.down[i], d.norms[i])), d.out]
        ours = [p for net in (self.g, self.d) for p in net.parameters()]
        for p, q in zip(ours, [q for part in theirs for q in part.parameters()], strict=True):
            assert p.shape == q.shape
            p.data.copy_(q.data)
        z, real = torch.randn(4, LATENTS), x[:4].float() / 127.5 - 1
        assert torch.allclose(self.g(z), g(z, None), atol=1e-5) and torch.allclose(self.d(real)[:, 0], d(real, None), atol=1e-4)
        assert sum(p.numel() for p in (*self.g.parameters(), *self.d.parameters())) == sum(p.numel() for p in like.parameters())
        self.adam = [torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999)) for net in (self.d, self.g)]
        self.real = (x.float() / 127.5 - 1).split(BATCH)
        self.step = 0

    def run(self, steps: int) -> float:
        begun = time.perf_counter()
        for _ in range(steps):
            real = self.real[self.step % len(self.real)]
            ones, zeros = torch.ones(BATCH, 1), torch.zeros(BATCH, 1)
            fake = self.g(torch.randn(BATCH, LATENTS))
            self.adam[0].zero_grad()
            loss = F.binary_cross_entropy_with_logits(self.d(real), ones) + F.binary_cross_entropy_with_logits(self.d(fake.detach()), zeros)
            loss.backward()
            self.adam[0].step()
            self.adam[1].zero_grad()
            F.binary_cross_entropy_with_logits(self.d(fake), ones).backward()
            self.adam[1].step()
            self.step += 1
        return time.perf_counter() - begun


class Eager(Steps):
    """Ours with `torch.optim.Adam` as the plain script has it."""

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(player.parameters.parameters(), lr=2e-4, betas=(0.5, 0.999)) for player in self.players]


def critic_step(model: GAN, x: Tensor) -> Callable[[], float]:
    """Seconds of loss and backward pass of the critic's turn."""
    critic, noise = model.objectives()[0], Noise(0, torch.arange(BATCH))
    for p in model.generator.parameters():
        p.requires_grad_(False)

    def run() -> float:
        begun = time.perf_counter()
        model.zero_grad(set_to_none=True)
        loss, _ = critic.loss(Batch(x[:BATCH]), Context(0, 0.0, noise))
        loss.backward()
        return time.perf_counter() - begun

    run()
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description="Training throughput of the GAN against a plain script.")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--quick", action="store_true", help="three repeats")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_pages()  # as `pofx.train` does
    x = pofx.load_data(options.data).train.take(torch.arange(20 * BATCH))[0]
    repeats, rows = 3 if options.quick else 15, []

    def add(what: str, ours: list[float], base: list[float], images: int, precision: str = "float32") -> None:
        ratio = [b / a for a, b in zip(ours, base, strict=True)]
        found = {
            "what": what,
            "precision": precision,
            "images_per_second": round(images / statistics.median(ours), 1),
            "load": os.getloadavg()[0],
        }
        found |= {"ratio": round(statistics.median(ratio), 3), "ratios": [round(r, 3) for r in ratio]}
        rows.append(found)
        tell(found)

    model = make(NonSaturating())
    plain, steps = Plain(model, x), 4
    eager = Eager(make(NonSaturating()).train(), x, None, BATCH)
    half = chosen_precision("auto", torch.device("cpu")) == "bf16"
    full, default = (Steps(make(NonSaturating()).train().to(memory_format=torch.channels_last), x, None, BATCH) for _ in range(2))  # type: ignore[call-overload]

    def by_itself() -> float:
        seconds = 0.0
        for _ in range(steps):  # each by itself: within one context autocast would take the weights of the first for all
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                seconds += default.run(1)
        return seconds

    sides = [lambda: plain.run(steps), lambda: eager.run(steps), lambda: full.run(steps), by_itself]
    turns(sides, 1)
    base, *others = turns(sides, repeats)
    add("plain", base, base, steps * BATCH)
    for what, seconds in zip(("eager", "float32", "defaults"), others, strict=True):
        add(what, seconds, base, steps * BATCH, "bfloat16" if half and what == "defaults" else "float32")
    for loss, without in ((WassersteinGP(), WassersteinGP(penalty=0.0)), (Relativistic(), Relativistic(r1=0.0, r2=0.0))):
        for network, norm in (("dcgan", "layer"), ("modern", None)):
            pair = [make(each, network, norm).to(memory_format=torch.channels_last) for each in (loss, without)]  # type: ignore[call-overload]
            a, b = turns([critic_step(each, x) for each in pair], repeats)
            add(f"penalty of {type(loss).__name__}, {network}", a, b, BATCH)
    facts = {
        "versions": f"pofx {pofx.__version__}, torch {torch.__version__}",
        **machine(options.threads),
        "data": options.data,
        "nets": f"DCGAN, {CHANNELS} channels, batch {BATCH}",
    }
    write(options.out, facts | {"rows": rows})


if __name__ == "__main__":
    main()
