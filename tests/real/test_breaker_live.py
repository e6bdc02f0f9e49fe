"""A breaker from the policy file to the wire: httpx sync and async, and decorated functions."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pybreaker
import pytest
from servers.http import HttpServer, Recorded, Reply

import meshclient
from meshclient import errors
from meshclient.model import events


class Upstream:
    """A server that fails while it is told to, and holds its answers while the gate is shut."""

    def __init__(self) -> None:
        self.failing = False
        self.delay_s = 0.0
        self.server = HttpServer(self._answer)

    def _answer(self, _request: Recorded) -> Reply:
        return Reply(503 if self.failing else 200, b"x", delay_s=self.delay_s)

    @property
    def calls(self) -> int:
        return len(self.server.requests)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    made = Upstream()
    with made.server:
        yield made


class Clock:
    """Monotonic seconds that a test can push forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


def mesh_of(upstream: Upstream, clock: Clock, own: Any = None, **settings: Any) -> meshclient.Mesh:
    from meshclient.config import load_documents

    breaker = {"consecutive_failures": 3, "open_for": "30s", **settings}
    service: dict[str, Any] = {
        "endpoints": [upstream.server.url.removeprefix("http://")],
        "retries": {"attempts": 2, "on": ["5xx"], "back_off": {"base": "1ms"}},
        "circuit_breaker": breaker,
    }
    if own is not None:
        del service["circuit_breaker"]
    config = load_documents([{"version": 1, "services": {"reviews": service}}])
    return meshclient.Mesh(
        lambda: config, clock=clock, breakers=None if own is None else {"reviews": own}
    )


async def tell(function: Callable[..., Any], *args: Any) -> Any:
    result = function(*args)
    return await result if asyncio.iscoroutine(result) else result


class Failed(Exception):
    """What the decorated function raises for a 503."""

    def __init__(self, response: Any) -> None:
        super().__init__("503")
        self.response = response


def drivers(mesh: meshclient.Mesh) -> dict[str, Any]:
    """The same call by every way in; each gives the status."""
    client, async_client = mesh.client(), mesh.async_client()
    bare = httpx.Client()

    @mesh.call("reviews", idempotent=True)
    def decorated(endpoint: Any) -> int:
        response = bare.get(f"http://{endpoint}/")
        if response.status_code >= 500:
            raise Failed(response)
        return response.status_code

    async def by_async() -> int:
        return (await async_client.get("http://reviews/")).status_code

    def by_function() -> int:
        try:
            return decorated()  # type: ignore[call-arg]
        except Failed as failed:
            return int(failed.response.status_code)

    async def close() -> None:
        client.close()
        await asyncio.to_thread(bare.close)
        await async_client.aclose()

    return {
        "sync": lambda: client.get("http://reviews/").status_code,
        "async": by_async,
        "function": by_function,
        "close": close,
    }


@pytest.mark.parametrize("way", ["sync", "async", "function"])
def test_it_opens_refuses_and_recovers(way: str, upstream: Upstream) -> None:
    """Two tries fail, the third failure opens it: no further retry, and nothing is sent."""
    clock = Clock()

    async def story() -> None:
        with mesh_of(upstream, clock) as mesh:
            by = drivers(mesh)
            call, handle = by[way], mesh.breaker("reviews")
            assert await tell(call) == 200
            upstream.failing = True
            assert await tell(call) == 503
            assert (upstream.calls, handle.state) == (4, "open")
            with pytest.raises(errors.CircuitOpen) as refused:
                await tell(call)
            assert upstream.calls == 4
            assert refused.value.breaker == "service reviews"
            assert 0 < (refused.value.retry_after_s or 0) <= 30
            again = pickle.loads(pickle.dumps(refused.value))
            assert again.details == refused.value.details
            if way != "function":
                assert isinstance(refused.value, httpx.ConnectError)
            upstream.failing = False
            clock.ahead += 30.0
            assert await tell(call) == 200
            assert handle.state == "closed"
            assert mesh.dump()["clusters"]["reviews"] == {
                upstream.server.url.removeprefix("http://"): 0
            }
            await by["close"]()

    asyncio.run(story())


