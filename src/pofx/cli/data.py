"""`pofx data DATA`: shape, levels, counts, labels, duplicates, and a contact sheet."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from pofx.cli.common import Answer, Common, DataFlags, table

if TYPE_CHECKING:
    from pofx.data import Data
    from pofx.model import Progress

PARTS = ("train", "valid", "calib", "test")
BATCH = 1024


def data(
    data: str,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["-o", "--out"])] = None,
    n: Annotated[int, Parameter(name=["-n", "--n"])] = 100,
    data_flags: DataFlags = DataFlags(),
    common: Common = Common(),
) -> Answer:
    """Look at images before learning from them.

    Args:
        data: name[:transform], a folder of images (subfolders are labels), .npz, .npy, IDX, Parquet, or hf:owner/name.
        out: a .png with a contact sheet.
        n: images on the contact sheet.
    """
    found = data_flags.load(data, common)
    total = sum(len(getattr(found, part)) for part in PARTS)
    with common.progress("reading") as progress:
        unique, shared, low, high = _look(found, total, progress)
    labels = _histogram(found)
    space = found.space
    facts: dict[str, Any] = {
        "data": found.heading,
        "shape": list(space.shape),
        "levels": space.levels,
        "values": [low, high],
        "n": total,
        "parts": {part: len(getattr(found, part)) for part in PARTS},
        "labels": labels,
        "duplicates": total - unique,
        "train_images_in_test": shared,
        "transforms": list(found.transforms),
        "skipped": list(found.skipped),
        "fingerprint": found.fingerprint,
    }
    lines: list[Any] = [
        found.heading,
        f"shape       {'×'.join(map(str, space.shape))} (channels × height × width), {space.dims} dims",
        f"levels      {space.levels} (values {low} … {high} occur)",
        f"images      {total}: " + ", ".join(f"{part} {count}" for part, count in facts["parts"].items()),
        f"duplicates  {total - unique}" + (f"; {shared} images of test are in train too" if shared else ""),
    ]
    if found.skipped:
        lines.append(f"skipped     {len(found.skipped)} unreadable files")
    if labels:
        most = max(labels.values())
        shown = table("label", "images", "", right=("images",))
        for name, count in labels.items():
            shown.add_row(name, str(count), "█" * max(1, round(30 * count / most)) if count else "")
        lines += ["", shown]
    else:
        lines.append("labels      none")
    if out is not None:
        facts["out"] = str(_contact_sheet(found, out, n))
        lines += ["", facts["out"]]
    return Answer(facts, lines)


def _look(found: Data, total: int, progress: Progress | None) -> tuple[int, int, int, int]:
    """(different images, test images that are in train, smallest value, largest value)."""
    import torch

    from pofx.noise import hash_images

    keys: dict[str, list[Any]] = {part: [] for part in PARTS}
    low, high, done = 255, 0, 0
    for part in PARTS:
        for x, _ in getattr(found, part).batches(BATCH):
            keys[part].append(hash_images(x))
            low, high, done = min(low, int(x.min())), max(high, int(x.max())), done + len(x)
            if progress is not None:
                progress(done, total)
    joined = {part: torch.cat(chunks) if chunks else torch.zeros(0, dtype=torch.long) for part, chunks in keys.items()}
    shared = int(torch.isin(joined["test"], joined["train"]).sum())
    return len(torch.cat(list(joined.values())).unique()), shared, low, high


def _histogram(found: Data) -> dict[str, int]:
    counts: Counter[int] = Counter()
    for part in PARTS:
        y = getattr(found, part).y
        if y is not None:
            counts.update(y.tolist())
    names = found.class_names
    every = range(len(names)) if names else sorted(counts)
    return {names[label] if names else str(label): counts[label] for label in every} if counts else {}


def _contact_sheet(found: Data, out: Path, n: int) -> Path:
    """n training images, evenly spread, as one picture."""
    import torch

    from pofx.pictures import grid
    from pofx.tasks._files import check_out, writing

    path = check_out(out, (".png",))
    n = max(1, min(n, len(found.train)))
    index = torch.linspace(0, len(found.train) - 1, n).long()
    with writing(path) as temporary:
        grid(found.train.take(index)[0], found.space.levels).save(temporary, format="PNG")
    return path
