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
#: A status that was not set, or set to OK; grpc.aio has numbers.
_GOOD = (None, 0, grpc.StatusCode.OK)
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


class Marking:
    """``with``: the method runs within. If it fails after retries in vain, the trailing metadata
    says that repeating is in vain, too."""

    __slots__ = ("_inbound", "_servicer")

    def __init__(self, inbound: Inbound, servicer: Any) -> None:
        self._inbound = inbound
        self._servicer = servicer

    def __enter__(self) -> None:
        """Nothing to do yet."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        failed = kind is not None or self._servicer.code() not in _GOOD
        if failed and self._inbound.marks.exhausted:
            self._servicer.set_trailing_metadata(with_mark(self._servicer.trailing_metadata()))


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


__all__ = ["Marking", "iterate", "lines_of", "read", "rewrap", "with_mark"]
