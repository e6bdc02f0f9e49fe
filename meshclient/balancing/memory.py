"""What outlives a version of a cluster's balancer: turns, schedules, statistics.

Only kept and handed on; who uses it is the business of the policies. Touched on the
control thread alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any, Literal

from meshclient.balancing.state import EndpointState
from meshclient.balancing.stats import Stats
from meshclient.model.endpoint import Locality

#: Which endpoints a leaf serves: of which priority, of which health, and where.
SourceKey = tuple[int, Literal["all", "healthy", "degraded"], Locality | None]

#: The source of a cluster that has nothing to choose above its policy.
WHOLE: SourceKey = (0, "healthy", None)

#: Turns remembered of sources that are gone; beyond that only those in use are kept.
MAX_SOURCES = 1024


class Memory:
    """``seed`` is drawn once; every source's rotation starts from it, as in Envoy.

    ``nodes`` are the leaves and choosers of the version before, by source, so that their
    schedules go on; ``waiting`` the endpoints that were never healthy yet (slow start
    counts from when they first are).
    """

    __slots__ = ("known", "nodes", "seed", "stats", "turns", "waiting")

    def __init__(self, seed: int, turns: Iterator[int] | None = None) -> None:
        self.seed = seed
        self.turns: dict[SourceKey, Iterator[int]] = {}
        if turns is not None:
            self.turns[WHOLE] = turns
        self.nodes: dict[tuple[str, SourceKey], Any] = {}
        self.stats = Stats()
        self.known: frozenset[EndpointState] = frozenset()
        self.waiting: frozenset[EndpointState] = frozenset()

    def turns_of(self, key: SourceKey) -> Iterator[int]:
        """The round-robin position of one source."""
        turns = self.turns.get(key)
        if turns is None:
            turns = self.turns[key] = count(self.seed)
        return turns

    def successor(self) -> Memory:
        """For the next version: the same seed, turns and statistics; its own nodes."""
        after = Memory(self.seed)
        after.stats = self.stats
        after.turns = self.turns
        if len(self.turns) > MAX_SOURCES:
            in_use = {key for _, key in self.nodes}
            after.turns = {key: turns for key, turns in self.turns.items() if key in in_use}
        return after


__all__ = ["MAX_SOURCES", "WHOLE", "Memory", "SourceKey"]
