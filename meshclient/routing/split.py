"""Choosing one of the weighted clusters of a route.

Source: Envoy ``weighted_cluster_specifier.cc``: value modulo the sum of the
weights, half-open intervals in list order; a configured header beats the
random number when it holds exactly one unsigned 64-bit integer.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

from meshclient.model.format_string import request_header
from meshclient.model.request import RequestHead
from meshclient.model.routes import ForwardAction, WeightedCluster
from meshclient.routing.text import parse_integer

UINT64_MAX = 2**64 - 1


class Split:
    """The targets of one forward action, ready to be picked from."""

    __slots__ = ("_bounds", "_cluster_header", "_clusters", "_single", "_total", "_weight_header")

    def __init__(self, action: ForwardAction) -> None:
        self._clusters = action.clusters
        self._bounds = list(accumulate(cluster.weight for cluster in action.clusters))
        self._total = self._bounds[-1] if self._bounds else 0
        self._single = action.clusters[0] if len(action.clusters) == 1 else None
        self._weight_header = action.weight_header.lower()
        self._cluster_header = action.cluster_header.lower()

    @property
    def is_random(self) -> bool:
        """Whether a pick may depend on the random number."""
        return self._total > 0 and len(self._clusters) > 1

    def pick(self, head: RequestHead, random64: int) -> WeightedCluster | None:
        """The cluster for this request; None: the naming header is absent or
        empty, or no target has any weight."""
        if self._single is not None:
            return self._single
        if self._cluster_header:
            name = request_header(head, self._cluster_header)
            return WeightedCluster(name) if name else None
        if not self._total:
            return None
        value = self._header_value(head) if self._weight_header else None
        value = (random64 if value is None else value) % self._total
        return self._clusters[bisect_right(self._bounds, value)]

    def _header_value(self, head: RequestHead) -> int | None:
        values = head.headers.get_all(self._weight_header)
        return parse_integer(values[0], 0, UINT64_MAX) if len(values) == 1 else None
