"""Trainings as child processes: the command that a form stands for, what becomes of a child, and that it ends with the studio."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pofx.errors import InputError
from pofx.studio import training
from pofx.studio.curves import curve, lines


def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def child(tmp_path: Path, body: str) -> tuple[str, ...]:
    """A stand-in for pofx in this folder: `python -m pofx train …` runs it, so that what is tested takes no torch."""
    package = tmp_path / "pofx"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(body)
    return ("pofx", "train", "pixelcnn", "digits", "--out", str(tmp_path / "runs" / "a"), "--minutes", "1")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


WAITS = """import signal, sys, time
def stop(signum, frame):
    print("Stopped after step 3 of 9. The same command goes on from there.", file=sys.stderr)
    print("pofx train: interrupted.", file=sys.stderr)
    sys.exit(130 if signum == signal.SIGINT else 143)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
print("step 3/9", file=sys.stderr, flush=True)
time.sleep(60)
"""


def test_only_what_differs_from_the_default_is_typed() -> None:
    chosen = {"layers": 8, "channels": 16, "first_kernel": 7.0, "given": "label", "given.classes": "", "likelihood": "auto", "lr": None}
    words = training.words("pixelcnn", "digits", "runs/a b", 0.5, chosen, "--seed 3 --labels 100")
    assert words == (
        *("pofx", "train", "pixelcnn", "digits", "--out", "runs/a b", "--minutes", "0.5"),
        *("--given", "label", "--channels", "16", "--seed", "3", "--labels", "100"),
    )
    assert training.folder(words) == Path("runs/a b")


@pytest.mark.parametrize("model", ["pixelcnn", "vae", "gan", "classifier", "bayes-classifier"])
def test_a_form_of_defaults_types_no_setting(model: str) -> None:
    defaults = {s.flag: s.default == "True" if training.switch(s) else s.default for s in training.settings(model)}
    assert training.words(model, "digits", "runs/a", 1, defaults)[8:] == ()


def test_what_is_typed_is_what_the_command_line_takes() -> None:
    """Every setting, typed with another value where there is a choice, is known to the parser of `pofx train`."""
    from pofx.cli.train import command

    chosen = {"given": "label", "given.classes": 10, "loss": "wasserstein-gp", "loss.penalty": 5.0, "critic_steps": 3}
    words = training.words("gan", "digits", "runs/a", 1, chosen)
    known = {
        name
        for p in command(words[2:]).__annotations__.values()
        for m in getattr(p, "__metadata__", ())
        for name in (getattr(m, "name", None) or ())
    }
    assert {word for word in words[8:] if word.startswith("--")} <= known


def test_the_program_makes_the_same_model(monkeypatch: pytest.MonkeyPatch) -> None:
    import pofx
    from pofx.model import ImageModel

    text = training.python("gan", "digits", "runs/a", 1, {"given": "label", "loss": "wasserstein-gp", "loss.penalty": 5.0, "latents": 3})
    found: list[ImageModel] = []
    monkeypatch.setattr(pofx, "train", lambda model, data, **more: found.append(model))
    exec(text, {})  # noqa: S102  what is shown to be copied must run
    config = dict(found[0].config())
    assert (config["latents"], config["given"].classes, config["loss"].penalty) == (3, 10, 5.0)


def test_no_folder_and_torn_quotes_are_told() -> None:
    with pytest.raises(InputError, match="Name a run folder"):
        training.words("pixelcnn", "digits", " ", 1)
    with pytest.raises(InputError, match="quotation mark"):
        training.words("pixelcnn", "digits", "runs/a", 1, {}, "--augment 'flip")


@pytest.mark.parametrize(
    "words", [("pofx", "push", "x", "--out", "a"), ("rm", "-r", "--out", "a"), ("pofx", "train", "pixelcnn", "digits")]
)
def test_nothing_else_is_started(words: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Only this can be started"):
        training.Trainings().start(words)


def test_done_and_its_log(here: Path) -> None:
    made = training.Trainings().start(
        child(here, "import sys; print('done, 9 steps', file=sys.stderr); print(sys.argv[sys.argv.index('--out') + 1])")
    )
    until(lambda: not made.running)
    assert (made.state, made.said) == ("done", "done, 9 steps")
    assert made.guard.poll() is not None
    assert training.logged(made.out) == made.command
    assert not made.out.exists()  # the log is beside it: training refuses a folder that is not empty


def test_stop_and_resume(here: Path) -> None:
    trainings = training.Trainings()
    made = trainings.start(child(here, WAITS))
    until(lambda: made.said == "step 3/9")
    with pytest.raises(InputError, match="is running"):
        trainings.start(made.command)
    made.stop()
    assert made.state in ("stopping", "stopped")
    until(lambda: not made.running)
    assert made.state == "stopped"
    assert made.said.startswith("Stopped after step 3 of 9.")
    again = trainings.start(training.logged(made.out) or ())
    until(lambda: again.said == "step 3/9")  # its own lines, and not those of before
    assert trainings.newest is again
    assert trainings.running
    again.stop()
    until(lambda: not trainings.running)


def test_what_a_quick_child_says_is_not_lost(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard starts late, when the child has spoken already."""
    start = subprocess.Popen

    def late(words: list[str], **options: Any) -> Any:
        log = here / "runs" / "a.log"
        if words[0] == "/bin/sh":
            until(lambda: "step 3/9" in log.read_text())
        return start(words, **options)

    monkeypatch.setattr(training.subprocess, "Popen", late)
    made = training.Trainings().start(child(here, WAITS))
    try:
        assert made.said == "step 3/9"
    finally:
        made.process.kill()
        until(lambda: not made.running)


