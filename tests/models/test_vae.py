"""What is particular to the VAE: its KL in closed form, its bound against the integral, noise keyed by the image."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

import pofx
from pofx.errors import InputError
from pofx.model import Batch, Context, Gaussian
from pofx.models.variational.vae import VAE
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.tasks.evaluate import evaluate
from pofx.testing import every_image, quadrature_log_prob, random_batch, random_images
from pofx.training.loop import TrainingPlan
from pofx.training.optimizers import make_optimizer
from pofx.views import Label, Subsample, Top


def test_kl_is_the_integral() -> None:
    z = torch.linspace(-30, 30, 600_001, dtype=torch.double)
    for mean, log_variance in ((0.0, 0.0), (1.5, -2.0), (-0.3, 1.0)):
        log_q = -0.5 * ((z - mean) ** 2 / math.exp(log_variance) + log_variance + math.log(2 * math.pi))
        log_p = -0.5 * (z**2 + math.log(2 * math.pi))
        integral = torch.trapezoid(log_q.exp() * (log_q - log_p), z)
        closed = Gaussian(torch.tensor([[mean]], dtype=torch.double), torch.tensor([[log_variance]], dtype=torch.double)).kl()
        assert abs(float(closed) - float(integral)) < 1e-8


def test_the_gap_of_the_bound_is_the_kl_to_the_true_posterior() -> None:
    """log p(x) − E[elbo] = KL(q(z|x) ‖ p(z|x)) by quadrature, one latent."""
    space = ImageSpace(1, 3, 3, levels=2)
    model = VAE(space, latents=1, channels=8, stages=1).double()
    x = random_images(1, space)
    z = torch.linspace(-8, 8, 4001, dtype=torch.double)[:, None]
    with torch.no_grad():
        q = model.posterior(x)
        log_q = -0.5 * ((z - q.mean) ** 2 / q.log_variance.exp() + q.log_variance + math.log(2 * math.pi))[:, 0]
        log_joint = model.unknown_sum(model.decode(z).log_prob(x.expand(len(z), -1, -1, -1))) - 0.5 * (z[:, 0] ** 2 + math.log(2 * math.pi))
        bound = torch.trapezoid(log_q.exp() * (log_joint - log_q), z[:, 0])
        gap = torch.trapezoid(log_q.exp() * (log_q - (log_joint - quadrature_log_prob(model, x, points=401))), z[:, 0])
        draws = torch.stack([model.elbo(x, samples=50, seed=s)[0] for s in range(40)])
        assert abs(float(quadrature_log_prob(model, x, points=401)[0] - bound - gap)) < 1e-8
        assert abs(float(draws.mean() - bound)) < 5 * float(draws.std()) / 40**0.5 + 1e-9


@pytest.mark.parametrize(
    ("likelihood", "scale"),
    [("categorical", "pixel"), ("logistic-mixture", "pixel")]
    + [(a, b) for a in ("logistic", "gaussian") for b in ("pixel", "shared", "optimal")],
)
def test_every_likelihood_sums_to_one(likelihood: Any, scale: Any) -> None:
    space = ImageSpace(3, 1, 2, levels=3)
    model = VAE(space, latents=1, channels=6, stages=1, likelihood=likelihood, components=2, scale=scale).double()
    with torch.no_grad():
        total = quadrature_log_prob(model, every_image(space)).exp().sum()
    assert abs(float(total) - 1) < 1e-6


def test_noise_belongs_to_the_image_not_to_its_place() -> None:
    model = VAE.small(ImageSpace(1, 5, 5))
    x = random_images(6, model.space)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    with torch.no_grad():
        assert torch.allclose(model.elbo(x)[order], model.elbo(x[order]), rtol=1e-6)
        assert not torch.allclose(model.elbo(x), model.elbo(x, seed=1))


def test_encode_gives_the_mean_unless_a_sample_is_asked_for() -> None:
    model = VAE.small(ImageSpace(1, 5, 5)).double()
    x = random_images(4, model.space)
    with torch.no_grad():
        assert torch.equal(model.encode(x), model.posterior(x).mean)
        assert not torch.equal(model.encode(x, sample=True), model.encode(x))


WRONG = [
    {"latents": 0},
    {"latents": 65},
    {"likelihood": "bernoulli"},
    {"likelihood": "gauss"},
    {"dropout": -0.1},
    {"kl_warmup": 2.0},
    {"beta": -1.0},
    {"free_bits": -1.0},
    {"importance_samples": 0},
    {"importance_samples": 5, "free_bits": 0.1},
    {"network": "transformer"},
    {"network": "mlp", "hidden": 0},
    {"scale": "shared", "likelihood": "categorical"},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError):
        VAE(ImageSpace(1, 8, 8), **wrong)


# Linear models: what is learned is known in closed form -----------------------------------------------------------------

LINE = ImageSpace(1, 2, 4)  # 8 numbers of 256 levels


def linear_data(n: int = 300) -> torch.Tensor:
    """Integers of 2 factors and noise of 12 levels, far from 0 and 255: bins are narrow and no mass lies at the edges."""
    generator = torch.Generator().manual_seed(0)
    loadings = torch.tensor([[30.0, 25, 20, 10, 0, -5, -10, 5], [0, 5, -10, 15, 20, 10, 5, -5]], dtype=torch.double)
    x = 128 + torch.randn(n, 2, generator=generator, dtype=torch.double) @ loadings
    x = (x + 12 * torch.randn(n, 8, generator=generator, dtype=torch.double)).round()
    assert float(x.min()) > 0 and float(x.max()) < 255
    return x.to(torch.uint8).reshape(-1, *LINE.shape)


def descend(model: VAE, x: torch.Tensor, steps: int, lr: float) -> None:
    """Full batches, with a rate that falls to nothing, so that what is left of the noise in the gradient averages out."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps) ** 2
        optimizer.zero_grad()
        loss, _ = model.objectives()[0].loss(Batch(x), Context(step, 0.5, Noise(step, torch.arange(len(x)))))
        loss.backward()
        optimizer.step()


