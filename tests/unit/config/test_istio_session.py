"""Istio's persistent-session labels."""

from __future__ import annotations

import pytest
from istio_yaml import translate

from meshclient.config.istio_session import read_session
from meshclient.model.load_balancing import StatefulSession

_COOKIE, _HEADER = "istio.io/persistent-session", "istio.io/persistent-session-header"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({}, None),
        ({"app": "x"}, None),
        ({_COOKIE: ""}, None),
        ({_COOKIE: "c"}, StatefulSession("cookie", "c", "/", accept_draining=True)),
        ({_COOKIE: "c:/p/q"}, StatefulSession("cookie", "c", "/p/q", accept_draining=True)),
        ({_COOKIE: "c:"}, StatefulSession("cookie", "c", "", accept_draining=True)),
        ({_HEADER: "X-S"}, StatefulSession("header", "x-s", accept_draining=True)),
        (
            {_HEADER: "X-S", _COOKIE: "c"},
            StatefulSession("cookie", "c", "/", accept_draining=True),
        ),
    ],
)
def test_labels(labels: dict[str, str], expected: StatefulSession | None) -> None:
    assert read_session(labels) == expected


@pytest.mark.parametrize("kind", ["Service", "ServiceEntry"])
def test_every_cluster_of_the_service_keeps_its_own_policy(kind: str) -> None:
    spec = {
        "Service": "{selector: {app: a}, "
        "ports: [{port: 80, name: http}, {port: 81, name: http-b}]}",
        "ServiceEntry": "{hosts: [a.default.svc.cluster.local], resolution: STATIC, "
        "ports: [{number: 80, name: http, protocol: HTTP}, "
        "{number: 81, name: http-b, protocol: HTTP}]}",
    }[kind]
    version = "v1" if kind == "Service" else "networking.istio.io/v1"
    made = translate(
        f"""
---
apiVersion: {version}
kind: {kind}
metadata: {{name: a, namespace: default, labels: {{{_HEADER}: x-s}}}}
spec: {spec}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: d, namespace: default}}
spec:
  host: a
  trafficPolicy: {{loadBalancer: {{simple: ROUND_ROBIN}}}}
  subsets: [{{name: v1, labels: {{version: v1}}}}]
"""
    )
    for name in ("80||", "81||", "80|v1|"):
        policy = made.cluster(f"{name}a.default.svc.cluster.local").policy.load_balancing
        assert policy.policy == "round_robin"
        assert policy.session == StatefulSession("header", "x-s", accept_draining=True)
