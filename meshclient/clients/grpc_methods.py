"""What blocking and asyncio gRPC channels have in common: their four kinds of methods.

The signatures are grpcio's. How a call of a method is made is each colour's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from meshclient.clients.grpc_subchannels import Sub


class ChannelMethods:
    """The part of a channel that stubs call. ``kinds``: what makes each kind of method."""

    kinds: ClassVar[Mapping[str, Callable[..., Any]]]

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return self._method("unary_unary", method, request_serializer, response_deserializer)

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return self._method("unary_stream", method, request_serializer, response_deserializer)

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return self._method("stream_unary", method, request_serializer, response_deserializer)

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return self._method("stream_stream", method, request_serializer, response_deserializer)

    def _method(self, kind: str, method: str, serialize: Any, deserialize: Any) -> Any:
        return self.kinds[kind](self, kind, method, serialize, deserialize)


class MethodOnSubs:
    """One method of a service, and the same method on each sub-channel. Thread-safe."""

    def __init__(self, kind: str, method: str, serialize: Any, deserialize: Any) -> None:
        self._kind = kind
        self._method = method if isinstance(method, str) else method.decode()
        # A stream of requests is serialized once, however often it is sent.
        self._serialize = serialize
        self._below = (None if kind.startswith("stream") else serialize, deserialize)
        self._on: dict[Sub, Any] = {}

    def on(self, sub: Sub) -> Any:
        """The method on a sub-channel."""
        found = self._on.get(sub)
        if found is None:
            for old in [known for known in list(self._on) if known.retired]:
                self._on.pop(old, None)
            make = getattr(sub.channel, self._kind)
            found = self._on[sub] = make(self._method, *self._below, _registered_method=True)
        return found


__all__ = ["ChannelMethods", "MethodOnSubs"]
