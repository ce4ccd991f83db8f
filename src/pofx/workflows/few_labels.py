"""Few labels: how many does a task need, with features learned without labels and without them?

For each number of labels, `draws` balanced choices of the labelled images (`Split.balanced`); on each the same test images judge

    features      a linear probe on the features of a model (`tasks/probe.py`)
    pixels        the same probe on the pixels
    scratch       a classifier trained from scratch on the labelled images, for `scratch_steps` steps
    fine-tuned    the classifier that starts from the features (`Classifier(body=…)`), for as many steps
    spread        labels spread over the other training images, along the nearest features (`tasks/_spreading.py`)
    spread-pixels the same along the nearest pixels

A point is the mean over draws, with their standard deviation: draws of few labels differ by more than test images do. Labels choose nothing else:
C is cross-validated among the labelled images, and every other setting is fixed before. Where all images have labels there is nothing to spread.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pofx.errors import InputError
from pofx.tasks._files import check_out, write_text, writing
from pofx.tasks._spreading import Neighbours
from pofx.tasks.bulk import per_image, subset
from pofx.tasks.encode import features
from pofx.tasks.probe import Clusters, clusters, labels_of, linear
from pofx.workflows import _page as html
from pofx.workflows._runs import trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pofx.data import Data
    from pofx.model import ImageModel

SIZES = (10, 100, 1000)  # and all
DRAWS = 5
STEPS = 200  # of a classifier from scratch: batches of 64, or all labelled images where they are fewer
CLUSTERED = 5000  # images that are clustered, at most
TRAINED, SPREAD = ("scratch", "fine-tuned"), {"spread": "features", "spread-pixels": "pixels"}
METHODS = ("features", "pixels", *TRAINED, *SPREAD)
AXIS = {"labels": "labels", "images": "unlabelled images"}


@dataclass(frozen=True)
class Point:
    """Accuracy of test images at one size.

    Attributes:
        at: labels, or unlabelled images.
        draws: accuracy of each draw of labelled images.
        se: standard error of one accuracy, by the number of test images.
    """

    at: int
    draws: tuple[float, ...]
    se: float

    @property
    def mean(self) -> float:
        return float(np.mean(self.draws))

    @property
    def sd(self) -> float | None:
        """Standard deviation over draws; None of one draw."""
        return float(np.std(self.draws, ddof=1)) if len(self.draws) > 1 else None

    @classmethod
    def of(cls, at: int, accuracies: Sequence[float], test: int) -> Point:
        p = float(np.mean(accuracies))
        return cls(at, tuple(accuracies), (p * (1 - p) / test) ** 0.5)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Point:
        return cls(value["at"], tuple(value["draws"]), value["se_test"])

    def to_json(self) -> dict[str, Any]:
        return {"at": self.at, "accuracy": self.mean, "sd": self.sd, "se_test": self.se, "draws": list(self.draws)}


@dataclass(frozen=True)
class Efficiency:
    """Curves of accuracy.

    Attributes:
        curves: method → its points; over: "labels" or "images" (unlabelled ones that the encoder learned from).
        data, model: on what, and with the features of what; layer: which, None for the default.
        dims: of the features; test: images; steps: of classifiers.
        clusters: k-means of features, pixels and PCA, or None.
    """

    curves: Mapping[str, tuple[Point, ...]]
    over: str
    data: str
    model: str
    layer: str | None
    dims: int
    test: int
    steps: int
    clusters: Clusters | None = None

    def to_json(self) -> dict[str, Any]:
        more = {"data": self.data, "model": self.model, "layer": self.layer, "dims": self.dims, "test": self.test, "steps": self.steps}
        found = {"over": self.over, "curves": {name: [p.to_json() for p in points] for name, points in self.curves.items()}}
        return more | found | {"clusters": None if self.clusters is None else self.clusters.to_json()}


def few_labels(
    model: ImageModel,
    data: Data,
    *,
    sizes: Sequence[int] | None = None,
    draws: int = DRAWS,
    layer: str | None = None,
    methods: Sequence[str] = METHODS[:3],
    steps: int = STEPS,
    cluster: bool = False,
    seed: int = 0,
    out: str | Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Efficiency:
    """Accuracy over the number of labels.

    Args:
        sizes: numbers of labels; by default 10, 100, 1,000 and all, as far as there are so many and one a class. All has one draw.
        methods: of `METHODS`.
        steps: of training a classifier.
        cluster: also cluster test images, by features, pixels and PCA.
        out: .html or .png: the curves.
        say: called with a line as work goes on.

    Raises:
        CapabilityError: the model has no features.
        InputError: data of another space or without labels, unknown methods, sizes out of range, another ending.
    """
    path = None if out is None else check_out(out, (".html", ".png"))
    if data.space != model.space:
        raise InputError(
            f"The run is a model of {model.space}; {data.heading} holds {data.space}. Convert it with --size, --gray or --levels."
        )
    for method in methods:
        if method not in METHODS:
            raise InputError(f"No method {method!r}; use {', '.join(METHODS)}.")
    if draws < 1 or steps < 1:
        raise InputError(f"draws={draws} and steps={steps} must be at least 1.")
    y, test_y = labels_of(data.train, data.heading), labels_of(data.test, data.heading)
    fewest = len(y.unique())
    wanted = [n for n in SIZES if fewest <= n < len(y)] + [len(y)] if sizes is None else sorted(set(sizes))
    rows = {n: [data.train.balanced(n, seed=seed + draw) for draw in range(draws if n < len(y) else 1)] for n in wanted}
    used = np.unique(np.concatenate([chosen for choices in rows.values() for chosen in choices]))
    if any(method in SPREAD for method in methods):
        used = np.arange(len(y))
    train = data.train.select(used)
    say(f"features of {len(used)} training and {len(test_y)} test images")
    vectors = {
        "features": (features(model, train, layer), features(model, data.test, layer)),
        "pixels": (_pixels(train, data), _pixels(data.test, data)),
    }
    graphs = {}
    for method in methods:
        if method in SPREAD:
            say(f"the nearest of {len(used)} training images by {SPREAD[method]}")
            graphs[method] = Neighbours.of(*vectors[SPREAD[method]], seed=seed)
    curves: dict[str, list[Point]] = {method: [] for method in methods}
    for n, choices in rows.items():
        for method in methods:
            if method in graphs and n == len(y):
                continue
            found = []
            for draw, chosen in enumerate(choices):
                say(f"{n} labels, {method}, draw {draw + 1} of {len(choices)}")
                if method in vectors:
                    z, test = vectors[method]
                    at = torch.from_numpy(np.searchsorted(used, chosen))
                    found.append(linear(z[at], y[chosen], test, test_y, seed=seed + draw).accuracy.mean)
                elif method in graphs:
                    found.append(graphs[method].spread(y, test_y, torch.from_numpy(chosen)).mean)
                else:
                    body = {"body": model, "layer": layer} if method == "fine-tuned" else {}
                    found.append(_classified(data, chosen, steps, seed + draw, body))
            curves[method].append(Point.of(n, found, len(test_y)))
    z = vectors["features"][1]
    few = subset(data.test, CLUSTERED, seed=seed)
    at = torch.arange(len(test_y)) if few is data.test else few.index  # type: ignore[union-attr]
    grouped = clusters(z[at], vectors["pixels"][1][at], test_y[at], seed=seed) if cluster else None
    result = Efficiency(
        {k: tuple(v) for k, v in curves.items()},
        "labels",
        data.heading,
        type(model).__name__,
        layer,
        z.shape[1],
        len(test_y),
        steps,
        grouped,
    )
    if path is not None:
        write(result, path)
    return result


def _pixels(split: Any, data: Data) -> Tensor:
    return split.x.flatten(1).float() / (data.space.levels - 1)


def _classified(data: Data, rows: Any, steps: int, seed: int, more: Mapping[str, Any]) -> float:
    """Accuracy on test images of a classifier trained on `rows` of train, in a folder that is thrown away."""
    # Valid chooses nothing here, and a temperature changes no label: measuring it at each epoch would cost most of the time.
    few = replace(
        data, train=data.train.select(rows), valid=data.valid.select(np.arange(0)), fingerprint=f"{data.fingerprint}/{len(rows)}/{seed}"
    )
    with tempfile.TemporaryDirectory() as folder:
        model: Any = trained("classifier", few, Path(folder) / "run", steps=steps, seed=seed, classes=data.classes, **more)
    found = per_image(model, lambda x, y: model.label(x).log_prob, data.test).argmax(1)
    return float((found == labels_of(data.test)).double().mean())


def unlabelled(
    name: str,
    data: Data,
    out: str | Path,
    *,
    sizes: Sequence[int] | None = None,
    labels: int = 100,
    draws: int = DRAWS,
    layer: str | None = None,
    steps: int = 2000,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
    **arguments: Any,
) -> Efficiency:
    """Accuracy of a probe at `labels` labels over the number of *unlabelled* images that its encoder, the model `name`, learned from.

    Args:
        out: folder for the runs; what is there is not trained again.
        sizes: unlabelled images; by default 1,000, 10,000 and all. The labelled images are the same for each.
        steps: of training each encoder; arguments: of the model.

    Raises:
        InputError: sizes out of range; `out` holds runs with other arguments.
    """
    n = len(data.train)
    wanted = [k for k in (1000, 10_000) if k < n] + [n] if sizes is None else sorted(set(sizes))
    if not wanted or not 1 <= wanted[0] <= wanted[-1] <= n:
        raise InputError(f"sizes={tuple(wanted)}: {data.heading} has 1 … {n} training images.")
    test_y = labels_of(data.test, data.heading)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).numpy()
    points, dims = [], 0
    for k in wanted:
        say(f"{name} on {k} images")
        part = data if k == n else replace(data, train=data.train.select(np.sort(order[:k])), fingerprint=f"{data.fingerprint}/{k}/{seed}")
        model = trained(name, part, Path(out) / f"{name}-{k}", steps=steps, seed=seed, **arguments)
        test, found = features(model, data.test, layer), []
        dims = test.shape[1]
        for draw in range(draws):
            split = data.train.select(data.train.balanced(labels, seed=seed + draw))
            found.append(linear(features(model, split, layer), labels_of(split), test, test_y, seed=seed + draw).accuracy.mean)
        points.append(Point.of(k, found, len(test_y)))
    return Efficiency({f"{labels} labels": tuple(points)}, "images", data.heading, name, layer, dims, len(test_y), steps)


# Drawn ----------------------------------------------------------------------------------------------------------------


def figure(found: Efficiency) -> Figure:
    """Test error over labels (or unlabelled images), both logarithmic; bars are the standard deviation over draws. Labels that were spread are dashed,
    in the colour of what they were spread along."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    made = Figure(figsize=(7.4, 3.2), layout="constrained")
    axis = made.subplots()
    floor = 0.5 / found.test  # an error of none has no logarithm
    along = {name: SPREAD.get(name, re.sub("^spread of ", "features of ", name)) for name in found.curves}
    colors = dict(zip(dict.fromkeys(along.values()), cycle(html.COLORS), strict=False))
    for name, points in found.curves.items():
        color, style = colors[along[name]], "-" if along[name] == name else "--"
        xs, ys = [p.at for p in points], [max(1 - p.mean, floor) for p in points]
        low = [min(p.sd or 0.0, e - floor / 2) for p, e in zip(points, ys, strict=True)]
        high = [p.sd or 0.0 for p in points]
        axis.errorbar(
            xs, ys, yerr=[low, high], color=color, linestyle=style, label=name, marker="o", markersize=4, capsize=3, linewidth=1.4
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    ticks = sorted({p.at for points in found.curves.values() for p in points})
    axis.set_xticks(ticks, [f"{t:,}" for t in ticks])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.3g}" if v < 0.001 else f"{100 * v:g} %"))
    axis.yaxis.set_minor_formatter(FuncFormatter(lambda v, _: f"{100 * v:.2g} %" if f"{v:e}"[0] in "25" else ""))
    axis.set_xlabel(AXIS[found.over])
    axis.set_ylabel("test error")
    axis.grid(color=html.GREY, alpha=0.2, linewidth=0.6, which="both")
    made.legend(frameon=False, loc="outside upper center", ncols=2)
    return made


