"""How `evaluate` and `compare` print what samples are worth."""

from __future__ import annotations

from typing import Any

from pofx.cli.common import table
from pofx.numbers import between, with_error, with_share


def quality_table(name: str, quality: Any) -> Any:
    """A row for a `SampleQuality`, and one for what real images get in the samples' place; shares of it in brackets."""
    names = ("Fréchet distance", "KID", *quality.precision_recall.measures, "sharpness ÷ real")
    shown = table("samples", *names, right=names)
    shown.add_row(name, *quality_cells(quality), sharpness_cell(quality.sharpness))
    if quality.real is not None:
        shown.add_row(f"{quality.real.frechet.n:,} training images", *real_cells(quality.real))
    return shown


def sharpness_cell(found: Any) -> str:
    """Sharpness ÷ that of real images ± its error, or a dash."""
    return "–" if found is None else with_error(found.share, found.share_se, 2)


def quality_cells(quality: Any) -> list[str]:
    """Fréchet distance, KID, and the four measures with their shares."""
    shares = quality.shares or {}
    four = [with_share(value, shares.get(name)) for name, value in quality.precision_recall.measures.items()]
    return [f"{quality.frechet.distance:.4g}", with_error(quality.kid.distance, quality.kid.se, 4), *four]


def real_cells(real: Any) -> list[str]:
    """The same of real images, and their sharpness; the Fréchet distance from the least to the largest of some subsets."""
    four = [with_share(value, None) for value in real.precision_recall.measures.values()]
    return [
        between(real.span, ".4g"),
        with_error(real.kid.distance, real.kid.se, 4),
        *four,
        sharpness_cell(real.sharpness),
    ]
