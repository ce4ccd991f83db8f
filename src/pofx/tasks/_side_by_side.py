"""One model's row in the table of all families, and what is usually claimed of families, held against such rows.

Speed is measured on the very samples that are judged: n images from seed 0, after one image to warm up, on the device and with the threads of
this process. It compares models measured in one run on one machine, and nothing else.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pofx.catalog import name_of
from pofx.metrics.mean import Mean, cost_json
from pofx.metrics.sharpness import Sharpness
from pofx.model import SAMPLE_CHUNK, ImageModel, LatentVariable, Progress, Sampler, Score, capabilities
from pofx.noise import Noise
from pofx.numbers import SIGNS
from pofx.tasks._decoding import means
from pofx.tasks._samples import SampleQuality, Yardstick, draws, labels_in_turn, sharpness_json, sharpness_of, views_in_turn
from pofx.tasks.bulk import Images

MEANS = 500  # of p(x | z), at most
Z = 2.0  # standard errors that a difference must have to be called one


@dataclass(frozen=True)
class Speed:
    """How fast a model draws: n images in `seconds`, at most `batch` at once, with `threads` of the processor, on `device`; `load` processes wanted
    the processor in the minute before (None where the system does not say)."""

    n: int
    seconds: float
    batch: int
    threads: int
    device: str
    load: float | None = None

    @property
    def per_second(self) -> float:
        return self.n / max(self.seconds, 1e-9)

    def to_json(self) -> dict[str, Any]:
        return {
            "samples_per_second": self.per_second,
            "n": self.n,
            "seconds": self.seconds,
            "batch": self.batch,
            "threads": self.threads,
            "device": self.device,
            "load": self.load,
        }


@dataclass(frozen=True)
class Entry:
    """What one model can tell, beside others; None where it cannot.

    Attributes:
        name: of the run; model: of the class in the catalogue.
        family: its place in the taxonomy; capabilities: what it can do.
        kind: of its likelihood: "exact", "lower bound", "estimate" or "none".
        nats, bits_per_dim: its mean cost.
        posterior: whether it has a q(z|x).
        speed, sharpness, quality: of its samples.
        means: sharpness of E[x | z] at draws of z, of a latent-variable model: what pictures of VAEs usually show. They are no samples.
    """

    name: str
    model: str
    family: tuple[str, ...]
    capabilities: tuple[str, ...]
    kind: str
    nats: Mean | None
    bits_per_dim: Mean | None
    posterior: bool
    speed: Speed | None
    sharpness: Sharpness | None
    quality: SampleQuality | None
    means: Sharpness | None = None

    @property
    def sign(self) -> str:
        """=, ≤ or ≈: how the printed cost relates to the true one."""
        return SIGNS[self.kind]

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "model": self.model,
            "family": list(self.family),
            "capabilities": list(self.capabilities),
            "kind": self.kind,
            **cost_json(self.nats, self.bits_per_dim),
            "posterior": self.posterior,
            "speed": None if self.speed is None else self.speed.to_json(),
            "sharpness": None if self.sharpness is None else sharpness_json(self.sharpness),
            "sharpness_of_means": None if self.means is None else sharpness_json(self.means),
            "samples": None if self.quality is None else self.quality.to_json(),
        }


@dataclass(frozen=True)
class Claim:
    """Something that is usually said of families, what was found here, and whether it holds; None where the numbers do not tell them apart."""

    text: str
    found: str
    holds: bool | None

    def to_json(self) -> dict[str, Any]:
        return {"claim": self.text, "found": self.found, "holds": self.holds}


def timed_draws(model: Sampler, n: int, like: Images, *, seed: int = 0, progress: Progress | None = None) -> tuple[Tensor, Speed]:
    """n samples, uint8 `(n, C, H, W)`, and how long they took; `like` as in `draws`."""
    draws(model, 1, like, seed=seed)
    begun = time.perf_counter()
    x = draws(model, n, like, seed=seed, progress=progress)
    seconds = time.perf_counter() - begun
    return x, Speed(n, seconds, min(n, model.draw_batch or SAMPLE_CHUNK), torch.get_num_threads(), str(model.device), _load())


def _load() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):
        return None


def entry(
    name: str,
    model: ImageModel,
    score: Score | None,
    drawn: tuple[Tensor, Speed] | None,
    reference: Images,
    yardstick: Yardstick | None,
    *,
    like: Images,
    seed: int = 0,
) -> Entry:
    """The row of a model from its score on the reference and its samples; `like` as in `draws`."""
    x, speed = drawn or (None, None)
    quality = None if x is None or yardstick is None else yardstick.measure(x, labels_in_turn(model, len(x), like))
    sharp = quality.sharpness if quality is not None else None if x is None else sharpness_of(x, reference, model.space.levels)
    return Entry(
        name,
        name_of(model),
        type(model).family,
        tuple(capabilities(model)),
        "none" if score is None else score.kind,
        None if score is None else Mean.of(score.nats),
        None if score is None else Mean.of(score.bits_per_dim),
        isinstance(model, LatentVariable),
        speed,
        sharp,
        quality,
        None if x is None or not isinstance(model, LatentVariable) else _means(model, min(len(x), MEANS), like, reference, seed=seed),
    )


def _means(model: LatentVariable, n: int, like: Images, reference: Images, *, seed: int) -> Sharpness | None:
    """Sharpness of n means of p(x | z), z ~ N(0, I), rounded as samples are, known pixels in their places as in samples."""
    z = Noise(seed, torch.arange(n)).normal("z", model.latent_dims).to(model.device, model.dtype)
    x = means(model, z, views_in_turn(model, n, like)).round().clamp(0, model.space.levels - 1).to(torch.uint8)
    return sharpness_of(x, reference, model.space.levels)


def claims(entries: Sequence[Entry]) -> tuple[Claim, ...]:
    """The usual claims that these rows can be held against.

    >>> claims([])
    ()
    """
    latent = [e for e in entries if "LatentVariable" in e.capabilities and e.sharpness is not None]
    critics = [e for e in entries if "Critic" in e.capabilities and e.sharpness is not None]
    stepwise = [e for e in entries if "Autoregressive" in e.capabilities and e.speed is not None]
    at_once = [e for e in entries if "Autoregressive" not in e.capabilities and e.speed is not None]
    found = []
    for e in latent:
        share, se = _share(e)
        found.append(
            Claim("samples of a VAE are blurrier than real images", f"{e.name}: sharpness {share:.2f} of real", _below(share, 1, se))
        )
        if e.means is not None:
            text = f"{e.name}: sharpness {e.means.share:.2f} of real, without the noise of p(x | z)"
            found.append(Claim("means of a VAE's p(x | z) are blurrier than real images", text, _below(e.means.share, 1, e.means.share_se)))
    for g in critics:
        for e in latent:
            (a, a_se), (b, b_se) = _share(e), _share(g)
            text = f"{g.name} {b:.2f}, {e.name} {a:.2f} of real"
            found.append(Claim("samples of a GAN are sharper than those of a VAE", text, _below(a, b, math.hypot(a_se, b_se))))
    for e in stepwise:
        for other in at_once:
            a, b = (row.speed.per_second for row in (e, other) if row.speed is not None)
            text = f"{e.name} {a:,.0f}, {other.name} {b:,.0f} samples a second"
            found.append(Claim("an autoregressive model is slower to sample", text, a < b))
    return tuple(found)


def _share(e: Entry) -> tuple[float, float]:
    assert e.sharpness is not None
    return e.sharpness.share, e.sharpness.share_se


def _below(a: float, b: float, se: float) -> bool | None:
    """Whether a < b; None where they are within Z standard errors, or one is no number."""
    return None if not abs(a - b) > Z * se else a < b
