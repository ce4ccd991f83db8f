"""A map of the latent space: the codes of images as points, coloured by label.

Of two latent dimensions the map is the space itself, beside its manifold (Kingma and Welling 2014, fig. 4): E[x|z] on a grid of z whose
axes are the quantiles of N(0, 1), or, where there is no prior, those of the codes. More dimensions are projected: principal components, which keep
distances as well as a plane can, or t-SNE, which keeps neighbours and neither distances nor sizes. One dimension is spread over the labels.

Codes of a model that only decodes (a GAN) are found by inversion, which takes its time and is approximate; without images it shows its manifold.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pofx import pictures
from pofx.errors import CapabilityError, InputError
from pofx.model import Decoder, Encoder, ImageModel, Progress, require
from pofx.tasks._decoding import decodes_to, has_prior, means, repeated
from pofx.tasks._files import check_out, writing
from pofx.tasks.bulk import Images, as_images, everything, subset
from pofx.tasks.encode import encode
from pofx.tasks.invert import Inversion

Projection = Literal["auto", "z", "pca", "tsne"]
SUFFIXES = (".png",)
CLASSES = 20  # most that have a colour of their own
FEWEST = 3  # images


@dataclass(frozen=True)
class LatentMap:
    """Points of images in the plane, and what is decoded there.

    Attributes:
        points: `(n, 2)`; None of a model that only decodes.
        y: `(n,)` labels, or None.
        method: "z" (the latent space itself), "pca" or "tsne".
        explained: share of the codes' variance along each axis of "pca", else None.
        manifold: `(g, g, C, H, W)`, E[x|z], floats in 0 … levels−1, first row at the top (largest z1); None but for 2 latent dimensions.
        axes: `(2, g)` the z0 and z1 of the manifold, ascending, or None.
        latent_dims, levels: of the model.
        shows: what the manifold is, in words.
        class_names: of labels 0, 1, …, or None.
        inversion: of a model that only decodes, how good the codes are; else None.
    """

    points: Tensor | None
    y: Tensor | None
    method: str
    explained: tuple[float, float] | None
    manifold: Tensor | None
    axes: Tensor | None
    latent_dims: int
    levels: int
    shows: str
    class_names: tuple[str, ...] | None = None
    path: Path | None = None
    inversion: Inversion | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "n": 0 if self.points is None else len(self.points),
            "latent_dims": self.latent_dims,
            "method": self.method,
            "explained_variance": None if self.explained is None else list(self.explained),
            "inversion": None if self.inversion is None else self.inversion.to_json(),
            "manifold": None if self.manifold is None else list(self.manifold.shape[:2]),
            "out": None if self.path is None else str(self.path),
        }

    @property
    def caption(self) -> str:
        """What the picture shows, in words."""
        points = "" if self.points is None else f"{len(self.points)} images" + (", coloured by label" if self.y is not None else "")
        how = {
            "z": f"at their codes ({self.latent_dims} latent dimension{'s' * (self.latent_dims > 1)})",
            "pca": f"at the first two principal components of their codes ({self.latent_dims} dimensions)",
            "tsne": f"by t-SNE of their codes ({self.latent_dims} dimensions): neighbours mean something, distances and sizes do not",
        }[self.method]
        grid = f"{self.shows} on a grid of z" if self.manifold is not None else ""
        found = " by inversion (approximate)" if self.inversion is not None else ""
        return "; ".join(part for part in (f"{points} {how}{found}" if points else "", grid) if part)

    def picture(self, dpi: int = 110) -> Image.Image:
        """The map, drawn: the points, and beside them the manifold where there is one."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        panels = (self.points is not None) + (self.manifold is not None)
        figure = Figure(figsize=(5.6 * panels + 1.0 * (self.points is not None), 5.2), layout="constrained", dpi=dpi)
        FigureCanvasAgg(figure)
        axes = list(figure.subplots(1, panels, squeeze=False)[0])
        if self.points is not None:
            self._scatter(axes.pop(0), figure)
        if self.manifold is not None:
            self._grid(axes.pop(0))
        file = io.BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})
        return Image.open(file).convert("RGB")

    def _scatter(self, axis: Any, figure: Any) -> None:
        from matplotlib import colormaps

        assert self.points is not None
        p = self.points.numpy()
        size = float(np.clip(4000 / len(p), 3, 24))
        if self.y is None:
            axis.scatter(p[:, 0], p[:, 1], s=size, color="#1f9e96", linewidths=0)
        else:
            y = self.y.numpy()
            found = np.unique(y)
            if len(found) <= CLASSES:
                colours = colormaps["tab10" if len(found) <= 10 else "tab20"]
                for i, label in enumerate(found):
                    name = self.class_names[label] if self.class_names and label < len(self.class_names) else str(label)
                    axis.scatter(*p[y == label].T, s=size, color=colours(i), linewidths=0, label=name)
                axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, markerscale=max(1.0, 5 / size**0.5), fontsize=9)
            else:
                figure.colorbar(
                    axis.scatter(p[:, 0], p[:, 1], c=y, s=size, cmap="viridis", linewidths=0), ax=axis, label="label", shrink=0.7
                )
        names = {"z": ("z0", "z1"), "pca": ("component 1", "component 2"), "tsne": ("t-SNE 1", "t-SNE 2")}[self.method]
        if self.explained is not None:
            names = tuple(f"{name} ({share:.0%} of the variance)" for name, share in zip(names, self.explained, strict=True))
        if self.latent_dims == 1:
            names = ("z0", "label" if self.y is not None else "")
        axis.set_xlabel(names[0])
        axis.set_ylabel(names[1])
        if self.method == "tsne":
            axis.set_xticks([])
            axis.set_yticks([])
        elif self.latent_dims > 1:
            axis.set_aspect("equal", adjustable="datalim")
        axis.spines[["top", "right"]].set_visible(False)

    def _grid(self, axis: Any) -> None:
        assert self.manifold is not None and self.axes is not None
        g = len(self.manifold)
        image = pictures.grid(torch.from_numpy(pictures.shades(self.manifold.flatten(0, 1), self.levels - 1)), 256, g, scale=1, pad=0)
        axis.imshow(np.asarray(image), extent=(0, g, 0, g), aspect="auto" if self.manifold.shape[3] == 1 else image.height / image.width)
        ticks: NDArray[np.int64] = np.unique(np.linspace(0, g - 1, 5).round().astype(np.int64))
        axis.set_xticks(ticks + 0.5, [f"{float(self.axes[0, i]):.2f}" for i in ticks])
        axis.set_yticks(ticks + 0.5, [f"{float(self.axes[1, i]):.2f}" for i in ticks])
        axis.set_xlabel("z0")
        axis.set_ylabel("z1")


