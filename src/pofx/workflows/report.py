"""What a run learned, on one page: honest numbers, samples beside their nearest training images, best and worst, the odd ones.

`report.html` is one file without scripts or links to elsewhere; it opens from a mail attachment and prints.
"""

from __future__ import annotations

import math
import os
import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pofx import catalog
from pofx.catalog import arguments_from_json, name_of
from pofx.errors import InputError
from pofx.metrics.nearest import nearest
from pofx.model import Critic, Decoder, Encoder, ExactLikelihood, ImageModel, LowerBound, Sampler, evaluating
from pofx.tasks._files import write_text
from pofx.tasks._samples import draws, feature_vectors, viewed
from pofx.tasks.bulk import Images, subset
from pofx.tasks.evaluate import Evaluation, SplitResult, evaluate, train_images
from pofx.tasks.outliers import Outliers, judge
from pofx.tasks.reconstruct import known_again
from pofx.tasks.score import costs
from pofx.views import Label
from pofx.workflows import _codes, _quality, _uses
from pofx.workflows import _page as html
from pofx.workflows._history import history
from pofx.workflows._page import number
from pofx.workflows.held_out_critic import HeldOutCritic, held_out_critic
from pofx.workflows.rate_distortion import training_path

if TYPE_CHECKING:
    from pofx.data import Data
    from pofx.workflows.features import FeaturesRun

LIMIT = 2000  # images measured per split
SHOWN = 10  # samples shown beside their nearest training images
GRID = 100  # samples in the large picture


@dataclass(frozen=True)
class Findings:
    """All that a report says about one model.

    Attributes:
        evaluation: numbers, memorization, sample quality.
        samples: uint8 `(GRID, C, H, W)`, or None.
        near_pixels, near_features: for the first SHOWN samples, the nearest training image, uint8.
        reconstructions: (test images, their reconstructions), or None.
        codes: of a model that encodes and decodes, or None.
        uses: what the model is for, tried on a few images.
        odd: the outlier verdicts of the scored test images, or None with the reason in `notes`.
        critic: what a fresh critic finds in the samples, where one was asked for.
        history: metrics.csv, column by column; metrics: its path.
    """

    name: str
    model: ImageModel
    data: Data
    meta: Mapping[str, Any]
    evaluation: Evaluation
    samples: Tensor | None
    near_pixels: Tensor | None
    near_features: Tensor | None
    reconstructions: tuple[Tensor, Tensor] | None
    codes: _codes.Codes | None
    odd: Outliers | None
    uses: _uses.Uses
    critic: HeldOutCritic | None
    features: FeaturesRun | None
    history: dict[str, list[float]]
    metrics: Path | None
    notes: tuple[str, ...] = ()

    @property
    def scored(self) -> tuple[Images, Any] | None:
        """The test images that were scored, and their scores."""
        return self.evaluation.measured.get(self.evaluation.split)


def gather(
    name: str,
    model: ImageModel,
    data: Data,
    *,
    meta: Mapping[str, Any] | None = None,
    features: FeaturesRun | None = None,
    metrics: Path | None = None,
    limit: int = LIMIT,
    draw: int | None = None,
    alpha: float = 0.05,
    seed: int = 0,
    uses: bool = False,
    held_out: bool = False,
) -> Findings:
    """Measure everything that a report shows. Needs minutes on large sets: images per split are capped at `limit` (stated).

    uses: try what the model is for on a few images, too.
    held_out: train a fresh critic against the samples (about half a minute).
    """
    notes: list[str] = []
    evaluation = evaluate(
        model,
        data,
        train_limit=limit,
        limit=limit,
        draw=draw,
        seed=seed,
        **({} if features is None else features.arguments),
    )
    samples = near_pixels = near_features = None
    if isinstance(model, Sampler):
        samples = evaluation.drawn
        if samples is None:
            samples = draws(model, GRID, viewed(model, data.test, data, seed=seed)[0], seed=seed)
        first = samples[:SHOWN]
        train = train_images(data)
        near_pixels = train[nearest(first, train).index[:, 0]]
        if features is not None:
            index = nearest(feature_vectors(features.model, first), feature_vectors(features.model, train)).index[:, 0]
            near_features = train[index]
    reconstructions = codes = None
    if isinstance(model, Encoder) and isinstance(model, Decoder):
        x, y = data.test.take(torch.arange(min(SHOWN, len(data.test))))
        with torch.inference_mode(), evaluating(model):
            batch = model.batch(x, y)
            mean = known_again(model, model.decode(model.encode(batch.x, batch.given), batch.given).mean, batch.given, "mean")
        reconstructions = (x, mean.round().clamp(0, data.space.levels - 1).to(torch.uint8).cpu().clone())
        codes = _codes.codes(model, data, limit=limit, parts=evaluation.parts, seed=seed)
    odd = None
    if isinstance(model, ExactLikelihood | LowerBound):
        images, cost = evaluation.measured[evaluation.split]
        calib = subset(data.calib, limit, seed=seed)
        reachable = max(alpha, 1 / (len(calib) + 1))
        if len(calib) < 9 or "valid" not in evaluation.measured:
            notes.append(f"Odd ones are not shown: {len(calib)} calibration images are too few to tell.")
        else:
            odd = judge(list(images.ids), cost, costs(model, calib, seed=seed), evaluation.measured["valid"][1], alpha=reachable)
    past = {} if metrics is None else history(metrics)
    return Findings(
        name,
        model,
        data,
        dict(meta or {}),
        evaluation,
        samples,
        near_pixels,
        near_features,
        reconstructions,
        codes,
        odd,
        _uses.uses(model, data, limit=limit, seed=seed) if uses else _uses.Uses(),
        held_out_critic(model, data, seed=seed) if held_out else None,
        features,
        past,
        metrics,
        tuple(notes),
    )


