"""Muon: its direction against the singular value decomposition, its Adam against PyTorch's, and its place in `train`."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import pofx
from pofx.errors import InputError
from pofx.model import OptimizerName, OptimizerSpec
from pofx.nn.masked import MaskedConv2d
from pofx.testing import fit, random_batch
from pofx.training.optimizers import Muon, as_matrices, make_optimizer, orthogonalise


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (3, 6, 10), (12, 12), (60, 200), (200, 60), (2, 50, 150)])
def test_the_direction_has_the_singular_vectors_of_the_matrix(shape: tuple[int, ...]) -> None:
    g = torch.randn(shape, dtype=torch.double)
    u, s, vt = torch.linalg.svd(g, full_matrices=False)
    found = u.mT @ orthogonalise(g) @ vt.mT  # diagonal in the same basis
    values = found.diagonal(dim1=-2, dim2=-1)
    assert (found - torch.diag_embed(values)).abs().max() < 1e-9
    large = s > 0.1 * s.amax(-1, keepdim=True)
    assert bool(((values > 0.6) & (values < 1.3))[large].all())


def test_long_matrices_take_another_way_to_the_same_direction() -> None:
    """Also in float32, where singular values lie far apart."""
    g = torch.randn(64, 300) * torch.logspace(0, -4, 300)
    halves = torch.cat([g, torch.zeros(64, 300)])  # 128 × 300 are not long enough
    assert torch.allclose(orthogonalise(g), orthogonalise(halves)[:64], atol=2e-4)
    assert torch.allclose(orthogonalise(g), orthogonalise(g.double()).float(), atol=2e-4)


def test_a_step_under_autocast_is_the_step_without() -> None:
    """The update of a game is made where its net runs in bfloat16; the iteration must not."""
    found = []
    for enabled in (False, True):
        torch.manual_seed(0)
        p = torch.nn.Parameter(torch.randn(64, 300))
        p.grad = torch.randn(64, 300) * torch.logspace(0, -4, 300)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            Muon([p]).step()
        found.append(p.detach())
    assert torch.equal(*found)


def test_a_stack_of_matrices_is_each_of_them() -> None:
    g = torch.randn(4, 5, 9, dtype=torch.double)
    assert torch.allclose(orthogonalise(g), torch.stack([orthogonalise(m) for m in g]), atol=1e-12)


def test_a_step_is_as_long_as_adams() -> None:
    """Root mean square of 0.2 lr for any shape, near enough."""
    for shape in ((16, 8, 3, 3), (64, 64), (2, 32, 20)):
        p = nn.Parameter(torch.zeros(shape))
        p.grad = torch.randn(shape)
        Muon([p], lr=1e-2).step()
        rms = float(p.detach().square().mean().sqrt()) / (0.2 * 1e-2)
        assert 0.8 < rms < 1.15, (shape, rms)


def test_vectors_follow_adamw() -> None:
    ours, theirs = nn.Linear(6, 1).double(), nn.Linear(6, 1).double()
    theirs.load_state_dict(ours.state_dict())
    a = Muon(ours.parameters(), lr=0.1, betas=(0.9, 0.99), weight_decay=0.3)
    b = torch.optim.AdamW(theirs.parameters(), lr=0.1, betas=(0.9, 0.99), weight_decay=0.3)
    x = torch.randn(5, 6, dtype=torch.double)
    for _ in range(7):
        for model, optimizer in ((ours, a), (theirs, b)):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    assert as_matrices(ours.weight) is None
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-12) and torch.allclose(ours.bias, theirs.bias, atol=1e-12)


@pytest.mark.parametrize("name", ["Muon", "AdamW", "Adam"])
def test_it_goes_on_from_its_state(name: OptimizerName) -> None:
    x = torch.randn(8, 5, 6, 6)

    def net() -> nn.Sequential:
        torch.manual_seed(0)
        made = nn.Sequential(nn.Conv2d(5, 4, 3), nn.SiLU(), nn.Conv2d(4, 7, 1))
        return made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def steps(model: nn.Module, optimizer: torch.optim.Optimizer, n: int) -> None:
        for _ in range(n):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()

    whole, parts = net(), net()
    spec = OptimizerSpec(name, lr=1e-2)
    steps(whole, make_optimizer(whole, spec), 6)
    first = make_optimizer(parts, spec)
    steps(parts, first, 3)
    second = make_optimizer(parts, spec)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    steps(parts, second, 3)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))


@pytest.mark.parametrize("name", ["AdamW", "Adam"])
def test_the_fused_step_is_the_plain_one(name: OptimizerName) -> None:
    """For kernels that are channels-last too; and what an older run has stored goes on with the plain one."""
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv2d(5, 4, 3), nn.SiLU(), nn.Conv2d(4, 7, 1)).double()
    ours.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    theirs = copy.deepcopy(ours)
    a = make_optimizer(ours, OptimizerSpec(name, lr=1e-2, weight_decay=0.1))
    b = getattr(torch.optim, name)(theirs.parameters(), lr=1e-2, betas=OptimizerSpec().betas, weight_decay=0.1)
    x = torch.randn(8, 5, 6, 6, dtype=torch.double)
    for _ in range(5):
        for model, optimizer in ((ours, a), (theirs, b)):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    assert all(torch.allclose(p, q, rtol=0, atol=1e-12) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert a.param_groups[0]["fused"]
    a.load_state_dict(b.state_dict())
    assert not a.param_groups[0]["fused"]


def test_an_optimizer_in_the_place_of_the_models_own(tmp_path: Path) -> None:
    data = pofx.load_data("digits")
    weights = {}
    for name in (None, "Muon", "SGD"):
        torch.manual_seed(0)
        model = pofx.models.PixelCNN.small(data.space)
        pofx.train(model, data, out=tmp_path / str(name), steps=3, optimizer=name, threads=1, quiet=True)
        weights[name] = model.state_dict()
    same = [torch.equal(a, b) for a, b in zip(weights[None].values(), weights["Muon"].values(), strict=True)]
    assert all(same), "the family's own is Muon"
    assert not all(torch.equal(a, b) for a, b in zip(weights[None].values(), weights["SGD"].values(), strict=True))
    with pytest.raises(InputError, match="--optimizer Adagrad: use one of Muon, AdamW"):
        pofx.train(pofx.models.PixelCNN.small(data.space), data, out=tmp_path / "x", steps=1, optimizer="Adagrad")


def test_masked_weights_stay_zero() -> None:
    model = pofx.models.PixelCNN.small(pofx.ImageSpace(3, 4, 4, levels=3))
    fit(model, random_batch(model, 8), 3)
    masked = [layer.weight[layer.mask == 0] for layer in model.modules() if isinstance(layer, MaskedConv2d)]
    assert sum(len(w) for w in masked) > 0 and all(bool((w == 0).all()) for w in masked)