def rows(found: Efficiency) -> list[list[str]]:
    """A row for each size: accuracies as mean ± standard deviation over draws, in percent."""
    sizes = sorted({p.at for points in found.curves.values() for p in points})

    def cell(p: Point | None) -> str:
        return "–" if p is None else f"{100 * p.mean:.2f}" + ("" if p.sd is None else f" ± {100 * p.sd:.2f}")

    return [[f"{n:,}", *(cell({p.at: p for p in points}.get(n)) for points in found.curves.values())] for n in sizes]


def caption(found: Efficiency) -> str:
    draws = max(len(p.draws) for points in found.curves.values() for p in points)
    text = (
        f"Accuracy in percent on {found.test:,} test images of {found.data}, ± standard deviation over {draws} draws of the labelled images. "
        f"Features: {found.model}, {found.layer or 'default layer'}, {found.dims:,} numbers."
    )
    trains = [name for name in found.curves if name in TRAINED]
    text += f" Trained for {found.steps} steps: {', '.join(trains)}." if trains else ""
    spread = [name for name in found.curves if name in SPREAD]
    return text + (f" With all training images, the others without their labels: {', '.join(spread)}." if spread else "")


def write(found: Efficiency, path: Path) -> None:
    """The page, or the picture alone."""
    if path.suffix.lower() == ".png":
        with html.inked("#404448"), writing(path) as temporary:
            figure(found).savefig(temporary, format="png", dpi=150)
        return
    with html.inked():
        drawn = html.drawing(figure(found))
    body = [
        html.section("Error over " + AXIS[found.over], drawn, html.table([AXIS[found.over], *found.curves], rows(found), caption(found)))
    ]
    if found.clusters is not None:
        c = found.clusters
        head = ["clusters of", "NMI with the labels"]
        shown = [["features", f"{c.features:.3f}"], ["pixels", f"{c.pixels:.3f}"], [f"{c.components} principal components", f"{c.pca:.3f}"]]
        text = f"k-means, {c.clusters} clusters of {c.n:,} test images, without labels; 1 would be the classes themselves, 0 chance."
        body.append(html.section("Clusters", html.table(head, shown, text)))
    write_text(path, html.page("What features know of labels", f"{found.model} on {found.data}", body))
