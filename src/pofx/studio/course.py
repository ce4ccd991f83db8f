"""What the page Course shows: numbers and drawings of `workflows/mass.py`, `chain.py`, `course.py` and their tasks, as HTML, and the same by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from pofx.errors import InputError
from pofx.studio.board import Board
from pofx.studio.holes import Picked
from pofx.studio.parts import command, figure, image_uri

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pofx.model import ImageModel
    from pofx.tasks.chain import Chain
    from pofx.workflows._patterns import Patterns
    from pofx.workflows.mass import Frame, Mass

MODELS = ("made", "fvbn", "pixelcnn", "gated-pixelcnn")
SPAN = 0.25  # of the levels, that a mean may lie outside of them
NARROW, WIDE = 0.002, 0.5  # scales, as a share of the levels
Hand = tuple[str, str]


def drawn(made: Figure) -> str:
    """A figure that was made within `_page.inked`, as SVG."""
    from pofx.workflows import _page

    return _page.drawing(made)


def numbers(**values: str) -> str:
    """A line of names and numbers."""
    return (
        '<p class="numbers">'
        + "".join(f"<span>{escape(k.replace('_', ' '))} <b>{escape(v)}</b></span>" for k, v in values.items())
        + "</p>"
    )


# Mass ----------------------------------------------------------------------------------------------------------------------------


def wall_of(frame: Frame, data: Patterns) -> tuple[str, str]:
    """The wall of one frame, and its numbers."""
    from pofx.workflows.mass import on_patterns, wall

    there = on_patterns(frame.p, data)
    line = numbers(step=f"{frame.step:,}", sum_of_all_512=f"{frame.total:.12f}", on_the_patterns=f"{there:.4f}", KL=f"{frame.kl:.4f} nats")
    return figure(wall(frame.p, data), side=512, alt="all 512 images, each as large as it is probable"), line


def tables_of(made: Mass) -> str:
    """Image × label, and what a classifier says of noise."""
    from pofx.workflows.mass import noise_html, table_html

    return f"<h3>Image × label</h3>{table_html(made)}<h3>A classifier has a label for noise</h3>{noise_html(made)}"


def mass_by_hand(model: str, images: str, seed: int) -> Hand:
    from pofx.workflows._patterns import LINES

    own = images if images != LINES else ""
    more = f', images="{own}"' if own else ""
    line = command("pofx", "mass", "--model", model, *(("--images", own) if own else ()), "--seed", seed, "-o", "mass.html")
    return line, (
        f'from pofx.workflows.mass import mass\n\nmade = mass("mass.html", model="{model}"{more}, seed={seed})\nprint(made.last.total, made.last.kl)'
    )


# Chain ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Read:
    """An image that was taken apart."""

    picked: Picked
    found: Chain


def taken_apart(model: ImageModel, picked: Picked, board: Board, channel: int, *, file: bool) -> Read:
    """The chain of one image, at the pixel that is pointed at; the dearest one where that is another image's or none."""
    from pofx.tasks.chain import chain

    assert picked.x is not None
    pixel = None
    if board.cell is not None and (board.rows, board.cols) == picked.x.shape[2:]:
        pixel = (*board.cell, min(channel, picked.x.shape[1] - 1))
    return Read(picked, chain(model, picked.x, model.batch(picked.x, picked.y).given, pixel=pixel, file=file))


def board_of(read: Read) -> Board:
    """The image, with the pixel marked."""
    found = read.found
    return Board(image_uri(found.x, found.levels), found.x.shape[1], found.x.shape[2], cell=(found.row, found.column))


def chain_html(read: Read) -> str:
    """The distribution, the running sum, and the file where it was written."""
    from pofx.workflows import _page
    from pofx.workflows.chain import bars_figure, in_words, parts_of

    found = read.found
    with _page.inked():
        drawing = drawn(bars_figure(found))
    lines = in_words(found)[: None if found.file is not None else 2]
    table = ""
    if found.file is not None:
        rows = [[what, f"{bits:,.4f}", why] for what, why, bits in parts_of(found, found.file)]
        table = _page.table(["", "bits", ""], rows, text=(0, 2))
    return drawing + "".join(f"<p>{escape(line)}</p>" for line in lines) + table


