"""The page that completes: which image, what is kept, and that the command it shows does the same."""

from __future__ import annotations

import base64
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gradio")

import torch
from PIL import Image

from pofx.cli.common import RunData
from pofx.data import Split
from pofx.errors import InputError, RunError
from pofx.model import ImageModel, Progress
from pofx.models.autoregressive.pixelcnn import PixelCNN
from pofx.space import ImageSpace
from pofx.studio import holes
from pofx.studio.board import Board
from pofx.studio.shelf import Shelf
from pofx.studio.work import Work, how_far
from pofx.tasks.complete import complete, read_mask
from pofx.views import Gray, Half, Label, Masked, Top

SPACE = ImageSpace(1, 4, 4, levels=4)
INFO = RunData({"data": {"spec": {"spec": "digits", "size": "4x4", "levels": 4}}})
X = torch.arange(32, dtype=torch.uint8).reshape(2, 1, 4, 4) % 4


def model(space: ImageSpace = SPACE, **more: Any) -> ImageModel:
    return PixelCNN.small(space, **more)


def test_masks_of_the_canvas() -> None:
    assert holes.below(4, 2) == "00001111" and holes.below(1, 4) == "0011" and holes.inverted("0110") == "1001"
    known = holes.known(Board(rows=4, cols=4, mask="0" * 15 + "1"), SPACE)
    assert known.sum() == 15 and not known[3, 3]
    for board in (Board(rows=4, cols=4, mask="0" * 16), Board(), Board(rows=2, cols=2, mask="1" * 4)):
        with pytest.raises(InputError, match="no hole yet"):
            holes.known(board, SPACE)


@pytest.mark.parametrize(
    ("given", "painted", "said"),
    [(None, True, "Paint"), (Label(3), True, "label"), (Masked(), True, "masked"), (Top(2), False, "fixed"), (Half(), False, "2 × 2")],
)
def test_what_is_done_follows_from_the_view(given: object, painted: bool, said: str) -> None:
    found = model(given=given)
    assert holes.is_painted(found) == painted and said in holes.task_of(found)


def test_a_mask_comes_back_from_its_file(tmp_path: Path) -> None:
    picked = holes.pick("run", model(), INFO, Split.of(X), 1)
    board = Board(rows=4, cols=4, mask="0100" * 4)
    uri = re.findall(r'download="mask.png" href="data:image/png;base64,([^"]+)"', holes.links(picked, board, True))
    (tmp_path / "mask.png").write_bytes(base64.b64decode(uri[0]))
    assert torch.equal(read_mask(tmp_path / "mask.png", 4, 4), holes.known(board, SPACE))
    line, python = holes.by_hand(picked, model(), board, "", {"n": 3})
    assert line == "pofx complete run 'digits:test#1' --mask mask.png --size 4x4 --levels 4 -n 3 -o sheet.png"
    assert "read_mask" in python
    compile(python, "by hand", "exec")
    assert "--keep top:2" in holes.by_hand(picked, model(), Board(rows=4, cols=4, mask=holes.below(4, 4)), "", {})[0]
    assert holes.by_hand(picked, model(), Board(rows=4, cols=4), "", {}) == ("", "")
    with pytest.raises(InputError, match="no image 2"):
        holes.pick("run", model(), INFO, Split.of(X), 2)


def test_uploads_are_brought_to_the_run(tmp_path: Path) -> None:
    photo, small = tmp_path / "photo.png", tmp_path / "small.png"
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(photo)
    Image.fromarray(np.full((2, 2), 255, np.uint8)).save(small)
    read = holes.read("run", str(photo), model(), RunData({}))
    assert read.x is not None and read.x.shape == (1, 1, 4, 4) and int(read.x.max()) < 4 and "resized" in read.heading
    half = holes.read("run", str(small), model(given=Half()), RunData({}))
    assert half.x is None and half.value is not None and half.value.flatten().tolist() == [3] * 4
    assert holes.value_of(model(given=Half()), half, "") is half.value
    rgb = model(ImageSpace(3, 4, 4, levels=4), given=Gray())
    assert (one := holes.read("run", str(photo), rgb, RunData({}))).x is not None and one.value is None
    assert (
        (grey := holes.read("run", str(small), rgb, RunData({}))).x is None and grey.value is not None and grey.value.shape == (1, 1, 4, 4)
    )
    (tmp_path / "words.png").write_text("no image")
    with pytest.raises(InputError):
        holes.read("run", str(tmp_path / "words.png"), model(), RunData({}))


def test_the_class_is_typed_or_the_images_own() -> None:
    found = model(given=Label(3))
    own = holes.Picked("run", X[:1], torch.tensor([2]), None, "w", "h")
    upload = holes.Picked("run", X[:1], None, None, "w", "h")
    assert [holes.value_of(found, own, label).tolist() for label in ("", "1")] == [[2], [1]]  # pyright: ignore[reportOptionalMemberAccess]
    for picked, label, expected in ((upload, "", "give the class"), (own, "cat", "its number"), (own, "7", "outside")):
        with pytest.raises(InputError, match=expected):
            holes.value_of(found, picked, label)


def test_completions_are_shown_with_what_was_kept() -> None:
    found = complete(model(), X[:1], holes.known(Board(rows=4, cols=4, mask=holes.below(4, 4)), SPACE), n=3)
    html = holes.shown(found)
    assert re.findall(r"<figcaption>(.*?)</figcaption>", html) == ["original", "kept", "1", "2", "3"]
    assert len(set(re.findall(r'width="(\d+)" height="\d+"', html))) == 1


def test_a_long_computation_tells_and_stops() -> None:
    shelf = Shelf()
    shelf._ready.set()
    wait = threading.Event()

    def task(progress: Progress) -> str:
        for i in range(100):
            progress(i, 100)
            wait.wait(0.02)
        return "done"

    work = Work(shelf, task)
    seen = list(work)
    assert work.result == "done" and how_far("doing", seen[-1]).endswith("of 100")
    work = Work(shelf, task, stop := threading.Event())
    found = iter(work)
    next(found)
    stop.set()
    with pytest.raises(RunError, match="Stopped"):
        list(found)
    left = Work(shelf, task)
    for _ in left:
        break  # the page was closed
    work = Work(shelf, lambda progress: 1)
    assert list(work) is not None and work.result == 1  # and the shelf is free again
    assert left.stop.is_set()
