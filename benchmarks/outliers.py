"""What outlier detection is worth: the default, the plain bits/dim, each statistic, and peers, on the same images in the same run.

    python benchmarks/outliers.py --out results/outliers.json [--pairs digits ir-solar …] [--seeds 3] [--minutes 0.4 | --epochs 20] [--images 2000]

Each pair has a model of the normal images, trained for `--minutes` (or `--epochs`, which do not depend on what else the machine does) with each
seed, or stored weights, where the pair names them. All is fixed before a test label is read: the same default for every pair, peers with the
settings below. A pair and seed that is in the file is not measured again, so the command can be stopped and given again with more. `--again` measures
ours again, with the models in `--runs` as they are; the images are the same, and the peers of the row stay.

Peers are PyOD's, with its settings where `peers` gives none; they see the same training images (5,000 at most) and pixels. PyOD is only of this
benchmark and no dependency of pofx. Where numba is not installed yet, it comes along:

    pip install pyod                                                            # into the environment, or apart from it:
    pip install --target peers --no-deps pyod numba llvmlite && export PYTHONPATH=peers

Beside the pairs it measures what no score of pixels can do: normal images mirrored, and the pair `fashion-shirt`, a class among classes that are like it.

AUROC, AUPR (outliers positive) and FPR at 95 % TPR; of several kinds of outlier the mean over kinds. False alarms: calibration images are drawn anew
30 times from normal images that training did not see; the share of the 30 in which flagged images lie within the 95 % beta-binomial band is printed.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from _record import machine, write
from numpy.typing import NDArray
from scipy.stats import betabinom
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

import pofx
from pofx.data import load_images
from pofx.tasks import _oddness
from pofx.tasks._conformal import conformal_p_values, needed, rank
from pofx.tasks._statistics import Known, chosen, measure, refer
from pofx.tasks.bulk import Images, TensorImages, everything, subset
from pofx.training.runs import read_run

ROOT = Path(__file__).resolve().parents[1]
Vectors = NDArray[np.float64]
Preparation = Callable[[Vectors], Vectors]
SPLITS, ALPHAS = 30, (0.01, 0.05)


@dataclass(frozen=True)
class Pair:
    """Normal images, a model of them, and outliers by kind. `weights`: a stored run in the place of training."""

    name: str
    data: str
    load: dict[str, Any]
    model: str
    settings: dict[str, Any]
    outliers: Callable[[pofx.data.Data], dict[str, Images]]
    weights: str | None = None


def other_classes(data: pofx.data.Data, normal: Sequence[int]) -> dict[str, Images]:
    """The test images of every class that is not normal."""
    y = data.test.y
    assert y is not None
    names = data.class_names or tuple(map(str, range(int(y.max()) + 1)))
    return {names[k]: data.test.select(np.flatnonzero(y.numpy() == k)) for k in y.unique().tolist() if k not in normal}


def in_colour(spec: str) -> Images:
    """Grey 28×28 images in the middle of black 32×32 ones, three times the same channel: no pixel is interpolated."""
    x = everything(subset(load_images(spec)[0], 2000))[0]
    return TensorImages(torch.nn.functional.pad(x, (2, 2, 2, 2)).repeat(1, 3, 1, 1))


def plain_images(data: pofx.data.Data) -> dict[str, Images]:
    g = torch.Generator().manual_seed(0)
    shape, n = data.space.shape, 1000
    flat = torch.randint(0, 256, (n, shape[0], 1, 1), generator=g, dtype=torch.uint8).expand(n, *shape).contiguous()
    noise = torch.randint(0, 256, (n, *shape), generator=g, dtype=torch.uint8)
    return {"uniform noise": TensorImages(noise), "constant": TensorImages(flat)}


VAE, SOLAR = {"network": "mlp"}, {"network": "mlp"}
PAIRS = [
    *(
        Pair(f"digits-{k}", "digits", {"drop_labels": [k]}, "made", {}, lambda d, k=k: {str(k): other_classes(d, [c for c in range(10) if c != k])[str(k)]})
        for k in range(10)
    ),
    Pair("ir-solar", "ir-solar", {"keep_labels": [0]}, "vae", SOLAR, lambda d: other_classes(d, [0])),
    Pair("fashion-mnist", "fashion-mnist", {}, "vae", {}, lambda d: {"mnist": load_images("mnist")[0]}, "fashion-mnist-vae"),
    Pair("fashion-shirt", "fashion-mnist", {"drop_labels": [6]}, "vae", VAE, lambda d: {"shirt": other_classes(d, [c for c in range(10) if c != 6])["Shirt"]}),
    *(  # looked at by outlier_variants.py only
        Pair(f"clothes-{k}", "fashion-mnist", {"drop_labels": [k]}, "vae", VAE, lambda d, k=k: other_classes(d, [c for c in range(10) if c != k]))
        for k in (1, 5, 8, 9)
    ),
    Pair("mnist", "mnist", {}, "pixelcnn-pp", {}, lambda d: {"fashion-mnist": load_images("fashion-mnist")[0]}, "mnist-pixelcnn-pp"),
    Pair(
        "cifar10",
        "cifar10",
        {},
        "pixelcnn-pp",
        {},
        lambda d: plain_images(d) | {name: in_colour(name) for name in ("mnist", "fashion-mnist")},
        "cifar10-pixelcnn-pp",
    ),
]  # fmt: skip


# Peers ------------------------------------------------------------------------------------------------------------------


class Detector(Protocol):
    """What is used of PyOD's `BaseDetector`; a larger score is odder."""

    def fit(self, X: Vectors) -> object: ...
    def decision_function(self, X: Vectors) -> Vectors: ...


