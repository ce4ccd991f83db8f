"""The checks behind `pofx course`: each computes its numbers anew with the modules that it is about, in seconds, and says whether the statement holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from pofx import catalog
from pofx.errors import CapabilityError
from pofx.model import Autoregressive, Context, Encoder, ImageModel, LatentVariable, Sampler, capabilities, evaluating, require
from pofx.nn.recurrent import diagonal_plan
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.tasks._descent import fit
from pofx.tasks.bound import Decomposition, LinearGaussian, decompose, growth, inference
from pofx.tasks.equilibrium import LOG_4, equilibrium
from pofx.tasks.influence import Influence, influence
from pofx.tasks.mixture import mixture
from pofx.tasks.receptive_field import receptive_field
from pofx.tasks.reparameterization import reparameterization
from pofx.tasks.squared_error import squared_error
from pofx.workflows._patterns import Patterns, patterns, taught
from pofx.workflows.bayes_tables import bayes_tables

TINY: dict[str, Any] = {"latents": 2, "network": "mlp", "hidden": 32}
STEPS, LR, IMAGES = 120, 0.03, 512
SHARE = 0.9  # of the variance


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        numbers: by what they are; computed now.
        holds: whether they say what the answer says.
        said: the same in a sentence.
    """

    numbers: Mapping[str, Any]
    holds: bool
    said: str


# What several checks look at ----------------------------------------------------------------------------------------------


@cache
def lines() -> Patterns:
    return patterns()


@cache
def vae() -> LatentVariable:
    """A VAE with two latents on 3×3 lines, in float64."""
    model = taught("vae", lines().data(IMAGES), steps=STEPS, lr=LR, small=False, **TINY)
    return require(model, LatentVariable, to="show its bound")


@cache
def autoencoder() -> ImageModel:
    """A plain autoencoder with two numbers in its code, on the same."""
    return taught("autoencoder", lines().data(IMAGES), steps=STEPS, lr=5e-3, small=False, latents=2, network="mlp", layers=1)


@cache
def taken_apart() -> tuple[Decomposition, ...]:
    """log p(x) = L + KL of each pattern under the VAE, by quadrature."""
    return tuple(decompose(inference(vae(), x)) for x in lines().x.split(1))


# Questions ------------------------------------------------------------------------------------------------------------------


def diagonals() -> Finding:
    """Steps of the scan over an image, and where the neighbours of each pixel lie once row i is moved i places to the right."""
    steps = {n: len(diagonal_plan(n, n, torch.device("cpu")).steps) for n in (2, 3, 5, 8, 28)}
    n = 28
    skewed = {(i, i + j) for i in range(n) for j in range(n)}
    width = 1 + max(t for _, t in skewed)
    above = all((i - 1, t - 1) in skewed for i, t in skewed if i > 0)
    left = all((i, t - 1) in skewed for i, t in skewed if t > i)
    numbers = {f"steps over {n}×{n}, in place of {n * n}": count for n, count in steps.items()}
    holds = above and left and width == steps[n] and all(count == 2 * n - 1 for n, count in steps.items())
    said = f"{steps[n]} steps over {n}×{n} pixels, 2 · {n} − 1; the pixel above and the pixel to the left lie one diagonal before, for all of them."
    return Finding(numbers | {f"width of {n}×{n}, each row moved one place more": width}, holds, said)


