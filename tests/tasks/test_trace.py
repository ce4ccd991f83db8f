"""Watching images being drawn: the draw itself is untouched, entropies are those of closed forms, the pictures say what happened."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pofx import pictures
from pofx.errors import CapabilityError, InputError
from pofx.model import Autoregressive, Objective, inverse_cdf
from pofx.models.adversarial.gan import GAN
from pofx.models.autoregressive.gated_pixelcnn import GatedPixelCNN
from pofx.models.autoregressive.made import MADE
from pofx.models.autoregressive.pixelcnn import PixelCNN
from pofx.models.autoregressive.pixelcnn_pp import PixelCNNpp
from pofx.models.autoregressive.pixelrnn import PixelRNN
from pofx.space import ImageSpace
from pofx.tasks.sample import sample
from pofx.tasks.trace import FRAMES, trace
from pofx.views import Label, Subsample, Top, View

SPACE = ImageSpace(1, 5, 6, levels=5)


def lively(model: Any) -> Any:
    """Weights far from zero, so that each distribution is another."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.4)
    return model.eval()


@pytest.mark.parametrize("cls", [PixelCNN, GatedPixelCNN, MADE, PixelCNNpp, PixelRNN])
@pytest.mark.parametrize("space", [SPACE, ImageSpace(3, 3, 4, levels=256), ImageSpace(1, 1, 9, levels=3), ImageSpace(1, 1, 1, levels=2)])
def test_the_draw_is_that_of_sample(cls: Any, space: ImageSpace) -> None:
    model = lively(cls.small(space))
    found = trace(model, 3, seed=7, first=2)
    assert torch.equal(found.x, model.sample(3, seed=7, first=2))
    assert found.steps == len(model.order())
    assert sorted(found.step.flatten().unique().tolist()) == list(range(1, found.steps + 1))
    for number, group in enumerate(model.order()):
        assert (found.step.flatten()[group] == number + 1).all()