def pyod(module: str, name: str, *args: Any, **settings: Any) -> Detector:
    """`pyod.models.MODULE.NAME(…)`, looked up here so that PyOD is asked for only where peers are."""
    try:
        return getattr(importlib.import_module(f"pyod.models.{module}"), name)(*args, **settings)
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"benchmarks/outliers.py takes its peers from PyOD, and {error.name!r} is not installed: pip install pyod"
        ) from error


def installed() -> str:
    try:
        return version("pyod")
    except PackageNotFoundError:
        raise SystemExit("benchmarks/outliers.py takes its peers from PyOD, which is not installed: pip install pyod") from None


def peers(train: Vectors, seed: int) -> Iterator[tuple[str, Detector, Preparation]]:
    """Name, detector that is not fitted yet, and what becomes of pixels (on [0, 1]) before. What differs from PyOD's own settings, and why:

    - kNN: the 2nd neighbour as well as PyOD's 5th, because our own statistic is the 2nd; raw, after PCA to 95 % of the variance, and to 10 components.
    - PCA: PyOD's divides by the variance of components, which is 0 where a pixel never changes: components of 95 %. Its score is no residual;
      that of 10 components is `KPCA` with a linear kernel, which is the same thing.
    - MCD, GMM: of 20 components, since covariances of raw pixels are singular; 90 % of the images are normal to MCD, the mixture has 20 Gaussians.
    - AutoEncoder: pixels are on [0, 1] already and corners are constant, so they are not standardised; 30 epochs where PyOD has 10.
    """
    leading = PCA(0.95, svd_solver="full").fit(train)
    ten = PCA(min(10, *train.shape), random_state=seed).fit(train)

    def raw(x: Vectors) -> Vectors:
        return x

    def some(x: Vectors) -> Vectors:
        return leading.transform(x)[:, :20]

    for label, prepare in (("kNN", raw), ("kNN after PCA", leading.transform), ("kNN after PCA-10", ten.transform)):
        yield label, pyod("knn", "KNN"), prepare
        yield f"{label}, 2nd", pyod("knn", "KNN", n_neighbors=2), prepare
    yield "PCA", pyod("pca", "PCA", n_components=0.95, random_state=seed), raw
    yield "PCA residual", pyod("kpca", "KPCA", n_components=10, kernel="linear", eigen_solver="arpack", random_state=seed), raw
    yield "MCD", pyod("mcd", "MCD", support_fraction=0.9, random_state=seed), some
    yield "GMM", pyod("gmm", "GMM", n_components=20, reg_covar=1e-3, random_state=seed), some
    yield "IForest", pyod("iforest", "IForest", random_state=seed), raw
    yield "ECOD", pyod("ecod", "ECOD"), raw
    yield (
        "AutoEncoder",
        pyod("auto_encoder", "AutoEncoder", preprocessing=False, epoch_num=30, random_state=seed, device="cpu", verbose=0),
        raw,
    )
    yield "DeepSVDD", pyod("deep_svdd", "DeepSVDD", train.shape[1], random_state=seed, verbose=0), raw


