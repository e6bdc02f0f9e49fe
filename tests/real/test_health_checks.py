"""Active health checks against real servers: HTTP, TCP and gRPC, plain and over TLS."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from engine_support import HttpServer, Peer, RawServer, Recorded, Reply
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from health_support import NEVER, PATIENCE_S, World, check, running, seven, until
from servers.http2 import H2Server, Request
from tls_support import Authority, server_context

import meshclient
from meshclient.cluster_state import Building
from meshclient.health_checks import MAX_CONCURRENT
from meshclient.model.cluster import Cluster
from meshclient.model.endpoint import DnsSource, Endpoint, EndpointSource
from meshclient.model.events import HealthChanged
from meshclient.model.health import FAILED_ACTIVE_HC, FAILED_OUTLIER_CHECK, flag_names
from meshclient.model.snapshot import Snapshot
from meshclient.plane import build_plane

HTTP = {"http": "/healthz"}


def service(port: int, one_check: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"endpoints": [f"127.0.0.1:{port}"], "health_check": one_check, **more}


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


# -- HTTP


def test_the_request_and_what_it_leads_to() -> None:
    with HttpServer() as server:
        asks = {
            "http": {
                "path": "/healthz?deep=1",
                "method": "HEAD",
                "headers": {"x-probe": "mesh"},
            }
        }
        world = World(a=service(server.port, check(asks)))

        async def body() -> None:
            assert world.flags() == "/failed_active_hc", "until the first check passed"
            await until(lambda: world.flags() == "healthy")
            await until(lambda: world.stats()["success"] >= 3)

        running(world, body)
        first = server.requests[0]
        assert (first.method, first.target) == ("HEAD", "/healthz?deep=1")
        assert first.header("host") == "a"
        assert first.header("user-agent") == "meshclient/HC"
        assert first.header("x-probe") == "mesh"
        assert server.accepted == 1, "the connection is kept"
        assert world.events == [HealthChanged("a", f"127.0.0.1:{server.port}", True, "healthy", "")]


def test_host_and_port_of_an_endpoint_and_of_a_check() -> None:
    with HttpServer() as main, HttpServer() as other:
        asks = {"http": {"path": "/", "host": "of.check"}}
        named = {"port": other.port, "hostname": "of.endpoint"}
        endpoints = [
            f"127.0.0.1:{main.port}",
            {"address": "127.0.0.1:9", "health_check": named},
        ]
        world = World(a={"endpoints": endpoints, "health_check": check(asks)})

        async def body() -> None:
            await until(lambda: world.flags() == world.flags(index=1) == "healthy")

        running(world, body)
        assert {r.header("host") for r in main.requests} == {"of.check"}
        assert {r.header("host") for r in other.requests} == {"of.endpoint"}


def test_connections_are_not_kept_where_they_shall_not_be() -> None:
    with HttpServer() as server:
        world = World(a=service(server.port, check(HTTP, reuse_connection=False)))

        async def body() -> None:
            await until(lambda: world.stats().get("success", 0) >= 3)

        running(world, body)
        assert server.accepted == len(server.requests)
        assert server.wait_for(lambda: server.open_connections == 0)


REPLIES = [
    (Reply(204), "/failed_active_hc", "status 204"),
    (Reply(200, b"not it"), "/failed_active_hc", "the expected text is not in the body"),
    (Reply(200, b"x" * 1020 + b"fine"), "healthy", ""),
    (Reply(200, b"x" * 1021 + b"fine"), "/failed_active_hc", "the expected text"),
    (Reply(200, iter([b"fi", b"ne"])), "healthy", ""),
    (Reply(200, b"fine", [("X-Envoy-Degraded", "")]), "/degraded_active_hc", ""),
    (
        Reply(503, b"fine", [("x-envoy-immediate-health-check-fail", "true")]),
        "/failed_active_hc/excluded_via_immediate_hc_fail",
        "status 503",
    ),
    (Reply(hang_up=True), "/failed_active_hc", ""),
    (Reply(reset=True), "/failed_active_hc", ""),
    (Reply(200, b"fine", truncate=40), "/failed_active_hc", ""),
    (Reply(raw=b"garbage\r\n\r\n"), "/failed_active_hc", ""),
    (Reply(200, b"fine", delay_s=30), "/failed_active_hc/active_hc_timeout", "no answer in time"),
]


@pytest.mark.parametrize(("reply", "flags", "why"), REPLIES)
def test_what_an_answer_means(reply: Reply, flags: str, why: str) -> None:
    with HttpServer(lambda _: reply) as server:
        asks = {"http": {"path": "/", "receive": "fine"}}
        world = World(a=service(server.port, check(asks, timeout="100ms", interval=NEVER)))

        async def body() -> None:
            await until(lambda: not world.checks.warming)
            await until(lambda: world.flags() == flags, world.flags())

        running(world, body)
        session = world.events[0] if world.events else None
        assert session is None or str(getattr(session, "why", "")).startswith(why)


def test_a_sequence_of_answers() -> None:
    """Wrong ones count at once, missing ones by the threshold, and recovery takes two."""
    script = iter([200, 503, 200, 200, 429, 429, 200, 0, 429, 0, 200, 200])

    def answer(_request: Recorded) -> Reply:
        status = next(script, 200)
        return Reply(reset=True) if status == 0 else Reply(status)

    with HttpServer(answer) as server:
        asks = {"http": {"path": "/", "retriable_statuses": 429}}
        world = World(a=service(server.port, check(asks, unhealthy_threshold=3)))

        async def body() -> None:
            await until(lambda: len(world.events) == 5)
            await until(lambda: world.stats()["attempt"] >= 12)

        running(world, body)
        told = [(e.healthy, e.why) for e in world.events if isinstance(e, HealthChanged)]
        assert [healthy for healthy, _ in told] == [True, False, True, False, True]
        assert told[1][1] == "status 503"
        assert world.failed == [world.state()] * 2


def test_a_dead_endpoint() -> None:
    world = World(a=service(closed_port(), check(HTTP, unhealthy_threshold=1)))

    async def body() -> None:
        await until(lambda: world.stats().get("network_failure", 0) >= 3)
        assert world.flags() == "/failed_active_hc"

    running(world, body)


def test_http2_is_spoken_where_the_service_speaks_it() -> None:
    def answer(request: Request) -> None:
        seen.append(dict(request.headers))
        request.peer.respond(request, status=200, body=b"")

    seen: list[dict[str, str]] = []
    with H2Server(on_end=answer) as server:
        world = World(a=service(server.port, check(HTTP), protocol="h2"))

        async def body() -> None:
            await until(lambda: world.stats().get("success", 0) >= 3)

        running(world, body)
    assert seen[0][":authority"] == "a"
    assert seen[0]["user-agent"] == "meshclient/HC"


def test_an_http2_connection_that_hangs_is_not_used_again() -> None:
    def answer(request: Request) -> None:
        if request.peer.number > 1:
            request.peer.respond(request, status=200, body=b"")

    with H2Server(on_end=answer) as server:
        asks = check(HTTP, timeout="50ms")
        world = World(a=service(server.port, asks, protocol="h2"))

        async def body() -> None:
            await until(lambda: world.flags() == "healthy")

        running(world, body)


# -- TLS


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates")
def test_tls_as_the_policy_says(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    stranger = Authority(tmp_path, "stranger")
    pair = authority.issue("DNS:a.test")
    mine = authority.issue("DNS:web.test")
    with HttpServer(tls=server_context(pair, authority.ca)) as server:
        tls = {
            "mode": "mutual",
            "ca": authority.ca,
            "certificate": mine[0],
            "key": mine[1],
            "sni": "a.test",
        }
        asks = check(HTTP, interval=NEVER, no_traffic_interval=NEVER)
        world = World(
            good=service(server.port, asks, tls=tls),
            other=service(server.port, asks, tls={**tls, "sni": "b.test"}),
            strange=service(server.port, asks, tls={**tls, "ca": stranger.ca}),
            missing=service(server.port, asks, tls={**tls, "ca": str(tmp_path / "none.pem")}),
            plain=service(server.port, asks),
        )

        async def body() -> None:
            await until(lambda: not world.checks.warming)
            await until(lambda: world.flags("good") == "healthy")

        running(world, body)
        for name in ("other", "strange", "missing", "plain"):
            assert world.flags(name) == "/failed_active_hc", name
            assert world.stats(name)["network_failure"] == 1
        assert len(server.requests) == 1


# -- TCP


def test_connecting_is_enough() -> None:
    with RawServer(lambda peer: peer.wait_closed()) as server:
        world = World(a=service(server.port, check({"tcp": {}})))

        async def body() -> None:
            await until(lambda: world.stats().get("success", 0) >= 3)
            # The kernel connects before the server accepts.
            await until(lambda: server.accepted >= 3, "a connection each time")

        running(world, body)


def echo(peer: Peer) -> None:
    while data := peer.sock.recv(100):
        for byte in data:  # in pieces
            peer.send(bytes([byte]))


def test_bytes_are_sent_and_answered() -> None:
    with RawServer(echo) as server:
        asks = {"tcp": {"send": "PING-PONG", "receive": ["PING", {"hex": "504f"}]}}
        world = World(a=service(server.port, check(asks)))

        async def body() -> None:
            await until(lambda: world.stats().get("success", 0) >= 3)
            assert world.flags() == "healthy"

        running(world, body)
        assert server.accepted == 1


def test_a_wrong_answer_is_one_that_never_comes() -> None:
    with RawServer(echo) as server:
        asks = {"tcp": {"send": "PING", "receive": "PONG"}}
        world = World(a=service(server.port, check(asks, timeout="50ms")))

        async def body() -> None:
            await until(lambda: world.stats().get("network_failure", 0) >= 2)
            assert world.flags() == "/failed_active_hc/active_hc_timeout"

        running(world, body)


def test_an_idle_connection_that_ends_is_a_failure() -> None:
    def once(peer: Peer) -> None:
        peer.send(peer.read(4))

    with RawServer(once) as server:
        asks = {"tcp": {"send": "PING", "receive": "PING"}}
        slow = check(asks, interval=NEVER, no_traffic_interval=NEVER, unhealthy_threshold=1)
        world = World(a=service(server.port, slow))

        async def body() -> None:
            await until(lambda: world.stats().get("network_failure", 0) == 1)
            assert world.stats()["success"] == 1
            assert world.stats()["attempt"] == 1
            await until(lambda: world.flags() == "/failed_active_hc")

        running(world, body)


# -- gRPC


@pytest.fixture(scope="module")
def grpc_server() -> Iterator[tuple[int, health.HealthServicer]]:
    servicer = health.HealthServicer()
    server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port, servicer
    server.stop(0).wait()


def test_a_grpc_server_with_its_own_health_service(
    grpc_server: tuple[int, health.HealthServicer],
) -> None:
    port, servicer = grpc_server
    status = health_pb2.HealthCheckResponse
    servicer.set("", status.SERVING)
    servicer.set("orders.v1.Orders", status.NOT_SERVING)
    world = World(
        whole=service(port, check({"grpc": {}})),
        orders=service(port, check({"grpc": "orders.v1.Orders"})),
        unknown=service(port, check({"grpc": {"service_name": "nobody"}})),
    )

    async def body() -> None:
        await until(lambda: world.flags("whole") == "healthy")
        await until(lambda: world.stats("orders").get("failure", 0) >= 2)
        await until(lambda: world.stats("unknown").get("failure", 0) >= 2)
        assert world.flags("orders") == world.flags("unknown") == "/failed_active_hc"
        servicer.set("orders.v1.Orders", status.SERVING)
        await until(lambda: world.flags("orders") == "healthy")
        servicer.set("", status.NOT_SERVING)
        await until(lambda: world.flags("whole") == "/failed_active_hc")

    running(world, body)
    assert "network_failure" not in world.stats("unknown"), "an answer, if the wrong one"


def test_a_server_that_is_not_grpc() -> None:
    with HttpServer() as http1, H2Server() as http2:
        asks = check({"grpc": {}}, timeout="500ms")
        world = World(a=service(http1.port, asks), b=service(http2.port, asks))

        async def body() -> None:
            await until(lambda: not world.checks.warming)
            assert world.flags("a").startswith("/failed_active_hc")
            assert world.flags("b").startswith("/failed_active_hc")

        running(world, body)


# -- many clusters, and clusters that change


def test_subsets_share_a_check() -> None:
    with HttpServer() as server:
        endpoint = {"address": f"127.0.0.1:{server.port}", "labels": {"version": "v1"}}
        subsets = {"v1": {"labels": {"version": "v1"}}}
        asks = check(HTTP, interval=NEVER, no_traffic_interval=NEVER)
        world = World(a={"endpoints": [endpoint], "health_check": asks, "subsets": subsets})
        names = sorted(world.plane.clusters)

        async def body() -> None:
            await until(lambda: all(world.flags(name) == "healthy" for name in names))

        running(world, body)
        assert len(names) == 2
        assert len(server.requests) == 1
        assert [world.stats(name)["healthy"] for name in names] == [1, 1]


def test_a_new_plane_keeps_what_is_known_and_ends_what_is_gone() -> None:
    with HttpServer() as first, HttpServer() as second:
        asks = check(HTTP, interval=NEVER, no_traffic_interval=NEVER)
        world = World(a=service(first.port, asks))

        async def body() -> None:
            await until(lambda: world.flags() == "healthy")
            both = [f"127.0.0.1:{first.port}", f"127.0.0.1:{second.port}"]
            # Another policy, so that the states are new; the check is the same.
            world.change(a={"endpoints": both, "health_check": asks, "limits": {"max_requests": 9}})
            assert world.flags() == "healthy", "at once, and without another check"
            assert world.flags(index=1) == "/failed_active_hc"
            assert world.checks.warming
            await until(lambda: world.flags(index=1) == "healthy")
            world.change(a=service(second.port, asks))
            await until(lambda: first.open_connections == 0)
            world.change(a={"endpoints": [f"127.0.0.1:{second.port}"]})
            assert world.flags() == "healthy"
            await until(lambda: second.open_connections == 0)
            assert world.checks.stats() == {}

        running(world, body)
        assert len(first.requests) == len(second.requests) == 1


def replace_endpoints(
    snapshot: Snapshot, name: str, source: EndpointSource, endpoints: tuple[Endpoint, ...]
) -> Snapshot:
    """What discovery would have made of it."""
    cluster = replace(snapshot.clusters[name], discovery=source, endpoints=endpoints)
    return replace(snapshot, clusters={**snapshot.clusters, name: cluster})


def test_an_endpoint_that_discovery_drops_stays_until_it_fails() -> None:
    status = [200]
    with HttpServer(lambda _: Reply(status[0])) as server:
        source = DnsSource((Endpoint("a.test", server.port),))
        one, two = Endpoint("127.0.0.1", server.port), Endpoint("127.0.0.1", closed_port())
        world = World(a={"dns": f"a.test:{server.port}", "health_check": check(HTTP)})

        def discover(*endpoints: Endpoint) -> None:
            before = world.plane
            snapshot = replace_endpoints(before.snapshot, "a", source, endpoints)
            building = Building(seven, time.monotonic())
            world.plane = build_plane(snapshot, before, seven, building=building)
            world.checks.changed()

        async def body() -> None:
            discover(one, two)
            await until(lambda: world.flags() == "healthy")
            discover(two)
            flags = [flag_names(state.flags) for state in world.plane.clusters["a"].states]
            assert flags == ["/failed_active_hc", "/pending_dynamic_removal"]
            status[0] = 503
            await until(lambda: len(world.plane.clusters["a"].states) == 1)
            await until(lambda: server.open_connections == 0)
            assert world.checks.stats()["a"]["healthy"] == 0
            assert world.state().endpoint == two

        running(world, body)


def test_it_is_told_when_every_endpoint_had_its_first_result() -> None:
    gate = threading.Event()
    with HttpServer(lambda _: Reply(200, gate=gate)) as slow, HttpServer() as quick:
        asks = check(HTTP, timeout="5s")
        world = World(a=service(slow.port, asks), b=service(quick.port, asks))

        async def body() -> None:
            await until(lambda: world.flags("b") == "healthy")
            assert world.checks.warming
            assert world.warm == 0
            gate.set()
            await until(lambda: world.warm == 1)
            assert not world.checks.warming

        running(world, body)


def test_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with HttpServer(unix_path=path) as server:
        world = World(a={"endpoints": [f"unix://{path}"], "health_check": check(HTTP)})

        async def body() -> None:
            await until(lambda: world.flags() == "healthy")

        running(world, body)
        assert server.requests[0].header("host") == "a"


def test_an_endpoint_that_wants_no_checks_gets_none() -> None:
    with HttpServer() as server:
        endpoint = {"address": f"127.0.0.1:{server.port}", "health_check": False}
        world = World(a={"endpoints": [endpoint], "health_check": check(HTTP)})

        async def body() -> None:
            await asyncio.sleep(0.1)
            assert world.flags() == "healthy"

        running(world, body)
        assert server.accepted == 0


def test_all_of_several_checks_have_to_pass() -> None:
    ready = threading.Event()

    def answer(request: Recorded) -> Reply:
        return Reply(200 if ready.is_set() or request.path == "/live" else 503)

    with HttpServer(answer) as server:
        checks = [check({"http": path}, name=path) for path in ("/live", "/ready")]
        entry = {"endpoints": [f"127.0.0.1:{server.port}"], "health_checks": checks}
        world = World(a={**entry, "ignore_new_hosts_until_first_hc": True})

        async def body() -> None:
            await until(lambda: not world.checks.warming)
            assert world.flags() == "/failed_active_hc"
            ready.set()
            await until(lambda: world.flags() == "healthy")
            ready.clear()
            await until(lambda: world.flags() == "/failed_active_hc")

        running(world, body)


def test_without_traffic_checks_are_rare() -> None:
    with HttpServer() as server:
        asks = check(HTTP, no_traffic_interval=NEVER)
        world = World(idle=service(server.port, asks), busy=service(server.port, asks))
        world.plane.clusters["busy"].shared["connections"] = None
        world.change(
            idle=service(server.port, asks),
            busy={**service(server.port, {**asks, "http": "/busy"})},
        )
        world.plane.clusters["busy"].shared["connections"] = None

        async def body() -> None:
            await until(lambda: world.stats("busy").get("success", 0) >= 4)
            assert world.stats("idle")["attempt"] == 1

        running(world, body)


def test_only_so_many_are_under_way_at_a_time() -> None:
    gate = threading.Event()
    with HttpServer(lambda _: Reply(200, gate=gate)) as server:
        # Another host each, hence a check of its own.
        names = [f"s{number}" for number in range(MAX_CONCURRENT + 20)]
        asks = check(HTTP, timeout="5s", interval=NEVER, no_traffic_interval=NEVER)
        world = World(**{name: service(server.port, asks) for name in names})

        def begun() -> int:
            return sum(stats["attempt"] for stats in world.checks.stats().values())

        async def body() -> None:
            await until(lambda: begun() >= MAX_CONCURRENT)
            await asyncio.sleep(0.05)
            assert begun() == MAX_CONCURRENT
            gate.set()
            await until(lambda: not world.checks.warming)
            assert begun() == len(names)

        running(world, body)


# -- from calls, and to the other health signals


def test_a_response_may_fail_its_endpoint() -> None:
    with HttpServer() as server:
        asks = check(HTTP, interval="60ms", no_traffic_interval="60ms")
        world = World(a=service(server.port, asks), b=service(server.port, asks))

        async def body() -> None:
            await until(lambda: world.flags() == world.flags("b") == "healthy")
            cluster, state = world.plane.clusters["a"], world.state()
            caller = threading.Thread(
                target=lambda: [world.checks.on_passive_failure(cluster, state) for _ in range(9)]
            )
            caller.start()
            caller.join()
            await until(lambda: "excluded" in world.flags())
            assert world.stats()["passive_failure"] == 1
            await until(lambda: world.flags() == "healthy")
            told = [e for e in world.events if isinstance(e, HealthChanged) and not e.healthy]
            assert told[0].why == "a response said so"

        running(world, body)


class Detector:
    """Stands for outlier detection."""

    next_due = None

    def on_health_check_passed(self, state: Any, now: float) -> None:
        del now
        state.flags &= ~FAILED_OUTLIER_CHECK


def test_a_passed_check_ends_an_ejection() -> None:
    with HttpServer() as server:
        world = World(a=service(server.port, check(HTTP)))

        async def body() -> None:
            await until(lambda: world.flags() == "healthy")
            world.plane.clusters["a"].detector = Detector()
            world.state().flags |= FAILED_OUTLIER_CHECK
            await until(lambda: not world.state().flags & FAILED_OUTLIER_CHECK)

        running(world, body)


def test_checks_decide_where_calls_go() -> None:
    def answer(request: Recorded) -> Reply:
        return Reply(200)

    with HttpServer(answer) as good, HttpServer(lambda _: Reply(500)) as bad:
        both = [f"127.0.0.1:{bad.port}", f"127.0.0.1:{good.port}"]
        world = World(a={"endpoints": both, "health_check": check(HTTP, interval=NEVER)})

        async def body() -> None:
            await until(lambda: world.events)
            cluster = world.plane.clusters["a"]
            draw = random.Random(1).getrandbits
            picked = [cluster.balancer.pick(lambda: draw(64)) for _ in range(20)]
            assert {p.key for p in picked if p is not None} == {f"127.0.0.1:{good.port}"}

        running(world, body)


# -- life


def test_a_check_that_cannot_be_made_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from meshclient.transport.health_probe_http import HttpProbe

    async def broken(_self: Any) -> Any:
        raise RuntimeError("bug")

    monkeypatch.setattr(HttpProbe, "_ask", broken)
    world = World(a=service(1, check(HTTP)))

    async def body() -> None:
        await until(lambda: world.stats().get("network_failure", 0) >= 3)

    running(world, body)


def test_a_cluster_that_cannot_be_checked_keeps_no_other_from_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from meshclient.transport import health_probe

    make = health_probe.make_probe

    def choosy(cluster: Cluster, *rest: Any) -> Any:
        if cluster.name == "a":
            raise ValueError("bad values")
        return make(cluster, *rest)

    monkeypatch.setattr(health_probe, "make_probe", choosy)
    with HttpServer() as server:
        world = World(
            a=service(server.port, check({"http": "/a"})),
            b=service(server.port, check({"http": "/b"})),
        )

        async def body() -> None:
            await until(lambda: world.flags("b") == "healthy")

        running(world, body)
    assert "cluster a is not checked" in caplog.text


def test_closing_in_the_middle_of_checks_is_quick_and_leaves_nothing() -> None:
    gate = threading.Event()
    with HttpServer(lambda _: Reply(200, gate=gate)) as server:
        world = World(a=service(server.port, check(HTTP, timeout="1h", interval="1h")))

        async def body() -> None:
            await until(lambda: len(server.requests) == 1)

        running(world, body)
        gate.set()
        assert server.wait_for(lambda: server.open_connections == 0)


def test_nothing_is_needed_and_nothing_is_loaded_without_checks() -> None:
    script = """
