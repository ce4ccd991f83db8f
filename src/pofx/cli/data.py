"""`pofx data DATA`: shape, levels, counts, labels, duplicates, and a contact sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from pofx.cli.common import Answer, Common, DataFlags, table


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
        data: name[:transform], a folder of images (subfolders are labels), .npz, .npy, IDX, Parquet, hf:owner/name, text:FILE, or series:FILE.csv.
        out: a .png with a contact sheet of training images.
        n: images on the contact sheet.
    """
    from pofx.data import contact_sheet, describe
    from pofx.tasks._files import check_out

    path = None if out is None else check_out(out, (".png",))
    found = data_flags.load(data, common)
    summary = describe(found)
    total = sum(summary.counts.values())
    lines: list[Any] = [
        summary.heading,
        f"shape       {'×'.join(map(str, summary.shape))} (channels × height × width), {found.space.dims} dims",
        f"levels      {summary.levels}",
        f"images      {total}: " + ", ".join(f"{part} {count}" for part, count in summary.counts.items()),
        f"duplicates  {summary.duplicates}"
        + (f"; {summary.overlap} images of test are in train, valid or calib too" if summary.overlap else ""),
    ]
    if summary.alphabet is not None:
        lines[2] += f": the characters {summary.alphabet!r}"
    if summary.skipped:
        lines.append(f"skipped     {len(summary.skipped)} unreadable file{'s' * (len(summary.skipped) > 1)}")
    if summary.labels is None:
        lines.append("labels      none")
    else:
        counts = {name: sum(parts.values()) for name, parts in summary.labels.items()}
        most = max(1, *counts.values())
        shown = table("label", "images", "", right=("images",))
        for name, count in counts.items():
            shown.add_row(name, str(count), "█" * max(1, round(30 * count / most)) if count else "")
        lines += ["", shown]
    if path is not None:
        contact_sheet(found, path, count=n)
        lines += ["", str(path)]
    facts = {"data": summary.heading, "n": total} | summary.to_json() | {"out": None if path is None else str(path)}
    return Answer(facts, lines)
