"""One self-contained HTML page: text, tables and pictures inlined as base64. No script, no network, light and dark, and it prints well."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pofx import pictures
from pofx.numbers import with_error
from pofx.tasks._files import write_text, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image
    from torch import Tensor

    from pofx.metrics.mean import Mean

GREY = "#8a9097"  # of axes and letters: both themes show it
COLORS = ("#1f9e96", "#e08a1e", "#7a6ff0", "#d2527f", "#5a9bd4", GREY)
WIDTH = 792  # of the text, in screen pixels: 52rem less the padding
STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #63686f; --line: #dfe2e6; --ground: #fff; --panel: #f6f7f8; --accent: #0b6e69; --alarm: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6e8; --soft: #9aa1a9; --line: #34383d; --ground: #16181b; --panel: #1f2226; --accent: #5cc8bf; --alarm: #ff8a80; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 52rem; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; padding-top: .9rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: .5rem 0; } .soft, figcaption, .caption { color: var(--soft); } .lead { font-size: 1.05rem; color: var(--soft); margin-bottom: 1.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: .4rem 0 .6rem; font-variant-numeric: tabular-nums; }
.caption { font-size: .85rem; margin: 0 0 .8rem; }
th, td { padding: .38rem 0 .38rem .9rem; text-align: right; vertical-align: baseline; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; color: var(--soft); font-size: .85rem; } th:first-child, td:first-child { text-align: left; padding-left: 0; }
td.text, th.text { text-align: left; white-space: normal; }
figure { margin: .8rem 0; } figcaption { font-size: .85rem; margin-top: .35rem; }
img { image-rendering: pixelated; max-width: 100%; height: auto; vertical-align: top; }
img.smooth { image-rendering: auto; }
.wide svg { min-width: 30rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .45rem .55rem; margin: .6rem 0; }
.tiles figure { margin: 0; text-align: center; } .tiles figcaption { font-size: .72rem; margin-top: .15rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tiles img { border-radius: 2px; }
.beside { display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: 1rem; align-items: start; } .beside figure { margin: 0; }
.flag { border-left: 4px solid var(--accent); background: var(--panel); padding: .6rem .9rem; margin: .9rem 0; border-radius: 0 4px 4px 0; }
.flag.alarm { border-color: var(--alarm); } .flag.alarm strong { color: var(--alarm); }
pre { background: var(--panel); padding: .8rem 1rem; overflow-x: auto; border-radius: 4px; font-size: .85rem; } code { font-size: .9em; }
details summary { cursor: pointer; color: var(--accent); } a { color: var(--accent); }
@media (max-width: 36rem) { body { padding-top: 1.5rem; } table { font-size: .8rem; } th, .caption { font-size: .78rem; } th, td { padding-left: .5rem; }
  th, td { white-space: normal; } pre { white-space: pre-wrap; overflow-wrap: anywhere; } }
@media print { .wide svg { min-width: 0; } body { max-width: none; padding: 0; font-size: 11pt; } h2, h3 { break-after: avoid; } figure, tr, .flag, .tiles figure { break-inside: avoid; } pre { white-space: pre-wrap; } details { display: block; } }
"""


