"""The life of a service: bind, load, say that it is ready, answer until it is told to stop, finish what was taken in, end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn

from pofx.errors import InputError
from pofx.serve.door import is_local
from pofx.serve.front import Service, make_app
from pofx.serve.payload import Limits
from pofx.serve.pool import Pool, Settings

CONNECTIONS = 1000  # at once; more are told to come back
STOP = (signal.SIGINT, signal.SIGTERM)
TOKEN = 16  # letters that a token has at least


@dataclass(frozen=True)
class Ended:
    """What a service did: requests answered, images worked on, workers that died."""

    address: str
    requests: int
    images: int
    deaths: int


class Server(uvicorn.Server):
    """Signals are ours: uvicorn raises them again when it has stopped, before the workers have."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def check_token(host: str, token: str | None) -> None:
    """Raise InputError where others could come in without a token, or guess it."""
    if token is None and not is_local(host):
        raise InputError(
            f"--host {host} is reached from other machines, and there is no token: anybody could use this service.\n"
            f"POFX_TOKEN=$(openssl rand -hex 16) pofx serve RUN --host {host}"
        )
    if token is not None and (len(token) < TOKEN or not token.isascii() or not token.isprintable() or " " in token):
        raise InputError(f"POFX_TOKEN must be at least {TOKEN} letters and digits, without spaces, e.g. POFX_TOKEN=$(openssl rand -hex 16)")


def bind(host: str, port: int) -> socket.socket:
    """A socket that does not listen yet: who comes too early is refused and not left waiting."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"Cannot listen on {host}:{port}: {why}. Choose another port, e.g. --port {port + 1 if port < 65535 else 8000}, or 0 for any."
        ) from error
    return bound


def address_of(host: str, bound: socket.socket) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{bound.getsockname()[1]}"


def serve(settings: Settings, *, host: str, port: int, token: str | None, limits: Limits, note: Callable[[str], None]) -> Ended:
    """Answer requests until SIGINT or SIGTERM; a second one does not wait for what was taken in.

    Args:
        note: told when the service is ready, and what else a person should know.

    Raises:
        InputError: the run cannot be loaded, the address is taken, or a token is missing.
    """
    from pofx.workflows.loading import run_info

    check_token(host, token)
    info = run_info(settings.run)
    with bind(host, port) as bound:
        return asyncio.run(_serve(settings, bound, address_of(host, bound), token, info, limits, note))


async def _serve(
    settings: Settings,
    bound: socket.socket,
    address: str,
    token: str | None,
    info: Any,
    limits: Limits,
    note: Callable[[str], None],
) -> Ended:
    from pofx.space import ImageSpace

    loop = asyncio.get_running_loop()
    space = ImageSpace(**info.meta["space"])
    pool = Pool(settings)
    starting = asyncio.ensure_future(pool.start())
    for number in STOP:
        loop.add_signal_handler(number, starting.cancel)
    note(f"loading {settings.run} into {settings.workers} worker{'s' * (settings.workers > 1)} …")
    try:
        about = await starting
    except asyncio.CancelledError:
        return Ended(address, 0, 0, 0)
    app = make_app(Service(settings.run, info, space, limits, token), pool, about)
    server = Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=int(2 * settings.timeout) + 1,
            timeout_keep_alive=30,
        )
    )

    def stop() -> None:
        if server.should_exit:
            server.force_exit = True
            return
        server.should_exit = True
        note("stopping: no new requests are taken; what was taken in is finished. Once more to stop at once.")

    for number in STOP:
        loop.add_signal_handler(number, stop)
    telling = asyncio.create_task(_tell(server, pool, about, address, token, note))
    await server.serve(sockets=[bound])
    telling.cancel()
    await pool.stop()
    return Ended(address, *(int(n) for n in app.state.counts()))


async def _tell(server: Server, pool: Pool, about: dict[str, Any], address: str, token: str | None, note: Callable[[str], None]) -> None:
    """Say when it is ready, and when it is calibrated."""
    while not server.started:
        await asyncio.sleep(0.01)
    paths = " ".join(f"/{job}" for job in about["takes"])
    asked = "" if token is None else "; every request needs the token"
    note(f"ready: {address}  ({about['model']} on {about['device']}: {paths}; see /docs{asked})")
    while pool.calibration == "running":
        await asyncio.sleep(0.1)
    for text in dict.fromkeys((*pool.notes, *(f"/{job}: {reason}" for job, reason in pool.why.items() if job in about["takes"]))):
        note(f"Note: {text}")
    if pool.calibration == "done" and "outliers" not in pool.why:
        note("calibrated: /outliers answers")
