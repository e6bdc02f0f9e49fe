"""A second try beside a slow one, over real sockets: one answer, and nothing left of the other."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import trio
from engine_support import HttpServer, Reply, run_on
from servers.http2 import H2Server, Request

import meshclient
from meshclient.clients import runtime as runtime_module
from meshclient.clients.helper_threads import HelperThreads

KINDS = ("sync", "asyncio", "uvloop", "trio")
LATE_S = 5.0
every = pytest.mark.parametrize("kind", KINDS)


def late(_request: Any) -> Reply:
    return Reply(200, b"late", delay_s=LATE_S)


def soon(_request: Any) -> Reply:
    return Reply(200, b"soon")


def answer_soon(request: Request) -> None:
    request.peer.respond(request, body=b"soon")


class World:
    """A mesh over two servers, the first of which is asked first."""

    def __init__(self, first: Any, second: Any, engine: Any = "meshclient", **service: Any) -> None:
        self.first, self.second, self.engine = first, second, engine
        document: dict[str, Any] = {
            "endpoints": [f"127.0.0.1:{first.port}", f"127.0.0.1:{second.port}"],
            "load_balancing": "round_robin",
            "hedging": {"delay": "50ms"},
            **service,
        }
        documents = [{"version": 1, "services": {"s": document}}]
        self.mesh = meshclient.Mesh.from_documents(documents, engine=engine)
        # Round robin begins anywhere: pick in the order of the list.
        balancer = self.mesh._plane.clusters["s"].balancer
        while balancer.pick(lambda: 0, 0.0, None).endpoint.port != second.port:
            pass

    def in_flight(self) -> int:
        state = self.mesh._plane.clusters["s"]
        return state.active_requests + state.lane.limiter.active

    def call(self, kind: str, method: str = "GET", **options: Any) -> httpx.Response:
        """One call on a loop, or none, of its own."""
        if kind == "sync":
            with self.mesh.client(trust_env=False) as client:
                return client.request(method, "http://s/x", **options)

        async def send() -> httpx.Response:
            async with self.mesh.async_client(trust_env=False) as client:
                return await client.request(method, "http://s/x", **options)

        async def send_and_close() -> httpx.Response:
            async with self.mesh:  # what was opened there is closed there
                return await send()

        if kind == "trio":
            return trio.run(send_and_close)
        return run_on(kind, send() if self.engine == "meshclient" else send_and_close())


@pytest.fixture
def worlds() -> Iterator[Callable[..., World]]:
    made: list[World] = []
    servers: list[HttpServer] = []

    def make(first: Any = late, second: Any = soon, **service: Any) -> World:
        pair = [HttpServer(handler).start() for handler in (first, second)]
        servers.extend(pair)
        made.append(World(*pair, **service))
        return made[-1]

    yield make
    for world in made:
        world.mesh.close()
    for server in servers:
        server.stop()


def tries(response: httpx.Response) -> list[str]:
    return [attempt.outcome for attempt in response.extensions["meshclient"].attempts]


@every
def test_the_second_try_wins_and_the_first_leaves_nothing(kind: str, worlds: Any) -> None:
    world = worlds()
    started = time.monotonic()
    response = world.call(kind)
    assert (response.text, tries(response)) == ("soon", ["lost", "success"])
    assert 0.05 <= time.monotonic() - started < LATE_S / 2
    assert world.in_flight() == 0
    first = world.first
    assert first.wait_for(lambda: first.accepted == 1 and first.open_connections == 0)


@every
def test_the_first_wins_if_it_answers_first(kind: str, worlds: Any) -> None:
    world = worlds(lambda _: Reply(200, b"first", delay_s=0.2), late)
    response = world.call(kind)
    assert (response.text, tries(response)) == ("first", ["lost", "success"])
    assert world.in_flight() == 0
    second = world.second
    assert second.wait_for(lambda: second.accepted == 1 and second.open_connections == 0)


@every
def test_an_answer_in_time_is_the_only_try(kind: str, worlds: Any) -> None:
    world = worlds(soon, soon, hedging={"delay": "3s"})
    response = world.call(kind)
    assert tries(response) == ["success"]
    assert len(world.first.requests) + len(world.second.requests) == 1


@every
def test_a_bad_answer_waits_for_the_other_try(kind: str, worlds: Any) -> None:
    world = worlds(
        lambda _: Reply(200, b"good", delay_s=0.25),
        lambda _: Reply(503, b"bad"),
        retries={"attempts": 1, "on": [503]},
    )
    response = world.call(kind)
    assert (response.text, tries(response)) == ("good", ["failed", "success"])
    assert world.in_flight() == 0


@every
def test_a_broken_hedge_waits_for_the_other_try(kind: str, worlds: Any) -> None:
    world = worlds(
        lambda _: Reply(200, b"good", delay_s=0.25),
        lambda _: Reply(hang_up=True),
        retries={"attempts": 1},
    )
    response = world.call(kind)
    assert response.text == "good"
    assert world.in_flight() == 0


@every
def test_a_streamed_body_of_the_winner_arrives_whole(kind: str, worlds: Any) -> None:
    pieces = [b"x" * 50_000] * 4
    world = worlds(late, lambda _: Reply(200, iter(pieces)))
    assert len(world.call(kind).content) == 200_000
    assert world.in_flight() == 0


@every
def test_at_the_per_try_timeout_the_slow_try_goes_on(kind: str, worlds: Any) -> None:
    world = worlds(
        lambda _: Reply(200, b"first", delay_s=0.3),
        late,
        hedging={"on_per_try_timeout": True},
        retries={"attempts": 1, "on": ["reset"], "per_try_timeout": "100ms"},
        timeout="3s",
    )
    response = world.call(kind)
    assert (response.text, tries(response)) == ("first", ["lost", "success"])
    assert world.in_flight() == 0


@pytest.mark.parametrize("kind", KINDS[:3])
def test_what_may_not_be_sent_twice_is_not(kind: str, worlds: Any) -> None:
    world = worlds(lambda _: Reply(200, b"first", delay_s=0.15), soon)
    assert tries(world.call(kind, "POST", content=b"order")) == ["success"]
    keyed = world.call(kind, "POST", content=b"order", headers={"idempotency-key": "7"})
    assert len(tries(keyed)) in (1, 2), "the second server may have been first"
    assert world.in_flight() == 0


@every
def test_a_spent_budget_leaves_the_first_alone(kind: str, worlds: Any) -> None:
    world = worlds(
        lambda _: Reply(200, b"first", delay_s=0.15),
        soon,
        retries={"attempts": 2, "budget": {"percent": 0, "min_concurrency": 0}},
    )
    response = world.call(kind)
    assert (response.text, tries(response)) == ("first", ["success"])
    assert "as many retries under way" in response.extensions["meshclient"].notes[0]


@every
def test_both_slow_ends_at_the_routes_timeout(kind: str, worlds: Any) -> None:
    world = worlds(late, late, timeout="250ms")
    started = time.monotonic()
    with pytest.raises(meshclient.RouteTimeout) as caught:
        world.call(kind)
    assert time.monotonic() - started < 2.0
    assert len(caught.value.report.attempts) == 2
    assert world.in_flight() == 0
    for server in (world.first, world.second):
        assert server.wait_for(lambda server=server: server.open_connections == 0)


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_cancelled_in_the_middle_both_tries_end(kind: str, worlds: Any) -> None:
    world = worlds(late, late)

    async def body() -> None:
        async with world.mesh.async_client(trust_env=False) as client:
            task = asyncio.ensure_future(client.get("http://s/x"))
            both = lambda: len(world.first.requests) + len(world.second.requests) == 2  # noqa: E731
            assert await asyncio.to_thread(_soon, both)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert world.in_flight() == 0
            for server in (world.first, world.second):
                assert await asyncio.to_thread(_soon, partial(_closed, server))
            assert asyncio.all_tasks() - {asyncio.current_task(), _outer()} == set()

    def _outer() -> Any:
        return next((t for t in asyncio.all_tasks() if "bounded" in repr(t)), None)

    run_on(kind, body())


def test_trio_cancelled_in_the_middle(worlds: Any) -> None:
    world = worlds(late, late)

    async def body() -> None:
        async with world.mesh, world.mesh.async_client(trust_env=False) as client:
            with trio.move_on_after(0.2) as scope:
                await client.get("http://s/x")
            assert scope.cancelled_caught
            assert world.in_flight() == 0

    trio.run(body)
    assert len(world.first.requests) + len(world.second.requests) == 2


@contextmanager
def nobody_accepts() -> Iterator[int]:
    """The port of a listener whose queue is full: connecting to it takes for ever."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.mark.parametrize("kind", KINDS[:3])
