"""Counters of what balancers did, by Envoy's names. Counts; nothing reads them to decide."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count


class Stats:
    """``lb_healthy_panic``, ``lb_zone_*`` ...: how often, since the cluster's policy came
    into force. Thread-safe. Only the paths that have such a name pay for it."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, count[int]] = {}

    def counter(self, name: str) -> Callable[[], int]:
        """Call it for one more. One atomic step of an ``itertools.count``, no lock. To be
        asked for on the control thread."""
        return partial(next, self._counts.setdefault(name, count()))

    def bump(self, name: str) -> None:
        """One more, where speed is of no interest. Control thread only."""
        self.counter(name)()

    def read(self) -> dict[str, int]:
        """All that are above zero, by name. Any thread."""
        # What a count stands at is told by its repr alone, unless it is moved on.
        found = {name: int(repr(at)[6:-1]) for name, at in list(self._counts.items())}
        return {name: value for name, value in sorted(found.items()) if value}

    def __repr__(self) -> str:
        return f"<Stats {self.read()}>"


__all__ = ["Stats"]
