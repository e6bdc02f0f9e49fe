"""Copies of requests, on their way beside the calls they were made of.

Started and forgotten: a copy delays nothing, fails nothing, and is bounded in number, time
and size. What is copied, and where to, was decided by the call.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from meshclient.clients import http_common as common
from meshclient.clients.hedged import can_repeat_at_once
from meshclient.clients.helper_threads import HelperThreads
from meshclient.clients.mirror_compare import MAX_BODY, Answer, can_compare, differences
from meshclient.errors import CallError
from meshclient.mirror_call import MirrorCall
from meshclient.model.events import MirrorCompared
from meshclient.model.headers import HeaderMap
from meshclient.model.outcome import Outcome
from meshclient.transport.abort import Abort, AbortableRequest
from meshclient.transport.interface import WireError

if TYPE_CHECKING:
    from meshclient.attempt import Attempt
    from meshclient.call import Call
    from meshclient.clients.httpx_async import AsyncMeshTransport
    from meshclient.clients.httpx_sync import MeshTransport
    from meshclient.clients.runtime import Runtime
    from meshclient.hedge import Hedge
    from meshclient.model.request import RequestHead
    from meshclient.model.routes import Mirror
    from meshclient.transport.interface import WireRequest

#: Copies under way at a time, those that wait for a thread included; more are dropped.
MAX_COPIES: Final = 1000
#: Threads that carry the copies of blocking calls.
MAX_THREADS: Final = 8
#: Bytes of an answer that are read before it is cut off.
MAX_READ: Final = 16 * 1024 * 1024

_NO_TIMEOUTS: dict[str, float | None] = {}


class Mirroring:
    """The copies of one mesh. Thread-safe.

    ``stats`` counts by cluster: ``started``, and of those ``completed`` (any answer, read to
    its end), ``failed`` (no answer, or none that ended within the bounds) and ``cancelled``;
    ``dropped`` (too many under way) and ``skipped`` (a body that can be sent once only);
    ``compared``, of those ``differed``, and ``not_compared`` (a body was not at hand).
    """

    def __init__(
        self, runtime: Runtime, most: int = MAX_COPIES, threads: int = MAX_THREADS
    ) -> None:
        self._runtime = runtime
        self._most = most
        self._threads = HelperThreads("meshclient mirror", threads, backlog=most)
        self._lock = threading.Lock()
        self._stats: dict[str, Counter[str]] = {}
        self._closed = False
        #: What is under way, each with the way to call it off.
        self._under_way: dict[object, Callable[[], object]] = {}
        self._loops: dict[Any, set[object]] = {}

    def of(self, hedge: Hedge) -> Copies:
        """The copies of one call."""
        return Copies(self, hedge)

    def describe(self) -> dict[str, Any]:
        """Counters by cluster, and how many copies are under way."""
        with self._lock:
            clusters = {name: dict(counter) for name, counter in self._stats.items()}
            return {"in_flight": len(self._under_way), "clusters": clusters}

    def count(self, cluster: str, what: str) -> None:
        """One more of ``what``."""
        with self._lock:
            self._stats.setdefault(cluster, Counter())[what] += 1

    def close(self) -> None:
        """Call off what is under way, and take nothing more; idempotent, waits for nothing."""
        with self._lock:
            self._closed = True
            under_way = list(self._under_way.values())
            self._under_way.clear()
        self._threads.close()
        for call_off in under_way:
            with suppress(RuntimeError):  # its loop is closed
                call_off()

    # -- for Copies ----------------------------------------------------------------

    def admit(self, key: object, call_off: Callable[[], object]) -> bool:
        """Whether there is room for another; :meth:`leave` follows then."""
        with self._lock:
            if self._closed or len(self._under_way) >= self._most:
                return False
            self._under_way[key] = call_off
            return True

    def leave(self, key: object) -> None:
        """It is over."""
        with self._lock:
            self._under_way.pop(key, None)

    def on_thread(self, job: Callable[[], object]) -> bool:
        """Have a thread do it; False: too many wait."""
        return self._threads.submit(job)

    def on_loop(self, loop: Any, key: object) -> None:
        """``key`` lives on ``loop``. A loop that was closed under its tasks is forgotten here."""
        with self._lock:
            known = self._loops.get(loop)
            if known is None:
                for dead in [one for one in self._loops if one.is_closed()]:
                    for lost in self._loops.pop(dead):
                        self._under_way.pop(lost, None)
                known = self._loops[loop] = set()
            known.add(key)

    def off_loop(self, loop: Any, key: object) -> None:
        """It is over."""
        with self._lock:
            known = self._loops.get(loop)
            if known is not None:
                known.discard(key)
                if not known:
                    del self._loops[loop]

    def compared(self, cluster: str, mirror: str, found: tuple[str, ...]) -> None:
        """Tell of two answers that were compared."""
        self.count(mirror, "compared")
        if found:
            self.count(mirror, "differed")
        self._runtime.emit(MirrorCompared(cluster, mirror, not found, found))


class Copies:
    """The copies of one call. ``answered`` takes the real answer, for comparing."""

    __slots__ = ("_copies", "_hedge", "_mirroring", "_pairs")

    def __init__(self, mirroring: Mirroring, hedge: Hedge) -> None:
        self._mirroring = mirroring
        self._hedge = hedge
        self._copies = hedge.copies
        self._pairs: list[_Pair] = []

    def start_sync(self, driver: MeshTransport, call: Call, request: Any, body: Any) -> None:
        """Carry them on threads of the mesh."""
        for mirror, head in self._wanted(call, body):
            copy = self._copy(driver, call, request, body, mirror, head)
            if not self._mirroring.admit(copy, copy.abort.abort):
                self._mirroring.count(mirror.cluster, "dropped")
            elif self._mirroring.on_thread(copy.carry):
                self._mirroring.count(mirror.cluster, "started")
            else:
                self._mirroring.leave(copy)
                self._mirroring.count(mirror.cluster, "dropped")

    def start_async(self, driver: AsyncMeshTransport, call: Call, request: Any, body: Any) -> None:
        """Carry them in tasks of the running loop, which end with it at the latest."""
        for mirror, head in self._wanted(call, body):
            copy = self._copy(driver, call, request, body, mirror, head)
            begin = _in_task if asyncio._get_running_loop() is not None else _in_trio
            what = "started" if begin(self._mirroring, copy) else "dropped"
            self._mirroring.count(mirror.cluster, what)

    def answered(self, wire: Any) -> None:
        """The real answer is there."""
        if self._pairs:
            answer = Answer(wire.status, wire.headers, wire.content)
            for pair in self._pairs:
                pair.add(answer, None)

    def _wanted(self, call: Call, body: Any) -> tuple[tuple[Mirror, RequestHead], ...]:
        if can_repeat_at_once(body):
            return self._copies
        call.notes = (*call.notes, "not mirrored: the body is a stream")
        for mirror, _ in self._copies:
            self._mirroring.count(mirror.cluster, "skipped")
        return ()

    def _copy(
        self,
        driver: Any,
        call: Call,
        request: Any,
        body: bytes | None,
        mirror: Mirror,
        head: RequestHead,
    ) -> _Copy:
        pair = None
        if mirror.compare is not None:
            pair = _Pair(self._mirroring, mirror, call.cluster_name)
            self._pairs.append(pair)
        return _Copy(self._mirroring, driver, call, request, body, mirror, head, pair)


class _Pair:
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
        if can_compare(wanted, real, copied):
            found = differences(wanted, real, copied)
            self._mirroring.compared(self._cluster, self._mirror.cluster, found)
        else:
            self._mirroring.count(self._mirror.cluster, "not_compared")


class _Copy:
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
        pair: _Pair | None,
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


def _in_task(mirroring: Mirroring, copy: _Copy) -> bool:
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[None]] = []
    # Not a task yet: close() may come from another thread before there is one.
    if not mirroring.admit(copy, lambda: loop.call_soon_threadsafe(_cancel, tasks)):
        return False
    task = loop.create_task(copy.carry_async())
    # A loop that is closed without ending its tasks ends this one, too: no news to anybody.
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    tasks.append(task)
    mirroring.on_loop(loop, copy)
    task.add_done_callback(partial(_task_done, mirroring, loop, copy))
    return True


def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()


def _task_done(mirroring: Mirroring, loop: Any, copy: _Copy, task: asyncio.Task[None]) -> None:
    if task.cancelled() and copy.attempt is None:
        copy.called_off()  # before its first step
    mirroring.off_loop(loop, copy)


def _in_trio(mirroring: Mirroring, copy: _Copy) -> bool:
    trio: Any = sys.modules["trio"]
    scope = trio.CancelScope()
    token = trio.lowlevel.current_trio_token()

    def call_off() -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(scope.cancel)

    async def carry() -> None:
        with scope:
            await copy.carry_async()

    if not mirroring.admit(copy, call_off):
        return False
    trio.lowlevel.spawn_system_task(carry)
    return True


__all__ = ["MAX_COPIES", "MAX_READ", "MAX_THREADS", "Copies", "Mirroring"]
