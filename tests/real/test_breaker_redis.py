"""Breakers shared through a real Redis: by two meshes, by two processes, over an outage."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pybreaker
import pytest
from servers.http import HttpServer, Recorded, Reply
from servers.redis import PROGRAM, RedisServer

import meshclient
from meshclient import errors
from meshclient.model import events

pytest.importorskip("redis", reason="the package redis is not installed")
if PROGRAM is None:
    pytest.skip("redis-server is not installed", allow_module_level=True)


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


class Upstream:
    """A server that fails while it is told to."""

    def __init__(self) -> None:
        self.failing = False
        self.server = HttpServer(self._answer)

    def _answer(self, _request: Recorded) -> Reply:
        return Reply(503 if self.failing else 200, b"x")


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    made = Upstream()
    with made.server:
        yield made


def policy(upstream: Upstream, redis: RedisServer, **settings: Any) -> dict[str, Any]:
    shared = {"url": redis.url, "poll": "30ms", "timeout": "300ms"}
    breaker = {"consecutive_failures": 3, "open_for": "30s", "redis": shared, **settings}
    address = upstream.server.url.removeprefix("http://")
    service = {"endpoints": [address], "retries": {"attempts": 0}, "circuit_breaker": breaker}
    return {"version": 1, "services": {"reviews": service}}


def eventually(what: Callable[[], bool], limit_s: float = 5.0) -> None:
    deadline = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def connected(mesh: meshclient.Mesh) -> None:
    """Its first exchange is over."""
    eventually(lambda: bool(mesh._shared_breakers._states))
    time.sleep(0.05)


def get(client: httpx.Client) -> int:
    return client.get("http://reviews/").status_code


def test_two_meshes_open_and_close_together(redis: RedisServer, upstream: Upstream) -> None:
    document = policy(upstream, redis)
    with (
        meshclient.Mesh.from_documents([document]) as one,
        meshclient.Mesh.from_documents([document]) as two,
        one.client() as first,
        two.client() as second,
    ):
        connected(one)
        connected(two)
        upstream.failing = True
        # Three failures in a row, as all count them together: two here, one there.
        assert [get(first), get(first)] == [503, 503]
        eventually(lambda: two.breaker("reviews").describe()[0]["failures_in_a_row"] == 2)
        assert get(second) == 503
        assert two.breaker("reviews").state == "open"
        eventually(lambda: one.breaker("reviews").state == "open")
        with pytest.raises(errors.CircuitOpen):
            get(first)
        (shown,) = one.breaker("reviews").describe()
        assert shown["reason"] == "elsewhere"
        assert 25 < shown["for_s"] <= 30
        upstream.failing = False
        one.breaker("reviews").close()
        eventually(lambda: two.breaker("reviews").state == "closed")
        assert get(second) == 200


def test_a_probe_of_one_closes_it_for_both(redis: RedisServer, upstream: Upstream) -> None:
    document = policy(upstream, redis, open_for="1s")
    with (
        meshclient.Mesh.from_documents([document]) as one,
        meshclient.Mesh.from_documents([document]) as two,
        one.client() as first,
    ):
        connected(one)
        connected(two)
        one.breaker("reviews").open()
        eventually(lambda: two.breaker("reviews").state == "open")
        assert two.breaker("reviews").state == "open"
        time.sleep(1.0)
        assert get(first) == 200
        assert one.breaker("reviews").state == "closed"
        eventually(lambda: two.breaker("reviews").state == "closed")


PROCESS = """
import json, sys, time
import meshclient
from meshclient import errors
mesh = meshclient.Mesh.from_documents([json.loads(sys.argv[1])])
with mesh, mesh.client() as client:
    mesh.wait_ready()
    handle = mesh.breaker("reviews")
    while not mesh._shared_breakers._states: time.sleep(0.01)
    print("ready", flush=True)
    for line in sys.stdin:
        word = line.strip()
        if word == "get":
            try:
                print(client.get("http://reviews/").status_code, flush=True)
            except errors.CircuitOpen:
                print("refused", flush=True)
        else:
            deadline = time.monotonic() + 5
            while handle.state != word and time.monotonic() < deadline: time.sleep(0.01)
            print(handle.state, flush=True)
