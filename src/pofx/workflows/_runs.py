"""A model made with a seed and trained in its own folder, for workflows that compare several. Run again, it is read and not trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pofx.data import Data
    from pofx.model import ImageModel


def trained(name: str, data: Data, out: Path, *, steps: int, seed: int = 0, quiet: bool = True, **arguments: Any) -> ImageModel:
    """The model `name` of the catalogue, with these arguments, after `steps` steps of 64 images; ready to be asked.

    Args:
        out: its run folder; one that holds a run with other arguments is an InputError.
        seed: of the first weights, the order and the noise.
    """
    from pofx import catalog
    from pofx.training import train

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = catalog.get(name)(data.space, **arguments)
    # float32: differences of models are measured here, not of precisions. Threads as set: timing them takes longer than small runs.
    return train(model, data, out=out, steps=steps, seed=seed, precision="32", threads=torch.get_num_threads(), quiet=quiet).model
