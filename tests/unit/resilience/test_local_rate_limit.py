"""The filter of local rate limits: who is refused, with what, and what is counted."""

from __future__ import annotations

import threading

import pytest

from meshclient.model.headers import HeaderMap
from meshclient.model.matching import Fraction, HeaderMatch, QueryMatch, StringMatch
from meshclient.model.rate_limit import (
    DescriptorAction,
    LocalDescriptor,
    LocalRateLimit,
    TokenBucket,
)
from meshclient.model.request import RequestHead
from meshclient.resilience.descriptors import descriptors_of
from meshclient.resilience.local_rate_limit import LocalRateLimitFilter

HOUR = 3600.0


def head(path="/", method="GET", **headers):
    pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return RequestHead(method, "http", "shop", 80, path, HeaderMap.of(pairs))


def rand_of(*values):
    left = list(values)
    return lambda: left.pop(0)


def never():
    raise AssertionError("no random number is needed")


def limit(tokens=1, **options):
    bucket = None if tokens is None else TokenBucket(tokens, 1, HOUR)
    return LocalRateLimitFilter(LocalRateLimit("service shop", bucket, **options))


def statuses(filter_, *heads):
    verdicts = [filter_.enter(one, 0.0, never) for one in heads]
    return [None if v is None or v.reply is None else v.reply.status for v in verdicts]


def test_calls_pass_until_the_tokens_are_gone():
    filter_ = limit(2)
    assert statuses(filter_, *[head()] * 3) == [None, None, 429]
    told = filter_.describe()
    assert (told["enabled"], told["ok"], told["rate_limited"], told["enforced"]) == (3, 2, 1, 1)
    assert told["tokens"] == 0.0


def test_a_refusal_says_which_limit_and_which_numbers():
    filter_ = limit(1)
    filter_.enter(head(), 0.0, never)
    refused = filter_.enter(head(), 0.0, never)
    assert refused.flag == "RL"
    assert refused.reply.body == b"local_rate_limited"
    assert (
        refused.why == "rate limit of service shop: all 1 tokens are taken, one comes every 3600 s"
    )
    assert list(refused.reply.headers) == [("content-length", "18"), ("content-type", "text/plain")]


def test_retry_after_is_the_wait_for_one_token_in_whole_seconds():
    filter_ = LocalRateLimitFilter(LocalRateLimit("s", TokenBucket(1, 1, 10.0), retry_after=True))
    filter_.enter(head(), 0.0, never)
    assert filter_.enter(head(), 2.5, never).reply.headers.get("retry-after") == "8"
    assert filter_.enter(head(), 9.9, never).reply.headers.get("retry-after") == "1"
    assert filter_.enter(head(), 10.0, never) is None


def test_where_no_token_ever_comes_there_is_no_time_to_retry():
    filter_ = limit(0, retry_after=True, x_ratelimit_headers=True)
    reply = filter_.enter(head(), 0.0, never).reply
    assert "retry-after" not in reply.headers
    assert "x-ratelimit-limit" not in reply.headers


def test_calls_that_pass_learn_how_they_stand():
    filter_ = limit(3, x_ratelimit_headers=True)
    passed = filter_.enter(head(), 0.0, never)
    assert passed.reply is None
    assert passed.headers == [
        ("x-ratelimit-limit", "3"),
        ("x-ratelimit-remaining", "2"),
        ("x-ratelimit-reset", "0"),
    ]


@pytest.mark.parametrize(("exhausted", "code"), [(False, "14"), (True, "8")])
def test_rpcs_get_a_status_of_their_own(exhausted, code):
    filter_ = limit(0, resource_exhausted=exhausted)
    reply = filter_.enter(head(content_type="application/grpc"), 0.0, never).reply
    assert reply.status == 200
    assert reply.headers.get("grpc-status") == code
    assert reply.headers.get("grpc-message") == "local_rate_limited"


def test_in_shadow_mode_calls_are_counted_and_pass():
    filter_ = limit(0, enforced=Fraction(0))
    assert statuses(filter_, head(), head()) == [None, None]
    assert (filter_.rate_limited, filter_.enforced) == (2, 0)


