"""Limits of a cluster's connections under real load: never too many, fair, none left over."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from connections_support import deaf_at
from engine_support import LOOPS, HttpServer, Recorded, Reply, eventually, get, read, run_on, soon

import meshclient
from meshclient.model.cluster import ConnectionOptions, Limits
from meshclient.model.outcome import ResetReason
from meshclient.transport.async_engine import AsyncEngine
from meshclient.transport.endpoint_slots import EndpointCounts, EndpointSlots
from meshclient.transport.interface import Target, WireError
from meshclient.transport.slots import ConnectionSlots
from meshclient.transport.sync_engine import SyncEngine

loops = pytest.mark.parametrize("kind", LOOPS)


def target(port: int, slots: ConnectionSlots, **options: Any) -> Target:
    return Target("127.0.0.1", port, None, ConnectionOptions(**options), connections=slots)


def at_rest(slots: ConnectionSlots) -> tuple[int, int, int]:
    return slots.open, slots.pending, slots.waiting


class Watched:
    """A slow server that knows how many connections it had at most."""

    def __init__(self, delay_s: float = 0.002, close_every: int = 0) -> None:
        self.delay_s = delay_s
        self.close_every = close_every
        self.most = 0
        self.served = 0
        self.server: HttpServer

    def __call__(self, _request: Recorded) -> Reply:
        self.most = max(self.most, self.server.open_connections)
        self.served += 1
        close = bool(self.close_every) and self.served % self.close_every == 0
        return Reply(200, b"ok", delay_s=self.delay_s, close=close)


@contextmanager
def watched(**options: Any) -> Iterator[Watched]:
    handler = Watched(**options)
    with HttpServer(handler) as handler.server:
        yield handler


def test_a_hundred_threads_share_five_connections() -> None:
    slots = ConnectionSlots(Limits(max_connections=5))
    engine = SyncEngine()
    with watched() as handler, ThreadPoolExecutor(100) as threads:
        where = target(handler.server.port, slots)
        calls = [
            threads.submit(lambda: b"".join(engine.send(where, get(deadline=soon(30)))))
            for _ in range(600)
        ]
        assert {call.result(30) for call in calls} == {b"ok"}
        assert handler.most == handler.server.accepted == 5
        assert at_rest(slots) == (5, 0, 0)
        engine.close()
    assert at_rest(slots) == (0, 0, 0)


@loops
def test_a_thousand_tasks_share_five_connections(kind: str) -> None:
    async def run(handler: Watched) -> None:
        slots = ConnectionSlots(Limits(max_connections=5))
        engine = AsyncEngine()
        where = target(handler.server.port, slots)

        async def call() -> bytes:
            return await read(await engine.send(where, get(deadline=soon(30))))

        assert set(await asyncio.gather(*(call() for _ in range(1000)))) == {b"ok"}
        assert handler.most == handler.server.accepted == 5
        assert at_rest(slots) == (5, 0, 0)
        await engine.aclose()
        assert at_rest(slots) == (0, 0, 0)

    with watched(delay_s=0.001) as handler:
        run_on(kind, run(handler))


@loops
def test_connections_that_end_pass_their_slots_on(kind: str) -> None:
    """Every third answer closes its connection, so most waiters get a slot, not a connection."""

    async def run(handler: Watched) -> None:
        slots = ConnectionSlots(Limits(max_connections=4))
        engine = AsyncEngine()
        where = target(handler.server.port, slots)

        async def call() -> bytes:
            return await read(await engine.send(where, get(deadline=soon(20))))

        assert set(await asyncio.gather(*(call() for _ in range(300)))) == {b"ok"}
        assert handler.server.accepted > 50
        # The server sees the end of a connection a moment after the next one begins.
        assert handler.most <= 4 + 4
        await engine.aclose()
        assert at_rest(slots) == (0, 0, 0)

    with watched(delay_s=0.001, close_every=3) as handler:
        run_on(kind, run(handler))


@loops
def test_first_come_first_served(kind: str) -> None:
    async def run(server: HttpServer) -> None:
        slots = ConnectionSlots(Limits(max_connections=1))
        engine = AsyncEngine()
        where = target(server.port, slots)
        calls = [asyncio.create_task(engine.send(where, get(b"/%d" % n))) for n in range(40)]
        await asyncio.gather(*calls)
        assert [request.target for request in server.requests] == [f"/{n}" for n in range(40)]
        await engine.aclose()

    with HttpServer() as server:
        run_on(kind, run(server))


def test_threads_are_served_in_the_order_they_queued() -> None:
    slots = ConnectionSlots(Limits(max_connections=1))
    engine = SyncEngine()
    gate = threading.Event()
    with HttpServer(lambda r: Reply(gate=gate if r.path == "/0" else None)) as server:
        where = target(server.port, slots)
        with ThreadPoolExecutor(20) as threads:
            for number in range(20):
                threads.submit(engine.send, where, get(b"/%d" % number))
                _until(lambda n=number: slots.waiting == n and slots.open == 1)
            gate.set()
        assert [request.target for request in server.requests] == [f"/{n}" for n in range(20)]
        engine.close()


def _until(condition: Any) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, "never happened"
        time.sleep(0.001)


@loops
def test_too_many_pending_overflow_at_once(kind: str) -> None:
    """Pending are those without a connection, whether they open one or wait."""

    async def run(server: HttpServer) -> None:
        slots = ConnectionSlots(Limits(max_connections=1, max_pending_requests=3))
        engine = AsyncEngine()
        calls = (engine.send(target(server.port, slots), get()) for _ in range(10))
        results = await asyncio.gather(*calls, return_exceptions=True)
        refused = [result for result in results if isinstance(result, WireError)]
        assert len(refused) == 7
        assert {error.reason for error in refused} == {ResetReason.OVERFLOW}
        await engine.aclose()
        assert at_rest(slots) == (0, 0, 0)

    with HttpServer(lambda _: Reply(delay_s=0.05)) as server:
        run_on(kind, run(server))


# limits of the request, which limit ends the wait, the reason
WAITS = [
    ({"deadline": 0.1}, "deadline", ResetReason.ROUTE_TIMEOUT),
    ({"pool_timeout_s": 0.1}, "pool", ResetReason.OVERFLOW),
    ({"connect_timeout_s": 0.1}, "pool", ResetReason.OVERFLOW),
    ({"pool_timeout_s": 0.1, "deadline": 5.0}, "pool", ResetReason.OVERFLOW),
]


def _limits(limits: dict[str, float]) -> dict[str, float]:
    if "deadline" not in limits:
        return limits
    return {**limits, "deadline": soon(limits["deadline"])}


@pytest.mark.parametrize(("limits", "kind_of_limit", "reason"), WAITS)
@loops
def test_waiting_is_bounded_on_a_loop(
    kind: str, limits: dict[str, float], kind_of_limit: str, reason: ResetReason
) -> None:
    async def run(server: HttpServer) -> None:
        slots = ConnectionSlots(Limits(max_connections=1))
        engine = AsyncEngine()
        where = target(server.port, slots)
        first = asyncio.create_task(engine.send(where, get()))
        await asyncio.sleep(0.02)
        before = time.monotonic()
        with pytest.raises(WireError) as caught:
            await engine.send(where, get(**_limits(limits)))
        assert 0.09 < time.monotonic() - before < 0.35
        assert (caught.value.timeout, caught.value.reason) == (kind_of_limit, reason)
        assert not caught.value.sent
        assert slots.waiting == 0
        assert (await first).status == 200
        await engine.aclose()

    with HttpServer(lambda _: Reply(delay_s=0.4)) as server:
        run_on(kind, run(server))


@pytest.mark.parametrize(("limits", "kind_of_limit", "reason"), WAITS)
def test_waiting_is_bounded_on_a_thread(
    limits: dict[str, float], kind_of_limit: str, reason: ResetReason
) -> None:
    slots = ConnectionSlots(Limits(max_connections=1))
    engine = SyncEngine()
    with HttpServer(lambda _: Reply(delay_s=0.4)) as server, ThreadPoolExecutor(1) as threads:
        where = target(server.port, slots)
        first = threads.submit(engine.send, where, get())
        _until(lambda: slots.open == 1)
        with pytest.raises(WireError) as caught:
            engine.send(where, get(**_limits(limits)))
        assert (caught.value.timeout, caught.value.reason) == (kind_of_limit, reason)
        assert slots.waiting == 0
        assert first.result(5).status == 200
        engine.close()


@loops
def test_cancelled_while_waiting_leaves_the_queue_and_loses_nothing(kind: str) -> None:
    """500 calls over 3 connections, two thirds cancelled at random moments."""
    seed = random.randrange(1 << 30)
    print(f"{seed=}")
    chance = random.Random(seed)

    async def run(handler: Watched) -> None:
        slots = ConnectionSlots(Limits(max_connections=3))
        engine = AsyncEngine()
        where = target(handler.server.port, slots)

        async def call() -> bytes:
            return await read(await engine.send(where, get(deadline=soon(20))))

        calls = [asyncio.create_task(call()) for _ in range(500)]
        for task in calls:
            if chance.random() < 0.66:
                asyncio.get_running_loop().call_later(chance.uniform(0, 0.3), task.cancel)
        results = await asyncio.gather(*calls, return_exceptions=True)
        cancelled = sum(isinstance(result, asyncio.CancelledError) for result in results)
        assert cancelled > 50
        assert results.count(b"ok") == len(results) - cancelled
        assert slots.open <= 3
        assert at_rest(slots)[1:] == (0, 0)
        assert await call() == b"ok"
        await engine.aclose()
        assert at_rest(slots) == (0, 0, 0)

    with watched(delay_s=0.003) as handler:
        run_on(kind, run(handler))


@loops
def test_closing_the_engine_ends_those_who_wait(kind: str) -> None:
    async def run(server: HttpServer) -> None:
        slots = ConnectionSlots(Limits(max_connections=2))
        engine = AsyncEngine()
        where = target(server.port, slots)
        calls = [asyncio.create_task(engine.send(where, get())) for _ in range(20)]
        await asyncio.sleep(0.05)
        await engine.aclose()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [getattr(error, "reason", error) for error in results] == (
            [ResetReason.CANCELLED] * 20
        )
        assert at_rest(slots) == (0, 0, 0)
        assert server.accepted == 2

    with HttpServer(lambda _: Reply(delay_s=1.0)) as server:
        run_on(kind, run(server))


def test_closing_the_engine_ends_threads_that_wait() -> None:
    slots = ConnectionSlots(Limits(max_connections=2))
    engine = SyncEngine()
    with HttpServer(lambda _: Reply(delay_s=1.0)) as server, ThreadPoolExecutor(20) as threads:
        calls = [threads.submit(engine.send, target(server.port, slots), get()) for _ in range(20)]
        _until(lambda: slots.waiting == 18)
        engine.close()
        errors = [call.exception(5) for call in calls]
    assert [getattr(error, "reason", error) for error in errors] == [ResetReason.CANCELLED] * 20
    assert at_rest(slots) == (0, 0, 0)


@loops
def test_a_failed_connect_fails_those_who_wait_for_the_same_endpoint(kind: str) -> None:
    """One connect timeout, not one after the other."""

    async def run(port: int) -> None:
        slots = ConnectionSlots(Limits(max_connections=1))
        engine = AsyncEngine()
        where = Target(
            "127.0.0.2", port, None, ConnectionOptions(connect_timeout_s=0.2), connections=slots
        )
        before = time.monotonic()
        calls = (engine.send(where, get(deadline=soon(10))) for _ in range(10))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert time.monotonic() - before < 1.0
        assert [getattr(error, "reason", error) for error in results] == (
            [ResetReason.CONNECTION_TIMEOUT] * 10
        )
        assert at_rest(slots) == (0, 0, 0)
        await engine.aclose()

    with HttpServer() as spare, deaf_at("127.0.0.2", spare.port):
        run_on(kind, run(spare.port))


def test_threads_and_loops_count_together() -> None:
    """The count is the cluster's; every pool may open one, so two loops and threads have three."""
    slots = ConnectionSlots(Limits(max_connections=1))
    shared = AsyncEngine()
    blocking = SyncEngine()

    def on_a_loop(where: Target) -> None:
        async def run() -> None:
            calls = (shared.send(where, get(deadline=soon(20))) for _ in range(30))
            assert [r.status for r in await asyncio.gather(*calls)] == [200] * 30

        asyncio.run(run())

    with watched() as handler, ThreadPoolExecutor(12) as threads:
        where = target(handler.server.port, slots)
        jobs = [threads.submit(on_a_loop, where) for _ in range(2)]
        jobs += [
            threads.submit(blocking.send, where, get(deadline=soon(20)))  # type: ignore[arg-type]
            for _ in range(60)
        ]
        for job in jobs:
            job.result(30)
        assert handler.most <= 3
        blocking.close()
        shared.close()
    assert at_rest(slots) == (0, 0, 0)


