"""Sets that teach a model nothing are refused, those that teach it little are trained on and said to; for every family, in one place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import pofx
from pofx import catalog
from pofx.cli import main
from pofx.errors import InputError
from pofx.model import ImageModel, Labeler
from pofx.training.learnable import FEW, Doubts, check_learnable
from pofx.views import Label, PartialLabel

MODELS = catalog.model_names()


def images(n: int, different: int, *, flat: bool = False) -> np.ndarray:
    """n images of 8×8, `different` of them; the first shade is 7 everywhere where they are flat."""
    x = np.full((different, 8, 8), 7, np.uint8) + np.arange(different, dtype=np.uint8)[:, None, None]
    if not flat:
        x[:, 2:5, 2:5] += 100
    return x[np.arange(n) % different]


def set_of(folder: Path, x: np.ndarray, y: np.ndarray | None = None) -> pofx.data.Data:
    path = folder / "set.npz"
    if y is None:
        np.savez(path, x=x)
    else:
        np.savez(path, x=x, y=y)
    return pofx.load_data(path)


def model_of(name: str, data: pofx.data.Data) -> ImageModel:
    cls = catalog.get(name)
    return cls.small(data.space)


@pytest.mark.parametrize("name", MODELS)
def test_images_that_teach_nothing_are_refused_by_every_family(name: str, tmp_path: Path) -> None:
    data = set_of(tmp_path, images(300, 1, flat=True), np.arange(300) % 2)
    with pytest.raises(InputError, match="training images of set.npz are the same one, of one colour: nothing can be learnt"):
        pofx.train(model_of(name, data), data, out=tmp_path / "run", steps=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", MODELS)
def test_one_image_over_and_over_is_said_to_every_family(name: str, tmp_path: Path) -> None:
    data = set_of(tmp_path, images(300, 1), np.arange(300) % 2)
    model = model_of(name, data)
    if isinstance(model, Labeler):
        with pytest.raises(InputError, match="no label can depend on it"):
            check_learnable(model, data)
        return
    [line] = check_learnable(model, data).lines
    assert "are the same one: a model learns it by heart" in line
    assert ("the generator can only copy it" in line) == (name == "gan")


def test_a_few_images_are_said(tmp_path: Path) -> None:
    gan = catalog.get("gan")
    data = set_of(tmp_path, images(300, 5))
    n, k = len(data.train), len(np.unique(data.train.keys))
    assert n > k > 1
    assert check_learnable(gan.small(data.space), data).lines == (
        f"set.npz has only {k} different ones among its {n} training images: a model learns them by heart; the critic soon knows them, and the "
        "generator can only copy them. Give more images, or vary them with --diffaugment geometry",
    )
    data = set_of(tmp_path, images(20, 20))
    [line] = check_learnable(catalog.get("vae").small(data.space), data).lines
    assert line.startswith(f"set.npz has only {len(data.train)} training images: a model learns them by heart. Give")
    data = set_of(tmp_path, images(FEW + 20, FEW + 20))
    assert len(data.train) > FEW and check_learnable(gan.small(data.space), data) == Doubts()


def test_images_drawn_anew_are_not_one_image(tmp_path: Path) -> None:
    np.save(tmp_path / "grey.npy", np.full((300, 8, 8), 128, np.uint8))
    data = pofx.load_data(f"{tmp_path / 'grey.npy'}:dynamic")
    assert check_learnable(catalog.get("pixelcnn").small(data.space), data) == Doubts()


def test_few_labels_that_were_asked_for_are_no_surprise() -> None:
    data = pofx.load_data("digits").few_labels(20)
    assert check_learnable(catalog.get("classifier")(data.space, classes=10, channels=4, stages=0), data) == Doubts()  # type: ignore[call-arg]


def test_classes_without_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (120, 8, 8), np.uint8)
    data, pixelcnn, classifier = set_of(tmp_path, x, np.arange(120) % 2 * 2), catalog.get("pixelcnn"), catalog.get("classifier")
    for model in (pixelcnn.small(data.space, Label(3)), classifier(data.space, classes=3, channels=4, stages=0)):  # type: ignore[call-arg]
        found = check_learnable(model, data)
        assert found.unlearned == (1,)
        [line] = found.lines
        assert line.startswith("No training image of set.npz is of class 1: nothing is learned of it.")
    assert check_learnable(pixelcnn.small(data.space, Label(12)), data).lines[0].count("1, 3, 4, 5, 6 and 5 more") == 1
    assert check_learnable(pixelcnn.small(data.space), data) == Doubts()
    with pytest.raises(InputError, match=r"has the label 2; this PixelCNN knows 0 … 1. Make it with given=Label\(3\)"):
        check_learnable(pixelcnn.small(data.space, Label(2)), data)
    one = set_of(tmp_path, x, np.full(120, 2))
    with pytest.raises(InputError, match="All labels of set.npz are 2: there is nothing to tell apart"):
        check_learnable(classifier(one.space, classes=3, channels=4, stages=0), one)  # type: ignore[call-arg]
    assert check_learnable(pixelcnn.small(one.space, PartialLabel(3)), set_of(tmp_path, x)) == Doubts()


# As typed -------------------------------------------------------------------------------------------------------------

Refuse = Callable[..., str]


def trained(data: Path, out: Path, capsys: pytest.CaptureFixture[str], flags: str) -> str:
    """Train for a step; what was said."""
    capsys.readouterr()
    assert main(f"train {flags} --out {out} --steps 1 --threads 1".replace(" DATA ", f" {data} ").split()) == 0
    return capsys.readouterr().err


def test_what_a_user_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few, flat = tmp_path / "few.npy", tmp_path / "flat.npy"
    np.save(few, images(12, 12))
    n = len(pofx.load_data(few).train)
    np.save(flat, images(300, 1, flat=True))
    err = trained(few, tmp_path / "few", capsys, "gan DATA --network mlp --hidden 8 --latents 2 --batch-size 64")
    assert f"has only {n} training images" in err and f"--batch-size 64: there are {n} training images, so a step takes {n}." in err
    assert main(["train", "vae", str(flat), "--out", str(tmp_path / "flat"), "--steps", "1"]) == 2
    err = capsys.readouterr().err
    assert "nothing can be learnt" in err and err.count("\n") == 1 and not (tmp_path / "flat").exists()
    assert main(["train", "vae", str(few), "--out", str(tmp_path / "dry"), "--steps", "1", "--dry-run"]) == 0
    assert f"has only {n} training images" in capsys.readouterr().err


def test_a_class_that_was_never_seen_is_not_sampled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = tmp_path / "gap.npz", tmp_path / "run"
    np.savez(data, x=torch.arange(120 * 64).remainder(251).reshape(120, 8, 8).to(torch.uint8).numpy(), y=np.arange(120) % 2 * 2)
    flags = "pixelcnn DATA --layers 1 --channels 4 --given label"
    assert "is of class 1: nothing is learned of it" in trained(data, run, capsys, flags)
    assert json.loads((run / "model.json").read_text())["training"]["unlearned"] == [1]
    for asked in ("--label 1", "--label 0,1"):
        assert main(f"sample {run} -n 2 {asked} -o {tmp_path}/a.png".split()) == 2
        err = capsys.readouterr().err
        assert "Class 1 had no training image in gap.npz" in err and err.count("\n") == 1
    assert main(f"sample {run} -n 2 --label 0,2 -o {tmp_path}/a.png".split()) == 0
    assert main(f"sample {run} -n 2 --like {data}:test -o {tmp_path}/b.png".split()) == 0
    # Weights that were taken over may know it.
    capsys.readouterr()
    assert "is of class 1" in trained(data, tmp_path / "tuned", capsys, f"{flags} --init-from {run}")
    assert "unlearned" not in json.loads((tmp_path / "tuned" / "model.json").read_text())["training"]
