"""What ``mesh.breaker("reviews")`` gives: breakers to look at, and to open and close by hand.

Decides nothing. A handle looks its breakers up at each use, so it survives reloads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from meshclient.model.events import BreakerEvent, Event

if TYPE_CHECKING:
    import pybreaker

    from meshclient.breakers import BreakerStates
    from meshclient.resilience.breaker import Breaker

Subscribe = Callable[[Callable[[Event], object]], Callable[[], None]]


class BreakerHandle:
    """The circuit breakers of one service or cluster, all together. Thread-safe.

    A service has one breaker, or one per subset, endpoint or route, as its policy says
    (``per``). What is done by hand holds for this process, but opening and closing are
    told to those that share the breaker.
    """

    def __init__(
        self,
        name: str,
        states: Callable[[], BreakerStates],
        clock: Callable[[], float],
        subscribe: Subscribe,
    ) -> None:
        self.name = name
        self._states = states
        self._clock = clock
        self._subscribe = subscribe

    def _breakers(self) -> list[Breaker]:
        return self._states().of(self.name)

    @property
    def state(self) -> str:
        """``open`` when any is open, else ``half_open`` when any is, else ``closed``."""
        states = {breaker.state for breaker in self._breakers()}
        return next((word for word in ("open", "half_open") if word in states), "closed")

    @property
    def isolated(self) -> bool:
        """Whether any is kept open by hand."""
        return any(breaker.isolated for breaker in self._breakers())

    def open(self, for_s: float | None = None) -> None:
        """Let no call pass for ``for_s`` seconds (above 0); None: as long as the policy says.

        Afterwards they are half_open, as after any other opening. Raises ValueError.
        """
        if for_s is not None and not for_s > 0:
            raise ValueError(f"for_s is in seconds, above 0, not {for_s!r}")
        for breaker in self._breakers():
            breaker.open(self._clock(), for_s)

    def isolate(self) -> None:
        """Let no call pass until :meth:`close`."""
        for breaker in self._breakers():
            breaker.isolate(self._clock())

    def close(self) -> None:
        """Let calls pass again, and forget past failures."""
        for breaker in self._breakers():
            breaker.close(self._clock())

    def subscribe(self, callback: Callable[[BreakerEvent], object]) -> Callable[[], None]:
        """Have ``callback`` told when one of these changes its state.

        On a thread of the mesh, in order. Returns a function that ends the subscription.
        """

        def heard(event: Event) -> None:
            if isinstance(event, BreakerEvent) and self.name in (event.service, event.cluster):
                callback(event)

        return self._subscribe(heard)

    def add_listener(self, listener: pybreaker.CircuitBreakerListener) -> None:
        """Have a pybreaker listener told by each; on the calling thread, so it must be quick.

        It hears ``state_change``, ``failure`` and ``success``, never ``before_call``. Breakers
        that a later reload makes do not know it.
        """
        for breaker in self._breakers():
            breaker.add_listener(listener)

    def describe(self) -> list[dict[str, Any]]:
        """Each breaker in plain values: state, counts, since when and for how long."""
        return [breaker.describe(self._clock()) for breaker in self._breakers()]

    def __repr__(self) -> str:
        return f"<BreakerHandle {self.name} {self.state}>"


__all__ = ["BreakerHandle"]
