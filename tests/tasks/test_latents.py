"""Codes at work, on linear models whose answers are known: mathematics first, then behaviour, then bad input."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from pofx import pictures
from pofx.errors import CapabilityError, InputError, RunError
from pofx.likelihoods import Likelihood, PixelDistribution
from pofx.model import (
    Bound,
    Decoder,
    Encoder,
    Gaussian,
    ImageModel,
    LatentVariable,
    Objective,
    Progress,
    Sampler,
)
from pofx.noise import Noise, hash_images
from pofx.space import ImageSpace
from pofx.tasks.bulk import TensorImages
from pofx.tasks.edit import direction, directions, edit, groups_by_label, held_out_accuracy, learn, orthogonal, pick, remove, save
from pofx.tasks.encode import encode
from pofx.tasks.interpolate import interpolate, lerp, slerp
from pofx.tasks.latent_map import latent_map
from pofx.tasks.reconstruct import reconstruct
from pofx.tasks.sample import sample
from pofx.tasks.traverse import mean_kl, traverse
from pofx.testing import random_images
from pofx.views import Label, Top, View

SPACE = ImageSpace(1, 2, 3, levels=32)
DIMS = SPACE.dims


@dataclass(frozen=True)
class Point:
    mean: Tensor


class Toy(ImageModel):
    family: ClassVar = ("toy",)
    paper: ClassVar = "none"

    def __init__(self, space: ImageSpace = SPACE, given: View | None = None) -> None:
        super().__init__(space, given)
        self.weight = nn.Parameter(torch.zeros(1))
        self.latent_dims = space.dims

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None):
        return cls(space, given)

    def objectives(self) -> Sequence[Objective]:
        return []


class Plain(Toy, Encoder, Decoder):
    """An autoencoder that loses nothing: z is the pixels on [−1, 1]."""

    def encode(self, x: Tensor, given: Any = None, *, sample: bool = False, seed: int = 0) -> Tensor:
        x, _ = self.check_pair(x, given)
        return x.flatten(1).float() * (2 / (self.space.levels - 1)) - 1

    def decode(self, z: Tensor, given: Any = None) -> Point:
        value = self.check_given(given, len(z))
        mean = (z.reshape(-1, *self.space.shape).float() + 1) * ((self.space.levels - 1) / 2)
        return Point(self.copy_known(mean.clamp(0, self.space.levels - 1), value))


class Linear(Toy, LatentVariable, Sampler):
    """q(z|x) = N(pixels on [−1, 1], σ²) and p(x|z) a narrow logistic around z; dimension 2 is the most used one."""

    log_variance = -4.0

    def posterior(self, x: Tensor, given: Any = None) -> Gaussian:
        x, _ = self.check_pair(x, given)
        mean = x.flatten(1).float() * (2 / (self.space.levels - 1)) - 1
        log_variance = torch.full_like(mean, self.log_variance)
        log_variance[:, 2] -= 2
        return Gaussian(mean, log_variance)

    def encode(self, x: Tensor, given: Any = None, *, sample: bool = False, seed: int = 0) -> Tensor:
        q = self.posterior(x, given)
        return q.sample(Noise(seed, hash_images(x)).normal("z", self.latent_dims).float()) if sample else q.mean

    def decode(self, z: Tensor, given: Any = None) -> PixelDistribution:
        self.check_given(given, len(z))
        mean = z.reshape(-1, *self.space.shape).float()
        return Likelihood("logistic", self.space)(torch.cat([mean, torch.full_like(mean, -3.0)], 1))

    def bound(self, x: Tensor, given: Any = None, *, samples: int = 1, seed: int = 0) -> Bound:
        raise NotImplementedError

    def bound_at(self, x: Tensor, epsilon: Tensor, given: Any = None) -> Bound:
        raise NotImplementedError

    def log_prob_estimate(self, x: Tensor, given: Any = None, *, samples: int, seed: int = 0) -> Tensor:
        raise NotImplementedError

    def draw(self, given: Tensor | None, noise: Noise, progress: Progress | None) -> Tensor:
        z = noise.normal("z", self.latent_dims)
        return self.decode(z, given).sample(noise.uniform("x", *self.space.shape)).to(torch.uint8)


class Generator(Toy, Sampler, Decoder):
    """Decodes only, like a GAN; pixel 4 moves most."""

    def decode(self, z: Tensor, given: Any = None) -> Point:
        self.check_given(given, len(z))
        gain = torch.tensor([1.0, 1, 1, 1, 5, 1])
        return Point(((gain * z.float()).reshape(-1, *self.space.shape) + 16).clamp(0, 31))

    def draw(self, given: Tensor | None, noise: Noise, progress: Progress | None) -> Tensor:
        return self.decode(noise.normal("z", self.latent_dims)).mean.round().to(torch.uint8)


class Draws(Toy, Sampler):
    """Has samples and no codes."""

    def draw(self, given: Tensor | None, noise: Noise, progress: Progress | None) -> Tensor:
        return torch.zeros(len(noise), *self.space.shape, dtype=torch.uint8)


class Collapsed(Plain):
    """Its codes say nothing."""

    def encode(self, x: Tensor, given: Any = None, *, sample: bool = False, seed: int = 0) -> Tensor:
        return torch.full((len(x), self.latent_dims), 0.3)


def images(n: int, seed: int = 0) -> Tensor:
    return random_images(n, SPACE, seed)


def planted(n: int, shift: float, v: Tensor, seed: int) -> Tensor:
    return torch.randn(n, len(v), generator=torch.Generator().manual_seed(seed), dtype=torch.double) + shift * v


# Paths ----------------------------------------------------------------------------------------------------------------

vectors = st.lists(st.floats(-3, 3), min_size=3, max_size=8).map(lambda v: torch.tensor(v, dtype=torch.double))


@given(vectors, st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_slerp_keeps_the_norm_and_hits_both_ends_exactly(a: Tensor, seed: int):
    if float(a.norm()) < 1e-3:
        return
    b = torch.randn(len(a), generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    b = b * (a.norm() / b.norm())
    t = torch.linspace(0, 1, 9, dtype=torch.double)
    path = slerp(a, b, t)
    assert torch.equal(path[0], a) and torch.equal(path[-1], b)
    assert torch.allclose(path.norm(dim=1), a.norm(), rtol=1e-9)
    cosines = torch.nn.functional.cosine_similarity(path[:-1], path[1:], dim=1)
    assert torch.allclose(cosines, cosines[0], atol=1e-9)  # equal angles
    assert torch.allclose(slerp(b, a, 1 - t), path, atol=1e-9)


def test_slerp_of_known_ends():
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    assert torch.allclose(slerp(a, b, torch.tensor([1 / 3])), 2 * torch.tensor([[math.cos(math.pi / 6), math.sin(math.pi / 6)]]))
    assert torch.equal(slerp(a, 3 * a, torch.tensor([0.5])), torch.tensor([[4.0, 0.0]]))  # one direction: straight
    assert torch.equal(slerp(0 * a, b, torch.tensor([0.5])), torch.tensor([[0.0, 1.0]]))
    with pytest.raises(InputError, match="--path lerp"):
        slerp(a, -a, torch.tensor([0.5]))
    assert torch.equal(lerp(a, b, torch.tensor([0.0, 0.5, 1.0])), torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 2.0]]))


def test_a_path_between_images_decodes_to_them(tmp_path: Path):
    x = images(2)
    found = interpolate(Plain(), x, steps=5)
    assert found.way == "lerp" and found.shows == "decoded codes"
    assert torch.allclose(found.x[[0, -1]], x.float(), atol=1e-4)
    assert torch.allclose(found.x[2], x.float().mean(0), atol=1e-4)
    curved = interpolate(Linear(), x, steps=5, out=tmp_path / "a.png")
    assert curved.way == "slerp" and curved.shows == "means of p(x|z)"
    assert Image.open(tmp_path / "a.png").size[0] > 7 * 60
    assert interpolate(Linear(), x, steps=5, path="lerp").way == "lerp"


def test_an_animation_goes_there_and_back(tmp_path: Path):
    interpolate(Linear(), images(2), steps=6, out=tmp_path / "a.gif")
    interpolate(Generator(), seeds=(3, 7), steps=3, out=tmp_path / "b.gif")
    with Image.open(tmp_path / "a.gif") as a, Image.open(tmp_path / "b.gif") as b:
        assert (getattr(a, "n_frames", 1), getattr(b, "n_frames", 1)) == (10, 4)


def test_seeds_are_draws_of_the_prior_whatever_their_order():
    a, b = interpolate(Generator(), seeds=(3, 7)), interpolate(Generator(), seeds=(7, 3))
    assert torch.equal(a.z[0], b.z[-1]) and torch.equal(a.z[-1], b.z[0])
    assert a.way == "slerp" and len(a.t) == 9


def test_a_conditional_path_takes_the_view_of_the_nearer_end():
    model, x = Linear(given=Label(4)), images(2)
    found = interpolate(model, TensorImages(x, torch.tensor([3, 1])), steps=4)
    assert found.given is not None and found.given.tolist() == [3, 3, 1, 1]
    found = interpolate(model, x, given=2, steps=4)
    assert found.given is not None and found.given.tolist() == [2] * 4
    with pytest.raises(InputError, match="no labels"):
        interpolate(model, x)


def test_bad_paths_are_refused(tmp_path: Path):
    x = images(3)
    wrongs: list[dict[str, Any]] = [{"steps": 1}, {"path": "arc"}, {"out": tmp_path / "a.mp4"}, {"seeds": (1, 2)}]
    for wrong in wrongs:
        with pytest.raises(InputError):
            interpolate(Linear(), x[:2], **wrong)
    with pytest.raises(InputError, match="two ends"):
        interpolate(Linear(), x)
    with pytest.raises(InputError, match="give one of them"):
        interpolate(Linear())
    with pytest.raises(CapabilityError, match="needs Decoder"):
        interpolate(Draws(), x[:2])
    with pytest.raises(CapabilityError, match="no prior"):
        interpolate(Plain(), seeds=(1, 2))
    with pytest.raises(CapabilityError, match="--path lerp"):
        interpolate(Plain(), x[:2], path="slerp")
    with pytest.raises(InputError, match="this space holds"):
        interpolate(Linear(), torch.zeros(2, 1, 5, 5, dtype=torch.uint8))


# Directions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["mean", "svm"])
def test_a_planted_direction_is_recovered(method: Any):
    v = torch.tensor([0.0, 3, 0, 0, -4, 0, 0, 0], dtype=torch.double) / 5
    present, absent = planted(2000, 3, v, 1), planted(2000, 0, v, 2)
    found = direction(present, absent, method=method)
    assert float(found @ v / found.norm()) > 0.99
    assert float(found.norm()) == pytest.approx(3, abs=0.15)  # strength 1 is the distance of the groups
    halves = (torch.arange(2000) % 2 == 0, torch.arange(2000) % 2 == 0)
    accuracy, se = held_out_accuracy(present, absent, halves, method=method)
    assert accuracy == pytest.approx(0.5 * (1 + math.erf(1.5 / math.sqrt(2))), abs=4 * se + 0.005)  # Φ(3/2)
    assert 0.002 < se < 0.006


def test_the_boundary_ignores_what_varies_for_other_reasons():
    """Where codes are correlated the difference of means leans over; the boundary's normal does not."""
    generator = torch.Generator().manual_seed(0)
    shared = 4 * torch.randn(4000, 1, generator=generator, dtype=torch.double)
    z = shared * torch.tensor([1.0, 1.0]) + 0.3 * torch.randn(4000, 2, generator=generator, dtype=torch.double)
    z[:2000, 0] += 1
    found = direction(z[:2000], z[2000:], method="svm")
    assert float(found @ torch.tensor([1.0, -1.0], dtype=torch.double) / found.norm()) / math.sqrt(2) > 0.98


