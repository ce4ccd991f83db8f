"""`pofx export RUN --encoder -o FOLDER`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pofx.cli.common import Answer, Common, Flag
from pofx.errors import InputError


def export(
    run: str,
    /,
    *,
    out: Annotated[Path, Parameter(name=["-o", "--out"])],
    encoder: Flag = False,
    layer: str | None = None,
    common: Common = Common(),
) -> Answer:
    """A part of a run in a form of its own.

    The encoder alone is a run folder (JSON and safetensors): what its features read, and not the decoder or the generator. `pofx encode`,
    `pofx probe`, `pofx train classifier --init-from` and `pofx.load` read it. It draws nothing and scores nothing.

    Args:
        run: a run folder or a Hub id.
        out: the folder to write.
        encoder: the part that features are read from.
        layer: which features; by default the run's own.
    """
    if not encoder:
        raise InputError(f"What shall be exported? The encoder: pofx export {run} --encoder -o {out}")
    from pofx.training.export import export_encoder

    found = export_encoder(run, out, layer=layer)
    facts = {"run": run, "out": str(found.path), "layer": found.layer, "dims": found.dims, "parameters": found.parameters, "of": found.of}
    text = f"{found.layer}: {found.dims} numbers an image, {found.parameters:,} of {found.of:,} parameters"
    return Answer(facts, [text, str(found.path)])
