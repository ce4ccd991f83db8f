"""Plan with a learned simulator: p(next state | state, action) of two tanks, learned from random play; plans are tried in its sampled futures.

    python examples/plan.py [OUT]

A pump fills tank 1, which runs into tank 2, whose level shall follow a target that jumps. A transition is a series of five levels,
(tank 1, tank 2, action, next tank 1, next tank 2): a model given the first three, `Top(3)`, is the simulator.
"""

import sys
from itertools import count
from typing import Any

import torch

import pofx

LEVELS, ACTIONS, HORIZON, PLANS, STEPS, SEEDS = 32, 4, 6, 40, 40, 6


def plant(state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """The real tanks, states (n, 2) and actions (n,) → next states: they run out by Torricelli's law, and splash."""
    out = state.double().sqrt()
    change = torch.stack([2.7 * action - out[:, 0], out[:, 0] - out[:, 1]], 1)
    return (state + change + 0.5 * torch.randn(change.shape, dtype=torch.double)).round().clamp(0, LEVELS - 1).long()


def reward(state: torch.Tensor, t: int) -> torch.Tensor:
    return -(state[:, 1] - (22 if t // 20 % 2 else 8)).abs().double()


def play(simulator: Any) -> torch.Tensor:
    """Mean reward a step by seed, taking the first action of the plan that does best in the simulator; without one, random actions."""
    state, rewards = torch.full((SEEDS, 2), 8), []
    for t in range(1, STEPS + 1):
        plans, score = torch.randint(ACTIONS, (SEEDS * PLANS, HORIZON)), torch.zeros(SEEDS * PLANS).double()
        future = state.repeat_interleave(PLANS, 0)
        for h in range(HORIZON if simulator else 0):
            future = simulator(future, plans[:, h])
            score += reward(future, t + h)
        state = plant(state, plans[score.reshape(SEEDS, PLANS).argmax(1) + torch.arange(SEEDS) * PLANS, 0])
        rewards.append(reward(state, t))
    return torch.stack(rewards).mean(0)


def main(out: str = "runs/plan", *, steps: int = 200) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    state, action = torch.randint(LEVELS, (20_000, 2)), torch.randint(ACTIONS, (20_000,))
    data = pofx.load_data(torch.cat([state, action[:, None], plant(state, action)], 1)[:, None, None].byte(), levels=LEVELS)
    model = pofx.models.PixelCNNpp(data.space, given=pofx.views.Top(3), channels=16, blocks=1, components=3)
    seeds, found = count(), {}
    drawn: Any = pofx.train(model, data, out=out, steps=steps, batch_size=64, average=2000, quiet=True).model.sample
    learned = lambda s, a: drawn(len(s), torch.cat([s, a[:, None]], 1)[:, None, None].byte(), seed=next(seeds))[:, 0, 0, 3:].long()  # noqa: E731
    for name, tried in {"random": None, "learned": learned, "true": plant}.items():
        found[name] = play(tried)
        print(f"{name:8} {float(found[name].mean()):6.2f} ± {float(found[name].std()):.2f} a step over {SEEDS} seeds")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
