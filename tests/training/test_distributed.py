"""Several processes make the run that one makes: the cut of a batch, equal losses, one writer, a process that dies, another number of them."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import pofx
from pofx import catalog
from pofx.data import load_data, order
from pofx.errors import InputError
from pofx.model import Batch, Context, ExactLikelihood, ImageModel, require
from pofx.models.autoregressive.pixelcnn import PixelCNN
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.training import TrainingPlan, checkpoint, load_model, read_run, train
from pofx.training.logger import read_csv
from pofx.training.loop import batch_statistics
from pofx.training.module import Game
from pofx.training.plan import Budget, Plan
from pofx.training.processes import STARTED, Processes, part

# The cut, as pure functions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 7, 50, 64])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_pieces_are_the_whole_in_order_and_alike(n: int, size: int) -> None:
    pieces = [list(range(n))[part(n, rank, size)] for rank in range(size)]
    assert [i for piece in pieces for i in piece] == list(range(n))
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 1


class Numbered:
    """A training set whose images say which they are: two sub-pixels, index = 256 a + b."""

    def __init__(self, n: int, in_memory: bool = True) -> None:
        self.n, self.train = n, self
        self.in_memory = in_memory

    def __len__(self) -> int:
        return self.n

    def train_batch(self, index: Tensor, *, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        return torch.stack([index // 256, index % 256], 1).to(torch.uint8)[:, None, None], index


def game(n: int, batch: int, processes: Processes, *, in_memory: bool = True) -> Game:
    model = PixelCNN(ImageSpace(1, 1, 2, 256), layers=1, channels=2)
    plan = Plan(n // batch).add(Budget(epochs=3))
    options: dict[str, Any] = {"batch": batch, "seed": 5, "lr": None, "optimizer": None, "half_life": 0.0, "augmentations": ()}
    return Game(model, Numbered(n, in_memory), plan, processes, **options)


@pytest.mark.parametrize(
    ("n", "batch", "before", "after", "at"), [(60, 12, 1, 2, 3), (61, 7, 3, 2, 5), (300, 50, 2, 5, 1), (64, 8, 4, 1, 8), (9, 9, 1, 3, 1)]
)
@pytest.mark.parametrize("in_memory", [True, False])
def test_an_epoch_reads_each_image_once_whoever_goes_on(n: int, batch: int, before: int, after: int, at: int, in_memory: bool) -> None:
    steps = n // batch
    games = {size: [game(n, batch, Processes(rank, size), in_memory=in_memory) for rank in range(size)] for size in (before, after)}
    seen: list[int] = []
    for step in range(2 * steps):  # over the end of an epoch
        pieces = [g.batch_of(step)[0].y for g in games[before if step < at else after]]
        seen += torch.cat([y for y in pieces if y is not None]).tolist()
    for epoch in range(2):
        read = seen[epoch * steps * batch : (epoch + 1) * steps * batch]
        assert read == order(n, seed=5, epoch=epoch)[: steps * batch].tolist()  # a permutation, without what fills no batch
        assert len(set(read)) == steps * batch


@pytest.mark.parametrize("size", [2, 3])
def test_noise_belongs_to_the_image_and_not_to_the_process(size: int) -> None:
    whole = game(50, 10, Processes()).batch_of(4)[1]
    pieces = [game(50, 10, Processes(rank, size)).batch_of(4)[1] for rank in range(size)]
    assert torch.equal(torch.cat([c.noise.normal("z", 3) for c in pieces]), whole.noise.normal("z", 3))
    assert sum(c.share for c in pieces) == pytest.approx(1) and whole.share == 1
    assert {c.progress for c in pieces} == {whole.progress}


def test_the_order_is_the_same_however_it_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    from pofx.data import load

    whole = order(1000, seed=2, epoch=7)
    monkeypatch.setattr(load, "ORDERED", 64)
    assert torch.equal(order(1000, seed=2, epoch=7), whole)
    assert whole.sort().values.tolist() == list(range(1000))


@pytest.mark.parametrize("loss", [lambda m: m.clamp(min=0.1).sum(), lambda m: (m**2).sum(), lambda m: m[0] / m[1]])
def test_a_loss_of_a_mean_has_the_gradient_of_the_whole_batch(loss: Callable[[Tensor], Tensor]) -> None:
    theta = torch.tensor([0.3, 1.2], dtype=torch.float64, requires_grad=True)
    x = torch.rand(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (whole,) = torch.autograd.grad(loss((x * theta).mean(0)), theta)
    parts = [x[part(7, rank, 3)] for rank in range(3)]
    mean, found = (x * theta).mean(0).detach(), torch.zeros(2, dtype=torch.float64)
    for piece in parts:
        context = Context(0, 0.0, Noise(0, torch.arange(len(piece))), share=len(piece) / 7, total=lambda _: mean)
        value = loss(context.mean(piece * theta))
        assert float(value.detach()) == pytest.approx(float(loss(mean)))
        found += context.share * torch.autograd.grad(value, theta)[0]
    torch.testing.assert_close(found, whole)


def test_a_mean_over_the_chosen_ones_of_a_step() -> None:
    chosen, values = torch.tensor([True, False, True, False, False]), torch.tensor([2.0, 4.0])
    assert float(Context(0, 0.0, Noise(0, torch.arange(5))).mean_of(values, chosen)) == 3
    assert float(Context(0, 0.0, Noise(0, torch.arange(5))).mean_of(values[:0], chosen & False)) == 0


class Meeting:
    """Threads in the place of processes: `total` waits for all and sums."""

    def __init__(self, size: int) -> None:
        self.values: list[Tensor] = [torch.zeros(())] * size
        self.barrier = threading.Barrier(size, timeout=60)

    def total(self, rank: int) -> Callable[[Tensor], Tensor]:
        def total(tensor: Tensor) -> Tensor:
            self.values[rank] = tensor
            self.barrier.wait()
            found = torch.stack(self.values).sum(0)
            self.barrier.wait()  # all have read
            return found

        return total


def gradients(model: ImageModel, batch: Batch, context: Context) -> dict[str, Tensor]:
    """Of each objective in turn, by its name and the parameter's."""
    found = {}
    for objective in model.objectives():
        loss, _ = objective.loss(batch, context)
        names = {name: p for name, p in objective.parameters.named_parameters() if p.requires_grad}
        grads = torch.autograd.grad(loss, list(names.values()), allow_unused=True)
        found |= {
            f"{objective.name} {name}": torch.zeros_like(p) if g is None else g for (name, p), g in zip(names.items(), grads, strict=True)
        }
    return found


