"""`pofx evaluate RUN [DATA]`."""

from __future__ import annotations

from typing import Any

from pofx.cli._quality import quality_table
from pofx.cli.common import Answer, Common, DataFlags, RunData, load_images, load_model, run_info, table


def evaluate(
    run: str,
    data: str | None = None,
    /,
    *,
    features: str | None = None,
    samples: int = 1,
    estimate: int = 64,
    draw: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    data_flags: DataFlags = DataFlags(),
    common: Common = Common(),
) -> Answer:
    """How good a run is on train, valid and test.

    Without DATA: all parts of the run's own data, their gap, and a check for memorization. With DATA: those images alone.
    Costs are exact (=), bounds (≤) or estimates (≈). A bound is shown with its parts; ‖x − x̂‖² is of pixels on [0, 1], summed over an
    image. A model without likelihood has its samples judged, in the features of a run.

    Args:
        run: a run folder or a Hub id.
        data: name[:part][:transform], a folder, .npz, .npy, IDX or Parquet.
        features: what samples are judged in: a RUN; "auto": a small model of the run's data, trained once and kept (what a model
            without likelihood gets by default); "inception" or "dinov2", where their weights are; "none".
        samples: draws per image, for a model that gives a bound.
        estimate: draws of the importance-weighted estimate beside a bound; 0 for none.
        draw: samples to draw; by default 200, and 1000 to 2000 where they are judged in features; 0 for none.
        limit: images of each part that are measured; by default all of valid and test.
        seed: of draws and choices.
    """
    from pofx.model import ExactLikelihood, LowerBound, Sampler
    from pofx.tasks.evaluate import evaluate as task

    model = load_model(run, common)
    own = run_info(run)
    more: dict[str, Any] = {}
    measured = _own_data(own, data, data_flags, common)
    if measured is None:
        assert data is not None
        loaded = load_images(data, model.space, data_flags, common, own)
        measured, more["heading"], more["split"] = loaded.split, loaded.heading, loaded.part
    # A sampler without a likelihood has nothing else to be measured by.
    if features is None and isinstance(model, Sampler) and not isinstance(model, ExactLikelihood | LowerBound) and draw != 0:
        features = "auto"
    if features not in (None, "none"):
        from pofx.workflows.features import named_features

        judge = named_features(features, lambda: own.load_data(common.note), model.space, device=common.device, say=common.note)
        more |= judge.arguments
    with common.progress("evaluating") as progress:
        result = task(model, measured, samples=samples, estimate=estimate, draw=draw, limit=limit, seed=seed, progress=progress, **more)
    return Answer({"run": run} | result.to_json(), _text(result))


def _own_data(own: RunData, data: str | None, flags: DataFlags, common: Common) -> Any:
    """The run's own data with all its parts, if that is what DATA names; else None."""
    if data is None or (own.is_own(data) and flags == DataFlags()):
        return own.load_data(common.note)
    if not own.is_own(data):
        return None
    found = flags.load(data, common)
    return found if found.fingerprint == own.stored.get("fingerprint") else None


def _text(result: Any) -> list[Any]:
    given = f", given {result.given}" if result.given else ""
    parts: list[Any] = [f"{result.model} on {result.data}{given}", ""]
    rows = list(result.splits.values())
    if any(row.nats for row in rows):
        shown = table("part", "images", "nats", "± se", "bits/dim", "± se", "", right=("images", "nats", "bits/dim"))
        for row in rows:
            for line, what in ((row, ""), (row.estimate, f"estimate over {row.estimate.k} draws" if row.estimate else "")):
                if line is None or line.nats is None or line.bits_per_dim is None:
                    continue
                count = f"{line.n}" if line.n == line.of else f"{line.n} of {line.of}"
                shown.add_row(
                    line.split,
                    count,
                    f"{line.sign} {line.nats.mean:.3f}",
                    f"{line.nats.se:.3f}",
                    f"{line.sign} {line.bits_per_dim.mean:.4f}",
                    f"{line.bits_per_dim.se:.4f}",
                    what,
                )
        parts += [shown, ""]
    if any(row.squared_error for row in rows):
        bound = any(row.latents for row in rows)
        head = ("−E log p(x | z), nats", "± se", "KL, nats", "± se", "active units") if bound else ()
        shown = table("part", *head, "‖x − x̂‖²", "± se", right=("−E log p(x | z), nats", "KL, nats", "active units", "‖x − x̂‖²"))
        for row in rows:
            latents, error = row.latents, row.squared_error
            cells = []
            if latents is not None:
                for mean in (latents.reconstruction, latents.kl):
                    cells += [f"{mean.mean:.3f}", f"{mean.se:.3f}"]
                cells.append(f"{latents.active} of {len(latents.kl_per_dimension)}")
            shown.add_row(row.split, *cells, f"{error.mean:.3f}", f"{error.se:.3f}")
        parts += [shown, ""]
    if any(row.accuracy for row in rows):
        shown = table("part", "images", "accuracy", "± se", "cross-entropy (nats)", "ECE", "at T = 1", right=("images", "accuracy"))
        for row in rows:
            if row.accuracy is not None and row.cross_entropy is not None and row.calibration is not None:
                cells = [f"{row.accuracy.mean:.4f}", f"{row.accuracy.se:.4f}", f"{row.cross_entropy.mean:.4f}"]
                shown.add_row(row.split, str(row.n), *cells, f"{row.calibration.after.ece:.4f}", f"{row.calibration.before.ece:.4f}")
        seen = next(row.calibration for row in rows if row.calibration)
        how = f"ECE: expected calibration error in {seen.after.bins} bins of {seen.after.binning}; temperature T = {seen.temperature:.3f}"
        parts += [shown, how + ", fitted on valid." if seen.temperature != 1 else how, ""]
    if result.gap is not None:
        nats, bits = result.gap
        parts.append(f"gap {result.split} − train: {bits.mean:+.4f} ± {bits.se:.4f} bits/dim, {nats.mean:+.3f} ± {nats.se:.3f} nats")
    if result.quality is not None:
        parts += [quality_table(result.model, result.quality), result.quality.protocol]
        if result.quality.coverage is not None:
            seen = result.quality.coverage
            parts.append(f"classes of the samples: {' '.join(map(str, seen.counts))} (the rarest has {100 * seen.least:.1f} %)")
        if result.quality.agreement is not None:
            parts.append(f"as {result.quality.features} labels them, {result.quality.agreement}")
        parts.append("")
    if result.memorization is not None:
        drawn = "" if result.drawn is None or result.memorization.samples is None else f" ({len(result.drawn):,} samples were drawn)"
        parts.append(result.memorization.text + drawn)
    return [*parts, *result.notes]
