"""Every verb on tiny runs: fixed JSON keys, files, and refusals."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pofx import catalog
from pofx.cli import main

ROOT = Path(__file__).parents[2]
Ask = Callable[..., dict[str, Any]]
Refuse = Callable[..., str]


def test_models(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    table = ask("models")["models"]
    assert table["pixelcnn"]["capabilities"] == ["Sampler", "ExactLikelihood", "Autoregressive", "Codable", "Features"]
    assert table["gan"]["levels"] == [2, 256]
    assert set(table["vae"]["given"]) >= {"label", "subsample"}
    assert "ExactLikelihood" not in table["gan"]["capabilities"]
    assert table["classifier"]["refuses"]
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.splitlines()[0].startswith("model")
    assert len({len(line) for line in out.splitlines() if line.startswith(("pixelcnn", "vae", "gan"))}) == 1


def test_models_say_the_levels_that_each_accepts(ask: Ask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:

    class Coarse(catalog.get("vae")):
        accepts_levels = (3, 16)

    monkeypatch.setattr(catalog, "models", lambda: {"coarse": Coarse})
    assert ask("models")["models"]["coarse"]["levels"] == [3, 16]
    assert main(["models"]) == 0
    assert "3–16" in capsys.readouterr().out


def test_models_fit_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    import pofx.cli.common as common

    monkeypatch.setattr(common, "make_console", lambda: Console(width=80, markup=False, highlight=False))
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "classifier features, labeler" in " ".join(out.split())


def test_tree(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    tree = ask("models", "--tree")
    assert tree["explicit"]["tractable"]["autoregressive"]["PixelCNN"] == {"model": "pixelcnn", "built": True}
    assert tree["composed"]["BayesClassifier"] == {"model": "bayes-classifier", "built": True}
    assert main(["models", "--tree"]) == 0
    assert "BayesClassifier" in capsys.readouterr().out


def test_you_are_here(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    for name in catalog.model_names():
        found = ask("models", "--here", name)
        assert (ROOT / "src" / found["file"]).is_file()
        assert main(["models", "--here", name]) == 0
        marked = [line for line in capsys.readouterr().out.splitlines() if "you are here" in line]
        assert len(marked) == 1
        assert f"(pofx train {name})" in marked[0]
    assert main(["models", "--here", "pixelcn"]) == 2
    assert "pixelcnn" in capsys.readouterr().err


def test_data(ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = ask("data", "digits", "-o", tmp_path / "sheet.png", "-n", 9)
    assert facts["shape"] == [1, 8, 8]
    assert facts["levels"] == 17
    assert facts["n"] == 1797 == sum(facts["counts"].values()) == sum(sum(parts.values()) for parts in facts["labels"].values())
    assert facts["overlap"] == 0
    assert (tmp_path / "sheet.png").stat().st_size > 100
    kept = ask("data", "digits", "--keep-labels", "0,1", "--levels", "2", "--size", "6")
    assert kept["shape"] == [1, 6, 6]
    assert kept["levels"] == 2
    assert {name for name, parts in kept["labels"].items() if parts["train"]} == {"0", "1"}
    assert len(kept["transforms"]) == 3
    assert main(["data", "digits", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert "1×8×8" in out
    assert err == ""


def test_train_answers_with_the_run(runs: Path, ask: Ask) -> None:
    """The same command on a finished run says so and exits 0."""
    answer = ask(*f"train pixelcnn digits --out {runs}/pixelcnn --steps 3 --batch-size 16 --layers 1 --channels 4".split())
    assert answer["run"] == str(runs / "pixelcnn")
    assert answer["model"] == "pixelcnn"
    assert isinstance(answer["metrics"], dict)


def test_the_classes_of_a_label_come_from_the_data(runs: Path, ask: Ask, tmp_path: Path) -> None:
    assert ask("info", runs / "label")["given"] == "Label(classes=10)"
    x = np.random.default_rng(0).integers(0, 2, (60, 4, 4)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(60) % 3)
    line = f"train vae {tmp_path}/a.npz -o {tmp_path}/r --steps 1 --given label --latents 1 --channels 4 --quiet"
    assert main(line.split()) == 0
    assert ask("info", tmp_path / "r")["given"] == "Label(classes=3)"


def test_train_with_other_arguments_on_the_same_folder_is_refused(runs: Path, refuse: Refuse) -> None:
    line = f"train pixelcnn digits --out {runs}/pixelcnn --steps 3 --batch-size 16 --layers 2 --channels 4"
    assert "layers" in refuse(*line.split())


def test_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "vae", "digits", "--out", str(tmp_path / "r"), "--steps", "3", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert "parameters" in (out + err)
    assert not (tmp_path / "r" / "model.json").exists()


def test_sample(runs: Path, ask: Ask, tmp_path: Path) -> None:
    whole = ask("sample", runs / "pixelcnn", "-n", 4, "-o", tmp_path / "a.npy", "--seed", 3)
    assert whole["kind"] == "samples of p"
    ask("sample", runs / "pixelcnn", "-n", 2, "--first", 2, "-o", tmp_path / "b.npy", "--seed", 3)
    a, b = np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy")
    assert a.shape == (4, 1, 8, 8)
    assert (a[2:] == b).all()
    ask("sample", runs / "gan", "-n", 3, "-o", tmp_path / "folder")
    assert len(list((tmp_path / "folder").glob("*.png"))) == 3
    assert ask("sample", runs / "vae", "-n", 2)["out"] == str(runs / "vae" / "samples.png")


def test_trace(runs: Path, ask: Ask, refuse: Refuse, tmp_path: Path) -> None:
    from PIL import Image

    from pofx.model import Autoregressive
    from pofx.training import load_model

    def steps(name: str) -> int:
        model = load_model(runs / name)
        assert isinstance(model, Autoregressive)
        return len(model.order())

    facts = ask("sample", runs / "pixelcnn", "--trace", "--seed", 3)
    assert (facts["n"], facts["out"], facts["trace"], facts["kind"]) == (4, str(runs / "pixelcnn" / "trace.gif"), True, "samples of p")
    with Image.open(facts["out"]) as file:
        assert (file.format, getattr(file, "n_frames", 1)) == ("GIF", steps("pixelcnn") + 1)
    assert ask("sample", runs / "label", "--trace", "-n", 2, "--label", "3", "-o", tmp_path / "a.png")["n"] == 2
    with Image.open(tmp_path / "a.png") as file:
        assert (file.format, getattr(file, "n_frames", 1)) == ("PNG", steps("label") + 1)
    message = refuse("sample", runs / "vae", "--trace", "-o", tmp_path / "b.gif")
    assert "VAE cannot be traced pixel by pixel" in message and "it has Sampler" in message
    assert ".gif" in refuse("sample", runs / "pixelcnn", "--trace", "-o", tmp_path / "b.npy")
    assert "1 … 64" in refuse("sample", runs / "pixelcnn", "--trace", "-n", 65, "-o", tmp_path / "b.gif")
    assert not list(tmp_path.glob("b*"))


def test_a_text(ask: Ask, refuse: Refuse, tmp_path: Path, runs: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text("".join(f"{i:03d}\n" for i in range(200)))
    facts = ask("data", f"text:{book}", "--size", "1x8")
    assert (facts["shape"], facts["levels"], facts["n"], facts["alphabet"]) == ([1, 1, 8], 11, 100, "\n0123456789")
    line = f"train pixelcnn text:{book} --size 1x8 -o {tmp_path}/r --steps 60 --layers 2 --channels 16 --lr 0.01 --quiet"
    assert main(line.split()) == 0
    assert ask("sample", tmp_path / "r", "-n", 5)["out"] == f"{tmp_path}/r/samples.txt"
    ask("sample", tmp_path / "r", "-n", 5, "-o", tmp_path / "a.npy")
    shown = (tmp_path / "r" / "samples.txt").read_text().splitlines()
    x = np.load(tmp_path / "a.npy")
    assert [line.replace("\\n", "\n") for line in shown] == ["".join(facts["alphabet"][v] for v in row.ravel()) for row in x]
    ask("sample", tmp_path / "r", "-n", 2, "-o", tmp_path / "a.png")
    facts = ask("evaluate", tmp_path / "r", "--draw", 20)
    assert facts["n"] == 20
    assert facts["bits_per_dim"] < 2.8 < np.log2(11)  # it has learned where lines end
    assert "was not trained on a text" in refuse("sample", runs / "pixelcnn", "-n", 2, "-o", tmp_path / "b.txt")
    assert "at most 256" in refuse("data", f"text:{_write(tmp_path / 'c.txt', ''.join(map(chr, range(300, 600))))}")


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_samples_at_a_temperature_are_not_of_p(runs: Path, ask: Ask, refuse: Refuse, tmp_path: Path) -> None:
    assert ask("sample", runs / "pixelcnn", "-n", 2, "-o", tmp_path / "a.png", "--temperature", "0.5")["kind"] == "not samples of p"
    assert "vae" in refuse("sample", runs / "vae", "-n", 2, "-o", tmp_path / "a.png", "--top-p", "0.5").lower()


def test_conditional_samples_need_what_they_condition_on(runs: Path, ask: Ask, refuse: Refuse, tmp_path: Path) -> None:
    assert "--label 0" in refuse("sample", runs / "label", "-n", 2)
    assert "0 … 9" in refuse("sample", runs / "label", "-n", 2, "--label", "11")
    assert "--label" in refuse("sample", runs / "pixelcnn", "-n", 2, "--label", "1")
    assert "--label x" in refuse("sample", runs / "label", "-n", 2, "--label", "x")
    assert "knows no such class" in refuse("sample", runs / "label", "-n", 2, "--label", "9" * 30)
    facts = ask("sample", runs / "label", "-n", 5, "--label", "1,7", "-o", tmp_path / "a.npz")
    assert (facts["kind"], facts["given"], facts["label"]) == ("samples of p(x | label)", "Label(classes=10)", "1,7")
    assert np.load(tmp_path / "a.npz")["y"].tolist() == [1, 7, 1, 7, 1]
    ask("sample", runs / "label", "-n", 5, "--like", "digits:test", "-o", tmp_path / "b.png")


def test_score(runs: Path, ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = ask("score", runs / "pixelcnn", "digits:test", "-o", tmp_path / "s.csv")
    assert facts["kind"] == "exact"
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    assert list(rows[0]) == ["id", "nats", "bits_per_dim", "kind"]
    assert len(rows) == facts["n"]
    assert float(rows[0]["nats"]) == pytest.approx(float(rows[0]["bits_per_dim"]) * 64 * np.log(2))
    assert ask("score", runs / "vae", "digits:valid", "-o", tmp_path / "v.jsonl")["kind"] == "lower bound"
    assert json.loads((tmp_path / "v.jsonl").read_text().splitlines()[0])["kind"] == "lower bound"
    assert main(["score", str(runs / "vae"), "digits:valid", "--quiet"]) == 0
    assert re.search(r"bits/dim ≤ [\d.]+ ± [\d.]+, nats ≤ [\d.]+ ± [\d.]+ on average", capsys.readouterr().out)


def test_a_gan_has_no_likelihood(runs: Path, refuse: Refuse) -> None:
    assert "no likelihood" in refuse("score", runs / "gan", "digits:test")


def test_images_of_another_shape_are_refused_with_the_fix(runs: Path, refuse: Refuse, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 5, 5), np.uint8))
    message = refuse("score", runs / "pixelcnn", tmp_path / "x.npy")
    assert "--size 8x8" in message
    assert "--levels 17" in message
    assert "training" not in message  # no conversion was used
    np.savez(tmp_path / "two.npz", x=np.zeros((3, 8, 8), np.uint8), levels=2)
    message = refuse("score", runs / "pixelcnn", tmp_path / "two.npz")
    assert "give images of 17 levels" in message
    assert "--levels" not in message
    run = tmp_path / "run"
    shutil.copytree(runs / "pixelcnn", run)
    meta = json.loads((run / "model.json").read_text())
    meta["data"]["transforms"] = ["size 8x8", "levels 17"]
    (run / "model.json").write_text(json.dumps(meta))
    assert "--size 8x8 --levels 17, the same conversion that was used in training" in refuse("score", run, tmp_path / "x.npy")


def test_an_unfinished_run_and_one_without_data_are_told(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "pixelcnn", run)
    meta = json.loads((run / "model.json").read_text())
    (run / "model.json").write_text(json.dumps(meta | {"finished": False}))
    for line in (f"sample {run} -n 2", f"evaluate {run} digits:valid --draw 0"):
        capsys.readouterr()
        assert main(line.split()) == 0
        assert "is not finished" in capsys.readouterr().err
    assert main(f"sample {runs}/pixelcnn -n 2 -o {tmp_path}/a.png".split()) == 0
    assert "not finished" not in capsys.readouterr().err
    del meta["data"]
    (run / "model.json").write_text(json.dumps(meta))
    assert main(["info", str(run)]) == 0


def test_numbers_of_images_and_learning_rates_are_checked(runs: Path, refuse: Refuse, tmp_path: Path) -> None:
    for first in ("-1", "9" * 20):
        assert f"--first {first}" in refuse("sample", runs / "pixelcnn", "-n", 2, "--first", first, "-o", tmp_path / "a.png")
    assert "learning rate" in refuse("train", "pixelcnn", "digits", "--out", tmp_path / "r", "--lr", "nan", "--steps", 5)
    assert not (tmp_path / "r").exists()


def test_info_shows_a_bound_as_one(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, sign in (("pixelcnn", "="), ("vae", "≤")):
        assert main(["info", str(runs / name)]) == 0
        out = capsys.readouterr().out
        assert f"valid_bits_per_dim{sign}" in out
        assert f"valid_nats{sign}" in out


def test_evaluate(runs: Path, ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    facts = ask("evaluate", runs / "pixelcnn", "--limit", 50, "--draw", 20)
    assert {"model", "data", "split", "n", "kind", "nats", "bits_per_dim"} <= set(facts)
    assert set(facts["nats"]) == {"mean", "se"}
    assert facts["split"] == "test"
    assert facts["kind"] == "exact"
    assert facts["data"].startswith("digits")
    assert list(facts["splits"]) == ["train", "valid", "test"]
    part = ask("evaluate", runs / "vae", "digits:valid", "--estimate", 2)
    assert part["split"] == "valid"
    assert part["kind"] == "lower bound"
    assert part["nats"]["mean"] > 0
    none = ask("evaluate", runs / "gan", "--draw", 20, "--features", "none")
    assert none["nats"] is None
    assert main(["evaluate", str(runs / "vae"), "digits:valid", "--estimate", "2", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "≤" in out
    assert "≈" in out
    assert "\x1b" not in out


def test_outliers(runs: Path, ask: Ask, refuse: Refuse, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pyarrow.parquet as pq

    facts = ask("outliers", runs / "pixelcnn", "digits:test", "-o", tmp_path / "odd", "--alpha", "0.1", "--stream")
    table = pq.read_table(tmp_path / "odd" / "scores.parquet")
    assert table.column_names[:5] == ["id", "score", "p_value", "outlier", "rank"]
    assert {"bits_per_dim", "over_codec", "max_surprise", "pixels_distance"} <= set(table.column_names)
    assert table.num_rows == facts["n"] == len((tmp_path / "odd" / "scores.csv").read_text().splitlines()) - 1
    assert sum(table["outlier"].to_pylist()) == facts["outliers"]
    first = min(range(facts["n"]), key=lambda i: table["rank"][i].as_py())
    assert table["id"][first].as_py() == facts["oddest"][0]["id"]
    assert {"alarm", "alpha", "largest_log10_capital"} == set(facts["stream"])
    page = (tmp_path / "odd" / "index.html").read_text()
    for words in (
        facts["promise"],
        "What is guaranteed",
        "The oddest images",
        "The stream",
        facts["oddest"][0]["id"],
        "calibration images",
    ):
        assert words in page
    assert "<script" not in page and 'src="http' not in page and 'href="http' not in page
    assert page.count("data:image/png") == 24

    plain = ask(
        "outliers",
        runs / "vae",
        "digits:test",
        "--statistic",
        "kl",
        "--statistic",
        "bits_per_dim",
        "--fdr",
        "0.2",
        "--known-outliers",
        "digits:valid",
    )
    assert plain["statistics"] == ["kl", "bits_per_dim"] and plain["fdr"] == 0.2 and plain["false_alarms_at_95_percent"] is None
    assert "false discovery rate" in plain["promise"]
    assert set(plain["tried"]) == {"code+likelihood", "code", "likelihood"}
    judged = ask("outliers", runs / "gan", "digits:test", "--alpha", "0.1", "-o", tmp_path / "gan")
    assert judged["used"] == ["critic", "pixels"]
    page = (tmp_path / "gan" / "index.html").read_text()
    assert "There is no map of where an image is odd" in page and "A pixel that is lit" not in page


def test_outliers_refuses_what_it_cannot_guarantee(runs: Path, refuse: Refuse, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = runs / "pixelcnn"
    assert "takes 99 of them" in refuse("outliers", run, "digits:test", "--alpha", "0.01")
    assert "takes 299 of them" in refuse("outliers", run, "digits:test", "--alpha", "0.01", "--guarantee", "calibration")
    assert "--fdr 2" in refuse("outliers", run, "digits:test", "--fdr", "2")
    assert "Did you mean 'over_codec'" in refuse("outliers", run, "digits:test", "--statistic", "over_code")
    assert "needs LatentVariable" in refuse("outliers", run, "digits:test", "--statistic", "kl")
    assert "needs ExactLikelihood or LowerBound and --background RUN" in refuse(
        "outliers", run, "digits:test", "--statistic", "over_background"
    )
    # Images that were in training, by their pixels and not by their names
    import pofx

    x = pofx.load_data("digits").train.x[:40, 0].numpy()
    np.save(tmp_path / "seen.npy", x)
    refused = refuse("outliers", run, "digits:test", "--calib", tmp_path / "seen.npy", "--levels", "17")
    assert "40 of the 40 calibration images were in the run's train part" in refused
    np.save(tmp_path / "large.npy", np.zeros((3, 12, 8), np.uint8))
    assert "Add --size 8x8" in refuse("outliers", run, tmp_path / "large.npy", "--levels", "17")
    assert "--calib DATA" in refuse("outliers", run, tmp_path / "large.npy", "--levels", "17", "--tile", "8")
    assert "--tile 16: the run is a model of 8×8" in refuse("outliers", run, tmp_path / "large.npy", "--levels", "17", "--tile", "16")
    assert "needs --tile 8" in refuse("outliers", run, tmp_path / "large.npy", "--levels", "17", "--stride", "4")
    for verb in ("outliers", "score"):
        assert "--size 8x8. Or cut them into tiles of the model's size: --tile 8" in refuse(
            verb, run, tmp_path / "large.npy", "--levels", "17"
        )
    # Resized here and not in training: said, and done
    assert main(["outliers", str(run), str(tmp_path / "large.npy"), "--levels", "17", "--size", "8x8", "--json"]) == 0
    assert "differ in their blur" in capsys.readouterr().err


def test_outliers_says_what_is_not_new(runs: Path, ask: Ask, refuse: Refuse, tmp_path: Path) -> None:
    """Copies, images of the run itself, known outliers that are judged, files that cannot be read, data and backgrounds that have seen calib."""
    import json
    import shutil

    from PIL import Image

    import pofx

    run, data = runs / "pixelcnn", pofx.load_data("digits")
    assert ask("outliers", run, "digits:test")["notes"] == []
    [train] = ask("outliers", run, "digits:train")["notes"]
    [calib] = ask("outliers", run, "digits:calib")["notes"]
    [known] = ask("outliers", run, "digits:test", "--known-outliers", "digits:test")["notes"]
    assert "1294 of these 1294 images were in the run's train part" in train
    assert "72 of these 72 images are calibration images" in calib and "the known outliers, which chose" in known
    assert "72 of its 72 images are calibration images too" in refuse("outliers", run, "digits:test", "--known-outliers", "digits:calib")
    assert "leave out --guarantee" in refuse("outliers", run, "digits:test", "--fdr", "0.1", "--guarantee", "calibration")
    np.save(tmp_path / "copies.npy", np.repeat(data.test.x[:20, 0].numpy(), 5, 0))
    copies = ["outliers", run, "digits:valid", "--calib", tmp_path / "copies.npy", "--levels", 17]
    assert "so that they count as 20: alpha=0.01 cannot be reached" in refuse(*copies, "--alpha", "0.01")
    assert "80 of the 100 calibration images are copies of others" in ask(*copies, "--alpha", "0.1")["notes"][0]

    (tmp_path / "some").mkdir()
    for i in range(3):
        Image.fromarray(15 * data.test.x[i, 0].numpy()).save(tmp_path / "some" / f"{i}.png")
    (tmp_path / "some" / "torn.png").write_bytes(b"no image")
    found = ask("outliers", run, tmp_path / "some", "--levels", 17, "-o", tmp_path / "odd")
    assert found["n"] == 3 and "1 files could not be read and were not judged, e.g. torn.png" in found["notes"][0]
    assert "torn.png" in (tmp_path / "odd" / "index.html").read_text()

    def altered(name: str, **changes: object) -> Path:
        """A copy of a run that says something else of its data."""
        folder = Path(shutil.copytree(runs / name, tmp_path / f"altered-{name}", dirs_exist_ok=True))
        said = json.loads((folder / "model.json").read_text())
        said["data"] |= changes
        (folder / "model.json").write_text(json.dumps(said))
        return folder

    changed = altered("pixelcnn", fingerprint="0" * 32)
    assert "is not what it was" in refuse("outliers", changed, "digits:valid") and "--calib DATA" in refuse(
        "outliers", changed, "digits:valid"
    )
    assert "was compared with the data as it is now" in ask("outliers", changed, "digits:valid", "--calib", "digits:test")["notes"][0]
    other = altered("vae", spec=data.to_json()["spec"] | {"split_seed": 1})
    refused = refuse("outliers", run, "digits:test", "--background", other)
    assert f"--background {other}" in refused and "were in the background's" in refused
    gone = altered("vae", spec={"spec": str(tmp_path / "gone")})
    assert "cannot be told" in ask("outliers", run, "digits:test", "--background", gone)["notes"][0]
    assert ask("outliers", run, "digits:test", "--background", runs / "vae")["notes"] == []


def test_photographs_larger_than_the_model(runs: Path, ask: Ask, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    good, odd = rng.integers(0, 17, (30, 12, 16), dtype=np.uint8), rng.integers(0, 17, (6, 12, 16), dtype=np.uint8)
    odd[0, 3:10, 4:12] = 0  # flat where all others are noise
    np.save(tmp_path / "good.npy", good)
    np.save(tmp_path / "odd.npy", odd)
    more = ["--levels", "17", "--tile", "8"]
    facts = ask("outliers", runs / "pixelcnn", tmp_path / "odd.npy", "--calib", tmp_path / "good.npy", "-o", tmp_path / "o", *more)
    assert facts["n"] == 6 and facts["tiles"] == 6 and facts["calibration"] == 20
    assert "its score is that of the oddest" in (tmp_path / "o" / "index.html").read_text()
    apart = ask("score", runs / "pixelcnn", tmp_path / "odd.npy", *more, "--stride", "4")
    assert apart["n"] == 6 and apart["dims"] == 192 and apart["kind"] == "estimate"
    np.save(tmp_path / "two.npy", good[:, :8])
    assert ask("score", runs / "pixelcnn", tmp_path / "two.npy", *more, "--stride", "8")["kind"] == "exact"


def test_compare(runs: Path, tmp_path: Path, ask: Ask, refuse: Refuse, capsys: pytest.CaptureFixture[str]) -> None:
    facts = ask("compare", runs / "pixelcnn", runs / "vae", "--draw", 0)
    assert facts["rows"][0]["name"] == facts["best"]
    assert facts["rows"][0]["difference"]["mean"] == 0
    assert "conditional" in refuse("compare", runs / "pixelcnn", runs / "label")
    assert not any("different sets" in note for note in facts["notes"])
    shutil.copytree(runs / "vae", tmp_path / "other")
    stored = json.loads((tmp_path / "other" / "model.json").read_text())
    stored["data"]["fingerprint"] = "0" * 32
    (tmp_path / "other" / "model.json").write_text(json.dumps(stored))
    assert any("different sets" in note for note in ask("compare", runs / "pixelcnn", tmp_path / "other", "--draw", 0)["notes"])
    words = ["compare", str(runs / "pixelcnn"), str(runs / "vae"), "--data", "digits:valid", "--quiet", "--features", "none", "--draw", "4"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "best" in out and "samples/s" in out and "Fréchet" not in out


def test_compare_puts_all_families_in_one_table(runs: Path, ask: Ask, refuse: Refuse, capsys: pytest.CaptureFixture[str]) -> None:
    three = [runs / name for name in ("pixelcnn", "vae", "gan")]
    few = ["--draw", 30, "--limit", 60, "--features", runs / "pixelcnn"]
    facts = ask("compare", *three, *few)
    assert [m["kind"] for m in facts["models"]] == ["exact", "lower bound", "none"]
    assert [m["posterior"] for m in facts["models"]] == [False, True, False]
    assert [Path(row["name"]).name for row in facts["rows"]] == sorted(("pixelcnn", "vae"), key=lambda n: n != Path(facts["best"]).name)
    for m in facts["models"]:
        assert m["samples"]["n"] == 30 and m["samples"]["n_reference"] == 60
        assert m["samples"]["features"].startswith("pixelcnn ")
        assert m["speed"]["samples_per_second"] > 0
    assert main(["compare", *map(str, three), *map(str, few), "--quiet"]) == 0
    out = capsys.readouterr().out
    for text in (
        "samples/s",
        "Fréchet",
        "KID",
        "density",
        "sharpness ÷ real",
        "q(z|x)",
        "none",
        "real images",
        "resizing: none",
        "to the best",
    ):
        assert text in out, text
    assert "holds" in out or "not told apart" in out
    gans = ask("compare", runs / "gan", runs / "vae", "--draw", 10, "--features", "none", "--limit", 20)
    assert gans["best"] == str(runs / "vae")
    assert "Features 'dinov2'" in refuse("compare", *three, "--features", "dinov2") or "curl" in refuse(
        "compare", *three, "--features", "dinov2"
    )


def test_evaluate_prints_the_protocol(runs: Path, ask: Ask, refuse: Refuse, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", runs / "gan", "--features", runs / "pixelcnn", "--draw", 30, "--limit", 50]
    facts = ask(*words)["samples"]
    assert {"kid", "kid_se", "shares", "of_real_images", "sharpness", "split", "resizing", "quantisation", "data", "size"} <= set(facts)
    assert main([*map(str, words), "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "training images" in out and "resizing: none (8×8); uint8, 17 levels" in out
    assert "auto, inception, dinov2" in refuse("evaluate", runs / "gan", "--features", "inceptoin")


def test_info(runs: Path, ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    facts = ask("info", runs / "gan")
    assert facts["model"] == "gan"
    assert facts["parameters"] > 0
    assert "ExactLikelihood" not in facts["capabilities"]
    assert main(["info", str(runs / "gan")]) == 0
    assert "digits" in capsys.readouterr().out


def test_push_and_pull(runs: Path, ask: Ask, refuse: Refuse, tmp_path: Path) -> None:
    assert ask("push", runs / "gan", tmp_path / "shared")["target"] == str(tmp_path / "shared")
    assert (tmp_path / "shared" / "README.md").exists()
    ask("pull", tmp_path / "shared", "-o", tmp_path / "mine")
    assert ask("info", tmp_path / "mine")["model"] == "gan"
    assert "not empty" in refuse("pull", tmp_path / "shared", "-o", tmp_path / "mine")


def test_report(runs: Path, ask: Ask, tmp_path: Path) -> None:
    answer = ask("report", runs / "vae", "-o", tmp_path / "r.html", "--no-features", "--draw", 20, "--limit", 50)
    assert answer["data"] == "digits"
    assert "<html" in Path(answer["out"]).read_text()


@pytest.mark.parametrize("verb", ["sample", "info", "evaluate", "report"])
def test_a_run_that_is_no_run_is_refused(verb: str, refuse: Refuse, tmp_path: Path) -> None:
    assert "pofx train" in refuse(verb, tmp_path)
    assert "pofx train" in refuse(verb, tmp_path / "nothing")


def test_data_that_is_not_there(refuse: Refuse, tmp_path: Path) -> None:
    assert "digits" in refuse("data", "digitz")
    assert "nowhere" in refuse("train", "vae", tmp_path / "nowhere", "--out", tmp_path / "r", "--steps", "1")


def test_runs_given_attributes_captions_and_masks(tmp_path: Path, ask: Ask, refuse: Refuse) -> None:
    from PIL import Image

    images = tmp_path / "images"
    images.mkdir()
    rows = ["file,hat,smiling,caption"]
    for i in range(30):
        Image.fromarray((np.arange(16).reshape(4, 4) * 16 + 8 * i).astype(np.uint8)).save(images / f"{i}.png")
        rows.append(f"{i}.png,{i % 2},{'' if i == 3 else 1},word {i}")
    (images / "list.csv").write_text("\n".join(rows))
    small = ("--layers", 1, "--channels", 4, "--levels", 2, "--steps", 2, "--batch-size", 8, "--quiet")
    for name, settings in (("attributes", ["--given.names", "hat,smiling"]), ("caption", ["--given.length", 9]), ("masked", [])):
        ask("train", "pixelcnn", images, "--given", name, *settings, "--out", tmp_path / name, *small)
    a, c, m = (tmp_path / name for name in ("attributes", "caption", "masked"))
    out = tmp_path / "x.npy"
    assert ask("sample", a, "-n", 2, "--attributes", "smiling=1,hat=0", "-o", out)["given"] == "Attributes(names=('hat', 'smiling'))"
    ask("sample", c, "-n", 2, "--caption", "word 3", "-o", out)
    for run in (a, c, m):
        assert ask("sample", run, "-n", 3, "--like", images, "-o", out)["n"] == 3
        assert ask("score", run, images, "--levels", 2, "-o", tmp_path / "s.csv")["n"] == 30
    assert "--attributes hat=1" in refuse("sample", a)
    assert "write NAME=1 or NAME=0" in refuse("sample", a, "--attributes", "hat")
    assert "Did you mean 'smiling'" in refuse("sample", a, "--attributes", "smilling=1")
    assert "Use --caption" in refuse("sample", c, "--attributes", "hat=1")
    assert "this model reads 9" in refuse("sample", c, "--caption", "a long caption")
    assert "--like" in refuse("sample", m)
    assert "'beard'" in refuse(
        "train", "pixelcnn", images, "--given", "attributes", "--given.names", "beard", "--steps", 2, "--out", tmp_path / "b"
    )


def test_p_of_x_given_a_label_from_two_runs(tmp_path: Path, runs: Path, ask: Ask, refuse: Refuse) -> None:
    """The commands of docs/conditional.md, on small nets: nothing is trained in the third."""
    ask("train", "classifier", "digits", "--channels", 4, "--stages", 0, "--out", tmp_path / "classifier", "--steps", 30, "--threads", 1)
    compose = ("train", "bayes-conditional", "digits", "--density", runs / "pixelcnn", "--labelers", tmp_path / "classifier")
    ask(*compose, "--given", "label", "--out", tmp_path / "bayes")
    assert json.loads((tmp_path / "bayes" / "model.json").read_text())["training"]["steps"] == 0
    found = ask("sample", tmp_path / "bayes", "--label", 3, "-n", 2, "-o", tmp_path / "threes.npz")
    assert found["kind"] == "samples of p(x | label)"
    assert ask("info", tmp_path / "bayes")["arguments"]["labelers"] == "(Classifier)"
    assert "--given label" in refuse(*compose, "--out", tmp_path / "none")
    assert "Leave out --minutes" in refuse(*compose, "--given", "label", "--out", tmp_path / "none", "--minutes", 1)


def test_the_example_of_bayes_conditional_conditions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "bayes-conditional", "--help"]) == 0
    example = " ".join(capsys.readouterr().out.split("Example:")[1].split())
    assert "--given label --density runs/pixelcnn --labelers runs/classifier" in example and "--minutes" not in example
