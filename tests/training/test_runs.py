"""The run folder: saving, loading, and every way in which a RUN can be none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pofx import catalog
from pofx.errors import InputError
from pofx.model import ImageModel
from pofx.space import ImageSpace
from pofx.training import load_model, read_run, save_model
from pofx.views import Label, Subsample

SPACE = ImageSpace(1, 4, 5, levels=3)


@pytest.fixture
def model() -> ImageModel:
    torch.manual_seed(0)
    return catalog.get("pixelcnn")(SPACE, given=Label(4), layers=1, channels=6).eval()  # type: ignore[call-arg]


@pytest.fixture
def run(model: ImageModel, tmp_path: Path) -> Path:
    save_model(model, tmp_path / "run", {"data": {"name": "toy"}, "metrics": {"valid_nats": 3.0}})
    return tmp_path / "run"


def edit(run: Path, **changes: object) -> None:
    file = run / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("name", catalog.model_names())
@pytest.mark.parametrize("given", [None, Label(3), Subsample(2)])
def test_saving_and_loading_gives_the_same_model(name: str, given: object, tmp_path: Path) -> None:
    cls = catalog.get(name)
    try:
        model = cls.small(ImageSpace(1, 8, 8, levels=5), given)  # type: ignore[arg-type]
    except (InputError, TypeError):
        pytest.skip("this model does not take this view")
    save_model(model, tmp_path, {})
    loaded = load_model(tmp_path)
    assert type(loaded) is type(model)
    assert catalog.arguments_to_json(loaded.config()) == catalog.arguments_to_json(model.config())
    assert not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True))


def test_loading_gives_the_same_numbers(model: ImageModel, run: Path) -> None:
    x, y = torch.randint(0, 3, (7, 1, 4, 5), dtype=torch.uint8), torch.arange(7) % 4
    loaded = load_model(run)
    assert torch.equal(model.log_prob(x, y), loaded.log_prob(x, y))  # type: ignore[operator]
    assert torch.equal(model.sample(3, given=1), loaded.sample(3, given=1))  # type: ignore[operator]
    assert next(loaded.parameters()).dtype == torch.float32


def test_loading_leaves_the_callers_generator_alone(run: Path) -> None:
    state = torch.get_rng_state()
    load_model(run)
    assert torch.equal(state, torch.get_rng_state())


def test_weights_in_any_layout_and_precision_are_saved(model: ImageModel, tmp_path: Path) -> None:
    save_model(model.double().to(memory_format=torch.channels_last), tmp_path, {})  # type: ignore[call-overload]
    assert all(torch.equal(a, b.float()) for a, b in zip(load_model(tmp_path).parameters(), model.parameters(), strict=True))


def test_model_json_says_what_the_run_is(run: Path) -> None:
    info = read_run(run)
    assert (info.model, info.class_name, info.space, info.format, info.finished) == ("pixelcnn", "PixelCNN", SPACE, 1, True)
    assert info.given == {"type": "Label", "classes": 4}
    assert info.arguments["layers"] == 1
    assert "space" not in info.arguments
    assert info.data == {"name": "toy"}
    assert info.metrics == {"valid_nats": 3.0}


def test_what_is_no_run_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No run .*nothing: there is no such folder"):
        load_model(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is no run: it has no model.json"):
        load_model(tmp_path / "empty")
    with pytest.raises(InputError, match="is a file.*Give the folder"):
        load_model(run / "model.json")


def test_a_half_written_run_is_refused(run: Path) -> None:
    (run / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no model.safetensors: .*same `pofx train"):
        load_model(run)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"format": 1}', b"\xff\xfe", b'{"format": "x", "model": 3}'])
def test_a_damaged_description_is_refused(run: Path, content: bytes) -> None:
    (run / "model.json").write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        load_model(run)


@pytest.mark.parametrize("change", [{"format": "x"}, {"format": True, "arguments": 3}, {"data": "x"}, {"metrics": [1]}, {"class": "VAE"}])
def test_a_description_with_one_wrong_key_is_refused(run: Path, change: dict[str, object]) -> None:
    edit(run, **change)
    with pytest.raises(InputError, match="is damaged.*name another --out"):
        load_model(run)


@pytest.mark.parametrize("wrong", [{"layers": "many"}, {"channels": 2.5}, {"layers": True}, {"layers": None}])
def test_a_setting_of_another_kind_is_named(run: Path, wrong: dict[str, object]) -> None:
    edit(run, arguments={"layers": 1, "channels": 6} | wrong)
    ((name, _),) = wrong.items()
    with pytest.raises(InputError, match=f"the setting '{name}' is .*; it must be a whole number"):
        load_model(run)


def test_damaged_weights_are_refused(run: Path) -> None:
    file = run / "model.safetensors"
    for content in (b"", b"pickle", file.read_bytes()[:-9]):
        file.write_bytes(content)
        with pytest.raises(InputError, match="is damaged"):
            load_model(run)


def test_a_run_of_a_newer_version_is_refused(run: Path) -> None:
    edit(run, format=2, pofx="9.9", model=["in", "a", "new", "form"])
    with pytest.raises(InputError, match=r"newer pofx \(9\.9, format 2.*pip install -U pofx"):
        load_model(run)


def test_an_unknown_class_is_refused_with_the_nearest(run: Path) -> None:
    edit(run, model="pixlcnn")
    with pytest.raises(InputError, match="Did you mean 'pixelcnn'"):
        load_model(run)
    edit(run, model="os.system")
    with pytest.raises(InputError, match="does not know"):
        load_model(run)


def test_arguments_that_do_not_fit_are_refused(run: Path) -> None:
    edit(run, arguments={"layers": 1, "colour": "red"})
    with pytest.raises(InputError, match="has no setting 'colour'"):
        load_model(run)
    edit(run, arguments={}, given={"type": "Labl", "classes": 4})
    with pytest.raises(InputError, match="Did you mean 'Label'"):
        load_model(run)
    edit(run, given=None, space={"channels": 1, "height": 0, "width": 5, "levels": 3})
    with pytest.raises(InputError, match="height=0"):
        load_model(run)


def test_weights_of_another_model_are_refused(run: Path, tmp_path: Path) -> None:
    save_model(catalog.get("pixelcnn")(SPACE, layers=2, channels=6), tmp_path / "other", {})  # type: ignore[call-arg]
    (run / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="does not hold the weights of the PixelCNN"):
        load_model(run)


def test_a_hub_id_is_fetched_and_a_failure_explained(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = {}

    def snapshot(name: str, allow_patterns: list[str]) -> str:
        asked[name] = allow_patterns
        if name == "someone/offline":
            raise OSError("no network")
        return str(run)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert read_run("someone/digits").model == "pixelcnn"
    assert asked == {"someone/digits": ["model.json", "model.safetensors"]}
    with pytest.raises(InputError, match="no such folder here, and the Hub did not give it .no network"):
        load_model("someone/offline")


def test_an_unknown_device_is_refused(run: Path) -> None:
    with pytest.raises(InputError, match="--device abacus"):
        load_model(run, device="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="this machine has cpu"):
            load_model(run, device="cuda")
