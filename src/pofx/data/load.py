"""`load_data`: what a person typed → four parts of one set of small integers, with every conversion on record.

    find it (sources) → gray, size, levels, threshold (convert) → hash the pixels → split by hash → keep/drop labels

Hashes are taken of the pixels that a model will see, so two images that become equal by conversion count as duplicates too. `:dynamic`
draws happen after the split, when images are taken: for training as a function of (seed, epoch, image), elsewhere of the image alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pofx.data import sources, text
from pofx.data.arrays import Numbered, Rows, Source, as_images, as_labels, number_labels
from pofx.data.convert import Found, Options, convert
from pofx.data.part import CHUNK, Split, check_rows, end_to_end
from pofx.data.pixels import memory_limit as bytes_allowed
from pofx.data.series import Scale
from pofx.data.split import split
from pofx.data.transforms import RESAMPLING, bernoulli, parse_size
from pofx.data.unread import First, Unread, heading, joined
from pofx.errors import InputError
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.views import View

PARTS = sources.PARTS
ORDERED = 1 << 16  # images whose places are drawn at once
LABELLED = 1 / 8  # of what is read, where few images have labels


@dataclass(frozen=True, eq=False)
class Data:
    """A set of images, split four ways.

    Attributes:
        name: what was typed, e.g. "mnist:threshold".
        space: what an image of it may be.
        train, valid, calib, test: `calib` is read by alarms, rejects and temperatures only, never by training or selection.
        class_names: names of labels 0, 1, …, where they have names.
        transforms: conversions by name, in the order they were made.
        skipped: files that could not be read, "path: reason".
        fingerprint: hash of the pixels, labels, split and transforms; equal on every machine, in memory or on disk.
        title: the set without its conversions, e.g. "mnist", or the last part of a path.
        arguments: what makes `load_data` return this again.
        alphabet: of a text, the character of each level; else None.
        scale: of series, the values that levels stand for (`scale.decode(x)`); else None.
        view: the one that `y` was read for (see `told`); None where it is the label.
        labels: how many labels of train were kept (see `few_labels`); None for all.
    """

    name: str
    space: ImageSpace
    train: Split
    valid: Split
    calib: Split
    test: Split
    class_names: tuple[str, ...] | None = None
    transforms: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    fingerprint: str = ""
    title: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    alphabet: str | None = None
    scale: Scale | None = None
    view: View | None = None
    labels: int | None = None

    @property
    def dynamic(self) -> bool:
        """Whether training images are redrawn by (seed, epoch, image)."""
        return self.train.drawn is not None

    @property
    def heading(self) -> str:
        """What is printed above every number: "mnist [threshold]"."""
        kept = () if self.labels is None else (f"{self.labels} labels",)
        return heading(self.title or self.name, (*self.transforms, *kept))

    @property
    def parts(self) -> dict[str, Split]:
        return {part: getattr(self, part) for part in PARTS}

    @property
    def classes(self) -> int:
        """How many classes labels are from; 0 without labels. Classes that were dropped still count."""
        if self.class_names:
            return len(self.class_names)
        return max((int(s.y.max()) + 1 for s in self.parts.values() if s.y is not None and s.y.ndim == 1 and len(s)), default=0)

    def told(self, view: View | None) -> Data:
        """This set with `y` as `view` reads it (`Split.told`), in each part; the fingerprint then covers what was read."""
        if view is None or view == self.view:
            return self
        parts = {name: part.told(view) for name, part in self.parts.items()}
        if all(parts[name] is part for name, part in self.parts.items()):
            return self
        digest = sha256(self.fingerprint.encode())
        for part in parts.values():
            assert part.y is not None
            digest.update(part.y.numpy().tobytes())
        return replace(self, **parts, fingerprint=digest.hexdigest()[:32], view=view)

    def few_labels(self, n: int, *, seed: int = 0, unlabelled: bool = False) -> Data:
        """This set with the labels of `n` training images, the same number of each class, drawn by `seed`; valid, calib and test keep theirs.

        Args:
            unlabelled: keep the other images, with y = −1. Those with labels are then repeated, so that they are LABELLED of what is read:
                a batch would otherwise seldom hold one. Without, the others are left out.

        Raises:
            InputError: no labels, fewer than one a class, or more than there are.

        >>> few = load_data("digits").few_labels(20, seed=1)
        >>> len(few.train), few.train.y.bincount().tolist(), few.heading
        (20, [2, 2, 2, 2, 2, 2, 2, 2, 2, 2], 'digits [20 labels]')
        """
        y = self.train.y
        if y is None or y.ndim != 1 or self.labels is not None:
            raise InputError(f"--labels {n}: {self.heading} {'has no labels' if self.labels is None else 'has few labels already'}.")
        kept = self.train.balanced(n, seed=seed)
        if unlabelled:
            told = torch.full_like(y, -1)
            told[torch.from_numpy(kept)] = y[torch.from_numpy(kept)]
            times = max(1, round((len(y) - n) * LABELLED / (1 - LABELLED) / n))
            train = replace(self.train, y=told).select(np.concatenate([np.arange(len(y)), *[kept] * (times - 1)]))
        else:
            train = self.train.select(kept)
        assert train.y is not None
        digest = sha256(self.fingerprint.encode() + train.keys.astype("<u8").tobytes() + train.y.numpy().astype("<i8").tobytes())
        return replace(
            self,
            train=train,
            labels=n,
            fingerprint=digest.hexdigest()[:32],
            arguments=self.arguments | {"labels": n, "label_seed": seed, "unlabelled": unlabelled},
        )

    def train_batch(self, index: Tensor, *, seed: int, epoch: int) -> tuple[Tensor, Tensor | None]:
        """What training reads: rows `index` int64 `(n,)` of train, redrawn by (seed, epoch, image) if the set is `:dynamic`."""
        if self.train.drawn is None:
            return self.train.take(index)
        index = check_rows(index, len(self.train))
        x = bernoulli(self.train.pixels.read(index), self.train.drawn, Noise(seed, index), f"dynamic/{epoch}")
        return x, None if self.train.y is None else self.train.y[index]

    def to_json(self) -> dict[str, Any]:
        """For model.json: `load_data(**json["spec"])` makes this set again (for arrays it cannot, and says so)."""
        return {
            "name": self.name,
            "heading": self.heading,
            "spec": dict(self.arguments),
            "space": self.space.to_json(),
            "transforms": list(self.transforms),
            "resampling": RESAMPLING,
            "counts": {part: len(s) for part, s in self.parts.items()},
            "class_names": None if self.class_names is None else list(self.class_names),
            "skipped": len(self.skipped),
            "fingerprint": self.fingerprint,
        } | _levels_mean(self.alphabet, self.scale)


def _options(
    size: Any = None,
    levels: Any = None,
    gray: bool = False,
    keep_labels: Any = (),
    drop_labels: Any = (),
    split_seed: int = 0,
    strict: bool = False,
    limit: int | str | None = None,
) -> Options:
    if levels is not None and (not isinstance(levels, int) or isinstance(levels, bool) or not 2 <= levels <= 256):
        raise InputError(f"--levels {levels!r}: a whole number 2 … 256 is needed, e.g. --levels 16.")
    keep, drop = _list(keep_labels), _list(drop_labels)
    if keep and drop:
        raise InputError("--keep-labels and --drop-labels were both given; use one of them.")
    return Options(parse_size(size), levels, bool(gray), keep, drop, int(split_seed), bool(strict), bytes_allowed(limit))


def _list(labels: Any) -> tuple[str, ...]:
    if labels is None:
        return ()
    if isinstance(labels, (str, int)):
        labels = str(labels).split(",")
    return tuple(str(label).strip() for label in labels if str(label).strip())


def load_data(
    spec: str | Path | Tensor | NDArray[Any] | tuple[Any, Any],
    *,
    size: str | int | tuple[int, int] | None = None,
    levels: int | None = None,
    gray: bool = False,
    keep_labels: Sequence[int | str] | str = (),
    drop_labels: Sequence[int | str] | str = (),
    split_seed: int = 0,
    strict: bool = False,
    memory_limit: int | str | None = None,
    alphabet: str | None = None,
    scale: Scale | Mapping[str, Any] | None = None,
    labels: int | None = None,
    label_seed: int = 0,
    unlabelled: bool = False,
) -> Data:
    """Load a set of images and split it into train, valid, calib and test.

    Args:
        spec: a name (`digits`, `mnist:threshold`), a path, `hf:owner/name`, `text:FILE`, `series:FILE.csv`, an array or tensor of images, or
            a pair (images, labels).
        size: resize to H×W: `"40x24"`, or 28 for 28×28 (box filter; see `pofx.data.transforms`); of a text or a long series "1xN": windows of N.
        levels: fewer values a sub-pixel: ⌊x·levels/old⌋. An array whose values are all below `levels` is taken to have that many already.
            Of series: steps of the scale.
        gray: BT.601 luma of colour images.
        keep_labels, drop_labels: classes, by name or number, in train, valid and calib; test keeps all.
        split_seed: another split of the same images.
        strict: one file that cannot be read is an error; otherwise it is skipped and listed in `skipped`.
        memory_limit: bytes of decoded pixels above which the set stays on disk ("2G"; $POFX_MEMORY_LIMIT).
        alphabet: of text:FILE, the character of each level; by default those that the text has.
        scale: of series, the values that levels stand for; by default fitted to what is not test.
        labels, label_seed, unlabelled: keep the labels of so many training images; see `Data.few_labels`.

    Raises:
        InputError: nothing found, nothing readable, mixed sizes without `size`, wrong dtype, shape or values, labels missing where needed.

    >>> data = load_data("digits")
    >>> str(data.space), [len(s) for s in (data.train, data.valid, data.calib, data.test)]
    ('1×8×8, 17 levels', [1294, 72, 72, 359])
    """
    options = _options(size, levels, gray, keep_labels, drop_labels, split_seed, strict, memory_limit)
    parsed, source = _find(spec, options, alphabet, Scale.of(scale))
    if parsed.part:
        raise InputError(
            f"{parsed.text!r} is one part; training and splitting need the whole set. Use {parsed.text.replace(f':{parsed.part}', '', 1)!r}."
        )
    found = convert(parsed, source, options)
    if found.alphabet is not None and (windows := sum(map(len, found.parts.values()))) < text.FEWEST:
        width = found.space.width
        raise InputError(
            f"{parsed.text} makes {windows} window{'s' * (windows > 1)} of {width} characters; train, valid, calib and test need {text.FEWEST}. "
            f"Give a longer text, or shorter windows: --size 1x{max(1, windows * width // text.FEWEST)}"
        )
    parts = {}
    for part, (origin, rows) in split({k: s.keys for k, s in found.parts.items()}, options.split_seed).items():
        rows = rows if part == "test" else _by_label(found, origin, rows, options)
        parts[part] = replace(found.parts[origin].select(rows), heading=heading(f"{parsed.name} {part}", found.transforms))
    if not len(parts["train"]):
        raise InputError(f"{parsed.text}: no image is left for train after choosing labels. Keep more labels.")
    is_array = not isinstance(spec, (str, Path))
    arguments = {
        "spec": None if is_array else _again(parsed),
        "size": None if options.size is None else f"{options.size[0]}x{options.size[1]}",
        "levels": options.levels,
        "gray": options.gray,
        "keep_labels": list(options.keep),
        "drop_labels": list(options.drop),
        "split_seed": options.split_seed,
        "strict": options.strict,
    } | _levels_mean(found.alphabet, found.scale)
    fingerprint = _fingerprint(found, parts)
    data = Data(
        parsed.text,
        found.space,
        **parts,
        class_names=found.class_names,
        transforms=found.transforms,
        skipped=found.skipped,
        fingerprint=fingerprint,
        title=parsed.name,
        arguments=arguments,
        alphabet=found.alphabet,
        scale=found.scale,
    )
    return data if labels is None else data.few_labels(labels, seed=label_seed, unlabelled=unlabelled)


def load_images(
    spec: str | Path | Tensor | NDArray[Any] | tuple[Any, Any],
    *,
    size: str | int | tuple[int, int] | None = None,
    levels: int | None = None,
    gray: bool = False,
    keep_labels: Sequence[int | str] | str = (),
    drop_labels: Sequence[int | str] | str = (),
    split_seed: int = 0,
    strict: bool = False,
    memory_limit: int | str | None = None,
    alphabet: str | None = None,
    scale: Scale | Mapping[str, Any] | None = None,
) -> tuple[Split, ImageSpace]:
    """The images to score or look at: `name:part` is that part, a named set alone its test part, anything else all of it in order.

    Arguments and errors are those of `load_data`; a part is the one that `load_data` makes.

    >>> part, space = load_images("digits:valid")
    >>> len(part), part.heading
    (72, 'digits valid')
    """
    options = _options(size, levels, gray, keep_labels, drop_labels, split_seed, strict, memory_limit)
    parsed, source = _find(spec, options, alphabet, Scale.of(scale), whole=True)
    found = convert(parsed, source, options)
    part = parsed.part or ("test" if isinstance(spec, str) and sources.is_name(parsed.base) else None)
    if part:
        origin, rows = split({k: s.keys for k, s in found.parts.items()}, options.split_seed)[part]
        rows = rows if part == "test" else _by_label(found, origin, rows, options)
        return replace(found.parts[origin].select(rows), heading=heading(f"{parsed.name} {part}", found.transforms)), found.space
    chosen = [s.select(_by_label(found, k, np.arange(len(s)), options)) for k, s in found.parts.items()]
    return replace(end_to_end(chosen), heading=heading(parsed.name, found.transforms)), found.space


def open_images(
    spec: str | Path, *, alphabet: str | None = None, scale: Scale | Mapping[str, Any] | None = None, **conversions: Any
) -> tuple[Split | Unread, ImageSpace]:
    """`load_images` for work that goes over images once, in order: of more than CHUNK image files none is read before (`data/unread.py`).

    Args:
        conversions: size, levels, gray, … as of `load_images`, whose answer is given for arrays, parts, chosen labels, few files, and with `strict`.

    Raises:
        InputError: as `load_images`, of the first CHUNK images.
    """
    options = _options(**conversions)
    parsed = sources.parse(spec)
    if parsed.part or sources.prefix(parsed.base) or sources.is_name(parsed.base) or options.keep or options.drop or options.strict:
        return load_images(spec, alphabet=alphabet, scale=scale, **conversions)
    parsed, source = _find(spec, options, alphabet, Scale.of(scale), whole=True)
    parts = list(source.parts.values())
    if any(isinstance(rows.images, np.ndarray) for rows in parts) or sum(len(rows.ids) for rows in parts) <= CHUNK:
        return load_images(spec, alphabet=alphabet, scale=scale, **conversions)
    labels, _ = number_labels(source)
    items, ids, y, written = joined(parts, list(labels.values()))
    few = replace(source, parts={"all": Rows(First(items, CHUNK), ids[:CHUNK])})
    found = convert(parsed, few, options)
    drawn = found.parts["all"].drawn
    return Unread(
        items, ids, found.space, options.gray, options.size is not None, drawn, y, written, parsed.name, found.transforms
    ), found.space


def order(n: int, *, seed: int, epoch: int) -> Tensor:
    """The order in which epoch `epoch` reads n images: a permutation int64 `(n,)`, a function of (n, seed, epoch) alone.

    >>> sorted(order(5, seed=0, epoch=3).tolist())
    [0, 1, 2, 3, 4]
    """
    words = torch.empty(n, dtype=torch.long)
    for start in range(0, n, ORDERED):  # what is computed on the way takes many times the room of its result
        words[start : start + ORDERED] = Noise(seed, torch.arange(start, min(start + ORDERED, n))).bits(f"order/{epoch}", 1)[:, 0]
    return torch.argsort(words, stable=True)


def _levels_mean(alphabet: str | None, scale: Scale | None) -> dict[str, Any]:
    """What levels stand for, where that is no shade: as JSON."""
    return ({} if alphabet is None else {"alphabet": alphabet}) | ({} if scale is None else {"scale": scale.to_json()})


def _find(spec: Any, options: Options, alphabet: str | None, scale: Scale | None, whole: bool = False) -> tuple[sources.Spec, Source]:
    if isinstance(spec, (str, Path)):
        parsed = sources.parse(spec)
        if sources.is_series(parsed.base) and parsed.transform:
            raise InputError(f"{parsed.text}: :{parsed.transform} is of images; coarser steps of a series are --levels 2.")
        if sources.prefix(parsed.base) == text.PREFIX:
            unfit = f":{parsed.transform}" if parsed.transform else f"--levels {options.levels}" if options.levels else None
            if unfit:
                raise InputError(f"{parsed.text}: characters have no order, so that {unfit} means nothing for a text. Leave it out.")
        whole = whole and parsed.part is None and not sources.is_name(parsed.base)
        how = sources.Reading(options.limit, options.size, options.levels, options.split_seed, alphabet, scale, whole)
        return parsed, sources.find(parsed, how)
    if spec is None:
        raise InputError("This run was trained on an array in memory, which cannot be loaded again. Give DATA.")
    x, y = spec if isinstance(spec, tuple) and len(spec) == 2 else (spec, None)
    if not isinstance(x, (Tensor, np.ndarray)):
        raise InputError(
            f"load_data was given a {type(x).__name__}; expected a name, a path, an array or tensor (N, C, H, W), or a pair (images, labels)."
        )
    images = as_images(x, "The array")
    rows = Rows(images, Numbered("array", np.arange(len(images))), as_labels(y, len(images), "The array of labels"))
    levels = 2 if x.dtype in (torch.bool, np.bool_) else None
    return sources.Spec("array", "array"), Source({"all": rows}, levels)


def _by_label(found: Found, part: str, rows: NDArray[np.int64], options: Options) -> NDArray[np.int64]:
    if not (options.keep or options.drop):
        return rows
    flag, asked = ("--keep-labels", options.keep) if options.keep else ("--drop-labels", options.drop)
    y = found.parts[part].y
    if y is None:
        raise InputError(f"{flag} needs labels, and the data has none. Give a folder with one subfolder per class, or a set with labels.")
    names = found.class_names or ()
    top = len(names) or max((int(s.y.max()) + 1 for s in found.parts.values() if s.y is not None and len(s)), default=0)
    known = names or tuple(map(str, range(top)))
    wanted = []
    for label in asked:
        if label in names:
            wanted.append(names.index(label))
        elif label.isdecimal() and int(label) < top:
            wanted.append(int(label))
        else:
            raise InputError(f"{flag} {label}: there is no such class. Known: {', '.join(known)}.")
    chosen = np.isin(y.numpy()[rows], wanted)
    return rows[chosen if options.keep else ~chosen]


def _again(parsed: sources.Spec) -> str:
    """DATA that means the same from another working folder."""
    if sources.is_name(parsed.base) or sources.is_url(parsed.base):
        return parsed.text
    path = str(Path(parsed.file).expanduser().resolve())
    return sources.prefix(parsed.base) + path + (f":{parsed.transform}" if parsed.transform else "")


def _fingerprint(found: Found, parts: dict[str, Split]) -> str:
    mean = _levels_mean(found.alphabet, found.scale).values()
    digest = sha256(json.dumps([found.space.to_json(), found.transforms, parts["train"].drawn, *mean]).encode())
    for part in PARTS:
        s = parts[part]
        digest.update(f"\n{part} {len(s)} {s.y is not None}\n".encode())
        digest.update(s.keys.astype("<u8").tobytes())
        if s.y is not None:
            digest.update(s.y.numpy().astype("<i8").tobytes())
    return digest.hexdigest()[:32]
