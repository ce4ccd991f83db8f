"""`pofx decompress FILE.pofx -o FOLDER`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pofx.cli.common import Answer, Common, load_model
from pofx.errors import InputError, RunError


def decompress(
    file: Path,
    /,
    *,
    out: Annotated[Path, Parameter(name=["-o", "--out"])],
    model: str | None = None,
    only: str | None = None,
    common: Common = Common(),
) -> Answer:
    """The images of a compressed file, bit for bit.

    What is damaged is named, and costs its block; all other images are written. A folder gets PNG files, FILE.npy the array.

    Args:
        file: FILE.pofx.
        out: a folder that is new or empty, or FILE.npy.
        model: the model that wrote it, where it is neither inside nor beside: a .pofx-model, or the run.
        only: places of the images wanted, e.g. 0,17,20-25: other blocks are not decoded.
    """
    from pofx.tasks.decompress import decompress as task
    from pofx.tasks.decompress import read_form
    from pofx.workflows.compress import scatter

    form = None
    if model is not None:
        form = read_form(model) if Path(model).is_file() else load_model(model, common)
    with common.progress("decompressing") as progress:
        found = task(file, form, only=None if only is None else _places(only), progress=progress)
    written = scatter(found, out)
    complaint = found.complaint()
    count = f"{written.images} image{'s' * (written.images != 1)}"
    if complaint is not None:
        kept = f"The other {count} came back and are in {written.path}." if written.images else "No image came back."
        raise RunError(f"{file} is damaged: {complaint}. {kept}")
    stored = f", {written.stored} of them as the files they were" if written.stored else ""
    facts = {"file": str(file), "out": str(written.path), "images": written.images, "stored": written.stored, "model": found.header.model}
    return Answer(facts, f"{count}{stored}\n{written.path}")


def _places(text: str) -> set[int]:
    """ "0,17,20-25" as numbers."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) - int(first) > 10**7):
            raise InputError(f"--only {text}: give places and ranges, e.g. --only 0,17,20-25")
        found |= set(range(int(first), int(last if dash else first) + 1))
    return found
