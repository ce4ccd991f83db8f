"""Images with holes: which one, what of it is known, and how the same is done by hand. For the page Complete."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pofx.errors import InputError
from pofx.studio.board import Board
from pofx.studio.parts import command, download, image_uri, one_of, view_value

if TYPE_CHECKING:
    from torch import Tensor

    from pofx.data import Split
    from pofx.model import ImageModel
    from pofx.space import ImageSpace
    from pofx.tasks.complete import Completion
    from pofx.workflows.loading import RunData

SIDE = 120  # screen pixels of a completion, about


@dataclass(eq=False)
class Picked:
    """An image that a person chose.

    Attributes:
        x: uint8 `(1, C, H, W)`, or None where only the view's value was given; y: what its data says of it, as the view reads it.
        value: the view's value where the upload is that itself: a grey or a half-size image.
        word: what `pofx complete` takes for it; `heading` says it to a person.
        flags: conversions that the command needs, by name.
        file: the image as PNG where it was uploaded, which `word` then names.
        stop: set to end its completion.
    """

    run: str
    x: Tensor | None
    y: Tensor | None
    value: Tensor | None
    word: str
    heading: str
    flags: dict[str, Any] = field(default_factory=dict)
    file: bytes = b""
    stop: threading.Event = field(default_factory=threading.Event)


def pick(run: str, model: ImageModel, info: RunData, split: Split, number: float | None) -> Picked:
    """One of the run's own test images."""
    import torch

    i = one_of(split, number)
    x, y = split.take(torch.tensor([i]))
    spec = info.stored.get("spec") or {}
    flags = {name: spec[name] for name in ("size", "levels") if spec.get(name)}
    word = f"{spec.get('spec', 'DATA')}:test#{i}"
    return Picked(run, x, y, None, word, f"test image {i} of {len(split)}", flags)


def read(run: str, path: str, model: ImageModel, info: RunData) -> Picked:
    """An uploaded image: of a run given gray a grey one too, of one given half one of half the size; others are converted to the run's images.

    Raises:
        InputError: it cannot be read or converted.
    """
    import torch

    from pofx.workflows.loading import Conversions, load_side

    space = model.space
    resized = Conversions.into(space)
    try:
        loaded, is_value = load_side(path, model, replace(resized, size=None), info, told=False)
        said = ""
    except InputError:
        loaded, is_value = load_side(path, model, resized, info, told=False)
        said = f", resized to {space.height} × {space.width}"
    x = loaded.split.take(torch.arange(1))[0]
    flags = {} if resized.levels is None else {"levels": resized.levels}
    name = f"{Path(path).name}{said}"
    return Picked(run, None if is_value else x, None, x if is_value else None, "image.png", name, flags, _png(x[0], space.levels))


def _png(x: Tensor, levels: int) -> bytes:
    from PIL import Image

    from pofx import pictures

    picture, file = Image.fromarray(pictures.rgb(x[None], levels)[0]), io.BytesIO()
    (picture.convert("L") if len(x) == 1 else picture).save(file, "PNG")
    return file.getvalue()


# The hole -------------------------------------------------------------------------------------------------------------------------


def is_painted(model: ImageModel) -> bool:
    """Whether a person says what is kept; else the view of the run does."""
    from pofx.views import Masked

    view = model.given
    return view is None or isinstance(view, Masked) or len(view.feature_shape(model.space)) < 3


def task_of(model: ImageModel) -> str:
    """What is done with an image, for a person."""
    from pofx.views import Gray, Half

    view, space = model.given, model.space
    if is_painted(model):
        more = "" if view is None else f" This run is p(x | {view.name})."
        return f"Paint the hole: painted pixels are made anew, all others are kept bit for bit.{more}"
    if isinstance(view, Gray):
        return "This run gives **colours**: it is told the grey image, nothing is painted, and every pixel is drawn. Upload a colour or a grey image."
    if isinstance(view, Half):
        half = f"{-(-space.height // 2)} × {-(-space.width // 2)}"
        return f"This run **enlarges**: it is told the image at half the size, {half}, and draws all of it. Upload an image of either size."
    return f"This run is p(x | {view}): what is kept was fixed when it was trained, and nothing is painted."


def on_board(picked: Picked, model: ImageModel, before: Board) -> Board:
    """The image on the canvas, with the hole that was painted before where it fits, else its lower half."""
    _, rows, cols = model.space.shape
    same = (before.rows, before.cols) == (rows, cols) and before.mask
    mask = before.mask if same else below(rows, cols)
    assert picked.x is not None
    return Board(image_uri(picked.x[0], model.space.levels), rows, cols, mask=mask)


def below(rows: int, cols: int) -> str:
    """The mask of the lower half; of one row, the right."""
    kept = rows * cols // 2 if rows == 1 else rows // 2 * cols
    return "0" * kept + "1" * (rows * cols - kept)


def inverted(mask: str) -> str:
    return mask.translate(str.maketrans("01", "10"))


