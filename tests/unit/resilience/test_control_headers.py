"""x-envoy-* request headers: read, merged, taken off; and the timeout arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.model.headers import HeaderMap
from meshclient.model.matching import HeaderMatch
from meshclient.model.retry import RetryPolicy
from meshclient.resilience import (
    Overrides,
    ends_in_time,
    expected_timeout_ms,
    merge_policy,
    merge_timeouts,
    per_try_timeout_s,
    read_overrides,
)
from meshclient.resilience.control_headers import CONTROL_HEADERS


def read(**headers: str) -> Overrides:
    pairs = [("x-envoy-" + name.replace("_", "-"), value) for name, value in headers.items()]
    overrides = read_overrides(HeaderMap.of(pairs))
    assert overrides is not None
    return overrides


BASE = RetryPolicy(
    frozenset({"reset", "unavailable"}),
    num_retries=2,
    status_codes=frozenset({503}),
    headers=(HeaderMatch("x-a"),),
    per_try_timeout_s=1.0,
    previous_hosts=True,
)


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [("host", "a"), ("user-agent", "python-httpx/0.28"), ("accept-encoding", "gzip")],
        [("x-envoy-original-path", "/x"), ("x-envoy-attempt-count", "1")],
        [("x-request-id-and-more", "1")],
    ],
)
def test_none_without_control_headers(pairs: list[tuple[str, str]]) -> None:
    assert read_overrides(HeaderMap.of(pairs)) is None


@pytest.mark.parametrize("name", sorted(CONTROL_HEADERS))
def test_every_control_header_is_found_and_taken_off(name: str) -> None:
    headers = HeaderMap.of([("Host", "a"), (name.title(), "1"), (name, "2"), ("x-b", "3")])
    overrides = read_overrides(headers)
    assert overrides is not None
    overrides.strip_timeouts(headers)
    overrides.strip(headers)
    assert list(headers) == [("Host", "a"), ("x-b", "3")]


def test_tokens_are_split_trimmed_and_unknown_ones_ignored() -> None:
    overrides = read(retry_on=" 5xx , nonsense,,reset,unavailable", retry_grpc_on="internal,5xx")
    assert overrides.retry_on == {"5xx", "reset", "internal"}


def test_repeated_lines_are_one_list() -> None:
    headers = HeaderMap.of([("x-envoy-retry-on", "5xx"), ("X-Envoy-Retry-On", "reset")])
    overrides = read_overrides(headers)
    assert overrides is not None
    assert overrides.retry_on == {"5xx", "reset"}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("3", 3),
        (" 7 ", 7),
        ("+4", 4),
        ("4294967295", 2**32 - 1),
        ("4294967296", None),
        ("-1", None),
        ("1.5", None),
        ("1_0", None),
        ("\u00b2", None),
        ("", None),
        ("9" * 5000, None),
    ],
)
def test_max_retries_text(text: str, number: int | None) -> None:
    assert read(max_retries=text).max_retries == number
    merged = merge_policy(BASE, read(max_retries=text))
    assert merged is not None
    assert merged.num_retries == (2 if number is None else number)


def test_merge_adds_tokens_codes_and_headers_and_keeps_the_rest() -> None:
    overrides = read(
        retry_on="retriable-status-codes,retriable-headers",
        retriable_status_codes="404, x, 410",
        retriable_header_names="X-Again, x-more",
    )
    merged = merge_policy(BASE, overrides)
    assert merged is not None
    assert merged.retry_on == {
        "reset",
        "unavailable",
        "retriable-status-codes",
        "retriable-headers",
    }
    assert merged.status_codes == {503, 404, 410}
    assert merged.headers == (HeaderMatch("x-a"), HeaderMatch("x-again"), HeaderMatch("x-more"))
    assert merged.num_retries == 2
    assert merged.previous_hosts


def test_headers_alone_make_a_policy_with_envoys_defaults() -> None:
    merged = merge_policy(None, read(retry_on="5xx"))
    assert merged == RetryPolicy(frozenset({"5xx"}), num_retries=1)


def test_without_any_token_nothing_changes() -> None:
    assert merge_policy(None, read(max_retries="5")) is None
    empty = RetryPolicy(frozenset())
    assert merge_policy(empty, read(max_retries="5", retry_on="nonsense")) is empty


def test_equal_wishes_give_the_same_object() -> None:
    first = merge_policy(BASE, read(retry_on="5xx", max_retries="9"))
    assert merge_policy(BASE, read(max_retries="9", retry_on="5xx")) is first


@pytest.mark.parametrize(
    ("headers", "timeout_s", "per_try_s", "wanted"),
    [
        ({}, 15.0, None, (15.0, None)),
        ({}, 15.0, 1.0, (15.0, 1.0)),
        ({}, 1.0, 1.0, (1.0, None)),  # not below the route's: dropped
        ({}, None, 1.0, (None, 1.0)),
        ({"upstream_rq_timeout_ms": "500"}, 15.0, None, (0.5, None)),
        ({"upstream_rq_timeout_ms": "500"}, 15.0, 1.0, (0.5, None)),
        ({"upstream_rq_timeout_ms": "0"}, 15.0, 60.0, (None, 60.0)),
        ({"upstream_rq_timeout_ms": "1s"}, 15.0, None, (15.0, None)),
        ({"upstream_rq_timeout_ms": "-5"}, 15.0, None, (15.0, None)),
        ({"upstream_rq_per_try_timeout_ms": "250"}, 15.0, 1.0, (15.0, 0.25)),
        ({"upstream_rq_per_try_timeout_ms": "0"}, 15.0, 1.0, (15.0, None)),
        ({"upstream_rq_per_try_timeout_ms": "15000"}, 15.0, 1.0, (15.0, None)),
    ],
)
def test_timeouts(
    headers: dict[str, str],
    timeout_s: float | None,
    per_try_s: float | None,
    wanted: tuple[float | None, float | None],
) -> None:
    overrides = read(**headers) if headers else None
    assert merge_timeouts(timeout_s, per_try_s, overrides) == wanted
    if not headers:
        assert per_try_timeout_s(timeout_s, per_try_s) == wanted[1]


@pytest.mark.parametrize(
    ("timeout_s", "per_try_s", "elapsed_s", "hedging", "wanted"),
    [
        (15.0, None, 0.0, False, 15_000),
        (5.0, None, 0.080, False, 4920),  # as a real Envoy showed: 5000, 4920, 4874
        (5.0, None, 0.126, False, 4874),
        (5.0, 1.0, 0.0, False, 1000),
        (5.0, 1.0, 4.5, False, 500),
        (5.0, 1.0, 5.0, False, 1),
        (5.0, 1.0, 9.0, False, 1),
        (5.0, 1.0, 0.0, True, 5000),
        (None, 1.0, 9.0, False, 1000),
        (None, None, 0.0, False, None),
        (None, 1.0, 0.0, True, None),
        (0.0004, None, 0.0, False, 1),
    ],
)
def test_expected_timeout_header(
    timeout_s: float | None,
    per_try_s: float | None,
    elapsed_s: float,
    hedging: bool,
    wanted: int | None,
) -> None:
    assert expected_timeout_ms(timeout_s, per_try_s, elapsed_s, hedging) == wanted


@given(
    timeout_s=st.none() | st.floats(0.001, 100),
    per_try_s=st.none() | st.floats(0.001, 100),
    elapsed_s=st.floats(0, 200),
)
def test_expected_timeout_is_at_least_one_and_within_what_is_left(
    timeout_s: float | None, per_try_s: float | None, elapsed_s: float
) -> None:
    value = expected_timeout_ms(timeout_s, per_try_s, elapsed_s)
    if timeout_s is None and per_try_s is None:
        assert value is None
        return
    assert value is not None
    assert value >= 1
    if timeout_s is not None:
        # Half a millisecond of rounding and one of truncation.
        assert value <= max(1.0, (timeout_s - elapsed_s) * 1000 + 1.5)


@pytest.mark.parametrize(
    ("now", "delay_s", "deadline", "wanted"),
    [
        (10.0, 1.0, None, True),
        (10.0, 1.0, 12.0, True),
        (10.0, 1.0, 11.0, False),
        (10.0, 1.0, 10.5, False),
        (10.0, 0.0, 10.0, False),
    ],
)
def test_a_wait_has_to_end_before_the_deadline(
    now: float, delay_s: float, deadline: float | None, wanted: bool
) -> None:
    assert ends_in_time(now, delay_s, deadline) is wanted


def test_repr_shows_what_was_asked() -> None:
    text = repr(read(retry_on="5xx", upstream_rq_timeout_ms="0"))
    assert text == "<Overrides retry_on=frozenset({'5xx'}) timeout_s=0.0>"
