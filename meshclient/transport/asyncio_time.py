"""The time limits of one asyncio connection, on a timer that is rarely touched.

When a wait has to be over, and what happens then; nothing is read, written or
parsed in here.
"""

from __future__ import annotations

import asyncio
import math
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from meshclient.transport.interface import TimeoutKind, WireError, WireRequest, timeout_error

if TYPE_CHECKING:
    from meshclient.transport.asyncio_response import StreamingResponse


class TimedProtocol(asyncio.Protocol, ABC):
    """``_busy``: an exchange is under way; only then a limit means anything."""

    __slots__ = (
        "_busy",
        "_head_kind",
        "_head_limit",
        "_limit",
        "_limit_kind",
        "_timer",
        "_timer_at",
        "loop",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._busy = False
        self._limit = self._timer_at = math.inf
        self._limit_kind: TimeoutKind = ""
        self._head_limit = math.inf
        self._head_kind: TimeoutKind = ""
        self._timer: asyncio.TimerHandle | None = None

    @abstractmethod
    def _fail(self, error: WireError) -> None:
        """End the exchange with ``error``."""

    def set_limit(self, when: float, kind: TimeoutKind) -> None:
        """When (monotonic) the wait of this moment has to be over; infinity: never.

        One timer per connection, not per wait: it stays when the limit moves
        away (and looks again when it fires), and is replaced only when the new
        limit comes earlier. So most requests start no timer and cancel none.
        """
        self._limit = when
        self._limit_kind = kind
        if when < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = when
            self._timer = self.loop.call_later(max(0.0, when - time.monotonic()), self._look)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        limit = self._limit
        if limit == math.inf or not self._busy:
            return
        if time.monotonic() < limit:
            self.set_limit(limit, self._limit_kind)
        else:
            self._fail(timeout_error(self._limit_kind, True))

    def await_body(self, response: StreamingResponse) -> None:
        """A reader starts to wait for body bytes."""
        if response.read_timeout_s is not None:
            limit = time.monotonic() + response.read_timeout_s
            if response.deadline is None or limit < response.deadline:
                self.set_limit(limit, "read")

    def body_arrived(self, response: StreamingResponse) -> None:
        """Nobody waits: only the deadline counts."""
        self.set_limit(math.inf if response.deadline is None else response.deadline, "deadline")

    def _limit_head(self, request: WireRequest) -> None:
        """The request is written: from here the response has its time."""
        response_s, read_s = request.response_timeout_s, request.read_timeout_s
        limit = math.inf if request.deadline is None else request.deadline
        kind: TimeoutKind = "deadline"
        if response_s is not None or read_s is not None:
            now = time.monotonic()
            if response_s is not None and now + response_s < limit:
                limit, kind = now + response_s, "response"
            if read_s is not None:
                self._head_limit, self._head_kind = limit, kind
                if now + read_s < limit:
                    limit, kind = now + read_s, "read"
        self.set_limit(limit, kind)

    def _limit_rest_of_head(self, read_s: float) -> None:
        """A part of the head came: the read timeout starts again, the others go on."""
        limit = time.monotonic() + read_s
        if limit < self._head_limit:
            self.set_limit(limit, "read")
        else:
            self.set_limit(self._head_limit, self._head_kind)