def judged(train: Vectors, images: dict[str, Vectors], seed: int) -> dict[str, dict[str, Any]]:
    """Quality of each peer and the seconds it took. `images`: normal ones under "", outliers under their kinds.

    All are judged in one call: ECOD counts those that it judges among its own."""
    ends = np.cumsum([len(v) for v in images.values()])[:-1]
    every, found = np.concatenate(list(images.values())), {}
    for name, detector, prepare in peers(train, seed):
        start = time.perf_counter()
        detector.fit(prepare(train))
        scores = dict(zip(images, np.split(detector.decision_function(prepare(every)), ends), strict=True))
        found[name] = mean([quality(scores[""], s) for kind, s in scores.items() if kind]) | {"seconds": time.perf_counter() - start}
    return found


# Measuring --------------------------------------------------------------------------------------------------------------


def quality(normal: Vectors, odd: Vectors) -> dict[str, float]:
    truth, score = np.r_[np.zeros(len(normal)), np.ones(len(odd))], np.r_[normal, odd]
    false, true, _ = roc_curve(truth, score)
    return {
        "auroc": float(roc_auc_score(truth, score)),
        "aupr": float(average_precision_score(truth, score)),
        "fpr95": float(false[np.searchsorted(true, 0.95)]),
    }


def mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def false_alarms(scores: torch.Tensor, calibration: int) -> list[dict[str, float]]:
    """Of normal images, over SPLITS draws of which of them calibrate."""
    rows = []
    for alpha in ALPHAS:
        if calibration < needed(alpha):
            continue
        k, rates, inside = rank(alpha, calibration), [], 0
        for split in range(SPLITS):
            order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(split))
            p = conformal_p_values(scores[order[calibration:]], scores[order[:calibration]])
            flagged, m = int((p <= alpha + 1e-12).sum()), len(p)
            low, high = betabinom.ppf([0.025, 0.975], m, k, calibration + 1 - k)
            inside += int(low <= flagged <= high)
            rates.append(flagged / m)
        rows.append(
            {
                "alpha": alpha,
                "calibration": calibration,
                "mean": float(np.mean(rates)),
                "sd": float(np.std(rates)),
                "inside_band": inside / SPLITS,
            }
        )
    return rows


def normal_images(pair: Pair, data: pofx.data.Data) -> Images:
    """Those of the test part: of the classes that training had."""
    y, kept = data.test.y, [int(k) for k in pair.load.get("keep_labels", [])]
    if y is None or not pair.load:
        return data.test
    dropped = [int(k) for k in pair.load.get("drop_labels", [])]
    return data.test.select(np.flatnonzero(np.isin(y.numpy(), kept) if kept else ~np.isin(y.numpy(), dropped)))


def folder_of(pair: Pair, seed: int, runs: Path) -> Path:
    """Of the model of a pair: stored weights, or a run."""
    return ROOT / "results" / "weights" / pair.weights if pair.weights else runs / f"{pair.name}-{seed}"


def learn(pair: Pair, data: pofx.data.Data, folder: Path, seed: int, **budget: Any) -> None:
    """Train the model of a pair into `folder`; budget and precision are those of `pofx.train`."""
    pofx.train(pofx.catalog.get(pair.model)(data.space, **pair.settings), data, out=folder, seed=seed, threads=1, **budget)


