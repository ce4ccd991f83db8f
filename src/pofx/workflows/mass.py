"""All binary images of 3×3 at once, and where a model has its mass: the 512 numbers p(x) while it learns. They sum to 1 at every step.

    area(x) = p(x) = ∏_i p(x_i | x_<i)

The wall is the chain rule drawn: it is cut in two by p(x_1), each part by p(x_2 | x_1), and so on in turn across and down. After nine cuts
each image has a rectangle, whose area is its probability; what one gains, others lose. The data are draws of a distribution that is known
(`_patterns.py`), so that KL(p* ‖ p) is a sum too, and no estimate.

The table has a label beside: p(y|x) from a classifier, p(x|y) = p(y|x) p(x) / p(y) from `BayesConditional`, p(y) a sum over all images.
Rows of the one sum to 1 over labels, columns of the other over images. A classifier gives a label to noise as well; p(x) is what knows better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pofx import catalog, pictures
from pofx.errors import InputError
from pofx.model import ExactLikelihood, ImageModel, Labeler, Progress, capabilities
from pofx.models.composed.bayes import BayesConditional, enumerated
from pofx.noise import Noise
from pofx.tasks._files import check_out, write_text, writing
from pofx.tasks.classify import classify
from pofx.views import Label
from pofx.workflows import _page as html
from pofx.workflows._patterns import LINES, Patterns, patterns, taught
from pofx.workflows._player import framed

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".html", ".gif", ".png")
IMAGES, STEPS, FRAMES, LR = 1024, 200, 60, 0.01
CLASSIFIER: dict[str, Any] = {"channels": 8, "stages": 0, "dropout": 0.0}
NOISE = 8  # images of it that a classifier is asked about
ALPHA = 0.05
FEWEST = 160  # training images: of so many the calibration part allows ALPHA
SIDE = 512  # screen pixels of the wall
SMALLEST = 12.0  # screen pixels a side, of a rectangle in which the image itself is drawn
TOP = 12  # images that tables name
OTHER, LINE, DARK = (226, 229, 233), (255, 255, 255), (60, 64, 70)


@dataclass(frozen=True, eq=False)
class Frame:
    """p(x) of all images after `step` steps: `p` `(512,)`, and KL(p* ‖ p) in nats."""

    step: int
    p: Tensor
    kl: float

    @property
    def total(self) -> float:
        """Σ p(x): 1."""
        return float(self.p.sum())


@dataclass(frozen=True, eq=False)
class Table:
    """Image × label, over all images: float64 probabilities.

    Attributes:
        p_x: `(n,)`; p_y: `(classes,)`.
        p_y_given_x, p_x_given_y: `(n, classes)`. Rows of the first sum to 1, columns of the second.
    """

    p_x: Tensor
    p_y: Tensor
    p_y_given_x: Tensor
    p_x_given_y: Tensor

    @property
    def off(self) -> float:
        """The largest |p(y|x) p(x) − p(x|y) p(y)|: 0 but for rounding."""
        return float((self.p_y_given_x * self.p_x[:, None] - self.p_x_given_y * self.p_y).abs().max())

    def to_json(self, images: Tensor) -> dict[str, Any]:
        """Its sums, and the rows of the most probable images."""
        return {
            "p_y": self.p_y.tolist(),
            "rows_sum_to_1_within": float((self.p_y_given_x.sum(1) - 1).abs().max()),
            "columns_sum_to_1_within": float((self.p_x_given_y.sum(0) - 1).abs().max()),
            "both_products_agree_within": self.off,
            "rows": [
                {
                    "image": name_of(images[k]),
                    "p_x": float(self.p_x[k]),
                    "p_y_given_x": self.p_y_given_x[k].tolist(),
                    "p_x_given_y": self.p_x_given_y[k].tolist(),
                }
                for k in top(self.p_x)
            ],
        }


@dataclass(frozen=True, eq=False)
class Asked:
    """What a classifier says of noise, and what p(x) does.

    Attributes:
        x: uint8 `(m, 1, 3, 3)`, each pixel a coin's.
        label, probability: `(m,)`, the most probable class and p(y|x).
        p_x: `(m,)`.
        rejected: bool `(m,)`, no label fits: calibrated on other draws of the data, at most ALPHA of which are rejected.
    """

    x: Tensor
    label: Tensor
    probability: Tensor
    p_x: Tensor
    rejected: Tensor

    def to_json(self) -> list[dict[str, Any]]:
        names = ("label", "p_y_given_x", "p_x", "rejected")
        columns = (self.label.tolist(), self.probability.tolist(), self.p_x.tolist(), self.rejected.tolist())
        rows = zip(*columns, strict=True)
        return [{"image": name_of(x)} | dict(zip(names, row, strict=True)) for x, row in zip(self.x, rows, strict=True)]


@dataclass(frozen=True, eq=False)
class Mass:
    """A model while it learned.

    Attributes:
        model: its name in the catalogue.
        data: what was to be learned.
        truth: p* `(512,)`.
        frames: first (nothing learned) to last.
        table, noise: None where no labels were asked for.
    """

    model: str
    data: Patterns
    truth: Tensor
    frames: tuple[Frame, ...]
    table: Table | None = None
    noise: Asked | None = None

    @property
    def images(self) -> Tensor:
        """All of them, uint8 `(512, 1, 3, 3)`: image k has the digits of k in base 2."""
        return all_images(self.data)

    @property
    def last(self) -> Frame:
        return self.frames[-1]

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "model": self.model,
            "images": len(self.truth),
            "patterns": [name_of(image) for image in self.data.x],
            "flip": self.data.flip,
            "frames": [
                {
                    "step": f.step,
                    "sum": f.total,
                    "kl": f.kl,
                    "top": [{"image": name_of(self.images[k]), "p": float(f.p[k])} for k in top(f.p)],
                }
                for f in self.frames
            ],
        }
        if self.table is not None:
            found["table"] = self.table.to_json(self.images)
        if self.noise is not None:
            found["noise"] = self.noise.to_json()
        return found


def all_images(data: Patterns) -> Tensor:
    """Every image of the space of some patterns, uint8 `(2^dims, 1, side, side)`."""
    found = enumerated(data.space)
    assert found is not None
    return found


def name_of(image: Tensor) -> str:
    """Pixels row by row.

    >>> name_of(torch.tensor([[[1, 0], [0, 1]]]))
    '1001'
    """
    return "".join(str(v) for v in image.flatten().tolist())


def number_of(image: Tensor) -> int:
    """Which of all images it is.

    >>> number_of(torch.tensor([[[1, 0], [0, 1]]]))
    9
    """
    return int(name_of(image), 2)


def on_patterns(p: Tensor, data: Patterns) -> float:
    """The mass of the patterns together."""
    return sum(float(p[number_of(image)]) for image in data.x)


def top(p: Tensor, n: int = TOP) -> list[int]:
    """The most probable images."""
    return p.argsort(descending=True)[:n].tolist()


def tiles(p: Tensor) -> Tensor:
    """Where each image lies in a square of side 1, and how large: `(2^d,)` probabilities → `(2^d, 4)` left, top, width, height.

    width · height = p(x): level i is cut by p(x_i | x_<i), upright and level in turn.

    >>> tiles(torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.double)).prod(1).shape
    torch.Size([4])
    >>> area = tiles(torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.double))[:, 2:].prod(1)
    >>> [round(v, 6) for v in area.tolist()]
    [0.1, 0.2, 0.3, 0.4]
    """
    box = torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=torch.double)
    for level in range(len(p).bit_length() - 1):
        mass = p.double().reshape(len(box), 2, -1).sum(2)
        share = mass / mass.sum(1, keepdim=True).clamp(min=1e-300)  # p(x_i | x_<i); of an image without mass nothing is left anyway
        at, size = level % 2, level % 2 + 2
        first, second = box.clone(), box.clone()
        first[:, size] = box[:, size] * share[:, 0]
        second[:, size] = box[:, size] * share[:, 1]
        second[:, at] = box[:, at] + first[:, size]
        box = torch.stack([first, second], 1).flatten(0, 1)
    return box


def moments(steps: int, frames: int) -> list[int]:
    """The steps that are shown: dense at first, where most happens.

    >>> moments(100, 5)
    [0, 6, 25, 56, 100]
    """
    return sorted({round(steps * (i / max(1, frames - 1)) ** 2) for i in range(frames)} | {steps})


def mass(
    out: str | Path | None = None,
    *,
    model: str = "made",
    images: str = LINES,
    flip: float = 0.02,
    n: int = IMAGES,
    steps: int = STEPS,
    frames: int = FRAMES,
    lr: float = LR,
    labels: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
    watch: Callable[[Frame], None] | None = None,
) -> Mass:
    """Train a tiny exact model on 3×3 binary images, and count all 512 of them while it learns.

    Args:
        out: a .html page, a .gif of the wall, or a .png with its first, a middle and its last frame.
        model: of the catalogue, with an exact likelihood; its smallest instance is trained.
        images: the patterns, as `_patterns.patterns` reads them; by default three rows (label 0) and three columns (label 1).
        flip: how often a pixel of them is flipped.
        n: training images.
        steps: of training; frames: how many of them are kept.
        lr: learning rate.
        labels: also train a classifier, for the table image × label and what it says of noise. It needs two groups of patterns.
        progress: called with (done, total) steps.
        watch: called with each frame as it comes.

    Raises:
        CapabilityError, InputError: no model of that name or none with an exact likelihood; patterns that are none; another ending.

    >>> found = mass(steps=2, frames=2, labels=False)
    >>> [round(f.total, 9) for f in found.frames]
    [1.0, 1.0]
    """
    target = None if out is None else check_out(out, SUFFIXES)
    if min(n, steps, frames) < 1 or (labels and n < FEWEST):
        raise InputError(
            f"n={n}, steps={steps}, frames={frames}: at least 1 each, and n {FEWEST} for the reject, whose calibration images are a quarter."
        )
    data = patterns(images, flip)
    cls = catalog.get(model)
    if "ExactLikelihood" not in capabilities(cls):
        able = [name for name, entry in catalog.entries().items() if "ExactLikelihood" in capabilities(entry.load())]
        raise InputError(f"{model} has no exact p(x) to sum over all images. Use one of {', '.join(able)}.")
    x = all_images(data)
    joint = data.log_joint(x)
    log_truth = joint.logsumexp(1)
    truth, seen, found = log_truth.exp(), set(moments(steps, frames)), []
    both = labels and data.classes > 1
    total = 2 * steps if both else steps

    def look(step: int, now: ImageModel) -> None:
        if progress is not None:
            progress(step, total)
        if step in seen:
            assert isinstance(now, ExactLikelihood)
            with torch.no_grad():
                log_p = now.log_prob(x).double()
            there = truth > 0
            found.append(Frame(step, log_p.exp(), float((truth * (log_truth - log_p))[there].sum())))
            if watch is not None:
                watch(found[-1])

    drawn = data.data(n, seed=seed)
    density = taught(model, drawn, steps=steps, seed=seed, lr=lr, watch=look)
    table = noise = None
    if both:
        step = None if progress is None else lambda at, _: progress(steps + at, total)
        labeler = taught("classifier", drawn, steps=steps, seed=seed, lr=lr, small=False, classes=data.classes, watch=step, **CLASSIFIER)
        table = tabulate(density, labeler, data)
        noise = asked(density, labeler, drawn, seed)
    made = Mass(model, data, truth, tuple(found), table, noise)
    if target is not None:
        _write(made, target)
    return made


@torch.no_grad()
def tabulate(density: ImageModel, labeler: ImageModel, data: Patterns) -> Table:
    """All images × all labels: p(y|x) of a labeler, and by Bayes' rule p(y) and p(x|y) with p(x) of a density."""
    x, k = all_images(data), data.classes
    assert isinstance(density, ExactLikelihood) and isinstance(labeler, Labeler)
    bayes = BayesConditional(data.space, Label(k), density=density, labelers=(labeler,)).double()
    p_y = bayes.evidence(torch.arange(k)).log_prob.exp()
    p_x_given_y = torch.stack([bayes.log_density(x, torch.full((len(x),), y)).log_prob.exp() for y in range(k)], 1)
    return Table(density.log_prob(x).double().exp(), p_y, labeler.label(x).log_prob.double().exp(), p_x_given_y)