def test_a_linear_gaussian_vae_is_probabilistic_pca() -> None:
    """Tipping and Bishop 1999, eq. 8: the largest marginal likelihood has W = U (Λ − σ²I)^½, σ² the mean of the eigenvalues left out."""
    torch.manual_seed(0)
    x = linear_data()
    flat = x.flatten(1).double()
    eigenvalues, vectors = torch.linalg.eigh(torch.cov(flat.T, correction=0))
    noise = eigenvalues[:-2].mean()
    covariance = vectors[:, -2:] @ torch.diag(eigenvalues[-2:] - noise) @ vectors[:, -2:].T + noise * torch.eye(8, dtype=torch.double)
    closed = torch.distributions.MultivariateNormal(flat.mean(0), covariance).log_prob(flat).mean()  # density × bin width, which is 1

    model = VAE(LINE, latents=2, network="mlp", layers=0, likelihood="gaussian", scale="shared", kl_warmup=0).double()
    descend(model, x, 1200, 0.05)
    with torch.no_grad():
        elbo = model.elbo(x, samples=64).mean()
        estimate = model.log_prob_estimate(x, samples=256).mean()
    assert abs(float(estimate - closed)) < 0.01
    assert -0.02 < float(elbo - closed) < 0.005  # the posterior of a linear model is Gaussian: the bound is tight


def test_without_kl_a_linear_decoder_spans_the_pca_subspace() -> None:
    torch.manual_seed(0)
    x = linear_data()
    model = VAE(LINE, latents=2, network="mlp", layers=0, likelihood="gaussian", scale="shared", beta=0, kl_warmup=0).double()
    descend(model, x, 600, 0.05)
    flat = x.flatten(1).double()
    axes = torch.linalg.svd(flat - flat.mean(0), full_matrices=False).Vh[:2].T
    found = torch.linalg.qr(dict(model.decoder.named_parameters())["net.out.weight"].detach()).Q
    assert float(torch.linalg.svdvals(axes.T @ found).min()) > 0.9999  # cosines of the angles between the two planes


# Training ----------------------------------------------------------------------------------------------------------------


def loss_of(model: VAE, batch: Batch, progress: float = 0.5, seed: int = 0) -> torch.Tensor:
    return model.objectives()[0].loss(batch, Context(3, progress, Noise(seed, torch.arange(len(batch.x)))))[0] * model.dims


def test_the_loss_is_the_bound_weighted_as_asked() -> None:
    space = ImageSpace(1, 4, 4, levels=2)
    x = Batch(random_images(50, space))

    def make(**settings: Any) -> VAE:
        torch.manual_seed(0)
        return VAE(space, latents=3, channels=8, stages=1, **settings).double()

    def parts(model: VAE) -> tuple[torch.Tensor, torch.Tensor]:
        _, logs = model.objectives()[0].loss(x, Context(3, 0.5, Noise(0, torch.arange(50))))
        return logs["reconstruction"], logs["kl"]

    reconstruction, kl = parts(make())
    assert torch.allclose(loss_of(make(), x), reconstruction + kl)
    assert torch.allclose(loss_of(make(beta=0.3), x), reconstruction + 0.3 * kl)
    assert torch.allclose(loss_of(make(kl_warmup=1.0), x), reconstruction + 0.5 * kl)
    assert torch.allclose(loss_of(make(free_bits=7.0), x), reconstruction + 3 * 7.0)  # the start costs less than that
    assert parts(make(beta=0.3)) == (reconstruction, kl)  # what is logged has β = 1
    with torch.no_grad():
        tighter = torch.stack([loss_of(make(importance_samples=20), x, seed=s) for s in range(5)]).mean()
        assert float(tighter) < float(torch.stack([loss_of(make(), x, seed=s) for s in range(5)]).mean())