def jacobian_html(model: ImageModel, read: Read) -> str:
    """What the pixel depends on; a sentence where that is not shown."""
    from pofx.tasks.influence import influence
    from pofx.workflows import _page
    from pofx.workflows._course_figures import jacobian_figure

    found = read.found
    if model.given is not None:
        return "<p>What a pixel depends on is shown for runs of p(x).</p>"
    assert read.picked.x is not None
    seen = influence(model, read.picked.x, found.row, found.column, found.channel)
    with _page.inked():
        drawing = drawn(jacobian_figure(read.picked.x, seen, found.levels))
    line = f"|∂/∂x| outside of the past: at most {seen.outside:g}; {int((seen.seen & seen.past).sum()):,} of {int(seen.past.sum()):,} past sub-pixels count."
    return f"{drawing}<p>{escape(line)}</p>"


def chain_by_hand(read: Read) -> Hand:
    found, picked = read.found, read.picked
    at = f"{found.row},{found.column}" + (f",{found.channel}" if len(found.x) > 1 else "")
    flags = [word for name, value in picked.flags.items() for word in (f"--{name}", value)]
    line = command("pofx", "chain", picked.run, picked.word, "--pixel", at, *flags, "-o", "chain.html")
    data, _, number = picked.word.rpartition("#")
    more = "".join(f", {name}={value!r}" for name, value in picked.flags.items())
    return line, (
        f'import pofx, torch\nfrom pofx.tasks.chain import chain\n\nmodel = pofx.load("{picked.run}")\n'
        f'x, y = pofx.load_data("{data.removesuffix(":test")}"{more}).test.take(torch.tensor([{number}]))\n'
        f"found = chain(model, x, model.batch(x, y).given, pixel=({at}))\nprint(found.distribution, found.running, found.file)"
    )


# The panels ------------------------------------------------------------------------------------------------------------------------


def on_plane(mean: float, scale: float, levels: int) -> tuple[float, float]:
    """Where a mean and a scale, on the scale of levels, lie on the canvas."""
    top = levels - 1
    x = (mean / top + SPAN) / (1 + 2 * SPAN)
    y = 1 - math.log(scale / levels / NARROW) / math.log(WIDE / NARROW)
    return min(max(x, 0.0), 0.999), min(max(y, 0.0), 0.999)


def of_plane(point: tuple[float, float], levels: int) -> tuple[float, float]:
    """The mean and the scale of a place on the canvas: from the left, and upwards in equal factors.

    >>> [round(v, 6) for v in of_plane(on_plane(3.0, 1.5, 16), 16)]
    [3.0, 1.5]
    """
    mean = (point[0] * (1 + 2 * SPAN) - SPAN) * (levels - 1)
    return mean, levels * NARROW * (WIDE / NARROW) ** (1 - point[1])


def mixture_html(point: tuple[float, float], share: float, mean: float, scale: float, levels: int) -> tuple[str, str, str, str]:
    """Drawing, numbers, and the same by hand: the dragged component, and another with the rest of the weight."""
    from pofx.tasks.mixture import mixture
    from pofx.workflows import _page
    from pofx.workflows._course_figures import mixture_figure

    first = of_plane(point, levels)
    means, scales = [first[0], mean * (levels - 1)], [first[1], scale * levels]
    weights = [share, 1 - share]
    kept = [i for i, w in enumerate(weights) if w > 0]
    arguments = tuple([round(values[i], 4) for i in kept] for values in (means, scales, weights))
    found = mixture(*arguments, levels=levels)
    with _page.inked():
        drawing = drawn(mixture_figure(found))
    line = numbers(mean=f"{first[0]:.2f}", scale=f"{first[1]:.3f}", sum_of_the_bins=f"{found.total:.12f}", first_bin=f"{float(found.p[0]):.4f}",
                   last_bin=f"{float(found.p[-1]):.4f}")  # fmt: skip
    text = ", ".join(map(str, arguments))
    python = f"from pofx.tasks.mixture import mixture\n\nfound = mixture({text}, levels={levels})\nprint(found.total, found.p)"
    return drawing, line, command("pofx", "course", "mixture", "-o", "mixture.png"), python


