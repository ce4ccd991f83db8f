"""`pofx pull SOURCE OUT`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pofx.cli.common import Answer, Common


def pull(
    source: str,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["-o", "--out"])] = None,
    revision: str | None = None,
    common: Common = Common(),
) -> Answer:
    """Fetch a shared run.

    Args:
        source: hf:owner/name, owner/name or a folder.
        out: a new folder for it; by default runs/NAME.
        revision: branch, tag or commit of the Hub repository.
    """
    from pofx.tasks.share import pull as task

    target = out or Path("runs") / source.rstrip("/").rpartition("/")[2].removeprefix("hf:")
    common.note(f"pulling {source} …")
    result = task(source, target, revision=revision)
    return Answer(result.to_json(), f"{result.target}  ({len(result.files)} files)")
