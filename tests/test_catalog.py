"""The catalogue: names without torch, every class found unasked, strict storage of arguments."""

from __future__ import annotations

import inspect
import subprocess
import sys
import textwrap
from importlib.metadata import EntryPoint

import pytest

import pofx
from pofx import catalog
from pofx.errors import InputError
from pofx.model import ImageModel
from pofx.views import Label, Subsample, View


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        ("PixelCNN", "pixelcnn"),
        ("GatedPixelCNN", "gated-pixelcnn"),
        ("PixelCNNpp", "pixelcnn-pp"),
        ("PixelRNN", "pixelrnn"),
        ("MADE", "made"),
        ("FVBN", "fvbn"),
        ("VAE", "vae"),
        ("LadderVAE", "ladder-vae"),
        ("GAN", "gan"),
        ("BayesClassifier", "bayes-classifier"),
        ("BayesConditional", "bayes-conditional"),
        ("Autoencoder", "autoencoder"),
        ("WassersteinGP", "wasserstein-gp"),
        ("NonSaturating", "non-saturating"),
        ("Multiscale", "multiscale"),
    ],
)
def test_command_names_follow_from_class_names(cls: str, name: str) -> None:
    assert catalog.kebab(cls) == name


def test_models_are_found_and_concrete() -> None:
    models = catalog.models()
    assert {"pixelcnn", "vae", "gan", "classifier"} <= set(models)
    assert list(models) == catalog.model_names() == sorted(models)
    for name, cls in models.items():
        assert issubclass(cls, ImageModel)
        assert not inspect.isabstract(cls)
        assert catalog.name_of(cls) == name
        assert catalog.get(name) is catalog.get(cls.__name__) is cls is getattr(pofx.models, cls.__name__)
        assert catalog.entries()[name].family == tuple(cls.family)


def test_every_concrete_model_class_in_the_package_is_in_the_catalogue() -> None:
    found = set(catalog.models().values())

    def below(cls: type) -> set[type]:
        return {cls}.union(*(below(c) for c in cls.__subclasses__()))

    concrete = {
        c
        for c in below(ImageModel)
        if c.__module__.startswith("pofx.models") and not inspect.isabstract(c) and not c.__name__.startswith("_")
    }
    assert concrete == found


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean 'pixelcnn'"):
        catalog.get("pixlcnn")
    with pytest.raises(AttributeError, match="PixelCNN"):
        pofx.models.PixelCN  # noqa: B018


