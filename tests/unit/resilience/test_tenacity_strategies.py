"""tenacity's own wait, stop and retry objects at work on a call."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import tenacity

from meshclient.model.cluster import Limits
from meshclient.model.headers import HeaderMap
from meshclient.model.outcome import Outcome, ResetReason
from meshclient.model.retry import RetryPolicy
from meshclient.resilience import AttemptResponse, RetryLimiter, RetryState, RetryStrategy

R = ResetReason
RESET = RetryPolicy(frozenset({"reset", "5xx"}), num_retries=10)
BROKEN = Outcome(reset=R.CONNECTION_TERMINATION, error=ConnectionResetError("gone"))


class Calls:
    """One call with a strategy; decides at given ages."""

    def __init__(
        self, strategy: RetryStrategy, policy: RetryPolicy = RESET, replayable: bool = True
    ) -> None:
        self.limiter = RetryLimiter(Limits())
        self.state = RetryState(policy, "GET", replayable, None, strategy)

    def decide(self, outcome: Outcome, elapsed_s: float = 0.0) -> float | None:
        rand: Callable[[], int] = lambda: 7  # noqa: E731
        return self.state.decide(outcome, self.limiter, rand, 500.0 + elapsed_s, elapsed_s)


def test_wait_fixed_replaces_the_back_off() -> None:
    call = Calls(RetryStrategy(wait=tenacity.wait_fixed(1.5)))
    assert call.decide(BROKEN) == 1.5
    assert Calls(RetryStrategy()).decide(BROKEN) == 0.007


def test_wait_exponential_sees_the_attempt_number() -> None:
    call = Calls(RetryStrategy(wait=tenacity.wait_exponential(multiplier=0.1, max=0.5)))
    waits = [call.decide(BROKEN) for _ in range(5)]
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5])


def test_wait_exponential_jitter_stays_in_its_bounds() -> None:
    wait = tenacity.wait_exponential_jitter(max=5, jitter=0.5)
    call = Calls(RetryStrategy(wait=wait))
    for expected in (1, 2, 4, 5):
        delay_s = call.decide(BROKEN)
        assert delay_s is not None
        assert expected <= delay_s <= min(5, expected + 0.5)


def test_waits_add_up_with_plus() -> None:
    wait = tenacity.wait_fixed(1) + tenacity.wait_incrementing(start=0, increment=0.25)
    call = Calls(RetryStrategy(wait=wait))
    assert [call.decide(BROKEN) for _ in range(3)] == [1.0, 1.25, 1.5]


def test_stop_after_attempt_ends_sooner_than_the_policy() -> None:
    call = Calls(RetryStrategy(stop=tenacity.stop_after_attempt(3)))
    assert [call.decide(BROKEN) is None for _ in range(3)] == [False, False, True]
    assert call.state.note == "not retried: the stop strategy ends the retries"
    assert call.state.flag == "URX"
    assert call.limiter.active == 0


def test_a_stop_never_adds_retries() -> None:
    policy = RetryPolicy(frozenset({"reset"}), num_retries=1)
    call = Calls(RetryStrategy(stop=tenacity.stop_never), policy)
    assert call.decide(BROKEN) is not None
    assert call.decide(BROKEN) is None
    assert call.state.note == "not retried: all 1 retries are used up"


def test_stop_after_delay_sees_the_age_of_the_call() -> None:
    call = Calls(RetryStrategy(stop=tenacity.stop_after_delay(10)))
    assert call.decide(BROKEN, 9.9) is not None
    assert call.decide(BROKEN, 10.0) is None


def test_stop_before_delay_sees_the_coming_wait() -> None:
    strategy = RetryStrategy(wait=tenacity.wait_fixed(3), stop=tenacity.stop_before_delay(10))
    assert Calls(strategy).decide(BROKEN, 6.9) == 3
    assert Calls(strategy).decide(BROKEN, 7.0) is None


def test_stops_combine() -> None:
    either = tenacity.stop_after_attempt(5) | tenacity.stop_after_delay(1)
    both = tenacity.stop_after_attempt(1) & tenacity.stop_after_delay(1)
    assert Calls(RetryStrategy(stop=either)).decide(BROKEN, 2.0) is None
    assert Calls(RetryStrategy(stop=both)).decide(BROKEN, 0.5) is not None
    assert Calls(RetryStrategy(stop=both)).decide(BROKEN, 1.5) is None


def test_retry_if_exception_type_decides_instead_of_the_policy() -> None:
    strategy = RetryStrategy(retry=tenacity.retry_if_exception_type(ConnectionResetError))
    nothing = RetryPolicy(frozenset(), num_retries=3)
    assert Calls(strategy, nothing).decide(BROKEN) is not None
    refused = Outcome(reset=R.CONNECTION_FAILURE, error=ConnectionRefusedError())
    call = Calls(strategy)
    assert call.decide(refused) is None
    assert call.state.note == "not retried: the retry strategy does not want it"
    assert call.decide(Outcome(503)) is None


@pytest.mark.parametrize(
    ("reset", "kinds"),
    [
        (R.PER_TRY_TIMEOUT, (TimeoutError,)),
        (R.CONNECTION_TIMEOUT, (TimeoutError,)),
        (R.CONNECTION_FAILURE, (ConnectionError,)),
        (R.REMOTE_RESET, (ConnectionError,)),
        (R.PROTOCOL_ERROR, ()),
    ],
)
def test_resets_without_an_exception_get_one(reset: ResetReason, kinds: tuple[type, ...]) -> None:
    for kind in (TimeoutError, ConnectionError):
        call = Calls(RetryStrategy(retry=tenacity.retry_if_exception_type(kind)))
        assert (call.decide(Outcome(reset=reset)) is not None) is (kind in kinds)
    named = tenacity.retry_if_exception_message(reset.value)
    assert Calls(RetryStrategy(retry=named)).decide(Outcome(reset=reset)) is not None


def test_retry_if_result_sees_status_and_headers() -> None:
    def wanted(response: AttemptResponse) -> bool:
        return response.status_code == 418 and response.headers["X-Again"] == "yes, please"

    strategy = RetryStrategy(retry=tenacity.retry_if_result(wanted))
    headers = HeaderMap.of([("x-again", "yes"), ("X-AGAIN", "please")])
    assert Calls(strategy).decide(Outcome(418, headers)) is not None
    assert Calls(strategy).decide(Outcome(503, HeaderMap.of([]))) is None
    assert Calls(strategy).decide(BROKEN) is None


def test_response_headers_are_a_mapping() -> None:
    response = AttemptResponse(Outcome(503, HeaderMap.of([("A", "1"), ("b", "2")])))
    assert dict(response.headers) == {"a": "1", "b": "2"}
    assert len(response.headers) == 2
    assert response.headers.get("Missing") is None
    assert "B" in response.headers
    assert repr(response) == "<AttemptResponse 503>"
    assert dict(AttemptResponse(Outcome(500)).headers) == {}


def test_retries_combine_with_or_and_and() -> None:
    unavailable = tenacity.retry_if_result(lambda response: response.status_code == 503)
    broken = tenacity.retry_if_exception_type(ConnectionError)
    either = RetryStrategy(retry=unavailable | broken)
    assert Calls(either).decide(Outcome(503)) is not None
    assert Calls(either).decide(BROKEN) is not None
    assert Calls(either).decide(Outcome(500)) is None
    assert Calls(RetryStrategy(retry=unavailable & broken)).decide(BROKEN) is None


@pytest.mark.parametrize("reset", [R.OVERFLOW, R.ROUTE_TIMEOUT, R.CANCELLED])
def test_a_strategy_cannot_repeat_what_is_never_retried(reset: ResetReason) -> None:
    call = Calls(RetryStrategy(retry=tenacity.retry_always))
    assert call.decide(Outcome(reset=reset)) is None


def test_a_strategy_cannot_replay_a_body() -> None:
    call = Calls(RetryStrategy(retry=tenacity.retry_always), replayable=False)
    assert call.decide(BROKEN) is None
    assert call.state.note == "not retried: the request body cannot be replayed"


def test_strategies_are_not_asked_about_a_success() -> None:
    def never(_: tenacity.RetryCallState) -> Any:
        raise AssertionError("asked")

    call = Calls(RetryStrategy(wait=never, stop=never, retry=never))
    assert call.decide(Outcome(200)) is None
    assert call.state.note == ""


def test_plain_functions_see_the_whole_state() -> None:
    seen: list[tuple[int, float | None, float]] = []

    def wait(state: tenacity.RetryCallState) -> float:
        assert state.outcome is not None
        assert state.outcome.attempt_number == state.attempt_number
        seen.append((state.attempt_number, state.seconds_since_start, state.idle_for))
        return 2.0

    call = Calls(RetryStrategy(wait=wait))
    call.decide(BROKEN, 1.0)
    call.decide(BROKEN, 4.0)
    assert seen == [(1, 1.0, 0.0), (2, 4.0, 2.0)]


@pytest.mark.parametrize(("wait_s", "wanted"), [(-3.0, 0.0), (float("inf"), None)])
def test_odd_waits(wait_s: float, wanted: float | None) -> None:
    call = Calls(RetryStrategy(wait=lambda _: wait_s))
    assert call.decide(BROKEN) == wanted
    assert call.limiter.active == (0 if wanted is None else 1)
    if wanted is None:
        assert call.state.note == "not retried: the wait strategy names no finite time"


def test_an_exception_of_a_strategy_leaves_no_permit_taken() -> None:
    def broken(_: tenacity.RetryCallState) -> float:
        raise ZeroDivisionError

    call = Calls(RetryStrategy(wait=broken))
    with pytest.raises(ZeroDivisionError):
        call.decide(BROKEN)
    assert call.limiter.active == 0


async def _coroutine(_: object) -> bool:
    return True


@pytest.mark.parametrize("part", ["wait", "stop", "retry"])
@pytest.mark.parametrize("value", [3, _coroutine])
def test_what_is_no_strategy_is_refused(part: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{part} must be a tenacity strategy or a function"):
        RetryStrategy(**{part: value})


def test_repr_names_the_parts() -> None:
    stop = tenacity.stop_after_attempt(3)
    assert repr(RetryStrategy(stop=stop)) == f"RetryStrategy(stop={stop!r})"


def test_tenacity_is_loaded_at_the_first_failure_only() -> None:
    code = (
        "import sys, meshclient.resilience as r;"
        "r.RetryStrategy(); assert 'tenacity' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
