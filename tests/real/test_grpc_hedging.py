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


def _until_both(one: EchoServer, two: EchoServer) -> None:
    limit = time.monotonic() + 5
    while one.count + two.count < 2 and time.monotonic() < limit:
        time.sleep(0.01)


def _outcomes(report: Any) -> list[str]:
    return sorted(attempt.outcome for attempt in report.attempts)


# -- hedging ---------------------------------------------------------------------------------

HEDGED = {
    "hedging": {"delay": "60ms"},
    "retries": {
        "attempts": 2,
        "on": ["unavailable", "connect-failure"],
        "methods": ["POST"],
        "back_off": {"base": "10ms", "max": "20ms"},
    },
}


def test_a_slow_server_is_overtaken(dial, servers):
    (slow,) = servers(1, Who=[1.5, 1.5])
    (fast,) = servers(1)
    caller = dial(policy(slow, fast, **HEDGED))
    began = time.monotonic()
    answers = [caller.unary("Who") for _ in range(2)]
    assert time.monotonic() - began < 1.0
    assert [response for response, _ in answers] == [b"s1", b"s1"]
    hedged = [ended.report for _, ended in answers if len(ended.report.attempts) == 2]
    assert hedged
    assert all(_outcomes(report) == ["lost", "success"] for report in hedged)
    assert slow.count >= 1


def test_the_loser_is_cancelled(dial, servers):
    """Whoever answers first, the other server sees its call end long before its time."""
    one, two = servers(2)
    caller = dial(policy(one, two, **HEDGED, timeout="300ms"))
    with pytest.raises(grpc.RpcError) as caught:
        caller.unary("Sleep", b"5")
    assert caught.value.details() == "upstream request timeout"
    assert (one.count, two.count) == (1, 1)
    assert in_flight(caller.mesh) == 0


def test_metadata_and_credentials_of_the_winner(dial, servers):
    (slow,) = servers(1, Get=[1.0, 1.0])
    (fast,) = servers(1)
    caller = dial(policy(slow, fast, **HEDGED))
    for _ in range(2):
        response, ended = caller.unary("Get", b"x", metadata=[("x-echo", "back")])
        assert response == b"x"
        assert caller.initial(ended)["x-server"] == "s1"
        assert caller.trailing(ended)["x-echo"] == "back"


def test_a_status_that_is_not_repeated_ends_the_call(dial, servers):
    caller = dial(policy(*servers(2), **HEDGED))
    with pytest.raises(grpc.RpcError) as caught:
        caller.unary("Fail", b"NOT_FOUND no such order")
    assert (caught.value.code(), caught.value.details()) == (S.NOT_FOUND, "no such order")
    assert len(caught.value.report.attempts) == 1


def test_a_hedged_call_is_retried_too(dial, servers):
    one, two = servers(2, Who=[S.UNAVAILABLE])
    caller = dial(policy(one, two, **HEDGED))
    assert caller.unary("Who")[0] in (b"s0", b"s1")
    assert one.count + two.count >= 2


def test_the_last_failure_is_the_callers(dial, servers):
    caller = dial(policy(*servers(2, Who=[S.UNAVAILABLE] * 9), **HEDGED))
    with pytest.raises(grpc.RpcError) as caught:
        caller.unary("Who")
    assert (caught.value.code(), caught.value.details()) == (S.UNAVAILABLE, "scripted")
    assert len(caught.value.report.attempts) == 3


def test_the_server_may_forbid_another_try(dial, servers):
    forbids = (S.UNAVAILABLE, "busy", (("grpc-retry-pushback-ms", "-1"),))
    one, two = servers(2, Who=[forbids])
    caller = dial(policy(one, two, **HEDGED))
    with pytest.raises(grpc.RpcError) as caught:
        caller.unary("Who")
    assert caught.value.details() == "busy"
    assert one.count + two.count == 1


def test_nobody_to_call(dial):
    document = policy(**HEDGED)
    caller = dial(document)
    with pytest.raises(grpc.RpcError) as caught:
        caller.unary("Who")
    assert caught.value.details() == "no healthy upstream"


def test_the_callers_timeout_bounds_all_tries(dial, servers):
    caller = dial(policy(*servers(2), **HEDGED))
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        caller.unary("Sleep", b"5", timeout=0.25)
    assert time.monotonic() - began < 1.5
    assert caught.value.code() is S.DEADLINE_EXCEEDED


def test_a_post_that_no_policy_repeats_is_not_hedged(dial, servers):
    one, two = servers(2, Who=[0.3])
    caller = dial(policy(one, two, hedging={"delay": "60ms"}))
    assert len(caller.unary("Who")[1].report.attempts) == 1
    caller.unary("Who", metadata=[("idempotency-key", "7")])


