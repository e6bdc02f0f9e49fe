"""Breakers whose state several processes share: their exchanges with the storage.

Runs on the control thread's loop, the blocking part on a helper thread, never in a call.
What is exchanged is :mod:`meshclient.resilience.breaker_storage`'s, how Redis is reached
:mod:`meshclient.transport.redis_storage`'s; this is when, and what happens when it fails.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from meshclient.model.breaker import SharedStorage
from meshclient.model.events import BreakerStorageFailed, BreakerStorageRecovered

if TYPE_CHECKING:
    from meshclient.model.events import Event
    from meshclient.plane import Plane
    from meshclient.resilience.breaker import Breaker
    from meshclient.resilience.breaker_storage import SharedState

#: How often the storage of a caller's own pybreaker object is asked.
OWN_POLL_S = 0.25
#: Never sooner than this, however many changes there are to tell.
MIN_PAUSE_S = 0.01
#: After the first failure, this many times the usual pause, at most ...
MAX_BACK_OFF = 16
#: ... and never longer than this.
MAX_PAUSE_S = 5.0

_log = logging.getLogger("meshclient.breaker")

OpenStorage = Callable[..., Any]


class _Server:
    """One storage server: whether it answers, and when to ask it again."""

    __slots__ = ("due_at", "failed_at", "failures", "namespace", "poll_s")

    def __init__(self, namespace: str, poll_s: float) -> None:
        self.namespace = namespace
        self.poll_s = poll_s
        self.due_at = 0.0
        self.failures = 0
        self.failed_at = 0.0


class SharedBreakers:
    """Keeps the shared breakers of ``plane()`` in step with their storage.

    ``clock`` gives monotonic seconds, ``unix_clock`` the time of day; ``emit`` takes the
    events. While a server does not answer, its breakers go on by themselves; that is
    said once, and once more when it answers again. :meth:`urge` is thread-safe and never waits.
    """

    def __init__(
        self,
        plane: Callable[[], Plane],
        clock: Callable[[], float],
        unix_clock: Callable[[], float],
        emit: Callable[[Event], object],
        open_storage: OpenStorage | None = None,
    ) -> None:
        self._plane = plane
        self._clock = clock
        self._unix_clock = unix_clock
        self._emit = emit
        self._open_storage = open_storage
        self._begin()

    def _begin(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._urgent = False
        self._states: dict[Breaker, SharedState] = {}
        self._servers: dict[SharedStorage | None, _Server] = {}

    @property
    def needed(self) -> bool:
        """Whether any breaker of the plane in force is shared."""
        return any(True for _ in self._shared())

    @property
    def warming(self) -> bool:
        """Nothing here has to be waited for."""
        return False

    def _shared(self) -> Iterable[Breaker]:
        for breaker in self._plane().breakers.all():
            if breaker.settings.shared is not None or breaker.circuit.storage is not None:
                yield breaker

    def urge(self) -> None:
        """A breaker has something to tell. Called in calls; costs a wake-up of the loop."""
        if self._urgent:
            return
        self._urgent = True
        loop, wake = self._loop, self._wake
        if loop is not None and wake is not None:
            with suppress(RuntimeError):  # the loop is closed: the mesh is, too
                loop.call_soon_threadsafe(wake.set)

    def changed(self) -> None:
        """Another plane is in force: there may be other breakers."""
        self._urgent = True
        if self._wake is not None:
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        while True:
            self._wake.clear()
            pause_s = await asyncio.to_thread(self.work)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            # What comes in a burst is told together.
            await asyncio.sleep(MIN_PAUSE_S)

    # -- on the helper thread ----------------------------------------------------------

    def work(self) -> float:
        """Exchange with every server that is due, or urgent; seconds until the next time.

        Blocks for as long as the storages' own time limits allow, per server once.
        """
        now = self._clock()
        urgent, self._urgent = self._urgent, False
        by_server: dict[SharedStorage | None, list[Breaker]] = {}
        for breaker in self._shared():
            breaker.urge = self.urge
            by_server.setdefault(breaker.settings.shared, []).append(breaker)
        self._forget(by_server)
        next_due = now + MAX_PAUSE_S
        for shared, breakers in by_server.items():
            server = self._server(shared)
            if now >= server.due_at or (urgent and not server.failures):
                self._exchange(server, breakers)
            next_due = min(next_due, server.due_at)
        return max(MIN_PAUSE_S, next_due - self._clock())

    def _server(self, shared: SharedStorage | None) -> _Server:
        server = self._servers.get(shared)
        if server is None:
            name = "(pybreaker objects)" if shared is None else shared.namespace
            poll_s = OWN_POLL_S if shared is None else shared.poll_s
            server = self._servers[shared] = _Server(name, poll_s)
        return server

    def _forget(self, by_server: dict[SharedStorage | None, list[Breaker]]) -> None:
        in_use = {breaker for breakers in by_server.values() for breaker in breakers}
        self._states = {b: state for b, state in self._states.items() if b in in_use}
        self._servers = {key: one for key, one in self._servers.items() if key in by_server}

    def _exchange(self, server: _Server, breakers: list[Breaker]) -> None:
        try:
            for breaker in breakers:
                self._state(breaker).sync(self._clock(), self._unix_clock())
        except Exception as error:
            self._failed(server, error)
            return
        now = self._clock()
        server.due_at = now + server.poll_s
        if server.failures:
            server.failures = 0
            after_s = now - server.failed_at
            _log.warning("the breakers of %s are shared again", server.namespace)
            self._emit(BreakerStorageRecovered(server.namespace, after_s))

    def _failed(self, server: _Server, error: Exception) -> None:
        now = self._clock()
        if not server.failures:
            server.failed_at = now
            # The class only: a message may hold the URL, and that a password.
            kind = type(error).__name__
            if isinstance(error, ModuleNotFoundError):
                kind = f"{kind}: the package {error.name} is not installed"
            _log.warning(
                "the storage of the breakers of %s does not answer (%s); each process "
                "goes on by itself",
                server.namespace,
                kind,
            )
            self._emit(BreakerStorageFailed(server.namespace, kind))
        server.failures += 1
        factor = min(2 ** min(server.failures, 10), MAX_BACK_OFF)
        server.due_at = now + min(MAX_PAUSE_S, server.poll_s * factor)

    def _state(self, breaker: Breaker) -> SharedState:
        state = self._states.get(breaker)
        if state is None:
            from meshclient.resilience.breaker_storage import SharedState

            state = self._states[breaker] = SharedState(breaker, self._storage_of(breaker))
        return state

    def _storage_of(self, breaker: Breaker) -> Any:
        from meshclient.transport import redis_storage

        shared = breaker.settings.shared
        if shared is None:
            return redis_storage.raising(breaker.circuit.storage)
        open_storage = self._open_storage or redis_storage.open_storage
        return open_storage(shared.url, shared.namespace, str(breaker.scope), shared.timeout_s)

    def after_fork_in_child(self) -> None:
        """The parent's loop is not ours."""
        self._begin()


__all__ = ["SharedBreakers"]