def free_numbers() -> Finding:
    """A table of p(x) over N binary pixels, a product of tables, and a fully visible belief network."""
    n = 9
    logits = torch.zeros(2**3, dtype=torch.double)
    jacobian = torch.autograd.functional.jacobian(lambda t: t.softmax(0), logits)
    assert isinstance(jacobian, Tensor)
    rank = int(torch.linalg.matrix_rank(jacobian))
    chain = sum(2**i for i in range(n))
    space = ImageSpace(1, 3, 3, levels=2)
    model = require(catalog.get("fvbn")(space).double(), Autoregressive, to="count its weights")
    x = torch.randint(0, 2, (63, *space.shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    model.log_prob(x).sum().backward()  # of an odd number of images no gradient of a bias cancels
    used = sum(int((p.grad != 0).sum()) for p in model.parameters() if p.grad is not None)
    numbers = {
        "free numbers of a table over 3 pixels (rank of its Jacobian)": rank,
        "chain rule over 9 pixels, 1 + 2 + … + 2^8": chain,
        "2^9 − 1": 2**n - 1,
        "numbers that an FVBN of 9 pixels uses": used,
        "9·8/2 + 9": n * (n - 1) // 2 + n,
        "decimal digits of 2^784 − 1": len(str(2**784 - 1)),
    }
    holds = rank == 7 and chain == 2**n - 1 and used == n * (n + 1) // 2
    return Finding(
        numbers,
        holds,
        f"A table of 2^3 probabilities moves in {rank} directions; nine conditional tables have {chain} numbers; an FVBN has {used}.",
    )


def directions(x: Tensor) -> Tensor:
    """Share of the variance of images `(n, …)` in the first 1, 2, … principal directions, `(d,)`."""
    flat = x.flatten(1).double()
    power = torch.linalg.svdvals(flat - flat.mean(0)) ** 2
    return power.cumsum(0) / power.sum()


def shuffled(x: Tensor) -> Tensor:
    """The same pixels, each column of numbers in an order of its own: what is common to pixels is gone."""
    flat = x.flatten(1)
    order = Noise(0, torch.arange(flat.shape[1])).uniform("shuffle", len(flat)).argsort(1)
    return flat.gather(0, order.T).reshape(x.shape)


def fewer_dimensions() -> Finding:
    """How many directions hold 90 % of the variance of digits, and of the same pixels without what joins them."""
    from pofx.data import load_data

    x = load_data("digits").train.x
    ours, theirs = (int((directions(images) < SHARE).sum()) + 1 for images in (x, shuffled(x)))
    numbers = {"pixels": x[0].numel(), "directions for 90 % of the variance": ours, "of the same pixels, shuffled": theirs}
    said = f"{ours} directions of {x[0].numel()} hold 90 % of the variance of digits; of the same pixels shuffled it takes {theirs}."
    return Finding(numbers, ours < 0.75 * theirs, said)


def this_bound() -> Finding:
    """The gap of the bound is a KL, and the plain alternative fails."""
    d = taken_apart()[0]
    far = growth((32,), draws=200, repeats=20)[0]
    numbers = {
        "log p(x), nats": d.log_prob,
        "L": d.elbo,
        "KL(q ‖ p(z|x))": d.kl_posterior,
        "log p(x) − (L + KL)": d.residual,
        "32 latents, z from the prior: estimate − log p(x)": far.prior.mean,
        "z from q: estimate − log p(x)": far.proposal.mean,
    }
    holds = abs(d.residual) < 1e-6 and d.kl_posterior >= 0 and abs(far.proposal.mean) < 0.1 * abs(far.prior.mean)
    said = f"log p(x) = {d.log_prob:.4f} = {d.elbo:.4f} + {d.kl_posterior:.4f}: raising L raises log p(x) or brings q nearer to p(z|x)."
    return Finding(numbers, holds, said)


def one_for_each_image() -> Finding:
    """μ and σ of images together, of each alone, and how they differ."""
    x = lines().x
    with torch.no_grad():
        together, alone = vae().posterior(x), [vae().posterior(image) for image in x.split(1)]
    off = max(
        float((torch.cat([getattr(a, name) for a in alone]) - getattr(together, name)).abs().max()) for name in ("mean", "log_variance")
    )
    spread = float(together.mean.std(0).max())
    sd = (0.5 * together.log_variance).exp()[:, 0]
    numbers = {
        "first μ of six images": [round(v, 4) for v in together.mean[:, 0].tolist()],
        "first σ of six images": [round(v, 4) for v in sd.tolist()],
        "spread of μ": spread,
        "largest difference where each is asked alone": off,
    }
    return Finding(
        numbers,
        off < 1e-12 and spread > 0.1,
        f"Six images have six μ (spread {spread:.3f}); each is the same whatever batch it comes in (within {off:.0e}).",
    )


def picked_latents() -> Finding:
    """A rotation of z changes no p(x), and changes the bound of a diagonal q."""
    noise = Noise(0, torch.zeros(1, dtype=torch.long))
    axes = torch.linalg.qr(noise.normal("axes", 8, 2)[0].double()).Q * torch.tensor([4.0, 1.5], dtype=torch.double)
    c, s = math.cos(math.pi / 6), math.sin(math.pi / 6)
    turned = axes @ torch.tensor([[c, -s], [s, c]], dtype=torch.double)
    x = axes.sum(1) + noise.normal("x", 8)[0].double()
    straight, oblique = (LinearGaussian(w, 1.0, x) for w in (axes, turned))
    gap = straight.log_prob - oblique.log_prob
    numbers = {
        "log p(x), axes": straight.log_prob,
        "log p(x), turned by 30°": oblique.log_prob,
        "their difference": gap,
        "bound lost with the axes": straight.kl_posterior,
        "bound lost when turned": oblique.kl_posterior,
    }
    holds = abs(gap) < 1e-9 and straight.kl_posterior < 1e-9 < oblique.kl_posterior
    lost = f"A diagonal q loses {oblique.kl_posterior:.4f} nats where they are turned, and none where not."
    said = f"Turning z changes log p(x) by {abs(gap):.0e} nats: the likelihood picks no axes. {lost}"
    return Finding(numbers, holds, said)


def optimum() -> Finding:
    """The value of the game at p = q, beside it, and at the best q of a family that p is not in."""
    same, beside = equilibrium("normal(0, 1)", "normal(0, 1)"), equilibrium("normal(0, 1)", "normal(1, 1)")
    two = fit("0.5*normal(-2, 0.5) + 0.5*normal(2, 0.5)", "jsd")
    numbers = {
        "V* + log 4 where q = p": same.value + LOG_4,
        "V* + log 4 where q is beside p": beside.value + LOG_4,
        "JSD of the best single normal for two modes": two.divergence,
    }
    holds = abs(same.value + LOG_4) < 1e-9 and beside.value + LOG_4 > 0.01 and two.divergence > 0.01
    return Finding(
        numbers,
        holds,
        f"V* = −log 4 at q = p and above it elsewhere; the best single normal for two modes keeps JSD = {two.divergence:.4f} nats.",
    )


def least_squares() -> Finding:
    """Both sides for a trained autoencoder."""
    model = require(autoencoder(), Encoder, to="encode")
    x = lines().data(IMAGES).test.x
    with torch.no_grad():
        x_hat = model.decode(model.encode(x)).mean  # type: ignore[attr-defined]
    found = squared_error(x.double(), x_hat)
    numbers = found.to_json() | {"9/2 · log π": 4.5 * math.log(math.pi)}
    holds = found.off < 1e-10 and abs(found.constant - 4.5 * math.log(math.pi)) < 1e-12
    return Finding(
        numbers,
        holds,
        f"‖x − x̂‖² = {numbers['squared_error']:.6f}, −log N = {numbers['nats']:.6f}: they differ by 9/2 · log π = {found.constant:.6f} for every image.",
    )


# Where notes slip -------------------------------------------------------------------------------------------------------------


def no_density() -> Finding:
    """What the class of a plain autoencoder can tell, beside a GAN's."""
    names = {name: capabilities(catalog.get(name)) for name in ("autoencoder", "gan", "vae")}
    try:
        require(autoencoder(), Sampler, to="draw images")
        refused = ""
    except CapabilityError as error:
        refused = str(error)
    holds = "Sampler" not in names["autoencoder"] and "Sampler" in names["gan"] and bool(refused)
    holds = holds and not {"ExactLikelihood", "LowerBound"} & set(names["autoencoder"])
    numbers = {f"{name} tells": ", ".join(told) for name, told in names.items()} | {"asked for samples it says": refused}
    return Finding(
        numbers,
        holds,
        "An implicit density can be sampled and not evaluated, as a GAN's. A plain autoencoder can do neither: it has no prior over z.",
    )


def deterministic() -> Finding:
    """One code for an image, however often it is asked for, and it is no whole number."""
    model = require(autoencoder(), Encoder, to="encode")
    x = lines().data(IMAGES).test.x.unique(dim=0)
    with torch.no_grad():
        first, again = model.encode(x), model.encode(x, sample=True, seed=7)
        drawn = [vae().encode(x, sample=True, seed=s) for s in (0, 1)]
    off, moved = float((first - again).abs().max()), float((drawn[0] - drawn[1]).abs().mean())
    whole = int((first == first.round()).sum())
    numbers = {
        "difference of two encodings, autoencoder": off,
        "mean difference of two draws of q(z|x), VAE": moved,
        "different images": len(x),
        "different codes": len(first.unique(dim=0)),
        "whole numbers among them": whole,
    }
    holds = off == 0 and moved > 0 and len(first.unique(dim=0)) == len(x) and whole < 0.05 * first.numel()
    codes = f"{len(x)} images have {len(first.unique(dim=0))} codes"
    said = f"Encoded twice, z differs by {off:g}; {codes}, of real numbers: deterministic and continuous. Discrete is something else."
    return Finding(numbers, holds, said)


def dropped_term() -> Finding:
    """KL(q ‖ p(z|x)) of several images."""
    found = [d.kl_posterior for d in taken_apart()]
    off = max(abs(d.residual) for d in taken_apart())
    numbers = {
        "KL(q ‖ p(z|x)) of six images, nats": [round(v, 6) for v in found],
        "least": min(found),
        "largest": max(found),
        "residual of the identity": off,
    }
    holds = min(found) >= -1e-9 and off < 1e-6
    span = f"Between {min(found):.4f} and {max(found):.4f} nats"
    said = f"{span}: at least 0. It is dropped because it cannot be negative, so that what is left is a bound."
    return Finding(numbers, holds, said)


def prior_samples() -> Finding:
    """How far a decoded image is from x, where z comes from q(z|x), and where it comes from the prior."""
    x, model = lines().x, vae()
    with torch.no_grad():
        back = model.decode(model.encode(x)).mean
        free = model.decode(Noise(0, torch.arange(400)).normal("z", model.latent_dims).double()).mean
    near = float((back - x).abs().flatten(1).sum(1).mean())
    far = float((free[None] - x[:, None]).abs().flatten(2).sum(2).mean())
    numbers = {"pixels away from x, z ~ q(z|x)": near, "pixels away from x, z ~ N(0, I)": far}
    return Finding(
        numbers,
        near < 0.8 * far,
        f"A reconstruction is {near:.2f} pixels away from its image, a sample of the prior {far:.2f}: it was never told of x.",
    )


def last_step() -> Finding:
    """The training loss of a VAE, and the bound at the same ε: no pixel is drawn between them."""
    model, x = vae(), lines().x
    noise = Noise(3, torch.arange(len(x)))
    (objective,) = model.objectives()
    with evaluating(model), torch.enable_grad():
        loss, _ = objective.loss(model.batch(x), Context(0, 1.0, noise, extended=True))
        model.zero_grad(set_to_none=True)
        loss.backward()
    slope = math.sqrt(sum(float((p.grad**2).sum()) for p in model.parameters() if p.grad is not None))
    model.zero_grad(set_to_none=True)
    epsilon = noise.normal("z", 1, model.latent_dims).transpose(0, 1).double()
    with torch.no_grad():
        bound = float(model.bound_at(x, epsilon).elbo.mean())
        drawn = require(model, Sampler, to="draw").sample(2)
    off = abs(float(loss.detach()) * model.dims + bound)
    numbers = {
        "loss of training · pixels, nats": float(loss.detach()) * model.dims,
        "−L at the same ε": -bound,
        "difference": off,
        "norm of the gradient": slope,
        "a draw": f"{str(drawn.dtype).removeprefix('torch.')}, no gradient",
    }
    holds = off < 1e-9 and slope > 0 and not drawn.requires_grad
    said = f"The loss is −L at its ε, within {off:.0e} nats: log p(x|z) of the pixels that are there. No pixel is drawn; a draw has no gradient."
    return Finding(numbers, holds, said)


# Panels -------------------------------------------------------------------------------------------------------------------------


def bins() -> Finding:
    """Sums of bins over a range of means and scales."""
    cases = [(m, s) for m in (-500.0, 0.0, 100.3, 255.0, 2000.0) for s in (1e-3, 0.3, 5.0, 80.0, 1e4)]
    off = max(abs(mixture([m, 60.0], [s, 4.0], [0.7, 0.3]).total - 1) for m, s in cases)
    return Finding(
        {"mixtures": len(cases), "largest |Σ − 1|": off},
        off < 1e-12,
        f"256 bins of {len(cases)} mixtures sum to 1 within {off:.0e}, also with a mean of 2000 or a scale of 10,000.",
    )


@cache
def jacobian_of_a_line() -> tuple[Tensor, Influence]:
    """An image of 3×3 lines, and what its middle pixel depends on under a small trained PixelCNN."""
    model = taught("pixelcnn", lines().data(IMAGES), steps=60, lr=5e-3)
    x = lines().x[4:5]
    return x, influence(model, x, 1, 1)


def masks() -> Finding:
    """Derivatives outside of the past, and what a stack of masked convolutions cannot see."""
    _, found = jacobian_of_a_line()
    space = ImageSpace(1, 15, 15, levels=2)
    models = {name: catalog.get(name)(space, layers=9, channels=4) for name in ("pixelcnn", "gated-pixelcnn")}  # type: ignore[call-arg]
    blind = {name: int(receptive_field(model, 9, 7).blind.sum()) for name, model in models.items()}
    numbers = {
        "largest |J| outside of the past": found.outside,
        "past pixels with J ≠ 0": int((found.seen & found.past).sum()),
        "past pixels": int(found.past.sum()),
    } | {f"past pixels that {name} cannot see, 15×15": count for name, count in blind.items()}
    holds = found.outside == 0 and bool(found.seen.any()) and blind["pixelcnn"] > blind["gated-pixelcnn"]
    unseen = (
        f"In 15×15 images a PixelCNN of 9 blocks is blind to {blind['pixelcnn']} past pixels, a Gated PixelCNN to {blind['gated-pixelcnn']}"
    )
    said = f"Outside of the past the derivative is exactly {found.outside:g}. {unseen}."
    return Finding(numbers, holds, said)


def held_fixed() -> Finding:
    """Both gradients of one expectation."""
    found = reparameterization()
    flat = {
        "∂/∂μ by the path, quadrature": float(found.path[0]),
        "∂/∂μ by the score, quadrature": float(found.score[0]),
        "∂/∂σ by the path, quadrature": float(found.path[1]),
        "∂/∂σ by the score, quadrature": float(found.score[1]),
        "largest difference": found.off,
    }
    return Finding(
        flat,
        found.off < 1e-8,
        f"With ε held fixed z = μ + σε is smooth in μ and σ; the mean of f′ is the gradient of the mean, within {found.off:.0e}.",
    )


def every_cell() -> Finding:
    """The tables of 2×2."""
    found = bayes_tables((0.3, 0.7))
    rows, columns = float((found.p_y_given_x.sum(1) - 1).abs().max()), float((found.p_x_given_y.sum(0) - 1).abs().max())
    numbers = {
        "cells": found.joint.numel(),
        "|p(x|y) p(y) − p(y|x) p(x)|, largest": found.off,
        "rows off 1": rows,
        "columns off 1": columns,
    }
    return Finding(
        numbers, max(found.off, rows, columns) < 1e-12, f"{found.joint.numel()} cells agree within {found.off:.0e}. {found.cell(12, 0)}"
    )