# Through a mesh


def mesh(server: HttpServer, respond: bool = False, **limits: int) -> meshclient.Mesh:
    service = {"endpoints": [f"127.0.0.1:{server.port}"], "limits": limits}
    return meshclient.Mesh.from_documents(
        [{"version": 1, "services": {"web": service}}],
        local_replies="respond" if respond else "raise",
    )


def test_limits_of_the_policy_hold_over_clients_of_both_kinds() -> None:
    async def all_at_once(world: meshclient.Mesh) -> list[int]:
        async with world.async_client(timeout=30) as client:
            answers = await asyncio.gather(*(client.get("http://web/") for _ in range(100)))
        return [answer.status_code for answer in answers]

    with (
        watched() as handler,
        mesh(handler.server, max_connections=3) as world,
        world.client(timeout=30) as client,
        ThreadPoolExecutor(20) as threads,
    ):
        codes = [threads.submit(lambda: client.get("http://web/").status_code) for _ in range(100)]
        assert asyncio.run(all_at_once(world)) == [200] * 100
        assert {code.result(30) for code in codes} == {200}
        assert handler.most <= 4, "one more: each engine may always have one"


def test_overflow_answers_as_envoy_does() -> None:
    gate = threading.Event()
    with (
        HttpServer(lambda _: Reply(gate=gate)) as server,
        mesh(server, respond=True, max_requests=1) as world,
        world.client(timeout=10) as client,
        ThreadPoolExecutor(1) as threads,
    ):
        first = threads.submit(client.get, "http://web/")
        _until(lambda: server.requests)
        second = client.get("http://web/")
        gate.set()
        assert second.status_code == 503
        assert second.headers["x-envoy-overloaded"] == "true"
        assert second.text.endswith("reset reason: overflow")
        assert second.extensions["meshclient"].flags == ("UO",)
        assert first.result(5).status_code == 200
        assert client.get("http://web/").status_code == 200, "the slot is free again"


