"""Istio's labels for persistent sessions, on a Service or ServiceEntry.

Labels to a value; how a session is kept is not known here. Source: Istio
``pilot/pkg/networking/util`` ``MaybeBuildStatefulSessionFilterConfig``, ``cluster_builder.go``.
"""

from __future__ import annotations

from collections.abc import Mapping

from meshclient.config.reader import wire_text
from meshclient.model.load_balancing import StatefulSession

COOKIE_LABEL = "istio.io/persistent-session"
HEADER_LABEL = "istio.io/persistent-session-header"


def read_session(labels: Mapping[str, str]) -> StatefulSession | None:
    """``name`` or ``name:/path`` of a cookie, else the name of a header.

    The cookie lives as long as the caller's session. Draining endpoints keep the
    sessions they have; nothing is strict.
    """
    cookie, header = labels.get(COOKIE_LABEL, ""), labels.get(HEADER_LABEL, "")
    if cookie:
        name, colon, path = wire_text(cookie).partition(":")
        path = path if colon else "/"
        return StatefulSession("cookie", name, path, accept_draining=True)
    if header:
        return StatefulSession("header", wire_text(header).lower(), accept_draining=True)
    return None


__all__ = ["COOKIE_LABEL", "HEADER_LABEL", "read_session"]
