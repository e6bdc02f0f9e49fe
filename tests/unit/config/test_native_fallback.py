"""The fallback block of services and routes."""

from __future__ import annotations

from typing import Any

import pytest

from meshclient.config import load_documents
from meshclient.errors import ConfigError
from meshclient.model.fallback import Fallback, LastGood, StaticAnswer
from meshclient.model.routes import ForwardAction
from meshclient.model.snapshot import ANY_PORT, MeshConfig

SERVER_ERRORS = frozenset(range(500, 600))


def load(fallback: Any, **service: Any) -> MeshConfig:
    endpoints = [{"address": "127.0.0.1:1", "labels": {"v": "2"}}]
    a = {
        "endpoints": endpoints,
        "subsets": {"v2": {"labels": {"v": "2"}}},
        "fallback": fallback,
        **service,
    }
    return load_documents(
        [{"version": 1, "services": {"a": a, "b": {"endpoints": ["127.0.0.1:2"]}}}]
    )


def found(fallback: Any, **service: Any) -> list[Fallback | None]:
    hosts = load(fallback, **service).route_configurations[ANY_PORT].virtual_hosts
    host = next(host for host in hosts if host.name == "a")
    actions = [route.action for route in host.routes]
    return [action.fallback for action in actions if isinstance(action, ForwardAction)]


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"respond": {"status": 200}}, Fallback(respond=StaticAnswer())),
        (
            {"respond": {"status": 503, "headers": {"X-A": "ü"}, "body": "ü"}},
            Fallback(respond=StaticAnswer(503, (("x-a", "Ã¼"),), "ü".encode())),
        ),
        ({"to": "b"}, Fallback(cluster="b", host="b")),
        ({"to": "v2", "methods": "any"}, Fallback(cluster="a/v2", any_method=True)),
        ({"last_good": True}, Fallback(last_good=LastGood())),
        ({"last_good": False}, Fallback()),
        (
            {"last_good": {"max_age": "1m", "max_entries": 2, "headers": ["X-T"]}},
            Fallback(last_good=LastGood(60.0, 2, headers=("x-t",))),
        ),
        ({"on": ["local"]}, Fallback(statuses=frozenset())),
        ({"on": [429, "5xx"]}, Fallback(local=False, statuses=SERVER_ERRORS | {429})),
        ({}, None),
    ],
)
def test_what_is_read(block: dict[str, Any], expected: Fallback | None) -> None:
    assert found(block) == [expected]


def test_a_route_has_its_own_or_the_services_or_none() -> None:
    routes = [
        {"match": {"prefix": "/1"}, "fallback": {"to": "v2"}},
        {"match": {"prefix": "/2"}, "fallback": {}},
        {"match": {"prefix": "/3"}},
    ]
    usual = Fallback(cluster="b", host="b")
    assert found({"to": "b"}, routes=routes) == [Fallback(cluster="a/v2"), None, usual, usual]


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"to": "c"}, "neither a subset of a nor a service"),
        ({"to": "a"}, "no fallback for itself"),
        ({"on": []}, "no failure is named"),
        ({"on": ["4xx"]}, "known are 5xx, local"),
        ({"on": [200]}, "400"),
        ({"methods": "any", "respond": {"status": 200}}, 'no effect without "to"'),
        ({"respond": {}}, '"status" is missing'),
        ({"respond": {"status": 204, "body": "x"}}, "has no body"),
        ({"respond": {"status": 200, "headers": {"content-length": "1"}}}, "not for the policy"),
        ({"respond": {"status": 200, "headers": {"a": "x\ny"}}}, "line breaks"),
        ({"last_good": {"headers": ["a b"]}}, "not a header name"),
        ({"last_good": {"max_age": "0s"}}, "max_age"),
        ({"static": {}}, "static"),
    ],
)
def test_what_is_refused(block: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(block)
    assert words in str(caught.value)


def test_a_direct_response_has_no_fallback() -> None:
    with pytest.raises(ConfigError, match="no effect"):
        load({"to": "b"}, routes=[{"respond": {"status": 200}, "fallback": {"to": "b"}}])
