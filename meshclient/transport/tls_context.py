"""A client context that stays the same object while its certificates change.

Builds OpenSSL contexts of material, checks the server's names inside the
handshake, and hands the newest good context to each new connection. It opens
no socket and knows no policy document.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
import time
from collections.abc import Hashable, Sequence
from datetime import UTC, datetime
from typing import Any
from weakref import WeakSet

from meshclient.model.cluster import SanMatcher
from meshclient.model.regex import RegexError
from meshclient.transport.tls_names import any_matches, describe_names, presented_names
from meshclient.transport.tls_sessions import ResumableObject, ResumableSocket, SessionStore
from meshclient.transport.tls_source import IdentityError, IdentitySource, Material
from meshclient.transport.tls_validity import validity

#: Least seconds between two looks at the files of one context.
CHECK_S = 1.0
#: Roots beyond this size take long enough to load to matter to an event loop.
_CHEAP_ROOTS = 200_000

_log = logging.getLogger("meshclient.tls")


class ServerNameError(ssl.SSLCertVerificationError):
    """A trusted certificate of somebody else."""


def check_names(expected: Sequence[SanMatcher], certificate: dict[str, Any] | None) -> None:
    """Raises :class:`ServerNameError` unless the certificate carries an expected name."""
    names = presented_names(certificate)
    try:
        if any_matches(expected, names):
            return
    except RegexError as error:  # event loops expect nothing but ssl's errors here
        raise ServerNameError(1, f"an expected name cannot be used: {error}") from error
    wanted = ", ".join(str(matcher) for matcher in expected)
    raise ServerNameError(
        1, f"the certificate is for {describe_names(names)}; expected is {wanted}"
    )


class _CheckedObject(ResumableObject):
    """For event loops. The check stands before the first byte of a request."""

    def do_handshake(self) -> None:
        super().do_handshake()
        expected = self.context.expected  # type: ignore[attr-defined]
        if expected:
            check_names(expected, self.getpeercert())


class _CheckedSocket(ResumableSocket):
    """For blocking sockets."""

    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        expected = self.context.expected  # type: ignore[attr-defined]
        if expected:
            check_names(expected, self.getpeercert())


class _Built(ssl.SSLContext):
    """One OpenSSL context, made of one state of the material."""

    expected: tuple[SanMatcher, ...]
    not_after: datetime | None
    cheap: bool

    def __new__(cls) -> _Built:
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self) -> None:
        self.expected = ()
        self.not_after = None
        self.cheap = True
        #: With the context they go: a session made under an old certificate or an
        #: old CA is never offered under a new one.
        self.sessions = SessionStore()
        self.sslobject_class = _CheckedObject
        self.sslsocket_class = _CheckedSocket


def build(
    material: Material, expected: tuple[SanMatcher, ...], alpn: tuple[str, ...], verify: bool
) -> _Built:
    """A context for TLS 1.2 and 1.3. Without ``expected`` the certificate has to
    name the server asked for. Raises :class:`IdentityError`."""
    context = _Built()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.expected = expected
        context.check_hostname = not expected
        _load_roots(context, material)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if material.certificate:
        _load_chain(context, material)
    return context


def _load_roots(context: _Built, material: Material) -> None:
    # Envoy trusts an intermediate that stands among the roots, too.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        if material.roots:
            context.cheap = len(material.roots) < _CHEAP_ROOTS
            context.load_verify_locations(cadata=material.roots)
        else:
            context.cheap = False
            context.load_default_certs()
        if material.crl:
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
            # Envoy, too, wants a list of every issuer in the chain.
            context.load_verify_locations(cafile=material.crl)
    except (ssl.SSLError, ValueError, OSError) as error:
        raise IdentityError(f"CA certificates or CRL cannot be read: {error}") from error


def _load_chain(context: _Built, material: Material) -> None:
    try:
        # The password keeps OpenSSL from asking the terminal for one.
        context.load_cert_chain(material.certificate, material.key, password="")
    except (ssl.SSLError, ValueError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        if reason == "KEY_VALUES_MISMATCH":
            why = "is not the key of the certificate"
            raise IdentityError(f"key {material.key}: {why} {material.certificate}") from error
        raise IdentityError(
            f"certificate {material.certificate} with key {material.key}: {reason}"
        ) from error
    try:
        _, context.not_after = validity(material.leaf)
    except ValueError as error:
        raise IdentityError(f"certificate {material.certificate}: {error}") from error


class RotatingContext(ssl.SSLContext):
    """Wraps each new connection with the newest good certificates of ``source``.

    Old connections keep theirs. The source is looked at when a connection is
    opened, at most once per :data:`CHECK_S`; what cannot be loaded never
    replaces what could. Loading happens on the spot where that takes a
    millisecond or two or the caller may block, else on a thread of its own.
    ALPN is fixed: ``set_alpn_protocols`` does nothing. Thread-safe.
    """

    def __new__(cls, *_args: object, **_options: object) -> RotatingContext:
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(
        self,
        source: IdentitySource,
        expected: tuple[SanMatcher, ...] = (),
        alpn: tuple[str, ...] = ("http/1.1",),
        *,
        verify: bool = True,
    ) -> None:
        self.source = source
        self.expected = expected
        self.alpn = alpn
        self.verifies = verify
        #: Why the newest material is not in use; empty when it is.
        self.rejected = ""
        self._built: _Built | None = None
        self._seen: Hashable = None
        self._check_at = 0.0
        self._lock = threading.Lock()
        self._loader: threading.Thread | None = None
        _live.add(self)

    def problem(self) -> str:
        """Why no connection can be opened now; empty when it can."""
        if self._built is None:
            self._look(may_block=True)
        return "" if self._built is not None else self.rejected

    @property
    def not_after(self) -> datetime | None:
        """End of the client certificate's validity; None without one."""
        return None if self._built is None else self._built.not_after

    def set_alpn_protocols(self, alpn_protocols: object) -> None:
        """Ignored: client libraries call this on a context they are given."""

    def wrap_socket(self, sock: Any, *args: Any, **options: Any) -> Any:
        """:meth:`ssl.SSLContext.wrap_socket` with the newest good certificates."""
        return self._newest(may_block=True).wrap_socket(sock, *args, **options)

    def wrap_bio(self, *args: Any, **options: Any) -> Any:
        """:meth:`ssl.SSLContext.wrap_bio` with the newest good certificates."""
        return self._newest(may_block=False).wrap_bio(*args, **options)

    def at(self, endpoint: Hashable) -> ContextAt:
        """This context for connections to ``endpoint``, which resume each other's sessions."""
        return ContextAt(self, endpoint)

    def _newest(self, *, may_block: bool) -> _Built:
        if time.monotonic() >= self._check_at:
            self._look(may_block=may_block)
        built = self._built
        if built is None:
            raise ssl.SSLError(1, self.rejected)
        return built

    def _look(self, *, may_block: bool) -> None:
        with self._lock:
            if time.monotonic() < self._check_at:
                return
            signature = self.source.signature()
            if self._check_at and signature is not None and signature == self._seen:
                self._check_at = time.monotonic() + CHECK_S
                return
            built = self._built
            if built is None or built.cheap or may_block or _is_over(built.not_after):
                self._load(signature)
            elif self._loader is None or not self._loader.is_alive():
                self._loader = threading.Thread(
                    target=self._load, args=(signature,), name="meshclient-tls-load", daemon=True
                )
                self._loader.start()
            self._check_at = time.monotonic() + CHECK_S

    def _load(self, signature: Hashable) -> None:
        """Take over the material if it is good; else keep what there is."""
        try:
            material = self.source.load()
            built = build(material, self.expected, self.alpn, self.verifies)
        except IdentityError as error:
            self._reject(str(error))
        else:
            self._built, self.rejected = built, ""
        # Written to while it was read: the next look reads it again.
        self._seen = signature if signature == self.source.signature() else None

    def _reject(self, why: str) -> None:
        if why != self.rejected:
            kept = "the last good ones stay in use" if self._built else "calls are refused"
            _log.warning("TLS files cannot be used, %s: %s", kept, why)
        self.rejected = why

    def forget_locks(self) -> None:
        """In the child of a fork: another thread's lock would stay taken for ever."""
        self._lock = threading.Lock()
        self._loader = None
        if self._built is not None:
            self._built.sessions = SessionStore()


