"""What is particular to PixelRNN: what each kind sees, colours, plain LSTMs on sequences, and steps that end where a full pass does."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pofx import testing
from pofx.errors import InputError
from pofx.model import Batch, Context
from pofx.models.autoregressive.pixelrnn import Layer, PixelRNN
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.testing import densify, jacobian, random_batch, random_images
from pofx.views import Label, Top

Kind = Literal["row", "diagonal"]
KINDS: list[Kind] = ["row", "diagonal"]
SPACES = [
    ImageSpace(1, 5, 7, levels=4),
    ImageSpace(3, 4, 3, levels=3),
    ImageSpace(1, 1, 9, levels=4),
    ImageSpace(1, 9, 1, levels=2),
    ImageSpace(3, 1, 4),
]


class SmallRow(PixelRNN):
    """`check_model` asks a class for its small instance: the default kind is the diagonal one, here is the other."""

    @classmethod
    def small(cls, space, given=None):
        return PixelRNN(space, given, kind="row", layers=2, channels=4 * space.channels)  # one that the catalogue has, as files ask


CHECKS = [check for check, slow in testing.checks(SmallRow) if not slow and check.__name__ not in ("numbers_do_not_depend_on_the_batch",)]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_row_lstm_keeps_the_contract(check) -> None:
    check(SmallRow)


def seen(model: PixelRNN) -> torch.Tensor:
    """Which sub-pixel each term sees: exactly nonzero gradients, over a few draws of weights (a dead ReLU may hide a path)."""
    out = torch.zeros(model.space.dims, model.space.dims, dtype=torch.bool)
    for seed in range(3):
        out |= jacobian(densify(model.double(), seed), random_images(1, model.space, seed)) != 0  # type: ignore[arg-type]
    return out.fill_diagonal_(False)


def ranks(space: ImageSpace) -> torch.Tensor:
    c, h, w = space.shape
    return torch.arange(space.dims).reshape(h * w, c).t().flatten()


@pytest.mark.parametrize("space", [ImageSpace(1, 7, 8, levels=4), ImageSpace(3, 3, 4, levels=3), ImageSpace(1, 1, 8), ImageSpace(1, 8, 1)])
@pytest.mark.parametrize("layers", [1, 3])
def test_the_diagonal_bilstm_sees_every_past_sub_pixel_and_no_other(space: ImageSpace, layers: int) -> None:
    rank = ranks(space)
    model = PixelRNN(space, kind="diagonal", layers=layers, channels=6 * space.channels, first_kernel=3)
    assert torch.equal(seen(model), rank[None] < rank[:, None])


@pytest.mark.parametrize("layers", [1, 3])
def test_the_row_lstm_sees_a_triangle_above_and_the_row_to_the_left(layers: int) -> None:
    """Through a 3×3 first convolution: d rows up, d columns further right; to the left a layer reaches one more column."""
    size = 7
    space = ImageSpace(1, size, size, levels=4)
    model = PixelRNN(space, kind="row", layers=layers, channels=8, first_kernel=3)
    i, j = torch.arange(size**2) // size, torch.arange(size**2) % size
    up, right = i[:, None] - i[None], j[None] - j[:, None]
    # In its own row: the first convolution, then one column more for each layer. Each row up: one more on both sides.
    left = 1 + layers
    triangle = ((up == 0) & (right < 0) & (right >= -left)) | ((up > 0) & (right <= up) & (right >= -left - up))
    assert torch.equal(seen(model), triangle)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("view", [None, Label(3), Top(1)])
def test_steps_equal_the_full_pass_from_any_row_on(kind: Kind, space: ImageSpace, view) -> None:
    """Teacher forcing to 1e-10, stepped from the start and after filling any number of rows, for batches of one and of four."""
    if isinstance(view, Top) and space.height == 1:
        view = None
    model = densify(PixelRNN(space, view, kind=kind, layers=3, channels=5).double())
    assert isinstance(model, PixelRNN)
    for n in (1, 4):
        batch = random_batch(model, n)
        with torch.no_grad():
            full = model.conditional_log_prob(batch.x, batch.given).flatten(1)
            for rows in range(space.height + 1):
                steps = model.begin(n, batch.given)
                if rows:
                    steps.fill(batch.x.long(), rows)
                for group in model.order():
                    values = batch.x.flatten(1)[:, group].long()
                    if int(group[0]) % (space.height * space.width) // space.width >= rows:
                        read = steps.distribution().gather(-1, values[..., None])[..., 0]
                        assert float(((read - full[:, group]) / full[:, group].abs().clamp(min=1)).abs().max()) < 1e-10
                    steps.fix(values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("space", [ImageSpace(1, 9, 9, levels=2), ImageSpace(3, 7, 6, levels=4)])
def test_multiply_adds_of_all_steps_are_those_of_one_full_pass(kind: Kind, space: ImageSpace) -> None:
    model = PixelRNN(space, kind=kind, layers=3, channels=12)
    layer = sum(layer.inputs.numel() + layer.states.numel() + layer.out.weight.numel() for layer in model.lstms if isinstance(layer, Layer))
    dense = layer + sum(conv.weight.numel() for conv in (model.first, model.out1, model.out2))
    steps = model.begin(2)
    with FlopCounterMode(display=False) as counter:
        for group in model.order():
            steps.distribution()
            steps.fix(torch.zeros(2, len(group), dtype=torch.long))
    share = counter.get_total_flops() / (2 * 2 * space.height * space.width * dense)
    assert (
        0.7 < share <= 1.05
    )  # less than one: the scan from right to left does not run over the last row, nor the first kernel right of a pixel


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [3, 7, 12])
def test_colours_agree_in_every_layer(kind: Kind, channels: int) -> None:
    """A single pixel: R sees nothing, G sees R, B sees both; whatever the features divide into."""
    model = densify(PixelRNN(ImageSpace(3, 1, 1, levels=4), kind=kind, layers=2, channels=channels).double())
    assert isinstance(model, PixelRNN)
    dependence = seen(model)
    assert not dependence.triu().any()
    assert channels == 3 or bool(dependence[2, 0] & dependence[2, 1] & dependence[1, 0])


def test_colours_of_past_pixels_are_all_seen() -> None:
    """State-to-state products are not masked: R of a pixel depends on G of its neighbours through layers alone (the first kernel is 1×1)."""
    for kind in KINDS:
        model = PixelRNN(ImageSpace(3, 2, 2, levels=4), kind=kind, layers=2, channels=9, first_kernel=1)
        pixels = seen(model).reshape(3, 4, 3, 4)
        assert pixels[0, 3, 1, 1], f"{kind}: red of the last pixel does not see green of the one above"
        assert pixels[0, 3, 1, 2], f"{kind}: red of the last pixel does not see green of the one to its left"


def test_on_a_sequence_a_layer_is_torch_lstm() -> None:
    """1×N: x + K h of a plain `torch.nn.LSTM` with copied weights, to 1e-10."""
    model = densify(PixelRNN(ImageSpace(1, 1, 13, levels=5), layers=1, channels=6).double())
    layer = model.lstms[0]  # type: ignore[index]
    assert isinstance(layer, Layer)
    h, lstm = 6, torch.nn.LSTM(12, 6, batch_first=True).double()
    with torch.no_grad():
        for theirs, ours in (
            (lstm.weight_ih_l0, layer.inputs[0, :, : 2 * h]),
            (lstm.weight_hh_l0, layer.states[0][:, h:]),
            (lstm.bias_ih_l0, layer.bias[0]),
            (lstm.bias_hh_l0, 0 * layer.bias[0]),
        ):
            o, i, f, g = ours.chunk(4)
            theirs.data = torch.cat([i, f, g, o])
        assert isinstance(model, PixelRNN)
        x = torch.randn(3, 1, 1, 13, dtype=torch.double)
        before, after = model.trunk(x, None, depth=0), model.trunk(x, None)
        h0, c0 = (s[:1, None].expand(1, 3, h).contiguous() for s in (layer.h0, layer.c0))
        told = lstm(before[:, :, 0].transpose(1, 2), (h0, c0))[0].transpose(1, 2)[:, :, None]
        expected = before + torch.nn.functional.conv2d(told, layer.out.kernel(), layer.out.bias)
    assert float((after - expected).abs().max()) < 1e-10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["last", "first"])
def test_the_fused_scans_equal_the_eager_baseline(kind: Kind, layout: str) -> None:
    """What `benchmarks/scan.py` compares computes one and the same loss and gradients."""
    path = Path(__file__).parents[2] / "benchmarks" / "scan.py"
    spec = importlib.util.spec_from_file_location("scan_benchmark", path)
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    torch.manual_seed(0)
    model = PixelRNN(ImageSpace(1, 5, 7, levels=2), kind=kind, layers=2, channels=6).double()
    x = random_images(3, model.space)
    found = []
    for loss in (benchmark.fused_loss(model, x), benchmark.eager_loss(model, x, layout)):
        model.zero_grad()
        loss.backward()
        found.append(
            [loss.detach(), *(p.grad.clone() for name, p in model.named_parameters() if "0" not in name[-2:] and p.grad is not None)]
        )
    assert len(found[0]) == len(found[1]) > 10
    assert all(torch.allclose(a, b, rtol=0, atol=1e-10) for a, b in zip(*found, strict=True))


def test_dropout_is_keyed_by_image_and_only_in_training() -> None:
    model = PixelRNN(ImageSpace(1, 4, 4, levels=2), layers=2, channels=4, dropout=0.5).double()
    x = random_images(6, model.space)
    [objective] = model.objectives()

    def loss(images: list[int]) -> torch.Tensor:
        return objective.loss(Batch(x[images]), Context(0, 0.0, Noise(0, torch.tensor(images))))[0]

    assert torch.allclose(loss([0, 1, 2, 3, 4, 5]) * 6, torch.stack([loss([k]) for k in range(6)]).sum())
    assert not torch.allclose(loss([0]), -model.log_prob(x[:1])[0] / model.dims)
    assert torch.equal(model.log_prob(x), model.log_prob(x))


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_in_bf16(kind: Kind) -> None:
    """Under autocast the recurrence stays in float32, and gradients are finite."""
    model = PixelRNN(ImageSpace(1, 5, 4, levels=2), Label(3), kind=kind, layers=2, channels=4)
    batch = random_batch(model, 4)
    [objective] = model.objectives()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = objective.loss(batch, Context(0, 0.0, Noise(0, torch.arange(4))))
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_samples_outside_of_inference_and_after_training_are_those_of_the_weights() -> None:
    """A plan made while sampling serves training, and the other way round."""
    model = PixelRNN(ImageSpace(1, 6, 11, levels=2), layers=1, channels=4)
    model.sample(2)
    (-model.log_prob(random_images(2, model.space)).mean()).backward()
    assert torch.equal(model.sample(2, seed=1), model.sample(2, seed=1))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "column"}, "row or diagonal"),
        ({"first_kernel": 4}, "--first-kernel 7"),
        ({"first_kernel": -1}, "--first-kernel 7"),
        ({"layers": 0}, "must be ≥ 1"),
        ({"channels": 2}, "at least 3"),
        ({"likelihood": "logistic"}, "categorical"),
        ({"likelihood": "bernoulli"}, "2 levels"),
        ({"dropout": 1.0}, "--dropout"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        PixelRNN(ImageSpace(3, 8, 8), **wrong)
