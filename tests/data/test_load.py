"""Names, parts, conversions, headings, `:dynamic`, labels, and the record that makes a set again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pofx.data import SET_NAMES, Split, contact_sheet, describe, load_data, load_images, order, parse
from pofx.data.sources import DRAWN
from pofx.data.transforms import Conversion, bernoulli, luma, over_white, requantize, resize
from pofx.errors import InputError
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.views import Gray, Half

needs_data = pytest.mark.skipif(not os.environ.get("POFX_DATA"), reason="POFX_DATA is not set: the named sets are not here")


# Grammar ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "base", "part", "transform"),
    [
        ("digits", "digits", None, None),
        ("mnist:threshold", "mnist", None, "threshold"),
        ("mnist:test:dynamic", "mnist", "test", "dynamic"),
        ("mnist:dynamic:test", "mnist", "test", "dynamic"),
        ("timeseries:ECG200", "timeseries:ECG200", None, None),
        ("timeseries:ECG200:calib", "timeseries:ECG200", "calib", None),
        ("hf:owner/name:valid", "hf:owner/name", "valid", None),
        ("some/where.npz:train", "some/where.npz", "train", None),
    ],
)
def test_grammar(text: str, base: str, part: str | None, transform: str | None) -> None:
    found = parse(text)
    assert (found.base, found.part, found.transform) == (base, part, transform)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("digist", "Did you mean 'digits'"),
        ("mnsit:test", "Did you mean 'mnist'"),
        ("digits:thresold", "Did you mean 'threshold'"),
        ("digits:tset", "Did you mean 'test'"),
        ("digits:test:valid", "one part"),
        ("digits:test", "whole set.*'digits'"),
        ("./nowhere", "no file or folder"),
        ("", "empty"),
        ("zzz", "Known: .*digits"),
        ("a\0b", "no set"),
        ("x" * 5000, "no set"),
    ],
)
def test_mistakes(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_data(text)


def test_a_folder_with_a_colon_or_called_like_a_set(folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(20, name="a:test")
    assert len(load_images(str(root))[0]) == 20
    assert load_data(f"{root}:threshold").space.levels == 2
    with pytest.raises(InputError, match="no part and no transform"):
        load_data(f"{root}:treshold")
    named = folder(20, name="digits")
    monkeypatch.chdir(named.parent)
    assert load_data("digits").space.levels == 17
    assert load_data("./digits").space.levels == load_data(Path("digits")).space.levels == 256
    assert load_data("./digits").heading == "digits"


def test_a_named_set_that_is_not_here_says_the_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    def offline(*_: Any) -> Any:
        raise ConnectionError("Couldn't reach it")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    monkeypatch.delenv("POFX_DATA", raising=False)
    for name in set(SET_NAMES) - set(DRAWN):
        with pytest.raises(InputError, match="export POFX_DATA=FOLDER"):
            load_data(name)
    monkeypatch.setenv("POFX_DATA", str(tmp_path))
    with pytest.raises(InputError, match=str(tmp_path)):
        load_data("mnist")


# digits ----------------------------------------------------------------------------------------------------------------------------------


def test_digits() -> None:
    data = load_data("digits")
    assert data.space == ImageSpace(1, 8, 8, 17)
    assert data.heading == data.name == "digits"
    assert data.classes == 10
    assert data.train.ids[0].startswith("digits/")
    for s in data.parts.values():
        data.space.check(s.x)
        assert s.y is not None
        assert s.y.dtype == torch.int64
    assert len({name for s in data.parts.values() for name in s.ids}) == 1797
    seen = describe(data)
    assert sum(seen.counts.values()) == 1797
    assert seen.labels is not None
    assert sum(seen.labels["3"].values()) == 183
    json.dumps(seen.to_json())


def test_the_fingerprint_is_the_same_in_every_run() -> None:
    assert load_data("digits").fingerprint == "1880c424f4a66e2278e047e27280ab7e"
    code = "from pofx.data import load_data; print(load_data('digits:threshold').fingerprint)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "7"}
    )
    assert out.stdout.strip() == load_data("digits:threshold").fingerprint != load_data("digits").fingerprint


@pytest.mark.parametrize(
    ("arguments", "heading", "space"),
    [
        ({}, "digits", "1×8×8, 17 levels"),
        ({"levels": 4}, "digits [levels 4]", "1×8×8, 4 levels"),
        ({"size": 4}, "digits [size 4x4]", "1×4×4, 17 levels"),
        ({"size": "16x12", "levels": 2}, "digits [size 16x12, levels 2]", "1×16×12, 2 levels"),
        ({"gray": True, "size": "8x8", "levels": 17}, "digits", "1×8×8, 17 levels"),
        ({"keep_labels": [0, "1"]}, "digits [keep-labels 0,1]", "1×8×8, 17 levels"),
        ({"drop_labels": "0,1"}, "digits [drop-labels 0,1]", "1×8×8, 17 levels"),
        ({"spec": "digits:threshold", "size": 4}, "digits [size 4x4, threshold]", "1×4×4, 2 levels"),
        ({"spec": "digits:dynamic"}, "digits [dynamic]", "1×8×8, 2 levels"),
    ],
)
def test_conversions_are_recorded_and_made_again(arguments: dict[str, Any], heading: str, space: str) -> None:
    data = load_data(**{"spec": "digits", **arguments})
    assert data.heading == heading
    assert str(data.space) == space
    record = json.loads(json.dumps(data.to_json()))
    again = load_data(**record["spec"])
    assert again.fingerprint == data.fingerprint == record["fingerprint"]
    assert again.to_json() == record
    for s in data.parts.values():
        data.space.check(s.x)
    keys = [set(s.keys.tolist()) for s in data.parts.values()]
    assert not any(a & b for i, a in enumerate(keys) for b in keys[:i])


def test_parts_of_a_name() -> None:
    data = load_data("digits:threshold")
    for part, s in data.parts.items():
        found, space = load_images(f"digits:{part}:threshold")
        assert space == data.space
        assert torch.equal(found.x, s.x)
        assert list(found.ids) == list(s.ids)
        assert found.heading == f"digits {part} [threshold]"
    assert torch.equal(load_images("digits:threshold")[0].x, data.test.x)


def test_taking_rows() -> None:
    part = load_data("digits").train
    assert part.y is not None
    index = torch.tensor([7, 0, 7, -1])
    x, y = part.take(index)
    assert torch.equal(x, part.x[index])
    assert y is not None
    assert torch.equal(y, part.y[index])
    assert torch.equal(torch.cat([x for x, _ in part.batches(100)]), part.x)
    assert part.take(torch.tensor([], dtype=torch.long))[0].shape == (0, 1, 8, 8)
    with pytest.raises(IndexError):
        part.take(torch.tensor([len(part)]))
    rows = order(len(part), seed=0, epoch=0)
    data = load_data("digits")
    assert torch.equal(data.train_batch(rows[:9], seed=0, epoch=0)[0], part.x[rows[:9]])


# Labels ----------------------------------------------------------------------------------------------------------------------------------


def test_keep_and_drop_labels_leave_test_alone() -> None:
    data, zeros, rest = load_data("digits"), load_data("digits", keep_labels=[0]), load_data("digits", drop_labels=[0])
    for part in ("train", "valid", "calib"):
        a, b, c = data.parts[part], zeros.parts[part], rest.parts[part]
        assert b.y is not None
        assert c.y is not None
        assert set(b.y.tolist()) <= {0}
        assert 0 not in c.y.tolist()
        assert set(b.ids) | set(c.ids) == set(a.ids), "the split is that of the whole set"
    assert list(zeros.test.ids) == list(rest.test.ids) == list(data.test.ids)
    assert zeros.classes == 10
    assert len({d.fingerprint for d in (data, zeros, rest)}) == 3
    with pytest.raises(InputError, match="no such class. Known: 0, 1"):
        load_data("digits", keep_labels=["eleven"])
    with pytest.raises(InputError, match="both"):
        load_data("digits", keep_labels=[1], drop_labels=[2])
    with pytest.raises(InputError, match="no image is left"):
        load_data("digits", drop_labels=list(range(10)))


# Dynamic ---------------------------------------------------------------------------------------------------------------------------------


def test_dynamic_redraws_training_by_seed_epoch_and_image_only() -> None:
    data, grey = load_data("digits:dynamic"), load_data("digits")
    assert data.dynamic
    assert not grey.dynamic
    index = torch.arange(40)
    first = data.train_batch(index, seed=0, epoch=0)[0]
    assert torch.equal(first, data.train_batch(index, seed=0, epoch=0)[0])
    assert torch.equal(first[[30, 3]], data.train_batch(torch.tensor([30, 3]), seed=0, epoch=0)[0])
    for other in ({"seed": 0, "epoch": 1}, {"seed": 1, "epoch": 0}):
        assert not torch.equal(first, data.train_batch(index, **other)[0])
    mean = torch.stack([data.train_batch(index, seed=5, epoch=e)[0].double() for e in range(400)]).mean(0)
    p = grey.train.x[:40].double() / 16
    assert ((mean - p).abs() < 6 * (p * (1 - p) / 400).sqrt() + 1e-12).all()


def test_elsewhere_there_is_one_fixed_draw() -> None:
    data = load_data("digits:dynamic")
    for part, s in data.parts.items():
        again, _ = load_images(f"digits:{part}:dynamic")
        assert torch.equal(s.x, again.x)
        assert torch.equal(s.take(torch.tensor([2, 0]))[0], s.x[[2, 0]])
    reversed_rows = data.test.select(np.arange(len(data.test))[::-1].copy())
    assert torch.equal(reversed_rows.x.flip(0), data.test.x)


def test_a_draw_does_not_depend_on_its_batch() -> None:
    x = torch.arange(700 * 4).remainder(256).to(torch.uint8).reshape(700, 1, 2, 2)
    whole = bernoulli(x, 256, Noise(1, torch.arange(700)), "s")
    assert torch.equal(whole[600:], bernoulli(x[600:], 256, Noise(1, torch.arange(600, 700)), "s"))


# Conversions -----------------------------------------------------------------------------------------------------------------------------


@given(st.integers(2, 256), st.integers(2, 256))
def test_requantize_is_the_floor(old: int, new: int) -> None:
    new = min(old, new)
    v = np.arange(old).astype(np.uint8)
    assert requantize(v, old, new).tolist() == [i * new // old for i in range(old)]
    assert int(requantize(v, old, new).max()) == new - 1


def test_conversions_agree_with_the_views(rng: np.random.Generator) -> None:
    x = rng.integers(0, 256, (3, 3, 6, 4), np.uint8)
    assert (luma(x) == Gray().value(torch.from_numpy(x), None).numpy()).all()
    half = Half().value(torch.from_numpy(x), None).numpy()
    assert np.abs(Conversion(size=(3, 2))(x).astype(int) - half).max() <= 1  # ties: Pillow rounds by its own rule
    assert over_white(np.full((1, 4, 1, 1), 255, np.uint8)).ravel().tolist() == [255] * 3


def test_enlarging_repeats_pixels(rng: np.random.Generator) -> None:
    x = rng.integers(0, 2, (1, 3, 5), np.uint8)
    assert (resize(x, (6, 10)) == x.repeat(2, 1).repeat(2, 2)).all()


def test_gray_of_arrays(rng: np.random.Generator) -> None:
    rgba = rng.integers(0, 256, (30, 4, 5, 5), np.uint8)
    assert load_data(rgba).space.channels == 4
    assert load_data(rgba, gray=True).transforms == ("alpha over white", "gray")
    with pytest.raises(InputError, match="--gray"):
        load_data(rgba[:, :2], gray=True)


# Pictures --------------------------------------------------------------------------------------------------------------------------------


def test_contact_sheet(tmp_path: Path) -> None:
    data = load_data("digits")
    sheet = contact_sheet(data, tmp_path / "new" / "sheet.png", columns=5, scale=2, count=20)
    assert sheet.size == (5 * 17 + 1, 4 * 17 + 1)
    assert (tmp_path / "new" / "sheet.png").stat().st_size > 100
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["sheet.png"]
    assert contact_sheet(data.valid, levels=17).size == contact_sheet(data.valid.x, levels=17).size


def test_a_part_made_from_a_tensor() -> None:
    part = Split.of(torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.arange(4))
    x, y = part.take(torch.tensor([3]))
    assert x.shape == (1, 3, 2, 2)
    assert y is not None
    assert y.tolist() == [3]


# Named sets ------------------------------------------------------------------------------------------------------------------------------


@needs_data
@pytest.mark.parametrize(
    ("spec", "space", "counts", "heading"),
    [
        ("mnist", "1×28×28, 256 levels", [54000, 3000, 3000, 10000], "mnist"),
        ("mnist:threshold", "1×28×28, 2 levels", [54000, 3000, 3000, 10000], "mnist [threshold]"),
        ("fashion-mnist", "1×28×28, 256 levels", [54000, 3000, 3000, 10000], "fashion-mnist"),
        ("binarized-mnist", "1×28×28, 2 levels", [50000, 5000, 5000, 10000], "binarized-mnist"),
        ("ir-solar", "1×40×24, 256 levels", [14405, 800, 800, 3995], "ir-solar"),
        ("noto-emoji", "3×32×32, 256 levels", [2894, 161, 161, 357], "noto-emoji [alpha over white]"),
        ("timeseries:ECG200", "1×1×96, 256 levels", [90, 5, 5, 100], "timeseries:ECG200 [256 steps of -2.61717 … 4.19914]"),
    ],
)
def test_named_sets(spec: str, space: str, counts: list[int], heading: str) -> None:
    data = load_data(spec)
    assert str(data.space) == space
    assert [len(s) for s in data.parts.values()] == counts
    assert data.heading == heading
    seen = describe(data)
    assert (seen.labels is None) == (spec == "noto-emoji")
    assert not set(data.valid.keys.tolist() + data.calib.keys.tolist()) & set(data.test.keys.tolist())
    if spec == "ir-solar":
        assert seen.overlap == 8  # documented by its makers' file
        assert data.class_names is not None
        assert data.class_names[0] == "No-Anomaly"
    if spec == "mnist":
        assert data.test.y is not None
        assert data.test.y[:5].tolist() == [7, 2, 1, 0, 4]


@needs_data
def test_an_unknown_series_names_the_known() -> None:
    with pytest.raises(InputError, match="Known: .*ECG200"):
        load_data("timeseries")
    with pytest.raises(InputError, match="Did you mean 'ECG200'"):
        load_data("timeseries:ECG20")


@needs_data
@pytest.mark.slow
def test_cifar10_is_quick_the_second_time() -> None:
    data = load_data("cifar10")
    assert str(data.space) == "3×32×32, 256 levels"
    assert data.class_names is not None
    assert [len(s) for s in data.parts.values()] == [45000, 2500, 2500, 10000]
    assert load_data("cifar10").fingerprint == data.fingerprint
