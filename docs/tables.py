"""The tables of docs/*.md (`PAGES`), made of what was measured: results/*.json, between <!-- NAME --> and <!-- /NAME -->.

    python docs/tables.py        (`make readme`; tests/test_docs.py holds the pages to it)

What was not measured has a line with the command in the place of its table; what an older file does not have is a dash.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pofx.catalog import entries
from pofx.cli.models import drawn_tree
from pofx.numbers import SIGNS, between
from pofx.workflows.reproduce import judged

ROOT = Path(__file__).resolve().parents[1]
DOCS, RESULTS, RECIPES = ROOT / "docs", ROOT / "results", ROOT / "recipes"
UNITS = {"nats": ("nats", ".2f"), "bits_per_dim": ("bits/dim", ".3f")}

Row = dict[str, Any]


def read(path: Path) -> Row:
    """The object in a file; empty where there is none."""
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def missing(command: str) -> str:
    return f"Not measured yet: `{command}`.\n"


def number(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None else f"{value:{form}}{unit}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A table whose first columns hold words and the others numbers; a | within a cell is escaped."""
    align = ["---"] * words + ["--:"] * (len(head) - words)
    cells = ([cell.replace("|", "\\|") for cell in row] for row in (head, align, *rows))
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def measured(found: Row) -> str:
    """On what, and beside how much else."""
    hardware, loads = found.get("hardware", {}), [row["load"] for row in found.get("rows", []) if row.get("load") is not None]
    threads = found.get("threads")
    parts = [found.get("precision"), None if threads is None else f"{threads} thread{'s' * (threads != 1)}", hardware.get("processor")]
    parts += [f"torch {hardware['torch']}" if "torch" in hardware else None]
    parts += [f"load average {min(loads):.1f} … {max(loads):.1f}, itself included" if loads else None]
    return ", ".join(part for part in parts if part)


class Target(NamedTuple):
    """What was asked of one number in a row.

    Attributes:
        row: how the row's name (`model`, or `what`) begins.
        key: of the number in the row.
        sign: "≤", "<" or "≥".
        n: of rows with so many images; None for all.
        name: of the number, where a table shows several.
    """

    row: str
    key: str
    sign: str
    value: float
    n: int | None = None
    name: str = ""

    def verdict(self, row: Row) -> str | None:
        """Such as "≤ 8: missed"; None where the row is of something else, or has no such number."""
        found = row.get(self.key)
        if found is None or not row.get("model", row.get("what", "")).startswith(self.row) or self.n not in (None, row.get("n")):
            return None
        met = {"≤": found <= self.value, "<": found < self.value, "≥": found >= self.value}[self.sign]
        return f"{self.name} {self.sign} {self.value:g}: {'met' if met else 'missed'}".strip()


SLOWNESS, PASSES, BARE = "sample_over_score", "full_passes_over_sample", "score_against_bare_convolutions"
# Table → what was asked before anything was measured. Recipes carry what they expect themselves.
TARGETS: dict[str, tuple[Target, ...]] = {
    "sampling": (
        Target("gated-pixelcnn", SLOWNESS, "≤", 8, n=1, name="sample ÷ score"),
        Target("gated-pixelcnn", SLOWNESS, "≤", 1.2, n=64, name="sample ÷ score"),
        Target("gated-pixelcnn", SLOWNESS, "≤", 0.8, n=256, name="sample ÷ score"),
        Target("pixelrnn, row", SLOWNESS, "≤", 3, n=64, name="sample ÷ score"),
        Target("pixelrnn, diagonal", SLOWNESS, "≤", 6, n=64, name="sample ÷ score"),
        Target("pixelcnn-pp", SLOWNESS, "≤", 2, n=64, name="sample ÷ score"),
        Target("gated-pixelcnn", PASSES, "≥", 500, n=64, name="full passes ÷ sample"),
        Target("pixelrnn", PASSES, "≥", 100, n=64, name="full passes ÷ sample"),
        Target("", BARE, "≥", 0.9, name="bare ÷ score"),
    ),
    "codecs": (
        Target("", "over", "≤", 1.01, name="file ÷ log-likelihood"),
        Target("mnist-pixelcnn", "file", "≤", 0.92, name="file"),
        *(
            target
            for name in ("fashion-mnist", "ir-solar")
            for target in (
                Target(name, "to_each", "≤", 0.75, name="÷ best of an image"),
                Target(name, "to_stack", "≤", 0.9, name="÷ best of the stack"),
            )
        ),
        Target("cifar10", "to_webp", "<", 1, name="÷ WebP"),
    ),
    "codec_speed": (
        Target("", "encode_over_score", "≤", 3, name="encode"),
        Target("", "decode_over_score", "≤", 6, name="decode"),
    ),
    "scan": (Target("", "eager_over_fused", "≥", 3),),
    "throughput": (Target("step", "ratio", "≥", 1), Target("training, our defaults", "ratio", "≥", 2)),
    "throughput_gan": (
        Target("eager", "ratio", "≥", 1),
        Target("defaults", "ratio", "≥", 1.5),
        Target("penalty of WassersteinGP", "cost", "≤", 2.2),
    ),
    "modes": (
        Target("wasserstein-gp", "near", "≥", 0.9, name="samples"),
        Target("relativistic", "near", "≥", 0.95, name="samples"),
        *(Target(game, "share_found", "≥", 1, name="share of modes") for game in ("wasserstein-gp", "relativistic")),
    ),
}


def asked(table: str, row: Row) -> str:
    """The cell "asked" of a row: every target of its numbers, met or missed; a dash where nothing was asked."""
    return "; ".join(filter(None, (target.verdict(row) for target in TARGETS[table]))) or "–"


def codec_numbers(row: Row) -> Row:
    """A row with what it is judged by: the file against the likelihood and against classical codecs."""
    best = {kind: min(row[kind].values()) for kind in ("each", "stack")}
    return row | {
        "model": row["run"],
        "over": row["file"] / row["log_likelihood"],
        "to_each": row["file"] / best["each"],
        "to_stack": row["file"] / best["stack"],
        "to_webp": row["file"] / row["each"]["WebP lossless"],
    }


def codecs(results: Path) -> str:
    """Files of `pofx compress` beside classical codecs, of `benchmarks/codecs.py`."""
    found = read(results / "codecs.json")
    if not found.get("rows"):
        return missing("python benchmarks/codecs.py --out results/codecs.json")
    head = [
        "images",
        "run",
        "log-likelihood",
        "integers",
        "file",
        "over",
        "starts with",
        "block of 1",
        "best codec of an image",
        "best of the stack",
        "model, kB",
        "pays from, images",
        "asked",
    ]
    rows = []
    for row in map(codec_numbers, found["rows"]):
        (each, one), (stack, whole) = (min(row[kind].items(), key=lambda item: item[1]) for kind in ("each", "stack"))
        rows.append(
            [
                f"{row['data']}, {row['images']:,}",
                f"`{row['run']}`",
                f"{SIGNS[row.get('kind', 'exact')]} {row['log_likelihood']:.4f}",
                *(number(row[key], ".4f") for key in ("integer_form", "file")),
                f"{row['over'] - 1:+.2%}",
                number(row.get("initial") or None, ".4f"),
                number(row["block_1"], ".3f"),
                f"{one:.3f} {each}",
                f"{whole:.3f} {stack}",
                f"{row['model_bytes'] / 1000:.0f}",
                f"{8 * row['model_bytes'] / ((min(one, whole) - row['file']) * row['dims']):,.0f}",
                asked("codecs", row),
            ]
        )
    detail = [
        f"{row['data']}: " + ", ".join(f"{name} {size:.3f}" for kind in ("each", "stack") for name, size in row[kind].items())
        for row in found["rows"]
    ]
    return markdown(head, rows, words=2) + "\n" + "\n".join(textwrap.fill(line, 150) for line in ("Bits/dim.", *detail)) + "\n"


