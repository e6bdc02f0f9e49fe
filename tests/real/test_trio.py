"""Under trio: calls, retries with back-off, limits, streams, cancellation and close."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx
import httpx2
import pytest
import trio
from engine_support import DeafListener, HttpServer, Recorded, Reply, certificate

from meshclient import Mesh, errors


def service(*endpoints: str, **fields: Any) -> dict[str, Any]:
    return {"version": 1, "services": {"svc": {"endpoints": list(endpoints), **fields}}}


def echo(request: Recorded) -> Reply:
    return Reply(200, request.body or request.target.encode())


async def first_and_then(gate: threading.Event) -> AsyncIterator[bytes]:
    """A body that begins, and ends when the gate opens; runs in the server's asyncio loop."""
    yield b"first"
    await asyncio.get_running_loop().run_in_executor(None, gate.wait, 10)


def nothing_left(mesh: Mesh) -> None:
    """No call is counted any more, at endpoints, budgets or pools."""
    plane = mesh._publisher.plane
    for state in (*plane.clusters.values(), plane.passthrough):
        assert state.active_requests == 0
        assert state.lane.limiter.active == 0
    for engine in mesh._engines.values():
        assert [s for s in engine.stats().values() if s.active] == []


async def within(mesh: Mesh, function: Any, **options: Any) -> None:
    """``function(client)`` bounded, then nothing may be left, and close must be clean."""
    with trio.fail_after(10):
        async with mesh:
            await mesh.async_wait_ready(1.0)
            async with mesh.async_client(timeout=None, **options) as client:
                await function(client)
            nothing_left(mesh)


@pytest.mark.parametrize("family", ["httpx", "httpx2"])
@pytest.mark.parametrize("engine", ["meshclient", "httpcore", "httpx"])
def test_calls_of_every_kind(family, engine):
    def pieces(request: Recorded) -> Reply:
        if request.path == "/stream":
            return Reply(200, iter([b"a\n", b"b\n"]))
        return echo(request)

    async def source():
        for piece in (b"up", b"load"):
            await trio.lowlevel.checkpoint()
            yield piece

    async def calls(client: Any) -> None:
        assert (await client.get("http://svc/x?y")).text == "/x?y"
        assert (await client.post("http://svc/", content=b"body")).text == "body"
        assert (await client.post("http://svc/", content=source())).text == "upload"
        assert (await client.head("http://svc/")).content == b""
        async with client.stream("GET", "http://svc/stream") as response:
            assert [line async for line in response.aiter_lines()] == ["a", "b"]
            assert response.extensions["meshclient"].endpoint == server.authority
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(client.get, "http://svc/many")

    with HttpServer(pieces) as server:
        mesh = Mesh.from_documents([service(server.authority)], engine=engine)
        trio.run(partial(within, mesh, calls, family=family))
        assert len(server.requests) == 55
        assert server.wait_for(lambda: server.open_connections == 0)


def test_retries_sleep_in_trio_and_not_in_asyncio(monkeypatch):
    """The back-off is slept in trio, as long as the report of the run's clock says."""
    answers = iter([503, 503, 200])

    async def calls(client: httpx.AsyncClient) -> None:
        before = trio.current_time()
        response = await client.get("http://svc/")
        assert response.status_code == 200
        assert [a.status for a in response.extensions["meshclient"].attempts] == [503, 503, 200]
        naps.append(trio.current_time() - before)

    naps: list[float] = []
    policy = {"attempts": 2, "on": ["5xx"], "back_off": {"base": "50ms"}}
    with HttpServer(lambda _: Reply(next(answers))) as server:
        mesh = Mesh.from_documents([service(server.authority, retries=policy)], engine="meshclient")
        slept: list[float] = []
        real_sleep = trio.sleep

        async def noted(seconds: float) -> None:
            slept.append(seconds)
            await real_sleep(seconds)

        monkeypatch.setattr(trio, "sleep", noted)
        trio.run(within, mesh, calls)
        assert slept, "nothing was waited for"
        assert sum(slept) <= naps[0]


def test_a_failed_endpoint_is_tried_once_and_then_the_other():
    async def calls(client: httpx.AsyncClient) -> None:
        for _ in range(4):
            assert (await client.get("http://svc/")).status_code == 200

    with HttpServer(echo) as server:
        policy = {"attempts": 2, "on": ["connect-failure"]}
        mesh = Mesh.from_documents([service("127.0.0.1:1", server.authority, retries=policy)])
        trio.run(within, mesh, calls)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"timeout": "100ms"}, errors.RouteTimeout),
        (
            {"retries": {"attempts": 1, "on": ["5xx"], "per_try_timeout": "50ms"}},
            errors.PerTryTimeout,
        ),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_limits_of_the_policy_hold(fields, kind, streaming):
    gate = threading.Event()

    async def calls(client: httpx.AsyncClient) -> None:
        began = time.monotonic()
        with pytest.raises(kind):
            async with client.stream("GET", "http://svc/"):
                pytest.fail("there was a response head")
        assert time.monotonic() - began < 5

    with HttpServer(lambda _: Reply(200, b"late", gate=gate)) as server:
        trio.run(within, Mesh.from_documents([service(server.authority, **fields)]), calls)
        gate.set()


def test_the_deadline_ends_a_body():
    stuck = threading.Event()

    async def calls(client: httpx.AsyncClient) -> None:
        async with client.stream("GET", "http://svc/") as response:
            pieces = response.aiter_raw()
            assert await anext(pieces) == b"first"
            with pytest.raises(errors.CallTimeout):
                await anext(pieces)

    with HttpServer(lambda _: Reply(200, first_and_then(stuck))) as server:
        mesh = Mesh.from_documents([service(server.authority, timeout="200ms")])
        try:
            trio.run(within, mesh, calls)
        finally:
            stuck.set()


