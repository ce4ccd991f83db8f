"""What is particular to PixelCNN++: shifted streams with strides, weight normalisation, its initialisation, and steps that stand still."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pofx.errors import InputError
from pofx.model import Batch, Context
from pofx.models.autoregressive.pixelcnn_pp import PixelCNNpp
from pofx.nn.shifted import DOWN, DOWN_RIGHT, POINT, FullPass, ShiftedConv2d, _concat_elu
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.testing import densify, fit, jacobian, random_images
from pofx.views import Label, Subsample

SPACES = [
    ImageSpace(1, 13, 10, levels=4),
    ImageSpace(3, 5, 7, levels=3),
    ImageSpace(1, 1, 17, levels=2),
    ImageSpace(1, 17, 1, levels=5),
    ImageSpace(4, 6, 3, levels=2),
    ImageSpace(1, 1, 1, levels=256),
]


def dense(space: ImageSpace, seed: int = 0, given: Any = None, **settings: Any) -> PixelCNNpp:
    """A model with large random weights, in float64."""
    arguments: dict[str, Any] = {"channels": 8, "blocks": 1, "stages": 3, "components": 3} | settings
    model = densify(PixelCNNpp(space, given, **arguments).double(), seed)
    assert isinstance(model, PixelCNNpp)
    return model


def read_steps(model: PixelCNNpp, x: Tensor, given: Any = None, filled: int = 0) -> Tensor:
    """log p of each sub-pixel, read step by step: `(n, C, H, W)`; the first `filled` rows are given at once and stay 0."""
    out = torch.zeros(len(x), model.space.dims, dtype=model.dtype)
    with torch.no_grad():
        steps = model.begin(len(x), given)
        if filled:
            known = x.clone()
            known[:, :, filled:] = 0
            steps.fill(known, filled)
        for group in model.order():
            values = x.flatten(1)[:, group].long()
            if int(group[0]) % (model.space.height * model.space.width) // model.space.width >= filled:
                out[:, group] = steps.distribution().gather(-1, values[..., None])[..., 0]
            steps.fix(values)
    return out.reshape(x.shape)


# Causality ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("likelihood", ["logistic-mixture", "categorical"])
def test_no_term_sees_what_does_not_come_before_it(space: ImageSpace, likelihood: str) -> None:
    """Exactly zero, through strided layers too: a coarse position knows no more than the even pixel that it stands at."""
    model = dense(space, likelihood=likelihood)
    rank = torch.empty(space.dims, dtype=torch.long)
    rank[torch.cat(model.order())] = torch.arange(space.dims)
    seen = jacobian(model, random_images(1, space)) != 0
    seen.fill_diagonal_(False)
    assert not bool((seen & (rank[None] >= rank[:, None])).any())


@pytest.mark.parametrize(
    "space", [ImageSpace(1, 12, 11, levels=4), ImageSpace(3, 4, 5, levels=3), ImageSpace(1, 1, 12), ImageSpace(1, 12, 1)]
)
@pytest.mark.parametrize("settings", [{}, {"likelihood": "categorical"}])
def test_every_past_sub_pixel_is_seen(space: ImageSpace, settings: dict[str, Any]) -> None:
    """No blind spot, at any parity of row and column."""
    past = torch.zeros(space.dims, space.dims, dtype=torch.bool)
    order = torch.cat(PixelCNNpp(space, channels=1).order())
    for k, i in enumerate(order):
        past[i, order[:k]] = True
    model = dense(space, blocks=2, stages=2, **settings)
    seen = jacobian(model, random_images(1, space)) != 0
    seen.fill_diagonal_(False)
    assert torch.equal(seen, past)


@pytest.mark.parametrize("axis", [2, 3])
def test_without_shortcuts_what_came_after_the_coarsest_position_is_lost(axis: int) -> None:
    """Why the paper has them: past the bottleneck nothing else remembers the fine detail."""
    shape = [1, 1, 1, 12]
    space = ImageSpace(1, *(shape[2:] if axis == 3 else shape[:1:-1]), levels=4)
    seen = jacobian(dense(space, blocks=2, stages=2, shortcuts=False), random_images(1, space)) != 0
    seen.fill_diagonal_(False)
    at = torch.arange(12)
    assert torch.equal(seen, at[None] < at[:, None] // 4 * 4)


# Steps ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(
    ("settings", "n"), [({}, 3), ({"shortcuts": False, "stages": 1}, 1), ({"likelihood": "categorical", "blocks": 2}, 2)]
)
def test_steps_equal_the_full_pass(space: ImageSpace, settings: dict[str, Any], n: int) -> None:
    model, x = dense(space, **settings), random_images(n, space)
    full = model.conditional_log_prob(x, None).detach()
    assert float(((read_steps(model, x) - full) / full.abs().clamp(min=1)).abs().max()) < 1e-10


@pytest.mark.parametrize("space", [s for s in SPACES if s.height > 1])
def test_steps_go_on_from_any_number_of_filled_rows(space: ImageSpace) -> None:
    """At every phase of the coarser resolutions, and whatever the rows still to come hold."""
    model, x = dense(space), random_images(2, space)
    full = model.conditional_log_prob(x, None).detach()
    for filled in {1, 2, 3, 4, space.height - 1}:
        difference = (read_steps(model, x, filled=filled) - full)[:, :, filled:] / full[:, :, filled:].abs().clamp(min=1)
        assert float(difference.abs().max()) < 1e-10, f"{filled} rows filled"


@pytest.mark.parametrize("view", [Label(3), Subsample(2)])
def test_steps_equal_the_full_pass_given_a_view(view: Any) -> None:
    """Planes are pooled to the size of each resolution."""
    space = ImageSpace(3, 7, 6, levels=4)
    model, x = dense(space, given=view), random_images(3, space)
    given = view.value(x, torch.arange(3))
    full = model.conditional_log_prob(x, given).detach()
    assert float((read_steps(model, x, given) - full).abs().max()) < 1e-10 * float(full.abs().max())
    assert not torch.allclose(full, model.conditional_log_prob(x, given.roll(1, 0)))


def multiply_adds(run: Any) -> int:
    def size(_: Any, a: torch.Size, b: torch.Size, **__: Any) -> int:
        return 2 * a.numel() * b[-1]

    in_place: Any = {torch.ops.aten.addmm_: size, torch.ops.aten.baddbmm_: size}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        run()
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    "space", [ImageSpace(3, 7, 6, levels=4), ImageSpace(1, 8, 8, levels=4), ImageSpace(1, 1, 16), ImageSpace(1, 16, 1)]
)
def test_a_whole_image_of_steps_costs_the_multiply_adds_of_one_full_pass(space: ImageSpace) -> None:
    model = PixelCNNpp(space, channels=8, blocks=1, stages=2)
    x = random_images(1, space)
    full = multiply_adds(lambda: model.conditional_log_prob(x, None))
    stepped = multiply_adds(lambda: read_steps(model, x))
    by_hand = 0
    for name, layer in model.named_modules():
        if isinstance(layer, ShiftedConv2d):
            height, width = model.sizes[name.split(".").count("below") + name.endswith(("shrink", "grow"))]
            by_hand += layer.v.numel() * height * width
    assert by_hand <= full < 1.6 * by_hand  # a full pass computes 1×1 layers in the margins too, which steps do not
    assert 0.6 * by_hand < stepped <= 1.05 * by_hand


# Weight normalisation and initialisation --------------------------------------------------------------------------------


def test_weights_are_normalised_by_output_channel() -> None:
    layer = ShiftedConv2d(3, 5, (2, 3), DOWN).double()
    with torch.no_grad():
        layer.g.copy_(torch.arange(1.0, 6))
        assert torch.allclose(layer.kernel().flatten(1).norm(dim=1), layer.g)
        before = layer.kernel()
        layer.v.mul_(torch.rand(5, 1, 1, 1, dtype=torch.double) + 1)
        assert torch.allclose(layer.kernel(), before)


@pytest.mark.parametrize("settings", [{}, {"likelihood": "categorical"}])
def test_after_initialisation_every_layer_gives_mean_0_and_its_scale(settings: dict[str, Any]) -> None:
    """Of what passes on, that is, computed again with the new g and b; a second initialisation changes nothing."""
    space = ImageSpace(3, 9, 10, levels=8)
    model = PixelCNNpp(space, channels=6, blocks=2, **settings).double()
    batch = Batch(random_images(40, space))
    model.initialise(batch)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    checked: list[float] = []

    class Watch(FullPass):
        def _settled(self, layer, run):
            out = super()._settled(layer, run)
            deviation, mean = torch.std_mean(out, (0, 2, 3), correction=0)
            checked.extend([float(mean.abs().max()), float((deviation / layer.scale - 1).abs().max())])
            return out

    with torch.no_grad():
        model.full_pass(Watch(model.sizes, None), batch.x.double() * (2 / 7) - 1)
    assert len(checked) == 2 * sum(isinstance(m, ShiftedConv2d) for m in model.modules())
    assert max(checked) < 1e-9
    model.initialise(batch)
    assert all(torch.allclose(v, state[k], atol=1e-9) for k, v in model.state_dict().items())


def test_a_channel_that_does_not_vary_is_left_at_its_scale() -> None:
    """The first pixel's past is empty: on 1×1 images nothing varies, and g stays finite."""
    model = PixelCNNpp(ImageSpace(1, 1, 1))
    fit(model, model.batch(random_images(8, model.space)), 2)
    assert all(float(p.detach().abs().max()) < 10 for p in model.parameters())


