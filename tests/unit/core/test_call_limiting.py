"""Rate limits and their like on the way of a call: order, headers, endings, reloads."""

from __future__ import annotations

import pytest
from core_support import (
    RETRY,
    call_of,
    cluster,
    head,
    host_of,
    plane_of,
    reset,
    seed,
    snapshot_of,
    status,
    to,
)

from meshclient import errors
from meshclient.clients.http_common import reply_to
from meshclient.model.concurrency import AdaptiveConcurrency, AdmissionControl
from meshclient.model.matching import Fraction
from meshclient.model.outcome import Outcome, ResetReason
from meshclient.model.rate_limit import (
    DescriptorAction,
    GlobalRateLimit,
    LocalRateLimit,
    TokenBucket,
)
from meshclient.model.routes import Fault, Route
from meshclient.plane import build_plane, forked_plane
from meshclient.resilience.question import GrpcAnswer

TWO = LocalRateLimit("service a", TokenBucket(2, 1, 3600.0))
TOLD = LocalRateLimit("service a", TokenBucket(2, 1, 3600.0), x_ratelimit_headers=True)
ADMIT = AdmissionControl("service a")
LEARN = AdaptiveConcurrency("service a")
ASK = GlobalRateLimit("service a", "l", "d", ((DescriptorAction("generic_key", "k", value="v"),),))


def plane_with(*filters, fault=None, **options):
    return plane_of(
        host_of(Route(to(**options), name="r", filters=filters, fault=fault)), cluster()
    )


def filter_of(plane, settings):
    return plane.filters.by_settings[settings]


def test_calls_without_tokens_never_reach_an_endpoint():
    plane = plane_with(TWO, ADMIT, LEARN)
    replies = [call_of(plane).reply for _ in range(3)]
    assert [reply and reply.status for reply in replies] == [None, None, 429]
    assert filter_of(plane, LEARN).controller.in_flight == 2, "the third did not come so far"


def test_a_fault_comes_before_the_tokens():
    plane = plane_with(TWO, fault=Fault(abort_status=418, abort_fraction=Fraction(100)))
    assert [call_of(plane).reply.status for _ in range(3)] == [418] * 3
    assert filter_of(plane, TWO).enabled == 0


def test_a_call_with_retries_takes_one_token_and_one_place():
    plane = plane_with(TWO, LEARN, retry=RETRY)
    call = call_of(plane)
    attempt = call.next_attempt(0.0)
    assert call.settle(attempt, reset(ResetReason.CONNECTION_FAILURE, sent=False), 0.1) is not None
    attempt.close(0.1)
    assert filter_of(plane, LEARN).controller.in_flight == 1
    attempt = call.next_attempt(0.2)
    call.settle(attempt, status(200), 0.3)
    attempt.close(0.4)
    assert filter_of(plane, LEARN).controller.in_flight == 0
    assert filter_of(plane, TWO).ok == 1


def end_with(plane, outcome):
    call = call_of(plane)
    attempt = call.next_attempt(0.0)
    call.settle(attempt, outcome, 0.1)
    attempt.close(0.2)


@pytest.mark.parametrize(
    ("outcome", "success"),
    [
        (status(200), True),
        (status(404), True),
        (status(503), False),
        (reset(ResetReason.REMOTE_RESET), False),
        (Outcome(200, grpc_status=0), True),
        (Outcome(200, grpc_status=14), False),
        (status(200, [("content-type", "application/grpc"), ("grpc-status", "14")]), False),
        (status(200, [("grpc-status", "x")]), True),
    ],
)
def test_every_ending_is_judged_once(outcome, success):
    plane = plane_with(ADMIT)
    end_with(plane, outcome)
    counted = filter_of(plane, ADMIT)
    assert (counted.rq_success, counted.rq_failure) == (success, not success)


