"""The address that this process calls from, as others see it. Sends nothing.

For routes that hash the caller's address: a sidecar would see the pod's.
"""

from __future__ import annotations

import os
import socket
from functools import cache

#: Where Kubernetes' downward API usually puts the pod's address; Istio's name comes first.
_VARIABLES = ("INSTANCE_IP", "POD_IP")

#: RFC 5737 and RFC 3849: addresses for documentation, reached by the default route.
_FAR = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


@cache
def own_address() -> str:
    """The pod's address from the environment, else that of the default route, else ``""``.

    Connecting a datagram socket chooses an address without a packet. Found once per process.
    """
    for name in _VARIABLES:
        value = os.environ.get(name, "").strip()
        if value:
            return value.partition(",")[0]
    for family, far in _FAR:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((far, 9))
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return ""


__all__ = ["own_address"]
