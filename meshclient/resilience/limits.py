"""How many requests a cluster may have in flight at a time.

Counts whole tries, from the pick of the endpoint to the end of the response body.
Connections and those who wait for one are the transport's. Source: Envoy
``resource_manager_impl.h`` (``max_requests``: a try is admitted while ``count < max``).
"""

from __future__ import annotations

import threading

from meshclient.model.cluster import UNLIMITED, Limits


class RequestLimit:
    """The requests of one cluster, on all threads and event loops. Thread-safe, O(1)."""

    __slots__ = ("_lock", "_max_requests", "active")

    def __init__(self, max_requests: int) -> None:
        self._max_requests = max_requests
        # Re-entrant: a destructor that ends a request may run at any allocation.
        self._lock = threading.RLock()
        #: Requests in flight. Never above the limit, never below zero.
        self.active = 0

    def acquire(self) -> bool:
        """Count a request in; False when the limit is reached."""
        with self._lock:
            if self.active >= self._max_requests:
                return False
            self.active += 1
            return True

    def release(self) -> None:
        """A request that was counted in is over."""
        with self._lock:
            if self.active > 0:
                self.active -= 1

    def __repr__(self) -> str:
        return f"<RequestLimit {self.active} of {self._max_requests}>"


def request_limit(limits: Limits) -> RequestLimit | None:
    """The counter for ``limits``; None where there is no limit, and nothing to count."""
    return None if limits.max_requests >= UNLIMITED else RequestLimit(limits.max_requests)
