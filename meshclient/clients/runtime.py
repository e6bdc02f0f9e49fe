"""What every driver of one mesh shares: where to read the plane, clock, randomness, settings."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from meshclient import errors
from meshclient.clients.any_loop import sleep_here

if TYPE_CHECKING:
    from meshclient.call import Call
    from meshclient.clients.factory import Engines
    from meshclient.clients.fallbacks import FallbackFunction
    from meshclient.clients.helper_threads import HelperThreads
    from meshclient.clients.http_common import Targets
    from meshclient.clients.mirroring import Copies, Mirroring
    from meshclient.clients.questions import Asking
    from meshclient.hedge import Hedge
    from meshclient.model.events import Event
    from meshclient.model.fallback import LastGood
    from meshclient.plane import Plane
    from meshclient.resilience import RetryStrategy
    from meshclient.resilience.last_good import LastGoodAnswers
    from meshclient.resilience.question import GrpcAnswer


#: Threads that a mesh has at most for the tries of hedged blocking calls.
MAX_HELPERS = 64

#: Services (and settings of theirs) whose last good answers are kept.
MAX_KEPT_SERVICES = 256

#: Seconds that a wait of a driver may go on after the mesh was closed.
NAP_S = 0.25


class Runtime:
    """Handed to the transports by the mesh. ``source`` has the current ``plane``.

    ``clock`` gives monotonic seconds, ``rand`` fresh unsigned 64-bit numbers;
    both are replaced in tests. ``respond``: local failures become responses. ``emit``
    delivers an event.
    """

    __slots__ = (
        "_askers",
        "_helpers",
        "_last_good",
        "_lock",
        "_mirroring",
        "asked_targets",
        "clock",
        "closed",
        "emit",
        "engines",
        "functions",
        "rand",
        "respond",
        "source",
        "strategies",
        "wall_clock",
    )

    _askers: HelperThreads | None
    _helpers: HelperThreads | None
    _mirroring: Mirroring | None

    def __init__(
        self,
        source: PlaneSource,
        clock: Callable[[], float],
        rand: Callable[[], int],
        respond: bool = False,
        strategies: dict[str, RetryStrategy] | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.source = source
        self.clock = clock
        self.rand = rand
        self.respond = respond
        self.strategies = strategies or None
        self.wall_clock = wall_clock
        self.closed = False
        self.emit: Callable[[Event], object] = id
        #: What carries the questions of filters; None: nothing does.
        self.engines: Engines | None = None
        self.asked_targets: Targets | None = None
        #: By virtual host: what answers failed calls; None: no service has such a function.
        self.functions: dict[str, FallbackFunction] | None = None
        self.forget()

    def current(self) -> Plane:
        """The plane for a new call. Raises :class:`~meshclient.errors.ClosedError`."""
        if self.closed:
            raise errors.ClosedError("the mesh is closed; make a new one")
        return self.source.plane

    @property
    def helpers(self) -> HelperThreads:
        """The threads of hedged blocking calls; made when first wanted."""
        if self._helpers is None:
            from meshclient.clients.helper_threads import HelperThreads

            with self._lock:
                self._helpers = self._helpers or HelperThreads("meshclient hedge", MAX_HELPERS)
        return self._helpers

    @property
    def askers(self) -> HelperThreads:
        """The threads that carry questions for gRPC's drivers; made when first wanted."""
        if self._askers is None:
            from meshclient.clients.helper_threads import HelperThreads
            from meshclient.clients.questions import MAX_ASKERS, MAX_WAITING

            with self._lock:
                self._askers = self._askers or HelperThreads(
                    "meshclient ask", MAX_ASKERS, MAX_WAITING
                )
        return self._askers

    @property
    def mirroring(self) -> Mirroring:
        """The copies that are under way; made when first wanted."""
        if self._mirroring is None:
            from meshclient.clients.mirroring import Mirroring

            with self._lock:
                self._mirroring = self._mirroring or Mirroring(self)
        return self._mirroring

    def copies(self, hedge: Hedge) -> Copies | None:
        """What is to be sent to mirrors of a call; None: nothing."""
        return self.mirroring.of(hedge) if hedge.copies and not self.closed else None

    def last_good(self, name: str, settings: LastGood) -> LastGoodAnswers:
        """The answers that are kept for a virtual host under these settings."""
        found = self._last_good.get((name, settings))
        if found is None:
            from meshclient.resilience.last_good import LastGoodAnswers

            with self._lock:
                found = self._last_good.setdefault((name, settings), LastGoodAnswers(settings))
                if len(self._last_good) > MAX_KEPT_SERVICES:
                    self._last_good.popitem(last=False)
        return found

    def stop(self) -> None:
        """The mesh is closed: no new calls, and no work beside those that are under way."""
        self.closed = True
        if self._mirroring is not None:
            self._mirroring.close()
        if self._helpers is not None:
            self._helpers.close()
        if self._askers is not None:
            self._askers.close()

    def forget(self) -> None:
        """Have no threads and no copies: at the beginning, and in the child of a fork."""
        self._lock = threading.Lock()
        self._helpers = None
        self._askers = None
        self._mirroring = None
        self._last_good: OrderedDict[tuple[str, LastGood], LastGoodAnswers] = OrderedDict()

    def describe(self) -> dict[str, Any]:
        """What is under way beside the calls, for dumps."""
        mirroring = self._mirroring
        return {"in_flight": 0, "clusters": {}} if mirroring is None else mirroring.describe()

    def ask(self, call: Call) -> GrpcAnswer:
        """Answer to what ``call.hold`` asks; see :func:`meshclient.clients.questions.ask`."""
        from meshclient.clients.questions import ask

        return ask(self, call)

    async def ask_async(self, call: Call) -> GrpcAnswer:
        """:meth:`ask` for any event loop."""
        from meshclient.clients.questions import ask_async

        return await ask_async(self, call)

    def ask_soon(self, call: Call) -> Asking:
        """:meth:`ask` on a thread of the mesh, for drivers that must not wait."""
        from meshclient.clients.questions import Asking

        return Asking(self, call)

    def sleep(self, seconds: float) -> None:
        """On this thread; shorter once the mesh is closed."""
        for nap_s in self._naps(seconds):
            time.sleep(nap_s)

    async def async_sleep(self, seconds: float) -> None:
        """On any loop; shorter once the mesh is closed."""
        for nap_s in self._naps(seconds):
            await sleep_here(nap_s)

    def _naps(self, seconds: float) -> Iterator[float]:
        """In pieces, since nothing that wakes a sleeper works for threads and every loop."""
        while seconds > NAP_S and not self.closed:
            yield NAP_S
            seconds -= NAP_S
        if not self.closed:
            yield seconds


class PlaneSource(Protocol):
    """What the publisher is to a driver: one attribute, swapped elsewhere."""

    plane: Plane
