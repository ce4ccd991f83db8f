"""Views: what they know, what they refuse."""

from __future__ import annotations

import math

import pytest
import torch

from pofx.errors import InputError
from pofx.model import Decoder, ExactLikelihood, Sampler
from pofx.models.adversarial.gan import GAN
from pofx.models.autoencoding.autoencoder import Autoencoder
from pofx.models.autoregressive.fvbn import FVBN
from pofx.models.autoregressive.multiscale import Multiscale
from pofx.models.autoregressive.pixelcnn import PixelCNN
from pofx.models.variational.vae import VAE
from pofx.nn.conditioning import Context
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.tasks.score import score
from pofx.testing import chi_square, densify, every_image, fitting_views, image_index, random_images, random_notes
from pofx.views import Attributes, Caption, Gray, Half, Label, Masked, PartialLabel, Subsample, Top, random_masks

SPACES = [ImageSpace(1, 5, 7), ImageSpace(3, 4, 4, levels=6), ImageSpace(1, 1, 9, levels=3), ImageSpace(3, 6, 3)]


@pytest.mark.parametrize("space", SPACES)
def test_values_check_features_and_known(space: ImageSpace) -> None:
    x, y = random_images(4, space), torch.tensor([0, 1, 2, 0])
    for view in fitting_views(space):
        written = random_notes(view, 4)
        value = view.value(x, y if written is None else written)
        assert torch.equal(view.check(value, 4, space), value)
        assert view.features(value, space).shape == (4, *view.feature_shape(space))
        known, filled = view.known(space, value), view.fill(value, space)
        if known is None:
            assert view.dims(space) == space.dims and not filled.any()
            continue
        known = known.expand(4, *space.shape)
        assert torch.equal(filled, x * known)
        assert (torch.as_tensor(view.dims_of(space, value)) == space.dims - known.flatten(1).sum(1)).all()
        assert view.dims(space) == (space.dims if view.varies else space.dims - int(known[0].sum()))


def test_gray_is_luma_and_half_the_area_mean() -> None:
    x = torch.tensor([255, 0, 0], dtype=torch.uint8).reshape(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert int(Gray().value(x, None)[0, 0, 0, 0]) == 76
    x = torch.tensor([[0, 1, 9], [2, 3, 9], [4, 6, 8]], dtype=torch.uint8).reshape(1, 1, 3, 3)
    assert Half().value(x, None).flatten().tolist() == [2, 9, 5, 8]


@pytest.mark.parametrize(
    ("view", "space"),
    [
        (Gray(), ImageSpace(1, 4, 4)),
        (Top(4), ImageSpace(1, 4, 4)),
        (Top(0), ImageSpace(1, 4, 4)),
        (Subsample(1), ImageSpace(1, 4, 4)),
        (Subsample(2), ImageSpace(1, 1, 1)),
        (Label(0), ImageSpace(1, 4, 4)),
    ],
)
def test_views_that_make_no_sense_are_refused(view, space) -> None:
    with pytest.raises(InputError):
        view.check_space(space)


@pytest.mark.parametrize("value", [10, -1, [0, 1, 2], 1.5, True])
def test_wrong_labels_are_refused(value) -> None:
    with pytest.raises(InputError):
        Label(10).check(value, 2, ImageSpace(1, 4, 4))


def test_data_without_labels_is_refused() -> None:
    with pytest.raises(InputError, match="no labels"):
        Label(10).value(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), None)


def test_values_of_another_shape_or_level_are_refused() -> None:
    space = ImageSpace(1, 4, 4, levels=4)
    for bad in (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, 1, 2, 2), torch.full((2, 1, 2, 2), 9, dtype=torch.uint8)):
        with pytest.raises(InputError):
            Subsample(2).check(bad, 2, space)


# Masked ----------------------------------------------------------------------------------------------------------------------------------


def test_a_mask_is_a_function_of_seed_and_image_alone() -> None:
    space = ImageSpace(2, 5, 6)
    x = random_images(12, space)
    fixed = Masked().value(x, None)
    assert torch.equal(Masked().value(x.flip(0), None), fixed.flip(0)), "the fixed draw depends on the batch"
    assert torch.equal(torch.cat([Masked().value(x[i : i + 1], None) for i in range(12)]), fixed)
    step = Noise(1, torch.arange(12))
    drawn = Masked().value(x, None, step)
    assert torch.equal(Masked().value(x[3:5], None, Noise(1, torch.arange(3, 5))), drawn[3:5])
    for other in (fixed, Masked().value(x, None, Noise(2, torch.arange(12))), Masked().value(x, None, Noise(1, 12 + torch.arange(12)))):
        assert not torch.equal(other, drawn)


@pytest.mark.parametrize("size", [(1, 2), (2, 1), (1, 9), (8, 8), (3, 20)])
def test_random_masks_leave_something_to_complete_and_are_mixed(size: tuple[int, int]) -> None:
    masks = random_masks(Noise(0, torch.arange(4000)), *size)
    share = masks.double().flatten(1).mean(1)
    assert float(share.max()) < 1 and 0.1 < float((share == 0).double().mean()) < 0.6
    assert 0.25 < float(share.mean()) < 0.6
    assert float(masks.double().mean(0).std()) < 0.1 or size[0] * size[1] == 2, "some pixel is much more often known than another"


