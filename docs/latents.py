"""Make the numbers and pictures of docs/codes.md: why compress, why not sample an autoencoder, which latent carries which factor.

    python docs/latents.py [--runs runs/latents] [--threads 1]

Writes results/bottleneck-digits.json, results/autoencoder-holes.json, docs/pictures/{bottleneck,memorized,priors,maps,factors}.png and the tables of
the page. What is in --runs is not trained again; the VAEs on shapes are those of benchmarks/shapes_mig.py.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import pofx
from pofx import pictures
from pofx.data import shapes
from pofx.training.loop import hardware
from pofx.workflows.autoencoder_holes import Holes, Map, holes
from pofx.workflows.bottleneck import Bottleneck, bottleneck
from pofx.workflows.factors import Factors, study
from pofx.workflows.features import features_run

DOCS = Path(__file__).resolve().parent
PAGE, PICTURES, RESULTS = DOCS / "codes.md", DOCS / "pictures", DOCS.parent / "results"
MLP: dict[str, Any] = {"network": "mlp", "layers": 2, "lr": 2e-3}
AUTO, PCA, GREY = "#1f9e96", "#e08a1e", "#8a9097"


# Pictures -------------------------------------------------------------------------------------------------------------


def sheet(axis: Axes, x: Tensor, levels: int, columns: int, title: str = "") -> None:
    """Images as one picture in a panel, pixels as they are."""
    axis.imshow(pictures.grid(x, levels, columns, scale=4, pad=3), interpolation="nearest")
    axis.set_title(title, fontsize=9)
    axis.set_axis_off()


def save(figure: Figure, name: str) -> None:
    figure.savefig(PICTURES / f"{name}.png", dpi=110, facecolor="white", metadata={"Software": ""})


def draw_bottleneck(found: Bottleneck, levels: int) -> None:
    figure = Figure(figsize=(9.6, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    for name, curve, colour in (("autoencoder", found.autoencoder, AUTO), ("PCA", found.pca, PCA)):
        kept = [(d, e) for d, e in zip(found.latents, curve, strict=True) if e.mean > 1e-9]  # a logarithm has no 0
        left.errorbar(
            [d for d, _ in kept], [e.mean for _, e in kept], [2 * e.se for _, e in kept], color=colour, marker="o", ms=4, label=name
        )
    left.axhline(found.nothing.mean, color=GREY, linestyle=":", label="no code: the mean image")
    left.set_xscale("log", base=2)
    left.set_yscale("log")
    left.set_xticks(found.latents, [str(d) for d in found.latents])
    left.set_xlabel("numbers in the code")
    left.set_ylabel("test ‖x − x̂‖², on [0, 1], per image (± 2 se)")
    left.grid(color=GREY, alpha=0.2)
    left.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False)
    sheet(right, found.shown.flatten(0, 1), levels, found.shown.shape[1])
    right.set_title("autoencoder; rows: test images,\nthen codes of " + ", ".join(map(str, found.latents)), fontsize=9)
    save(figure, "bottleneck")


def draw_line(found: Holes, levels: int) -> None:
    line = found.line
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    axes = figure.subplots(3, 1, height_ratios=(1.1, 1.1, 2.2))
    sheet(axes[0], line.images, levels, len(line.images), "what it learned, in the order of the codes")
    sheet(axes[1], line.back, levels, len(line.back), "how they come back from one number")
    sheet(axes[2], line.walk, levels, 20, "decoded at equal steps from the first code to the last")
    save(figure, "memorized")


def draw_priors(found: Holes, levels: int) -> None:
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    for axis, prior in zip(figure.subplots(1, len(found.priors)), found.priors, strict=True):
        name = prior.name.replace(", z ~ ", "\nz ~ ").replace("training images", "training images\n")
        sheet(axis, prior.decoded[:64], levels, 8, f"{name}\nprecision in pixels {prior.pixels.precision:.2f}")
    save(figure, "priors")


def draw_map(axes: Sequence[Axes], m: Map, levels: int) -> None:
    left, right = axes
    labels = None if m.labels is None else m.labels.numpy()
    left.scatter(*m.codes.T.numpy(), c=labels, cmap="tab10", s=4, linewidths=0)
    left.scatter(*m.drawn.T.numpy(), c="black", s=5, marker="x", linewidths=0.4)
    low, high = np.array(m.low), np.array(m.high)
    room = 0.12 * (high - low)
    left.set_xlim(low[0] - room[0], high[0] + room[0])
    left.set_ylim(low[1] - room[1], high[1] + room[1])
    left.set_title(f"{m.name}: codes by label; ×: draws\n{100 * m.holes:.0f} % of the draws in holes", fontsize=9)
    left.tick_params(labelsize=7)
    side = round(len(m.decoded) ** 0.5)
    sheet(right, m.decoded, levels, side, f"{m.name}: the same plane, decoded")


def draw_maps(found: Holes, levels: int) -> None:
    figure = Figure(figsize=(9.6, 9.2), layout="constrained")
    for axes, m in zip(figure.subplots(2, 2), found.maps, strict=True):
        draw_map(axes, m, levels)
    save(figure, "maps")


def draw_factors(found: Factors) -> None:
    figure = Figure(figsize=(9.6, 8.0), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(1.25, 1))
    above, below = halves
    betas = list(dict.fromkeys(v.beta for v in found.vaes))
    grid = above.subplots(len(betas), len(found.vaes) // len(betas), squeeze=False)
    shown = None
    for axis, vae in zip(grid.flat, found.vaes, strict=True):
        shown = axis.imshow(vae.found.share.numpy(), cmap="Greens", vmin=0, vmax=0.5, aspect="auto")
        axis.set_title(f"β = {vae.beta:g}, seed {vae.seed}: MIG {vae.found.gap:.2f}", fontsize=9)
        axis.set_xticks(range(len(shapes.NAMES)), shapes.NAMES, fontsize=7)
        axis.set_yticks(range(found.latents), [f"z{j}" for j in range(found.latents)], fontsize=7)
    above.colorbar(shown, ax=grid, label="I(z; factor) / H(factor)", fraction=0.03)
    names = ("each factor walked through its values, as drawn", "the same, by the decoder that was told the factors")
    for axis, x, name in zip(below.subplots(1, 2), found.walked, names, strict=False):
        sheet(axis, x.flatten(0, 1), 256, x.shape[1], name)
    save(figure, "factors")


# Tables ---------------------------------------------------------------------------------------------------------------


def read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], note: str) -> str:
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{note}\n"


def plain(value: dict[str, float], digits: int) -> str:
    return "0" if value["mean"] < 1e-9 else f"{value['mean']:.{digits}f} ± {value['se']:.{digits}f}"


def share(p: float, n: int) -> str:
    """A share of n draws, in percent, with its standard error."""
    return f"{100 * p:.1f} ± {100 * (p * (1 - p) / n) ** 0.5:.1f} %"


def bottleneck_table() -> str:
    found = read("bottleneck-digits")
    rows = [[f"{row['latents']}", plain(row["autoencoder"], 3), plain(row["pca"], 3)] for row in found["rows"]]
    how = f"{found['steps']:,} steps of 64 images each, one run each"
    note = f"{found['data']}, {found['n']} test images, ± one standard error; with no code at all {plain(found['no code'], 3)}. {how}."
    return markdown(["numbers in the code", "autoencoder, test ‖x − x̂‖²", "PCA"], rows, note)


def holes_table() -> str:
    found = read("autoencoder-holes")
    rows = [
        [name, *(f"{q[where][key]:.2f}" for where in ("pixels", "features") for key in ("precision", "recall"))]
        for name, q in found["priors"].items()
    ]
    first = next(iter(found["priors"].values()))["pixels"]
    note = (
        f"{found['data']}; {first['n']} decoded means against {first['n_reference']} test images, k = {first['k']}; features: "
        f"{found['features']}. {found['steps']:,} steps of 64 images each, one run each."
    )
    return markdown(["decoded from", "precision, pixels", "recall, pixels", "precision, features", "recall, features"], rows, note)


def line_table() -> str:
    found = read("autoencoder-holes")
    line, maps = found["line"], found["maps"]
    rows = [
        [f"one latent, ‖x − x̂‖² of the {line['images']} images that it learned", f"{line['error']['mean']:.1e}"],
        ["the same of test images", plain(line["test"], 2)],
        ["the mean training image in the place of each test image", plain(line["test by the mean image"], 2)],
        *([f"two latents, {name}: draws in holes", share(m["in holes"], m["draws"])] for name, m in maps.items()),
    ]
    outside = next(iter(maps.values()))["outside"]
    return markdown(
        ["measured", ""],
        rows,
        f"A draw is in a hole where it is farther from every code than {100 * (1 - outside):.0f} % of the codes of test images are.",
    )


def factors_table() -> str:
    found = read("shapes-mig")
    rows = []
    for beta, mig in found["mig"].items():
        vaes = [v for v in found["vaes"] if f"{v['beta']:g}" == beta]
        elbo = [v["elbo"]["mean"] for v in vaes]
        active = sorted({v["active"] for v in vaes})
        counts = f"{active[0]} … {active[-1]}" if len(active) > 1 else f"{active[0]}"
        spread = f"{mig['mean']:.3f} ({mig['least']:.3f} … {mig['most']:.3f})"
        rows.append([f"VAE, β = {beta}, {len(vaes)} seeds", spread, counts, f"≥ {min(elbo):.1f} … {max(elbo):.1f}"])
    for told in found["told the factors"]:
        rows.append([f"the decoder alone, told the factors, {told['steps']:,} steps", "–", "–", f"≥ {told['lower_bound']['mean']:.1f}"])
    note = (
        f"{found['data']}, {found['n']:,} test images, {found['latents']} latents, VAEs after {found['steps']:,} steps of {found['batch_size']} "
        f"images; MIG of Gaussian posteriors in {found['bins']} bins; a latent is active above 0.01 nats. Bounds on log p(x) of the VAEs are at β = 1, "
        f"their least and most over seeds; that of the told decoder is log p(x | factors) less log {found['combinations']:,}."
    )
    return markdown(["model", "MIG, mean (least … most)", "active latents", "log p(x), nats"], rows, note)


TABLES = {"bottleneck": bottleneck_table, "holes": line_table, "priors": holes_table, "factors": factors_table}


def render(page: str) -> str:
    """The page with every table made anew from results/; raises ValueError where one has no place."""
    for name, make in TABLES.items():
        block = f"<!-- {name} -->\n{make()}<!-- /{name} -->"
        page, count = re.subn(rf"^<!-- {name} -->\n.*?^<!-- /{name} -->$", lambda _, block=block: block, page, flags=re.S | re.M)
        if count != 1:
            raise ValueError(f"The page has {count} blocks {name!r}; it must have one, between <!-- {name} --> and <!-- /{name} -->.")
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=DOCS.parent / "runs" / "latents")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    digits = pofx.load_data("digits")
    where = {"fingerprint": digits.fingerprint, "threads": options.threads, "hardware": hardware(torch.device("cpu"))}

    def record(name: str, found: dict[str, Any]) -> None:
        (RESULTS / f"{name}.json").write_text(json.dumps(found | where, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    curve = bottleneck(digits, options.runs / "bottleneck", arguments=MLP)
    record("bottleneck-digits", curve.to_json())
    draw_bottleneck(curve, digits.space.levels)
    found = holes(digits, options.runs / "holes", features=features_run(digits, cache=options.runs / "features"), arguments=MLP)
    record("autoencoder-holes", found.to_json())
    for draw in (draw_line, draw_priors, draw_maps):
        draw(found, digits.space.levels)
    draw_factors(study(options.runs / "shapes"))
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