def known(board: Board, space: ImageSpace) -> Tensor:
    """The mask of the task, bool `(H, W)`, true where pixels are kept.

    Raises:
        InputError: the canvas shows other images, or nothing is painted.
    """
    import torch

    if len(board.mask) != space.height * space.width or "1" not in board.mask:
        raise InputError("There is no hole yet: paint one on the image, or press “Keep the top half”.")
    return torch.tensor([c == "0" for c in board.mask]).reshape(space.height, space.width)


def value_of(model: ImageModel, picked: Picked, label: str) -> Tensor | None:
    """The view's value where the image does not say it by itself: the class that was typed, or what is written beside the image.

    Raises:
        InputError: an upload says none, and no class was given.
    """
    from pofx.views import Label

    view = model.given
    if view is None or len(view.feature_shape(model.space)) == 3:
        return picked.value
    if label.strip() and isinstance(view, Label):
        if not label.strip().isdecimal():
            raise InputError(f"Class {label.strip()!r}: give its number, 0 … {view.classes - 1}, or nothing for the image's own.")
        return view_value(model, int(label))
    if picked.y is None and not (isinstance(view, Label) and view.unknown):
        fix = "give the class" if isinstance(view, Label) else "take a test image, or the command line: pofx complete RUN IMAGE"
        raise InputError(f"This run is p(x | {view.name}), and an uploaded image says none of it: {fix}.")
    assert picked.x is not None
    return view.value(picked.x, picked.y)


# What came of it ------------------------------------------------------------------------------------------------------------------


def shown(found: Completion) -> str:
    """The original, what was kept, and the completions, as HTML."""
    from PIL import Image

    from pofx import pictures
    from pofx.studio.parts import figure

    name, told = found.told
    rows = [] if found.original is None else [("original", pictures.rgb(found.original[None], found.levels)[0])]
    rows += [(name, told[0]), *((str(i + 1), picture) for i, picture in enumerate(pictures.rgb(found.images, found.levels)))]
    return "".join(figure(Image.fromarray(picture), caption, side=SIDE, alt=f"completion {caption}") for caption, picture in rows)


def links(picked: Picked | None, board: Board, painted: bool) -> str:
    """The files that the command below takes."""
    if picked is None:
        return ""
    found = download(picked.word, picked.file, "is the upload as the run reads it.") if picked.file else ""
    if painted and "1" in board.mask and not _top(board):
        import numpy as np
        from PIL import Image

        file = io.BytesIO()
        mask = np.array([255 * (c == "1") for c in board.mask], np.uint8).reshape(board.rows, board.cols)
        Image.fromarray(mask).save(file, "PNG")
        found += download("mask.png", file.getvalue(), "is the painted hole: white is the hole, black is kept.")
    return found


def _top(board: Board) -> int:
    """How many rows are kept (of one row: columns), where the hole is all that is below them; else 0."""
    kept = board.mask.find("1")
    lines, rest = (kept, 0) if board.rows == 1 else divmod(kept, board.cols)
    return lines if kept > 0 and not rest and "0" not in board.mask[kept:] else 0


def by_hand(picked: Picked, model: ImageModel, board: Board, label: str, settings: dict[str, int]) -> tuple[str, str]:
    """The same on the command line, and in Python; nothing as long as there is no hole."""
    from pofx.views import Gray, Half, Label

    view, painted = model.given, is_painted(model)
    if painted and "1" not in board.mask:
        return "", ""
    side = {Gray: "--gray", Half: "--half"}.get(type(view))
    top = _top(board)
    hole = ([side] if side else []) if not painted else ["--keep", f"top:{top}"] if top else ["--mask", "mask.png"]
    own = ["--label", label.strip()] if label.strip() and isinstance(view, Label) else []
    flags = [word for name, value in picked.flags.items() for word in (f"--{name}", value)]
    numbers = [word for name, value in settings.items() for word in (f"{'-' if len(name) == 1 else '--'}{name}", value)]
    line = command("pofx", "complete", picked.run, picked.word, *hole, *own, *flags, *numbers, "-o", "sheet.png")
    h, w = model.space.shape[1:]
    mask = f'kept_region("top:{top}", {h}, {w})' if top else f'read_mask("mask.png", {h}, {w})'
    data, _, number = picked.word.partition("#")
    spec = "".join(f", {name}={value!r}" for name, value in picked.flags.items())
    value = ""
    if view is not None and len(view.feature_shape(model.space)) < 3:
        value = f", given=torch.tensor([{label.strip()}])" if own else ", given=model.given.value(x, y)"
    elif picked.value is not None:
        value = ", given=x"
    image = "None" if picked.value is not None else "x"
    asked = "".join(f", {name}={number}" for name, number in settings.items())
    python = (
        "import torch\n\nimport pofx\nfrom pofx.data import load_images\nfrom pofx.tasks.complete import complete"
        + (f", {mask.partition('(')[0]}" if painted else "")
        + f'\n\nmodel = pofx.load("{picked.run}")\nimages, _ = load_images("{data}"{spec})\nx, y = images.take(torch.tensor([{number or 0}]))\n'
        + f'found = complete(model, {image}, {mask if painted else "None"}{value}{asked}, out="sheet.png")\nprint(found.summary)'
    )
    return line, python
