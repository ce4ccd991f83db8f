"""The page of outliers: reading what is dropped, α without scoring again, and what cannot be guaranteed."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

pytest.importorskip("gradio", reason="the extra `studio` is not installed: pip install 'pofx[studio]'")

import pofx
from pofx.errors import InputError, RunError
from pofx.models import PixelCNN
from pofx.studio.pages import outliers as page
from pofx.studio.shelf import Shelf
from pofx.studio.work import Work
from pofx.tasks.outliers import calibrate, outliers
from pofx.workflows.outliers import wall

RUN = "pixelcnn"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    folder = tmp_path_factory.mktemp("runs")
    data = pofx.load_data("digits")
    torch.manual_seed(0)
    pofx.train(PixelCNN.small(data.space), data, out=folder / RUN, steps=3, threads=1, quiet=True)
    shelf = Shelf([folder])
    shelf.warm()
    return shelf


def path(shelf: Shelf) -> str:
    return shelf.cards()[0].path


@pytest.fixture(scope="module")
def judged(shelf: Shelf) -> page.Judged:
    run, own = path(shelf), shelf.data(path(shelf))
    model = shelf.model(run)
    found = calibrate(model, calib=own.calib, center=own.valid, train=own.train).judge(model, own.test)
    return page.Judged(run, "digits", model.space.levels, found, wall(model, own.test, found, calib=own.calib, again=False), ())


def test_a_detector_judges_as_the_task_does(shelf: Shelf, judged: page.Judged) -> None:
    own = shelf.data(path(shelf))
    same = outliers(shelf.model(path(shelf)), own.test, calib=own.calib, center=own.valid, train=own.train, alpha=0.1)
    moved = page.at_alpha(judged, 0.1)
    assert torch.equal(moved.found.score, same.score)
    assert torch.equal(moved.found.outlier, same.outlier)
    assert moved.found.used == same.used
    assert (moved.found.alpha, judged.found.alpha) == (0.1, 0.05)


def test_alpha_moves_the_threshold_of_maps_too(shelf: Shelf, judged: page.Judged) -> None:
    own = shelf.data(path(shelf))
    moved = page.at_alpha(judged, 0.2)
    fresh = wall(shelf.model(path(shelf)), own.test, moved.found, calib=own.calib, again=False)
    assert moved.wall.maps is not None
    assert fresh.maps is not None
    assert moved.wall.maps.threshold == pytest.approx(fresh.maps.threshold)
    assert moved.wall.maps.lit.sum() >= judged.wall.maps.lit.sum()  # type: ignore[union-attr]


def test_an_alpha_that_cannot_be_had_says_how_many_it_takes(judged: page.Judged) -> None:
    with pytest.raises(InputError, match="It takes 999 of them"):
        page.at_alpha(judged, 0.001)
    with pytest.raises(InputError, match="Judge some images first"):
        page.at_alpha(None, 0.1)


def test_what_is_shown(judged: page.Judged) -> None:
    summary, drawn, scores, download = page.shown(judged)
    flagged = int(judged.found.outlier.sum())
    assert f"<b>{flagged} of {len(judged.found.ids)} images are odd</b>" in summary
    assert drawn.count("<img") == 24
    assert "<svg" in scores
    rows = Path(download.value["path"]).read_text().splitlines()
    assert rows[0].startswith("id,score,p_value,outlier")
    assert len(rows) == len(judged.found.ids) + 1


def test_dropped_files_keep_their_names_and_are_made_to_fit(shelf: Shelf, tmp_path: Path) -> None:
    from PIL import Image

    files = []
    for k in range(2):  # an upload lies in a folder of its own, and two may have one name
        (tmp_path / str(k)).mkdir()
        files.append(str(tmp_path / str(k) / "odd.png"))
        Image.new("RGB", (20, 20), (200 * k, 10, 10)).save(files[-1])
    loaded, notes = page.read(shelf, path(shelf), page.gathered(files), "the files")
    assert loaded.split.x.shape == (2, 1, 8, 8)
    assert sorted(Path(name).name for name in loaded.split.ids) == ["odd-1.png", "odd.png"]
    assert loaded.heading.startswith("the files")
    assert "resized" in notes[0]


def test_few_are_the_same_few(shelf: Shelf) -> None:
    loaded = page._own_test(shelf, path(shelf))
    one, two = page.few(loaded, 10), page.few(loaded, 10)
    assert one.heading == "10 of the 359 images of digits, test part"
    assert list(one.split.ids) == list(two.split.ids)
    assert page.few(loaded, 1000) is loaded


def test_work_streams_and_lets_others_in(shelf: Shelf) -> None:
    between: list[int] = []

    def task(progress: object) -> str:
        def other() -> None:
            with shelf.computing():
                between.append(1)

        thread = threading.Thread(target=other)
        thread.start()
        while thread.is_alive():  # a piece after the other, until somebody else has had a turn
            progress(1, 2)  # type: ignore[operator]
        return "found"

    work = Work(shelf, task)
    steps = list(work)
    assert (steps[0], work.result, between) == ((0, 0), "found", [1])


def test_work_that_is_left_ends_and_errors_are_told(shelf: Shelf) -> None:
    left: list[RunError] = []
    gone = threading.Event()

    def endless(progress: object) -> None:
        try:
            while True:
                progress(1, 2)  # type: ignore[operator]
        except RunError as error:
            left.append(error)
            gone.set()
            raise

    steps = iter(Work(shelf, endless))
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert gone.wait(30), "it works on for a page that nobody looks at"
    assert "Stopped after 1 of 2" in str(left[0])

    def wrong(progress: object) -> None:
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        list(Work(shelf, wrong))
