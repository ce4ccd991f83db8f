"""`pofx push RUN TO`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from pofx.cli.common import Answer, Common, Flag


def push(
    run: str,
    to: str,
    /,
    *,
    public: Annotated[Flag, Parameter(help="Make a new Hub repository public; it is private otherwise.")] = False,
    common: Common = Common(),
) -> Answer:
    """Share a run: to a folder or the Hugging Face Hub.

    A model card is written beside the weights. Only JSON, safetensors, CSV, pictures and pages travel.

    Args:
        run: a run folder.
        to: a folder, or hf:owner/name.
    """
    from pofx.tasks.share import push as task

    common.note(f"pushing {run} to {to} …")
    result = task(run, to, private=not public)
    return Answer(result.to_json(), f"{result.target}  ({len(result.files)} files)")
