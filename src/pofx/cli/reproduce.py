"""`pofx reproduce RECIPE`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from pofx.cli.common import Answer, Common, Flag, table
from pofx.numbers import SIGNS

if TYPE_CHECKING:
    from pofx.workflows.reproduce import Recipe, Reproduction


def reproduce(
    recipe: str,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    minutes: float | None = None,
    seed: int | None = None,
    results: Path = Path("results"),
    dry_run: Flag = False,
    common: Common = Common(),
) -> Answer:
    """Train what a recipe says, and compare with the number it expects.

    The same command resumes. The averaged weights are measured on the split that the recipe names; results/NAME.json gets the number,
    the learning curve, the hardware and the budget, whether the expectation was met or not.

    Args:
        recipe: a name in recipes/, or the path of a .toml file.
        out: the run folder; by default runs/NAME.
        minutes: another budget than the recipe's; the result says so.
        seed: another than the recipe's; the result is NAME-seed1.json.
        results: folder for NAME.json.
        dry_run: show the recipe and the plan, and stop.
    """
    from pofx.workflows.reproduce import load_recipe, plan
    from pofx.workflows.reproduce import reproduce as workflow

    found = load_recipe(recipe)
    found = found if seed is None else found.seeded(seed)
    if dry_run:
        planned = plan(found, out=out, minutes=minutes, device=common.device)
        facts = {"recipe": found.name, "title": found.title, "expected": dict(found.expected), "source": found.source, "plan": planned}
        return Answer(facts, f"{_head(found)}\n\n{planned}")
    with ExitStack() as stack:
        bars: list[Any] = []

        def progress(done: int, total: int) -> None:
            if not bars:  # after training, so that its time is not counted
                bars.append(stack.enter_context(common.progress("measuring")))
            if bars[0] is not None:
                bars[0](done, total)

        result = workflow(
            found,
            out=out,
            minutes=minutes,
            results=results,
            device=common.device,
            quiet=common.quiet,
            say=common.note,
            progress=progress,
        )
    return Answer(result.to_json(), _text(result))


def _head(recipe: Recipe) -> str:
    expected = recipe.expected
    stretch = f" (stretch {expected['stretch']:g})" if "stretch" in expected else ""
    rows = {
        "recipe": f"{recipe.name}: {recipe.title}",
        "expected": f"{expected['metric']} of {expected['split']} {_limit(expected)}{stretch}",
        "source": recipe.source,
        "planned": f"{recipe.minutes:g} minutes on {recipe.hardware}",
    }
    return "\n".join(f"{name:<10} {text}" for name, text in rows.items())


def _limit(expected: Mapping[str, Any]) -> str:
    return f"≥ {expected['at_least']:g}" if "at_least" in expected else f"≤ {expected['at_most']:g}"


def _text(result: Reproduction) -> list[Any]:
    from pofx.workflows.reproduce import judged

    found, expected = result.found, result.recipe.expected
    part = found[expected["split"]]
    verdict = "met" if found["met"] else "missed"
    shorter = ", a shorter budget than the recipe's" if found["budget"]["shorter"] else ""
    spent = f"{found['steps']:,} steps in {found['minutes']:.1f} minutes{shorter}"
    if begun := found.get("begun"):
        spent += f", after {begun['minutes']:.1f} minutes of {begun['recipe']}"
    end = f"{result.path}  (run: {result.run})"
    if "samples" in part:
        s = part["samples"]
        shares = ", ".join(f"{name} {value:.2f}" for name, value in s["shares"].items())
        said = f"{shares} of what real images get; least {found['found']:.2f}, expected {_limit(expected)}: {verdict}"
        distance = (
            f"Fréchet distance {s['frechet']:.4g} (real images: {s['frechet_of_real_images']:.4g}), {s['n']:,} samples, {s['features']}"
        )
        classes = f"classes of the samples: {s['classes']}"
        if asked := s["of_the_asked_class"]:
            classes += f", {asked['share']:.2%} of them the one that was asked for"
        return [f"{result.recipe.title}: {spent}", "", said, distance, classes, "", end]
    if "accuracy" in part:
        ece = f"expected calibration error {part['calibration']['ece']:.2%}"
        said = f"accuracy {part['accuracy']['mean']:.2%} ± {part['accuracy']['se']:.2%} of {part['n']} images, expected {_limit(expected)}: {verdict}"
        return [f"{result.recipe.title}: {spent}", "", said, ece, "", end]
    shown = table("part", "images", "nats", "± se", "bits/dim", "expected", "", right=("images", "nats", "bits/dim"))
    decisive = judged(part, expected)
    for row in (part, part.get("estimate")):
        if row is None:
            continue
        sign, nats, k = SIGNS[row["kind"]], row["nats"], f", k = {row['k']:,}" if "k" in row else ""
        error = "" if nats["se"] is None else f"{nats['se']:.3f}"
        verdicts = (f"{expected['metric']} {_limit(expected)}", verdict) if row is decisive else ("", "")
        shown.add_row(
            expected["split"] + k, str(row["n"]), f"{sign} {nats['mean']:.3f}", error, f"{sign} {row['bits_per_dim']:.4f}", *verdicts
        )
    return [f"{result.recipe.title}: {spent}", "", shown, "", end]