@pytest.mark.parametrize("name", catalog.model_names())
def test_pieces_of_a_batch_have_the_gradient_of_the_whole(name: str) -> None:
    """What each process computes, averaged by its share, is what one computes: of every model that normalises nothing by its batch."""
    data = load_data("digits")
    torch.manual_seed(0)
    model = catalog.get(name).small(data.space).double().train()
    if batch_statistics(model):
        pytest.skip("normalises by its batch")
    n, index = 7, torch.arange(7)
    noise = Noise(3, index)
    x, y = data.train.take(index)
    y = None if y is None else y % getattr(model, "classes", 10)
    with torch.no_grad():
        model.initialise(model.batch(x, y, noise))
    whole = gradients(copy.deepcopy(model), model.batch(x, y, noise), Context(0, 0.5, noise))
    meeting, pieces = Meeting(2), [part(n, rank, 2) for rank in range(2)]

    def piece(rank: int) -> dict[str, Tensor]:
        mine, at = copy.deepcopy(model), pieces[rank]
        own = Noise(3, index[at])
        context = Context(0, 0.5, own, share=(at.stop - at.start) / n, total=meeting.total(rank))
        return {k: g * context.share for k, g in gradients(mine, mine.batch(x[at], None if y is None else y[at], own), context).items()}

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(piece, range(2))
    assert any(bool(g.any()) for g in whole.values())
    for key, gradient in whole.items():
        torch.testing.assert_close(first[key] + second[key], gradient, rtol=1e-9, atol=1e-12, msg=key)


# What is asked for ----------------------------------------------------------------------------------------------------


