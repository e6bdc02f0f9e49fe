"""What people and programs are told: reports, flags, error classes, Envoy's local replies."""

from __future__ import annotations

import inspect
import json
import pickle
from dataclasses import replace

import pytest
from core_support import (
    BROKEN,
    REFUSED,
    RETRY,
    SLOW,
    call_of,
    cluster,
    head,
    host_of,
    plane_of,
    reset,
    status,
    to,
)

from meshclient import errors
from meshclient.model.breaker import CircuitBreaker
from meshclient.model.cluster import ClusterPolicy, TlsSettings
from meshclient.model.matching import PathMatch, RouteMatch
from meshclient.model.outcome import OutcomeKind
from meshclient.model.outcome import ResetReason as R
from meshclient.model.report import CallReport
from meshclient.model.routes import Route
from meshclient.testing import FakeClock, ScriptedRandom, run_call

PREFIX = "upstream connect error or disconnect/reset before headers. "

# Envoy's local replies: outcome, class, status, body, flag.
LOCAL_REPLIES = [
    (R.CONNECTION_FAILURE, errors.ConnectFailed, 503, "remote connection failure", "UF"),
    (R.LOCAL_CONNECTION_FAILURE, errors.ConnectFailed, 503, "local connection failure", "UF"),
    (R.CONNECTION_TIMEOUT, errors.ConnectTimeout, 503, "connection timeout", "UF"),
    (R.CONNECTION_TERMINATION, errors.UpstreamReset, 503, "connection termination", "UC"),
    (R.REMOTE_RESET, errors.UpstreamReset, 503, "remote reset", "UR"),
    (R.REFUSED_STREAM, errors.UpstreamReset, 503, "remote refused stream reset", "UR"),
    (R.PROTOCOL_ERROR, errors.UpstreamProtocolError, 502, "protocol error", "UPE"),
    (R.OVERFLOW, errors.Overflow, 503, "overflow", "UO"),
    (R.CANCELLED, errors.UpstreamReset, 503, "cancelled", "LR"),
]


@pytest.mark.parametrize(("reason", "kind", "code", "words", "flag"), LOCAL_REPLIES)
def test_a_reset_ends_as_envoys_local_reply(reason, kind, code, words, flag):
    error = run_call(plane_of(to()), head(), [reason]).error
    assert type(error) is kind
    assert (error.status, error.flag) == (code, flag)
    assert error.body == f"{PREFIX}reset reason: {words}"
    assert error.report.flags == (flag,)


@pytest.mark.parametrize(("reason", "kind", "code", "words", "flag"), LOCAL_REPLIES)
def test_a_reset_after_a_retry_says_so(reason, kind, code, words, flag):
    error = run_call(plane_of(to(retry=RETRY)), head(), [503, *[reason] * 2]).error
    assert type(error) is kind
    assert error.body == f"{PREFIX}retried and the latest reset reason: {words}"


def rejected():
    """A call whose request the wire refuses, although every failure is to be retried."""
    call = call_of(plane_of(to(retry=RETRY)))
    attempt = call.next_attempt(0.0)
    call.reject(attempt, ValueError("a header value contains CR"), 0.5)
    return call


def test_a_request_that_cannot_be_sent_is_nobodys_failure():
    call = rejected()
    assert type(call.error) is errors.InvalidRequest
    assert (call.error.status, call.flags, call.notes) == (400, ("DPE",), ())
    assert str(call.error).endswith("the request cannot be sent: a header value contains CR")
    assert type(call.error.__cause__) is ValueError
    (attempt,) = call.attempts
    assert (attempt.outcome, attempt.kind, attempt.duration_s) == (
        "invalid request",
        OutcomeKind.IGNORED,
        0.5,
    )
    assert attempt.state.active == 0


def refused_by_a_breaker():
    """What a call ends with while the breaker of its service is open."""
    plane = plane_of(to(), cluster(policy=ClusterPolicy(circuit_breaker=CircuitBreaker())))
    plane.clusters["a"].breaker.open(0.0)
    with pytest.raises(errors.CircuitOpen) as refused:
        call_of(plane).next_attempt(1.0)
    return type(refused.value)


def test_every_call_error_is_reachable():
    """A class that no call can end with would be a promise nobody keeps."""
    tls = ClusterPolicy(tls=TlsSettings("mutual"))
    no_match = host_of(Route(to(), RouteMatch(path=PathMatch("exact", "/x"))))
    slow = to(timeout_s=1.0, retry=replace(RETRY, per_try_timeout_s=0.5, num_retries=0))
    played = [
        run_call(plane_of(to(), outbound="registry_only"), head(host="b.test"), []),
        run_call(plane_of(no_match), head(), []),
        run_call(plane_of(to("gone")), head(), []),
        run_call(plane_of(to(), cluster(policy=tls)), head(), []),
        run_call(plane_of(to(), cluster(count=0)), head(), []),
        run_call(plane_of(slow), head(), [(200, 9.0)]),
        run_call(plane_of(to(timeout_s=1.0)), head(), [(200, 9.0)]),
        run_call(plane_of(to()), head(), [(200, 9.0)], patience_s=1.0),
        *(run_call(plane_of(to()), head(), [row[0]]) for row in LOCAL_REPLIES),
    ]
    reached = {type(p.error) for p in played} | {type(rejected().error), refused_by_a_breaker()}
    named = {
        cls
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, errors.CallError)
    }
    # Two bases, and what only a driver without responses raises.
    assert named - reached == {errors.CallError, errors.CallTimeout, errors.AnsweredLocally}


