"""Recipes: each is checked against its model; a tiny one runs to the end, resumes, and keeps its number."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pofx import catalog
from pofx.cli import main
from pofx.data import load_data
from pofx.errors import CapabilityError, InputError
from pofx.space import ImageSpace
from pofx.tasks.classify import as_labeler
from pofx.tasks.score import costs
from pofx.training import load_model
from pofx.workflows import reproduce as module
from pofx.workflows.reproduce import Recipe, load_recipe, recipe_names, reproduce

SPACES = {
    "ir-solar": ImageSpace(1, 40, 24),
    "binarized-mnist": ImageSpace(1, 28, 28, levels=2),
    "mnist": ImageSpace(1, 28, 28),
    "mnist:threshold": ImageSpace(1, 28, 28, levels=2),
    "mnist:dynamic": ImageSpace(1, 28, 28, levels=2),
    "fashion-mnist": ImageSpace(1, 28, 28),
    "cifar10": ImageSpace(3, 32, 32),
    "digits": ImageSpace(1, 8, 8, levels=17),
}


def space_of(recipe: Recipe) -> ImageSpace:
    """Of a recipe's images, as `load_data` converts them."""
    space, size = SPACES[recipe.data], recipe.convert.get("size")
    assert set(recipe.convert) <= {"size", "levels"} and isinstance(size, int | None)
    return ImageSpace(space.channels, size or space.height, size or space.width, recipe.convert.get("levels", space.levels))


