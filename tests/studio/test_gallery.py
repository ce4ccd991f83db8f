"""The gallery: what a card says of a run, read without torch, and the form of a model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the extra `studio` is not installed: pip install 'pofx[studio]'")

import numpy as np
from PIL import Image

from pofx import catalog, pictures
from pofx.errors import InputError
from pofx.studio import cards, training
from pofx.studio.pages import gallery
from pofx.studio.shelf import Card, Shelf

SPACE = {"channels": 1, "height": 8, "width": 8, "levels": 17}


def card(path: Path, **json_of: Any) -> Card:
    meta = {
        "model": "pixelcnn",
        "class": "PixelCNN",
        "space": SPACE,
        "data": {"heading": "digits"},
        "metrics": {},
        "finished": True,
    } | json_of
    path.mkdir(parents=True, exist_ok=True)
    (path / "model.json").write_text(json.dumps(meta))
    return Card(str(path), meta)


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ({"metrics": {"valid_bits_per_dim": 1.25, "valid_kind": "exact"}}, "p(x): = 1.25 bits/dim on its valid part (exact)"),
        (
            {"model": "vae", "metrics": {"valid_bits_per_dim": 1.25, "valid_kind": "lower bound"}},
            "p(x): ≤ 1.25 bits/dim on its valid part (an upper bound of the cost)",
        ),
        ({"given": {"type": "Label"}, "metrics": {"valid_bits_per_dim": 1.5, "valid_kind": "exact"}}, "p(x | label): = 1.5 bits/dim"),
        ({"model": "gan"}, "No likelihood"),
        ({"model": "autoencoder"}, "No density"),
        ({"model": "classifier", "metrics": {"valid_accuracy": 0.986}}, "p(y | x): accuracy = 98.60% on its valid part"),
        ({"finished": False}, "Not validated yet."),
    ],
)
def test_numbers_carry_their_kind(tmp_path: Path, meta: dict[str, Any], said: str) -> None:
    assert cards.number(card(tmp_path / "a", **meta)).startswith(said)


def test_a_thumbnail_is_the_first_samples_pixel_for_pixel(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 17, (64, 1, 8, 8), dtype=np.uint8)
    small = cards.thumbnail(pictures.grid(x, 17), card(tmp_path / "a"))
    assert small.size == (4 * 9 + 1, 4 * 9 + 1)
    assert np.array_equal(np.asarray(small), np.asarray(pictures.grid(x[:16], 17, columns=4, scale=1)))
    other = Image.new("RGB", (50, 50))
    assert cards.thumbnail(other, card(tmp_path / "a")) is other


def test_a_card_escapes_what_it_reads(tmp_path: Path) -> None:
    made = cards.html(card(tmp_path / "a", data={"heading": "<script>alert(1)</script>"}))
    assert "<script>" not in made
    (tmp_path / "a" / "samples.png").write_bytes(b"no picture")
    assert "No samples.png" in cards.html(card(tmp_path / "a"))


def test_the_first_paint_takes_no_torch(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    card(run)
    pictures.grid(np.zeros((4, 1, 8, 8), np.uint8), 17).save(run / "samples.png")
    (run / "metrics.csv").write_text("step,train_loss\n1,2.0\n2,1.0\n")
    code = f"""import sys
from pofx.studio.app import make
from pofx.studio.shelf import Shelf
app = make(Shelf([{str(tmp_path / "runs")!r}]))
wall = next(b for b in app.blocks.values() if b.elem_id == "cards")
assert "samples of a" in wall.value and "polyline" in wall.value, wall.value
print(sorted({{name.partition(".")[0] for name in sys.modules}} & {{"torch", "lightning", "matplotlib"}}))"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert answer.stdout.strip() == "[]", answer.stderr[-2000:]


@pytest.mark.parametrize("model", catalog.model_names())
def test_every_setting_has_a_box_with_its_default(model: str) -> None:
    """The form, left as it is, is the plain command."""
    settings = training.settings(model)
    values = {setting.flag: gallery.box(setting).value for setting in settings}
    assert training.words(model, "digits", "runs/a", 1, values)[8:] == ()


def test_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    shelf = Shelf([tmp_path])
    assert gallery.propose(shelf, "vae", "mnist:threshold") == str(tmp_path / "vae-mnist-threshold")
    card(tmp_path / "vae-digits")
    training.log_of(tmp_path / "vae-digits-2").write_text("")
    assert gallery.propose(shelf, "vae", "digits") == str(tmp_path / "vae-digits-3")


def test_what_goes_on_and_with_which_command(tmp_path: Path) -> None:
    card(tmp_path / "done")
    card(tmp_path / "half", finished=False, data={"heading": "digits", "spec": {"spec": "digits"}}, training={"arguments": {"steps": 9}})
    card(tmp_path / "array", finished=False, data={"heading": "digits", "spec": {"spec": None}})
    shelf = Shelf([tmp_path])
    assert gallery._unfinished(shelf, training.Trainings()) == [str(tmp_path / "array"), str(tmp_path / "half")]
    half = str(tmp_path / "half")
    assert gallery._command(half) == ("pofx", "train", "pixelcnn", "digits", "--out", half, "--steps", "9")
    training.log_of(half).write_text(f"$ pofx train vae digits --out {half} --minutes 2\n")
    assert gallery._command(half)[2] == "vae"
    with pytest.raises(InputError, match="not known here"):
        gallery._command(str(tmp_path / "array"))
