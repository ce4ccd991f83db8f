"""A canvas in the page: an image to point at, to paint a hole on, or a plane to draw points on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal

import gradio as gr

JS = (Path(__file__).parent / "board.js").read_text(encoding="utf-8")
SIDE = 320  # screen pixels of the canvas; it shrinks with a narrow page
Mode = Literal["cell", "point", "paint", "draw"]


@dataclass(frozen=True)
class Board:
    """What is on the canvas.

    Attributes:
        src: a picture as a data URI, stretched without smoothing; "" for none.
        rows, cols: pixels that can be pointed at or painted.
        cell: the pixel that is pointed at, (row, column).
        point: (x, y) in [0, 1), from the left and from the top.
        mask: a character for each pixel, row by row; "1" is painted. "" for none.
        points: those that were drawn, as `point`.
    """

    src: str = ""
    rows: int = 1
    cols: int = 1
    cell: tuple[int, int] | None = None
    point: tuple[float, float] | None = None
    mask: str = ""
    points: tuple[tuple[float, float], ...] = ()

    @classmethod
    def of(cls, value: dict[str, Any] | None) -> Board:
        """From what the browser sends: wrong types become what is empty, since anybody may send anything."""
        value = value if isinstance(value, dict) else {}

        def pair(found: Any, kind: type[Any]) -> Any:
            ok = isinstance(found, list | tuple) and len(found) == 2 and all(isinstance(v, int | float) for v in found)
            return tuple(kind(v) for v in found) if ok else None

        rows, cols = (int(value.get(k) or 1) for k in ("rows", "cols"))
        points = tuple(p for p in (pair(v, float) for v in value.get("points") or ()) if p is not None)
        mask = str(value.get("mask") or "")
        mask = mask if len(mask) == rows * cols and set(mask) <= {"0", "1"} else ""
        return cls(str(value.get("src") or ""), rows, cols, pair(value.get("cell"), int), pair(value.get("point"), float), mask, points)


def canvas(mode: Mode, label: str, *, side: int = SIDE, brush: int = 0, value: Board | None = None, **more: Any) -> gr.HTML:
    """The component: what comes from it is for `Board.of`, what goes to it is a `Board`; its event is `input`.

    A function and not a class: Gradio writes a stub file beside every subclass of its components.

    Args:
        mode: what a person does on it: choose a "cell", drag a "point", "paint" pixels, or "draw" points.
        label: read out by a screen reader.
        side: screen pixels.
        brush: of "paint": pixels around the one that is touched.
    """
    return gr.HTML(
        asdict(value or Board()),
        html_template=f'<canvas class="board" width="{side}" height="{side}" tabindex="0" role="application" aria-label="{escape(label)}"></canvas>',
        js_on_load=JS,
        min_height=side,
        mode=mode,
        brush=brush,
        **more,
    )
