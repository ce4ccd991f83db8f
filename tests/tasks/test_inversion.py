"""Codes of images for models that only decode: a generator whose answer is known, then what tasks make of such codes, then bad input."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pofx.errors import CapabilityError, InputError, RunError
from pofx.model import Decoder, Encoder, ImageModel, Objective, Progress, Sampler
from pofx.models.adversarial.gan import GAN
from pofx.models.variational.vae import VAE
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.tasks.bulk import TensorImages
from pofx.tasks.edit import Direction, edit, fingerprint, learn
from pofx.tasks.encode import codes, encode
from pofx.tasks.interpolate import interpolate
from pofx.tasks.invert import invert
from pofx.tasks.latent_map import latent_map
from pofx.tasks.reconstruct import reconstruct
from pofx.tasks.traverse import traverse
from pofx.testing import random_images
from pofx.views import Label, Top, View

SPACE = ImageSpace(1, 4, 4)
LATENTS = 3


@dataclass(frozen=True)
class Point:
    mean: Tensor


class Linear(Sampler, Decoder):
    """x = 128 + 20 A z: `A` `(16, 3)` has orthogonal columns of lengths 2, 1, ½."""

    family: ClassVar = ("toy",)
    paper: ClassVar = "none"

    def __init__(self, space: ImageSpace = SPACE, given: View | None = None) -> None:
        super().__init__(space, given)
        self.latent_dims = LATENTS
        q = torch.linalg.qr(torch.randn(space.dims, LATENTS, generator=torch.Generator().manual_seed(0), dtype=torch.double))[0]
        self.weight = nn.Parameter((q * torch.tensor([2.0, 1.0, 0.5])).float())

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None):
        return cls(space, given)

    def objectives(self) -> Sequence[Objective]:
        return []

    def decode(self, z: Tensor, given: Any = None) -> Point:
        value = self.check_given(given, len(z))
        shift = 0 if value is None or not isinstance(self.given, Label) else 10.0 * value[:, None]
        mean = (128 + 20 * 4 * z.to(self.weight) @ self.weight.T + shift).clamp(0, 255).reshape(-1, *self.space.shape)
        return Point(self.copy_known(mean, value))

    def draw(self, given: Tensor | None, noise: Noise, progress: Progress | None) -> Tensor:
        return self.decode(noise.normal("z", self.latent_dims), given).mean.round().to(torch.uint8)


def test_a_linear_generator_is_inverted():
    """G is affine: the codes come back, up to the rounding of pixels and the pull of the prior, which is as small."""
    model, z = Linear(), Noise(5, torch.arange(12)).normal("z", LATENTS)
    x = model.sample(12, seed=5)
    found = invert(model, x)
    assert float((found.z - z).abs().max()) < 0.05
    assert float(found.squared_error.max()) * 255**2 < 16 / 12 * 3  # of rounding, 16 pixels
    assert (found.squared_error <= found.start_error).all() and float(found.start_error.mean()) > 20 * float(found.squared_error.mean())
    assert torch.allclose(found.norm, found.z.double().norm(dim=1)) and found.typical_norm == math.sqrt(3)
    error = ((model.decode(found.z).mean - x.float()) / 255).square().flatten(1).sum(1).detach()
    assert torch.allclose(found.squared_error, error.double(), atol=1e-6)
    assert found.rmse_levels == pytest.approx(255 * math.sqrt(float(error.mean()) / 16), rel=1e-3)


def test_an_image_that_cannot_be_made_ends_at_the_nearest_one():
    """What is left is the part of the image outside of the span of A, by least squares."""
    model, x = Linear(), random_images(6, SPACE) // 4 + 96
    away = x.flatten(1).double() - 128
    q = torch.linalg.qr(model.weight.detach().double())[0]
    least = (away - away @ q @ q.T).square().sum(1) / 255**2
    found = invert(model, x)
    assert (found.squared_error >= least - 1e-6).all() and float((found.squared_error / least).max()) < 1.02


def test_a_small_gan_recovers_its_own_samples():
    torch.manual_seed(0)
    model = GAN.small(ImageSpace(1, 5, 5))
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    found = invert(model, model.sample(6, seed=3), steps=150)
    assert (found.squared_error <= found.start_error).all()
    rounding = 25 / 12 / 255**2  # of pixels to integers
    assert float(found.squared_error.mean()) < 1.2 * rounding < 0.5 * float(found.start_error.mean())


def test_no_end_is_worse_than_its_start_and_more_starts_are_no_worse_a_start():
    model, x = Linear(), random_images(5, SPACE)
    few, many = invert(model, x, steps=1, restarts=1), invert(model, x, steps=1, restarts=6)
    for found in (few, many):
        assert (found.squared_error <= found.start_error).all()
    assert (many.start_error <= few.start_error).all()


def test_codes_depend_neither_on_the_batch_nor_on_the_order():
    torch.manual_seed(0)
    model, x = GAN.small(ImageSpace(1, 5, 5)), random_images(7, ImageSpace(1, 5, 5))
    whole = invert(model, x, steps=15)
    assert torch.equal(invert(model, x.flip(0), steps=15).z.flip(0), whole.z)
    assert torch.equal(invert(model, x[4:5], steps=15).z, whole.z[4:5])
    assert torch.equal(invert(model, x, steps=15).z, whole.z)
    assert not torch.equal(invert(model, x, steps=15, seed=1).z, whole.z)


def test_gradients_and_modes_are_left_as_they_were():
    model = GAN.small(ImageSpace(1, 5, 5))
    model.train()
    with torch.inference_mode():
        invert(model, random_images(2, model.space), steps=2)
    assert model.training and all(p.grad is None for p in model.parameters())


def test_the_view_is_that_of_the_image_or_the_one_given():
    model, z = Linear(given=Label(3)), Noise(1, torch.arange(3)).normal("z", LATENTS)
    y = torch.tensor([0, 2, 1])
    x = model.sample(3, y, seed=1)
    for found in (invert(model, TensorImages(x, y)), invert(model, x, y)):
        assert float((found.z - z).abs().max()) < 0.05
    assert float(invert(model, x, 0).squared_error[1]) > 10 * float(invert(model, x, y).squared_error[1])
    with pytest.raises(InputError, match="no labels"):
        invert(model, x)


def test_known_pixels_are_not_counted():
    model, x = Linear(given=Top(2)), Linear().sample(3, seed=2)
    found = invert(model, x)
    assert found.dims == 8 and float(found.squared_error.max()) < 1e-3


# What tasks make of it ------------------------------------------------------------------------------------------------


def test_encode_says_what_its_codes_are(tmp_path: Path):
    model, x = Linear(), Linear().sample(5, seed=5)
    found = encode(model, x, out=tmp_path / "z.csv", steps=50)
    assert found.kind == "code by inversion (approximate)" and found.inversion is not None
    assert torch.equal(found.z, invert(model, x, steps=50).z) and torch.equal(codes(model, x), invert(model, x).z)
    rows = list(csv.DictReader((tmp_path / "z.csv").open()))
    assert list(rows[0]) == ["id", "z0", "z1", "z2", "squared_error", "norm"]
    encode(model, x, out=tmp_path / "z.npz", steps=5)
    with np.load(tmp_path / "z.npz") as arrays:
        assert arrays["squared_error"].shape == arrays["norm"].shape == (5,) and "approximate" in str(arrays["kind"])
    facts = found.to_json()["inversion"]
    assert facts["typical_norm"] == pytest.approx(math.sqrt(3)) and facts["squared_error"]["mean"] < facts["start_squared_error"]
    assert "approximate" in str(found.inversion) and "typical 1.73" in str(found.inversion)
    assert encode(VAE.small(SPACE), x).inversion is None
    with pytest.raises(CapabilityError, match="leave out --sample"):
        encode(model, x, sample=True)


def test_a_given_value_takes_the_place_of_that_of_the_images():
    model, x = VAE.small(SPACE, Label(4)), random_images(3, SPACE)
    y = torch.tensor([0, 3, 1])
    assert torch.equal(encode(model, x, given=y).z, encode(model, TensorImages(x, y)).z)
    assert not torch.equal(encode(model, x, given=2).z, encode(model, TensorImages(x, y)).z)


def test_reconstruct_by_inversion(tmp_path: Path):
    model, x = Linear(), Linear().sample(110, seed=5)
    found = reconstruct(model, x[:6], out=tmp_path / "a.png")
    assert found.show == "mean" and found.inversion is not None and "inversion" in found.what
    assert torch.equal(found.squared_error, found.inversion.squared_error)
    assert float((found.shown - x[:6].float()).abs().max()) < 3
    assert len(reconstruct(model, x[:9], limit=4).squared_error) == 4
    with pytest.raises(InputError, match="--limit"):
        reconstruct(model, x, limit=0)
    with pytest.raises(CapabilityError, match="--show mean"):
        reconstruct(model, x[:2], show="sd")


def test_paths_traversals_and_maps_of_images(tmp_path: Path):
    model, x = Linear(), Linear().sample(4, seed=5)
    path = interpolate(model, x[:2], steps=3, out=tmp_path / "a.png")
    assert path.inversion is not None and float((path.x[[0, -1]] - x[:2].float()).abs().max()) < 3
    assert path.to_json()["inversion"]["n"] == 2
    moved = traverse(model, base=x[:1], rows=2, columns=3)
    assert moved.inversion is not None and "approximate" in moved.around
    placed = latent_map(model, x)
    assert placed.points is not None and placed.points.shape == (4, 2) and "approximate" in placed.caption
    with pytest.raises(CapabilityError, match="by inversion"):
        latent_map(model)


def test_edits_of_images(tmp_path: Path):
    model, x = Linear(), Linear().sample(3, seed=5)
    v = Direction("first", (1.0, 0.0, 0.0), "mean", (), (5, 5), 1.0, 0.1, fingerprint(model))
    found = edit(model, x, {"first": 0.5}, {"first": v}, out=tmp_path / "a.png")
    step = 40 * model.weight.detach()[:, 0].reshape(SPACE.shape)
    inside = (x > 0) & (x < 255) & (found.x > 0) & (found.x < 255)  # pixels are cut off at both ends
    assert found.inversion is not None and float((found.x - x.float() - step)[inside].abs().max()) < 3
    assert Image.open(tmp_path / "a.png").size[0] > 190


def test_a_direction_is_learned_by_inversion():
    model = Linear()
    z = Noise(0, torch.arange(40)).normal("z", LATENTS)
    z[:20, 1], z[20:, 1] = z[:20, 1].abs() + 0.5, -z[20:, 1].abs() - 0.5
    x = model.decode(z).mean.detach().round().to(torch.uint8)
    found = learn(model, "second", x[:20], x[20:], source="plus against minus")
    assert abs(found.tensor[1]) > 3 * found.tensor[[0, 2]].abs().max()
    assert found.accuracy is not None and found.accuracy > 0.9 and "approximate" in found.source


# Samples --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [Linear, GAN, VAE])
def test_a_path_between_samples_is_exact(cls: type[ImageModel]):
    torch.manual_seed(0)
    model = cls.small(SPACE)
    assert isinstance(model, Decoder)
    path = interpolate(model, samples=(3, 8), seed=2, steps=5)
    z = Noise(2, torch.tensor([3, 8])).normal("z", model.latent_dims).to(model.dtype)
    assert torch.equal(path.z[[0, -1]], z) and path.inversion is None
    if not isinstance(model, VAE):  # whose samples are drawn around what is decoded
        assert isinstance(model, Sampler)
        drawn = model.sample(9, seed=2)[[3, 8]]
        assert torch.equal(path.x[[0, -1]].round().to(torch.uint8), drawn)


# Bad input ------------------------------------------------------------------------------------------------------------


def test_bad_inversions_are_refused():
    model, x = Linear(), random_images(2, SPACE)
    wrongs: list[dict[str, Any]] = [{"steps": 0}, {"restarts": 0}]
    for wrong in wrongs:
        with pytest.raises(InputError, match="--steps 200 --restarts 4"):
            invert(model, x, **wrong)
    with pytest.raises(InputError, match="this space holds"):
        invert(model, torch.zeros(1, 1, 5, 5, dtype=torch.uint8))
    with pytest.raises(InputError, match="no images"):
        invert(model, x[:0])
    with pytest.raises(InputError, match="without given"):
        invert(model, x, 1)

    class Coder(Linear, Encoder):
        def encode(self, x: Tensor, given: Any = None, *, sample: bool = False, seed: int = 0) -> Tensor:
            raise NotImplementedError

    class Broken(Linear):
        def decode(self, z: Tensor, given: Any = None) -> Point:
            return Point(super().decode(z, given).mean * math.nan)

    with pytest.raises(RunError, match="image '0' is not finite"):
        invert(Broken(), x, steps=2)
    from pofx.models.autoencoding.autoencoder import Autoencoder
    from pofx.models.autoregressive.pixelcnn import PixelCNN

    with pytest.raises(CapabilityError, match="no prior"):
        invert(Autoencoder.small(SPACE), x)
    with pytest.raises(CapabilityError, match="needs Decoder"):
        invert(PixelCNN.small(SPACE), x)
    with pytest.raises(InputError, match="Codes of this Linear are"):
        from pofx.tasks._decoding import means

        means(model, torch.zeros(2, 5))
