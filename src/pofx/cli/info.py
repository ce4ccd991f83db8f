"""`pofx info RUN`."""

from __future__ import annotations

from pofx.cli.common import Answer, Common, load_model, run_info
from pofx.numbers import SIGNS


def info(run: str, /, *, common: Common = Common()) -> Answer:
    """What a run is, and how it was made.

    Args:
        run: a run folder or a Hub id.
    """
    from pofx.tasks.info import info as task
    from pofx.training.progress import kind_of

    model = load_model(run, common)
    own = run_info(run)
    result = task(model, own.meta)
    metrics = own.meta.get("metrics") or {}
    sign = SIGNS.get(metrics.get("valid_kind") or kind_of(model) or "", "=")
    lines = {
        "model": f"{result.model}  ({result.paper})",
        "family": " / ".join(result.family),
        "tells": ", ".join(result.capabilities),
        "images": f"{result.space}; {result.dims} dims",
        "given": result.given or "nothing: p(x)",
        "data": own.heading,
        "parameters": f"{result.parameters:,}",
        "arguments": ", ".join(f"{name}={value}" for name, value in result.arguments.items()),
        "training": _flat(own.meta.get("training") or {}),
        "metrics": _flat({name: value for name, value in metrics.items() if name != "valid_kind"}, sign),
        "pofx": str(own.meta.get("pofx", "?")),
    }
    text = "\n".join(f"{name:<11}{value}" for name, value in lines.items() if value)
    return Answer({"run": run} | result.to_json(), text)


def _flat(values: dict, sign: str = "=") -> str:
    """name=value, …; costs with their sign."""
    shown = {
        key: f"{value:.4g}" if isinstance(value, float) else str(value)
        for key, value in values.items()
        if isinstance(value, str | int | float)
    }
    return ", ".join(f"{key}{sign if key.endswith(('nats', 'bits_per_dim')) else '='}{value}" for key, value in shown.items())
