"""scikit-learn estimators: `OutlierDetector` flags at most a share alpha of normal images, `Features` is a transformer.

X is `(n, C·H·W)`, one flattened image a row; `image_shape` says its form, (C, H, W) or (H, W), and by default a row is an image of height 1.
A model is a distribution over whole numbers, so X is quantised:

    integers    are levels as they are, 0 … 255
    floats      254 equal steps of a scale that is fitted to X, robust to a few values far out (`data/series.py`), are the levels 1 … 254;
                0 and 255 are kept for values below and above it, which no training image has, or few

A model that is given fitted, as a run or an `ImageModel`, says itself what its levels are: X must hold them, as integers or as whole floats.

Fitted estimators are kept without pickle: `estimator.save(FOLDER)` writes a run folder, which every `pofx` command reads, and `estimator.json` beside it;
`OutlierDetector.load(FOLDER)` reads both.
"""

from __future__ import annotations

import json
import math
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, OutlierMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from pofx import catalog, training
from pofx import model as models
from pofx.data import Data, Split
from pofx.data.series import Scale
from pofx.data.split import choose, pixel_keys
from pofx.errors import InputError
from pofx.model import ImageModel, require
from pofx.space import ImageSpace
from pofx.tasks._conformal import needed
from pofx.tasks.bulk import per_image
from pofx.tasks.outliers import conformal_p_values, oddness_from
from pofx.tasks.score import costs
from pofx.training.files import new_folder, write_json

JSON = "estimator.json"
INNER = 254  # levels of a fitted scale; one more on either side lies beyond it
CENTER, CALIB = 0.1, 0.2  # shares of X; of a fitted model the center is a quarter

Array = NDArray[Any]


