"""Directions that a model has without being told of any: where its early layers change most.

    sefa   eigenvectors of AᵀA, A the weight of the first, affine layer: max ‖A v‖, ‖v‖ = 1       Shen and Zhou 2021, eq. 4–6 (arXiv:2007.06600)
    pca    principal components x of early activations at many z ~ N(0, I), and for each the
           direction u that z has on average along it: min_u Σ ‖z − u x‖²                         Härkönen et al. 2020, §3.1 (GANSpace, arXiv:2004.02546)

Of an affine layer the two are one, since its activations have covariance A Aᵀ; so pca looks behind the first nonlinearity (at E[x|z] itself where
a model names no early layer). All directions have length 1: strength 1 is one standard deviation of z. Signs mean nothing; here the largest
number of each is positive. What they do is for a person to see: each is shown at −3 … 3.

Of pca, "explained" is a component's share of the variance of the activations, and "linear" is how much of the component a linear map of z says:
where it is small, no single direction stands for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pofx import pictures
from pofx.errors import CapabilityError, InputError
from pofx.heap import keep_pages
from pofx.model import Decoder, ImageModel, Progress, evaluating, require
from pofx.noise import Noise
from pofx.tasks._decoding import decodes_to, draws, has_prior, means, repeated
from pofx.tasks._files import check_out, writing
from pofx.tasks.bulk import batch_size
from pofx.tasks.edit import Direction, fingerprint

How = Literal["sefa", "pca"]
SUFFIXES = (".png",)
DRAWS = 2000  # of z, for pca
COUNT = 8


@dataclass(frozen=True)
class Discovery:
    """Directions, and what they do to one sample.

    Attributes:
        directions: named `sefa-1`, …, the strongest first; each `explained` is s² / Σ s² of the singular values of A (sefa), or the share of the
            variance of the activations (pca).
        linear: `(count,)` R² of each component given z (pca), or None.
        x: `(count, columns, C, H, W)`, E[x | z + s·v], floats in 0 … levels−1; not samples of p.
        strengths: `(columns,)` the s, in standard deviations of z.
        change_levels: `(count,)` mean |E[x|z + v] − E[x|z − v]| / 2 over sub-pixels, at the sample that is shown.
        sample, seed: which sample that is.
        shows: what `x` is, in words.
    """

    directions: tuple[Direction, ...]
    linear: Tensor | None
    x: Tensor
    strengths: Tensor
    change_levels: Tensor
    sample: int
    seed: int
    shows: str
    path: Path | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "method": self.directions[0].method,
            "directions": [
                {
                    "name": d.name,
                    "explained": d.explained,
                    "linear": None if self.linear is None else float(self.linear[k]),
                    "change_levels": float(self.change_levels[k]),
                }
                for k, d in enumerate(self.directions)
            ],
            "sample": self.sample,
            "seed": self.seed,
            "strengths": self.strengths.tolist(),
            "shows": self.shows,
            "out": None if self.path is None else str(self.path),
        }


def sefa(weight: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` eigenvectors of AᵀA, `(count, d)` float64, and their shares of its trace, of A `(h, d)`.

    >>> sefa(torch.tensor([[0.0, 3.0], [1.0, 0.0]]), 1)
    (tensor([[0., 1.]], dtype=torch.float64), tensor([0.9000], dtype=torch.float64))
    """
    _, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
    return signed(v[:count]), (s.square() / s.square().sum().clamp(min=1e-300))[:count]


