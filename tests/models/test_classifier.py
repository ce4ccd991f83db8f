"""The temperature: where the cross-entropy has its minimum, fitted on validation images, stored with the weights."""

from __future__ import annotations

import pytest
import torch

from pofx.data import load_data
from pofx.errors import InputError
from pofx.models.discriminative.classifier import Classifier, best_temperature
from pofx.space import ImageSpace
from pofx.tasks.evaluate import evaluate
from pofx.testing import random_images
from pofx.training import load_model, train

SPACE = ImageSpace(1, 6, 5, levels=4)


def test_the_best_temperature_is_a_minimum_and_is_found_again() -> None:
    generator = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(5000, 4, generator=generator, dtype=torch.double)
    y = torch.multinomial(z.softmax(1), 1, generator=generator)[:, 0]  # honest at T = 1
    assert best_temperature(z, y) == pytest.approx(1, abs=0.05)
    assert best_temperature(3 * z, y) == pytest.approx(3 * best_temperature(z, y), rel=1e-6)

    def loss(t: float) -> float:
        return float(torch.nn.functional.cross_entropy(z / t, y))

    t = best_temperature(z, y)
    assert loss(t) <= min(loss(t * 0.99), loss(t * 1.01))


def test_separable_labels_end_at_the_edge_and_not_at_infinity() -> None:
    assert best_temperature(torch.tensor([[5.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 1])) == pytest.approx(0.01, rel=1e-3)


def test_calibrate_divides_logits_and_changes_no_label() -> None:
    model = Classifier(SPACE, classes=3, channels=4, stages=1).double().eval()
    with torch.no_grad():
        model.out.weight.mul_(50)
        x, y = random_images(60, SPACE), torch.arange(60) % 3
        before = model.label(x).log_prob
        model.calibrate(iter([model.batch(x[:40], y[:40]), model.batch(x[40:], y[40:])]))
        after, t = model.label(x).log_prob, model.fitted_temperature()
        assert t > 1 and torch.equal(before.argmax(1), after.argmax(1))
        assert torch.allclose(after, (before / t).log_softmax(1), atol=1e-10)
        model.calibrate(iter([model.batch(x, y)]))  # does not depend on earlier calls
        assert model.fitted_temperature() == pytest.approx(t)
        model.calibrate(iter(()))
        assert model.fitted_temperature() == pytest.approx(t)


def test_a_run_keeps_the_temperature_of_valid_and_evaluate_reports_it(tmp_path) -> None:
    data = load_data("digits")
    torch.manual_seed(0)
    model = Classifier(data.space, channels=8, stages=1, depth=2, smoothing=0.1, optimizer="Muon")
    train(model, data, out=tmp_path, steps=60, quiet=True, threads=1)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, Classifier)
    t = loaded.fitted_temperature()
    z = loaded.label(data.valid.x).log_prob.detach() * t
    assert t == pytest.approx(best_temperature(z, data.valid.y), rel=1e-2) and t != 1  # type: ignore[arg-type]
    found = evaluate(loaded, data).main.calibration
    assert found is not None and found.temperature == t and 0 <= found.after.ece <= 1 and found.after.ece != found.before.ece


def test_depth_keeps_the_names_of_blocks() -> None:
    one, two = (Classifier(SPACE, channels=4, stages=2, depth=d) for d in (1, 2))
    assert len(two.feature_layers) == 2 * len(one.feature_layers)
    assert one.state_dict().keys() < two.state_dict().keys()
    assert [two.features(random_images(2, SPACE), layer).shape[1] for layer in two.feature_layers] == [4, 4, 8, 8, 16, 16]


@pytest.mark.parametrize("wrong", [{"depth": 0}, {"smoothing": 1.0}, {"optimizer": "Newton"}, {"dropout": 1.0}, {"classes": 1}])
def test_bad_settings(wrong) -> None:
    with pytest.raises(InputError):
        Classifier(SPACE, **wrong)
