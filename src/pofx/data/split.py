"""Who goes where: train, valid, calib, test, decided by the pixels themselves.

Images are grouped by a hash of their pixels, and groups are ordered by a second hash (of the first and the split seed). Parts
are filled from that order with whole groups, so

- duplicates are always in the same part,
- the order of files, their names and the machine do not matter,
- an image of train that is also in a published test part is never moved to valid or calib, where it would leak test.

A part gets its share rounded, and at least one image as long as another group is left for train: four different images fill four
parts; of three, calib stays empty; of two, valid too; one image (or many copies of it) is train. A group larger than a part's share stays in train
unless nothing smaller exists.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

TEST, VALID, CALIB = 0.20, 0.05, 0.05
"""Shares: test of everything where no test part is published; valid and calib of train."""

Keys = NDArray[np.uint64]
Rows = NDArray[np.int64]


def pixel_keys(x: NDArray[np.uint8]) -> Keys:
    """A 64-bit key per image from its pixels alone: uint8 `(n, …)` → uint64 `(n,)`, equal on every machine.

    >>> pixel_keys(np.zeros((2, 3), np.uint8)).tolist() == [pixel_keys(np.zeros((1, 3), np.uint8)).item()] * 2
    True
    """
    if not len(x):
        return np.empty(0, np.uint64)
    rows = np.ascontiguousarray(x).reshape(len(x), -1)
    return np.frombuffer(b"".join(blake2b(row.data, digest_size=8).digest() for row in rows), dtype=">u8").astype(np.uint64)


def _mix(keys: Keys, seed: int) -> Keys:
    """SplitMix64 (Steele, Lea & Flood 2014) of key + seed·φ: a different order for each seed."""
    with np.errstate(over="ignore"):
        z = keys + np.uint64(0x9E3779B97F4A7C15) * np.uint64((seed + 1) & 0xFFFFFFFFFFFFFFFF)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def choose(keys: Keys, count: int, *, seed: int, barred: Keys | None = None) -> NDArray[np.bool_]:
    """Choose about `count` images in whole groups of equal keys, none of them `barred`; never the last group. bool `(n,)`."""
    groups, inverse, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    chosen = np.zeros(len(groups), bool)
    candidates = np.argsort(_mix(groups, seed), kind="stable")
    if barred is not None:
        candidates = candidates[~np.isin(groups[candidates], barred)]
    if count < 1 or len(groups) < 2 or not len(candidates):
        return np.zeros(len(keys), bool)
    total = 0
    for group in candidates:
        if total + sizes[group] <= count:
            chosen[group] = True
            total += int(sizes[group])
            if total == count:
                break
    if not total:
        chosen[candidates[np.argmin(sizes[candidates])]] = True
    return chosen[inverse]


def share(fraction: float, n: int) -> int:
    """`fraction` of n images, rounded, at least 1."""
    return max(1, round(fraction * n))


def split(parts: dict[str, Keys], seed: int) -> dict[str, tuple[str, Rows]]:
    """Make four parts of what is published.

    Args:
        parts: keys of the published parts: {"all"} or {"train"[, "valid"][, "test"]}.

    Returns:
        for train, valid, calib and test: a published part and which of its rows, ascending.
    """
    source = "train" if "train" in parts else "all"
    keys = parts[source]
    rest = np.arange(len(keys))
    out: dict[str, tuple[str, Rows]] = {}
    if "test" in parts:
        out["test"] = "test", np.arange(len(parts["test"]))
        barred = parts["test"]
    else:
        test = choose(keys, share(TEST, len(keys)), seed=seed)
        out["test"] = source, rest[test]
        rest, barred = rest[~test], None
    if "valid" in parts:
        valid = choose(parts["valid"], len(parts["valid"]) // 2, seed=seed)
        out["valid"], out["calib"] = ("valid", np.flatnonzero(valid)), ("valid", np.flatnonzero(~valid))
        if not valid.any():  # one image, or copies of one: selection needs it more than alarms do
            out["valid"], out["calib"] = out["calib"], out["valid"]
    else:
        n = len(rest)
        for name, fraction in (("valid", VALID), ("calib", CALIB)):
            chosen = choose(keys[rest], share(fraction, n), seed=seed, barred=barred)
            out[name] = source, rest[chosen]
            rest = rest[~chosen]
    out["train"] = source, rest
    return out
