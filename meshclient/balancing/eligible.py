"""The endpoints that one balancer may pick, out of all it knows.

A list with its reasons; the deciding is done in :mod:`meshclient.balancing.make`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from meshclient.balancing.candidate import Candidate
from meshclient.balancing.state import EndpointState


class Reporter(Protocol):
    """Describes every endpoint of a cluster."""

    def candidates(self) -> list[Candidate]:
        """In the cluster's order, the excluded ones too."""


class Eligibility:
    """``states`` out of ``all_states`` may be picked; by default all of them.

    ``reporter`` knows why the others may not; without one, those are merely shown as left out.
    """

    __slots__ = ("_reporter", "all_states", "states")

    def __init__(
        self,
        all_states: Sequence[EndpointState],
        states: Sequence[EndpointState] | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self.all_states = tuple(all_states)
        self.states = self.all_states if states is None else tuple(states)
        self._reporter = reporter

    def equal_weights(self) -> bool:
        """Whether a weighted pick would be a waste."""
        return len({state.weight for state in self.states}) < 2

    def candidates(self) -> list[Candidate]:
        """Every endpoint, with why it is excluded."""
        if self._reporter is not None:
            return self._reporter.candidates()
        inside = set(self.states)
        return [Candidate(s, "" if s in inside else "left out") for s in self.all_states]


__all__ = ["Eligibility", "Reporter"]
