"""Bayes' rule on spaces where every image can be listed; then what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import pofx
from pofx import catalog
from pofx.errors import CapabilityError, InputError, RunError
from pofx.model import Batch, Context, ExactLikelihood, ImageModel, Labeler, LabelScore
from pofx.models.autoregressive.pixelcnn import PixelCNN
from pofx.models.composed.bayes import BayesClassifier, BayesConditional, Labels
from pofx.models.discriminative.classifier import Classifier
from pofx.models.variational.vae import VAE
from pofx.noise import Noise
from pofx.space import ImageSpace
from pofx.testing import chi_square, densify, every_image, fit, image_index, quadrature_log_prob, random_batch, random_images
from pofx.training import load_model, save_model
from pofx.views import Label

SPACE = ImageSpace(1, 2, 2, levels=2)
X = every_image(SPACE)  # all 16


def part(seed: int, given: Label | None = None) -> PixelCNN:
    model = densify(PixelCNN.small(SPACE, given).double(), seed)
    assert isinstance(model, PixelCNN)
    return model


def labeler(classes: int, seed: int) -> Classifier:
    torch.manual_seed(seed)
    model = Classifier(SPACE, classes=classes, channels=4, stages=0).double()
    with torch.no_grad():
        model.out.weight.mul_(20)  # labels that depend on the image
    return model.eval()


class Never(Labeler):
    """p(y = 1 | x) = 0 for all x."""

    family, paper, classes = ("discriminative",), "none", 2

    def __init__(self, space: ImageSpace) -> None:
        super().__init__(space)
        self.nothing = nn.Parameter(torch.zeros((), dtype=torch.double))

    @classmethod
    def small(cls, space: ImageSpace, given=None) -> Never:
        return cls(space)

    def objectives(self):
        return []

    def label(self, x: Tensor) -> LabelScore:
        return LabelScore(torch.tensor([[0.0, -math.inf]], dtype=torch.double).expand(len(x), 2) + self.nothing, "exact")


def conditional(given=None, n: int = 1, **more) -> BayesConditional:
    labelers = tuple(labeler(k, i) for i, k in enumerate((3, 2)[:n]))
    return BayesConditional(SPACE, given or Label(3), density=part(1), labelers=labelers, **more)


def test_classifier_is_the_exact_posterior() -> None:
    prior = (0.5, 0.2, 0.3)
    model = BayesClassifier(SPACE, conditional=part(0, Label(3)), classes=3, prior=prior).double()
    with torch.no_grad():
        p_x_y = torch.stack([model.part.log_prob(X, torch.full((16,), y)) for y in range(3)], 1).exp()  # type: ignore[operator]
        joint = p_x_y * torch.tensor(prior, dtype=torch.double)
        found = model.label(X)
    assert found.kind == "exact"
    assert float((found.log_prob.exp() - joint / joint.sum(1, keepdim=True)).abs().max()) < 1e-9
    assert abs(float(joint.sum()) - 1) < 1e-9


@pytest.mark.parametrize("part_class", [PixelCNN, VAE])
def test_contrast_is_the_cross_entropy_of_labels(part_class: type[ImageModel]) -> None:
    """With all labels as rivals and all images, the objective is that of the part plus contrast times −mean log p(y | x)."""
    space, y = ImageSpace(1, 2, 3, levels=2), torch.tensor([2, 0, 1, 1])
    x = random_images(4, space)
    conditional = part_class.small(space, Label(3)).double()
    plain, told = (BayesClassifier(space, conditional=conditional, classes=3, contrast=c, rivals=9, share=1.0).double() for c in (0, 0.5))
    losses = []
    for model in (plain, told):
        [objective] = model.objectives()
        losses.append(objective.loss(Batch(x, y), Context(4, 0.0, Noise(0, torch.arange(4))))[0])
    part = told.part
    with torch.no_grad():
        likelihood = [part.log_prob(x, k) if isinstance(part, ExactLikelihood) else part.elbo(x, k, seed=4) for k in range(3)]  # type: ignore[union-attr]
    expected = -torch.stack(likelihood, 1).log_softmax(1).gather(1, y[:, None]).mean()
    assert float((losses[1] - losses[0]).detach()) == pytest.approx(0.5 * float(expected), abs=1e-9)
    losses[1].backward()
    assert all(p.grad is not None for p in told.parameters())


def test_contrast_teaches_labels_that_likelihood_hardly_sees() -> None:
    """The class is one pixel of 16, the others are noise: at equal steps contrast knows it better."""
    space, generator = ImageSpace(1, 4, 4, levels=2), torch.Generator().manual_seed(0)
    x = torch.randint(0, 2, (64, 1, 4, 4), generator=generator).byte()
    y = x[:, 0, 3, 3].long()
    costs = []
    for contrast in (0.0, 1.0):
        torch.manual_seed(0)
        made = catalog.get("gated-pixelcnn").small(space, Label(2))
        model = BayesClassifier(space, conditional=made, classes=2, contrast=contrast, share=1.0)
        fit(model, Batch(x, y), steps=100, lr=3e-3)
        costs.append(-float(model.label(x).log_prob.gather(1, y[:, None]).mean().detach()))
    assert costs[1] < costs[0] - 0.04  # nats of log p(y | x)


def test_conditional_sums_to_one_and_is_the_exact_one() -> None:
    model = conditional()
    with torch.no_grad():
        p_x, p_y_x = model.part.log_prob(X).exp(), model.evidences[0].label(X).log_prob.exp()  # type: ignore[operator, union-attr]
        for y in range(3):
            found = model.log_density(X, y)
            expected = p_y_x[:, y] * p_x / (p_y_x[:, y] * p_x).sum()
            assert found.kind == "exact" and float(found.se.max()) == 0
            assert abs(float(found.log_prob.exp().sum()) - 1) < 1e-9
            assert float((found.log_prob.exp() - expected).abs().max()) < 1e-9


def test_composing_back_gives_the_classifier() -> None:
    model = conditional()
    with torch.no_grad():
        joint = torch.stack([model.log_density(X, y).log_prob + model.evidence(y).log_prob for y in range(3)], 1)
        assert float((joint.softmax(1) - model.evidences[0].label(X).log_prob.exp()).abs().max()) < 1e-9  # type: ignore[operator, union-attr]
        evidence = model.evidence(torch.arange(3))
    assert abs(float(evidence.log_prob.exp().sum()) - 1) < 1e-9


def test_several_evidences_multiply() -> None:
    model = conditional(Labels((3, 2)), 2)
    with torch.no_grad():
        p_x = model.part.log_prob(X).exp()  # type: ignore[operator]
        a, b = (e.label(X).log_prob.exp() for e in model.evidences)  # type: ignore[operator]
        joint = a[:, 1] * b[:, 0] * p_x
        assert float((model.log_density(X, [1, 0]).log_prob.exp() - joint / joint.sum()).abs().max()) < 1e-9
        everything = model.evidence(torch.cartesian_prod(torch.arange(3), torch.arange(2)))
    assert abs(float(everything.log_prob.exp().sum()) - 1) < 1e-9


def test_several_labels_of_a_batch_are_its_value() -> None:
    y = torch.tensor([[2, 0], [1, 1]])
    batch = conditional(Labels((3, 2)), 2).batch(X[:2], y)
    assert batch.given is not None and torch.equal(batch.given, y)
    with pytest.raises(InputError, match="needs 2 labels"):
        PixelCNN.small(SPACE, Labels((3, 2))).batch(X[:2], y[:, 0])


@pytest.mark.parametrize("given", [Label(3), Labels((3, 2))])
def test_draws_follow_the_conditional(given) -> None:
    model = conditional(given, 1 if isinstance(given, Label) else 2)
    value = 2 if isinstance(given, Label) else [2, 1]
    p = model.log_density(X, value).log_prob.exp().detach()
    drawn = image_index(model.sample(2000, value, seed=3), SPACE)
    assert chi_square(torch.bincount(drawn, minlength=16), p) > 1e-4
    assert torch.equal(model.sample(5, value, seed=3, first=7), model.sample(12, value, seed=3)[7:])


def test_resampling_follows_it_too_and_says_how_many_samples_count() -> None:
    model = conditional(draws=4000)
    found = model.resample(4000, 2)
    p = model.log_density(X, 2).log_prob.exp().detach()
    shares = torch.bincount(image_index(found.images, SPACE), minlength=16) / 4000
    assert float((shares - p).abs().max()) < 0.04
    w = model.evidences[0].label(X).log_prob[:, 2].exp()  # type: ignore[operator, union-attr]
    p_x = model.part.log_prob(X).exp()  # type: ignore[operator]
    expected = 4000 * (w * p_x).sum() ** 2 / (w**2 * p_x).sum()
    assert 1 < found.ess <= 4000 and found.ess == pytest.approx(float(expected.detach()), rel=0.1)


def test_evidence_is_estimated_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = conditional()
    exact = model.evidence(torch.arange(3)).log_prob
    monkeypatch.setattr("pofx.models.composed.bayes.ENUMERABLE", 1)
    found = [model.evidence(torch.arange(3), draws=400, seed=s) for s in range(20)]
    assert all(f.kind == "estimate" and bool((f.ess <= 400).all()) for f in found)
    off = torch.stack([(f.log_prob - exact) / f.se for f in found])
    assert 0.5 < float(off.std()) < 1.6 and float(off.abs().max()) < 5
    density = model.log_density(X, 1)
    assert density.kind == "estimate" and bool((density.se > 0).all())


def test_a_bound_gives_an_estimate_near_the_truth() -> None:
    torch.manual_seed(0)
    vae = VAE.small(SPACE, Label(3)).double()
    fit(vae, random_batch(vae, 16), 20)
    model = BayesClassifier(SPACE, conditional=vae, classes=3, samples=200).double()
    with torch.no_grad():
        found = model.label(X[:4])
        exact = torch.stack([quadrature_log_prob(vae, X[:4], torch.full((4,), y)) for y in range(3)], 1).log_softmax(1)
    assert found.kind == "estimate"
    assert float((found.log_prob - exact).abs().max()) < 0.1


def test_counts_are_a_prior() -> None:
    model = BayesClassifier(SPACE, conditional=part(0, Label(3)), classes=3, prior="counts").double()
    model.settle(iter([model.batch(X[:8], torch.tensor([0, 0, 0, 0, 0, 1, 1, 0]))]))
    assert model.log_prior.exp().tolist() == pytest.approx([7 / 11, 3 / 11, 1 / 11])


@pytest.mark.parametrize("make", [lambda: conditional(), lambda: BayesClassifier(SPACE, conditional=part(0, Label(3)), classes=3).double()])
def test_parts_are_saved_with_the_whole(make, tmp_path) -> None:
    model: ImageModel = make().float()
    save_model(model, tmp_path, {})
    again = load_model(tmp_path)
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    if isinstance(again, BayesConditional) and isinstance(model, BayesConditional):
        assert torch.equal(again.log_density(X, 1).log_prob, model.log_density(X, 1).log_prob)
    elif isinstance(again, Labeler) and isinstance(model, Labeler):
        assert torch.equal(again.label(X).log_prob, model.label(X).log_prob)
    text = catalog.arguments_to_json(model.config())
    assert catalog.arguments_to_json(catalog.arguments_from_json(text)) == text


def test_parts_that_are_models_already_stay_as_they_are(tmp_path) -> None:
    """Nothing is trained, settled or initialised in them, unless they are to be tuned; those that are made here are trained."""
    space = ImageSpace(1, 8, 8, levels=17)
    data = pofx.load_data("digits")
    density = VAE(space, network="mlp", hidden=8, latents=2, likelihood="gaussian", scale="optimal")  # a scale that training would settle
    known = catalog.get("classifier")(space, classes=10, channels=4, stages=0)  # type: ignore[call-arg]
    model = BayesConditional(space, Label(10), density=density, labelers=(known,))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert list(model.objectives()) == []
    run = pofx.train(model, data, out=tmp_path / "run", quiet=True)
    again = load_model(tmp_path / "run")
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert run.metrics == {} and isinstance(again, BayesConditional) and not list(again.objectives())
    assert isinstance(pofx.train(model, data, out=tmp_path / "run", quiet=True).model, BayesConditional)  # done already
    with pytest.raises(InputError, match="trained already, and it has no others. Leave out --steps"):
        pofx.train(model, data, out=tmp_path / "other", steps=3, quiet=True)
    with pytest.raises(InputError, match="Leave out --extend"):
        pofx.train(model, data, out=tmp_path / "run", extend=True, quiet=True)
    plan = pofx.train(model, data, out=tmp_path / "dry", dry_run=True, quiet=True)
    assert "0 of 64 images" in str(plan) and not (tmp_path / "dry").exists()

    mixed = BayesConditional(space, Label(10), density="gated-pixelcnn", labelers=(known,))
    assert [o.name.split(":")[0] for o in mixed.objectives()] == ["p(x)"]
    tuned = BayesConditional(space, Label(10), density=density, labelers=(known,), tune=True)
    assert [o.name.split(":")[0] for o in tuned.objectives()] == ["p(x)", "p(y | x)"]
    assert [o.name.split(":")[0] for o in BayesConditional(space, Label(10), density=density).objectives()] == ["p(y | x)"]


def test_runs_without_a_temperature_load_with_one_of_1() -> None:
    from pofx.training.runs import younger

    model = conditional()
    assert younger(model) == ["evidences.0.temperature"]


def test_bad_input() -> None:
    with pytest.raises(InputError, match="p\\(y\\) = 0 for class 1"):
        BayesClassifier(SPACE, conditional=part(0, Label(3)), classes=3, prior=(0.5, 0.0, 0.5))
    with pytest.raises(InputError, match="sums to"):
        BayesClassifier(SPACE, conditional=part(0, Label(3)), classes=3, prior=(0.5, 0.5, 0.5))
    with pytest.raises(InputError, match="classes=3"):
        BayesClassifier(SPACE, conditional=part(0, Label(3)))
    with pytest.raises(InputError, match="--given label"):
        BayesClassifier(SPACE, conditional=part(0))
    with pytest.raises(CapabilityError, match="Classifier cannot be the p"):
        BayesClassifier(SPACE, conditional=labeler(3, 0))
    with pytest.raises(InputError, match="same images"):
        BayesClassifier(ImageSpace(1, 3, 3, levels=2), conditional=part(0, Label(3)), classes=3)
    model = conditional()
    with pytest.raises(InputError, match="outside 0 … 2"):
        model.log_density(X, 3)
    with pytest.raises(InputError, match="outside 0 … 1"):
        conditional(Labels((3, 2)), 2).sample(1, [0, 2])
    with pytest.raises(InputError, match="one p"):
        BayesConditional(SPACE, Labels((3, 2)), density=part(1), labelers=(labeler(3, 0),))
    with pytest.raises(InputError, match="no label to condition on: add given=Label"):
        BayesConditional(SPACE, density=part(1), labelers=(labeler(3, 0),))
    never = BayesConditional(SPACE, Label(2), density=part(1), labelers=(Never(SPACE),))
    for ask in (lambda: never.log_density(X, 1), lambda: never.evidence(1), lambda: never.resample(4, 1)):
        with pytest.raises(InputError, match="p\\(y\\) = 0"):
            ask()
    assert float(never.evidence(0).log_prob) == pytest.approx(0)


def test_draws_of_what_cannot_be_end_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pofx.models.composed.bayes.PATIENCE", 20)
    with pytest.raises(RunError, match="resample"):
        BayesConditional(SPACE, Label(2), density=part(1), labelers=(Never(SPACE),)).sample(2, 1)


def test_a_gan_as_density_can_be_sampled_and_has_no_density() -> None:
    gan = catalog.get("gan").small(SPACE)
    model = BayesConditional(SPACE, Label(3), density=gan, labelers=(labeler(3, 0).float(),), draws=50)
    assert model.sample(3, 1).shape == (3, 1, 2, 2)
    assert not isinstance(model, ExactLikelihood)
    with pytest.raises(CapabilityError, match="no likelihood"):
        model.log_density(random_images(2, SPACE), 1)
