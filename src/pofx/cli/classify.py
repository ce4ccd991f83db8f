"""`pofx classify RUN DATA -o FILE`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from pofx.cli.common import Answer, Common, DataFlags, Flag, load_images, load_model, run_info, table
from pofx.errors import InputError


def classify(
    run: str,
    data: str,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["-o", "--out"])] = None,
    alpha: float = 0.05,
    density: str | None = None,
    pooled: Flag = False,
    no_reject: Flag = False,
    check: int = 1000,
    samples: int = 16,
    seed: int = 0,
    data_flags: DataFlags = DataFlags(),
    common: Common = Common(),
) -> Answer:
    """Label images, or say that no label fits.

    RUN is a classifier, or p(x | label) of any family with a likelihood or a bound. A set of labels is given to each image: one is an
    answer, several are ambiguous, none is an outlier. For each class, the set misses the label of at most a share ALPHA of its images.

    Args:
        run: a run folder or a Hub id.
        data: name[:part][:transform], a folder, .npz, .npy, IDX or Parquet.
        out: .csv, .parquet or .jsonl: id, label, probability, p_value, verdict, labels (those that fit), kind.
        alpha: share of images of each class whose label the set may miss.
        density: a run of p(x) on the same images; without it a classifier takes anything for one of its classes.
        pooled: calibrate all classes together, where there are few images of each; the guarantee is for all together.
        no_reject: only labels and probabilities. A reject needs labelled images that training did not see.
        check: test images of the run's own data on which coverage is checked, where DATA is not all of them; 0 for none.
        samples: draws per image and class, for a model that gives a bound.
        seed: of those draws.
    """
    if check < 0:
        raise InputError(f"--check {check}: a number of images, e.g. --check 1000, or 0 for none.")
    from pofx.tasks.bulk import subset
    from pofx.tasks.classify import as_labeler
    from pofx.tasks.classify import classify as task

    model = as_labeler(load_model(run, common), samples=samples)
    info = run_info(run)
    images = load_images(data, model.space, data_flags, common, info)
    split, more = images.split, {}
    if density is not None:
        more["density"] = load_model(density, common)
    if not no_reject:
        own = info.load_data(common.note)
        more |= {"calib": own.calib, "center": own.valid}
        if not info.is_own_test(data):  # other images were not held out, and labels of other data may mean other things
            split = replace(split, y=None)
            if check and len(own.test):
                more["held_out"] = subset(own.test, check, seed=seed)
    with common.progress("classifying") as progress:
        result = task(
            model,
            split,
            alpha=alpha,
            pooled=pooled,
            names=info.class_names,
            out=out,
            samples=samples,
            seed=seed,
            progress=progress,
            **more,
        )
    return Answer({"run": run, "data": images.heading} | result.to_json(), _text(result, images.heading, info.class_names, pooled))


def _text(result: Any, heading: str, names: tuple[str, ...] | None, pooled: bool) -> list[Any]:
    n, verdicts = len(result.ids), result.verdicts
    sign = {"exact": "=", "lower bound": "≥", "estimate": "≈"}[result.kind]
    lines: list[Any] = [
        f"{heading}: {n} image{'s' * (n != 1)}, p(y | x) {sign} {float(result.probability.mean()):.4f} on average ({result.kind})"
    ]
    if result.accuracy is not None:
        lines.append(f"most probable label right: {_share(result.accuracy)}")
    if result.p_value is not None:
        shown = table("verdict", "images", "share", "", right=("images", "share"))
        for name, what in (("answer", "one label fits"), ("ambiguous", "several fit"), ("outlier", "none fits")):
            shown.add_row(name, str(verdicts.count(name)), f"{verdicts.count(name) / n:.2%}", what)
        lines += ["", shown, ""]
        by = "of all classes together" if pooled else f"of each class (the fewest: {min(result.calibration)})"
        lines.append(f"p-values from {' and '.join(result.scores)}, {sum(result.calibration)} calibration images, {by}")
        if "density" not in result.scores:
            lines.append("A classifier alone never says “outlier”: add --density RUN, a run of p(x) on the same images.")
    seen = result.coverage
    if seen is not None:
        verdict = "holds" if seen.holds else f"does NOT hold (chance {seen.chance:.1g}): calibration images and these differ"
        lines += [
            f"coverage on held-out images: {_share(seen.covered)}; promised at least {1 - result.alpha:.2%}: {verdict}",
            f"least covered: {_name(seen.least[0], names)}, {_share(seen.least[1])}; nothing fits: {_share(seen.rejected)}",
        ]
        if seen.right is not None:
            lines.append(f"answers right: {_share(seen.right)}")
    return [*lines, f"{result.path}" if result.path else "Add -o labels.csv for one row per image."]


def _share(share: Any) -> str:
    return f"{share.share:.2%} ({share.k} of {share.n}; 95 % interval {share.low:.2%} … {share.high:.2%})"


def _name(label: int, names: tuple[str, ...] | None) -> str:
    return f"class {label}" if names is None or label >= len(names) else f"class {names[label]}"
