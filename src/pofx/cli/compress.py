"""`pofx compress RUN IMAGES … -o FILE.pofx`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from pofx.cli.common import Answer, BulkFlags, Common, Flag, load_model, tell_skipped


def compress(
    run: str,
    /,
    *images: str,
    out: Annotated[Path, Parameter(name=["-o", "--out"])],
    block: int = 256,
    check: Literal["block", "image"] = "block",
    embed_model: Flag = False,
    bulk: BulkFlags = BulkFlags(),
    common: Common = Common(),
) -> Answer:
    """Images into a lossless file, as small as the model is good.

    The model is turned into integer arithmetic, so that any machine reads the file, and goes beside it (ID.pofx-model, once for all files of a
    folder) or inside. Each block is decoded and compared before it is written. A file of another size, or with transparency, is stored as it is.

    Args:
        run: a run folder or a Hub id, of an autoregressive or a variational model.
        images: files, folders of them, or DATA as of other verbs.
        out: FILE.pofx.
        block: images coded together; 1 gives access to single images, and costs more.
        check: a checksum of the pixels of each block, or of each image for 4 bytes more an image.
        embed_model: put the model inside: one file is all that is needed to read it.
    """
    from pofx.tasks._integer_form import IntegerForm
    from pofx.workflows.bulk import Coding, compressed
    from pofx.workflows.compress import gather

    by = bulk.open()
    model = load_model(run, common)
    form = IntegerForm.of(model)
    gathered = gather(images, form.space)
    tell_skipped(gathered.skipped, common.note)
    job = Coding(run, "cpu", images, block, check)
    with common.progress("compressing") as progress:
        found = compressed(job, form, gathered, by=by, out=out, embed_model=embed_model, progress=progress)
    lines = [f"{gathered.heading}: {found.images} image{'s' * (found.images != 1)} in {found.size:,} bytes"]
    if found.dims:
        over = found.bits_per_dim / (found.ideal / found.dims) - 1
        lines.append(
            f"bits/dim of the file = {found.bits_per_dim:.4f}, {over:+.2%} on what the model says ({found.dims:,} sub-pixels, {found.dims:,} bytes raw)"
        )
    if found.initial:
        lines.append(
            f"bits-back coding starts each block with bits that mean nothing: {found.initial:,} in all, {found.initial / found.dims:.4f} bits/dim of the file"
        )
    if found.stored:
        lines.append(
            f"{found.stored} of {found.images} are not {form.space}, or would lose something: stored as they are, {found.stored_size:,} bytes of the file"
        )
    where = f"inside, {found.model_size:,} bytes of the file" if found.beside is None else f"beside it, {found.beside}: both are needed"
    lines += [f"model {found.model[:12]} {where}", str(found.path)]
    return Answer({"run": run, "data": gathered.heading} | found.to_json(), "\n".join(lines))
