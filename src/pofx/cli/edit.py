"""`pofx edit RUN DATA --add NAME=STRENGTH -o FILE`, and learning, discovering, listing and removing what can be added."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from pofx.cli.common import Answer, Common, DataFlags, Flag, RunData, load_images, load_model, run_info, table
from pofx.cli.encode import inverted
from pofx.cli.interpolate import Condition, ends_given, numbers
from pofx.errors import InputError, nearest

if TYPE_CHECKING:
    from pofx.model import ImageModel
    from pofx.tasks.bulk import Images
    from pofx.tasks.edit import Direction

SAMPLES = Group("Samples of the run in the place of images", sort_key=2)
LEARN = Group("Learn an attribute", sort_key=3)
DISCOVER = Group("Find directions without labels", sort_key=4)


def edit(
    run: str,
    data: str | None = None,
    /,
    *,
    add: tuple[str, ...] = (),
    out: Annotated[Path | None, Parameter(name=["-o", "--out"])] = None,
    n: Annotated[int, Parameter(name=["-n", "--n"])] = 16,
    list_: Annotated[Flag, Parameter(name="--list")] = False,
    remove: str | None = None,
    samples: Annotated[str | None, Parameter(group=SAMPLES)] = None,
    minus: Annotated[str | None, Parameter(group=SAMPLES)] = None,
    plus: Annotated[str | None, Parameter(group=SAMPLES)] = None,
    seed: Annotated[int, Parameter(group=SAMPLES)] = 0,
    label: Annotated[str | None, Parameter(group=SAMPLES)] = None,
    like: Annotated[str | None, Parameter(group=SAMPLES)] = None,
    learn: Annotated[str | None, Parameter(group=LEARN)] = None,
    with_: Annotated[str | None, Parameter(name="--with", group=LEARN)] = None,
    without: Annotated[str | None, Parameter(group=LEARN)] = None,
    labels: Annotated[str | None, Parameter(group=LEARN)] = None,
    method: Annotated[Literal["mean", "svm"], Parameter(group=LEARN)] = "mean",
    hold: Annotated[str | None, Parameter(group=LEARN)] = None,
    discover: Annotated[Literal["sefa", "pca"] | None, Parameter(group=DISCOVER)] = None,
    count: Annotated[int | None, Parameter(group=DISCOVER)] = None,
    data_flags: DataFlags = DataFlags(),
    common: Common = Common(),
) -> Answer:
    """Change an attribute of images: learn it, then add it.

    Learn it from images with it and without it, or from labels, once:

      pofx edit RUN --learn thick --with FOLDER --without FOLDER
      pofx edit RUN --learn three --labels 3

    It is kept in the run folder (directions/NAME.json), with held-out evidence that it means something. Directions that need no labels:

      pofx edit RUN --discover sefa -o sheet.png

    Groups of the run's own samples are added and subtracted (a smile: smiling women - women + men), and --learn keeps what was added:

      pofx edit RUN --samples 3,5,9 --minus 1,2,4 --plus 7,8,11 -o sum.png

    Args:
        run: a run folder; to add, also a Hub id.
        data: images to change: a file, a folder, name[:part][:transform], .npz, .npy, IDX or Parquet.
        add: NAME=STRENGTH, e.g. thick=1.5; 1 is the distance between images without and with it, negative takes it away. Several add up.
        out: .png original, decoded and edited side by side; a folder: the edited images, one PNG each; .npz. Of --minus and --plus, and of
            --discover, a .png.
        n: how many images the .png shows.
        list_: show the attributes that were learned.
        remove: forget an attribute.
        samples: numbers of samples to change, as `pofx sample RUN` shows them from 0, e.g. 3,5,9 or 0-7; of --discover, the one to show it on.
        minus: numbers of samples whose mean code is taken away.
        plus: numbers of samples whose mean code is added.
        seed: of the samples, or of the starts of an inversion (a GAN's codes of images are found by inversion, which is approximate).
        label: of a run with --given label: the class to decode samples with.
        like: of a run with another --given: DATA whose images say it, for samples.
        learn: name of the attribute to learn.
        with_: images that have it (DATA).
        without: images that do not (DATA).
        labels: in place of --with and --without: classes of the run's own train data, by number or name, against all others.
        method: mean, the difference of the mean codes; svm, the normal of a linear boundary.
        hold: attributes, with commas, that the new one shall not change (it is made orthogonal to them), or all.
        discover: sefa, where the first layer changes most; pca, what early activations vary in. Kept as sefa-1, …, in the place of earlier ones.
        count: how many; by default 8, or as many as there are latent dimensions.
    """
    grouped = plus is not None or minus is not None
    modes = (("--add", add), ("--learn", learn), ("--list", list_), ("--remove", remove), ("--discover", discover))
    asked = [flag for flag, on in modes if on]
    if len(asked) > 1 or (not asked and not grouped):
        found = " and ".join(asked) + " were given" if asked else "nothing was asked for"
        raise InputError(
            f"One thing at a time: --add NAME=STRENGTH, --learn NAME, --discover sefa, --minus and --plus, --list or --remove NAME; {found}."
        )
    if grouped and asked and learn is None:
        raise InputError(f"--minus and --plus go with --samples, or with --learn NAME, and not with {asked[0]}.")
    if samples is not None and asked and not (add or grouped or discover):
        raise InputError(f"--samples says what is changed, and {asked[0]} changes nothing; leave it out.")
    alone = [flag for flag, on in (("--with", with_), ("--without", without), ("--labels", labels), ("--hold", hold)) if on]
    if alone and learn is None:
        raise InputError(f"{alone[0]} is for learning: name the attribute with --learn NAME.")
    if data is not None and not add:
        raise InputError(f"{data!r} is changed with --add NAME=STRENGTH; {asked[0] if asked else '--minus and --plus'} takes no DATA.")
    if grouped and (any((with_, without, labels, hold)) or method != "mean"):
        raise InputError(
            "--minus and --plus are groups of samples, without --with, --without, --labels, --hold and --method; give one or the other."
        )
    from pofx.training import read_run

    folder = read_run(run).path
    if list_:
        return _list(run, folder)
    if remove is not None:
        from pofx.tasks.edit import remove as task

        path = task(folder, remove)
        return Answer({"run": run, "removed": remove, "path": path}, f"{remove} is forgotten ({path})")
    model, asked_of = load_model(run, common), Condition(label, like)
    if grouped:
        return _sum(model, run, folder, learn, (samples, minus, plus), seed, asked_of, out, common)
    if discover is not None:
        return _discover(model, run, folder, discover, count, samples, seed, asked_of, out, common)
    if learn is not None:
        return _learn(model, run, folder, learn, (with_, without), labels, method, hold, data_flags, common)
    return _add(model, run, folder, data, add, (samples, seed, asked_of), out, n, data_flags, common)


def _list(run: str, folder: Path) -> Answer:
    from pofx.tasks.edit import directions

    found = list(directions(folder).values())
    facts = {"run": run, "directions": [_facts(d) for d in found]}
    if not found:
        return Answer(facts, f"{run} has learned no attribute yet. Learn one: pofx edit {run} --learn NAME --with A --without B")
    shown = table("name", "method", "with", "without", "held-out accuracy", "holds", "learned from", right=("with", "without"))
    for d in found:
        held = "–" if d.accuracy is None else f"{d.accuracy:.1%} ± {d.accuracy_se:.1%}"
        n = [str(k) if k else "–" for k in d.n]
        shown.add_row(d.name, d.method, *n, held, ", ".join(d.held) or "–", d.source or "–")
    return Answer(facts, [shown])


def _facts(d: Direction) -> dict[str, Any]:
    facts = {key: value for key, value in d.to_json().items() if key not in ("vector", "format")}
    return facts | {"length": math.hypot(*d.vector)}


def _learn(
    model: ImageModel,
    run: str,
    folder: Path,
    name: str,
    groups: tuple[str | None, str | None],
    labels: str | None,
    method: Literal["mean", "svm"],
    hold: str | None,
    flags: DataFlags,
    common: Common,
) -> Answer:
    from pofx.tasks.edit import directions, learn, pick, save

    known = {key: d for key, d in directions(folder).items() if key != name}
    names = list(known) if hold == "all" else [part.strip() for part in (hold or "").split(",") if part.strip()]
    held = [pick(known, other) for other in names if other != name or hold == "all"]
    if hold and hold != "all" and name in names:
        raise InputError(f"{name!r} cannot be held fixed while it is learned; leave it out of --hold.")
    info = run_info(run)
    if labels is not None:
        if any(groups):
            raise InputError("--labels and --with/--without both say which images have it; give one of them.")
        present, absent, source = _by_label(info, labels, common)
    else:
        if groups[0] is None or groups[1] is None:
            missing = "--with" if groups[0] is None else "--without"
            raise InputError(f"{missing} is missing: --learn {name} --with FOLDER --without FOLDER, or --learn {name} --labels 3")
        loaded = [load_images(group, model.space, flags, common, info) for group in groups if group is not None]
        present, absent = (images.split for images in loaded)
        source = f"{loaded[0].heading} against {loaded[1].heading}"
    with common.progress("encoding") as progress:
        found = learn(model, name, present, absent, method=method, hold=held, source=source, progress=progress)
    path = save(folder, found)
    assert found.accuracy is not None and found.accuracy_se is not None
    if found.accuracy - 2 * found.accuracy_se <= 0.5:
        common.note(f"Held-out accuracy is not clearly above chance (50 %): {name!r} may mean nothing. Give more images, or clearer ones.")
    lines = [
        f"{name}: {found.n[0]} images with it, {found.n[1]} without ({found.source})",
        f"held-out accuracy {found.accuracy:.1%} ± {found.accuracy_se:.1%} (chance 50 %), length {math.hypot(*found.vector):.2f} in z"
        + (f", orthogonal to {', '.join(found.held)}" if found.held else ""),
        f"{path}",
        f"Add it: pofx edit {run} IMAGE --add {name}=1 -o edited.png",
    ]
    return Answer({"run": run, "path": path} | _facts(found), lines)


def _by_label(info: RunData, labels: str, common: Common) -> tuple[Images, Images, str]:
    from pofx.tasks.edit import groups_by_label

    data = info.load_data(common.note)
    names = data.class_names or tuple(str(i) for i in range(data.classes))
    if not names:
        raise InputError(f"{data.heading} has no labels. Name two groups of images instead, with --with and --without.")
    wanted = []
    for part in (p.strip() for p in labels.split(",")):
        if part in names:
            wanted.append(names.index(part))
        elif part.isdecimal() and int(part) < len(names):
            wanted.append(int(part))
        else:
            raise InputError(f"--labels {labels}: there is no class {part!r}. {nearest(part, names)}")
    present, absent = groups_by_label(data.train, wanted)
    chosen = ", ".join(names[i] for i in wanted)
    return present, absent, f"{data.train.heading}, label {chosen} against the rest"


def _sum(
    model: ImageModel,
    run: str,
    folder: Path,
    name: str | None,
    groups: tuple[str | None, str | None, str | None],
    seed: int,
    asked: Condition,
    out: Path | None,
    common: Common,
) -> Answer:
    """Vector arithmetic on samples; under a name, v is kept."""
    from pofx.tasks.arithmetic import arithmetic
    from pofx.tasks.edit import save

    start, minus, plus = (
        None if text is None else numbers(text, flag) for text, flag in zip(groups, ("--samples", "--minus", "--plus"), strict=True)
    )
    if minus is None or plus is None:
        raise InputError(
            f"{'--minus' if minus is None else '--plus'} is missing: both groups are numbers of samples, e.g. --minus 1,2,4 --plus 7,8,11"
        )
    if start is None and name is None:
        raise InputError("Which samples are changed? Name them with --samples 3,5,9, or keep the direction alone with --learn NAME")
    given = ends_given(model, run, 1, asked, common, needed=True)
    result = arithmetic(model, start, minus, plus, name=name or "sum", given=given, seed=seed, out=out)
    facts = {"run": run, "seed": seed, **asked._asdict()} | result.to_json()
    lines = [f"v = mean of samples {groups[2]} - mean of samples {groups[1]} (seed {seed}): length {facts['length']:.2f} in z"]
    if result.z is not None:
        lines.append(f"mean of samples {groups[0]} + v: |z| is {facts['norm']:.2f}, that of a draw about {facts['typical_norm']:.2f}")
    if name is not None:
        facts["direction"] = save(folder, result.direction)
        lines += [f"{facts['direction']}", f"Add it: pofx edit {run} --samples 0-7 --add {name}=1{asked.words} -o edited.png"]
    if out is not None or name is None:
        lines.append(f"{result.path}  ({result.shows})" if result.path else "Add -o FILE.png to see the groups and their sum.")
    return Answer(facts, lines)


def _discover(
    model: ImageModel,
    run: str,
    folder: Path,
    method: Literal["sefa", "pca"],
    count: int | None,
    samples: str | None,
    seed: int,
    asked: Condition,
    out: Path | None,
    common: Common,
) -> Answer:
    from pofx.tasks.discover import discover
    from pofx.tasks.edit import directions, save
    from pofx.tasks.edit import remove as forget

    shown_on = numbers(samples or "0", "--samples")
    if len(shown_on) != 1:
        raise InputError(f"--samples {samples}: directions are shown on one sample, e.g. --samples {shown_on[0]}")
    given = ends_given(model, run, 1, asked, common, needed=True)
    known = directions(folder)
    with common.progress("looking") as progress:
        found = discover(model, method=method, count=count, sample=shown_on[0], given=given, seed=seed, out=out, progress=progress)
    for name, old in known.items():
        if old.method == method:
            forget(folder, name)
    facts = {"run": run, **asked._asdict()} | found.to_json()
    facts["kept"] = [save(folder, d) for d in found.directions]
    linear = found.linear is not None
    columns = ("name", "share", "linear in z" if linear else "", "levels that 1 changes")
    shown = table(*(c for c in columns if c), right=columns[1:])
    for row in facts["directions"]:
        middle = [f"{row['linear']:.0%}"] if linear else []
        shown.add_row(row["name"], f"{row['explained']:.1%}", *middle, f"{row['change_levels']:.2f}")
    what = {"sefa": "squared weights of its first layer", "pca": "variance of its early activations"}[method]
    tail = f"{found.path}  ({found.shows}, at strengths -3 … 3)" if found.path else "Add -o FILE.png to see what each does."
    use = f"Add one: pofx edit {run} --samples 0-7 --add {found.directions[0].name}=2{asked.words} -o edited.png"
    head = f"{len(found.directions)} directions of {run}, by their share of the {what}, kept in {folder / 'directions'}"
    return Answer(facts, [head, "", shown, "", tail, use])


def _amounts(add: Sequence[str]) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for part in (p.strip() for text in add for p in text.split(",")):
        name, mark, number = part.partition("=")
        try:
            strength = float(number) if mark else math.nan
        except ValueError:
            strength = math.nan
        if not name or not math.isfinite(strength):
            raise InputError(f"--add {part}: it takes a name and a strength, e.g. --add {name or 'thick'}=1.5")
        if name in found:
            raise InputError(f"--add {name} was given twice; give it once, with the sum of the strengths.")
        found[name] = strength
    return found


def _add(
    model: ImageModel,
    run: str,
    folder: Path,
    data: str | None,
    add: Sequence[str],
    own: tuple[str | None, int, Condition],
    out: Path | None,
    n: int,
    flags: DataFlags,
    common: Common,
) -> Answer:
    from pofx.tasks.edit import directions, pick
    from pofx.tasks.edit import edit as task

    amounts, known = _amounts(add), directions(folder)
    for name in amounts:
        pick(known, name)
    samples, seed, asked = own
    if (data is None) == (samples is None):
        both = f"{data!r} and --samples both say what to change. " if data is not None else ""
        raise InputError(
            f"{both}Which images? Name a file, a folder or a set, e.g. pofx edit {run} digits:test --add {add[0]} -o edited.png, "
            "or samples of the run: --samples 0-7"
        )
    if samples is None:
        assert data is not None
        if asked.flags:
            raise InputError(f"{asked.flags[0]} is of --samples: images say their own.")
        images = load_images(data, model.space, flags, common, run_info(run))
        split, heading, chosen, given = images.split, images.heading, None, None
    else:
        split, heading, chosen = None, f"samples {samples} of seed {seed}", numbers(samples, "--samples")
        given = ends_given(model, run, len(chosen), asked, common, needed=True)
    with common.progress("encoding") as progress:
        result = task(model, split, amounts, known, samples=chosen, given=given, n=n, seed=seed, out=out, progress=progress)
    facts = result.to_json()
    shown = ", ".join(f"{name} {strength:+g}" for name, strength in amounts.items())
    lines = [
        f"{heading}: {facts['n']} images, {shown}; a sub-pixel changes by {result.change_levels:.2f} levels on average",
        *inverted(result.inversion),
        f"{result.path}  ({result.shows})" if result.path else "Add -o FILE.png for a picture, -o FOLDER for the images alone.",
    ]
    return Answer({"run": run, "data": heading} | facts, lines)