@torch.no_grad()
def asked(density: ImageModel, labeler: ImageModel, data: Any, seed: int = 0) -> Asked:
    """What a classifier says of noise; the reject is that of `pofx classify --density`."""
    noise = Noise(seed, torch.arange(NOISE))
    x = (noise.uniform("noise", data.space.dims) < 0.5).to(torch.uint8).reshape(-1, *data.space.shape)
    found = classify(labeler, x, calib=data.calib, center=data.valid, density=density, alpha=ALPHA, pooled=True)
    assert found.sets is not None and isinstance(density, ExactLikelihood)
    return Asked(x, found.label, found.probability, density.log_prob(x).exp(), ~found.sets.any(1))


# Pictures ---------------------------------------------------------------------------------------------------------------


def colours(data: Patterns) -> list[tuple[int, int, int]]:
    """Of each image: that of its label for a pattern, grey for all others."""
    tint = [tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in html.COLORS]
    found: list[Any] = [OTHER] * 2**data.space.dims
    for k, image in enumerate(data.x):
        found[number_of(image)] = tint[int(data.y[k]) % len(tint)]
    return found


def wall(p: Tensor, data: Patterns, side: int = SIDE) -> Image:
    """One frame as a picture: a rectangle for each image, its area p(x), the image inside where there is room."""
    from PIL import Image, ImageDraw

    made = Image.new("RGB", (side, side), LINE)
    pen, tints = ImageDraw.Draw(made), colours(data)
    rows = data.space.height
    images = all_images(data)[:, 0].tolist()
    for k, (left, up, width, height) in enumerate((tiles(p) * side).tolist()):
        if width * height < 0.05:
            continue
        x0, y0, x1, y1 = (round(v) for v in (left, up, left + width, up + height))
        pen.rectangle((x0, y0, max(x0, x1 - 2), max(y0, y1 - 2)), fill=tints[k])  # one point of paper between them
        size = 0.72 * min(width, height)
        if min(width, height) < SMALLEST:
            continue
        x, y, cell = left + (width - size) / 2, up + (height - size) / 2, size / rows
        for r in range(rows):
            for c in range(rows):
                fill = DARK if images[k][r][c] else LINE
                pen.rectangle((x + c * cell, y + r * cell, x + (c + 1) * cell - 1, y + (r + 1) * cell - 1), fill=fill)
    return made


