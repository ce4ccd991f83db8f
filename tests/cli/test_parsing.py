"""Help, mistakes, exit codes: what the command line does before any model is made."""

from __future__ import annotations

import inspect
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from pofx import catalog
from pofx.cli import VERBS, main
from pofx.cli.train import find_model
from pofx.errors import CapabilityError, InputError, RunError

POFX = [sys.executable, "-c", "import sys; from pofx.cli import main; sys.exit(main())"]


def seconds(command: list[str]) -> float:
    """Best of three of the time a command takes; its processor time where others keep the machine busy."""
    found = []
    for _ in range(3):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(min(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
    return min(found)


@pytest.mark.parametrize("tokens", [["--help"], ["sample", "--help"], ["train", "--help"], ["train", "pixelcnn", "--help"]])
def test_help_answers_in_half_a_second(tokens: list[str]) -> None:
    yardstick = seconds([sys.executable, "-c", "import cyclopts"])  # 0.1 s where half a second is asked for: 0.35 to 0.4 s are taken
    assert seconds([*POFX, *tokens]) < max(0.5, 5 * yardstick)  # `train pixelcnn` reads the sources of all models


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_shows_an_example_and_imports_no_torch(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    out, err = capsys.readouterr()
    what, example = VERBS[verb]
    assert what in out
    assert example in out
    assert err == ""
    for flag in ("--json", "--quiet", "--device", "--debug"):
        assert flag in out


def test_no_verb_imports_torch_before_it_runs() -> None:
    modules = ", ".join(f"pofx.cli.{verb}" for verb in VERBS)
    heavy = "{'torch', 'numpy', 'lightning'}"
    code = f"import sys, {modules}; from pofx.cli import main; main(['train', 'vae', '--help']); assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_flags_that_were_not_typed_are_not_checked_where_pydantic_is_loaded(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """cyclopts gives defaults to pydantic where that is imported, as pages and services do."""
    pytest.importorskip("pydantic")
    assert main(["train", "pixelcnn", "digits", "--out", str(tmp_path / "run"), "--steps", "1", "--dry-run", "--quiet"]) == 0
    assert main(["equilibrium", "--loss.penalty", "x"]) == 2
    assert "penalty" in capsys.readouterr().err


def test_examples_parse() -> None:
    """Each example is a command line that the parser accepts."""
    from pofx.cli import make_app

    for verb, (_, example) in VERBS.items():
        tokens = example.split()[1:]
        assert tokens[0] == verb
        make_app(verb, tokens[1:]).parse_args(tokens)


def test_one_line_of_help_is_the_docstring_of_the_verb() -> None:
    for verb, (what, _) in VERBS.items():
        function = getattr(import_module(f"pofx.cli.{verb}"), verb)
        assert inspect.getdoc(function).splitlines()[0] == what or verb == "train"  # type: ignore[union-attr]
        assert inspect.signature(function).parameters["common"]


def test_help_of_a_model_shows_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    for name in catalog.model_names():
        assert main(["train", name, "--help"]) == 0
        out = capsys.readouterr().out
        assert f"Settings of {name}" in out
        assert f"pofx train {name} digits" in out
    assert "--given.classes" in out


def test_train_has_every_argument_of_the_library() -> None:
    from pofx.cli.train import train as verb
    from pofx.training import train

    library = set(inspect.signature(train).parameters)
    flags = set(inspect.signature(verb).parameters)
    assert library - {"model", "data", "device", "quiet", "watch"} <= flags  # device and quiet are flags of every verb; watch is a function


@pytest.mark.parametrize("verb", ["sample", "score", "outliers", "compare", "evaluate"])
def test_flags_of_a_verb_are_arguments_of_its_task(verb: str) -> None:
    task = inspect.signature(catalog.tasks()[verb]).parameters
    flags = inspect.signature(getattr(import_module(f"pofx.cli.{verb}"), verb)).parameters
    own = {
        "run",
        "runs",
        "data",
        "data_flags",
        "common",
        "label",
        "attributes",
        "caption",
        "like",
        "size",
        "levels",
        "features",
        "tile",
        "stride",
        "bulk",
    }
    assert set(flags) - own <= set(task)
    for name in set(flags) & set(task) - {"n", "out", "data", "features", "calib"}:  # features, calib: a name here, a model or images there
        assert flags[name].default == task[name].default, f"{verb} --{name}"


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["modls"], "Did you mean 'models'"),
        (["models", "--tre"], "--tree"),
        (["models", "extra"], "1 argument too many: extra"),
        (["sample"], "RUN is missing"),
        (["sample", "runs/x", "--sed", "1"], "Did you mean --seed?"),
        (["sample", "runs/x", "-n", "many"], "into int"),
        (["sample", "runs/x", "-n"], "-n requires an argument"),
        (["sample", "runs/x", "--device", "cud"], 'Did you mean "cuda"?'),
        (["train"], "MODEL is missing"),
        (["train", "pixlcnn", "digits", "--out", "x"], "Did you mean 'pixelcnn'"),
        (["train", "pixelcnn", "digits", "--laers", "3"], "Did you mean --layers?"),
        (["train", "pixelcnn", "digits", "--out", "x", "--layers", "three"], "--layers"),
        (["train", "pixelcnn", "digits", "--out", "x", "--likelihood", "bernouli"], 'Did you mean "bernoulli"?'),
        (["train", "pixelcnn", "digits", "--out", "x", "--given", "lable"], 'Did you mean "label"?'),
        (["train", "pixelcnn", "digits", "--out", "x", "--given", "label", "--given.factor", "2"], "has no setting --given.factor"),
        (["train", "pixelcnn", "digits", "--out", "x", "--given.factor", "2"], "needs --given first"),
        (["train", "pixelcnn", "digits", "--minutes", "1"], "--out (the run folder) is missing"),
        (["compare", "runs/a"], "at least two different runs"),
    ],
)
def test_wrong_usage_exits_2_with_the_nearest_name(tokens: list[str], expected: str, refuse: Callable[..., str]) -> None:
    assert expected in refuse(*tokens)


def test_all_that_is_missing_is_named_at_once(refuse: Callable[..., str]) -> None:
    """And the line to paste is what was typed, completed."""
    asked = "train gated-pixelcnn mnist:threshold --given label"
    err = refuse(*asked.split())
    assert "--out (the run folder) and how long to train (--minutes, --epochs or --steps) are missing" in err
    line = err.splitlines()[-1]
    assert line == f"pofx {asked} --out runs/gated-pixelcnn-mnist-threshold --minutes 5"
    assert "how long to train" in refuse(*asked.split(), "--out", "x") and "--out (the" in refuse(*asked.split(), "--steps", 3)


@pytest.mark.parametrize("line", ["vae digits --out r", "--out r --dry-run vae digits", "--out=r --gray --json vae digits"])
def test_the_model_may_stand_before_or_after_flags(line: str) -> None:
    assert find_model(line.split()) == "vae"


def test_typed_settings_reach_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    import pofx.cli.train as module

    seen: dict = {}

    def run(model: str, spec: str, settings: dict, **more: object) -> object:
        seen.update(model=model, spec=spec, settings=settings, **more)
        return module.Answer({"ok": True})

    monkeypatch.setattr(module, "run", run)
    settings = "--layers 2 --lr 0.1 --given subsample --given.factor 3 --likelihood bernoulli"
    assert main(f"train pixelcnn mnist:threshold -o r {settings} --minutes 2 --levels 16 --augment flip,shift".split()) == 0
    assert seen["settings"] == {"layers": 2, "lr": 0.1, "given": {"type": "Subsample", "factor": 3}, "likelihood": "bernoulli"}
    assert (seen["model"], seen["spec"], seen["minutes"]) == ("pixelcnn", "mnist:threshold", 2.0)
    assert (seen["data_flags"].levels, seen["augment"]) == (16, "flip,shift")
    assert main(["train", "pixelcnn", "digits", "-o", "r", "--steps", "1"]) == 0
    assert seen["settings"] == {}


# Failures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (InputError("asked; found; fix"), 2, "pofx models: asked; found; fix"),
        (CapabilityError("GAN cannot score"), 2, "GAN cannot score"),
        (RunError("the loss is not finite"), 1, "the loss is not finite"),
        (OSError(28, "No space left on device", "runs/x"), 1, "The disk is full."),
        (PermissionError(13, "Permission denied", "/x"), 1, "Permission denied: /x"),
        (MemoryError(), 1, "out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("division by zero"), 1, "internal error (ZeroDivisionError: division by zero); run again with --debug"),
    ],
)
def test_failures_have_a_code_and_a_line(
    error: BaseException,
    code: int,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    refuse: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    import pofx.cli.models as module

    def fail(**_: object) -> object:
        raise error

    monkeypatch.setattr(module, "_table", fail)
    assert expected in refuse("models", code=code)
    if code != 130:
        assert main(["models", "--debug"]) == code
        assert "Traceback" in capsys.readouterr().err


def test_what_libraries_print_goes_to_stderr(
    monkeypatch: pytest.MonkeyPatch, ask: Callable[..., dict], capsys: pytest.CaptureFixture[str]
) -> None:
    import warnings

    import pofx.cli.models as module

    def chatty() -> object:
        print("GPU available: False")
        warnings.warn_explicit("a checkpoint is damaged", RuntimeWarning, "x.py", 1, module="pofx.training.checkpoint")
        warnings.warn_explicit("use another loader", UserWarning, "y.py", 1, module="lightning.pytorch")
        return module.Answer({"value": float("nan"), "other": float("inf"), "path": __import__("pathlib").Path("a")})

    monkeypatch.setattr(module, "_table", chatty)
    assert ask("models") == {"value": None, "other": None, "path": "a"}
    assert main(["models"]) == 0
    assert capsys.readouterr().err == "GPU available: False\na checkpoint is damaged\n"


def test_a_reader_that_stops_early_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*POFX, "models", "--tree"], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 0
