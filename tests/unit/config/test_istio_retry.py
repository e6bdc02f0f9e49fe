"""Retries: the cases of Istio's own retry tests."""

from __future__ import annotations

import pytest
from istio_yaml import destination_rule, service, translate, virtual_service

from meshclient.config.istio_retry import DEFAULT_RETRY_ON, parse_retry_on
from meshclient.model.retry import BackOff, RetryPolicy


@pytest.mark.parametrize(
    ("text", "words", "codes"),
    [
        ("a,b,,,", ["a", "b"], []),
        (" some,\t,fake ,\tconditions, ,", ["some", "fake", "conditions"], []),
        (
            "gateway-error,retriable-status-codes,503",
            ["gateway-error", "retriable-status-codes"],
            [503],
        ),
        (
            "some,fake,5xx,404,conditions,503",
            ["some", "fake", "5xx", "conditions", "retriable-status-codes"],
            [404, 503],
        ),
        ("5xx,1000", ["5xx", "1000"], []),
        ("", [], []),
    ],
)
def test_the_list_is_split_as_istio_splits_it(
    text: str, words: list[str], codes: list[int]
) -> None:
    assert parse_retry_on(text) == (words, codes)


def retry_of(block: str, *more: str) -> RetryPolicy | None:
    entry = f"[{{route: [{{destination: {{host: a}}}}]{block}}}]"
    made = translate(service("a"), virtual_service("vs", "[a]", entry), *more)
    assert made.errors == []
    retry = made.route("a").action.retry
    assert retry is None or isinstance(retry, RetryPolicy)
    return retry


def test_without_a_block_the_default_holds() -> None:
    assert retry_of("") == RetryPolicy(
        DEFAULT_RETRY_ON, num_retries=2, previous_hosts=True, host_attempts=5
    )


@pytest.mark.parametrize("block", ["{}", "{attempts: 0}"])
def test_no_attempts_means_no_retries(block: str) -> None:
    assert retry_of(f", retries: {block}") is None


def test_all_fields() -> None:
    block = (
        ', retries: {attempts: 4, perTryTimeout: 2s, retryOn: "5xx,503", '
        "retryIgnorePreviousHosts: false, backoff: 10ms}"
    )
    assert retry_of(block) == RetryPolicy(
        frozenset({"5xx", "retriable-status-codes"}),
        num_retries=4,
        per_try_timeout_s=2.0,
        status_codes=frozenset({503}),
        back_off=BackOff(0.01, 0.1),
        previous_hosts=False,
        host_attempts=1,
    )


_HASH = destination_rule(
    "dr", "a", "trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: X-User}}}"
)


def test_a_hashed_single_destination_does_not_avoid_previous_hosts() -> None:
    hashed = retry_of("", _HASH)
    assert hashed is not None
    assert not hashed.previous_hosts
    explicit = retry_of(", retries: {attempts: 1, retryIgnorePreviousHosts: true}", _HASH)
    assert explicit is not None
    assert explicit.previous_hosts


def test_the_hash_key_stands_on_the_route() -> None:
    made = translate(service("a"), _HASH)
    (policy,) = made.route("a").action.hash_policy
    assert (policy.kind, policy.name) == ("header", "x-user")


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("{attempts: 0, retryOn: 5xx}", "attempts are set to 0"),
        ("{perTryTimeout: 1s}", "attempts are set to 0"),
        ("{attempts: 1, retryOn: sometimes}", '"sometimes" is not a valid retryOn policy'),
        ("{attempts: 1, retryOn: '1000'}", '"1000" is not a valid retryOn policy'),
        ("{attempts: -1}", "less than 0"),
        ("{attempts: 1, perTryTimeout: 1us}", "whole milliseconds"),
        ("{attempts: 1, retryon: 5xx}", 'unknown field "retryon"'),
    ],
)
def test_bad_blocks_are_errors(block: str, message: str) -> None:
    entry = f"[{{route: [{{destination: {{host: a}}}}], retries: {block}}}]"
    made = translate(service("a"), virtual_service("vs", "[a]", entry))
    assert any(message in text for text in made.errors), made.errors


def test_remote_localities_are_noted_on_the_route() -> None:
    entry = (
        "[{route: [{destination: {host: a}}], retries: {attempts: 1, retryRemoteLocalities: true}}]"
    )
    made = translate(service("a"), virtual_service("vs", "[a]", entry))
    assert [n.code for n in made.route("a").not_honoured] == ["not-honoured"]