def test_plan_says_how_a_step_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_data("digits")
    monkeypatch.setattr(sys, "argv", [__file__])
    plan = train(PixelCNN.small(data.space), data, out=tmp_path / "r", steps=3, batch_size=50, devices=2, dry_run=True)
    assert isinstance(plan, TrainingPlan)
    assert (plan.processes, plan.nodes, plan.per_process, plan.batch_size) == (2, 1, 25, 50)
    assert "processes  2 on 1 machine, 25 images each per step" in str(plan) and "in each process" in str(plan)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("options", "env", "says"),
    [
        ({"devices": 0}, {}, "--devices 0: it must be a whole number of at least 1"),
        ({"strategy": "fsdp"}, {}, "--strategy fsdp: use auto or ddp"),
        ({"devices": 2, "nodes": 2}, {}, "torchrun --nnodes 2 --nproc-per-node 2"),
        ({"devices": 3, "batch_size": 2}, {}, "each takes one image at least"),
        ({"devices": 4}, {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, "--devices 4: 2 processes were started"),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], env: dict[str, str], says: str
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", [__file__])
    data = load_data("digits")
    with pytest.raises(InputError, match=says):
        train(PixelCNN.small(data.space), data, out=tmp_path / "r", steps=3, **options)
    assert not (tmp_path / "r").exists()


def test_a_notebook_cannot_be_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["-c"])
    data = load_data("digits")
    with pytest.raises(InputError, match="it is no file"):
        train(PixelCNN.small(data.space), data, out=tmp_path / "r", steps=3, devices=2)


@pytest.mark.parametrize(
    ("env", "rank", "size", "local", "here"),
    [
        ({}, 0, 1, 0, 1),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "batch"}, 0, 1, 0, 1),  # sbatch without srun: one process
        ({"TORCHELASTIC_RUN_ID": "x", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}, 5, 8, 1, 4),
        (
            {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4"},
            *(3, 4, 1, 2),
        ),
        ({STARTED: "/runs/a", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, 1, 2, 1, 2),
    ],
)
def test_who_this_process_is(monkeypatch: pytest.MonkeyPatch, env: dict[str, str], rank: int, size: int, local: int, here: int) -> None:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC")):
            monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    found = Processes.find(2 if STARTED in env else None, None, "auto", torch.device("cpu"), Path("/runs/a"))
    assert (found.rank, found.size, found.local, found.here) == (rank, size, local, here)
    assert found.ends_here == (STARTED in env)


def test_a_process_that_came_for_another_run_is_a_single_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {STARTED: "/runs/b", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert Processes.find(2, None, "auto", torch.device("cpu"), Path("/runs/a")).size == 1


# Two processes --------------------------------------------------------------------------------------------------------


class Ranks:
    """A parent that forks the processes of a run."""

    def __init__(self, folder: Path) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        self.errors = folder / "stderr"
        with self.errors.open("w") as stderr:
            command = [sys.executable, str(Path(__file__).parent / "ranks.py")]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, env=env)
        assert self.answer()["ready"]

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def start(self, model: str, out: Path, size: int, **options: Any) -> list[int]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"model": model, "out": str(out), "size": size, **options}) + "\n")
        self.process.stdin.flush()
        return self.answer()["pids"]

    def codes(self) -> list[int]:
        return self.answer()["codes"]

    def run(self, model: str, out: Path, size: int, **options: Any) -> Path:
        self.start(model, out, size, **options)
        codes = self.codes()
        assert codes == [0] * size, self.errors.read_text()
        return out


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    made = Ranks(tmp_path_factory.mktemp("ranks"))
    yield made
    made.process.kill()
    made.process.wait()


def assert_same_run(one: Path, other: Path, *, tolerance: float = 1e-9, but: tuple[str, ...] = ("minutes",)) -> None:
    first, second = read_csv(one / "metrics.csv"), read_csv(other / "metrics.csv")
    assert [row.keys() for row in first] == [row.keys() for row in second] and first
    for a, b in zip(first, second, strict=True):
        for name in a.keys() - set(but):
            assert (a[name] == "") == (b[name] == ""), name
            if a[name]:
                assert float(a[name]) == pytest.approx(float(b[name]), rel=tolerance, abs=tolerance), (name, a["step"])
    mine, theirs = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=tolerance, atol=max(tolerance, 1e-12), msg=name)


