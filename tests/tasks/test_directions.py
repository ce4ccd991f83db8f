"""Directions and sums without images: vector arithmetic on samples, SeFa, GANSpace, truncation. Mathematics first, then bad input."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from pofx.errors import CapabilityError, InputError
from pofx.model import Decoder, ImageModel, Sampler, evaluating
from pofx.models.adversarial.gan import GAN
from pofx.models.adversarial.losses import NonSaturating
from pofx.models.autoencoding.autoencoder import Autoencoder
from pofx.models.autoregressive.pixelcnn import PixelCNN
from pofx.models.variational.ladder import LadderVAE
from pofx.models.variational.vae import VAE
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.tasks._decoding import draws
from pofx.tasks.arithmetic import arithmetic
from pofx.tasks.discover import discover, first_weight, pca, sefa, signed
from pofx.tasks.edit import directions, edit, remove, save
from pofx.tasks.sample import _truncated, sample
from pofx.views import Label, Top

SPACE = ImageSpace(1, 6, 6)
MODELS: list[type[ImageModel]] = [GAN, VAE, LadderVAE]


def gan(network: Any = "modern", **more: Any) -> GAN:
    torch.manual_seed(0)
    return GAN(SPACE, loss=NonSaturating(), network=network, latents=5, channels=6, stages=1, hidden=12, layers=2, **more)


def small(cls: type[ImageModel], view: Any = None) -> Any:
    torch.manual_seed(0)
    return cls.small(SPACE, view)


# Samples and their codes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", MODELS)
def test_codes_of_samples_are_those_that_are_drawn(cls: type[ImageModel]):
    """What arithmetic, edits and truncation rest on: sample k of a seed is decoded from draws(model, [k], seed)."""
    model = small(cls)
    assert isinstance(model, Decoder) and isinstance(model, Sampler)
    z, seen = draws(model, range(70), 4), []
    with torch.inference_mode():
        parts = list(_truncated(model, 70, None, 4, 0, 1.0, None))
    seen = torch.cat(parts)
    assert torch.equal(seen, model.sample(70, seed=4))
    assert torch.equal(draws(model, [69, 3], 4), z[[69, 3]])
    if isinstance(model, GAN):
        with torch.inference_mode():
            assert torch.equal(model.decode(z[:64]).mean.round().to(torch.uint8), seen[:64])


# Truncation -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", MODELS)
def test_truncation_1_changes_nothing_and_0_is_the_image_of_the_middle(cls: type[ImageModel]):
    model = small(cls)
    plain, one, none = (sample(model, 5, seed=2, first=3, truncation=t) for t in (1.0, 1.0, 0.0))
    assert plain.x is not None and one.x is not None and none.x is not None
    assert torch.equal(plain.x, model.sample(5, seed=2, first=3)) and torch.equal(plain.x, one.x)
    assert (plain.kind, none.kind, none.to_json()["truncation"]) == ("samples of p", "not samples of p", 0.0)
    middle = model.decode(torch.zeros(64, model.latent_dims))
    if isinstance(model, GAN):
        assert (none.x == middle.mean[:1].round().to(torch.uint8)).all()
    else:
        u = Noise(2, torch.arange(3, 67)).uniform("x", *SPACE.shape)
        assert torch.equal(none.x, middle.sample(u)[:5].to(torch.uint8))
        mean = sample(model, 2, show="mean", truncation=0.0)
        assert mean.x is not None and torch.allclose(mean.x, middle.mean[:2], atol=1e-3) and mean.truncation == 0


def test_truncation_scales_the_code_of_each_image():
    model = gan()
    found = sample(model, 3, seed=2, truncation=0.5)
    z = draws(model, range(64), 2)
    with torch.inference_mode():
        assert found.x is not None and torch.equal(found.x, model.decode(0.5 * z).mean.round().to(torch.uint8)[:3])
    spread = [float(sample(model, 64, truncation=t).x.float().std(0).mean()) for t in (1.0, 0.6, 0.2)]  # type: ignore[union-attr]
    assert spread[0] > spread[1] > spread[2]
    alone = sample(model, 1, seed=2, first=2, truncation=0.5)
    assert alone.x is not None and torch.equal(alone.x[0], found.x[2])


def test_truncated_images_keep_what_is_known(tmp_path: Path):
    model = small(GAN, Top(2))
    x = torch.randint(0, 256, (3, *SPACE.shape), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    value = model.batch(x).given
    found = sample(model, 3, value, truncation=0.3)
    assert found.x is not None and torch.equal(found.x[:, :, :2], x[:, :, :2]) and "top" in found.kind
    labelled = small(GAN, Label(3))
    assert sample(labelled, 4, torch.tensor([0, 1, 2, 0]), truncation=0.5, out=tmp_path / "a.npz").kind == "not samples of p(x | label)"
    with np.load(tmp_path / "a.npz") as arrays:
        assert arrays["y"].tolist() == [0, 1, 2, 0]


def test_bad_truncations_are_refused():
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(InputError, match=r"--truncation 0\.7"):
            sample(gan(), 2, truncation=wrong)
    with pytest.raises(CapabilityError, match=r"no latents.*--temperature"):
        sample(small(PixelCNN), 2, truncation=0.5)
    with pytest.raises(CapabilityError, match="cannot sample"):
        sample(small(Autoencoder), 2, truncation=0.5)
    with pytest.raises(InputError, match="one of them"):
        sample(gan(), 2, truncation=0.5, temperature=0.5)
    with pytest.raises(InputError, match="at least one"):
        sample(gan(), 0, truncation=0.5)


# Arithmetic -----------------------------------------------------------------------------------------------------------


def test_a_sum_is_that_of_the_means_by_hand(tmp_path: Path):
    model = gan()
    found = arithmetic(model, [3, 5, 9], [1, 2], [7, 8, 10, 11], seed=6, name="smile", out=tmp_path / "a.png")
    z = Noise(6, torch.arange(12)).normal("z", 5).float().double()
    v = z[[7, 8, 10, 11]].mean(0) - z[[1, 2]].mean(0)
    assert found.z is not None and found.x is not None and found.each is not None and found.start is not None
    assert torch.allclose(found.direction.tensor, v, atol=1e-12) and found.direction.n == (4, 2)
    assert torch.allclose(found.z, z[[3, 5, 9]].mean(0) + v, atol=1e-12)

    def decoded(codes: Tensor) -> Tensor:
        with torch.inference_mode(), evaluating(model):
            return model.decode(codes.float()).mean

    assert torch.allclose(found.x, decoded(found.z[None])[0], atol=1e-3)
    assert torch.allclose(found.each, decoded(z[[3, 5, 9]] + v), atol=1e-3)
    assert torch.equal(found.start[1:].round().to(torch.uint8), model.sample(12, seed=6)[[3, 5, 9]])
    assert torch.allclose(found.minus[0], decoded(z[[1, 2]].mean(0, keepdim=True))[0], atol=1e-3)
    assert Image.open(tmp_path / "a.png").size[0] > 5 * 60
    assert found.to_json()["groups"] == {"start": 3, "minus": 2, "plus": 4}


def test_what_was_added_is_a_direction_like_any_other(tmp_path: Path):
    model = gan()
    found = arithmetic(model, None, [1], [7], name="smile")
    assert found.x is None and found.z is None
    save(tmp_path, found.direction)
    known = directions(tmp_path)
    assert known == {"smile": found.direction} and known["smile"].accuracy is None
    added = edit(model, None, {"smile": 1.0}, known, samples=[3, 5, 9], out=tmp_path / "a.png")
    each = arithmetic(model, [3, 5, 9], [1], [7]).each
    assert each is not None and torch.allclose(added.x, each, atol=1e-3) and added.inversion is None
    edit(model, None, {"smile": -1.0}, known, samples=[3, 5], out=tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as arrays:
        assert (arrays["x"] == model.sample(6)[[3, 5]].numpy()).all() and arrays["id"][0] == "sample 3 of seed 0"
    remove(tmp_path, "smile")


def test_a_conditional_sum_is_decoded_with_its_view():
    model = small(GAN, Label(3))
    one, two = (arithmetic(model, [0], [1], [2], given=value).x for value in (1, 2))
    assert one is not None and two is not None and not torch.equal(one, two)
    with pytest.raises(InputError, match="given="):
        arithmetic(model, [0], [1], [2])
    v = arithmetic(model, None, [1], [2], given=0).direction
    many = edit(model, None, {"sum": 1.0}, {"sum": v}, samples=[0, 0], given=torch.tensor([1, 2]))
    assert torch.allclose(many.x, torch.stack([one, two]), atol=1e-3)


def test_bad_groups_are_refused():
    model = gan()
    wrongs: list[tuple[tuple[Any, Any, Any], str]] = [
        (([], [1], [2]), "--samples names no sample"),
        (([0], [], [2]), "--minus names no sample"),
        (([0], [1], []), "--plus names no sample"),
        (([0], [1, 1], [2]), "--minus names a sample twice"),
        (([0], [1, 2], [2, 3]), "Sample 2 is in both"),
        (([-1], [1], [2]), "from 0"),
    ]
    for groups, words in wrongs:
        with pytest.raises(InputError, match=words):
            arithmetic(model, *groups)
    with pytest.raises(InputError, match=r"\.png"):
        arithmetic(model, [0], [1], [2], out="a.csv")
    with pytest.raises(CapabilityError, match="no prior"):
        arithmetic(small(Autoencoder), [0], [1], [2])
    with pytest.raises(CapabilityError, match="needs Decoder"):
        arithmetic(small(PixelCNN), [0], [1], [2])
    with pytest.raises(InputError, match="Either images are edited or samples"):
        edit(model, None, {"a": 1.0}, {})


# Discovery ------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_sefa_finds_the_right_singular_vectors(d: int, h: int, seed: int):
    a = torch.randn(h, d, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    v, shares = sefa(a, min(d, h))
    values, vectors = torch.linalg.eigh(a.T @ a)
    for k in range(len(v)):
        assert float(v[k] @ (a.T @ a) @ v[k]) == pytest.approx(float(values[-1 - k]), abs=1e-9)
        assert abs(float(v[k] @ vectors[:, -1 - k])) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(shares, values.flip(0)[: len(v)] / values.sum(), atol=1e-9)
    assert torch.equal(signed(-v), v)


@pytest.mark.parametrize("network", ["mlp", "dcgan", "residual", "modern"])
def test_the_first_layer_is_the_weight_that_meets_z(network: Any):
    model = gan(network)
    start = model.generator.net.start
    a = first_weight(model)
    assert a is not None and torch.allclose(a, start.weight.detach().double(), atol=1e-5)
    found = discover(model, count=3)
    _, s, v = torch.linalg.svd(start.weight.detach().double())
    for k, d in enumerate(found.directions):
        assert abs(float(d.tensor @ v[k])) == pytest.approx(1, abs=1e-4)
        assert d.explained == pytest.approx(float(s[k] ** 2 / s.square().sum()), abs=1e-4)


@pytest.mark.parametrize("network", ["mlp", "dcgan", "residual", "modern"])
def test_early_activations_are_on_the_way_to_the_image(network: Any):
    """Whatever moves the image moves them too, and they are what `forward` computes."""
    model, z = gan(network), draws(gan(network), range(3))
    with torch.inference_mode(), evaluating(model):
        early = model.activations(z)
        assert early.shape[0] == 3 and early.ndim == 2
        again = model.generator.net.early(z, None)
        assert torch.equal(again.flatten(1), early)


def test_a_planted_axis_is_the_first_component():
    """Activations that grow along one direction of z: the component is that direction, all of it linear; in both ways of computing it."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(900, 4, generator=generator, dtype=torch.double)
    axis = torch.tensor([0.6, 0.0, 0.8, 0.0], dtype=torch.double)
    for h in (5, 1200):
        basis = torch.linalg.qr(torch.randn(h, 4, generator=generator, dtype=torch.double))[0]
        y = 9 * (z @ axis)[:, None] * basis[:, 0] + 2 * z[:, 1:2] * basis[:, 1] + 0.3 * z @ basis.T
        found, shares, linear = pca(y, z, 2)
        assert float(found[0] @ axis) > 0.999 and abs(float(found[1, 1])) > 0.99
        assert shares[0] == pytest.approx(81 / 86, abs=0.02) and float(linear.min()) > 0.999
    _, _, curved = pca((z[:, :1] ** 2 - 1) * basis[:, 0], z, 1)
    assert float(curved) < 0.1  # z² has no direction


