"""Requests through real servers: uvicorn, wsgiref, grpc and grpc.aio, each calling the next.

What came in at the first hop is seen at the last; deadlines shrink on their way, and a call
ends everywhere when the first caller's time is over.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import grpc
import grpc.aio
import httpx
import pytest
import uvicorn

import meshclient
from meshclient import context
from meshclient.server import (
    AioServerInterceptor,
    ASGIMiddleware,
    ServerInterceptor,
    WSGIMiddleware,
)

PATIENCE_S = 10.0
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
EXPECTED = "x-envoy-expected-rq-timeout-ms"
MARK = "x-meshclient-retries-exhausted"
RETRIES = {"attempts": 2, "on": [503], "back_off": {"base": "1ms"}}


# -- servers --------------------------------------------------------------------


@contextmanager
def on_uvicorn(app: Any) -> Iterator[str]:
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    ends = time.monotonic() + PATIENCE_S
    while not server.started and time.monotonic() < ends:
        time.sleep(0.005)
    try:
        yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_args: object) -> None:
        """Nothing."""


@contextmanager
def on_wsgiref(app: Any) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, app, server_class=_Server, handler_class=_Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join(PATIENCE_S)
        server.server_close()


def handlers(**methods: Any) -> Any:
    return grpc.method_handlers_generic_handler("test.T", methods)


@contextmanager
def on_grpc(*interceptors: Any, **methods: Any) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4), interceptors=interceptors)
    server.add_generic_rpc_handlers((handlers(**methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait(PATIENCE_S)


def mesh_to(endpoint: str, **service: Any) -> meshclient.Mesh:
    document = {
        "version": 1,
        "propagation": {"headers": ["x-tenant"], "deadline": {"header": "x-due-ms"}},
        "services": {"next": {"endpoints": [endpoint], **service}},
    }
    return meshclient.Mesh.from_documents([document])


# -- hops ------------------------------------------------------------------------


def asgi_hop(mesh: meshclient.Mesh | None, do: Callable[[Any], Any]) -> Any:
    """An application that answers what ``do`` (given the request's headers) comes to."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = {n.decode(): v.decode() for n, v in scope["headers"]}
        status, body = await do(headers)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": body})

    return ASGIMiddleware(app, mesh)


def wsgi_hop(mesh: meshclient.Mesh | None, do: Callable[[Any], Any]) -> Any:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        headers = {
            key[5:].replace("_", "-").lower(): value
            for key, value in environ.items()
            if key.startswith("HTTP_")
        }
        status, body = do(headers)
        start_response(f"{status} X", [])
        return [body]

    return WSGIMiddleware(app, mesh)


def passing_on(mesh: meshclient.Mesh, ended: list[Any]) -> Callable[[Any], Any]:
    async def do(_headers: Any) -> tuple[int, bytes]:
        async with mesh.async_client() as client:
            try:
                response = await client.get("http://next/")
            except meshclient.CallError as error:
                ended.append(error)
                return error.status, str(error).encode()
            return response.status_code, response.content

    return do


def told(headers: Any) -> tuple[int, bytes]:
    return 200, json.dumps(dict(headers)).encode()


# -- tests -------------------------------------------------------------------------


def test_three_hops_of_different_kinds_share_trace_tenant_and_deadline():
    """gRPC caller -> grpc server -> uvicorn -> wsgiref."""
    with ExitStack() as stack:
        last = stack.enter_context(on_wsgiref(wsgi_hop(None, told)))
        to_last = stack.enter_context(mesh_to(last))
        middle_app = asgi_hop(to_last, passing_on(to_last, []))
        middle = stack.enter_context(on_uvicorn(middle_app))
        to_middle = stack.enter_context(mesh_to(middle))
        client = stack.enter_context(to_middle.client())

        def first(_request: bytes, _servicer: Any) -> bytes:
            return client.get("http://next/").content

        handler = grpc.unary_unary_rpc_method_handler(first)
        where = stack.enter_context(on_grpc(ServerInterceptor(to_middle), Go=handler))
        channel = stack.enter_context(grpc.insecure_channel(where))
        metadata = [("traceparent", PARENT), ("x-tenant", "acme"), ("x-request-id", "one")]
        metadata += [("b3", f"{TRACE}-b7ad6b7169203331-1"), ("baggage", "lane=canary")]
        seen = json.loads(channel.unary_unary("/test.T/Go")(b"", timeout=5.0, metadata=metadata))
    for name, value in metadata:
        assert seen[name] == value
    # A deadline travels as a duration: what the way took comes on top again.
    assert 4000 < int(seen[EXPECTED]) < 5200
    assert 4000 < int(seen["x-due-ms"]) < 5200


@pytest.mark.parametrize("first_kind", ["asgi", "wsgi"])
def test_when_the_first_callers_time_is_over_every_hop_ends(first_kind):
    """The last hop would take ten seconds; nobody waits for that."""
    ended: list[Any] = []
    release = threading.Event()

    def slow(_headers: Any) -> tuple[int, bytes]:
        release.wait(PATIENCE_S)
        return 200, b""

    def first(mesh: meshclient.Mesh) -> Any:
        if first_kind == "asgi":
            return on_uvicorn(asgi_hop(mesh, passing_on(mesh, ended)))

        def do(_headers: Any) -> tuple[int, bytes]:
            with mesh.client() as client:
                try:
                    return client.get("http://next/").status_code, b""
                except meshclient.CallError as error:
                    ended.append(error)
                    return error.status, b""

        return on_wsgiref(wsgi_hop(mesh, do))

    with ExitStack() as stack:
        last = stack.enter_context(on_wsgiref(wsgi_hop(None, slow)))
        stack.callback(release.set)
        to_last = stack.enter_context(mesh_to(last, timeout="9s", retries=RETRIES))
        middle = stack.enter_context(on_uvicorn(asgi_hop(to_last, passing_on(to_last, ended))))
        to_middle = stack.enter_context(mesh_to(middle, timeout="9s", retries=RETRIES))
        where = stack.enter_context(first(to_middle))
        begin = time.monotonic()
        response = httpx.get(f"http://{where}/", headers={EXPECTED: "400"}, timeout=PATIENCE_S)
        took_s = time.monotonic() - begin
        release.set()
    assert response.status_code == 504
    assert 0.35 < took_s < 2.0
    # The first hop's own end, or the answer of the next: whichever is there first.
    assert 1 <= len(ended) <= 2
    assert all(isinstance(e, meshclient.DeadlineExceeded) for e in ended)
    assert all(len(e.report.attempts) == 1 for e in ended)


def test_an_expired_deadline_reaches_nobody():
    calls = []

    def never(_headers: Any) -> tuple[int, bytes]:
        calls.append(1)
        return 200, b""

    with on_wsgiref(wsgi_hop(None, never)) as where, mesh_to(where) as mesh:
        with mesh.client() as client, meshclient.deadline(0.0):
            with pytest.raises(meshclient.DeadlineExceeded) as caught:
                client.get("http://next/")
            assert isinstance(caught.value, httpx.TimeoutException)

        async def main() -> None:
            async with mesh.async_client() as client:
                with meshclient.deadline(0.0), pytest.raises(meshclient.DeadlineExceeded):
                    await client.get("http://next/")

        asyncio.run(main())

        @mesh.call("next")
        def function() -> None:
            calls.append(2)

        with meshclient.deadline(0.0), pytest.raises(meshclient.DeadlineExceeded):
            function()
    assert calls == []


def test_a_deadline_cuts_a_response_body():
    """The head comes at once, the rest never does."""
    release = threading.Event()

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"begin"
        release.wait(PATIENCE_S)

    with on_wsgiref(app) as where, mesh_to(where) as mesh, mesh.client() as client:
        begin = time.monotonic()
        try:
            with meshclient.deadline(0.3), pytest.raises(meshclient.DeadlineExceeded):
                client.get("http://next/")
            assert time.monotonic() - begin < 3.0
        finally:
            release.set()


def test_hosts_that_no_policy_knows_get_the_trace_and_no_more():
    with on_wsgiref(wsgi_hop(None, told)) as where, mesh_to(where) as mesh:
        headers = {"traceparent": PARENT, "x-tenant": "acme", "baggage": "a=b", "x-due-ms": "900"}
        with mesh.client() as client, context.enter(headers, mesh):
            known = client.get("http://next/").json()
            unknown = client.get(f"http://{where}/").json()
    assert headers.keys() <= known.keys()
    assert unknown["traceparent"] == PARENT
    assert not {"x-tenant", "baggage", "x-due-ms", EXPECTED} & unknown.keys()


def test_a_route_may_match_on_what_is_carried_on():
    with on_wsgiref(wsgi_hop(None, told)) as where:
        document = {
            "version": 1,
            "propagation": {"headers": ["end-user"]},
            "services": {
                "next": {
                    "endpoints": [where],
                    "routes": [{"match": {"headers": {"end-user": "jason"}}, "name": "v2"}, {}],
                }
            },
        }
        with meshclient.Mesh.from_documents([document]) as mesh, mesh.client() as client:
            with context.enter({"end-user": "jason"}, mesh):
                response = client.get("http://next/")
            assert response.extensions["meshclient"].route == "v2"
            assert client.get("http://next/").extensions["meshclient"].route != "v2"


@pytest.mark.parametrize("middlewares", [True, False])
def test_a_storm_through_real_hops(middlewares):
    """Three hops that each retry twice, over a bottom that always fails."""
    load = []

    def failing(_headers: Any) -> tuple[int, bytes]:
        load.append(1)
        return 503, b""

    retries = {**RETRIES, "budget": "none"}
    with ExitStack() as stack:
        where = stack.enter_context(on_wsgiref(wsgi_hop(None, failing)))
        for _ in range(2):
            mesh = stack.enter_context(mesh_to(where, retries=retries))
            hop = asgi_hop(mesh, passing_on(mesh, []))
            where = stack.enter_context(on_uvicorn(hop if middlewares else hop.app))
        outer = stack.enter_context(mesh_to(where, retries=retries))
        response = stack.enter_context(outer.client()).get("http://next/")
    assert response.status_code == 503
    assert len(load) == (3 if middlewares else 27)
    report = response.extensions["meshclient"]
    assert len(report.attempts) == (1 if middlewares else 3)
    assert (MARK in response.headers) is middlewares
    if middlewares:
        assert report.notes[-1].startswith("not retried: a hop further on has repeated it already")


# -- grpc ---------------------------------------------------------------------------


def seen_by_method() -> bytes:
    inbound = context.current()
    left = context.remaining()
    return b"" if inbound is None else f"{inbound.request_id} {left is not None}".encode()


def unary(_request: bytes, _servicer: Any) -> bytes:
    return seen_by_method()


def streamed(_request: bytes, _servicer: Any) -> Iterator[bytes]:
    for _ in range(3):
        yield seen_by_method()


def collected(requests: Iterator[bytes], _servicer: Any) -> bytes:
    return b"%d " % len(list(requests)) + seen_by_method()


def failing_unary(_request: bytes, servicer: Any) -> bytes:
    context.current().marks.exhausted = "payments"
    servicer.set_trailing_metadata((("own", "1"),))
    servicer.abort(grpc.StatusCode.UNAVAILABLE, "gone")
    raise AssertionError


def surviving(_request: bytes, servicer: Any) -> bytes:
    context.current().marks.exhausted = "payments"
    servicer.set_trailing_metadata((("own", "1"),))
    return b"fine all the same"


def stating(_request: bytes, servicer: Any) -> bytes:
    context.current().marks.exhausted = "payments"
    servicer.set_code(grpc.StatusCode.UNAVAILABLE)
    return b""


def failing_stream(_request: bytes, servicer: Any) -> Iterator[bytes]:
    yield b"one"
    context.current().marks.exhausted = "payments"
    servicer.abort(grpc.StatusCode.UNAVAILABLE, "gone")


SYNC = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Streamed": grpc.unary_stream_rpc_method_handler(streamed),
    "Collected": grpc.stream_unary_rpc_method_handler(collected),
    "Both": grpc.stream_stream_rpc_method_handler(lambda requests, s: streamed(b"", s)),
    "Surviving": grpc.unary_unary_rpc_method_handler(surviving),
    "Stating": grpc.unary_unary_rpc_method_handler(stating),
    "Failing": grpc.unary_unary_rpc_method_handler(failing_unary),
    "FailingStream": grpc.unary_stream_rpc_method_handler(failing_stream),
}