TINY = """
title = "A tiny PixelCNN"
model = "pixelcnn"
data = "digits"
source = "nobody"
hardware = "any"
minutes = 1

[expected]
metric = "bits_per_dim"
at_most = 8.0
stretch = 0.1

[settings]
layers = 1
channels = 4

[train]
steps = 45
batch_size = 32
seed = 3
lr = 0.01
average = 1000

[convert]
levels = 4
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """tiny(old=new, …) → a recipe in which lines that begin with `old` are replaced; the working folder is empty."""
    monkeypatch.chdir(tmp_path)

    def make(name: str = "tiny", **changes: str) -> Path:
        rows = TINY.splitlines()
        for old, new in changes.items():
            assert any(row.startswith(old) for row in rows)
            rows = [new if row.startswith(old) else row for row in rows]
        path = tmp_path / f"{name}.toml"
        path.write_text("\n".join(rows))
        return path

    return make


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_fit_their_models(name: str) -> None:
    """Every setting is one of the model, and the model can be made of it."""
    recipe = load_recipe(name)
    with torch.device("meta"):
        cls, settings = recipe.check_model()
        model = cls(space_of(recipe), **catalog.arguments_from_json(settings))
    if "lr" in recipe.train:
        assert model.config()["lr"] == recipe.train["lr"]
    assert name.endswith("-gpu") == (recipe.train.get("device") == "cuda")
    assert recipe.budget.get("minutes", 0) <= recipe.minutes
    assert recipe.expected["split"] == "test"
    assert recipe.train.get("init_from", name) in recipe_names()
    if name == "binarized-mnist-pixelcnn":
        assert 45_000 < sum(p.numel() for p in model.parameters()) < 55_000


def test_there_is_a_recipe_for_each_result() -> None:
    promised = {
        "binarized-mnist-gated": 83.0,
        "binarized-mnist-pixelcnn": 84.0,
        "binarized-mnist-row": 87.0,
        "binarized-mnist-diagonal": 87.0,
        "mnist-pixelcnn-pp": 0.9,
        "mnist-vae": 88.0,
        "mnist-iwae": 87.0,
        "binarized-mnist-vae": 89.9,
        "binarized-mnist-iwae": 88.0,
        "binarized-mnist-ladder": 85.0,
        "binarized-mnist-ladder-gpu": 81.0,
        "cifar10-ladder": 4.7,
        "cifar10-pixelcnn-pp": 3.75,
        "binarized-mnist-gated-gpu": 80.5,
        "cifar10-pixelcnn-pp-gpu": 3.4,
        "fashion-mnist-pixelcnn-pp": 3.34,
        "ir-solar-pixelcnn-pp": 2.25,
        "binarized-mnist-diagonal-gpu": 80.5,
        "binarized-mnist-pixelcnn-gpu": 81.3,
    }
    assert {name: load_recipe(name).expected["at_most"] for name in promised} == promised
    shares = {"mnist-gan": 0.8, "mnist-gan-label": 0.8, "fashion-mnist-gan": 0.6, "mnist-wgan-gp": 0.6, "fashion-mnist-wgan-gp": 0.45}
    assert {name: load_recipe(name).expected["at_least"] for name in shares} == shares
    accuracies = {"mnist-classifier": 0.993, "mnist-gated-label": 0.985, "mnist-bayes": 0.985}
    assert {name: load_recipe(name).expected["at_least"] for name in accuracies} == accuracies


def test_a_baseline_has_the_budget_and_the_nets_of_what_it_is_compared_with() -> None:
    for name in ("mnist", "fashion-mnist"):
        ours, plain = load_recipe(f"{name}-gan"), load_recipe(f"{name}-dcgan")
        assert ours.budget == plain.budget and ours.train["seed"] == plain.train["seed"] and ours.train["threads"] == plain.train["threads"]
        nets = ("network", "channels", "latents")
        assert [ours.settings[key] for key in nets] == [plain.settings[key] for key in nets]
        assert (plain.train["lr"], plain.train["average"], plain.settings["loss"]["type"]) == (2e-4, 0, "NonSaturating")


# To the end -------------------------------------------------------------------------------------------------------------------------------


def test_a_recipe_to_its_end_and_again(tiny: Callable[..., Path], tmp_path: Path) -> None:
    done = reproduce(tiny(), quiet=True)
    assert done.path == Path("results/tiny.json")
    assert done.run == Path("runs/tiny")
    found = json.loads(done.path.read_text())
    # The number is that of the averaged weights on the test split.
    model, data = load_model(done.run), load_data("digits", levels=4)
    score = costs(model, data.test)
    assert found["test"]["nats"]["mean"] == pytest.approx(score.nats.mean().item(), rel=1e-5)
    assert found["test"]["nats"]["se"] == pytest.approx(score.nats.std().item() / len(data.test) ** 0.5, rel=1e-4)
    assert found["found"] == found["test"]["bits_per_dim"] == pytest.approx(score.bits_per_dim.mean().item(), rel=1e-5)
    assert (found["test"]["kind"], found["test"]["n"]) == ("exact", 359)
    assert (found["met"], found["stretch_met"]) == (True, False)
    assert (found["steps"], found["settings"]["lr"], found["train"]["seed"]) == (45, 0.01, 3)
    assert found["budget"] == {"asked": {"steps": 45}, "given": {"steps": 45}, "shorter": False}
    assert found["hardware"]["cores"] and found["threads"] and found["minutes"] > 0
    assert len(found["load_average"]) == 3
    assert [row["step"] for row in found["curve"]] == [40, 45]
    for row in found["curve"]:
        assert row["valid_nats"] == pytest.approx(row["valid_bits_per_dim"] * 64 * 0.6931472, rel=1e-4)
        assert row["minutes"] > 0 and row["train_bits_per_dim"] > 0
    # The same again measures again, and trains no more.
    weights = (done.run / "model.safetensors").stat().st_mtime_ns
    again = reproduce(tiny(), quiet=True)
    assert (done.run / "model.safetensors").stat().st_mtime_ns == weights
    same = {key: value for key, value in again.found.items() if key != "test"}
    assert same == {key: value for key, value in found.items() if key != "test"}


def test_it_is_what_train_makes(tiny: Callable[..., Path], tmp_path: Path) -> None:
    """`pofx train` with the same flags makes the same weights."""
    line = (
        "train pixelcnn digits --levels 4 --layers 1 --channels 4 --steps 45 --batch-size 32 --seed 3 --lr 0.01 --average 1000 --threads 1"
    )
    assert main([*line.split(), "--out", "by-hand", "--quiet"]) == 0
    done = reproduce(tiny(seed="seed = 3\nthreads = 1"), quiet=True)
    one, other = (load_model(run).state_dict() for run in ("by-hand", done.run))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert main([*line.split(), "--out", str(done.run), "--quiet"]) == 0  # and would resume it


def test_a_killed_one_goes_on(tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny(seed="seed = 3\nthreads = 1")
    whole = reproduce(recipe, out="runs/whole", results="whole", quiet=True)
    from pofx.training.module import Keeper, Stopped

    real, calls = Keeper.on_train_batch_end, []

    def dies(self: Any, trainer: Any, game: Any, *rest: Any) -> None:
        real(self, trainer, game, *rest)
        calls.append(game.step)
        if game.step == 40:
            raise Stopped(2, game.step)

    monkeypatch.setattr(Keeper, "on_train_batch_end", dies)
    with pytest.raises(KeyboardInterrupt):
        reproduce(recipe, quiet=True)
    assert not Path("results/tiny.json").exists()
    monkeypatch.setattr(Keeper, "on_train_batch_end", lambda self, *args: (real(self, *args), calls.append(args[1].step)))
    done = reproduce(recipe, quiet=True)
    assert calls[-5:] == [41, 42, 43, 44, 45]  # nothing was done twice
    assert done.found["test"]["nats"] == whole.found["test"]["nats"]
    assert [row["step"] for row in done.found["curve"]] == [40, 45]


def test_a_shorter_budget_is_marked_and_overwrites_no_whole_result(tiny: Callable[..., Path]) -> None:
    recipe, told = tiny(), []
    short = reproduce(recipe, minutes=0.01, quiet=True, say=told.append)
    assert short.run == Path("runs/tiny-0.01min")
    assert short.path == Path("results/tiny.json")
    assert short.found["budget"] == {"asked": {"steps": 45}, "given": {"minutes": 0.01}, "shorter": True}
    assert "0.01 minutes instead of 45 steps" in told[0]
    assert reproduce(recipe, quiet=True).path == short.path
    kept = short.path.read_bytes()
    assert reproduce(recipe, minutes=0.01, quiet=True, say=told.append).path == Path("results/tiny-0.01min.json")
    assert short.path.read_bytes() == kept
    assert "whole budget" in told[-2] + told[-1]


def test_a_bound_has_its_estimate_which_is_what_is_compared(tiny: Callable[..., Path]) -> None:
    changes = {"model": 'model = "vae"', "layers": 'network = "mlp"', "channels": "hidden = 8"}
    done = reproduce(tiny(**changes, stretch="estimate = 3\nestimate_of_500 = 5"), quiet=True).found
    test = done["test"]
    assert (test["kind"], test["estimate"]["kind"], test["estimate"]["k"]) == ("lower bound", "estimate", 3)
    assert done["found"] == test["estimate"]["bits_per_dim"] < test["bits_per_dim"]
    assert (done["estimate_of_500"]["k"], done["estimate_of_500"]["n"]) == (5, 359)  # all there are
    assert "train_kl" in done["curve"][0]
    bound = reproduce(tiny(**changes, stretch='estimate = 3\ncompare = "bound"'), quiet=True).found
    assert bound["found"] == bound["test"]["bits_per_dim"] and "estimate_of_500" not in bound


def test_a_recipe_that_starts_from_the_weights_of_another(tiny: Callable[..., Path], tmp_path: Path) -> None:
    second = tiny("second", seed='seed = 3\ninit_from = "tiny"', steps="steps = 1", lr="lr = 1e-9", average="average = 0")
    with pytest.raises(InputError, match="Make them first: pofx reproduce tiny --out runs/tiny"):
        reproduce(second, quiet=True)
    first = reproduce(tiny(), quiet=True)
    done = reproduce(second, quiet=True)
    assert done.found["begun"] == {"recipe": "tiny", "steps": 45, "images": 1440, "minutes": first.found["minutes"]}
    assert done.found["found"] == pytest.approx(first.found["found"], abs=1e-4)  # a step that moves nothing
    assert reproduce(second, quiet=True).found["found"] == done.found["found"]  # and it is resumed


def test_what_is_expected_may_be_missed(tiny: Callable[..., Path]) -> None:
    done = reproduce(tiny(metric='metric = "nats"\nsplit = "valid"', at_most="at_most = 1", stretch=""), quiet=True)
    assert (done.found["met"], done.found["stretch_met"]) == (False, None)
    assert done.found["found"] == done.found["valid"]["nats"]["mean"] > 1
    assert done.found["valid"]["split"] == "valid"


# Mistakes ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": 'model = "pixlcnn"'}, "Did you mean 'pixelcnn'"),
        ({"layers": "laers = 1"}, "has no setting 'laers'. Did you mean 'layers'"),
        ({"layers": 'layers = "one"'}, "the setting 'layers' is 'one'; it must be a whole number"),
        ({"steps": "stepz = 4"}, "no 'train.stepz'. Did you mean 'steps'"),
        ({"steps": "steps = 4\nminutes = 1"}, "minutes and steps; give one"),
        ({"steps": ""}, "no budget; give one"),
        ({"steps": 'steps = "4"'}, "train.steps is '4'; it must be a whole number"),
        ({"steps": "steps = true"}, "whole number"),
        ({"lr": 'lr = "fast"'}, "it must be a number"),
        ({"metric": 'metric = "fid"'}, "use one of nats, bits_per_dim, accuracy, shares"),
        ({"metric": 'metric = "nats"\nsplit = "train"'}, "use test or valid"),
        ({"at_most": ""}, "at_most is missing"),
        ({"title": ""}, "'title' is missing"),
        ({"title": 'titel = "x"'}, "no 'titel'. Did you mean 'title'"),
        ({"levels": "level = 4"}, "no 'convert.level'. Did you mean 'levels'"),
        ({"data": 'data = "digts"'}, "Did you mean 'digits'"),
        ({"source": "source = nobody"}, "is no TOML.*line"),
    ],
)
def test_mistakes_in_a_recipe(tiny: Callable[..., Path], changes: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        reproduce(tiny(**changes), quiet=True)
    assert str(error.value).count("\n") < 3
    assert not Path("runs").exists()
    assert not list(Path("results").glob("*"))


def test_a_name_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="Did you mean 'binarized-mnist-gated'"):
        load_recipe("binarized-mnist-gatd")
    with pytest.raises(InputError, match="No recipe"):
        load_recipe(tmp_path / "none.toml")
    monkeypatch.setattr(module, "FOLDERS", (tmp_path / "nothing",))
    with pytest.raises(InputError, match="no folder of recipes"):
        load_recipe("binarized-mnist-gated")


def test_data_that_is_not_there_says_how_to_have_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POFX_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"(?s)not in POFX_DATA.*export POFX_DATA=.*How to have it: .*amat"):
        reproduce("binarized-mnist-pixelcnn", quiet=True)


def test_a_recipe_for_a_gpu_says_so_where_there_is_none(tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    recipe = load_recipe(tiny(seed='seed = 3\ndevice = "cuda"'))
    with pytest.raises(InputError, match="planned for any.*--device cpu"):
        reproduce(recipe, quiet=True)
    assert module.plan(recipe).device == "cpu"
    assert reproduce(recipe, device="cpu", quiet=True).found["hardware"]["device"] == "cpu"


# The verb ---------------------------------------------------------------------------------------------------------------------------------


def test_the_verb(tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(tiny())
    assert main(["reproduce", recipe, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "45 of 32 images" in out and "bits_per_dim of test ≤ 8 (stretch 0.1)" in out and "nobody" in out
    assert main(["reproduce", recipe, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["steps"] == 45
    assert not Path("runs").exists() and not Path("results").exists()
    assert main(["reproduce", recipe, "--out", "r", "--results", "kept", "--json", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    answer = json.loads(out)
    assert (answer["run"], answer["out"], answer["met"]) == ("r", "kept/tiny.json", True)
    assert main(["reproduce", recipe, "--out", "r", "--results", "kept", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "bits_per_dim ≤ 8" in out and "met" in out
    assert main(["reproduce", recipe, "--out", "r", "--minutes", "1", "--quiet"]) == 2
    assert "made with other arguments" in capsys.readouterr().err


def test_the_verb_shows_the_bound_and_the_estimate_that_is_judged(tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    changes = {"model": 'model = "vae"', "layers": 'network = "mlp"', "channels": "hidden = 8", "stretch": "estimate = 3"}
    assert main(["reproduce", str(tiny(**changes)), "--quiet"]) == 0
    bound, estimate = (line for line in capsys.readouterr().out.splitlines() if line.startswith("test"))
    assert "≤" in bound and "met" not in bound
    assert estimate.startswith("test, k = 3") and "≈" in estimate and estimate.endswith("met")


GAME = """
title = "A tiny GAN"
model = "gan"
data = "digits"
source = "nobody"
hardware = "any"
minutes = 1

