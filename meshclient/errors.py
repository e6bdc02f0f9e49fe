"""Every exception that the library raises.

::

    MeshError
     ├── ConfigError                 documents that cannot be used; .diagnostics
     ├── NotReadyError               no snapshot in time; also a TimeoutError
     ├── ClosedError                 the mesh (or its client) was closed
     └── CallError                   one outbound call failed; .report
          ├── AnsweredLocally        the policy answers a decorated function's call itself
          ├── InvalidRequest         DPE  it cannot be put on the wire; also a ValueError
          ├── UnknownHost            registry_only and no policy knows the host
          ├── NoRoute                NR   the host is known, no route matches
          ├── UnknownCluster         NC   the route names a cluster that is not there
          ├── NoHealthyEndpoint      UH
          ├── Overflow               UO   a limit is reached
          │    └── CircuitOpen       UO   a circuit breaker is open
          ├── ConnectFailed          UF
          │    └── ConnectTimeout    UF
          ├── UpstreamReset          UC / UR
          ├── UpstreamProtocolError  UPE
          ├── CallTimeout            UT   also a TimeoutError
          │    ├── RouteTimeout
          │    ├── PerTryTimeout
          │    └── DeadlineExceeded  the caller's own limit
          └── SecurityError               TLS or identity that cannot be honoured

HTTP callers receive a class that is both one of these and the exception of
their own client library (:mod:`meshclient.clients.families`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshclient.model.report import CallReport
    from meshclient.model.source import Diagnostic


class MeshError(Exception):
    """Base of everything the library raises on purpose."""


class ConfigError(MeshError):
    """Policy documents that cannot be used; all their errors at once."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        errors = [d for d in self.diagnostics if d.severity == "error"]
        lines = "\n".join(f"  {d}" for d in errors)
        noun = "error" if len(errors) == 1 else "errors"
        super().__init__(f"{len(errors)} {noun} in the policy documents:\n{lines}")


class NotReadyError(MeshError, TimeoutError):
    """No usable snapshot within the time given."""


class ClosedError(MeshError):
    """The mesh is closed; it makes no more calls."""


class CallError(MeshError):
    """One outbound call failed. ``report`` tells the whole story.

    ``status``, ``flag`` and ``body`` are what Envoy would have answered.
    """

    status = 503
    flag = ""
    body = ""

    def __init__(self, message: str, report: CallReport) -> None:
        super().__init__(message)
        self.report = report

    def __reduce__(self) -> tuple[type[CallError], tuple[str, CallReport]]:
        return (type(self), (str(self), self.report))


class AnsweredLocally(CallError):
    """The policy answers in the service's place (an injected fault, a rate limit, a direct
    response), and a decorated function has no response to return: ``status`` and ``body``
    are what an HTTP caller would have got."""


class InvalidRequest(CallError, ValueError):
    """The request cannot be put on the wire: a line break in a header, a body that
    does not keep its Content-Length. Nobody's failure but the caller's; never retried."""

    status = 400
    flag = "DPE"


class UnknownHost(CallError):
    """No policy knows the host, and the mesh is ``registry_only``."""

    status = 502


class NoRoute(CallError):
    """The host is known, but none of its routes matches the request."""

    status = 404
    flag = "NR"


class UnknownCluster(CallError):
    """The route names a cluster (or subset) that does not exist."""

    flag = "NC"


class NoHealthyEndpoint(CallError):
    """The cluster has no endpoint that may be called."""

    flag = "UH"
    body = "no healthy upstream"


class Overflow(CallError):
    """A limit of the cluster is reached; nothing was sent."""

    flag = "UO"


class CircuitOpen(Overflow):
    """A circuit breaker lets no call pass at this time; nothing was sent.

    ``breaker`` says which one; ``retry_after_s`` is how long it stays open by itself, in
    seconds, None where only a hand closes it.
    """

    breaker = ""
    retry_after_s: float | None = None

    @property
    def details(self) -> dict[str, Any]:
        """What copies and pickles carry besides message and report."""
        return {"breaker": self.breaker, "retry_after_s": self.retry_after_s}

    def __reduce__(self) -> Any:
        return (type(self), (str(self), self.report), {**self.details, "body": self.body})


class ConnectFailed(CallError):
    """No connection to the chosen endpoint, after all retries."""

    flag = "UF"


class ConnectTimeout(ConnectFailed):
    """Connecting took longer than the connect timeout."""


class UpstreamReset(CallError):
    """The connection ended before the response head."""

    flag = "UC"


class UpstreamProtocolError(CallError):
    """The endpoint did not speak HTTP."""

    status = 502
    flag = "UPE"


class CallTimeout(CallError, TimeoutError):
    """A time limit ended the call."""

    status = 504
    flag = "UT"
    body = "upstream request timeout"


class RouteTimeout(CallTimeout):
    """The route's timeout over all tries is spent."""


class PerTryTimeout(CallTimeout):
    """The last try allowed took longer than the per-try timeout."""


class DeadlineExceeded(CallTimeout):
    """The caller's own time limit is spent."""


class SecurityError(CallError):
    """TLS or identity settings that cannot be honoured; the call is not made."""
