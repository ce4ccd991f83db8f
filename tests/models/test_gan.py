"""What is particular to the GAN: players that move alone, nets of four designs, what is forbidden, and no likelihood at all."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import pofx
from pofx.errors import CapabilityError, InputError
from pofx.model import Context, ExactLikelihood, LowerBound, require
from pofx.models.adversarial.gan import GAN
from pofx.models.adversarial.losses import LeastSquares, Loss, Minimax, NonSaturating, Relativistic, Wasserstein, WassersteinGP
from pofx.models.adversarial.networks import PUBLISHED, Network, Normalisation
from pofx.nn.augment import augment
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.testing import random_batch, random_images
from pofx.training import read_run
from pofx.views import Gray, Half, Label, Top, View


def context(step: int = 0) -> Context:
    return Context(step, 0.0, Noise(0, torch.arange(8)))


def test_asking_for_a_likelihood_says_what_a_gan_can_give() -> None:
    model = GAN.small(ImageSpace(1, 4, 4))
    assert not hasattr(model, "log_prob") and not hasattr(model, "elbo")
    with pytest.raises(CapabilityError, match=r"Sampler.*pofx evaluate"):
        require(model, ExactLikelihood, LowerBound, to="score images")


def test_a_critic_that_is_certain_still_has_a_finite_loss_and_a_gradient() -> None:
    model = GAN(ImageSpace(1, 4, 4), loss=NonSaturating(), latents=4, channels=8, stages=1)
    model.critic.net.out.bias.data.fill_(-500.0)
    loss, _ = model.objectives()[1].loss(random_batch(model, 8), context())
    loss.backward()
    assert torch.isfinite(loss) and any(bool(p.grad.any()) for p in model.generator.parameters() if p.grad is not None)


def test_fakes_are_detached_in_the_critic_step() -> None:
    model = GAN.small(ImageSpace(1, 4, 4))
    loss, _ = model.objectives()[0].loss(random_batch(model, 8), context())
    loss.backward()
    assert all(p.grad is None for p in model.generator.parameters())


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("view", [None, Label(3)])
def test_players_who_move_in_one_step_share_a_pass_of_the_generator(view: View | None, half: bool) -> None:
    """The gradient is that of a pass of its own, also where the critic's turn froze the generator and moved the critic in between."""
    model = make("dcgan", NonSaturating(), view=view).train()
    model = model.float() if half else model
    critic, generator = model.objectives()
    batch, together, alone = random_batch(model, 8), context(), context()
    passes, found = [], []
    model.generator.net.register_forward_hook(lambda *_: passes.append(1))

    def generator_turn(step: Context) -> None:
        model.zero_grad()
        loss = generator.loss(batch, step)[0]
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.generator.parameters())])

    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        for p in model.generator.parameters():
            p.requires_grad_(False)
        critic.loss(batch, together)[0].backward()
        assert all(not p.requires_grad for p in model.generator.parameters())
        with torch.no_grad():
            for p in model.critic.parameters():
                p.sub_(0.1 * p.grad)  # type: ignore[operator]
        for p in model.critic.parameters():
            p.requires_grad_(False)
        for p in model.generator.parameters():
            p.requires_grad_(True)
        generator_turn(together)
        assert len(passes) == 1 and not together.shared
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        generator_turn(alone)
    assert len(passes) == 2 and bool(found[0][1].any())
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_step_of_the_critic_alone_keeps_no_way_back_through_the_generator() -> None:
    model = GAN.small(ImageSpace(1, 4, 4))
    model.critic_steps = 3
    batch, steps = random_batch(model, 8), [context(step) for step in range(3)]
    for step in steps:
        model.objectives()[0].loss(batch, step)
    assert [list(step.shared) for step in steps] == [[], [], ["fake"]]


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


# Designs -------------------------------------------------------------------------------------------------------------


def make(
    network: Network, loss: Loss, norm: Normalisation | None = None, view: View | None = None, space: ImageSpace = ImageSpace(3, 9, 11)
) -> GAN:
    return GAN(space, view, loss=loss, network=network, normalisation=norm, latents=3, channels=4, stages=2, hidden=8, layers=2).double()


