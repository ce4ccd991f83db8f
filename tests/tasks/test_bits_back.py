"""Bits-back coding: the mathematics of buckets and of the stack first, then streams of images."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pofx.errors import CapabilityError
from pofx.integers import Bounds, Integers, make_tables, using
from pofx.model import Gaussian
from pofx.models.variational.vae import VAE
from pofx.nn.activations import silu
from pofx.space import ImageSpace
from pofx.tasks._bits_back import BITS, DIGITS, Buckets, Group, Posterior, _draw, _fresh, _give_back
from pofx.tasks._blocks import decode_block
from pofx.tasks._container import Damaged
from pofx.tasks._entropy import WHOLE, Stack
from pofx.tasks._integer_form import IntegerForm
from pofx.tasks.compress import compress, encode_block
from pofx.tasks.decompress import decompress
from pofx.testing import densify, random_images
from pofx.views import Label

GREY, BITS_ONLY = ImageSpace(3, 4, 5, levels=7), ImageSpace(1, 6, 5, levels=2)


@pytest.fixture
def tables():
    arithmetic = Integers(make_tables())
    with using(arithmetic):
        yield arithmetic


def _posterior(mean: float, sd: float, d: int = 1) -> Posterior:
    return Posterior(Gaussian(torch.full((1, d), mean).double(), torch.full((1, d), 2 * np.log(sd)).double()))


def test_buckets_have_equal_mass_and_hold_their_middles(tables) -> None:
    edges = Buckets(tables)._points[::2]
    middles = Buckets(tables).middles(torch.arange(2**BITS), Group(1, DIGITS))
    assert bool((edges.diff() > 0).all() and (edges[:-1] < middles).all() and (middles < edges[1:]).all())
    assert float((torch.special.ndtr(edges) - torch.arange(2**BITS + 1) / 2**BITS).abs().max()) < 1e-5


@pytest.mark.parametrize(("mean", "sd"), [(0.0, 1.0), (0.7, 0.1), (-2.5, 0.03), (7.0, 0.5), (0.0, 20.0)])
def test_masses_of_buckets_are_those_of_the_gaussian_and_each_can_be_drawn(tables, mean: float, sd: float) -> None:
    buckets, q = Buckets(tables), _posterior(mean, sd)
    p = torch.ones(1, dtype=torch.double)
    for place in range(DIGITS):  # of all numbers at once
        before = torch.arange(len(p))[None]
        many = _posterior(mean, sd, len(p))
        counts = buckets.digit(many, before, place)
        assert bool((counts[:, 0] == 0).all() and (counts[:, -1] == WHOLE).all() and (counts.diff(dim=1) > 0).all())
        p = (p[:, None] * counts.diff(dim=1) / WHOLE).flatten()
    assert len(p) == 2**BITS and abs(float(p.sum()) - 1) < 1e-9
    below = torch.special.ndtr((buckets._points[::2] - q.mean[0]) * q.inverse[0])
    assert float((p.cumsum(0) - below[1:]).abs().max()) < 1e-5


def test_what_is_drawn_follows_the_posterior_and_comes_back(tables) -> None:
    buckets, q, group = Buckets(tables), _posterior(0.7, 0.2, 20_000), Group(1, DIGITS)
    stack = Stack(fresh=_fresh)
    k, taken = _draw(stack, buckets, q, DIGITS)
    z = buckets.middles(k, group)
    assert abs(float(z.mean()) - 0.7) < 4 * 0.2 / 20_000**0.5 and abs(float(z.std()) - 0.2) < 4 * 0.2 / 40_000**0.5
    assert abs(stack.initial - taken) < 128
    _give_back(stack, buckets, q, DIGITS, k)
    words = np.frombuffer(stack.to_bytes(), "<u4")
    assert set(words) <= set(_fresh(4 * 20_000))  # nothing but what it started with


def test_a_stack_undoes_any_mixture_of_what_it_did() -> None:
    torch.manual_seed(0)
    stack, done = Stack(fresh=_fresh), []
    for _ in range(60):
        counts = F.pad((torch.rand(7, 5).double().pow(6) + 1e-9).cumsum(1), (1, 0))
        counts = (counts / counts[:, -1:] * (WHOLE - 5)).long() + torch.arange(6)
        symbols, alike = stack.draw(counts), torch.randint(0, 16, (9,))
        stack.push_alike(alike, 4)
        done.append((counts, symbols, alike))
    again = Stack(stack.to_bytes())
    for counts, symbols, alike in reversed(done):
        assert torch.equal(again.pop_alike(9, 4), alike)
        again.give_back(symbols, counts)
    # Drawn again from what is left, all is as it was.
    assert torch.equal(Stack(again.to_bytes()).draw(done[0][0]), done[0][1])


@pytest.mark.parametrize("network", ["mlp", "convolutional", "residual"])
@pytest.mark.parametrize(
    ("space", "settings"),
    [
        (BITS_ONLY, {}),
        (GREY, {"likelihood": "categorical"}),
        (GREY, {"likelihood": "logistic", "scale": "shared"}),
        (GREY, {"likelihood": "gaussian", "scale": "optimal"}),
        (GREY, {"likelihood": "logistic-mixture", "components": 2}),
    ],
)
def test_images_come_back_from_any_network_and_likelihood(network, space, settings) -> None:
    model = densify(VAE(space, network=network, latents=3, channels=4, hidden=8, layers=1, stages=1, **settings))
    form = IntegerForm.of(model)
    for n in (1, 19):
        x = random_images(n, space)
        block, bits, initial = encode_block(form, x)
        assert torch.equal(decode_block(form, block), x)
        assert abs(8 * len(block.stream) - bits - initial) <= 64
    for x in (torch.zeros(3, *space.shape, dtype=torch.uint8), torch.full((3, *space.shape), space.levels - 1, dtype=torch.uint8)):
        assert torch.equal(decode_block(form, encode_block(form, x)[0]), x)


def test_a_file_counts_what_it_starts_with(tmp_path: Path) -> None:
    form, x = IntegerForm.of(VAE.small(BITS_ONLY)), random_images(40, BITS_ONLY)
    found = compress(form, x, tmp_path / "set.pofx", block=16, embed_model=True)
    assert found.initial > 0 and found.to_json()["initial"] == found.initial
    assert 8 * (found.size - found.model_size) >= found.ideal + found.initial
    assert torch.equal(decompress(found.path).x, x)


def test_an_altered_stream_is_damaged_by_its_checksum() -> None:
    form, x = IntegerForm.of(VAE.small(BITS_ONLY)), random_images(12, BITS_ONLY)
    block, _, _ = encode_block(form, x)
    for at in range(0, len(block.stream), 9):
        altered = bytes(b ^ (0x41 if k == at else 0) for k, b in enumerate(block.stream))
        with contextlib.suppress(Damaged):  # or it was a bit that means nothing
            assert torch.equal(decode_block(form, dataclasses.replace(block, stream=altered)), x)
    for stream in (b"", bytes(40), block.stream[: len(block.stream) // 2], b"\xff" * 64):
        with pytest.raises(Damaged):
            decode_block(form, dataclasses.replace(block, stream=stream))


def test_p_of_x_given_a_label_is_refused() -> None:
    with pytest.raises(CapabilityError, match="without --given"):
        IntegerForm.of(VAE.small(BITS_ONLY, Label(3)))


def test_silu_in_integers_is_near_the_real_one(tables) -> None:
    x = torch.linspace(-20, 30, 4001, dtype=torch.double)
    assert float((silu(x) - x * torch.sigmoid(x)).abs().max()) < 0.004


def test_only_nearest_neighbours_are_in_the_closed_set() -> None:
    bounds, x = Bounds(), torch.ones(1, 1, 2, 2, dtype=torch.double)
    bounds.mark(x, 10)
    with bounds:
        assert bounds._unit(F.interpolate(x, size=(4, 4), mode="nearest")) == 10
        with pytest.raises(NotImplementedError, match="interpolate"):
            F.interpolate(x, size=(4, 4), mode="bilinear")