import sys, asyncio
sys.path[:0] = sys.argv[1:]
from health_support import World
import meshclient
before = set(sys.modules)
world = World(a={"endpoints": ["127.0.0.1:1"]})
assert not world.checks.needed
async def main():
    task = asyncio.create_task(world.checks.run())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
asyncio.run(main())
assert "meshclient.transport.health_probe" not in sys.modules
"""
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(folder.parent)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_the_child_of_a_fork_checks_for_itself() -> None:
    with HttpServer() as server:
        world = World(a=service(server.port, check(HTTP)))

        async def body() -> None:
            await until(lambda: world.flags() == "healthy")
            pid = os.fork()
            if pid == 0:
                try:
                    os._exit(_child(world))
                finally:
                    os._exit(1)
            ended: list[int] = []
            await until(lambda: _gone(pid, ended))
            assert ended == [0]
            before = world.stats()["success"]
            await until(lambda: world.stats()["success"] >= before + 2)
            assert world.stats().get("failure", 0) == 0

        running(world, body)


def _gone(pid: int, ended: list[int]) -> bool:
    found, status = os.waitpid(pid, os.WNOHANG)
    if found:
        ended.append(os.waitstatus_to_exitcode(status))
    return bool(found)


def _child(world: World) -> int:
    """0 where the checks start anew and work."""
    asyncio._set_running_loop(None)
    world.checks.after_fork_in_child()
    if world.checks.stats():
        return 2
    world.state().flags |= FAILED_ACTIVE_HC
    loop = asyncio.new_event_loop()
    task = loop.create_task(world.checks.run())

    async def healthy() -> None:
        await until(lambda: world.flags() == "healthy")
        task.cancel()
        await asyncio.wait((task,))

    loop.run_until_complete(healthy())
    loop.close()
    return 0


# -- in a mesh


def mesh_of(**services: Any) -> meshclient.Mesh:
    return meshclient.Mesh.from_documents([{"version": 1, "services": services}])


def wait_for(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < limit, "not in time"
        time.sleep(0.005)


def flags_in(mesh: meshclient.Mesh, name: str = "a") -> list[str]:
    return [flag_names(state.flags) for state in mesh._plane.clusters[name].states]


def test_a_mesh_is_ready_when_all_was_checked_once_and_calls_what_is_well() -> None:
    status = [503]

    def answer(request: Recorded) -> Reply:
        return Reply(status[0] if request.path == "/healthz" else 200)

    with HttpServer(answer) as sick, HttpServer() as well:
        both = [f"127.0.0.1:{sick.port}", f"127.0.0.1:{well.port}"]
        mesh = mesh_of(a={"endpoints": both, "health_check": check(HTTP)})
        told: list[Any] = []
        mesh.subscribe(told.append)
        with mesh, mesh.client() as client:
            mesh.wait_ready(5)
            wait_for(lambda: flags_in(mesh) == ["/failed_active_hc", "healthy"])
            wait_for(lambda: any(e for e in told if isinstance(e, HealthChanged)))
            for _ in range(20):
                assert client.get("http://a/").status_code == 200
            assert not [r for r in sick.requests if r.path == "/"]
            status[0] = 200
            wait_for(lambda: flags_in(mesh) == ["healthy", "healthy"])
            begin = time.monotonic()
        assert time.monotonic() - begin < 1


def test_a_response_in_a_mesh_may_fail_its_endpoint() -> None:
    def answer(request: Recorded) -> Reply:
        asked = request.path == "/bye"
        return Reply(200, headers=[("x-envoy-immediate-health-check-fail", "1")] if asked else [])

    with HttpServer(answer) as server:
        asks = check(HTTP, interval=NEVER, no_traffic_interval=NEVER)
        with mesh_of(a=service(server.port, asks)) as mesh, mesh.client() as client:
            wait_for(lambda: flags_in(mesh) == ["healthy"])
            client.get("http://a/")
            assert flags_in(mesh) == ["healthy"]
            client.get("http://a/bye")
            expected = ["/failed_active_hc/excluded_via_immediate_hc_fail"]
            wait_for(lambda: flags_in(mesh) == expected)
            assert mesh.dump()["health"]["health_check"]["a"]["passive_failure"] == 1


def test_calls_make_checks_frequent() -> None:
    with HttpServer() as server:
        asks = check(HTTP, interval="20ms", no_traffic_interval="300ms")
        with mesh_of(a=service(server.port, asks)) as mesh, mesh.client() as client:
            mesh.wait_ready(5)
            client.get("http://a/")
            wait_for(lambda: len([r for r in server.requests if r.path != "/"]) >= 8)
            came = mesh.dump()["health"]["health_check"]["a"]
            assert came["success"] >= 7
