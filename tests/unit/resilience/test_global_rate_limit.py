"""The question to a rate limit service, its answer, and what follows from it."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.model.headers import HeaderMap
from meshclient.model.protobuf import bytes_field, fields, varint
from meshclient.model.rate_limit import DescriptorAction, GlobalRateLimit
from meshclient.model.request import RequestHead
from meshclient.resilience.global_rate_limit import GlobalRateLimitFilter
from meshclient.resilience.question import GrpcAnswer
from meshclient.resilience.rate_limit_messages import (
    MAX_HEADERS,
    PATH,
    read_response,
    request_message,
)

ACTIONS = ((DescriptorAction("request_header", "user", "x-user"),),)
OK, OVER = b"\x08\x01", b"\x08\x02"


def head(**headers):
    pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return RequestHead("GET", "http", "shop", 80, "/", HeaderMap.of(pairs))


def filter_of(**options):
    return GlobalRateLimitFilter(GlobalRateLimit("service shop", "limits", "d", ACTIONS, **options))


def answered(filter_, answer, request=None):
    request = request or head(x_user="ann")
    held = filter_.enter(request, 0.0, int)
    return filter_.after(held, answer, request, 0.0, int)


def header(name, value):
    return bytes_field(1, name) + bytes_field(2, value)


def test_the_question_is_the_domain_and_the_descriptors():
    question = filter_of(timeout_s=0.5).enter(head(x_user="ann"), 0.0, int).ask
    assert (question.cluster, question.path, question.timeout_s) == ("limits", PATH, 0.5)
    # By hand: field 1 "d"; field 2 { field 1 { 1: "user" 2: "ann" } }.
    assert question.message == b"\x0a\x01d\x12\x0d\x0a\x0b\x0a\x04user\x12\x03ann"


def test_nobody_is_asked_about_a_request_without_descriptors():
    assert filter_of().enter(head(), 0.0, int) is None


def test_a_call_within_its_limits_goes_on_with_the_headers_of_both_ways():
    request = head(x_user="ann")
    message = OK + bytes_field(3, header(b"X-Seen", b"1")) + bytes_field(4, header(b"tier", b"g"))
    filter_ = filter_of()
    verdict = answered(filter_, GrpcAnswer(message), request)
    assert verdict.reply is None
    assert verdict.headers == [("x-seen", "1")]
    assert request.headers.get("tier") == "g"
    assert filter_.ok == 1


def test_a_call_over_its_limit_is_refused_in_the_words_of_the_service():
    status = bytes_field(2, b"\x08\x02")
    message = OVER + status + bytes_field(3, header(b"retry-after", b"7")) + bytes_field(5, b"slow")
    filter_ = filter_of()
    verdict = answered(filter_, GrpcAnswer(message))
    assert (verdict.reply.status, verdict.reply.body, verdict.flag) == (429, b"slow", "RL")
    assert verdict.reply.headers.get("retry-after") == "7"
    assert verdict.reply.headers.get("x-envoy-ratelimited") == "true"
    assert verdict.why == (
        "rate limit of service shop (asked of limits): over the limit for user=ann"
    )
    assert filter_.over_limit == 1


@pytest.mark.parametrize(
    "answer",
    [GrpcAnswer(None, "gRPC status 14"), GrpcAnswer(b"\xff\xff"), GrpcAnswer(b"\x0a\x01x"), None],
)
def test_without_an_answer_calls_pass_or_not_as_configured(answer):
    open_, closed = filter_of(), filter_of(failure_mode_deny=True)
    allowed = answered(open_, answer)
    assert allowed.reply is None
    assert "allowed" in allowed.why
    assert (open_.error, open_.failure_mode_allowed) == (1, 1)
    refused = answered(closed, answer)
    assert (refused.reply.status, refused.reply.body, refused.flag) == (500, b"", "RLSE")
    assert (closed.error, closed.failure_mode_allowed) == (1, 0)


@pytest.mark.parametrize(
    "pair",
    [(b"bad name", b"1"), (b"", b"1"), (b":status", b"1"), (b"a", b"1\r\nset-cookie: x"),
     (b"a", b"\0")],
)  # fmt: skip
def test_headers_that_would_break_the_wire_are_no_answer(pair):
    for number in (3, 4):
        with pytest.raises(ValueError, match="cannot be a header"):
            read_response(OK + bytes_field(number, header(*pair)))


def test_headers_to_add_are_bounded():
    line = bytes_field(3, header(b"a", b"1"))
    assert len(read_response(line * MAX_HEADERS).response_headers) == MAX_HEADERS
    with pytest.raises(ValueError, match="more than"):
        read_response(line * (MAX_HEADERS + 1))


def test_unknown_fields_are_skipped_and_the_last_code_counts():
    later = b"\x08\x01" + bytes_field(99, b"later") + b"\x3d\x00\x00\x00\x00" + b"\x08\x02"
    assert read_response(later).code == 2


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(message):
    with contextlib.suppress(ValueError):
        read_response(message)


@given(st.integers(0, 2**64 - 1))
def test_numbers_survive(value):
    assert list(fields(b"\x08" + varint(value))) == [(1, value)]


_TEXT = st.text(st.characters(max_codepoint=255), max_size=300)


@given(_TEXT, st.lists(st.lists(st.tuples(_TEXT, _TEXT), min_size=1, max_size=3), max_size=3))
def test_every_byte_of_a_descriptor_reaches_the_service(domain, descriptors):
    found = []
    for number, value in fields(request_message(domain, [tuple(d) for d in descriptors])):
        if number == 1:
            assert value.decode("latin-1") == domain
        else:
            entries = [dict(fields(entry)) for _, entry in fields(value)]
            found.append(
                [(e[1].decode("latin-1"), e.get(2, b"").decode("latin-1")) for e in entries]
            )
    assert found == descriptors
