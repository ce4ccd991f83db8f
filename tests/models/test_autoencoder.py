"""What is particular to the autoencoder: it reaches PCA where it is linear, denoises where it is asked to, and has no p(x)."""

from __future__ import annotations

import pytest
import torch
from sklearn.decomposition import PCA

from pofx.data import load_data
from pofx.errors import CapabilityError, InputError
from pofx.model import Context, Sampler, capabilities, require
from pofx.models.autoencoding.autoencoder import Autoencoder
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.tasks.sample import sample
from pofx.tasks.score import score
from pofx.testing import densify, fit, random_images
from pofx.views import Label, Subsample

SPACE = ImageSpace(1, 6, 5, levels=17)


def context(n: int, seed: int = 0) -> Context:
    return Context(0, 0.0, Noise(seed, torch.arange(n)))


def loss(model: Autoencoder, x: torch.Tensor, seed: int = 0, y: torch.Tensor | None = None) -> torch.Tensor:
    [objective] = model.objectives()
    return objective.loss(model.batch(x, y), context(len(x), seed))[0]


def test_a_linear_one_reaches_pca() -> None:
    """Baldi and Hornik 1989: within 1 % of PCA's error on test images, from no knowledge of it (L-BFGS on all training images)."""
    data = load_data("digits")
    train, test = (part.x.flatten(1).double() / 16 for part in (data.train, data.test))
    model = Autoencoder(data.space, latents=4, network="linear")
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=800, history_size=20, tolerance_change=0, line_search_fn="strong_wolfe")
    batch, [objective] = model.batch(data.train.x), model.objectives()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value, _ = objective.loss(batch, context(len(train)))
        value.backward()
        return value

    optimizer.step(closure)
    pca = PCA(4, svd_solver="full").fit(train.numpy())
    best = torch.from_numpy(pca.inverse_transform(pca.transform(test.numpy()))).clamp(0, 1)
    with torch.no_grad():
        found = model.decode(model.encode(data.test.x)).mean.flatten(1).double() / 16
    ratio = float(((found - test) ** 2).sum()) / float(((best - test) ** 2).sum())
    assert abs(ratio - 1) < 0.01


@torch.no_grad()
def test_the_loss_is_the_squared_error_on_the_unit_interval() -> None:
    model = Autoencoder.small(SPACE).double()
    x = random_images(7, SPACE)
    z = model.encode(x)
    straight = (model.decoder(z, None) + 1) / 2
    assert float(loss(model, x)) == pytest.approx(float(((straight - x.double() / 16) ** 2).sum((1, 2, 3)).mean()))
    torch.testing.assert_close(model.decode(z).mean, (16 * straight).clamp(0, 16))


@torch.no_grad()
def test_noise_is_added_to_what_is_read_and_not_to_what_is_asked() -> None:
    x = random_images(64, SPACE)
    clean = Autoencoder(SPACE, latents=3, channels=4, network="mlp", layers=1).double()
    noisy = Autoencoder(SPACE, latents=3, channels=4, network="mlp", layers=1, denoise=0.5).double()
    noisy.load_state_dict(clean.state_dict())
    assert torch.equal(clean.encode(x), noisy.encode(x))
    assert float(loss(clean, x, seed=0)) == float(loss(clean, x, seed=1))
    assert float(loss(noisy, x, seed=0)) != float(loss(noisy, x, seed=1))
    h = x.double() / 8 - 1 + 2 * 0.5 * Noise(3, torch.arange(64)).normal("denoise", *SPACE.shape)
    straight = (noisy.decoder(noisy.encoder(h, None), None) + 1) / 2
    assert float(loss(noisy, x, seed=3)) == pytest.approx(float(((straight - x.double() / 16) ** 2).sum((1, 2, 3)).mean()))