@pytest.mark.parametrize("model", [FVBN, PixelCNN, Multiscale])
def test_masked_probabilities_sum_to_one_over_the_unknown_pixels_and_known_ones_are_free(model) -> None:
    space = ImageSpace(1, 2, 3, levels=3)
    made = densify(model.small(space, Masked()).double())
    assert isinstance(made, ExactLikelihood)
    images = every_image(space)
    known = torch.tensor([[True, False, False], [True, True, False]])
    for at in (0, 100, 700):
        x = images[at : at + 1]
        agree = images[((images == x) | ~known).flatten(1).all(1)]
        value = Masked.cut(x, known)
        with torch.no_grad():
            assert len(agree) == 27
            assert abs(float(made.log_prob(agree, value).exp().sum()) - 1) < 1e-12
    with torch.no_grad():
        nothing = torch.zeros(space.shape[1:], dtype=torch.bool)
        assert abs(float(made.log_prob(images, Masked.cut(images, nothing)[:1]).exp().sum()) - 1) < 1e-12


def test_masked_draws_follow_the_conditional() -> None:
    space = ImageSpace(1, 2, 2, levels=2)
    model = densify(PixelCNN.small(space, Masked()).double())
    assert isinstance(model, PixelCNN)
    x, known = torch.tensor([[[[1, 0], [0, 1]]]], dtype=torch.uint8), torch.tensor([[False, False], [False, True]])
    value = Masked.cut(x, known)
    images = every_image(space)[1::2]  # the last pixel is 1
    with torch.no_grad():
        p = model.log_prob(images, value).exp()
    drawn = model.sample(8000, value, seed=1)
    assert bool((drawn[:, 0, 1, 1] == 1).all())
    assert chi_square(torch.bincount(image_index(drawn, space), minlength=16)[1::2], p) > 1e-4


@pytest.mark.parametrize("model", [PixelCNN, VAE, GAN, Autoencoder])
def test_known_pixels_come_back_bit_for_bit_whatever_the_mask_of_each_image(model) -> None:
    space = ImageSpace(3, 5, 4)
    made = densify(model.small(space, Masked()))
    x = random_images(20, space)
    value = Masked().value(x, None)
    known = Masked().known(space, value)
    if isinstance(made, Sampler):
        shown = made.sample(20, value)
    else:
        assert isinstance(made, Decoder)
        shown = made.decode(torch.zeros(20, made.latent_dims), value).mean
    assert known is not None and torch.equal(shown[known].to(torch.uint8), x[known])


def test_the_gradient_of_known_pixels_is_zero() -> None:
    model = densify(PixelCNN.small(ImageSpace(1, 4, 4), Masked()).double())
    assert isinstance(model, PixelCNN)
    x = random_images(6, model.space)
    value = Masked().value(x, None)
    terms = torch.zeros(6, 1, 4, 4, dtype=torch.double, requires_grad=True)
    loss, logs = model.nll(terms - 1, value)
    loss.backward()
    known = Masked().known(model.space, value)
    assert terms.grad is not None and known is not None and torch.equal(terms.grad == 0, known)
    assert set(terms.grad[~known].tolist()) == {-1 / (6 * 16)}, "unknown sub-pixels weigh differently"
    assert float(logs["bits_per_dim"]) == pytest.approx(1 / math.log(2)), "an image costs 1 nat per unknown sub-pixel of its own"


def test_scores_divide_by_the_dims_of_each_image() -> None:
    model = PixelCNN.small(ImageSpace(1, 3, 4, levels=4), Masked())
    x = random_images(9, model.space)
    found = score(model, x)
    value = Masked().value(x, None)
    dims = model.dims_of(value)
    assert isinstance(dims, torch.Tensor) and len(dims.unique()) > 2 and torch.equal(torch.as_tensor(found.score.dims), dims)
    expected = -model.log_prob(x, value).double() / (dims * math.log(2))
    assert torch.allclose(found.score.bits_per_dim, expected) and found.to_json()["dims"] == pytest.approx(float(dims.double().mean()))
    rows = torch.arange(12).reshape(1, 3, 4).expand(9, 3, 4) < 5
    assert torch.equal(torch.as_tensor(model.dims_of(Masked.cut(x, rows))), torch.full((9,), 7))


