"""`shapes`: the same images everywhere, factors that an image's name leads to, and drawings that are what the factors say."""

from __future__ import annotations

import hashlib
import time

import numpy as np
import pytest
import torch

from pofx.data import load_data, load_images, parse
from pofx.data.shapes import COUNT, KINDS, NAMES, SHAPE, VALUES, factors, margin, render
from pofx.errors import InputError


def test_images_are_the_same_everywhere() -> None:
    began = time.perf_counter()
    x = render(factors(np.arange(COUNT)))
    assert time.perf_counter() - began < 10  # 0.4 s alone
    assert x.shape == (6000, 3, 16, 16) and x.dtype == torch.uint8
    assert hashlib.sha256(x.numpy().tobytes()).hexdigest().startswith("0a373689db115ef5")
    assert len({row.tobytes() for row in x.numpy()}) == COUNT


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_rounding_decides_nothing(kind: int) -> None:
    """No point of the raster lies on an edge, where another machine's sine could put it on the other side."""
    f = factors(np.arange(COUNT))
    assert np.abs(margin(kind, f[f[:, 0] == kind].numpy()[:600])).min() > 1e-12


def test_it_is_a_set_like_others() -> None:
    data = load_data("shapes")
    assert str(data.space) == "3×16×16, 256 levels"
    assert [len(part) for part in data.parts.values()] == [4320, 240, 240, 1200]
    assert data.class_names == KINDS and data.heading == "shapes"
    assert load_data(**data.to_json()["spec"]).fingerprint == data.fingerprint
    assert parse("shapes:test").part == "test"
    assert len(load_images("shapes:valid", gray=True)[0]) == 240


def test_names_lead_to_factors() -> None:
    data = load_data("shapes")
    for part in data.parts.values():
        f = factors(part.ids)
        assert f.shape == (len(part), len(NAMES)) and torch.equal(render(f), part.x)
        assert part.y is not None and torch.equal(f[:, 0], part.y)
    chosen = data.test.select(np.array([5, 2]))
    assert torch.equal(factors(chosen.ids), factors(data.test.ids)[[5, 2]])


def test_factors_are_uniform_and_independent() -> None:
    """Each pair of values about as often as independence says, within five standard errors."""
    f = factors(np.arange(COUNT))
    for a in range(len(SHAPE)):
        for b in range(a):
            table = torch.zeros(SHAPE[a], SHAPE[b]).index_put_((f[:, a], f[:, b]), torch.ones(COUNT), accumulate=True)
            expected = COUNT / (SHAPE[a] * SHAPE[b])
            assert float((table - expected).abs().max()) < 5 * expected**0.5


def centre(x: torch.Tensor) -> tuple[float, float]:
    mass = x.sum((0, 1)).double()
    at = (torch.arange(16) + 0.5) / 16
    return float((mass.sum(0) * at).sum() / mass.sum()), float((mass.sum(1) * at).sum() / mass.sum())


def test_drawings_are_what_their_factors_say() -> None:
    base = torch.tensor([1, 3, 4, 3, 0, 0])
    for column, place in ((1, 0), (2, 1)):
        for value in range(8):
            f = base.clone()
            f[column] = value
            assert centre(render(f[None]))[place] == pytest.approx(VALUES[NAMES[column]][value], abs=2e-3)
    for kind, area in ((0, 4 * 0.85**2), (1, np.pi * 0.55)):
        for size in range(4):
            for angle in range(8):
                x = render(torch.tensor([[kind, 3, 4, size, angle, 0]]))
                assert float(x[0, 0].double().mean()) / 255 == pytest.approx(area * VALUES["size"][size] ** 2, rel=0.08)
    red, blue = (render(torch.tensor([[2, 3, 3, 3, 2, hue]]))[0] for hue in (0, 7))
    assert not red[1:].any() and not blue[:2].any() and torch.equal(red[0], blue[2])
    upright, turned = (render(torch.tensor([[1, 3, 3, 3, angle, 0]]))[0, 0] for angle in (0, 7))
    assert (upright > 0).any(0).sum() > (upright > 0).any(1).sum()  # wider than high
    assert (turned > 0).any(0).sum() < (turned > 0).any(1).sum()


@pytest.mark.parametrize("which", [["digits/3"], ["shapes/x"], ["shapes/6000"], torch.tensor([-1]), ["scan.png"]])
def test_what_has_no_factors(which) -> None:
    with pytest.raises(InputError, match="factors|images 0 …"):
        factors(which)


@pytest.mark.parametrize(
    "wrong", [torch.zeros(2, 5, dtype=torch.long), torch.tensor([[3, 0, 0, 0, 0, 0]]), torch.tensor([[0, -1, 0, 0, 0, 0]])]
)
def test_wrong_factors_are_not_drawn(wrong: torch.Tensor) -> None:
    with pytest.raises(InputError, match="Factors"):
        render(wrong)