@pytest.mark.parametrize("network", PUBLISHED)
@pytest.mark.parametrize("view", [None, Label(3), Gray(), Half(), Top(2)])
def test_every_net_learns_in_every_conditional_form(network: Network, view: View | None) -> None:
    model = make(network, LeastSquares(), view=view)
    batch = random_batch(model, 8)
    reached: set[str] = set()
    step = context()
    for objective in model.objectives():
        model.zero_grad()
        loss, _ = objective.loss(batch, step)
        loss.backward()
        mine = {id(p) for p in objective.parameters.parameters()}
        reached |= {name for name, p in model.named_parameters() if id(p) in mine and p.grad is not None and bool(p.grad.any())}
    assert reached == {name for name, _ in model.named_parameters()}
    assert model.sample(2, batch.given[:2] if batch.given is not None else None).shape == (2, 3, 9, 11)


@pytest.mark.parametrize("network", PUBLISHED)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (5, 5), (32, 32), (40, 24)])
def test_every_net_takes_every_size(network: Network, size: tuple[int, int]) -> None:
    space = ImageSpace(1, *size)
    model = make(network, NonSaturating(), space=space)
    x = random_images(2, space)
    assert model.sample(2).shape == x.shape and model.realism(x).shape == (2,)


@pytest.mark.parametrize("network", ["dcgan", "residual", "modern"])
def test_features_that_are_published_with_a_batch_depend_on_no_batch_in_evaluation(network: Network) -> None:
    space = ImageSpace(1, 8, 8)
    model = make(network, NonSaturating(), "batch", space=space)
    x = random_images(4, space)
    assert torch.equal(model.realism(x)[:1], model.realism(x[:1]))


@pytest.mark.parametrize("loss", [WassersteinGP(), Relativistic()])
@pytest.mark.parametrize(("network", "norm"), [("dcgan", "batch"), ("modern", "batch"), ("residual", "batch")])
def test_what_the_literature_forbids_is_refused_with_the_reason(loss: Loss, network: Network, norm: Normalisation) -> None:
    with pytest.raises(InputError, match=r"forbids batch normalisation.*BatchNorm.*--normalisation layer"):
        make(network, loss, norm)


def test_where_the_published_normalisation_is_forbidden_another_takes_its_place() -> None:
    kinds = [type(make("dcgan", loss).critic.net.norms[1]).__name__ for loss in (NonSaturating(), WassersteinGP(), Relativistic())]
    assert kinds == ["BatchNorm2d", "GroupNorm", "GroupNorm"]


@pytest.mark.parametrize("norm", ["layer", "spectral", "none"])
@pytest.mark.parametrize("network", ["dcgan", "residual", "modern"])
def test_other_normalisations_take_a_penalty(network: Network, norm: Normalisation) -> None:
    model = make(network, WassersteinGP(), norm)
    loss, logs = model.objectives()[0].loss(random_batch(model, 8), context())
    loss.backward()
    assert torch.isfinite(loss) and float(logs["penalty"]) > 0
    if norm == "spectral":  # after enough power iterations every weight has norm 1
        for _ in range(60):
            model.critic.net(torch.randn(2, 3, 9, 11).double(), None)
        weight = model.critic.net.out.weight
        assert float(torch.linalg.matrix_norm(weight.detach(), 2)) == pytest.approx(1, abs=0.05)


def test_the_published_start() -> None:
    torch.manual_seed(0)
    model = GAN(ImageSpace(3, 32, 32), network="dcgan", loss=NonSaturating())
    weights = torch.cat([p.flatten() for name, p in model.generator.net.named_parameters() if name.startswith("up") and p.ndim == 4])
    assert float(weights.detach().std()) == pytest.approx(0.02, rel=0.02)
    adam = model.objectives()[0].optimizer
    assert (adam.name, adam.lr, adam.betas) == ("Adam", 2e-4, (0.5, 0.999))
    shapes = [tuple(layer.kernel_size) for layer in model.critic.net.down]
    assert shapes == [(5, 5)] * 3 and [tuple(layer.stride) for layer in model.critic.net.down] == [(2, 2)] * 3


