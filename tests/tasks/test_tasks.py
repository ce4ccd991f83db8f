"""Tasks on tiny models with known probabilities: mathematics first, then behaviour and faults."""

from __future__ import annotations

import csv
import errno
import json
import math
import shutil
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from toys import SPACE, Coins, Toy

from pofx.data import Data, Split
from pofx.errors import CapabilityError, InputError, RunError
from pofx.metrics.mean import Mean
from pofx.metrics.sharpness import Sharpness
from pofx.model import (
    Critic,
    ExactLikelihood,
    Features,
    Labeler,
    LabelScore,
    LowerBound,
    Progress,
    Sampler,
)
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.tasks._samples import viewed
from pofx.tasks._side_by_side import Entry, Speed, claims
from pofx.tasks.bulk import as_images, batch_size, per_image, subset
from pofx.tasks.compare import compare
from pofx.tasks.evaluate import COPY_DRAWS, evaluate, memorization
from pofx.tasks.info import info
from pofx.tasks.sample import adjustment, sample
from pofx.tasks.score import costs, score
from pofx.tasks.share import hub_id, pull, push
from pofx.views import Label, Top, View


class Bound(Toy, LowerBound):
    """A bound that is one nat loose, and tighter with more samples."""

    def elbo(self, x: Tensor, given: Any = None, *, samples: int = 1, seed: int = 0) -> Tensor:
        return self.bernoulli(self.space.check(x)) - 1

    def log_prob_estimate(self, x: Tensor, given: Any = None, *, samples: int, seed: int = 0) -> Tensor:
        return self.bernoulli(self.space.check(x)) - 1 / samples


class Broken(Toy, ExactLikelihood):
    """NaN for the image of all ones."""

    def log_prob(self, x: Tensor, given: Any = None) -> Tensor:
        return torch.where(x.flatten(1).all(1).bool(), torch.nan, self.bernoulli(x))


class Noisy(Toy, Sampler, Critic):
    """Draws and judges, and has no likelihood: like a GAN."""

    def draw(self, given: Tensor | None, noise: Noise, progress: Progress | None) -> Tensor:
        return (noise.uniform("x", *self.space.shape) < self.p).to(torch.uint8)

    def realism(self, x: Tensor, given: Any = None) -> Tensor:
        return x.flatten(1).double().mean(1)


class Parrot(Toy, Sampler):
    """Repeats its training images."""

    train_x: Tensor

    def draw(self, given: Tensor | None, noise: Noise, progress: Progress | None) -> Tensor:
        return self.train_x[noise.images % len(self.train_x)]


class Sums(Toy, Labeler, Features):
    """The label is whether an image has many ones; features are the pixels."""

    classes = 2

    def label(self, x: Tensor) -> LabelScore:
        share = x.flatten(1).double().mean(1).clamp(0.01, 0.99)
        return LabelScore(torch.stack([1 - share, share], 1).log(), "exact")

    @property
    def feature_layers(self) -> Sequence[str]:
        return ["pixels"]

    def features(self, x: Tensor, layer: str | None = None) -> Tensor:
        return x.flatten(1).float()


class Convolution(Toy, ExactLikelihood):
    """A score through a float32 convolution: the last bit depends on the batch shape."""

    def __init__(self, space: ImageSpace, given: View | None = None) -> None:
        super().__init__(space, given)
        self.net = nn.Sequential(
            nn.Conv2d(space.channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 1, 3, padding=1),
        )

    def log_prob(self, x: Tensor, given: Any = None) -> Tensor:
        return -self.net(x.float()).square().flatten(1).sum(1)


def every_image(space: ImageSpace = SPACE) -> Tensor:
    """All images of a tiny space, `(levels^dims, C, H, W)`."""
    digits = torch.cartesian_prod(*[torch.arange(space.levels)] * space.dims)
    return digits.reshape(-1, *space.shape).to(torch.uint8)


def coins(n: int, p: float = 0.25, *, seed: int = 0, space: ImageSpace = SPACE) -> Tensor:
    return (Noise(seed, torch.arange(n)).uniform("data", *space.shape) < p).to(torch.uint8)


def files_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# Bulk -----------------------------------------------------------------------------------------------------------------


def test_results_do_not_depend_on_the_grouping_bit_for_bit():
    space = ImageSpace(1, 6, 5, levels=256)
    torch.manual_seed(0)
    model = Convolution(space)
    x = torch.randint(0, 256, (231, *space.shape), dtype=torch.uint8)
    whole = costs(model, x).nats
    for part in (1, 7, 100, 130):
        pieces = torch.cat([costs(model, piece).nats for piece in x.split(part)])
        assert torch.equal(pieces, whole)
    shuffled = torch.randperm(len(x))
    assert torch.equal(costs(model, x[shuffled]).nats, whole[shuffled])


def test_every_call_sees_one_shape_and_progress_ends_at_n():
    shapes, seen = set(), []
    out = per_image(
        Coins(), lambda x, y: (shapes.add(tuple(x.shape)), x.flatten(1).sum(1))[1], coins(250), progress=lambda d, n: seen.append((d, n))
    )
    assert shapes == {(100, 1, 2, 2)}
    assert seen == [(100, 250), (200, 250), (250, 250)]
    assert torch.equal(out, coins(250).flatten(1).sum(1))


