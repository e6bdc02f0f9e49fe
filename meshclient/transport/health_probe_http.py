"""The HTTP check: one request, judged by status, first bytes of the body and two headers.

No schedule, no flags. Source: Envoy, ``source/extensions/health_checkers/http``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from meshclient.model.check_result import PASSED, CheckResult
from meshclient.transport.health_probe import USER_AGENT, EngineProbe
from meshclient.transport.interface import AsyncWireResponse, Headers, Target, WireRequest

if TYPE_CHECKING:
    from meshclient.model.health import HealthCheck

#: Bytes of the body that are looked at (Envoy's default ``response_buffer_size``).
BODY_BYTES: Final = 1024

_DEGRADED: Final = b"x-envoy-degraded"
_IMMEDIATE_FAILURE: Final = b"x-envoy-immediate-health-check-fail"


class HttpProbe(EngineProbe):
    """Asks by HTTP/1.1, or HTTP/2 where the target says so."""

    __slots__ = ("_request",)

    def __init__(
        self, check: HealthCheck, target: Target, authority: str, problem: str = ""
    ) -> None:
        super().__init__(check, target, problem)
        self._request = WireRequest(
            check.method.encode("latin-1"),
            check.path.encode("latin-1"),
            request_headers(authority, check.headers),
        )

    async def _ask(self) -> CheckResult:
        response = await self._send(self._request)
        try:
            body = await first_bytes(response, BODY_BYTES if self.check.receive else 0)
        finally:
            await response.aclose()
        return judge(self.check, response.status, response.headers, body)


def request_headers(authority: str, extra: Iterable[tuple[str, str]]) -> Headers:
    """``extra`` takes the place of the user agent's name if it has one."""
    added = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in extra]
    headers = [(b"host", authority.encode("latin-1"))]
    if not any(name.lower() == b"user-agent" for name, _ in added):
        headers.append((b"user-agent", USER_AGENT))
    return headers + added


async def first_bytes(response: AsyncWireResponse, most: int) -> bytes:
    """The begin of the body, once all of it has come: half an answer is none."""
    begin = b""
    async for chunk in response:
        if len(begin) < most:
            begin += chunk[: most - len(begin)]
    return begin


def judge(check: HealthCheck, status: int, headers: Headers, body: bytes) -> CheckResult:
    """What an answer means. The body is looked at first, and a wrong one is final."""
    names = {name.lower() for name, _ in headers}
    immediate = _IMMEDIATE_FAILURE in names
    if not holds(body, check.receive):
        return CheckResult("failed", "the expected text is not in the body", False, immediate)
    if not _within(status, check.expected_statuses):
        kind = _within(status, check.retriable_statuses)
        return CheckResult("retriable" if kind else "failed", f"status {status}", False, immediate)
    return CheckResult("passed", degraded=True) if _DEGRADED in names else PASSED


def _within(status: int, ranges: Iterable[tuple[int, int]]) -> bool:
    return any(start <= status < end for start, end in ranges)


def holds(data: bytes, segments: Sequence[bytes]) -> bool:
    """Whether all segments are in the data, each behind the one before."""
    at = 0
    for segment in segments:
        found = data.find(segment, at)
        if found < 0:
            return False
        at = found + len(segment)
    return True


__all__ = ["BODY_BYTES", "HttpProbe", "first_bytes", "holds", "judge", "request_headers"]
