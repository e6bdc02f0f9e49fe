"""Rings, tables and what is hashed, in native files and DestinationRules."""

from __future__ import annotations

from typing import Any

import pytest

from meshclient.config import load_documents
from meshclient.errors import ConfigError
from meshclient.model.cluster import Cluster, LoadBalancing
from meshclient.model.routes import ForwardAction, HashPolicy
from meshclient.model.snapshot import ANY_PORT, MeshConfig


def load(**block: Any) -> MeshConfig:
    service = {"endpoints": ["h:1"], "load_balancing": block}
    return load_documents([{"version": 1, "services": {"a": service}}])


def hashed(*sources: dict[str, Any]) -> tuple[HashPolicy, ...]:
    loaded = load(policy="maglev", hash_on=list(sources))
    action = loaded.route_configurations[ANY_PORT].virtual_hosts[0].routes[0].action
    assert isinstance(action, ForwardAction)
    return action.hash_policy


def test_native_settings_of_rings_and_tables() -> None:
    loaded = load(
        policy="ring_hash",
        minimum_ring_size=7,
        maximum_ring_size=99,
        hash_function="murmur_hash_2",
        hash_balance_factor=150,
        use_hostname_for_hashing=True,
        hash_on={"header": "x-user"},
    )
    assert loaded.clusters["a"].policy.load_balancing == LoadBalancing(
        "ring_hash",
        minimum_ring_size=7,
        maximum_ring_size=99,
        hash_function="murmur_hash_2",
        hash_balance_factor=150,
        use_hostname_for_hashing=True,
    )
    assert loaded.diagnostics == ()
    table = load(policy="maglev", table_size=11, hash_on={"source_ip": True})
    assert table.clusters["a"].policy.load_balancing == LoadBalancing("maglev", table_size=11)
    assert table.clusters["a"].not_honoured == ()


def test_native_sources() -> None:
    assert hashed(
        {"header": "X-User", "regex_rewrite": {"pattern": "-.*", "value": ""}, "terminal": True},
        {"header": ":path"},
        {"cookie": "c", "ttl": "1m", "path": "/", "attributes": {"SameSite": "Lax"}},
        {"cookie": "d"},
        {"context": "user"},
    ) == (
        HashPolicy("header", "x-user", terminal=True, pattern="-.*"),
        HashPolicy("header", ":path"),
        HashPolicy("cookie", "c", 60.0, "/", attributes=(("SameSite", "Lax"),)),
        HashPolicy("cookie", "d"),
        HashPolicy("context", "user"),
    )


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"table_size": 65_536}, "a Maglev table needs a prime size (write 65537)"),
        ({"table_size": 5_000_012}, "is more than 5000011"),
        ({"minimum_ring_size": 8_388_609}, "is more than 8388608"),
        ({"minimum_ring_size": 9, "maximum_ring_size": 8}, "is more than maximum_ring_size"),
        ({"hash_balance_factor": 99}, "a percentage of the mean load, at least 100"),
        ({"hash_function": "md5"}, "known are murmur_hash_2, xx_hash"),
        ({"hash_on": {"query": "q", "context": "u"}}, "exactly one of header, cookie"),
        ({"hash_on": {"header": "a b"}}, "is not a header name"),
        ({"hash_on": {"cookie": "c", "ttl": "1.5s"}}, "lives whole seconds"),
        ({"hash_on": {"cookie": "c", "path": "/"}}, "add ttl: 0s"),
        ({"hash_on": {"query": "q", "attributes": {"a": "b"}}}, "belong to a cookie"),
        (
            {"hash_on": {"query": "q", "regex_rewrite": {"pattern": "a", "value": ""}}},
            "regex_rewrite belongs to a header",
        ),
        (
            {"hash_on": {"header": "x", "regex_rewrite": {"pattern": "a", "value": "\\1"}}},
            "the pattern has 0 groups",
        ),
    ],
)
def test_native_mistakes(block: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(policy="maglev", **block)
    assert expected in str(caught.value)


_SERVICE = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "ServiceEntry",
    "metadata": {"name": "a", "namespace": "default"},
    "spec": {
        "hosts": ["a.test"],
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
        "resolution": "STATIC",
        "endpoints": [{"address": "10.0.0.1"}],
    },
}


def istio(consistent_hash: dict[str, Any]) -> tuple[Cluster, tuple[HashPolicy, ...]]:
    rule = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": "a", "namespace": "default"},
        "spec": {
            "host": "a.test",
            "trafficPolicy": {"loadBalancer": {"consistentHash": consistent_hash}},
        },
    }
    loaded = load_documents([_SERVICE, rule])
    (cluster,) = (c for c in loaded.clusters.values() if c.service == "a.test")
    hosts = [h for t in loaded.route_configurations.values() for h in t.virtual_hosts]
    action = next(h for h in hosts if "a.test" in h.domains).routes[0].action
    assert isinstance(action, ForwardAction)
    return cluster, action.hash_policy


@pytest.mark.parametrize(
    ("block", "balancing", "policy"),
    [
        (
            {"httpHeaderName": "X-User"},
            LoadBalancing("ring_hash"),
            HashPolicy("header", "x-user"),
        ),
        (
            {"useSourceIp": True, "ringHash": {"minimumRingSize": 99}},
            LoadBalancing("ring_hash", minimum_ring_size=99),
            HashPolicy("source_ip"),
        ),
        (
            {"httpQueryParameterName": "Q", "minimumRingSize": 98},
            LoadBalancing("ring_hash", minimum_ring_size=98),
            HashPolicy("query", "Q"),
        ),
        (
            {
                "httpCookie": {
                    "name": "c",
                    "path": "/p",
                    "ttl": "0s",
                    "attributes": [{"name": "SameSite", "value": "Lax"}, {"name": "Secure"}],
                },
                "maglev": {"tableSize": 101},
            },
            LoadBalancing("maglev", table_size=101),
            HashPolicy("cookie", "c", 0.0, "/p", attributes=(("SameSite", "Lax"), ("Secure", ""))),
        ),
        (
            {"httpCookie": {"name": "c"}},
            LoadBalancing("ring_hash"),
            HashPolicy("cookie", "c"),
        ),
    ],
)
def test_consistent_hash_of_a_destination_rule(
    block: dict[str, Any], balancing: LoadBalancing, policy: HashPolicy
) -> None:
    cluster, policies = istio(block)
    assert cluster.policy.load_balancing == balancing
    assert policies == (policy,)
    assert cluster.not_honoured == ()


def test_a_cookie_attribute_needs_a_name() -> None:
    with pytest.raises(ConfigError, match="an attribute needs a name"):
        istio({"httpCookie": {"name": "c", "attributes": [{"value": "x"}]}})
