"""What a worker does with a run: each job is a task of `pofx.tasks`, asked as the command line asks it.

A job says whether the model can do it (a CapabilityError says why not), which options it takes of this model, and whether images of several
requests may go together. They may where the answer to an image does not depend on its company, which `tasks/bulk.py` sees to.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pofx.errors import CapabilityError, InputError
from pofx.model import (
    Autoregressive,
    Encoder,
    ExactLikelihood,
    Features,
    ImageModel,
    LatentVariable,
    LowerBound,
    Sampler,
    capabilities,
    require,
)
from pofx.tasks import classify as classifying
from pofx.tasks import outliers as judging
from pofx.tasks._conformal import Guarantee, rank
from pofx.tasks._decoding import has_prior
from pofx.tasks._oddness import Density, Oddness
from pofx.tasks._reference import Reference
from pofx.tasks._statistics import Known
from pofx.tasks.bulk import TensorImages, batch_size
from pofx.tasks.complete import check_completes, kept_region
from pofx.tasks.complete import complete as completing
from pofx.tasks.encode import encode as encoding
from pofx.tasks.encode import inverts
from pofx.tasks.sample import SAMPLE_CHUNK
from pofx.tasks.sample import sample as sampling
from pofx.tasks.score import costs
from pofx.training import load_model
from pofx.views import Attributes, Caption, Label
from pofx.workflows.loading import RunData, run_info
from pofx.workflows.outliers import copies

Array = NDArray[Any]


@dataclass(frozen=True)
class Found:
    """What a job found.

    Attributes:
        rows: name → array; of jobs whose requests go together `(n, …)`, a row an image.
        facts: JSON, the same for every image.
    """

    rows: Mapping[str, Array]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Served:
    """A run in the memory of a worker, with what it was calibrated to; `why` says of an alarm that it has none."""

    run: str
    model: ImageModel
    info: RunData
    alpha: float = 0.05
    guarantee: Guarantee = "marginal"
    pooled: bool = False
    alarm: judging.Alarm | None = None
    reject: classifying.Calibration | None = None
    why: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, run: str, device: str, number: int = 0, **settings: Any) -> Served:
        """Worker `number` of several takes its turn of the GPUs there are."""
        gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
        return cls(run, load_model(run, f"cuda:{number % gpus}" if gpus else device), run_info(run), **settings)

    def about(self) -> dict[str, Any]:
        """What the front must know of the model, as JSON."""
        model, cannot, takes = self.model, {}, {}
        for name, job in JOBS.items():
            try:
                job.check(model)
            except CapabilityError as error:
                cannot[name] = str(error)
            else:
                takes[name] = list(job.takes(model))
        return {
            "model": type(model).__name__,
            "capabilities": list(capabilities(model)),
            "device": str(model.device),
            "batch": batch_size(model.space),
            "chunk": getattr(model, "draw_batch", None) or SAMPLE_CHUNK,
            "layers": list(model.feature_layers) if isinstance(model, Features) else [],
            "takes": takes,
            "cannot": cannot,
        }

    # Calibration: made by one process, which then ends, and given to every worker --------------------------------------------

    def calibrate(self) -> tuple[dict[str, Array], dict[str, str], list[str]]:
        """Alarm and reject from the run's own data as bytes, why there is none, and remarks.

        Raises:
            InputError: the run's own data is not here, or is not what it was.
        """
        notes = _Notes([])
        own = self.info.load_data(notes.note)
        if not self.info.unchanged(own):
            raise InputError(
                f"{notes.said.pop()} Images of training may be among the calibration images: the false-alarm rate would not hold."
            )
        made: dict[str, Array] = {}
        why: dict[str, str] = {}
        try:
            rank(self.alpha, len(own.calib), self.guarantee)
            repeated = copies(own.calib, self.alpha, self.guarantee)
            if repeated is not None:
                notes.note(repeated)
            made["outliers"] = _packed(judging.calibrate(self.model, calib=own.calib, center=own.valid, train=own.train))
        except (InputError, CapabilityError) as error:
            why["outliers"] = str(error)
        if can(self.model, "classify"):
            try:
                settings = {"calib": own.calib, "center": own.valid, "alpha": self.alpha, "pooled": self.pooled}
                made["classify"] = _packed(classifying.calibrate(self.labeler, **settings))
            except InputError as error:
                why["classify"] = str(error)
        return made, why, notes.said

    def take(self, made: Mapping[str, Array], why: Mapping[str, str]) -> None:
        """Be calibrated to what `calibrate` made."""
        if "outliers" in made:
            self.alarm = _unpacked(made["outliers"])
        if "classify" in made:
            self.reject = _unpacked(made["classify"])
        self.why = dict(why)

    @property
    def labeler(self) -> ImageModel:
        if self._labeler is None:
            self._labeler = classifying.as_labeler(self.model)
        return self._labeler

    _labeler: ImageModel | None = None


@dataclass(frozen=True)
class _Notes:
    said: list[str]

    def note(self, text: str, /) -> None:
        self.said.append(text)


_OURS = [judging.Alarm, Known, Reference, Oddness, Density, classifying.Calibration, classifying.Told]


def _packed(made: Any) -> Array:
    """Tensors and plain dataclasses as bytes, for other workers of the same front."""
    buffer = io.BytesIO()
    torch.save(made, buffer)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def _unpacked(made: Array) -> Any:
    with torch.serialization.safe_globals(_OURS):
        return torch.load(io.BytesIO(made.tobytes()), weights_only=True)


# Jobs -----------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """Attributes:
    run: `(served, arrays, **options)` → Found; arrays may hold x `(n, C, H, W)`, y `(n, …)`, hole `(H, W)`.
    check: raises CapabilityError where the model cannot.
    takes: names of the options that mean something for the model.
    together: whether images of several requests may be one batch.
    """

    run: Callable[..., Found]
    check: Callable[[ImageModel], Any]
    takes: Callable[[ImageModel], tuple[str, ...]]
    together: Callable[[ImageModel], bool] = lambda model: True


def can(model: ImageModel, job: str) -> bool:
    try:
        JOBS[job].check(model)
    except CapabilityError:
        return False
    return True


def _told(model: ImageModel) -> tuple[str, ...]:
    """How a request says the value of the model's view, where the images do not."""
    ways = ((Label, "label"), (Attributes, "attributes"), (Caption, "caption"))
    return tuple(name for view, name in ways if isinstance(model.given, view))


