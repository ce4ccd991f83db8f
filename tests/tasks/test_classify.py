"""Conformal sets on models whose answers are known; coverage; what is refused."""

from __future__ import annotations

import csv
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from pofx.cli import main
from pofx.errors import CapabilityError, InputError
from pofx.model import Labeler, LabelScore
from pofx.models.autoregressive.pixelcnn import PixelCNN
from pofx.models.composed.bayes import BayesClassifier
from pofx.models.discriminative.classifier import Classifier
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.tasks.bulk import TensorImages
from pofx.tasks.classify import chance_of, classify, coverage
from pofx.testing import fit, random_images
from pofx.training import save_model
from pofx.views import Label

SPACE = ImageSpace(1, 1, 8, levels=256)


class Bright(Labeler):
    """Three classes by mean brightness, 64, 128 and 192, as a Gaussian would have it."""

    family: ClassVar = ("discriminative",)
    paper: ClassVar = "none"
    classes = 3

    def __init__(self, space: ImageSpace) -> None:
        super().__init__(space)
        self.width = nn.Parameter(torch.tensor(40.0, dtype=torch.double))

    @classmethod
    def small(cls, space: ImageSpace, given=None) -> Bright:
        return cls(space)

    def objectives(self):
        return []

    def label(self, x: Tensor) -> LabelScore:
        mean = self.space.check(x).double().flatten(1).mean(1, keepdim=True)
        return LabelScore((-((mean - torch.tensor([64.0, 128.0, 192.0])) ** 2) / (2 * self.width**2)).log_softmax(1), "exact")


def drawn(n: int, seed: int) -> TensorImages:
    """Images of the three classes, overlapping."""
    noise = Noise(seed, torch.arange(n))
    y = torch.arange(n) % 3
    level = 64 + 64 * y + 25 * noise.normal("level", 1)[:, 0]
    x = (level[:, None, None, None] + 10 * noise.normal("pixels", 1, 1, 8)).round().clamp(0, 255).to(torch.uint8)
    return TensorImages(x, y)


@pytest.mark.parametrize("alpha", [0.02, 0.1])
def test_every_class_is_covered(alpha: float) -> None:
    found = classify(Bright(SPACE), drawn(3000, 1), calib=drawn(900, 2), alpha=alpha)
    seen = found.coverage
    assert seen is not None and seen.holds and found.calibration == (300, 300, 300) and found.scores == ("label",)
    assert seen.covered.share == pytest.approx(1 - alpha, abs=0.03)
    assert seen.rejected.k == 0  # this score rejects nothing
    assert found.p_value is not None and float(found.p_value.amax(1).min()) == 1  # of the most probable label


def test_p_values_by_hand() -> None:
    calib, x = drawn(60, 3), drawn(9, 4)
    model = Bright(SPACE)
    found = classify(model, x, calib=calib, alpha=0.1).p_value
    log_p, mine = model.label(calib.x).log_prob.detach(), model.label(x.x).log_prob.detach()
    assert found is not None and calib.y is not None
    for i in range(9):
        for y in range(3):
            s = [float(log_p[j].max() - log_p[j, y]) for j in range(60) if int(calib.y[j]) == y]
            at = float(mine[i].max() - mine[i, y])
            assert float(found[i, y]) == pytest.approx((1 + sum(v >= at for v in s)) / (len(s) + 1))


def test_p_values_do_not_depend_on_the_batch() -> None:
    calib, x = drawn(90, 3), drawn(7, 4)
    together = classify(Bright(SPACE), x, calib=calib, alpha=0.1).p_value
    alone = torch.cat([classify(Bright(SPACE), x.x[i : i + 1], calib=calib, alpha=0.1).p_value for i in range(7)])  # type: ignore[misc]
    assert together is not None and torch.equal(together, alone)


def trained_bayes() -> tuple[ImageSpace, PixelCNN]:
    """p(x | y) of two kinds of stripes."""
    space = ImageSpace(1, 4, 4, levels=2)
    torch.manual_seed(0)
    model = PixelCNN(space, Label(2), layers=2, channels=8)
    images = stripes(256, 0)
    fit(model, model.batch(images.x, images.y), 60, lr=1e-2)
    return space, model.eval()


def stripes(n: int, seed: int) -> TensorImages:
    y = torch.arange(n) % 2
    rows = torch.tensor([1, 1, 0, 0], dtype=torch.uint8)[:, None].expand(4, 4)
    x = torch.where((y == 0)[:, None, None, None], rows, rows.T)
    flipped = Noise(seed, torch.arange(n)).uniform("flip", 1, 4, 4) < 0.05
    return TensorImages(torch.where(flipped, 1 - x, x), y)


def test_outliers_are_rejected_and_normal_images_answered() -> None:
    space, model = trained_bayes()
    calib, center = stripes(400, 2), stripes(400, 3)
    normal = classify(model, stripes(600, 1), calib=calib, center=center, alpha=0.05)
    assert normal.scores == ("density", "label") and normal.kind == "exact"
    assert normal.coverage is not None and normal.coverage.holds and normal.coverage.rejected.share < 0.06
    assert normal.accuracy is not None and normal.accuracy.share > 0.97 and normal.verdicts.count("answer") > 500
    odd = classify(model, random_images(200, space, seed=5), calib=calib, center=center, alpha=0.05)
    assert odd.verdicts.count("outlier") > 150
    same = classify(BayesClassifier(space, conditional=model, classes=2).eval(), stripes(600, 1), calib=calib, center=center, alpha=0.05)
    assert same.p_value is not None and normal.p_value is not None and torch.equal(same.p_value, normal.p_value)