def test_a_loser_that_is_still_connecting_is_called_off(kind: str) -> None:
    with nobody_accepts() as port, HttpServer(soon) as second:
        world = World(SimpleNamespace(port=port), second)
        with world.mesh:
            started = time.monotonic()
            assert world.call(kind).text == "soon"
            assert time.monotonic() - started < 2.0
            assert world.in_flight() == 0
            if kind == "sync":
                assert _soon(lambda: not world.mesh._engines.get("sync")._opening)


def _closed(server: HttpServer) -> bool:
    return server.open_connections == 0


def _soon(condition: Callable[[], bool], limit_s: float = 3.0) -> bool:
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


def test_a_loser_in_the_queue_of_a_full_cluster_is_called_off(worlds: Any) -> None:
    world = worlds(late, soon, limits={"max_connections": 1})
    world.call("sync")
    assert world.in_flight() == 0
    slots = world.mesh._plane.clusters["s"].shared["connections"]
    assert _soon(lambda: slots.pending == 0 and slots.waiting == 0)


def _is_reset(asked: list[Request]) -> bool:
    return any(request.reset is not None for request in asked)


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_over_http2_the_losers_stream_is_reset(kind: str) -> None:
    asked: list[Request] = []
    with H2Server(asked.append) as first, H2Server(answer_soon) as second:
        world = World(first, second, protocol="h2")
        with world.mesh:
            response = world.call(kind)
            assert (response.text, response.http_version) == ("soon", "HTTP/2")
            assert world.in_flight() == 0
            assert _soon(lambda: _is_reset(asked) or all(p.gone.is_set() for p in first.peers))


