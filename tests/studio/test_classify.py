"""The page that classifies: which runs can, the verdict at α, and what is shown of why."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("gradio", reason="the extra `studio` is not installed: pip install 'pofx[studio]'")

import pofx
from pofx.errors import InputError
from pofx.models import VAE, Classifier, PixelCNN
from pofx.studio.pages import classify as page
from pofx.studio.shelf import Shelf, Wanted
from pofx.tasks.bulk import TensorImages
from pofx.tasks.classify import as_labeler, classify, rejecter_of, tell
from pofx.views import Label

WANTED = Wanted(("Labeler",), "classify", page.labels_by_bayes)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    folder = tmp_path_factory.mktemp("runs")
    data = pofx.load_data("digits")
    torch.manual_seed(0)
    for name, model in {
        "bayes": PixelCNN.small(data.space, Label(10)),
        "classifier": Classifier.small(data.space),
        "vae": VAE.small(data.space),
    }.items():
        pofx.train(model, data, out=folder / name, steps=20, threads=1, quiet=True)
    shelf = Shelf([folder])
    shelf.warm()
    return shelf


def path(shelf: Shelf, name: str) -> str:
    return next(card.path for card in shelf.cards() if card.name == name)


def seen(shelf: Shelf, name: str, i: int = 0) -> page.Seen:
    run = path(shelf, name)
    labeler, own = as_labeler(shelf.model(run)), shelf.data(run)
    x, y = own.test.take(torch.tensor([i]))
    assert y is not None
    names = tuple(map(str, range(10)))
    rejecters = page.Rejecters(shelf)
    assert [line for line in rejecters.get(run, labeler, None) if line]
    assert not list(rejecters.get(run, labeler, None))  # the second time nothing is measured
    found = tell(labeler, None, TensorImages(x))
    return page.Seen(names, found, rejecters.of(run, None), "exact", 64, int(y[0]))


def test_which_runs_can(shelf: Shelf) -> None:
    assert {card.name: WANTED.fits(card) for card in shelf.cards()} == {"bayes": True, "classifier": True, "vae": False}
    assert WANTED.unable(shelf, path(shelf, "bayes")) == ""
    assert "Labeler" in WANTED.unable(shelf, path(shelf, "vae"))


@pytest.mark.parametrize("name", ["bayes", "classifier"])
def test_the_verdict_is_that_of_the_task(shelf: Shelf, name: str) -> None:
    run = path(shelf, name)
    own = shelf.data(run)
    found = seen(shelf, name, 3)
    same = classify(shelf.model(run), own.test.x[3:4], calib=own.calib, center=own.valid, alpha=0.2, pooled=True)
    words, p_value, sets = page.verdict(found, 0.2, True)
    assert p_value is not None
    assert sets is not None
    assert same.p_value is not None
    torch.testing.assert_close(p_value, same.p_value[0])
    start = {"answer": "Answer:", "ambiguous": "Ambiguous:", "outlier": "<b>None of these</b>"}[same.verdicts[0]]
    assert words.startswith(start)


def test_too_few_of_a_class_are_told(shelf: Shelf) -> None:
    found = seen(shelf, "classifier")
    with pytest.raises(InputError, match="--pooled"):
        page.verdict(found, 0.05, False)
    assert "No reject: alpha=0.05 takes 19 calibration images of each class" in page._safe(found, 0.05, False)


def test_rows_are_classes_and_p_x_given_y_is_there_where_it_is_known(shelf: Shelf) -> None:
    shown = page.shown(seen(shelf, "bayes"), 0.2, True)
    assert shown.count("<tr>") == 11
    assert "log p(x | y), nats" in shown
    alone = page.shown(seen(shelf, "classifier"), 0.2, True)
    assert "log p(x | y)" not in alone
    assert "A classifier alone never says" in alone


def test_none_of_these() -> None:
    """By hand: an image that is odder for every class than all 39 calibration images of each."""
    from pofx.tasks.classify import Told

    y = torch.arange(78) % 2
    likely = torch.log(torch.where(torch.nn.functional.one_hot(y, 2) == 1, 0.9, 0.1).double())
    cost = torch.linspace(1, 2, 78, dtype=torch.double)[:, None]
    rejecter = rejecter_of(Told(likely, cost, y), Told(likely, cost, y), 2)
    odd = Told(torch.log(torch.tensor([[0.6, 0.4]], dtype=torch.double)), torch.tensor([[99.0]], dtype=torch.double), None)
    words, _, sets = page.verdict(page.Seen(("cat", "dog"), odd, rejecter, "exact", 4), 0.05, False)
    assert words.startswith("<b>None of these</b>")
    assert "would be cat" in words
    assert sets is not None
    assert not sets.any()


def test_the_nearest_of_a_training_image_is_itself(shelf: Shelf) -> None:
    run = path(shelf, "classifier")
    own, rejecters = shelf.data(run), page.Rejecters(shelf)
    x, y = own.train.take(torch.tensor([5]))
    assert y is not None
    *_, shown = rejecters.nearest(run, x, "pixels")
    assert f"<figcaption>{int(y[0])}<br>0 levels" in shown
    *_, shown = rejecters.nearest(run, x, "features of the run")
    assert shown.count("<img") == page.NEAREST
    with pytest.raises(InputError, match="compare pixels"):
        list(rejecters.nearest(path(shelf, "bayes"), x, "features of the run"))


def test_an_upload_is_made_to_fit(shelf: Shelf, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (30, 20), (255, 255, 255)).save(tmp_path / "mine.png")
    run = path(shelf, "classifier")
    x, y, caption = page._image(shelf, run, shelf.model(run), 0, str(tmp_path / "mine.png"))
    assert (x.shape, y, caption) == ((1, 1, 8, 8), None, "mine.png, as the model sees it")
    with pytest.raises(InputError, match="There is no image 999"):
        page._image(shelf, run, shelf.model(run), 999, None)