class _Estimator(BaseEstimator):
    """What both share: from X to images, and from images to a model."""

    model_: ImageModel
    scale_: Scale | None
    n_features_in_: int

    def __init__(
        self,
        model: str | Path | ImageModel,
        image_shape: Sequence[int] | None,
        settings: Mapping[str, Any] | None,
        steps: int,
        random_state: Any,
        device: str,
    ) -> None:
        self.model = model
        self.image_shape = image_shape
        self.settings = settings
        self.steps = steps
        self.random_state = random_state
        self.device = device

    def _is_named(self) -> bool:
        """Whether `model` is the name of a class, which is trained."""
        return not isinstance(self.model, ImageModel) and str(self.model) in catalog.model_names()

    def _fitted(self) -> ImageModel | None:
        """The model, where it was given and not named."""
        if isinstance(self.model, ImageModel):
            return self.model
        return None if self._is_named() else training.load_model(self.model, device=self.device)

    def _shape(self, features: int) -> tuple[int, int, int]:
        """`(C, H, W)` of an image."""
        asked = (1, features) if self.image_shape is None else tuple(int(side) for side in self.image_shape)
        if len(asked) not in (2, 3) or math.prod(asked) != features:
            raise InputError(f"image_shape={self.image_shape}: it is (C, H, W) or (H, W) with a product of {features}, the columns of X.")
        c, h, w = (1, *asked) if len(asked) == 2 else asked
        return c, h, w

    def _read(self, X: Any, fewest: int, columns: int = 1) -> tuple[Tensor, ImageModel | None]:
        """X of `fit` as images, uint8 `(n, C, H, W)`; the model where it was given. Fits the scale."""
        X = np.asarray(validate_data(self, X, ensure_min_samples=fewest, ensure_min_features=columns))
        given = self._fitted()
        shape = self._shape(X.shape[1]) if given is None or self.image_shape is not None else given.space.shape
        space = ImageSpace(*shape) if given is None else given.space
        if space.shape != shape or space.dims != X.shape[1]:
            raise InputError(f"The model was made for images of {space}; X has {X.shape[1]} columns and image_shape={self.image_shape}.")
        self.space_ = space
        self.scale_ = Scale.fit(X.astype(np.float64), INNER) if given is None and X.dtype.kind == "f" else None
        return self._levels(X), given

    def _images(self, X: Any) -> Tensor:
        check_is_fitted(self, "model_")
        return self._levels(np.asarray(validate_data(self, X, reset=False)))

    def _levels(self, X: Array) -> Tensor:
        """Checked rows as images."""
        space, scale = self.space_, self.scale_
        if scale is not None:
            X = X.astype(np.float64)
            levels = scale.encode(X).astype(np.int64) + 1
            levels = np.where(scale.low > X, 0, np.where(scale.high < X, INNER + 1, levels))
        else:
            levels = X
            if X.size and not (X.min() >= 0 and X.max() < space.levels and (X.dtype.kind != "f" or (np.floor(X) == X).all())):
                fix = (
                    "Fit on floats to have them scaled: X.astype(float)" if space.levels == 256 else f"The model has {space.levels} levels."
                )
                raise InputError(f"X ({X.dtype}) has values {X.min()} … {X.max()}; levels are whole numbers 0 … {space.levels - 1}. {fix}")
        return torch.from_numpy(levels.astype(np.uint8)).reshape(-1, *space.shape)

    def _train(self, train: Tensor, valid: Tensor, calib: Tensor, seed: int) -> ImageModel:
        """A new model of the class that is named, after `steps` steps."""
        name = str(self.model)
        cls = catalog.get(name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made: ImageModel = cls.small(self.space_) if self.settings is None else cls(space=self.space_, **self.settings)
        learned, seen = Split.of(train), Split.of(valid)
        digest = sha256(learned.keys.tobytes() + seen.keys.tobytes()).hexdigest()[:32]
        data = Data("array", self.space_, learned, seen, Split.of(calib), Split.of(valid[:0]), fingerprint=digest)
        with tempfile.TemporaryDirectory() as folder:
            run = training.train(
                made, data, out=folder, steps=self.steps, seed=seed, device=self.device, threads=torch.get_num_threads(), quiet=True
            )
        return run.model

    def save(self, folder: str | Path) -> Path:
        """Write what was fitted: a run folder, and estimator.json beside its files. No pickle.

        Raises:
            InputError: the folder holds something already.
        """
        check_is_fitted(self, "model_")
        folder = new_folder(folder)
        training.save_model(self.model_, folder, {})
        kept = {
            "estimator": type(self).__name__,
            "parameters": {k: v for k, v in self.get_params(deep=False).items() if k not in ("model", "settings", "random_state")},
            "features": self.n_features_in_,
            "scale": None if self.scale_ is None else self.scale_.to_json(),
        }
        write_json(folder / JSON, kept | self._kept())
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """A fitted estimator that `save` wrote; its `model` is the folder.

        Raises:
            InputError: there is none, or one of another kind.
        """
        file = Path(folder).expanduser() / JSON
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            if kept["estimator"] != cls.__name__:
                raise InputError(f"{folder} holds an estimator {kept['estimator']}: pofx.sklearn.{kept['estimator']}.load({str(folder)!r})")
            parameters = kept["parameters"]
            shape = parameters.get("image_shape")
            self = cls(**{"model": str(folder)} | parameters | {"image_shape": None if shape is None else tuple(shape)})
            self.scale_ = Scale.of(kept["scale"])
            self.n_features_in_ = int(kept["features"])
            self._take(kept)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{file} is missing or damaged ({error}). Write it with estimator.save({str(folder)!r}).") from error
        self.model_ = training.load_model(folder, device=self.device)
        self.space_ = self.model_.space
        return self

    def _kept(self) -> dict[str, Any]:
        """What else was fitted, as JSON."""
        return {}

    def _take(self, kept: Mapping[str, Any]) -> None:
        """Set it again."""


def _parted(x: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """About `count` images at random, and the others. Copies stay together: one that was trained on must not calibrate (`data/split.py`)."""
    chosen = torch.from_numpy(choose(pixel_keys(x.numpy()), count, seed=seed))
    return x[chosen], x[~chosen]


class OutlierDetector(OutlierMixin, _Estimator):
    """Outliers by what images cost under a model of p(x), flagging at most a share `alpha` of normal ones.

    `fit` parts X at random in three: to train on, to learn the usual cost and its spread (the center), and to calibrate on; copies stay
    together. The score is two-sided: too dear and too cheap are both odd (`tasks/outliers.py`). The threshold is split-conformal: for a new image
    that is like the n calibration images, P(flagged) ≤ alpha over such sets, whatever the model is worth. That takes n ≥ 1/alpha − 1; where X is
    too small for it, `fit` warns, and flagged is what is odder than all calibration images: then alpha_ = 1/(n + 1) is guaranteed, which is more
    than alpha.

    For PyOD, where higher is odder, one line suffices: `decision_scores_ = -detector.score_samples(X)`.

    Args:
        model: the name of a model class, which is trained; or a fitted one, a run (folder or Hub id) or an ImageModel, for which X only calibrates
            and must hold no image that it was trained on.
        alpha: largest share of normal images that may be flagged, in (0, 1).
        image_shape: (C, H, W) or (H, W) of a row of X; by default that of a fitted model, else a row is an image of height 1.
        settings: arguments of the model class; None takes its smallest instance. Not for a fitted model.
        steps: of training, 64 images each.
        random_state: of the parts, the first weights and the order of training.
        device: "auto", "cpu", "cuda" or "mps".

    Attributes:
        model_: the model. scale_: of floats, or None. n_calibration_: images.
        offset_: `decision_function = score_samples − offset_`; below 0 is flagged.
        alpha_: the share that is guaranteed, k/(n + 1) with the largest k that keeps it ≤ alpha.

    Raises:
        ValueError: X is not two-dimensional, finite and of three rows at least (two for a fitted model), or has no such levels; alpha is out of range.

    >>> from sklearn.datasets import load_digits
    >>> X = load_digits().data.astype(int)
    >>> detector = OutlierDetector(image_shape=(8, 8), steps=20, random_state=0).fit(X[:400])
    >>> detector.predict(255 - X[:5]).tolist(), bool((detector.predict(X[400:800]) == -1).mean() < 0.15)
    ([-1, -1, -1, -1, -1], True)
    """

    def __init__(
        self,
        model: str | Path | ImageModel = "pixelcnn",
        *,
        alpha: float = 0.05,
        image_shape: Sequence[int] | None = None,
        settings: Mapping[str, Any] | None = None,
        steps: int = 300,
        random_state: Any = None,
        device: str = "auto",
    ) -> None:
        super().__init__(model, image_shape, settings, steps, random_state, device)
        self.alpha = alpha

    center_: Array
    calibration_: Array

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on most of X `(n, features)` and calibrate on the rest; `y` is ignored."""
        if not 0 < self.alpha < 1:
            raise InputError(f"alpha={self.alpha} must be between 0 and 1, e.g. alpha=0.05.")
        fewest = 3 if self._is_named() else 2
        x, given = self._read(X, fewest)
        seed, n = int(check_random_state(self.random_state).randint(2**31 - 1)), len(x)
        keys = pixel_keys(x.numpy())
        if (different := len(np.unique(keys))) < fewest:
            raise InputError(
                f"X has {n} rows, of which only {different} differ as images; OutlierDetector needs at least {fewest} different ones."
            )
        least = needed(self.alpha)
        if given is None:
            calib = max(1, min(max(round(CALIB * n), least), n // 2))
            center = max(1, min(round(CENTER * n), (n - calib) // 2))
            held, rest = _parted(x, calib, seed)
            middle, rest = _parted(rest, center, seed)
            self.model_ = self._train(rest, middle, held, seed)
        else:
            center = max(1, min(n // 4, n - least))
            middle, held = _parted(x, center, seed)
            self.model_ = given
        self.center_ = costs(self.model_, middle).bits_per_dim.numpy()
        self.calibration_ = np.sort(self._oddness(held))
        self._calibrate()
        if self.alpha_ > self.alpha:
            warnings.warn(
                f"alpha={self.alpha:g} cannot be guaranteed with {len(held)} calibration images; it takes {least} of them. Flagged is what is odder "
                f"than all of them: at most {self.alpha_:.3g} of normal images. Fit on more, or set alpha={math.ceil(1000 * self.alpha_) / 1000:g}.",
                UserWarning,
                stacklevel=2,
            )
        return self

    def _calibrate(self) -> None:
        """Flagged is what is odder than the k-th oddest of n calibration images, k = ⌊alpha (n + 1)⌋: p = (1 + #{≥ s})/(n + 1) ≤ k/(n + 1)."""
        n = len(self.calibration_)
        k = max(1, math.floor(self.alpha * (n + 1) + 1e-9))
        self.n_calibration_, self.alpha_, self.offset_ = n, k / (n + 1), -float(self.calibration_[n - k])

    def _oddness(self, x: Tensor) -> Array:
        oddness, _ = oddness_from(torch.from_numpy(self.center_))
        return oddness(costs(self.model_, x).bits_per_dim).numpy()

    def score_samples(self, X: Any) -> Array:
        """−oddness `(n,)`, higher is more normal: −|bits/dim − median| in mean distances from the median on that side."""
        return -self._oddness(self._images(X))

    def decision_function(self, X: Any) -> Array:
        """`score_samples(X) − offset_`, `(n,)`: below 0 is flagged."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int64]:
        """−1 for an outlier, 1 for a normal image, `(n,)`."""
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def p_values(self, X: Any) -> Array:
        """(1 + #{calibration images at least as odd}) / (n_calibration_ + 1), `(n,)`."""
        return conformal_p_values(torch.from_numpy(-self.score_samples(X)), torch.from_numpy(self.calibration_)).numpy()

    def _kept(self) -> dict[str, Any]:
        return {"center": self.center_.tolist(), "calibration": self.calibration_.tolist()}

    def _take(self, kept: Mapping[str, Any]) -> None:
        self.center_, self.calibration_ = np.array(kept["center"], np.float64), np.array(kept["calibration"], np.float64)
        self._calibrate()


class Features(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _Estimator):
    """Features that a model learned without labels, as a transformer.

    Args:
        model: the name of a model class, which is trained on X; or a fitted one, a run (folder or Hub id) or an ImageModel, which X only checks.
        layer: whose features; None is the model's default, "NAME@4" a map pooled over a 4×4 grid (`pofx encode --layer`).
        image_shape, settings, steps, random_state, device: as of `OutlierDetector`.

    Attributes:
        model_: the model. scale_: of floats, or None.

    Raises:
        ValueError: X is not two-dimensional, finite and of two rows and columns at least, or has no such levels; no such layer.
        CapabilityError: the model has no features.

    >>> from sklearn.datasets import load_digits
    >>> X = load_digits().data[:100].astype(int)
    >>> Features("vae", image_shape=(8, 8), steps=2, random_state=0).fit_transform(X).shape
    (100, 2)
    """

    def __init__(
        self,
        model: str | Path | ImageModel = "vae",
        *,
        layer: str | None = None,
        image_shape: Sequence[int] | None = None,
        settings: Mapping[str, Any] | None = None,
        steps: int = 300,
        random_state: Any = None,
        device: str = "auto",
    ) -> None:
        super().__init__(model, image_shape, settings, steps, random_state, device)
        self.layer = layer

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on X `(n, features)`, a tenth of which is only looked at; `y` is ignored."""
        x, given = self._read(X, 2, 2)  # one number has no features but itself
        random = check_random_state(self.random_state)
        seed, n = int(random.randint(2**31 - 1)), len(x)
        if given is None:
            x = x[torch.from_numpy(random.permutation(n))]
            valid = max(1, round(CENTER * n))
            given = self._train(x[valid:], x[:valid], x[:0], seed)
        self.model_ = require(given, models.Features, to="give features")
        self._n_features_out = self._features(x[:1]).shape[1]
        return self

    def _features(self, x: Tensor) -> Tensor:
        model = require(self.model_, models.Features, to="give features")
        return per_image(model, lambda x, _: model.features(x.to(model.device), self.layer).double(), x)

    def transform(self, X: Any) -> Array:
        """Features `(n, d)`, float64."""
        return self._features(self._images(X)).numpy()

    def _kept(self) -> dict[str, Any]:
        return {"width": self._n_features_out}

    def _take(self, kept: Mapping[str, Any]) -> None:
        self._n_features_out = int(kept["width"])
