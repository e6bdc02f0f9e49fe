"""Scenarios in which the policy (or its absence) decides before anything is sent."""

from __future__ import annotations

from typing import Any

from servers.http import Reply

from meshclient.model.routes import ForwardAction, Route, RouteConfiguration, VirtualHost
from meshclient.model.routes import WeightedCluster as To
from meshclient.model.snapshot import ANY_PORT, MeshConfig

from .retries import istio
from .scenario import Ask, Expected, Scenario, ok
from .world import World


def _refused(error: str, status: int, *flags: str, body: bytes = b"") -> Expected:
    return Expected(
        error=error, counterpart="ConnectError", attempts=(), flags=flags, reply=(status, body)
    )


def _missing_cluster(world: World) -> MeshConfig:
    """Model values, as a control plane would give them: the route names nothing."""
    route = Route(ForwardAction(clusters=(To("nowhere"),), cluster_not_found_status=500))
    host = VirtualHost("svc", ("svc",), (route,))
    return MeshConfig(route_configurations={ANY_PORT: RouteConfiguration("all", (host,))})


_BY_HEADER = {"routes": [{"to_header": "x-to"}]}


def _mutual_tls(world: World) -> list[dict[str, Any]]:
    rule = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": "svc", "namespace": "default"},
        "spec": {"host": "svc.example", "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}},
    }
    return [*istio(world), rule]


NO_WAY = (
    Scenario(
        "no route matches",
        documents=lambda world: [
            {
                "version": 1,
                "services": {
                    "svc": {"routes": [{"match": {"prefix": "/api"}, "to": "other"}]},
                    "other": {"endpoints": [world.address("a")]},
                },
            }
        ],
        expected=(_refused("NoRoute", 404, "NR"),),
        received=(),
    ),
    Scenario(
        "the route names a cluster that does not exist",
        config=_missing_cluster,
        expected=(_refused("UnknownCluster", 500, "NC"),),
        received=(),
    ),
    Scenario(
        "the header that names the service is missing, wrong, right",
        asks=(
            Ask(),
            Ask(options={"headers": {"x-to": "nobody"}}),
            Ask(options={"headers": {"x-to": "svc"}}),
        ),
        service=_BY_HEADER,
        expected=(
            _refused("UnknownCluster", 503, "NC"),
            _refused("UnknownCluster", 503, "NC"),
            ok(),
        ),
    ),
    Scenario(
        "a subset without endpoints",
        service={
            "subsets": {"v9": {"labels": {"version": "v9"}}},
            "routes": [{"to": "v9"}],
        },
        expected=(_refused("NoHealthyEndpoint", 503, "UH", body=b"no healthy upstream"),),
        received=(),
    ),
    Scenario(
        "a host that no policy knows, and registry_only",
        asks=(Ask(url="http://elsewhere/x"),),
        outbound="registry_only",
        expected=(_refused("UnknownHost", 502),),
        received=(),
    ),
    Scenario(
        "TLS that cannot be honoured is refused, never plain: nobody says whose server it is",
        asks=(Ask(url="http://svc.example/x"),),
        documents=_mutual_tls,
        expected=(_refused("SecurityError", 503),),
        received=(),
    ),
)


def _unsendable(attempt: str) -> Expected:
    return Expected(
        error="InvalidRequest",
        counterpart="LocalProtocolError",
        attempts=(attempt,),
        flags=("DPE",),
        reply=(400, b""),
    )


# Retried never, and nothing of them is sent.
CALLERS_MISTAKES = (
    Scenario(
        "a line break in a header",
        asks=(Ask(options={"headers": {"X-Name": "a\r\nX-Evil: b"}}), Ask()),
        service={"retries": {"attempts": 2, "on": ["5xx", "reset"]}},
        expected=(_unsendable("a invalid request -"), ok()),
    ),
    Scenario(
        "a body that contradicts its length",
        asks=(Ask("PUT", body="bytes", options={"headers": {"Content-Length": "99"}}), Ask()),
        service={"retries": {"attempts": 2, "on": ["5xx", "reset"]}},
        expected=(_unsendable("a invalid request -"), ok()),
    ),
    Scenario(
        "a generator that contradicts its length",
        asks=(Ask("PUT", body="generator", options={"headers": {"Content-Length": "99"}}), Ask()),
        service={"retries": {"attempts": 2, "on": ["5xx", "reset"]}},
        expected=(_unsendable("a invalid request -"), ok()),
    ),
)

# A host that no policy knows passes through: "{a}" is the address of upstream a.


def _other(world: World) -> list[dict[str, Any]]:
    return [{"version": 1, "services": {"svc": {"endpoints": [world.address("b")]}}}]


PASS_THROUGH = (
    Scenario(
        "pass-through",
        asks=(Ask(url="http://{a}/x"), Ask("POST", "http://{a}/y", "json")),
        documents=_other,
        script=(Reply(200, b"ok"), Reply(503, b"busy")),
        expected=(ok(), Expected(503, b"busy", attempts=("a failed 503",))),
        received=("a GET /x", "a POST /y"),
    ),
    Scenario(
        "pass-through to nobody",
        asks=(Ask(url="http://{refused}/x"),),
        documents=_other,
        expected=(
            Expected(
                error="ConnectFailed",
                counterpart="ConnectError",
                attempts=("refused remote connection failure -",),
                flags=("UF",),
                reply=(
                    503,
                    b"upstream connect error or disconnect/reset before headers. "
                    b"reset reason: remote connection failure",
                ),
            ),
        ),
        received=(),
    ),
)

SCENARIOS = NO_WAY + CALLERS_MISTAKES + PASS_THROUGH
