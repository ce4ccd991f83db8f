"""Runs of seconds through the whole chain: train, measure, report."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pofx import catalog
from pofx.data import Data, load_data
from pofx.errors import InputError
from pofx.metrics.mean import Mean
from pofx.model import Bound, evaluating
from pofx.models.variational.vae import VAE
from pofx.tasks.bound import aggregate
from pofx.tasks.bulk import batch_size, everything
from pofx.tasks.evaluate import evaluate, memorization
from pofx.tasks.score import costs
from pofx.training import train
from pofx.workflows import _page as html
from pofx.workflows import demo as demo_module
from pofx.workflows import features as features_module
from pofx.workflows import held_out_critic as critic_module
from pofx.workflows._history import history
from pofx.workflows._page import number
from pofx.workflows.features import Turned, features_run, turned
from pofx.workflows.report import gather, report

VOID = {"meta", "link", "img", "br"}


class Reader(HTMLParser):
    """Checks that tags close, and collects what a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "script"
        self.fetched += [v or "" for k, v in attrs if k in ("src", "href") and not (v or "").startswith("#")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert reader.open == []
    assert all(link.startswith("data:") for link in reader.fetched)
    return reader


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data("digits")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Short trainings, and a cache of its own."""
    monkeypatch.setenv("POFX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(features_module, "STEPS", 20)
    monkeypatch.setattr(critic_module, "STEPS", 20)
    jobs = (
        demo_module.Job("pixelcnn", 6, arguments={"layers": 1, "channels": 8}),
        demo_module.Job("vae", 6, arguments={"channels": 8}),
        demo_module.Job("gan", 6, arguments={"channels": 8}),
    )
    monkeypatch.setattr(demo_module, "JOBS", jobs)
    monkeypatch.setattr(demo_module, "DRAWS", 120)
    return tmp_path


# Memorization ---------------------------------------------------------------------------------------------------------


def test_fifty_images_raise_the_memorization_flag_and_all_do_not(digits: Data, tmp_path: Path):
    few = replace(digits, train=digits.train.select(np.arange(50)), fingerprint="fifty")
    flags = {}
    for name, data, steps in (("few", few, 120), ("all", digits, 60)):
        torch.manual_seed(0)
        model = catalog.get("pixelcnn")(digits.space, layers=2, channels=24, lr=6e-3)  # type: ignore[call-arg]
        run = train(model, data, out=tmp_path / name, steps=steps, average=500, optimizer="AdamW", quiet=True, threads=1, precision="32")
        flags[name] = memorization(run.model, data)
    assert flags["few"].raised
    assert not flags["all"].raised


# Features -------------------------------------------------------------------------------------------------------------


def test_turns_are_four_different_positions():
    for shape in ((1, 1, 3, 3), (1, 2, 2, 5)):
        x = torch.arange(int(np.prod(shape))).reshape(shape)
        ways = turned(x.expand(4, *shape[1:]), torch.arange(4))
        assert torch.equal(ways[0], x[0])
        assert len({tuple(way.flatten().tolist()) for way in ways}) == 4
        assert all(sorted(way.flatten().tolist()) == list(range(x.numel())) for way in ways)


def test_turned_split_reads_like_a_split(digits: Data):
    turned_split = Turned(digits.valid)
    x, y = turned_split.take(torch.tensor([5, 0, 6]))
    original, _ = digits.valid.take(torch.tensor([1, 0]))
    assert y is not None
    assert y.tolist() == [1, 0, 2]
    assert torch.equal(x[0], original[0].rot90(1, (1, 2)))
    assert torch.equal(x[1], original[1])
    assert len(turned_split) == len(turned_split.ids) == 4 * len(digits.valid) == sum(len(b) for b, _ in turned_split.batches(100))


def test_features_are_trained_once_with_and_without_labels(digits: Data, quick: Path):
    lines: list[str] = []
    first = features_run(digits, say=lines.append)
    again = features_run(digits)
    assert (first.fresh, again.fresh) == (True, False)
    assert first.hash == again.hash
    assert first.hash in first.name
    assert first.path.is_relative_to(quick / "cache")
    assert any(first.name in line for line in lines)
    bare = replace(digits, **{name: replace(part, y=None) for name, part in digits.parts.items()}, class_names=None)
    unlabelled = features_run(bare)
    assert unlabelled.path != first.path
    assert unlabelled.name.startswith("turn classifier")
    assert unlabelled.model.features(digits.test.x[:3]).shape[0] == 3


def test_another_recipe_of_features_is_another_run(digits: Data, quick: Path, monkeypatch: pytest.MonkeyPatch):
    first = features_run(digits)
    monkeypatch.setattr(features_module, "STEPS", 21)
    second = features_run(digits)
    monkeypatch.setattr(features_module, "ARGUMENTS", {"channels": 8, "stages": 2})
    third = features_run(digits)
    assert len({first.path, second.path, third.path}) == 3
    assert second.fresh and third.fresh


def test_features_that_another_process_learns_are_waited_for(digits: Data, quick: Path):
    path = features_run(digits).path
    hold = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(path.parent / f"{path.name}.lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdin is not None
    with other:
        assert other.stdout.readline() == "held\n"
        lines: list[str] = []

        def say(line: str) -> None:
            lines.append(line)
            if "waiting" in line:
                threading.Timer(0.2, other.kill).start()

        found = features_run(digits, say=say)
    assert "waiting" in lines[0]
    assert found.path == path
    assert not found.fresh


def test_a_cache_that_cannot_be_written_is_one_line(digits: Data, quick: Path):
    (quick / "file").write_text("mine")
    with pytest.raises(InputError, match="POFX_CACHE"):
        features_run(digits, cache=quick / "file" / "features")


# The report -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pixelcnn", "vae", "gan", "classifier"])
def test_a_report_is_one_file_that_says_what_the_model_can(name: str, digits: Data, quick: Path):
    out = quick / name
    train(catalog.get(name)(digits.space, channels=8), digits, out=out, steps=6, quiet=True, threads=1)  # type: ignore[call-arg]
    path = report(out, data=digits, limit=150, draw=100)
    assert path == out / "report.html"
    assert path.stat().st_size < 3_000_000
    page = read(path)
    asked = {
        "pixelcnn": ["= ", "Cheapest", "Are they copies?", "The odd ones", "p ="],
        "vae": ["≤ ", "≈ ", "Reconstructions", "importance-weighted"],
        "gan": ["Fréchet distance", "KID", "recall", "real images", "has no likelihood", "Classes of", "The game", "Held-out critic"],
        "classifier": ["accuracy"],
    }[name]
    for text in [*asked, "Training", "pofx train " + name, "digits", "How to make this again"]:
        assert text in page.text, text
    assert ("nats" in page.text.split("How to make")[0]) == (name != "gan") or name == "gan"
    if name == "gan":
        assert "= " not in re.sub(r"k = 3|seed = ", "", page.text.split("How to make")[0].split("Numbers")[1].split("Samples")[0])


def test_a_report_measures_a_bound_once(digits: Data, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    model = catalog.get("vae").small(digits.space)
    assert isinstance(model, VAE)
    seen: list[Tensor] = []
    whole = VAE.bound

    def counted(self: VAE, x: Tensor, *rest: Any, **more: Any) -> Bound:
        seen.extend(x)
        return whole(self, x, *rest, **more)

    monkeypatch.setattr(VAE, "bound", counted)
    found = gather("vae", model, digits, limit=100, draw=20)
    images, score = found.scored  # type: ignore[misc]
    test = everything(images)[0]
    assert batch_size(digits.space) == len(test) == 100  # else batches are filled up, and images come twice
    assert [sum(torch.equal(x, one) for x in seen) for one in test] == [1] * 100
    assert len(seen) == 400  # train, valid, test, and the calibration images of the odd ones
    monkeypatch.undo()
    assert torch.equal(score.nats, costs(model, images).nats)
    assert found.codes is not None and found.codes.aggregate is not None
    alone, latents = aggregate(model, images), found.evaluation.main.latents
    for name in ("mean", "log_variance", "z", "rate", "centre", "variance"):
        assert torch.equal(getattr(found.codes.aggregate, name), getattr(alone, name)), name
    assert latents is not None and latents.reconstruction.mean == found.codes.aggregate.reconstruction == alone.reconstruction
    with torch.inference_mode(), evaluating(model):
        bound, q = model.bound(test), model.posterior(test)
    assert torch.equal(alone.rate, bound.kl.double().mean(0)) and torch.equal(alone.mean, q.mean.double())


def test_a_report_of_a_conditional_model_says_so(digits: Data, quick: Path):
    from pofx.views import Label

    out = quick / "c"
    model = catalog.get("pixelcnn")(digits.space, Label(10), layers=1, channels=8)  # type: ignore[call-arg]
    train(model, digits, out=out, steps=4, quiet=True, threads=1)
    page = read(report(out, quick / "page.html", limit=50, draw=70, features=False))
    assert "p(x | Label(classes=10))" in page.text
    assert "--given label --given.classes 10" in page.text


def test_a_report_on_other_data_and_of_a_training_in_trouble_says_so(digits: Data, quick: Path):
    out, lines = quick / "run", []
    train(catalog.get("vae")(digits.space, channels=8), digits, out=out, steps=2, quiet=True, threads=1)  # type: ignore[call-arg]
    well = read(report(out, limit=50, draw=20, features=False, say=lines.append)).text
    assert "Other data" not in well and "Trouble" not in well
    assert not any("split in another way" in line for line in lines)
    stored = json.loads((out / "model.json").read_text())
    stored["data"]["fingerprint"] = "0" * 32
    stored["training"]["troubles"] = {"collapse": "step 101: it has collapsed."}
    (out / "model.json").write_text(json.dumps(stored))
    told = read(report(out, limit=50, draw=20, features=False, say=lines.append)).text
    assert "Other data: digits is not what the run was trained on" in told
    assert "Trouble while it trained: step 101: it has collapsed." in told
    assert any("split in another way" in line for line in lines)


def test_a_run_that_does_not_say_its_data_asks_for_it(digits: Data, quick: Path):
    from pofx.training import save_model

    save_model(catalog.get("vae").small(digits.space), quick / "bare", {})
    with pytest.raises(InputError, match="name the images"):
        report(quick / "bare")


def test_a_report_of_completions_takes_the_tops_of_valid_images(digits: Data, quick: Path):
    from pofx.views import Top

    out = quick / "top"
    train(catalog.get("pixelcnn")(digits.space, Top(4), layers=1, channels=8), digits, out=out, steps=2, quiet=True, threads=1)  # type: ignore[call-arg]
    page = read(report(out, limit=50, draw=70, features=False))
    assert "Each got the top of a valid image." in page.text
    assert f"views of the {len(digits.valid)} valid images" in page.text


def test_grids_fit_the_text_and_captions_wrap():
    for side in (1, 8, 28, 32, 64, 300):
        x = torch.zeros(20, 1, side, side, dtype=torch.uint8)
        across = html.fitting(x, 44)
        width = re.search(r'width="(\d+)"', html.grid(x, 256, across, want=44))
        assert width
        assert int(width[1]) <= html.WIDTH
    table = html.table(["", ""], [["a", "b"]], "c")
    assert "<thead" not in table
    assert table.index("</div>") < table.index('class="caption"')


def test_what_is_no_run_has_no_report(tmp_path: Path):
    with pytest.raises(InputError):
        report(tmp_path / "nothing")


def test_text_is_escaped():
    page = html.page("<b>", "a & b", [html.section("x<y", html.table(["<h>"], [["<i>"]], "c>d"), html.code("<pre>"))])
    for text in ("&lt;b&gt;", "a &amp; b", "x&lt;y", "&lt;h&gt;", "&lt;i&gt;", "c&gt;d", "&lt;pre&gt;"):
        assert text in page
    assert html.section("nothing", "", "") == ""


def test_numbers_are_printed_with_their_kind():
    assert number(Mean(1.5, 0.25), 2, "≤") == "≤ 1.50 ± 0.25"
    assert number(Mean(1.5, float("nan")), 1) == "1.5"
    assert number(None, 2) == "–"


def test_history_reads_gaps(tmp_path: Path):
    (tmp_path / "metrics.csv").write_text("step,train_bits_per_dim,valid_bits_per_dim\n1,3.5,\n2,3.0,3.25\n")
    found = history(tmp_path / "metrics.csv")
    assert found["step"] == [1, 2]
    assert found["valid_bits_per_dim"][1] == 3.25
    assert np.isnan(found["valid_bits_per_dim"][0])
    assert history(tmp_path / "none.csv") == {}


# The demo -------------------------------------------------------------------------------------------------------------


def test_the_demo_fails_clearly_when_models_did_not_learn_and_is_reused(quick: Path, capsys: pytest.CaptureFixture[str]):
    out = quick / "demo"
    assert demo_module.main(["--out", str(out)]) == 1
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == str((out / "report.html").resolve())
    assert "MISSED PixelCNN" in said.err
    assert (out / "report.html").stat().st_size < 3_000_000
    page = read(out / "report.html")
    for text in ("PixelCNN", "VAE", "GAN", "Fréchet distance", "Targets", "missed", "The odd ones"):
        assert text in page.text
    minutes = [f"{json.loads((out / job.model / 'model.json').read_text())['training']['minutes']:.1f}" for job in demo_module.JOBS]
    assert f"in {minutes[0]}, {minutes[1]} and {minutes[2]} minutes" in page.text
    stamp = (out / "report.html").stat().st_mtime_ns
    assert demo_module.main(["--out", str(out)]) == 1
    assert "nothing changed" in capsys.readouterr().err
    assert (out / "report.html").stat().st_mtime_ns == stamp
    assert set(json.loads((out / "results.json").read_text())["results"]) == {"pixelcnn", "vae", "gan"}


def test_the_demo_says_what_is_wrong_in_a_line(quick: Path, capsys: pytest.CaptureFixture[str]):
    place = quick / "taken"
    (place / "pixelcnn").mkdir(parents=True)
    (place / "pixelcnn" / "thesis.tex").write_text("mine")
    assert demo_module.main(["--out", str(place)]) == 1
    said = capsys.readouterr()
    assert "failed" in said.err
    assert "Traceback" not in said.err
    assert (place / "pixelcnn" / "thesis.tex").read_text() == "mine"


# Real models meet the tasks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pixelcnn", "vae", "gan"])
def test_evaluate_on_real_models(name: str, digits: Data):
    torch.manual_seed(0)
    model = catalog.get(name).small(digits.space)
    result = evaluate(model, digits, train_limit=100, limit=100, draw=60, estimate=4).to_json()
    kinds = {"pixelcnn": "exact", "vae": "lower bound", "gan": "none"}
    assert result["kind"] == kinds[name]
    assert result["model"] == name
    assert result["data"] == "digits"
    assert result["memorization"]["raised"] is False
    json.dumps(result, allow_nan=False)