def test_a_deep_mlp_passes_sizes_and_slopes_on() -> None:
    """The mean square of what goes into a layer, and of the slope that comes back out of it, changes little over 8 layers (He et al. 2015)."""
    torch.manual_seed(0)
    net = GAN(ImageSpace(1, 16, 16), network="mlp", hidden=512, layers=8).critic.net
    sizes: list[torch.Tensor] = []
    for layer in net.layers:
        layer.register_forward_pre_hook(lambda _, args: sizes.append(args[0]))
    x = torch.randn(256, 1, 16, 16, requires_grad=True)
    out = net.body(x, None)
    for h in sizes[1:]:
        h.retain_grad()
    out.backward(torch.randn_like(out))
    ahead = [float(h.detach().square().mean()) for h in (*sizes, out)]
    back = [float(h.grad.square().mean()) for h in sizes[1:] if h.grad is not None]
    assert len(back) == 7
    assert 0.5 < ahead[-1] / ahead[0] < 2 and 0.5 < back[0] / back[-1] < 2


def test_the_loss_brings_its_steps_and_its_optimizer() -> None:
    space = ImageSpace(1, 8, 8)
    critic, generator = GAN(space, loss=Wasserstein()).objectives()
    assert critic.optimizer.name == "RMSprop" and critic.optimizer.lr == 5e-5 and (critic.every, generator.every) == (1, 5)
    assert critic.after is not None
    _, generator = GAN(space, loss=Wasserstein(), critic_steps=2, lr=1e-3).objectives()
    assert generator.every == 2 and generator.optimizer.lr == 1e-3
    assert WassersteinGP.optimizer.betas == (0.0, 0.9) and WassersteinGP.optimizer.lr == 1e-4


def test_weights_of_a_wasserstein_critic_stay_clipped_in_training(tmp_path: Path) -> None:
    data = pofx.load_data("digits")
    model = GAN(data.space, loss=Wasserstein(clip=0.05), channels=4, latents=4)
    run = pofx.train(model, data, out=tmp_path / "run", steps=3, average=0, quiet=True)
    assert isinstance(run.model, GAN)
    assert all(float(p.detach().abs().max()) <= 0.05 + 1e-7 for p in run.model.critic.parameters())


# Augmentation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["geometry", "all"])
def test_augmentation_is_drawn_per_image_and_passes_gradients(how: str) -> None:
    x = torch.randn(6, 3, 9, 8).double().requires_grad_(True)
    noise = Noise(0, torch.arange(6))
    y = augment(x, how, noise, "a")  # type: ignore[arg-type]
    alone = augment(x[4:5], how, Noise(0, torch.tensor([4])), "a")  # type: ignore[arg-type]
    assert y.shape == x.shape and torch.equal(y[4:5], alone) and not torch.equal(y, augment(x, how, noise, "b"))  # type: ignore[arg-type]
    (g,) = torch.autograd.grad(y.square().sum(), x)
    assert bool((g.flatten(1) != 0).any(1).all())


def test_geometry_moves_pixels_and_changes_none() -> None:
    x = torch.arange(1.0, 65).reshape(1, 1, 8, 8).repeat(50, 1, 1, 1)
    y = augment(x, "geometry", Noise(3, torch.arange(50)), "a")
    assert set(y.unique().tolist()) <= {0.0, *x.unique().tolist()} and 0.3 < float((y > 0).double().mean()) < 0.95


# Troubles ------------------------------------------------------------------------------------------------------------


def test_troubles_are_said_with_advice() -> None:
    model = GAN(ImageSpace(1, 4, 4), loss=Minimax(), network="mlp")
    healthy = {"train_critic_accuracy": 1.0, "train_critic_spread": 0.9, "train_critic_margin": 5.0, "train_critic_outputs": 2.0}
    assert model.diagnose({}) == model.diagnose(healthy) == {}
    assert "collapsed" in model.diagnose(healthy | {"train_critic_spread": 0.01})["collapse"]
    certain = healthy | {"train_critic_margin": 20.0}
    assert "--loss relativistic" in model.diagnose(certain)["certain critic"]
    assert "same of every image" in model.diagnose(healthy | {"train_critic_outputs": 0.0})["flat critic"]
    assert "diverges" in model.diagnose(healthy | {"train_critic_outputs": 1e6})["wild critic"]
    for loss in (NonSaturating(), LeastSquares(), WassersteinGP(), Relativistic()):  # their slopes do not die
        assert not GAN(ImageSpace(1, 4, 4), loss=loss, network="mlp").diagnose(certain)
    own = GAN(ImageSpace(1, 4, 4), network="mlp").diagnose(healthy | {"train_critic_spread": 0.01})["collapse"]
    assert "--loss relativistic" not in own and "--loss wasserstein-gp" in own


