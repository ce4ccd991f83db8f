"""How numbers are written for people, in a terminal and on a page alike. What is no number is a dash."""

from __future__ import annotations

import math
from collections.abc import Iterable

SIGNS = {"exact": "=", "lower bound": "≤", "estimate": "≈", "none": ""}  # how a printed cost relates to the true one


def with_share(value: float, share: float | None) -> str:
    """A number, and in brackets its share of another; without one, the number alone.

    >>> with_share(0.5, 0.954), with_share(0.5, float("nan")), with_share(0.5, None)
    ('0.50 (95 %)', '0.50 (–)', '0.50')
    """
    if share is None:
        return f"{value:.2f}"
    return f"{value:.2f} ({100 * share:.0f} %)" if math.isfinite(share) else f"{value:.2f} (–)"


def with_error(value: float, se: float, digits: int) -> str:
    """A number ± its standard error, where it has one.

    >>> with_error(1.5, 0.25, 2), with_error(1.5, float("nan"), 1), with_error(float("nan"), 1.0, 1)
    ('1.50 ± 0.25', '1.5', '–')
    """
    if not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}" + (f" ± {se:.{digits}f}" if math.isfinite(se) else "")


def between(values: Iterable[float | None], form: str) -> str:
    """The least and the most of the numbers that are there; one where they read the same.

    >>> between([0.834, None, 0.812], ".2f"), between([0.834, 0.831], ".2f"), between([None], ".2f")
    ('0.81 … 0.83', '0.83', '–')
    """
    known = sorted(value for value in values if value is not None)
    return " … ".join(dict.fromkeys(f"{value:{form}}" for value in (known[:1] + known[-1:]))) or "–"
