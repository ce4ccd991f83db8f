"""DATA in an object store: a real S3 over HTTP (moto's server on the loopback), and fsspec's store in memory."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pofx.data import Unread, load_data, load_images, objects, open_images, parse
from pofx.data.part import CHUNK
from pofx.errors import InputError, RunError


def png(x: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(x).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A store with one bucket, `shop`, reached as Amazon's is: by environment."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/nowhere",
            "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        import fsspec

        fs = fsspec.filesystem("s3")
        fs.mkdir("shop")
        yield fs
        fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


@pytest.fixture
def pictures(rng: np.random.Generator) -> dict[str, bytes]:
    return {f"{label}/{k}.png": png(rng.integers(0, 256, (6, 5), np.uint8)) for label in ("cat", "dog") for k in range(15)}


def local(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def test_a_folder_is_what_it_is_on_disk(s3: Any, tmp_path: Path, pictures: dict[str, bytes]) -> None:
    """The same images, labels, parts, attributes and fingerprint, and what cannot be read is skipped by name."""
    more = {"labels.csv": b"file,hat\ncat/3.png,1\n", "dog/broken.png": b"\x89PNG and then nothing", ".hidden/x.png": b""}
    for name, data in (pictures | more).items():
        s3.pipe_file(f"shop/pets/{name}", data)
    there, here = load_data("s3://shop/pets"), load_data(local(tmp_path / "pets", pictures | more))
    assert there.fingerprint == here.fingerprint and there.class_names == ("cat", "dog") and there.title == "pets"
    assert [list(part.ids) for part in there.parts.values()] == [list(part.ids) for part in here.parts.values()]
    assert there.skipped == here.skipped and "dog/broken.png" in there.skipped[0]
    assert (there.train.written["hat"] == here.train.written["hat"]).all()
    again = load_data(**there.to_json()["spec"])
    assert again.fingerprint == there.fingerprint
    assert load_images("s3://shop/pets:test")[0].ids == there.test.ids
    assert load_images("s3://shop/pets/cat/3.png")[0].ids == ["3.png"]


def test_files_are_fetched_once(s3: Any, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet, a folder of it, .npy and a text; a second look asks for no bytes, and a changed object is another."""
    x = rng.integers(0, 256, (12, 6, 5), np.uint8)
    table, buffer = pa.table({"image": [png(one) for one in x]}), io.BytesIO()
    pq.write_table(table, buffer)
    array = io.BytesIO()
    np.save(array, x)
    s3.pipe_file("shop/set.parquet", buffer.getvalue())
    s3.pipe_file("shop/many/train-0.parquet", buffer.getvalue())
    s3.pipe_file("shop/x.npy", array.getvalue())
    s3.pipe_file("shop/book.txt", b"to be or not to be " * 100)
    for data in ("s3://shop/set.parquet", "s3://shop/many", "s3://shop/x.npy"):
        split, _ = load_images(data)
        assert (split.x[:, 0].numpy() == x).all()
    assert load_data("text:s3://shop/book.txt").alphabet is not None
    asked = []
    monkeypatch.setattr(type(s3), "get_file", lambda self, *a, **k: asked.append(a))
    load_images("s3://shop/x.npy")
    assert not asked
    monkeypatch.undo()
    np.save(changed := io.BytesIO(), x[:3])
    s3.pipe_file("shop/x.npy", changed.getvalue())
    assert len(load_images("s3://shop/x.npy")[0]) == 3


def test_what_is_not_there_is_said(s3: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing at s3://nobody/x: no such bucket \(nobody\)"):
        load_images("s3://nobody/x")
    with pytest.raises(InputError, match="nothing at s3://shop/absent"):
        load_images("s3://shop/absent")
    s3.pipe_file("shop/words/a.txt", b"no image")
    with pytest.raises(InputError, match=r"no image in s3://shop/words \(it holds 1 .txt\)"):
        load_images("s3://shop/words")
    with pytest.raises(InputError, match="no such bucket"):
        objects.check_writable("s3://nobody/scores.parquet")
    objects.check_writable("s3://shop/deeper/scores.parquet")
    (tmp_path / "table").write_bytes(b"rows")
    objects.upload(tmp_path / "table", "s3://shop/deeper/table")
    assert s3.cat_file("shop/deeper/table") == b"rows"
    with pytest.raises(InputError, match="cannot be reached: .*Protocol not known|Protocol not known"):
        load_images("carrier-pigeon://coop/letter")


def test_credentials_that_are_missing_are_asked_for(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    fsspec.filesystem("s3").clear_instance_cache()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(InputError, match="there are no credentials. Give some: export AWS_ACCESS_KEY_ID"):
        load_images("s3://shop/pets")
    with pytest.raises(InputError, match="there are no credentials"):
        objects.check_writable("s3://shop/scores.parquet")
    fsspec.filesystem("s3").clear_instance_cache()


def test_the_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    import fsspec

    assert fsspec
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(InputError, match=r"pip install 'pofx\[s3\]'"):
        load_images("s3://shop/pets")


def test_a_url_is_no_path() -> None:
    assert parse("s3://shop/pets:test:threshold").base == "s3://shop/pets"
    assert parse("s3://shop/pets:test").name == "pets"
    with pytest.raises(InputError, match="one part"):
        parse("s3://shop/pets:test:valid")


def test_many_images_are_read_when_their_turn_comes(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large folder only the first are looked at; one that is lost is named, and a store that is gone is an error and no lost image."""
    import fsspec

    fs = fsspec.filesystem("memory")
    data = [png(one) for one in rng.integers(0, 256, (7, 6, 5), np.uint8)]
    n = CHUNK + 20
    for k in range(n):
        fs.pipe_file(f"/big/{k:05d}.png", data[k % 7])
    read = []
    whole = type(fs).cat_file
    monkeypatch.setattr(type(fs), "cat_file", lambda self, path, **more: (read.append(path), whole(self, path, **more))[1])
    found, space = open_images("memory://big")
    assert isinstance(found, Unread) and space.shape == (1, 6, 5) and max(read).endswith(f"{CHUNK - 1:05d}.png")
    fs.rm(f"/big/{n - 1:05d}.png")
    split, rows = found.slice(n - 3, n)
    assert rows.tolist() == [n - 3, n - 2] and split.skipped == (f"{n - 1:05d}.png: it is not there any more",)
    monkeypatch.setattr(type(fs), "cat_file", lambda self, path, **more: (_ for _ in ()).throw(ConnectionError("down")))
    with pytest.raises(RunError, match="could not be fetched: down. The same command goes on"):
        found.slice(0, 2)
