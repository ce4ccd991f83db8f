"""Make the pictures of docs/equilibrium.md: a game in motion, and why the minimax gradient dies.

    python docs/equilibrium.py

Writes docs/pictures/{equilibrium.gif,slopes.png}; about a minute.
"""

from __future__ import annotations

from pathlib import Path

import torch

from pofx.tasks._descent import slopes
from pofx.workflows import _page as html
from pofx.workflows._equilibrium_figures import slopes_figure
from pofx.workflows.equilibrium import equilibrium

PICTURES = Path(__file__).resolve().parent / "pictures"


def main() -> None:
    torch.set_num_threads(1)
    equilibrium("normal(0, 1)", "normal(3, 1)", animation=PICTURES / "equilibrium.gif")
    with html.inked("#3a3f45"):
        figure = slopes_figure(slopes("normal(0, 1)", torch.linspace(0, 10, 41, dtype=torch.double)))
        figure.savefig(PICTURES / "slopes.png", dpi=110, facecolor="white", metadata={"Software": ""})


if __name__ == "__main__":
    main()