[expected]
metric = "shares"
at_least = 0.0
draw = 64

[settings]
channels = 4

[train]
steps = 4
threads = 1
"""


def test_a_sampler_is_measured_by_its_least_share_seed_by_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("game.toml").write_text(GAME)
    first = reproduce("game.toml", quiet=True)
    samples = first.found["test"]["samples"]
    assert first.found["found"] == min(samples["shares"].values()) and first.found["met"] and samples["n"] == 64
    assert len(samples["classes"]) == 10 and first.found["curve"][-1]["train_critic_accuracy"] <= 1
    other = reproduce("game.toml", seed=1, quiet=True)
    assert other.path == Path("results/game-seed1.json") and other.run == Path("runs/game-seed1")
    assert other.found["train"]["seed"] == 1 and reproduce("game.toml", seed=0, quiet=True).path == first.path


def test_p_of_x_given_a_label_is_measured_as_a_classifier(tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    """The accuracy of Bayes' rule over the run, and not of the run's likelihood."""
    recipe = tiny(
        metric='metric = "accuracy"',
        at_most="at_least = 0.05",
        stretch="",
        layers='layers = 1\ngiven = { type = "Label", classes = 10 }',
    )
    assert main(["reproduce", str(recipe), "--out", "r", "--quiet"]) == 0
    assert "accuracy" in (out := capsys.readouterr().out) and "expected ≥ 0.05" in out
    found = json.loads(Path("results/tiny.json").read_text())
    data, model = load_data("digits", levels=4), load_model("r")
    right = as_labeler(model).label(data.test.x).log_prob.argmax(1) == data.test.y
    assert found["found"] == found["test"]["accuracy"]["mean"] == pytest.approx(float(right.double().mean()), abs=1e-12)
    assert found["met"] == (found["found"] >= 0.05)


def test_a_model_that_gives_no_labels_has_no_accuracy(tiny: Callable[..., Path]) -> None:
    with pytest.raises(CapabilityError, match="trained without labels"):
        reproduce(tiny(metric='metric = "accuracy"', at_most="at_least = 0.05", stretch=""), quiet=True)


def test_shares_need_a_limit_from_below(tmp_path: Path) -> None:
    path = tmp_path / "game.toml"
    path.write_text(GAME.replace("at_least = 0.0", "at_most = 1.0"))
    with pytest.raises(InputError, match=r"expected.at_least is missing"):
        load_recipe(path)
