"""`train` as a person calls it: budgets, resume, extension, objectives, and every refusal."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
import torch
from torch import Tensor, nn

from pofx.data import Data, load_data
from pofx.errors import InputError, RunError
from pofx.model import Batch, Context, ExactLikelihood, ImageModel, Labeler, LabelScore, LowerBound, Objective, OptimizerSpec, Sampler
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.training import Run, TrainingPlan, checkpoint, loop, read_run, train
from pofx.training.logger import read_csv
from pofx.views import Label, View

HOOK: list[Callable[[int], None]] = []  # what a test does inside a loss, told the step


class Table(ExactLikelihood, Sampler):
    """Independent categorical sub-pixels: a table of logits, with dropout so that noise matters."""

    family: ClassVar = ("toy",)
    paper: ClassVar = "none"

    def __init__(self, space: ImageSpace, given: View | None = None, dropout: float = 0.0) -> None:
        super().__init__(space, given)
        self.dropout = dropout
        self.logits = nn.Parameter(torch.randn(space.dims, space.levels) * 0.01)
        self.first = nn.Buffer(torch.zeros(()))

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        return cls(space, given)

    def initialise(self, batch: Batch) -> None:
        self.first += batch.x.double().mean()

    def log_prob(self, x: Tensor, given: Any = None) -> Tensor:
        log_prob = self.logits.log_softmax(-1).expand(len(x), -1, -1)
        return log_prob.gather(2, x.flatten(1)[..., None].long()).sum((1, 2))

    def draw(self, given: Tensor | None, noise: Noise, progress: Any) -> Tensor:
        u = noise.uniform("x", self.space.dims)
        cdf = self.logits.double().softmax(-1).cumsum(-1)
        return (u[..., None] > cdf).sum(-1).clamp(max=self.space.levels - 1).to(torch.uint8).reshape(-1, *self.space.shape)

    def objectives(self) -> Sequence[Objective]:
        return [Objective("likelihood", self, self.loss, optimizer=OptimizerSpec(lr=0.05))]

    def loss(self, batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        for hook in HOOK:
            hook(context.step)
        keep = context.noise.keep("x", self.logits.expand(len(batch.x), -1, -1), self.dropout) if self.dropout else 1
        log_prob = (self.logits * keep).log_softmax(-1).expand(len(batch.x), -1, -1)
        nats = -log_prob.gather(2, batch.x.flatten(1)[..., None].long()).sum((1, 2)).mean()
        nats = nats + 0 * torch.randn(()).to(nats)  # torch's own generator is a function of (seed, step) too
        return nats, {"bits_per_dim": nats / (self.dims * math.log(2))}


class Duel(ImageModel):
    """Two players on one batch norm: y chases the mean of the images, z runs from y. z moves at every third step."""

    family: ClassVar = ("toy",)
    paper: ClassVar = "none"

    def __init__(self, space: ImageSpace, given: View | None = None) -> None:
        super().__init__(space, given)
        self.y, self.z = nn.Linear(space.dims, 4), nn.Linear(4, 1)
        self.norm = nn.BatchNorm1d(4)
        self.seen: list[tuple[str, int, list[str]]] = []
        self.clipped = 0

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        return cls(space, given)

    def _loss(self, name: str, sign: float) -> Callable[[Batch, Context], tuple[Tensor, dict[str, Tensor]]]:
        def loss(batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
            self.seen.append((name, context.step, [n for n, p in self.named_parameters() if p.requires_grad]))
            h = self.norm(self.y(batch.x.flatten(1).to(self.dtype) + torch.randn(len(batch.x), self.space.dims).to(self.y.weight)))
            return sign * self.z(h).square().mean() * 1e4, {"extra": h.mean()}

        return loss

    def _after(self) -> None:
        self.clipped += 1

    def objectives(self) -> Sequence[Objective]:
        return [
            Objective(
                "y", nn.ModuleList([self.y, self.norm]), self._loss("y", 1), optimizer=OptimizerSpec("Adam", lr=1e-3, schedule="constant")
            ),
            Objective("z", self.z, self._loss("z", -1), every=3, optimizer=OptimizerSpec("SGD", lr=1e-3), clip=0.5, after=self._after),
        ]


class Namer(Labeler):
    family: ClassVar = ("toy",)
    paper: ClassVar = "none"

    def __init__(self, space: ImageSpace, given: View | None = None, classes: int = 3) -> None:
        super().__init__(space, given)
        self.classes = classes
        self.layer = nn.Linear(space.dims, classes)

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        return cls(space, given)

    def label(self, x: Tensor) -> LabelScore:
        return LabelScore(self.layer(x.flatten(1).to(self.dtype)).log_softmax(-1), "exact")

    def objectives(self) -> Sequence[Objective]:
        def loss(batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
            assert batch.y is not None
            return nn.functional.cross_entropy(self.layer(batch.x.flatten(1).to(self.dtype)), batch.y), {}

        return [Objective("labels", self, loss)]


@pytest.fixture(autouse=True)
def no_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    HOOK.clear()


@pytest.fixture(scope="module")
def data() -> Data:
    generator = torch.Generator().manual_seed(5)
    y = torch.arange(200) % 3
    x = (torch.rand(200, 1, 3, 4, generator=generator) * 1.6 + y[:, None, None, None] / 2).to(torch.uint8).clamp(max=3)
    return load_data((x, y), levels=4)


def table(data: Data, **more: Any) -> Table:
    torch.manual_seed(0)
    return Table(data.space, **more)


def go(data: Data, out: Path, model: ImageModel | None = None, **more: Any) -> Run:
    options = {"steps": 12, "batch_size": 16, "threads": 1, "quiet": True, "checkpoint_seconds": 0} | more
    return train(model or table(data, dropout=0.25), data, out=out, **options)  # type: ignore[call-overload]


def weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


# The run --------------------------------------------------------------------------------------------------------------


def test_a_run_learns_and_leaves_a_run_folder(data: Data, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = table(data)
    before = {name: p.clone() for name, p in model.named_parameters()}
    run = train(model, data, out=tmp_path / "a", steps=60, batch_size=32)
    assert run.path == tmp_path / "a"
    assert run.model is model
    assert not model.training
    assert not torch.equal(before["logits"], model.logits)
    rows = read_csv(run.path / "metrics.csv")
    assert float(rows[-1]["train_bits_per_dim"]) < float(rows[0]["train_bits_per_dim"]) - 0.2
    assert run.metrics["valid_bits_per_dim"] == pytest.approx(run.metrics["valid_nats"] / (12 * math.log(2)))
    assert float(rows[-1]["valid_nats"]) == pytest.approx(run.metrics["valid_nats"])
    nats = -model.log_prob(data.valid.x).detach().double().mean()
    assert float(nats) == pytest.approx(run.metrics["valid_nats"], rel=1e-6)
    info = json.loads((run.path / "model.json").read_text())
    assert info["finished"]
    assert info["training"]["steps"] == 60
    assert info["training"]["images"] == 60 * 32
    assert info["training"]["threads"] >= 1
    assert info["training"]["hardware"]["cores"]
    assert info["data"] == json.loads(json.dumps(data.to_json()))
    assert (run.path / "samples.png").read_bytes().startswith(b"\x89PNG")
    assert list((run.path / "tensorboard").glob("events.*"))
    said = capfd.readouterr()
    assert said.out == ""
    assert "bits/dim" in said.err
    assert "Trainer" not in said.err
    assert "GPU" not in said.err


def test_quiet_says_nothing(data: Data, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    go(data, tmp_path / "a", steps=2)
    assert capfd.readouterr() == ("", "")


def test_the_same_seed_gives_the_same_weights_and_another_does_not(data: Data, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        go(data, tmp_path / name, seed=seed)
        torch.rand(7)  # what else draws does not matter
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")
    torch.set_rng_state(state)
    model = table(data)
    state = torch.get_rng_state()
    go(data, tmp_path / "d", model)
    assert torch.equal(state, torch.get_rng_state())  # the caller's generator is left alone


def test_threads_are_timed_without_a_trace(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pofx.training.module as module

    monkeypatch.setattr(module, "_all_threads", lambda: 2)
    monkeypatch.setattr(module.Game.seconds_per_step, "__kwdefaults__", {"at_least": 0.0})
    # A toy's numbers do not depend on the number of threads, so the throwaway steps would be the only difference.
    timed = go(data, tmp_path / "a", steps=60, threads=None)
    go(data, tmp_path / "b", steps=60, threads=1)
    assert read_run(timed.path).training["threads"] in (1, 2)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_a_training_set_smaller_than_a_batch_is_one_batch(data: Data, tmp_path: Path) -> None:
    run = go(data, tmp_path / "a", batch_size=10_000, epochs=2, steps=None)
    assert read_run(run.path).training["steps"] == 2
    assert read_run(run.path).training["images"] == 2 * len(data.train)


def test_double_precision(data: Data, tmp_path: Path) -> None:
    run = go(data, tmp_path / "a", precision="64")
    assert run.model.dtype == torch.double
    assert weights(tmp_path / "a") == weights(go(data, tmp_path / "b", precision="64").path)


def test_bf16_trains(data: Data, tmp_path: Path) -> None:
    torch.manual_seed(0)
    go(data, tmp_path / "a", Namer(data.space), precision="bf16", steps=3)
    assert read_run(tmp_path / "a").training["precision"] == "bf16"


def test_a_labeler_is_measured_by_cross_entropy_and_accuracy(data: Data, tmp_path: Path) -> None:
    torch.manual_seed(0)
    run = go(data, tmp_path / "a", Namer(data.space), steps=150, lr=0.03)
    assert run.metrics.keys() == {"valid_cross_entropy", "valid_accuracy"}
    assert run.metrics["valid_accuracy"] > 0.6


def test_augmentation_changes_training_and_not_validation(data: Data, tmp_path: Path) -> None:
    a, b = go(data, tmp_path / "a"), go(data, tmp_path / "b", augment=("flip", "shift"))
    assert weights(a.path) != weights(b.path)
    nats = -b.model.log_prob(data.valid.x).detach().double().mean()  # type: ignore[attr-defined]
    assert float(nats) == pytest.approx(b.metrics["valid_nats"], rel=1e-6)


# Objectives -----------------------------------------------------------------------------------------------------------


def test_each_objective_moves_only_its_own_parameters_when_it_is_due(data: Data, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Duel(data.space)
    go(data, tmp_path / "a", model, steps=7)
    assert [(name, step) for name, step, _ in model.seen] == [
        ("y", 0), ("y", 1), ("y", 2), ("z", 2), ("y", 3), ("y", 4), ("y", 5), ("z", 5), ("y", 6),
    ]  # fmt: skip
    for name, _, trainable in model.seen:
        assert set(trainable) == ({"y.weight", "y.bias", "norm.weight", "norm.bias"} if name == "y" else {"z.weight", "z.bias"})
    assert model.clipped == 2
    rows = read_csv(tmp_path / "a" / "metrics.csv")
    assert {"train_y_loss", "train_y_extra", "train_z_loss", "train_z_grad_norm", "y_lr", "z_lr"} <= rows[-1].keys()
    assert rows[0]["train_z_loss"] == ""
    assert rows[2]["train_z_loss"] != ""
    assert all(p.requires_grad for p in model.parameters())
    assert go(data, tmp_path / "a", Duel(data.space), steps=7).metrics == {}


def test_gradients_are_clipped_per_objective(data: Data, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Duel(data.space)
    before = model.z.weight.detach().clone(), model.z.bias.detach().clone()
    go(data, tmp_path / "a", model, steps=3, lr=1.0, average=0)
    moved = torch.cat([(model.z.weight - before[0]).flatten(), (model.z.bias - before[1]).flatten()]).norm()
    last = read_csv(tmp_path / "a" / "metrics.csv")[-1]
    assert float(last["train_z_grad_norm"]) > 0.5
    assert float(moved.detach()) == pytest.approx(0.5 * float(last["z_lr"]), rel=1e-3)


# Resume ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [lambda data: table(data, dropout=0.25), lambda data: (torch.manual_seed(0), Duel(data.space))[1]])
@pytest.mark.parametrize("at", [0, 5])
def test_an_interrupted_run_goes_on_to_the_same_weights(data: Data, tmp_path: Path, model: Callable, at: int) -> None:
    """SIGINT ends the run after the step in hand, and the same call goes on. (Real kills: test_kill.py.)"""
    go(data, tmp_path / "whole", model(data))
    victim = model(data)
    play = victim.batch

    class Interrupt:
        calls = 0

        def __call__(self, x: Tensor, y: Tensor | None = None, noise: Noise | None = None) -> Batch:
            self.calls += 1
            if self.calls == at + 3:  # one call checks the view, one initialises
                os.kill(os.getpid(), signal.SIGINT)
            return play(x, y, noise)

    object.__setattr__(victim, "batch", Interrupt())
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        go(data, tmp_path / "a", victim, checkpoint_seconds=1e9)
    assert signal.getsignal(signal.SIGINT) is handler
    state = checkpoint.newest(tmp_path / "a")
    assert state is not None
    assert 0 < state["step"] < 12
    assert not read_run(tmp_path / "a").finished
    go(data, tmp_path / "a", model(data))
    assert weights(tmp_path / "a") == weights(tmp_path / "whole")
    same = [[{k: v for k, v in row.items() if k != "minutes"} for row in read_csv(tmp_path / n / "metrics.csv")] for n in ("a", "whole")]
    assert same[0] == same[1]


def test_a_damaged_newest_checkpoint_costs_only_time(data: Data, tmp_path: Path) -> None:
    go(data, tmp_path / "whole", steps=30)

    def stop(step: int) -> None:
        if step == 20:
            raise RuntimeError("pulled the plug")

    HOOK.append(stop)
    with pytest.raises(RuntimeError, match="plug"):
        go(data, tmp_path / "a", steps=30)
    HOOK.clear()
    newest = checkpoint.found(tmp_path / "a")[0]
    assert newest.name == "step-000000020.ckpt"
    newest.write_bytes(newest.read_bytes()[:-50])
    with pytest.warns(RuntimeWarning, match="damaged"):
        go(data, tmp_path / "a", steps=30)
    assert weights(tmp_path / "a") == weights(tmp_path / "whole")


def test_a_run_stopped_after_its_last_step_only_finishes(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go(data, tmp_path / "whole")

    def draw(*args: Any) -> None:
        raise RuntimeError("pulled the plug")

    monkeypatch.setattr(loop, "_draw", draw)
    with pytest.raises(RuntimeError, match="plug"):
        go(data, tmp_path / "a")
    assert not read_run(tmp_path / "a").finished
    monkeypatch.undo()
    run = go(data, tmp_path / "a")
    assert run.metrics == read_run(tmp_path / "whole").metrics
    assert weights(tmp_path / "a") == weights(tmp_path / "whole")
    assert (tmp_path / "a" / "samples.png").exists()


def test_a_finished_run_is_done(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = go(data, tmp_path / "a")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*") if p.name != ".lock" and p.is_file()}
    again = go(data, tmp_path / "a", table(data, dropout=0.25), quiet=False)
    assert "done" in capsys.readouterr().err
    assert again.metrics == first.metrics
    assert torch.equal(again.model.logits, first.model.logits)  # type: ignore[arg-type]
    assert before == {p: p.stat().st_mtime_ns for p in before}


def _spoil(run: Path, content: bytes | None) -> None:
    file = run / "model.safetensors"
    file.unlink() if content is None else file.write_bytes(content)


@pytest.mark.parametrize("content", [None, b"", b"half"])
def test_lost_weights_of_a_finished_run_come_back_from_its_checkpoint(
    data: Data, tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    first, before = go(data, tmp_path / "a"), weights(tmp_path / "a")
    _spoil(tmp_path / "a", content)
    again = go(data, tmp_path / "a", quiet=False)
    assert "made again from its checkpoint of step 12" in capsys.readouterr().err
    assert weights(tmp_path / "a") == before
    assert again.metrics == first.metrics
    assert read_run(tmp_path / "a").finished


def test_lost_weights_and_a_lost_last_checkpoint_cost_only_time(data: Data, tmp_path: Path) -> None:
    go(data, tmp_path / "a")
    before, found = weights(tmp_path / "a"), checkpoint.found(tmp_path / "a")
    assert len(found) == 2
    found[0].unlink()
    _spoil(tmp_path / "a", None)
    go(data, tmp_path / "a")
    assert weights(tmp_path / "a") == before


@pytest.mark.filterwarnings("ignore:.*is damaged")
def test_lost_weights_without_a_checkpoint_ask_for_another_out(data: Data, tmp_path: Path) -> None:
    go(data, tmp_path / "a")
    _spoil(tmp_path / "a", b"")
    for path in checkpoint.found(tmp_path / "a"):
        path.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(InputError, match="is damaged, and no checkpoint can be read. Name another --out"):
            go(data, tmp_path / "a")


def test_a_damaged_description_asks_for_another_out(data: Data, tmp_path: Path) -> None:
    go(data, tmp_path / "a")
    file = tmp_path / "a" / "model.json"
    value = json.loads(file.read_text())
    for content in ("{", json.dumps(value | {"training": {}}), json.dumps(value | {"training": {"plan": 3}})):
        file.write_text(content)
        for dry_run in (False, True):
            with pytest.raises(InputError, match=r"model.json .*[Nn]ame another --out"):
                go(data, tmp_path / "a", dry_run=dry_run)


@pytest.mark.parametrize("lr", [math.nan, math.inf, 0.0, -1.0])
def test_a_models_own_learning_rate_is_checked_before_anything_is_written(data: Data, tmp_path: Path, lr: float) -> None:
    class Wrong(Table):
        def objectives(self) -> Sequence[Objective]:
            return [Objective("likelihood", self, self.loss, optimizer=OptimizerSpec(lr=lr))]

    with pytest.raises(InputError, match="learning rate of 'likelihood'.*--lr 0.001"):
        go(data, tmp_path / "a", Wrong(data.space))
    assert not (tmp_path / "a").exists()


def test_metrics_say_whether_nats_are_exact_and_loggers_get_numbers(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Bound(LowerBound):
        family: ClassVar = ("toy",)
        paper: ClassVar = "none"

        def __init__(self, space: ImageSpace, given: View | None = None) -> None:
            super().__init__(space, given)
            self.table = Table(space)

        @classmethod
        def small(cls, space: ImageSpace, given: View | None = None) -> Self:
            return cls(space, given)

        def elbo(self, x: Tensor, given: Any = None, **_: Any) -> Tensor:
            return self.table.log_prob(x)

        def log_prob_estimate(self, x: Tensor, given: Any = None, **_: Any) -> Tensor:
            return self.table.log_prob(x)

        def objectives(self) -> Sequence[Objective]:
            return [Objective("bound", self, self.table.loss, optimizer=OptimizerSpec(lr=0.05))]

    for name, model, kind, sign in (("a", table(data), "exact", "="), ("b", Bound(data.space), "lower bound", "≤")):
        run = go(data, tmp_path / name, model, quiet=False)
        assert run.metrics["valid_kind"] == read_run(tmp_path / name).metrics["valid_kind"] == kind
        assert "valid_kind" not in read_csv(tmp_path / name / "metrics.csv")[-1]
        said = capsys.readouterr().err.splitlines()
        assert f"valid bits/dim {sign} {run.metrics['valid_bits_per_dim']:.3f}," in said[-1]
        assert f"· bits/dim {sign} " in said[-2]


def test_memory_is_kept_from_the_start(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(loop, "keep_pages", lambda: calls.append(1))
    go(data, tmp_path / "a", steps=2)
    assert calls == [1]


def test_extend_adds_the_budget_and_survives_an_interruption(data: Data, tmp_path: Path) -> None:
    for name in ("whole", "a"):
        go(data, tmp_path / name)
    go(data, tmp_path / "whole", extend=True, steps=8)

    def stop(step: int) -> None:
        if step == 15:
            raise RuntimeError("pulled the plug")

    HOOK.append(stop)
    with pytest.raises(RuntimeError, match="plug"):
        go(data, tmp_path / "a", extend=True, steps=8)
    HOOK.clear()
    assert not read_run(tmp_path / "a").finished
    go(data, tmp_path / "a", extend=True, steps=8)  # the same command: it resumes, and adds nothing
    assert read_run(tmp_path / "a").training["steps"] == 20
    assert weights(tmp_path / "a") == weights(tmp_path / "whole")
    assert [int(r["step"]) for r in read_csv(tmp_path / "a" / "metrics.csv")] == list(range(1, 21))
    go(data, tmp_path / "a")  # the first command again
    assert read_run(tmp_path / "a").training["steps"] == 20


def test_minutes_fix_and_store_the_number_of_steps(data: Data, tmp_path: Path) -> None:
    go(data, tmp_path / "warm", steps=1)  # imports cost seconds
    seen: list[int] = []

    def watch(step: int) -> None:
        seen.append(step)
        if len(seen) > 20 and read_run(tmp_path / "a").training["plan"]["segments"][0]["stop"]:
            raise RuntimeError("pulled the plug")

    HOOK.append(watch)
    with pytest.raises(RuntimeError, match="plug"):
        go(data, tmp_path / "a", steps=None, minutes=0.05, checkpoint_seconds=30)
    HOOK.clear()
    stop = read_run(tmp_path / "a").training["plan"]["segments"][0]["stop"]
    run = go(data, tmp_path / "a", steps=None, minutes=0.05)
    assert read_run(run.path).training["steps"] == stop
    assert read_run(run.path).training["minutes"] < 0.3


# Refusals -------------------------------------------------------------------------------------------------------------


def test_other_arguments_are_refused_with_the_difference(data: Data, tmp_path: Path) -> None:
    go(data, tmp_path / "a")
    before = weights(tmp_path / "a")
    with pytest.raises(InputError, match=r"lr: the run has null, now 0\.5"):
        go(data, tmp_path / "a", lr=0.5)
    with pytest.raises(InputError, match=r"dropout: the run has 0\.25, now 0\.0"):
        go(data, tmp_path / "a", table(data))
    with pytest.raises(InputError, match="steps: the run has 12, now 13.*--extend"):
        go(data, tmp_path / "a", steps=13)
    with pytest.raises(InputError, match=r"given\.type|given: the run has null"):
        go(data, tmp_path / "a", table(data, dropout=0.25, given=Label(3)))
    other = load_data(data.train.x, levels=4)
    with pytest.raises(InputError, match="data: the run has"):
        go(other, tmp_path / "a")
    assert weights(tmp_path / "a") == before


def test_a_run_of_a_version_without_a_setting_had_its_default(data: Data, tmp_path: Path) -> None:
    go(data, tmp_path / "a", table(data))
    path = tmp_path / "a" / "model.json"
    meta = json.loads(path.read_text())
    for arguments in (meta["arguments"], meta["training"]["arguments"]["arguments"]):
        del arguments["dropout"]
    path.write_text(json.dumps(meta))
    go(data, tmp_path / "a", table(data))  # done
    with pytest.raises(InputError, match=r"dropout: the run has 0\.0, now 0\.25"):
        go(data, tmp_path / "a", table(data, dropout=0.25))


def test_another_model_is_one_difference(data: Data, tmp_path: Path) -> None:
    go(data, tmp_path / "a")
    with pytest.raises(InputError) as found:
        go(data, tmp_path / "a", Duel(data.space))
    assert 'model: the run has "table", now "duel")' in str(found.value)


def test_a_folder_of_something_else_is_refused_untouched(data: Data, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"not empty.*thesis\.txt"):
        go(data, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(InputError, match="is a file"):
        go(data, tmp_path / "thesis.txt")


def test_a_run_that_is_being_trained_is_refused(data: Data, tmp_path: Path) -> None:
    def second(step: int) -> None:
        HOOK.clear()
        with pytest.raises(InputError, match="another process"):
            go(data, tmp_path / "a")

    HOOK.append(second)
    go(data, tmp_path / "a")


def test_a_loss_that_is_no_number_stops_before_it_spoils_the_weights(data: Data, tmp_path: Path) -> None:
    class Bad(Table):
        def loss(self, batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
            loss, logs = super().loss(batch, context)
            return loss * (math.inf if context.step == 7 else 1), logs

    torch.manual_seed(0)
    with pytest.raises(RunError, match=r"inf at step 7.*step-000000007\.ckpt.*--lr"):
        go(data, tmp_path / "a", Bad(data.space))
    state = checkpoint.newest(tmp_path / "a")
    assert state is not None
    assert all(torch.isfinite(t).all() for t in state["model"].values())


def test_a_gradient_that_is_no_number_stops_too(data: Data, tmp_path: Path) -> None:
    class Bad(Table):
        def loss(self, batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
            loss, logs = super().loss(batch, context)
            return loss + (self.logits.detach() - self.logits).abs().sqrt().sum(), logs  # √ at 0

    with pytest.raises(RunError, match="gradient of 'likelihood' is nan at step 0"):
        go(data, tmp_path / "a", Bad(data.space))


def test_a_full_disk_keeps_what_was_there(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    go(data, tmp_path / "whole")
    real = os.fsync

    def fsync(handle: int) -> None:
        if "step-000000007" in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(RunError, match="disk is full"):
        go(data, tmp_path / "a")
    assert checkpoint.found(tmp_path / "a")[0].name == "step-000000006.ckpt"
    monkeypatch.undo()
    HOOK.clear()
    go(data, tmp_path / "a")
    assert weights(tmp_path / "a") == weights(tmp_path / "whole")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"steps": None}, "--epochs, --steps, --minutes"),
        ({"epochs": 3}, "found --epochs 3 and --steps 12"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"lr": -1.0}, "--lr"),
        ({"average": -1.0}, "--average"),
        ({"threads": 0}, "--threads 0"),
        ({"seed": -1}, "--seed"),
        ({"precision": "8"}, "--precision 8"),
        ({"device": "abacus"}, "--device abacus"),
        ({"augment": ("flop",)}, "flip"),
        ({"logger": ("wandb",)}, "pip install wandb_that"),
        ({"logger": ("paper",)}, "--logger paper"),
        ({"init_from": "no/such/run"}, "No run"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    data: Data, tmp_path: Path, more: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(loop.LOGGERS, "wandb", "wandb_that_is_not_installed")
    with pytest.raises(InputError, match=message):
        go(data, tmp_path / "a", **more)
    assert not (tmp_path / "a").exists()


def test_data_that_does_not_fit_the_model_is_refused(data: Data, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="was made for images of 1×2×2"):
        go(data, tmp_path / "a", Table(ImageSpace(1, 2, 2, levels=4)))
    bare = load_data(data.train.x, levels=4)
    with pytest.raises(InputError, match="labels"):
        go(bare, tmp_path / "a", Table(data.space, Label(3)))
    with pytest.raises(InputError, match="labels"):
        go(bare, tmp_path / "a", Namer(data.space))
    with pytest.raises(InputError, match="classes=3"):
        go(data, tmp_path / "a", Namer(data.space, classes=2))
    assert not (tmp_path / "a").exists()


# Fine-tuning and plans ------------------------------------------------------------------------------------------------


def test_init_from_takes_what_fits_and_says_what_it_left(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = go(data, tmp_path / "a", table(data), steps=40)
    model = table(data)
    second = go(data, tmp_path / "b", model, init_from=tmp_path / "a", steps=1, lr=1e-9, quiet=False)
    assert torch.allclose(second.model.logits, first.model.logits, atol=1e-6)  # type: ignore[arg-type]
    assert "Took 2 tensors" in capsys.readouterr().err
    assert read_run(tmp_path / "b").training["init_from"]["taken"] == ["logits", "first"]
    torch.manual_seed(0)
    with pytest.raises(InputError, match="none of its 2 tensors fits this Namer"):
        go(data, tmp_path / "c", Namer(data.space), init_from=tmp_path / "a")


def test_a_run_does_not_go_on_from_other_weights(data: Data, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        go(data, tmp_path / name, table(data), seed=seed)
    before = weights(tmp_path / "a")
    go(data, tmp_path / "tuned", table(data), init_from=tmp_path / "a")
    assert read_run(tmp_path / "tuned").training["origins"]["init_from"]["run"] == str(tmp_path / "a")
    go(data, tmp_path / "tuned", table(data), init_from=tmp_path / "a")  # done: the same is no other
    (tmp_path / "a" / "model.safetensors").write_bytes((tmp_path / "b" / "model.safetensors").read_bytes())
    assert weights(tmp_path / "a") != before  # else nothing would be tested
    for more in ({}, {"dry_run": True}, {"extend": True}):
        with pytest.raises(
            InputError, match=r"tuned was started from other weights \(init_from: .*/a, weights \w{8}, now .*another --out\.$"
        ):
            go(data, tmp_path / "tuned", table(data), init_from=tmp_path / "a", **more)


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(data: Data, tmp_path: Path) -> None:
    plan = train(table(data), data, out=tmp_path / "a", epochs=3, batch_size=16, dry_run=True)
    assert isinstance(plan, TrainingPlan)
    assert plan.steps == 3 * (len(data.train) // 16)
    assert plan.parameters == 12 * 4
    assert plan.memory > 5 * 4 * 12 * 4
    assert plan.state == "new"
    assert "48 parameters" in str(plan)
    assert json.dumps(plan.to_json())
    assert not (tmp_path / "a").exists()
    assert str(train(table(data), data, out=tmp_path / "a", minutes=2, dry_run=True)).count("2 minutes") == 1
    go(data, tmp_path / "a")
    assert go(data, tmp_path / "a", dry_run=True).state == "done"  # type: ignore[union-attr]
    longer = go(data, tmp_path / "a", dry_run=True, extend=True, steps=5)
    assert (longer.state, longer.steps) == ("extend", 17)  # type: ignore[union-attr]
    with pytest.raises(InputError, match="lr: the run has null"):
        go(data, tmp_path / "a", dry_run=True, lr=0.5)
