"""What a person types → a `Source`. DATA is `name[:part][:transform]`.

    digits, shapes, points-grid, points-ring, mnist, fashion-mnist, binarized-mnist, cifar10, ir-solar, noto-emoji, timeseries:NAME    named sets
    path                a folder, .npz, .npy, IDX (.gz), .parquet, or one image; write ./digits for a folder called like a set
    hf:owner/name       a set on the Hub
    text:FILE           a text, as images 1×1×64 whose levels are characters (`pofx.data.text`)
    part                train, valid, calib or test
    transform           threshold (two levels, at the middle), dynamic (two levels, drawn)

`digits` is inside scikit-learn, `shapes` and points are drawn (`pofx.data.shapes`, `pofx.data.points`). The other names are looked up in
the folder $POFX_DATA, then on the Hub where it has them.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pofx.data import files, points, shapes
from pofx.data.arrays import Numbered, Rows, Source, as_images
from pofx.data.text import PREFIX, read_text
from pofx.data.transforms import over_white
from pofx.errors import InputError, nearest

PARTS = ("train", "valid", "calib", "test")
TRANSFORMS = ("threshold", "dynamic")


@dataclass(frozen=True)
class Spec:
    """DATA, taken apart.

    Attributes:
        text: what was typed.
        base: without part and transform: a name, a path, hf:owner/name, or text:FILE.
        part: train, valid, calib, test, or None.
        transform: threshold, dynamic, or None.
    """

    text: str
    base: str
    part: str | None = None
    transform: str | None = None

    @property
    def name(self) -> str:
        """For headings: a named set as typed, a path by its last part."""
        return self.base if is_name(self.base) else Path(self.file).expanduser().resolve().name or self.base

    @property
    def file(self) -> str:
        """Of a path, or of text:FILE, the path."""
        return self.base.removeprefix(PREFIX)


def parse(spec: str | Path) -> Spec:
    """Take DATA apart; raises InputError.

    >>> parse("mnist:test:threshold")
    Spec(text='mnist:test:threshold', base='mnist', part='test', transform='threshold')
    """
    text = str(spec)
    if isinstance(spec, Path):  # a Path is a path, whatever it is called
        return Spec(text, str(spec) if spec.is_absolute() else f"./{spec}")
    base, part, transform = text, None, None
    while not _exists(base.removeprefix(PREFIX)):  # a folder may have a colon in its name
        head, colon, last = base.rpartition(":")
        if not colon or not head:
            break
        if last in PARTS and part is None:
            base, part = head, last
        elif last in TRANSFORMS and transform is None:
            base, transform = head, last
        elif last in (*PARTS, *TRANSFORMS):
            raise InputError(f"{text!r}: one part and one transform at most, e.g. {head.split(':')[0]}:test:threshold.")
        elif head + colon == PREFIX:
            break
        elif (head in SETS and head != "timeseries") or _exists(head.removeprefix(PREFIX)):
            raise InputError(f"{text!r}: {last!r} is no part and no transform. {nearest(last, (*PARTS, *TRANSFORMS))}")
        else:
            break
    if not base:
        raise InputError("DATA is empty. Try digits, or a folder of images.")
    return Spec(text, base, part, transform)


def is_name(base: str) -> bool:
    """Whether this is a named set or a set on the Hub (and not a path)."""
    return base.split(":")[0] in SETS or base.startswith("hf:")


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long a name, a zero byte, no such user
        return False


def is_text(base: str) -> bool:
    """Whether this is text:FILE."""
    return base.startswith(PREFIX)


def find(spec: Spec, limit: int, size: tuple[int, int] | None = None, alphabet: str | None = None) -> Source:
    """The set that was asked for; `limit` bytes may be declared by one array; `size` and `alphabet` are those of a text; raises InputError."""
    base = spec.base
    if is_text(base):
        if not spec.file or not _exists(spec.file):
            raise InputError(f"There is no text file {spec.file!r} (looked in {Path.cwd()}). Give one that exists, e.g. text:book.txt.")
        return read_text(Path(spec.file).expanduser(), spec.name, limit, size, alphabet)
    if base.startswith("hf:"):
        return files.read_hub(base[3:], base)
    name, _, rest = base.partition(":")
    if name in SETS and (not rest or name == "timeseries"):
        return _named(name, rest, limit)
    path = Path(base)
    if _exists(base):
        return files.read(path.expanduser(), spec.name, limit)
    if path.suffix or "/" in base or os.sep in base:
        raise InputError(f"There is no file or folder {base!r} (looked in {Path.cwd()}). Give a path that exists, or a set such as digits.")
    raise InputError(f"There is no set, file or folder {base!r}. {nearest(name, SETS)}")


def _named(name: str, rest: str, limit: int) -> Source:
    found = SETS[name]
    root = os.environ.get("POFX_DATA")
    if name in DRAWN or root:
        source = found.read(Path(root or "").expanduser(), rest, limit)
        if source is not None:
            return source
    where = f"in POFX_DATA={root}" if root else "anywhere: POFX_DATA is not set"
    fix = f"export POFX_DATA=FOLDER, where FOLDER holds {found.files}"
    if not found.hub:
        raise InputError(f"The set {name!r} is not {where}. It is not on the Hub. Fix: {fix}.")
    try:
        return files.read_hub(found.hub, name)
    except InputError as error:
        raise InputError(f"The set {name!r} is not {where}, and hf:{found.hub} did not answer.\n{error}\nFix: {fix}.") from error


# Named sets: each reads its files below $POFX_DATA, or returns None where they are not there ---------------------------------------------


def _digits(root: Path, rest: str, limit: int) -> Source:
    """1,797 handwritten digits, 8×8, values 0 … 16 (UCI optdigits test part, in scikit-learn). No published test part."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    x = as_images(bunch.images.astype(np.uint8), "digits")
    return Source({"all": Rows(x, Numbered("digits", np.arange(len(x))), bunch.target)}, 17, tuple("0123456789"))


