"""The native file's settings of single balancing policies, subsets and sessions."""

from __future__ import annotations

from typing import Any

import pytest

from meshclient.config import load_documents
from meshclient.errors import ConfigError
from meshclient.model.load_balancing import (
    LoadBalancing,
    OrcaWeights,
    PeakEwma,
    StatefulSession,
    SubsetSelection,
    SubsetSelector,
)
from meshclient.model.routes import ForwardAction
from meshclient.model.snapshot import ANY_PORT, MeshConfig


def load(**service: Any) -> MeshConfig:
    return load_documents(
        [{"version": 1, "services": {"a": {"endpoints": ["127.0.0.1:1"], **service}}}]
    )


def balancing(block: Any) -> LoadBalancing:
    cluster = load(load_balancing=block).clusters["a"]
    assert not cluster.not_honoured
    return cluster.policy.load_balancing


def problem(**service: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(**service)
    return "\n".join(str(d) for d in caught.value.diagnostics)


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("peak_ewma", LoadBalancing("peak_ewma")),
        ("pick_first", LoadBalancing("pick_first")),
        (
            {"policy": "peak_ewma", "peak_ewma": {"default_rtt": "5ms", "decay": "1m"}},
            LoadBalancing("peak_ewma", peak_ewma=PeakEwma(0.005, 60.0)),
        ),
        ({"policy": "peak_ewma", "peak_ewma": {}}, LoadBalancing("peak_ewma")),
        (
            {"policy": "pick_first", "pick_first": {"shuffle_address_list": True}},
            LoadBalancing("pick_first", shuffle_address_list=True),
        ),
        (
            {"policy": "client_side_weighted_round_robin"},
            LoadBalancing("client_side_weighted_round_robin"),
        ),
        (
            {
                "policy": "client_side_weighted_round_robin",
                "client_side_weighted_round_robin": {
                    "blackout_period": "0s",
                    "weight_expiration_period": "1m",
                    "weight_update_period": "100ms",
                    "error_utilization_penalty": 1.5,
                    "metric_names_for_computing_utilization": ["named_metrics.q"],
                },
            },
            LoadBalancing(
                "client_side_weighted_round_robin",
                orca=OrcaWeights(0.0, 60.0, 0.1, 1.5, ("named_metrics.q",)),
            ),
        ),
        ({"subset_size": 20}, LoadBalancing(subset_size=20)),
        (
            {
                "policy": "random",
                "subsets": {
                    "fallback_policy": "default_subset",
                    "default_subset": {"stage": "prod"},
                    "panic_mode_any": True,
                    "subset_selectors": [
                        {"keys": ["stage"], "single_host_per_subset": True},
                        {
                            "keys": ["version", "stage"],
                            "fallback_policy": "keys_subset",
                            "fallback_keys_subset": ["stage"],
                        },
                    ],
                },
            },
            LoadBalancing(
                "random",
                subsets=SubsetSelection(
                    (
                        SubsetSelector(("stage",), single_host_per_subset=True),
                        SubsetSelector(("version", "stage"), "keys_subset", ("stage",)),
                    ),
                    "default_subset",
                    (("stage", "prod"),),
                    True,
                ),
            ),
        ),
        ({"session": {"cookie": "s"}}, LoadBalancing(session=StatefulSession("cookie", "s"))),
        (
            {"session": {"cookie": {"name": "S", "path": "/p", "ttl": "1h"}, "strict": True}},
            LoadBalancing(session=StatefulSession("cookie", "S", "/p", 3600.0, True)),
        ),
        (
            {"session": {"header": "X-Session"}},
            LoadBalancing(session=StatefulSession("header", "x-session")),
        ),
    ],
)
def test_values(block: Any, expected: LoadBalancing) -> None:
    assert balancing(block) == expected


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"peak_ewma": {}}, "has no effect with policy least_request"),
        ({"policy": "random", "pick_first": {}}, "write policy: pick_first"),
        ({"policy": "peak_ewma", "peak_ewma": {"decay": "0s"}}, "decay"),
        ({"policy": "peak_ewma", "peak_ewma": {"rtt": "1s"}}, "rtt"),
        ({"policy": "peak-ewma"}, "peak_ewma"),
        (
            {
                "policy": "client_side_weighted_round_robin",
                "client_side_weighted_round_robin": {"weight_update_period": "50ms"},
            },
            "at least 100ms",
        ),
        (
            {
                "policy": "client_side_weighted_round_robin",
                "client_side_weighted_round_robin": {"error_utilization_penalty": -1},
            },
            "error_utilization_penalty",
        ),
        ({"subset_size": 1}, "pick_first"),
        ({"subset_size": -1}, "subset_size"),
        ({"subsets": {}}, "subset_selectors"),
        ({"subsets": {"subset_selectors": []}}, "at least one selector"),
        ({"subsets": {"subset_selectors": [{}]}}, "keys"),
        ({"subsets": {"subset_selectors": [{"keys": []}]}}, "at least one key"),
        (
            {"subsets": {"subset_selectors": [{"keys": ["a", "b"]}, {"keys": ["b", "a"]}]}},
            "same keys",
        ),
        (
            {"subsets": {"subset_selectors": [{"keys": ["a"], "fallback_policy": "keys_subset"}]}},
            "needs fallback_keys_subset",
        ),
        (
            {
                "subsets": {
                    "subset_selectors": [
                        {
                            "keys": ["a"],
                            "fallback_policy": "keys_subset",
                            "fallback_keys_subset": ["a"],
                        }
                    ]
                }
            },
            "not all of them",
        ),
        (
            {"subsets": {"subset_selectors": [{"keys": ["a"], "fallback_keys_subset": ["b"]}]}},
            "no effect without",
        ),
        (
            {"subsets": {"subset_selectors": [{"keys": ["a"]}], "panic_mode_any": True}},
            "without a fallback_policy",
        ),
        (
            {"subsets": {"subset_selectors": [{"keys": ["a"]}], "default_subset": {"a": "1"}}},
            "default_subset",
        ),
        (
            {"subsets": {"subset_selectors": [{"keys": ["a"]}], "fallback_policy": "ANY"}},
            "any_endpoint",
        ),
        ({"session": {}}, "give one of cookie and header"),
        ({"session": {"cookie": "a", "header": "b"}}, "only one of"),
        ({"session": {"cookie": "a b"}}, "a b"),
        ({"session": {"cookie": {"path": "/"}}}, "name"),
        ({"session": {"cookie": {"name": "a", "path": "p"}}}, "begins with /"),
        ({"session": {"cookie": {"name": "a", "ttl": "1500ms"}}}, "whole seconds"),
        ({"session": {"header": "x:y"}}, "not a header name"),
    ],
)
def test_mistakes(block: Any, words: str) -> None:
    assert words in problem(load_balancing=block)


def test_a_route_asks_for_labels() -> None:
    routes = [
        {"match": {"prefix": "/a"}, "subset": {"version": "2", "stage": "prod"}},
        {"match": {"prefix": "/b"}},
    ]
    loaded = load(routes=routes).route_configurations[ANY_PORT].virtual_hosts[0].routes
    actions = [route.action for route in loaded if isinstance(route.action, ForwardAction)]
    expected = (("stage", "prod"), ("version", "2"))
    assert [action.subset for action in actions] == [expected, (), ()]


@pytest.mark.parametrize(
    ("route", "words"),
    [
        ({"subset": {}}, "at least one label"),
        ({"subset": "v1"}, "subset"),
        ({"subset": {"a": "1"}, "respond": {"status": 200}}, "has no effect together"),
    ],
)
def test_mistakes_of_a_route(route: Any, words: str) -> None:
    assert words in problem(routes=[route])
