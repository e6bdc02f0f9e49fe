"""Counters of what balancers did, by Envoy's names. Counts; nothing reads them to decide."""

from __future__ import annotations

import threading


class Stats:
    """``lb_healthy_panic``, ``lb_zone_*`` ...: how often, since the cluster's policy came
    into force. Thread-safe. Only the paths that have such a name pay for it."""

    __slots__ = ("_counts", "_lock")

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def bump(self, name: str) -> None:
        """One more."""
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + 1

    def read(self) -> dict[str, int]:
        """All that are above zero, by name."""
        with self._lock:
            return dict(sorted(self._counts.items()))

    def __repr__(self) -> str:
        return f"<Stats {self.read()}>"


__all__ = ["Stats"]