def codec_speed(results: Path) -> str:
    """Both directions against one scoring pass, of `benchmarks/codecs.py --speed`."""
    found = read(results / "codec-speed.json")
    if not found.get("rows"):
        return missing("python benchmarks/codecs.py --speed --out results/codec-speed.json")
    head = [
        "run",
        "images",
        "score, s",
        "encode ÷ score",
        "decode ÷ score",
        "encode, images/s",
        "MB/s",
        "decode, images/s",
        "MB/s",
        "asked",
    ]
    rows = [
        [
            f"`{row['run']}`",
            f"{row['images']}",
            number(row["score_s"], ".2f"),
            number(row["encode_over_score"], ".1f"),
            number(row["decode_over_score"], ".1f"),
            number(row["encode_images_per_s"], ".0f"),
            number(row["encode_mb_per_s"], ".3f"),
            number(row["decode_images_per_s"], ".0f"),
            number(row["decode_mb_per_s"], ".3f"),
            asked("codec_speed", row),
        ]
        for row in found["rows"]
    ]
    return f"{markdown(head, rows)}\n{textwrap.fill(measured(found), 150)}.\n"


def sampling(results: Path) -> str:
    """Sampling against scoring, of `benchmarks/sampling.py`."""
    found = read(results / "sampling.json")
    if not found.get("rows"):
        return missing("python benchmarks/sampling.py --out results/sampling.json")
    head = [
        "model",
        "images",
        "score, s",
        "sample, s",
        "sample ÷ score",
        "a full pass per sub-pixel ÷ sample",
        "bare convolutions ÷ score",
        "asked",
    ]
    rows = [
        [
            row["model"],
            f"{row['n']}",
            number(row.get("score_s"), ".3g"),
            number(row.get("sample_s"), ".3g"),
            number(row.get("sample_over_score"), ".1f"),
            number(row.get("full_passes_over_sample"), ".0f"),
            number(row.get("score_against_bare_convolutions"), ".2f"),
            asked("sampling", row),
        ]
        for row in found["rows"]
    ]
    return markdown(head, rows) + f"\n{measured(found)}.\n"


def depth(results: Path) -> str:
    """A training step at equal parameters, of `benchmarks/scan.py`."""
    found = read(results / "scan.json")
    equal: list[Row] = found.get("at_equal_parameters", [])
    if not equal:
        return missing("python benchmarks/scan.py --out results/scan.json")
    base = next((row.get("step_s") for row in equal if row["model"] == "PixelCNN"), None)
    head = ["model", "parameters", "training step, s", "÷ PixelCNN", "steps in a row to score", "steps in a row to sample"]
    rows = [
        [
            row["model"],
            number(row.get("parameters"), ",d"),
            number(row.get("step_s"), ".3f"),
            number(row["step_s"] / base if base and row.get("step_s") else None, ".1f"),
            number(row.get("depth_of_scoring"), "d"),
            number(row.get("depth_of_sampling"), "d"),
        ]
        for row in equal
    ]
    note = f"{equal[0]['n']} images of 28×28 with 2 levels, forward and backward; {measured(found | {'rows': equal})}."
    return markdown(head, rows) + f"\n{note}\n"


def scan(results: Path) -> str:
    """The fused scans against the eager baseline, of `benchmarks/scan.py`."""
    found = read(results / "scan.json")
    if not found.get("rows"):
        return missing("python benchmarks/scan.py --out results/scan.json")
    head = ["model", "images", "steps in a row", "fused, s", "eager, s", "eager ÷ fused", "asked"]
    rows = [
        [
            row["model"],
            f"{row['n']}",
            number(row.get("sequential_depth"), "d"),
            number(row.get("fused_s"), ".3f"),
            number(row.get("eager_s"), ".3f"),
            number(row.get("eager_over_fused"), ".2f"),
            asked("scan", row),
        ]
        for row in found["rows"]
    ]
    return markdown(head, rows) + f"\nA training step, forward and backward; {measured(found)}.\n"


def throughput(results: Path) -> str:
    """A training step of the VAE against pythae's, of `benchmarks/throughput_vae.py`."""
    found = read(results / "throughput-vae.json")
    if not found.get("rows"):
        return missing("python benchmarks/throughput_vae.py --pythae PYTHON --out results/throughput-vae.json")
    head = ["network", "what", "images a step", "pofx, images/s", "pythae, images/s", "pofx ÷ pythae", "asked"]
    rows = [
        [
            row["network"],
            row["what"],
            f"{row['batch']}",
            number(row.get("pofx"), ",.0f"),
            number(row.get("pythae"), ",.0f"),
            number(row.get("ratio"), ".2f"),
            asked("throughput", row),
        ]
        for row in found["rows"]
    ]
    return markdown(head, rows, words=2) + f"\n{found.get('versions', '')}; {measured(found)}.\n"


def vae_defaults(results: Path) -> str:
    """What batches and optimizers bring in the same minutes, of `benchmarks/vae_defaults.py`."""
    found = read(results / "vae-defaults.json")
    if not found.get("rows"):
        return missing("python benchmarks/vae_defaults.py --out results/vae-defaults.json")
    networks = list(dict.fromkeys(row["network"] for row in found["rows"]))
    rows = [
        [
            f"{row['network']}, {row['data']}",
            f"{row['optimizer']}, lr {row['lr']:g}",
            f"{row['batch']}",
            f"{row['minutes']:g}",
            number(row["steps"], ",d"),
            "diverged" if row.get("outcome") == "diverged" else f"{row['valid_nats']:,.2f}",
        ]
        for row in sorted(found["rows"], key=lambda row: (networks.index(row["network"]), row["data"], row["valid_nats"]))
    ]
    return (
        markdown(["network", "optimizer", "images a step", "minutes", "steps", "bound on valid, nats"], rows, words=2)
        + f"\nOne seed; {measured(found)}.\n"
    )


def throughput_gan(results: Path) -> str:
    """A training step of the GAN against a plain script's, of `benchmarks/throughput_gan.py`."""
    found = read(results / "throughput-gan.json")
    if not found.get("rows"):
        return missing("python benchmarks/throughput_gan.py --out results/throughput-gan.json")
    steps = [row for row in found["rows"] if "penalty" not in row["what"]]
    costs = [row | {"cost": 1 / row["ratio"]} for row in found["rows"] if "penalty" in row["what"]]
    table = markdown(
        ["a training step", "images/s", "÷ plain", "asked"],
        [
            [
                ", ".join(filter(None, (row["what"], row.get("precision")))),
                number(row.get("images_per_second"), ",.0f"),
                number(row.get("ratio"), ".2f"),
                asked("throughput_gan", row),
            ]
            for row in steps
        ],
    )
    table += "\n" + markdown(
        ["a critic step", "with the penalty ÷ without, time", "asked"],
        [[row["what"], f"{row['cost']:.2f}", asked("throughput_gan", row)] for row in costs],
    )
    return f"{table}\n{found.get('nets', '')}; {found.get('versions', '')}; {measured(found)}.\n"


