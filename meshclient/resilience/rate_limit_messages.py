"""The two messages of Envoy's rate limit service, and the headers made of an answer.

Bytes in, values out: no wire. Source: Envoy ``api/envoy/service/ratelimit/v3/rls.proto``,
``api/envoy/extensions/common/ratelimit/v3/ratelimit.proto``,
``source/extensions/filters/http/ratelimit/ratelimit_headers.cc``.
"""

from __future__ import annotations

from meshclient.model.protobuf import bytes_field, fields
from meshclient.model.rate_limit import Entries

PATH = b"/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
OVER_LIMIT = 2

#: Most headers that an answer may add, each way.
MAX_HEADERS = 100

_Pair = tuple[str, str]
_NAME = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
_SECONDS = {1: 1, 2: 60, 3: 3600, 4: 86400, 5: 30 * 86400, 6: 365 * 86400, 7: 7 * 86400}


class LimitStatus:
    """How one descriptor stands: ``unit`` is 1 second, 2 minute, 3 hour, 4 day, 5 month,
    6 year, 7 week; ``limit`` None: the service has no limit for it."""

    __slots__ = ("code", "limit", "name", "remaining", "reset_s", "unit")

    def __init__(self) -> None:
        self.code = 0
        self.limit: int | None = None
        self.unit = 0
        self.name = ""
        self.remaining = 0
        self.reset_s = 0


class RateLimitResponse:
    """What the service says of one call."""

    __slots__ = ("code", "raw_body", "request_headers", "response_headers", "statuses")

    def __init__(self) -> None:
        self.code = 0
        self.statuses: list[LimitStatus] = []
        self.response_headers: list[_Pair] = []
        self.request_headers: list[_Pair] = []
        self.raw_body = b""


def request_message(domain: str, descriptors: list[Entries]) -> bytes:
    """``RateLimitRequest``; one hit is the default."""
    parts = [bytes_field(1, domain.encode("latin-1"))]
    for entries in descriptors:
        pairs = (bytes_field(1, key.encode("latin-1")) + _text(2, value) for key, value in entries)
        parts.append(bytes_field(2, b"".join(bytes_field(1, pair) for pair in pairs)))
    return b"".join(parts)


def _text(number: int, value: str) -> bytes:
    return bytes_field(number, value.encode("latin-1")) if value else b""


def read_response(message: bytes) -> RateLimitResponse:
    """``RateLimitResponse``. Raises ValueError for anything else."""
    response = RateLimitResponse()
    for number, value in fields(message):
        if number == 1:
            response.code = _int(value)
        elif number == 2:
            response.statuses.append(_status(_bytes(value)))
        elif number == 3:
            response.response_headers.append(_header(_bytes(value)))
        elif number == 4:
            response.request_headers.append(_header(_bytes(value)))
        elif number == 5:
            response.raw_body = _bytes(value)
    if max(len(response.response_headers), len(response.request_headers)) > MAX_HEADERS:
        raise ValueError(f"more than {MAX_HEADERS} headers to add")
    return response


def _int(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise ValueError("a text where a number belongs")
    return value


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where a text belongs")
    return value


def _header(message: bytes) -> _Pair:
    """``HeaderValue``: its key, and its value as text or raw bytes."""
    name, text = "", b""
    for number, value in fields(message):
        if number == 1:
            name = _bytes(value).decode("latin-1").lower()
        elif number in (2, 3) and value:
            text = _bytes(value)
    if not name or not _NAME.issuperset(name) or any(c in text for c in b"\r\n\0"):
        raise ValueError(f"{name[:80]!a} cannot be a header to add")
    return name, text.decode("latin-1")


def _status(message: bytes) -> LimitStatus:
    status = LimitStatus()
    for number, value in fields(message):
        if number == 1:
            status.code = _int(value)
        elif number == 2:
            _read_limit(status, _bytes(value))
        elif number == 3:
            status.remaining = _int(value)
        elif number == 4:
            for part, seconds in fields(_bytes(value)):
                if part == 1:
                    status.reset_s = _int(seconds)
    return status


def _read_limit(status: LimitStatus, message: bytes) -> None:
    status.limit = 0
    for number, value in fields(message):
        if number == 1:
            status.limit = _int(value)
        elif number == 2:
            status.unit = _int(value)
        elif number == 3:
            status.name = _bytes(value).decode("latin-1")


def standing_headers(response: RateLimitResponse) -> list[_Pair]:
    """``x-ratelimit-limit``, ``-remaining`` and ``-reset`` of the descriptor that has the
    least left, with the windows of all."""
    known = [status for status in response.statuses if status.limit is not None]
    if not known:
        return []
    least = min(known, key=lambda status: status.remaining)
    windows = ""
    for status in known:
        seconds = _SECONDS.get(status.unit)
        if seconds:
            windows += f", {status.limit};w={seconds}"
            if status.name:
                windows += f';name="{_printable(status.name)}"'
    return [
        ("x-ratelimit-limit", f"{least.limit}{windows}"),
        ("x-ratelimit-remaining", str(least.remaining)),
        ("x-ratelimit-reset", str(least.reset_s)),
    ]


def _printable(name: str) -> str:
    # The service's words stand in a header line.
    return "".join(c for c in name if c >= " " and c not in '"\x7f')


__all__ = [
    "MAX_HEADERS",
    "OVER_LIMIT",
    "PATH",
    "LimitStatus",
    "RateLimitResponse",
    "read_response",
    "request_message",
    "standing_headers",
]
