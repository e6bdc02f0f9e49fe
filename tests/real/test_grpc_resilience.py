"""Breakers, filters, load reports and deadlines of gRPC calls, both colours."""

from __future__ import annotations

import pickle
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from grpc_support import CALLERS, SERVICE, EchoServer, in_flight, policy
from servers.http import HttpServer, Reply

import meshclient
from meshclient import errors
from meshclient.server import ServerInterceptor

S = grpc.StatusCode


@pytest.fixture(params=CALLERS, ids=lambda caller: caller.colour)
def dial(request: Any) -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def make(*documents: Any) -> Any:
        made.append(request.param(meshclient.Mesh.from_documents(list(documents))))
        return made[-1]

    yield make
    for caller in made:
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


def test_an_open_breaker_sends_nothing(dial, servers):
    (server,) = servers(1, Who=[S.UNAVAILABLE] * 3)
    breaker = {"consecutive_failures": 3, "open_for": "30s"}
    caller = dial(policy(server, circuit_breaker=breaker, retries={"attempts": 0}))
    for _ in range(3):
        with pytest.raises(grpc.RpcError):
            caller.unary("Who")
    with pytest.raises(grpc.RpcError) as caught:
        caller.unary("Who")
    error = caught.value
    assert isinstance(error, errors.CircuitOpen)
    assert error.code() is S.UNAVAILABLE
    assert error.breaker
    assert 0.0 < error.retry_after_s <= 30.0
    assert error.report.flags == ("UO",)
    assert server.count == 3
    again = pickle.loads(pickle.dumps(error))
    assert (again.breaker, again.retry_after_s) == (error.breaker, error.retry_after_s)
    assert (again.code(), again.details(), again.flag) == (S.UNAVAILABLE, error.details(), "UO")


def test_a_breaker_closes_again_after_a_good_probe(dial, servers):
    (server,) = servers(1, Who=[S.UNAVAILABLE] * 2)
    breaker = {"consecutive_failures": 2, "open_for": "100ms"}
    caller = dial(policy(server, circuit_breaker=breaker, retries={"attempts": 0}))
    for _ in range(2):
        with pytest.raises(grpc.RpcError):
            caller.unary("Who")
    with pytest.raises(errors.CircuitOpen):
        caller.unary("Who")
    limit, answer = time.monotonic() + 5, None
    while answer is None and time.monotonic() < limit:
        try:
            answer = caller.unary("Who")[0]
        except errors.CircuitOpen as still:
            time.sleep(min(0.2, still.retry_after_s or 0.02))
    assert answer == b"s0"
    assert server.count == 3


def test_streams_pass_by_the_breaker_too(dial, servers):
    (server,) = servers(1, Expand=[S.UNAVAILABLE] * 2)
    breaker = {"consecutive_failures": 2, "open_for": "30s"}
    caller = dial(policy(server, circuit_breaker=breaker, retries={"attempts": 0}))
    for _ in range(2):
        with pytest.raises(grpc.RpcError):
            caller.expand("Expand", b"1")
    with pytest.raises(errors.CircuitOpen):
        caller.expand("Expand", b"1")


def test_a_rate_limit(dial, servers):
    (server,) = servers(1)
    limit = {"max_tokens": 2, "fill_interval": "60s"}
    caller = dial(policy(server, rate_limit=limit))
    for _ in range(2):
        caller.unary("Who")
    with pytest.raises(grpc.RpcError) as caught:
        caller.unary("Who")
    assert caught.value.code() in (S.UNAVAILABLE, S.RESOURCE_EXHAUSTED)
    assert caught.value.report.flags == ("RL",)
    assert server.count == 2


def test_what_a_filter_adds_is_initial_metadata(dial, servers):
    limit = {"max_tokens": 5, "fill_interval": "60s", "x_ratelimit_headers": True}
    caller = dial(policy(*servers(1), rate_limit=limit))
    response, ended = caller.unary("Get", b"x")
    initial = caller.initial(ended)
    assert response == b"x"
    assert initial["x-server"] == "s0"
    assert initial["x-ratelimit-limit"].startswith("5")


def test_the_first_call_shows_that_the_service_is_used(dial, servers):
    caller = dial(policy(*servers(1)))
    cluster = next(iter(caller.mesh._runtime.current().clusters.values()))
    assert not cluster.shared
    caller.unary("Who")
    assert cluster.shared


