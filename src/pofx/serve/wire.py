"""Messages between the front and its workers, over a socket of their own: one JSON object, then the arrays that it names. Nothing is pickled."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
NONE: Arrays = {}


def send(connection: Connection, head: Mapping[str, Any], arrays: Arrays = NONE) -> None:
    """Send one message; OSError where nobody listens any more."""
    forms = [(name, array.dtype.str, array.shape) for name, array in arrays.items()]
    connection.send_bytes(json.dumps({**head, "arrays": forms}).encode())
    for array in arrays.values():
        if array.size:
            connection.send_bytes(array.tobytes())


def receive(connection: Connection) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Wait for one message; EOFError or OSError where nobody speaks any more."""
    head = json.loads(connection.recv_bytes())
    arrays = {}
    for name, form, shape in head.pop("arrays"):
        data = connection.recv_bytes() if math.prod(shape) else b""
        arrays[name] = np.frombuffer(bytearray(data), np.dtype(form)).reshape(shape)
    return head, arrays
