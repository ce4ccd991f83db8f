"""The game of a GAN on points that a person draws: p, q, D and D* in motion."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.context import Context

from pofx.errors import InputError
from pofx.signatures import loss_setting
from pofx.studio.board import Board, canvas
from pofx.studio.game import DENSITIES, HALF, LATTICE, NOTHING, SETS, Playing, begin, curve, link, maps, numbers, preset
from pofx.studio.parts import command, same, status, told
from pofx.studio.shelf import Shelf

if TYPE_CHECKING:
    from pofx.models.adversarial.losses import Loss

ORDER = 7
TITLE = "Equilibrium"
ABOUT = """Two small nets play the game of a GAN on points of the plane: the generator draws from q and wants to meet p, the critic D says how probable it is
that a point is real. **Draw** points (p is their kernel density) or choose a density, and **start**. Against q the best critic is D* = p / (p + q); its value
V* = −log 4 + 2 JSD(p, q) falls to −1.386 where q = p, and D can only stay below it."""
NOTE = f"""Orange: q, and where D is near 0; green: p, and where D is near 1; D = ½ is clear. Densities are shown from 0 to their own peak, on the canvas
from −{HALF:g} to {HALF:g}. All numbers are of 96 × 96 cells, and the generator's density of a lattice of {LATTICE} × {LATTICE} points of z (the page of
`pofx equilibrium` has 401 × 401; V* differs by less than 0.001): approximate, since cells blur and a lattice leaves some of them empty."""
FIELDS = 3  # settings of a loss, at most
STEPS = 2000


def build(shelf: Shelf) -> None:
    losses = {name: settings for name, (_, settings) in loss_setting().choices.items()}
    with gr.Row():
        with gr.Column(min_width=330, scale=0):
            plane = canvas("draw", "The data: draw points, with the mouse, a finger, or arrow keys and space", elem_id="points")
        with gr.Column(min_width=300):
            start_from = gr.Dropdown(
                [*DENSITIES, *SETS, NOTHING],
                value=DENSITIES[0],
                label="Start from (or type a density of two numbers)",
                allow_custom_value=True,
                elem_id="start-from",
            )
            loss = gr.Dropdown(list(losses), value="non-saturating", label="Loss", elem_id="loss")
            with gr.Row():
                fields = [gr.Number(visible=False, min_width=90, step=0.01) for _ in range(FIELDS)]
            with gr.Row():
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=90)
                steps = gr.Number(STEPS, label="Steps of the generator", precision=0, minimum=1, min_width=120)
            with gr.Row():
                per_second = gr.Slider(0.5, 10, 4, step=0.5, label="Frames a second, at most", min_width=150, elem_id="per-second")
                per_frame = gr.Slider(1, 50, 5, step=1, label="Steps a frame", min_width=150, elem_id="per-frame")
    with gr.Row():
        start = gr.Button("Start", variant="primary", min_width=90, elem_id="start")
        pause = gr.Button("Pause", min_width=90, elem_id="pause")
        go_on = gr.Button("Go on", min_width=90, elem_id="go-on")
        one = gr.Button("One step", min_width=90, elem_id="one-step")
        reset = gr.Button("Reset", min_width=90, elem_id="reset")
        clear = gr.Button("Clear points", min_width=90, elem_id="clear")
    told_numbers = gr.HTML(numbers(None), elem_id="numbers", min_height=30)
    pictures = gr.HTML(maps(None), elem_id="maps")
    drawn = gr.HTML(curve(None), elem_id="curve", min_height=190)
    error = status()
    gr.Markdown(NOTE)
    points_link = gr.HTML("", min_height=24, elem_id="points-link")
    hand = same()
    playing = gr.State(None)

    def chosen(name: str, values: tuple[float | None, ...]) -> dict[str, float]:
        """The settings of a loss that were typed, by name."""
        pairs = zip(losses.get(name, ()), values, strict=False)
        return {field.name: float(value) for field, value in pairs if value is not None and float(value) != float(field.default or 0)}

    def made(name: str, values: tuple[float | None, ...]) -> Loss:
        from pofx import catalog
        from pofx.signatures import game_loss

        typed = {"loss": name} | {f"loss.{key}": value for key, value in chosen(name, values).items()}
        return catalog.arguments_from_json(game_loss(typed))["loss"]

    def shown(now: Playing) -> tuple[str, str, str]:
        return maps(now), numbers(now), curve(now)

    def halt(now: Playing | None) -> None:
        """Whoever plays it on stops after the step in hand."""
        if now is not None:
            now.turn += 1

    def begun(before: Playing | None, board: Any, name: str, loss: str, seed: float, steps: float, *more: float) -> tuple[Any, ...]:
        """A new game, looked at once; and how it is played by hand."""
        per_second, per_frame, *values = more
        halt(before)
        shelf.wait()
        game = made(loss, tuple(values))
        with shelf.computing():
            now = begin(Board.of(board).points, name, game, steps=int(steps or STEPS), seed=int(seed or 0))
            now.per_second, now.per_frame = per_second, int(per_frame)
            now.look()
        drawn_points = now.match.p.text.startswith("kernel")
        line, python = by_hand(now, loss, chosen(loss, tuple(values)), drawn_points)
        return now, *shown(now), link(now.points) if drawn_points else "", line, python

    def started(*setting: Any) -> Iterator[tuple[Any, ...]]:
        now, *rest = begun(*setting)
        yield (now, *rest)
        for drawn in played(now):
            yield (gr.skip(), *drawn, *[gr.skip()] * 3)

    def played(now: Playing | None) -> Iterator[tuple[Any, ...]]:
        if now is None:
            raise InputError("Start a game first.")
        now.turn += 1
        turn = now.turn
        while not now.over and now.turn == turn:
            began = time.monotonic()
            with shelf.computing():
                for _ in range(min(now.per_frame, now.steps - now.match.step)):
                    if now.turn != turn:
                        break
                    now.match.advance()
                    shelf.give_way()
                now.look()
            yield shown(now)
            while now.turn == turn and time.monotonic() - began < 1 / now.per_second:
                time.sleep(0.02)

    def stepped(now: Playing | None) -> tuple[Any, ...]:
        if now is None:
            raise InputError("Start a game first, or reset it to look at its beginning.")
        if now.over:
            raise InputError(
                f"The game is over: its learning rate has fallen to 0 over {now.steps} steps. Start it again, or with more steps."
            )
        halt(now)
        with shelf.computing():
            now.match.advance()
            now.look()
        return shown(now)

    def paced(now: Playing | None, per_second: float, per_frame: float) -> None:
        if now is not None:
            now.per_second, now.per_frame = per_second, int(per_frame)

    def put(name: str) -> Board:
        shelf.wait()
        return Board(points=preset(name))

    def asked(name: str) -> list[Any]:
        own = losses.get(name, ())
        updates = [gr.update(visible=True, label=f"{field.name}", value=float(field.default or 0)) for field in own]
        return updates + [gr.update(visible=False)] * (FIELDS - len(own))

    frame = [pictures, told_numbers, drawn]
    setting = [playing, plane, start_from, loss, seed, steps, per_second, per_frame, *fields]
    results = [playing, *frame, points_link, *hand.both, error]
    quiet: dict[str, Any] = {"show_progress": "hidden"}
    many: dict[str, Any] = {**quiet, "trigger_mode": "multiple"}  # the one before has been told to stop, and is about to
    go_on.click(told(3)(played), playing, [*frame, error], **many)
    start.click(told(7)(started), setting, results, **many)
    pause.click(halt, playing, None, **quiet)
    one.click(told(3)(stepped), playing, [*frame, error], **quiet)
    reset.click(told(7)(begun), setting, results, **quiet)
    clear.click(lambda: (NOTHING, Board()), None, [start_from, plane], **quiet)
    gr.on([per_second.change, per_frame.change], paced, [playing, per_second, per_frame], **quiet)
    start_from.input(told(1)(put), start_from, [plane, error], **quiet)
    loss.change(asked, loss, fields, **quiet)
    root = Context.root_block
    assert root is not None
    root.load(lambda name, loss: (put(name), *asked(loss)), [start_from, loss], [plane, *fields], **quiet)


def by_hand(now: Playing, loss: str, settings: dict[str, float], drawn: bool) -> tuple[str, str]:
    """The same game on the command line, and in Python."""
    source = ("--points", "points.csv") if drawn else ("--p", now.match.p.text)
    typed = [word for name, value in settings.items() for word in (f"--loss.{name}", f"{value:g}")]
    tail = ("--steps", now.steps, "--seed", now.match.seed, "-o", "equilibrium.html")
    line = command("pofx", "equilibrium", *source, "--loss", loss, *typed, *tail)
    game = now.match.loss
    data = 'points="points.csv"' if drawn else f'p="{now.match.p.text}"'
    return line, (
        f"from pofx.models.adversarial.losses import {type(game).__name__}\nfrom pofx.workflows.equilibrium import equilibrium\n\n"
        f'page = equilibrium({data}, out="equilibrium.html", loss={game!r}, steps={now.steps}, seed={now.match.seed})\nprint(page.game.last.best)'
    )
