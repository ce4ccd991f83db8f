"""Real kills: a run that was killed by SIGKILL, at any moment, ends with the weights of one that was not, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pofx.training.logger import read_csv

STEPS = {"pixelcnn": 140, "vae": 140, "gan": 200}


class Zygote:
    """The victim's parent, which forks a fresh child for each try."""

    def __init__(self) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        command = [sys.executable, str(Path(__file__).parent / "victim.py")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        assert self.answer()["ready"]

    def answer(self) -> dict:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def start(self, model: str, out: Path, steps: int) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"model": model, "out": str(out), "steps": steps, "checkpoint_seconds": 0.05}) + "\n")
        self.process.stdin.flush()
        return self.answer()["pid"]

    def finish(self) -> int:
        return self.answer()["code"]


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    yield made
    made.process.kill()
    made.process.wait()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(pid: int, condition) -> bool:
    """Stop the process at a moment when `condition` holds; False where it ended before."""
    while alive(pid):
        if condition():
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.002)
            if condition():  # still, now that it stands still
                return True
            os.kill(pid, signal.SIGCONT)
    return False


def unfinished(folder: Path, pattern: str = "checkpoints/*.tmp"):
    return lambda: next(iter(folder.glob(pattern)), None) is not None


def kill(pid: int, moment: str, out: Path, luck: random.Random) -> bool:
    """SIGKILL at a moment; False where it did not come (the run ended)."""
    if moment == "random":
        time.sleep(luck.uniform(0.02, 1.5))
        reached = alive(pid)
    elif moment == "checkpoint":
        reached = wait_for(pid, unfinished(out))
    elif moment == "validation":
        reached = wait_for(pid, lambda: out.with_suffix(".validating").exists())
    elif moment == "first step":
        reached = wait_for(
            pid,
            lambda: (out / "checkpoints" / "step-000000000.ckpt").exists() and not (out / "checkpoints" / "step-000000001.ckpt").exists(),
        )
    else:
        assert moment == "before the first checkpoint"
        reached = wait_for(pid, lambda: (out / "model.json").exists() and not list(out.glob("checkpoints/*.ckpt")))
    if reached:
        os.kill(pid, signal.SIGKILL)
    return reached


def whole(zygote: Zygote, model: str, out: Path, steps: int) -> None:
    zygote.start(model, out, steps)
    assert zygote.finish() == 0


def rows(out: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k != "minutes"} for row in read_csv(out / "metrics.csv")]


def run_with_kills(zygote: Zygote, model: str, folder: Path, moments: list[str], *, steps: int, seed: int = 0) -> list[str]:
    """Kill at each of the moments in turn, let the last try finish, and compare with a run that was left alone. Returns the kills made."""
    luck = random.Random(seed)
    whole(zygote, model, folder / "whole", steps)
    out, made = folder / "killed", []
    for moment in moments:
        pid = zygote.start(model, out, steps)
        reached = kill(pid, moment, out, luck)
        code = zygote.finish()
        if not reached:
            assert code == 0
            break
        assert code == -signal.SIGKILL
        made.append(moment)
    zygote.start(model, out, steps)
    assert zygote.finish() == 0
    assert (out / "model.safetensors").read_bytes() == (folder / "whole" / "model.safetensors").read_bytes()
    assert rows(out) == rows(folder / "whole")
    assert not list(out.rglob("*.tmp"))
    return made


def test_three_kills(zygote: Zygote, tmp_path: Path) -> None:
    assert run_with_kills(zygote, "vae", tmp_path, ["first step", "checkpoint", "validation"], steps=50) == [
        "first step",
        "checkpoint",
        "validation",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["pixelcnn", "vae", "gan"])
def test_many_kills(zygote: Zygote, tmp_path: Path, model: str) -> None:
    moments = ["before the first checkpoint", "first step", "checkpoint", "random", "checkpoint", "random"]
    moments += (
        ["checkpoint", "random"] if model == "gan" else ["validation", "random", "validation", "random"]
    )  # a GAN has nothing to validate
    made = run_with_kills(zygote, model, tmp_path, moments, steps=STEPS[model], seed=len(model))
    assert len(made) >= 7, made