def pca(activations: Tensor, z: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """GANSpace: `(n, h)` at `(n, d)` → directions of length 1 `(count, d)` float64, their shares of the variance, and R² given z, `(count,)` each."""
    y, z = activations.double(), z.double()
    y, z = y - y.mean(0), z - z.mean(0)
    # The smaller of the two ways to the same components: x = Y V, or the eigenvectors of Y Yᵀ
    if y.shape[1] <= len(y):
        x = y @ torch.linalg.eigh(y.T @ y)[1].flip(1)[:, :count]
    else:
        values, vectors = torch.linalg.eigh(y @ y.T)
        x = (vectors * values.clamp(min=0).sqrt()).flip(1)[:, :count]
    power = x.square().sum(0)
    u = (z.T @ x / power.clamp(min=1e-300)).T
    fitted = z @ torch.linalg.lstsq(z, x).solution
    linear = fitted.square().sum(0) / power.clamp(min=1e-300)
    return signed(u / u.norm(dim=1, keepdim=True).clamp(min=1e-300)), power / y.square().sum().clamp(min=1e-300), linear


def signed(vectors: Tensor) -> Tensor:
    """Vectors `(k, d)` whose number of largest size is positive, since ±v are one direction."""
    return vectors * vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()


def first_weight(model: Decoder) -> Tensor | None:
    """A of the first layer A z + b, `(h, d)` float64 on the CPU, or None where a model has no such layer."""
    with torch.inference_mode(), evaluating(model):
        z = torch.cat([torch.zeros(1, model.latent_dims), torch.eye(model.latent_dims)]).to(model.device, model.dtype)
        h = model.first_layer(z)
    return None if h is None else (h[1:].double() - h[:1].double()).T.cpu().clone()


def discover(
    model: ImageModel,
    *,
    method: How = "sefa",
    count: int | None = None,
    sample: int = 0,
    given: Any = None,
    columns: int = 7,
    reach: float = 3.0,
    seed: int = 0,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Discovery:
    """Find directions without labels, and show what each does.

    Args:
        method: "sefa" or "pca".
        count: how many, the strongest first; by default 8, or as many as there are latent dimensions.
        sample: number of the sample of `seed` that they are shown on.
        given: of a conditional model, the view's value to decode with.
        columns: images from strength −reach to reach.
        seed: of that sample, and of the draws of pca.
        out: `.png`: a row for each direction.

    Raises:
        CapabilityError: the model does not decode or has no prior; "sefa" of a model without an affine first layer.
        InputError: more directions than there are, or none; nothing changes with z; another ending.

    >>> from pofx.models.adversarial.gan import GAN
    >>> from pofx.space import ImageSpace
    >>> found = discover(GAN.small(ImageSpace(1, 4, 4)), count=2)
    >>> [d.name for d in found.directions], found.x.shape
    (['sefa-1', 'sefa-2'], torch.Size([2, 7, 1, 4, 4]))
    """
    decoder = require(model, Decoder, to="discover directions")
    if method not in ("sefa", "pca"):
        raise InputError(f"--discover {method}: it can be sefa, pca.")
    if not has_prior(model):
        raise CapabilityError(
            f"{type(model).__name__} has no prior N(0, I), and so no draws to look at. Learn a direction from images: --learn"
        )
    d = decoder.latent_dims
    count = min(COUNT, d) if count is None else count
    if not 1 <= count <= d:
        raise InputError(f"--count {count}: of {d} latent dimensions there are 1 … {d} directions, e.g. --count {min(COUNT, d)}")
    if columns < 2 or not 0 < reach < float("inf"):
        raise InputError(f"columns={columns} must be at least 2 and reach={reach} above 0.")
    path, value = None if out is None else check_out(out, SUFFIXES), model.check_given(given, 1)
    keep_pages()
    linear = None
    if method == "sefa":
        weight = first_weight(decoder)
        if weight is None:
            raise CapabilityError(
                f"{type(model).__name__} names no first layer that is affine in z. Look at what it decodes: --discover pca"
            )
        vectors, shares = sefa(weight, count)
        sources = [f"first layer, {float(s):.1%} of its squared weights" for s in shares]
    else:
        vectors, shares, linear = pca(*_activations(decoder, value, seed, progress), count)
        sources = [
            f"activations at {DRAWS} draws, {float(s):.1%} of their variance, {float(r):.0%} of it linear in z"
            for s, r in zip(shares, linear, strict=True)
        ]
    if len(vectors) < count or not bool((shares > 1e-12).all()):
        there = int((shares > 1e-12).sum())
        fix = f"e.g. --count {there}" if there else "the model may have collapsed: train it longer, or another"
        raise InputError(f"--count {count}: what is looked at changes along {there} directions of z only; {fix}")
    own = fingerprint(model)
    found = tuple(
        Direction(f"{method}-{k + 1}", tuple(v.tolist()), method, (), (0, 0), None, None, own, source, float(s))
        for k, (v, s, source) in enumerate(zip(vectors, shares, sources, strict=True))
    )
    strengths = torch.linspace(-reach, reach, columns, dtype=torch.double)
    base = draws(decoder, [sample], seed).double()
    z = (base + strengths[:, None] * vectors[:, None]).flatten(0, 1).to(model.dtype)
    x = means(decoder, z, repeated(value, len(z))).reshape(count, columns, *model.space.shape)
    one = torch.cat([base + vectors, base - vectors]).to(model.dtype)
    up, down = means(decoder, one, repeated(value, len(one))).double().chunk(2)
    change = (up - down).abs().flatten(1).mean(1) / 2
    result = Discovery(found, linear, x, strengths, change, sample, seed, decodes_to(model), path)
    if path is not None:
        with writing(path) as temporary:
            _picture(result, model.space.levels).save(temporary, format="PNG")
    return result


def _activations(model: Decoder, given: Tensor | None, seed: int, progress: Progress | None) -> tuple[Tensor, Tensor]:
    """Early activations `(DRAWS, h)` at draws of z `(DRAWS, d)`."""
    z, size, parts = Noise(seed, torch.arange(DRAWS)).normal("discover", model.latent_dims).to(model.dtype), batch_size(model.space), []
    with torch.inference_mode(), evaluating(model):
        for part in z.split(size):
            parts.append(model.activations(part.to(model.device), repeated(given, len(part))).cpu())
            if progress is not None:
                progress(sum(map(len, parts)), len(z))
    return torch.cat(parts).clone(), z


def _picture(found: Discovery, levels: int) -> Any:
    x = pictures.rgb(pictures.shades(found.x.flatten(0, 1), levels - 1), 256)
    rows = [f"{d.name}  {d.explained:.0%}" for d in found.directions]
    what = {"sefa": "squared weights of the first layer", "pca": "variance of early activations"}[found.directions[0].method]
    captions: Sequence[str] = (
        f"{found.shows} around sample {found.sample} of seed {found.seed}; share of the {what}",
        "columns: strength, in standard deviations of z",
    )
    heads = [f"{float(s):+.1f}" for s in found.strengths]
    if found.x.shape[3] == 1:  # a series: one below another
        names = [f"{row}  at {head}" for row in rows for head in heads]
        return pictures.sheet(x, 1, rows=names, captions=captions)
    return pictures.sheet(np.ascontiguousarray(x), len(heads), heads=heads, rows=rows, captions=captions)
