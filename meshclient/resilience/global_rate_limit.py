"""Global rate limit: a service that counts for everybody is asked before each call.

What is asked and what follows from the answer; the wire is the driver's. Source: Envoy
``filters/http/ratelimit/ratelimit.cc``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from meshclient.model.rate_limit import Entries, GlobalRateLimit
from meshclient.model.request import RequestHead
from meshclient.resilience.descriptors import descriptors_of, show
from meshclient.resilience.filter import Verdict
from meshclient.resilience.local_reply import is_grpc, local_reply
from meshclient.resilience.question import GrpcAnswer, GrpcQuestion
from meshclient.resilience.rate_limit_messages import (
    OVER_LIMIT,
    PATH,
    RateLimitResponse,
    read_response,
    request_message,
    standing_headers,
)

_RESOURCE_EXHAUSTED = 8
_Pair = tuple[str, str]


class GlobalRateLimitFilter:
    """Asks for one scope. Thread-safe; it keeps nothing but statistics.

    ``ok``, ``error``, ``over_limit`` and ``failure_mode_allowed`` are Envoy's of these names.
    """

    __slots__ = ("_lock", "_settings", "error", "failure_mode_allowed", "ok", "over_limit")

    def __init__(self, settings: GlobalRateLimit) -> None:
        self._settings = settings
        self._lock = threading.RLock()
        self.ok = 0
        self.error = 0
        self.over_limit = 0
        self.failure_mode_allowed = 0

    def enter(self, head: RequestHead, now: float, rand: Callable[[], int]) -> Verdict | None:  # noqa: ARG002
        """The question, where the request has a descriptor."""
        settings = self._settings
        wanted = descriptors_of(settings.actions, head)
        if not wanted:
            return None
        message = request_message(settings.domain, wanted)
        return Verdict(ask=GrpcQuestion(settings.cluster, PATH, message, settings.timeout_s))

    def after(
        self,
        held: Verdict,  # noqa: ARG002
        answer: Any,
        head: RequestHead,
        now: float,  # noqa: ARG002
        rand: Callable[[], int],  # noqa: ARG002
    ) -> Verdict | None:
        """What the answer means; no answer, or none that can be read, is a failure."""
        if not isinstance(answer, GrpcAnswer):
            answer = GrpcAnswer(None, "it was not asked")
        if answer.message is None:
            return self._failed(head, answer.problem)
        try:
            response = read_response(answer.message)
        except ValueError as error:
            return self._failed(head, str(error))
        if response.code == OVER_LIMIT:
            return self._refuse(head, response)
        with self._lock:
            self.ok += 1
        for name, value in response.request_headers:
            head.headers.add(name, value)
        added = self._response_headers(response)
        return Verdict(headers=added) if added else None

    def _response_headers(self, response: RateLimitResponse) -> list[_Pair]:
        if not self._settings.x_ratelimit_headers:
            return response.response_headers
        return [*response.response_headers, *standing_headers(response)]

    def _refuse(self, head: RequestHead, response: RateLimitResponse) -> Verdict:
        settings = self._settings
        with self._lock:
            self.over_limit += 1
        grpc_status = _RESOURCE_EXHAUSTED if settings.resource_exhausted else None
        reply = local_reply(head, settings.status, response.raw_body, grpc_status)
        added = response.response_headers
        if is_grpc(head):
            added = [pair for pair in added if pair[0] != "content-type"]
        elif any(name == "content-type" for name, _ in added):
            reply.headers.remove("content-type")
        flagged = [("x-envoy-ratelimited", "true")] if settings.x_envoy_ratelimited else []
        rest = standing_headers(response) if settings.x_ratelimit_headers else []
        for name, value in (*added, *flagged, *rest):
            reply.headers.add(name, value)
        over = self._over(head, response)
        why = f"rate limit of {settings.scope} (asked of {settings.cluster}): {over}"
        return Verdict(reply=reply, flag="RL", why=why)

    def _over(self, head: RequestHead, response: RateLimitResponse) -> str:
        """The descriptors that are over their limit, as far as the service says."""
        wanted: list[Entries] = descriptors_of(self._settings.actions, head)
        pairs = zip(wanted, response.statuses, strict=False)
        over = [show(entries) for entries, status in pairs if status.code == OVER_LIMIT]
        return f"over the limit for {'; '.join(over)}" if over else "over the limit"

    def _failed(self, head: RequestHead, problem: str) -> Verdict | None:
        settings = self._settings
        with self._lock:
            self.error += 1
            if not settings.failure_mode_deny:
                self.failure_mode_allowed += 1
        why = f"rate limit of {settings.scope}: {settings.cluster} gave no answer ({problem})"
        if not settings.failure_mode_deny:
            return Verdict(why=f"{why}: allowed")
        reply = local_reply(head, settings.status_on_error)
        return Verdict(reply=reply, flag="RLSE", why=f"{why}: refused")

    def leave(self, status: int, grpc_status: int, started: float, now: float) -> None:
        """What was counted stays counted, at the service."""

    def describe(self) -> dict[str, Any]:
        """Statistics, for dumps."""
        return {
            "scope": self._settings.scope,
            "cluster": self._settings.cluster,
            "ok": self.ok,
            "error": self.error,
            "over_limit": self.over_limit,
            "failure_mode_allowed": self.failure_mode_allowed,
        }

    def __str__(self) -> str:
        settings = self._settings
        keys = "; ".join(", ".join(a.key for a in actions) for actions in settings.actions)
        failed = "refused" if settings.failure_mode_deny else "let pass"
        return (
            f"rate limit of {settings.scope}: {settings.cluster} is asked for "
            f"{settings.timeout_s * 1000:g} ms (domain {settings.domain}, by {keys}), "
            f"without an answer calls are {failed}"
        )


__all__ = ["GlobalRateLimitFilter"]
