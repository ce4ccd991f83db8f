"""Attributes as directions in latent space: learned from two groups of images, added with a strength, and decoded.

    mean     v = μ₁ − μ₀, the difference of the groups' mean codes                       Larsen et al. 2016, §3.2 (arXiv:1512.09300)
    svm      the normal of a linear SVM boundary between draws of the groups' codes      Shen et al. 2020, §3.1 (InterFaceGAN, arXiv:1907.10786)
    hold     v ← v − Q Qᵀ v, Q an orthonormal basis of the directions held fixed         ibid., eq. 5
    edit     z′ = z + Σ_a s_a v_a,   x′ = E[x | z′, given]

Directions are scaled so that strength 1 takes the mean of the images without the attribute to the height of those with it, along v. What a
direction means is measured, not believed: each half of the images is judged by a direction learned on the other (the same pixels never
in both), by which side of the middle they fall on. 50 % is chance.

What is changed are images, or a model's own samples, whose codes are known. Of images, a model that only decodes (a GAN) has codes by inversion
(`tasks/invert.py`), approximate: what is edited is then what was found, not the image. Directions also come from sums of groups of samples
(`tasks/arithmetic.py`) and, without any labels, from the model itself (`tasks/discover.py`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pofx import pictures
from pofx.errors import InputError, nearest
from pofx.model import Decoder, ImageModel, LatentVariable, Progress, require
from pofx.noise import hash_images
from pofx.tasks._decoding import decodes_to, draws, means, repeated
from pofx.tasks._files import check_out, write_text, writing
from pofx.tasks.bulk import Images, Subset, TensorImages, as_images, everything, per_image, subset
from pofx.tasks.encode import codes, encode, inverts
from pofx.tasks.invert import Inversion

Method = Literal["mean", "svm"]
SUFFIXES = (".png", ".npz")
PICTURE = 16  # images in a picture
INVERTED = 100  # images of each group, where codes are found by inversion
FOLDER = "directions"
FORMAT = 1
_NAME = re.compile(r"\w[\w.-]{0,63}")
_STRENGTH = 100.0  # the largest; farther out there is no image


@dataclass(frozen=True)
class Direction:
    """An attribute of one model's codes.

    Attributes:
        name: as it is added.
        vector: `(latent_dims,)` numbers; strength 1 adds it once.
        method: "mean" or "svm" of images; "groups" of samples; "sefa" or "pca", which were discovered.
        held: names of the directions that it is orthogonal to.
        n: images with and without the attribute; 0 of one that was discovered.
        accuracy: share on the right side of the middle, held out, mean of both groups; 0.5 is chance. None where there is nothing to judge by.
        accuracy_se: its standard error, or None.
        model: fingerprint of the weights whose codes these are.
        source: what the groups were, in words.
        explained: of a direction that was discovered, its share of what its method looks at; else None.
    """

    name: str
    vector: tuple[float, ...]
    method: str
    held: tuple[str, ...]
    n: tuple[int, int]
    accuracy: float | None
    accuracy_se: float | None
    model: str
    source: str = ""
    explained: float | None = None

    @property
    def tensor(self) -> Tensor:
        return torch.tensor(self.vector, dtype=torch.double)

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT} | asdict(self)


@dataclass(frozen=True)
class Edited:
    """Images before and after.

    Attributes:
        x: `(n, C, H, W)`, E[x | z′], floats in 0 … levels−1; not samples of p.
        reconstruction: the same for z: what the code alone changes.
        z: `(n, latent_dims)`, the changed codes.
        amounts: what was added.
        shows: what `x` and `reconstruction` are, in words.
        inversion: of images of a model that only decodes, how good their codes are; else None.
        change_levels: mean |E[x|z′] − E[x|z]| over images and sub-pixels, in levels.
    """

    x: Tensor
    reconstruction: Tensor
    z: Tensor
    amounts: dict[str, float]
    shows: str
    path: Path | None = None
    inversion: Inversion | None = None

    @property
    def change_levels(self) -> float:
        return float((self.x - self.reconstruction).double().abs().mean())

    def to_json(self) -> dict[str, Any]:
        return {
            "n": len(self.x),
            "add": dict(self.amounts),
            "mean_change_levels": self.change_levels,
            "shows": self.shows,
            "inversion": None if self.inversion is None else self.inversion.to_json(),
            "out": None if self.path is None else str(self.path),
        }


# Learning ---------------------------------------------------------------------------------------------------------------


def fingerprint(model: ImageModel) -> str:
    """16 hex digits that name the weights: a direction fits no other codes."""
    digest = blake2b(digest_size=8)
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def orthogonal(v: Tensor, others: Sequence[Tensor]) -> Tensor:
    """v − Q Qᵀ v: `(d,)` without its part in the span of `others`, each `(d,)`.

    >>> orthogonal(torch.tensor([1.0, 1.0]), [torch.tensor([0.0, 2.0])])
    tensor([1., 0.])
    """
    if not others:
        return v
    u, s, _ = torch.linalg.svd(torch.stack([o / o.norm() for o in others], 1), full_matrices=False)
    q = u[:, s > 1e-9 * s[0]]
    for _ in range(2):  # once more for what rounding left
        v = v - q @ (q.T @ v)
    return v


def direction(present: Tensor, absent: Tensor, *, method: Method = "mean", hold: Sequence[Tensor] = ()) -> Tensor:
    """From codes without an attribute to codes with it: `(n, d)`, `(m, d)` → `(d,)` float64, orthogonal to each of `hold` `(d,)`.

    Its length is the distance of the group means along it.

    Raises:
        InputError: the groups do not differ, or only along what is held.

    >>> direction(torch.tensor([[2.0, 1.0]]), torch.tensor([[0.0, 0.0]]), hold=[torch.tensor([0.0, 1.0])])
    tensor([2., 0.], dtype=torch.float64)
    """
    present, absent = present.double(), absent.double()
    both = torch.cat([present, absent])
    spread = both.std(0, correction=0)
    difference = present.mean(0) - absent.mean(0)
    if not float(spread.norm()) > 1e-9 * max(1.0, float(both.norm(dim=1).max())):
        raise InputError("The codes of all these images are the same: the model's codes do not tell them apart. Train it longer.")
    if not float(difference.norm()) > 1e-9 * float(spread.norm()):
        raise InputError("The two groups have the same mean code: nothing tells them apart. Give other groups.")
    v = difference if method == "mean" else _normal(present, absent, spread)
    left = orthogonal(v, [h.double() for h in hold])
    if not float(left.norm()) > 1e-6 * float(v.norm()):
        raise InputError("The two groups differ only along the attributes that are held fixed. Leave one of them out of --hold.")
    u = left / left.norm()
    height = float(difference @ u)
    if abs(height) < 1e-9 * float(difference.norm()):
        raise InputError("Across this boundary the two groups have the same mean code. Take --method mean, or hold fewer attributes.")
    return u * height


def _normal(present: Tensor, absent: Tensor, spread: Tensor) -> Tensor:
    """The normal of a linear SVM boundary; all dimensions keep their scale, since one that hardly varies is hardly decoded."""
    from sklearn.svm import LinearSVC

    both, scale = torch.cat([present, absent]), spread.square().mean().sqrt()
    y = np.r_[np.ones(len(present)), np.zeros(len(absent))]
    machine = LinearSVC(C=0.01, class_weight="balanced", dual="auto", random_state=0, max_iter=10_000)
    machine.fit(((both - both.mean(0)) / scale).numpy(), y)
    return torch.from_numpy(np.asarray(machine.coef_[0], np.float64))


def held_out_accuracy(
    present: Tensor,
    absent: Tensor,
    halves: tuple[Tensor, Tensor],
    *,
    judged: tuple[Tensor, Tensor] | None = None,
    method: Method = "mean",
    hold: Sequence[Tensor] = (),
) -> tuple[float, float]:
    """The balanced share of codes on the right side of the middle, each judged by a direction learned on the other half, and its standard error.

    Args:
        present, absent: `(n, d)`, `(m, d)`, to learn from.
        halves: bool `(n,)` and `(m,)`: which half each is in.
        judged: codes of the same images to judge; by default those that are learned from.
    """
    seen = judged or (present, absent)
    right: tuple[list[Tensor], list[Tensor]] = ([], [])
    for half in (False, True):
        learn, judge = [halves[g] == half for g in (0, 1)], [halves[g] != half for g in (0, 1)]
        a, b = present[learn[0]].double(), absent[learn[1]].double()
        v = direction(a, b, method=method, hold=hold)
        middle = 0.5 * (a.mean(0) + b.mean(0)) @ v
        right[0].append(seen[0][judge[0]].double() @ v > middle)
        right[1].append(seen[1][judge[1]].double() @ v <= middle)
    shares = [torch.cat(side).double() for side in right]
    accuracy = 0.5 * float(shares[0].mean() + shares[1].mean())
    # Of a share p of n, smoothed (Agresti and Coull 1998), so that 5 of 5 right has an error too
    variance = [(s.sum() + 2) / (len(s) + 4) for s in shares]
    return accuracy, 0.5 * math.sqrt(sum(float(p * (1 - p)) / len(s) for p, s in zip(variance, shares, strict=True)))


def learn(
    model: ImageModel,
    name: str,
    present: Images | Tensor,
    absent: Images | Tensor,
    *,
    method: Method = "mean",
    hold: Sequence[Direction] = (),
    source: str = "",
    progress: Progress | None = None,
) -> Direction:
    """Learn a direction from images that have an attribute and images that do not, with held-out evidence.

    Where codes are found by inversion, it is learned from at most 100 of each, chosen at random but always the same.

    Args:
        name: letters, digits, - . _, at most 64.
        present, absent: a `Split`, or uint8 `(n, C, H, W)`; at least two different images each.
        method: the difference of mean codes, or the normal of a linear SVM boundary.
        hold: directions that the new one shall be orthogonal to.
        source: what the groups are, in words; kept.

    Raises:
        CapabilityError: the model has no codes of images, or does not decode them.
        InputError: a group is empty, or an image is in both; the codes do not differ; another space; a bad name.

    >>> from pofx.models.variational.vae import VAE
    >>> from pofx.space import ImageSpace
    >>> from pofx.testing import random_images
    >>> space = ImageSpace(1, 4, 4)
    >>> bright = random_images(20, space) // 2 + 128
    >>> found = learn(VAE.small(space), "bright", bright, random_images(20, space, seed=1) // 2)
    >>> found.n, len(found.vector)
    ((20, 20), 2)
    """
    require(model, Decoder, to="edit images")
    check_name(name)
    if method not in ("mean", "svm"):
        raise InputError(f"--method {method}: it can be mean, svm.")
    if name in [d.name for d in hold]:
        raise InputError(f"{name!r} cannot be held fixed while it is learned; leave it out of --hold.")
    check_directions(model, hold)
    groups = [as_images(present), as_images(absent)]
    for words, images in zip(("with", "without"), groups, strict=True):
        if not len(images):
            raise InputError(f"No images {words} {name!r} were found. Name some with --{words}, or labels that there are.")
    keys = [_keys(model, images) for images in groups]
    shared = int(torch.isin(keys[0], keys[1]).sum())
    if shared:
        raise InputError(
            f"{shared} image{'s are' if shared > 1 else ' is'} in both groups, with and without {name!r}. Each belongs to one."
        )
    if inverts(model):
        groups = [subset(images, INVERTED) for images in groups]
        keys = [_keys(model, images) for images in groups]
        source += f"{'; ' * bool(source)}codes by inversion (approximate)"
    halves = [_halves(k) for k in keys]
    for words, half in zip(("with", "without"), halves, strict=True):
        if half.all() or not half.any():
            raise InputError(
                f"One image {words} {name!r} is too few: half of each group is held out. Give at least two different ones, better fifty."
            )
    total = len(groups[0])
    done = _joined(progress, total, total + len(groups[1]))
    # A boundary between means would lean on dimensions that hardly vary and that the decoder ignores; in draws they are all noise
    drawn = method == "svm" and isinstance(model, LatentVariable)
    z = [codes(model, images, progress=p) for images, p in zip(groups, done, strict=True)]
    seen = (z[0], z[1])
    z = [codes(model, images, sample=True) for images in groups] if drawn else z
    vectors = [d.tensor for d in hold]
    accuracy, se = held_out_accuracy(z[0], z[1], (halves[0], halves[1]), judged=seen, method=method, hold=vectors)
    v = direction(z[0], z[1], method=method, hold=vectors)
    names = tuple(d.name for d in hold)
    return Direction(name, tuple(v.tolist()), method, names, (len(z[0]), len(z[1])), accuracy, se, fingerprint(model), source)


def _keys(model: ImageModel, images: Images) -> Tensor:
    """A key of each image by its pixels, int64 `(n,)`."""
    return per_image(model, lambda x, y: hash_images(model.space.check(x)), images)


def _halves(keys: Tensor) -> Tensor:
    """Which half each image is in, bool `(n,)`: every other one in the order of their keys, duplicates together."""
    return keys.unique(return_inverse=True)[1] % 2 == 1


def _joined(progress: Progress | None, first: int, total: int) -> tuple[Progress | None, Progress | None]:
    if progress is None:
        return None, None
    return lambda done, _: progress(done, total), lambda done, _: progress(first + done, total)


def groups_by_label(images: Images, labels: Sequence[int]) -> tuple[Images, Images]:
    """Those that have one of the labels, and the rest.

    Raises:
        InputError: the images have no labels.
    """
    found = [images.take(torch.arange(at, min(at + 1024, len(images))))[1] for at in range(0, len(images), 1024)]
    parts = [y for y in found if y is not None]
    if not parts:
        raise InputError("The images have no labels. Name two groups of images instead, with --with and --without.")
    has = torch.isin(torch.cat(parts), torch.tensor(list(labels)))
    return Subset(images, has.nonzero().flatten()), Subset(images, (~has).nonzero().flatten())


# Keeping ----------------------------------------------------------------------------------------------------------------


def check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} is no name for an attribute: letters, digits, - . _, at most 64, e.g. --learn thick")


def save(run: str | Path, found: Direction) -> Path:
    """Write `directions/NAME.json` into a run folder; one of that name is replaced."""
    check_name(found.name)
    path = check_out(Path(run) / FOLDER / f"{found.name}.json", (".json",))
    write_text(path, json.dumps(found.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def directions(run: str | Path) -> dict[str, Direction]:
    """The directions of a run folder by name.

    Raises:
        InputError: a file is damaged; the message names it.
    """
    return {path.stem: _read(path) for path in sorted((Path(run) / FOLDER).glob("*.json"))}


def _read(path: Path) -> Direction:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value.pop("format") != FORMAT:
            raise ValueError(f"format is not {FORMAT}")
        value |= {key: tuple(value[key]) for key in ("vector", "held", "n")}
        found = Direction(**value)
        if found.name != path.stem or not found.vector or not all(math.isfinite(v) for v in found.vector):
            raise ValueError("it is not the direction of that name, or has no finite vector")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}). Remove it, and learn the direction again.") from error
    return found


def pick(known: Mapping[str, Direction], name: str) -> Direction:
    """One of the directions by name; InputError names those that there are."""
    if name not in known:
        raise InputError(_unknown(name, list(known)))
    return known[name]


def _unknown(name: str, known: Sequence[str]) -> str:
    learn = f"earn it: pofx edit RUN --learn {name} --with A --without B"
    if not known:
        return f"There is no attribute {name!r}, nor any other yet. L{learn}"
    hint = nearest(name, known)
    names = "" if hint.startswith("Known") else f" Known: {', '.join(sorted(known))}."
    return f"There is no attribute {name!r}. {hint}{names} Or l{learn}"


def remove(run: str | Path, name: str) -> Path:
    """Delete a direction, damaged or not; InputError where there is none of that name."""
    folder = Path(run) / FOLDER
    path = folder / f"{name}.json"
    if not _NAME.fullmatch(name) or not path.is_file():
        raise InputError(_unknown(name, [p.stem for p in folder.glob("*.json")]))
    path.unlink()
    return path


def check_directions(model: ImageModel, found: Sequence[Direction]) -> None:
    """Raise InputError where a direction was learned with other weights: its numbers mean nothing to these."""
    own = fingerprint(model) if found else ""
    for d in found:
        if d.model != own:
            again = f"--discover {d.method}" if d.method in ("sefa", "pca") else f"--learn {d.name} --with A --without B"
            raise InputError(
                f"{d.name!r} was found with other weights (the run was trained on since, or it is another one). "
                f"Find it again: pofx edit RUN {again}"
            )


# Editing ----------------------------------------------------------------------------------------------------------------


def edit(
    model: ImageModel,
    images: Images | Tensor | None,
    add: Mapping[str, float],
    known: Mapping[str, Direction],
    *,
    samples: Sequence[int] | None = None,
    given: Any = None,
    n: int = PICTURE,
    seed: int = 0,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Edited:
    """Add attributes to images, or to samples of the model: z′ = z + Σ s·v, decoded.

    Args:
        images: a `Split`, or uint8 `(n, C, H, W)`; None for samples.
        add: strength by name; 1 is the distance between images without and with the attribute, negative takes it away; several add up.
        known: the directions there are, `directions(run)`.
        samples: numbers of samples of `seed`, in the place of images: their codes are known exactly.
        given: of a conditional model, the view's value that samples are decoded with: one, or one for each.
        seed: of the samples, or of the starts of an inversion.
        n: how many of the first images a `.png` shows.
        out: `.png` original, reconstruction and edit side by side (of samples, what they decode to and the edit); `.npz` uint8 `x`, float32
            `edited`, `z`; a folder: the edited images alone, one PNG each.

    Raises:
        CapabilityError: the model has no codes, or does not decode; samples of a model without prior.
        InputError: not either images or samples, an unknown name, nothing to add, a strength that is not finite or above 100, images of
            another space, another ending.
    """
    decoder = require(model, Decoder, to="edit images")
    if (images is None) == (samples is None):
        raise InputError("Either images are edited or samples of the model: name images, e.g. digits:test, or numbers, e.g. --samples 0-7")
    if not add:
        raise InputError(f"Say what to add, e.g. --add {next(iter(known), 'thick')}=1.5")
    chosen = [pick(known, name) for name in add]
    for name, strength in add.items():
        if not abs(strength) <= _STRENGTH:
            raise InputError(f"--add {name}={strength:g}: a strength is at most {_STRENGTH:g} either way, e.g. --add {name}=1.5")
    check_directions(model, chosen)
    path = None if out is None else check_out(out, SUFFIXES, folder=True)
    if n < 1:
        raise InputError(f"n={n}: show at least one image, e.g. -n 16.")
    if path is not None and path.suffix == "":
        _check_folder(path, model.space.channels)
    picture, found = path is not None and path.suffix.lower() == ".png", None
    if images is None:
        assert samples is not None
        numbers = list(samples)
        values = repeated(model.check_given(given, len(numbers)), len(numbers))
        if picture and len(numbers) > n:
            numbers, values = numbers[:n], None if values is None else values[:n]
        z = draws(decoder, numbers, seed)
        shown, ids = None, [f"sample {number} of seed {seed}" for number in numbers]
    else:
        images = as_images(images)
        images = Subset(images, torch.arange(n)) if picture and len(images) > n else images
        found = encode(model, images, seed=seed, progress=progress)
        z, (x, y) = found.z, everything(images)
        values, shown, ids = model.batch(x, y).given, TensorImages(x, y), list(images.ids)
    step = sum((strength * d.tensor for d, strength in zip(chosen, add.values(), strict=True)), torch.zeros(z.shape[1], dtype=torch.double))
    moved = (z.double() + step).to(z.dtype)
    after, before = means(decoder, moved, values), means(decoder, z, values)
    result = Edited(after, before, moved, dict(add), decodes_to(model), path, None if found is None else found.inversion)
    if path is not None:
        _write(path, result, None if shown is None else shown.x, ids, model.space.levels)
    return result


def _check_folder(folder: Path, channels: int) -> None:
    if channels not in (1, 3, 4):
        raise InputError(f"Images of {channels} channels cannot be PNG files; write them to {folder}.npz")
    old = sorted(p.name for p in folder.glob("*.png"))
    if old:
        raise InputError(f"{folder} holds images already ({old[0]}). Give another folder, e.g. -o {folder}-2")


def _write(path: Path, found: Edited, x: Tensor | None, ids: Sequence[str], levels: int) -> None:
    """`x` are the images as they were, uint8, or None of samples."""
    if path.suffix == "":
        from PIL import Image

        for i, image in enumerate(pictures.shades(found.x, levels - 1).transpose(0, 2, 3, 1)):
            with writing(path / f"{i:08d}.png") as temporary:
                plain: NDArray[np.uint8] = image[..., 0] if image.shape[-1] == 1 else np.ascontiguousarray(image)
                Image.fromarray(plain).save(temporary, format="PNG")
        return
    with writing(path) as temporary:
        if path.suffix.lower() == ".npz":
            with temporary.open("wb") as file:
                before = found.reconstruction.round().to(torch.uint8) if x is None else x
                arrays = {"x": before.numpy(), "edited": found.x.float().numpy(), "z": found.z.numpy(), "id": np.array(ids)}
                np.savez_compressed(file, allow_pickle=False, **arrays)
            return
        parts = [pictures.rgb(pictures.shades(part, levels - 1), 256) for part in (found.reconstruction, found.x)]
        parts, heads = (
            (parts, ("sample", "edited")) if x is None else ([pictures.rgb(x, levels), *parts], ("original", "decoded", "edited"))
        )
        sheets, k = np.stack(parts, 1).reshape(-1, *parts[0].shape[1:]), len(parts)
        series = found.x.shape[2] == 1
        across = 1 if series else max(1, min(len(found.x), round(math.sqrt(len(found.x) / k)), 1024 // (k * max(64, found.x.shape[3]))))
        amounts = ", ".join(f"{name} {strength:+g}" for name, strength in found.amounts.items())
        captions = [f"edited: {amounts}", f"decoded and edited: {found.shows}"]
        if found.inversion is not None:
            captions.append("codes by inversion (approximate)")
        picture = pictures.sheet(sheets, k * across, heads=heads, captions=captions, group=k)
        picture.save(temporary, format="PNG")