def _reporting(reports: list[tuple[Any, str]]) -> list[Any]:
    """One server that says of itself, in trailers, what it is asked to."""

    class Service(grpc.GenericRpcHandler):
        def __init__(self, load: str, name: str) -> None:
            self.load, self.name = load, name

        def service(self, details: Any) -> Any:
            def answer(request: bytes, context: Any) -> bytes:
                context.set_trailing_metadata((("endpoint-load-metrics", self.load),))
                return self.name.encode()

            return grpc.unary_unary_rpc_method_handler(answer)

    made = []
    for name, load in reports:
        server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers((Service(load, name),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        made.append((server, port))
    return made


def test_load_reports_in_trailers_make_weights(dial):
    made = _reporting(
        [
            ("busy", "TEXT application_utilization=0.9,rps_fractional=10"),
            ("idle", "TEXT application_utilization=0.1,rps_fractional=10"),
        ]
    )
    balancing = {
        "policy": "client_side_weighted_round_robin",
        "client_side_weighted_round_robin": {
            "blackout_period": "0s",
            "weight_update_period": "100ms",
        },
    }
    try:
        caller = dial(policy(*(port for _, port in made), load_balancing=balancing))
        limit = time.monotonic() + 8
        while time.monotonic() < limit:
            seen = Counter(caller.unary("Who")[0] for _ in range(40))
            if seen[b"idle"] > 3 * seen[b"busy"]:
                break
            time.sleep(0.05)
        assert seen[b"idle"] > 3 * seen[b"busy"]
    finally:
        for server, _ in made:
            server.stop(None)


# -- deadlines from hop to hop ------------------------------------------------------------------


@contextmanager
def _grpc_hop(mesh: Any, action: Callable[[bytes, Any], bytes]) -> Iterator[int]:
    class Service(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(action)

    server = grpc.server(
        ThreadPoolExecutor(4),
        interceptors=[ServerInterceptor(mesh)],
        options=[("grpc.so_reuseport", 0)],
    )
    server.add_generic_rpc_handlers((Service(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def test_a_grpc_deadline_reaches_the_next_http_hop(dial):
    """gRPC caller -> gRPC server -> HTTP server, which is told what is left."""
    with HttpServer(lambda _: Reply(200, b"ok")) as http:
        document = {
            "version": 1,
            "services": {"next": {"endpoints": [f"127.0.0.1:{http.port}"], "timeout": "30s"}},
        }
        with meshclient.Mesh.from_documents([document]) as inside, inside.client() as client:

            def action(_request: bytes, _context: Any) -> bytes:
                return client.get("http://next/").content  # type: ignore[no-any-return]

            with _grpc_hop(inside, action) as port:
                caller = dial(policy(port))
                assert caller.unary("Who", timeout=2.0)[0] == b"ok"
        headers = {name.lower(): value for name, value in http.requests[0].headers}
        # gRPC rounds what it sends up a little.
        assert 0 < int(headers["x-envoy-expected-rq-timeout-ms"]) <= 2100


def test_a_deadline_of_the_request_being_handled_bounds_grpc_calls(servers):
    """What an HTTP request has left is the ``grpc-timeout`` of the calls made for it."""
    from wsgiref.util import setup_testing_defaults

    from meshclient.server import WSGIMiddleware

    (server,) = servers(1)
    with (
        meshclient.Mesh.from_documents([policy(server)]) as mesh,
        mesh.grpc_channel("orders") as channel,
    ):
        sleep = channel.unary_unary(SERVICE + "Sleep")
        seen: list[Any] = []

        def application(environ: Any, start_response: Any) -> list[bytes]:
            try:
                sleep(b"5")
            except grpc.RpcError as error:
                seen.append(error)
            start_response("200 OK", [])
            return [b""]

        environ: dict[str, Any] = {"HTTP_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS": "250"}
        setup_testing_defaults(environ)
        began = time.monotonic()
        body = WSGIMiddleware(application, mesh)(environ, lambda *_: None)
        list(body)
        getattr(body, "close", lambda: None)()
        assert time.monotonic() - began < 2.0
    (error,) = seen
    assert error.code() is S.DEADLINE_EXCEEDED
