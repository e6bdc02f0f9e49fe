"""Which part of a cluster serves a call: priority, health, place. Then a leaf policy picks.

One look-up in a table of a hundred percents per pick. The table is made elsewhere;
no arithmetic on health stands here.
Source: Envoy ``load_balancer_impl.cc`` ``chooseHost``, ``hostSourceToUse``;
``thread_aware_lb_impl.cc`` ``LoadBalancerImpl::chooseHost``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

from meshclient.balancing.base import Balancer, PickRequest, Rand
from meshclient.balancing.eligible import Eligibility
from meshclient.balancing.state import EndpointState
from meshclient.balancing.stats import Stats


class Node(Protocol):
    """A part of a cluster that may have parts itself."""

    def choose(self, rand: Rand) -> Balancer:
        """The leaf that serves one call."""


class Plain:
    """A part without parts."""

    __slots__ = ("leaf",)

    def __init__(self, leaf: Balancer) -> None:
        self.leaf = leaf

    def choose(self, rand: Rand) -> Balancer:  # noqa: ARG002
        """The one leaf there is."""
        return self.leaf


class Counted:
    """A part whose picks Envoy counts: ``lb_healthy_panic`` of a priority in panic."""

    __slots__ = ("_count", "_leaf")

    def __init__(self, leaf: Balancer, stats: Stats, name: str) -> None:
        self._leaf = leaf
        self._count = stats.counter(name)

    def choose(self, rand: Rand) -> Balancer:  # noqa: ARG002
        """The one leaf there is."""
        self._count()
        return self._leaf


class Sampled:
    """``percent`` (whole) of the calls go to one part, the others to another."""

    __slots__ = ("_node", "_others", "_percent")

    def __init__(self, percent: int, node: Node, others: Node) -> None:
        self._percent = percent
        self._node = node
        self._others = others

    def choose(self, rand: Rand) -> Balancer:
        """One draw more."""
        node = self._node if rand() % 100 < self._percent else self._others
        return node.choose(rand)


class Chooser(Balancer):
    """``nodes[r % 100]`` serves the call; r is one draw.

    For policies that draw for themselves. Their further picks for a retry may go
    to another part, as in Envoy; a policy with retries of its own (pick_first) keeps them.
    """

    __slots__ = ("_nodes", "_own_retries", "on_outcome", "on_trailers", "policy", "refresh_at")

    def __init__(
        self,
        eligibility: Eligibility,
        turns: Iterator[int],
        policy: str,
        nodes: Sequence[Node],
        leaves: Sequence[Balancer],
    ) -> None:
        super().__init__(eligibility, turns)
        self.policy = policy
        self._nodes = tuple(nodes)
        self._own_retries = any(type(leaf).pick_other is not Balancer.pick_other for leaf in leaves)
        # What a try tells lands on the endpoint's state, so that one leaf can speak for all.
        self.on_outcome = next((b.on_outcome for b in leaves if b.on_outcome is not None), None)
        self.on_trailers = next((b.on_trailers for b in leaves if b.on_trailers is not None), None)
        times = [leaf.refresh_at for leaf in leaves]
        self.refresh_at = min((at for at in times if at is not None), default=None)

    def pick(
        self, rand: Rand, now: float = 0.0, request: PickRequest | None = None
    ) -> EndpointState | None:
        return self._nodes[rand() % 100].choose(rand).pick(rand, now, request)

    def pick_other(
        self,
        rand: Rand,
        tried: Collection[EndpointState],
        host_attempts: int,
        now: float = 0.0,
        request: PickRequest | None = None,
    ) -> EndpointState | None:
        if not self._own_retries:
            return super().pick_other(rand, tried, host_attempts, now, request)
        leaf = self._nodes[rand() % 100].choose(rand)
        return leaf.pick_other(rand, tried, host_attempts, now, request)


class SharedDraw(Chooser):
    """For the random policy: the draw that chose the part chooses the endpoint, too."""

    __slots__ = ()

    def pick(
        self, rand: Rand, now: float = 0.0, request: PickRequest | None = None
    ) -> EndpointState | None:
        r = rand()
        # Places are sampled with draws of their own.
        return self._nodes[r % 100].choose(rand).pick(lambda: r, now, request)


class ByHash(Chooser):
    """For hash policies: the request's hash chooses the part as it chooses the endpoint.

    Without a hash, one draw stands for it. Retries stay in the part.
    """

    __slots__ = ()

    def pick(
        self, rand: Rand, now: float = 0.0, request: PickRequest | None = None
    ) -> EndpointState | None:
        key = request.hash64 if request is not None else None
        if key is not None:
            return self._nodes[key % 100].choose(rand).pick(rand, now, request)
        r = rand()
        return self._nodes[r % 100].choose(rand).pick(lambda: r, now, request)

    def pick_other(
        self,
        rand: Rand,
        tried: Collection[EndpointState],
        host_attempts: int,
        now: float = 0.0,
        request: PickRequest | None = None,
    ) -> EndpointState | None:
        key = request.hash64 if request is not None else None
        r = rand() if key is None else key
        leaf = self._nodes[r % 100].choose(rand)
        draw = rand if key is not None else lambda: r
        return leaf.pick_other(draw, tried, host_attempts, now, request)


def chooser_for(policy: str, *, hashes: bool) -> type[Chooser]:
    """The chooser that goes with a leaf policy."""
    if hashes:
        return ByHash
    return SharedDraw if policy == "random" else Chooser


__all__ = [
    "ByHash",
    "Chooser",
    "Counted",
    "Node",
    "Plain",
    "Sampled",
    "SharedDraw",
    "chooser_for",
]
