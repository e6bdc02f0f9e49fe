"""Rate limits, admission control and adaptive concurrency of the native file: keys, refusals,
order and scopes."""

from __future__ import annotations

from typing import Any

import pytest

from meshclient.config import load_documents
from meshclient.errors import ConfigError
from meshclient.model.concurrency import AdaptiveConcurrency, AdmissionControl
from meshclient.model.matching import Fraction, HeaderMatch, QueryMatch, StringMatch
from meshclient.model.rate_limit import (
    DescriptorAction,
    GlobalRateLimit,
    LocalDescriptor,
    LocalRateLimit,
    TokenBucket,
)
from meshclient.model.routes import Route
from meshclient.model.snapshot import ANY_PORT, MeshConfig

LIMITS = {"endpoints": ["127.0.0.1:9"], "protocol": "h2"}
ASK = {"service": "limits", "domain": "d", "actions": [{"generic_key": "g"}]}


def load(**service: Any) -> MeshConfig:
    block = {"endpoints": ["127.0.0.1:1"], **service}
    return load_documents([{"version": 1, "services": {"s": block, "limits": LIMITS}}])


def routes(**service: Any) -> tuple[Route, ...]:
    hosts = load(**service).route_configurations[ANY_PORT].virtual_hosts
    return next(host.routes for host in hosts if host.name == "s")


def filters(**service: Any) -> tuple[Any, ...]:
    (route,) = routes(**service)
    assert route.not_honoured == ()
    return route.filters


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"max_tokens": 5}, LocalRateLimit("service s", TokenBucket(5))),
        (
            {"max_tokens": 0, "tokens_per_fill": 3, "fill_interval": "50ms"},
            LocalRateLimit("service s", TokenBucket(0, 3, 0.05)),
        ),
        (
            {
                "max_tokens": 5,
                "enabled": 50,
                "enforced": 0.1,
                "status": 503,
                "resource_exhausted": True,
                "x_ratelimit_headers": True,
                "retry_after": True,
                "refusal_headers": {"X-Limited": "yes"},
                "always_consume_default": False,
                "max_dynamic_descriptors": 7,
            },
            LocalRateLimit(
                "service s",
                TokenBucket(5),
                always_consume_default=False,
                max_dynamic_descriptors=7,
                enabled=Fraction(50),
                enforced=Fraction(1000, 1_000_000),
                status=503,
                resource_exhausted=True,
                x_ratelimit_headers=True,
                retry_after=True,
                response_headers=(("x-limited", "yes"),),
            ),
        ),
        (
            {
                "actions": [[{"request_header": "X-User", "key": "user"}]],
                "descriptors": [{"entries": {"user": ""}, "max_tokens": 1}],
            },
            LocalRateLimit(
                "service s",
                None,
                ((DescriptorAction("request_header", "user", "x-user"),),),
                (LocalDescriptor((("user", ""),), TokenBucket(1)),),
            ),
        ),
    ],
)
def test_local_limits(block: dict[str, Any], expected: LocalRateLimit) -> None:
    assert filters(rate_limit=block) == (expected,)