def modes(results: Path) -> str:
    """Which games find every mode, of `benchmarks/modes.py`: the worst and the best of the seeds."""
    found = read(results / "modes.json")
    if not found.get("rows"):
        return missing("python benchmarks/modes.py --out results/modes.json --picture docs/pictures/modes.png")
    rows, seen = [], sorted(dict.fromkeys((row["data"], row["loss"]) for row in found["rows"]), key=lambda pair: pair[0])
    for data, loss in seen:
        own = [row for row in found["rows"] if (row["data"], row["loss"]) == (data, loss)]
        near, hit = [row["near"] for row in own], [row["found"] for row in own]
        worst = {"model": loss, "near": min(near), "share_found": min(hit) / own[0]["modes"]}
        seeds, steps = ("–", "–") if loss == "real" else (f"{len(own)}", f"{own[0]['steps']:,}")
        found_modes = f"{between(hit, 'd')} of {own[0]['modes']}"
        rows.append([f"`{data}`", loss, seeds, steps, between(near, ".1%"), found_modes, asked("modes", worst)])
    minutes = between((row.get("minutes") for row in found["rows"]), ".1f")
    note = (
        f"Steps are the generator's, of {found['batch']} points; {found['net']['layers']} layers of {found['net']['hidden']} units in either net, z in "
        f"{found['net']['latents']} dimensions; {minutes} minutes a run on one core beside other work; {measured(found)}."
    )
    head = ["data", "loss", "seeds", "steps", "samples within 3σ of a mode", "modes found", "asked of the worst seed"]
    return markdown(head, rows, words=2) + "\n" + textwrap.fill(note, 140, break_on_hyphens=False) + "\n"


def dcgan_batch(results: Path) -> str:
    """Which batch is the plain DCGAN's best, of `benchmarks/dcgan_batch.py`."""
    found = read(results / "dcgan-batch.json")
    if not found.get("rows"):
        return missing("python benchmarks/dcgan_batch.py --runs runs/dcgan-batch --out results/dcgan-batch.json")
    batches, rows = sorted({row["batch"] for row in found["rows"]}), []
    for name in dict.fromkeys(row["recipe"] for row in found["rows"]):
        own = {row["batch"]: f"{row['frechet']:.1f} ({row['images'] / 1000:.0f}k)" for row in found["rows"] if row["recipe"] == name}
        rows.append([f"`{name}`", *(own.get(batch, "–") for batch in batches)])
    minutes = between((row["minutes"] for row in found["rows"]), ".0f")
    note = (
        f"Fréchet distance of {found['n']:,} samples to the {found['split']} part after {minutes} minutes (and how many images were seen), by images "
        f"a step; seed {found['seed']}; {measured(found)}."
    )
    return markdown(["recipe", *map(str, batches)], rows) + "\n" + textwrap.fill(note, 140, break_on_hyphens=False) + "\n"


def survival(results: Path) -> str:
    """Which game is stable, of `benchmarks/survival.py`."""
    found = read(results / "survival.json")
    if not found.get("rows"):
        return missing("python benchmarks/survival.py --out results/survival.json")
    norms, rows = list(dict.fromkeys(row["normalisation"] for row in found["rows"])), []
    for loss, lr in dict.fromkeys((row["loss"], row["lr"]) for row in found["rows"]):
        cells = []
        for norm in norms:
            own = [row for row in found["rows"] if (row["loss"], row["lr"], row["normalisation"]) == (loss, lr, norm)]
            distances = sorted(row["frechet_over_real"] for row in own if "frechet_over_real" in row)
            lived = sum(row["outcome"] == "survived" for row in own)
            refused = own[0]["outcome"] == "refused"
            cells.append("refused" if refused else f"{lived} of {len(own)}" + (f" ({distances[-1]:.0f}×)" if distances else ""))
        rows.append([loss, f"{lr:g}", *cells])
    note = (
        f"Seeds that survive, and the worst Fréchet distance over that of real images. A run survives when {found['survives']}. "
        f"{found['data']}, {found['steps_of_the_generator']:,} steps of the generator, small nets of DCGAN; {measured(found)}."
    )
    table = markdown(["loss", "learning rate", *(f"{'no' if norm == 'none' else norm} normalisation" for norm in norms)], rows, words=2)
    return table + "\n" + textwrap.fill(note, 140, break_on_hyphens=False) + "\n"


def samplers(results: Path, folder: Path = RECIPES) -> str:
    """What `pofx reproduce` measured of samplers without a likelihood: a row for each recipe, the least and the most of its seeds."""
    found: dict[tuple[str, int, float | None], list[Row]] = {}  # recipe, images a step, and minutes where they are fewer than it has
    for path in sorted(results.glob("*.json")):
        row = read(path)
        if row.get("expected", {}).get("metric") == "shares":
            budget, name = row["budget"], re.sub(r"-seed\d+$", "", row["recipe"])
            minutes = budget["given"].get("minutes") if budget["shorter"] else None
            found.setdefault((name, row["train"]["batch_size"], minutes), []).append(row)
    names = [path.stem for path in sorted(folder.glob("*.toml")) if 'metric = "shares"' in path.read_text(encoding="utf-8")]
    left = [f"`{name}`" for name in names if name not in {recipe for recipe, _, _ in found}]
    note = f"Not run, or not recorded: {', '.join(left)}." if left else ""
    if not found:
        return missing(f"pofx reproduce {names[0]}") + (f"\n{note}\n" if note else "")
    scores = ("precision", "recall", "density", "coverage")
    head = ["recipe", "seeds", "minutes", "images seen", *scores, "rarest class", "Fréchet distance (real)", "least share asked", ""]
    rows, told = [], []
    for (name, _, minutes), own in sorted(found.items(), key=lambda pair: (pair[0][0], pair[0][1], pair[0][2] is not None)):
        own.sort(key=lambda row: row["train"]["seed"])
        expected, drawn = own[0]["expected"], [row[row["expected"]["split"]]["samples"] for row in own]
        failed = [str(row["train"]["seed"]) for row in own if not row["met"]]
        verdict = "met" if not failed else "missed" if len(failed) == len(own) else f"missed by seed {', '.join(failed)}"
        short = "" if minutes is None else f"; {minutes:g} of {own[0]['budget']['asked']['minutes']:g} minutes"
        rows.append(
            [
                f"`{name}`",
                ", ".join(str(row["train"]["seed"]) for row in own),
                between((row.get("minutes") for row in own), ".1f"),
                between((row.get("images") for row in own), ",d"),
                *(between((s["shares"][score] for s in drawn), ".2f") for score in scores),
                between((s.get("least_class_share") for s in drawn), ".1%"),
                f"{between((s['frechet'] for s in drawn), '.1f')} ({between((s['frechet_of_real_images'] for s in drawn), '.1f')})",
                f"≥ {expected['at_least']:g}",
                verdict + short + changed(own[0]),
            ]
        )
        given = [s["of_the_asked_class"] for s in drawn if s.get("of_the_asked_class")]
        if given:
            shares = ", ".join(f"{g['share']:.2%} ± {g['se']:.2%} ({'met' if g['share'] >= 0.97 else 'missed'})" for g in given)
            told.append(
                f"Of the samples of `{name}`, {shares} get the label they were drawn for from that classifier, which gives "
                f"{given[0]['real']:.2%} of the real images their own (asked: ≥ 97 %)."
            )
    first = next(iter(found.values()))[0]
    first = first[first["expected"]["split"]]["samples"]
    note = (
        f"The least and the most of the seeds. Precision, recall, density and coverage are shares of what training images get; {first['n']:,} samples "
        f"against {first['n_reference']:,} images of the test part, in {first['feature_dims']} features of a small classifier of the set's own labels "
        f"(the JSON names it and its hash); uint8, not resized. {' '.join([note, *told])}"
    )
    return markdown(head, rows) + "\n" + textwrap.fill(note, 140, break_on_hyphens=False) + "\n"


