"""One image: which label, how sure, is it any of them, and why."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from pofx.errors import InputError
from pofx.studio.parts import at_most, choose_run, chosen, command, figure, one_of, read_upload, same, status, told
from pofx.studio.shelf import Card, Shelf, Wanted
from pofx.studio.work import Work, how_far

if TYPE_CHECKING:
    from torch import Tensor

    from pofx.model import Labeler
    from pofx.tasks.classify import Rejecter, Told

ORDER = 6
TITLE = "Classify"
ABOUT = """A label with its probability, and a set of labels that cannot be ruled out: one is an answer, several are ambiguous, none means **none of these**.
For each class the set misses the label of at most a share **α** of its images; that comes from labelled images that training did not see. Below it, why:
the nearest training images, and what the image costs under each class where the run knows p(x | y)."""

NEAREST = 10
CALIBRATING = 600  # labelled images that calibrate, and as many that give median costs: some models take a quarter of a second for one
BASE = 2000  # training images whose features are compared
HELD = 4
NO_DENSITY = "none"


def labels_by_bayes(card: Card) -> bool:
    """Whether a run is p(x | label) with a likelihood or a bound."""
    return card.given == "label" and Wanted(("ExactLikelihood", "LowerBound"), "").fits(card)


@dataclass(frozen=True)
class Seen:
    """One image that was classified: what does not change with α.

    Attributes:
        names: of the classes; kind: of p(y | x); dims: of the image.
        told: what the model says of it, one row.
        rejecter: makes p-values of that; None without calibration, and `why_not`.
        true: its label, where it is known.
    """

    names: tuple[str, ...]
    told: Told
    rejecter: Rejecter | None
    kind: str
    dims: int
    true: int | None = None
    why_not: str = ""

    @property
    def counts(self) -> list[int]:
        """Calibration images of each class."""
        import torch

        return [] if self.rejecter is None else torch.bincount(self.rejecter.y, minlength=len(self.names)).tolist()

    def p_value(self, pooled: bool) -> Tensor | None:
        return None if self.rejecter is None else replace(self.rejecter, pooled=pooled).p_values(self.told)


def verdict(seen: Seen, alpha: float, pooled: bool) -> tuple[str, Tensor | None, Tensor | None]:
    """What is said at α in plain words, p-values `(classes,)` and which labels stay, or None where there is no reject.

    Raises:
        InputError: so small an α takes more calibration images.
    """
    from pofx.tasks.classify import check_alpha, in_set, verdicts_of

    best = seen.names[int(seen.told.log_prob[0].argmax())]
    p_value = seen.p_value(pooled)
    if p_value is None or seen.rejecter is None:
        return f"<b>{escape(best)}</b>. No reject: {escape(seen.why_not)}", None, None
    check_alpha(alpha, seen.counts, 2 if seen.rejecter.oddness is not None else 1, pooled)
    sets = in_set(p_value, alpha)
    found = verdicts_of(sets)[0]
    fit = ", ".join(seen.names[k] for k in sets[0].nonzero().flatten().tolist())
    words = {
        "answer": f"Answer: <b>{escape(fit)}</b>. At α = {alpha:g} no other label fits.",
        "ambiguous": f"Ambiguous: <b>{escape(fit)}</b> cannot be told apart at α = {alpha:g}.",
        "outlier": f"<b>None of these</b>: no label fits at α = {alpha:g}. The most probable of them would be {escape(best)}.",
    }[found]
    return words, p_value[0], sets[0]


def shown(seen: Seen, alpha: float, pooled: bool) -> str:
    """The verdict, and a row for each class."""
    words, p_value, sets = verdict(seen, alpha, pooled)
    log_prob, cost = seen.told.log_prob[0], seen.told.cost
    by_class = cost is not None and cost.shape[1] == len(seen.names)
    head = [
        "class",
        "p(y | x)",
        "",
        *([] if p_value is None else ["p-value", "fits"]),
        *(["log p(x | y), nats", "bits/dim"] if by_class else []),
    ]
    rows = []
    for k in log_prob.argsort(descending=True).tolist():
        p = float(log_prob[k].exp())
        cells = [
            escape(seen.names[k]) + (" (its label)" if seen.true == k else ""),
            f"{p:.4f}",
            f'<meter min="0" max="1" value="{p:.4f}"></meter>',
        ]
        if p_value is not None and sets is not None:
            cells += [f"{float(p_value[k]):.3f}", "yes" if bool(sets[k]) else "–"]
        if by_class and cost is not None:
            nats = -float(cost[0, k])
            cells += [f"{nats:.1f}", f"{-nats / seen.dims / math.log(2):.3f}"]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    few = sum(seen.counts)
    alone = p_value is not None and cost is None
    note = "<p>A classifier alone never says “none of these”: choose a run of p(x) above.</p>" if alone else ""
    if cost is not None and not by_class:
        note = f"<p>−log p(x) of the density run: {float(cost[0, 0]):.1f} nats, {float(cost[0, 0]) / seen.dims / math.log(2):.3f} bits/dim.</p>"
    table = f"<table><thead><tr>{''.join(f'<th>{h}</th>' for h in head)}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    if p_value is not None:
        note += f"<p>p-values from {few:,} calibration images{'' if pooled else f', at least {min(seen.counts):,} of each class'}.</p>"
    kind = "" if seen.kind == "exact" else f"<p>p(y | x) is {'a' if seen.kind.startswith('l') else 'an'} {escape(seen.kind)}.</p>"
    return f'<p class="verdict">{words}</p>{note}<div class="wide">{table}</div>{kind}'


class Rejecters:
    """Calibrated once for a run and its density."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self._held: OrderedDict[tuple[Any, ...], Rejecter] = OrderedDict()
        self._features: OrderedDict[tuple[Any, ...], Any] = OrderedDict()

    def key(self, *runs: str | None) -> tuple[Any, ...]:
        files = [Path(run or "") / "model.safetensors" for run in runs]
        return tuple((str(file), file.stat().st_mtime_ns) for file in files if file.is_file())

    def get(self, run: str, labeler: Labeler, density: str | None, most: float | None = None) -> Iterator[str]:
        """Lines that say how far it is; then `of` has it."""
        from pofx.tasks.classify import check_density, rejecter_of, tell

        key = (*self.key(run, density), most)
        if key in self._held:
            return
        own = self.shelf.data(run)
        if not self.shelf.info(run).unchanged(own):
            raise InputError(f"{own.heading} is not what it was when {run} was trained: calibration images may be images of training.")
        other = None if density is None else self.shelf.model(density)
        check_density(labeler, other)
        if not len(own.calib):
            raise InputError("The run's data has no calibration images, and a reject needs them.")
        parts: list[Told] = []
        for name, part in (("calibration", own.calib), ("valid", own.valid)):
            split = at_most(part, most, default=CALIBRATING)
            if parts and parts[0].cost is None:  # the valid part says what costs are normal, and there are none
                break
            work = Work(self.shelf, lambda progress, split=split: tell(labeler, other, split, progress=progress))
            for at in work:
                yield how_far(f"calibrating: {name} image", at)
            parts.append(work.result)
        self._held[key] = rejecter_of(parts[0], parts[1] if len(parts) > 1 else None, labeler.classes)
        while len(self._held) > HELD:
            self._held.popitem(last=False)

    def of(self, run: str, density: str | None, most: float | None = None) -> Rejecter:
        return self._held[(*self.key(run, density), most)]

    def nearest(self, run: str, x: Tensor, by: str) -> Iterator[Any]:
        """Lines, and at last the HTML of the nearest training images."""

        from pofx.metrics.nearest import nearest
        from pofx.model import Features
        from pofx.tasks._samples import feature_vectors
        from pofx.tasks.bulk import as_images, subset
        from pofx.workflows._page import tiles

        train, info = self.shelf.data(run).train, self.shelf.info(run)
        if not by.startswith("pixels"):
            model = self.shelf.model(run)
            if not isinstance(model, Features) or model.given is not None:
                raise InputError(f"{type(model).__name__} has no features of an image alone: compare pixels.")
            among = subset(train, BASE)
            key = self.key(run)
            if key not in self._features:
                work = Work(self.shelf, lambda progress: feature_vectors(model, among, progress=progress))
                for at in work:
                    yield how_far("features of training image", at)
                self._features[key] = work.result
                while len(self._features) > HELD:
                    self._features.popitem(last=False)
            with self.shelf.computing():
                found = nearest(feature_vectors(model, as_images(x)), self._features[key], min(NEAREST, len(among)))
            unit, scale = "", 1.0
        else:
            among = train
            search = Work(self.shelf, lambda progress: nearest(x, _blocks(train, progress), min(NEAREST, len(train))))
            for at in search:
                yield how_far("comparing with training image", at)
            found, unit, scale = search.result, " levels", math.sqrt(x[0].numel())
        near, y = among.take(found.index[0])
        names = info.class_names
        said = [
            f"{'' if y is None else _name(names, int(y[i])) + chr(10)}{float(d) / scale:.3g}{unit}" for i, d in enumerate(found.distance[0])
        ]
        n = f"{len(among):,}" + (f" of {len(train):,}" if len(among) < len(train) else "")
        how = "root mean square of the difference of their pixels" if unit else "Euclidean distance of the run's features"
        shown = tiles(near, self.shelf.model(run).space.levels, said, want=64)
        yield f"<h3>The nearest training images</h3>{shown}<p>Among {n} training images; below each its label and the {how}.</p>"


