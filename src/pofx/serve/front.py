"""The HTTP side: what a request may be, what it gets, and what it is refused with.

Every refusal is `{"detail": "a sentence"}`: 400 cannot be read, 401 no token, 404 the run cannot do it, 408 sent too slowly, 413 too large,
415 another form, 422 read, and not for this run, 429 full (with Retry-After), 503 not ready (likewise), 504 took too long. What is documented at
/openapi.json is what this run takes: parameters that mean nothing for its model are unknown.
"""

# No `from __future__ import annotations`: parameters are classes made for the run, which strings could not name.
import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from prometheus_client import generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import Message, Send

from pofx import __version__, pictures
from pofx.errors import CapabilityError, InputError, PofxError, nearest
from pofx.serve import page
from pofx.serve.answers import Classes, Codes, Completions, Health, Judged, Problem, Samples, Scores, as_json, npy_header, png
from pofx.serve.door import Door, Metrics, problem
from pofx.serve.parameters import Words, body_of, options_of
from pofx.serve.payload import ARRAYS, JSON, PICTURES, Limits, Malformed, Payload, read
from pofx.serve.pool import Busy, Pool
from pofx.space import ImageSpace
from pofx.views import Label
from pofx.workflows.loading import RunData, from_words

T = TypeVar("T")
APART = "pofx-image"  # between images of a stream
LARGE = 1 << 18  # bytes from which on reading and writing is done beside the loop


@dataclass(frozen=True)
class Service:
    """What an app is made for. token: what a request must show; without one only this machine comes in."""

    run: str
    info: RunData
    space: ImageSpace
    limits: Limits
    token: str | None = None
    slow: float = 30.0  # seconds that a body may take to arrive


# What goes in ---------------------------------------------------------------------------------------------------------------------------


async def body(request: Request, service: Service) -> bytes:
    """The bytes of a request, within the limits of size and time."""
    most = service.limits.bytes
    too_large = Malformed(f"The request is larger than {most:,} bytes.", 413)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(service.slow):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise Malformed(f"The request did not arrive within {service.slow:g} s.", 408) from None
    return b"".join(parts)


async def payload(request: Request, service: Service, convert: bool, hole: bool) -> Payload:
    """The images of a request."""
    raw = await body(request, service)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    view = service.info.view
    classes = view.classes if isinstance(view, Label) else None

    def call() -> Payload:
        return read(raw, kind, service.space, service.limits, convert=convert, classes=classes, hole=hole)

    return await asyncio.to_thread(call) if len(raw) > LARGE else call()


def value(service: Service, n: int, options: dict[str, Any], labels: Any = None) -> dict[str, Any]:
    """The value of the run's view for n images, where images do not say it: `{"y": …}`, or nothing."""
    view = service.info.view
    said = {name: options.pop(name) for name in ("label", "attributes", "caption") if name in options}
    if view is None or not said:
        return {}
    if labels is not None:
        if said.get("label") is not None:
            raise InputError("--label and labels both say the class; give one of them.")
        return {"y": view.check(torch.from_numpy(labels), n, service.space).numpy()}
    return {"y": from_words("the run", service.info, view, n, service.space, **said).contiguous().numpy()}


# What comes out -------------------------------------------------------------------------------------------------------------------------


