"""Active health checks of all clusters of the plane in force: who is asked, and when.

Runs on the control thread's loop. What a result means is
:mod:`meshclient.resilience.health_check`'s, who is told
:mod:`meshclient.resilience.health_watch`'s, how an endpoint is asked
:mod:`meshclient.transport.health_probe`'s; this is the schedule between them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import TYPE_CHECKING

from meshclient.model.check_result import CheckResult
from meshclient.resilience.health_check import CheckState, first_wait_s
from meshclient.resilience.health_membership import is_checked
from meshclient.resilience.health_watch import Session, Watched

if TYPE_CHECKING:
    from meshclient.balancing import EndpointState
    from meshclient.cluster_state import ClusterState
    from meshclient.model.cluster import Cluster
    from meshclient.model.endpoint import Endpoint
    from meshclient.model.events import Event
    from meshclient.model.health import HealthCheck
    from meshclient.plane import Plane
    from meshclient.transport.health_probe import Probe

    MakeProbe = Callable[[Cluster, Endpoint, HealthCheck, str], Probe]

#: Checks under way at a time; more of them wait for their turn.
MAX_CONCURRENT = 100

#: Results within this time make one change of a cluster; also the least pause between two.
COALESCE_S = 0.005
#: Weighing clusters anew takes at most about this share of the control thread's time ...
_BUSY_SHARE = 0.25
#: ... but is never put off longer than this.
_MAX_COALESCE_S = 1.0

#: How long the tasks may take to end.
CLOSE_S = 1.0

#: Endpoints whose failing was seen in calls, and that wait for the control thread.
MAX_REPORTS = 4096

_log = logging.getLogger("meshclient.health")


class HealthChecks:
    """Checks the endpoints of ``plane()`` while :meth:`run` runs.

    ``clock`` gives monotonic seconds, ``rand`` fresh unsigned 64-bit numbers; ``emit`` takes
    what shall be told. ``on_failed`` is called when an endpoint becomes unhealthy: its idle
    connections are not worth keeping. ``on_warm`` is called when every endpoint had its
    first result. ``make_probe`` is for tests. All but :meth:`on_passive_failure` and
    :meth:`stats` belongs to the control loop.
    """

    __slots__ = (
        "_clock",
        "_emit",
        "_flush",
        "_for_ever",
        "_loop",
        "_make_probe",
        "_new",
        "_on_failed",
        "_on_warm",
        "_pause_s",
        "_plane",
        "_rand",
        "_reports",
        "_sessions",
        "_slots",
        "_stopping",
        "_watched",
    )

    def __init__(
        self,
        plane: Callable[[], Plane],
        clock: Callable[[], float],
        rand: Callable[[], int],
        emit: Callable[[Event], object],
        *,
        on_failed: Callable[[ClusterState, EndpointState], object] | None = None,
        on_warm: Callable[[], object] | None = None,
        make_probe: MakeProbe | None = None,
    ) -> None:
        self._plane = plane
        self._clock = clock
        self._rand = rand
        self._emit = emit
        self._on_failed = on_failed
        self._on_warm = on_warm
        self._make_probe = make_probe
        self._begin()

    def _begin(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._for_ever: asyncio.Future[None] | None = None
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)
        self._sessions: dict[Hashable, Session] = {}
        self._new: set[Session] = set()  # those without a first result
        self._watched: dict[str, Watched] = {}
        self._stopping: set[asyncio.Task[None]] = set()
        self._reports: dict[int, EndpointState] = {}
        self._flush: asyncio.TimerHandle | None = None
        self._pause_s = COALESCE_S

    # -- life ------------------------------------------------------------------

    @property
    def needed(self) -> bool:
        """Whether any cluster of the plane in force has checks."""
        return any(_has_checks(state) for state in self._plane().clusters.values())

    @property
    def warming(self) -> bool:
        """Whether an endpoint waits for its first result. It comes within the first wait and
        the time-out of its check, once that has its turn (:data:`MAX_CONCURRENT`)."""
        return bool(self._new) or (self._loop is None and self.needed)

    async def run(self) -> None:
        """Until cancelled."""
        self._loop = asyncio.get_running_loop()
        try:
            self.changed()
            # Kept: the loop itself refers to a waiting task only weakly.
            self._for_ever = self._loop.create_future()
            await self._for_ever
        finally:
            await self.close()

    def changed(self) -> None:
        """Another plane is in force."""
        if self._loop is not None:
            self.follow(self._plane())

    async def close(self) -> None:
        """End every check and its connection, within :data:`CLOSE_S`; idempotent."""
        self._loop = None
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        for session in list(self._sessions.values()):
            self._stop(session)
        self._watched.clear()
        if self._stopping:
            await asyncio.wait(set(self._stopping), timeout=CLOSE_S)

    def after_fork_in_child(self) -> None:
        """The parent's loop, tasks and connections are not ours; :meth:`run` starts anew."""
        for session in self._sessions.values():
            session.probe.after_fork_in_child()
        _inherited.append((self._sessions, self._stopping, self._flush, self._loop, self._for_ever))
        self._begin()

    # -- who is checked --------------------------------------------------------

    def follow(self, plane: Plane) -> None:
        """Check the endpoints of ``plane``. Those that were checked before go on as they are,
        and what is known of them holds in the new plane at once."""
        for name in self._watched.keys() - plane.clusters.keys():
            self._watched.pop(name).leave()
        for name, state in plane.clusters.items():
            before = self._watched.get(name)
            if before is not None and before.cluster_state is state:
                continue
            if before is not None or _has_checks(state):
                self._watch(name, state, before)
        self._stop_unwatched()
        self._publish()
        self._tell_warm()

    def _watch(self, name: str, cluster_state: ClusterState, before: Watched | None) -> None:
        watched = Watched(cluster_state, before)
        try:
            self._add_all(watched, cluster_state)
        except Exception:
            # Values that no document could say; the other clusters have their checks.
            _log.exception("cluster %s is not checked as it should be", name)
        if before is not None:  # only now: what both have goes on
            before.leave()
        if _has_checks(cluster_state):
            self._watched[name] = watched
        else:
            self._watched.pop(name, None)

    def _add_all(self, watched: Watched, cluster_state: ClusterState) -> None:
        policy = cluster_state.cluster.policy
        for state in cluster_state.states:
            if is_checked(policy, state.endpoint):
                checks = policy.health_checks
                sessions = [self._session(cluster_state, state.endpoint, c) for c in checks]
                watched.add(state, tuple(sessions))

    def _session(
        self, cluster_state: ClusterState, endpoint: Endpoint, check: HealthCheck
    ) -> Session:
        # Not before a cluster asks for checks: it brings the engine along.
        from meshclient.transport import health_probe

        cluster, refusal = cluster_state.cluster, cluster_state.refusal
        key = (health_probe.probe_key(cluster, endpoint, check), refusal)
        session = self._sessions.get(key)
        if session is None:
            make = self._make_probe or health_probe.make_probe
            session = Session(key, CheckState(check), make(cluster, endpoint, check, refusal))
            self._sessions[key] = session
            self._new.add(session)
            assert self._loop is not None
            session.task = self._loop.create_task(self._ask_for_ever(session))
        return session

    def _stop_unwatched(self) -> None:
        for session in [s for s in self._sessions.values() if not s.members]:
            self._stop(session)

    def _stop(self, session: Session) -> None:
        del self._sessions[session.key]
        self._new.discard(session)
        task = session.task
        if not task.done():
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)
            task.cancel()

    # -- one check, again and again ---------------------------------------------

    async def _ask_for_ever(self, session: Session) -> None:
        probe = session.probe
        try:
            await asyncio.sleep(first_wait_s(session.check.settings, self._rand))
            while True:
                async with self._slots:
                    session.attempted()
                    result = await probe.run()
                self._settle(session, result)
                # From the end of this one on: a slow endpoint is not asked the more often.
                await self._pause(session)
        finally:
            await probe.aclose()

    async def _pause(self, session: Session) -> None:
        """Until the next check. An idle connection that ends may be a result of its own."""
        probe = session.probe
        while True:
            wait_s = session.check.wait_s(self._rand, session.has_traffic())
            if probe.lost is None:
                await asyncio.sleep(wait_s)
                return
            done, _ = await asyncio.wait((probe.lost,), timeout=wait_s)
            if not done:
                return
            await probe.aclose()
            self._settle(session, CheckResult("network", "the idle connection was closed"))

    def _settle(self, session: Session, result: CheckResult) -> None:
        session.settle(result, self._clock())
        changed = any(member.watched.changes for member in session.members)
        if changed and self._flush is None and self._loop is not None:
            self._flush = self._loop.call_later(self._pause_s, self._publish)
        if session in self._new:
            self._new.remove(session)
            if not self._new:
                self._publish()  # who waits for the results must not call before they count
            self._tell_warm()

    def _tell_warm(self) -> None:
        if self._on_warm is not None and not self._new:
            self._on_warm()

    # -- what follows from results -----------------------------------------------

    def _publish(self) -> None:
        """Weigh every cluster anew whose endpoints changed, once; then say what changed."""
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        begin = self._clock()
        for watched in list(self._watched.values()):
            if watched.changes:
                self._publish_one(watched, begin)
        took = self._clock() - begin
        self._pause_s = min(_MAX_COALESCE_S, max(COALESCE_S, took / _BUSY_SHARE))

    def _publish_one(self, watched: Watched, now: float) -> None:
        members = len(watched.members)
        try:
            events, failed = watched.publish(now)
        except Exception:
            # One cluster's trouble must not end the checks of all others.
            _log.exception("health of cluster %s", watched.cluster_state.cluster.name)
            return
        if len(watched.members) < members:
            self._stop_unwatched()
        for state in failed if self._on_failed is not None else ():
            assert self._on_failed is not None
            self._on_failed(watched.cluster_state, state)
        for event in events:
            why = event.why or "its checks pass"
            _log.info("%s of %s: %s (%s)", event.endpoint, event.cluster, event.flags, why)
            self._emit(event)

    # -- from calls ----------------------------------------------------------------

    def on_passive_failure(self, cluster_state: ClusterState, state: EndpointState) -> None:
        """A response of ordinary traffic asked for failing the endpoint
        (``x-envoy-immediate-health-check-fail``). Any thread; never waits. Without checks of
        the endpoint nothing happens: nobody would ever take it back."""
        loop, reports = self._loop, self._reports
        if loop is None or not is_checked(cluster_state.cluster.policy, state.endpoint):
            return
        if id(state) in reports or len(reports) >= MAX_REPORTS:
            return
        reports[id(state)] = state
        with suppress(RuntimeError):  # the loop is closed: the mesh is, too
            loop.call_soon_threadsafe(self._fail_passively, cluster_state.cluster.name, state)

    def _fail_passively(self, name: str, state: EndpointState) -> None:
        self._reports.pop(id(state), None)
        watched = self._watched.get(name)
        member = watched.members.get(id(state)) if watched is not None else None
        if member is not None:
            result = CheckResult("passive", "a response said so", immediate_failure=True)
            for session in member.sessions:
                self._settle(session, result)

    # -- look inside -----------------------------------------------------------------

    def stats(self) -> dict[str, dict[str, int]]:
        """By cluster: Envoy's ``health_check.*`` counters, and the gauges ``healthy`` and
        ``degraded``. Thread-safe; a moment's view."""
        return {name: watched.stats() for name, watched in list(self._watched.items())}


#: What belonged to the event loop of a parent process: never collected here.
_inherited: list[object] = []


def _has_checks(state: ClusterState) -> bool:
    """A cluster whose endpoints are what callers dial has none to check."""
    return bool(state.cluster.policy.health_checks) and not state.is_dialled


__all__ = ["COALESCE_S", "MAX_CONCURRENT", "HealthChecks"]
