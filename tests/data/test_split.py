"""Splits by pixel hash: whole groups, no leaks, nothing empty that need not be, the same whatever the order of files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pofx.data import load_data, order
from pofx.data.split import pixel_keys, split

PARTS = ("train", "valid", "calib", "test")
keys_lists = st.lists(st.integers(0, 30), min_size=1, max_size=60)


def members(keys: dict[str, np.ndarray], seed: int = 0) -> dict[str, list[int]]:
    return {part: keys[origin][rows].tolist() for part, (origin, rows) in split(keys, seed).items()}


@given(keys_lists, st.integers(0, 5))
def test_one_part_is_partitioned_with_duplicates_together(values: list[int], seed: int) -> None:
    keys = np.array(values, np.uint64)
    found = split({"all": keys}, seed)
    rows = np.concatenate([found[part][1] for part in PARTS])
    assert sorted(rows.tolist()) == list(range(len(keys)))
    sets = [set(keys[found[part][1]].tolist()) for part in PARTS]
    assert sum(map(len, sets)) == len(set(values))
    assert len(found["train"][1]) > 0


@given(keys_lists, keys_lists, st.integers(0, 5))
def test_published_test_stays_and_its_duplicates_do_not_leak(train: list[int], test: list[int], seed: int) -> None:
    found = members({"train": np.array(train, np.uint64), "test": np.array(test, np.uint64)}, seed)
    assert found["test"] == test
    assert not set(found["valid"] + found["calib"]) & set(test)
    assert not set(found["valid"]) & set(found["train"])
    assert sorted(found["train"] + found["valid"] + found["calib"]) == sorted(train)


@given(st.permutations(list(range(40))))
def test_the_order_of_files_does_not_matter(values: list[int]) -> None:
    first = members({"all": np.arange(40, dtype=np.uint64)})
    again = members({"all": np.array(values, np.uint64)})
    assert all(sorted(first[part]) == sorted(again[part]) for part in PARTS)


@pytest.mark.parametrize(
    ("n", "counts"),
    [
        (1, [1, 0, 0, 0]),
        (2, [1, 0, 0, 1]),
        (3, [1, 1, 0, 1]),
        (4, [1, 1, 1, 1]),
        (10, [6, 1, 1, 2]),
        (20, [14, 1, 1, 4]),
        (1000, [720, 40, 40, 200]),
    ],
)
def test_tiny_sets_load_and_fill_parts_in_a_fixed_order(n: int, counts: list[int]) -> None:
    found = split({"all": pixel_keys(np.arange(n, dtype=np.uint32).view(np.uint8).reshape(n, 4))}, 0)
    assert [len(found[part][1]) for part in PARTS] == counts


def test_equal_images_are_all_train() -> None:
    data = load_data(torch.zeros(30, 1, 4, 4, dtype=torch.uint8))
    assert [len(s) for s in data.parts.values()] == [30, 0, 0, 0]
    assert data.test.x.shape == (0, 1, 4, 4)
    assert list(data.valid.batches(4)) == []


def test_a_published_valid_part_is_halved() -> None:
    keys = {
        "train": np.arange(100, dtype=np.uint64),
        "valid": np.arange(200, 240, dtype=np.uint64),
        "test": np.arange(300, 310, dtype=np.uint64),
    }
    found = members(keys)
    assert len(found["train"]) == 100
    assert len(found["valid"]) == len(found["calib"]) == 20
    assert sorted(found["valid"] + found["calib"]) == list(range(200, 240))


def test_another_seed_is_another_split_of_the_same_images() -> None:
    a, b = load_data("digits"), load_data("digits", split_seed=1)
    assert set(a.test.ids) != set(b.test.ids)
    assert a.fingerprint != b.fingerprint
    assert sum(len(s) for s in a.parts.values()) == sum(len(s) for s in b.parts.values()) == 1797


def test_keys_are_the_same_for_ever() -> None:
    assert pixel_keys(np.arange(12, dtype=np.uint8).reshape(2, 6)).tolist() == [14268960605099707526, 8424867380676103676]


@given(st.integers(0, 300), st.integers(-5, 2**40), st.integers(0, 1000))
def test_order_is_a_permutation(n: int, seed: int, epoch: int) -> None:
    rows = order(n, seed=seed, epoch=epoch)
    assert rows.dtype == torch.int64
    assert sorted(rows.tolist()) == list(range(n))


def test_order_depends_on_seed_and_epoch() -> None:
    rows = {tuple(order(50, seed=s, epoch=e).tolist()) for s in range(3) for e in range(3)}
    assert len(rows) == 9
    assert order(50, seed=1, epoch=2).tolist() == order(50, seed=1, epoch=2).tolist()