def _shapes(root: Path, rest: str, limit: int) -> Source:
    """6,000 coloured shapes whose factors are known, RGB 16×16; see `pofx.data.shapes`. No published test part."""
    made = shapes.factors(np.arange(shapes.COUNT))
    x = shapes.render(made).numpy()
    return Source({"all": Rows(x, Numbered(shapes.NAME, np.arange(len(x))), made[:, 0].numpy())}, 256, shapes.KINDS)


def _points(name: str) -> Callable[[Path, str, int], Source]:
    def read(root: Path, rest: str, limit: int) -> Source:
        """20,000 points in the plane, as images of two pixels; see `pofx.data.points`. No published test part."""
        x, mode = (t.numpy() for t in points.draw(name))
        return Source({"all": Rows(x, Numbered(name, np.arange(len(x))), mode)}, 256)

    return read


def _idx_set(name: str, *folders: str, class_names: tuple[str, ...]) -> Callable[[Path, str, int], Source | None]:
    def read(root: Path, rest: str, limit: int) -> Source | None:
        for folder in folders:
            parts = files._idx_pair(root / folder)
            if len(parts) == 2:
                found = files.read_idx_parts(parts, name, limit, 256)
                return Source(found.parts, 256, class_names)
        return None

    return read


def _npz_set(name: str, file: str, levels: int, class_names: tuple[str, ...] | None = None) -> Callable[[Path, str, int], Source | None]:
    def read(root: Path, rest: str, limit: int) -> Source | None:
        if not (root / file).is_file():
            return None
        found = files.read_npz(root / file, name, limit)
        return Source(found.parts, levels, class_names or found.class_names)

    return read


def _noto_emoji(root: Path, rest: str, limit: int) -> Source | None:
    """RGBA; composited over white, as the files of a folder are. The names of their code points are captions."""
    found = _npz_set("noto-emoji", "noto_emoji32.npz", 256)(root, rest, limit)
    if found is None:
        return None
    names = files.npz_arrays(root / "noto_emoji32.npz", limit, lambda key: key.startswith("name_"))
    parts = {}
    for part, rows in found.parts.items():
        own = names.get(f"name_{part}")
        written = (
            {} if own is None or len(own) != len(rows.ids) else {"caption": np.array([emoji_caption(str(name)) for name in own], object)}
        )
        parts[part] = Rows(over_white(np.asarray(rows.images)), rows.ids, rows.y, written)
    return Source(parts, 256, notes=("alpha over white",))


