"""The encoder of a run, alone: a run folder whose weights are those that its features read (`nn/extract.py`).

model.json is that of the run, with `"encoder": {"layer": …}`; loading it makes an `Extract`, which has features and nothing else, so that nobody draws
samples with weights that are not there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from pofx.errors import InputError
from pofx.model import Features, require
from pofx.nn.extract import Extract
from pofx.training.files import new_folder, write_json
from pofx.training.runs import JSON, load_model, read_run, save_weights


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the folder.
        layer: of the features; dims: their number.
        parameters: in the folder; of: in the run.
    """

    path: Path
    layer: str
    dims: int
    parameters: int
    of: int


def export_encoder(run: str | Path, out: str | Path, *, layer: str | None = None) -> Exported:
    """Write the encoder of `run` into the folder `out`.

    Raises:
        CapabilityError: the model has no features.
        InputError: no such run or layer; a conditional model; `out` holds something already.
    """
    info, out = read_run(run), new_folder(out)
    if info.encoder is not None:
        raise InputError(f"{run} is an encoder already ({info.encoder['layer'] or 'default layer'}). Copy the folder.")
    model = require(load_model(info.path), Features, to="give features")
    alone = Extract(model.space, part=model, layer=layer)
    with torch.no_grad():
        dims = alone.features(torch.zeros(1, *model.space.shape, dtype=torch.uint8)).shape[1]
    out.mkdir(parents=True, exist_ok=True)
    save_weights(alone, out)
    write_json(out / JSON, info.json | {"encoder": {"layer": layer}})
    return Exported(out, layer or "default layer", dims, sum(p.numel() for p in alone.read), sum(p.numel() for p in model.parameters()))
