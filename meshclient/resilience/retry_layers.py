"""Other layers that repeat the same request: what their headers give away.

Two layers that each repeat twice make nine tries of one call. Reads headers; what follows is
decided in :mod:`meshclient.resilience.retry` and :mod:`meshclient.call`.
"""

from __future__ import annotations

from meshclient.model.outcome import Outcome
from meshclient.model.retry_marks import EXHAUSTED_HEADER


def repeated_in_vain(outcome: Outcome) -> bool:
    """Whether whoever answered says that it has repeated its own calls, in vain."""
    return outcome.headers is not None and EXHAUSTED_HEADER in outcome.headers


def other_layer(outcome: Outcome, inbound_attempt: int) -> str:
    """What shows that somebody else repeats the request, too; empty: nothing does.

    ``inbound_attempt``: the ``x-envoy-attempt-count`` of the request being handled, 0 without
    one. A first try proves nothing: proxies count it for requests that they never repeat.
    """
    if inbound_attempt > 1:
        return f"an outer hop repeats its requests (x-envoy-attempt-count: {inbound_attempt})"
    headers = outcome.headers
    if headers is None:
        return ""
    count = headers.get("x-envoy-attempt-count")
    if count is not None and count.isdigit() and len(count) < 10 and int(count) > 1:
        return f"a proxy in between has repeated the request (x-envoy-attempt-count: {count})"
    if headers.get("server") == "envoy":
        # A sidecar of the caller's own says so; one of the server's says istio-envoy.
        return "an Envoy in between answers (server: envoy), and may repeat requests, too"
    return ""


__all__ = ["other_layer", "repeated_in_vain"]