def test_wrong_masks_are_refused() -> None:
    space = ImageSpace(1, 3, 3, levels=4)
    x = random_images(2, space)
    with pytest.raises(InputError, match="mask of images 3×3"):
        Masked.cut(x, torch.ones(3, 4, dtype=torch.bool))
    with pytest.raises(InputError, match="bool"):
        Masked.cut(x, torch.ones(3, 3))
    with pytest.raises(InputError, match="nothing to complete"):
        Masked().check(Masked.cut(x, torch.ones(3, 3, dtype=torch.bool)), 2, space)
    stray = torch.cat([torch.ones_like(x), torch.zeros_like(x)], 1)
    for bad in (stray, x, x * 0 + 9, torch.zeros(2, 2, 3, 3)):
        with pytest.raises(InputError):
            Masked().check(bad, 2, space)
    with pytest.raises(InputError, match="say which"):
        Masked().known(space)
    with pytest.raises(InputError, match="1×1"):
        Masked().check_space(ImageSpace(3, 1, 1))
    value = Masked.cut(x, torch.tensor([[True] * 3, [False] * 3, [False] * 3]))
    with pytest.raises(InputError, match="contradicts"):
        PixelCNN.small(space, Masked()).log_prob((x + 1) % 4, value)


# Attributes, captions, labels that are missing ---------------------------------------------------------------------------------------


def test_attributes_are_read_by_name_and_have_an_indicator_for_unknown() -> None:
    view = Attributes(("hat", "smiling"))
    notes = {"smiling": ["1", "", "0"], "hat": ["0", "1", ""], "age": ["7", "8", "9"]}
    value = view.read(notes, ["a", "b", "c"])
    assert value is not None and value.tolist() == [[0, 1], [1, 2], [2, 0]]
    assert view.features(value, SPACES[0]).tolist()[1] == [0, 1, 0, 0, 0, 1]
    assert view.check({"hat": 1}, 3, SPACES[0]).tolist() == [[1, 2]] * 3
    assert Attributes("hat,smiling") == view == Attributes(("hat,smiling",))  # type: ignore[arg-type]  # as a command line gives them


def test_wrong_attributes_are_refused() -> None:
    view, space = Attributes(("hat", "smiling")), SPACES[0]
    for notes, words in (
        ({}, "Nothing is written"),
        ({"hat": ["0"], "smilling": ["1"]}, "'smiling' .*Did you mean 'smilling'"),
        ({"hat": ["yes"], "smiling": ["1"]}, "'hat' of a.png is 'yes'; it must be 0"),
        ({"hat": [None], "smiling": ["1"]}, "a.png is not named"),
    ):
        with pytest.raises(InputError, match=words):
            view.read(notes, ["a.png"])
    for bad in ([[0, 1, 1]], [[0, 3]], [[0.0, 1.0]], [[0, 1]] * 3, {"beard": 1}, {"hat": "yes"}, {"hat": 0.5}, "hat=1", 3):
        with pytest.raises(InputError):
            view.check(bad, 2, space)
    for y in (None, torch.tensor([1, 0])):
        with pytest.raises(InputError, match="told"):
            view.value(random_images(2, space), y)
    for names in ((), ("a", "a")):
        with pytest.raises(InputError, match="names"):
            Attributes(names).check_space(space)


def test_captions_are_bytes_and_are_cut_only_when_read_from_data() -> None:
    view = Caption(5)
    value = view.read({"caption": ["Ünïcode", "", " a "]}, ["a", "b", "c"])
    assert value is not None and value.dtype == torch.uint8 and value.shape == (3, 5)
    assert bytes(value[0].tolist()).rstrip(b"\0").decode() == "ünï" and not value[1].any() and value[2].tolist() == [97, 0, 0, 0, 0]
    assert torch.equal(view.check("a", 2, SPACES[0]), value[2:].expand(2, 5))
    with pytest.raises(InputError, match="has 7 bytes; this model reads 5"):
        view.check("a b c d", 1, SPACES[0])
    for bad in (3, [], b"a", ["a", "b"], torch.zeros(1, 5)):
        with pytest.raises(InputError, match="expects texts"):
            view.check(bad, 1, SPACES[0])
    with pytest.raises(InputError, match="no captions"):
        view.read({"hat": ["1"]}, ["a"])
    with pytest.raises(InputError, match="told"):
        view.value(random_images(1, SPACES[0]), torch.tensor([1]))
    with pytest.raises(InputError, match="length"):
        Caption(0).check_space(SPACES[0])


def test_a_text_is_read_alike_whatever_is_behind_its_end_and_letters_have_an_order() -> None:
    torch.manual_seed(0)
    short, long = (Context(PixelCNN.small(SPACES[0], Caption(n)), 8).double() for n in (6, 30))
    long.load_state_dict(short.state_dict())
    words = ["hat", "tah", "", "hat hat"[:6]]
    a, b = short(Caption(6).encode(words)), long(Caption(30).encode(words))
    assert a is not None and b is not None and a.shape == (4, 8, 1, 1) and torch.allclose(a, b, atol=1e-12)
    assert not torch.allclose(a[0], a[1]) and bool(a.isfinite().all())


def test_missing_labels_have_an_indicator() -> None:
    view = PartialLabel(3)
    x = random_images(3, SPACES[0])
    assert view.value(x, torch.tensor([2, -1, 0])).tolist() == [2, -1, 0] and view.value(x, None).tolist() == [-1] * 3
    assert view.features(torch.tensor([2, -1, 0]), SPACES[0]).argmax(1).tolist() == [2, 3, 0]
    for bad in (-2, 3):
        with pytest.raises(InputError):
            view.check(bad, 1, SPACES[0])
