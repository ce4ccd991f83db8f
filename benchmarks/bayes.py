"""What p(x | label) is worth as a classifier that can say "none of these": accuracy by Bayes' rule, coverage, rejects, and its own samples judged.

    python benchmarks/bayes.py RUN --other fashion-mnist --out results/bayes-mnist.json [--alpha 0.01] [--judge RUN]
    python benchmarks/bayes.py RUN --density RUN --other fashion-mnist --out results/reject-mnist.json [--alpha 0.01]

RUN is p(x | label) with a likelihood, or a Bayes classifier over one; or a plain classifier, and `--density` is p(x) of the same images. The other
images are converted as its own were. Accuracy and coverage are of the whole test split; calibration images (`calib`) are of no use to training.
The share of `--other` images for which no label fits is what an outlier set of the name is worth here: no setting was chosen on it. Samples, as
many of each class, are judged by a classifier that was trained apart: the run `--judge`, or the features run of the data. A plain classifier has none.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from _record import machine, tell, write
from torch import Tensor

import pofx
from pofx.data import Data
from pofx.model import ImageModel, Labeler, Sampler, require
from pofx.tasks.classify import Share, classify, coverage
from pofx.training import read_run
from pofx.workflows.features import features_run


def judged(model: ImageModel, data: Data, x: Tensor, y: Tensor, options: argparse.Namespace) -> dict[str, Any] | None:
    """Samples of each class, by a classifier that was trained apart; None where there is no p(x | label)."""
    source = getattr(model, "part", model)  # of a BayesClassifier, its p(x | y)
    if not isinstance(source, Sampler):
        return None
    judge = features_run(data)
    labeler = require(judge.model if options.judge is None else pofx.load(options.judge), Labeler, to="judge samples")
    asked = torch.arange(labeler.classes).repeat_interleave(options.draw)
    drawn = source.sample(len(asked), given=asked, seed=0)
    with torch.inference_mode():
        seen, truth = (torch.cat([labeler.label(part).log_prob.argmax(1) for part in images.split(1000)]) for images in (drawn, x))
    right = seen == asked
    return {
        "judge": judge.name if options.judge is None else options.judge.name,
        "judge_accuracy": Share.of(int((truth == y).sum()), len(y)).to_json(),
        "of_the_asked_class": Share.of(int(right.sum()), len(right)).to_json(),
        "by_class": [float(share) for share in right.reshape(labeler.classes, -1).double().mean(1)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--other", required=True, help="images of something else, as DATA")
    parser.add_argument("--density", type=Path, help="a run of p(x) on the same images, for a plain classifier")
    parser.add_argument("--judge", type=Path, help="a run of a classifier on the same images")
    parser.add_argument("--alpha", type=float, default=0.01)
    parser.add_argument("--images", type=int, default=10_000, help="of the test split")
    parser.add_argument("--others", type=int, default=2_000, help="of the test split of --other")
    parser.add_argument("--draw", type=int, default=100, help="samples of each class")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, stored = pofx.load(options.run), read_run(options.run).json["data"]
    data, same = pofx.load_data(**stored["spec"]), {key: stored["spec"][key] for key in ("size", "levels", "gray")}
    other = pofx.load_data(options.other, **same)

    x, y = data.test.take(torch.arange(min(options.images, len(data.test))))
    odd, _ = other.test.take(torch.arange(min(options.others, len(other.test))))
    n = len(x)
    # One call for both: calibration images are looked at once, and no image knows where it comes from.
    density = None if options.density is None else pofx.load(options.density)
    told = classify(model, torch.cat([x, odd]), calib=data.calib, center=data.valid, density=density, alpha=options.alpha)
    assert y is not None and told.p_value is not None
    found = {
        "run": options.run.name,
        "density": None if options.density is None else options.density.name,
        "model": type(model).__name__,
        "data": data.heading,
        "fingerprint": data.fingerprint,
        "kind": told.kind,
        "accuracy": Share.of(int((told.label[:n] == y).sum()), n).to_json(),
        "alpha": options.alpha,
        "calibration": list(told.calibration),
        "coverage": coverage(told.p_value[:n], y, options.alpha, told.calibration).to_json(),
        "other": {"data": other.heading, "rejected": Share.of(told.verdicts[n:].count("outlier"), len(odd)).to_json()},
        "samples": judged(model, data, x, y, options),
        **machine(options.threads),
        "load": os.getloadavg()[0],
    }
    tell(found)
    write(options.out, found)


if __name__ == "__main__":
    main()
