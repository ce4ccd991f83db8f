"""encode, reconstruct, interpolate, traverse, edit and latents on tiny runs: JSON keys, files, and refusals."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pofx.cli import main

Ask = Callable[..., dict[str, Any]]
Refuse = Callable[..., str]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of digits: fours, and zeros."""
    from pofx.data import load_data

    data = load_data("digits").test
    assert data.y is not None
    made = []
    for label in (4, 0):
        folder = tmp_path / str(label)
        folder.mkdir()
        for i, x in enumerate(data.x[data.y == label][:12]):
            Image.fromarray((x[0].numpy().astype(int) * 255 // 16).astype(np.uint8)).save(folder / f"{i}.png")
        made.append(folder)
    return made[0], made[1]


def test_encode(runs: Path, ask: Ask, refuse: Refuse, tmp_path: Path) -> None:
    facts = ask("encode", runs / "vae", "digits:test", "-o", tmp_path / "z.csv")
    rows = list(csv.DictReader((tmp_path / "z.csv").open()))
    assert list(rows[0]) == ["id", "z0", "z1"] and len(rows) == facts["n"] and facts["kind"] == "mean of q(z|x)"
    assert ask("encode", runs / "vae", "digits:test", "--sample", "-o", tmp_path / "z.npz")["kind"] == "draw from q(z|x)"
    with np.load(tmp_path / "z.npz") as arrays:
        assert arrays["z"].shape == (len(rows), 2) and arrays["y"].shape == (len(rows),)
    facts = ask("encode", runs / "gan", "digits:valid#3", "-o", tmp_path / "g.csv", "--steps", 20, "--restarts", 2)
    assert facts["kind"] == "code by inversion (approximate)" and facts["inversion"]["restarts"] == 2
    assert facts["inversion"]["squared_error"]["mean"] <= facts["inversion"]["start_squared_error"]
    row = next(csv.DictReader((tmp_path / "g.csv").open()))
    assert list(row) == ["id", "z0", "z1", "squared_error", "norm"]
    assert float(row["norm"]) == pytest.approx(facts["inversion"]["norm"]["mean"])
    assert "--restarts 4" in refuse("encode", runs / "gan", "digits:valid#3", "--steps", 0)
    assert ask("encode", runs / "pixelcnn", "digits:test", "-o", tmp_path / "f.csv")["kind"] == "features, default layer"
    assert ".parquet" in refuse("encode", runs / "vae", "digits:test", "-o", tmp_path / "z.txt")


def test_reconstruct(runs: Path, ask: Ask, refuse: Refuse, tmp_path: Path) -> None:
    facts = ask("reconstruct", runs / "vae", "digits:valid", "-o", tmp_path / "a.png")
    assert facts["show"] == "sample" and facts["n"] == 72 and facts["dims"] == 64
    error = facts["squared_error_of_mean"]["mean"]
    assert facts["rmse_of_mean_levels"] == pytest.approx(16 * (error / 64) ** 0.5)
    for show in ("mean", "sd"):
        found = ask("reconstruct", runs / "vae", "digits:valid", "-o", tmp_path / f"{show}.png", "--show", show)
        assert (found["show"], found["rmse_of_mean_levels"]) == (show, facts["rmse_of_mean_levels"])
    facts = ask("reconstruct", runs / "gan", "digits:valid", "--limit", 3, "-o", tmp_path / "g.png")
    assert facts["n"] == 3 and facts["inversion"]["squared_error"] == facts["squared_error_of_mean"]
    assert "cannot reconstruct" in refuse("reconstruct", runs / "pixelcnn", "digits:valid")
    assert "--size 8x8" in refuse("reconstruct", runs / "vae", _image(tmp_path / "large.png", 12))


def _image(path: Path, size: int) -> Path:
    Image.fromarray(np.zeros((size, size), np.uint8)).save(path)
    return path


def test_sample_shows_what_p_of_x_given_z_is(runs: Path, ask: Ask, refuse: Refuse, tmp_path: Path) -> None:
    facts = ask("sample", runs / "vae", "-n", 5, "--show", "sd", "-o", tmp_path / "a.npy")
    assert facts["kind"] == "not samples of p: the standard deviation of p(x|z)" and facts["show"] == "sd"
    assert float(np.load(tmp_path / "a.npy").min()) > 0
    assert ask("sample", runs / "vae", "-n", 5, "-o", tmp_path / "b.npy")["kind"] == "samples of p"
    assert Path(ask("sample", runs / "vae", "-n", 5, "--show", "mean")["out"]).name == "mean.png"
    assert "needs LatentVariable" in refuse("sample", runs / "pixelcnn", "-n", 2, "--show", "mean", "-o", tmp_path / "c.png")


def test_interpolate(runs: Path, ask: Ask, refuse: Refuse, folders: tuple[Path, Path], tmp_path: Path) -> None:
    facts = ask("interpolate", runs / "vae", "digits:test#3", "digits:test#8", "-o", tmp_path / "a.png")
    assert (facts["steps"], facts["path"], facts["from"]) == (9, "slerp", "digits:test#3")
    facts = ask(
        "interpolate", runs / "vae", folders[0] / "1.png", f"{folders[1]}#2", "--levels", 17, "--path", "lerp", "-o", tmp_path / "a.gif"
    )
    assert (facts["steps"], facts["path"]) == (31, "lerp")
    assert ask("interpolate", runs / "gan", "--seeds", "3,7", "--steps", 5, "-o", tmp_path / "b.png")["seeds"] == [3, 7]
    facts = ask("interpolate", runs / "gan", "--samples", "3,8", "--seed", 2, "--steps", 5, "-o", tmp_path / "c.png")
    assert facts["samples"] == [3, 8] and facts["inversion"] is None
    facts = ask("interpolate", runs / "gan", "digits:test#3", "digits:test#8", "--steps", 3, "-o", tmp_path / "d.png")
    assert facts["inversion"]["n"] == 2 and facts["inversion"]["typical_norm"] == pytest.approx(2**0.5)
    assert "give one of them" in refuse("interpolate", runs / "gan", "--samples", "3,8", "--seeds", "1,2")
    assert "two whole numbers" in refuse("interpolate", runs / "gan", "--samples", "3,x")
    assert "two whole numbers" in refuse("interpolate", runs / "gan", "--seeds", "3")
    assert "'digits:test#0'" in refuse("interpolate", runs / "vae", "digits:test", "digits:test#1")
    assert "0 … 358" in refuse("interpolate", runs / "vae", "digits:test#359", "digits:test#1")
    assert "name two images" in refuse("interpolate", runs / "vae", "digits:test#1")
    assert "--size 8x8" in refuse("interpolate", runs / "vae", _image(tmp_path / "l.png", 9), "digits:test#1")
    assert "cannot interpolate" in refuse("interpolate", runs / "pixelcnn", "digits:test#3", "digits:test#8")


def test_traverse(runs: Path, ask: Ask, refuse: Refuse, tmp_path: Path) -> None:
    facts = ask("traverse", runs / "vae", "-o", tmp_path / "a.png", "--limit", 50)
    used = [row["activity"] for row in facts["dims"]]
    assert facts["unit"].startswith("nats") and used == sorted(used, reverse=True) and len(used) == 2
    assert ask("traverse", runs / "vae", "digits:test#0", "-o", tmp_path / "b.png", "--data", "digits:valid")["around"] == "an image's code"
    assert "variance" in ask("traverse", runs / "gan", "-o", tmp_path / "c.png", "--columns", 3)["unit"]
    facts = ask("traverse", runs / "gan", "digits:test#0", "--columns", 3)
    assert facts["around"] == "an image's code by inversion (approximate)" and facts["inversion"]["n"] == 1
    assert "cannot be traversed" in refuse("traverse", runs / "pixelcnn")


def test_latents(runs: Path, ask: Ask, refuse: Refuse, tmp_path: Path) -> None:
    facts = ask("latents", runs / "vae", "-o", tmp_path / "a.png", "--grid", 4)
    assert (facts["method"], facts["manifold"], facts["n"]) == ("z", [4, 4], 359)
    assert Image.open(tmp_path / "a.png").format == "PNG"
    facts = ask("latents", runs / "vae", "digits:valid", "--method", "pca", "--limit", 30)
    assert sum(facts["explained_variance"]) == pytest.approx(1) and facts["n"] == 30
    assert ask("latents", runs / "gan", "--grid", 3)["n"] == 0
    facts = ask("latents", runs / "gan", "digits:valid", "--grid", 3, "--limit", 4)
    assert facts["n"] == facts["inversion"]["n"] == 4
    assert "Did you mean" in refuse("latents", runs / "vae", "--method", "tsna")
    assert "cannot show a latent space" in refuse("latents", runs / "pixelcnn")


def test_edit(runs: Path, ask: Ask, refuse: Refuse, folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, (fours, zeros) = tmp_path / "run", folders
    import shutil

    shutil.copytree(runs / "vae", run)
    assert "learned no attribute yet" in _text(capsys, "edit", run, "--list")
    assert "nor any other yet" in refuse("edit", run, "digits:test", "--add", "four=1")
    facts = ask("edit", run, "--learn", "four", "--with", fours, "--without", zeros, "--levels", 17)
    assert facts["n"] == [12, 12] and 0 <= facts["accuracy"] <= 1 and facts["accuracy_se"] > 0
    stored = json.loads((run / "directions" / "four.json").read_text())
    assert len(stored["vector"]) == 2 and stored["method"] == "mean"
    facts = ask("edit", run, "--learn", "three", "--labels", "3", "--method", "svm", "--hold", "four")
    assert facts["held"] == ["four"] and sum(facts["n"]) == 1294
    assert [d["name"] for d in ask("edit", run, "--list")["directions"]] == ["four", "three"]
    facts = ask("edit", run, fours / "1.png", "--levels", 17, "--add", "four=-1.5", "--add", "three=2", "-o", tmp_path / "out.png")
    assert facts["add"] == {"four": -1.5, "three": 2.0} and facts["n"] == 1
    assert Image.open(tmp_path / "out.png").size[0] > 190
    ask("edit", run, "digits:valid", "--add", "four=1,three=1", "-o", tmp_path / "many")
    assert len(list((tmp_path / "many").iterdir())) == 72
    assert "Did you mean 'three'? Known: four, three." in refuse("edit", run, "digits:test", "--add", "thre=1")
    for wrong in ("four", "four=x", "four=nan", "=1"):
        assert "a name and a strength" in refuse("edit", run, "digits:test", "--add", wrong)
    assert "given twice" in refuse("edit", run, "digits:test", "--add", "four=1", "--add", "four=2")
    assert "in both groups" in refuse("edit", run, "--learn", "a", "--with", fours, "--without", fours, "--levels", 17)
    assert "there is no class" in refuse("edit", run, "--learn", "a", "--labels", "11")
    assert "--without is missing" in refuse("edit", run, "--learn", "a", "--with", fours)
    assert "--with FOLDER" in refuse("edit", run, "--learn", "a")
    assert "One thing at a time" in refuse("edit", run, "--learn", "a", "--list")
    assert "One thing at a time" in refuse("edit", run)
    assert "Which images?" in refuse("edit", run, "--add", "four=1")
    assert "both say what to change" in refuse("edit", run, "digits:test", "--samples", "1", "--add", "four=1")
    assert "--learn NAME" in refuse("edit", run, "digits:test", "--add", "four=1", "--with", fours)
    assert "cannot be held fixed" in refuse("edit", run, "--learn", "four", "--labels", "4", "--hold", "four")
    assert "--size 8x8" in refuse("edit", run, _image(tmp_path / "l.png", 9), "--add", "four=1")
    assert ask("edit", run, "--remove", "four")["removed"] == "four"
    assert "There is no attribute 'four'" in refuse("edit", run, "--remove", "four")
    assert "cannot edit" in refuse("edit", runs / "pixelcnn", "--learn", "a", "--labels", "3")


def test_edit_of_a_gan(
    runs: Path, ask: Ask, refuse: Refuse, folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    run, (fours, zeros) = tmp_path / "run", folders
    shutil.copytree(runs / "gan", run)
    facts = ask("edit", run, "--samples", "3,5,9", "--minus", "1,2", "--plus", "7,8", "-o", tmp_path / "sum.png")
    assert facts["groups"] == {"start": 3, "minus": 2, "plus": 2} and facts["typical_norm"] == pytest.approx(2**0.5)
    assert Image.open(tmp_path / "sum.png").size[0] > 4 * 60 and not (run / "directions").exists()
    facts = ask("edit", run, "--learn", "smile", "--minus", "0-2", "--plus", "7,8")
    assert Path(facts["direction"]).name == "smile.json" and facts["groups"]["start"] == 0 and facts["norm"] is None
    facts = ask("edit", run, "--samples", "0-5", "--add", "smile=1", "-o", tmp_path / "added.png")
    assert facts["n"] == 6 and facts["inversion"] is None and facts["data"] == "samples 0-5 of seed 0"
    for method in ("sefa", "pca"):
        facts = ask("edit", run, "--discover", method, "--samples", "4", "-o", tmp_path / f"{method}.png")
        assert [d["name"] for d in facts["directions"]] == [f"{method}-1", f"{method}-2"] and facts["sample"] == 4
    ask("edit", run, "--discover", "sefa", "--count", 1)  # in the place of the two
    assert [d["name"] for d in ask("edit", run, "--list")["directions"]] == ["pca-1", "pca-2", "sefa-1", "smile"]
    assert "first layer" in _text(capsys, "edit", run, "--list")
    facts = ask("edit", run, fours / "1.png", "--levels", 17, "--add", "sefa-1=2", "-o", tmp_path / "image.png")
    assert facts["inversion"]["n"] == 1
    facts = ask("edit", run, "--learn", "four", "--with", fours, "--without", zeros, "--levels", 17)
    assert facts["n"] == [12, 12] and "by inversion" in facts["source"]
    assert "--minus is missing" in refuse("edit", run, "--samples", "1", "--plus", "7")
    assert "Which samples" in refuse("edit", run, "--minus", "1", "--plus", "7")
    assert "Sample 7 is in both" in refuse("edit", run, "--samples", "1", "--minus", "7", "--plus", "7")
    assert "--samples 0-7" in refuse("edit", run, "--samples", "5-3", "--minus", "7", "--plus", "8")
    assert "not with --add" in refuse("edit", run, "--minus", "1", "--plus", "7", "--add", "smile=1")
    assert "one or the other" in refuse("edit", run, "--learn", "a", "--minus", "1", "--plus", "7", "--labels", "3")
    assert "takes no DATA" in refuse("edit", run, "digits:test", "--minus", "1", "--plus", "7")
    assert "leave it out" in refuse("edit", run, "--list", "--samples", "1")
    assert "on one sample" in refuse("edit", run, "--discover", "sefa", "--samples", "0-3")
    assert "1 … 2 directions" in refuse("edit", run, "--discover", "sefa", "--count", "3")
    shutil.copytree(runs / "vae", tmp_path / "vae")
    assert [d["name"] for d in ask("edit", tmp_path / "vae", "--discover", "sefa")["directions"]] == ["sefa-1", "sefa-2"]
    assert "without a condition" in refuse("edit", run, "--discover", "sefa", "--label", "3")


def test_samples_of_a_view_of_images_are_given_images(ask: Ask, refuse: Refuse, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "half"
    size = ("--channels", 4, "--latents", 2, "--stages", 1)
    assert main([*map(str, ("train", "gan", "digits", "--out", run, "--given", "half", "--steps", 2, "--quiet", *size))]) == 0
    for tokens in (("interpolate", run, "--samples", "3,8"), ("edit", run, "--discover", "pca"), ("traverse", run)):
        assert "--like digits:test" in refuse(*tokens)
        assert ask(*tokens, "--like", "digits:test")["run"] == str(run)
    assert "--like digits:test" in _text(capsys, "edit", run, "--discover", "sefa", "--like", "digits:test")  # the line to paste has it too
    assert ask("edit", run, "--samples", "0-3", "--add", "sefa-1=2", "--like", "digits:test")["n"] == 4


def test_truncated_samples_say_so(runs: Path, ask: Ask, refuse: Refuse, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run in ("gan", "vae"):
        facts = ask("sample", runs / run, "-n", 4, "--truncation", 0.5, "-o", tmp_path / f"{run}.npy")
        assert (facts["kind"], facts["truncation"]) == ("not samples of p", 0.5)
    assert ask("sample", runs / "gan", "-n", 4, "-o", tmp_path / "plain.npy")["kind"] == "samples of p"
    ask("sample", runs / "gan", "-n", 4, "--truncation", 1, "-o", tmp_path / "one.npy")
    assert (np.load(tmp_path / "plain.npy") == np.load(tmp_path / "one.npy")).all()
    assert "--temperature 0.7" in refuse("sample", runs / "pixelcnn", "-n", 2, "--truncation", 0.5, "-o", tmp_path / "a.png")
    for wrong in (("--truncation", 2), ("--temperature", 0.5)):
        assert "--truncation 0.7" in refuse("sample", runs / "gan", "-n", 2, *wrong, "-o", tmp_path / "a.png")


def _text(capsys: pytest.CaptureFixture[str], *tokens: object) -> str:
    capsys.readouterr()
    assert main([*map(str, tokens)]) == 0
    return capsys.readouterr().out


def test_flags_of_a_verb_are_arguments_of_its_task() -> None:
    """Defaults of the command line are those of the library."""
    import inspect
    from importlib import import_module

    for verb, task in {
        "encode": "encode",
        "reconstruct": "reconstruct",
        "interpolate": "interpolate",
        "traverse": "traverse",
        "latents": "latent_map",
    }.items():
        library = inspect.signature(getattr(import_module(f"pofx.tasks.{task}"), task)).parameters
        flags = inspect.signature(getattr(import_module(f"pofx.cli.{verb}"), verb)).parameters
        for name in set(flags) & set(library):
            assert flags[name].default == library[name].default, f"{verb} --{name}"