def test_large_images_come_in_small_fixed_batches_with_the_same_results():
    space = ImageSpace(3, 48, 48)
    assert (size := batch_size(space)) == 18
    assert 4 * size * space.dims * space.levels <= 2**27
    assert batch_size(ImageSpace(3, 1024, 1024)) == 4
    torch.manual_seed(0)
    model = Convolution(space)
    x = torch.randint(0, 256, (23, *space.shape), dtype=torch.uint8)
    shapes = set()
    whole = per_image(model, lambda x, y: (shapes.add(len(x)), model.log_prob(x))[1], x)
    assert shapes == {size}
    assert torch.equal(torch.cat([-costs(model, piece).nats for piece in x.split(7)]), whole.double())


def test_freed_pages_are_kept(monkeypatch: pytest.MonkeyPatch):
    calls = []
    monkeypatch.setattr("pofx.tasks.bulk.keep_pages", lambda: calls.append(1))
    per_image(Coins(), lambda x, y: x.flatten(1).sum(1), coins(3))
    assert calls


def test_results_are_ordinary_tensors_and_the_mode_is_put_back():
    model = Coins().train()
    out = per_image(model, lambda x, y: x.double().flatten(1).mean(1), coins(3))
    assert model.training
    assert not out.is_inference()
    with pytest.raises(InputError, match="no images"):
        per_image(model, lambda x, y: x, coins(3)[:0])


def test_a_subset_is_fixed_and_in_order():
    images = as_images(coins(50))
    a, b = subset(images, 10, seed=3), subset(images, 10, seed=3)
    assert list(a.ids) == list(b.ids) == sorted(a.ids, key=int)
    assert torch.equal(a.take(torch.arange(10))[0], images.take(torch.tensor([int(i) for i in a.ids]))[0])
    assert subset(images, 50) is images


# Score ----------------------------------------------------------------------------------------------------------------


def test_costs_are_positive_nats_and_sum_to_one():
    score = costs(Coins(), every_image())
    assert score.kind == "exact"
    assert float((-score.nats).exp().sum()) == pytest.approx(1, abs=1e-12)
    assert (score.nats > 0).all()


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_tables_hold_id_nats_bits_and_kind(tmp_path: Path, suffix: str):
    out = tmp_path / "new" / f"s{suffix}"
    x = coins(130)
    result = score(Bound(), x, out=out)
    if suffix == ".parquet":
        rows = pq.read_table(out).to_pylist()
    elif suffix == ".csv":
        rows = list(csv.DictReader(out.open()))
    else:
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert list(rows[0]) == ["id", "nats", "bits_per_dim", "kind"]
    assert [str(row["id"]) for row in rows] == [str(i) for i in range(130)]
    assert [float(row["nats"]) for row in rows] == result.score.nats.tolist()
    assert float(rows[3]["bits_per_dim"]) == pytest.approx(float(rows[3]["nats"]) / (4 * math.log(2)))
    assert {row["kind"] for row in rows} == {"lower bound"}
    assert files_in(out.parent) == [out.name]


def test_other_faults_of_a_disk_do_not_advise_to_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("pofx.tasks._files.os.fsync", broken)
    with pytest.raises(RunError, match=r"Input/output error. Choose another place"):
        score(Coins(), coins(2), out=tmp_path / "s.csv")


def test_means_have_standard_errors():
    result = score(Coins(), coins(50))
    nats, found = result.score.nats.double(), result.to_json()
    assert found["nats"]["se"] == pytest.approx(float(nats.std()) / math.sqrt(50))
    assert found["nats"]["se"] > 0
    assert found["bits_per_dim_se"] == pytest.approx(found["nats"]["se"] / (4 * math.log(2)))
    alone = score(Coins(), coins(1)).to_json()
    assert alone["nats"]["se"] is alone["bits_per_dim_se"] is None


def test_an_estimate_is_called_one():
    x = coins(5)
    bound, estimate = costs(Bound(), x), costs(Bound(), x, estimate=10)
    assert (bound.kind, bound.sign) == ("lower bound", "≤")
    assert (estimate.kind, estimate.sign) == ("estimate", "≈")
    assert (estimate.nats < bound.nats).all()


def test_a_score_that_is_not_finite_names_the_image_and_leaves_no_file(tmp_path: Path):
    x = torch.zeros(150, 1, 2, 2, dtype=torch.uint8)
    x[123] = 1
    with pytest.raises(RunError, match="'123' is nan"):
        score(Broken(), x, out=tmp_path / "s.csv")
    assert files_in(tmp_path) == []


