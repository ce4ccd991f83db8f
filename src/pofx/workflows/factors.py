"""Which latent carries which factor: small VAEs on `shapes`, whose factors are known, over several seeds; and p(x|z) with z observed beside them.

    MIG, and the matrix I(z_j; v_k) / H(v_k)       `metrics/mutual_information_gap.py`, by the Gaussian q(z|x) of test images
    log p(x | z = factors)                         the VAE's own decoder, trained with the true factors in the place of z

Nothing in the bound asks for one factor a latent: a rotation of z leaves N(0, I), and so the bound, as it was (Locatello et al. 2019). What order is
found comes from the diagonal q and from the weight β of the KL term (Higgins et al. 2017), and other seeds find another: so the spread is reported.

With z observed there is nothing to infer, and no bound: training is regression, max Σ log p(x | v). All combinations of factors are equally
probable, so log p(x, v) = log p(x | v) − log 49,152 ≤ log p(x), a lower bound by a posterior that is a point: beside the VAE's it shows what
the VAE has to pay for finding its z alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pofx.data import shapes
from pofx.errors import InputError
from pofx.metrics.mean import Mean
from pofx.metrics.mutual_information_gap import MutualInformationGap, mutual_information_gap
from pofx.model import Decoder, ImageModel, LatentVariable, evaluating
from pofx.noise import Noise
from pofx.workflows._runs import trained

if TYPE_CHECKING:
    from pofx.data import Data

# One scale of the likelihood for all pixels: with one for each, most of training goes into how sure the black ones are, and z stays empty longer.
ARGUMENTS: Mapping[str, Any] = {"network": "mlp", "hidden": 256, "layers": 2, "scale": "shared", "lr": 2e-3}
LATENTS, STEPS, BATCH = 8, 1000, 64
LONGER = 4  # the told decoder is also trained so many times as long: regression goes on learning when the steps of the VAEs are over
ACTIVE = 0.01  # nats: a latent that costs less on average copies the prior


@dataclass(frozen=True)
class Trained:
    """One VAE, measured on the test images of `shapes`.

    Attributes:
        seed, beta: how it was trained.
        elbo: nats an image, at β = 1.
        log_likelihood: nats, the E_q[log p(x|z)] in it.
        kl: `(latents,)` nats, the mean cost of each latent.
        found: the mutual information gap.
    """

    seed: int
    beta: float
    elbo: Mean
    log_likelihood: Mean
    kl: Tensor
    found: MutualInformationGap

    @property
    def active(self) -> int:
        return int((self.kl > ACTIVE).sum())

    def to_json(self) -> dict[str, Any]:
        more = {"elbo": self.elbo.to_json(), "log_likelihood": self.log_likelihood.to_json(), "kl": self.kl.tolist(), "active": self.active}
        best = {name: int(j) for name, j in zip(shapes.NAMES, self.found.latent, strict=True)}
        gaps = dict(zip(shapes.NAMES, self.found.gaps.tolist(), strict=True))
        seed = {"seed": self.seed, "beta": self.beta}
        return seed | more | {"mig": self.found.gap, "gaps": gaps, "latent": best, "share": self.found.share.tolist()}


@dataclass(frozen=True)
class Factors:
    """All VAEs, and the decoder that was told the factors.

    Attributes:
        vaes: one for each β and seed.
        told: steps → nats an image, log p(x | v) of test images by the decoder that sees the true factors, after that many steps.
        n, steps, latents, arguments: the protocol.
        walked: uint8 `(2, 6, 8, 3, 16, 16)`: a factor a row walked through its values, as drawn and as the told decoder has them after most
            steps.
    """

    vaes: tuple[Trained, ...]
    told: Mapping[int, Mean]
    n: int
    steps: int
    latents: int
    arguments: Mapping[str, Any]
    walked: Tensor

    def told_bound(self, steps: int) -> Mean:
        """log p(x | v) − log(combinations), nats: a lower bound on log p(x)."""
        return Mean(self.told[steps].mean - math.log(math.prod(shapes.SHAPE)), self.told[steps].se)

    def spread(self, beta: float) -> dict[str, float]:
        """MIG over seeds: mean, standard deviation, least, most."""
        values = torch.tensor([v.found.gap for v in self.vaes if v.beta == beta], dtype=torch.double)
        if not len(values):
            raise InputError(f"beta={beta} was not trained; there is {', '.join(f'{b:g}' for b in sorted({v.beta for v in self.vaes}))}.")
        sd = float(values.std()) if len(values) > 1 else math.nan
        return {"mean": float(values.mean()), "sd": sd, "least": float(values.min()), "most": float(values.max())}

    def to_json(self) -> dict[str, Any]:
        betas = list(dict.fromkeys(v.beta for v in self.vaes))
        spread = {f"{beta:g}": {k: None if math.isnan(s) else s for k, s in self.spread(beta).items()} for beta in betas}
        protocol = {"data": shapes.NAME, "n": self.n, "steps": self.steps, "batch_size": BATCH, "latents": self.latents}
        more = {"arguments": dict(self.arguments), "factors": list(shapes.NAMES), "bins": self.vaes[0].found.bins, "mig": spread}
        told = [
            {"steps": steps, "log_likelihood": mean.to_json(), "lower_bound": self.told_bound(steps).to_json()}
            for steps, mean in self.told.items()
        ]
        more |= {"combinations": math.prod(shapes.SHAPE)}
        return protocol | more | {"told the factors": told, "vaes": [v.to_json() for v in self.vaes]}


def study(
    out: str | Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    betas: Sequence[float] = (1.0, 4.0),
    steps: int = STEPS,
    latents: int = LATENTS,
    arguments: Mapping[str, Any] = ARGUMENTS,
    data: Data | None = None,
    quiet: bool = True,
) -> Factors:
    """Train a VAE on `shapes` for each β and seed, and a decoder on the true factors, and measure them on the test images.

    Args:
        out: folder for the runs; what is there is not trained again.
        steps: of 64 images, for each.
        arguments: of `VAE`.
        data: `load_data("shapes")`, or another split of it.

    Raises:
        InputError: no seed or no β, images that are not of `shapes`, or `out` holds runs with other arguments.
    """
    from pofx.data import load_data

    if not seeds or not betas:
        raise InputError("A study needs a seed and a β at least, e.g. seeds=(0, 1, 2), betas=(1.0,).")
    data = load_data(shapes.NAME) if data is None else data
    known = shapes.factors(data.test.ids)
    vaes = []
    for beta in betas:
        for seed in seeds:
            folder = Path(out) / f"vae-beta{beta:g}-seed{seed}"
            settings = {"latents": latents, "beta": beta} | dict(arguments)
            model = trained("vae", data, folder, steps=steps, seed=seed, quiet=quiet, **settings)
            vaes.append(_measure(model, data.test.x, known, seed, beta))
    walk = torch.stack([walk_through(k) for k in range(len(shapes.NAMES))])
    told, decoded = {}, shapes.render(walk.flatten(0, 1))
    for length in (steps, LONGER * steps):
        model = tell(data, steps=length, arguments=arguments)
        with torch.no_grad():
            log_prob = [_log_prob(model, *pair) for pair in zip(data.test.x.split(256), coordinates(known).split(256), strict=True)]
            decoded = _decoder(model).decode(coordinates(walk.flatten(0, 1))).mean.round().to(torch.uint8)
        told[length] = Mean.of(torch.cat(log_prob))
    walked = torch.stack([shapes.render(walk.flatten(0, 1)), decoded]).unflatten(1, walk.shape[:2])
    return Factors(tuple(vaes), told, len(known), steps, latents, dict(arguments), walked)


def coordinates(factors: Tensor) -> Tensor:
    """Factors int64 `(n, 6)` as the z that a decoder is told, `(n, 8)`: the kind one-hot, the others on [−1, 1].

    >>> coordinates(torch.tensor([[2, 0, 7, 3, 0, 7]])).tolist()
    [[0.0, 0.0, 1.0, -1.0, 1.0, 1.0, -1.0, 1.0]]
    """
    kind = torch.nn.functional.one_hot(factors[:, 0], shapes.SHAPE[0]).float()
    rest = 2 * factors[:, 1:].float() / (torch.tensor(shapes.SHAPE[1:]) - 1) - 1
    return torch.cat([kind, rest], 1)


def walk_through(factor: int) -> Tensor:
    """Eight images that differ in one factor: int64 `(8, 6)`; a factor of fewer values keeps its last."""
    out = torch.tensor([[2, 3, 4, 3, 1, 4]]).repeat(8, 1)
    out[:, factor] = torch.arange(8).clamp(max=shapes.SHAPE[factor] - 1)
    return out


def tell(data: Data, *, steps: int = STEPS, arguments: Mapping[str, Any] = ARGUMENTS, seed: int = 0) -> ImageModel:
    """A VAE whose decoder was trained on the true factors in the place of z: max Σ log p(x | v). Its encoder is left untrained: do not ask it."""
    from pofx import catalog

    z, x = coordinates(shapes.factors(data.train.ids)), data.train.x
    settings: dict[str, Any] = {"latents": z.shape[1]} | dict(arguments)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = catalog.get("vae")(data.space, **settings)
    [objective] = model.objectives()
    optimizer = torch.optim.Adam(model.parameters(), lr=objective.optimizer.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        pick = (Noise(seed, torch.arange(BATCH) + step * BATCH).uniform("told", 1)[:, 0] * len(x)).long()
        loss = -_log_prob(model, x[pick], z[pick]).mean() / model.dims
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def _decoder(model: ImageModel) -> Decoder:
    assert isinstance(model, Decoder)
    return model


def _log_prob(model: ImageModel, x: Tensor, z: Tensor) -> Tensor:
    """log p(x | z): `(n,)` nats."""
    return model.unknown_sum(_decoder(model).decode(z).log_prob(x))


def _measure(model: ImageModel, x: Tensor, known: Tensor, seed: int, beta: float) -> Trained:
    assert isinstance(model, LatentVariable)
    with torch.no_grad(), evaluating(model):
        parts = [(model.posterior(batch), model.bound(batch)) for batch in x.split(256)]
    mean, log_variance = torch.cat([q.mean for q, _ in parts]), torch.cat([q.log_variance for q, _ in parts])
    log_likelihood, kl = torch.cat([b.log_likelihood for _, b in parts]), torch.cat([b.kl for _, b in parts])
    found = mutual_information_gap(mean, known, log_variance)
    return Trained(seed, beta, Mean.of(log_likelihood - kl.sum(1)), Mean.of(log_likelihood), kl.double().mean(0), found)
