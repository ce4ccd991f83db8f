"""Peak memory of training on a set that stays on disk, at one size and at ten times it: a folder of PNG files, and Parquet.

    python benchmarks/memory.py [--images 2000] [--out results/memory.json]

Images are drawn, 64×64 RGB. Each measurement is a fresh process with an empty cache, told that nothing may be decoded into memory: it reads the
headers, hashes the pixels, splits, and trains a small autoencoder. Two peaks are kept: `rss`, and `own`, without the pages of mapped files, which
are the kernel's and are given up when memory is wanted. What the index costs is the growth of `own` per image; it may be LARGEST bytes.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE, BATCH, STEPS, TIMES = 64, 64, 20, 10
LARGEST = 1536  # bytes an image, an eighth of its pixels: of 2,000 and 20,000 in Parquet, reading ahead by 16 groups of rows is most of it


def png(number: int) -> bytes:
    """Image `number`: coarse noise, so that a file is a few kB."""
    coarse = np.random.default_rng(number).integers(0, 256, (SIDE // 4, SIDE // 4, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse.repeat(4, 0).repeat(4, 1)).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def make(form: str, folder: Path, n: int) -> Path:
    """A set of n images, written one after the other."""
    if form == "folder":
        for i in range(n):
            place = folder / f"class{i % 10}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{i:08d}.png").write_bytes(png(i))
        return folder
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "set.parquet"
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, n, 1000):
            rows = [{"image": {"bytes": png(i), "path": None}, "label": i % 10} for i in range(start, min(start + 1000, n))]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return path


def status() -> dict[str, int]:
    """Resident bytes of this process now: all, and those that are its own."""
    found = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own = int(found["RssAnon"].split()[0]) << 10
    return {"rss": int(found["VmRSS"].split()[0]) << 10, "own": own}


def watched(over: threading.Event) -> Iterator[dict[str, int]]:
    while not over.wait(0.02):
        yield status()


def measure(path: Path) -> dict[str, Any]:
    """In a process of its own: load the set, train, and say what was used at most."""
    import torch

    import pofx

    over, peak = threading.Event(), status()

    def watch() -> None:
        for now in watched(over):
            for name, value in now.items():
                peak[name] = max(peak[name], value)

    thread = threading.Thread(target=watch)
    thread.start()
    begun = time.perf_counter()
    data = pofx.load_data(str(path))
    loaded = time.perf_counter() - begun
    assert not data.train.in_memory
    torch.manual_seed(0)
    model = pofx.models.Autoencoder.small(data.space)
    with tempfile.TemporaryDirectory() as out:
        begun = time.perf_counter()
        run = pofx.train(model, data, out=out, steps=STEPS, batch_size=BATCH, precision="32", threads=1, quiet=True)
        trained = time.perf_counter() - begun
    over.set()
    thread.join()
    assert run.path is not None
    return {
        "images": sum(len(part) for part in data.parts.values()),
        "seconds_to_load": round(loaded, 1),
        "seconds_to_train": round(trained, 1),
        **peak,
    }


def fresh(path: Path, folder: Path) -> dict[str, Any]:
    env = {
        **os.environ,
        "POFX_MEMORY_LIMIT": "0",
        "POFX_CACHE": str(folder / "cache"),
        "HF_HOME": str(folder / "hub"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run([sys.executable, __file__, "--measure", str(path)], env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(images: int) -> dict[str, Any]:
    """Both forms at both sizes; raises AssertionError where memory grows with the set."""
    from _record import machine, tell

    found: dict[str, Any] = {"side": SIDE, "decoded_bytes_an_image": 3 * SIDE**2, "bound_bytes_an_image": LARGEST, "forms": {}}
    for form in ("folder", "parquet"):
        rows = []
        for n in (images, TIMES * images):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "set"
                path.mkdir()
                rows.append(fresh(make(form, path, n), Path(folder)))
            tell({"form": form, **rows[-1]})
        small, large = rows
        grown = (large["own"] - small["own"]) / (large["images"] - small["images"])
        found["forms"][form] = {"one": small, "ten": large, "bytes_an_image": round(grown)}
        assert grown <= LARGEST, f"{form}: {grown:.0f} bytes an image"
    return found | machine(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measure(asked.measure)))
        return
    from _record import write

    write(asked.out, compare(asked.images))


if __name__ == "__main__":
    main()
