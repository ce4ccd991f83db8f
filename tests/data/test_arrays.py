"""Arrays, tensors, .npz, .npy and IDX: what is accepted, what is refused and with which words."""

from __future__ import annotations

import gzip
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pofx.data import load_data, load_images
from pofx.data.arrays import as_images
from pofx.errors import InputError


def random(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 256, shape, np.uint8)


def test_tensor_array_and_pair(rng: np.random.Generator) -> None:
    x, y = random(rng, 40, 1, 5, 4), np.arange(40) % 3
    a, b, c = load_data(x), load_data(torch.from_numpy(x)), load_data((x, y))
    assert a.fingerprint == b.fingerprint != c.fingerprint
    assert a.train.y is None
    assert str(a.space) == "1×5×4, 256 levels"
    assert c.train.y is not None
    for s in c.parts.values():
        rows = [int(name.split("/")[1]) for name in s.ids]
        assert torch.equal(s.x, torch.from_numpy(x)[rows])
        assert s.y is not None
        assert s.y.tolist() == y[rows].tolist()


@given(st.integers(1, 4), st.integers(5, 9), st.integers(5, 9))
def test_nhwc_is_accepted_where_it_is_unambiguous(c: int, h: int, w: int) -> None:
    x = np.arange(2 * h * w * c, dtype=np.uint8).reshape(2, h, w, c)
    assert (as_images(x, "x") == x.transpose(0, 3, 1, 2)).all()
    assert as_images(x.transpose(0, 3, 1, 2), "x").shape == (2, c, h, w)


def test_where_both_axes_fit_it_is_nchw() -> None:
    assert as_images(np.zeros((7, 1, 3, 3), np.uint8), "x").shape == (7, 1, 3, 3)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros((9, 1, 4, 4)), "float64.*astype"),
        (torch.zeros(9, 1, 4, 4), "float32.*astype"),
        (np.full((9, 1, 4, 4), 300, np.int32), "300.*0 … 255"),
        (np.full((9, 1, 4, 4), -1, np.int8), "-1"),
        (np.zeros((9, 16), np.uint8), r"\(9, 16\).*reshape"),
        (np.zeros((9, 8, 8, 8), np.uint8), "N, C, H, W.*N, H, W, C"),
        (np.zeros((9, 1, 0, 4), np.uint8), "without pixels"),
        (np.zeros((0, 1, 4, 4), np.uint8), "no images"),
        ([[1, 2]], "list"),
        (None, "array in memory"),
    ],
)
def test_refused(x: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_data(x)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("y", "words"), [(np.zeros(3), "shape"), (np.zeros((9, 2)), "shape"), (np.full(9, 0.5), "whole"), (np.zeros(9, complex), "complex")]
)
def test_labels_refused(y: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_data((np.zeros((9, 1, 4, 4), np.uint8), y))


def test_label_names_and_negative_labels_are_numbered(rng: np.random.Generator) -> None:
    x = random(rng, 30, 1, 4, 4)
    named = load_data((x, np.array(["cat", "ant", "bee"] * 10)))
    assert named.class_names == ("ant", "bee", "cat")
    assert named.classes == 3
    minus = load_data((x, np.array([-1, 1] * 15)))
    assert minus.class_names == ("-1", "1")
    assert minus.train.y is not None
    assert set(minus.train.y.tolist()) == {0, 1}


def test_levels_of_arrays(rng: np.random.Generator) -> None:
    bits = random(rng, 30, 1, 4, 4) & 1
    assert load_data(bits).space.levels == load_data(bits.astype(bool)).space.levels == 2
    few = random(rng, 30, 1, 4, 4) & 3
    assert load_data(few).space.levels == 256
    declared = load_data(few, levels=4)
    assert declared.space.levels == 4
    assert declared.transforms == ()
    assert torch.equal(load_data(few).train.x, declared.train.x)
    many = load_data(random(rng, 30, 1, 4, 4), levels=4)
    assert many.transforms == ("levels 4",)
    assert int(many.train.x.max()) == 3
    with pytest.raises(InputError, match="cannot add"):
        load_data("digits", levels=256)
    for bad in (1, 257, "8", True):
        with pytest.raises(InputError, match="--levels"):
            load_data("digits", levels=bad)  # pyright: ignore[reportArgumentType]


def test_npz(tmp_path: Path, rng: np.random.Generator) -> None:
    x, y = random(rng, 50, 6, 6), np.arange(50) % 2
    path = tmp_path / "set.npz"
    np.savez_compressed(path, x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:], class_names=np.array(["no", "yes"]))
    data = load_data(path)
    assert [len(s) for s in data.parts.values()] == [36, 2, 2, 10]
    assert data.class_names == ("no", "yes")
    assert torch.equal(data.test.x[:, 0], torch.from_numpy(x[40:]))
    assert data.test.ids[0] == "set.npz/test/0"
    whole, _ = load_images(path)
    assert torch.equal(whole.x[:, 0], torch.from_numpy(x))
    part, _ = load_images(f"{path}:valid")
    assert torch.equal(part.x, data.valid.x)
    assert list(part.ids) == list(data.valid.ids)
    assert load_data(**data.to_json()["spec"]).fingerprint == data.fingerprint


