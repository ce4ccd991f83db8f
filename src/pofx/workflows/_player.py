"""Something in motion inside a page: frames as numbers, drawn by a few lines of plain script, with a slider. No network and no library.

`framed` is the slider and its button around any drawing; `player` is the game of a GAN: in one dimension curves are SVG lines; in two, densities
and D are painted cell by cell, with draws of the generator on them. Colours are those of the page,
so that light and dark follow the reader's own setting; without script the last frame is there as it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from html import escape
from typing import Any

import torch
from torch import Tensor

from pofx.workflows import _page as html
from pofx.workflows._game import Frame, Game

P, Q, D, STAR = html.COLORS[0], html.COLORS[1], html.COLORS[2], html.COLORS[3]
WIDTH, HEIGHT, MARGIN = 720, 190, 34

STYLE = """<style>
.player svg, .player canvas { width: 100%; height: auto; display: block; }
.player .axis { stroke: var(--line); stroke-width: 1; } .player text { fill: var(--soft); font: 12px system-ui, sans-serif; }
.player polyline { fill: none; stroke-width: 2; stroke-linejoin: round; } .player .area { stroke-width: 1.5; }
.player .bar { display: flex; gap: .8rem; align-items: center; margin: .5rem 0; } .player input { flex: 1; min-width: 0; accent-color: var(--accent); }
.player button { font: inherit; min-width: 5.5rem; color: var(--accent); background: var(--panel); cursor: pointer; }
.player button { border: 1px solid var(--line); border-radius: 4px; padding: .2rem .8rem; }
.player output { font-variant-numeric: tabular-nums; display: flex; flex-wrap: wrap; gap: .1rem 1.4rem; font-size: .9rem; }
.player output b { font-weight: 600; }
.player .key { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .85rem; color: var(--soft); }
.player .key i { display: inline-block; width: 1.1rem; height: .2rem; margin-right: .4rem; vertical-align: middle; border-radius: 2px; }
.player .maps { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .6rem; }
.player .maps canvas { border: 1px solid var(--line); border-radius: 3px; image-rendering: auto; }
.player .maps div { font-size: .85rem; color: var(--soft); }
@media (max-width: 36rem) { .player .maps { grid-template-columns: 1fr 1fr; } .player output { font-size: .8rem; } }
</style>"""

SCRIPT = """(() => {
const root = document.currentScript.parentElement, data = JSON.parse(root.querySelector("script[type='application/json']").textContent);
const slider = root.querySelector("input"), button = root.querySelector("button"), out = root.querySelector("output");
let timer = null;
function show(i) { slider.value = i; out.innerHTML = data.frames[i].words; draw(data.frames[i]); }
DRAW
function stop() { clearInterval(timer); timer = null; button.textContent = "▶ play"; }
button.onclick = () => { if (timer) return stop(); if (+slider.value >= data.frames.length - 1) show(0); button.textContent = "❚❚ pause";
  timer = setInterval(() => +slider.value < data.frames.length - 1 ? show(+slider.value + 1) : stop(), 160); };
slider.oninput = () => { stop(); show(+slider.value); };
show(data.frames.length - 1);
})();"""

GAME = """const line = ys => ys.map((y, i) => y === null ? null : (data.x[i] / 10) + "," + (y / 10)).filter(v => v).join(" ");
const rgb = hex => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16));
function paint(canvas, values, side, colour) {
  const context = canvas.getContext("2d"), small = new OffscreenCanvas(side, side), inner = small.getContext("2d");
  const image = inner.createImageData(side, side);
  for (let i = 0; i < values.length; i++) image.data.set(colour(values[i]), 4 * i);
  inner.putImageData(image, 0, 0); context.clearRect(0, 0, canvas.width, canvas.height); context.imageSmoothingEnabled = true;
  context.drawImage(small, 0, 0, canvas.width, canvas.height); return context;
}
const digits = text => Array.from(text, c => c.charCodeAt(0) - 35);
function draw(f) {
  if (data.d === 1) {
    for (const name of ["q", "d", "s"]) { const el = root.querySelector("." + name); if (el && f[name]) el.setAttribute("points", line(f[name])); }
    return;
  }
  const maps = root.querySelectorAll("canvas"), tint = c => v => [...c, Math.round(v * 2.8)];
  const context = paint(maps[0], digits(data.p), data.side, tint(rgb(data.colours[0])));
  context.fillStyle = data.colours[1];
  for (let k = 0; k < f.dots.length; k += 2) { context.beginPath(); context.arc(f.dots[k], f.dots[k + 1], 3.2, 0, 7); context.fill(); }
  const two = v => { const t = v / 90, c = rgb(data.colours[t > .5 ? 0 : 1]);
    return v < 0 ? [0, 0, 0, 0] : [...c, Math.round(510 * Math.abs(t - .5))]; };
  if (f.d) paint(maps[1], digits(f.d), data.side, two);
  paint(maps[maps.length - 1], digits(f.s), data.side, two);
}"""


def words(frame: Frame) -> str:
    """The numbers of a frame as HTML."""
    parts = [f"<span>step <b>{frame.step:,}</b></span>"]
    if frame.value is not None:
        parts += [f"<span>V(D) <b>{frame.value:.4f}</b></span>"]
    parts += [f"<span>V* <b>{frame.best:.4f}</b></span>"]
    if frame.gap is not None:
        parts += [f"<span>gap <b>{frame.gap:.4f}</b></span>"]
    if frame.transport is not None:
        parts += [f"<span>W1 ≥ <b>{frame.transport:.3f}</b></span>"]
    return "".join(parts)


def player(game: Game) -> str:
    """The frames of a game, to be looked through."""
    body, data = _lines(game) if game.p.d == 1 else _maps(game)
    return framed(body, data, GAME, label="step of the game")


def framed(body: str, data: Mapping[str, Any], draw: str, *, label: str) -> str:
    """A drawing with a slider below it, as HTML.

    Args:
        body: what is drawn on, as it is without script.
        data: `frames`, each with its `words` (HTML) and whatever else `draw` needs of it.
        draw: script that holds `function draw(f)`, of one frame; `root` is the element around the body, `data` these data.
        label: of the slider, for a screen reader.
    """
    last = len(data["frames"]) - 1
    bar = (
        '<div class="bar"><button type="button">▶ play</button>'
        f'<input type="range" min="0" max="{last}" value="{last}" aria-label="{escape(label)}"></div>'
        f"<output>{data['frames'][-1]['words']}</output>"
    )
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    script = SCRIPT.replace("DRAW", draw)
    return f'{STYLE}\n<div class="player">{body}{bar}<script type="application/json">{text}</script>\n<script>{script}</script></div>'


def _key(names: list[tuple[str, str]]) -> str:
    return (
        '<div class="key">'
        + "".join(f'<span><i style="background:{colour}"></i>{escape(name)}</span>' for colour, name in names)
        + "</div>"
    )


def _lines(game: Game) -> tuple[str, dict[str, object]]:
    x = game.shown.middle[0]
    low, high = float(game.shown.edges[0][0]), float(game.shown.edges[0][-1])
    across = MARGIN + (x - low) / (high - low) * (WIDTH - MARGIN - 8)
    p = game.shown.p / game.shown.volume
    top = 1.08 * max(float(p.max()), float(game.last.q.max()), float(game.frames[0].q.max()))

    def density(y: Tensor) -> list[int | None]:
        return _tenths(HEIGHT - 22 - (y / top).clamp(max=1.02) * (HEIGHT - 34))

    def share(y: Tensor | None) -> list[int | None]:
        return [] if y is None else _tenths(HEIGHT - 22 - y.clamp(0, 1) * (HEIGHT - 34))

    xs = [round(10 * float(v)) for v in across]
    frames = [{"words": words(f), "q": density(f.q), "d": share(f.d), "s": share(f.d_star)} for f in game.frames]

    def points(ys: list[int | None]) -> str:
        return " ".join(f"{a / 10:g},{b / 10:g}" for a, b in zip(xs, ys, strict=True) if b is not None) if ys else ""

    def axes(marks: list[tuple[float, str]], name: str) -> str:
        floor = HEIGHT - 22
        parts = [f'<line class="axis" x1="{MARGIN}" x2="{WIDTH - 8}" y1="{floor}" y2="{floor}"/><text x="4" y="14">{name}</text>']
        for t in _ticks(low, high):
            at = MARGIN + (t - low) / (high - low) * (WIDTH - MARGIN - 8)
            label = f"{t:g}".replace("-", "−")
            parts.append(f'<text x="{at:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{label}</text>')
        for at, label in marks:
            y = floor - at * (HEIGHT - 34)
            parts.append(f'<line class="axis" x1="{MARGIN}" x2="{WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}" stroke-dasharray="3 4"/>')
            parts.append(f'<text x="4" y="{y + 4:.1f}">{label}</text>')
        return "".join(parts)

    end = frames[-1]
    p_line = points(density(p))
    shape = f"{MARGIN},{HEIGHT - 22} {p_line} {WIDTH - 8},{HEIGHT - 22}"
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
    learned = f'<polyline class="d" stroke="{D}" points="{points(end["d"])}"/>' if game.last.d is not None else ""
    names = (
        [(P, "p, the data"), (Q, "q, the generator's density")] + ([(D, "D, learned")] if learned else []) + [(STAR, "D* = p / (p + q)")]
    )
    body = (
        f'{_key(names)}<svg {box} aria-label="densities"><polygon class="area" points="{shape}" fill="{P}" fill-opacity=".18" stroke="{P}"/>'
        f'<polyline class="q" stroke="{Q}" points="{points(end["q"])}"/>{axes([], "density")}</svg>'
        f'<svg {box} aria-label="critics">{axes([(0, ""), (0.5, "½"), (1, "1")], "")}'
        f'<polyline class="s" stroke="{STAR}" stroke-width="2" stroke-dasharray="6 4" points="{points(end["s"])}"/>{learned}</svg>'
    )
    return body, {"d": 1, "x": xs, "frames": frames}


def _tenths(y: Tensor) -> list[int | None]:
    return [None if math.isnan(v) else round(10 * v) for v in y.tolist()]


def _ticks(low: float, high: float) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(step * k for k in (1, 2, 5, 10) if (high - low) / (step * k) <= 8)
    return [round(i * step, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _maps(game: Game) -> tuple[str, dict[str, object]]:
    side = len(game.shown.middle[0])

    def letters(values: Tensor) -> str:
        """0 … 1 in 91 steps, one printable letter for each cell, rows from above; NaN is below all."""
        steps = (values.clamp(0, 1) * 90).round().nan_to_num(-1).long()
        return "".join(chr(35 + int(v)) for v in steps.T.flip(0).flatten())

    low, span = float(game.shown.edges[0][0]), float(game.shown.edges[0][-1] - game.shown.edges[0][0])
    below = float(game.shown.edges[1][0])
    size = 320
    frames = []
    for f in game.frames:
        dots = torch.stack([(f.samples[:, 0] - low) / span * size, size - (f.samples[:, 1] - below) / span * size], 1).round().long()
        inside = ((dots >= 0) & (dots <= size)).all(1)
        frames.append(
            {"words": words(f), "dots": dots[inside].flatten().tolist(), "s": letters(f.d_star), "d": "" if f.d is None else letters(f.d)}
        )
    names = ["p, and 256 draws of the generator"] + (["D, learned"] if game.last.d is not None else []) + ["D* = p / (p + q)"]
    canvases = "".join(
        f'<div><canvas width="{size}" height="{size}" role="img" aria-label="{escape(n)}"></canvas>{escape(n)}</div>' for n in names
    )
    data = {"d": 2, "side": side, "p": letters(game.shown.p / game.shown.p.max()), "frames": frames, "colours": [P, Q]}
    return f'{_key([(P, "p; D near 1"), (Q, "draws; D near 0")])}<div class="maps">{canvases}</div>', data
