"""WSGI middleware: what a request brings along is there for the calls made for it.

For Flask, Django and bare applications (PEP 3333), under any server. It never changes a body,
nor a status.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from meshclient.context import settings_of
from meshclient.model.retry_marks import EXHAUSTED_HEADER
from meshclient.telemetry.capture import capture
from meshclient.telemetry.propagation import INBOUND

if TYPE_CHECKING:
    from meshclient.mesh import Mesh
    from meshclient.model.inbound import Inbound

Environment = dict[str, Any]
Application = Callable[[Environment, Callable[..., Any]], Iterable[bytes]]

_PREFIX = "HTTP_"


class WSGIMiddleware:
    """``app = WSGIMiddleware(app)``, as the outermost layer.

    ``mesh`` as in :class:`meshclient.server.ASGIMiddleware`. The application and the iteration of
    its answer run in a context of their own, so that nothing of one request is left on the
    server's thread for the next one. Own threads see the request with
    :func:`meshclient.server.carry`. Thread-safe.
    """

    def __init__(self, app: Application, mesh: Mesh | None = None) -> None:
        self.app = app
        self._mesh = mesh

    def __call__(self, environ: Environment, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve one request."""
        settings = settings_of(self._mesh)
        inbound = capture(headers_of(environ), settings, time.monotonic(), time.time())
        context = copy_context()
        context.run(INBOUND.set, inbound)
        body = context.run(self.app, environ, _marking(start_response, inbound))
        # A list needs no context; a server may send it faster for knowing its length.
        return body if type(body) in (list, tuple) else _Body(body, context)


def headers_of(environ: Environment) -> Iterator[tuple[bytes, bytes]]:
    """The request's header lines; WSGI has joined those of one name by commas."""
    for key, value in environ.items():
        if key.startswith(_PREFIX) and isinstance(value, str):
            name = key[len(_PREFIX) :].replace("_", "-").lower()
            yield name.encode("latin-1"), value.encode("latin-1", "replace")


def _marking(start_response: Callable[..., Any], inbound: Inbound) -> Callable[..., Any]:
    marks = inbound.marks

    def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
        if marks.exhausted and status[:1] in ("4", "5"):
            headers = [*headers, (EXHAUSTED_HEADER, "true")]
        return start_response(status, headers, *exc_info)

    return start


class _Body:
    """The application's answer, produced in the request's context."""

    __slots__ = ("_body", "_context", "_pieces")

    def __init__(self, body: Iterable[bytes], context: Context) -> None:
        self._body = body
        self._context = context
        self._pieces: Iterator[bytes] | None = None

    def __iter__(self) -> _Body:
        self._pieces = self._context.run(iter, self._body)
        return self

    def __next__(self) -> bytes:
        if self._pieces is None:
            iter(self)
        assert self._pieces is not None
        return self._context.run(next, self._pieces)

    def close(self) -> None:
        """PEP 3333: called at the end of the request, however it ends."""
        close = getattr(self._body, "close", None)
        if close is not None:
            self._context.run(close)


__all__ = ["WSGIMiddleware", "headers_of"]