_PATH = HeaderMatch(":path", StringMatch("prefix", "/a"))
_GET = HeaderMatch(":method", StringMatch("exact", "GET"))
_FLAG = HeaderMatch("x-flag", StringMatch("exact", "1"))


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ({"request_header": ":path"}, DescriptorAction("request_header", ":path", ":path")),
        (
            {"request_header": "a", "skip_if_absent": True},
            DescriptorAction("request_header", "a", "a", skip_if_absent=True),
        ),
        ({"query_parameter": "q"}, DescriptorAction("query_parameter", "q", "q")),
        ({"generic_key": "g"}, DescriptorAction("generic_key", "generic_key", value="g")),
        ({"generic_key": "g", "key": "k"}, DescriptorAction("generic_key", "k", value="g")),
        (
            {"path": {"prefix": "/a"}, "method": "GET", "headers": {"X-Flag": "1"}, "value": "v"},
            DescriptorAction(
                "header_match", "header_match", value="v", headers=(_PATH, _GET, _FLAG)
            ),
        ),
        (
            {"headers": {"x-flag": "1"}, "value": "v", "key": "k", "expect_match": False},
            DescriptorAction("header_match", "k", value="v", expect_match=False, headers=(_FLAG,)),
        ),
        (
            {"query": {"size": "big"}, "value": "v"},
            DescriptorAction(
                "query_match",
                "query_match",
                value="v",
                query=(QueryMatch("size", StringMatch("exact", "big")),),
            ),
        ),
    ],
)
def test_actions(action: dict[str, Any], expected: DescriptorAction) -> None:
    (found,) = filters(global_rate_limit={**ASK, "actions": [action]})
    assert found == GlobalRateLimit("service s", "limits", "d", ((expected,),))


def test_a_question_in_full() -> None:
    block = {
        **ASK,
        "timeout": "1s",
        "failure_mode_deny": True,
        "status": 503,
        "status_on_error": 502,
        "resource_exhausted": True,
        "x_ratelimit_headers": True,
        "x_envoy_ratelimited": False,
    }
    actions = ((DescriptorAction("generic_key", "generic_key", value="g"),),)
    expected = GlobalRateLimit(
        "service s", "limits", "d", actions, 1.0, True, 503, 502, True, True, False
    )
    assert filters(global_rate_limit=block) == (expected,)


def test_admission_control_and_concurrency() -> None:
    assert filters(admission_control={}, adaptive_concurrency={}) == (
        AdmissionControl("service s"),
        AdaptiveConcurrency("service s"),
    )
    assert filters(
        admission_control={
            "sampling_window": "10s",
            "aggression": 1.5,
            "success_threshold": 90,
            "rps_threshold": 5,
            "max_rejection": 50,
            "http_success": [[200, 300], [404, 405]],
            "grpc_success": [0, 5],
        },
        adaptive_concurrency={
            "update_interval": "200ms",
            "percentile": 90,
            "min_concurrency": 5,
            "max_concurrency": 50,
            "min_rtt_interval": "30s",
            "min_rtt_requests": 10,
            "jitter": 0,
            "buffer": 10,
            "status": 429,
        },
    ) == (
        AdmissionControl(
            "service s", 10.0, 1.5, 90.0, 5, 50.0, ((200, 300), (404, 405)), frozenset({0, 5})
        ),
        AdaptiveConcurrency("service s", 0.2, 30.0, None, 10, 0.0, 5, 50, 10.0, 90.0, 429),
    )
    (fixed,) = filters(adaptive_concurrency={"fixed_min_rtt": "5ms"})
    assert fixed.fixed_min_rtt_s == 0.005


ALL = {
    "adaptive_concurrency": {},
    "admission_control": {},
    "global_rate_limit": ASK,
    "rate_limit": {"max_tokens": 1},
}


def test_they_stand_in_envoys_order_whatever_the_order_in_the_file() -> None:
    kinds = [type(one) for one in filters(**ALL)]
    assert kinds == [LocalRateLimit, GlobalRateLimit, AdmissionControl, AdaptiveConcurrency]


def test_routes_share_what_the_service_says_and_may_say_otherwise() -> None:
    found = routes(
        **ALL,
        routes=[
            {"match": {"prefix": "/a"}},
            {"match": {"prefix": "/b"}, "rate_limit": {"max_tokens": 9}, "name": "b"},
            {"match": {"prefix": "/c"}, "rate_limit": False, "global_rate_limit": False,
             "admission_control": False, "adaptive_concurrency": False},
            {"match": {"prefix": "/d"}, "rate_limit": {"max_tokens": 9}},
        ],
    )  # fmt: skip
    scopes = [[one.scope for one in route.filters] for route in found]  # type: ignore[attr-defined]
    shared = ["service s"] * 3
    assert scopes == [
        ["service s", *shared],
        ["s b", *shared],
        [],
        ["s routes[3]", *shared],
        ["service s", *shared],
    ]
    assert found[0].filters == found[-1].filters


