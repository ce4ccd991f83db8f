"""The chain rule on one image: distributions sum to one and are those of full passes, costs add up, and the parts add up to the file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import pofx
from pofx.cli import main
from pofx.errors import CapabilityError, InputError
from pofx.models import MADE, VAE, GatedPixelCNN, PixelCNN, PixelCNNpp
from pofx.space import ImageSpace
from pofx.tasks.chain import chain
from pofx.tasks.compress import compress
from pofx.views import Label
from pofx.workflows.chain import costs, parts_of


@pytest.mark.parametrize("cls", [MADE, PixelCNN, PixelCNNpp])
def test_a_distribution_is_that_of_full_passes_and_costs_add_up(cls: type) -> None:
    torch.manual_seed(0)
    space = ImageSpace(2, 3, 4, levels=5)
    model = cls.small(space).double()
    x = model.sample(1, seed=1)
    found = chain(model, x, pixel=(1, 2, 1), file=False)
    every = x.repeat(5, 1, 1, 1)
    every[:, 1, 1, 2] = torch.arange(5, dtype=torch.uint8)
    with torch.no_grad():
        by_pass = model.conditional_log_prob(every, None)[:, 1, 1, 2].exp()
        total = float(model.log_prob(x)[0])
    torch.testing.assert_close(found.distribution, by_pass, rtol=0, atol=1e-12)
    assert abs(float(found.distribution.sum()) - 1) < 1e-12
    assert found.total == pytest.approx(-total / math.log(2), abs=1e-9)
    assert float(found.running[-1]) == pytest.approx(found.total)
    assert 2 ** -float(found.bits[found.place]) == pytest.approx(float(found.distribution[found.value]), abs=1e-12)
    assert sorted(found.order.tolist()) == list(range(space.dims))
    assert float(costs(found)[1, 1, 2]) == float(found.bits[found.place])


def test_the_parts_are_the_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = PixelCNN.small(ImageSpace(1, 4, 4, levels=7))
    x = model.sample(1)
    found = chain(model, x)
    assert found.file is not None
    real = compress(model, x, tmp_path / "one.pofx", block=1)
    assert found.file.size == real.size and found.file.ideal == real.ideal
    assert abs(found.file.tables) < 0.1 and 0 <= found.file.end <= 64 and found.file.frame > 0
    *parts, whole = (bits for _, _, bits in parts_of(found, found.file))
    assert sum(parts) == pytest.approx(whole) == 8 * real.size
    dearest = int(found.order[found.bits.argmax()])
    assert (found.channel * 4 + found.row) * 4 + found.column == dearest  # where none was asked for


def test_a_conditional_model_has_costs_and_no_file() -> None:
    space = ImageSpace(1, 3, 3, levels=2)
    model = GatedPixelCNN.small(space, Label(3))
    found = chain(model, torch.zeros(1, *space.shape, dtype=torch.uint8), torch.tensor([1]), pixel=(0, 0))
    assert found.file is None and "p(x |" in found.why and found.to_json()["no_file"] == found.why


def test_what_cannot_be_read_is_refused() -> None:
    space = ImageSpace(1, 3, 3, levels=2)
    x, model = torch.zeros(1, *space.shape, dtype=torch.uint8), MADE.small(space)
    with pytest.raises(CapabilityError, match="Autoregressive"):
        chain(VAE.small(space), x)
    with pytest.raises(InputError, match="One image"):
        chain(model, x.repeat(2, 1, 1, 1))
    for pixel in ((3, 0), (0, 0, 1), (1,), (0, 0, 0, 0)):
        with pytest.raises(InputError, match="no pixel"):
            chain(model, x, pixel=pixel, file=False)


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = pofx.load_data("digits")
    run = tmp_path / "run"
    pofx.train(MADE(data.space, hidden=32), data, out=run, steps=2, threads=1, quiet=True)
    assert main(["chain", str(run), "digits:test#3", "--pixel", "4,4", "--json", "-o", str(tmp_path / "c.html")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pixel"]["row"] == 4 and len(found["pixel"]["distribution"]) == 17 and len(found["running_bits"]) == 64
    assert found["file"]["bits"] == 8 * found["file"]["bytes"]
    text = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert "integer tables" in text and text.count("<svg") == 1
    assert main(["chain", str(run), "--no-file", "-o", str(tmp_path / "c.png")]) == 0
    assert (tmp_path / "c.png").stat().st_size > 10_000
    assert main(["chain", str(run), "--pixel", "4"]) == 2
    assert "--pixel 3,5" in capsys.readouterr().err
