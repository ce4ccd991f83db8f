"""How well does a fresh critic tell samples from real images? The value of the game (Goodfellow et al. 2014, eq. 1) on images that nobody trained on.

    V(D)  = E_p[log D(x)] + E_q[log(1 − D(x))]  ≤  V* = −log 4 + 2 JSD(p, q)          for every D, in nats
    so      JSD(p, q) ≥ (V(D) + log 4) / 2,     and ≥ 0

A game's own critic has trained on the very images, and against a generator that ran from it, so its V says little. Here a new classifier learns
training images against samples, σ of its logit is sharpened or flattened on valid images and other samples (one temperature a ≥ 0, D = σ(a · logit): at
a = 0 V is −log 4, so a critic that learned by heart does not fall far below), and V is taken on test images and fresh samples that neither has seen.
It is a lower bound of V* and depends on the critic: a small one, on few images, in a few hundred steps, misses what a larger one would see.
Samples and images enter as the same integers, so rounding gives nothing away. Of a conditional model, p and q are of x alone, over all its views.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pofx.errors import InputError
from pofx.metrics.mean import Mean
from pofx.model import ImageModel, Labeler, Sampler, require
from pofx.tasks._samples import draws, viewed
from pofx.tasks.bulk import Images, everything, per_image, subset

if TYPE_CHECKING:
    from pofx.data import Data

STEPS, BATCH_SIZE = 400, 64
TRAIN, HELD = 2000, 1000  # images and samples each that the critic learns, and that V is taken on, at most
ARGUMENTS: dict[str, Any] = {"classes": 2, "channels": 16, "stages": 2}
LOG_4 = math.log(4)
SEEDS = {"train": 1_000_001, "valid": 1_000_002, "test": 1_000_003}  # of samples: none that anything else measures


@dataclass(frozen=True)
class HeldOutCritic:
    """What a fresh critic finds.

    Attributes:
        value: V(D) on held-out images and samples, nats; a lower bound of −log 4 + 2 JSD.
        accuracy: the mean of the shares of real images and of samples that it tells, ½ where there is nothing to tell.
        n, n_samples: how many V is taken on.
        trained: images, and as many samples, that the critic learned; steps: of BATCH_SIZE each.
        temperature: a, by which its logit is multiplied.
        seconds: that all of it took.
    """

    value: Mean
    accuracy: Mean
    n: int
    n_samples: int
    trained: int
    steps: int
    temperature: float
    seconds: float

    @property
    def jsd(self) -> float:
        """max(0, (V + log 4) / 2), nats: the Jensen–Shannon divergence is at least this, as far as V is known."""
        return max(0.0, (self.value.mean + LOG_4) / 2)

    @property
    def text(self) -> str:
        """The finding, as a paragraph."""
        who = (
            f"A fresh critic, trained for {self.steps} steps on {self.trained:,} training images and as many samples, tells {self.n:,} test images from "
            f"{self.n_samples:,} fresh samples with {100 * self.accuracy.mean:.1f} ± {100 * self.accuracy.se:.1f} % accuracy (of each kind the share "
            "that it calls by its name, and their mean; 50 % where there is nothing to tell). "
        )
        if not self.temperature:
            return (
                f"{who}What it learned does not hold on the valid images, so it says D = ½ of all: V = −log 4 by that, and no difference was found. "
                "A stronger critic may find one."
            )
        text = who + (
            f"Its value, with logits × {self.temperature:.2g} as fits the valid images, is V = {self.value.mean:.3f} ± {self.value.se:.3f} nats; "
            f"−log 4 = {-LOG_4:.3f} where samples are perfect, "
            f"0 where they are told for certain. V of any critic is a lower bound of V* = −log 4 + 2 JSD, so JSD ≥ {self.jsd:.3f} ± "
            f"{self.value.se / 2:.3f} nats, of at most log 2 = {LOG_4 / 2:.3f}; a stronger critic may find more."
        )
        return text.replace(" -", " −")

    def to_json(self) -> dict[str, Any]:
        return {
            "value": self.value.to_json(),
            "kind": "lower bound",
            "jsd_at_least": self.jsd,
            "accuracy": self.accuracy.to_json(),
            "n": self.n,
            "n_samples": self.n_samples,
            "trained": self.trained,
            "steps": self.steps,
            "temperature": self.temperature,
            "seconds": self.seconds,
        }


def game_value(real: Tensor, fake: Tensor) -> Mean:
    """V = mean log σ(real) + mean log(1 − σ(fake)) of logits `(n,)`, `(m,)`, with its standard error: two independent means.

    >>> game_value(torch.zeros(3), torch.zeros(5)).mean  # −log 4
    -1.386294...
    """
    a, b = Mean.of(F.logsigmoid(real.double())), Mean.of(F.logsigmoid(-fake.double()))
    return Mean(a.mean + b.mean, math.hypot(a.se, b.se))


def told(real: Tensor, fake: Tensor) -> Mean:
    """Mean of the shares of real images with logit > 0 and of samples with logit < 0; a logit of 0 is half told."""
    a, b = Mean.of((real.sign() + 1) / 2), Mean.of((1 - fake.sign()) / 2)
    return Mean((a.mean + b.mean) / 2, math.hypot(a.se, b.se) / 2)


def temperature(real: Tensor, fake: Tensor) -> float:
    """The a ≥ 0 with the largest V of logits a · real and a · fake, out of 0 and a grid from 0.01 to 10: V is concave in a.

    >>> temperature(torch.tensor([1.0, -1.0]), torch.tensor([1.0, -1.0]))  # nothing to tell
    0.0
    """
    grid = [0.0, *torch.logspace(-2, 1, 61, dtype=torch.double).tolist()]
    return max(grid, key=lambda a: game_value(a * real, a * fake).mean)


def held_out_critic(
    model: ImageModel, data: Data, *, steps: int | None = None, seed: int = 0, say: Callable[[str], None] | None = None
) -> HeldOutCritic:
    """Train a fresh critic against a model's samples, and measure it on what is held out. About half a minute for small images.

    Args:
        data: what the model was trained on: its training images are learned, its valid images set the temperature, its test images are V's.
        steps: of training; STEPS by default.
        say: called with a line before it starts.

    Raises:
        CapabilityError: the model draws no samples.
        InputError: fewer than 2 images in train, valid or test.
    """
    from pofx import catalog
    from pofx.data import Split
    from pofx.training import train

    sampler = require(model, Sampler, to="be judged by its samples")
    steps = STEPS if steps is None else steps
    for part in ("train", "valid", "test"):
        if len(getattr(data, part)) < 2:
            raise InputError(
                f"{data.heading} has {len(getattr(data, part))} images in {part}; a held-out critic needs at least 2 in each part."
            )
    begun = time.perf_counter()
    # The views that held-out samples are given are never those of the images they are told from
    held_like, held_real, _ = viewed(sampler, subset(data.test, HELD, seed=seed), data, seed=seed)
    sources: dict[str, tuple[Images, Images]] = {
        "train": (subset(data.train, TRAIN, seed=seed), data.train),
        "valid": (subset(data.valid, HELD, seed=seed), data.train),
        "test": (held_real, held_like),
    }
    if say is not None:
        say(f"training a fresh critic for {steps} steps against samples")
    real = {name: everything(images)[0] for name, (images, _) in sources.items()}
    fake = {
        name: draws(sampler, max(len(real[name]), HELD if name == "test" else 2), like, seed=SEEDS[name] + seed)
        for name, (_, like) in sources.items()
    }
    parts = {name: _labelled(Split.of, real[name], fake[name]) for name in sources}
    game = replace(
        data,
        train=parts["train"],
        valid=parts["valid"],
        calib=parts["valid"],
        test=parts["test"],
        class_names=None,
        fingerprint="held-out critic",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = catalog.get("classifier")(data.space, **ARGUMENTS)
    with tempfile.TemporaryDirectory() as folder:
        run = train(
            fresh,
            game,
            out=Path(folder) / "critic",
            steps=steps,
            batch_size=BATCH_SIZE,
            seed=seed,
            precision="32",
            threads=torch.get_num_threads(),
            quiet=True,
        )
    critic = require(run.model, Labeler, to="judge")
    logits = {(name, kind): _logits(critic, x) for name in ("valid", "test") for kind, x in (("real", real[name]), ("fake", fake[name]))}
    a = temperature(logits["valid", "real"], logits["valid", "fake"])
    r, f = logits["test", "real"], logits["test", "fake"]
    return HeldOutCritic(game_value(a * r, a * f), told(r, f), len(r), len(f), len(real["train"]), steps, a, time.perf_counter() - begun)


def _labelled(make: Callable[[Tensor, Tensor], Any], real: Tensor, fake: Tensor) -> Any:
    return make(torch.cat([real.cpu(), fake]), torch.cat([torch.ones(len(real)), torch.zeros(len(fake))]).long())


def _logits(critic: Labeler, x: Tensor) -> Tensor:
    """log D(x) − log(1 − D(x)), float64 `(n,)`."""

    def logit(x: Tensor, _: Tensor | None) -> Tensor:
        log_prob = critic.label(x).log_prob.double()
        return log_prob[:, 1] - log_prob[:, 0]

    return per_image(critic, logit, x)