class Stream(StreamingResponse):
    """A stream that gives up on a reader who does not read."""

    def __init__(self, *arguments: Any, seconds: float, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.seconds = seconds

    async def stream_response(self, send: Send) -> None:
        async def hurried(message: Message) -> None:
            try:
                async with asyncio.timeout(self.seconds):
                    await send(message)
            except TimeoutError:
                raise ClientDisconnect from None

        with suppress(ClientDisconnect):
            await super().stream_response(hurried)


FLAG = re.compile(r"--([a-z][a-z-]*)(?: (?=[\d.]|[a-z]+:\d))?")


def in_http(text: str) -> str:
    """A sentence of the command line in the words of a URL.

    >>> in_http("Leave out --keep, or use e.g. --keep top:4 --top-p 0.9")
    'Leave out keep, or use e.g. keep=top:4 top_p=0.9'
    """
    return FLAG.sub(lambda found: found[1].replace("-", "_") + ("=" if found[0].endswith(" ") else ""), text)


async def while_connected(request: Request, answer: Awaitable[T]) -> T:
    """Wait for an answer as long as somebody waits for it."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(answer), asyncio.ensure_future(left())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()


# The app --------------------------------------------------------------------------------------------------------------------------------

ANSWERS: dict[str, tuple[type[BaseModel], str, dict[str, str]]] = {
    "score": (Scores, "What each image costs: nats and bits/dim.", {}),
    "outliers": (Judged, "Which images are odd, with a guarantee on false alarms.", {}),
    "encode": (Codes, "The latent code, or the features, of each image.", {}),
    "classify": (Classes, "The class of each image, or that none fits.", {}),
    "complete": (Completions, "Fill the hole of one image; kept pixels come back as they are.", {"npy": ARRAYS[0], "png": PICTURES[0]}),
    "sample": (Samples, "Draw images from the run.", {"npy": ARRAYS[0], "multipart": "multipart/mixed", "png": PICTURES[0]}),
}
REFUSALS = {
    400: "It cannot be read.",
    401: "No token, or a wrong one.",
    404: "The run cannot do this.",
    408: "It arrived too slowly.",
    413: "It is too large.",
    415: "Not a form that is known.",
    421: "Another host was asked for.",
    422: "It can be read, and is not for this run.",
    429: "The queue is full; see Retry-After.",
    500: "The request was given up.",
    503: "Not ready; see Retry-After.",
    504: "It took too long.",
}


def make_app(service: Service, pool: Pool, about: dict[str, Any]) -> FastAPI:
    """The app of a run. `about`: what its workers say of the model (`Served.about`)."""
    metrics = Metrics(pool)
    pool.count = metrics.count

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await pool.start()
        yield
        await pool.stop()

    app = FastAPI(
        title=f"pofx serve: {about['model']} of {service.space}",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        description=f"The tasks of the run {service.run} over HTTP. The same request has the same answer, and it is that of the command line.",
    )
    add_errors(app)
    refusals: dict[int | str, dict[str, Any]] = {code: {"model": Problem, "description": text} for code, text in REFUSALS.items()}
    words = Words.of(service.info.view, service.info.class_names, about["layers"])
    for job, takes in about["takes"].items():
        answer, what, others = ANSWERS[job]
        options = options_of(job, takes, service.limits, words)
        content = {media: {"schema": {"type": "string", "format": "binary"}} for media in others.values()}
        told = {"response_model": None, "summary": what, "responses": refusals | {200: {"model": answer, "content": content}}}
        if job == "sample":
            app.get("/sample", **told)(sample_handler(service, pool, about, options))
        else:
            one = job == "complete"
            more = {"requestBody": body_of(service.space, service.info.view, service.limits, one=one)}
            app.post(f"/{job}", openapi_extra=more, **told)(
                complete_handler(service, pool, options) if one else handler(service, pool, job, options)
            )
    for job, reason in about["cannot"].items():
        app.api_route(f"/{job}", methods=["GET", "POST"], include_in_schema=False)(refuser(reason))

    @app.get("/health", summary="How the service is.", response_model=None, responses=refusals | {200: {"model": Health}})
    async def health() -> Response:
        told = Health(
            status="ok" if pool.alive else "starting",
            run=service.run,
            model=about["model"],
            space=str(service.space),
            given=None if service.info.view is None else repr(service.info.view),
            pofx=__version__,
            workers={"alive": len(pool.alive), "of": pool.settings.workers},
            waiting=pool.waiting,
            calibration=pool.calibration,  # type: ignore[arg-type]
            cannot={**about["cannot"], **({"outliers": pool.why["outliers"]} if "outliers" in pool.why else {})},
        )
        return Response(
            told.model_dump_json(), 200 if pool.alive else 503, media_type=JSON, headers=None if pool.alive else {"Retry-After": "5"}
        )

    text = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

    @app.get("/metrics", summary="Numbers for Prometheus.", response_model=None, responses=refusals | text)
    async def prometheus() -> Response:
        return Response(generate_latest(metrics.registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return HTMLResponse(page.docs(app.openapi(), about, service.space, str(request.base_url).rstrip("/"), service.token is not None))

    @app.get("/", include_in_schema=False)
    async def home() -> Response:
        return Response(status_code=307, headers={"Location": "/docs"})

    app.state.counts = metrics.totals
    paths = {route.path for route in app.routes if isinstance(route, Route)}
    app.add_middleware(Door, token=service.token, metrics=metrics, paths=paths)
    return app


def add_errors(app: FastAPI) -> None:
    """One form for every refusal."""

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> Response:
        found = error.errors()[0]
        name = str(found["loc"][-1])
        if found["type"] == "extra_forbidden":
            operations = app.openapi()["paths"].get(request.url.path, {})
            known = [parameter["name"] for parameter in operations.get(request.method.lower(), {}).get("parameters", [])]
            return problem(422, f"Unknown parameter {name!r}. {nearest(name, known)}")
        return problem(422, f"{name}: {found['msg'][:1].lower()}{found['msg'][1:]}, found {found.get('input')!r}.")

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        known = " See /docs." if error.status_code == 404 else ""
        return JSONResponse({"detail": f"{error.detail}.{known}"}, error.status_code, error.headers)

    @app.exception_handler(Malformed)
    async def malformed(request: Request, error: Malformed) -> Response:
        return problem(error.status, in_http(str(error)))

    @app.exception_handler(PofxError)
    async def ours(request: Request, error: PofxError) -> Response:
        return problem(422 if isinstance(error, InputError | CapabilityError) else 500, in_http(str(error)))

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Busy) -> Response:
        return problem(429, str(error), Retry_After=str(error.seconds))

    @app.exception_handler(TimeoutError)
    async def late(request: Request, error: TimeoutError) -> Response:
        return problem(504, "The answer took longer than this service waits. Ask for less at once, or start it with a longer --timeout.")

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> Response:
        return problem(400, "Nobody waits for the answer any more.")


def refuser(reason: str) -> Callable[..., Any]:
    async def handle() -> Response:
        return problem(404, reason)

    return handle


def handler(service: Service, pool: Pool, job: str, options_model: type[BaseModel]) -> Callable[..., Any]:
    """Images in, a row for each out."""

    async def handle(request: Request, options: Annotated[options_model, Query()]) -> Response:  # type: ignore[valid-type]
        chosen = options.model_dump()
        found = await payload(request, service, chosen.pop("convert", False), hole=False)
        if job in ("outliers", "classify") and pool.settings.calibrate:
            if pool.calibration != "done":
                return problem(503, "The alarm is being calibrated on the run's own data; other paths answer meanwhile.", Retry_After="5")
            if job == "outliers" and "outliers" in pool.why:
                return problem(404, pool.why["outliers"])
        n = len(found.x)
        arrays = {"x": found.x, **value(service, n, chosen, found.labels)}
        together = not (job == "encode" and "restarts" in chosen)
        rows, facts = await while_connected(request, pool.ask(job, chosen, arrays, n, together=together))
        facts = {"n": n, **facts}
        large = sum(array.nbytes for array in rows.values()) > LARGE
        return Response(await asyncio.to_thread(as_json, rows, facts) if large else as_json(rows, facts), media_type=JSON)

    return handle


def complete_handler(service: Service, pool: Pool, options_model: type[BaseModel]) -> Callable[..., Any]:
    """One image in, completions out."""

    async def handle(request: Request, options: Annotated[options_model, Query()]) -> Response:  # type: ignore[valid-type]
        chosen = options.model_dump()
        found = await payload(request, service, chosen.pop("convert", False), hole=True)
        if len(found.x) != 1:
            raise InputError(f"{len(found.x)} images were sent; complete one at a time.")
        told = {"label": chosen.get("label"), "attributes": chosen.get("attributes"), "caption": chosen.get("caption")}
        said = any(word is not None for word in told.values()) or found.labels is not None
        needed = isinstance(service.info.view, Label) and not service.info.view.unknown
        known = value(service, 1, chosen, found.labels) if said or needed else {}
        for name in told:
            chosen.pop(name, None)
        arrays = {"x": found.x, **known, **({} if found.hole is None else {"hole": found.hole})}
        rows, facts = await while_connected(request, pool.ask("complete", chosen, arrays, chosen["n"], together=False))
        if "png" in rows:
            return Response(rows["png"].tobytes(), media_type=PICTURES[0])
        if chosen["format"] == "npy":
            images = rows["images"]
            return Response(npy_header(images.shape) + images.tobytes(), media_type=ARRAYS[0])
        return Response(await asyncio.to_thread(as_json, rows, facts), media_type=JSON)

    return handle


def sample_handler(service: Service, pool: Pool, about: dict[str, Any], options_model: type[BaseModel]) -> Callable[..., Any]:
    """Images, drawn in the chunks that the command line draws, and sent as they come."""

    async def handle(request: Request, options: Annotated[options_model, Query()]) -> Response:  # type: ignore[valid-type]
        chosen = options.model_dump()
        n, form, first = chosen.pop("n"), chosen.pop("format"), chosen.pop("first")
        given = value(service, n, chosen)
        if form in ("multipart", "png") and form != "png" and service.space.channels not in (1, 3, 4):
            raise InputError(f"Images of {service.space.channels} channels cannot be PNG files; use format=npy.")
        size = about["chunk"] if chosen.get("temperature", 1) == chosen.get("top_p", 1) == 1 else 256

        async def draw(start: int) -> tuple[np.ndarray, str]:
            stop = min(start + size, n)
            arrays = {name: array[start:stop] for name, array in given.items()}
            asked = {**chosen, "n": stop - start, "first": first + start}
            rows, facts = await pool.ask("sample", asked, arrays, stop - start, together=False, admitted=start > 0)
            return rows["images"], facts["kind"]

        begun, kind = await while_connected(request, draw(0))
        headers = {"Pofx-Kind": kind}

        async def images() -> AsyncIterator[np.ndarray]:
            yield begun
            for start in range(size, n, size):
                yield (await draw(start))[0]

        if form == "npy":

            async def arrays() -> AsyncIterator[bytes]:
                yield npy_header((n, *service.space.shape))
                async for chunk in images():
                    yield chunk.tobytes()

            return Stream(arrays(), seconds=pool.settings.timeout, media_type=ARRAYS[0], headers=headers)
        if form == "multipart":

            async def parts() -> AsyncIterator[bytes]:
                number = first
                async for chunk in images():
                    for picture in pictures.each(chunk, service.space.levels):
                        data = png(picture)
                        head = f"--{APART}\r\nContent-Type: image/png\r\nContent-Disposition: attachment; filename={number:08d}.png\r\n"
                        yield f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data + b"\r\n"
                        number += 1
                yield f"--{APART}--\r\n".encode()

            media = f"multipart/mixed; boundary={APART}"
            return Stream(parts(), seconds=pool.settings.timeout, media_type=media, headers=headers)
        x = np.concatenate([chunk async for chunk in images()])
        if form == "png":
            return Response(
                await asyncio.to_thread(lambda: png(pictures.grid(x, service.space.levels))), media_type=PICTURES[0], headers=headers
            )
        facts = {"n": n, "kind": kind, "seed": chosen["seed"], "first": first}
        return Response(await asyncio.to_thread(as_json, {"images": x}, facts), media_type=JSON, headers=headers)

    return handle
