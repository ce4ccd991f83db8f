"""`pofx outliers`: what to calibrate on, what must not be mixed up, and the page that shows the oddest images and where they are odd.

`index.html` is one file without scripts or links to elsewhere; it opens from a mail attachment and prints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pofx import pictures
from pofx.errors import InputError
from pofx.model import Autoregressive, ImageModel, Progress
from pofx.tasks._conformal import Guarantee, needed, rank
from pofx.tasks._files import write_text
from pofx.tasks._tiles import Tiles, whole
from pofx.tasks.bulk import Images, Subset
from pofx.tasks.heat_maps import UNMAPPED, HeatMaps, has_map, heat_maps, restored
from pofx.tasks.outliers import Outliers
from pofx.workflows import _page as html

if TYPE_CHECKING:
    from pofx.data import Data, Split
    from pofx.data.split import Keys

SHOWN = 24  # oddest images on the page
RESTORED = 8  # of them that are shown restored
RESTORED_DIMS = 4096  # above so many sub-pixels drawing anew takes too long for a page
MAPPED = 500  # calibration images whose maps set the threshold of pixels


def calibration_of(run: str, own: Data, *, unchanged: bool, good: Split | None = None, spec: str = "") -> tuple[Split, list[str]]:
    """The images that calibrate, and remarks: the run's own calib part, or others that were given.

    Args:
        own: the run's data, made again; `unchanged`, it is what it was when the run was trained.
        good: images in the place of its calib part, and what was typed for them.

    Raises:
        InputError: they may be images that the run was trained on.
    """
    notes = []
    if not unchanged:
        seen = f"{own.heading} is not what it was when {run} was trained, so that images of training may be among the calibration images"
        if good is None:
            raise InputError(f"{seen}: the false-alarm rate would not hold. Give good images that the model has not seen: --calib DATA")
        notes.append(f"{seen}. What --calib names was compared with the data as it is now.")
    if good is None:
        return own.calib, notes
    check_new(good, own, f"--calib {spec}")
    return good, notes


def check_new(calib: Split, data: Data, flag: str, *, run: str = "the run", fix: str = "or leave out --calib") -> None:
    """Raise InputError where calibration images were in training or selection: their p-values would be too good.

    Args: data: what `run` was trained on; flag: what was typed, which the message names, with the `fix`."""
    for part in ("train", "valid"):
        seen = np.isin(calib.keys, data.parts[part].keys)
        if seen.any():
            first = calib.ids[int(np.flatnonzero(seen)[0])]
            raise InputError(
                f"{flag}: {int(seen.sum())} of the {len(calib)} calibration images were in {run}'s {part} part (the same pixels), e.g. {first!r}. "
                f"The false-alarm rate would not hold. Give good images that the model has not seen, {fix}."
            )


def check_apart(known: Split, calib: Split, spec: str) -> None:
    """Raise InputError where known outliers are calibration images too: an image is one or the other."""
    both = np.isin(known.keys, calib.keys)
    if both.any():
        raise InputError(
            f"--known-outliers {spec}: {int(both.sum())} of its {len(known)} images are calibration images too (the same pixels), e.g. "
            f"{known.ids[int(np.flatnonzero(both)[0])]!r}, and those are to be normal. Take them out of one of the two."
        )


def copies(calib: Split, alpha: float, guarantee: Guarantee) -> str | None:
    """A warning where calibration images are copies of one another: n copies of one image say of new images what one does. None without.

    Raises:
        InputError: different ones alone are too few for alpha.
    """
    n, different = len(calib), len(np.unique(calib.keys))
    if n == different:
        return None
    said = f"{n - different} of the {n} calibration images are copies of others (the same pixels)"
    try:
        rank(alpha, different, guarantee)
    except InputError as error:
        raise InputError(f"{said}, so that they count as {different}: {error}") from error
    return f"{said}: the guarantee holds if there are as many copies among new images, and is otherwise one of {different} images."


def repeated(keys: Keys, data: Data, calib: Split, known: Split | None = None) -> list[str]:
    """Warnings where images to be judged, by the hashes of their pixels, are not new: p-values of such are too large, or mean nothing."""
    notes = []
    for part, why in (
        [(data.parts[name], f"were in the run's {name} part: the model knows them, and they look less odd than new ones") for name in ("train", "valid")]
        + [(calib, "are calibration images: each is compared with itself, and an odd one raises the threshold")]
        + ([] if known is None else [(known, "are among the known outliers, which chose the score: the guarantee is not of them")])
    ):  # fmt: skip
        n = int(np.isin(keys, part.keys).sum())
        if n:
            notes.append(f"{n} of these {len(keys)} images {why}.")
    return notes


def resizing(run: Sequence[str], images: Sequence[str]) -> str | None:
    """A warning where images were resized in another way than the training images, as far as their conversions tell; else None.

    >>> resizing(["size 28x28"], ["size 28x28"]) is None, resizing(["size 28x28"], [])[:36]
    (True, 'the training images were resized (si')
    """
    sizes = [next((name for name in names if name.startswith("size")), None) for names in (run, images)]
    if sizes[0] == sizes[1]:
        return None
    trained, given = sizes
    was = (
        f"the training images were resized ({trained}), these were not"
        if trained
        else f"these images were resized ({given}), the training images were not"
    )
    return f"{was}: images resized in another way differ in their blur, and that alone can make them odd. Give both as they were taken, with the same --size."


def calibrating(n: int) -> Tensor:
    """Of n good photographs the rows that calibrate, int64; the others say what is normal (`apart`)."""
    return (torch.arange(n) % 3).nonzero().flatten()


def apart(photos: Images) -> tuple[Images, Images]:
    """Of good photographs every third says what is normal, the others calibrate: tiles of photographs may be unlike what the model was trained on,
    and then only they can say what is normal of tiles."""
    every = torch.arange(len(whole(photos)))
    stats, calibration = (_rows(photos, rows) for rows in (every[every % 3 == 0], calibrating(len(every))))
    return stats, calibration


def _rows(photos: Images, index: Tensor) -> Images:
    """Some photographs, tiled where all of them are."""
    part = Subset(whole(photos), index)
    return photos.of(part) if isinstance(photos, Tiles) else part


@dataclass(frozen=True)
class Wall:
    """The oddest images: positions `index` in the result, images uint8 `(k, C, H, W)`, maps of them, and the first few restored, or None."""

    index: Tensor
    x: Tensor
    maps: HeatMaps | None
    restored: Tensor | None

    def at(self, found: Outliers) -> Wall:
        """The same images and maps, lit by the alpha of other verdicts."""
        return self if self.maps is None else replace(self, maps=self.maps.at(found.alpha, found.guarantee))


def wall(
    model: ImageModel,
    images: Images,
    found: Outliers,
    *,
    calib: Images,
    background: ImageModel | None = None,
    shown: int = SHOWN,
    again: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> Wall:
    """What the page shows. Of `Tiles` whole photographs, stitched.

    Args: shown: how many; again: also the first of them as the model would have them, which takes long where it draws pixel by pixel."""
    index = found.oddest[:shown]
    x, y = whole(images).take(index)
    if not has_map(model):
        return Wall(index, x, None, None)
    n = len(whole(calib))
    # Any of them do, as long as their maps do not choose: spread evenly
    few = torch.arange(0, n, max(1, -(-n // MAPPED)))
    enough = found.guarantee == "marginal" and len(few) >= needed(found.alpha)
    maps = heat_maps(
        model,
        _rows(images, index),
        calib=_rows(calib, few) if enough else calib,
        alpha=found.alpha,
        guarantee=found.guarantee,
        background=background,
        progress=progress,
    )
    drawn = None
    if again and not isinstance(images, Tiles) and (model.space.dims <= RESTORED_DIMS or not isinstance(model, Autoregressive)):
        first = slice(0, RESTORED)
        doubtful = maps.smoothed[first] > (maps.threshold or 0.0) / 2
        drawn = restored(model, x[first], doubtful, y=None if y is None else y[first], seed=seed)
    return Wall(index, x, maps, drawn)


def write_page(path: Path, *, run: str, heading: str, levels: int, found: Outliers, shown: Wall, notes: Sequence[str] = ()) -> Path:
    """The page as one HTML file."""
    n, flagged = len(found.ids), int(found.outlier.sum())
    lead = f"{run} · {heading} · {flagged:,} of {n:,} image{'s are' if n != 1 else ' is'} odd"
    body = [
        *(html.flag(f"Note: {note}", alarm=True) for note in notes),
        html.section("What is guaranteed", html.flag(f"The guarantee: {found.promise}", alarm=False), counts(found)),
        html.section("The oddest images", wall_html(found, shown, levels)),
        html.section("Scores", histogram(found)),
        html.section("The stream", _drift(found)),
        html.section("What the score is made of", _made(found)),
        html.section("What this cannot do", *map(html.paragraph, CANNOT if shown.maps is not None else CANNOT[:-1])),
    ]
    write_text(path, html.page("The odd ones", lead, body))
    return path


CANNOT = (
    "The guarantee is of false alarms. It says nothing of how many odd images are found, and it holds for images like the calibration images: another "
    "camera, another way of resizing or another season makes all of them odd.",
    "Images of a kind near the normal ones (another breed, a mirrored image) are often not told from them by any score of pixels.",
    "A pixel that is lit is one that the model did not expect. A change may light the pixels after it too: an autoregressive model reads in rows.",
)


def counts(found: Outliers) -> str:
    """How many are flagged, and how many would be if all were normal, as a table."""
    n, flagged = len(found.ids), int(found.outlier.sum())
    rows = [("images", f"{n:,}"), ("flagged", f"{flagged:,} ({flagged / n:.1%})")]
    if found.fdr is None:
        expected = found.cut * n
        rows.append(("would be flagged if all were normal, on average", f"at most {expected:.1f}"))
    rows += [
        ("calibration images", f"{len(found.calibration):,}"),
        ("smallest p-value there can be", f"{1 / (len(found.calibration) + 1):.2g}"),
    ]
    if found.tiles > 1:
        rows.append(("tiles of an image; its score is that of the oddest", str(found.tiles)))
    caption = ""
    if found.fdr is not None:
        fewest = math.ceil(n / (found.fdr * (len(found.calibration) + 1)))
        caption = f"With so few calibration images none is flagged unless {fewest} are as odd as can be." if fewest > 1 else ""
    return html.table(["", ""], rows, caption)


def wall_html(found: Outliers, shown: Wall, levels: int) -> str:
    """The images of a wall with their maps, names and p-values, and what the maps say."""
    x, maps = pictures.rgb(shown.x, levels), shown.maps
    height, width = x.shape[1:3]
    scale = max(1, round((72 if found.tiles == 1 else 200) / max(height, width)))
    gap = np.full((height, 1, 3), pictures.GAP, np.uint8)
    again = None if shown.restored is None else pictures.rgb(shown.restored, levels)
    top = 1.0
    if maps is not None and maps.threshold is not None:
        top = max(1.5 * maps.threshold, 1e-6)
    figures = []
    for k, i in enumerate(map(int, shown.index)):
        parts = [x[k]]
        if maps is not None:
            parts += [gap, pictures.heat(maps.smoothed[k, 0].numpy(), top)]
        if again is not None and k < len(again):
            parts += [gap, again[k]]
        picture = Image.fromarray(np.concatenate(parts, 1))
        mark = "odd" if bool(found.outlier[i]) else "not flagged"
        caption = f"{k + 1}. {html.escape(_short(found.ids[i]))}<br>p = {float(found.p_value[i]):.3g}, {mark}"
        figures.append(
            f'<figure><img src="{html.data_uri(picture)}" width="{picture.width * scale}" height="{picture.height * scale}" '
            f'alt="{html.escape(found.ids[i])}"><figcaption>{caption}</figcaption></figure>'
        )
    legend = UNMAPPED[0].upper() + UNMAPPED[1:]
    if maps is not None:
        legend = (
            f"Beside each image where it is odd, from dark (0) to bright ({top:.2g} bits a pixel above what the model expected, and more)."
        )
    if maps is not None and maps.threshold is not None:
        legend = (
            f"Beside each image where it is odd: bits a pixel above what the model expected, mean over 3×3 pixels, from dark (0) to bright "
            f"({top:.2g} bits and more). Above {maps.threshold:.2g} bits a pixel is lit: at most {100 * found.alpha:g} % of normal images have any lit pixel. "
        )
        if again is not None:
            legend += f"Third, of the first {len(again)}: pixels above half of that, as the model would have them."
    return f'<div class="tiles">{"".join(figures)}</div>' + html.paragraph(legend, "caption")


def _short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else "…" + name[1 - most :]


def histogram(found: Outliers) -> str:
    """Scores of these images and of calibration images, with the threshold, as inline SVG."""
    from matplotlib.figure import Figure

    calib, score = found.calibration.numpy(), found.score.numpy()
    low, high = min(calib.min(), score.min()), max(calib.max(), score.max())
    with html.inked():
        figure = Figure(figsize=(7.4, 2.6), layout="constrained")
        axis = figure.subplots()
        # Linear around normal scores, logarithmic beyond: outliers may be thousands of standard deviations away
        edges = np.sinh(np.linspace(np.arcsinh(low), np.arcsinh(high) + 1e-6, 60))
        for values, color, name in ((calib, html.COLORS[0], "calibration images"), (score, html.COLORS[1], "these images")):
            axis.hist(values, edges, weights=np.full(len(values), 100 / len(values)), color=color, alpha=0.55, label=name)
        if found.fdr is None:
            axis.axvline(found.threshold, color=html.COLORS[3], linewidth=1.4, label="threshold")
        axis.set_xscale("symlog", linthresh=1.0)
        axis.set_xlabel("score, higher is odder")
        axis.set_ylabel("% of images")
        axis.legend(frameon=False, labelcolor=html.GREY)
        return html.drawing(figure, f"Threshold: {found.threshold:.3g}." if found.fdr is None else "")


def _drift(found: Outliers) -> str:
    if found.drift is None:
        return ""
    from matplotlib.figure import Figure

    seen = found.drift
    limit = -math.log10(seen.alpha)
    if seen.alarm is None:
        said = html.flag(
            f"No alarm: the {len(found.ids):,} images, in this order, do not show that anything has changed since the calibration images.",
            alarm=False,
        )
    else:
        said = html.flag(
            f"Drift: at image {seen.alarm + 1:,} ({found.ids[seen.alarm]}) the evidence that the images have changed passed 1/α. A stream of normal "
            f"images ever does so with probability at most {seen.alpha:g}, however long it is.",
            alarm=True,
        )
    with html.inked():
        figure = Figure(figsize=(7.4, 2.2), layout="constrained")
        axis = figure.subplots()
        axis.plot(range(1, len(seen.log10_capital) + 1), seen.log10_capital.tolist(), color=html.COLORS[0], linewidth=1.4)
        axis.axhline(limit, color=html.COLORS[3], linewidth=1.2, linestyle="--")
        axis.set_xlabel("image")
        axis.set_ylabel("log10 evidence")
        return said + html.drawing(figure, f"Conformal martingale; alarm at the dashed line, {limit:.2g}.")


def _made(found: Outliers) -> str:
    index = found.oddest[:8].tolist()
    head = ["statistic", *(f"#{k + 1}" for k in range(len(index))), "median"]
    rows = [
        [name, *(f"{float(values[i]):.3g}" for i in index), f"{float(values.median()):.3g}"] for name, values in found.statistics.items()
    ]
    tried = ", ".join(f"{name} {auc:.3f}" for name, auc in found.tried.items())
    said = (
        f"Of the combinations of evidence the known outliers chose {' + '.join(found.used)}, before calibration (AUROC: {tried})."
        if found.tried
        else f"Evidence: {' + '.join(found.used)}. No outlier was used to choose it."
    )
    return html.paragraph(said) + html.table(head, rows, "Statistics of the oddest images, and the median of all these images.")
