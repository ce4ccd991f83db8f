"""Runs side by side, and trainings: started from a form, watched, stopped and resumed."""

from __future__ import annotations

import re
import shlex
import time
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import gradio as gr
from gradio.context import Context

from pofx import catalog
from pofx.errors import InputError
from pofx.studio import cards, training
from pofx.studio.curves import curve
from pofx.studio.parts import choose_run, chosen, same, status, told
from pofx.studio.shelf import Shelf, Wanted, read_card

if TYPE_CHECKING:
    from PIL.Image import Image

ORDER = 1
TITLE = "Gallery"
ABOUT = """The runs that are here: what they draw, how they were trained, and what they cost on images that they had not seen. A cost is exact (=), an
upper bound of it (≤) or an estimate (≈); a model without a likelihood says so. Below, **start a training**, watch it, stop it and go on with it."""

FIRST = "pixelcnn"
EVERY = 1.0  # seconds between looks at a training
DRAWING = 60.0  # seconds that samples on request may take
LIVE = 6.0  # and those of a training, which they must not slow down
SHARE = 5  # times as long as drawing took there is none
EMPTY = "There is no run here yet. Start a training below."


@dataclass
class Drawn:
    """Samples of a run: of which weights, when they were drawn and how long that took, or why there are none."""

    picture: Image | None
    weights: int
    at: float
    seconds: float
    why: str = ""


def propose(shelf: Shelf, model: str, data: str) -> str:
    """A run folder that is not there yet."""
    name = f"{model}-{re.sub(r'[^0-9A-Za-z.]+', '-', Path(data or 'data').name).strip('-')}"
    there = shelf.new_place()
    taken = [there / name, *(there / f"{name}-{k}" for k in range(2, 1000))]
    return str(next(path for path in taken if not path.exists() and not training.log_of(path).exists()))


def box(setting: training.Setting) -> Any:
    """The component of one setting, filled with its default."""
    label, info = setting.option, setting.help or None
    choices = next((get_args(h) for h in (setting.hint, *get_args(setting.hint)) if getattr(h, "__origin__", None) is Literal), None)
    if choices is not None:
        return gr.Dropdown([str(c) for c in choices], value=setting.default, label=label, info=info, min_width=230, interactive=True)
    if training.switch(setting):
        return gr.Checkbox(setting.default == "True", label=label, info=info, min_width=230, interactive=True)
    if setting.hint in (int, float) and setting.default is not None:
        return gr.Number(
            float(setting.default), label=label, info=info, precision=0 if setting.hint is int else None, min_width=230, interactive=True
        )
    return gr.Textbox("", label=label, info=info, placeholder=setting.default or "", min_width=230, interactive=True)