def _blocks(split: Any, progress: Any) -> Iterator[Tensor]:
    done = 0
    for x, _ in split.batches(4096):
        yield x
        done += len(x)
        progress(done, len(split))


def _name(names: tuple[str, ...] | None, label: int) -> str:
    return str(label) if names is None or not 0 <= label < len(names) else names[label]


def build(shelf: Shelf) -> None:
    rejecters = Rejecters(shelf)
    choice = choose_run(shelf, Wanted(("Labeler",), "classify", labels_by_bayes))
    with gr.Row():
        density = gr.Dropdown(
            [NO_DENSITY],
            value=NO_DENSITY,
            label="Density: a run of p(x) on the same images",
            elem_id="density",
            allow_custom_value=True,
            min_width=260,
        )
        number = gr.Number(0, label="Test image", precision=0, minimum=0, elem_id="number", min_width=90)
        most = gr.Number(CALIBRATING, label="Calibration images at most", precision=0, minimum=1, elem_id="calibrating", min_width=120)
        by = gr.Dropdown(["pixels", "features of the run"], value="pixels", label="Nearest by", elem_id="by", min_width=150)
        go = gr.Button("Classify", variant="primary", elem_id="go", min_width=110)
    with gr.Row():
        alpha = gr.Slider(
            0.01, 0.5, 0.05, step=0.005, label="α: share of images of each class whose label the set may miss", elem_id="alpha"
        )
        pooled = gr.Checkbox(False, label="All classes together (pooled)", elem_id="pooled", min_width=160)
    progress = status()
    error = status()
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=250):
            picture = gr.HTML("", elem_classes="pixels", elem_id="picture", min_height=310)
            upload = gr.Image(type="filepath", label="Or an image of yours", height=170, sources=["upload", "clipboard"], elem_id="upload")
        answer = gr.HTML("", elem_id="answer", elem_classes="prose", min_height=480)
    near = gr.HTML("", elem_classes="pixels", elem_id="near", min_height=240)
    hand = same()
    kept = gr.State(None)

    def start(
        run: str | None, other: str | None, number: float, most: float | None, by: str, file: str | None, alpha: float, pooled: bool
    ) -> Iterator[tuple[Any, ...]]:
        from pofx.tasks.bulk import TensorImages
        from pofx.tasks.classify import as_labeler, tell

        path = chosen(run)
        skip = gr.skip()
        yield skip, skip, skip, skip, "*loading the model …*"
        with shelf.computing():
            model = shelf.model(path)
            labeler = as_labeler(model)
        x, y, caption = _image(shelf, path, model, number, file)
        names = tuple(_name(shelf.info(path).class_names, k) for k in range(labeler.classes))
        density = None if other in (None, "", NO_DENSITY) else other
        with shelf.computing():
            found = tell(labeler, None if density is None else shelf.model(density), TensorImages(x))
            kind = labeler.label(x.to(model.device)).kind
        seen = Seen(names, found, None, kind, model.space.dims, y, "calibrating …")
        drawn = figure(_picture(x, model.space.levels), caption)
        yield drawn, shown(seen, alpha, pooled), "", seen, "*looking for the nearest training images …*"
        for text in rejecters.nearest(path, x, by):
            near = text.startswith("<")
            yield skip, skip, text if near else skip, skip, "*calibrating …*" if near else f"*{text}*"
        try:
            for text in rejecters.get(path, labeler, density, most):
                yield skip, skip, skip, skip, f"*{text}*"
            seen = replace(seen, rejecter=rejecters.of(path, density, most), why_not="")
        except InputError as why:
            seen = replace(seen, why_not=str(why))
        yield skip, _safe(seen, alpha, pooled), skip, seen, ""
        shown(seen, alpha, pooled)  # an α that cannot be had is told

    inputs = [choice.run, density, number, most, by, upload, alpha, pooled]
    gr.on(
        [go.click, number.submit, upload.upload],
        told(5)(start),
        inputs,
        [picture, answer, near, kept, progress, error],
        show_progress="hidden",
        trigger_mode="always_last",
    )

    def moved(seen: Seen | None, alpha: float, pooled: bool) -> Any:
        return gr.skip() if seen is None else shown(seen, alpha, pooled)

    gr.on(
        [alpha.change, pooled.change],
        told(1)(moved),
        [kept, alpha, pooled],
        [answer, error],
        show_progress="hidden",
        trigger_mode="always_last",
    )

    def fitting(run: str | None) -> tuple[Any, ...]:
        """The runs of p(x) on the same images."""
        if not run:
            return gr.skip(), gr.skip()
        card = shelf.card(run)
        wanted = Wanted(("ExactLikelihood", "LowerBound"), "")
        own = labels_by_bayes(card) or card.model in ("bayes-classifier", "m2")
        there = (
            []
            if own
            else [c.path for c in shelf.cards() if not c.given and c.json.get("space") == card.json.get("space") and wanted.fits(c)]
        )
        info = "it has p(x | y) of its own, and needs none" if own else "" if there else "no run here is p(x) of images of this form"
        return gr.Dropdown(choices=[NO_DENSITY, *there], value=NO_DENSITY, info=info), ""

    choice.run.change(told(1)(lambda run: fitting(run)[0]), choice.run, [density, error], show_progress="hidden")

    def by_hand(run: str | None, density: str | None, number: float, most: float | None, alpha: float, pooled: bool) -> tuple[str, str]:
        from pofx.studio.pages.outliers import own_spec

        run = run or "RUN"
        more = [] if density in (None, "", NO_DENSITY) else ["--density", density]
        flags = ["--alpha", f"{alpha:g}", *more, *(["--pooled"] if pooled else [])]
        line = command("pofx", "classify", run, f"{own_spec(shelf, run)}#{int(number or 0)}", *flags, "--check", "0", "-o", "labels.csv")
        k = max(1, int(most or CALIBRATING))
        extra = (f', density=pofx.load("{density}")' if more else "") + (", pooled=True" if pooled else "")
        program = (
            f'import pofx\nfrom pofx.tasks.bulk import subset\nfrom pofx.tasks.classify import classify\n\nmodel = pofx.load("{run}")\n'
            f'data = pofx.load_data("{own_spec(shelf, run, part="")}")\ni = {int(number or 0)}\n'
            f"calib, center = subset(data.calib, {k}), subset(data.valid, {k})\n"
            f"found = classify(model, data.test.x[i : i + 1], calib=calib, center=center, alpha={alpha:g}{extra})\n"
            "print(int(found.label), float(found.probability), found.verdicts, found.p_value)"
        )
        return line, program

    fields = [choice.run, density, number, most, alpha, pooled]
    gr.on([field.change for field in fields], by_hand, fields, hand.both, show_progress="hidden")


def _safe(seen: Seen, alpha: float, pooled: bool) -> str:
    """What is shown; where α cannot be had, without a reject."""
    try:
        return shown(seen, alpha, pooled)
    except InputError as why:
        return shown(replace(seen, rejecter=None, why_not=str(why)), alpha, pooled)


def _image(shelf: Shelf, run: str, model: Any, number: float, file: str | None) -> tuple[Tensor, int | None, str]:
    """The image `(1, C, H, W)`, its label where it is known, and a caption."""
    import torch

    if file:
        return read_upload(file, model), None, f"{Path(file).name}, as the model sees it"
    test = shelf.data(run).test
    i = one_of(test, number)
    x, y = test.take(torch.tensor([i]))
    label = None if y is None or int(y[0]) < 0 else int(y[0])
    return (
        x,
        label,
        f"test image {i} of {len(test):,}" + ("" if label is None else f", of class {_name(shelf.info(run).class_names, label)}"),
    )


def _picture(x: Tensor, levels: int) -> Any:
    from PIL import Image

    from pofx import pictures

    return Image.fromarray(pictures.rgb(x, levels)[0])
