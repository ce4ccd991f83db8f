"""Many images through one run: `pofx score | encode | outliers | compress`, in parts that any process can do and any number of processes share.

    units     images a … b−1: whole batches of the fixed shape of `tasks/bulk.py`, so that what comes of an image is the same in all of them
    Job       says what to do, in words that another process understands: a run, DATA, arguments. `open` makes a `Bench` of it
    Bench     model and images, opened: `read` decodes a unit, `work` gives it to the model
    engine    which process does which unit, in any order: this one (`Local`), or those of a Ray cluster (`_ray.py`)
    Parts     keeps what came of each (`_parts.py`), and when all are there they are put together, in order

So both engines write the same file, and either goes on with what the other left.
"""

from __future__ import annotations

import json
import tempfile
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from pofx.data.objects import check_writable, is_url, kept, upload
from pofx.data.split import Keys
from pofx.errors import InputError
from pofx.metrics.mean import Moments
from pofx.model import ImageModel, Progress
from pofx.tasks._container import Block, Header, Stored
from pofx.tasks._files import TABLES, check_out, write_tables, writing
from pofx.tasks._integer_form import IntegerForm
from pofx.tasks._tiles import Tiles
from pofx.tasks.bulk import Images, Subset, batch_size
from pofx.tasks.compress import SUFFIX, Coded, Compressed, assemble, check_file, code
from pofx.tasks.encode import SUFFIXES, Codes, CodesSummary, encode, save_arrays
from pofx.tasks.invert import Inversion
from pofx.tasks.outliers import Alarm, Weighed
from pofx.tasks.score import CostSummary
from pofx.tasks.score import score as score_task
from pofx.training.runs import WEIGHTS, load_model, pofx_version, read_run, resolve_device
from pofx.workflows._parts import Part, Parts
from pofx.workflows.compress import Gathered, gather
from pofx.workflows.loading import Conversions, Loaded, Opened, open_images, run_info

MOST_BATCHES, MANY_PARTS, MOST_PARTS = 32, 64, 4096
MOST_BYTES = 2**26  # of the pixels of a unit
AHEAD = 2  # units that are read, or wait to be written, beside the one that the model has


