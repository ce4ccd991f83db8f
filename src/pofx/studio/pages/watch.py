"""An autoregressive image appearing pixel by pixel, with the predictive entropy beside it; stop it, change a pixel, and go on from there."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import gradio as gr

from pofx.errors import InputError
from pofx.studio.board import Board, canvas
from pofx.studio.parts import choose_run, chosen, command, image_uri, same, status, told, view_value
from pofx.studio.shelf import Shelf, Wanted

if TYPE_CHECKING:
    from torch import Tensor

    from pofx.tasks._drawing import Drawing

ORDER = 2
TITLE = "Watch it think"
ABOUT = """An autoregressive model draws one pixel after another: p(x) = ∏ p(xᵢ | x₁ … xᵢ₋₁). On the left the image so far, on the right how
uncertain the model was of each pixel when it drew it (dark: certain, bright: anything goes). **Pause**, click a pixel that is drawn already, give it
another value, and **continue from there**: everything after it is drawn anew."""

FRAME = 0.08  # seconds between pictures, at least


@dataclass(frozen=True, eq=False)
class Paused:
    """Where a drawing stands, between two events. `x`, `entropy`, `fixed` as in `Drawing`."""

    run: str
    seed: int
    x: Tensor
    entropy: Tensor
    fixed: Tensor


def heat(entropy: Tensor, levels: int) -> Any:
    """Entropies `(C, H, W)`, mean over channels, as a picture: what was not read is grey."""
    import torch
    from PIL import Image

    from pofx import pictures

    mean = entropy.nanmean(0)
    picture = pictures.heat((mean / math.log(levels)).nan_to_num(0).numpy(), 1.0)
    picture[torch.isnan(mean).numpy()] = (128, 128, 128)
    return Image.fromarray(picture)


def boards(paused: Paused, levels: int, cell: tuple[int, int] | None = None) -> tuple[Board, Board]:
    """Both canvases."""
    from pofx.workflows._page import data_uri

    _, rows, cols = paused.x.shape
    left = Board(image_uri(paused.x, levels), rows, cols, cell=cell)
    return left, replace(left, src=data_uri(heat(paused.entropy, levels)))


def build(shelf: Shelf) -> None:
    choice = choose_run(shelf, Wanted(("Autoregressive",), "be watched pixel by pixel"))
    with gr.Row():
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=90)
        label = gr.Number(0, label="Class (a run given label)", precision=0, minimum=0, min_width=90)
        temperature = gr.Slider(0.1, 2.0, 1.0, step=0.05, label="Temperature (1: samples of p)", min_width=160)
        seconds = gr.Slider(1, 60, 6, step=1, label="Seconds for an image", min_width=160)
    with gr.Row():
        draw = gr.Button("Draw", variant="primary")
        pause = gr.Button("Pause")
        go_on = gr.Button("Continue from here")
    with gr.Row(equal_height=False, elem_classes="stage"):
        with gr.Column(min_width=330):
            image = canvas("cell", "The image so far: choose a pixel", elem_id="image")
        with gr.Column(min_width=330):
            entropy = canvas("cell", "Entropy of each pixel when it was drawn", elem_id="entropy")
    where = gr.Markdown("", elem_classes="status", elem_id="where")
    with gr.Row():
        channels = [
            gr.Slider(0, 255, 0, step=1, label=name, visible=not i, interactive=True) for i, name in enumerate(("Value", "Green", "Blue"))
        ]
        change = gr.Button("Change the pixel")
    error = status()
    hand = same()
    paused = gr.State(None)

    def played(drawing: Drawing, before: Paused, seconds: float, levels: int) -> Iterator[tuple[Any, ...]]:
        import torch

        per_second = max(1.0, drawing.steps / max(seconds, 0.1))
        begun = time.monotonic()
        while True:
            with shelf.computing():
                drawing.advance(max(1, round((time.monotonic() - begun) * per_second) - drawing.step))
            now = replace(
                before,
                x=drawing.x.clone(),
                fixed=drawing.fixed.clone(),
                entropy=torch.where(drawing.entropy.isnan(), before.entropy, drawing.entropy),
            )
            total = now.x.numel()
            done = int(now.fixed.sum())
            spent = float(now.entropy.nansum()) / math.log(2)
            line = f"{done} of {total} sub-pixels. Entropy so far: {spent:.1f} bits, {spent / max(1, done):.3f} bits a sub-pixel."
            yield (*boards(now, levels), now, line)
            if drawing.step >= drawing.steps:
                return
            time.sleep(FRAME)

    def start(run: str | None, seed: float, label: float, temperature: float, seconds: float) -> Iterator[tuple[Any, ...]]:
        import torch

        from pofx.tasks._drawing import Drawing

        model = shelf.model(chosen(run))
        with shelf.computing():
            drawing = Drawing(model, view_value(model, label), seed=int(seed), temperature=temperature)
        shape = model.space.shape
        before = Paused(str(run), int(seed), drawing.x, torch.full(shape, math.nan), torch.zeros(shape, dtype=torch.bool))
        yield from played(drawing, before, seconds, model.space.levels)

    def resume(state: Paused | None, label: float, temperature: float, seconds: float) -> Iterator[tuple[Any, ...]]:
        from pofx.tasks._drawing import Drawing

        if state is None:
            raise InputError("Draw an image first, and pause it.")
        model = shelf.model(state.run)
        with shelf.computing():
            drawing = Drawing(model, view_value(model, label), seed=state.seed, temperature=temperature, kept=(state.fixed, state.x))
        yield from played(drawing, state, seconds, model.space.levels)

    def pointed(board: Any, state: Paused | None) -> tuple[Any, ...]:
        if state is None:
            raise InputError("Draw an image first.")
        cell = Board.of(board).cell or (0, 0)
        c, rows, cols = state.x.shape
        r, k = min(cell[0], rows - 1), min(cell[1], cols - 1)
        at, nats = state.x[:, r, k].tolist(), state.entropy[:, r, k].tolist()
        model = shelf.model(state.run)
        said = ", ".join(f"{v / math.log(2):.2f} bits" for v in nats if v == v) or "not read"
        drawn = "" if bool(state.fixed[:, r, k].all()) else " Not drawn yet."
        sliders = [gr.Slider(maximum=model.space.levels - 1, value=at[i] if i < c else 0, visible=i < c) for i in range(3)]
        return (
            *boards(state, model.space.levels, (r, k)),
            f"Row {r}, column {k}: value {' '.join(map(str, at))}, entropy {said}.{drawn}",
            *sliders,
        )

    def changed(board: Any, state: Paused | None, *values: float) -> tuple[Any, ...]:
        cell = Board.of(board).cell
        if state is None or cell is None:
            raise InputError("Pause a drawing, and click one of its pixels first.")
        model = shelf.model(state.run)
        found = without_later(model, state, cell, [int(v) for v in values])
        return (*boards(found, model.space.levels, cell), found, "Changed. What came after it is gone: continue from here to draw it anew.")

    shown = [image, entropy, paused, where]
    settings = [label, temperature, seconds]
    playing: list[Any] = [
        draw.click(told(4)(start), [choice.run, seed, *settings], [*shown, error], show_progress="hidden"),
        go_on.click(told(4)(resume), [paused, *settings], [*shown, error], show_progress="hidden"),
    ]
    pause.click(None, None, None, cancels=playing)
    for board in (image, entropy):
        board.input(
            told(6)(pointed), [board, paused], [image, entropy, where, *channels, error], show_progress="hidden", trigger_mode="always_last"
        )
    change.click(told(4)(changed), [image, paused, *channels], [*shown, error], show_progress="hidden", cancels=playing)

    def by_hand(run: str | None, seed: float, temperature: float) -> tuple[str, str]:
        run = run or "RUN"
        more = [] if temperature == 1 else ["--temperature", f"{temperature:g}"]
        line = command("pofx", "sample", run, "--trace", "-n", 1, "--seed", int(seed or 0), *more, "-o", "trace.gif")
        adjust = "" if temperature == 1 else f", temperature={temperature:g}"
        return (
            line,
            f'import pofx\nfrom pofx.tasks.trace import trace\n\nmodel = pofx.load("{run}")\ntrace(model, 1, seed={int(seed or 0)}{adjust}).write("trace.gif")',
        )

    gr.on([choice.run.change, seed.change, temperature.change], by_hand, [choice.run, seed, temperature], hand.both, show_progress="hidden")


def without_later(model: Any, state: Paused, cell: tuple[int, int], values: list[int]) -> Paused:
    """One pixel changed, and everything that is drawn after it taken away.

    Raises:
        InputError: the pixel is not drawn yet.
    """
    import torch

    c, _, _ = state.x.shape
    r, k = cell
    if not bool(state.fixed[:, r, k].all()):
        raise InputError("That pixel is not drawn yet: choose one that is.")
    x, fixed = state.x.clone(), torch.zeros(model.space.dims, dtype=torch.bool)
    x[:, r, k] = torch.tensor(values[:c], dtype=torch.uint8)
    mine = torch.arange(model.space.dims).reshape(model.space.shape)[:, r, k]
    left = set(mine.tolist())
    for group in model.order():
        fixed[group.cpu()] = True
        left -= set(group.tolist())
        if not left:
            break
    fixed = fixed.reshape(model.space.shape) & state.fixed
    return replace(state, x=torch.where(fixed, x, 0).to(torch.uint8), fixed=fixed, entropy=state.entropy.masked_fill(~fixed, math.nan))
