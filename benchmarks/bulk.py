"""`pofx score` of many small images: this process against a Ray cluster, a node that is killed, a file that is broken, work that goes on, and memory.

    python benchmarks/bulk.py --out results/bulk.json

A Parquet file of PNG images of 8×8, one of them broken, is scored by a small PixelCNN:

    local    one process that may use one core
    ray      a cluster of `--nodes` nodes on this machine, one core each; its driver and daemons have the same cores
    killed   the same with one node more, which is killed in the middle
    goes on  interrupted by its first half here, ended by the cluster
    memory   peak of a process that scores a tenth of the images, and of one that scores all, of a set that stays on disk

All files are compared byte for byte. `per_core` is images a second over cores, from the first call to the file; `share` that of Ray over that of
this process. Actors start within it; what they do from the first part on is told apart (`per_core_from_then_on`).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _record import machine, tell, write
from PIL import Image

from pofx.models.autoregressive.pixelcnn import PixelCNN
from pofx.space import ImageSpace
from pofx.tasks.bulk import batch_size
from pofx.testing import densify
from pofx.training import load_model, save_model
from pofx.workflows import bulk
from pofx.workflows.loading import Conversions, open_images, run_info

SPACE, DIFFERENT = ImageSpace(1, 8, 8, 17), 4096
BROKEN = b"\x89PNG\r\n\x1a\n and then nothing"


def make(folder: Path, n: int) -> tuple[Path, Path]:
    """A run and a Parquet file of n images, the one in the middle broken."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    run, data = folder / "run", folder / f"set-{n}.parquet"
    torch.manual_seed(0)
    if not run.exists():
        save_model(densify(PixelCNN(SPACE, layers=2, channels=16)).float().eval(), run, {})
    encoded = []
    for x in np.random.default_rng(0).integers(0, 256, (DIFFERENT, 8, 8), dtype=np.uint8):
        stream = io.BytesIO()
        Image.fromarray(x).save(stream, "PNG")
        encoded.append(stream.getvalue())
    with pq.ParquetWriter(data, pa.schema({"image": pa.binary()})) as file:
        for start in range(0, n, 50_000):
            rows = range(start, min(start + 50_000, n))
            file.write_table(pa.table({"image": [BROKEN if k == n // 2 else encoded[k * 2654435761 % DIFFERENT] for k in rows]}))
    return run, data


class Watched:
    """An engine that is looked at: units as they come, and something that happens after some."""

    def __init__(self, engine: Any, after: int = -1, happens: Callable[[], Any] = lambda: None) -> None:
        self.engine, self.after, self.happens = engine, after, happens
        self.units: list[int] = []
        self.first = self.last = 0.0

    def device(self, asked: str) -> str:
        return self.engine.device(asked)

    def run(self, job: Any, bench: Any, todo: Any, tell: Any) -> Iterator[Any]:
        for index, part in self.engine.run(job, bench, todo, tell):
            self.last = time.perf_counter()
            self.first = self.first or self.last
            self.units.append(index)
            yield index, part
            if len(self.units) == self.after:
                self.happens()


def scored(run: Path, data: Path, out: Path, engine: Watched) -> tuple[float, Any, Any]:
    """Seconds, what was found, and remarks."""
    model, flags = load_model(run), Conversions(levels=SPACE.levels)
    begun = time.perf_counter()
    images = open_images(str(data), model.space, flags, run_info(str(run)))
    job = bulk.Scoring(str(run), "cpu", str(data), flags)
    found, remarks = bulk.score(job, model, images, by=engine, out=out)
    return time.perf_counter() - begun, found, remarks


def row(n: int, seconds: float, cores: int, more: dict[str, Any]) -> dict[str, Any]:
    found = {"seconds": seconds, "cores": cores, "images_per_second": n / seconds, "per_core": n / seconds / cores} | more
    tell(found)
    return found


def peak(run: Path, data: Path) -> float:
    """MiB that a process needed at most which scores a set that stays on disk."""
    code = f"import sys; sys.path[:0] = {[str(Path(__file__).parent)]!r}; import bulk; bulk.memory({str(run)!r}, {str(data)!r})"
    environment = os.environ | {"POFX_MEMORY_LIMIT": "1M", "OMP_NUM_THREADS": "1"}
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stdout)


def memory(run: str, data: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        scored(Path(run), Path(data), Path(folder) / "s.parquet", Watched(bulk.Local()))
    told = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(told["VmHWM"].split()[0]) / 1024)  # not ru_maxrss, which begins with that of the parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=500_000)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="for images and files; a temporary one by default")
    parser.add_argument("--out", type=Path)
    settings = parser.parse_args()
    torch.set_num_threads(1)
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory() as temporary:
        measure(settings.folder or Path(temporary), settings.n, settings.nodes, settings.out)


def measure(folder: Path, n: int, nodes: int, out: Path | None) -> None:
    import ray
    from ray.cluster_utils import Cluster

    run, data = make(folder, n)
    cores = os.sched_getaffinity(0)
    answer: dict[str, Any] = machine(1) | {"n": n, "image": "1x8x8, 17 levels, PNG in Parquet", "load_before": os.getloadavg()[0]}

    os.sched_setaffinity(0, {max(cores)})
    here = folder / "local.parquet"
    seconds, found, remarks = scored(run, data, here, Watched(bulk.Local()))
    answer["local"] = row(n, seconds, 1, {"scored": found.n, "skipped": list(remarks.skipped)})
    answer["memory_mib"] = {f"{k}": peak(run, make(folder, k)[1]) for k in (n // 10, n)}
    os.sched_setaffinity(0, cores)

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 150 << 20, "include_dashboard": False})
    alive = [cluster.add_node(num_cpus=1, object_store_memory=150 << 20) for _ in range(nodes)]

    def by_ray(name: str, engine: Watched) -> dict[str, Any]:
        there = folder / f"{name}.parquet"
        begun = time.perf_counter()
        seconds, found, remarks = scored(run, data, there, engine)
        step = bulk.step_of(n, batch_size(SPACE), SPACE.dims)
        steady = (len(engine.units) - 1) * step / (engine.last - engine.first) / nodes
        return row(
            n,
            seconds,
            nodes,
            {
                "first_part_after": engine.first - begun,
                "per_core_from_then_on": steady,
                "scored": found.n,
                "skipped": list(remarks.skipped),
                "units": len(engine.units),
                "units_twice": len(engine.units) - len(set(engine.units)),
                "same_file": there.read_bytes() == here.read_bytes(),
            },
        )

    engine = bulk.engine("ray", cluster.address)
    answer["ray"] = by_ray("ray", Watched(engine))
    answer["share"] = answer["ray"]["per_core"] / answer["local"]["per_core"]
    answer["share_from_then_on"] = answer["ray"]["per_core_from_then_on"] / answer["local"]["per_core"]
    units = answer["ray"]["units"]

    half = Watched(bulk.Local(), units // 2, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with contextlib.suppress(KeyboardInterrupt):
        scored(run, data, folder / "goes on.parquet", half)
    answer["goes on"] = by_ray("goes on", Watched(engine)) | {"units_here": len(half.units)}

    alive.append(cluster.add_node(num_cpus=1, object_store_memory=150 << 20))
    killed = Watched(engine, units // 3, lambda: cluster.remove_node(alive.pop(0), allow_graceful=False))
    answer["killed"] = by_ray("killed", killed) | {"nodes_before": nodes + 1, "killed_after_units": units // 3}
    answer["load_after"] = os.getloadavg()[0]
    print(json.dumps(answer, indent=1))
    write(out, answer)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
