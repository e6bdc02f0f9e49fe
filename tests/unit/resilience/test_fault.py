"""Injected faults: draws, headers, the limit of active ones, and the shape of the answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshclient.model.headers import HeaderMap
from meshclient.model.matching import Fraction
from meshclient.model.request import RequestHead
from meshclient.model.routes import Fault
from meshclient.resilience.fault import MAX_HEADER_DELAY_S, FaultFilter
from meshclient.testing import ScriptedRandom

ALWAYS = Fraction(100)
DELAY = Fault(delay_s=2.0, delay_fraction=ALWAYS)
ABORT = Fault(abort_status=503, abort_fraction=ALWAYS)
BY_HEADER = Fault(by_header=True, delay_fraction=ALWAYS, abort_fraction=ALWAYS)


def head(**headers):
    pairs = [("Host", "a"), *((name.replace("_", "-"), value) for name, value in headers.items())]
    return RequestHead("GET", "http", "a", 80, "/", HeaderMap.of(pairs), "a")


def zero():
    return 0


def reply_of(verdict):
    return (verdict.reply.status, verdict.reply.body, verdict.flag)


def test_an_abort_answers_as_envoy_does():
    faults = FaultFilter(ABORT)
    verdict = faults.enter(head(), 0.0, zero)
    assert reply_of(verdict) == (503, b"fault filter abort", "FI")
    assert verdict.reply.headers.get("content-type") == "text/plain"
    assert faults.describe()["aborts_injected"] == 1


def test_a_delay_holds_the_call_and_counts_it_until_it_leaves():
    faults = FaultFilter(DELAY)
    verdict = faults.enter(head(), 0.0, zero)
    assert (verdict.wait_s, verdict.flag, faults.active_faults) == (2.0, "DI", 1)
    assert faults.after(verdict, None, head(), 2.0, zero) is None
    faults.leave(200, -1, 0.0, 2.5)
    assert faults.active_faults == 0


def test_the_abort_is_drawn_on_its_own_after_the_delay():
    both = replace(DELAY, abort_status=400, abort_fraction=Fraction(50))
    faults = FaultFilter(both)
    held = faults.enter(head(), 0.0, ScriptedRandom(0))
    assert faults.after(held, None, head(), 2.0, ScriptedRandom(50)) is None
    assert reply_of(faults.after(held, None, head(), 2.0, ScriptedRandom(49)))[0] == 400


@pytest.mark.parametrize(
    ("share", "drawn", "fires"),
    [
        (Fraction(10), 9, True),
        (Fraction(10), 10, False),
        (Fraction(10), 110, False),
        (Fraction(1, 1_000_000), 0, True),
        (Fraction(1, 1_000_000), 1, False),
        (Fraction(1, 1_000_000), 1_000_000, True),
        (Fraction(0), 0, False),
    ],
)
def test_the_share_is_of_its_own_denominator(share, drawn, fires):
    verdict = FaultFilter(replace(ABORT, abort_fraction=share)).enter(head(), 0.0, lambda: drawn)
    assert (verdict is not None) == fires


def test_more_calls_than_may_suffer_pass_unharmed():
    faults = FaultFilter(replace(DELAY, max_active=1, abort_status=500, abort_fraction=ALWAYS))
    assert faults.enter(head(), 0.0, zero) is not None
    assert faults.enter(head(), 0.0, zero) is None
    assert faults.faults_overflow == 1
    faults.leave(500, -1, 0.0, 1.0)
    assert faults.enter(head(), 0.0, zero) is not None


def test_headers_choose_the_fault_where_they_may():
    faults = FaultFilter(BY_HEADER)
    assert faults.enter(head(), 0.0, zero) is None
    slow = faults.enter(head(x_envoy_fault_delay_request="1500"), 0.0, zero)
    assert slow.wait_s == 1.5
    assert reply_of(faults.enter(head(x_envoy_fault_abort_request="418"), 0.0, zero))[0] == 418


@pytest.mark.parametrize("value", ["99", "600", "x", "", "-1", "5e2", "٥٠٠"])
def test_a_header_that_names_no_status_injects_nothing(value):
    request = RequestHead(
        "GET",
        "http",
        "a",
        80,
        "/",
        HeaderMap([(b"x-envoy-fault-abort-request", value.encode("utf-8"))]),
    )
    assert FaultFilter(BY_HEADER).enter(request, 0.0, zero) is None


def test_headers_do_nothing_where_the_policy_does_not_let_them():
    assert FaultFilter(Fault()).enter(head(x_envoy_fault_abort_request="500"), 0.0, zero) is None


def test_a_header_may_lower_the_share_and_never_raise_it():
    half = replace(BY_HEADER, abort_fraction=Fraction(50))
    faults = FaultFilter(half)
    names = {"x_envoy_fault_abort_request": "500"}
    lowered = head(**names, x_envoy_fault_abort_request_percentage="10")
    raised = head(**names, x_envoy_fault_abort_request_percentage="90")
    assert faults.enter(lowered, 0.0, lambda: 10) is None
    assert faults.enter(lowered, 0.0, lambda: 9) is not None
    assert faults.enter(raised, 0.0, lambda: 50) is None


def test_a_mistyped_header_does_not_hold_a_call_for_days():
    held = FaultFilter(BY_HEADER).enter(head(x_envoy_fault_delay_request="9" * 12), 0.0, zero)
    assert held.wait_s == MAX_HEADER_DELAY_S


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(abort_grpc_status=7, abort_fraction=ALWAYS), b"7"),
        (replace(ABORT, abort_status=503), b"14"),
        (replace(ABORT, abort_status=404), b"12"),
        (replace(ABORT, abort_status=418), b"2"),
    ],
)
def test_grpc_callers_get_a_grpc_status(fault, code):
    verdict = FaultFilter(fault).enter(head(content_type="application/grpc+proto"), 0.0, zero)
    assert verdict.reply.status == 200
    assert verdict.reply.headers.get("grpc-status").encode() == code
    assert verdict.reply.headers.get("grpc-message") == "fault filter abort"
    assert verdict.reply.body == b""


def test_a_grpc_abort_of_a_plain_call_is_a_200():
    fault = Fault(abort_grpc_status=7, abort_fraction=ALWAYS)
    assert reply_of(FaultFilter(fault).enter(head(), 0.0, zero))[0] == 200
