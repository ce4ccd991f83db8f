"""pofx, "p of x": learn p(x) from your images, without labels, and put it to work.

Everything below is imported when it is first asked for: `import pofx` alone does not import torch.

>>> import pofx
>>> pofx.ImageSpace(1, 8, 8, levels=17).dims
64
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pofx import catalog, errors, metrics, models, tasks, testing, views, workflows
    from pofx.data import Data, Split, load_data, load_images
    from pofx.errors import CapabilityError, InputError, PofxError, RunError
    from pofx.model import Score
    from pofx.space import ImageSpace
    from pofx.training import Run, load_model, train
    from pofx.training import load_model as load
    from pofx.views import Attributes, Caption, Gray, Half, Label, Masked, PartialLabel, Subsample, Top

__version__ = "0.1.0"

# Where each public name lives; "" is the submodule of that name.
_HOME = {
    "Attributes": "pofx.views",
    "CapabilityError": "pofx.errors",
    "Caption": "pofx.views",
    "Data": "pofx.data",
    "Gray": "pofx.views",
    "Half": "pofx.views",
    "ImageSpace": "pofx.space",
    "InputError": "pofx.errors",
    "Label": "pofx.views",
    "Masked": "pofx.views",
    "PartialLabel": "pofx.views",
    "PofxError": "pofx.errors",
    "Run": "pofx.training",
    "RunError": "pofx.errors",
    "Score": "pofx.model",
    "Split": "pofx.data",
    "Subsample": "pofx.views",
    "Top": "pofx.views",
    "catalog": "",
    "errors": "",
    "load": "pofx.training",
    "load_data": "pofx.data",
    "load_images": "pofx.data",
    "load_model": "pofx.training",
    "metrics": "",
    "models": "",
    "tasks": "",
    "testing": "",
    "train": "pofx.training",
    "views": "",
    "workflows": "",
}

__all__ = [
    "Attributes",
    "CapabilityError",
    "Caption",
    "Data",
    "Gray",
    "Half",
    "ImageSpace",
    "InputError",
    "Label",
    "Masked",
    "PartialLabel",
    "PofxError",
    "Run",
    "RunError",
    "Score",
    "Split",
    "Subsample",
    "Top",
    "__version__",
    "catalog",
    "errors",
    "load",
    "load_data",
    "load_images",
    "load_model",
    "metrics",
    "models",
    "tasks",
    "testing",
    "train",
    "views",
    "workflows",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pofx' has no attribute {name!r}")
    home = _HOME[name]
    module = importlib.import_module(home or f"pofx.{name}")
    value = getattr(module, "load_model" if name == "load" else name) if home else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
