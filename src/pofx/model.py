"""READ FIRST. What a model is, and what it can honestly tell.

A model is a distribution over images of small integers. `x` at every boundary is uint8 `(n, C, H, W)` with values in
{0 … levels−1}; scaling lives inside. What a model can tell is a *type*, never a flag:

    Sampler          x ~ p(x)                        all but classifiers and plain autoencoders
    ExactLikelihood  log p(x)                        autoregressive
    Autoregressive   log p(x_i | x_<i), one group of sub-pixels at a time
    LowerBound       E_q[log p(x,z) − log q(z|x)] ≤ log p(x)      variational
    Encoder, Decoder z of x, and x of z              autoencoder, VAE; a GAN decodes only
    LatentVariable   all three: z ~ N(0, I), a Gaussian q(z|x), and the parts of the bound
    Codable          an explicit model in integers, alike on every machine: RangeCoded (autoregressive) or BitsBack (variational)
    Features         a vector for a supervised model to start from
    Critic           realism, unitless               adversarial
    Labeler          log p(y | x)                    discriminative, and Bayes over p(x | y)

All nats. log_prob ≤ 0; a `Score` holds the cost −log p ≥ 0, in nats, so that bits/dim = nats / (dims · ln 2).
Tasks ask for capabilities and never for a concrete model; training asks for `objectives()`.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self, TypeVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pofx.errors import CapabilityError, InputError
from pofx.noise import Noise
from pofx.numbers import SIGNS
from pofx.space import ImageSpace
from pofx.views import View

Kind = Literal["exact", "lower bound", "estimate"]
Progress = Callable[[int, int], None]  # (done, total)

M = TypeVar("M", bound="ImageModel")

SAMPLE_CHUNK = 256  # images drawn at once: bounds the memory of any n


@dataclass(frozen=True)
class Score:
    """The cost of images under a model, with its kind.

    Attributes:
        nats: `(n,)`, −log p(x | given) or what stands for it. A "lower bound" bounds log p from below, the cost from above.
        kind: how honest the number is; printed as =, ≤ or ≈.
        dims: sub-pixels that were paid for (known ones are not); int64 `(n,)` where the view knows other pixels of each image.
        given: the view that was known, or None; scores with and without are never put in one column.

    >>> Score(torch.tensor([8 * math.log(2)]), "exact", dims=8).bits_per_dim.round(decimals=3)
    tensor([1.])
    """

    nats: Tensor
    kind: Kind
    dims: int | Tensor
    given: View | None = None

    @property
    def bits_per_dim(self) -> Tensor:
        return self.nats / (self.dims * math.log(2))

    @property
    def sign(self) -> str:
        """How the *cost* relates to the true one: a lower bound on log p is an upper bound on the cost."""
        return SIGNS[self.kind]


@dataclass(frozen=True)
class LabelScore:
    """log p(y | x): `(n, classes)` nats, and its kind."""

    log_prob: Tensor
    kind: Kind


@dataclass(frozen=True)
class Batch:
    """What a loss sees: `x` uint8 `(n, C, H, W)`, `y` int64 `(n,)` (or what else the view reads) or None, and the view's value or None."""

    x: Tensor
    y: Tensor | None = None
    given: Tensor | None = None


def _alone(tensor: Tensor) -> Tensor:
    """The sum over one process."""
    return tensor


@dataclass(frozen=True)
class Context:
    """Where training stands: `step` from 0, `progress` in [0, 1) of the budget in hand, and the noise of this step, keyed by image.

    `extended`: the budget in hand was added to a run that had come to its end; what is warmed up at the start of a run is warm.
    `share`: of the images of the step, those that this process holds; `total` sums a tensor over the processes.
    `shared`: what one player of the step leaves for those who move after it; each step begins with none.
    """

    step: int
    progress: float
    noise: Noise
    extended: bool = False
    share: float = 1.0
    total: Callable[[Tensor], Tensor] = _alone
    shared: dict[str, Tensor] = field(default_factory=dict)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all images of the step, of `(n, …)` for those that are here: `(…)`. A loss that is not linear in a mean over its batch
        takes that mean by this; losses of processes are averaged, and its gradient is such that the average is the gradient of the whole.

        >>> Context(0, 0.0, Noise(0, torch.arange(2))).mean(torch.tensor([1.0, 2.0]))
        tensor(1.5000)
        """
        here = values.mean(0)
        if self.share == 1:
            return here
        return here + (self.total(here.detach() * self.share) - here.detach())

    def mean_of(self, values: Tensor, chosen: Tensor) -> Tensor:
        """The mean over the chosen images of the step: of `(k,)` for those of `chosen` bool `(n,)` that are here; 0 where none is chosen.

        >>> Context(0, 0.0, Noise(0, torch.arange(3))).mean_of(torch.tensor([1.0, 2.0]), torch.tensor([True, False, True]))
        tensor(1.5000)
        """
        each = values.new_zeros(len(chosen)).masked_scatter(chosen, values)
        return self.mean(each) / self.mean(chosen.to(values.dtype)).clamp(min=1e-12)


OptimizerName = Literal["Muon", "AdamW", "Adam", "RMSprop", "SGD"]


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer by its name in `torch.optim`, or "Muon" (`training/optimizers.py`), with warm-up (share of all steps) and a schedule."""

    name: OptimizerName = "AdamW"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.02