def test_what_cannot_be_scored_is_refused(tmp_path: Path):
    with pytest.raises(CapabilityError, match="cannot score"):
        score(Noisy(), coins(3))
    with pytest.raises(InputError, match="this space holds"):
        score(Coins(), torch.zeros(2, 1, 3, 3, dtype=torch.uint8))
    with pytest.raises(InputError, match=r"\.parquet"):
        score(Coins(), coins(2), out=tmp_path / "s.txt")
    with pytest.raises(InputError, match="folder"):
        (tmp_path / "d.csv").mkdir()
        score(Coins(), coins(2), out=tmp_path / "d.csv")


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "s.csv"
    score(Coins(), coins(2), out=out)
    old = out.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pofx.tasks._files.os.fsync", full)
    with pytest.raises(RunError, match="No space left.*Free some space"):
        score(Coins(), coins(5), out=out)
    assert out.read_bytes() == old
    assert files_in(tmp_path) == ["s.csv"]


# Sample ---------------------------------------------------------------------------------------------------------------


def test_samples_are_those_of_the_model():
    model = Coins()
    result = sample(model, 300, seed=4, first=7)
    assert result.kind == "samples of p"
    assert result.x is not None
    assert torch.equal(result.x, model.sample(300, seed=4, first=7))


def test_temperature_and_top_p_are_labelled_and_do_what_they_say():
    cold = sample(Coins(), 400, temperature=0.25)
    assert cold.kind == "not samples of p"
    odds = (0.25 / 0.75) ** 4
    assert cold.x is not None
    assert float(cold.x.double().mean()) == pytest.approx(odds / (1 + odds), abs=0.02)
    greedy = sample(Coins(), 20, top_p=0.5).x
    assert greedy is not None
    assert int(greedy.sum()) == 0
    plain = sample(Coins(), 20, temperature=1.0, top_p=1.0).x
    assert plain is not None
    assert torch.equal(plain, Coins().sample(20))


def test_an_altered_image_is_the_same_alone():
    many, alone = sample(Coins(), 300, temperature=0.7).x, sample(Coins(), 1, first=260, temperature=0.7).x
    assert many is not None
    assert alone is not None
    assert torch.equal(many[260:261], alone)


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=6), st.floats(0.05, 1), st.floats(0.2, 3))
@settings(max_examples=50, deadline=None)
def test_adjusted_probabilities_are_the_smallest_set_that_holds_top_p(weights: list[float], top_p: float, temperature: float):
    p = torch.tensor(weights, dtype=torch.double)
    p = p / p.sum()
    adjust = adjustment(temperature, top_p)
    if adjust is None:
        return
    found = adjust(p.log()).exp()
    heated = p ** (1 / temperature)
    heated = heated / heated.sum()
    kept = found > 0
    assert float(found.sum()) == pytest.approx(1)
    assert float(heated[kept].sum()) >= top_p - 1e-9
    assert float(heated[kept].sum() - heated[kept].min()) < top_p + 1e-9
    torch.testing.assert_close(found[kept], heated[kept] / heated[kept].sum())


@pytest.mark.parametrize(("temperature", "top_p"), [(0, 1), (-1, 1), (1, 0), (1, 1.5), (math.nan, 1)])
def test_a_bad_temperature_is_refused(temperature: float, top_p: float):
    with pytest.raises(InputError, match="temperature"):
        sample(Coins(), 2, temperature=temperature, top_p=top_p)


def test_only_steps_have_a_temperature():
    with pytest.raises(CapabilityError, match="temperature"):
        sample(Noisy(), 2, temperature=0.5)
    with pytest.raises(CapabilityError, match="cannot sample"):
        sample(Broken(), 2)
    with pytest.raises(InputError, match="n=0"):
        sample(Coins(), 0)
    with pytest.raises(InputError, match="n=0"):
        sample(Coins(), 0, temperature=0.5)


def test_sampled_files(tmp_path: Path):
    model = Coins()
    x = model.sample(300, seed=1, first=5).numpy()
    sample(model, 300, seed=1, first=5, out=tmp_path / "x.npy")
    assert np.array_equal(np.load(tmp_path / "x.npy", allow_pickle=False), x)
    sample(model, 300, seed=1, first=5, temperature=0.5, out=tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as found:
        assert found["x"].shape == x.shape
        assert (int(found["seed"]), int(found["first"]), int(found["levels"])) == (1, 5, 2)
        assert str(found["kind"]) == "not samples of p"
    sample(model, 12, seed=1, first=5, out=tmp_path / "folder")
    assert files_in(tmp_path / "folder") == [f"{i:08d}.png" for i in range(5, 17)]
    with Image.open(tmp_path / "folder" / "00000005.png") as image:
        assert np.array_equal(np.asarray(image), x[0, 0] * 255)
    sample(model, 12, out=tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as image:
        assert min(image.size) >= 4
    assert files_in(tmp_path) == ["folder", "grid.png", "x.npy", "x.npz"]


def test_a_folder_with_other_images_is_refused_untouched(tmp_path: Path):
    sample(Coins(), 4, out=tmp_path / "folder")
    before = {p.name: p.read_bytes() for p in (tmp_path / "folder").iterdir()}
    with pytest.raises(InputError, match=r"00000000.png and 3 more.*another folder"):
        sample(Coins(), 2, seed=1, out=tmp_path / "folder")
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "folder").iterdir()}


@pytest.mark.parametrize("first", [-1, 2**63 - 4, 2**63, 10**20])
def test_the_first_number_has_limits(first: int):
    for temperature in (1.0, 0.5):
        with pytest.raises(InputError, match=f"--first {first} with -n 4"):
            sample(Coins(), 4, first=first, temperature=temperature)