def test_pca_of_an_affine_layer_is_sefa():
    generator = torch.Generator().manual_seed(1)
    a = torch.linalg.qr(torch.randn(20, 4, generator=generator, dtype=torch.double))[0] * torch.tensor([4.0, 2, 1, 0.5])
    z = torch.randn(20_000, 4, generator=generator, dtype=torch.double)
    by_samples, by_weights = pca(z @ a.T + 1, z, 2)[0], sefa(a, 2)[0]
    assert float((by_samples * by_weights).sum(1).abs().min()) > 0.995


@pytest.mark.parametrize("method", ["sefa", "pca"])
def test_directions_are_kept_shown_and_added(tmp_path: Path, method: Any):
    model = gan()
    found = discover(model, method=method, count=2, sample=4, seed=1, columns=5, out=tmp_path / "a.png")
    assert [d.name for d in found.directions] == [f"{method}-1", f"{method}-2"]
    assert all(float(d.tensor.norm()) == pytest.approx(1) and d.accuracy is None for d in found.directions)
    assert found.strengths.tolist() == [-3, -1.5, 0, 1.5, 3] and found.x.shape == (2, 5, *SPACE.shape)
    assert torch.equal(found.x[0, 2].round().to(torch.uint8), model.sample(5, seed=1)[4])
    for d in found.directions:
        save(tmp_path, d)
    added = edit(model, None, {f"{method}-1": 3.0}, directions(tmp_path), samples=[4], seed=1)
    assert torch.allclose(added.x[0], found.x[0, -1], atol=1e-2)
    assert Image.open(tmp_path / "a.png").size[0] > 5 * 60
    again = discover(model, method=method, count=2, sample=4, seed=1, columns=5)
    assert again.directions == found.directions
    assert (found.linear is None) == (method == "sefa")
    assert float(found.change_levels[0]) > 0


