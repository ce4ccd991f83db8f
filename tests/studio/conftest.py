"""Runs on `digits`, small and quick, and the studio in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import which

import pytest

CHROMIUM = which("chromium") or which("chromium-browser")
ARTIFACTS = Path(os.environ.get("POFX_ARTIFACTS", Path(__file__).parents[2] / "build" / "screenshots"))
READY = 8.0  # seconds from process start to the line that says so


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of each kind that a page asks for."""
    pytest.importorskip("gradio", reason="the extra `studio` is not installed: pip install 'pofx[studio]'")
    import torch

    import pofx
    from pofx.models import GAN, VAE, Classifier, PixelCNN

    folder = tmp_path_factory.mktemp("studio") / "runs"
    data = pofx.load_data("digits")
    torch.manual_seed(0)
    for name, model in {
        "pixelcnn": PixelCNN(data.space, layers=3, channels=16),
        "vae": VAE(data.space, latents=2, hidden=64),
        "gan": GAN(data.space, network="mlp", latents=4, hidden=32),
        "classifier": Classifier(data.space),
    }.items():
        pofx.train(model, data, out=folder / name, steps=60, threads=1, quiet=True)
    return folder


@dataclass(frozen=True)
class Server:
    """A studio that runs: its address, and the seconds that its ready line took."""

    address: str
    ready: float
    process: subprocess.Popen[str]


@pytest.fixture(scope="session")
def studio(runs: Path) -> Iterator[Server]:
    """`pofx studio runs`, as a user starts it."""
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "pofx", "studio", str(runs), "--device", "cpu"], stderr=subprocess.PIPE, text=True, cwd=runs.parent
    )
    try:
        assert process.stderr is not None
        said, found = "", None
        # Another worker's studio may take the port first: then this one says so, and takes the next.
        while not found and (line := process.stderr.readline()):
            said, found = said + line, re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, f"no address in {said!r}"
        yield Server(found.group(), time.monotonic() - begun, process)
    finally:
        process.terminate()
        process.wait(20)