def test_a_classifier_rejects_by_the_density_of_another_run() -> None:
    space, _ = trained_bayes()
    torch.manual_seed(1)
    density, labeler = PixelCNN(space, layers=2, channels=8), Classifier(space, classes=2, channels=8, stages=0)
    x = stripes(256, 0)
    fit(density, density.batch(x.x), 60, lr=1e-2)
    fit(labeler, labeler.batch(x.x, x.y), 60, lr=1e-2)
    calib, center = stripes(400, 2), stripes(400, 3)
    odd = random_images(200, space, seed=5)
    alone = classify(labeler.eval(), odd, calib=calib, alpha=0.05)
    both = classify(labeler, odd, calib=calib, center=center, density=density.eval(), alpha=0.05)
    assert alone.verdicts.count("outlier") == 0 and both.verdicts.count("outlier") > 150


def test_an_alpha_out_of_reach_names_the_number_needed() -> None:
    model, calib = Bright(SPACE), drawn(30, 2)
    with pytest.raises(InputError, match="takes 19 calibration images of each class; class 0 has 10.*--alpha 0.091 or more; or --pooled"):
        classify(model, drawn(6, 1), calib=calib, alpha=0.05)
    assert classify(model, drawn(6, 1), calib=calib, alpha=0.05, pooled=True).p_value is not None
    assert classify(model, drawn(6, 1), calib=drawn(57, 2), alpha=0.05).p_value is not None
    with pytest.raises(InputError, match="takes 9999"):
        classify(model, drawn(6, 1), calib=calib, alpha=1e-4, pooled=True)
    for alpha in (0.0, 1.0, -1.0):
        with pytest.raises(InputError, match="between 0 and 1"):
            classify(model, drawn(6, 1), calib=calib, alpha=alpha)


def test_bad_input() -> None:
    model, x = Bright(SPACE), drawn(60, 1)
    assert x.y is not None
    with pytest.raises(InputError, match="class 2 has 0"):
        classify(model, x, calib=TensorImages(x.x[x.y < 2], x.y[x.y < 2]), alpha=0.2)
    with pytest.raises(InputError, match="Label 3 of the calibration images is outside 0 … 2"):
        classify(model, x, calib=TensorImages(x.x, x.y + 1), alpha=0.2)
    with pytest.raises(InputError, match="have no labels"):
        classify(model, x, calib=TensorImages(x.x), alpha=0.2)
    with pytest.raises(InputError, match="no calibration images"):
        classify(model, x, calib=TensorImages(x.x[:0], x.y[:0]), alpha=0.2)
    with pytest.raises(InputError, match="Label 3 of the held-out"):
        classify(model, TensorImages(x.x, x.y + 1), calib=x, alpha=0.2)
    with pytest.raises(CapabilityError, match="--given label"):
        classify(PixelCNN.small(SPACE), x)
    with pytest.raises(CapabilityError, match="cannot classify"):
        from pofx.models.adversarial.gan import GAN

        classify(GAN.small(SPACE), x)
    with pytest.raises(CapabilityError, match="how odd"):
        classify(model, x, calib=x, center=x, density=model, alpha=0.2)
    with pytest.raises(InputError, match="center="):
        classify(model, x, calib=x, density=PixelCNN.small(SPACE), alpha=0.2)


def test_chance_of_a_coverage() -> None:
    assert chance_of(0, [(100, 99)], 0.05) == pytest.approx(1)
    assert chance_of(5, [(100, 9999)], 0.05) > 0.5 > chance_of(12, [(100, 9999)], 0.05)
    # Two classes of beta-binomial misses, against simulation
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(40_000, 2, 19, generator=generator, dtype=torch.double).amin(2)  # l = 1 of 19: Beta(1, 19)
    missed = torch.binomial(torch.full_like(u, 30), u, generator=generator).sum(1)
    assert chance_of(6, [(30, 19)] * 2, 0.05) == pytest.approx(float((missed >= 6).double().mean()), abs=0.01)
    seen = coverage(torch.ones(4, 2), torch.tensor([0, 1, 0, 1]), 0.05, [19, 19])
    assert seen.covered.k == 4 and seen.right is None and seen.answered.k == 0


def test_the_verb(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    from pofx.data import load_data

    data = load_data("digits")
    torch.manual_seed(0)
    save_model(Classifier(data.space, channels=8, stages=1).eval(), tmp_path / "run", {"data": data.to_json()})
    out = tmp_path / "labels.csv"
    assert main(["classify", str(tmp_path / "run"), "digits:test", "--pooled", "-o", str(out), "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (
        found["n"] == len(data.test)
        and found["coverage"]["covered"]["n"] == len(data.test)
        and sum(found["verdicts"].values()) == found["n"]
    )
    rows = list(csv.DictReader(out.open()))
    assert list(rows[0]) == ["id", "label", "name", "probability", "p_value", "verdict", "labels", "kind"]
    assert [row["id"] for row in rows] == list(data.test.ids)
    assert main(["classify", str(tmp_path / "run"), "digits:test", "--quiet"]) == 2
    assert "--pooled" in capsys.readouterr().err
    # Images that were not held out say nothing of coverage: it is that of test images, or is not said
    for what, check, n in (("digits:train", 20, 20), ("digits:calib", 0, None), ("digits:test#3", 20, 1)):
        assert main(["classify", str(tmp_path / "run"), what, "--pooled", "--check", str(check), "--json", "--quiet"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (None if found["coverage"] is None else found["coverage"]["covered"]["n"]) == n
    assert main(["classify", str(tmp_path / "run"), "digits:test", "--check", "-1", "--quiet"]) == 2
    assert "--check -1" in capsys.readouterr().err
    assert main(["classify", str(tmp_path / "run"), "digits:test", "--no-reject", "--quiet"]) == 0
    assert "95 % interval" in capsys.readouterr().out
