"""What a run needs to go on, in `checkpoints/step-N.ckpt`: weights, averages, optimizer states, the step. No generator state.

Read with `weights_only=True`: tensors, numbers, strings and their containers, never code. The last two are kept; if the
newest cannot be read, the one before it is used.
"""

from __future__ import annotations

import io
import re
import warnings
import zlib
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch

from pofx.errors import RunError
from pofx.training.files import write_atomic

KEEP = 2
FORMAT = 1


def folder_of(run: Path) -> Path:
    return run / "checkpoints"


def path_of(run: Path, step: int) -> Path:
    return folder_of(run) / f"step-{step:09d}.ckpt"


def found(run: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    steps = {path: re.fullmatch(r"step-(\d+)\.ckpt", path.name) for path in folder_of(run).glob("step-*.ckpt")}
    return sorted((path for path, match in steps.items() if match), key=lambda path: int(path.stem[5:]), reverse=True)


def save(run: Path, state: dict[str, Any], step: int) -> Path:
    """Write the state after `step` steps, whole or not at all, and remove all but the last two."""
    path = path_of(run, step)
    path.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "step": step, **state}, buffer)
    content = buffer.getbuffer()

    def write(file: IO[bytes]) -> None:
        file.write(content)
        file.write(zlib.crc32(content).to_bytes(4, "big"))  # torch.load does not notice a flipped bit

    write_atomic(path, write)
    for old in found(run)[KEEP:]:
        old.unlink(missing_ok=True)
    return path


def load(path: Path) -> dict[str, Any]:
    """The state in `path`, on the CPU. Raises ValueError where the file is damaged."""
    content = path.read_bytes()
    if len(content) < 4 or zlib.crc32(content[:-4]) != int.from_bytes(content[-4:], "big"):
        raise ValueError("its checksum does not match")
    try:
        state = torch.load(io.BytesIO(content[:-4]), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, KeyError, UnpicklingError) as error:
        raise ValueError(str(error).splitlines()[0]) from error
    if state["format"] > FORMAT:
        raise RunError(f"{path} was written by a newer pofx (checkpoint format {state['format']}). Update: pip install -U pofx")
    return state


def newest(run: Path) -> dict[str, Any] | None:
    """The last readable state of a run, None where it has no checkpoint yet. Warns about damaged ones and sets them aside.

    Raises:
        RunError: there are checkpoints, but none can be read.
    """
    paths = found(run)
    for path in paths:
        try:
            return load(path)
        except (ValueError, OSError) as error:
            warnings.warn(f"{path} is damaged ({error}); trying the one before it.", RuntimeWarning, stacklevel=2)
            if not isinstance(error, OSError):
                path.replace(path.with_suffix(".damaged"))  # else it would outlive good checkpoints of fewer steps
    if paths:
        raise RunError(
            f"No checkpoint of {run} can be read. Its last averaged weights may still load: pofx info {run}. To train anew, choose another --out."
        )
    return None