def test_an_error_is_its_own_lines(here: Path) -> None:
    body = (
        "import sys; print('reading', file=sys.stderr); print('pofx train: No set.\\nSee: pofx train --help', file=sys.stderr); sys.exit(2)"
    )
    made = training.Trainings().start(child(here, body))
    until(lambda: not made.running)
    assert (made.state, made.said) == ("failed", "pofx train: No set.\nSee: pofx train --help")


def test_a_child_ends_with_the_studio(here: Path) -> None:
    """However the studio ends: here it is killed, and has no chance to do anything."""
    words = child(here, WAITS)
    source = Path(training.__file__).parents[2]
    parent = f"""import os, sys, time
sys.path.insert(0, {str(source)!r})
from pofx.studio.training import Trainings
made = Trainings().start({words!r})
for _ in range(1200):
    if made.said == "step 3/9": break
    time.sleep(0.05)
else: sys.exit("it did not happen")
print(made.process.pid, flush=True)
time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, cwd="/", env=os.environ | {"PYTHONPATH": str(here)}
    )
    try:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()

    def gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1].startswith("Z")

    try:
        until(gone, 20)
    finally:
        if not gone():
            os.kill(pid, signal.SIGKILL)
    assert "Stopped after step 3" in training.log_of(here / "runs" / "a").read_text()


@pytest.mark.slow
def test_a_real_training_stops_with_a_checkpoint_and_goes_on(tmp_path: Path) -> None:
    trainings = training.Trainings()
    words = training.words(
        "pixelcnn", "digits", str(tmp_path / "a"), None, {"layers": 2, "channels": 8}, "--steps 60 --threads 1 --device cpu"
    )
    made = trainings.start(words)
    until(lambda: "step" in made.said or (tmp_path / "a" / "metrics.csv").exists() or not made.running, 120)
    made.stop()
    until(lambda: not made.running, 120)
    if made.state == "stopped":
        assert made.said.startswith("Stopped after step")
        assert list((tmp_path / "a" / "checkpoints").iterdir())
    again = trainings.start(words)
    until(lambda: not again.running, 120)
    assert again.state == "done", again.said
    assert "curve" in curve(tmp_path / "a" / "metrics.csv")


# Curves -----------------------------------------------------------------------------------------------------------------------------


def test_a_game_has_two_losses() -> None:
    unit, found = lines({"step": [1.0, 2.0], "train_critic_loss": [1.0, 0.5], "train_generator_loss": [2.0, 2.5], "critic_lr": [1.0, 1.0]})
    assert (unit, [name for name, _ in found]) == ("loss", ["critic", "generator"])


def test_a_curve_of_a_file_in_the_making(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    assert "No metrics.csv" in curve(file)
    file.write_text("step,train_bits_per_dim,valid_bits_per_dim\n1,4.0,\n2,3.0,3.5\n3,2.")
    drawn = curve(file)
    assert 'aria-label="bits/dim over 2 steps: train 3, valid 3.5"' in drawn