def test_whatever_is_trained_all_splits_report_the_bound_at_beta_1(tmp_path: Path) -> None:
    """β, free bits and warm-up are of training only: train, valid and test report E_q[−log p(x|z)] + KL, here by quadrature over one latent and
    over every image, those of the last batch that is not full included."""
    data, draws = pofx.load_data("digits", levels=2), 8
    model = VAE(data.space, network="mlp", hidden=16, layers=1, latents=1, beta=4.0, free_bits=1.0, kl_warmup=0.5)
    run = pofx.train(model, data, out=tmp_path / "run", epochs=3, average=0, precision="64", threads=1, quiet=True)
    assert isinstance(run.model, VAE)
    found = evaluate(run.model, data, samples=draws, estimate=0, draw=0)
    standard = torch.linspace(-7, 7, 57, dtype=torch.double)
    weight = torch.exp(-0.5 * standard**2) / torch.exp(-0.5 * standard**2).sum()
    for name in ("train", "valid", "test"):
        x = data.parts[name].x
        with torch.no_grad():
            q = run.model.posterior(x)
            kl = 0.5 * (q.mean**2 + q.log_variance.exp() - 1 - q.log_variance).sum(1)
            z = q.mean + (0.5 * q.log_variance).exp() * standard  # (n, points)
            cost = torch.stack([-run.model.decode(z[:, [i]]).log_prob(x).flatten(1).sum(1) for i in range(len(standard))], 1)
        expected = (cost * weight).sum(1)
        error = float((((cost - expected[:, None]) ** 2 * weight).sum(1).sum() / draws).sqrt()) / len(x)
        split = found.splits[name]
        assert split.n == len(x) and split.latents is not None and split.nats is not None
        assert split.latents.kl.mean == pytest.approx(float(kl.mean()), abs=1e-6)
        assert abs(split.nats.mean - float((expected + kl).mean())) < 5 * error + 1e-6
        assert 3 * float(kl.mean()) > 20 * error, "β = 4 could not be told from β = 1"
    valid = evaluate(run.model, data, samples=1, estimate=0, draw=0).splits["valid"].nats
    assert valid is not None and run.metrics["valid_nats"] == pytest.approx(valid.mean, abs=1e-6)  # what training prints is the same


def test_many_draws_in_training_are_the_importance_weighted_bound() -> None:
    space = ImageSpace(1, 3, 3, levels=2)
    torch.manual_seed(0)
    model = VAE(space, latents=2, channels=8, stages=1, importance_samples=8).double()
    x = random_images(200, space)
    with torch.no_grad():
        trained_on = torch.stack([loss_of(model, Batch(x), seed=s) for s in range(12)])
        estimated = torch.stack([-model.log_prob_estimate(x, samples=8, seed=s).mean() for s in range(12)])
    error = math.hypot(float(trained_on.std()), float(estimated.std())) / 12**0.5
    assert abs(float(trained_on.mean() - estimated.mean())) < 4 * error


