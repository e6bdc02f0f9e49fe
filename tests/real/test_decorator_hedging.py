"""Hedged functions: blocking ones on helper threads, async ones in tasks."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import trio

import meshclient
from meshclient import errors
from meshclient.clients.helper_threads import HelperThreads

KINDS = ("sync", "asyncio", "trio")
every = pytest.mark.parametrize("kind", KINDS)
LIMIT_S = 5.0


class World:
    """A service of two endpoints, and functions that are slow at the first they are asked for."""

    def __init__(self, **service: Any) -> None:
        document = {
            "endpoints": ["10.0.0.1:80", "10.0.0.2:80"],
            "load_balancing": "round_robin",
            "hedging": {"delay": "20ms"},
            **service,
        }
        documents = [{"version": 1, "services": {"s": document}}]
        self.mesh = meshclient.Mesh.from_documents(documents)
        self.asked: list[str] = []
        self.release = threading.Event()
        self.cancelled = 0

    def run(
        self,
        kind: str,
        then: Callable[[], Any],
        first: Callable[[], Any] | None = None,
        **more: Any,
    ) -> Any:
        """The first try hangs and then does ``first``; every other does ``then`` at once."""
        policy = self.mesh.call("s", **{"idempotent": True, **more})

        @policy
        def blocking(endpoint: Any = None) -> Any:
            self.asked.append(str(endpoint))
            if len(self.asked) > 1:
                return then()
            self.release.wait(0.1 if first else LIMIT_S)
            return first() if first else "late"

        @policy
        async def waiting(endpoint: Any = None) -> Any:
            self.asked.append(str(endpoint))
            if len(self.asked) > 1:
                return then()
            try:
                await (trio if kind == "trio" else asyncio).sleep(0.1 if first else LIMIT_S)
            except BaseException:
                self.cancelled += 1
                raise
            return first() if first else "late"

        if kind == "sync":
            return blocking()
        return trio.run(waiting) if kind == "trio" else asyncio.run(waiting())

    def in_flight(self) -> int:
        state = self.mesh._plane.clusters["s"]
        return state.active_requests + state.lane.limiter.active


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.release.set()
    made.mesh.close()


def raising(error: BaseException) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


@every
def test_the_second_try_wins_elsewhere(kind: str, world: World) -> None:
    started = time.monotonic()
    assert world.run(kind, lambda: "soon") == "soon"
    assert time.monotonic() - started < LIMIT_S / 2
    assert len(set(world.asked)) == 2
    assert world.in_flight() == 0
    assert world.cancelled == (0 if kind == "sync" else 1)


@every
def test_a_bad_result_waits_for_the_other_try(kind: str) -> None:
    world = World(retries={"attempts": 1, "on": [503, "reset"]})
    with world.mesh:
        bad, good = httpx.Response(503), httpx.Response(200)
        assert world.run(kind, lambda: bad, lambda: good) is good
        assert world.in_flight() == 0


@every
def test_both_broken_raises_the_last_with_the_number_of_tries(kind: str) -> None:
    world = World(retries={"attempts": 1, "on": ["reset"]})
    with world.mesh:
        last = ConnectionResetError("last")
        with pytest.raises(ConnectionResetError) as caught:
            world.run(kind, raising(ConnectionResetError("soon")), raising(last))
        assert caught.value is last
        assert "2 tries" in caught.value.__notes__[0]
        assert world.in_flight() == 0


@every
def test_a_mistake_of_the_functions_own_ends_the_call(kind: str, world: World) -> None:
    with pytest.raises(ValueError, match="mine"):
        world.run(kind, raising(ValueError("mine")))
    assert world.in_flight() == 0


@every
def test_what_is_not_idempotent_has_one_try(kind: str, world: World) -> None:
    assert world.run(kind, lambda: "soon", lambda: "first", idempotent=False) == "first"
    assert len(world.asked) == 1


@pytest.mark.parametrize("kind", KINDS[1:])
def test_the_callers_own_limit_bounds_all_tries(kind: str, world: World) -> None:
    with pytest.raises(errors.DeadlineExceeded):
        world.run(kind, lambda: "unused", timeout=0.01)
    assert world.in_flight() == 0


def test_a_blocking_function_sees_its_callers_context(world: World) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")
    variable.set("acme")
    assert world.run("sync", variable.get) == "acme"


def test_an_exit_in_a_helper_thread_is_the_callers(world: World) -> None:
    with pytest.raises(SystemExit):
        world.run("sync", raising(SystemExit(3)))
    assert world.in_flight() == 0


def test_without_a_free_thread_the_function_runs_here(world: World) -> None:
    world.mesh._runtime._helpers = HelperThreads("none", 0)
    threads: list[threading.Thread] = []

    @world.mesh.call("s", idempotent=True)
    def blocking() -> str:
        threads.append(threading.current_thread())
        return "done"

    assert blocking() == "done"
    assert threads == [threading.current_thread()]


@every
def test_a_mirror_changes_nothing_for_a_function(kind: str) -> None:
    world = World(mirror={"to": "s"}, hedging={})
    with world.mesh:
        assert world.run(kind, lambda: "unused", lambda: "first") == "first"
        assert world.in_flight() == 0
