"""Names on the command line follow from class names, word by word: LadderVAE → ladder-vae, WassersteinGP → wasserstein-gp. The field writes
PixelCNN and PixelRNN as one word (gated-pixelcnn), and "++" as pp (pixelcnn-pp)."""

from __future__ import annotations

import re

_WORD = re.compile(r"Pixel[CR]NN|pp$|^M2$|[A-Z]+(?=[A-Z][a-z]|pp$|\d|$)|[A-Z][a-z0-9]*?(?=[A-Z]|pp$|$)|[a-z0-9]+")


def kebab(name: str) -> str:
    """The name of a class on the command line.

    >>> [kebab(c) for c in ("PixelCNN", "GatedPixelCNN", "PixelCNNpp", "LadderVAE", "BayesClassifier", "VAE", "WassersteinGP", "Label")]
    ['pixelcnn', 'gated-pixelcnn', 'pixelcnn-pp', 'ladder-vae', 'bayes-classifier', 'vae', 'wasserstein-gp', 'label']
    """
    return "-".join(_WORD.findall(name)).lower()
