"""One torch thread per test worker: spinning threads beside another job cost 40×."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch

from pofx.cli import main

TINY = {
    "pixelcnn": "pixelcnn digits --layers 1 --channels 4",
    "label": "pixelcnn digits --layers 1 --channels 4 --given label",
    "vae": "vae digits --latents 2 --channels 4",
    "gan": "gan digits --latents 2 --channels 4",
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a run that the command line trained for a few steps on digits, by its name in TINY; once per session."""
    root = tmp_path_factory.mktemp("runs")

    def make(name: str) -> Path:
        if not (root / name).exists():
            assert main(f"train {TINY[name]} --out {root}/{name} --steps 3 --batch-size 16 --quiet".split()) == 0
        return root / name

    return make
