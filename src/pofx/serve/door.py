"""Who may come in, and what is counted at the door."""

from __future__ import annotations

import hmac
import ipaddress
import time

from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pofx.serve.pool import Pool

disable_created_metrics()  # else each counter is told twice

LOCAL = ("localhost", "127.0.0.1", "[::1]")


def problem(status: int, detail: str, **headers: str) -> JSONResponse:
    """A refusal, with a reason; `Retry_After="5"` is a header."""
    return JSONResponse({"detail": detail}, status, {name.replace("_", "-"): text for name, text in headers.items()})


class Metrics:
    """Numbers for Prometheus, of one app."""

    def __init__(self, pool: Pool) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter("pofx_requests", "Requests by path and status.", ["path", "status"], registry=registry)
        self.seconds = Histogram("pofx_request_seconds", "Time to the end of an answer.", ["path"], registry=registry)
        self.batch = Histogram("pofx_batch_images", "Images in a batch.", registry=registry, buckets=(1, 2, 5, 10, 20, 50, 75, 100))
        names = {
            "images": "Images that were worked on.",
            "deaths": "Workers that ended unasked.",
            "again": "Images that were queued again after their worker died.",
            "turned_away": "Requests that found the queue full.",
        }
        self.counters = {name: Counter(f"pofx_{name}", text, registry=registry) for name, text in names.items()}
        Gauge("pofx_waiting_images", "Images in the queue.", registry=registry).set_function(lambda: pool.waiting)
        Gauge("pofx_workers", "Workers that answer.", registry=registry).set_function(lambda: len(pool.alive))

    def count(self, name: str, amount: float) -> None:
        if name == "batch":
            self.batch.observe(amount)
        elif name in self.counters:
            self.counters[name].inc(amount)

    def totals(self) -> tuple[float, float, float]:
        """Requests, images, workers that died."""
        requests = sum(sample.value for metric in self.requests.collect() for sample in metric.samples if sample.name.endswith("_total"))
        images, deaths = (next(iter(self.counters[name].collect())).samples[0].value for name in ("images", "deaths"))
        return requests, images, deaths


def is_local(host: str) -> bool:
    """Whether only this machine reaches what is bound to it.

    >>> is_local("127.0.0.1"), is_local("localhost"), is_local("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Door:
    """Counts requests, and lets in those that may come: with the token where there is one, else from pages of this machine only (a page
    elsewhere whose name resolves to 127.0.0.1 sends its own name as Host)."""

    def __init__(self, app: ASGIApp, token: str | None, metrics: Metrics, paths: set[str]) -> None:
        self.app, self.token, self.metrics, self.paths = app, token, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, begun, status = (scope["path"] if scope["path"] in self.paths else "other"), time.perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            refused = self.refuse(scope)
            await (refused or self.app)(scope, receive, counted)
        finally:
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - begun)

    def refuse(self, scope: Scope) -> JSONResponse | None:
        headers = {name.decode("latin-1"): text for name, text in scope["headers"]}
        if self.token is not None:
            given = headers.get("authorization", b"")
            if scope["path"] == "/health" or hmac.compare_digest(given, b"Bearer " + self.token.encode()):
                return None
            return problem(401, "This service asks for a token: -H 'Authorization: Bearer TOKEN'.", WWW_Authenticate="Bearer")
        host = headers.get("host", b"").decode("latin-1")
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if name.lower() not in LOCAL:
            return problem(
                421, f"This service is for this machine; the request asks for {host!r}. Use http://localhost, or start it with a token."
            )
        return None
