"""Adaptive concurrency: no more calls in flight than the server takes without slowing down.

The filter around :class:`~meshclient.resilience.gradient.GradientController`. Source: Envoy
``filters/http/adaptive_concurrency/adaptive_concurrency_filter.cc``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from meshclient.model.concurrency import AdaptiveConcurrency
from meshclient.model.request import RequestHead
from meshclient.resilience.filter import ENTERED, NeverHolds, Verdict
from meshclient.resilience.gradient import GradientController
from meshclient.resilience.local_reply import local_reply

BODY = b"reached concurrency limit"


class AdaptiveConcurrencyFilter(NeverHolds):
    """The calls in flight of one scope. Thread-safe: the limit is exact."""

    __slots__ = ("_lock", "_settings", "controller")

    def __init__(self, settings: AdaptiveConcurrency) -> None:
        self._settings = settings
        # Re-entrant: a destructor that ends a call may run at any allocation.
        self._lock = threading.RLock()
        self.controller = GradientController(settings)

    def enter(self, head: RequestHead, now: float, rand: Callable[[], int]) -> Verdict | None:
        """Count the call in, or refuse it."""
        controller = self.controller
        with self._lock:
            if controller.admit(now, rand):
                return ENTERED
            limit = controller.limit
        settings = self._settings
        why = f"adaptive concurrency of {settings.scope}: {limit} calls are in flight"
        if controller.min_rtt_calculation_active:
            why += " (the least latency is being measured)"
        return Verdict(reply=local_reply(head, settings.status, BODY), why=why)

    def leave(self, status: int, grpc_status: int, started: float, now: float) -> None:
        """The latency counts, unless the caller gave the call up."""
        with self._lock:
            if status == 0 and grpc_status < 0:
                self.controller.cancel(now)
            else:
                self.controller.release(started, now)

    def describe(self) -> dict[str, Any]:
        """Limit, latencies and statistics, for dumps."""
        controller = self.controller
        with self._lock:
            return {
                "scope": self._settings.scope,
                "concurrency_limit": controller.limit,
                "in_flight": controller.in_flight,
                "gradient": controller.gradient,
                "burst_queue_size": controller.burst_queue_size,
                "min_rtt_s": controller.min_rtt_s,
                "sample_rtt_s": controller.sample_rtt_s,
                "min_rtt_calculation_active": int(controller.min_rtt_calculation_active),
                "rq_blocked": controller.rq_blocked,
            }

    def __str__(self) -> str:
        settings = self._settings
        return (
            f"adaptive concurrency of {settings.scope}: {settings.min_concurrency} to "
            f"{settings.max_concurrency} calls in flight, now {self.controller.limit}"
        )


__all__ = ["BODY", "AdaptiveConcurrencyFilter"]