@pytest.mark.parametrize("reason", list(R))
def test_errors_name_host_endpoint_and_tries_in_one_line(reason):
    broken = reset(reason, error=OSError("first\nsecond\r\nthird"))
    policy = replace(RETRY, num_retries=1)
    played = run_call(plane_of(to(retry=policy)), head("/x?token=secret"), [REFUSED, broken])
    text = str(played.error)
    assert text.startswith(f"GET http://a.test/x at {played.endpoints[-1]} after 2 tries: ")
    assert len(text.splitlines()) == 1
    assert "secret" not in text, "queries carry credentials"
    assert text.endswith("first second third")


def test_the_cause_is_the_wires_own_error():
    cause = ConnectionRefusedError("refused")
    played = run_call(plane_of(to()), head(), [reset(REFUSED, False, cause)])
    assert played.error is not None
    assert played.error.__cause__ is cause
    assert str(played.error) == "GET http://a.test/ at 10.0.0.2:80: no connection: refused"


def test_a_report_tells_the_whole_story():
    clock = FakeClock(0.0)
    played = run_call(
        plane_of(to(retry=RETRY), version=7),
        head(),
        [(REFUSED, 0.25), (503, 0.5), (200, 1.0)],
        clock,
        ScriptedRandom(0, 0, 0),
    )
    report = played.report
    assert report.to_dict() == {
        "host": "a.test",
        "snapshot_version": 7,
        "virtual_host": "v",
        "route": "r",
        "cluster": "a",
        "endpoint": played.endpoints[-1],
        "attempts": [
            {
                "cluster": "a",
                "duration_s": seconds,
                "endpoint": endpoint,
                "outcome": outcome,
                "status": code,
            }
            for endpoint, outcome, code, seconds in zip(
                played.endpoints,
                ("remote connection failure", "failed_retryable", "success"),
                (0, 503, 200),
                (0.25, 0.5, 1.0),
                strict=True,
            )
        ],
        "flags": [],
        "notes": [
            "retry 1 of 2 after 0 ms: remote connection failure, "
            "covered by 5xx, connect-failure, reset",
            "retry 2 of 2 after 0 ms: status 503, covered by 5xx",
        ],
        "fallback": "",
    }
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()
    assert repr(report) == (
        f"<CallReport a.test route=r cluster=a endpoint={played.endpoints[-1]} attempts=3 flags=->"
    )
    assert repr(report.attempts[0]) == (
        f"<AttemptReport {played.endpoints[0]} remote connection failure 250.0 ms>"
    )


def test_a_report_of_a_call_that_was_never_tried_is_whole_too():
    report = call_of(plane_of(to("gone"))).report
    assert (report.endpoint, report.attempts, report.flags) == ("", [], ("NC",))
    assert repr(report) == "<CallReport a.test route=r cluster=gone endpoint=- attempts=0 flags=NC>"


def test_reports_survive_pickling_without_the_plane():
    played = run_call(plane_of(to(retry=RETRY)), head(), [503, BROKEN, BROKEN])
    report: CallReport = pickle.loads(pickle.dumps(played.report))
    assert report.to_dict() == played.report.to_dict()
    assert repr(report) == repr(played.report)
    again = pickle.loads(pickle.dumps(report))
    assert again.to_dict() == report.to_dict()


def test_reprs_of_call_and_attempt():
    call = call_of(plane_of(to()))
    assert repr(call) == "<Call GET http://a.test/ cluster=a tries=0>"
    attempt = call.next_attempt(0.0)
    assert repr(attempt) == f"<Attempt 1 {attempt.endpoint} open>"
    call.settle(attempt, status(500), 0.0)
    assert repr(attempt) == f"<Attempt 1 {attempt.endpoint} failed>"
    assert repr(call) == "<Call GET http://a.test/ cluster=a tries=1>"


@pytest.mark.parametrize(
    ("reason", "kind", "flag"),
    [
        (R.CONNECTION_TERMINATION, errors.UpstreamReset, "UC"),
        (R.PROTOCOL_ERROR, errors.UpstreamProtocolError, "UPE"),
        (R.ROUTE_TIMEOUT, errors.RouteTimeout, "UT"),
        (SLOW, errors.DeadlineExceeded, "UT"),
        (R.CANCELLED, errors.UpstreamReset, "LR"),
    ],
)
def test_a_body_that_breaks_off_is_reported(reason, kind, flag):
    call = call_of(plane_of(to(retry=RETRY, timeout_s=5.0)))
    attempt = call.next_attempt(0.0)
    call.settle(attempt, status(200), 0.1)
    cause = OSError("gone")
    error = call.break_off(reset(reason, error=cause))
    assert type(error) is kind
    assert error.__cause__ is cause
    assert str(error) == (
        f"GET http://a.test/ at {attempt.endpoint}: the response body broke off: gone"
    )
    assert error.report.flags == (flag,)
    assert error.report.attempts[0].outcome == reason.value
    assert error.report.attempts[0].status == 200