def latent_map(
    model: ImageModel,
    images: Images | Tensor | None = None,
    *,
    method: Projection = "auto",
    limit: int | None = 2000,
    grid: int = 20,
    given: Any = None,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> LatentMap:
    """Place images in the plane by their codes, and decode the plane where it is the latent space.

    Args:
        images: a `Split`, or uint8 `(n, C, H, W)`; a model that only decodes (a GAN) needs none,
            and finds their codes by inversion where they are given.
        method: "auto" is the latent space itself for 1 or 2 dimensions, else principal components.
        limit: so many of the images, chosen at random but always the same; None for all.
        grid: images along each side of the manifold.
        given: of a conditional model, the view's value that the manifold is decoded with; by default that of the first image.
        seed: of t-SNE, and of the starts of an inversion.
        class_names: of labels 0, 1, …, for the legend.
        out: `.png`.

    Raises:
        CapabilityError: the model neither encodes nor decodes; it only decodes, has not 2 latent dimensions, and there are no images.
        InputError: too few images, codes that are all the same, a method that does not fit, another ending.

    >>> from pofx.models.variational.vae import VAE
    >>> from pofx.space import ImageSpace
    >>> found = latent_map(VAE.small(ImageSpace(1, 4, 4, levels=2)), torch.zeros(3, 1, 4, 4, dtype=torch.uint8), grid=5)
    >>> found.method, found.points.shape, found.manifold.shape
    ('z', torch.Size([3, 2]), torch.Size([5, 5, 1, 4, 4]))
    """
    dims = require(model, Encoder, Decoder, to="show a latent space").latent_dims
    path = None if out is None else check_out(out, SUFFIXES)
    how = ("z" if dims <= 2 else "pca") if method == "auto" else method
    if how not in ("z", "pca", "tsne"):
        raise InputError(f"--method {method}: it can be auto, z, pca, tsne.")
    if (how == "z" and dims > 2) or (how != "z" and dims == 1):
        raise InputError(f"--method {method} does not fit {dims} latent dimension{'s' * (dims > 1)}. Leave it out.")
    if not 2 <= grid <= 100:
        raise InputError(f"grid={grid}: the manifold has 2 … 100 images along each side, e.g. --grid 20.")
    z = y = explained = points = value = inversion = None
    if isinstance(model, Encoder) or images is not None:
        if images is None or (count := len(as_images(images))) < FEWEST or (limit is not None and limit < FEWEST):
            raise InputError(f"A map shows at least {FEWEST} images, found {0 if images is None else min(count, limit or count)}.")
        chosen = subset(as_images(images), limit)
        found = encode(model, chosen, seed=seed, progress=progress)
        z, inversion, y = found.z, found.inversion, everything(chosen)[1]
        points, explained = _project(z.double(), y, how, seed)
        value = model.batch(*as_images(images).take(torch.zeros(1, dtype=torch.long))).given
    elif dims != 2:
        raise CapabilityError(
            f"{type(model).__name__} only decodes, and of its {dims} latent dimensions there is no grid (of 2 there is: --latents 2). Name images; "
            "their codes are then found by inversion: pofx latents RUN digits:test --limit 200"
        )
    if given is not None or (value is None and model.given is not None):
        value = model.check_given(given, 1)
    manifold = axes = None
    if dims == 2 and isinstance(model, Decoder):
        levels = (torch.arange(grid, dtype=torch.double) + 0.5) / grid
        if has_prior(model):
            axes = torch.special.ndtri(levels).expand(2, -1)
        else:
            assert z is not None
            axes = torch.quantile(z.double(), levels, 0).T
        flat = torch.stack([axes[0].repeat(grid), axes[1].flip(0).repeat_interleave(grid)], 1)
        manifold = means(model, flat.to(model.dtype), repeated(value, len(flat))).reshape(grid, grid, *model.space.shape)
    names = None if class_names is None else tuple(class_names)
    result = LatentMap(points, y, how, explained, manifold, axes, dims, model.space.levels, decodes_to(model), names, path, inversion)
    if path is not None:
        with writing(path) as temporary:
            result.picture().save(temporary, format="PNG")
    return result


def _project(z: Tensor, y: Tensor | None, how: str, seed: int) -> tuple[Tensor, tuple[float, float] | None]:
    """Codes `(n, d)` in the plane, `(n, 2)`, and of principal components the shares of variance."""
    if z.shape[1] == 1:
        return torch.cat([z, torch.zeros_like(z) if y is None else y[:, None].double()], 1), None
    if how == "z":
        return z, None
    if not float(z.std(0).norm()) > 1e-9 * max(1.0, float(z.norm(dim=1).max())):
        raise InputError("The codes of all these images are the same: there is nothing to map. Train the model longer.")
    if how == "pca":
        from sklearn.decomposition import PCA

        pca = PCA(2, svd_solver="full")
        points = pca.fit_transform(z.numpy())
        first, second = pca.explained_variance_ratio_
        return torch.from_numpy(points), (float(first), float(second))
    from sklearn.manifold import TSNE

    tsne = TSNE(2, perplexity=min(30.0, (len(z) - 1) / 3), init="pca", random_state=seed)
    return torch.from_numpy(np.asarray(tsne.fit_transform(z.numpy()), np.float64)), None
