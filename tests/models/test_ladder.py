"""What is particular to the ladder VAE: layers that depend on those above, N(0, I) as the prior of all codes together, exact sizes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pofx.errors import InputError
from pofx.model import Gaussian
from pofx.models.variational.ladder import LadderVAE
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.testing import densify, every_image, quadrature_log_prob, random_images

SPACE = ImageSpace(1, 9, 7, levels=2)


def calm(model: LadderVAE) -> LadderVAE:
    """Dense weights that let every layer matter, and none explode."""
    densify(model)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.6)
    return model


def make(**settings: Any) -> LadderVAE:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"layers": 4, "latents": 2, "channels": 8, "stages": 2}
    model = LadderVAE(SPACE, **arguments | settings).double()
    return calm(model)


def test_layers_go_from_coarse_to_fine_and_their_codes_stand_side_by_side() -> None:
    model = make()
    assert model.sizes == [(5, 4), (3, 2)]
    assert model.layer_dims == [2 * 3 * 2] * 2 + [2 * 5 * 4] * 2
    assert model.latent_dims == sum(model.layer_dims)
    assert make(layers=5).places == [1, 1, 1, 0, 0]
    vectors = make(maps=False)
    assert vectors.layer_dims == [2] * 4


def test_a_layer_is_inferred_given_those_above_and_not_those_below() -> None:
    """∂ q_l / ∂ ε_m is 0 where layer m lies at or below layer l, and not where it lies above."""
    model, x = make(maps=False), random_images(1, SPACE)
    read = model.read(x, None, None)

    def moments(epsilon: torch.Tensor) -> torch.Tensor:
        q = model.explain(read, epsilon, None, None).q
        return torch.stack([q.mean, q.log_variance]).squeeze(1)

    j = torch.autograd.functional.jacobian(moments, Noise(0, torch.arange(1)).normal("z", model.latent_dims))
    assert isinstance(j, torch.Tensor)
    layer = torch.arange(model.latent_dims) // 2
    above = layer[None, :] < layer[:, None]
    assert bool((j.squeeze(2)[:, ~above] == 0).all())
    for a in range(4):
        for b in range(a):
            assert bool(j.squeeze(2)[:, layer == a][:, :, layer == b].any()), f"layer {a} does not see layer {b}"


def test_generate_is_explain_at_the_same_code() -> None:
    model, x = make(), random_images(3, SPACE)
    epsilon = Noise(1, torch.arange(3)).normal("z", model.latent_dims)
    e = model.explain(model.read(x, None, None), epsilon, None, None)
    assert torch.equal(model.generate(e.z, None), e.parameters())


def test_the_code_is_standardised_noise_of_a_prior_that_depends_on_the_layers_above() -> None:
    """E_q log p(z)/q(z|x) over the codes is −KL in closed form, and the importance weights average to p(x): by quadrature of two layers."""
    space = ImageSpace(1, 2, 2, levels=2)
    torch.manual_seed(0)
    model = calm(LadderVAE.small(space).double())
    x = every_image(space)
    with torch.no_grad():
        exact = quadrature_log_prob(model, x, points=201)
        assert abs(float(exact.exp().sum()) - 1) < 1e-6
        estimate = model.log_prob_estimate(x, samples=1000)
        bound = model.bound(x, samples=500)
    assert float((estimate - exact).abs().max()) < 0.2 and bool((bound.elbo < exact + 0.02).all())


def test_kl_of_a_hierarchy_is_its_log_ratio_in_expectation() -> None:
    model, x = make(maps=False), random_images(1, SPACE)
    read, n = model.read(x, None, None), 5000
    epsilon = Noise(0, torch.arange(n)).normal("z", model.latent_dims)
    with torch.no_grad():
        e = model.explain(tuple(t.expand(n, *t.shape[1:]) for t in read), epsilon, None, None)
        log_ratio = Gaussian(e.q.mean, e.q.log_variance).log_prob(e.z) + 0.5 * (e.z**2 + math.log(2 * math.pi)).sum(1)
        difference = log_ratio - e.q.kl().sum(1)
    assert abs(float(difference.mean())) < 4 * float(difference.std()) / n**0.5


@pytest.mark.parametrize("wrong", [{"layers": 0}, {"latents": 0}, {"latents": 64}, {"channels": 0}, {"stages": -1}], ids=str)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        LadderVAE(SPACE, **wrong)