async def unary_aio(_request: bytes, _servicer: Any) -> bytes:
    await asyncio.sleep(0)
    return seen_by_method()


async def streamed_aio(_request: Any, _servicer: Any) -> Any:
    for _ in range(3):
        await asyncio.sleep(0)
        yield seen_by_method()


async def written_aio(_request: Any, servicer: Any) -> None:
    for _ in range(3):
        await servicer.write(seen_by_method())


async def collected_aio(requests: Any, _servicer: Any) -> bytes:
    return b"%d " % len([r async for r in requests]) + seen_by_method()


async def failing_aio(_request: bytes, servicer: Any) -> bytes:
    context.current().marks.exhausted = "payments"
    servicer.set_trailing_metadata((("own", "1"),))
    await servicer.abort(grpc.StatusCode.UNAVAILABLE, "gone")
    raise AssertionError


async def surviving_aio(_request: bytes, servicer: Any) -> bytes:
    return surviving(_request, servicer)


async def stating_aio(_request: bytes, servicer: Any) -> bytes:
    return stating(_request, servicer)


async def failing_stream_aio(_request: bytes, servicer: Any) -> Any:
    yield b"one"
    context.current().marks.exhausted = "payments"
    await servicer.abort(grpc.StatusCode.UNAVAILABLE, "gone")


