"""The Ray engine on a real cluster of several nodes on this machine: the file of the local engine, a node that is lost, an image that is broken."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pofx.cli import main
from pofx.errors import InputError, RunError
from pofx.workflows import bulk


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "tiny"
    assert main(f"train pixelcnn digits --layers 1 --channels 4 --out {out} --steps 3 --batch-size 16 --quiet".split()) == 0
    return out


@dataclass
class Nodes:
    """A cluster: where it is, and what kills one of its nodes."""

    address: str
    kill: Callable[[], Any]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    """A head with one core, and two more nodes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        import ray
        from ray.cluster_utils import Cluster

        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 150 << 20, "include_dashboard": False})
        nodes = [made.add_node(num_cpus=1, object_store_memory=150 << 20) for _ in range(2)]
        yield Nodes(str(made.address), lambda: made.remove_node(nodes.pop(), allow_graceful=False))
        ray.shutdown()
        made.shutdown()


def asked(capsys: pytest.CaptureFixture[str], *tokens: object) -> dict[str, Any]:
    capsys.readouterr()
    code = main([*map(str, tokens), "--json", "--quiet"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


@pytest.mark.slow
def test_the_file_of_a_cluster_is_that_of_one_process(
    cluster: Nodes, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.random.default_rng(0).integers(0, 17, (2000, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    monkeypatch.chdir(tmp_path)  # DATA and RUN are relative: actors have other working folders
    for verb, out, more in (("score", "s.parquet", []), ("encode", "z.npy", []), ("outliers", "odd", ["--alpha", "0.1"])):
        here = asked(capsys, verb, run, "x.npy", "--levels", 17, "-o", tmp_path / "here" / out, *more)
        there = asked(
            capsys,
            verb,
            run,
            "x.npy",
            "--levels",
            17,
            "-o",
            tmp_path / "there" / out,
            "--engine",
            "ray",
            "--address",
            cluster.address,
            *more,
        )
        assert {k: v for k, v in here.items() if k not in ("out", "page")} == {k: v for k, v in there.items() if k not in ("out", "page")}
    assert not list(tmp_path.glob("*/**/*.parts"))
    for file in ("s.parquet", "z.npy", "odd/scores.parquet", "odd/scores.csv", "odd/index.html"):
        assert (tmp_path / "here" / file).read_bytes() == (tmp_path / "there" / file).read_bytes(), file
    for engine in ([], ["--engine", "ray", "--address", cluster.address]):
        asked(capsys, "compress", run, "digits:valid", "-o", tmp_path / f"c{len(engine)}.pofx", "--block", 16, *engine)
    assert (tmp_path / "c0.pofx").read_bytes() == (tmp_path / "c4.pofx").read_bytes()


@pytest.mark.slow
def test_a_node_that_is_lost_loses_nothing(cluster: Nodes, run: Path, tmp_path: Path) -> None:
    """A node is killed once some parts are there: all images come, once each, and a broken one is listed."""
    images = tmp_path / "images"
    images.mkdir()
    x = np.random.default_rng(1).integers(0, 256, (3000, 8, 8), dtype=np.uint8)
    for k, one in enumerate(x):
        Image.fromarray(one).save(images / f"{k:04d}.png")
    (images / "1234.png").write_bytes(b"\x89PNG and then nothing")
    engine = bulk.engine("ray", cluster.address)
    job, model, opened = laid_out(run, images)
    assert opened.unread
    local, _ = bulk.score(job, model, opened, by=bulk.Local(), out=tmp_path / "local.parquet")
    killed = Killing(engine, after=4, kill=cluster.kill)
    found, remarks = bulk.score(job, model, opened, by=killed, out=tmp_path / "ray.parquet")
    assert killed.done and found.n == local.n == 2999 and found.nats == local.nats
    assert len(remarks.skipped) == 1 and remarks.skipped[0].startswith("1234.png: ")
    assert sorted(killed.came) == list(range(30)), "each unit comes once"
    assert (tmp_path / "ray.parquet").read_bytes() == (tmp_path / "local.parquet").read_bytes()


@pytest.mark.slow
def test_either_engine_goes_on_with_what_the_other_left(cluster: Nodes, run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 17, (1500, 8, 8), dtype=np.uint8))
    job, model, opened = laid_out(run, tmp_path / "x.npy", levels=17)
    out = tmp_path / "s.parquet"
    stopped = Killing(bulk.Local(), after=3, kill=lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        bulk.score(job, model, opened, by=stopped, out=out)
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "s.parquet.parts").glob("part-*")}
    assert 0 < len(before) <= 3
    rest = Killing(bulk.engine("ray", cluster.address), after=10**9, kill=lambda: None)
    found, _ = bulk.score(job, model, opened, by=rest, out=out)
    assert found.n == 1500 and len(rest.came) == 15 - len(before) and not (tmp_path / "s.parquet.parts").exists()
    bulk.score(job, model, opened, by=bulk.Local(), out=tmp_path / "whole.parquet")
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


@pytest.mark.slow
def test_errors_of_actors_are_those_of_this_process(cluster: Nodes, run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((200, 8, 8), np.uint8))
    job, model, opened = laid_out(run, tmp_path / "x.npy", levels=17)
    with pytest.raises(InputError, match="samples=0 must be at least 1"):
        bulk.score(replace(job, samples=0), model, opened, by=bulk.engine("ray", cluster.address))
    np.save(tmp_path / "x.npy", np.ones((200, 8, 8), np.uint8))
    with pytest.raises(RunError, match="sees something else than this machine: images"):
        bulk.score(job, model, opened, by=bulk.engine("ray", cluster.address))


def laid_out(run: Path, data: Path, levels: int = 17) -> tuple[Any, Any, Any]:
    from pofx.training import load_model
    from pofx.workflows.loading import Conversions, open_images, run_info

    model, flags = load_model(run), Conversions(levels=levels)
    return bulk.Scoring(str(run), "cpu", str(data), flags), model, open_images(str(data), model.space, flags, run_info(str(run)))


@dataclass
class Killing:
    """An engine to which something happens once some units are done."""

    engine: Any
    after: int
    kill: Callable[[], Any]

    def __post_init__(self) -> None:
        self.came: list[int] = []
        self.done = False

    def device(self, asked: str) -> str:
        return self.engine.device(asked)

    def run(self, job: Any, bench: Any, todo: Any, tell: Any) -> Iterator[Any]:
        for index, part in self.engine.run(job, bench, todo, tell):
            self.came.append(index)
            yield index, part
            if len(self.came) == self.after:
                self.kill()
                self.done = True
