"""What is compared: one GET by each client, sync and async, and how to build it.

Each builder gives a function that makes one request and returns its status and
the length of its body. The same policy everywhere, as far as each can say it:
5 s in all, two retries on 503 and connection failures, a breaker.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

Get = Callable[[], tuple[int, int]]
AsyncGet = Callable[[], Awaitable[tuple[int, int]]]

KINDS = ("httpx", "httpx-raised", "by-hand", "sidecar", "meshclient")
#: Not run unless asked for: the glue without spans and metrics.
EXTRA_KINDS = ("by-hand-no-otel",)

TIMEOUT_S = 5.0
RETRIES = 2

NATIVE_POLICY: dict[str, Any] = {
    "timeout": "5s",
    "retries": {
        "attempts": RETRIES,
        "on": ["connect-failure", "reset", "503"],
        "per_try_timeout": "2s",
    },
    "circuit_breaker": {"consecutive_failures": 5, "open_for": "30s"},
}


def native_document(port: int) -> dict[str, Any]:
    """The policy file of the meshclient cells, parsed."""
    service = {"endpoints": [f"127.0.0.1:{port}"], **NATIVE_POLICY}
    return {"version": 1, "services": {"echo": service}}


@contextmanager
def sync_subject(kind: str, port: int, concurrency: int) -> Iterator[Get]:
    """A ready client of ``kind`` for threads."""
    import httpx

    if kind == "meshclient":
        import meshclient

        with meshclient.Mesh.from_documents([native_document(port)]) as mesh:
            mesh.wait_ready()
            with mesh.client(trust_env=False) as client:
                yield _plain(client, "http://echo/")
        return
    with httpx.Client(**_options(kind, concurrency)) as client:
        plain = _plain(client, f"http://127.0.0.1:{port}/")
        yield _glued(client, port, kind == "by-hand") if kind.startswith("by-hand") else plain


@asynccontextmanager
async def async_subject(kind: str, port: int, concurrency: int) -> AsyncIterator[AsyncGet]:
    """A ready client of ``kind`` for tasks."""
    import httpx

    if kind == "meshclient":
        import meshclient

        async with meshclient.Mesh.from_documents([native_document(port)]) as mesh:
            await mesh.async_wait_ready()
            async with mesh.async_client(trust_env=False) as client:
                yield _async_plain(client, "http://echo/")
        return
    async with httpx.AsyncClient(**_options(kind, concurrency)) as client:
        plain = _async_plain(client, f"http://127.0.0.1:{port}/")
        glued = kind.startswith("by-hand")
        yield _async_glued(client, port, kind == "by-hand") if glued else plain


def _options(kind: str, concurrency: int) -> dict[str, Any]:
    import httpx

    options: dict[str, Any] = {"trust_env": False, "timeout": TIMEOUT_S}
    if kind != "httpx":
        # Everybody but the plain default gets room for all calls at once.
        room = max(concurrency, 100)
        options["limits"] = httpx.Limits(max_connections=room, max_keepalive_connections=room)
    return options


def _plain(client: Any, url: str) -> Get:
    def get() -> tuple[int, int]:
        response = client.get(url)
        return response.status_code, len(response.content)

    return get


def _async_plain(client: Any, url: str) -> AsyncGet:
    async def get() -> tuple[int, int]:
        response = await client.get(url)
        return response.status_code, len(response.content)

    return get


# --- tenacity + pybreaker + OpenTelemetry, as their manuals say ---------------------------------


class _Glue:
    """What the hand-written versions share."""

    def __init__(self, port: int, otel: bool) -> None:
        import httpx
        import pybreaker
        import tenacity

        self.url = f"http://127.0.0.1:{port}/"
        self.breaker = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=30)
        self.retrying: dict[str, Any] = {
            "stop": tenacity.stop_after_attempt(1 + RETRIES),
            "wait": tenacity.wait_random_exponential(multiplier=0.025, max=0.25),
            "retry": tenacity.retry_if_exception_type((httpx.TransportError, _Unavailable)),
            "reraise": True,
        }
        self.observe = _telemetry() if otel else _unobserved


class _Unavailable(Exception):
    """A 503, as an exception, so that breaker and retries see it."""


def _checked(response: Any) -> tuple[int, int]:
    if response.status_code == 503:
        raise _Unavailable
    return response.status_code, len(response.content)


def _glued(client: Any, port: int, otel: bool) -> Get:
    import tenacity

    glue = _Glue(port, otel)

    def once() -> tuple[int, int]:
        with glue.observe() as (headers, done), glue.breaker.calling():
            response = client.get(glue.url, headers=headers)
            done(response.status_code)
            return _checked(response)

    get: Get = tenacity.retry(**glue.retrying)(once)
    return get


def _async_glued(client: Any, port: int, otel: bool) -> AsyncGet:
    import tenacity

    glue = _Glue(port, otel)

    async def once() -> tuple[int, int]:
        with glue.observe() as (headers, done), glue.breaker.calling():
            response = await client.get(glue.url, headers=headers)
            done(response.status_code)
            return _checked(response)

    get: AsyncGet = tenacity.retry(**glue.retrying)(once)
    return get


@contextmanager
def _unobserved() -> Iterator[tuple[dict[str, str], Callable[[int], None]]]:
    yield {}, lambda _: None


def _telemetry() -> Callable[[], Any]:
    """A client span, context propagation and a duration histogram per try."""
    import time

    from opentelemetry import propagate, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    # One trace in a hundred, a common production setting; without an exporter,
    # since the cost of exporting is the same for everybody.
    tracer = TracerProvider(sampler=ParentBased(TraceIdRatioBased(0.01))).get_tracer("bench")
    meter = MeterProvider([InMemoryMetricReader()]).get_meter("bench")
    durations = meter.create_histogram("http.client.request.duration", unit="s")

    @contextmanager
    def observe() -> Iterator[tuple[dict[str, str], Callable[[int], None]]]:
        started = time.perf_counter()
        attributes: dict[str, str | int] = {
            "http.request.method": "GET",
            "server.address": "127.0.0.1",
        }
        with tracer.start_as_current_span("GET", kind=trace.SpanKind.CLIENT) as span:
            if span.is_recording():
                span.set_attributes(attributes)
            headers: dict[str, str] = {}
            propagate.inject(headers)

            def done(status: int) -> None:
                attributes["http.response.status_code"] = status
                span.set_attribute("http.response.status_code", status)

            yield headers, done
        durations.record(time.perf_counter() - started, attributes)

    return observe


def seed() -> None:
    """The same jitter in every cell."""
    random.seed(1)
