"""Load reports of servers (ORCA) in headers and trailers of every wire make weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from life_support import wait_for
from servers.http import Recorded, Reply
from servers.http2 import H2Server, Request
from test_balancing_mesh import HOST, asked, native, servers, weights

from meshclient import Mesh


def reporting(
    name: str, utilization: float, where: str, text: str = ""
) -> Callable[[Recorded], Reply]:
    line = f"endpoint-load-metrics: TEXT rps_fractional=100,cpu_utilization={utilization}\r\n"
    head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
    body = f"\r\n{1 + len(text):x}\r\n{name}{text}\r\n0\r\n"
    whole = head + line + body + "\r\n" if where == "headers" else head + body + line + "\r\n"
    return lambda _request: Reply(raw=whole.encode())


SETTINGS = {
    "policy": "client_side_weighted_round_robin",
    "client_side_weighted_round_robin": {"blackout_period": "0s", "weight_update_period": "100ms"},
}
#: One of two says that it is four times as busy: it shall get a fifth of the calls.
BUSY = {"a": 0.2, "b": 0.8}


def followed(mesh: Mesh) -> bool:
    return weights(mesh) == [500, 125]


@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize("where", ["headers", "trailers"])
def test_load_reports_make_weights(where: str, how: str) -> None:
    with servers("ab") as running:
        for server in running:
            server.handler = reporting(server.name, BUSY[server.name], where)
        with Mesh.from_documents(native(running, load_balancing=SETTINGS)) as mesh:
            assert Counter(asked(mesh, how, [{}] * 10)) == {"a": 5, "b": 5}
            wait_for(lambda: followed(mesh), "weights follow the reports")
            found = Counter(asked(mesh, how, [{}] * 100))
            rows = mesh.dump()["endpoints"][HOST]
    assert abs(found["a"] - 80) <= 1
    assert [row["load_report"]["weight"] for row in rows] == [500, 125]


def h2_reporting(name: str) -> Callable[[Request], None]:
    line = ("endpoint-load-metrics", f"TEXT rps_fractional=100,cpu_utilization={BUSY[name]}")
    return lambda request: request.peer.respond(request, body=name.encode(), trailers=[line])


@pytest.mark.parametrize("how", ["sync", "async"])
def test_trailers_of_http2(how: str) -> None:
    with H2Server(h2_reporting("a")) as a, H2Server(h2_reporting("b")) as b:
        endpoints = [f"127.0.0.1:{server.port}" for server in (a, b)]
        service = {"endpoints": endpoints, "protocol": "h2", "load_balancing": SETTINGS}
        with Mesh.from_documents([{"version": 1, "services": {HOST: service}}]) as mesh:
            assert Counter(asked(mesh, how, [{}] * 10)) == {"a": 5, "b": 5}
            wait_for(lambda: followed(mesh), "weights follow the reports")


def test_a_body_that_is_not_read_to_its_end_reports_nothing() -> None:
    with servers("ab") as running:
        for server in running:
            server.handler = reporting(server.name, BUSY[server.name], "trailers", "x" * 500_000)
        with (
            Mesh.from_documents(native(running, load_balancing=SETTINGS)) as mesh,
            mesh.client(trust_env=False) as client,
        ):
            for _ in range(4):
                with client.stream("GET", f"http://{HOST}/") as response:
                    assert response.status_code == 200
            rows = mesh.dump()["endpoints"][HOST]
    assert [row["load_report"]["weight"] for row in rows] == [None, None]
    assert [row["in_flight"] for row in rows] == [0, 0]


class Reporting(grpc.GenericRpcHandler):
    """``Unary`` and ``Stream``, with a report in the trailers."""

    def __init__(self, name: str) -> None:
        report = f"TEXT rps_fractional=100,cpu_utilization={BUSY[name]}"
        self.line = ("endpoint-load-metrics", report)

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        def stream(request: bytes, context: Any) -> Iterator[bytes]:
            context.set_trailing_metadata((self.line,))
            yield from (request, request)

        def unary(request: bytes, context: Any) -> bytes:
            context.set_trailing_metadata((self.line,))
            return request

        if details.method.endswith("Stream"):
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)


@pytest.mark.parametrize("method", ["Unary", "Stream"])
def test_trailers_of_grpc(method: str) -> None:
    running = [grpc.server(futures.ThreadPoolExecutor(4)) for _ in BUSY]
    ports = [server.add_insecure_port("127.0.0.1:0") for server in running]
    for server, name in zip(running, BUSY, strict=True):
        server.add_generic_rpc_handlers((Reporting(name),))
        server.start()
    service = {"endpoints": [f"127.0.0.1:{port}" for port in ports], "load_balancing": SETTINGS}
    try:
        with Mesh.from_documents([{"version": 1, "services": {HOST: service}}]) as mesh:
            with mesh.grpc_channel(HOST) as channel:
                for _ in range(4):
                    if method == "Unary":
                        assert channel.unary_unary("/t.T/Unary")(b"x", timeout=10) == b"x"
                    else:
                        assert len(list(channel.unary_stream("/t.T/Stream")(b"x", timeout=10))) == 2
            wait_for(lambda: followed(mesh), "weights follow the reports")
    finally:
        for server in running:
            server.stop(None).wait()
