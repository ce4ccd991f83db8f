"""The run folder: what a trained model is on disk. JSON and safetensors only; nothing in it can execute.

    model.json           class, arguments, space, view, data, how it was trained, final metrics
    model.safetensors    averaged weights
    metrics.csv, tensorboard/, checkpoints/, samples.png

A Hub repository with the first two is a RUN too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from pofx.errors import InputError
from pofx.model import ImageModel
from pofx.nn.extract import Extract
from pofx.space import ImageSpace
from pofx.training.files import write_atomic, write_json

FORMAT = 1
JSON, WEIGHTS = "model.json", "model.safetensors"


@dataclass(frozen=True)
class Run:
    """A training run that ended.

    Attributes:
        path: its folder.
        model: with the averaged weights, in evaluation mode.
        metrics: of the last validation, by name ("valid_bits_per_dim", …); "valid_kind" says whether nats are exact or a bound.
    """

    path: Path
    model: ImageModel
    metrics: dict[str, Any]


@dataclass(frozen=True)
class RunInfo:
    """model.json, parsed.

    Attributes:
        model: catalogue name of the class, "pixelcnn".
        class_name: "PixelCNN".
        arguments: the model's arguments but space and given, as JSON.
        space, given, data, training, metrics: as stored; `data` holds what `load_data` needs, the transforms and the fingerprint.
        finished: False where training was stopped before its end.
        version: of pofx, that wrote it.
        format: of the folder.
    """

    path: Path
    model: str
    class_name: str
    arguments: dict[str, Any]
    space: ImageSpace
    given: dict[str, Any] | None
    data: dict[str, Any]
    training: dict[str, Any]
    metrics: dict[str, Any]
    finished: bool
    version: str
    format: int
    json: dict[str, Any]

    @property
    def encoder(self) -> dict[str, Any] | None:
        """Of an encoder that was exported alone, its layer; else None."""
        return self.json.get("encoder")


def pofx_version() -> str:
    try:
        return installed_version("pofx")
    except PackageNotFoundError:  # run from a source tree
        from pofx import __version__

        return __version__


def describe(model: ImageModel) -> dict[str, Any]:
    """The part of model.json that makes the model again: its class and arguments."""
    from pofx import catalog

    arguments = catalog.arguments_to_json(dict(model.config()))
    space, given = arguments.pop("space"), arguments.pop("given", None)
    return {
        "model": catalog.name_of(model),
        "class": type(model).__name__,
        "arguments": arguments,
        "space": _untyped(space),
        "given": given,
    }


def _untyped(value: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key != "type"}


def save_model(model: ImageModel, path: str | Path, meta: Mapping[str, Any]) -> None:
    """Write `model.safetensors` and `model.json` into the folder `path`, each whole or not at all.

    Args:
        meta: further keys of model.json: data, training, metrics, finished.

    Raises:
        RunError: the disk is full.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    save_weights(model, path)
    save_json(model, path, meta)


def save_weights(model: ImageModel, path: Path) -> None:
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    content = save(tensors, metadata={"format": "pt"})
    write_atomic(path / WEIGHTS, lambda file: file.write(content))


def save_json(model: ImageModel, path: Path, meta: Mapping[str, Any]) -> None:
    head = {"format": FORMAT, "pofx": pofx_version(), **describe(model)}
    write_json(path / JSON, head | {"data": {}, "training": {}, "metrics": {}, "finished": True} | dict(meta))


def read_run(path: str | Path) -> RunInfo:
    """What model.json of a run folder or a Hub id says.

    Raises:
        InputError: no such run; damaged; made by a newer pofx.
    """
    folder = locate(path)
    file = folder / JSON
    if not file.is_file():
        raise InputError(f"{folder} is no run: it has no {JSON}. Make one with: pofx train pixelcnn digits --out {folder} --minutes 1")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        written = value["format"]
        if not isinstance(written, int):
            raise TypeError(f"format is {written!r}")
        if written > FORMAT:
            made = f"{value.get('pofx', '?')}, format {written}; this is {pofx_version()}"
            raise InputError(f"{folder} was made by a newer pofx ({made}). Update: pip install -U pofx")
        return RunInfo(
            path=folder,
            model=str(value["model"]),
            class_name=str(value["class"]),
            arguments=dict(value["arguments"]),
            space=ImageSpace(**_untyped(value["space"])),
            given=value["given"],
            data=dict(value.get("data") or {}),
            training=dict(value.get("training") or {}),
            metrics=dict(value.get("metrics") or {}),
            finished=bool(value.get("finished", True)),
            version=str(value.get("pofx", "?")),
            format=written,
            json=value,
        )
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file} is damaged ({type(error).__name__}: {error}). Restore the file, or train again and name another --out."
        ) from error


def load_model(path: str | Path, device: str | torch.device = "cpu") -> ImageModel:
    """The model of a run folder or a Hub id, averaged weights, float32, in evaluation mode, on `device`.

    Reads JSON and safetensors, never pickle, and makes only classes of the catalogue.

    Raises:
        InputError: no such run; it is half-written, damaged or made by a newer pofx; its class is not in the catalogue.
    """
    info = read_run(path)
    model = build(info)
    load_weights(model, info.path)
    model.origin = str(path), weights_hash(info.path)
    if isinstance(model, Extract):  # a model that takes it as a part stores what it is of
        model.part.origin = model.origin
    return model.to(resolve_device(device)).eval()


