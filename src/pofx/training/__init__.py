"""Training: from a model and data to a run folder, and back to a model.

>>> from pofx.training import train, load_model, read_run, save_model
"""

from __future__ import annotations

from pofx.training.files import write_atomic
from pofx.training.loop import TrainingPlan, train
from pofx.training.runs import Run, RunInfo, load_model, read_run, save_model

__all__ = ["Run", "RunInfo", "TrainingPlan", "load_model", "read_run", "save_model", "train", "write_atomic"]
