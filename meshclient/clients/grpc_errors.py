"""Failures that no server gave, as gRPC callers know them: RpcError with code and details.

Codes and texts are those that Envoy answers a gRPC request with. No decision is made here.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio

from meshclient import errors
from meshclient.call import Call
from meshclient.clients.http_common import reply_to
from meshclient.model.request import LocalReply
from meshclient.resilience.local_reply import grpc_of_http

_CODES = {code.value[0]: code for code in grpc.StatusCode}
#: What copies and pickles have besides.
_CARRIED = frozenset({"status", "flag", "body", "breaker", "retry_after_s"})
_OWN = frozenset({"grpc-status", "grpc-message", "content-type", "content-length"})


def status_code(number: int) -> grpc.StatusCode:
    """gRPC's enum member for a number; UNKNOWN for one that there is not."""
    return _CODES.get(number, grpc.StatusCode.UNKNOWN)


class _Failure:
    """What both colours share. ``error`` is the call's own, which is ``__cause__``'s place."""

    _code: grpc.StatusCode
    _details: str
    _trailing: tuple[tuple[str, str], ...]

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def debug_error_string(self) -> str:
        return str(self.args[0])  # type: ignore[attr-defined]

    def __str__(self) -> str:
        return f"{self._code.name}: {self._details} ({self.debug_error_string()})"

    __repr__ = __str__


class _SyncFailure(_Failure, grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[type-arg]
    """Like the error of a blocking call: also its (ended) call and future."""

    def initial_metadata(self) -> Any:
        return ()

    def trailing_metadata(self) -> Any:
        return self._trailing

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> float | None:  # type: ignore[override]
        return None

    def add_callback(self, callback: Any) -> bool:  # noqa: ARG002 - it has ended
        return False

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def running(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> Any:  # noqa: ARG002
        raise self

    def exception(self, timeout: float | None = None) -> Exception:  # noqa: ARG002
        return self

    def traceback(self, timeout: float | None = None) -> Any:  # noqa: ARG002
        return self.__traceback__

    def add_done_callback(self, fn: Any) -> None:
        fn(self)


class _AsyncFailure(_Failure, grpc.aio.AioRpcError):
    """Like the error of an asyncio call."""

    def initial_metadata(self) -> Any:
        return grpc.aio.Metadata()

    def trailing_metadata(self) -> Any:
        return grpc.aio.Metadata(*self._trailing)


_CLASSES: dict[tuple[type[errors.CallError], bool], type[Any]] = {}


def _class_of(kind: type[errors.CallError], sync: bool) -> type[Any]:
    """``kind`` that is an RpcError, too; one class per kind and colour."""
    found = _CLASSES.get((kind, sync))
    if found is None:

        def init(self: Any, message: str, report: Any) -> None:
            self.args = (message,)
            self.report = report

        members = {
            "__init__": init,
            "__str__": _Failure.__str__,
            "__repr__": _Failure.__str__,
            "__reduce__": _reduce,
            "__doc__": kind.__doc__,
            "__module__": kind.__module__,
        }
        colour = _SyncFailure if sync else _AsyncFailure
        found = _CLASSES[kind, sync] = type(kind.__name__, (colour, kind), members)
    return found


def _reduce(self: Any) -> tuple[Any, ...]:
    """Errors travel between processes (Celery, multiprocessing)."""
    kind = next(c for c in type(self).__mro__[1:] if c.__module__ == errors.__name__)
    values = (self.args[0], self.report, self._code.value[0], self._details, self._trailing)
    more = {name: value for name, value in vars(self).items() if name in _CARRIED}
    return (_rebuild, (kind, isinstance(self, _SyncFailure), *values), more)


def _rebuild(
    kind: type[errors.CallError],
    sync: bool,
    message: str,
    report: Any,
    code: int,
    details: str,
    trailing: tuple[tuple[str, str], ...],
) -> Exception:
    made: Any = _class_of(kind, sync)(message, report)
    made._code, made._details, made._trailing = status_code(code), details, trailing
    return made  # type: ignore[no-any-return]


def rpc_error(error: errors.CallError, call: Call, sync: bool) -> Exception:
    """A call that ended without a status of a server's."""
    trailing: tuple[tuple[str, str], ...] = ()
    if isinstance(error, errors.DeadlineExceeded):
        code, details = grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"
    elif isinstance(error, errors.InvalidRequest):
        code, details = grpc.StatusCode.INTERNAL, str(error)
    else:
        reply = reply_to(error, call)
        code, trailing = status_code(grpc_of_http(error.status)), _metadata(reply)
        details = error.body or str(error)
    made: Any = _rebuild(
        type(error), sync, str(error), error.report, code.value[0], details, trailing
    )
    made.status, made.flag, made.body = error.status, error.flag, error.body
    if isinstance(error, errors.CircuitOpen):
        made.__dict__.update(error.details)
    made.__cause__ = error.__cause__
    return made  # type: ignore[no-any-return]


def answered(reply: LocalReply, call: Call, sync: bool) -> Exception:
    """A call that the policy answers itself: an injected fault, a limit, a direct response."""
    number = reply.headers.get("grpc-status")
    code = grpc_of_http(reply.status) if number is None else int(number)
    message = reply.headers.get("grpc-message")
    details = unquote(message) if message is not None else reply.body.decode("utf-8", "replace")
    what = f"{call.host}: the policy answers in the service's place: {details or code}"
    made: Any = _rebuild(
        errors.AnsweredLocally, sync, what, call.report, code, details, _metadata(reply)
    )
    made.status = reply.status
    return made  # type: ignore[no-any-return]


def cancelled(call: Call, sync: bool) -> Exception:
    """What the caller itself has cancelled while nothing was on the wire."""
    what = f"{call.host}: cancelled by the caller"
    code = grpc.StatusCode.CANCELLED.value[0]
    details = "Locally cancelled by application!"
    return _rebuild(errors.CallError, sync, what, call.report, code, details, ())


def _metadata(reply: LocalReply) -> tuple[tuple[str, str], ...]:
    """The reply's headers, which are trailing metadata in a trailers-only response."""
    pairs = ((name.lower(), value) for name, value in reply.headers)
    return tuple(pair for pair in pairs if pair[0] not in _OWN)


__all__ = ["answered", "cancelled", "rpc_error", "status_code"]