def _images(arrays: Mapping[str, Array]) -> TensorImages:
    return TensorImages(torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"]) if "y" in arrays else None)


def score(served: Served, arrays: Mapping[str, Array], **options: Any) -> Found:
    found = costs(served.model, _images(arrays), **options)
    rows, facts = (
        {"nats": found.nats.numpy(), "bits_per_dim": found.bits_per_dim.numpy()},
        {"kind": found.kind, "given": _repr(found.given)},
    )
    if isinstance(found.dims, Tensor):
        return Found(rows | {"dims": found.dims.numpy()}, facts)
    return Found(rows, facts | {"dims": found.dims})


def outliers(served: Served, arrays: Mapping[str, Array]) -> Found:
    if served.alarm is None:
        raise CapabilityError(served.why.get("outliers", "This service was started without calibration, and has no alarm."))
    found = served.alarm.judge(served.model, _images(arrays), alpha=served.alpha, guarantee=served.guarantee)
    rows = {"score": found.score.numpy(), "p_value": found.p_value.numpy(), "outlier": found.outlier.numpy()}
    rows |= {f"statistics.{name}": values.numpy() for name, values in found.statistics.items()}
    facts = {
        "alpha": found.alpha,
        "guarantee": found.guarantee,
        "promise": found.promise,
        "calibration": len(found.calibration),
        "cut": found.cut,
        "threshold": found.threshold,
    }
    return Found(rows, facts)


def encode(served: Served, arrays: Mapping[str, Array], **options: Any) -> Found:
    found = encoding(served.model, _images(arrays), **options)
    rows = {"z": found.z.numpy()}
    if found.inversion is not None:
        rows |= {"squared_error": found.inversion.squared_error.numpy(), "norm": found.inversion.norm.numpy()}
    return Found(rows, {"kind": found.kind, "latent_dims": found.z.shape[1]})


def _check_encodes(model: ImageModel) -> None:
    if not isinstance(model, Encoder | Features) and not inverts(model):
        require(model, Encoder, Features, to="encode images")


def _encode_takes(model: ImageModel) -> tuple[str, ...]:
    drawn = ("sample", "seed") if isinstance(model, LatentVariable) else ()
    searched = ("steps", "restarts", "seed") if inverts(model) else ()
    return ("convert", *_told(model), *drawn, *searched, *(("layer",) if isinstance(model, Features) else ()))


def classify(served: Served, arrays: Mapping[str, Array]) -> Found:
    found = classifying.classify(served.labeler, _images({"x": arrays["x"]}), calib=served.reject, alpha=served.alpha, pooled=served.pooled)
    rows = {"label": found.label.numpy(), "probability": found.probability.numpy()}
    facts: dict[str, Any] = {"kind": found.kind, "classes": None if served.info.class_names is None else list(served.info.class_names)}
    if found.p_value is None or found.sets is None:
        return Found(
            rows, facts | {"alpha": None, "note": served.why.get("classify", "This service was started without calibration: no reject.")}
        )
    rows |= {"p_value": found.p_value.numpy(), "fits": found.sets.numpy(), "verdict": np.array(found.verdicts)}
    return Found(rows, facts | {"alpha": found.alpha, "note": None})


def complete(served: Served, arrays: Mapping[str, Array], *, keep: str | None = None, format: str = "json", **options: Any) -> Found:
    x, space = torch.from_numpy(arrays["x"]), served.model.space
    if keep is not None and "hole" in arrays:
        raise InputError("--keep and hole both say what is kept; give one of them.")
    known = None
    if keep is not None:
        known = kept_region(keep, space.height, space.width)
    elif "hole" in arrays:
        known = torch.from_numpy(~arrays["hole"].astype(bool))
    found = completing(served.model, x, known, torch.from_numpy(arrays["y"]) if "y" in arrays else None, **options)
    facts = {name: value for name, value in found.to_json().items() if name != "out"}
    if format != "png":
        return Found({"images": found.images.numpy()}, facts)
    buffer = io.BytesIO()
    found.sheet().save(buffer, "PNG")
    return Found({"png": np.frombuffer(buffer.getvalue(), np.uint8)}, facts)


def _complete_takes(model: ImageModel) -> tuple[str, ...]:
    weighted = ("particles",) if isinstance(model, LatentVariable | Autoregressive) else ()
    swept = ("sweeps",) if isinstance(model, Autoregressive) else ()
    steps = ("steps",) if inverts(model) else ()
    return ("convert", *_told(model), "keep", "completions", *weighted, *swept, *steps, "seed", "format")


def sample(served: Served, arrays: Mapping[str, Array], *, n: int, **options: Any) -> Found:
    found = sampling(served.model, n, torch.from_numpy(arrays["y"]) if "y" in arrays else None, **options)
    assert found.x is not None
    return Found({"images": found.x.numpy()}, {"kind": found.kind})


def _check_samples(model: ImageModel) -> None:
    require(model, Sampler, to="sample")
    if model.given is not None and not _told(model):
        raise CapabilityError(f"This {type(model).__name__} is p(x | {model.given.name}): it draws given an image. Send one to /complete.")


def _sample_takes(model: ImageModel) -> tuple[str, ...]:
    steps = ("temperature", "top_p") if isinstance(model, Autoregressive) else ()
    return ("n", "seed", "first", *_told(model), *steps, *(("truncation",) if has_prior(model) else ()), "sample_format")


def _check_scores(model: ImageModel) -> None:
    require(model, ExactLikelihood, LowerBound, to="score images (no likelihood, no bound)")


def _score_takes(model: ImageModel) -> tuple[str, ...]:
    return ("convert", *_told(model), *(() if isinstance(model, ExactLikelihood) else ("samples", "estimate", "seed")))


def _repr(view: Any) -> str | None:
    return None if view is None else repr(view)


JOBS = {
    "score": Job(score, _check_scores, _score_takes),
    "outliers": Job(outliers, lambda model: None, lambda model: ("convert", *_told(model))),
    "encode": Job(encode, _check_encodes, _encode_takes, lambda model: not inverts(model)),
    "classify": Job(classify, classifying.as_labeler, lambda model: ("convert",)),
    "complete": Job(complete, check_completes, _complete_takes, lambda model: False),
    "sample": Job(sample, _check_samples, _sample_takes, lambda model: False),
}
