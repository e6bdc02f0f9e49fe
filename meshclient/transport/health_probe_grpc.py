"""The gRPC check: ``grpc.health.v1.Health/Check``, one unary call over HTTP/2.

The two messages are a text and a number: written and read here, so that no gRPC library
is loaded. No schedule, no flags. Source: Envoy, ``source/extensions/health_checkers/grpc``;
``grpc/health/v1/health.proto``; gRPC over HTTP/2 (PROTOCOL-HTTP2.md).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from meshclient.model.check_result import PASSED, CheckResult
from meshclient.model.protobuf import bytes_field, fields
from meshclient.transport.health_probe import EngineProbe
from meshclient.transport.health_probe_http import first_bytes, request_headers
from meshclient.transport.interface import Headers, Target, WireRequest

if TYPE_CHECKING:
    from meshclient.model.health import HealthCheck

_PATH: Final = b"/grpc.health.v1.Health/Check"

#: Most bytes read of an answer, whose message has two.
MAX_ANSWER: Final = 4096

#: ``ServingStatus`` of health.proto.
SERVING: Final = 1
_STATUSES: Final = {0: "UNKNOWN", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}


class GrpcProbe(EngineProbe):
    """Asks for one service of the server; the empty name is the server as a whole."""

    __slots__ = ("_request",)

    def __init__(
        self, check: HealthCheck, target: Target, authority: str, problem: str = ""
    ) -> None:
        super().__init__(check, target, problem)
        headers = [
            *request_headers(authority, check.headers),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            (b"grpc-timeout", b"%dm" % max(1, round(check.timeout_s * 1000))),
        ]
        self._request = WireRequest(b"POST", _PATH, headers, framed(request_message(check.service)))

    async def _ask(self) -> CheckResult:
        response = await self._send(self._request)
        try:
            body = await first_bytes(response, MAX_ANSWER)
            trailers: Headers = response.get_extra_info("trailers") or []
        finally:
            await response.aclose()
        return judge(response.status, response.headers, body, trailers)


def request_message(service: str) -> bytes:
    """``HealthCheckRequest``: field 1, the name; absent when it is empty."""
    name = service.encode("utf-8")
    return bytes_field(1, name) if name else b""


def framed(message: bytes) -> bytes:
    """A message as gRPC puts it into the body: uncompressed, its length in front."""
    return struct.pack(">BI", 0, len(message)) + message


def judge(status: int, headers: Headers, body: bytes, trailers: Headers) -> CheckResult:
    """What an answer means. Any answer but "serving" is final: only silence is not."""
    found = {name.lower(): value for name, value in headers}
    # The status of an RPC counts more than that of HTTP, and stands in the head if it is all.
    code = {name.lower(): value for name, value in trailers}.get(b"grpc-status")
    if code is None and not body:
        code = found.get(b"grpc-status")
    if code is None or (status != 200 and body):
        return CheckResult("failed", f"HTTP status {status} without a gRPC status")
    if status == 200 and not _is_grpc(found.get(b"content-type", b"")):
        return CheckResult("failed", "the answer is not gRPC")
    if code != b"0":
        return CheckResult("failed", f"gRPC status {code.decode('latin-1')}")
    try:
        serving = serving_status(body)
    except ValueError as error:
        return CheckResult("failed", str(error))
    if serving != SERVING:
        return CheckResult("failed", _STATUSES.get(serving, f"serving status {serving}"))
    return PASSED


def _is_grpc(content_type: bytes) -> bool:
    """``application/grpc``, alone or with a codec or parameters."""
    base = b"application/grpc"
    return content_type.startswith(base) and content_type[len(base) : len(base) + 1] in b"+;"


def serving_status(body: bytes) -> int:
    """``HealthCheckResponse.status`` in a body of one message. Raises ValueError."""
    message: bytes | None = None
    while body:
        if len(body) < 5:
            raise ValueError("half a gRPC frame")
        compressed, length = struct.unpack_from(">BI", body)
        frame, body = body[5 : 5 + length], body[5 + length :]
        if compressed or len(frame) < length:
            raise ValueError("a gRPC frame that cannot be read")
        if length and message is not None:
            raise ValueError("more than one message")
        if length:
            message = frame
    if message is None:
        return 0
    return _status_field(message)


def _status_field(message: bytes) -> int:
    """Field 1 of a protobuf message; unknown fields are skipped, the last one counts."""
    found = 0
    for number, value in fields(message):
        if number == 1 and isinstance(value, int):
            found = value
    return found


__all__ = ["SERVING", "GrpcProbe", "framed", "judge", "request_message", "serving_status"]