def build(shelf: Shelf) -> None:
    trainings = training.Trainings()
    drawings: dict[str, Drawn] = {}

    def shown() -> str:
        found = shelf.cards()
        runs = [cards.html(card, _picture(drawings.get(card.path)), _state(trainings, card.path)) for card in found]
        return f'<div class="cards">{"".join(runs)}</div>' if runs else f"<p>{EMPTY}</p>"

    wall = gr.HTML(shown, elem_id="cards", min_height=300)
    choice = choose_run(shelf, Wanted(("Sampler",), "draw images"), label="Draw samples of")
    draw = gr.Button("Draw samples", elem_id="draw")
    error = status()

    gr.Markdown("## Start a training")
    with gr.Row():
        model = gr.Dropdown(catalog.model_names(), value=FIRST, label="Model", elem_id="model", min_width=180)
        data = gr.Dropdown(
            ["digits"], value="digits", label="Data: a name, a folder, .npz …", allow_custom_value=True, elem_id="data", min_width=220
        )
        minutes = gr.Number(1, label="Minutes", minimum=0, elem_id="minutes", min_width=90)
        out = gr.Textbox(propose(shelf, FIRST, "digits"), label="Run folder", elem_id="out", min_width=220)
    more = gr.Textbox("", label="Further flags of pofx train, as typed", placeholder="--seed 1 --threads 1 --labels 100", elem_id="more")
    settings = gr.Accordion("Settings of the model", open=False)
    line = gr.Textbox(label="What Start runs", interactive=False, lines=2, elem_classes="command", elem_id="line", buttons=["copy"])
    with gr.Row():
        start = gr.Button("Start", variant="primary", elem_id="start")
        stop = gr.Button("Stop", elem_id="stop")
        resume = gr.Button("Resume", elem_id="resume")
        watched = gr.Dropdown([], label="Training", elem_id="watched", min_width=220, interactive=True, allow_custom_value=True)
    trouble = status()
    live = gr.HTML('<div class="live"></div>', elem_id="live", min_height=330)
    timer = gr.Timer(EVERY)
    hand = same()
    hand_line, hand_python = hand.both

    def form(model: str, data: str, out: str, minutes: float | None, more: str, *values: Any) -> tuple[str, str, str]:
        found = dict(zip((s.flag for s in training.settings(model)), values, strict=False))
        typed = shlex.join(training.words(model, data or "", out or "", minutes, found, more or ""))
        return typed, typed, training.python(model, data or "", out or "", minutes, found, more or "")

    fields = [model, data, out, minutes, more]
    lines = [line, hand_line, hand_python, trouble]

    def other(model: str, data: str, out: str, minutes: float | None, more: str) -> tuple[Any, ...]:
        found = propose(shelf, model, data or "")
        return found, *form(model, data, found, minutes, more)

    gr.on([model.input, data.input], told(4)(other), fields, [out, *lines], show_progress="hidden", trigger_mode="always_last")

    with settings:

        @gr.render(inputs=model, show_progress="hidden")
        def settings_of(name: str) -> None:
            with gr.Row():
                boxes = [box(setting) for setting in training.settings(name)]
            changes = [b.change for b in boxes] + [field.change for field in (out, minutes, more)]
            gr.on(changes, told(3)(form), [*fields, *boxes], lines, show_progress="hidden", trigger_mode="always_last")

    def look(path: str | None) -> tuple[Any, ...]:
        """The live panel, the wall where something has ended, and how often to look."""
        found = trainings.of(path) if path else None
        return _live(path, found, drawings.get(path or "")), gr.skip() if found is None or found.running else shown()

    def begin(command: tuple[str, ...]) -> tuple[Any, ...]:
        made = trainings.start(command)
        if Path(made.out).parent not in shelf.places and made.out not in shelf.places:
            shelf.places.append(made.out)
        drawings.pop(str(made.out), None)
        return (
            gr.Dropdown(choices=_unfinished(shelf, trainings), value=str(made.out)),
            _live(str(made.out), made, None),
            gr.Timer(active=True),
        )

    def go_on(path: str | None) -> tuple[Any, ...]:
        if not path:
            raise InputError("There is no training to go on with: start one first.")
        return begin(_command(path))

    def end(path: str | None) -> str:
        found = trainings.of(path) if path else None
        if found is None or not found.running:
            raise InputError("It is not running here.")
        found.stop()
        return _live(path, found, drawings.get(str(path)))

    start.click(told(3)(lambda text: begin(tuple(shlex.split(text)))), line, [watched, live, timer, trouble], show_progress="hidden")
    resume.click(told(3)(go_on), watched, [watched, live, timer, trouble], show_progress="hidden")
    stop.click(told(1)(end), watched, [live, trouble], show_progress="hidden")

    ended: dict[str, int] = {}

    def tick(path: str | None) -> tuple[Any, ...]:
        found = trainings.of(path) if path else None
        if found is None:
            return (gr.skip(), gr.skip(), gr.Timer(active=trainings.running))
        first = not found.running and ended.get(str(path)) != id(found)
        if first:
            ended[str(path)] = id(found)
        return _live(path, found, drawings.get(str(path))), shown() if first else gr.skip(), gr.Timer(active=trainings.running)

    def draw_live(path: str | None) -> None:
        if path and trainings.of(path) is not None:
            weights = _weights(path)
            last = drawings.get(path)
            due = last is None or (weights != last.weights and time.monotonic() - last.at > SHARE * last.seconds)
            if weights and due:
                drawings[path] = draw_samples(shelf, path, LIVE)

    timer.tick(tick, watched, [live, wall, timer], show_progress="hidden", trigger_mode="once")
    timer.tick(draw_live, watched, None, show_progress="hidden", trigger_mode="once")
    watched.input(look, watched, [live, wall], show_progress="hidden")

    def on_request(path: str | None) -> str:
        drawings[chosen(path)] = found = draw_samples(shelf, chosen(path), DRAWING)
        if found.picture is None:
            raise InputError(found.why)
        return shown()

    draw.click(told(1)(on_request), choice.run, [wall, error])

    def loaded() -> tuple[Any, ...]:
        from pofx.data.sources import SETS

        there = _unfinished(shelf, trainings)
        newest = trainings.newest
        value = str(newest.out) if newest else (there[0] if there else None)
        specs = [str(((card.json.get("data") or {}).get("spec") or {}).get("spec") or "") for card in shelf.cards()]
        names = [name for name in dict.fromkeys([*SETS, *specs]) if name]
        return gr.Dropdown(choices=there, value=value), gr.Dropdown(choices=names), gr.Timer(active=trainings.running)

    root = Context.root_block
    assert root is not None
    root.load(loaded, None, [watched, data, timer], show_progress="hidden")
    root.load(told(3)(form), fields, lines, show_progress="hidden")