@dataclass(frozen=True)
class Objective:
    """One player of the training game: which parameters go downhill on which loss, and how.

    Attributes:
        name: shown in logs; unique within a model.
        parameters: the module whose parameters this objective moves.
        loss: `(batch, context) → (scalar, logs)`; `logs` are scalars, among them `bits_per_dim` where the loss is one.
        every: run on each `every`-th step (a generator that moves once per five critic steps has 5).
        clip: largest gradient norm, or None.
        after: called when the step has been made (weight clipping).
        slow: a module within `parameters`, and the factor of the learning rate that it learns at.
    """

    name: str
    parameters: nn.Module
    loss: Callable[[Batch, Context], tuple[Tensor, dict[str, Tensor]]]
    every: int = 1
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    clip: float | None = 1.0
    after: Callable[[], None] | None = None
    slow: tuple[nn.Module, float] | None = None

    def due(self, step: int) -> bool:
        """Whether this player moves in step number `step`, from 0."""
        return (step + 1) % self.every == 0


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch a module to evaluation (BatchNorm by its stored statistics), and back."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


@contextmanager
def requiring(module: nn.Module) -> Iterator[None]:
    """Let all parameters of a module require gradients, no matter whose turn it is, and record what is done with them."""
    still = [p for p in module.parameters() if not p.requires_grad]
    for p in still:
        p.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for p in still:
            p.requires_grad_(False)


@contextmanager
def one_thread() -> Iterator[None]:
    """For steps of sampling: they are many small operations, and waking a second thread for each costs more than it brings
    (2.5 times the time on two cores)."""
    with _threads(1):
        yield


@contextmanager
def all_threads() -> Iterator[None]:
    """Within `one_thread`, for a piece of work that is worth waking the others: a row, a group."""
    with _threads(max(_before)) if _before else nullcontext():
        yield


_before: list[int] = []  # the numbers of threads that `_threads` will go back to


@contextmanager
def _threads(number: int) -> Iterator[None]:
    _before.append(torch.get_num_threads())
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(_before.pop())


