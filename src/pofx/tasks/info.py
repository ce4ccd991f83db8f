"""What is this run? Class, arguments, size, what it can tell, and what it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pofx.catalog import name_of
from pofx.model import ImageModel, capabilities


@dataclass(frozen=True)
class Info:
    """Attributes are plain values; `arguments` are as Python would print them (a model that is a part: its class), `meta` is what model.json says."""

    model: str
    paper: str
    family: tuple[str, ...]
    parameters: int
    capabilities: tuple[str, ...]
    space: str
    dims: int
    given: str | None
    arguments: dict[str, str]
    meta: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def info(model: ImageModel, meta: Mapping[str, Any] | None = None) -> Info:
    """Describe a model; `meta` is the parsed model.json of its run, where there is one.

    >>> from pofx.models.autoregressive.pixelcnn import PixelCNN
    >>> from pofx.space import ImageSpace
    >>> info(PixelCNN.small(ImageSpace(1, 3, 3, levels=2))).capabilities[0]
    'Sampler'
    """
    arguments = {name: _shown(value) for name, value in model.config().items() if name not in ("space", "given")}
    return Info(
        model=name_of(model),
        paper=type(model).paper,
        family=tuple(type(model).family),
        parameters=sum(p.numel() for p in model.parameters()),
        capabilities=tuple(capabilities(model)),
        space=str(model.space),
        dims=model.space.dims,
        given=None if model.given is None else repr(model.given),
        arguments=arguments,
        meta=dict(meta or {}),
    )


def _shown(value: Any) -> str:
    if isinstance(value, ImageModel):
        return type(value).__name__
    return f"({', '.join(map(_shown, value))})" if isinstance(value, tuple) else repr(value)
