"""A few labels spread over the images that have none, along a graph of near features (Zhou et al. 2004, "Learning with local and global consistency"):

    F = (1 − α) Σ_t (α D^−½ W D^−½)^t Y       W joins each image to its nearest ones,   Y the labels there are, a row of zeros where there is none

An image gets the label of most weight in its row of F; a new one asks the rows, of sum 1, of its nearest images. The iteration is scikit-learn's
`LabelSpreading`, stopped after `ROUNDS`. The graph is that of Iscen et al. 2019 (arXiv:1904.04717): the weight is the cosine, cubed, and joins where either
is near the other; here of leading principal components, each over the fourth root of its variance: as they are a few strong ones would decide alone,
and at variance 1 what is mostly noise would weigh as much.

Nothing is trained. The images without labels do much of the work, along pixels too: what features are worth is what they are better than those.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pofx.errors import InputError
from pofx.metrics.mean import Mean
from pofx.metrics.nearest import nearest

NEIGHBOURS = 10
COMPONENTS = 100
POWER = 3  # of the cosine
ALPHA, ROUNDS = 0.99, 200
BLOCK = 4096  # images whose neighbours are sought at once


@dataclass(frozen=True)
class Neighbours:
    """The graph of n training images and m test images; it holds no label.

    Attributes:
        within: `(n, n)` sparse weights, symmetric, none of an image with itself.
        across: `(n, m)` sparse: of training images to the test images that they are nearest to.
    """

    within: Any
    across: Any

    @classmethod
    def of(cls, z: Tensor, test: Tensor, *, seed: int = 0) -> Neighbours:
        """From vectors `(n, d)` and `(m, d)`, n ≥ 2; test images join nobody to anybody.

        Raises:
            InputError: features are the same for all images, or nobody is near anybody.

        >>> z = torch.tensor([[0.0, 1.0], [0.1, 1.1], [1.0, 0.0], [1.1, 0.1]]).repeat(6, 1)
        >>> graph = Neighbours.of(z, z[:2])
        >>> graph.within.shape, graph.across.shape
        ((24, 24), (24, 2))
        """
        from sklearn.decomposition import PCA

        if not float((z - z[:1]).abs().max()) > 0:
            raise InputError(
                "Features are the same for all training images, so that no label can spread along them. Train the model, or take another --layer."
            )
        pca = PCA(min(COMPONENTS, *z.shape), random_state=seed).fit(z.float().numpy())
        variance = pca.explained_variance_
        scale = np.maximum(variance, 1e-6 * float(variance.max()) + 1e-30) ** 0.25
        a, b = (F.normalize(torch.from_numpy(pca.transform(v.float().numpy()) / scale).float(), dim=1) for v in (z, test))
        k = min(NEIGHBOURS, len(a) - 1)
        within = _weights(a, a, k + 1)
        within.setdiag(0)
        within.eliminate_zeros()
        within = within.maximum(within.T)
        if (lone := int((within.sum(0) == 0).sum())) > len(a) / 2:
            raise InputError(
                f"{lone} of {len(a)} training images are near no other, so that no label can spread. Give more images, or leave out --spread."
            )
        return cls(within, _weights(b, a, k).T.tocsr())

    def spread(self, y: Tensor, test_y: Tensor, labelled: Tensor) -> Mean:
        """Accuracy of test images where only the rows `labelled` of `y` `(n,)` are known; those that no label reaches count as the first class.

        Raises:
            InputError: the labels are of one class.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.semi_supervised import LabelSpreading

        def kernel(rows: Any, others: Any) -> Any:
            return self.within if others is rows else self.across

        if len(y[labelled].unique()) < 2:
            raise InputError(
                f"Spreading tells classes apart, and the {len(labelled)} labelled images are of one class. Give labels of two classes or more."
            )
        known = torch.full_like(y, -1)
        known[labelled] = y[labelled]
        n, m = self.across.shape
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # ROUNDS is the budget
            # The graph is made already: what scikit-learn calls features are the numbers of its rows
            fitted = LabelSpreading(kernel=kernel, alpha=ALPHA, max_iter=ROUNDS).fit(np.arange(n)[:, None], known.numpy())  # type: ignore[arg-type]
            with np.errstate(invalid="ignore"):  # 0 / 0 where no label reaches
                found = fitted.predict(np.arange(m)[:, None])
        return Mean.of(torch.from_numpy(found == test_y.numpy()).double())


def _weights(queries: Tensor, base: Tensor, k: int) -> Any:
    """cos³ of unit vectors `(m, d)` to the k nearest of `(n, d)`, 0 where it is negative: sparse `(m, n)`."""
    from scipy.sparse import csr_matrix

    found = [nearest(part, base, k) for part in queries.split(BLOCK)]
    index, distance = (torch.cat([getattr(f, name) for f in found]) for name in ("index", "distance"))
    cosine = (1 - distance.square() / 2).clamp(min=0)
    rows = np.repeat(np.arange(len(queries)), k)
    return csr_matrix((cosine.pow(POWER).flatten().numpy(), (rows, index.flatten().numpy())), (len(queries), len(base)))
