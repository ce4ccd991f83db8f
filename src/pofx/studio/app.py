"""The pages together, and the server that shows them."""

from __future__ import annotations

import importlib
import pkgutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import gradio as gr

from pofx.errors import InputError
from pofx.studio import pages
from pofx.studio.shelf import Shelf

HOST = "127.0.0.1"
PORTS = range(7860, 7960)
CSS = (Path(__file__).parent / "studio.css").read_text(encoding="utf-8")
THEME = gr.themes.Default(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"))


@dataclass(frozen=True)
class Page:
    """A file of `pages/`: its address, and what it states: ORDER, TITLE, ABOUT, and `build(shelf)`."""

    name: str
    module: ModuleType

    @property
    def order(self) -> int:
        return self.module.ORDER

    @property
    def title(self) -> str:
        return self.module.TITLE


def find_pages() -> list[Page]:
    """Every page, in order; the first is the one that opens."""
    found = [
        Page(info.name, importlib.import_module(f"{pages.__name__}.{info.name}"))
        for info in pkgutil.iter_modules(pages.__path__)
        if not info.name.startswith("_")
    ]
    return sorted(found, key=lambda page: page.order)


def make(shelf: Shelf) -> gr.Blocks:
    """The whole application; nothing is loaded yet."""
    first, *others = find_pages()
    with gr.Blocks(title="pofx studio", analytics_enabled=False) as app:
        _fill(first, shelf)
    for page in others:
        with app.route(page.title, page.name.replace("_", "-")):
            _fill(page, shelf)
    app.pages[0] = ("", first.title, True)
    return app


def _fill(page: Page, shelf: Shelf) -> None:
    gr.Markdown(f"# {page.title}\n\n{page.module.ABOUT}", elem_classes="about")
    page.module.build(shelf)


def serve(shelf: Shelf, port: int | None = None) -> tuple[gr.Blocks, str]:
    """Start the server on this machine alone, in threads of its own, and torch behind it: the application and its address.

    Raises:
        InputError: the port is taken.
    """
    app = make(shelf)
    app.queue(default_concurrency_limit=4)
    options: dict[str, Any] = {
        "server_name": HOST,
        "prevent_thread_lock": True,
        "quiet": True,
        "share": False,
        "ssr_mode": False,
        "footer_links": [],
        "run_history": False,
        "theme": THEME,
        "head": f"<style>{CSS}</style>",  # in the first bytes of the page, so that nothing moves when it comes
    }
    for attempt in _free() if port is None else [port]:
        try:
            _, address, _ = app.launch(server_port=attempt, **options)
            break
        except OSError as error:  # of a free one: somebody else was quicker
            if port is not None:
                raise InputError(
                    f"--port {port}: it is taken on this machine. Choose another, e.g. --port 7870, or leave --port out."
                ) from error
    else:
        raise InputError(f"All ports from {PORTS.start} to {PORTS.stop - 1} are taken. Choose another with --port.")
    threading.Thread(target=shelf.warm, name="warm", daemon=True).start()
    return app, address.rstrip("/")


def _free() -> Iterator[int]:
    """Ports that nothing listens on, when they are asked for."""
    for port in PORTS:
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                attempt.bind((HOST, port))
            except OSError:
                continue
        yield port
