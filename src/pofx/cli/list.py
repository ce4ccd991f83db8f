"""`pofx list FILE.pofx`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pofx.cli.common import Answer, Common, Flag, table


def list(
    file: Path, /, *, all: Annotated[Flag, Parameter(help="Every block, not the first ones.")] = False, common: Common = Common()
) -> Answer:
    """What a compressed file holds, and whether it is whole.

    Checksums of the file are checked, and nothing is decoded.

    Args:
        file: FILE.pofx.
    """
    from pofx.tasks.contents import contents

    found = contents(file)
    rows = [block for block in found.blocks if block.kind != "damaged" or block.images]
    shown = rows if all else rows[:20]
    lines = table("images", "kind", "bytes", "name", right=("bytes",))
    for block in shown:
        last = block.first + block.images - 1
        lines.add_row(
            f"{block.first}" if block.images == 1 else f"{block.first} … {last}",
            block.kind,
            f"{block.bytes:,}" if block.bytes else "–",
            block.name,
        )
    c, h, w = found.shape
    head = f"{found.images} images, {c}×{h}×{w} of {found.levels} levels; {found.bytes:,} bytes, model {found.model[:12]} {found.where}"
    more = [f"and {len(rows) - len(shown)} more (--all)"] if len(rows) > len(shown) else []
    tail = [f"damaged: {'; '.join(found.troubles)}"] if found.troubles else []
    return Answer(found.to_json(), [head, lines, *more, *tail])
