"""Errors that a person caused and can mend: one to three lines saying what was asked, what was found, the fix.

The command line turns them into exit codes: `InputError` and `CapabilityError` exit 2, `RunError` exits 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class PofxError(Exception):
    """Base of every error that pofx raises on purpose."""


class InputError(PofxError, ValueError):
    """Wrong usage or wrong input. The message ends with something to paste."""


class CapabilityError(PofxError, TypeError):
    """The model cannot honestly tell what was asked; the message says what it can give instead."""


class RunError(PofxError, RuntimeError):
    """Work that started and could not go on: a loss that is not finite, a full disk, a killed worker."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: ` Did you mean 'pixelcnn'?`, or the list of what exists.

    >>> nearest("pixlcnn", ["pixelcnn", "vae"])
    "Did you mean 'pixelcnn'?"
    """
    known = sorted(known)
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(known)}."