AIO = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary_aio),
    "Streamed": grpc.unary_stream_rpc_method_handler(streamed_aio),
    "Written": grpc.unary_stream_rpc_method_handler(written_aio),
    "Collected": grpc.stream_unary_rpc_method_handler(collected_aio),
    "Both": grpc.stream_stream_rpc_method_handler(streamed_aio),
    "Surviving": grpc.unary_unary_rpc_method_handler(surviving_aio),
    "Stating": grpc.unary_unary_rpc_method_handler(stating_aio),
    "Failing": grpc.unary_unary_rpc_method_handler(failing_aio),
    "FailingStream": grpc.unary_stream_rpc_method_handler(failing_stream_aio),
    "Blocking": grpc.unary_unary_rpc_method_handler(unary),
    "BlockingStream": grpc.unary_stream_rpc_method_handler(streamed),
    "BlockingFailing": grpc.unary_unary_rpc_method_handler(failing_unary),
    "BlockingStating": grpc.unary_unary_rpc_method_handler(stating),
    "BlockingSurviving": grpc.unary_unary_rpc_method_handler(surviving),
}


@contextmanager
def on_grpc_aio(**methods: Any) -> Iterator[str]:
    """A server on a loop and a thread of its own."""
    ready: list[Any] = []
    started = threading.Event()

    async def main() -> None:
        interceptors = [AioServerInterceptor()]
        server = grpc.aio.server(interceptors=interceptors, migration_thread_pool=pool)
        server.add_generic_rpc_handlers((handlers(**methods),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stop = asyncio.Event()
        ready.extend([f"127.0.0.1:{port}", asyncio.get_running_loop(), stop])
        started.set()
        await stop.wait()
        await server.stop(0.1)

    with ThreadPoolExecutor(2) as pool:
        thread = threading.Thread(target=lambda: asyncio.run(main()))
        thread.start()
        assert started.wait(PATIENCE_S)
        try:
            yield ready[0]
        finally:
            ready[1].call_soon_threadsafe(ready[2].set)
            thread.join(PATIENCE_S)


@pytest.fixture(scope="module", params=["grpc", "grpc.aio"])
def channel(request: Any) -> Iterator[Any]:
    serve = on_grpc(ServerInterceptor(), **SYNC) if request.param == "grpc" else on_grpc_aio(**AIO)
    with serve as where, grpc.insecure_channel(where) as opened:
        opened.kind = request.param
        yield opened


METADATA = [("x-request-id", "one"), ("some-bin", b"\x00\xff")]


def test_methods_of_every_kind_see_the_rpc(channel):
    options = {"metadata": METADATA, "timeout": PATIENCE_S}
    unary_names = ["Unary"] + ["Blocking"] * (channel.kind == "grpc.aio")
    for name in unary_names:
        assert channel.unary_unary(f"/test.T/{name}")(b"", **options) == b"one True", name
    streams = ["Streamed"] + ["Written", "BlockingStream"] * (channel.kind == "grpc.aio")
    for name in streams:
        found = list(channel.unary_stream(f"/test.T/{name}")(b"", **options))
        assert found == [b"one True"] * 3, name
    found = channel.stream_unary("/test.T/Collected")(iter([b"", b""]), **options)
    assert found == b"2 one True"
    assert list(channel.stream_stream("/test.T/Both")(iter([b""]), **options)) == [b"one True"] * 3


def test_without_a_timeout_there_is_no_deadline(channel):
    answer = channel.unary_unary("/test.T/Unary")(b"", metadata=METADATA)
    assert answer == b"one False"


def test_a_method_that_does_not_exist_is_still_unimplemented(channel):
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/test.T/Nothing")(b"", timeout=PATIENCE_S)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_failures_after_retries_in_vain_say_so_in_the_trailers(channel):
    for name in ["Failing"] + ["BlockingFailing"] * (channel.kind == "grpc.aio"):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(f"/test.T/{name}")(b"", timeout=PATIENCE_S)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.details() == "gone"
        trailers = dict(caught.value.trailing_metadata())
        assert trailers == {"own": "1", MARK: "true", "grpc-retry-pushback-ms": "-1"}

    messages = channel.unary_stream("/test.T/FailingStream")(b"", timeout=PATIENCE_S)
    assert next(messages) == b"one"
    with pytest.raises(grpc.RpcError) as caught:
        next(messages)
    assert dict(caught.value.trailing_metadata())[MARK] == "true"


def test_only_rpcs_that_fail_are_marked(channel):
    """The method made good what a call of its own could not, or says itself that it failed."""
    for prefix in [""] + ["Blocking"] * (channel.kind == "grpc.aio"):
        surviving_rpc = channel.unary_unary(f"/test.T/{prefix}Surviving")
        answer, call = surviving_rpc.with_call(b"", timeout=PATIENCE_S)
        assert answer
        assert dict(call.trailing_metadata()) == {"own": "1"}
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(f"/test.T/{prefix}Stating")(b"", timeout=PATIENCE_S)
        assert dict(caught.value.trailing_metadata())[MARK] == "true"


def test_rpcs_leave_nothing_on_the_servers_threads():
    """One thread serves them all: the second finds only its own."""

    def bare(_request: bytes, _servicer: Any) -> bytes:
        return seen_by_method()

    class OnlyGo(ServerInterceptor):
        def intercept_service(self, continuation: Any, details: Any) -> Any:
            if details.method.endswith("Go"):
                return super().intercept_service(continuation, details)
            return continuation(details)

    handler = grpc.unary_unary_rpc_method_handler(bare)
    with on_grpc(OnlyGo(), Go=handler, Bare=handler) as where, grpc.insecure_channel(where) as rpc:
        for _ in range(8):
            first = rpc.unary_unary("/test.T/Go")(b"", metadata=METADATA, timeout=5)
            assert first == b"one True"
            assert rpc.unary_unary("/test.T/Bare")(b"", timeout=5) == b""


# -- grpc calls of the mesh -----------------------------------------------------------


def show(_request: bytes, servicer: Any) -> bytes:
    metadata = {k: v for k, v in servicer.invocation_metadata() if isinstance(v, str)}
    return json.dumps([metadata, servicer.time_remaining()]).encode()


REQUEST = {"traceparent": PARENT, "x-tenant": "acme", "x-request-id": "one", "x-due-ms": "3000"}


def check_shown(answer: bytes) -> None:
    metadata, left_s = json.loads(answer)
    assert {name: metadata.get(name) for name in REQUEST if name != "x-due-ms"} == {
        name: value for name, value in REQUEST.items() if name != "x-due-ms"
    }
    assert 1000 < int(metadata["x-due-ms"]) <= 3000
    assert 1.0 < left_s <= 3.2


def test_rpcs_of_the_mesh_carry_the_request_on():
    handler = grpc.unary_unary_rpc_method_handler(show)
    with on_grpc(Show=handler) as where, mesh_to(where) as mesh, context.enter(REQUEST, mesh):
        with mesh.grpc_channel("next") as rpc:
            check_shown(rpc.unary_unary("/test.T/Show")(b""))
            own = (("x-tenant", "mine"),)
            shown = json.loads(rpc.unary_unary("/test.T/Show")(b"", metadata=own, timeout=1.5))
            assert shown[0]["x-tenant"] == "mine"
            assert shown[1] <= 1.6  # grpc rounds
            with meshclient.deadline(0.0), pytest.raises(grpc.RpcError) as caught:
                rpc.unary_unary("/test.T/Show")(b"")
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

        async def main() -> bytes:
            async with mesh.grpc_aio_channel("next") as rpc:
                return await rpc.unary_unary("/test.T/Show")(b"")

        check_shown(asyncio.run(main()))


def test_an_rpc_that_was_repeated_in_vain_is_not_repeated_by_the_caller():
    """The mark in the trailers ends the retries of the next hop."""
    calls: list[int] = []

    def failing(_request: bytes, servicer: Any) -> bytes:
        calls.append(1)
        return failing_unary(_request, servicer)

    retries = {"attempts": 2, "on": ["unavailable"], "methods": "any", "budget": "none"}
    handler = grpc.unary_unary_rpc_method_handler(failing)
    with ExitStack() as stack:
        where = stack.enter_context(on_grpc(ServerInterceptor(), Go=handler))
        rpc = stack.enter_context(
            stack.enter_context(mesh_to(where, retries=retries)).grpc_channel("next")
        )
        inbound = stack.enter_context(context.enter({}))
        with pytest.raises(grpc.RpcError) as caught:
            rpc.unary_unary("/test.T/Go")(b"", timeout=PATIENCE_S)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert calls == [1]
    assert inbound.marks.exhausted


# -- functions -------------------------------------------------------------------------


def test_a_deadline_bounds_decorated_functions():
    calls: list[str] = []
    slow_back_off = {"attempts": 3, "on": ["reset", 503], "back_off": {"base": "60s"}}
    with mesh_to("127.0.0.1:9", retries=slow_back_off) as mesh:

        @mesh.call("next", idempotent=True)
        async def slow() -> None:
            calls.append("slow")
            await asyncio.sleep(PATIENCE_S)

        @mesh.call("next", idempotent=True)
        def failing() -> None:
            calls.append("failing")
            raise ConnectionResetError

        async def main() -> None:
            with meshclient.deadline(0.1):
                await slow()

        begin = time.monotonic()
        with pytest.raises(meshclient.DeadlineExceeded):
            asyncio.run(main())
        with meshclient.deadline(0.1), pytest.raises((meshclient.CallError, ConnectionResetError)):
            failing()
        assert time.monotonic() - begin < 3.0
    assert calls == ["slow", "failing"]