SMALL = {"layers": 1, "channels": 8, "dropout": 0.2}


def test_two_processes_make_the_run_of_one(ranks: Ranks, tmp_path: Path) -> None:
    options: dict[str, Any] = {"arguments": SMALL, "steps": 12, "batch_size": 51, "precision": "64", "augment": ["flip", "shift"]}
    one, two = (ranks.run("pixelcnn", tmp_path / f"{size}", size, **options) for size in (1, 2))  # 26 and 25 images
    assert_same_run(one, two)
    assert read_run(two).training["processes"] == 2
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in two.iterdir())
    of_the_last = json.loads(Path(f"{two}.metrics").read_text())  # what train returned to the second process
    assert of_the_last["valid_nats"] == pytest.approx(read_run(one).metrics["valid_nats"])


def test_in_float32_they_are_as_good(ranks: Ranks, tmp_path: Path) -> None:
    options: dict[str, Any] = {"arguments": {"layers": 1, "channels": 8}, "steps": 20, "batch_size": 64, "precision": "32"}
    test = load_data("digits").test
    found = []
    for size in (1, 2):
        model = require(load_model(ranks.run("pixelcnn", tmp_path / f"{size}", size, **options)), ExactLikelihood, to="score")
        with torch.no_grad():
            found.append(float(-model.log_prob(test.x).mean()) / model.dims / 0.693147)
    assert found[0] == pytest.approx(found[1], abs=1e-3)


def test_one_dies_and_another_number_goes_on(ranks: Ranks, tmp_path: Path) -> None:
    options: dict[str, Any] = {"arguments": SMALL, "steps": 30, "batch_size": 50, "precision": "64"}
    out = tmp_path / "killed"
    pids = ranks.start("pixelcnn", out, 2, **options, checkpoint_seconds=0.0)
    until = time.monotonic() + 60
    while not any(int(p.stem[5:]) > 3 for p in checkpoint.found(out)) and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(pids[1], signal.SIGKILL)
    codes = ranks.codes()
    assert codes[1] == -signal.SIGKILL and codes[0] == 1
    said = ranks.errors.read_text().splitlines()[-1]
    assert f"Process 1 of 2 (pid {pids[1]}) is gone" in said and "The same command goes on from step" in said
    step = int(checkpoint.found(out)[0].stem[5:])
    assert 3 < step < 30
    ranks.run("pixelcnn", out, 3, **options)
    assert_same_run(ranks.run("pixelcnn", tmp_path / "whole", 1, **options), out)


def test_all_stop_at_one_step_when_one_is_asked(ranks: Ranks, tmp_path: Path) -> None:
    pids = ranks.start("pixelcnn", tmp_path / "r", 2, arguments=SMALL, steps=100_000, checkpoint_seconds=0.0)
    until = time.monotonic() + 60
    while len(checkpoint.found(tmp_path / "r")) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(pids[1], signal.SIGTERM)  # not the first
    assert ranks.codes() == [143, 143]
    assert not read_run(tmp_path / "r").finished


# Slower ---------------------------------------------------------------------------------------------------------------

OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "pixelcnn-pp": ({"channels": 8}, {}),  # starts from the data
    "vae": ({"latents": 8, "channels": 8, "stages": 2, "dropout": 0.2, "free_bits": 0.1}, {}),  # a scale of the batch, a floor under a mean
    "made": ({}, {}),
    "autoencoder": ({}, {}),
    "gan": ({"network": "mlp", "latents": 8, "hidden": 16, "loss": {"type": "WassersteinGP"}}, {}),  # two players, slopes in a loss
    "classifier": ({"channels": 8, "classes": 10, "consistency": 1.0}, {"labels": 100}),  # a mean over those with labels
    "m2": ({"classes": 10, "hidden": 16, "layers": 1, "channels": 4}, {"labels": 100}),
}


