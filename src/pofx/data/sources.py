"""What a person types → a `Source`. DATA is `name[:part][:transform]`.

    digits, shapes, points-grid, points-ring, mnist, fashion-mnist, binarized-mnist, cifar10, ir-solar, noto-emoji, timeseries:NAME    named sets
    path                a folder, .npz, .npy, IDX (.gz), .parquet, or one image; write ./digits for a folder called like a set
    s3://bucket/path    the same in an object store (gs://…, whatever fsspec knows; see `pofx.data.objects`)
    hf:owner/name       a set on the Hub
    text:FILE           a text, as images 1×1×64 whose levels are characters (`pofx.data.text`)
    series:FILE.csv     series, one a row or one long column, as images 1×1×W whose levels are steps of their values (`pofx.data.series`)
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

from pofx.data import files, objects, points, series, shapes
from pofx.data.arrays import Numbered, Rows, Source, as_images
from pofx.data.objects import is_url
from pofx.data.series import Scale, read_series
from pofx.data.text import PREFIX as TEXT
from pofx.data.text import read_text
from pofx.data.transforms import over_white
from pofx.errors import InputError, nearest

PARTS = ("train", "valid", "calib", "test")
TRANSFORMS = ("threshold", "dynamic")
PREFIXES = {TEXT: "text file", series.PREFIX: "file of series"}


@dataclass(frozen=True)
class Reading:
    """How a set is read, where that does not follow from its name.

    Attributes:
        limit: bytes that one array may declare.
        size: windows of a text or of a long series, (1, W).
        levels: of a scale that has to be fitted; None: as many as there can be.
        split_seed: chooses the test part, where a scale is fitted to the rest.
        alphabet, scale: those of a run; None: found in the data.
        whole: no part was asked for: all of a file in its order.
    """

    limit: int
    size: tuple[int, int] | None = None
    levels: int | None = None
    split_seed: int = 0
    alphabet: str | None = None
    scale: Scale | None = None
    whole: bool = False


@dataclass(frozen=True)
class Spec:
    """DATA, taken apart.

    Attributes:
        text: what was typed.
        base: without part and transform: a name, a path, hf:owner/name, text:FILE or series:FILE.
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
        if is_url(self.base):
            return self.base.rstrip("/").rpartition("/")[2]
        return self.base if is_name(self.base) else Path(self.file).expanduser().resolve().name or self.base

    @property
    def file(self) -> str:
        """Of a path, or of text:FILE or series:FILE, the path."""
        return _file(self.base)


def parse(spec: str | Path) -> Spec:
    """Take DATA apart; raises InputError.

    >>> parse("mnist:test:threshold")
    Spec(text='mnist:test:threshold', base='mnist', part='test', transform='threshold')
    """
    text = str(spec)
    if isinstance(spec, Path):  # a Path is a path, whatever it is called
        return Spec(text, str(spec) if spec.is_absolute() else f"./{spec}")
    base, part, transform = text, None, None
    while not _exists(_file(base)):  # a folder may have a colon in its name
        head, colon, last = base.rpartition(":")
        if not colon or not head:
            break
        if last in PARTS and part is None:
            base, part = head, last
        elif last in TRANSFORMS and transform is None:
            base, transform = head, last
        elif last in (*PARTS, *TRANSFORMS):
            raise InputError(f"{text!r}: one part and one transform at most, e.g. {head.split(':')[0]}:test:threshold.")
        elif head + colon in PREFIXES:
            break
        elif (head in SETS and head != "timeseries") or _exists(_file(head)):
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
    if is_url(path) and path.rpartition(":")[2] not in (*PARTS, *TRANSFORMS):
        return True  # who asks there will be told otherwise
    try:
        return Path(path).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long a name, a zero byte, no such user
        return False


def prefix(base: str) -> str:
    """text: or series:, or nothing."""
    return next((p for p in PREFIXES if base.startswith(p)), "")


def _file(base: str) -> str:
    return base.removeprefix(prefix(base))


def is_series(base: str) -> bool:
    """Whether levels are steps of a scale: series:FILE and timeseries:NAME."""
    return prefix(base) == series.PREFIX or base.split(":")[0] == "timeseries"


def find(spec: Spec, how: Reading) -> Source:
    """The set that was asked for; raises InputError."""
    base, kind = spec.base, prefix(spec.base)
    if kind:
        if not spec.file or not _exists(spec.file):
            example = "text:book.txt" if kind == TEXT else "series:power.csv"
            raise InputError(f"There is no {PREFIXES[kind]} {spec.file!r} (looked in {Path.cwd()}). Give one that exists, e.g. {example}.")
        path = objects.fetched(spec.file) if is_url(spec.file) else Path(spec.file).expanduser()
        if kind == TEXT:
            return read_text(path, spec.name, how.limit, how.size, how.alphabet)
        return read_series(
            path, spec.name, how.limit, size=how.size, levels=how.levels, scale=how.scale, split_seed=how.split_seed, whole=how.whole
        )
    if base.startswith("hf:"):
        return files.read_hub(base[3:], base)
    if is_url(base):
        return files.read_url(base, spec.name, how.limit)
    name, _, rest = base.partition(":")
    if name in SETS and (not rest or name == "timeseries"):
        return _named(name, rest, how)
    path = Path(base)
    if _exists(base):
        return files.read(path.expanduser(), spec.name, how.limit)
    if path.suffix or "/" in base or os.sep in base:
        raise InputError(f"There is no file or folder {base!r} (looked in {Path.cwd()}). Give a path that exists, or a set such as digits.")
    raise InputError(f"There is no set, file or folder {base!r}. {nearest(name, SETS)}")


