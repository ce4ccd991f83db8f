"""Files in object stores, `s3://bucket/folder`, `gs://…`, through fsspec: a folder of images is read object by object, when an image is asked for;
any other file is fetched once into the cache (`cache.py`) and read there.

Who may read and where the store is come from where its own tools look: for S3 `AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `~/.aws`; of a public bucket
`FSSPEC_S3_ANON=true`.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache as once
from hashlib import sha256
from pathlib import Path
from typing import Any

from pofx.data import cache
from pofx.data.decode import Encoded, Refused, in_parallel
from pofx.errors import InputError, RunError

EXTRAS = {"s3": "'pofx[s3]'", "s3a": "'pofx[s3]'", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}  # what brings a store


def is_url(text: str) -> bool:
    """Whether this names something in an object store.

    >>> is_url("s3://bucket/scans"), is_url("scans/s3"), is_url("hf:owner/name")
    (True, False, False)
    """
    return re.match(r"[a-z][a-z0-9+.-]*://", text) is not None


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """What object stores complain of, as InputError with the fix."""
    kind = url.partition("://")[0]
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"{url} needs a library for {kind}://, which is not installed. Install it: pip install {EXTRAS.get(kind, kind)}"
        ) from error
    except FileNotFoundError as error:
        bucket = url.partition("://")[2].partition("/")[0]
        raise InputError(
            f"There is nothing at {url}: no such bucket ({bucket}), folder or file. Look what there is: {_look(url)}"
        ) from error
    except PermissionError as error:
        raise InputError(f"{url} may not be read or written with these credentials ({_first_line(error)}). {_login(kind)}") from error
    except _complaints() as error:
        if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "NoAuthTokenError"):
            raise InputError(f"{url}: there are no credentials. {_login(kind)}") from error
        raise InputError(
            f"{url} cannot be reached: {_first_line(error)}. Check the address and the network; another store than the usual: export AWS_ENDPOINT_URL=https://HOST"
        ) from error


def _look(url: str) -> str:
    parent = url.rstrip("/").rpartition("/")[0]
    return f"aws s3 ls {parent}/" if url.startswith("s3") and parent.count("/") >= 2 else f"list {parent or url}"


def _login(kind: str) -> str:
    if kind in ("s3", "s3a"):
        return "Give some: export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… (or aws configure); of a public bucket: export FSSPEC_S3_ANON=true"
    return f"Log in with the tools of {kind}://, or set FSSPEC_{kind.upper()}_… as fsspec documents."


@once
def _complaints() -> tuple[type[Exception], ...]:
    """OSError and ValueError, and what the library of Amazon raises besides."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return OSError, ValueError, RuntimeError
    return OSError, ValueError, RuntimeError, BotoCoreError, ClientError


def _open(url: str) -> tuple[Any, str]:
    """The store and the path in it."""
    from fsspec.core import url_to_fs

    fs, path = url_to_fs(url)
    return fs, str(path)


@dataclass(frozen=True)
class Found:
    """What is at a URL.

    Attributes:
        fs: the store, and `url`.
        root: a path in it: of a folder its own, of a file that of its folder.
        files: what is known of each file, by its name below `root`.
        alone: whether the URL is of one file.
    """

    fs: Any
    url: str
    root: str
    files: dict[str, dict[str, Any]]
    alone: bool


def find(url: str) -> Found:
    """The files of a folder, or one file.

    Raises:
        InputError: there is nothing, or it cannot be reached.
    """
    with reaching(url):
        fs, path = _open(url)
        fs.invalidate_cache()  # what was there a minute ago does not count
        if fs.info(path)["type"] == "file":
            parent, _, name = path.rpartition("/")
            return Found(fs, url, parent, {name: fs.info(path)}, True)
        found = {str(k).removeprefix(path.rstrip("/") + "/"): v for k, v in fs.find(path, detail=True).items()}
    shown = {k: v for k, v in sorted(found.items()) if not any(part.startswith((".", "__MACOSX")) for part in k.split("/"))}
    return Found(fs, url, path.rstrip("/"), shown, False)


@dataclass(frozen=True, eq=False)
class ObjectItems:
    """Image files of an object store, each fetched when it is asked for."""

    fs: Any
    url: str
    paths: Sequence[str]
    stamp: str

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Encoded:
        try:
            return self.fs.cat_file(self.paths[i])
        except FileNotFoundError as error:
            raise Refused("it is not there any more") from error
        except _complaints() as error:  # it is not the image's fault, and others would fare no better
            raise RunError(
                f"{self.paths[i]} of {self.url} could not be fetched: {_first_line(error)}. The same command goes on."
            ) from error


def items(found: Found, names: Sequence[str]) -> ObjectItems:
    """These of the files of a folder."""
    paths = [f"{found.root}/{name}" for name in names]
    return ObjectItems(found.fs, found.url, paths, stamp(found.root, {name: found.files[name] for name in names}))


def stamp(root: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """Names, sizes and versions of objects, hashed."""
    digest = sha256(root.encode())
    for name, info in found.items():
        version = next((info[key] for key in ("ETag", "etag", "md5Hash", "LastModified", "mtime", "created") if info.get(key)), "")
        digest.update(f"{name}\0{info.get('size')}\0{version}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def fetch(found: Found, names: Sequence[str]) -> Path:
    """A folder with these files, fetched where they are not there yet; a changed object is another."""
    folder = kept("objects") / stamp(found.root, {name: found.files[name] for name in names})[:32]

    def one(name: str) -> None:
        target = folder / name
        if target.is_file():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            found.fs.get_file(f"{found.root}/{name}", str(beside))
            os.replace(beside, target)
        finally:
            beside.unlink(missing_ok=True)

    with reaching(found.url):
        for _ in in_parallel(one, list(names)):
            pass
    return folder


def fetched(url: str) -> Path:
    """The one file at `url`, in the cache."""
    found = find(url)
    if not found.alone:
        raise InputError(f"{url} is a folder of {len(found.files)} files. Give one of them.")
    return fetch(found, list(found.files)) / next(iter(found.files))


def kept(what: str) -> Path:
    """A folder of the cache, or one that goes with this process where nothing is to be kept (`POFX_CACHE=`)."""
    if os.environ.get("POFX_CACHE") != "":
        return cache.cache_root(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / what
    return _passing() / what


@once
def _passing() -> Path:
    folder = tempfile.mkdtemp(prefix="pofx-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def check_writable(url: str) -> None:
    """Raise InputError now, and not after an hour of work, where a store is not there."""
    with reaching(url):
        fs, path = _open(url)
        bucket = path.strip("/").partition("/")[0]
        if url.startswith(("s3", "gs", "gcs")):
            fs.ls(bucket, refresh=True)


def upload(path: Path, url: str) -> None:
    """A local file to an object store, whole or not at all.

    Raises:
        InputError: it cannot be reached or written.
    """
    with reaching(url):
        fs, target = _open(url)
        fs.put_file(str(path), target)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(".")
