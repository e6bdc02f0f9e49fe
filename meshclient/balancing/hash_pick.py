"""Picks that follow from the request's hash: ring hash and Maglev, with bounded load.

One class for both, since they differ in their table only. How a request comes by its hash is
:mod:`meshclient.routing.hash_policy`.
Source: Envoy ``load_balancing_policies/common/thread_aware_lb_impl.cc``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

from meshclient.balancing.base import Balancer, PickRequest, Rand
from meshclient.balancing.bounded_load import BoundedLoad
from meshclient.balancing.eligible import Eligibility
from meshclient.balancing.hashing import HASH_FUNCTIONS, hash_key, shares_by_weight
from meshclient.balancing.maglev import MaglevTable
from meshclient.balancing.ring_hash import Ring
from meshclient.balancing.state import EndpointState, total_of
from meshclient.model.load_balancing import LoadBalancing


class HashTable(Protocol):
    """From a hash to the index of an endpoint."""

    def at(self, hash64: int, attempt: int = 0) -> int:
        """``attempt`` > 0: another place for the same hash."""


class _OneHost:
    """A table that needs no building."""

    __slots__ = ()

    def at(self, hash64: int, attempt: int = 0) -> int:  # noqa: ARG002
        return 0


class HashPick(Balancer):
    """The endpoint that the request's hash means; without a hash, that of a random number.

    ``shares``: each eligible endpoint's part of the whole, above 0 and adding up to 1,
    where localities are weighed; None: by weight. The table of ``previous`` is kept when
    endpoints, shares and settings are the same. Thread-safe; no lock.
    """

    __slots__ = ("_bound", "_draws", "_made_of", "policy", "shares", "table")

    def __init__(
        self,
        eligibility: Eligibility,
        turns: Iterator[int],
        settings: LoadBalancing,
        shares: Sequence[float] | None = None,
        previous: Balancer | None = None,
    ) -> None:
        super().__init__(eligibility, turns)
        self.policy = settings.policy
        states = self._states
        self.shares = shares_by_weight(states) if shares is None else tuple(shares)
        keys = tuple(hash_key(s.endpoint, settings.use_hostname_for_hashing) for s in states)
        self._made_of = (keys, self.shares, settings)
        if isinstance(previous, HashPick) and previous._made_of == self._made_of:
            self.table: HashTable = previous.table
        else:
            self.table = _table(keys, self.shares, settings)
        self._draws = len(states) > 1
        self._bound: BoundedLoad | None = None
        if settings.hash_balance_factor and len(states) > 1:
            self._bound = BoundedLoad(
                states, self.shares, total_of(eligibility.all_states), settings.hash_balance_factor
            )

    def pick(
        self,
        rand: Rand,
        now: float = 0.0,  # noqa: ARG002
        request: PickRequest | None = None,
    ) -> EndpointState | None:
        return self._host(self._hash(rand, request), 0)

    def pick_other(
        self,
        rand: Rand,
        tried: Collection[EndpointState],
        host_attempts: int,
        now: float = 0.0,  # noqa: ARG002
        request: PickRequest | None = None,
    ) -> EndpointState | None:
        """One hash for all attempts; each looks at another place of the table."""
        hash64 = self._hash(rand, request)
        state = self._host(hash64, 0)
        for attempt in range(1, host_attempts + 1):
            if state is None or state not in tried:
                break
            state = self._host(hash64, attempt)
        return state

    def _hash(self, rand: Rand, request: PickRequest | None) -> int:
        hash64 = request.hash64 if request is not None else None
        if hash64 is None:
            return rand() if self._draws else 0
        return hash64

    def _host(self, hash64: int, attempt: int) -> EndpointState | None:
        states = self._states
        if not states:
            return None
        index = self.table.at(hash64, attempt)
        if self._bound is not None:
            index = self._bound.settle(index, hash64)
        return states[index]


def _table(keys: Sequence[bytes], shares: Sequence[float], settings: LoadBalancing) -> HashTable:
    if len(keys) < 2:
        return _OneHost()
    if settings.policy == "maglev":
        return MaglevTable(keys, shares, settings.table_size)
    function = HASH_FUNCTIONS[settings.hash_function]
    return Ring(keys, shares, settings.minimum_ring_size, settings.maximum_ring_size, function)


__all__ = ["HashPick", "HashTable"]
