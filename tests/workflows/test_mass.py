"""All images of 3×3: the sum is 1 at every step, areas are probabilities, and both products of the table agree."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pofx.cli import main
from pofx.errors import InputError
from pofx.workflows import mass as workflow
from pofx.workflows._patterns import patterns
from pofx.workflows.mass import Mass, mass, tiles, wall


@pytest.fixture(scope="module")
def made() -> Mass:
    return mass(steps=60, frames=6, n=400)


def test_the_sum_is_1_at_every_step_and_what_one_gains_others_lose(made: Mass) -> None:
    assert [f.step for f in made.frames] == [0, 2, 10, 22, 38, 60]
    assert all(abs(f.total - 1) < 1e-12 and f.p.shape == (512,) for f in made.frames)
    change = made.last.p - made.frames[0].p
    assert abs(float(change.sum())) < 1e-12
    assert float(change[change > 0].sum()) > 0.3  # and as much was lost by others
    assert made.last.kl < made.frames[0].kl / 3
    names = {workflow.name_of(made.images[k]) for k in workflow.top(made.last.p, 3)}
    assert names <= {workflow.name_of(x) for x in made.data.x}


def test_the_truth_is_a_distribution_and_draws_follow_it() -> None:
    data = patterns(flip=0.1)
    joint = data.log_joint(workflow.all_images(data)).exp()
    assert abs(float(joint.sum()) - 1) < 1e-12 and joint.shape == (512, 2)
    torch.testing.assert_close(joint.sum(0), torch.full((2,), 0.5, dtype=torch.double), rtol=0, atol=1e-12)
    one = patterns("111000000", flip=0.1)
    p = one.log_joint(torch.tensor([1, 1, 1, 0, 0, 0, 0, 0, 1], dtype=torch.uint8).reshape(1, 1, 3, 3)).exp()
    assert float(p[0, 0]) == pytest.approx(0.9**8 * 0.1)
    x = data.data(4000).train.x.flatten(1).long()
    seen = torch.bincount((x * 2 ** torch.arange(8, -1, -1)).sum(1), minlength=512) / 4000
    truth = joint.sum(1)
    assert float(((seen - truth).abs() / (truth / 4000).sqrt()).max()) < 5.5  # standard errors
    assert float(patterns("111000000", 0.0).log_joint(workflow.all_images(one)).exp().max()) == 1


def test_an_area_is_a_probability() -> None:
    p = torch.rand(512, generator=torch.Generator().manual_seed(0), dtype=torch.double) ** 6
    p[17] = 0
    p = p / p.sum()
    box = tiles(p)
    assert float((box[:, 2] * box[:, 3] - p).abs().max()) < 1e-15
    assert bool((box[:, :2] >= 0).all()) and bool((box[:, :2] + box[:, 2:] <= 1 + 1e-12).all())
    # No two of them overlap: the middle of each lies in itself alone
    middle = box[:, :2] + box[:, 2:] / 2
    inside = ((middle[:, None] > box[None, :, :2]) & (middle[:, None] < box[None, :, :2] + box[None, :, 2:])).all(2)
    there = p > 1e-9
    assert bool((inside[there][:, there].sum(1) == 1).all())


def test_points_of_the_picture_are_counted_by_mass() -> None:
    """Half of the mass on one image: half of the wall is its rectangle."""
    data = patterns("111000000")
    p = torch.full((512,), 0.5 / 511, dtype=torch.double)
    p[int("111000000", 2)] = 0.5
    seen = torch.from_numpy(np.array(wall(p, data, 400)))
    down, across = ((seen == torch.tensor(workflow.colours(data)[int("111000000", 2)])).all(2).any(1 - d).sum() for d in (0, 1))
    assert float(down * across) / 400**2 == pytest.approx(0.5, abs=0.01)


def test_rows_columns_and_products_of_the_table(made: Mass) -> None:
    t = made.table
    assert t is not None
    assert float((t.p_y_given_x.sum(1) - 1).abs().max()) < 1e-12
    assert float((t.p_x_given_y.sum(0) - 1).abs().max()) < 1e-12
    assert t.off < 1e-12 and abs(float(t.p_y.sum()) - 1) < 1e-12
    torch.testing.assert_close(t.p_x, made.last.p, rtol=0, atol=1e-15)
    torch.testing.assert_close(t.p_y, (t.p_y_given_x * t.p_x[:, None]).sum(0), rtol=0, atol=1e-12)


def test_noise_gets_a_label_and_p_x_rejects_some(made: Mass) -> None:
    a = made.noise
    assert a is not None
    assert bool((a.probability >= 0.5).all()) and bool(a.rejected.any())
    assert float(a.p_x[a.rejected].max()) <= float(a.p_x.max())
    assert [row["rejected"] for row in made.to_json()["noise"]] == a.rejected.tolist()


def test_files(made: Mass, tmp_path: Path) -> None:
    for name in ("wall.html", "wall.gif", "wall.png"):
        workflow._write(made, tmp_path / name)
    text = (tmp_path / "wall.html").read_text(encoding="utf-8")
    assert text.count("<script>") == 1 and "http" not in text.replace("http://www.w3.org", "") and "the 500 others" in text
    with Image.open(tmp_path / "wall.gif") as film:
        assert getattr(film, "n_frames", 1) == len(made.frames)


def test_the_verb_says_the_sum_of_each_frame(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mass", "--steps", "3", "--frames", "3", "--no-labels", "--model", "fvbn", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [f["step"] for f in found["frames"]] == [0, 1, 3] and all(abs(f["sum"] - 1) < 1e-12 for f in found["frames"])
    assert len(found["frames"][0]["top"]) == 12 and "table" not in found and not math.isnan(found["frames"][0]["kl"])


def test_what_is_no_pattern_or_model_is_refused() -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"images": "111"}, "no image of 3×3"),
        ({"images": "111000000,111000000"}, "named twice"),
        ({"flip": 0.5}, "below 0.5"),
        ({"model": "vae"}, "no exact p"),
        ({"n": 20}, "calibration"),
    ]
    for arguments, expected in refused:
        with pytest.raises(InputError, match=expected):
            mass(**arguments)
