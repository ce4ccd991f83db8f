"""The contract that any model must keep, usable by third parties: `check_model(model)`.

Mathematics first. On tiny spaces every image can be listed, so that "is a probability" is checked and not believed:
an exact model sums to one, a bound lies below the integral, samples follow the probabilities (chi-square), and causality is a
gradient that is exactly zero. Everything is float64 unless it says otherwise.

    >>> from pofx.models.autoregressive.pixelcnn import PixelCNN
    >>> from pofx.space import ImageSpace
    >>> "sums_to_one" in check_model(PixelCNN(ImageSpace(1, 3, 3, levels=2), layers=1, channels=4), slow=False)
    True
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from pofx import views
from pofx.errors import InputError
from pofx.model import (
    Autoregressive,
    Batch,
    BitsBack,
    Context,
    Critic,
    Decoder,
    Encoder,
    ExactLikelihood,
    Features,
    ImageModel,
    Labeler,
    LatentVariable,
    LowerBound,
    RangeCoded,
    Sampler,
    inverse_cdf,
)
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.training.optimizers import make_optimizer
from pofx.views import Label, View

TINY = (ImageSpace(1, 3, 3, levels=2), ImageSpace(3, 2, 2, levels=2), ImageSpace(3, 2, 1, levels=3))
ODD = (ImageSpace(1, 5, 7), ImageSpace(3, 3, 3, levels=5), ImageSpace(1, 1, 9, levels=4), ImageSpace(1, 9, 1, levels=2))
COLOUR = ImageSpace(3, 3, 2, levels=3)

Model = type[ImageModel]


# Tools ---------------------------------------------------------------------------------------------------------------


def every_image(space: ImageSpace) -> Tensor:
    """All images of a space: uint8 `(levels^dims, C, H, W)`.

    >>> every_image(ImageSpace(1, 2, 1, levels=3)).shape
    torch.Size([9, 1, 2, 1])
    """
    values = itertools.product(range(space.levels), repeat=space.dims)
    return torch.tensor(list(values), dtype=torch.uint8).reshape(-1, *space.shape)


def random_images(n: int, space: ImageSpace, seed: int = 0) -> Tensor:
    """Uniform noise, uint8 `(n, C, H, W)`."""
    u = Noise(seed, torch.arange(n)).uniform("images", *space.shape)
    return (u * space.levels).to(torch.uint8)


def random_batch(model: ImageModel, n: int, seed: int = 0) -> Batch:
    """Random images with random labels, and the view's value."""
    x = random_images(n, model.space, seed)
    classes = model.given.classes if isinstance(model.given, Label) else model.classes if isinstance(model, Labeler) else 2
    written = None if model.given is None else random_notes(model.given, n)
    return model.batch(x, torch.arange(n) % classes if written is None else written)


