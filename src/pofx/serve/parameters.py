"""What a request may ask for: the options of each job as parameters of a URL, and the forms of a body, for the model of a run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fastapi import Query
from pydantic import BaseModel, ConfigDict, create_model

from pofx.serve.payload import ARRAYS, JSON, PICTURES, Limits
from pofx.space import ImageSpace
from pofx.views import Label, View

SEEDS = 2**61  # images are numbered below 2⁶²
_SIDE = "(?:top|bottom|left|right):[1-9][0-9]{0,4}"
KEEP = f"^{_SIDE}(?:,{_SIDE})*$"


@dataclass(frozen=True)
class Words:
    """What texts may be for this run: labels, numbers and names of classes; layers."""

    labels: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()

    @classmethod
    def of(cls, view: View | None, names: Sequence[str] | None, layers: Sequence[str]) -> Words:
        numbers = map(str, range(view.classes)) if isinstance(view, Label) else ()
        return cls(tuple(dict.fromkeys((*numbers, *(names or ())))) if isinstance(view, Label) else (), tuple(layers))


@dataclass(frozen=True)
class Option:
    """Attributes: name in a URL; type; default; text, what it does; bounds, as pydantic takes them; pattern, which OpenAPI tells: what does not
    match it is refused later, with a better sentence."""

    name: str
    type: Any
    default: Any
    text: str
    bounds: dict[str, Any] = field(default_factory=dict)
    pattern: str | None = None


def options(limits: Limits, words: Words) -> dict[str, Option]:
    """Every option that a job may take, by the name that `jobs.py` has for it."""
    whole, real = {"ge": 0, "lt": SEEDS}, {"allow_inf_nan": False}
    most = limits.images
    text, short = str | None, {"max_length": 4000}  # int() takes no more digits
    return {
        "convert": Option("convert", bool, False, "Convert images of another size, in colour or with more levels, to those of the run."),
        "label": Option(
            "label", text, None, "The class of the images, by number or name; several in turn with commas.", short, _several(words.labels)
        ),
        "attributes": Option("attributes", text, None, "Attributes of the images, e.g. smiling=1,hat=0.", short),
        "caption": Option("caption", text, None, "The images in words.", short),
        "samples": Option("samples", int, 1, "Draws of z for the bound.", {"ge": 1, "le": 1024}),
        "estimate": Option(
            "estimate", int, 0, "The importance-weighted estimate over so many draws; 0 for the bound.", {"ge": 0, "le": 4096}
        ),
        "seed": Option("seed", int, 0, "The same seed gives the same answer.", whole),
        "first": Option("first", int, 0, "Number of the first image of the seed.", whole),
        "sample": Option("sample", bool, False, "A draw from q(z|x), not its mean."),
        "layer": Option("layer", text, None, "Features of this layer, in the place of codes.", short, _one(words.layers)),
        "restarts": Option("restarts", int, 4, "Starts of the search for a code; the best end is kept.", {"ge": 1, "le": 64}),
        "steps": Option("steps", int, 200, "Steps of the search.", {"ge": 1, "le": 5000}),
        "keep": Option("keep", text, None, "What is kept: top:14, bottom:8, left:3, right:10, or several with commas.", short, KEEP),
        "completions": Option("n", int, 8, "How many completions.", {"ge": 1, "le": min(most, 256)}),
        "particles": Option("particles", int, 128, "Of weighted methods; more come nearer.", {"ge": 1, "le": 4096}),
        "sweeps": Option("sweeps", int, 0, "Go over the hole again so many times.", {"ge": 0, "le": 100}),
        "format": Option("format", Literal["json", "npy", "png"], "json", "npy: the completions; png: a sheet with the original."),
        "n": Option("n", int, 16, "How many images.", {"ge": 1, "le": most}),
        "temperature": Option("temperature", float, 1.0, "Below 1 sharpens: then not samples of p.", real | {"gt": 0, "le": 100}),
        "top_p": Option("top_p", float, 1.0, "Draw from the likeliest values holding this share: likewise.", real | {"gt": 0, "le": 1}),
        "truncation": Option("truncation", float, 1.0, "Decode this times z: likewise.", real | {"ge": 0, "le": 1}),
        "sample_format": Option(
            "format",
            Literal["npy", "multipart", "json", "png"],
            "npy",
            "npy, and multipart (PNG files), come as images are drawn; png is one picture of all.",
        ),
    }


def _one(words: Sequence[str]) -> str | None:
    return f"^(?:{'|'.join(map(re.escape, words))})$" if words else None


def _several(words: Sequence[str]) -> str | None:
    some = "|".join(map(re.escape, words))
    return f"^(?:{some})(?:,(?:{some}))*$" if words else None


def options_of(job: str, takes: list[str], limits: Limits, words: Words) -> type[BaseModel]:
    """The parameters of a path: those that the job takes of this model. Others are refused."""
    known = options(limits, words)
    chosen: dict[str, Any] = {}
    for option in (known[name] for name in takes):
        told: Any = None if option.pattern is None else {"pattern": option.pattern}
        chosen[option.name] = (option.type, Query(option.default, description=option.text, json_schema_extra=told, **option.bounds))
    return create_model(f"{job.capitalize()}Options", __config__=ConfigDict(extra="forbid"), **chosen)


def body_of(space: ImageSpace, view: View | None, limits: Limits, *, one: bool) -> dict[str, Any]:
    """What a body may be, for OpenAPI."""
    whole: dict[str, Any] = {"type": "integer", "minimum": 0}
    images: dict[str, Any] = whole | {"maximum": space.levels - 1}
    for size in reversed(space.shape):
        images = {"type": "array", "items": images, "minItems": size, "maxItems": size}
    images = {"type": "array", "items": images, "minItems": 1, "maxItems": 1 if one else limits.images}
    properties = {"images": images | {"description": "images × channels × height × width"}}
    if one:
        row = {"type": "array", "items": whole | {"maximum": 1}, "minItems": space.width, "maxItems": space.width}
        properties["hole"] = {
            "type": "array",
            "items": row,
            "minItems": space.height,
            "maxItems": space.height,
            "description": "1 is the hole",
        }
    if isinstance(view, Label):
        labels = {"type": "array", "items": whole | {"maximum": view.classes - 1}, "minItems": 1}
        properties["labels"] = labels | {"description": "the class of each image"}
    told = {"type": "object", "required": ["images"], "properties": properties, "additionalProperties": False}
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {"required": True, "content": dict.fromkeys((*PICTURES, *ARRAYS), binary) | {JSON: {"schema": told}}}
