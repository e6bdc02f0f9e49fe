"""The settings of circuit breakers, and what one of them stands for.

Values only; equal settings of one scope share one breaker, which survives updates.
What a breaker does is in :mod:`meshclient.resilience.breaker`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from meshclient.model.source import UNKNOWN_SOURCE, Source

Per = Literal["service", "subset", "endpoint", "route"]


@dataclass(frozen=True, slots=True)
class Selection:
    """Some outcomes of tries, by what is seen of them. Empty: none is named.

    ``statuses`` are HTTP statuses, ``grpc_statuses`` gRPC codes, ``exceptions`` class names
    (``TimeoutError``, ``ssl.SSLError``; a base class means its subclasses, too) or reset
    reasons as in ``connection-failure``, ``per-try-timeout``.
    """

    statuses: frozenset[int] = frozenset()
    grpc_statuses: frozenset[int] = frozenset()
    exceptions: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.statuses or self.grpc_statuses or self.exceptions)


@dataclass(frozen=True, slots=True)
class SharedStorage:
    """A Redis server through which processes and hosts share a breaker's state.

    ``timeout_s`` bounds each exchange with it, ``poll_s`` is how often it is asked. The
    ``url`` may hold a password and is never printed.
    """

    url: str = field(repr=False)
    namespace: str = "meshclient"
    timeout_s: float = 0.5
    poll_s: float = 0.25


@dataclass(frozen=True, slots=True)
class CircuitBreaker:
    """When a breaker opens, for how long, and what closes it again.

    It opens at ``consecutive_failures`` in a row (None: not), or when at least
    ``minimum_calls`` of the window are known and ``failure_rate_percent`` of them failed,
    or ``slow_rate_percent`` took ``slow_s`` or longer (None: not). The window is the last
    ``window_calls``, or the last ``window_s`` seconds where that is given. It stays open for
    ``open_for_s``, times ``multiplier`` after each half-open spell that failed, at most
    ``max_open_for_s``. Half-open it lets ``half_open_requests`` pass at a time; after
    ``half_open_successes`` it closes, a failure opens it again. ``failures``, where it names
    any of a kind, says which count instead of the usual ones; ``ignored`` count neither way.
    """

    consecutive_failures: int | None = 5
    open_for_s: float = 30.0
    failure_rate_percent: float | None = None
    slow_rate_percent: float | None = None
    slow_s: float | None = None
    window_calls: int = 100
    window_s: float | None = None
    minimum_calls: int = 20
    multiplier: float = 1.0
    max_open_for_s: float = 300.0
    half_open_requests: int = 1
    half_open_successes: int = 1
    failures: Selection = Selection()
    ignored: Selection = Selection()
    per: Per = "service"
    shared: SharedStorage | None = None
    source: Source = field(default=UNKNOWN_SOURCE, compare=False)


@dataclass(frozen=True, slots=True)
class BreakerScope:
    """What one breaker stands for. ``cluster`` is empty for a route or a whole service."""

    per: Per
    service: str
    cluster: str = ""
    endpoint: str = ""
    route: str = ""

    def __str__(self) -> str:
        if self.per == "endpoint":
            return f"endpoint {self.endpoint} of {self.cluster}"
        if self.per == "route":
            return f"route {self.route} of {self.service}"
        return f"subset {self.cluster}" if self.per == "subset" else f"service {self.service}"


__all__ = ["BreakerScope", "CircuitBreaker", "Per", "Selection", "SharedStorage"]
