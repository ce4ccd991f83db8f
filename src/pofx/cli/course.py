"""`pofx course [KEY]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from pofx.cli.common import Answer, Common, table
from pofx.errors import InputError


def course(
    key: str | None = None,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["-o", "--out"])] = None,
    common: Common = Common(),
) -> Answer:
    """Questions that notes leave open, each answered with a number.

    Without KEY they are listed. With one, the answer, a command that shows more, and its numbers, computed now in some seconds.

    Args:
        key: of a question, a slip or a panel, as `pofx course` lists them; or all.
        out: .html a page, .png the figure of one that has one.
    """
    from pofx.workflows import course as workflow

    if key is None:
        if out is not None:
            raise InputError(f"What goes into {out}? Name one, or all: pofx course all -o {out}")
        shown = []
        for kind, head in workflow.HEADS.items():
            rows = table("key", head)
            for e in workflow.ENTRIES:
                if e.kind == kind:
                    rows.add_row(e.key, e.title)
            shown += [rows, ""]
        return Answer({"entries": [e.to_json() for e in workflow.ENTRIES]}, [*shown, "An answer, computed: pofx course parameters"])
    with common.progress("checking") as progress:
        found = workflow.course(key, out, progress=progress)
    facts: dict[str, Any] = found[0].to_json() if len(found) == 1 else {"entries": [a.to_json() for a in found]}
    facts |= {"holds": all(a.finding.holds for a in found), "out": None if out is None else str(out)}
    shown = []
    for a in found:
        rows = table("", "", right=())
        for name, value in a.finding.numbers.items():
            rows.add_row(name, workflow.shown(value))
        verdict = "computed" if a.finding.holds else "IT DOES NOT HOLD"
        shown += [a.entry.title, "", a.entry.answer, "", rows, "", f"{verdict}: {a.finding.said}", f"see: {a.entry.command}", ""]
    return Answer(facts, [*shown, str(out)] if out else shown[:-1])
