"""The games that a critic and a generator play: what each minimises, from the critic's outputs alone.

With r = f(x) for real x, f̂ = f(G(z)) for generated ones, D = σ(f), γ, λ ≥ 0:

    name            critic minimises                              generator minimises        source
    Minimax         −E log D(x) − E log(1 − D(G(z)))              E log(1 − D(G(z)))         Goodfellow et al. 2014, eq. 1
    NonSaturating   the same                                      −E log D(G(z))             Goodfellow et al. 2014, §3
    LeastSquares    ½E(r − 1)² + ½E f̂²                            ½E(f̂ − 1)²                 Mao et al. 2017, eq. 2 and 9
    Hinge           E(1 − r)₊ + E(1 + f̂)₊                         −E f̂                       Lim and Ye 2017; Miyato et al. 2018
    Wasserstein     E f̂ − E r, weights clipped                    −E f̂                       Arjovsky et al. 2017
    WassersteinGP   E f̂ − E r + λ E(‖∇f(x̃)‖ − 1)²                −E f̂                       Gulrajani et al. 2017, eq. 3
    Relativistic    E softplus(f̂ − r) + ½(γ₁ R1 + γ₂ R2)            E softplus(r − f̂)          Jolicoeur-Martineau 2019; Huang et al. 2024 (R3GAN), eq. 2

log D(x) = −softplus(−r) and log(1 − D) = −softplus(f̂): finite, with a gradient, at any logit. x̃ = u x + (1 − u) G(z) with one u ~ U(0, 1) per image;
R1 = E‖∇f(x)‖² over reals, R2 over generated images (Mescheder et al. 2018). Norms are over all numbers of an image, one per image, and ε stands
under the root. A loss also states how often its critic moves, and its optimizer: that of the paper, unless a comment says otherwise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pofx.errors import InputError
from pofx.model import OptimizerSpec

EPSILON = 1e-12  # under the root of a norm, where the root has no slope


def squared_slopes(critic: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """‖∇f(x)‖² of each image, `(n, …)` → `(n,)`, with a gradient by the critic's weights."""
    x = x.detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return slope.square().flatten(1).sum(1)


@dataclass(frozen=True)
class Turn:
    """One turn of the critic.

    Attributes:
        loss: without the penalty, a scalar; `−loss` estimates what the critic maximises (V of a logistic loss, a distance of a transport loss).
        penalty: a scalar, or None.
        real, fake: its outputs, `(n,)`.
    """

    loss: Tensor
    penalty: Tensor | None
    real: Tensor
    fake: Tensor

    @property
    def total(self) -> Tensor:
        return self.loss if self.penalty is None else self.loss + self.penalty


@dataclass(frozen=True)
class Loss(ABC):
    """A game. `real` and `fake` are the critic's outputs, `(n,)`, unitless: logits, where D = σ(f)."""

    steps: ClassVar[int] = 1  # of the critic for one of the generator
    optimizer: ClassVar[OptimizerSpec] = OptimizerSpec("Adam", lr=2e-4, betas=(0.5, 0.999), schedule="constant", warmup=0.0)
    refuses: ClassVar[dict[str, str]] = {}  # normalisations that its critic cannot have, with the reason

    @abstractmethod
    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """What the critic minimises, without the penalty: a scalar."""

    @abstractmethod
    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        """What the generator minimises: a scalar. Only a relative loss looks at `real`."""

    needs_real: ClassVar[bool] = False  # whether `generator` does
    only_differences: ClassVar[bool] = False  # a number added to all outputs of the critic changes nothing: it needs no bias
    dies: ClassVar[bool] = False  # the generator's gradient dies where the critic is certain

    def smoothness(self, critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, u: Tensor) -> Tensor | None:
        """The penalty that is added to the critic's loss, from images `(n, …)` and uniform numbers `(n,)`; a scalar, or None. A hook."""
        return None

    def against(self, critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, u: Tensor, *, apart: bool = False) -> Turn:
        """The critic's whole turn on images `(n, …)`. `apart`: real and generated ones do not share a batch (BatchNorm). A hook for losses
        that can share work between the two terms."""
        r, f = (critic(real), critic(fake)) if apart else critic(torch.cat([real, fake])).chunk(2)
        return Turn(self.critic(r, f), self.smoothness(critic, real, fake, u), r, f)

    def after(self, critic: nn.Module) -> None:  # noqa: B027 (a hook)
        """What is done to the critic after its step."""

    @final
    @property
    def constrains(self) -> bool:
        """It has something to do after a step."""
        return type(self).after is not Loss.after


def _at_least_zero(loss: Loss, **numbers: float) -> None:
    for name, value in numbers.items():
        if not value >= 0:
            raise InputError(f"{type(loss).__name__}({name}={value}): it must be at least 0, e.g. --loss.{name} 0")


@dataclass(frozen=True)
class Logistic(Loss, ABC):
    """D = σ(f) tells real from generated: maximises V = E log D(x) + E log(1 − D(G(z))).

    Args:
        smoothing: one-sided label smoothing s (Salimans et al. 2016, §3.4): reals are called real with 1 − s only, so that
            D* = (1 − s) p / (p + q).
    """

    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 0.5:
            raise InputError(f"{type(self).__name__}(smoothing={self.smoothing}): it must be in [0, 0.5), e.g. --loss.smoothing 0.1")

    @final
    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        certain = F.softplus(-real).mean() + F.softplus(fake).mean()
        # −(1−s) log D − s log(1−D) = softplus(−r) + s r
        return certain + self.smoothing * real.mean() if self.smoothing else certain


