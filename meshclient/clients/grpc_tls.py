"""Channel credentials of grpcio's own for the TLS settings that it can honour.

Those that only name roots and a client certificate. Names other than the server's own,
revocation lists, the workload's own certificates and all else go through the relay
(:mod:`meshclient.clients.grpc_relay`), whose checks are the mesh's own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable
from typing import Any

import grpc

from meshclient.model.cluster import TlsSettings
from meshclient.transport import tls_context
from meshclient.transport.tls_context import RotatingContext
from meshclient.transport.tls_source import IdentityError

#: Contexts whose credentials are remembered.
_MAX_KNOWN = 1024


def is_plain(tls: TlsSettings) -> bool:
    """Whether grpcio itself checks all that ``tls`` asks for."""
    return (
        tls.mode in ("simple", "mutual")
        and tls.ca not in ("", "system")
        and not tls.crl
        and not tls.expected_names
        and not tls.insecure_skip_verify
    )


class _Made:
    """The credentials of one context, and the files they were made of."""

    __slots__ = ("check_at", "credentials", "signature")

    def __init__(self) -> None:
        self.check_at = 0.0
        self.credentials: Any = None
        self.signature: Hashable = None


class PlainTls:
    """Credentials by context; other files make other credentials. Thread-safe.

    What cannot be used never replaces what could.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[RotatingContext, _Made] = {}

    def credentials(self, context: RotatingContext) -> Any:
        """The newest good ones. Raises :class:`IdentityError` where there never were any."""
        made = self._known.get(context)
        if made is not None and time.monotonic() < made.check_at:
            return made.credentials
        with self._lock:
            made = self._known.get(context)
            if made is None:
                made = _Made()
            self._renew_locked(context, made)
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[context] = made
            return made.credentials

    def _renew_locked(self, context: RotatingContext, made: _Made) -> None:
        made.check_at = time.monotonic() + tls_context.CHECK_S
        signature = context.source.signature()
        if made.credentials is not None and signature is not None and signature == made.signature:
            return
        try:
            made.credentials = _load(context)
            # Written to while it was read: the next look reads it again.
            made.signature = signature if signature == context.source.signature() else None
        except (IdentityError, OSError) as error:
            made.signature = signature
            if made.credentials is None:
                raise IdentityError(str(error)) from error


def _load(context: RotatingContext) -> Any:
    material = context.source.load()
    # gRPC would find out in a handshake that key and certificate do not belong together.
    tls_context.build(material, context.expected, context.alpn, context.verifies)
    key = certificate = None
    if material.certificate:
        with open(material.key, "rb") as file:
            key = file.read()
        with open(material.certificate, "rb") as file:
            certificate = file.read()
    return grpc.ssl_channel_credentials(material.roots.encode("latin-1"), key, certificate)


__all__ = ["PlainTls", "is_plain"]
