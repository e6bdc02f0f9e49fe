"""One copy of a request on its way, and its answer next to the real one.

The same steps on a thread and in a task. How many there are, and when they end at the
latest, is :mod:`meshclient.clients.mirroring`.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from meshclient.clients import http_common as common
from meshclient.clients.mirror_compare import MAX_BODY, Answer, can_compare, differences
from meshclient.errors import CallError
from meshclient.mirror_call import MirrorCall
from meshclient.model.headers import HeaderMap
from meshclient.model.outcome import Outcome
from meshclient.transport.abort import Abort, AbortableRequest
from meshclient.transport.interface import WireError

if TYPE_CHECKING:
    from meshclient.attempt import Attempt
    from meshclient.call import Call
    from meshclient.clients.mirroring import Mirroring
    from meshclient.model.hedging import Comparison
    from meshclient.model.request import RequestHead
    from meshclient.model.routes import Mirror
    from meshclient.transport.interface import WireRequest

#: Bytes of an answer that are read before it is cut off.
MAX_READ: Final = 16 * 1024 * 1024

_NO_TIMEOUTS: dict[str, float | None] = {}


class Pair:
    """The two answers that are compared, whichever comes first."""

    __slots__ = ("_cluster", "_copied", "_lock", "_mirror", "_mirroring", "_real")

    def __init__(self, mirroring: Mirroring, mirror: Mirror, cluster: str) -> None:
        self._mirroring = mirroring
        self._mirror = mirror
        self._cluster = cluster
        self._lock = threading.Lock()
        self._real: Answer | None = None
        self._copied: Answer | None = None

    def add(self, real: Answer | None, copied: Answer | None) -> None:
        with self._lock:
            self._real = self._real or real
            self._copied = self._copied or copied
            real, copied = self._real, self._copied
        wanted = self._mirror.compare
        if real is None or copied is None or wanted is None:
            return
        # Not here: reading JSON takes its time, and the caller may be the one who came last.
        if not can_compare(wanted, real, copied) or not self._mirroring.on_thread(
            partial(self._compare, wanted, real, copied)
        ):
            self._mirroring.count(self._mirror.cluster, "not_compared")

    def _compare(self, wanted: Comparison, real: Answer, copied: Answer) -> None:
        found = differences(wanted, real, copied)
        self._mirroring.compared(self._cluster, self._mirror.cluster, found)


class Copy:
    """One copy: the same steps on a thread (``carry``) and in a task (``carry_async``)."""

    __slots__ = (
        "_body",
        "_call",
        "_driver",
        "_mirror",
        "_mirroring",
        "_pair",
        "_request",
        "_runtime",
        "abort",
        "attempt",
    )

    def __init__(
        self,
        mirroring: Mirroring,
        driver: Any,
        call: Call,
        request: Any,
        body: bytes | None,
        mirror: Mirror,
        head: RequestHead,
        pair: Pair | None,
    ) -> None:
        self._mirroring = mirroring
        self._driver = driver
        self._request = request
        self._body = body
        self._mirror = mirror
        self._pair = pair
        self._runtime = runtime = driver._runtime
        self._call = MirrorCall(
            call.plane, mirror.cluster, head, runtime.clock(), runtime.rand, call.timeout_s
        )
        self.abort = Abort()
        self.attempt: Attempt | None = None

    def carry(self) -> None:
        """On a thread."""
        end = "failed"
        try:
            target, request = self._begin()
            wire = self._driver._engine.send(target, AbortableRequest(request, self.abort))
            kept = _Kept(wire, self._head(wire))
            try:
                if wire.content is None:
                    for piece in wire:
                        if not kept.take(piece):
                            break
            finally:
                wire.close()
            end = self._whole(kept)
        except CallError:
            pass  # counted as failed
        except WireError as error:
            end = "cancelled" if self.abort.aborted else self._broken(error)
        finally:
            self._over(end)

    async def carry_async(self) -> None:
        """In a task. Nothing is awaited after a cancellation."""
        end = "cancelled"
        wire: Any = None
        try:
            target, request = self._begin()
            wire = await self._driver._engine.send(target, request)
            kept = _Kept(wire, self._head(wire))
            if wire.content is None:
                async for piece in wire:
                    if not kept.take(piece):
                        break
            await wire.aclose()
            end = self._whole(kept)
        except CallError:
            end = "failed"
        except WireError as error:
            end = self._broken(error)
        except Exception:
            end = "failed"  # it must not fail what the loop runs besides
        finally:
            if wire is not None and end != "completed":
                wire.drop()
            self._over(end)

    def called_off(self) -> None:
        """It never began."""
        self._over("cancelled")

    def _begin(self) -> tuple[Any, WireRequest]:
        now = self._runtime.clock()
        self._call._started = now
        self.attempt = attempt = self._call.next_attempt(now)
        target = self._driver._targets.of(self._call, attempt, self._request)
        return target, common.wire_request(self._call, attempt, self._body, _NO_TIMEOUTS)

    def _head(self, wire: Any) -> bool:
        """The answer's head counts for the cluster; whether the body is wanted, too."""
        assert self.attempt is not None
        outcome = Outcome(wire.status, HeaderMap(wire.headers))
        self._call.settle(self.attempt, outcome, self._runtime.clock())
        compare = self._mirror.compare
        return compare is not None and compare.json

    def _broken(self, error: WireError) -> str:
        attempt = self.attempt
        if attempt is not None:
            outcome = common.failure(attempt, error)
            if attempt.kind is None:
                self._call.settle(attempt, outcome, self._runtime.clock())
            else:
                self._call.break_off(outcome)
        return "failed"

    def _whole(self, kept: _Kept) -> str:
        if self._pair is not None:
            self._pair.add(None, kept.answer())
        return "failed" if kept.cut else "completed"

    def _over(self, end: str) -> None:
        self._call.abandon(self._runtime.clock())
        self._mirroring.count(self._mirror.cluster, end)
        self._mirroring.leave(self)


class _Kept:
    """An answer as it is read: its size, and its body where that is compared."""

    __slots__ = ("_pieces", "_size", "_wanted", "_wire", "cut")

    def __init__(self, wire: Any, wanted: bool) -> None:
        self._wire = wire
        self._wanted = wanted
        self._pieces: list[bytes] = []
        self._size = 0
        self.cut = False

    def take(self, piece: bytes) -> bool:
        """False: it is longer than anybody should wait for."""
        self._size += len(piece)
        if self._wanted and self._size <= MAX_BODY:
            self._pieces.append(piece)
        self.cut = self._size > MAX_READ
        return not self.cut

    def answer(self) -> Answer:
        wire = self._wire
        content = wire.content
        if content is None and self._wanted and self._size <= MAX_BODY:
            content = b"".join(self._pieces)
        return Answer(wire.status, wire.headers, content)


__all__ = ["MAX_READ", "Copy", "Pair"]
