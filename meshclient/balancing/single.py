"""The trivial clusters: no eligible endpoint, or exactly one."""

from __future__ import annotations

from collections.abc import Iterator

from meshclient.balancing.base import Balancer, PickRequest, Rand
from meshclient.balancing.eligible import Eligibility
from meshclient.balancing.state import EndpointState


class Single(Balancer):
    """The one eligible endpoint, or None; nothing is drawn.

    ``policy`` is what the cluster asked for.
    """

    __slots__ = ("_only", "policy")

    def __init__(self, eligibility: Eligibility, turns: Iterator[int], policy: str) -> None:
        super().__init__(eligibility, turns)
        self.policy = policy
        self._only = self._states[0] if self._states else None

    def pick(
        self,
        rand: Rand,  # noqa: ARG002
        now: float = 0.0,  # noqa: ARG002
        request: PickRequest | None = None,  # noqa: ARG002
    ) -> EndpointState | None:
        return self._only
