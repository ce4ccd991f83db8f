"""A model in integer arithmetic (`integers.py`): its weights on a grid, the tables of its functions, and a name that only they have.

The grid is the finest on which no sum of the network can need more than the 53 bits that float64 holds exactly: `Bounds` proves it. What a
form is made of is integers, so that a file that was written with it is read with it anywhere; the float model is not needed again.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from pofx import catalog
from pofx.errors import CapabilityError, InputError
from pofx.integers import MANTISSA, SPARE, Bounds, Integers, make_tables, using
from pofx.model import Codable, ImageModel, evaluating
from pofx.space import ImageSpace

FORMAT = 1
FINEST, COARSEST = 14, 6  # bits of weights below one
LARGEST = 2**31 - 1  # a weight, as it is stored


@dataclass(frozen=True)
class IntegerForm:
    """A model as integers.

    Attributes:
        description: the model as the catalogue stores one: its name, arguments and space, as JSON.
        bits: weights are multiples of 2^−bits.
        weights: int64, by name.
        tables: int64, by name.
        worst: bits that the largest sum may need; 0: not proven yet, which is done when the network is made.
    """

    description: dict[str, Any]
    bits: int
    weights: dict[str, Tensor]
    tables: dict[str, Tensor]
    worst: float = 0.0

    @classmethod
    def of(cls, model: ImageModel) -> IntegerForm:
        """The integer form of a trained model.

        Raises:
            CapabilityError: it has none, or is conditional.
            InputError: its weights are too large for any grid.
        """
        if not isinstance(model, Codable):
            raise CapabilityError(
                f"{catalog.name_of(model)} has no integer form, and a float network is no codec: another machine would decode other images. "
                f"What can compress: {', '.join(_codable())}, e.g. pofx train pixelcnn-pp DATA --out RUN"
            )
        if model.given is not None:
            raise CapabilityError(f"This {type(model).__name__} is p(x | {model.given.name}): a file has p(x). Train one without --given.")
        float64 = copy.deepcopy(model).cpu().double().eval()
        largest = max((float(t.abs().max().nan_to_num(math.inf, math.inf)) for t in _weights(float64).values() if t.numel()), default=0.0)
        if largest == math.inf:
            raise InputError(
                f"A weight of this {type(model).__name__} is not finite: its training went wrong. Train it again with a smaller --lr."
            )
        for bits in range(FINEST, COARSEST - 1, -1):
            if largest * 2**bits > LARGEST:
                continue
            weights = {name: (t * 2**bits).round().long() for name, t in _weights(float64).items()}
            worst = _worst(float64, weights, bits)
            if worst <= MANTISSA - SPARE:
                return cls(catalog.arguments_to_json(model), bits, weights, make_tables(), worst)
        raise InputError(
            f"The weights of this {type(model).__name__} are so large that sums could need more than {MANTISSA} bits. "
            "Train it again with weight decay or a smaller --lr."
        )

    @cached_property
    def model(self) -> Codable:
        """The network with these weights, in float64: to be run under `exact`."""
        found = _build(self.description, self.weights)
        if not self.worst and (worst := _worst(found, self.weights, self.bits)) > MANTISSA - SPARE:
            raise InputError(
                f"Sums of the model could need {worst:.0f} bits, and only {MANTISSA - SPARE} are alike on every machine: it was altered."
            )
        _set(found, {name: t.double() * 2.0**-self.bits for name, t in self.weights.items()})
        return found

    @cached_property
    def space(self) -> ImageSpace:
        return self.model.space

    @cached_property
    def id(self) -> str:
        """SHA-256 of all that the numbers depend on, 64 hexadecimal digits."""
        found = hashlib.sha256(json.dumps([self.description, self.bits], sort_keys=True).encode())
        for kind, tensors in (("weight", self.weights), ("table", self.tables)):
            for name, t in sorted(tensors.items()):
                found.update(f"{kind} {name} {list(t.shape)}".encode())
                found.update(t.contiguous().numpy().astype("<i8").tobytes())
        return found.hexdigest()

    def to_bytes(self) -> bytes:
        """As safetensors: integers of 16 or 32 bits, and what they belong to as JSON."""
        tensors = {f"weight {name}": _narrow(t) for name, t in self.weights.items()}
        tensors |= {f"table {name}": _narrow(t) for name, t in self.tables.items()}
        return save(tensors, {"pofx": json.dumps({"format": FORMAT, "bits": self.bits, "model": self.description}, sort_keys=True)})

    @classmethod
    def from_bytes(cls, data: bytes) -> IntegerForm:
        """The same again.

        Raises:
            InputError: it is no integer form, or an altered one.
        """
        try:
            length = int.from_bytes(data[:8], "little")
            stated = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["pofx"])
            tensors = load(data)
            version, bits, description = stated["format"], stated["bits"], stated["model"]
            if type(version) is not int or version < 1:
                raise ValueError(f"format {version!r}")
            if version > FORMAT:
                raise InputError(
                    f"The model has format {version}, and this pofx knows format {FORMAT}. Update it: pip install --upgrade pofx"
                )
            if type(bits) is not int or not COARSEST <= bits <= FINEST:
                raise ValueError(f"bits {bits!r}")
            for name, t in tensors.items():
                if t.dtype not in (torch.int16, torch.int32) or not name.startswith(("weight ", "table ")):
                    raise ValueError(f"{name!r}, {t.dtype}")
        except (SafetensorError, ValueError, TypeError, KeyError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"It is no integer form of a model ({str(error)[:80]}).") from error
        parts: dict[str, dict[str, Tensor]] = {"weight": {}, "table": {}}
        for key, t in tensors.items():
            kind, _, name = key.partition(" ")
            parts[kind][name] = t.long()
        if not _plausible(parts["table"]):
            raise InputError("The tables of the model are not those of any pofx.")
        return cls(description, bits, parts["weight"], parts["table"])

    @contextmanager
    def exact(self) -> Iterator[Codable]:
        """The model, computing in integers."""
        with torch.inference_mode(), evaluating(self.model), using(self._arithmetic):
            yield self.model

    @cached_property
    def _arithmetic(self) -> Integers:
        return Integers(self.tables)


def _narrow(t: Tensor) -> Tensor:
    """Integers in as few bits as hold them."""
    return t.to(torch.int16 if int(t.abs().max()) < 2**15 else torch.int32).contiguous()


def _plausible(tables: Mapping[str, Tensor]) -> bool:
    """Whether tables are what a machine could have made: their own functions, rounded by the last bit otherwise at most, and growing."""
    ours = make_tables()
    if {name: t.shape for name, t in tables.items()} != {name: t.shape for name, t in ours.items()}:
        return False
    return all(bool(((t - ours[name]).abs() <= 1).all() and (t.diff() >= 0).all()) for name, t in tables.items())


def _codable() -> list[str]:
    return [name for name, cls in catalog.models().items() if issubclass(cls, Codable)]


def _build(description: dict[str, Any], weights: Mapping[str, Tensor]) -> Codable:
    """A model of the catalogue with fresh weights, in float64. It is made without memory first: a file may describe one of any size."""
    _sizes(description, most=max(4096, sum(t.numel() for t in weights.values())))
    with torch.device("meta"), _at_most(2 * len(weights)):
        shapes = {name: t.shape for name, t in _weights(_made(description)).items()}
    if shapes != {name: t.shape for name, t in weights.items()}:
        raise InputError("The weights are not those of the model that is described beside them: the file was altered.")
    return _made(description).double().eval()


@contextmanager
def _at_most(number: int) -> Iterator[None]:
    """Models that are made have no more parameters than this: one of a thousand times as many layers would take hours to make."""
    made = 0

    def count(module: nn.Module, name: str, parameter: object) -> None:
        nonlocal made
        made += 1
        if made > number:
            raise InputError(f"The model of this file is described as larger than its {number // 2} weights: the file was altered.")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _sizes(value: Any, most: int) -> None:
    """No number that a model is made of is larger than the weights that it has."""
    if isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            _sizes(item, most)
    elif isinstance(value, int | float) and abs(value) > most:
        raise InputError(f"The model of this file is described with a number as large as {value}: the file was altered.")


def _made(description: dict[str, Any]) -> Codable:
    try:
        model = catalog.arguments_from_json(description)
    except (TypeError, AttributeError, RuntimeError) as error:
        raise InputError(f"The model of this file, {str(description)[:80]!r}, cannot be made: {error}") from error
    if not isinstance(model, Codable) or model.given is not None:
        raise InputError(f"The model of this file, {str(description)[:80]!r}, is none that can compress: the file was altered.")
    return model


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """What a network multiplies and adds, by name; of weight-normalised layers the product, as `fixed`."""
    found = {}
    for name, t in model.state_dict().items():
        owner, _, leaf = name.rpartition(".")
        layer = model.get_submodule(owner)
        if "fixed" not in layer._buffers:
            found[name] = t
        elif leaf == "bias":
            found[name] = t
            found[f"{owner}.fixed"] = layer.kernel()  # type: ignore[operator]
    return {name: t.detach() for name, t in found.items()}


def _set(model: nn.Module, weights: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, t in weights.items():
            owner, _, leaf = name.rpartition(".")
            layer = model.get_submodule(owner)
            if leaf == "fixed":
                layer.register_buffer("fixed", t)
            else:
                getattr(layer, leaf).copy_(t)


def _worst(model: Codable, weights: dict[str, Tensor], bits: int) -> float:
    """Bits of the largest sum that any image could make."""
    absolute = copy.deepcopy(model)
    _set(absolute, {name: t.double().abs() * 2.0**-bits for name, t in weights.items()})
    bounds = Bounds()
    for t in (*absolute.parameters(), *(b for name, b in absolute.named_buffers() if name.endswith("fixed"))):
        bounds.mark(t, bits)
    with torch.inference_mode(), using(bounds), bounds:
        absolute.proof()
    return math.ceil(bounds.worst.bits)
