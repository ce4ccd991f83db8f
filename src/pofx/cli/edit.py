"""`pofx edit RUN DATA --add NAME=STRENGTH -o FILE`, and learning, listing and removing what can be added."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from pofx.cli.common import Answer, Common, DataFlags, Flag, RunData, load_images, load_model, run_info, table
from pofx.errors import InputError, nearest

if TYPE_CHECKING:
    from pofx.model import ImageModel
    from pofx.tasks.bulk import Images
    from pofx.tasks.edit import Direction

LEARN = Group("Learn an attribute", sort_key=3)


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
    learn: Annotated[str | None, Parameter(group=LEARN)] = None,
    with_: Annotated[str | None, Parameter(name="--with", group=LEARN)] = None,
    without: Annotated[str | None, Parameter(group=LEARN)] = None,
    labels: Annotated[str | None, Parameter(group=LEARN)] = None,
    method: Annotated[Literal["mean", "svm"], Parameter(group=LEARN)] = "mean",
    hold: Annotated[str | None, Parameter(group=LEARN)] = None,
    data_flags: DataFlags = DataFlags(),
    common: Common = Common(),
) -> Answer:
    """Change an attribute of images: learn it, then add it.

    Learn it from images with it and without it, or from labels, once:

      pofx edit RUN --learn thick --with FOLDER --without FOLDER
      pofx edit RUN --learn three --labels 3

    It is kept in the run folder (directions/NAME.json), with held-out evidence that it means something.

    Args:
        run: a run folder; to add, also a Hub id.
        data: images to change: a file, a folder, name[:part][:transform], .npz, .npy, IDX or Parquet.
        add: NAME=STRENGTH, e.g. thick=1.5; 1 is the distance between images without and with it, negative takes it away. Several add up.
        out: .png original, decoded and edited side by side; a folder: the edited images, one PNG each; .npz.
        n: how many images the .png shows.
        list_: show the attributes that were learned.
        remove: forget an attribute.
        learn: name of the attribute to learn.
        with_: images that have it (DATA).
        without: images that do not (DATA).
        labels: in place of --with and --without: classes of the run's own train data, by number or name, against all others.
        method: mean, the difference of the mean codes; svm, the normal of a linear boundary.
        hold: attributes, with commas, that the new one shall not change (it is made orthogonal to them), or all.
    """
    asked = [flag for flag, on in (("--add", add), ("--learn", learn), ("--list", list_), ("--remove", remove)) if on]
    if len(asked) != 1:
        found = " and ".join(asked) + " were given" if asked else "nothing was asked for"
        raise InputError(f"One thing at a time: --add NAME=STRENGTH, --learn NAME, --list or --remove NAME; {found}.")
    alone = [flag for flag, on in (("--with", with_), ("--without", without), ("--labels", labels), ("--hold", hold)) if on]
    if alone and learn is None:
        raise InputError(f"{alone[0]} is for learning: name the attribute with --learn NAME.")
    if data is not None and not add:
        raise InputError(f"{data!r} is changed with --add NAME=STRENGTH; {asked[0]} takes no DATA.")
    from pofx.training import read_run

    folder = read_run(run).path
    if list_:
        return _list(run, folder)
    if remove is not None:
        from pofx.tasks.edit import remove as task

        path = task(folder, remove)
        return Answer({"run": run, "removed": remove, "path": path}, f"{remove} is forgotten ({path})")
    model = load_model(run, common)
    if learn is not None:
        return _learn(model, run, folder, learn, (with_, without), labels, method, hold, data_flags, common)
    return _add(model, run, folder, data, add, out, n, data_flags, common)


def _list(run: str, folder: Path) -> Answer:
    from pofx.tasks.edit import directions

    found = list(directions(folder).values())
    facts = {"run": run, "directions": [_facts(d) for d in found]}
    if not found:
        return Answer(facts, f"{run} has learned no attribute yet. Learn one: pofx edit {run} --learn NAME --with A --without B")
    shown = table("name", "method", "with", "without", "held-out accuracy", "holds", "learned from", right=("with", "without"))
    for d in found:
        held = f"{d.accuracy:.1%} ± {d.accuracy_se:.1%}"
        shown.add_row(d.name, d.method, str(d.n[0]), str(d.n[1]), held, ", ".join(d.held) or "–", d.source or "–")
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
    if found.accuracy - 2 * found.accuracy_se <= 0.5:
        common.note(f"Held-out accuracy is not clearly above chance (50 %): {name!r} may mean nothing. Give more images, or clearer ones.")
    lines = [
        f"{name}: {found.n[0]} images with it, {found.n[1]} without ({source})",
        f"held-out accuracy {found.accuracy:.1%} ± {found.accuracy_se:.1%} (chance 50 %), length {math.hypot(*found.vector):.2f} in z"
        + (f", orthogonal to {', '.join(found.held)}" if found.held else ""),
        f"{path}",
        f"Add it: pofx edit {run} IMAGE --add {name}=1 -o edited.png",
    ]
    return Answer({"run": run, "path": path} | _facts(found), lines)


def _by_label(info: RunData, labels: str, common: Common) -> tuple[Images, Images, str]:
    from pofx.tasks.edit import groups_by_label

    data = info.load_data(common)
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
    if data is None:
        raise InputError(f"Which images? Name a file, a folder or a set, e.g. pofx edit {run} digits:test --add {add[0]} -o edited.png")
    images = load_images(data, model.space, flags, common, run_info(run))
    with common.progress("encoding") as progress:
        result = task(model, images.split, amounts, known, n=n, out=out, progress=progress)
    facts = result.to_json()
    shown = ", ".join(f"{name} {strength:+g}" for name, strength in amounts.items())
    lines = [
        f"{images.heading}: {facts['n']} images, {shown}; a sub-pixel changes by {result.change_levels:.2f} levels on average",
        f"{result.path}  ({result.shows})" if result.path else "Add -o FILE.png for a picture, -o FOLDER for the images alone.",
    ]
    return Answer({"run": run, "data": images.heading} | facts, lines)
