"""docs/*.md say what the program and the results say. `make readme` writes the tables anew (docs/tables.py)."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

from pofx.model import SAMPLE_CHUNK
from pofx.models.autoregressive.gated_pixelcnn import GatedPixelCNN
from pofx.models.autoregressive.multiscale import Multiscale
from pofx.models.autoregressive.pixelcnn import PixelCNN
from pofx.models.autoregressive.pixelcnn_pp import PixelCNNpp
from pofx.models.autoregressive.pixelrnn import PixelRNN
from pofx.nn.recurrent import diagonal_plan
from pofx.space import ImageSpace
from pofx.tasks.receptive_field import receptive_field
from pofx.workflows.reproduce import load_recipe, recipe_names

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "autoregressive.md").read_text(encoding="utf-8")
WORDS = " ".join(PAGE.split())  # without line ends
DRAWN = {"pictures/trace.gif"}  # by `make figures`; may not be there yet


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Tables ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "adversarial",
        "autoregressive",
        "codes",
        "conditional",
        "course/measured",
        "course/taxonomy",
        "few_labels",
        "outliers",
        "scaling",
        "series",
        "variational",
    ],
)
def test_tables_are_those_of_the_results(tables: ModuleType, name: str) -> None:
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    assert tables.render(name, page) == page, "run `make readme`"


def test_sizes_that_were_not_measured_have_dashes_and_fewer_draws_are_said(tables: ModuleType) -> None:
    points = [{"at": 10, "accuracy": 0.5, "sd": 0.1, "draws": [0] * 5}, {"at": 100, "accuracy": 0.75, "sd": 0.01, "draws": [0, 0]}]
    more = {"at": 60_000, "accuracy": 0.9, "sd": None, "draws": [0]}
    assert tables.accuracies_at([*points, more], (10, 100, 1000, 60_000), 5) == ["50.00 ± 10.00", "75.00 ± 1.00 (2 draws)", "–", "90.00"]


def test_what_was_not_measured_says_how(tables: ModuleType, tmp_path: Path) -> None:
    page = tables.render("autoregressive", PAGE, tmp_path)
    for name in tables.PAGES["autoregressive"]:
        block = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", page, re.S)
        assert block is not None and re.match(r"Not measured yet: `(python benchmarks/|pofx reproduce )[^`]+`\.\n", block[1])
    for script in re.findall(r"`python (benchmarks/\S+\.py)", page):
        assert (ROOT / script).is_file()


def test_results_of_an_older_form_have_dashes(tables: ModuleType, tmp_path: Path) -> None:
    """Files of an older script may lack columns, or a whole table."""
    rows = {
        "sampling": {"model": "m", "n": 1},
        "scan": {"model": "m", "n": 1, "fused_s": 0.5},
    }
    for name, row in rows.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"rows": [row]}))
    assert "| m | 1 | – | – | – | – | – | – |\n" in tables.sampling(tmp_path)
    assert "| m | 1 | – | 0.500 | – | – | – |\n" in tables.scan(tmp_path)
    assert tables.depth(tmp_path).startswith("Not measured yet")


def test_a_depth_is_compared_with_the_pixelcnn(tables: ModuleType, tmp_path: Path) -> None:
    row = {"n": 16, "parameters": 64_000, "depth_of_scoring": 1, "depth_of_sampling": 136, "load": 1.0}
    rows = [{"model": "row LSTM", "step_s": 0.6} | row, {"model": "PixelCNN", "step_s": 0.2} | row]
    (tmp_path / "scan.json").write_text(json.dumps({"threads": 2, "precision": "float32", "at_equal_parameters": rows}))
    assert "| row LSTM | 64,000 | 0.600 | 3.0 | 1 | 136 |\n" in tables.depth(tmp_path)
    assert "float32, 2 threads, load average 1.0 … 1.0" in tables.depth(tmp_path)


def test_an_ablation_has_its_errors_and_differences(tables: ModuleType, tmp_path: Path) -> None:
    seen = {"parameters": 1000, "images_seen": 5000, "minutes": 3.1, "load": 1.0}
    rows = [
        {"variant": "a", "compared_with": None, "test_bits_per_dim": {"mean": 1.0, "se": 0.01}, "worse_by": None} | seen,
        {"variant": "b", "compared_with": "a", "test_bits_per_dim": {"mean": 1.25, "se": 0.02}, "worse_by": {"mean": 0.25, "se": 0.003}}
        | seen,
    ]
    found = {"data": "mnist", "test_images": 2000, "minutes_each": 3.0, "threads": 1, "hardware": {"processor": "X"}, "rows": rows}
    (tmp_path / "ablation-pixelcnn.json").write_text(json.dumps(found))
    table = tables.ablation(tmp_path)
    assert (
        "| a | – | 1,000 | 3.10 | 5,000 | = 1.000 ± 0.010 | – |\n| b | a | 1,000 | 3.10 | 5,000 | = 1.250 ± 0.020 | +0.250 ± 0.003 |\n"
        in table
    )
    assert "mnist: the same 2,000 test images, 3 minutes asked of each, one run each; 1 thread, X" in table


def recipe(**changes: object) -> dict[str, object]:
    """What `pofx reproduce` writes, as far as the table reads it."""
    expected = {"metric": "nats", "split": "test", "at_most": 83.0, "stretch": 82.5}
    test = {"kind": "exact", "nats": {"mean": 82.0, "se": 0.25}, "bits_per_dim": 0.151, "bits_per_dim_se": 0.001}
    found = {
        "recipe": "digits-pixelcnn",
        "model": "pixelcnn",
        "title": "T",
        "parameters": 1000,
        "minutes": 59.96,
        "threads": 1,
        "images": 250_000,
    }
    budget = {"asked": {"minutes": 60}, "given": {"minutes": 60}, "shorter": False}
    return found | {"expected": expected, "test": test, "found": 82.0, "met": True, "stretch_met": True, "budget": budget} | changes


def test_recipes_are_shown_met_or_not(tables: ModuleType, tmp_path: Path) -> None:
    short = {"asked": {"minutes": 60}, "given": {"minutes": 5}, "shorter": True}
    (tmp_path / "a.json").write_text(json.dumps(recipe()))
    (tmp_path / "b.json").write_text(json.dumps(recipe(found=90.0, met=False, stretch_met=False, budget=short)))
    (tmp_path / "c.json").write_text(json.dumps({"rows": []}))
    asked = map(load_recipe, recipe_names())
    autoregressive = [recipe for recipe in asked if "pixel" in recipe.model and recipe.expected["metric"] != "accuracy"]
    found = tables.recipes(tmp_path, "autoregressive")
    start = "| `digits-pixelcnn` | T | 1,000 | 60.0 | 1 thread | 250,000 |"
    assert f"{start} = 82.00 ± 0.25 nats | ≤ 83 | met, and 82.5 too |\n" in found
    assert f"{start} = 90.00 ± 0.25 nats | ≤ 83 | missed; shorter budget: 5 minutes in place of 60 minutes |\n" in found
    assert f"Recorded: 1 of {len(autoregressive)} recipes." in found and found.count("`digits-pixelcnn`") == 2


def test_what_was_asked_is_met_or_missed(tables: ModuleType, tmp_path: Path) -> None:
    row = {"model": "gated-pixelcnn, small", "sample_over_score": 1.5}
    rows = [row | {"n": n} for n in (1, 64, 256)] + [row | {"model": "made", "n": 1}]
    (tmp_path / "sampling.json").write_text(json.dumps({"rows": rows}))
    cells = [line.split(" | ")[-1].removesuffix(" |") for line in tables.sampling(tmp_path).splitlines()[2:6]]
    assert cells == ["sample ÷ score ≤ 8: met", "sample ÷ score ≤ 1.2: missed", "sample ÷ score ≤ 0.8: missed", "–"]
    assert tables.asked("throughput_gan", {"what": "defaults", "ratio": 1.5}) == "≥ 1.5: met"


def test_every_target_is_of_a_row_that_was_measured(tables: ModuleType) -> None:
    """A benchmark whose rows got other names would lose its targets silently."""
    files = {"sampling": "sampling", "scan": "scan", "throughput": "throughput-vae", "throughput_gan": "throughput-gan"}
    files |= {"codecs": "codecs", "codec_speed": "codec-speed"}
    assert {*files, "modes"} == set(tables.TARGETS)
    games = re.findall(
        r'^    "([a-z-]+)": \(\w+\(', (ROOT / "benchmarks" / "modes.py").read_text(encoding="utf-8"), re.M
    )  # not all were run
    assert all(any(t.verdict({"model": game, t.key: 0.0}) for game in games) for t in tables.TARGETS["modes"])
    for table, name in files.items():
        rows = [row | {"cost": 1 / row.get("ratio", 1)} for row in tables.read(ROOT / "results" / f"{name}.json")["rows"]]
        rows = [tables.codec_numbers(row) for row in rows] if table == "codecs" else rows
        for target in tables.TARGETS[table]:
            assert any(target.verdict(row) for row in rows), target


def test_a_recipe_that_changed_since_says_so(tables: ModuleType) -> None:
    row = {"recipe": "mnist-iwae", "settings": {"lr": 0.5}, "budget": {"asked": {"minutes": 7}}}
    now = load_recipe("mnist-iwae").train
    assert tables.changed(row) == (
        f"; made with lr = 0.5, the recipe now has {now['lr']:g}; made with minutes = 7, the recipe now has {now['minutes']:g}"
    )


def test_a_table_without_its_place_is_an_error(tables: ModuleType) -> None:
    with pytest.raises(ValueError, match="0 blocks 'sampling'"):
        tables.render("autoregressive", "# A page without markers\n")


# Words ----------------------------------------------------------------------------------------------------------------


def test_links_lead_somewhere() -> None:
    for document in ROOT.glob("docs/**/*.md"):
        text = document.read_text(encoding="utf-8")
        for target in [*re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text), *re.findall(r'<img src="([^"]+)"', text)]:
            assert target in DRAWN or (document.parent / target).exists(), f"{document.name} links to {target}"


def test_every_model_and_decision_is_linked() -> None:
    for path in (ROOT / "src" / "pofx" / "models" / "autoregressive").glob("[a-z]*.py"):
        assert f"](../src/pofx/models/autoregressive/{path.name})" in WORDS or f"{path.name}]" in WORDS, path.name
    decisions = ROOT / "docs" / "decisions"
    listed = (decisions / "README.md").read_text(encoding="utf-8")
    for path in decisions.glob("0*.md"):
        assert f"]({path.name})" in listed, f"docs/decisions/README.md does not list {path.name}"


def test_numbers_of_steps_are_right() -> None:
    for side in (9, 28):
        steps = len(diagonal_plan(side, side, torch.device("cpu")).steps)
        assert f"{side} + {side} − 1 = {steps} steps" in WORDS
    space = ImageSpace(1, 28, 28, levels=2)
    assert f"28×28 takes {len(Multiscale(space, layers=1, channels=4).order())} groups, not 784" in WORDS
    assert f"28×28 is made in {len(PixelCNN(space, layers=1, channels=4).order())} groups, not 784" in WORDS
    assert f"at most {SAMPLE_CHUNK} (`SAMPLE_CHUNK`" in WORDS


def test_what_the_picture_is_said_to_show() -> None:
    """The blind spot at any depth and with dilations, and who has none; pixel (9, 7) of 15×15, as docs/figures.py draws it."""
    space, past = ImageSpace(1, 15, 15, levels=2), torch.arange(225).reshape(15, 15) < 9 * 15 + 7
    wedge = [(5, 14), (6, 13), (6, 14), (7, 12), (7, 13), (7, 14), (8, 11), (8, 12), (8, 13), (8, 14)]
    models = [
        (PixelCNN(space, layers=12, channels=4), wedge),
        (PixelCNN(space, layers=8, channels=4, dilations=4), wedge),
        (PixelRNN(space, kind="row", channels=4), wedge),
        (GatedPixelCNN(space, layers=12, channels=4), []),
        (PixelRNN(space, kind="diagonal", layers=1, channels=4), []),
        (PixelCNNpp(space, channels=4, blocks=1), [(8, 14), (9, 0)]),
        (PixelCNNpp(space, channels=4), []),
    ]
    for model, blind in models:
        seen = receptive_field(model, 9, 7, draws=4).seen[0]
        assert [(i, j) for i, j in (past & ~seen).nonzero().tolist()] == blind, model.config()


def test_the_code_of_the_page_runs() -> None:
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    space = ImageSpace(1, 3, 4, levels=3)
    names = {"torch": torch, "model": PixelCNN.small(space)}
    exec(code, names)  # noqa: S102
    log_p = names["log_p"]
    assert isinstance(log_p, torch.Tensor) and log_p.shape == (16, 1, 3)


def test_the_code_of_other_tools_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/sklearn.md, word for word but for the steps of training; the run that it exports is a small one."""
    pytest.importorskip("onnxruntime")
    from pofx.cli import main
    from pofx.models.autoregressive.made import MADE
    from pofx.training import save_model

    page = (ROOT / "docs" / "sklearn.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    save_model(MADE.small(ImageSpace(1, 8, 8, levels=17)), tmp_path / "runs" / "digits", {})
    commands = [line for line in re.findall(r"^\$ (.*)$", page, re.M) if line.startswith("pofx ")]
    assert [main([*command.split()[1:], "--quiet"]) for command in commands] == [0]
    names: dict = {"images": torch.full((3, 1, 8, 8), 16, dtype=torch.uint8).numpy()}
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(blocks) == 4 and "".join(blocks).count("steps=300") == 2
    for block in blocks:
        exec(block.replace("steps=300", "steps=2"), names)  # noqa: S102
    assert names["nats"].shape == names["bits_per_dim"].shape == (3,)
    assert names["decision_scores_"].shape == (len(names["X"]),)
    p = names["detector"].p_values(names["X"])
    assert names["detector"].alpha_ <= 0.05 and ((names["detector"].predict(names["X"]) == -1) == (p <= 0.05)).all()
    names["detector"].save("runs/detector")
    assert type(names["detector"]).load("runs/detector").alpha_ == names["detector"].alpha_


def test_recipes_that_are_named_exist() -> None:
    for text in (PAGE, (ROOT / "README.md").read_text(encoding="utf-8")):
        for name in re.findall(r"pofx reproduce ([a-z][\w-]*)", text):
            assert name in recipe_names()
