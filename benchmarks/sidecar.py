"""A local Envoy in front of the server, under the same policy as the other subjects.

The configuration is made from the library's own model values by the parity
harness, so that it cannot drift from what meshclient would do.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))


def start_sidecar(port: int) -> Any:
    """An Envoy that forwards everything to ``127.0.0.1:port``.

    A context manager with ``ports`` and ``pid``.
    """
    from parity.envoy import Envoy

    from meshclient.model.cluster import Cluster
    from meshclient.model.endpoint import Endpoint
    from meshclient.model.retry import RetryPolicy
    from meshclient.model.routes import (
        ForwardAction,
        Route,
        RouteConfiguration,
        VirtualHost,
        WeightedCluster,
    )

    retry = RetryPolicy(
        frozenset({"connect-failure", "reset", "retriable-status-codes"}),
        num_retries=2,
        per_try_timeout_s=2.0,
        status_codes=frozenset({503}),
    )
    action = ForwardAction((WeightedCluster("echo"),), timeout_s=5.0, retry=retry)
    table = RouteConfiguration("echo", (VirtualHost("echo", ("*",), (Route(action),)),))
    cluster = Cluster("echo", endpoints=(Endpoint("127.0.0.1", port),))
    return Envoy([table], {"echo": cluster})