# The page -------------------------------------------------------------------------------------------------------------


def numbers_table(evaluations: Mapping[str, Evaluation]) -> str:
    """Cost on train, valid, test and the gap, for one model or several; labels where a model labels."""
    several = len(evaluations) > 1
    rows: list[list[str]] = []
    labels: list[list[str]] = []
    marks: list[str] = []

    def row(name: str, what: str, part: SplitResult) -> list[str]:
        n = f"{part.n:,}" + (f" of {part.of:,}" if part.n < part.of else "")
        return [*([name] if several else []), what, n, number(part.nats, 2, part.sign), number(part.bits_per_dim, 3, part.sign)]

    for name, result in evaluations.items():
        for split, part in result.splits.items():
            if part.nats is not None:
                rows.append(row(name, split, part))
                marks.append(part.kind)
            if part.estimate is not None:
                rows.append(row(name, f"{split}, importance-weighted, k = {part.estimate.k}", part.estimate))
                marks.append(part.estimate.kind)
            if part.accuracy is not None:
                labels.append([split, f"{part.n:,}", number(part.accuracy.scaled(100), 2) + " %", number(part.cross_entropy, 4)])
        if result.gap is not None:
            rows.append([*([name] if several else []), "gap test − train", "", number(result.gap[0], 2), number(result.gap[1], 3)])
    meaning = {"exact": "= exact", "lower bound": "≤ from a lower bound on log p, so the true cost is no higher", "estimate": "≈ estimated"}
    kinds = "; ".join(text for kind, text in meaning.items() if kind in marks)
    caption = f"Cost −log p(x) of the integer pixels; lower is better; ± one standard error. {kinds}."
    head = [*(["model"] if several else []), "split", "images", "nats", "bits/dim"]
    out = html.table(head, rows, caption, text=(1,) if several else ()) if rows else ""
    if labels:
        out += html.table(["split", "images", "accuracy", "−log p(y | x), nats"], labels)
    return out


def quality_table(findings: Sequence[Findings]) -> str:
    """What the samples of every sampler are worth, with the protocol below."""
    return _quality.quality_table([(f.name, f.evaluation.quality) for f in findings if f.evaluation.quality is not None])


def game_part(f: Findings) -> str:
    """Of what has a critic: how the game went, and what a fresh critic finds."""
    return _quality.game_part(f.history, f.critic) if isinstance(f.model, Critic) else ""