def page(title: str, lead: str, body: Iterable[str]) -> str:
    """A whole document; `title` and `lead` are text, `body` is HTML."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n'
        f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>\n'
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )


def section(title: str, *body: str) -> str:
    content = "\n".join(part for part in body if part)
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>" if content else ""


def paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def flag(text: str, *, alarm: bool) -> str:
    head, _, rest = text.partition(":")
    return f'<div class="flag{" alarm" if alarm else ""}"><strong>{escape(head)}</strong>{":" if rest else ""}{escape(rest)}</div>'


def _tied(text: str) -> str:
    """A sign stays with its number where a narrow screen wraps a cell."""
    return re.sub("(?<=[=≤≈±]) ", "\u00a0", text)


def number(mean: Mean | None, digits: int, sign: str = "") -> str:
    """A mean ± its standard error, "≤ 1.234 ± 0.005"; a dash where there is none.

    >>> from pofx.metrics.mean import Mean
    >>> number(Mean(1.23456, 0.01), 3, "≤")
    '≤ 1.235 ± 0.010'
    """
    if mean is None:
        return "–"
    return f"{sign} {with_error(mean.mean, mean.se, digits)}".strip()


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", *, text: Iterable[int] = ()) -> str:
    """A table of plain text; columns in `text` are left-aligned and may wrap."""
    left = set(text)

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}{' class=text' if i in left else ''}>{_tied(escape(cell))}</{tag}>" for i, cell in enumerate(row))

    lines = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    top = f"<thead><tr>{cells(head, 'th')}</tr></thead>" if any(head) else ""
    # Below the box that scrolls, so that a narrow screen wraps it
    below = f'\n<p class="caption">{escape(caption)}</p>' if caption else ""
    return f'<div class="wide"><table>{top}<tbody>\n{lines}\n</tbody></table></div>{below}'


def details(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>\n{content}\n</details>"


def code(text: str) -> str:
    return f"<pre><code>{escape(text)}</code></pre>"


def data_uri(image: Image) -> str:
    """A picture as a PNG inside the page."""
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def enlarged(x: Tensor, want: int) -> int:
    """The whole factor that makes images `(n, C, H, W)` about `want` screen pixels large."""
    return max(1, round(want / max(x.shape[-2:])))


def fitting(x: Tensor, want: int) -> int:
    """How many such images fit side by side into the text's width, so that the browser need not shrink their pixels unevenly."""
    scale = enlarged(x, want)
    return max(1, min(len(x), 16, (WIDTH // scale - 1) // (x.shape[-1] + 1)))


def grid(x: Tensor, levels: int, columns: int, *, want: int = 40, caption: str = "", alt: str = "images") -> str:
    """One picture of many images `(n, C, H, W)`, each about `want` screen pixels large, by a whole factor so that pixels stay sharp."""
    sheet = pictures.grid(x, levels, min(columns, len(x)), scale=1)
    scale = enlarged(x, want)
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="{data_uri(sheet)}" width="{sheet.width * scale}" height="{sheet.height * scale}" alt="{escape(alt)}">{below}</figure>'


def picture(image: Image, caption: str = "", *, scale: int = 1, sharp: bool = False) -> str:
    """A ready picture, enlarged by a whole factor; `sharp` where its pixels are those of images."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    kind = "" if sharp else ' class="smooth"'
    return f'<figure><img src="{data_uri(image)}"{kind} width="{image.width * scale}" alt="{escape(caption[:80])}">{below}</figure>'


def tiles(x: Tensor, levels: int, captions: Sequence[str] | None = None, *, want: int = 56) -> str:
    """Images side by side, each with a caption (lines separated by a newline)."""
    return pictured([pictures.grid(x[i : i + 1], levels, 1, scale=1, pad=0) for i in range(len(x))], captions, want=want)


def pictured(images: Sequence[Image], captions: Sequence[str] | None = None, *, want: int = 56) -> str:
    """Ready pictures side by side, each about `want` screen pixels high, as `tiles`."""
    figures = []
    for i, image in enumerate(images):
        scale = max(1, round(want / (image.height if image.height > 2 else image.width)))
        caption = "" if captions is None else f"<figcaption>{escape(captions[i]).replace(chr(10), '<br>')}</figcaption>"
        figures.append(
            f'<figure><img src="{data_uri(image)}" width="{image.width * scale}" height="{image.height * scale}" alt="">{caption}</figure>'
        )
    return f'<div class="tiles">{"".join(figures)}</div>'


def beside(parts: Iterable[str]) -> str:
    return f'<div class="beside">{"".join(parts)}</div>'


def inked(color: str = GREY) -> AbstractContextManager[None]:
    """Within it, matplotlib's axes and letters are of this colour, and letters in an SVG stay letters."""
    from matplotlib import rc_context

    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "pofx", "font.size": 9, "font.family": "sans-serif"}
    settings |= dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), color)
    settings |= {"axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
    return rc_context(settings)


def put(path: Path, figure: Callable[[], Figure] | None, text: Callable[[], str]) -> None:
    """Write the figure alone where there is one and the path ends in .png, else the page; only what is written is made."""
    if figure is None or path.suffix.lower() != ".png":
        write_text(path, text())
        return
    with inked("#3a3f45"), writing(path) as temporary:
        figure().savefig(temporary, format="png", dpi=200, facecolor="white")


def drawing(figure: Figure, caption: str = "") -> str:
    """A figure of matplotlib as inline SVG on no ground; to be called within `inked`."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace("<svg ", '<svg role="img" style="max-width:100%;height:auto" ', 1)
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><div class="wide">{svg}</div>{below}</figure>'


def curves(panels: Sequence[tuple[str, dict[str, tuple[list[float], list[float]]]]], caption: str = "") -> str:
    """Line plots as inline SVG: panels of (y label, name → (x, y)). Grey axes on no ground, so that both themes show them."""
    from matplotlib.figure import Figure

    panels = [(label, {k: v for k, v in lines.items() if v[0]}) for label, lines in panels]
    panels = [p for p in panels if p[1]]
    if not panels:
        return ""
    with inked():
        figure = Figure(figsize=(7.4, 2.5), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, (label, lines) in zip(axes, panels, strict=True):
            for (name, (xs, ys)), color in zip(lines.items(), COLORS * 2, strict=False):
                axis.plot(xs, ys, color=color, linewidth=1.4, label=name)
            values = sorted(v for _, ys in lines.values() for v in ys if math.isfinite(v))
            if len(values) > 20:  # the first steps must not flatten the rest
                low, high = values[0], values[int(0.97 * len(values))]
                pad = 0.06 * (high - low) or 0.1
                axis.set_ylim(low - pad, high + pad)
            axis.set_xlabel("step")
            axis.set_ylabel(label)
            axis.grid(color=GREY, alpha=0.2, linewidth=0.6)
            axis.spines[["top", "right"]].set_visible(False)
            if len(lines) > 1:
                axis.legend(frameon=False, labelcolor=GREY)
        return drawing(figure, caption)