def ablation(results: Path) -> str:
    """What each improvement buys at equal minutes, of `benchmarks/ablation.py`."""
    found = read(results / "ablation-pixelcnn.json")
    if not found.get("rows"):
        return missing("python benchmarks/ablation.py --minutes 3 --out results/ablation-pixelcnn.json")
    head = ["variant", "against", "parameters", "minutes", "images seen", "test, bits/dim", "worse by"]
    rows = []
    for row in found["rows"]:
        bits = row.get("test_bits_per_dim") or {}
        cost = "–" if "mean" not in bits else f"= {bits['mean']:.3f}" + ("" if bits.get("se") is None else f" ± {bits['se']:.3f}")
        worse = row.get("worse_by")
        gain = "–" if worse is None else f"{worse['mean']:+.3f} ± {worse['se']:.3f}"
        seen = number(row.get("images_seen"), ",d")
        size, minutes = number(row.get("parameters"), ",d"), number(row.get("minutes"), ".2f")
        rows.append([row["variant"], row.get("compared_with") or "–", size, minutes, seen, cost, gain])
    what = f"{found['data']}: the same {found['test_images']:,} test images, {found['minutes_each']:g} minutes asked of each, one run each"
    return markdown(head, rows, words=2) + f"\n{what}; {measured(found)}.\n"