def test_a_refusal_as_a_response() -> None:
    from meshclient.config import load_documents

    service = {"endpoints": ["127.0.0.1:1"], "circuit_breaker": {}}
    config = load_documents([{"version": 1, "services": {"reviews": service}}])
    with meshclient.Mesh(lambda: config, local_replies="respond") as mesh, mesh.client() as client:
        mesh.breaker("reviews").isolate()
        response = client.get("http://reviews/")
        assert response.status_code == 503
        assert response.text.endswith("reset reason: overflow")
        assert response.extensions["meshclient"].flags == ("UO",)


def test_no_lock_is_held_while_calls_run(upstream: Upstream) -> None:
    """Ten slow calls at a time take as long as one, through an object of the caller's own."""
    own = pybreaker.CircuitBreaker()
    upstream.delay_s = 0.2
    with (
        mesh_of(upstream, Clock(), own) as mesh,
        mesh.client() as client,
        ThreadPoolExecutor(10) as pool,
    ):
        started = time.perf_counter()
        jobs = [pool.submit(client.get, "http://reviews/") for _ in range(10)]
        assert {job.result(10).status_code for job in jobs} == {200}
        assert time.perf_counter() - started < 1.0


def test_a_callers_own_object_async_without_tornado(upstream: Upstream) -> None:
    own = pybreaker.CircuitBreaker(fail_max=2, reset_timeout=30, name="mine")
    clock = Clock()

    async def story() -> None:
        with mesh_of(upstream, clock, own) as mesh:
            async with mesh.async_client() as client:
                upstream.failing = True
                assert (await client.get("http://reviews/")).status_code == 503
                assert own.current_state == "open"
                with pytest.raises(errors.CircuitOpen):
                    await client.get("http://reviews/")
                own.close()
                upstream.failing = False
                assert (await client.get("http://reviews/")).status_code == 200
                own.open()
                with pytest.raises(errors.CircuitOpen):
                    await client.get("http://reviews/")

    asyncio.run(story())
    assert own.listeners == (), "the mesh is closed, its watcher is gone"


def test_a_cancelled_call_gives_its_probe_back(upstream: Upstream) -> None:
    clock = Clock()

    async def story() -> None:
        with mesh_of(upstream, clock) as mesh:
            async with mesh.async_client() as client:
                mesh.breaker("reviews").open()
                clock.ahead += 30.0
                upstream.delay_s = 30.0
                task = asyncio.create_task(client.get("http://reviews/", timeout=60))
                await asyncio.sleep(0.2)
                (shown,) = mesh.breaker("reviews").describe()
                assert (shown["state"], shown["probes"]) == ("half_open", 1)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                (shown,) = mesh.breaker("reviews").describe()
                assert (shown["state"], shown["probes"]) == ("half_open", 0)

    asyncio.run(story())


def test_the_handle_and_its_events(upstream: Upstream) -> None:
    heard: list[Any] = []
    done = threading.Event()

    def hear(event: events.BreakerEvent) -> None:
        heard.append(event)
        if len(heard) == 3:
            done.set()

    with mesh_of(upstream, Clock()) as mesh, mesh.client() as client:
        handle = mesh.breaker("reviews")
        handle.subscribe(hear)
        assert (handle.state, handle.isolated) == ("closed", False)
        handle.open(for_s=5.0)
        assert repr(handle) == "<BreakerHandle reviews open>"
        handle.isolate()
        assert handle.isolated
        with pytest.raises(errors.CircuitOpen, match="until it is closed by hand"):
            client.get("http://reviews/")
        handle.close()
        assert client.get("http://reviews/").status_code == 200
        assert done.wait(5)
        assert [type(event).__name__ for event in heard] == [
            "BreakerOpened",
            "BreakerOpened",
            "BreakerClosed",
        ]
        assert mesh.dump()["breakers"][0]["opened"] == 2
        with pytest.raises(ValueError, match="for_s is in seconds"):
            handle.open(for_s=0)
        with pytest.raises(ValueError, match="'nobody' has no circuit breaker"):
            mesh.breaker("nobody")


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"reviews": object()}, TypeError),
        ({1: pybreaker.CircuitBreaker()}, TypeError),
        (dict.fromkeys(("reviews", "ratings"), pybreaker.CircuitBreaker()), ValueError),
    ],
)
def test_breakers_that_mean_nothing_are_refused(given: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="breakers"):
        meshclient.Mesh.from_documents([{"version": 1, "services": {}}], breakers=given)
