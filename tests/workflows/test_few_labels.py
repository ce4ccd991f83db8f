"""Few labels, on digits: balanced, reproducible, recorded; curves and their pages; the verbs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pofx import catalog
from pofx.cli import main
from pofx.data import load_data
from pofx.errors import InputError
from pofx.model import Features
from pofx.tasks._spreading import ALPHA, Neighbours
from pofx.tasks.probe import linear
from pofx.training import load_model, train
from pofx.workflows.few_labels import few_labels, unlabelled

DATA = load_data("digits")


def test_few_labels_are_balanced_and_drawn_by_seed() -> None:
    few, again, other = (DATA.few_labels(25, seed=seed) for seed in (0, 0, 1))
    assert few.train.y is not None
    counts = few.train.y.bincount()
    assert int(counts.sum()) == 25 and set(counts.tolist()) == {2, 3}
    assert list(few.train.ids) == list(again.train.ids) != list(other.train.ids)
    assert few.fingerprint == again.fingerprint != other.fingerprint != DATA.fingerprint
    assert torch.equal(few.test.x, DATA.test.x) and len(few.valid) == len(DATA.valid)
    loaded = load_data(**few.to_json()["spec"])
    assert loaded.fingerprint == few.fingerprint and loaded.heading == "digits [25 labels]"


def test_a_draw_of_more_labels_holds_the_draw_of_fewer() -> None:
    assert set(DATA.few_labels(20).train.ids) < set(DATA.few_labels(100).train.ids)


def test_images_without_a_label_stay_and_those_with_one_are_repeated() -> None:
    few = DATA.few_labels(20, unlabelled=True)
    y = few.train.y
    assert y is not None
    assert set(few.train.ids) == set(DATA.train.ids)
    assert float((y >= 0).double().mean()) == pytest.approx(1 / 8, abs=0.01)
    assert len({i for i, label in zip(few.train.ids, y.tolist(), strict=True) if label >= 0}) == 20
    assert load_data(**few.to_json()["spec"]).fingerprint == few.fingerprint != DATA.few_labels(20).fingerprint


@pytest.mark.parametrize(("n", "match"), [(9, "10 … "), (2000, "10 … "), (0, "--labels 0")])
def test_numbers_of_labels_that_there_are_not(n: int, match: str) -> None:
    with pytest.raises(InputError, match=match):
        DATA.few_labels(n)


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "vae"
    assert main(f"train vae digits --latents 6 --channels 8 --steps 20 --threads 1 --quiet --out {out}".split()) == 0
    return out


def test_probe_prints_curves_and_draws_them(vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "probe.html"
    flags = f"--labels 10,100 --draws 2 --scratch-steps 3 --fine-tune --clusters -o {page} --json --quiet"
    capsys.readouterr()
    assert main(["probe", str(vae), "digits", *flags.split()]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["curves"]) == {"features", "pixels", "scratch", "fine-tuned"} and found["dims"] == 6
    few, many = found["curves"]["pixels"]
    assert few["at"] == 10 and len(few["draws"]) == 2 and few["accuracy"] < many["accuracy"] and many["accuracy"] > 0.8
    assert 0 < found["clusters"]["pixels"] < 1
    text = page.read_text()
    assert (
        "<svg" in text
        and "Clusters" in text
        and "http://" not in text.replace("http://www.w3.org", "").replace("http://purl", "").replace("http://creativecommons", "")
    )


def test_probe_draws_a_png_and_all_labels_once(vae: Path, tmp_path: Path) -> None:
    model = load_model(vae)
    found = few_labels(model, DATA, sizes=[len(DATA.train)], methods=["pixels"], draws=3, out=tmp_path / "p.png")
    assert len(found.curves["pixels"][0].draws) == 1 and found.curves["pixels"][0].sd is None and found.curves["pixels"][0].mean > 0.95
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_more_unlabelled_images_are_a_curve(tmp_path: Path) -> None:
    found = unlabelled("autoencoder", DATA, tmp_path, sizes=(100, 1294), labels=20, draws=2, steps=3, latents=4, channels=4)
    assert [p.at for p in found.curves["20 labels"]] == [100, 1294] and found.over == "images"
    assert (tmp_path / "autoencoder-100" / "model.json").is_file()


def test_an_exported_encoder_says_the_same_and_nothing_else(vae: Path, tmp_path: Path) -> None:
    out = tmp_path / "encoder"
    assert main(f"export {vae} --encoder -o {out} --quiet".split()) == 0
    alone, whole = load_model(out), load_model(vae)
    assert isinstance(alone, Features) and isinstance(whole, Features) and not hasattr(alone, "sample")
    x = DATA.test.x[:5]
    with torch.no_grad():
        assert torch.equal(alone.features(x), whole.features(x))
    assert (out / "model.safetensors").stat().st_size < 0.7 * (vae / "model.safetensors").stat().st_size
    assert main(f"encode {out} digits -o {tmp_path}/z.npy --quiet".split()) == 0
    start = f"train classifier digits --init-from {out} --labels 20 --freeze --steps 3 --threads 1 --quiet --out {tmp_path}/c"
    assert main(start.split()) == 0
    head: Any = load_model(tmp_path / "c")
    with torch.no_grad():
        assert torch.equal(head.start.features(x), whole.features(x))  # frozen
    assert main(start.split()) == 0  # done


def test_unfrozen_bodies_move(vae: Path, tmp_path: Path) -> None:
    assert main(f"train classifier digits --init-from {vae} --labels 20 --steps 3 --threads 1 --quiet --out {tmp_path}/c".split()) == 0
    x = DATA.test.x[:5]
    tuned: Any = load_model(tmp_path / "c")
    whole: Any = load_model(vae)
    with torch.no_grad():
        assert not torch.equal(tuned.start.features(x), whole.features(x))
    meta = json.loads((tmp_path / "c" / "model.json").read_text())
    assert meta["arguments"]["body"]["part"] == "vae" and meta["data"]["spec"]["labels"] == 20


def test_a_classifier_does_not_go_on_from_another_body(vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, start = tmp_path / "other", "train classifier digits --labels 20 --steps 3 --threads 1 --quiet"
    assert main(f"train vae digits --latents 6 --channels 8 --steps 2 --seed 1 --threads 1 --quiet --out {other}".split()) == 0
    assert main(f"export {other} --encoder -o {tmp_path}/encoder --quiet".split()) == 0
    assert main(f"{start} --init-from {vae} --out {tmp_path}/c".split()) == 0
    assert main(f"{start} --init-from {vae} --out {tmp_path}/c".split()) == 0  # done
    meta = json.loads((tmp_path / "c" / "model.json").read_text())
    assert meta["training"]["origins"]["body"]["run"] == str(vae)
    for source in (other, tmp_path / "encoder"):
        capsys.readouterr()
        assert main(f"{start} --init-from {source} --out {tmp_path}/c".split()) == 2
        err = capsys.readouterr().err
        assert f"was started from other weights (body: the run has {vae}, weights" in err and f"now {source}, weights" in err
    model = load_model(tmp_path / "c")
    train(model, load_data("digits").few_labels(20), out=tmp_path / "c", steps=3, threads=1, quiet=True)  # its own parts are no others


@pytest.mark.parametrize("model", ["m2 --hidden 16 --layers 1 --channels 4", "classifier --channels 4 --consistency 1"])
def test_training_with_images_that_have_no_label(model: str, tmp_path: Path) -> None:
    name, *flags = model.split()
    assert main(["train", name, "digits", *flags, *f"--labels 20 --steps 3 --threads 1 --quiet --out {tmp_path}/r".split()]) == 0
    assert json.loads((tmp_path / "r" / "model.json").read_text())["data"]["spec"]["unlabelled"] is True
    assert main(f"evaluate {tmp_path}/r --features none --quiet".split()) == 0


@pytest.mark.parametrize(
    ("tokens", "match"),
    [
        ("export {run} -o x", "--encoder"),
        ("export {run} --encoder -o {run}", "not empty"),
        ("encode {run} digits --layer middle", "has mean"),
        ("probe {run} digits --labels 1,2", "10 …"),
        ("probe {run} digits --labels few", "--labels 10,100,all"),
        ("probe {run} mnist", "1×8×8"),
        ("train vae digits --labels 20 --steps 1 --out {tmp}/v", "without labels"),
        ("train classifier digits --freeze --steps 1 --out {tmp}/v", "--init-from RUN"),
    ],
)
def test_mistakes_have_one_clear_line(tokens: str, match: str, vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import os

    if "mnist" in tokens and not os.environ.get("POFX_DATA"):
        pytest.skip("POFX_DATA is not set")
    capsys.readouterr()
    assert main(tokens.format(run=vae, tmp=tmp_path).split()) == 2
    err = capsys.readouterr().err
    assert match in err and err.strip().count("\n") <= 2


def test_features_of_a_layer_where_a_model_has_no_codes(tmp_path: Path) -> None:
    from pofx.tasks.encode import encode

    model = catalog.get("pixelcnn").small(DATA.space)
    found = encode(model, DATA.test.x[:4], layer="@2", out=tmp_path / "z.parquet")
    assert found.kind == "features, @2" and found.z.shape[0] == 4


def test_labels_spread_to_where_no_label_is() -> None:
    """Two rings, one label on each: enough for the graph and not for a line, and the labels of others are not read."""
    angle = torch.linspace(0, 2 * torch.pi, 61)[:-1]
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    z, y = torch.cat([circle, 3 * circle]), torch.tensor([0, 1]).repeat_interleave(60)
    z = torch.cat([z, z.norm(dim=1, keepdim=True).expand(-1, 4)], 1)  # unit vectors of whitened components: the radius is one of them
    graph = Neighbours.of(z, z)
    assert abs(graph.within - graph.within.T).max() == 0 and not graph.within.diagonal().any()
    assert graph.spread(y, y, torch.tensor([0, 60])).mean == 1.0
    hidden = y.clone()
    hidden[torch.arange(120) % 60 != 0] = 0
    assert graph.spread(hidden, y, torch.tensor([0, 60])).mean == 1.0
    assert linear(z[[0, 60]], y[[0, 60]], z, y).accuracy.mean < 0.95
    with pytest.raises(InputError, match="of one class"):
        graph.spread(y, y, torch.tensor([0, 1]))
    with pytest.raises(InputError, match="same for all"):
        Neighbours.of(torch.ones(9, 3), torch.ones(2, 3))
    noise = torch.randn(30, 2048, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="10 of 10 training images are near no other"):
        Neighbours.of(noise[:10], noise[10:])


def test_spreading_is_the_closed_form_of_zhou() -> None:
    """F = (1 − α)(1 − α D^−½ W D^−½)^−1 Y, on digits."""
    train, test = DATA.train.select(np.arange(300)), DATA.test
    assert train.y is not None and test.y is not None
    z, t = (split.x.flatten(1).double() for split in (train, test))
    graph, rows = Neighbours.of(z, t), train.balanced(20)
    w = torch.from_numpy(graph.within.toarray()).double()
    scale = w.sum(1).rsqrt()
    spread = torch.eye(300).double() - ALPHA * scale[:, None] * w * scale
    known = torch.zeros(300, 10).double()
    known[rows, train.y[rows]] = 1
    found = torch.linalg.solve(spread, known)
    found = torch.from_numpy(graph.across.toarray()).double().T @ (found / found.sum(1, keepdim=True).clamp(min=1e-12))
    exact = float((found.argmax(1) == test.y).double().mean())
    assert graph.spread(train.y, test.y, torch.from_numpy(rows)).mean == pytest.approx(exact, abs=0.005) and exact > 0.7


def test_probe_spreads_labels_along_features_and_pixels(vae: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["probe", str(vae), "digits", *"--labels 20,all --draws 2 --scratch-steps 0 --spread --json --quiet".split()]) == 0
    found = json.loads(capsys.readouterr().out)["curves"]
    assert set(found) == {"features", "pixels", "spread", "spread-pixels"}
    assert len(found["spread"]) == 1 and len(found["features"]) == 2  # all have labels: nothing to spread
    assert found["spread-pixels"][0]["accuracy"] > found["pixels"][0]["accuracy"] + 0.03  # the other images help
