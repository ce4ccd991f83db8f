"""What is written beside images: CSV files, and how attributes and captions travel to a model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pofx.data import load_data, load_images
from pofx.data.sources import emoji_caption
from pofx.errors import InputError
from pofx.models.autoregressive.pixelcnn import PixelCNN
from pofx.tasks.score import score
from pofx.training import train
from pofx.views import Attributes, Caption, Masked

Folder = Callable[..., Path]
HAT = Attributes(("hat", "smiling"))


def table(root: Path, n: int = 30, *, name: str = "list.csv", prefix: str = "", cells: Callable[[int], str] | None = None) -> Path:
    cells = cells or (lambda i: f"{i % 2},{(1, '')[i % 3 == 0]},caption {i}")
    (root / name).write_text("\n".join(["file,hat,smiling,caption", *(f"{prefix}{i:04d}.png,{cells(i)}" for i in range(n))]) + "\n")
    return root


def test_each_part_is_told_of_its_own_images(folder: Folder) -> None:
    data = load_data(table(folder(60), 60))
    told = data.told(HAT)
    assert told.told(HAT) is told and data.told(None) is data and data.told(Masked()) is data
    assert told.fingerprint != data.fingerprint and told.fingerprint == data.told(HAT).fingerprint
    seen = 0
    for part in told.parts.values():
        rows = [int(Path(name).stem) for name in part.ids]
        assert part.y is not None and part.y.tolist() == [[i % 2, 2 if i % 3 == 0 else 1] for i in rows]
        assert torch.equal(part.take(torch.arange(len(part)))[1], part.y)  # type: ignore[arg-type]
        seen += len(rows)
    assert seen == 60
    captions = data.told(Caption(12)).test
    assert captions.y is not None and bytes(captions.y[0].tolist()).rstrip(b"\0").decode() == f"caption {int(Path(captions.ids[0]).stem)}"
    assert data.train.y is None and data.fingerprint == load_data(folder(0)).fingerprint


def test_files_are_named_from_the_folder_of_the_table(folder: Folder) -> None:
    root = folder(6, name="set/train")
    folder(4, name="set/test")
    table(root, 6)
    table(root.parent / "test", 4)
    found = load_images(root.parent)[0]
    assert [c is not None for c in found.written["hat"]] == [True] * 10
    other = folder(4, name="flat/pictures").parent
    assert len(load_images(table(other, 4, prefix="pictures/"))[0].told(HAT).y) == 4  # type: ignore[arg-type]
    assert len(load_images(table(other, 4, prefix="../flat/pictures/"))[0].told(HAT).y) == 4  # type: ignore[arg-type]


def test_what_is_wrong_in_a_table_is_said_when_it_is_needed(folder: Folder) -> None:
    def told(root: Path, view: Attributes = HAT) -> None:
        load_images(root)[0].told(view)

    with pytest.raises(InputError, match="Nothing is written"):
        told(folder(3, name="none"))
    with pytest.raises(InputError, match="'beard'.*Known: caption, hat, smiling"):
        told(table(folder(3, name="column"), 3), Attributes(("beard",)))
    with pytest.raises(InputError, match=r"0002.png is not named in the file that has the column 'hat'"):
        told(table(folder(3, name="image"), 2))
    with pytest.raises(InputError, match=r"'hat' of 0001.png is 'maybe'"):
        told(table(folder(3, name="cell"), 3, cells=lambda i: ("1" if i != 1 else "maybe") + ",0,x"))
    with pytest.warns(UserWarning, match="2 images that are not there"):
        told(table(folder(3, name="more"), 5))
    unrelated = folder(3, name="unrelated")
    (unrelated / "notes.csv").write_text("day,hat\nmonday,1\n")
    (unrelated / "broken.csv").write_bytes(b"\xff\xfe\x00a,b")
    with pytest.warns(UserWarning, match="broken.csv"), pytest.raises(InputError, match="Nothing is written"):
        told(unrelated)


@pytest.mark.parametrize(
    "text",
    [
        "\ufefffile,hat,smiling\r\n0000.png,1,\r\n\r\n0001.png,0,1\r\n0002.png,1,0\r\n",  # a byte order mark, lines of Windows
        "\n\nfile,hat,smiling\n0000.png,1,\n0001.png,0,1\n,,\n0002.png,1,0\n",  # empty lines before the heading too
        "smiling,hat,file\n,1,0000.png\n1,0,0001.png\n0,1,0002.png\n",  # another order
        "file;hat;smiling\n0000.png;1;\n0001.png;0;1\n0002.png;1;0\n",  # as some spreadsheets write
        "file\that\tsmiling\n0000.png\t1\t\n0001.png\t0\t1\n0002.png\t1\t0\n",
        " file , hat , smiling \n 0000.png ,1\n./0001.png,0 , 1\n0002.png, 1,0\n0002.png,1,0\n",  # said twice, alike
    ],
)
def test_tables_of_all_sorts_are_read_alike(folder: Folder, text: str) -> None:
    root = folder(3)
    (root / "list.csv").write_text(text, encoding="utf-8", newline="")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = load_images(root)[0].told(HAT).y
    assert told is not None and told.tolist() == [[1, 2], [0, 1], [1, 0]]


def test_what_is_cut_or_contradicted_is_said(folder: Folder) -> None:
    root = folder(2)
    (root / "list.csv").write_text("file,caption\n0000.png,hello, world\n0001.png,été\n", encoding="utf-8")
    with pytest.warns(UserWarning, match=r"1 rows with more cells than its heading \(e.g. of 0000.png\).*into quotes"):
        load_images(root)
    for text in ("file,hat\n0000.png,1\n0000.png,0\n", "file,hat,hat\n0000.png,1,0\n"):
        (root / "list.csv").write_text(text)
        with pytest.warns(UserWarning, match="hat of 0000.png: '1', then '0'.*what is said first counts"):
            assert load_images(root)[0].written["hat"].tolist() == ["1", None]
    (root / "list.csv").write_text("file,hat\n0000.png,1\n")
    (root / "more.csv").write_text("file,hat\n0000.png,0\n0001.png,0\n")
    with pytest.warns(UserWarning, match="more.csv contradicts"):
        assert load_images(root)[0].written["hat"].tolist() == ["1", "0"]


def test_labels_and_attributes_live_side_by_side_and_short_rows_are_unknown(folder: Folder) -> None:
    root = folder(8, classes=("a", "b"))
    (root / "list.csv").write_text("file,hat\n" + "".join(f"{'ab'[i % 2]}/{i:04d}.png" + (",1" if i else "") + "\n" for i in range(8)))
    found = load_images(root)[0]
    assert found.y is not None and found.y.ndim == 1
    told = found.told(Attributes(("hat",))).y
    assert told is not None and sorted(told.flatten().tolist()) == [1] * 7 + [2]


def test_a_model_is_trained_and_scored_on_what_is_written(folder: Folder, tmp_path: Path) -> None:
    data = load_data(table(folder(40, shape=(4, 4)), 40), levels=2)
    for view in (HAT, Caption(12)):
        model = PixelCNN.small(data.space, view)
        run = train(model, data, out=tmp_path / type(view).__name__, steps=2, batch_size=8, quiet=True)
        assert np.isfinite(run.metrics["valid_bits_per_dim"])
        assert len(score(model, data.test.told(view)).ids) == len(data.test)
        with pytest.raises(InputError, match="told"):
            score(model, data.test)


def test_emoji_are_called_what_their_code_points_are_called() -> None:
    assert emoji_caption("emoji_u1f468_1f3fb_200d_2764_fe0f_200d_1f48b") == "man type-1-2 heavy black heart kiss mark"
    assert emoji_caption("emoji_u1f1e9_1f1ea") == "letter d letter e"