def recipes(results: Path, family: str, folder: Path = RECIPES) -> str:
    """What `pofx reproduce` measured of one family's models, and which recipes were not run."""
    models = {name for name, entry in entries().items() if f".{family}." in entry.module}
    rated = [row for path in sorted(results.glob("*.json")) if "recipe" in (row := read(path)) and row["expected"]["metric"] in UNITS]
    found = [row for row in rated if row["model"] in models]
    rows = [_recipe(row) for row in sorted(found, key=lambda row: (row["recipe"], row.get("budget", {}).get("shorter", False)))]
    head = ["recipe", "what", "parameters", "minutes", "on", "images seen", "found on test", "expected", ""]
    asked = {path.stem: tomllib.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.toml")}
    names = sorted(name for name, recipe in asked.items() if recipe["model"] in models and recipe["expected"]["metric"] in UNITS)
    run = {row["recipe"] for row in found}
    left = [f"`{name}`" for name in names if name not in run]
    note = f"Recorded: {len(names) - len(left)} of {len(names)} recipes."
    if left:
        note = textwrap.fill(f"{note} Not run, or not recorded: {', '.join(left)}.", 140, break_on_hyphens=False)
    if not rows:
        return missing(f"pofx reproduce {names[0]}") + f"\n{note}\n"
    return markdown(head, rows, words=2) + f"\n{note}\n"


def _recipe(row: Row) -> list[str]:
    expected, hardware, threads = row["expected"], row.get("hardware") or {}, row.get("threads")
    metric, split = expected["metric"], expected.get("split", "test")
    unit, form = UNITS[metric]
    part = row.get(split) or {}
    part = judged(part, expected)
    if "k" in part:
        unit = f"{unit}, k = {part['k']:,}"
    se = (part.get("nats") or {}).get("se") if metric == "nats" else part.get("bits_per_dim_se")
    sign = SIGNS.get(part.get("kind", "exact"), "≈")
    cost = f"{sign} {row['found']:{form}}" + ("" if se is None else f" ± {se:{form}}") + f" {unit}"
    on = hardware.get("gpu") or ("–" if threads is None else f"{threads} thread{'s' * (threads != 1)}")
    verdict = "met" if row["met"] else "missed"
    if row.get("stretch_met"):
        verdict += f", and {expected['stretch']:g} too"
    budget = row.get("budget", {})
    if budget.get("shorter"):
        given, asked = (", ".join(f"{v:g} {k}" for k, v in budget[key].items()) for key in ("given", "asked"))
        verdict += f"; shorter budget: {given} in place of {asked}"
    verdict += changed(row)
    title, spent = row["title"], number(row.get("minutes"), ".1f")
    if begun := row.get("begun"):
        title, spent = f"{title}, from the weights of `{begun['recipe']}`", f"{begun['minutes']:.1f} + {spent}"
    return [
        f"`{row['recipe']}`",
        title,
        number(row.get("parameters"), ",d"),
        spent,
        on,
        number(row.get("images"), ",d"),
        cost if split == "test" else f"{cost} ({split})",
        f"≤ {expected['at_most']:g}",
        verdict,
    ]


def changed(row: Row) -> str:
    """What the recipe says otherwise today than when the row was measured: learning rate, minutes and images a step."""
    path = RECIPES / f"{row['recipe']}.toml"
    now = tomllib.loads(path.read_text(encoding="utf-8"))["train"] if path.is_file() else {}
    then = {
        "lr": row.get("settings", {}).get("lr"),
        "minutes": row.get("budget", {}).get("asked", {}).get("minutes"),
        "batch_size": row.get("train", {}).get("batch_size"),
    }
    return "".join(
        f"; made with {name} = {then[name]:g}, the recipe now has {now[name]:g}"
        for name in then
        if then[name] is not None and name in now and then[name] != now[name]
    )


def accuracies(results: Path, folder: Path = RECIPES) -> str:
    """What `pofx reproduce` measured of models that label images."""
    found = [row for path in sorted(results.glob("*.json")) if (row := read(path)).get("expected", {}).get("metric") == "accuracy"]
    names = [path.stem for path in sorted(folder.glob("*.toml")) if 'metric = "accuracy"' in path.read_text(encoding="utf-8")]
    left = [f"`{name}`" for name in names if name not in {row["recipe"] for row in found}]
    note = f"Not run, or not recorded: {', '.join(left)}.\n" if left else ""
    if not found:
        return missing(f"pofx reproduce {names[0]}") + f"\n{note}"
    head = ["recipe", "what", "parameters", "minutes", "images seen", "accuracy on test", "calibration error", "expected", ""]
    rows = []
    for row in found:
        part, budget = row[row["expected"]["split"]], row["budget"]
        short = f"; {row['minutes']:.0f} of {budget['asked']['minutes']:g} minutes" if budget["shorter"] else ""
        rows.append(
            [
                f"`{row['recipe']}`",
                row["title"],
                number(row.get("parameters"), ",d"),
                number(row.get("minutes"), ".1f"),
                number(row.get("images"), ",d"),
                f"{part['accuracy']['mean']:.2%} ± {part['accuracy']['se']:.2%}",
                f"{part['calibration']['ece']:.2%}",
                f"≥ {row['expected']['at_least']:.1%}",
                ("met" if row["met"] else "missed") + short + changed(row),
            ]
        )
    return markdown(head, rows, words=2) + (f"\n{note}" if note else "")


def share(found: Row) -> str:
    low, high = found["interval95"]
    return f"{found['share']:.2%} ({low:.2%} … {high:.2%})"


def sets_of_labels(found: Row) -> list[list[str]]:
    """Rows of `benchmarks/bayes.py` on labels, sets of labels and rejects."""
    cover, odd = found["coverage"], found["other"]
    return [
        [f"test images of {found['data']}: label right", f"{found['accuracy']['n']:,}", share(found["accuracy"]), ""],
        ["their label is in the set", f"{cover['covered']['n']:,}", share(cover["covered"]), f"promised ≥ {1 - found['alpha']:.0%}"],
        ["no label fits (false alarms)", f"{cover['rejected']['n']:,}", share(cover["rejected"]), f"promised ≤ {found['alpha']:.0%}"],
        ["one label fits", f"{cover['answered']['n']:,}", share(cover["answered"]), ""],
        ["of those, it is right", f"{cover['right']['n']:,}", share(cover["right"]), ""],
        [f"{odd['data']}: no label fits", f"{odd['rejected']['n']:,}", share(odd["rejected"]), "asked ≥ 99 %"],
    ]


def shares(found: Row, rows: Sequence[Sequence[str]]) -> str:
    table = "".join(
        f"| {' | '.join(row)} |\n" for row in (["", "images", "share (95 % interval)", ""], ["---", "--:", "--:", "---"], *rows)
    )
    return f"{table}\nalpha = {found['alpha']:g}, {sum(found['calibration']):,} calibration images; {measured(found)}.\n"


def bayes(results: Path) -> str:
    """p(x | label) as a classifier with a reject, of `benchmarks/bayes.py`."""
    found = read(results / "bayes-mnist.json")
    if not found:
        return missing("python benchmarks/bayes.py results/weights/mnist-bayes --other fashion-mnist --out results/bayes-mnist.json")
    seen = found["samples"]
    judged = [
        f"its own samples of a class, as {seen['judge']} sees them",
        f"{seen['of_the_asked_class']['n']:,}",
        share(seen["of_the_asked_class"]),
        f"asked ≥ 97 %; the judge is right on {seen['judge_accuracy']['share']:.2%} of test images",
    ]
    return shares(found, [*sets_of_labels(found), judged])


def reject(results: Path) -> str:
    """A plain classifier with a reject from p(x), of `benchmarks/bayes.py --density`."""
    found = read(results / "reject-mnist.json")
    if not found:
        return missing(
            "python benchmarks/bayes.py results/weights/mnist-classifier --density results/weights/mnist-pixelcnn-pp --other fashion-mnist "
            "--out results/reject-mnist.json"
        )
    return shares(found, sets_of_labels(found))


def completion(results: Path) -> str:
    """The lower half given the upper, of `benchmarks/completion.py`."""
    found = read(results / "completion-fashion-mnist.json")
    if not found:
        return missing("python benchmarks/completion.py --steps 1500 --out results/completion-fashion-mnist.json")
    rows = []
    for name, what in (("lower given upper", "−log p(lower half, given the upper)"), ("lower", "−log p(lower half) alone")):
        bits, nats = found[name]["bits_per_dim"], found[name]["nats"]
        rows.append([what, f"= {nats['mean']:.1f} ± {nats['se']:.1f}", f"= {bits['mean']:.3f} ± {bits['se']:.3f}"])
    told = found["upper_tells_bits_per_dim"]
    note = f"The upper half is worth {told['mean']:.3f} ± {told['se']:.3f} bits/dim, image by image. {found['data']}, "
    sizes = [found[name]["parameters"] for name in ("lower given upper", "lower")]
    trained = (
        f"the same layers for {found['steps']:,} steps of {found['settings']['batch_size']} images, one run each; with the net that reads "
    )
    trained += f"the upper half {sizes[0]:,} parameters, without {sizes[1]:,}"
    note += f"{found['lower']['n']:,} test images, {found['lower']['dims']} pixels each; {trained}; {measured(found)}, load average {found['load']:.1f}."
    return markdown(["", "nats", "bits/dim"], rows) + "\n" + textwrap.fill(note, 140, break_on_hyphens=False) + "\n"


OUTLIERS = "python benchmarks/outliers.py --out results/outliers.json"
# The beginning of pairs' names → what is shown, and the AUROC that was asked for
ASKED: dict[str, tuple[str, float | None]] = {
    "fashion-mnist": ("fashion-mnist → mnist", 0.995),
    "mnist": ("mnist → fashion-mnist", 0.999),
    "cifar10": ("cifar10 → noise, constant, mnist and fashion-mnist in colour", 0.99),
    "ir-solar": ("ir-solar: normal → 11 defects", 0.83),
    "digits": ("digits: nine classes → the tenth", 0.97),
    "fashion-shirt": ("fashion-mnist without shirts → shirts (near)", None),
    "clothes": ("fashion-mnist without trousers, sandals, bags or boots → those", None),
}


def of_pair(rows: list[Row], name: str) -> list[Row]:
    """Those of a pair, or of every class that was left out."""
    return [row for row in rows if row["pair"] == name or (name in ("digits", "clothes") and row["pair"].startswith(f"{name}-"))]


def outlier_rows(results: Path) -> dict[str, list[list[Row]]]:
    """Name of ASKED → for each seed its rows: one, or one for each class that was left out."""
    rows: list[Row] = read(results / "outliers.json").get("rows", [])
    found: dict[str, list[list[Row]]] = {}
    for name in ASKED:
        own = of_pair(rows, name)
        by_seed = [[row for row in own if row["seed"] == seed] for seed in sorted({row["seed"] for row in own})]
        found[name] = [part for part in by_seed if name != "digits" or len(part) == 10]
    return {name: seeds for name, seeds in found.items() if seeds}


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean over seeds ± their standard deviation."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {(sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5:.{digits}f}"


def over_seeds(seeds: list[list[Row]], value: Callable[[Row], float]) -> list[float]:
    return [sum(map(value, rows)) / len(rows) for rows in seeds]


def trained_for(rows: list[Row]) -> dict[str, list[float]]:
    """Minutes and epochs of those rows that had them."""
    found = {what: [row[what] for row in rows if row.get(what)] for what in ("minutes", "epochs")}
    return {what: budgets for what, budgets in found.items() if budgets}


def outlier_quality(results: Path) -> str:
    """The default against raw cost and peers, of `benchmarks/outliers.py`."""
    pairs = outlier_rows(results)
    if not pairs:
        return missing(OUTLIERS)
    rows = []
    for name, seeds in pairs.items():
        what, asked = ASKED[name]
        quality = [over_seeds(seeds, lambda row, key=key: row["found"]["default"][key]) for key in ("auroc", "aupr", "fpr95")]
        peers = {peer: over_seeds(seeds, lambda row, peer=peer: row["peers"][peer]["auroc"]) for peer in seeds[0][0]["peers"]}
        best = max(peers, key=lambda peer: sum(peers[peer]))
        raw = over_seeds(seeds, lambda row: row["found"]["bits_per_dim"]["auroc"])
        rows.append(
            [
                what,
                seeds[0][0]["model"],
                f"{len(seeds)}",
                number(asked, "g"),
                *map(spread, quality),
                spread(raw),
                f"{best} {spread(peers[best])}",
            ]
        )
    head = [
        "in → out",
        "model",
        "seeds",
        "asked",
        "AUROC of the default",
        "AUPR",
        "FPR at 95 % TPR",
        "−log p alone, AUROC",
        "best peer, AUROC",
    ]
    every = [row for seeds in pairs.values() for part in seeds for row in part]
    rates = [row["images_per_second"] for row in every]
    budgets = [f"{min(b):g} to {max(b):g} {what}" if min(b) < max(b) else f"{min(b):g} {what}" for what, b in trained_for(every).items()]
    note = f"Mean ± standard deviation over seeds; models were trained for {' or '.join(budgets)}, or are those of results/weights. "
    note += f"Statistics and score took {min(rates):.0f} to {max(rates):.0f} images/s on one thread of a busy machine; "
    note += f"{measured(read(results / 'outliers.json') | {'rows': every})}."
    return markdown(head, rows, 2) + "\n" + textwrap.fill(note, 140, break_on_hyphens=False) + "\n"


def outlier_peers(results: Path) -> str:
    """AUROC of each peer and each statistic by itself."""
    pairs = outlier_rows(results)
    if not pairs:
        return missing(OUTLIERS)
    head = ["AUROC", *(ASKED[name][0] for name in pairs)]
    found: dict[str, dict[str, str]] = {}
    for kind in ("found", "peers"):
        for pair, seeds in pairs.items():
            for name in seeds[0][0][kind]:
                cell = spread(over_seeds(seeds, lambda row, name=name, kind=kind: row[kind][name]["auroc"]))
                found.setdefault(f"`{name}`" if kind == "found" else name, {})[pair] = cell
    lines = [[label, *(cells.get(pair, "–") for pair in pairs)] for label, cells in found.items()]
    versions = sorted({row["pyod"] for seeds in pairs.values() for part in seeds for row in part})
    note = "A statistic by itself: larger is taken to be odder. Near 0 it is *inverted*. Below the statistics: peers, of PyOD "
    note += f"{' and '.join(versions)}."
    return markdown(head, lines) + "\n" + textwrap.fill(note, 140, break_on_hyphens=False) + "\n"


VARIANTS = "python benchmarks/outlier_variants.py --out results/outlier-variants.json"


def outlier_variants(results: Path) -> str:
    """Other ways to make the default, of `benchmarks/outlier_variants.py`."""
    rows: list[Row] = read(results / "outlier-variants.json").get("rows", [])
    if not rows:
        return missing(VARIANTS)
    pairs = {name: of_pair(rows, name) for name in ASKED}
    pairs = {name: own for name, own in pairs.items() if own}
    head = ["AUROC", *(ASKED[name][0] for name in pairs)]
    labels = [label for label in rows[0]["auroc"] if not label.startswith("alone: ")]
    lines = [
        [label, *(spread(over_seeds([own], lambda row, label=label: row["auroc"][label])) for own in pairs.values())] for label in labels
    ]
    alone = [{k: v for k, v in mean_of(own).items() if k.startswith("alone: ")} for own in pairs.values()]
    best = [max(values.items(), key=lambda found: found[1]) for values in alone]
    cells = [f"`{name.removeprefix('alone: ')}` {spread([value])}" for name, value in best]
    return markdown(head, [*lines, ["the best statistic by itself", *cells]])


def mean_of(rows: list[Row]) -> dict[str, float]:
    """Of what all rows have."""
    shared = [key for key in rows[0]["auroc"] if all(key in row["auroc"] for row in rows)]
    return {key: sum(row["auroc"][key] for row in rows) / len(rows) for key in shared}


def false_alarms(results: Path) -> str:
    """The share of normal images that is flagged, over 30 draws of the calibration images."""
    pairs = outlier_rows(results)
    if not pairs:
        return missing(OUTLIERS)
    rows = []
    for name, seeds in pairs.items():
        for alpha in (0.01, 0.05):
            seen = [f for part in seeds for row in part for f in row["false_alarms"] if f["alpha"] == alpha]
            if seen:
                mean, inside = (sum(f[key] for f in seen) / len(seen) for key in ("mean", "inside_band"))
                counts = sorted({f["calibration"] for f in seen})
                n = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} … {counts[-1]:,}"
                rows.append([ASKED[name][0], n, f"{alpha:g}", f"{mean:.4f}", f"{inside:.0%}"])
    head = ["normal images", "calibration images", "alpha", "flagged, mean", "draws within the 95 % binomial band"]
    return markdown(head, rows)


