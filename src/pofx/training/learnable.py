"""What a set can teach a model, before it is trained: refused where that is nothing, said where it is little.

One place for all families. Images are looked at as the model will see them, and only until there are enough different ones: the first
batch, of nearly every set.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pofx.data import Data
from pofx.errors import InputError
from pofx.model import Critic, ImageModel, Labeler
from pofx.training.progress import say
from pofx.views import Label

FEW = 32  # different images; a model learns fewer by heart
CHUNK = 64


@dataclass(frozen=True)
class Doubts:
    """What to say of a set that can be learned from.

    Attributes:
        lines: one sentence or two each.
        unlearned: classes that the model has and no training image is of.
    """

    lines: tuple[str, ...] = ()
    unlearned: tuple[int, ...] = ()

    def say(self, quiet: bool = False) -> None:
        for line in self.lines:
            say(line, quiet)


def check_learnable(model: ImageModel, data: Data) -> Doubts:
    """What `data.train` cannot teach `model`.

    Raises:
        InputError: nothing can be learnt: one flat image over and over; for a model of labels, one image over and over, or one label.

    >>> import pofx
    >>> from pofx.models.autoregressive.pixelcnn import PixelCNN
    >>> data = pofx.load_data("digits")
    >>> check_learnable(PixelCNN(data.space), data)
    Doubts(lines=(), unlearned=())
    """
    unlearned = _labels(model, data)
    lines = [_images(model, data)]
    if unlearned:
        names = _named(unlearned, data)
        it = "it" if len(unlearned) == 1 else "them"
        lines.append(
            f"No training image of {data.heading} is of class {names}: nothing is learned of {it}. The counts: pofx data {data.name}"
        )
    return Doubts(tuple(filter(None, lines)), unlearned)


def learned_classes(model: ImageModel, data: Data) -> Tensor:
    """The classes of a model of p(x | label) that training images are of, int64 `(k,)`; all where no label is known."""
    assert isinstance(model.given, Label)
    there = _present(data)
    return torch.arange(model.given.classes) if there is None or not len(there) else there


def _present(data: Data) -> Tensor | None:
    """Labels of training images, each once, ascending; None where they have none."""
    y = data.train.y
    return None if y is None or y.ndim != 1 else y[y >= 0].unique()


def _labels(model: ImageModel, data: Data) -> tuple[int, ...]:
    """The classes of a model that no training image is of."""
    name, there = type(model).__name__, _present(data)
    if isinstance(model, Labeler):
        if data.train.y is None:
            raise InputError(f"{name} learns labels, and {data.heading} has none. Give a folder with one subfolder per class.")
        classes, fix = model.classes, "classes={}"
    elif isinstance(model.given, Label):
        classes, fix = model.given.classes, f"given={type(model.given).__name__}({{}})"
    else:
        return ()
    if there is None:
        return ()
    if len(there) and int(there.max()) >= classes:
        most = int(there.max())
        raise InputError(f"{data.heading} has the label {most}; this {name} knows 0 … {classes - 1}. Make it with {fix.format(most + 1)}.")
    if isinstance(model, Labeler) and len(there) == 1:
        raise InputError(
            f"All labels of {data.heading} are {_named((int(there[0]),), data)}: there is nothing to tell apart. Give images of two classes or more."
        )
    return tuple(sorted(set(range(classes)) - set(there.tolist())))


def _named(classes: tuple[int, ...], data: Data) -> str:
    shown = [f"{i} ({data.class_names[i]})" if data.class_names and i < len(data.class_names) else f"{i}" for i in classes[:5]]
    shown = [text if text != f"{i} ({i})" else f"{i}" for i, text in zip(classes, shown, strict=False)]
    return ", ".join(shown) + (f" and {len(classes) - 5} more" if len(classes) > 5 else "")


def _images(model: ImageModel, data: Data) -> str:
    """What is said of a set of few different images; "" for others."""
    if data.dynamic or data.labels is not None:  # drawn anew each epoch; few, because few labels were asked for
        return ""
    different, n = _different(data), len(data.train)
    if len(different) >= FEW:
        return ""
    if len(different) == 1:
        found = f"{data.heading} has one training image" if n == 1 else f"All {n} training images of {data.heading} are the same one"
        look, flat = f"Look at them: pofx data {data.name} -o contact.png", different[0].flatten(1)
        if bool((flat == flat[:, :1]).all()):
            raise InputError(f"{found}, of one colour: nothing can be learnt. {look}")
        if isinstance(model, Labeler):
            raise InputError(f"{found}: no label can depend on it. {look}")
    else:
        found = f"{data.heading} has only {len(different)} " + ("" if len(different) == n else "different ones among its ")
        found += f"{'' if len(different) == n else n} training images".strip()
    them = "it" if len(different) == 1 else "them"
    critic = f"; the critic soon knows {them}, and the generator can only copy {them}" if isinstance(model, Critic) else ""
    beside = model.given is not None and len(model.given.feature_shape(model.space)) == 3  # a view that images must not be moved against
    vary = "--diffaugment geometry" if isinstance(model, Critic) and not beside else "--augment flip,shift"
    return f"{found}: a model learns {them} by heart{critic}. Give more images, or vary {them} with {vary}"


def _different(data: Data) -> list[Tensor]:
    """Training images that differ from one another, FEW at most."""
    found: dict[bytes, Tensor] = {}
    for rows in torch.arange(len(data.train)).split(CHUNK):
        for image in data.train.take(rows)[0]:
            found.setdefault(image.cpu().contiguous().numpy().tobytes(), image)
            if len(found) == FEW:
                return list(found.values())
    return list(found.values())
