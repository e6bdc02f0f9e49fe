"""``max_pending_requests`` for calls that httpcore carries: who still has no connection.

Counts in the cluster's own slots, together with the calls of the other engines. Which
connection serves whom is httpcore's business.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from meshclient.transport.interface import Target
from meshclient.transport.slot_waiters import too_many_pending
from meshclient.transport.slots import ConnectionSlots


class Pending:
    """One request, pending from :meth:`__enter__` until its head is sent or it gave up."""

    __slots__ = ("_slots", "_target", "_waits")

    def __init__(self, target: Target, slots: ConnectionSlots | None) -> None:
        self._target = target
        self._slots = slots
        self._waits = False

    @classmethod
    def of(cls, target: Target) -> Pending:
        """For a request to ``target``; does nothing where nothing is limited."""
        return cls(target, target.connections)

    def __enter__(self) -> Self:
        if self._slots is not None:
            if not self._slots.enter():
                raise too_many_pending(self._target)
            self._waits = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._waits and self._slots is not None:
            self._waits = False
            self._slots.leave()

    def watch(self, prepared: Any, trace: Any) -> None:
        """Have httpcore tell when the request has its connection."""
        if self._slots is not None:
            prepared.extensions["trace"] = trace

    def sync_trace(self, name: str, _info: Any) -> None:
        """See httpcore's ``trace`` extension."""
        if name.endswith("send_request_headers.started"):
            self._leave()

    async def async_trace(self, name: str, _info: Any) -> None:
        """See httpcore's ``trace`` extension."""
        self.sync_trace(name, _info)


__all__ = ["Pending"]
