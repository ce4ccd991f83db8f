"""Completion: frequencies against conditionals that are known by enumeration, kept pixels bit for bit, then bad input."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chisquare
from torch import Tensor

from pofx import catalog
from pofx.errors import CapabilityError, InputError, RunError
from pofx.model import Autoregressive, Decoder, LatentVariable, Sampler
from pofx.models.adversarial.gan import GAN
from pofx.models.autoencoding.autoencoder import Autoencoder
from pofx.models.autoregressive.gated_pixelcnn import GatedPixelCNN
from pofx.models.autoregressive.made import MADE
from pofx.models.autoregressive.multiscale import Multiscale
from pofx.models.autoregressive.pixelcnn import PixelCNN
from pofx.models.autoregressive.pixelcnn_pp import PixelCNNpp
from pofx.models.discriminative.classifier import Classifier
from pofx.models.variational.vae import VAE
from pofx.space import ImageSpace
from pofx.tasks._particles import gibbs, smc, suffix
from pofx.tasks.complete import complete, kept_region, read_mask
from pofx.testing import densify, quadrature_log_prob, random_images
from pofx.views import Caption, Gray, Half, Label, Masked, PartialLabel, Subsample, Top


def peaked(model: Any, nats: float = 0.85) -> Any:
    """In float64, with weights so large that sub-pixels lean on each other: a random one costs about so many nats, or log 2 if they did not."""
    torch.manual_seed(0)
    weights = [torch.randn(p.shape, dtype=torch.double) / math.sqrt(max(4, p[0].numel() if p.ndim > 1 else 4)) for p in model.parameters()]
    model, x = model.double(), random_images(64, model.space)
    for scale in (0.7 * 1.12**k for k in range(24)):
        with torch.no_grad():
            for p, w in zip(model.parameters(), weights, strict=True):
                p.copy_(w * scale)
            if -float(model.log_prob(x).mean()) / model.space.dims > nats:
                break
    return model


def fillings(x: Tensor, kept: Tensor, levels: int) -> Tensor:
    """Every image that agrees with `x` `(C, H, W)` where it is kept, in the order of `number`."""
    hole = (~kept).expand(x.shape)
    values = torch.tensor(list(itertools.product(range(levels), repeat=int(hole.sum()))), dtype=torch.uint8)
    out = x[None].repeat(len(values), 1, 1, 1)
    out[:, hole] = values
    return out


def number(x: Tensor, kept: Tensor, levels: int) -> Tensor:
    """The place of images `(n, C, H, W)` in `fillings`."""
    digits = x[:, (~kept).expand(x.shape[1:])].long()
    return (digits * levels ** torch.arange(digits.shape[1] - 1, -1, -1)).sum(1)


def frequencies(x: Tensor, kept: Tensor, levels: int) -> Tensor:
    return number(x, kept, levels).bincount(minlength=levels ** int((~kept).expand(x.shape[1:]).sum())).double()


# Exact ----------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [PixelCNN, GatedPixelCNN, PixelCNNpp, MADE])
@pytest.mark.parametrize(("shape", "keep"), [((1, 2, 2), "top:1"), ((1, 1, 4), "left:2"), ((1, 3, 3), "top:1,left:1")])
def test_exact_frequencies_follow_the_conditional(cls, shape, keep) -> None:
    space = ImageSpace(*shape, levels=2)
    model, kept = peaked(cls.small(space)), kept_region(keep, *shape[1:])
    x = random_images(1, space, seed=3)[0]
    if shape == (1, 3, 3):  # top:1,left:1 is no suffix; the first row and one more pixel are
        kept = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    found = complete(model, x, kept, n=4000)
    assert found.kind == "exact" and found.ess is None
    assert bool((found.images[:, :, kept] == x[:, kept]).all())
    every = fillings(x, kept, 2)
    log_p = model.log_prob(every).detach()
    p = log_p.softmax(0)
    used = p > 1e-4
    seen = frequencies(found.images, kept, 2)
    assert float(seen[~used].sum()) <= 20
    f_obs = seen[used].numpy()
    assert chisquare(f_obs, (p[used] / p[used].sum()).numpy() * f_obs.sum()).pvalue > 1e-4
    # and what the image itself holds there costs −log p(hole | kept), exactly
    at = int(number(x[None], kept, 2))
    assert found.truth is not None and found.truth.kind == "exact" and found.truth.dims == int((~kept).sum())
    assert float(found.truth.nats) == pytest.approx(-float(log_p.log_softmax(0)[at]), abs=1e-9)


def test_the_raster_is_an_order_of_a_wavefront_and_a_hole_after_it_is_exact() -> None:
    space = ImageSpace(1, 4, 4, levels=2)
    model = peaked(PixelCNN(space, layers=1, channels=4, first_kernel=3))
    kept = kept_region("top:2", 4, 4)[None]
    assert len(model.order()) < 16 and suffix(model, kept, ~kept)
    for keep, exact in (("bottom:2", False), ("left:2", False), ("top:1", True), ("top:3", True)):
        kept = kept_region(keep, 4, 4).expand(space.shape)
        assert suffix(model, kept, ~kept) == exact
    x = random_images(1, space)[0]
    found = complete(model, x, kept_region("top:2", 4, 4), n=3000)
    p = model.log_prob(fillings(x, kept_region("top:2", 4, 4), 2)).detach().softmax(0)
    seen = frequencies(found.images, kept_region("top:2", 4, 4), 2) / 3000
    assert 0.5 * float((seen - p).abs().sum()) < 0.12  # 256 outcomes, 3000 draws


def test_a_suffix_of_another_order() -> None:
    """Every second pixel of every second row comes first in a multiscale model: given those the rest is exact."""
    model = peaked(Multiscale.small(ImageSpace(1, 4, 4, levels=2)))
    kept = torch.zeros(4, 4, dtype=torch.bool)
    kept[::2, ::2] = True
    assert complete(model, random_images(1, model.space)[0], kept, n=2).kind == "exact"
    assert complete(model, random_images(1, model.space)[0], kept_region("top:2", 4, 4), n=2).kind == "approximate"


@pytest.mark.parametrize("cls", [PixelCNN, VAE, GAN])
@pytest.mark.parametrize("view", [Top(2), Subsample(2), Gray(), Half()])
def test_a_run_for_the_view_is_exact(cls, view) -> None:
    space = ImageSpace(3, 4, 4)
    torch.manual_seed(0)
    model, x = cls.small(space, view), random_images(1, space)
    found = complete(model, x, n=3)
    known = view.known(space)
    assert found.kind == "exact" and "trained for" in found.method
    assert bool((found.images == model.sample(3, view.value(x, None))).all())
    if known is not None:
        assert bool((found.images[:, known] == x[0, known]).all()) and bool((found.known == known).all())
    if cls is GAN:
        assert found.truth is None
    else:
        assert found.truth is not None and found.truth.kind == ("exact" if cls is PixelCNN else "lower bound")
    if isinstance(view, Gray | Half):  # the value alone will do
        alone = complete(model, None, given=view.value(x, None), n=3)
        assert alone.original is None and alone.truth is None and bool((alone.images == found.images).all())
        alone.sheet()


def test_a_masked_run_is_exact_for_any_hole() -> None:
    torch.manual_seed(0)
    space = ImageSpace(1, 4, 4, levels=4)
    model, x = PixelCNN.small(space, Masked()), random_images(1, space)
    for keep in ("bottom:2", "left:1,right:1", "top:1"):
        kept = kept_region(keep, 4, 4)
        found = complete(model, x, kept, n=3)
        assert found.kind == "exact" and found.truth is not None and found.truth.dims == int((~kept).sum())
        assert bool((found.images[:, :, kept] == x[:, :, kept]).all())


def test_a_masked_run_of_which_nothing_is_kept_draws_whole_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for channels in (1, 3):
        space = ImageSpace(channels, 4, 4, levels=4)
        model, x = PixelCNN.small(space, Masked()), random_images(1, space)
        found = complete(model, x, torch.zeros(4, 4, dtype=torch.bool), n=3, out=tmp_path / "a.png")
        assert found.kind == "exact" and found.truth is not None and found.truth.dims == space.dims and not found.shown.any()
        assert float(found.truth.nats) == pytest.approx(
            -float(model.log_prob(x, Masked.cut(x, torch.zeros(4, 4, dtype=torch.bool))).detach())
        )


def test_what_the_model_was_not_told_is_not_shown() -> None:
    torch.manual_seed(0)
    space = ImageSpace(1, 4, 4, levels=4)
    x, kept = torch.full((1, 1, 4, 4), 3, dtype=torch.uint8), kept_region("top:2", 4, 4)
    for model in (PixelCNN.small(space), PixelCNN.small(space, Masked())):
        found = complete(model, x, kept, n=1)
        assert bool((found.shown[:, kept] == 3).all()) and not found.shown[:, ~kept].any()
    assert bool((complete(PixelCNN.small(space, Half()), x, n=1).shown == 3).all())


def test_a_label_that_may_be_missing_may_be_missing() -> None:
    torch.manual_seed(0)
    space = ImageSpace(1, 4, 4, levels=4)
    model, x, kept = PixelCNN.small(space, PartialLabel(3)), random_images(1, space), kept_region("top:2", 4, 4)
    assert bool((complete(model, x, kept, n=2).images == complete(model, x, kept, -1, n=2).images).all())


@pytest.mark.parametrize("cls", [PixelCNN, VAE, GAN, Autoencoder])
def test_weights_that_are_not_finite_are_an_error(cls) -> None:
    space = ImageSpace(1, 6, 5, levels=4)
    model, x = cls.small(space), random_images(1, space)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(math.nan)
    for keep in ("top:3", "bottom:2"):
        with pytest.raises(RunError, match="not finite"):
            complete(model, x, kept_region(keep, 6, 5), n=2, particles=4, steps=2)


def test_a_view_and_more() -> None:
    """A run that is told two rows, and three are kept: still a suffix; one that lies in the hole is refused."""
    torch.manual_seed(0)
    space = ImageSpace(1, 4, 4, levels=4)
    model, x = PixelCNN.small(space, Top(2)), random_images(1, space)
    found = complete(model, x, kept_region("top:3", 4, 4), n=3)
    assert found.kind == "exact" and found.truth is not None and found.truth.dims == 4
    assert bool((found.images[:, :, :3] == x[:, :, :3]).all())
    with pytest.raises(InputError, match="always told"):
        complete(model, x, kept_region("top:1", 4, 4))


# Approximate ----------------------------------------------------------------------------------------------------------------------------------


def distance(found: Tensor, p: Tensor, kept: Tensor, levels: int = 2) -> float:
    """Total variation between frequencies of images and probabilities of `fillings`."""
    return 0.5 * float((frequencies(found, kept, levels) / len(found) - p).abs().sum())


@pytest.mark.parametrize("cls", [PixelCNN, GatedPixelCNN, MADE, Multiscale])
@pytest.mark.parametrize("keep", ["bottom:1", "left:1,right:1", "left:2"])
def test_smc_approaches_the_conditional_as_particles_grow(cls, keep) -> None:
    space = ImageSpace(1, 3, 4, levels=2)
    model, kept, x = peaked(cls.small(space)), kept_region(keep, 3, 4), random_images(1, space, seed=1)[0]
    log_p = model.log_prob(fillings(x, kept, 2)).detach()
    p = log_p.softmax(0)
    few = [complete(model, x, kept, n=4, particles=4, seed=s).images for s in range(50)]
    many = complete(model, x, kept, n=8192, particles=8192)
    assert many.kind == "approximate" and many.ess is not None and 1 <= many.ess <= 8192 and many.particles == 8192
    near, far = distance(many.images, p, kept), distance(torch.cat(few), p, kept)
    noise = float((p * (1 - p) / 8192).sqrt().sum())
    assert near < 0.02 + 3 * noise and (near < far or far < 0.1)
    assert many.truth is not None and many.truth.kind == "estimate" and many.truth.dims == int((~kept).sum())
    assert float(many.truth.nats) == pytest.approx(-float(log_p.log_softmax(0)[int(number(x[None], kept, 2))]), abs=0.1)


def test_the_evidence_of_smc_is_unbiased_though_particles_are_drawn_again() -> None:
    """E Ẑ = p(kept ones that follow | those before), by enumeration; with 6 particles, and stages in which they are drawn again."""
    space = ImageSpace(1, 4, 3, levels=2)
    model, x = peaked(PixelCNN.small(space), 1.0), random_images(1, space, seed=2)
    kept = kept_region("right:1", 4, 3).expand(space.shape)
    p = float(model.log_prob(fillings(x[0], kept[0], 2)).detach().logsumexp(0).exp())
    with torch.inference_mode():
        found = [smc(model, x, kept, None, 1, 6, seed) for seed in range(400)]
    assert any(s < 3 for f in found for s in f.stages[:-1]), "no stage drew again: the test would say nothing"
    z = np.exp([f.log_evidence for f in found])
    assert abs(z.mean() - p) < 4 * z.std(ddof=1) / math.sqrt(len(z))
    assert z.std(ddof=1) / math.sqrt(len(z)) < 0.15 * p


@pytest.mark.parametrize("cls", [PixelCNN, Multiscale])
def test_sweeps_approach_the_conditional_from_draws_that_know_nothing_of_it(cls) -> None:
    space = ImageSpace(1, 3, 3, levels=2)
    model, kept, x = peaked(cls.small(space), 1.0), kept_region("bottom:1,right:1", 3, 3), random_images(1, space, seed=1)
    p = model.log_prob(fillings(x[0], kept, 2)).detach().softmax(0)
    mask = kept.expand(space.shape)
    start = torch.where(kept, x, model.sample(3000, seed=1))
    with torch.inference_mode():
        moved, share = gibbs(model, start, mask, None, 12, 0)
        assert bool((moved[:, :, kept] == x[:, :, kept]).all()) and 0 < share <= 1
    before, after = distance(start, p, kept), distance(moved, p, kept)
    assert after < 0.05 and after < before / 3, (before, after)
    # and draws that are right already stay so
    right = fillings(x[0], kept, 2)[torch.multinomial(p, 3000, replacement=True, generator=torch.Generator().manual_seed(0))]
    with torch.inference_mode():
        assert distance(gibbs(model, right, mask, None, 2, 0)[0], p, kept) < 0.05
    found = complete(model, x, kept, n=3, particles=4, sweeps=2)
    assert "2 sweeps" in found.method and "accepted" in found.note and bool((found.images[:, :, kept] == x[:, :, kept]).all())


def test_importance_weighting_of_codes_approaches_the_conditional() -> None:
    space = ImageSpace(1, 2, 3, levels=2)
    torch.manual_seed(1)
    model = VAE(space, latents=1, channels=4).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)
    x, kept = random_images(1, space, seed=2), kept_region("left:1", 2, 3)
    every = fillings(x[0], kept, 2)
    z = torch.linspace(-9, 9, 2001, dtype=torch.double)[:, None]
    with torch.no_grad():
        log_x = torch.stack([model.decode(z).log_prob(one.expand(len(z), *one.shape)).flatten(1).sum(1) for one in every])
    log_p = torch.logsumexp(log_x - 0.5 * z[:, 0] ** 2, 1) + math.log(18 / 2000) - 0.5 * math.log(2 * math.pi)
    p = log_p.softmax(0)
    found = complete(model, x, kept, n=4096, particles=4096)
    assert found.kind == "approximate" and found.ess is not None and found.ess > 500
    assert distance(found.images, p, kept) < 0.03
    at = int(number(x, kept, 2))
    assert found.truth is not None and found.truth.kind == "estimate"
    assert float(found.truth.nats) == pytest.approx(-float(log_p.log_softmax(0)[at]), abs=0.05)


def test_what_the_image_holds_is_weighed_where_the_posterior_is_far_off() -> None:
    """q(z|x) of an untrained model: a share of the prior keeps the estimate of log p(x) near the truth, as it does that of log p(kept)."""
    space = ImageSpace(3, 1, 2, levels=2)
    torch.manual_seed(0)
    model, x = densify(VAE(space, Label(2), latents=1, channels=4).double()), random_images(1, space, seed=3)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.3)
    assert isinstance(model, VAE)
    kept = torch.zeros(1, 2, dtype=torch.bool)
    kept[0, 1] = True
    every, y = fillings(x[0], kept, 2), torch.ones(8, dtype=torch.long)
    log_p = quadrature_log_prob(model, every, y).detach().log_softmax(0)
    found = complete(model, x, kept, 1, n=8, particles=2000)
    assert found.truth is not None and found.truth.dims == 3
    assert float(found.truth.nats) == pytest.approx(-float(log_p[int(number(x, kept, 2))]), abs=0.15)


def test_a_gan_meets_the_kept_pixels_better_than_its_draws() -> None:
    torch.manual_seed(0)
    model = GAN.small(ImageSpace(1, 8, 8))
    x, kept = model.sample(1, seed=5), kept_region("top:4", 8, 8)
    short, long = (complete(model, x, kept, n=4, steps=s) for s in (1, 100))
    hole = ~kept
    errors = [float((f.images[:, :, hole].double() - x[:, :, hole].double()).square().mean()) for f in (short, long)]
    assert errors[1] <= errors[0] + 1 and long.ess is None and "inversion" in long.method and long.truth is None


# Every model ----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", catalog.model_names())
@pytest.mark.parametrize("keep", ["top:4", "bottom:3", "left:2,right:1"])
def test_kept_pixels_come_back_bit_for_bit(name: str, keep: str, tmp_path: Path) -> None:
    cls, space = catalog.get(name), ImageSpace(3, 8, 8)
    torch.manual_seed(0)
    try:
        model = cls.small(space)
    except InputError:
        model = cls.small(space, Label(3))
    x, kept = random_images(1, space, seed=4), kept_region(keep, 8, 8)
    given = None if model.given is None else torch.tensor([1])
    if not isinstance(model, Sampler | Decoder):
        with pytest.raises(CapabilityError, match="pofx train"):
            complete(model, x, kept, given)
        return
    if not isinstance(model, Autoregressive | Decoder):
        pytest.skip("draws images, and has neither steps nor codes")
    found = complete(model, x, kept, given, n=5, particles=8, steps=5, seed=2, out=tmp_path / "a.png")
    assert found.images.shape == (5, 3, 8, 8) and found.images.dtype == torch.uint8
    assert bool((found.images[:, :, kept] == x[:, :, kept]).all())
    assert (found.ess is None) == (found.kind == "exact" or not isinstance(model, Autoregressive | LatentVariable))
    assert (found.kind == "exact") <= isinstance(model, Autoregressive)
    again = complete(model, x, kept, given, n=5, particles=8, steps=5, seed=2)
    assert bool((again.images == found.images).all())
    other = x.clone()
    other[:, :, ~kept] = 0  # what stands in the hole is not read
    assert bool((complete(model, other, kept, given, n=5, particles=8, steps=5, seed=2).images == found.images).all())
    assert Image.open(tmp_path / "a.png").size[0] > 100


def test_labels_and_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    space = ImageSpace(1, 1, 12, levels=5)  # a series
    model = PixelCNN.small(space, Label(3))
    x, kept = random_images(1, space), kept_region("left:8", 1, 12)
    found = complete(model, x, kept, 2, n=12, out=tmp_path / "a.npz")
    assert found.kind == "exact"
    with np.load(tmp_path / "a.npz") as arrays:
        assert arrays["x"].shape == (12, 1, 1, 12) and bool(arrays["known"][0, 0, :8].all()) and str(arrays["kind"]) == "exact"
    found.sheet()
    with pytest.raises(InputError, match="label"):
        complete(model, x, kept)


# Bad input ------------------------------------------------------------------------------------------------------------------------------------


def test_bad_input(tmp_path: Path) -> None:
    space = ImageSpace(1, 4, 4, levels=2)
    torch.manual_seed(0)
    model, x = PixelCNN.small(space), random_images(2, ImageSpace(1, 4, 4, levels=2))
    everything, nothing = torch.ones(4, 4, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool)
    for known, words in (
        (everything, "nothing to complete"),
        (nothing, "plain sampling"),
        (None, "Which pixels are kept"),
        (torch.ones(3, 4, dtype=torch.bool), "A mask of"),
        (torch.ones(4, 4), "bool"),
    ):
        with pytest.raises(InputError, match=words):
            complete(model, x[0], known)
    with pytest.raises(InputError, match="one at a time"):
        complete(model, x, kept_region("top:2", 4, 4))
    with pytest.raises(InputError, match="--size 4x4"):
        complete(model, torch.zeros(1, 3, 3, dtype=torch.uint8), kept_region("top:2", 4, 4))
    with pytest.raises(InputError, match="at least 1"):
        complete(model, x[0], kept_region("top:2", 4, 4), n=0)
    with pytest.raises(InputError, match=r"\.png"):
        complete(model, x[0], kept_region("top:2", 4, 4), out=tmp_path / "a.txt")
    with pytest.raises(CapabilityError, match="cannot complete"):
        complete(Classifier.small(ImageSpace(1, 8, 8)), random_images(1, ImageSpace(1, 8, 8)), kept_region("top:2", 8, 8))
    with pytest.raises(InputError, match="keeps no pixel"):
        complete(PixelCNN.small(space, Label(2)), x[0], given=1)
    with pytest.raises(InputError, match="any hole"):
        complete(PixelCNN.small(space, Masked()), x[0])
    for view in (Label(2), Caption(4)):
        with pytest.raises(InputError, match="pass given="):
            complete(PixelCNN.small(space, view), x[0], kept_region("top:2", 4, 4))
    series = ImageSpace(1, 1, 6, levels=2)
    with pytest.raises(InputError, match="--keep left:3"):
        complete(PixelCNN.small(series), random_images(1, series), kept_region("top:6", 1, 6))  # of a series the first six values: all


def test_kept_region_says_what_is_wrong() -> None:
    assert kept_region("right:1,bottom:2", 4, 3).int().sum() == 2 + 6
    for text, words in (
        ("top:0", "keeps nothing"),
        ("top:5", "has 4 rows"),
        ("left:9", "has 3 columns"),
        ("top", "e.g. --keep top:2"),
        ("middle:2", "e.g. --keep top:2"),
        ("top:-1", "e.g. --keep top:2"),
    ):
        with pytest.raises(InputError, match=words):
            kept_region(text, 4, 3)


def test_a_mask_file(tmp_path: Path) -> None:
    pixels = np.zeros((4, 3), np.uint8)
    pixels[1:3, 1] = 255
    Image.fromarray(pixels).save(tmp_path / "m.png")
    assert (~read_mask(tmp_path / "m.png", 4, 3)).nonzero().tolist() == [[1, 1], [2, 1]], "white is the hole"
    with pytest.raises(InputError, match="4×3 and the images of the run are 3×4"):
        read_mask(tmp_path / "m.png", 3, 4)
    Image.fromarray(np.full((4, 3), 128, np.uint8)).save(tmp_path / "g.png")
    with pytest.raises(InputError, match="12 pixels are grey"):
        read_mask(tmp_path / "g.png", 4, 3)
    Image.fromarray(pixels).convert("1").save(tmp_path / "m1.png")
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "m16.png")
    for name in ("m1.png", "m16.png"):
        assert (~read_mask(tmp_path / name, 4, 3)).nonzero().tolist() == [[1, 1], [2, 1]]
    for alpha in (255, 255 - pixels):  # a hole that is cut out says nothing by its colour
        rgba = np.stack([pixels, pixels, pixels, np.zeros_like(pixels) + alpha], 2)
        Image.fromarray(rgba).save(tmp_path / "c.png")
        if isinstance(alpha, int):
            assert (~read_mask(tmp_path / "c.png", 4, 3)).nonzero().tolist() == [[1, 1], [2, 1]]
        else:
            with pytest.raises(InputError, match="transparent"):
                read_mask(tmp_path / "c.png", 4, 3)
    (tmp_path / "t.png").write_text("no image")
    for name in ("t.png", "none.png"):
        with pytest.raises(InputError, match="white is the hole"):
            read_mask(tmp_path / name, 4, 3)