def random_notes(view: View, n: int) -> Tensor | None:
    """What is written beside n images, as a view takes it; None for a view that takes labels."""
    letters = {f"{i}": "".join(chr(97 + (5 * i + 3 * k) % 26) for k in range(1 + i % 7)) for i in range(n)}
    columns = {name: [("0", "1", "")[(i // (k + 1)) % 3] for i in range(n)] for k, name in enumerate(getattr(view, "names", ()))}
    return view.read({"caption": list(letters.values()), **columns}, list(letters))


def fit(
    model: ImageModel, batch: Batch, steps: int, seed: int = 0, lr: float | None = None, only: str | None = None
) -> list[dict[str, float]]:
    """A minimal training loop on one batch, of all players or `only` one; the losses of each step by objective."""
    objectives = [o for o in model.objectives() if only in (None, o.name)]
    optimizers = {o.name: make_optimizer(o.parameters, replace(o.optimizer, lr=lr or o.optimizer.lr)) for o in objectives}
    model.initialise(batch)
    history = []
    for step in range(steps):
        logs = {}
        for o in objectives:
            if not o.due(step):
                continue
            torch.manual_seed(step)
            loss, _ = o.loss(batch, Context(step, step / steps, Noise(seed, step * len(batch.x) + torch.arange(len(batch.x)))))
            optimizers[o.name].zero_grad()
            loss.backward()
            optimizers[o.name].step()
            if o.after is not None:
                o.after()
            logs[o.name] = float(loss.detach())
        history.append(logs)
    return history


def densify(model: ImageModel, seed: int = 0) -> ImageModel:
    """Give every parameter dense random values of a size that keeps activations near one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            fan_in = math.prod(p.shape[1:]) if p.ndim > 1 else 4
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.double) * (2 / fan_in) ** 0.5)
    return model


def quadrature_log_prob(model: LowerBound, x: Tensor, given: Tensor | None = None, *, points: int = 61, reach: float = 6.5) -> Tensor:
    """log p(x) = log ∫ p(x|z) N(z; 0, I) dz by the trapezoid rule on a grid, for models with at most 2 latents: `(n,)` nats. Of a model with a
    label among its latents (`of_label`), p(x) = Σ_y p(y) ∫ p(x|y,z) N(z; 0, I) dz with p(y) uniform, or given y the integral alone."""
    part = model.of_label()
    if part is not None:
        assert isinstance(part.given, Label)
        ys = torch.arange(part.given.classes)
        each = torch.stack([quadrature_log_prob(part, x, y.expand(len(x)), points=points // 2 + 1, reach=reach) for y in ys], 1)
        told = torch.full((len(x),), -1) if given is None else given
        known = each.gather(1, told.clamp(min=0)[:, None])[:, 0]
        return torch.where(told >= 0, known, each.logsumexp(1) - math.log(len(ys)))
    assert isinstance(model, Decoder) and model.latent_dims <= 2
    axis = torch.linspace(-reach, reach, points, dtype=torch.double)
    z = torch.cartesian_prod(*[axis] * model.latent_dims).reshape(-1, model.latent_dims)
    log_weight = (-0.5 * z**2 - 0.5 * math.log(2 * math.pi) + math.log(2 * reach / (points - 1))).sum(1)
    out = []
    for i in range(len(x)):
        if i == 0 or (given is not None and not torch.equal(given[i], given[i - 1])):
            p = model.decode(z, None if given is None else given[i : i + 1].expand(len(z), *given.shape[1:]))
        value = None if given is None else given[i : i + 1]
        log_likelihood = model.unknown_sum(p.log_prob(x[i : i + 1].expand(len(z), *x.shape[1:])), value)
        out.append(torch.logsumexp(log_weight + log_likelihood, 0))
    return torch.stack(out)


def log_prob_of(model: ImageModel, x: Tensor, given: Tensor | None) -> Tensor:
    """log p(x | given) exactly: the model's own, or by quadrature."""
    if isinstance(model, ExactLikelihood):
        return model.log_prob(x, given)
    assert isinstance(model, LowerBound)
    return quadrature_log_prob(model, x, given)


def chi_square(counts: Tensor, probabilities: Tensor) -> float:
    """p-value of Pearson's test; cells are taken from the rarest up and merged until each group expects at least 5."""
    from scipy.stats import chisquare

    order = probabilities.argsort()
    expected = ((probabilities / probabilities.sum()).double() * counts.sum())[order].tolist()
    observed = counts.double()[order].tolist()
    groups = [[0.0, 0.0]]
    for o, e in zip(observed, expected, strict=True):
        if groups[-1][1] >= 5:
            groups.append([0.0, 0.0])
        groups[-1][0] += o
        groups[-1][1] += e
    if len(groups) > 1 and groups[-1][1] < 5:
        last = groups.pop()
        groups[-1] = [groups[-1][0] + last[0], groups[-1][1] + last[1]]
    assert len(groups) > 1, "one group is left: nothing would be tested"
    return float(chisquare([g[0] for g in groups], [g[1] for g in groups]).pvalue)


def image_index(x: Tensor, space: ImageSpace) -> Tensor:
    """The position of each image in `every_image(space)`, int64 `(n,)`."""
    place = space.levels ** torch.arange(space.dims - 1, -1, -1)
    return (x.flatten(1).long() * place).sum(1)


def fitting_views(space: ImageSpace) -> list[View]:
    """One of each view that makes sense for such images."""
    candidates: list[View] = [Label(3), views.PartialLabel(3), views.Subsample(2), views.Top(1), views.Gray(), views.Half(), views.Masked()]
    candidates += [views.Attributes(("hat", "beard")), views.Caption(6)]
    out = []
    for view in candidates:
        try:
            view.check_space(space)
        except InputError:
            continue
        out.append(view)
    return out


def supports(cls: Model, view: View | None) -> bool:
    return view is None or not any(isinstance(view, refused) for refused in cls.refuses)


def _values(view: View, space: ImageSpace, n: int) -> Tensor:
    written = random_notes(view, n)
    return view.value(random_images(n, space, seed=7), torch.arange(n) % 3 if written is None else written)


# Checks: each takes a class, builds what it needs, and asserts -------------------------------------------------------


def arguments_are_the_configuration(cls: Model) -> None:
    """`__init__` stores its arguments unchanged, and a model made again from them with the same weights gives the same numbers."""
    for view in (None, Label(3)):
        if not supports(cls, view):
            continue
        model = cls.small(TINY[0], view)
        assert sum(p.numel() for p in model.parameters()) <= 50_000, "small() has more than 50,000 parameters"
        config = model.config()
        assert set(config) == set(inspect.signature(cls).parameters)
        again = cls(**config)
        assert again.config() == config
        again.load_state_dict(model.state_dict())
        a, b = _numbers(model), _numbers(again)
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a), "a model made again from its arguments differs"
        a = _numbers(model)
        assert all(torch.equal(a[k], b[k]) for k in a), "asking twice gives other numbers"


def _numbers(model: ImageModel) -> dict[str, Tensor]:
    """Everything a model can tell of a few images."""
    batch, out = random_batch(model, 6), {}
    with torch.no_grad():
        if isinstance(model, ExactLikelihood):
            out["log_prob"] = model.log_prob(batch.x, batch.given)
        if isinstance(model, LowerBound):
            out["elbo"] = model.elbo(batch.x, batch.given, samples=2)
            out["estimate"] = model.log_prob_estimate(batch.x, batch.given, samples=3)
        if isinstance(model, Sampler):
            out["sample"] = model.sample(6, batch.given, seed=3)
        if isinstance(model, Encoder):
            out["encode"] = model.encode(batch.x, batch.given)
        if isinstance(model, Features) and model.given is None:
            out["features"] = model.features(batch.x)
        if isinstance(model, Critic):
            out["realism"] = model.realism(batch.x, batch.given)
        if isinstance(model, Labeler):
            out["label"] = model.label(batch.x).log_prob
    return out


def any_size(cls: Model) -> None:
    """Default and small models work on odd, non-square, 1×N and N×1 images, in float32 and float64, with finite numbers."""
    for space in ODD:
        if space.height < cls.smallest[0] or space.width < cls.smallest[1]:
            continue
        for model in (cls.small(space), cls(space), cls.small(space).double()):
            for name, value in _numbers(model).items():
                assert len(value) == 6 and bool(torch.isfinite(value.double()).all()), f"{name} on {space}"
                if value.is_floating_point():
                    assert value.dtype == model.dtype, f"{name} is {value.dtype} in a model of {model.dtype}"


def bad_input_is_refused(cls: Model) -> None:
    """Another shape, another type and values outside the levels raise InputError; a missing or superfluous given too."""
    model = cls.small(TINY[0])
    for name in ("log_prob", "elbo", "encode", "features", "realism", "label"):
        if not hasattr(model, name):
            continue
        for bad in (torch.zeros(1, 1, 2, 3, dtype=torch.uint8), torch.zeros(1, 1, 3, 3), torch.full((1, 1, 3, 3), 2, dtype=torch.uint8)):
            _raises(
                lambda bad=bad, name=name: getattr(model, name)(bad), f"{name} accepts {bad.dtype} {tuple(bad.shape)} up to {bad.max()}"
            )
    if isinstance(model, Sampler):
        _raises(lambda: model.sample(0), "sample(0)")
        _raises(lambda: model.sample(1, 3), "sample(given=) of an unconditional model")
    if supports(cls, Label(3)):
        conditional = cls.small(TINY[0], Label(3))
        if isinstance(conditional, Sampler):
            _raises(lambda: conditional.sample(1), "sample() of p(x|y) without a label")
            _raises(lambda: conditional.sample(1, 3), "a label outside the range")
            _raises(lambda: conditional.sample(2, [0, 1, 2]), "three labels for two images")
    else:
        _raises(lambda: cls.small(TINY[0], Label(3)), "a view that `refuses` names")


def _raises(call: Callable[[], object], what: str) -> None:
    try:
        call()
    except InputError:
        return
    raise AssertionError(f"no InputError: {what}")


def every_parameter_learns(cls: Model) -> None:
    """After one step of every objective each parameter has received a gradient, by name, in every conditional form."""
    for view in (None, *fitting_views(COLOUR)):
        if not supports(cls, view):
            continue
        model = cls.small(COLOUR, view).double()
        batch = random_batch(model, 8)
        model.initialise(batch)
        reached: set[str] = set()
        for o in model.objectives():
            model.zero_grad()
            loss, _ = o.loss(batch, Context(5, 0.5, Noise(0, torch.arange(8))))
            assert loss.dtype == torch.double and loss.ndim == 0
            loss.backward()
            mine = {id(p) for p in o.parameters.parameters()}
            reached |= {name for name, p in model.named_parameters() if id(p) in mine and p.grad is not None and bool(p.grad.any())}
        missing = sorted(set(dict(model.named_parameters())) - reached)
        assert not missing, f"given={view}: no gradient reaches {', '.join(missing)}"


def losses_decrease(cls: Model) -> None:
    """Twenty steps on one batch: every loss goes down while its player moves alone; a game of several stays finite."""
    for dtype in (torch.float32, torch.float64):
        for player in [o.name for o in cls.small(TINY[0]).objectives()]:
            torch.manual_seed(0)
            model = cls.small(TINY[0]).to(dtype)
            pattern = random_images(4, TINY[0]).repeat(8, 1, 1, 1)
            batch = model.batch(pattern, torch.arange(32) % (model.classes if isinstance(model, Labeler) and model.classes < 4 else 4))
            losses = [h[player] for h in fit(model, batch, 20, lr=5e-3, only=player)]
            assert all(math.isfinite(v) for v in losses), f"{player}: {losses}"
            assert sum(losses[-5:]) < sum(losses[:5]), f"{player} did not decrease in {dtype}: {losses[0]:.4f} → {losses[-1]:.4f}"
            together = fit(model, batch, 5)
            assert all(math.isfinite(v) for logs in together for v in logs.values())


def sums_to_one(cls: Model) -> None:
    """Over all images of tiny spaces an exact model's probabilities sum to 1 within 1e-9, untrained and trained, for each value of each view."""
    for space in TINY:
        for view in (None, *fitting_views(space)):
            if not supports(cls, view):
                continue
            model = cls.small(space, view).double()
            assert isinstance(model, ExactLikelihood)
            for _ in ("untrained", "trained"):
                for value, x in _values_with_images(view, space):
                    with torch.no_grad():
                        total = model.log_prob(x, value).exp().sum()
                    assert abs(float(total) - 1) < 1e-9, f"{space} given {view}: p sums to {float(total)!r}"
                fit(model, random_batch(model, 16), 5)


def decoders_sum_to_one(cls: Model) -> None:
    """p(x | z, given) sums to 1 within 1e-9 for each z, and so does the integral over z, on a tiny space within 1e-6."""
    for space in TINY:
        for view in (None, *fitting_views(space)):
            if not supports(cls, view):
                continue
            model = cls.small(space, view).double()
            assert isinstance(model, LowerBound)
            z = Noise(0, torch.arange(2)).normal("z", model.latent_dims) if isinstance(model, Decoder) else ()
            for value, x in _values_with_images(view, space):
                for code in z:
                    assert isinstance(model, Decoder)
                    with torch.no_grad():
                        total = model.unknown_sum(model.decode(code.expand(len(x), -1), value).log_prob(x), value).exp().sum()
                    assert abs(float(total) - 1) < 1e-9, f"{space} given {view}: p(x|z) sums to {float(total)!r}"
            if space == TINY[0] and (view is None or isinstance(view, Label)):
                for trained in (False, True):
                    x = every_image(space)
                    with torch.no_grad():
                        total = quadrature_log_prob(model, x, None if view is None else torch.full((len(x),), int(trained))).exp().sum()
                    assert abs(float(total) - 1) < 1e-6, f"{space} given {view}: p sums to {float(total)!r}"
                    fit(model, random_batch(model, 16), 5)


def _values_with_images(view: View | None, space: ImageSpace) -> Iterator[tuple[Tensor | None, Tensor]]:
    """Every label, or two values of another view, each repeated for all images that agree with what it makes known."""
    x = every_image(space)
    if view is None:
        yield None, x
        return
    for value in torch.arange(-view.unknown, view.classes) if isinstance(view, Label) else _values(view, space, 4 if view.varies else 2):
        known = view.known(space, value[None])
        images = x if known is None else x[((x == view.fill(value[None], space)) | ~known).flatten(1).all(1)]
        yield value.expand(len(images), *value.shape), images


def views_matter(cls: Model) -> None:
    """For every view: other values give other numbers and other images, known sub-pixels come back untouched, dims drops by them,
    and an image that contradicts its given is refused."""
    for view in fitting_views(COLOUR):
        if not supports(cls, view):
            continue
        model = densify(cls.small(COLOUR, view).double())
        values = _values(view, COLOUR, 6)
        known = view.known(COLOUR, values)
        fixed = torch.zeros(6, *COLOUR.shape, dtype=torch.bool) if known is None else known.expand(6, *COLOUR.shape)
        assert torch.equal(torch.as_tensor(model.dims_of(values)).expand(6), COLOUR.dims - fixed.flatten(1).sum(1))
        unknown = random_images(6, COLOUR, seed=1)
        other = values.roll(1, 0)

        def put(value: Tensor, x: Tensor = unknown, model: ImageModel = model) -> Tensor:
            return model.copy_known(x, value)

        with torch.no_grad():
            if isinstance(model, ExactLikelihood):
                assert not torch.allclose(model.log_prob(put(values), values), model.log_prob(put(other), other)), (
                    f"{view} changes no log_prob"
                )
            if isinstance(model, LowerBound):
                assert not torch.allclose(model.elbo(put(values), values), model.elbo(put(other), other)), f"{view} changes no elbo"
            if isinstance(model, Critic):
                assert not torch.allclose(model.realism(unknown, values), model.realism(unknown, other)), f"{view} changes no realism"
            if isinstance(model, Decoder):
                z = Noise(0, torch.arange(6)).normal("z", model.latent_dims)
                assert not torch.allclose(model.decode(z, values).mean, model.decode(z, other).mean), (
                    f"{view} changes nothing that is decoded"
                )
            if isinstance(model, Sampler):
                many = values.repeat(30, *[1] * (values.ndim - 1))
                drawn, again = model.sample(len(many), many), model.sample(len(many), many.roll(1, 0))
                every = fixed.repeat(30, 1, 1, 1)
                unfixed = ~(every | every.roll(1, 0))
                assert not torch.equal(drawn[unfixed], again[unfixed]), f"{view} changes no sample"
                assert torch.equal(drawn[every], view.fill(many, COLOUR)[every]), f"{view}: known sub-pixels were changed"
            if known is not None and isinstance(model, ExactLikelihood | LowerBound):
                x = put(values)
                x[fixed] = (x[fixed] + 1) % COLOUR.levels
                score = model.log_prob if isinstance(model, ExactLikelihood) else model.elbo
                _raises(lambda score=score, x=x, values=values: score(x, values), f"an image that contradicts {view}")


def samples_are_keyed_by_image(cls: Model) -> None:
    """Image k of a batch is the image sampled alone with first=k, in float64 and float32; other seeds differ; values stay inside the levels."""
    for dtype in (torch.float64, torch.float32):
        model = densify(cls.small(ODD[0]).to(dtype))  # dense weights: pixels of all values
        assert isinstance(model, Sampler)
        batch = model.sample(24, seed=1)
        assert batch.dtype == torch.uint8 and batch.shape == (24, *ODD[0].shape)
        alone = torch.cat([model.sample(1, seed=1, first=k) for k in range(24)])
        assert torch.equal(batch, alone), f"{dtype}: an image depends on its batch"
        assert torch.equal(model.sample(3, seed=1, first=5), batch[5:8])
        assert not torch.equal(batch, model.sample(24, seed=2)), "the seed changes nothing"
    small = cls.small(TINY[2])
    assert isinstance(small, Sampler) and int(small.sample(50).max()) < TINY[2].levels


def numbers_do_not_depend_on_the_batch(cls: Model) -> None:
    """float64: all that is said of an image is the same alone, in a batch, and in another order, to the last bit."""
    for model in (cls.small(ODD[0]).double(), cls(ODD[0]).double()):
        x = random_images(9, ODD[0])
        asked: dict[str, Callable[[Tensor], Tensor]] = {}
        if isinstance(model, ExactLikelihood):
            asked["log_prob"] = model.log_prob
        if isinstance(model, LowerBound):
            asked["elbo"], asked["log_prob_estimate"] = model.elbo, lambda x, m=model: m.log_prob_estimate(x, samples=4)
        if isinstance(model, Encoder):
            asked["encode"] = model.encode
        if isinstance(model, Features):
            asked["features"] = model.features
        if isinstance(model, Critic):
            asked["realism"] = model.realism
        if isinstance(model, Labeler):
            asked["label"] = lambda x, m=model: m.label(x).log_prob
        with torch.no_grad():
            for name, ask in asked.items():
                together = ask(x)
                alone = torch.cat([ask(x[i : i + 1]) for i in range(len(x))])
                assert torch.equal(together, alone), f"{name} depends on the batch"
                assert torch.equal(together.flip(0), ask(x.flip(0))), f"{name} depends on the order"


def samples_follow_the_model(cls: Model, spaces: tuple[ImageSpace, ...] = TINY) -> None:
    """A chi-square test of 20,000 samples against the enumerated probabilities, after a few steps of training; and given a label."""
    cases: list[tuple[ImageSpace, View | None]] = [(space, None) for space in spaces]
    if supports(cls, Label(3)):
        cases.append((spaces[0], Label(3)))
    for space, view in cases:
        torch.manual_seed(0)
        model = cls.small(space, view).double()
        assert isinstance(model, Sampler)
        fit(model, random_batch(model, 16), 10, lr=2e-2)
        x = every_image(space)
        with torch.no_grad():
            probabilities = log_prob_of(model, x, None if view is None else torch.full((len(x),), 2)).exp()
        drawn = image_index(model.sample(20_000, None if view is None else 2, seed=11), space)
        p_value = chi_square(torch.bincount(drawn, minlength=len(probabilities)), probabilities)
        assert p_value > 1e-4, f"{space} given {view}: samples do not follow the model (p = {p_value:.1e})"


def steps_equal_the_full_pass(cls: Model) -> None:
    """The product of the distributions read step by step equals log_prob, and each is normalised, to 1e-10; for one image and for several."""
    for space in (*TINY, *ODD):
        for view in (None, *fitting_views(space)):
            if not supports(cls, view):
                continue
            model = densify(cls.small(space, view).double())
            assert isinstance(model, Autoregressive)
            for n in (1, 3, 5) if view is None else (3,):
                _steps_equal_the_full_pass(model, n)


def _steps_equal_the_full_pass(model: Autoregressive, n: int) -> None:
    batch, where = random_batch(model, n), f"{n} of {model.space} given {model.given}"
    with torch.no_grad():
        full = model.conditional_log_prob(batch.x, batch.given).flatten(1)
        steps = model.begin(n, batch.given)
        for group in model.order():
            log_p = steps.distribution()
            values = batch.x.flatten(1)[:, group].long()
            assert log_p.shape == (n, len(group), model.space.levels)
            assert float(log_p.exp().sum(-1).sub(1).abs().max()) < 1e-10
            u = Noise(1, torch.arange(n)).uniform("u", len(group))
            assert torch.equal(steps.draw(u), inverse_cdf(log_p, u)), f"{where}: draw() differs from distribution()"
            read = log_p.gather(-1, values[..., None])[..., 0]
            scale = full[:, group].abs().clamp(min=1)
            assert float(((read - full[:, group]) / scale).abs().max()) < 1e-10, f"{where}: a step differs from the full pass"
            steps.fix(values)


def integers_agree(cls: Model) -> None:
    """In integer arithmetic steps and the full pass say the same, bit for bit, in any batch; each level has its share, and what the float model
    loses by it is small."""
    from pofx.integers import TOTAL
    from pofx.tasks._entropy import own
    from pofx.tasks._integer_form import IntegerForm

    for space in (*TINY, *ODD):
        model = densify(cls.small(space))
        form, x = IntegerForm.of(model), random_images(5, space)
        with form.exact() as exact:
            assert isinstance(exact, RangeCoded)
            intervals = exact.intervals(x, own).flatten(1, 3)
            alone = torch.cat([exact.intervals(x[k : k + 1], own).flatten(1, 3) for k in range(5)])
            assert torch.equal(intervals, alone), f"{space}: an image's numbers depend on its batch"
            steps = exact.begin(5)
            for group in exact.order():
                counts, values = steps.cumulative(), x.flatten(1)[:, group].long()
                assert counts.shape == (5, len(group), space.levels + 1) and counts.dtype == torch.int64
                assert bool((counts[..., 0] == 0).all() and (counts[..., -1] == TOTAL).all() and (counts.diff(dim=-1) > 0).all())
                read = counts.gather(-1, torch.stack([values, values + 1], -1))
                assert torch.equal(read, intervals[:, group]), f"{space}: a step differs from the full pass"
                steps.fix(values)
        nats = -((intervals[..., 1] - intervals[..., 0]).double() / TOTAL).log().sum(1)
        with torch.no_grad():
            floats = model.double()
            assert isinstance(floats, ExactLikelihood)
            cost = -floats.log_prob(x)
        assert float((nats - cost).mean() / cost.mean()) < 0.05, (
            f"{space}: integers cost {float(nats.mean())} nats, floats {float(cost.mean())}"
        )


def bits_come_back(cls: Model) -> None:
    """Bits-back coding in integers gives images back bit for bit. Net of what it starts with they cost −L(x) of the float model, within 1 % and
    4 standard deviations, and the stream is as long as that."""
    from pofx.tasks._bits_back import decode_chain, encode_chain
    from pofx.tasks._integer_form import IntegerForm

    for space in (TINY[2], ODD[0], ODD[1]):
        torch.manual_seed(0)
        model, x = cls.small(space), random_images(24, space)
        fit(model, random_batch(model, 16), 10, lr=1e-2)
        form = IntegerForm.of(model)
        with form.exact() as exact:
            assert isinstance(exact, BitsBack)
            chain = encode_chain(exact, x)
            assert torch.equal(decode_chain(exact, chain.stream, len(x)), x), f"{space}: images do not come back"
        floats = model.double()
        assert isinstance(floats, LowerBound)
        with torch.no_grad():
            cost = -torch.stack([floats.elbo(x, seed=seed) for seed in range(32)]).sum(1) / math.log(2)
        mean, sd = float(cost.mean()), float(cost.std())
        assert abs(chain.bits - mean) <= 0.01 * mean + 4 * sd, f"{space}: {chain.bits} bits, −L is {mean} ± {sd}"
        assert abs(8 * len(chain.stream) - chain.bits - chain.initial) <= 64, f"{space}: the stream is not what its parts cost"


def all_steps_cost_one_pass(cls: Model) -> None:
    """Counted, not timed: the multiply-adds of a whole image step by step are at most 1.05 times those of one full pass."""
    from torch.utils.flop_counter import FlopCounterMode

    for space, view in itertools.product((ImageSpace(1, 12, 12, levels=2), ImageSpace(3, 8, 9, levels=4)), (None, views.Half())):
        if not supports(cls, view):
            continue
        model = cls.small(space, view)
        assert isinstance(model, Autoregressive)
        batch, counted = random_batch(model, 2), []
        with torch.inference_mode():
            for work in (model.log_prob, lambda x, given, m=model: _step_through(m, x, given)):
                with FlopCounterMode(display=False) as counter:
                    work(batch.x, batch.given)
                counted.append(counter.get_total_flops())
        assert counted[1] <= 1.05 * counted[0], (
            f"{space}, given {view}: steps take {counted[1]:,} multiply-adds, a full pass {counted[0]:,}"
        )


def _step_through(model: Autoregressive, x: Tensor, given: Tensor | None) -> None:
    steps = model.begin(len(x), given)
    for group in model.order():
        steps.distribution()
        steps.fix(x.flatten(1)[:, group].long())


def filled_rows_equal_stepped_ones(cls: Model) -> None:
    """After `fill`, what is read of later groups equals the full pass to 1e-10, for each number of filled rows."""
    for space in (*TINY, *ODD):
        model = densify(cls.small(space, Label(3) if supports(cls, Label(3)) else None).double())
        assert isinstance(model, Autoregressive)
        batch = random_batch(model, 3)
        with torch.no_grad():
            full = model.conditional_log_prob(batch.x, batch.given).flatten(1)
            for rows in sorted({1, space.height // 2, space.height - 1} - {0, space.height}):
                filled = torch.zeros(space.shape, dtype=torch.bool)
                filled[:, :rows] = True
                steps = model.begin(3, batch.given)
                steps.fill(batch.x, rows)
                for group in model.order():
                    values, open_ = batch.x.flatten(1)[:, group].long(), ~filled.flatten()[group]
                    if bool(open_.any()):
                        read = steps.distribution().gather(-1, values[..., None])[..., 0]
                        assert float((read - full[:, group])[:, open_].abs().max()) < 1e-10, (
                            f"{space}: reads differ after {rows} filled rows"
                        )
                    steps.fix(values)


def order_is_a_permutation(cls: Model) -> None:
    """Every sub-pixel is in exactly one group."""
    for space in (*TINY, *ODD):
        model = cls.small(space)
        assert isinstance(model, Autoregressive)
        assert sorted(torch.cat(model.order()).tolist()) == list(range(space.dims))


def jacobian(model: Autoregressive, x: Tensor, given: Tensor | None = None) -> Tensor:
    """∂ log p(x_i | x_<i) / ∂ x_j for one image: `(dims, dims)`, rows i, columns j, in flat (C, H, W) order."""
    x = x.double().requires_grad_()
    terms = model.conditional_log_prob(x, given).flatten()
    rows = [torch.autograd.grad(t, x, retain_graph=True, materialize_grads=True)[0].flatten() for t in terms]
    return torch.stack(rows)


def is_causal(cls: Model) -> None:
    """At default depth and width with dense random weights: the gradient of term i by sub-pixel j is exactly 0 unless j comes before i."""
    for space in (ImageSpace(1, 6, 5, levels=4), ImageSpace(3, 4, 5, levels=3)):
        for model in (cls(space), cls.small(space)):
            model = densify(model.double())
            assert isinstance(model, Autoregressive)
            rank = torch.empty(space.dims, dtype=torch.long)
            for k, group in enumerate(model.order()):
                rank[group] = k
            j = jacobian(model, random_images(1, space))
            later = rank[None] >= rank[:, None]
            later.fill_diagonal_(False)
            assert bool((j[later] == 0).all()), f"{space}: a term sees a sub-pixel that does not come before it"


def bounds_are_ordered(cls: Model) -> None:
    """E[elbo] ≤ E[estimate] ≤ log p by quadrature, within 4 standard errors; the estimate grows with its samples."""
    torch.manual_seed(0)
    model = cls.small(TINY[0]).double()
    assert isinstance(model, LowerBound)
    fit(model, random_batch(model, 16), 20, lr=1e-2)
    x = random_images(6, TINY[0], seed=3)
    with torch.no_grad():
        exact = quadrature_log_prob(model, x)
        draws = {k: torch.stack([model.log_prob_estimate(x, samples=k, seed=s) for s in range(60)]) for k in (1, 4, 64)}
        elbo = torch.stack([model.elbo(x, samples=1, seed=s) for s in range(60)])
    previous, error = elbo.mean(0), elbo.std(0) / 60**0.5
    for k, draw in draws.items():
        mean, e = draw.mean(0), draw.std(0) / 60**0.5
        assert bool((mean + 4 * (e + error) + 1e-9 >= previous).all()), f"the estimate with k={k} lies below the bound before it"
        assert bool((mean - 4 * e - 1e-9 <= exact).all()), f"the estimate with k={k} lies above log p"
        previous, error = mean, e
    assert float((draws[64].mean(0) - exact).abs().max()) < 0.05, "64 importance samples are still far from log p on a tiny model"


def codes_decode(cls: Model) -> None:
    """decode(z).mean has the image's shape, lies inside the levels and is differentiable in z; encode gives its mean by default."""
    space = ODD[1]
    model = cls.small(space).double()
    if isinstance(model, Decoder):
        z = Noise(0, torch.arange(3)).normal("z", model.latent_dims).requires_grad_()
        mean = model.decode(z).mean
        assert mean.shape == (3, *space.shape) and 0 <= float(mean.detach().min()) <= float(mean.detach().max()) <= space.levels - 1
        assert bool(torch.autograd.grad(mean.sum(), z)[0].any())
    if isinstance(model, Encoder):
        x = random_images(3, space)
        assert torch.equal(model.encode(x), model.encode(x))
        if isinstance(model, Decoder):
            assert model.encode(x).shape == (3, model.latent_dims)


def features_are_vectors(cls: Model) -> None:
    """features(x) is `(n, d)` for every named layer; an unknown layer is refused."""
    model = cls.small(ODD[0])
    assert isinstance(model, Features)
    x = random_images(3, ODD[0])
    for layer in (None, *model.feature_layers):
        assert model.features(x, layer).ndim == 2
    _raises(lambda: model.features(x, "nothing"), "an unknown layer")


def labels_sum_to_one(cls: Model) -> None:
    """Σ_y p(y | x) = 1 for every image, trained or not."""
    model = cls.small(TINY[0]).double()
    assert isinstance(model, Labeler)
    with torch.no_grad():
        log_prob = model.label(every_image(TINY[0])).log_prob
    assert float(log_prob.exp().sum(1).sub(1).abs().max()) < 1e-12


def promises_are_types(cls: Model) -> None:
    """What a model cannot tell, it does not even have a name for; it can tell something, and says where it stands in the taxonomy."""
    names: list[tuple[Model, str]] = [
        (ExactLikelihood, "log_prob"),
        (Autoregressive, "begin"),
        (LowerBound, "elbo"),
        (LowerBound, "log_prob_estimate"),
        (LatentVariable, "posterior"),
        (LatentVariable, "bound"),
        (Sampler, "sample"),
        (Encoder, "encode"),
        (Decoder, "decode"),
        (Features, "features"),
        (Critic, "realism"),
        (Labeler, "label"),
    ]
    for capability, name in names:
        assert issubclass(cls, capability) == hasattr(cls, name), f"{name} without {capability.__name__}"
    assert cls.family and cls.paper and cls.__doc__


_CHECKS: list[tuple[Callable[[Model], None], tuple[type[ImageModel], ...], bool]] = [
    (promises_are_types, (ImageModel,), False),
    (arguments_are_the_configuration, (ImageModel,), False),
    (any_size, (ImageModel,), False),
    (bad_input_is_refused, (ImageModel,), False),
    (every_parameter_learns, (ImageModel,), False),
    (losses_decrease, (ImageModel,), False),
    (sums_to_one, (ExactLikelihood,), False),
    (decoders_sum_to_one, (LowerBound,), False),
    (views_matter, (ImageModel,), False),
    (samples_are_keyed_by_image, (Sampler,), False),
    (numbers_do_not_depend_on_the_batch, (ImageModel,), False),
    (samples_follow_the_model, (ExactLikelihood, LowerBound), True),
    (order_is_a_permutation, (Autoregressive,), False),
    (all_steps_cost_one_pass, (Autoregressive,), False),
    (filled_rows_equal_stepped_ones, (Autoregressive,), False),
    (steps_equal_the_full_pass, (Autoregressive,), False),
    (integers_agree, (RangeCoded,), False),
    (bits_come_back, (BitsBack,), False),
    (is_causal, (Autoregressive,), False),
    (bounds_are_ordered, (LowerBound,), False),
    (codes_decode, (Encoder, Decoder), False),
    (features_are_vectors, (Features,), False),
    (labels_sum_to_one, (Labeler,), False),
]


def checks(cls: Model) -> Iterator[tuple[Callable[[Model], None], bool]]:
    """The checks that apply to a class, each with whether it is slow."""
    for check, wanted, slow in _CHECKS:
        if issubclass(cls, wanted):
            yield check, slow


def check_model(model: ImageModel | Model, *, slow: bool = True) -> list[str]:
    """Run every check that applies to a model's class; return their names.

    Args:
        model: an instance or a class; tiny instances are made with `small`.
        slow: also those that take more than a few seconds (20,000 samples).

    Raises:
        AssertionError: saying what the model does not keep.
    """
    cls = model if isinstance(model, type) else type(model)
    done = []
    for check, is_slow in checks(cls):
        if is_slow and not slow:
            continue
        try:
            with torch.random.fork_rng(devices=[]):
                check(cls)
        except AssertionError as error:
            raise AssertionError(f"{cls.__name__}: {check.__name__}: {error}") from error
        done.append(check.__name__)
    if isinstance(model, ImageModel):
        for name, value in _numbers(model).items():
            assert bool(torch.isfinite(value.double()).all()), f"{cls.__name__}: {name} is not finite on random images"
    return done
