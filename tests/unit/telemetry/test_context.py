"""The public helpers for functions, jobs and scripts."""

from __future__ import annotations

import math

import pytest

import meshclient
from meshclient import context


def test_there_is_no_context_by_itself():
    assert context.current() is None
    assert context.remaining() is None
    assert context.outbound_headers() == {}


def test_a_deadline_holds_within_and_not_after():
    with meshclient.deadline(5.0) as inbound:
        assert context.current() is inbound
        assert 4.0 < context.remaining() <= 5.0
    assert context.current() is None


def test_the_earlier_of_two_deadlines_holds():
    with meshclient.deadline(5.0) as outer:
        with meshclient.deadline(1.0):
            assert context.remaining() <= 1.0
        with meshclient.deadline(100.0) as inner:
            assert inner.deadline == outer.deadline
            assert inner.marks is outer.marks
    with meshclient.deadline(0.0):
        assert context.remaining() <= 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_deadline_is_a_number(bad):
    with pytest.raises(ValueError, match="number of seconds"):
        meshclient.deadline(bad)


def test_a_deadline_within_a_request_keeps_what_is_carried():
    headers = {"x-request-id": "1", "baggage": "a=b"}
    with context.enter(headers), meshclient.deadline(2.0):
        sent = context.outbound_headers()
    left = sent.pop("x-envoy-expected-rq-timeout-ms")
    assert sent == headers
    assert 1000 < int(left) <= 2000


def test_headers_for_other_clients_leave_the_callers_own_alone():
    with context.enter({"x-request-id": "1", "baggage": "a=b"}), meshclient.deadline(2.0):
        own = {"X-Request-ID": "own", "X-Envoy-Expected-Rq-Timeout-Ms": "7"}
        assert context.outbound_headers(own) == {"baggage": "a=b"}


def test_an_expired_deadline_is_passed_on_as_one_millisecond():
    with meshclient.deadline(-1.0):
        assert context.outbound_headers() == {"x-envoy-expected-rq-timeout-ms": "1"}


def test_the_own_deadline_header_is_among_them():
    mesh = meshclient.Mesh.from_documents(
        [{"version": 1, "propagation": {"deadline": {"header": "X-Due", "format": "seconds"}}}]
    )
    with mesh, context.enter({"x-due": "3"}, mesh):
        assert 2.0 < float(context.outbound_headers()["x-due"]) <= 3.0
        assert 2.0 < context.remaining() <= 3.0
        assert "x-due" not in context.outbound_headers({"X-DUE": "1"})


def test_work_that_outlives_the_request_keeps_its_headers_and_not_its_deadline():
    with context.enter({"x-request-id": "1", "grpc-timeout": "1S"}) as inbound:
        inbound.marks.exhausted = "payments"
        with context.detached() as outliving:
            assert context.remaining() is None
            assert context.outbound_headers() == {"x-request-id": "1"}
            assert outliving.marks.exhausted == ""
            with meshclient.deadline(2.0):
                assert context.remaining() > 1.0
        assert context.remaining() <= 1.0
    with context.detached():
        assert context.outbound_headers() == {}


def test_values_are_for_hash_policies_and_not_sent():
    with context.enter({"x-request-id": "1"}), context.values({"tenant": "acme"}):
        assert context.current().values["tenant"] == "acme"
        assert context.current().values["x-request-id"] == "1"
        assert context.outbound_headers() == {"x-request-id": "1"}
    with context.values({"tenant": "acme"}) as inbound:
        assert dict(inbound.values) == {"tenant": "acme"}


def test_messages_have_headers_as_pairs_too():
    pairs = [("X-Request-Id", "1"), ("baggage", "a=1"), ("baggage", "b=2")]
    with context.enter(pairs):
        assert context.outbound_headers() == {"x-request-id": "1", "baggage": "a=1,b=2"}


def test_headers_that_no_header_may_have_are_left_out():
    with context.enter({"x-request-id": "ok", "baggage": "a=1\r\nx-evil: 1"}):
        assert context.outbound_headers() == {"x-request-id": "ok"}


def test_what_is_known_is_told_by_repr():
    with context.enter({"x-request-id": "1"}) as inbound:
        assert "x-request-id" in repr(inbound)
        assert "attempt=0" in repr(inbound.marks)
