"""Breakers and outcomes for tests, with the clock in hand."""

from __future__ import annotations

from typing import Any

from meshclient.model.breaker import BreakerScope, CircuitBreaker
from meshclient.model.outcome import Outcome, OutcomeKind, ResetReason
from meshclient.resilience.breaker import Breaker

OK = Outcome(200)
BAD = Outcome(503)
CANCELLED = Outcome(reset=ResetReason.CANCELLED)
SCOPE = BreakerScope("service", "reviews")


def kind_of(outcome: Outcome) -> OutcomeKind:
    from meshclient.resilience.classify import classify

    return classify(outcome, False)


class Bench:
    """One breaker, its events, and a clock that the test moves."""

    def __init__(self, circuit: Any = None, **settings: Any) -> None:
        self.events: list[Any] = []
        self.now = 100.0
        self.breaker = Breaker(CircuitBreaker(**settings), SCOPE, self.events.append, circuit)

    def admit(self) -> int:
        return self.breaker.admit(self.now)

    def end(self, generation: int, outcome: Outcome = OK, took_s: float = 0.01) -> None:
        self.breaker.record(generation, kind_of(outcome), outcome, took_s, self.now)

    def call(self, outcome: Outcome = OK, took_s: float = 0.01) -> bool:
        """One call; False: it was refused."""
        generation = self.admit()
        if generation < 0:
            return False
        self.end(generation, outcome, took_s)
        return True

    def fail(self, times: int = 1) -> None:
        for _ in range(times):
            self.call(BAD)

    @property
    def state(self) -> str:
        return self.breaker.state

    @property
    def words(self) -> list[str]:
        """Events as ``opened consecutive_failures`` and the like."""
        return [
            f"{type(event).__name__.removeprefix('Breaker').lower()} "
            f"{getattr(event, 'reason', '')}".strip()
            for event in self.events
        ]
