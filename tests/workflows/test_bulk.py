"""Bulk work in this process: the files of the tasks, overlap, interruption, images that cannot be read."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pofx.cli import main
from pofx.data import load_data, load_images
from pofx.errors import InputError
from pofx.model import ImageModel
from pofx.models.autoregressive.pixelcnn import PixelCNN
from pofx.models.variational.vae import VAE
from pofx.space import ImageSpace
from pofx.tasks._integer_form import IntegerForm
from pofx.tasks._tiles import Tiles
from pofx.tasks.bulk import TensorImages
from pofx.tasks.compress import compress
from pofx.tasks.encode import encode
from pofx.tasks.outliers import calibrate
from pofx.tasks.score import score
from pofx.testing import densify
from pofx.training import save_model
from pofx.workflows import bulk
from pofx.workflows._parts import Part, Parts
from pofx.workflows.compress import gather
from pofx.workflows.loading import Conversions, Opened, open_images

SPACE = ImageSpace(1, 8, 8, 17)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for name, model in (("pixelcnn", PixelCNN.small(SPACE)), ("vae", VAE.small(SPACE))):
        save_model(densify(model).float().eval(), root / name, {})
    return root


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    def run(*tokens: object, code: int = 0) -> Any:
        capsys.readouterr()
        assert main([*map(str, tokens), *(["--json", "--quiet"] if not code else [])]) == code
        out, err = capsys.readouterr()
        return err if code else json.loads(out)

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Enough files that they are not read before; two of them are no images of the model."""
    root = tmp_path / "images"
    root.mkdir()
    x = np.random.default_rng(0).integers(0, 256, (1060, 8, 8), dtype=np.uint8)
    for k, one in enumerate(x):
        Image.fromarray(one).save(root / f"{k:04d}.png", compress_level=0)
    (root / "1030.png").write_bytes((root / "1030.png").read_bytes()[:60])
    Image.fromarray(x[0, :5]).save(root / "1045.png")
    return root


def opened(spec: object, model: ImageModel, stride: int | None = None) -> Opened:
    return open_images(str(spec), model.space, Conversions(levels=17), stride=stride)


def loaded(run: Path) -> Any:
    from pofx.training import load_model

    return load_model(run)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_scores_are_those_of_the_task(runs: Path, tmp_path: Path, suffix: str) -> None:
    """359 images are four parts; the file is, byte for byte, that of one call."""
    model, data = loaded(runs / "vae"), load_images("digits:test")[0]
    whole = score(model, data, out=tmp_path / f"task.{suffix}", estimate=2)
    job = bulk.Scoring(str(runs / "vae"), "cpu", "digits:test", estimate=2)
    told: list[tuple[int, int]] = []
    found, remarks = bulk.score(
        job, model, opened("digits:test", model), by=bulk.Local(), out=tmp_path / f"bulk.{suffix}", progress=lambda *k: told.append(k)
    )
    assert (tmp_path / f"bulk.{suffix}").read_bytes() == (tmp_path / f"task.{suffix}").read_bytes()
    assert found.nats.mean == pytest.approx(whole.cost[0].mean, rel=1e-12) and found.nats.se == pytest.approx(whole.cost[0].se, rel=1e-9)
    assert (found.n, found.kind, found.dims, remarks.heading) == (359, "estimate", 64, "digits test")
    assert told[0] == (0, 359) and told[-1] == (359, 359) and [k for k, _ in told] == sorted(k for k, _ in told)
    assert not list(tmp_path.glob("*.parts"))


