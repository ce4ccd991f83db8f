"""A real service: `pofx serve` in a process of its own, its workers in theirs."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch

from pofx.cli import main
from pofx.data import load_images
from pofx.serve.door import is_local
from pofx.serve.service import check_token
from pofx.tasks.sample import sample
from pofx.tasks.score import costs
from pofx.training import load_model

NPY = {"Content-Type": "application/x-npy"}


class Service:
    """`pofx serve` with these flags; `said` is its stderr."""

    def __init__(self, *flags: str, env: dict[str, str] | None = None) -> None:
        code = "import sys; from pofx.cli import main; sys.exit(main())"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "serve", *flags, "--port", "0", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | (env or {}),
        )
        self.said: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()
        self.base = self.wait_for(r"ready: (http://\S+)")

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)

    def wait_for(self, pattern: str, seconds: float = 240) -> str:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := re.search(pattern, "".join(self.said)):
                return found[found.re.groups]
            assert self.process.poll() is None, "".join(self.said)
            time.sleep(0.05)
        raise AssertionError(f"{pattern} was not said: {''.join(self.said)}")

    def ask(self, path: str, body: bytes | None = None, headers: dict[str, str] = NPY) -> tuple[int, bytes]:
        request = urllib.request.Request(self.base + path, body, headers if body is not None else {})
        try:
            with urllib.request.urlopen(request, timeout=240) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def workers(self) -> list[int]:
        """Processes that it has started."""
        done = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True, check=True)
        return [int(pid) for pid in done.stdout.split()]

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, dict[str, Any]]:
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=240)
        return self.process.returncode, json.loads(out or "{}")


def npy(x: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asarray(x))
    return stream.getvalue()


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    return load_images("digits:train")[0].x[:600]


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    made = Service(str(folder), "--threads", "1", "--no-calibration")
    yield made
    if made.process.poll() is None:
        made.stop()


def at_once(service: Service, bodies: Sequence[bytes], threads: int = 16) -> list[tuple[int, bytes]]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda body: service.ask("/score", body), bodies))


def test_concurrent_requests_get_the_numbers_of_the_task_to_the_last_digit(service: Service, folder: Path, digits: torch.Tensor):
    want = costs(load_model(folder), digits).nats.tolist()
    sizes = [1, 3, 1, 120, 7, 1, 1, 60] * 3
    starts = np.cumsum([0, *sizes])
    answers = at_once(service, [npy(digits[a : a + n]) for a, n in zip(starts, sizes, strict=False)])
    for (status, body), start, size in zip(answers, starts, sizes, strict=False):
        assert status == 200
        assert json.loads(body)["nats"] == want[start : start + size]


def test_a_killed_worker_loses_no_request_that_was_taken_in(service: Service, folder: Path, digits: torch.Tensor):
    want = costs(load_model(folder), digits[:200]).nats.tolist()
    found: list[tuple[int, bytes]] = []
    loading = threading.Thread(target=lambda: found.extend(at_once(service, [npy(digits[k : k + 1]) for k in range(200)] * 2)))
    loading.start()
    time.sleep(0.2)
    for pid in service.workers():  # what it held, and what was queued, waits for the next
        os.kill(pid, signal.SIGKILL)
    loading.join(240)
    assert [status for status, _ in found] == [200] * 400
    assert [json.loads(body)["nats"][0] for _, body in found] == want * 2
    deaths = float(re.findall(r"^pofx_deaths_total (\S+)", service.ask("/metrics")[1].decode(), re.M)[0])
    assert deaths == 1


def test_samples_are_streamed_as_they_are_drawn(service: Service, folder: Path):
    """Two chunks of 256 and one of 8: the first is here before the others are drawn."""
    url = urlsplit(service.base)
    connection = HTTPConnection(str(url.hostname), url.port, timeout=240)
    connection.request("GET", "/sample?n=520&seed=2")
    answer = connection.getresponse()
    assert answer.headers["Transfer-Encoding"] == "chunked"
    x = np.load(io.BytesIO(answer.read()), allow_pickle=False)
    want = sample(load_model(folder), 520, seed=2).x
    assert want is not None
    assert np.array_equal(x, want.numpy())


def test_who_sends_half_a_request_or_leaves_does_no_harm(service: Service, digits: torch.Tensor):
    url = urlsplit(service.base)
    body = npy(digits[:1])
    for cut in (0, 20):
        with socket.create_connection((str(url.hostname), url.port or 80)) as client:
            head = f"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-npy\r\nContent-Length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body[: len(body) - cut])
    assert service.ask("/score", body)[0] == 200


def test_it_stops_when_what_it_took_in_is_done(service: Service, folder: Path, digits: torch.Tensor):
    """Last: nothing works on it afterwards."""
    want = costs(load_model(folder), digits).nats.tolist()
    found: list[tuple[int, bytes]] = []
    loading = threading.Thread(target=lambda: found.append(service.ask("/score", npy(digits))))
    loading.start()
    while "pofx_waiting_images 0.0" in service.ask("/metrics")[1].decode() and loading.is_alive():
        time.sleep(0.001)
    workers = service.workers()
    code, answer = service.stop()
    loading.join(60)
    assert found[0][0] == 200
    assert json.loads(found[0][1])["nats"] == want
    assert code == 0
    assert answer["requests"] >= 1
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


# Before it starts ---------------------------------------------------------------------------------------------------------------------


def test_it_refuses_to_be_reached_from_elsewhere_without_a_token(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("POFX_TOKEN", raising=False)
    assert main(["serve", str(folder), "--host", "0.0.0.0"]) == 2
    assert "POFX_TOKEN=$(openssl rand -hex 16) pofx serve" in capsys.readouterr().err
    monkeypatch.setenv("POFX_TOKEN", "short")
    assert main(["serve", str(folder), "--host", "0.0.0.0"]) == 2
    assert "at least 16" in capsys.readouterr().err
    check_token("0.0.0.0", "0123456789abcdef")


def test_what_is_local():
    assert all(map(is_local, ("127.0.0.1", "::1", "localhost", "127.8.0.1")))
    assert not any(map(is_local, ("0.0.0.0", "::", "example.org", "192.168.1.1")))


def test_a_port_that_is_taken_and_a_run_that_is_none_are_one_error(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(folder), "--port", str(port)]) == 2
        assert f"--port {port + 1}" in capsys.readouterr().err
    assert main(["serve", str(tmp_path)]) == 2
    assert "is no run" in capsys.readouterr().err
    for flags in (["--workers", "0"], ["--timeout", "0"], ["--alpha", "2"], ["--port", "70000"], ["--token-file", str(tmp_path / "none")]):
        assert main(["serve", str(folder), *flags]) == 2
        assert f"{flags[0]} {flags[1]}" in capsys.readouterr().err


# Long ---------------------------------------------------------------------------------------------------------------------------------


def memory(pid: int) -> float:
    """Resident memory of a process, MiB."""
    return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) / 1024


@pytest.fixture(scope="module", params=["pixelcnn", "vae"])
def calibrated(request: pytest.FixtureRequest, run: Callable[[str], str]) -> Iterator[Service]:
    made = Service(run(request.param), "--threads", "1", "--max-mb", "1")
    made.wait_for(r"(calibrated)")
    yield made
    made.stop()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_requests_of_which_one_in_a_hundred_is_malformed(service: Service, folder: Path, digits: torch.Tensor):
    if service.process.poll() is not None:
        service = Service(str(folder), "--threads", "1", "--no-calibration")
    want = costs(load_model(folder), digits).nats.tolist()
    good = [npy(digits[k : k + 1]) for k in range(600)]
    bad = [b"", b"no array", good[0][:-7], npy(np.zeros((1, 3, 8, 8), np.uint8)), npy(np.full((1, 1, 8, 8), 99, np.uint8))]

    def one(k: int) -> None:
        malformed = k % 100 == 99
        status, body = service.ask("/score", bad[k // 100 % len(bad)] if malformed else good[k % 600])
        if malformed:
            assert 400 <= status < 500 and len(json.loads(body)["detail"]) > 10
        else:
            assert (status, json.loads(body)["nats"]) == (200, [want[k % 600]])

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, range(2000)))
        before = {pid: memory(pid) for pid in (service.process.pid, *service.workers())}
        list(pool.map(one, range(2000, 12_000)))
        after = {pid: memory(pid) for pid in before}
    assert all(after[pid] - before[pid] < 16 for pid in before), (before, after)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_schemathesis_finds_nothing(calibrated: Service):
    program = Path(sys.executable).with_name("schemathesis")
    if not program.exists():
        pytest.skip("schemathesis is not installed beside this Python")
    command = [
        str(program),
        "--config-file",
        str(Path(__file__).with_name("schemathesis.toml")),
        "run",
        f"{calibrated.base}/openapi.json",
        "--checks",
        "all",
        "--phases",
        "examples,coverage,fuzzing",
    ]
    command += [
        "--max-examples",
        "25",
        "--suppress-health-check",
        "all",
        "--seed",
        "1",
        "--request-timeout",
        "120",
        "--max-response-time",
        "120",  # a slow machine is no finding
        "--continue-on-failure",
    ]
    environment = os.environ | {
        "SCHEMATHESIS_HOOKS": "hooks",
        "PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, re.sub(r"(\[\[[\d, \[\]]{80})[\d, \[\]]+", r"\1 …", done.stdout)[-6000:]