def test_streams_are_not_hedged(dial, servers):
    one, two = servers(2, Expand=[0.3])
    caller = dial(policy(one, two, **HEDGED))
    assert caller.expand("Expand", b"2") == [b"0", b"1"]
    assert one.count + two.count == 1


def test_metadata_that_grpc_refuses_is_the_callers_mistake(dial, servers):
    one, two = servers(2)
    caller = dial(policy(one, two, **HEDGED))
    with pytest.raises(Exception, match=r"[Mm]etadata|illegal"):
        caller.unary("Who", metadata=[("Bad Name", "x")])
    assert one.count + two.count == 0


def test_cancelling_calls_off_every_try(dial, servers):
    one, two = servers(2)
    caller = dial(policy(one, two, **HEDGED))
    method = caller.channel.unary_unary(SERVICE + "Sleep")
    if caller.colour == "sync":
        call = method.future(b"5")
        _until(caller, lambda: one.count + two.count == 2)
        assert call.cancel()
        with pytest.raises(grpc.FutureCancelledError):
            call.result()
    else:

        async def go() -> None:
            call = method(b"5")
            await asyncio.to_thread(_until_both, one, two)
            assert call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

        caller.run(go())
    assert in_flight(caller.mesh) == 0


def test_many_hedged_calls_at_once(dial, servers):
    slow, fast = servers(2)
    slow.scripts["Who"] = [0.2] * 40
    caller = dial(policy(slow, fast, **HEDGED))
    method = caller.channel.unary_unary(SERVICE + "Who")
    if caller.colour == "sync":
        calls = [method.future(b"") for _ in range(40)]
        answers = [call.result(timeout=20) for call in calls]
    else:

        async def go() -> list[bytes]:
            return await asyncio.gather(*(method(b"") for _ in range(40)))

        answers = caller.run(go())
    assert set(answers) <= {b"s0", b"s1"}
    assert len(answers) == 40


# -- mirroring -------------------------------------------------------------------------------


def _mirrored(one: Any, copy: Any, **mirror: Any) -> dict[str, Any]:
    document = policy(one, mirror=[{"to": "audit", **mirror}], timeout="2s")
    address = f"127.0.0.1:{copy if isinstance(copy, int) else copy.port}"
    document["services"]["audit"] = {"endpoints": [address]}
    return document


def _copies(caller: Any) -> dict[str, int]:
    return caller.mesh.dump()["mirrors"]["clusters"].get("audit", {})  # type: ignore[no-any-return]


def test_a_unary_call_is_copied(dial, servers):
    one, audit = servers(2)
    caller = dial(_mirrored(one, audit, shadow_host_suffix=True))
    response, ended = caller.unary("Get", b"x", metadata=[("x-echo", "a"), ("x-echo-bin", b"\0")])
    assert response == b"x"
    assert caller.initial(ended)["x-server"] == "s0"
    _until(caller, lambda: _copies(caller).get("completed") == 1)
    assert _copies(caller) == {"started": 1, "completed": 1}
    ((method, metadata),) = audit.seen
    assert method == "Get"
    assert (metadata["x-echo"], metadata["x-echo-bin"]) == ("a", b"\0")
    assert caller.mesh.dump()["mirrors"]["in_flight"] == 0


def test_a_copy_neither_delays_nor_fails_a_call(dial, servers):
    (one,) = servers(1)
    (audit,) = servers(1, Who=[S.INTERNAL, 0.5])
    caller = dial(_mirrored(one, audit))
    caller.unary("Who")
    _until(caller, lambda: _copies(caller).get("completed") == 1)
    began = time.monotonic()
    assert caller.unary("Who")[0] == b"s0"
    assert time.monotonic() - began < 0.4
    _until(caller, lambda: _copies(caller).get("completed") == 2)


def test_a_mirror_that_is_not_there(dial, servers):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    (one,) = servers(1)
    caller = dial(_mirrored(one, port))
    assert caller.unary("Who")[0] == b"s0"
    _until(caller, lambda: _copies(caller).get("failed") == 1)


def test_futures_are_copied_and_streams_are_not(dial, servers):
    one, audit = servers(2)
    caller = dial(_mirrored(one, audit))
    assert caller.expand("Expand", b"1") == [b"0"]
    assert _copies(caller) == {"skipped": 1}
    if caller.colour == "sync":
        call = caller.channel.unary_unary(SERVICE + "Who").future(b"")
        assert call.result(timeout=5) == b"s0"
        _until(caller, lambda: _copies(caller).get("completed") == 1)
        assert audit.count == 1


def test_copies_end_with_the_mesh(dial, servers):
    one, audit = servers(2, Who=[None])
    audit.scripts["Who"] = [1.0]
    caller = dial(_mirrored(one, audit))
    assert caller.unary("Who")[0] == b"s0"
    _until(caller, lambda: audit.count == 1)