# Parts ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [DOWN, DOWN_RIGHT, POINT])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_concat_elu_is_elu_of_both_signs_in_its_margin(margin: Any, layout: Any) -> None:
    h = torch.randn(2, 3, 4, 5, dtype=torch.double).contiguous(memory_format=layout).requires_grad_()
    expected = F.pad(F.elu(torch.cat([h, -h], 1)), (margin.left, margin.right, margin.above, 0))
    out = _concat_elu(h, margin)
    assert torch.allclose(out, expected, atol=1e-15) and out.is_contiguous(memory_format=layout)
    assert torch.autograd.gradcheck(lambda h: _concat_elu(h, margin), h)


def test_channels_last_changes_nothing() -> None:
    model = dense(SPACES[1], stages=2)
    x = random_images(3, SPACES[1])
    before = model.conditional_log_prob(x, None)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert torch.allclose(model.conditional_log_prob(x, None), before, atol=1e-10)


@pytest.mark.parametrize(
    ("size", "resolutions"), [((32, 32), 3), ((7, 5), 3), ((1, 9), 3), ((9, 1), 3), ((2, 2), 1), ((1, 1), 1), ((3, 2), 2)]
)
def test_halvings_drop_out_where_nothing_is_left_to_halve(size: tuple[int, int], resolutions: int) -> None:
    model = PixelCNNpp(ImageSpace(1, *size), channels=4, blocks=1)
    assert len(model.sizes) == resolutions
    x = random_images(2, model.space)
    assert model.features(x).shape == (2, 8)
    assert len(model.feature_layers) == 2 * resolutions
    assert len({tuple(model.features(x, layer)[0].tolist()) for layer in model.feature_layers}) == 2 * resolutions or size == (1, 1)