def test_names_and_taxonomy_need_no_torch() -> None:
    code = """
        import sys, pofx
        assert pofx.__all__ == sorted(pofx.__all__)
        pofx.catalog.model_names(), pofx.catalog.task_names(), pofx.catalog.taxonomy(), dir(pofx.models), pofx.ImageSpace(1, 2, 2)
        assert not {"torch", "numpy"} & set(sys.modules), sorted(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_all_public_names_are_there() -> None:
    for name in pofx.__all__:
        assert getattr(pofx, name) is not None
    with pytest.raises(AttributeError):
        pofx.nothing  # noqa: B018


def test_tasks_are_found() -> None:
    tasks = catalog.tasks()
    assert {"sample", "score", "evaluate", "outliers", "compare", "info"} <= set(tasks)
    assert all(callable(task) and task.__doc__ for task in tasks.values())


# Arguments ------------------------------------------------------------------------------------------------------------


def test_settings_are_the_views_and_their_kin() -> None:
    settings = catalog.settings()
    assert settings["Label"] is Label
    assert {"Label", "Subsample", "Top", "Gray", "Half", "ImageSpace"} <= set(settings)
    assert "View" not in settings
    assert all(not inspect.isabstract(cls) for cls in settings.values())


@pytest.mark.parametrize(
    "value",
    [
        {"layers": 3, "dropout": 0.5, "likelihood": "auto", "given": None, "flag": True},
        {"given": Label(7)},
        {"widths": (1, 2), "given": Subsample(3)},
        {},
    ],
)
def test_arguments_survive_json(value: dict) -> None:
    import json

    assert catalog.arguments_from_json(json.loads(json.dumps(catalog.arguments_to_json(value)))) == value


def test_a_part_is_stored_by_its_arguments_and_made_with_fresh_weights() -> None:
    import torch

    from pofx.models.autoregressive.pixelcnn import PixelCNN
    from pofx.space import ImageSpace

    part = PixelCNN(ImageSpace(1, 3, 3, levels=2), Label(3), layers=2, channels=4)
    state = torch.get_rng_state()
    text = catalog.arguments_to_json({"parts": [part]})
    (again,) = catalog.arguments_from_json(text)["parts"]
    assert isinstance(again, PixelCNN) and again.config() == part.config()
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(InputError, match="Did you mean 'pixelcnn'"):
        catalog.arguments_from_json({"part": "pixelcn", "arguments": {}})
    with pytest.raises(InputError, match="stored part"):
        catalog.arguments_from_json({"part": "pixelcnn"})
    with pytest.raises(InputError, match="Did you mean 'layers'"):
        catalog.arguments_from_json({"part": "pixelcnn", "arguments": text["parts"][0]["arguments"] | {"layer": 1}})


def test_arguments_are_strict() -> None:
    with pytest.raises(InputError, match="Did you mean 'Label'"):
        catalog.arguments_from_json({"given": {"type": "Labl", "classes": 3}})
    with pytest.raises(InputError, match="Did you mean 'classes'"):
        catalog.arguments_from_json({"given": {"type": "Label", "class": 3}})
    with pytest.raises(InputError, match="rows"):
        catalog.arguments_from_json({"type": "Top"})
    with pytest.raises(InputError, match="cannot be stored"):
        catalog.arguments_to_json({"model": object()})
    with pytest.raises(InputError, match="Did you mean 'layers'"):
        catalog.check_arguments(catalog.get("pixelcnn"), ["layer"])


# The taxonomy ---------------------------------------------------------------------------------------------------------


def autoregressive() -> list[str]:
    return [leaf.class_name for leaf in catalog.taxonomy().branches["explicit"].branches["tractable"].branches["autoregressive"].leaves]


def test_the_taxonomy_holds_every_model_once_and_the_planned_ones() -> None:
    leaves: list[catalog.Leaf] = []

    def walk(branch: catalog.Branch) -> None:
        leaves.extend(branch.leaves)
        for below in branch.branches.values():
            walk(below)

    walk(catalog.taxonomy())
    built = [leaf.name for leaf in leaves if leaf.built]
    assert sorted(built) == catalog.model_names()
    names = [leaf.class_name for leaf in leaves]
    assert len(names) == len(set(names))
    assert {name for _, planned in catalog.PLANNED for name in planned} <= set(names)
    assert autoregressive()[:2] == ["FVBN", "MADE"]


def test_models_of_other_packages_join_through_an_entry_point(tmp_path, monkeypatch) -> None:
    (tmp_path / "elsewhere.py").write_text(
        textwrap.dedent(
            """
            from dataclasses import dataclass
            from pofx.models.autoregressive.pixelcnn import PixelCNN

            @dataclass(frozen=True)
            class Penalty:
                weight: float = 10.0

            @dataclass(frozen=True)
            class Hard(Penalty):
                times: int = 2

            class MyPixels(PixelCNN):
                def __init__(self, space, given=None, *, loss: Penalty = Penalty()):
                    super().__init__(space, given)
                    self.loss = loss
            """
        )
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    point = EntryPoint("my-pixels", "elsewhere:MyPixels", catalog.GROUP)
    monkeypatch.setattr(catalog, "entry_points", lambda group: [point])
    from pofx import signatures

    caches = (catalog.entries, catalog.settings, signatures.source, signatures.settings_of, signatures.frozen_dataclasses)
    for cached in caches:
        cached.cache_clear()
    try:
        cls = catalog.get("my-pixels")
        assert catalog.name_of(cls) == "my-pixels"
        assert cls.__name__ in autoregressive()
        (loss,) = signatures.settings_of("my-pixels")
        assert loss.default == "penalty"
        assert set(loss.choices) == {"penalty", "hard"}
        assert signatures.gather((loss,), {"loss": "hard", "loss.weight": 2.0}) == {"loss": {"type": "Hard", "weight": 2.0}}
        assert signatures.gather((loss,), {"loss.weight": 2.0}) == {"loss": {"type": "Penalty", "weight": 2.0}}
        with pytest.raises(InputError, match="has no setting --loss.times"):
            signatures.gather((loss,), {"loss": "penalty", "loss.times": 2})
        assert catalog.arguments_from_json({"type": "Hard", "times": 3}).times == 3
    finally:
        monkeypatch.undo()
        for cached in caches:
            cached.cache_clear()


def test_settings_read_from_source_are_those_of_the_class() -> None:
    """What `--help` shows, read with ast, agrees with what Python sees."""
    import dataclasses

    from pofx.signatures import settings_of

    for name, cls in catalog.models().items():
        parameters = dict(inspect.signature(cls).parameters)
        parameters.pop("space")
        shown = {setting.name: setting for setting in settings_of(name)}
        assert list(shown) == list(parameters), name
        for key, parameter in parameters.items():
            default = parameter.default
            if isinstance(default, tuple):
                assert shown[key].default == (" ".join(map(str, default)) or "none")
            elif not dataclasses.is_dataclass(default):
                assert shown[key].default == ("none" if default is None else str(default))
            assert shown[key].help, f"{name}: {key} is missing in the docstring's Args"
        views = {catalog.kebab(n) for n, c in catalog.settings().items() if issubclass(c, View)}
        assert set(shown["given"].choices) == views
