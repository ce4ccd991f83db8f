"""Features to measure samples in, by name: those of a run, of a published network, or of one small run per data fingerprint, trained once and cached.

    auto                 the small run (`features_run`)
    RUN                  a run folder or a Hub id whose model has features
    inception, dinov2    published networks, where their weights are (`workflows/_pretrained.py`)

Of the small run: where the data has labels, a small classifier learns p(y | x). Where it has none, the same network learns how an image was turned
(Gidaris et al. 2018, "Unsupervised Representation Learning by Predicting Image Rotations"): by 0°, 90°, 180° or 270°; images that are
not square are left, mirrored, put upside down, or turned by 180°.

A Fréchet distance only compares with another in the *same* features, so the name and the hash of the weights belong to every number.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pofx.catalog import name_of
from pofx.data.cache import cache_root
from pofx.errors import InputError
from pofx.model import Features, require

if TYPE_CHECKING:
    from pofx.data import Data
    from pofx.space import ImageSpace

PRETRAINED = {"inception": "Inception v3 of the usual FID", "dinov2": "DINOv2"}
STEPS = 600
BATCH_SIZE = 128
ARGUMENTS: dict[str, Any] = {"channels": 16, "stages": 2}


@dataclass(frozen=True)
class FeaturesRun:
    """A run, or a published network, whose features samples are measured in.

    Attributes:
        path: the run's folder, or the network's file.
        name: for people, "classifier of digits (1a2b3c4d5e6f)"; hash: of its weights.
        fresh: it was trained just now.
        resizing: how it resizes images; "none" for a run, which takes images of its own space.
    """

    path: Path
    name: str
    hash: str
    model: Features
    fresh: bool
    resizing: str = "none"

    @property
    def arguments(self) -> dict[str, Any]:
        """What `evaluate` and `compare` take of it."""
        published = self.resizing != "none"
        return {"features": self.model, "features_name": self.name, "resizing": self.resizing, "published": published}


def named_features(
    name: str, data: Callable[[], Data], space: ImageSpace, *, device: str = "cpu", say: Callable[[str], None] | None = None
) -> FeaturesRun:
    """Features by name: "auto", "inception", "dinov2", a run folder or a Hub id.

    Args:
        data: called for "auto": the data that a small run is trained on.
        space: of the images that will be measured.
        say: called with a line about what is learned or fetched, and with the name and hash.

    Raises:
        InputError: no such run; weights that are not there; a run of another space.
        CapabilityError: the run's model has no features.
    """
    from pofx.training import load_model, read_run
    from pofx.training.runs import resolve_device
    from pofx.workflows import _pretrained

    if name == "auto":
        return features_run(data(), say=say)
    if name in PRETRAINED:
        net, path = _pretrained.inception(space) if name == "inception" else _pretrained.dinov2(space, say)
        digest = file_hash(path)
        return FeaturesRun(path, f"{PRETRAINED[name]} ({digest})", digest, net.to(resolve_device(device)), False, net.resizing)
    try:
        path = read_run(name).path
    except InputError as error:
        raise InputError(f"{error}\nOther --features: auto, {', '.join(PRETRAINED)}.") from error
    model = require(load_model(name, device=device), Features, to="give features")
    if model.space != space:
        raise InputError(
            f"--features {name} is a model of {model.space}; the samples are {space}. Use --features auto, or a run of the same DATA."
        )
    digest = file_hash(path / "model.safetensors")
    return FeaturesRun(path, f"{name_of(model)} {name} ({digest})", digest, model, False)


def cache_folder(cache: str | Path | None = None) -> Path:
    """Where features runs are kept: `cache`, else $POFX_CACHE/features, else ~/.cache/pofx/features."""
    return cache_root() / "features" if cache is None else Path(cache)


def turned(x: Tensor, how: Tensor) -> Tensor:
    """Turn each image of `(n, C, H, W)` as `how`, int64 `(n,)` in 0 … 3, says.

    >>> turned(torch.tensor([[[[1, 2]]]]), torch.tensor([1])).tolist()
    [[[[2, 1]]]]
    """
    if x.shape[2] == x.shape[3]:
        ways = [x.rot90(k, (2, 3)) for k in range(4)]
    else:
        ways = [x, x.flip(3), x.flip(2), x.flip(2, 3)]
    return torch.stack(ways, 1)[torch.arange(len(x)), how]


@dataclass(frozen=True)
class Turned:
    """Each image of a split in four positions, with the position as its label; made as it is read. Used in the place of a `Split`."""

    split: Any
    drawn: None = None

    def __len__(self) -> int:
        return 4 * len(self.split)

    @property
    def in_memory(self) -> bool:
        return self.split.in_memory

    @property
    def ids(self) -> Sequence[str]:
        return [f"{name}#{k}" for name in self.split.ids for k in range(4)]

    @property
    def x(self) -> Tensor:
        return self.take(torch.arange(len(self)))[0]

    @property
    def y(self) -> Tensor:
        return torch.arange(len(self)) % 4

    def take(self, index: Tensor, /) -> tuple[Tensor, Tensor | None]:
        x, _ = self.split.take(index // 4)
        return turned(x, index % 4), index % 4

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        for start in range(0, len(self), size):
            yield self.take(torch.arange(start, min(start + size, len(self))))


def file_hash(path: Path) -> str:
    """The first 12 hexadecimal digits of the BLAKE2 hash of a file."""
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:12]


def recipe(described: Mapping[str, Any]) -> str:
    """6 hexadecimal digits of how features are learned: the model, all its arguments, the budget, the format. Another recipe, another run.

    >>> recipe({"arguments": {"channels": 16}}) == recipe({"arguments": {"channels": 8}})
    False
    """
    from pofx.training.runs import FORMAT

    text = json.dumps([FORMAT, STEPS, BATCH_SIZE, described], sort_keys=True, default=str)
    return blake2b(text.encode(), digest_size=3).hexdigest()


@contextmanager
def alone(path: Path, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the features run `path`; where another process does, wait for it. The kernel frees the lock when its holder dies.

    Raises:
        InputError: the cache cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = (path.parent / f"{path.name}.lock").open("w")
    except OSError as error:
        raise InputError(f"Features are kept in {path.parent}, which cannot be written: {error.strerror}. Set POFX_CACHE=FOLDER.") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if say is not None:
                say(f"another process is learning these features; waiting for it ({path})")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def features_run(
    data: Data, *, cache: str | Path | None = None, quiet: bool = True, say: Callable[[str], None] | None = None
) -> FeaturesRun:
    """The features run of this data: from the cache, or trained now (about a minute). Two processes that want the same train it once.

    Args:
        cache: folder to keep it in; see `cache_folder`.
        say: called with a line before training starts or another process is waited for, and with the run's name and hash.

    Raises:
        InputError: the cache cannot be written.
    """
    from pofx import catalog
    from pofx.training import train
    from pofx.training.runs import describe

    classes = data.classes
    y = data.train.y
    labelled = y is not None and y.ndim == 1 and len(y.unique()) > 1 and int(y.min()) >= 0
    kind = f"labels{classes}" if labelled else "turns4"
    source = data
    if not labelled:
        parts: dict[str, Any] = {name: Turned(getattr(data, name)) for name in ("train", "valid", "calib", "test")}
        source = replace(data, class_names=None, **parts)
        classes = 4
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = catalog.get("classifier")(data.space, classes=classes, **ARGUMENTS)  # type: ignore[call-arg]
    path = cache_folder(cache) / f"{data.fingerprint[:16]}-{kind}-{recipe(describe(model))}"
    with alone(path, say):
        fresh = not (path / "model.safetensors").exists()
        what = "a small classifier" if labelled else "to tell how an image was turned (no labels here)"
        if fresh and say is not None:
            say(f"learning features for {data.heading}: {what}, once; kept in {path}")
        run = train(model, source, out=path, steps=STEPS, batch_size=BATCH_SIZE, seed=0, quiet=quiet)
    digest = file_hash(path / "model.safetensors")
    name = f"{'classifier' if labelled else 'turn classifier'} of {data.heading} ({digest})"
    if say is not None:
        say(f"features: {name}")
    return FeaturesRun(path, name, digest, require(run.model, Features, to="give features"), fresh)
