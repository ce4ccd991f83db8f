"""The demo: three ideas of p(x) learn handwritten digits in a few minutes, and one page shows what each can honestly tell.

    python -m pofx.workflows.demo [--out demo]

Trains a PixelCNN (exact), a VAE (a bound) and a GAN (no likelihood) on the digits that ship with scikit-learn, samples, scores the test split,
flags the odd ones, and writes one report.html, whose path is printed last. Exits 1 where a model did not learn. What is there already is reused.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pofx.errors import PofxError

DATA = "digits"


@dataclass(frozen=True)
class Job:
    """One model of the demo: its catalogue name, its arguments, and how long it trains."""

    model: str
    steps: int
    batch_size: int = 64
    arguments: Mapping[str, Any] = field(default_factory=dict)


# Tune here. About a minute each on 2 cores.
JOBS = (
    Job("pixelcnn", steps=500, arguments={"dropout": 0.2}),
    Job("vae", steps=550),
    Job("gan", steps=1500),
)
PIXELCNN_MOST = 1.90  # bits/dim on test; a histogram per position gives 2.43
VAE_BELOW = 2.43
DRAWS = 1000


@dataclass(frozen=True)
class Check:
    """One target: what was asked, what was found, and whether it holds."""

    name: str
    asked: str
    found: str
    passed: bool


def checks(results: Mapping[str, Mapping[str, Any]]) -> list[Check]:
    """The targets of the demo, from each model's `evaluate` JSON.

    >>> good = {"pixelcnn": {"bits_per_dim": 1.8}, "vae": {"bits_per_dim": 2.0}, "gan": {"samples": {"classes_covered": 10}}}
    >>> all(check.passed for check in checks(good))
    True
    """
    pixelcnn, vae = results["pixelcnn"]["bits_per_dim"], results["vae"]["bits_per_dim"]
    seen = (results["gan"].get("samples") or {}).get("classes_covered") or 0
    return [
        Check("PixelCNN, test", f"≤ {PIXELCNN_MOST:.2f} bits/dim", f"{pixelcnn:.3f}", pixelcnn <= PIXELCNN_MOST),
        Check("VAE, test bound", f"< {VAE_BELOW:.2f} bits/dim", f"{vae:.3f}", vae < VAE_BELOW),
        Check("GAN, classes with at least 1 % of its samples", "all 10", str(seen), seen == 10),
    ]


def _say(line: str) -> None:
    print(f"pofx demo: {line}", file=sys.stderr, flush=True)


def _train(out: Path, data: Any) -> dict[str, Path]:
    import torch

    from pofx import catalog
    from pofx.training import train

    paths = {}
    for job in JOBS:
        path = paths[job.model] = out / job.model
        begun = time.perf_counter()
        torch.manual_seed(0)  # the first weights
        model = catalog.get(job.model)(data.space, **job.arguments)
        _say(f"{job.model}: {job.steps:,} steps on {data.heading}")
        train(model, data, out=path, steps=job.steps, batch_size=job.batch_size, seed=0, quiet=not sys.stderr.isatty())
        _say(f"{job.model}: ready after {time.perf_counter() - begun:.0f} s")
    return paths


def _state(paths: Mapping[str, Path]) -> dict[str, str]:
    """What the report was made from: a hash of each run's weights."""
    from pofx.workflows.features import file_hash

    return {name: file_hash(path / "model.safetensors") for name, path in paths.items()}


