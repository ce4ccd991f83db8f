"""`pofx export RUN --encoder -o FOLDER`, `pofx export RUN --onnx -o FILE.onnx`."""

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
    onnx: Flag = False,
    layer: str | None = None,
    samples: int = 1,
    seed: int = 0,
    common: Common = Common(),
) -> Answer:
    """A part of a run in a form of its own.

    --encoder: a run folder (JSON and safetensors) of what its features read alone, and not the decoder or the generator. `pofx encode`,
    `pofx probe`, `pofx train classifier --init-from` and `pofx.load` read it. It draws nothing and scores nothing.

    --onnx: one file that scores images without pofx or PyTorch. Its input x is uint8 (N, C, H, W), the pixels as they are; its outputs are nats
    and bits_per_dim, or log_prob of a classifier. It is checked against PyTorch where onnxruntime is installed.

    Args:
        run: a run folder or a Hub id.
        out: the folder, or the file FILE.onnx, to write.
        encoder: the part that features are read from.
        onnx: the scoring graph.
        layer: which features, with --encoder; by default the run's own.
        samples: draws in the graph of a model that gives a bound.
        seed: of those draws.
    """
    if encoder == onnx:
        raise InputError(
            f"What shall be exported? {'Only one of the two' if onnx else 'One of the two'}: pofx export {run} --encoder -o {out.with_suffix('')}, "
            f"or pofx export {run} --onnx -o {out.with_suffix('.onnx')}"
        )
    return _graph(run, out, layer, samples, seed) if onnx else _encoder(run, out, layer)


def _encoder(run: str, out: Path, layer: str | None) -> Answer:
    from pofx.training.export import export_encoder

    found = export_encoder(run, out, layer=layer)
    facts = {"run": run, "out": str(found.path), "layer": found.layer, "dims": found.dims, "parameters": found.parameters, "of": found.of}
    text = f"{found.layer}: {found.dims} numbers an image, {found.parameters:,} of {found.of:,} parameters"
    return Answer(facts, [text, str(found.path)])


def _graph(run: str, out: Path, layer: str | None, samples: int, seed: int) -> Answer:
    if layer is not None:
        raise InputError(f"--layer {layer} is of features, with --encoder; --onnx writes the scoring graph. Leave it out.")
    from pofx.training.onnx import BATCHES, INSTALL, export_onnx

    found = export_onnx(run, out, samples=samples, seed=seed)
    outputs = ", ".join(found.outputs)
    facts = {
        "run": run,
        "out": str(found.path),
        "outputs": list(found.outputs),
        "kind": found.kind,
        "bytes": found.bytes,
        "difference": found.difference,
    }
    text = f"x uint8 (N, C, H, W) → {outputs} ({found.kind}), {found.bytes / 2**20:.2f} MiB"
    per = "nats/dim" if found.outputs[0] == "nats" else "nats"
    check = (
        f"Not checked: onnxruntime is not installed. {INSTALL}"
        if found.difference is None
        else f"largest difference between onnxruntime and PyTorch: {found.difference:.1e} {per} (batches of {' and '.join(map(str, BATCHES))})"
    )
    return Answer(facts, [text, check, str(found.path)])
