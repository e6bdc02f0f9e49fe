"""The mesh against grpcio's own ``xds:///``: equal policies, the same calls, the same outcomes.

An ADS server in this process serves listeners, routes, clusters and endpoints; grpcio's client
runs in a process of its own, since it reads its bootstrap once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, json_format
from grpc_support import CALLERS, EchoServer

import meshclient

pytest.importorskip("envoy.service.discovery.v3.ads_pb2_grpc", reason="needs xds-protos")

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401 - in the listener
from envoy.extensions.filters.network.http_connection_manager.v3 import (  # noqa: F401
    http_connection_manager_pb2,
)
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ADS = {"ads": {}, "resourceApiVersion": "V3"}


def _listener(name: str) -> dict[str, Any]:
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    manager = {
        "@type": f"type.googleapis.com/{MANAGER}",
        "rds": {"routeConfigName": name, "configSource": ADS},
        "httpFilters": [{"name": "router", "typedConfig": router}],
    }
    return {"name": name, "apiListener": {"apiListener": manager}}


def _routes(name: str, routes: list[Any]) -> dict[str, Any]:
    host = {"name": name, "domains": ["*"], "routes": routes}
    return {"name": name, "virtualHosts": [host]}


def _cluster(name: str) -> dict[str, Any]:
    eds = {"edsConfig": ADS}
    return {"name": name, "type": "EDS", "edsClusterConfig": eds, "lbPolicy": "ROUND_ROBIN"}


def _endpoints(name: str, ports: list[int]) -> dict[str, Any]:
    addresses = [
        {"endpoint": {"address": {"socketAddress": {"address": "127.0.0.1", "portValue": port}}}}
        for port in ports
    ]
    locality = {"locality": {"zone": "a"}, "loadBalancingWeight": 1, "lbEndpoints": addresses}
    return {"clusterName": name, "endpoints": [locality]}


class Ads(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    """Serves fixed resources: by the end of their type's name, then by name."""

    def __init__(self, resources: dict[str, dict[str, Any]]) -> None:
        self._resources = resources

    def StreamAggregatedResources(self, requests: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        known: dict[str, set[str]] = {}
        for request in requests:
            names = set(request.resource_names)
            if known.get(request.type_url) == names:
                continue  # an acknowledgement
            known[request.type_url] = names
            response = discovery_pb2.DiscoveryResponse(
                version_info="1", type_url=request.type_url, nonce=str(len(names))
            )
            offered = self._resources[request.type_url.rpartition(".")[2]]
            for name in sorted(names & set(offered)):
                packed = any_pb2.Any()
                packed.Pack(offered[name])
                response.resources.append(packed)
            yield response


CLIENT = """
import json, sys
import grpc
channels = {}
answers = []
for target, method, request, metadata in json.loads(sys.argv[1]):
    if target not in channels:
        channels[target] = grpc.insecure_channel("xds:///" + target)
    call = channels[target].unary_unary("/test.Echo/" + method)
    try:
        response = call(request.encode(), timeout=10, metadata=[tuple(m) for m in metadata])
        answers.append(["OK", response.decode()])
    except grpc.RpcError as error:
        answers.append([error.code().name, error.details()])
print(json.dumps(answers))
"""

#: What is called: target, method, request, metadata. The first ones connect to everybody.
WARM = [("spread", "Who", "", []) for _ in range(60)]
SPREAD = [("spread", "Who", "", []) for _ in range(30)]
MATCHED = [
    ("matched", "Who", "", []),
    ("matched", "Who", "", [("x-user", "jason")]),
    ("matched", "Who", "", [("x-user", "jasons")]),
    ("matched", "Who", "", [("x-plan", "gold-7")]),
    ("matched", "Who", "", [("x-plan", "tin")]),
    ("matched", "Get", "x", []),
    ("matched", "Fail", "NOT_FOUND no such order", []),
    ("matched", "Fail", "INTERNAL broken", []),
]
REPEATED = [("repeated", "Who", "", []), ("repeated", "Get", "x", [])]
SPLIT = [("split", "Who", "", []) for _ in range(300)]
CALLS = [*WARM, *SPREAD, *MATCHED, *REPEATED, *SPLIT]


@pytest.fixture
def servers() -> Iterator[list[EchoServer]]:
    made = [EchoServer(f"s{i}") for i in range(4)]
    yield made
    for server in made:
        server.stop()


def _arm(servers: list[EchoServer]) -> None:
    """``s3`` fails: two times, then as often as it is asked."""
    gone = grpc.StatusCode.UNAVAILABLE
    for server in servers:
        server.seen.clear()
    servers[3].scripts.update(Who=[gone] * 2, Get=[gone] * 9)


def _found(answers: list[Any], servers: list[EchoServer]) -> dict[str, Any]:
    spread = answers[len(WARM) : len(WARM) + len(SPREAD)]
    start = len(WARM) + len(SPREAD)
    share = Counter(tuple(answer) for answer in answers[-len(SPLIT) :])
    return {
        "spread": Counter(tuple(answer) for answer in spread),
        "matched": [tuple(a) for a in answers[start : start + len(MATCHED)]],
        "repeated": [tuple(a) for a in answers[start + len(MATCHED) : -len(SPLIT)]],
        "tries": [
            (method, metadata.get("grpc-previous-rpc-attempts", "0"))
            for method, metadata in servers[3].seen
        ],
        "split in bounds": set(share) == {("OK", "s0"), ("OK", "s1")}
        and 20 <= share["OK", "s1"] <= 110,
    }


def _parsed(message: Any, values: list[Any], name: str = "name") -> dict[str, Any]:
    return {value[name]: json_format.ParseDict(value, message()) for value in values}


def _over_xds(servers: list[EchoServer]) -> list[Any]:
    ports = [server.port for server in servers]

    def header(name: str, how: dict[str, Any]) -> dict[str, Any]:
        return {"prefix": "", "headers": [{"name": name, "stringMatch": how}]}

    matched = [
        {"match": {"path": "/test.Echo/Get"}, "route": {"cluster": "v2"}},
        {"match": header("x-user", {"exact": "jason"}), "route": {"cluster": "v2"}},
        {"match": header("x-plan", {"prefix": "gold"}), "route": {"cluster": "v2"}},
        {"match": {"prefix": ""}, "route": {"cluster": "v1"}},
    ]
    retry = {"retryOn": "unavailable", "numRetries": 2}
    weights = [{"name": "v1", "weight": 80}, {"name": "v2", "weight": 20}]
    everything: dict[str, Any] = {"match": {"prefix": ""}}
    routes = {
        "spread": [{**everything, "route": {"cluster": "all"}}],
        "matched": matched,
        "repeated": [{**everything, "route": {"cluster": "bad", "retryPolicy": retry}}],
        "split": [{**everything, "route": {"weightedClusters": {"clusters": weights}}}],
    }
    clusters = {"all": ports[:3], "v1": ports[:1], "v2": ports[1:2], "bad": ports[3:]}
    ads = Ads(
        {
            "Listener": _parsed(listener_pb2.Listener, [_listener(name) for name in routes]),
            "RouteConfiguration": _parsed(
                route_pb2.RouteConfiguration, [_routes(name, rs) for name, rs in routes.items()]
            ),
            "Cluster": _parsed(cluster_pb2.Cluster, [_cluster(name) for name in clusters]),
            "ClusterLoadAssignment": _parsed(
                endpoint_pb2.ClusterLoadAssignment,
                [_endpoints(name, each) for name, each in clusters.items()],
                "clusterName",
            ),
        }
    )
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(ads, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    bootstrap = {
        "xds_servers": [
            {
                "server_uri": f"127.0.0.1:{port}",
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }
        ],
        "node": {"id": "test"},
    }
    try:
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, json.dumps(CALLS)],
            env={**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(bootstrap)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)  # type: ignore[no-any-return]
    finally:
        server.stop(None).wait()


def _documents(servers: list[EchoServer]) -> dict[str, Any]:
    where = [f"127.0.0.1:{server.port}" for server in servers]
    balancing = {"load_balancing": {"policy": "round_robin"}}
    return {
        "version": 1,
        "services": {
            "spread": {"endpoints": where[:3], **balancing},
            "v1": {"endpoints": where[:1]},
            "v2": {"endpoints": where[1:2]},
            "matched": {
                "routes": [
                    {"match": {"path": "/test.Echo/Get"}, "to": "v2"},
                    {"match": {"headers": {"x-user": "jason"}}, "to": "v2"},
                    {"match": {"headers": {"x-plan": {"prefix": "gold"}}}, "to": "v2"},
                    {"to": "v1"},
                ]
            },
            "repeated": {
                "endpoints": where[3:],
                "retries": {"attempts": 2, "on": ["unavailable"]},
            },
            "split": {"routes": [{"to": {"v1": 80, "v2": 20}}]},
        },
    }


def _over_the_mesh(servers: list[EchoServer], kind: Any) -> list[Any]:
    mesh = meshclient.Mesh.from_documents([_documents(servers)])
    callers = {target: kind(mesh, target) for target in ("spread", "matched", "repeated", "split")}
    answers: list[Any] = []
    for target, method, request, metadata in CALLS:
        try:
            response, _ = callers[target].unary(method, request.encode(), metadata=metadata)
            answers.append(["OK", response.decode()])
        except grpc.RpcError as error:
            answers.append([error.code().name, error.details()])
    for caller in callers.values():
        caller.close()
    return answers


def test_the_mesh_does_what_grpcs_own_xds_client_does(servers):
    _arm(servers)
    theirs = _found(_over_xds(servers), servers)
    assert theirs["split in bounds"]
    assert theirs["tries"] == [("Who", str(i)) for i in range(3)] + [
        ("Get", str(i)) for i in range(3)
    ]
    for kind in CALLERS:
        _arm(servers)
        assert _found(_over_the_mesh(servers, kind), servers) == theirs
