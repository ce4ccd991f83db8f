"""Fill the hole of an image that a person paints; give colours, or enlarge, where a run was trained for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from pofx.errors import InputError
from pofx.studio import holes
from pofx.studio.board import SIDE, Board, canvas
from pofx.studio.parts import choose_run, chosen, figure, same, status, told
from pofx.studio.shelf import Shelf, Wanted
from pofx.studio.work import Work, how_far

if TYPE_CHECKING:
    from pofx.model import Progress
    from pofx.studio.holes import Picked
    from pofx.tasks.complete import Completion

ORDER = 4
TITLE = "Complete"
ABOUT = """What could be in the hole? **Choose** or upload an image, **paint** the hole, and get several draws of p(hole | kept). It is exact where
the hole comes last in the order of an autoregressive run, or where a run was trained for it; elsewhere it is approximate, and the lines below the images
say how many draws stand behind it. Runs trained with `--given gray` give colours, those with `--given half` enlarge."""
MOST = 24
DEFAULTS = {"n": 8, "particles": 128, "sweeps": 0, "seed": 0}  # of `pofx complete`, which are not said


def build(shelf: Shelf) -> None:
    choice = choose_run(shelf, Wanted(("Sampler", "Decoder"), "complete images"))
    with gr.Row(equal_height=True):
        number = gr.Number(0, label="Test image", precision=0, minimum=0, min_width=90, elem_id="number")
        label = gr.Textbox(
            "", label="Class, of a run given label", placeholder="number; empty: the image's own", min_width=160, elem_id="label"
        )
        upload = gr.UploadButton("Upload an image", file_types=["image"], min_width=160, elem_id="upload")
    what = gr.Markdown("", elem_classes="status", elem_id="what")
    with gr.Row():
        with gr.Column(min_width=330, scale=0):
            hole = canvas("paint", "The image: paint the hole, with the mouse, a finger, or arrow keys and space", brush=1, elem_id="hole")
            given = gr.HTML("", elem_classes="pixels", min_height=SIDE, visible=False, elem_id="given")
        with gr.Column(min_width=300):
            brush = gr.Slider(
                0, 6, 1, step=1, label="Brush (pixels around the middle one; start on a painted pixel to wipe)", elem_id="brush"
            )
            with gr.Row():
                clear = gr.Button("Clear", min_width=90, elem_id="clear")
                half = gr.Button("Keep the top half", min_width=90, elem_id="top-half")
                invert = gr.Button("Invert", min_width=90, elem_id="invert")
            with gr.Row():
                n = gr.Slider(1, MOST, 8, step=1, label="Completions", min_width=120)
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=90)
            with gr.Row():
                particles = gr.Number(
                    128, label="Particles (approximate ways; more: nearer, slower)", precision=0, minimum=1, min_width=120
                )
                sweeps = gr.Number(0, label="Sweeps (autoregressive, approximate; slow)", precision=0, minimum=0, min_width=120)
            with gr.Row():
                go = gr.Button("Complete", variant="primary", min_width=120, elem_id="complete")
                stop = gr.Button("Stop", min_width=90, elem_id="stop")
    progress = gr.Markdown("", elem_classes="status", elem_id="progress")
    pictures = gr.HTML("", elem_classes="pixels", min_height=holes.SIDE + 40, elem_id="completions")
    words = gr.Markdown("", elem_id="words", min_height=120)
    error = status()
    files = gr.HTML("", min_height=24, elem_id="files")
    hand = same()
    picked = gr.State(None)
    tools = [brush, clear, half, invert]

    def laid(now: Picked, board: Any) -> tuple[Any, ...]:
        """An image that was chosen, as the page shows it."""
        model = shelf.model(now.run)
        painted = holes.is_painted(model)
        says = f"{holes.task_of(model)} Now: {escape(now.heading)}."
        seen = [gr.update(visible=painted)] * len(tools)
        if painted:
            return now, holes.on_board(now, model, Board.of(board)), gr.update(visible=False), says, *seen
        return now, gr.update(visible=False), gr.update(value=_given(now, model), visible=True), says, *seen

    def from_test(run: str | None, number: float | None, board: Any) -> tuple[Any, ...]:
        model = _able(shelf, run)
        now = holes.pick(str(run), model, shelf.info(str(run)), shelf.images(str(run)), number)
        return laid(now, board)

    def from_upload(run: str | None, path: str | None, board: Any) -> tuple[Any, ...]:
        model = _able(shelf, run)
        if not path:
            raise InputError("Choose a file with an image.")
        with shelf.computing():
            now = holes.read(str(run), path, model, shelf.info(str(run)))
        return laid(now, board)

    def repainted(how: str) -> Any:
        def change(board: Any) -> Board:
            at = Board.of(board)
            blank = "0" * (at.rows * at.cols)
            masks = {"clear": blank, "half": holes.below(at.rows, at.cols), "invert": holes.inverted(at.mask or blank)}
            return Board(at.src, at.rows, at.cols, mask=masks[how])

        return change

    def asked(values: tuple[Any, ...]) -> dict[str, Any]:
        least = {"n": 1, "particles": 1, "sweeps": 0, "seed": 0}
        return {name: max(least[name], int(value or 0)) for name, value in zip(DEFAULTS, values, strict=True)}

    def completed(run: str | None, now: Picked | None, board: Any, label: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        from pofx.tasks.complete import complete

        model = _able(shelf, run)
        if now is None or now.run != run:
            raise InputError("The image is not there yet: wait until it is shown, or choose another.")
        known = holes.known(Board.of(board), model.space) if holes.is_painted(model) else None
        value = holes.value_of(model, now, label)
        now.stop = threading.Event()

        def compute(progress: Progress) -> Completion:
            numbers: dict[str, Any] = {**asked(values)}
            return complete(model, now.x, known, value, **numbers, progress=progress)

        work = Work(shelf, compute, now.stop)
        for at in work:
            yield gr.skip(), gr.skip(), how_far("Stopping at the next step" if now.stop.is_set() else "Completing", at)
        kept = "all but the painted hole" if known is not None else str(model.given)
        yield holes.shown(work.result), "\n\n".join(map(escape, work.result.in_words(now.heading, kept))), ""

    def described(now: Picked | None, board: Any, label: str, *values: Any) -> tuple[str, str, str]:
        """The files and the commands, for what is on the page now."""
        if now is None:
            return "", "", ""
        model, at = shelf.model(now.run), Board.of(board)
        said = {name: value for name, value in asked(values).items() if value != DEFAULTS[name]}
        return holes.links(now, at, holes.is_painted(model)), *holes.by_hand(now, model, at, label, said)

    def halt(now: Picked | None) -> None:
        if now is not None:
            now.stop.set()

    quiet: dict[str, Any] = {"show_progress": "hidden"}
    settings = [n, particles, sweeps, seed]
    lay = [picked, hole, given, what, *tools, error]
    count = len(lay) - 1
    hands = {"fn": described, "inputs": [picked, hole, label, *settings], "outputs": [files, *hand.both], **quiet}
    take = {"fn": told(count)(from_test), "inputs": [choice.run, number, hole], "outputs": lay, **quiet}
    for event in (choice.run.change, number.change):
        event(**take, trigger_mode="always_last").then(**hands)
    upload.upload(told(count)(from_upload), [choice.run, upload, hole], lay, **quiet).then(**hands)
    for button, how in ((clear, "clear"), (half, "half"), (invert, "invert")):
        button.click(repainted(how), hole, hole, **quiet).then(**hands)
    brush.change(lambda size: gr.update(brush=int(size)), brush, hole, **quiet)
    gr.on([hole.input, label.change, *(setting.change for setting in settings)], **hands, trigger_mode="always_last")
    outputs = [pictures, words, progress, error]
    go.click(told(3)(completed), [choice.run, picked, hole, label, *settings], outputs, **quiet).then(lambda: "", None, progress, **quiet)
    stop.click(halt, picked, None, **quiet)


def _able(shelf: Shelf, run: str | None) -> Any:
    """The model of a run that can be completed with.

    Raises:
        CapabilityError: it can neither draw nor decode.
    """
    from pofx.model import Decoder, Sampler, require

    return require(shelf.model(chosen(run)), Sampler, Decoder, to="complete images")


def _given(now: Picked, model: Any) -> str:
    """What the run is told of the image, as a picture."""
    import numpy as np
    from PIL import Image

    from pofx import pictures

    view = model.given
    value = now.value if now.value is not None else view.value(now.x, None)
    known = view.known(model.space, value)
    x = value if known is None else view.fill(value, model.space)
    told = pictures.rgb(x, model.space.levels)
    return figure(Image.fromarray(np.ascontiguousarray(told[0])), f"What the run is told: {view.name}", side=SIDE - 40)
