"""Golden runs: what a version wrote must load for ever, and give the numbers that it gave then.

`python tests/test_golden.py` adds a run of each model that has none yet under tests/golden/VERSION/. Existing ones are never
made again: where a change breaks them, the change is wrong, or the format number must rise and old runs be converted on load.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pofx import __version__, catalog
from pofx.model import Critic, ExactLikelihood, ImageModel, Labeler, LowerBound, Sampler
from pofx.space import ImageSpace
from pofx.testing import fit, random_batch, random_images, supports
from pofx.training import load_model
from pofx.views import Label

GOLDEN = Path(__file__).parent / "golden"
SPACE = ImageSpace(1, 4, 5, levels=5)


def numbers(model: ImageModel) -> dict[str, list]:
    """What the model says of a few fixed images."""
    x = random_images(4, model.space, seed=123)
    given = None if model.given is None else torch.tensor([0, 1, 2, 0])
    out: dict[str, list] = {}
    with torch.no_grad():
        if isinstance(model, ExactLikelihood):
            out["log_prob"] = model.log_prob(x, given).tolist()
        if isinstance(model, LowerBound):
            out["elbo"] = model.elbo(x, given).tolist()
            out["estimate"] = model.log_prob_estimate(x, given, samples=3).tolist()
        if isinstance(model, Sampler):
            out["sample"] = model.sample(4, given, seed=5).flatten(1).tolist()
        if isinstance(model, Critic):
            out["realism"] = model.realism(x, given).tolist()
        if isinstance(model, Labeler):
            out["label"] = model.label(x).log_prob.flatten().tolist()
    return out


RUNS = sorted(path.parent for path in GOLDEN.glob("*/*/model.json"))


@pytest.mark.parametrize("run", RUNS, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_golden_runs_load_and_give_their_numbers(run: Path) -> None:
    found = numbers(load_model(run))
    expected = json.loads((run / "expected.json").read_text())
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        if name == "sample":  # float32: rounding may differ between machines in a rare pixel
            wrong = sum(a != b for a, b in zip(found[name], values, strict=True))
            assert wrong <= 1, f"{wrong} of {len(values)} samples differ"
        else:
            assert found[name] == pytest.approx(values, rel=1e-4, abs=1e-5), name


def test_every_model_of_this_version_has_a_golden_run() -> None:
    models = {json.loads((run / "model.json").read_text())["model"] for run in RUNS}
    missing = set(catalog.model_names()) - models
    assert not missing, f"no golden run of {', '.join(sorted(missing))}; make them: python tests/test_golden.py"


def make() -> None:
    from pofx.training import save_model

    for name, cls in catalog.models().items():
        for view in (None, Label(3)):
            path = GOLDEN / __version__ / (name if view is None else f"{name}-label")
            if path.exists() or not supports(cls, view):
                continue
            torch.manual_seed(0)
            model = cls.small(SPACE, view)
            fit(model, random_batch(model, 16), 10)
            save_model(model.eval(), path, {"training": {"steps": 10}})
            (path / "expected.json").write_text(json.dumps(numbers(load_model(path))) + "\n")
            print(path)


if __name__ == "__main__":
    make()
