"""Local rate limits: the same replies, headers and counts as the real Envoy's."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from .limiting_world import Sides, World
from .traffic import Request
from .upstream import Upstreams

Json = dict[str, Any]

_ALWAYS = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
_NEVER = {"default_value": {"numerator": 0, "denominator": "HUNDRED"}}
#: No token comes during the test.
_SLOW = "3600s"


def bucket(most: int, per_fill: int = 1, interval: str = _SLOW) -> Json:
    return {"max_tokens": most, "tokens_per_fill": per_fill, "fill_interval": interval}


def native(most: int, per_fill: int = 1, interval: str = "1h") -> Json:
    return {"max_tokens": most, "tokens_per_fill": per_fill, "fill_interval": interval}


def header(name: str, skip: bool = False) -> Json:
    inner = {"header_name": name, "descriptor_key": name.strip(":"), "skip_if_absent": skip}
    return {"request_headers": inner}


def world(name: str, theirs: Json, ours: Json, *actions: list[Json]) -> World:
    settings = {
        "stat_prefix": name,
        "filter_enabled": _ALWAYS,
        "filter_enforced": _ALWAYS,
        "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
        **theirs,
    }
    if actions:
        settings["rate_limits"] = [{"actions": one} for one in actions]
    kind = "local_ratelimit.v3.LocalRateLimit"
    policy = {"rate_limit": {"x_ratelimit_headers": True, **ours}}
    return World(name, (("envoy.filters.http.local_ratelimit", kind, settings),), policy)


def descriptor(tokens: Json, **entries: str) -> Json:
    pairs = [{"key": key, "value": value} for key, value in entries.items()]
    return {"entries": pairs, "token_bucket": tokens}


def own(tokens: Json, **entries: str) -> Json:
    return {"entries": entries, **tokens}


def get(path: str = "/", **headers: str) -> Request:
    return Request("any", path, headers=tuple((k.replace("_", "-"), v) for k, v in headers.items()))


USERS = [get(x_user=user) for user in "aabcabcadd"]
GRPC = get(content_type="application/grpc")
CONDITION = {
    "header_value_match": {
        "descriptor_value": "api",
        "headers": [{"name": ":path", "string_match": {"prefix": "/api"}}],
    }
}
ELSE = {
    "header_value_match": {
        "descriptor_key": "rest",
        "descriptor_value": "other",
        "expect_match": False,
        "headers": [{"name": ":path", "string_match": {"prefix": "/api"}}],
    }
}
QUERY = {
    "query_parameter_value_match": {
        "descriptor_value": "big",
        "query_parameters": [{"name": "size", "string_match": {"exact": "big"}}],
    }
}

CASES: list[tuple[World, list[Request]]] = [
    (world("plain", {"token_bucket": bucket(3)}, native(3)), [get()] * 5),
    (
        world("fast", {"token_bucket": bucket(2, 1, "2.5s")}, native(2, 1, "2500ms")),
        [get()] * 3,
    ),
    (world("none", {"token_bucket": bucket(0)}, native(0)), [get(), GRPC]),
    (world("grpc", {"token_bucket": bucket(1)}, native(1)), [GRPC, GRPC]),
    (
        world(
            "exhausted",
            {"token_bucket": bucket(1), "rate_limited_as_resource_exhausted": True},
            {**native(1), "resource_exhausted": True},
        ),
        [GRPC, GRPC, get()],
    ),
    (
        world(
            "shadow",
            {"token_bucket": bucket(1), "filter_enforced": _NEVER},
            {**native(1), "enforced": 0},
        ),
        [get()] * 3,
    ),
    (
        world(
            "off",
            {"token_bucket": bucket(0), "filter_enabled": _NEVER},
            {**native(0), "enabled": 0},
        ),
        [get()],
    ),
    (
        world(
            "custom",
            {
                "token_bucket": bucket(1),
                "status": {"code": "ServiceUnavailable"},
                "response_headers_to_add": [{"header": {"key": "x-limited", "value": "yes"}}],
            },
            {**native(1), "status": 503, "refusal_headers": {"x-limited": "yes"}},
        ),
        [get(), get(), GRPC],
    ),
    (
        world(
            "exact",
            {
                "token_bucket": bucket(6),
                "descriptors": [descriptor(bucket(2), **{"x-user": "a"})],
            },
            {
                **native(6),
                "actions": [{"request_header": "x-user"}],
                "descriptors": [own(native(2), **{"x-user": "a"})],
            },
            [header("x-user")],
        ),
        [*USERS, get()],
    ),
    (
        world(
            "wildcard",
            {
                "token_bucket": bucket(100),
                "descriptors": [
                    descriptor(bucket(1), **{"x-user": ""}),
                    descriptor(bucket(3, 2), **{"x-user": "a"}),
                ],
                "always_consume_default_token_bucket": False,
            },
            {
                **native(100),
                "actions": [{"request_header": "x-user"}],
                "descriptors": [
                    own(native(1), **{"x-user": ""}),
                    own(native(3, 2), **{"x-user": "a"}),
                ],
                "always_consume_default": False,
            },
            [header("x-user")],
        ),
        [*USERS, get(), get(x_user="")],
    ),
    (
        world(
            "forgetful",
            {
                "token_bucket": bucket(100),
                "max_dynamic_descriptors": 2,
                "descriptors": [descriptor(bucket(1), **{"x-user": ""})],
            },
            {
                **native(100),
                "max_dynamic_descriptors": 2,
                "actions": [{"request_header": "x-user"}],
                "descriptors": [own(native(1), **{"x-user": ""})],
            },
            [header("x-user")],
        ),
        USERS,
    ),
    (
        world(
            "several",
            {
                "token_bucket": bucket(50),
                "descriptors": [
                    descriptor(bucket(5, 1), generic_key="all"),
                    descriptor(bucket(3, 4), **{"x-user": "a", "method": "GET"}),
                    descriptor(bucket(2, 9), header_match="api"),
                    descriptor(bucket(4, 3), rest="other"),
                    descriptor(bucket(1, 5), query_match="big"),
                ],
            },
            {
                **native(50),
                "actions": [
                    {"generic_key": "all"},
                    [{"request_header": "x-user"}, {"request_header": ":method", "key": "method"}],
                    {"path": {"prefix": "/api"}, "value": "api"},
                    {"path": {"prefix": "/api"}, "key": "rest", "value": "other",
                     "expect_match": False},
                    {"query": {"size": "big"}, "value": "big"},
                ],
                "descriptors": [
                    own(native(5, 1), generic_key="all"),
                    own(native(3, 4), **{"x-user": "a", "method": "GET"}),
                    own(native(2, 9), header_match="api"),
                    own(native(4, 3), rest="other"),
                    own(native(1, 5), query_match="big"),
                ],
            },
            [{"generic_key": {"descriptor_value": "all"}}],
            [header("x-user"), header(":method")],
            [CONDITION],
            [ELSE],
            [QUERY],
        ),
        [
            get("/api?size=big", x_user="a"),
            get("/api/2?size=big", x_user="a"),
            get("/api", x_user="a"),
            get("/", x_user="a"),
            get("/"),
            get("/"),
            get("/api"),
        ],
    ),
    (
        world(
            "optional",
            {
                "token_bucket": bucket(50),
                "descriptors": [
                    descriptor(bucket(1), tenant="t"),
                    descriptor(bucket(2), tenant="t", **{"x-user": "a"}),
                ],
            },
            {
                **native(50),
                "actions": [
                    [{"request_header": "x-user", "skip_if_absent": True},
                     {"request_header": "tenant"}],
                    [{"request_header": "tenant"},
                     {"request_header": "x-user", "skip_if_absent": True}],
                ],
                "descriptors": [
                    own(native(1), tenant="t"),
                    own(native(2), tenant="t", **{"x-user": "a"}),
                ],
            },
            [header("x-user", True), header("tenant")],
            [header("tenant"), header("x-user", True)],
        ),
        [get(tenant="t", x_user="a")] * 3 + [get(tenant="t")] * 2 + [get(x_user="a"), get()],
    ),
]  # fmt: skip


def test_local_rate_limits_answer_and_count_as_envoy_does() -> None:
    worlds = [case for case, _ in CASES]
    statuses: Counter[int] = Counter()
    with Upstreams(("u0",)) as upstreams, Sides(worlds, upstreams.ports["u0"]) as sides:
        for case, requests in CASES:
            for number, request in enumerate(requests):
                theirs, ours = sides.theirs(case.name, request), sides.ours(case.name, request)
                assert ours == theirs, (case.name, number, request)
                statuses[theirs.status] += 1
            _compare_counts(sides, case.name)
    assert statuses[429] >= 15
    assert statuses[200] >= 30


def _compare_counts(sides: Sides, name: str) -> None:
    prefix = f"{name}.http_local_rate_limit."
    theirs = {k.removeprefix(prefix): v for k, v in sides.stats(prefix).items()}
    (ours,) = sides.filters(f"service {name}")
    counted = ours.describe()
    for word in ("enabled", "ok", "rate_limited", "enforced"):
        assert counted[word] == theirs[word], (name, word)


def test_tokens_come_back_evenly() -> None:
    """Five tokens in 500 ms: after 220 ms two calls pass on both sides."""

    one = world("even", {"token_bucket": bucket(5, 5, "0.5s")}, native(5, 5, "500ms"))
    with Upstreams(("u0",)) as upstreams, Sides([one], upstreams.ports["u0"]) as sides:
        for send in (sides.theirs, sides.ours):
            while send("even", get()).status == 200:
                pass
            time.sleep(0.22)
            passed = [send("even", get()).status for _ in range(8)]
            assert passed[:2] == [200, 200], send
            assert 429 in passed, send
