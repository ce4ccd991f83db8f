"""scikit-learn's own checks, and what the estimators promise beyond them."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import estimator_checks_generator

import pofx
from pofx.sklearn import Features, OutlierDetector

QUICK = {
    "check_estimators_overwrite_params",
    "check_fit2d_1feature",
    "check_fit2d_1sample",
    "check_methods_subset_invariance",
    "check_outliers_fit_predict",
    "check_parameters_default_constructible",
    "check_transformer_n_iter",
}


def checks():
    """All of them, of which the quick suite runs those that say most."""
    for estimator in (OutlierDetector(steps=1, alpha=0.1), Features("vae", steps=1)):
        for made, check in cast("Iterable[Any]", estimator_checks_generator(estimator)):
            name = check.func.__name__ if isinstance(check, functools.partial) else check.__name__
            marks = [] if name in QUICK else [pytest.mark.slow]
            yield pytest.param(made, check, id=f"{type(estimator).__name__}-{name}", marks=marks)


@pytest.mark.filterwarnings("ignore:alpha=0.1 cannot be guaranteed")
@pytest.mark.parametrize(("estimator", "check"), [*checks()])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def images(n: int, seed: int = 0) -> np.ndarray:
    """4×4 images of 4 levels: the left half dark, the right half bright."""
    x = np.random.default_rng(seed).integers(0, 2, (n, 4, 4))
    x[:, :, 2:] += 2
    return x.reshape(n, 16)


@pytest.fixture(scope="module")
def model():
    import torch

    torch.manual_seed(0)
    return pofx.models.PixelCNN.small(pofx.ImageSpace(1, 4, 4, levels=4)).eval()


def test_the_false_alarm_rate_is_kept(model):
    """Of exchangeable images at most alpha are flagged, on average over calibration sets; for continuous scores k/(n+1) of them."""
    rates = []
    for seed in range(20):
        detector = OutlierDetector(model, alpha=0.1, random_state=seed).fit(images(80, seed))
        rates.append((detector.predict(images(200, 1000 + seed)) == -1).mean())
        assert detector.alpha_ == pytest.approx(int(0.1 * (detector.n_calibration_ + 1)) / (detector.n_calibration_ + 1))
    assert 0.04 < np.mean(rates) < 0.1 + 3 * np.std(rates) / 20**0.5


def test_flagged_is_what_has_a_p_value_of_alpha_at_most(model):
    detector = OutlierDetector(model, alpha=0.1, random_state=0).fit(images(80))
    X = np.concatenate([images(60, 7), 3 - images(20, 8)])
    assert ((detector.predict(X) == -1) == (detector.p_values(X) <= 0.1)).all()
    assert np.array_equal(detector.decision_function(X), detector.score_samples(X) - detector.offset_)
    pyod = -detector.score_samples(X)  # higher is odder, as PyOD reads scores
    assert ((pyod > -detector.offset_) == (detector.predict(X) == -1)).all()
    alone = np.concatenate([detector.score_samples(row[None]) for row in X[:5]])
    assert np.array_equal(alone, detector.score_samples(X)[:5])


def test_too_few_images_for_alpha_are_said(model):
    with pytest.warns(UserWarning, match="takes 99 of them") as said:
        detector = OutlierDetector(model, alpha=0.01, random_state=0).fit(images(40))
    assert len(said) == 1 and detector.alpha_ == pytest.approx(1 / (detector.n_calibration_ + 1)) and detector.alpha_ > 0.01
    p = detector.p_values(images(50, 3))
    assert ((detector.predict(images(50, 3)) == -1) == (p <= detector.alpha_ + 1e-12)).all()


def test_copies_are_in_one_part(model, monkeypatch: pytest.MonkeyPatch):
    """A copy of a training image would make calibration images look too normal: no image is in two parts, whatever the seed."""
    seen = []
    monkeypatch.setattr(OutlierDetector, "_train", lambda self, *parts: seen.append(parts[:3]) or model)
    for seed in range(5):
        OutlierDetector(image_shape=(4, 4), alpha=0.1, random_state=seed).fit(np.repeat(images(30, seed), 10, 0))
        keys = [set(part.flatten(1).numpy().view("S16").ravel()) for part in seen[-1]]
        assert all(keys) and not (keys[0] & keys[1] or keys[0] & keys[2] or keys[1] & keys[2])
    for given, fewest in ((model, 2), ("pixelcnn", 3)):
        with pytest.raises(ValueError, match=f"only 1 differ as images; OutlierDetector needs at least {fewest}"):
            OutlierDetector(given, image_shape=(4, 4), alpha=0.1).fit(np.repeat(images(1), 40, 0))


def test_the_fewest_rows_fit_and_say_so():
    for n in (1, 2):
        with pytest.raises(ValueError, match="minimum of 3 is required"):
            OutlierDetector(steps=1).fit(images(n))
    with pytest.warns(UserWarning, match="it takes 19 of them"):
        detector = OutlierDetector(steps=1, image_shape=(4, 4), random_state=0).fit(images(3))
    assert detector.n_calibration_ == 1 and detector.alpha_ == 0.5 and set(detector.predict(images(5))) <= {-1, 1}


def test_floats_are_put_on_a_robust_scale():
    X = np.random.default_rng(0).normal(size=(60, 4))
    X[0, 0] = 1e9
    detector = OutlierDetector(steps=1, alpha=0.2, random_state=0).fit(X)
    assert detector.scale_ is not None and detector.scale_.high < 100
    probe = np.array([[-1e6, 1e6, detector.scale_.low, detector.scale_.high]])
    assert detector._levels(probe).flatten().tolist() == [0, 255, 1, 254]


def test_wrong_values_and_shapes_are_refused(model):
    X = images(40)
    with pytest.raises(ValueError, match=r"Fit on floats to have them scaled"):
        OutlierDetector(steps=1).fit(X - 5)
    with pytest.raises(ValueError, match="4 levels"):
        OutlierDetector(model, alpha=0.2).fit(X * 2)
    with pytest.raises(ValueError, match=r"whole numbers 0 … 3"):
        OutlierDetector(model, alpha=0.2).fit(X).predict(X + 0.5)
    with pytest.raises(ValueError, match="product of 16"):
        OutlierDetector(steps=1, image_shape=(3, 4)).fit(X)
    with pytest.raises(ValueError, match="1×4×4"):
        OutlierDetector(model).fit(X[:, :9])
    with pytest.raises(ValueError, match="between 0 and 1"):
        OutlierDetector(model, alpha=1.0).fit(X)


def test_pipelines_searches_and_clones(model):
    X = images(60)
    chain = make_pipeline(FunctionTransformer(lambda X: X), OutlierDetector(model, alpha=0.2, random_state=0)).fit(X)
    assert set(chain.predict(X)) <= {-1, 1}
    copy: Any = clone(chain[-1])
    assert copy.model is not model and copy.get_params()["alpha"] == 0.2
    y = (X[:, 0] == 1).astype(int)
    layers = {"features__layer": [model.feature_layers[0], None]}
    search = GridSearchCV(make_pipeline(Features(model), LogisticRegression()), layers, cv=2, error_score=np.nan)
    assert 0 <= search.fit(X, y).best_score_ <= 1


def test_what_was_fitted_is_kept_without_pickle(tmp_path: Path):
    X = np.random.default_rng(0).normal(size=(60, 4))
    detector = OutlierDetector(steps=1, alpha=0.2, image_shape=(2, 2), random_state=0).fit(X)
    again = OutlierDetector.load(detector.save(tmp_path / "detector"))
    np.testing.assert_allclose(again.decision_function(X), detector.decision_function(X), atol=1e-3)  # float32, read back in another layout
    assert (again.offset_, again.alpha_, again.image_shape) == (detector.offset_, detector.alpha_, (2, 2))
    assert isinstance(pofx.load(tmp_path / "detector"), pofx.models.PixelCNN)
    with pytest.raises(ValueError, match="is there already"):
        detector.save(tmp_path / "detector")
    with pytest.raises(ValueError, match="holds an estimator OutlierDetector"):
        Features.load(tmp_path / "detector")
    with pytest.raises(ValueError, match="missing or damaged"):
        Features.load(tmp_path)
    features = Features(steps=1, random_state=0).fit(X)
    loaded = Features.load(features.save(tmp_path / "features"))
    assert np.array_equal(loaded.transform(X), features.transform(X))
    assert list(loaded.get_feature_names_out()) == ["features0", "features1"]
