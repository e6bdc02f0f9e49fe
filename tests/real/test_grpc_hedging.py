"""Several tries of one unary gRPC call at once, and copies of calls; both colours."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_support import CALLERS, SERVICE, EchoServer, in_flight, policy

import meshclient

S = grpc.StatusCode


@pytest.fixture(params=CALLERS, ids=lambda caller: caller.colour)
def dial(request: Any) -> Iterator[Callable[..., Any]]:
    """Makes a caller over documents; at the end nothing may be in flight."""
    made: list[Any] = []

    def make(*documents: Any) -> Any:
        mesh = meshclient.Mesh.from_documents(list(documents))
        made.append(request.param(mesh))
        return made[-1]

    yield make
    for caller in made:
        try:
            _until(caller, lambda caller=caller: in_flight(caller.mesh) == 0)
        finally:
            caller.close()


@pytest.fixture
def servers() -> Iterator[Callable[..., list[EchoServer]]]:
    made: list[EchoServer] = []

    def make(count: int, **scripts: Any) -> list[EchoServer]:
        made.extend(EchoServer(f"s{i}", **scripts) for i in range(len(made), len(made) + count))
        return made[-count:]

    yield make
    for server in made:
        server.stop()


def _until(caller: Any, condition: Callable[[], bool]) -> None:
    """An asyncio caller's loop has to run for it."""
    limit = time.monotonic() + 5
    while not condition() and time.monotonic() < limit:
        if caller.colour == "asyncio":
            caller.run(asyncio.sleep(0.01))
        else:
            time.sleep(0.01)
    assert condition()


def _outcomes(report: Any) -> list[str]:
    return sorted(attempt.outcome for attempt in report.attempts)


# -- hedging ---------------------------------------------------------------------------------


def test_a_slow_server_is_overtaken(dial, servers):
    slow = servers(1, Who=[1.5])[0]
    fast = servers(1)[0]
    caller = dial(policy(slow, fast, hedging={"delay": "60ms", "max": 1, "methods": "any"}))
    caller.unary("Who") if False else None
    began = time.monotonic()
    answers = [caller.unary("Who") for _ in range(2)]
    assert time.monotonic() - began < 1.0
    assert [response for response, _ in answers] == [b"s1", b"s1"]
    hedged = next(ended for _, ended in answers if len(ended.report.attempts) == 2)
    assert _outcomes(hedged.report) == ["lost", "success"]
