"""`pofx studio`: one page in the browser for each thing a person wants to do with runs. Needs the extra `studio` (Gradio).

    app.py      the pages together, and the server
    shelf.py    which runs there are, what they can do, and their models, loaded once
    parts.py    what pages share: choosing a run and an image, pictures, the equivalent command
    board.py    a canvas to point at, to paint a hole on, to draw points on; with board.js
    pages/      one file is one page; it is found, not registered

Nothing is computed here: pages ask `pofx.tasks` and `pofx.workflows`, and show what comes back. torch loads behind the first paint.
"""
