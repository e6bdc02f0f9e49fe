"""The ASGI middleware with applications and servers made of a few lines."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import meshclient
from meshclient import context
from meshclient.server import ASGIMiddleware, carry
from meshclient.telemetry.propagation import current

MARK = (b"x-meshclient-retries-exhausted", b"true")


async def never() -> dict[str, Any]:
    raise AssertionError("nothing is received here")


def serve(app, headers=(), kind="http", mesh=None, **scope) -> list[dict[str, Any]]:
    """What the application sends for one request."""
    messages: list[dict[str, Any]] = []

    async def send(message):
        messages.append(message)

    async def main():
        await ASGIMiddleware(app, mesh)({"type": kind, "headers": headers, **scope}, never, send)
        assert current() is None

    asyncio.run(main())
    return messages


def answering(status: int, exhausted: str = "", kind: str = "http"):
    prefix = "websocket." if kind == "websocket" else ""

    async def app(scope, receive, send):
        current().marks.exhausted = exhausted
        start = {
            "type": f"{prefix}http.response.start",
            "status": status,
            "headers": [(b"a", b"b")],
        }
        await send(start)
        await send({"type": f"{prefix}http.response.body", "body": b"x"})

    return app


def test_the_application_sees_the_request():
    seen = []

    async def app(scope, receive, send):
        seen.append((current().request_id, context.remaining()))
        seen.append((await asyncio.to_thread(current)).request_id)
        loop = asyncio.get_running_loop()
        seen.append(await loop.run_in_executor(None, carry(lambda: current().request_id)))
        seen.append(await asyncio.create_task(task()))

    async def task():
        return current().request_id

    serve(app, [(b"x-request-id", b"one"), (b"grpc-timeout", b"2S")])
    (first, left), *rest = seen
    assert 1.0 < left <= 2.0
    assert [first, *rest] == ["one"] * 4


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_only_failing_answers_after_retries_in_vain_are_marked(kind):
    for status, exhausted, marked in (
        (200, "", False),
        (200, "payments", False),
        (302, "payments", False),
        (503, "", False),
        (503, "payments", True),
        (429, "payments", True),
    ):
        start, body = serve(answering(status, exhausted, kind), kind=kind)
        assert start["headers"] == [(b"a", b"b")] + ([MARK] if marked else [])
        assert body["body"] == b"x"


def test_an_answer_without_headers_is_marked_too():
    async def app(scope, receive, send):
        current().marks.exhausted = "payments"
        await send({"type": "http.response.start", "status": 500})

    assert serve(app)[0]["headers"] == [MARK]


def test_a_lifespan_is_no_request():
    seen = []

    async def app(scope, receive, send):
        seen.append(current())

    serve(app, kind="lifespan")
    assert seen == [None]


def test_an_error_of_the_application_passes_and_leaves_nothing():
    async def app(scope, receive, send):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        serve(app)
    assert current() is None


def test_a_streaming_answer_belongs_to_the_request():
    seen = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(3):
            await asyncio.sleep(0)
            seen.append(current().request_id)
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    serve(app, [(b"x-request-id", b"one")])
    assert seen == ["one"] * 3


def test_requests_at_the_same_time_do_not_mix():
    async def app(scope, receive, send):
        for _ in range(5):
            await asyncio.sleep(0)
            assert current().request_id == scope["path"]

    async def main():
        middleware = ASGIMiddleware(app)
        scopes = [
            {"type": "http", "path": f"{n}", "headers": [(b"x-request-id", b"%d" % n)]}
            for n in range(50)
        ]
        await asyncio.gather(*(middleware(scope, never, never) for scope in scopes))

    asyncio.run(main())


def test_the_mesh_says_which_headers_are_taken_in():
    document = {"version": 1, "propagation": {"headers": ["X-Tenant"], "request_id": False}}
    seen = []

    async def app(scope, receive, send):
        seen.append(context.outbound_headers())

    with meshclient.Mesh.from_documents([document]) as mesh:
        serve(app, [(b"x-tenant", b"acme"), (b"x-request-id", b"one")], mesh=mesh)
    assert seen == [{"x-tenant": "acme"}]