def test_where_no_early_layer_is_named_pca_looks_at_the_image():
    model = small(VAE)
    found = discover(model, method="pca", count=2)
    assert [d.name for d in found.directions] == ["pca-1", "pca-2"]
    assert discover(model, method="pca").directions == found.directions  # as many as there are, up to 8
    with pytest.raises(CapabilityError, match="--discover pca"):
        discover(small(LadderVAE))


@pytest.mark.parametrize(
    "settings", [{"network": "mlp"}, {"network": "mlp", "layers": 0}, {"network": "convolutional"}, {"network": "residual"}]
)
def test_sefa_of_a_vae_is_that_of_its_decoder(settings: dict[str, Any]):
    model = VAE(SPACE, latents=4, channels=8, hidden=8, stages=1, **settings)
    z = torch.randn(3, 4)
    h = model.first_layer(z)
    assert torch.allclose(model.first_layer(z.flip(0)), h.flip(0), atol=1e-6) and h.shape[0] == 3
    affine = model.first_layer(z[:1] + z[1:2]) + model.first_layer(torch.zeros(1, 4))
    assert torch.allclose(affine, h[:1] + h[1:2], atol=1e-5)
    assert [d.name for d in discover(model, count=2).directions] == ["sefa-1", "sefa-2"]


def test_bad_discoveries_are_refused(tmp_path: Path):
    model = gan()
    wrongs: list[dict[str, Any]] = [{"count": 0}, {"count": 6}, {"method": "ica"}, {"columns": 1}, {"reach": 0.0}]
    for wrong in [*wrongs, {"out": tmp_path / "a.gif"}, {"sample": -1}]:
        with pytest.raises(InputError):
            discover(model, **wrong)
    with pytest.raises(CapabilityError, match="no prior"):
        discover(small(Autoencoder))
    with pytest.raises(CapabilityError, match="needs Decoder"):
        discover(small(PixelCNN))
    with pytest.raises(InputError, match="given="):
        discover(small(GAN, Label(3)), count=1)
    torch.nn.init.zeros_(model.generator.net.start.weight)
    for method in ("sefa", "pca"):
        with pytest.raises(InputError, match="0 directions of z only"):
            discover(model, method=method, count=1)
