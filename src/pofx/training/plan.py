"""How long to train, and what that makes of the learning rate: everything here is a function of the step alone.

A budget is epochs, steps or minutes; it becomes a number of steps. For minutes the rate is measured in the first 5 % of the
time; then the number of steps is fixed and stored in the run, so that a resumed run ends at the same step. Until then the
plan counts on a provisional number, found from a few timed steps.

`--extend` adds a segment: a new budget with its own warm-up and its own cosine, starting at the weights, averages and
optimizer state of the last. Nothing is rewritten: the schedule of what was trained stays what it was.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pofx.errors import InputError
from pofx.model import OptimizerSpec

MEASURED = 0.05  # share of --minutes in which the rate is measured
VALIDATIONS = 100  # at most so many per run: each epoch in a run of up to 100 epochs
ROWS = 250  # about so many rows of metrics.csv per run


@dataclass(frozen=True)
class Budget:
    """Exactly one of the three."""

    epochs: float | None = None
    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in asdict(self).items() if value is not None}
        if len(given) != 1:
            found = " and ".join(f"--{name} {value}" for name, value in given.items()) or "none"
            raise InputError(f"How long to train? Give one of --epochs, --steps, --minutes; found {found}. For example: --minutes 5")
        for name, value in given.items():
            if not isinstance(value, int | float) or isinstance(value, bool) or not (value > 0 and math.isfinite(value)):
                raise InputError(f"--{name} {value}: it must be a number above 0, e.g. --{name} 5")

    def __str__(self) -> str:
        return next(f"{value:g} {name}" for name, value in asdict(self).items() if value is not None)


@dataclass(frozen=True)
class Segment:
    """A stretch of steps under one schedule.

    Attributes:
        start: its first step.
        stop: one past its last step; None while a minutes budget is still being measured.
        provisional: what stands for `stop` until step `fixed`.
        fixed: the step at which `stop` was found; steps before it were scheduled by `provisional`.
    """

    budget: Budget
    start: int = 0
    stop: int | None = None
    provisional: int | None = None
    fixed: int = 0

    def progress(self, step: int) -> float:
        """Share of this segment done before `step`, in [0, 1)."""
        stop = self.stop if self.stop is not None and (self.provisional is None or step >= self.fixed) else self.provisional
        if stop is None:  # the throwaway steps that find the provisional number
            return 0.0
        return min((step - self.start) / max(stop - self.start, 1), 1 - 1e-6)


@dataclass(frozen=True)
class Plan:
    """All segments of a run; the last one is being trained.

    >>> plan = Plan(steps_per_epoch=10).add(Budget(epochs=3))
    >>> plan.stop, plan.validates(20), plan.validates(21)
    (30, True, False)
    """

    steps_per_epoch: int
    segments: tuple[Segment, ...] = field(default=())

    @property
    def now(self) -> Segment:
        return self.segments[-1]

    @property
    def stop(self) -> int | None:
        """The number of steps of the run; None while it is being measured, 0 where nothing is trained."""
        return self.now.stop if self.segments else 0

    @property
    def expected(self) -> int:
        """`stop`, or what stands for it."""
        stop = self.now.stop if self.now.stop is not None else self.now.provisional
        return self.steps_per_epoch if stop is None else stop

    def add(self, budget: Budget) -> Plan:
        start = 0 if not self.segments else self.now.stop
        assert start is not None
        steps = budget.steps
        if budget.epochs is not None:
            steps = max(1, round(budget.epochs * self.steps_per_epoch))
        return replace(self, segments=(*self.segments, Segment(budget, start, None if steps is None else start + int(steps))))

    def with_provisional(self, seconds_per_step: float) -> Plan:
        """Count on a rate until the real one is known."""
        assert self.now.budget.minutes is not None
        steps = max(1, int(self.now.budget.minutes * 60 / max(seconds_per_step, 1e-9)))
        return self._last(replace(self.now, provisional=self.now.start + steps))

    def fix(self, step: int, elapsed: float, seconds_per_step: float, seconds_per_validation: float) -> Plan:
        """End a measurement at `step`, `elapsed` seconds into the budget."""
        assert self.now.budget.minutes is not None
        left = max(0.0, self.now.budget.minutes * 60 - elapsed)
        stop = step + int(left / max(seconds_per_step, 1e-9))
        for _ in range(3):  # how often is validated depends on the number of steps
            every = self._last(replace(self.now, stop=stop)).validation_every
            stop = step + int(left / max(seconds_per_step + seconds_per_validation / every, 1e-9))
        return self._last(replace(self.now, stop=max(stop, step + 1), fixed=step))

    def _last(self, segment: Segment) -> Plan:
        return replace(self, segments=(*self.segments[:-1], segment))

    def segment(self, step: int) -> Segment:
        return next(s for s in self.segments if s.stop is None or step < s.stop)

    def progress(self, step: int) -> float:
        return self.segment(step).progress(step)

    def extended(self, step: int) -> bool:
        """Whether a step belongs to a budget that was added to a finished run."""
        return self.segment(step) is not self.segments[0]

    @property
    def validation_every(self) -> int:
        """In steps: each epoch, or each few where epochs are many."""
        epochs = (self.expected - self.now.start) / self.steps_per_epoch
        return self.steps_per_epoch * max(1, math.ceil(epochs / VALIDATIONS))

    def validates(self, done: int) -> bool:
        """Whether to validate when `done` steps have been made."""
        return done == self.stop or done % self.validation_every == 0

    def logs(self, done: int) -> bool:
        """Whether `done` steps make a row of metrics.csv."""
        return done == 1 or done % max(1, (self.expected - self.now.start) // ROWS) == 0 or self.validates(done)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Plan:
        segments = tuple(Segment(**{**s, "budget": Budget(**s["budget"])}) for s in value["segments"])
        return cls(value["steps_per_epoch"], segments)


def learning_rate(spec: OptimizerSpec, progress: float) -> float:
    """Linear warm-up over the share `spec.warmup`, then constant, or down half a cosine to 0.

    >>> [round(learning_rate(OptimizerSpec(lr=1.0, warmup=0.5), p), 2) for p in (0.25, 0.5, 0.75, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if progress < spec.warmup:
        return spec.lr * max(progress / spec.warmup, 1e-2)  # the first step of all would otherwise do nothing
    if spec.schedule == "constant":
        return spec.lr
    return spec.lr * 0.5 * (1 + math.cos(math.pi * (progress - spec.warmup) / (1 - spec.warmup)))