def test_connecting_takes_no_longer_than_the_caller_allows():
    async def calls(client: httpx.AsyncClient) -> None:
        with pytest.raises(httpx.ConnectTimeout):
            await client.get("http://svc/", timeout=httpx.Timeout(None, connect=0.1))

    with DeafListener() as deaf:
        trio.run(within, Mesh.from_documents([service(f"127.0.0.1:{deaf.port}")]), calls)


@pytest.mark.parametrize("where", ["head", "body", "back_off", "connect"])
def test_a_cancelled_call_leaves_nothing(where):
    """move_on_after ends the call at each place where it can wait; the client serves on."""
    stuck = threading.Event()

    def answer(request: Recorded) -> Reply:
        if request.path == "/head":
            return Reply(200, b"", gate=stuck)
        if request.path == "/body":
            return Reply(200, first_and_then(stuck))
        return Reply(503) if request.path == "/back_off" else echo(request)

    async def calls(client: httpx.AsyncClient) -> None:
        for _ in range(3):
            with trio.move_on_after(0.05) as scope:
                await client.get(f"http://svc/{where}")
            assert scope.cancelled_caught
        nothing_left(mesh)
        if where != "connect":
            assert (await client.get("http://svc/fine")).text == "/fine"

    back_off = {"base": "60s", "max": "60s"}
    policy = {"attempts": 5, "on": ["5xx"], "back_off": back_off}
    with HttpServer(answer) as server, DeafListener() as deaf:
        endpoint = f"127.0.0.1:{deaf.port}" if where == "connect" else server.authority
        mesh = Mesh.from_documents([service(endpoint, retries=policy)])
        # The back-off is drawn between 0 and its bound: take the bound.
        mesh._runtime.rand = lambda: 2**64 - 1
        try:
            trio.run(within, mesh, calls)
        finally:
            stuck.set()
        assert server.wait_for(lambda: server.open_connections == 0)


def test_a_storm_of_cancellations_leaves_nothing():
    async def calls(client: httpx.AsyncClient) -> None:
        async def one(number: int) -> None:
            with trio.move_on_after(0.001 * (number % 17)):
                await client.get("http://svc/")

        for _ in range(3):
            async with trio.open_nursery() as nursery:
                for number in range(100):
                    nursery.start_soon(one, number)
            nothing_left(mesh)
        assert (await client.get("http://svc/fine")).text == "/fine"

    def answer(request: Recorded) -> Reply:
        return Reply(200, request.target.encode(), delay_s=0.005)

    with HttpServer(answer) as server:
        mesh = Mesh.from_documents([service(server.authority)])
        trio.run(within, mesh, calls)
        assert server.wait_for(lambda: server.open_connections == 0)


def test_runs_one_after_the_other_and_a_sync_close():
    """Each run has connections of its own; close() from outside ends what is left."""

    async def calls(client: httpx.AsyncClient) -> None:
        assert (await client.get("http://svc/")).status_code == 200

    async def ask(mesh: Mesh) -> None:
        async with mesh.async_client() as client:
            await calls(client)
        for engine in mesh._engines.values():
            engine.retain(())
        async with mesh.async_client() as client:
            await calls(client)
        await mesh.aclose()

    for _ in range(2):
        with HttpServer(echo) as server:
            trio.run(ask, Mesh.from_documents([service(server.authority)]))
            assert server.wait_for(lambda: server.open_connections == 0)


def test_close_on_another_thread_ends_a_call_under_trio():
    stuck = threading.Event()

    async def main() -> None:
        with trio.fail_after(10):
            async with mesh.async_client(timeout=None) as client, trio.open_nursery() as nursery:
                nursery.start_soon(closer)
                with pytest.raises((errors.CallError, errors.ClosedError)):
                    await client.get("http://svc/")

    async def closer() -> None:
        await trio.to_thread.run_sync(lambda: server.wait_for(lambda: bool(server.requests)))
        await trio.to_thread.run_sync(mesh.close)

    with HttpServer(lambda _: Reply(200, gate=stuck)) as server:
        mesh = Mesh.from_documents([service(server.authority)])
        try:
            trio.run(main)
        finally:
            stuck.set()


def test_httpx2_exceptions_under_trio():
    async def calls(client: Any) -> None:
        with pytest.raises(httpx2.ConnectError):
            await client.get("http://svc/")

    mesh = Mesh.from_documents([service("127.0.0.1:1")])
    trio.run(partial(within, mesh, calls, family="httpx2"))


@pytest.mark.parametrize("engine", ["meshclient", "httpcore", "httpx"])
@pytest.mark.parametrize(("name", "good"), [("svc.test", True), ("other.test", False)])
def test_the_policys_tls_holds(engine, name, good, tmp_path):
    """The names that the policy expects are checked under trio and on every engine."""
    pair = certificate(tmp_path, "svc.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)

    async def calls(client: httpx.AsyncClient) -> None:
        if good:
            assert (await client.get("http://svc/x")).text == "/x"
            return
        with pytest.raises(errors.ConnectFailed):
            await client.get("http://svc/x")

    with HttpServer(echo, tls=context) as server:
        tls = {"mode": "simple", "ca": pair[0], "subject_alt_names": [name]}
        mesh = Mesh.from_documents([service(server.authority, tls=tls)], engine=engine)
        trio.run(within, mesh, calls)
        assert bool(server.requests) is good
