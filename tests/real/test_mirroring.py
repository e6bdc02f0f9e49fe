"""Copies of requests over real sockets: they arrive, they disturb nothing, they leave nothing."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import trio
import uvloop
from engine_support import HttpServer, Recorded, Reply, run_on

import meshclient
from meshclient.clients import mirror_copy
from meshclient.clients.mirroring import Mirroring
from meshclient.model.events import MirrorCompared

KINDS = ("sync", "asyncio", "uvloop", "trio")
every = pytest.mark.parametrize("kind", KINDS)
LATE_S = 5.0


def ok(_request: Recorded) -> Reply:
    return Reply(200, b'{"a": 1}', [("x-version", "1")])


def late(_request: Recorded) -> Reply:
    return Reply(200, b"late", delay_s=LATE_S)


class World:
    """A service and its mirror."""

    def __init__(self, real: Any, shadow: Any, **service: Any) -> None:
        self.real, self.mirror = HttpServer(real).start(), HttpServer(shadow).start()
        self.document = {
            "version": 1,
            "services": {
                "s": {
                    "endpoints": [f"127.0.0.1:{self.real.port}"],
                    "mirror": {"to": "m"},
                    **service,
                },
                "m": {"endpoints": [f"127.0.0.1:{self.mirror.port}"]},
            },
        }
        self.events: list[Any] = []
        self.mesh = meshclient.Mesh.from_documents([self.document])
        self.mesh.subscribe(self.events.append)

    def close(self) -> None:
        self.mesh.close()
        self.real.stop()
        self.mirror.stop()

    def call(self, kind: str, method: str = "GET", linger: bool = True, **more: Any) -> Any:
        """One call; on a loop, wait for its copies, too, if ``linger``."""
        if kind == "sync":
            with self.mesh.client(trust_env=False) as client:
                return client.request(method, "http://s/x", **more)

        async def send() -> httpx.Response:
            async with self.mesh.async_client(trust_env=False) as client:
                response = await client.request(method, "http://s/x", **more)
                pause = trio.sleep if kind == "trio" else asyncio.sleep
                for _ in range(300):
                    if not linger or self.in_flight() == 0:
                        break
                    await pause(0.01)
                return response

        async def send_and_close() -> httpx.Response:
            async with self.mesh:
                return await send()

        return trio.run(send_and_close) if kind == "trio" else run_on(kind, send())

    def in_flight(self) -> int:
        return int(self.mesh.dump()["mirrors"]["in_flight"])

    def stats(self) -> dict[str, int]:
        clusters: dict[str, dict[str, int]] = self.mesh.dump()["mirrors"]["clusters"]
        return clusters.get("m", {})

    def at_rest(self) -> bool:
        states = self.mesh._plane.clusters.values()
        return self.in_flight() == 0 and sum(state.active_requests for state in states) == 0


@pytest.fixture
def worlds() -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def make(real: Any = ok, shadow: Any = ok, **service: Any) -> World:
        made.append(World(real, shadow, **service))
        return made[-1]

    yield make
    for world in made:
        world.close()


def soon(condition: Callable[[], bool], limit_s: float = 3.0) -> bool:
    until = time.monotonic() + limit_s
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return condition()


@every
def test_the_copy_arrives_with_headers_and_body(kind: str, worlds: Any) -> None:
    world = worlds()
    response = world.call(kind, "POST", content=b"order", headers={"x-tenant": "t"})
    assert response.status_code == 200
    assert soon(lambda: world.at_rest() and world.stats().get("completed") == 1)
    (copy,) = world.mirror.requests
    assert (copy.method, copy.target, copy.body) == ("POST", "/x", b"order")
    assert (copy.header("host"), copy.header("x-tenant")) == ("s", "t")
    assert world.stats() == {"started": 1, "completed": 1}
    tried = response.extensions["meshclient"].attempts
    assert [attempt.cluster for attempt in tried] == ["s"], "the report is of the real call"


@every
@pytest.mark.parametrize(
    "mirror",
    [late, lambda _: Reply(hang_up=True), lambda _: Reply(500), lambda _: Reply(raw=b"nonsense")],
    ids=["late", "hang-up", "500", "nonsense"],
)
def test_whatever_the_mirror_does_the_call_does_not_notice(
    kind: str, mirror: Any, worlds: Any
) -> None:
    world = worlds(ok, mirror)
    started = time.monotonic()
    assert world.call(kind, linger=False).status_code == 200
    assert time.monotonic() - started < LATE_S / 2
    if kind == "sync":
        assert soon(lambda: len(world.mirror.requests) == 1)


@every
def test_a_mirror_that_cannot_be_reached_is_counted(kind: str, worlds: Any) -> None:
    world = worlds()
    world.mirror.stop()
    assert world.call(kind).status_code == 200
    assert soon(lambda: world.stats().get("failed") == 1 and world.at_rest())


@every
def test_a_failing_service_is_copied_once_whatever_is_retried(kind: str, worlds: Any) -> None:
    retries = {"attempts": 2, "on": [503], "back_off": {"base": "1ms"}}
    world = worlds(lambda _: Reply(503), ok, retries=retries)
    assert world.call(kind).status_code == 503
    assert soon(lambda: world.at_rest() and len(world.mirror.requests) == 1)
    assert len(world.real.requests) == 3


@every
def test_no_endpoint_no_copy(kind: str, worlds: Any) -> None:
    world = worlds(endpoints=[])
    with pytest.raises(meshclient.NoHealthyEndpoint):
        world.call(kind)
    assert world.stats() == {}


@pytest.mark.parametrize("kind", KINDS[:3])
def test_a_stream_is_not_copied_and_the_report_says_so(kind: str, worlds: Any) -> None:
    world = worlds()

    def pieces() -> Iterator[bytes]:
        yield b"one"

    async def async_pieces() -> Any:
        yield b"one"

    content = pieces() if kind == "sync" else async_pieces()
    response = world.call(kind, "POST", content=content)
    assert response.extensions["meshclient"].notes == ("not mirrored: the body is a stream",)
    assert world.real.requests[0].body == b"one"
    assert (world.stats(), world.mirror.requests) == ({"skipped": 1}, [])


@every
def test_a_hedged_call_is_copied_once(kind: str, worlds: Any) -> None:
    world = worlds(lambda _: Reply(200, b"slow", delay_s=0.15), ok, hedging={"delay": "30ms"})
    assert world.call(kind).text == "slow"
    assert len(world.real.requests) == 2
    assert soon(lambda: world.at_rest() and len(world.mirror.requests) == 1)


def test_several_mirrors_each_with_its_share(worlds: Any) -> None:
    world = worlds(mirror=[{"to": "m", "percentage": 0}, {"to": "m"}, {"to": "s"}])
    world.call("sync")
    assert soon(lambda: len(world.real.requests) == 2 and len(world.mirror.requests) == 1)


def test_an_answer_is_read_to_its_end_and_its_connection_used_again(worlds: Any) -> None:
    world = worlds(ok, lambda _: Reply(200, iter([b"x" * 70_000] * 5)))
    for number in range(1, 4):
        world.call("sync")
        assert soon(lambda number=number: world.stats().get("completed") == number)
    assert world.mirror.accepted == 1


def test_an_endless_answer_is_cut_off(worlds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_copy, "MAX_READ", 100_000)

    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 50_000

    world = worlds(ok, lambda _: Reply(200, endless()))
    world.call("sync")
    assert soon(lambda: world.stats().get("failed") == 1 and world.at_rest())
    assert world.mirror.wait_for(lambda: world.mirror.open_connections == 0)


def test_the_routes_timeout_ends_a_copy(worlds: Any) -> None:
    world = worlds(ok, late, timeout="200ms")
    world.call("sync")
    assert soon(lambda: world.stats().get("failed") == 1 and world.at_rest())


def test_outlier_detection_sees_the_mirrors_answers(worlds: Any) -> None:
    world = worlds(ok, lambda _: Reply(500))
    services = world.document["services"]
    services["m"]["outlier_detection"] = {"consecutive_5xx": 2, "max_ejection_percent": 100}
    with meshclient.Mesh.from_documents([world.document]) as mesh, mesh.client() as client:
        detector = mesh._plane.clusters["m"].detector
        assert detector is not None
        for number in (1, 2):
            client.get("http://s/")
            counted = lambda n=number: (  # noqa: E731
                mesh.dump()["mirrors"]["clusters"]["m"].get("completed") == n
            )
            assert soon(counted)
        assert soon(lambda: "ejections_enforced_total" in str(detector.stats))
        assert soon(lambda: mesh.dump()["endpoints"]["m"][0]["health"] != "healthy")


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_more_than_the_bound_is_dropped_and_counted(kind: str, worlds: Any) -> None:
    world = worlds(ok, late)
    runtime = world.mesh._runtime
    runtime._mirroring = Mirroring(runtime, most=3, threads=2)

    async def eight() -> None:
        async with world.mesh.async_client(trust_env=False) as client:
            for _ in range(8):
                assert (await client.get("http://s/")).status_code == 200

    if kind == "asyncio":
        run_on(kind, eight())
    else:
        with world.mesh.client(trust_env=False) as client:
            for _ in range(8):
                assert client.get("http://s/").status_code == 200
    stats = world.stats()
    assert (stats["started"], stats["dropped"]) == (3, 5)
    assert sum(t.name == "meshclient mirror" for t in threading.enumerate()) <= 2
    world.mesh.close()
    assert soon(world.at_rest)
    assert world.mirror.wait_for(lambda: world.mirror.open_connections == 0)


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_loop_that_ends_right_after_the_call_takes_its_copies_along(
    factory: Any, worlds: Any
) -> None:
    world = worlds(ok, late)

    async def one() -> int:
        async with world.mesh.async_client(trust_env=False) as client:
            return (await client.get("http://s/")).status_code

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(one()) == 200
    assert soon(world.at_rest)
    assert world.stats() == {"started": 1, "cancelled": 1}


def test_closing_the_mesh_ends_copies_on_its_loop(worlds: Any) -> None:
    world = worlds(ok, late)

    async def body() -> None:
        async with world.mesh, world.mesh.async_client(trust_env=False) as client:
            await client.get("http://s/")
            assert await asyncio.to_thread(soon, lambda: len(world.mirror.requests) == 1)
        await asyncio.sleep(0.02)
        names = [repr(task) for task in asyncio.all_tasks()]
        assert not any("carry_async" in name for name in names), names

    asyncio.run(body())
    assert world.at_rest()


def test_a_loop_that_is_closed_without_ending_its_tasks(worlds: Any) -> None:
    """What lives on such a loop can only be forgotten: it is, at the next copy at the latest."""
    world = worlds(ok, late)
    complaints: list[Any] = []
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _loop, context: complaints.append(context))

    async def one() -> None:
        async with world.mesh.async_client(trust_env=False) as client:
            await client.get("http://s/")

    loop.run_until_complete(one())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    world.call("asyncio", linger=False)
    del loop
    gc.collect()
    assert soon(world.at_rest)
    assert complaints == []


COMPARE = {"to": "m", "compare": {"status": True, "headers": ["x-version"], "json": True}}


@pytest.mark.parametrize("kind", KINDS[:3])
def test_two_answers_are_compared(kind: str, worlds: Any) -> None:
    replies = iter([(200, b'{"a":1}', "1"), (500, b'{"a":2}', "2")])

    def other(_request: Recorded) -> Reply:
        status, body, version = next(replies)
        return Reply(status, body, [("x-version", version)])

    world = worlds(ok, other, mirror=COMPARE)
    for number in (1, 2):
        world.call(kind)
        assert soon(lambda number=number: world.stats().get("compared") == number)
    assert soon(lambda: len(world.events) == 2)
    assert world.events[0] == MirrorCompared("s", "m", True)
    assert world.events[1] == MirrorCompared(
        "s",
        "m",
        False,
        ("status: 200, mirror 500", "header x-version: ['1'], mirror ['2']", "$.a: 1, mirror 2"),
    )
    assert world.stats()["differed"] == 1


def test_a_body_that_streams_is_not_compared(worlds: Any) -> None:
    world = worlds(lambda _: Reply(200, iter([b"[", b"]" * 100_000])), ok, mirror=COMPARE)
    world.call("sync")
    assert soon(lambda: world.stats().get("not_compared") == 1)
    assert world.events == []