def test_npz_with_one_array_and_with_other_keys(tmp_path: Path, rng: np.random.Generator) -> None:
    np.savez(tmp_path / "a.npz", random(rng, 30, 6, 6))
    assert load_data(tmp_path / "a.npz").space.shape == (1, 6, 6)
    np.savez(
        tmp_path / "b.npz", train_images=random(rng, 30, 6, 6, 3), train_labels=np.zeros((30, 1), int), test_images=random(rng, 9, 6, 6, 3)
    )
    data = load_data(tmp_path / "b.npz")
    assert data.space.shape == (3, 6, 6)
    assert len(data.test) == 9
    assert data.test.y is None
    np.savez(tmp_path / "c.npz", weights=np.zeros(3))
    with pytest.raises(InputError, match="'weights'.*'x_train'"):
        load_data(tmp_path / "c.npz")


class _Bomb:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_pickled_objects_are_refused_and_never_opened(tmp_path: Path, suffix: str) -> None:
    path, trace = tmp_path / f"evil{suffix}", tmp_path / "was-run"
    array = np.array([_Bomb(trace)], dtype=object)
    np.savez(path, x=array) if suffix == ".npz" else np.save(path, array, allow_pickle=True)
    with pytest.raises(InputError, match="pickled.*never opened"):
        load_data(path)
    assert not trace.exists()


def test_npz_that_is_a_bare_pickle_is_refused(tmp_path: Path) -> None:
    import pickle

    (tmp_path / "x.npz").write_bytes(pickle.dumps(_Bomb(tmp_path / "was-run")))
    with pytest.raises(InputError, match="cannot be read"):
        load_data(tmp_path / "x.npz")
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.gz", "a-ubyte", "a.parquet"])
@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01", b"PK\x03\x04 and so on", b"\x1f\x8b\x08 cut", b"\0\0\x08\x03\0\0", b"PAR1"])
def test_rubbish_is_one_clear_error(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        load_data(tmp_path / name)


def test_truncated_npz(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=random(rng, 100, 8, 8))
    whole = path.read_bytes()
    for cut in (10, len(whole) // 2, len(whole) - 4):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match="cannot be read"):
            load_data(path)


def test_declared_sizes_are_checked_before_memory_is_asked_for(tmp_path: Path) -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (9999999, 999, 999), }".ljust(117) + b"\n"
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.writestr("x.npy", npy)
    with pytest.raises(InputError, match="GiB"):
        load_data(tmp_path / "huge.npz")
    (tmp_path / "huge.npy").write_bytes(npy)
    with pytest.raises(InputError, match="cannot be read"):
        load_data(tmp_path / "huge.npy")
    (tmp_path / "huge.idx").write_bytes(struct.pack(">BBBBIII", 0, 0, 8, 3, 10**6, 10**4, 10**3))
    with pytest.raises(InputError, match="GiB"):
        load_data(tmp_path / "huge.idx")


def test_levels_stored_in_npz_are_kept_to(tmp_path: Path, rng: np.random.Generator) -> None:
    x = random(rng, 30, 6, 6) & 15
    np.savez(tmp_path / "a.npz", x=x, levels=16)
    assert load_data(tmp_path / "a.npz").space.levels == 16
    np.savez(tmp_path / "b.npz", x=x, levels=8)
    with pytest.raises(InputError, match="8 levels"):
        load_data(tmp_path / "b.npz")


def test_large_npy_stays_on_disk_with_the_same_results(tmp_path: Path, rng: np.random.Generator) -> None:
    x = random(rng, 64, 9, 8, 3)
    np.save(tmp_path / "a.npy", x)
    near, far, again = (load_data(tmp_path / "a.npy", levels=8, gray=True, memory_limit=limit) for limit in (None, 100, 100))
    assert near.train.in_memory
    assert not far.train.in_memory
    assert near.fingerprint == far.fingerprint == again.fingerprint
    assert far.heading == "a.npy [gray, levels 8]"
    assert torch.equal(near.train.x, far.train.x)
    index = torch.tensor([5, 0, 5, -1])
    assert torch.equal(near.train.take(index)[0], far.train.take(index)[0])


def write_idx(path: Path, x: np.ndarray) -> None:
    data = struct.pack(f">BBBB{x.ndim}I", 0, 0, 8, x.ndim, *x.shape) + x.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_idx(tmp_path: Path, rng: np.random.Generator, gz: str) -> None:
    x, y = random(rng, 40, 7, 5), np.arange(40) % 4
    for part, rows in (("train", slice(30)), ("t10k", slice(30, 40))):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte{gz}", x[rows])
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte{gz}", y[rows])
    one, space = load_images(tmp_path / f"train-images-idx3-ubyte{gz}")
    assert space.shape == (1, 7, 5)
    assert torch.equal(one.x[:, 0], torch.from_numpy(x[:30]))
    assert one.y is not None
    assert one.y.tolist() == y[:30].tolist()
    data = load_data(tmp_path)
    assert torch.equal(data.test.x[:, 0], torch.from_numpy(x[30:]))
    assert len(data.train) + len(data.valid) + len(data.calib) == 30


def test_idx_that_is_cut_or_of_floats(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "a.idx"
    write_idx(path, random(rng, 4, 5, 5))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="fewer"):
        load_data(path)
    path.write_bytes(struct.pack(">BBBBI", 0, 0, 13, 1, 1) + b"\0\0\0\0")
    with pytest.raises(InputError, match="bytes"):
        load_data(path)