def test_many_images_are_drawn_as_sample_draws_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which may be in threads, and without a table of all levels."""
    model = lively(PixelCNNpp.small(ImageSpace(1, 4, 4)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert torch.equal(trace(model, 64, seed=1).x, model.sample(64, seed=1))


def test_entropies_are_those_of_the_conditionals() -> None:
    """By enumeration: −Σ_v p(v | x_<i) log p(v | x_<i) of the full pass, each value of a sub-pixel put in its place."""
    model = lively(GatedPixelCNN.small(ImageSpace(1, 3, 3, levels=4))).double()
    found = trace(model, 2, seed=1)
    expected = torch.zeros(2, 9, dtype=torch.float64)
    for i in range(9):
        for v in range(4):
            x = found.x.clone()
            x.flatten(1)[:, i] = v
            logp = model.conditional_log_prob(x, None).detach().flatten(1)[:, i]
            expected[:, i] -= logp.exp() * logp
    assert (found.entropy.flatten(1).double() - expected).abs().max() < 1e-6


class Uniform(Autoregressive):
    """All sub-pixels uniform, two groups: the right half first."""

    family: ClassVar = ("toy",)
    paper: ClassVar = "none"

    def __init__(self, space: ImageSpace, given: View | None = None) -> None:
        super().__init__(space, given)
        self.zero = nn.Parameter(torch.zeros(()))

    @classmethod
    def small(cls, space: ImageSpace, given: View | None = None) -> Uniform:
        return cls(space, given)

    def objectives(self) -> list[Objective]:
        return []

    def conditional_log_prob(self, x: Tensor, given: Tensor | None) -> Tensor:
        return self.zero - math.log(self.space.levels) * torch.ones_like(x, dtype=torch.float32)

    def order(self) -> list[Tensor]:
        left = torch.arange(self.space.dims).reshape(-1, self.space.width) % self.space.width < self.space.width // 2
        return [(~left).flatten().nonzero()[:, 0], left.flatten().nonzero()[:, 0]]

    def begin(self, n: int, given: Any = None) -> Any:
        from pofx.model import Steps

        class Two(Steps):
            def __init__(self, model: Uniform) -> None:
                self.groups = model.order()
                self.levels = model.space.levels

            def distribution(self) -> Tensor:
                return torch.full((n, len(self.groups[0]), self.levels), -math.log(self.levels))

            def draw(self, u: Tensor) -> Tensor:
                return inverse_cdf(self.distribution(), u)

            def fix(self, values: Tensor) -> None:
                self.groups.pop(0)

            def fill(self, x: Tensor, rows: int) -> None: ...

        return Two(self)


def test_groups_are_steps_and_a_uniform_model_is_as_uncertain_as_can_be() -> None:
    model = Uniform(SPACE)
    found = trace(model, 2)
    assert torch.equal(found.x, model.sample(2))
    assert found.steps == 2
    assert (found.step[..., 3:] == 1).all()
    assert (found.step[..., :3] == 2).all()
    assert torch.allclose(found.entropy, torch.tensor(math.log(5)))


@pytest.mark.parametrize("view", [Label(3), Top(2), Subsample(2)])
def test_what_is_known_costs_no_step(view: View) -> None:
    space = ImageSpace(1, 6, 6, levels=4)
    model = lively(GatedPixelCNN.small(space, view))
    x = torch.randint(0, 4, (3, 1, 6, 6), dtype=torch.uint8)
    given = view.value(x, torch.tensor([0, 1, 2]))
    found = trace(model, 3, given, seed=4)
    assert torch.equal(found.x, model.sample(3, given, seed=4))
    known = model.known()
    known = torch.zeros(space.shape, dtype=torch.bool) if known is None else known
    assert torch.equal(found.entropy.isnan(), known.expand(3, -1, -1, -1))
    assert torch.equal(found.step == 0, known)
    assert found.steps == model.dims


def test_a_temperature_changes_the_trace_as_it_changes_the_draw() -> None:
    model = lively(PixelCNN.small(SPACE))
    cold = trace(model, 2, temperature=0.3)
    assert torch.equal(cold.x, sample(model, 2, temperature=0.3).x)  # type: ignore[arg-type]
    assert cold.entropy.mean() < trace(model, 2).entropy.mean()


def shown(path: Path) -> list[np.ndarray]:
    with Image.open(path) as file:
        out = []
        for k in range(getattr(file, "n_frames", 1)):
            file.seek(k)
            out.append(np.asarray(file.convert("RGB")))
        assert file.info.get("loop") == 0
    return out


@pytest.mark.parametrize("suffix", [".gif", ".png"])
@pytest.mark.parametrize("space", [SPACE, ImageSpace(3, 3, 4, levels=7), ImageSpace(1, 1, 9, levels=3), ImageSpace(5, 2, 2, levels=2)])
def test_every_frame_shows_what_is_fixed_and_nothing_more(space: ImageSpace, suffix: str, tmp_path: Path) -> None:
    model = lively(PixelCNN(space, layers=1, channels=4 * space.channels))
    found = trace(model, 2, seed=3)
    frames = shown(found.write(tmp_path / f"a{suffix}"))
    steps = found.frames()
    assert len(frames) == len(steps) == found.steps + 1
    image, (h, w) = pictures.rgb(found.x, space.levels)[0], (space.height, space.width)
    together = found.step.max(0).values.numpy() if space.channels < 5 else np.concatenate(list(found.step.numpy()), 1)
    scale = min(32, (512 if w > 3 * h else 96) // max(h, w))
    down = max(scale, 8) if h == 1 else scale
    top, left = 15 + 4, 4  # a line of text, and the gap around a cell
    for step, frame in zip(steps, frames, strict=True):
        inside = frame[top : top + down * h, left : left + scale * image.shape[1]]
        points = inside[down // 2 :: down, scale // 2 :: scale]
        fixed = together <= step
        assert (points[fixed] == image[fixed]).all()
        whole = inside.reshape(h, down, image.shape[1], scale, 3).transpose(0, 2, 1, 3, 4)[~fixed]
        assert (whole.min((1, 2, 3)) >= 222).all()
        assert (whole.std((1, 2)) > 0).all()  # a chequer is no colour of an image


def test_many_steps_share_a_frame(tmp_path: Path) -> None:
    model = lively(GatedPixelCNN(ImageSpace(1, 28, 28, levels=2), layers=1, channels=4))
    found = trace(model, 16)
    assert found.steps == 784
    assert (found.frames()[0], found.frames()[-1], len(found.frames())) == (0, 784, FRAMES)
    for suffix in (".gif", ".png"):
        path = found.write(tmp_path / f"a{suffix}")
        frames = shown(path)
        assert len(frames) == FRAMES
        assert path.stat().st_size < 1_000_000  # noise is the worst case
        with Image.open(path) as file:
            assert max(file.size) < 1000


def test_256_greys_are_exact_in_png_and_near_in_gif(tmp_path: Path) -> None:
    space = ImageSpace(1, 28, 28, levels=256)
    found = trace(Uniform(space), 1)
    want = pictures.rgb(found.x)[0].astype(int)
    scale = 192 // 28
    for suffix, most in ((".png", 0), (".gif", 4)):
        last = shown(found.write(tmp_path / f"a{suffix}"))[-1][19 : 19 + 28 * scale : scale, 4 : 4 + 28 * scale : scale]
        assert abs(last.astype(int) - want).max() <= most


def test_sample_writes_it(tmp_path: Path) -> None:
    model = lively(PixelCNN.small(SPACE))
    result = sample(model, 2, seed=5, trace=True, out=tmp_path / "a.gif")
    assert result.kind == "samples of p"
    assert torch.equal(result.x, model.sample(2, seed=5))  # type: ignore[arg-type]
    assert sample(model, 1, temperature=0.5, trace=True, out=tmp_path / "b.png").kind == "not samples of p"


def test_refusals(tmp_path: Path) -> None:
    model = PixelCNN.small(SPACE)
    gan = GAN.small(ImageSpace(1, 8, 8, levels=17))
    with pytest.raises(CapabilityError, match="GAN cannot be traced.*needs Autoregressive, and it has Sampler"):
        sample(gan, 1, trace=True, out=tmp_path / "a.gif")
    for n in (0, 65):
        with pytest.raises(InputError, match=f"n={n}"):
            trace(model, n)
    with pytest.raises(InputError, match="first=-1"):
        trace(model, 1, first=-1)
    with pytest.raises(InputError, match=r".gif, .png"):
        sample(model, 1, trace=True, out=tmp_path / "a.npy")
    with pytest.raises(InputError, match="say where"):
        sample(model, 1, trace=True)
    with pytest.raises(InputError, match="given"):
        trace(lively(GatedPixelCNN.small(SPACE, Label(3))), 1)
    assert not list(tmp_path.glob("a.*"))
