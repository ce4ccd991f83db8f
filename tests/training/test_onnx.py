"""The scoring graph: onnxruntime says what PyTorch says, in any batch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pofx import catalog
from pofx.errors import CapabilityError, InputError
from pofx.model import Batch, LatentVariable
from pofx.models.composed.bayes import BayesClassifier
from pofx.space import ImageSpace
from pofx.tasks.bulk import per_image
from pofx.tasks.score import costs
from pofx.training import onnx as subject
from pofx.training import save_model
from pofx.training.onnx import TOLERANCE, Scoring, difference, export_onnx, probes, to_onnx
from pofx.views import Label

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

SPACE = ImageSpace(1, 6, 5, levels=5)
SLOW = ("vae", "gated-pixelcnn", "pixelcnn-pp", "ladder-vae", "multiscale", "fvbn", "m2", "classifier", "bayes-classifier")


def small(name: str, space: ImageSpace = SPACE):
    torch.manual_seed(0)
    model = catalog.get(name).small(space).eval()
    x = probes(model, 4)
    model.initialise(Batch(x, torch.arange(len(x))))
    return model


@pytest.mark.parametrize("name", ["pixelcnn", "made", *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_onnxruntime_says_what_pytorch_says(name: str):
    scoring = Scoring(small(name), samples=2)
    written = to_onnx(scoring, {"kind": scoring.kind})
    worst = difference(scoring, written)
    assert worst is not None and worst <= TOLERANCE
    session = onnxruntime.InferenceSession(written)
    assert [output.name for output in session.get_outputs()] == list(scoring.outputs)
    assert session.get_modelmeta().custom_metadata_map["kind"] == scoring.kind
    x = probes(scoring.model, 5).numpy()
    together = session.run(None, {"x": x})
    one_by_one = [session.run(None, {"x": x[i : i + 1]}) for i in range(5)]
    for i, whole in enumerate(together):
        np.testing.assert_allclose(np.concatenate([part[i] for part in one_by_one]), whole, rtol=1e-5, atol=1e-5)
    x[0, 0, 0, 0] = SPACE.levels  # no level
    first = session.run(None, {"x": x})[0]
    assert (np.isnan(first[0]).all() if scoring.outputs == ("log_prob",) else first[0] == math.inf) and np.isfinite(first[1:]).all()


def test_an_exact_graph_gives_the_scores_of_the_verb():
    model = small("pixelcnn")
    x = probes(model, 7)
    nats, bits = Scoring(model)(x)
    wanted = costs(model, x)
    torch.testing.assert_close(nats.double(), wanted.nats, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(bits.double(), wanted.bits_per_dim, rtol=1e-5, atol=1e-5)


def test_a_bound_at_fixed_draws_is_that_bound():
    """E log p(x|z) − KL by the draws that are given, and its mean over many is the mean over others."""
    model = small("vae")
    assert isinstance(model, LatentVariable)
    x = probes(model, 3)
    epsilon = torch.randn(2, 3, model.latent_dims)
    q, parts = model.posterior(x), []
    for e in epsilon:
        log_likelihood = model.decode(q.sample(e)).log_prob(x).flatten(1).sum(1)
        parts.append(log_likelihood - q.kl().sum(1))
    torch.testing.assert_close(model.bound_at(x, epsilon).elbo, torch.stack(parts).mean(0))
    many, other = -Scoring(model, 400)(x)[0], model.elbo(x, samples=400)
    torch.testing.assert_close(many, other, rtol=0.02, atol=0.2)


@pytest.mark.parametrize("name", ["pixelcnn", "vae", "made"])
def test_scores_in_float32_are_right_to_a_hundredth_of_the_tolerance(name: str):
    """So that another order of sums, on another device, has room."""
    model = small(name)
    x = probes(model, 8)
    nats = costs(model, x).nats
    assert float((costs(model.double(), x).nats - nats).abs().max()) / SPACE.dims < TOLERANCE / 100


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", ["pixelcnn", "vae", "made", "gated-pixelcnn"])
def test_scores_of_a_gpu_are_those_of_the_cpu(name: str):
    model = small(name)
    x = probes(model, 8)
    nats = costs(model, x).nats
    assert float((costs(model.cuda(), x).nats - nats).abs().max()) / SPACE.dims < TOLERANCE


def test_convolutions_are_not_rounded_while_images_are_scored():
    model, seen = small("made"), []
    convolutions: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = convolutions.fp32_precision

    def look(x: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
        seen.append(convolutions.fp32_precision)
        return x[:, 0, 0, 0]

    per_image(model, look, probes(model, 2))
    assert set(seen) == {"ieee"} and convolutions.fp32_precision == before


@pytest.mark.parametrize("name", ["pixelcnn", "vae"])
def test_scores_do_not_depend_on_the_batch(name: str):
    model = small(name)
    x = probes(model, 6)
    alone = torch.cat([costs(model, x[i : i + 1]).nats for i in range(6)])
    assert torch.equal(alone, costs(model, x).nats) and torch.equal(alone.flip(0), costs(model, x.flip(0)).nats)


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match=r"p\(x \| label\)"):
        Scoring(catalog.get("pixelcnn").small(SPACE, Label(3)))
    with pytest.raises(CapabilityError, match="no scoring graph"):
        Scoring(catalog.get("gan").small(SPACE))
    with pytest.raises(InputError, match=r"PixelRNN cannot be written as ONNX .* memory of its own.*pofx score"):
        to_onnx(Scoring(small("pixelrnn")), {})
    bound = BayesClassifier(SPACE, conditional=catalog.get("vae").small(SPACE, Label(3)), classes=3)
    with pytest.raises(CapabilityError, match="keyed by each image.*pofx classify"):
        to_onnx(Scoring(bound), {})
    with pytest.raises(InputError, match="at least one draw"):
        Scoring(small("vae"), samples=0)
    with pytest.raises(InputError, match=r"ends in \.onnx"):
        export_onnx(tmp_path, tmp_path / "file")
    monkeypatch.setattr(subject, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "pofx\[onnx\]"'):
        to_onnx(Scoring(small("made")), {})


def test_a_graph_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = small("made")
    save_model(model, tmp_path / "run", {})
    monkeypatch.setattr(subject, "to_onnx", lambda scoring, facts: b"")
    monkeypatch.setattr(subject, "difference", lambda scoring, written: math.nan)
    with pytest.raises(RuntimeError, match="was not written"):
        export_onnx(tmp_path / "run", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_a_run_as_a_file(tmp_path: Path):
    save_model(small("made"), tmp_path / "run", {})
    found = export_onnx(tmp_path / "run", tmp_path / "out.onnx")
    assert found.kind == "exact" and found.difference is not None and found.difference <= TOLERANCE
    assert found.path.stat().st_size == found.bytes