class ContextAt:
    """What client libraries and event loops ask of a client context, for one endpoint.

    Not an ``ssl.SSLContext``: making one costs more than the handshakes it would save.
    Sessions are shared by blocking sockets, event loops and trio. Thread-safe.
    """

    __slots__ = ("_context", "_endpoint")

    def __init__(self, context: RotatingContext, endpoint: Hashable) -> None:
        self._context = context
        self._endpoint = endpoint

    def wrap_socket(self, sock: Any, *, server_hostname: str | None = None, **options: Any) -> Any:
        """See :meth:`RotatingContext.wrap_socket`."""
        built = self._context._newest(may_block=True)
        key = (server_hostname, self._endpoint)
        options["session"] = built.sessions.take(key)
        wrapped = built.wrap_socket(sock, server_hostname=server_hostname, **options)
        wrapped.resume_key = key  # type: ignore[attr-defined]
        return wrapped

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """See :meth:`RotatingContext.wrap_bio`."""
        built = self._context._newest(may_block=False)
        name = server_hostname.decode() if isinstance(server_hostname, bytes) else server_hostname
        key = (name, self._endpoint)
        wrapped = built.wrap_bio(
            incoming, outgoing, server_side, server_hostname, session or built.sessions.take(key)
        )
        wrapped.resume_key = key  # type: ignore[attr-defined]
        return wrapped

    def set_alpn_protocols(self, alpn_protocols: object) -> None:
        """Ignored, as by :class:`RotatingContext`."""

    def __repr__(self) -> str:
        return f"<ContextAt {self._endpoint!r} of {self._context!r}>"


def _is_over(moment: datetime | None) -> bool:
    return moment is not None and datetime.now(UTC) >= moment


_live: WeakSet[RotatingContext] = WeakSet()


def _after_fork() -> None:
    for context in list(_live):
        context.forget_locks()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
