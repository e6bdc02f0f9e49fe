"""ASGI 3 middleware: what a request brings along is there for the calls made for it.

For starlette, FastAPI, Django, Quart and bare applications, ``http`` and ``websocket``. It never
changes a body, nor a status.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from meshclient.context import settings_of
from meshclient.model.retry_marks import EXHAUSTED_LINE
from meshclient.telemetry.capture import capture
from meshclient.telemetry.propagation import INBOUND

if TYPE_CHECKING:
    from meshclient.mesh import Mesh
    from meshclient.model.inbound import Marks

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

#: Answers from here on are failures.
FAILING = 400


class ASGIMiddleware:
    """``app = ASGIMiddleware(app)``, as the outermost layer.

    ``mesh`` says under ``propagation`` which headers are taken in, hot-reloaded; without it
    W3C, B3, baggage, request id and the usual deadlines are. It works as
    ``app.add_middleware(ASGIMiddleware, mesh=mesh)``, too, but answers that the framework makes
    of unhandled errors are made outside of it then, and lack the retry mark.

    Tasks that the application starts, thread pools of starlette and ``asyncio.to_thread`` see the
    request; ``loop.run_in_executor`` and own threads do with :func:`meshclient.server.carry`. A
    streaming response and background tasks still belong to the request. Safe for any number
    of loops.
    """

    def __init__(self, app: Application, mesh: Mesh | None = None) -> None:
        self.app = app
        self._mesh = mesh

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        settings = settings_of(self._mesh)
        inbound = capture(scope["headers"], settings, time.monotonic(), time.time())
        token = INBOUND.set(inbound)
        try:
            await self.app(scope, receive, _Marking(send, inbound.marks).send)
        finally:
            INBOUND.reset(token)


class _Marking:
    """``send`` that marks a failing answer after retries in vain."""

    __slots__ = ("_marks", "_send")

    def __init__(self, send: Send, marks: Marks) -> None:
        self._send = send
        self._marks = marks

    async def send(self, message: Message) -> None:
        # A websocket that is refused before the handshake is answered like a request.
        if self._marks.exhausted and message["type"].endswith("http.response.start"):
            message = marked(message)
        await self._send(message)


def marked(message: Message) -> Message:
    """The head of an answer, with the retry mark where it is a failure."""
    if message["status"] < FAILING:
        return message
    return {**message, "headers": [*message.get("headers", ()), EXHAUSTED_LINE]}


__all__ = ["FAILING", "ASGIMiddleware"]
