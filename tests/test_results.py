"""The weights that are kept give the numbers that were recorded."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

import pofx
from pofx.model import ExactLikelihood, LowerBound, Sampler
from pofx.tasks.classify import as_labeler
from pofx.workflows.reproduce import load_recipe

RESULTS = Path(__file__).resolve().parents[1] / "results"
WEIGHTS = sorted((RESULTS / "weights").iterdir())


@pytest.mark.slow
@pytest.mark.skipif("POFX_DATA" not in os.environ, reason="the data of the recipes is not there")
@pytest.mark.parametrize("run", WEIGHTS, ids=lambda run: run.name)
def test_kept_weights_give_the_recorded_number(run: Path) -> None:
    """On 300 images of the same split: within four standard errors of their mean. Of a labeler, the share of right labels. Of a
    sampler, each pixel's mean and deviation are the data's."""
    recorded = json.loads((RESULTS / f"{run.name}.json").read_text(encoding="utf-8"))
    recipe = load_recipe(run.name)
    data = pofx.load_data(recipe.data, **recipe.convert)
    assert data.fingerprint == recorded["data"]["fingerprint"]
    pick = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))[:300]
    x, y = data.test.take(pick)
    model = pofx.load(str(run))
    if recipe.expected["metric"] == "accuracy":
        with torch.inference_mode():
            right = torch.cat([as_labeler(model).label(part).log_prob.argmax(1) for part in x.split(100)]) == y
        p = recorded["found"]
        assert abs(float(right.double().mean()) - p) < 4 * (p * (1 - p) / len(x)) ** 0.5
        return
    if isinstance(model, Sampler) and not isinstance(model, ExactLikelihood | LowerBound):
        real, labels = data.test.take(torch.randperm(len(data.test))[:1000])
        drawn, real = (t.double().flatten(1) for t in (model.sample(1000, None if model.given is None else labels), real))
        for moment in (drawn.mean(0), real.mean(0)), (drawn.std(0), real.std(0)):
            assert float(torch.corrcoef(torch.stack(moment))[0, 1]) > 0.97  # learning features to judge it in takes minutes
        return
    with torch.inference_mode():
        nats = -(model.log_prob(x) if isinstance(model, ExactLikelihood) else model.elbo(x))  # type: ignore[union-attr]
    assert abs(float(nats.mean()) - recorded["test"]["nats"]["mean"]) < 4 * float(nats.std()) / len(nats) ** 0.5
