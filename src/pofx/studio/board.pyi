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

    def value(self) -> dict[str, Any]:
        """For the browser."""
        return asdict(self)

class Canvas(gr.HTML):
    """The component; its value is `Board.value()`. Its event is `input`."""

    def __init__(self, mode: Mode, label: str, *, side: int = SIDE, brush: int = 0, value: Board = Board(), **more: Any) -> None:
        super().__init__(
            value.value(),
            html_template=f'<canvas class="board" width="{side}" height="{side}" tabindex="0" role="application" aria-label="{escape(label)}"></canvas>',
            js_on_load=JS,
            min_height=side,
            mode=mode,
            brush=brush,
            **more,
        )

    def api_info(self) -> dict[str, Any]:
        return {"type": "object"}

    def preprocess(self, payload: Any) -> Any:
        return payload

    def postprocess(self, value: Any) -> Any:
        return value.value() if isinstance(value, Board) else value
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component