def test_conditional_samples_say_so_and_keep_their_labels(tmp_path: Path):
    class Named(Coins):
        def __init__(self) -> None:
            super().__init__()
            self.given = Label(3)

    labels = torch.tensor([2, 0, 1, 2])
    result = sample(Named(), 4, labels, out=tmp_path / "x.npz")
    assert result.kind == "samples of p(x | label)"
    assert result.to_json()["given"] == "Label(classes=3)"
    with np.load(tmp_path / "x.npz", allow_pickle=False) as found:
        assert found["y"].tolist() == labels.tolist()
        assert str(found["kind"]) == result.kind
    assert sample(Named(), 4, 1, temperature=0.5).kind == "not samples of p(x | label)"
    sample(Named(), 3, 1, out=tmp_path / "one.npz")
    with np.load(tmp_path / "one.npz", allow_pickle=False) as found:
        assert found["y"].tolist() == [1, 1, 1]


def test_samples_go_to_files_chunk_by_chunk(tmp_path: Path):
    """No chunk is kept: what is alive at once does not grow with n."""
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    class Watched(Noisy):
        def draw(self, given: Tensor | None, noise: Noise, progress: Progress | None) -> Tensor:
            nonlocal most
            most = max(most, sum(ref() is not None for ref in alive))
            x = super().draw(given, noise, progress)
            alive.append(weakref.ref(x))
            return x

    result = sample(Watched(), 3000, out=tmp_path / "x.npy")
    assert result.x is None
    assert len(alive) > 5
    assert most <= 2


def test_a_picture_has_limits(tmp_path: Path):
    with pytest.raises(InputError, match="do not fit"):
        sample(Coins(), 100_000_000, out=tmp_path / "x.png")
    with pytest.raises(InputError, match="5 channels"):
        sample(Coins(ImageSpace(5, 2, 2, levels=2)), 2, out=tmp_path / "folder")
    with pytest.raises(InputError, match="can be .png, .npz, .npy or a folder"):
        sample(Coins(), 2, out=tmp_path / "x.gif")


# Evaluate -------------------------------------------------------------------------------------------------------------


def data(n: int = 300, *, p_test: float = 0.25, space: ImageSpace = SPACE, labels: bool = False) -> Data:
    parts = {}
    for i, (name, size) in enumerate({"train": n, "valid": 60, "calib": 60, "test": 120}.items()):
        x = coins(size, p_test if name == "test" else 0.25, seed=i, space=space)
        y = (x.flatten(1).double().mean(1) > 0.5).long() if labels else None
        parts[name] = Split.of(x, y)
    return Data("toy", space, **parts, transforms=("threshold",), fingerprint="f", title="toy")


def test_mean_and_standard_error_by_hand():
    found = Mean.of(torch.tensor([1.0, 2.0, 6.0]))
    assert found.mean == 3
    assert found.se == pytest.approx(math.sqrt(7) / math.sqrt(3))
    assert math.isnan(Mean.of(torch.tensor([1.0])).se)
    assert Mean(5, 3).minus(Mean(1, 4)) == Mean(4, 5)
    assert Mean.of(torch.tensor([1.0])).to_json() == {"mean": 1.0, "se": None}


