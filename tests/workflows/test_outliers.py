"""The page of `pofx outliers`, and what must not be mixed up before it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import pofx
from pofx.data import Split
from pofx.errors import InputError
from pofx.models.autoregressive.made import MADE
from pofx.space import ImageSpace
from pofx.tasks._tiles import Tiles
from pofx.tasks.bulk import as_images
from pofx.tasks.outliers import outliers, verdicts
from pofx.workflows.outliers import Wall, apart, check_new, copies, wall, write_page


def test_calibration_images_that_were_in_training_are_refused() -> None:
    data = pofx.load_data("digits")
    check_new(data.calib, data, "digits:calib")
    x = torch.cat([data.test.x[:3], data.valid.x[:1]])
    with pytest.raises(InputError, match=r"--calib mine: 1 of the 4 calibration images were in the run's valid part .* 'array/3'"):
        check_new(Split.of(x), data, "--calib mine")


def test_copies_do_not_make_a_small_set_large() -> None:
    x = torch.arange(19, dtype=torch.uint8).reshape(19, 1, 1, 1)
    assert copies(Split.of(x), 0.05, "marginal") is None
    many = Split.of(x.repeat(10, 1, 1, 1))
    assert "171 of the 190" in (copies(many, 0.05, "marginal") or "")
    with pytest.raises(InputError, match=r"171 of the 190 .* count as 19: alpha=0.01 .* takes 99"):
        copies(many, 0.01, "marginal")
    with pytest.raises(InputError, match="takes 59"):
        copies(many, 0.05, "calibration")


def test_photographs_that_say_what_is_normal_do_not_calibrate() -> None:
    x = torch.arange(10 * 24, dtype=torch.int64).reshape(10, 1, 4, 6).to(torch.uint8)
    stats, calibration = apart(Tiles(as_images(x), ImageSpace(1, 4, 4), (4, 6), 2))
    assert isinstance(stats, Tiles) and isinstance(calibration, Tiles)
    assert len(stats.images) == 4 and len(calibration.images) == 6
    assert not set(stats.images.ids) & set(calibration.images.ids)


def test_the_page_says_what_is_there(tmp_path: Path) -> None:
    torch.manual_seed(0)
    space = ImageSpace(1, 8, 8, levels=17)
    data, model = pofx.load_data("digits"), MADE.small(space)
    x = torch.cat([data.test.x[:8], torch.full((1, 1, 8, 8), 9, dtype=torch.uint8)])
    images = Split.of(x, ids=[f"<{i}>" for i in range(8)] + ["the grey one"])
    found = outliers(model, images, calib=data.calib, center=data.valid, train=data.train, stream=True)
    shown = wall(model, images, found, calib=data.calib)
    assert shown.maps is not None and shown.maps.threshold is not None and shown.restored is not None
    assert shown.index[0] == 8 and torch.equal(shown.x[0], x[8])
    page = write_page(tmp_path / "p.html", run="r", heading="h", levels=17, found=found, shown=shown, notes=["resized: a & b"]).read_text()
    flagged = int(found.outlier.sum())
    assert f"{flagged} of 9 images are odd" in page and "&lt;0&gt;" in page and "<0>" not in page
    assert "1. the grey one<br>p = 0.0137, odd" in page and "a &amp; b" in page and "No alarm" in page
    assert page.count("data:image/png") == 9 and page.count("<svg") == 2
    assert not re.search(r"<script|src=.http|href=.http", page)
    # Nothing of single pixels, and a false discovery rate: no map, no threshold, and how many it takes
    many = verdicts([str(i) for i in range(500)], torch.randn(500), torch.randn(50), alpha=0.05, fdr=0.1)
    plain = write_page(tmp_path / "q.html", run="r", heading="h", levels=17, found=many, shown=Wall(torch.arange(2), x[:2], None, None))
    assert (
        "unless 99 are as odd as can be" in plain.read_text()
        and "says nothing of single pixels" in plain.read_text()
        and "lit" not in plain.read_text().split("What this cannot do")[0].split("The oddest")[1]
    )
