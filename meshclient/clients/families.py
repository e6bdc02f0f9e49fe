"""The client libraries that speak the httpx transport API: httpx and httpx2.

A client accepts responses, streams and errors of its own family only, so each
object that goes back is made from the family of the request. The family's
module is already imported when a request of it exists; nothing here imports
a client library.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

from meshclient import errors

#: Which exception of the family a caller would already catch.
_COUNTERPARTS: dict[type[errors.CallError], str] = {
    errors.CallError: "TransportError",
    errors.InvalidRequest: "LocalProtocolError",
    errors.UnknownHost: "ConnectError",
    errors.NoRoute: "ConnectError",
    errors.UnknownCluster: "ConnectError",
    errors.NoHealthyEndpoint: "ConnectError",
    errors.Overflow: "ConnectError",
    errors.CircuitOpen: "ConnectError",
    errors.SecurityError: "ConnectError",
    errors.ConnectFailed: "ConnectError",
    errors.ConnectTimeout: "ConnectTimeout",
    errors.UpstreamReset: "ReadError",
    errors.UpstreamProtocolError: "RemoteProtocolError",
    errors.CallTimeout: "ReadTimeout",
    errors.RouteTimeout: "ReadTimeout",
    errors.PerTryTimeout: "ReadTimeout",
    errors.DeadlineExceeded: "ReadTimeout",
}


class Family:
    """One client library: its classes, and the errors and streams made for it."""

    __slots__ = (
        "_errors",
        "_module",
        "async_stream",
        "byte_stream",
        "name",
        "not_read",
        "response",
        "sync_stream",
    )

    def __init__(self, name: str) -> None:
        module: Any = sys.modules[name]
        self.name = name
        self._module = module
        self.response: Any = module.Response
        self.byte_stream: Any = module.ByteStream
        self.not_read: type[Exception] = module.RequestNotRead
        self.sync_stream: Any = type("MeshStream", (_SyncStream, module.SyncByteStream), {})
        self.async_stream: Any = type("AsyncMeshStream", (_AsyncStream, module.AsyncByteStream), {})
        self._errors: dict[tuple[type[errors.CallError], str], type[Exception]] = {}

    def unsupported(self, request: Any) -> Exception:
        """What the family itself raises for a scheme that is not HTTP."""
        message = f"{request.url.scheme!r} is not supported: use http:// or https://"
        return self._module.UnsupportedProtocol(message, request=request)  # type: ignore[no-any-return]

    def error(self, error: errors.CallError, request: Any, timeout: str = "") -> Exception:
        """``error`` as the family's own exception, too.

        ``timeout`` (``"write"``, ``"pool"``; default: what the wire's error says)
        narrows a timeout to the family's more exact class.
        """
        kind = type(error)
        counterpart = {"write": "WriteTimeout", "pool": "PoolTimeout"}.get(
            timeout or getattr(error.__cause__, "timeout", ""),
            _COUNTERPARTS.get(kind, "TransportError"),
        )
        cls = self._errors.get((kind, counterpart))
        if cls is None:
            cls = self._errors[kind, counterpart] = _combine(
                kind, getattr(self._module, counterpart), self.name
            )
        made: Any = cls(str(error), error.report, request)
        made.status, made.body, made.flag = error.status, error.body, error.flag
        if isinstance(error, errors.CircuitOpen):
            vars(made).update(error.details)
        made.__cause__ = error.__cause__
        return made  # type: ignore[no-any-return]


def _combine(kind: type[errors.CallError], counterpart: Any, family: str) -> type[Exception]:
    def init(self: Any, message: str, report: Any, request: Any = None) -> None:
        counterpart.__init__(self, message, request=request)
        self.args = (message,)
        self.report = report

    def reduce(self: Any) -> tuple[Any, ...]:
        answer = {"status": self.status, "body": self.body, "flag": self.flag}
        if isinstance(self, errors.CircuitOpen):
            answer |= self.details
        return (_rebuild, (kind, counterpart, family, str(self), self.report), answer)

    members = {
        "__init__": init,
        "__reduce__": reduce,
        "__doc__": kind.__doc__,
        "__module__": kind.__module__,
    }
    return type(kind.__name__, (kind, counterpart), members)


def _rebuild(
    kind: type[errors.CallError], counterpart: Any, family: str, message: str, report: Any
) -> Exception:
    """Unpickle an error in a process that may not have raised one like it."""
    return _combine(kind, counterpart, family)(message, report)


class _SyncStream:
    """A response body on its way; closing it ends the try."""

    def __init__(self, exchange: Any) -> None:
        self._exchange = exchange

    def __iter__(self) -> Iterator[bytes]:
        return self._exchange.chunks()  # type: ignore[no-any-return]

    def close(self) -> None:
        self._exchange.close()


class _AsyncStream:
    """A response body on its way; closing it ends the try."""

    def __init__(self, exchange: Any) -> None:
        self._exchange = exchange

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._exchange.chunks()  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        await self._exchange.aclose()


_FAMILIES: dict[type[Any], Family] = {}


def family_of(request: Any) -> Family:
    """The family of a request object. Bounded: one entry per request class."""
    cls = type(request)
    family = _FAMILIES.get(cls)
    if family is None:
        family = Family(_family_name(cls))
        if len(_FAMILIES) < 64:
            _FAMILIES[cls] = family
    return family


def _family_name(cls: type[Any]) -> str:
    for base in cls.__mro__:
        root = base.__module__.partition(".")[0]
        if root in ("httpx", "httpx2") and root in sys.modules:
            return root
    raise TypeError(f"{cls.__module__}.{cls.__qualname__} is not a request of httpx or httpx2")
