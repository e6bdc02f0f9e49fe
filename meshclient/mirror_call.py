"""The call that carries a copy of another call's request to a mirror's cluster.

One try, with the limits, the balancing and the outlier detection of that cluster, and no
route: the request was finished by the route of the original. Sans-IO like
:mod:`meshclient.call`. Source: Envoy ``shadow_writer_impl.cc``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from meshclient import errors
from meshclient.attempt import Attempt
from meshclient.call import Call
from meshclient.resilience import expected_timeout_ms

if TYPE_CHECKING:
    from meshclient.model.request import RequestHead
    from meshclient.plane import Plane
    from meshclient.resilience import RetryStrategy

#: Longest life of a copy whose route has no timeout (seconds): nobody else ends it.
LONGEST_S: Final = 60.0


class MirrorCall(Call):
    """One copy. ``timeout_s`` is the route's timeout; None: :data:`LONGEST_S`."""

    __slots__ = ("_name", "_timeout_s")

    def __init__(
        self,
        plane: Plane,
        cluster: str,
        head: RequestHead,
        now: float,
        rand: Callable[[], int],
        timeout_s: float | None = None,
    ) -> None:
        self._name = cluster
        self._timeout_s = timeout_s
        super().__init__(plane, head, now, rand)

    def _decide_route(
        self,
        strategies: dict[str, RetryStrategy] | None,  # noqa: ARG002
        dry: bool,  # noqa: ARG002
    ) -> None:
        self._random64 = 0
        cluster = self.plane.clusters.get(self._name)
        if cluster is None:
            what = f"the mirror names cluster {self._name!r}, which does not exist"
            self.error = errors.UnknownCluster(f"{self._what()}: {what}", self.report)
            return
        self.cluster = cluster
        self.lane = cluster.lane
        self.timeout_s = self._timeout_s
        if cluster.refusal:
            self.error = errors.SecurityError(f"{self._what()}: {cluster.refusal}", self.report)

    def next_attempt(self, now: float) -> Attempt:
        """The only try; its deadline bounds the whole copy, its answer's body included."""
        attempt = super().next_attempt(now)
        attempt.deadline = self._started + (self.timeout_s or LONGEST_S)
        expected = expected_timeout_ms(self.timeout_s, None, 0.0)
        if expected is not None:
            attempt.set_header(b"x-envoy-expected-rq-timeout-ms", b"%d" % expected)
        return attempt

    @property
    def cluster_name(self) -> str:
        """The mirror's cluster, even when it does not exist."""
        return self._name


__all__ = ["LONGEST_S", "MirrorCall"]
