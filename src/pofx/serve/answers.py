"""What answers look like: their forms for OpenAPI, and arrays as JSON, .npy and PNG."""

from __future__ import annotations

import io
import json
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str


class Scores(BaseModel):
    """What each image costs. `kind` says how honest the numbers are: exact, a bound (from above), or an estimate."""

    n: int
    kind: Literal["exact", "lower bound", "estimate"]
    given: str | None
    dims: int | list[int]
    nats: list[float]
    bits_per_dim: list[float]


class Judged(BaseModel):
    """Which images are odd: p ≤ cut. `promise` says what is guaranteed."""

    n: int
    alpha: float
    guarantee: str
    promise: str
    calibration: int
    cut: float
    threshold: float
    score: list[float]
    p_value: list[float]
    outlier: list[bool]
    statistics: dict[str, list[float]]


class Codes(BaseModel):
    """The code, or the features, of each image."""

    n: int
    kind: str
    latent_dims: int
    z: list[list[float]]
    squared_error: list[float] | None = None
    norm: list[float] | None = None


class Classes(BaseModel):
    """The class of each image; with a reject also the p-value of each class, which ones fit (p > alpha), and the verdict that follows."""

    n: int
    kind: str
    classes: list[str] | None
    label: list[int]
    probability: list[float]
    alpha: float | None
    note: str | None
    p_value: list[list[float]] | None = None
    fits: list[list[bool]] | None = None
    verdict: list[Literal["answer", "ambiguous", "outlier"]] | None = None


class Completions(BaseModel):
    """Completions of one image: n × channels × height × width, and how they were made."""

    model_config = ConfigDict(extra="allow")
    n: int
    kind: Literal["exact", "approximate"]
    method: str
    images: list[list[list[list[int]]]]


class Samples(BaseModel):
    """Images: n × channels × height × width."""

    n: int
    kind: str
    seed: int
    first: int
    images: list[list[list[list[int]]]]


class Health(BaseModel):
    """How the service is."""

    status: Literal["ok", "starting"]
    run: str
    model: str
    space: str
    given: str | None
    pofx: str
    workers: dict[str, int]
    waiting: int
    calibration: Literal["no", "running", "done"]
    cannot: dict[str, str]


def as_json(rows: dict[str, Any], facts: dict[str, Any]) -> bytes:
    """Rows as lists, `a.b` as an object in an object; every digit of a float."""
    told: dict[str, Any] = dict(facts)
    for name, array in rows.items():
        outer, dot, inner = name.partition(".")
        if dot:
            told.setdefault(outer, {})[inner] = array.tolist()
        else:
            told[name] = array.tolist()
    return json.dumps(told, allow_nan=False).encode()


def npy_header(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def png(picture: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()
