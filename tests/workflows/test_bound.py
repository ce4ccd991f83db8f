"""The page about a bound, the plane of rate and distortion, and the verb."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pofx.cli import main
from pofx.data import load_data
from pofx.errors import InputError
from pofx.models.variational.vae import VAE
from pofx.space import ImageSpace
from pofx.tasks.bound import aggregate
from pofx.tasks.bulk import TensorImages
from pofx.testing import fit, random_batch
from pofx.workflows import _page as html
from pofx.workflows import bound as module
from pofx.workflows.bound import bound, contours, decoder_growth
from pofx.workflows.rate_distortion import Point, TrainingPath, aggregate_figure, plane, smoothed, training_path

SPACE = ImageSpace(1, 4, 4, levels=3)


def made(latents: int, steps: int = 60) -> VAE:
    torch.manual_seed(0)
    model = VAE(SPACE, latents=latents, network="mlp", hidden=16, kl_warmup=0.0)
    fit(model, random_batch(model, 24), steps, lr=1e-2)
    return model


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Small models that learn little, kept in a folder of the test's own."""
    monkeypatch.setenv("POFX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "STEPS", 40)


def test_contours_hold_their_share() -> None:
    """Of a standard Gaussian in two dimensions, `share` lies within r² = −2 log(1 − share)."""
    axis = torch.linspace(-5, 5, 201, dtype=torch.double)
    z = torch.cartesian_prod(axis, axis)
    log_density = -0.5 * (z**2).sum(1) - math.log(2 * math.pi)
    for share, level in zip((0.99, 0.9, 0.5), contours(log_density), strict=True):
        assert level == pytest.approx(math.log(1 - share) - math.log(2 * math.pi), abs=0.02)
    assert len(contours(torch.tensor([[0.0, -900.0], [-900.0, -900.0]]))) == 1


@pytest.mark.parametrize("latents", [1, 2])
def test_the_page_says_what_was_computed(latents: int, tmp_path: Path) -> None:
    model = made(latents)
    x = random_batch(model, 30).x
    others = [("wider", made(3, steps=10))]
    paths = {"mine": TrainingPath((1, 2), (0.1, 0.2), (20.0, 19.0))}
    page = bound(
        model, x[:1], out=tmp_path / "b.html", name="mine", image="array#0", images=TensorImages(x), others=others, paths=paths,
        draws=4000, gradient_draws=200,
    )  # fmt: skip
    text = (tmp_path / "b.html").read_text()
    parts = page.found.parts
    for value in (parts.log_prob, parts.elbo, parts.kl_posterior, parts.kl_prior):
        assert f"{value:.6f}" in text
    assert text.count("<svg") == 5
    assert "<script" not in text
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    assert "wider: L = " in text and "not finite" not in text and "nan" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.S)
    facts = page.to_json()
    assert abs(facts["residual"]) < 1e-6
    assert facts["rate_distortion"][1]["run"] == "wider"
    assert facts["rate_distortion"][0]["elbo"] == pytest.approx(
        -(facts["rate_distortion"][0]["kl"] + facts["rate_distortion"][0]["reconstruction"])
    )


def test_a_picture_and_an_image_alone(tmp_path: Path) -> None:
    from PIL import Image

    model = made(2)
    page = bound(model, random_batch(model, 1).x, out=tmp_path / "b.png", draws=2000, gradient_draws=50)
    with Image.open(tmp_path / "b.png") as picture:
        assert picture.size == (1480, 700)
    assert page.aggregate is None and page.points == ()
    assert "Rate and distortion" not in module.render(page)
    with pytest.raises(InputError, match="bound.html|b.html"):
        bound(model, random_batch(model, 1).x, out=tmp_path / "b.pdf")


def test_a_sharp_posterior_can_be_drawn() -> None:
    """p(z|x) a hundredth of q's width: its contours are not lost between the points of a grid."""
    torch.manual_seed(0)
    model = VAE(ImageSpace(1, 4, 4, levels=2), latents=2, network="mlp", hidden=16)
    with torch.no_grad():
        next(iter(model.decoder.parameters())).mul_(40)
    page = bound(model, random_batch(model, 1).x, draws=2000, gradient_draws=50)
    assert len(contours(page.found.picture.log_posterior)) == 3
    with html.inked():
        module.posterior_figure(page.found)


