"""What every load-balancing policy offers, and the parts they share.

No policy stands here; each has a module of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from typing import Protocol

from meshclient.balancing.candidate import Candidate
from meshclient.balancing.eligible import Eligibility
from meshclient.balancing.memory import Memory
from meshclient.balancing.state import EndpointState
from meshclient.model.headers import RawHeaders
from meshclient.model.outcome import Outcome

#: Gives a fresh unsigned 64-bit number at every call.
Rand = Callable[[], int]

#: (state, outcome, when the try started, now): how a try ended, times in monotonic seconds.
OnOutcome = Callable[[EndpointState, Outcome, float, float], None]

#: (state, headers, trailers, now): the lines of a response whose body has ended.
OnTrailers = Callable[[EndpointState, RawHeaders, RawHeaders, float], None]


class PickRequest(Protocol):
    """What a policy may want to know of the call it picks for."""

    @property
    def hash64(self) -> int | None:
        """The request's hash as the route's hash policies make it; None: none applies."""

    @property
    def subset(self) -> tuple[tuple[str, str], ...]:
        """Sorted labels the call asks its endpoint to carry; empty: it does not."""


class Balancer(ABC):
    """Picks among the eligible endpoints of one version of a cluster.

    The set of endpoints is fixed; an update makes a new balancer. Picking is
    thread-safe and never waits longer than another pick takes. It does not
    count the request as in flight; the caller does.
    """

    __slots__ = ("_eligibility", "_states", "memory", "salt", "turns")

    #: The policy's name in documents and explanations.
    policy = ""

    #: Told of every try at its response head or reset, by policies that measure; else None.
    on_outcome: OnOutcome | None = None

    #: Told of the trailers of a response, where there are any, by policies that read them.
    on_trailers: OnTrailers | None = None

    #: When the policy wants to be made anew (monotonic seconds), as slow start does; else None.
    refresh_at: float | None = None

    def __init__(self, eligibility: Eligibility, turns: Iterator[int]) -> None:
        self._eligibility = eligibility
        self._states = eligibility.states
        #: Round-robin position; handed on at updates by every policy, so that
        #: a cluster that shrinks to one endpoint and grows again keeps it.
        self.turns = turns
        #: Drawn once for the life of the cluster's policy; handed on like ``turns``.
        self.salt = 0
        #: What the balancer after this one takes over, and statistics; ``make_balancer`` sets it.
        self.memory: Memory | None = None

    @abstractmethod
    def pick(
        self, rand: Rand, now: float = 0.0, request: PickRequest | None = None
    ) -> EndpointState | None:
        """The endpoint for the next try; None if none is eligible.

        ``now`` is monotonic seconds. ``request`` None: nothing is known of the call.
        """

    def pick_other(
        self,
        rand: Rand,
        tried: Collection[EndpointState],
        host_attempts: int,
        now: float = 0.0,
        request: PickRequest | None = None,
    ) -> EndpointState | None:
        """Pick, preferably one not in ``tried``: at most ``host_attempts`` + 1
        picks, and the last one stands even if it was tried.

        Source: Envoy ``load_balancer_impl.cc`` ``chooseHost`` with the
        ``previous_hosts`` predicate.
        """
        state = self.pick(rand, now, request)
        for _ in range(host_attempts):
            if state is None or state not in tried:
                break
            state = self.pick(rand, now, request)
        return state

    @property
    def served(self) -> tuple[EndpointState, ...]:
        """The endpoints that it may pick."""
        return self._states

    @property
    def stats(self) -> dict[str, int]:
        """Envoy's counters, such as ``lb_healthy_panic``, since the cluster's policy came into
        force; those at zero are left out."""
        return {} if self.memory is None else self.memory.stats.read()

    def candidates(self) -> list[Candidate]:
        """Every endpoint of the cluster, in its order, the excluded ones too."""
        return self._eligibility.candidates()

    def __repr__(self) -> str:
        total = len(self._eligibility.all_states)
        return f"<Balancer {self.policy} eligible={len(self._states)} of {total}>"


__all__ = ["Balancer", "Candidate", "OnOutcome", "OnTrailers", "PickRequest", "Rand"]