# What is to be done ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """Work that is laid out: everything that a unit needs is open.

    Attributes:
        n: images in all; step: of them in a unit.
        identity: what makes two benches do the same, as JSON.
        read: images start … stop−1, decoded; in any thread.
        work: what `read` gave → what came of it; `progress` is of this unit.
    """

    n: int
    step: int
    identity: Mapping[str, Any]
    read: Callable[[int, int], Any]
    work: Callable[[Any, Progress | None], Part]

    def unit(self, index: int) -> tuple[int, int]:
        return index * self.step, min((index + 1) * self.step, self.n)

    @property
    def units(self) -> int:
        return -(-self.n // self.step)


def step_of(n: int, batch: int, pixels: int) -> int:
    """Images in a unit, of n: whole batches, few enough that a unit takes seconds and that many hands have work, and enough that parts are no burden.

    >>> step_of(359, 100, 64), step_of(500_000, 100, 64), step_of(10**9, 100, 784)
    (100, 3200, 85500)
    """
    batches = max(1, min(MOST_BATCHES, -(-n // (batch * MANY_PARTS))), -(-n // (batch * MOST_PARTS)))
    return batch * max(1, min(batches, MOST_BYTES // (batch * pixels)))


@dataclass(frozen=True)
class Job(ABC):
    """What to do, in words that any process understands.

    Attributes: run: a run folder or a Hub id; device: as `load_model` takes it; threads: of torch. Another number of them may add in another
        order, so that all who share the work take as many as the process that was started would.
    """

    verb: ClassVar[str]
    run: str
    device: str = "cpu"
    threads: int = field(default_factory=torch.get_num_threads, kw_only=True)

    @abstractmethod
    def open(self) -> Bench:
        """Load the run, find the images, and lay them out."""

    @property
    def arguments(self) -> dict[str, Any]:
        """What results depend on besides run and images, as JSON."""
        return {name: value for name, value in asdict(self).items() if name not in ("run", "data", "images")}

    def identity(self, fingerprint: str, n: int, step: int) -> dict[str, Any]:
        return {
            "verb": self.verb,
            "pofx": pofx_version(),
            "model": run_fingerprint(self.run),
            "images": fingerprint,
            "n": n,
            "step": step,
            **self.arguments,
        }


def run_fingerprint(run: str) -> str:
    """Of the class, arguments and weights of a run."""
    info = read_run(run)
    digest = sha256(json.dumps([info.model, info.arguments, info.given, info.encoder], sort_keys=True).encode())
    digest.update((info.path / WEIGHTS).read_bytes())
    return digest.hexdigest()[:32]


@dataclass(frozen=True)
class ImageJob(Job):
    """Work on images of the run's space.

    Attributes: data: DATA; flags: its conversions; stride: of tiles, where they are larger.
    """

    data: str = ""
    flags: Conversions = field(default_factory=Conversions)
    stride: int | None = None

    @abstractmethod
    def columns(self, model: ImageModel, images: Loaded, progress: Progress | None) -> dict[str, Any]:
        """What comes of some images, a row for each."""

    def open(self) -> Bench:
        model = load_model(self.run, device=self.device)
        return self.bench(model, open_images(self.data, model.space, self.flags, run_info(self.run), stride=self.stride))

    def bench(self, model: ImageModel, images: Opened) -> Bench:
        """The same, of a model and images that are open already."""
        each = 1 if images.tile is None else images.each
        step = step_of(len(images), max(1, batch_size(model.space) // each), model.space.dims * each)

        def work(part: Loaded, progress: Progress | None) -> Part:
            columns = self.columns(model, part, progress) if len(part.split) else {"id": []}
            new = images.transforms
            return Part(columns, part.split.skipped if images.unread else (), tuple(t for t in part.transforms if t not in new))

        return Bench(len(images), step, self.identity(images.fingerprint, len(images), step), images.slice, work)


@dataclass(frozen=True)
class Scoring(ImageJob):
    """`pofx score`; arguments are those of `tasks.score.score`."""

    verb: ClassVar[str] = "score"
    samples: int = 1
    estimate: int = 0
    seed: int = 0

    def columns(self, model: ImageModel, images: Loaded, progress: Progress | None) -> dict[str, Any]:
        found = score_task(model, images.images, samples=self.samples, estimate=self.estimate, seed=self.seed, progress=progress)
        s = found.score
        dims = s.dims.double() if isinstance(s.dims, Tensor) else torch.full((len(found.ids),), float(s.dims), dtype=torch.double)
        return {
            "id": list(found.ids),
            "nats": s.nats,
            "bits_per_dim": s.bits_per_dim.double(),
            "dims": dims,
            "kind": [s.kind] * len(found.ids),
        }


@dataclass(frozen=True)
class Encoding(ImageJob):
    """`pofx encode`; arguments are those of `tasks.encode.encode`, and `labels`: keep those too."""

    verb: ClassVar[str] = "encode"
    sample: bool = False
    layer: str | None = None
    seed: int = 0
    steps: int = 200
    restarts: int = 4
    labels: bool = False

    def columns(self, model: ImageModel, images: Loaded, progress: Progress | None) -> dict[str, Any]:
        found = encode(
            model,
            images.split,
            sample=self.sample,
            layer=self.layer,
            seed=self.seed,
            steps=self.steps,
            restarts=self.restarts,
            progress=progress,
        )
        columns: dict[str, Any] = {"id": list(found.ids), "z": found.z, "kind": [found.kind] * len(found.ids)}
        if found.inversion is not None:
            columns |= {"squared_error": found.inversion.squared_error, "start_error": found.inversion.start_error}
            columns["dims"] = torch.full((len(found.ids),), float(found.inversion.dims), dtype=torch.double)
        return columns | ({"y": images.split.y} if self.labels and images.split.y is not None else {})


@dataclass(frozen=True)
class Weighing(ImageJob):
    """`pofx outliers`, as far as images are looked at one by one."""

    verb: ClassVar[str] = "outliers"
    alarm: Alarm | None = None

    def columns(self, model: ImageModel, images: Loaded, progress: Progress | None) -> dict[str, Any]:
        assert self.alarm is not None
        found = self.alarm.weigh(model, images.images, progress=progress)
        keys = torch.from_numpy(images.split.keys.view(np.int64).copy())
        return {
            "id": list(found.ids),
            "row": torch.from_numpy(images.rows),
            "key": keys,
            "score": found.score,
            "statistics": found.statistics,
        }

    @property
    def arguments(self) -> dict[str, Any]:
        assert self.alarm is not None
        fixed = sha256(self.alarm.scores.double().numpy().tobytes()).hexdigest()[:32]
        told = replace(self, alarm=None)
        return {
            **{k: v for k, v in asdict(told).items() if k not in ("run", "data", "alarm")},
            "alarm": fixed,
            "statistics": self.alarm.names,
        }


@dataclass(frozen=True)
class Coding(Job):
    """`pofx compress`, as far as blocks are coded; `images` as it takes them."""

    verb: ClassVar[str] = "compress"
    images: tuple[str, ...] = ()
    block: int = 256
    check: str = "block"

    def open(self) -> Bench:
        form = IntegerForm.of(load_model(self.run))
        return self.bench(form, gather(self.images, form.space))

    def bench(self, form: IntegerForm, gathered: Gathered) -> Bench:
        step = step_of(len(gathered), self.block, form.space.dims)

        def read(start: int, stop: int) -> tuple[int, Tensor, dict[int, bytes]]:
            return start, *gathered.slice(start, stop)

        def work(some: tuple[int, Tensor, dict[int, bytes]], progress: Progress | None) -> Part:
            first, x, stored = some
            coded = sorted(
                code(form, x, stored, first=first, block=self.block, check=self.check, progress=progress), key=lambda c: c.part.first
            )
            return Part(
                {
                    "part": [c.part.to_bytes() for c in coded],
                    "stored": torch.tensor([isinstance(c.part, Stored) for c in coded], dtype=torch.uint8),
                    "dims": torch.tensor([c.dims for c in coded]),
                    "ideal": torch.tensor([c.ideal for c in coded], dtype=torch.double),
                    "initial": torch.tensor([c.initial for c in coded]),
                }
            )

        identity = self.identity(gathered.fingerprint, len(gathered), step) | {"form": form.id}
        return Bench(len(gathered), step, identity, read, work)


# Who does it -------------------------------------------------------------------------------------------------------------


class Engine(Protocol):
    """Who does which unit."""

    def device(self, asked: str) -> str:
        """Where units are computed, of "auto" or what was asked for."""
        ...

    def run(self, job: Job, bench: Bench, todo: Sequence[int], tell: Callable[[int], None]) -> Iterator[tuple[int, Part]]:
        """These units in any order; `tell` hears of images that are done of those that have not come yet."""
        ...


class Local:
    """This process: one thread reads ahead, this one has the model, and a third writes (`parts`)."""

    def device(self, asked: str) -> str:
        return str(resolve_device(asked))

    def run(self, job: Job, bench: Bench, todo: Sequence[int], tell: Callable[[int], None]) -> Iterator[tuple[int, Part]]:
        return one_by_one(bench, todo, tell)


def one_by_one(bench: Bench, todo: Sequence[int], tell: Callable[[int], None] | None = None) -> Iterator[tuple[int, Part]]:
    """Units in turn, the next ones read while the model has one."""
    units = iter(todo)
    with ThreadPoolExecutor(1, thread_name_prefix="pofx-read") as reader:
        ahead = deque((index, reader.submit(bench.read, *bench.unit(index))) for index in islice(units, AHEAD))
        try:
            while ahead:
                index, found = ahead.popleft()
                some = found.result()
                ahead.extend((k, reader.submit(bench.read, *bench.unit(k))) for k in islice(units, 1))
                yield index, bench.work(some, None if tell is None else lambda done, _: tell(done))
        finally:
            for _, waiting in ahead:
                waiting.cancel()


def engine(name: str = "local", address: str | None = None) -> Engine:
    """The engine of that name; `address` is of a Ray cluster that runs.

    Raises:
        InputError: Ray is not installed, or no cluster is there.
    """
    if name == "local":
        if address is not None:
            raise InputError(f"--address {address} is of a Ray cluster: add --engine ray.")
        return Local()
    from pofx.workflows._ray import Ray

    return Ray(address)


@contextmanager
def parts(job: Job, bench: Bench, by: Engine, out: str | Path | None, progress: Progress | None = None) -> Iterator[Parts]:
    """All parts, made by an engine or there already. They are removed when the block ends well; without `out` in any case.

    Raises:
        InputError: OUT.parts holds other work, or there are no images.
    """
    if not bench.n:
        raise InputError("There are no images to work on; the set or folder is empty.")
    with tempfile.TemporaryDirectory(prefix="pofx-") as temporary:
        store = Parts(Path(temporary) / "parts" if out is None else parts_folder(out), bench.identity, bench.units)
        there = store.open()
        todo = [index for index in range(bench.units) if index not in there]
        done = sum(stop - start for start, stop in map(bench.unit, sorted(there)) if start < bench.n)
        if progress is not None:
            progress(done, bench.n)
        with ThreadPoolExecutor(1, thread_name_prefix="pofx-write") as writer:
            waiting = deque()

            def tell(k: int) -> None:
                if progress is not None:
                    progress(min(done + k, bench.n), bench.n)

            for index, part in by.run(job, bench, todo, tell):
                start, stop = bench.unit(index)
                done += stop - start
                tell(0)
                waiting.append(writer.submit(store.write, index, part))
                while len(waiting) > AHEAD:
                    waiting.popleft().result()
            for written in waiting:
                written.result()
        yield store
        store.clear()


def parts_folder(out: str | Path) -> Path:
    """Where the parts of OUT lie until it is there."""
    return Path(out).with_name(f"{Path(out).name}.parts")


@contextmanager
def placed(out: str | Path | None, suffixes: Sequence[str]) -> Iterator[Path | None]:
    """Where to write `out`: there, or, of a URL, in the cache, from where it goes up when the block ends well.

    Raises:
        InputError: nothing can be written there, or not in that form.
    """
    if out is None or not is_url(str(out)):
        yield None if out is None else check_out(out, suffixes)
        return
    url = str(out)
    if PurePosixPath(url).suffix.lower() not in suffixes:
        raise InputError(f"Cannot write {url}: the ending says the form, and it can be {', '.join(suffixes)}.")
    check_writable(url)
    path = check_out(kept("bulk") / sha256(url.encode()).hexdigest()[:16] / PurePosixPath(url).name, suffixes)
    yield path
    upload(path, url)
    path.unlink()


# What comes of it --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Remarks:
    """What is known when all images were read.

    Attributes: heading: DATA with the conversions that were needed; skipped: images that could not be read, "name: reason".
    """

    heading: str
    skipped: tuple[str, ...]


def _remarks(store: Parts, images: Opened) -> Remarks:
    found = list(store.told())
    skipped = (*images.split.skipped, *(line for _, lines, _ in found for line in lines))
    if not sum(n for n, _, _ in found):
        first = "\n".join(skipped[:2])
        raise InputError(f"{images.heading}: none of its {len(images)} images can be used. Mend or replace them:\n{first}")
    return Remarks(images.with_transforms({t for _, _, some in found for t in some}), skipped)


def score(
    job: Scoring, model: ImageModel, images: Opened, *, by: Engine, out: str | Path | None = None, progress: Progress | None = None
) -> tuple[CostSummary, Remarks]:
    """`tasks.score.score` of any number of images: the same table, and what is said of all together.

    Raises: as it.
    """
    with placed(out, TABLES) as path, parts(job, job.bench(model, images), by, path, progress) as store:
        remarks = _remarks(store, images)
        nats, bits, dims, kind = Moments(), Moments(), Moments(), "exact"
        for part in store:
            if len(part):
                kind = part.columns["kind"][0]
                for total, name in ((nats, "nats"), (bits, "bits_per_dim"), (dims, "dims")):
                    total.add(part.columns[name])
        paid = dims.mean.mean if model.given is not None and model.given.varies else round(dims.mean.mean)
        given = None if model.given is None else repr(model.given)
        if path is not None:
            rows = store.pieces(lambda part: {n: _listed(part.columns[n]) for n in ("id", "nats", "bits_per_dim", "kind")})
            write_tables(path, rows, {"model": type(model).__name__, "given": repr(model.given), "dims": str(paid)})
    return CostSummary(nats.n, kind, given, paid, nats.mean, bits.mean, out), remarks


def _listed(values: Any) -> list[Any]:
    return values.tolist() if isinstance(values, Tensor) else values


def encoded(
    job: Encoding, model: ImageModel, images: Opened, *, by: Engine, out: str | Path | None = None, progress: Progress | None = None
) -> tuple[CodesSummary, Remarks]:
    """`tasks.encode.encode` of any number of images. Of `.npz`, and of codes by inversion, all are in memory at the end.

    Raises: as it.
    """
    suffix = "" if out is None else PurePosixPath(str(out)).suffix.lower()
    job = replace(job, labels=suffix == ".npz")
    with placed(out, SUFFIXES) as path, parts(job, job.bench(model, images), by, path, progress) as store:
        remarks = _remarks(store, images)
        n, first = 0, None
        for part in store:
            n += len(part)
            first = first or (part if len(part) else None)
        assert first is not None
        kind, z = first.columns["kind"][0], first.columns["z"]
        inversion = None
        if "squared_error" in first.columns or suffix == ".npz":
            whole = _joined(store)
            if "squared_error" in whole:
                paid = float(whole["dims"].mean())
                told = (round(paid) if paid == round(paid) else paid, model.space.levels, job.steps, job.restarts)
                inversion = Inversion(whole["z"], whole["squared_error"], whole["start_error"], *told)
            if path is not None and suffix == ".npz":
                save_arrays(path, Codes(whole["id"], whole["z"], kind, path, inversion), whole.get("y"), job.seed)
        if path is not None and suffix == ".npy":
            with writing(path) as temporary:
                rows = np.lib.format.open_memmap(f"{temporary}", "w+", z.numpy().dtype, (n, z.shape[1]))
                at = 0
                for part in store:
                    rows[at : at + len(part)] = part.columns["z"].numpy() if len(part) else rows[at:at]
                    at += len(part)
                rows.flush()
        elif path is not None and suffix in TABLES:
            write_tables(path, store.pieces(_codes), {"model": type(model).__name__, "kind": kind, "seed": str(job.seed)})
    return CodesSummary(n, z.shape[1], kind, out, inversion), remarks


def _codes(part: Part) -> dict[str, Sequence[Any]]:
    z = part.columns["z"]
    columns: dict[str, Sequence[Any]] = {"id": part.columns["id"]} | {f"z{j}": z[:, j].tolist() for j in range(z.shape[1])}
    if "squared_error" in part.columns:
        columns |= {"squared_error": part.columns["squared_error"].tolist(), "norm": z.double().norm(dim=1).tolist()}
    return columns


def _joined(store: Parts) -> dict[str, Any]:
    """All rows of all parts in memory."""
    columns: dict[str, list[Any]] = {}
    for part in store:
        for name, values in part.columns.items() if len(part) else ():
            columns.setdefault(name, []).append(values)
    return {k: torch.cat(v) if isinstance(v[0], Tensor) else [one for some in v for one in some] for k, v in columns.items()}


@dataclass(frozen=True)
class AllWeighed(Weighed):
    """Scores of all images.

    Attributes: keys: uint64 `(n,)`, hashes of their pixels, which tell copies; rows: int64 `(n,)`, where they are among those that were given.
    """

    keys: Keys
    rows: Tensor

    def images(self, given: Opened) -> Images:
        """They again, or their tiles, without those that could not be read."""
        chosen = Subset(given.split, self.rows)
        return chosen if given.tile is None else Tiles(chosen, *given.tile)


@contextmanager
def weighed(
    job: Weighing, model: ImageModel, images: Opened, *, by: Engine, out: str | Path | None = None, progress: Progress | None = None
) -> Iterator[tuple[AllWeighed, Remarks]]:
    """`Alarm.weigh` of any number of images: numbers of all of them, about a hundred bytes an image, since ranks are among all.

    Raises: as it.
    """
    with parts(job, job.bench(model, images), by, None if out is None else Path(out) / "scores", progress) as store:
        remarks = _remarks(store, images)
        found = _joined(store)
        keys = found["key"].numpy().view(np.uint64)
        yield AllWeighed(found["id"], found["score"], found["statistics"], keys, found["row"]), remarks


def compressed(
    job: Coding,
    form: IntegerForm,
    gathered: Gathered,
    *,
    by: Engine,
    out: str | Path,
    embed_model: bool = False,
    progress: Progress | None = None,
) -> Compressed:
    """`tasks.compress.compress` of any number of images.

    Raises: as it.
    """
    path = check_out(out, (SUFFIX,))
    n = len(gathered)
    check_file(form.space, n, gathered.names, block=job.block, check=job.check)
    header = Header(form.id, form.space.shape, form.space.levels, n, job.block, job.check, "")
    with parts(job, job.bench(form, gathered), by, path, progress) as store:

        def coded() -> Iterator[Coded]:
            for part in store:
                dims, ideal, initial, stored = (part.columns[name].tolist() for name in ("dims", "ideal", "initial", "stored"))
                for k, data in enumerate(part.columns["part"]):
                    yield Coded((Stored if stored[k] else Block).from_bytes(data, header), dims[k], ideal[k], initial[k])

        return assemble(form, path, coded(), n, names=gathered.names, block=job.block, check=job.check, embed_model=embed_model)