def limits(results: Path) -> str:
    """What it does not see."""
    pairs = outlier_rows(results)
    rows = []
    for name, seeds in pairs.items():
        if all("mirrored" in row for part in seeds for row in part):
            rows.append(
                [
                    f"{ASKED[name][0].split(' →')[0].split(':')[0]}: the same images mirrored",
                    spread(over_seeds(seeds, lambda row: row["mirrored"])),
                ]
            )
    for name in ("fashion-mnist", "mnist"):
        if name in pairs:
            raw = over_seeds(pairs[name], lambda row: row["found"]["bits_per_dim"]["auroc"])
            rows.append([f"{ASKED[name][0]}, −log p alone", spread(raw)])
    if "fashion-shirt" in pairs:
        rows.append([ASKED["fashion-shirt"][0], spread(over_seeds(pairs["fashion-shirt"], lambda row: row["found"]["default"]["auroc"]))])
    return markdown(["", "AUROC (.5 is chance)"], rows) if rows else missing(OUTLIERS)


def probe(results: Path) -> str:
    """Accuracy over the number of labels, of `benchmarks/few_labels.py probe`."""
    found = read(results / "few-labels.json")
    if not found.get("rows"):
        return missing("python benchmarks/few_labels.py probe results/weights/mnist-gan --out results/few-labels.json")
    rows, first = [], found["rows"][0]
    longest = next(iter(first["curves"].values()))
    at, draws = [p["at"] for p in longest], len(longest[0]["draws"])
    for row in found["rows"]:
        other = "" if row["data"] == first["data"] else f", on {row['data']}"
        names = {
            "features": f"features of `{row['run']}`, {row['dims']:,} numbers{other}",
            "spread": f"labels spread along the features of `{row['run']}`{other}",
            "pixels": "pixels",
            "spread-pixels": "labels spread along pixels",
            "scratch": "scratch",
        }
        rows += [[what, *accuracies_at(row["curves"][name], at, draws)] for name, what in names.items() if name in row["curves"]]
    sizes = [f"{n:,} labels" for n in at]
    nmi = "; ".join(f"`{row['run']}` {row['clusters']['features']:.3f}" for row in found["rows"])
    text = (
        f"Accuracy on {first['test']:,} test images of {first['data']}, percent, ± standard deviation over {draws} draws"
        + ("; all labels are one" if any(len(p["draws"]) == 1 for p in longest) else "")
        + (f"; scratch: the default classifier for {first['steps']} steps" if "scratch" in first["curves"] else "")
        + f". k-means of {first['clusters']['n']:,} test images, NMI with the labels: features of {nmi}; pixels "
        f"{first['clusters']['pixels']:.3f}, {first['clusters']['components']} principal components {first['clusters']['pca']:.3f}."
    )
    return markdown(["", *sizes], rows) + "\n" + text + "\n"


def accuracies_at(points: list[Row], sizes: Sequence[int], draws: int) -> list[str]:
    """A cell for each size: percent ± standard deviation over draws, and how many these were where not as many as `draws`; all labels have one."""
    found = {p["at"]: p for p in points}
    cells = []
    for n in sizes:
        p = found.get(n)
        few = p is not None and 1 < len(p["draws"]) < draws
        sd = "" if p is None or p["sd"] is None else f" ± {100 * p['sd']:.2f}"
        cells.append("–" if p is None else f"{100 * p['accuracy']:.2f}{sd}" + (f" ({len(p['draws'])} draws)" if few else ""))
    return cells


def unlabelled(results: Path) -> str:
    """A probe at few labels over the images that its encoder learned from, of `benchmarks/few_labels.py unlabelled`."""
    found = read(results / "few-labels-unlabelled.json")
    if not found.get("rows"):
        return missing("python benchmarks/few_labels.py unlabelled --out results/few-labels-unlabelled.json")
    rows = found["rows"]
    first = next(iter(rows[0]["curves"].values()))
    at = [p["at"] for p in first]
    body = [
        [f"features of `{row['model']}`, {name}", *accuracies_at(points, at, len(points[0]["draws"]))]
        for row in rows
        for name, points in row["curves"].items()
    ]
    text = (
        f"Accuracy on {rows[0]['test']:,} test images of {rows[0]['data']}, percent, ± standard deviation over {len(first[0]['draws'])} draws of the "
        f"labelled images, the same for each; each encoder was trained for {rows[0]['steps']:,} steps of 64, one run; {measured(found)}."
    )
    return markdown(["", *(f"{n:,} images" for n in at)], body) + f"\n{textwrap.fill(text, 150)}\n"


