"""What a set is, before anything is learned from it: shape, counts, labels, duplicates, and a look at some images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pofx import pictures
from pofx.data.load import Data
from pofx.data.part import Split


@dataclass(frozen=True)
class DataSummary:
    """What `pofx data DATA` shows.

    Attributes:
        shape: `(C, H, W)`; levels: values a sub-pixel can take.
        counts: images by part.
        labels: class → images by part; None without labels.
        duplicates: images whose pixels occur earlier in the set (so n − duplicates are different).
        overlap: images of test whose pixels are in train, valid or calib too.
        skipped: files that could not be read, "path: reason".
        alphabet: of a text, the character of each level; else None.
    """

    heading: str
    shape: tuple[int, int, int]
    levels: int
    counts: dict[str, int]
    labels: dict[str, dict[str, int]] | None
    duplicates: int
    overlap: int
    transforms: tuple[str, ...]
    skipped: tuple[str, ...]
    in_memory: bool
    fingerprint: str
    alphabet: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def describe(data: Data) -> DataSummary:
    """Count what is in a set.

    >>> from pofx.data import load_data
    >>> found = describe(load_data("digits"))
    >>> found.counts["test"], found.labels["0"]["test"] > 20, found.overlap
    (359, True, 0)
    """
    keys = np.concatenate([s.keys for s in data.parts.values()])
    seen = np.concatenate([data.train.keys, data.valid.keys, data.calib.keys])
    labels = None
    if any(s.y is not None for s in data.parts.values()):
        names = data.class_names or tuple(str(i) for i in range(data.classes))
        counts = {
            part: [0] * len(names) if s.y is None else torch.bincount(s.y, minlength=len(names)).tolist() for part, s in data.parts.items()
        }
        labels = {name: {part: counts[part][i] for part in data.parts} for i, name in enumerate(names)}
    return DataSummary(
        heading=data.heading,
        shape=data.space.shape,
        levels=data.space.levels,
        counts={part: len(s) for part, s in data.parts.items()},
        labels=labels,
        duplicates=len(keys) - len(np.unique(keys)),
        overlap=int(np.isin(data.test.keys, seen).sum()),
        transforms=data.transforms,
        skipped=data.skipped,
        in_memory=all(s.in_memory for s in data.parts.values()),
        fingerprint=data.fingerprint,
        alphabet=data.alphabet,
    )


def contact_sheet(
    x: Data | Split | Tensor,
    path: str | Path | None = None,
    columns: int | None = None,
    scale: int | None = None,
    *,
    count: int = 100,
    levels: int | None = None,
) -> Image.Image:
    """A picture of `count` images, evenly spaced over a part (of a `Data`: train) or a tensor; written to `path` if given.

    Args:
        levels: of a tensor or part; a `Data` knows its own. Default 256.
    """
    part = x.train if isinstance(x, Data) else x
    levels = levels or (x.space.levels if isinstance(x, Data) else 256)
    rows = torch.linspace(0, len(part) - 1, min(count, len(part))).round().long()
    images = part[rows] if isinstance(part, Tensor) else part.take(rows)[0]
    sheet = pictures.grid(images, levels, columns, scale)
    if path is not None:
        pictures.save(sheet, path)
    return sheet