def test_codes_and_tiles_and_files_are_those_of_the_tasks(runs: Path, tmp_path: Path) -> None:
    model, data = loaded(runs / "vae"), load_images("digits:test")[0]
    for suffix in ("parquet", "npy", "npz"):
        encode(model, data, out=tmp_path / f"task.{suffix}", sample=True)
        job = bulk.Encoding(str(runs / "vae"), "cpu", "digits:test", sample=True)
        found, _ = bulk.encoded(job, model, opened("digits:test", model), by=bulk.Local(), out=tmp_path / f"bulk.{suffix}")
        assert (found.n, found.latent_dims, found.kind) == (359, 2, "draw from q(z|x)")
        if suffix == "npz":  # a zip file has the time in it
            task, ours = (np.load(tmp_path / f"{name}.npz") for name in ("task", "bulk"))
            assert sorted(task.files) == sorted(ours.files) and all((task[k] == ours[k]).all() for k in task.files)
        else:
            assert (tmp_path / f"bulk.{suffix}").read_bytes() == (tmp_path / f"task.{suffix}").read_bytes()
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 17, (130, 1, 12, 8), dtype=np.uint8))
    np.save(tmp_path / "tall.npy", x.numpy())
    job = bulk.Scoring(str(runs / "vae"), "cpu", str(tmp_path / "tall.npy"), stride=4)
    found, _ = bulk.score(job, model, opened(tmp_path / "tall.npy", model, 4), by=bulk.Local())
    assert found.nats.mean == pytest.approx(score(model, Tiles(TensorImages(x), SPACE, (12, 8), 4)).cost[0].mean, rel=1e-12)
    form, valid = IntegerForm.of(loaded(runs / "pixelcnn")), load_images("digits:valid")[0]
    task = compress(form, valid.x, tmp_path / "task.pofx", block=16)
    coding = bulk.Coding(str(runs / "pixelcnn"), "cpu", ("digits:valid",), 16)
    ours = bulk.compressed(coding, form, gather(["digits:valid"], form.space), by=bulk.Local(), out=tmp_path / "bulk.pofx")
    assert ours.path.read_bytes() == task.path.read_bytes() and (ours.ideal, ours.dims) == (task.ideal, task.dims)


def test_verdicts_are_those_of_the_task(runs: Path) -> None:
    """Images are weighed in parts, and judged together."""
    model = loaded(runs / "pixelcnn")
    data, calib, center = (load_images(f"digits:{part}")[0] for part in ("test", "calib", "valid"))
    alarm = calibrate(model, calib=calib, center=center)
    whole = alarm.judge(model, data, alpha=0.1, stream=True)
    with bulk.weighed(bulk.Weighing(str(runs / "pixelcnn"), alarm=alarm), model, opened("digits:test", model), by=bulk.Local()) as (
        found,
        _,
    ):
        ours = alarm.verdict(found, alpha=0.1, stream=True)
    assert ours.to_json() == whole.to_json()
    assert (found.keys == data.keys).all()


