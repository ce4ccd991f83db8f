"""Folders, single files, Parquet and the Hub: conversions, refusals, and that memory and disk give the same."""

from __future__ import annotations

import io
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pofx.data import describe, load_data, load_images
from pofx.data.decode import Refused, decode, header
from pofx.errors import InputError, RunError

Folder = Callable[..., Path]


def png(array: np.ndarray, **more: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG", **more)
    return out.getvalue()


def saved(image: Image.Image, form: str, **more: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **more)
    return out.getvalue()


# One file --------------------------------------------------------------------------------------------------------------------------------


def test_kinds_of_files_that_are_taken(rng: np.random.Generator) -> None:
    grey, rgb = rng.integers(0, 256, (4, 6), np.uint8), rng.integers(0, 256, (4, 6, 3), np.uint8)
    assert (decode(png(grey), 1)[0] == grey).all()
    assert (decode(png(grey), 3) == grey).all()
    assert (decode(png(rgb), 3) == rgb.transpose(2, 0, 1)).all()
    bits = saved(Image.fromarray(grey).convert("1"), "PNG")
    assert header(bits).channels == 1
    assert set(np.unique(decode(bits, 1))) <= {0, 255}
    palette = Image.fromarray(rgb).quantize(8)
    assert header(saved(palette, "PNG")).channels == 3
    assert (decode(saved(palette, "PNG"), 3) == np.asarray(palette.convert("RGB")).transpose(2, 0, 1)).all()
    grey_palette = Image.fromarray(grey).quantize(8)
    assert header(saved(grey_palette, "GIF")).channels == 1


def test_alpha_is_composited_over_white() -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = [0, 255, 51]
    found = png(rgba)
    assert header(found).notes == ("alpha over white",)
    assert decode(found, 3)[:, 0].T.tolist() == [[255] * 3, [0] * 3, [204] * 3]
    indexed = Image.new("P", (2, 1), 0)
    indexed.putpalette([10, 20, 30, 0, 0, 0])
    assert decode(saved(indexed, "PNG", transparency=0), 3)[:, 0, 0].tolist() == [255] * 3


def test_cmyk_becomes_rgb_and_says_so() -> None:
    image = Image.new("CMYK", (5, 4), (0, 255, 255, 0))
    found = saved(image, "JPEG")
    assert header(found).notes == ("cmyk to rgb",)
    red = decode(found, 3)
    assert red.shape == (3, 4, 5)
    assert red[0].min() > 200
    assert red[1].max() < 60


def test_exif_orientation_is_applied() -> None:
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    found = saved(image, "PNG", exif=exif)
    assert (header(found).height, header(found).width) == (4, 3)
    assert (decode(found, 1)[0] == np.rot90(np.asarray(image), -1)).all()


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header declares width × height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0" * 999))
        + chunk(b"IEND", b"")
    )


def refused_files() -> dict[str, tuple[bytes, str]]:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    frames = [Image.fromarray(grey), Image.fromarray(255 - grey)]
    deep = saved(Image.fromarray(grey.astype(np.uint16) * 257), "PNG")
    rgb16 = bytearray(bomb(2, 2))
    rgb16[24:26] = b"\x10\x02"  # bit depth 16, colour
    rgb16[29:33] = struct.pack(">I", zlib.crc32(bytes(rgb16[12:29])))
    noise = np.random.default_rng(1).integers(0, 256, (32, 32), np.uint8)
    whole, noisy = png(noise), saved(Image.fromarray(noise), "JPEG", quality=95)
    return {
        "gif": (saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), "animated.*2 frames"),
        "apng": (saved(frames[0], "PNG", save_all=True, append_images=frames[1:]), "animated"),
        "webp": (saved(frames[0].convert("RGB"), "WEBP", save_all=True, append_images=[frames[1].convert("RGB")]), "animated"),
        "pages": (saved(frames[0], "TIFF", save_all=True, append_images=frames[1:]), "pages"),
        "grey16": (deep, "16 bits"),
        "rgb16": (bytes(rgb16), "16 bits"),
        "tiff16": (saved(Image.fromarray(grey.astype(np.uint16)), "TIFF"), "16 bits"),
        "float": (saved(Image.fromarray(grey.astype(np.float32)), "TIFF"), "32 bits"),
        "bomb": (bomb(9000, 9000), "megapixels"),
        "bigger": (bomb(12000, 12000), "megapixels"),
        "biggest": (bomb(60000, 60000), "megapixels"),
        "empty": (b"", "not an image"),
        "text": (b"hello", "not an image"),
        "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
        "cut": (whole[: len(whole) // 2], "corrupt or truncated"),
        "cut jpeg": (noisy[: len(noisy) - 300], "corrupt or truncated"),
    }


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", list(refused_files()))
def test_refused_by_name(name: str) -> None:
    content, words = refused_files()[name]
    with pytest.raises(Refused, match=words):
        decode(content, header(content).channels)


def test_bytes_flipped_anywhere_never_escape_as_another_error(rng: np.random.Generator) -> None:
    grey = Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8))
    for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        whole = saved(grey, form)
        for _ in range(40):
            broken = bytearray(whole)
            for at in rng.integers(0, len(broken), 3):
                broken[at] = rng.integers(256)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    head = header(bytes(broken))
                    if head.height * head.width < 10**6:
                        decode(bytes(broken), head.channels)
                except Refused:
                    pass


