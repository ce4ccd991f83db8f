"""What features read, alone: the same numbers, a gradient for every parameter that is read, and no others in the file."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pofx import catalog
from pofx.errors import CapabilityError, InputError
from pofx.model import Batch, Context, Features
from pofx.models.adversarial.gan import GAN
from pofx.models.adversarial.losses import NonSaturating
from pofx.models.discriminative.classifier import Classifier
from pofx.models.variational.vae import VAE
from pofx.nn.extract import Extract, unread
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.testing import densify, random_images

SPACE = ImageSpace(1, 8, 8, levels=4)
BODIES = [name for name, cls in catalog.models().items() if issubclass(cls, Features)]


@pytest.mark.parametrize("name", BODIES)
def test_a_body_of_any_family_learns_through_its_features(name: str) -> None:
    """Every parameter that features depend on gets a gradient of the classifier's loss, the others none, and none of them is stored."""
    part: Any = densify(catalog.get(name).small(SPACE))
    model = Classifier(SPACE, classes=3, body=part)
    x, y = random_images(6, SPACE), torch.arange(6) % 3
    with torch.no_grad():
        model.initialise(model.batch(x, y))
    loss, _ = model.objectives()[0].loss(model.batch(x, y), Context(0, 0.0, Noise(0, torch.arange(6))))
    loss.backward()
    body = model.start
    assert all(p.grad is not None for p in body.read) and any(bool(p.grad.any()) for p in body.read if p.grad is not None)
    assert not any(p.requires_grad for n, p in body.part.named_parameters() if n in unread(body.part, None))
    stored = model.state_dict()
    assert not any(f"start.part.{n}" in stored for n in unread(body.part, None))
    again = Classifier(**model.config())
    again.load_state_dict(stored)
    with torch.no_grad():
        assert torch.equal(again.label(x).log_prob, model.label(x).log_prob)
        assert torch.equal(Extract(SPACE, part=part).features(x), part.features(x))


def test_what_is_left_out_is_the_decoder() -> None:
    model = VAE.small(SPACE)
    left = unread(model, None)
    assert left and all(name.startswith(("decoder.", "encoder.out")) for name in left)
    with torch.no_grad():
        before = model.features(random_images(3, SPACE))
        for name in left:
            if name.startswith("decoder."):
                model.get_parameter(name).fill_(7.0)
        assert torch.equal(model.features(random_images(3, SPACE)), before)


def test_batch_norm_keeps_its_statistics_and_labels_do_not_depend_on_the_batch() -> None:
    part = GAN(SPACE, loss=NonSaturating(), latents=4, channels=8, stages=1, normalisation="batch")
    model = Classifier(SPACE, classes=3, body=part, dropout=0.0).train()
    statistics = {n: b.clone() for n, b in model.start.part.named_buffers()}
    x, y = random_images(8, SPACE), torch.arange(8) % 3
    model.objectives()[0].loss(Batch(x, y), Context(0, 0.0, Noise(0, torch.arange(8))))[0].backward()
    assert all(torch.equal(b, statistics[n]) for n, b in model.start.part.named_buffers())
    with torch.no_grad():
        assert torch.allclose(model.label(x).log_prob[:1], model.label(x[:1]).log_prob, atol=1e-5)


def test_pooled_over_a_grid() -> None:
    model = catalog.get("pixelcnn").small(SPACE)
    assert isinstance(model, Features)
    x = random_images(2, SPACE)
    one, four = model.features(x), model.features(x, "@2")
    assert four.shape == (2, 4 * one.shape[1])
    assert torch.allclose(four.reshape(2, -1, 4).mean(2), one, atol=1e-5)


def test_bad_input() -> None:
    vae = VAE.small(SPACE)
    with pytest.raises(InputError, match="8×8"):
        Extract(ImageSpace(1, 9, 8, levels=4), part=vae)
    with pytest.raises(InputError, match="has mean"):
        Extract(SPACE, part=vae, layer="block7")
    with pytest.raises(InputError, match="has mean"):
        vae.features(random_images(1, SPACE), "mean@4")
    with pytest.raises(InputError, match="layer1|Pooled over a grid"):
        catalog.get("pixelcnn").small(SPACE).features(random_images(1, SPACE), "@0")  # type: ignore[attr-defined]
    with pytest.raises(CapabilityError, match="give features"):
        Extract(SPACE, part=catalog.get("bayes-classifier").small(SPACE))
    with pytest.raises(InputError, match="--init-from RUN"):
        Classifier(SPACE, freeze=True)
    with pytest.raises(InputError, match="Leave one out"):
        Classifier(SPACE, body=vae, freeze=True, consistency=1.0)
