"""A run as a card of the gallery: its picture, its curve, and what its numbers are. Read without torch."""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from pofx import catalog, pictures
from pofx.studio.curves import curve
from pofx.studio.shelf import Card

SHOWN = 16  # samples on a card
SIDE = 192  # screen pixels of the picture, about
SILENT = {
    "implicit": "No likelihood: it draws images, and cannot say how probable one is.",
    "without density": "No density: it encodes and decodes, and has no p(x).",
}


def family(card: Card) -> str:
    """The first part of a model's place in the taxonomy, "" of a model that is not known here."""
    entry = catalog.entries().get(card.model)
    return entry.family[0] if entry is not None and entry.family else ""


def symbol(card: Card) -> str:
    """What the run is a model of."""
    if family(card) == "discriminative" or card.model == "bayes-classifier":
        return "p(y | x)"
    return f"p(x | {card.given})" if card.given else "p(x)"


def number(card: Card) -> str:
    """What the run is worth on images that it was not trained on, with the kind of the number; or why there is none."""
    metrics = card.json.get("metrics") or {}
    kind = {"exact": "exact", "lower bound": "an upper bound of the cost", "estimate": "an estimate"}.get(
        str(metrics.get("valid_kind")), ""
    )
    if card.cost:
        return f"{symbol(card)}: {card.cost} on its valid part ({kind})"
    accuracy = metrics.get("valid_accuracy")
    if accuracy is not None:
        return f"{symbol(card)}: accuracy = {float(accuracy):.2%} on its valid part"
    return SILENT.get(family(card), "Not validated yet.")


def thumbnail(sheet: Image.Image, card: Card) -> Image.Image:
    """The first samples of a sheet as `pictures.grid` lays it out, a screen pixel for each of theirs; the sheet itself where it is laid out otherwise."""
    space = card.json.get("space") or {}
    height, width = int(space.get("height", 1)), int(space.get("width", 1))
    scale = max(1, 64 // max(height, width)) if height > 1 else 0
    h, w = height * scale + 1, width * scale + 1
    if not scale or (sheet.width - 1) % w or (sheet.height - 1) % h:
        return sheet
    a = np.asarray(sheet.convert("RGB"))
    across, down = (sheet.width - 1) // w, (sheet.height - 1) // h
    cells = [a[1 + r * h : (r + 1) * h : scale, 1 + c * w : (c + 1) * w : scale] for r in range(down) for c in range(across)][:SHOWN]
    return pictures.grid(np.stack(cells).transpose(0, 3, 1, 2), 256, columns=4, scale=1)


def image(picture: Image.Image, alt: str, side: int = SIDE) -> str:
    """A picture as HTML, enlarged by a whole number to about `side`, its size stated."""
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    scale = max(1, round(side / max(picture.size)))
    source = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return f'<img src="{source}" width="{picture.width * scale}" height="{picture.height * scale}" alt="{escape(alt)}">'


@lru_cache(256)
def _stored(path: str, changed: int) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


def samples(card: Card, drawn: Image.Image | None = None) -> str:
    """The samples of a run: those that were just drawn, or samples.png of its folder, or a sentence."""
    file = Path(card.path) / "samples.png"
    if drawn is None and file.is_file():
        try:
            drawn = _stored(str(file), file.stat().st_mtime_ns)
        except OSError:  # it is being written, or is no picture
            drawn = None
    if drawn is not None:
        return image(thumbnail(drawn, card), f"samples of {card.name}")
    none = family(card) in ("discriminative", "without density") or card.model == "bayes-classifier"
    return "<p>It draws no images.</p>" if none else "<p>No samples.png here. Draw some below.</p>"


def html(card: Card, drawn: Image.Image | None = None, note: str = "") -> str:
    """One card; `note` in the place of whether it is finished."""
    what = f"{card.model} given {card.given}" if card.given else card.model
    state = note or ("finished" if card.finished else "not finished")
    return (
        f'<article class="card"><h3>{escape(card.name)}</h3><p class="where">{escape(card.path)}</p>'
        f"<p><b>{escape(what)}</b> on {escape(card.heading)}, {escape(state)}</p>"
        f'<div class="picture">{samples(card, drawn)}</div><p class="number">{escape(number(card))}</p>{curve(Path(card.path) / "metrics.csv")}</article>'
    )