# Folders ---------------------------------------------------------------------------------------------------------------------------------


def test_subfolders_are_labels(folder: Folder) -> None:
    root = folder(60, (6, 5, 3), classes=("wolf", "ant", "bee"))
    data = load_data(root)
    assert str(data.space) == "3×6×5, 256 levels"
    assert data.class_names == ("ant", "bee", "wolf")
    assert [len(s) for s in data.parts.values()] == [44, 2, 2, 12]
    for s in data.parts.values():
        assert s.y is not None
        assert [("ant", "bee", "wolf")[i] for i in s.y.tolist()] == [name.split("/")[0] for name in s.ids]
        assert torch.equal(s.x, torch.stack([torch.from_numpy(np.array(Image.open(root / name))).permute(2, 0, 1) for name in s.ids]))
    assert load_data(**data.to_json()["spec"]).fingerprint == data.fingerprint


def test_train_and_test_folders_are_published_parts(folder: Folder) -> None:
    folder(40, classes=("a", "b"), name="set/train")
    folder(10, classes=("a", "b"), name="set/test")
    root = folder(0, name="set")
    data = load_data(root)
    assert [len(s) for s in data.parts.values()] == [36, 2, 2, 10]
    assert all(name.startswith("test/") for name in data.test.ids)
    assert data.class_names == ("a", "b")
    whole, _ = load_images(root)
    assert len(whole) == 50
    folder(10, classes=("a", "b"), name="set/val")
    assert [len(s) for s in load_data(root).parts.values()] == [40, 5, 5, 10]


def test_a_flat_folder_has_no_labels_and_keeps_its_order(folder: Folder) -> None:
    root = folder(30)
    (root / "notes.txt").write_text("no image")
    (root / ".hidden.png").write_bytes(b"")
    found, _ = load_images(str(root))
    assert found.y is None
    assert list(found.ids) == sorted(found.ids)
    assert len(found) == 30
    assert found.skipped == ()
    with pytest.raises(InputError, match="keep-labels needs labels"):
        load_data(root, keep_labels=[1])


@pytest.mark.filterwarnings("ignore:.*are in no subfolder")
def test_mixed_grey_and_colour(folder: Folder) -> None:
    folder(20, (4, 4))
    root = folder(20, (4, 4, 3), name="pictures/more")
    data = load_data(root.parent)
    assert data.space.channels == 3
    assert data.transforms == ("grey to rgb",)
    grey = load_data(root.parent, gray=True)
    assert grey.space.channels == 1
    assert grey.heading == "pictures [gray]"


@pytest.mark.filterwarnings("ignore:.*are in no subfolder")
def test_mixed_sizes_name_two_and_the_flag(folder: Folder) -> None:
    folder(20, (4, 6))
    root = folder(3, (9, 5), name="pictures/z").parent
    with pytest.raises(InputError, match=r"is 4x6.*is 9x5.*--size 4x6"):
        load_data(root)
    data = load_data(root, size="4x6")
    assert data.space.shape == (1, 4, 6)
    assert data.heading == "pictures [size 4x6]"
    assert load_data(root, size=(4, 6)).fingerprint == data.fingerprint


@pytest.mark.parametrize("size", ["4", "0x4", "axb", "4x", "3x3x3", -1, 0, True])
def test_size_that_is_none(folder: Folder, size: Any) -> None:
    if size == "4":
        assert load_data(folder(20), size=size).space.shape == (1, 4, 4)
        return
    with pytest.raises(InputError, match="--size"):
        load_data(folder(20), size=size)


