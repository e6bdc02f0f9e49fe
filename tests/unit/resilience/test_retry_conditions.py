"""The table of retry_on tokens, and the one classification of outcomes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.model.headers import HeaderMap
from meshclient.model.matching import HeaderMatch, StringMatch
from meshclient.model.outcome import Outcome, OutcomeKind, ResetReason
from meshclient.model.retry import RETRY_ON_GRPC, RETRY_ON_HTTP, RetryPolicy
from meshclient.resilience import classify, may_retry
from meshclient.resilience.header_match import header_matches

R = ResetReason
STATUSES = (200, 204, 302, 400, 404, 409, 429, 499, 500, 501, 502, 503, 504, 505, 599)
CONNECT = {R.CONNECTION_FAILURE, R.LOCAL_CONNECTION_FAILURE, R.CONNECTION_TIMEOUT}
#: Every reset that a token can cover.
COVERABLE = set(R) - {R.OVERFLOW, R.ROUTE_TIMEOUT, R.CANCELLED}

#: token -> (statuses, resets of a sent request, resets of an unsent one)
HTTP_TABLE: dict[str, tuple[set[int], set[R], set[R]]] = {
    "5xx": ({500, 501, 502, 503, 504, 505, 599}, COVERABLE, COVERABLE),
    "gateway-error": ({502, 503, 504}, COVERABLE, COVERABLE),
    "reset": (set(), COVERABLE, COVERABLE),
    "reset-before-request": (set(), set(), COVERABLE),
    "connect-failure": (set(), CONNECT, CONNECT),
    "refused-stream": (set(), {R.REFUSED_STREAM}, {R.REFUSED_STREAM}),
    "retriable-4xx": ({409}, set(), set()),
    "retriable-status-codes": ({404, 429}, set(), set()),
    "retriable-headers": (set(), set(), set()),
    "envoy-ratelimited": (set(), set(), set()),
    "http3-post-connect-failure": (set(), set(), set()),
    "no-such-token": (set(), set(), set()),
}
GRPC_TABLE = {
    "cancelled": 1,
    "deadline-exceeded": 4,
    "resource-exhausted": 8,
    "internal": 13,
    "unavailable": 14,
}


def policy(*tokens: str, codes: tuple[int, ...] = (404, 429)) -> RetryPolicy:
    return RetryPolicy(frozenset(tokens), status_codes=frozenset(codes))


def test_the_tables_name_every_token() -> None:
    assert set(HTTP_TABLE) - {"no-such-token"} == RETRY_ON_HTTP
    assert set(GRPC_TABLE) == RETRY_ON_GRPC


@pytest.mark.parametrize("token", HTTP_TABLE)
def test_statuses(token: str) -> None:
    covered = {s for s in STATUSES if may_retry(policy(token), Outcome(s))}
    assert covered == HTTP_TABLE[token][0]


@pytest.mark.parametrize(("token", "sent"), list(itertools.product(HTTP_TABLE, (True, False))))
def test_resets(token: str, sent: bool) -> None:
    covered = {r for r in R if may_retry(policy(token), Outcome(reset=r, sent=sent))}
    assert covered == HTTP_TABLE[token][1 if sent else 2]


@pytest.mark.parametrize("token", GRPC_TABLE)
def test_grpc_status_in_response_headers(token: str) -> None:
    code = GRPC_TABLE[token]
    told = {c for c in range(17) if may_retry(policy(token), Outcome(200, grpc_status=c))}
    read = {
        c
        for c in range(17)
        if may_retry(policy(token), Outcome(200, HeaderMap.of([("Grpc-Status", str(c))])))
    }
    assert told == read == {code}


@pytest.mark.parametrize("text", ["", "x", "-1", "1e1", "9" * 5000])
def test_a_grpc_status_that_is_no_number_counts_as_none(text: str) -> None:
    outcome = Outcome(200, HeaderMap.of([("grpc-status", text)]))
    assert not may_retry(policy("cancelled"), outcome)


def test_status_codes_need_their_token() -> None:
    assert not may_retry(policy("reset", codes=(503,)), Outcome(503))


@pytest.mark.parametrize(
    ("tokens", "status", "limited", "wanted"),
    [
        (("5xx",), 503, False, True),
        (("5xx",), 503, True, False),
        (("5xx", "envoy-ratelimited"), 503, True, True),
        (("envoy-ratelimited",), 429, True, True),
        (("envoy-ratelimited",), 200, True, True),
        (("envoy-ratelimited",), 429, False, False),
        (("retriable-status-codes",), 429, True, False),
    ],
)
def test_rate_limited_responses_have_a_token_of_their_own(
    tokens: tuple[str, ...], status: int, limited: bool, wanted: bool
) -> None:
    headers = HeaderMap.of([("X-Envoy-RateLimited", "true")] if limited else [])
    assert may_retry(policy(*tokens), Outcome(status, headers)) is wanted


def test_retriable_headers() -> None:
    matches = (HeaderMatch("x-retry", StringMatch("exact", "yes")), HeaderMatch("x-other"))
    asked = RetryPolicy(frozenset({"retriable-headers"}), headers=matches)
    assert may_retry(asked, Outcome(200, HeaderMap.of([("X-Retry", "yes")])))
    assert may_retry(asked, Outcome(404, HeaderMap.of([("x-other", "")])))
    assert not may_retry(asked, Outcome(500, HeaderMap.of([("x-retry", "no")])))
    assert not may_retry(asked, Outcome(500))
    assert not may_retry(
        RetryPolicy(frozenset({"reset"}), headers=matches),
        Outcome(200, HeaderMap.of([("x-other", "1")])),
    )


def test_status_is_a_header_too() -> None:
    match = HeaderMatch(":status", range=(400, 500))
    asked = RetryPolicy(frozenset({"retriable-headers"}), headers=(match,))
    assert may_retry(asked, Outcome(404))
    assert not may_retry(asked, Outcome(500))


@given(
    tokens=st.frozensets(st.sampled_from(sorted(HTTP_TABLE) + sorted(GRPC_TABLE))),
    outcome=st.one_of(
        st.builds(Outcome, st.sampled_from(STATUSES), grpc_status=st.integers(-1, 16)),
        st.builds(Outcome, reset=st.sampled_from(list(R)), sent=st.booleans()),
    ),
)
def test_tokens_add_up(tokens: frozenset[str], outcome: Outcome) -> None:
    """A set of tokens covers what its members cover; no outcome depends on two."""
    single = any(may_retry(policy(token), outcome) for token in tokens)
    assert may_retry(policy(*tokens), outcome) == single


@pytest.mark.parametrize(
    ("match", "lines", "wanted"),
    [
        (HeaderMatch("a"), ["1"], True),
        (HeaderMatch("a"), [], False),
        (HeaderMatch("a", present=False), [], True),
        (HeaderMatch("a", invert=True), [], True),
        (HeaderMatch("a", treat_missing_as_empty=True), [], True),
        (HeaderMatch("a", StringMatch("exact", "x")), ["y", "x"], True),
        (HeaderMatch("a", StringMatch("exact", "x")), ["y,x"], False),
        (HeaderMatch("a", StringMatch("exact", "x"), invert=True), ["y", "x"], False),
        (HeaderMatch("a", StringMatch("exact", "x"), invert=True), ["y"], True),
        (HeaderMatch("a", StringMatch("exact", "x"), invert=True), [], False),
        (
            HeaderMatch("a", StringMatch("exact", "x"), invert=True, treat_missing_as_empty=True),
            [],
            True,
        ),
        (HeaderMatch("a", StringMatch("prefix", "X", ignore_case=True)), ["xyz"], True),
        (HeaderMatch("a", StringMatch("prefix", "X")), ["xyz"], False),
        (HeaderMatch("a", StringMatch("suffix", "yz")), ["xyz"], True),
        (HeaderMatch("a", StringMatch("contains", "y")), ["xyz"], True),
        (HeaderMatch("a", StringMatch("regex", "x.z")), ["xyz"], True),
        (HeaderMatch("a", StringMatch("regex", "x")), ["xyz"], False),
        (HeaderMatch("a", range=(-5, 5)), ["-5"], True),
        (HeaderMatch("a", range=(-5, 5)), ["5"], False),
        (HeaderMatch("a", range=(-5, 5)), ["1.0"], False),
        (HeaderMatch("a", range=(-5, 5)), ["1" * 5000], False),
    ],
)
def test_header_conditions(match: HeaderMatch, lines: list[str], wanted: bool) -> None:
    headers = HeaderMap.of([("A", line) for line in lines])
    assert header_matches(match, headers, {}) is wanted


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (Outcome(200), OutcomeKind.SUCCESS),
        (Outcome(302), OutcomeKind.SUCCESS),
        (Outcome(404), OutcomeKind.SUCCESS),
        (Outcome(499), OutcomeKind.SUCCESS),
        (Outcome(500), OutcomeKind.FAILED),
        (Outcome(503), OutcomeKind.FAILED),
        (Outcome(200, grpc_status=0), OutcomeKind.SUCCESS),
        (Outcome(200, grpc_status=5), OutcomeKind.SUCCESS),
        (Outcome(200, grpc_status=14), OutcomeKind.FAILED),
        (Outcome(reset=R.CONNECTION_FAILURE), OutcomeKind.FAILED),
        (Outcome(reset=R.PER_TRY_TIMEOUT), OutcomeKind.FAILED),
        (Outcome(reset=R.ROUTE_TIMEOUT), OutcomeKind.FAILED),
        (Outcome(reset=R.CANCELLED), OutcomeKind.IGNORED),
        (Outcome(reset=R.OVERFLOW), OutcomeKind.IGNORED),
    ],
)
def test_classification(outcome: Outcome, kind: OutcomeKind) -> None:
    retryable = OutcomeKind.FAILED_RETRYABLE if kind is OutcomeKind.FAILED else kind
    assert classify(outcome, False) is kind
    assert classify(outcome, True) is retryable
