"""Does a learned direction edit emoji as their artists did? Man to woman, and light skin to dark, on pairs that neither the VAE nor the direction has seen.

    python benchmarks/emoji_pairs.py [--out results/emoji-pairs.json] [--picture docs/pictures/emoji-pairs.png] [--steps 3500]

Pairs are real: two emoji of noto-emoji whose code points differ in the person (man, woman; the signs ♂, ♀) or in the skin tone, and in nothing else. All
that differ in these alone are a family ("health worker"); a fifth of the families is held out, from the training of the VAE too. The direction is
the difference of the mean codes of the other pairs (`pofx.tasks.edit`). What is compared, in pixels and in the features of a small network:

    no edit          the emoji itself against its real partner
    decoded          what its code decodes to, against the partner: no edit, with the blur of the VAE
    edited           what the code plus the direction decodes to, against the partner
    carried over     the emoji plus what the direction changes: x + E[x | z + d] − E[x | z], within the levels

"edited" against "decoded" is what the direction does; "carried over" against "no edit" is what an edit is worth, without the blur on either side.
Pairs of one family are alike, so that errors are of means over families.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _record import machine, tell, write
from torch import Tensor

import pofx
from pofx import pictures
from pofx.data import files
from pofx.data.pixels import memory_limit
from pofx.data.transforms import over_white
from pofx.model import Features
from pofx.models import VAE
from pofx.tasks.bulk import per_image
from pofx.tasks.edit import edit, learn
from pofx.training import Run, read_run
from pofx.workflows.features import features_run

MAN, WOMAN, MALE, FEMALE = "1f468", "1f469", "2642", "2640"
TONES = ("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff")  # Fitzpatrick 1-2 (light) to 6 (dark)
HELD_OUT = 5  # every fifth family
SHOWN = 7
SETTINGS: dict[str, Any] = {"latents": 64, "network": "mlp", "hidden": 512, "layers": 2, "scale": "shared"}
TRAINING: dict[str, Any] = {
    "batch_size": 64,
    "optimizer": "AdamW",
    "lr": 1e-3,
}  # Muon turns the wide layers of an mlp at ten times the price


def points(name: str) -> tuple[str, ...]:
    """The code points of an emoji, without the ones that only ask for colour.

    >>> points("emoji_u1f469_1f3fe_200d_1f9b1")
    ('1f469', '1f3fe', '200d', '1f9b1')
    """
    return tuple(code for code in name.removeprefix("emoji_u").split("_") if code != "fe0f")


def swapped(code: tuple[str, ...], swap: dict[str, str]) -> tuple[str, ...]:
    return tuple(swap.get(c, c) for c in code)


@dataclass(frozen=True)
class Pair:
    """Rows of the emoji before and after, and the family that both are of."""

    before: int
    after: int
    family: tuple[str, ...]


def family(code: tuple[str, ...]) -> tuple[str, ...]:
    """What is left without skin tones, and with one sign for man and woman.

    >>> family(points("emoji_u1f469_1f3fe_200d_2695")) == family(points("emoji_u1f468_200d_2695"))
    True
    """
    return swapped(tuple(c for c in code if c not in TONES), {WOMAN: MAN, FEMALE: MALE})


def pairs(names: Sequence[str], swap: dict[str, str]) -> list[Pair]:
    """All emoji that have one of the code points in `swap`, with the emoji where all of them are swapped; those without a partner are left out.

    >>> [(p.before, p.after) for p in pairs(["emoji_u1f469", "emoji_u1f468", "emoji_u2b50"], {MAN: WOMAN, MALE: FEMALE})]
    [(1, 0)]
    """
    codes = [points(name) for name in names]
    rows = {code: i for i, code in enumerate(codes)}
    found = [(i, rows.get(swapped(code, swap))) for i, code in enumerate(codes)]
    return [Pair(i, j, family(codes[i])) for i, j in found if j is not None and j != i]


EDITS = {"man to woman": {MAN: WOMAN, MALE: FEMALE}, "light to dark skin": {TONES[0]: TONES[4]}}


def held_out(name: tuple[str, ...]) -> bool:
    """Whether a family is held out: by a hash of its code points."""
    return blake2b("_".join(name).encode(), digest_size=4).digest()[0] % HELD_OUT == 0


def by_family(values: Tensor, chosen: Sequence[Pair]) -> dict[str, float]:
    """The mean over pairs' values `(n,)` of means over families, and its standard error."""
    groups: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for value, pair in zip(values.tolist(), chosen, strict=True):
        groups[pair.family].append(value)
    means = np.array([np.mean(group) for group in groups.values()])
    return {"mean": round(float(means.mean()), 4), "se": round(float(means.std(ddof=1) / len(means) ** 0.5), 4)}


def compared(without: Tensor, edited: Tensor, chosen: Sequence[Pair]) -> dict[str, Any]:
    """Distances to the partner `(n,)` without and with the edit; `gain` is the paired difference, above 0 where the edit is nearer."""
    return {
        "without": by_family(without, chosen),
        "with": by_family(edited, chosen),
        "gain": by_family(without - edited, chosen),
        "share_improved": by_family((edited < without).double(), chosen),
    }