class ImageModel(nn.Module, ABC):
    """Base of every model. `__init__` stores its arguments unchanged under their names: they ARE the configuration.

    Args:
        space: what images may be.
        given: the view that the model conditions on; None for p(x).
    """

    family: ClassVar[tuple[str, ...]]  # its place in the taxonomy, e.g. ("explicit", "tractable", "autoregressive")
    paper: ClassVar[str]
    smallest: ClassVar[tuple[int, int]] = (1, 1)  # (height, width)
    accepts_levels: ClassVar[tuple[int, int]] = (2, 256)  # fewest and most
    refuses: ClassVar[dict[type[View], str]] = {}  # views it cannot condition on, with the reason
    younger: ClassVar[tuple[str, ...]] = ()  # tensors that runs of older versions lack; they then stay as a fresh model has them
    batch_size: int = 64  # images per training step, where none is asked for and there are enough
    origin: tuple[str, str] | None = None  # the run that `load_model` read, and the hash of its weights; None of a model that was made anew

    def __init__(self, space: ImageSpace, given: View | None = None) -> None:
        super().__init__()
        name = type(self).__name__
        if space.height < self.smallest[0] or space.width < self.smallest[1]:
            raise InputError(f"{name} needs images of at least {self.smallest[0]}×{self.smallest[1]}, found {space.height}×{space.width}.")
        fewest, most = self.accepts_levels
        if not fewest <= space.levels <= most:
            raise InputError(f"{name} takes {fewest} … {most} levels, found {space.levels}. Convert the images with --levels {most}.")
        if given is not None:
            for view, reason in self.refuses.items():
                if isinstance(given, view):
                    raise InputError(f"{name} cannot take given={type(given).__name__}: {reason}")
            given.check_space(space)
        self.space = space
        self.given = given

    @classmethod
    @abstractmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Self:
        """A tiny instance (≤ 50 k parameters) for tests."""

    @abstractmethod
    def objectives(self) -> Sequence[Objective]:
        """What training minimises; the same objects' names on every call."""

    def initialise(self, batch: Batch) -> None:
        """Data-dependent initialisation; runs once, before the first step, on one batch. A hook: the default does nothing."""

    def settle(self, batches: Iterator[Batch]) -> None:
        """Set statistics of the training images that are stored with the weights. Called on averaged weights before they are measured and
        kept, with batches of training images, of which it takes what it needs; it must not depend on earlier calls. A hook: the default does nothing."""

    def calibrate(self, batches: Iterator[Batch]) -> None:
        """Fit what must not be fitted on training images, such as a temperature; it is stored with the weights. Called after `settle`, with
        batches of validation images; it must not depend on earlier calls. A hook: the default does nothing."""

    def diagnose(self, logs: Mapping[str, float]) -> dict[str, str]:
        """What ails a training, by the means of the logs since the last row: the name of each trouble, and a sentence with advice. A hook."""
        return {}

    @final
    def config(self) -> dict[str, Any]:
        """The arguments that made this model, by name."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @final
    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @final
    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @final
    @property
    def dims(self) -> int:
        """Sub-pixels that cost something: all but those the view makes known; of a view that `varies`, the most that may."""
        return self.space.dims if self.given is None else self.given.dims(self.space)

    @final
    def dims_of(self, given: Tensor | None) -> int | Tensor:
        """Sub-pixels that cost something: one number for all images, or int64 `(n,)` where the view knows other pixels of each."""
        return self.space.dims if self.given is None else self.given.dims_of(self.space, given)

    @final
    def check_given(self, given: Any, n: int) -> Tensor | None:
        """The view's value for n images on this model's device, checked; None for an unconditional model."""
        if self.given is None:
            if given is not None:
                raise InputError(f"This {type(self).__name__} is p(x): it was made without given=. Train one with e.g. --given label.")
            return None
        if given is None:
            raise InputError(f"This {type(self).__name__} is p(x | {self.given.name}): pass given=, a value of {self.given}.")
        return self.given.check(given, n, self.space).to(self.device)

    @final
    def check_pair(self, x: Tensor, given: Any) -> tuple[Tensor, Tensor | None]:
        """Images and the view's value, checked alone and against each other, on this model's device.

        Raises:
            InputError: a known sub-pixel of x is not what the view says: p(x | given) would be 0.
        """
        x = self.space.check(x).to(self.device)
        value = self.check_given(given, x.shape[0])
        known = self.known(value)
        if known is not None and value is not None and self.given is not None:
            wrong = ((x != self.given.fill(value, self.space)) & known).flatten(1).any(1)
            if bool(wrong.any()):
                at = int(wrong.nonzero()[0])
                raise InputError(
                    f"Image {at} contradicts its given={self.given}: they differ in pixels that the view makes known. Use model.batch(x, y).given."
                )
        return x, value

    @final
    def known(self, given: Tensor | None = None) -> Tensor | None:
        """Sub-pixels that the view fixes, bool on this model's device: `(C, H, W)`, `(n, C, H, W)` where they depend on its value, or None."""
        known = None if self.given is None else self.given.known(self.space, given)
        return None if known is None else known.to(self.device)

    @final
    def unknown_sum(self, nats: Tensor, given: Tensor | None = None) -> Tensor:
        """Sum `(n, C, H, W)` over the sub-pixels that cost something: `(n,)`. `given`: the view's value."""
        known = self.known(given)
        return (nats if known is None else nats.masked_fill(known, 0)).flatten(1).sum(1)

    @final
    def copy_known(self, x: Tensor, given: Tensor | None) -> Tensor:
        """`x` uint8 `(n, C, H, W)` with the known sub-pixels put in their places, bit for bit."""
        if given is None or self.given is None or (known := self.known(given)) is None:
            return x
        return torch.where(known, self.given.fill(given, self.space), x)

    @final
    def batch(self, x: Tensor, y: Tensor | None = None, noise: Noise | None = None) -> Batch:
        """Check images and labels, compute the view's value, and move all to this model's device. `noise`: of a training step, for views
        that are drawn at random; without any they are a fixed draw."""
        x = self.space.check(x)
        given = None if self.given is None else self.given.value(x, y, noise).to(self.device)
        return Batch(x.to(self.device), None if y is None else y.to(self.device), given)