def run(pair: Pair, seed: int, options: argparse.Namespace, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """A row; `before`: that of the same pair and seed, whose model and peers stay."""
    peer_version = before["pyod"] if before else installed()
    data = pofx.load_data(pair.data, **pair.load)
    folder = folder_of(pair, seed, options.runs)
    if not pair.weights and not before:
        budget = {"epochs": options.epochs} if options.epochs else {"minutes": options.minutes}
        learn(pair, data, folder, seed, **budget, precision=options.precision)
    model = pofx.load(folder)
    normal = normal_images(pair, data)
    # Seeds take other images where there are more than are asked for
    inside = subset(normal, options.images, seed=seed)
    outside = {kind: subset(images, options.images, seed=seed) for kind, images in pair.outliers(data).items()}
    told = refer(model, data.train, Known())
    names = chosen(model, told)
    oddness = _oddness.fit(measure(model, subset(data.valid, options.images), names, told))
    start = time.perf_counter()
    own = measure(model, inside, names, told)
    base = oddness(own)
    seconds = time.perf_counter() - start
    calib = oddness(measure(model, subset(data.calib, options.images), names, told))
    tables = {kind: measure(model, images, names, told) for kind, images in outside.items()}
    odd = {kind: oddness(t) for kind, t in tables.items()}
    flipped = TensorImages(everything(inside)[0].flip(-1))
    mirrored = quality(base.numpy(), oddness(measure(model, flipped, names, told)).numpy())["auroc"]
    found: dict[str, Any] = {"default": mean([quality(base.numpy(), s.numpy()) for s in odd.values()])}
    by_kind = {kind: quality(base.numpy(), s.numpy())["auroc"] for kind, s in odd.items()}
    for name in names:
        found[name] = mean([quality(own.column(name).numpy(), t.column(name).numpy()) for t in tables.values()])
    spent = {key: before[key] if before else getattr(options, key) for key in ("minutes", "epochs")}
    if before:
        if before["normal"] != len(inside):
            raise SystemExit(
                f"{pair.name}: the peers of the row saw {before['normal']} normal images, ours {len(inside)}; give --images {before['normal']}"
            )
        found_by_peers = before["peers"]
    else:
        scale = data.space.levels - 1
        vectors = {kind: everything(images)[0].flatten(1).double().numpy() / scale for kind, images in {"": inside, **outside}.items()}
        train = everything(subset(data.train, 5000))[0].flatten(1).double().numpy() / scale
        found_by_peers = judged(train, vectors, seed)
    return {
        "pair": pair.name,
        "seed": seed,
        "model": type(model).__name__,
        "minutes": None if pair.weights or spent["epochs"] else spent["minutes"],
        "epochs": None if pair.weights else spent["epochs"],
        **({} if pair.weights else {key: read_run(folder).training.get(key) for key in ("steps", "precision")}),
        "weights": pair.weights,
        "normal": len(inside),
        "outliers": {kind: len(images) for kind, images in outside.items()},
        "found": found,
        "by_kind": by_kind,
        "mirrored": mirrored,
        "peers": found_by_peers,
        "pyod": peer_version,
        "false_alarms": false_alarms(torch.cat([calib, base]), len(calib)),
        "images_per_second": len(inside) / seconds,
        "load": os.getloadavg()[0],
    }


def left(rows: Sequence[dict[str, Any]], options: argparse.Namespace, again: bool = False) -> Iterator[tuple[int, Pair]]:
    """Seeds and pairs that were asked for and are not in the file, seed by seed; with `again` those that are."""
    done = {(row["seed"], row["pair"]) for row in rows}
    for seed, pair in itertools.product(range(options.seeds), PAIRS):
        if ((seed, pair.name) in done) == again and any(pair.name == p or pair.name.startswith(f"{p}-") for p in options.pairs):
            yield seed, pair


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pairs",
        nargs="*",
        default=["digits", "ir-solar", "fashion-mnist", "mnist", "cifar10", "fashion-shirt"],
        help="or the beginning of names",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=0.4, help="of training, of each model and seed")
    parser.add_argument("--epochs", type=int, help="in the place of minutes")
    parser.add_argument("--precision", default="auto", help="of training, as pofx train has it")
    parser.add_argument("--images", type=int, default=2000, help="of each part")
    parser.add_argument("--again", action="store_true", help="measure ours again in the rows that are there")
    parser.add_argument("--runs", type=Path, default=Path("runs/outliers"))
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "outliers.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = json.loads(options.out.read_text())["rows"] if options.out.is_file() else []
    for seed, pair in left(rows, options, options.again):
        at = next((k for k, row in enumerate(rows) if (row["pair"], row["seed"]) == (pair.name, seed)), len(rows))
        row = run(pair, seed, options, rows[at] if at < len(rows) else None)
        rows[at : at + 1] = [row]
        best = max(row["peers"], key=lambda name: row["peers"][name]["auroc"])
        print(
            f"{pair.name} seed {seed}: default {row['found']['default']['auroc']:.4f}, best peer {best} {row['peers'][best]['auroc']:.4f}",
            {name: round(v["auroc"], 3) for name, v in row["found"].items()},
            [(f["alpha"], round(f["mean"], 4), f["inside_band"]) for f in row["false_alarms"]],
            flush=True,
        )
        write(options.out, {"rows": rows} | machine(1))


if __name__ == "__main__":
    main()
