"""Small sets on disk, made by the tests themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POFX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("POFX_MEMORY_LIMIT", raising=False)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Callable[..., Path]:
    """folder(n, shape=(6, 5), classes=()) → a folder of n random PNGs."""

    def make(n: int = 30, shape: tuple[int, ...] = (6, 5), classes: tuple[str, ...] = (), name: str = "pictures") -> Path:
        root = tmp_path / name
        root.mkdir(parents=True, exist_ok=True)
        for i in range(n):
            into = root / classes[i % len(classes)] if classes else root
            into.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(into / f"{i:04d}.png")
        return root

    return make