def planning(results: Path) -> str:
    """What planning in a learned simulator earns, of `benchmarks/planning.py`."""
    found = read(results / "planning.json")
    if not found.get("rows"):
        return missing("python benchmarks/planning.py --out results/planning.json")
    names = {"random": "random actions", "learned": "plans tried in the learned simulator", "true": "plans tried in the real tanks"}
    rows = [
        [names[name], f"{row['reward']['mean']:.2f} ± {row['reward']['se']:.2f}", f"{min(row['seeds']):.2f} … {max(row['seeds']):.2f}"]
        for name, row in found["rows"].items()
    ]
    s = found["settings"]
    text = (
        f"Reward a step, minus the distance of the level from its target, of {s['levels']} levels; ± standard error over {s['seeds']} seeds of "
        f"{s['steps']} steps, and the worst and the best of them. {s['plans']} plans of {s['horizon']} actions are tried at each step; the simulator was "
        f"trained once, for {found['trained']} steps. {measured(found | {'rows': []})}."
    )
    return markdown(["", "reward a step", "by seed"], rows) + f"\n{textwrap.fill(text, 150)}\n"


def few_labels(results: Path) -> str:
    """Test error of classifiers that were trained with few labels, of `benchmarks/few_labels.py runs`."""
    found = read(results / "few-labels-runs.json")
    if not found.get("rows"):
        return missing("python benchmarks/few_labels.py runs RUN --out results/few-labels-runs.json")
    rows = []
    for row in found["rows"]:
        error, training = 100 * (1 - row["accuracy"]["mean"]), row["training"]
        steps, batch = training["steps"], training["arguments"]["batch_size"]
        rows.append(
            [
                f"`{row['run']}`",
                row["data"],
                f"{error:.2f} ± {100 * row['accuracy']['se']:.2f}",
                f"{steps:,} × {batch}",
                f"{training['minutes']:.0f}",
            ]
        )
    text = f"{found['rows'][0]['n']:,} test images, one run each; minutes on one core beside other work. M1+M2 with 100 labels: 3.33 (Kingma et al. 2014)."
    return markdown(["run", "data", "test error, %", "steps × images", "minutes"], rows, words=2) + "\n" + text + "\n"


def forecasts(results: Path) -> str:
    """CRPS beside forecasts that cost nothing, of `benchmarks/forecast.py`."""
    found = read(results / "forecast.json")
    if not found.get("rows"):
        return missing("python benchmarks/forecast.py --out results/forecast.json")
    names = list(found["rows"][0]["baselines"])
    head = ["series", "known", "forecast", "season", f"`{found['model']['name']}`", *names, "inside 90 %", "inside 50 %"]
    rows = [
        [
            row["data"],
            f"{row['keep']}",
            f"{row['horizon']}",
            f"{row['season']}" if row["season"] > 1 else "–",
            *(error(value) for value in (row["crps"], *(row["baselines"][name] for name in names))),
            *(f"{row['coverage'][band]:.0%}" for band in ("0.90", "0.50")),
        ]
        for row in found["rows"]
    ]
    counts = [f"{row['n']} of {row['of']:,}" for row in found["rows"]]
    note = (
        f"CRPS, lower is better, {found['draws']} draws; {', '.join(counts)} test series, "
        "one run each; the last columns: how many of the values that came lie inside the bands; "
        f"{found['steps']} steps of {found['batch_size']} series; {measured(found)}."
    )
    return markdown(head, rows) + f"\n{textwrap.fill(note, 150)}\n"


def error(value: Row) -> str:
    """A mean and its standard error."""
    return f"{value['mean']:.3f} ± {value['se']:.3f}"


def emoji_pairs(results: Path) -> str:
    """Edits against real partners, of `benchmarks/emoji_pairs.py`."""
    found = read(results / "emoji-pairs.json")
    if not found.get("rows"):
        return missing("python benchmarks/emoji_pairs.py --out results/emoji-pairs.json")
    head = ["edit", "distance", "compared", "without", "with", "nearer by", "pairs improved"]
    units = {"rmse_levels": "pixels, levels", "feature_distance": "features"}
    words = {
        "edited_against_decoded": "edited, decoded",
        "carried_over_against_no_edit": "carried over, no edit",
        "edited_against_no_edit": "edited, no edit",
    }
    rows = [
        [
            row["edit"],
            units[unit],
            words[which],
            error(row[unit][which]["without"]),
            error(row[unit][which]["with"]),
            error(row[unit][which]["gain"]),
            f"{row[unit][which]['share_improved']['mean']:.0%} ± {row[unit][which]['share_improved']['se']:.0%}",
        ]
        for row in found["rows"]
        for unit in units
        for which in words
    ]
    counts = "; ".join(f"{row['edit']}: {row['pairs_held_out']} pairs of {row['families_held_out']} families" for row in found["rows"])
    note = f"Held out: {counts}. Means over families with their standard errors; {found['steps']} steps, {measured(found)}."
    return markdown(head, rows, words=3) + f"\n{textwrap.fill(note, 150)}\n"


def tree(results: Path) -> str:
    """The taxonomy, from the classes, as text."""
    from rich.console import Console

    with (console := Console(width=100, color_system=None)).capture() as drawn:
        console.print(drawn_tree())
    return f"```text\n{drawn.get()}```\n"


def bits_of(row: Row) -> str:
    """Its bits/dim with the sign of their kind, of a result of `evaluate` or `compare`."""
    return "none" if row["bits_per_dim"] is None else f"{SIGNS[row['kind']]} {row['bits_per_dim']:.3f}"


def families(results: Path) -> str:
    """One model of each family on the same digits, from `make demo`."""
    found = read(results / "demo.json")
    if not found:
        return missing("make figures")
    rows = []
    for name, row in found["results"].items():
        samples = row["samples"]
        shares = samples["shares"]
        rows.append(
            [
                f"`{name}`",
                bits_of(row),
                f"{samples['frechet']:.0f}",
                *(f"{shares[key]:.2f}" for key in ("precision", "recall", "density", "coverage")),
                f"{samples['sharpness']['share']:.2f}",
                f"{found['training'][name]['minutes'] * 60:.0f} s",
            ]
        )
    any_row = next(iter(found["results"].values()))
    heads = ["model", "bits/dim", "Fréchet", "precision", "recall", "density", "coverage", "sharpness", "training"]
    real = any_row["samples"]["of_real_images"]
    said = (
        f"{any_row['n']} test images, {any_row['drawn']:,} samples; features: {any_row['samples']['features']}, whose Fréchet distance of real images is "
        f"{real['frechet']:.0f}. Precision to sharpness are shares of what real images get; one run each, seed 0."
    )
    return markdown(heads, rows) + f"\n{said}\n"


