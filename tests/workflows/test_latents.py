"""Bottleneck, holes and factors: the arithmetic on cases where it is known, and each whole in seconds."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pofx.data import Data, load_data
from pofx.data.shapes import NAMES, SHAPE, factors, render
from pofx.errors import InputError
from pofx.metrics.mean import Mean
from pofx.metrics.mutual_information_gap import mutual_information_gap
from pofx.workflows.autoencoder_holes import DRAWS, HEART, SIDE, fitted, holes
from pofx.workflows.bottleneck import bottleneck, squared_error
from pofx.workflows.factors import Factors, Trained, coordinates, study, walk_through


@pytest.fixture(scope="module")
def flat() -> Data:
    """4×4 images that are two numbers and no more, the second of a third of the spread of the first."""
    v = torch.randint(0, 200, (300, 2), generator=torch.Generator().manual_seed(0))
    v[:, 1] //= 3
    x = v[:, :, None].repeat(1, 1, 8).reshape(-1, 1, 4, 4).to(torch.uint8)
    return load_data((x, (v[:, 0] > 100).long()))


# Bottleneck -----------------------------------------------------------------------------------------------------------


def test_the_curve_ends_where_the_images_do(flat: Data, tmp_path: Path) -> None:
    """PCA brings images of two numbers back from two, and from one as much as one component holds; the linear autoencoder does not beat it."""
    found = bottleneck(flat, tmp_path, latents=(1, 2, 99), steps=60, arguments={"network": "linear", "lr": 0.05})
    assert found.latents == (1, 2) and found.n == len(flat.test)
    assert found.pca[1].mean < 1e-20 < found.pca[0].mean < found.nothing.mean
    train, test = (part.x.flatten(1).double() / (flat.space.levels - 1) for part in (flat.train, flat.test))
    assert found.nothing.mean == pytest.approx(float(squared_error(train.mean(0), test).mean()))
    assert 0.95 * found.pca[0].mean < found.autoencoder[0].mean < found.nothing.mean
    assert found.autoencoder[1].mean < found.autoencoder[0].mean
    assert found.shown.shape == (3, 10, 1, 4, 4) and torch.equal(found.shown[0], flat.test.x[:10])
    assert [row["latents"] for row in json.loads(json.dumps(found.to_json()))["rows"]] == [1, 2]
    again = bottleneck(flat, tmp_path, latents=(1, 2), steps=60, arguments={"network": "linear", "lr": 0.05})
    assert again.autoencoder == found.autoencoder  # read, not trained


def test_codes_that_no_image_has(flat: Data, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="codes of 1 … 16 numbers"):
        bottleneck(flat, tmp_path, latents=(0, 17))


@pytest.mark.slow
def test_training_as_anyone_would_brings_a_linear_one_to_pca(tmp_path: Path) -> None:
    found = bottleneck(load_data("digits"), tmp_path, latents=(1, 2), steps=4000, arguments={"network": "linear", "lr": 0.02})
    for auto, pca in zip(found.autoencoder, found.pca, strict=True):
        assert auto.mean == pytest.approx(pca.mean, rel=0.01)


# Holes ----------------------------------------------------------------------------------------------------------------


def test_fitted_draws_have_the_moments_of_the_codes() -> None:
    """Also where codes lie on a line, and a covariance has no Cholesky factor."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(5000, 1, generator=generator) @ torch.tensor([[2.0, -1.0, 0.0]]) + torch.tensor([1.0, 2.0, 3.0])
    drawn = fitted(z, torch.randn(5000, 3, generator=generator))
    torch.testing.assert_close(drawn.mean(0), z.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), z.T.cov(), atol=0.25, rtol=0)