class Sampler(ImageModel):
    """True draws from the model."""

    draw_batch: ClassVar[int | None] = None  # one fixed shape for `draw`, so that float32 rounds alike for any n; None: as many as asked

    @abstractmethod
    def draw(self, given: Tensor | None, noise: Noise, progress: Progress | None) -> Tensor:
        """One image per entry of `noise`, uint8 `(n, C, H, W)`; `given` is checked already."""

    @final
    def samples(self, n: int, given: Any = None, *, seed: int = 0, first: int = 0, progress: Progress | None = None) -> Iterator[Tensor]:
        """Like `sample`, in chunks of at most SAMPLE_CHUNK images, so that memory stays bounded for any n."""
        if n < 1:
            raise InputError(f"n={n}: ask for at least one sample, e.g. n=16.")
        if not 0 <= first < 2**62 - n:
            raise InputError(f"first={first}: images are numbered from 0; use e.g. first=0.")
        given = self.check_given(given, n)
        size = self.draw_batch or SAMPLE_CHUNK
        for start in range(0, n, size):
            stop = min(start + size, n)

            def report(done: int, total: int, start: int = start, size: int = stop - start) -> None:
                if progress is not None:
                    progress(start * total + done * size, n * total)

            end = stop if self.draw_batch is None else start + size
            with torch.inference_mode(), evaluating(self):
                part = None if given is None else given[torch.arange(start, end).clamp(max=stop - 1).to(given.device)]
                images = self.draw(part, Noise(seed, torch.arange(first + start, first + end)), report)
            yield images[: stop - start]

    @final
    def sample(self, n: int, given: Any = None, *, seed: int = 0, first: int = 0, progress: Progress | None = None) -> Tensor:
        """Draw n images: uint8 `(n, C, H, W)`, images first … first+n−1 of `seed`, whatever the batch.

        Args:
            given: the view's value for each image, or one for all; needed where the model is conditional.
            progress: called with (done, total) as work goes on.

        Raises:
            InputError: n < 1, or `given` missing, superfluous or wrong.
        """
        return torch.cat(list(self.samples(n, given, seed=seed, first=first, progress=progress)))


class ExactLikelihood(ImageModel):
    @abstractmethod
    def log_prob(self, x: Tensor, given: Any = None) -> Tensor:
        """log p(x | given), exactly: `(n,)` nats."""


class Steps(ABC):
    """An image set in the making: `distribution()` of the next group given all fixed ones, then `fix(values)`."""

    @abstractmethod
    def distribution(self) -> Tensor:
        """log p(next group | fixed): log-probabilities, `(n, sub-pixels of the group, levels)` nats."""

    @abstractmethod
    def fix(self, values: Tensor) -> None:
        """Set the next group to `values`, integers `(n, sub-pixels of the group)`."""

    def draw(self, u: Tensor) -> Tensor:
        """The values of the next group whose cumulative probability first exceeds `u`, `(n, sub-pixels)` in (0,1): int64. A hook for
        heads that need no table of all levels; it must say what this default says."""
        return inverse_cdf(self.distribution().double(), u)

    def fill(self, x: Tensor, rows: int) -> None:  # noqa: B027 (a hook)
        """Called first: take the first `rows` rows of images `x` uint8 `(n, C, H, W)` as they are, in one pass. Groups in them are
        still fixed, with the same values, and then cost nothing. A hook: by default they are stepped through."""


@dataclass(frozen=True)
class Predictive:
    """What a distribution said of each sub-pixel before it was seen, and what came: `(n, C, H, W)` nats each.

    Attributes:
        log_prob: log p(x_i | …).
        entropy, variance: mean and variance of −log p(X_i | …), X_i drawn from it. Both are 0 where the view knows the sub-pixel.
    """

    log_prob: Tensor
    entropy: Tensor
    variance: Tensor

    @property
    def excess(self) -> Tensor:
        """−log p(x_i | …) − H_i: how much more surprising than expected. Of images of the model itself its mean is 0."""
        return -self.log_prob - self.entropy

    def without(self, known: Tensor | None) -> Predictive:
        """The same with 0 at known sub-pixels, bool `(C, H, W)` or `(n, C, H, W)`."""
        if known is None:
            return self
        return Predictive(*(t.masked_fill(known, 0) for t in (self.log_prob, self.entropy, self.variance)))


