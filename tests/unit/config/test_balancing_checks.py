"""Load-balancing settings that are valid and do nothing: each is told, with a way out."""

from __future__ import annotations

from typing import Any

import pytest

from meshclient.config import load_documents
from meshclient.errors import ConfigError

HERE, THERE = "eu/a", "eu/b"
PLACED = [{"address": "127.0.0.1:1", "locality": HERE}, {"address": "127.0.0.1:2"}]
STAGES = {"subset_selectors": [{"keys": ["stage"]}]}


def told(services: dict[str, Any]) -> list[str]:
    config = load_documents([{"version": 1, "services": services}])
    return [f"{d.field}: {d.message}" for d in config.diagnostics if d.code == "no-effect"]


def service(**fields: Any) -> dict[str, Any]:
    return {"endpoints": ["127.0.0.1:1"], **fields}


def alone(**balancing: Any) -> dict[str, Any]:
    return {"a": service(load_balancing=balancing)}


def routed(balancing: Any, **route: Any) -> dict[str, Any]:
    return {"a": service(load_balancing=balancing, routes=[route, {}])}


@pytest.mark.parametrize(
    ("services", "part"),
    [
        (alone(policy="ring_hash", hash_on={"source_ip": True}, table_size=11), "table_size: has"),
        (
            alone(policy="maglev", hash_on={"source_ip": True}, hash_function="xx_hash"),
            "hash_function",
        ),
        (alone(policy="random", slow_start={"window": "1s"}), "slow_start: has no effect with"),
        (alone(policy="peak_ewma", choice_count=3), "choice_count: has no effect with policy peak"),
        (alone(hash_balance_factor=150), "hash_balance_factor: has no effect with policy least"),
        (alone(policy="round_robin", hash_on={"header": "x"}), "hash_on: has no effect with"),
        (routed("least_request", hash_on={"header": "x"}), "hash_on: has no effect with policy"),
        (routed("random", subset={"stage": "prod"}), "subset: has no effect: a has no"),
        (
            routed({"subsets": STAGES}, subset={"stage": "prod", "zone": "b"}),
            "subset: no subset_selector of a has the keys stage, zone",
        ),
        (
            {
                "a": {
                    "endpoints": PLACED,
                    "load_balancing": {
                        "locality": "locality_weighted",
                        "locality_weights": [
                            {"locality": HERE, "weight": 1},
                            {"locality": THERE, "weight": 2},
                        ],
                    },
                }
            },
            f"no endpoint of priority 0 is in {THERE}",
        ),
        (alone(locality="zone_aware", local_service="me"), "local_service: no service me is known"),
    ],
)
def test_what_cannot_do_what_it_says_is_told_once(services: dict[str, Any], part: str) -> None:
    found = told(services)
    assert len(found) == 1, found
    assert part in found[0]


@pytest.mark.parametrize(
    "services",
    [
        alone(policy="ring_hash", hash_on={"header": "x"}, minimum_ring_size=10),
        alone(policy="maglev", hash_on={"header": "x"}, table_size=11, hash_balance_factor=120),
        alone(policy="round_robin", slow_start={"window": "1s"}),
        alone(choice_count=3, active_request_bias=2, slow_start={"window": "1s"}),
        routed({"subsets": STAGES}, subset={"stage": "prod"}),
        # The service's own calls are hashed; those of one route go to a service that does not.
        {
            "a": service(
                load_balancing={"policy": "ring_hash", "hash_on": {"header": "x"}},
                routes=[{"match": {"path": "/b"}, "to": "b"}, {}],
            ),
            "b": service(),
        },
        # A subset of the service hashes.
        {
            "a": {
                "endpoints": [{"address": "127.0.0.1:1", "labels": {"v": "1"}}],
                "load_balancing": {"policy": "round_robin", "hash_on": {"header": "x"}},
                "subsets": {"v1": {"labels": {"v": "1"}, "load_balancing": "maglev"}},
                "routes": [{"match": {"path": "/"}, "to": "v1"}],
            }
        },
        # Where calls go is not known before they are made.
        routed("random", hash_on={"header": "x"}, to_header="x-to"),
        alone(locality="zone_aware", local_service="a"),
    ],
)
def test_what_works_is_not_told(services: dict[str, Any]) -> None:
    assert told(services) == []


def test_a_session_where_the_caller_says_the_endpoint() -> None:
    documents: list[dict[str, Any]] = [
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "ServiceEntry",
            "metadata": {
                "name": "e",
                "namespace": "d",
                "labels": {"istio.io/persistent-session-header": "x-home"},
            },
            "spec": {
                "hosts": ["svc.test"],
                "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
                "resolution": "STATIC",
                "endpoints": [{"address": "127.0.0.1"}],
            },
        },
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "DestinationRule",
            "metadata": {"name": "r", "namespace": "d"},
            "spec": {
                "host": "svc.test",
                "trafficPolicy": {"loadBalancer": {"simple": "PASSTHROUGH"}},
            },
        },
    ]
    config = load_documents(documents)
    found = [d for d in config.diagnostics if d.code == "no-effect"]
    assert ["session" in d.message for d in found] == [True]
    assert not any(d.code == "no-effect" for d in load_documents(documents[:1]).diagnostics)


@pytest.mark.parametrize("health", ["healthy", "unhealthy", "draining", "degraded"])
def test_an_endpoint_may_say_how_it_is(health: str) -> None:
    config = load_documents([{"version": 1, "services": {"a": with_health(health)}}])
    assert [e.health for e in config.clusters["a"].endpoints] == [health]


def with_health(health: str) -> dict[str, Any]:
    return {"endpoints": [{"address": "127.0.0.1:1", "health": health}]}


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        (with_health("draning"), 'did you mean "draining"'),
        ({"dns": [{"address": "a.test:80", "health": "draining"}]}, "belongs to an endpoint"),
    ],
)
def test_a_health_that_cannot_be_is_refused(fields: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        load_documents([{"version": 1, "services": {"a": fields}}])