def test_holes_are_measured_and_said(flat: Data, tmp_path: Path) -> None:
    found = holes(flat, tmp_path, steps=40, latents=4, arguments={"network": "mlp", "layers": 1})
    assert [p.name for p in found.priors][3] == "training images" and found.features is None
    assert found.priors[3].pixels.precision > 0.8 and found.priors[3].features is None  # real images are real
    assert all(len(p.decoded) == DRAWS for p in found.priors[:3])
    for m in found.maps:
        assert m.codes.shape == (len(flat.train), 2) and len(m.decoded) == SIDE**2 and 0 <= m.holes <= 1
        assert m.low[0] < m.high[0] and m.low[1] < m.high[1]
    assert len(found.line.images) == HEART and bool((found.line.codes.diff() >= 0).all())
    assert torch.equal(torch.stack(sorted(found.line.images, key=str)), torch.stack(sorted(flat.train.x[:HEART], key=str)))
    assert set(json.loads(json.dumps(found.to_json()))["priors"]) == {p.name for p in found.priors}


# Factors --------------------------------------------------------------------------------------------------------------


def test_what_a_decoder_is_told() -> None:
    f = factors(np.arange(500))
    z = coordinates(f)
    assert z.shape == (500, 8) and float(z.abs().max()) == 1 and bool((z[:, :3].sum(1) == 1).all())
    assert len(z.unique(dim=0)) == len(f.unique(dim=0))
    for k in range(len(NAMES)):
        walk = walk_through(k)
        assert len(walk.unique(dim=0)) == SHAPE[k] and len(render(walk).unique(dim=0)) == SHAPE[k]


def test_spread_is_over_seeds_of_one_beta() -> None:
    v = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    turned = torch.stack([v[:, 0] + v[:, 1], v[:, 0] - v[:, 1]], 1)
    mean = Mean(-100.0, 1.0)

    def one(seed: int, beta: float, codes: torch.Tensor) -> Trained:
        return Trained(seed, beta, mean, mean, torch.tensor([1.0, 0.001]), mutual_information_gap(codes.double(), v))

    found = Factors((one(0, 1, v), one(1, 1, turned), one(0, 4, v)), {5: mean}, 16, 5, 2, {}, torch.zeros(1))
    assert found.spread(1) == {"mean": pytest.approx(0.5), "sd": pytest.approx(0.5**0.5), "least": pytest.approx(0, abs=1e-9), "most": 1.0}
    assert found.vaes[0].active == 1 and math.isnan(found.spread(4)["sd"])
    assert found.told_bound(5).mean == pytest.approx(-100 - math.log(49152))
    with pytest.raises(InputError, match="there is 1, 4"):
        found.spread(2)


def test_a_study_of_seconds(tmp_path: Path) -> None:
    found = study(tmp_path, seeds=(0,), betas=(1.0,), steps=25, latents=3, arguments={"network": "mlp", "hidden": 16, "layers": 1})
    [vae] = found.vaes
    assert vae.found.information.shape == (3, 6) and found.n == 1200
    assert vae.elbo.mean == pytest.approx(vae.log_likelihood.mean - float(vae.kl.sum()), rel=1e-5)
    assert found.walked.shape == (2, 6, 8, 3, 16, 16)
    stored = json.loads(json.dumps(found.to_json()))
    assert stored["mig"]["1"]["sd"] is None and [t["steps"] for t in stored["told the factors"]] == [25, 100]
    with pytest.raises(InputError, match="a seed and a β"):
        study(tmp_path, seeds=())


# The page -------------------------------------------------------------------------------------------------------------


def test_the_page_says_what_was_measured() -> None:
    """Its tables are those of results/, and its pictures are there."""
    root = Path(__file__).resolve().parents[2]
    spec = importlib.util.spec_from_file_location("latents", root / "docs" / "latents.py")
    assert spec is not None and spec.loader is not None
    latents = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(latents)
    page = latents.PAGE.read_text(encoding="utf-8")
    assert latents.render(page) == page, "run `python docs/latents.py`"
    for picture in re.findall(r'<img src="([^"]+)"', page):
        assert (latents.DOCS / picture).is_file()
    with pytest.raises(ValueError, match="0 blocks 'bottleneck'"):
        latents.render("# A page without markers\n")