class Autoregressive(ExactLikelihood, Sampler):
    """p(x) = ∏ p(x_i | x_<i). The product of the distributions read step by step equals `log_prob`."""

    @abstractmethod
    def conditional_log_prob(self, x: Tensor, given: Tensor | None) -> Tensor:
        """log p(x_i | x_<i) of every sub-pixel in one pass: `(n, C, H, W)` nats. `x` holds integers, as uint8 or, where a
        gradient by x is wanted (receptive fields), as floats; `given` is checked already."""

    @final
    def log_prob(self, x: Tensor, given: Any = None) -> Tensor:
        x, value = self.check_pair(x, given)
        return self.unknown_sum(self.conditional_log_prob(x, value), value)

    def predictive(self, x: Tensor, given: Tensor | None) -> Predictive:
        """What p(x_i | x_<i) expected of every sub-pixel, and what came; arguments as of `conditional_log_prob`. A hook for models that need
        one pass; it must say what this default says, which goes step by step."""
        n, groups = len(x), self.order()
        flat = torch.cat(groups)
        values = x.flatten(1).long()[:, flat].split([len(group) for group in groups], 1)
        found = torch.zeros(3, n, self.space.dims, dtype=self.dtype, device=self.device)
        steps = self.begin(n, given)
        for group, value in zip(groups, values, strict=True):
            log_p = steps.distribution()
            nats = torch.special.entr(log_p.exp())
            found[0, :, group] = log_p.gather(-1, value[..., None])[..., 0].to(self.dtype)
            found[1, :, group] = nats.sum(-1).to(self.dtype)
            second = (nats * -log_p.clamp(min=-1e4)).sum(-1)
            found[2, :, group] = (second - nats.sum(-1).square()).clamp(min=0).to(self.dtype)
            steps.fix(value)
        return Predictive(*found.reshape(3, n, *self.space.shape)).without(self.known(given))

    @final
    def nll(self, log_prob: Tensor, given: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a likelihood from its terms `(n, C, H, W)`: the mean cost in nats per dim, and for the log in bits/dim.

        Where the view knows other pixels of each image, the loss is over `dims`, so that every unknown sub-pixel weighs alike, and the log is
        the mean of what each image costs per unknown sub-pixel of its own."""
        nats = -self.unknown_sum(log_prob, given)
        return nats.mean() / self.dims, {"bits_per_dim": (nats.detach() / self.dims_of(given)).mean() / math.log(2)}

    @abstractmethod
    def order(self) -> list[Tensor]:
        """Groups of flat sub-pixel indices into (C, H, W), each group independent given the earlier ones."""

    def orders(self) -> list[list[Tensor]]:
        """Every order, as `order` gives it, in which each sub-pixel is drawn given earlier ones alone. A hook: by default `order()`."""
        return [self.order()]

    @abstractmethod
    def begin(self, n: int, given: Any = None) -> Steps:
        """Start n images from nothing."""

    @final
    def draw(self, given: Tensor | None, noise: Noise, progress: Progress | None) -> Tensor:
        return self.continue_(given, noise, progress)

    @final
    def continue_(
        self,
        given: Tensor | None,
        noise: Noise,
        progress: Progress | None = None,
        adjust: Callable[[Tensor], Tensor] | None = None,
        fixed: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Draw every unknown sub-pixel in order; known ones are copied, known first rows in one pass. `adjust` maps
        log-probabilities (then: not samples of p). `fixed`: further known sub-pixels, bool `(C, H, W)`, and images that hold them, uint8
        `(n, C, H, W)`. Draws are those of p(unknown | known) where no known sub-pixel follows an unknown one in one of `orders`."""
        with one_thread():
            return self._continue(given, noise, progress, adjust, fixed)

    @final
    def _continue(
        self,
        given: Tensor | None,
        noise: Noise,
        progress: Progress | None,
        adjust: Callable[[Tensor], Tensor] | None,
        fixed: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        n, space, groups = len(noise), self.space, self.order()
        flat, sizes = torch.cat(groups), [len(group) for group in groups]
        known = torch.zeros(1, space.dims, dtype=torch.bool)  # or (n, dims)
        x = torch.zeros(n, space.dims, dtype=torch.long, device=self.device)
        if self.given is not None and given is not None and (mask := self.given.known(space, given)) is not None:
            known, x = mask.reshape(-1, space.dims).cpu(), self.given.fill(given, space).flatten(1).long()
        if fixed is not None:
            mask, values = fixed[0].cpu().flatten(), fixed[1].to(self.device).flatten(1).long()
            known, x = known | mask, torch.where(mask.to(self.device), values, x)
        uniforms = noise.uniform("x", space.dims)[:, flat].to(self.device).split(sizes, 1)
        values = list(x[:, flat].split(sizes, 1))
        steps = self.begin(n, given)
        rows = known_rows(known, space)
        if rows:
            steps.fill(x.reshape(n, *space.shape), rows)
        for k, settled in enumerate(known[:, flat].split(sizes, 1)):
            if not bool(settled.all()):
                u = uniforms[k]
                drawn = steps.draw(u) if adjust is None else inverse_cdf(adjust(steps.distribution().double()), u)
                values[k] = torch.where(settled.to(x.device), values[k], drawn) if bool(settled.any()) else drawn
            steps.fix(values[k])
            if progress is not None:
                progress(k + 1, len(groups))
        x[:, flat] = torch.cat(values, 1)
        return x.to(torch.uint8).reshape(n, *space.shape)


def known_rows(known: Tensor, space: ImageSpace) -> int:
    """How many first rows are known of all images: of bool `(n, dims)`."""
    return int(known.all(0).reshape(space.shape).all(2).all(0).long().cumprod(0).sum())


def inverse_cdf(log_prob: Tensor, u: Tensor) -> Tensor:
    """The value whose cumulative probability first exceeds u: `(…, levels)` nats, `(…)` in (0,1) → int64 `(…)`."""
    cdf = log_prob.softmax(-1).cumsum(-1)
    return (u[..., None] * cdf[..., -1:] > cdf).sum(-1).clamp_(max=log_prob.shape[-1] - 1)


class CountingSteps(Steps):
    """Steps that have an integer form."""

    @abstractmethod
    def cumulative(self, v: Tensor | None = None) -> Tensor:
        """Of the next group: how much lies below levels `v` `(n, sub-pixels, m)`, or below each, 0 … levels, out of `integers.TOTAL`: int64
        `(n, sub-pixels, m)`, strictly increasing with v from 0. Asked under `integers.Integers`; alike on every machine, and what
        `RangeCoded.intervals` says."""


class Codable(ImageModel):
    """Written in the closed set of operations that has an integer form (`integers.py`): what an entropy coder asks for."""

    @abstractmethod
    def proof(self) -> None:
        """One full pass of an image through all networks that a coder runs, for `integers.Bounds` to follow."""


class RangeCoded(Codable, Autoregressive):
    """Sub-pixels one after the other, each by what the model says of it given the earlier ones."""

    @abstractmethod
    def intervals(self, x: Tensor, ends: Callable[[Tensor], Tensor]) -> Tensor:
        """How much lies below some levels of each sub-pixel, out of `integers.TOTAL`, given the earlier ones: int64 `(n, C, H, W, m)`, in one
        pass over `x` uint8 `(n, C, H, W)`. `ends` says which, of levels `(…)` int64: `(…, m)`. Asked under `integers.Integers`."""

    @abstractmethod
    def begin(self, n: int, given: Any = None) -> CountingSteps: ...


class LowerBound(ImageModel):
    @abstractmethod
    def elbo(self, x: Tensor, given: Any = None, *, samples: int = 1, seed: int = 0) -> Tensor:
        """E_q[log p(x,z|given) − log q(z|x)] ≤ log p(x|given), by `samples` draws of z: `(n,)` nats. Noise is keyed by the image itself."""

    @abstractmethod
    def log_prob_estimate(self, x: Tensor, given: Any = None, *, samples: int, seed: int = 0) -> Tensor:
        """log of the mean importance weight over `samples` draws (Burda et al. 2016): `(n,)` nats; a stochastic lower bound that grows with samples."""

    def of_label(self) -> LowerBound | None:
        """p(x | y), where the label y is one of the latents and p(x) the mean of p(x | y) over all of them. A hook: there is none."""
        return None


class Encoder(ImageModel):
    latent_dims: int

    @abstractmethod
    def encode(self, x: Tensor, given: Any = None, *, sample: bool = False, seed: int = 0) -> Tensor:
        """The code of x: `(n, d)`; the mean of q(z|x) unless a sample is asked for."""


class Decoder(ImageModel):
    latent_dims: int

    @abstractmethod
    def decode(self, z: Tensor, given: Any = None) -> Any:
        """p(x | z) for `z` `(n, latent_dims)`: a distribution with `.mean` `(n, C, H, W)` in 0 … levels−1, differentiable in z."""

    def first_layer(self, z: Tensor) -> Tensor | None:
        """What the first layer makes of codes before any nonlinearity: `(n, h)`, affine in z. A hook: None where there is no such layer."""
        return None

    def activations(self, z: Tensor, given: Any = None) -> Tensor:
        """Early activations at codes, `(n, h)`: where directions are looked for. A hook: by default E[x | z] itself."""
        return self.decode(z, given).mean.flatten(1)


LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Gaussian:
    """N(mean, diag e^log_variance): `(n, d)` each.

    >>> q = Gaussian(torch.ones(1, 2), torch.zeros(1, 2))
    >>> q.kl()
    tensor([[0.5000, 0.5000]])
    """

    mean: Tensor
    log_variance: Tensor

    def kl(self) -> Tensor:
        """KL(self ‖ N(0, I)) per dimension, `(n, d)` nats (Kingma and Welling 2014, appendix B)."""
        return 0.5 * (self.mean**2 + self.log_variance.exp() - 1 - self.log_variance)

    def sample(self, epsilon: Tensor) -> Tensor:
        """z = μ + σ ⊙ ε, `(…, n, d)`: differentiable in μ and σ."""
        return self.mean + torch.exp(0.5 * self.log_variance) * epsilon

    def log_prob(self, z: Tensor) -> Tensor:
        """log density of z `(…, n, d)`: `(…, n)` nats."""
        return -0.5 * ((z - self.mean) ** 2 * torch.exp(-self.log_variance) + self.log_variance + LOG_2PI).sum(-1)


@dataclass(frozen=True)
class Bound:
    """The parts of L(x) = E_q[log p(x|z)] − KL(q(z|x) ‖ p(z)).

    Attributes:
        log_likelihood: `(n,)` nats, E_q[log p(x | z, given)] by draws.
        kl: `(n, latent_dims)` nats, in closed form; of a hierarchical model given the draws above.
    """

    log_likelihood: Tensor
    kl: Tensor

    @property
    def elbo(self) -> Tensor:
        return self.log_likelihood - self.kl.sum(1)


class LatentVariable(LowerBound, Encoder, Decoder):
    """p(x) = ∫ p(x|z) N(z; 0, I) dz with a diagonal Gaussian q(z|x). z is `(n, latent_dims)`, all stochastic layers side by side;
    where the prior of a layer depends on those above, z is its standardised noise, so that N(0, I) always is the prior."""

    @abstractmethod
    def posterior(self, x: Tensor, given: Any = None) -> Gaussian:
        """q(z | x, given), `(n, latent_dims)`; of a hierarchical model each layer given the means of those above."""

    @abstractmethod
    def bound(self, x: Tensor, given: Any = None, *, samples: int = 1, seed: int = 0) -> Bound:
        """The bound in its parts, over `samples` draws of z. Noise is keyed by the image itself."""

    @abstractmethod
    def bound_at(self, x: Tensor, epsilon: Tensor, given: Any = None) -> Bound:
        """The bound in its parts, over the draws that follow from standard normal `epsilon` `(samples, n, latent_dims)`."""

    @final
    def elbo(self, x: Tensor, given: Any = None, *, samples: int = 1, seed: int = 0) -> Tensor:
        return self.bound(x, given, samples=samples, seed=seed).elbo


class BitsBack(Codable, LatentVariable):
    """A code that is drawn by bits that are there already, and given back with it (Townsend et al. 2019). `decode(z)` says, under
    `integers.Integers`, how much `cumulative` mass lies below each level, as of `likelihoods.PixelDistribution`."""

    @abstractmethod
    def infer_by(self, x: Tensor, draw: Callable[[Gaussian], Tensor]) -> Tensor:
        """The code of `x` uint8 `(n, C, H, W)`, `(n, latent_dims)`, where `draw` says z of each stochastic layer, `(n, d)`, given its q, the
        top one first. Asked under `integers.Integers`; alike on every machine."""


class Features(ImageModel):
    spatial: ClassVar[bool] = False  # whether a layer is a map over the image, which "NAME@k" averages over a k×k grid

    @property
    @abstractmethod
    def feature_layers(self) -> Sequence[str]:
        """Names that `features(layer=)` takes, shallow to deep."""

    @abstractmethod
    def features(self, x: Tensor, layer: str | None = None) -> Tensor:
        """A vector per image, `(n, d)`, for a supervised model or a metric."""

    @final
    def layer_index(self, layer: str | None, default: int = -1) -> int:
        """The position of a named layer, or of the default one; InputError where there is none of that name."""
        names = list(self.feature_layers)
        name, mark, grid = (layer or "").partition("@")
        if mark and not (self.spatial and grid.isdecimal() and int(grid)):
            raise InputError(f"layer={layer!r}: {self._layers()}")
        if not name:
            return range(len(names))[default]
        if name not in names:
            raise InputError(f"layer={layer!r}: {self._layers()}")
        return names.index(name)

    def _layers(self) -> str:
        some = self.feature_layers[-1]
        more = f" Pooled over a grid: {some}@4 (4×4), or @4 for the default layer." if self.spatial else ""
        return f"{type(self).__name__} has {', '.join(self.feature_layers)}.{more}"

    @final
    def pooled(self, h: Tensor, layer: str | None) -> Tensor:
        """A map `(n, F, H, W)` as the vector that `layer` asks for: averaged over the image `(n, F)`; "NAME@k" over each cell of a k×k grid,
        `(n, F·k²)`, at most one cell a place."""
        grid = int((layer or "").partition("@")[2] or 1)
        if grid == 1:
            return h.mean((2, 3))
        return F.adaptive_avg_pool2d(h, (min(grid, h.shape[2]), min(grid, h.shape[3]))).flatten(1)


class Critic(ImageModel):
    @abstractmethod
    def realism(self, x: Tensor, given: Any = None) -> Tensor:
        """The critic's logit, `(n,)`, unitless: higher is more like the training images. No likelihood."""


class Labeler(ImageModel):
    classes: int

    @abstractmethod
    def label(self, x: Tensor) -> LabelScore:
        """log p(y | x)."""

    def semi_supervised(self) -> bool:
        """Whether images without a label (y = −1) teach it something. A hook: they do not."""
        return False

    def fitted_temperature(self) -> float:
        """T of log p(y | x) = log softmax(logits / T), fitted on validation images. A hook: 1, nothing was fitted."""
        return 1.0


class ClassLikelihood(Labeler):
    """A labeler by Bayes' rule, which knows log p(x | y) of every class too."""

    @abstractmethod
    def class_log_prob(self, x: Tensor) -> LabelScore:
        """log p(x | y), or a bound or estimate of it: `(n, classes)` nats, in float64."""

    @abstractmethod
    def log_class_prior(self) -> Tensor:
        """log p(y), `(classes,)` nats: log p(y | x) = log p(x | y) + log p(y) − logsumexp over y."""


CAPABILITIES: dict[str, type[ImageModel]] = {
    c.__name__: c
    for c in (Sampler, ExactLikelihood, Autoregressive, Codable, LowerBound, Encoder, Decoder, LatentVariable, Features, Critic, Labeler)
}


def capabilities(model: ImageModel | type[ImageModel]) -> list[str]:
    """Names of what a model (or a class) can do.

    >>> from pofx.models.autoregressive.pixelcnn import PixelCNN
    >>> capabilities(PixelCNN)
    ['Sampler', 'ExactLikelihood', 'Autoregressive', 'Codable', 'Features']
    """
    cls = model if isinstance(model, type) else type(model)
    return [name for name, c in CAPABILITIES.items() if issubclass(cls, c)]


def require(model: ImageModel, *wanted: type[M], to: str) -> M:
    """`model` if it has one of the capabilities, else CapabilityError naming what it can give instead."""
    if isinstance(model, wanted):
        return model
    has = ", ".join(capabilities(model)) or "nothing yet"
    need = " or ".join(c.__name__ for c in wanted)
    extra = ""
    if isinstance(model, Critic) and ExactLikelihood in wanted:
        extra = " A GAN has no likelihood; use its samples (pofx sample) or pofx evaluate --features RUN."
    elif isinstance(model, Encoder) and not isinstance(model, LowerBound):
        extra = (
            " An autoencoder has no p(x): it encodes and decodes (pofx encode, pofx reconstruct). For more: pofx train vae DATA --out RUN"
        )
    raise CapabilityError(f"{type(model).__name__} cannot {to}: that needs {need}, and it has {has}.{extra}")