def test_decoders_of_growing_latents(few: None) -> None:
    said: list[str] = []
    found = decoder_growth((1, 4), draws=100, repeats=5, say=said.append)
    assert [g.d for g in found] == [1, 4]
    assert (found[0].se, found[1].se > 0) == (0.0, True)
    assert len(said) == 2 and "4 latents" in said[1]
    with html.inked():
        assert len(module.growth_figure(found, found).axes) == 2
    assert "≈" in module.growth_table(found, found)
    decoder_growth((1,), draws=10, repeats=2, say=said.append)
    assert len(said) == 2  # it was there already


# Rate and distortion ------------------------------------------------------------------------------------------------------------------------


def test_lines_of_the_plane_have_one_bound() -> None:
    points = [Point("β = 1", 4.0, 90.0), Point("β = 4", 2.0, 93.0), Point("β = 16", 0.1, 99.0)]
    figure = plane(points, {"β = 1": TrainingPath(tuple(range(20)), (0.0,) + (4.0,) * 19, (140.0,) + (90.0,) * 19)})
    axis = figure.axes[0]
    labelled = {text.get_text(): text for text in axis.texts}
    assert labelled
    for text, note in labelled.items():
        x, y = note.xy  # pyright: ignore[reportAttributeAccessIssue]
        assert float(text.removeprefix("L = ")) == pytest.approx(-(x + y))
    low, high = axis.get_ylim()
    assert low < 90 and high < 140  # the first step does not flatten the rest
    with pytest.raises(InputError, match="at least one"):
        plane([])


def test_a_path_comes_from_metrics(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text("step,train_kl,train_reconstruction,valid_nats\n1,0.5,100,\n2,,,99\n3,1.5,95,\n")
    assert training_path(file) == TrainingPath((1, 3), (0.5, 1.5), (100.0, 95.0))
    file.write_text("step,train_loss\n1,0.5\n")
    assert training_path(file).step == ()
    assert len(smoothed(TrainingPath(tuple(range(1000)), (0.0,) * 1000, (1.0,) * 1000)).step) <= 80


def test_point_and_figures_of_an_aggregate() -> None:
    model = made(8)
    found = aggregate(model, random_batch(model, 40).x)
    point = Point.of("eight", found)
    assert point.elbo == pytest.approx(-(float(found.rate.sum()) + found.reconstruction))
    titles = [axis.get_title() for axis in aggregate_figure(found).axes if axis.get_visible()]
    assert len(titles) == 6
    assert titles[0].startswith(f"z{int(found.rate.argmax()) + 1}:")
    one = replace(found, **{name: getattr(found, name)[..., :1] for name in ("mean", "log_variance", "z", "rate", "centre", "variance")})
    assert len(aggregate_figure(one).axes) == 1


# The verb -------------------------------------------------------------------------------------------------------------------------------------


def test_the_verb(few: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"bound digits:test#3 -o {tmp_path}/b.html --json --device cpu --draws 2000 --gradient-draws 50 --limit 100"
    assert main(line.split()) == 0
    out, err = capsys.readouterr()
    facts = json.loads(out)
    assert "RUN was left out" in err
    assert facts["image"] == "digits:test#3" and facts["out"] == f"{tmp_path}/b.html"
    assert facts["log_prob"] == pytest.approx(facts["elbo"] + facts["kl_posterior"], abs=1e-6)
    assert facts["aggregate"]["n"] == 100
    assert {g["d"] for g in facts["growth"]["linear_gaussian"]} == {1, 2, 4, 8, 16, 32}
    assert Path(facts["run"], "model.json").exists()
    assert "L_1000" in (tmp_path / "b.html").read_text()
    # The same run by name, another image, as text
    assert main(["bound", facts["run"], "digits:test#0", "--draws", "2000", "--gradient-draws", "50", "--quiet", "--device", "cpu"]) == 0
    assert "KL(q ‖ p(z|x))" in capsys.readouterr().out
    x = load_data("digits").test.x[3:4]
    from PIL import Image

    Image.fromarray((x[0, 0] * 15).numpy()).save(tmp_path / "one.png")
    for wrong in (["digits:test#9999"], ["digits:test"], [str(tmp_path / "one.png")], ["digits:test#0", "-o", str(tmp_path / "b.txt")]):
        assert main(["bound", facts["run"], *wrong, "--quiet"]) == 2
        out, err = capsys.readouterr()
        assert out == "" and 1 <= err.strip().count("\n") + 1 <= 3
