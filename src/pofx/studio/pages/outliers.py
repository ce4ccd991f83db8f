"""Which images are odd, and where: dropped, from a folder, or named; α moves without scoring again."""

from __future__ import annotations

import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from pofx.errors import InputError
from pofx.studio.parts import at_most, choose_run, chosen, command, same, status, told
from pofx.studio.shelf import Shelf, Wanted
from pofx.studio.work import Work, how_far

if TYPE_CHECKING:
    from pofx.tasks.outliers import Alarm, Outliers
    from pofx.workflows.loading import Loaded
    from pofx.workflows.outliers import Wall

ORDER = 5
TITLE = "Outliers"
ABOUT = """Which images do not fit what the run has learned, and where in the image? The score is made of all that the model can tell at little cost, and no
outlier is needed. The threshold comes from images of the run's own data that training did not see, so that at most a share **α** of normal images is
flagged. Move α: the verdicts change at once, and nothing is scored again."""

MOST = 500  # images that are judged, unless more are asked for
CALIBRATING = 1000  # and images that calibrate, and as many that say what is normal
HELD = 3  # detectors that are kept in memory


@dataclass(frozen=True)
class Judged:
    """What was scored: α changes `found` and what the maps light up, and nothing else."""

    run: str
    heading: str
    levels: int
    found: Outliers
    wall: Wall
    notes: tuple[str, ...]


def gathered(files: Sequence[str]) -> str:
    """Uploaded files as one folder of links under their own names, since each lies in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="pofx-studio-"))
    for k, file in enumerate(files):
        name = Path(file).name
        link = folder / name if not (folder / name).exists() else folder / f"{Path(name).stem}-{k}{Path(name).suffix}"
        os.symlink(Path(file).resolve(), link)
    return str(folder)


def read(shelf: Shelf, run: str, spec: str, name: str = "") -> tuple[Loaded, list[str]]:
    """Images of the run's space, converted as the run's own were, or as they need to be where they are of another size; and remarks.

    Raises:
        InputError: they cannot be made into such images.
    """
    from pofx.workflows.loading import Conversions, load_images
    from pofx.workflows.outliers import resizing

    space, info = shelf.model(run).space, shelf.info(run)
    try:
        loaded = load_images(spec, space, Conversions(), info)
    except InputError as error:
        try:
            loaded = load_images(spec, space, Conversions.into(space), info)
        except InputError:
            raise error from None
    split, heading = loaded.split, loaded.heading
    if name:
        heading = heading.replace(Path(spec).name, name, 1)
    notes = [note for note in (resizing(info.transforms, loaded.transforms),) if note is not None]
    if split.skipped:
        notes.append(f"{len(split.skipped)} files could not be read and were not judged, e.g. {split.skipped[0]}.")
    return replace(loaded, heading=heading), notes


def few(loaded: Loaded, most: float | None) -> Loaded:
    """At most so many of the images, drawn at random, always the same ones."""
    split = at_most(loaded.split, most, default=MOST)
    if split is loaded.split:
        return loaded
    return replace(loaded, split=split, images=split, heading=f"{len(split):,} of the {len(loaded.split):,} images of {loaded.heading}")


class Detectors:
    """Calibrated once for a run and the images that calibrate it."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self._held: OrderedDict[tuple[Any, ...], tuple[Alarm, Any, list[str]]] = OrderedDict()

    def get(self, run: str, calib: str, most: float | None) -> Iterator[str]:
        """Lines that say how far it is; then `of` has it."""
        from pofx.tasks.outliers import calibrate
        from pofx.workflows.outliers import calibration_of, copies

        key = self._key(run, calib, most)
        if key in self._held:
            return
        yield "reading the run's own data …"
        model, own, info = self.shelf.model(run), self.shelf.data(run), self.shelf.info(run)
        good, more = (None, []) if not calib else read(self.shelf, run, calib)
        normal, notes = calibration_of(run, own, unchanged=info.unchanged(own), good=None if good is None else good.split, spec=calib)
        if copied := copies(normal, 0.05, "marginal"):
            notes.append(copied)
        whole, normal = len(normal), at_most(normal, most, default=CALIBRATING)
        if len(normal) < whole:
            notes.append(
                f"calibrated on {len(normal):,} of the {whole:,} images that there are, drawn at random; the command line takes all."
            )
        center = at_most(own.valid, most, default=CALIBRATING)
        work = Work(self.shelf, lambda progress: calibrate(model, calib=normal, center=center, train=own.train, progress=progress))
        for at in work:
            yield how_far("calibrating: scoring", at)
        self._held[key] = (work.result, normal, [*notes, *more])
        while len(self._held) > HELD:
            self._held.popitem(last=False)

    def of(self, run: str, calib: str, most: float | None) -> tuple[Alarm, Any, list[str]]:
        return self._held[self._key(run, calib, most)]

    def _key(self, run: str, calib: str, most: float | None) -> tuple[Any, ...]:
        weights = Path(run) / "model.safetensors"
        return run, weights.stat().st_mtime_ns if weights.is_file() else 0, calib, most