def test_a_streamed_body_holds_its_place_until_it_is_closed() -> None:
    with (
        HttpServer(lambda _: Reply(200, [b"x" * 70_000] * 4)) as server,
        mesh(server, max_requests=1) as world,
        world.client() as client,
    ):
        with client.stream("GET", "http://web/"), pytest.raises(meshclient.errors.Overflow):
            client.get("http://web/")
        assert client.get("http://web/").status_code == 200


def endpoint_slots(most: int) -> EndpointSlots:
    return EndpointSlots(Limits(max_connections_per_endpoint=most), EndpointCounts())


def test_threads_share_the_connections_of_each_endpoint() -> None:
    slots = endpoint_slots(2)
    engine = SyncEngine()
    with watched() as one, watched() as other, ThreadPoolExecutor(40) as threads:
        places = [target(handler.server.port, slots) for handler in (one, other)]
        calls = [
            threads.submit(lambda at: b"".join(engine.send(at, get(deadline=soon(30)))), at)
            for at in places * 150
        ]
        assert {call.result(30) for call in calls} == {b"ok"}
        assert (one.most, other.most) == (2, 2)
        assert at_rest(slots) == (4, 0, 0)
        engine.close()
    assert at_rest(slots) == (0, 0, 0)
    assert slots.counts.of(("127.0.0.1", one.server.port)) == 0


