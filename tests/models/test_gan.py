"""What is particular to the GAN: stable losses, players that move alone, and no likelihood at all."""

from __future__ import annotations

import pytest
import torch

from pofx.errors import CapabilityError
from pofx.model import Context, ExactLikelihood, LowerBound, require
from pofx.models.adversarial.gan import GAN
from pofx.models.adversarial.losses import NonSaturating
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.testing import random_batch
from pofx.views import Top


def test_asking_for_a_likelihood_says_what_a_gan_can_give() -> None:
    model = GAN.small(ImageSpace(1, 4, 4))
    assert not hasattr(model, "log_prob") and not hasattr(model, "elbo")
    with pytest.raises(CapabilityError, match=r"Sampler.*pofx evaluate"):
        require(model, ExactLikelihood, LowerBound, to="score images")


def test_a_critic_that_is_certain_still_has_a_finite_loss_and_a_gradient() -> None:
    model = GAN(ImageSpace(1, 4, 4), loss=NonSaturating(), latents=4, channels=8, stages=1)
    model.critic.net.out.bias.data.fill_(-500.0)
    context = Context(0, 0.0, Noise(0, torch.arange(8)))
    loss, _ = model.objectives()[1].loss(random_batch(model, 8), context)
    loss.backward()
    assert torch.isfinite(loss) and any(bool(p.grad.any()) for p in model.generator.parameters() if p.grad is not None)


def test_fakes_are_detached_in_the_critic_step() -> None:
    model = GAN.small(ImageSpace(1, 4, 4))
    loss, _ = model.objectives()[0].loss(random_batch(model, 8), Context(0, 0.0, Noise(0, torch.arange(8))))
    loss.backward()
    assert all(p.grad is None for p in model.generator.parameters())


def test_known_pixels_are_pasted_into_what_the_critic_sees() -> None:
    space = ImageSpace(1, 4, 4, levels=5)
    model = GAN.small(space, Top(2))
    batch = random_batch(model, 3)
    fake = model._fake(batch, Noise(0, torch.arange(3)), "z")
    assert torch.allclose(fake[:, :, :2], batch.x[:, :, :2] * 0.5 - 1.0)


def test_decode_is_what_sample_rounds() -> None:
    model = GAN.small(ImageSpace(3, 6, 6))
    z = Noise(4, torch.arange(5)).normal("z", model.latent_dims)
    with torch.no_grad():
        assert torch.equal(model.decode(z).mean.round().to(torch.uint8), model.sample(5, seed=4))