def test_a_cancelled_call_frees_its_place_and_counts_nowhere():
    plane = plane_with(ADMIT, LEARN)
    call = call_of(plane)
    call.next_attempt(0.0)
    call.abandon(0.1)
    assert filter_of(plane, LEARN).controller.in_flight == 0
    assert filter_of(plane, ADMIT).describe()["window_requests"] == 0


def test_the_refusal_of_a_later_filter_is_a_failure_for_an_earlier_one():
    plane = plane_with(ADMIT, LEARN)
    calls = [call_of(plane) for _ in range(4)]
    assert [call.reply and call.reply.status for call in calls] == [None, None, None, 503]
    assert filter_of(plane, ADMIT).rq_failure == 1


def test_headers_of_filters_wait_for_the_response():
    call = call_of(plane_with(TOLD))
    assert call.filter_headers[0] == (b"x-ratelimit-limit", b"2")
    assert (b"x-ratelimit-remaining", b"1") in call.filter_headers


def test_they_stand_in_the_reply_of_a_later_filter_too():
    plane = plane_with(TOLD, LEARN)
    filter_of(plane, LEARN).controller.in_flight = 3
    reply = call_of(plane).reply
    assert reply.status == 503
    assert reply.headers.get("x-ratelimit-remaining") == "1"


def test_and_in_the_reply_to_a_failure():
    call = call_of(plane_with(TOLD))
    attempt = call.next_attempt(0.0)
    call.settle(attempt, reset(ResetReason.REMOTE_RESET), 0.1)
    assert isinstance(call.error, errors.CallError)
    assert reply_to(call.error, call).headers.get("x-ratelimit-limit") == "2"


def test_a_question_holds_the_call_until_its_answer():
    plane = plane_with(ASK, LEARN)
    call = call_of(plane)
    assert call.hold.ask.cluster == "l"
    assert filter_of(plane, LEARN).controller.in_flight == 0
    call.resume(0.1, GrpcAnswer(b"\x08\x01"))
    assert call.hold is None
    assert filter_of(plane, LEARN).controller.in_flight == 1


def test_a_driver_that_cannot_ask_is_a_failure_to_answer():
    call = call_of(plane_with(ASK))
    call.resume(0.1)
    assert call.reply is None
    assert "allowed" in call.notes[0]


def test_tokens_outlive_a_reload_and_new_terms_begin_anew():
    def snapshot(settings):
        return snapshot_of(host_of(Route(to(), name="r", filters=(settings,))), cluster())

    first = build_plane(snapshot(TWO), None, seed)
    for _ in range(2):
        call_of(first)
    same = build_plane(
        snapshot(LocalRateLimit("service a", TokenBucket(2, 1, 3600.0))), first, seed
    )
    assert call_of(same).reply.status == 429
    other = build_plane(
        snapshot(LocalRateLimit("service a", TokenBucket(3, 1, 3600.0))), same, seed
    )
    assert call_of(other).reply is None
    assert call_of(forked_plane(first, seed)).reply is None, "a child has tokens of its own"


def test_scopes_keep_equal_settings_apart_and_routes_of_a_scope_together():
    other = LocalRateLimit("b", TokenBucket(2, 1, 3600.0))
    routes = [Route(to(), name=name, filters=(one,)) for name, one in
              (("x", TWO), ("y", TWO), ("z", other))]  # fmt: skip
    plane = plane_of(host_of(*routes), cluster())
    compiled = next(iter(plane.tables.values())).hosts[0].routes
    first, second, third = (route.filters[0] for route in compiled)
    assert first is second
    assert third is not first


def test_dumps_show_every_filter():
    plane = plane_with(TWO, ASK, ADMIT, LEARN)
    call_of(plane, head())
    rows = plane.filters.describe()
    assert [row["filter"].partition(" of ")[0] for row in rows] == [
        "rate limit", "rate limit", "admission control", "adaptive concurrency",
    ]  # fmt: skip
    assert rows[0]["ok"] == 1
