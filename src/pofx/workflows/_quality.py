"""What a report says of samples: distances beside what real images get, classes, and the game between critic and generator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pofx.numbers import between, with_error, with_share
from pofx.tasks._samples import SampleQuality
from pofx.workflows import _page as html

if TYPE_CHECKING:
    from pofx.metrics.label_coverage import LabelCoverage
    from pofx.workflows.held_out_critic import HeldOutCritic

SMOOTH = 15  # logged steps in the running mean of the critic's accuracy


def quality_table(measured: Sequence[tuple[str, SampleQuality]]) -> str:
    """All that is measured of samples, a column for each name and one for real images, the protocol below."""
    if not measured:
        return ""
    first = measured[0][1]
    real = first.real
    four = [
        [
            name,
            *(with_share(q.precision_recall.measures[name], None if q.shares is None else q.shares[name]) for _, q in measured),
            *([with_share(real.precision_recall.measures[name], None)] if real else []),
        ]
        for name in first.precision_recall.measures
    ]
    sharps = [*(q.sharpness for _, q in measured), *([real.sharpness] if real else [])]
    rows = [
        [
            "Fréchet distance",
            *(f"{q.frechet.distance:.3f}" for _, q in measured),
            *([between(real.span, ".3f")] if real else []),
        ],
        [
            "KID",
            *(with_error(q.kid.distance, q.kid.se, 4) for _, q in measured),
            *([with_error(real.kid.distance, real.kid.se, 4)] if real else []),
        ],
        *four,
        ["sharpness ÷ real", *("–" if sharp is None else f"{sharp.share:.2f}" for sharp in sharps)],
    ]
    if first.coverage is not None:
        seen = ["–" if q.coverage is None else f"{q.coverage.covered} of {len(q.coverage.counts)}" for _, q in measured]
        rows.append(["classes seen", *seen, *([""] if real else [])])
    if any(q.agreement for _, q in measured):
        given = ["–" if q.agreement is None else f"{q.agreement.samples.mean:.1%}" for _, q in measured]
        own = next((q.agreement.real for _, q in measured if q.agreement), None)
        rows.append(["of the class asked for", *given, *(["–" if own is None else f"{own.mean:.1%}"] if real else [])])
    head = ["samples of", *(name for name, _ in measured), *(["real images"] if real else [])]
    caption = (
        f"{first.protocol}. KID: unbiased MMD² with a cubic kernel, ± one standard error. "
        "Sharpness: variance of the Laplacian over that of real images; noise counts too."
    )
    if real is not None:
        caption += f" Real images: {real.frechet.n:,} training images in the place of samples; no samples need to be better."
        if real.others:
            caption += f" Their Fréchet distance: the least and the largest of {len(real.others) + 1} random choices."
        caption += " In brackets: shares of theirs."
    caption += " Distances in other features, or from another n, do not compare."
    if not first.frechet.reliable:
        caption += " There are fewer images than features: the Fréchet distance is too large."
    return html.table(head, rows, caption)


def classes_table(found: LabelCoverage, names: Sequence[str] | None) -> str:
    """How many samples fall into each class, as counts and shares."""
    count = len(found.counts)
    names = names if names is not None and len(names) == count else tuple(map(str, range(count)))
    total = max(1, sum(found.counts))
    rows = [[f"{c:,}" for c in found.counts], [f"{100 * c / total:.1f} %" for c in found.counts]]
    text = f"Classes of {total:,} samples, as the features run labels them. The rarest has {100 * found.least:.1f} %; evenly it were {100 / count:.1f} %."
    return html.table([str(name) for name in names], rows, text)


def game_part(history: Mapping[str, Sequence[float]], held_out: HeldOutCritic | None) -> str:
    """The critic's accuracy over training, with the 50 % line, and what a fresh critic finds."""
    return _accuracy(history) + ("" if held_out is None else html.flag(f"Held-out critic: {held_out.text}", alarm=False))


def _accuracy(history: Mapping[str, Sequence[float]]) -> str:
    """The column that a critic's objective logs as its accuracy."""
    name = next((name for name in history if "critic" in name and name.endswith("accuracy")), None)
    if name is None or "step" not in history:
        return ""
    points = [(s, v) for s, v in zip(history["step"], history[name], strict=True) if math.isfinite(s) and math.isfinite(v)]
    if not points:
        return ""
    from matplotlib.figure import Figure

    steps, values = [p[0] for p in points], [100 * p[1] for p in points]
    smooth = [sum(values[max(0, i - SMOOTH + 1) : i + 1]) / min(i + 1, SMOOTH) for i in range(len(values))]
    with html.inked():
        figure = Figure(figsize=(7.4, 2.3), layout="constrained")
        axis = figure.subplots()
        axis.plot(steps, values, color=html.COLORS[0], linewidth=0.7, alpha=0.35)
        axis.plot(steps, smooth, color=html.COLORS[0], linewidth=1.6)
        axis.axhline(50, color=html.GREY, linewidth=1, linestyle="--")
        axis.annotate(
            "nothing to tell", (steps[-1], 50), xytext=(0, 3), textcoords="offset points", ha="right", color=html.GREY, fontsize=8
        )
        axis.set_ylim(min(45, *values) - 2, 102)
        axis.set_xlabel("step")
        axis.set_ylabel("accuracy, %")
        axis.grid(color=html.GREY, alpha=0.2, linewidth=0.6)
        text = (
            f"The game's own critic on its training batches, as each step found it (thin), and the mean of {SMOOTH} logged steps (thick): "
            f"{smooth[-1]:.0f} % at the end. It is the share of pairs, an image and a sample, in which the image is found the more real."
        )
        return html.drawing(figure, text)
