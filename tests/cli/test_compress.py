"""`pofx compress`, `decompress` and `list`: files and sets there and back, refusals, damage."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pofx
from pofx.cli import main
from pofx.models.autoregressive.pixelcnn import PixelCNN
from pofx.space import ImageSpace
from pofx.tasks.compress import compress
from pofx.testing import densify
from pofx.training import save_model

Ask = Callable[..., dict[str, Any]]
Refuse = Callable[..., str]


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 1×4×5 with all 256 levels, as photographs have."""
    out = tmp_path_factory.mktemp("grey") / "run"
    save_model(densify(PixelCNN(ImageSpace(1, 4, 5), layers=1, channels=2)).float().eval(), out, {})
    return out


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of files: some that the model holds, and some that it does not."""
    root, generator = tmp_path / "photos", np.random.default_rng(0)
    (root / "deep").mkdir(parents=True)
    pixels = generator.integers(0, 256, (3, 4, 5), dtype=np.uint8)
    Image.fromarray(pixels[0]).save(root / "a.png")
    Image.fromarray(pixels[1]).save(root / "at 12:30:05.bmp")
    Image.fromarray(pixels[2]).save(root / "deep" / "ä.png")
    Image.fromarray(generator.integers(0, 256, (7, 5), dtype=np.uint8)).save(root / "larger.png")
    Image.fromarray(generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)).save(root / "colour.png")
    Image.fromarray(generator.integers(0, 256, (4, 5, 2), dtype=np.uint8), "LA").save(root / "alpha.png")
    Image.fromarray(generator.integers(0, 2**16, (4, 5), dtype=np.uint16)).save(root / "deep" / "sixteen.png")
    turned = Image.Exif()
    turned[0x0112] = 3
    Image.fromarray(pixels[0]).save(root / "turned.png", exif=turned)
    frames = [Image.fromarray(p) for p in pixels]
    frames[0].save(root / "moving.gif", save_all=True, append_images=frames[1:])
    (root / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    (root / "cut.png").write_bytes((root / "a.png").read_bytes()[:-40])
    (root / "empty.jpg").write_bytes(b"")
    (root / "notes.txt").write_text("no image")
    return root


HELD = {"a.png", "at 12:30:05.bmp", "deep/ä.png"}


def files(folder: Path) -> dict[str, Path]:
    return {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}


def test_a_folder_of_photographs_comes_back(grey: Path, photos: Path, tmp_path: Path, ask: Ask) -> None:
    facts = ask("compress", grey, photos, "-o", tmp_path / "set.pofx", "--embed-model")
    assert {"run", "data", "path", "images", "stored", "dims", "size", "model_size", "stored_size", "model", "beside"} <= facts.keys()
    assert {"bits_per_dim", "ideal", "ideal_bits_per_dim"} <= facts.keys()
    given = files(photos)
    assert (facts["images"], facts["stored"], facts["dims"]) == (len(given) - 1, len(given) - 1 - 3, 60)
    assert facts["size"] == os.path.getsize(tmp_path / "set.pofx") and facts["beside"] is None and facts["model_size"] > 0
    assert facts["bits_per_dim"] == pytest.approx(8 * (facts["size"] - facts["model_size"] - facts["stored_size"]) / 60)
    assert len(facts["model"]) == 64
    back = ask("decompress", tmp_path / "set.pofx", "-o", tmp_path / "back")
    assert (back["images"], back["stored"], back["model"]) == (facts["images"], facts["stored"], facts["model"])
    found = files(tmp_path / "back")
    assert set(found) == {name.replace(".bmp", ".png") for name in given if name != "notes.txt"}
    for name, path in given.items():
        if name in HELD:
            assert (np.asarray(Image.open(path)) == np.asarray(Image.open(found[name.replace(".bmp", ".png")]))).all()
        elif name != "notes.txt":
            assert found[name].read_bytes() == path.read_bytes(), name
    listed = ask("list", tmp_path / "set.pofx")
    assert (listed["images"], listed["shape"], listed["levels"], listed["where"], listed["troubles"]) == (12, [1, 4, 5], 256, "inside", [])
    assert {"pofx", "model", "bytes", "blocks"} <= listed.keys() and sum(b["images"] for b in listed["blocks"]) == 12
    assert {b["name"] for b in listed["blocks"] if b["kind"] == "stored"} == set(given) - HELD - {"notes.txt"}


def test_a_set_comes_back_as_an_array_and_as_pictures(runs: Path, tmp_path: Path, ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    x = pofx.load_data("digits").test.x
    facts = ask("compress", runs / "pixelcnn", "digits:test", "-o", tmp_path / "set.pofx", "--block", 50)
    beside = Path(facts["beside"])
    assert beside.parent == tmp_path and beside.name == f"{facts['model'][:12]}.pofx-model" and facts["stored"] == 0
    assert facts["images"] == len(x) and facts["model_size"] == 0
    assert facts["bits_per_dim"] == pytest.approx(facts["ideal_bits_per_dim"], rel=0.03)
    ask("decompress", tmp_path / "set.pofx", "-o", tmp_path / "set.npy")
    assert (np.load(tmp_path / "set.npy") == x.numpy()).all()
    ask("decompress", tmp_path / "set.pofx", "-o", tmp_path / "two.npy", "--only", "120,3-4")
    assert (np.load(tmp_path / "two.npy") == x[[3, 4, 120]].numpy()).all()
    beside.rename(tmp_path / "elsewhere.pofx-model")
    for model in (tmp_path / "elsewhere.pofx-model", runs / "pixelcnn"):
        out = tmp_path / f"with-{model.name}"
        ask("decompress", tmp_path / "set.pofx", "-o", out, "--only", "7", "--model", model)
        picture = np.asarray(Image.open(out / "000007.png"))
        assert (np.round(picture / 255 * 16) == x[7, 0].numpy()).all()
    capsys.readouterr()
    assert main(["list", str(tmp_path / "set.pofx")]) == 0
    out = capsys.readouterr().out
    assert f"{len(x)} images, 1×8×8 of 17 levels" in out and "0 … 49" in out and "not here" in out
    assert main(["compress", str(runs / "pixelcnn"), "digits:test", "-o", str(tmp_path / "more.pofx"), "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "bits/dim of the file = " in out and "both are needed" in out


def test_bits_back_says_what_it_starts_with(runs: Path, tmp_path: Path, ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    facts = ask("compress", runs / "vae", "digits:test", "-o", tmp_path / "set.pofx", "--embed-model")
    assert facts["initial"] > 0 and 8 * (facts["size"] - facts["model_size"]) >= facts["ideal"] + facts["initial"]
    ask("decompress", tmp_path / "set.pofx", "-o", tmp_path / "set.npy")
    assert (np.load(tmp_path / "set.npy") == pofx.load_data("digits").test.x.numpy()).all()
    capsys.readouterr()
    assert main(["compress", str(runs / "vae"), "digits:test", "-o", str(tmp_path / "more.pofx"), "--quiet"]) == 0
    assert f"bits that mean nothing: {facts['initial']:,} in all" in capsys.readouterr().out


def test_images_of_another_size_in_a_set_are_stored(runs: Path, tmp_path: Path, ask: Ask, refuse: Refuse) -> None:
    small = np.random.default_rng(0).integers(0, 256, (3, 1, 4, 4), dtype=np.uint8)
    np.save(tmp_path / "small.npy", small)
    facts = ask("compress", runs / "pixelcnn", tmp_path / "small.npy", "-o", tmp_path / "a.pofx")
    assert (facts["images"], facts["stored"], facts["dims"], facts["bits_per_dim"]) == (3, 3, 0, None)
    ask("decompress", tmp_path / "a.pofx", "-o", tmp_path / "back")
    for k in range(3):
        assert (np.asarray(Image.open(tmp_path / "back" / f"{k:06d}.png")) == small[k, 0]).all()
    assert "none of one array" in refuse("decompress", tmp_path / "a.pofx", "-o", tmp_path / "a.npy")


def test_refusals(runs: Path, grey: Path, photos: Path, tmp_path: Path, refuse: Refuse) -> None:
    out = tmp_path / "set.pofx"
    said = refuse("compress", runs / "gan", "digits:test", "-o", out)
    assert "no integer form" in said and "pixelcnn-pp" in said and "pofx train" in said
    assert "without --given" in refuse("compress", runs / "label", "digits:test", "-o", out)
    assert "No images were named" in refuse("compress", grey, "-o", out)
    assert "set.pofx" in refuse("compress", grey, photos, "-o", tmp_path / "set.zip")
    assert "--block" in refuse("compress", grey, photos, "-o", out, "--block", 0)
    assert "two files" in refuse("compress", grey, photos, "digits:test", "-o", out)
    assert "Two images would be" in refuse("compress", grey, photos / "a.png", photos / "a.png", "-o", out)
    assert not out.exists() and not list(tmp_path.glob("*.pofx*"))
    assert main(["compress", str(grey), str(photos / "a.png"), "-o", str(out), "--quiet"]) == 0
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    assert "is there already" in refuse("decompress", out, "-o", tmp_path / "full")
    assert (tmp_path / "full" / "mine.txt").read_text() == "keep me"
    assert "images 0 … 0" in refuse("decompress", out, "-o", tmp_path / "x", "--only", "1")
    for only in ("", "a", "1-", "3:4", "-1"):
        assert "--only 0,17,20-25" in refuse("decompress", out, "-o", tmp_path / "x", f"--only={only}")
    assert "Cannot read" in refuse("list", tmp_path / "none.pofx")
    assert "no file of pofx compress" in refuse("list", photos / "a.png")
    assert "no file of pofx compress" in refuse("decompress", photos / "a.png", "-o", tmp_path / "x")
    assert "was written with" in refuse("decompress", out, "-o", tmp_path / "x", "--model", runs / "pixelcnn")
    assert "integer form" in refuse("decompress", out, "-o", tmp_path / "x", "--model", photos / "a.png")
    assert not (tmp_path / "x").exists()


def test_damage_is_named_and_the_rest_is_written(grey: Path, photos: Path, tmp_path: Path, ask: Ask, refuse: Refuse) -> None:
    out, single = tmp_path / "set.pofx", sorted(HELD)
    ask("compress", grey, *(photos / name for name in single), photos / "larger.png", "-o", out, "--block", 1, "--embed-model")
    data = bytearray(out.read_bytes())
    sizes = {b["first"]: b["bytes"] for b in ask("list", out)["blocks"]}
    model = ask("compress", grey, photos / "a.png", "-o", tmp_path / "one.pofx", "--embed-model")["model_size"]
    start = 8 + 9 + int.from_bytes(data[9:13], "little") + model
    data[start + sizes[0] + 12] ^= 1  # in the second image
    out.write_bytes(data)
    said = refuse("decompress", out, "-o", tmp_path / "back", code=1)
    assert "image 1 (at 12:30:05.bmp)" in said and "other 3 images came back" in said and "set.pofx is damaged" in said
    assert set(files(tmp_path / "back")) == {"a.png", "ä.png", "larger.png"}
    damaged = [b for b in ask("list", out)["blocks"] if b["kind"] == "damaged"]
    assert [(b["first"], b["images"], b["name"]) for b in damaged] == [(1, 1, "at 12:30:05.bmp")]
    out.write_bytes(data[: start + 3])
    assert "No image came back" in refuse("decompress", out, "-o", tmp_path / "none", code=1)


@pytest.mark.parametrize(
    "name",
    ["../out.png", "/out.png", "a/../../out.png", "..\\out.png", "", ".", "..", "a\0b.png", "\ud800.png", "a/" * 200 + "b" * 300 + ".png"],
)
@pytest.mark.parametrize("kind", ["coded", "stored"])
def test_names_that_lead_elsewhere_are_refused(name: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = PixelCNN.small(ImageSpace(1, 2, 2, levels=2))
    x = torch.zeros(int(kind == "coded"), 1, 2, 2, dtype=torch.uint8)
    compress(model, x, tmp_path / "a.pofx", names=[name], stored={} if len(x) else {0: b"harm"})
    out = tmp_path / "in" / "here"
    assert main(["decompress", str(tmp_path / "a.pofx"), "-o", str(out)]) in (1, 2)
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err and "internal error" not in shown.err, shown.err
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix not in (".pofx", ".pofx-model")]
    assert main(["list", str(tmp_path / "a.pofx")]) == 0


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes")
def test_a_name_that_is_no_text_comes_back(grey: Path, tmp_path: Path, ask: Ask) -> None:
    (tmp_path / "in").mkdir()
    raw = os.fsencode(tmp_path / "in") + b"/\xff\xfe.png"
    with open(raw, "wb") as file:
        Image.fromarray(np.zeros((4, 5), np.uint8)).save(file, "PNG")
    ask("compress", grey, tmp_path / "in", "-o", tmp_path / "a.pofx")
    ask("list", tmp_path / "a.pofx")
    assert main(["list", str(tmp_path / "a.pofx")]) == 0
    ask("decompress", tmp_path / "a.pofx", "-o", tmp_path / "back")
    assert os.listdir(os.fsencode(tmp_path / "back")) == [b"\xff\xfe.png"]


def test_names_that_clash_are_refused(tmp_path: Path, refuse: Refuse) -> None:
    model = PixelCNN.small(ImageSpace(1, 2, 2, levels=2))
    compress(model, torch.zeros(2, 1, 2, 2, dtype=torch.uint8), tmp_path / "a.pofx", names=["a.jpg", "a.png"])
    assert "one name" in refuse("decompress", tmp_path / "a.pofx", "-o", tmp_path / "x")
    compress(model, torch.zeros(0, 1, 2, 2, dtype=torch.uint8), tmp_path / "b.pofx", names=["a", "a/b"], stored={0: b"1", 1: b"2"})
    assert "Could not write" in refuse("decompress", tmp_path / "b.pofx", "-o", tmp_path / "y", code=1)


def test_the_answer_is_json_whatever_a_name_is(tmp_path: Path, ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    model = PixelCNN.small(ImageSpace(1, 2, 2, levels=2))
    names = ['quo"te\n.png', "日本.png", "[bold]x[", "a [1].png"]
    compress(model, torch.zeros(4, 1, 2, 2, dtype=torch.uint8), tmp_path / "a.pofx", names=names, block=1)
    assert [b["name"] for b in ask("list", tmp_path / "a.pofx")["blocks"]] == names
    assert json.dumps(ask("decompress", tmp_path / "a.pofx", "-o", tmp_path / "x"))
    assert set(files(tmp_path / "x")) == {name if name.endswith(".png") else f"{name}.png" for name in names}
    assert main(["list", str(tmp_path / "a.pofx")]) == 0
    assert all(name in capsys.readouterr().out for name in ("[bold]x[",)) and main(["list", str(tmp_path / "a.pofx")]) == 0
    assert "a [1].png" in capsys.readouterr().out
