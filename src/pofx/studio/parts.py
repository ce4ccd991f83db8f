"""What pages share: choosing a run and an image, showing pictures, saying what went wrong, and the equivalent command."""

from __future__ import annotations

import base64
import functools
import inspect
import mimetypes
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.context import Context

from pofx.errors import InputError, PofxError
from pofx.studio.shelf import Card, Shelf, Wanted

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from pofx.data import Split
    from pofx.model import ImageModel

SIDE = 280  # screen pixels of a picture of one image


# What went wrong ------------------------------------------------------------------------------------------------------------


def told(outputs: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A handler whose errors are sentences on the page: its `outputs` values (or, of a generator, those of each step) get one more, the status.
    A mistake of the person is told, and everything else stays as it was; a bug still raises."""

    def wrap(handler: Callable[..., Any]) -> Callable[..., Any]:
        def joined(found: Any) -> tuple[Any, ...]:
            return (*(found if outputs > 1 else (found,)), "") if outputs else ("",)

        def said(error: PofxError) -> tuple[Any, ...]:
            return (*[gr.skip()] * outputs, f"⚠ {escape(str(error))}")

        if inspect.isgeneratorfunction(handler):

            @functools.wraps(handler)
            def stream(*arguments: Any) -> Iterator[tuple[Any, ...]]:
                try:
                    for found in handler(*arguments):
                        yield joined(found)
                except PofxError as error:
                    yield said(error)

            return stream

        @functools.wraps(handler)
        def once(*arguments: Any) -> tuple[Any, ...]:
            try:
                return joined(handler(*arguments))
            except PofxError as error:
                return said(error)

        return once

    return wrap


def status() -> gr.Markdown:
    """The line where errors are told."""
    return gr.Markdown("", elem_classes="status")


# Choosing a run ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """The component that chooses a run, and the line below that says what the chosen one cannot do."""

    run: gr.Dropdown
    note: gr.Markdown


def choose_run(shelf: Shelf, wanted: Wanted, *, label: str = "Run") -> Choice:
    """A list of every run on the shelf; those that cannot are there too, and say why when they are chosen. Filled when the page has loaded,
    with the first run that can."""
    run = gr.Dropdown([], label=label, elem_classes="run", interactive=True)
    note = gr.Markdown("", elem_classes="status")

    def fill() -> tuple[Any, str]:
        shelf.wait()
        cards = shelf.cards()
        fits = {card.path: wanted.fits(card) for card in cards}
        choices = [(card.text, card.path) for card in cards if fits[card.path]]
        first = choices[0][1] if choices else None
        choices += [(f"{card.text} (cannot {wanted.to})", card.path) for card in cards if not fits[card.path]]
        return gr.Dropdown(choices=choices, value=first), "" if first else _none(cards, wanted)

    assert Context.root_block is not None
    Context.root_block.load(fill, None, [run, note], show_progress="hidden")
    run.input(lambda path: wanted.unable(shelf, path), run, note, show_progress="hidden")
    return Choice(run, note)


def _none(cards: Sequence[Card], wanted: Wanted) -> str:
    from pofx import catalog

    able = [name for name, entry in catalog.entries().items() if issubclass(entry.load(), wanted.classes())]
    found = "There is no run here yet." if not cards else f"None of the {len(cards)} runs here can {wanted.to}: that needs {wanted.needs}."
    example = able[0] if able else "MODEL"
    return f"{found} Models that can: {', '.join(able)}. Make one on the first page, or: `pofx train {example} digits --out runs/{example} --minutes 1`"


def chosen(path: str | None) -> str:
    """The path of the run that was chosen; InputError where none is."""
    if not path:
        raise InputError("Choose a run first.")
    return path


# Choosing an image --------------------------------------------------------------------------------------------------------------


def read_upload(path: str, model: ImageModel) -> Tensor:
    """An uploaded picture as `(1, C, H, W)` of the model's space: as `pofx score RUN FILE` reads it, and resized where it is of another size.

    Raises:
        InputError: it cannot be read or converted.
    """
    import torch

    from pofx.workflows.loading import Conversions, load_images

    return load_images(path, model.space, Conversions.into(model.space)).split.take(torch.arange(1))[0]


def one_of(split: Split, number: float | None) -> int:
    """A position in a split, from a number that was typed.

    Raises:
        InputError: there is no such image.
    """
    i = int(number or 0)
    if not 0 <= i < len(split):
        raise InputError(f"There is no image {i}: there are {len(split)}, numbered 0 … {len(split) - 1}.")
    return i


def view_value(model: ImageModel, label: float) -> Tensor | None:
    """The value of the run's view: None of p(x), and of p(x | label) the class that was typed; what other views hold is not asked for.

    Raises:
        InputError: the model conditions on something else.
    """
    from pofx.views import Label

    if model.given is None:
        return None
    if not isinstance(model.given, Label):
        raise InputError(
            f"This run is p(x | {model.given.name}); this page takes p(x) and p(x | label). What it can do: the page Complete, or pofx complete RUN IMAGE"
        )
    import torch

    return model.given.check(torch.tensor([int(label)]), 1, model.space)


def at_most(split: Split, most: float | None, *, default: int) -> Split:
    """A part, or so many of its images, drawn at random and always the same (those of `pofx.tasks.bulk.subset`)."""
    from pofx.tasks.bulk import Subset, subset

    found = subset(split, max(1, int(most or default)))
    return split.select(found.index.numpy()) if isinstance(found, Subset) else split


# Pictures -----------------------------------------------------------------------------------------------------------------------


def figure(picture: Image, caption: str = "", *, side: int = SIDE, alt: str = "") -> str:
    """A picture as HTML, enlarged by a whole number to about `side`; its size is stated, so that nothing jumps."""
    from pofx.workflows._page import data_uri

    scale = max(1, side // max(picture.size))
    text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure><img src="{data_uri(picture)}" width="{picture.width * scale}" height="{picture.height * scale}" '
        f'alt="{escape(alt or caption)}">{text}</figure>'
    )


def pixels(html: str = "", *, height: int = SIDE) -> gr.HTML:
    """Where pictures go."""
    return gr.HTML(html, elem_classes="pixels", min_height=height)


def image_uri(x: Any, levels: int) -> str:
    """One image uint8 `(C, H, W)` as a data URI, pixel for pixel."""
    from PIL import Image

    from pofx import pictures
    from pofx.workflows._page import data_uri

    return data_uri(Image.fromarray(pictures.rgb(x[None], levels)[0]))


def download(name: str, content: bytes, said: str) -> str:
    """A link to a small file that is in the page itself, as HTML."""
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    uri = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return f'<p><a download="{escape(name)}" href="{uri}">{escape(name)}</a> {escape(said)}</p>'


# The same by hand -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Same:
    """The equivalent command line and Python, to copy."""

    command: gr.Textbox
    python: gr.Textbox

    @property
    def both(self) -> list[gr.Textbox]:
        return [self.command, self.python]


def same() -> Same:
    """Two boxes at the foot of a page."""
    with gr.Accordion("The same from the command line, and in Python", open=False):
        return Same(
            gr.Textbox("", label="Command line", interactive=False, lines=2, buttons=["copy"], elem_classes="command"),
            gr.Textbox("", label="Python", interactive=False, lines=4, buttons=["copy"], elem_classes="command"),
        )


def command(*words: Any) -> str:
    """A command line, quoted where a shell needs it."""
    return shlex.join(str(word) for word in words if word not in (None, ""))