def test_shares_are_drawn():
    filter_ = limit(0, enabled=Fraction(50), enforced=Fraction(25))
    drawn = [(99,), (10, 30), (10, 24)]
    verdicts = [filter_.enter(head(), 0.0, rand_of(*values)) for values in drawn]
    assert [v is not None for v in verdicts] == [False, False, True]
    assert (filter_.enabled, filter_.rate_limited, filter_.enforced) == (2, 2, 1)


USER = (DescriptorAction("request_header", "user", "x-user"),)


def test_a_descriptor_without_tokens_leaves_the_default_ones_alone():
    filter_ = limit(
        2,
        actions=(USER,),
        descriptors=(LocalDescriptor((("user", "ann"),), TokenBucket(1, 1, HOUR)),),
    )
    ann = head(x_user="ann")
    assert statuses(filter_, ann, ann, ann, head(), head()) == [None, 429, 429, None, 429]


def test_the_default_tokens_can_be_spared():
    filter_ = limit(
        1,
        actions=(USER,),
        descriptors=(LocalDescriptor((("user", ""),), TokenBucket(5, 1, HOUR)),),
        always_consume_default=False,
    )
    assert statuses(filter_, *[head(x_user="bob")] * 4, head(), head()) == [None] * 5 + [429]


def test_the_reason_names_the_descriptor():
    filter_ = limit(
        None,
        actions=(USER,),
        descriptors=(LocalDescriptor((("user", ""),), TokenBucket(0)),),
    )
    refused = filter_.enter(head(x_user="eve"), 0.0, never)
    assert refused.why == "rate limit of service shop for user=eve: no calls"
    assert filter_.enter(head(), 0.0, never) is None


def test_a_hundred_threads_take_exactly_the_tokens_there_are():
    filter_ = limit(1000)
    passed = []
    start = threading.Barrier(100)

    def hammer():
        start.wait()
        mine = [filter_.enter(head(), 0.0, never) for _ in range(50)]
        passed.append(sum(verdict is None for verdict in mine))

    threads = [threading.Thread(target=hammer) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(passed) == 1000
    assert (filter_.enabled, filter_.ok, filter_.rate_limited) == (5000, 1000, 4000)


def test_it_says_what_it_limits():
    filter_ = limit(
        10,
        actions=(USER,),
        descriptors=(LocalDescriptor((("user", ""),), TokenBucket(5, 2, 60.0)),),
        enforced=Fraction(10),
    )
    assert str(filter_) == (
        "rate limit of service shop: 1 per 3600 s, at most 10 at once; "
        "user=*: 2 per 60 s, at most 5 at once; enforced for 10 %"
    )


PATH = HeaderMatch(":path", StringMatch("prefix", "/api"))
QUERY = QueryMatch("size", StringMatch("exact", "big"))


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ((DescriptorAction("generic_key", "plan", value="gold"),), (("plan", "gold"),)),
        ((DescriptorAction("request_header", "u", "x-user"),), (("u", "ann"),)),
        ((DescriptorAction("request_header", "u", "x-none"),), None),
        ((DescriptorAction("request_header", "p", ":path"),), (("p", "/api?size=big&n"),)),
        ((DescriptorAction("request_header", "m", ":method"),), (("m", "PUT"),)),
        ((DescriptorAction("query_parameter", "s", "size"),), (("s", "big"),)),
        ((DescriptorAction("query_parameter", "n", "n"),), (("n", ""),)),
        ((DescriptorAction("query_parameter", "s", "none"),), None),
        ((DescriptorAction("header_match", "h", value="v", headers=(PATH,)),), (("h", "v"),)),
        ((DescriptorAction("header_match", "h", value="v", headers=(PATH,), expect_match=False),),
         None),
        ((DescriptorAction("query_match", "q", value="v", query=(QUERY,)),), (("q", "v"),)),
        ((DescriptorAction("request_header", "z", "x-none", skip_if_absent=True),
          DescriptorAction("request_header", "u", "x-user")), (("u", "ann"),)),
        ((DescriptorAction("request_header", "z", "x-none", skip_if_absent=True),), None),
        ((DescriptorAction("request_header", "u", "x-user"),
          DescriptorAction("request_header", "z", "x-none")), None),
    ],
)  # fmt: skip
def test_descriptors_of_a_request(actions, expected):
    found = descriptors_of((actions,), head("/api?size=big&n", "PUT", x_user="ann"))
    assert found == ([] if expected is None else [expected])