def test_images_beside_subfolders_are_counted_and_named(folder: Folder) -> None:
    root = folder(40, classes=("a", "b"))
    (root / "odd.png").write_bytes(png(np.full((6, 5), 90, np.uint8)))
    with pytest.warns(UserWarning, match=r"1 of 41 images are in no subfolder \(e.g. odd.png\): labels ignored"):
        assert load_data(root).train.y is None
    (root / "odd.png").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_data(root).train.y is not None


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_a_folder_without_a_usable_image_takes_three_lines(folder: Folder, count: int) -> None:
    root = folder(count)
    for path in root.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(InputError, match="none of its") as found:
        load_data(root)
    assert str(found.value).count("\n") <= 2
    assert "0000.png" in str(found.value)


def test_bad_files_are_skipped_and_listed(folder: Folder) -> None:
    root = folder(30, (16, 16), classes=("a", "b"))
    for i, (name, (content, _)) in enumerate(refused_files().items()):
        (root / "a" / f"{i}-{name}.png").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_data(root)
    assert sum(len(s) for s in data.parts.values()) == 30
    assert len(data.skipped) == len(refused_files())
    assert any(s.startswith("a/4-grey16.png: 16 bits") for s in data.skipped)
    found, _ = load_images(root)
    assert found.skipped == data.skipped
    assert len(found) == len(found.ids) == 30
    with pytest.raises(InputError, match="--strict"):
        load_data(root, strict=True)
    assert describe(data).skipped == data.skipped


