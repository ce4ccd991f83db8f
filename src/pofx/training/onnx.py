"""The scoring graph of a run as ONNX: whole numbers in, nats out, with all that lies between inside.

    input    x               uint8 (N, C, H, W), values 0 … levels−1, any N
    output   nats            float32 (N,): −log p(x), or −bound of it; +∞ where a value is no level, since p(x) = 0 there
             bits_per_dim    nats / (C·H·W · ln 2)
    or, of a classifier
             log_prob        float32 (N, classes): log p(y | x), at its temperature; NaN where a value is no level

A bound takes its draws of z at ε that are stored in the graph, the same for all images, while `pofx score` draws ε anew for each image. Both are the mean
of as many draws from N(0, I): equally honest, and not the same number. Metadata of the file say which it is (`kind`, `samples`, `seed`).
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pofx.errors import CapabilityError, InputError, RunError
from pofx.model import ExactLikelihood, ImageModel, Kind, Labeler, LatentVariable, LowerBound, capabilities, evaluating
from pofx.noise import Noise
from pofx.training.files import write_atomic
from pofx.training.runs import load_model, pofx_version, read_run

TOLERANCE = 1e-4  # nats/dim, or nats of log p(y | x)
BATCHES = (1, 6)  # images in the calls that check a graph
BIGGEST = 2**31  # bytes of an ONNX file, which is a protocol buffer
INSTALL = 'pip install "pofx[onnx]"'


@dataclass(frozen=True)
class ExportedGraph:
    """What was written.

    Attributes:
        path: the file.
        outputs: their names, the first of them in nats.
        kind: of the first one.
        difference: largest one between onnxruntime and PyTorch, in nats/dim (of log p(y | x) in nats); None: onnxruntime is not installed.
        bytes: of the file.
    """

    path: Path
    outputs: Sequence[str]
    kind: Kind
    difference: float | None
    bytes: int


class Scoring(nn.Module):
    """What an image costs as a function of its integers alone: an exact −log p(x), −bound at fixed draws, or log p(y | x).

    Args:
        model: unconditional.
        samples: draws of z for a bound; seed: of them.

    Raises:
        CapabilityError: the model gives none of the three.
        InputError: the model is conditional.

    >>> from pofx.models.autoregressive.pixelcnn import PixelCNN
    >>> from pofx.space import ImageSpace
    >>> x = torch.tensor([0, 3], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 1, 2, 2)
    >>> Scoring(PixelCNN.small(ImageSpace(1, 2, 2, levels=3)).eval())(x)[0].isinf().tolist()
    [False, True]
    """

    def __init__(self, model: ImageModel, samples: int = 1, seed: int = 0) -> None:
        super().__init__()
        name = type(model).__name__
        if model.given is not None:
            view = model.given.name
            raise InputError(
                f"This {name} is p(x | {view}); a graph of integers alone scores p(x). Train one without --given and export that."
            )
        if samples < 1:
            raise InputError(f"samples={samples}: at least one draw of z is needed, e.g. --samples 1.")
        self.model = model
        self.kind: Kind = "exact"
        self.outputs = ("nats", "bits_per_dim")
        if isinstance(model, LatentVariable):
            self.kind = "lower bound"
            draws = Noise(seed, torch.arange(samples)).normal("onnx", model.latent_dims)
            self.register_buffer("epsilon", draws.to(model.device, model.dtype))
        elif isinstance(model, Labeler) and not isinstance(model, ExactLikelihood):
            self.outputs = ("log_prob",)
        elif not isinstance(model, ExactLikelihood):
            has = ", ".join(capabilities(model)) or "nothing yet"
            raise CapabilityError(
                f"{name} has no scoring graph: that needs ExactLikelihood, LatentVariable or Labeler, and it has {has}. "
                "For its features: pofx export RUN --encoder -o FOLDER"
            )

    epsilon: Tensor

    @property
    def per(self) -> int:
        """What a difference of the first output is divided by, to be compared with TOLERANCE."""
        return self.model.space.dims if self.outputs[0] == "nats" else 1

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """uint8 `(N, C, H, W)` → the outputs."""
        space, model = self.model.space, self.model
        whole = x.to(torch.int32)
        inside = whole.flatten(1).amax(1) < space.levels
        x = whole.clamp(max=space.levels - 1).to(torch.uint8)
        if isinstance(model, ExactLikelihood):
            log_prob = model.log_prob(x)
        elif isinstance(model, LatentVariable):
            epsilon = self.epsilon[:, None].expand(-1, x.shape[0], -1)
            log_prob = model.bound_at(x, epsilon).elbo
        else:
            assert isinstance(model, Labeler)
            labels = model.label(x)
            if labels.kind == "estimate" and not isinstance(model, LowerBound):  # M2 has q(y | x) itself
                raise CapabilityError(
                    f"This {type(model).__name__} estimates p(x | y) by draws that are keyed by each image, and a graph has none. "
                    "Label with pofx classify RUN DATA, or export one whose p(x | y) is exact."
                )
            told = labels.log_prob.float()
            return (torch.where(inside[:, None], told, torch.full_like(told, math.nan)),)
        nats = torch.where(inside, -log_prob.float(), torch.full_like(log_prob, math.inf, dtype=torch.float32))
        return nats, nats / (space.dims * math.log(2))


def export_onnx(run: str | Path, out: str | Path, *, samples: int = 1, seed: int = 0) -> ExportedGraph:
    """Write the scoring graph of `run` into the file `out`, and check it against PyTorch where onnxruntime is installed.

    Args:
        samples: draws of z for a model that gives a bound; seed: of them.

    Raises:
        CapabilityError: the model gives neither a likelihood nor a bound nor labels.
        InputError: no such run; a conditional model; `out` does not end in .onnx; the packages are not installed; PyTorch cannot export the model.
        RunError: onnxruntime computes something else. No file is written.
    """
    out = Path(out).expanduser()
    if out.suffix != ".onnx" or out.is_dir():
        raise InputError(f"-o {out}: a graph is a file that ends in .onnx, e.g. -o {out.with_suffix('.onnx')}")
    info = read_run(run)
    if info.encoder is not None:
        raise InputError(f"{run} is an encoder alone and scores nothing. Export the run that it was made from.")
    scoring = Scoring(load_model(info.path).requires_grad_(False), samples, seed)
    model = scoring.model
    facts = {
        "model": info.model,
        "kind": scoring.kind,
        "data": str(info.data.get("heading", "")),
        "channels, height, width, levels": ", ".join(map(str, (*model.space.shape, model.space.levels))),
        "dims": str(model.space.dims),
        "version": pofx_version(),
    }
    if scoring.kind == "lower bound":
        facts |= {"samples": str(samples), "seed": str(seed)}
    written = to_onnx(scoring, facts)
    worst = difference(scoring, written)
    if worst is not None and not worst <= TOLERANCE:
        raise RunError(
            f"onnxruntime and PyTorch differ by {worst:.2g} nats/dim, more than {TOLERANCE:g}, so {out} was not written. "
            "Please report this with the versions of torch, onnx and onnxruntime."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, lambda file: file.write(written))
    return ExportedGraph(out, scoring.outputs, scoring.kind, worst, len(written))


def to_onnx(scoring: Scoring, facts: dict[str, str]) -> bytes:
    """The graph as an ONNX file, any number of images at once; `facts` become its metadata.

    Raises:
        InputError: the packages are not installed; PyTorch cannot export the model, or it is larger than such a file may be.
    """
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"An ONNX file needs {' and '.join(missing)}, which {'are' if len(missing) > 1 else 'is'} not installed: {INSTALL}"
        )
    name, x = type(scoring.model).__name__, probes(scoring.model, 3)
    # With gradients: without them, models cut a batch into pieces by its size. Called once before, since masks and plans are kept from
    # the first call on and must be made of true numbers.
    with evaluating(scoring), torch.enable_grad(), _silent():
        scoring(x)
        try:
            graph = torch.export.export(scoring, (x,), dynamic_shapes=({0: torch.export.Dim("N", min=1)},), strict=False)
            program: Any = torch.onnx.export(graph, dynamo=True, input_names=["x"], output_names=list(scoring.outputs), verbose=False)
        except RuntimeError as error:  # of torch.export and of torch.onnx, all of them
            why = str(error).strip().partition("\n")[0].rstrip(".")[:200]
            verb = "pofx score RUN DATA -o FILE" if scoring.outputs[0] == "nats" else "pofx classify RUN DATA -o FILE"
            raise InputError(
                f"{name} cannot be written as ONNX by torch {torch.__version__}: {why}. Use `{verb}`, or export a model of another class."
            ) from error
    proto = program.model_proto
    if proto.ByteSize() >= BIGGEST:
        raise InputError(f"This {name} has more than 2 GiB of weights, the most that one ONNX file holds. Train a smaller one.")
    proto.producer_name, proto.producer_version = "pofx", facts.get("version", "")
    for key, value in facts.items():
        proto.metadata_props.add(key=key, value=value)
    return proto.SerializeToString()


def probes(model: ImageModel, n: int) -> Tensor:
    """n images to compare on, uint8 `(n, C, H, W)`: the least level, the greatest, a ramp, and noise."""
    space = model.space
    noise = Noise(0, torch.arange(n)).uniform("probes", *space.shape) * space.levels
    x = noise.floor().clamp(max=space.levels - 1).to(torch.uint8)
    ramp = torch.linspace(0, space.levels - 1, space.dims).round().to(torch.uint8).reshape(space.shape)
    for i, image in enumerate((torch.zeros_like(ramp), torch.full_like(ramp, space.levels - 1), ramp)[: n - 1]):
        x[1 + i] = image
    return x.to(model.device)


def difference(scoring: Scoring, written: bytes) -> float | None:
    """The largest difference between onnxruntime and PyTorch over calls of `BATCHES` images, in nats/dim; None without onnxruntime."""
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    worst = 0.0
    with evaluating(scoring), torch.no_grad():
        for n in BATCHES:
            x = probes(scoring.model, n)
            (found, *_), (wanted, *_) = session.run(None, {"x": x.cpu().numpy()}), scoring(x)
            gap = float((torch.from_numpy(found) - wanted.cpu()).abs().max()) / scoring.per
            worst = math.inf if math.isnan(gap) else max(worst, gap)
    return worst


@contextmanager
def _silent() -> Iterator[None]:
    """Exporters warn of packages that nothing here needs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
