"""`pofx complete` on tiny runs: JSON keys, sheets, and refusals with the command that helps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pofx
from pofx.cli import main
from pofx.views import Half

Ask = Callable[..., dict[str, Any]]
Refuse = Callable[..., str]


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("half") / "half"
    assert main(f"train pixelcnn digits --layers 1 --channels 4 --given half --out {out} --steps 2 --batch-size 16 --quiet".split()) == 0
    return out


def test_complete(runs: Path, ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = ask("complete", runs / "pixelcnn", "digits:test#3", "--keep", "top:4", "-n", 3, "-o", tmp_path / "a.png")
    assert facts["kind"] == "exact" and facts["ess"] is None and (facts["kept"], facts["hole"], facts["n"]) == (32, 32, 3)
    truth = facts["truth"]
    assert truth["kind"] == "exact" and truth["dims"] == 32 and truth["bits_per_dim"] == pytest.approx(truth["nats"] / 32 / np.log(2))
    assert Image.open(tmp_path / "a.png").width > 5 * 64
    facts = ask("complete", runs / "pixelcnn", "digits:test#3", "--keep", "left:3,right:1", "-n", 2, "--particles", 8)
    assert facts["kind"] == "approximate" and 1 <= facts["ess"] <= 8 == facts["particles"] and facts["truth"]["kind"] == "estimate"
    facts = ask("complete", runs / "vae", "digits:test#3", "--keep", "bottom:5", "-n", 2, "--particles", 8)
    assert facts["kind"] == "approximate" and 1 <= facts["ess"] <= 8 and "codes" in facts["method"]
    facts = ask("complete", runs / "gan", "digits:test#3", "--keep", "bottom:5", "-n", 2, "--steps", 5, "-o", tmp_path / "a.npz")
    assert facts["kind"] == "approximate" and facts["ess"] is None and facts["truth"] is None and "not draws" in facts["note"]
    with np.load(tmp_path / "a.npz") as arrays:
        assert bool((arrays["x"][:, :, 3:] == arrays["original"][:, 3:]).all())
    facts = ask("complete", runs / "label", "digits:test#3", "--keep", "top:6", "-n", 2, "--label", 7)
    assert facts["kind"] == "exact" and facts["label"] == "7"
    capsys.readouterr()
    assert main(["complete", str(runs / "pixelcnn"), "digits:test#3", "--keep", "bottom:4", "-n", "2", "--particles", "4", "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "approximate: sequential Monte Carlo, effective sample size" in shown and "≈" in shown and "--given masked" in shown


def test_a_mask_says_which_is_the_hole(runs: Path, ask: Ask, refuse: Refuse, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[6:] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    facts = ask("complete", runs / "pixelcnn", "digits:test#3", "--mask", tmp_path / "m.png", "-n", 2)
    assert facts["mask_white"] == "hole" and facts["hole"] == 16 and facts["kind"] == "exact"
    assert main(["complete", str(runs / "pixelcnn"), "digits:test#3", "--mask", str(tmp_path / "m.png"), "-n", "1", "--quiet"]) == 0
    assert "white is the hole" in capsys.readouterr().out
    Image.fromarray(mask[:5]).save(tmp_path / "small.png")
    assert "make it that size" in refuse("complete", runs / "pixelcnn", "digits:test#3", "--mask", tmp_path / "small.png")
    for value, words in ((0, "nothing to complete"), (255, "pofx sample")):
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(tmp_path / "all.png")
        assert words in refuse("complete", runs / "pixelcnn", "digits:test#3", "--mask", tmp_path / "all.png")


def test_half(half: Path, ask: Ask, refuse: Refuse, tmp_path: Path) -> None:
    facts = ask("complete", half, "digits:test#3", "--half", "-n", 2, "-o", tmp_path / "a.png")
    assert facts["kind"] == "exact" and facts["kept"] == 0 and facts["truth"]["dims"] == 64
    small = np.random.default_rng(0).integers(0, 17, (1, 1, 4, 4)).astype(np.uint8)
    np.savez(tmp_path / "small.npz", x=small, levels=17)
    alone = ask("complete", half, f"{tmp_path}/small.npz", "--half", "-n", 2, "--levels", 17, "-o", tmp_path / "b.png")
    assert alone["kind"] == "exact" and alone["truth"] is None
    np.savez(tmp_path / "odd.npz", x=small[:, :, :3], levels=17)
    assert "Or give one of half the size: 1×4×4" in refuse("complete", half, f"{tmp_path}/odd.npz", "--half")


def test_samples_are_like_images_or_like_small_ones(half: Path, ask: Ask, refuse: Refuse, tmp_path: Path) -> None:
    x = pofx.load_data("digits").test.x[3:4]
    np.savez(tmp_path / "small.npz", x=Half().value(x, None).numpy(), levels=17)
    np.savez(tmp_path / "large.npz", x=x.numpy().repeat(2, 2).repeat(2, 3), levels=17)
    drawn = []
    for like, *flags in (
        ["digits:test#3"],
        [f"{tmp_path}/small.npz", "--levels", 17],
        [f"{tmp_path}/large.npz", "--levels", 17, "--size", "8x8"],
    ):
        found = ask("sample", half, "-n", 2, "--like", like, *flags, "-o", tmp_path / "a.npz")
        drawn.append(np.load(found["out"])["x"])
    assert np.array_equal(drawn[0], drawn[1]) and np.array_equal(drawn[0], drawn[2])
    refused = refuse("sample", half, "--like", f"{tmp_path}/large.npz", "--levels", 17)
    assert "Add --size 8x8" in refused and "Or give one of half the size: 1×4×4" in refused


def test_what_the_data_says_of_the_image_is_used_and_can_be_said(tmp_path: Path, ask: Ask, refuse: Refuse) -> None:
    rng, images = np.random.default_rng(0), tmp_path / "images"
    images.mkdir()
    for i in range(30):
        Image.fromarray(rng.integers(0, 256, (4, 4), np.uint8)).save(images / f"{i:02d}.png")
    rows = "".join(f"{i:02d}.png,{i % 2},word {i}\n" for i in range(30))
    (images / "list.csv").write_text("file,hat,caption\n" + rows)
    (tmp_path / "alone.png").write_bytes((images / "03.png").read_bytes())
    small = ("--layers", 1, "--channels", 4, "--levels", 2, "--steps", 2, "--batch-size", 8, "--quiet")
    asks = ("--keep", "top:2", "-n", 1, "--levels", 2)
    for view, setting, flag, own in (("attributes", ("--given.names", "hat"), "hat=1", "hat=1"), ("caption", (), "word 9", "word 3")):
        run = tmp_path / view
        ask("train", "pixelcnn", images, "--given", view, *setting, "--out", run, *small)
        by_data = ask("complete", run, f"{images}#3", *asks)
        alone = tmp_path / "alone.png"
        assert ask("complete", run, alone, *asks, f"--{view}", own)["truth"] == by_data["truth"]
        assert ask("complete", run, f"{images}#2", *asks, f"--{view}", flag)[view] == flag
        assert f"Or say it with --{view}" in refuse("complete", run, alone, *asks)
        assert f"Use --{view}" in refuse("complete", run, alone, *asks, "--label", 1)
    assert "said twice" in refuse("sample", tmp_path / "attributes", "--attributes", "hat=1,hat=0")


def test_a_run_whose_label_may_be_missing(tmp_path: Path, ask: Ask) -> None:
    run = tmp_path / "partial"
    ask("train", "pixelcnn", "digits", "--given", "partial-label", "--layers", 1, "--channels", 4, "--out", run, "--steps", 2, "--quiet")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    assert ask("complete", run, tmp_path / "a.png", "--keep", "top:2", "-n", 1, "--levels", 17)["kind"] == "exact"
    ask("sample", run, "-n", 2, "-o", tmp_path / "none.npy")
    ask("sample", run, "-n", 2, "--label", 3, "-o", tmp_path / "three.npy")


def test_refusals(runs: Path, refuse: Refuse, tmp_path: Path) -> None:
    pixelcnn, image = runs / "pixelcnn", "digits:test#3"
    assert "needs images of 3 channels" in refuse("complete", pixelcnn, image, "--gray")
    assert "pofx train pixelcnn digits --given half" in refuse("complete", pixelcnn, image, "--half")
    assert "pofx train vae digits --given half" in refuse("complete", runs / "vae", image, "--half")
    assert "both say" in refuse("complete", pixelcnn, image, "--keep", "top:2", "--half")
    assert "keeps nothing" in refuse("complete", pixelcnn, image, "--keep", "top:0")
    assert "nothing to complete" in refuse("complete", pixelcnn, image, "--keep", "top:8")
    assert "has 8 rows" in refuse("complete", pixelcnn, image, "--keep", "top:9")
    assert "Which pixels are kept" in refuse("complete", pixelcnn, image)
    assert "digits:test#0" in refuse("complete", pixelcnn, "digits:test", "--keep", "top:2")
    assert "label" in refuse("complete", runs / "label", image, "--keep", "top:2", "--label", "11")
    assert "one class" in refuse("complete", runs / "label", image, "--keep", "top:2", "--label", "1,2")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "nine.png")
    assert "--size 8x8" in refuse("complete", pixelcnn, tmp_path / "nine.png", "--keep", "top:2")
    assert "--label 0" in refuse("complete", runs / "label", tmp_path / "nine.png", "--keep", "top:2", "--size", "8x8", "--levels", "17")
