"""How `evaluate` and `compare` print what samples are worth."""

from __future__ import annotations

import math
from typing import Any

from pofx.cli.common import table

MEASURES = ("precision", "recall", "density", "coverage")


def quality_table(name: str, quality: Any) -> Any:
    """A row for a `SampleQuality`, and one for what real images get in the samples' place; shares of it in brackets."""
    names = ("Fréchet distance", "KID", *MEASURES, "sharpness ÷ real")
    shown = table("samples", *names, right=names)
    sharp = quality.sharpness
    shown.add_row(name, *quality_cells(quality), "–" if sharp is None else with_error(sharp.share, sharp.share_se, 2))
    if quality.real is not None:
        shown.add_row(f"{quality.real.frechet.n:,} training images", *real_cells(quality.real), "1")
    return shown


def quality_cells(quality: Any) -> list[str]:
    """Fréchet distance, KID, and the four measures with their shares."""
    shares, own = quality.shares, quality.precision_recall
    four = [f"{getattr(own, name):.2f}" + ("" if shares is None else f" ({percent(shares[name])})") for name in MEASURES]
    return [f"{quality.frechet.distance:.4g}", with_error(quality.kid.distance, quality.kid.se, 4), *four]


def real_cells(real: Any) -> list[str]:
    """The same of real images."""
    four = [f"{getattr(real.precision_recall, name):.2f}" for name in MEASURES]
    return [f"{real.frechet.distance:.4g}", with_error(real.kid.distance, real.kid.se, 4), *four]


def percent(share: float) -> str:
    """Of what real images get.

    >>> percent(0.954), percent(float("nan"))
    ('95 %', '–')
    """
    return f"{100 * share:.0f} %" if math.isfinite(share) else "–"


def with_error(value: float, se: float, digits: int) -> str:
    """A number ± its standard error, where it has one.

    >>> with_error(1.5, 0.25, 2), with_error(1.5, float("nan"), 1), with_error(float("nan"), 1.0, 1)
    ('1.50 ± 0.25', '1.5', '–')
    """
    if not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}" + (f" ± {se:.{digits}f}" if math.isfinite(se) else "")
