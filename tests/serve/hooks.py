"""What schemathesis cannot know: pictures and arrays that are those of digits. Loaded by its SCHEMATHESIS_HOOKS."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import schemathesis
from hypothesis import strategies as st
from PIL import Image


def picture(form: str) -> Any:
    def make(pixels: bytes) -> bytes:
        stream = io.BytesIO()
        Image.frombytes("L", (8, 8), pixels).save(stream, form)
        return stream.getvalue()

    return st.binary(min_size=64, max_size=64).map(make)


def array(raw: bytes) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.frombuffer(raw, np.uint8).reshape(1, 1, 8, 8) % 17)
    return stream.getvalue()


schemathesis.openapi.media_type("image/png", picture("PNG"))
schemathesis.openapi.media_type("image/jpeg", picture("JPEG"))
for media in ("application/x-npy", "application/octet-stream"):
    schemathesis.openapi.media_type(media, st.binary(min_size=64, max_size=64).map(array))


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """What OpenAPI has no words for: a picture has 256 levels, digits 17, and must be converted; a completion needs to know what is kept, once."""
    if case.media_type == "application/json" and str(case.query.get("convert")).lower() in ("true", "1", "on", "yes", "t", "y"):
        case.query["convert"] = "false"  # what is converted may be of another size
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if str(case.media_type).startswith("image/"):
        case.query["convert"] = "true"
    if case.operation.path == "/complete":
        case.query["keep"] = "top:4"
        case.query["sweeps"] = 0
        if isinstance(case.body, dict):
            case.body.pop("hole", None)