def measure(model: VAE, features: Features, x: Tensor, all_pairs: list[Pair], name: str) -> tuple[dict[str, Any], Tensor]:
    """The comparison for one edit, and pictures `(n, 5, C, H, W)` of its held-out pairs."""
    learned = [p for p in all_pairs if not held_out(p.family)]
    chosen = [p for p in all_pairs if held_out(p.family)]
    before, after = (x[[getattr(p, side) for p in learned]] for side in ("before", "after"))
    # An emoji may be drawn alike on both sides (from behind, say); it teaches nothing
    differs = (before != after).flatten(1).any(1)
    direction = learn(model, name.replace(" ", "-"), after[differs], before[differs])
    chosen = [p for p in chosen if not torch.equal(x[p.before], x[p.after])]
    a, b = x[[p.before for p in chosen]], x[[p.after for p in chosen]]
    found = edit(model, a, {direction.name: 1.0}, {direction.name: direction})
    carried = (a.double() + found.x.double() - found.reconstruction.double()).clamp(0, 255)
    shown = torch.stack([t.double().cpu() for t in (a, found.reconstruction, found.x, carried, b)], 1)
    pixels = (shown - shown[:, -1:]).square().flatten(2).mean(2).sqrt()  # RMSE to the partner, in levels
    whole = shown.round().clamp(0, 255).to(torch.uint8)
    layers = per_image(features, lambda images, _: features.features(images), whole.flatten(0, 1)).unflatten(0, whole.shape[:2]).double()
    far = (layers - layers[:, -1:]).norm(dim=2)
    result = {
        "edit": name,
        "pairs_learned_from": int(differs.sum()),
        "pairs_held_out": len(chosen),
        "families_held_out": len({p.family for p in chosen}),
        "direction_accuracy_on_the_other_half": {"mean": direction.accuracy, "se": direction.accuracy_se},
    }
    for unit, distance in (("rmse_levels", pixels), ("feature_distance", far)):
        result[unit] = {
            "edited_against_decoded": compared(distance[:, 1], distance[:, 2], chosen),
            "carried_over_against_no_edit": compared(distance[:, 0], distance[:, 3], chosen),
            "edited_against_no_edit": compared(distance[:, 0], distance[:, 2], chosen),
        }
    first = {p.family: i for i, p in reversed(list(enumerate(chosen)))}  # one of a family
    return result, whole[sorted(first.values())[:SHOWN]]


def emoji() -> tuple[list[str], Tensor]:
    """All emoji of noto-emoji over white: names, and uint8 `(N, 3, 32, 32)`."""
    path = Path(os.environ["POFX_DATA"]) / "noto_emoji32.npz"
    arrays = files.npz_arrays(path, memory_limit(None))
    names = [str(name) for part in ("train", "test") for name in arrays[f"name_{part}"]]
    pictures = np.concatenate([over_white(np.moveaxis(arrays[f"x_{part}"], 3, 1)) for part in ("train", "test")])
    return names, torch.from_numpy(np.ascontiguousarray(pictures))


def draw(images: Tensor, path: Path) -> None:
    """`(n, 5, C, H, W)` as a sheet, a pair a row."""
    heads = ("emoji", "decoded", "edited", "carried over", "its partner")
    rows = np.concatenate([pictures.rgb(row, 256) for row in images])
    pictures.save(pictures.sheet(rows, 2 * len(heads), heads=heads, group=len(heads), scale=2), path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Does a learned direction edit emoji as their artists did?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep the runs here, and use those that are there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names, x = emoji()
    held = torch.tensor([held_out(family(points(name))) for name in names])
    with tempfile.TemporaryDirectory() as folder:
        root = options.folder or Path(folder)
        root.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(root / "emoji.npz", x_train=x[~held].numpy(), x_test=x[held].numpy())
        data = pofx.load_data(root / "emoji.npz")
        torch.manual_seed(options.seed)
        run = pofx.train(
            VAE(data.space, **SETTINGS),
            data,
            out=root / "vae",
            steps=options.steps,
            **TRAINING,
            seed=options.seed,
            threads=options.threads,
            precision="32",
            quiet=True,
        )
        assert isinstance(run, Run)
        training = read_run(run.path).training
        features = features_run(data, cache=root / "features")
    rows, shown = [], []
    assert isinstance(run.model, VAE)
    for name, swap in EDITS.items():
        row, images = measure(run.model, features.model, x, pairs(names, swap), name)
        tell(row)
        rows.append(row)
        shown.append(images)
    if options.picture is not None:
        draw(torch.cat(shown), options.picture)
    facts = {
        "pofx": pofx.__version__,
        **machine(options.threads),
        "data": {
            "name": "noto-emoji, families held out",
            "train": len(data.train),
            "held_out": int(held.sum()),
            "fingerprint": data.fingerprint,
        },
        "model": {"name": "vae"} | SETTINGS,
        "steps": options.steps,
        "training": TRAINING,
        "minutes": training["minutes"],
        "valid": dict(run.metrics),
        "features": features.name,
    }
    write(options.out, facts | {"rows": rows})


if __name__ == "__main__":
    main()