def bayes_html(prior: float, cell: tuple[int, int] | None, label: int) -> tuple[str, str, str, str]:
    """The tables, one cell in words, and the same by hand. `cell`: of 4 × 4 images."""
    from pofx.workflows.bayes_tables import bayes_tables, tables_html

    stated = (round(prior, 4), round(1 - prior, 4))
    found = bayes_tables(stated)
    at = 12 if cell is None else 4 * min(cell[0], 3) + min(cell[1], 3)
    python = f"from pofx.workflows.bayes_tables import bayes_tables\n\nfound = bayes_tables({stated})\nprint(found.cell({at}, {label}), found.off)"
    return tables_html(found), f"<p>{escape(found.cell(at, label))}</p>", command("pofx", "course", "bayes"), python


def all_2x2(cell: tuple[int, int] | None = None) -> Board:
    """The 16 images in four rows, as a canvas."""
    import torch

    from pofx.models.composed.bayes import enumerated
    from pofx.space import ImageSpace

    x = enumerated(ImageSpace(1, 2, 2, levels=2))
    assert x is not None
    # A line of grey around each, 4 × 4 points an image
    wide = torch.nn.functional.pad(x[:, 0] * 2, (1, 1, 1, 1), value=1)
    sheet = wide.reshape(4, 4, 4, 4).permute(0, 2, 1, 3).reshape(1, 16, 16)
    return Board(image_uri(sheet, 3), 4, 4, cell=cell)


def reparameterization_html(mean: float, sd: float, f: str, n: float, seed: float) -> tuple[str, str, str, str]:
    """Drawing, numbers, and the same by hand."""
    from pofx.tasks.reparameterization import reparameterization
    from pofx.workflows import _page
    from pofx.workflows._course_figures import reparameterization_figure

    found = reparameterization(mean, sd, f, n=max(1, int(n or 1)), seed=int(seed or 0))
    with _page.inked():
        drawing = drawn(reparameterization_figure(found, f))
    names = ("∂/∂μ_by_the_path", "∂/∂μ_by_the_score", "∂/∂σ_by_the_path", "∂/∂σ_by_the_score")
    values = [found.path[0], found.score[0], found.path[1], found.score[1]]
    shown = {name: f"{float(v):.6f}" for name, v in zip(names, values, strict=True)} | {"they_differ_by": f"{found.off:.0e}"}
    python = (
        f'from pofx.tasks.reparameterization import reparameterization\n\nfound = reparameterization({mean:g}, {sd:g}, "{f}", n={len(found.epsilon)}, '
        f"seed={int(seed or 0)})\nprint(found.path, found.score, found.by_mean)"
    )
    return drawing, numbers(**shown), command("pofx", "course", "reparameterization"), python


def answer_html(key: str | None) -> tuple[str, str, str]:
    """The answer of one entry of the course with its numbers, and the same by hand."""
    if not key:
        raise InputError("Choose a question first.")
    from pofx.workflows import _page
    from pofx.workflows.course import course, shown

    (found,) = course(key)
    e, f = found.entry, found.finding
    drawing = ""
    if e.figure is not None:
        with _page.inked():
            drawing = drawn(e.figure())
    rows = [[name, shown(v)] for name, v in f.numbers.items()]
    verdict = "Computed" if f.holds else "It does not hold"
    parts = [f"<p>{escape(e.answer)}</p>", f"<p><b>{verdict}:</b> {escape(f.said)}</p>", drawing, _page.table(["", ""], rows, text=(0,))]
    python = f'from pofx.workflows.course import course\n\n(found,) = course("{key}")\nprint(found.finding.holds, found.finding.numbers)'
    return "".join(parts) + f"<p>More: <code>{escape(e.command)}</code></p>", command("pofx", "course", key), python


def titles() -> list[tuple[str, str]]:
    """Every entry of the course, as a list to choose from."""
    from pofx.workflows.course import ENTRIES

    return [(e.title, e.key) for e in ENTRIES]
