"""Small exact panels: each number against a closed form, a finite difference, or a sum that must be one."""

from __future__ import annotations

import math

import pytest
import torch

from pofx.errors import CapabilityError, InputError
from pofx.models import MADE, VAE, GatedPixelCNN, PixelCNN
from pofx.space import ImageSpace
from pofx.tasks.influence import influence
from pofx.tasks.mixture import mixture
from pofx.tasks.receptive_field import receptive_field
from pofx.tasks.reparameterization import FUNCTIONS, reparameterization
from pofx.tasks.squared_error import squared_error
from pofx.views import Label


@pytest.mark.parametrize("levels", [2, 16, 256])
@pytest.mark.parametrize("mean", [-300.0, 0.0, 7.3, 255.0, 1000.0])
@pytest.mark.parametrize("scale", [1e-3, 0.5, 20.0, 1e5])
def test_bins_sum_to_one_for_any_mean_and_scale(levels: int, mean: float, scale: float) -> None:
    one = mixture([mean], [scale], levels=levels)
    assert abs(one.total - 1) < 1e-12 and bool((one.p >= 0).all())
    two = mixture([mean, 3.0], [scale, 1.0], [0.2, 0.6], levels=levels)
    assert abs(two.total - 1) < 1e-12
    torch.testing.assert_close(two.components.sum(0), two.p, rtol=0, atol=1e-12)
    torch.testing.assert_close(two.components.sum(1), torch.tensor([0.25, 0.75], dtype=torch.double), rtol=0, atol=1e-12)


def test_an_inner_bin_is_the_integral_of_the_density() -> None:
    found = mixture([5.0, 9.0], [0.8, 2.0], [0.3, 0.7], levels=16)
    for v in (3, 8):
        inside = (found.at >= v - 0.5) & (found.at <= v + 0.5)
        assert float(torch.trapezoid(found.density[inside], found.at[inside])) == pytest.approx(float(found.p[v]), rel=3e-3)
    sigmoid = 1 / (1 + math.exp(-0.5 / 0.8))
    assert float(mixture([5.0], [0.8], levels=16).p[5]) == pytest.approx(2 * sigmoid - 1, abs=1e-12)


def test_a_squared_error_is_a_likelihood_up_to_its_constant() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(5, 1, 4, 4, generator=generator, dtype=torch.double) for _ in range(2))
    found = squared_error(x, y)
    assert found.constant == pytest.approx(8 * math.log(math.pi)) and found.off < 1e-12
    torch.testing.assert_close(found.nats - found.squared, torch.full((5,), found.constant, dtype=torch.double), rtol=0, atol=1e-12)
    best = float(squared_error(x, y, found.best_variance).nats.mean())
    assert all(best < float(squared_error(x, y, c * found.best_variance).nats.mean()) for c in (0.9, 1.1))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_both_gradients_are_one_and_each_draw_has_an_ordinary_derivative(name: str) -> None:
    mean, sd, h = 0.4, 0.7, 1e-5
    found = reparameterization(mean, sd, name)
    assert found.off < 1e-8
    f = FUNCTIONS[name]
    for by, of in (
        (found.by_mean, lambda d: f(mean + d + sd * found.epsilon)),
        (found.by_sd, lambda d: f(mean + (sd + d) * found.epsilon)),
    ):
        torch.testing.assert_close(by, (of(h) - of(-h)) / (2 * h), rtol=0, atol=1e-7)  # ε is the same on both sides
    values = [reparameterization(mean + d, sd, name).value for d in (-1e-4, 1e-4)]
    assert (values[1] - values[0]) / 2e-4 == pytest.approx(float(found.path[0]), abs=1e-6)
    torch.testing.assert_close(found.epsilon, reparameterization(-1.0, 2.0, name).epsilon)
    many = reparameterization(mean, sd, name, n=4000)
    se = many.by_sd.std() / math.sqrt(4000)
    assert abs(float(many.by_sd.mean() - found.path[1])) < 5 * float(se)


def test_closed_forms_of_the_gradient() -> None:
    sine = reparameterization(0.3, 0.5, "sin 2z")  # E sin 2z = sin 2μ · e^(−2σ²)
    assert sine.value == pytest.approx(math.sin(0.6) * math.exp(-0.5), abs=1e-10)
    assert sine.path.tolist() == pytest.approx([2 * math.cos(0.6) * math.exp(-0.5), -2 * math.sin(0.6) * math.exp(-0.5)], abs=1e-9)


def test_a_jacobian_is_zero_outside_of_the_past_and_a_derivative_inside() -> None:
    torch.manual_seed(0)
    space = ImageSpace(1, 5, 5, levels=256)
    model = PixelCNN.small(space)
    x = torch.randint(1, 255, (1, 1, 5, 5), dtype=torch.uint8)
    found = influence(model, x, 3, 2)
    assert found.outside == 0.0 and int(found.past.sum()) == 17 and bool(found.seen.any())
    assert not bool((found.seen & ~receptive_field(model, 3, 2).seen).any())  # no weights see beyond the architecture's field
    row, column = divmod(int(found.jacobian.abs().argmax()), 5)
    twin, values = model.double(), []
    for step in (-1e-3, 1e-3):
        moved = x.double()
        moved[0, 0, row, column] += step
        with torch.no_grad():
            values.append(float(twin.conditional_log_prob(moved, None)[0, 0, 3, 2]))
    assert (values[1] - values[0]) / 2e-3 == pytest.approx(float(found.jacobian[0, row, column]), rel=1e-4)
    with torch.no_grad():
        assert found.log_prob == pytest.approx(float(twin.conditional_log_prob(x, None)[0, 0, 3, 2]))


def test_what_is_no_panel_is_refused() -> None:
    space = ImageSpace(1, 3, 3, levels=2)
    x = torch.zeros(1, *space.shape, dtype=torch.uint8)
    for call, expected in (
        (lambda: mixture([], []), "for each component"),
        (lambda: mixture([1.0], [0.0]), "above 0"),
        (lambda: mixture([1.0], [1.0, 2.0]), "for each component"),
        (lambda: squared_error(x, x[:, :, :2]), "one shape"),
        (lambda: squared_error(x, x, 0.0), "variance"),
        (lambda: reparameterization(f="cos"), "use one of"),
        (lambda: reparameterization(sd=0.0), "above 0"),
        (lambda: influence(MADE.small(space), x, 3, 0), "no sub-pixel"),
        (lambda: influence(MADE.small(space), x.repeat(2, 1, 1, 1), 0, 0), "One image"),
        (lambda: influence(GatedPixelCNN.small(space, Label(2)), x, 0, 0), "without given"),
    ):
        with pytest.raises(InputError, match=expected):
            call()
    with pytest.raises(CapabilityError):
        influence(VAE.small(space), x, 0, 0)
