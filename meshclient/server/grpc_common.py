"""What the two gRPC server interceptors share: metadata to inbound context, handlers to others.

No server, no policy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import Context
from typing import TYPE_CHECKING, Any

import grpc

from meshclient.context import settings_of
from meshclient.model.retry_marks import EXHAUSTED_HEADER, GRPC_PUSHBACK
from meshclient.telemetry.capture import capture

if TYPE_CHECKING:
    from meshclient.mesh import Mesh
    from meshclient.model.inbound import Inbound

#: Longer times than this are no deadline: grpcio reports years where the caller set none.
_FOREVER_S = 10 * 365 * 86400.0
_MARK = ((EXHAUSTED_HEADER, "true"), GRPC_PUSHBACK)


def lines_of(metadata: Iterable[Any]) -> Iterator[tuple[bytes, bytes]]:
    """Metadata as header lines; binary entries are none."""
    for key, value in metadata:
        if isinstance(value, str):
            yield key.encode("latin-1", "replace"), value.encode("latin-1", "replace")


def read(mesh: Mesh | None, metadata: Iterable[Any], left_s: float | None) -> Inbound:
    """The context of one RPC. ``left_s`` is what its ``grpc-timeout`` leaves, which gRPC itself
    has read and keeps from the metadata."""
    settings = settings_of(mesh)
    now = time.monotonic()
    inbound = capture(lines_of(metadata), settings, now, time.time())
    if settings.deadline and left_s is not None and left_s < _FOREVER_S:
        return inbound.derive(deadline=now + left_s)
    return inbound


def with_mark(metadata: Iterable[Any] | None) -> tuple[Any, ...]:
    """Trailing metadata that also says that repeating is in vain."""
    return (*(metadata or ()), *_MARK)


def iterate(
    behaviour: Callable[..., Any], request: Any, servicer: Any, context: Context
) -> Iterator[Any]:
    """A blocking method's streamed response, each message of it made in ``context``."""
    messages = None
    try:
        messages = context.run(lambda: iter(behaviour(request, servicer)))
        while True:
            try:
                message = context.run(next, messages)
            except StopIteration:
                return
            yield message
    finally:
        close = getattr(messages, "close", None)
        if close is not None:
            context.run(close)


def mark(inbound: Inbound, servicer: Any) -> None:
    """Say in the trailing metadata that repeating is in vain, if it is. With an OK status
    nobody reads it; what the status will be is not known after an exception."""
    if inbound.marks.exhausted:
        servicer.set_trailing_metadata(with_mark(servicer.trailing_metadata()))


Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


def rewrap(handler: Any, unary: Wrap, stream: Wrap) -> Any:
    """A handler whose behaviour is wrapped by kind of its *response*."""
    if handler is None:
        return None
    options = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }
    if handler.request_streaming and handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(stream(handler.stream_stream), **options)
    if handler.request_streaming:
        return grpc.stream_unary_rpc_method_handler(unary(handler.stream_unary), **options)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(stream(handler.unary_stream), **options)
    return grpc.unary_unary_rpc_method_handler(unary(handler.unary_unary), **options)


__all__ = ["iterate", "lines_of", "mark", "read", "rewrap", "with_mark"]
