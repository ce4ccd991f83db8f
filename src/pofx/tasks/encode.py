"""The codes of images: z = E q(z|x), a draw from q(z|x), f(x) of an autoencoder, or what inversion finds where a model only decodes; and the
features of a layer, of models that have no codes, or where a layer is named.

A draw's noise is keyed by the image itself, so that neither order nor batch matters. This is the one place where codes of images come
from: who wants them asks `encode`, and whether they are approximate stands in its result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx.errors import RunError
from pofx.model import Encoder, Features, ImageModel, LatentVariable, Progress, require
from pofx.tasks._decoding import has_prior
from pofx.tasks._files import TABLES, check_out, write_table, writing
from pofx.tasks.bulk import Images, TensorImages, as_images, everything, per_image
from pofx.tasks.invert import RESTARTS, STEPS, Inversion, invert

SUFFIXES = (*TABLES, ".npz", ".npy")


@dataclass(frozen=True)
class Codes:
    """Codes of images with their names.

    Attributes:
        ids: stable names, in order.
        z: `(n, latent_dims)`, in the model's precision; of features `(n, d)`.
        kind: "mean of q(z|x)", "draw from q(z|x)", "code", "code by inversion (approximate)", or "features" with their layer.
        path: the file that was written, or None.
        inversion: of a model that only decodes, how good the codes are; else None.
    """

    ids: Sequence[str]
    z: Tensor
    kind: str
    path: Path | None = None
    inversion: Inversion | None = None

    @property
    def columns(self) -> dict[str, list]:
        """id, z0, z1, …, and of an inversion what the codes are worth, a row for each image."""
        columns: dict[str, list] = {"id": list(self.ids)} | {f"z{j}": self.z[:, j].tolist() for j in range(self.z.shape[1])}
        return columns | {name: values.tolist() for name, values in self.worth.items()}

    @property
    def worth(self) -> dict[str, Tensor]:
        """Of codes by inversion, `(n,)` each: their squared error and their norm."""
        return {} if self.inversion is None else {"squared_error": self.inversion.squared_error, "norm": self.inversion.norm}

    @property
    def summary(self) -> CodesSummary:
        return CodesSummary(len(self.ids), self.z.shape[1], self.kind, self.path, self.inversion)

    def to_json(self) -> dict[str, Any]:
        return self.summary.to_json()


@dataclass(frozen=True)
class CodesSummary:
    """What is said of the codes of n images together."""

    n: int
    latent_dims: int
    kind: str
    path: Path | str | None = None
    inversion: Inversion | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "latent_dims": self.latent_dims,
            "kind": self.kind,
            "inversion": None if self.inversion is None else self.inversion.to_json(),
            "out": None if self.path is None else str(self.path),
        }


def inverts(model: ImageModel) -> bool:
    """Whether codes of images are found by inversion: the model decodes, and does not encode."""
    return not isinstance(model, Encoder) and has_prior(model)


def codes(model: ImageModel, images: Images | Tensor, *, sample: bool = False, seed: int = 0, progress: Progress | None = None) -> Tensor:
    """z of every image, `(n, latent_dims)`; arguments and errors are those of `encode`, and so is what they are."""
    return encode(model, images, sample=sample, seed=seed, progress=progress).z


def features(model: ImageModel, images: Images | Tensor, layer: str | None = None, *, progress: Progress | None = None) -> Tensor:
    """Features of every image, `(n, d)`, in fixed batches (`tasks/bulk.py`).

    Raises:
        CapabilityError: the model has none.
        InputError: no such layer; the message names those there are. A conditional model.
    """
    body = require(model, Features, to="give features")
    body.layer_index(layer)
    return _finite(per_image(body, lambda x, y: body.features(x, layer), images, progress=progress), as_images(images))


def _finite(z: Tensor, images: Images) -> Tensor:
    bad = (~z.isfinite().all(1)).nonzero().flatten()
    if len(bad):
        raise RunError(
            f"The code of image {images.ids[int(bad[0])]!r} is not finite ({len(bad)} of {len(z)} are not). "
            "The weights may be damaged, or the run diverged: train again with a lower --lr."
        )
    return z


def _encoded(model: ImageModel, images: Images, given: Any, sample: bool, seed: int, progress: Progress | None) -> Tensor:
    """By an encoder, in fixed batches (`tasks/bulk.py`)."""
    encoder = require(model, Encoder, to="encode images")
    values = None if given is None else encoder.check_given(given, len(images))

    def code(x: Tensor, y: Tensor | None) -> Tensor:
        batch = encoder.batch(x, y)
        return encoder.encode(batch.x, batch.given, sample=sample, seed=seed)

    def code_given(x: Tensor, row: Tensor | None) -> Tensor:
        assert values is not None and row is not None
        return encoder.encode(encoder.space.check(x).to(encoder.device), values[row.to(values.device)], sample=sample, seed=seed)

    if values is None:
        z = per_image(encoder, code, images, progress=progress)
    else:  # rows in the place of labels: each image has its own value
        z = per_image(encoder, code_given, TensorImages(everything(images)[0], torch.arange(len(images))), progress=progress)
    return _finite(z, images)


def encode(
    model: ImageModel,
    images: Images | Tensor,
    *,
    given: Any = None,
    out: str | Path | None = None,
    sample: bool = False,
    layer: str | None = None,
    seed: int = 0,
    steps: int = STEPS,
    restarts: int = RESTARTS,
    progress: Progress | None = None,
) -> Codes:
    """The code of each image; with `out`, a table or arrays. Of a model that only decodes (a GAN) it is looked for: `tasks/invert.py`.

    Args:
        images: a `Split`, or uint8 `(n, C, H, W)`; with labels where the model conditions on them.
        given: of a conditional model, the view's value for each image, or one for all; by default that of the images.
        out: `.parquet`, `.csv` or `.jsonl` with columns id, z0, z1, …; `.npy` the codes; `.npz` the codes as `z` with `id`, `kind`, and
            labels as `y` where there are any. By inversion, also `squared_error` and `norm`.
        sample: a draw from q(z|x) and not its mean.
        layer: features of this layer, in the place of codes; a model that has no codes gives those of its default layer.
        seed: of that draw, or of the starts of an inversion.
        steps, restarts: of an inversion, as of `invert`.

    Raises:
        CapabilityError: the model has neither codes nor features; a sample of a model whose code is a point.
        InputError: images of another space, no images, another ending; steps or restarts below 1; no layer of that name.
        RunError: a code that is not finite; the message names the image.

    >>> import torch
    >>> from pofx.models.variational.vae import VAE
    >>> from pofx.space import ImageSpace
    >>> model = VAE.small(ImageSpace(1, 4, 4, levels=2))
    >>> found = encode(model, torch.zeros(3, 1, 4, 4, dtype=torch.uint8))
    >>> found.z.shape, found.kind
    (torch.Size([3, 2]), 'mean of q(z|x)')
    """
    path = None if out is None else check_out(out, SUFFIXES)
    images, found = as_images(images), None
    if sample:
        require(model, LatentVariable, to="draw codes (its code of an image is a point; leave out --sample)")
    if layer is not None or (isinstance(model, Features) and not isinstance(model, Encoder) and not inverts(model)):
        z, kind = features(model, images, layer, progress=progress), f"features, {layer or 'default layer'}"
    elif inverts(model):
        found = invert(model, images, given, steps=steps, restarts=restarts, seed=seed, progress=progress)
        z, kind = found.z, "code by inversion (approximate)"
    else:
        z = _encoded(model, images, given, sample, seed, progress)
        kind = "code" if not isinstance(model, LatentVariable) else "draw from q(z|x)" if sample else "mean of q(z|x)"
    result = Codes(list(images.ids), z, kind, path, found)
    if path is not None:
        _write(path, result, images, seed, type(model).__name__)
    return result


def _write(path: Path, found: Codes, images: Images, seed: int, model: str) -> None:
    if path.suffix.lower() in TABLES:
        write_table(path, found.columns, {"model": model, "kind": found.kind, "seed": str(seed)})
    elif path.suffix.lower() == ".npy":
        with writing(path) as temporary, temporary.open("wb") as file:
            np.save(file, found.z.numpy(), allow_pickle=False)
    else:
        save_arrays(path, found, everything(images)[1], seed)


def save_arrays(path: Path, found: Codes, y: Tensor | None, seed: int) -> None:
    """Codes as .npz: z, id, kind and seed, what codes by inversion are worth, and labels where there are any."""
    arrays: dict[str, Any] = {"z": found.z.numpy(), "id": np.array(found.ids), "kind": np.array(found.kind), "seed": np.array(seed)}
    arrays |= {name: values.numpy() for name, values in found.worth.items()} | ({} if y is None else {"y": y.numpy()})
    with writing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
