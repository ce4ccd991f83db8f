"""A set that is read slice by slice is the set that is read at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pofx.data import Split, Unread, load_images, open_images
from pofx.data.part import CHUNK
from pofx.errors import InputError, RunError

N = CHUNK + 40


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey, coloured and transparent files of two sizes, in two subfolders."""
    root = tmp_path_factory.mktemp("mixed")
    x = np.random.default_rng(0).integers(0, 256, (16, 6, 5, 4), dtype=np.uint8)
    for label in ("a", "b"):
        (root / label).mkdir()
    for k in range(N):
        one = x[k % 16, ..., : (1, 3, 4)[k % 3]]
        one = one[:4] if k % 5 == 0 else one
        Image.fromarray(one[..., 0] if k % 3 == 0 else one).save(root / "ab"[k % 2] / f"{k:05d}.png", compress_level=0)
    return root


@pytest.mark.parametrize(
    ("transform", "flags"),
    [
        ("", {"size": "6x5"}),
        ("", {"size": "3x4", "gray": True, "levels": 7}),
        (":threshold", {"size": "6x5"}),
        (":dynamic", {"size": "6x5"}),
    ],
)
def test_slices_are_the_set(mixed: Path, transform: str, flags: dict[str, Any]) -> None:
    """Pixels, names, labels, keys and heading, however it is cut."""
    whole, space = load_images(f"{mixed}{transform}", **flags)
    unread, same = open_images(f"{mixed}{transform}", **flags)
    assert isinstance(unread, Unread) and same == space and len(unread) == N and unread.heading == whole.heading
    cut = [unread.slice(start, start + 400)[0] for start in range(0, N, 400)]
    index = torch.arange(400)
    assert torch.equal(torch.cat([part.take(index[: len(part)])[0] for part in cut]), whole.take(torch.arange(N))[0])
    assert [name for part in cut for name in part.ids] == list(whole.ids)
    assert whole.y is not None and torch.equal(torch.cat([part.y for part in cut if part.y is not None]), whole.y)
    assert (np.concatenate([part.keys for part in cut]) == whole.keys).all()
    some = torch.tensor([N - 1, 0, 7])
    assert torch.equal(unread.take(some)[0], whole.take(some)[0])


def test_a_conversion_that_comes_late_is_named(tmp_path: Path) -> None:
    """And one that was not asked for is a reason to leave the image out."""
    for k in range(N):
        Image.fromarray(np.full((4, 4), k % 256, np.uint8)).save(tmp_path / f"{k:05d}.png")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / f"{N - 1:05d}.png")
    Image.fromarray(np.zeros((4, 4, 2), np.uint8), "LA").save(tmp_path / f"{N - 2:05d}.png")
    plain, gray = (open_images(str(tmp_path), gray=gray)[0] for gray in (False, True))
    assert isinstance(plain, Unread) and isinstance(gray, Unread)
    split, rows = plain.slice(N - 3, N)
    assert rows.tolist() == [N - 3, N - 2] and "it has colours, the others are grey; --gray" in split.skipped[0]
    assert split.heading == f"{tmp_path.name} [alpha over white]" and plain.heading == tmp_path.name
    assert gray.slice(N - 1, N)[0].heading == f"{tmp_path.name} [gray]"
    with pytest.raises(RunError, match="it has colours"):
        plain.take(torch.tensor([N - 1]))
    before = plain.fingerprint
    (tmp_path / "00000.png").write_bytes((tmp_path / "00001.png").read_bytes())
    again, _ = open_images(str(tmp_path))
    assert isinstance(again, Unread) and again.fingerprint != before


def test_what_has_to_be_read_first_is(mixed: Path, folder: Callable[..., Path]) -> None:
    """Few files, a part, chosen labels, --strict: as `load_images`, whose errors are told before anything is begun."""
    cases: tuple[tuple[Any, dict[str, Any]], ...] = (
        (folder(12), {}),
        (f"{mixed}:valid", {"size": "6x5"}),
        (mixed, {"size": "6x5", "keep_labels": ("a",)}),
    )
    for spec, flags in cases:
        found, _ = open_images(str(spec), **flags)
        assert isinstance(found, Split) and list(found.ids) == list(load_images(str(spec), **flags)[0].ids)
    with pytest.raises(InputError, match="images of 2 sizes"):
        open_images(str(mixed))