def told(frame: Frame, data: Patterns) -> str:
    """The numbers of a frame in plain letters."""
    there = on_patterns(frame.p, data)
    return f"step {frame.step}   sum {frame.total:.6f}   on the patterns {there:.4f}   KL(p*, p) {frame.kl:.4f} nats"


def sheet(made: Mass, frames: Sequence[Frame]) -> Image:
    """Walls side by side, each with its numbers above."""
    import numpy as np
    from PIL import Image

    parts = []
    for frame in frames:
        line = pictures.text(told(frame, made.data), 20)
        head = np.full((20, SIDE, 3), 255, np.uint8)
        head[:, : line.shape[1]][line[:, :SIDE]] = 0
        parts += [np.concatenate([head, np.asarray(wall(frame.p, made.data))]), np.full((SIDE + 20, 12, 3), 255, np.uint8)]
    return Image.fromarray(np.concatenate(parts[:-1], 1))


def _write(made: Mass, path: Path) -> None:
    if path.suffix.lower() == ".html":
        write_text(path, render(made))
        return
    with writing(path) as temporary:
        if path.suffix.lower() == ".gif":
            pictures.movie([sheet(made, [f]) for f in made.frames], temporary, [0.12] * (len(made.frames) - 1) + [2.0])
        else:
            middle = made.frames[len(made.frames) * 2 // 5]
            sheet(made, [made.frames[0], middle, made.last]).save(temporary, format="PNG")


DRAW = """const canvas = root.querySelector("canvas"), context = canvas.getContext("2d"), size = canvas.width, d = Math.log2(data.tints.length);
function tiles(p) {
  let box = [[0, 0, 1, 1]];
  for (let level = 0; level < d; level++) {
    const n = box.length, part = p.length / (2 * n), next = [];
    for (let k = 0; k < n; k++) {
      const sum = i => { let s = 0; for (let j = i * part; j < (i + 1) * part; j++) s += p[j]; return s; };
      const a = sum(2 * k), b = sum(2 * k + 1), share = a / Math.max(a + b, 1e-300), at = level % 2, one = [...box[k]], two = [...box[k]];
      one[at + 2] = box[k][at + 2] * share; two[at + 2] = box[k][at + 2] * (1 - share); two[at] = box[k][at] + one[at + 2];
      next.push(one, two);
    }
    box = next;
  }
  return box;
}
function draw(f) {
  context.fillStyle = "#fff"; context.fillRect(0, 0, size, size);
  tiles(f.p).forEach(([x, y, w, h], k) => {
    x *= size; y *= size; w *= size; h *= size;
    if (w * h < .05) return;
    context.fillStyle = data.tints[k]; context.fillRect(x, y, Math.max(.5, w - .7), Math.max(.5, h - .7));
    if (Math.min(w, h) < 12) return;
    const side = .72 * Math.min(w, h), c = side / data.side, x0 = x + (w - side) / 2, y0 = y + (h - side) / 2;
    for (let i = 0; i < d; i++) {
      context.fillStyle = (k >> (d - 1 - i)) & 1 ? "#3c4046" : "#fff";
      context.fillRect(x0 + (i % data.side) * c, y0 + Math.floor(i / data.side) * c, c - .5, c - .5);
    }
  });
}"""


def player(made: Mass) -> str:
    """The wall with a slider over the steps, as HTML."""
    tints = ["#{:02x}{:02x}{:02x}".format(*c) for c in colours(made.data)]
    frames = []
    for f in made.frames:
        there = on_patterns(f.p, made.data)
        words = "".join(
            f"<span>{name} <b>{value}</b></span>"
            for name, value in (("step", f"{f.step:,}"), ("sum", f"{f.total:.9f}"), ("on the patterns", f"{there:.4f}"), ("KL(p* ‖ p)", f"{f.kl:.4f} nats"))
        )  # fmt: skip
        frames.append({"words": words, "p": [float(f"{v:.4g}") for v in f.p.tolist()]})
    body = f'<canvas width="{SIDE}" height="{SIDE}" style="max-width:{SIDE}px" role="img" aria-label="all images, each as large as it is probable"></canvas>'
    return framed(body, {"frames": frames, "tints": tints, "side": made.data.space.height}, DRAW, label="step of the training")


def table_html(made: Mass) -> str:
    """The most probable images with their labels, what all others have together, and the sums."""
    t = made.table
    assert t is not None
    k = t.p_y.numel()
    best = top(t.p_x)
    rest = [i for i in range(len(t.p_x)) if i not in set(best)]

    def row(name: str, *values: float) -> list[str]:
        return [name, *("–" if math.isnan(v) else f"{v:.6f}" for v in values)]

    rows = [
        row(name_of(made.images[i]), float(t.p_x[i]), *t.p_y_given_x[i].tolist(), float(t.p_y_given_x[i].sum()), *t.p_x_given_y[i].tolist())
        for i in best
    ]
    blank = [math.nan] * (k + 1)
    rows.append(row(f"the {len(rest)} others", float(t.p_x[rest].sum()), *blank, *t.p_x_given_y[rest].sum(0).tolist()))
    rows.append(row("all", float(t.p_x.sum()), *blank, *t.p_x_given_y.sum(0).tolist()))
    head = ["x", "p(x)", *(f"p(y={y}|x)" for y in range(k)), "sum", *(f"p(x|y={y})" for y in range(k))]
    p_y = ", ".join(f"p(y={y}) = {v:.6f}" for y, v in enumerate(t.p_y.tolist()))
    return html.table(head, rows, f"{p_y}. |p(y|x) p(x) − p(x|y) p(y)| is at most {t.off:.0e} over all {len(t.p_x)} images × {k} labels.")


def noise_html(made: Mass) -> str:
    """Noise with its label, how sure the classifier is, p(x), and whether it is rejected."""
    a = made.noise
    assert a is not None
    rows = [
        [name_of(a.x[i]), str(int(a.label[i])), f"{float(a.probability[i]):.4f}", f"{float(a.p_x[i]):.2e}", "rejected" if bool(a.rejected[i]) else "kept"]
        for i in range(len(a.x))
    ]  # fmt: skip
    return html.table(
        ["noise", "label", "p(y|x)", "p(x)", "with p(x)"], rows,
        f"Images of coins. The reject is calibrated on other draws of the data, of which at most {ALPHA:.0%} are rejected.",
    )  # fmt: skip


def render(made: Mass) -> str:
    """The page as HTML."""
    first, last = made.frames[0], made.last
    body = [
        html.section(
            "The mass of all images",
            html.paragraph(
                f"There are 2^{made.data.space.dims} = {len(made.truth)} binary images of 3×3. Each is a rectangle here, and its area is p(x): the "
                "square is cut in two by the first pixel, each part by the second given the first, and so on: the chain rule. What one image "
                "gains, others lose; the whole is always 1."
            ),
            player(made),
            html.paragraph(
                f"{made.model} on {len(made.data.x)} patterns (coloured by label), each of whose pixels is flipped with probability "
                f"{made.data.flip:g}. That distribution p* is known, so KL(p* ‖ p) is a sum over all images: {first.kl:.4f} nats before training, "
                f"{last.kl:.4f} after {last.step:,} steps.",
                "soft",
            ),
        )
    ]
    if made.table is not None:
        body.append(
            html.section(
                "Image × label",
                html.paragraph(
                    "A classifier gives p(y|x): each row sums to 1 over the labels, whatever x is. p(x|y) sums to 1 over the images, column by "
                    "column. Bayes' rule leads from one to the other: p(x|y) = p(y|x) p(x) / p(y)."
                ),
                table_html(made),
            )
        )
    if made.noise is not None:
        sure = float(made.noise.probability.max())
        body.append(
            html.section(
                "A classifier has a label for noise",
                html.paragraph(
                    f"A row that sums to 1 must go somewhere: the classifier labels noise too, here up to p(y|x) = {sure:.4f}. It never learned "
                    "p(x), so that it cannot know. With p(x) beside it, an image that fits no label is rejected."
                ),
                noise_html(made),
            )
        )
    return html.page("Where the mass is", f"All {len(made.truth)} binary images of 3×3 under {made.model}.", body)