def samples_part(f: Findings) -> str:
    if f.samples is None:
        return ""
    want = 44 if max(f.data.space.shape[1:]) <= 32 else 64
    columns = html.fitting(f.samples, want)
    x = f.samples[: min(GRID, 64 if f.data.space.width > 40 else GRID)]
    x = x[: len(x) // columns * columns or len(x)]  # whole rows
    given = ""
    if f.model.given is not None:
        valid = len(f.data.valid) and not isinstance(f.model.given, Label)
        given = f" Each got the {f.model.given.name} of a {'valid' if valid else 'test'} image."
    caption = f"{len(x)} of {len(f.samples):,} draws, seed 0, not selected.{given}"
    return html.grid(x, f.data.space.levels, columns, want=want, caption=caption, alt=f"samples of {f.name}")


def neighbours_part(f: Findings) -> str:
    """Samples in the top row, nearest training images below."""
    if f.samples is None or f.near_pixels is None:
        return ""
    strips = [f.samples[:SHOWN], f.near_pixels] + ([] if f.near_features is None else [f.near_features])
    what = "nearest training image in pixels" + ("" if f.near_features is None else ", nearest in features")
    out = html.grid(torch.cat(strips), f.data.space.levels, SHOWN, want=56, caption=f"Rows: samples; {what}.", alt="samples and neighbours")
    flag = f.evaluation.memorization
    if flag is not None:
        out += html.flag(flag.text, alarm=flag.raised)
    return out


def reconstructions_part(f: Findings) -> str:
    if f.reconstructions is None:
        return ""
    both = torch.cat(f.reconstructions)
    return html.grid(
        both,
        f.data.space.levels,
        SHOWN,
        want=56,
        caption="Rows: test images; their reconstructions (mean of p(x | z) at the mean of q(z | x)).",
    )


def rate_part(f: Findings) -> str:
    if f.codes is None or f.metrics is None:
        return ""
    return _codes.rate_part(f.name, f.codes, training_path(f.metrics))


def extremes_part(f: Findings, count: int = 10) -> str:
    """The test images that cost least and most."""
    if f.scored is None:
        return ""
    images, cost = f.scored
    order = cost.bits_per_dim.argsort(stable=True)
    count = min(count, len(order) // 2)
    if not count:
        return ""
    out = []
    for title, index in (("Cheapest", order[:count]), ("Dearest", order.flip(0)[:count])):
        x, _ = images.take(index)
        out.append(
            f"<h3>{title}</h3>" + html.tiles(x, f.data.space.levels, [f"{cost.sign} {cost.bits_per_dim[i]:.2f}" for i in index.tolist()])
        )
    return "".join(out) + html.paragraph("Bits/dim below each image.", "caption")


def odd_part(f: Findings, count: int = 12) -> str:
    if f.odd is None or f.scored is None:
        return "".join(html.paragraph(note, "soft") for note in f.notes)
    odd, (images, _) = f.odd, f.scored
    index = odd.oddest[:count]
    x, _ = images.take(index)
    captions = [f"p = {odd.p_value[i]:.3f}\n{odd.statistics['bits_per_dim'][i]:.2f} bits" for i in index.tolist()]
    maps = _uses.maps_of(f.model, x)
    text = (
        f"{int(odd.outlier.sum())} of {len(odd.ids):,} test images cost much more or much less than the median image (p ≤ {odd.cut:.3g}). {odd.promise} "
        "pofx outliers RUN DATA -o DIR looks closer: all statistics together, and where."
    )
    if maps is None:
        return html.paragraph(text) + html.tiles(x, f.data.space.levels, captions)
    top = max(float(maps.smoothed.max()), 1e-6)
    found = [_uses.with_map(x, maps, f.data.space.levels, i, top) for i in range(len(x))]
    legend = f"Beside each where it is odd: bits a pixel above what was expected, mean over 3×3 pixels, dark 0, bright {top:.2g} and more."
    return html.paragraph(text) + html.pictured(found, captions, want=56) + html.paragraph(legend, "caption")


def curves_part(f: Findings, title: str = "") -> str:
    past = f.history
    if "step" not in past:
        return ""

    def line(name: str) -> tuple[list[float], list[float]]:
        points = [(s, v) for s, v in zip(past["step"], past[name], strict=True) if math.isfinite(s) and math.isfinite(v)]
        return [p[0] for p in points], [p[1] for p in points]

    bits = {name.replace("_bits_per_dim", "").replace("bits_per_dim", "train"): line(name) for name in past if "bits_per_dim" in name}
    losses = {name.removesuffix("_loss"): line(name) for name in past if name.endswith("loss") and not bits}
    accuracy = {name.removesuffix("_accuracy"): line(name) for name in past if name.endswith("accuracy") and "critic" not in name}
    return html.curves([("bits/dim", bits), ("loss", losses), ("accuracy", accuracy)], title)


def train_words(meta: Mapping[str, Any], path: str, data: str | None = None) -> list[str] | None:
    """`pofx train …` as it made a run, from what its model.json records; None where it was trained on an array in memory.

    Args: data: what to name where the run does not say it."""
    arguments, training = meta.get("arguments") or {}, (meta.get("training") or {}).get("arguments") or {}
    defaults = _defaults(catalog.get(str(meta.get("model"))))
    spec = (meta.get("data") or {}).get("spec") or {}
    name = spec.get("spec") or (None if "spec" in spec else data)
    if name is None:
        return None
    budget = [word for key in ("epochs", "steps", "minutes") if training.get(key) for word in _flag(key, training[key])]
    changed = {key: value for key, value in arguments.items() if defaults.get(key, ...) != value}
    usual = {
        "lr": None,
        "optimizer": None,
        "seed": 0,
        "average": 10_000,
        "precision": "auto",
        "augment": [],
        "init_from": None,
        "batch_size": None,
    }
    changed |= {key: training[key] for key, value in usual.items() if training.get(key, value) != value}
    changed |= {key: value for key, value in spec.items() if key != "spec" and value not in (None, False, 0, [])}
    flags = [word for key, value in changed.items() for word in _flag(key, value)]
    flags += _flag("given", meta["given"]) if meta.get("given") else []
    return ["pofx", "train", str(meta.get("model")), name, "--out", path, *budget, *flags]


def reproduce_part(f: Findings, path: str) -> str:
    """The commands that make this run and its report."""
    words = train_words({"model": name_of(f.model)} | dict(f.meta), path, f.data.name)
    if words is None:
        return html.paragraph("This run was trained on an array in memory; the same command cannot be typed.", "soft")
    return html.code(shlex.join(words) + f"\npofx report {shlex.quote(path)}")


def _flag(key: str, value: Any) -> list[str]:
    key = key.replace("_", "-")
    if isinstance(value, Mapping):
        from pofx.names import kebab

        out = [f"--{key}", kebab(str(value.get("type")))]
        return out + [word for field, inner in value.items() if field != "type" for word in _flag(f"{key}.{field}", inner)]
    if isinstance(value, bool):
        return [f"--{key}" if value else f"--no-{key}"]
    if isinstance(value, list | tuple):
        return [f"--{key}", ",".join(map(str, value))]
    return [f"--{key}", str(value)]


def _defaults(cls: type) -> dict[str, Any]:
    import inspect

    return {name: p.default for name, p in inspect.signature(cls).parameters.items() if p.default is not inspect.Parameter.empty}


def facts_part(f: Findings) -> str:
    """Model, data, training and machine, as one table; the whole model.json below it."""
    import json

    meta, training = f.meta, f.meta.get("training") or {}
    data = f.data
    sizes = ", ".join(f"{name} {len(getattr(data, name)):,}" for name in ("train", "valid", "calib", "test"))
    rows = [
        ["model", f"{type(f.model).__name__}: {type(f.model).paper}"],
        ["family", " › ".join(type(f.model).family)],
        ["parameters", f"{sum(p.numel() for p in f.model.parameters()):,}"],
        ["data", f"{data.heading}: {data.space}; {sizes}; fingerprint {data.fingerprint[:12]}"],
        ["transforms", ", ".join(data.transforms) or "none"],
    ]
    if data.skipped:
        rows.append(["skipped", f"{len(data.skipped)} unreadable files, e.g. {data.skipped[0]}"])
    for key in ("steps", "images", "minutes", "images_per_second", "seed", "precision", "threads"):
        value = training.get(key)
        if value is not None:
            shown = f"{value:,.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
            rows.append([key.replace("_", " "), shown])
    if training.get("hardware"):
        rows.append(
            ["trained on", ", ".join(f"{value}" if key == "processor" else f"{key} {value}" for key, value in training["hardware"].items())]
        )
    made = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    rows.append(["this page", f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {made}"])
    out = html.table(["", ""], rows, text=(0, 1))
    return out + (html.details("model.json", html.code(json.dumps(meta, indent=1, ensure_ascii=False))) if meta else "")


def other_data(meta: Mapping[str, Any], data: Data) -> str:
    """What to say where `data` is not what the run was trained on, by the fingerprint in its model.json; else ""."""
    stored = (meta.get("data") or {}).get("fingerprint")
    if not stored or stored == data.fingerprint:
        return ""
    return (
        f"{data.heading} is not what the run was trained on: images were added, removed or changed, or split in another way. "
        f"Its parts, also test, may hold images that were learned (fingerprint {data.fingerprint[:12]}, of the run {stored[:12]})."
    )


def data_part(f: Findings) -> str:
    note = other_data(f.meta, f.data)
    return html.flag(f"Other data: {note}", alarm=True) if note else ""


def troubles_part(f: Findings) -> str:
    """What was said of the training while it went on."""
    found = (f.meta.get("training") or {}).get("troubles") or {}
    return "".join(html.flag(f"Trouble while it trained: {trouble}", alarm=True) for trouble in found.values())


def notes_part(f: Findings) -> str:
    return "".join(html.paragraph(note, "soft") for note in f.evaluation.notes)


def sections(f: Findings, path: str) -> list[str]:
    """All of one model's report."""
    numbers = numbers_table({f.name: f.evaluation})
    quality = f.evaluation.quality
    classes = "" if quality is None or quality.coverage is None else _quality.classes_table(quality.coverage, f.data.class_names)
    return [
        data_part(f),
        troubles_part(f),
        html.section("Numbers", numbers, notes_part(f)),
        html.section("The bound in its parts", _codes.parts_part(f.evaluation), _codes.use_part(f.evaluation), rate_part(f)),
        html.section("Samples", samples_part(f)),
        html.section("How they are drawn", _uses.drawn_part(f.uses)),
        html.section("Are they copies?", neighbours_part(f)),
        html.section("How good are the samples?", quality_table([f]), classes),
        html.section("The game", game_part(f)),
        html.section("Reconstructions", reconstructions_part(f)),
        html.section("The latent space", "" if f.codes is None else _codes.space_part(f.codes, f.data.space.levels)),
        html.section("Holes filled", _uses.completed_part(f.uses)),
        html.section("Labels", _uses.labels_part(f.uses, f.data.class_names)),
        html.section("Cheapest and dearest test images", extremes_part(f)),
        html.section("The odd ones", odd_part(f)),
        html.section("As a file", _uses.packed_part(f.uses)),
        html.section("Training", curves_part(f)),
        html.section("How to make this again", reproduce_part(f, path)),
        html.section("Facts", facts_part(f)),
    ]


def lead(f: Findings) -> str:
    what = "p(x)" if f.model.given is None else f"p(x | {f.model.given!r})"
    transforms = f", transforms: {', '.join(f.data.transforms)}" if f.data.transforms else ""
    return f"{type(f.model).__name__}, {what} of {f.data.heading} ({f.data.space}{transforms})"


def render(f: Findings, path: str) -> str:
    """The page of one run, as HTML."""
    return html.page(f"{f.name}: what it learned", lead(f), sections(f, path))


def report(
    run: str | Path,
    out: str | Path | None = None,
    *,
    data: Data | None = None,
    features: bool = True,
    limit: int = LIMIT,
    draw: int | None = None,
    alpha: float = 0.05,
    device: str = "cpu",
    say: Callable[[str], None] | None = None,
) -> Path:
    """Write the report of a run, one self-contained HTML file; returns its path.

    Args:
        run: a run folder or a Hub id.
        out: a `.html` file; by default `report.html` in the run folder, for a Hub id in the current one.
        data: the data it was trained on; loaded again from what model.json says by default.
        features: measure samples in the features of a small run (trained and cached on first use), and those of a GAN by a held-out critic.
        limit: images measured per split.
        draw: samples drawn; by default as many as there are test images, 1,000 … 2,000.
        alpha: share of normal images that may be flagged as odd.
        say: called with a line at each stage.

    Raises:
        InputError: no run; its data is not there any more; another file ending.
    """
    from pofx.data import load_data
    from pofx.tasks._files import check_out
    from pofx.training import load_model, read_run

    info = read_run(run)
    home = Path(run) if Path(run).is_dir() else Path()  # a run of the Hub has no folder of ours
    target = check_out(home / "report.html" if out is None else out, (".html",))
    tell = say or (lambda line: None)
    if data is None:
        tell("reading the data")
        if not info.data.get("spec"):
            raise InputError("This run does not say what it was trained on; name the images as DATA.")
        data = load_data(**info.data["spec"])
    data = data.told(arguments_from_json(info.given))
    if note := other_data(info.json, data):
        tell(note)
    model = load_model(run, device)
    found = None
    if features and isinstance(model, Sampler):
        from pofx.workflows.features import features_run

        found = features_run(data, say=say)
    tell("measuring and drawing")
    f = gather(
        Path(run).name,
        model,
        data,
        meta=info.json,
        features=found,
        metrics=info.path / "metrics.csv",
        limit=limit,
        draw=draw,
        alpha=alpha,
        uses=True,
        held_out=features
        and isinstance(model, Critic)
        and isinstance(model, Sampler)
        and all(len(part) > 1 for part in data.parts.values()),
    )
    write_text(target, render(f, str(run)))
    return target
