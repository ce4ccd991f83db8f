"""Sums of groups of samples: smiling woman − neutral woman + neutral man = smiling man (Radford et al. 2016, §6.3.2, arXiv:1511.06434).

    z = mean(start) − mean(minus) + mean(plus),     v = mean(plus) − mean(minus),     x = E[x | z]

Groups are numbers of the model's own samples, whose codes are known exactly. Of one code the mean says little; the paper takes three. A mean of
k codes of N(0, I) has |z| of about √(d/k): the sum of three groups of three is again as long as a draw, of larger groups it is shorter.
v is a direction like any other: kept under a name, it is added with a strength.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pofx import pictures
from pofx.errors import InputError
from pofx.model import Decoder, ImageModel, Progress, require
from pofx.tasks._decoding import decodes_to, draws, means, repeated, typical_norm
from pofx.tasks._files import check_out, writing
from pofx.tasks.edit import Direction, check_name, fingerprint

SUFFIXES = (".png",)
SHOWN = 8  # of a group, in a picture


@dataclass(frozen=True)
class Sum:
    """What came out.

    Attributes:
        z: `(latent_dims,)` float64, the sum of the means of the groups.
        x: `(C, H, W)`, E[x|z], floats in 0 … levels−1; no sample of p. None without `start`, and so are z, each and start.
        each: `(k, C, H, W)`: the members of `start`, v added to each.
        start, minus, plus: `(n, C, H, W)`: what each group decodes to, the code of its mean first, then its members.
        direction: v, under the name that was given or "sum".
        shows: what all these are, in words.
    """

    z: Tensor | None
    x: Tensor | None
    each: Tensor | None
    start: Tensor | None
    minus: Tensor
    plus: Tensor
    direction: Direction
    shows: str
    levels: int
    path: Path | None = None

    def to_json(self) -> dict[str, Any]:
        v = self.direction.tensor
        return {
            "name": self.direction.name,
            "groups": {
                "start": 0 if self.start is None else len(self.start) - 1,
                "minus": self.direction.n[1],
                "plus": self.direction.n[0],
            },
            "norm": None if self.z is None else float(self.z.norm()),
            "length": float(v.norm()),
            "typical_norm": typical_norm(len(v)),
            "shows": self.shows,
            "out": None if self.path is None else str(self.path),
        }


def arithmetic(
    model: ImageModel,
    start: Sequence[int] | None,
    minus: Sequence[int],
    plus: Sequence[int],
    *,
    name: str = "sum",
    given: Any = None,
    seed: int = 0,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Sum:
    """Add and subtract the mean codes of groups of samples, and decode the sum.

    Args:
        start: numbers of the samples that are changed; None where only the direction is wanted.
        minus, plus: numbers of the samples without and with what is added.
        name: of the direction.
        given: of a conditional model, the view's value that all are decoded with.
        seed: of the samples, which `pofx sample RUN --seed` shows by their numbers.
        out: `.png`: a row for each group, and the result.

    Raises:
        CapabilityError: the model does not decode, or has no prior.
        InputError: an empty group, a number below 0 or twice in a group, or in both `minus` and `plus`; groups of the same mean; another ending.

    >>> from pofx.models.adversarial.gan import GAN
    >>> from pofx.space import ImageSpace
    >>> found = arithmetic(GAN.small(ImageSpace(1, 4, 4)), [3, 5, 9], [1, 2], [7, 8])
    >>> found.x.shape, found.each.shape, found.direction.n
    (torch.Size([1, 4, 4]), torch.Size([3, 1, 4, 4]), (2, 2))
    """
    decoder = require(model, Decoder, to="add and subtract codes")
    check_name(name)
    path = None if out is None else check_out(out, SUFFIXES)
    groups = {"--plus": plus, "--minus": minus} | ({} if start is None else {"--samples": start})
    for flag, numbers in groups.items():
        if not len(numbers):
            raise InputError(f"{flag} names no sample. Groups are numbers of samples, e.g. --samples 3,5,9 --minus 1,2 --plus 7,8")
        if len(set(numbers)) < len(numbers):
            raise InputError(f"{flag} names a sample twice. Each counts once, e.g. {flag} {','.join(map(str, dict.fromkeys(numbers)))}")
    both = sorted(set(plus) & set(minus))
    if both:
        raise InputError(f"Sample {both[0]} is in both --plus and --minus, where it cancels out. Each belongs to one of them.")
    value = model.check_given(given, 1)
    z = {flag: draws(decoder, numbers, seed) for flag, numbers in groups.items()}
    v = z["--plus"].double().mean(0) - z["--minus"].double().mean(0)
    source = f"samples {_numbers(plus)} against {_numbers(minus)} of seed {seed}"
    found = Direction(name, tuple(v.tolist()), "groups", (), (len(plus), len(minus)), None, None, fingerprint(model), source)

    def decoded(codes: Tensor) -> Tensor:
        return means(decoder, codes.to(model.dtype), repeated(value, len(codes)))

    shown = {flag: decoded(torch.cat([codes.double().mean(0, keepdim=True), codes.double()])) for flag, codes in z.items()}
    total = x = each = None
    if start is not None:
        total = z["--samples"].double().mean(0) + v
        x, each = decoded(total[None])[0], decoded(z["--samples"].double() + v)
    if progress is not None:
        progress(1, 1)
    levels = model.space.levels
    result = Sum(total, x, each, shown.get("--samples"), shown["--minus"], shown["--plus"], found, decodes_to(model), levels, path)
    if path is not None:
        with writing(path) as temporary:
            picture(result).save(temporary, format="PNG")
    return result


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:SHOWN])) + (f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else "")


def picture(found: Sum) -> Any:
    """The groups and what they sum to, a row each, as a contact sheet: the mean first."""
    named = [("samples", found.start), ("- minus", found.minus), ("+ plus", found.plus)]
    if found.x is not None and found.each is not None:
        named.append(("= sum", torch.cat([found.x[None], found.each])))
    rows = [(name, part[: 1 + SHOWN]) for name, part in named if part is not None]
    columns = max(len(part) for _, part in rows)
    height, width = rows[0][1].shape[2:]
    blank = np.full((1, *pictures.rgb(pictures.shades(rows[0][1][:1], 1), 256).shape[1:]), pictures.GAP, np.uint8)
    cells = []
    for _, part in rows:
        cells += [pictures.rgb(pictures.shades(part, found.levels - 1), 256)] + [blank] * (columns - len(part))
    v = found.direction
    captions = [f"{found.shows}; {v.source}", "left: the code of the mean of each group; its members beside it"]
    if height == 1 and width > 1:  # a series: one below another
        names = [f"{name} {'mean' if i == 0 else i}" for name, _ in rows for i in range(columns)]
        return pictures.sheet(np.concatenate(cells), 1, rows=names, captions=captions)
    return pictures.sheet(
        np.concatenate(cells),
        columns,
        heads=["mean", *(str(i) for i in range(1, columns))],
        rows=[name for name, _ in rows],
        captions=captions,
    )
