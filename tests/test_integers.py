"""Integer arithmetic: tables within half a unit of the functions, sums those of Python integers, a proof that is never exceeded."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pofx import catalog
from pofx.errors import CapabilityError, InputError
from pofx.integers import (
    FUNCTION_BITS,
    GRIDS,
    IMAGE_BITS,
    LARGEST,
    MANTISSA,
    SPARE,
    TOTAL,
    Arithmetic,
    Bounds,
    Integers,
    active,
    make_tables,
    rounded,
    using,
)
from pofx.likelihoods import EDGE_BITS, Likelihood
from pofx.model import RangeCoded
from pofx.models.autoregressive.pixelcnn import PixelCNN
from pofx.models.autoregressive.pixelcnn_pp import PixelCNNpp
from pofx.models.autoregressive.pixelrnn import PixelRNN
from pofx.nn import recurrent
from pofx.nn.activations import settled
from pofx.nn.linear import conv2d
from pofx.nn.ordered import OrderedModel
from pofx.nn.raster import RasterModel
from pofx.nn.variational import Variational
from pofx.space import ImageSpace
from pofx.tasks import _integer_form
from pofx.tasks._entropy import own
from pofx.tasks._integer_form import COARSEST, FINEST, IntegerForm
from pofx.testing import densify, random_images

CODABLE = {name: cls for name, cls in catalog.models().items() if issubclass(cls, RangeCoded)}
TABLES = make_tables()
INTEGERS = Integers(TABLES)
EXACT: dict[str, Callable[[float], float]] = {  # of the standard library, not of PyTorch
    "tanh": math.tanh,
    "elu": lambda x: x if x > 0 else math.expm1(x),
    "exp": math.exp,
    "logistic": lambda x: 1 / (1 + math.exp(-x)),
    "normal": lambda x: math.erfc(-x / math.sqrt(2)) / 2,
    "power": math.exp,
}


# Tables -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GRIDS)
def test_a_table_is_within_half_a_unit_of_its_function(name: str) -> None:
    grid, table = GRIDS[name], INTEGERS.integers[name].tolist()
    first, last = grid.ends
    assert len(table) == last - first + 1
    for k, t in zip(range(first, last + 1), table, strict=True):
        assert abs(t - EXACT[name](k * 2.0**-grid.index) * 2**grid.out) <= 0.5 + 1e-7, (name, k)


@pytest.mark.parametrize("name", GRIDS)
def test_tables_grow_and_are_symmetric(name: str) -> None:
    grid, table = GRIDS[name], INTEGERS.integers[name]
    assert bool((table.diff() >= 0).all())
    if grid.kind == "odd":
        assert torch.equal(table, -table.flip(0))
    if grid.kind == "distribution":  # from nothing to all, or a bin beyond the ends would have mass
        assert torch.equal(table + table.flip(0), torch.full_like(table, 2**grid.out))
        assert (int(table[0]), int(table[-1])) == (0, 2**grid.out)
    if name == "exp":
        assert int(table[-1]) == 2**grid.out


@pytest.mark.parametrize("name", GRIDS)
def test_a_table_is_read_at_the_nearest_place_halves_up_and_at_its_ends_beyond(name: str) -> None:
    grid, table = GRIDS[name], INTEGERS.integers[name]
    first, last = grid.ends
    unit = grid.index + 9  # of what is asked: finer than places, so that there are halves
    width = (last - first) << 9
    m = torch.cat(
        [
            torch.randint(first * 2**9 - width // 4, last * 2**9 + width // 4, (4000,)),
            torch.arange(first * 2**9, last * 2**9, 257)[:4000],  # some of them halves
            torch.arange(first, min(last, first + 2000)) * 2**9 + 2**8,  # all of them
            torch.tensor([0, -(2**50), 2**50, 2**52 - 1]),
        ]
    )
    found = INTEGERS.lookup(name, m.double() * 2.0**-unit).tolist()
    for value, t in zip(m.tolist(), found, strict=True):
        k = math.floor(Fraction(value, 2**9) + Fraction(1, 2))
        assert t == int(table[min(max(k, first), last) - first]), (name, value)


def test_functions_give_multiples_of_their_unit_and_stop_growing() -> None:
    x = torch.randn(2000, dtype=torch.double) * 20
    for name, least, most in (("tanh", -1, 1), ("elu", -1, LARGEST), ("relu", 0, LARGEST)):
        y = INTEGERS.function(name, x)
        assert torch.equal(y * 2**FUNCTION_BITS, (y * 2**FUNCTION_BITS).round())
        assert float(y.min()) >= least and float(y.max()) <= most
        assert float(INTEGERS.function(name, torch.tensor([1e6], dtype=torch.double))) == most
    sigmoid = INTEGERS.sigmoid(x)
    assert float((sigmoid - torch.sigmoid(x)).abs().max()) < 2.0**-9
    assert torch.equal(sigmoid + INTEGERS.sigmoid(-x), torch.ones_like(x)) or float(((0.5 * x * 2**8) % 1 == 0.5).sum()) > 0


def test_rounding_takes_halves_to_even() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 0.25, 0.75], dtype=torch.double)
    assert rounded(x * 2.0**-FUNCTION_BITS, FUNCTION_BITS).mul(2**FUNCTION_BITS).tolist() == [0, 2, 2, 0, -2, 0, 1]
    assert INTEGERS.function("relu", torch.tensor([2.5 * 2.0**-FUNCTION_BITS], dtype=torch.double)) == 2 * 2.0**-FUNCTION_BITS


def test_pixels_and_edges_are_those_of_whole_numbers_at_all_levels() -> None:
    """(2k + o) / (levels−1) − 1 is rounded by a float before it is rounded to the grid: none lies so near a middle that this, or a fused
    operation, could tell."""
    for levels in range(2, 257):
        v = torch.arange(levels + 1)
        pixels = INTEGERS.image(v[:-1].to(torch.uint8), levels) * 2**IMAGE_BITS
        edges = rounded((2 * v.double() - 1) / (levels - 1) - 1, EDGE_BITS) * 2**EDGE_BITS  # as likelihoods.py
        for found, numerator in ((pixels, (2 * v[:-1] - levels + 1) << IMAGE_BITS), (edges, (2 * v - levels) << EDGE_BITS)):
            twice = 2 * numerator + levels - 1  # ⌊numerator / (levels−1) + 1/2⌋
            assert torch.equal(found.long(), twice.div(2 * (levels - 1), rounding_mode="floor")), levels
            assert int((twice % (2 * (levels - 1))).min()) > 0 or levels == 2, levels
            if levels == 2:
                assert torch.equal(found.long(), numerator)


# Sums -------------------------------------------------------------------------------------------------------------------


def integer_conv2d(x: Any, weight: Any, bias: Any, padding: tuple[int, int], dilation: int) -> Any:
    """The definition, in Python's integers (objects of NumPy)."""
    above, left = padding
    x = np.pad(x, ((0, 0), (0, 0), (above, above), (left, left)))
    rows, columns = weight.shape[2:]
    height, width = x.shape[2] - dilation * (rows - 1), x.shape[3] - dilation * (columns - 1)
    out = np.zeros((x.shape[0], weight.shape[0], height, width), dtype=object) + bias[:, None, None]
    for i in range(rows):
        for j in range(columns):
            part = x[:, :, dilation * i : dilation * i + height, dilation * j : dilation * j + width]
            out += np.tensordot(part, weight[:, :, i, j], (1, 1)).transpose(0, 3, 1, 2)
    return out


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(
    ("features", "kernel", "padding", "dilation"),
    [
        (16, (3, 3), (1, 1), 1),  # by taps
        (17, (2, 3), (0, 1), 1),
        (20, (2, 2), (1, 0), 1),
        (16, (3, 3), (2, 2), 2),
        (16, (1, 7), (0, 9), 3),
        (33, (4, 1), (3, 0), 1),
        (16, (1, 1), (0, 0), 1),  # PyTorch's own
        (3, (7, 7), (3, 3), 1),
        (15, (3, 3), (1, 1), 2),
        (1, (2, 2), (1, 1), 1),
    ],
)
def test_a_convolution_is_that_of_pythons_integers(
    features: int, kernel: tuple[int, int], padding: tuple[int, int], dilation: int, with_bias: bool
) -> None:
    generator = torch.Generator().manual_seed(features)
    n, outputs, height, width = 3, 5, 6, 7
    # As large as sums may be: below 2^53 for all terms of one sign, so that one bit lost anywhere would show.
    terms = features * kernel[0] * kernel[1] + 1
    most = int((2**MANTISSA // terms) ** 0.5)
    shape = (outputs, features, *kernel)
    x = torch.randint(-most, most + 1, (n, features, height, width), generator=generator)
    weight = torch.randint(-most, most + 1, shape, generator=generator)
    x[0], weight[0] = most - (x[0] & 1), most - (weight[0] & 1)  # one image and output with all of one sign, odd and even
    bias = torch.randint(-most, most + 1, (outputs,), generator=generator) if with_bias else None
    zero = torch.zeros(outputs, dtype=torch.long)
    expected = integer_conv2d(
        x.numpy().astype(object), weight.numpy().astype(object), (zero if bias is None else bias).numpy().astype(object), padding, dilation
    )
    assert abs(expected).max() > 2 ** (MANTISSA - 2)
    for layout in (torch.contiguous_format, torch.channels_last):
        with using(INTEGERS):
            found = conv2d(
                (x.double() * 2.0**-10).to(memory_format=layout),
                weight.double() * 2.0**-14,
                None if bias is None else bias.double() * 2.0**-24,
                padding=padding,
                dilation=dilation,
            )
        assert tuple(found.shape) == expected.shape
        assert torch.equal(found * 2.0**24, torch.from_numpy(expected.astype(np.int64)).double())


def test_a_strided_convolution_is_every_other_one() -> None:
    x = torch.randint(-(2**20), 2**20, (2, 16, 7, 8)).double()
    weight, bias = torch.randint(-(2**12), 2**12, (4, 16, 2, 3)).double(), torch.ones(4, dtype=torch.double)
    with using(INTEGERS):
        assert torch.equal(conv2d(x, weight, bias, stride=2), conv2d(x, weight, bias)[:, :, ::2, ::2])


def test_the_arithmetic_in_use_ends_with_its_block() -> None:
    assert active() is None
    with pytest.raises(ZeroDivisionError), using(INTEGERS):
        assert active() is INTEGERS
        raise ZeroDivisionError
    assert active() is None


# Heads: their counts against the floats that they stand for ----------------------------------------------------------------


@pytest.mark.parametrize("size", [0.1, 3.0, 60.0, 3000.0])
@pytest.mark.parametrize(
    ("name", "levels", "components"),
    [
        ("bernoulli", 2, 1),
        ("categorical", 2, 1),
        ("categorical", 256, 1),
        ("logistic", 256, 1),
        ("gaussian", 7, 1),
        ("gaussian", 256, 1),
        ("logistic-mixture", 256, 1),
        ("logistic-mixture", 256, 10),
        ("logistic-mixture", 5, 300),
    ],
)
def test_counts_of_a_head(name: str, levels: int, components: int, size: float) -> None:
    """From 0 to all, growing, a level never without a share; near the float's, where parameters are not wild."""
    space = ImageSpace(3 if name == "logistic-mixture" else 1, 4, 4, levels)
    head = Likelihood(name, space, components=components)
    parameters = rounded(torch.randn(6, head.size, 4, 4, dtype=torch.double) * size, 20)
    if components == 300:
        parameters[:2, :300] = 0  # all weights as large as they can be
    x, v = random_images(6, space).long(), torch.arange(levels + 1).reshape(1, 1, 1, -1)
    for c in range(space.channels):
        with using(INTEGERS):
            counts = head(parameters).cumulative(c, x[:, :c], v)
        assert counts.shape == (6, 4, 4, levels + 1) and counts.dtype == torch.int64
        assert bool((counts[..., 0] == 0).all() and (counts[..., -1] == TOTAL).all() and (counts.diff(dim=-1) > 0).all())
        # Bins of scales far beyond the image are narrower than places of a table; a trained model has none that matter.
        if size == 0.1 or (size == 3 and name in ("bernoulli", "categorical")):
            p, q = head(parameters).table(c, x[:, :c]).exp(), counts.diff(dim=-1).double() / TOTAL
            divergence = (torch.special.entr(p) * -1 - p * q.log()).sum(-1)  # what coding by q costs more: nats
            assert 0 <= float(divergence.mean()) < 5e-3 and float(divergence.min()) > -1e-9


# The proof --------------------------------------------------------------------------------------------------------------


def refused(operation: Callable[[Tensor], Any]) -> None:
    bounds = Bounds()
    x = bounds.mark(torch.ones(1, 2, 3, 3, dtype=torch.double), 10)
    with pytest.raises(NotImplementedError, match="closed set"), bounds:
        operation(x)


@pytest.mark.parametrize(
    "operation",
    [
        torch.exp,
        torch.tanh,
        torch.relu,
        torch.special.erf,
        lambda x: x.softmax(1),
        lambda x: x / 3,
        lambda x: x * 0.3,
        lambda x: 0.5 * x,
        lambda x: x + 0.3,
        lambda x: 0.3 + x,
        lambda x: x.add(x, alpha=0.3),
        lambda x: x**2,
        lambda x: x.clamp(0, 1),
        lambda x: x.mean(),
        lambda x: torch.where(x > 0, x, 0.1 * x),
        lambda x: torch.nn.functional.pad(x, (1, 1), value=0.3),
        lambda x: torch.nn.functional.batch_norm(x, torch.zeros(2).double(), torch.ones(2).double()),
    ],
)
def test_a_function_outside_of_the_closed_set_is_refused(operation: Callable[[Tensor], Any]) -> None:
    refused(operation)


def test_units_add_where_numbers_are_multiplied_and_the_finer_one_stays_in_a_sum() -> None:
    bounds = Bounds()
    a, b = bounds.mark(torch.full((1, 1), 3.0, dtype=torch.double), 10), bounds.mark(torch.full((1, 1), 5.0, dtype=torch.double), 14)
    with bounds:
        assert bounds.units[id(a + b)] == 14
        product = a * b
        assert bounds.units[id(product)] == 24
        assert bounds.worst.bits == pytest.approx(math.log2(15) + 24)
        assert bounds.units[id(torch.cat([product, a]))] == 24


class Recording(Bounds):
    """And keeps what it bounds, in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, Tensor, int]] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        out = super().__torch_function__(func, types, args, kwargs)
        name = getattr(func, "__name__", "")
        if name in WATCHED and isinstance(out, Tensor) and out.is_floating_point():
            self.found.append((name, out.clone(), self._unit(out)))
        return out


class Watching(Arithmetic, TorchFunctionMode):
    """Numbers of tables, keeping the sums and products of a network, in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, Tensor]] = []

    def function(self, name: str, x: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            return INTEGERS.function(name, x)

    def sigmoid(self, x: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            return INTEGERS.sigmoid(x)

    def silu(self, x: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            return INTEGERS.silu(x)

    def bounded(self, x: Tensor, most: float) -> Tensor:
        with torch._C.DisableTorchFunction():
            return INTEGERS.bounded(x, most)

    def image(self, x: Tensor, levels: int) -> Tensor:
        with torch._C.DisableTorchFunction():
            return INTEGERS.image(x, levels)

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        out = func(*args, **kwargs or {})
        name = getattr(func, "__name__", "")
        if name in WATCHED and isinstance(out, Tensor) and out.is_floating_point():
            self.found.append((name, out.clone()))
        return out


WATCHED = Bounds.PRODUCTS | {"add", "add_", "__add__", "__iadd__", "sum"}


def extremes(space: ImageSpace) -> Tensor:
    """Noise, and images of nothing but the first and the last level: uint8 `(n, C, H, W)`."""
    top = space.levels - 1
    zeros = torch.zeros(space.shape, dtype=torch.uint8)
    stripes, checks = zeros.clone(), zeros.clone()
    stripes[..., ::2] = top
    checks[..., ::2, ::2], checks[..., 1::2, 1::2] = top, top
    return torch.cat(
        [random_images(24, space), random_images(24, space) // ((top + 2) // 2) * top, torch.stack([zeros, zeros + top, stripes, checks])]
    )


@pytest.mark.parametrize("space", [ImageSpace(1, 6, 5, levels=2), ImageSpace(3, 4, 4)], ids=str)
@pytest.mark.parametrize("name", [*(name for name in CODABLE if name != "pixelrnn"), "vae", "ladder-vae"])
@pytest.mark.parametrize("scale", [1.0, 12.0])
def test_no_image_exceeds_the_proof(name: str, space: ImageSpace, scale: float) -> None:
    """Every sum of a real run, element by element, is below what was proven of it, and a multiple of its unit."""
    model = densify(catalog.get(name).small(space))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(scale)
    form = IntegerForm.of(model)
    absolute = copy.deepcopy(form.model)
    _integer_form._set(absolute, {key: t.double().abs() * 2.0**-form.bits for key, t in form.weights.items()})
    bounds, watching = Recording(), Watching()
    for t in (*absolute.parameters(), *(b for key, b in absolute.named_buffers() if key.endswith("fixed"))):
        bounds.mark(t, form.bits)
    with torch.inference_mode(), using(bounds), bounds:
        absolute.proof()
    assert math.ceil(bounds.worst.bits) == form.worst <= MANTISSA - SPARE
    model = form.model
    assert isinstance(model, RasterModel | OrderedModel | Variational)
    x = extremes(space)
    with torch.inference_mode(), using(watching), watching:
        if isinstance(model, Variational):
            model.infer(model.read(x, None, None), lambda q: settled(1 * q.mean.clamp(-5, 5)), None, None).parameters()
        else:
            model._pixels(x, None)
    assert [name for name, *_ in bounds.found] == [name for name, _ in watching.found]
    largest = 0.0
    for (operation, bound, unit), (_, real) in zip(bounds.found, watching.found, strict=True):
        assert torch.equal(real * 2.0**unit, (real * 2.0**unit).round()), f"{operation}: not of its unit"
        assert bool((real.abs() <= bound * (1 + 2.0**-8) + 2.0**-8).all()), operation  # what rounding adds: SPARE holds it
        largest = max(largest, float(real.abs().max()) * 2.0**unit)
    assert largest < 2.0 ** (MANTISSA - SPARE)
    assert math.log2(largest) > form.worst - 12, f"a proof that says little: {math.log2(largest):.1f} of {form.worst} bits"


@pytest.mark.parametrize("kind", ["row", "diagonal"])
@pytest.mark.parametrize("scale", [1.0, 12.0])
def test_no_step_of_a_scan_exceeds_the_proof_of_one(
    kind: Literal["row", "diagonal"], scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = densify(PixelRNN(ImageSpace(3, 4, 4), kind=kind, layers=2, channels=6))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(scale)
    form, product, found = IntegerForm.of(model), recurrent._product, []

    def watched(weight: Tensor, x: Tensor, out: Tensor) -> Tensor:
        assert float(x.abs().max()) <= LARGEST and torch.equal(x, rounded(x, IMAGE_BITS))  # pixels, too
        found.append(product(weight, x, out).clone())
        return out

    monkeypatch.setattr(recurrent, "_product", watched)
    with form.exact() as exact:
        assert isinstance(exact, PixelRNN)
        exact.full(exact.seen(extremes(exact.space)), None)
    assert len(found) == 2 * (4 if kind == "row" else 7)
    assert all(torch.equal(sums, rounded(sums, form.bits + IMAGE_BITS + 1)) for sums in found)  # weights of σ are halved
    assert (
        max(float(sums.abs().max()) for sums in found) * 2.0 ** (form.bits + FUNCTION_BITS) < 2.0**form.worst <= 2.0 ** (MANTISSA - SPARE)
    )


# Forms ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def form() -> IntegerForm:
    return IntegerForm.of(densify(PixelCNN.small(ImageSpace(1, 3, 4, levels=3))))


def grown(factor: float) -> PixelCNN:
    model = densify(PixelCNN.small(ImageSpace(1, 3, 4, levels=3)))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(factor)
    assert isinstance(model, PixelCNN)
    return model


def test_large_weights_make_a_coarser_grid_and_then_an_error() -> None:
    bits = []
    for power in range(4, 40, 4):
        try:
            form = IntegerForm.of(grown(2.0**power))
        except InputError as error:
            assert "weight decay" in str(error) and "PixelCNN" in str(error)
            break
        assert form.worst <= MANTISSA - SPARE and COARSEST <= form.bits <= FINEST
        assert IntegerForm.from_bytes(form.to_bytes()).id == form.id
        bits.append(form.bits)
    else:
        pytest.fail("weights of 2^36 were taken")
    assert bits[0] == FINEST and bits[-1] < FINEST and bits == sorted(bits, reverse=True)


def test_a_weight_that_32_bits_do_not_hold_makes_a_coarser_grid() -> None:
    """It may be alone, so that no sum is too large."""
    model = PixelCNN.small(ImageSpace(1, 3, 4, levels=3))
    with torch.no_grad():
        model.out2.bias[0] = 2.0**18 + 1
    form = IntegerForm.of(model)
    assert form.bits < FINEST
    again = IntegerForm.from_bytes(form.to_bytes())
    assert again.id == form.id and torch.equal(again.weights["out2.bias"], form.weights["out2.bias"])


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300])
def test_weights_that_are_no_numbers_are_refused(value: float) -> None:
    model = PixelCNN.small(ImageSpace(1, 3, 4, levels=3)).double()
    with torch.no_grad():
        model.out1.weight[0, 0, 0, 0] = value
    with pytest.raises(InputError, match="not finite" if not abs(value) < math.inf else "large"):
        IntegerForm.of(model)


def test_what_has_no_integer_form_says_what_has() -> None:
    with pytest.raises(CapabilityError, match="pixelcnn-pp"):
        IntegerForm.of(catalog.get("gan").small(ImageSpace(1, 4, 4, levels=2)))
    from pofx.views import Label

    with pytest.raises(CapabilityError, match="without --given"):
        IntegerForm.of(PixelCNN.small(ImageSpace(1, 4, 4, levels=2), Label(3)))


@pytest.mark.parametrize("name", CODABLE)
def test_bytes_of_a_form_round_trip(name: str) -> None:
    space = ImageSpace(3, 3, 4, levels=7)
    form = IntegerForm.of(densify(CODABLE[name].small(space)))
    again = IntegerForm.from_bytes(form.to_bytes())
    assert again.id == form.id and again.space == space and again.to_bytes() == form.to_bytes()
    x = random_images(3, space)
    with form.exact() as a, again.exact() as b:
        assert isinstance(a, RangeCoded) and isinstance(b, RangeCoded)
        assert torch.equal(a.intervals(x, own), b.intervals(x, own))


def test_a_form_does_not_depend_on_how_the_model_was_kept() -> None:
    """Float32 weights are those of float64: the grid is coarser than either."""
    model = grown(1.0)
    assert IntegerForm.of(model).id == IntegerForm.of(copy.deepcopy(model).double().train()).id


def test_the_name_of_a_form_depends_on_all_of_it(form: IntegerForm) -> None:
    def other(**changes: Any) -> str:
        return dataclasses.replace(form, **changes).id

    names = {form.id, other(bits=form.bits - 1), other(description={**form.description, "part": "gated-pixelcnn"})}
    size = 3
    for kind in ("weights", "tables"):
        for name, t in getattr(form, kind).items():
            for at in {0, t.numel() // 2, t.numel() - 1}:
                altered = t.clone()
                altered.view(-1)[at] += 1
                names.add(other(**{kind: {**getattr(form, kind), name: altered}}))
                size += 1
    assert len(names) >= size - len([t for t in form.weights.values() if t.numel() < 3]) * 2 and len({len(n) for n in names}) == 1
    first, second = sorted(form.weights)[:2]
    swapped = {**form.weights, first: form.weights[second], second: form.weights[first]}
    assert other(weights=swapped) not in names


def test_altered_bytes_of_a_form_are_refused_or_have_another_name(form: IntegerForm) -> None:
    """Also where they are still safetensors: nothing is read as the same form and computes otherwise."""
    data = form.to_bytes()
    generator = np.random.default_rng(0)
    header = int.from_bytes(data[:8], "little") + 8
    places = [*range(0, header, 23), *generator.integers(header, len(data), 60).tolist()]
    for at in places:
        altered = bytearray(data)
        altered[at] ^= 1 << int(generator.integers(8))
        try:
            found = IntegerForm.from_bytes(bytes(altered))
            same = found.id == form.id
        except InputError:
            continue
        if same:
            assert found.to_bytes() == data, f"byte {at}"
    for size in (0, 7, 8, 9, header - 1, header, len(data) // 2, len(data) - 1):
        with pytest.raises(InputError):
            IntegerForm.from_bytes(data[:size])
    with pytest.raises(InputError):
        IntegerForm.from_bytes(data + b"\0")


def rewritten(form: IntegerForm, change: Callable[[dict[str, Tensor], dict[str, Any]], object]) -> bytes:
    """The bytes of a form after a change of its tensors, and of what is stated beside them."""
    from safetensors.torch import load, save

    data = form.to_bytes()
    stated = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["pofx"])
    tensors = load(data)
    change(tensors, stated)
    return save(tensors, {"pofx": json.dumps(stated)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, s: t.pop("table tanh"), "tables"),
        (lambda t, s: t.update({"table tanh": t["table tanh"][:-1].clone()}), "tables"),
        (lambda t, s: t.update({"table more": t["table tanh"].clone()}), "tables"),
        (lambda t, s: t["table exp"].fill_(0), "tables"),
        (lambda t, s: t["table logistic"].neg_(), "tables"),
        (lambda t, s: t["table power"].fill_(2**30), "tables"),
        (lambda t, s: t["table normal"].copy_(t["table normal"].flip(0)), "tables"),
        (lambda t, s: s.update(format=2), "Update it"),
        (lambda t, s: s.update(format="1"), "integer form"),
        (lambda t, s: s.update(format=0), "integer form"),
        (lambda t, s: s.update(bits=40), "integer form"),
        (lambda t, s: s.update(bits=True), "integer form"),
        (lambda t, s: s.pop("model"), "integer form"),
        (lambda t, s: t.update({"weight out1.bias": t["weight out1.bias"].double()}), "integer form"),
        (lambda t, s: t.update({"weight out1.bias": t["weight out1.bias"].long()}), "integer form"),
        (lambda t, s: t.update({"something": t["table tanh"].clone()}), "integer form"),
        # What is wrong with a description is seen when the network is made.
        (lambda t, s: t.pop("weight out1.bias"), "altered"),
        (lambda t, s: s.update(model=None), "none that can compress"),
        (lambda t, s: s.update(model=[]), "none that can compress"),
        (lambda t, s: s.update(model={"part": "vae", "arguments": {}}), "cannot be made"),
        (lambda t, s: s["model"].update(part="no-model"), "No model"),
        (lambda t, s: s["model"]["arguments"].update(layers=10**9), "altered"),
        (lambda t, s: s["model"]["arguments"].update(layers=4000), "altered"),
        (lambda t, s: s["model"]["arguments"].update(layers="two"), "cannot be made"),
        (lambda t, s: s["model"]["arguments"].update(channels=2000), "altered"),
        (lambda t, s: s["model"]["arguments"].update(space={"type": "Label", "classes": 3}), "cannot be made"),
        (lambda t, s: s["model"]["arguments"].update(given={"type": "Label", "classes": 3}), "none that can compress"),
        # 2^31 in every weight: sums that 53 bits do not hold are not exact, and another machine would read other images.
        (
            lambda t, s: t.update({k: torch.full_like(v, 2**31 - 1, dtype=torch.int32) for k, v in t.items() if k.startswith("weight")}),
            "could need",
        ),
    ],
)
def test_a_form_of_other_things_is_refused(form: IntegerForm, change: Callable[[Any, Any], object], words: str) -> None:
    data = rewritten(form, change)
    with pytest.raises(InputError, match=words):
        assert IntegerForm.from_bytes(data).model


def test_a_mixture_of_many_components_has_counts(tmp_path: Any) -> None:
    """Sums of their weights must not leave 63 bits."""
    from pofx.tasks.compress import encode_block

    space = ImageSpace(1, 3, 3)
    model = PixelCNNpp(space, channels=4, blocks=1, stages=0, components=300)
    form = IntegerForm.of(model)
    x = random_images(4, space)
    _, bits, _ = encode_block(form, x)
    with torch.no_grad():
        assert bits == pytest.approx(-float(model.double().log_prob(x).sum()) / math.log(2), rel=0.01)
