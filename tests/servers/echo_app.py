"""The same small application for ASGI and WSGI servers: says what it was asked, streams, counts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

PIECE = b"0123456789abcdef" * 4096


def _answer(method: str, path: str, body_length: int) -> tuple[list[tuple[str, str]], list[bytes]]:
    if path == "/stream":
        return [], [PIECE] * 16
    text = f"{method} {path} {body_length}".encode()
    return [("content-length", str(len(text)))], [text]


async def asgi(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """For uvicorn and hypercorn."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    length, more = 0, True
    while more:
        message = await receive()
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
    headers, pieces = _answer(scope["method"], scope["path"], length)
    raw = [(n.encode(), v.encode()) for n, v in headers]
    await send({"type": "http.response.start", "status": 200, "headers": raw})
    bodies = [] if scope["method"] == "HEAD" else pieces
    for piece in bodies:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    """For gunicorn."""
    length = 0
    while data := environ["wsgi.input"].read(65536):
        length += len(data)
    method = environ["REQUEST_METHOD"]
    headers, pieces = _answer(method, environ["PATH_INFO"], length)
    start_response("200 OK", headers)
    return iter([] if method == "HEAD" else pieces)