def test_nothing_is_said_of_a_healthy_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = pofx.load_data("digits")
    pofx.train(GAN(data.space, channels=8, latents=8), data, out=tmp_path / "run", steps=150)
    said = capsys.readouterr().err
    assert "Try" not in said and "collapsed" not in said


def test_averaged_weights_are_spectrally_normalised(tmp_path: Path) -> None:
    data = pofx.load_data("digits")
    model = GAN(data.space, loss=NonSaturating(), normalisation="spectral", channels=8, latents=4, lr=1e-2)
    run = pofx.train(model, data, out=tmp_path / "run", steps=60, quiet=True)
    kept = pofx.load(run.path)
    assert isinstance(kept, GAN)
    weights = [module.weight for module in kept.critic.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(weights) > 2
    for weight in weights:
        assert float(torch.linalg.matrix_norm(weight.detach().flatten(1), 2)) == pytest.approx(1, abs=1e-4)


def test_no_value_is_the_real_images_alone() -> None:
    space = ImageSpace(1, 40, 40, levels=4)
    model = GAN.small(space)
    for level, low, high in ((0, -1.0, -1 + 1 / 3), (3, 1 - 1 / 3, 1.0), (1, -1 + 1 / 3, -1 + 1)):
        real = model._real(model.batch(torch.full((2, 1, 40, 40), level, dtype=torch.uint8)), Noise(0, torch.arange(2)))
        assert len(real.unique()) > 0.95 * real.numel() and low - 1e-6 <= float(real.min()) <= float(real.max()) <= high + 1e-6


def test_diffaugment_and_a_view_of_planes_are_refused() -> None:
    with pytest.raises(InputError, match="unmoved"):
        GAN(ImageSpace(1, 8, 8), Top(2), diffaugment="geometry")
    model = GAN(ImageSpace(1, 8, 8), Label(3), diffaugment="all", channels=4, latents=2)
    assert torch.isfinite(model.objectives()[0].loss(random_batch(model, 8), context())[0])


def test_a_collapse_is_said_once_while_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = pofx.load_data("digits")
    model = GAN(data.space, network="mlp", loss=Minimax(), latents=2, hidden=8)
    model.generator.net.out.weight.data.zero_()  # one image, whatever z says
    pofx.train(model, data, out=tmp_path / "run", steps=120, lr=1e-7)
    assert capsys.readouterr().err.count("it has collapsed") == 1
    kept = read_run(tmp_path / "run").training["troubles"]["collapse"]
    assert kept.startswith("step 1") and "it has collapsed" in kept  # and is found again in the report
    healthy = pofx.train(GAN.small(data.space), data, out=tmp_path / "well", steps=2, quiet=True)
    assert isinstance(healthy, pofx.Run) and "troubles" not in read_run(healthy.path).training


def test_codes_of_another_width_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(n, 4\), found \(2, 3\)"):
        GAN.small(ImageSpace(1, 5, 5)).decode(torch.zeros(2, 3))


def test_one_pixel_at_a_time_is_refused_where_batches_are_normalised() -> None:
    cases: list[tuple[Network, bool]] = [("dcgan", True), ("mlp", False)]
    for network, refused in cases:
        model = GAN(ImageSpace(1, 1, 1), network=network, latents=2, channels=4).train()
        one = Context(0, 0.0, Noise(0, torch.arange(1)))
        with pytest.raises(InputError, match="--batch-size 2") if refused else nullcontext():
            model.objectives()[0].loss(random_batch(model, 1), one)


@pytest.mark.parametrize(
    "settings",
    [
        {"latents": 0},
        {"channels": 0},
        {"stages": -1},
        {"critic_steps": 0},
        {"network": "transformer"},
        {"normalisation": "Batch"},
        {"diffaugment": "all of it"},
        {"loss": "hinge"},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match="GAN"):
        GAN(ImageSpace(1, 8, 8), **settings)  # type: ignore[arg-type]
