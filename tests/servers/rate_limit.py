"""A rate limit service on grpcio: remembers what it is asked, answers as it is told."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc

from meshclient.model.protobuf import bytes_field, varint

METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
OK, OVER_LIMIT = 1, 2


@dataclass
class Script:
    """The next answers: ``message``, or ``failure``, after ``delay_s``."""

    message: bytes = b"\x08\x01"
    failure: grpc.StatusCode | None = None
    delay_s: float = 0.0


class RateLimitServer(grpc.GenericRpcHandler):
    """On 127.0.0.1, a free port or ``port``. Use as a context manager."""

    def __init__(self, port: int = 0) -> None:
        self.script = Script()
        self.asked: list[bytes] = []
        self._threads = ThreadPoolExecutor(4)
        self._server = grpc.server(self._threads, options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self,))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Raw bytes in and out."""
        if details.method != METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(self._answer)

    def _answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.asked.append(request)
        script = self.script
        if script.delay_s:
            time.sleep(script.delay_s)
        if script.failure is not None:
            context.abort(script.failure, "as the script says")
        return script.message

    def close(self) -> None:
        """Stop; the port refuses connections from then on."""
        self._server.stop(None).wait(5)
        self._threads.shutdown()

    def __enter__(self) -> RateLimitServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def response(
    code: int,
    headers: dict[str, str] | None = None,
    request_headers: dict[str, str] | None = None,
    body: bytes = b"",
    statuses: tuple[bytes, ...] = (),
) -> bytes:
    """A ``RateLimitResponse``."""
    parts = [b"\x08" + varint(code)] if code else []
    parts += [bytes_field(2, one) for one in statuses]
    parts += [bytes_field(3, _header(k, v)) for k, v in (headers or {}).items()]
    parts += [bytes_field(4, _header(k, v)) for k, v in (request_headers or {}).items()]
    return b"".join(parts) + (bytes_field(5, body) if body else b"")


def _header(name: str, value: str) -> bytes:
    return bytes_field(1, name.encode()) + bytes_field(2, value.encode())


def status(code: int, limit: int, unit: int, remaining: int, reset_s: int, name: str = "") -> bytes:
    """A ``DescriptorStatus``; ``limit`` 0: it has none."""
    current = b"\x08" + varint(limit) + b"\x10" + varint(unit)
    if name:
        current += bytes_field(3, name.encode())
    parts = b"\x08" + varint(code)
    if limit:
        parts += bytes_field(2, current)
    return parts + b"\x18" + varint(remaining) + bytes_field(4, b"\x08" + varint(reset_s))


__all__ = ["OK", "OVER_LIMIT", "RateLimitServer", "Script", "response", "status"]