@given(st.integers(1, 4), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_a_projected_direction_is_orthogonal_to_all_that_is_held(count: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    others = list(torch.randn(count, 8, generator=generator, dtype=torch.double) * 10)
    v = torch.randn(8, generator=generator, dtype=torch.double)
    left = orthogonal(v, [*others, others[0]])  # the same twice spans no more
    assert all(abs(float(left @ o)) < 1e-9 * float(o.norm()) for o in others)
    assert torch.allclose(orthogonal(left, others), left)
    for method in ("mean", "svm"):
        found = direction(planted(60, 2, v, seed), planted(60, 0, v, seed + 1), method=method, hold=others)
        assert all(abs(float(found @ o)) < 1e-8 * float(o.norm() * found.norm()) for o in others)


def test_labels_that_mean_nothing_have_the_accuracy_of_chance():
    z = planted(1000, 0, torch.ones(8, dtype=torch.double), 5)
    half = torch.arange(500) % 2 == 0
    accuracy, se = held_out_accuracy(z[:500], z[500:], (half, half))
    assert abs(accuracy - 0.5) < 4 * se


def bright(n: int, seed: int, pixel: int = 0) -> Tensor:
    x = images(n, seed) // 2
    x[:, 0, pixel // 3, pixel % 3] += 16
    return x


def dark(n: int, seed: int) -> Tensor:
    return images(n, seed) // 2


def test_learned_directions_are_added_and_compose(tmp_path: Path):
    model = Plain()
    first = learn(model, "first", bright(60, 1), dark(60, 2), source="bright against dark")
    second = learn(model, "second", bright(60, 3, pixel=5), dark(60, 4), hold=[first])
    assert abs(float(first.tensor @ second.tensor)) < 1e-9 and second.held == ("first",)
    assert first.accuracy is not None and first.accuracy > 0.95 and first.n == (60, 60)
    for found in (first, second):
        assert save(tmp_path, found).parent == tmp_path / "directions"
    known = directions(tmp_path)
    assert known == {"first": first, "second": second}
    x = dark(5, 9)
    both = edit(model, x, {"first": 0.5, "second": 0.5}, known)
    alone = edit(model, x, {"first": 0.5}, known)
    assert torch.allclose(both.z - alone.z, (0.5 * second.tensor).float().expand(5, -1), atol=1e-5)
    change = alone.x - alone.reconstruction
    assert float(change[:, 0, 0, 0].mean()) == pytest.approx(8, abs=1.5)
    assert float(change[:, 0, 1].abs().mean()) < 2
    back = edit(model, x, {"first": 0.0}, known)
    assert torch.allclose(back.x, x.float(), atol=1e-3)
    remove(tmp_path, "first")
    assert list(directions(tmp_path)) == ["second"]


def test_edits_are_written(tmp_path: Path):
    model = Plain()
    known = {"up": learn(model, "up", bright(20, 1), dark(20, 2))}
    x = dark(3, 9)
    edit(model, x, {"up": 1.0}, known, out=tmp_path / "a.png")
    edit(model, x, {"up": 1.0}, known, out=tmp_path / "a.npz")
    edit(model, x, {"up": 1.0}, known, out=tmp_path / "folder")
    assert Image.open(tmp_path / "a.png").size[0] > 180
    with np.load(tmp_path / "a.npz") as arrays:
        assert arrays["edited"].shape == (3, *SPACE.shape) and (arrays["x"] == x.numpy()).all()
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == [f"{i:08d}.png" for i in range(3)]
    assert Image.open(tmp_path / "folder" / "00000000.png").size == (3, 2)
    with pytest.raises(InputError, match="holds images already"):
        edit(model, x, {"up": 1.0}, known, out=tmp_path / "folder")


def test_bad_groups_are_refused():
    model = Plain()
    with pytest.raises(InputError, match="No images with"):
        learn(model, "a", dark(0, 1), dark(5, 2))
    with pytest.raises(InputError, match="2 images are in both"):
        learn(model, "a", dark(5, 1), torch.cat([dark(5, 2), dark(5, 1)[:2]]))
    with pytest.raises(InputError, match="too few"):
        learn(model, "a", dark(1, 1).expand(4, -1, -1, -1), dark(5, 2))  # copies of one image
    with pytest.raises(InputError, match="this space holds"):
        learn(model, "a", torch.zeros(3, 1, 4, 4, dtype=torch.uint8), dark(5, 2))
    with pytest.raises(InputError, match="do not tell them apart"):
        learn(Collapsed(), "a", bright(5, 1), dark(5, 2))
    with pytest.raises(InputError, match="only along the attributes"):
        a = learn(model, "a", bright(50, 1), dark(50, 2))
        learn(model, "b", bright(50, 1), dark(50, 2), hold=[replace(a, vector=tuple(v)) for v in torch.eye(DIMS).tolist()])
    for name in ("", "../x", "a/b", ".hidden", "x" * 65):
        with pytest.raises(InputError, match="no name for an attribute"):
            learn(model, name, bright(5, 1), dark(5, 2))
    with pytest.raises(CapabilityError, match="needs Decoder"):
        learn(Draws(), "a", bright(5, 1), dark(5, 2))
    with pytest.raises(InputError, match="no labels"):
        groups_by_label(TensorImages(dark(4, 1)), [1])


def test_unknown_and_stale_attributes_are_refused(tmp_path: Path):
    model = Plain()
    thick = learn(model, "thick", bright(20, 1), dark(20, 2))
    save(tmp_path, thick)
    save(tmp_path, replace(thick, name="slanted"))
    known = directions(tmp_path)
    with pytest.raises(InputError, match=r"Did you mean 'thick'\? Known: slanted, thick"):
        pick(known, "thik")
    with pytest.raises(InputError, match="nor any other yet"):
        pick({}, "thick")
    with pytest.raises(InputError, match="Did you mean 'thick'"):
        remove(tmp_path, "thik")
    with pytest.raises(InputError, match="There is no attribute"):
        remove(tmp_path, "../model")
    for add in ({"thick": math.nan}, {"thick": 1e9}, {}):
        with pytest.raises(InputError, match="--add"):
            edit(model, dark(2, 3), add, known)
    with torch.no_grad():
        model.weight.add_(1)
    with pytest.raises(InputError, match="other weights"):
        edit(model, dark(2, 3), {"thick": 1.0}, known)
    value = json.loads((tmp_path / "directions" / "thick.json").read_text())
    for damage in ({"vector": "x"}, {"format": 2}, {"vector": []}, {"more": 1}):
        (tmp_path / "directions" / "thick.json").write_text(json.dumps(value | damage))
        with pytest.raises(InputError, match=r"thick\.json is damaged"):
            directions(tmp_path)


# Encode and reconstruct -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl", ".npz", ".npy"])
def test_codes_are_those_of_the_model_in_every_form(tmp_path: Path, suffix: str):
    import pyarrow.parquet as pq

    model, x, out = Linear(), images(130), tmp_path / f"z{suffix}"
    found = encode(model, TensorImages(x, torch.arange(130)), out=out) if model.given else encode(model, x, out=out)
    assert found.kind == "mean of q(z|x)"
    assert torch.equal(found.z, model.encode(x))
    if suffix == ".npy":
        z = np.load(out)
    elif suffix == ".npz":
        with np.load(out) as arrays:
            z = arrays["z"]
            assert arrays["id"].tolist() == [str(i) for i in range(130)]
    else:
        rows = {
            ".csv": lambda: list(csv.DictReader(out.open())),
            ".parquet": lambda: pq.read_table(out).to_pylist(),
            ".jsonl": lambda: [json.loads(line) for line in out.read_text().splitlines()],
        }[suffix]()
        assert list(rows[0]) == ["id", *(f"z{j}" for j in range(DIMS))]
        z = np.array([[float(row[f"z{j}"]) for j in range(DIMS)] for row in rows])
    assert np.allclose(z, found.z.numpy())


def test_drawn_codes_follow_q_and_are_keyed_by_the_image():
    model, x = Linear(), images(40)
    drawn = encode(model, x, sample=True, seed=3)
    assert drawn.kind == "draw from q(z|x)"
    standard = (drawn.z - model.encode(x))[:, :2] / math.exp(0.5 * model.log_variance)
    assert abs(float(standard.mean())) < 0.5 and 0.7 < float(standard.std()) < 1.3
    assert torch.equal(encode(model, x.flip(0), sample=True, seed=3).z.flip(0), drawn.z)
    assert not torch.equal(encode(model, x, sample=True, seed=4).z, drawn.z)
    with pytest.raises(CapabilityError, match="leave out --sample"):
        encode(Plain(), x, sample=True)
    with pytest.raises(CapabilityError, match="cannot encode"):
        encode(Draws(), x)


def test_a_code_that_is_not_finite_names_the_image():
    class Bad(Plain):
        def encode(self, x: Tensor, given: Any = None, *, sample: bool = False, seed: int = 0) -> Tensor:
            return torch.full((len(x), DIMS), math.nan)

    with pytest.raises(RunError, match="image '0' is not finite"):
        encode(Bad(), images(2))


def test_reconstruction_errors_are_those_of_the_mean():
    class Off(Plain):
        def decode(self, z: Tensor, given: Any = None) -> Point:
            return Point(super().decode(z, given).mean + 3.1)

    x = images(37)
    found = reconstruct(Off(), x)
    assert found.show == "mean" and found.what == "what the code z decodes to"
    assert found.rmse_levels == pytest.approx(3.1, abs=1e-4)
    assert torch.allclose(found.squared_error, torch.full((37,), DIMS * 0.01, dtype=torch.double), atol=1e-5)
    assert found.to_json()["squared_error_of_mean"]["mean"] == pytest.approx(0.06, abs=1e-5)


def test_what_is_shown_is_the_draw_the_mean_or_the_standard_deviation(tmp_path: Path):
    model, x = Linear(), images(50)
    p = model.decode(model.encode(x))
    shown = {show: reconstruct(model, x, show=show, n=50, out=tmp_path / f"{show}.png") for show in ("sample", "mean", "sd")}
    assert torch.allclose(shown["mean"].shown, p.mean) and torch.allclose(shown["sd"].shown, p.sd)
    drawn = shown["sample"].shown
    assert torch.equal(drawn, drawn.round()) and not torch.equal(drawn, shown["mean"].shown.round())
    assert abs(float(((drawn - p.mean) / p.sd).mean())) < 0.3
    assert reconstruct(model, x, n=4).show == "sample"
    assert torch.equal(reconstruct(model, x.flip(0), n=50).shown.flip(0), drawn)
    assert len({(tmp_path / f"{show}.png").read_bytes() for show in shown}) == 3
    reconstruct(model, x, show="mean", n=2, out=tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as arrays:
        assert arrays["reconstruction"].shape == (50, *SPACE.shape)
        assert str(arrays["show"]) == "mean"


def test_known_pixels_are_copied_and_not_counted():
    model, x = Plain(given=Top(1)), images(9)

    found = reconstruct(model, x)
    assert found.dims == 3 and torch.equal(found.shown[:, :, 0], x[:, :, 0].float())
    spread = reconstruct(Linear(given=Top(1)), x, show="sd")
    assert float(spread.shown[:, :, 0].abs().max()) == 0 < float(spread.shown[:, :, 1].min())


def test_bad_reconstructions_are_refused(tmp_path: Path):
    with pytest.raises(CapabilityError, match="use --show mean"):
        reconstruct(Plain(), images(2), show="sd")
    with pytest.raises(CapabilityError, match="cannot reconstruct"):
        reconstruct(Draws(), images(2))
    with pytest.raises(InputError, match="no images"):
        reconstruct(Linear(), images(0))
    wrongs: list[dict[str, Any]] = [{"show": "var"}, {"n": 0}, {"out": tmp_path / "a.csv"}]
    for wrong in wrongs:
        with pytest.raises(InputError):
            reconstruct(Linear(), images(2), **wrong)


# Samples --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("show", ["mean", "sd"])
def test_what_is_no_sample_says_so(tmp_path: Path, show: Any):
    model = Linear()
    found = sample(model, 70, seed=2, first=5, show=show)
    assert found.kind.startswith("not samples of p") and found.x is not None
    z = Noise(2, torch.arange(5, 75)).normal("z", DIMS)
    assert torch.allclose(found.x, getattr(model.decode(z), show), atol=1e-4)  # at the z of the samples with these numbers
    alone = sample(model, 1, seed=2, first=30, show=show).x
    assert alone is not None and torch.equal(alone[0], found.x[25])
    for name in ("a.png", "a.npy", "a.npz", "folder"):
        sample(model, 3, show=show, out=tmp_path / name)
    assert np.load(tmp_path / "a.npy").dtype == np.float32
    with np.load(tmp_path / "a.npz") as arrays:
        assert str(arrays["kind"]).startswith("not samples of p")
    assert len(list((tmp_path / "folder").iterdir())) == 3


def test_only_latent_variable_models_show_a_mean():
    with pytest.raises(CapabilityError, match="LatentVariable"):
        sample(Generator(), 2, show="mean")
    with pytest.raises(InputError, match="--show"):
        sample(Linear(), 2, show="median")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="leave out --trace"):
        sample(Linear(), 2, show="mean", temperature=0.5)


# Traversal and map ----------------------------------------------------------------------------------------------------


def test_rows_are_sorted_by_kl():
    model, x = Linear(), images(30)
    expected = model.posterior(x).kl().double().mean(0)
    assert torch.allclose(mean_kl(model, x), expected)
    found = traverse(model, x, rows=4, columns=7)
    assert list(found.dims) == expected.argsort(descending=True)[:4].tolist()
    assert found.dims[0] == 2 and found.x.shape == (4, 7, *SPACE.shape)
    moved = found.x.std(1).flatten(2)[:, 0]
    assert moved.argmax(1).tolist() == list(found.dims)  # each row moves its own pixel and no other
    assert float(moved.sort(1).values[:, -2].max()) < 1e-5
    middle = model.decode(torch.zeros(1, DIMS)).mean[0]
    assert torch.allclose(found.x[:, 3], middle.expand(4, -1, -1, -1), atol=1e-5)


def test_a_model_that_only_decodes_is_sorted_by_variance(tmp_path: Path):
    found = traverse(Generator(), rows=2, columns=5, out=tmp_path / "a.png")
    assert found.dims[0] == 4 and "variance" in found.unit and "draw" in found.around
    assert Image.open(tmp_path / "a.png").size[0] > 300
    around = traverse(Generator(), base=images(1), rows=1, columns=3)
    assert around.inversion is not None and around.around == "an image's code by inversion (approximate)"


def test_without_a_prior_steps_are_those_of_the_codes():
    x = images(200)
    found = traverse(Plain(), x, columns=3, reach=1.0, rows=6)
    z = Plain().encode(x).double()
    j = found.dims[0]
    expected = Plain().decode((z.mean(0) + z.std(0, correction=0) * torch.eye(DIMS)[j])[None]).mean[0]
    assert torch.allclose(found.x[0, 2], expected, atol=1e-3)
    around = traverse(Linear(), x, base=x[:1], columns=3, rows=1)
    others = [i for i in range(DIMS) if i != around.dims[0]]
    assert torch.allclose(around.x[0, 1].flatten()[others], Linear().decode(Linear().encode(x[:1])).mean.flatten()[others], atol=1e-4)


def test_bad_traversals_are_refused():
    wrongs: list[dict[str, Any]] = [{"rows": 0}, {"columns": 1}, {"reach": 0.0}, {"reach": math.inf}, {"base": images(2)}]
    for wrong in wrongs:
        with pytest.raises(InputError):
            traverse(Linear(), images(5), **wrong)
    with pytest.raises(InputError, match="measured over images"):
        traverse(Linear())


class Two(Linear):
    """Two latent dimensions: the means of the rows."""

    def __init__(self, space: ImageSpace = SPACE, given: View | None = None) -> None:
        super().__init__(space, given)
        self.latent_dims = 2

    def posterior(self, x: Tensor, given: Any = None) -> Gaussian:
        mean = x.float().mean((1, 3)) / 8 - 2
        return Gaussian(mean, torch.zeros_like(mean))

    def decode(self, z: Tensor, given: Any = None) -> PixelDistribution:
        return super().decode(z[:, :, None].expand(-1, -1, 3).flatten(1), given)


def test_two_dimensions_are_shown_with_their_manifold(tmp_path: Path):
    model, x = Two(), images(40)
    found = latent_map(model, TensorImages(x, torch.arange(40) % 3), grid=5, out=tmp_path / "m.png", class_names=("a", "b", "c"))
    assert found.method == "z" and found.points is not None and found.manifold is not None and found.axes is not None
    assert torch.allclose(found.points.float(), model.encode(x))
    normal = torch.distributions.Normal(0.0, 1.0)
    assert torch.allclose(normal.cdf(found.axes[0].float()), torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]), atol=1e-5)
    top_right = model.decode(torch.stack([found.axes[0, -1], found.axes[1, -1]])[None]).mean[0]
    assert torch.allclose(found.manifold[0, -1], top_right, atol=1e-4)  # z0 to the right, z1 upwards
    assert Image.open(tmp_path / "m.png").size[0] > 900


def test_more_dimensions_are_projected():
    x = images(60)
    found = latent_map(Linear(), x)
    assert found.method == "pca" and found.explained is not None and found.points is not None
    z = Linear().encode(x).double()
    variance = torch.linalg.svdvals(z - z.mean(0)) ** 2
    assert found.explained == pytest.approx((variance[:2] / variance.sum()).tolist(), abs=1e-6)
    assert found.manifold is None and found.picture().mode == "RGB"
    near = latent_map(Linear(), x, method="tsne", limit=20)
    assert near.points is not None and near.points.shape == (20, 2)
    assert torch.equal(latent_map(Linear(), x, method="tsne", limit=20).points, near.points)  # type: ignore[arg-type]


def test_bad_maps_are_refused():
    with pytest.raises(InputError, match="nothing to map"):
        latent_map(Collapsed(), images(9))
    with pytest.raises(InputError, match="at least 3"):
        latent_map(Linear(), images(2))
    with pytest.raises(InputError, match="does not fit"):
        latent_map(Linear(), images(9), method="z")
    with pytest.raises(CapabilityError, match="--latents 2"):
        latent_map(Generator())


# Pictures -------------------------------------------------------------------------------------------------------------


def test_a_sheet_holds_every_image_untouched():
    x = np.arange(6, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2).repeat(3, 3) * 40 + 1
    made = np.asarray(pictures.sheet(x, 3, heads=("a",), rows=("one", "two"), captions=["words"], group=2, scale=5))
    for value in range(6):
        assert (made == value * 40 + 1).all(2).sum() == 400
    assert (made[-15:] == 255).any() and (made[-15:] == 0).any()


def test_shades_round_and_stay_inside():
    assert pictures.shades(torch.tensor([-1.0, 0.0, 8.0, 16.0, 20.0]).reshape(1, 1, 1, 5), 16).ravel().tolist() == [0, 0, 128, 255, 255]
    assert pictures.shades(torch.zeros(1, 1, 1, 1), 0.0).item() == 0
