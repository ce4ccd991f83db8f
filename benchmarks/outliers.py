"""What outlier detection is worth: the default, the plain bits/dim, each statistic, and peers, on the same images in the same run.

    python benchmarks/outliers.py --out results/outliers.json [--pairs digits ir-solar …] [--seeds 3] [--minutes 0.4] [--images 2000]

Each pair has a model of the normal images, trained for `--minutes` with each seed (or stored weights, where the pair names them). All is fixed
before a test label is read: the same default for every pair, peers with the settings below. Peers see the same training images and pixels.
PyOD is not used: its kNN, PCA, MCD, GMM, IForest and AutoEncoder are scikit-learn's here, ECOD is twelve lines below; DeepSVDD was not run.
A pair and seed that is in the file is not measured again, so the command can be stopped and given again with more.

Beside the pairs it measures what no score of pixels can do: normal images mirrored, and the pair `fashion-shirt`, a class among classes that are like it.

AUROC, AUPR (outliers positive) and FPR at 95 % TPR; of several kinds of outlier the mean over kinds. False alarms: calibration images are drawn anew
30 times from normal images that training did not see; the share of the 30 in which flagged images lie within the 95 % beta-binomial band is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _record import machine, write
from numpy.typing import NDArray
from scipy.stats import betabinom
from sklearn.covariance import MinCovDet
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from sklearn.neural_network import MLPRegressor

import pofx
from pofx.data import load_images
from pofx.tasks import _oddness
from pofx.tasks._conformal import conformal_p_values, needed, rank
from pofx.tasks._statistics import Known, chosen, measure, refer
from pofx.tasks.bulk import Images, TensorImages, everything, subset

ROOT = Path(__file__).resolve().parents[1]
Vectors = NDArray[np.float64]
Detector = Callable[[Vectors], Vectors]
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
    Pair("fashion-mnist", "fashion-mnist", {}, "vae", VAE, lambda d: {"mnist": load_images("mnist")[0]}),
    Pair("fashion-shirt", "fashion-mnist", {"drop_labels": [6]}, "vae", VAE, lambda d: {"shirt": other_classes(d, [c for c in range(10) if c != 6])["Shirt"]}),
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


# Peers, as they stand in the literature ---------------------------------------------------------------------------------


def distances(train: Vectors) -> Detector:
    near = NearestNeighbors(n_neighbors=2).fit(train)
    return lambda x: near.kneighbors(x)[0][:, -1]


def ecod(train: Vectors) -> Detector:
    """Li et al. 2022, arXiv:2201.00382: tail probabilities of each coordinate, summed; the tail by its skewness, or the larger of the two."""
    ordered, n = np.sort(train, 0), len(train)
    away = train - train.mean(0)
    skew = (away**3).mean(0) / np.maximum(away.std(0), 1e-9) ** 3

    def score(x: Vectors) -> Vectors:
        left = np.stack([np.searchsorted(ordered[:, j], x[:, j], "right") for j in range(x.shape[1])], 1) / n
        right = 1 - np.stack([np.searchsorted(ordered[:, j], x[:, j], "left") for j in range(x.shape[1])], 1) / n
        low, high = -np.log(np.maximum(left, 1 / (n + 1))), -np.log(np.maximum(right, 1 / (n + 1)))
        return np.maximum(np.maximum(low.sum(1), high.sum(1)), np.where(skew < 0, low, high).sum(1))

    return score


def peers(train: Vectors, seed: int) -> Iterator[tuple[str, Detector]]:
    """Name and detector, higher is odder."""
    pca = PCA(0.95, svd_solver="full").fit(train)
    codes = pca.transform(train)
    few = PCA(min(10, *train.shape), random_state=seed).fit(train)
    yield "kNN", distances(train)
    near = distances(codes)
    yield "kNN after PCA", lambda x: near(pca.transform(x))
    nearer = distances(few.transform(train))
    yield "kNN after PCA-10", lambda x: nearer(few.transform(x))
    yield "PCA", lambda x: ((x - few.inverse_transform(few.transform(x))) ** 2).sum(1)
    some = codes[:, :20]
    mcd = MinCovDet(random_state=seed, support_fraction=0.9).fit(some)
    yield "MCD", lambda x: mcd.mahalanobis(pca.transform(x)[:, :20])
    mixture = GaussianMixture(20, reg_covar=1e-3, random_state=seed).fit(some)
    yield "GMM", lambda x: -mixture.score_samples(pca.transform(x)[:, :20])
    forest = IsolationForest(random_state=seed).fit(train)
    yield "IForest", lambda x: -forest.score_samples(x)
    yield "ECOD", ecod(train)
    net = MLPRegressor(hidden_layer_sizes=(64, 16, 64), max_iter=30, early_stopping=True, random_state=seed).fit(train, train)
    yield "AutoEncoder", lambda x: ((x - np.asarray(net.predict(x))) ** 2).sum(1)


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


def run(pair: Pair, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    data = pofx.load_data(pair.data, **pair.load)
    folder = ROOT / "results" / "weights" / pair.weights if pair.weights else options.runs / f"{pair.name}-{seed}"
    if not pair.weights:
        model = pofx.catalog.get(pair.model)(data.space, **pair.settings)
        pofx.train(model, data, out=folder, minutes=options.minutes, seed=seed, threads=1)
    model = pofx.load(folder)
    y, kept = data.test.y, [int(k) for k in pair.load.get("keep_labels", [])]
    normal = data.test
    if y is not None and pair.load:
        dropped = [int(k) for k in pair.load.get("drop_labels", [])]
        normal = data.test.select(np.flatnonzero(np.isin(y.numpy(), kept) if kept else ~np.isin(y.numpy(), dropped)))
    # Seeds take other images where there are more than are asked for
    inside = subset(normal, options.images, seed=seed)
    outside = {kind: subset(images, options.images, seed=seed) for kind, images in pair.outliers(data).items()}
    told = refer(model, data.train, Known())
    names = chosen(model, told)
    oddness = _oddness.fit(measure(model, subset(data.valid, options.images), names, told))
    start = time.perf_counter()
    own = measure(model, inside, names, told)
    seconds = time.perf_counter() - start
    calib = oddness(measure(model, subset(data.calib, options.images), names, told))
    tables = {kind: measure(model, images, names, told) for kind, images in outside.items()}
    base, odd = oddness(own), {kind: oddness(t) for kind, t in tables.items()}
    flipped = TensorImages(everything(inside)[0].flip(-1))
    mirrored = quality(base.numpy(), oddness(measure(model, flipped, names, told)).numpy())["auroc"]
    found: dict[str, Any] = {"default": mean([quality(base.numpy(), s.numpy()) for s in odd.values()])}
    by_kind = {kind: quality(base.numpy(), s.numpy())["auroc"] for kind, s in odd.items()}
    for name in names:
        found[name] = mean([quality(own.column(name).numpy(), t.column(name).numpy()) for t in tables.values()])
    scale = data.space.levels - 1
    vectors = {kind: everything(images)[0].flatten(1).double().numpy() / scale for kind, images in {"": inside, **outside}.items()}
    train = everything(subset(data.train, 5000))[0].flatten(1).double().numpy() / scale
    others = {}
    for name, detector in peers(train, seed):
        scores = {kind: detector(v) for kind, v in vectors.items()}
        others[name] = mean([quality(scores[""], s) for kind, s in scores.items() if kind])
    return {
        "pair": pair.name,
        "seed": seed,
        "model": type(model).__name__,
        "minutes": None if pair.weights else options.minutes,
        "weights": pair.weights,
        "normal": len(inside),
        "outliers": {kind: len(images) for kind, images in outside.items()},
        "found": found,
        "by_kind": by_kind,
        "mirrored": mirrored,
        "peers": others,
        "false_alarms": false_alarms(torch.cat([calib, base]), len(calib)),
        "images_per_second": len(inside) / seconds,
        "load": os.getloadavg()[0],
    }


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
    parser.add_argument("--images", type=int, default=2000, help="of each part")
    parser.add_argument("--runs", type=Path, default=Path("runs/outliers"))
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "outliers.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = json.loads(options.out.read_text())["rows"] if options.out.is_file() else []
    for seed in range(options.seeds):
        for pair in PAIRS:
            done = any(row["pair"] == pair.name and row["seed"] == seed for row in rows)
            if done or not any(pair.name == p or pair.name.startswith(f"{p}-") for p in options.pairs):
                continue
            row = run(pair, seed, options)
            rows.append(row)
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
