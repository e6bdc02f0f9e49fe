"""Copies of unary RPCs, on their way beside the calls they were made of.

Started and forgotten, as :mod:`meshclient.clients.mirroring` has it for HTTP, whose bounds
and counters they share; their answers are not compared. What is copied, and where to, was
decided by the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc

from meshclient.clients import grpc_ending as ending
from meshclient.clients.grpc_rpc_start import metadata_of
from meshclient.mirror_call import MirrorCall
from meshclient.model.headers import HeaderMap
from meshclient.model.outcome import Outcome, ResetReason

if TYPE_CHECKING:
    from meshclient.attempt import Attempt
    from meshclient.clients.grpc_rpc import Rpc
    from meshclient.clients.grpc_subchannels import Profile, Sub, SubPool
    from meshclient.clients.mirroring import Mirroring
    from meshclient.clients.runtime import Runtime
    from meshclient.model.request import RequestHead
    from meshclient.model.routes import Mirror

#: Begins an RPC on a sub-channel, with the ``metadata`` and ``limit_s`` of its second argument.
Start = Callable[[Any, Any], Any]

#: The loop keeps only weak references to tasks.
_waiting: set[asyncio.Task[None]] = set()


def send_copies(
    rpc: Rpc,
    start: Start,
    pool: SubPool,
    profile: Profile,
    loop: asyncio.AbstractEventLoop | None = None,
) -> None:
    """Send those that were drawn for the call, once; on asyncio, in tasks of ``loop``."""
    hedge, runtime = rpc.call.hedge, rpc._runtime
    if hedge is None or not hedge.copies or runtime.closed:
        return
    copies, hedge.copies = hedge.copies, ()
    mirroring = runtime.mirroring
    if not rpc.whole or rpc.streams:
        rpc.call.notes = (*rpc.call.notes, "not mirrored: only unary gRPC calls are")
        for mirror, _ in copies:
            mirroring.count(mirror.cluster, "skipped")
        return
    for mirror, head in copies:
        _Copy(rpc, mirror, head, mirroring, pool, loop).send(start, profile)


class _Copy:
    """One copy; ``metadata`` and ``limit_s`` are what its RPC is given."""

    __slots__ = (
        "_attempt",
        "_call",
        "_cluster",
        "_inner",
        "_loop",
        "_mirroring",
        "_pool",
        "_runtime",
        "limit_s",
        "metadata",
    )

    def __init__(
        self,
        rpc: Rpc,
        mirror: Mirror,
        head: RequestHead,
        mirroring: Mirroring,
        pool: SubPool,
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        self._runtime: Runtime = rpc._runtime
        self._mirroring = mirroring
        self._pool = pool
        self._loop = loop
        self._cluster = mirror.cluster
        self._call = MirrorCall(
            rpc.call.plane,
            mirror.cluster,
            head,
            self._runtime.clock(),
            self._runtime.rand,
            rpc.call.timeout_s,
        )
        self._inner: Any = None
        self._attempt: Attempt | None = None
        self.metadata: Any = ()
        self.limit_s: float | None = None

    def send(self, start: Start, profile: Profile) -> None:
        """Begin it, or count why not; nothing is raised."""
        mirroring = self._mirroring
        if not mirroring.admit(self, self.call_off):
            mirroring.count(self._cluster, "dropped")
            return
        mirroring.count(self._cluster, "started")
        sub = None
        try:
            now = self._runtime.clock()
            self._attempt = attempt = self._call.next_attempt(now)
            assert attempt.deadline is not None
            self.metadata = metadata_of(attempt.headers)
            self.limit_s = max(0.0, attempt.deadline - now)
            sub = self._pool.take(self._call, attempt, profile)
            self._inner = start(sub, self)
        except Exception:  # whatever it is, it is not the call's affair
            if sub is not None:
                self._pool.give_back(sub)
            self._over("failed")
            return
        self._follow(sub)

    def _follow(self, sub: Sub) -> None:
        if self._loop is None:
            self._inner.add_done_callback(lambda inner: self._done(sub, inner))
            return
        task = self._loop.create_task(self._wait(sub))
        # A loop that is closed without ending its tasks ends this one, too: no news to anybody.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._mirroring.on_loop(self._loop, self)
        _waiting.add(task)
        task.add_done_callback(_waiting.discard)

    def call_off(self) -> None:
        """From any thread."""
        inner, loop = self._inner, self._loop
        if inner is None:
            return
        if loop is None:
            inner.cancel()
        else:
            loop.call_soon_threadsafe(inner.cancel)

    def _done(self, sub: Sub, inner: Any) -> None:
        """On the channel's own thread."""
        self._pool.give_back(sub)
        if inner.cancelled():
            self._over("cancelled")
            return
        self._judge(
            inner.code(), inner.details(), inner.initial_metadata(), inner.trailing_metadata()
        )

    async def _wait(self, sub: Sub) -> None:
        inner, end = self._inner, "cancelled"
        try:
            await inner
        except grpc.RpcError:
            end = ""
        except asyncio.CancelledError:
            pass  # called off, or the loop is ending
        except Exception:
            end = "failed"  # the caller's own code: its call says so, too
        else:
            end = ""
        finally:
            self._pool.give_back(sub)
            assert self._loop is not None
            self._mirroring.off_loop(self._loop, self)
            if end:
                self._over(end)
        if not end:
            self._judge(
                await inner.code(),
                await inner.details(),
                await inner.initial_metadata(),
                await inner.trailing_metadata(),
            )

    def _judge(self, code: Any, details: str | None, initial: Any, trailing: Any) -> None:
        """What the mirror's cluster learns of it."""
        number, details, bare = code.value[0], details or "", not trailing and not initial
        assert self._attempt is not None
        if number == ending.OK:
            raw = ending.raw_headers((*(initial or ()), *(trailing or ())))
            outcome = Outcome(200, HeaderMap(raw))
        elif ending.is_local_deadline(number, details, bare):
            error = TimeoutError(details)
            outcome = ending.outcome_of_reset(ResetReason.ROUTE_TIMEOUT, error)
        elif (reset := ending.reset_of(number, details, bare)) is not None:
            outcome = ending.outcome_of_reset(reset, ConnectionError(details))
        else:
            outcome = ending.outcome_of_status(number, details, trailing, initial)
        self._call.settle(self._attempt, outcome, self._runtime.clock())
        self._over("failed" if outcome.reset is not None else "completed")

    def _over(self, end: str) -> None:
        self._call.abandon(self._runtime.clock())
        self._mirroring.count(self._cluster, end)
        self._mirroring.leave(self)


__all__ = ["send_copies"]