def at_alpha(judged: Judged | None, alpha: float) -> Judged:
    """The verdicts at another α.

    Raises:
        InputError: nothing was judged yet; so small an α takes more calibration images, and how many.
    """
    if judged is None:
        raise InputError("Judge some images first.")
    found = judged.found.at(alpha)
    return replace(judged, found=found, wall=judged.wall.at(found))


def table(judged: Judged) -> str:
    """The CSV to download."""
    folder = Path(tempfile.mkdtemp(prefix="pofx-studio-"))
    return str(judged.found.write(folder / "outliers.csv"))


def counted(judged: Judged) -> str:
    """What is flagged, and what is guaranteed."""
    from pofx.workflows import _page as html
    from pofx.workflows.outliers import counts

    found = judged.found
    n, flagged = len(found.ids), int(found.outlier.sum())
    notes = "".join(html.flag(f"Note: {note}", alarm=True) for note in judged.notes)
    head = (
        f"<p><b>{flagged:,} of {n:,} image{'s are' if n != 1 else ' is'} odd</b> at α = {found.alpha:g}: {html.escape(judged.heading)}.</p>"
    )
    return notes + head + html.paragraph(found.promise) + counts(found)


def shown(judged: Judged) -> tuple[Any, ...]:
    """Counts, wall, histogram and table."""
    from pofx.workflows.outliers import histogram, wall_html

    drawn = wall_html(judged.found, judged.wall, judged.levels), histogram(judged.found)
    return counted(judged), *drawn, gr.DownloadButton(value=table(judged), interactive=True)