def test_nothing_usable(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file or folder"):
        load_data(tmp_path / "missing")
    with pytest.raises(InputError, match="it is empty"):
        load_data(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="1 .txt"):
        load_data(tmp_path)
    (tmp_path / "a.png").write_text("x")
    with pytest.raises(InputError, match=r"none of its 1 image.*\n.*a.png: not an image"):
        load_data(tmp_path)
    with pytest.raises(InputError, match="no form of data"):
        load_data(tmp_path / "a.txt")


def test_one_image_is_a_set(folder: Folder) -> None:
    root = folder(1)
    assert [len(s) for s in load_data(root).parts.values()] == [1, 0, 0, 0]
    found, space = load_images(root / "0000.png")
    assert len(found) == 1
    assert space.shape == (1, 6, 5)


def test_copies_stay_together(folder: Folder) -> None:
    root = folder(40)
    for path in sorted(root.iterdir()):
        shutil.copy(path, root / f"copy-{path.name}")
    data = load_data(root)
    seen = describe(data)
    assert (seen.duplicates, seen.overlap) == (40, 0)
    for s in data.parts.values():
        names = set(s.ids)
        assert all(f"copy-{name}" in names for name in names if not name.startswith("copy"))


def test_links_that_go_in_circles(folder: Folder) -> None:
    root = folder(20, classes=("a", "b"))
    (root / "a" / "loop").symlink_to(root, target_is_directory=True)
    assert sum(len(s) for s in load_data(root).parts.values()) == 20


@pytest.mark.parametrize("arguments", [{}, {"gray": True, "size": 3, "levels": 8}, {"keep_labels": "a"}])
def test_on_disk_gives_the_same(folder: Folder, arguments: dict[str, Any]) -> None:
    root = folder(60, (6, 5, 3), classes=("a", "b"))
    (root / "a" / "bad.png").write_bytes(b"x" * 99)
    near, far, again = (load_data(root, **arguments, memory_limit=limit) for limit in (None, 0, "1K"))
    assert near.train.in_memory
    assert not far.train.in_memory
    assert near.fingerprint == far.fingerprint == again.fingerprint
    assert near.skipped == far.skipped == again.skipped
    assert len(far.skipped) == 1
    index = torch.tensor([3, 1, 3])
    for part, s in near.parts.items():
        other = again.parts[part]
        assert torch.equal(s.x, other.x)
        assert list(s.ids) == list(other.ids)
    assert torch.equal(near.train.take(index)[0], far.train.take(index)[0])
    assert load_images(root, **arguments, memory_limit=0)[0].x.equal(load_images(root, **arguments)[0].x)


def test_on_disk_train_and_test_end_to_end(folder: Folder) -> None:
    folder(30, name="set/train")
    folder(10, name="set/test")
    root = folder(0, name="set")
    near, _ = load_images(root)
    far, _ = load_images(root, memory_limit=0)
    assert torch.equal(near.x, far.x)
    assert torch.equal(far.take(torch.tensor([35, 2, 31]))[0], near.x[[35, 2, 31]])
    assert torch.equal(far.select(np.array([39, 0])).x, near.x[[39, 0]])


def test_a_file_that_breaks_later_is_named(folder: Folder) -> None:
    root = folder(30)
    data = load_data(root, memory_limit=0)
    (root / data.train.ids[0]).write_bytes(b"gone")
    with pytest.raises(RunError, match=data.train.ids[0]):
        data.train.take(torch.tensor([0]))


def test_the_environment_sets_the_limit(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POFX_MEMORY_LIMIT", "100")
    assert not load_data(folder(30)).train.in_memory
    monkeypatch.setenv("POFX_MEMORY_LIMIT", "lots")
    with pytest.raises(InputError, match="POFX_MEMORY_LIMIT"):
        load_data(folder(30))


def test_a_cache_that_cannot_be_written_or_is_broken_does_no_harm(folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(30)
    want = load_data(root, memory_limit=0).fingerprint
    for broken in (tmp_path / "cache").rglob("*.npy"):
        broken.write_bytes(b"rubbish")
    assert load_data(root, memory_limit=0).fingerprint == want
    (tmp_path / "file").write_text("")
    for value in (str(tmp_path / "file"), ""):
        monkeypatch.setenv("POFX_CACHE", value)
        assert load_data(root, memory_limit=0).fingerprint == want


# Parquet and the Hub ---------------------------------------------------------------------------------------------------------------------


def table(rng: np.random.Generator, n: int, names: list[str] | None = None) -> tuple[Any, np.ndarray]:
    import datasets

    x = rng.integers(0, 256, (n, 5, 4), np.uint8)
    label = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    features = datasets.Features({"image": datasets.Image(), "label": label})
    rows = {"image": [{"bytes": png(a), "path": None} for a in x], "label": [i % 2 for i in range(n)]}
    return datasets.Dataset.from_dict(rows, features=features), x


def test_parquet_as_the_hub_writes_it(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf"))
    found, x = table(rng, 40, ["no", "yes"])
    found.to_parquet(tmp_path / "a.parquet")
    part, space = load_images(tmp_path / "a.parquet")
    assert space.shape == (1, 5, 4)
    assert torch.equal(part.x[:, 0], torch.from_numpy(x))
    data = load_data(tmp_path / "a.parquet")
    assert data.class_names == ("no", "yes")
    far = load_data(tmp_path / "a.parquet", memory_limit=50)
    assert not far.train.in_memory
    assert far.fingerprint == data.fingerprint
    assert torch.equal(far.train.x, data.train.x)


def test_parquet_of_bytes_with_names_and_a_bad_row(tmp_path: Path, rng: np.random.Generator) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [png(rng.integers(0, 256, (5, 4), np.uint8)) for _ in range(30)]
    images[7:9] = [b"junk", b""]
    pq.write_table(pa.table({"id": list(range(30)), "picture": images, "label": ["b", "a"] * 15}), tmp_path / "train-0.parquet")
    pq.write_table(pa.table({"id": [0], "picture": images[:1], "label": ["b"]}), tmp_path / "test-0.parquet")
    data = load_data(tmp_path)
    assert data.class_names == ("a", "b")
    assert len(data.test) == 1
    assert data.test.y is not None
    assert data.test.y.tolist() == [1]
    assert len(data.skipped) == 2
    pq.write_table(pa.table({"price": [1.0]}), tmp_path / "p.parquet")
    with pytest.raises(InputError, match="no column of images.*price"):
        load_data(tmp_path / "p.parquet")


def test_hub(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    train, _ = table(rng, 40, ["no", "yes"])
    test, x = table(rng, 10, ["no", "yes"])
    asked = []

    def load_dataset(path: str, name: str | None = None) -> Any:
        asked.append((path, name))
        if path == "nobody/nothing":
            raise FileNotFoundError("Dataset 'nobody/nothing' doesn't exist on the Hub")
        return datasets.DatasetDict({"train": train, "test": test})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.delenv("POFX_DATA", raising=False)
    data = load_data("hf:owner/set/small")
    assert asked == [("owner/set", "small")]
    assert torch.equal(data.test.x[:, 0], torch.from_numpy(x))
    assert data.class_names == ("no", "yes")
    assert load_images("hf:owner/set:test")[0].heading == "hf:owner/set test"
    assert len(load_images("hf:owner/set")[0]) == 10
    named = load_data("cifar10")
    assert asked[-1] == ("uoft-cs/cifar10", None)
    assert named.test.ids[3] == "cifar10/test/3"
    with pytest.raises(InputError, match="doesn't exist"):
        load_data("hf:nobody/nothing")
    with pytest.raises(InputError, match="hf:owner/name"):
        load_data("hf:owner")
