"""Injected faults: a delay, then an abort, each for its share of the calls.

Source: Envoy ``filters/http/fault/fault_filter.cc``: both are drawn on their own, the
abort after the delay has passed; a call that finds the most allowed faults active
suffers none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from meshclient.model.matching import Fraction
from meshclient.model.request import RequestHead
from meshclient.model.routes import Fault
from meshclient.resilience.filter import Verdict
from meshclient.resilience.local_reply import local_reply

ABORT_BODY = b"fault filter abort"

_DELAY = "x-envoy-fault-delay-request"
_ABORT = "x-envoy-fault-abort-request"
_ABORT_GRPC = "x-envoy-fault-abort-grpc-request"
_SHARE = "-percentage"

#: No header asks for a longer delay: a mistyped one would hold the caller for days.
MAX_HEADER_DELAY_S = 3600.0


class FaultFilter:
    """The faults of one route. Thread-safe.

    ``active_faults``, ``delays_injected``, ``aborts_injected`` and ``faults_overflow`` are
    Envoy's statistics of these names.
    """

    __slots__ = (
        "_fault",
        "_lock",
        "aborts_injected",
        "active_faults",
        "delays_injected",
        "faults_overflow",
    )

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        # Re-entrant: a destructor that ends a call may run at any allocation.
        self._lock = threading.RLock()
        self.active_faults = 0
        self.delays_injected = 0
        self.aborts_injected = 0
        self.faults_overflow = 0

    def enter(self, head: RequestHead, now: float, rand: Callable[[], int]) -> Verdict | None:  # noqa: ARG002
        """Hold the call, answer it, or let it pass."""
        if self.active_faults >= self._fault.max_active:
            with self._lock:
                self.faults_overflow += 1
            return None
        delay_s = self._delay_of(head, rand)
        if delay_s <= 0.0:
            return self._abort(head, rand)
        with self._lock:
            self.active_faults += 1
            self.delays_injected += 1
        return Verdict(wait_s=delay_s, flag="DI", why=f"fault: delayed by {delay_s:g} s")

    def after(
        self,
        held: Verdict,  # noqa: ARG002
        answer: Any,  # noqa: ARG002
        head: RequestHead,
        now: float,  # noqa: ARG002
        rand: Callable[[], int],
    ) -> Verdict | None:
        """The delay has passed; the abort has its turn."""
        return self._abort(head, rand)

    def leave(self, status: int, grpc_status: int, started: float, now: float) -> None:  # noqa: ARG002
        """The delayed call is over."""
        with self._lock:
            self.active_faults -= 1

    def _delay_of(self, head: RequestHead, rand: Callable[[], int]) -> float:
        fault = self._fault
        delay_s, share = fault.delay_s, fault.delay_fraction
        if fault.by_header:
            asked = _number(head, _DELAY)
            delay_s = None if asked is None else min(asked / 1000, MAX_HEADER_DELAY_S)
            share = _lowered(share, head, _DELAY)
        return 0.0 if delay_s is None or not _drawn(share, rand) else delay_s

    def _abort(self, head: RequestHead, rand: Callable[[], int]) -> Verdict | None:
        fault = self._fault
        status, grpc_status, share = (
            fault.abort_status,
            fault.abort_grpc_status,
            fault.abort_fraction,
        )
        if fault.by_header:
            status, grpc_status = _number(head, _ABORT), _number(head, _ABORT_GRPC)
            share = _lowered(share, head, _ABORT if status is not None else _ABORT_GRPC)
            if status is not None and not 200 <= status < 600:
                status = None
        if grpc_status is not None:
            status = 200
        if status is None or not _drawn(share, rand):
            return None
        with self._lock:
            self.aborts_injected += 1
        reply = local_reply(head, status, ABORT_BODY, grpc_status)
        what = f"status {status}" if grpc_status is None else f"grpc-status {grpc_status}"
        return Verdict(reply=reply, flag="FI", why=f"fault: aborted with {what}")

    def describe(self) -> dict[str, int]:
        """The statistics, for dumps."""
        return {
            "active_faults": self.active_faults,
            "aborts_injected": self.aborts_injected,
            "delays_injected": self.delays_injected,
            "faults_overflow": self.faults_overflow,
        }

    def __str__(self) -> str:
        fault, parts = self._fault, []
        if fault.by_header:
            parts.append("fault as x-envoy-fault-* headers ask")
        if fault.delay_s is not None:
            parts.append(f"fault: {fault.delay_s:g} s delay for {_percent(fault.delay_fraction)}")
        if fault.abort_grpc_status is not None:
            what = f"grpc-status {fault.abort_grpc_status}"
            parts.append(f"fault: abort with {what} for {_percent(fault.abort_fraction)}")
        elif fault.abort_status is not None:
            share = _percent(fault.abort_fraction)
            parts.append(f"fault: abort with {fault.abort_status} for {share}")
        return ", ".join(parts)


def _percent(share: Fraction) -> str:
    return f"{100 * share.numerator / share.denominator:g} % of the calls"


def _drawn(share: Fraction, rand: Callable[[], int]) -> bool:
    return share.numerator > 0 and rand() % share.denominator < share.numerator


def _number(head: RequestHead, name: str) -> int | None:
    text = head.headers.get(name)
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _lowered(share: Fraction, head: RequestHead, name: str) -> Fraction:
    """A header may ask for fewer faults than the policy allows, never for more."""
    asked = _number(head, name + _SHARE)
    if asked is None or asked >= share.numerator:
        return share
    return Fraction(asked, share.denominator)


__all__ = ["ABORT_BODY", "MAX_HEADER_DELAY_S", "FaultFilter"]