def _named(name: str, rest: str, how: Reading) -> Source:
    found = SETS[name]
    root = os.environ.get("POFX_DATA")
    if name in DRAWN or root:
        source = found.read(Path(root or "").expanduser(), rest, how)
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


def _digits(root: Path, rest: str, how: Reading) -> Source:
    """1,797 handwritten digits, 8×8, values 0 … 16 (UCI optdigits test part, in scikit-learn). No published test part."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    x = as_images(bunch.images.astype(np.uint8), "digits")
    return Source({"all": Rows(x, Numbered("digits", np.arange(len(x))), bunch.target)}, 17, tuple("0123456789"))


def _shapes(root: Path, rest: str, how: Reading) -> Source:
    """6,000 coloured shapes whose factors are known, RGB 16×16; see `pofx.data.shapes`. No published test part."""
    made = shapes.factors(np.arange(shapes.COUNT))
    x = shapes.render(made).numpy()
    return Source({"all": Rows(x, Numbered(shapes.NAME, np.arange(len(x))), made[:, 0].numpy())}, 256, shapes.KINDS)


def _points(name: str) -> Callable[[Path, str, Reading], Source]:
    def read(root: Path, rest: str, how: Reading) -> Source:
        """20,000 points in the plane, as images of two pixels; see `pofx.data.points`. No published test part."""
        x, mode = (t.numpy() for t in points.draw(name))
        return Source({"all": Rows(x, Numbered(name, np.arange(len(x))), mode)}, 256)

    return read


def _idx_set(name: str, *folders: str, class_names: tuple[str, ...]) -> Callable[[Path, str, Reading], Source | None]:
    def read(root: Path, rest: str, how: Reading) -> Source | None:
        for folder in folders:
            parts = files._idx_pair(root / folder)
            if len(parts) == 2:
                found = files.read_idx_parts(parts, name, how.limit, 256)
                return Source(found.parts, 256, class_names)
        return None

    return read


def _npz_set(
    name: str, file: str, levels: int, class_names: tuple[str, ...] | None = None
) -> Callable[[Path, str, Reading], Source | None]:
    def read(root: Path, rest: str, how: Reading) -> Source | None:
        if not (root / file).is_file():
            return None
        found = files.read_npz(root / file, name, how.limit)
        return Source(found.parts, levels, class_names or found.class_names)

    return read


def _noto_emoji(root: Path, rest: str, how: Reading) -> Source | None:
    """RGBA; composited over white, as the files of a folder are. The names of their code points are captions."""
    found = _npz_set("noto-emoji", "noto_emoji32.npz", 256)(root, rest, how)
    if found is None:
        return None
    names = files.npz_arrays(root / "noto_emoji32.npz", how.limit, lambda key: key.startswith("name_"))
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


def _timeseries(root: Path, rest: str, how: Reading) -> Source | None:
    """Real series as images 1×1×W, on a scale that was fitted to train; long ones are cut into windows."""
    path = root / "timeseries.npz"
    if not path.is_file():
        return None
    arrays = files.npz_arrays(path, how.limit)
    suffixes = ("_x_train", "_train")
    keys = {
        key.removesuffix(s): key for s in suffixes for key in arrays if key.endswith(s) and not key.endswith(("_y_train", "label_train"))
    }
    known = {name: key for name, key in keys.items() if not name.endswith("_x")}
    if rest not in known:
        hint = nearest(rest, known) if rest else f"Known: {', '.join(sorted(known))}."
        raise InputError(f"Which series? timeseries:{rest or 'NAME'} is not there. {hint} Try timeseries:{min(known)}.")
    train, test = (arrays[known[rest].removesuffix("train") + part].astype(np.float64) for part in ("train", "test"))
    for part, x in (("train", train), ("test", test)):
        if not np.isfinite(x).all():
            raise InputError(f"{path}: {rest}, {part}, has values that are not finite. Fill or drop them.")
    name = f"timeseries:{rest}"
    if train.ndim == 1:
        test = test[len(train) :] if np.array_equal(test[: len(train)], train) else test  # some are published with their past
        width = series.window(how.size)
        parts = series.columns(train, test, name, width, whole=False)
        return series.source(parts, name, how.levels, how.scale, notes=(f"windows of {width} values",))
    numbered = {"train": (train, np.arange(len(train))), "test": (test, np.arange(len(test)))}
    return series.source(numbered, name, how.levels, how.scale, {part: arrays[f"{rest}_y_{part}"].astype(str) for part in numbered})


@dataclass(frozen=True)
class Named:
    """A named set: its reader, its place on the Hub if it has one, and the files it is looked up as."""

    read: Callable[[Path, str, Reading], Source | None]
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
