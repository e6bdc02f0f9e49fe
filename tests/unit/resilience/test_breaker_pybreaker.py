"""The pybreaker object beside a breaker: listeners, storage, and objects of the caller's own."""

from __future__ import annotations

import pybreaker
import pytest
from breaker_support import BAD, OK, Bench

from meshclient.model.outcome import Outcome, ResetReason
from meshclient.resilience.breaker import FailedTry


class Hearing(pybreaker.CircuitBreakerListener):
    """Notes what it is told."""

    def __init__(self):
        self.heard = []

    def state_change(self, cb, old_state, new_state):
        self.heard.append(f"{old_state.name} -> {new_state.name}")

    def failure(self, cb, exc):
        self.heard.append(type(exc).__name__)

    def success(self, cb):
        self.heard.append("success")


def own(**options):
    return pybreaker.CircuitBreaker(name="mine", **options)


def bench_of(circuit):
    return Bench(
        circuit,
        consecutive_failures=circuit.fail_max,
        open_for_s=circuit.reset_timeout,
        half_open_successes=circuit.success_threshold,
    )


def test_its_listeners_hear_states_failures_and_successes():
    hearing = Hearing()
    bench = bench_of(own(fail_max=2, reset_timeout=5, listeners=[hearing]))
    bench.call(OK)
    bench.call(BAD)
    bench.call(Outcome(reset=ResetReason.CONNECTION_FAILURE, error=ConnectionRefusedError()))
    bench.now += 5.0
    bench.call(OK)
    assert hearing.heard == [
        "success",
        "FailedTry",
        "ConnectionRefusedError",
        "closed -> open",
        "open -> half-open",
        "success",
        "half-open -> closed",
    ]


def test_its_state_and_counters_follow():
    circuit = own(fail_max=3, reset_timeout=5)
    bench = bench_of(circuit)
    bench.fail(2)
    assert (circuit.current_state, circuit.fail_counter) == ("closed", 2)
    bench.fail(1)
    assert circuit.current_state == "open"
    bench.now += 5.0
    generation = bench.admit()
    assert circuit.current_state == "half-open"
    bench.end(generation)
    assert (circuit.current_state, circuit.fail_counter) == ("closed", 0)


def test_what_its_owner_does_holds():
    circuit = own(reset_timeout=5)
    bench = bench_of(circuit)
    circuit.open()
    assert bench.words == ["opened elsewhere"]
    assert not bench.call()
    bench.now += 4.9
    assert not bench.call(), "its time counts from the first call that asked"
    bench.now += 0.1
    assert bench.call()
    circuit.open()
    circuit.close()
    assert bench.call()
    assert bench.words[-1] == "closed elsewhere"


def test_an_object_that_is_open_already_is_believed():
    circuit = own(reset_timeout=5)
    circuit.open()
    bench = bench_of(circuit)
    assert not bench.call()


def test_a_call_through_the_object_itself_counts_as_its_owners():
    circuit = own(fail_max=1, reset_timeout=5)
    bench = bench_of(circuit)
    with pytest.raises(pybreaker.CircuitBreakerError):
        circuit.call(lambda: 1 / 0)
    assert bench.state == "open"


def test_excluded_exceptions_count_neither_way():
    circuit = own(fail_max=1, exclude=[PermissionError, lambda e: "quota" in str(e)])
    bench = bench_of(circuit)
    for error in (PermissionError(), ValueError("quota")):
        bench.call(Outcome(reset=ResetReason.REMOTE_RESET, error=error))
        assert bench.state == "closed"
    bench.call(Outcome(reset=ResetReason.REMOTE_RESET, error=ValueError("no")))
    assert bench.state == "open"


def test_a_listener_may_use_the_breaker_and_may_fail(caplog):
    class Rash(pybreaker.CircuitBreakerListener):
        def state_change(self, cb, old_state, new_state):
            if new_state.name == "open":
                bench.breaker.close(bench.now)
                raise RuntimeError("rash")

    bench = bench_of(own(fail_max=1, listeners=[Rash()]))
    bench.call(BAD)
    assert bench.state == "closed"
    assert bench.breaker.circuit.object.current_state == "closed"
    assert "a listener of the breaker mine failed" in caplog.text


def test_a_listener_that_comes_later_hears_of_every_call_from_then_on():
    bench = Bench()
    hearing = Hearing()
    bench.call(OK)
    bench.breaker.add_listener(hearing)
    bench.call(OK)
    assert hearing.heard == ["success"]


def test_an_object_that_is_given_back_is_as_it_was():
    circuit = own()
    bench = bench_of(circuit)
    assert len(circuit.listeners) == 1
    bench.breaker.circuit.leave()
    assert circuit.listeners == ()


def test_the_exception_in_place_of_a_status_says_which():
    assert str(FailedTry(BAD)) == "status 503"