@loops
def test_tasks_share_the_connections_of_each_endpoint(kind: str) -> None:
    async def run(handlers: list[Watched]) -> None:
        slots = endpoint_slots(2)
        engine = AsyncEngine()
        places = [target(handler.server.port, slots) for handler in handlers]

        async def call(at: Target) -> bytes:
            return await read(await engine.send(at, get(deadline=soon(30))))

        assert set(await asyncio.gather(*(call(at) for at in places * 150))) == {b"ok"}
        assert [handler.most for handler in handlers] == [2, 2]
        assert at_rest(slots) == (4, 0, 0)
        await engine.aclose()
        assert at_rest(slots) == (0, 0, 0)

    with watched(delay_s=0.001) as one, watched(delay_s=0.001) as other:
        run_on(kind, run([one, other]))


@pytest.mark.parametrize("kind", ["blocking", *LOOPS])
def test_important_calls_pass_where_ordinary_ones_are_refused(kind: str) -> None:
    """The ordinary limit is used up by a call that hangs; the important ones have their own."""
    gate = threading.Event()

    def answer(request: Recorded) -> Reply:
        return Reply(200, b"ok", gate=gate if request.path == "/hang" else None)

    with HttpServer(answer) as server:
        service = {
            "endpoints": [server.authority],
            "limits": {
                "max_connections": 1,
                "max_requests": 1,
                "high_priority": {"max_requests": 1},
            },
            "routes": [{"match": {"prefix": "/high"}, "priority": "high"}],
        }
        mesh = meshclient.Mesh.from_documents([{"version": 1, "services": {"a": service}}])
        if kind == "blocking":
            with mesh, mesh.client(trust_env=False) as client, ThreadPoolExecutor(1) as threads:
                first = threads.submit(client.get, "http://a/hang")
                assert server.wait_for(lambda: len(server.requests) == 1)
                with pytest.raises(meshclient.errors.Overflow):
                    client.get("http://a/")
                assert client.get("http://a/high").text == "ok"
                gate.set()
                assert first.result(10).text == "ok"
                return

        async def run() -> None:
            async with mesh, mesh.async_client(trust_env=False) as client:
                first = asyncio.create_task(client.get("http://a/hang"))
                await eventually(lambda: len(server.requests) == 1)
                with pytest.raises(meshclient.errors.Overflow):
                    await client.get("http://a/")
                assert (await client.get("http://a/high")).text == "ok"
                rows = mesh.dump()["circuit_breakers"]["a"]
                assert (rows["default"]["rq_open"], rows["high"]["rq_open"]) == (1, 0)
                assert (rows["default"]["cx_open"], rows["default"]["cx_active"]) == (1, 1)
                gate.set()
                assert (await first).text == "ok"

        run_on(kind, run())