def _page(findings: Mapping[str, Any], results: Sequence[Check], seconds: float, out: Path) -> str:
    import torch

    from pofx.model import capabilities
    from pofx.workflows import _page as html
    from pofx.workflows import report as parts

    pixelcnn, vae, gan = (findings[job.model] for job in JOBS)
    models = [pixelcnn, vae, gan]
    data = pixelcnn.data
    tells = [
        [
            f.name,
            " › ".join(type(f.model).family),
            parts.number(f.evaluation.main.bits_per_dim, 3, f.evaluation.main.sign),
            ", ".join(capabilities(f.model)),
        ]
        for f in models
    ]
    sides = [f"<figure><h3>{f.name}</h3>{html.grid(f.samples[:80], data.space.levels, 8, want=24)}</figure>" for f in models]
    real, _ = data.test.take(torch.arange(48))
    target = html.table(["target", "asked", "found", ""], [[c.name, c.asked, c.found, "✓" if c.passed else "✗ missed"] for c in results])
    body = [
        html.section(
            "What each can tell",
            html.table(["model", "idea", "bits/dim, test", "capabilities"], tells, text=(1, 3)),
            html.paragraph(
                "The PixelCNN knows the exact probability of every image. The VAE knows a bound. The GAN draws images and knows no probability "
                "at all, so it gets none here: its samples are measured instead."
            ),
        ),
        html.section("Samples", html.beside(sides), html.paragraph("80 draws each, seed 0, not selected.", "soft")),
        html.section("Real images", html.grid(real, data.space.levels, 24, want=24, caption="Test images, for the eye.")),
        html.section("Numbers", parts.numbers_table({f.name: f.evaluation for f in models if f.evaluation.main.nats is not None})),
        html.section("How good are the samples?", parts.quality_table(models)),
        html.section("Are they copies?", *(f"<h3>{f.name}</h3>" + parts.neighbours_part(f) for f in models)),
        html.section("Reconstructions of the VAE", parts.reconstructions_part(vae)),
        html.section("Cheapest and dearest test images, PixelCNN", parts.extremes_part(pixelcnn)),
        html.section("The odd ones, PixelCNN", parts.odd_part(pixelcnn)),
        html.section("Training", *(parts.curves_part(f, f.name) for f in models)),
        html.section(
            "How to make this again",
            html.code("make demo"),
            *(parts.reproduce_part(f, str(out / job.model)) for job, f in zip(JOBS, models, strict=True)),
        ),
        html.section("Targets", target, html.paragraph(f"Measured and drawn in {seconds:.0f} s after training.", "soft")),
        html.section("Facts", *(f"<h3>{f.name}</h3>" + parts.facts_part(f) for f in models)),
    ]
    *most, last = (f"{f.meta['training']['minutes']:.1f}" for f in models)
    head = (
        f"A PixelCNN, a VAE and a GAN learned {data.heading} ({data.space}; {len(data.train):,} training images), "
        f"in {', '.join(most)} and {last} minutes."
    )
    return html.page("Three ideas of p(x)", head, body)


def demo(out: str | Path = "demo") -> tuple[Path, list[Check]]:
    """Train, measure, and write `out/report.html`; returns its path and the targets.

    Raises:
        PofxError: a model could not be trained or measured.
    """
    from pofx.data import load_data
    from pofx.tasks._files import write_text
    from pofx.training import load_model, read_run
    from pofx.workflows.features import features_run
    from pofx.workflows.report import gather

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    data = load_data(DATA)
    paths = _train(out, data)
    features = features_run(data, cache=out / "features", say=_say)
    paths |= {"features": features.path}
    report, memory = out / "report.html", out / "results.json"
    state = _state(paths)
    if report.is_file() and memory.is_file():
        old = json.loads(memory.read_text(encoding="utf-8"))
        if old.get("weights") == state:
            _say("nothing changed since the last report")
            return report, checks(old["results"])
    begun = time.perf_counter()
    findings = {}
    for job in JOBS:
        _say(f"{job.model}: drawing, scoring and comparing")
        path = paths[job.model]
        meta = read_run(path).json
        findings[job.model] = gather(
            meta["class"], load_model(path), data, meta=meta, features=features, metrics=path / "metrics.csv", draw=DRAWS
        )
    results = {name: f.evaluation.to_json() for name, f in findings.items()}
    found = checks(results)
    write_text(report, _page(findings, found, time.perf_counter() - begun, out))
    kept = ("steps", "minutes", "images_per_second", "threads", "precision", "hardware")
    training = {job.model: {key: read_run(paths[job.model]).training.get(key) for key in kept} for job in JOBS}
    write_text(memory, json.dumps({"weights": state, "training": training, "results": results}, indent=1, ensure_ascii=False))
    return report, found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; 0 where every target was met, 1 where one was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m pofx.workflows.demo", description="Three models of handwritten digits and one page about them."
    )
    parser.add_argument("--out", default="demo", help="folder for the runs and report.html (default: demo)")
    out = parser.parse_args(arguments).out
    try:
        report, found = demo(out)
    except PofxError as error:
        _say(f"failed: {error}")
        return 1
    for check in found:
        _say(f"{'ok    ' if check.passed else 'MISSED'} {check.name}: {check.found} (asked: {check.asked})")
    missed = [check for check in found if not check.passed]
    if missed:
        _say(f"{len(missed)} of {len(found)} targets were missed: the models did not learn what they should.")
        _say(f"remove {out} and run it again, or tune JOBS in {__file__}")
    print(report.resolve())
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
