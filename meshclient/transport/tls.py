"""TLS identities of targets and the default client context.

Builds ``ssl`` contexts from settings; performs no handshake and opens no
socket. Verification is never weakened unless the caller says so by name.
"""

from __future__ import annotations

import os
import ssl
from functools import lru_cache
from pathlib import Path

#: A certificate chain, or (certificate, key), or (certificate, key, password).
ClientCertificate = str | tuple[str, str] | tuple[str, str, str]


class TlsIdentity:
    """How a connection is secured: part of the key of its pool.

    ``server_hostname`` goes into SNI and is what the certificate must name.
    ``context`` decides on verification and client certificate. Build it once and
    keep it (:func:`default_context` does): contexts are compared by identity,
    because two of them cannot be compared otherwise.
    """

    __slots__ = ("_hash", "context", "server_hostname")

    def __init__(self, server_hostname: str, context: ssl.SSLContext) -> None:
        self.server_hostname = server_hostname
        self.context = context
        self._hash = hash((server_hostname, id(context)))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, TlsIdentity)
            and self.context is other.context
            and self.server_hostname == other.server_hostname
        )

    def __repr__(self) -> str:
        return f"<TlsIdentity {self.server_hostname!r}>"


def default_context(
    verify: ssl.SSLContext | str | bool = True,
    cert: ClientCertificate | None = None,
    *,
    trust_env: bool = True,
    http2: bool = False,
) -> ssl.SSLContext:
    """The context for ``verify`` and ``cert`` as httpx understands them; cached.

    ``verify`` True trusts ``SSL_CERT_FILE``/``SSL_CERT_DIR`` (if ``trust_env``),
    else certifi's roots if certifi is installed, else the system's. A string is
    a file or directory of roots; False verifies nothing. A context is used as it
    is, and never changed. ``http2`` offers h2, too, in a context of its own: give
    such a context only to an engine that speaks it. Raises OSError (``ssl.SSLError``
    is one) for files that cannot be read. Thread-safe.
    """
    if isinstance(verify, ssl.SSLContext):
        if cert is not None:
            raise ValueError("load the certificate into the context given as verify")
        return verify
    roots = _environment_roots() if verify is True and trust_env else ("", "")
    if isinstance(verify, str):
        roots = ("", verify) if Path(verify).is_dir() else (verify, "")
    return _build(bool(verify), roots, cert, http2)


def _environment_roots() -> tuple[str, str]:
    return os.environ.get("SSL_CERT_FILE", ""), os.environ.get("SSL_CERT_DIR", "")


@lru_cache(maxsize=64)
def _build(
    verify: bool, roots: tuple[str, str], cert: ClientCertificate | None, http2: bool
) -> ssl.SSLContext:
    if not verify:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        cafile, capath = roots if any(roots) else (_certifi(), "")
        context = ssl.create_default_context(cafile=cafile or None, capath=capath or None)
    context.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
    if isinstance(cert, str):
        context.load_cert_chain(cert)
    elif cert is not None:
        context.load_cert_chain(*cert)
    return context


def _certifi() -> str:
    try:
        import certifi
    except ImportError:
        return ""
    return certifi.where()