def test_a_route_that_answers_itself_asks_nobody() -> None:
    found = routes(**ALL, routes=[{"match": {"prefix": "/a"}, "respond": {"status": 200}}])
    assert GlobalRateLimit not in [type(one) for one in found[0].filters]
    assert len(found[0].filters) == 3


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"rate_limit": {}}, '"max_tokens" is missing'),
        ({"rate_limit": True}, "settings are expected, or false"),
        ({"rate_limit": {"max_tokens": -1}}, "-1"),
        ({"rate_limit": {"max_tokens": 1, "fill_interval": "49ms"}}, "at least 50ms"),
        ({"rate_limit": {"fill_interval": "1s"}}, "has no effect without max_tokens"),
        ({"rate_limit": {"max_tokens": 1, "status": 399}}, "399"),
        ({"rate_limit": {"max_tokens": 1, "burst": 3}}, "burst"),
        ({"rate_limit": {"max_tokens": 1, "actions": [{"generic_key": "a"}]}}, "no limit is given"),
        (
            {"rate_limit": {"descriptors": [{"entries": {"a": "b"}, "max_tokens": 1}]}},
            "nothing makes one",
        ),
        ({"rate_limit": {"max_tokens": 1, "refusal_headers": {"a b": "c"}}}, "not a header name"),
        ({"rate_limit": {"max_tokens": 1, "refusal_headers": {"a": "c\n"}}}, "line breaks"),
        ({"global_rate_limit": {**ASK, "service": "nobody"}}, "nobody"),
        ({"global_rate_limit": {**ASK, "service": "s"}}, "speaks gRPC over HTTP/2"),
        ({"global_rate_limit": {"service": "limits", "actions": []}}, '"domain" is missing'),
        ({"global_rate_limit": {**ASK, "actions": [[]]}}, "makes no descriptor"),
        ({"global_rate_limit": {**ASK, "actions": [{}]}}, "give one of"),
        (
            {"global_rate_limit": {**ASK, "actions": [{"generic_key": "a", "query": {"b": "c"}}]}},
            "give one of",
        ),
        ({"global_rate_limit": {**ASK, "actions": [{"method": "GET"}]}}, '"value" is missing'),
        (
            {"global_rate_limit": {**ASK, "actions": [{"request_header": "a", "value": "b"}]}},
            "value is not for this kind",
        ),
        ({"admission_control": {"sampling_window": "1500ms"}}, "whole seconds"),
        ({"admission_control": {"success_threshold": 0}}, "0"),
        ({"admission_control": {"http_success": [[300, 200]]}}, "a range is two whole numbers"),
        ({"admission_control": {"grpc_success": []}}, "every call a failure"),
        ({"adaptive_concurrency": {"min_concurrency": 9, "max_concurrency": 8}}, "above"),
        (
            {"adaptive_concurrency": {"fixed_min_rtt": "1ms", "min_rtt_interval": "1s"}},
            "either fixed or measured",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(block: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(**block)
    assert expected in str(refused.value)


def test_entries_that_no_action_makes_are_a_warning() -> None:
    block = {
        "max_tokens": 1,
        "actions": [[{"request_header": "a"}, {"request_header": "b", "skip_if_absent": True}]],
        "descriptors": [
            {"entries": {"a": "1"}, "max_tokens": 1},
            {"entries": {"a": "1", "b": ""}, "max_tokens": 1},
            {"entries": {"b": "1"}, "max_tokens": 1},
        ],
    }
    (warning,) = [d for d in load(rate_limit=block).diagnostics if d.severity == "warning"]
    assert "no list of actions makes these keys in this order: b" in warning.message