def draw_samples(shelf: Shelf, path: str, seconds: float) -> Drawn:
    """Samples of seed 0 of a run, in a training or not."""
    from pofx.model import Sampler
    from pofx.training.loop import picture_of_samples, values_for

    began, weights = time.monotonic(), _weights(path)
    model = shelf.model(path)
    if not isinstance(model, Sampler):
        return Drawn(None, weights, began, 0.0, f"{type(model).__name__} draws no images.")
    with shelf.computing():
        picture = picture_of_samples(
            model,
            model.space.levels,
            lambda n: None if model.given is None else values_for(model, shelf.data(path), n),
            seconds=seconds,
            wait=shelf.give_way,
        )
    why = (
        ""
        if picture is not None
        else f"Drawing takes more than {seconds:.0f} seconds here. Draw by hand: pofx sample {path} -n 4 -o samples.png"
    )
    return Drawn(picture, weights, time.monotonic(), time.monotonic() - began, why)


def _weights(path: str) -> int:
    file = Path(path) / "model.safetensors"
    return file.stat().st_mtime_ns if file.is_file() else 0


def _picture(drawn: Drawn | None) -> Image | None:
    return None if drawn is None else drawn.picture


def _state(trainings: training.Trainings, path: str) -> str:
    found = trainings.of(path)
    return "" if found is None or not found.running else "in training"


def _unfinished(shelf: Shelf, trainings: training.Trainings) -> list[str]:
    """Runs that can be watched or gone on with: those started here, newest first, and those that are not finished."""
    return list(dict.fromkeys([*trainings.names, *(card.path for card in shelf.cards() if not card.finished)]))


def _command(path: str) -> tuple[str, ...]:
    """The command that goes on with a run: the one that began it here, or that its model.json tells.

    Raises:
        InputError: neither is there."""
    known, card = training.logged(path), read_card(path)
    if known is None and card is not None:
        from pofx.workflows.report import train_words

        words = train_words(card.json, path)
        known = None if words is None else tuple(words)
    if known is None:
        raise InputError(f"How {path} was started is not known here. The same pofx train … --out {path} command goes on with it.")
    return known


def _live(path: str | None, found: training.Training | None, drawn: Drawn | None) -> str:
    """The panel of one training."""
    if not path:
        return '<div class="live"></div>'
    card = read_card(path)
    state = found.state if found is not None else "finished" if card is None or card.finished else "not finished: Resume goes on with it"
    said = found.said if found is not None else ""
    words = f"<p><b>{escape(path)}</b>: {escape(state)}</p><pre{' class=alarm' if state == 'failed' else ''}>{escape(said)}</pre>"
    picture = (
        "" if card is None else cards.samples(card, _picture(drawn)) if drawn is None or not drawn.why else f"<p>{escape(drawn.why)}</p>"
    )
    shown = "" if card is None else f'{curve(Path(path) / "metrics.csv")}<div class="picture">{picture}</div>'
    return f'<div class="live" data-state="{escape(state)}"><div class="words">{words}</div>{shown}</div>'