def build(info: RunInfo) -> ImageModel:
    """The model that model.json describes, with fresh weights."""
    from pofx import catalog

    try:
        cls = catalog.get(info.model)
    except InputError as error:
        raise InputError(
            f"{info.path} holds a model of the class {info.class_name}, which this pofx {pofx_version()} does not know. {error}"
        ) from error
    if cls.__name__ != info.class_name:
        raise InputError(
            f'{info.path / JSON} is damaged: its "model" is {info.model!r} and its "class" {info.class_name!r}, and they must agree. '
            "Restore the file, or train again and name another --out."
        )
    try:
        arguments = catalog.arguments_from_json(info.arguments)
        given = catalog.arguments_from_json(info.given)
        catalog.check_arguments(cls, arguments)
        check_kinds(cls, arguments)
        with torch.random.fork_rng(devices=[]):
            view = {"given": given} if "given" in cls_arguments(cls) else {}
            model = cls(space=info.space, **view, **arguments)
            return model if info.encoder is None else Extract(info.space, part=model, layer=info.encoder["layer"])
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{info.path / JSON} (pofx {info.version}) does not fit {info.class_name} of this pofx {pofx_version()}: {error}"
        ) from error


_KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "int": ("a whole number", (int,)),
    "float": ("a number", (int, float)),
    "bool": ("true or false", (bool,)),
    "str": ("text", (str,)),
    "None": ("null", (type(None),)),
}


def check_kinds(cls: type[ImageModel], arguments: Mapping[str, Any]) -> None:
    """Refuse a value that is no number where the model states that it takes one, by the name of the setting."""
    import inspect

    for name, parameter in inspect.signature(cls).parameters.items():
        annotation = parameter.annotation
        stated = (annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "?")).split(" | ")
        if name not in arguments or not all(kind in _KINDS for kind in stated):
            continue
        value = arguments[name]
        wrong = not isinstance(value, tuple(found for kind in stated for found in _KINDS[kind][1]))
        if wrong or (isinstance(value, bool) and "bool" not in stated):
            raise InputError(f"the setting {name!r} is {value!r}; it must be {' or '.join(_KINDS[kind][0] for kind in stated)}.")


def cls_arguments(cls: type[ImageModel]) -> list[str]:
    import inspect

    return list(inspect.signature(cls).parameters)


def load_weights(model: ImageModel, folder: Path) -> None:
    """Copy the averaged weights of a run into `model`, keeping its dtype and device.

    Raises:
        InputError: there are none, or not those of this model.
    """
    file = folder / WEIGHTS
    tensors = read_weights(folder)
    own = model.state_dict()
    tensors = {name: own[name] for name in younger(model)} | tensors
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [
        f"{n} {tuple(tensors[n].shape)} ≠ {tuple(own[n].shape)}" for n in own.keys() & tensors.keys() if tensors[n].shape != own[n].shape
    ]
    if missing or extra or shapes:
        parts = [("missing", missing), ("not of this model", extra), ("of another shape", sorted(shapes))]
        found = "; ".join(f"{what}: {', '.join(names[:3])}{' …' if len(names) > 3 else ''}" for what, names in parts if names)
        raise InputError(
            f"{file} does not hold the weights of the {type(model).__name__} in {JSON} ({found}). Do the two files come from one run?"
        )
    model.load_state_dict(tensors)


def younger(model: ImageModel) -> list[str]:
    """Names in the state of a model, and of its parts, that runs of older versions lack."""
    parts = ((prefix, part) for prefix, part in model.named_modules() if isinstance(part, ImageModel))
    return [f"{prefix}.{name}" if prefix else name for prefix, part in parts for name in part.younger]


def _weights_file(folder: Path) -> Path:
    file = folder / WEIGHTS
    if not file.is_file():
        raise InputError(
            f"{folder} has no {WEIGHTS}: its training was stopped early, or the file is lost. "
            f"Run the same `pofx train … --out {folder}` command again: it goes on from the last checkpoint."
        )
    return file


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    file = _weights_file(folder)
    try:
        return load_file(file)
    except SafetensorError as error:
        raise InputError(
            f"{file} is damaged: {error}. Run the same `pofx train … --out {folder}` command again, or restore the file."
        ) from error


def weights_hash(folder: Path) -> str:
    """What tells the weights of a run from others: 16 hexadecimal digits of a hash of their file."""
    with _weights_file(folder).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def resolve_device(device: str | torch.device) -> torch.device:
    """ "auto" is CUDA where there is one, else the CPU; MPS on request.

    Raises:
        InputError: the device is unknown or not there.
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise InputError(f"--device {device}: use auto, cpu, cuda or mps.") from None
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(found.type, False):
        raise InputError(f"--device {device}: this machine has {', '.join(d for d, ok in there.items() if ok)}. Try --device auto")
    return found


def locate(path: str | Path) -> Path:
    """The folder of a run: a local one, else a snapshot of the Hub repository `owner/name`.

    Raises:
        InputError: there is neither.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    name = str(path)
    if folder.exists():
        raise InputError(f"{name} is a file; a RUN is a folder with {JSON}. Give the folder: {folder.parent}")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) or folder.parent.is_dir():
        raise InputError(f"No run {name}: there is no such folder. Make one with: pofx train pixelcnn digits --out {name} --minutes 1")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=[JSON, WEIGHTS]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise InputError(
            f"No run {name}: no such folder here, and the Hub did not give it ({str(error).strip().splitlines()[0]})."
        ) from error
