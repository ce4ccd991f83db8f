"""Plan, schedule, averages, augmentation, metrics file, checkpoints: the parts of a run, each alone."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pofx.errors import InputError, RunError
from pofx.model import OptimizerSpec
from pofx.noise import Noise
from pofx.training import checkpoint
from pofx.training.augment import augment, check, flip, shift
from pofx.training.average import Average
from pofx.training.files import locked, sweep, write_atomic
from pofx.training.logger import MetricsFile, read_csv
from pofx.training.plan import VALIDATIONS, Budget, Plan, learning_rate

# Plan -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "steps"), [(Budget(epochs=3), 30), (Budget(epochs=0.5), 5), (Budget(epochs=0.01), 1), (Budget(steps=7), 7)]
)
def test_a_budget_becomes_steps(budget: Budget, steps: int) -> None:
    assert Plan(10).add(budget).stop == steps


@pytest.mark.parametrize("wrong", [{}, {"steps": 3, "epochs": 1}, {"steps": 0}, {"minutes": -1}, {"epochs": math.nan}, {"steps": True}])
def test_a_budget_is_one_positive_number(wrong: dict) -> None:
    with pytest.raises(InputError, match="--"):
        Budget(**wrong)


def test_minutes_fix_the_number_of_steps_by_the_measured_rate() -> None:
    plan = Plan(10).add(Budget(minutes=1)).with_provisional(0.1)
    assert plan.stop is None
    assert plan.expected == 600
    assert plan.progress(60) == pytest.approx(0.1)
    fixed = plan.fix(30, elapsed=3.0, seconds_per_step=0.05, seconds_per_validation=0)
    assert fixed.stop == 30 + 1140
    # What was trained before keeps the schedule it was trained with, also in a run that goes back to it.
    assert fixed.progress(20) == plan.progress(20)
    assert fixed.progress(117) == pytest.approx(0.1)
    slow = plan.fix(30, 3.0, 0.05, seconds_per_validation=5.0)
    assert slow.stop is not None
    assert slow.stop < 1170
    assert Plan.from_json(fixed.to_json()) == fixed


def test_an_extension_has_its_own_schedule_and_leaves_the_past_alone() -> None:
    plan = Plan(10).add(Budget(steps=20))
    longer = plan.add(Budget(epochs=3))
    assert longer.stop == 50
    assert [longer.progress(s) for s in range(20)] == [plan.progress(s) for s in range(20)]
    assert longer.progress(20) == 0
    assert longer.progress(35) == 0.5


@given(steps=st.integers(1, 100_000), per_epoch=st.integers(1, 2000))
def test_validation_comes_at_epoch_ends_and_at_the_end_and_not_too_often(steps: int, per_epoch: int) -> None:
    plan = Plan(per_epoch).add(Budget(steps=steps))
    assert plan.validates(steps)
    assert steps // plan.validation_every <= VALIDATIONS
    assert plan.validation_every % per_epoch == 0
    if steps <= VALIDATIONS * per_epoch:
        assert plan.validation_every == per_epoch


def test_learning_rate_warms_up_and_comes_down() -> None:
    spec = OptimizerSpec(lr=2.0, warmup=0.1)
    rates = [learning_rate(spec, p / 1000) for p in range(1001)]
    assert 0 < rates[0] < 0.1
    assert max(rates) == pytest.approx(2.0)
    assert rates[:100] == sorted(rates[:100])
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[-1] == pytest.approx(0)
    assert learning_rate(OptimizerSpec(lr=2.0, warmup=0.1, schedule="constant"), 0.9) == 2.0
    assert learning_rate(OptimizerSpec(lr=2.0, warmup=0.0), 0.0) == 2.0


# Averages -------------------------------------------------------------------------------------------------------------


class Box(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3, dtype=torch.double))
        self.register_buffer("running", torch.zeros(2, dtype=torch.double))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))


def test_the_average_has_its_half_life_in_images() -> None:
    box = Box()
    average = Average(box, half_life=64)  # type: ignore[arg-type]
    average.updates = 10**9  # long after the warm-up
    with torch.no_grad():
        box.w.fill_(1)
        box.running.fill_(2)  # type: ignore[operator]
        box.count.fill_(5)  # type: ignore[operator]
    for _ in range(4):
        average.update(box, 16)  # type: ignore[arg-type]
    assert torch.allclose(average.model.w, torch.full((3,), 0.5, dtype=torch.double))  # type: ignore[arg-type]
    assert torch.allclose(average.model.running, torch.ones(2, dtype=torch.double))  # type: ignore[arg-type]
    assert int(average.model.count) == 5  # type: ignore[arg-type]
    assert torch.equal(average.model.mask, box.mask)  # type: ignore[arg-type]


def test_a_short_run_is_not_held_back_by_its_first_weights() -> None:
    box = Box()
    with torch.no_grad():
        box.w.fill_(100)
    average = Average(box, half_life=1e9)  # type: ignore[arg-type]
    with torch.no_grad():
        box.w.fill_(1)
    for _ in range(100):
        average.update(box, 1)  # type: ignore[arg-type]
    assert float(average.model.w.max()) == pytest.approx(1, abs=1e-3)  # type: ignore[union-attr]


def test_half_life_zero_keeps_the_last_weights() -> None:
    box = Box()
    average = Average(box, half_life=0)  # type: ignore[arg-type]
    with torch.no_grad():
        box.w.fill_(3)
    average.update(box, 8)  # type: ignore[arg-type]
    assert torch.equal(average.model.w, box.w)  # type: ignore[arg-type]


# Augmentation ---------------------------------------------------------------------------------------------------------


def test_augmentation_is_a_function_of_the_noise_of_each_image() -> None:
    x = torch.randint(0, 256, (50, 3, 5, 7), dtype=torch.uint8)
    noise = Noise(1, torch.arange(50))
    out = augment(x, ("flip", "shift"), noise)
    assert out.dtype == torch.uint8
    assert torch.equal(out, augment(x, ("flip", "shift"), noise))
    assert torch.equal(out[7:8], augment(x[7:8], ("flip", "shift"), Noise(1, torch.tensor([7]))))
    assert not torch.equal(out, augment(x, ("flip", "shift"), Noise(2, torch.arange(50))))


def test_flip_mirrors_about_half_of_the_images() -> None:
    x = torch.randint(0, 256, (400, 1, 3, 4), dtype=torch.uint8)
    out = flip(x, Noise(0, torch.arange(400)))
    same, mirrored = (out == x).flatten(1).all(1), (out == x.flip(-1)).flatten(1).all(1)
    assert bool((same | mirrored).all())
    assert 150 < int(mirrored.sum()) < 250


def test_shift_moves_by_up_to_two_pixels_and_repeats_the_edge() -> None:
    x = torch.arange(9 * 9, dtype=torch.uint8).reshape(1, 1, 9, 9).expand(500, 1, 9, 9)
    out = shift(x, Noise(0, torch.arange(500)))
    moves = {(4 - int(c) // 9, 4 - int(c) % 9) for c in out[:, 0, 4, 4]}
    assert moves == {(i, j) for i in range(-2, 3) for j in range(-2, 3)}
    down = next(o for o in out[:, 0] if int(o[4, 4]) == (4 - 2) * 9 + 4)  # two down: the first row three times
    assert torch.equal(down[0], down[1])
    assert torch.equal(down[0], down[2])
    assert torch.equal(down[2:], x[0, 0, :-2])
    assert shift(x[:3, :, :1, :1], Noise(0, torch.arange(3))).shape == (3, 1, 1, 1)


def test_unknown_augmentation_names_the_nearest() -> None:
    assert check("shift,flip") == ("flip", "shift")
    with pytest.raises(InputError, match="Did you mean 'flip'"):
        check(["flop"])


# Files ----------------------------------------------------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    write_atomic(path, lambda file: file.write(b"old"))

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="disk is full"):
        write_atomic(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_sweep_removes_what_a_killed_writer_left(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("model.json.tmp", "checkpoints/step-1.ckpt.tmp", "model.json"):
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoints", "model.json"]


def test_a_folder_has_one_holder(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(InputError, match=f"pid {os.getpid()}"), locked(tmp_path):
        pass
    with locked(tmp_path):  # free again, though the file is still there
        pass


def test_metrics_rows_are_appended_and_those_beyond_the_checkpoint_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    file = MetricsFile(path, 0)
    file.log_metrics({"loss": 1.5}, 1)
    file.log_metrics({"loss": 1.25, "valid": 3.0}, 2)  # a column that comes later
    file.log_metrics({"loss": 1.0}, 3)
    file.sync()
    with open(path, "a") as torn:
        torn.write("4,0.")
    again = MetricsFile(path, 2)
    again.log_metrics({"loss": 0.5}, 3)
    assert [(r["step"], r["loss"], r["valid"]) for r in read_csv(path)] == [("1", "1.5", ""), ("2", "1.25", "3"), ("3", "0.5", "")]


# Checkpoints ----------------------------------------------------------------------------------------------------------


def test_the_last_two_checkpoints_are_kept_and_read_without_pickle(tmp_path: Path) -> None:
    for step in (5, 10, 200):
        checkpoint.save(tmp_path, {"w": torch.tensor([step])}, step)
    assert [p.name for p in checkpoint.found(tmp_path)] == ["step-000000200.ckpt", "step-000000010.ckpt"]
    state = checkpoint.newest(tmp_path)
    assert state is not None
    assert int(state["w"]) == 200
    assert checkpoint.newest(tmp_path / "nothing") is None


@pytest.mark.parametrize("damage", ["truncated", "bit", "empty", "garbage"])
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(tmp_path: Path, damage: str) -> None:
    checkpoint.save(tmp_path, {"w": torch.ones(1000)}, 1)
    newest = checkpoint.save(tmp_path, {"w": torch.ones(1000) * 2}, 2)
    content = bytearray(newest.read_bytes())
    if damage == "bit":
        content[len(content) // 2] ^= 1
    newest.write_bytes({"truncated": content[:-100], "bit": content, "empty": b"", "garbage": b"no checkpoint"}[damage])
    with pytest.warns(RuntimeWarning, match="damaged"):
        state = checkpoint.newest(tmp_path)
    assert state is not None
    assert state["step"] == 1
    checkpoint.found(tmp_path)[0].write_bytes(b"")
    with pytest.warns(RuntimeWarning, match="damaged"), pytest.raises(RunError, match="No checkpoint"):
        checkpoint.newest(tmp_path)
