"""What a route says of further tries beside a slow one, and of copies of its requests.

Values only; when a try is slow is :mod:`meshclient.resilience.hedging`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hedging:
    """When a second try is started while the first is still waited for.

    ``delay_s`` seconds after the last try began without a response head (None: never);
    at most ``max_hedges`` tries of a call begin for that reason (1 or more, default 1).
    ``on_per_try_timeout``: a try whose per-try timeout is over is not cancelled, and a
    retry begins beside it, as often as retries are left (Envoy's
    ``hedge_on_per_try_timeout``; ``max_hedges`` has no say in it).
    """

    delay_s: float | None = None
    on_per_try_timeout: bool = False
    max_hedges: int = 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """What of a mirror's answer is held against the real one: the status, these headers
    (lower-case names), the JSON body."""

    status: bool = True
    headers: tuple[str, ...] = ()
    json: bool = False


__all__ = ["Comparison", "Hedging"]
