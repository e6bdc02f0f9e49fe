"""What policies make of gRPC calls, both colours: events, tries and nothing left in flight."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_support import CALLERS, SERVICE, EchoServer, in_flight, policy

import meshclient
from meshclient import errors

S = grpc.StatusCode
RETRIES = {"attempts": 2, "on": ["unavailable", "connect-failure", "refused-stream"]}


@pytest.fixture(params=CALLERS, ids=lambda caller: caller.colour)
def dial(request: Any) -> Iterator[Callable[..., Any]]:
    """Makes a caller over documents; at the end nothing may be in flight."""
    made: list[Any] = []

    def make(*documents: Any, target: str = "orders", **options: Any) -> Any:
        mesh = meshclient.Mesh.from_documents(list(documents))
        made.append(request.param(mesh, target, **options))
        return made[-1]

    yield make
    for caller in made:
        limit = time.monotonic() + 5
        while in_flight(caller.mesh) and time.monotonic() < limit:
            time.sleep(0.005)
        left = in_flight(caller.mesh)
        caller.close()
        assert left == 0


@pytest.fixture
def servers() -> Iterator[Callable[..., list[EchoServer]]]:
    made: list[EchoServer] = []

    def make(count: int, **scripts: Any) -> list[EchoServer]:
        made.extend(EchoServer(f"s{i}", **scripts) for i in range(len(made), len(made) + count))
        return made[-count:]

    yield make
    for server in made:
        server.stop()


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _tries(report: Any) -> int:
    return len(report.attempts)


# -- balancing and routing -----------------------------------------------------------------


def test_calls_are_spread_not_connections(dial, servers):
    caller = dial(policy(*servers(3)))
    seen = Counter(caller.unary("Who")[0] for _ in range(30))
    assert seen == {b"s0": 10, b"s1": 10, b"s2": 10}


def test_streams_are_spread_too(dial, servers):
    three = servers(3)
    caller = dial(policy(*three))
    for _ in range(6):
        assert caller.chat([b"x"]) == [b"x"]
    assert [server.count for server in three] == [2, 2, 2]


def _routed(a: Any, b: Any, routes: list[Any], **fields: Any) -> dict[str, Any]:
    endpoints = [
        {"address": f"127.0.0.1:{a.port}", "labels": {"version": "v1"}},
        {"address": f"127.0.0.1:{b.port}", "labels": {"version": "v2"}},
    ]
    subsets = {v: {"labels": {"version": v}} for v in ("v1", "v2")}
    service = {"endpoints": endpoints, "subsets": subsets, "routes": routes, **fields}
    return {"version": 1, "services": {"orders": service}}


def test_routes_match_method_and_metadata(dial, servers):
    a, b = servers(2)
    routes = [
        {"match": {"path": "/test.Echo/Get"}, "to": "v2"},
        {"match": {"headers": {"x-user": "jason"}}, "to": "v2"},
        {"match": {"headers": {"content-type": "application/grpc"}}, "to": "v1"},
    ]
    caller = dial(_routed(a, b, routes))
    assert caller.initial(caller.unary("Get")[1])["x-server"] == "s1"
    assert caller.unary("Who")[0] == b"s0"
    assert caller.unary("Who", metadata=[("x-user", "jason")])[0] == b"s1"


def test_a_weighted_split(dial, servers):
    a, b = servers(2)
    caller = dial(_routed(a, b, [{"to": {"v1": 90, "v2": 10}}]))
    seen = Counter(caller.unary("Who")[0] for _ in range(200))
    assert 2 <= seen[b"s1"] <= 50


def test_a_method_without_a_route_is_unimplemented(dial, servers):
    (a,) = servers(1)
    document = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "x", "namespace": "default"},
        "spec": {
            "hosts": ["orders.example"],
            "http": [
                {
                    "match": [{"uri": {"prefix": "/other"}}],
                    "route": [{"destination": {"host": "orders.example"}}],
                }
            ],
        },
    }
    entry = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": "x", "namespace": "default"},
        "spec": {
            "hosts": ["orders.example"],
            "ports": [{"number": 80, "name": "grpc", "protocol": "GRPC"}],
            "resolution": "STATIC",
            "endpoints": [{"address": "127.0.0.1", "ports": {"grpc": a.port}}],
        },
    }
    caller = dial(document, entry, target="orders.example:80")
    with pytest.raises(grpc.RpcError) as caught:
        caller.unary("Who")
    assert caught.value.code() is S.UNIMPLEMENTED
    assert isinstance(caught.value, errors.NoRoute)
    assert caught.value.report.flags == ("NR",)


def test_header_edits_are_edits_of_metadata(dial, servers):
    a, b = servers(2)
    route = {
        "to": "v1",
        "request_headers": {"set": {"x-echo": "set by the route"}},
        "response_headers": {"set": {"x-from": "route"}},
    }
    caller = dial(_routed(a, b, [route]))
    _, ended = caller.unary("Get", metadata=[("x-echo", "mine"), ("x-echo-bin", b"\x00\xff")])
    assert caller.trailing(ended) == {"x-echo": "set by the route", "x-echo-bin": b"\x00\xff"}
    assert caller.initial(ended) == {"x-server": "s0", "x-from": "route"}


def test_hashing_on_metadata_keeps_a_user_on_one_endpoint(dial, servers):
    balancing = {"policy": "ring_hash", "hash_on": {"header": "x-user"}}
    caller = dial(policy(*servers(3), load_balancing=balancing))
    seen = {
        user: {caller.unary("Who", metadata=[("x-user", user)])[0] for _ in range(5)}
        for user in ("anna", "bert", "carl", "dora", "emil", "finn")
    }
    assert all(len(who) == 1 for who in seen.values())
    assert len(set.union(*seen.values())) > 1


def test_a_host_without_policy_passes_through(dial, servers):
    (server,) = servers(1)
    caller = dial(policy(server), target=f"127.0.0.1:{server.port}")
    _, ended = caller.unary("Get", b"x")
    assert ended.report.cluster == "PassthroughCluster"


def test_an_injected_abort(dial, servers):
    (server,) = servers(1)
    fault = {"abort": {"grpc_status": 7, "percentage": 100}}
    caller = dial(policy(server, fault=fault))
    with pytest.raises(grpc.RpcError) as caught:
        caller.unary("Who")
    assert caught.value.code() is S.PERMISSION_DENIED
    assert caught.value.details() == "fault filter abort"
    assert caught.value.report.flags == ("FI",)
    assert server.count == 0


def test_an_injected_delay_counts_against_the_callers_timeout(dial, servers):
    fault = {"delay": {"fixed_delay": "0.1s", "percentage": 100}}
    caller = dial(policy(*servers(1), fault=fault))
    began = time.monotonic()
    caller.unary("Who", timeout=5)
    assert time.monotonic() - began >= 0.1
    with pytest.raises(grpc.RpcError) as caught:
        caller.unary("Who", timeout=0.02)
    assert caught.value.code() is S.DEADLINE_EXCEEDED


# -- retries -------------------------------------------------------------------------------


def test_a_status_that_the_policy_names_is_repeated(dial, servers):
    a, b = servers(1, Who=[S.UNAVAILABLE]) + servers(1)
    caller = dial(policy(a, b, retries=RETRIES))
    answers = [caller.unary("Who") for _ in range(2)]
    assert sum(_tries(ended.report) for _, ended in answers) == 3
    assert a.count + b.count == 3
    metadata = [seen for server in (a, b) for _, seen in server.seen]
    assert sorted(m.get("grpc-previous-rpc-attempts", "0") for m in metadata) == ["0", "0", "1"]


def test_more_than_five_tries_are_made(dial, servers):
    (server,) = servers(1, Who=[S.UNAVAILABLE] * 9)
    caller = dial(policy(server, retries={**RETRIES, "attempts": 9, "back_off": {"base": "1ms"}}))
    assert _tries(caller.unary("Who")[1].report) == 10


def test_a_server_that_says_cancelled_is_no_caller_who_cancels(dial, servers):
    (server,) = servers(1, Who=[S.CANCELLED])
    caller = dial(policy(server, retries={"attempts": 1, "on": ["cancelled"]}))
    response, ended = caller.unary("Who")
    assert response == b"s0"
    assert len(ended.report.attempts) == 2
    with pytest.raises(grpc.RpcError) as caught:
        caller.unary("Fail", b"CANCELLED as it likes")
    assert (caught.value.code(), caught.value.details()) == (S.CANCELLED, "as it likes")


def test_another_status_is_the_callers(dial, servers):
    (server,) = servers(1, Who=[(S.NOT_FOUND, "no such", (("x-why", "gone"),))])
    caller = dial(policy(server, retries=RETRIES))
    with pytest.raises(grpc.RpcError) as caught:
        caller.unary("Who")
    error = caught.value
    assert (error.code(), error.details()) == (S.NOT_FOUND, "no such")
    assert dict(error.trailing_metadata()) == {"x-why": "gone"}
    assert _tries(error.report) == server.count == 1


def test_the_last_failure_is_the_callers(dial, servers):
    (server,) = servers(1, Who=[S.UNAVAILABLE] * 3)
    caller = dial(policy(server, retries=RETRIES))
    with pytest.raises(grpc.RpcError) as caught:
        caller.unary("Who")
    assert caught.value.code() is S.UNAVAILABLE
    assert caught.value.report.flags == ("URX",)
    assert server.count == 3


def test_pushback_names_the_wait(dial, servers):
    (server,) = servers(1, Who=[(S.UNAVAILABLE, "busy", (("grpc-retry-pushback-ms", "120"),))])
    caller = dial(policy(server, retries=RETRIES))
    began = time.monotonic()
    assert _tries(caller.unary("Who")[1].report) == 2
    assert 0.12 <= time.monotonic() - began < 2


@pytest.mark.parametrize("value", ["-1", "soon"])
def test_pushback_may_forbid_it(dial, servers, value):
    (server,) = servers(1, Who=[(S.UNAVAILABLE, "no", (("grpc-retry-pushback-ms", value),))])
    caller = dial(policy(server, retries=RETRIES))
    with pytest.raises(grpc.RpcError) as caught:
        caller.unary("Who")
    assert server.count == 1
    assert any("pushed back" in note for note in caught.value.report.notes)


def test_an_endpoint_that_refuses_connections_is_passed_over(dial, servers):
    (server,) = servers(1)
    caller = dial(policy(_closed_port(), server, retries=RETRIES))
    for _ in range(6):
        assert caller.unary("Who")[0] == b"s0"


def test_streams_are_repeated_before_their_first_message(dial, servers):
    scripts = {name: [S.UNAVAILABLE] for name in ("Expand", "Chat", "Collect")}
    (server,) = servers(1, **scripts)
    caller = dial(policy(server, retries=RETRIES))
    assert caller.expand("Expand", b"3") == [b"0", b"1", b"2"]
    assert caller.chat([b"a", b"b"]) == [b"a", b"b"]
    assert caller.collect([b"a", b"b", b"c"]) == b"abc"
    assert server.count == 6


def test_a_stream_is_not_repeated_after_its_first_message(dial, servers):
    (server,) = servers(1)
    caller = dial(policy(server, retries={"attempts": 2, "on": ["internal", "reset"]}))
    with pytest.raises(grpc.RpcError) as caught:
        caller.chat([b"a", b"fail"])
    assert caught.value.code() is S.INTERNAL
    assert server.count == 1


def test_an_end_right_after_the_first_message_is_not_repeated(dial, servers):
    """The end is often known before the message that came first is taken."""
    (server,) = servers(1)
    caller = dial(policy(server, retries={"attempts": 2, "on": ["internal"]}))
    for _ in range(150):
        with pytest.raises(grpc.RpcError) as caught:
            caller.chat([b"a", b"fail"])
        assert caught.value.code() is S.INTERNAL
    assert server.count == 150


def test_a_long_request_stream_is_not_repeated(dial, servers):
    (server,) = servers(1, Collect=[S.UNAVAILABLE])
    caller = dial(policy(server, retries=RETRIES))
    with pytest.raises(grpc.RpcError) as caught:
        caller.collect([b"x" * 300_000] * 6)
    assert caught.value.code() is S.UNAVAILABLE
    assert server.count == 1
    assert any("beyond its buffer" in note for note in caught.value.report.notes)


def test_an_iterator_that_fails_is_the_callers_own_mistake(dial, servers):
    (server,) = servers(1)
    caller = dial(policy(server, retries={"attempts": 2, "on": ["reset", "unavailable"]}))

    def broken() -> Iterator[bytes]:
        yield b"a"
        raise RuntimeError("mine")

    with pytest.raises(BaseException) as caught:
        caller.collect(broken())
    assert isinstance(caught.value, grpc.RpcError) or caught.type.__name__ == "CancelledError"
    assert server.count <= 1


def test_a_per_try_timeout(dial, servers):
    (server,) = servers(1, Who=[0.5])
    retries = {"attempts": 1, "on": ["reset"], "per_try_timeout": "100ms", "methods": ["POST"]}
    caller = dial(policy(server, retries=retries))
    response, ended = caller.unary("Who")
    assert response == b"s0"
    assert [each.outcome for each in ended.report.attempts] == ["per try timeout", "success"]


def test_a_per_try_timeout_of_a_stream_ends_with_its_head(dial, servers):
    (server,) = servers(1, Expand=[0.5])
    retries = {"attempts": 1, "on": ["reset"], "per_try_timeout": "150ms", "methods": ["POST"]}
    caller = dial(policy(server, retries=retries))
    assert caller.expand("Expand", b"2") == [b"0", b"1"]
    assert server.count == 2


def test_the_routes_timeout(dial, servers):
    caller = dial(policy(*servers(1), timeout="100ms"))
    with pytest.raises(grpc.RpcError) as caught:
        caller.unary("Sleep", b"5")
    assert caught.value.code() is S.UNAVAILABLE
    assert caught.value.details() == "upstream request timeout"
    assert isinstance(caught.value, errors.RouteTimeout)
    assert caught.value.report.flags == ("UT",)


def test_the_callers_timeout_reaches_over_all_tries(dial, servers):
    (server,) = servers(1, Who=[S.UNAVAILABLE] * 50)
    retries = {**RETRIES, "attempts": 100, "back_off": {"base": "40ms", "max": "40ms"}}
    caller = dial(policy(server, retries=retries))
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        caller.unary("Who", timeout=0.3)
    assert time.monotonic() - began < 1
    # Where the next back-off would outlast it, the last answer may stand.
    assert caught.value.code() in (S.DEADLINE_EXCEEDED, S.UNAVAILABLE)
    assert server.count < 40


# -- local failures --------------------------------------------------------------------------


def test_no_healthy_endpoint(dial):
    caller = dial({"version": 1, "services": {"orders": {"endpoints": []}}})
    with pytest.raises(grpc.RpcError) as caught:
        caller.unary("Who")
    error = caught.value
    assert (error.code(), error.details()) == (S.UNAVAILABLE, "no healthy upstream")
    assert isinstance(error, errors.NoHealthyEndpoint)
    assert error.report.flags == ("UH",)
    assert "cluster orders: it has no" in error.debug_error_string()


def test_no_connection(dial):
    caller = dial(policy(_closed_port(), retries={"attempts": 0}))
    with pytest.raises(grpc.RpcError) as caught:
        caller.unary("Who")
    assert caught.value.code() is S.UNAVAILABLE
    assert caught.value.details().endswith("reset reason: remote connection failure")
    assert "refused" in caught.value.debug_error_string()
    assert caught.value.report.flags == ("UF",)


def test_too_many_requests(dial, servers):
    caller = dial(policy(*servers(1), limits={"max_requests": 1}))
    multi = caller.channel.unary_unary(SERVICE + "Sleep")
    if caller.colour == "sync":
        first = multi.future(b"5")
    else:

        async def begin() -> Any:
            return multi(b"5")

        first = caller.run(begin())
    with pytest.raises(grpc.RpcError) as caught:
        caller.unary("Who")
    assert caught.value.code() is S.UNAVAILABLE
    assert caught.value.details().endswith("reset reason: overflow")
    assert dict(caught.value.trailing_metadata()) == {"x-envoy-overloaded": "true"}
    first.cancel()


def test_registry_only(dial, servers):
    caller = dial({**policy(*servers(1)), "outbound": "registry_only"}, target="other:50051")
    with pytest.raises(grpc.RpcError) as caught:
        caller.unary("Who")
    assert caught.value.code() is S.UNAVAILABLE
    assert isinstance(caught.value, errors.UnknownHost)


def test_wait_for_ready_waits_for_a_server(dial):
    port = _closed_port()
    caller = dial(policy(port))
    if caller.colour == "sync":
        call = caller.channel.unary_unary(SERVICE + "Who").future(b"", wait_for_ready=True)
        time.sleep(0.2)
        with EchoServer("late", port):
            assert call.result(timeout=10) == b"late"
        return

    async def go() -> Any:
        import asyncio

        call = caller.channel.unary_unary(SERVICE + "Who")(b"", wait_for_ready=True)
        await asyncio.sleep(0.2)
        with EchoServer("late", port):
            return await asyncio.wait_for(call, 10)

    assert caller.run(go()) == b"late"


def test_wait_for_ready_ends_with_the_callers_timeout(dial):
    caller = dial(policy(_closed_port()))
    with pytest.raises(grpc.RpcError) as caught:
        caller.unary("Who", wait_for_ready=True, timeout=0.2)
    assert caught.value.code() is S.DEADLINE_EXCEEDED


def test_metadata_that_grpc_refuses_is_the_callers_mistake(dial, servers):
    (server,) = servers(1)
    caller = dial(policy(server, retries=RETRIES))
    with pytest.raises(Exception, match=r"[Mm]etadata|illegal"):
        caller.unary("Who", metadata=[("Bad Name", "x")])
    assert server.count == 0


# -- outlier detection -------------------------------------------------------------------------


def test_a_failing_endpoint_is_ejected(dial, servers):
    bad, good = servers(1, Who=[S.UNAVAILABLE] * 100) + servers(1)
    detection = {"consecutive_5xx": 3, "base_ejection_time": "30s", "max_ejection_percent": 100}
    caller = dial(policy(bad, good, outlier_detection=detection))
    limit = time.monotonic() + 5
    streak = 0
    while streak < 10 and time.monotonic() < limit:
        try:
            caller.unary("Who")
            streak += 1
        except grpc.RpcError:
            streak = 0
    assert streak == 10
    assert bad.count >= 3


def test_errors_of_the_callers_are_no_failures_of_the_endpoint(dial, servers):
    (server,) = servers(1, Who=[S.NOT_FOUND] * 10)
    detection = {"consecutive_5xx": 2, "max_ejection_percent": 100}
    caller = dial(policy(server, outlier_detection=detection))
    for _ in range(10):
        with pytest.raises(grpc.RpcError):
            caller.unary("Who")
    assert caller.unary("Who")[0] == b"s0"
