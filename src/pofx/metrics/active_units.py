"""Active units (Burda, Grosse and Salakhutdinov 2016, section 5.2): latent dimensions that say something of the image.

A_j = Var_x( E_q(z|x)[z_j] );   unit j is active where A_j > 0.01
"""

from __future__ import annotations

from torch import Tensor

THRESHOLD = 0.01


def active_units(means: Tensor) -> int:
    """How many dimensions of posterior means `(n, d)` vary from image to image.

    >>> import torch
    >>> active_units(torch.tensor([[1.0, 0.0, 0.01], [-1.0, 0.0, 0.0]]))
    1
    """
    return int((means.double().var(0, correction=0) > THRESHOLD).sum())