@dataclass(frozen=True)
class Minimax(Logistic):
    """The game as it is analysed: the generator's gradient vanishes where the critic is certain.

    >>> round(float(Minimax().critic(torch.zeros(1), torch.zeros(1))), 6)  # −V at D = 1/2
    1.386294
    """

    dies: ClassVar = True

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        return -F.softplus(fake).mean()


@dataclass(frozen=True)
class NonSaturating(Logistic):
    """The game as it is played: the same critic, and a generator that maximises log D(G(z))."""

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(-fake).mean()


@dataclass(frozen=True)
class LeastSquares(Loss):
    """Targets 1 and 0 by least squares: at the critic's optimum a Pearson χ² divergence."""

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        return 0.5 * ((real - 1).square().mean() + fake.square().mean())

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        return 0.5 * (fake - 1).square().mean()


@dataclass(frozen=True)
class Hinge(Loss):
    """A margin between real and generated: what lies beyond it pulls no more."""

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        return -fake.mean()


@dataclass(frozen=True)
class Transport(Loss, ABC):
    """sup over Lipschitz f of E f(x) − E f(G(z)): the Wasserstein-1 distance."""

    steps: ClassVar = 5
    only_differences: ClassVar = True

    @final
    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        return fake.mean() - real.mean()

    @final
    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        return -fake.mean()


@dataclass(frozen=True)
class Wasserstein(Transport):
    """Lipschitz by clipping every weight of the critic to [−clip, clip]: crude, as its authors say.

    Args:
        clip: the largest weight.
    """

    optimizer: ClassVar = OptimizerSpec("RMSprop", lr=5e-5, schedule="constant", warmup=0.0)

    clip: float = 0.01

    def __post_init__(self) -> None:
        if not self.clip > 0:
            raise InputError(f"Wasserstein(clip={self.clip}): weights are clipped to a positive number, e.g. --loss.clip 0.01")

    @torch.no_grad()
    def after(self, critic: nn.Module) -> None:
        for p in critic.parameters():
            p.clamp_(-self.clip, self.clip)


def _some(share: float, *images: Tensor) -> list[Tensor]:
    """The first `share` of each, one image at least."""
    return [x[: max(1, round(share * len(x)))] for x in images]


def _check_share(loss: Loss, share: float) -> None:
    if not 0 < share <= 1:
        raise InputError(f"{type(loss).__name__}(share={share}): it must be in (0, 1], e.g. --loss.share 0.25")


_MIXES = "its penalty is on the slope at each image, and {} makes an image's output depend on the others of its batch"


@dataclass(frozen=True)
class WassersteinGP(Transport):
    """Lipschitz by a penalty on slopes that are not 1, between real and generated images.

    Args:
        penalty: λ.
        share: of a batch's images, at which slopes are taken: fewer are cheaper, and as right on average.
    """

    optimizer: ClassVar = OptimizerSpec("Adam", lr=1e-4, betas=(0.0, 0.9), schedule="constant", warmup=0.0)
    refuses: ClassVar = {"batch": _MIXES.format("BatchNorm") + " (Gulrajani et al. 2017, §4)"}

    penalty: float = 10.0
    share: float = 1.0

    def __post_init__(self) -> None:
        _at_least_zero(self, penalty=self.penalty)
        _check_share(self, self.share)

    def smoothness(self, critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, u: Tensor) -> Tensor | None:
        if not self.penalty:
            return None
        real, fake, u = _some(self.share, real, fake, u)
        u = u.reshape(-1, *[1] * (real.ndim - 1))
        slope = (squared_slopes(critic, u * real + (1 - u) * fake) + EPSILON).sqrt()
        return self.penalty * (slope - 1).square().mean()


@dataclass(frozen=True)
class Relativistic(Loss):
    """The critic says which of a pair is real, and its slopes are held down at real and at generated images: locally convergent.

    Args:
        r1: γ of R1, on the slope at real images, whose pixels are on [−1, 1].
        r2: γ of R2, at generated ones.
        share: of a batch's images, at which slopes are taken: fewer are cheaper, and as right on average; 1 in the paper.
    """

    optimizer: ClassVar = OptimizerSpec("Adam", lr=1e-3, betas=(0.0, 0.99), schedule="cosine", warmup=0.0)  # 2e-4 in the paper
    refuses: ClassVar = {"batch": _MIXES.format("BatchNorm") + " (Huang et al. 2024, §3)"}
    needs_real: ClassVar = True
    only_differences: ClassVar = True

    r1: float = 1.0
    r2: float = 1.0
    share: float = 0.25

    def __post_init__(self) -> None:
        _at_least_zero(self, r1=self.r1, r2=self.r2)
        _check_share(self, self.share)

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(fake - real).mean()

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(real - fake).mean()

    def smoothness(self, critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, u: Tensor) -> Tensor | None:
        held = [
            gamma / 2 * squared_slopes(critic, x).mean()
            for gamma, x in zip((self.r1, self.r2), _some(self.share, real, fake), strict=True)
            if gamma
        ]
        return torch.stack(held).sum() if held else None

    def against(self, critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, u: Tensor, *, apart: bool = False) -> Turn:
        if self.share < 1 or not (self.r1 and self.r2):
            return super().against(critic, real, fake, u, apart=apart)
        # The slopes come from the pass that the loss needs anyway
        x = torch.cat([real, fake]).detach().requires_grad_(True)
        out = critic(x)
        r, f = out.chunk(2)
        (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        at_real, at_fake = slope.square().flatten(1).sum(1).chunk(2)
        return Turn(self.critic(r, f), 0.5 * (self.r1 * at_real.mean() + self.r2 * at_fake.mean()), r, f)