def test_standard_error_covers_the_truth():
    """Over 200 data sets, mean ± 1.96 se holds the entropy in about 95 %."""
    entropy = -4 * (0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    hits = 0
    for seed in range(200):
        mean = Mean.of(costs(Coins(), coins(100, seed=seed)).nats)
        hits += abs(mean.mean - entropy) <= 1.96 * mean.se
    assert 180 <= hits <= 200


def test_evaluate_gives_the_fixed_keys_splits_and_gap():
    result = evaluate(Coins(), data(p_test=0.5), train_limit=200).to_json()
    assert {"model", "data", "split", "n", "kind", "nats", "bits_per_dim"} <= result.keys()
    assert (result["model"], result["data"], result["split"], result["n"], result["kind"]) == (
        "coins",
        "toy [threshold]",
        "test",
        120,
        "exact",
    )
    assert list(result["splits"]) == ["train", "valid", "test"]
    assert (result["splits"]["train"]["n"], result["splits"]["train"]["of"]) == (200, 300)
    gap = result["gap"]["nats"]
    train, test = result["splits"]["train"]["nats"], result["nats"]
    assert gap["mean"] == pytest.approx(test["mean"] - train["mean"])
    assert gap["se"] == pytest.approx(math.hypot(test["se"], train["se"]))
    assert gap["mean"] > 3 * gap["se"]
    assert result["bits_per_dim"] == pytest.approx(result["nats"]["mean"] / (4 * math.log(2)))
    json.dumps(result, allow_nan=False)


def test_a_bound_is_called_a_bound_and_has_its_estimate_beside_it():
    result = evaluate(Bound(), data(), estimate=8).to_json()
    assert result["kind"] == "lower bound"
    assert (result["estimate"]["kind"], result["estimate"]["k"]) == ("estimate", 8)
    assert result["estimate"]["nats"]["mean"] == pytest.approx(result["nats"]["mean"] - 1 + 1 / 8)
    assert "estimate" not in result["splits"]["train"]
    assert "estimate" not in evaluate(Bound(), data(), estimate=0).to_json()


def test_a_sampler_without_likelihood_gets_no_nats_but_distances():
    space = ImageSpace(1, 3, 3, levels=2)
    found = evaluate(Noisy(space), data(space=space, labels=True), features=Sums(space), features_name="sums (abc)", draw=500)
    result = found.to_json()
    assert (result["kind"], result["nats"], result["bits_per_dim"], result["gap"]) == ("none", None, None, None)
    quality = result["samples"]
    assert quality["features"] == "sums (abc)"
    assert (quality["n"], quality["n_reference"], quality["feature_dims"]) == (500, 120, 9)
    far = evaluate(Noisy(space, p=0.9), data(space=space), features=Sums(space), draw=500).to_json()["samples"]
    assert far["frechet"] > 10 * quality["frechet"]
    assert quality["frechet"] < quality["frechet_of_real_images"] + 0.2
    assert quality["precision"] > 0.9
    assert sum(quality["classes"]) == 500
    assert "no likelihood" in result["notes"][-1]
    json.dumps(result, allow_nan=False)


class Filler(Noisy):
    """Copies the known pixels and draws the others at random: it learned nothing."""

    seen: Tensor

    def draw(self, given: Tensor | None, noise: Noise, progress: Progress | None) -> Tensor:
        assert given is not None
        self.seen = given
        x = (noise.uniform("x", *self.space.shape) < self.p).to(torch.uint8)
        return self.copy_known(x, given)


def test_samples_given_pixels_are_never_given_those_of_the_images_they_are_measured_against():
    space = ImageSpace(1, 4, 4, levels=2)
    toy = data(space=space)
    marked = torch.zeros(60, *space.shape, dtype=torch.uint8)
    marked[:, :, 0] = torch.tensor([1, 0, 0, 1], dtype=torch.uint8)
    toy = replace(toy, valid=Split.of(marked))
    model = Filler(space, Top(1), p=0.5)
    result = evaluate(model, toy, features=Sums(space), draw=130)
    assert torch.equal(model.seen, marked[torch.arange(130) % 60, :, :1])
    assert any("Top(rows=1)" in note and "60 valid images" in note and "do not compare" in note for note in result.notes)
    assert result.to_json()["drawn"] == 130
    memorization(model, toy)
    assert torch.equal(model.seen, marked[torch.arange(COPY_DRAWS) % 60, :, :1])

    # One set alone: a half gives the views, the other half is the reference
    alone = evaluate(model, toy.test, features=Sums(space), draw=70)
    assert alone.quality is not None
    assert alone.quality.frechet.n_reference == 60
    assert any("the other half" in note for note in alone.notes)
    views, reference, _ = viewed(model, toy.test)
    assert not set(views.ids) & set(reference.ids)
    assert len(views) + len(reference) == 120
    with pytest.raises(InputError, match="two or more"):
        viewed(model, toy.test.select(np.arange(1)))


def test_labels_may_be_those_of_the_reference_and_p_of_x_needs_no_note():
    toy = data(labels=True)
    views, reference, note = viewed(Noisy(given=Label(2)), toy.test, toy)
    assert views is reference is toy.test
    assert "labels" in note
    assert viewed(Noisy(), toy.test, toy)[2] == ""


class Obedient(Noisy):
    """All ones for label 1 and zeros for label 0; every fourth time it is the other way round."""

    def draw(self, given: Tensor | None, noise: Noise, progress: Progress | None) -> Tensor:
        assert given is not None
        wanted = torch.where(noise.images % 4 == 0, 1 - given, given)
        return wanted.to(torch.uint8)[:, None, None, None].expand(-1, *self.space.shape).clone()


def test_samples_given_a_label_are_judged_by_it():
    toy = data(labels=True)
    found = evaluate(Obedient(given=Label(2)), toy, features=Sums(), draw=200).quality
    assert found is not None and found.agreement is not None
    assert found.agreement.samples.mean == 0.75
    assert found.agreement.real == Mean(1.0, 0.0)  # the labels are the judge's own
    assert found.to_json()["of_the_asked_class"]["share"] == 0.75
    wrong = replace(toy, test=Split.of(toy.test.x, 1 - toy.test.y))  # type: ignore[operator]
    judged = evaluate(Obedient(given=Label(2)), wrong, features=Sums(), draw=200).quality
    assert judged is not None and judged.agreement is not None and judged.agreement.real == Mean(0.0, 0.0)
    plain = evaluate(Noisy(), toy, features=Sums(), draw=200).quality
    assert plain is not None and plain.agreement is None and plain.to_json()["of_the_asked_class"] is None


def test_without_features_few_samples_are_drawn_and_their_number_is_said():
    result = evaluate(Noisy(), data())
    assert result.drawn is not None
    assert len(result.drawn) == result.to_json()["drawn"] == COPY_DRAWS == 200


def test_few_images_for_many_features_are_noted():
    space = ImageSpace(1, 12, 12, levels=2)
    result = evaluate(Noisy(space), data(space=space), features=Sums(space), draw=200)
    assert any("too few images" in note for note in result.notes)
    assert result.quality is not None
    assert not result.quality.frechet.reliable


def test_labels_are_judged():
    result = evaluate(Sums(), data(labels=True)).main
    x = data(labels=True).test
    share = x.x.flatten(1).double().mean(1).clamp(0.01, 0.99)
    assert x.y is not None
    assert result.accuracy is not None
    assert result.cross_entropy is not None
    assert result.accuracy.mean == pytest.approx(float(((share > 0.5).long() == x.y).double().mean()))
    truth = torch.where(x.y == 1, share, 1 - share).log()
    assert result.cross_entropy.mean == pytest.approx(-float(truth.mean()))


def test_one_set_alone_is_measured_under_its_name():
    result = evaluate(Coins(), coins(20), heading="mine", split="all").to_json()
    assert (result["split"], result["n"], result["gap"], list(result["splits"])) == ("all", 20, None, ["all"])
    with pytest.raises(InputError, match="has no images"):
        evaluate(Coins(), coins(20)[:0])
    with pytest.raises(InputError, match="trained on"):
        evaluate(Coins(ImageSpace(1, 3, 3, levels=2)), data())


def test_a_parrot_raises_the_flag_and_an_honest_sampler_does_not():
    space = ImageSpace(1, 6, 6, levels=2)
    toy = data(space=space)
    parrot = Parrot(space)
    parrot.train_x = toy.train.x
    flag = evaluate(parrot, toy).memorization
    assert flag is not None
    assert flag.raised
    honest = evaluate(Noisy(space), toy).memorization
    assert honest is not None
    assert not honest.raised
    exact = evaluate(Coins(space), toy).memorization
    assert exact is not None
    assert not exact.raised
    assert exact.scores is not None


# Compare --------------------------------------------------------------------------------------------------------------


def test_the_difference_is_paired():
    x = coins(400)
    result = compare({"good": Coins(), "off": Coins(p=0.3)}, x, heading="toy")
    assert [row.name for row in result.rows] == ["good", "off"]
    a, b = costs(Coins(), x).nats, costs(Coins(p=0.3), x).nats
    assert result.rows[1].difference == Mean.of(b - a)
    assert result.rows[1].difference.se < 0.5 * result.rows[1].nats.se
    assert result.rows[0].difference == Mean(0, 0)
    json.dumps(result.to_json(), allow_nan=False)


def test_only_like_is_compared_with_like():
    x = coins(10)
    with pytest.raises(InputError, match="at least two"):
        compare({"a": Coins()}, x)
    with pytest.raises(InputError, match="never put in one column"):
        compare({"a": Coins(), "b": Coins(given=Label(2))}, x)
    with pytest.raises(InputError, match="transforms decide"):
        compare({"a": Coins(), "b": Coins()}, x, transforms={"a": (), "b": ("threshold",)})
    with pytest.raises(InputError, match="different images"):
        compare({"a": Coins(), "b": Coins(ImageSpace(1, 3, 3, levels=2))}, x)
    assert compare({"a": Coins(), "b": Bound()}, x).notes


def test_all_families_get_a_row_with_what_they_can_tell():
    space = ImageSpace(1, 4, 4, levels=2)
    toy = data(space=space)
    models = {"coins": Coins(space), "bound": Bound(space), "noisy": Noisy(space, p=0.9), "sums": Sums(space)}
    found = compare(models, toy.test, data=toy, heading="toy", split="test", features=Sums(space), features_name="sums (abc)", draw=150)
    assert [row.name for row in found.entries] == list(models)
    coins_, bound, noisy, sums = found.entries
    assert [row.sign for row in found.entries] == ["=", "≤", "", ""]
    assert [row.name for row in found.rows] == ["coins", "bound"]
    assert found.best is not None and found.best.name == "coins"
    assert coins_.nats == Mean.of(costs(Coins(space), toy.test).nats)
    assert noisy.nats is None and noisy.bits_per_dim is None and not noisy.posterior
    assert bound.speed is None and bound.quality is None and bound.sharpness is None
    assert sums.speed is None and sums.kind == "none"
    assert coins_.quality is not None and noisy.quality is not None and noisy.speed is not None
    assert noisy.quality.frechet.distance > 10 * coins_.quality.frechet.distance
    assert noisy.quality.kid.distance > 10 * noisy.quality.kid.se
    assert coins_.quality.real is noisy.quality.real
    assert coins_.sharpness is coins_.quality.sharpness
    assert noisy.speed.n == 150 and noisy.speed.per_second > 0 and noisy.speed.batch == 150
    facts = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert [m["kind"] for m in facts["models"]] == ["exact", "lower bound", "none", "none"]
    assert facts["models"][2]["samples"]["features"] == "sums (abc)"
    assert facts["models"][2]["speed"].keys() >= {"samples_per_second", "batch", "threads", "device", "n"}
    assert facts["models"][1]["samples"] is None

    none = compare({"a": Noisy(space), "b": Noisy(space, p=0.3)}, toy.test, limit=50)
    assert none.rows == () and none.best is None and none.to_json()["best"] is None
    assert none.n == 50 and none.entries[0].speed is not None and none.entries[0].speed.n == COPY_DRAWS
    assert none.entries[0].sharpness is not None and none.entries[0].quality is None
    assert compare({"a": Noisy(space), "b": Coins(space)}, toy.test, draw=0).entries[0].speed is None


def a_row(name: str, *, can: tuple[str, ...], share: float = 1.0, per_second: float = 1.0) -> Entry:
    sharp = Sharpness(share, 0.01, 1.0, 0.01, 100, 100)
    return Entry(name, name, (), can, "none", None, None, False, Speed(100, 100 / per_second, 64, 1, "cpu"), sharp, None)


def test_usual_claims_are_held_against_the_rows():
    vae, gan = a_row("vae", can=("LatentVariable",), share=0.6), a_row("gan", can=("Critic",), share=0.9, per_second=500)
    pixels = a_row("pixels", can=("Autoregressive",), per_second=5)
    found = {claim.text: claim.holds for claim in claims([vae, gan])}
    assert found == {"samples of a VAE are blurrier than real images": True, "samples of a GAN are sharper than those of a VAE": True}
    slower = [claim for claim in claims([pixels, gan, vae]) if "slower" in claim.text]
    assert [claim.holds for claim in slower] == [True, False]
    assert "pixels 5, gan 500" in slower[0].found
    close = replace(vae, sharpness=Sharpness(0.99, 0.01, 1.0, 0.01, 100, 100))
    assert [claim.holds for claim in claims([close])] == [None]
    unknown = replace(vae, sharpness=Sharpness(1.0, 0.01, 0.0, 0.0, 100, 100))
    assert [claim.holds for claim in claims([unknown])] == [None]


def test_numbers_of_samples_carry_their_protocol_and_what_real_images_get():
    space = ImageSpace(1, 4, 4, levels=2)
    labelled = data(space=space, labels=True)
    result = evaluate(Noisy(space), labelled, features=Sums(space), features_name="sums (abc)", resizing="to 9×9", draw=150)
    quality = result.to_json()["samples"]
    assert (quality["split"], quality["data"], quality["size"], quality["resizing"]) == ("test", "toy [threshold]", [4, 4], "to 9×9")
    assert quality["quantisation"] == "uint8, 2 levels"
    real = quality["of_real_images"]
    assert real["n"] == 150 and real["frechet"] == quality["frechet_of_real_images"]
    for name in ("precision", "recall", "density", "coverage"):
        assert quality["shares"][name] == pytest.approx(quality[name] / real[name])
    assert quality["kid_se"] > 0 and real["kid_se"] > 0
    assert quality["sharpness"]["share"] == pytest.approx(1, abs=4 * quality["sharpness"]["share_se"])
    assert quality["least_class_share"] == min(quality["classes"]) / 150
    assert result.quality is not None
    line = result.quality.protocol
    for text in (
        "150 samples",
        "120 test images of toy [threshold]",
        "16 features of sums (abc)",
        "to 9×9 (4×4)",
        "uint8, 2 levels",
        "k = 3",
    ):
        assert text in line
    # One set alone has no training images to compare with
    alone = evaluate(Noisy(space), data(space=space).test, features=Sums(space), draw=150).to_json()["samples"]
    assert alone["of_real_images"] is None and alone["shares"] is None and alone["frechet_of_real_images"] is None
    # Real images differ from each other too, in where they lie and in how sharp they are
    assert len(real["frechet_of_other_subsets"]) == 3 and len({real["frechet"], *real["frechet_of_other_subsets"]}) > 1
    assert result.quality.real is not None and result.quality.real.span[0] <= real["frechet"] <= result.quality.real.span[1]
    assert 0 < real["sharpness"]["share"] != 1
    # Images below 3×3 have no sharpness
    tiny = evaluate(Noisy(), data(), features=Sums(), draw=50).to_json()["samples"]
    assert tiny["sharpness"] is None


def test_classes_are_counted_only_where_the_judge_knows_those_of_the_images():
    space = ImageSpace(1, 4, 4, levels=2)
    unlabelled = evaluate(Noisy(space), data(space=space), features=Sums(space), draw=50).quality
    assert unlabelled is not None and unlabelled.coverage is None
    test = data(space=space, labels=True).test
    x, y = test.take(torch.arange(len(test)))
    assert y is not None
    other = Split.of(x, 1 - y)  # labels of something else
    judged = evaluate(Noisy(space), other, features=Sums(space), draw=50).quality
    assert judged is not None and judged.coverage is None and judged.to_json()["classes"] is None


def test_a_limit_is_of_the_images_that_samples_are_compared_with():
    space = ImageSpace(1, 4, 4, levels=2)
    found = evaluate(Noisy(space), data(space=space), features=Sums(space), draw=50, limit=40)
    assert found.quality is not None and found.quality.frechet.n_reference == 40


def test_too_few_images_to_judge_samples_by_are_said():
    space = ImageSpace(1, 4, 4, levels=2)
    found = evaluate(Noisy(space), data(space=space).test, features=Sums(space), draw=50, limit=3)
    assert found.quality is None and any("more than 3 real images" in note for note in found.notes)


def test_runs_of_other_data_are_named_in_a_note():
    models, x = {"a": Coins(), "b": Coins(p=0.3)}, coins(10)
    same = compare(models, x, fingerprints={"a": "1" * 32, "b": "1" * 32})
    assert same.notes == ()
    other = compare(models, x, fingerprints={"a": "1" * 32, "b": "2" * 32})
    assert len(other.notes) == 1
    assert "a on 111111111111, b on 222222222222" in other.notes[0]
    assert "b on unknown" in compare(models, x, fingerprints={"a": "1" * 32, "b": ""}).notes[0]


# Info and sharing -----------------------------------------------------------------------------------------------------


def test_info():
    found = info(Coins(), {"format": 1}).to_json()
    assert found["model"] == "coins"
    assert found["parameters"] == 1
    assert "Autoregressive" in found["capabilities"]
    assert found["arguments"] == {"p": "0.25"}
    assert found["meta"] == {"format": 1}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    meta = {
        "format": 1,
        "pofx": "0.1.0",
        "model": "pixelcnn",
        "class": "PixelCNN",
        "arguments": {"layers": 2},
        "space": SPACE.to_json(),
        "given": None,
        "data": {"name": "digits", "transforms": ["threshold"], "spec": {"spec": "digits"}},
        "training": {"steps": 10, "seed": 0},
        "metrics": {"valid_bits_per_dim": 1.25},
    }
    (folder / "model.json").write_text(json.dumps(meta))
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"large")
    (folder / "secret.txt").write_text("no")
    return folder