def test_shortcuts_can_be_switched_off() -> None:
    with_them, without = (PixelCNNpp(ImageSpace(1, 8, 8), channels=4, shortcuts=s) for s in (True, False))
    names = {name for name, _ in with_them.named_parameters()} - {name for name, _ in without.named_parameters()}
    assert names and all(".up." in name and ".shortcut." in name for name in names)
    assert sum(name.endswith("shortcut.v") for name in names) == 2 * (3 + 3 + 2)  # blocks + 1 up, blocks at the coarsest


def test_dropout_is_for_training_and_keyed_by_image() -> None:
    space = ImageSpace(1, 6, 6, levels=4)
    model, plain = dense(space, dropout=0.5), dense(space)
    x = random_images(4, space)
    seen = x.double() * (2 / 3) - 1
    assert torch.equal(model.log_prob(x), plain.log_prob(x))
    noisy = model.full(seen, None, Noise(0, torch.arange(4)))
    assert not torch.allclose(noisy, model.full(seen, None))
    assert torch.equal(noisy, model.full(seen, None, Noise(0, torch.arange(4))))
    assert torch.allclose(noisy[2:3], model.full(seen[2:3], None, Noise(0, torch.tensor([2]))), atol=1e-12)
    assert torch.equal(plain.full(seen, None, Noise(0, torch.arange(4))), plain.full(seen, None))
    objective = model.objectives()[0]
    losses = [objective.loss(model.batch(x), Context(0, 0.0, Noise(seed, torch.arange(4))))[0] for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_a_softmax_sees_the_earlier_colours_and_a_mixture_shares_its_component() -> None:
    """Within a pixel green and blue are no strangers to red, whatever the head."""
    for likelihood in ("logistic-mixture", "categorical"):
        space = ImageSpace(3, 1, 1, levels=4)
        model = dense(space, likelihood=likelihood)
        seen = jacobian(model, random_images(1, space)) != 0
        assert bool(seen[1, 0]) and bool(seen[2, 0]) and bool(seen[2, 1])


def test_it_learns_what_no_independent_pixel_could() -> None:
    """Stripes of a random phase: 1 bit an image; and the default initialisation trains from the first step."""
    torch.manual_seed(0)
    space = ImageSpace(1, 5, 6, levels=4)
    phase = torch.arange(16)[:, None, None, None] % 2
    x = (1 + (torch.arange(6) + phase) % 2).expand(16, 1, 5, 6).to(torch.uint8)
    model = PixelCNNpp(space, channels=6, blocks=1, likelihood="categorical")
    history = fit(model, model.batch(x), 40, lr=2e-2)
    assert history[-1]["nll"] < 0.1 < 1 < history[0]["nll"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": 0},
        {"blocks": 0},
        {"stages": -1},
        {"likelihood": "logistic"},
        {"dropout": 1.0},
        {"components": 0},
        {"likelihood": "bernoulli"},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        PixelCNNpp(ImageSpace(3, 8, 8), **wrong)