@pytest.mark.parametrize("likelihood", ["gaussian", "logistic"])
@pytest.mark.parametrize("view", [None, Top(2), Subsample(2)], ids=str)
def test_the_optimal_scale_makes_training_images_cost_least(likelihood: Literal["gaussian", "logistic"], view: Any) -> None:
    """Whatever was there before, and whatever is scored; sub-pixels that are known do not count."""
    space = ImageSpace(3, 4, 4)
    torch.manual_seed(0)
    model = VAE(space, view, latents=4, channels=8, stages=1, likelihood=likelihood, scale="optimal").double()
    images = [random_images(40, space, seed=s) // torch.tensor([1, 4, 16], dtype=torch.uint8)[:, None, None] for s in range(3)]
    train = [model.batch(x) for x in images]
    model.settle(iter(train))
    settled = model.log_scale.clone()
    assert len(settled.unique()) == 3, "each channel has its own"

    def cost(log_scale: torch.Tensor) -> float:
        model.log_scale.copy_(log_scale)
        with torch.no_grad():
            return -float(torch.stack([model.bound(b.x, b.given).log_likelihood.sum() for b in train]).sum())

    best = cost(settled)
    for channel in range(3):
        for delta in (-0.04, 0.04):
            assert cost(settled + delta * torch.eye(3)[channel]) > best, f"channel {channel}"
    model.log_scale.copy_(settled)
    one = train[0].x[:1], None if train[0].given is None else train[0].given[:1]
    before = model.elbo(*one)
    loss_of(model, train[1])  # a step follows its batch
    model.settle(iter(train))
    assert torch.equal(model.log_scale, settled), "settling depends on what was there"
    assert torch.equal(model.elbo(*one), before)


def test_the_optimal_scale_of_a_linear_model_is_that_of_probabilistic_pca() -> None:
    torch.manual_seed(0)
    x = linear_data()
    model = VAE(LINE, latents=2, network="mlp", layers=0, likelihood="gaussian", scale="optimal", kl_warmup=0).double()
    descend(model, x, 1200, 0.05)
    model.settle(iter([Batch(x)]))
    eigenvalues = torch.linalg.eigvalsh(torch.cov(x.flatten(1).double().T, correction=0))
    assert abs(float(model.log_scale[0].exp()) * 127.5 / float(eigenvalues[:-2].mean().sqrt()) - 1) < 0.03


@pytest.mark.parametrize("likelihood", ["gaussian", "logistic"])
def test_an_optimal_scale_trains_as_well_as_a_shared_one(likelihood: Literal["gaussian", "logistic"]) -> None:
    """Pixels at both ends of their range pull means out of it; the scale must not follow them."""
    data = pofx.load_data("digits")
    found = {}
    for scale in ("shared", "optimal"):
        torch.manual_seed(0)
        model = VAE(data.space, latents=8, network="mlp", hidden=64, likelihood=likelihood, scale=scale)
        x, _ = data.train.take(torch.arange(1000))
        optimizer = make_optimizer(model, model.objectives()[0].optimizer)
        for step in range(150):
            part = slice(100 * (step % 10), 100 * (step % 10) + 100)
            optimizer.zero_grad()
            model.objectives()[0].loss(Batch(x[part]), Context(step, step / 150, Noise(step, torch.arange(100))))[0].backward()
            optimizer.step()
        model.settle(model.batch(part) for part in x.split(100))
        with torch.no_grad():
            found[scale] = float(model.elbo(data.test.take(torch.arange(359))[0]).mean())
    assert found["optimal"] > found["shared"] - 3, found


def test_a_run_that_is_extended_does_not_warm_up_again() -> None:
    model = VAE(ImageSpace(1, 3, 3, levels=2), latents=2, channels=6, stages=1, kl_warmup=0.5)
    noise = Noise(0, torch.arange(1))
    assert model._weight(Context(9, 0.25, noise)) == 0.5
    assert model._weight(Context(9, 0.25, noise, extended=True)) == 1.0


@pytest.mark.parametrize("network", ["mlp", "convolutional", "residual"])
@pytest.mark.parametrize("view", [None, Label(3), Top(1)], ids=str)
def test_every_network_learns_and_keeps_the_contract_on_odd_sizes(network: Any, view: Any) -> None:
    space = ImageSpace(3, 3, 5, levels=4)
    torch.manual_seed(0)
    model = VAE(space, view, latents=2, network=network, channels=6, stages=1, hidden=12, layers=2).double()
    batch = random_batch(model, 6)
    loss_of(model, batch).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
    with torch.no_grad():
        together = model.elbo(batch.x, batch.given)
        alone = [model.elbo(batch.x[i : i + 1], None if batch.given is None else batch.given[i : i + 1]) for i in range(6)]
    assert torch.equal(together, torch.cat(alone))
    assert model.sample(2, None if batch.given is None else batch.given[:2]).shape == (2, *space.shape)


def test_draws_do_not_depend_on_how_many_follow_in_later_blocks() -> None:
    model = VAE.small(ImageSpace(1, 3, 3, levels=2)).double()
    noise = Noise(0, torch.arange(4))
    few, many = (torch.cat(list(model._blocks(noise, samples))) for samples in (128, 200))
    assert torch.equal(few, many[:128]) and len(many) == 200


def test_small_nets_take_larger_batches_and_of_two_levels_an_optimizer_that_costs_no_more_than_their_step(tmp_path: Path) -> None:
    space = ImageSpace(1, 4, 4, levels=2)
    nets = {name: VAE(space, network=name, channels=8, stages=1, hidden=8, latents=2) for name in ("mlp", "convolutional", "residual")}
    assert {name: (net.batch_size, net.objectives()[0].optimizer.name) for name, net in nets.items()} == {
        "mlp": (256, "AdamW"),
        "convolutional": (128, "Muon"),
        "residual": (64, "Muon"),
    }
    assert VAE(ImageSpace(1, 4, 4, levels=3), network="mlp", latents=2).objectives()[0].optimizer.name == "Muon"
    assert VAE(space, network="mlp", importance_samples=50, latents=2).batch_size == 64  # of 50 codes each
    for n in (50, 2_000, 14_000, 45_000):
        data = pofx.load_data(random_images(n, space))
        plan = pofx.train(nets["mlp"], data, out=tmp_path / "run", epochs=1, dry_run=True)
        images = len(data.train)
        assert isinstance(plan, TrainingPlan)
        assert plan.batch_size == (images if images < 64 else min(256, max(64, images // 100)))
