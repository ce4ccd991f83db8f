"""`pofx mass -o mass.html`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pofx.cli.common import Answer, Common, Flag, table


def mass(
    *,
    model: str = "made",
    images: str | None = None,
    flip: float = 0.02,
    n: Annotated[int, Parameter(name=["-n", "--n"])] = 1024,
    steps: int = 200,
    frames: int = 60,
    lr: float = 0.01,
    no_labels: Flag = False,
    seed: int = 0,
    out: Annotated[Path | None, Parameter(name=["-o", "--out"])] = None,
    common: Common = Common(),
) -> Answer:
    """All 512 images of 3×3, as large as they are probable.

    A tiny model with an exact p(x) is trained on a few patterns. At each step that is shown p(x) of all images is computed: when one gains, others
    lose, and the sum stays 1. With labels also the table image × label, where p(y|x) sums to 1 row by row and p(x|y) column by column, and what
    a classifier says of noise.

    Args:
        model: with an exact likelihood, e.g. made, fvbn, gated-pixelcnn; its smallest instance.
        images: the patterns, nine pixels each, row by row; a slash between groups that share a label, e.g. 111000000,000111000/100100100
            (by default three rows and three columns).
        flip: how often a pixel of a pattern is flipped.
        n: training images.
        steps: of training.
        frames: steps that are shown.
        lr: learning rate.
        no_labels: train no classifier, show no table.
        seed: of weights, data and order.
        out: .html a page with a slider, .gif the wall in motion, .png its first, a middle and its last frame.
    """
    from pofx.workflows import mass as workflow

    with common.progress("training") as progress:
        made = workflow.mass(
            out,
            model=model,
            images=images or workflow.LINES,
            flip=flip,
            n=n,
            steps=steps,
            frames=frames,
            lr=lr,
            labels=not no_labels,
            seed=seed,
            progress=progress,
        )
    facts = made.to_json() | {"out": None if out is None else str(out)}
    shown = table(
        "step",
        "sum of p(x)",
        "KL(p* ‖ p), nats",
        "most probable",
        "its p(x)",
        right=("step", "sum of p(x)", "KL(p* ‖ p), nats", "its p(x)"),
    )
    few = sorted({0, len(made.frames) // 4, len(made.frames) // 2, len(made.frames) - 1})
    for f in (made.frames[i] for i in few):
        (best,) = workflow.top(f.p, 1)
        shown.add_row(f"{f.step:,}", f"{f.total:.12f}", f"{f.kl:.4f}", workflow.name_of(made.images[best]), f"{float(f.p[best]):.4f}")
    lines = [f"{made.model}: all {len(made.truth)} images of 3×3", "", shown]
    if made.table is not None:
        t = made.table
        lines += [
            "",
            f"p(y|x): rows sum to 1 within {float((t.p_y_given_x.sum(1) - 1).abs().max()):.0e}; "
            f"p(x|y): columns within {float((t.p_x_given_y.sum(0) - 1).abs().max()):.0e}; the two products p(x, y) agree within {t.off:.0e}",
        ]
    if made.noise is not None:
        a = made.noise
        sure = float(a.probability.median())
        lines.append(
            f"noise: the classifier labels all {len(a.x)} images, median p(y|x) = {sure:.4f}; with p(x), {int(a.rejected.sum())} are rejected"
        )
    return Answer(facts, [*lines, "", str(out) if out else "Add -o mass.html for the wall."])