def compared(results: Path) -> str:
    """The longest run of each family on the same images, from `pofx compare`, with the usual claims held against it."""
    found = read(results / "compare-fashion-mnist.json")
    if not found:
        return missing("pofx compare … --json > results/compare-fashion-mnist.json")
    rows, names = [], {row["name"]: Path(row["name"]).name for row in found["models"]}
    for row in found["models"]:
        samples, speed = row["samples"], row["speed"]
        means = row["sharpness_of_means"]
        rows.append(
            [
                f"`{names[row['name']]}`",
                bits_of(row),
                "yes" if row["posterior"] else "no",
                number(speed["samples_per_second"], ",.0f"),
                f"{samples['frechet']:.2f}",
                f"{1000 * samples['kid']:.1f}",
                *(f"{samples['shares'][key]:.2f}" for key in ("precision", "recall", "density", "coverage")),
                f"{row['sharpness']['share']:.2f}" + ("" if means is None else f" (E[x given z]: {means['share']:.2f})"),
            ]
        )
    samples, speed = found["models"][0]["samples"], found["models"][0]["speed"]
    heads = [
        "run",
        "bits/dim",
        "q(z given x)",
        "samples/s",
        "Fréchet",
        "1000 KID",
        "precision",
        "recall",
        "density",
        "coverage",
        "sharpness",
    ]
    said = (
        f"{found['n']:,} test images, {speed['n']:,} samples, drawn {speed['batch']} at once at most by {speed['threads']} thread beside other work. "
        f"Features: {samples['features']}, in which training images have a Fréchet distance of {samples['of_real_images']['frechet']:.2f} and 1000 KID of "
        f"{1000 * samples['of_real_images']['kid']:.1f}. Precision to sharpness are shares of what real images get; one run each, seed 0."
    )
    words = {True: "holds", False: "does not hold", None: "cannot be told"}
    claims = markdown(["said", "found here", ""], [[c["claim"], c["found"], words[c["holds"]]] for c in found["claims"]], words=3)
    for path, name in names.items():
        claims = claims.replace(path, name)
    return f"{markdown(heads, rows)}\n{textwrap.fill(said, 140, break_on_hyphens=False)}\n\n{claims}"


def bulk(results: Path) -> str:
    """Many small images through a small model: this process, and a Ray cluster."""
    found = read(results / "bulk.json")
    if not found:
        return missing("python benchmarks/bulk.py --out results/bulk.json")
    names = {
        "local": "this process",
        "ray": "Ray",
        "killed": "Ray, a node killed in the middle",
        "goes on": "half by this process, ended by Ray",
    }
    rows = []
    for key, name in names.items():
        row = found[key]
        later = row.get("per_core_from_then_on")
        same = "–" if key == "local" else f"{'yes' if row['same_file'] else 'NO'}, {row['units_twice']} units twice"
        nodes = str(row.get("nodes_before", row["cores"]))
        rate = "–" if key == "goes on" else f"{row['per_core']:,.0f}"  # half of the images were there already
        rows.append([name, nodes, f"{row['seconds']:.0f} s", rate, number(later, ",.0f"), f"{row['scored']:,}", same])
    heads = ["", "cores", "time", "images/s and core", "from the first part on", "scored", "same file"]
    memory = ", ".join(f"{int(n):,} images {mib:.0f} MiB" for n, mib in found["memory_mib"].items())
    said = (
        f"{found['n']:,} images ({found['image']}), one of them broken and listed. Share of Ray: {found['share']:.2f} with the start of its actors, "
        f"{found['share_from_then_on']:.2f} without (asked: ≥ 0.9). Peak memory of this process: {memory}. {measured(found)}"
    )
    return markdown(heads, rows) + f"\n{said}\n"


def counted(results: Path) -> str:
    """Arithmetic and bytes of an image."""
    found = read(results / "plan.json")
    if not found:
        return missing("python benchmarks/plan.py --out results/plan.json")
    rows = [
        [
            f"`{row['run']}`",
            f"{row['parameters']:,}",
            f"{row['flops_score'] / 1e6:,.0f}",
            f"{row['flops_train'] / 1e6:,.0f}",
            f"{row['bytes_an_image']:,}",
            f"{row['score_images_per_second']:,.0f} ({row['share_score']:.0%})",
            f"{row['train_images_per_second']:,.0f} ({row['share_train']:.0%})",
            f"{row['decode_images_per_second']:,.0f}",
        ]
        for row in found["rows"]
    ]
    heads = ["model", "parameters", "MFLOP to score", "to train", "bytes", "scored/s (share of peak)", "trained/s", "PNGs decoded/s"]
    return (
        markdown(heads, rows)
        + f"\nRates of one core in float32, whose peak is {found['peak_flops'] / 1e9:.0f} GFLOP/s. {measured(found)}\n"
    )


def plan(results: Path) -> str:
    """Hours and prices of what the table above counts."""
    found = read(results / "plan.json")
    if not found:
        return missing("python benchmarks/plan.py --out results/plan.json")
    rows = []
    for name in ("mnist-pixelcnn-pp", "cifar10-pixelcnn-pp", "fashion-mnist-vae"):
        for row in found["plans"]:
            if row["run"] == name:
                rows.append(
                    [
                        f"`{name}`",
                        f"10^{round(math.log10(row['images']))}",
                        str(row["devices"]),
                        f"{duration(row['score_hours'])}, {row['score_by']}",
                        f"{row['score_price']:,.2f}",
                        f"{duration(row['train_hours'])}, {row['train_by']}",
                        f"{row['train_price']:,.2f}",
                    ]
                )
    heads = ["model", "images", "devices", "to score, bound by", "price", "to train, bound by", "price"]
    p = found["paper"]
    said = (
        f"On paper: {p['peak'] / 1e12:.0f} TFLOP/s of which {p['share']:.0%} is reached, {p['network'] / 1e9:.0f} GB/s of network a device; "
        f"{p['read'] / 1e9:.0f} GB/s of reading and {p['cores']} cores a node of 8; {1000 * p['launch']:.0f} ms to launch a step of {p['batch']:,} "
        f"images; {p['price']:g} an hour and device. 10^6 images are trained on for 100 epochs, 10^9 for one."
    )
    return markdown(heads, rows) + f"\n{said}\n"


def duration(hours: float) -> str:
    seconds = 3600 * hours
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{60 * hours:.0f} min" if hours < 1 else f"{hours:.1f} h"


PAGES: dict[str, dict[str, Callable[[Path], str]]] = {
    "scaling": {"bulk": bulk, "counted": counted, "plan": plan},
    "course/taxonomy": {"tree": tree},
    "course/measured": {"families": families, "compared": compared},
    "autoregressive": {
        "sampling": sampling,
        "depth": depth,
        "scan": scan,
        "ablation": ablation,
        "recipes": partial(recipes, family="autoregressive"),
    },
    "adversarial": {
        "recipes": samplers,
        "batch": dcgan_batch,
        "modes": modes,
        "survival": survival,
        "throughput": throughput_gan,
    },
    "conditional": {
        "accuracies": accuracies,
        "bayes": bayes,
        "reject": reject,
        "completion": completion,
    },
    "outliers": {
        "quality": outlier_quality,
        "each": outlier_peers,
        "variants": outlier_variants,
        "alarms": false_alarms,
        "limits": limits,
    },
    "few_labels": {"probe": probe, "unlabelled": unlabelled, "runs": few_labels},
    "compress": {"codecs": codecs, "speed": codec_speed},
    "series": {"forecast": forecasts, "planning": planning},
    "codes": {"emoji": emoji_pairs},
    "variational": {
        "defaults": vae_defaults,
        "throughput": throughput,
        "recipes": partial(recipes, family="variational"),
    },
}


def render(name: str, page: str, results: Path = RESULTS) -> str:
    """The page of that name with every table made anew.

    Raises:
        ValueError: a table has no place in the page, or two.
    """
    for table, make in PAGES[name].items():
        pattern = re.compile(rf"^<!-- {table} -->\n.*?^<!-- /{table} -->$", re.S | re.M)
        block = f"<!-- {table} -->\n{make(results)}<!-- /{table} -->"
        page, count = pattern.subn(lambda _, block=block: block, page)
        if count != 1:
            raise ValueError(f"{name}.md has {count} blocks {table!r}; it must have one, between <!-- {table} --> and <!-- /{table} -->.")
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder of the pages")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    for name in PAGES:
        path = options.docs / f"{name}.md"
        path.write_text(render(name, path.read_text(encoding="utf-8"), options.results), encoding="utf-8")


if __name__ == "__main__":
    main()