@pytest.mark.slow
@pytest.mark.parametrize("model", OTHERS)
def test_other_models(ranks: Ranks, tmp_path: Path, model: str) -> None:
    arguments, more = OTHERS[model]
    options = {"arguments": arguments, "steps": 12, "batch_size": 50, "precision": "64"} | more
    one, two, three = (ranks.run(model, tmp_path / f"{size}", size, **options) for size in (1, 2, 3))
    assert_same_run(one, two)
    assert_same_run(one, three)


@pytest.mark.slow
def test_batch_statistics_are_said(ranks: Ranks, tmp_path: Path) -> None:
    ranks.run("gan", tmp_path / "r", 2, arguments={"latents": 8, "channels": 8}, steps=6)
    assert "GAN normalises by its batch (BatchNorm): on the CPU each process by its own 32 images" in ranks.errors.read_text()


@pytest.mark.slow
def test_minutes_are_measured_by_the_first(ranks: Ranks, tmp_path: Path) -> None:
    out = ranks.run("pixelcnn", tmp_path / "r", 2, arguments=SMALL, minutes=0.1, threads=None)
    info = read_run(out)
    assert info.finished and info.training["plan"]["segments"][0]["stop"] == info.training["steps"]
    assert info.training["minutes"] < 0.3


def pofx_train(folder: Path, *flags: str, env: dict[str, str] | None = None, command: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    line = [
        *(command or (sys.executable,)),
        "-m",
        "pofx",
        "train",
        "pixelcnn",
        "digits",
        "--out",
        "run",
        "--layers",
        "1",
        "--channels",
        "8",
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(pofx.__file__).parents[1])} | (env or {})
    return subprocess.Popen(
        [*line, "--precision", "64", *flags], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_devices_starts_the_others_by_itself(tmp_path: Path) -> None:
    process = pofx_train(tmp_path, "--devices", "2", "--steps", "20", "--json")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert json.loads(out)["run"] == "run"  # one answer
    assert err.count("done") == 1
    assert read_run(tmp_path / "run").training["processes"] == 2
    again = pofx_train(tmp_path, "--devices", "2", "--steps", "20")
    assert "is done" in again.communicate(timeout=100)[1] and again.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["first", "second"])
def test_a_killed_process_ends_the_job_with_one_message(tmp_path: Path, victim: str) -> None:
    process = pofx_train(tmp_path, "--devices", "2", "--steps", "100000", "--checkpoint-seconds", "0.2", "--quiet")
    until = time.monotonic() + 120
    while len(checkpoint.found(tmp_path / "run")) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    (child,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    os.kill(process.pid if victim == "first" else child, signal.SIGKILL)
    _, err = process.communicate(timeout=60)  # until nobody holds stderr any more: all have ended
    rank, pid = (0, process.pid) if victim == "first" else (1, child)
    (line,) = err.strip().splitlines()
    assert line.startswith(f"pofx train: Process {rank} of 2 (pid {pid}) is gone") and "The same command goes on from step" in line
    assert process.returncode == (-signal.SIGKILL if victim == "first" else 1)


@pytest.mark.slow
def test_under_torchrun(tmp_path: Path) -> None:
    command = (
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
    )
    process = pofx_train(tmp_path, "--steps", "20", "--json", command=command)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert json.loads(out)["run"] == "run" and err.count("done") == 1
    assert read_run(tmp_path / "run").training["processes"] == 2


@pytest.mark.slow
def test_under_srun(tmp_path: Path) -> None:
    shared = {
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NTASKS": "2",
        "SLURM_JOB_NAME": "train",
        "SLURM_JOB_ID": "314",
    }
    shared |= {"SLURM_NODEID": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29713"}
    both = [
        pofx_train(tmp_path, "--steps", "20", "--json", env=shared | {"SLURM_PROCID": f"{rank}", "SLURM_LOCALID": f"{rank}"})
        for rank in range(2)
    ]
    answers = [process.communicate(timeout=200) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert json.loads(answers[0][0])["run"] == "run" and answers[1][0] == ""
    assert read_run(tmp_path / "run").training["processes"] == 2
