"""The course on one page: mass, chain, mixture, Bayes' rule, reparameterization, and the questions that notes leave open."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.context import Context

from pofx.errors import InputError
from pofx.studio import course, holes
from pofx.studio.board import Board, canvas
from pofx.studio.parts import choose_run, chosen, pixels, same, status, told
from pofx.studio.shelf import Shelf, Wanted
from pofx.studio.work import Work, how_far

if TYPE_CHECKING:
    from pofx.model import Progress
    from pofx.workflows.mass import Frame, Mass

ORDER = 8
TITLE = "Course"
ABOUT = """Every formula of a lecture on generative models, happening. All numbers are exact: sums over all images, or quadrature. **Train** a
tiny model and see where its mass goes; **click a pixel** for its distribution; **drag** a mixture; check every cell of Bayes' rule; and ask the
questions that notes leave open."""
FRAMES = 40
START = (0.4, 0.45)  # of the point on the plane of mean and scale
QUIET: dict[str, Any] = {"show_progress": "hidden"}
LATEST: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}


def build(shelf: Shelf) -> None:
    _mass(shelf)
    _chain(shelf)
    _mixture(shelf)
    _bayes(shelf)
    _reparameterization(shelf)
    _questions(shelf)


def loaded(fn: Any, inputs: Any, outputs: Any) -> None:
    """Fill a panel when the page has come."""
    assert Context.root_block is not None
    Context.root_block.load(fn, inputs, outputs, **QUIET)


def live(events: list[Any], fn: Any, inputs: Any, outputs: Any) -> None:
    """Fill a panel when the page has come, and again at each of these events; of many at once the last counts."""
    gr.on(events, fn, inputs, outputs, **LATEST)
    loaded(fn, inputs, outputs)


def _mass(shelf: Shelf) -> None:
    gr.Markdown(
        "## Mass\n\nAll 512 binary images of 3×3 under a model that learns a few of them: each is a rectangle, and its area is p(x). The "
        "square "
        "is cut by the first pixel, each part by the second given the first, and so on: the chain rule. When one gains, others lose; the sum is 1 at "
        "every step."
    )
    with gr.Row():
        model = gr.Dropdown(list(course.MODELS), value="made", label="Model", min_width=120, elem_id="mass-model")
        images = gr.Textbox(
            "",
            label="Patterns (nine pixels each; / between labels)",
            placeholder="three rows / three columns",
            min_width=240,
            elem_id="mass-images",
        )
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=90)
    with gr.Row():
        train = gr.Button("Train", variant="primary", min_width=90, elem_id="mass-train")
        stop = gr.Button("Stop", min_width=90, elem_id="mass-stop")
    at = gr.Slider(0, FRAMES, 0, step=1, label="Frame, from the first step to the last", elem_id="mass-frame")
    line = gr.HTML(course.numbers(step="–"), min_height=30, elem_id="mass-numbers")
    wall = pixels(height=516)
    wall.elem_id = "mass-wall"
    progress = status()
    progress.elem_id = "mass-progress"
    with gr.Accordion("The table image × label, and what a classifier says of noise", open=False):
        tables = gr.HTML("<p>Train a model first.</p>", elem_id="mass-tables")
    hand = same()
    state = gr.State(None)
    stopping = gr.State(threading.Event)

    def run(name: str, images: str, seed: float, stop: threading.Event) -> Iterator[tuple[Any, ...]]:
        from pofx.workflows import mass as workflow
        from pofx.workflows._patterns import LINES, patterns

        text, number = images.strip() or LINES, int(seed or 0)
        data, seen = patterns(text), []
        stop.clear()

        def compute(progress: Progress) -> Mass:
            return workflow.mass(
                model=name, images=text, seed=number, frames=FRAMES, labels=data.classes > 1, progress=progress, watch=seen.append
            )

        work = Work(shelf, compute, stop)
        for done in work:
            now: Frame | None = seen[-1] if seen else None
            drawing = (gr.skip(), gr.skip()) if now is None else course.wall_of(now, data)
            yield gr.skip(), gr.skip(), *drawing, gr.skip(), *course.mass_by_hand(name, text, number), how_far("training", done)
        made = work.result
        last = len(made.frames) - 1
        tables = course.tables_of(made) if made.table is not None else "<p>One label: there is nothing to tell apart.</p>"
        yield made, gr.Slider(maximum=last, value=last), *course.wall_of(made.last, data), tables, gr.skip(), gr.skip(), "Move the slider."

    def show(made: Mass | None, at: float) -> tuple[str, str]:
        if made is None:
            raise InputError("Train a model first.")
        return course.wall_of(made.frames[min(int(at), len(made.frames) - 1)], made.data)

    outputs = [state, at, wall, line, tables, *hand.both, progress]
    error = status()
    train.click(told(8)(run), [model, images, seed, stopping], [*outputs, error], **QUIET)
    stop.click(lambda event: event.set(), stopping, None, **QUIET)
    at.input(told(2)(show), [state, at], [wall, line, error], **LATEST)


def _chain(shelf: Shelf) -> None:
    gr.Markdown(
        "## Chain\n\np(x) = ∏ p(xᵢ | x₁ … xᵢ₋₁). **Click a pixel**: its distribution over all values, what it costs, and the sum of −log₂ p so far. "
        "The sum is the file that `pofx compress` writes, but for its frame and the rounding of whole numbers. "
        "Below: what the pixel depends on, exactly 0 outside of its past."
    )
    choice = choose_run(shelf, Wanted(("Autoregressive",), "be read pixel by pixel"))
    with gr.Row():
        with gr.Column(min_width=330, scale=0):
            image = canvas("cell", "The image: choose a pixel", elem_id="chain-image")
        with gr.Column(min_width=300):
            with gr.Row():
                number = gr.Number(0, label="Test image", precision=0, minimum=0, min_width=90, elem_id="chain-number")
                channel = gr.Number(0, label="Channel", precision=0, minimum=0, min_width=90, elem_id="chain-channel")
            write = gr.Button("Write the file", elem_id="chain-write")
            error = status()
    drawing = gr.HTML("", min_height=330, elem_id="chain")
    jacobian = gr.HTML("", min_height=240, elem_id="chain-jacobian")
    hand = same()

    def read(run: str | None, number: float, channel: float, board: Any, file: bool) -> tuple[Any, ...]:
        model = shelf.model(chosen(run))
        picked = holes.pick(str(run), model, shelf.info(str(run)), shelf.images(str(run)), number)
        with shelf.computing():
            found = course.taken_apart(model, picked, Board.of(board), int(channel or 0), file=file)
            return course.board_of(found), course.chain_html(found), course.jacobian_html(model, found), *course.chain_by_hand(found)

    def look(run: str | None, number: float, channel: float, board: Any) -> tuple[Any, ...]:
        return read(run, number, channel, board, False)

    def written(run: str | None, number: float, channel: float, board: Any) -> tuple[Any, ...]:
        return read(run, number, channel, board, True)

    inputs, outputs = [choice.run, number, channel, image], [image, drawing, jacobian, *hand.both, error]
    gr.on([choice.run.change, number.change, channel.change, image.input], told(5)(look), inputs, outputs, **LATEST)
    write.click(told(5)(written), inputs, outputs, **QUIET)


def _mixture(shelf: Shelf) -> None:
    gr.Markdown(
        "## Mixture\n\nA discretized mixture of logistics: a density cut at the edges between levels. **Drag the point**: to the right a larger "
        "mean, upwards a larger scale. The outer bins reach to infinity, so that the bins sum to 1, also for a mean outside of the levels."
    )
    with gr.Row():
        with gr.Column(min_width=330, scale=0):
            plane = canvas("point", "Mean and scale of the first component", value=Board(point=START), elem_id="mixture-plane")
        with gr.Column(min_width=300):
            levels = gr.Dropdown([2, 16, 64, 256], value=16, label="Levels", min_width=120, elem_id="mixture-levels")
            share = gr.Slider(0, 1, 0.6, step=0.01, label="Weight of the first component", elem_id="mixture-share")
            mean = gr.Slider(-0.25, 1.25, 0.75, step=0.01, label="Mean of the second, as a share of the levels")
            scale = gr.Slider(0.002, 0.5, 0.08, step=0.002, label="Scale of the second, as a share of the levels")
    line = gr.HTML("", min_height=30, elem_id="mixture-numbers")
    drawing = gr.HTML("", min_height=290, elem_id="mixture")
    error = status()
    hand = same()

    def show(board: Any, share: float, mean: float, scale: float, levels: int) -> tuple[Any, ...]:
        with shelf.computing():
            return course.mixture_html(Board.of(board).point or START, share, mean, scale, int(levels))

    inputs, outputs = [plane, share, mean, scale, levels], [drawing, line, *hand.both, error]
    live([plane.input, share.input, mean.input, scale.input, levels.input], told(4)(show), inputs, outputs)


def _bayes(shelf: Shelf) -> None:
    gr.Markdown(
        "## Bayes' rule\n\nAll 16 binary images of 2×2 and two labels (0: ink above, 1: ink below). p(x|y) is a trained network, p(y) is "
        "yours; p(y|x) and p(x) follow. **Click an image** to check its cell."
    )
    with gr.Row():
        with gr.Column(min_width=230, scale=0):
            images = canvas("cell", "All images of 2×2: choose one", side=220, elem_id="bayes-images")
        with gr.Column(min_width=300):
            prior = gr.Slider(0.01, 0.99, 0.5, step=0.01, label="p(y = 0)", elem_id="bayes-prior")
            label = gr.Radio([0, 1], value=0, label="Label of the cell", elem_id="bayes-label")
            cell = gr.HTML("", min_height=72, elem_id="bayes-cell")
    tables = gr.HTML("", min_height=700, elem_id="bayes-tables")
    error = status()
    hand = same()

    def show(board: Any, prior: float, label: int) -> tuple[Any, ...]:
        with shelf.computing():
            return course.bayes_html(prior, Board.of(board).cell, int(label))

    def first(prior: float, label: int) -> tuple[Any, ...]:
        with shelf.computing():
            return course.all_2x2((3, 0)), *course.bayes_html(prior, (3, 0), int(label))

    outputs = [tables, cell, *hand.both, error]
    gr.on([images.input, prior.input, label.input], told(4)(show), [images, prior, label], outputs, **LATEST)
    loaded(told(5)(first), [prior, label], [images, *outputs])


def _reparameterization(shelf: Shelf) -> None:
    gr.Markdown(
        "## Reparameterization\n\nz = μ + σε. **Move μ and σ** while ε is held fixed: each draw slides along f with a slope of its own, "
        "and the mean of the slopes is the gradient of E[f]. The score function gives the same number without f′."
    )
    names = ["−(z² − 2)²/4", "z²", "sin 2z"]
    with gr.Row():
        mean = gr.Slider(-2, 2, 0.5, step=0.05, label="μ", elem_id="path-mean")
        sd = gr.Slider(0.1, 2, 0.8, step=0.05, label="σ", elem_id="path-sd")
    with gr.Row():
        f = gr.Dropdown(names, value=names[0], label="f(z)", min_width=120)
        n = gr.Number(12, label="Draws", precision=0, minimum=1, maximum=200, min_width=90)
        seed = gr.Number(0, label="Seed of ε", precision=0, minimum=0, min_width=90)
    line = gr.HTML("", min_height=30, elem_id="path-numbers")
    drawing = gr.HTML("", min_height=320, elem_id="path")
    error = status()
    hand = same()

    def show(*values: Any) -> tuple[Any, ...]:
        with shelf.computing():
            return course.reparameterization_html(*values)

    inputs, outputs = [mean, sd, f, n, seed], [drawing, line, *hand.both, error]
    live([mean.input, sd.input, f.input, n.change, seed.change], told(4)(show), inputs, outputs)


def _questions(shelf: Shelf) -> None:
    gr.Markdown(
        "## Questions\n\nWhat notes leave open, and where they slip. Each answer is computed when you ask; some train a tiny model first."
    )
    with gr.Row():
        key = gr.Dropdown([], label="Question", min_width=300, elem_id="question", interactive=True)
        ask = gr.Button("Ask", variant="primary", min_width=90, elem_id="ask")
    waiting = status()
    error = status()
    answer = gr.HTML("", min_height=420, elem_id="answer")
    hand = same()

    def asked(key: str | None) -> Iterator[tuple[Any, ...]]:
        if not key:
            raise InputError("Choose a question first.")
        work = Work(shelf, lambda progress: course.answer_html(key))
        for done in work:
            yield gr.skip(), gr.skip(), gr.skip(), how_far("computing", done)
        yield *work.result, ""

    def fill() -> Any:
        shelf.wait()
        found = course.titles()
        return gr.Dropdown(choices=found, value=found[0][1])

    ask.click(told(4)(asked), key, [answer, *hand.both, waiting, error], **QUIET)
    loaded(fill, None, key)
