"""The chain rule on one image, as a page or a picture: one pixel's distribution, the running sum of −log2 p, and the file that it becomes.

All numbers are those of `pofx.tasks.chain`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pofx import pictures
from pofx.model import ImageModel, Progress
from pofx.tasks._files import check_out
from pofx.tasks.chain import Chain, File
from pofx.tasks.chain import chain as take_apart
from pofx.workflows import _page as html

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".html", ".png")
SEEN, MARK, SUM = html.COLORS[0], html.COLORS[1], html.COLORS[2]


def place_of(found: Chain) -> str:
    """The sub-pixel that was asked for, in words."""
    channel = f", channel {found.channel}" if len(found.x) > 1 else ""
    return f"row {found.row}, column {found.column}{channel}"


def distribution_axes(axis: Axes, found: Chain) -> None:
    """p(· | x_<i) as bars; the value that is there stands out."""
    p = found.distribution.numpy()
    width = 1.0 if found.levels > 40 else 0.85
    axis.bar(range(found.levels), p, width=width, color=SEEN)
    axis.bar([found.value], [p[found.value]], width=max(width, found.levels / 90), color=MARK)
    axis.plot([found.value], [0], marker="^", color=MARK, clip_on=False, markersize=6)
    axis.set_xlim(-0.7, found.levels - 0.3)
    axis.locator_params(axis="x", integer=True)
    axis.set_xlabel(f"value of {place_of(found)}")
    axis.set_ylabel("p(x$_i$ | x$_{<i}$)")


def running_axes(axis: Axes, found: Chain) -> None:
    """The sum of −log2 p along the order, and the file at its end."""
    axis.step(range(len(found.order) + 1), [0.0, *found.running.tolist()], where="post", color=SUM, linewidth=1.4)
    axis.plot([found.place + 1], [float(found.running[found.place])], "o", color=MARK, markersize=5)
    axis.set_xlim(0, len(found.order) * 1.02)
    axis.set_ylim(0, None)
    axis.set_xlabel("sub-pixels, in the order of the model")
    axis.set_ylabel("bits so far")


def figure(found: Chain) -> Figure:
    """The image with the pixel marked, what each pixel costs, the pixel's distribution, and the running sum; within `_page.inked`."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    made = Figure(figsize=(7.4, 4.6), layout="constrained")
    grid = made.add_gridspec(2, 3, width_ratios=(1, 1, 2.1))
    image, cost, bars = (made.add_subplot(grid[0, k]) for k in range(3))
    line = made.add_subplot(grid[1, :])
    image.imshow(pictures.rgb(found.x[None], found.levels)[0], interpolation="nearest")
    image.set_title("x")
    image.add_patch(Rectangle((found.column - 0.5, found.row - 0.5), 1, 1, fill=False, edgecolor=MARK, linewidth=1.8))
    cost.imshow(costs(found).sum(0).numpy(), interpolation="nearest", cmap="magma")
    cost.set_title("bits of each pixel")
    for axis in (image, cost):
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    distribution_axes(bars, found)
    running_axes(line, found)
    for axis in (bars, line):
        axis.grid(color=html.GREY, alpha=0.2, linewidth=0.6)
    return made


def bars_figure(found: Chain) -> Figure:
    """The pixel's distribution beside the running sum; within `_page.inked`."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(7.4, 2.7), layout="constrained")
    for draw, axis in zip((distribution_axes, running_axes), made.subplots(1, 2), strict=True):
        draw(axis, found)
        axis.grid(color=html.GREY, alpha=0.2, linewidth=0.6)
    return made


def costs(found: Chain) -> Tensor:
    """Bits of each sub-pixel where it lies, `(C, H, W)`."""
    laid = torch.empty(len(found.order), dtype=torch.double)
    laid[found.order] = found.bits
    return laid.reshape(found.x.shape)


def parts_of(found: Chain, file: File) -> list[tuple[str, str, float]]:
    """What a file is made of: name, why, bits; the last row is their sum."""
    return [
        ("−log2 p(x)", "Σ −log2 p(x_i | x_<i), the running sum at its end", found.total),
        ("integer tables", "networks and tables in whole numbers, alike on every machine; every level keeps a share", file.tables),
        ("end of the stream", "whole bytes, and the last state of the range coder", file.end),
        ("frame", "signature, header with the model's id, lengths, checksums, index", float(file.frame)),
        ("the file", f"{file.size:,} bytes, as pofx compress writes it; the model lies beside", float(file.bits)),
    ]


def in_words(found: Chain) -> list[str]:
    """The numbers as lines of text."""
    p = float(found.distribution[found.value])
    lines = [
        f"{place_of(found)} comes {found.place + 1:,} of {len(found.order):,}: x = {found.value}, p = {p:.6f}, {float(found.bits[found.place]):.4f} bits "
        f"(expected {found.entropy:.4f}); the {found.levels} probabilities sum to {float(found.distribution.sum()):.12f}",
        f"−log2 p(x) = {found.total:.4f} bits, {found.total / len(found.order):.4f} bits/dim",
    ]
    if found.file is None:
        return [*lines, f"No file: {found.why}"]
    f = found.file
    tables = f"{f.tables:.4f}".replace("-", "−")
    more = f"{tables} (integer tables) + {f.end:.4f} (end of the stream) + {f.frame:,} (frame)"
    return [*lines, f"the file: {f.size:,} bytes = {f.bits:,} bits = {found.total:.4f} + {more}"]


def render(found: Chain, name: str, image: str) -> str:
    """The page as HTML."""
    with html.inked():
        drawn = html.drawing(figure(found))
    p = float(found.distribution[found.value])
    body = [
        html.section(
            "One pixel after another",
            html.paragraph(
                f"p(x) = Π p(x_i | x_<i). At {place_of(found)} the model knows the {found.place:,} sub-pixels before it and gives each of the "
                f"{found.levels} values a probability; they sum to {float(found.distribution.sum()):.9f}. The value that is there, {found.value}, has p = "
                f"{p:.6f} and costs −log2 p = {float(found.bits[found.place]):.4f} bits, where {found.entropy:.4f} were expected. The costs add up to "
                f"−log2 p(x) = {found.total:.4f} bits, {found.total / len(found.order):.4f} bits/dim."
            ),
            drawn,
        ),
        html.section(
            "The bits are a file",
            html.table(
                ["", "", "bits"],
                [[what, why, f"{bits:,.4f}"] for what, why, bits in parts_of(found, found.file)],
                "The parts add up to the file. For many images in one file the frame is paid once, and a block of 256 images has one end.",
                text=(0, 1),
            )
            if found.file is not None
            else html.paragraph(found.why),
        ),
    ]
    return html.page("The chain rule on one image", f"{name} on {image}.", body)


def chain(
    model: ImageModel,
    x: Tensor,
    given: Any = None,
    out: str | Path | None = None,
    *,
    pixel: tuple[int, ...] | None = None,
    file: bool = True,
    name: str = "model",
    image: str = "image",
    progress: Progress | None = None,
) -> Chain:
    """Take one image apart, and write it as a page or a picture.

    Args:
        out: a .html page, or a .png with its figure.
        name, image: what to call them.
        x, given, pixel, file, progress: see `pofx.tasks.chain.chain`.

    Raises:
        CapabilityError, InputError: as there; another file ending.
    """
    target = None if out is None else check_out(out, SUFFIXES)
    found = take_apart(model, x, given, pixel=pixel, file=file, progress=progress)
    if target is not None:
        html.put(target, lambda: figure(found), lambda: render(found, name, image))
    return found
