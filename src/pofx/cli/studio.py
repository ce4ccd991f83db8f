"""`pofx studio [RUN…]`."""

from __future__ import annotations

import sys
import threading
from importlib.util import find_spec
from pathlib import Path

from pofx.cli.common import Answer, Common, Flag
from pofx.errors import InputError


def studio(*runs: Path, port: int | None = None, browser: Flag = False, common: Common = Common()) -> Answer:
    """Look at runs and play with them, in the browser.

    Pages to start and watch trainings, see images appear pixel by pixel, move through latent space, complete images, find odd ones, classify, and
    play the game of a GAN. On this machine alone, and without a network; Ctrl+C ends it. From another machine: ssh -L 7860:localhost:7860 HOST.

    Args:
        runs: run folders, or folders that hold runs; by default those in runs/.
        port: of the address; by default the first free one from 7860.
        browser: open it in the browser.
    """
    if find_spec("gradio") is None:
        raise InputError("pofx studio needs Gradio, which is not installed. Install it: pip install 'pofx[studio]'")
    from pofx.studio.app import serve
    from pofx.studio.shelf import Shelf

    shelf = Shelf(runs, device=common.device)
    app, address = serve(shelf, port)
    print(f"Ready: {address}  (Ctrl+C ends it)", file=sys.stderr, flush=True)
    if browser:
        import webbrowser

        webbrowser.open(address)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        app.close(verbose=False)
    return Answer({"address": address, "runs": [card.path for card in shelf.cards()]}, "")
