"""The value of the game: on known logits, on known distributions, and from a critic that was trained."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from pofx import catalog
from pofx.data import Data, Split, load_data
from pofx.errors import CapabilityError, InputError
from pofx.metrics.mean import Mean
from pofx.model import Objective, Progress, Sampler
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.views import View
from pofx.workflows._quality import game_part
from pofx.workflows.held_out_critic import LOG_4, HeldOutCritic, game_value, held_out_critic, temperature, told


def test_the_value_of_the_optimal_critic_is_the_bound():
    """p = N(0, 1), q = N(1, 1): log D*/(1 − D*) = log p − log q, V* = −1.163451 (FIELD §B)."""
    real, fake = (torch.randn(200_000, generator=torch.Generator().manual_seed(seed), dtype=torch.double) for seed in (0, 1))
    fake = fake + 1
    logit = [0.5 - x for x in (real, fake)]
    best = game_value(*logit)
    assert best.mean == pytest.approx(-1.163451, abs=3 * best.se)
    # Any other critic is below it, and the temperature brings back one that is only too sure
    assert game_value(5 * logit[0], 5 * logit[1]).mean < best.mean
    assert game_value(logit[0] + 1, logit[1] + 1).mean < best.mean
    assert temperature(5 * logit[0], 5 * logit[1]) == pytest.approx(0.2, rel=0.1)
    assert temperature(-logit[0], -logit[1]) == 0


def test_nothing_to_tell_is_minus_log_4():
    zero = torch.zeros(10)
    found = game_value(zero, zero)
    assert found.mean == pytest.approx(-LOG_4) and found.se == 0
    assert told(zero, zero).mean == 0.5
    assert game_value(zero + 50, zero - 50).mean == pytest.approx(0, abs=1e-12)
    assert told(torch.tensor([1.0, 1, -1, 1]), torch.tensor([-1.0, 1])).mean == pytest.approx((0.75 + 0.5) / 2)


def test_the_standard_error_is_that_of_two_independent_means():
    real, fake = torch.randn(500, generator=torch.Generator().manual_seed(0)), torch.randn(300, generator=torch.Generator().manual_seed(1))
    parts = [Mean.of(nn.functional.logsigmoid(x.double())) for x in (real, -fake)]
    assert game_value(real, fake).se == pytest.approx(math.hypot(parts[0].se, parts[1].se))


class Resampled(Sampler):
    """Draws real images again, or noise: a perfect and a hopeless generator."""

    family: ClassVar = ("toy",)
    paper: ClassVar = "none"
    source: Tensor | None = None

    def __init__(self, space: ImageSpace, given: View | None = None) -> None:
        super().__init__(space, given)
        self.weight = nn.Parameter(torch.zeros(1))

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None):
        return cls(space, given)

    def objectives(self) -> Sequence[Objective]:
        return []

    def draw(self, given: Tensor | None, noise: Noise, progress: Progress | None) -> Tensor:
        if self.source is None:
            return (noise.uniform("x", *self.space.shape) * self.space.levels).to(torch.uint8)
        return self.source[(noise.uniform("which", 1)[:, 0] * len(self.source)).long()]


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data("digits")


def test_a_perfect_generator_is_not_told_and_noise_is(digits: Data):
    model = Resampled(digits.space)
    noise = held_out_critic(model, digits, steps=60)
    assert noise.accuracy.mean > 0.97 and noise.value.mean > -0.3 and noise.jsd > 0.5
    model.source = torch.cat([digits.calib.x, digits.test.x])  # real images that the critic's own were not
    perfect = held_out_critic(model, digits, steps=60)
    assert perfect.value.mean == pytest.approx(-LOG_4, abs=0.15)
    assert perfect.accuracy.mean == pytest.approx(0.5, abs=0.12)
    assert perfect.jsd < 0.08
    facts = json.loads(json.dumps(perfect.to_json(), allow_nan=False))
    assert facts["kind"] == "lower bound" and facts["jsd_at_least"] == perfect.jsd
    assert "lower bound" in noise.text and ("no difference was found" in perfect.text) == (perfect.temperature == 0)
    assert held_out_critic(model, digits, steps=60).value == perfect.value  # a function of the seed


def test_what_cannot_be_told_apart_is_refused(digits: Data):
    with pytest.raises(CapabilityError, match="samples"):
        held_out_critic(catalog.get("classifier").small(digits.space), digits)
    one = replace(digits, valid=Split.of(digits.valid.x[:1]))
    with pytest.raises(InputError, match="1 images in valid"):
        held_out_critic(Resampled(digits.space), one)


def test_the_divergence_is_never_negative():
    found = HeldOutCritic(Mean(-1.5, 0.1), Mean(0.5, 0.1), 10, 10, 10, 1, 0.0, 0.0)
    assert found.jsd == 0
    assert replace(found, value=Mean(0.0, 0.0)).jsd == pytest.approx(math.log(2))
    assert "no difference was found" in found.text and "JSD" not in found.text  # its logits were multiplied by 0
    assert "JSD ≥" in replace(found, temperature=0.5).text


def test_the_game_is_drawn_with_the_half_line():
    history = {"step": [1.0, 2.0, 3.0], "train_critic_accuracy": [0.9, math.nan, 0.6]}
    page = game_part(history, None)
    assert "nothing to tell" in page and "<svg" in page
    assert game_part({"step": [1.0], "train_loss": [1.0]}, None) == ""
    assert game_part({}, None) == ""
    both = game_part(history, HeldOutCritic(Mean(-1.0, 0.1), Mean(0.7, 0.1), 10, 10, 10, 1, 1.0, 0.0))
    assert "Held-out critic" in both and "lower bound" in both