def build(shelf: Shelf) -> None:
    detectors = Detectors(shelf)
    choice = choose_run(shelf, Wanted(("ExactLikelihood", "LowerBound", "Encoder", "Critic"), "tell odd images"))
    with gr.Row(equal_height=True):
        files = gr.File(file_count="multiple", label="Images: drop them here", height=150, elem_id="files", min_width=260)
        with gr.Column(min_width=260):
            data = gr.Textbox("", label="Or DATA by name or path; empty: the run's own test part", placeholder="mnist:test", elem_id="data")
            with gr.Row():
                folder = gr.UploadButton("A folder …", file_count="directory", size="sm", elem_id="folder")
                clear = gr.Button("Forget the files", size="sm")
    with gr.Row():
        most = gr.Number(MOST, label="Images at most", precision=0, minimum=1, min_width=110, elem_id="most")
        calibrating = gr.Number(
            CALIBRATING, label="Calibration images at most", precision=0, minimum=1, min_width=130, elem_id="calibrating"
        )
        calib = gr.Textbox(
            "", label="Calibrate on other good images (DATA)", placeholder="the run's own calib part", min_width=240, elem_id="calib"
        )
        judge = gr.Button("Find the odd ones", variant="primary", elem_id="judge", min_width=160)
        stop = gr.Button("Stop", elem_id="stop", min_width=80)
    progress = status()
    alpha = gr.Slider(0.001, 0.3, 0.05, step=0.001, label="α: the share of normal images that may be flagged", elem_id="alpha")
    error = status()
    summary = gr.HTML("", elem_id="summary", min_height=210, elem_classes="prose")
    wall_of = gr.HTML("", elem_classes="pixels", elem_id="wall", min_height=330)
    scores = gr.HTML("", elem_id="scores", min_height=220)
    download = gr.DownloadButton("Download the table (CSV)", interactive=False, elem_id="table")
    hand = same()
    kept = gr.State(None)

    folder.upload(lambda found: found, folder, files, show_progress="hidden")
    clear.click(lambda: None, None, files, show_progress="hidden")

    def start(
        run: str | None, files: list[str] | None, data: str, most: float, calibrating: float, calib: str, alpha: float
    ) -> Iterator[tuple[Any, ...]]:
        from pofx.model import Autoregressive
        from pofx.workflows.outliers import copies, repeated, wall

        path, calib = chosen(run), calib.strip()
        nothing = [gr.skip()] * 5

        def said(text: str) -> tuple[Any, ...]:
            return (*nothing, f"*{text}*")

        yield said("loading the model …")
        model = shelf.model(path)
        for text in detectors.get(path, calib, calibrating):
            yield said(text)
        alarm, normal, notes = detectors.of(path, calib, calibrating)
        copies(normal, alpha, "marginal")  # refuses an α that different calibration images are too few for
        own = shelf.data(path)
        if files:
            loaded, more = read(shelf, path, gathered(files), "the files")
        elif data.strip():
            loaded, more = read(shelf, path, data.strip())
        else:
            loaded, more = _own_test(shelf, path), []
        loaded = few(loaded, most)
        more += repeated(loaded.split.keys, own, normal)
        scoring = Work(shelf, lambda progress: alarm.judge(model, loaded.images, alpha=alpha, progress=progress))
        for at in scoring:
            yield said(how_far("scoring", at))
        again = not isinstance(model, Autoregressive)
        maps = Work(shelf, lambda progress: wall(model, loaded.images, scoring.result, calib=normal, again=again, progress=progress))
        for _ in maps:
            yield said("drawing maps of where …")
        judged = Judged(path, loaded.heading, model.space.levels, scoring.result, maps.result, (*notes, *more))
        yield (*shown(judged), judged, "")

    outputs = [summary, wall_of, scores, download, kept]
    run = judge.click(
        told(6)(start), [choice.run, files, data, most, calibrating, calib, alpha], [*outputs, progress, error], show_progress="hidden"
    )
    stop.click(lambda: "Stopped.", None, progress, cancels=[run], show_progress="hidden")

    def moved(judged: Judged | None, alpha: float) -> Iterator[tuple[Any, ...]]:
        if judged is None:  # α of what is to come
            return
        judged = at_alpha(judged, alpha)
        yield counted(judged), *[gr.skip()] * 3, judged  # at once; pictures take longer
        yield *shown(judged), judged

    alpha.change(told(5)(moved), [kept, alpha], [*outputs, error], show_progress="hidden", trigger_mode="always_last")

    def by_hand(run: str | None, data: str, files: list[str] | None, calib: str, alpha: float) -> tuple[str, str]:
        run = run or "RUN"
        what = "FOLDER" if files else data.strip() or own_spec(shelf, run)
        line = command(
            "pofx", "outliers", run, what, "--alpha", f"{alpha:g}", *(["--calib", calib.strip()] if calib.strip() else []), "-o", "odd"
        )
        images = "data.test" if not files and not data.strip() else f'pofx.data.load_images("{what}")[0]'
        good = f'pofx.data.load_images("{calib.strip()}")[0]' if calib.strip() else "data.calib"
        program = (
            f'import pofx\nfrom pofx.tasks.outliers import outliers\n\nmodel = pofx.load("{run}")\ndata = pofx.load_data("{own_spec(shelf, run, part="")}")\n'
            f'found = outliers(model, {images}, calib={good}, center=data.valid, train=data.train, alpha={alpha:g}, out="odd")\n'
            "print(found.promise, int(found.outlier.sum()))"
        )
        return line, program

    fields = [choice.run, data, files, calib, alpha]
    gr.on([field.change for field in fields], by_hand, fields, hand.both, show_progress="hidden")


def _own_test(shelf: Shelf, run: str) -> Loaded:
    import numpy as np

    from pofx.workflows.loading import Loaded

    test = shelf.data(run).test
    return Loaded(test, f"{shelf.data(run).heading}, test part", "test", test, np.arange(len(test)))


def own_spec(shelf: Shelf, run: str, part: str = ":test") -> str:
    """What is typed for the run's own data, or a word in its place."""
    spec = next((((card.json.get("data") or {}).get("spec") or {}).get("spec") for card in shelf.cards() if card.path == run), None)
    if not spec:
        return "DATA"
    base, mark, transform = str(spec).partition(":") if part else (str(spec), "", "")
    return f"{base}{part}{mark}{transform}"