def test_reading_and_writing_do_not_wait_for_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the model has unit k, unit k + 1 is read and unit k − 1 written; and no more than AHEAD units are read ahead."""
    reading, writing = [Event() for _ in range(7)], [Event() for _ in range(7)]
    worked: list[int] = []

    def read(start: int, stop: int) -> int:
        assert start - len(worked) <= bulk.AHEAD
        reading[start].set()
        return start

    def work(k: int, progress: Any) -> Part:
        assert k == 5 or reading[k + 1].wait(20), "the next unit is read only when this one is done"
        assert k < 2 or writing[k - 2].wait(20), "nothing is written before all is done"
        worked.append(k)
        return Part({"id": [str(k)]})

    write = Parts.write
    monkeypatch.setattr(Parts, "write", lambda self, index, part: (write(self, index, part), writing[index].set())[0])
    bench = bulk.Bench(6, 1, {"verb": "test"}, read, work)
    with bulk.parts(bulk.Scoring("run"), bench, bulk.Local(), tmp_path / "out.csv") as store:
        assert [part.columns["id"] for part in store] == [[str(k)] for k in range(6)]


class Stopping:
    """An engine that is interrupted after some units."""

    def __init__(self, after: int) -> None:
        self.after, self.asked = after, list[int]()

    def device(self, asked: str) -> str:
        return asked

    def run(self, job: Any, bench: Any, todo: Any, tell: Any) -> Iterator[tuple[int, Part]]:
        self.asked = list(todo)
        for k, found in enumerate(bulk.one_by_one(bench, todo)):
            if k == self.after:
                raise KeyboardInterrupt
            yield found


def test_the_same_command_goes_on(runs: Path, tmp_path: Path, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is kept; another model, other images or arguments are refused with the difference."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 17, (450, 8, 8), dtype=np.uint8))
    command = ["score", runs / "vae", tmp_path / "x.npy", "--levels", 17, "-o", tmp_path / "s.csv"]
    first, second = Stopping(2), Stopping(9)
    monkeypatch.setattr(bulk, "engine", lambda *_: first)
    assert main([*map(str, command)]) == 130
    assert first.asked == [0, 1, 2, 3, 4] and len(list((tmp_path / "s.csv.parts").glob("part-*"))) == 2
    monkeypatch.setattr(bulk, "engine", lambda *_: second)
    other = ask(*command, "--samples", 3, code=2)
    assert "holds 2 parts of other work: samples was 1, is 3" in other and f"rm -r {tmp_path / 's.csv.parts'}" in other
    assert "model was" in ask("score", runs / "pixelcnn", *command[2:], code=2)
    (tmp_path / "t.csv.parts").mkdir()
    (tmp_path / "t.csv.parts" / "mine.txt").write_text("precious")
    assert "Move it, or choose another -o" in ask(*command[:-1], tmp_path / "t.csv", code=2)
    assert ask(*command)["n"] == 450
    assert second.asked == [2, 3, 4] and not (tmp_path / "s.csv.parts").exists()
    whole = score(loaded(runs / "vae"), load_images(str(tmp_path / "x.npy"), levels=17)[0], out=tmp_path / "whole.csv")
    assert whole.path is not None and whole.path.read_bytes() == (tmp_path / "s.csv").read_bytes()


@pytest.mark.slow
def test_a_process_that_was_killed_has_lost_nothing(runs: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 17, (40_000, 8, 8), dtype=np.uint8))
    command = [sys.executable, "-m", "pofx", "score", str(runs / "pixelcnn"), str(tmp_path / "x.npy"), "--levels", "17", "--json"]
    killed = subprocess.Popen([*command, "-o", str(tmp_path / "a.parquet")], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    there = tmp_path / "a.parquet.parts"
    while len(found := list(there.glob("part-*"))) < 3:
        assert killed.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    before = {p: p.stat().st_mtime_ns for p in found}
    assert not (tmp_path / "a.parquet").exists()
    again = subprocess.run([*command, "-o", str(tmp_path / "a.parquet")], capture_output=True, text=True, check=True)
    assert json.loads(again.stdout)["n"] == 40_000 and before
    subprocess.run([*command, "-o", str(tmp_path / "b.parquet")], capture_output=True, check=True)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_an_image_that_cannot_be_read_is_listed(runs: Path, folder: Path, tmp_path: Path, ask: Callable[..., Any]) -> None:
    """With its name and the reason, by every verb; the others are what they are without it. --strict makes it an error."""
    flags = (folder, "--levels", 17)
    facts = ask("score", runs / "pixelcnn", *flags, "-o", tmp_path / "s.csv")
    assert facts["n"] == 1058 and [line.split(":")[0] for line in facts["skipped"]] == ["1030.png", "1045.png"]
    assert "corrupt or truncated" in facts["skipped"][0] and "it is 5x8, the others 8x8; --size 8x8" in facts["skipped"][1]
    (folder / "1030.png").rename(tmp_path / "1030.png")
    (folder / "1045.png").rename(tmp_path / "1045.png")
    some = score(loaded(runs / "pixelcnn"), load_images(str(folder), levels=17)[0], out=tmp_path / "whole.csv")
    assert len(some.ids) == 1058 and (tmp_path / "whole.csv").read_bytes() == (tmp_path / "s.csv").read_bytes()
    (tmp_path / "1030.png").rename(folder / "1030.png")
    assert "--strict was given" in ask("score", runs / "pixelcnn", *flags, "--strict", code=2)
    good = tmp_path / "good.npy"
    np.save(good, np.random.default_rng(1).integers(0, 17, (60, 8, 8), dtype=np.uint8))
    run = tmp_path / "run"
    save_model(loaded(runs / "pixelcnn"), run, {"data": load_data("digits").to_json()})
    odd = ask("outliers", run, *flags, "--calib", good, "--alpha", "0.1", "-o", tmp_path / "odd")
    assert odd["n"] == 1058 and odd["skipped"][0].startswith("1030.png") and "1 files could not be read" in odd["notes"][-1]
    assert (tmp_path / "odd" / "index.html").is_file() and not (tmp_path / "odd" / "scores.parts").exists()


def test_nothing_that_can_be_read_is_an_error(runs: Path, tmp_path: Path) -> None:
    """All of the first images are good, and later all are lost: what is left is told, and where nothing is, that."""
    model, root = loaded(runs / "pixelcnn"), tmp_path / "images"
    root.mkdir()
    for k in range(1030):
        Image.fromarray(np.full((8, 8), k % 256, np.uint8)).save(root / f"{k:04d}.png")
    images = opened(root, model)
    for path in root.glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="none of its 1030 images can be used"):
        bulk.score(bulk.Scoring(str(runs / "pixelcnn"), "cpu", str(root)), model, images, by=bulk.Local())


def test_a_table_may_go_to_an_object_store(runs: Path, tmp_path: Path, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    monkeypatch.setenv("POFX_CACHE", str(tmp_path / "cache"))
    facts = ask("score", runs / "pixelcnn", "digits:valid", "-o", "memory://shop/scores.parquet")
    ask("score", runs / "pixelcnn", "digits:valid", "-o", tmp_path / "s.parquet")
    assert facts["out"] == "memory://shop/scores.parquet"
    assert fsspec.filesystem("memory").cat_file("/shop/scores.parquet") == (tmp_path / "s.parquet").read_bytes()
    assert not [p for p in (tmp_path / "cache" / "bulk").rglob("*") if p.is_file()]
    assert "the ending says the form" in ask("score", runs / "pixelcnn", "digits:valid", "-o", "memory://shop/x.txt", code=2)
    assert "only files on a disk" in ask("compress", runs / "pixelcnn", "digits:valid", "-o", "s3://shop/x.pofx", code=2)


def test_an_actor_is_this_process_elsewhere(runs: Path, tmp_path: Path) -> None:
    """What a node of a cluster makes of a job: the same parts, with as many threads, or a word on what is not the same."""
    from pofx.workflows._ray import Actor

    run, model = str(runs / "vae"), loaded(runs / "vae")
    torch.set_num_threads(2)
    job = bulk.Scoring(run, "cpu", "digits:test")
    bench = job.bench(model, opened("digits:test", model))
    here = [part.to_bytes() for _, part in bulk.one_by_one(bench, [3, 1])]
    torch.set_num_threads(1)
    assert bench.identity["threads"] == job.threads == 2
    actor = Actor(job, dict(bench.identity))
    assert torch.get_num_threads() == 2
    there = list(actor({"units": [[3, 1]]}))
    assert [row["index"] for row in there] == [[3], [1]] and [row["part"][0] for row in there] == here
    [other] = Actor(job, dict(bench.identity) | {"images": "others"})({"units": [[0]]})
    assert other["index"] == [-1] and other["error"][0].startswith(
        "RunError A node of the cluster sees something else than this machine: images"
    )


def test_what_ray_needs_is_said(runs: Path, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "add --engine ray" in ask("score", runs / "pixelcnn", "digits:valid", "--address", "here:6379", code=2)
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))  # a port where nobody listens
    nobody = f"127.0.0.1:{taken.getsockname()[1]}"
    assert f"no Ray cluster at {nobody}" in ask("score", runs / "pixelcnn", "digits:valid", "--engine", "ray", "--address", nobody, code=2)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "pofx.workflows._ray", raising=False)
    assert "pip install 'pofx[ray]'" in ask("score", runs / "pixelcnn", "digits:valid", "--engine", "ray", code=2)
