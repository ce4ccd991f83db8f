"""The curve of a training as a small drawing: metrics.csv → SVG, without torch and without matplotlib, since it is in the first paint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from pofx.workflows._history import history

WIDTH, HEIGHT = 300, 120
LEFT, BELOW, ABOVE = 44, 16, 16
CUT = 0.97  # of the values are shown: the first steps must not flatten the rest
Line = tuple[str, list[tuple[float, float]]]


def lines(columns: Mapping[str, Sequence[float]]) -> tuple[str, list[Line]]:
    """What is worth showing of metrics.csv: its unit, and two lines at most, name and (step, value).

    >>> lines({"step": [1, 2], "train_bits_per_dim": [3.0, 2.5], "valid_bits_per_dim": [math.nan, 2.4], "lr": [1, 1]})
    ('bits/dim', [('train', [(1, 3.0), (2, 2.5)]), ('valid', [(2, 2.4)])])
    """
    for unit, ending in (("bits/dim", "_bits_per_dim"), ("loss", "_loss")):
        names = sorted((name for name in columns if name.endswith(ending)), key=lambda name: not name.startswith("train"))
        if names:
            found = []
            for name in names[:2]:
                pairs = zip(columns["step"], columns[name], strict=True)
                label = name.removesuffix(ending)
                found.append((label.removeprefix("train_"), [(s, v) for s, v in pairs if math.isfinite(s) and math.isfinite(v)]))
            return unit, [line for line in found if line[1]]
    return "", []


def curve(path: Path) -> str:
    """The drawing of one metrics.csv; a sentence of the same size where there is none."""
    columns = history(path)
    unit, shown = lines(columns) if "step" in columns else ("", [])
    if not shown:
        return f'<p class="nocurve" style="height:{HEIGHT}px">No metrics.csv: how it was trained is not here.</p>'
    values = sorted(v for _, points in shown for _, v in points)
    low, high = values[0], values[min(len(values) - 1, int(CUT * len(values)))]
    pad = 0.05 * (high - low) or 0.1
    low, high = low - pad, high + pad
    last = max(s for _, points in shown for s, _ in points)

    def at(step: float, value: float) -> str:
        x = LEFT + (WIDTH - LEFT - 4) * step / max(last, 1)
        y = ABOVE + (HEIGHT - ABOVE - BELOW) * (high - min(value, high)) / (high - low)
        return f"{x:.1f},{y:.1f}"

    drawn = "".join(
        f'<polyline class="line{k}" points="{" ".join(at(*point) for point in points)}"/>'
        + (f'<circle class="line{k}" cx="{at(*points[-1]).partition(",")[0]}" cy="{at(*points[-1]).partition(",")[2]}" r="2.5"/>')
        for k, (_, points) in enumerate(shown)
    )
    names = " ".join(f'<tspan class="line{k}">{escape(name)} {points[-1][1]:.4g}</tspan>' for k, (name, points) in enumerate(shown))
    said = f"{unit} over {last:.0f} steps: " + ", ".join(f"{name} {points[-1][1]:.4g}" for name, points in shown)
    return (
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{escape(said)}">'
        f'<text x="{LEFT - 4}" y="{ABOVE + 8}" text-anchor="end">{high - pad:.3g}</text>'
        f'<text x="{LEFT - 4}" y="{HEIGHT - BELOW}" text-anchor="end">{low + pad:.3g}</text>'
        f'<text x="{LEFT}" y="11">{escape(unit)}: {names}</text>'
        f'<text x="{WIDTH - 4}" y="{HEIGHT - 4}" text-anchor="end">step {last:.0f}</text>'
        f'<path class="axis" d="M{LEFT} {ABOVE}V{HEIGHT - BELOW}H{WIDTH - 4}"/>{drawn}</svg>'
    )
