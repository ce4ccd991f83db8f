"""What do features know of labels that nobody told them? A linear probe (Alain and Bengio 2016): the features stay as they are, and

    p(y | x) = softmax(W (f(x) − μ) / σ + b)

is fitted to labelled images by scikit-learn's `LogisticRegression`, with L2 weight 1/C. C is found by cross-validation among the labelled
images alone; with fewer than two images of some class there is nothing to hold out, and C = 1. Accuracy is of test images.

Clusters ask the same without any labels: k-means with as many clusters as classes, and the normalised mutual information of the two,

    NMI = 2 I(cluster; label) / (H(cluster) + H(label)),      0 for independent, 1 for equal partitions,

for features beside pixels and the first principal components of pixels.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx.errors import InputError
from pofx.metrics.mean import Mean
from pofx.model import ImageModel, Progress
from pofx.tasks.bulk import Images, everything
from pofx.tasks.encode import features as features_of

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C
FOLDS = 3
TUNED = 2000  # labelled images that C is tuned on, at most
ITERATIONS = 200
COMPONENTS = 50  # of PCA, before clusters


@dataclass(frozen=True)
class Probe:
    """A linear probe.

    Attributes:
        accuracy: share of test images whose label is right, with its binomial standard error.
        n, test: labelled images, and test images.
        dims: of the features.
        strength: C of the logistic regression.
        layer: of the features, or None for the default one.
    """

    accuracy: Mean
    n: int
    test: int
    dims: int
    strength: float
    layer: str | None = None

    def to_json(self) -> dict[str, Any]:
        more = {"n": self.n, "test": self.test, "dims": self.dims, "C": self.strength, "layer": self.layer}
        return {"accuracy": self.accuracy.to_json()} | more


def probe(
    model: ImageModel, train: Images, test: Images, *, layer: str | None = None, seed: int = 0, progress: Progress | None = None
) -> Probe:
    """Fit a linear probe on the features of `train`, measure it on `test`.

    Raises:
        CapabilityError: the model has no features.
        InputError: images without labels, labels of one class only; no such layer.

    >>> from pofx.models.discriminative.classifier import Classifier
    >>> from pofx.space import ImageSpace
    >>> from pofx.tasks.bulk import TensorImages
    >>> x = torch.arange(4, dtype=torch.uint8).repeat_interleave(4)[:, None, None, None].expand(16, 1, 4, 4)
    >>> images = TensorImages(x, (x[:, 0, 0, 0] > 1).long())
    >>> probe(Classifier.small(ImageSpace(1, 4, 4, levels=4)), images, images).n
    16
    """
    (z, y), (test_z, test_y) = (
        (features_of(model, part, layer, progress=progress), labels_of(part, name)) for name, part in (("train", train), ("test", test))
    )
    return linear(z, y, test_z, test_y, layer=layer, seed=seed)


def labels_of(images: Images, name: str = "DATA") -> Tensor:
    """Labels of all images, int64 `(n,)`; InputError where there are none."""
    y = everything(images)[1]
    if y is None or y.ndim != 1:
        raise InputError(f"A probe needs labels, and {name} has none. Give a folder with one subfolder per class, or a set with labels.")
    return y


def linear(z: Tensor, y: Tensor, test: Tensor, test_y: Tensor, *, layer: str | None = None, seed: int = 0) -> Probe:
    """A linear probe from vectors `(n, d)` and labels `(n,)` to test vectors `(m, d)` and labels `(m,)`."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    counts = y.unique(return_counts=True)[1]
    if len(counts) < 2:
        raise InputError(
            f"A probe tells classes apart, and the {len(y)} labelled images are of one class. Give labels of two classes or more."
        )
    middle, spread = z.mean(0), z.std(0, correction=0)
    spread = torch.where(spread > 1e-6 * float(spread.max() + 1e-30), spread, torch.ones_like(spread))  # a constant feature says nothing
    a, b = (((v - middle) / spread).float().numpy() for v in (z, test))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # ITERATIONS is the budget
        strength = _tuned(a, y.numpy(), int(counts.min()), seed)
        fitted = LogisticRegression(C=strength, max_iter=ITERATIONS).fit(a, y.numpy())
    right = torch.from_numpy(fitted.predict(b) == test_y.numpy())
    return Probe(Mean.of(right.double()), len(y), len(test_y), z.shape[1], strength, layer)


def _tuned(z: Any, y: Any, fewest: int, seed: int) -> float:
    """C by cross-validation; 1 where a class is too small to be parted."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    folds = min(FOLDS, fewest)
    if folds < 2:
        return 1.0
    if len(y) > TUNED:
        from sklearn.model_selection import train_test_split

        z, _, y, _ = train_test_split(z, y, train_size=TUNED, stratify=y, random_state=seed)
        folds = max(2, min(folds, int(np.unique(y, return_counts=True)[1].min())))
    cut = StratifiedKFold(folds, shuffle=True, random_state=seed)
    scores = [cross_val_score(LogisticRegression(C=c, max_iter=ITERATIONS), z, y, cv=cut).mean() for c in STRENGTHS]
    return STRENGTHS[int(np.argmax(scores))]  # the strongest of equals


@dataclass(frozen=True)
class Clusters:
    """k-means against labels.

    Attributes:
        features, pixels, pca: NMI in [0, 1].
        clusters: how many; n: images; components: of PCA.
    """

    features: float
    pixels: float
    pca: float
    clusters: int
    n: int
    components: int

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "unit": "normalised mutual information with the labels"}


def clusters(z: Tensor, pixels: Tensor, y: Tensor, *, seed: int = 0) -> Clusters:
    """NMI of k-means clusters with labels `y` `(n,)`: of standardised features `(n, d)`, of pixels `(n, dims)`, and of their principal components.

    >>> y = torch.arange(30) % 3
    >>> found = clusters(torch.nn.functional.one_hot(y).double(), torch.zeros(30, 4).double() + torch.arange(30)[:, None], y)
    >>> found.features, found.pixels < 0.5
    (1.0, True)
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.metrics import normalized_mutual_info_score

    k = len(y.unique())
    spread = z.std(0, correction=0)
    z = (z - z.mean(0)) / torch.where(spread > 0, spread, torch.ones_like(spread))
    components = min(COMPONENTS, *pixels.shape)

    def nmi(points: Any) -> float:
        kmeans = KMeans(k, n_init=4, random_state=seed)  # type: ignore[arg-type]
        found = kmeans.fit_predict(points)
        return round(float(normalized_mutual_info_score(y.numpy(), found)), 6)

    straight = PCA(components, random_state=seed).fit_transform(pixels.numpy())
    return Clusters(nmi(z.numpy()), nmi(pixels.numpy()), nmi(straight), k, len(y), components)
