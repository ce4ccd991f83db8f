"""What the service costs beside the task: images a second and waiting time, against calling the task in a plain loop of batches.

    python benchmarks/serve.py results/weights/mnist-pixelcnn-pp mnist:test --seconds 60 --out results/serve.json

Three ways to ask, from a process of its own, and between them the loop in this one, so that both meet the same machine:

    alone      one image, one request at a time: the latency of a batch that is nearly empty
    load       one image a request, `--clients` of them at a time for each worker
    bulk       `--images` images a request, 4 at a time for each worker

First one worker with all threads, which answers soonest; then as many workers as threads, with one each, which wait for nobody. The loop has all of
them, and torch's own settings. `share` is images a second over those of the loop.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from _record import machine, rate, tell, write

from pofx.data import load_images
from pofx.tasks.bulk import batch_size
from pofx.tasks.score import costs
from pofx.training import load_model

SERVE = [sys.executable, "-c", "import sys; from pofx.cli import main; sys.exit(main())", "serve"]


def loop(model: Any, x: torch.Tensor, seconds: float) -> float:
    """Images a second of the task, batch after batch."""
    size = batch_size(model.space)
    return rate(lambda: costs(model, x[:size]), size, seconds)


def client(base: str, file: Path, images: int, clients: int, seconds: float) -> dict[str, Any]:
    """Ask for `seconds`, from `clients` connections; every answer is checked against the first one of the same images."""
    url, x = urlsplit(base), np.load(file)
    bodies = []
    for k in range(0, len(x) - images + 1, images):
        stream = io.BytesIO()
        np.save(stream, x[k : k + images])
        bodies.append(stream.getvalue())
    times: list[float] = []
    known: dict[int, list[float]] = {}
    wrong = [0]
    end = time.perf_counter() + seconds

    def one(number: int) -> None:
        connection = HTTPConnection(str(url.hostname), url.port, timeout=600)
        k = number
        while time.perf_counter() < end:
            begun = time.perf_counter()
            connection.request("POST", "/score", bodies[k % len(bodies)], {"Content-Type": "application/x-npy"})
            answer = connection.getresponse()
            told = json.loads(answer.read())
            times.append(time.perf_counter() - begun)
            if answer.status != 200 or known.setdefault(k % len(bodies), told["nats"]) != told["nats"]:
                wrong[0] += 1
            k += clients

    begun = time.perf_counter()
    threads = [threading.Thread(target=one, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - begun
    cut = statistics.quantiles(times, n=100) if len(times) > 1 else times * 99
    row = {"requests": len(times), "images_per_request": images, "clients": clients, "images_per_second": len(times) * images / wall}
    return row | {"p50_ms": 1000 * cut[49], "p99_ms": 1000 * cut[98], "wrong": wrong[0]}


def measured(flags: argparse.Namespace, workers: int, threads: int, model: Any, x: torch.Tensor, file: Path) -> dict[str, Any]:
    """The three ways, of a service with so many workers."""
    size = ["--workers", str(workers), "--threads", str(threads), "--queue", "100000", "--timeout", "600"]
    command = [*SERVE, flags.run, "--port", "0", *size, "--no-calibration"]
    # The loop has torch's own settings, the service those of a shell.
    service = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert service.stderr is not None
        said = ""
        while not (found := re.search(r"ready: (http://\S+)", said)):
            line = service.stderr.readline()
            if not line:
                raise SystemExit(said)
            said += line
        rows: dict[str, Any] = {}
        for name, images, clients in (("alone", 1, 1), ("load", 1, flags.clients * workers), ("bulk", flags.images, 4 * workers)):
            before = loop(model, x, flags.seconds)
            asked = [sys.executable, __file__, found[1], "--seconds", str(flags.seconds), "--client", str(file), str(images), str(clients)]
            row = json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
            after = loop(model, x, flags.seconds)
            plain = (before + after) / 2
            rows[name] = row | {
                "loop_images_per_second": plain,
                "share": row["images_per_second"] / plain,
                "load_average": os.getloadavg()[0],
            }
            tell({"workers": workers, "way": name} | rows[name])
    finally:
        service.send_signal(signal.SIGTERM)
        service.wait()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("data", nargs="?", default="")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--images", type=int, default=100, help="in a request of bulk")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--client", nargs=3, metavar=("FILE", "IMAGES", "CLIENTS"), help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.client:
        file, images, clients = flags.client
        tell(client(flags.run, Path(file), int(images), int(clients), flags.seconds))
        return
    torch.set_num_threads(flags.threads)
    model = load_model(flags.run)
    x = load_images(flags.data)[0].x[:2000]
    file = Path(f"/tmp/pofx-serve-{os.getpid()}.npy")
    np.save(file, x.numpy())
    rows = {
        f"{workers} worker{'s' * (workers > 1)}": measured(flags, workers, flags.threads // workers, model, x, file)
        for workers in sorted({1, flags.threads})
    }
    file.unlink()
    found_all = {
        "run": flags.run,
        "data": flags.data,
        "batch": batch_size(model.space),
        "seconds": flags.seconds,
        **machine(flags.threads),
        "ways": rows,
    }
    write(flags.out, found_all)


if __name__ == "__main__":
    main()