class FakeHub:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[str] = []

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        self.calls.append(f"create {repo_id} private={private}")
        (self.folder / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(self, *, repo_id: str, folder_path: str, allow_patterns: list[str], commit_message: str) -> None:
        for name in allow_patterns:
            (self.folder / repo_id / name).parent.mkdir(exist_ok=True)
            shutil.copy(Path(folder_path) / name, self.folder / repo_id / name)

    def snapshot_download(self, repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        if not (self.folder / repo_id).is_dir():
            raise OSError("no such repository")
        return str(self.folder / repo_id)


def test_push_and_pull_through_a_folder(run: Path, tmp_path: Path):
    done = push(run, str(tmp_path / "shared"))
    assert files_in(tmp_path / "shared") == ["README.md", "model.json", "model.safetensors"]
    card = (tmp_path / "shared" / "README.md").read_text()
    assert "library_name: pofx" in card
    assert "transforms: threshold" in card
    assert "valid_bits_per_dim | 1.25" in card
    back = pull(str(tmp_path / "shared"), tmp_path / "back")
    assert set(back.files) == set(done.files)
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == b"weights"
    with pytest.raises(InputError, match="not empty"):
        pull(str(tmp_path / "shared"), tmp_path / "back")
    with pytest.raises(InputError, match="holds other files"):
        push(run, str(run / "checkpoints"))


def test_push_and_pull_through_a_hub(run: Path, tmp_path: Path):
    hub = FakeHub(tmp_path / "hub")
    assert push(run, "hf:ada/digits", hub=hub).target == "hf:ada/digits"
    assert hub.calls == ["create ada/digits private=True"]
    assert files_in(tmp_path / "hub" / "ada" / "digits") == ["README.md", "model.json", "model.safetensors"]
    pull("ada/digits", tmp_path / "back", hub=hub)
    assert "model.json" in files_in(tmp_path / "back")
    with pytest.raises(RunError, match="Could not pull from hf:ada/none"):
        pull("hf:ada/none", tmp_path / "other", hub=hub)
    assert not (tmp_path / "other").exists()


def test_attributes_that_were_learned_travel_with_a_run(run: Path, tmp_path: Path) -> None:
    (run / "directions").mkdir()
    (run / "directions" / "thick.json").write_text("{}")
    (run / "directions" / "notes.txt").write_text("no")
    hub = FakeHub(tmp_path / "hub")
    assert "directions/thick.json" in push(run, "hf:ada/digits", hub=hub).files
    pull("hf:ada/digits", tmp_path / "back", hub=hub)
    assert [path.name for path in (tmp_path / "back" / "directions").iterdir()] == ["thick.json"]
    push(run, str(tmp_path / "shared"))
    assert (tmp_path / "shared" / "directions" / "thick.json").is_file()


def test_a_users_own_card_is_kept(run: Path, tmp_path: Path):
    (run / "README.md").write_text("# mine")
    push(run, str(tmp_path / "shared"))
    assert (tmp_path / "shared" / "README.md").read_text() == "# mine"


def test_what_is_no_run_is_not_shared(run: Path, tmp_path: Path):
    (run / "model.safetensors").unlink()
    with pytest.raises(InputError, match="model.safetensors is missing"):
        push(run, str(tmp_path / "shared"))
    with pytest.raises(InputError, match="does not exist"):
        pull(str(tmp_path / "nowhere"), tmp_path / "back")
    with pytest.raises(InputError, match="no Hub id"):
        hub_id("hf:digits")
    assert hub_id(str(tmp_path)) is None
