"""What a decorated function's result or exception says about the service it called.

The function may use any client, so known exceptions are recognised by shape, not by
import. Decides nothing about what follows.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Callable, Iterable
from typing import Any

from meshclient.model.grpc_status import GRPC_STATUS
from meshclient.model.headers import HeaderMap
from meshclient.model.outcome import Outcome, ResetReason

#: A user's own verdict: an HTTP status, an :class:`Outcome`, True (success) or False
#: (failure); None: decide as usual.
Classify = Callable[[Any, "BaseException | None"], "int | bool | Outcome | None"]

_NOT_CONNECTED = {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN}

#: Class names (with their module's first part) that mean a connection was never there.
_CONNECT_ERRORS = {
    ("httpx", "ConnectError"),
    ("httpx2", "ConnectError"),
    ("httpcore", "ConnectError"),
    ("httpcore2", "ConnectError"),
    ("aiohttp", "ClientConnectorError"),
    ("urllib3", "NewConnectionError"),
}
_CONNECT_TIMEOUTS = {
    ("httpx", "ConnectTimeout"),
    ("httpx2", "ConnectTimeout"),
    ("requests", "ConnectTimeout"),
    ("urllib3", "ConnectTimeoutError"),
}
_TIMEOUTS = {
    ("httpx", "TimeoutException"),
    ("httpx2", "TimeoutException"),
    ("requests", "Timeout"),
    ("urllib3", "TimeoutError"),
    ("aiohttp", "ServerTimeoutError"),
}
_BROKEN = {
    ("httpx", "TransportError"),
    ("httpx2", "TransportError"),
    ("requests", "ConnectionError"),
    ("aiohttp", "ClientConnectionError"),
    ("urllib3", "ProtocolError"),
    ("redis", "ConnectionError"),
}


class Classifier:
    """Turns what a function gave into an outcome; None: it says nothing about the service.

    ``failures`` are further exceptions that count as a failure of the service, ``classify``
    the user's own function, asked first.
    """

    __slots__ = ("_classify", "_failures")

    def __init__(
        self,
        failures: type[BaseException] | Iterable[type[BaseException]] = (),
        classify: Classify | None = None,
    ) -> None:
        self._failures = (failures,) if isinstance(failures, type) else tuple(failures)
        self._classify = classify

    def of_result(self, result: Any) -> Outcome:
        """A result is a success, unless it is a response with another status."""
        own = self._own(result, None)
        if own is not None:
            return own
        status = _status_of(result)
        return Outcome(200) if status is None else Outcome(status, _headers_of(result))

    def of_error(self, error: BaseException) -> Outcome | None:
        """The outcome an exception stands for; None for a mistake of the function's own."""
        own = self._own(None, error)
        if own is not None:
            return own
        return _from_response(error) or _from_grpc(error) or self._from_kind(error)

    def _own(self, result: Any, error: BaseException | None) -> Outcome | None:
        if self._classify is None:
            return None
        verdict = self._classify(result, error)
        if verdict is None or isinstance(verdict, Outcome):
            return verdict
        if isinstance(verdict, bool):
            return Outcome(200) if verdict else _reset(ResetReason.REMOTE_RESET, error)
        return Outcome(verdict, error=error)

    def _from_kind(self, error: BaseException) -> Outcome | None:
        reason = _reason_of(error)
        if reason is None and isinstance(error, self._failures):
            reason = ResetReason.REMOTE_RESET
        return None if reason is None else _reset(reason, error)


def _reset(reason: ResetReason, error: BaseException | None) -> Outcome:
    connected = reason not in (ResetReason.CONNECTION_FAILURE, ResetReason.CONNECTION_TIMEOUT)
    return Outcome(reset=reason, sent=connected, error=error)


def _reason_of(error: BaseException) -> ResetReason | None:
    """From the most telling kind to the least: a connect timeout is a timeout, too."""
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__}
    if kinds & _CONNECT_TIMEOUTS:
        return ResetReason.CONNECTION_TIMEOUT
    if kinds & _CONNECT_ERRORS or isinstance(error, ConnectionRefusedError | socket.gaierror):
        return ResetReason.CONNECTION_FAILURE
    if kinds & _TIMEOUTS or isinstance(error, TimeoutError):
        return ResetReason.PER_TRY_TIMEOUT
    if kinds & _BROKEN or isinstance(error, ConnectionError | EOFError):
        return ResetReason.CONNECTION_TERMINATION
    if isinstance(error, OSError) and error.errno in _NOT_CONNECTED:
        return ResetReason.CONNECTION_FAILURE
    return None


def _status_of(result: Any) -> int | None:
    """The status of a response of httpx, requests (``status_code``) or aiohttp (``status``)."""
    for name in ("status_code", "status"):
        value = getattr(result, name, None)
        if type(value) is int and 100 <= value < 600 and hasattr(result, "headers"):
            return value
    return None


def _headers_of(response: Any) -> HeaderMap | None:
    try:
        return HeaderMap.of(list(response.headers.items()))
    except (AttributeError, TypeError, UnicodeError):
        return None


def _from_response(error: BaseException) -> Outcome | None:
    """``raise_for_status`` of httpx, requests and aiohttp leave the status on the exception."""
    response = getattr(error, "response", None)
    status = _status_of(response if response is not None else error)
    return None if status is None else Outcome(status, _headers_of(response), error=error)


def _from_grpc(error: BaseException) -> Outcome | None:
    grpc = sys.modules.get("grpc")
    if grpc is None or not isinstance(error, grpc.RpcError):
        return None
    code = error.code() if hasattr(error, "code") else None
    name = getattr(code, "name", "UNKNOWN")
    return Outcome(200, grpc_status=GRPC_STATUS.get(name, 2), error=error)


__all__ = ["Classifier", "Classify"]
