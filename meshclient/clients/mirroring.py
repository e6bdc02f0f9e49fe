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

from meshclient.clients.hedged import can_repeat_at_once
from meshclient.clients.helper_threads import HelperThreads
from meshclient.clients.mirror_compare import Answer
from meshclient.clients.mirror_copy import Copy, Pair
from meshclient.model.events import MirrorCompared

if TYPE_CHECKING:
    from meshclient.call import Call
    from meshclient.clients.httpx_async import AsyncMeshTransport
    from meshclient.clients.httpx_sync import MeshTransport
    from meshclient.clients.runtime import Runtime
    from meshclient.hedge import Hedge
    from meshclient.model.request import RequestHead
    from meshclient.model.routes import Mirror

#: Copies under way at a time, those that wait for a thread included; more are dropped.
MAX_COPIES: Final = 1000
#: Threads that carry the copies of blocking calls.
MAX_THREADS: Final = 8


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
        self._pairs: list[Pair] = []

    def start_sync(self, driver: MeshTransport, call: Call, request: Any, body: Any) -> None:
        """Carry them on threads of the mesh."""
        self._start(driver, call, request, body, _on_thread)

    def start_async(self, driver: AsyncMeshTransport, call: Call, request: Any, body: Any) -> None:
        """Carry them in tasks of the running loop, which end with it at the latest."""
        begin = _in_task if asyncio._get_running_loop() is not None else _in_trio
        self._start(driver, call, request, body, begin)

    def _start(
        self,
        driver: Any,
        call: Call,
        request: Any,
        body: Any,
        begin: Callable[[Mirroring, Copy], bool],
    ) -> None:
        for mirror, head in self._wanted(call, body):
            try:
                copy = self._copy(driver, call, request, body, mirror, head)
                what = "started" if begin(self._mirroring, copy) else "dropped"
            except Exception:  # whatever it is, it is not the call's affair
                what = "failed"
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
    ) -> Copy:
        pair = None
        if mirror.compare is not None:
            pair = Pair(self._mirroring, mirror, call.cluster_name)
            self._pairs.append(pair)
        return Copy(self._mirroring, driver, call, request, body, mirror, head, pair)


def _on_thread(mirroring: Mirroring, copy: Copy) -> bool:
    if not mirroring.admit(copy, copy.abort.abort):
        return False
    if not mirroring.on_thread(copy.carry):
        mirroring.leave(copy)
        return False
    return True


def _in_task(mirroring: Mirroring, copy: Copy) -> bool:
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


def _task_done(mirroring: Mirroring, loop: Any, copy: Copy, task: asyncio.Task[None]) -> None:
    if task.cancelled() and copy.attempt is None:
        copy.called_off()  # before its first step
    mirroring.off_loop(loop, copy)


def _in_trio(mirroring: Mirroring, copy: Copy) -> bool:
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


__all__ = ["MAX_COPIES", "MAX_THREADS", "Copies", "Mirroring"]