def test_a_linear_denoiser_shrinks_like_wiener() -> None:
    """One number of variance v read through noise of variance σ²: x̂ = v / (v + σ²) x, the best that a straight map can do."""
    space = ImageSpace(1, 1, 1, levels=256)
    x = torch.tensor([64, 191], dtype=torch.uint8).repeat(500).reshape(-1, 1, 1, 1)
    v, sigma = (127 / 510) ** 2, 0.3
    model = Autoencoder(space, latents=1, network="linear", denoise=sigma).double()
    fit(model, model.batch(x), 600, lr=0.02)
    with torch.no_grad():
        low, high = (model.decode(model.encode(x[:2])).mean / 255).flatten().tolist()
    assert (high - low) / (127 / 255) == pytest.approx(v / (v + sigma**2), abs=0.05)


def test_values_stay_inside_and_the_gradient_passes() -> None:
    model = Autoencoder.small(SPACE).double()
    densify(model)
    z = (5 * Noise(0, torch.arange(20)).normal("z", 2)).requires_grad_()
    mean = model.decode(z).mean
    assert float(mean.min()) >= 0 and float(mean.max()) <= 16
    assert bool(torch.autograd.grad(mean.sum(), z)[0].any(1).all())


@torch.no_grad()
def test_known_pixels_are_decoded_as_they_are_and_cost_nothing() -> None:
    view = Subsample(2)
    model = Autoencoder.small(SPACE, view).double()
    x = random_images(5, SPACE)
    value, known = view.value(x, None), view.known(SPACE)
    decoded = model.decode(model.encode(x, value), value).mean
    assert known is not None and torch.equal(decoded[:, known], x[:, known].double())
    straight = (model.decoder(model.encode(x, value), model.context(value)) + 1) / 2
    assert float(loss(model, x)) == pytest.approx(float((((straight - x.double() / 16) ** 2)[:, ~known]).sum(1).mean()))


def test_it_has_no_p_of_x_and_says_what_it_has() -> None:
    model = Autoencoder.small(SPACE)
    assert capabilities(model) == ["Encoder", "Decoder", "Features"]
    for name in ("log_prob", "elbo", "log_prob_estimate", "sample", "posterior"):
        assert not hasattr(model, name)
    assert not hasattr(model.decode(torch.zeros(1, 2)), "log_prob")
    for ask in (lambda: score(model, random_images(2, SPACE)), lambda: sample(model, 2), lambda: require(model, Sampler, to="sample")):
        with pytest.raises(CapabilityError, match="it has Encoder, Decoder, Features"):
            ask()


def test_a_code_is_a_point() -> None:
    model, x = Autoencoder.small(SPACE), random_images(3, SPACE)
    with torch.no_grad():
        assert torch.equal(model.encode(x), model.encode(x, sample=True, seed=4))
        assert torch.equal(model.features(x), model.encode(x))
    with pytest.raises(InputError, match="with its given"):
        Autoencoder.small(SPACE, Label(3)).features(x)


@pytest.mark.parametrize("layers", [1, 2, 4, 7])
@pytest.mark.parametrize("network", ["convolutional", "mlp", "linear"])
def test_any_depth(layers: int, network) -> None:
    model = Autoencoder(SPACE, latents=3, channels=4, layers=layers, network=network)
    assert model.decode(model.encode(random_images(2, SPACE))).mean.shape == (2, *SPACE.shape)
    if network == "convolutional":
        assert sum(isinstance(m, torch.nn.Conv2d) for m in model.encoder.modules()) == layers
        assert sum(isinstance(m, torch.nn.Conv2d) for m in model.decoder.modules()) == layers
    if network == "linear":
        assert [tuple(p.shape) for p in model.parameters()] == [(3, 30), (3,), (30, 3), (30,)]


@pytest.mark.parametrize(
    "wrong", [{"latents": 0}, {"layers": 0}, {"channels": 0}, {"denoise": -0.1}, {"denoise": float("nan")}, {"network": "conv"}]
)
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError, match="Autoencoder: "):
        Autoencoder(SPACE, **wrong)