"""


def test_two_processes_share_one_breaker(redis: RedisServer, upstream: Upstream) -> None:
    import json

    document = json.dumps(policy(upstream, redis))
    command = [sys.executable, "-c", PROCESS, document]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]

    def say(which: int, word: str = "") -> str:
        stdin, stdout = workers[which].stdin, workers[which].stdout
        assert stdin is not None
        assert stdout is not None
        if word:
            stdin.write(word + "\n")
            stdin.flush()
        return stdout.readline().strip()

    try:
        assert [say(0), say(1)] == ["ready", "ready"]
        upstream.failing = True
        assert [say(0, "get") for _ in range(4)] == ["503", "503", "503", "refused"]
        assert say(1, "open") == "open"
        assert say(1, "get") == "refused"
        assert len(upstream.server.requests) == 3
    finally:
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.close()
            worker.wait(10)
            assert worker.stdout is not None
            worker.stdout.close()


def test_an_outage_is_said_once_and_no_call_notices(
    redis: RedisServer, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Any] = []
    with (
        meshclient.Mesh.from_documents([policy(upstream, redis)]) as mesh,
        mesh.client() as client,
    ):
        connected(mesh)
        mesh.subscribe(heard.append)
        redis.stop()
        eventually(lambda: any(isinstance(e, events.BreakerStorageFailed) for e in heard))
        took = []
        for _ in range(20):
            started = time.perf_counter()
            assert get(client) == 200
            took.append(time.perf_counter() - started)
        assert max(took) < 0.25, "less than the storage's own time limit"
        upstream.failing = True
        assert [get(client) for _ in range(3)] == [503] * 3
        assert mesh.breaker("reviews").state == "open", "it works in memory meanwhile"
        time.sleep(0.3)
        redis.start()
        eventually(lambda: any(isinstance(e, events.BreakerStorageRecovered) for e in heard))
        assert mesh.breaker("reviews").state == "open", "an empty Redis does not close it"
        document = policy(upstream, redis)
        with meshclient.Mesh.from_documents([document]) as other:
            eventually(lambda: other.breaker("reviews").state == "open")
    failed = [e for e in heard if isinstance(e, events.BreakerStorageFailed)]
    assert len(failed) == 1
    assert failed[0].namespace == "meshclient"
    assert len([r for r in caplog.records if "does not answer" in r.message]) == 1
    assert redis.url not in caplog.text, "the URL may hold a password"


def test_a_redis_that_never_was_there_fails_no_call(upstream: Upstream) -> None:
    with RedisServer() as gone:
        gone.stop()
        document = policy(upstream, gone)
        with meshclient.Mesh.from_documents([document]) as mesh, mesh.client() as client:
            assert get(client) == 200
            upstream.failing = True
            assert [get(client) for _ in range(3)] == [503] * 3
            with pytest.raises(errors.CircuitOpen):
                get(client)


def test_a_redis_that_hangs_delays_no_call(upstream: Upstream) -> None:
    """It accepts connections and never answers."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        redis = type("Silent", (), {"url": f"redis://127.0.0.1:{silent.getsockname()[1]}/0"})
        document = policy(upstream, redis)  # type: ignore[arg-type]
        with meshclient.Mesh.from_documents([document]) as mesh, mesh.client() as client:
            for _ in range(10):
                started = time.perf_counter()
                assert get(client) == 200
                assert time.perf_counter() - started < 0.25


def test_a_callers_own_object_with_redis_storage(redis: RedisServer, upstream: Upstream) -> None:
    """Its storage is shared, its listeners hear, and no call waits for it."""
    import redis as client_library

    where: list[str] = []

    class Hearing(pybreaker.CircuitBreakerListener):
        def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
            in_call = threading.current_thread() is threading.main_thread()
            where.append(f"{new_state.name} in_call={in_call}")

    server = client_library.Redis.from_url(redis.url)
    storage = pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, server, namespace="mine")
    circuit = pybreaker.CircuitBreaker(
        fail_max=2, reset_timeout=30, state_storage=storage, listeners=[Hearing()]
    )
    document = policy(upstream, redis)
    del document["services"]["reviews"]["circuit_breaker"]
    with (
        meshclient.Mesh.from_documents([document], breakers={"reviews": circuit}) as mesh,
        mesh.client() as client,
    ):
        upstream.failing = True
        assert [get(client), get(client)] == [503, 503]
        with pytest.raises(errors.CircuitOpen):
            get(client)
        eventually(lambda: server.get("mine:pybreaker:state") == b"open")
        eventually(lambda: bool(where))
        assert where == ["open in_call=False"]
    server.close()