def emoji_caption(name: str) -> str:
    """What the code points in the name of an emoji's file are called, without joiners and without what all such names begin with.

    >>> emoji_caption("emoji_u1f469_1f3fe_200d_1f9b1")
    'woman type-5 component curly hair'
    """
    found = []
    for code in name.removeprefix("emoji_u").split("_"):
        if code not in ("200d", "fe0f") and code.isalnum():
            words = unicodedata.name(chr(int(code, 16)), code).lower()
            found.append(
                words.removeprefix("emoji modifier fitzpatrick ").removeprefix("regional indicator symbol ").removeprefix("emoji ")
            )
    return " ".join(found)


def _timeseries(root: Path, rest: str, limit: int) -> Source | None:
    """Real series as images 1×1×N: 256 equal steps between the least and the largest value of train; test is clipped to them."""
    path = root / "timeseries.npz"
    if not path.is_file():
        return None
    arrays = files.npz_arrays(path, limit)
    known = sorted(key.removesuffix("_x_train") for key in arrays if key.endswith("_x_train"))
    if rest not in known:
        hint = nearest(rest, known) if rest else f"Known: {', '.join(known)}."
        raise InputError(f"Which series? timeseries:{rest or 'NAME'} is not there. {hint} Try timeseries:{known[0]}.")
    train = arrays[f"{rest}_x_train"].astype(np.float64)
    low, high = float(train.min()), float(train.max())
    parts = {}
    for part in ("train", "test"):
        x = arrays[f"{rest}_x_{part}"].astype(np.float64)
        if not np.isfinite(x).all():
            raise InputError(f"{path}: {rest}_x_{part} has values that are not finite. Fill or drop them.")
        steps = np.clip(np.floor((x - low) / ((high - low) or 1) * 256), 0, 255).astype(np.uint8)
        parts[part] = Rows(
            steps[:, None, None], Numbered(f"timeseries:{rest}/{part}", np.arange(len(x))), arrays[f"{rest}_y_{part}"].astype(str)
        )
    return Source(parts, 256, notes=(f"256 steps of {low:.6g} … {high:.6g}",))


@dataclass(frozen=True)
class Named:
    """A named set: its reader, its place on the Hub if it has one, and the files it is looked up as."""

    read: Callable[[Path, str, int], Source | None]
    hub: str | None
    files: str


_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_DIGITS = tuple("0123456789")

DRAWN = ("digits", "shapes", *points.NAMES)  # nothing has to be found for these

SETS: dict[str, Named] = {
    "digits": Named(_digits, None, "nothing: it is inside scikit-learn"),
    "shapes": Named(_shapes, None, "nothing: it is drawn"),
    **{name: Named(_points(name), None, "nothing: it is drawn") for name in points.NAMES},
    "mnist": Named(_idx_set("mnist", "mnist", class_names=_DIGITS), "ylecun/mnist", "mnist/train-images-idx3-ubyte.gz and its three kin"),
    "fashion-mnist": Named(
        _idx_set("fashion-mnist", "fashion", "fashion-mnist", class_names=_FASHION),
        "zalando-datasets/fashion_mnist",
        "fashion/train-images-idx3-ubyte.gz and its three kin",
    ),
    "binarized-mnist": Named(
        _npz_set("binarized-mnist", "binarized_mnist.npz", 2, _DIGITS), None, "binarized_mnist.npz (x_train, x_valid, x_test of 0 and 1)"
    ),
    "cifar10": Named(_npz_set("cifar10", "cifar10.npz", 256, _CIFAR), "uoft-cs/cifar10", "cifar10.npz (x_train, y_train, x_test, y_test)"),
    "ir-solar": Named(_npz_set("ir-solar", "ir_solar_modules.npz", 256), None, "ir_solar_modules.npz (x_train, y_train, x_test, y_test)"),
    "noto-emoji": Named(_noto_emoji, None, "noto_emoji32.npz (x_train, x_test, RGBA)"),
    "timeseries": Named(_timeseries, None, "timeseries.npz (NAME_x_train, NAME_y_train, NAME_x_test, NAME_y_test)"),
}
