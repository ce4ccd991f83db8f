"""`pofx info RUN`."""

from __future__ import annotations

from pofx.cli.common import Answer, Common, load_model, run_info


def info(run: str, /, *, common: Common = Common()) -> Answer:
    """What a run is, and how it was made.

    Args:
        run: a run folder or a Hub id.
    """
    from pofx.tasks.info import info as task

    model = load_model(run, common)
    own = run_info(run)
    result = task(model, own.meta)
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
        "metrics": _flat(own.meta.get("metrics") or {}),
        "pofx": str(own.meta.get("pofx", "?")),
    }
    text = "\n".join(f"{name:<11}{value}" for name, value in lines.items() if value)
    return Answer({"run": run} | result.to_json(), text)


def _flat(values: dict) -> str:
    shown = {
        key: f"{value:.4g}" if isinstance(value, float) else str(value)
        for key, value in values.items()
        if isinstance(value, str | int | float)
    }
    return ", ".join(f"{key}={value}" for key, value in shown.items())