@pytest.mark.parametrize("engine", ["httpcore", "httpx"])
@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_another_engine_hedges_too(kind: str, engine: str, worlds: Any) -> None:
    """Its blocking exchanges cannot be ended from outside: the loser's ends by itself."""
    world = worlds(lambda _: Reply(200, b"late", delay_s=0.5), soon, engine=engine)
    started = time.monotonic()
    response = world.call(kind)
    assert (response.text, tries(response)) == ("soon", ["lost", "success"])
    assert time.monotonic() - started < 0.4
    assert world.in_flight() == 0
    assert _soon(lambda: world.mesh._runtime._helpers is None or _idle(world))


def _idle(world: World) -> bool:
    helpers = world.mesh._runtime.helpers
    return helpers._idle == helpers.threads


def test_threads_are_bounded_and_used_again(worlds: Any) -> None:
    world = worlds(lambda _: Reply(200, b"late", delay_s=0.3), soon, hedging={"delay": "20ms"})
    helpers = world.mesh._runtime._helpers = HelperThreads("test", 4, idle_s=0.2)
    with world.mesh.client(trust_env=False) as client, ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(lambda _: client.get("http://s/x").text, range(24)))
        assert helpers.threads <= 4
    assert set(answers) <= {"soon", "late"}
    assert world.in_flight() == 0
    assert _soon(lambda: helpers.threads == 0), "idle threads end"


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_calling_off_one_call_never_hits_another(kind: str, worlds: Any) -> None:
    """Both tries end at about the same time, and their connections are used again at once."""

    def echo(request: Any) -> Reply:
        number = int(request.target.rpartition("/")[2])
        return Reply(200, request.target.encode(), delay_s=0.004 + (number % 7) / 1000)

    world = worlds(echo, echo, hedging={"delay": "6ms"}, retries={"attempts": 0})
    paths = [f"/{number}" for number in range(400)]

    async def many() -> list[str]:
        async with world.mesh.async_client(trust_env=False) as client:
            gate = asyncio.Semaphore(8)

            async def one(path: str) -> str:
                async with gate:
                    return (await client.get(f"http://s{path}")).text

            return list(await asyncio.gather(*map(one, paths)))

    if kind == "sync":
        with world.mesh.client(trust_env=False) as client, ThreadPoolExecutor(8) as callers:
            found = list(callers.map(lambda path: client.get(f"http://s{path}").text, paths))
    else:
        found = run_on(kind, many())
    assert found == paths
    assert world.in_flight() == 0
    assert len(world.first.requests) + len(world.second.requests) > 430, "hedges did happen"


def test_without_a_free_thread_a_call_is_an_ordinary_one(worlds: Any) -> None:
    world = worlds(lambda _: Reply(200, b"first", delay_s=0.15), soon)
    world.mesh._runtime._helpers = HelperThreads("test", 0)
    response = world.call("sync")
    assert tries(response) == ["success"]
    assert response.extensions["meshclient"].notes == ("not hedged: no helper thread is free",)


def test_closing_the_mesh_ends_hedged_calls(worlds: Any) -> None:
    world = worlds(late, late)
    with ThreadPoolExecutor(1) as caller:
        future = caller.submit(world.call, "sync")
        both = lambda: len(world.first.requests) + len(world.second.requests) == 2  # noqa: E731
        assert _soon(both)
        started = time.monotonic()
        world.mesh.close()
        with pytest.raises(httpx.TransportError):
            future.result(5)
        assert time.monotonic() - started < LATE_S / 2
    assert world.in_flight() == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_hedges_with_threads_of_its_own(worlds: Any) -> None:
    world = worlds()
    world.call("sync")
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        text = b"failed"
        try:
            text = world.call("sync").content
        finally:
            os.write(write_end, text)
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        assert pipe.read() == b"soon"
    os.waitpid(child, 0)


def test_the_default_bound_of_helper_threads() -> None:
    assert runtime_module.MAX_HELPERS == 64
