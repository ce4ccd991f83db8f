"""Every model by its class name: `pofx.models.PixelCNN`. A folder is a family of the taxonomy, a file one paper.

The names come from the catalogue, which walks these folders; a class is imported when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # For editors and type checkers only; what exists is what the catalogue finds.
    from pofx.models.adversarial.gan import GAN as GAN
    from pofx.models.autoregressive.pixelcnn import PixelCNN as PixelCNN
    from pofx.models.discriminative.classifier import Classifier as Classifier
    from pofx.models.variational.vae import VAE as VAE


def __getattr__(name: str) -> Any:
    from pofx import catalog

    if name.startswith("_"):
        raise AttributeError(name)
    by_class = {entry.class_name: entry for entry in catalog.entries().values()}
    if name not in by_class:
        from pofx.errors import nearest

        raise AttributeError(f"pofx.models has no {name!r}. {nearest(name, by_class)}")
    return by_class[name].load()


def __dir__() -> list[str]:
    from pofx import catalog

    return sorted(entry.class_name for entry in catalog.entries().values())
