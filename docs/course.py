"""Draw figures of docs/course/: the taxonomy here, Bayes' tables and the discretized mixture as `pofx course` draws them.

    python docs/course.py [--out docs/pictures/course]

The others are drawn by `pofx mass`, `pofx chain` and the scripts beside this one; `make figures` runs them all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from pofx import catalog
from pofx.workflows._page import COLORS
from pofx.workflows.course import course

TEAL, INK, PALE = COLORS[0], "#3b3e45", "#e2e5ea"


def tree() -> Figure:
    """The taxonomy, read from the classes."""
    figure = Figure(figsize=(9.5, 5.2), layout="constrained")
    axes = figure.subplots()
    leaf = 0.0

    def place(node: catalog.Branch, depth: int) -> float:
        nonlocal leaf
        at = []
        for name in (each.class_name for each in node.leaves):
            axes.text(4, -leaf, f"  {name}", va="center", color=INK, fontsize=10)
            axes.plot([depth, 4], [-leaf, -leaf], color=PALE, zorder=0)
            at.append(-leaf)
            leaf += 1
        for name, below in node.branches.items():
            y = place(below, depth + 1)
            axes.plot([depth, depth + 1], [y, y], color=PALE, zorder=0)
            axes.text(
                depth + 1,
                y,
                name,
                va="center",
                ha="center",
                fontsize=10,
                color="white",
                bbox={"boxstyle": "round", "fc": TEAL, "ec": "none"},
            )
            at.append(y)
        axes.plot([depth, depth], [min(at), max(at)], color=PALE, zorder=0)
        return (min(at) + max(at)) / 2

    middle = place(catalog.taxonomy(), 0)
    axes.text(0, middle, "models\nof images", va="center", ha="center", color="white", bbox={"boxstyle": "round", "fc": INK, "ec": "none"})
    axes.set(xlim=(-0.5, 5.2), ylim=(-leaf, 1))
    axes.axis("off")
    return figure


def draw(folder: Path) -> None:
    """All of them, as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    tree().savefig(folder / "taxonomy.png", dpi=100, facecolor="white", metadata={"Software": ""})
    for key in ("bayes", "mixture"):
        course(key, folder / f"{key}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw figures of docs/course/.")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures/course"))
    draw(parser.parse_args().out)


if __name__ == "__main__":
    main()
